//! Connections of one shard: what arrives on each, what leaves, and who is not read from.

use super::effect::MediaEffect;
use super::egress::{Egress, Spare};
use super::framer::Framer;
use super::news::{Counts, SessionId, Side};
use super::repeat::Pattern;
use crate::base::id::ConnId;
use crate::base::limits::{MSRP_CONNECTION_COUNT_MAX, MSRP_EGRESS_HIGH, MSRP_EGRESS_LOW};
use crate::base::slots::SlotId;
use crate::base::time::Instant;
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// One side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegRef {
    /// The session.
    pub id: SessionId,
    /// The side.
    pub side: Side,
}

/// What becomes of the chunk that is arriving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ingress {
    /// Nothing: it was dealt with at its head, or is ignored.
    #[default]
    Drop,
    /// It goes on to the terminating side.
    Forward(SessionId),
    /// It goes to the spool.
    Spool(SessionId),
    /// It is answered at its end, by these bytes.
    Answer(Box<[u8]>),
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The peer opened it.
    Accepted,
    /// It was opened here.
    Connected {
        /// The attempt's address and interface, by which further sessions find it.
        to: SocketAddr,
        /// Index of the listening address.
        listener: u8,
    },
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnId,
    /// Who opened it.
    pub origin: Origin,
    /// Absent while its bytes are being taken apart.
    pub framer: Option<Box<Framer>>,
    /// What waits to leave.
    pub egress: Egress,
    /// What becomes of the chunk that is arriving.
    pub ingress: Ingress,
    /// Sides of sessions that are joined to it.
    pub legs: SmallVec<[LegRef; 1]>,
    /// Whose paths the last request had.
    pub route: Option<LegRef>,
    /// What the head of the next chunk has in common with that of the last one.
    pub pattern: Option<Box<Pattern>>,
    /// Whose chunk is open in its output.
    pub open: Option<SessionId>,
    /// The open chunk may be ended with `+` at any place.
    pub is_interruptible: bool,
    /// It waits in the list of those that have something to send.
    pub is_listed: bool,
    /// Reading was stopped.
    pub is_paused: bool,
    /// It was given up; what waits leaves.
    pub is_closing: bool,
    /// How many receivers, its sessions' or its own, are too slow for it.
    pub throttle_count: u16,
    /// When the wheel looks at it next.
    pub armed: Option<Instant>,
    /// When the last session left it, or when it was opened.
    pub unused_since: Instant,
    /// What few connections need.
    pub extra: Option<Box<Extra>>,
}

/// What few connections need.
#[derive(Debug, Default)]
pub struct Extra {
    /// Whole responses and reports that wait for the end of the open chunk.
    pub later: Vec<u8>,
    /// Connections that are not read from because this one is slow.
    pub throttled: Vec<ConnId>,
    /// Connections that wait for the end of the open chunk.
    pub waiters: Vec<ConnId>,
    /// Input that cannot be passed on yet.
    pub held: Option<Held>,
}

/// Input that waits for its session.
#[derive(Debug)]
pub struct Held {
    /// The head of the chunk that waits; empty when it was looked at again.
    pub head: Vec<u8>,
    /// All behind it.
    pub input: VecDeque<Bytes>,
    /// Its length.
    pub len: usize,
}

impl Connection {
    fn new(id: ConnId, origin: Origin, now: Instant) -> Self {
        Self {
            id,
            origin,
            framer: Some(Box::default()),
            egress: Egress::default(),
            ingress: Ingress::Drop,
            legs: SmallVec::new(),
            route: None,
            pattern: None,
            open: None,
            is_interruptible: false,
            is_listed: false,
            is_paused: false,
            is_closing: false,
            throttle_count: 0,
            armed: None,
            unused_since: now,
            extra: None,
        }
    }

    /// What few connections need. RFC 4975 §7.1.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_with(Box::default)
    }

    /// Whether input waits. RFC 4975 §7.1.
    pub fn is_held(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.held.is_some())
    }

    /// Frees what an idle connection does not need. RFC 4975 §5.1.
    pub fn rest(&mut self) {
        if let Some(framer) = self.framer.as_mut().filter(|framer| framer.is_idle()) {
            framer.forget();
            self.route = None;
            self.pattern = None;
        }
        self.tidy();
    }

    /// Frees what is not needed any more. RFC 4975 §7.1.
    pub fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| {
            extra.held.is_none() && extra.later.is_empty() && extra.throttled.is_empty() && extra.waiters.is_empty()
        }) {
            self.extra = None;
        }
    }
}

/// All connections, and what is said about them.
#[derive(Debug, Default)]
pub struct Net {
    table: Vec<Option<Box<Connection>>>,
    count: usize,
    /// Buffers that go round.
    pub spare: Spare,
    dirty: VecDeque<ConnId>,
    /// For the shard.
    pub effects: VecDeque<MediaEffect>,
    /// Connections that the shard was told to close.
    pub closing: Vec<ConnId>,
    /// Connections whose held input may go on.
    pub releases: Vec<ConnId>,
    /// What happened.
    pub counts: Counts,
}

impl Net {
    /// Takes a connection in; `None` when there is no room. RFC 4975 §5.4.
    pub fn insert(&mut self, id: ConnId, origin: Origin, now: Instant) -> Option<&mut Connection> {
        let slot = id.slot as usize;
        if slot >= MSRP_CONNECTION_COUNT_MAX
            || self.table.get(slot).is_some_and(|entry| entry.as_ref().is_some_and(|connection| !connection.is_closing))
        {
            return None;
        }
        if slot >= self.table.len() {
            self.table.resize_with(slot + 1, || None);
        }
        // Whoever had the slot before is gone: the shard gives it out anew.
        self.remove_at(slot);
        self.count += 1;
        Some(self.table[slot].insert(Box::new(Connection::new(id, origin, now))))
    }

    /// A connection. RFC 4975 §5.4.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        self.table.get(id.slot as usize)?.as_deref().filter(|connection| connection.id == id)
    }

    /// A connection, to change. RFC 4975 §5.4.
    #[inline]
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.table.get_mut(id.slot as usize)?.as_deref_mut().filter(|connection| connection.id == id)
    }

    /// Drops a connection that has ended. RFC 4975 §5.4.
    pub fn remove(&mut self, id: ConnId) {
        if self.get(id).is_some() {
            self.remove_at(id.slot as usize);
        }
    }

    fn remove_at(&mut self, slot: usize) {
        let Some(mut connection) = self.table[slot].take() else { return };
        self.count -= 1;
        connection.egress.discard();
        connection.egress.release(&mut self.spare);
        if let Some(extra) = connection.extra {
            self.unthrottle(extra.throttled);
            self.releases.extend(extra.waiters);
        }
    }

    /// Asks the shard to close a connection when what waits has left. Nothing more is taken from it. RFC 4975 §5.4.
    pub fn close(&mut self, id: ConnId) {
        let Some(connection) = self.get_mut(id) else { return };
        if connection.is_closing {
            return;
        }
        connection.is_closing = true;
        connection.ingress = Ingress::Drop;
        connection.legs.clear();
        connection.open = None;
        let is_empty = connection.egress.waiting_len() == 0;
        if let Some(extra) = connection.extra.take() {
            self.unthrottle(extra.throttled);
            self.releases.extend(extra.waiters);
        }
        self.effects.push_back(MediaEffect::Close(id));
        if is_empty {
            self.remove(id);
        }
    }

    /// Appends to a connection's output. RFC 4975 §7.1.
    #[inline]
    pub fn write<const N: usize>(&mut self, id: ConnId, parts: [&[u8]; N]) -> Option<&mut Connection> {
        let connection =
            self.table.get_mut(id.slot as usize)?.as_deref_mut().filter(|connection| connection.id == id)?;
        connection.egress.write(&mut self.spare, parts);
        if !connection.is_listed {
            connection.is_listed = true;
            self.dirty.push_back(id);
        }
        Some(connection)
    }

    /// Appends to a connection's output without copying. RFC 4975 §7.1.
    pub fn share(&mut self, id: ConnId, bytes: Bytes) -> Option<&mut Connection> {
        let connection = self.table.get_mut(id.slot as usize)?.as_deref_mut().filter(|found| found.id == id)?;
        connection.egress.share(&mut self.spare, bytes);
        if !connection.is_listed {
            connection.is_listed = true;
            self.dirty.push_back(id);
        }
        Some(connection)
    }

    /// A connection's output, when no chunk is open in it. Whoever writes tells [`Net::list`]. RFC 4975 §7.1.
    #[inline]
    pub fn output(&mut self, id: ConnId) -> Option<Output<'_>> {
        let connection = self.table.get_mut(id.slot as usize)?.as_deref_mut()?;
        let is_free = connection.id == id && connection.open.is_none();
        is_free.then_some(Output { egress: &mut connection.egress, spare: &mut self.spare })
    }

    /// Sends a whole response or REPORT: behind the open chunk, if there is one. False when there is too much of that.
    ///
    /// RFC 4975 §5.1.
    #[inline]
    pub fn say<const N: usize>(&mut self, id: ConnId, parts: [&[u8]; N]) -> bool {
        let Some(connection) =
            self.table.get_mut(id.slot as usize).and_then(|entry| entry.as_deref_mut()).filter(|found| found.id == id)
        else {
            return false;
        };
        if connection.open.is_none() {
            connection.egress.write(&mut self.spare, parts);
            if !connection.is_listed {
                connection.is_listed = true;
                self.dirty.push_back(id);
            }
            return true;
        }
        let later = &mut connection.extra().later;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if later.len() + len > MSRP_EGRESS_HIGH {
            return false;
        }
        later.reserve(len);
        for part in parts {
            later.extend_from_slice(part);
        }
        self.list(id);
        true
    }

    /// Puts a connection among those that have something to send. RFC 4975 §7.1.
    pub fn list(&mut self, id: ConnId) {
        let Some(connection) = self.get_mut(id) else { return };
        if !connection.is_listed {
            connection.is_listed = true;
            self.dirty.push_back(id);
        }
    }

    /// The chunk in a connection's output has ended: what waited for that goes on. RFC 4975 §5.1.
    #[cold]
    pub fn after_chunk(&mut self, id: ConnId) {
        let Some(extra) = self.get_mut(id).and_then(|connection| connection.extra.as_mut()) else { return };
        let later = std::mem::take(&mut extra.later);
        let waiters = std::mem::take(&mut extra.waiters);
        if !later.is_empty() {
            self.write(id, [&later]);
        }
        self.releases.extend(waiters);
    }

    /// The next connection that has something to send. RFC 4975 §7.1.
    pub fn poll_dirty(&mut self) -> Option<ConnId> {
        loop {
            let id = self.dirty.pop_front()?;
            let Some(connection) = self.get_mut(id) else { continue };
            connection.is_listed = false;
            if connection.egress.waiting_len() > 0 || connection.extra.is_some() {
                return Some(id);
            }
        }
    }

    /// Stops reading from `source` while `slow` has too much waiting. RFC 4975 §5.1.
    #[cold]
    pub fn throttle(&mut self, slow: ConnId, source: ConnId) {
        let Some(throttled) = self.get_mut(slow).map(|connection| &mut connection.extra().throttled) else { return };
        if throttled.contains(&source) {
            return;
        }
        throttled.push(source);
        if let Some(connection) = self.get_mut(source) {
            connection.throttle_count += 1;
        }
        self.counts.paused += 1;
        self.settle_reading(source);
    }

    /// True when those who fill a connection must stop. RFC 4975 §5.1.
    #[inline]
    pub fn is_high(connection: &Connection) -> bool {
        connection.egress.len() > MSRP_EGRESS_HIGH
    }

    /// Notes that bytes left. RFC 4975 §7.1.
    pub fn on_sent(&mut self, id: ConnId, len: usize) {
        let Some(connection) =
            self.table.get_mut(id.slot as usize).and_then(|entry| entry.as_deref_mut()).filter(|found| found.id == id)
        else {
            return;
        };
        connection.egress.on_sent(&mut self.spare, len);
        if connection.egress.waiting_len() > 0 && !connection.is_listed {
            connection.is_listed = true;
            self.dirty.push_back(id);
        }
        if connection.is_closing && connection.egress.is_empty() {
            return self.remove(id);
        }
        if connection.extra.is_some() && connection.egress.len() < MSRP_EGRESS_LOW {
            let throttled = std::mem::take(&mut connection.extra().throttled);
            connection.tidy();
            self.unthrottle(throttled);
        }
    }

    fn unthrottle(&mut self, sources: Vec<ConnId>) {
        for source in sources {
            if let Some(connection) = self.get_mut(source) {
                connection.throttle_count = connection.throttle_count.saturating_sub(1);
                self.settle_reading(source);
            }
        }
    }

    /// Adds or takes away a reason of one's own not to read. RFC 4975 §5.1.
    pub fn restrain(&mut self, id: ConnId, is_slow: bool) {
        if let Some(connection) = self.get_mut(id) {
            let count = connection.throttle_count;
            connection.throttle_count = if is_slow { count + 1 } else { count.saturating_sub(1) };
            self.counts.paused += u64::from(is_slow);
            self.settle_reading(id);
        }
    }

    /// Tells the shard whether to read, if that changed. RFC 4975 §5.1.
    pub fn settle_reading(&mut self, id: ConnId) {
        let Some(connection) = self.get_mut(id) else { return };
        let is_paused = connection.throttle_count > 0 || connection.is_held();
        if is_paused == connection.is_paused || connection.is_closing {
            return;
        }
        connection.is_paused = is_paused;
        self.effects.push_back(if is_paused { MediaEffect::Pause(id) } else { MediaEffect::Resume(id) });
    }

    /// Connections. RFC 4975 §5.4.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Every connection. RFC 4975 §5.4.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.table.iter().flatten().map(AsRef::as_ref)
    }
}

/// What leaves on one connection, to be appended to several times.
pub struct Output<'n> {
    egress: &'n mut Egress,
    spare: &'n mut Spare,
}

impl Output<'_> {
    /// Appends. RFC 4975 §7.1.
    #[inline]
    pub fn write<const N: usize>(&mut self, parts: [&[u8]; N]) {
        self.egress.write(self.spare, parts);
    }

    /// The place behind what was appended last. RFC 4975 §7.1.
    #[inline]
    pub fn end_position(&self) -> u64 {
        self.egress.end_position()
    }

    /// True when those who fill it must stop. RFC 4975 §5.1.
    pub fn is_high(&self) -> bool {
        self.egress.len() > MSRP_EGRESS_HIGH
    }
}

/// An attempt to open a connection, packed for the way to the shard and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketParts {
    /// The attempt.
    pub id: SlotId,
    /// Which of its tries.
    pub try_count: u16,
}

impl TicketParts {
    /// Packs it. RFC 4975 §5.4.
    pub fn pack(self) -> super::effect::ConnectTicket {
        super::effect::ConnectTicket(
            u64::from(self.id.generation) << 32 | u64::from(self.try_count & 0xfff) << 20 | u64::from(self.id.slot),
        )
    }

    /// Unpacks it. RFC 4975 §5.4.
    pub const fn unpack(ticket: super::effect::ConnectTicket) -> Self {
        let slot = (ticket.0 & 0xf_ffff) as u32;
        Self { id: SlotId { slot, generation: (ticket.0 >> 32) as u32 }, try_count: (ticket.0 >> 20 & 0xfff) as u16 }
    }
}

#[cfg(test)]
impl Connection {
    /// Bytes behind the connection's pointers.
    pub(super) fn heap_len(&self) -> usize {
        let framer = self.framer.as_ref().map_or(0, |framer| size_of::<Framer>() + framer.heap_len());
        let pattern = self.pattern.as_ref().map_or(0, |pattern| size_of::<Pattern>() + pattern.heap_len());
        framer + pattern + self.extra.as_ref().map_or(0, |_| size_of::<Extra>()) + self.egress.len()
    }
}
