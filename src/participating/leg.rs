//! One leg of a session in large message mode: what its dialog needs, kept small, and the messages written for it.
//!
//! RFC 3261 §12. Legs know nothing of each other; who couples them is [`super::b2bua`].

use super::effect::NextHop;
use super::transactions::{ClientId, ServerId};
use crate::base::slots::SlotId;
use crate::base::time::Instant;
use crate::sdp::Role;
use crate::sip::dialog::session_timer::SessionTimer;
use crate::sip::dialog::{Dialog, InDialog};
use crate::sip::header::list::{find_outside, trim};
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::transport::exceeds_datagram;
use crate::sip::write::{line, number_line, push_decimal, write_body};
use bytes::Bytes;
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
    /// Its dialog.
    pub dialog: Dialog,
    /// Its session timer.
    pub timer: SessionTimer,
    /// Where requests go, once known.
    pub hop: Option<NextHop>,
    /// Which tag of ours it has.
    pub tag_index: u8,
    /// The peer takes UPDATE (RFC 3311).
    pub takes_update: bool,
    /// Who opens the MSRP connection.
    pub role: Role,
    /// What waits for the way to the peer to be known.
    pub owes: Owes,
    /// A request of ours that changes or refreshes the session waits for its final response.
    pub asked: Asked,
    /// Its INVITE, and until when it may stay without a final response; `None` once it is called back.
    pub reinvite: Option<(ClientId, Instant)>,
    /// The CSeq number of our last INVITE: its ACK has the same.
    pub invite_cseq: u32,
    /// The version of our last session description.
    pub version: u32,
    /// Our answer that waits for its ACK.
    pub answer: Option<Box<Answer>>,
    /// Our last session description, where a refresh has to repeat it: the peer takes no UPDATE.
    pub described: Option<Box<[u8]>>,
}

/// What is to be sent on a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owes {
    /// The ACK of its 2xx.
    pub ack: bool,
    /// A refresh.
    pub refresh: bool,
    /// The other leg's re-INVITE or UPDATE.
    pub change: bool,
    /// BYE.
    pub bye: bool,
}

/// A request of ours within a dialog that can be answered only once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// None is under way.
    #[default]
    Nothing,
    /// A refresh of ours.
    Refresh,
    /// What the other leg asked for.
    Change,
}

impl Leg {
    /// A leg with nothing under way.
    pub fn new(dialog: Dialog, tag_index: u8, peer: &Message<'_>) -> Self {
        Self {
            invite_cseq: dialog.local_cseq(),
            dialog,
            timer: SessionTimer::default(),
            hop: None,
            tag_index,
            takes_update: allows(peer, b"UPDATE"),
            role: Role::Passive,
            owes: Owes::default(),
            asked: Asked::Nothing,
            reinvite: None,
            version: 0,
            answer: None,
            described: None,
        }
    }

    /// Takes the peer's new remote target, where it has one: the way there may have to be found again.
    ///
    /// RFC 3261 §12.2.1.2, §12.2.2.
    pub fn retarget(&mut self, message: &Message<'_>) {
        let before = self.dialog.target().len();
        let same = message.address(Name::Contact).is_none_or(|contact| contact.uri == self.dialog.target());
        // One that cannot be read changes nothing.
        if !same && self.dialog.on_target_refresh(message).is_ok() {
            debug_assert!(before > 0, "a dialog has a target");
            if self.dialog.routes().first().is_none() {
                self.hop = None;
            }
        }
    }

    /// True while an INVITE or UPDATE in either direction keeps others from being sent (RFC 3261 §14, RFC 3311 §5.2).
    pub fn is_busy(&self) -> bool {
        self.asked != Asked::Nothing || self.answer.is_some()
    }

    /// Bytes on the heap.
    pub fn heap_len(&self) -> usize {
        self.dialog.heap_len()
            + self.answer.as_ref().map_or(0, |answer| size_of::<Answer>() + answer.bytes.len())
            + self.described.as_ref().map_or(0, |text| text.len())
    }
}

/// What a request within a dialog has besides what the dialog says.
#[derive(Default)]
pub struct Within<'a> {
    /// The method.
    pub method: &'a str,
    /// The CSeq number.
    pub cseq: u32,
    /// Our Via.
    pub via: &'a [u8],
    /// Whole header lines, CRLF included.
    pub extra: &'a [u8],
    /// Our Contact, in requests that have one.
    pub contact: Option<Contact<'a>>,
    /// The session description, empty for none.
    pub sdp: &'a [u8],
}

impl Within<'_> {
    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>, dialog: &Dialog) {
        let Self { method, cseq, via, .. } = *self;
        dialog.write_request(out, &InDialog { method, via, cseq });
        let place = self.contact.map(|contact| (contact, contact.write(out)));
        out.extend_from_slice(self.extra);
        if !self.sdp.is_empty() {
            out.extend_from_slice(b"Content-Type: application/sdp\r\n");
        }
        write_body(out, self.sdp);
        if let Some((contact, at)) = place {
            contact.settle(out, at);
        }
    }
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
    find_outside(value, b';').map_or(value, |at| trim(&value[..at]))
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
const OWN_FIELDS: [Name; 26] = [
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
    Name::RecordedTimestamp,
];

/// Fields without a [`Name`] that end here: credentials are for who asked the caller for them, dialogs and what may be
/// sent within them are the caller's.
const OWN_EXTENSIONS: [&[u8]; 6] =
    [b"Authorization", b"Proxy-Authorization", b"Join", b"Target-Dialog", b"Recv-Info", b"Allow-Events"];

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

    const RESPONSE: &str = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP pf\r\nFrom: \"A\" <sip:a@x;y=1>;tag=ours\r\n\
        To: sip:b@h;tag=theirs\r\nCall-ID: c\r\nCSeq: 4 INVITE\r\nContact: <sip:b@192.0.2.3:99>;q=1\r\n\
        Allow: INVITE, UPDATE\r\n\r\n";

    fn leg(text: &str) -> Leg {
        read(text, |response| Leg::new(Dialog::client(response, b"ours", b"sip:b@h").unwrap(), 0x40, response))
    }

    fn written(leg: &Leg, method: &str, sdp: &[u8], contact: Option<Contact<'_>>) -> String {
        let mut out = Vec::new();
        Within { method, cseq: 5, via: b"v", extra: b"X: y\r\n", contact, sdp }.write(&mut out, &leg.dialog);
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
    fn a_new_target_moves_the_next_hop_only_without_routes() {
        let hop = Some(NextHop { transport: None, addr: "192.0.2.3:99".parse().unwrap() });
        let moved = RESPONSE.replace("192.0.2.3", "192.0.2.4");
        for (routes, expected) in [("", None), ("Record-Route: <sip:p;lr>\r\n", hop)] {
            let mut leg = leg(&RESPONSE.replace("To: ", &format!("{routes}To: ")));
            leg.hop = hop;
            read(RESPONSE, |message| leg.retarget(message));
            assert_eq!(leg.hop, hop, "the same target");
            read(&moved, |message| leg.retarget(message));
            assert_eq!((leg.hop, leg.dialog.target()), (expected, &b"sip:b@192.0.2.4:99"[..]));
        }
    }

    #[test]
    fn a_contact_names_the_stream_that_the_size_asks_for() {
        let leg = leg(RESPONSE);
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
