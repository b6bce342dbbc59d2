//! What comes within a dialog of large message mode: BYE, re-INVITE, UPDATE, PRACK, and refreshes of our own (SPEC
//! LM-4, LM-5; RFC 3261 §12.2, §14, §15, RFC 3262, RFC 3311, RFC 4028).

use super::b2bua::cseq_of;
use super::core::{ALLOW_LINE, Core, OWN_REQUEST_MARK, RETRY_AFTER_LINE, SERVER_LINE, USER_AGENT_LINE};
use super::effect::NextHop;
use super::input::Transport;
use super::large::{Change, MIN_SE_LINE, SESSION_SECONDS, SUPPORTED, Stage, connect_addresses};
use super::large_body::SessionBody;
use super::large_decide::OfferFault;
use super::leg::{Answer, Asked, LocalTag, Side, Within};
use super::subscriber::Directory;
use super::transactions::{LegRequest, Owner, ServerId, Verdict};
use crate::base::slots::SlotId;
use crate::base::time::Now;
use crate::metrics::names::Counter;
use crate::sdp::{self, Description, MessageMedia, Role, Setup, answer_setup_again, write_answer, write_offer};
use crate::sip::dialog::session_timer::{Agreement, Due, Keeper, Part, Refresher, TimerAnswer, TimerRequest};
use crate::sip::header::address;
use crate::sip::header::list::trim;
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::{Name, decimal};
use crate::sip::transaction::T1;
use crate::sip::write::line;
use bytes::Bytes;
use std::time::Duration;

/// How long a refresh waits after one that crossed a request of the peer (RFC 3261 §14.1: up to 4 s for the owner of the
/// Call-ID, up to 2 s for the other; in between for both).
const REFRESH_AGAIN: Duration = Duration::from_millis(2_100);
/// How long an answer to a re-INVITE waits for its ACK.
const ACK_PATIENCE: Duration = T1.saturating_mul(64);

/// A dialog of ours that a request belongs to.
#[derive(Clone, Copy)]
struct Place {
    id: SlotId,
    side: Side,
}

/// What a change of a session says, read.
struct Described<'a> {
    description: Description<'a>,
    media: MessageMedia<'a>,
}

impl<D: Directory> Core<D> {
    /// A request with a tag of ours: true when it was answered here.
    pub(super) fn on_request_within(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        envelope: &Envelope<'_>,
        now: Now,
    ) -> bool {
        let method = message.method().unwrap_or_default();
        let Some(tag) = envelope.to_tag.and_then(LocalTag::parse) else {
            return false;
        };
        if !matches!(method, b"BYE" | b"INVITE" | b"UPDATE" | b"PRACK" | b"OPTIONS") {
            return false;
        }
        let Some(place) = self.place_of(tag, envelope) else {
            if self.on_early_request(server, tag, message, envelope, now) {
                return true;
            }
            self.respond(server, message, 481, "Call/Transaction Does Not Exist", "", now);
            return true;
        };
        let leg = self.large.sessions.get_mut(place.id).and_then(|session| session.leg_mut(place.side));
        if !leg.is_some_and(|leg| leg.dialog.on_remote_cseq(envelope.cseq)) {
            self.respond(server, message, 500, "CSeq Out Of Order", "", now);
            return true;
        }
        if method != b"BYE" && !self.require_is_met(server, message, &SUPPORTED, now) {
            return true;
        }
        match method {
            b"BYE" => self.on_bye(place, server, message, now),
            b"INVITE" | b"UPDATE" => self.on_change(place, server, message, method == b"UPDATE", now),
            b"OPTIONS" => {
                let extra = format!("{ALLOW_LINE}Accept: application/sdp\r\nSupported: timer, 100rel\r\n");
                self.respond(server, message, 200, "OK", &extra, now);
            }
            // Every provisional response of ours belongs to an early dialog.
            _ => self.respond(server, message, 481, "Call/Transaction Does Not Exist", "", now),
        }
        true
    }

    /// The confirmed dialog that a request belongs to: our tag, its Call-ID and its tag.
    fn place_of(&self, tag: LocalTag, envelope: &Envelope<'_>) -> Option<Place> {
        let id = tag.session;
        let session = self.large.sessions.get(id)?;
        let side = tag.side();
        let leg = session.leg(side)?;
        let dialog = leg.dialog.id();
        let is_ours = session.tag(id, leg.tag_index) == tag && session.stage != Stage::Ending;
        let is_theirs = dialog.call_id == envelope.call_id && dialog.remote_tag == envelope.from_tag;
        (is_ours && is_theirs).then_some(Place { id, side })
    }

    /// A request of the originating side before its INVITE is answered.
    fn on_early_request(
        &mut self,
        server: ServerId,
        tag: LocalTag,
        message: &Message<'_>,
        envelope: &Envelope<'_>,
        now: Now,
    ) -> bool {
        let id = tag.session;
        let Some(session) = self.large.sessions.get(id) else { return false };
        let Some(setup) = &session.setup else { return false };
        if session.tag(id, tag.index) != tag || usize::from(tag.index) >= setup.early.len() {
            return false;
        }
        let request = setup.request.clone();
        let is_theirs = self.with_request(&request, |_, invite| {
            invite.value(Name::CallId) == Some(envelope.call_id)
                && invite.value(Name::From).and_then(address::tag).unwrap_or_default() == envelope.from_tag
        });
        if is_theirs != Some(true) {
            return false;
        }
        match message.method().unwrap_or_default() {
            b"BYE" => {
                self.respond(server, message, 200, "OK", "", now);
                self.end_session(id, Some(Side::Originating), b"", now);
            }
            b"PRACK" => return self.on_prack(id, server, message, now),
            b"OPTIONS" => self.respond(server, message, 200, "OK", ALLOW_LINE, now),
            // The offer of the INVITE has no answer yet (RFC 3311 §5.2).
            _ => self.respond(server, message, 500, "Server Internal Error", "Retry-After: 3\r\n", now),
        }
        true
    }

    /// RFC 3262 §3: a PRACK that matches a provisional response ends its repetitions.
    fn on_prack(&mut self, id: SlotId, server: ServerId, message: &Message<'_>, now: Now) -> bool {
        let rack = message.value(Name::Rack).unwrap_or_default();
        let digits = rack.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rseq = decimal(&rack[..digits]);
        let names_invite = trim(&rack[digits..]).ends_with(b"INVITE");
        let Some(setup) = self.large.sessions.get_mut(id).and_then(|session| session.setup.as_mut()) else {
            return false;
        };
        let matches = setup.reliable.as_ref().is_some_and(|reliable| Some(u64::from(reliable.rseq)) == rseq);
        if !matches || !names_invite {
            return false;
        }
        setup.reliable = None;
        self.respond(server, message, 200, "OK", "", now);
        true
    }

    /// RFC 3261 §15.1.2: the other side hears it too, with the reason.
    fn on_bye(&mut self, place: Place, server: ServerId, message: &Message<'_>, now: Now) {
        self.metrics.count(Counter::SessionEnded);
        self.respond(server, message, 200, "OK", "", now);
        let mut reason = Vec::new();
        for field in message.fields(Name::Reason) {
            line(&mut reason, "Reason", field.value.of(message.bytes));
        }
        self.end_session(place.id, Some(place.side), &reason, now);
    }

    /// A re-INVITE or UPDATE: a refresh of this leg, or a change that the other leg has to agree to.
    fn on_change(&mut self, place: Place, server: ServerId, message: &Message<'_>, is_update: bool, now: Now) {
        let Place { id, side } = place;
        let Some(timer) = TimerRequest::of(message) else {
            self.respond(server, message, 400, "Bad Session-Expires", "", now);
            return;
        };
        if matches!(timer.answer(SESSION_SECONDS), TimerAnswer::TooSmall { .. }) {
            self.respond(server, message, 422, "Session Interval Too Small", MIN_SE_LINE, now);
            return;
        }
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let (stage, from) = (session.stage, session.change.as_ref().map(|change| change.from));
        let has_other = session.leg(side.other()).is_some();
        let other_busy = session.leg(side.other()).is_some_and(|leg| leg.asked != Asked::Nothing);
        let Some(leg) = session.leg_mut(side) else { return };
        if from == Some(side) || leg.answer.is_some() || stage != Stage::Confirmed {
            // RFC 3261 §14.2: its last one is not done.
            self.respond(server, message, 500, "Server Internal Error", RETRY_AFTER_LINE, now);
            return;
        }
        if leg.asked != Asked::Nothing {
            self.respond(server, message, 491, "Request Pending", "", now);
            return;
        }
        leg.retarget(message);
        let described = match described(message, side) {
            Ok(described) => described,
            // An UPDATE without a description refreshes this leg alone (RFC 4028 §7.4).
            Err(OfferFault::Body(super::large_body::BodyFault::Absent)) if is_update => {
                self.answer_refresh(place, server, message, now);
                return;
            }
            Err(fault) => {
                self.refuse_offer(server, message, fault, now);
                return;
            }
        };
        if !has_other {
            self.answer_change(place, server, message, &described, None, now);
            return;
        }
        if other_busy {
            self.respond(server, message, 491, "Request Pending", "", now);
            return;
        }
        let request = Bytes::copy_from_slice(message.bytes);
        let change = Change { from: side, server, request, is_update };
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        session.change = Some(Box::new(change));
        if let Some(leg) = session.leg_mut(side.other()) {
            leg.owes.change = true;
        }
        self.transactions.set_session(server, id);
        self.settle_debts(id, now);
    }

    /// Passes a change on to the other leg, with our own description in place of the asking side's.
    pub(super) fn send_change(&mut self, id: SlotId, side: Side, hop: NextHop, now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let (media, size_max) = (session.media, session.size_max);
        let change = session.change.as_ref().filter(|change| change.from == side.other());
        let change = change.map(|change| (change.request.clone(), change.is_update));
        let Some(leg) = session.leg_mut(side) else { return };
        leg.owes.change = false;
        let (Some((request, is_update)), Some(media)) = (change, media) else { return };
        leg.version += 1;
        leg.asked = Asked::Change;
        let version = leg.version;
        let is_update = is_update && leg.takes_update;
        let mut sdp = std::mem::take(&mut self.large.sdp);
        sdp.clear();
        let written = self.with_request(&request, |core, message| {
            let described = described(message, side.other()).ok()?;
            let path = described.media.path;
            write_offer(
                &mut sdp,
                &described.description,
                &core.own_description(id, side, media, size_max, version, path),
            );
            Some(())
        });
        if written.flatten().is_some() {
            self.send_within(id, side, hop, is_update, &sdp, now);
        }
        self.large.sdp = sdp;
    }

    /// Refreshes a leg. RFC 4028 §7.4, §10.
    pub(super) fn send_refresh(&mut self, id: SlotId, side: Side, hop: NextHop, now: Now) {
        let Some(leg) = self.large.sessions.get_mut(id).and_then(|session| session.leg_mut(side)) else { return };
        leg.owes.refresh = false;
        if leg.is_busy() {
            // What is under way refreshes as well, or else this is tried again.
            leg.timer.on_refresh_postponed(REFRESH_AGAIN, now.at);
            return;
        }
        leg.asked = Asked::Refresh;
        // The same description, in the same version, changes nothing (RFC 3264 §8).
        let described = leg.described.clone();
        self.send_within(id, side, hop, described.is_none(), described.as_deref().unwrap_or_default(), now);
    }

    fn send_within(&mut self, id: SlotId, side: Side, hop: NextHop, is_update: bool, sdp: &[u8], now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let (kind, listener) = (session.kind, self.listener_for(hop.addr));
        let (Some(session), Some(listener)) = (self.large.sessions.get_mut(id), listener) else { return };
        let Some(mut leg) = session.legs[side as usize].take() else { return };
        let contact = self.contact(listener, kind, hop.transport == Some(Transport::Tcp));
        let cseq = leg.dialog.next_cseq();
        let mut extra = std::mem::take(&mut self.large.extra);
        extra.clear();
        extra.extend_from_slice(USER_AGENT_LINE.as_bytes());
        extra.extend_from_slice(ALLOW_LINE.as_bytes());
        extra.extend_from_slice(b"Supported: timer, 100rel\r\n");
        if leg.timer.keeper() != Keeper::None {
            leg.timer.offer().write(&mut extra);
        }
        let (method, request) =
            if is_update { ("UPDATE", LegRequest::Update) } else { ("INVITE", LegRequest::Reinvite) };
        if !is_update {
            leg.invite_cseq = cseq;
        }
        let owner = Owner::Leg { session: id, leg: side.number(), request };
        let dialog = &leg.dialog;
        let contact = Some(contact.as_ref());
        let sent = self.send_request(owner, hop, OWN_REQUEST_MARK, now, |out, via| {
            Within { method, cseq, via, extra: &extra, contact, sdp }.write(out, dialog);
        });
        self.large.extra = extra;
        if let Some(session) = self.large.sessions.get_mut(id) {
            // A final response may never come, and an INVITE that has rung has no timer of its own.
            let until = now.at + self.settings.invite_timeout;
            leg.reinvite = sent.filter(|_| !is_update).map(|client| (client, until));
            session.legs[side as usize] = Some(leg);
        }
        self.arm_session(id, now);
        if sent.is_none() {
            self.on_change_verdict(id, side.number(), request, Verdict::Unsendable, None, now);
        }
    }

    /// What became of a re-INVITE or UPDATE of ours.
    pub(super) fn on_change_verdict(
        &mut self,
        id: SlotId,
        leg: u8,
        request: LegRequest,
        verdict: Verdict,
        response: Option<(u16, &Message<'_>)>,
        now: Now,
    ) {
        let side = if leg == Side::Originating.number() { Side::Originating } else { Side::Terminating };
        let status = match (verdict, response) {
            (Verdict::Provisional, _) => return,
            (_, Some((status, _))) => status,
            (Verdict::TimedOut, None) => 408,
            (_, None) => 503,
        };
        let message = response.map(|(_, message)| message);
        let Some(leg) = self.large.sessions.get_mut(id).and_then(|session| session.leg_mut(side)) else { return };
        if request == LegRequest::Reinvite && message.is_some_and(|message| cseq_of(message) != leg.invite_cseq) {
            // A repetition of what an earlier one was answered: another INVITE was taken since, so its ACK has arrived.
            return;
        }
        let asked = std::mem::take(&mut leg.asked);
        leg.reinvite = None;
        if verdict == Verdict::Success {
            // Each repetition of the 2xx has its ACK.
            leg.owes.ack = request == LegRequest::Reinvite;
        }
        if asked == Asked::Nothing {
            self.settle_debts(id, now);
            return;
        }
        let accepted = (200..300).contains(&status);
        if let Some(message) = message.filter(|_| accepted) {
            leg.retarget(message);
            if leg.timer.keeper() != Keeper::None {
                // A peer that knows no timers is refreshed by us all the same.
                let kept = leg.timer.offer();
                let agreement = Agreement::of_response(message);
                let goes_on = Agreement { seconds: kept.seconds, refresher: Refresher::Uac };
                leg.timer.on_agreed(Some(agreement.unwrap_or(goes_on)), Part::Client, now.at);
            }
        }
        if asked == Asked::Change {
            self.answer_for_other(id, side, status, message, now);
        } else if status == 422 && message.is_some_and(|message| leg.timer.on_too_small(message)) {
            leg.owes.refresh = true;
        } else if status == 491 || status == 500 {
            leg.timer.on_refresh_postponed(REFRESH_AGAIN, now.at);
        }
        if matches!(status, 408 | 481) {
            // RFC 4028 §10, RFC 3261 §12.2.1.2: the peer has no such dialog.
            self.metrics.count(Counter::SessionBroken);
            let reason = format!("Reason: SIP;cause={status}\r\n");
            self.end_session(id, None, reason.as_bytes(), now);
            return;
        }
        self.settle_debts(id, now);
    }

    /// The other leg has answered a change: whoever asked for it hears what came of it.
    fn answer_for_other(&mut self, id: SlotId, side: Side, status: u16, response: Option<&Message<'_>>, now: Now) {
        let Some(change) = self.large.sessions.get_mut(id).and_then(|session| session.change.take()) else { return };
        let place = Place { id, side: side.other() };
        self.with_request(&change.request, |core, request| match (status, response) {
            (200..300, Some(response)) => {
                let agreed = described(response, side).ok().and_then(|answer| {
                    let role = core.role_of_answer(id, side, answer.media.setup)?;
                    let reachable = role == Role::Passive || !connect_addresses(&answer.media).is_empty();
                    reachable.then_some((answer, role))
                });
                let asked = described(request, side.other());
                match (agreed, asked) {
                    (Some((answer, role)), Ok(asked)) => {
                        if let Some(session) = core.large.sessions.get_mut(id) {
                            if let Some(leg) = session.leg_mut(side) {
                                leg.role = role;
                            }
                            if let Some(media) = session.media {
                                core.negotiate(media, side, &answer.media, role, now);
                            }
                        }
                        core.answer_change(place, change.server, request, &asked, Some(&answer), now);
                    }
                    _ => {
                        let warning = core.warning("Session description of the other side");
                        core.respond(change.server, request, 488, "Not Acceptable Here", &warning, now);
                    }
                }
            }
            (status, Some(response)) => {
                let (status, reason, extra) = core.passed_on(status, response);
                core.respond(change.server, request, status, &reason, &extra, now);
            }
            (503, None) => core.respond(change.server, request, 500, "Server Internal Error", "", now),
            (status, None) => core.respond(change.server, request, status, "Request Timeout", "", now),
        });
    }

    /// Our role after an answer to `actpass`; one that says nothing keeps what there is.
    fn role_of_answer(&self, id: SlotId, side: Side, answered: Setup) -> Option<Role> {
        let current = self.large.sessions.get(id)?.leg(side)?.role;
        match answered {
            Setup::Absent | Setup::Actpass => Some(current),
            Setup::Passive => Some(Role::Active),
            Setup::Active => Some(Role::Passive),
            Setup::Holdconn => None,
        }
    }

    /// 200 to a refresh without a description.
    fn answer_refresh(&mut self, place: Place, server: ServerId, message: &Message<'_>, now: Now) {
        self.answer_within(place, server, message, b"", now);
    }

    /// 200 with our description to a change that can be met. `other` is what the other leg answered.
    fn answer_change(
        &mut self,
        place: Place,
        server: ServerId,
        message: &Message<'_>,
        asked: &Described<'_>,
        other: Option<&Described<'_>>,
        now: Now,
    ) {
        let Place { id, side } = place;
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let (media, size_max) = (session.media, session.size_max);
        let Some(leg) = session.leg_mut(side) else { return };
        let setup = answer_setup_again(asked.media.setup, leg.role);
        let (Some(setup), Some(media)) = (setup, media) else {
            self.refuse_offer(server, message, OfferFault::Sdp(sdp::SdpFault::Setup), now);
            return;
        };
        leg.role = setup.role();
        leg.version += 1;
        let (role, version) = (leg.role, leg.version);
        self.negotiate(media, side, &asked.media, role, now);
        let mut sdp = std::mem::take(&mut self.large.sdp);
        sdp.clear();
        let path = other.map_or(&b""[..], |other| other.media.path);
        let own = self.own_description(id, side, media, size_max, version, path);
        write_answer(&mut sdp, &asked.description, other.map(|other| &other.description), &own, setup);
        self.answer_within(place, server, message, &sdp, now);
        self.large.sdp = sdp;
    }

    fn answer_within(&mut self, place: Place, server: ServerId, message: &Message<'_>, sdp: &[u8], now: Now) {
        let Place { id, side } = place;
        let Some(session) = self.large.sessions.get(id) else { return };
        let hop = session.leg(side).and_then(|leg| leg.hop);
        let listener = hop.and_then(|hop| self.listener_for(hop.addr)).unwrap_or(session.listener);
        let stream = match side {
            Side::Originating => session.stream,
            // As its INVITE said.
            Side::Terminating => hop.is_some_and(|hop| hop.transport == Some(Transport::Tcp)),
        };
        let contact = self.contact(listener, session.kind, stream);
        let mut extra = std::mem::take(&mut self.large.extra);
        extra.clear();
        extra.extend_from_slice(SERVER_LINE.as_bytes());
        extra.extend_from_slice(ALLOW_LINE.as_bytes());
        extra.extend_from_slice(b"Supported: timer, 100rel\r\n");
        contact.as_ref().write(&mut extra);
        let Some(leg) = self.large.sessions.get_mut(id).and_then(|session| session.leg_mut(side)) else { return };
        match TimerRequest::of(message).map(|request| request.answer(SESSION_SECONDS)) {
            Some(TimerAnswer::Agreed(agreement)) => {
                agreement.write(&mut extra);
                leg.timer.on_agreed(Some(agreement), Part::Server, now.at);
            }
            _ => leg.timer.on_agreed(None, Part::Server, now.at),
        }
        if !sdp.is_empty() && leg.described.is_some() {
            leg.described = Some(sdp.into());
        }
        let cseq = leg.dialog.remote_cseq().unwrap_or_default();
        let bytes = self.compose_answer(server, message, b"", &extra, sdp);
        self.large.extra = extra;
        if message.method() == Some(b"INVITE")
            && let Some(leg) = self.large.sessions.get_mut(id).and_then(|session| session.leg_mut(side))
        {
            let (again, given_up) = (now.at + T1, now.at + ACK_PATIENCE);
            leg.answer = Some(Box::new(Answer { server, cseq, bytes: bytes.clone(), again, interval: T1, given_up }));
        }
        self.send_answer(server, bytes, now);
        self.arm_session(id, now);
    }

    /// Session timers of both legs (LM-4).
    pub(super) fn run_session_timers(&mut self, id: SlotId, now: Now) {
        for side in [Side::Originating, Side::Terminating] {
            let Some(leg) = self.large.sessions.get_mut(id).and_then(|session| session.leg_mut(side)) else { continue };
            match leg.timer.handle_timeout(now.at) {
                Some(Due::Refresh) => {
                    leg.owes.refresh = true;
                    self.settle_debts(id, now);
                }
                Some(Due::Expire) => {
                    self.metrics.count(Counter::SessionBroken);
                    let reason = b"Reason: SIP;cause=408;text=\"Session timer expired\"\r\n";
                    self.end_session(id, None, reason, now);
                    return;
                }
                None => {}
            }
        }
    }
}

/// Reads the description that came on a leg.
fn described<'a>(message: &Message<'a>, side: Side) -> Result<Described<'a>, OfferFault> {
    let body = SessionBody::of(message).map_err(OfferFault::Body)?;
    let description = Description::parse(body.sdp).map_err(OfferFault::Sdp)?;
    let leg = match side {
        Side::Originating => sdp::Leg::Originating,
        Side::Terminating => sdp::Leg::Terminating,
    };
    let media = description.usable(leg).map_err(OfferFault::Sdp)?;
    Ok(Described { description, media })
}
