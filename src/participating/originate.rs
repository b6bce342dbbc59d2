//! Deferred large messages on their way to a device: an INVITE of our own, then the content over MSRP (SPEC §2.3, §2.4).
//!
//! [`super::deferred`] decides whose turn it is and what becomes of a message; an `Origination` is one attempt. The
//! appliance is the calling party and the sender: the first device that takes the call gets the message, in pieces that
//! the spool reads from the content store as the relay wants them.
//!
//! No session timer is asked for: the session lasts as long as its one message, which the relay's own timers watch.

use super::core::{ALLOW_LINE, Core, CoreTimer, Hop, OWN_REQUEST_MARK, USER_AGENT_LINE};
use super::deferred::{Progress, delivery_rank};
use super::effect::{Effect, NextHop};
use super::facts::{self, LARGE_SERVICE, Service};
use super::input::Transport;
use super::large::connect_addresses;
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
use crate::sdp::{self, Description, MessageMedia, Role, role_after_answer, write_offer};
use crate::sip::dialog::Dialog;
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::Name;
use crate::sip::uri::Uri;
use crate::sip::write::line;
use bytes::Bytes;
use smallvec::SmallVec;
use std::io::Write;
use std::net::SocketAddr;

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
        let listener = self.media_listener(self.settings.core.hop.addr);
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
            addr: self.settings.msrp.listeners[usize::from(self.media_listener(self.settings.core.hop.addr))],
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
        let (host, mut call_id) = (self.settings.host.clone(), Vec::new());
        self.draw_call_id(&host, &mut call_id);
        let hop = self.settings.core.hop;
        let listener = self.listener_for(hop.addr)?;
        let sent_by: Box<str> = self.sent_by(listener).into();
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
                call_id: &call_id,
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
            (_, Verdict::Success, Some((_, response))) => self.refuse_answer(response, now),
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
            self.refuse_answer(response, now);
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

    /// The shard is about to end: attempts break off, and are made again after the start.
    pub(super) fn stop_originations(&mut self, now: Now) {
        let deliveries: Vec<SlotId> = self.deliveries.originations.iter().map(|known| known.delivery).collect();
        for id in deliveries {
            self.end_origination(id, None, Parting::Ours, now);
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
            b"OPTIONS" => self.respond(server, message, 200, "OK", ALLOW_LINE, now),
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

    /// Where requests of a dialog go: where its route leads, or to the core, which knows the way to every device.
    fn hop_of_dialog(&self, dialog: &Dialog, now: Now) -> NextHop {
        let next = Uri::parse(dialog.next_hop()).ok().map(|uri| self.leg_hop(&uri, now));
        next.and_then(Hop::known).unwrap_or(self.settings.core.hop)
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
    let connect_to = connect_addresses(&media);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Aor, ConnId};
    use crate::msrp::effect::ConnectTicket;
    use crate::participating::input::Input;
    use crate::participating::preferences::{DeviceSelection, Profile};
    use crate::participating::storage::{Command, Reply, Shelf};
    use crate::participating::subscriber::Subscriber;
    use crate::testing::directory::MapDirectory;
    use crate::testing::scene::{CORE, after, core, datagram_from, device, settings};
    use std::sync::Arc;
    use std::time::Duration;

    const BOB: &str = "sip:bob@home.example";
    const LEN: u64 = 1 << 20;

    struct Bench {
        core: Core<MapDirectory>,
        seconds: u64,
    }

    /// What left: SIP messages as text, everything else as it is printed.
    type Left = Vec<String>;

    impl Bench {
        fn new(devices: &[&str], records_history: bool) -> Self {
            let directory = MapDirectory::default();
            let profile = Profile {
                records_history,
                devices: match devices.len() {
                    1 => DeviceSelection::All,
                    _ => DeviceSelection::Selected(devices.iter().map(|id| Box::from(*id)).collect()),
                },
                ..Profile::default()
            };
            let subscriber = Subscriber {
                devices: devices.iter().map(|id| device(id)).collect(),
                profile: Some(Arc::new(profile)),
                ..Subscriber::default()
            };
            directory.publish(BOB, subscriber);
            let core = core(settings(0, 1), 0, directory, 1, after(Duration::from_secs(1)));
            Self { core, seconds: 1 }
        }

        fn now(&self) -> Now {
            after(Duration::from_secs(self.seconds))
        }

        fn left(&mut self) -> Left {
            std::iter::from_fn(|| self.core.poll_effect())
                .map(|effect| match effect {
                    Effect::SendDatagram { bytes, .. } | Effect::SendStream { bytes, .. } => {
                        String::from_utf8(bytes.to_vec()).unwrap()
                    }
                    other => format!("{other:?}"),
                })
                .collect()
        }

        fn input(&mut self, input: Input) -> Left {
            let now = self.now();
            self.core.handle_input(input, now);
            self.left()
        }

        /// A user with one large message comes: the INVITEs.
        fn call(devices: &[&str]) -> (Self, Left) {
            let mut bench = Self::new(devices, false);
            let left = bench.begin();
            (bench, left)
        }

        fn begin(&mut self) -> Left {
            let peek = self.input(Input::SubscriberReady(Aor::from_canonical(BOB)));
            assert!(peek[0].contains("PeekDeferred"), "{peek:?}");
            self.stored(Ok(Reply::Queue(vec![message()])))
        }

        fn stored(&mut self, answer: Result<Reply, Fault>) -> Left {
            let ticket = Waiting::Delivery(SlotId::default()).ticket();
            self.input(Input::Store { ticket, answer })
        }

        /// A device answers an INVITE of ours.
        fn answer(&mut self, request: &str, status: u16, extra: &str, body: &str) -> Left {
            let line = |name: &str| {
                let start = request.find(&format!("\r\n{name}: ")).unwrap() + 2;
                &request[start..start + request[start..].find("\r\n").unwrap()]
            };
            let text = format!(
                "SIP/2.0 {status} X\r\n{}\r\n{}\r\n{};tag=theirs\r\n{}\r\n{}\r\n{extra}Content-Length: {}\r\n\r\n{body}",
                line("Via"),
                line("From"),
                line("To"),
                line("Call-ID"),
                line("CSeq"),
                body.len()
            );
            let now = self.now();
            self.core.handle_message(text.as_bytes(), datagram_from(CORE), now);
            self.left()
        }

        fn take(&mut self, request: &str) -> Left {
            self.answer(request, 200, CONTACT, &answer_sdp("1048576"))
        }

        fn media(&mut self, event: impl FnOnce(SessionId) -> Event) -> Left {
            let known = self.core.deliveries.originations.iter().next().expect("an attempt is under way");
            let (media, round) = (known.media, known.round);
            let now = self.now();
            self.core.on_origination_media(SlotId::default(), round, event(media), now);
            self.left()
        }

        fn read(&mut self, answer: Result<SpoolReply, Fault>) -> Left {
            let origination = self.core.deliveries.origination_of(SlotId::default()).unwrap();
            self.input(Input::Spool { ticket: Waiting::Source(origination).ticket(), answer })
        }

        fn is_over(&self) -> bool {
            self.core.deliveries.originations.is_empty() && self.core.media_owners.is_empty()
        }
    }

    const CONTACT: &str = "Contact: <sip:bob@203.0.113.1:5099>\r\nContent-Type: application/sdp\r\n";

    fn answer_sdp(size_max: &str) -> String {
        format!(
            "v=0\r\no=b 1 1 IN IP4 203.0.113.1\r\ns=-\r\nc=IN IP4 203.0.113.1\r\nt=0 0\r\nm=message 7000 TCP/MSRP *\r\n\
             a=path:msrp://203.0.113.1:7000/b1;tcp\r\na=accept-types:message/cpim\r\na=recvonly\r\na=setup:passive\r\n\
             a=max-size:{size_max}\r\n"
        )
    }

    fn message() -> DeferredMessage {
        let offer = "v=0\r\no=a 5 6 IN IP4 198.51.100.3\r\ns=-\r\nc=IN IP4 198.51.100.3\r\nt=0 0\r\n\
            m=message 9000 TCP/MSRP *\r\na=path:msrp://198.51.100.3:9000/a1;tcp\r\na=accept-types:message/cpim\r\n\
            a=accept-wrapped-types:*\r\na=sendonly\r\na=setup:active\r\na=x-kept:1\r\n";
        let request = format!(
            "INVITE sip:bob@home.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKx\r\n\
             Route: <sip:term@192.0.2.1:5060;lr>, <sip:192.0.2.9:5070;lr>\r\nMax-Forwards: 60\r\n\
             From: \"Alice\" <sip:alice@a.example>;tag=a\r\nTo: <sip:bob@home.example>\r\nCall-ID: c1\r\n\
             CSeq: 7 INVITE\r\nContact: <sip:alice@198.51.100.3>\r\nP-Asserted-Identity: <sip:alice@a.example>\r\n\
             P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg\r\n\
             P-Served-User: <sip:bob@home.example>;sescase=term\r\nConversation-ID: conv\r\nContribution-ID: contr\r\n\
             Expires: 600\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{offer}",
            offer.len()
        );
        let accepted = after(Duration::ZERO).wall;
        DeferredMessage {
            id: MessageId(0x77),
            user: Aor::from_canonical(BOB),
            originator: "sip:alice@a.example".into(),
            accepted,
            expires: accepted.plus_seconds(600),
            attempts: 0,
            not_before: crate::base::time::UnixMillis(0),
            wants_failure_notice: true,
            request: Bytes::from(request),
            content: Some(ContentFile {
                spool: None,
                sha256: "5".repeat(64).into(),
                len: LEN,
                content_type: "message/cpim".into(),
                imdn_message_id: "i1".into(),
                date_time: "2026-01-01T00:00:00Z".into(),
            }),
        }
    }

    fn starts<'a>(left: &'a Left, start: &str) -> Vec<&'a String> {
        left.iter().filter(|text| text.starts_with(start)).collect()
    }

    fn settles(left: &Left, what: &str) -> bool {
        left.iter().any(|text| text.contains("Settle") && text.contains(what))
    }

    #[test]
    fn the_call_says_what_the_sender_said_and_offers_our_own_path() {
        let (_, left) = Bench::call(&["urn:uuid:1"]);
        let [invite] = &left[..] else { panic!("{left:?}") };
        let (head, sdp) = invite.split_once("\r\n\r\n").unwrap();
        for line in [
            "INVITE sip:bob@home.example SIP/2.0",
            "From: \"Alice\" <sip:alice@a.example>;tag=",
            "P-Asserted-Identity: <sip:alice@a.example>",
            "Conversation-ID: conv",
            "Contribution-ID: contr",
            "CSeq: 1 INVITE",
            "Max-Forwards: 70",
            "Expires: 599",
            "Date: Thu, 01 Jan 2026 00:00:00 GMT",
            "User-Agent: CPM-serv/OMA1.0",
        ] {
            assert!(head.lines().any(|found| found.starts_with(line)), "{line} in {head}");
        }
        for gone in ["Route:", "P-Served-User:", "Call-ID: c1", "198.51.100.3", "Expires: 600", "tag=a\r"] {
            assert!(!head.contains(gone), "{gone} in {head}");
        }
        let tag = head.split(";tag=").nth(1).unwrap().split("\r\n").next().unwrap();
        assert!(origination_tag(tag.as_bytes()).is_some());
        assert!(head.contains("Contact: <sip:192.0.2.1:5080"), "{head}");
        for line in
            ["a=sendonly", "a=setup:actpass", "a=accept-types:message/cpim", "m=message 2855 TCP/MSRP *", "a=x-kept:1"]
        {
            assert!(sdp.lines().any(|found| found == line), "{line} in {sdp}");
        }
        let path = sdp.lines().find(|line| line.starts_with("a=path:")).unwrap();
        assert!(path.starts_with("a=path:msrp://192.0.2.1:2855/") && !path.contains(' '), "{path}");
        assert!(!sdp.contains("198.51.100.3"), "{sdp}");
    }

    #[test]
    fn a_device_that_takes_the_call_gets_the_message_from_its_file_and_a_goodbye() {
        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        let invite = left[0].clone();
        let left = bench.take(&invite);
        let acks = starts(&left, "ACK sip:bob@203.0.113.1:5099 SIP/2.0\r\n");
        assert_eq!((acks.len(), starts(&left, "Media(Connect").len(), left.len()), (1, 1, 2), "{left:?}");
        assert!(acks[0].contains("CSeq: 1 ACK\r\n"));
        assert_eq!(starts(&bench.take(&invite), "ACK ").len(), 1, "a repeated 2xx is acknowledged again");

        let left = bench.media(|id| Event::Wanted { id, offset: 0, len: 4 });
        assert!(left[0].contains("Read") && left[0].contains(&"5".repeat(64)), "{left:?}");
        assert!(bench.read(Ok(SpoolReply::Bytes(Bytes::from_static(b"abcd")))).is_empty());
        let left = bench.media(|id| Event::Sent { id, status: 200 });
        assert_eq!(starts(&left, "BYE sip:bob@203.0.113.1:5099 SIP/2.0\r\n").len(), 1, "{left:?}");
        assert!(settles(&left, "Remove") && bench.is_over(), "{left:?}");
        let left = bench.stored(Ok(Reply::Done));
        assert!(left[0].contains("PeekDeferred"), "the user's next message: {left:?}");
    }

    #[test]
    fn what_a_device_answers_decides_what_becomes_of_the_message() {
        for (status, removed, told) in [
            (486, false, false),
            (480, false, false),
            (503, false, false),
            (488, true, true),
            (603, true, true),
            (415, true, true),
        ] {
            let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
            let left = bench.answer(&left[0], status, "", "");
            assert_eq!(starts(&left, "ACK ").len(), 1, "{left:?}");
            assert_eq!(settles(&left, "Remove"), removed, "{status}: {left:?}");
            assert_eq!(settles(&left, "Retry"), !removed, "{status}: {left:?}");
            let notices = starts(&left, "MESSAGE sip:alice@a.example ");
            assert_eq!(notices.len(), usize::from(told), "{status}: {left:?}");
            assert!(
                notices.iter().all(|text| text.contains("<message-id>i1</message-id>") && text.contains("<failed/>"))
            );
            assert!(bench.is_over());
        }
    }

    #[test]
    fn the_same_goes_for_what_it_answers_over_msrp() {
        for (status, removed) in [(408, false), (481, false), (413, true), (415, true), (403, true)] {
            let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
            bench.take(&left[0]);
            let left = bench.media(|id| Event::Sent { id, status });
            assert_eq!(starts(&left, "BYE ").len(), 1, "{left:?}");
            assert_eq!((settles(&left, "Remove"), settles(&left, "Retry")), (removed, !removed), "{status}: {left:?}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_acknowledged_and_ended() {
        for (sdp, removed) in [
            (answer_sdp("1000"), true),
            (answer_sdp("1048576").replace("a=recvonly", "a=inactive"), false),
            (answer_sdp("1048576").replace("message 7000", "message 0"), false),
            ("nonsense".to_owned(), false),
        ] {
            let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
            let left = bench.answer(&left[0], 200, CONTACT, &sdp);
            assert_eq!((starts(&left, "ACK ").len(), starts(&left, "BYE ").len()), (1, 1), "{left:?}");
            assert_eq!((settles(&left, "Remove"), settles(&left, "Retry")), (removed, !removed), "{sdp}: {left:?}");
            assert!(bench.is_over());
        }
    }

    #[test]
    fn of_two_devices_the_first_to_answer_gets_the_message() {
        let (mut bench, invites) = Bench::call(&["urn:uuid:1", "urn:uuid:2"]);
        assert_eq!(invites.len(), 2);
        for (invite, id) in invites.iter().zip(["urn:uuid:1", "urn:uuid:2"]) {
            assert!(invite.contains(&format!("Accept-Contact: *;+sip.instance=\"<{id}>\";require;explicit\r\n")));
        }
        bench.answer(&invites[0], 180, "", "");
        let left = bench.take(&invites[1]);
        assert_eq!((starts(&left, "ACK ").len(), starts(&left, "CANCEL ").len()), (1, 1), "{left:?}");
        // The other one crossed the CANCEL.
        let left = bench.take(&invites[0]);
        assert_eq!((starts(&left, "ACK ").len(), starts(&left, "BYE ").len()), (1, 1), "{left:?}");
        assert!(!bench.is_over());
        let left = bench.media(|id| Event::Sent { id, status: 200 });
        assert!(settles(&left, "Remove"), "{left:?}");
    }

    #[test]
    fn one_device_that_refuses_for_good_does_not_speak_for_another() {
        let (mut bench, invites) = Bench::call(&["urn:uuid:1", "urn:uuid:2"]);
        let left = bench.answer(&invites[0], 488, "", "");
        assert_eq!(left.len(), 1, "only its ACK: {left:?}");
        let left = bench.answer(&invites[1], 486, "", "");
        assert!(settles(&left, "Retry"), "{left:?}");
    }

    #[test]
    fn silence_is_called_back_and_a_late_answer_ended() {
        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        let invite = left[0].clone();
        bench.answer(&invite, 180, "", "");
        bench.seconds += 180;
        let now = bench.now();
        bench.core.handle_timeout(now);
        let left = bench.left();
        assert_eq!(starts(&left, "CANCEL ").len(), 1, "{left:?}");
        assert!(settles(&left, "Retry") && bench.is_over(), "{left:?}");
        let left = bench.take(&invite);
        assert_eq!((starts(&left, "ACK ").len(), starts(&left, "BYE ").len()), (1, 1), "{left:?}");
    }

    #[test]
    fn a_broken_transfer_is_ended_and_tried_again() {
        use news::{Side, Why};
        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        bench.take(&left[0]);
        let left = bench.media(|id| Event::Lost { id, side: Side::Terminating, why: Why::Closed });
        assert_eq!(starts(&left, "BYE ").len(), 1, "{left:?}");
        assert!(settles(&left, "Retry") && bench.is_over(), "{left:?}");

        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        bench.take(&left[0]);
        bench.media(|id| Event::Wanted { id, offset: 0, len: 4 });
        let left = bench.read(Ok(SpoolReply::Bytes(Bytes::from_static(b"abc"))));
        assert!(settles(&left, "Retry") && bench.is_over(), "a file that is too short: {left:?}");
    }

    #[test]
    fn a_shard_that_ends_breaks_off_and_calls_nobody_back_in() {
        for is_taken in [true, false] {
            let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
            let invite = left[0].clone();
            bench.answer(&invite, 180, "", "");
            if is_taken {
                bench.take(&invite);
            }
            let now = bench.now();
            bench.core.stop(now);
            let left = bench.left();
            let goodbye = if is_taken { "BYE " } else { "CANCEL " };
            assert_eq!(starts(&left, goodbye).len(), 1, "{left:?}");
            assert!(settles(&left, "Retry") && bench.is_over(), "{left:?}");
        }
    }

    #[test]
    fn a_device_that_hangs_up_is_answered_and_called_again_later() {
        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        bench.take(&left[0]);
        let line =
            |name: &str| left[0].lines().find(|line| line.starts_with(name)).unwrap().split_once(": ").unwrap().1;
        let request = |method: &str, tag: &str, cseq: u32| {
            format!(
                "{method} sip:192.0.2.1:5080 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.1;branch=z9hG4bK{method}{cseq}{tag}\r\n\
                 Max-Forwards: 70\r\nFrom: {};tag={tag}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n\
                 Content-Length: 0\r\n\r\n",
                line("To"),
                line("From"),
                line("Call-ID")
            )
        };
        let now = bench.now();
        for (text, status) in [
            (request("UPDATE", "theirs", 5), "SIP/2.0 200 "),
            (request("UPDATE", "theirs", 4), "SIP/2.0 500 "),
            (request("INVITE", "theirs", 6), "SIP/2.0 488 "),
            (request("OPTIONS", "theirs", 7), "SIP/2.0 200 "),
            (request("INFO", "theirs", 8), "SIP/2.0 405 "),
            (request("BYE", "foreign", 9), "SIP/2.0 481 "),
        ] {
            bench.core.handle_message(text.as_bytes(), datagram_from(CORE), now);
            let left = bench.left();
            assert_eq!(starts(&left, status).len(), 1, "{text}: {left:?}");
        }
        bench.core.handle_message(request("BYE", "theirs", 9).as_bytes(), datagram_from(CORE), now);
        let left = bench.left();
        assert_eq!((starts(&left, "SIP/2.0 200 ").len(), starts(&left, "BYE ").len()), (1, 0), "{left:?}");
        assert!(settles(&left, "Retry") && bench.is_over(), "{left:?}");
    }

    #[test]
    fn a_history_refers_to_the_file_and_hears_of_the_end() {
        let mut bench = Bench::new(&["urn:uuid:1"], true);
        bench.input(Input::SubscriberReady(Aor::from_canonical(BOB)));
        let now = bench.now();
        let ticket = Waiting::Delivery(SlotId::default()).ticket();
        bench.core.handle_input(Input::Store { ticket, answer: Ok(Reply::Queue(vec![message()])) }, now);
        match bench.core.poll_effect() {
            Some(Effect::Store { command: Command::Keep { shelf: Shelf::History, object }, .. }) => {
                let content = object.content.unwrap();
                assert_eq!((content.spool, content.len, object.body_len), (None, LEN, LEN));
                assert_eq!(&*object.imdn_message_id, "i1");
            }
            other => panic!("{other:?}"),
        }
        let left = bench.stored(Ok(Reply::Kept { id: MessageId(3), created: true }));
        bench.take(&left[0]);
        let left = bench.media(|id| Event::Sent { id, status: 200 });
        assert!(left.iter().any(|text| text.contains("SetOutcome") && text.contains("Delivered")), "{left:?}");
    }

    #[test]
    fn what_was_acknowledged_counts_for_the_same_device_and_the_same_message_alone() {
        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        bench.take(&left[0]);
        let id = SlotId::default();
        let progress = |message, target: &str| Progress { message, target: target.as_bytes().into(), acknowledged: 9 };
        for (progress, offset) in [
            (progress(MessageId(0x77), "sip:bob@203.0.113.1:5099"), 9),
            (progress(MessageId(0x77), "sip:bob@203.0.113.2:5099"), 0),
            (progress(MessageId(0x78), "sip:bob@203.0.113.1:5099"), 0),
        ] {
            bench.core.deliveries.set_progress(id, Some(progress));
            assert_eq!(bench.core.resume_point(id), offset);
        }
    }

    /// One MSRP connection of a device that connected, or was connected to.
    struct Wire {
        conn: ConnId,
    }

    impl Wire {
        /// Opens the connection that the relay asks for.
        fn connect(bench: &mut Bench, left: &Left) -> Self {
            let ticket =
                left.iter().find_map(|text| text.strip_prefix("Media(Connect { ticket: ConnectTicket(")).unwrap();
            let ticket = ConnectTicket(ticket.split(')').next().unwrap().parse().unwrap());
            let conn = ConnId { slot: 1, generation: ticket.0 as u32 };
            let now = bench.now();
            assert!(bench.core.media_connected(ticket, conn, now));
            Self { conn }
        }

        /// What came over it.
        fn read(&self, bench: &mut Bench) -> Vec<u8> {
            let (mut batch, mut bytes) = (Vec::new(), Vec::new());
            while let Some(conn) = bench.core.poll_media() {
                assert_eq!(conn, self.conn);
                bench.core.take_media(conn, &mut batch);
                let len: usize = batch.iter().map(Bytes::len).sum();
                batch.drain(..).for_each(|piece| bytes.extend_from_slice(&piece));
                let now = bench.now();
                bench.core.media_sent(conn, len, now);
            }
            bytes
        }

        /// Answers every chunk of these bytes, each by its transaction id.
        fn answer(&self, bench: &mut Bench, bytes: &[u8], status: &str) -> Left {
            let text = String::from_utf8_lossy(bytes).into_owned();
            for head in text.split("MSRP ").skip(1) {
                let tid = head.split(' ').next().unwrap();
                let own = head.split("From-Path: ").nth(1).unwrap().split("\r\n").next().unwrap();
                let response = format!(
                    "MSRP {tid} {status}\r\nTo-Path: {own}\r\nFrom-Path: msrp://203.0.113.1:7000/b1;tcp\r\n-------{tid}$\r\n"
                );
                let now = bench.now();
                let copy = Bytes::from(response.clone());
                bench.core.handle_media(self.conn, response.as_bytes(), &mut || copy.clone(), now);
            }
            bench.left()
        }
    }

    fn wanted(left: &Left) -> Vec<(usize, usize)> {
        let number = |text: &str, name: &str| -> usize {
            let digits = text.split(&format!("{name}: ")).nth(1).unwrap();
            digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        starts(left, "Spool").iter().map(|text| (number(text, "offset"), number(text, "len"))).collect()
    }

    /// Lets the file be read as long as pieces are wanted.
    fn supply(bench: &mut Bench, mut left: Left) -> Left {
        let mut others = Vec::new();
        while let Some((offset, len)) = wanted(&left).first().copied() {
            others.extend(left.into_iter().filter(|text| !text.starts_with("Spool")));
            let bytes: Vec<u8> = (offset..offset + len).map(|at| (at % 251) as u8).collect();
            left = bench.read(Ok(SpoolReply::Bytes(Bytes::from(bytes))));
        }
        others.extend(left);
        others
    }

    #[test]
    fn a_message_goes_from_its_file_to_the_device_and_goes_on_where_the_device_lost_it() {
        let (mut bench, left) = Bench::call(&["urn:uuid:1"]);
        let left = bench.take(&left[0]);
        let wire = Wire::connect(&mut bench, &left);
        let binding = wire.read(&mut bench);
        assert!(!binding.windows(13).any(|bytes| bytes == b"Content-Type:"), "the binding has no body");
        let left = wire.answer(&mut bench, &binding, "200 OK");
        supply(&mut bench, left);
        let first = wire.read(&mut bench);
        let text = String::from_utf8_lossy(&first).into_owned();
        let ranges = |text: &str| -> Vec<String> {
            text.split("Byte-Range: ").skip(1).map(|rest| rest.split("\r\n").next().unwrap().to_owned()).collect()
        };
        assert_eq!(ranges(&text)[0], "1-65536/1048576");
        // Two chunks are acknowledged, then the connection is lost.
        let second = text.match_indices("MSRP ").nth(2).unwrap().0;
        let left = wire.answer(&mut bench, &text.as_bytes()[..second], "200 OK");
        supply(&mut bench, left);
        let now = bench.now();
        bench.core.media_closed(wire.conn, now);
        let left = bench.left();
        assert!(settles(&left, "Retry") && starts(&left, "BYE ").len() == 1, "{left:?}");

        // The same device is called again, and gets the rest under the same Message-ID.
        bench.seconds += 10;
        let now = bench.now();
        bench.core.handle_timeout(now);
        assert!(starts(&bench.left(), "Store").iter().any(|text| text.contains("PeekDeferred")));
        let left = bench.stored(Ok(Reply::Queue(vec![message()])));
        let left = bench.take(starts(&left, "INVITE ")[0]);
        let wire = Wire::connect(&mut bench, &left);
        let binding = wire.read(&mut bench);
        let mut left = wire.answer(&mut bench, &binding, "200 OK");
        let mut arrived = Vec::new();
        for _ in 0..16 {
            left = supply(&mut bench, left);
            if settles(&left, "Remove") {
                break;
            }
            let chunks = wire.read(&mut bench);
            arrived.extend(ranges(&String::from_utf8_lossy(&chunks)));
            left = wire.answer(&mut bench, &chunks, "200 OK");
        }
        assert!(settles(&left, "Remove") && bench.is_over(), "{left:?}");
        assert_eq!(arrived.first().map(String::as_str), Some("131073-196608/1048576"));
        assert_eq!(arrived.last().map(String::as_str), Some("983041-1048576/1048576"));
        assert_eq!(arrived.len(), 14);
    }
}
