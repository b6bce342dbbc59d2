//! The appliance as a process: started from its binary, killed when the test ends.

use super::http;
use super::{DEADLINE, eventually};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_ringpost");

/// A configuration file in the making: TOML values by section and key.
#[derive(Clone, Debug)]
pub struct Config {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    wrapper: Vec<String>,
    dir: Arc<tempfile::TempDir>,
}

impl Config {
    /// Everything on loopback, on ports that the kernel chooses, with a store of its own.
    pub fn new(core: &str, shards: u16) -> Self {
        let dir = Arc::new(tempfile::Builder::new().prefix("ringpost-e2e-").tempdir().expect("a temporary folder"));
        let data_dir = dir.path().join("data");
        Self { sections: BTreeMap::new(), wrapper: Vec::new(), dir }
            .set("sip.listen", r#"["127.0.0.1:0"]"#)
            .set("sip.shard_port", "0")
            .set("sip.core", &format!("{core:?}"))
            // The messages of most tests are over the 1,300 bytes of an unknown path, and loopback carries them.
            .set("sip.path_mtu", "65535")
            .set("shards.count", &shards.to_string())
            // Many appliances run at once in the test suite.
            .set("shards.pin", "false")
            .set("store.data_dir", &format!("{data_dir:?}"))
            .set("http.listen", r#""127.0.0.1:0""#)
            .set("msrp.listen", r#""127.0.0.1:0""#)
            .set("log.level", r#""debug""#)
    }

    /// Sets `section.key` to a TOML value.
    pub fn set(mut self, path: &str, value: &str) -> Self {
        let (section, key) = path.rsplit_once('.').expect("a path is section.key");
        self.sections.entry(section.into()).or_default().insert(key.into(), value.into());
        self
    }

    /// Sets a key that may hold dots itself.
    pub fn set_in(mut self, section: &str, key: &str, value: &str) -> Self {
        self.sections.entry(section.into()).or_default().insert(format!("{key:?}"), value.into());
        self
    }

    /// Leaves `section.key` to its default.
    pub fn unset(mut self, path: &str) -> Self {
        let (section, key) = path.rsplit_once('.').expect("a path is section.key");
        if let Some(section) = self.sections.get_mut(section) {
            section.remove(key);
        }
        self
    }

    /// Has the binary started by another program, which must become it (`exec`) with the arguments behind its own.
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The folder that holds the file and the store.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the file.
    pub fn write(&self) -> PathBuf {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        let path = self.dir.path().join("ringpost.toml");
        std::fs::write(&path, text).expect("the temporary folder takes the file");
        path
    }
}

/// A running appliance.
pub struct Appliance {
    config: Config,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Where SIP is served, in the order of `sip.listen`.
    pub sip: Vec<SocketAddr>,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// The shards it says it has.
    pub shards: u16,
}

impl Appliance {
    /// Starts the binary and waits for its ready line.
    pub fn start(config: Config) -> Self {
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (child, line) = launch(&config, &stderr);
        let (sip, http, shards) = parse_ready(&line);
        Self { config, child, stderr, sip, http, shards }
    }

    /// The first SIP address.
    pub fn addr(&self) -> SocketAddr {
        self.sip[0]
    }

    /// The appliance's Route URI for the terminating case.
    pub fn term_uri(&self) -> String {
        format!("sip:term@{};lr", self.addr())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Ends it as a power failure of the process does: no cleaning up.
    pub fn kill9(&mut self) {
        self.child.kill().expect("the appliance still runs");
        self.child.wait().expect("a killed child can be waited for");
    }

    /// Asks it to end.
    pub fn sigterm(&self) {
        signal(self.pid(), "TERM");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the appliance ends", || child.try_wait().expect("the child can be asked"))
    }

    /// Starts it again on the same store. It must have ended.
    pub fn restart(&mut self) {
        assert!(self.child.try_wait().expect("the child can be asked").is_some(), "restart needs an end first");
        let (child, line) = launch(&self.config, &self.stderr);
        self.child = child;
        (self.sip, self.http, self.shards) = parse_ready(&line);
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_none()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("the reader does not panic")).into_owned()
    }

    /// An HTTP request to it.
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Response {
        http::request(self.http, method, path, headers, body)
    }

    /// Stores an access policy document.
    pub fn put_policy(&self, user: &str, document: &str) {
        let path = format!("/xcap/org.openmobilealliance.access-rules/users/{user}/access-rules");
        self.put_document(&path, "application/auth-policy+xml", document);
    }

    /// Stores a preference document.
    pub fn put_preferences(&self, user: &str, document: &str) {
        let path = format!("/xcap/cpm-pf-user-preferences/users/{user}/index");
        self.put_document(&path, "application/vnd.cpm-pf.user-preferences+xml", document);
    }

    /// Stores a document.
    pub fn put_document(&self, path: &str, content_type: &str, document: &str) {
        let response = self.http("PUT", path, &[("Content-Type", content_type)], document.as_bytes());
        assert!(matches!(response.status, 200 | 201), "PUT {path}: {} {}", response.status, response.text());
    }

    /// An admin resource of a user, as JSON.
    pub fn admin(&self, user: &str, resource: &str) -> serde_json::Value {
        let path = format!("/admin/users/{user}{resource}");
        let response = self.http("GET", &path, &[], b"");
        assert_eq!(response.status, 200, "GET {path}: {}", response.text());
        response.json()
    }

    /// How many entries an admin list has; a user of whom nothing is known has none.
    pub fn admin_count(&self, user: &str, resource: &str) -> usize {
        let path = format!("/admin/users/{user}{resource}");
        let response = self.http("GET", &path, &[], b"");
        match response.status {
            404 => 0,
            200 => response.json().as_array().expect("a list").len(),
            status => panic!("GET {path}: {status} {}", response.text()),
        }
    }

    /// The sum of all rows of a series whose labels contain every one of `labels`.
    pub fn metric(&self, series: &str, labels: &[&str]) -> u64 {
        let response = self.http("GET", "/metrics", &[], b"");
        assert_eq!(response.status, 200, "GET /metrics");
        sum_metric(&response.text(), series, labels)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        // The test may have ended it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(120).collect();
            eprintln!("--- last lines of the appliance's log");
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// Sums rows of a Prometheus text exposition.
pub fn sum_metric(text: &str, series: &str, labels: &[&str]) -> u64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| {
            let name_len = line.find(['{', ' ']).unwrap_or(line.len());
            &line[..name_len] == series && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let readers = [
        std::thread::spawn(move || read_all(stdout.expect("piped"))),
        std::thread::spawn(move || read_all(stderr.expect("piped"))),
    ];
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be asked") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("ringpost {arguments:?} did not end within {DEADLINE:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let [stdout, stderr] = readers.map(|reader| reader.join().expect("readers do not panic"));
    Output { status, stdout, stderr }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("a shell");
    assert!(status.success(), "kill -{name} {pid}");
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

fn launch(config: &Config, stderr: &Arc<Mutex<Vec<u8>>>) -> (Child, String) {
    let mut words = config.wrapper.iter().map(String::as_str).chain([BINARY]);
    let mut child = Command::new(words.next().expect("the binary at least"))
        .args(words)
        .args(["serve".as_ref(), "--config".as_ref(), config.write().as_os_str()])
        .env_remove("RINGPOST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (pipe, log) = (child.stderr.take().expect("piped"), stderr.clone());
    std::thread::spawn(move || {
        let mut pipe = pipe;
        let mut chunk = [0; 8192];
        while let Ok(len) = pipe.read(&mut chunk) {
            if len == 0 {
                return;
            }
            if let Ok(mut log) = log.lock() {
                log.extend_from_slice(&chunk[..len]);
            }
        }
    });
    let stdout = child.stdout.take().expect("piped");
    let (door, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if door.send(line).is_err() {
                return;
            }
        }
    });
    match lines.recv_timeout(DEADLINE) {
        Ok(line) => (child, line),
        Err(_) => {
            let _ = child.kill();
            let status = child.wait();
            let log = String::from_utf8_lossy(&stderr.lock().expect("the reader does not panic")).into_owned();
            panic!("no ready line ({status:?}); stderr:\n{log}");
        }
    }
}

/// `ringpost ready sip=A,B http=C shards=N`
fn parse_ready(line: &str) -> (Vec<SocketAddr>, SocketAddr, u16) {
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[..2.min(words.len())], ["ringpost", "ready"], "ready line {line:?}");
    let value = |key: &str| {
        let found = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{key}= in the ready line {line:?}"))
    };
    let address = |text: &str| text.parse::<SocketAddr>().unwrap_or_else(|_| panic!("address {text:?} in {line:?}"));
    let shards = value("shards").parse().unwrap_or_else(|_| panic!("shards in {line:?}"));
    (value("sip").split(',').map(address).collect(), address(value("http")), shards)
}
