//! MSRP URIs, and paths, which are blank-separated lists of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The port of a URI that names none.
///
/// RFC 4975 §6.
pub const PORT_DEFAULT: u16 = 2855;

/// An MSRP URI, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrpUri<'a> {
    /// All of it.
    pub text: &'a [u8],
    /// `msrps` rather than `msrp`.
    pub secure: bool,
    /// Host name, IPv4 address, or IPv6 address with its brackets.
    pub host: &'a [u8],
    /// The port, when it is written.
    pub port: Option<u16>,
    /// What stands between the authority and the transport; empty when there is none.
    pub session_id: &'a [u8],
    /// The transport, `tcp` as a rule.
    pub transport: &'a [u8],
}

impl<'a> MsrpUri<'a> {
    /// Reads a URI; `None` when it is none of MSRP's.
    ///
    /// RFC 4975 §9.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        // Without a way out of the loop, so that it is vectorised.
        if !text.iter().fold(true, |are_all, byte| are_all & is_uri_byte(*byte)) {
            return None;
        }
        let (secure, after) = if has_prefix(text, b"msrp://") {
            (false, &text[7..])
        } else if has_prefix(text, b"msrps://") {
            (true, &text[8..])
        } else {
            return None;
        };
        let authority_len = memchr::memchr2(b'/', b';', after)?;
        let (authority, after) = after.split_at(authority_len);
        let semicolon = memchr::memchr(b';', after)?;
        let session_id = after[..semicolon].strip_prefix(b"/").unwrap_or_default();
        let after = &after[semicolon + 1..];
        let transport = &after[..memchr::memchr(b';', after).unwrap_or(after.len())];
        if transport.is_empty() || !transport.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        let authority = memchr::memrchr(b'@', authority).map_or(authority, |at| &authority[at + 1..]);
        let host_len = match authority.first()? {
            b'[' => memchr::memchr(b']', authority)? + 1,
            _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
        };
        let (host, port) = authority.split_at(host_len);
        let port = match port {
            [] => None,
            [b':', digits @ ..] => Some(parse_port(digits)?),
            _ => return None,
        };
        if host.is_empty() || host == b"[]" {
            return None;
        }
        Some(Self { text, secure, host, port, session_id, transport })
    }

    /// Whether two URIs name the same resource: hosts without case and addresses by value, ports only when both are
    /// written, session-ids with case. What stands before an `@` does not count.
    ///
    /// RFC 4975 §6.1.
    pub fn same_as(&self, other: &MsrpUri<'_>) -> bool {
        self.secure == other.secure
            && self.port == other.port
            && self.session_id == other.session_id
            && self.transport.eq_ignore_ascii_case(other.transport)
            && (self.host.eq_ignore_ascii_case(other.host)
                || matches!((self.ip(), other.ip()), (Some(one), Some(another)) if one == another))
    }

    /// Where to connect to, when the host is an address.
    ///
    /// RFC 4975 §6.
    pub fn literal_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.ip()?, self.port.unwrap_or(PORT_DEFAULT)))
    }

    fn ip(&self) -> Option<IpAddr> {
        let text = std::str::from_utf8(self.host).ok()?;
        match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(text) => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }
}

/// The URIs of a path, in order.
///
/// RFC 4975 §9.
pub fn entries(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut after = path;
    std::iter::from_fn(move || {
        loop {
            let (entry, rest) = match memchr::memchr(b' ', after) {
                Some(blank) => (&after[..blank], &after[blank + 1..]),
                None => (after, &[][..]),
            };
            after = rest;
            if !entry.is_empty() {
                return Some(entry);
            }
            if rest.is_empty() {
                return None;
            }
        }
    })
}

/// The first URI of a path; empty when the path is.
///
/// RFC 4975 §5.1.
pub fn first(path: &[u8]) -> &[u8] {
    let path = path.trim_ascii_start();
    &path[..memchr::memchr(b' ', path).unwrap_or(path.len())]
}

/// A path without its first URI; empty when there is no other.
///
/// RFC 4975 §5.1.
pub fn rest(path: &[u8]) -> &[u8] {
    let path = path.trim_ascii_start();
    path[first(path).len()..].trim_ascii()
}

/// Whether two paths name the same hops, entry by entry.
///
/// RFC 4975 §6.1.
pub fn same_path(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (mut left, mut right) = (entries(a), entries(b));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(one), Some(another)) if same_uri(one, another) => {}
            _ => return false,
        }
    }
}

/// Whether two texts name the same resource; identical texts do, whatever they are.
///
/// RFC 4975 §6.1.
pub fn same_uri(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((MsrpUri::parse(a), MsrpUri::parse(b)), (Some(one), Some(another)) if one.same_as(&another))
}

fn has_prefix(text: &[u8], prefix: &[u8]) -> bool {
    text.len() >= prefix.len() && text[..prefix.len()].eq_ignore_ascii_case(prefix)
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = digits.iter().fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0'));
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Whether a byte can stand in a URI (RFC 3986 §2): all that is visible but what delimits URIs in text.
const fn is_uri_byte(byte: u8) -> bool {
    (byte > b' ') & (byte < 0x7f) & (byte != b'"') & (byte != b'<') & (byte != b'>') & (byte != b'\\') & (byte != b'`')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> MsrpUri<'_> {
        MsrpUri::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_uri_is_taken_apart() {
        let parsed = uri("msrps://user@Example.com:7394/2s93i93idj/x;tcp;lr");
        assert!(parsed.secure);
        assert_eq!((parsed.host, parsed.port), (&b"Example.com"[..], Some(7394)));
        assert_eq!((parsed.session_id, parsed.transport), (&b"2s93i93idj/x"[..], &b"tcp"[..]));
        let bare = uri("MSRP://relay;tcp");
        assert_eq!((bare.host, bare.port, bare.session_id), (&b"relay"[..], None, &b""[..]));
    }

    #[test]
    fn addresses_are_read_and_the_port_has_a_default() {
        assert_eq!(uri("msrp://192.0.2.1/s;tcp").literal_addr(), Some("192.0.2.1:2855".parse().unwrap()));
        assert_eq!(uri("msrp://[2001:db8::1]:9/s;tcp").literal_addr(), Some("[2001:db8::1]:9".parse().unwrap()));
        assert_eq!(uri("msrp://host.example:9/s;tcp").literal_addr(), None);
        assert_eq!(uri("msrp://2001:9/s;tcp").literal_addr(), None);
    }

    #[test]
    fn what_is_no_msrp_uri_is_refused() {
        for text in [
            "",
            "msrp",
            "msrp://",
            "msrp:///s;tcp",
            "msrp://h/s",
            "msrp://h/s;",
            "msrp://h/s;t cp",
            "msrp://h:/s;tcp",
            "msrp://h:0/s;tcp",
            "msrp://h:65536/s;tcp",
            "msrp://h:9x/s;tcp",
            "msrp://[::1/s;tcp",
            "msrp://[::1]9/s;tcp",
            "msrp://[]/s;tcp",
            "msrp://u@/s;tcp",
            "sip:bob@h;tcp",
            "http://h/s;tcp",
            "msrp://h/\"s\";tcp",
            "msrp://h/s\u{e9};tcp",
        ] {
            assert_eq!(MsrpUri::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn comparison_follows_the_rules_of_the_specification() {
        let base = uri("msrp://host.example:9/AbC;tcp");
        for same in
            ["MSRP://HOST.example:9/AbC;TCP", "msrp://bob@host.example:9/AbC;tcp", "msrp://host.example:9/AbC;tcp;x=1"]
        {
            assert!(base.same_as(&uri(same)), "{same}");
        }
        for other in [
            "msrps://host.example:9/AbC;tcp",
            "msrp://host.example:9/abc;tcp",
            "msrp://host.example/AbC;tcp",
            "msrp://host.example:10/AbC;tcp",
            "msrp://other.example:9/AbC;tcp",
            "msrp://host.example:9;tcp",
            "msrp://host.example:9/AbC;sctp",
        ] {
            assert!(!base.same_as(&uri(other)), "{other}");
        }
        assert!(!uri("msrp://h:2855/s;tcp").same_as(&uri("msrp://h/s;tcp")), "a written port never equals none");
        assert!(uri("msrp://[2001:DB8::1]:9/s;tcp").same_as(&uri("msrp://[2001:db8:0::1]:9/s;tcp")));
    }

    #[test]
    fn paths_are_taken_apart_and_compared_entry_by_entry() {
        let path = b"msrp://a:1/x;tcp msrp://b:2/y;tcp  msrp://c:3/z;tcp";
        assert_eq!(entries(path).count(), 3);
        assert_eq!(first(path), b"msrp://a:1/x;tcp");
        assert_eq!(rest(path), b"msrp://b:2/y;tcp  msrp://c:3/z;tcp");
        assert_eq!(rest(rest(rest(path))), b"");
        assert_eq!((first(b""), rest(b"")), (&b""[..], &b""[..]));
        assert!(same_path(path, b"msrp://A:1/x;tcp msrp://B:2/y;tcp msrp://C:3/z;tcp"));
        assert!(!same_path(path, b"msrp://a:1/x;tcp msrp://b:2/y;tcp"));
        assert!(!same_path(b"msrp://a:1/x;tcp", path));
        assert!(same_path(b"", b" "));
    }
}
