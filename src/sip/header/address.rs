//! Header fields that carry an address: From, To, Contact, Route, P-Asserted-Identity and their kin.

use super::list::{Param, find_outside, param, params, skip_quoted, trim};
use crate::sip::scan::is_token;

/// `[display-name] <addr-spec>;params`, or a bare `addr-spec;params`.
///
/// RFC 3261 §20.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The URI, without angle brackets.
    pub uri: &'a [u8],
    /// The header parameters, behind the URI.
    pub params: &'a [u8],
}

impl<'a> Address<'a> {
    /// Reads one value.
    ///
    /// RFC 3261 §25.1 (`name-addr`, `addr-spec`).
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let value = trim(value);
        let mut open = memchr::memchr2(b'<', b'"', value);
        if let Some(quote) = open.filter(|at| value[*at] == b'"') {
            let close = skip_quoted(value, quote);
            open = Some(close + 1 + memchr::memchr(b'<', value.get(close + 1..)?)?);
        }
        let (uri, params) = match open {
            Some(open) => {
                let close = open + memchr::memchr(b'>', &value[open..])?;
                (&value[open + 1..close], &value[close + 1..])
            }
            // Without brackets every parameter belongs to the header (RFC 3261 §20.10).
            None => match memchr::memchr(b';', value) {
                Some(semicolon) => (&value[..semicolon], &value[semicolon + 1..]),
                None => (value, &value[value.len()..]),
            },
        };
        let uri = trim(uri);
        (!uri.is_empty() && memchr::memchr(b':', uri).is_some()).then_some(Self { uri, params: trim(params) })
    }

    /// A header parameter.
    ///
    /// RFC 3261 §20.10.
    pub fn param(&self, name: &str) -> Option<Param<'a>> {
        param(self.params, name)
    }

    /// The header parameters.
    ///
    /// RFC 3261 §20.10.
    pub fn params(&self) -> impl Iterator<Item = Param<'a>> + use<'a> {
        params(self.params)
    }

    /// The tag of a From or To.
    ///
    /// RFC 3261 §19.3.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.param("tag").and_then(|param| param.value)
    }
}

/// The tag of a From or To value, found without reading the rest.
///
/// RFC 3261 §19.3.
pub fn tag(value: &[u8]) -> Option<&[u8]> {
    let from = find_outside(value, b';')?;
    // Nearly always it is the first parameter and the last.
    if let [b';', b't', b'a', b'g', b'=', tag @ ..] = &value[from..]
        && tag.iter().all(|byte| is_token(*byte))
    {
        return Some(tag);
    }
    param(&value[from..], "tag").and_then(|param| param.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_display_names_brackets_and_parameters() {
        let a = Address::parse(br#""A <b> \" c" <sip:a@b;x=1?h=2> ; tag=9 ;q=0.5"#).unwrap();
        assert_eq!(a.uri, b"sip:a@b;x=1?h=2");
        assert_eq!(a.tag(), Some(&b"9"[..]));
        assert_eq!(a.param("q").unwrap().value, Some(&b"0.5"[..]));
    }

    #[test]
    fn bare_addresses_give_their_parameters_to_the_header() {
        let a = Address::parse(b"sip:a@b;tag=1").unwrap();
        assert_eq!((a.uri, a.tag()), (&b"sip:a@b"[..], Some(&b"1"[..])));
        assert_eq!(tag(b"<sip:a@b;tag=no>;tag=yes"), Some(&b"yes"[..]));
    }

    #[test]
    fn broken_addresses_are_refused() {
        for text in [&b""[..], b"<sip:a", b"\"open <sip:a>", b"<>", b"nothing"] {
            assert_eq!(Address::parse(text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
