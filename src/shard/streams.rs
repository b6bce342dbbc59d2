//! The stream connections of a shard: what has come in of a message, what waits to leave.

use crate::base::id::{ConnId, ShardId, Ticket};
use crate::base::limits::{
    SHARD_EGRESS_LEN_MAX, SHARD_PARTIAL_LEN_MAX, STREAM_COUNT_MAX, STREAM_EGRESS_LEN_MAX, STREAM_MESSAGE_SECONDS_MAX,
};
use crate::base::time::Instant;
use crate::metrics::names::Counter;
use crate::sip::framing::{Frame, Framer};
use crate::uring::ring::{BATCH_COUNT_MAX, ConnectHandle};
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Whose core to tell when bytes could not be sent.
pub(super) type Origin = Option<(ShardId, Ticket)>;

/// Every stream of a shard.
#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Outgoing connections by peer and listener.
    by_peer: HashMap<(SocketAddr, u8), ConnId, foldhash::fast::RandomState>,
    count: usize,
    egress_len: usize,
    partial_len: usize,
    /// Where the search for an idle stream goes on.
    hand: usize,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    stream: Option<Box<Stream>>,
}

/// One connection.
pub(super) struct Stream {
    pub(super) fd: OwnedFd,
    pub(super) peer: SocketAddr,
    pub(super) listener: u8,
    pub(super) state: State,
    /// A request to send is in the kernel's hands.
    pub(super) sending: bool,
    /// It stands in the list of streams with something to send.
    pub(super) dirty: bool,
    /// The peer has sent its last byte.
    pub(super) ended: bool,
    /// The earliest moment for which a look at it is scheduled.
    pub(super) look_at: Option<Instant>,
    pub(super) used_at: Instant,
    framer: Framer,
    partial: Vec<u8>,
    partial_since: Option<Instant>,
    egress: VecDeque<Outgoing>,
    egress_len: usize,
    /// Bytes of the first outgoing item that have left.
    front_sent: usize,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being opened by us.
    Connecting {
        /// The attempt.
        attempt: ConnectHandle,
        /// When it is given up.
        until: Instant,
    },
    /// Accepted from the peer.
    Accepted,
    /// Opened by us.
    Connected,
    /// Its input is lost: an answer may still leave, then it is closed.
    Closing {
        /// When it is closed at the latest.
        until: Instant,
        /// Nothing more will be sent; the peer's end is awaited.
        said_all: bool,
    },
}

struct Outgoing {
    bytes: Bytes,
    origin: Origin,
}

/// What became of bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Enqueued {
    /// They wait; the stream is to be flushed if this is true.
    Waiting {
        /// The stream was not yet in the list of those to flush.
        newly_dirty: bool,
    },
    /// The connection does not exist any more or takes nothing more.
    Gone(Bytes),
    /// Too much waits already.
    Full,
}

/// What became of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ingested {
    /// Go on.
    Fine,
    /// Message boundaries are lost after a header section that may be answered.
    LastAnswer,
    /// The connection is of no use any more.
    Close(Counter),
}

/// What a look at a stream found to be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It is to be closed, for this reason.
    Close(Counter),
    /// Nothing before this moment.
    Later(Instant),
    /// Nothing at all.
    Never,
}

impl Streams {
    /// Takes a connection in, or gives it back when there are too many.
    pub(super) fn insert(&mut self, stream: Box<Stream>) -> Result<ConnId, Box<Stream>> {
        if self.count >= STREAM_COUNT_MAX {
            return Err(stream);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        debug_assert!(entry.stream.is_none(), "a free slot is empty");
        let conn = ConnId { slot, generation: entry.generation };
        if matches!(stream.state, State::Connecting { .. }) {
            self.by_peer.insert((stream.peer, stream.listener), conn);
        }
        entry.stream = Some(stream);
        self.count += 1;
        Ok(conn)
    }

    /// The connection, unless it is gone and its slot free or another's.
    pub(super) fn find(&mut self, conn: ConnId) -> Option<&mut Stream> {
        let slot = self.slots.get_mut(conn.slot as usize)?;
        if slot.generation != conn.generation {
            return None;
        }
        slot.stream.as_deref_mut()
    }

    /// All connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter().filter_map(|slot| slot.stream.as_deref())
    }

    /// The id of the connection that will be inserted next.
    pub(super) fn next_id(&self) -> ConnId {
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        ConnId { slot, generation: self.slots.get(slot as usize).map_or(0, |entry| entry.generation) }
    }

    /// An outgoing connection to a peer, open or being opened.
    pub(super) fn outgoing(&self, peer: SocketAddr, listener: u8) -> Option<ConnId> {
        self.by_peer.get(&(peer, listener)).copied()
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Box<Stream>> {
        let slot = self.slots.get_mut(conn.slot as usize).filter(|slot| slot.generation == conn.generation)?;
        let stream = slot.stream.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(conn.slot);
        self.count -= 1;
        self.egress_len -= stream.egress_len;
        self.partial_len -= stream.partial.len();
        self.forget_peer(&stream, conn);
        Some(stream)
    }

    /// Makes sure that nothing new is sent on a connection.
    pub(super) fn retire(&mut self, conn: ConnId) {
        if let Some(stream) = self.find(conn) {
            let key = (stream.peer, stream.listener);
            if self.by_peer.get(&key) == Some(&conn) {
                self.by_peer.remove(&key);
            }
        }
    }

    fn forget_peer(&mut self, stream: &Stream, conn: ConnId) {
        let key = (stream.peer, stream.listener);
        if self.by_peer.get(&key) == Some(&conn) {
            self.by_peer.remove(&key);
        }
    }

    /// Puts bytes at the end of what waits to leave.
    pub(super) fn enqueue(&mut self, conn: ConnId, bytes: Bytes, origin: Origin, now: Instant) -> Enqueued {
        let shard_egress_len = self.egress_len;
        let Some(stream) = self.find(conn).filter(|stream| stream.takes_output()) else { return Enqueued::Gone(bytes) };
        let len = stream.egress_len + bytes.len();
        if len > STREAM_EGRESS_LEN_MAX
            || (stream.egress_len > 0 && shard_egress_len + bytes.len() > SHARD_EGRESS_LEN_MAX)
        {
            return Enqueued::Full;
        }
        stream.egress_len = len;
        stream.used_at = now;
        let added = bytes.len();
        stream.egress.push_back(Outgoing { bytes, origin });
        let newly_dirty = !std::mem::replace(&mut stream.dirty, true);
        self.egress_len += added;
        Enqueued::Waiting { newly_dirty }
    }

    /// Takes off what has left; true when nothing more waits.
    pub(super) fn sent(&mut self, conn: ConnId, len: usize, now: Instant) -> bool {
        let Some(stream) = self.find(conn) else { return false };
        stream.sending = false;
        stream.used_at = now;
        debug_assert!(len <= stream.egress_len, "no more leaves than waits");
        stream.egress_len -= len;
        let mut sent = stream.front_sent + len;
        while let Some(front) = stream.egress.front()
            && front.bytes.len() <= sent
        {
            sent -= front.bytes.len();
            stream.egress.pop_front();
        }
        stream.front_sent = sent;
        let idle = stream.egress.is_empty();
        if idle && stream.egress.capacity() > EGRESS_KEPT_COUNT {
            stream.egress = VecDeque::new();
        }
        self.egress_len -= len;
        idle
    }

    /// Cuts received bytes into messages and hands each to `deliver`; answers keep-alives through `pings`.
    pub(super) fn ingest(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        now: Instant,
        pings: &mut usize,
        deliver: impl FnMut(&[u8]),
    ) -> Ingested {
        let shard_partial_len = self.partial_len;
        let Some(stream) = self.find(conn) else { return Ingested::Fine };
        let before = stream.partial.len();
        let mut ingested = stream.ingest(bytes, now, pings, deliver);
        let after = stream.partial.len();
        if after > before && shard_partial_len + after > SHARD_PARTIAL_LEN_MAX {
            ingested = Ingested::Close(Counter::StreamSlow);
        }
        self.partial_len = shard_partial_len + after - before;
        ingested
    }

    /// An accepted connection that does nothing at the moment, the longest idle of a sample.
    pub(super) fn idle_accepted(&mut self) -> Option<ConnId> {
        let mut oldest: Option<(Instant, ConnId)> = None;
        for _ in 0..IDLE_SAMPLE_COUNT.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &self.slots[self.hand];
            let Some(stream) = slot.stream.as_deref() else { continue };
            let idle = stream.state == State::Accepted && stream.egress.is_empty() && stream.partial.is_empty();
            if idle && oldest.is_none_or(|(used_at, _)| stream.used_at < used_at) {
                oldest = Some((stream.used_at, ConnId { slot: self.hand as u32, generation: slot.generation }));
            }
        }
        oldest.map(|(_, conn)| conn)
    }

    /// Open connections.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Bytes that wait to leave.
    pub(super) const fn egress_len(&self) -> usize {
        self.egress_len
    }
}

impl Stream {
    /// A connection in this state, with nothing received and nothing to send.
    pub(super) fn new(fd: OwnedFd, peer: SocketAddr, listener: u8, state: State, now: Instant) -> Box<Self> {
        Box::new(Self {
            fd,
            peer,
            listener,
            state,
            sending: false,
            dirty: false,
            ended: false,
            look_at: None,
            used_at: now,
            framer: Framer::default(),
            partial: Vec::new(),
            partial_since: None,
            egress: VecDeque::new(),
            egress_len: 0,
            front_sent: 0,
        })
    }

    fn takes_output(&self) -> bool {
        !self.ended && !matches!(self.state, State::Closing { said_all: true, .. })
    }

    /// True when something waits that may be given to the kernel.
    pub(super) fn wants_flush(&self) -> bool {
        !self.sending && !self.egress.is_empty() && !matches!(self.state, State::Connecting { .. })
    }

    /// True when nothing waits to leave.
    pub(super) fn is_silent(&self) -> bool {
        self.egress.is_empty()
    }

    /// What the next request sends.
    pub(super) fn batch(&self) -> impl Iterator<Item = Bytes> {
        let mut skip = self.front_sent;
        self.egress.iter().take(BATCH_COUNT_MAX).map(move |item| item.bytes.slice(std::mem::take(&mut skip)..))
    }

    /// The socket, to be closed, and whom to tell that bytes did not leave.
    pub(super) fn into_parts(self) -> (OwnedFd, impl Iterator<Item = (ShardId, Ticket)>) {
        (self.fd, self.egress.into_iter().filter_map(|item| item.origin))
    }

    fn ingest(&mut self, bytes: &[u8], now: Instant, pings: &mut usize, mut deliver: impl FnMut(&[u8])) -> Ingested {
        if matches!(self.state, State::Closing { .. }) {
            return Ingested::Fine;
        }
        self.used_at = now;
        let mut rest = bytes;
        loop {
            // A message that began in an earlier buffer is completed in `partial`; others stay where they are.
            let earlier = self.partial.len();
            let frame = if earlier == 0 {
                self.framer.next(rest)
            } else {
                let wanted = self.framer.total().map_or(rest.len(), |total| total - earlier);
                self.partial.extend_from_slice(&rest[..wanted.min(rest.len())]);
                self.framer.next(&self.partial)
            };
            let front = if earlier == 0 { rest } else { self.partial.as_slice() };
            let len = match frame {
                Frame::Incomplete => {
                    if earlier == 0 && !rest.is_empty() {
                        self.partial.reserve_exact(self.framer.total().unwrap_or(rest.len()));
                        self.partial.extend_from_slice(rest);
                    }
                    self.partial_since = match self.partial.is_empty() {
                        true => None,
                        false => self.partial_since.or(Some(now)),
                    };
                    return Ingested::Fine;
                }
                Frame::Ping { len } => {
                    *pings += 1;
                    len
                }
                Frame::Blank { len } => len,
                Frame::Message { len } => {
                    deliver(&front[..len]);
                    len
                }
                Frame::Unframed { len } => {
                    deliver(&front[..len]);
                    self.forget_partial();
                    return Ingested::LastAnswer;
                }
                Frame::TooLarge => return Ingested::Close(Counter::StreamFraming),
            };
            debug_assert!(len > earlier, "what was incomplete ends in the new bytes");
            self.forget_partial();
            rest = &rest[len - earlier..];
        }
    }

    fn forget_partial(&mut self) {
        self.partial_since = None;
        if self.partial.capacity() > 0 {
            // Idle connections keep no memory.
            self.partial = Vec::new();
        }
    }

    /// What is due on this connection.
    pub(super) fn due(&self, now: Instant) -> Due {
        let mut earliest: Option<(Instant, Counter)> = None;
        let mut consider = |at: Instant, reason| {
            if earliest.is_none_or(|(before, _)| at < before) {
                earliest = Some((at, reason));
            }
        };
        match self.state {
            State::Connecting { until, .. } => consider(until, Counter::StreamRefused),
            State::Closing { until, .. } => consider(until, Counter::StreamFraming),
            State::Connected if self.egress.is_empty() => consider(self.used_at + IDLE_TIME, Counter::StreamClosed),
            State::Connected | State::Accepted => {}
        }
        if let Some(since) = self.partial_since {
            consider(since + Duration::from_secs(STREAM_MESSAGE_SECONDS_MAX), Counter::StreamSlow);
        }
        if self.sending {
            consider(self.used_at + STALL_TIME, Counter::StreamFull);
        }
        match earliest {
            None => Due::Never,
            Some((at, reason)) if at <= now => Due::Close(reason),
            Some((at, _)) => Due::Later(at),
        }
    }
}

/// An outgoing connection that nobody uses is closed after this time.
const IDLE_TIME: Duration = Duration::from_secs(300);
/// A peer that takes nothing for this long while something is sent to it is given up.
const STALL_TIME: Duration = Duration::from_secs(64);
const IDLE_SAMPLE_COUNT: usize = 64;
const EGRESS_KEPT_COUNT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"MESSAGE sip:b@x SIP/2.0\r\nl: 5\r\n\r\nhello";

    #[test]
    fn messages_are_the_same_however_the_bytes_are_cut() {
        let stream: Vec<u8> = [MESSAGE, b"\r\n\r\n", MESSAGE, MESSAGE].concat();
        for cut in 1..stream.len() {
            let mut streams = Streams::default();
            let conn = streams.insert(accepted()).map_err(drop).unwrap();
            let (mut pings, mut messages) = (0, Vec::new());
            for piece in stream.chunks(cut) {
                let ingested =
                    streams.ingest(conn, piece, Instant(1), &mut pings, |message| messages.push(message.to_vec()));
                assert_eq!(ingested, Ingested::Fine);
            }
            assert_eq!(messages, [MESSAGE; 3], "cut into {cut}");
            assert_eq!(pings, 1);
            assert_eq!(streams.partial_len, 0);
            assert_eq!(streams.find(conn).unwrap().partial.capacity(), 0, "an idle connection keeps no memory");
        }
    }

    #[test]
    fn a_message_that_does_not_complete_is_due_counted_from_its_first_byte() {
        let mut streams = Streams::default();
        let conn = streams.insert(accepted()).map_err(drop).unwrap();
        let second = |count| Instant::ZERO + Duration::from_secs(count);
        for (index, byte) in MESSAGE[..20].iter().enumerate() {
            streams.ingest(conn, &[*byte], second(index as u64), &mut 0, |_| {});
        }
        let stream = streams.find(conn).unwrap();
        assert_eq!(stream.due(second(29)), Due::Later(second(30)));
        assert_eq!(stream.due(second(30)), Due::Close(Counter::StreamSlow));
        streams.ingest(conn, &MESSAGE[20..], second(31), &mut 0, |_| {});
        assert_eq!(streams.find(conn).unwrap().due(second(1000)), Due::Never, "idle connections may stay");
    }

    #[test]
    fn a_short_write_goes_on_where_it_stopped() {
        let mut streams = Streams::default();
        let conn = streams.insert(accepted()).map_err(drop).unwrap();
        for text in ["abc", "defg", "hi"] {
            streams.enqueue(conn, Bytes::from(text), None, Instant(0));
        }
        assert!(!streams.sent(conn, 4, Instant(0)));
        let rest: Vec<Bytes> = streams.find(conn).unwrap().batch().collect();
        assert_eq!(rest, ["efg", "hi"]);
        assert!(!streams.sent(conn, 1, Instant(0)));
        let rest: Vec<Bytes> = streams.find(conn).unwrap().batch().collect();
        assert_eq!(rest, ["fg", "hi"]);
        assert!(streams.sent(conn, 4, Instant(0)));
        assert_eq!(streams.egress_len(), 0);
    }

    #[test]
    fn a_backlog_is_bounded_and_what_did_not_leave_is_told() {
        let mut streams = Streams::default();
        let conn = streams.insert(accepted()).map_err(drop).unwrap();
        let origin = |ticket| Some((ShardId(0), Ticket(ticket)));
        let block = Bytes::from(vec![0; STREAM_EGRESS_LEN_MAX / 2]);
        let first = streams.enqueue(conn, block.clone(), origin(1), Instant(0));
        assert_eq!(first, Enqueued::Waiting { newly_dirty: true });
        assert_eq!(
            streams.enqueue(conn, block.clone(), origin(2), Instant(0)),
            Enqueued::Waiting { newly_dirty: false }
        );
        assert_eq!(streams.enqueue(conn, block, origin(3), Instant(0)), Enqueued::Full);
        let told: Vec<_> = streams.remove(conn).unwrap().into_parts().1.collect();
        assert_eq!(told, [(ShardId(0), Ticket(1)), (ShardId(0), Ticket(2))]);
        assert_eq!((streams.egress_len(), streams.count()), (0, 0));
    }

    #[test]
    fn a_stale_id_finds_nothing_even_when_its_slot_is_in_use() {
        let mut streams = Streams::default();
        let old = streams.insert(accepted()).map_err(drop).unwrap();
        streams.remove(old).unwrap();
        assert_eq!(streams.next_id(), ConnId { slot: old.slot, generation: old.generation + 1 });
        let new = streams.insert(accepted()).map_err(drop).unwrap();
        assert_eq!(new.slot, old.slot);
        assert!(streams.find(old).is_none() && streams.remove(old).is_none());
        let bytes = Bytes::from_static(b"x");
        assert_eq!(streams.enqueue(old, bytes.clone(), None, Instant(0)), Enqueued::Gone(bytes));
        assert!(streams.find(new).unwrap().is_silent());
    }

    #[test]
    fn the_longest_idle_accepted_connection_makes_room() {
        let mut streams = Streams::default();
        let conns: Vec<ConnId> = (0..5).map(|_| streams.insert(accepted()).map_err(drop).unwrap()).collect();
        for (index, conn) in conns.iter().enumerate() {
            streams.find(*conn).unwrap().used_at = Instant(100 - index as u64);
        }
        streams.enqueue(conns[4], Bytes::from_static(b"x"), None, Instant(3));
        assert_eq!(streams.idle_accepted(), Some(conns[3]), "the last one has something to send");
    }

    fn accepted() -> Box<Stream> {
        let (fd, _) = std::os::unix::net::UnixStream::pair().unwrap();
        Stream::new(fd.into(), "127.0.0.1:5060".parse().unwrap(), 0, State::Accepted, Instant(0))
    }
}
