//! The world: shards, network, store, senders and devices on one virtual clock.

use crate::ledger::{Entry, Ledger, Totals};
use crate::parties::{Behaviour, Sender, Served, number_of, respond};
use ringpost::base::id::{Aor, ConnId, ShardId, Ticket};
use ringpost::base::rng::Rng;
use ringpost::base::time::{Instant, Now};
use ringpost::metrics::counters::ShardMetrics;
use ringpost::metrics::names::Gauge;
use ringpost::participating::core::Core;
use ringpost::participating::devices::RegistrationChange;
use ringpost::participating::effect::{Effect, StreamTarget};
use ringpost::participating::input::{ControlAnswer, ControlCommand, Input, Source, Transport};
use ringpost::participating::preferences::{Availability, DeviceSelection, Handling, Profile};
use ringpost::participating::settings::{InterworkingFailure, Settings};
use ringpost::participating::storage::{Answer, Command, Fault, Reply, Settlement, Shelf};
use ringpost::participating::subscriber::{Directory, Subscriber};
use ringpost::sip::message::Message;
use ringpost::sip::scan::{Name, Scan};
use ringpost::testing::directory::MapDirectory;
use ringpost::testing::scene;
use ringpost::testing::store::ModelStore;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a world is like. Odds are in percent.
#[derive(Clone, Copy)]
pub struct Plan {
    pub shard_count: u16,
    pub messages: u64,
    pub loss: u64,
    pub duplication: u64,
    pub delay_max: Duration,
    pub store_fault: u64,
    pub store_delay_max: Duration,
    pub crashes: u64,
}

impl Plan {
    pub fn calm(shard_count: u16) -> Self {
        Self {
            shard_count,
            messages: 30,
            loss: 0,
            duplication: 0,
            delay_max: Duration::from_millis(20),
            store_fault: 0,
            store_delay_max: Duration::from_millis(5),
            crashes: 0,
        }
    }
}

enum Event {
    Datagram {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Bytes of a stream for the appliance.
    Stream {
        shard: u16,
        source: Source,
        bytes: Vec<u8>,
        epoch: u64,
    },
    StreamFailed {
        shard: u16,
        ticket: Ticket,
        epoch: u64,
    },
    ToSender {
        number: usize,
        bytes: Vec<u8>,
        epoch: u64,
    },
    Posted {
        to: ShardId,
        input: Input,
        epoch: u64,
    },
    Commit,
    Answered {
        shard: u16,
        ticket: Ticket,
        answer: Answer,
        epoch: u64,
    },
    Controlled {
        shard: u16,
        ticket: Ticket,
        command: Box<ControlCommand>,
        epoch: u64,
    },
    Send(usize),
    SenderTimer(usize),
    DeviceAnswers {
        branch: Vec<u8>,
        response: Vec<u8>,
        back: Back,
    },
    Toggle,
    Crash,
    Calm,
}

/// The way back from a device.
#[derive(Clone, Copy)]
enum Back {
    Datagram(SocketAddr),
    Stream { shard: u16, epoch: u64 },
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

pub struct World {
    name: String,
    seed: u64,
    plan: Plan,
    rng: Rng,
    now: Now,
    step: u64,
    epoch: u64,
    trace: VecDeque<String>,
    shards: Vec<Core<MapDirectory>>,
    metrics: Vec<Arc<ShardMetrics>>,
    directory: MapDirectory,
    settings: Settings,
    store: ModelStore,
    commands: VecDeque<(u16, Ticket, Command, u64)>,
    events: BinaryHeap<Reverse<Timed>>,
    order: u64,
    senders: Vec<Sender>,
    served: HashMap<Vec<u8>, Served>,
    ledger: Ledger,
    calm: bool,
    crashes: u64,
}

const USER_COUNT: usize = 5;
const SCSCF: SocketAddr = scene::address([192, 0, 2, 7], 5060);
/// All messages are sent in this time; then the network and the store get well.
const BUSY: Duration = Duration::from_secs(150);
/// What may still be under way after that: back-offs of an hour, one after the other.
const DRAIN: Duration = Duration::from_secs(6 * 3600);

fn user(index: usize) -> String {
    format!("sip:u{index}@home.example")
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last steps:");
            for line in &self.trace {
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
        let mut settings = scene::settings(0, plan.shard_count);
        if rng.below(3) == 0 {
            settings.defer_on = vec![408, 410, 480, 500, 503, 504];
        }
        if rng.below(2) == 0 {
            settings.isf = Some(scene::isf());
            settings.isf_failure =
                if rng.below(2) == 0 { InterworkingFailure::Defer } else { InterworkingFailure::Relay };
        }
        settings.deferred_pace = [1, 5, 100, 5_000][rng.below(4) as usize];
        settings.deferred_quota.count = [3, 1_000][rng.below(2) as usize];
        let mut world = Self {
            name: name.into(),
            seed,
            plan,
            rng,
            now: scene::after(Duration::from_secs(1)),
            step: 0,
            epoch: 0,
            trace: VecDeque::new(),
            shards: Vec::new(),
            metrics: Vec::new(),
            directory: MapDirectory::default(),
            settings,
            store: ModelStore::default(),
            commands: VecDeque::new(),
            events: BinaryHeap::new(),
            order: 0,
            senders: Vec::new(),
            served: HashMap::new(),
            ledger: Ledger::default(),
            calm: false,
            crashes: 0,
        };
        for index in 0..USER_COUNT {
            world.make_user(index);
        }
        world.start();
        world
    }

    pub fn run(mut self) -> Totals {
        for number in 0..self.plan.messages as usize {
            let at = self.some_time(BUSY - Duration::from_secs(40));
            self.write_message(number);
            self.at(at, Event::Send(number));
        }
        for _ in 0..12 {
            let at = self.some_time(BUSY);
            self.at(at, Event::Toggle);
        }
        for _ in 0..self.plan.crashes {
            let at = self.some_time(BUSY);
            self.at(at, Event::Crash);
        }
        self.at(Instant::ZERO + BUSY, Event::Calm);
        let end = Instant::ZERO + BUSY + DRAIN;
        while let Some(at) = self.next_time().filter(|at| *at < end) {
            self.turn(at);
        }
        self.check_rest();
        self.totals()
    }

    fn totals(&self) -> Totals {
        let count = |wanted: fn(&Entry) -> bool| self.ledger.entries.iter().filter(|e| wanted(e)).count() as u64;
        Totals {
            messages: self.ledger.entries.len() as u64,
            delivered: count(|entry| entry.taken > 0),
            deferred: count(|entry| !entry.deferred.is_empty()),
            stored: count(|entry| entry.stored > 0),
            refused: count(|entry| entry.answer.is_some_and(|status| status >= 300)),
            expired: count(|entry| entry.expires.is_some()),
            unanswered: count(|entry| entry.answer.is_none()),
            crashes: self.crashes,
            steps: self.step,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        percent > 0 && self.rng.below(100) < percent
    }

    fn some_time(&mut self, max: Duration) -> Instant {
        self.now.at + Duration::from_millis(self.rng.below(max.as_millis() as u64))
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Timed { at, order: self.order, event }));
    }

    fn soon(&mut self, max: Duration, event: Event) {
        let at = self.now.at + Duration::from_micros(50 + self.rng.below(max.as_micros().max(1) as u64));
        self.at(at, event);
    }

    fn next_time(&self) -> Option<Instant> {
        let event = self.events.peek().map(|Reverse(timed)| timed.at);
        let timer = self.shards.iter().filter_map(Core::poll_timeout).map(|(at, _)| at).min();
        [event, timer].into_iter().flatten().min()
    }

    /// One step: timers that are due, or one event.
    fn turn(&mut self, at: Instant) {
        self.step += 1;
        self.now = scene::after(Duration::from_nanos(at.0.max(self.now.at.0)));
        for index in 0..self.shards.len() {
            if self.shards[index].poll_timeout().is_some_and(|(due, _)| due <= self.now.at) {
                self.shards[index].handle_timeout(self.now);
                let next = self.shards[index].poll_timeout();
                assert!(next.is_none_or(|(next, _)| next > self.now.at), "firing moves on: {next:?}");
                self.carry_out(index as u16);
            }
        }
        while self.events.peek().is_some_and(|Reverse(timed)| timed.at <= self.now.at) {
            if let Some(Reverse(timed)) = self.events.pop() {
                self.happen(timed.event);
            }
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() == 150 {
            self.trace.pop_front();
        }
        let text = line();
        self.trace.push_back(format!("{:>10.4}s {text}", self.now.at.0 as f64 / 1e9));
    }

    fn start(&mut self) {
        self.epoch += 1;
        self.shards.clear();
        self.metrics.clear();
        for shard in 0..self.plan.shard_count {
            let metrics = Arc::new(ShardMetrics::default());
            let settings = Settings { listeners: scene::settings(shard, 1).listeners, ..self.settings.clone() };
            let rng = Rng::from_u64(self.rng.next_u64());
            let directory = self.directory.clone();
            let core = Core::new(ShardId(shard), Arc::new(settings), directory, rng, Arc::clone(&metrics), self.now);
            self.shards.push(core);
            self.metrics.push(metrics);
        }
        for user in self.store.users_with_deferred() {
            self.announce(user);
        }
    }

    fn announce(&mut self, user: Aor) {
        let to = ShardId::home_of(user.as_str(), self.plan.shard_count);
        let (input, epoch) = (Input::SubscriberReady(user), self.epoch);
        self.soon(Duration::from_millis(2), Event::Posted { to, input, epoch });
    }

    fn make_user(&mut self, index: usize) {
        let handling = match self.rng.below(8) {
            0 => Some(Handling::Reject),
            1 => Some(Handling::Store),
            2 => Some(Handling::Interwork),
            3 => Some(Handling::Defer),
            _ => None,
        };
        let devices = match self.rng.below(3) {
            0 => DeviceSelection::Selected(vec!["urn:uuid:1".into(), "urn:uuid:2".into()]),
            _ => DeviceSelection::All,
        };
        let profile = Profile {
            pager_handling: handling,
            records_history: self.rng.below(3) == 0,
            devices,
            ..Profile::default()
        };
        let registered = self.rng.below(2) == 0;
        let subscriber =
            Subscriber { profile: Some(Arc::new(profile)), devices: devices_of(registered), ..Subscriber::default() };
        self.directory.publish(&user(index), subscriber);
    }

    /// Registers, de-registers or hides a user, as the control plane would.
    fn toggle(&mut self) {
        let index = self.rng.below(USER_COUNT as u64) as usize;
        let (aor, choice) = (user(index), self.rng.below(6));
        if choice == 5 {
            self.register(&aor);
            return;
        }
        self.directory.change(&aor, |subscriber| match choice {
            0 => subscriber.devices = devices_of(false),
            1 => subscriber.availability = Some(Availability::NotAvailable),
            _ => {
                subscriber.devices = devices_of(true);
                subscriber.availability = None;
            }
        });
        self.note(|| format!("{aor} changes: {choice}"));
        self.announce_if_reachable(&aor);
    }

    /// A third-party REGISTER, which the S-CSCF does not repeat here: one that is lost changes nothing.
    fn register(&mut self, aor: &str) {
        self.order += 1;
        let (n, expires) = (self.order, [0, 3600][self.rng.below(2) as usize]);
        let request = format!(
            "REGISTER sip:192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP {SCSCF};branch=z9hG4bKreg{n}\r\nMax-Forwards: 70\r\n\
             From: <sip:scscf@home.example>;tag=s\r\nTo: <{aor}>\r\nCall-ID: reg{n}@scscf\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:scscf@home.example>\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n"
        );
        self.note(|| format!("{aor} registers for {expires} s"));
        self.datagram(SCSCF, scene::WELL_KNOWN, request.into_bytes());
    }

    fn announce_if_reachable(&mut self, aor: &str) {
        if self.is_reachable(aor) {
            self.announce(Aor::from_canonical(aor));
        }
    }

    fn is_reachable(&self, aor: &str) -> bool {
        self.directory.read(aor, |known| known.is_some_and(|known| known.is_reachable(self.now.wall)))
    }

    fn write_message(&mut self, number: usize) {
        let to = self.rng.below(USER_COUNT as u64) as usize;
        let address = scene::address([198, 51, 100, 1 + self.rng.below(3) as u8], 40_000 + number as u16);
        let reliable = self.rng.below(4) == 0;
        let branch = format!("z9hG4bKsim{number}");
        let transport = if reliable { "TCP" } else { "UDP" };
        let large = self.rng.below(8) == 0;
        let padding = "x".repeat(if large { 550 } else { self.rng.below(100) as usize });
        let asked = if self.rng.below(3) == 0 { "imdn.Disposition-Notification: negative-delivery\r\n" } else { "" };
        let body = format!(
            "From: <sip:alice@a.example>\r\nTo: <{0}>\r\nNS: imdn<urn:ietf:params:imdn>\r\nimdn.Message-ID: m{number}\r\n\
             DateTime: 2026-01-01T00:00:00Z\r\n{asked}\r\nContent-Type: text/plain\r\n\r\nmsg-number={number};{padding}",
            user(to)
        );
        let chosen = self.directory.read(&user(to), |known| {
            let profile = known.and_then(|known| known.profile.as_deref());
            profile.is_some_and(|profile| profile.devices != DeviceSelection::All)
        });
        let mut entry = Entry { user: to, forks: if chosen { 2 } else { 1 }, ..Entry::default() };
        let mut dated = String::new();
        if self.rng.below(5) == 0 {
            let seconds = 1 + self.rng.below(120) as i64;
            entry.expires = Some(self.now.wall.plus_seconds(seconds));
            let date = ringpost::participating::objects::http_date(self.now.wall);
            dated = format!("Date: {date}\r\nExpires: {seconds}\r\n");
        }
        let route = match self.rng.below(10) {
            0 => "Route: <sip:nowhere.example;lr>\r\n",
            1 => "Route: <sip:core.example:5070;lr>\r\n",
            _ => "",
        };
        let request = format!(
            "MESSAGE {0} SIP/2.0\r\nVia: SIP/2.0/{transport} {address};branch={branch};rport\r\nMax-Forwards: 70\r\n\
             Route: <sip:term@192.0.2.1:5060;lr>\r\n{route}P-Asserted-Identity: <sip:alice@a.example>\r\n\
             P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg\r\n\
             From: <sip:alice@a.example>;tag=f{number}\r\nTo: <{0}>\r\nCall-ID: m{number}@sim\r\nCSeq: 1 MESSAGE\r\n\
             {dated}Content-Type: message/cpim\r\nContent-Length: {1}\r\n\r\n{body}",
            user(to),
            body.len()
        );
        self.ledger.entries.push(entry);
        self.senders.push(Sender {
            address,
            request: request.into_bytes(),
            branch,
            reliable,
            started: Instant::ZERO,
            interval: Duration::from_millis(500),
            done: false,
        });
    }

    fn happen(&mut self, event: Event) {
        let epoch = self.epoch;
        match event {
            Event::Datagram { to, from, bytes } => self.on_datagram(to, from, &bytes),
            Event::Stream { shard, source, bytes, epoch: of } if of == epoch => {
                self.arrives(&bytes);
                self.shards[usize::from(shard)].handle_message(&bytes, source, self.now);
                self.carry_out(shard);
            }
            Event::StreamFailed { shard, ticket, epoch: of } if of == epoch => {
                self.note(|| format!("shard {shard}: a stream fails"));
                self.input(shard, Input::StreamFailed { ticket });
            }
            Event::ToSender { number, bytes, epoch: of } if of == epoch => self.on_answer(number, &bytes),
            Event::Posted { to, input, epoch: of } if of == epoch => self.input(to.0, input),
            Event::Commit => self.commit(),
            Event::Answered { shard, ticket, answer, epoch: of } if of == epoch => {
                self.input(shard, Input::Store { ticket, answer });
            }
            Event::Controlled { shard, ticket, command, epoch: of } if of == epoch => {
                self.control(shard, ticket, *command);
            }
            Event::Send(number) => self.send(number),
            Event::SenderTimer(number) => self.on_sender_timer(number),
            Event::DeviceAnswers { branch, response, back } => self.on_device_answer(branch, response, back),
            Event::Toggle => self.toggle(),
            Event::Crash => self.crash(),
            Event::Calm => {
                self.note(|| "the world gets well".into());
                self.calm = true;
            }
            _ => {} // of a process that is gone
        }
    }

    fn input(&mut self, shard: u16, input: Input) {
        self.shards[usize::from(shard)].handle_input(input, self.now);
        self.carry_out(shard);
    }

    /// Everything in memory goes: shards, store queue, answers under way, connections.
    fn crash(&mut self) {
        self.note(|| "crash".into());
        self.crashes += 1;
        self.commands.clear();
        self.ledger.on_crash();
        self.start();
    }

    fn send(&mut self, number: usize) {
        self.senders[number].started = self.now.at;
        self.transmit(number);
        self.at(self.now.at, Event::SenderTimer(number));
    }

    fn transmit(&mut self, number: usize) {
        let sender = &self.senders[number];
        let (from, bytes, reliable) = (sender.address, sender.request.clone(), sender.reliable);
        self.note(|| format!("sender {number} sends"));
        if reliable {
            let shard = self.rng.below(u64::from(self.plan.shard_count)) as u16;
            let conn = Some((ShardId(shard), ConnId { slot: number as u32, generation: 0 }));
            let source = Source {
                transport: Transport::Tcp,
                peer: from,
                listener: 0,
                socket: ringpost::participating::effect::Socket::WellKnown,
                conn,
            };
            let epoch = self.epoch;
            self.soon(self.plan.delay_max, Event::Stream { shard, source, bytes, epoch });
        } else {
            self.datagram(from, scene::WELL_KNOWN, bytes);
        }
    }

    fn on_sender_timer(&mut self, number: usize) {
        let now = self.now.at;
        let first = self.senders[number].started == now;
        let Some(wait) = self.senders[number].on_timer(now) else { return };
        if !first && !self.senders[number].reliable {
            self.transmit(number);
        }
        self.at(now + wait, Event::SenderTimer(number));
    }

    /// Loses, repeats and delays.
    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> bool {
        let mut copies = 1;
        if !self.calm && self.chance(self.plan.loss) {
            copies = 0;
        } else if !self.calm && self.chance(self.plan.duplication) {
            copies = 2;
        }
        for _ in 0..copies {
            self.soon(self.plan.delay_max, Event::Datagram { to, from, bytes: bytes.clone() });
        }
        copies > 0
    }

    fn arrives(&mut self, bytes: &[u8]) {
        if bytes.starts_with(b"MESSAGE")
            && let Some(number) = number_of(bytes)
        {
            self.ledger.entries[number].arrived = true;
        }
    }

    fn on_datagram(&mut self, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let shard = if to == scene::WELL_KNOWN {
            Some(self.rng.below(u64::from(self.plan.shard_count)) as u16)
        } else {
            (0..self.plan.shard_count).find(|shard| scene::own(*shard) == to)
        };
        if let Some(shard) = shard {
            self.arrives(bytes);
            self.shards[usize::from(shard)].handle_message(bytes, scene::datagram_from(from), self.now);
            self.carry_out(shard);
        } else if to == scene::CORE || to == scene::ISF {
            self.on_device_request(bytes, to, Back::Datagram(from));
        } else if to == SCSCF {
            assert!(bytes.starts_with(b"SIP/2.0 200") || bytes.starts_with(b"SIP/2.0 503"), "a REGISTER is answered");
        } else {
            let number = self.senders.iter().position(|sender| sender.address == to);
            let number = number.expect("a response goes where its request came from");
            self.on_answer(number, bytes);
        }
    }

    fn on_answer(&mut self, number: usize, bytes: &[u8]) {
        let status = self.senders[number].on_response(bytes);
        self.note(|| format!("sender {number} gets {status}"));
        if status >= 200 {
            self.ledger.entries[number].answer.get_or_insert(status);
        }
    }

    fn carry_out(&mut self, shard: u16) {
        let epoch = self.epoch;
        while let Some(effect) = self.shards[usize::from(shard)].poll_effect() {
            match effect {
                Effect::SendDatagram { to, bytes, .. } => {
                    let from =
                        if to == scene::CORE || to == scene::ISF { scene::own(shard) } else { scene::WELL_KNOWN };
                    self.check_final(&bytes, to);
                    self.datagram(from, to, bytes.to_vec());
                }
                Effect::SendStream { to: StreamTarget::Connection { conn, .. }, bytes, .. } => {
                    let number = conn.slot as usize;
                    let address = self.senders[number].address;
                    self.check_final(&bytes, address);
                    self.soon(self.plan.delay_max, Event::ToSender { number, bytes: bytes.to_vec(), epoch });
                }
                Effect::SendStream { to: StreamTarget::Peer(to), bytes, ticket, .. } => {
                    if !self.calm && self.chance(30) {
                        let ticket = ticket.expect("a request names whom to tell");
                        self.soon(self.plan.delay_max, Event::StreamFailed { shard, ticket, epoch });
                    } else {
                        self.on_device_request(&bytes, to, Back::Stream { shard, epoch });
                    }
                }
                Effect::Store { ticket, command } => {
                    self.commands.push_back((shard, ticket, command, epoch));
                    let delay = self.plan.store_delay_max;
                    self.soon(delay, Event::Commit);
                }
                Effect::Control { ticket, command } => {
                    let command = Box::new(command);
                    self.soon(Duration::from_millis(5), Event::Controlled { shard, ticket, command, epoch });
                }
                Effect::Spool { .. } | Effect::Media(_) => unreachable!("no session is set up here"),
                Effect::Post { to, input } => {
                    self.soon(Duration::from_millis(1), Event::Posted { to, input, epoch });
                }
            }
        }
    }

    fn check_final(&mut self, bytes: &[u8], to: SocketAddr) {
        if to == scene::CORE || to == scene::ISF || to == SCSCF {
            return;
        }
        let status: u16 = std::str::from_utf8(&bytes[8..11]).ok().and_then(|text| text.parse().ok()).expect("a status");
        let number = self.senders.iter().position(|sender| sender.address == to).expect("a known sender");
        if status >= 200 {
            self.note(|| format!("message {number} is answered {status}"));
            self.ledger.on_final(number, status, bytes, self.now.wall);
        }
    }

    /// Commands up to a random one become durable together, in order; answers follow.
    fn commit(&mut self) {
        let count = 1 + self.rng.below(self.commands.len().max(1) as u64) as usize;
        for _ in 0..count {
            let Some((shard, ticket, command, epoch)) = self.commands.pop_front() else { return };
            let answer = if !self.calm && self.chance(self.plan.store_fault) {
                Err([Fault::Busy, Fault::DiskFull, Fault::Broken][self.rng.below(3) as usize])
            } else {
                self.execute(command)
            };
            self.note(|| format!("store answers shard {shard}: {}", brief(&answer)));
            self.soon(self.plan.store_delay_max, Event::Answered { shard, ticket, answer, epoch });
        }
    }

    fn execute(&mut self, command: Command) -> Answer {
        let mut deferred = None;
        match &command {
            Command::Defer { message, .. } => deferred = number_of(&message.request),
            Command::Settle { id, settlement: Settlement::Remove, .. } => {
                if let Some(row) = self.store.deferred.get(id) {
                    let number = number_of(&row.request).expect("every message has a number");
                    self.ledger.on_removed(number, row.expires, self.now.wall);
                }
            }
            Command::Keep { shelf: Shelf::Messages, object } => {
                let number = number_of(&object.body).expect("every message has a number");
                self.ledger.entries[number].stored += 1;
            }
            Command::SweepExpired { now, .. } => assert!(*now <= self.now.wall, "nothing expires early"),
            _ => {}
        }
        let answer = self.store.execute(command);
        if let (Some(number), Ok(Reply::Deferred(id))) = (deferred, &answer) {
            self.note(|| format!("message {number} is deferred as {}", id.0));
            self.ledger.on_deferred(number, *id);
        }
        answer
    }

    fn control(&mut self, shard: u16, ticket: Ticket, command: ControlCommand) {
        let answer = match command {
            ControlCommand::Register(_) if !self.calm && self.chance(self.plan.store_fault) => {
                ControlAnswer::NotRegistered(Fault::Busy)
            }
            ControlCommand::Register(RegistrationChange { user, devices, .. }) => {
                self.directory.change(user.as_str(), |known| known.devices = devices.into());
                self.announce_if_reachable(user.as_str());
                ControlAnswer::Registered
            }
            ControlCommand::Resolve { host, .. } if &*host == "nowhere.example" => ControlAnswer::Resolved(Vec::new()),
            ControlCommand::Resolve { port, .. } => {
                ControlAnswer::Resolved(vec![SocketAddr::new(scene::CORE.ip(), port)])
            }
        };
        self.input(shard, Input::Control { ticket, answer });
    }

    /// A request reaches the core, or the interworking function.
    fn on_device_request(&mut self, bytes: &[u8], at: SocketAddr, back: Back) {
        let mut scan = Scan::default();
        scan.scan(bytes).expect("the appliance writes readable requests");
        let view = Message { bytes, scan: &scan };
        let envelope = view.check_request().expect("the appliance writes good requests");
        let branch = envelope.via.branch.expect("a branch of the appliance").to_vec();
        if let Some(served) = self.served.get(&branch) {
            let Some(last) = served.last.clone() else { return };
            self.answer_back(&branch, last, back);
            return;
        }
        let number = number_of(view.body());
        let is_own = view.elements(Name::Via).count() == 1;
        let max_forwards = if is_own { b"70" } else { b"69" };
        assert_eq!(view.value(Name::MaxForwards), Some(&max_forwards[..]));
        let routed = view.value(Name::Route).is_some_and(|route| !route.starts_with(b"<sip:core.example"));
        assert_eq!(routed && at != scene::CORE, at == scene::ISF, "own Routes are taken off");
        if let Some(number) = number {
            assert_eq!(envelope.call_id.starts_with(b"m"), !is_own, "a deferred message has a Call-ID of its own");
            if is_own {
                self.ledger.on_deferred_arrival(number);
            }
        }
        let behaviour = self.behaviour();
        self.note(|| {
            format!("{} gets message {number:?}: {behaviour:?}", if is_own { "deferred: core" } else { "core" })
        });
        let mut served = Served { number, status: 0, response: None, last: None };
        match behaviour {
            Behaviour::Silent => {
                if let Some(number) = number {
                    self.ledger.entries[number].uncertain = true;
                }
            }
            Behaviour::Answer { status, wait, provisional } => {
                served.status = status;
                if let Some(number) = number {
                    let entry = &mut self.ledger.entries[number];
                    let taken = u32::from(status < 300);
                    entry.taken += taken;
                    entry.taken_deferred += u32::from(is_own) * taken;
                    entry.refused |= matches!(status, 404 | 603);
                    // Later than that, patience or Timer F may have run out.
                    entry.uncertain |= wait > Duration::from_secs(20);
                }
                if provisional {
                    served.last = Some(respond(bytes, 100));
                }
                let response = respond(bytes, status);
                self.at(self.now.at + wait, Event::DeviceAnswers { branch: branch.clone(), response, back });
            }
        }
        let provisional = served.last.clone();
        self.served.insert(branch.clone(), served);
        if let Some(provisional) = provisional {
            self.answer_back(&branch, provisional, back);
        }
    }

    fn behaviour(&mut self) -> Behaviour {
        let wait = Duration::from_millis(self.rng.below(40));
        if self.calm {
            return Behaviour::Answer { status: 200, wait, provisional: false };
        }
        let provisional = self.rng.below(5) == 0;
        match self.rng.below(20) {
            0 => Behaviour::Silent,
            1 => Behaviour::Answer { status: 200, wait: Duration::from_secs(self.rng.below(45)), provisional },
            2 => Behaviour::Answer { status: 480, wait, provisional },
            3 => Behaviour::Answer { status: 486, wait, provisional },
            4 => Behaviour::Answer { status: 404, wait, provisional },
            5 => Behaviour::Answer { status: 500, wait, provisional },
            6 => Behaviour::Answer { status: 503, wait, provisional },
            7 => Behaviour::Answer { status: 603, wait, provisional },
            8 => Behaviour::Answer { status: 202, wait, provisional },
            _ => Behaviour::Answer { status: 200, wait, provisional },
        }
    }

    fn on_device_answer(&mut self, branch: Vec<u8>, response: Vec<u8>, back: Back) {
        if let Some(served) = self.served.get_mut(&branch) {
            served.last = Some(response.clone());
            served.response = Some(response.clone());
        }
        self.answer_back(&branch, response, back);
    }

    fn answer_back(&mut self, branch: &[u8], response: Vec<u8>, back: Back) {
        let arrives = match back {
            Back::Datagram(to) => self.datagram(scene::CORE, to, response),
            Back::Stream { shard, epoch } => {
                let source = Source {
                    transport: Transport::Tcp,
                    peer: scene::CORE,
                    listener: 0,
                    socket: ringpost::participating::effect::Socket::WellKnown,
                    conn: None,
                };
                self.soon(self.plan.delay_max, Event::Stream { shard, source, bytes: response, epoch });
                true
            }
        };
        if !arrives && let Some(number) = self.served.get(branch).and_then(|served| served.number) {
            self.ledger.entries[number].uncertain = true;
        }
    }

    fn check_rest(&mut self) {
        let sent = self.plan.messages;
        for (shard, metrics) in self.metrics.iter().enumerate() {
            self.shards[shard].publish_levels();
            for gauge in [
                Gauge::ServerTransactions,
                Gauge::ClientTransactions,
                Gauge::PagerJobs,
                Gauge::DeferredInFlight,
                Gauge::DeferredWaiting,
            ] {
                assert_eq!(metrics.gauge(gauge), 0, "shard {shard} is at rest: {gauge:?} after {sent} messages");
            }
        }
        for row in self.store.deferred.values() {
            let user = row.user.as_str();
            assert!(!self.is_reachable(user), "{user} can be reached, and {:?} waits", number_of(&row.request));
            assert!(row.expires > self.now.wall.plus_seconds(-60), "an expired message is removed");
        }
        self.ledger.check_end();
    }
}

fn devices_of(registered: bool) -> Box<[ringpost::participating::devices::Device]> {
    match registered {
        true => Box::new([scene::device("urn:uuid:1"), scene::device("urn:uuid:2")]),
        false => Box::new([]),
    }
}

fn brief(answer: &Answer) -> String {
    match answer {
        Ok(Reply::Queue(queue)) => format!("{} messages", queue.len()),
        other => format!("{other:?}"),
    }
}
