//! SIP, SIPS and tel URIs as views of received bytes, their comparison, and the one canonical spelling of an address.
//!
//! Specifications: RFC 3261 §19.1 (SIP and SIPS URIs), RFC 3966 (tel URIs).

use crate::base::id::Aor;
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of URI it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:`.
    Sip,
    /// `sips:`.
    Sips,
    /// `tel:`.
    Tel,
    /// Any other scheme: only the text is kept.
    Other,
}

/// Why bytes are not a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UriFault {
    /// No scheme before a colon.
    NoScheme,
    /// A byte that no URI has: a blank, a control, an angle bracket, a quote, or anything beyond ASCII.
    BadByte,
    /// A `%` without two hexadecimal digits.
    BadEscape,
    /// An `@` with nothing before it.
    BadUser,
    /// No host, or not a host name or literal address.
    BadHost,
    /// A port that is not a number below 65,536.
    BadPort,
    /// A tel URI without a telephone number.
    BadNumber,
}

/// A URI, borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Uri<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// The user without password, escapes as written; the number of a tel URI.
    pub user: Option<&'a [u8]>,
    /// The host as written, an IPv6 reference without its brackets; empty in a tel URI.
    pub host: &'a [u8],
    /// The port, if written.
    pub port: Option<u16>,
    /// The parameters, from after the first `;`.
    pub params: &'a [u8],
    /// The headers, from after the `?`.
    pub headers: &'a [u8],
    /// The whole URI.
    pub text: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Parses a URI that stands alone, without angle brackets.
    ///
    /// More generous than the grammar in the characters of user, parameters and headers, since the field is; strict
    /// about everything that tells where a part ends.
    /// RFC 3261 §25.1.
    pub fn parse(text: &'a [u8]) -> Result<Self, UriFault> {
        let colon = memchr::memchr(b':', text).ok_or(UriFault::NoScheme)?;
        let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
        if !is_scheme(scheme) {
            return Err(UriFault::NoScheme);
        }
        if !rest.iter().all(|&byte| is_uri_byte(byte)) {
            return Err(UriFault::BadByte);
        }
        if scheme.eq_ignore_ascii_case(b"sip") {
            Self::parse_sip(Scheme::Sip, text, rest)
        } else if scheme.eq_ignore_ascii_case(b"sips") {
            Self::parse_sip(Scheme::Sips, text, rest)
        } else if scheme.eq_ignore_ascii_case(b"tel") {
            Self::parse_tel(text, rest)
        } else if rest.is_empty() {
            Err(UriFault::BadHost)
        } else {
            Ok(Self { scheme: Scheme::Other, user: None, host: b"", port: None, params: b"", headers: b"", text })
        }
    }

    /// The value of a URI parameter, empty for a flag such as `lr`; names are compared without case.
    ///
    /// RFC 3261 §19.1.1.
    pub fn param(&self, name: &str) -> Option<&'a [u8]> {
        pairs(self.params, b';').find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// True for a Route whose element follows RFC 3261's loose routing.
    ///
    /// RFC 3261 §19.1.1.
    pub fn is_loose_route(&self) -> bool {
        self.param("lr").is_some()
    }

    /// The `transport` parameter.
    ///
    /// RFC 3261 §19.1.1.
    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param("transport")
    }

    /// The host where it is a literal address.
    ///
    /// RFC 3261 §19.1.1.
    pub fn ip(&self) -> Option<IpAddr> {
        let host = std::str::from_utf8(self.host).ok()?;
        if host.contains(':') {
            host.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        } else {
            host.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
    }

    /// True when both URIs name the same resource.
    ///
    /// RFC 3261 §19.1.4, RFC 3966 §4.
    pub fn same_as(&self, other: &Uri<'_>) -> bool {
        if self.scheme != other.scheme {
            return false;
        }
        match self.scheme {
            Scheme::Sip | Scheme::Sips => self.same_sip(other),
            Scheme::Tel => self.same_tel(other),
            Scheme::Other => self.text == other.text,
        }
    }

    fn parse_sip(scheme: Scheme, text: &'a [u8], rest: &'a [u8]) -> Result<Self, UriFault> {
        check_escapes(rest)?;
        // No part of a SIP URI may hold a bare `@`, so the first one ends the userinfo; `;` and `?` before it belong
        // to the user.
        let (user, rest) = match memchr::memchr(b'@', rest) {
            Some(at) => {
                let userinfo = &rest[..at];
                let user = &userinfo[..memchr::memchr(b':', userinfo).unwrap_or(at)];
                if user.is_empty() {
                    return Err(UriFault::BadUser);
                }
                (Some(user), &rest[at + 1..])
            }
            None => (None, rest),
        };
        let (host, rest) = split_host(rest)?;
        let (port, rest) = split_port(rest)?;
        let (params, headers) = match rest.first() {
            None => (&b""[..], &b""[..]),
            Some(b';') => match memchr::memchr(b'?', rest) {
                Some(mark) => (&rest[1..mark], &rest[mark + 1..]),
                None => (&rest[1..], &b""[..]),
            },
            Some(b'?') => (&b""[..], &rest[1..]),
            Some(_) => return Err(UriFault::BadHost),
        };
        Ok(Self { scheme, user, host, port, params, headers, text })
    }

    /// RFC 3966 §3: a global number, or a local one of hexadecimal digits, `*` and `#`.
    fn parse_tel(text: &'a [u8], rest: &'a [u8]) -> Result<Self, UriFault> {
        let (number, params) = split_once(rest, b';');
        let digits = number.strip_prefix(b"+").unwrap_or(number);
        let is_global = digits.len() < number.len();
        let is_digit =
            |byte: u8| byte.is_ascii_digit() || !is_global && (byte.is_ascii_hexdigit() || matches!(byte, b'*' | b'#'));
        if !digits.iter().all(|&byte| is_digit(byte) || is_visual_separator(byte))
            || !digits.iter().any(|&byte| is_digit(byte))
        {
            return Err(UriFault::BadNumber);
        }
        let params = params.unwrap_or(b"");
        Ok(Self { scheme: Scheme::Tel, user: Some(number), host: b"", port: None, params, headers: b"", text })
    }

    /// User and password as written, of a SIP or SIPS URI.
    fn userinfo(&self) -> Option<&'a [u8]> {
        self.user?;
        let start = memchr::memchr(b':', self.text)? + 1;
        let end = memchr::memchr(b'@', self.text)?;
        self.text.get(start..end)
    }

    fn same_sip(&self, other: &Uri<'_>) -> bool {
        let same_userinfo = match (self.userinfo(), other.userinfo()) {
            (None, None) => true,
            (Some(one), Some(two)) => same_escaped(one, two, false),
            _ => false,
        };
        let same_host = match (self.ip(), other.ip()) {
            (Some(one), Some(two)) => one == two,
            (None, None) => self.host.eq_ignore_ascii_case(other.host),
            _ => false,
        };
        if !same_userinfo || !same_host || self.port != other.port {
            return false;
        }
        if self.is_long() || other.is_long() {
            return self.params == other.params && self.headers == other.headers;
        }
        // A parameter both have must match; one that only one has is ignored, except those that change what the URI
        // resolves to.
        let params_agree = |one: &Uri<'_>, two: &Uri<'_>| {
            pairs(one.params, b';').all(|(key, value)| {
                match pairs(two.params, b';').find(|(name, _)| same_escaped(key, name, true)) {
                    Some((_, theirs)) => same_escaped(value, theirs, true),
                    None => !PARAMS_THAT_COUNT.iter().any(|name| key.eq_ignore_ascii_case(name.as_bytes())),
                }
            })
        };
        let headers_agree = |one: &Uri<'_>, two: &Uri<'_>| {
            pairs(one.headers, b'&').all(|(key, value)| {
                pairs(two.headers, b'&')
                    .any(|(name, theirs)| same_escaped(key, name, true) && same_escaped(value, theirs, false))
            })
        };
        params_agree(self, other)
            && params_agree(other, self)
            && headers_agree(self, other)
            && headers_agree(other, self)
    }

    fn same_tel(&self, other: &Uri<'_>) -> bool {
        let digits = |uri: &Uri<'a>| {
            uri.user.unwrap_or(b"").iter().filter(|&&byte| !is_visual_separator(byte)).map(u8::to_ascii_lowercase)
        };
        let same_number = match (self.user, other.user) {
            (Some(_), Some(theirs)) => {
                digits(self).eq(theirs.iter().filter(|&&byte| !is_visual_separator(byte)).map(u8::to_ascii_lowercase))
            }
            _ => false,
        };
        if !same_number {
            return false;
        }
        if self.is_long() || other.is_long() {
            return self.params == other.params;
        }
        let params_agree = |one: &Uri<'_>, two: &Uri<'_>| {
            pairs(one.params, b';').all(|(key, value)| {
                pairs(two.params, b';')
                    .any(|(name, theirs)| key.eq_ignore_ascii_case(name) && value.eq_ignore_ascii_case(theirs))
            })
        };
        params_agree(self, other) && params_agree(other, self)
    }

    /// So many parameters that comparing each with each would be work for an attacker to order.
    fn is_long(&self) -> bool {
        let parts = |bytes: &[u8], separator| memchr::memchr_iter(separator, bytes).count();
        parts(self.params, b';') + parts(self.headers, b'&') > PARAM_COUNT_COMPARED_MAX
    }
}

/// The canonical text of an address of record, in a fixed buffer.
#[derive(Clone, Copy)]
pub struct AorText {
    bytes: [u8; AOR_LEN_MAX],
    len: usize,
}

impl AorText {
    /// The text: ASCII, such as `sip:bob@home.example` or `tel:+15550100`.
    ///
    /// RFC 3261 §10.3.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("only ASCII is ever pushed")
    }

    /// The text on the heap, to keep.
    ///
    /// RFC 3261 §10.3.
    pub fn to_aor(&self) -> Aor {
        Aor::from_canonical(self.as_str())
    }

    const fn new() -> Self {
        Self { bytes: [0; AOR_LEN_MAX], len: 0 }
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        if !byte.is_ascii() {
            return None;
        }
        *self.bytes.get_mut(self.len)? = byte;
        self.len += 1;
        Some(())
    }

    fn extend(&mut self, bytes: impl IntoIterator<Item = u8>) -> Option<()> {
        bytes.into_iter().try_for_each(|byte| self.push(byte))
    }
}

impl fmt::Write for AorText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.extend(text.bytes()).ok_or(fmt::Error)
    }
}

impl fmt::Debug for AorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The one spelling of an address of record, or `None` for what is no SIP or telephone address, or is longer than
/// 256 bytes.
///
/// A global telephone number becomes `tel:+digits`, also when it comes as `sip:…;user=phone`. Another SIP or SIPS URI
/// becomes `sip:user@host`: escapes of unreserved characters undone, host in lower case, and no password, port,
/// parameters or headers. A local number keeps its `phone-context`.
/// RFC 3261 §10.3, RFC 3966 §5.1.
pub fn canonical(text: &[u8]) -> Option<AorText> {
    let uri = Uri::parse(text).ok()?;
    let mut aor = AorText::new();
    match uri.scheme {
        Scheme::Tel => canonical_tel(&uri, &mut aor)?,
        Scheme::Sip | Scheme::Sips => {
            let is_phone = uri.param("user").is_some_and(|value| value.eq_ignore_ascii_case(b"phone"));
            if is_phone && uri.user.and_then(|user| global_number(user, &mut aor)).is_some() {
                return Some(aor);
            }
            aor = AorText::new();
            canonical_sip(&uri, &mut aor)?;
        }
        Scheme::Other => return None,
    }
    Some(aor)
}

/// [`canonical`] for who must know the domain: a telephone number in a SIP URI keeps its host and stays `sip:`.
///
/// RFC 3261 §10.3.
pub fn canonical_literal(text: &[u8]) -> Option<AorText> {
    let uri = Uri::parse(text).ok()?;
    if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
        return canonical(text);
    }
    let mut aor = AorText::new();
    canonical_sip(&uri, &mut aor)?;
    Some(aor)
}

/// [`canonical`] on the heap.
///
/// RFC 3261 §10.3, RFC 3966 §5.1.
pub fn canonical_aor(text: &str) -> Option<Aor> {
    canonical(text.as_bytes()).map(|aor| aor.to_aor())
}

/// Undoes percent escapes into `out`, such as those of a feature tag's ICSI (`urn%3Aurn-7%3A…`); an escape that is
/// not one stays as it is. `None` when `out` is too small.
///
/// RFC 3986 §2.1.
pub fn percent_decode<'b>(text: &[u8], out: &'b mut [u8]) -> Option<&'b [u8]> {
    let mut len = 0;
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match unescape(rest) {
            Some(byte) => (byte, &rest[3..]),
            None => (first, after),
        };
        *out.get_mut(len)? = byte;
        len += 1;
        rest = after;
    }
    Some(&out[..len])
}

fn canonical_tel(uri: &Uri<'_>, aor: &mut AorText) -> Option<()> {
    let number = uri.user?;
    aor.extend(*b"tel:")?;
    aor.extend(number.iter().filter(|&&byte| !is_visual_separator(byte)).map(u8::to_ascii_lowercase))?;
    if number.starts_with(b"+") {
        return Some(());
    }
    if let Some(context) = uri.param("phone-context").filter(|context| !context.is_empty()) {
        aor.extend(*b";phone-context=")?;
        let is_number = context.starts_with(b"+");
        aor.extend(
            context.iter().filter(|&&byte| !(is_number && is_visual_separator(byte))).map(u8::to_ascii_lowercase),
        )?;
    }
    Some(())
}

fn canonical_sip(uri: &Uri<'_>, aor: &mut AorText) -> Option<()> {
    aor.extend(*b"sip:")?;
    if let Some(user) = uri.user {
        canonical_user(user, aor)?;
        aor.push(b'@')?;
    }
    match uri.ip() {
        Some(IpAddr::V6(ip)) => write!(aor, "[{ip}]").ok(),
        _ => {
            // A name with its final dot is the same name.
            let end = uri.host.iter().rposition(|&byte| byte != b'.')?;
            let host = &uri.host[..=end];
            aor.extend(host.iter().map(u8::to_ascii_lowercase))
        }
    }
}

/// Writes `tel:+digits` when `user` is a telephone-subscriber with a global number.
fn global_number(user: &[u8], aor: &mut AorText) -> Option<()> {
    let mut decoded = [0; AOR_LEN_MAX];
    // Escapes are undone first, else `%2B1555…` would be a way around a blocked number.
    let number = percent_decode(split_once(user, b';').0, &mut decoded)?;
    let digits = number.strip_prefix(b"+")?;
    let is_number = digits.iter().all(|&byte| byte.is_ascii_digit() || is_visual_separator(byte))
        && digits.iter().any(u8::is_ascii_digit);
    if !is_number {
        return None;
    }
    aor.extend(*b"tel:+")?;
    aor.extend(digits.iter().copied().filter(u8::is_ascii_digit))
}

/// Undoes escapes of unreserved characters, writes the others in upper case.
fn canonical_user(user: &[u8], aor: &mut AorText) -> Option<()> {
    let mut rest = user;
    while let Some((&first, after)) = rest.split_first() {
        match unescape(rest) {
            Some(byte) if is_unreserved(byte) => {
                aor.push(byte)?;
                rest = &rest[3..];
            }
            Some(_) => {
                aor.extend(rest[..3].iter().map(u8::to_ascii_uppercase))?;
                rest = &rest[3..];
            }
            None => {
                aor.push(first)?;
                rest = after;
            }
        }
    }
    Some(())
}

fn split_host(rest: &[u8]) -> Result<(&[u8], &[u8]), UriFault> {
    if let Some(inside) = rest.strip_prefix(b"[") {
        let end = memchr::memchr(b']', inside).ok_or(UriFault::BadHost)?;
        let host = std::str::from_utf8(&inside[..end]).map_err(|_| UriFault::BadHost)?;
        host.parse::<Ipv6Addr>().map_err(|_| UriFault::BadHost)?;
        return Ok((&inside[..end], &inside[end + 1..]));
    }
    // Underscores are not in the grammar, and are in the field.
    let is_host_byte = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let end = rest.iter().position(|byte| !is_host_byte(byte)).unwrap_or(rest.len());
    if end == 0 { Err(UriFault::BadHost) } else { Ok(rest.split_at(end)) }
}

fn split_port(rest: &[u8]) -> Result<(Option<u16>, &[u8]), UriFault> {
    let Some(after) = rest.strip_prefix(b":") else { return Ok((None, rest)) };
    let end = after.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(after.len());
    if end == 0 {
        return Err(UriFault::BadPort);
    }
    let port =
        after[..end].iter().try_fold(0_u16, |port, digit| port.checked_mul(10)?.checked_add(u16::from(digit - b'0')));
    Ok((Some(port.ok_or(UriFault::BadPort)?), &after[end..]))
}

fn split_once(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(separator, bytes) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    }
}

/// Names and values of parameters or headers; empty ones are skipped.
fn pairs(bytes: &[u8], separator: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    bytes.split(move |&byte| byte == separator).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = split_once(pair, b'=');
        (name, value.unwrap_or(b""))
    })
}

fn check_escapes(bytes: &[u8]) -> Result<(), UriFault> {
    let is_escape = |at: usize| unescape(&bytes[at..]).is_some();
    if memchr::memchr_iter(b'%', bytes).all(is_escape) { Ok(()) } else { Err(UriFault::BadEscape) }
}

/// The byte that an escape at the start of `bytes` stands for.
fn unescape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

/// Compares as the comparison rules do: a character outside the reserved set equals its escape.
fn same_escaped(one: &[u8], two: &[u8], ignore_case: bool) -> bool {
    let fold = move |(byte, escaped): (u8, bool)| (if ignore_case { byte.to_ascii_lowercase() } else { byte }, escaped);
    unescaped(one).map(fold).eq(unescaped(two).map(fold))
}

/// Characters with escapes undone; the flag marks reserved characters that were escaped.
fn unescaped(bytes: &[u8]) -> impl Iterator<Item = (u8, bool)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        if let Some(byte) = unescape(rest) {
            rest = &rest[3..];
            return Some((byte, is_reserved(byte)));
        }
        rest = after;
        Some((first, false))
    })
}

fn is_scheme(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

const fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"')
}

/// RFC 3966 §5.1.1.
const fn is_visual_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'(' | b')')
}

/// RFC 3261 §25.1, `unreserved`.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

/// RFC 3261 §25.1, `reserved`.
const fn is_reserved(byte: u8) -> bool {
    matches!(byte, b';' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b'+' | b'$' | b',')
}

/// Longest canonical address of record, in bytes.
pub const AOR_LEN_MAX: usize = 256;

/// Parameters and headers of one URI that are compared one by one; URIs with more are compared as bytes.
const PARAM_COUNT_COMPARED_MAX: usize = 64;

/// Parameters that make URIs differ when only one of them has it (RFC 3261 §19.1.4).
const PARAMS_THAT_COUNT: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_part_of_a_sip_uri_is_found() {
        let uri = parse("sips:alice:secret@Atlanta.example:5061;transport=tcp;lr?subject=x&to=y");
        assert_eq!(uri.scheme, Scheme::Sips);
        assert_eq!(uri.user, Some(&b"alice"[..]));
        assert_eq!(uri.host, b"Atlanta.example");
        assert_eq!(uri.port, Some(5061));
        assert_eq!(uri.params, b"transport=tcp;lr");
        assert_eq!(uri.headers, b"subject=x&to=y");
        assert_eq!(uri.transport(), Some(&b"tcp"[..]));
        assert!(uri.is_loose_route());
        assert_eq!(uri.param("LR"), Some(&b""[..]));
        assert_eq!(uri.param("maddr"), None);
    }

    #[test]
    fn a_host_alone_is_a_sip_uri() {
        let uri = parse("SIP:proxy.example?priority=urgent");
        assert_eq!((uri.user, uri.host, uri.headers), (None, &b"proxy.example"[..], &b"priority=urgent"[..]));
        assert!(uri.params.is_empty());
    }

    #[test]
    fn an_ipv6_reference_is_a_host_without_brackets() {
        let uri = parse("sip:bob@[2001:db8::9:1]:5070;lr");
        assert_eq!(uri.host, b"2001:db8::9:1");
        assert_eq!(uri.port, Some(5070));
        assert_eq!(uri.ip(), "2001:db8::9:1".parse().ok());
        assert_eq!(parse("sip:192.0.2.7").ip(), "192.0.2.7".parse().ok());
        assert_eq!(parse("sip:proxy.example").ip(), None);
    }

    #[test]
    fn semicolons_and_question_marks_before_the_at_sign_belong_to_the_user() {
        // RFC 4475 §3.1.1.9 (semiuri) and §3.1.1.2 (intmeth).
        let uri = parse("sip:user;par=u%40example.net@example.com;lr");
        assert_eq!(uri.user, Some(&b"user;par=u%40example.net"[..]));
        assert_eq!(uri.params, b"lr");
        let uri = parse(
            "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
        );
        assert_eq!(uri.user, Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..]));
        assert_eq!(uri.host, b"example.com");
    }

    #[test]
    fn escapes_stay_as_written() {
        // RFC 4475 §3.1.1.3 (esc01) and §3.1.1.4 (escnull).
        assert_eq!(parse("sip:sips%3Auser%40example.com@example.net").user, Some(&b"sips%3Auser%40example.com"[..]));
        assert_eq!(parse("sip:null-%00-null@example.com").user, Some(&b"null-%00-null"[..]));
    }

    #[test]
    fn a_tel_uri_has_its_number_as_user() {
        let uri = parse("tel:+1-(555).0100;ext=7;x");
        assert_eq!(uri.scheme, Scheme::Tel);
        assert_eq!(uri.user, Some(&b"+1-(555).0100"[..]));
        assert_eq!(uri.host, b"");
        assert_eq!(uri.param("ext"), Some(&b"7"[..]));
    }

    #[test]
    fn other_schemes_keep_their_text() {
        let uri = parse("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
        assert_eq!(uri.scheme, Scheme::Other);
        assert_eq!(uri.text, b"urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
    }

    #[test]
    fn empty_parameters_are_skipped() {
        let uri = parse("sip:example.com;;lr;");
        assert_eq!(uri.params, b";lr;");
        assert!(uri.is_loose_route());
    }

    #[test]
    fn what_is_no_uri_is_told_apart() {
        for (text, fault) in [
            ("", UriFault::NoScheme),
            ("bob@example.com", UriFault::NoScheme),
            (":x", UriFault::NoScheme),
            ("1sip:x", UriFault::NoScheme),
            ("<sip:x>", UriFault::NoScheme),
            ("sip:bob@example.com, sip:x", UriFault::BadByte),
            ("sip:bob@example.com>", UriFault::BadByte),
            ("sip:b\u{f6}b@example.com", UriFault::BadByte),
            ("sip:bo%2@example.com", UriFault::BadEscape),
            ("sip:bo%@example.com", UriFault::BadEscape),
            ("sip:@example.com", UriFault::BadUser),
            ("sip::pw@example.com", UriFault::BadUser),
            ("sip:", UriFault::BadHost),
            ("sip:bob@", UriFault::BadHost),
            ("sip:bob@;lr", UriFault::BadHost),
            ("sip:bob@a@b", UriFault::BadHost),
            ("sip:bob@[::1", UriFault::BadHost),
            ("sip:bob@[zz]", UriFault::BadHost),
            ("sip:bob@[::1]x", UriFault::BadHost),
            ("sip:bob@exa(mple.com", UriFault::BadHost),
            ("sip:bob@example.com:", UriFault::BadPort),
            ("sip:bob@example.com:x", UriFault::BadPort),
            ("sip:bob@example.com:65536", UriFault::BadPort),
            ("tel:", UriFault::BadNumber),
            ("tel:+", UriFault::BadNumber),
            ("tel:+12ab", UriFault::BadNumber),
            ("tel:bob@example.com", UriFault::BadNumber),
            ("urn:", UriFault::BadHost),
        ] {
            assert_eq!(Uri::parse(text.as_bytes()).err(), Some(fault), "{text}");
        }
    }

    #[test]
    fn uris_compare_as_the_examples_of_rfc_3261_section_19_1_4_say() {
        for (one, two) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("sip:bob@[2001:db8:0::1]", "sip:bob@[2001:DB8::1]"),
            ("tel:+1-555-0100", "tel:+1(555)0100"),
            ("tel:7042;phone-context=Example.com", "tel:70-42;phone-context=example.com"),
        ] {
            assert!(parse(one).same_as(&parse(two)), "{one} {two}");
            assert!(parse(two).same_as(&parse(one)), "{two} {one}");
        }
    }

    #[test]
    fn uris_differ_as_the_examples_of_rfc_3261_section_19_1_4_say() {
        for (one, two) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
            ("sip:bob@biloxi.com", "sip:biloxi.com"),
            ("sip:bob:one@biloxi.com", "sip:bob:two@biloxi.com"),
            ("sip:a%3Bb@biloxi.com", "sip:a;b@biloxi.com"),
            ("tel:+15550100", "tel:15550100"),
            ("tel:+15550100;ext=1", "tel:+15550100"),
        ] {
            assert!(!parse(one).same_as(&parse(two)), "{one} {two}");
            assert!(!parse(two).same_as(&parse(one)), "{two} {one}");
        }
    }

    #[test]
    fn an_address_has_one_canonical_spelling() {
        for (text, aor) in [
            ("sip:bob@home.example", "sip:bob@home.example"),
            ("SIP:Bob@HOME.Example:5070;transport=tcp?x=y", "sip:Bob@home.example"),
            ("sips:bob:secret@home.example.", "sip:bob@home.example"),
            ("sip:%62ob%3b%2d@home.example", "sip:bob%3B-@home.example"),
            ("sip:home.example", "sip:home.example"),
            ("sip:bob@[2001:DB8:0:0::1]:5060", "sip:bob@[2001:db8::1]"),
            ("tel:+1-(555).01-00;ext=1", "tel:+15550100"),
            ("sip:+1-555-0100@home.example;user=phone", "tel:+15550100"),
            ("sip:+1-555-0100;isub=9@home.example;User=Phone", "tel:+15550100"),
            ("sip:%2B15550100@home.example;user=phone", "tel:+15550100"),
            ("sip:+15550100@home.example", "sip:+15550100@home.example"),
            ("sip:7042@home.example;user=phone", "sip:7042@home.example"),
            ("tel:70-42;phone-context=Example.COM;x=y", "tel:7042;phone-context=example.com"),
            ("tel:7042;phone-context=+1-555", "tel:7042;phone-context=+1555"),
            ("tel:7042", "tel:7042"),
        ] {
            assert_eq!(canonical(text.as_bytes()).expect(text).as_str(), aor, "{text}");
        }
    }

    #[test]
    fn a_number_in_a_sip_uri_can_keep_its_domain() {
        let literal = |text: &str| canonical_literal(text.as_bytes()).map(|aor| aor.as_str().to_owned());
        assert_eq!(literal("sip:+15550100@Home.example;user=phone").as_deref(), Some("sip:+15550100@home.example"));
        assert_eq!(literal("sip:bob@home.example").as_deref(), Some("sip:bob@home.example"));
        assert_eq!(literal("tel:+1-555-0100").as_deref(), Some("tel:+15550100"));
    }

    #[test]
    fn what_is_no_address_has_no_canonical_spelling() {
        let long = format!("sip:{}@home.example", "a".repeat(256));
        for text in ["", "bob", "sip:bob@..", "mailto:bob@home.example", "sip:", "sip:@x", &long] {
            assert!(canonical(text.as_bytes()).is_none(), "{text}");
        }
        let fits = format!("sip:{}@h", "a".repeat(AOR_LEN_MAX - 6));
        assert_eq!(canonical_aor(&fits).map(|aor| aor.as_str().len()), Some(AOR_LEN_MAX));
    }

    #[test]
    fn percent_escapes_are_undone_within_bounds() {
        let mut out = [0; 64];
        assert_eq!(percent_decode(b"urn%3Aurn-7%3a3gpp", &mut out), Some(&b"urn:urn-7:3gpp"[..]));
        assert_eq!(percent_decode(b"100%", &mut out), Some(&b"100%"[..]));
        assert_eq!(percent_decode(b"%zz%2", &mut out), Some(&b"%zz%2"[..]));
        assert_eq!(percent_decode(b"abc", &mut out[..2]), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(uri) = Uri::parse(&text) {
                let _ = (uri.param("lr"), uri.ip(), uri.same_as(&uri));
            }
            let _ = canonical(&text);
        }

        #[test]
        fn parsing_uri_like_text_never_panics_and_every_uri_equals_itself(
            text in "(sip|sips|tel|SIP|x):[a-c+0-9%;:@.\\[\\]=?&()A-F-]{0,40}",
        ) {
            if let Ok(uri) = Uri::parse(text.as_bytes()) {
                prop_assert!(uri.same_as(&uri), "{}", text);
            }
        }

        #[test]
        fn the_canonical_spelling_is_its_own_canonical_spelling(
            text in "(sip|sips|tel|SIP):(\\+?[0-9a-cA-F%;.()-]{1,12}@?)?([a-zA-Z0-9.-]{1,9}|\\[::1\\])(:[0-9]{1,5})?(;user=phone|;lr|;phone-context=\\+?[A-C1.-]{0,4}){0,2}",
        ) {
            if let Some(aor) = canonical(text.as_bytes()) {
                let again = canonical(aor.as_str().as_bytes()).expect("a canonical address parses");
                prop_assert_eq!(again.as_str(), aor.as_str());
            }
        }
    }

    fn parse(text: &str) -> Uri<'_> {
        Uri::parse(text.as_bytes()).expect(text)
    }
}
