//! The table of MSRP connections: what the shell knows of each, and whether it is to be read.

use crate::base::id::ConnId;
use crate::base::limits::MSRP_CONNECTION_COUNT_MAX;
use crate::base::slots::{SlotId, Slots};
use crate::base::time::Instant;
use crate::msrp::effect::ConnectTicket;
use crate::uring::ring::{BATCH_COUNT_MAX, ConnectHandle};
use bytes::Bytes;
use hashbrown::HashMap;
use socket2::SockRef;
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Every MSRP connection of a shard.
pub(super) struct Connections {
    slots: Slots<Connection>,
    /// Those being opened, by the core's name for the attempt.
    pub(super) opening: HashMap<ConnectTicket, ConnId, foldhash::fast::RandomState>,
    /// Connections to look at for something to send, besides those that the core names.
    pub(super) dirty: Vec<ConnId>,
    /// Connections whose peers have sent their last byte.
    pub(super) ended: Vec<ConnId>,
    /// Connections whose receive found no buffer, in this order to be armed again.
    pub(super) starved: VecDeque<ConnId>,
    /// Attempts that failed at once, not told yet.
    pub(super) refused: Vec<ConnectTicket>,
    /// Memory of the batch that is taken next.
    pub(super) batch: Vec<Bytes>,
}

/// One connection.
pub(super) struct Connection {
    pub(super) fd: OwnedFd,
    pub(super) state: State,
    pub(super) receive: Receive,
    /// A request to send is in the kernel's hands.
    pub(super) sending: bool,
    /// The peer has sent its last byte, or sending has failed: nothing will be received after what is on its way.
    pub(super) ended: bool,
    /// Sending has failed.
    pub(super) broken: bool,
    /// The earliest moment for which a look at it is scheduled.
    pub(super) look_at: Option<Instant>,
    /// When it was last known to take bytes, and how many its peer had acknowledged then.
    pub(super) progress_at: Instant,
    acknowledged_len: u64,
}

/// Where a connection is in its life.
pub(super) enum State {
    /// Being opened by us.
    Opening { attempt: Option<ConnectHandle>, ticket: ConnectTicket, until: Instant },
    /// The core's.
    Open,
    /// The core has done with it; what is left leaves.
    Closing(Box<Closing>),
}

pub(super) struct Closing {
    /// When it is closed whatever is left.
    pub(super) until: Instant,
    pub(super) rest: VecDeque<Bytes>,
    /// Our side is shut; the peer's end is awaited, because closing while bytes arrive would reset the connection and
    /// take along what the peer has not read yet.
    pub(super) said_all: bool,
}

/// Whether the kernel receives, and whether it should: never is a second receive armed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    pub(super) phase: Phase,
    pub(super) wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is armed.
    Idle,
    /// A multishot receive is in the kernel's hands.
    Armed,
    /// It is, and was asked to end.
    Cancelling,
}

/// What is to be done about a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Arm,
    Cancel,
}

impl Receive {
    const NEW: Self = Self { phase: Phase::Idle, wanted: true };

    /// Changes what is wanted, and says what that takes at once.
    pub(super) fn want(&mut self, wanted: bool) -> Step {
        self.wanted = wanted;
        self.next()
    }

    /// The kernel has completed the receive and goes on with it.
    pub(super) fn went_on(&mut self) -> Step {
        match self.phase {
            // The request to end may have missed it: it is asked again, which is harmless.
            Phase::Cancelling if !self.wanted => Step::Cancel,
            _ => Step::Nothing,
        }
    }

    /// The kernel has completed the receive for the last time.
    pub(super) fn ended(&mut self) {
        debug_assert_ne!(self.phase, Phase::Idle, "what ends was armed");
        self.phase = Phase::Idle;
    }

    /// Moves toward what is wanted.
    pub(super) fn next(&mut self) -> Step {
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

    pub(super) fn insert(&mut self, fd: OwnedFd, state: State, now: Instant) -> Option<ConnId> {
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
    pub(super) fn find(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.slots.get_mut(slot_id(conn))
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Connection> {
        let connection = self.slots.remove(slot_id(conn))?;
        if let State::Opening { ticket, .. } = connection.state {
            self.opening.remove(&ticket);
        }
        Some(connection)
    }
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// When it is to be looked at, if at all.
    pub(super) fn look_due(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Opening { until, .. } => Some(*until),
            State::Closing(closing) => Some(closing.until),
            State::Open => self.sending.then(|| now + PROGRESS_TIME),
        }
    }

    /// True when the peer has taken nothing for too long. Asked every now and then while a send is under way.
    pub(super) fn is_stalled(&mut self, acknowledged_len: Option<u64>, now: Instant) -> bool {
        let len = acknowledged_len.unwrap_or(self.acknowledged_len);
        if len != self.acknowledged_len {
            (self.acknowledged_len, self.progress_at) = (len, now);
        }
        self.sending && now.since(self.progress_at) >= STALL_TIME
    }
}

const fn slot_id(conn: ConnId) -> SlotId {
    SlotId { slot: conn.slot, generation: conn.generation }
}

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
