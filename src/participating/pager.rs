//! Pager mode: a SIP MESSAGE from arrival to final response (SPEC §1.1, PM-0 to PM-8).
//!
//! The decision is [`super::decide`]'s; this file carries it out. What cannot be done at once becomes a job.

use super::content;
use super::core::{Core, CoreTimer, Hop, OWN_REQUEST_MARK, RETRY_AFTER_LINE};
use super::decide::{self, Case, Decision, Instances, PAGER, decide};
use super::effect::{Effect, NextHop};
use super::facts::{self, Originator, PAGER_SERVICE, Service, Way};
use super::input::{ControlCommand, Source, Transport};
use super::objects::{Making, object};
use super::policy::PolicyRequest;
use super::settings::{Expired, InterworkingFailure, Oversize};
use super::storage::{Answer, Command, DeferredMessage, Direction, Fault, Outcome, Reply, Shelf};
use super::subscriber::Directory;
use super::transactions::{ClientId, OwnBranch, Owner, ServerId, Verdict, Waiting};
use crate::base::id::{Aor, MessageId};
use crate::base::slots::SlotId;
use crate::base::time::{Instant, Now, UnixMillis};
use crate::cpim::imdn::Report;
use crate::metrics::names::{Counter, Stage as TimedStage};
use crate::sip::header::via::Via;
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::{Name, decimal};
use crate::sip::transport::exceeds_datagram;
use crate::sip::uri::{Uri, canonical};
use crate::sip::write::{self, Forward};
use bytes::Bytes;
use smallvec::SmallVec;
use std::time::Duration;

/// Largest whole request on a stream when no body limit is configured (SPEC §2.10).
const STREAM_REQUEST_LEN_MAX: usize = 8 * 1024;
/// Max-Forwards of a request that has none (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u32 = 70;
/// How long a device may take before its silence becomes a deferral, where 408 is in `deferred.defer_on`: before the
/// sender's own 64·T1 run out.
const ANSWER_PATIENCE: Duration = Duration::from_secs(24);
/// Bytes that a forwarded request may gain: what decides whether it could outgrow a datagram.
const VIA_ROOM: usize = 512;
/// Fields that end at the trust domain's edge or are ours to write.
const DROPPED: [Name; 2] = [Name::PPreferredIdentity, Name::PPreferredService];

/// What a message in progress waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The registrar.
    Registering,
    /// The deferred queue's commit.
    Deferring,
    /// The message store's commit.
    Storing,
    /// The history record, before delivery.
    Recording,
    /// The address of the next hop.
    Resolving,
    /// Final responses.
    Forwarding,
}

/// Why a message is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// To the user's devices.
    Deliver,
    /// To the interworking function.
    Interwork,
    /// Past us: another service's message is not ours to judge, nor to keep.
    Relay,
}

/// A message or registration between its arrival and its final response.
pub(super) struct Job {
    pub(super) server: ServerId,
    /// The request, kept where something may have to be made of it later.
    pub(super) request: Bytes,
    pub(super) stage: Stage,
    started: Instant,
    /// The branches.
    pub(super) clients: SmallVec<[ClientId; 2]>,
    /// Branches that have not ended.
    pending: u8,
    /// The best final response so far, as received and as it would be passed back.
    best: Option<(u16, Bytes)>,
    errand: Errand,
    /// The history record to update, and whose.
    record: Option<(Aor, Box<str>)>,
    /// The name being looked up.
    host: Option<Box<str>>,
    /// Names were looked up already: a name that is still unknown has no address.
    resolved: bool,
    /// There was no room for any of the branches: our own trouble, not the next hop's.
    no_room: bool,
}

impl Job {
    pub(super) fn new(server: ServerId, request: Bytes, stage: Stage, started: Instant) -> Self {
        Self {
            server,
            request,
            stage,
            started,
            clients: SmallVec::new(),
            pending: 0,
            best: None,
            errand: Errand::Deliver,
            record: None,
            host: None,
            resolved: false,
            no_room: false,
        }
    }
}

/// A MESSAGE with what is read of it once.
#[derive(Clone, Copy)]
struct Reading<'m, 'a> {
    message: &'m Message<'a>,
    via: Via<'a>,
    way: Way<'a>,
    /// What a later visit of the same request would find in a Via of ours.
    loop_mark: u32,
}

/// How a request is forwarded.
struct Plan {
    instances: Instances,
    errand: Errand,
}

impl Plan {
    /// One request, which the core forks as it likes.
    fn to(errand: Errand) -> Self {
        Self { instances: Instances::new(), errand }
    }
}

/// Where one branch goes.
struct Target<'a> {
    hop: NextHop,
    /// The device, where one was chosen.
    instance: Option<&'a str>,
}

/// Who asked for what a decision is about.
struct Asked<'a> {
    server: ServerId,
    originator: &'a Originator,
    /// The user's canonical address.
    user: &'a str,
    content: content::Facts<'a>,
}

impl<D: Directory> Core<D> {
    /// PM-0: a MESSAGE that is new.
    pub(super) fn on_pager_message(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        envelope: &Envelope<'_>,
        source: Source,
        now: Now,
    ) {
        let Ok(request_uri) = Uri::parse(message.request_uri().unwrap_or_default()) else {
            self.metrics.count(Counter::RefusedMalformed);
            self.respond(server, message, 400, "Bad Request-URI", "", now);
            return;
        };
        if !facts::is_routable(&request_uri) {
            self.respond(server, message, 416, "Unsupported URI Scheme", "", now);
            return;
        }
        if facts::is_own_case(&request_uri, &self.settings)
            && let Some(loose) = write::loosened(message)
        {
            // A strict router put our own Route into the Request-URI (RFC 3261 §16.4).
            self.with_request(&Bytes::from(loose), |core, message| match message.check_request() {
                Ok(envelope) => core.on_routed_message(server, message, &envelope, source, now),
                Err(_) => core.respond(server, message, 400, "Bad Route", "", now),
            });
            return;
        }
        self.on_routed_message(server, message, envelope, source, now);
    }

    /// The same behind the Request-URI: whose request it is, and what becomes of it.
    fn on_routed_message(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        envelope: &Envelope<'_>,
        source: Source,
        now: Now,
    ) {
        if message.value(Name::MaxForwards).and_then(decimal) == Some(0) {
            self.metrics.count(Counter::RefusedLoop);
            self.respond(server, message, 483, "Too Many Hops", "", now);
            return;
        }
        if !self.pager_require_is_met(server, message, now) {
            return;
        }
        let reading = self.read(message, envelope);
        let way = reading.way;
        if way.case == facts::Case::Unreadable {
            self.metrics.count(Counter::RefusedMalformed);
            self.respond(server, message, 400, "Bad Route", "", now);
            return;
        }
        if is_loop(&reading) {
            self.metrics.count(Counter::RefusedLoop);
            self.respond(server, message, 482, "Loop Detected", "", now);
            return;
        }
        if way.case == facts::Case::Originating {
            let warning = self.warning("Originating case not supported");
            self.respond(server, message, 501, "Not Implemented", &warning, now);
            return;
        }
        if !self.is_trusted(source.peer) || (self.settings.require_route && way.case == facts::Case::Unsaid) {
            self.metrics.count(Counter::DecisionNotAuthorised);
            self.forbid(server, message, "127 Service not authorised", now);
            return;
        }
        let service = facts::service(message, &self.settings.cpm_tags);
        let service = match &service {
            Service::Cpm(text) => text.as_str(),
            Service::Unnamed => PAGER_SERVICE,
            Service::Other => {
                // Not ours to judge: the message goes its way.
                self.start_forwarding(server, &reading, Plan::to(Errand::Relay), now);
                return;
            }
        };
        let Some(originator) = Originator::of(message, service, self.settings.identity_from_header) else {
            self.metrics.count(Counter::DecisionNotAuthorised);
            self.forbid(server, message, "127 Service not authorised", now);
            return;
        };
        let Some(user) = canonical(way.served) else {
            self.metrics.count(Counter::DecisionUnknownUser);
            self.respond(server, message, 404, "Not Found", "", now);
            return;
        };
        let mut validity = facts::validity(message, now.wall);
        if validity.expired && is_own_delivery(message) {
            validity = facts::validity_since_arrival(message, now.wall);
        }
        let addresses: SmallVec<[&str; 3]> = originator.addresses.iter().map(|aor| aor.as_str()).collect();
        let case = Case {
            request: PolicyRequest {
                originator: &addresses,
                anonymous: facts::is_anonymous(message),
                service,
                media: PAGER,
                at: now.wall,
            },
            content_type: message.value(Name::ContentType),
            content_encoding: message.value(Name::ContentEncoding),
            body: message.body(),
            oversize: self.is_oversize(message, source.transport),
            validity,
            interworking_closed: self.settings.isf.is_none() || self.is_from_isf(message, source),
        };
        let settings = &self.settings;
        let (decision, content) =
            self.directory.read(user.as_str(), |subscriber| decide(&case, subscriber, settings, now.wall));
        let asked = Asked { server, originator: &originator, user: user.as_str(), content };
        self.carry_out(&reading, &asked, &decision, now);
    }

    fn carry_out(&mut self, reading: &Reading<'_, '_>, asked: &Asked<'_>, decision: &Decision, now: Now) {
        let Asked { server, originator, user, content } = *asked;
        let message = reading.message;
        self.metrics.count(counter_of(decision));
        match decision {
            Decision::UnknownUser => self.respond(server, message, 404, "Not Found", "", now),
            Decision::PolicyReject | Decision::PreferenceReject => {
                self.forbid(server, message, "122 Function not allowed", now);
            }
            Decision::BadContent => self.respond(server, message, 400, "Bad Content", "", now),
            Decision::UnsupportedMedia { encoding } => {
                let mut extra = format!("Accept: {}\r\n", self.accept_value());
                if *encoding {
                    extra.push_str("Accept-Encoding: identity\r\n");
                }
                self.respond(server, message, 415, "Unsupported Media Type", &extra, now);
            }
            Decision::Oversize(answer) => match answer {
                Oversize::UnsupportedMediaType => {
                    let extra = format!("Accept: {}\r\n", self.accept_value());
                    self.respond(server, message, 415, "Unsupported Media Type", &extra, now);
                }
                Oversize::RequestEntityTooLarge => {
                    self.respond(server, message, 413, "Request Entity Too Large", "", now);
                }
                Oversize::SizeExceeded => self.forbid(server, message, "133 Size Exceeded", now),
            },
            Decision::Expired => {
                let (status, reason) = match self.settings.expired {
                    Expired::AcceptAndDiscard => (202, "Accepted"),
                    Expired::Gone => (410, "Gone"),
                    Expired::TemporarilyUnavailable => (480, "Temporarily Unavailable"),
                };
                self.respond(server, message, status, reason, "", now);
                // An error says it already.
                if status < 300 && content.wants_failure_notice() {
                    self.send_notice(Report::Failed, message, user, now);
                }
            }
            Decision::Defer { age_max_seconds } => {
                let request = Bytes::copy_from_slice(message.bytes);
                let Some(job) = self.begin(server, message, request.clone(), Stage::Deferring, now) else { return };
                let user = Aor::from_canonical(user);
                let deferred =
                    self.deferred_message(message, request, user, originator, content, *age_max_seconds, now.wall);
                self.defer(job, deferred);
            }
            Decision::Store => {
                let request = Bytes::copy_from_slice(message.bytes);
                let Some(job) = self.begin(server, message, request.clone(), Stage::Storing, now) else { return };
                let id = self.message_id(message, content);
                let making = self.making(message, originator, user, &id, Outcome::Stored, now.wall);
                let object = Box::new(object(message, &request, making));
                let command = Command::Keep { shelf: Shelf::Messages, object };
                self.effects.push_back(Effect::Store { ticket: Waiting::Job(job).ticket(), command });
            }
            Decision::Interwork => {
                self.start_forwarding(server, reading, Plan::to(Errand::Interwork), now);
            }
            Decision::Deliver { record: true, .. } => {
                let request = Bytes::copy_from_slice(message.bytes);
                let Some(job) = self.begin(server, message, request.clone(), Stage::Recording, now) else { return };
                let id = self.message_id(message, content);
                let making = self.making(message, originator, user, &id, Outcome::Pending, now.wall);
                let object = Box::new(object(message, &request, making));
                if let Some(waiting) = self.jobs.get_mut(job) {
                    waiting.record = Some((Aor::from_canonical(user), id));
                }
                let command = Command::Keep { shelf: Shelf::History, object };
                self.effects.push_back(Effect::Store { ticket: Waiting::Job(job).ticket(), command });
            }
            Decision::Deliver { record: false, instances } => {
                let plan = Plan { instances: instances.clone(), errand: Errand::Deliver };
                self.start_forwarding(server, reading, plan, now);
            }
        }
    }

    fn is_oversize(&self, message: &Message<'_>, transport: Transport) -> bool {
        match (self.settings.pager_body_len_max, transport) {
            (Some(len_max), _) => message.body().len() > len_max,
            (None, Transport::Udp) => exceeds_datagram(message.scan.body.end as usize, self.settings.path_mtu),
            (None, Transport::Tcp) => message.scan.body.end as usize > STREAM_REQUEST_LEN_MAX,
        }
    }

    fn read<'m, 'a>(&self, message: &'m Message<'a>, envelope: &Envelope<'a>) -> Reading<'m, 'a> {
        let way = facts::way(message, &self.settings);
        // The case is part of the mark: a request that comes back for another case is a spiral, not a loop.
        let case: &[u8] = match way.case {
            facts::Case::Originating => b"orig",
            facts::Case::Terminating | facts::Case::Unsaid | facts::Case::Unreadable => b"term",
        };
        Reading { message, via: envelope.via, way, loop_mark: self.transactions.loop_mark(message, envelope, case) }
    }

    fn begin(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        request: Bytes,
        stage: Stage,
        now: Now,
    ) -> Option<SlotId> {
        let job = self.jobs.insert(Job::new(server, request, stage, now.at));
        match job {
            Some(job) => self.transactions.set_job(server, job),
            None => {
                self.metrics.count(Counter::RefusedOverload);
                self.respond(server, message, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
            }
        }
        job
    }

    /// The message's own id, or one that every repetition of the message gets as well.
    pub(super) fn message_id(&self, message: &Message<'_>, content: content::Facts<'_>) -> Box<str> {
        match content.imdn_message_id() {
            Some(id) if !id.is_empty() => id.into(),
            _ => {
                let call_id = message.value(Name::CallId).unwrap_or_default();
                let cseq = message.value(Name::CSeq).unwrap_or_default();
                let from = message.value(Name::From).unwrap_or_default();
                // Not keyed by the process's secret: the id must be the same after a restart.
                let hash =
                    [call_id, cseq, from].iter().fold(0xcbf2_9ce4_8422_2325_6c62_272e_07bb_0142_u128, |hash, part| {
                        part.iter().chain(b"\n").fold(hash, |hash, byte| {
                            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
                        })
                    });
                format!("rp-{hash:032x}").into()
            }
        }
    }

    pub(super) fn making<'a>(
        &self,
        message: &Message<'_>,
        originator: &'a Originator,
        user: &str,
        imdn_message_id: &'a str,
        outcome: Outcome,
        at: UnixMillis,
    ) -> Making<'a> {
        Making {
            user: Aor::from_canonical(user),
            originator: originator.main(),
            from: originator.field.unwrap_or(Name::From),
            anonymous: facts::is_anonymous(message),
            service: facts::service(message, &self.settings.cpm_tags),
            imdn_message_id,
            outcome,
            at,
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn deferred_message(
        &self,
        message: &Message<'_>,
        request: Bytes,
        user: Aor,
        originator: &Originator,
        content: content::Facts<'_>,
        age_max_seconds: Option<u32>,
        now: UnixMillis,
    ) -> DeferredMessage {
        let provider = i64::try_from(self.settings.deferred_age_max.as_secs()).unwrap_or(i64::MAX / 2000);
        let age = age_max_seconds.map_or(provider, |seconds| provider.min(i64::from(seconds)));
        let latest = now.plus_seconds(age);
        let read = if is_own_delivery(message) { facts::validity_since_arrival } else { facts::validity };
        let expires = read(message, now).until.map_or(latest, |until| until.min(latest));
        DeferredMessage {
            id: MessageId::default(),
            user,
            originator: if facts::is_anonymous(message) { "anonymous" } else { originator.main() }.into(),
            accepted: now,
            expires,
            attempts: 0,
            not_before: UnixMillis(0),
            wants_failure_notice: content.wants_failure_notice(),
            request,
            content: None,
        }
    }

    fn defer(&mut self, job: SlotId, message: DeferredMessage) {
        let command = Command::Defer { message: Box::new(message), quota: self.settings.deferred_quota };
        self.effects.push_back(Effect::Store { ticket: Waiting::Job(job).ticket(), command });
    }

    /// A forwarded message that no device took becomes a deferred one (`deferred.defer_on`, `sip.isf_failure`).
    fn defer_instead(&mut self, job: SlotId, now: Now) -> bool {
        let Some(request) = self.jobs.get(job).map(|job| job.request.clone()).filter(|request| !request.is_empty())
        else {
            return false;
        };
        let deferred = self.with_request(&request, |core, message| {
            let service = facts::service(message, &core.settings.cpm_tags);
            let service = match &service {
                Service::Cpm(text) => text.as_str(),
                _ => PAGER_SERVICE,
            };
            let originator = Originator::of(message, service, core.settings.identity_from_header)?;
            let user = canonical(facts::way(message, &core.settings).served)?.to_aor();
            let content = core.content_facts(message);
            let age = core.directory.read(user.as_str(), |subscriber| {
                subscriber.and_then(|known| known.profile.as_ref()?.deferred_age_max_seconds)
            });
            Some(core.deferred_message(message, request.clone(), user, &originator, content, age, now.wall))
        });
        let Some(Some(mut deferred)) = deferred else { return false };
        // It was tried: the history may have a record that waits for the end.
        deferred.attempts = 1;
        if let Some(job) = self.jobs.get_mut(job) {
            job.stage = Stage::Deferring;
        }
        self.metrics.count(Counter::DecisionDefer);
        self.defer(job, deferred);
        true
    }

    pub(super) fn content_facts<'a>(&self, message: &Message<'a>) -> content::Facts<'a> {
        content::check(
            message.value(Name::ContentType),
            message.value(Name::ContentEncoding),
            message.body(),
            &self.settings.accept_types,
        )
        .unwrap_or_default()
    }

    /// PM-7, straight from the receive buffer: the request is copied once, into the forwarded one.
    fn start_forwarding(&mut self, server: ServerId, reading: &Reading<'_, '_>, plan: Plan, now: Now) {
        let (message, errand) = (reading.message, plan.errand);
        // The request is kept only where it may be deferred after all.
        let keep = match errand {
            Errand::Deliver => !self.settings.defer_on.is_empty(),
            Errand::Interwork => self.settings.isf_failure == InterworkingFailure::Defer,
            Errand::Relay => false,
        };
        let request = if keep { Bytes::copy_from_slice(message.bytes) } else { Bytes::new() };
        let Some(job) = self.begin(server, message, request, Stage::Forwarding, now) else { return };
        if let Some(waiting) = self.jobs.get_mut(job) {
            waiting.errand = errand;
        }
        self.forward(job, reading, &plan, now);
    }

    /// True when a message on this errand becomes a deferred one after this answer; 408 stands for silence.
    fn defers_on(&self, errand: Errand, status: u16) -> bool {
        match errand {
            Errand::Deliver => self.settings.defer_on.contains(&status),
            Errand::Interwork => {
                self.settings.isf_failure == InterworkingFailure::Defer
                    && ((500..600).contains(&status) || status == 408)
            }
            Errand::Relay => false,
        }
    }

    /// Sends the branches of a job, or asks for the next hop's address first.
    fn forward(&mut self, job: SlotId, reading: &Reading<'_, '_>, plan: &Plan, now: Now) {
        let message = reading.message;
        let hop = match self.next_hop(reading, plan, now.at) {
            Hop::Known(hop) => hop,
            Hop::Ask(host, port) => {
                self.ask(job, message, host, port, now);
                return;
            }
            Hop::Unreachable => {
                self.finish_unsendable(job, message, now);
                return;
            }
        };
        if hop.transport == Some(Transport::Tcp)
            || exceeds_datagram(message.bytes.len() + VIA_ROOM, self.settings.path_mtu)
        {
            // A stream may fail, and then the request has to be answered from here.
            if let Some(waiting) = self.jobs.get_mut(job).filter(|waiting| waiting.request.is_empty()) {
                waiting.request = Bytes::copy_from_slice(message.bytes);
            }
        }
        let branches = plan.instances.len().max(1);
        let mut clients = SmallVec::new();
        for index in 0..branches {
            let instance = plan.instances.get(index).map(|instance| &**instance);
            clients.extend(self.send_branch(job, reading, plan, Target { hop, instance }, now));
        }
        if clients.is_empty() {
            if let Some(waiting) = self.jobs.get_mut(job) {
                waiting.no_room = self.transactions.is_full();
            }
            self.finish_unsendable(job, message, now);
            return;
        }
        let patience = self.defers_on(plan.errand, 408);
        if let Some(waiting) = self.jobs.get_mut(job) {
            waiting.stage = Stage::Forwarding;
            waiting.pending = clients.len() as u8;
            waiting.clients = clients;
        }
        if patience {
            self.wheel.insert(now.at + ANSWER_PATIENCE, CoreTimer::Job(job));
        }
    }

    fn next_hop(&self, reading: &Reading<'_, '_>, plan: &Plan, now: Instant) -> Hop {
        if plan.errand == Errand::Interwork {
            return self.settings.isf.as_ref().map_or(Hop::Unreachable, |isf| Hop::Known(isf.hop));
        }
        let core = &self.settings.core;
        match &reading.way.next {
            None => Hop::Known(core.hop),
            Some(uri) if uri.port.is_none() && uri.host.eq_ignore_ascii_case(core.host.as_bytes()) => {
                Hop::Known(core.hop)
            }
            Some(uri) => self.hop_of(uri, now),
        }
    }

    fn send_branch(
        &mut self,
        job: SlotId,
        reading: &Reading<'_, '_>,
        plan: &Plan,
        target: Target<'_>,
        now: Now,
    ) -> Option<ClientId> {
        let Reading { message, way, loop_mark, via: top } = *reading;
        let Target { hop, instance } = target;
        let stamp = self
            .jobs
            .get(job)
            .and_then(|job| self.transactions.path(job.server))
            .map(|path| path.stamp)
            .unwrap_or_default();
        let hops = message.value(Name::MaxForwards).and_then(decimal).map_or(MAX_FORWARDS, |hops| hops as u32 - 1);
        // PM-6a: one instance each; a request that named several would reach none (SPEC §1.1, expressibility gap).
        let extra = instance.map(|instance| {
            format!("Accept-Contact: *;+sip.instance=\"<{instance}>\";require;explicit\r\n").into_bytes()
        });
        let interworking = plan.errand == Errand::Interwork;
        let isf_route =
            interworking.then(|| self.settings.isf.as_ref().map(|isf| format!("<{}>", isf.uri).into_bytes())).flatten();
        // A next hop that is a strict router gets the Request-URI as the last Route (RFC 3261 §16.6 step 6).
        let strict = way.next.filter(|uri| !interworking && !uri.is_loose_route()).map(|uri| uri.text);
        let request_uri = message.request_uri().unwrap_or_default();
        let append = strict.map(|_| [b"<", request_uri, b">"].concat());
        self.send_request(Owner::Job(job), hop, loop_mark, now, |out, via| {
            let edit = Forward {
                via,
                top: Some(top),
                stamp,
                max_forwards: hops,
                pop_routes: way.own_routes + usize::from(strict.is_some()),
                push_route: isf_route.as_deref(),
                request_uri: strict,
                append_route: append.as_deref(),
                extra: extra.as_deref().unwrap_or_default(),
                drop: &DROPPED,
            };
            write::forward_request(out, message, &edit);
        })
    }

    fn ask(&mut self, job: SlotId, message: &Message<'_>, host: Box<str>, port: u16, now: Now) {
        let Some(waiting) = self.jobs.get_mut(job) else { return };
        if waiting.resolved {
            self.finish_unsendable(job, message, now);
            return;
        }
        if waiting.request.is_empty() {
            waiting.request = Bytes::copy_from_slice(message.bytes);
        }
        waiting.stage = Stage::Resolving;
        waiting.resolved = true;
        waiting.host = Some(host.clone());
        self.effects.push_back(Effect::Control {
            ticket: Waiting::Job(job).ticket(),
            command: ControlCommand::Resolve { host, port },
        });
    }

    pub(super) fn on_resolved(&mut self, job: SlotId, addrs: Vec<std::net::SocketAddr>, now: Now) {
        let Some(waiting) = self.jobs.get_mut(job) else { return };
        debug_assert_eq!(waiting.stage, Stage::Resolving, "only a look-up waits for addresses");
        if let Some(host) = waiting.host.take() {
            self.remember(host, addrs, now.at);
        }
        self.resume(job, now);
    }

    /// Goes on with a kept request: devices are chosen as things stand, since time has passed.
    fn resume(&mut self, job: SlotId, now: Now) {
        let Some((request, errand)) = self.jobs.get(job).map(|job| (job.request.clone(), job.errand)) else { return };
        self.with_request(&request, |core, message| {
            let Ok(envelope) = message.envelope() else { return };
            let reading = core.read(message, &envelope);
            let instances = match canonical(reading.way.served) {
                Some(user) if errand == Errand::Deliver => {
                    let settings = &core.settings;
                    core.directory.read(user.as_str(), |subscriber| {
                        subscriber.map(|known| decide::instances(known, settings, now.wall)).unwrap_or_default()
                    })
                }
                _ => Instances::new(),
            };
            core.forward(job, &reading, &Plan { instances, errand }, now);
        });
    }

    /// What became of one branch (PM-8).
    pub(super) fn on_branch(&mut self, id: SlotId, verdict: Verdict, response: Option<(u16, &Message<'_>)>, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.stage != Stage::Forwarding || verdict == Verdict::Provisional {
            // Provisional responses to MESSAGE are absorbed (RFC 4320 §4.1).
            return;
        }
        job.pending = job.pending.saturating_sub(1);
        match (verdict, response) {
            (Verdict::Final, Some((status, message))) => {
                if !self.is_better(id, status) {
                    if self.jobs.get(id).is_some_and(|job| job.pending == 0) {
                        self.finish(id, now);
                    }
                    return;
                }
                // A 503 speaks of the hop that sent it, not of us (RFC 3261 §16.7 step 6).
                let changed = (status == 503).then_some((500, "Server Internal Error"));
                let bytes = self.compose(|out| write::forward_response(out, message, changed));
                if let Some(job) = self.jobs.get_mut(id) {
                    job.best = Some((status, bytes));
                }
                if (200..300).contains(&status) {
                    self.finish(id, now);
                    return;
                }
            }
            // RFC 3261 §16.9: as if a 503 had been received.
            (Verdict::Unsendable, _) if self.is_better(id, 503) => {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.best = Some((503, Bytes::new()));
                }
            }
            _ => {}
        }
        if self.jobs.get(id).is_some_and(|job| job.pending == 0) {
            self.finish(id, now);
        }
    }

    /// RFC 3261 §16.7 step 6: a 6xx before all, then the lowest class; within a class the first.
    fn is_better(&self, id: SlotId, status: u16) -> bool {
        let rank = |status: u16| match status / 100 {
            2 => 0,
            6 => 1,
            class => class,
        };
        self.jobs.get(id).is_some_and(|job| match &job.best {
            None => true,
            Some((best, bytes)) => rank(status) < rank(*best) || (bytes.is_empty() && rank(status) == rank(*best)),
        })
    }

    fn finish_unsendable(&mut self, id: SlotId, message: &Message<'_>, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.stage = Stage::Forwarding;
        job.best = Some((503, Bytes::new()));
        if job.request.is_empty() {
            job.request = Bytes::copy_from_slice(message.bytes);
        }
        self.finish(id, now);
    }

    /// Every branch has ended: one final response goes back, or the message is deferred after all.
    fn finish(&mut self, id: SlotId, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let best = job.best.take();
        let status = best.as_ref().map_or(408, |(status, _)| *status);
        let errand = job.errand;
        if self.defers_on(errand, status) && self.defer_instead(id, now) {
            return;
        }
        let Some(job) = self.jobs.remove(id) else { return };
        let delivered = (200..300).contains(&status);
        if let Some((user, imdn_message_id)) = job.record {
            let outcome = if delivered { Outcome::Delivered } else { Outcome::Failed };
            self.set_outcome(user, imdn_message_id, outcome);
        }
        match best {
            Some((_, bytes)) if !bytes.is_empty() => {
                let sent = if status == 503 { 500 } else { status };
                self.transactions.respond(job.server, sent, bytes, now.at, &mut self.effects);
                self.stages.record(TimedStage::Total, now.at - job.started);
            }
            Some(_) => {
                debug_assert!(!job.request.is_empty(), "a request that may turn out unsendable is kept");
                let warning = self.warning("Next hop unreachable");
                self.with_request(&job.request, |core, message| match job.no_room {
                    true => core.respond(job.server, message, 503, "Service Unavailable", RETRY_AFTER_LINE, now),
                    false => core.respond(job.server, message, 500, "Server Internal Error", &warning, now),
                });
            }
            // Nobody answered. The sender's timer has run out as well: no late 408 (RFC 4320 §4.1).
            None => self.transactions.abandon(job.server),
        }
    }

    pub(super) fn set_outcome(&mut self, user: Aor, imdn_message_id: Box<str>, outcome: Outcome) {
        let command = Command::SetOutcome { user, imdn_message_id, direction: Direction::Received, outcome };
        self.effects.push_back(Effect::Store { ticket: Waiting::Nobody.ticket(), command });
    }

    /// Devices stayed silent too long for a carrier that defers on 408.
    pub(super) fn on_job_patience(&mut self, id: SlotId, now: Now) {
        if self.jobs.get(id).is_some_and(|job| job.stage == Stage::Forwarding) {
            self.finish(id, now);
        }
    }

    /// The store has answered for a message that waits.
    pub(super) fn on_job_stored(&mut self, id: SlotId, answer: Answer, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        self.stages.record(TimedStage::StoreCommit, now.at - job.started);
        match job.stage {
            Stage::Recording => {
                let recorded = answer.is_ok();
                if !recorded {
                    job.record = None;
                }
                // A record that fails keeps nobody from their message (PM-5).
                self.metrics.count(if recorded { Counter::HistoryRecorded } else { Counter::HistoryFailed });
                self.resume(id, now);
            }
            Stage::Deferring | Stage::Storing => {
                let Some(job) = self.jobs.remove(id) else { return };
                self.answer_stored(job, answer, now);
            }
            stage => debug_assert!(false, "a job in {stage:?} asked the store nothing"),
        }
    }

    /// The 2xx of a deferred or stored message: after the durable commit, never before (PM-4a-ii, PM-4a-iii).
    fn answer_stored(&mut self, job: Job, answer: Answer, now: Now) {
        let deferring = job.stage == Stage::Deferring;
        let request = job.request.clone();
        self.with_request(&request, |core, message| match answer {
            Ok(Reply::Deferred(_)) if deferring => {
                core.respond(job.server, message, 202, "Accepted", "", now);
                if let Some((user, imdn_message_id)) = job.record {
                    core.set_outcome(user, imdn_message_id, Outcome::Deferred);
                }
                core.tell_stored(message, now);
                // The user may have come while the message was on its way to the disk.
                if let Some(user) = canonical(facts::way(message, &core.settings).served)
                    && core.is_reachable(user.as_str(), now)
                {
                    core.announce_ready(user.to_aor(), now);
                }
            }
            Ok(Reply::Kept { .. }) if !deferring => {
                core.respond(job.server, message, 200, "OK", "", now);
                core.tell_stored(message, now);
            }
            Ok(reply) => {
                debug_assert!(false, "the store answered {reply:?} to something else");
                core.respond(job.server, message, 500, "Server Internal Error", "", now);
            }
            Err(fault) => {
                if let Some((user, imdn_message_id)) = job.record {
                    core.set_outcome(user, imdn_message_id, Outcome::Failed);
                }
                match fault {
                    Fault::QuotaExceeded => {
                        core.respond(job.server, message, 480, "Temporarily Unavailable", "", now);
                    }
                    Fault::Busy | Fault::DiskFull | Fault::Broken => {
                        core.respond(job.server, message, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
                    }
                }
            }
        });
    }

    /// Tells a sender who asked how the message is processed that it is kept for later (SPEC §2.4, §2.8).
    fn tell_stored(&mut self, message: &Message<'_>, now: Now) {
        if self.content_facts(message).wants_stored_notice()
            && let Some(user) = canonical(facts::way(message, &self.settings).served)
        {
            self.send_notice(Report::Stored, message, user.as_str(), now);
        }
    }

    pub(super) fn is_reachable(&self, user: &str, now: Now) -> bool {
        self.directory.read(user, |subscriber| subscriber.is_some_and(|known| known.is_reachable(now.wall)))
    }
}

/// True when a Via of ours in the request says that nothing changed since it left here. RFC 3261 §16.3 step 4.
fn is_loop(reading: &Reading<'_, '_>) -> bool {
    let bytes = reading.message.bytes;
    reading
        .message
        .fields(Name::Via)
        .any(|field| OwnBranch::find_all(field.value.of(bytes)).any(|branch| branch.loop_mark == reading.loop_mark))
}

/// True for a deferred message that left here, when the core routes it through the user's services once more: its Date is
/// the sender's, its Expires what was left when it left (SPEC §2.4).
fn is_own_delivery(message: &Message<'_>) -> bool {
    let is_ours = |branch: OwnBranch| branch.loop_mark == OWN_REQUEST_MARK;
    message.fields(Name::Via).any(|field| OwnBranch::find_all(field.value.of(message.bytes)).any(is_ours))
}

fn counter_of(decision: &Decision) -> Counter {
    match decision {
        Decision::UnknownUser => Counter::DecisionUnknownUser,
        Decision::PolicyReject => Counter::DecisionPolicyReject,
        Decision::BadContent => Counter::RefusedMalformed,
        Decision::UnsupportedMedia { .. } => Counter::DecisionUnsupportedMedia,
        Decision::Oversize(_) => Counter::DecisionOversize,
        Decision::Expired => Counter::DecisionExpired,
        Decision::PreferenceReject => Counter::DecisionReject,
        Decision::Defer { .. } => Counter::DecisionDefer,
        Decision::Store => Counter::DecisionStore,
        Decision::Interwork => Counter::DecisionInterwork,
        Decision::Deliver { .. } => Counter::DecisionDeliver,
    }
}
