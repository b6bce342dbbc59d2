//! The configuration as checked plain values.

use super::error::{ConfigError, Document};
use super::{peer, validate};
use crate::base::limits::SHARD_COUNT_MAX;
use crate::msrp::settings::{Acknowledgement, PathMode};
use crate::participating::preferences::Handling;
use crate::participating::settings::{Expired, InterworkingFailure, Oversize, Peer, UnknownUser, UserAgentVersion};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that can be configured, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses and next hops.
    pub sip: Sip,
    /// Worker threads.
    pub shards: Shards,
    /// Provider policy.
    pub policy: Policy,
    /// The deferred queue.
    pub deferred: Deferred,
    /// Defaults for users without a preference document.
    pub preferences: Preferences,
    /// Folders of durable state.
    pub store: Store,
    /// XCAP root, admin API and metrics.
    pub http: Http,
    /// Logging.
    pub log: Log,
    /// MSRP, for large message mode.
    pub msrp: Msrp,
    /// Large message mode.
    pub large: Large,
    /// An external document server.
    pub xdms: Xdms,
}

impl Config {
    /// Reads and checks a file. Host names in it are looked up.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::unreadable(&file, &cause))?;
        Self::parse(&file, &text)
    }

    /// Checks a configuration's text; `file` is the name that errors show.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        Self::parse_with(file, text, &peer::look_up)
    }

    pub(super) fn parse_with(file: &str, text: &str, look_up: &peer::LookUp) -> Result<Self, ConfigError> {
        validate::validate(&Document { file, text }, look_up)
    }

    /// Shards to start: the configured number, or one per CPU this process may use.
    pub fn shard_count(&self) -> u16 {
        self.shards.count.map_or_else(cpu_count, NonZeroU16::get)
    }
}

impl Default for Config {
    /// The configuration without a file: everything on loopback.
    fn default() -> Self {
        Self::parse("defaults", "").expect("the defaults are valid and name no hosts")
    }
}

/// CPUs this process may use, as many as shards are possible.
pub(super) fn cpu_count() -> u16 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    count.min(SHARD_COUNT_MAX) as u16
}

/// Addresses and next hops (`[sip]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sip {
    /// Name in Warning and the like.
    pub host: Box<str>,
    /// Listening addresses, UDP and TCP on each; port 0 is the kernel's choice.
    pub listen: Vec<SocketAddr>,
    /// Shard n also owns this port + n on each listening IP; 0 is the kernel's choice.
    pub shard_port: u16,
    /// What others reach the listening addresses by, one per entry of `listen`; never unspecified.
    pub advertise: Vec<IpAddr>,
    /// Next hop when no Route is left.
    pub core: Peer,
    /// Interworking selection function.
    pub isf: Option<Peer>,
    /// What an ISF failure does.
    pub isf_failure: InterworkingFailure,
    /// Networks whose P-Asserted-Identity is believed.
    pub trusted: Vec<IpNet>,
    /// Requests must be marked as the terminating case (SPEC G-1).
    pub require_route: bool,
    /// Path MTU, bytes.
    pub path_mtu: usize,
    /// From stands in for a missing P-Asserted-Identity from a trusted peer.
    pub identity_from_header: bool,
    /// Fixed addresses of host names, lower case.
    pub hosts: Vec<(Box<str>, SocketAddr)>,
}

/// Worker threads (`[shards]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    /// How many; `None` is one per CPU.
    pub count: Option<NonZeroU16>,
    /// Each shard's thread stays on one CPU.
    pub pin: bool,
}

/// Provider policy (`[policy]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Media types taken, lower case.
    pub accept_types: Vec<Box<str>>,
    /// Longest body; `None` is the outer limit of SPEC §2.10.
    pub pager_body_len_max: Option<usize>,
    /// Answer over that.
    pub oversize: Oversize,
    /// Answer to an expired message.
    pub expired: Expired,
    /// Feature tags and ICSIs that mean CPM: lower case, plain form, a trailing `*` for any rest.
    pub cpm_tags: Vec<Box<str>>,
    /// Lowest client version taken in large message mode.
    pub ua_min: Option<UserAgentVersion>,
    /// A client that names no version is taken in large message mode.
    pub ua_absent_allowed: bool,
    /// Senders may be anonymous in large message mode.
    pub anonymous_allowed: bool,
}

/// The deferred queue (`[deferred]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// Final responses of devices that turn into a deferral.
    pub defer_on: Vec<u16>,
    /// Longest stay.
    pub age_max: Duration,
    /// Messages of one user.
    pub per_user_count: u32,
    /// Bytes of one user's requests.
    pub per_user_bytes: u64,
    /// Messages sent per second by the whole node.
    pub pace: u32,
}

/// Defaults for users without a preference document (`[preferences]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preferences {
    /// What happens to a message that cannot be delivered.
    pub default: Handling,
    /// What happens for users of whom nothing is known.
    pub unknown_user: UnknownUser,
    /// Most devices one message is forked to.
    pub device_count_max: usize,
}

/// Folders of durable state (`[store]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Folder of all durable state.
    pub data_dir: PathBuf,
    /// Folder of large bodies.
    pub content_dir: PathBuf,
    /// Bodies from this many bytes on are files.
    pub content_threshold: usize,
}

/// XCAP root, admin API and metrics (`[http]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Listening address; port 0 is the kernel's choice.
    pub listen: SocketAddr,
    /// Path of the XCAP root, without a slash at its end.
    pub xcap_root: Box<str>,
}

/// Logging (`[log]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How much.
    pub level: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// What is worth waking for.
    Warn,
    /// States an operator sees.
    #[default]
    Info,
    /// Deviations of peers, with subscriber identities.
    Debug,
}

impl LogLevel {
    /// The level's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// MSRP (`[msrp]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msrp {
    /// First listening address of each family or interface; shard n uses port + n. Port 0 is the kernel's choice.
    pub listen: Vec<SocketAddr>,
    /// What peers are told instead, one per entry of `listen`; never unspecified.
    pub advertise: Vec<IpAddr>,
    /// Who answers a chunk.
    pub ack: Acknowledgement,
    /// How `a=path` is written.
    pub path_mode: PathMode,
}

/// Large message mode (`[large]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Large {
    /// Longest message, bytes.
    pub size_max: u64,
    /// Longest wait for an answer to INVITE.
    pub invite_timeout: Duration,
}

/// An external document server (`[xdms]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xdms {
    /// Its XCAP root; `None` when the appliance's own is used.
    pub root: Option<Box<str>>,
    /// How long a document is used without asking again.
    pub cache_ttl: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
}
