//! One turn: reap, feed, drain, submit once.

use super::connections::Connections;
use super::core::Core;
use super::deadlines::Deadlines;
use super::doors::{Door, Doors, Mail};
use super::media::listener_token;
use super::streams::Streams;
use super::thread::Plan;
use super::{ListenerSockets, MediaListener, clock};
use crate::base::id::{ConnId, ShardId, Ticket};
use crate::base::limits::{TURN_COMPLETIONS_MAX, TURN_EFFECTS_MAX, TURN_MAIL_MAX};
use crate::base::time::{Instant, Now};
use crate::metrics::counters::ShardMetrics;
use crate::metrics::names::{Counter, Gauge};
use crate::metrics::stages::Stages;
use crate::participating::input::{ControlMailbox, Input};
use crate::participating::storage::{SpoolMailbox, StoreMailbox};
use crate::uring::ring::{Completion, Ring, Token};
use socket2::SockRef;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Everything one shard's thread owns.
pub(super) struct Shard<C> {
    /// First, so that the kernel is done before sockets and streams go.
    pub(super) ring: Ring,
    pub(super) id: ShardId,
    pub(super) core: C,
    pub(super) listeners: Vec<ListenerSockets>,
    pub(super) media_listeners: Vec<MediaListener>,
    pub(super) doors: Arc<Doors>,
    pub(super) store: Arc<StoreMailbox>,
    pub(super) spool: Arc<SpoolMailbox>,
    pub(super) control: Arc<ControlMailbox>,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) stages: Stages,
    pub(super) streams: Streams,
    pub(super) media: Connections,
    pub(super) deadlines: Deadlines<Look>,
    /// Both clocks, read once a turn and with each timed message.
    pub(super) now: Now,
    /// Messages since the last one that was timed.
    pub(super) untimed_count: u32,
    /// Multishot requests that ended, to be armed again when the turn's buffers are back.
    pub(super) rearm: Vec<Armed>,
    /// Streams with something to send.
    pub(super) dirty: Vec<ConnId>,
    /// Streams whose peers have sent their last byte.
    pub(super) ended: Vec<ConnId>,
    /// Sends of this shard's core that failed, not told yet.
    pub(super) failed: Vec<Ticket>,
    pub(super) stopping: Option<Instant>,
    /// When the streams of a shard that has nothing left to do are closed whatever their peers do.
    leaving: Option<Instant>,
    completions: Vec<Completion>,
    looks: Vec<Look>,
}

/// A request that stays armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    Accept(Port),
    Datagrams(Port),
    Stream(ConnId),
    MediaAccept(u8),
    Media(ConnId),
    Wake,
}

/// One of the sockets of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) listener: u8,
    pub(super) own: bool,
}

/// Something to look at when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Stream(ConnId),
    Media(ConnId),
    Rearm(Armed),
}

impl<C: Core> Shard<C> {
    pub(super) fn new(plan: Plan, ring: Ring, core: C) -> Self {
        let Plan { shard, cpu: _, listeners, media_listeners, doors, store, spool, control, metrics } = plan;
        let now = clock::now();
        Self {
            ring,
            id: shard,
            core,
            listeners,
            media_listeners,
            doors,
            store,
            spool,
            control,
            metrics,
            stages: Stages::default(),
            streams: Streams::default(),
            media: Connections::default(),
            deadlines: Deadlines::new(now.at),
            now,
            untimed_count: 0,
            rearm: Vec::new(),
            dirty: Vec::new(),
            ended: Vec::new(),
            failed: Vec::new(),
            stopping: None,
            leaving: None,
            completions: Vec::with_capacity(TURN_COMPLETIONS_MAX),
            looks: Vec::new(),
        }
    }

    /// Turns until the shard is stopped and has sent what it had to send.
    pub(super) fn run(&mut self) {
        self.arm_all();
        while !self.turn() {}
        self.doors.door(self.id).mailbox.awake();
    }

    /// One turn; true when the shard has ended.
    fn turn(&mut self) -> bool {
        self.metrics.count(Counter::RingTurn);
        if self.stopping.is_some() {
            self.doors.door(self.id).quiet.store(false, Ordering::SeqCst);
        }
        self.reap();
        let more_mail = self.take_mail();
        self.fire();
        self.settle_media();
        let mut more_effects = self.drain_effects();
        self.settle_streams();
        self.flush_media();
        // Taking what waits may let a sender go on; what this asks for is rare, and the next turn looks for more.
        more_effects |= self.drain_late_effects();
        self.rearm_all();
        if let Some(until) = self.stopping {
            let silent = self.ring.sends_in_flight() == 0 && self.streams.egress_len() == 0 && self.core.is_settled();
            let quiet = silent && !more_mail && !more_effects;
            self.doors.door(self.id).quiet.store(quiet, Ordering::SeqCst);
            if (quiet && self.doors.all_at_rest() && self.has_taken_leave(until)) || self.now.at >= until {
                return true;
            }
        }
        self.publish_levels();
        self.submit(more_mail || more_effects);
        false
    }

    fn reap(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        let reaped = self.ring.reap(&mut completions, TURN_COMPLETIONS_MAX);
        if reaped.datagrams_sent > 0 {
            self.metrics.add(Counter::DatagramOut, reaped.datagrams_sent);
        }
        for completion in completions.drain(..) {
            self.on_completion(completion);
        }
        self.completions = completions;
    }

    /// Reads the mailbox; true when more is in it.
    fn take_mail(&mut self) -> bool {
        let doors = self.doors.clone();
        let Door { mailbox, stop, .. } = doors.door(self.id);
        for _ in 0..TURN_MAIL_MAX {
            let Some(mail) = mailbox.take() else {
                if stop.load(Ordering::Acquire) {
                    self.on_mail(Mail::Stop);
                }
                return false;
            };
            self.on_mail(mail);
        }
        !mailbox.is_empty()
    }

    /// Does what is due.
    fn fire(&mut self) {
        if self.core.poll_timeout().is_some_and(|(at, _)| at <= self.now.at) {
            self.core.handle_timeout(self.now);
            debug_assert!(
                self.core.poll_timeout().is_none_or(|(at, _)| at > self.now.at),
                "{:?} did not move on",
                self.core.poll_timeout()
            );
        }
        let mut looks = std::mem::take(&mut self.looks);
        self.deadlines.fire(self.now.at, &mut looks);
        for look in looks.drain(..) {
            match look {
                Look::Stream(conn) => self.look_at_stream(conn),
                Look::Media(conn) => self.look_at_media(conn),
                Look::Rearm(armed) => self.rearm.push(armed),
            }
        }
        self.looks = looks;
    }

    /// Carries out what the core wants; true when it wants more than fits a turn.
    fn drain_effects(&mut self) -> bool {
        for _ in 0..TURN_EFFECTS_MAX {
            if let Some(ticket) = self.failed.pop() {
                self.core.handle_input(Input::StreamFailed { ticket }, self.now);
            } else if let Some(ticket) = self.media.refused.pop() {
                self.tell_media_refused(ticket);
            } else if let Some(effect) = self.core.poll_effect() {
                self.on_effect(effect);
            } else {
                return false;
            }
        }
        true
    }

    /// Carries out what the core wants after the turn's sends; true when there was anything.
    fn drain_late_effects(&mut self) -> bool {
        let Some(effect) = self.core.poll_effect() else { return false };
        self.on_effect(effect);
        self.drain_effects();
        true
    }

    fn publish_levels(&self) {
        self.metrics.set(Gauge::MailboxLevel, self.doors.door(self.id).mailbox.len() as u64);
        self.metrics.set(Gauge::Streams, self.streams.count() as u64);
        self.metrics.set(Gauge::MsrpConnections, self.media.count() as u64);
        self.metrics.set(Gauge::SendsInFlight, self.ring.sends_in_flight() as u64);
    }

    /// Hands the turn's requests to the kernel, and sleeps when there is nothing else to do.
    fn submit(&mut self, busy: bool) {
        let doors = self.doors.clone();
        let mailbox = &doors.door(self.id).mailbox;
        let busy = busy || self.ring.has_completions() || !self.failed.is_empty() || self.media.is_busy();
        let result = if busy || !mailbox.prepare_sleep() {
            let result = self.ring.submit(None);
            self.now = clock::now();
            result
        } else {
            let before = clock::instant();
            let result = self.ring.submit(Some(self.sleep_time(before)));
            mailbox.awake();
            self.now = clock::now();
            self.metrics.add(Counter::RingIdle, (self.now.at - before).as_nanos() as u64);
            result
        };
        if let Err(error) = result {
            // The ring is this thread's only way to the world.
            panic!("shard {}: io_uring_enter: {error}", self.id.0);
        }
    }

    fn sleep_time(&self, now: Instant) -> Duration {
        // Nobody wakes a shard when the others have come to rest.
        let longest = if self.stopping.is_some() { STOP_POLL_TIME } else { SLEEP_TIME_MAX };
        [self.core.poll_timeout().map(|(at, _)| at), self.deadlines.next(), self.stopping]
            .into_iter()
            .flatten()
            .min()
            .map_or(longest, |at| at.since(now).min(longest))
    }

    fn arm_all(&mut self) {
        self.rearm.push(Armed::Wake);
        for (index, sockets) in self.listeners.iter().enumerate() {
            let door = |own| Port { listener: index as u8, own };
            self.rearm.extend([Armed::Datagrams(door(false)), Armed::Accept(door(false))]);
            if !sockets.own_is_shared {
                self.rearm.extend([Armed::Datagrams(door(true)), Armed::Accept(door(true))]);
            }
        }
        self.rearm.extend((0..self.media_listeners.len()).map(|index| Armed::MediaAccept(index as u8)));
    }

    fn rearm_all(&mut self) {
        for armed in std::mem::take(&mut self.rearm) {
            self.arm(armed);
        }
        self.arm_starved_media();
    }

    pub(super) fn arm(&mut self, armed: Armed) {
        let taking_in =
            matches!(armed, Armed::Accept(_) | Armed::MediaAccept(_) | Armed::Datagrams(Port { own: false, .. }));
        if self.stopping.is_some() && taking_in {
            return;
        }
        match armed {
            Armed::Wake => self.ring.wait_for(&self.doors.door(self.id).eventfd),
            Armed::Accept(door) => {
                let sockets = &self.listeners[usize::from(door.listener)];
                let listener = if door.own { &sockets.tcp_own } else { &sockets.tcp_well_known };
                self.ring.accept(listener, door.token());
            }
            Armed::Datagrams(door) => {
                let sockets = &self.listeners[usize::from(door.listener)];
                let socket = if door.own { &sockets.udp_own } else { &sockets.udp_well_known };
                self.ring.receive_datagrams(socket, door.token());
            }
            Armed::MediaAccept(listener) => {
                let socket = &self.media_listeners[usize::from(listener)].socket;
                self.ring.accept_media(socket, listener_token(listener));
            }
            Armed::Media(conn) => self.arm_media(conn),
            Armed::Stream(conn) => {
                if let Some(stream) = self.streams.find(conn) {
                    self.ring.receive_stream(&stream.fd, token_of(conn));
                }
            }
        }
    }

    /// Begins the orderly end: nothing new is taken. What the shard waits for comes to its own port, from the store, or on
    /// connections that it opened.
    pub(super) fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(self.now.at + STOP_TIME);
        self.core.stop(self.now);
        for sockets in &self.listeners {
            self.ring.cancel(&sockets.tcp_well_known);
            self.ring.cancel(&sockets.tcp_own);
            self.ring.cancel(&sockets.udp_well_known);
        }
        for listener in &self.media_listeners {
            self.ring.cancel(&listener.socket);
        }
    }
}

impl<C: Core> Shard<C> {
    /// Ends every stream and media connection on our side and gives its peer a moment to end the other: a connection that is closed while bytes
    /// arrive is reset, and what the peer has not read of our last answers may go with it.
    fn has_taken_leave(&mut self, until: Instant) -> bool {
        let leaving = match self.leaving {
            Some(at) => at,
            None => {
                for stream in self.streams.iter() {
                    // One that is broken already needs no end.
                    let _ = SockRef::from(&stream.fd).shutdown(Shutdown::Write);
                }
                self.media.shut();
                *self.leaving.insert(until.min(self.now.at + LEAVE_TIME))
            }
        };
        self.streams.count() + self.media.count() == 0 || self.now.at >= leaving
    }
}

impl Port {
    pub(super) fn token(self) -> Token {
        Token { slot: u32::from(self.listener), generation: u32::from(self.own) }
    }

    pub(super) fn from_token(token: Token) -> Self {
        Self { listener: token.slot as u8, own: token.generation != 0 }
    }
}

pub(super) const fn token_of(conn: ConnId) -> Token {
    Token { slot: conn.slot, generation: conn.generation }
}

pub(super) const fn conn_of(token: Token) -> ConnId {
    ConnId { slot: token.slot, generation: token.generation }
}

/// How long a stopping shard waits for answers and goes on sending.
const STOP_TIME: Duration = Duration::from_secs(2);
/// How long the peers of a stopped shard's streams have to close them.
const LEAVE_TIME: Duration = Duration::from_millis(250);
/// How often a stopping shard that waits for nothing looks whether the others do.
const STOP_POLL_TIME: Duration = Duration::from_millis(1);
const SLEEP_TIME_MAX: Duration = Duration::from_secs(60);
