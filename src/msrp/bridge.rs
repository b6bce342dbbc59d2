//! Chunks from the originating to the terminating side, and the responses back.

use super::byte_range::ByteRange;
use super::connection::{Connection, Ingress, Net};
use super::framer::place_in;
use super::head::{FailureReport, Flag, Head};
use super::ingress::{Verdict, check_message};
use super::news::{Event, Purpose, SessionId, Side};
use super::own_tid::{OwnTid, TID_LEN};
use super::pending::{self, Note, Pending};
use super::relay::{Input, Relay};
use super::session::{Leg, Local, Open, RESPONSE_TIMEOUT, Session, Stage};
use super::settings::Acknowledgement;
use super::status;
use crate::base::id::ConnId;
use crate::base::limits::MSRP_PENDING_COUNT_MAX;
use crate::base::time::Instant;
use smallvec::SmallVec;

impl Relay {
    /// A SEND of the originating side: its head goes on, or the reason why not.
    pub(super) fn on_bridge_head(
        &mut self,
        conn: ConnId,
        id: SessionId,
        head: &Head<'_>,
        at_hand: usize,
        now: Instant,
    ) -> Verdict {
        let Some(session) = self.sessions.get_mut(id) else { return Verdict::DROP };
        let far = &session.legs[1];
        // A peer with both sides on one connection cannot answer the binding behind a chunk that is not read.
        let is_ready = far.is_ready() || far.conn == Some(conn);
        let Some(to) = far.conn.filter(|_| is_ready && session.is_started) else { return Verdict::Park };
        if session.pending.len() >= MSRP_PENDING_COUNT_MAX {
            session.forget_partial();
            if session.pending.len() >= MSRP_PENDING_COUNT_MAX {
                // Responses that come on this very connection would never be read behind a chunk that waits for them.
                return if to == conn { self.refuse(head, status::STOP_SENDING) } else { Verdict::Park };
            }
        }
        let is_new = !session.continues(head);
        if is_new && session.passage.is_completing {
            return Verdict::Park; // One message at a time in the history.
        }
        if let Err(code) = check_message(session, head) {
            self.stop(id, head.message_id.unwrap_or_default(), code, now);
            return self.refuse(head, code);
        }
        if self.net.get(to).is_some_and(|connection| connection.open.is_some()) && !self.clear_way(to, id) {
            if let Some(connection) = self.net.get_mut(to) {
                connection.extra().waiters.push(conn);
            }
            return Verdict::Park;
        }
        if is_new {
            self.begin_message(id, head, now);
        } else {
            self.learn_pattern(conn, id, head);
        }
        self.pass_head(to, id, head, at_hand, now);
        Verdict::Go(Ingress::Forward(id))
    }

    /// A message begins. One that was not ended is ended for its receiver: never two of them in one session.
    fn begin_message(&mut self, id: SessionId, head: &Head<'_>, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.passage.stage == Stage::Underway {
            let old = session.passage.message_id.clone();
            self.stop(id, &old, status::STOP_SENDING, now);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let passage = &mut session.passage;
        passage.serial = passage.serial.wrapping_add(1);
        passage.message_id.clear();
        passage.message_id.extend_from_slice(head.message_id.unwrap_or_default());
        passage.stage = Stage::Underway;
        session.is_finished = false;
        if matches!(session.purpose, Purpose::Bridge { record: true }) {
            session.passage.is_recorded = true;
            session.passage.content_type = head.content_type.unwrap_or_default().into();
        }
    }

    /// Writes the head of a chunk to the terminating side.
    #[inline]
    fn pass_head(&mut self, to: ConnId, id: SessionId, head: &Head<'_>, at_hand: usize, now: Instant) {
        let (Some(session), Some(connection)) = (self.sessions.get_mut(id), self.net.get_mut(to)) else { return };
        let range = head.byte_range;
        let tail_len = END_LINE_LEN + head.transaction_id.len();
        let is_whole = !head.has_body || range.len().is_some_and(|len| at_hand as u64 >= len + tail_len as u64);
        // Others on the same connection, or an answer of ours, must be able to interrupt what may take long (RFC 4975 §5.1).
        // A sender that names the chunk's end keeps that form where nobody else is: there are clients that rely on it.
        let is_interruptible = !is_whole && (connection.legs.len() > 1 || range.end.is_none());
        connection.open = Some(id);
        connection.is_interruptible = is_interruptible;
        let passage = &mut session.passage;
        passage.open = Open::Yes;
        passage.has_body = head.has_body;
        (passage.start, passage.next, passage.total) = (range.start, range.start, range.total);
        passage.report = head.failure_report;
        let far = &mut session.legs[1];
        if is_interruptible {
            passage.fields = without_range(head);
            write_open_head(&mut self.net, to, far, range.start, range.total, &passage.fields, &mut self.scratch);
        } else {
            // The fields, and the blank line behind them if there is a body.
            let fields = &head.bytes[head.bytes.len() - head.rest.len() - 2 * usize::from(head.has_body)..];
            self.net.write(to, [far.next_head(), fields]);
        }
        passage.tid = far.tid();
        if head.failure_report != FailureReport::No {
            let mut pending = Pending::new(head.transaction_id, head.failure_report, far.sequence, now);
            pending.serial = passage.serial;
            session.pending.push_back(pending);
        }
        self.net.counts.chunks += 1;
    }

    /// Passes part of a body on.
    #[inline]
    pub(super) fn on_bridge_body(
        &mut self,
        conn: ConnId,
        id: SessionId,
        body: &[u8],
        input: &mut Input<'_>,
        now: Instant,
    ) {
        let Some(mut session) = self.sessions.get_mut(id) else { return };
        session.active_at = now;
        if session.passage.open != Open::Yes {
            // Stopped in the midst of the chunk, or interrupted.
            if session.passage.open == Open::No || !self.resume(id, now) {
                return;
            }
            let Some(resumed) = self.sessions.get_mut(id) else { return };
            session = resumed;
        }
        let Some(to) = session.legs[1].conn else { return };
        let len = body.len() as u64;
        let passage = &mut session.passage;
        if passage.next - 1 + len > session.size_max {
            self.net.counts.refused += 1;
            return self.stop_chunk(id, status::STOP_SENDING, now);
        }
        let offset = passage.next - 1;
        passage.next += len;
        self.net.counts.body_bytes += len;
        if passage.is_recorded {
            self.events.push_back(Event::Piece { id, offset, bytes: input.keep(body) });
        }
        let connection = match input.slice(body) {
            Some(bytes) => self.net.share(to, bytes),
            None => self.net.write(to, [body]),
        };
        if connection.is_some_and(|connection| Net::is_high(connection)) {
            self.net.throttle(to, conn);
        }
    }

    /// Ends the chunk.
    #[inline]
    pub(super) fn on_bridge_end(&mut self, conn: ConnId, id: SessionId, flag: Flag, keeps_range: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let is_plain = keeps_range
            && session.passage.open == Open::Yes
            && !session.passage.is_recorded
            && self.settings.acknowledgement == Acknowledgement::EndToEnd;
        let Some(to) = session.legs[1].conn.filter(|_| is_plain) else {
            return self.end_unplain(conn, id, flag, keeps_range, now);
        };
        session.active_at = now;
        session.passage.open = Open::No;
        if flag != Flag::More {
            session.passage.stage = Stage::Idle;
        }
        if !session.passage.fields.is_empty() {
            session.passage.fields = Box::default();
        }
        let Some(connection) = close_chunk(&mut self.net, to, &session.passage.tid, session.passage.has_body, flag)
        else {
            return;
        };
        let position = connection.egress.end_position();
        if Net::is_high(connection) {
            self.net.throttle(to, conn);
        }
        let is_last = flag == Flag::End;
        if flag == Flag::Abort {
            self.net.counts.aborted += 1;
        }
        if session.passage.report == FailureReport::No {
            session.is_finished |= is_last;
            self.net.counts.delivered += u64::from(is_last);
            return;
        }
        let Some(back) = session.pending.back_mut() else { return };
        debug_assert!(!back.is_closed, "the chunk that ends is the last one");
        back.is_closed = true;
        back.is_last = is_last;
        (back.stamp, back.position) = (now, position);
        let is_answered = back.is_answered();
        if session.armed.is_none_or(|armed| armed > now + RESPONSE_TIMEOUT) {
            self.arm_by(id, now + RESPONSE_TIMEOUT);
        }
        if is_answered {
            self.finish_pending(id, now);
        }
    }

    /// Ends a chunk that was interrupted, is broken, is recorded, or is acknowledged here.
    fn end_unplain(&mut self, conn: ConnId, id: SessionId, flag: Flag, keeps_range: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let is_broken = !keeps_range && flag != Flag::Abort;
        let was_interrupted = session.passage.open == Open::Interrupted;
        if session.passage.open == Open::No {
            return;
        }
        // Ended with `+` already: only another flag needs another chunk.
        if was_interrupted && (is_broken || flag != Flag::More) && !self.resume(id, now) {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(to) = session.legs[1].conn else { return };
        let sent_flag = if is_broken { Flag::Abort } else { flag };
        if session.passage.open == Open::Yes {
            close_chunk(&mut self.net, to, &session.passage.tid, session.passage.has_body, sent_flag);
        }
        session.passage.open = Open::No;
        session.active_at = now;
        let position = self.net.get(to).map_or(0, |connection| connection.egress.end_position());
        if !session.passage.fields.is_empty() {
            session.passage.fields = Box::default();
        }
        let is_hop_by_hop = self.settings.acknowledgement == Acknowledgement::HopByHop;
        let is_last = flag == Flag::End && !is_broken;
        let note = (is_hop_by_hop || (is_last && session.passage.is_recorded)).then(|| session.note(is_last));
        let passage = &mut session.passage;
        if flag != Flag::More || is_broken {
            passage.stage = Stage::Idle;
        }
        if is_broken {
            // Its receiver has forgotten it: the rest would pass for a message of its own.
            passage.stopped = Some(Box::new((passage.message_id.as_slice().into(), status::BAD_REQUEST)));
        }
        let report = passage.report;
        if report != FailureReport::No
            && let Some(back) = session.pending.back_mut()
        {
            debug_assert!(!back.is_closed, "the chunk that ends is the last one");
            back.is_closed = true;
            back.is_last = is_last;
            (back.stamp, back.position, back.note) = (now, position, note);
        } else if is_last {
            session.is_finished = true;
            self.net.counts.delivered += 1;
        }
        if is_broken || flag == Flag::Abort {
            self.net.counts.aborted += 1;
        }
        if passage_ends_record(session, is_last, flag, is_broken) {
            self.end_record(id, is_last, report);
        }
        if is_broken {
            self.answer_open(id, status::BAD_REQUEST);
        } else if is_hop_by_hop && report == FailureReport::Yes {
            self.answer_open(id, status::OK);
        }
        self.finish_pending(id, now);
        self.arm_by(id, now + RESPONSE_TIMEOUT);
        self.check_level(to, conn);
    }

    /// What becomes of the record when its message has come to its end.
    #[cold]
    fn end_record(&mut self, id: SessionId, is_last: bool, report: FailureReport) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !is_last {
            session.abort_record(&mut self.events);
        } else if report != FailureReport::Yes {
            // Nobody tells of a success.
            let note = session.note(true);
            session.passage.is_recorded = false;
            self.events.push_back(note.complete(id));
        } else {
            session.passage.is_recorded = false;
            session.passage.is_completing = true;
        }
    }

    /// Answers the sender of the chunk that has just ended, or is being ended, whatever else comes for it.
    fn answer_open(&mut self, id: SessionId, code: u16) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.passage.report == FailureReport::No {
            return;
        }
        let Some(back) = session.pending.back_mut().filter(|back| !back.is_told) else { return };
        back.is_told = true;
        if !status::is_success(code) {
            back.note = None; // The response is the report.
        }
        if back.report == FailureReport::Yes || !status::is_success(code) {
            tell(&mut self.net, &session.legs[0], back.tid(), code);
            self.net.counts.own_responses += 1;
        }
    }

    /// A response on a connection. One that nobody waits for is ignored.
    pub(super) fn on_response(&mut self, conn: ConnId, tid: &[u8], code: u16, now: Instant) {
        let Some(own) = OwnTid::parse(tid) else { return };
        let Some((id, session)) = self.sessions.at(own.slot) else { return };
        let leg = &session.legs[own.side.index()];
        if leg.owns(tid) && leg.conn == Some(conn) {
            self.on_own_response(id, own, code, now);
        }
    }

    /// A response to one of our own requests.
    #[inline]
    fn on_own_response(&mut self, id: SessionId, own: OwnTid, code: u16, now: Instant) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.is_lost) else { return };
        let leg = &session.legs[own.side.index()];
        session.active_at = now;
        if leg.binding == Some(own.sequence) {
            return self.on_bound_answer(id, own.side, code, now);
        }
        if own.side == Side::Originating {
            return;
        }
        if let Local::Source(_) = session.local {
            return self.on_source_response(id, own.sequence, code, now);
        }
        if let Some(front) = session.pending.front()
            && front.is_plainly_answered(own.sequence, code)
        {
            tell(&mut self.net, &session.legs[0], front.tid(), code);
            session.is_finished |= front.is_last;
            self.net.counts.delivered += u64::from(front.is_last);
            session.pending.pop_front();
            self.net.counts.responses += 1;
            if session.pending.len() == MSRP_PENDING_COUNT_MAX / 2
                || session.pending.front().is_some_and(|front| front.is_done)
            {
                self.finish_pending(id, now);
            }
            return;
        }
        let Some(at) = pending::find(&session.pending, own.sequence) else { return };
        let entry = &mut session.pending[at];
        entry.on_response(code);
        let is_current = entry.serial == session.passage.serial && session.passage.stage == Stage::Underway;
        if !status::is_success(code) {
            if !entry.is_closed {
                return self.stop_chunk(id, code, now);
            }
            if code == status::STOP_SENDING && is_current {
                let message_id = session.passage.message_id.clone();
                self.stop(id, &message_id, code, now);
            }
        }
        self.finish_pending_at(id, at, now);
        self.finish_pending(id, now);
    }

    /// Takes a transaction to its end if all of its responses are there.
    #[inline]
    fn finish_pending_at(&mut self, id: SessionId, at: usize, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(entry) = session.pending.get_mut(at) else { return };
        if entry.is_done || !entry.is_answered() {
            return;
        }
        entry.is_done = true;
        let code = entry.status;
        let is_success = status::is_success(code);
        if !entry.is_told {
            entry.is_told = true;
            if entry.report == FailureReport::Yes || !is_success {
                tell(&mut self.net, &session.legs[0], entry.tid(), code);
                self.net.counts.responses += 1;
            }
        } else if !is_success && let Some(note) = entry.note.take() {
            // It was acknowledged here: what went wrong behind is reported.
            self.net.counts.reports += 1;
            super::report::write(&mut self.net, &mut session.legs[0], &note, code, &mut self.scratch);
            entry.note = Some(note);
        }
        if entry.is_last {
            session.is_finished |= is_success;
            self.net.counts.delivered += u64::from(is_success);
            self.net.counts.aborted += u64::from(!is_success);
        }
        let is_recorded = entry.note.as_ref().is_some_and(|note| note.is_recorded);
        if is_recorded || !is_success {
            let note = entry.note.take();
            let is_same = entry.serial == session.passage.serial;
            self.settle_record(id, note, is_success, is_same);
        }
        self.arm_by(id, now + RESPONSE_TIMEOUT);
    }

    #[cold]
    fn settle_record(&mut self, id: SessionId, note: Option<Box<Note>>, is_success: bool, is_same: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !is_success {
            if is_same {
                session.abort_record(&mut self.events);
            }
        } else if let Some(note) = note
            && std::mem::take(&mut session.passage.is_completing)
        {
            self.events.push_back(note.complete(id));
        }
        self.wake(id);
    }

    /// Drops the transactions at the front that are over.
    #[inline]
    pub(super) fn finish_pending(&mut self, id: SessionId, now: Instant) {
        loop {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let Some(front) = session.pending.front() else { break };
            if front.is_done {
                session.pending.pop_front();
            } else if front.is_answered() {
                self.finish_pending_at(id, 0, now);
            } else {
                break;
            }
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.pending.len() <= MSRP_PENDING_COUNT_MAX / 2
            && let Some(near) = session.legs[0].conn
            && self.net.get(near).is_some_and(|connection| connection.is_held())
        {
            self.net.releases.push(near);
        }
    }

    /// The receiver, or the size, ends the chunk that is passing: `#` to the receiver, an answer to the sender.
    #[cold]
    fn stop_chunk(&mut self, id: SessionId, code: u16, now: Instant) {
        self.answer_open(id, code);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let message_id = session.passage.message_id.clone();
        self.stop(id, &message_id, code, now);
    }

    /// Ends a message for good. A receiver that has part of it is told with `#`.
    pub(super) fn stop(&mut self, id: SessionId, message_id: &[u8], code: u16, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let is_underway = session.passage.stage == Stage::Underway && session.passage.message_id == message_id;
        session.stop_message(message_id, code, &mut self.events);
        self.net.counts.aborted += u64::from(is_underway);
        if !is_underway || self.abort_chunk(id, now) {
            return;
        }
        // Between two chunks: one without a body says it.
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(to) = session.legs[1].conn else { return };
        if code == status::STOP_SENDING && session.pending.iter().any(|entry| entry.status == code) {
            return; // It was the receiver who said so.
        }
        if self.net.get(to).is_some_and(|connection| connection.open.is_some()) && !self.clear_way(to, id) {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (passage, far) = (&session.passage, &mut session.legs[1]);
        let range = ByteRange { start: passage.next, end: Some(passage.next - 1), total: passage.total };
        self.scratch.clear();
        self.scratch.extend_from_slice(b"Message-ID: ");
        self.scratch.extend_from_slice(message_id);
        self.scratch.extend_from_slice(b"\r\nByte-Range: ");
        range.write(&mut self.scratch);
        self.scratch.extend_from_slice(b"\r\nFailure-Report: no\r\n");
        self.net.write(to, [far.next_head(), &self.scratch]);
        close_chunk(&mut self.net, to, &far.tid(), false, Flag::Abort);
    }

    /// Ends the chunk that is passing with `#`. False when there is none.
    pub(super) fn abort_chunk(&mut self, id: SessionId, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        match session.passage.open {
            Open::No => return false,
            Open::Yes => {}
            Open::Interrupted => {
                if !self.resume(id, now) {
                    return true;
                }
            }
        }
        let Some(session) = self.sessions.get_mut(id) else { return true };
        session.passage.open = Open::No;
        session.passage.fields = Box::default();
        if let Some(to) = session.legs[1].conn {
            close_chunk(&mut self.net, to, &session.passage.tid, session.passage.has_body, Flag::Abort);
            let position = self.net.get(to).map_or(0, |connection| connection.egress.end_position());
            if session.passage.report != FailureReport::No
                && let Some(back) = session.pending.back_mut()
            {
                back.is_closed = true;
                (back.stamp, back.position) = (now, position);
            }
        }
        self.arm_by(id, now + RESPONSE_TIMEOUT);
        true
    }

    /// Makes room on a connection for a chunk of a session: another's is interrupted. False when it cannot be.
    #[cold]
    pub(super) fn clear_way(&mut self, to: ConnId, id: SessionId) -> bool {
        let Some(connection) = self.net.get(to) else { return false };
        match connection.open {
            None => true,
            Some(open) if open == id => true,
            Some(_) if !connection.is_interruptible => false,
            Some(open) => {
                self.interrupt(to, open);
                true
            }
        }
    }

    /// Ends the open chunk with `+`; it goes on as another when more of it comes.
    fn interrupt(&mut self, to: ConnId, open: SessionId) {
        if let Some(session) = self.sessions.get_mut(open) {
            debug_assert_eq!(session.passage.open, Open::Yes);
            session.passage.open = Open::Interrupted;
            close_chunk(&mut self.net, to, &session.passage.tid, true, Flag::More);
        }
    }

    /// Goes on with a chunk that was interrupted. False when that is not possible; the message is stopped then.
    #[cold]
    fn resume(&mut self, id: SessionId, now: Instant) -> bool {
        let Some(to) = self.sessions.get(id).and_then(|session| session.legs[1].conn) else { return false };
        let is_free = self.clear_way(to, id);
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if !is_free {
            session.passage.open = Open::No;
            if session.passage.report != FailureReport::No
                && let Some(back) = session.pending.back_mut()
            {
                back.is_closed = true;
                back.stamp = now;
            }
            self.stop_chunk(id, status::STOP_SENDING, now);
            return false;
        }
        let (passage, far) = (&mut session.passage, &mut session.legs[1]);
        write_open_head(&mut self.net, to, far, passage.next, passage.total, &passage.fields, &mut self.scratch);
        passage.tid = far.tid();
        passage.open = Open::Yes;
        passage.has_body = true;
        if passage.report != FailureReport::No
            && let Some(back) = session.pending.back_mut()
        {
            back.continues(far.sequence);
        }
        if let Some(connection) = self.net.get_mut(to) {
            connection.open = Some(id);
            connection.is_interruptible = true;
        }
        true
    }

    /// Responses and reports that wait for the end of a chunk leave: the chunk is interrupted if it can be.
    pub(super) fn flush_later(&mut self, conn: ConnId) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        let waits = connection.extra.as_ref().is_some_and(|extra| !extra.later.is_empty());
        if let Some(open) = connection.open
            && waits
            && connection.is_interruptible
        {
            self.interrupt(conn, open);
        }
    }

    /// Stops reading from `source` when `to` has too much waiting.
    #[inline]
    pub(super) fn check_level(&mut self, to: ConnId, source: ConnId) {
        if self.net.get(to).is_some_and(Net::is_high) {
            self.net.throttle(to, source);
        }
    }
}

impl Session {
    /// What is remembered of the chunk that has just ended.
    fn note(&self, is_last: bool) -> Box<Note> {
        let passage = &self.passage;
        Box::new(Note {
            message_id: passage.message_id.as_slice().into(),
            content_type: passage.content_type.clone(),
            start: passage.start,
            next: passage.next,
            total: passage.total,
            is_recorded: is_last && passage.is_recorded && passage.report == FailureReport::Yes,
        })
    }

    /// Gives up waiting for failures of chunks whose success nobody tells.
    fn forget_partial(&mut self) {
        while self.pending.front().is_some_and(|front| front.is_closed && front.report == FailureReport::Partial) {
            self.pending.pop_front();
        }
    }
}

impl Note {
    fn complete(&self, id: SessionId) -> Event {
        Event::Complete {
            id,
            message_id: self.message_id.clone(),
            content_type: self.content_type.clone(),
            total: self.total.unwrap_or(self.next - 1),
        }
    }
}

fn passage_ends_record(session: &Session, is_last: bool, flag: Flag, is_broken: bool) -> bool {
    session.passage.is_recorded && (is_last || flag == Flag::Abort || is_broken)
}

/// Writes a response to a sender.
#[inline]
pub(super) fn tell(net: &mut Net, near: &Leg, tid: &[u8], code: u16) {
    let Some(conn) = near.conn else { return };
    if code == status::OK {
        net.say(conn, [START, tid, near.answer_ok(), tid, b"$\r\n"]);
        return;
    }
    let mut line: SmallVec<[u8; 48]> = SmallVec::new();
    line.push(b' ');
    line.extend([code / 100 % 10, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8));
    let comment = status::comment(code);
    if !comment.is_empty() {
        line.push(b' ');
        line.extend_from_slice(comment.as_bytes());
    }
    line.extend_from_slice(b"\r\n");
    net.say(conn, [START, tid, &line, near.answer_lines(), b"-------", tid, b"$\r\n"]);
}

/// Writes an end-line, and lets go on what waited for it.
#[inline]
pub(super) fn close_chunk<'n>(
    net: &'n mut Net,
    to: ConnId,
    tid: &[u8; TID_LEN],
    has_body: bool,
    flag: Flag,
) -> Option<&'n mut Connection> {
    let mut line = *b"\r\n-------xxxxxxxxxxxxxxxxxxxxxxxx$\r\n";
    line[9..9 + TID_LEN].copy_from_slice(tid);
    line[9 + TID_LEN] = flag.byte();
    let connection = net.write(to, [&line[if has_body { 0 } else { 2 }..]])?;
    connection.open = None;
    if connection.extra.is_some() {
        net.after_chunk(to);
    }
    net.get_mut(to)
}

/// Writes a head that leaves its end open, so that it can be interrupted.
fn write_open_head(
    net: &mut Net,
    to: ConnId,
    far: &mut Leg,
    start: u64,
    total: Option<u64>,
    fields: &[u8],
    scratch: &mut Vec<u8>,
) {
    scratch.clear();
    scratch.extend_from_slice(b"Byte-Range: ");
    ByteRange { start, end: None, total }.write(scratch);
    scratch.extend_from_slice(b"\r\n");
    net.write(to, [far.next_head(), scratch, fields, b"\r\n"]);
}

/// All fields of a head but Byte-Range.
fn without_range(head: &Head<'_>) -> Box<[u8]> {
    let Some(place) = head.byte_range_text.and_then(|text| place_in(head.rest, text)) else { return head.rest.into() };
    let start = memchr::memrchr(b'\n', &head.rest[..place.start]).map_or(0, |at| at + 1);
    let end = memchr::memchr(b'\n', &head.rest[place.end..]).map_or(head.rest.len(), |at| place.end + at + 1);
    [&head.rest[..start], &head.rest[end..]].concat().into_boxed_slice()
}

const START: &[u8] = b"MSRP ";
/// CRLF, seven hyphens, flag and CRLF around a transaction id.
const END_LINE_LEN: usize = 2 + 7 + 1 + 2;
