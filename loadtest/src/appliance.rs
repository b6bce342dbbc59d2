//! The process under test: started for the measurement if asked, and what the kernel says of its CPU time and memory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// An appliance that this program started; killed and cleaned up when dropped.
pub struct Spawned {
    child: Child,
    dir: PathBuf,
    /// Its SIP address.
    pub sip: SocketAddr,
    /// Its HTTP address.
    pub http: SocketAddr,
}

/// Every process below this one.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        at += 1;
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    found.remove(0);
    found
}

/// What a started appliance is configured with.
pub struct Setting<'a> {
    /// The binary.
    pub binary: &'a Path,
    /// Folder below which its files live.
    pub data_dir: &'a Path,
    /// The next hop, as a SIP URI.
    pub core: &'a str,
    /// Where it listens.
    pub ip: std::net::IpAddr,
    /// Shards.
    pub shards: u16,
    /// Pin its shards.
    pub pin: bool,
}

impl Spawned {
    /// Starts it on ports that the kernel chooses and waits for its ready line.
    pub fn start(setting: &Setting<'_>) -> Result<Self, String> {
        let dir = setting.data_dir.join(format!("ringpost-loadtest-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let any_port = SocketAddr::new(setting.ip, 0);
        let config = format!(
            "[sip]\nlisten = [\"{any_port}\"]\nshard_port = 0\ncore = \"{}\"\npath_mtu = 65535\n\
             [shards]\ncount = {}\npin = {}\n\
             [msrp]\nlisten = \"{any_port}\"\n[large]\nmax_size = 1099511627776\n\
             [deferred]\nper_user_count = 1000000\nper_user_bytes = 1000000000\npace = 1000000\n\
             [store]\ndata_dir = {:?}\n[http]\nlisten = \"{any_port}\"\n[log]\nlevel = \"warn\"\n",
            setting.core,
            setting.shards,
            setting.pin,
            dir.join("data"),
        );
        let file = dir.join("ringpost.toml");
        std::fs::write(&file, config).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut child = Command::new(setting.binary)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", setting.binary.display()))?;
        let stdout = child.stdout.take().ok_or("the child's output")?;
        let (door, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if door.send(line).is_err() {
                    return;
                }
            }
        });
        let unknown = SocketAddr::new(setting.ip, 0);
        let mut spawned = Self { child, dir, sip: unknown, http: unknown };
        let line = lines.recv_timeout(Duration::from_secs(20)).map_err(|_| "the appliance says no ready line")?;
        let address = |key: &str| -> Option<SocketAddr> {
            line.split(' ').find_map(|word| word.strip_prefix(key))?.split(',').next()?.parse().ok()
        };
        spawned.sip = address("sip=").ok_or_else(|| format!("ready line {line:?}"))?;
        spawned.http = address("http=").ok_or_else(|| format!("ready line {line:?}"))?;
        Ok(spawned)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a process has used so far.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// User and system time from /proc/PID/stat, in clock ticks' resolution.
    pub stat: Duration,
    /// Run time by thread name from schedstat, in nanoseconds' resolution.
    pub threads: BTreeMap<String, Duration>,
    /// Resident memory, bytes.
    pub resident: u64,
    /// Highest resident memory so far, bytes.
    pub resident_peak: u64,
}

impl Usage {
    /// Reads it; `None` when the process is gone or not ours to read.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, which may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
            *threads.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(nanos);
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kilobytes = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Some(Self {
            stat: Duration::from_nanos(ticks * 1_000_000_000 / ticks_per_second()),
            threads,
            resident: kilobytes("VmRSS:"),
            resident_peak: kilobytes("VmHWM:"),
        })
    }

    /// The same of a process and everything that it started.
    pub fn of_tree(pid: u32) -> Option<Self> {
        let mut sum = Self::of(pid)?;
        for child in descendants(pid).into_iter().filter_map(Self::of) {
            sum.stat += child.stat;
            sum.resident += child.resident;
            sum.resident_peak += child.resident_peak;
            for (name, time) in child.threads {
                *sum.threads.entry(name).or_default() += time;
            }
        }
        Some(sum)
    }

    /// Run time of all threads.
    pub fn run_time(&self) -> Duration {
        self.threads.values().sum()
    }

    /// What was used since an earlier reading; memory as it is.
    pub fn since(&self, earlier: &Self) -> Self {
        let threads = self.threads.iter().map(|(name, time)| {
            let before = earlier.threads.get(name).copied().unwrap_or_default();
            (name.clone(), time.saturating_sub(before))
        });
        Self { stat: self.stat.saturating_sub(earlier.stat), threads: threads.collect(), ..self.clone() }
    }
}

/// CPU time that all processes of this machine have used, and that the host gave to others while it was wanted here.
pub fn machine_busy() -> Duration {
    busy_of(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn busy_of(stat: &str) -> Duration {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal; guest time is in user time already.
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum();
    Duration::from_nanos(ticks * 1_000_000_000 / ticks_per_second())
}

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * page_len())
}

fn page_len() -> u64 {
    // SAFETY: sysconf only reads a number that the kernel keeps.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(len).ok().filter(|len| *len > 0).unwrap_or(4096)
}

fn ticks_per_second() -> u64 {
    // SAFETY: sysconf only reads a number that the kernel keeps.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  100 10 200 5000 7 3 4 50 20 0\ncpu0 1 1 1 1\n";
        let ticks = u32::try_from(ticks_per_second()).expect("small");
        assert_eq!(busy_of(stat) * ticks, Duration::from_secs(367));
    }

    #[test]
    fn a_process_tree_contains_its_root() {
        let own = std::process::id();
        let alone = Usage::of(own).expect("this process is there");
        let tree = Usage::of_tree(own).expect("this process is there");
        assert!(tree.resident >= alone.resident / 2 && tree.run_time() >= alone.run_time());
        assert!(resident(own).is_some_and(|bytes| bytes > 100_000));
    }
}
