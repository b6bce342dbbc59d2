//! The real appliance as a child process, with its configuration, store and log in a temporary folder.

use super::endpoint::{INTERRUPTED, PATIENCE, TICK};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Instant;

/// A running appliance; dropping it kills the process.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// Where it takes SIP.
    pub sip: SocketAddr,
    /// Where it takes HTTP.
    pub http: SocketAddr,
    /// The line it printed when it was ready.
    pub ready: String,
}

impl Running {
    /// Starts this very program as the appliance and waits until it is ready.
    pub fn start(config: &Path, log: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|cause| format!("own program not found: {cause}"))?;
        Self::start_program(Command::new(program).arg("serve").arg("--config").arg(config), log)
    }

    fn start_program(command: &mut Command, log: &Path) -> Result<Self, String> {
        let words = |cause: std::io::Error| format!("the appliance cannot be started: {cause}");
        let stderr = File::options().create(true).append(true).open(log).map_err(words)?;
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().map_err(words)?;
        let lines = child.stdout.take().map(read_lines_aside);
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on dropping `running` ends the process, whatever goes wrong.
        let mut running = Self { child, log: log.to_owned(), sip: unset, http: unset, ready: String::new() };
        let line = lines.ok_or("the appliance has no stdout".to_owned()).and_then(|lines| first_line(&lines));
        let line = line.map_err(|problem| running.with_log(&problem))?;
        (running.sip, running.http) =
            read_ready_line(&line).ok_or_else(|| running.with_log(&format!("no ready line: {line:?}")))?;
        running.ready = line;
        Ok(running)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error when the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.with_log(&format!("the appliance has ended ({status})"))),
            Err(cause) => Err(format!("the appliance cannot be asked: {cause}")),
        }
    }

    /// Ends the process as `kill -9` does: it gets no chance to write anything.
    pub fn kill_hard(mut self) -> Result<(), String> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(|cause| format!("kill: {cause}"))
    }

    /// A problem with the last lines of the appliance's log.
    fn with_log(&self, problem: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        match &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            [] => problem.to_owned(),
            last => format!("{problem}; its log ends with:\n{}", last.join("\n")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a child's stdout on a thread of its own, which ends with the child.
fn read_lines_aside(stdout: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(16);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens after the ready line, but the pipe must stay open and empty.
            let _ = sender.try_send(line);
        }
    });
    lines
}

fn first_line(lines: &Receiver<String>) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => return Ok(line),
            Err(RecvTimeoutError::Disconnected) => return Err("the appliance did not start".to_owned()),
            Err(RecvTimeoutError::Timeout) if INTERRUPTED.load(Ordering::Relaxed) => {
                return Err("interrupted".to_owned());
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                return Err(format!("the appliance was not ready within {} s", PATIENCE.as_secs()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The first SIP address and the HTTP address of a ready line.
fn read_ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let rest = line.strip_prefix("ringpost ready ")?;
    let field = |name: &str| rest.split(' ').find_map(|word| word.strip_prefix(name));
    Some((field("sip=")?.split(',').next()?.parse().ok()?, field("http=")?.parse().ok()?))
}

const LOG_LINES_SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Result<Running, String>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start_program(Command::new("sh").arg("-c").arg(script), &folder.path().join("log"));
        (running, folder)
    }

    #[test]
    fn the_ready_line_tells_the_addresses() {
        let (running, _folder) =
            shell("echo 'ringpost ready sip=127.0.0.1:5060,[::1]:5060 http=127.0.0.1:9080 shards=2'; exec sleep 60");
        let mut running = running.unwrap();
        assert_eq!((running.sip.port(), running.http.port()), (5060, 9080));
        running.check_alive().unwrap();
        running.kill_hard().unwrap();
    }

    #[test]
    fn an_appliance_that_does_not_start_shows_its_log() {
        let (running, _folder) = shell("echo 'ringpost: sip.listen 192.0.2.1:5060: no such address' >&2; exit 1");
        let problem = running.err().unwrap();
        assert!(
            problem.starts_with("the appliance did not start; its log ends with:\nringpost: sip.listen"),
            "{problem}"
        );
    }

    #[test]
    fn an_appliance_that_ends_by_itself_is_noticed() {
        let (running, _folder) = shell("echo 'ringpost ready sip=127.0.0.1:1 http=127.0.0.1:2 shards=1'");
        let mut running = running.unwrap();
        running.child.wait().unwrap();
        assert!(running.check_alive().unwrap_err().starts_with("the appliance has ended"));
    }
}
