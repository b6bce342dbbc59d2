//! The Via header field.

use super::list::{params, split_first, trim};
use crate::sip::scan::decimal;

/// One Via value.
///
/// RFC 3261 §20.42.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The transport: `UDP`, `TCP` …
    pub transport: &'a [u8],
    /// The sent-by host; an IPv6 reference keeps its brackets.
    pub host: &'a [u8],
    /// The sent-by port.
    pub port: Option<u16>,
    /// The branch.
    pub branch: Option<&'a [u8]>,
    /// `received`, as an earlier hop wrote it.
    pub received: Option<&'a [u8]>,
    /// `rport`: `None` when absent, empty when asked for (RFC 3581 §3).
    pub rport: Option<&'a [u8]>,
    /// `maddr`.
    pub maddr: Option<&'a [u8]>,
    /// This value's text, without what follows its comma.
    pub text: &'a [u8],
}

/// What RFC 3261 §8.1.1.7 makes every branch begin with.
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

impl<'a> Via<'a> {
    /// Reads the first value of a Via field.
    ///
    /// RFC 3261 §25.1 (`via-parm`).
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (text, _) = split_first(value);
        // sent-protocol: `SIP / 2.0 / UDP`, blanks allowed around the slashes.
        let first = memchr::memchr(b'/', text)?;
        let second = first + 1 + memchr::memchr(b'/', &text[first + 1..])?;
        if !trim(&text[..first]).eq_ignore_ascii_case(b"SIP") || trim(&text[first + 1..second]) != b"2.0" {
            return None;
        }
        let rest = trim(&text[second + 1..]);
        let gap = rest.iter().position(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'))?;
        let (transport, rest) = (&rest[..gap], trim(&rest[gap..]));
        let (sent_by, parameters) = match memchr::memchr(b';', rest) {
            Some(semicolon) => (trim(&rest[..semicolon]), &rest[semicolon + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        let (host, port) = split_host_port(sent_by)?;
        let mut via = Self { transport, host, port, branch: None, received: None, rport: None, maddr: None, text };
        for param in params(parameters) {
            let value = param.value.unwrap_or_default();
            if param.is("branch") {
                via.branch = Some(value);
            } else if param.is("received") {
                via.received = Some(value);
            } else if param.is("rport") {
                via.rport = Some(value);
            } else if param.is("maddr") {
                via.maddr = Some(value);
            }
        }
        Some(via)
    }

    /// True when the branch was made by RFC 3261 rules and is not empty behind the cookie.
    ///
    /// RFC 3261 §17.2.3.
    pub fn has_magic_cookie(&self) -> bool {
        self.branch.is_some_and(|branch| {
            branch.len() > MAGIC_COOKIE.len() && branch[..MAGIC_COOKIE.len()].eq_ignore_ascii_case(MAGIC_COOKIE)
        })
    }
}

/// Splits `host[:port]`; an IPv6 reference keeps its brackets.
///
/// RFC 3261 §25.1 (`hostport`).
pub fn split_host_port(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_len = match text.first()? {
        b'[' => memchr::memchr(b']', text)? + 1,
        _ => memchr::memchr2(b':', b' ', text).unwrap_or(text.len()),
    };
    let (host, rest) = (&text[..host_len], trim(&text[host_len..]));
    if host.is_empty() {
        return None;
    }
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => {
            let port = u16::try_from(decimal(trim(port))?).ok()?;
            Some((host, Some(port)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_first_value_of_a_list() {
        let via = Via::parse(b"SIP / 2.0 / TCP  [2001:db8::9]:5070 ;branch=z9hG4bKa;rport, SIP/2.0/UDP b").unwrap();
        assert_eq!((via.transport, via.host, via.port), (&b"TCP"[..], &b"[2001:db8::9]"[..], Some(5070)));
        assert_eq!((via.branch, via.rport), (Some(&b"z9hG4bKa"[..]), Some(&b""[..])));
        assert!(via.has_magic_cookie());
    }

    #[test]
    fn blanks_around_the_port_colon_are_read() {
        let via = Via::parse(b"SIP/2.0/UDP host.example : 5061 ; received=192.0.2.1").unwrap();
        assert_eq!((via.host, via.port, via.received), (&b"host.example"[..], Some(5061), Some(&b"192.0.2.1"[..])));
    }

    #[test]
    fn broken_values_are_refused() {
        for text in
            [&b""[..], b"SIP/2.0/UDP", b"SIP/2.0 x", b"HTTP/1.1/UDP a", b"SIP/2.0/UDP a:99999", b"SIP/2.0/UDP [::1"]
        {
            assert_eq!(Via::parse(text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
