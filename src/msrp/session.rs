//! One session: its two sides, the message that passes, and when it has waited long enough.

use super::head::{FailureReport, Head};
use super::local::{Source, Spool};
use super::news::{LegPlan, OpenPlan, Purpose, Role, SessionId, Side};
use super::own_tid::{TID_LEN, advance, first_tid, session_id};
use super::pending::Pending;
use super::settings::PathMode;
use super::uri;
use crate::base::id::ConnId;
use crate::base::rng::Rng;
use crate::base::slots::SlotId;
use crate::base::time::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// What it is for.
    pub purpose: Purpose,
    /// Both sides.
    pub legs: [Leg; 2],
    /// Largest message.
    pub size_max: u64,
    /// When it was opened or started.
    pub begun: Instant,
    /// Chunks may pass.
    pub is_started: bool,
    /// It cannot go on: everything is refused until SIP ends it.
    pub is_lost: bool,
    /// A message was acknowledged to its end, and none has begun since.
    pub is_finished: bool,
    /// When bytes passed last.
    pub active_at: Instant,
    /// When the wheel looks at it next.
    pub armed: Option<Instant>,
    /// The message that the originating side sends.
    pub passage: Passage,
    /// Its chunks that wait for responses.
    pub pending: VecDeque<Pending>,
    /// Purposes with only one side.
    pub local: Local,
}

/// What a session with one side does with its message.
#[derive(Debug, Default)]
pub enum Local {
    /// It has two sides.
    #[default]
    None,
    /// It takes a message.
    Spool(Box<Spool>),
    /// It sends one.
    Source(Box<Source>),
}

/// One side of a session.
#[derive(Debug)]
pub struct Leg {
    /// Our own URI.
    pub uri: Box<str>,
    /// The path that the peer's SDP gave.
    pub peer_path: Box<[u8]>,
    /// Media types that the peer may send.
    pub accept_types: Box<[u8]>,
    /// Where to connect to when active.
    pub connect_to: Box<[SocketAddr]>,
    /// Start line and paths of every SEND to the peer, with the transaction id of the last one.
    head: Box<[u8]>,
    /// What stands between the transaction ids of a 200 to the peer.
    answer: Box<[u8]>,
    /// The number in `head`.
    pub sequence: u32,
    /// Our own binding SEND that waits for its response.
    pub binding: Option<u32>,
    /// Our attempt to connect.
    pub attempt: Option<SlotId>,
    /// The connection it is joined to.
    pub conn: Option<ConnId>,
    /// Its connection is gone for good.
    pub is_gone: bool,
    /// SDP has named another endpoint: the next connection that says so takes over.
    pub may_move: bool,
    /// Index of its listening address.
    pub listener: u8,
    /// Our part in opening the connection.
    pub role: Role,
}

/// How a chunk stands in the terminating side's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Open {
    /// No chunk is passing.
    #[default]
    No,
    /// It is open.
    Yes,
    /// It was ended with `+`, to go on with another.
    Interrupted,
}

/// What becomes of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// None is under way.
    #[default]
    Idle,
    /// Chunks have passed and more must follow.
    Underway,
}

/// The message that the originating side sends, and its chunk.
#[derive(Debug, Default)]
pub struct Passage {
    /// Its Message-ID.
    pub message_id: Vec<u8>,
    /// Its Content-Type, when somebody asks for it at the end.
    pub content_type: Box<[u8]>,
    /// What becomes of it.
    pub stage: Stage,
    /// Bodies are handed out.
    pub is_recorded: bool,
    /// The history waits for the acknowledgement of the last chunk.
    pub is_completing: bool,
    /// The last message that the sender was told to stop, and how.
    pub stopped: Option<Box<(Box<[u8]>, u16)>>,
    /// How its chunk stands.
    pub open: Open,
    /// The chunk has a body.
    pub has_body: bool,
    /// Our transaction id of the chunk.
    pub tid: [u8; TID_LEN],
    /// Number of the chunk's first byte, from 1.
    pub start: u64,
    /// Number of the next byte.
    pub next: u64,
    /// Length of the message.
    pub total: Option<u64>,
    /// What responses the chunk wants.
    pub report: FailureReport,
    /// Counts messages.
    pub serial: u32,
    /// Fields of the chunk's head, for when it has to go on as another; without Byte-Range.
    pub fields: Box<[u8]>,
}

impl Session {
    /// A session that nobody has joined. RFC 4975 §5.1.
    pub fn new(plan: &OpenPlan, now: Instant) -> Self {
        let local = match plan.purpose {
            Purpose::Bridge { .. } => Local::None,
            Purpose::Spool => Local::Spool(Box::default()),
            Purpose::Source => Local::Source(Box::default()),
        };
        Self {
            id: SlotId::default(),
            purpose: plan.purpose,
            legs: plan.listeners.map(Leg::new),
            size_max: plan.size_max,
            begun: now,
            is_started: false,
            is_lost: false,
            is_finished: false,
            active_at: now,
            armed: None,
            passage: Passage::default(),
            pending: VecDeque::new(),
            local,
        }
    }

    /// Gives it its name, and its transaction ids their beginnings. RFC 4975 §7.1.
    pub fn name(&mut self, id: SessionId, uri_of: impl Fn(u8, &str) -> Box<str>, rng: &mut Rng) {
        self.id = id;
        for side in Side::BOTH {
            let leg = &mut self.legs[side.index()];
            let session_id = session_id(id.slot, side, rng);
            leg.uri = uri_of(leg.listener, std::str::from_utf8(&session_id).unwrap_or_default());
            let tid = first_tid(id.slot, side, rng);
            leg.head = [START, &tid].concat().into_boxed_slice();
        }
    }

    /// Whether a side exists. RFC 4975 §5.1.
    pub const fn has(&self, side: Side) -> bool {
        match self.purpose {
            Purpose::Bridge { .. } => true,
            Purpose::Spool => matches!(side, Side::Originating),
            Purpose::Source => matches!(side, Side::Terminating),
        }
    }

    /// Takes what a side's SDP said. RFC 4975 §8.
    pub fn negotiate(&mut self, side: Side, plan: &LegPlan<'_>, mode: PathMode) {
        let leg = &mut self.legs[side.index()];
        leg.peer_path = plan.peer_path.trim_ascii().into();
        leg.accept_types = plan.accept_types.trim_ascii().into();
        leg.role = plan.role;
        leg.connect_to = plan.connect_to.iter().copied().take(ADDRESS_COUNT_MAX).collect();
        for side in Side::BOTH {
            let other = match mode {
                PathMode::Prepend => self.legs[side.other().index()].peer_path.clone(),
                PathMode::Replace => Box::default(),
            };
            self.legs[side.index()].write_paths(&other);
        }
    }

    /// Whether what follows a head of the originating side belongs to the message under way. RFC 4975 §5.1.
    pub fn continues(&self, head: &Head<'_>) -> bool {
        self.passage.stage == Stage::Underway && head.message_id == Some(&self.passage.message_id)
    }

    /// When the session has to be looked at, whatever happens until then. RFC 4975 §7.1.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_lost {
            return None;
        }
        if !self.is_started {
            return None; // SIP's own timers run.
        }
        if Side::BOTH.iter().any(|side| self.has(*side) && !self.legs[side.index()].is_ready()) {
            return Some(self.begun + BIND_TIMEOUT);
        }
        let idle = self.active_at + if self.is_finished { FINISHED_IDLE } else { UNUSED_IDLE };
        let answer = match &self.local {
            Local::Source(source) => source.deadline(),
            _ => self.pending.front().filter(|front| front.is_closed).map(|front| front.stamp + RESPONSE_TIMEOUT),
        };
        Some(answer.map_or(idle, |answer| answer.min(idle)))
    }
}

impl Leg {
    fn new(listener: u8) -> Self {
        Self {
            uri: Box::default(),
            peer_path: Box::default(),
            accept_types: Box::default(),
            connect_to: Box::default(),
            head: Box::default(),
            answer: Box::default(),
            sequence: 0,
            binding: None,
            attempt: None,
            conn: None,
            is_gone: false,
            may_move: false,
            listener,
            role: Role::Passive,
        }
    }

    /// Joined to a connection whose other end knows it. RFC 4975 §5.4.
    pub const fn is_ready(&self) -> bool {
        self.conn.is_some() && self.binding.is_none()
    }

    /// Whether requests with this From-Path come from the peer, as far as its SDP has said who that is. RFC 4975 §5.4.
    pub fn may_be_joined_by(&self, from_path: &[u8]) -> bool {
        self.peer_path.is_empty() || uri::same_uri(uri::first(from_path), uri::first(&self.peer_path))
    }

    /// The URI that responses go to. RFC 4975 §7.2.
    pub fn answered_uri(&self) -> &[u8] {
        let to = self.answer.strip_prefix(b"To-Path: ").unwrap_or_default();
        &to[..memchr::memchr(b'\r', to).unwrap_or(to.len())]
    }

    fn write_paths(&mut self, other_path: &[u8]) {
        let uri = self.uri.as_bytes();
        let gap: &[u8] = if other_path.is_empty() { b"" } else { b" " };
        let tid = &self.head[..TID_END];
        self.head = [tid, SEND, b"To-Path: ", &self.peer_path, b"\r\nFrom-Path: ", uri, gap, other_path, b"\r\n"]
            .concat()
            .into_boxed_slice();
        let paths = answer_paths(uri, uri::first(&self.peer_path));
        self.set_answer(&paths);
    }

    /// Takes the path lines of responses to the peer. RFC 4975 §7.2.
    pub fn set_answer(&mut self, paths: &[u8]) {
        if *paths != *self.answer_lines() {
            self.answer = [OK, paths, MARK].concat().into_boxed_slice();
        }
    }

    /// What stands between the transaction ids of a 200 to the peer. RFC 4975 §7.2.
    #[inline]
    pub fn answer_ok(&self) -> &[u8] {
        &self.answer
    }

    /// The path lines of responses to the peer. RFC 4975 §7.2.
    pub fn answer_lines(&self) -> &[u8] {
        self.answer.get(OK.len()..self.answer.len().max(MARK.len()) - MARK.len()).unwrap_or_default()
    }

    /// Counts the transaction id on: the head of the next SEND. RFC 4975 §7.1.
    #[inline]
    pub fn next_head(&mut self) -> &[u8] {
        self.advance();
        &self.head
    }

    /// Counts the transaction id on. RFC 4975 §7.1.
    #[inline]
    pub fn advance(&mut self) {
        advance(&mut self.head[START.len()..TID_END]);
        self.sequence = (self.sequence + 1) % super::own_tid::SEQUENCE_COUNT;
    }

    /// Start line and paths of the last SEND. RFC 4975 §7.1.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The commonest response, a 200 in the very form that the peer's path makes likely: the number of the transaction
    /// that it answers, and its length. RFC 4975 §7.2.
    #[inline]
    pub fn plain_ok(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let (tid, rest) = bytes.strip_prefix(START)?.split_first_chunk::<TID_LEN>()?;
        let rest = rest.strip_prefix(b" 200 OK\r\nTo-Path: ")?.strip_prefix(self.uri.as_bytes())?;
        let rest = rest.strip_prefix(b"\r\nFrom-Path: ")?.strip_prefix(&*self.peer_path)?;
        let rest = rest.strip_prefix(b"\r\n-------")?.strip_prefix(tid)?.strip_prefix(b"$\r\n")?;
        let own = super::own_tid::OwnTid::parse(tid).filter(|_| self.owns(tid))?;
        Some((own.sequence, bytes.len() - rest.len()))
    }

    /// The last transaction id. RFC 4975 §7.1.
    #[inline]
    pub fn tid(&self) -> [u8; TID_LEN] {
        let mut tid = [0; TID_LEN];
        tid.copy_from_slice(&self.head[START.len()..TID_END]);
        tid
    }

    /// The two path lines of requests to the peer. RFC 4975 §5.1.
    pub fn path_lines(&self) -> &[u8] {
        self.head.get(TID_END + SEND.len()..).unwrap_or_default()
    }

    /// Whether a transaction id may be one of this side. RFC 4975 §7.1.
    #[inline]
    pub fn owns(&self, tid: &[u8]) -> bool {
        tid.get(..TID_LEN - 8) == self.head.get(START.len()..TID_END - 8)
    }
}

/// The path lines of a response. RFC 4975 §7.2.
pub fn answer_paths(own: &[u8], to: &[u8]) -> Vec<u8> {
    [b"To-Path: ", to, b"\r\nFrom-Path: ", own, b"\r\n"].concat()
}

/// Whether media types of an `a=accept-types` include a Content-Type. RFC 4975 §8.6.
pub fn accepts(accept_types: &[u8], content_type: Option<&[u8]>) -> bool {
    if accept_types.is_empty() {
        return true;
    }
    let content_type = content_type.unwrap_or_default();
    let content_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    accept_types.split(|byte| *byte == b' ').filter(|accepted| !accepted.is_empty()).any(|accepted| {
        let accepted = accepted.split(|byte| *byte == b';').next().unwrap_or_default();
        match accepted.strip_suffix(b"*") {
            Some(prefix) => {
                content_type.len() >= prefix.len() && content_type[..prefix.len()].eq_ignore_ascii_case(prefix)
            }
            None => accepted.eq_ignore_ascii_case(content_type),
        }
    })
}

const START: &[u8] = b"MSRP ";
const OK: &[u8] = b" 200 OK\r\n";
const MARK: &[u8] = b"-------";
const SEND: &[u8] = b" SEND\r\n";
const TID_END: usize = START.len() + TID_LEN;
/// Addresses tried for one connection.
const ADDRESS_COUNT_MAX: usize = 2;

/// From the last byte of a chunk to its response (SPEC §4.6).
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// From the start of a session to both its connections (SPEC §4.6).
pub const BIND_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence after a whole message (SPEC §4.6).
pub const FINISHED_IDLE: Duration = Duration::from_secs(60);
/// Silence before the first message, and inside one (SPEC §4.6).
pub const UNUSED_IDLE: Duration = Duration::from_secs(180);

#[cfg(test)]
impl Session {
    /// Bytes behind the session's pointers.
    pub(super) fn heap_len(&self) -> usize {
        let legs = self.legs.iter().map(|leg| {
            let texts =
                leg.uri.len() + leg.peer_path.len() + leg.accept_types.len() + leg.head.len() + leg.answer.len();
            texts + size_of_val(&*leg.connect_to)
        });
        let passage = self.passage.message_id.capacity() + self.passage.content_type.len() + self.passage.fields.len();
        legs.sum::<usize>() + passage + self.pending.capacity() * size_of::<Pending>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_match_without_case_and_parameters() {
        assert!(accepts(b"", Some(b"text/plain")));
        assert!(accepts(b"*", None));
        assert!(accepts(b"text/html message/CPIM", Some(b"Message/cpim; charset=utf-8")));
        assert!(accepts(b"text/*", Some(b"text/plain")));
        assert!(!accepts(b"message/cpim", Some(b"text/plain")));
        assert!(!accepts(b"message/cpim", None));
    }
}
