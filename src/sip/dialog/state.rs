//! The state of one dialog, in one piece of memory, and the head of requests inside it. RFC 3261 §12.

use super::id::{DialogFault, DialogId};
use super::route_set::{Order, RouteSet, push_unfolded};
use crate::base::limits::DIALOG_LEN_MAX;
use crate::sip::header::{address, cseq};
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::uri::{Scheme, Uri};
use crate::sip::write::{line, push_decimal};

/// A dialog as our side sees it.
///
/// Ten thousand of them lie idle at times, so its texts share one allocation.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// Call-ID, our address, the peer's address, the remote target, the routes: one behind the other.
    text: Box<[u8]>,
    /// Where each of the five ends.
    ends: [u16; PART_COUNT],
    /// The last number that we used; 0 when we sent nothing yet.
    local_cseq: u32,
    /// The last number that the peer used.
    remote_cseq: Option<u32>,
}

/// A request of ours inside a dialog.
#[derive(Clone, Copy, Debug)]
pub struct InDialog<'a> {
    /// The method.
    pub method: &'a str,
    /// The value of the Via.
    pub via: &'a [u8],
    /// The sequence number: [`Dialog::next_cseq`], or the one of the INVITE in its ACK.
    pub cseq: u32,
}

impl Dialog {
    /// The dialog that our response with this tag founds.
    ///
    /// RFC 3261 §12.1.1.
    pub fn server(request: &Message<'_>, local_tag: &[u8]) -> Result<Self, DialogFault> {
        debug_assert!(!local_tag.is_empty(), "a dialog of ours has a tag of ours");
        let need = |name| request.value(name).ok_or(DialogFault::Incomplete);
        let mut parts = Parts::new();
        parts.push(need(Name::CallId)?);
        let (local, start) = (need(Name::To)?, parts.text.len());
        push_unfolded(&mut parts.text, local);
        if address::tag(local).is_none() {
            parts.text.extend_from_slice(b";tag=");
            parts.text.extend_from_slice(local_tag);
        }
        // A To that hides what is put behind it would make a dialog that nothing finds.
        match address::tag(&parts.text[start..]) {
            Some(tag) if tag == local_tag => {}
            Some(_) => return Err(DialogFault::ForeignTag),
            None => return Err(DialogFault::Incomplete),
        }
        parts.close();
        parts.push(need(Name::From)?);
        parts.push(contact(request)?.ok_or(DialogFault::Contact)?);
        RouteSet::collect(&mut parts.text, request, Order::AsReceived)?;
        parts.close();
        let (sequence, _) = cseq::parse(need(Name::CSeq)?).ok_or(DialogFault::Incomplete)?;
        parts.into_dialog(0, Some(sequence))
    }

    /// The dialog that a response to our request founds, early or confirmed.
    ///
    /// `request_uri` is where the request went: the target of a peer that names no usable Contact, since a 2xx has to be
    /// acknowledged even so.
    /// RFC 3261 §12.1.2.
    pub fn client(response: &Message<'_>, local_tag: &[u8], request_uri: &[u8]) -> Result<Self, DialogFault> {
        let need = |name| response.value(name).ok_or(DialogFault::Incomplete);
        let local = need(Name::From)?;
        if address::tag(local) != Some(local_tag) {
            return Err(DialogFault::ForeignTag);
        }
        let mut parts = Parts::new();
        parts.push(need(Name::CallId)?);
        parts.push(local);
        parts.push(need(Name::To)?);
        parts.push(contact(response).ok().flatten().unwrap_or(request_uri));
        RouteSet::collect(&mut parts.text, response, Order::Reversed)?;
        parts.close();
        let (sequence, _) = cseq::parse(need(Name::CSeq)?).ok_or(DialogFault::Incomplete)?;
        parts.into_dialog(sequence, None)
    }

    /// Turns an early dialog of ours into a confirmed one: target and routes are those of the 2xx.
    ///
    /// RFC 3261 §13.2.2.4.
    pub fn confirm(&mut self, response: &Message<'_>) -> Result<(), DialogFault> {
        let id = DialogId::of_response(response).ok_or(DialogFault::Incomplete)?;
        if id.call_id != self.id().call_id || id.local_tag != self.id().local_tag {
            return Err(DialogFault::ForeignTag);
        }
        let confirmed = Self::client(response, self.id().local_tag, self.target())?;
        let local_cseq = self.local_cseq.max(confirmed.local_cseq);
        *self = Self { local_cseq, remote_cseq: self.remote_cseq, ..confirmed };
        Ok(())
    }

    /// Takes the Contact of a target refresh, request or response, as the new remote target; without one it stays.
    ///
    /// RFC 3261 §12.2.1.2, §12.2.2.
    pub fn on_target_refresh(&mut self, message: &Message<'_>) -> Result<(), DialogFault> {
        let Some(target) = contact(message)?.filter(|target| *target != self.target()) else { return Ok(()) };
        let mut parts = Parts::new();
        for part in 0..PART_COUNT {
            parts.push(if part == TARGET { target } else { self.part(part) });
        }
        *self = parts.into_dialog(self.local_cseq, self.remote_cseq)?;
        Ok(())
    }

    /// Judges the number of a request of the peer, ACK and CANCEL excepted: false when it is out of order, which is
    /// answered with 500.
    ///
    /// RFC 3261 §12.2.2.
    pub fn on_remote_cseq(&mut self, sequence: u32) -> bool {
        let is_in_order = self.remote_cseq.is_none_or(|last| sequence >= last);
        if is_in_order {
            self.remote_cseq = Some(sequence);
        }
        is_in_order
    }

    /// The number of our next request.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn next_cseq(&mut self) -> u32 {
        // Peers that chose our first number cannot bring us to the end: it is ours, and small.
        debug_assert!(self.local_cseq < (1 << 31) - 1, "a dialog does not live for two thousand million requests");
        self.local_cseq = (self.local_cseq + 1) % (1 << 31);
        self.local_cseq
    }

    /// The last number that we used.
    ///
    /// RFC 3261 §12.2.1.1.
    pub const fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// The last number that the peer used.
    ///
    /// RFC 3261 §12.2.2.
    pub const fn remote_cseq(&self) -> Option<u32> {
        self.remote_cseq
    }

    /// What names the dialog.
    ///
    /// RFC 3261 §12.
    pub fn id(&self) -> DialogId<'_> {
        DialogId {
            call_id: self.part(CALL_ID),
            local_tag: address::tag(self.part(LOCAL)).unwrap_or_default(),
            remote_tag: address::tag(self.part(REMOTE)).unwrap_or_default(),
        }
    }

    /// Our side as it stands in From or To, with its tag.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn local(&self) -> &[u8] {
        self.part(LOCAL)
    }

    /// The peer's side as it stands in From or To, with its tag.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn remote(&self) -> &[u8] {
        self.part(REMOTE)
    }

    /// The URI of the peer's Contact.
    ///
    /// RFC 3261 §12.
    pub fn target(&self) -> &[u8] {
        self.part(TARGET)
    }

    /// The route set.
    ///
    /// RFC 3261 §12.
    pub fn routes(&self) -> RouteSet<'_> {
        RouteSet::new(self.part(ROUTES))
    }

    /// The URI that our next request goes to.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn next_hop(&self) -> &[u8] {
        self.routes().next_hop(self.target())
    }

    /// Writes the head of a request of ours: request line, Via, Route, Max-Forwards, From, To, Call-ID, CSeq. What the
    /// method needs besides, the length of the body and the empty line follow.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn write_request(&self, out: &mut Vec<u8>, request: &InDialog<'_>) {
        out.reserve(self.text.len() + request.via.len() + 256);
        out.extend_from_slice(request.method.as_bytes());
        out.push(b' ');
        let (routes, target) = (self.routes(), self.target());
        let is_strict = routes.is_strict();
        routes.write_request_uri_by(is_strict, out, target);
        out.extend_from_slice(b" SIP/2.0\r\n");
        line(out, "Via", request.via);
        routes.write_route_by(is_strict, out, target);
        line(out, "Max-Forwards", b"70");
        line(out, "From", self.local());
        line(out, "To", self.remote());
        line(out, "Call-ID", self.part(CALL_ID));
        out.extend_from_slice(b"CSeq: ");
        push_decimal(out, u64::from(request.cseq));
        out.push(b' ');
        out.extend_from_slice(request.method.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Bytes of memory that the dialog holds besides itself.
    ///
    /// RFC 3261 §12.
    pub const fn heap_len(&self) -> usize {
        self.text.len()
    }

    fn part(&self, part: usize) -> &[u8] {
        let start = if part == 0 { 0 } else { self.ends[part - 1] };
        &self.text[usize::from(start)..usize::from(self.ends[part])]
    }
}

/// The texts of a dialog while they are gathered.
struct Parts {
    text: Vec<u8>,
    ends: [usize; PART_COUNT],
    count: usize,
}

impl Parts {
    fn new() -> Self {
        // Enough for most, so that gathering does not grow step by step; what is kept is cut to size.
        Self { text: Vec::with_capacity(512), ends: [0; PART_COUNT], count: 0 }
    }

    /// One whole part.
    fn push(&mut self, value: &[u8]) {
        push_unfolded(&mut self.text, value);
        self.close();
    }

    /// Ends the part that was written.
    fn close(&mut self) {
        self.ends[self.count] = self.text.len();
        self.count += 1;
    }

    fn into_dialog(self, local_cseq: u32, remote_cseq: Option<u32>) -> Result<Dialog, DialogFault> {
        debug_assert_eq!(self.count, PART_COUNT, "a dialog has all its parts");
        if self.text.len() > DIALOG_LEN_MAX {
            return Err(DialogFault::TooLarge);
        }
        let ends = self.ends.map(|end| end as u16);
        let dialog = Dialog { text: self.text.into_boxed_slice(), ends, local_cseq, remote_cseq };
        let DialogId { call_id, local_tag, remote_tag } = dialog.id();
        // What had to be unfolded would never be found again.
        let is_word = |text: &[u8]| text.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
        if [call_id, local_tag, remote_tag].into_iter().all(is_word) {
            Ok(dialog)
        } else {
            Err(DialogFault::Incomplete)
        }
    }
}

/// The SIP URI of the first Contact; `None` when there is none.
fn contact<'a>(message: &Message<'a>) -> Result<Option<&'a [u8]>, DialogFault> {
    if message.value(Name::Contact).is_none() {
        return Ok(None);
    }
    let uri = message.address(Name::Contact).ok_or(DialogFault::Contact)?.uri;
    match Uri::parse(uri) {
        Ok(Uri { scheme: Scheme::Sip | Scheme::Sips, .. }) => Ok(Some(uri)),
        _ => Err(DialogFault::Contact),
    }
}

const CALL_ID: usize = 0;
const LOCAL: usize = 1;
const REMOTE: usize = 2;
const TARGET: usize = 3;
const ROUTES: usize = 4;
const PART_COUNT: usize = 5;
const _: () = assert!(DIALOG_LEN_MAX <= u16::MAX as usize, "ends have sixteen bits");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;

    const INVITE: &str = "INVITE sip:bob@home.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.3;branch=z9hG4bK1\r\n\
        Record-Route: <sip:p2.example;lr>\r\nRecord-Route: <sip:p1.example;lr>\r\nMax-Forwards: 70\r\n\
        From: \"A;tag=no\" <sip:alice@a.example>;tag=a1\r\nTo: <sip:bob@home.example>\r\nCall-ID: c@a.example\r\n\
        CSeq: 7 INVITE\r\nContact: <sip:alice@192.0.2.3:5070>;x=y\r\nContent-Length: 0\r\n\r\n";

    const OK: &str = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bK2\r\n\
        Record-Route: <sip:p3.example;lr>, <sip:p4.example;lr>\r\nFrom: <sip:alice@a.example>;tag=ours\r\n\
        To: <sip:bob@home.example>;tag=b1\r\nCall-ID: own@pf\r\nCSeq: 1 INVITE\r\nContact: <sip:bob@192.0.2.4>\r\n\
        Content-Length: 0\r\n\r\n";

    fn with<T>(text: &str, what: impl FnOnce(&Message<'_>) -> T) -> T {
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        what(&Message { bytes: text.as_bytes(), scan: &scan })
    }

    fn server(text: &str) -> Result<Dialog, DialogFault> {
        with(text, |request| Dialog::server(request, b"t1"))
    }

    fn client(text: &str) -> Result<Dialog, DialogFault> {
        with(text, |response| Dialog::client(response, b"ours", b"sip:bob@home.example"))
    }

    fn written(dialog: &Dialog, method: &str, cseq: u32) -> String {
        let mut out = Vec::new();
        dialog.write_request(&mut out, &InDialog { method, via: b"SIP/2.0/UDP pf;branch=z9hG4bK9", cseq });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_inside_a_servers_dialog_goes_back_the_way_it_came() {
        let mut dialog = server(INVITE).unwrap();
        let cseq = dialog.next_cseq();
        let expected = "BYE sip:alice@192.0.2.3:5070 SIP/2.0\r\nVia: SIP/2.0/UDP pf;branch=z9hG4bK9\r\n\
            Route: <sip:p2.example;lr>, <sip:p1.example;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:bob@home.example>;tag=t1\r\n\
            To: \"A;tag=no\" <sip:alice@a.example>;tag=a1\r\nCall-ID: c@a.example\r\nCSeq: 1 BYE\r\n";
        assert_eq!(written(&dialog, "BYE", cseq), expected);
        assert_eq!(dialog.next_hop(), b"sip:p2.example;lr");
        let id = DialogId { call_id: b"c@a.example", local_tag: b"t1", remote_tag: b"a1" };
        assert_eq!(dialog.id(), id);
    }

    #[test]
    fn a_request_inside_a_clients_dialog_takes_the_routes_from_behind() {
        let dialog = client(OK).unwrap();
        let expected = "ACK sip:bob@192.0.2.4 SIP/2.0\r\nVia: SIP/2.0/UDP pf;branch=z9hG4bK9\r\n\
            Route: <sip:p4.example;lr>, <sip:p3.example;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:alice@a.example>;tag=ours\r\n\
            To: <sip:bob@home.example>;tag=b1\r\nCall-ID: own@pf\r\nCSeq: 1 ACK\r\n";
        assert_eq!(written(&dialog, "ACK", dialog.local_cseq()), expected);
    }

    #[test]
    fn received_messages_name_the_dialog_they_belong_to() {
        let dialog = client(OK).unwrap();
        assert!(with(OK, |response| DialogId::of_response(response) == Some(dialog.id())));
        let bye = "BYE sip:pf SIP/2.0\r\nFrom: <sip:bob@home.example>;tag=b1\r\nTo: <sip:alice@a.example>;tag=ours\r\n\
            Call-ID: own@pf\r\nCSeq: 1 BYE\r\n\r\n";
        assert!(with(bye, |request| DialogId::of_request(request) == Some(dialog.id())));
        assert!(with(INVITE, |request| DialogId::of_request(request).is_none()));
        let old = bye.replace(";tag=b1", "");
        assert!(with(&old, |request| DialogId::of_request(request).is_some_and(|id| id.remote_tag.is_empty())));
    }

    #[test]
    fn numbers_go_up_and_the_peers_may_not_go_back() {
        let mut dialog = server(INVITE).unwrap();
        assert_eq!((dialog.local_cseq(), dialog.remote_cseq()), (0, Some(7)));
        assert_eq!((dialog.next_cseq(), dialog.next_cseq()), (1, 2));
        assert!(dialog.on_remote_cseq(9));
        assert!(!dialog.on_remote_cseq(8));
        assert_eq!(dialog.remote_cseq(), Some(9));
        let mut dialog = client(OK).unwrap();
        assert_eq!((dialog.local_cseq(), dialog.remote_cseq()), (1, None));
        assert!(dialog.on_remote_cseq(1), "the peer's numbers start where the peer likes");
    }

    #[test]
    fn a_target_refresh_moves_the_target_and_nothing_else() {
        let mut dialog = server(INVITE).unwrap();
        let before = (dialog.id().call_id.to_vec(), dialog.routes().values().count(), dialog.remote().to_vec());
        let moved = INVITE.replace("<sip:alice@192.0.2.3:5070>", "<sip:alice@[2001:db8::9]:5071;transport=tcp>");
        assert_eq!(with(&moved, |request| dialog.on_target_refresh(request)), Ok(()));
        assert_eq!(dialog.target(), b"sip:alice@[2001:db8::9]:5071;transport=tcp");
        let after = (dialog.id().call_id.to_vec(), dialog.routes().values().count(), dialog.remote().to_vec());
        assert_eq!(before, after);
        let silent = INVITE.replace("Contact:", "X-Contact:");
        assert_eq!(with(&silent, |request| dialog.on_target_refresh(request)), Ok(()));
        let broken = INVITE.replace("<sip:alice@192.0.2.3:5070>", "*");
        assert_eq!(with(&broken, |request| dialog.on_target_refresh(request)), Err(DialogFault::Contact));
        assert_eq!(dialog.target(), b"sip:alice@[2001:db8::9]:5071;transport=tcp");
    }

    #[test]
    fn a_final_answer_settles_target_and_routes_and_keeps_the_numbers() {
        let ringing = OK.replace("200 OK", "180 Ringing").replace("<sip:bob@192.0.2.4>", "<sip:bob@192.0.2.99>");
        let mut dialog = client(&ringing.replace("<sip:p3.example;lr>, ", "")).unwrap();
        assert_eq!((dialog.routes().values().count(), dialog.next_cseq()), (1, 2));
        assert!(dialog.on_remote_cseq(5));
        assert_eq!(with(OK, |response| dialog.confirm(response)), Ok(()));
        assert_eq!((dialog.routes().values().count(), dialog.target()), (2, &b"sip:bob@192.0.2.4"[..]));
        assert_eq!((dialog.local_cseq(), dialog.remote_cseq()), (2, Some(5)));
        let foreign = OK.replace("own@pf", "other@pf");
        assert_eq!(with(&foreign, |response| dialog.confirm(response)), Err(DialogFault::ForeignTag));
    }

    #[test]
    fn what_founds_no_dialog_says_why() {
        let cases = [
            ("CSeq: 7 INVITE", "X: y", DialogFault::Incomplete),
            ("From:", "X-From:", DialogFault::Incomplete),
            ("c@a.example", "c\r\n @a.example", DialogFault::Incomplete),
            (";tag=a1", ";tag=a\r1", DialogFault::Incomplete),
            ("Contact:", "X-Contact:", DialogFault::Contact),
            ("<sip:alice@192.0.2.3:5070>", "<tel:+15550100>", DialogFault::Contact),
            ("<sip:p1.example;lr>", "<sip:p1", DialogFault::RecordRoute),
            ("home.example>\r\nCall", "home.example>;tag=other\r\nCall", DialogFault::ForeignTag),
            ("home.example>\r\nCall", "home.example>;tag\r\nCall", DialogFault::Incomplete),
        ];
        for (from, to, expected) in cases {
            assert_eq!(server(&INVITE.replace(from, to)).err(), Some(expected), "{to}");
        }
        let long = INVITE.replace("c@a.example", &"c".repeat(DIALOG_LEN_MAX));
        assert_eq!(server(&long).err(), Some(DialogFault::TooLarge));
        assert_eq!(client(&OK.replace("tag=ours", "tag=theirs")).err(), Some(DialogFault::ForeignTag));
    }

    #[test]
    fn an_answer_without_a_usable_contact_can_still_be_acknowledged() {
        for contact in ["Contact: *", "Contact: <tel:+1>", "X-Contact: <sip:bob@192.0.2.4>"] {
            let dialog = client(&OK.replace("Contact: <sip:bob@192.0.2.4>", contact)).unwrap();
            assert_eq!(dialog.target(), b"sip:bob@home.example", "{contact}");
        }
    }

    #[test]
    fn a_dialog_is_small_and_holds_one_piece_of_memory() {
        let dialog = server(INVITE).unwrap();
        assert!(size_of::<Dialog>() <= 48, "{} bytes", size_of::<Dialog>());
        let texts = [dialog.id().call_id, dialog.local(), dialog.remote(), dialog.target()];
        let routes = "<sip:p2.example;lr>, <sip:p1.example;lr>".len();
        assert_eq!(dialog.text.len(), texts.iter().map(|text| text.len()).sum::<usize>() + routes);
    }
}
