//! The state of one dialog, in one piece of memory, and the head of requests inside it. RFC 3261 §12.

use super::id::{DialogFault, DialogId};
use super::route_set::{Order, RouteSet, push_unfolded};
use crate::base::limits::DIALOG_LEN_MAX;
use crate::sip::header::{address, cseq};
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::uri::{Scheme, Uri};
use crate::sip::write::line;
use std::io::Write;

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
        let mut parts = Parts::default();
        parts.push(need(Name::CallId)?);
        let local = need(Name::To)?;
        push_unfolded(&mut parts.text, local);
        match address::tag(local) {
            None => {
                parts.text.extend_from_slice(b";tag=");
                parts.text.extend_from_slice(local_tag);
            }
            Some(tag) if tag == local_tag => {}
            Some(_) => return Err(DialogFault::ForeignTag),
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
        let mut parts = Parts::default();
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
        let mut parts = Parts::default();
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
        self.routes().write_request_uri(out, self.target());
        out.extend_from_slice(b" SIP/2.0\r\n");
        line(out, "Via", request.via);
        self.routes().write_route(out, self.target());
        line(out, "Max-Forwards", b"70");
        line(out, "From", self.local());
        line(out, "To", self.remote());
        line(out, "Call-ID", self.part(CALL_ID));
        write!(out, "CSeq: {} {}\r\n", request.cseq, request.method).expect("writing to memory cannot fail");
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
#[derive(Default)]
struct Parts {
    text: Vec<u8>,
    ends: [usize; PART_COUNT],
    count: usize,
}

impl Parts {
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
        Ok(Dialog { text: self.text.into_boxed_slice(), ends, local_cseq, remote_cseq })
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
