//! Callers, devices, the network between them and the appliance, its store and spool, on one virtual clock.

use super::sip::{Dialog, Sip, T1, T2};
use super::spool::SpoolModel;
use crate::msrp::peers::{End, Habit, Message, Receiver, Route, Sender, Waiting, Wish};
use crate::msrp::wire::{Counts, Doors, Happening, Media, Trouble};
use bytes::Bytes;
use ringpost::base::id::{Aor, ConnId, MessageId, ShardId, Ticket};
use ringpost::base::rng::Rng;
use ringpost::base::time::{Instant, Now};
use ringpost::metrics::counters::ShardMetrics;
use ringpost::metrics::names::Gauge;
use ringpost::msrp::effect::ConnectTicket;
use ringpost::participating::core::Core;
use ringpost::participating::effect::{Effect, Socket, StreamTarget};
use ringpost::participating::input::{ControlAnswer, Input, Source, Transport};
use ringpost::participating::preferences::{DeviceSelection, Handling, Profile};
use ringpost::participating::settings::Settings;
use ringpost::participating::storage::{Answer, Command, Fault, Reply, Settlement, SpoolCommand};
use ringpost::participating::subscriber::{Directory, Subscriber};
use ringpost::testing::directory::MapDirectory;
use ringpost::testing::scene;
use ringpost::testing::store::ModelStore;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a world is like; odds in percent.
#[derive(Clone, Copy)]
pub struct Plan {
    pub shard_count: u16,
    pub calls: usize,
    pub loss: u64,
    pub duplication: u64,
    pub delay_max: Duration,
    pub store_fault: u64,
    pub trouble: Trouble,
    /// Peers cancel, refuse, stay silent and hang up.
    pub is_rough: bool,
    /// Users come and go.
    pub toggles: usize,
}

impl Plan {
    pub fn calm(shard_count: u16) -> Self {
        Self {
            shard_count,
            calls: 10,
            loss: 0,
            duplication: 0,
            delay_max: Duration::from_millis(20),
            store_fault: 0,
            trouble: Trouble::default(),
            is_rough: false,
            toggles: 4,
        }
    }
}

/// What a run saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    pub calls: u64,
    pub answered: u64,
    pub refused: u64,
    pub cancelled: u64,
    pub unanswered: u64,
    pub spooled: u64,
    pub deferred: u64,
    pub delivered_later: u64,
    pub late_answers: u64,
    pub media: Counts,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.refused += other.refused;
        self.cancelled += other.cancelled;
        self.unanswered += other.unanswered;
        self.spooled += other.spooled;
        self.deferred += other.deferred;
        self.delivered_later += other.delivered_later;
        self.late_answers += other.late_answers;
        self.media += other.media;
    }
}

enum Event {
    Datagram {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Stream {
        shard: u16,
        bytes: Vec<u8>,
    },
    Posted {
        to: u16,
        input: Input,
    },
    Commit,
    Spool,
    Answered {
        shard: u16,
        input: Input,
    },
    Call(usize),
    Cancel(usize),
    Again(usize),
    /// Timer A, B, E or F of a transaction of a peer.
    Resend(usize),
    /// A device answers.
    Decide {
        device: usize,
        status: u16,
    },
    /// Timer G or the retransmission of a 2xx.
    Repeat {
        device: usize,
    },
    /// The caller looks whether it is done.
    Look(usize),
    HangUp {
        device: usize,
    },
    Toggle,
    Calm,
}

struct Timed {
    at: Instant,
    order: u64,
    event: Event,
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

/// A client transaction of a peer.
struct Txn {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
    interval: Duration,
    started: Instant,
    is_invite: bool,
    is_done: bool,
}

/// A caller.
struct Call {
    addr: SocketAddr,
    call_id: String,
    user: usize,
    invite: Option<Sip>,
    txn: Option<usize>,
    has_provisional: bool,
    wants_cancel: bool,
    arrived: bool,
    finals: BTreeSet<(u16, String)>,
    status: Option<u16>,
    dialog: Option<Dialog>,
    ack: Option<Vec<u8>>,
    /// It is over for the caller.
    is_over: bool,
    has_again: bool,
    end: Option<usize>,
    media: MediaOffer,
    messages: Vec<usize>,
    began: Instant,
    done_at: Option<Instant>,
}

#[derive(Clone)]
struct MediaOffer {
    host: SocketAddr,
    path: String,
    setup: &'static str,
}

/// A device's side of an INVITE.
struct Device {
    invite: Sip,
    tag: String,
    media: MediaOffer,
    /// The last response.
    last: Option<Vec<u8>>,
    status: u16,
    is_acked: bool,
    /// It has ended, or never began.
    is_over: bool,
    interval: Duration,
    answered_at: Instant,
    cseq: u32,
    end: Option<usize>,
    shard: Option<u16>,
}

struct Cores {
    shards: Vec<Core<MapDirectory>>,
    now: Now,
}

impl Doors for Cores {
    fn accepted(&mut self, shard: u16, conn: ConnId, peer: SocketAddr) -> bool {
        self.shards[usize::from(shard)].media_accepted(conn, peer, 0, self.now)
    }
    fn connected(&mut self, shard: u16, ticket: ConnectTicket, conn: ConnId) -> bool {
        self.shards[usize::from(shard)].media_connected(ticket, conn, self.now)
    }
    fn connect_failed(&mut self, shard: u16, ticket: ConnectTicket) {
        self.shards[usize::from(shard)].media_connect_failed(ticket, self.now);
    }
    fn closed(&mut self, shard: u16, conn: ConnId) {
        self.shards[usize::from(shard)].media_closed(conn, self.now);
    }
    fn bytes(&mut self, shard: u16, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes) {
        self.shards[usize::from(shard)].handle_media(conn, bytes, share, self.now);
    }
    fn sent(&mut self, shard: u16, conn: ConnId, len: usize) {
        self.shards[usize::from(shard)].media_sent(conn, len, self.now);
    }
    fn poll_dirty(&mut self, shard: u16) -> Option<ConnId> {
        self.shards[usize::from(shard)].poll_media()
    }
    fn take(&mut self, shard: u16, conn: ConnId, batch: &mut Vec<Bytes>) {
        self.shards[usize::from(shard)].take_media(conn, batch);
    }
}

pub struct World {
    name: String,
    seed: u64,
    plan: Plan,
    rng: Rng,
    step: u64,
    cores: Cores,
    metrics: Vec<Arc<ShardMetrics>>,
    media: Media,
    directory: MapDirectory,
    store: ModelStore,
    spool: SpoolModel,
    commands: VecDeque<(u16, Ticket, Command)>,
    spooling: VecDeque<(u16, Ticket, SpoolCommand)>,
    /// The message of each deferral, and the same on its way to a device.
    deferrals: BTreeMap<MessageId, (usize, usize)>,
    events: BinaryHeap<Reverse<Timed>>,
    order: u64,
    calls: Vec<Call>,
    devices: Vec<Device>,
    txns: Vec<Txn>,
    txn_of: HashMap<(String, String), usize>,
    calm: bool,
    totals: Totals,
    /// Users of whom a device refused a delivery.
    refusals: BTreeSet<usize>,
    /// Whose history is kept.
    recorded: BTreeSet<usize>,
}

const USER_COUNT: usize = 4;
const BUSY: Duration = Duration::from_secs(120);
const DRAIN: Duration = Duration::from_secs(8 * 3600);

fn user(index: usize) -> String {
    format!("sip:u{index}@home.example")
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
        let now = scene::after(Duration::from_secs(1));
        let directory = MapDirectory::default();
        let mut settings = scene::settings(0, plan.shard_count);
        settings.deferred_pace = 100;
        let (mut shards, mut metrics) = (Vec::new(), Vec::new());
        for shard in 0..plan.shard_count {
            let own = scene::settings(shard, plan.shard_count);
            let settings = Settings { listeners: own.listeners, msrp: own.msrp, ..settings.clone() };
            let counters = Arc::new(ShardMetrics::default());
            let core_rng = rng.split();
            shards.push(Core::new(
                ShardId(shard),
                Arc::new(settings),
                directory.clone(),
                core_rng,
                Arc::clone(&counters),
                now,
            ));
            metrics.push(counters);
        }
        let mut media = Media::new(rng.split(), plan.shard_count, plan.trouble);
        (media.now, media.is_sip_slow) = (now.at, true);
        let mut world = Self {
            name: name.into(),
            seed,
            plan,
            rng,
            step: 0,
            cores: Cores { shards, now },
            metrics,
            media,
            directory,
            store: ModelStore::default(),
            spool: SpoolModel::default(),
            commands: VecDeque::new(),
            spooling: VecDeque::new(),
            deferrals: BTreeMap::new(),
            events: BinaryHeap::new(),
            order: 0,
            calls: Vec::new(),
            devices: Vec::new(),
            txns: Vec::new(),
            txn_of: HashMap::new(),
            calm: false,
            totals: Totals::default(),
            refusals: BTreeSet::new(),
            recorded: BTreeSet::new(),
        };
        for index in 0..USER_COUNT {
            world.make_user(index);
        }
        world
    }

    pub fn run(mut self) -> Totals {
        for index in 0..self.plan.calls {
            let call = self.make_call(index);
            self.calls.push(call);
            let at = self.now() + Duration::from_millis(self.rng.below(60_000));
            self.at(at, Event::Call(index));
        }
        for _ in 0..self.plan.toggles {
            let at = self.now() + Duration::from_millis(self.rng.below(BUSY.as_millis() as u64));
            self.at(at, Event::Toggle);
        }
        self.at(Instant::ZERO + BUSY + Duration::from_secs(2), Event::Calm);
        let end = Instant::ZERO + BUSY + DRAIN;
        while let Some(at) = self.next_time().filter(|at| *at < end) {
            self.turn(at);
        }
        self.check_rest();
        self.totals.media = self.media.counts;
        self.totals
    }

    fn now(&self) -> Instant {
        self.cores.now.at
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Timed { at, order: self.order, event }));
    }

    fn soon(&mut self, max: Duration, event: Event) {
        let at = self.now() + Duration::from_micros(50 + self.rng.below(max.as_micros().max(1) as u64));
        self.at(at, event);
    }

    fn chance(&mut self, percent: u64) -> bool {
        percent > 0 && self.rng.below(100) < percent
    }

    fn is_bad(&mut self, percent: u64) -> bool {
        !self.calm && self.chance(percent)
    }

    fn next_time(&self) -> Option<Instant> {
        let event = self.events.peek().map(|Reverse(timed)| timed.at);
        let timer = self.cores.shards.iter().filter_map(Core::poll_timeout).map(|(at, _)| at).min();
        [event, timer, self.media.next_time()].into_iter().flatten().min()
    }

    fn turn(&mut self, at: Instant) {
        self.step += 1;
        assert!(self.step < STEP_COUNT_MAX, "it ends");
        let now = scene::after(Duration::from_nanos(at.0.max(self.now().0)));
        (self.cores.now, self.media.now) = (now, now.at);
        for shard in 0..self.plan.shard_count {
            let core = &mut self.cores.shards[usize::from(shard)];
            if core.poll_timeout().is_some_and(|(due, _)| due <= now.at) {
                core.handle_timeout(now);
                let next = core.poll_timeout();
                assert!(next.is_none_or(|(next, _)| next > now.at), "firing moves on: {next:?}");
                self.settle();
            }
        }
        while self.events.peek().is_some_and(|Reverse(timed)| timed.at <= now.at) {
            if let Some(Reverse(timed)) = self.events.pop() {
                self.happen(timed.event);
                self.settle();
            }
        }
        while self.media.step(&mut self.cores) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        for shard in 0..self.plan.shard_count {
            while let Some(effect) = self.cores.shards[usize::from(shard)].poll_effect() {
                self.carry_out(shard, effect);
            }
            self.media.collect(shard, &mut self.cores);
        }
    }

    fn carry_out(&mut self, shard: u16, effect: Effect) {
        match effect {
            Effect::SendDatagram { to, bytes, socket, .. } => {
                self.watch_final(&bytes, to);
                let from = match socket {
                    Socket::WellKnown => scene::WELL_KNOWN,
                    Socket::Own => scene::own(shard),
                };
                self.datagram(from, to, bytes.to_vec());
            }
            Effect::SendStream { to: StreamTarget::Peer(to), bytes, .. } => {
                self.soon(
                    Duration::from_millis(5),
                    Event::Datagram { to, from: scene::own(shard), bytes: bytes.to_vec() },
                );
            }
            Effect::SendStream { .. } => unreachable!("no caller comes over a stream"),
            Effect::Store { ticket, command } => {
                self.commands.push_back((shard, ticket, command));
                self.soon(Duration::from_millis(50), Event::Commit);
            }
            Effect::Spool { ticket, command } => {
                self.spooling.push_back((shard, ticket, command));
                self.soon(Duration::from_millis(20), Event::Spool);
            }
            Effect::Control { ticket, .. } => {
                let input = Input::Control { ticket, answer: ControlAnswer::Resolved(vec![scene::CORE]) };
                self.soon(Duration::from_millis(5), Event::Answered { shard, input });
            }
            Effect::Media(effect) => self.media.on_effect(shard, effect, &mut self.cores),
            Effect::Post { to, input } => self.soon(Duration::from_millis(1), Event::Posted { to: to.0, input }),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Datagram { to, from, bytes } => self.on_datagram(to, from, &bytes),
            Event::Stream { shard, bytes } => {
                let source = Source {
                    transport: Transport::Tcp,
                    peer: scene::CORE,
                    listener: 0,
                    socket: Socket::WellKnown,
                    conn: None,
                };
                self.cores.shards[usize::from(shard)].handle_message(&bytes, source, self.cores.now);
            }
            Event::Posted { to, input } => self.cores.shards[usize::from(to)].handle_input(input, self.cores.now),
            Event::Answered { shard, input } => {
                self.cores.shards[usize::from(shard)].handle_input(input, self.cores.now)
            }
            Event::Commit => self.commit(),
            Event::Spool => self.spool(),
            Event::Call(call) => self.call(call),
            Event::Cancel(call) => self.cancel(call),
            Event::Again(call) => self.invite_again(call),
            Event::Resend(txn) => self.resend(txn),
            Event::Decide { device, status } => self.decide(device, status),
            Event::Repeat { device } => self.repeat(device),
            Event::Look(call) => self.look(call),
            Event::HangUp { device } => self.device_hangs_up(device),
            Event::Toggle => self.toggle(),
            Event::Calm => {
                self.media.note(|| "the world gets well".into());
                self.calm = true;
                self.media.trouble = Trouble::default();
                for index in 0..USER_COUNT {
                    self.register(index, true);
                }
            }
        }
    }

    // The network.

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let copies = match () {
            () if self.is_bad(self.plan.loss) => 0,
            () if self.is_bad(self.plan.duplication) => 2,
            () => 1,
        };
        if copies == 0 {
            let first = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            self.media.note(|| format!("lost: {:?}", first.lines().next()));
        }
        for _ in 0..copies {
            self.soon(self.plan.delay_max, Event::Datagram { to, from, bytes: bytes.clone() });
        }
    }

    fn on_datagram(&mut self, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let shard = if to == scene::WELL_KNOWN {
            Some(self.rng.below(u64::from(self.plan.shard_count)) as u16)
        } else {
            (0..self.plan.shard_count).find(|shard| scene::own(*shard) == to)
        };
        if let Some(shard) = shard {
            if bytes.starts_with(b"INVITE")
                && let Some(call) = self.calls.iter_mut().find(|call| call.addr == from)
            {
                call.arrived = true;
            }
            let socket = if to == scene::WELL_KNOWN { Socket::WellKnown } else { Socket::Own };
            let source = Source { socket, ..scene::datagram_from(from) };
            return self.cores.shards[usize::from(shard)].handle_message(bytes, source, self.cores.now);
        }
        let sip = Sip::parse(bytes);
        let line = format!("{to} gets {} ({})", sip.start, sip.get("CSeq"));
        self.media.note(|| line);
        if sip.status() > 0 {
            self.on_response(to, &sip);
        } else if to == scene::CORE {
            self.on_core_request(from, &sip);
        } else {
            self.on_caller_request(to, from, &sip);
        }
    }

    // Transactions of the peers.

    fn start(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> usize {
        let sip = Sip::parse(&bytes);
        let index = self.txns.len();
        let is_invite = sip.method() == "INVITE";
        self.txn_of.insert((sip.branch().to_owned(), sip.method().to_owned()), index);
        self.txns.push(Txn { from, to, bytes, interval: T1, started: self.now(), is_invite, is_done: false });
        let line = format!("{from} sends {}", sip.start);
        self.media.note(|| line);
        self.transmit(index);
        self.at(self.now() + T1, Event::Resend(index));
        index
    }

    fn transmit(&mut self, txn: usize) {
        let Txn { from, to, bytes, .. } = &self.txns[txn];
        let (from, to, bytes) = (*from, *to, bytes.clone());
        self.datagram(from, to, bytes);
    }

    fn resend(&mut self, index: usize) {
        let now = self.now();
        let txn = &mut self.txns[index];
        if txn.is_done {
            return;
        }
        if now.since(txn.started) >= 64 * T1 {
            txn.is_done = true;
            return;
        }
        txn.interval = if txn.is_invite { txn.interval * 2 } else { (txn.interval * 2).min(T2) };
        let at = now + txn.interval;
        self.transmit(index);
        self.at(at, Event::Resend(index));
    }

    // Callers.

    fn make_call(&mut self, index: usize) -> Call {
        let to = self.rng.below(USER_COUNT as u64) as usize;
        let host = scene::address([198, 51, 10, 1 + self.rng.below(3) as u8], 2855);
        let setup = ["actpass", "active", "passive", ""][self.rng.below(4) as usize];
        let mut messages = Vec::new();
        for _ in 0..=self.rng.below(3) {
            let number = self.media.messages.len();
            let mut message = Message::random(number, Route::EndToEnd, 200_000, &mut self.rng);
            message.is_lie = false;
            message.content_type = "message/cpim";
            message.is_refusable = false;
            message.chunk_max = message.chunk_max.max(message.body.len() / 30 + 1);
            message.make_cpim(number);
            self.media.messages.push(message);
            messages.push(number);
        }
        Call {
            addr: scene::address([198, 51, 100, 1], 41_000 + index as u16),
            call_id: format!("c{index}@sim"),
            user: to,
            invite: None,
            txn: None,
            has_provisional: false,
            wants_cancel: false,
            arrived: false,
            finals: BTreeSet::new(),
            status: None,
            dialog: None,
            ack: None,
            is_over: false,
            has_again: false,
            end: None,
            media: MediaOffer { host, path: format!("msrp://{host}/a{index};tcp"), setup },
            messages,
            began: Instant::ZERO,
            done_at: None,
        }
    }

    fn call(&mut self, index: usize) {
        let call = &self.calls[index];
        let sdp = sdp(&call.media, "sendonly", 1);
        let timer = ["", "Supported: timer\r\nSession-Expires: 1800\r\n"][usize::from(index.is_multiple_of(3))];
        let request = format!(
            "INVITE {0} SIP/2.0\r\nVia: SIP/2.0/UDP {1};branch=z9hG4bKinv{index};rport\r\nMax-Forwards: 70\r\n\
             Route: <sip:term@192.0.2.1:5060;lr>\r\nP-Asserted-Identity: <sip:alice@a.example>\r\n\
             P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg\r\n{timer}\
             From: <sip:alice@a.example>;tag=f{index}\r\nTo: <{0}>\r\nCall-ID: {2}\r\nCSeq: 7 INVITE\r\n\
             Contact: <sip:alice@{1}>\r\nUser-Agent: CPM-client/OMA2.2\r\nContent-Type: application/sdp\r\n\
             Content-Length: {3}\r\n\r\n{sdp}",
            user(call.user),
            call.addr,
            call.call_id,
            sdp.len()
        );
        let (addr, bytes) = (call.addr, request.into_bytes());
        self.totals.calls += 1;
        let invite = Sip::parse(&bytes);
        let txn = self.start(addr, scene::WELL_KNOWN, bytes);
        let call = &mut self.calls[index];
        (call.invite, call.txn, call.began) = (Some(invite), Some(txn), self.cores.now.at);
        if self.plan.is_rough && self.rng.below(5) == 0 {
            self.soon(Duration::from_secs(8), Event::Cancel(index));
        }
    }

    fn cancel(&mut self, index: usize) {
        let call = &mut self.calls[index];
        if call.status.is_some() {
            return;
        }
        if !call.has_provisional {
            call.wants_cancel = true;
            return;
        }
        let invite = call.invite.as_ref().expect("only a call that was made is cancelled");
        let text = format!(
            "CANCEL {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nRoute: <sip:term@192.0.2.1:5060;lr>\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: 7 CANCEL\r\nContent-Length: 0\r\n\r\n",
            user(call.user),
            invite.get("Via"),
            invite.get("From"),
            invite.get("To"),
            call.call_id
        );
        let addr = call.addr;
        self.totals.cancelled += 1;
        self.start(addr, scene::WELL_KNOWN, text.into_bytes());
    }

    /// What leaves for a caller: one final response to its INVITE.
    fn watch_final(&mut self, bytes: &[u8], to: SocketAddr) {
        if !bytes.starts_with(b"SIP/2.0") {
            return;
        }
        let sip = Sip::parse(bytes);
        let Some(index) = self.calls.iter().position(|call| call.addr == to) else { return };
        if sip.get("CSeq") != "7 INVITE" || sip.status() < 200 {
            return;
        }
        let call = &mut self.calls[index];
        call.finals.insert((sip.status(), sip.tag("To").expect("a final response has a tag").to_owned()));
        assert_eq!(call.finals.len(), 1, "call {index} gets two final responses: {:?}", call.finals);
    }

    fn on_response(&mut self, to: SocketAddr, sip: &Sip) {
        let key = (sip.branch().to_owned(), sip.method().to_owned());
        let txn = *self.txn_of.get(&key).unwrap_or_else(|| panic!("{to}: {} answers nothing: {sip:?}", sip.start));
        let status = sip.status();
        if status < 200 {
            // Nothing is sent again, and the final response is waited for.
            self.txns[txn].is_done |= self.txns[txn].is_invite;
        }
        if status >= 200 {
            self.txns[txn].is_done = true;
        }
        if sip.method() != "INVITE" {
            return;
        }
        let Some(index) = self.calls.iter().position(|call| call.addr == to) else { return };
        let is_first = self.calls[index].txn == Some(txn);
        if status < 200 {
            let call = &mut self.calls[index];
            call.has_provisional = true;
            if is_first && std::mem::take(&mut call.wants_cancel) {
                self.cancel(index);
            }
            return;
        }
        if !is_first {
            return self.on_again_answered(index, sip);
        }
        if status >= 300 {
            let call = &mut self.calls[index];
            call.status.get_or_insert(status);
            call.is_over = true;
            let invite = call.invite.as_ref().expect("it was sent");
            let ack = format!(
                "ACK {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 7 ACK\r\n\
                 Content-Length: 0\r\n\r\n",
                user(call.user),
                invite.get("Via"),
                invite.get("From"),
                sip.get("To"),
                call.call_id
            );
            let addr = call.addr;
            return self.datagram(addr, scene::WELL_KNOWN, ack.into_bytes());
        }
        self.on_answered(index, sip);
    }

    /// The caller has its 200: it acknowledges, and its media begins.
    fn on_answered(&mut self, index: usize, ok: &Sip) {
        if self.calls[index].dialog.is_some() {
            return self.acknowledge(index);
        }
        let call = &mut self.calls[index];
        call.status = Some(200);
        let invite = call.invite.as_ref().expect("it was sent");
        let dialog = Dialog {
            call_id: call.call_id.clone(),
            local: invite.get("From").to_owned(),
            remote: ok.get("To").to_owned(),
            target: ok.contact().to_owned(),
            contact: format!("sip:alice@{}", call.addr),
            cseq: 7,
        };
        let branch = format!("z9hG4bKack{index}");
        call.ack = Some(dialog.request("ACK", 7, &branch, &call.addr.to_string(), ""));
        call.dialog = Some(dialog);
        let path = ok.attribute("path").expect("an answer has a path").to_owned();
        let setup = ok.attribute("setup").unwrap_or("passive").to_owned();
        let offered = call.media.setup;
        assert_eq!(setup == "active", offered == "passive", "call {index}: {offered} is answered {setup}");
        let shard = shard_of(&path);
        let mut end = End::new(shard, call.media.host, call.media.path.clone(), path.clone(), setup == "passive");
        let window = [1, 4, 32][self.rng.below(3) as usize];
        end.sends = Some(Sender { queue: call.messages.clone(), at: 0, window, is_due: false, pace: 2 });
        let is_bridged = path.contains(' ');
        for number in call.messages.clone() {
            self.media.messages[number].route = if is_bridged { Route::EndToEnd } else { Route::Spool };
        }
        let dials = end.dials;
        let end = self.media.add_end(end);
        self.calls[index].end = Some(end);
        if is_bridged {
            self.totals.answered += 1
        } else {
            self.totals.spooled += 1
        }
        self.acknowledge(index);
        if dials {
            self.media.soon(Duration::from_millis(100), Happening::Dial(end));
        }
        self.soon(Duration::from_secs(1), Event::Look(index));
        if self.rng.below(5) == 0 && is_bridged {
            self.soon(Duration::from_secs(2), Event::Again(index));
        }
    }

    fn acknowledge(&mut self, index: usize) {
        let call = &self.calls[index];
        let (addr, ack) = (call.addr, call.ack.clone().expect("it has an answer"));
        let to = address_of(&call.dialog.as_ref().expect("a dialog").target);
        self.datagram(addr, to, ack);
    }

    /// A re-INVITE that changes nothing.
    fn invite_again(&mut self, index: usize) {
        let call = &mut self.calls[index];
        if call.is_over || call.has_again {
            return;
        }
        call.has_again = true;
        let sdp = sdp(&call.media, "sendonly", 1);
        let dialog = call.dialog.as_mut().expect("a dialog");
        dialog.cseq += 1;
        let bytes =
            dialog.request("INVITE", dialog.cseq, &format!("z9hG4bKagain{index}"), &call.addr.to_string(), &sdp);
        let (addr, to) = (call.addr, address_of(&dialog.target));
        self.start(addr, to, bytes);
    }

    fn on_again_answered(&mut self, index: usize, sip: &Sip) {
        let call = &self.calls[index];
        let dialog = call.dialog.as_ref().expect("a dialog");
        let branch = if sip.status() < 300 { format!("z9hG4bKackagain{index}") } else { sip.branch().to_owned() };
        let bytes = dialog.request("ACK", sip.cseq(), &branch, &call.addr.to_string(), "");
        let (addr, to) = (call.addr, address_of(&dialog.target));
        self.datagram(addr, to, bytes);
    }

    /// Whether the caller says goodbye.
    fn look(&mut self, index: usize) {
        let now = self.now();
        let call = &self.calls[index];
        if call.is_over {
            return;
        }
        let end = &self.media.ends[call.end.expect("it has an answer")];
        let waits = end.waiting.values().any(|waiting| matches!(waiting, Waiting::Chunk { .. }));
        let is_done = (end.is_all_sent() && !waits) || end.is_over;
        let age = now.since(call.began);
        let is_impatient = self.plan.is_rough && index % 7 == 3 && age > Duration::from_secs(8);
        let call = &mut self.calls[index];
        if is_done {
            call.done_at.get_or_insert(now);
        }
        let rest = Duration::from_secs(if self.media.messages[call.messages[0]].wants_responses() { 2 } else { 20 });
        if is_impatient || call.done_at.is_some_and(|at| now.since(at) > rest) {
            return self.caller_hangs_up(index);
        }
        assert!(age < Duration::from_secs(3 * 3600), "call {index} goes nowhere");
        self.soon(Duration::from_secs(2), Event::Look(index));
    }

    fn caller_hangs_up(&mut self, index: usize) {
        let call = &mut self.calls[index];
        let dialog = call.dialog.as_mut().expect("a dialog");
        dialog.cseq += 1;
        let bytes = dialog.request("BYE", dialog.cseq, &format!("z9hG4bKbye{index}"), &call.addr.to_string(), "");
        let (addr, to) = (call.addr, address_of(&dialog.target));
        self.call_is_over(index);
        self.start(addr, to, bytes);
    }

    fn call_is_over(&mut self, index: usize) {
        self.calls[index].is_over = true;
        if let Some(end) = self.calls[index].end {
            self.media.end_over(end);
        }
    }

    fn on_caller_request(&mut self, to: SocketAddr, from: SocketAddr, sip: &Sip) {
        let index = self.calls.iter().position(|call| call.addr == to).unwrap_or_else(|| panic!("nobody is {to}"));
        let method = sip.method();
        let known = self.calls[index].dialog.as_ref().map(|dialog| dialog.remote == sip.get("From"));
        let status = match (method, known) {
            ("ACK", _) => return,
            (_, Some(true)) => 200,
            // It was never heard of, or the 200 that would have told has not come.
            _ => 481,
        };
        if method == "BYE" && status == 200 {
            self.call_is_over(index);
        }
        let call = &self.calls[index];
        let lines = format!("Contact: <sip:alice@{}>\r\n", call.addr);
        let response = match method {
            "INVITE" | "UPDATE" if status == 200 && !sip.body.is_empty() => {
                let sdp = sdp(&call.media, "sendonly", 1);
                sip.response(200, "", &format!("{lines}Content-Type: application/sdp\r\n"), &sdp)
            }
            _ => sip.response(status, "", &lines, ""),
        };
        self.datagram(to, from, response);
    }

    // Devices.

    fn on_core_request(&mut self, from: SocketAddr, sip: &Sip) {
        match (sip.method(), sip.tag("To").map(str::to_owned)) {
            ("INVITE", None) => self.on_device_invite(from, sip),
            ("CANCEL", _) => self.on_device_cancel(from, sip),
            ("ACK", Some(tag)) => self.on_device_ack(sip, &tag),
            ("ACK", None) => {}
            (_, Some(tag)) => self.on_device_request(from, sip, &tag),
            ("MESSAGE", None) => self.answer_back(from, sip, sip.response(200, "d", "", "")),
            (other, None) => panic!("the core gets {other}"),
        }
    }

    fn answer_back(&mut self, to: SocketAddr, request: &Sip, response: Vec<u8>) {
        match (0..self.plan.shard_count).find(|shard| scene::own(*shard) == to) {
            Some(shard) if request.is_over_tcp() => {
                self.soon(Duration::from_millis(5), Event::Stream { shard, bytes: response });
            }
            _ => self.datagram(scene::CORE, to, response),
        }
    }

    fn back(&self, device: usize) -> SocketAddr {
        let via = self.devices[device].invite.get("Via");
        via.split([' ', ';']).nth(1).and_then(|addr| addr.parse().ok()).expect("an address in Via")
    }

    fn on_device_invite(&mut self, from: SocketAddr, sip: &Sip) {
        let known: Vec<usize> = (0..self.devices.len())
            .filter(|device| {
                let invite = &self.devices[*device].invite;
                invite.branch() == sip.branch() && invite.get("Call-ID") == sip.get("Call-ID")
            })
            .collect();
        if !known.is_empty() {
            for device in known {
                if let Some(last) = self.devices[device].last.clone().filter(|_| !self.devices[device].is_acked) {
                    self.answer_back(from, sip, last);
                }
            }
            return;
        }
        self.answer_back(from, sip, sip.response(100, "", "", ""));
        let roll = if self.calm || !self.plan.is_rough { 9 } else { self.rng.below(12) };
        let quick = Duration::from_millis(300);
        match roll {
            0 => {
                // Nobody is there.
                self.new_device(sip);
            }
            1 | 2 => {
                let status = [302, 404, 480, 486, 500, 503, 603][self.rng.below(7) as usize];
                let device = self.new_device(sip);
                self.ring(device);
                self.soon(Duration::from_secs(3), Event::Decide { device, status });
            }
            3 => {
                // Two devices answer.
                for _ in 0..2 {
                    let device = self.new_device(sip);
                    self.ring(device);
                    self.soon(Duration::from_secs(2), Event::Decide { device, status: 200 });
                }
            }
            4 => {
                let device = self.new_device(sip);
                self.ring(device);
                self.soon(Duration::from_secs(250), Event::Decide { device, status: 200 });
            }
            5 => {
                let device = self.new_device(sip);
                self.ring(device);
                self.soon(Duration::from_secs(8), Event::Decide { device, status: 200 });
            }
            _ => {
                let device = self.new_device(sip);
                if self.rng.below(2) == 0 {
                    self.ring(device);
                }
                self.soon(quick, Event::Decide { device, status: 200 });
            }
        }
    }

    fn new_device(&mut self, invite: &Sip) -> usize {
        let index = self.devices.len();
        let host = scene::address([198, 51, 20, 1 + self.rng.below(3) as u8], 2855);
        let setup = ["active", "passive", ""][self.rng.below(3) as usize];
        self.devices.push(Device {
            invite: invite.clone(),
            tag: format!("d{index}"),
            media: MediaOffer { host, path: format!("msrp://{host}/b{index};tcp"), setup },
            last: None,
            status: 0,
            is_acked: false,
            is_over: false,
            interval: T1,
            answered_at: Instant::ZERO,
            cseq: 100,
            end: None,
            shard: None,
        });
        index
    }

    fn device_lines(&self, device: usize) -> String {
        format!(
            "Record-Route: <sip:192.0.2.9:5070;lr>\r\nContact: <sip:d{device}@192.0.2.9:5070>\r\nAllow: INVITE, UPDATE\r\n"
        )
    }

    fn ring(&mut self, device: usize) {
        let lines = self.device_lines(device);
        let found = &mut self.devices[device];
        let response = found.invite.response(180, &found.tag, &lines, "");
        found.last = Some(response.clone());
        let (back, invite) = (self.back(device), self.devices[device].invite.clone());
        self.answer_back(back, &invite, response);
    }

    fn decide(&mut self, index: usize, status: u16) {
        if self.devices[index].status != 0 {
            return;
        }
        let lines = self.device_lines(index);
        let now = self.now();
        let device = &mut self.devices[index];
        device.status = status;
        let is_originated = device.invite.attribute("path").is_some_and(|path| !path.contains(' '));
        let response = if status == 200 {
            let sdp = sdp(&device.media, "recvonly", 2);
            device.invite.response(200, &device.tag, &format!("{lines}Content-Type: application/sdp\r\n"), &sdp)
        } else {
            device.is_over = true;
            if is_originated && status != 487 {
                let to = device.invite.get("To").to_owned();
                let number = (0..USER_COUNT).find(|number| to.contains(&user(*number)));
                self.refusals.extend(number);
            }
            let device = &self.devices[index];
            device.invite.response(status, &device.tag, "", "")
        };
        let device = &mut self.devices[index];
        device.last = Some(response.clone());
        (device.interval, device.answered_at) = (T1, now);
        let invite = device.invite.clone();
        let back = self.back(index);
        self.media.note(|| format!("device {index} says {status} to {}", invite.get("Call-ID")));
        self.answer_back(back, &invite, response);
        self.at(now + T1, Event::Repeat { device: index });
        if status == 200 {
            self.begin_media(index);
        }
    }

    fn begin_media(&mut self, index: usize) {
        let habit = match self.media.below(if self.plan.is_rough && !self.calm { 8 } else { 2 }) {
            0 => Habit::Late(500),
            2 => Habit::Refuses {
                after: self.media.below(4),
                status: [403, 413, 415][self.media.below(3)],
                at_head: false,
            },
            3 if self.media.below(2) == 0 => Habit::Silent { after: self.media.below(4) },
            _ => Habit::Good,
        };
        let device = &self.devices[index];
        let path = device.invite.attribute("path").expect("an offer has a path").to_owned();
        let dials = device.media.setup == "active";
        let shard = shard_of(&path);
        let mut end = End::new(shard, device.media.host, device.media.path.clone(), path, dials);
        end.receives = Some(Receiver::new(habit));
        let end = self.media.add_end(end);
        let device = &mut self.devices[index];
        (device.end, device.shard) = (Some(end), Some(shard));
    }

    fn repeat(&mut self, index: usize) {
        let now = self.now();
        let device = &mut self.devices[index];
        if device.is_acked || (device.is_over && device.status < 300) {
            return;
        }
        if now.since(device.answered_at) >= 64 * T1 {
            // Nobody acknowledged it: it hangs up (RFC 3261 §13.3.1.4).
            if device.status < 300 {
                self.device_hangs_up(index);
            }
            return;
        }
        device.interval = (device.interval * 2).min(T2);
        let (at, invite, last) = (now + device.interval, device.invite.clone(), device.last.clone());
        let back = self.back(index);
        if !invite.is_over_tcp() || self.devices[index].status < 300 {
            self.answer_back(back, &invite, last.expect("it was answered"));
        }
        self.at(at, Event::Repeat { device: index });
    }

    fn on_device_ack(&mut self, sip: &Sip, tag: &str) {
        let Some(index) = self.device_of(sip, tag) else { return };
        let was_acked = std::mem::replace(&mut self.devices[index].is_acked, true);
        if was_acked || self.devices[index].status >= 300 || self.devices[index].is_over {
            return;
        }
        if let Some(end) = self.devices[index].end.filter(|end| self.media.ends[*end].dials) {
            self.media.soon(Duration::from_millis(300), Happening::Dial(end));
        }
        if self.plan.is_rough && !self.calm && self.rng.below(12) == 0 {
            self.soon(Duration::from_secs(6), Event::HangUp { device: index });
        }
    }

    fn device_of(&self, sip: &Sip, tag: &str) -> Option<usize> {
        self.devices.iter().position(|device| device.tag == tag && device.invite.get("Call-ID") == sip.get("Call-ID"))
    }

    fn on_device_cancel(&mut self, from: SocketAddr, sip: &Sip) {
        self.answer_back(from, sip, sip.response(200, "cancel", "", ""));
        let found: Vec<usize> =
            (0..self.devices.len()).filter(|device| self.devices[*device].invite.branch() == sip.branch()).collect();
        assert!(
            !found.is_empty() || self.plan.loss > 0 || self.plan.delay_max > Duration::ZERO,
            "a CANCEL for nothing"
        );
        let is_open = found.iter().all(|device| self.devices[*device].status == 0);
        for device in found.iter().copied() {
            if self.devices[device].status == 0 {
                if is_open && device == found[0] {
                    self.decide(device, 487);
                } else {
                    (self.devices[device].status, self.devices[device].is_over) = (487, true);
                }
            }
        }
    }

    /// BYE, re-INVITE, UPDATE: within a dialog.
    fn on_device_request(&mut self, from: SocketAddr, sip: &Sip, tag: &str) {
        let Some(index) = self.device_of(sip, tag) else {
            return self.answer_back(from, sip, sip.response(481, "", "", ""));
        };
        let lines = self.device_lines(index);
        let response = match sip.method() {
            "BYE" => {
                self.device_is_over(index);
                sip.response(200, "", "", "")
            }
            "INVITE" | "UPDATE" if !sip.body.is_empty() => {
                let sdp = sdp(&self.devices[index].media, "recvonly", 2);
                sip.response(200, "", &format!("{lines}Content-Type: application/sdp\r\n"), &sdp)
            }
            _ => sip.response(200, "", &lines, ""),
        };
        self.answer_back(from, sip, response);
    }

    fn device_is_over(&mut self, index: usize) {
        self.devices[index].is_over = true;
        self.devices[index].is_acked = true;
        if let Some(end) = self.devices[index].end {
            self.media.end_over(end);
        }
    }

    fn device_hangs_up(&mut self, index: usize) {
        let device = &mut self.devices[index];
        if device.is_over {
            return;
        }
        device.cseq += 1;
        let dialog = Dialog {
            call_id: device.invite.get("Call-ID").to_owned(),
            local: format!("{};tag={}", device.invite.get("To"), device.tag),
            remote: device.invite.get("From").to_owned(),
            target: device.invite.contact().to_owned(),
            contact: format!("sip:d{index}@192.0.2.9:5070"),
            cseq: device.cseq,
        };
        let via = scene::CORE.to_string();
        let bytes = dialog.request("BYE", dialog.cseq, &format!("z9hG4bKdev{index}"), &via, "");
        let to = address_of(&dialog.target);
        self.device_is_over(index);
        self.start(scene::CORE, to, bytes);
    }

    // Users, store and spool.

    fn make_user(&mut self, index: usize) {
        let handling = match self.rng.below(5) {
            0 => Some(Handling::Reject),
            1 => Some(Handling::Store),
            2 | 3 => Some(Handling::Defer),
            _ => None,
        };
        let devices = match self.rng.below(3) {
            0 => DeviceSelection::Selected(vec!["urn:uuid:1".into(), "urn:uuid:2".into()]),
            _ => DeviceSelection::All,
        };
        let records_history = self.rng.below(3) == 0;
        if records_history {
            self.recorded.insert(index);
        }
        let profile = Profile { large_handling: handling, records_history, devices, ..Profile::default() };
        let devices = registered(self.rng.below(2) == 0);
        let subscriber = Subscriber { profile: Some(Arc::new(profile)), devices, ..Subscriber::default() };
        self.directory.publish(&user(index), subscriber);
    }

    fn toggle(&mut self) {
        let (index, is_there) = (self.rng.below(USER_COUNT as u64) as usize, self.rng.below(2) == 0);
        self.register(index, is_there);
    }

    fn register(&mut self, index: usize, is_there: bool) {
        self.media.note(|| format!("user {index} is there: {is_there}"));
        self.directory.change(&user(index), |subscriber| subscriber.devices = registered(is_there));
        if is_there {
            let aor = Aor::from_canonical(&user(index));
            let to = ShardId::home_of(aor.as_str(), self.plan.shard_count).0;
            self.soon(Duration::from_millis(2), Event::Posted { to, input: Input::SubscriberReady(aor) });
        }
    }

    fn commit(&mut self) {
        let Some((shard, ticket, command)) = self.commands.pop_front() else { return };
        let answer = match self.is_bad(self.plan.store_fault) {
            true => Err([Fault::Busy, Fault::DiskFull, Fault::Broken][self.rng.below(3) as usize]),
            false => self.execute(command),
        };
        // Answers come in the order of the commands.
        self.cores.shards[usize::from(shard)].handle_input(Input::Store { ticket, answer }, self.cores.now);
    }

    /// The number of the message in a new file, which is whole.
    fn taken_over(&mut self, file: &ringpost::participating::storage::ContentFile) -> usize {
        let bytes = self.spool.take_over(file);
        let number = number_in(bytes).expect("every message has a number");
        assert!(bytes == self.media.messages[number].body, "m{number} is kept as it was sent");
        number
    }

    fn execute(&mut self, command: Command) -> Answer {
        let mut number = None;
        match &command {
            Command::Defer { message, quota } => {
                assert!(quota.count > 0);
                if let Some(file) = &message.content {
                    number = Some(self.taken_over(file));
                }
            }
            Command::Keep { object, .. } => {
                if let Some(file) = &object.content {
                    let known = self.spool.content.get(&file.sha256).and_then(|bytes| number_in(bytes));
                    number = if file.spool.is_some() { Some(self.taken_over(file)) } else { known };
                }
            }
            Command::Settle { id, settlement: Settlement::Remove, .. } if self.store.deferred.contains_key(id) => {
                let (number, onward) = self.deferrals[id];
                let onward = &self.media.messages[onward];
                let is_there = onward.is_done && onward.refused.is_none();
                let of = self.store.deferred[id].user.as_str();
                let is_refused = onward.refused.is_some() || self.refusals.iter().any(|index| user(*index) == of);
                assert!(is_there || is_refused, "m{number} leaves the queue for no reason, {} there", onward.received);
                self.totals.delivered_later += u64::from(is_there);
            }
            _ => {}
        }
        let answer = self.store.execute(command);
        if let Some(number) = number {
            self.media.note(|| format!("m{number} is kept: {answer:?}"));
            match &answer {
                Ok(Reply::Deferred(id)) => {
                    self.totals.deferred += 1;
                    self.media.messages[number].is_committed = true;
                    let onward = self.media.messages.len();
                    let message = self.media.messages[number].onward();
                    self.media.messages.push(message);
                    self.media.aliases.insert(format!("rp{:016x}", id.0), onward);
                    self.deferrals.insert(*id, (number, onward));
                }
                Ok(_) if self.media.messages[number].route == Route::Spool => {
                    self.media.messages[number].is_committed = true;
                }
                Ok(_) => {
                    let message = &mut self.media.messages[number];
                    assert!(message.is_done || !message.wants_responses(), "m{number} is no history");
                    message.is_recorded = true;
                }
                Err(_) => {}
            }
        }
        answer
    }

    fn spool(&mut self) {
        let Some((shard, ticket, command)) = self.spooling.pop_front() else { return };
        let is_discard = matches!(command, SpoolCommand::Discard(_));
        let answer = match !is_discard && self.is_bad(self.plan.store_fault) {
            true => Some(Err([Fault::Busy, Fault::DiskFull, Fault::Broken][self.rng.below(3) as usize])),
            false => self.spool.execute(command),
        };
        if let Some(answer) = answer {
            self.cores.shards[usize::from(shard)].handle_input(Input::Spool { ticket, answer }, self.cores.now);
        }
    }

    // At rest.

    fn check_rest(&mut self) {
        for (shard, metrics) in self.metrics.iter().enumerate() {
            self.cores.shards[shard].publish_levels();
            for gauge in [
                Gauge::ServerTransactions,
                Gauge::ClientTransactions,
                Gauge::PagerJobs,
                Gauge::DeferredInFlight,
                Gauge::LargeSessions,
                Gauge::MsrpSessions,
                Gauge::MsrpEgressBytes,
            ] {
                assert_eq!(metrics.gauge(gauge), 0, "shard {shard} is at rest: {gauge:?}");
            }
        }
        assert_eq!(self.media.open_count(), 0, "no connection is left open");
        assert!(self.spool.files.is_empty(), "files of nobody: {:?}", self.spool.files.keys());
        for (index, call) in self.calls.iter().enumerate() {
            let is_known = call.arrived || call.status.is_some();
            assert!(!is_known || call.finals.len() == 1, "call {index} was never answered");
            assert!(call.dialog.is_none() || call.is_over, "call {index} is half open");
            match call.status {
                None => self.totals.unanswered += 1,
                Some(200) => self.totals.late_answers += u64::from(call.wants_cancel),
                Some(_) => self.totals.refused += 1,
            }
        }
        for (index, device) in self.devices.iter().enumerate() {
            let is_open = device.status == 200 && !device.is_over;
            assert!(!is_open, "device {index} is half open: {}", device.invite.get("Call-ID"));
        }
        for index in 0..self.calls.len() {
            for number in self.calls[index].messages.clone() {
                self.check_message(index, number);
            }
        }
        for (id, (number, onward)) in &self.deferrals {
            let onward = &self.media.messages[*onward];
            let waits = self.store.deferred.contains_key(id);
            assert!(
                waits || onward.is_done || !self.refusals.is_empty() || onward.refused.is_some(),
                "m{number} is lost"
            );
            let row = self.store.deferred.get(id);
            let is_reachable = row.is_some_and(|row| {
                self.directory
                    .read(row.user.as_str(), |known| known.is_some_and(|known| known.is_reachable(self.cores.now.wall)))
            });
            assert!(!is_reachable, "m{number} waits, and its user is there");
            assert!(!waits, "m{number} waits: {row:?}");
        }
    }

    fn check_message(&self, index: usize, number: usize) {
        let message = &self.media.messages[number];
        let is_there = match message.route {
            Route::Spool => message.is_committed,
            _ => message.is_done,
        };
        let brief = Message { body: Vec::new(), covered: Vec::new(), ..message.clone() };
        if message.is_all_sent && message.wants_responses() && message.ack_count == message.chunk_count {
            assert!(is_there, "call {index}: m{number} was acknowledged, and is not there: {brief:?}");
        }
        let is_calm = self.plan.store_fault == 0 && self.plan.loss == 0;
        if is_calm && message.route == Route::EndToEnd && message.is_done && message.ack_count == message.chunk_count {
            let is_wanted = self.recorded.contains(&self.calls[index].user);
            assert_eq!(message.is_recorded, is_wanted, "call {index}: m{number} in the history: {brief:?}");
        }
        if message.wish == Wish::No && message.failed.is_some() {
            panic!("call {index}: m{number}: nobody asked: {brief:?}");
        }
    }
}

fn number_in(bytes: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"imdn.Message-ID: lm";
    let at = memchr::memmem::find(bytes, MARK)? + MARK.len();
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

fn sdp(media: &MediaOffer, direction: &str, origin: u32) -> String {
    let setup = if media.setup.is_empty() { String::new() } else { format!("a=setup:{}\r\n", media.setup) };
    let ip = media.host.ip();
    format!(
        "v=0\r\no=- {origin} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=message {} TCP/MSRP *\r\n\
         a=path:{}\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\n{setup}a={direction}\r\n",
        media.host.port(),
        media.path
    )
}

/// The shard that a path of the appliance leads to.
fn shard_of(path: &str) -> u16 {
    let addr = path.strip_prefix("msrp://").and_then(|rest| rest.split('/').next()).expect("a path");
    let addr: SocketAddr = addr.parse().expect("an address in a path");
    addr.port() - scene::msrp(0).port()
}

/// The address in a URI of the appliance.
fn address_of(uri: &str) -> SocketAddr {
    let rest = uri.strip_prefix("sip:").expect("a SIP URI");
    let host = rest.split('@').next_back().and_then(|host| host.split(';').next()).expect("a host");
    host.parse().unwrap_or_else(|_| panic!("an address in {uri}"))
}

fn registered(is_there: bool) -> Box<[ringpost::participating::devices::Device]> {
    match is_there {
        true => Box::new([scene::device("urn:uuid:1"), scene::device("urn:uuid:2")]),
        false => Box::new([]),
    }
}

const STEP_COUNT_MAX: u64 = 3_000_000;
