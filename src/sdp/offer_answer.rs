//! What this appliance says: offers, answers, and who connects. SPEC §4.5, §4.7; RFC 3264.

use super::lines::{Line, lines, trim};
use super::msrp_media::{Direction, MessageMedia, Role, Setup};
use super::session::Description;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// The leg a description is written to. Messages go from the originating to the terminating one, whoever offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// Towards the sender of the message: this appliance receives.
    Originating,
    /// Towards the recipient: this appliance sends.
    Terminating,
}

/// This appliance's own part of a description.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// The leg that is written to.
    pub leg: Leg,
    /// Where the peer of this leg reaches us; the same as in `uri`.
    pub addr: SocketAddr,
    /// Our MSRP URI on this leg.
    pub uri: &'a str,
    /// The session id of `o=`: one for the whole life of a leg.
    pub session_id: u64,
    /// The version of `o=`: one more with every description that differs.
    pub version: u64,
    /// The largest message taken.
    pub size_max: u64,
    /// The path that the other leg gave, written behind our own URI; `None` where peers are to see one URI.
    pub peer_path: Option<&'a [u8]>,
}

/// Writes an offer with one media line, made from what the other leg said (its offer, or the empty description).
///
/// Attributes that belong to the media are kept in their order; those that belong to a connection are our own.
/// RFC 3264 §5, §8.
pub fn write_offer(out: &mut Vec<u8>, other: &Description<'_>, own: &Own<'_>) {
    let message = other.message();
    write_session(out, own);
    write_kept(out, other.session, Kept::Attributes);
    write_media_line(out, own);
    let section = message.map_or(&[][..], |message| other.section(message.index));
    write_kept(out, section, Kept::Information);
    write_path(out, own);
    write_types(out, message.as_ref(), own.leg);
    write_common(out, own, Setup::Actpass, message.and_then(|message| message.size_max));
    out.extend_from_slice(b"a=msrp-cema\r\n");
    write_kept(out, section, Kept::Attributes);
}

/// Writes an answer to `offer`: our media line in the place of the offer's, every other one refused in its place.
///
/// `other` is what the other leg answered; `None` when this appliance itself takes or sends the message.
/// RFC 3264 §6, §8.
pub fn write_answer(
    out: &mut Vec<u8>,
    offer: &Description<'_>,
    other: Option<&Description<'_>>,
    own: &Own<'_>,
    setup: Setup,
) {
    let message = offer.message();
    let answered = other.and_then(|other| Some((other, other.message()?)));
    write_session(out, own);
    write_kept(out, other.map_or(&[], |other| other.session), Kept::Extensions);
    for (index, line) in offer.media_lines().enumerate() {
        let Some(message) = message.filter(|message| message.index == index) else {
            out.extend_from_slice(b"m=");
            out.extend_from_slice(line.media);
            out.extend_from_slice(b" 0 ");
            out.extend_from_slice(line.protocol);
            out.push(b' ');
            out.extend_from_slice(line.formats);
            out.extend_from_slice(b"\r\n");
            continue;
        };
        write_media_line(out, own);
        write_path(out, own);
        write_types(out, answered.as_ref().map(|(_, media)| media), own.leg);
        write_common(out, own, setup, answered.and_then(|(_, media)| media.size_max));
        if message.cema {
            out.extend_from_slice(b"a=msrp-cema\r\n");
        }
        write_file(out, offer.section(index), answered.map(|(other, media)| other.section(media.index)));
        if let Some((other, media)) = answered {
            write_kept(out, other.section(media.index), Kept::Extensions);
        }
    }
}

/// What we say to an offer of `a=setup`; nothing is said where the offer said nothing. `None`: refuse it.
///
/// RFC 4145 §4.1, RFC 6135 §4.2.
pub const fn answer_setup(offered: Setup) -> Option<Setup> {
    match offered {
        Setup::Absent => Some(Setup::Absent),
        Setup::Active | Setup::Actpass => Some(Setup::Passive),
        Setup::Passive => Some(Setup::Active),
        Setup::Holdconn => None,
    }
}

/// The same for an offer that changes a session: the role we have is kept where the offer leaves the choice.
///
/// RFC 4145 §5, RFC 3264 §8.
pub const fn answer_setup_again(offered: Setup, current: Role) -> Option<Setup> {
    match (offered, current) {
        (Setup::Actpass, Role::Active) => Some(Setup::Active),
        _ => answer_setup(offered),
    }
}

/// Our role once a peer answered our `actpass`. A peer that chose nothing listens, as an old one does. `None`: nobody is
/// to connect.
///
/// RFC 4145 §4.1, RFC 4975 §5.4.
pub const fn role_after_answer(answered: Setup) -> Option<Role> {
    match answered {
        Setup::Absent | Setup::Passive | Setup::Actpass => Some(Role::Active),
        Setup::Active => Some(Role::Passive),
        Setup::Holdconn => None,
    }
}

impl Setup {
    /// Our role when this is what we answered.
    ///
    /// RFC 4145 §4.1.
    pub const fn role(self) -> Role {
        match self {
            Self::Active => Role::Active,
            Self::Absent | Self::Passive | Self::Actpass | Self::Holdconn => Role::Passive,
        }
    }
}

impl Leg {
    /// The direction from our own viewpoint.
    const fn direction(self) -> Direction {
        match self {
            Self::Originating => Direction::RecvOnly,
            Self::Terminating => Direction::SendOnly,
        }
    }
}

/// Which lines of a section are passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// `i=` and `b=`, which stand in front of attributes.
    Information,
    /// Attributes that are neither ours nor about a connection.
    Attributes,
    /// The same without those about files, which an answer has its own rules for.
    Extensions,
}

fn write_session(out: &mut Vec<u8>, own: &Own<'_>) {
    let address = own.addr.ip().to_canonical();
    let family = if matches!(address, IpAddr::V4(_)) { "IP4" } else { "IP6" };
    let Own { session_id, version, .. } = own;
    append(
        out,
        format_args!(
            "v=0\r\no=- {session_id} {version} IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n"
        ),
    );
}

fn write_media_line(out: &mut Vec<u8>, own: &Own<'_>) {
    append(out, format_args!("m=message {} TCP/MSRP *\r\n", own.addr.port()));
}

fn write_path(out: &mut Vec<u8>, own: &Own<'_>) {
    out.extend_from_slice(b"a=path:");
    out.extend_from_slice(own.uri.as_bytes());
    if let Some(path) = own.peer_path.map(trim).filter(|path| !path.is_empty()) {
        out.push(b' ');
        out.extend_from_slice(path);
    }
    out.extend_from_slice(b"\r\n");
}

/// The types we take, from what the other leg takes.
fn write_types(out: &mut Vec<u8>, other: Option<&MessageMedia<'_>>, leg: Leg) {
    let types = match (leg, other) {
        // The recipient sees what the sender can make; the sender is held to what CPM carries (SPEC §4.7).
        (Leg::Terminating, Some(media)) if !media.accept_types.is_empty() => media.accept_types,
        _ => b"message/cpim",
    };
    let wrapped = match (leg, other) {
        (Leg::Terminating, Some(media)) => media.accept_wrapped_types,
        (_, media) => Some(media.and_then(|media| media.accept_wrapped_types).unwrap_or(b"*")),
    };
    attribute(out, "accept-types", types);
    if let Some(wrapped) = wrapped.filter(|wrapped| !wrapped.is_empty()) {
        attribute(out, "accept-wrapped-types", wrapped);
    }
}

fn write_common(out: &mut Vec<u8>, own: &Own<'_>, setup: Setup, peer_size_max: Option<u64>) {
    let size_max = peer_size_max.map_or(own.size_max, |size_max| size_max.min(own.size_max));
    append(out, format_args!("a={}\r\n", own.leg.direction().as_str()));
    if let Some(setup) = setup.as_str() {
        append(out, format_args!("a=setup:{setup}\r\n"));
    }
    append(out, format_args!("a=max-size:{size_max}\r\n"));
}

/// Echoes what an answer repeats of a file offer, unless the other leg does not know files. RFC 5547 §8.3.
fn write_file(out: &mut Vec<u8>, offer: &[u8], other: Option<&[u8]>) {
    let knows_files = other.is_none_or(|other| find(other, "file-selector").is_some());
    if !knows_files {
        return;
    }
    for name in ["file-selector", "file-transfer-id"] {
        if let Some(value) = find(offer, name) {
            attribute(out, name, value);
        }
    }
    if let Some(value) = find(other.unwrap_or(offer), "file-range") {
        attribute(out, "file-range", value);
    }
}

fn write_kept(out: &mut Vec<u8>, section: &[u8], kept: Kept) {
    for line in lines(section).filter(|line| is_kept(line, kept)) {
        out.push(line.kind);
        out.push(b'=');
        out.extend_from_slice(line.value);
        out.extend_from_slice(b"\r\n");
    }
}

fn is_kept(line: &Line<'_>, kept: Kept) -> bool {
    let Some((name, _)) = line.attribute() else {
        return kept == Kept::Information && matches!(line.kind, b'i' | b'b');
    };
    let is_own = |own: &&str| name.eq_ignore_ascii_case(own.as_bytes());
    let is_file = name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"file-"));
    kept != Kept::Information && !(kept == Kept::Extensions && is_file) && !OWN.iter().any(|own| is_own(&own))
}

fn find<'a>(section: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut attributes = lines(section).filter_map(|line| line.attribute());
    attributes.find(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes())).map(|(_, value)| value)
}

fn attribute(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"a=");
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

/// Attributes that never cross from one leg to the other: ours, and those about a connection or a bundle of media lines
/// that ends here.
const OWN: [&str; 26] = [
    "path",
    "accept-types",
    "accept-wrapped-types",
    "max-size",
    "setup",
    "connection",
    "msrp-cema",
    "sendrecv",
    "sendonly",
    "recvonly",
    "inactive",
    "fingerprint",
    "tls-id",
    "crypto",
    "candidate",
    "remote-candidates",
    "end-of-candidates",
    "ice-ufrag",
    "ice-pwd",
    "ice-options",
    "ice-lite",
    "ice-mismatch",
    "group",
    "mid",
    "bundle-only",
    "key-mgmt",
];
