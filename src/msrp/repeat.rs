//! Chunks like the one before, and plain 200s: compared instead of taken apart, as many as stand in a row.
//!
//! From chunk to chunk of a message nothing changes in a head but the transaction id and the numbers of the first and the
//! last byte, and a receiver's 200s differ by their transaction ids only. Where this is so, and nothing else is going on
//! in the session, one comparison stands for reading the head, finding the session and checking the message: the answers
//! to all that are those of the chunk before. Whatever is different in any way goes the general way, which is always
//! right; this one only is faster, about five times, and small chunks are paid by the piece.

use super::byte_range::number;
use super::connection::LegRef;
use super::head::{END_LINE_MARK, FailureReport, Flag, Head, is_transaction_id};
use super::news::{Purpose, SessionId, Side};
use super::own_tid::{OwnTid, TID_LEN};
use super::pending::Pending;
use super::relay::{Relay, SHARE_LEN_MIN};
use super::session::{Local, Open, RESPONSE_TIMEOUT, Session, Stage};
use super::settings::Acknowledgement;
use super::status;
use crate::base::id::ConnId;
use crate::base::limits::MSRP_PENDING_COUNT_MAX;
use crate::base::time::Instant;

/// What the head of a chunk that went on and the head of the next one have in common.
#[derive(Debug, Default)]
pub struct Pattern {
    /// All between the transaction id and the first number of Byte-Range, and all between its second number and the body.
    text: Vec<u8>,
    /// Where the second part begins.
    range_at: usize,
    /// Bytes from the transaction id to the fields behind the paths.
    fields_at: usize,
    /// Length of the transaction id.
    tid_len: usize,
    /// The session.
    id: SessionId,
    /// Which of its messages.
    serial: u32,
    /// Length of the message.
    total: Option<u64>,
}

/// A chunk that repeats the one before, whole in the input.
struct Chunk<'a> {
    tid: &'a [u8],
    /// From the fields behind the paths to the transaction id in the end-line.
    text: &'a [u8],
    start: u64,
    end: u64,
    flag: Flag,
    /// Flag and CRLF.
    tail: &'a [u8],
    len: usize,
}

impl Pattern {
    /// What the paths of the head were. RFC 4975 §5.1.
    pub fn paths(&self) -> &[u8] {
        self.text.get(SEND.len()..self.fields_at).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) const fn heap_len(&self) -> usize {
        self.text.capacity()
    }

    /// Takes the pattern of a head, if it has one. RFC 4975 §7.1.
    fn learn(&mut self, id: SessionId, serial: u32, head: &Head<'_>) {
        self.text.clear();
        let (Some(range), Some(_)) = (head.byte_range_text, head.byte_range.end) else { return };
        let Some(text) = head.bytes.get(START.len() + head.transaction_id.len()..) else { return };
        let fields_at = SEND.len() + head.paths.len();
        // The start line of others may be written in another way.
        if !text.starts_with(SEND) || text.get(SEND.len()..fields_at) != Some(head.paths) {
            return;
        }
        let Some(range_place) = super::framer::place_in(text, range) else { return };
        let Some(slash) = memchr::memchr(b'/', range) else { return };
        if text.len() > TEXT_LEN_MAX {
            return;
        }
        self.text.reserve_exact(text.len());
        self.text.extend_from_slice(&text[..range_place.start]);
        self.text.extend_from_slice(&text[range_place.start + slash..]);
        (self.range_at, self.fields_at, self.tid_len) = (range_place.start, fields_at, head.transaction_id.len());
        (self.id, self.serial, self.total) = (id, serial, head.byte_range.total);
    }

    /// The chunk at the beginning of the input, if it is as the last one and all of it is there. RFC 4975 §7.1.
    #[inline]
    fn chunk<'a>(&self, input: &'a [u8]) -> Option<Chunk<'a>> {
        let (before, after) = self.text.split_at_checked(self.range_at)?;
        let (tid, rest) = input.strip_prefix(START)?.split_at_checked(self.tid_len)?;
        let (start, rest) = number(rest.strip_prefix(before)?)?;
        let (end, rest) = number(rest.strip_prefix(b"-")?)?;
        let body = rest.strip_prefix(after)?;
        let is_sound = start >= 1 && end >= start && self.total.is_none_or(|total| end <= total);
        let body_len = end.checked_sub(start)? as usize + 1;
        if !is_sound || body_len >= SHARE_LEN_MIN || body.starts_with(END_LINE_MARK) {
            return None;
        }
        let (line, rest) = body.get(body_len..)?.split_at_checked(END_LINE_START.len() + tid.len() + 3)?;
        let (line, tail) = line.split_at(END_LINE_START.len() + tid.len());
        let flag = match *tail {
            [b'+', b'\r', b'\n'] => Flag::More,
            [b'$', b'\r', b'\n'] => Flag::End,
            _ => return None,
        };
        if line.strip_prefix(END_LINE_START)? != tid || !is_transaction_id(tid) {
            return None;
        }
        let len = input.len() - rest.len();
        let text = &input[START.len() + self.tid_len + self.fields_at..len - tail.len() - tid.len()];
        Some(Chunk { tid, text, start, end, flag, tail, len })
    }
}

impl Relay {
    /// Notes what a chunk that goes on has in common with the next of its message.
    pub(super) fn learn_pattern(&mut self, conn: ConnId, id: SessionId, head: &Head<'_>) {
        let Some(serial) = self.sessions.get(id).map(|session| session.passage.serial) else { return };
        let is_small = head.byte_range.len().is_some_and(|len| (len as usize) < SHARE_LEN_MIN);
        if is_small
            && head.has_body
            && head.failure_report == FailureReport::Yes
            && let Some(connection) = self.net.get_mut(conn)
        {
            connection.pattern.get_or_insert_with(Box::default).learn(id, serial, head);
        }
    }

    /// Passes on what repeats, from the beginning of the input, and says how long that was. The input begins between two
    /// chunks.
    #[inline]
    pub(super) fn pass_repeats(&mut self, conn: ConnId, input: &[u8], now: Instant) -> usize {
        #[cfg(test)]
        if self.takes_no_shortcut {
            return 0;
        }
        let mut at = 0;
        loop {
            let mut len = self.pass_oks(conn, &input[at..], now);
            len += self.pass_chunks(conn, &input[at + len..], now);
            if len == 0 {
                return at;
            }
            at += len;
        }
    }

    fn pass_chunks(&mut self, conn: ConnId, input: &[u8], now: Instant) -> usize {
        if input.is_empty() {
            return 0;
        }
        let Some(pattern) = self.net.get_mut(conn).and_then(|connection| connection.pattern.take()) else { return 0 };
        let len = self.pass_chunks_like(&pattern, conn, input, now);
        if let Some(connection) = self.net.get_mut(conn) {
            connection.pattern = Some(pattern);
        }
        len
    }

    fn pass_chunks_like(&mut self, pattern: &Pattern, conn: ConnId, input: &[u8], now: Instant) -> usize {
        let route = LegRef { id: pattern.id, side: Side::Originating };
        if self.settings.acknowledgement != Acknowledgement::EndToEnd
            || self.net.get(conn).is_none_or(|connection| connection.route != Some(route))
        {
            return 0;
        }
        let Some(session) = self.sessions.get_mut(pattern.id) else { return 0 };
        let Some(to) = session.legs[1].conn.filter(|_| is_plain(session, pattern, conn)) else { return 0 };
        let Some(mut output) = self.net.output(to) else { return 0 };
        let passage = &mut session.passage;
        let far = &mut session.legs[1];
        let (mut at, mut count, mut body_len) = (0, 0, 0);
        while passage.stage == Stage::Underway
            && session.pending.len() < MSRP_PENDING_COUNT_MAX
            && let Some(chunk) = pattern.chunk(&input[at..])
            && chunk.end <= session.size_max
        {
            far.advance();
            let tid = far.tid();
            output.write([far.head(), chunk.text, &tid, chunk.tail]);
            let mut pending = Pending::new(chunk.tid, FailureReport::Yes, far.sequence, now);
            pending.serial = passage.serial;
            pending.is_closed = true;
            pending.is_last = chunk.flag == Flag::End;
            pending.position = output.end_position();
            session.pending.push_back(pending);
            (passage.start, passage.next) = (chunk.start, chunk.end + 1);
            if chunk.flag == Flag::End {
                passage.stage = Stage::Idle;
            }
            at += chunk.len;
            count += 1;
            body_len += chunk.end + 1 - chunk.start;
        }
        if count == 0 {
            return 0;
        }
        (passage.tid, passage.total, passage.has_body) = (far.tid(), pattern.total, true);
        passage.report = FailureReport::Yes;
        session.active_at = now;
        let is_late = session.armed.is_none_or(|armed| armed > now + RESPONSE_TIMEOUT);
        let is_high = output.is_high();
        #[cfg(test)]
        {
            self.shortcut_count += count;
        }
        self.net.counts.chunks += count;
        self.net.counts.body_bytes += body_len;
        self.net.list(to);
        if is_high {
            self.net.throttle(to, conn);
        }
        if is_late {
            self.arm_by(pattern.id, now + RESPONSE_TIMEOUT);
        }
        at
    }

    /// Passes plain 200s of a receiver back.
    fn pass_oks(&mut self, conn: ConnId, input: &[u8], now: Instant) -> usize {
        let Some(own) = input.get(START.len()..START.len() + TID_LEN).and_then(OwnTid::parse) else { return 0 };
        let Some((id, _)) = self.sessions.at(own.slot).filter(|_| own.side == Side::Terminating) else { return 0 };
        let Some(session) = self.sessions.get_mut(id) else { return 0 };
        let [near, far] = &session.legs;
        let is_plain =
            matches!(session.local, Local::None) && !session.is_lost && far.conn == Some(conn) && far.binding.is_none();
        let Some(to) = near.conn.filter(|_| is_plain) else { return 0 };
        let Some(mut output) = self.net.output(to) else { return 0 };
        let (mut at, mut count, mut delivered) = (0, 0, 0);
        let mut is_more_to_do = false;
        while !is_more_to_do
            && let Some((sequence, len)) = far.plain_ok(&input[at..])
            && let Some(front) = session.pending.front().filter(|front| front.is_plainly_answered(sequence, status::OK))
        {
            output.write([START, front.tid(), near.answer_ok(), front.tid(), OK_END]);
            session.is_finished |= front.is_last;
            delivered += u64::from(front.is_last);
            session.pending.pop_front();
            at += len;
            count += 1;
            is_more_to_do = session.pending.len() == MSRP_PENDING_COUNT_MAX / 2
                || session.pending.front().is_some_and(|front| front.is_done);
        }
        if count > 0 {
            session.active_at = now;
            self.net.counts.responses += count;
            self.net.counts.delivered += delivered;
            self.net.list(to);
        }
        if is_more_to_do {
            self.finish_pending(id, now);
        }
        at
    }
}

/// Whether a session does nothing but pass the chunks of one message on.
fn is_plain(session: &Session, pattern: &Pattern, conn: ConnId) -> bool {
    let passage = &session.passage;
    matches!(session.purpose, Purpose::Bridge { .. })
        && session.is_started
        && !session.is_lost
        && session.legs[0].conn == Some(conn)
        && session.legs[1].is_ready()
        && passage.stage == Stage::Underway
        && passage.serial == pattern.serial
        && passage.open == Open::No
        && passage.fields.is_empty()
        && !passage.is_recorded
        && pattern.total.is_none_or(|total| total <= session.size_max)
}

const START: &[u8] = b"MSRP ";
const SEND: &[u8] = b" SEND\r\n";
const END_LINE_START: &[u8] = b"\r\n-------";
const OK_END: &[u8] = b"$\r\n";
/// Heads whose common part is longer are not worth their memory.
const TEXT_LEN_MAX: usize = 1_024;
