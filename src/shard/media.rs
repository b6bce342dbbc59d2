//! MSRP connections: bytes in, batches out, and when to read and to close.
//!
//! What is on them is the core's: it owns chunks, queues and the decision whom to read from. A connection costs its entry
//! in the table and a receive in the kernel; buffers are the shard's.

use super::core::Core;
use super::event_loop::{Armed, Look, Shard, conn_of, token_of};
use crate::base::id::ConnId;
use crate::base::limits::MSRP_CONNECTION_COUNT_MAX;
use crate::base::slots::{SlotId, Slots};
use crate::base::time::Instant;
use crate::metrics::names::Counter;
use crate::msrp::effect::{ConnectTicket, MediaEffect};
use crate::uring::ring::{BATCH_COUNT_MAX, Completion, ConnectHandle, Token};
use crate::uring::shared::Shared;
use crate::uring::socket::{acknowledged_len, keep_alive, outgoing_stream};
use bytes::Bytes;
use hashbrown::HashMap;
use socket2::SockRef;
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Every MSRP connection of a shard.
pub(super) struct Connections {
    slots: Slots<Connection>,
    /// Those being opened, by the core's name for the attempt.
    opening: HashMap<ConnectTicket, ConnId, foldhash::fast::RandomState>,
    /// Connections to look at for something to send, besides those that the core names.
    dirty: Vec<ConnId>,
    /// Connections whose peers have sent their last byte.
    ended: Vec<ConnId>,
    /// Connections whose receive found no buffer, in this order to be armed again.
    starved: VecDeque<ConnId>,
    /// Attempts that failed at once, not told yet.
    pub(super) refused: Vec<ConnectTicket>,
    /// Memory of the batch that is taken next.
    batch: Vec<Bytes>,
}

/// One connection.
struct Connection {
    fd: OwnedFd,
    state: State,
    receive: Receive,
    /// A request to send is in the kernel's hands.
    sending: bool,
    /// The peer has sent its last byte, or sending has failed: nothing will be received after what is on its way.
    ended: bool,
    /// Sending has failed.
    broken: bool,
    /// The earliest moment for which a look at it is scheduled.
    look_at: Option<Instant>,
    /// When it was last known to take bytes, and how many its peer had acknowledged then.
    progress_at: Instant,
    acknowledged_len: u64,
}

/// Where a connection is in its life.
enum State {
    /// Being opened by us.
    Opening { attempt: Option<ConnectHandle>, ticket: ConnectTicket, until: Instant },
    /// The core's.
    Open,
    /// The core has done with it; what is left leaves.
    Closing(Box<Closing>),
}

struct Closing {
    /// When it is closed whatever is left.
    until: Instant,
    rest: VecDeque<Bytes>,
    /// Our side is shut; the peer's end is awaited, because closing while bytes arrive would reset the connection and
    /// take along what the peer has not read yet.
    said_all: bool,
}

/// Whether the kernel receives, and whether it should: never is a second receive armed.
#[derive(Clone, Copy, Debug)]
struct Receive {
    phase: Phase,
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is armed.
    Idle,
    /// A multishot receive is in the kernel's hands.
    Armed,
    /// It is, and was asked to end.
    Cancelling,
}

/// What is to be done about a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Arm,
    Cancel,
}

impl Receive {
    const NEW: Self = Self { phase: Phase::Idle, wanted: true };

    /// Changes what is wanted, and says what that takes at once.
    fn want(&mut self, wanted: bool) -> Step {
        self.wanted = wanted;
        self.next()
    }

    /// The kernel has completed the receive and goes on with it.
    fn went_on(&mut self) -> Step {
        match self.phase {
            // The request to end may have missed it: it is asked again, which is harmless.
            Phase::Cancelling if !self.wanted => Step::Cancel,
            _ => Step::Nothing,
        }
    }

    /// The kernel has completed the receive for the last time.
    fn ended(&mut self) {
        debug_assert_ne!(self.phase, Phase::Idle, "what ends was armed");
        self.phase = Phase::Idle;
    }

    /// Moves toward what is wanted.
    fn next(&mut self) -> Step {
        match (self.phase, self.wanted) {
            (Phase::Idle, true) => {
                self.phase = Phase::Armed;
                Step::Arm
            }
            (Phase::Armed, false) => {
                self.phase = Phase::Cancelling;
                Step::Cancel
            }
            // One that was asked to end is waited for, whatever is wanted since.
            _ => Step::Nothing,
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            slots: Slots::new(MSRP_CONNECTION_COUNT_MAX),
            opening: HashMap::default(),
            dirty: Vec::new(),
            ended: Vec::new(),
            starved: VecDeque::new(),
            refused: Vec::new(),
            batch: Vec::with_capacity(BATCH_COUNT_MAX),
        }
    }
}

impl Connections {
    /// Connections in the table.
    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// True when something is to be done before the shard may sleep.
    pub(super) fn is_busy(&self) -> bool {
        !self.dirty.is_empty() || !self.ended.is_empty() || !self.starved.is_empty() || !self.refused.is_empty()
    }

    /// Ends our side of every connection.
    pub(super) fn shut(&self) {
        for connection in self.slots.iter() {
            // One that is broken already needs no end.
            let _ = SockRef::from(&connection.fd).shutdown(Shutdown::Write);
        }
    }

    fn insert(&mut self, fd: OwnedFd, state: State, now: Instant) -> Option<ConnId> {
        let id = self.slots.insert(Connection {
            fd,
            state,
            receive: Receive::NEW,
            sending: false,
            ended: false,
            broken: false,
            look_at: None,
            progress_at: now,
            acknowledged_len: 0,
        })?;
        Some(ConnId { slot: id.slot, generation: id.generation })
    }

    /// The connection, unless it is gone and its slot free or another's.
    fn find(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.slots.get_mut(slot_id(conn))
    }

    fn remove(&mut self, conn: ConnId) -> Option<Connection> {
        let connection = self.slots.remove(slot_id(conn))?;
        if let State::Opening { ticket, .. } = connection.state {
            self.opening.remove(&ticket);
        }
        Some(connection)
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// When it is to be looked at, if at all.
    fn look_due(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Opening { until, .. } => Some(*until),
            State::Closing(closing) => Some(closing.until),
            State::Open => self.sending.then(|| now + PROGRESS_TIME),
        }
    }

    /// True when the peer has taken nothing for too long. Asked every now and then while a send is under way.
    fn is_stalled(&mut self, acknowledged_len: Option<u64>, now: Instant) -> bool {
        let len = acknowledged_len.unwrap_or(self.acknowledged_len);
        if len != self.acknowledged_len {
            (self.acknowledged_len, self.progress_at) = (len, now);
        }
        self.sending && now.since(self.progress_at) >= STALL_TIME
    }
}

/// Completions.
impl<C: Core> Shard<C> {
    pub(super) fn on_media_accept(&mut self, completion: Completion) {
        let listener = completion.token.slot as u8;
        if let Some(fd) = completion.fd
            && self.stopping.is_none()
        {
            self.accept_media(fd, listener);
        }
        if !completion.more {
            self.on_multishot_end(Armed::MediaAccept(listener), completion.result);
        }
    }

    fn accept_media(&mut self, fd: OwnedFd, listener: u8) {
        let socket = TcpStream::from(fd);
        // A peer that is gone already has no address.
        let Ok(peer) = socket.peer_addr() else { return };
        // Dropped when there are too many: the peer sees its connection closed.
        let Some(conn) = self.media.insert(socket.into(), State::Open, self.now.at) else { return };
        self.metrics.count(Counter::MsrpAccepted);
        if self.core.media_accepted(conn, peer, listener, self.now) {
            self.arm_media(conn);
        } else {
            self.remove_media(conn);
        }
    }

    pub(super) fn on_media(&mut self, mut completion: Completion) {
        let conn = conn_of(completion.token);
        if let Some(piece) = completion.piece.take() {
            if self.media.find(conn).is_some_and(|connection| connection.is_open()) {
                let (ring, metrics) = (&self.ring, &self.metrics);
                let mut share = || match ring.share(&piece) {
                    Shared::InPlace(bytes) => bytes,
                    Shared::Copied(bytes) => {
                        metrics.count(Counter::MsrpBufferCopied);
                        bytes
                    }
                };
                let bytes = ring.media_bytes(&piece);
                if !bytes.is_empty() {
                    self.core.handle_media(conn, bytes, &mut share, self.now);
                }
            }
            self.ring.recycle_media(piece);
        }
        let Some(connection) = self.media.find(conn) else { return };
        if completion.more {
            if connection.receive.went_on() == Step::Cancel {
                self.ring.cancel_media(completion.token);
            }
            return;
        }
        connection.receive.ended();
        let given_up = connection.broken && !connection.receive.wanted;
        match completion.result {
            Ok(0) => {
                connection.ended = true;
                self.media.ended.push(conn);
            }
            Err(libc::ECANCELED) if given_up => self.lose_media(conn),
            Ok(_) | Err(libc::ECANCELED) => self.rearm.push(Armed::Media(conn)),
            Err(libc::ENOBUFS) => {
                self.metrics.count(Counter::BufferStarved);
                self.media.starved.push_back(conn);
            }
            Err(_) => self.lose_media(conn),
        }
    }

    pub(super) fn on_media_sent(&mut self, mut completion: Completion) {
        let conn = conn_of(completion.token);
        let Some(connection) = self.media.find(conn) else { return };
        connection.sending = false;
        let Some(len @ 1..) = completion.result.ok() else { return self.on_media_broken(conn) };
        connection.progress_at = self.now.at;
        if connection.is_open() {
            self.core.media_sent(conn, len as usize, self.now);
        }
        if completion.unsent.is_empty() {
            self.media.dirty.push(conn);
        } else {
            self.send_media(conn, &mut completion.unsent);
        }
    }

    /// Sending has failed. What the peer had sent before is still heard.
    fn on_media_broken(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        connection.broken = true;
        let receive = connection.receive;
        if !connection.is_open() || (receive.phase == Phase::Idle && !receive.wanted) {
            return self.lose_media(conn);
        }
        // Makes sure that receiving ends, after what there is to receive.
        let _ = SockRef::from(&connection.fd).shutdown(Shutdown::Both);
    }

    pub(super) fn on_media_connect(&mut self, conn: ConnId, result: Result<u32, i32>) {
        let Some(connection) = self.media.find(conn) else { return };
        let State::Opening { attempt, ticket, .. } = &mut connection.state else {
            return debug_assert!(false, "only a connection that is being opened is opened");
        };
        let ticket = *ticket;
        // The attempt is over: there is nothing to give up.
        *attempt = None;
        if let Err(code) = result {
            let error = std::io::Error::from_raw_os_error(code);
            tracing::debug!(%error, "an MSRP connection could not be opened");
            return self.fail_media(conn);
        }
        connection.state = State::Open;
        self.media.opening.remove(&ticket);
        self.metrics.count(Counter::MsrpConnected);
        if self.core.media_connected(ticket, conn, self.now) {
            self.arm_media(conn);
        } else {
            self.remove_media(conn);
        }
    }
}

/// Effects.
impl<C: Core> Shard<C> {
    pub(super) fn on_media_effect(&mut self, effect: MediaEffect) {
        match effect {
            MediaEffect::Connect { ticket, to, listener } => {
                if !self.open_media(ticket, to, listener) {
                    self.media.refused.push(ticket);
                }
            }
            MediaEffect::Abandon(ticket) => {
                self.media.refused.retain(|refused| *refused != ticket);
                if let Some(conn) = self.media.opening.get(&ticket).copied() {
                    self.remove_media(conn);
                }
            }
            MediaEffect::Close(conn) => self.close_media(conn),
            MediaEffect::Pause(conn) => self.want_media(conn, false),
            MediaEffect::Resume(conn) => self.want_media(conn, true),
        }
    }

    fn open_media(&mut self, ticket: ConnectTicket, to: SocketAddr, listener: u8) -> bool {
        let Some(local) = self.media_listeners.get(usize::from(listener)).map(|listener| listener.addr) else {
            debug_assert!(false, "the core knows its listeners");
            return false;
        };
        let socket = match outgoing_stream(local, to) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(peer = %to, %error, "no socket for an MSRP connection");
                return false;
            }
        };
        // Best effort: without it a peer that vanished is noticed later.
        let _ = keep_alive(&socket);
        let state = State::Opening { attempt: None, ticket, until: self.now.at + CONNECT_TIME };
        let Some(conn) = self.media.insert(socket.into(), state, self.now.at) else { return false };
        self.media.opening.insert(ticket, conn);
        let connection = self.media.find(conn).expect("it was just inserted");
        let begun = self.ring.connect_media(&connection.fd, to, token_of(conn));
        let State::Opening { attempt, .. } = &mut connection.state else { unreachable!("as inserted") };
        *attempt = begun;
        if begun.is_none() {
            self.remove_media(conn);
            return false;
        }
        self.schedule_media_look(conn);
        true
    }

    /// Tells the core of an attempt that failed at once.
    pub(super) fn tell_media_refused(&mut self, ticket: ConnectTicket) {
        self.metrics.count(Counter::MsrpConnectFailed);
        self.core.media_connect_failed(ticket, self.now);
    }

    fn want_media(&mut self, conn: ConnId, wanted: bool) {
        let Some(connection) = self.media.find(conn).filter(|connection| connection.is_open()) else { return };
        if connection.ended {
            return;
        }
        match connection.receive.want(wanted) {
            Step::Arm => self.ring.receive_media(&connection.fd, token_of(conn)),
            Step::Cancel => self.ring.cancel_media(token_of(conn)),
            Step::Nothing => {}
        }
    }

    /// Receives if that is wanted and not done.
    pub(super) fn arm_media(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        if !connection.ended && connection.receive.next() == Step::Arm {
            self.ring.receive_media(&connection.fd, token_of(conn));
        }
    }

    /// Arms receives that found no buffer, at the end of a turn, when buffers are back: no more than find one, because
    /// each that does not costs a request and an answer.
    pub(super) fn arm_starved_media(&mut self) {
        for _ in 0..self.ring.media_available_count() {
            let Some(conn) = self.media.starved.pop_front() else { return };
            self.arm_media(conn);
        }
    }

    /// Closes a connection of which the core has taken leave, after what it left to send.
    fn close_media(&mut self, conn: ConnId) {
        if !self.media.find(conn).is_some_and(|connection| connection.is_open()) {
            return;
        }
        let mut rest = VecDeque::new();
        let mut rest_len = 0;
        let mut batch = std::mem::take(&mut self.media.batch);
        while rest_len < CLOSING_LEN_MAX {
            self.core.take_media(conn, &mut batch);
            if batch.is_empty() {
                break;
            }
            rest_len += batch.iter().map(Bytes::len).sum::<usize>();
            rest.extend(batch.drain(..));
        }
        self.media.batch = batch;
        let Some(connection) = self.media.find(conn) else { return };
        let until = self.now.at + CLOSING_TIME;
        connection.state = State::Closing(Box::new(Closing { until, rest, said_all: false }));
        // What still comes is read and dropped.
        connection.receive.wanted = true;
        self.arm_media(conn);
        self.schedule_media_look(conn);
        self.media.dirty.push(conn);
    }
}

/// The ends of a turn and of a connection.
impl<C: Core> Shard<C> {
    /// Closes connections whose peers are done. Answers to what was received before still leave, for peers that shut
    /// their side only.
    pub(super) fn settle_media(&mut self) {
        for conn in std::mem::take(&mut self.media.ended) {
            let Some(connection) = self.media.find(conn) else { continue };
            match &connection.state {
                State::Open if connection.broken => self.lose_media(conn),
                State::Open => {
                    self.close_media(conn);
                    self.core.media_closed(conn, self.now);
                }
                State::Closing(closing) if closing.said_all => self.remove_media(conn),
                State::Closing(_) => self.media.dirty.push(conn),
                State::Opening { .. } => debug_assert!(false, "nothing is received before it is open"),
            }
        }
    }

    /// Hands what waits on each connection to the kernel, one request a connection.
    pub(super) fn flush_media(&mut self) {
        while let Some(conn) = self.core.poll_media() {
            self.flush_media_of(conn);
        }
        while let Some(conn) = self.media.dirty.pop() {
            self.flush_media_of(conn);
        }
    }

    fn flush_media_of(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        if connection.sending || connection.broken {
            return;
        }
        let mut batch = std::mem::take(&mut self.media.batch);
        let Some(connection) = self.media.find(conn) else { return };
        match &mut connection.state {
            State::Opening { .. } => {}
            State::Open => self.core.take_media(conn, &mut batch),
            State::Closing(closing) => {
                batch.extend(closing.rest.drain(..closing.rest.len().min(BATCH_COUNT_MAX)));
                if batch.is_empty() {
                    self.say_all(conn);
                }
            }
        }
        if !batch.is_empty() {
            self.send_media(conn, &mut batch);
        }
        self.media.batch = batch;
    }

    /// Hands a batch to the kernel and empties it.
    fn send_media(&mut self, conn: ConnId, batch: &mut Vec<Bytes>) {
        let Some(connection) = self.media.find(conn) else { return };
        debug_assert!(!connection.sending, "one send a connection");
        if self.ring.send_media(&connection.fd, token_of(conn), batch) {
            connection.sending = true;
            connection.progress_at = self.now.at;
            self.schedule_media_look(conn);
        } else {
            debug_assert!(false, "the ring has room for one send of each connection");
            batch.clear();
            self.on_media_broken(conn);
        }
    }

    /// Everything has left on a connection that is closing.
    fn say_all(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        let State::Closing(closing) = &mut connection.state else { return };
        if connection.ended {
            self.remove_media(conn);
        } else if !std::mem::replace(&mut closing.said_all, true) {
            let _ = SockRef::from(&connection.fd).shutdown(Shutdown::Write);
        }
    }

    pub(super) fn look_at_media(&mut self, conn: ConnId) {
        let now = self.now.at;
        let Some(connection) = self.media.find(conn) else { return };
        if connection.look_at.is_some_and(|at| at > now) {
            return;
        }
        connection.look_at = None;
        match &connection.state {
            State::Opening { until, .. } if *until <= now => return self.fail_media(conn),
            State::Closing(closing) if closing.until <= now => return self.remove_media(conn),
            State::Open if connection.sending => {
                if connection.is_stalled(acknowledged_len(&connection.fd), now) {
                    tracing::debug!("an MSRP peer takes nothing");
                    return self.lose_media(conn);
                }
            }
            _ => {}
        }
        self.schedule_media_look(conn);
    }

    /// Makes sure that the connection is looked at when something becomes due.
    fn schedule_media_look(&mut self, conn: ConnId) {
        let now = self.now.at;
        let Some(connection) = self.media.find(conn) else { return };
        let Some(at) = connection.look_due(now) else { return };
        if connection.look_at.is_none_or(|scheduled| at < scheduled) {
            connection.look_at = Some(at);
            self.deadlines.schedule(at, Look::Media(conn));
        }
    }

    /// An attempt to open a connection has failed.
    fn fail_media(&mut self, conn: ConnId) {
        let Some(Connection { state: State::Opening { ticket, .. }, .. }) = self.media.find(conn) else { return };
        let ticket = *ticket;
        self.remove_media(conn);
        self.tell_media_refused(ticket);
    }

    /// A connection has ended on its own.
    fn lose_media(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        let open = connection.is_open();
        self.remove_media(conn);
        if open {
            self.core.media_closed(conn, self.now);
        }
    }

    fn remove_media(&mut self, conn: ConnId) {
        let Some(connection) = self.media.remove(conn) else { return };
        if let State::Opening { attempt: Some(attempt), .. } = connection.state {
            self.ring.abandon(attempt);
        }
        self.ring.close(connection.fd);
    }
}

/// Names the listener of a media accept.
pub(super) const fn listener_token(listener: u8) -> Token {
    Token { slot: listener as u32, generation: 0 }
}

const fn slot_id(conn: ConnId) -> SlotId {
    SlotId { slot: conn.slot, generation: conn.generation }
}

/// How long the opening of a connection may take (SPEC §4.5).
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long what is left may take to leave once the core has done with a connection.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Bytes that may be left then; a core that leaves more loses them.
const CLOSING_LEN_MAX: usize = 16 << 20;
/// A peer that takes nothing for this long while something is sent to it is given up.
const STALL_TIME: Duration = Duration::from_secs(64);
/// How often a connection that sends is asked whether its peer takes anything.
const PROGRESS_TIME: Duration = Duration::from_secs(16);

const _: () = assert!(size_of::<Connection>() <= 128, "idle connections are many");

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's side: what is armed, and requests to end it that it has not looked at.
    #[derive(Default)]
    struct Kernel {
        armed: u32,
        cancels: u32,
    }

    impl Kernel {
        fn take(&mut self, step: Step) {
            match step {
                Step::Nothing => {}
                Step::Arm => self.armed += 1,
                Step::Cancel => self.cancels += 1,
            }
            assert!(self.armed <= 1, "a second receive would mix up the stream");
        }
    }

    #[test]
    fn however_often_reading_is_stopped_one_receive_at_most_is_armed_and_the_last_word_counts() {
        for seed in 0..200u64 {
            let mut random = seed;
            let mut draw = move || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                random >> 33
            };
            let (mut receive, mut kernel) = (Receive::NEW, Kernel::default());
            kernel.take(receive.next());
            for _ in 0..500 {
                match draw() % 5 {
                    0 => kernel.take(receive.want(true)),
                    1 => kernel.take(receive.want(false)),
                    2 if kernel.armed > 0 => kernel.take(receive.went_on()),
                    // Buffers ran out.
                    3 if kernel.armed > 0 && draw() % 4 == 0 => {
                        kernel.armed -= 1;
                        receive.ended();
                        kernel.take(receive.next());
                    }
                    _ if kernel.cancels > 0 => {
                        kernel.cancels -= 1;
                        if kernel.armed > 0 {
                            kernel.armed -= 1;
                            receive.ended();
                            kernel.take(receive.next());
                        }
                    }
                    _ => {}
                }
            }
            let wanted = receive.wanted;
            while kernel.cancels > 0 {
                kernel.cancels -= 1;
                if kernel.armed > 0 {
                    kernel.armed -= 1;
                    receive.ended();
                    kernel.take(receive.next());
                }
            }
            assert_eq!(kernel.armed, u32::from(wanted), "seed {seed}");
        }
    }

    #[test]
    fn a_peer_is_stalled_when_nothing_is_acknowledged_for_long_and_only_while_something_is_sent() {
        let second = |count| Instant::ZERO + Duration::from_secs(count);
        let mut connections = Connections::default();
        let (fd, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let conn = connections.insert(fd.into(), State::Open, second(0)).unwrap();
        let connection = connections.find(conn).unwrap();
        assert_eq!(connection.look_due(second(0)), None, "an idle connection may stay");
        assert!(!connection.is_stalled(Some(0), second(1000)));
        connection.sending = true;
        assert!(!connection.is_stalled(Some(10), second(1016)), "it goes on, however slowly");
        for at in [1032, 1048, 1064] {
            assert!(!connection.is_stalled(Some(10), second(at)));
        }
        assert!(!connection.is_stalled(Some(11), second(1079)));
        assert!(!connection.is_stalled(Some(11), second(1142)));
        assert!(connection.is_stalled(Some(11), second(1143)));
    }

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut connections = Connections::default();
        let insert = |connections: &mut Connections| {
            let (fd, _) = std::os::unix::net::UnixStream::pair().unwrap();
            connections.insert(fd.into(), State::Open, Instant::ZERO).unwrap()
        };
        let old = insert(&mut connections);
        assert!(connections.remove(old).is_some());
        let new = insert(&mut connections);
        assert_eq!(new.slot, old.slot);
        assert!(connections.find(old).is_none() && connections.remove(old).is_none());
        assert_eq!(connections.count(), 1);
    }
}
