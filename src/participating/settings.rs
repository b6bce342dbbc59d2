//! The provider's settings as the cores read them (SPEC §8). `config` makes them from TOML.

use super::effect::NextHop;
use super::preferences::Handling;
use super::storage::Quota;
use crate::msrp::settings::RelaySettings;
use std::net::SocketAddr;
use std::time::Duration;

/// The answer to a body over the size limit (`policy.oversize`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oversize {
    /// 415 with Accept: the only code the seed names.
    #[default]
    UnsupportedMediaType,
    /// 413 (RFC 3261 §21.4.11).
    RequestEntityTooLarge,
    /// 403 with Warning "133 Size Exceeded", as clients in the field know it.
    SizeExceeded,
}

/// The answer to a message that has expired before it arrived (`policy.expired`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expired {
    /// 202, then discarded.
    #[default]
    AcceptAndDiscard,
    /// 410.
    Gone,
    /// 480.
    TemporarilyUnavailable,
}

/// What an interworking failure does to a message (`sip.isf_failure`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterworkingFailure {
    /// The ISF's answer is relayed.
    #[default]
    Relay,
    /// The message is deferred and 202 answered.
    Defer,
}

/// The answer to a message for a user of whom nothing is known (`preferences.unknown_user`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownUser {
    /// 404 (SPEC G-7).
    #[default]
    NotFound,
    /// Treated as a user without documents and registrations.
    Serve,
}

/// The version of an OMA enabler, as in `CPM-client/OMA2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserAgentVersion {
    /// Before the dot.
    pub major: u16,
    /// After the dot.
    pub minor: u16,
}

/// A next hop as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The URI for a Route header.
    pub uri: Box<str>,
    /// Its host, lower case.
    pub host: Box<str>,
    /// Where it is.
    pub hop: NextHop,
}

/// One address the appliance listens on, with the port each shard has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address all shards share.
    pub well_known: SocketAddr,
    /// This shard's own address, as others reach it: Via sent-by.
    pub own: SocketAddr,
}

/// Settings of one shard's core.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in Warning, Route and the like.
    pub host: Box<str>,
    /// The addresses of this shard.
    pub listeners: Vec<Listener>,
    /// Every address of every shard: a Route to one of them is ours.
    pub own_addresses: Vec<SocketAddr>,
    /// Shards of the appliance.
    pub shard_count: u16,
    /// Secret from which owners and loop marks are hashed, the same on every shard.
    pub steering_seed: u64,
    /// The next hop when no Route is left.
    pub core: Peer,
    /// The interworking selection function.
    pub isf: Option<Peer>,
    /// Peers whose P-Asserted-Identity is believed.
    pub trusted: Vec<ipnet::IpNet>,
    /// Requests without the appliance's Route or `sescase=term` are refused.
    pub require_route: bool,
    /// Path MTU in bytes: a larger request than this less 200 leaves over TCP.
    pub path_mtu: usize,
    /// From stands in for a missing P-Asserted-Identity from a trusted peer.
    pub identity_from_header: bool,
    /// What an ISF failure does.
    pub isf_failure: InterworkingFailure,
    /// Host names with fixed addresses, lower case.
    pub hosts: Vec<(Box<str>, SocketAddr)>,
    /// Media types taken, lower case; `*/*` and `type/*` match as in Accept.
    pub accept_types: Vec<Box<str>>,
    /// Longest body; `None` is the outer limit of SPEC §2.10.
    pub pager_body_len_max: Option<usize>,
    /// The answer over that.
    pub oversize: Oversize,
    /// The answer to an expired message.
    pub expired: Expired,
    /// Feature tags and ICSIs that mean CPM, lower case, plain form; a trailing `*` matches any rest.
    pub cpm_tags: Vec<Box<str>>,
    /// Final responses of devices that turn into a deferral.
    pub defer_on: Vec<u16>,
    /// Longest stay in the deferred queue.
    pub deferred_age_max: Duration,
    /// Bounds of one user's queue.
    pub deferred_quota: Quota,
    /// Deferred messages sent per second by this shard.
    pub deferred_pace: u32,
    /// Most devices one message is forked to.
    pub device_count_max: usize,
    /// What happens without a preference document.
    pub default_handling: Handling,
    /// What happens for users of whom nothing is known.
    pub unknown_user: UnknownUser,
    /// Lowest client version taken in large message mode (SPEC LM-2).
    pub ua_min: Option<UserAgentVersion>,
    /// A client that names no version is taken all the same.
    pub ua_absent_allowed: bool,
    /// Senders may be anonymous in large message mode (SPEC LM-3).
    pub anonymous_allowed: bool,
    /// Longest message in large message mode, bytes.
    pub large_size_max: u64,
    /// Longest wait for a device's final answer to an INVITE.
    pub invite_timeout: Duration,
    /// MSRP.
    pub msrp: RelaySettings,
}
