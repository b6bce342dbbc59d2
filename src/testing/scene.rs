//! A small appliance as plain values: settings, sources, subscribers, a core.

use super::directory::MapDirectory;
use crate::base::id::ShardId;
use crate::base::rng::Rng;
use crate::base::time::{Instant, Now, UnixMillis};
use crate::metrics::counters::ShardMetrics;
use crate::participating::core::Core;
use crate::participating::devices::Device;
use crate::participating::effect::NextHop;
use crate::participating::input::{Source, Transport};
use crate::participating::preferences::Handling;
use crate::participating::settings::{Expired, InterworkingFailure, Listener, Oversize, Peer, Settings, UnknownUser};
use crate::participating::storage::Quota;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The address that all shards share.
pub const WELL_KNOWN: SocketAddr = address([192, 0, 2, 1], 5060);
/// The next hop towards devices.
pub const CORE: SocketAddr = address([192, 0, 2, 9], 5070);
/// The interworking selection function.
pub const ISF: SocketAddr = address([192, 0, 2, 8], 5090);
/// The wall clock when the monotonic one starts: 2026-01-01T00:00:00Z.
pub const WALL_START: UnixMillis = UnixMillis(1_767_225_600_000);

/// An IPv4 socket address.
pub const fn address(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])), port)
}

/// The address of a shard's own port.
pub const fn own(shard: u16) -> SocketAddr {
    address([192, 0, 2, 1], 5080 + shard)
}

/// Both clocks, so long after the start.
pub fn after(span: Duration) -> Now {
    let wall = WALL_START.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
    Now { at: Instant::ZERO + span, wall: UnixMillis(wall) }
}

/// Settings of one of several shards, the defaults of the configuration apart from addresses.
pub fn settings(shard: u16, shard_count: u16) -> Settings {
    let own_addresses = std::iter::once(WELL_KNOWN).chain((0..shard_count).map(own)).collect();
    let texts = |all: &[&str]| all.iter().map(|text| Box::from(*text)).collect();
    Settings {
        host: "pf.example".into(),
        listeners: vec![Listener { well_known: WELL_KNOWN, own: own(shard) }],
        own_addresses,
        shard_count,
        steering_seed: 0x5eed,
        core: Peer {
            uri: "sip:192.0.2.9:5070;lr".into(),
            host: "192.0.2.9".into(),
            hop: NextHop { transport: None, addr: CORE },
        },
        isf: None,
        trusted: "0.0.0.0/0".parse().into_iter().collect(),
        require_route: false,
        path_mtu: 1500,
        identity_from_header: false,
        isf_failure: InterworkingFailure::Relay,
        hosts: Vec::new(),
        accept_types: texts(&["message/cpim", "text/plain", "message/imdn+xml", "multipart/mixed"]),
        pager_body_len_max: None,
        oversize: Oversize::UnsupportedMediaType,
        expired: Expired::AcceptAndDiscard,
        cpm_tags: texts(&["+g.oma.sip-cpm", "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.*"]),
        defer_on: Vec::new(),
        deferred_age_max: Duration::from_secs(604_800),
        deferred_quota: Quota { count: 1_000, bytes: 50 << 20 },
        deferred_pace: 500,
        device_count_max: 10,
        default_handling: Handling::Defer,
        unknown_user: UnknownUser::NotFound,
    }
}

/// The interworking selection function as a peer.
pub fn isf() -> Peer {
    Peer { uri: "sip:192.0.2.8:5090;lr".into(), host: "192.0.2.8".into(), hop: NextHop { transport: None, addr: ISF } }
}

/// A CPM device that stays registered.
pub fn device(instance: &str) -> Device {
    Device {
        instance: Some(instance.into()),
        contact: format!("sip:{instance}@203.0.113.1").into(),
        q_milli: 1000,
        expires: UnixMillis(i64::MAX),
        cpm: true,
        features: "+g.oma.sip-cpm".into(),
    }
}

/// Where a datagram came from.
pub const fn datagram_from(peer: SocketAddr) -> Source {
    Source { transport: Transport::Udp, peer, listener: 0, conn: None }
}

/// The core of one shard, and its metrics.
pub fn core(settings: Settings, shard: u16, directory: MapDirectory, seed: u64, now: Now) -> Core<MapDirectory> {
    let metrics = Arc::new(ShardMetrics::default());
    Core::new(ShardId(shard), Arc::new(settings), directory, Rng::from_u64(seed), metrics, now)
}
