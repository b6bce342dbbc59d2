//! How a session in large message mode is acknowledged, what its legs are owed, and how it ends (SPEC LM-A1, LM-K0 to
//! LM-K2; RFC 3261 §13.3.1.4, §15).

use super::b2bua::ACK_PATIENCE;
use super::core::{Core, CoreTimer, Hop, OWN_REQUEST_MARK, RETRY_AFTER_LINE, USER_AGENT_LINE};
use super::effect::NextHop;
use super::large::Stage;
use super::leg::{Leg, LocalTag, Owes, Side, Within};
use super::subscriber::Directory;
use super::transactions::{LegRequest, Owner, ServerId};
use crate::base::slots::SlotId;
use crate::base::time::{Instant, Now};
use crate::metrics::names::Counter;
use crate::msrp::news::SessionId;
use crate::sip::header::{address, cseq};
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::transaction::T2;
use crate::sip::uri::Uri;
use hashbrown::HashSet;
use std::time::Duration;

/// How long before an answer is given up the terminating side gets its ACK all the same: its own patience is as long
/// (LM-K2).
const ACK_AHEAD: Duration = Duration::from_secs(2);
/// How long an ending session waits for what it owes to its legs.
const ENDING_PATIENCE: Duration = ACK_PATIENCE;

impl<D: Directory> Core<D> {
    /// An INVITE was called back: the one that makes the session, or a re-INVITE on its way to the other leg. RFC 3261
    /// §9.2.
    pub(super) fn on_session_cancelled(&mut self, id: SlotId, server: ServerId, now: Now) {
        let Some(session) = self.large.sessions.get(id) else { return };
        if session.setup.as_ref().is_some_and(|setup| setup.server == server) {
            self.fail(id, 487, "Request Terminated", "", now);
        } else if let Some(change) = session.change.as_ref().filter(|change| change.server == server) {
            // What the other leg makes of that goes back as the answer.
            let side = change.from.other();
            self.cancel_reinvite(id, side, now);
        }
    }

    /// Calls a re-INVITE of ours back.
    pub(super) fn cancel_reinvite(&mut self, id: SlotId, side: Side, now: Now) {
        let leg = self.large.sessions.get_mut(id).and_then(|session| session.leg_mut(side));
        if let Some((client, _)) = leg.and_then(|leg| leg.reinvite.take()) {
            self.cancel(client, now);
        }
    }

    /// The ACK of an answer of ours (LM-K0 to LM-K2); false when it belongs to none.
    pub(super) fn on_session_ack(&mut self, message: &Message<'_>, now: Now) -> bool {
        let tag = message.value(Name::To).and_then(address::tag).and_then(LocalTag::parse);
        let cseq = message.value(Name::CSeq).and_then(cseq::parse);
        let (Some(tag), Some((cseq, _))) = (tag, cseq) else { return false };
        let id = tag.session;
        let Some(session) = self.large.sessions.get_mut(id) else { return false };
        if session.tag(id, tag.index) != tag {
            return false;
        }
        let stage = session.stage;
        let media = session.media;
        let Some(leg) = session.leg_mut(tag.side()).filter(|leg| leg.tag_index == tag.index) else { return false };
        if leg.answer.as_ref().is_none_or(|answer| answer.cseq != cseq) {
            // A repetition.
            return true;
        }
        leg.answer = None;
        if stage == Stage::Answered {
            session.stage = Stage::Confirmed;
            self.owe_ack(id);
            if let Some(media) = media {
                self.relay.start(media, now.at);
            }
        }
        self.settle_debts(id, now);
        true
    }

    /// The terminating side is to get the ACK of its 2xx, unless it had it.
    fn owe_ack(&mut self, id: SlotId) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        if !session.acked
            && let Some(leg) = session.leg_mut(Side::Terminating)
        {
            leg.owes.ack = true;
            session.acked = true;
        }
    }

    /// The shard is about to end: whoever talks is hung up, and who calls is told to call elsewhere. Without a word peers
    /// would keep sessions that nobody serves until their timers find out. One that waits for its message to be durable
    /// is left to its sender, who ends it once that is acknowledged.
    pub(super) fn stop_sessions(&mut self, now: Now) {
        let ids: Vec<SlotId> = self.large.sessions.ids().collect();
        let committing: HashSet<SessionId> = self.spools.committing().collect();
        for id in ids {
            let Some(session) = self.large.sessions.get(id) else { continue };
            if session.setup.is_some() {
                self.fail(id, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
            } else if session.media.is_none_or(|media| !committing.contains(&media)) {
                self.end_session(id, None, b"Reason: SIP;cause=503;text=\"Shutting down\"\r\n", now);
            }
        }
    }

    /// Ends a session: both sides hear it, except the one that said it. `reason` are header lines for the BYE.
    pub(super) fn end_session(&mut self, id: SlotId, by: Option<Side>, reason: &[u8], now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        if session.stage == Stage::Ending {
            return;
        }
        if session.setup.is_some() {
            self.fail(id, 487, "Request Terminated", "", now);
            return;
        }
        let answered = session.stage == Stage::Answered;
        session.stage = Stage::Ending;
        session.until = Some(now.at + ENDING_PATIENCE);
        session.reason = (!reason.is_empty()).then(|| reason.into());
        for side in [Side::Originating, Side::Terminating] {
            let Some(leg) = session.leg_mut(side) else { continue };
            leg.timer.stop();
            leg.described = None;
            leg.owes.refresh = false;
            leg.owes.change = false;
            leg.owes.bye = by != Some(side);
            // A called party does not send BYE before its answer is acknowledged or given up (RFC 3261 §15).
            if side == Side::Terminating || !answered || by == Some(side) {
                leg.answer = None;
            }
        }
        let media = session.media.take();
        let change = session.change.take();
        for side in [Side::Originating, Side::Terminating] {
            self.cancel_reinvite(id, side, now);
        }
        self.owe_ack(id);
        if let Some(change) = change {
            self.with_request(&change.request, |core, message| {
                core.respond(change.server, message, 487, "Request Terminated", "", now);
            });
        }
        if let Some(media) = media {
            self.end_media(media, now);
        }
        self.settle_debts(id, now);
    }

    /// The way to a leg's peer; `None` while it is looked up, or when there is none.
    pub(super) fn find_hop(&mut self, id: SlotId, side: Side, now: Now) -> Option<NextHop> {
        let leg = self.large.sessions.get(id)?.leg(side)?;
        if leg.hop.is_some() {
            return leg.hop;
        }
        let hop = match Uri::parse(leg.dialog.next_hop()) {
            Ok(uri) => self.leg_hop(&uri, now),
            Err(_) => Hop::Unreachable,
        };
        match hop {
            Hop::Known(hop) => {
                if let Some(leg) = self.large.sessions.get_mut(id)?.leg_mut(side) {
                    leg.hop = Some(hop);
                }
                Some(hop)
            }
            Hop::Ask(host, port) => {
                if self.large.sessions.get(id)?.asking.is_none() {
                    self.ask_address(id, host, port);
                }
                None
            }
            Hop::Unreachable => {
                if let Some(leg) = self.large.sessions.get_mut(id)?.leg_mut(side) {
                    leg.owes = Owes::default();
                }
                self.metrics.count(Counter::SessionBroken);
                self.end_session(id, Some(side), b"", now);
                None
            }
        }
    }

    /// Sends what the legs are owed, as far as the way is known; forgets a session that owes nothing any more.
    pub(super) fn settle_debts(&mut self, id: SlotId, now: Now) {
        for side in [Side::Terminating, Side::Originating] {
            let Some(leg) = self.large.sessions.get(id).and_then(|session| session.leg(side)) else { continue };
            if leg.owes == Owes::default() {
                continue;
            }
            let Some(hop) = self.find_hop(id, side, now) else { continue };
            self.settle_leg(id, side, hop, now);
        }
        let Some(session) = self.large.sessions.get(id) else { return };
        let is_open = |leg: &Leg| leg.owes != Owes::default() || leg.answer.is_some();
        if session.stage == Stage::Ending && !session.legs.iter().flatten().any(is_open) {
            self.remove_session(id, now);
        } else {
            self.arm_session(id, now);
        }
    }

    fn settle_leg(&mut self, id: SlotId, side: Side, hop: NextHop, now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let reason = session.reason.clone();
        let Some(mut leg) = session.legs[side as usize].take() else { return };
        if leg.owes.ack {
            leg.owes.ack = false;
            let (cseq, dialog) = (leg.invite_cseq, &leg.dialog);
            self.send_ack(hop, |out, via| {
                let extra = USER_AGENT_LINE.as_bytes();
                Within { method: "ACK", cseq, via, extra, ..Within::default() }.write(out, dialog);
            });
        }
        if leg.owes.bye && leg.answer.is_none() {
            leg.owes.bye = false;
            let cseq = leg.dialog.next_cseq();
            let dialog = &leg.dialog;
            let extra = [USER_AGENT_LINE.as_bytes(), reason.as_deref().unwrap_or_default()].concat();
            let owner = Owner::Leg { session: id, leg: side.number(), request: LegRequest::Bye };
            let sent = self.send_request(owner, hop, OWN_REQUEST_MARK, now, |out, via| {
                Within { method: "BYE", cseq, via, extra: &extra, ..Within::default() }.write(out, dialog);
            });
            self.large.bye_count += usize::from(sent.is_some());
        }
        let (change, refresh) = (leg.owes.change, leg.owes.refresh);
        if let Some(session) = self.large.sessions.get_mut(id) {
            session.legs[side as usize] = Some(leg);
        }
        if change {
            self.send_change(id, side, hop, now);
        } else if refresh {
            self.send_refresh(id, side, hop, now);
        }
    }

    /// Sees to it that the wheel looks at a session by its next deadline.
    pub(super) fn arm_session(&mut self, id: SlotId, _now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let Some(deadline) = session.deadline() else { return };
        if session.armed.is_none_or(|armed| armed > deadline) {
            session.armed = Some(deadline);
            self.wheel.insert(deadline, CoreTimer::Session(id));
        }
    }

    /// A deadline of a session, or an early look at one that has moved.
    pub(super) fn on_session_timer(&mut self, id: SlotId, now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        session.armed = None;
        if session.until.is_some_and(|until| until <= now.at) {
            // Nothing more can be done for a peer that cannot be found or does not acknowledge.
            self.remove_session(id, now);
            return;
        }
        if let Some(setup) = &mut session.setup {
            if setup.until <= now.at {
                self.fail(id, 408, "Request Timeout", "", now);
                return;
            }
            if let Some(reliable) = setup.reliable.as_mut().filter(|reliable| reliable.again <= now.at) {
                if reliable.given_up <= now.at {
                    // RFC 3262 §3: the INVITE is refused with a 5xx.
                    self.fail(id, 504, "Server Time-out", "", now);
                    return;
                }
                reliable.interval *= 2;
                reliable.again = (now.at + reliable.interval).min(reliable.given_up);
                let (status, bytes, server) = (reliable.status, reliable.bytes.clone(), setup.server);
                self.transactions.respond(server, status, bytes, now.at, &mut self.effects);
            }
        }
        for side in [Side::Originating, Side::Terminating] {
            let leg = self.large.sessions.get(id).and_then(|session| session.leg(side));
            if leg.and_then(|leg| leg.reinvite).is_some_and(|(_, until)| until <= now.at) {
                self.cancel_reinvite(id, side, now);
            }
        }
        self.repeat_answers(id, now);
        self.run_session_timers(id, now);
        self.arm_session(id, now);
    }

    /// Answers whose ACK has not come leave again, or are given up (LM-A1, LM-K2).
    fn repeat_answers(&mut self, id: SlotId, now: Now) {
        for side in [Side::Originating, Side::Terminating] {
            let Some(session) = self.large.sessions.get_mut(id) else { return };
            let stage = session.stage;
            let Some(leg) = session.leg_mut(side) else { continue };
            let Some(answer) = leg.answer.as_mut().filter(|answer| answer.again <= now.at) else { continue };
            if answer.given_up <= now.at {
                leg.answer = None;
                if stage == Stage::Ending {
                    self.settle_debts(id, now);
                } else {
                    // RFC 3261 §13.3.1.4.
                    self.metrics.count(Counter::SessionBroken);
                    self.end_session(id, None, b"Reason: SIP;cause=408;text=\"No ACK\"\r\n", now);
                }
                return;
            }
            answer.interval = (answer.interval * 2).min(T2);
            let ack_at = answer.given_up.0 - ACK_AHEAD.as_nanos() as u64;
            let is_late = now.at.0 >= ack_at;
            let again = now.at + answer.interval;
            // It stops where the terminating side's ACK is due, and at the end.
            answer.again = if !is_late && again.0 > ack_at { Instant(ack_at) } else { again };
            answer.again = answer.again.min(answer.given_up);
            let (server, bytes) = (answer.server, answer.bytes.clone());
            self.transactions.respond(server, 200, bytes, now.at, &mut self.effects);
            if is_late && stage == Stage::Answered {
                self.owe_ack(id);
                self.settle_debts(id, now);
            }
        }
    }

    /// 100 for an INVITE that takes its time (LM-0).
    pub(super) fn on_session_trying(&mut self, id: SlotId, server: ServerId, now: Now) {
        let Some(session) = self.large.sessions.get(id) else { return };
        let setup = session.setup.as_ref().filter(|setup| setup.server == server).map(|setup| setup.request.clone());
        let change = session.change.as_ref().filter(|change| change.server == server);
        let Some(request) = setup.or_else(|| change.map(|change| change.request.clone())) else { return };
        self.with_request(&request, |core, message| core.respond(server, message, 100, "Trying", "", now));
    }
}
