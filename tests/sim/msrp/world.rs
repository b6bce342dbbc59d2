//! A relay alone among its peers: sessions come and go, and what a sender is told is compared with what arrived.

use super::peers::{End, Habit, Message, Receiver, Route, Sender, Waiting};
use super::wire::{Counts, DEAD_PORT, Doors, Happening, MUTE_PORT, Media, Trouble};
use bytes::Bytes;
use ringpost::base::id::ConnId;
use ringpost::base::limits::MSRP_EGRESS_HIGH;
use ringpost::base::rng::Rng;
use ringpost::base::time::Instant;
use ringpost::msrp::effect::ConnectTicket;
use ringpost::msrp::news::{Event, LegPlan, OpenPlan, Purpose, Role, SessionId, Side, SourceMessage, Why};
use ringpost::msrp::relay::Relay;
use ringpost::msrp::settings::{Acknowledgement, PathMode, RelaySettings};
use ringpost::testing::scene;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a history is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub sessions: usize,
    pub hosts: u8,
    pub trouble: Trouble,
    /// Largest of the few large messages.
    pub len_max: usize,
    /// Receivers and senders misbehave.
    pub is_rough: bool,
}

impl Plan {
    pub fn calm() -> Self {
        Self { sessions: 8, hosts: 2, trouble: Trouble::default(), len_max: 400_000, is_rough: false }
    }
}

/// The relay, and the clock it is told.
struct Door {
    relay: Relay,
    now: Instant,
}

impl Doors for Door {
    fn accepted(&mut self, _: u16, conn: ConnId, peer: SocketAddr) -> bool {
        self.relay.on_accepted(conn, peer, 0, self.now)
    }
    fn connected(&mut self, _: u16, ticket: ConnectTicket, conn: ConnId) -> bool {
        self.relay.on_connected(ticket, conn, self.now)
    }
    fn connect_failed(&mut self, _: u16, ticket: ConnectTicket) {
        self.relay.on_connect_failed(ticket, self.now);
    }
    fn closed(&mut self, _: u16, conn: ConnId) {
        self.relay.on_closed(conn, self.now);
    }
    fn bytes(&mut self, _: u16, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes) {
        self.relay.on_bytes(conn, bytes, share, self.now);
    }
    fn sent(&mut self, _: u16, conn: ConnId, len: usize) {
        self.relay.on_sent(conn, len, self.now);
    }
    fn poll_dirty(&mut self, _: u16) -> Option<ConnId> {
        self.relay.poll_dirty()
    }
    fn take(&mut self, _: u16, conn: ConnId, batch: &mut Vec<Bytes>) {
        self.relay.take(conn, batch);
    }
}

/// What SIP would do.
#[derive(Debug)]
enum Signal {
    Open(usize),
    Answer(usize),
    Start(usize),
    Again(usize),
    Look(usize),
    End(usize),
    Written(usize, usize),
    Commit(usize),
    Supply(usize, usize, usize),
}

/// One session.
struct Session {
    id: SessionId,
    route: Route,
    is_recorded: bool,
    a: Option<End>,
    b: Option<End>,
    /// Indices of its ends once they are there.
    ends: [Option<usize>; 2],
    messages: Vec<usize>,
    size_max: u64,
    is_open: bool,
    is_started: bool,
    ended_at: Option<Instant>,
    is_ending: bool,
    ends_early: bool,
    all_sent_at: Option<Instant>,
    lost: Option<Why>,
    began: Instant,
    /// What was handed out, by place.
    pieces: BTreeMap<u64, Vec<u8>>,
    completing: Option<usize>,
    sent: Option<u16>,
}

pub struct World {
    name: String,
    seed: u64,
    plan: Plan,
    step: u64,
    media: Media,
    door: Door,
    sessions: Vec<Session>,
    by_id: HashMap<SessionId, usize>,
    signals: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    signal: Vec<Option<Signal>>,
    is_prepend: bool,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last steps:");
            for line in &self.media.trace {
                eprintln!("{line}");
            }
            eprintln!(
                "--- step {} of seed {}: SIM_SEED={} cargo test --test sim {}",
                self.step, self.seed, self.seed, self.name
            );
        }
    }
}

impl World {
    pub fn new(name: &str, seed: u64, plan: Plan) -> Self {
        let mut rng = Rng::from_u64(seed);
        let settings = RelaySettings {
            listeners: vec![scene::msrp(0)],
            acknowledgement: [Acknowledgement::EndToEnd, Acknowledgement::HopByHop][usize::from(seed % 3 == 2)],
            path_mode: [PathMode::Prepend, PathMode::Replace][usize::from(rng.below(3) == 0)],
        };
        let is_prepend = settings.path_mode == PathMode::Prepend;
        let relay = Relay::new(settings, rng.split(), Instant::ZERO);
        let media = Media::new(rng, 1, plan.trouble);
        let door = Door { relay, now: Instant::ZERO };
        let name = name.into();
        let (sessions, by_id, signals, signal) = Default::default();
        Self { name, seed, plan, step: 0, media, door, sessions, by_id, signals, signal, is_prepend }
    }

    pub fn run(mut self) -> Counts {
        for index in 0..self.plan.sessions {
            let session = self.make_session();
            self.sessions.push(session);
            self.signal_in(Duration::from_secs(4), Signal::Open(index));
        }
        while let Some(at) = self.next_time() {
            self.turn(at);
        }
        self.check_rest();
        self.media.counts
    }

    fn next_time(&self) -> Option<Instant> {
        let signal = self.signals.peek().map(|Reverse((at, ..))| *at);
        [signal, self.media.next_time(), self.door.relay.poll_timeout()].into_iter().flatten().min()
    }

    fn turn(&mut self, at: Instant) {
        self.step += 1;
        assert!(self.step < STEP_COUNT_MAX, "it ends");
        let now = at.max(self.media.now);
        (self.media.now, self.door.now) = (now, now);
        if self.door.relay.poll_timeout().is_some_and(|due| due <= now) {
            self.door.relay.handle_timeout(now);
            let next = self.door.relay.poll_timeout();
            assert!(next.is_none_or(|next| next > now), "firing moves on: {next:?} at {now:?}");
            self.settle();
        }
        while let Some(Reverse((at, _, index))) = self.signals.peek().copied()
            && at <= now
        {
            self.signals.pop();
            if let Some(signal) = self.signal[index].take() {
                self.on_signal(signal);
                self.settle();
            }
        }
        while self.media.step(&mut self.door) {
            self.settle();
        }
    }

    /// What the relay asks for and tells is dealt with.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(effect) = self.door.relay.poll_effect() {
                self.media.on_effect(0, effect, &mut self.door);
                is_quiet = false;
            }
            while let Some(event) = self.door.relay.poll_event() {
                self.on_event(event);
                is_quiet = false;
            }
            if is_quiet {
                break;
            }
        }
        self.media.collect(0, &mut self.door);
        let levels = self.door.relay.levels();
        let (egress, alive) = (levels.egress_len as u64, self.media.alive.load(Ordering::Relaxed) as u64);
        let bound = (levels.connections * (MSRP_EGRESS_HIGH + OVERSHOOT_LEN)) as u64;
        assert!(egress <= bound, "{egress} bytes wait on {} connections", levels.connections);
        let counts = &mut self.media.counts;
        (counts.egress_max, counts.alive_max) = (counts.egress_max.max(egress), counts.alive_max.max(alive));
    }

    fn signal_in(&mut self, max: Duration, signal: Signal) {
        let wait = Duration::from_micros(1 + self.media.rng.below(max.as_micros() as u64));
        let index = self.signal.len();
        self.signal.push(Some(signal));
        self.signals.push(Reverse((self.media.now + wait, index as u64, index)));
    }

    fn make_session(&mut self) -> Session {
        let index = self.sessions.len();
        let is_hop_by_hop = self.seed % 3 == 2;
        let route = match self.media.below(8) {
            0 => Route::Spool,
            1 => Route::Source,
            _ if is_hop_by_hop => Route::HopByHop,
            _ => Route::EndToEnd,
        };
        let count = if route == Route::Source { 1 } else { 1 + self.media.below(4) };
        let mut messages = Vec::new();
        for _ in 0..count {
            let number = self.media.messages.len();
            let mut message = Message::random(number, route, self.plan.len_max, &mut self.media.rng);
            if !self.plan.is_rough || route == Route::Source {
                message.is_lie = false;
            }
            self.media.messages.push(message);
            messages.push(number);
        }
        let size_max = if self.plan.is_rough && self.media.below(10) == 0 { 20_000 } else { 10 << 20 };
        for number in &messages {
            let message = &mut self.media.messages[*number];
            message.is_refusable |= message.body.len() as u64 > size_max;
        }
        let (a, b) = (self.host(10), self.host(20));
        let hub = self.host(30);
        let is_hub = self.media.below(12) == 0;
        let side = |host: SocketAddr, letter: char, hops: usize| {
            let path = format!("msrp://{host}/{letter}{index};tcp");
            match hops {
                0 => format!("{path} msrp://far.example:2855/{letter}far{index};tcp"),
                _ => path,
            }
        };
        let (a, b) = if is_hub { (hub, hub) } else { (a, b) };
        let (a_path, b_path) = (side(a, 'a', self.media.below(4)), side(b, 'b', self.media.below(4)));
        let (a_dials, b_dials) = (self.media.below(4) > 0, self.media.below(2) == 0);
        let end = |host, path, dials| End::new(0, host, path, String::new(), dials);
        Session {
            id: SessionId::default(),
            route,
            is_recorded: route != Route::Spool && route != Route::Source && self.media.below(3) == 0,
            a: (route != Route::Source).then(|| end(a, a_path, a_dials)),
            b: (route != Route::Spool).then(|| end(b, b_path, b_dials)),
            ends: [None; 2],
            messages,
            size_max,
            is_open: false,
            is_started: false,
            ended_at: None,
            is_ending: false,
            ends_early: self.media.below(15) == 0,
            all_sent_at: None,
            lost: None,
            began: Instant::ZERO,
            pieces: BTreeMap::new(),
            completing: None,
            sent: None,
        }
    }

    fn host(&mut self, net: u8) -> SocketAddr {
        let number = self.media.below(usize::from(self.plan.hosts)) as u8;
        scene::address([198, 51, net, 1 + number], 2855)
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Open(index) => self.open(index),
            Signal::Answer(index) => self.answer(index),
            Signal::Start(index) => self.start(index),
            Signal::Again(index) => self.negotiate_again(index),
            Signal::Look(index) => self.look(index),
            Signal::End(index) => self.end(index),
            Signal::Written(index, len) => self.door.relay.written(self.sessions[index].id, len),
            Signal::Commit(index) => self.commit(index),
            Signal::Supply(index, offset, len) => self.supply(index, offset, len),
        }
    }

    fn open(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        session.began = self.media.now;
        session.is_open = true;
        let purpose = match session.route {
            Route::EndToEnd | Route::HopByHop => Purpose::Bridge { record: session.is_recorded },
            Route::Spool => Purpose::Spool,
            Route::Source => Purpose::Source,
        };
        let plan = OpenPlan { purpose, listeners: [0; 2], size_max: session.size_max };
        let id = self.door.relay.open(plan, self.media.now).expect("there is room");
        self.sessions[index].id = id;
        self.by_id.insert(id, index);
        self.media.note(|| format!("session {index} opens: {purpose:?}"));
        if self.sessions[index].a.is_some() {
            self.negotiate(index, Side::Originating);
        }
        self.signal_in(Duration::from_secs(1), Signal::Answer(index));
        if self.media.below(20) == 0 {
            self.signal_in(Duration::from_secs(3), Signal::End(index));
        }
    }

    fn negotiate(&mut self, index: usize, side: Side) {
        let session = &self.sessions[index];
        let known = session.ends[side.index()].map(|end| &self.media.ends[end]);
        let waits = if side == Side::Originating { session.a.as_ref() } else { session.b.as_ref() };
        let Some(end) = known.or(waits) else { return };
        let (host, path, dials) = (end.host, end.path.clone(), end.dials);
        let dead = SocketAddr::new(host.ip(), DEAD_PORT);
        let mute = SocketAddr::new(host.ip(), MUTE_PORT);
        let connect_to = match index % 8 {
            0 => vec![dead, host],
            1 => vec![mute, host],
            _ => vec![host],
        };
        let plan = LegPlan {
            peer_path: path.as_bytes(),
            role: if dials { Role::Passive } else { Role::Active },
            connect_to: &connect_to,
            accept_types: b"message/cpim text/plain",
        };
        let id = session.id;
        self.door.relay.negotiate(id, side, plan, self.media.now);
    }

    fn answer(&mut self, index: usize) {
        if self.sessions[index].ended_at.is_some() {
            return;
        }
        if self.sessions[index].b.is_some() {
            self.negotiate(index, Side::Terminating);
        }
        let is_prepend = self.is_prepend;
        let session = &mut self.sessions[index];
        let (a, b) = (session.a.take(), session.b.take());
        let (a_path, b_path) = (a.as_ref().map(|end| end.path.clone()), b.as_ref().map(|end| end.path.clone()));
        let id = session.id;
        let is_rough = self.plan.is_rough;
        if let Some(mut end) = b {
            end.far_path = far_path(self.door.relay.uri(id, Side::Terminating), a_path.as_deref(), is_prepend);
            end.to = end.far_path.clone();
            let habit = match self.media.below(if is_rough { 8 } else { 3 }) {
                0 => Habit::Late(self.media.rng.below(4_000) + 1),
                3 => Habit::Refuses {
                    after: self.media.below(6),
                    status: [400, 403, 413, 415, 423, 481, 506, 501][self.media.below(8)],
                    at_head: self.media.below(2) == 0,
                },
                4 if self.media.below(2) == 0 => Habit::Silent { after: self.media.below(6) },
                _ => Habit::Good,
            };
            end.receives = Some(Receiver::new(habit));
            let dials = end.dials;
            let number = self.media.add_end(end);
            self.sessions[index].ends[1] = Some(number);
            if dials {
                self.media.soon(Duration::from_millis(500), Happening::Dial(number));
            }
        }
        if let Some(mut end) = a {
            end.far_path = far_path(self.door.relay.uri(id, Side::Originating), b_path.as_deref(), is_prepend);
            let own = self.door.relay.uri(id, Side::Originating);
            end.to = if self.media.below(4) == 0 { own.into() } else { end.far_path.clone() };
            let queue = self.sessions[index].messages.clone();
            let window = [1, 2, 8, 64][self.media.below(4)];
            let pace = [1, 1, 5, 400][self.media.below(4)];
            end.sends = Some(Sender { queue, at: 0, window, is_due: false, pace });
            let dials = end.dials;
            let number = self.media.add_end(end);
            self.sessions[index].ends[0] = Some(number);
            if dials {
                self.media.soon(Duration::from_millis(300), Happening::Dial(number));
            }
        }
        self.signal_in(Duration::from_millis(200), Signal::Start(index));
        self.signal_in(Duration::from_millis(900), Signal::Look(index));
    }

    fn start(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        if session.ended_at.is_some() {
            return;
        }
        session.is_started = true;
        let (id, route) = (session.id, session.route);
        self.media.note(|| format!("session {index} starts"));
        self.door.relay.start(id, self.media.now);
        if route == Route::Source {
            let number = self.sessions[index].messages[0];
            let total = self.media.messages[number].body.len() as u64;
            let message_id = format!("m{number}");
            let message = SourceMessage { message_id: &message_id, content_type: "message/cpim", total, offset: 0 };
            self.door.relay.submit(id, message, self.media.now);
        }
        if self.media.below(5) == 0 {
            self.signal_in(Duration::from_secs(3), Signal::Again(index));
        }
        if self.sessions[index].ends_early {
            self.signal_in(Duration::from_secs(10), Signal::End(index));
        }
    }

    /// A re-INVITE that changes nothing.
    fn negotiate_again(&mut self, index: usize) {
        if self.sessions[index].ended_at.is_none() {
            for side in Side::BOTH {
                self.negotiate(index, side);
            }
        }
    }

    /// Whether it is time to say BYE.
    fn look(&mut self, index: usize) {
        let session = &self.sessions[index];
        if session.ended_at.is_some() {
            return;
        }
        let now = self.media.now;
        let age = now.since(session.began);
        assert!(age < STUCK, "session {index} goes nowhere: lost {:?}, ends {:?}", session.lost, session.ends);
        let is_done = match session.route {
            Route::Source => session.sent.is_some(),
            _ => {
                let end = session.ends[0].map(|end| &self.media.ends[end]);
                let waits = |end: &&End| end.waiting.values().any(|waiting| matches!(waiting, Waiting::Chunk { .. }));
                end.is_some_and(|end| end.is_all_sent() && !waits(&end))
            }
        };
        let session = &mut self.sessions[index];
        if is_done && session.all_sent_at.is_none() {
            session.all_sent_at = Some(now);
        }
        let patience = match self.seed % 4 {
            0 => Duration::from_secs(70),
            _ => Duration::from_secs(12),
        };
        if session.all_sent_at.is_some_and(|at| now.since(at) > patience) && !session.is_ending {
            session.is_ending = true;
            self.signal_in(Duration::from_secs(2), Signal::End(index));
        }
        self.signal_in(Duration::from_secs(2), Signal::Look(index));
    }

    fn end(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        if session.ended_at.is_some() {
            return;
        }
        session.ended_at = Some(self.media.now);
        session.pieces.clear();
        let (id, ends) = (session.id, session.ends);
        self.media.note(|| format!("session {index} ends"));
        self.by_id.remove(&id);
        for end in ends.into_iter().flatten() {
            self.media.end_over(end);
        }
        self.door.relay.end(id, self.media.now);
        self.settle();
    }

    fn commit(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let Some(number) = session.completing.take() else { return };
        if session.ended_at.is_some() {
            return;
        }
        let outcome = if self.plan.is_rough && self.media.below(6) == 0 { Err(413) } else { Ok(()) };
        let message = &mut self.media.messages[number];
        message.is_committed = outcome.is_ok();
        message.refused = outcome.err();
        let id = self.sessions[index].id;
        self.media.note(|| format!("session {index}: m{number} is committed: {outcome:?}"));
        self.door.relay.committed(id, outcome, self.media.now);
    }

    fn supply(&mut self, index: usize, offset: usize, len: usize) {
        if self.sessions[index].ended_at.is_some() {
            return;
        }
        let number = self.sessions[index].messages[0];
        let bytes = Bytes::copy_from_slice(&self.media.messages[number].body[offset..offset + len]);
        self.door.relay.supply(self.sessions[index].id, bytes, self.media.now);
    }

    fn on_event(&mut self, event: Event) {
        let (Event::Bound { id, .. }
        | Event::Piece { id, .. }
        | Event::Complete { id, .. }
        | Event::Aborted { id }
        | Event::Wanted { id, .. }
        | Event::Sent { id, .. }
        | Event::Lost { id, .. }) = &event;
        let Some(index) = self.by_id.get(id).copied() else { return };
        let session = &mut self.sessions[index];
        if session.lost.is_some() {
            let is_news = matches!(event, Event::Lost { .. } | Event::Complete { .. } | Event::Wanted { .. });
            assert!(!is_news, "session {index} was lost before: {event:?}");
        }
        let line = match &event {
            Event::Piece { offset, bytes, .. } => format!("Piece {offset} {}", bytes.len()),
            other => format!("{other:?}"),
        };
        self.media.note(|| format!("session {index}: {line}"));
        match event {
            Event::Bound { side, .. } => self.media.note(|| format!("session {index}: {side:?} is bound")),
            Event::Piece { offset, bytes, .. } => {
                session.pieces.insert(offset, bytes.to_vec());
                if session.route == Route::Spool {
                    let max = if self.media.below(20) == 0 { 900 } else { 30 };
                    self.signal_in(Duration::from_millis(max), Signal::Written(index, bytes.len()));
                }
            }
            Event::Complete { message_id, content_type, total, .. } => {
                assert_eq!(&*content_type, b"message/cpim");
                let id = std::str::from_utf8(&message_id).expect("a Message-ID of ours");
                let number: usize = id[1..].parse().expect("a Message-ID of ours");
                let pieces = std::mem::take(&mut session.pieces);
                let body: Vec<u8> = pieces.into_values().flatten().collect();
                let message = &mut self.media.messages[number];
                assert_eq!(total as usize, body.len(), "session {index}: m{number}");
                assert!(body == message.body, "session {index}: m{number} is handed out changed");
                if session.route == Route::Spool {
                    session.completing = Some(number);
                    self.signal_in(Duration::from_millis(500), Signal::Commit(index));
                } else {
                    assert!(session.is_recorded && !message.is_recorded);
                    let is_there = message.is_done && message.refused.is_none();
                    assert!(is_there || !message.wants_responses(), "session {index}: m{number} is no history");
                    message.is_recorded = true;
                }
            }
            Event::Aborted { .. } => session.pieces.clear(),
            Event::Wanted { offset, len, .. } => {
                assert_eq!(session.route, Route::Source);
                self.signal_in(Duration::from_millis(20), Signal::Supply(index, offset as usize, len as usize));
            }
            Event::Sent { status, .. } => {
                assert_eq!(session.sent, None, "session {index}: told once");
                session.sent = Some(status);
                let message = &self.media.messages[session.messages[0]];
                assert!(status != 200 || (message.is_done && message.refused.is_none()), "session {index}: sent");
                self.media.note(|| format!("session {index}: sent, {status}"));
            }
            Event::Lost { side, why, .. } => {
                session.lost = Some(why);
                let ends = session.ends;
                self.media.note(|| format!("session {index}: {side:?} is lost, {why:?}"));
                for end in ends.into_iter().flatten() {
                    self.media.ends[end].is_lost = true;
                }
                if why == Why::Idle {
                    self.check_idle(index);
                }
                self.signal_in(Duration::from_secs(1), Signal::End(index));
            }
        }
    }

    /// Nobody waits for the relay in a session that is given up because nothing happens.
    fn check_idle(&self, index: usize) {
        let Some(end) = self.sessions[index].ends[0] else { return };
        let end = &self.media.ends[end];
        let Some(wire) = end.wire else { return };
        let wire = &self.media.wires[wire];
        if wire.backlog() > 0 || wire.is_paused() || wire.is_unread() || wire.sent_garbage {
            return;
        }
        let waiting: Vec<_> =
            end.waiting.iter().filter(|(_, waiting)| matches!(waiting, Waiting::Chunk { .. })).collect();
        assert!(waiting.is_empty(), "session {index} is idle, and its sender waits: {waiting:?}");
    }

    fn check_rest(&mut self) {
        let levels = self.door.relay.levels();
        assert_eq!((levels.sessions, levels.connections, levels.egress_len), (0, 0, 0));
        assert_eq!(self.door.relay.poll_timeout(), None);
        assert_eq!(self.media.alive.load(Ordering::Relaxed), 0, "no receive buffer is kept");
        assert_eq!(self.media.open_count(), 0, "no connection is left open");
        self.door.relay.check_invariants();
        for (index, session) in self.sessions.iter().enumerate() {
            assert!(session.ended_at.is_some(), "session {index} ended");
            for number in &session.messages {
                self.check_message(index, *number);
            }
        }
    }

    fn check_message(&self, index: usize, number: usize) {
        let session = &self.sessions[index];
        let message = &self.media.messages[number];
        let is_over = session.lost.is_some() || session.all_sent_at.is_none();
        let is_cut_off = session.ends.iter().flatten().any(|end| self.media.ends[*end].is_cut_off);
        let is_there = match session.route {
            Route::Spool => message.is_committed,
            _ => message.is_done,
        };
        let brief = Message { body: Vec::new(), covered: Vec::new(), ..message.clone() };
        if message.is_all_sent && message.wants_responses() && message.ack_count == message.chunk_count {
            let is_excused = session.route == Route::HopByHop && (message.failed.is_some() || is_over || is_cut_off);
            assert!(is_there || is_excused, "session {index}: m{number} was acknowledged, and is not there: {brief:?}");
        }
        if message.is_all_sent && !message.is_given_up && !is_over && !is_cut_off && message.failed.is_none() {
            let nobody_asked = message.wish == super::peers::Wish::No && message.is_refusable;
            // Behind a receiver that is slow to the end, the BYE came first.
            let is_unasked = !message.wants_responses();
            assert!(
                is_there || nobody_asked || is_unasked,
                "session {index}: m{number} went, and nobody knows: {brief:?}"
            );
        }
    }
}

fn far_path(own: &str, other: Option<&str>, is_prepend: bool) -> String {
    match other {
        Some(other) if is_prepend => format!("{own} {other}"),
        _ => own.to_owned(),
    }
}

/// Longer than every timer together.
const STUCK: Duration = Duration::from_secs(3_600);
const STEP_COUNT_MAX: u64 = 3_000_000;
/// What may arrive between the moment a connection is full and the moment its senders are not read any more.
const OVERSHOOT_LEN: usize = 256 * 1024;
