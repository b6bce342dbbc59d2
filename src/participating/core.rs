//! One shard's participating function: takes messages, answers and deadlines; gives effects.
//!
//! This file owns the dispatch and what every request has in common (G-1 to G-10). Pager mode is in [`super::pager`],
//! deferred delivery in [`super::deferred`].

use super::deferred::Deliveries;
use super::effect::{Effect, NextHop, Socket, StreamTarget};
use super::facts;
use super::input::{ControlAnswer, ControlCommand, Input, Source, Transport};
use super::large::Large;
use super::media::MediaOwner;
use super::originate::origination_tag;
use super::pager::{Job, Stage};
use super::registration::registration;
use super::settings::Settings;
use super::spooling::Spools;
use super::storage::{Answer, Fault};
use super::subscriber::Directory;
use super::transactions::{
    Admission, ClientId, Destination, News, OwnBranch, Owner, ReplyPath, ServerId, Transactions, Verdict, Waiting,
};
use crate::base::id::{Aor, ShardId};
use crate::base::limits::{DELIVERY_USER_COUNT_MAX, SERVER_TRANSACTION_COUNT_MAX};
use crate::base::rng::Rng;
use crate::base::slots::{SlotId, Slots};
use crate::base::time::{Instant, Now};
use crate::base::timer_wheel::TimerWheel;
use crate::metrics::counters::ShardMetrics;
use crate::metrics::names::{Counter, Gauge, Stage as TimedStage};
use crate::metrics::stages::Stages;
use crate::msrp::news::SessionId;
use crate::msrp::relay::Relay;
use crate::sip::header::via::Via;
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::{Name, Scan};
use crate::sip::transport::{DEFAULT_PORT, literal_ip};
use crate::sip::uri::{Scheme, Uri};
use crate::sip::write::{self, Response, line};
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What the appliance calls itself (SPEC G-6, LM-A3).
pub const SERVER_LINE: &str = concat!("Server: CPM-serv/OMA1.0 ringpost/", env!("CARGO_PKG_VERSION"), "\r\n");
/// The methods that are implemented.
pub const ALLOW_LINE: &str = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, MESSAGE, REGISTER\r\n";
/// What it calls itself in requests of its own.
pub const USER_AGENT_LINE: &str = concat!("User-Agent: CPM-serv/OMA1.0 ringpost/", env!("CARGO_PKG_VERSION"), "\r\n");
/// Methods that are known, so that refusing them is 405 and not 501.
const KNOWN_METHODS: [&[u8]; 10] =
    [b"INVITE", b"BYE", b"UPDATE", b"PRACK", b"SUBSCRIBE", b"NOTIFY", b"INFO", b"REFER", b"PUBLISH", b"ACK"];
/// Option tags that a Require may name: caller preferences are what Accept-Contact is (RFC 3840, 3841).
const SUPPORTED: [&[u8]; 1] = [b"pref"];
/// Option tags of a REGISTER that concern the registrar, which the appliance only hears about.
const REGISTER_SUPPORTED: [&[u8]; 4] = [b"pref", b"path", b"outbound", b"gruu"];
/// What a refusal for want of room asks the sender to wait.
pub const RETRY_AFTER_LINE: &str = "Retry-After: 5\r\n";
/// The loop mark of requests that begin here: no visit of ours led to them.
pub(super) const OWN_REQUEST_MARK: u32 = 0;
/// How long a resolved name is believed.
const RESOLVED_FOR: Duration = Duration::from_secs(60);
/// How long it is believed that a name has no address.
const UNRESOLVED_FOR: Duration = Duration::from_secs(5);
/// Names remembered.
const RESOLVED_COUNT_MAX: usize = 1_024;
/// When a user whose home shard had no room is announced again.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(50);
/// How often shard 0 has expired messages removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Deadlines of the core itself; those of transactions are in [`Transactions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreTimer {
    /// A forwarded message that should become a deferral if nobody answers in time.
    Job(SlotId),
    /// A user's next attempt.
    Delivery(SlotId),
    /// The pace allows the next deferred message.
    Pace,
    /// Expired messages are due to be removed.
    Sweep,
    /// Users whose home shard had no room are announced again.
    Announce,
    /// The spool may have room to hear which files are discarded.
    Discard,
    /// A session in large message mode.
    Session(SlotId),
}

struct Resolved {
    addrs: Vec<SocketAddr>,
    until: Instant,
}

/// Where a request goes next, or why not.
pub(super) enum Hop {
    /// There.
    Known(NextHop),
    /// The name has to be looked up first.
    Ask(Box<str>, u16),
    /// Nowhere.
    Unreachable,
}

impl Hop {
    /// The hop, where no look-up is needed.
    pub fn known(self) -> Option<NextHop> {
        match self {
            Self::Known(hop) => Some(hop),
            Self::Ask(..) | Self::Unreachable => None,
        }
    }
}

/// The core of one shard.
pub struct Core<D> {
    pub(super) shard: ShardId,
    pub(super) settings: Arc<Settings>,
    pub(super) directory: D,
    pub(super) rng: Rng,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) stages: Stages,
    pub(super) transactions: Transactions,
    pub(super) jobs: Slots<Job>,
    pub(super) deliveries: Deliveries,
    pub(super) large: Large,
    pub(super) relay: Relay,
    /// On whose behalf each of the relay's sessions is there.
    pub(super) media_owners: HashMap<SessionId, MediaOwner>,
    pub(super) spools: Spools,
    pub(super) wheel: TimerWheel<CoreTimer>,
    pub(super) effects: VecDeque<Effect>,
    resolved: HashMap<Box<str>, Resolved>,
    /// Users whose home shard had no room for the news.
    unannounced: VecDeque<Aor>,
    scan: Option<Box<Scan>>,
    spare_scan: Option<Box<Scan>>,
    scratch: Vec<u8>,
    /// Each listener's own address as a Via writes it.
    sent_by: Vec<Arc<str>>,
    extra: Vec<u8>,
}

impl<D: Directory> Core<D> {
    /// A core that has seen nothing yet.
    pub fn new(
        shard: ShardId,
        settings: Arc<Settings>,
        directory: D,
        mut rng: Rng,
        metrics: Arc<ShardMetrics>,
        now: Now,
    ) -> Self {
        assert!(shard.0 < settings.shard_count, "a shard is one of those there are");
        let mut wheel = TimerWheel::new(now.at);
        if shard.index() == 0 {
            wheel.insert(now.at + SWEEP_INTERVAL, CoreTimer::Sweep);
        }
        let sent_by = settings.listeners.iter().map(|listener| listener.own.to_string().into()).collect();
        Self {
            shard,
            sent_by,
            transactions: Transactions::new(shard, settings.steering_seed, now.at, Arc::clone(&metrics)),
            deliveries: Deliveries::new(&settings, now.at),
            large: Large::new(),
            relay: Relay::new(settings.msrp.clone(), rng.split(), now.at),
            media_owners: HashMap::new(),
            spools: Spools::new(shard),
            settings,
            directory,
            rng,
            metrics,
            stages: Stages::default(),
            jobs: Slots::new(SERVER_TRANSACTION_COUNT_MAX),
            wheel,
            effects: VecDeque::new(),
            resolved: HashMap::new(),
            unannounced: VecDeque::new(),
            scan: Some(Box::default()),
            spare_scan: Some(Box::default()),
            scratch: Vec::with_capacity(4096),
            extra: Vec::with_capacity(1024),
        }
    }

    /// Takes one whole SIP message from a socket.
    pub fn handle_message(&mut self, bytes: &[u8], source: Source, now: Now) {
        self.take(bytes, source, now, true);
        self.hear_relay(now);
        self.check_invariants();
    }

    /// Takes what other threads say.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        match input {
            Input::Handover { message, source } => {
                self.metrics.count(Counter::HandoverIn);
                self.take(&message, source, now, false);
            }
            Input::Store { ticket, answer } => self.on_store_answer(Waiting::of(ticket), answer, now),
            Input::Spool { ticket, answer } => match Waiting::of(ticket) {
                Waiting::Spool(id) => self.on_spool_answer(id, answer, now),
                Waiting::Discard(id) => self.on_discard_refused(id, now),
                Waiting::Source(id) => self.on_source_read(id, answer, now),
                waiting => debug_assert!(false, "{waiting:?} asks the spool nothing"),
            },
            Input::Control { ticket, answer } => self.on_control_answer(Waiting::of(ticket), answer, now),
            Input::SubscriberReady(user) => self.on_subscriber_ready(user, now),
            Input::Returned { input, .. } => self.on_returned(*input, now),
            Input::StreamFailed { ticket } => {
                if let Waiting::Client(id) = Waiting::of(ticket)
                    && let Some((owner, verdict)) = self.transactions.on_unsendable(id, now.at, &mut self.effects)
                {
                    self.on_verdict(id, owner, verdict, None, now);
                }
            }
        }
        self.hear_relay(now);
        self.check_invariants();
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        loop {
            let mut news = None;
            if !self.transactions.handle_timeout(now.at, &mut self.effects, &mut news) {
                break;
            }
            match news {
                Some(News::Client(id, owner, verdict)) => {
                    if verdict == Verdict::TimedOut {
                        self.metrics.count(Counter::TransactionTimeout);
                    }
                    self.on_verdict(id, owner, verdict, None, now);
                }
                Some(News::TryingDue(server)) => self.on_trying_due(server, now),
                None => {}
            }
        }
        self.relay.handle_timeout(now.at);
        while let Some(timer) = self.wheel.pop_due(now.at) {
            match timer {
                CoreTimer::Job(job) => self.on_job_patience(job, now),
                CoreTimer::Delivery(id) => self.on_delivery_timer(id, now),
                CoreTimer::Pace => self.on_pace(now),
                CoreTimer::Sweep => self.on_sweep(now),
                CoreTimer::Discard => self.on_discard_again(now),
                CoreTimer::Session(id) => self.on_session_timer(id, now),
                CoreTimer::Announce => {
                    for user in std::mem::take(&mut self.unannounced) {
                        self.announce_ready(user, now);
                    }
                }
            }
        }
        self.hear_relay(now);
        self.check_invariants();
    }

    /// The next deadline and whose it is.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let transactions = self.transactions.poll_timeout().map(|at| (at, "transactions"));
        let core = self.wheel.next_deadline().map(|at| (at, "core"));
        let relay = self.relay.poll_timeout().map(|at| (at, "relay"));
        [transactions, core, relay].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front().or_else(|| self.relay.poll_effect().map(Effect::Media))
    }

    /// The latencies measured so far.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Begins no more deliveries of its own, and ends the sessions: the shard is about to end.
    pub fn stop(&mut self, now: Now) {
        self.deliveries.stop();
        self.stop_originations(now);
        self.stop_sessions(now);
    }

    /// True when nothing waits for an answer of the store, the control plane or a device.
    pub fn is_settled(&self) -> bool {
        self.jobs.is_empty() && self.deliveries.counts().0 == 0 && self.large.is_settled() && self.spools.is_settled()
    }

    /// Writes the levels that are only worth writing now and then.
    pub fn publish_levels(&mut self) {
        self.publish_relay();
        let (servers, clients) = self.transactions.counts();
        self.metrics.set(Gauge::ServerTransactions, servers as u64);
        self.metrics.set(Gauge::ClientTransactions, clients as u64);
        self.metrics.set(Gauge::PagerJobs, self.jobs.len() as u64);
        self.metrics.set(Gauge::LargeSessions, self.large.sessions.len() as u64);
        let (in_flight, waiting) = self.deliveries.counts();
        self.metrics.set(Gauge::DeferredInFlight, in_flight as u64);
        self.metrics.set(Gauge::DeferredWaiting, waiting as u64);
    }

    fn check_invariants(&self) {
        debug_assert!(self.scan.is_some() && self.spare_scan.is_some(), "a scan that was borrowed came back");
        debug_assert!(
            self.jobs.len() <= SERVER_TRANSACTION_COUNT_MAX && self.deliveries.is_consistent(),
            "tables keep their bounds"
        );
    }

    fn take(&mut self, bytes: &[u8], source: Source, now: Now, may_steer: bool) {
        let Some(mut scan) = self.scan.take() else { return };
        match scan.scan(bytes) {
            Ok(()) => {
                let message = Message { bytes, scan: &scan };
                match message.status() {
                    Some(status) => self.on_response(&message, status, source, now, may_steer),
                    None => self.on_request(&message, source, now, may_steer),
                }
            }
            Err(_) => self.metrics.count(Counter::DroppedMalformed),
        }
        self.scan = Some(scan);
    }

    /// Reads a kept request again.
    pub(super) fn with_request<R>(
        &mut self,
        request: &Bytes,
        read: impl FnOnce(&mut Self, &Message<'_>) -> R,
    ) -> Option<R> {
        // Reading one kept request may lead to another: a deferral that is committed can let a waiting user go on.
        let mut scan = self.spare_scan.take().unwrap_or_default();
        let outcome = match scan.scan(request) {
            Ok(()) => Some(read(self, &Message { bytes: request, scan: &scan })),
            Err(_) => None,
        };
        self.spare_scan = Some(scan);
        outcome
    }

    fn hand_over(&mut self, to: ShardId, bytes: &[u8], source: Source) {
        self.metrics.count(Counter::HandoverOut);
        // What came to this shard's own port is answered from the one that all share: the other has no part in it.
        let source = Source { socket: Socket::WellKnown, ..source };
        let input = Input::Handover { message: Bytes::copy_from_slice(bytes), source };
        self.effects.push_back(Effect::Post { to, input });
    }

    /// The owner of a message has no room: its sender is told, on any transport (RFC 3261 §21.5.4). News of a user is
    /// tried again.
    fn on_returned(&mut self, input: Input, now: Now) {
        match input {
            Input::Handover { message, source } => {
                self.metrics.count(Counter::DroppedMailboxFull);
                self.with_request(&message, |core, view| {
                    let Some(via) = view.via().filter(|_| view.method().is_some_and(|method| method != b"ACK")) else {
                        return;
                    };
                    core.metrics.count(Counter::RefusedOverload);
                    let path = ReplyPath::of(&via, source);
                    core.respond_statelessly(view, path, 503, "Service Unavailable", RETRY_AFTER_LINE);
                });
            }
            Input::SubscriberReady(user) if self.unannounced.len() < DELIVERY_USER_COUNT_MAX => {
                if self.unannounced.is_empty() {
                    self.wheel.insert(now.at + ANNOUNCE_AGAIN, CoreTimer::Announce);
                }
                self.unannounced.push_back(user);
            }
            _ => self.metrics.count(Counter::DroppedMailboxFull),
        }
    }

    fn on_response(&mut self, message: &Message<'_>, status: u16, source: Source, now: Now, may_steer: bool) {
        // RFC 3261 §18.3: a response that is cut short is discarded; what cannot be read whole is not passed on either.
        let Ok(envelope) = message.check_response() else {
            self.metrics.count(Counter::DroppedMalformed);
            return;
        };
        let branch = envelope.via.branch.and_then(OwnBranch::parse);
        let Some(branch) = branch.filter(|branch| branch.shard.0 < self.settings.shard_count) else {
            self.metrics.count(Counter::DroppedStrayResponse);
            return;
        };
        if branch.shard != self.shard {
            if may_steer {
                self.hand_over(branch.shard, message.bytes, source);
            }
            return;
        }
        if matches!(self.transactions.owner(branch), Some(Owner::Job(_)))
            && message.elements(Name::Via).nth(1).is_none()
        {
            // RFC 3261 §16.7 step 3: a response without another Via has nowhere to go.
            self.metrics.count(Counter::DroppedMalformed);
            return;
        }
        match self.transactions.on_response(branch, message, &envelope, now.at, &mut self.effects) {
            Some((id, owner, verdict, started)) => {
                self.metrics.response_received(status);
                if matches!(verdict, Verdict::Final | Verdict::Success) {
                    self.stages.record(TimedStage::CoreRoundTrip, now.at - started);
                }
                self.on_verdict(id, owner, verdict, Some((status, message)), now);
            }
            None => self.metrics.count(Counter::DroppedStrayResponse),
        }
    }

    fn on_verdict(
        &mut self,
        _client: ClientId,
        owner: Owner,
        verdict: Verdict,
        response: Option<(u16, &Message<'_>)>,
        now: Now,
    ) {
        match owner {
            Owner::Job(job) => self.on_branch(job, verdict, response, now),
            Owner::Delivery { id, round } => {
                self.on_attempt(id, round, verdict, response.map(|(status, _)| status), now);
            }
            Owner::Origination { id, round, leg, request } => {
                self.on_origination(id, round, leg, request, verdict, response, now);
            }
            Owner::Leg { session, leg, request } => {
                self.on_leg_verdict(session, leg, request, verdict, response, now);
            }
            Owner::Notice => {}
        }
    }

    fn on_request(&mut self, message: &Message<'_>, source: Source, now: Now, may_steer: bool) {
        let Some(method) = message.method() else { return };
        if may_steer
            && self.settings.shard_count > 1
            && let Some(call_id) = message.value(Name::CallId)
        {
            let owner = self.transactions.owner_of(call_id, self.settings.shard_count);
            if owner != self.shard {
                self.hand_over(owner, message.bytes, source);
                return;
            }
        }
        let envelope = match message.check_request() {
            Ok(envelope) => envelope,
            Err(_) if method == b"ACK" => {
                self.metrics.count(Counter::DroppedStrayAck);
                return;
            }
            Err(fault) => {
                let Some(via) = message.via() else {
                    // Nobody to answer.
                    self.metrics.count(Counter::DroppedMalformed);
                    return;
                };
                let (status, reason) = fault.status();
                self.metrics.count(Counter::RefusedMalformed);
                self.respond_statelessly(message, ReplyPath::of(&via, source), status, reason, "");
                return;
            }
        };
        let path = ReplyPath::of(&envelope.via, source);
        let key = self.transactions.key(message, &envelope, method);
        if let Some(id) = self.transactions.find(key) {
            if method == b"ACK" {
                self.metrics.count(Counter::RequestAck);
                self.transactions.on_ack(id, now.at, &mut self.effects);
                // Some clients give the ACK of a 2xx the branch of its INVITE.
                self.on_session_ack(message, now);
            } else {
                self.metrics.count(Counter::Retransmission);
                self.transactions.on_repeat(id, now.at, &mut self.effects);
            }
            return;
        }
        self.count_request(method);
        if method == b"ACK" {
            if !self.on_session_ack(message, now) {
                self.metrics.count(Counter::DroppedStrayAck);
            }
            return;
        }
        match self.transactions.admit(key, message, &envelope, path, now.at) {
            Admission::New(server) => {
                self.dispatch(server, message, &envelope, source, now);
                self.transactions.watch(server);
            }
            Admission::Merged(server) => {
                self.metrics.count(Counter::RefusedLoop);
                self.respond(server, message, 482, "Merged Request", "", now);
            }
            Admission::Full => {
                self.metrics.count(Counter::RefusedOverload);
                self.respond_statelessly(message, path, 503, "Service Unavailable", RETRY_AFTER_LINE);
            }
        }
    }

    fn count_request(&self, method: &[u8]) {
        self.metrics.count(match method {
            b"MESSAGE" => Counter::RequestMessage,
            b"REGISTER" => Counter::RequestRegister,
            b"OPTIONS" => Counter::RequestOptions,
            b"INVITE" => Counter::RequestInvite,
            b"ACK" => Counter::RequestAck,
            b"CANCEL" => Counter::RequestCancel,
            _ => Counter::RequestOther,
        });
    }

    fn dispatch(&mut self, server: ServerId, message: &Message<'_>, envelope: &Envelope<'_>, source: Source, now: Now) {
        if let Some(tag) = envelope.to_tag.and_then(origination_tag) {
            self.on_origination_request(server, message, envelope, tag, now);
            return;
        }
        if envelope.to_tag.is_some() && self.on_request_within(server, message, envelope, now) {
            return;
        }
        match message.method().unwrap_or_default() {
            b"INVITE" if envelope.to_tag.is_none() => self.on_invite(server, message, envelope, source, now),
            b"MESSAGE" => self.on_pager_message(server, message, envelope, source, now),
            b"REGISTER" => self.on_register(server, message, source, now),
            b"OPTIONS" => {
                if self.require_is_met(server, message, &SUPPORTED, now) {
                    let extra = format!(
                        "{ALLOW_LINE}Accept: {}\r\nAccept-Encoding: identity\r\nSupported: pref, timer, 100rel\r\n",
                        self.accept_value()
                    );
                    self.respond(server, message, 200, "OK", &extra, now);
                }
            }
            b"CANCEL" => self.on_cancel(server, message, envelope, now),
            // No dialog was ever made here (RFC 3261 §12.2.2).
            b"INVITE" | b"BYE" | b"UPDATE" | b"PRACK" if envelope.to_tag.is_some() => {
                self.respond(server, message, 481, "Call/Transaction Does Not Exist", "", now);
            }
            method if KNOWN_METHODS.contains(&method) => {
                self.respond(server, message, 405, "Method Not Allowed", ALLOW_LINE, now);
            }
            _ => self.respond(server, message, 501, "Not Implemented", ALLOW_LINE, now),
        }
    }

    /// RFC 3261 §9.2. A MESSAGE cannot be called back (§9.1), so a CANCEL that finds one only gets its 200.
    /// An INVITE can.
    fn on_cancel(&mut self, server: ServerId, message: &Message<'_>, envelope: &Envelope<'_>, now: Now) {
        let found = [&b"INVITE"[..], b"MESSAGE", b"OPTIONS", b"REGISTER"].iter().find_map(|method| {
            let key = self.transactions.key(message, envelope, method);
            self.transactions.find(key)
        });
        if let Some(found) = found {
            self.respond(server, message, 200, "OK", "", now);
            if let Some(session) = self.transactions.session_of(found) {
                self.on_session_cancelled(session, found, now);
            }
        } else {
            self.respond(server, message, 481, "Call/Transaction Does Not Exist", "", now);
        }
    }

    fn on_register(&mut self, server: ServerId, message: &Message<'_>, source: Source, now: Now) {
        if !self.is_trusted(source.peer) {
            self.forbid(server, message, "127 Service not authorised", now);
            return;
        }
        if !self.require_is_met(server, message, &REGISTER_SUPPORTED, now) {
            return;
        }
        let change = match registration(message, &self.settings.cpm_tags, now.wall) {
            Ok(change) => change,
            Err(fault) => {
                tracing::debug!(?fault, "REGISTER refused");
                self.respond(server, message, 400, "Bad Registration", "", now);
                return;
            }
        };
        let request = Bytes::copy_from_slice(message.bytes);
        let Some(job) = self.jobs.insert(Job::new(server, request, Stage::Registering, now.at)) else {
            self.respond(server, message, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
            return;
        };
        self.transactions.set_job(server, job);
        self.effects.push_back(Effect::Control {
            ticket: Waiting::Job(job).ticket(),
            command: ControlCommand::Register(change),
        });
    }

    fn on_registered(&mut self, job: SlotId, fault: Option<Fault>, now: Now) {
        let Some(job) = self.jobs.remove(job) else { return };
        debug_assert_eq!(job.stage, Stage::Registering, "only a registration waits for this answer");
        self.with_request(&job.request, |core, message| match fault {
            None => {
                // RFC 3261 §10.3 step 8: the bindings as they are.
                let mut extra = Vec::new();
                for field in message.fields(Name::Contact) {
                    line(&mut extra, "Contact", field.value.of(message.bytes));
                }
                if let Some(expires) = message.value(Name::Expires) {
                    line(&mut extra, "Expires", expires);
                }
                line(&mut extra, "Date", super::objects::http_date(now.wall).as_bytes());
                let extra = String::from_utf8_lossy(&extra).into_owned();
                core.respond(job.server, message, 200, "OK", &extra, now);
            }
            Some(fault) => {
                core.count_fault(fault);
                core.respond(job.server, message, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
            }
        });
    }

    fn on_control_answer(&mut self, waiting: Waiting, answer: ControlAnswer, now: Now) {
        match (waiting, answer) {
            (Waiting::Session(id), ControlAnswer::Resolved(addrs)) => self.on_session_resolved(id, addrs, now),
            (Waiting::Job(job), ControlAnswer::Registered) => self.on_registered(job, None, now),
            (Waiting::Job(job), ControlAnswer::NotRegistered(fault)) => self.on_registered(job, Some(fault), now),
            (Waiting::Job(job), ControlAnswer::Resolved(addrs)) => self.on_resolved(job, addrs, now),
            _ => debug_assert!(false, "only jobs ask the control plane"),
        }
    }

    fn on_store_answer(&mut self, waiting: Waiting, answer: Answer, now: Now) {
        if let Err(fault) = &answer {
            self.count_fault(*fault);
        }
        match waiting {
            Waiting::Job(job) => self.on_job_stored(job, answer, now),
            Waiting::Delivery(id) => self.on_delivery_answer(id, answer, now),
            Waiting::Sweep => self.on_swept(answer, now),
            Waiting::Spool(id) => self.on_spool_stored(id, answer, now),
            Waiting::Nobody | Waiting::Client(_) | Waiting::Session(_) | Waiting::Discard(_) | Waiting::Source(_) => {}
        }
    }

    fn count_fault(&self, fault: Fault) {
        self.metrics.count(match fault {
            Fault::QuotaExceeded => Counter::StoreQuota,
            Fault::Busy => Counter::StoreBusy,
            Fault::DiskFull => Counter::StoreDiskFull,
            Fault::Broken => Counter::StoreBroken,
        });
    }

    pub(super) fn is_trusted(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        self.settings.trusted.iter().any(|network| network.contains(&ip))
    }

    /// The Accept value of 415 and 200 to OPTIONS.
    pub(super) fn accept_value(&self) -> String {
        super::content::accept_header(&self.settings.accept_types)
    }

    /// False when a Require names what is not supported; then 420 is on its way. RFC 3261 §8.2.2.3.
    pub(super) fn require_is_met(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        supported: &[&[u8]],
        now: Now,
    ) -> bool {
        if message.value(Name::Require).is_none() && message.value(Name::ProxyRequire).is_none() {
            return true;
        }
        let mut unsupported = String::new();
        for tag in message.elements(Name::Require).chain(message.elements(Name::ProxyRequire)) {
            if !supported.iter().any(|known| known.eq_ignore_ascii_case(tag)) {
                unsupported.push_str(if unsupported.is_empty() { "" } else { ", " });
                unsupported.push_str(&String::from_utf8_lossy(tag));
            }
        }
        if unsupported.is_empty() {
            return true;
        }
        self.respond(server, message, 420, "Bad Extension", &format!("Unsupported: {unsupported}\r\n"), now);
        false
    }

    /// Supported option tags of a MESSAGE.
    pub(super) fn pager_require_is_met(&mut self, server: ServerId, message: &Message<'_>, now: Now) -> bool {
        self.require_is_met(server, message, &SUPPORTED, now)
    }

    /// 403 with its Warning: a bare 403 makes clients register anew (SPEC finding 1, G-5).
    pub(super) fn forbid(&mut self, server: ServerId, message: &Message<'_>, text: &str, now: Now) {
        let warning = self.warning(text);
        self.respond(server, message, 403, "Forbidden", &warning, now);
    }

    /// A Warning line of ours. RFC 3261 §20.43.
    pub(super) fn warning(&self, text: &str) -> String {
        format!("Warning: 399 {} \"{text}\"\r\n", self.settings.host)
    }

    /// Answers a request through its transaction.
    pub(super) fn respond(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        status: u16,
        reason: &str,
        extra: &str,
        now: Now,
    ) {
        let (Some(path), Some(key)) = (self.transactions.path(server), self.transactions.key_of(server)) else {
            return;
        };
        let to_tag = self.transactions.to_tag(key);
        // A 100 speaks of a hop, not of a dialog (RFC 3261 §17.2.1).
        let to_tag: &[u8] = if status == 100 { b"" } else { &to_tag };
        let bytes = self.compose_response(message, path, status, reason, extra, to_tag);
        if let Some(started) = self.transactions.started(server)
            && status >= 200
        {
            self.stages.record(TimedStage::Total, now.at - started);
        }
        self.transactions.respond(server, status, bytes, now.at, &mut self.effects);
    }

    /// Answers a request that gets no transaction: too broken, or no room. RFC 3261 §8.2.7.
    fn respond_statelessly(&mut self, message: &Message<'_>, path: ReplyPath, status: u16, reason: &str, extra: &str) {
        let via = message.value(Name::Via).unwrap_or_default();
        let call_id = message.value(Name::CallId).unwrap_or_default();
        let tag = format!("{:016x}", self.transactions.digest(&[via, call_id]) as u64);
        let bytes = self.compose_response(message, path, status, reason, extra, tag.as_bytes());
        self.metrics.response_sent(status);
        self.effects.push_back(path.send(bytes));
    }

    /// Writes a message in the scratch buffer and keeps it at its exact length.
    pub(super) fn compose(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.scratch.clear();
        write(&mut self.scratch);
        Bytes::copy_from_slice(&self.scratch)
    }

    fn compose_response(
        &mut self,
        message: &Message<'_>,
        path: ReplyPath,
        status: u16,
        reason: &str,
        extra: &str,
        to_tag: &[u8],
    ) -> Bytes {
        self.extra.clear();
        self.extra.extend_from_slice(SERVER_LINE.as_bytes());
        self.extra.extend_from_slice(extra.as_bytes());
        self.scratch.clear();
        let response = Response { status, reason, to_tag, stamp: path.stamp, extra: &self.extra };
        write::response(&mut self.scratch, message, &response);
        Bytes::copy_from_slice(&self.scratch)
    }

    /// RFC 4320 §4.1: a request that is not answered by the time its sender has slowed down to T2 gets a 100, on any
    /// transport; its repetitions get the same.
    fn on_trying_due(&mut self, server: ServerId, now: Now) {
        if let Some(session) = self.transactions.session_of(server) {
            self.on_session_trying(session, server, now);
            return;
        }
        let Some(job) = self.transactions.job_of(server).and_then(|job| self.jobs.get(job)) else { return };
        let request = if job.request.is_empty() {
            let sent = job.clients.iter().find_map(|client| self.transactions.request_of(*client));
            sent.map(|request| Bytes::from(write::without_top_via(request)))
        } else {
            Some(job.request.clone())
        };
        let Some(request) = request else { return };
        self.with_request(&request, |core, message| core.respond(server, message, 100, "Trying", "", now));
    }

    /// Sends a request of ours: reserves a transaction, has the request written around its Via, launches it. `None` when
    /// there is no room or no socket of the hop's family.
    pub(super) fn send_request(
        &mut self,
        owner: Owner,
        hop: NextHop,
        loop_mark: u32,
        now: Now,
        compose: impl FnOnce(&mut Vec<u8>, &[u8]),
    ) -> Option<ClientId> {
        let listener = self.listener_for(hop.addr)?;
        let transport = hop.transport.unwrap_or(Transport::Udp);
        let destination = Destination { transport, to: hop.addr, listener, sized_up: false };
        let Some(id) = self.transactions.reserve(owner, destination, &mut self.rng, now.at) else {
            self.metrics.count(Counter::RefusedOverload);
            return None;
        };
        self.extra.clear();
        let own = &self.sent_by[usize::from(listener)];
        self.transactions.write_via(id, own, loop_mark, &mut self.extra);
        self.scratch.clear();
        compose(&mut self.scratch, &self.extra);
        let path_mtu = self.settings.path_mtu;
        self.transactions.launch(id, &mut self.scratch, path_mtu, now.at, &mut self.effects);
        Some(id)
    }

    /// Sends an INVITE of ours: as [`Core::send_request`], with the INVITE client transaction of RFC 6026.
    pub(super) fn send_invite(
        &mut self,
        owner: Owner,
        hop: NextHop,
        loop_mark: u32,
        now: Now,
        compose: impl FnOnce(&mut Vec<u8>, &[u8]),
    ) -> Option<ClientId> {
        let id = self.send_request(owner, hop, loop_mark, now, compose)?;
        debug_assert!(
            self.transactions.request_of(id).is_none_or(|request| request.starts_with(b"INVITE ")),
            "the machine follows the method"
        );
        Some(id)
    }

    /// Sends an ACK for a 2xx response, which has no transaction; each repetition of the 2xx has one sent again.
    ///
    /// RFC 3261 §13.2.2.4.
    pub(super) fn send_ack(&mut self, hop: NextHop, compose: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let Some(listener) = self.listener_for(hop.addr) else { return };
        let transport = hop.transport.unwrap_or(Transport::Udp);
        self.extra.clear();
        let own = &self.sent_by[usize::from(listener)];
        self.transactions.write_ack_via(transport, own, OWN_REQUEST_MARK, &mut self.rng, &mut self.extra);
        self.scratch.clear();
        compose(&mut self.scratch, &self.extra);
        let bytes = Bytes::copy_from_slice(&self.scratch);
        self.effects.push_back(match transport {
            Transport::Udp => Effect::SendDatagram { socket: Socket::Own, listener, to: hop.addr, bytes },
            Transport::Tcp => Effect::SendStream { to: StreamTarget::Peer(hop.addr), listener, bytes, ticket: None },
        });
    }

    /// Calls an INVITE of ours back. RFC 3261 §9.1.
    pub(super) fn cancel(&mut self, client: ClientId, now: Now) {
        self.transactions.cancel(client, now.at, &mut self.effects);
    }

    /// A listener's own address as our messages name it.
    pub(super) fn sent_by(&self, listener: u8) -> &str {
        &self.sent_by[usize::from(listener)]
    }

    /// The same, to hold while the core is written to.
    pub(super) fn shared_sent_by(&self, listener: u8) -> Arc<str> {
        Arc::clone(&self.sent_by[usize::from(listener)])
    }

    pub(super) fn listener_for(&self, to: SocketAddr) -> Option<u8> {
        let own = &self.settings.listeners;
        own.iter().position(|own| own.well_known.is_ipv4() == to.is_ipv4()).map(|index| index as u8)
    }

    /// Where a URI leads. RFC 3263 as far as A and AAAA records go.
    pub(super) fn hop_of(&self, uri: &Uri<'_>, now: Instant) -> Hop {
        if uri.scheme != Scheme::Sip {
            // A sips URI asks for TLS on every hop (RFC 3261 §26.2.2), which nothing less can stand in for.
            return Hop::Unreachable;
        }
        let transport = match uri.transport() {
            Some(name) if name.eq_ignore_ascii_case(b"tcp") => Some(Transport::Tcp),
            Some(name) if name.eq_ignore_ascii_case(b"udp") => Some(Transport::Udp),
            Some(_) => return Hop::Unreachable,
            None => None,
        };
        let port = uri.port.unwrap_or(DEFAULT_PORT);
        if let Some(ip) = literal_ip(uri.host) {
            return Hop::Known(NextHop { transport, addr: SocketAddr::new(ip, port) });
        }
        let Ok(host) = std::str::from_utf8(uri.host) else { return Hop::Unreachable };
        if let Some((_, addr)) = self.settings.hosts.iter().find(|(name, _)| name.eq_ignore_ascii_case(host)) {
            let port = uri.port.unwrap_or(addr.port());
            return Hop::Known(NextHop { transport, addr: SocketAddr::new(addr.ip(), port) });
        }
        let host: Box<str> = host.to_ascii_lowercase().into();
        match self.resolved.get(&host) {
            Some(known) if known.until > now => match known.addrs.first() {
                Some(addr) => Hop::Known(NextHop { transport, addr: SocketAddr::new(addr.ip(), port) }),
                None => Hop::Unreachable,
            },
            _ => Hop::Ask(host, port),
        }
    }

    /// Keeps what a look-up found.
    pub(super) fn remember(&mut self, host: Box<str>, addrs: Vec<SocketAddr>, now: Instant) {
        if self.resolved.len() >= RESOLVED_COUNT_MAX {
            self.resolved.retain(|_, known| known.until > now);
            if self.resolved.len() >= RESOLVED_COUNT_MAX {
                self.resolved.clear();
            }
        }
        let until = now + if addrs.is_empty() { UNRESOLVED_FOR } else { RESOLVED_FOR };
        // Addresses of a family we have no socket of lead nowhere.
        let addrs = addrs.into_iter().filter(|addr| self.listener_for(*addr).is_some()).collect();
        self.resolved.insert(host, Resolved { addrs, until });
    }

    /// Tells a user's home shard that messages can be delivered.
    pub(super) fn announce_ready(&mut self, user: Aor, now: Now) {
        let home = ShardId::home_of(user.as_str(), self.settings.shard_count);
        if home == self.shard {
            self.on_subscriber_ready(user, now);
        } else {
            self.effects.push_back(Effect::Post { to: home, input: Input::SubscriberReady(user) });
        }
    }

    /// True when a request came from the interworking function, which must not get it back (SPEC §2.6): straight, or by
    /// way of the S-CSCF, which leaves the function's own Via below others.
    pub(super) fn is_from_isf(&self, message: &Message<'_>, source: Source) -> bool {
        let Some(isf) = &self.settings.isf else { return false };
        let mut vias = message.elements(Name::Via).filter_map(Via::parse);
        source.peer == isf.hop.addr || vias.any(|via| facts::names_host(via.host, via.port, &isf.host, isf.hop.addr))
    }

    pub(super) fn schedule_sweep(&mut self, now: Now) {
        self.wheel.insert(now.at + SWEEP_INTERVAL, CoreTimer::Sweep);
    }
}
