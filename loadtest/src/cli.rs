//! Arguments and their bounds: the generator only ever loads this machine, for a limited time.

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

/// A scenario with its options.
#[derive(Clone, Debug)]
pub enum Scenario {
    /// Messages for registered users.
    Pager(Pager),
    /// Messages for absent users.
    Deferral(Deferral),
    /// A registration storm.
    Storm(Storm),
}

impl Arguments {
    /// Shared and own options.
    pub fn split(self) -> (Common, Scenario) {
        match self.command {
            Command::Pager { common, options } => (common, Scenario::Pager(options)),
            Command::Deferral { common, options } => (common, Scenario::Deferral(options)),
            Command::Storm { common, options } => (common, Scenario::Storm(options)),
        }
    }
}

impl Scenario {
    /// Seconds that the scenario may take, warm-up included.
    fn seconds(&self) -> u32 {
        match self {
            Self::Pager(options) => options.seconds.saturating_add(options.warm_up),
            Self::Deferral(options) => options.seconds.saturating_add(options.warm_up),
            Self::Storm(options) => options.seconds,
        }
    }

    /// Messages in flight, or per second.
    fn intensity(&self) -> u32 {
        match self {
            Self::Pager(options) => options.rate.or(options.window).unwrap_or(1),
            Self::Deferral(options) => options.in_flight,
            Self::Storm(options) => options.in_flight.max(options.per_user),
        }
    }

    /// Refuses what would run too long or grow too large.
    pub fn check(&self) -> Result<(), String> {
        within("seconds", self.seconds(), 1, SECONDS_MAX)?;
        within("rate, window, in-flight or per-user", self.intensity(), 1, INTENSITY_MAX)?;
        if let Self::Pager(options) = self {
            within("window", options.window.unwrap_or(1), 1, WINDOW_MAX)?;
            within("rules", options.rules, 0, 1000)?;
        }
        Ok(())
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
    fn endless_runs_are_refused() {
        let parsed = Arguments::try_parse_from(["x", "pager", "--seconds", "100000"]).expect("valid arguments");
        let (common, scenario) = parsed.split();
        assert!(common.check().is_ok());
        assert!(scenario.check().is_err());
    }
}
