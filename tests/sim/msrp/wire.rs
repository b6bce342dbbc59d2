//! TCP as a model: bytes arrive in any cuts, leave in part and late, stop and go, and connections break at any byte.

use super::codec::Parser;
use super::peers::{End, Message};
use bytes::Bytes;
use ringpost::base::id::ConnId;
use ringpost::base::rng::Rng;
use ringpost::base::time::Instant;
use ringpost::msrp::effect::{ConnectTicket, MediaEffect};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The appliance, as the owner of its connections sees it.
pub trait Doors {
    fn accepted(&mut self, shard: u16, conn: ConnId, peer: SocketAddr) -> bool;
    fn connected(&mut self, shard: u16, ticket: ConnectTicket, conn: ConnId) -> bool;
    fn connect_failed(&mut self, shard: u16, ticket: ConnectTicket);
    fn closed(&mut self, shard: u16, conn: ConnId);
    fn bytes(&mut self, shard: u16, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes);
    fn sent(&mut self, shard: u16, conn: ConnId, len: usize);
    fn poll_dirty(&mut self, shard: u16) -> Option<ConnId>;
    fn take(&mut self, shard: u16, conn: ConnId, batch: &mut Vec<Bytes>);
}

/// How quickly a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    Fast,
    Slow,
    Stopped,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The peer connects, or we were asked to.
    Opening,
    Open,
    /// The appliance has done with it, and what it left to send leaves.
    Draining,
    Gone,
}

/// One connection.
pub struct Wire {
    pub shard: u16,
    pub conn: ConnId,
    /// The peer's address.
    pub host: SocketAddr,
    pub by_peer: bool,
    pub state: State,
    pub speed: Speed,
    ticket: Option<ConnectTicket>,
    /// From the peer, not yet received.
    up: VecDeque<u8>,
    up_due: bool,
    /// The peer sends no more.
    fin: bool,
    paused: bool,
    /// What may still be received although reading was stopped.
    late_len: usize,
    /// In the kernel's hands.
    batch: VecDeque<Bytes>,
    /// Between the kernel and the peer.
    pipe: VecDeque<u8>,
    down_due: bool,
    /// When the peer took something last.
    progress_at: Instant,
    is_watched: bool,
    pub parser: Parser,
    /// Transaction ids of the appliance's requests.
    pub tids: HashSet<String>,
    /// Sessions that the peer uses it for.
    pub ends: BTreeSet<usize>,
    pub sent_garbage: bool,
}

impl Wire {
    /// The peer can send.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, State::Opening | State::Open) && !self.fin
    }

    /// What waits in the peer's socket.
    pub fn backlog(&self) -> usize {
        self.up.len()
    }

    /// Something waits for the peer to read it.
    pub fn is_unread(&self) -> bool {
        !self.batch.is_empty() || !self.pipe.is_empty()
    }

    pub const fn is_paused(&self) -> bool {
        self.paused
    }
}

/// What can happen to connections and peers.
pub enum Happening {
    Up(usize),
    Down(usize),
    Opened(usize, bool),
    Fin(usize),
    /// Whether the peer took something lately.
    Stall(usize),
    Speed(usize, Speed),
    /// The peer of a session sends something.
    Emit(usize),
    /// The peer connects.
    Dial(usize),
    /// A response or report leaves the peer.
    Say {
        wire: usize,
        end: usize,
        bytes: Vec<u8>,
        meaning: Meaning,
    },
}

/// What a response of a peer says.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// A failure, or a report.
    Other,
    /// The appliance's binding is fine.
    Binds,
    /// The peer has these bytes of a message.
    Has { message: usize, start: usize, end: usize },
}

struct Timed {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// How bad the network is; odds are in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// A connection breaks, asked at every look at it.
    pub reset: u64,
    pub connect_fails: u64,
    pub connect_hangs: u64,
    /// A connection is read slowly from its beginning.
    pub slow: u64,
    /// A connection is not read for a while, asked at its beginning.
    pub stops: u64,
    /// A peer sends what is no MSRP, asked at every message.
    pub garbage: u64,
}

/// All connections and the peers at their other ends.
pub struct Media {
    pub rng: Rng,
    pub now: Instant,
    pub trouble: Trouble,
    /// A session may have ended without its peers knowing.
    pub is_sip_slow: bool,
    pub wires: Vec<Wire>,
    pub ends: Vec<End>,
    pub end_of: HashMap<String, usize>,
    pub messages: Vec<Message>,
    /// Message-IDs that the appliance gave.
    pub aliases: HashMap<String, usize>,
    pub trace: VecDeque<String>,
    heap: BinaryHeap<Reverse<Timed>>,
    order: u64,
    free: Vec<Vec<ConnId>>,
    slot_counts: Vec<u32>,
    /// Bytes of receive buffers that somebody holds.
    pub alive: Arc<AtomicUsize>,
    pub counts: Counts,
}

/// What a run saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub chunks: u64,
    pub completed: u64,
    pub aborted: u64,
    pub refused: u64,
    pub resets: u64,
    pub pauses: u64,
    pub reports: u64,
    pub closed_by_relay: u64,
    pub bytes: u64,
    pub failed_connects: u64,
    pub egress_max: u64,
    pub alive_max: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.completed += other.completed;
        self.aborted += other.aborted;
        self.refused += other.refused;
        self.resets += other.resets;
        self.pauses += other.pauses;
        self.reports += other.reports;
        self.closed_by_relay += other.closed_by_relay;
        self.bytes += other.bytes;
        self.failed_connects += other.failed_connects;
        self.egress_max = self.egress_max.max(other.egress_max);
        self.alive_max = self.alive_max.max(other.alive_max);
    }
}

/// Bytes of a receive buffer, counted as long as they live.
struct Counted {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Media {
    pub fn new(rng: Rng, shard_count: u16, trouble: Trouble) -> Self {
        Self {
            rng,
            now: Instant::ZERO,
            trouble,
            is_sip_slow: false,
            wires: Vec::new(),
            ends: Vec::new(),
            end_of: HashMap::new(),
            messages: Vec::new(),
            aliases: HashMap::new(),
            trace: VecDeque::new(),
            heap: BinaryHeap::new(),
            order: 0,
            free: vec![Vec::new(); usize::from(shard_count)],
            slot_counts: vec![0; usize::from(shard_count)],
            alive: Arc::default(),
            counts: Counts::default(),
        }
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() == TRACE_LEN {
            self.trace.pop_front();
        }
        let text = line();
        self.trace.push_back(format!("{:>10.4}s {text}", self.now.0 as f64 / 1e9));
    }

    pub fn chance(&mut self, thousandths: u64) -> bool {
        thousandths > 0 && self.rng.below(1000) < thousandths
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound.max(1) as u64) as usize
    }

    pub fn at(&mut self, at: Instant, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Timed { at, order: self.order, what }));
    }

    pub fn soon(&mut self, max: Duration, what: Happening) {
        let at = self.now + Duration::from_micros(1 + self.rng.below(max.as_micros().max(1) as u64));
        self.at(at, what);
    }

    pub fn next_time(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(timed)| timed.at)
    }

    /// One thing that is due happens; false when nothing is.
    pub fn step(&mut self, doors: &mut dyn Doors) -> bool {
        if self.next_time().is_none_or(|at| at > self.now) {
            return false;
        }
        let Some(Reverse(timed)) = self.heap.pop() else { return false };
        match timed.what {
            Happening::Up(wire) => self.up(wire, doors),
            Happening::Down(wire) => self.down(wire, doors),
            Happening::Opened(wire, is_open) => self.opened(wire, is_open, doors),
            Happening::Fin(wire) => self.fin(wire),
            Happening::Stall(wire) => self.on_stall(wire, doors),
            Happening::Speed(wire, speed) => {
                self.wires[wire].speed = speed;
                self.schedule_down(wire);
            }
            Happening::Emit(end) => self.emit(end),
            Happening::Dial(end) => self.dial(end),
            Happening::Say { wire, end, bytes, meaning } => self.say(wire, end, &bytes, meaning),
        }
        true
    }

    fn new_conn(&mut self, shard: u16) -> ConnId {
        match self.free[usize::from(shard)].pop() {
            Some(conn) => ConnId { generation: conn.generation + 1, ..conn },
            None => {
                let slot = &mut self.slot_counts[usize::from(shard)];
                *slot += 1;
                ConnId { slot: *slot - 1, generation: 0 }
            }
        }
    }

    fn new_wire(&mut self, shard: u16, host: SocketAddr, ticket: Option<ConnectTicket>) -> usize {
        let conn = self.new_conn(shard);
        let speed = if self.chance(self.trouble.slow) { Speed::Slow } else { Speed::Fast };
        let wire = self.wires.len();
        self.wires.push(Wire {
            shard,
            conn,
            host,
            by_peer: ticket.is_none(),
            state: State::Opening,
            speed,
            ticket,
            up: VecDeque::new(),
            up_due: false,
            fin: false,
            paused: false,
            late_len: 0,
            batch: VecDeque::new(),
            pipe: VecDeque::new(),
            down_due: false,
            progress_at: self.now,
            is_watched: false,
            parser: Parser::default(),
            tids: HashSet::new(),
            ends: BTreeSet::new(),
            sent_garbage: false,
        });
        if self.chance(self.trouble.stops) {
            let at = self.now + Duration::from_millis(self.rng.below(3_000));
            self.at(at, Happening::Speed(wire, Speed::Stopped));
            if self.rng.below(4) > 0 {
                let until = at + Duration::from_millis(self.rng.below(60_000));
                self.at(until, Happening::Speed(wire, Speed::Fast));
            }
        }
        wire
    }

    /// A peer connects to a shard.
    pub fn connect_from(&mut self, shard: u16, host: SocketAddr) -> usize {
        let wire = self.new_wire(shard, host, None);
        let max = if self.chance(100) { Duration::from_secs(3) } else { Duration::from_millis(5) };
        self.soon(max, Happening::Opened(wire, true));
        wire
    }

    fn find(&self, shard: u16, conn: ConnId) -> Option<usize> {
        self.wires.iter().rposition(|wire| wire.shard == shard && wire.conn == conn && wire.state == State::Open)
    }

    /// Does what the appliance asks for.
    pub fn on_effect(&mut self, shard: u16, effect: MediaEffect, doors: &mut dyn Doors) {
        match effect {
            MediaEffect::Connect { ticket, to, .. } => {
                let wire = self.new_wire(shard, to, Some(ticket));
                self.note(|| format!("wire {wire}: the relay connects to {to}"));
                if to.port() == DEAD_PORT || self.chance(self.trouble.connect_fails) {
                    self.counts.failed_connects += 1;
                    self.soon(Duration::from_millis(50), Happening::Opened(wire, false));
                } else if to.port() != MUTE_PORT && !self.chance(self.trouble.connect_hangs) {
                    let slow = self.chance(100);
                    let max = if slow { Duration::from_secs(12) } else { Duration::from_millis(10) };
                    self.soon(max, Happening::Opened(wire, true));
                }
            }
            MediaEffect::Abandon(ticket) => {
                let found = self.wires.iter().position(|wire| wire.ticket == Some(ticket) && wire.shard == shard);
                let wire = found.expect("only what was begun is given up");
                if self.wires[wire].state == State::Opening {
                    self.let_go(wire);
                }
            }
            MediaEffect::Close(conn) => {
                let Some(wire) = self.find(shard, conn) else { return };
                self.counts.closed_by_relay += 1;
                self.note(|| format!("wire {wire}: the relay closes it"));
                self.drain(wire, doors);
            }
            MediaEffect::Pause(conn) => {
                let Some(wire) = self.find(shard, conn) else { return };
                self.counts.pauses += 1;
                let late_len = self.below(LATE_LEN_MAX);
                let found = &mut self.wires[wire];
                assert!(!found.paused, "wire {wire}: paused twice");
                (found.paused, found.late_len) = (true, late_len);
                self.note(|| format!("wire {wire}: paused"));
            }
            MediaEffect::Resume(conn) => {
                let Some(wire) = self.find(shard, conn) else { return };
                let found = &mut self.wires[wire];
                assert!(found.paused, "wire {wire}: resumed, but not paused");
                found.paused = false;
                self.note(|| format!("wire {wire}: resumed"));
                self.schedule_up(wire);
            }
        }
    }

    /// Everything that waits leaves, and nothing more is heard of the connection.
    fn drain(&mut self, wire: usize, doors: &mut dyn Doors) {
        let (shard, conn) = (self.wires[wire].shard, self.wires[wire].conn);
        loop {
            let mut batch = Vec::new();
            doors.take(shard, conn, &mut batch);
            if batch.is_empty() {
                break;
            }
            self.wires[wire].batch.extend(batch);
        }
        self.wires[wire].state = State::Draining;
        if self.wires[wire].speed == Speed::Stopped {
            // What is not read in time goes with the connection.
            self.soon(Duration::from_secs(5), Happening::Speed(wire, Speed::Fast));
        }
        self.schedule_down(wire);
    }

    /// The connection is no more.
    fn let_go(&mut self, wire: usize) {
        let found = &mut self.wires[wire];
        if found.state == State::Gone {
            return;
        }
        found.state = State::Gone;
        let (shard, conn) = (found.shard, found.conn);
        (found.up, found.batch, found.pipe) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        self.free[usize::from(shard)].push(conn);
        for end in std::mem::take(&mut self.wires[wire].ends) {
            self.on_wire_gone(end, wire);
        }
    }

    fn opened(&mut self, wire: usize, is_open: bool, doors: &mut dyn Doors) {
        let found = &mut self.wires[wire];
        if found.state != State::Opening {
            return;
        }
        let (shard, conn, host) = (found.shard, found.conn, found.host);
        found.state = State::Open;
        let taken = match (found.ticket, is_open) {
            (Some(ticket), true) => doors.connected(shard, ticket, conn),
            (Some(ticket), false) => {
                self.let_go(wire);
                return doors.connect_failed(shard, ticket);
            }
            (None, _) => doors.accepted(shard, conn, host),
        };
        self.note(|| format!("wire {wire}: open, {taken}"));
        if taken { self.schedule_up(wire) } else { self.let_go(wire) }
    }

    /// The peer sends.
    pub fn push(&mut self, wire: usize, bytes: &[u8]) {
        self.wires[wire].up.extend(bytes);
        self.schedule_up(wire);
    }

    fn schedule_up(&mut self, wire: usize) {
        let found = &mut self.wires[wire];
        let has_some = !found.up.is_empty() || found.fin;
        if found.state == State::Open && has_some && !found.up_due && (!found.paused || found.late_len > 0) {
            found.up_due = true;
            self.soon(Duration::from_millis(2), Happening::Up(wire));
        }
    }

    /// Some bytes of the peer arrive.
    fn up(&mut self, wire: usize, doors: &mut dyn Doors) {
        self.wires[wire].up_due = false;
        if self.wires[wire].state != State::Open {
            return;
        }
        if self.chance(self.trouble.reset) {
            return self.reset(wire, doors);
        }
        let backlog = self.wires[wire].up.len();
        let cut = match self.rng.below(8) {
            0 if backlog < 3_000 => 1 + self.below(7),
            0..3 => 1 + self.below(4_000),
            _ => 1 + self.below(INPUT_LEN_MAX),
        };
        let found = &mut self.wires[wire];
        let mut len = cut.min(backlog);
        if found.paused {
            len = len.min(found.late_len);
            found.late_len -= len;
        }
        if len > 0 {
            let bytes: Vec<u8> = found.up.drain(..len).collect();
            let (shard, conn, alive) = (found.shard, found.conn, Arc::clone(&self.alive));
            let mut shares = 0;
            let mut share = || {
                shares += 1;
                alive.fetch_add(bytes.len(), Ordering::Relaxed);
                Bytes::from_owner(Counted { bytes: bytes.clone(), alive: Arc::clone(&alive) })
            };
            doors.bytes(shard, conn, &bytes, &mut share);
            assert!(shares <= 1, "a buffer is shared once");
        } else if found.fin && backlog == 0 {
            let (shard, conn) = (found.shard, found.conn);
            self.note(|| format!("wire {wire}: the peer's end"));
            self.drain(wire, doors);
            return doors.closed(shard, conn);
        }
        self.schedule_up(wire);
    }

    /// The peer sends no more, but reads.
    fn fin(&mut self, wire: usize) {
        self.wires[wire].fin = true;
        self.schedule_up(wire);
    }

    /// The connection breaks.
    pub fn reset(&mut self, wire: usize, doors: &mut dyn Doors) {
        if self.wires[wire].state != State::Open {
            return;
        }
        self.note(|| format!("wire {wire}: reset"));
        self.counts.resets += 1;
        let (shard, conn) = (self.wires[wire].shard, self.wires[wire].conn);
        self.let_go(wire);
        doors.closed(shard, conn);
    }

    /// Connections that have something to send hand it to the kernel.
    pub fn collect(&mut self, shard: u16, doors: &mut dyn Doors) {
        while let Some(conn) = doors.poll_dirty(shard) {
            let Some(wire) = self.find(shard, conn) else { continue };
            self.fill(wire, doors);
        }
    }

    fn fill(&mut self, wire: usize, doors: &mut dyn Doors) {
        let found = &mut self.wires[wire];
        if found.batch.is_empty() && found.state == State::Open {
            let mut batch = Vec::new();
            doors.take(found.shard, found.conn, &mut batch);
            found.batch.extend(batch);
            found.progress_at = self.now;
        }
        self.watch(wire);
        self.schedule_down(wire);
    }

    /// The shard gives a peer up that takes nothing for long.
    fn watch(&mut self, wire: usize) {
        let found = &mut self.wires[wire];
        if !found.is_watched && !found.batch.is_empty() && found.state == State::Open {
            found.is_watched = true;
            let at = found.progress_at + STALL_TIME;
            self.at(at.max(self.now), Happening::Stall(wire));
        }
    }

    fn on_stall(&mut self, wire: usize, doors: &mut dyn Doors) {
        let found = &mut self.wires[wire];
        found.is_watched = false;
        if !found.batch.is_empty() && self.now.since(found.progress_at) >= STALL_TIME {
            return self.reset(wire, doors);
        }
        self.watch(wire);
    }

    fn schedule_down(&mut self, wire: usize) {
        let found = &mut self.wires[wire];
        let is_stuck = found.speed == Speed::Stopped && (found.batch.is_empty() || found.pipe.len() >= PIPE_LEN);
        let is_empty = found.batch.is_empty() && found.pipe.is_empty();
        let ends = is_empty && found.state == State::Draining;
        if found.down_due || found.state == State::Gone || is_stuck || (is_empty && !ends) {
            return;
        }
        found.down_due = true;
        let max = if found.speed == Speed::Slow { Duration::from_millis(200) } else { Duration::from_millis(1) };
        self.soon(max, Happening::Down(wire));
    }

    /// Some bytes leave the kernel, and the peer reads some.
    fn down(&mut self, wire: usize, doors: &mut dyn Doors) {
        self.wires[wire].down_due = false;
        if self.wires[wire].state == State::Gone {
            return;
        }
        let wanted = 1 + self.below(INPUT_LEN_MAX * 2);
        let found = &mut self.wires[wire];
        let room = PIPE_LEN.saturating_sub(found.pipe.len()).min(wanted);
        let mut left = room;
        while left > 0
            && let Some(front) = found.batch.front_mut()
        {
            let piece = front.split_to(front.len().min(left));
            left -= piece.len();
            found.pipe.extend(piece.iter());
            if front.is_empty() {
                found.batch.pop_front();
            }
        }
        let (shard, conn, state) = (found.shard, found.conn, found.state);
        if room > left {
            found.progress_at = self.now;
        }
        if room > left && state == State::Open {
            doors.sent(shard, conn, room - left);
            self.fill(wire, doors);
        }
        let len = match self.wires[wire].speed {
            Speed::Fast => usize::MAX,
            Speed::Slow => 1 + self.below(20_000),
            Speed::Stopped => 0,
        };
        let found = &mut self.wires[wire];
        let len = len.min(found.pipe.len());
        let bytes: Vec<u8> = found.pipe.drain(..len).collect();
        found.parser.push(&bytes);
        self.read(wire);
        let found = &self.wires[wire];
        if found.state == State::Draining && found.batch.is_empty() && found.pipe.is_empty() {
            let rest = String::from_utf8_lossy(found.parser.rest()).into_owned();
            assert!(rest.is_empty(), "wire {wire} ends inside a chunk: {rest:.300}");
            return self.let_go(wire);
        }
        self.schedule_down(wire);
    }

    /// Connections that neither side has closed.
    pub fn open_count(&self) -> usize {
        self.wires.iter().filter(|wire| wire.state != State::Gone).count()
    }
}

/// Largest input handed over at once.
const INPUT_LEN_MAX: usize = 32 * 1024;
/// What may be received after reading was stopped.
const LATE_LEN_MAX: usize = 64 * 1024;
/// What fits between kernel and peer.
const PIPE_LEN: usize = 64 * 1024;
/// How long the shard waits for a peer to take something.
const STALL_TIME: Duration = Duration::from_secs(64);
const TRACE_LEN: usize = 400;
/// A host that refuses connections.
pub const DEAD_PORT: u16 = 1;
/// A host that does not answer.
pub const MUTE_PORT: u16 = 2;
