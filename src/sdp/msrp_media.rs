//! The MSRP media line and its attributes. RFC 4975 §8, RFC 4145, RFC 5547, RFC 6714.

use super::lines::{Line, lines, number, words};
use super::session::{Description, MediaLine};
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

    /// Reads the attributes of one section; what a section leaves open is taken from the session's lines.
    pub(super) fn read(description: &Description<'a>, index: usize) -> Option<Self> {
        let section = description.section(index);
        let mut session = Attributes::default();
        lines(description.session).for_each(|line| session.take(line));
        let mut own = Attributes::default();
        lines(section).for_each(|line| own.take(line));
        let port = MediaLine::of(section)?.port;
        let address = own.address.or(session.address).flatten();
        Some(Self {
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
        })
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
        all.into_iter().find(|direction| name.eq_ignore_ascii_case(direction.as_str().as_bytes()))
    }
}

/// What the lines of one section say.
#[derive(Default)]
struct Attributes<'a> {
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
    fn take(&mut self, line: Line<'a>) {
        if line.kind == b'c' {
            self.address.get_or_insert_with(|| connection_address(line.value));
        }
        let Some((name, value)) = line.attribute() else { return };
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
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
