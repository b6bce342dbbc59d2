//! Next hops: `ip:port`, `host:port` or a SIP URI, with the address found.

use crate::participating::effect::NextHop;
use crate::participating::input::Transport;
use crate::participating::settings::Peer;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Finds the addresses of a host name, best first.
pub(super) type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Asks the operating system.
pub(super) fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

/// The port of a SIP URI that names none. RFC 3261 §19.1.2.
pub(super) const SIP_PORT: u16 = 5060;

/// What next hops are found with.
pub(super) struct Surroundings<'a> {
    /// Names with fixed addresses, lower case; they come before the operating system's.
    pub hosts: &'a [(Box<str>, SocketAddr)],
    /// The listening addresses: a next hop of another family cannot be reached from them.
    pub listen: &'a [SocketAddr],
    /// For all other names.
    pub look_up: &'a LookUp,
}

/// Reads a next hop and finds its address; the error says what is wrong and what is allowed.
pub(super) fn parse_peer(text: &str, around: &Surroundings<'_>) -> Result<Peer, String> {
    let written = Written::parse(text).ok_or_else(|| {
        format!("{text:?} is no next hop (ip:port, host:port or a SIP URI such as sip:core.example:5070;transport=tcp)")
    })?;
    let transport = written.transport()?;
    let host = written.host.to_ascii_lowercase();
    let addr = around.address(&host, written.port)?;
    let mut uri = String::from("sip:");
    if let Some(user) = written.user {
        uri.push_str(user);
        uri.push('@');
    }
    uri.push_str(&host);
    if let Some(port) = written.port {
        uri.push_str(&format!(":{port}"));
    }
    for parameter in &written.parameters {
        uri.push(';');
        uri.push_str(parameter);
    }
    // A Route without it would make the next hop a strict router (RFC 3261 §16.12.1.2).
    if !written.parameters.iter().any(|parameter| parameter.eq_ignore_ascii_case("lr")) {
        uri.push_str(";lr");
    }
    Ok(Peer { uri: uri.into(), host: host.into(), hop: NextHop { transport, addr } })
}

impl Surroundings<'_> {
    fn address(&self, host: &str, port: Option<u16>) -> Result<SocketAddr, String> {
        let found = if let Some(ip) = literal(host) {
            vec![SocketAddr::new(ip, port.unwrap_or(SIP_PORT))]
        } else if let Some((_, fixed)) = self.hosts.iter().find(|(name, _)| **name == *host) {
            vec![*fixed]
        } else {
            (self.look_up)(host, port.unwrap_or(SIP_PORT))
                .map_err(|cause| format!("host {host} has no address: {cause} (sip.hosts can give it one)"))?
        };
        let Some(first) = found.first() else {
            return Err(format!("host {host} has no address (sip.hosts can give it one)"));
        };
        let usable = found.iter().find(|addr| self.listen.iter().any(|own| own.is_ipv4() == addr.is_ipv4()));
        let Some(addr) = usable else {
            let family = if first.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!("{first} cannot be reached (sip.listen has no {family} address)"));
        };
        if addr.ip().is_unspecified() || addr.ip().is_multicast() || addr.port() == 0 {
            return Err(format!("{addr} is nowhere to send to (a host's address and a port from 1 to 65535)"));
        }
        Ok(*addr)
    }
}

/// The IP address of a host that is written as one, IPv6 in brackets.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// True for what can stand as a host: an address or a domain name. RFC 3261 §25.1.
pub(super) fn is_host(text: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-');
    literal(text).is_some()
        || (text.len() <= 253
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
            // A name whose last label is a number is a mistyped address (RFC 1123 §2.1).
            && !text.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())))
}

/// A next hop in its parts, as written.
struct Written<'a> {
    user: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    parameters: Vec<&'a str>,
}

impl<'a> Written<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.bytes().any(|byte| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | b'?' | b',' | 0x7f..)) {
            return None;
        }
        let rest = match text.get(..4) {
            Some(scheme) if scheme.eq_ignore_ascii_case("sip:") => &text[4..],
            _ => text,
        };
        let (user, rest) = match rest.split_once('@') {
            Some(("", _)) => return None,
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let mut parts = rest.split(';');
        let place = parts.next()?;
        let parameters: Vec<_> = parts.collect();
        if parameters.iter().any(|parameter| parameter.is_empty()) {
            return None;
        }
        let host_end = match place.find(']') {
            Some(bracket) => bracket + 1,
            None => place.find(':').unwrap_or(place.len()),
        };
        let (host, rest) = place.split_at(host_end);
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':')?.parse().ok()?),
        };
        is_host(host).then_some(Self { user, host, port, parameters })
    }

    fn transport(&self) -> Result<Option<Transport>, String> {
        let value = self.parameters.iter().find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.eq_ignore_ascii_case("transport").then_some(value)
        });
        match value {
            None => Ok(None),
            Some(value) if value.eq_ignore_ascii_case("udp") => Ok(Some(Transport::Udp)),
            Some(value) if value.eq_ignore_ascii_case("tcp") => Ok(Some(Transport::Tcp)),
            Some(value) => Err(format!("transport {value} is not supported (udp, tcp)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around<'a>(listen: &'a [SocketAddr], hosts: &'a [(Box<str>, SocketAddr)]) -> Surroundings<'a> {
        Surroundings { hosts, listen, look_up: &|host, port| two_families(host, port) }
    }

    fn two_families(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match host {
            "both.example" => Ok(vec![
                SocketAddr::new("2001:db8::1".parse().unwrap(), port),
                SocketAddr::new("192.0.2.1".parse().unwrap(), port),
            ]),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        }
    }

    fn ipv4() -> Vec<SocketAddr> {
        vec!["127.0.0.1:5060".parse().unwrap()]
    }

    #[test]
    fn an_address_alone_becomes_a_loose_route() {
        let peer = parse_peer("127.0.0.1:5070", &around(&ipv4(), &[])).unwrap();
        assert_eq!(&*peer.uri, "sip:127.0.0.1:5070;lr");
        assert_eq!(peer.hop, NextHop { transport: None, addr: "127.0.0.1:5070".parse().unwrap() });
    }

    #[test]
    fn a_uri_keeps_user_and_parameters() {
        let peer = parse_peer("sip:Isf@192.0.2.7;transport=TCP;x=1", &around(&ipv4(), &[])).unwrap();
        assert_eq!(&*peer.uri, "sip:Isf@192.0.2.7;transport=TCP;x=1;lr");
        assert_eq!(peer.hop, NextHop { transport: Some(Transport::Tcp), addr: "192.0.2.7:5060".parse().unwrap() });
    }

    #[test]
    fn a_name_gets_an_address_of_a_family_that_is_listened_on() {
        let peer = parse_peer("Both.example:5075", &around(&ipv4(), &[])).unwrap();
        assert_eq!((&*peer.host, peer.hop.addr), ("both.example", "192.0.2.1:5075".parse().unwrap()));
        let ipv6 = ["[::1]:5060".parse().unwrap()];
        let peer = parse_peer("both.example:5075", &around(&ipv6, &[])).unwrap();
        assert_eq!(peer.hop.addr, "[2001:db8::1]:5075".parse().unwrap());
    }

    #[test]
    fn a_fixed_address_comes_before_a_look_up() {
        let hosts = [("both.example".into(), "127.0.0.1:6000".parse().unwrap())];
        let peer = parse_peer("sip:both.example", &around(&ipv4(), &hosts)).unwrap();
        assert_eq!(peer.hop.addr, "127.0.0.1:6000".parse().unwrap());
    }

    #[test]
    fn an_ipv6_reference_is_a_host() {
        let ipv6 = ["[::1]:5060".parse().unwrap()];
        let peer = parse_peer("[::1]:5070", &around(&ipv6, &[])).unwrap();
        assert_eq!((&*peer.uri, &*peer.host), ("sip:[::1]:5070;lr", "[::1]"));
    }

    #[test]
    fn what_is_no_next_hop_is_refused() {
        for text in
            ["", "sip:", "sips:core.example", "a b:1", "core:99999", "::1:5070", "1.2.3:5060", "sip:@h", "h;", "<h>"]
        {
            assert!(parse_peer(text, &around(&ipv4(), &[])).is_err(), "{text}");
        }
        for text in ["127.0.0.1:0", "0.0.0.0:5070", "[::1]:5070", "239.1.1.1:5060", "h.example;transport=tls"] {
            assert!(parse_peer(text, &around(&ipv4(), &[])).is_err(), "{text}");
        }
    }
}
