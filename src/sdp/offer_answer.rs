//! What this appliance says: offers, answers, and who connects. SPEC §4.5, §4.7; RFC 3264.

use super::lines::{Line, lines, push_number, trim};
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
    write_session(out, own, &[]);
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
    write_session(out, own, offer.session);
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

/// `offered` are the session's lines of the offer that is answered: when a session is cannot be negotiated (RFC 3264 §6).
fn write_session(out: &mut Vec<u8>, own: &Own<'_>, offered: &[u8]) {
    let address = own.addr.ip().to_canonical();
    out.extend_from_slice(b"v=0\r\no=- ");
    push_number(out, own.session_id);
    out.push(b' ');
    push_number(out, own.version);
    out.push(b' ');
    write_address(out, address);
    out.extend_from_slice(b"\r\ns=-\r\nc=");
    write_address(out, address);
    out.extend_from_slice(b"\r\n");
    let start = out.len();
    for line in lines(offered).filter(|line| line.kind == b't') {
        out.extend_from_slice(b"t=");
        out.extend_from_slice(line.value);
        out.extend_from_slice(b"\r\n");
    }
    if out.len() == start {
        out.extend_from_slice(b"t=0 0\r\n");
    }
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.extend_from_slice(b"IN IP4 ");
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                push_number(out, u64::from(octet));
            }
        }
        IpAddr::V6(address) => write!(out, "IN IP6 {address}").expect("writing to memory cannot fail"),
    }
}

fn write_media_line(out: &mut Vec<u8>, own: &Own<'_>) {
    out.extend_from_slice(b"m=message ");
    push_number(out, u64::from(own.addr.port()));
    out.extend_from_slice(b" TCP/MSRP *\r\n");
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
    out.extend_from_slice(b"a=");
    out.extend_from_slice(own.leg.direction().as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(setup) = setup.as_str() {
        attribute(out, "setup", setup.as_bytes());
    }
    out.extend_from_slice(b"a=max-size:");
    push_number(out, size_max);
    out.extend_from_slice(b"\r\n");
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
    if kept == Kept::Information {
        return matches!(line.kind, b'i' | b'b');
    }
    let Some((name, _)) = line.attribute() else { return false };
    let is_own = |own: &&str| name.len() == own.len() && name.eq_ignore_ascii_case(own.as_bytes());
    let is_file = name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"file-"));
    !(OWN.iter().any(is_own) || kept == Kept::Extensions && is_file)
}

fn find<'a>(section: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut attributes = lines(section).filter_map(|line| line.attribute());
    let is_wanted = |name: &[u8]| name.len() == wanted.len() && name.eq_ignore_ascii_case(wanted.as_bytes());
    attributes.find(|(name, _)| is_wanted(name)).map(|(_, value)| value)
}

fn attribute(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"a=");
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
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

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=alice 1 1 IN IP4 a.example\r\ns=hello\r\nc=IN IP4 192.0.2.10\r\nb=AS:1\r\nt=0 0\r\n\
        a=group:BUNDLE 1 2\r\na=tool:phone\r\n\
        m=audio 49170 RTP/AVP 0 8\r\na=mid:1\r\na=rtpmap:0 PCMU/8000\r\n\
        m=message 7654 TCP/MSRP *\r\ni=A letter\r\nb=AS:64\r\nc=IN IP4 192.0.2.11\r\na=mid:2\r\n\
        a=accept-types:message/cpim text/plain\r\na=accept-wrapped-types:text/* image/jpeg\r\n\
        a=path:msrp://relay.a.example:9/r;tcp msrp://a.example:7654/sa;tcp\r\na=sendonly\r\na=setup:active\r\n\
        a=max-size:5000\r\na=msrp-cema\r\na=fingerprint:SHA-1 00\r\n\
        a=file-selector:name:\"a.jpg\" size:3\r\na=x-first:1\r\na=file-transfer-id:t1\r\na=file-date:creation:\"now\"\r\n\
        a=X-Second\r\n\
        m=video 0 RTP/AVP 31\r\n";

    const ANSWER: &str = "v=0\r\no=bob 1 1 IN IP4 b.example\r\ns=-\r\nc=IN IP4 192.0.2.20\r\nt=0 0\r\na=from:bob\r\n\
        m=message 7394 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:text/plain\r\n\
        a=path:msrp://b.example:7394/sb;tcp\r\na=recvonly\r\na=setup:active\r\na=max-size:4000\r\na=y-own:2\r\n\
        a=file-selector:name:\"a.jpg\" size:3\r\na=file-icon:cid:1\r\na=msrp-cema\r\n";

    fn originating(peer_path: Option<&[u8]>) -> Own<'_> {
        Own {
            leg: Leg::Originating,
            addr: "198.51.100.1:2855".parse().unwrap(),
            uri: "msrp://198.51.100.1:2855/p1;tcp",
            session_id: 71,
            version: 3,
            size_max: 10_000,
            peer_path,
        }
    }

    fn terminating(peer_path: Option<&[u8]>) -> Own<'_> {
        let addr = "[2001:db8::1]:2856".parse().unwrap();
        Own { leg: Leg::Terminating, addr, uri: "msrp://[2001:db8::1]:2856/p2;tcp", ..originating(peer_path) }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn parsed(body: &str) -> Description<'_> {
        Description::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn the_offer_to_the_recipient_is_the_senders_with_our_own_connection() {
        let offer = parsed(OFFER);
        let path = offer.message().unwrap().path;
        let expected = "v=0\r\no=- 71 3 IN IP6 2001:db8::1\r\ns=-\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\na=tool:phone\r\n\
            m=message 2856 TCP/MSRP *\r\ni=A letter\r\nb=AS:64\r\n\
            a=path:msrp://[2001:db8::1]:2856/p2;tcp msrp://relay.a.example:9/r;tcp msrp://a.example:7654/sa;tcp\r\n\
            a=accept-types:message/cpim text/plain\r\na=accept-wrapped-types:text/* image/jpeg\r\n\
            a=sendonly\r\na=setup:actpass\r\na=max-size:5000\r\na=msrp-cema\r\n\
            a=file-selector:name:\"a.jpg\" size:3\r\na=x-first:1\r\na=file-transfer-id:t1\r\n\
            a=file-date:creation:\"now\"\r\na=X-Second\r\n";
        assert_eq!(text(|out| write_offer(out, &offer, &terminating(Some(path)))), expected);
    }

    #[test]
    fn an_offer_of_our_own_needs_no_other_leg() {
        let expected = "v=0\r\no=- 71 3 IN IP6 2001:db8::1\r\ns=-\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\n\
            m=message 2856 TCP/MSRP *\r\na=path:msrp://[2001:db8::1]:2856/p2;tcp\r\na=accept-types:message/cpim\r\n\
            a=accept-wrapped-types:*\r\na=sendonly\r\na=setup:actpass\r\na=max-size:10000\r\na=msrp-cema\r\n";
        assert_eq!(text(|out| write_offer(out, &Description::default(), &terminating(None))), expected);
    }

    #[test]
    fn the_answer_to_the_sender_keeps_its_lines_in_order_and_the_recipients_words() {
        let (offer, answer) = (parsed(OFFER), parsed(ANSWER));
        let own = originating(Some(b"msrp://b.example:7394/sb;tcp"));
        let expected = "v=0\r\no=- 71 3 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\na=from:bob\r\n\
            m=audio 0 RTP/AVP 0 8\r\n\
            m=message 2855 TCP/MSRP *\r\na=path:msrp://198.51.100.1:2855/p1;tcp msrp://b.example:7394/sb;tcp\r\n\
            a=accept-types:message/cpim\r\na=accept-wrapped-types:text/plain\r\n\
            a=recvonly\r\na=setup:passive\r\na=max-size:4000\r\na=msrp-cema\r\n\
            a=file-selector:name:\"a.jpg\" size:3\r\na=file-transfer-id:t1\r\na=y-own:2\r\n\
            m=video 0 RTP/AVP 31\r\n";
        assert_eq!(text(|out| write_answer(out, &offer, Some(&answer), &own, Setup::Passive)), expected);
    }

    #[test]
    fn an_answer_of_our_own_names_us_alone_and_echoes_the_file() {
        let offer = parsed(OFFER);
        let answer = text(|out| write_answer(out, &offer, None, &originating(None), Setup::Absent));
        let described = parsed(&answer);
        let media = described.message().unwrap();
        assert_eq!((media.index, described.media_count()), (1, 3));
        assert_eq!((media.path, media.setup), (&b"msrp://198.51.100.1:2855/p1;tcp"[..], Setup::Absent));
        assert_eq!((media.accept_wrapped_types, media.size_max), (Some(&b"*"[..]), Some(10_000)));
        assert!(answer.contains("a=file-selector:name:\"a.jpg\" size:3\r\na=file-transfer-id:t1\r\n"), "{answer}");
    }

    #[test]
    fn when_a_session_is_cannot_be_negotiated() {
        let offer = OFFER.replace("t=0 0", "t=3724394400 3724398000\r\nt=3724484400 3724488000\r\nr=604800 3600 0");
        let answer = text(|out| write_answer(out, &parsed(&offer), None, &originating(None), Setup::Passive));
        assert!(answer.contains("\r\nt=3724394400 3724398000\r\nt=3724484400 3724488000\r\nm="), "{answer}");
        let answer = text(|out| {
            write_answer(out, &parsed(&OFFER.replace("t=0 0\r\n", "")), None, &originating(None), Setup::Passive)
        });
        assert!(answer.contains("\r\nt=0 0\r\n"), "{answer}");
    }

    #[test]
    fn a_recipient_that_knows_no_files_is_not_made_to() {
        let body = ANSWER.replace("a=file-selector:name:\"a.jpg\" size:3\r\n", "");
        let (offer, answer) = (parsed(OFFER), parsed(&body));
        let written = text(|out| write_answer(out, &offer, Some(&answer), &originating(None), Setup::Passive));
        assert!(!written.contains("a=file-"), "{written}");
    }

    #[test]
    fn cema_is_answered_only_where_it_was_offered() {
        let body = OFFER.replace("a=msrp-cema\r\n", "");
        let written =
            text(|out| write_answer(out, &parsed(&body), Some(&parsed(ANSWER)), &originating(None), Setup::Passive));
        assert!(!written.contains("cema"), "{written}");
    }

    #[test]
    fn a_change_that_the_recipient_asks_for_goes_the_other_way_round() {
        let (theirs, senders) = (parsed(ANSWER), parsed(OFFER));
        let offer = text(|out| write_offer(out, &theirs, &originating(Some(b"msrp://b.example:7394/sb;tcp"))));
        assert!(offer.contains("a=recvonly\r\na=setup:actpass\r\na=max-size:4000\r\n"), "{offer}");
        assert!(offer.contains("a=accept-types:message/cpim\r\na=accept-wrapped-types:text/plain\r\n"), "{offer}");
        let answer = text(|out| write_answer(out, &theirs, Some(&senders), &terminating(None), Setup::Passive));
        assert!(answer.contains("a=accept-types:message/cpim text/plain\r\n"), "{answer}");
        assert!(answer.contains("a=sendonly\r\na=setup:passive\r\na=max-size:5000\r\n"), "{answer}");
    }

    #[test]
    fn the_second_version_differs_in_the_version_alone() {
        let (offer, answer) = (parsed(OFFER), parsed(ANSWER));
        let write = |version| {
            let own = Own { version, ..originating(None) };
            text(|out| write_answer(out, &offer, Some(&answer), &own, Setup::Passive))
        };
        assert_eq!(write(3).replace("o=- 71 3 ", "o=- 71 4 "), write(4));
        assert!(parsed(&write(3)).same_media_as(&parsed(&write(4))));
    }

    #[test]
    fn an_address_of_both_families_is_written_as_the_older() {
        let own = Own { addr: "[::ffff:192.0.2.1]:2855".parse().unwrap(), ..originating(None) };
        let offer = text(|out| write_offer(out, &Description::default(), &own));
        assert!(offer.contains("c=IN IP4 192.0.2.1\r\n"), "{offer}");
    }

    #[test]
    fn who_connects_follows_rfc_4145_and_old_peers() {
        // What A offers, what we answer, what we are then.
        for (offered, answered, role) in [
            (Setup::Absent, Some(Setup::Absent), Role::Passive),
            (Setup::Actpass, Some(Setup::Passive), Role::Passive),
            (Setup::Active, Some(Setup::Passive), Role::Passive),
            (Setup::Passive, Some(Setup::Active), Role::Active),
            (Setup::Holdconn, None, Role::Passive),
        ] {
            assert_eq!(answer_setup(offered), answered, "{offered:?}");
            assert_eq!(answered.map_or(Role::Passive, Setup::role), role, "{offered:?}");
        }
        // What B answers to our actpass, what we are then.
        for (answered, role) in [
            (Setup::Absent, Some(Role::Active)),
            (Setup::Passive, Some(Role::Active)),
            (Setup::Actpass, Some(Role::Active)),
            (Setup::Active, Some(Role::Passive)),
            (Setup::Holdconn, None),
        ] {
            assert_eq!(role_after_answer(answered), role, "{answered:?}");
        }
    }

    #[test]
    fn a_later_offer_that_leaves_the_choice_leaves_the_roles() {
        assert_eq!(answer_setup_again(Setup::Actpass, Role::Active), Some(Setup::Active));
        assert_eq!(answer_setup_again(Setup::Actpass, Role::Passive), Some(Setup::Passive));
        assert_eq!(answer_setup_again(Setup::Active, Role::Active), Some(Setup::Passive));
    }
}
