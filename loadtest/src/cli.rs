//! Arguments and their bounds: the generator only ever loads this machine, for a limited time.

use crate::rig::Setup;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Measures a ringpost appliance on loopback: CPU per message, rates, latency percentiles, nothing lost.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Messages for registered users: sender, appliance, core and back.
    Pager {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Pager,
    },
    /// Messages for users who are not registered: durable 202 responses per second.
    Deferral {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Deferral,
    },
    /// Everybody registers at once: deliveries per second, each once and in order.
    Storm {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Storm,
    },
    /// MSRP chunks through the appliance, a peer or nothing: CPU per chunk, rates, latency percentiles.
    Chunks {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Chunks,
    },
    /// Chunks through the appliance, HAProxy and Kamailio in turn: a table with the ratios pair by pair.
    Compare {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Compare,
    },
    /// Whole sessions from INVITE to BYE: CPU per session, set-up latency.
    Sessions {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Sessions,
    },
    /// Many sessions that are bound and silent: memory per connection.
    Idle {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Idle,
    },
    /// One large message: throughput, memory of the server meanwhile, SHA-256 at the receiver.
    Message {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: Message,
    },
}

/// What all scenarios share.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Common {
    /// The appliance's SIP address; must be loopback.
    #[arg(long, default_value = "127.0.0.1:5060")]
    pub target: SocketAddr,
    /// Where the generator plays the core: the appliance's `sip.core`.
    #[arg(long, default_value = "127.0.0.1:5070")]
    pub core: SocketAddr,
    /// The appliance's HTTP address, for documents and admin.
    #[arg(long, default_value = "127.0.0.1:9080")]
    pub http: SocketAddr,
    /// How messages travel on both sides.
    #[arg(long, value_enum, default_value = "udp")]
    pub transport: Transport,
    /// Recipients.
    #[arg(long, default_value_t = 1000)]
    pub users: u32,
    /// Process id of the appliance, for CPU time and memory.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Start this binary with a configuration made for the measurement, on ports the kernel chooses.
    #[arg(long, value_name = "BINARY")]
    pub spawn: Option<PathBuf>,
    /// Folder for the started appliance's store; a fresh one below it is used and removed. The system's temporary folder
    /// may be memory, where a durable commit costs nothing.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Shards of the started appliance.
    #[arg(long, default_value_t = 1)]
    pub shards: u16,
    /// Leave threads where the scheduler puts them. Otherwise a started appliance gets CPU 0 and the generator the last.
    #[arg(long)]
    pub no_pin: bool,
    /// Connections of the sender over TCP.
    #[arg(long, default_value_t = 4)]
    pub connections: u16,
    /// Bytes of one MESSAGE, headers included.
    #[arg(long, default_value_t = 1660)]
    pub message_len: usize,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// One datagram a message.
    Udp,
    /// Connections that stay open.
    Tcp,
}

/// Options of `pager`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Pager {
    /// Messages per second, whether or not answers come (open loop). Latency counts from the intended moment.
    #[arg(long, conflicts_with = "window")]
    pub rate: Option<u32>,
    /// Messages in flight; each answer lets the next one go (closed loop).
    #[arg(long)]
    pub window: Option<u32>,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    pub seconds: u32,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    pub warm_up: u32,
    /// Rules of each user's access policy, none of which rejects.
    #[arg(long, default_value_t = 0)]
    pub rules: u32,
    /// Send without Route headers: the appliance then takes the configured core.
    #[arg(long)]
    pub no_routes: bool,
}

/// Options of `deferral`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Deferral {
    /// Messages in flight.
    #[arg(long, default_value_t = 1000)]
    pub in_flight: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    pub seconds: u32,
    /// Seconds before that.
    #[arg(long, default_value_t = 1)]
    pub warm_up: u32,
}

/// Options of `storm`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Storm {
    /// Deferred messages of each user.
    #[arg(long, default_value_t = 5)]
    pub per_user: u32,
    /// REGISTER requests in flight.
    #[arg(long, default_value_t = 200)]
    pub in_flight: u32,
    /// Longest time until everything is delivered.
    #[arg(long, default_value_t = 120)]
    pub seconds: u32,
}

/// What chunks go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The appliance, sessions set up by SIP.
    Ringpost,
    /// HAProxy in TCP mode, which parses nothing.
    Haproxy,
    /// Kamailio's msrp module as a relay; 10 KB a chunk at most.
    Kamailio,
    /// Nothing: what the generator itself can do.
    Direct,
}

impl std::fmt::Display for Via {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Ringpost => "ringpost",
            Self::Haproxy => "HAProxy",
            Self::Kamailio => "Kamailio",
            Self::Direct => "direct",
        })
    }
}

/// How the ends of sessions behave.
#[derive(Clone, Copy, Debug, Args)]
#[group(skip)]
pub struct Ends {
    /// The sender's `a=setup`.
    #[arg(long, value_enum, default_value = "actpass")]
    pub a_setup: Setup,
    /// The receiver's `a=setup`.
    #[arg(long, value_enum, default_value = "active")]
    pub b_setup: Setup,
}

/// Options of `chunks`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Chunks {
    /// What they go through.
    #[arg(long, value_enum, default_value = "ringpost")]
    pub via: Via,
    /// Bytes of body in a chunk.
    #[arg(long, default_value_t = 300)]
    pub size: usize,
    /// Sessions, with a connection each on both sides.
    #[arg(long, default_value_t = 16)]
    pub sessions: usize,
    /// Unanswered chunks in each session (closed loop).
    #[arg(long, default_value_t = 8)]
    pub window: u32,
    /// Chunks a second over all sessions, whether or not answers come (open loop). Latency counts from the intended
    /// moment.
    #[arg(long)]
    pub rate: Option<u32>,
    /// Chunks of one message.
    #[arg(long, default_value_t = 1000)]
    pub chunks_per_message: u32,
    /// Write the end of each range as `*`, so that the end-line must be searched.
    #[arg(long)]
    pub open_range: bool,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Chunks after which the measured part ends earlier.
    #[arg(long)]
    pub count: Option<u64>,
    /// Roles on both sides.
    #[command(flatten)]
    pub ends: Ends,
}

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Compare {
    /// How often each row is measured with each program.
    #[arg(long, default_value_t = 5)]
    pub repetitions: u32,
    /// Seconds that are measured, of each row and program.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Programs, the first against each of the others.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ringpost,haproxy,kamailio")]
    pub via: Vec<Via>,
    /// Rows, by number from 1; all if none is named.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<usize>,
    /// Write the end of each range as `*`, so that the end-line must be searched.
    #[arg(long)]
    pub open_range: bool,
    /// Roles on both sides.
    #[command(flatten)]
    pub ends: Ends,
}

/// Options of `sessions`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Sessions {
    /// Sessions in all.
    #[arg(long, default_value_t = 20_000)]
    pub count: usize,
    /// Sessions before those that are measured.
    #[arg(long, default_value_t = 2_000)]
    pub warm_up: usize,
    /// Sessions at a time.
    #[arg(long, default_value_t = 32)]
    pub window: usize,
    /// With connections, and one chunk from end to end.
    #[arg(long)]
    pub chunk: bool,
    /// The receiver rings before it answers.
    #[arg(long)]
    pub ringing: bool,
    /// Roles on both sides.
    #[command(flatten)]
    pub ends: Ends,
}

/// Options of `idle`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Idle {
    /// What the sessions go through.
    #[arg(long, value_enum, default_value = "ringpost")]
    pub via: Via,
    /// Sessions, with two connections each at the server.
    #[arg(long, default_value_t = 10_000)]
    pub sessions: usize,
    /// Sessions that are set up at a time.
    #[arg(long, default_value_t = 64)]
    pub window: usize,
    /// Longest time to set them up, seconds.
    #[arg(long, default_value_t = 120)]
    pub seconds: u32,
    /// Send one chunk of this many bytes in each session first: buffers that are kept show.
    #[arg(long)]
    pub chunk: Option<usize>,
    /// Roles on both sides.
    #[command(flatten)]
    pub ends: Ends,
}

/// Options of `message`.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Message {
    /// What it goes through.
    #[arg(long, value_enum, default_value = "ringpost")]
    pub via: Via,
    /// Its length: bytes, or with KiB, MiB, GiB.
    #[arg(long, default_value = "1GiB", value_parser = parse_len)]
    pub size: u64,
    /// Bytes of a chunk.
    #[arg(long, default_value_t = 65_536)]
    pub chunk: usize,
    /// Unanswered chunks.
    #[arg(long, default_value_t = 8)]
    pub window: u32,
    /// Write the end of each range as `*`.
    #[arg(long)]
    pub open_range: bool,
    /// Longest time, seconds.
    #[arg(long, default_value_t = 120)]
    pub seconds: u32,
    /// Roles on both sides.
    #[command(flatten)]
    pub ends: Ends,
}

/// Reads `64KiB`, `1GiB`, `1000`.
fn parse_len(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1_u64 << 30)];
    let (digits, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let number: u64 = digits.trim().parse().map_err(|_| format!("{text}: a number with KiB, MiB or GiB"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text}: too large"))
}

/// A scenario with its options.
#[derive(Clone, Debug)]
pub enum Scenario {
    /// Messages for registered users.
    Pager(Pager),
    /// Messages for absent users.
    Deferral(Deferral),
    /// A registration storm.
    Storm(Storm),
    /// MSRP chunks.
    Chunks(Chunks),
    /// MSRP chunks through several programs.
    Compare(Compare),
    /// Sessions from INVITE to BYE.
    Sessions(Sessions),
    /// Silent sessions.
    Idle(Idle),
    /// One large message.
    Message(Message),
}

impl Arguments {
    /// Shared and own options.
    pub fn split(self) -> (Common, Scenario) {
        match self.command {
            Command::Pager { common, options } => (common, Scenario::Pager(options)),
            Command::Deferral { common, options } => (common, Scenario::Deferral(options)),
            Command::Storm { common, options } => (common, Scenario::Storm(options)),
            Command::Chunks { common, options } => (common, Scenario::Chunks(options)),
            Command::Compare { common, options } => (common, Scenario::Compare(options)),
            Command::Sessions { common, options } => (common, Scenario::Sessions(options)),
            Command::Idle { common, options } => (common, Scenario::Idle(options)),
            Command::Message { common, options } => (common, Scenario::Message(options)),
        }
    }
}

impl Scenario {
    /// Seconds that the scenario may take, warm-up included; of one row, when there are several.
    fn seconds(&self) -> f64 {
        match self {
            Self::Pager(options) => f64::from(options.seconds) + f64::from(options.warm_up),
            Self::Deferral(options) => f64::from(options.seconds) + f64::from(options.warm_up),
            Self::Storm(options) => f64::from(options.seconds),
            Self::Chunks(options) => options.seconds + options.warm_up,
            Self::Compare(options) => options.seconds + options.warm_up,
            Self::Sessions(_) => 1.0,
            Self::Idle(options) => f64::from(options.seconds),
            Self::Message(options) => f64::from(options.seconds),
        }
    }

    /// Messages in flight, or per second.
    fn intensity(&self) -> u32 {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match self {
            Self::Pager(options) => options.rate.or(options.window).unwrap_or(1),
            Self::Deferral(options) => options.in_flight,
            Self::Storm(options) => options.in_flight.max(options.per_user),
            Self::Chunks(options) => options.rate.unwrap_or(options.window),
            Self::Compare(options) => options.repetitions,
            Self::Sessions(options) => count(options.window),
            Self::Idle(options) => count(options.window),
            Self::Message(options) => options.window,
        }
    }

    /// Sessions and the bytes of their chunks.
    fn sessions(&self) -> Option<(usize, usize)> {
        match self {
            Self::Pager(_) | Self::Deferral(_) | Self::Storm(_) | Self::Compare(_) => None,
            Self::Chunks(options) => Some((options.sessions, options.size)),
            Self::Sessions(options) => Some((options.count + options.warm_up, 1)),
            Self::Idle(options) => Some((options.sessions, options.chunk.unwrap_or(1))),
            Self::Message(options) => Some((1, options.chunk)),
        }
    }

    /// Refuses what would run too long or grow too large.
    pub fn check(&self) -> Result<(), String> {
        if !(0.1..=f64::from(SECONDS_MAX)).contains(&self.seconds()) {
            return Err(format!("seconds {}: 0.1 to {SECONDS_MAX}", self.seconds()));
        }
        within("rate, window, in-flight, per-user or repetitions", self.intensity(), 1, INTENSITY_MAX)?;
        if let Some((sessions, chunk_len)) = self.sessions() {
            within("sessions", u32::try_from(sessions).unwrap_or(u32::MAX), 1, SESSIONS_MAX)?;
            within("bytes of a chunk", u32::try_from(chunk_len).unwrap_or(u32::MAX), 1, CHUNK_LEN_MAX)?;
        }
        match self {
            Self::Pager(options) => {
                within("window", options.window.unwrap_or(1), 1, WINDOW_MAX)?;
                within("rules", options.rules, 0, 1000)
            }
            Self::Chunks(options) => {
                within("window", options.window, 1, CHUNK_WINDOW_MAX)?;
                within("chunks-per-message", options.chunks_per_message, 1, 1_000_000)
            }
            Self::Message(options) => within("window", options.window, 1, CHUNK_WINDOW_MAX),
            _ => Ok(()),
        }
    }
}

impl Common {
    /// Refuses other machines and sizes out of bounds.
    pub fn check(&self) -> Result<(), String> {
        for (name, addr) in [("--target", self.target), ("--core", self.core), ("--http", self.http)] {
            if !addr.ip().is_loopback() {
                return Err(format!("{name} {addr}: only loopback addresses are loaded"));
            }
        }
        within("users", self.users, 1, USERS_MAX)?;
        within("connections", u32::from(self.connections), 1, 256)?;
        within("shards", u32::from(self.shards), 1, 256)?;
        if !(1200..=8192).contains(&self.message_len) {
            return Err(format!("--message-len {}: 1200 to 8192", self.message_len));
        }
        Ok(())
    }
}

fn within(name: &str, value: u32, low: u32, high: u32) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{name} {value}: {low} to {high}")) }
}

const SECONDS_MAX: u32 = 600;
const INTENSITY_MAX: u32 = 2_000_000;
const WINDOW_MAX: u32 = 100_000;
/// What the generator's table of unanswered chunks holds.
const CHUNK_WINDOW_MAX: u32 = 4_000;
const CHUNK_LEN_MAX: u32 = 16 << 20;
const SESSIONS_MAX: u32 = 2_000_000;
const USERS_MAX: u32 = 999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_refused() {
        let parsed = Arguments::try_parse_from(["x", "pager", "--target", "192.0.2.1:5060"]).expect("valid arguments");
        let (common, _) = parsed.split();
        assert!(common.check().is_err_and(|error| error.contains("192.0.2.1:5060")));
    }

    #[test]
    fn lengths_have_units() {
        assert_eq!(parse_len("1GiB"), Ok(1 << 30));
        assert_eq!(parse_len("64KiB"), Ok(65_536));
        assert_eq!(parse_len("1000"), Ok(1000));
        assert!(parse_len("1 GB").is_err());
        assert!(parse_len("99999999999GiB").is_err());
    }

    #[test]
    fn windows_beyond_the_table_are_refused() {
        let parsed = Arguments::try_parse_from(["x", "chunks", "--window", "5000"]).expect("valid arguments");
        assert!(parsed.split().1.check().is_err());
        let parsed = Arguments::try_parse_from(["x", "chunks", "--size", "0"]).expect("valid arguments");
        assert!(parsed.split().1.check().is_err());
    }

    #[test]
    fn endless_runs_are_refused() {
        let parsed = Arguments::try_parse_from(["x", "pager", "--seconds", "100000"]).expect("valid arguments");
        let (common, scenario) = parsed.split();
        assert!(common.check().is_ok());
        assert!(scenario.check().is_err());
    }
}
