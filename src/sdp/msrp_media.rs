//! The MSRP media line and its attributes. RFC 4975 §8, RFC 4145, RFC 5547, RFC 6714.

use super::lines::{Line, number, words};
use crate::base::limits::MSRP_PATH_COUNT_MAX;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `a=setup`: who opens the connection (RFC 4145 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Setup {
    /// No such attribute: the offerer connects (RFC 4975 §5.4).
    #[default]
    Absent,
    /// The writer connects.
    Active,
    /// The writer listens.
    Passive,
    /// The writer does either.
    Actpass,
    /// Nobody connects for the time being.
    Holdconn,
}

/// Who of both opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// This appliance connects.
    Active,
    /// The peer connects.
    Passive,
}

/// Which way media goes, from the writer's viewpoint (RFC 3264 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both ways; also what a description says that says nothing.
    #[default]
    SendRecv,
    /// The writer sends.
    SendOnly,
    /// The writer receives.
    RecvOnly,
    /// Neither.
    Inactive,
}

/// An `m=message … TCP/MSRP` line with its attributes. Where an attribute stands twice, the first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageMedia<'a> {
    /// Position among the media lines.
    pub index: usize,
    /// The port of the media line.
    pub port: u16,
    /// The value of `a=path`: URIs separated by blanks, the writer's neighbour first; empty without one.
    pub path: &'a [u8],
    /// Where the media line says that the writer is: the literal address of `c=` with its port.
    pub connect: Option<SocketAddr>,
    /// `a=setup`.
    pub setup: Setup,
    /// The direction.
    pub direction: Direction,
    /// The value of `a=accept-types`; empty without one.
    pub accept_types: &'a [u8],
    /// The value of `a=accept-wrapped-types`.
    pub accept_wrapped_types: Option<&'a [u8]>,
    /// `a=max-size`.
    pub size_max: Option<u64>,
    /// `a=msrp-cema`.
    pub cema: bool,
    /// The value of `a=file-selector`.
    pub file_selector: Option<&'a [u8]>,
    /// The size that the file selector names.
    pub file_size: Option<u64>,
}

impl<'a> MessageMedia<'a> {
    /// True when `message/cpim` is among the accepted types.
    ///
    /// RFC 4975 §8.6.
    pub fn takes_cpim(&self) -> bool {
        words(self.accept_types).any(|entry| {
            let kind = entry.split(|byte| *byte == b';').next().unwrap_or_default();
            [&b"message/cpim"[..], b"message/*", b"*"].iter().any(|taken| kind.eq_ignore_ascii_case(taken))
        })
    }

    /// True when the writer of this offer sends.
    ///
    /// RFC 3264 §5.1.
    pub const fn offers_to_send(&self) -> bool {
        matches!(self.direction, Direction::SendOnly | Direction::SendRecv)
    }

    /// True when the writer of this answer receives.
    ///
    /// RFC 3264 §6.1.
    pub const fn answers_to_receive(&self) -> bool {
        matches!(self.direction, Direction::RecvOnly | Direction::SendRecv)
    }

    /// True when there is a path of MSRP URIs, in front of which this appliance's own URI has room.
    ///
    /// RFC 4975 §8.2.
    pub fn has_path(&self) -> bool {
        let count = words(self.path).count();
        (1..MSRP_PATH_COUNT_MAX).contains(&count) && words(self.path).all(is_msrp_uri)
    }

    /// True when the neighbour wants TLS, whatever its media line says.
    ///
    /// RFC 4975 §6.
    pub fn is_secured(&self) -> bool {
        self.path.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"msrps:"))
    }

    /// What the lines of a media section say; what they leave open is taken from the session's lines.
    pub(super) fn of(index: usize, port: u16, own: &Attributes<'a>, session: &Attributes<'a>) -> Self {
        let address = own.address.or(session.address).flatten();
        Self {
            index,
            port,
            path: own.path.unwrap_or_default(),
            connect: address.map(|address| SocketAddr::new(address, port)),
            setup: own.setup.or(session.setup).unwrap_or_default(),
            direction: own.direction.or(session.direction).unwrap_or_default(),
            accept_types: own.accept_types.unwrap_or_default(),
            accept_wrapped_types: own.accept_wrapped_types,
            size_max: own.size_max,
            cema: own.cema || session.cema,
            file_selector: own.file_selector,
            file_size: own.file_selector.and_then(selector_size),
        }
    }
}

impl Setup {
    /// The value of the attribute; `None` when there is to be none.
    ///
    /// RFC 4145 §4.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::Active => Some("active"),
            Self::Passive => Some("passive"),
            Self::Actpass => Some("actpass"),
            Self::Holdconn => Some("holdconn"),
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let all = [Self::Active, Self::Passive, Self::Actpass, Self::Holdconn];
        all.into_iter().find(|setup| setup.as_str().is_some_and(|text| value.eq_ignore_ascii_case(text.as_bytes())))
    }
}

impl Direction {
    /// The attribute.
    ///
    /// RFC 8866 §6.7.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let all = [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive];
        let is = |text: &str| name.len() == text.len() && name.eq_ignore_ascii_case(text.as_bytes());
        all.into_iter().find(|direction| is(direction.as_str()))
    }
}

/// What the lines of one section say.
#[derive(Default)]
pub(super) struct Attributes<'a> {
    /// The address of `c=`; `Some(None)` when it is not a literal one.
    address: Option<Option<IpAddr>>,
    path: Option<&'a [u8]>,
    setup: Option<Setup>,
    direction: Option<Direction>,
    accept_types: Option<&'a [u8]>,
    accept_wrapped_types: Option<&'a [u8]>,
    size_max: Option<u64>,
    cema: bool,
    file_selector: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    /// Takes one line; of what stands twice the first counts.
    pub(super) fn take(&mut self, line: Line<'a>) {
        if line.kind == b'c' {
            self.address.get_or_insert_with(|| connection_address(line.value));
        }
        let Some((name, value)) = line.attribute() else { return };
        let is = |wanted: &str| name.len() == wanted.len() && name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("path") {
            self.path.get_or_insert(value);
        } else if is("setup") {
            self.setup = self.setup.or_else(|| Setup::parse(value));
        } else if is("accept-types") {
            self.accept_types.get_or_insert(value);
        } else if is("accept-wrapped-types") {
            self.accept_wrapped_types.get_or_insert(value);
        } else if is("max-size") {
            self.size_max = self.size_max.or_else(|| number(value));
        } else if is("msrp-cema") {
            self.cema = true;
        } else if is("file-selector") {
            self.file_selector.get_or_insert(value);
        } else if let Some(direction) = Direction::parse(name) {
            self.direction.get_or_insert(direction);
        }
    }
}

/// `IN IP4 192.0.2.1` or `IN IP6 2001:db8::1`, if the address is a literal one that can be connected to.
fn connection_address(value: &[u8]) -> Option<IpAddr> {
    let mut words = words(value);
    let (network, family, address) = (words.next()?, words.next()?, words.next()?);
    let address = std::str::from_utf8(address).ok()?;
    let address = if !network.eq_ignore_ascii_case(b"IN") {
        return None;
    } else if family.eq_ignore_ascii_case(b"IP4") {
        IpAddr::V4(address.parse::<Ipv4Addr>().ok()?)
    } else if family.eq_ignore_ascii_case(b"IP6") {
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else {
        return None;
    };
    (!address.is_unspecified()).then_some(address)
}

/// The `size` of a file selector; names stand in quotes and may hold anything.
fn selector_size(selector: &[u8]) -> Option<u64> {
    let mut is_quoted = false;
    selector
        .split(|byte| {
            is_quoted ^= *byte == b'"';
            *byte == b' ' && !is_quoted
        })
        .find_map(|part| {
            part.get(..5).filter(|name| name.eq_ignore_ascii_case(b"size:")).and_then(|_| number(&part[5..]))
        })
}

fn is_msrp_uri(uri: &[u8]) -> bool {
    let starts_with = |prefix: &[u8]| uri.len() > prefix.len() && uri[..prefix.len()].eq_ignore_ascii_case(prefix);
    (starts_with(b"msrp://") || starts_with(b"msrps://")) && uri.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::Description;

    fn read<T>(lines: &str, what: impl FnOnce(MessageMedia<'_>) -> T) -> T {
        let body = format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n{lines}");
        let description = Description::parse(body.as_bytes()).unwrap();
        what(description.message().unwrap())
    }

    #[test]
    fn attributes_of_the_media_line_stand_before_those_of_the_session() {
        let lines = "c=IN IP4 192.0.2.9\r\na=recvonly\r\na=setup:passive\r\nm=message 9 TCP/MSRP *\r\n";
        read(lines, |media| {
            assert_eq!((media.direction, media.setup), (Direction::RecvOnly, Setup::Passive));
            assert_eq!(media.connect, Some("192.0.2.9:9".parse().unwrap()));
        });
        let lines = format!("{lines}c=IN IP6 2001:db8::7\r\na=SendOnly\r\na=Setup: ACTIVE\r\n");
        read(&lines, |media| {
            assert_eq!((media.direction, media.setup), (Direction::SendOnly, Setup::Active));
            assert_eq!(media.connect, Some("[2001:db8::7]:9".parse().unwrap()));
        });
    }

    #[test]
    fn what_is_not_said_has_the_meaning_of_the_rfc() {
        read("m=message 9 TCP/MSRP *\r\n", |media| {
            assert_eq!((media.direction, media.setup), (Direction::SendRecv, Setup::Absent));
            assert_eq!((media.connect, media.size_max, media.cema), (None, None, false));
            assert!(!media.has_path() && !media.takes_cpim());
        });
    }

    #[test]
    fn names_and_unspecified_addresses_are_nothing_to_connect_to() {
        for address in
            ["IN IP4 a.example", "IN IP4 0.0.0.0", "IN IP6 ::", "IN IP4 2001:db8::1", "ATM NSAP 47", "IN IP4"]
        {
            let lines = format!("m=message 9 TCP/MSRP *\r\nc={address}\r\n");
            assert_eq!(read(&lines, |media| media.connect), None, "{address}");
        }
        // A multicast TTL makes no sense here, and an address that is not literal decides as one that is.
        let lines = "c=IN IP4 192.0.2.9\r\nm=message 9 TCP/MSRP *\r\nc=IN IP4 a.example\r\n";
        assert_eq!(read(lines, |media| media.connect), None);
    }

    #[test]
    fn cpim_is_taken_by_name_by_wildcard_and_with_parameters() {
        for (types, takes) in [
            ("message/cpim", true),
            ("text/plain MESSAGE/CPIM", true),
            ("message/cpim;charset=utf-8", true),
            ("message/*", true),
            ("text/plain *", true),
            ("message/cpim2 text/*", false),
            ("xmessage/cpim", false),
        ] {
            let lines = format!("m=message 9 TCP/MSRP *\r\na=accept-types:{types}\r\n");
            assert_eq!(read(&lines, |media| media.takes_cpim()), takes, "{types}");
        }
    }

    #[test]
    fn a_path_is_a_list_of_msrp_uris_with_room_for_ours() {
        let uri = "msrp://a.example:9/s;tcp";
        let full = [uri; MSRP_PATH_COUNT_MAX - 1].join(" ");
        for (path, is_path) in [
            (uri, true),
            (&format!("MSRPS://r.example;tcp  {uri}"), true),
            (&full, true),
            (&format!("{full} {uri}"), false),
            ("", false),
            ("msrp://", false),
            ("sip:a.example", false),
            (&format!("{uri} http://a"), false),
            ("msrp://a\u{7f}b/s;tcp", false),
        ] {
            let lines = format!("m=message 9 TCP/MSRP *\r\na=path:{path}\r\n");
            assert_eq!(read(&lines, |media| media.has_path()), is_path, "{path}");
        }
    }

    #[test]
    fn the_size_of_a_file_is_found_behind_a_name_that_pretends_one() {
        for (selector, size) in [
            ("name:\"a size:7 b.jpg\" type:image/jpeg size:32349 hash:sha-1:72:24", Some(32_349)),
            ("size:5", Some(5)),
            ("SIZE:99999999999999999999", Some(u64::MAX)),
            ("name:\"size:7\"", None),
            ("size:", None),
            ("type:image/jpeg", None),
        ] {
            let lines = format!("m=message 9 TCP/MSRP *\r\na=file-selector:{selector}\r\n");
            assert_eq!(read(&lines, |media| media.file_size), size, "{selector}");
        }
    }

    #[test]
    fn the_first_of_two_equal_attributes_counts() {
        let lines = "m=message 9 TCP/MSRP *\r\na=max-size:x\r\na=max-size:10\r\na=max-size:20\r\na=path:msrp://a;tcp\r\n\
            a=path:msrp://b;tcp\r\na=recvonly\r\na=sendonly\r\n";
        read(lines, |media| {
            assert_eq!((media.size_max, media.path), (Some(10), &b"msrp://a;tcp"[..]));
            assert_eq!(media.direction, Direction::RecvOnly);
        });
    }
}
