//! Which ports the configuration claims, and which claims exclude each other.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// A run of ports on one address that the appliance will bind for TCP, and for UDP where it is SIP.
pub(super) struct Claim {
    /// The key that says so.
    pub key: &'static str,
    /// Its place in the file, if it is there.
    pub place: Option<Range<usize>>,
    /// The address.
    pub ip: IpAddr,
    /// The first port; 0 is the kernel's choice, which clashes with nothing.
    pub first: u16,
    /// How many ports from there.
    pub count: u16,
    /// What they are for.
    pub role: &'static str,
}

impl Claim {
    fn last(&self) -> u32 {
        u32::from(self.first) + u32::from(self.count) - 1
    }

    /// True when the run ends past port 65535.
    pub fn overflows(&self) -> bool {
        self.last() > u32::from(u16::MAX)
    }

    /// True when a peer at `addr` would be this appliance itself.
    pub fn covers(&self, addr: SocketAddr) -> bool {
        let own_ip = self.ip == addr.ip() || (self.ip.is_unspecified() && addr.ip().is_loopback());
        let run = u32::from(self.first)..=self.last();
        own_ip && self.first != 0 && run.contains(&u32::from(addr.port()))
    }

    /// The first port that both claims want, if there is one.
    pub fn clash(&self, other: &Self) -> Option<u16> {
        let same_ip = self.ip == other.ip
            || (self.ip.is_ipv4() == other.ip.is_ipv4() && (self.ip.is_unspecified() || other.ip.is_unspecified()));
        if !same_ip || self.first == 0 || other.first == 0 {
            return None;
        }
        let shared = self.first.max(other.first);
        (u32::from(shared) <= self.last().min(other.last())).then_some(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(ip: &str, first: u16, count: u16) -> Claim {
        Claim { key: "k", place: None, ip: ip.parse().unwrap(), first, count, role: "r" }
    }

    #[test]
    fn runs_that_share_a_port_on_one_address_clash() {
        assert_eq!(claim("127.0.0.1", 5060, 1).clash(&claim("127.0.0.1", 5058, 4)), Some(5060));
        assert_eq!(claim("127.0.0.1", 5060, 1).clash(&claim("127.0.0.1", 5061, 4)), None);
        assert_eq!(claim("127.0.0.1", 5060, 1).clash(&claim("127.0.0.2", 5060, 1)), None);
    }

    #[test]
    fn an_unspecified_address_clashes_with_every_address_of_its_family() {
        assert_eq!(claim("0.0.0.0", 5060, 1).clash(&claim("127.0.0.1", 5060, 1)), Some(5060));
        assert_eq!(claim("0.0.0.0", 5060, 1).clash(&claim("::1", 5060, 1)), None);
    }

    #[test]
    fn the_kernels_choice_clashes_with_nothing() {
        assert_eq!(claim("127.0.0.1", 0, 4).clash(&claim("127.0.0.1", 0, 4)), None);
        assert_eq!(claim("127.0.0.1", 0, 4).clash(&claim("127.0.0.1", 2, 1)), None);
    }

    #[test]
    fn a_run_past_the_last_port_overflows() {
        assert!(claim("127.0.0.1", 65_535, 2).overflows());
        assert!(!claim("127.0.0.1", 65_535, 1).overflows());
    }

    #[test]
    fn a_peer_on_an_own_port_is_the_appliance_itself() {
        assert!(claim("127.0.0.1", 5080, 2).covers("127.0.0.1:5081".parse().unwrap()));
        assert!(claim("0.0.0.0", 5080, 2).covers("127.0.0.1:5081".parse().unwrap()));
        assert!(!claim("127.0.0.1", 5080, 2).covers("127.0.0.1:5082".parse().unwrap()));
    }
}
