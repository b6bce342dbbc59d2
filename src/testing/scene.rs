//! A small appliance as plain values: settings, sources, subscribers, a core.

use super::directory::MapDirectory;
use crate::base::id::ShardId;
use crate::base::rng::Rng;
use crate::base::time::{Instant, Now, UnixMillis};
use crate::metrics::counters::ShardMetrics;
use crate::msrp::settings::{Acknowledgement, PathMode, RelaySettings};
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

/// The MSRP address of a shard.
pub const fn msrp(shard: u16) -> SocketAddr {
    address([192, 0, 2, 1], 2855 + shard)
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
        ua_min: None,
        ua_absent_allowed: true,
        anonymous_allowed: true,
        large_size_max: 10 << 20,
        invite_timeout: Duration::from_secs(180),
        msrp: RelaySettings {
            listeners: vec![msrp(shard)],
            acknowledgement: Acknowledgement::EndToEnd,
            path_mode: PathMode::Prepend,
        },
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
    Source {
        transport: Transport::Udp,
        peer,
        listener: 0,
        socket: crate::participating::effect::Socket::WellKnown,
        conn: None,
    }
}

/// The core of one shard, and its metrics.
pub fn core(settings: Settings, shard: u16, directory: MapDirectory, seed: u64, now: Now) -> Core<MapDirectory> {
    let metrics = Arc::new(ShardMetrics::default());
    Core::new(ShardId(shard), Arc::new(settings), directory, Rng::from_u64(seed), metrics, now)
}

/// A message as an S-CSCF sends it on: about 30 header fields and 1.66 KB.
pub fn cpm_message(number: u64) -> Vec<u8> {
    let body = format!(
        "From: <sip:alice@a.example>\r\nTo: <sip:bob@home.example>\r\nNS: imdn<urn:ietf:params:imdn>\r\n\
         imdn.Message-ID: {number:016x}\r\nDateTime: 2026-01-01T00:00:00Z\r\n\
         imdn.Disposition-Notification: positive-delivery, display\r\n\r\nContent-Type: text/plain;charset=UTF-8\r\n\
         Content-Length: 45\r\n\r\nThe quick brown fox jumps over the lazy dog.\r\n"
    );
    format!(
        "MESSAGE sip:bob@home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK{number:016x};rport\r\n\
         Via: SIP/2.0/UDP 192.0.2.6:5060;branch=z9hG4bK776asdhds;received=192.0.2.6\r\n\
         Via: SIP/2.0/TCP 198.51.100.3:40123;branch=z9hG4bKnashds7;received=198.51.100.3;rport=40123\r\n\
         Route: <sip:term@192.0.2.1:5060;lr>, <sip:192.0.2.9:5070;lr;odi=1234567890abcdef>\r\n\
         Max-Forwards: 66\r\n\
         From: \"Alice\" <sip:alice@a.example>;tag={number:016x}\r\n\
         To: <sip:bob@home.example>\r\n\
         Call-ID: {number:016x}@198.51.100.3\r\n\
         CSeq: 1 MESSAGE\r\n\
         P-Asserted-Identity: \"Alice\" <sip:alice@a.example>\r\n\
         P-Asserted-Identity: <tel:+15550100>\r\n\
         P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg\r\n\
         P-Served-User: <sip:bob@home.example>;sescase=term;regstate=reg\r\n\
         P-Charging-Vector: icid-value=AyretyU0dm+6O2IrT5tAFrbHLso=023551024;orig-ioi=a.example\r\n\
         P-Charging-Function-Addresses: ccf=192.0.2.30\r\n\
         P-Visited-Network-ID: \"home.example\"\r\n\
         Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"\r\n\
         Conversation-ID: f81d4fae-7dec-11d0-a765-00a0c91e6bf6\r\n\
         Contribution-ID: abcdef-1234-5678-90ab-cdef01234567\r\n\
         Allow: MESSAGE, INVITE, ACK, CANCEL, BYE, OPTIONS\r\n\
         Supported: path, gruu, outbound\r\n\
         User-Agent: CPM-client/OMA2.2 RCS-client/UP_2.4 term-x/1.0\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Expires: 604800\r\n\
         Privacy: none\r\n\
         History-Info: <sip:bob@home.example>;index=1\r\n\
         Content-Type: message/cpim\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
