//! Large message mode: an INVITE from arrival to the decision (SPEC §1.2, LM-0 to LM-6), and the table of sessions.
//!
//! The decision is [`super::large_decide`]'s. What follows from it is carried out by [`super::b2bua`] (two legs) or by
//! [`super::b2bua`] as the called party alone, when the appliance takes the message itself.

use super::core::{Core, RETRY_AFTER_LINE};
use super::decide::Instances;
use super::effect::NextHop;
use super::facts::{self, Originator, Service};
use super::input::{Source, Transport};
use super::large_body::{BodyFault, SessionBody};
use super::large_decide::{Case, Decision, Errand, LARGE, OfferFault, decide};
use super::leg::{Leg, LocalTag, Side, names_option};
use super::media::MediaOwner;
use super::policy::PolicyRequest;
use super::subscriber::Directory;
use super::transactions::{ClientId, OwnBranch, ServerId};
use crate::base::id::Aor;
use crate::base::limits::LARGE_SESSION_COUNT_MAX;
use crate::base::slots::{SlotId, Slots};
use crate::base::time::{Instant, Now};
use crate::metrics::names::Counter;
use crate::msrp::news::{OpenPlan, Purpose, SessionId};
use crate::msrp::uri::{MsrpUri, first};
use crate::sdp::{self, Description, MessageMedia, Role, Setup as SetupAttribute, answer_setup};
use crate::sip::dialog::session_timer::{TimerAnswer, TimerOffer, TimerRequest};
use crate::sip::dialog::{DialogFault, Order, RouteSet};
use crate::sip::header::list::{elements, params};
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::{Name, Scan, decimal};
use crate::sip::uri::{Scheme, Uri, canonical};
use crate::sip::write;
use bytes::Bytes;
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::time::Duration;

/// Service identifiers of CPM begin with this.
const ICSI_PREFIX: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.";
/// What an INVITE with an MSRP offer is for when it names no service.
const LARGE_SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";
/// Option tags that a Require of an INVITE may name.
pub(super) const SUPPORTED: [&[u8]; 3] = [b"timer", b"100rel", b"pref"];
/// The session interval we would choose, in seconds (RFC 4028 §4 recommends it).
pub(super) const SESSION_SECONDS: u32 = 1_800;
/// How many times larger a transferred file may be than a large message, as their defaults stand to each other
/// (SPEC §4.6).
const FILE_SIZE_FACTOR: u64 = 10;

/// Which of CPM's services with a message in MSRP it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A large message, straight or deferred.
    LargeMessage,
    /// A file (SPEC §2.9).
    File,
}

impl Kind {
    /// The service's identifier in a feature tag of ours.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::LargeMessage => "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg",
            Self::File => "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.filetransfer",
        }
    }

    /// What a service identifier stands for; `None` for another service.
    fn of(service: &str) -> Option<Self> {
        match service.strip_prefix(ICSI_PREFIX) {
            // The draft's feature tag, and whatever the operator counts as CPM.
            None => Some(Self::LargeMessage),
            Some("largemsg" | "deferred") => Some(Self::LargeMessage),
            Some("filetransfer") => Some(Self::File),
            Some(rest) if rest.starts_with("largemsg.") => Some(Self::LargeMessage),
            Some(_) => None,
        }
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The address of the next hop is looked up.
    Resolving,
    /// The terminating side is called.
    Calling,
    /// The originating side has its 200, and its ACK is awaited.
    Answered,
    /// Both sides talk.
    Confirmed,
    /// It is over; what is owed to the legs is still on its way.
    Ending,
}

/// What a session does with its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Business {
    /// It goes to the user's devices.
    Deliver,
    /// It goes to the interworking function.
    Interwork,
    /// The appliance takes it.
    Take,
}

/// What is made of a message besides passing it on, or instead.
#[derive(Clone, Debug)]
pub struct SpoolTask {
    /// The INVITE as received.
    pub request: Bytes,
    /// The recipient.
    pub user: Aor,
    /// What for.
    pub errand: Errand,
}

/// One session: both legs, what couples them, and the media.
pub(super) struct Session {
    /// Random bits of its tags: the upper half for the originating side.
    pub nonce: u64,
    pub stage: Stage,
    pub business: Business,
    pub kind: Kind,
    /// The listening address that the INVITE came to.
    pub listener: u8,
    /// It came over a stream.
    pub stream: bool,
    /// The terminating side's 2xx has its ACK.
    pub acked: bool,
    pub media_listeners: [u8; 2],
    pub media: Option<SessionId>,
    pub size_max: u64,
    pub legs: [Option<Leg>; 2],
    /// What only matters until the originating side has its answer.
    pub setup: Option<Box<Setup>>,
    pub task: Option<Box<SpoolTask>>,
    /// A re-INVITE or UPDATE on its way from one leg to the other.
    pub change: Option<Box<Change>>,
    /// The name being looked up.
    pub asking: Option<Box<str>>,
    /// Header lines of a BYE that says why.
    pub reason: Option<Box<[u8]>>,
    /// When the wheel looks at the session next.
    pub armed: Option<Instant>,
    /// When an ending session is forgotten, whatever is owed.
    pub until: Option<Instant>,
}

/// A session that is being set up.
pub(super) struct Setup {
    /// The originating side's INVITE and its transaction.
    pub request: Bytes,
    /// Where its fields stand: it is read again when the terminating side answers.
    pub index: Option<Box<Scan>>,
    pub server: ServerId,
    pub instances: Instances,
    pub hop: Option<NextHop>,
    /// Names were looked up already: a name that is still unknown has no address.
    pub resolved: bool,
    pub forks: SmallVec<[Fork; 1]>,
    pub early: SmallVec<[Early; 1]>,
    /// The best failure so far: status, reason phrase, header lines.
    pub best: Option<(u16, Box<str>, Box<str>)>,
    /// When nobody is waited for any more.
    pub until: Instant,
    /// The originating side asked for reliable provisional responses.
    pub wants_reliable: bool,
    pub reliable: Option<Reliable>,
    /// The last RSeq of ours.
    pub rseq: u32,
}

/// One INVITE of the terminating side.
pub(super) struct Fork {
    pub client: Option<ClientId>,
    /// The Call-ID's random part.
    pub call_id: u64,
    pub cseq: u32,
    pub timer: TimerOffer,
    /// It has its final response.
    pub done: bool,
    /// A reliable provisional response that held the answer to our offer (RFC 3262 §5).
    pub answer: Option<Bytes>,
}

/// An early dialog of the terminating side; its place in the list is the tag index of the originating side.
pub(super) struct Early {
    pub fork: u8,
    /// A digest of its tag, which may be long.
    pub remote_tag: u128,
    /// The last RSeq that was acknowledged.
    pub rseq: Option<u32>,
    /// PRACKs sent.
    pub pracks: u32,
}

/// A provisional response of ours that waits for its PRACK. RFC 3262 §3.
pub(super) struct Reliable {
    pub rseq: u32,
    pub bytes: Bytes,
    pub status: u16,
    pub again: Instant,
    pub interval: Duration,
    pub given_up: Instant,
}

/// A re-INVITE or UPDATE of one leg that the other has to answer.
pub(super) struct Change {
    /// Who asks.
    pub from: Side,
    pub server: ServerId,
    pub request: Bytes,
    pub is_update: bool,
}

impl Early {
    pub const fn is(&self, fork: u8, remote_tag: u128) -> bool {
        self.fork == fork && self.remote_tag == remote_tag
    }
}

impl Session {
    pub fn leg(&self, side: Side) -> Option<&Leg> {
        self.legs[side as usize].as_ref()
    }

    pub fn leg_mut(&mut self, side: Side) -> Option<&mut Leg> {
        self.legs[side as usize].as_mut()
    }

    pub fn tag(&self, id: SlotId, index: u8) -> LocalTag {
        let tag = LocalTag { session: id, index, nonce: 0 };
        let nonce = match tag.side() {
            Side::Originating => (self.nonce >> 32) as u32,
            Side::Terminating => self.nonce as u32,
        };
        LocalTag { nonce, ..tag }
    }

    /// The session id of `o=` on a leg.
    pub const fn origin(&self, side: Side) -> u64 {
        match side {
            Side::Originating => self.nonce >> 32,
            Side::Terminating => self.nonce & 0xffff_ffff,
        }
    }

    /// When something is due next.
    pub fn deadline(&self) -> Option<Instant> {
        let setup = self.setup.as_ref().map(|setup| {
            let reliable = setup.reliable.as_ref().map(|reliable| reliable.again.min(reliable.given_up));
            reliable.map_or(setup.until, |at| at.min(setup.until))
        });
        let legs = self.legs.iter().flatten().flat_map(|leg| {
            let answer = leg.answer.as_ref().map(|answer| answer.again.min(answer.given_up));
            [leg.timer.poll_timeout(), answer, leg.reinvite.map(|(_, until)| until)].into_iter().flatten()
        });
        legs.chain(setup).chain(self.until).min()
    }
}

/// The sessions of one shard.
pub(super) struct Large {
    pub sessions: Slots<Session>,
    /// BYEs of ours that wait for their response.
    pub bye_count: usize,
    /// Where descriptions and header lines are written.
    pub sdp: Vec<u8>,
    pub extra: Vec<u8>,
}

impl Large {
    pub fn new() -> Self {
        Self { sessions: Slots::new(LARGE_SESSION_COUNT_MAX), bye_count: 0, sdp: Vec::new(), extra: Vec::new() }
    }

    /// True when nobody waits for a session: none is being set up, and none ends that a peer has still to hear of.
    pub fn is_settled(&self) -> bool {
        let is_waited_for = |session: &Session| session.setup.is_some() || session.stage == Stage::Ending;
        self.bye_count == 0 && !self.sessions.iter().any(is_waited_for)
    }
}

/// An offer that can be met.
#[derive(Clone, Copy)]
pub(super) struct Offered<'a> {
    pub body: SessionBody<'a>,
    pub description: Description<'a>,
    pub media: MessageMedia<'a>,
    /// What we say to its `a=setup`.
    pub setup: SetupAttribute,
}

impl<'a> Offered<'a> {
    /// Reads the offer of the originating side (LM-4x).
    pub fn of(message: &Message<'a>) -> Result<Self, OfferFault> {
        let body = SessionBody::of(message).map_err(OfferFault::Body)?;
        let description = Description::parse(body.sdp).map_err(OfferFault::Sdp)?;
        let media = description.usable(sdp::Leg::Originating).map_err(OfferFault::Sdp)?;
        let setup = answer_setup(media.setup).ok_or(OfferFault::Sdp(sdp::SdpFault::Setup))?;
        if setup.role() == Role::Active && connect_addresses(&media).is_empty() {
            return Err(OfferFault::Address);
        }
        Ok(Self { body, description, media, setup })
    }
}

/// Where to connect to whoever wrote a description: the first URI of its path, then its media line (SPEC §4.5). Who knows
/// CEMA may be behind a gateway that changes the media line alone, and is reached there (RFC 6714 §4).
pub(super) fn connect_addresses(media: &MessageMedia<'_>) -> SmallVec<[SocketAddr; 2]> {
    let path = MsrpUri::parse(first(media.path)).and_then(|uri| uri.literal_addr());
    let path = path.filter(|addr| !addr.ip().is_unspecified());
    let mut addresses: SmallVec<[SocketAddr; 2]> = path.into_iter().chain(media.connect).collect();
    if media.cema {
        addresses.reverse();
    }
    addresses.dedup();
    addresses
}

/// What was read of an INVITE on the way to the decision.
struct Read<'r, 'm> {
    way: &'r facts::Way<'m>,
    /// Absent in an INVITE that is refused for it.
    offer: Option<&'r Offered<'m>>,
}

/// What of an INVITE outlives its arrival.
pub(super) struct Begin {
    pub server: ServerId,
    /// Where the originating side's media is, as far as its offer says.
    pub media_peer: Option<SocketAddr>,
    pub business: Business,
    pub kind: Kind,
    pub record: bool,
    pub instances: Instances,
    pub task: Option<Box<SpoolTask>>,
}

impl<D: Directory> Core<D> {
    /// LM-0: an INVITE that is new.
    pub(super) fn on_invite(
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
        if !request_uri.headers.is_empty() {
            // RFC 3261 §19.1.1: they have no place in a Request-URI, and nobody is to write ours.
            self.metrics.count(Counter::RefusedMalformed);
            self.respond(server, message, 400, "Bad Request-URI", "", now);
            return;
        }
        if facts::is_own_case(&request_uri, &self.settings)
            && let Some(loose) = write::loosened(message)
        {
            // A strict router put our own Route into the Request-URI (RFC 3261 §16.4).
            self.with_request(&Bytes::from(loose), |core, message| match message.check_request() {
                Ok(envelope) => core.on_routed_invite(server, message, &envelope, source, now),
                Err(_) => core.respond(server, message, 400, "Bad Route", "", now),
            });
            return;
        }
        self.on_routed_invite(server, message, envelope, source, now);
    }

    fn on_routed_invite(
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
        if !self.require_is_met(server, message, &SUPPORTED, now) {
            return;
        }
        let way = facts::way(message, &self.settings);
        match way.case {
            facts::Case::Unreadable => {
                self.metrics.count(Counter::RefusedMalformed);
                self.respond(server, message, 400, "Bad Route", "", now);
                return;
            }
            facts::Case::Originating => {
                let warning = self.warning("Originating case not supported");
                self.respond(server, message, 501, "Not Implemented", &warning, now);
                return;
            }
            facts::Case::Terminating | facts::Case::Unsaid => {}
        }
        let mark = self.transactions.loop_mark(message, envelope, LOOP_CASE);
        let loops = message
            .fields(Name::Via)
            .any(|field| OwnBranch::find_all(field.value.of(message.bytes)).any(|branch| branch.loop_mark == mark));
        if loops {
            self.metrics.count(Counter::RefusedLoop);
            self.respond(server, message, 482, "Loop Detected", "", now);
            return;
        }
        if !self.is_trusted(source.peer) || (self.settings.require_route && way.case == facts::Case::Unsaid) {
            self.refuse_unauthorised(server, message, now);
            return;
        }
        let offer = Offered::of(message);
        let service = facts::service(message, &self.settings.cpm_tags);
        let (service, kind) = match &service {
            Service::Cpm(text) => (text.as_str(), Kind::of(text.as_str()).or_else(|| named_kind(message))),
            // An INVITE that names no service is a large message if it brings MSRP along.
            Service::Unnamed => (LARGE_SERVICE, offer.is_ok().then_some(Kind::LargeMessage)),
            Service::Other => ("", None),
        };
        let Some(kind) = kind else {
            let warning = self.warning("Service not supported");
            self.metrics.count(Counter::LargeUnacceptable);
            self.respond(server, message, 488, "Not Acceptable Here", &warning, now);
            return;
        };
        let Some(originator) = Originator::of(message, service, self.settings.identity_from_header) else {
            self.refuse_unauthorised(server, message, now);
            return;
        };
        let Some(user) = canonical(way.served) else {
            self.metrics.count(Counter::LargeUnknownUser);
            self.respond(server, message, 404, "Not Found", "", now);
            return;
        };
        if let Err(fault) = self.check_dialog(message) {
            let (status, reason) = fault.status();
            self.metrics.count(Counter::RefusedMalformed);
            self.respond(server, message, status, reason, "", now);
            return;
        }
        let Some(timer) = TimerRequest::of(message) else {
            self.metrics.count(Counter::RefusedMalformed);
            self.respond(server, message, 400, "Bad Session-Expires", "", now);
            return;
        };
        let addresses: SmallVec<[&str; 3]> = originator.addresses.iter().map(|aor| aor.as_str()).collect();
        let case = Case {
            request: PolicyRequest {
                originator: &addresses,
                anonymous: facts::is_anonymous(message),
                service,
                media: LARGE,
                at: now.wall,
            },
            user_agent: message.value(Name::UserAgent),
            interval_too_small: matches!(timer.answer(SESSION_SECONDS), TimerAnswer::TooSmall { .. }),
            offer: offer.as_ref().map(|offer| offer.media.file_size).map_err(|fault| *fault),
            size_max: self.size_max(kind),
            interworking_closed: self.settings.isf.is_none() || self.is_from_isf(message, source),
        };
        let settings = &self.settings;
        let decision = self.directory.read(user.as_str(), |subscriber| decide(&case, subscriber, settings, now.wall));
        let begin = Begin {
            server,
            media_peer: offer.as_ref().ok().and_then(|offer| connect_addresses(&offer.media).first().copied()),
            business: Business::Deliver,
            kind,
            record: false,
            instances: Instances::new(),
            task: None,
        };
        let read = Read { way: &way, offer: offer.as_ref().ok() };
        self.carry_out_large(message, &read, source, decision, begin, user.as_str(), now);
    }

    #[allow(clippy::too_many_arguments)]
    fn carry_out_large(
        &mut self,
        message: &Message<'_>,
        read: &Read<'_, '_>,
        source: Source,
        decision: Decision,
        mut begin: Begin,
        user: &str,
        now: Now,
    ) {
        let server = begin.server;
        self.metrics.count(counter_of(&decision));
        match decision {
            Decision::UnknownUser => self.respond(server, message, 404, "Not Found", "", now),
            Decision::PolicyReject | Decision::PreferenceReject => {
                self.forbid(server, message, "122 Function not allowed", now);
            }
            Decision::Version => {
                // LM-2a. The page need not be there: what counts is the reason that the URI ends in.
                let warning = self.warning("132 Version not supported");
                let extra = format!("Error-Info: <https://{}/err/132>\r\n{warning}", self.settings.host);
                self.respond(server, message, 403, "Forbidden", &extra, now);
            }
            Decision::Anonymous => self.forbid(server, message, "119 Anonymity not allowed", now),
            Decision::IntervalTooSmall => {
                self.respond(server, message, 422, "Session Interval Too Small", MIN_SE_LINE, now);
            }
            Decision::Unacceptable(fault) => self.refuse_offer(server, message, fault, now),
            Decision::Oversize => self.forbid(server, message, "133 Size Exceeded", now),
            Decision::Take(errand) => {
                begin.business = Business::Take;
                begin.task = self.spool_task(message, user, errand);
                if let Some(id) = self.begin_session(message, source, begin, now) {
                    self.answer_as_server(id, message, now);
                }
            }
            Decision::Interwork => {
                begin.business = Business::Interwork;
                let id = self.begin_session(message, source, begin, now);
                if let (Some(id), Some(offer)) = (id, read.offer) {
                    self.call_by(id, message, read.way, offer, now);
                }
            }
            Decision::Bridge { record, instances } => {
                begin.record = record;
                begin.instances = instances;
                begin.task = record.then(|| self.spool_task(message, user, Errand::History)).flatten();
                let id = self.begin_session(message, source, begin, now);
                if let (Some(id), Some(offer)) = (id, read.offer) {
                    self.call_by(id, message, read.way, offer, now);
                }
            }
        }
    }

    fn spool_task(&self, message: &Message<'_>, user: &str, errand: Errand) -> Option<Box<SpoolTask>> {
        let request = Bytes::copy_from_slice(message.bytes);
        Some(Box::new(SpoolTask { request, user: Aor::from_canonical(user), errand }))
    }

    fn refuse_unauthorised(&mut self, server: ServerId, message: &Message<'_>, now: Now) {
        self.metrics.count(Counter::LargeNotAuthorised);
        self.forbid(server, message, "127 Service not authorised", now);
    }

    /// LM-4x. The only place where a fault of an offer becomes a response.
    pub(super) fn refuse_offer(&mut self, server: ServerId, message: &Message<'_>, fault: OfferFault, now: Now) {
        match fault {
            OfferFault::Body(fault @ (BodyFault::MediaType | BodyFault::Encoding)) => {
                let extra = match fault {
                    BodyFault::Encoding => "Accept: application/sdp, multipart/mixed\r\nAccept-Encoding: identity\r\n",
                    _ => "Accept: application/sdp, multipart/mixed\r\n",
                };
                self.respond(server, message, 415, "Unsupported Media Type", extra, now);
            }
            OfferFault::Body(BodyFault::Absent) => {
                let warning = self.warning("An offer is needed");
                self.respond(server, message, 488, "Not Acceptable Here", &warning, now);
            }
            OfferFault::Sdp(fault) => {
                let (status, reason) = fault.status();
                let warning = self.warning(&format!("Session description: {}", fault.label()));
                self.respond(server, message, status, reason, &warning, now);
            }
            OfferFault::Address => {
                let warning = self.warning("Session description: address");
                self.respond(server, message, 488, "Not Acceptable Here", &warning, now);
            }
        }
    }

    /// The largest message of a service.
    fn size_max(&self, kind: Kind) -> u64 {
        match kind {
            Kind::LargeMessage => self.settings.large_size_max,
            Kind::File => self.settings.large_size_max.saturating_mul(FILE_SIZE_FACTOR),
        }
    }

    /// True when an INVITE can found a dialog: it is built when the INVITE is answered.
    fn check_dialog(&mut self, message: &Message<'_>) -> Result<(), DialogFault> {
        let contact = message.address(Name::Contact).ok_or(DialogFault::Contact)?;
        if !matches!(Uri::parse(contact.uri), Ok(Uri { scheme: Scheme::Sip | Scheme::Sips, .. })) {
            return Err(DialogFault::Contact);
        }
        self.large.extra.clear();
        RouteSet::collect(&mut self.large.extra, message, Order::AsReceived)
    }

    /// Makes a session of an INVITE; `None` when there is no room, and that has been answered.
    fn begin_session(&mut self, message: &Message<'_>, source: Source, begin: Begin, now: Now) -> Option<SlotId> {
        let Begin { server, media_peer, business, kind, record, instances, task } = begin;
        // An address of the family that the peer's media has, whatever its signalling uses.
        let originating = self.media_listener(media_peer.unwrap_or(source.peer));
        let terminating = match business {
            Business::Interwork => self.settings.isf.as_ref().map(|isf| self.media_listener(isf.hop.addr)),
            Business::Deliver | Business::Take => None,
        };
        let terminating = terminating.unwrap_or_else(|| self.media_listener(self.settings.core.hop.addr));
        let size_max = self.size_max(kind);
        let setup = Setup {
            request: task.as_ref().map_or_else(|| Bytes::copy_from_slice(message.bytes), |task| task.request.clone()),
            index: (business != Business::Take).then(|| Box::new(message.scan.clone())),
            server,
            instances,
            hop: None,
            resolved: false,
            forks: SmallVec::new(),
            early: SmallVec::new(),
            best: None,
            until: now.at + self.settings.invite_timeout,
            wants_reliable: names_option(message, Name::Require, b"100rel"),
            reliable: None,
            rseq: 0,
        };
        let session = Session {
            nonce: self.rng.next_u64(),
            stage: Stage::Calling,
            business,
            kind,
            listener: source.listener,
            stream: source.transport == Transport::Tcp,
            acked: false,
            media_listeners: [originating, terminating],
            media: None,
            size_max,
            legs: [None, None],
            setup: Some(Box::new(setup)),
            task,
            change: None,
            asking: None,
            reason: None,
            armed: None,
            until: None,
        };
        let plan = OpenPlan {
            purpose: match business {
                Business::Take => Purpose::Spool,
                Business::Deliver | Business::Interwork => Purpose::Bridge { record },
            },
            listeners: [originating, terminating],
            size_max,
        };
        let id = self.large.sessions.insert(session);
        let media = id.and_then(|id| self.open_media(MediaOwner::Session(id), plan, now));
        let (Some(id), Some(media)) = (id, media) else {
            if let Some(id) = id {
                self.large.sessions.remove(id);
            }
            self.metrics.count(Counter::RefusedOverload);
            self.respond(server, message, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
            return None;
        };
        if let Some(session) = self.large.sessions.get_mut(id) {
            session.media = Some(media);
        }
        self.transactions.set_session(server, id);
        Some(id)
    }

    /// The MSRP listener of the family that a peer uses.
    pub(super) fn media_listener(&self, peer: SocketAddr) -> u8 {
        let is_ipv4 = peer.ip().to_canonical().is_ipv4();
        let listeners = &self.settings.msrp.listeners;
        listeners.iter().position(|own| own.is_ipv4() == is_ipv4).unwrap_or(0) as u8
    }

    /// Forgets a session.
    pub(super) fn remove_session(&mut self, id: SlotId, now: Now) {
        let Some(session) = self.large.sessions.remove(id) else { return };
        if let Some(media) = session.media {
            self.end_media(media, now);
        }
    }
}

/// A request for large message mode that names another service of CPM first.
fn named_kind(message: &Message<'_>) -> Option<Kind> {
    if message.value(Name::PAssertedService).is_some() {
        return None;
    }
    let ends = |icsi: &[u8], name: &[u8]| {
        icsi.len() >= name.len() && icsi[icsi.len() - name.len()..].eq_ignore_ascii_case(name)
    };
    message.elements(Name::AcceptContact).flat_map(params).filter(|param| facts::is_icsi_ref(param.name)).find_map(
        |param| {
            elements(param.unquoted()).find_map(|icsi| match icsi {
                icsi if ends(icsi, b"oma.cpm.largemsg") || ends(icsi, b"oma.cpm.deferred") => Some(Kind::LargeMessage),
                icsi if ends(icsi, b"oma.cpm.filetransfer") => Some(Kind::File),
                _ => None,
            })
        },
    )
}

const fn counter_of(decision: &Decision) -> Counter {
    match decision {
        Decision::UnknownUser => Counter::LargeUnknownUser,
        Decision::PolicyReject => Counter::LargePolicyReject,
        Decision::Version => Counter::LargeVersion,
        Decision::Anonymous => Counter::LargeAnonymous,
        Decision::IntervalTooSmall => Counter::LargeInterval,
        Decision::Unacceptable(_) | Decision::Oversize => Counter::LargeUnacceptable,
        Decision::PreferenceReject => Counter::LargeReject,
        Decision::Take(Errand::Store) => Counter::LargeStore,
        Decision::Take(Errand::Defer { .. } | Errand::History) => Counter::LargeDefer,
        Decision::Interwork => Counter::LargeInterwork,
        Decision::Bridge { .. } => Counter::LargeBridge,
    }
}

/// What a 422 of ours says.
pub(super) const MIN_SE_LINE: &str = "Min-SE: 90\r\n";
/// The case that is part of a loop mark: there is only one in large message mode.
pub(super) const LOOP_CASE: &[u8] = b"term";
const _: () = assert!(crate::sip::dialog::session_timer::INTERVAL_MIN == 90, "the line says it");
