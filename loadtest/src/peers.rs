//! The peers that are measured beside the appliance: started for one row with a configuration kept in `peers/`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// TCP mode, parses nothing.
    Haproxy,
    /// The msrp module: a relay by To-Path.
    Kamailio,
}

impl Program {
    /// Its name, as a package and as a command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Kamailio => "kamailio",
        }
    }

    /// Where it is installed.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        self.find_in(std::env::split_paths(&path).chain(system))
    }

    fn find_in(self, dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
        dirs.map(|dir| dir.join(self.name())).find(|file| file.is_file())
    }

    /// Its version line, for the record.
    pub fn version(self) -> String {
        let Some(binary) = self.find() else { return format!("{} is not installed", self.name()) };
        let output = Command::new(binary).arg("-v").stdin(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or(self.name()).trim().to_owned()
    }
}

/// A running peer; stopped, with its children, when dropped.
pub struct Peer {
    child: Child,
    dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Peer {
    /// Starts it on this thread's CPUs and waits until it listens. `target` is where HAProxy forwards to.
    pub fn start(program: Program, target: SocketAddr) -> Result<Self, String> {
        let binary =
            program.find().ok_or_else(|| format!("{0} is not installed (apt-get install {0})", program.name()))?;
        let dir = std::env::temp_dir().join(format!("ringpost-loadtest-{}-{}", program.name(), std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut last = String::new();
        for _ in 0..STARTS_MAX {
            let listen = free_port()?;
            let config = write_config(program, &dir, listen, target)?;
            let mut command = Command::new(&binary);
            match program {
                Program::Haproxy => command.arg("-db").arg("-f").arg(&config),
                Program::Kamailio => command
                    .args(["-DD", "-E", "-m", "1024", "-M", "64", "-x", "fm", "-X", "fm", "-Y"])
                    .arg(&dir)
                    .arg("-f")
                    .arg(&config),
            };
            let log = std::fs::File::create(dir.join("log")).map_err(|error| error.to_string())?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
            die_with_parent(&mut command);
            let child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
            let mut peer = Self { child, dir: dir.clone(), listen };
            if peer.wait_listening() {
                return Ok(peer);
            }
            last = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        }
        Err(format!("{} does not listen: {}", program.name(), last.lines().last().unwrap_or("it says nothing")))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_listening(&mut self) -> bool {
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            if TcpStream::connect(self.listen).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let children = crate::appliance::descendants(self.child.id());
        signal(self.child.id(), libc::SIGTERM);
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // A main process that does not listen cannot end its children either.
            for child in children {
                signal(child, libc::SIGKILL);
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn write_config(program: Program, dir: &Path, listen: SocketAddr, target: SocketAddr) -> Result<PathBuf, String> {
    let file = dir.join("peer.cfg");
    let text = config(program, listen, target);
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}

fn config(program: Program, listen: SocketAddr, target: SocketAddr) -> String {
    let text = match program {
        Program::Haproxy => include_str!("../peers/haproxy-tcp.cfg"),
        Program::Kamailio => include_str!("../peers/kamailio-msrp.cfg"),
    };
    text.replace("@LISTEN@", &listen.to_string()).replace("@TARGET@", &target.to_string())
}

/// A port that was free a moment ago; whoever loses the race for it starts again.
fn free_port() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("a free port: {error}"))?;
    listener.local_addr().map_err(|error| error.to_string())
}

/// The kernel ends the child when this process is killed.
fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

fn signal(pid: u32, signal: libc::c_int) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: the call takes two numbers; the process is a child of ours that was not waited for, or its child.
        unsafe { libc::kill(pid, signal) };
    }
}

const STARTS_MAX: u32 = 3;
const START_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_not_found() {
        let empty = std::env::temp_dir().join("ringpost-loadtest-no-such-folder");
        assert_eq!(Program::Haproxy.find_in([empty].into_iter()), None);
    }

    #[test]
    fn configurations_have_no_place_left_open() {
        let (listen, target) = (SocketAddr::from(([127, 0, 0, 1], 4711)), SocketAddr::from(([127, 0, 0, 1], 4712)));
        for program in [Program::Haproxy, Program::Kamailio] {
            let text = config(program, listen, target);
            assert!(!text.lines().any(|line| line.contains('@') && !line.starts_with('#')), "{text}");
            assert!(text.contains("127.0.0.1:4711"));
        }
        assert!(config(Program::Haproxy, listen, target).contains("server rx 127.0.0.1:4712"));
    }
}
