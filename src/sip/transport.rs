//! What travels where: `received` and `rport`, the way of a response, the size at which a request leaves over a stream.
//! RFC 3261 §18, RFC 3581 §4.

use super::header::via::Via;
use std::net::{IpAddr, SocketAddr};

/// The default port of SIP over UDP and TCP. RFC 3261 §19.1.2.
pub const DEFAULT_PORT: u16 = 5060;

/// What a server adds to the topmost Via of a request it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViaStamp {
    /// `received=`: the packet's source address.
    pub received: Option<IpAddr>,
    /// `rport=`: the packet's source port.
    pub rport: Option<u16>,
}

impl ViaStamp {
    /// The stamp for a request from `peer`: `received` when sent-by is not that address or `rport` is asked for.
    ///
    /// RFC 3261 §18.2.1, RFC 3581 §4.
    pub fn of(via: &Via<'_>, peer: SocketAddr) -> Self {
        let rport = via.rport.map(|_| peer.port());
        let same = literal_ip(via.host) == Some(peer.ip());
        Self { received: (!same || rport.is_some()).then(|| peer.ip()), rport }
    }

    /// True when the Via can stay as it is.
    ///
    /// RFC 3261 §18.2.1.
    pub fn is_empty(&self) -> bool {
        self.received.is_none() && self.rport.is_none()
    }
}

/// Where the response to a request goes that came over an unreliable transport, or whose connection is gone.
///
/// RFC 3261 §18.2.2, RFC 3581 §4.
pub fn response_address(via: &Via<'_>, peer: SocketAddr) -> SocketAddr {
    if via.rport.is_some() {
        return peer;
    }
    let ip = via.maddr.and_then(literal_ip).unwrap_or(peer.ip());
    SocketAddr::new(ip, via.port.unwrap_or(DEFAULT_PORT))
}

/// A host that is a literal address, with or without the brackets of an IPv6 reference.
///
/// RFC 3261 §25.1 (`host`).
pub fn literal_ip(host: &[u8]) -> Option<IpAddr> {
    let inner = match host {
        [b'[', inner @ .., b']'] => inner,
        _ => host,
    };
    std::str::from_utf8(inner).ok()?.parse().ok()
}

/// True when a request of this length must leave over a congestion-controlled transport.
///
/// RFC 3261 §18.1.1: within 200 bytes of the path MTU.
pub const fn exceeds_datagram(len: usize, path_mtu: usize) -> bool {
    len > path_mtu.saturating_sub(200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Via<'_> {
        Via::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn rport_brings_received_and_answers_to_the_source() {
        let peer: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let v = via("SIP/2.0/UDP 192.0.2.1:5070;rport;branch=z9hG4bKa");
        assert_eq!(ViaStamp::of(&v, peer), ViaStamp { received: Some(peer.ip()), rport: Some(4000) });
        assert_eq!(response_address(&v, peer), peer);
    }

    #[test]
    fn without_rport_the_sent_by_port_counts() {
        let peer: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let v = via("SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKa");
        assert!(ViaStamp::of(&v, peer).is_empty());
        assert_eq!(response_address(&v, peer), "192.0.2.1:5070".parse().unwrap());
        let named = via("SIP/2.0/UDP host.example;branch=z9hG4bKa");
        assert_eq!(ViaStamp::of(&named, peer).received, Some(peer.ip()));
        assert_eq!(response_address(&named, peer), "192.0.2.1:5060".parse().unwrap());
    }

    #[test]
    fn an_ipv6_sent_by_is_compared_without_brackets() {
        let peer: SocketAddr = "[2001:db8::1]:4000".parse().unwrap();
        assert!(ViaStamp::of(&via("SIP/2.0/UDP [2001:DB8::1]:5070"), peer).is_empty());
    }

    #[test]
    fn thirteen_hundred_bytes_is_the_limit_at_an_mtu_of_1500() {
        assert!(!exceeds_datagram(1300, 1500));
        assert!(exceeds_datagram(1301, 1500));
    }
}
