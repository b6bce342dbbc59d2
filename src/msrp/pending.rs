//! Chunks that wait for their responses: the sender's transactions, in order, and ours that stand for them.

use super::head::FailureReport;
use super::own_tid::distance;
use crate::base::time::Instant;
use std::collections::VecDeque;

/// Longest transaction id.
const TID_LEN_MAX: usize = 32;

/// A sender's transaction.
#[derive(Clone, Debug)]
pub struct Pending {
    tid: [u8; TID_LEN_MAX],
    tid_len: u8,
    /// Which responses its sender wants.
    pub report: FailureReport,
    /// All of the chunk was passed on.
    pub is_closed: bool,
    /// The sender has its response, or wants none.
    pub is_told: bool,
    /// It is over; those before it are not.
    pub is_done: bool,
    /// Which of the session's messages it belongs to.
    pub serial: u32,
    /// The message ends with it.
    pub is_last: bool,
    /// 200, or the first other status of those that cover it.
    pub status: u16,
    /// Our first transaction that covers it.
    first: u32,
    /// Our last one.
    last: u32,
    /// Those of ours that wait for a response.
    unanswered: u32,
    /// When its last byte was queued, or was seen to be unsent.
    pub stamp: Instant,
    /// Where its last byte is in the connection's output.
    pub position: u64,
    /// What a REPORT or the history needs to know.
    pub note: Option<Box<Note>>,
}

/// What is remembered of a chunk when a REPORT about it or an entry in the history may have to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its message.
    pub message_id: Box<[u8]>,
    /// The message's Content-Type.
    pub content_type: Box<[u8]>,
    /// Number of its first byte, from 1.
    pub start: u64,
    /// Number of the byte behind its last.
    pub next: u64,
    /// Length of the message, when it is known.
    pub total: Option<u64>,
    /// The history waits for it.
    pub is_recorded: bool,
}

impl Pending {
    /// A transaction that one of ours covers so far. RFC 4975 §7.1.
    pub fn new(tid: &[u8], report: FailureReport, sequence: u32, now: Instant) -> Self {
        let mut pending = Self {
            tid: [0; TID_LEN_MAX],
            tid_len: tid.len().min(TID_LEN_MAX) as u8,
            report,
            is_closed: false,
            is_told: tid.is_empty(),
            is_done: false,
            serial: 0,
            is_last: false,
            status: super::status::OK,
            first: sequence,
            last: sequence,
            unanswered: 1,
            stamp: now,
            position: 0,
            note: None,
        };
        pending.tid[..tid.len()].copy_from_slice(tid);
        pending
    }

    /// The sender's transaction id; empty when it is one of ours alone. RFC 4975 §7.1.
    pub fn tid(&self) -> &[u8] {
        &self.tid[..usize::from(self.tid_len)]
    }

    /// Another transaction of ours goes on with the same chunk. RFC 4975 §5.1.
    pub fn continues(&mut self, sequence: u32) {
        self.last = sequence;
        self.unanswered += 1;
    }

    /// Notes a response to one of ours: the worst wins. RFC 4975 §7.2.
    pub fn on_response(&mut self, status: u16) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if !super::status::is_success(status) && super::status::is_success(self.status) {
            self.status = status;
        }
    }

    /// Nothing more is to come. RFC 4975 §7.2.
    pub const fn is_answered(&self) -> bool {
        self.is_closed && self.unanswered == 0
    }

    /// Whether this response is all that a transaction without peculiarities waits for. RFC 4975 §7.2.
    #[inline]
    pub fn is_plainly_answered(&self, sequence: u32, code: u16) -> bool {
        self.first == sequence
            && self.last == sequence
            && code == super::status::OK
            && self.is_closed
            && self.report == FailureReport::Yes
            && self.note.is_none()
            && self.unanswered == 1
            && !self.is_told
    }

    fn covers(&self, sequence: u32) -> bool {
        distance(self.first, sequence) <= distance(self.first, self.last)
    }
}

/// Finds the transaction that one of ours belongs to: the first as a rule. RFC 4975 §7.2.
#[inline]
pub fn find(queue: &VecDeque<Pending>, sequence: u32) -> Option<usize> {
    let front = queue.front()?;
    if front.covers(sequence) {
        return Some(0);
    }
    let origin = front.first;
    let ahead = distance(origin, sequence);
    let at = queue.partition_point(|pending| distance(origin, pending.first) <= ahead);
    (at > 0 && queue[at - 1].covers(sequence)).then(|| at - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::own_tid::SEQUENCE_COUNT;

    #[test]
    fn a_response_is_found_across_gaps_and_the_end_of_the_numbers() {
        let mut queue = VecDeque::new();
        let start = SEQUENCE_COUNT - 3;
        for n in [0u32, 1, 4, 5] {
            queue.push_back(Pending::new(b"abcd", FailureReport::Yes, (start + n) % SEQUENCE_COUNT, Instant::ZERO));
        }
        queue[1].continues((start + 2) % SEQUENCE_COUNT);
        let found: Vec<_> = (0..7).map(|n| find(&queue, (start + n) % SEQUENCE_COUNT)).collect();
        assert_eq!(found, [Some(0), Some(1), Some(1), None, Some(2), Some(3), None]);
        assert_eq!(find(&queue, start - 1), None);
        assert_eq!(find(&VecDeque::new(), 1), None);
    }

    #[test]
    fn the_worst_response_wins_and_all_are_waited_for() {
        let mut pending = Pending::new(b"abcd", FailureReport::Yes, 1, Instant::ZERO);
        pending.continues(2);
        pending.is_closed = true;
        pending.on_response(415);
        assert!(!pending.is_answered());
        pending.on_response(200);
        assert!(pending.is_answered());
        assert_eq!(pending.status, 415);
    }
}
