//! Socket addresses as the kernel writes and reads them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an IPv4 or IPv6 socket address.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Bytes a received address takes.
pub(super) const RAW_ADDR_LEN: usize = size_of::<libc::sockaddr_in6>();

impl RawAddr {
    /// Room for any address.
    pub(super) const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// The address and the length the kernel wants to hear.
    pub(super) fn new(addr: SocketAddr) -> (Self, libc::socklen_t) {
        match addr {
            SocketAddr::V4(addr) => (
                Self {
                    v4: libc::sockaddr_in {
                        sin_family: libc::AF_INET as libc::sa_family_t,
                        sin_port: addr.port().to_be(),
                        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                        sin_zero: [0; 8],
                    },
                },
                size_of::<libc::sockaddr_in>() as libc::socklen_t,
            ),
            SocketAddr::V6(addr) => (
                Self {
                    v6: libc::sockaddr_in6 {
                        sin6_family: libc::AF_INET6 as libc::sa_family_t,
                        sin6_port: addr.port().to_be(),
                        sin6_flowinfo: addr.flowinfo(),
                        sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                        sin6_scope_id: addr.scope_id(),
                    },
                },
                size_of::<libc::sockaddr_in6>() as libc::socklen_t,
            ),
        }
    }
}

/// Reads an address that the kernel wrote; `None` for a family that no socket of ours has.
pub(super) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port)))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            // A flow label belongs to one packet, not to the peer: it is left out so that equal peers compare equal.
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_through_the_kernels_form() {
        for text in ["192.0.2.7:5060", "[2001:db8::7]:5061", "[::1]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            let (raw, len) = RawAddr::new(addr);
            // SAFETY: both variants are plain integers without padding in their first `len` bytes.
            let bytes = unsafe { std::slice::from_raw_parts((&raw const raw).cast::<u8>(), len as usize) };
            assert_eq!(parse(bytes), Some(addr));
        }
    }

    #[test]
    fn a_short_or_foreign_address_is_none() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[2, 0, 0, 1]), None);
        assert_eq!(parse(&[0; 28]), None);
    }
}
