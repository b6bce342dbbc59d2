//! One leg of a session in large message mode: what its dialog needs, kept small, and the messages written for it.
//!
//! RFC 3261 §12. Legs know nothing of each other; who couples them is [`super::b2bua`].

use super::effect::NextHop;
use super::transactions::ServerId;
use crate::base::limits::ROUTE_COUNT_MAX;
use crate::base::slots::SlotId;
use crate::base::time::Instant;
use crate::sip::header::address::{self, Address};
use crate::sip::header::list::find_outside;
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::transport::exceeds_datagram;
use crate::sip::uri::Uri;
use crate::sip::write::{line, number_line, push_decimal, write_body};
use bytes::Bytes;
use smallvec::SmallVec;
use std::time::Duration;

/// Which of a session's two legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the sender of the message.
    Originating,
    /// Towards the recipient.
    Terminating,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Originating => Self::Terminating,
            Self::Terminating => Self::Originating,
        }
    }

    /// As requests of ours name it.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// Characters of a local tag.
pub const TAG_LEN: usize = 8 + 7 + 2 + 8;
/// The first tag index of the terminating side; those below are the originating side's.
const TERMINATING_TAGS: u8 = 0x40;

/// A tag of ours. It finds its session without a look-up, and holds 32 random bits (RFC 3261 §19.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTag {
    /// The session.
    pub session: SlotId,
    /// Which of its dialogs: on the originating side one for each early dialog of the terminating side, there one for
    /// each forked leg.
    pub index: u8,
    /// Random bits of the session's side.
    pub nonce: u32,
}

impl LocalTag {
    /// The text.
    pub fn text(&self) -> [u8; TAG_LEN] {
        let mut text = [0; TAG_LEN];
        let mut at = 0;
        let mut push = |value: u32, digits: u32| {
            for place in (0..digits).rev() {
                text[at] = b"0123456789abcdef"[(value >> (4 * place) & 15) as usize];
                at += 1;
            }
        };
        push(self.session.slot, 8);
        push(self.session.generation, 7);
        push(u32::from(self.index), 2);
        push(self.nonce, 8);
        text
    }

    /// Reads a tag; `None` if it is not of our making.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != TAG_LEN {
            return None;
        }
        let number = |from: usize, to: usize| {
            text[from..to].iter().try_fold(0u32, |value, byte| {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return None,
                };
                Some(value << 4 | u32::from(digit))
            })
        };
        let session = SlotId { slot: number(0, 8)?, generation: number(8, 15)? };
        Some(Self { session, index: number(15, 17)? as u8, nonce: number(17, 25)? })
    }

    /// The side of the session that the tag was given to.
    pub const fn side(&self) -> Side {
        if self.index < TERMINATING_TAGS { Side::Originating } else { Side::Terminating }
    }

    /// The tag index of a forked leg.
    pub const fn index_of_fork(fork: u8) -> u8 {
        TERMINATING_TAGS + fork
    }
}

/// Pieces of a leg's text.
#[derive(Clone, Copy)]
enum Piece {
    /// The Call-ID.
    CallId,
    /// Our own address, without a tag: From of our requests.
    Local,
    /// The peer's address with its tag: To of our requests.
    Remote,
    /// The remote target.
    Target,
    /// The route set as a Route value.
    Routes,
}

const PIECE_COUNT: usize = 5;

/// A 2xx response of ours to an INVITE that waits for its ACK. RFC 3261 §13.3.1.4.
pub struct Answer {
    /// The INVITE's transaction.
    pub server: ServerId,
    /// The INVITE's CSeq number.
    pub cseq: u32,
    /// The response.
    pub bytes: Bytes,
    /// When it leaves again.
    pub again: Instant,
    /// The wait after that.
    pub interval: Duration,
    /// When the ACK is not waited for any more.
    pub given_up: Instant,
}

/// One leg.
pub struct Leg {
    /// Call-ID, addresses, target and routes, one behind the other: one allocation for a leg.
    text: Box<[u8]>,
    ends: [u16; PIECE_COUNT],
    /// Which tag of ours it has.
    pub tag_index: u8,
    /// The peer takes UPDATE (RFC 3311).
    pub takes_update: bool,
    /// Where requests go, once known.
    pub hop: Option<NextHop>,
    /// Our last CSeq number.
    pub local_cseq: u32,
    /// The CSeq number of our last INVITE: its ACK has the same.
    pub invite_cseq: u32,
    /// The peer's last CSeq number; 0 before its first request.
    pub remote_cseq: u32,
    /// The version of our last session description.
    pub version: u32,
    /// Our answer that waits for its ACK.
    pub answer: Option<Box<Answer>>,
}

/// A request within a dialog, besides what the dialog says.
pub struct Within<'a> {
    /// The method.
    pub method: &'a str,
    /// The CSeq number.
    pub cseq: u32,
    /// Our Via.
    pub via: &'a [u8],
    /// Our tag.
    pub tag: &'a [u8],
    /// Whole header lines, CRLF included.
    pub extra: &'a [u8],
    /// Our Contact, in requests that have one.
    pub contact: Option<Contact<'a>>,
    /// The session description, empty for none.
    pub sdp: &'a [u8],
}

/// Our own Contact.
#[derive(Clone, Copy)]
pub struct Contact<'a> {
    /// Our address.
    pub sent_by: &'a str,
    /// The service identifier, percent-encoded.
    pub service: &'a str,
    /// The peer reaches us over streams.
    pub stream: bool,
    /// The request leaves as a datagram up to a size that this decides.
    pub path_mtu: usize,
}

impl Contact<'_> {
    /// Writes the header line; the place where the transport goes comes back.
    ///
    /// RFC 3261 §8.1.1.8.
    pub fn write(&self, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(b"Contact: <sip:");
        out.extend_from_slice(self.sent_by.as_bytes());
        let at = out.len();
        if self.stream {
            out.extend_from_slice(STREAM);
        }
        out.extend_from_slice(b">;+g.3gpp.icsi-ref=\"");
        out.extend_from_slice(self.service.as_bytes());
        out.extend_from_slice(b"\"\r\n");
        at
    }

    /// A request that outgrew a datagram leaves over a stream, and its Contact says so.
    pub fn settle(&self, out: &mut Vec<u8>, at: usize) {
        if !self.stream && exceeds_datagram(out.len(), self.path_mtu) {
            out.splice(at..at, STREAM.iter().copied());
        }
    }
}

const STREAM: &[u8] = b";transport=tcp";

impl Leg {
    /// The leg of whoever sent an INVITE; `None` when its Contact or Record-Route cannot be used.
    ///
    /// RFC 3261 §12.1.1.
    pub fn of_invite(invite: &Message<'_>, cseq: u32) -> Option<Self> {
        let routes: SmallVec<[&[u8]; 8]> = invite.elements(Name::RecordRoute).take(ROUTE_COUNT_MAX + 1).collect();
        let pieces = [
            invite.value(Name::CallId)?,
            without_tag(invite.value(Name::To)?),
            invite.value(Name::From)?,
            target(invite)?,
        ];
        let mut leg = Self::new(pieces, &routes)?;
        leg.remote_cseq = cseq;
        leg.takes_update = allows(invite, b"UPDATE");
        Some(leg)
    }

    /// The leg of whoever answered an INVITE of ours; `None` when the response lacks what a dialog needs.
    ///
    /// RFC 3261 §12.1.2.
    pub fn of_response(response: &Message<'_>, tag_index: u8) -> Option<Self> {
        let mut routes: SmallVec<[&[u8]; 8]> = response.elements(Name::RecordRoute).take(ROUTE_COUNT_MAX + 1).collect();
        routes.reverse();
        let (cseq, _) = crate::sip::header::cseq::parse(response.value(Name::CSeq)?)?;
        let pieces = [
            response.value(Name::CallId)?,
            without_tag(response.value(Name::From)?),
            response.value(Name::To)?,
            target(response)?,
        ];
        let mut leg = Self::new(pieces, &routes)?;
        leg.tag_index = tag_index;
        leg.local_cseq = cseq;
        leg.invite_cseq = cseq;
        leg.takes_update = allows(response, b"UPDATE");
        Some(leg)
    }

    fn new(pieces: [&[u8]; PIECE_COUNT - 1], routes: &[&[u8]]) -> Option<Self> {
        if routes.len() > ROUTE_COUNT_MAX {
            return None;
        }
        let routes_len = routes.iter().map(|route| route.len() + 2).sum::<usize>();
        let mut text = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum::<usize>() + routes_len);
        let mut ends = [0; PIECE_COUNT];
        for (piece, end) in pieces.iter().zip(&mut ends) {
            text.extend_from_slice(piece);
            *end = u16::try_from(text.len()).ok()?;
        }
        for (index, route) in routes.iter().enumerate() {
            text.extend_from_slice(if index == 0 { b"" } else { b", " });
            text.extend_from_slice(route);
        }
        ends[PIECE_COUNT - 1] = u16::try_from(text.len()).ok()?;
        Some(Self {
            text: text.into(),
            ends,
            tag_index: 0,
            takes_update: false,
            hop: None,
            local_cseq: 0,
            invite_cseq: 0,
            remote_cseq: 0,
            version: 0,
            answer: None,
        })
    }

    fn piece(&self, piece: Piece) -> &[u8] {
        let index = piece as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[usize::from(start)..usize::from(self.ends[index])]
    }

    /// The Call-ID.
    pub fn call_id(&self) -> &[u8] {
        self.piece(Piece::CallId)
    }

    /// The peer's tag.
    pub fn remote_tag(&self) -> &[u8] {
        address::tag(self.piece(Piece::Remote)).unwrap_or_default()
    }

    /// The URI that the next request is sent to: the first of the route set, or the remote target.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn next_uri(&self) -> Option<Uri<'_>> {
        match self.first_route() {
            Some((route, _)) => Uri::parse(Address::parse(route)?.uri).ok(),
            None => Uri::parse(self.piece(Piece::Target)).ok(),
        }
    }

    /// Takes the peer's new remote target, where it has one. True when the way to the peer has to be found again.
    ///
    /// RFC 3261 §12.2.1.2, §12.2.2.
    pub fn retarget(&mut self, message: &Message<'_>) -> bool {
        let Some(target) = target(message).filter(|target| *target != self.piece(Piece::Target)) else { return false };
        let pieces = [self.piece(Piece::CallId), self.piece(Piece::Local), self.piece(Piece::Remote), target];
        let routes = self.piece(Piece::Routes);
        let is_direct = routes.is_empty();
        let moved = if is_direct { Self::new(pieces, &[]) } else { Self::new(pieces, &[routes]) };
        let Some(moved) = moved else { return false };
        self.text = moved.text;
        self.ends = moved.ends;
        // A route set is never changed, and where there is one, requests keep their next hop.
        if is_direct {
            self.hop = None;
        }
        is_direct
    }

    /// True when a request of the peer is not older than its last one.
    ///
    /// RFC 3261 §12.2.2.
    pub fn takes_cseq(&mut self, cseq: u32) -> bool {
        let newer = cseq > self.remote_cseq;
        self.remote_cseq = self.remote_cseq.max(cseq);
        newer
    }

    /// The next CSeq number of ours.
    pub fn next_cseq(&mut self) -> u32 {
        self.local_cseq += 1;
        self.local_cseq
    }

    /// Writes a request of ours.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn write(&self, out: &mut Vec<u8>, within: &Within<'_>) {
        let target = self.piece(Piece::Target);
        out.extend_from_slice(within.method.as_bytes());
        out.push(b' ');
        // A strict router wants its own URI on top and the target at the end of the Route.
        let strict = self.first_route().and_then(|(first, rest)| {
            let uri = Address::parse(first)?.uri;
            (!Uri::parse(uri).ok()?.is_loose_route()).then_some((uri, rest))
        });
        out.extend_from_slice(strict.map_or(target, |(uri, _)| uri));
        out.extend_from_slice(b" SIP/2.0\r\n");
        line(out, "Via", within.via);
        out.extend_from_slice(b"Max-Forwards: 70\r\n");
        match strict {
            Some((_, rest)) => {
                out.extend_from_slice(b"Route: ");
                if !rest.is_empty() {
                    out.extend_from_slice(rest);
                    out.extend_from_slice(b", ");
                }
                out.push(b'<');
                out.extend_from_slice(target);
                out.extend_from_slice(b">\r\n");
            }
            None if !self.piece(Piece::Routes).is_empty() => line(out, "Route", self.piece(Piece::Routes)),
            None => {}
        }
        out.extend_from_slice(b"From: ");
        out.extend_from_slice(self.piece(Piece::Local));
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(within.tag);
        out.extend_from_slice(b"\r\n");
        line(out, "To", self.piece(Piece::Remote));
        line(out, "Call-ID", self.call_id());
        write_cseq(out, within.cseq, within.method);
        let place = within.contact.map(|contact| (contact, contact.write(out)));
        out.extend_from_slice(within.extra);
        if !within.sdp.is_empty() {
            out.extend_from_slice(b"Content-Type: application/sdp\r\n");
        }
        write_body(out, within.sdp);
        if let Some((contact, at)) = place {
            contact.settle(out, at);
        }
    }

    fn first_route(&self) -> Option<(&[u8], &[u8])> {
        let routes = self.piece(Piece::Routes);
        if routes.is_empty() {
            return None;
        }
        let (first, rest) = crate::sip::header::list::split_first(routes);
        Some((first, rest.unwrap_or_default()))
    }

    /// Bytes on the heap.
    pub fn heap_len(&self) -> usize {
        self.text.len() + self.answer.as_ref().map_or(0, |answer| size_of::<Answer>() + answer.bytes.len())
    }
}

/// Writes a CSeq line.
pub fn write_cseq(out: &mut Vec<u8>, number: u32, method: &str) {
    out.extend_from_slice(b"CSeq: ");
    push_decimal(out, u64::from(number));
    out.push(b' ');
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An address without header parameters: a tag of ours, or none, takes their place.
pub fn without_tag(value: &[u8]) -> &[u8] {
    find_outside(value, b';').map_or(value, |at| crate::sip::header::list::trim(&value[..at]))
}

/// The URI of the first Contact.
fn target<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    let uri = message.address(Name::Contact)?.uri;
    Uri::parse(uri).ok().map(|uri| uri.text)
}

/// True when Allow names a method.
pub fn allows(message: &Message<'_>, method: &[u8]) -> bool {
    message.elements(Name::Allow).any(|allowed| allowed == method)
}

/// True when a list field names an option tag.
pub fn names_option(message: &Message<'_>, field: Name, option: &[u8]) -> bool {
    message.elements(field).any(|tag| tag.eq_ignore_ascii_case(option))
}

/// Fields of an INVITE that the B leg has of its own, or that end here (SPEC §2.3).
const OWN_FIELDS: [Name; 25] = [
    Name::Via,
    Name::MaxForwards,
    Name::Route,
    Name::RecordRoute,
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::Contact,
    Name::ContentType,
    Name::ContentLength,
    Name::ContentEncoding,
    Name::Require,
    Name::ProxyRequire,
    Name::Supported,
    Name::Allow,
    Name::UserAgent,
    Name::Server,
    Name::SessionExpires,
    Name::MinSe,
    Name::Rseq,
    Name::Rack,
    Name::Replaces,
    Name::PPreferredIdentity,
    Name::PPreferredService,
];

/// Fields without a [`Name`] that end here: credentials are for who asked the caller for them.
const OWN_EXTENSIONS: [&[u8]; 2] = [b"Authorization", b"Proxy-Authorization"];

/// What an INVITE of the terminating side has of its own.
pub struct Invite<'a> {
    /// Our Via.
    pub via: &'a [u8],
    /// Our Call-ID.
    pub call_id: &'a [u8],
    /// Our tag.
    pub tag: &'a [u8],
    /// The CSeq number.
    pub cseq: u32,
    /// The new Max-Forwards.
    pub max_forwards: u32,
    /// Route values of the received INVITE that were ours.
    pub own_routes: usize,
    /// A Route value to put on top of what remains.
    pub push_route: Option<&'a [u8]>,
    /// The next hop is a strict router: its URI goes on top (RFC 3261 §16.6 step 6).
    pub strict: Option<&'a [u8]>,
    /// Our Contact.
    pub contact: Contact<'a>,
    /// Whole header lines, CRLF included.
    pub extra: &'a [u8],
    /// The type of the body.
    pub content_type: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl Invite<'_> {
    /// Writes it: what the received INVITE says, with a dialog of our own (SPEC §2.3).
    pub fn write(&self, out: &mut Vec<u8>, received: &Message<'_>) {
        let bytes = received.bytes;
        let request_uri = received.request_uri().unwrap_or_default();
        out.reserve(bytes.len() + self.body.len() + 512);
        out.extend_from_slice(b"INVITE ");
        out.extend_from_slice(self.strict.unwrap_or(request_uri));
        out.extend_from_slice(b" SIP/2.0\r\n");
        line(out, "Via", self.via);
        if let Some(route) = self.push_route {
            line(out, "Route", route);
        }
        for route in received.elements(Name::Route).skip(self.own_routes + usize::from(self.strict.is_some())) {
            line(out, "Route", route);
        }
        if self.strict.is_some() {
            out.extend_from_slice(b"Route: <");
            out.extend_from_slice(request_uri);
            out.extend_from_slice(b">\r\n");
        }
        number_line(out, "Max-Forwards: ", u64::from(self.max_forwards));
        out.extend_from_slice(b"From: ");
        out.extend_from_slice(without_tag(received.value(Name::From).unwrap_or_default()));
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(self.tag);
        out.extend_from_slice(b"\r\n");
        line(out, "To", received.value(Name::To).unwrap_or_default());
        line(out, "Call-ID", self.call_id);
        write_cseq(out, self.cseq, "INVITE");
        let at = self.contact.write(out);
        out.extend_from_slice(self.extra);
        // Neighbouring lines are copied in one piece.
        let mut run: Option<(u32, u32)> = None;
        for field in &received.scan.fields {
            let own = match field.name {
                Name::Other => {
                    let name = field.name_span.of(bytes);
                    OWN_EXTENSIONS.iter().any(|own| own.eq_ignore_ascii_case(name))
                }
                name => OWN_FIELDS.contains(&name),
            };
            match &mut run {
                Some((_, end)) if !own && *end == field.line.start => *end = field.line.end,
                _ => {
                    if let Some((start, end)) = run.take() {
                        out.extend_from_slice(&bytes[start as usize..end as usize]);
                    }
                    run = (!own).then_some((field.line.start, field.line.end));
                }
            }
        }
        if let Some((start, end)) = run {
            out.extend_from_slice(&bytes[start as usize..end as usize]);
        }
        if !out.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
        line(out, "Content-Type", self.content_type);
        write_body(out, self.body);
        self.contact.settle(out, at);
    }
}

/// Copies the Record-Route of a request into an answer that makes a dialog.
///
/// RFC 3261 §12.1.1.
pub fn copy_record_route(out: &mut Vec<u8>, request: &Message<'_>) {
    for field in request.fields(Name::RecordRoute) {
        line(out, "Record-Route", field.value.of(request.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;

    fn read<R>(text: &str, read: impl FnOnce(&Message<'_>) -> R) -> R {
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        read(&Message { bytes: text.as_bytes(), scan: &scan })
    }

    const RESPONSE: &str = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP pf\r\nRecord-Route: <sip:p1;lr>, <sip:p2;lr>\r\n\
        Record-Route: <sip:p3;lr>\r\nFrom: \"A\" <sip:a@x;y=1>;tag=ours;z\r\nTo: sip:b@h;tag=theirs\r\nCall-ID: c\r\n\
        CSeq: 4 INVITE\r\nContact: <sip:b@192.0.2.3:99>;q=1\r\nAllow: INVITE, UPDATE\r\n\r\n";

    fn written(leg: &Leg, method: &str, sdp: &[u8], contact: Option<Contact<'_>>) -> String {
        let mut out = Vec::new();
        leg.write(&mut out, &Within { method, cseq: 5, via: b"v", tag: b"t", extra: b"X: y\r\n", contact, sdp });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_tag_reads_back_and_tells_its_side() {
        let session = SlotId { slot: 0x1234, generation: 0x0fff_ffff };
        for (index, side) in [(0, Side::Originating), (3, Side::Originating)] {
            let tag = LocalTag { session, index, nonce: 0xdead_beef };
            assert_eq!((LocalTag::parse(&tag.text()), tag.side()), (Some(tag), side));
        }
        assert_eq!(LocalTag { session, index: LocalTag::index_of_fork(2), nonce: 0 }.side(), Side::Terminating);
        for text in ["", "0000123400000010000000g00", "00001234000000100000001", "00001234000000100DEADBEEF"] {
            assert_eq!(LocalTag::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_callers_route_set_is_the_record_route_reversed() {
        let leg = read(RESPONSE, |response| Leg::of_response(response, 0x40)).unwrap();
        assert_eq!(
            written(&leg, "BYE", b"", None),
            "BYE sip:b@192.0.2.3:99 SIP/2.0\r\nVia: v\r\nMax-Forwards: 70\r\n\
             Route: <sip:p3;lr>, <sip:p2;lr>, <sip:p1;lr>\r\nFrom: \"A\" <sip:a@x;y=1>;tag=t\r\n\
             To: sip:b@h;tag=theirs\r\nCall-ID: c\r\nCSeq: 5 BYE\r\nX: y\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(leg.next_uri().unwrap().text, b"sip:p3;lr");
        assert_eq!((leg.remote_tag(), leg.local_cseq, leg.takes_update), (&b"theirs"[..], 4, true));
    }

    #[test]
    fn a_strict_router_gets_its_own_uri_and_the_target_last() {
        let text = RESPONSE.replace("p3;lr", "p3");
        let leg = read(&text, |response| Leg::of_response(response, 0x40)).unwrap();
        let text = written(&leg, "BYE", b"", None);
        assert!(text.starts_with("BYE sip:p3 SIP/2.0\r\n"), "{text}");
        assert!(text.contains("\r\nRoute: <sip:p2;lr>, <sip:p1;lr>, <sip:b@192.0.2.3:99>\r\n"), "{text}");
    }

    #[test]
    fn the_called_sides_route_set_stands_in_order_and_a_new_target_moves_it_only_without_routes() {
        let text = "INVITE sip:b@h SIP/2.0\r\nRecord-Route: <sip:p1;lr>\r\nFrom: <sip:a@x>;tag=theirs\r\nTo: <sip:b@h>\r\n\
                    Call-ID: c\r\nCSeq: 7 INVITE\r\nContact: <sip:a@192.0.2.4>\r\n\r\n";
        let mut leg = read(text, |invite| Leg::of_invite(invite, 7)).unwrap();
        assert_eq!(leg.next_uri().unwrap().text, b"sip:p1;lr");
        let moved = text.replace("192.0.2.4", "192.0.2.5");
        assert!(!read(&moved, |invite| leg.retarget(invite)), "the route set decides");
        assert!(written(&leg, "BYE", b"", None).starts_with("BYE sip:a@192.0.2.5 SIP/2.0\r\n"));
        let direct = text.replace("Record-Route: <sip:p1;lr>\r\n", "");
        let mut leg = read(&direct, |invite| Leg::of_invite(invite, 7)).unwrap();
        assert!(!read(&direct, |invite| leg.retarget(invite)), "the same");
        assert!(read(&moved, |invite| leg.retarget(invite)));
        assert!(leg.takes_cseq(8) && !leg.takes_cseq(8) && !leg.takes_cseq(3));
        assert!(read(&direct.replace("Contact", "X"), |invite| Leg::of_invite(invite, 7)).is_none());
    }

    #[test]
    fn a_contact_names_the_stream_that_the_size_asks_for() {
        let leg = read(RESPONSE, |response| Leg::of_response(response, 0x40)).unwrap();
        let contact = Contact { sent_by: "192.0.2.1:5080", service: "urn%3Ax", stream: false, path_mtu: 1500 };
        let small = written(&leg, "UPDATE", b"v=0\r\n", Some(contact));
        assert!(small.contains("Contact: <sip:192.0.2.1:5080>;+g.3gpp.icsi-ref=\"urn%3Ax\"\r\nX: y\r\n"), "{small}");
        assert!(small.ends_with("Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n"), "{small}");
        let large = written(&leg, "UPDATE", &[b'x'; 1300], Some(contact));
        assert!(large.contains("Contact: <sip:192.0.2.1:5080;transport=tcp>;"), "{large}");
    }

    #[test]
    fn an_invite_keeps_what_is_said_and_has_a_dialog_of_its_own() {
        let text = "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nRoute: <sip:pf;lr>, <sip:s;lr>\r\nX-Any: kept, as is\r\n\
             Max-Forwards: 9\r\nFrom: \"A\" <sip:a@x>;tag=a\r\nTo: <sip:b@h>\r\nCall-ID: 1\r\nCSeq: 9 INVITE\r\n\
             Contact: <sip:a@192.0.2.4>\r\nSubject: hi\r\nAuthorization: secret\r\nPrivacy: none\r\n\
             Supported: x\r\nContent-Type: application/sdp\r\nContent-Length: 1\r\n\r\nx";
        let contact = Contact { sent_by: "pf:1", service: "s", stream: true, path_mtu: 1500 };
        let invite = Invite {
            via: b"v",
            call_id: b"own",
            tag: b"t",
            cseq: 1,
            max_forwards: 8,
            own_routes: 1,
            push_route: None,
            strict: None,
            contact,
            extra: b"Supported: timer\r\n",
            content_type: b"application/sdp",
            body: b"new",
        };
        let mut out = Vec::new();
        read(text, |received| invite.write(&mut out, received));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "INVITE sip:b@h SIP/2.0\r\nVia: v\r\nRoute: <sip:s;lr>\r\nMax-Forwards: 8\r\nFrom: \"A\" <sip:a@x>;tag=t\r\n\
             To: <sip:b@h>\r\nCall-ID: own\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:pf:1;transport=tcp>;+g.3gpp.icsi-ref=\"s\"\r\nSupported: timer\r\nX-Any: kept, as is\r\n\
             Subject: hi\r\nPrivacy: none\r\nContent-Type: application/sdp\r\nContent-Length: 3\r\n\r\nnew"
        );
    }
}
