//! Deferred large messages on their way to a device: an INVITE of our own, then the content over MSRP (SPEC §2.3, §2.4).
//!
//! [`super::deferred`] decides whose turn it is and what becomes of a message; an [`Origination`] is one attempt. The
//! appliance is the calling party and the sender: the first device that takes the call gets the message, in pieces that
//! the spool reads from the content store as the relay wants them.
//!
//! No session timer is asked for: the session lasts as long as its one message, which the relay's own timers watch.

use super::core::{ALLOW_LINE, Core, CoreTimer, Hop, OWN_REQUEST_MARK};
use super::deferred::{Progress, delivery_rank};
use super::effect::{Effect, NextHop};
use super::facts::{self, LARGE_SERVICE, Service};
use super::input::Transport;
use super::large_body::SessionBody;
use super::leg::{Contact, Invite, Leg, LocalTag, Within};
use super::media::MediaOwner;
use super::objects::http_date;
use super::storage::{ContentFile, DeferredMessage, Fault, SpoolCommand, SpoolReply};
use super::subscriber::Directory;
use super::transactions::{ClientId, LegRequest, Owner, ServerId, Verdict, Waiting};
use crate::base::id::MessageId;
use crate::base::slots::SlotId;
use crate::base::time::{Instant, Now};
use crate::metrics::names::Counter;
use crate::msrp::news::{self, Event, LegPlan, OpenPlan, Purpose, SessionId, SourceMessage};
use crate::msrp::uri::{MsrpUri, first};
use crate::sdp::{self, Description, MessageMedia, Role, role_after_answer, write_offer};
use crate::sip::dialog::Dialog;
use crate::sip::header::address;
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::Name;
use crate::sip::uri::Uri;
use crate::sip::write::line;
use bytes::Bytes;
use smallvec::SmallVec;
use std::io::Write;
use std::net::SocketAddr;

/// What an INVITE of ours says of who sends it (SPEC §2.3).
const USER_AGENT_LINE: &str = concat!("User-Agent: CPM-serv/OMA1.0 ringpost/", env!("CARGO_PKG_VERSION"), "\r\n");
/// Tag indexes from here on are those of originations; sessions of large message mode have the others.
pub(super) const ORIGINATION_TAGS: u8 = 0x80;
/// Fields of a stored INVITE that belonged to its way here.
const DROPPED: [Name; 3] = [Name::Route, Name::PServedUser, Name::Expires];
/// What stands for an answer that cannot be used: another attempt, perhaps on another device, may find a better one.
const UNUSABLE: u16 = 480;
/// What stands for silence.
const SILENCE: u16 = 408;
/// What stands for a device that takes no message of this size.
const TOO_LARGE: u16 = 413;

/// One attempt to deliver a deferred large message.
pub(super) struct Origination {
    /// The user's delivery.
    delivery: SlotId,
    /// Which of its attempts this is.
    round: u32,
    message: MessageId,
    media: SessionId,
    content: ContentFile,
    /// The Message-ID of MSRP, the same in every attempt.
    message_id: Box<str>,
    /// Random bits of our tags.
    nonce: u32,
    /// The INVITEs, one for each chosen device.
    forks: SmallVec<[Fork; 2]>,
    /// The best final response so far.
    best: Option<u16>,
    /// The dialog with the device that took the call, and which fork it was.
    leg: Option<(u8, Box<Leg>)>,
    /// Where this attempt began in the message.
    offset: u64,
    /// What is being read.
    wanted: Option<u32>,
}

/// Who says goodbye.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// We do.
    Ours,
    /// The device did.
    Theirs,
}

#[derive(Clone, Copy)]
struct Fork {
    client: ClientId,
    done: bool,
}

/// What a device's answer comes to.
struct Accepted<'a> {
    media: MessageMedia<'a>,
    role: Role,
    connect_to: SmallVec<[SocketAddr; 2]>,
}

/// The tag of a request that is about an origination.
pub(super) fn origination_tag(to_tag: &[u8]) -> Option<LocalTag> {
    LocalTag::parse(to_tag).filter(|tag| tag.index >= ORIGINATION_TAGS)
}

impl<D: Directory> Core<D> {
    /// Calls a user's devices to deliver a deferred large message. What comes of it is settled later, or at once if
    /// nothing could be sent.
    pub(super) fn originate_large(
        &mut self,
        id: SlotId,
        round: u32,
        message: &DeferredMessage,
        instances: &[Box<str>],
        now: Now,
    ) {
        let begun = self.begin_origination(id, round, message, now);
        let Some(origination) = begun else {
            self.settle_attempt(id, None, now);
            return;
        };
        self.deliveries.set_origination(id, Some(origination), now.at + self.settings.invite_timeout);
        let trimmed = self.with_request(&message.request, |_, view| Bytes::from(without_way(view))).unwrap_or_default();
        for fork in 0..instances.len().max(1) {
            let instance = instances.get(fork).map(|instance| &**instance);
            let client = self.with_request(&trimmed, |core, view| {
                core.call_device(origination, fork as u8, view, message, instance, now)
            });
            if let (Some(Some(client)), Some(known)) = (client, self.deliveries.originations.get_mut(origination)) {
                known.forks.push(Fork { client, done: false });
            } else {
                break;
            }
        }
        if self.deliveries.originations.get(origination).is_some_and(|known| known.forks.is_empty()) {
            self.end_origination(id, None, Parting::Ours, now);
            return;
        }
        self.wheel.insert(now.at + self.settings.invite_timeout, CoreTimer::Delivery(id));
    }

    fn begin_origination(&mut self, id: SlotId, round: u32, message: &DeferredMessage, now: Now) -> Option<SlotId> {
        let content = message.content.clone()?;
        let listener = self.origination_listener();
        let plan = OpenPlan {
            purpose: Purpose::Source,
            listeners: [listener; 2],
            size_max: self.settings.large_size_max.max(content.len),
        };
        let media = self.open_media(MediaOwner::Delivery { id, round }, plan, now)?;
        let origination = Origination {
            delivery: id,
            round,
            message: message.id,
            media,
            content,
            message_id: format!("rp{:016x}", message.id.0).into(),
            nonce: self.rng.next_u64() as u32,
            forks: SmallVec::new(),
            best: None,
            leg: None,
            offset: 0,
            wanted: None,
        };
        let begun = self.deliveries.originations.insert(origination);
        if begun.is_none() {
            self.end_media(media, now);
        }
        begun
    }

    /// The listening address whose MSRP URI is offered: one of the family that SIP reaches the core by.
    fn origination_listener(&self) -> u8 {
        let wants_ipv4 = self.settings.core.hop.addr.is_ipv4();
        let listeners = &self.settings.msrp.listeners;
        listeners.iter().position(|addr| addr.is_ipv4() == wants_ipv4).unwrap_or(0) as u8
    }

    /// Sends one INVITE.
    fn call_device(
        &mut self,
        origination: SlotId,
        fork: u8,
        stored: &Message<'_>,
        message: &DeferredMessage,
        instance: Option<&str>,
        now: Now,
    ) -> Option<ClientId> {
        let known = self.deliveries.originations.get(origination)?;
        let (delivery, round, media, nonce) = (known.delivery, known.round, known.media, known.nonce);
        let session_body = SessionBody::of(stored).ok()?;
        let description = Description::parse(session_body.sdp).ok()?;
        let own = sdp::Own {
            leg: sdp::Leg::Terminating,
            addr: self.settings.msrp.listeners[usize::from(self.origination_listener())],
            uri: self.relay.uri(media, news::Side::Terminating),
            // RFC 8866 §5.2 has it fit 63 bits.
            session_id: self.nonce_of(origination) | 1,
            version: 1,
            size_max: known.content.len.max(self.settings.large_size_max),
            // The sender is gone; what it said of its path leads nowhere.
            peer_path: None,
        };
        let mut sdp = Vec::with_capacity(1024);
        write_offer(&mut sdp, &description, &own);
        let mut body = Vec::with_capacity(sdp.len());
        session_body.write_with(&mut body, &sdp);

        let tag = LocalTag { session: origination, index: ORIGINATION_TAGS + fork, nonce }.text();
        let call_id = self.draw_origination_call_id();
        let hop = self.settings.core.hop;
        let listener = self.listener_for(hop.addr)?;
        let sent_by: Box<str> = self.sent_by[usize::from(listener)].clone();
        let service = feature_of(&self.service_text(stored));
        let contact = Contact {
            sent_by: &sent_by,
            service: &service,
            stream: hop.transport == Some(Transport::Tcp),
            path_mtu: self.settings.path_mtu,
        };
        let mut extra = Vec::with_capacity(256);
        extra.extend_from_slice(ALLOW_LINE.as_bytes());
        extra.extend_from_slice(USER_AGENT_LINE.as_bytes());
        if stored.value(Name::Date).is_none() {
            line(&mut extra, "Date", http_date(message.accepted).as_bytes());
        }
        let left = (message.expires.0 - now.wall.0).max(0) / 1000;
        let _ = write!(extra, "Expires: {left}\r\n");
        if let Some(instance) = instance {
            let _ = write!(extra, "Accept-Contact: *;+sip.instance=\"<{instance}>\";require;explicit\r\n");
        }
        let owner = Owner::Origination { id: delivery, round, leg: fork, request: LegRequest::Invite };
        self.send_invite(owner, hop, OWN_REQUEST_MARK, now, |out, via| {
            let invite = Invite {
                via,
                call_id: call_id.as_bytes(),
                tag: &tag,
                cseq: 1,
                max_forwards: 70,
                own_routes: 0,
                push_route: None,
                strict: None,
                contact,
                extra: &extra,
                content_type: session_body.content_type(),
                body: &body,
            };
            invite.write(out, stored);
        })
    }

    /// A session id for `o=`, the same for every fork.
    fn nonce_of(&self, origination: SlotId) -> u64 {
        let nonce = self.deliveries.originations.get(origination).map_or(0, |known| known.nonce);
        u64::from(nonce) << 24 | u64::from(origination.slot & 0xff_ffff)
    }

    /// A Call-ID that this shard owns: the device's own requests come here.
    fn draw_origination_call_id(&mut self) -> String {
        loop {
            let call_id = format!("{:016x}{:016x}@{}", self.rng.next_u64(), self.rng.next_u64(), self.settings.host);
            if self.transactions.owner_of(call_id.as_bytes(), self.settings.shard_count) == self.shard {
                return call_id;
            }
        }
    }

    fn service_text(&self, stored: &Message<'_>) -> String {
        match facts::service(stored, &self.settings.cpm_tags) {
            Service::Cpm(text) => text.as_str().to_owned(),
            Service::Other | Service::Unnamed => LARGE_SERVICE.to_owned(),
        }
    }

    /// What became of a request of an attempt.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn on_origination(
        &mut self,
        id: SlotId,
        round: u32,
        fork: u8,
        request: LegRequest,
        verdict: Verdict,
        response: Option<(u16, &Message<'_>)>,
        now: Now,
    ) {
        if request != LegRequest::Invite || verdict == Verdict::Provisional {
            return;
        }
        let origination = self.deliveries.origination(id, round);
        let known = origination.and_then(|origination| self.deliveries.originations.get(origination));
        let winner = known.map(|known| known.leg.as_ref().map(|(winner, _)| *winner));
        match (winner, verdict, response) {
            (Some(None), Verdict::Success, Some((_, response))) => self.on_device_answered(id, fork, response, now),
            // Its ACK was lost.
            (Some(Some(winner)), Verdict::Success, _) if winner == fork => self.acknowledge_device(id, now),
            // It came when nobody waited for it any more.
            (_, Verdict::Success, Some((_, response))) => self.refuse_answer_of_device(response, now),
            (Some(None), _, _) => {
                let status = response.map(|(status, _)| status).or((verdict == Verdict::TimedOut).then_some(SILENCE));
                self.on_device_refused(id, fork, status, now);
            }
            _ => {}
        }
    }

    /// A device took the call: the session is made as its answer says, and the message goes on its way.
    fn on_device_answered(&mut self, id: SlotId, fork: u8, response: &Message<'_>, now: Now) {
        let Some(origination) = self.deliveries.origination_of(id) else { return };
        let Some(known) = self.deliveries.originations.get_mut(origination) else { return };
        let tag = LocalTag { session: origination, index: ORIGINATION_TAGS + fork, nonce: known.nonce }.text();
        let dialog = response.address(Name::To).and_then(|to| Dialog::client(response, &tag, to.uri).ok());
        let accepted = accept(response, known.content.len);
        let (Some(dialog), Ok(accepted)) = (dialog, accepted.as_ref()) else {
            self.refuse_answer_of_device(response, now);
            self.on_device_refused(id, fork, accepted.err().or(Some(UNUSABLE)), now);
            return;
        };
        known.leg = Some((fork, Box::new(Leg::new(dialog, ORIGINATION_TAGS + fork, response))));
        let others: SmallVec<[ClientId; 2]> = known
            .forks
            .iter()
            .enumerate()
            .filter(|(index, other)| *index != usize::from(fork) && !other.done)
            .map(|(_, other)| other.client)
            .collect();
        let (media, message_id, content) = (known.media, known.message_id.clone(), known.content.clone());
        for client in others {
            self.cancel(client, now);
        }
        self.deliveries.set_origination(id, Some(origination), Instant(u64::MAX));
        self.acknowledge_device(id, now);
        let offset = self.resume_point(id);
        if let Some(known) = self.deliveries.originations.get_mut(origination) {
            known.offset = offset;
        }
        let plan = LegPlan {
            peer_path: accepted.media.path,
            role: match accepted.role {
                Role::Active => news::Role::Active,
                Role::Passive => news::Role::Passive,
            },
            connect_to: &accepted.connect_to,
            accept_types: b"",
        };
        self.relay.negotiate(media, news::Side::Terminating, plan, now.at);
        self.relay.start(media, now.at);
        let message =
            SourceMessage { message_id: &message_id, content_type: &content.content_type, total: content.len, offset };
        self.relay.submit(media, message, now.at);
    }

    /// Where the message goes on: behind what this very device acknowledged before, or at its beginning.
    fn resume_point(&self, id: SlotId) -> u64 {
        let known = self.deliveries.origination_of(id).and_then(|id| self.deliveries.originations.get(id));
        let Some((known, (_, leg))) = known.and_then(|known| Some((known, known.leg.as_ref()?))) else { return 0 };
        let fits = |progress: &&Progress| {
            progress.message == known.message
                && progress.target[..] == *leg.dialog.target()
                && progress.acknowledged < known.content.len
        };
        self.deliveries.progress(id).filter(fits).map_or(0, |progress| progress.acknowledged)
    }

    /// A device refused, or did not answer.
    fn on_device_refused(&mut self, id: SlotId, fork: u8, status: Option<u16>, now: Now) {
        let Some(origination) = self.deliveries.origination_of(id) else { return };
        let Some(known) = self.deliveries.originations.get_mut(origination) else { return };
        if let Some(entry) = known.forks.get_mut(usize::from(fork)) {
            entry.done = true;
        }
        if let Some(status) = status
            && known.best.is_none_or(|best| delivery_rank(status) < delivery_rank(best))
        {
            known.best = Some(status);
        }
        if known.forks.iter().all(|fork| fork.done) {
            let best = known.best;
            self.end_origination(id, best, Parting::Ours, now);
        }
    }

    /// No device has answered in time.
    pub(super) fn on_origination_timeout(&mut self, id: SlotId, now: Now) {
        self.end_origination(id, Some(SILENCE), Parting::Ours, now);
    }

    /// What the relay tells of an attempt's session.
    pub(super) fn on_origination_media(&mut self, id: SlotId, round: u32, event: Event, now: Now) {
        let Some(origination) = self.deliveries.origination(id, round) else { return };
        let Some(known) = self.deliveries.originations.get_mut(origination) else { return };
        match event {
            Event::Wanted { offset, len, .. } => {
                debug_assert!(known.wanted.is_none(), "one piece is wanted at a time");
                known.wanted = Some(len);
                let command = SpoolCommand::Read { sha256: known.content.sha256.clone(), offset, len };
                self.effects.push_back(Effect::Spool { ticket: Waiting::Source(origination).ticket(), command });
            }
            Event::Sent { status, .. } => {
                if status == 200 {
                    self.metrics.count(Counter::LargeDelivered);
                }
                self.end_origination(id, Some(status), Parting::Ours, now);
            }
            Event::Lost { .. } => {
                self.metrics.count(Counter::LargeAborted);
                self.end_origination(id, None, Parting::Ours, now);
            }
            Event::Bound { .. } => {}
            Event::Piece { .. } | Event::Complete { .. } | Event::Aborted { .. } => {
                debug_assert!(false, "a session that sends receives nothing");
            }
        }
    }

    /// A piece of the message has been read.
    pub(super) fn on_source_read(&mut self, origination: SlotId, answer: Result<SpoolReply, Fault>, now: Now) {
        if let Err(fault) = &answer {
            self.metrics.count(if *fault == Fault::Busy { Counter::SpoolBusy } else { Counter::SpoolFailed });
        }
        let Some(known) = self.deliveries.originations.get_mut(origination) else { return };
        let (Some(wanted), id, media) = (known.wanted.take(), known.delivery, known.media) else { return };
        match answer {
            Ok(SpoolReply::Bytes(bytes)) if bytes.len() == wanted as usize => self.relay.supply(media, bytes, now.at),
            // The file is not what it was, or cannot be read at the moment.
            _ => self.end_origination(id, None, Parting::Ours, now),
        }
    }

    /// A request of the device that has the call.
    pub(super) fn on_origination_request(
        &mut self,
        server: ServerId,
        message: &Message<'_>,
        envelope: &Envelope<'_>,
        tag: LocalTag,
        now: Now,
    ) {
        let found = self.deliveries.originations.get_mut(tag.session).filter(|known| known.nonce == tag.nonce);
        let id = found.as_ref().map(|known| known.delivery);
        let leg = found.and_then(|known| known.leg.as_mut()).filter(|(_, leg)| leg.tag_index == tag.index);
        let ours = leg.filter(|(_, leg)| {
            let id = leg.dialog.id();
            id.call_id == envelope.call_id && id.remote_tag == envelope.from_tag
        });
        let (Some(id), Some((_, leg))) = (id, ours) else {
            self.respond(server, message, 481, "Call/Transaction Does Not Exist", "", now);
            return;
        };
        if !leg.dialog.on_remote_cseq(envelope.cseq) {
            self.respond(server, message, 500, "Server Internal Error", "", now);
            return;
        }
        match message.method().unwrap_or_default() {
            b"BYE" => {
                self.respond(server, message, 200, "OK", "", now);
                // Whether everything had arrived, only a 200 of MSRP would have said.
                self.end_origination(id, None, Parting::Theirs, now);
            }
            b"UPDATE" if message.body().is_empty() => {
                leg.retarget(message);
                self.respond(server, message, 200, "OK", ALLOW_LINE, now);
            }
            b"UPDATE" | b"INVITE" => self.respond(server, message, 488, "Not Acceptable Here", "", now),
            b"PRACK" => self.respond(server, message, 481, "Call/Transaction Does Not Exist", "", now),
            _ => self.respond(server, message, 405, "Method Not Allowed", ALLOW_LINE, now),
        }
    }

    /// Ends an attempt: the session is closed on our side, calls that nobody answered are called back, and the message is
    /// settled.
    fn end_origination(&mut self, id: SlotId, status: Option<u16>, parting: Parting, now: Now) {
        let Some(origination) = self.deliveries.origination_of(id) else { return };
        self.deliveries.set_origination(id, None, now.at);
        let Some(known) = self.deliveries.originations.remove(origination) else { return };
        let acknowledged = self.relay.acknowledged(known.media);
        self.end_media(known.media, now);
        let mut progress = None;
        match known.leg {
            Some((_, mut leg)) => {
                // An attempt that brought nothing further is not the one to build upon.
                if acknowledged > known.offset {
                    let (message, target) = (known.message, leg.dialog.target().into());
                    progress = Some(Progress { message, target, acknowledged });
                }
                if parting == Parting::Ours {
                    self.say_bye(&mut leg.dialog, now);
                }
            }
            None => {
                for fork in known.forks.iter().filter(|fork| !fork.done) {
                    self.cancel(fork.client, now);
                }
            }
        }
        self.deliveries.set_progress(id, progress);
        self.settle_attempt(id, status, now);
    }

    /// Sends the ACK of a 2xx, the first time and whenever it is repeated.
    fn acknowledge_device(&mut self, id: SlotId, now: Now) {
        let origination = self.deliveries.origination_of(id);
        let leg = origination.and_then(|id| self.deliveries.originations.get(id)?.leg.as_ref());
        let Some((dialog, cseq)) = leg.map(|(_, leg)| (leg.dialog.clone(), leg.invite_cseq)) else { return };
        self.acknowledge(&dialog, cseq, now);
    }

    fn acknowledge(&mut self, dialog: &Dialog, cseq: u32, now: Now) {
        let hop = self.hop_of_dialog(dialog, now);
        self.send_ack(hop, |out, via| {
            let extra = USER_AGENT_LINE.as_bytes();
            Within { method: "ACK", cseq, via, extra, ..Within::default() }.write(out, dialog);
        });
    }

    fn say_bye(&mut self, dialog: &mut Dialog, now: Now) {
        let hop = self.hop_of_dialog(dialog, now);
        let cseq = dialog.next_cseq();
        self.send_request(Owner::Notice, hop, OWN_REQUEST_MARK, now, |out, via| {
            let extra = USER_AGENT_LINE.as_bytes();
            Within { method: "BYE", cseq, via, extra, ..Within::default() }.write(out, dialog);
        });
    }

    /// Acknowledges a 2xx and ends its dialog at once: it came too late, or its answer is of no use. Nothing has to be
    /// remembered for that. RFC 3261 §13.2.2.4.
    fn refuse_answer_of_device(&mut self, response: &Message<'_>, now: Now) {
        let Some(tag) = response.value(Name::From).and_then(address::tag) else { return };
        let Some(target) = response.address(Name::To).map(|to| to.uri) else { return };
        let Ok(mut dialog) = Dialog::client(response, tag, target) else { return };
        self.acknowledge(&dialog, dialog.local_cseq(), now);
        self.say_bye(&mut dialog, now);
    }

    /// Where requests of a dialog go: where its route leads, or to the core, which knows the way to every device.
    fn hop_of_dialog(&self, dialog: &Dialog, now: Now) -> NextHop {
        let next = Uri::parse(dialog.next_hop()).ok().map(|uri| self.hop_of(&uri, now.at));
        match next {
            Some(Hop::Known(hop)) => hop,
            _ => self.settings.core.hop,
        }
    }
}

/// Judges a device's answer; a status that stands for its refusal otherwise.
fn accept<'a>(response: &Message<'a>, len: u64) -> Result<Accepted<'a>, u16> {
    let body = SessionBody::of(response).map_err(|_| UNUSABLE)?;
    let description = Description::parse(body.sdp).map_err(|_| UNUSABLE)?;
    let media = description.usable(sdp::Leg::Terminating).map_err(|_| UNUSABLE)?;
    if media.size_max.is_some_and(|size_max| size_max < len) {
        return Err(TOO_LARGE);
    }
    let role = role_after_answer(media.setup).ok_or(UNUSABLE)?;
    // The first URI of its path, then its media line (SPEC §4.5).
    let path = MsrpUri::parse(first(media.path)).and_then(|uri| uri.literal_addr());
    let mut connect_to: SmallVec<[SocketAddr; 2]> = path.into_iter().chain(media.connect).collect();
    connect_to.dedup();
    if role == Role::Active && connect_to.is_empty() {
        return Err(UNUSABLE);
    }
    Ok(Accepted { media, role, connect_to })
}

/// A stored INVITE without what belonged to its way here.
fn without_way(stored: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(stored.bytes.len());
    out.extend_from_slice(b"INVITE ");
    out.extend_from_slice(stored.request_uri().unwrap_or_default());
    out.extend_from_slice(b" SIP/2.0\r\n");
    for field in &stored.scan.fields {
        if !DROPPED.contains(&field.name) {
            out.extend_from_slice(field.line.of(stored.bytes));
        }
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(stored.body());
    out
}

/// A service identifier as feature tags write it.
fn feature_of(service: &str) -> String {
    service.replace(':', "%3A")
}
