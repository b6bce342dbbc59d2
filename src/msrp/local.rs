//! Sessions with one side: messages taken into the spool, and messages sent from it.

use super::bridge::{close_chunk, tell};
use super::byte_range::ByteRange;
use super::connection::Ingress;
use super::head::{FailureReport, Flag, Head};
use super::ingress::{Verdict, check_message};
use super::news::{Event, SessionId, SourceMessage};
use super::pending::{Note, Pending};
use super::relay::{Input, Relay};
use super::session::{RESPONSE_TIMEOUT, Stage};
use super::{status, write};
use crate::base::limits::SPOOL_WINDOW_LEN;
use crate::base::time::Instant;
use bytes::Bytes;
use std::collections::VecDeque;

pub(super) use super::session::Local;

/// Taking a message.
#[derive(Debug, Default)]
pub struct Spool {
    /// Which bytes of it are there: ranges from 0, in order, apart.
    covered: Vec<(u64, u64)>,
    /// Its length, once its last chunk came.
    total: Option<u64>,
    /// Bytes handed out and not on disk.
    unwritten: usize,
    /// Its sender is not read from.
    is_restrained: bool,
    /// Its sender wants to know when it is safe.
    wants_success: bool,
    /// Some of it was handed out.
    is_begun: bool,
    /// The chunk that completed it: its response waits for the disk.
    waiting: Option<Pending>,
}

/// Sending a message.
#[derive(Debug, Default)]
pub struct Source {
    message: Option<Outgoing>,
    /// Bytes were asked for.
    is_asked: bool,
    /// They came, and wait for another session's chunk to end.
    supplied: Option<Bytes>,
    unanswered: VecDeque<Unanswered>,
    /// Bytes acknowledged without a gap.
    acknowledged: u64,
}

#[derive(Debug)]
struct Outgoing {
    message_id: Box<str>,
    content_type: Box<str>,
    total: u64,
    /// Place of the next byte, from 0.
    next: u64,
    /// The last chunk is out.
    is_out: bool,
}

#[derive(Clone, Copy, Debug)]
struct Unanswered {
    sequence: u32,
    stamp: Instant,
    position: u64,
    /// Place of its first byte, from 0.
    start: u64,
}

impl Spool {
    /// Forgets the message; true when something of it was handed out.
    pub(super) fn abandon(&mut self) -> bool {
        self.covered.clear();
        (self.total, self.waiting, self.wants_success) = (None, None, false);
        std::mem::take(&mut self.is_begun)
    }

    /// Whether the sender was not read from; from here on that is somebody else's business.
    pub(super) fn take_restraint(&mut self) -> bool {
        self.unwritten = 0;
        std::mem::take(&mut self.is_restrained)
    }

    /// Adds a range; false when there are too many pieces.
    fn cover(&mut self, mut start: u64, mut end: u64) -> bool {
        if start < end {
            self.covered.retain(|(from, to)| {
                let is_apart = *to < start || end < *from;
                if !is_apart {
                    (start, end) = (start.min(*from), end.max(*to));
                }
                is_apart
            });
            let at = self.covered.partition_point(|(from, _)| *from < start);
            self.covered.insert(at, (start, end));
        }
        self.covered.len() <= COVERED_COUNT_MAX
    }

    fn is_whole(&self) -> bool {
        match (self.total, self.covered.as_slice()) {
            (Some(0), _) => true,
            (Some(total), [(0, end), ..]) => *end >= total,
            _ => false,
        }
    }
}

impl Source {
    /// When the oldest chunk has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.unanswered.front().map(|front| front.stamp + RESPONSE_TIMEOUT)
    }

    /// True when a chunk that has left was not answered in time.
    pub(super) fn expire(&mut self, sent: u64, now: Instant) -> bool {
        match self.unanswered.front_mut() {
            Some(front) if front.stamp + RESPONSE_TIMEOUT <= now => {
                let has_left = front.position <= sent;
                front.stamp = now;
                has_left
            }
            _ => false,
        }
    }
}

impl Relay {
    /// A SEND for the spool.
    pub(super) fn on_spool_head(&mut self, id: SessionId, head: &Head<'_>, now: Instant) -> Verdict {
        let Some(session) = self.sessions.get_mut(id) else { return Verdict::DROP };
        let Local::Spool(spool) = &session.local else { return Verdict::DROP };
        if !session.is_started || spool.waiting.is_some() {
            return Verdict::Park;
        }
        if let Err(code) = check_message(session, head) {
            let message_id = head.message_id.unwrap_or_default();
            self.void_spool(id, message_id, code);
            return self.refuse(head, code);
        }
        if !session.continues(head) {
            let Local::Spool(spool) = &mut session.local else { return Verdict::DROP };
            if spool.abandon() {
                self.events.push_back(Event::Aborted { id });
            }
            session.passage.message_id = head.message_id.unwrap_or_default().to_vec();
            session.passage.content_type = head.content_type.unwrap_or_default().into();
            session.passage.stage = Stage::Underway;
            session.is_finished = false;
        }
        let passage = &mut session.passage;
        let range = head.byte_range;
        (passage.start, passage.next, passage.total) = (range.start, range.start, range.total);
        passage.report = head.failure_report;
        if let Local::Spool(spool) = &mut session.local {
            spool.wants_success |= head.success_report;
        }
        session.pending.push_back(Pending::new(head.transaction_id, head.failure_report, 0, now));
        self.net.counts.chunks += 1;
        Verdict::Go(Ingress::Spool(id))
    }

    /// What came of a message is void, and no more of it is taken.
    fn void_spool(&mut self, id: SessionId, message_id: &[u8], code: u16) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.stop_message(message_id, code, &mut self.events);
        if session.passage.message_id == message_id
            && let Local::Spool(spool) = &mut session.local
            && spool.abandon()
        {
            self.events.push_back(Event::Aborted { id });
        }
    }

    /// Hands part of a body out.
    pub(super) fn on_spool_body(&mut self, id: SessionId, body: &[u8], input: &mut Input<'_>, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.active_at = now;
        if session.passage.stage != Stage::Underway {
            return;
        }
        let len = body.len() as u64;
        if session.passage.next - 1 + len > session.size_max {
            self.net.counts.refused += 1;
            self.answer_spool(id, status::STOP_SENDING);
            let Some(session) = self.sessions.get(id) else { return };
            let message_id = session.passage.message_id.clone();
            return self.void_spool(id, &message_id, status::STOP_SENDING);
        }
        let offset = session.passage.next - 1;
        session.passage.next += len;
        self.net.counts.body_bytes += len;
        let Local::Spool(spool) = &mut session.local else { return };
        spool.is_begun = true;
        spool.unwritten += body.len();
        self.events.push_back(Event::Piece { id, offset, bytes: input.keep(body) });
        if spool.unwritten > SPOOL_WINDOW_LEN
            && !spool.is_restrained
            && let Some(conn) = session.legs[0].conn
        {
            spool.is_restrained = true;
            self.net.restrain(conn, true);
        }
    }

    /// Ends a chunk for the spool: its bytes are here, so it is acknowledged, unless it completes the message.
    pub(super) fn on_spool_end(&mut self, id: SessionId, flag: Flag, keeps_range: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.active_at = now;
        if session.passage.stage != Stage::Underway {
            return; // Stopped, and answered, in the midst of it.
        }
        let (start, end) = (session.passage.start - 1, session.passage.next - 1);
        let total = session.passage.total.unwrap_or(end);
        let Local::Spool(spool) = &mut session.local else { return };
        if flag == Flag::Abort {
            if spool.abandon() {
                self.events.push_back(Event::Aborted { id });
            }
            session.passage.stage = Stage::Idle;
            return self.answer_spool(id, status::OK);
        }
        if !keeps_range {
            return self.answer_spool(id, status::BAD_REQUEST);
        }
        if !spool.cover(start, end) {
            self.answer_spool(id, status::STOP_SENDING);
            let Some(session) = self.sessions.get(id) else { return };
            let message_id = session.passage.message_id.clone();
            return self.void_spool(id, &message_id, status::STOP_SENDING);
        }
        if flag == Flag::End {
            spool.total = Some(total);
        }
        if !spool.is_whole() {
            return self.answer_spool(id, status::OK);
        }
        spool.waiting = session.pending.pop_back();
        spool.is_begun = true;
        let event = Event::Complete {
            id,
            message_id: session.passage.message_id.as_slice().into(),
            content_type: session.passage.content_type.clone(),
            total: spool.total.unwrap_or(total),
        };
        self.events.push_back(event);
    }

    fn answer_spool(&mut self, id: SessionId, code: u16) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(entry) = session.pending.pop_back() else { return };
        self.tell_spool(id, &entry, code);
    }

    fn tell_spool(&mut self, id: SessionId, entry: &Pending, code: u16) {
        let Some(session) = self.sessions.get(id) else { return };
        let is_wanted = match entry.report {
            FailureReport::Yes => true,
            FailureReport::Partial => !status::is_success(code),
            FailureReport::No => false,
        };
        if is_wanted {
            tell(&mut self.net, &session.legs[0], entry.tid(), code);
            self.net.counts.own_responses += 1;
        }
    }

    /// Spool: so many bytes handed out are on disk. RFC 4975 §5.1.
    pub fn written(&mut self, id: SessionId, len: usize) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Spool(spool) = &mut session.local else { return };
        spool.unwritten = spool.unwritten.saturating_sub(len);
        if spool.is_restrained && spool.unwritten <= SPOOL_WINDOW_LEN / 2 {
            spool.is_restrained = false;
            if let Some(conn) = session.legs[0].conn {
                self.net.restrain(conn, false);
            }
        }
    }

    /// Spool: the message is safe, or refused with a status. RFC 4975 §7.2.
    pub fn committed(&mut self, id: SessionId, outcome: Result<(), u16>, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Spool(spool) = &mut session.local else { return };
        let Some(entry) = spool.waiting.take() else { return };
        let (wants_success, total) = (spool.wants_success, spool.total.unwrap_or(0));
        spool.abandon();
        session.active_at = now;
        session.passage.stage = Stage::Idle;
        session.is_finished = outcome.is_ok();
        self.tell_spool(id, &entry, outcome.err().unwrap_or(status::OK));
        if wants_success
            && outcome.is_ok()
            && let Some(session) = self.sessions.get_mut(id)
        {
            let note = Note {
                message_id: session.passage.message_id.as_slice().into(),
                content_type: Box::default(),
                start: 1,
                next: total + 1,
                total: Some(total),
                is_recorded: false,
            };
            self.net.counts.reports += 1;
            super::report::write(&mut self.net, &mut session.legs[0], &note, status::OK, &mut self.scratch);
        }
        self.arm(id);
        self.wake(id);
        self.settle(now);
    }

    /// Source: the message to send. RFC 4975 §7.1.
    pub fn submit(&mut self, id: SessionId, message: SourceMessage<'_>, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Source(source) = &mut session.local else { return };
        if source.message.is_some() {
            return;
        }
        source.message = Some(Outgoing {
            message_id: message.message_id.into(),
            content_type: message.content_type.into(),
            total: message.total,
            next: message.offset.min(message.total),
            is_out: false,
        });
        source.acknowledged = message.offset.min(message.total);
        session.is_finished = false;
        self.pump(id, now);
        self.settle(now);
    }

    /// Source: how many bytes, from the beginning of the message, the receiver has acknowledged without a gap.
    ///
    /// RFC 4975 §7.2.
    pub fn acknowledged(&self, id: SessionId) -> u64 {
        match self.sessions.get(id).map(|session| &session.local) {
            Some(Local::Source(source)) => source.acknowledged,
            _ => 0,
        }
    }

    /// Source: the bytes that [`Event::Wanted`] asked for. RFC 4975 §7.1.
    pub fn supply(&mut self, id: SessionId, bytes: Bytes, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Source(source) = &mut session.local else { return };
        if !std::mem::take(&mut source.is_asked) || session.is_lost {
            return;
        }
        let Some(message) = &source.message else { return };
        let len = (message.total - message.next).min(SOURCE_CHUNK_LEN);
        debug_assert_eq!(bytes.len() as u64, len, "exactly what was asked for");
        if bytes.len() as u64 != len {
            // What was promised is not there: the receiver has to forget the message.
            source.message = None;
            self.events.push_back(Event::Sent { id, status: status::STOP_SENDING });
            return self.settle(now);
        }
        source.supplied = Some(bytes);
        self.pump(id, now);
        self.settle(now);
    }

    /// Sends what is there, and asks for more as long as the window is open.
    pub(super) fn pump(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Source(source) = &mut session.local else { return };
        let leg = &session.legs[1];
        let Some(to) = leg.conn.filter(|_| leg.is_ready() && session.is_started && !session.is_lost) else { return };
        let Some(message) = source.message.as_mut().filter(|message| !message.is_out) else { return };
        let is_empty = message.next == message.total;
        if source.supplied.is_some() || is_empty {
            self.send_supplied(id, to, now);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Source(source) = &mut session.local else { return };
        let Some(message) = source.message.as_ref().filter(|message| !message.is_out) else { return };
        let is_open = source.unanswered.len() < SOURCE_WINDOW && !source.is_asked && source.supplied.is_none();
        if is_open && message.next < message.total {
            source.is_asked = true;
            let len = (message.total - message.next).min(SOURCE_CHUNK_LEN) as u32;
            self.events.push_back(Event::Wanted { id, offset: message.next, len });
        }
    }

    /// Sends one chunk.
    fn send_supplied(&mut self, id: SessionId, to: crate::base::id::ConnId, now: Instant) {
        if self.net.get(to).is_some_and(|connection| connection.open.is_some()) && !self.clear_way(to, id) {
            if let Some(connection) = self.net.get_mut(to) {
                connection.extra().waiters.push(to);
            }
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Source(source) = &mut session.local else { return };
        let bytes = source.supplied.take().unwrap_or_default();
        let Some(message) = &mut source.message else { return };
        let start = message.next;
        let end = start + bytes.len() as u64;
        let leg = &mut session.legs[1];
        leg.next_head();
        let tid = leg.tid();
        self.scratch.clear();
        let send = write::Send {
            transaction_id: &tid,
            path_lines: leg.path_lines(),
            message_id: message.message_id.as_bytes(),
            byte_range: ByteRange { start: start + 1, end: Some(end), total: Some(message.total) },
            failure_report: FailureReport::Yes,
            success_report: false,
            content_type: Some(message.content_type.as_bytes()),
        };
        write::send_head(&mut self.scratch, &send);
        self.net.write(to, [&self.scratch]);
        self.net.counts.chunks += 1;
        self.net.counts.body_bytes += bytes.len() as u64;
        self.net.share(to, bytes);
        message.is_out = end == message.total;
        message.next = end;
        let flag = if message.is_out { Flag::End } else { Flag::More };
        let sequence = leg.sequence;
        close_chunk(&mut self.net, to, &tid, true, flag);
        let position = self.net.get(to).map_or(0, |connection| connection.egress.end_position());
        source.unanswered.push_back(Unanswered { sequence, stamp: now, position, start });
        session.active_at = now;
        self.arm_by(id, now + RESPONSE_TIMEOUT);
    }

    /// Sources of a connection go on when a chunk of another session has ended.
    pub(super) fn pump_connection(&mut self, conn: crate::base::id::ConnId, now: Instant) {
        let Some(connection) = self.net.get(conn) else { return };
        for leg in connection.legs.clone() {
            self.pump(leg.id, now);
        }
    }

    /// A response to one of our own chunks.
    pub(super) fn on_source_response(&mut self, id: SessionId, sequence: u32, code: u16, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Local::Source(source) = &mut session.local else { return };
        let Some(at) = source.unanswered.iter().position(|chunk| chunk.sequence == sequence) else { return };
        source.unanswered.remove(at);
        let is_out = source.message.as_ref().is_some_and(|message| message.is_out);
        if !status::is_success(code) {
            if source.message.take().is_some() {
                (source.supplied, source.is_asked) = (None, false);
                self.events.push_back(Event::Sent { id, status: code });
            }
            return;
        }
        if let Some(message) = &source.message {
            source.acknowledged = source.unanswered.iter().map(|chunk| chunk.start).min().unwrap_or(message.next);
        }
        if is_out && source.unanswered.is_empty() {
            source.message = None;
            session.is_finished = true;
            self.events.push_back(Event::Sent { id, status: status::OK });
        }
        self.pump(id, now);
    }

    /// A chunk of our own was not answered in time.
    pub(super) fn on_source_silence(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if let Local::Source(source) = &mut session.local
            && source.message.take().is_some()
        {
            self.events.push_back(Event::Sent { id, status: status::TIMEOUT });
        }
    }
}

/// Bytes of one chunk of our own.
const SOURCE_CHUNK_LEN: u64 = 64 * 1024;
/// Chunks of our own that may wait for their responses.
const SOURCE_WINDOW: usize = 4;
/// Pieces of a message that may lie apart in the spool.
const COVERED_COUNT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_when_every_byte_of_it_came() {
        let mut spool = Spool::default();
        assert!(spool.cover(10, 20) && spool.cover(30, 40) && spool.cover(15, 31));
        assert_eq!(spool.covered, [(10, 40)]);
        spool.total = Some(40);
        assert!(!spool.is_whole());
        assert!(spool.cover(0, 10));
        assert_eq!((spool.covered.as_slice(), spool.is_whole()), (&[(0, 40)][..], true));
        assert!(Spool { total: Some(0), ..Spool::default() }.is_whole());
    }

    #[test]
    fn pieces_that_lie_apart_are_bounded() {
        let mut spool = Spool::default();
        let fits = (0..200u64).take_while(|n| spool.cover(n * 10, n * 10 + 1)).count();
        assert_eq!(fits, COVERED_COUNT_MAX);
    }
}
