//! A back-to-back user agent: how the two legs of a session are coupled while it is set up (SPEC §1.2, LM-5 to LM-A6,
//! §2.3; RFC 7092).
//!
//! Ringing is in [`super::large_ringing`], what comes within an established dialog in [`super::large_dialog`], the end in
//! [`super::large_end`].

use super::core::{ALLOW_LINE, Core, Hop, OWN_REQUEST_MARK, RETRY_AFTER_LINE, SERVER_LINE, USER_AGENT_LINE};
use super::effect::Effect;
use super::facts::{self, Way};
use super::input::{ControlCommand, Transport};
use super::large::{Business, Fork, LOOP_CASE, Offered, SESSION_SECONDS, Session, Stage, connect_addresses};
use super::large_body::SessionBody;
use super::leg::{Answer, Contact, Invite, Leg, LocalTag, Side, Within, copy_record_route, names_option};
use super::subscriber::Directory;
use super::transactions::{LegRequest, Owner, ServerId, Verdict, Waiting, push_hex};
use crate::base::slots::SlotId;
use crate::base::time::Now;
use crate::metrics::names::Counter;
use crate::msrp::news::{self, LegPlan};
use crate::msrp::settings::PathMode;
use crate::sdp::{self, Description, Role, role_after_answer, write_answer, write_offer};
use crate::sip::dialog::Dialog;
use crate::sip::dialog::session_timer::{Agreement, Keeper, Part, TimerAnswer, TimerOffer, TimerRequest};
use crate::sip::header::address;
use crate::sip::message::Message;
use crate::sip::scan::{Name, Start, decimal};
use crate::sip::transaction::T1;
use crate::sip::uri::{Scheme, Uri};
use crate::sip::write::{self, Response, line};
use bytes::Bytes;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Max-Forwards of a request that has none (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u32 = 70;
/// How long an answer of ours waits for its ACK (RFC 3261 §13.3.1.4).
pub(super) const ACK_PATIENCE: Duration = T1.saturating_mul(64);
/// Reliable provisional responses of one early dialog that are acknowledged.
pub(super) const PRACK_COUNT_MAX: u32 = 1_000;
/// What our requests and answers say that we support.
const SUPPORTED_LINE: &str = "Supported: timer, 100rel\r\n";

impl<D: Directory> Core<D> {
    /// LM-7: calls the terminating side, once its next hop is known.
    pub(super) fn call(&mut self, id: SlotId, message: &Message<'_>, now: Now) {
        let Ok(offered) = Offered::of(message) else {
            debug_assert!(false, "the offer was read when the INVITE came");
            return;
        };
        let way = facts::way(message, &self.settings);
        self.call_by(id, message, &way, &offered, now);
    }

    /// The same with the INVITE's way and offer read already.
    pub(super) fn call_by(
        &mut self,
        id: SlotId,
        message: &Message<'_>,
        way: &Way<'_>,
        offered: &Offered<'_>,
        now: Now,
    ) {
        let Some(session) = self.large.sessions.get(id) else { return };
        let Some(setup) = &session.setup else { return };
        let hop = match (session.business, &way.next) {
            (Business::Interwork, _) => self.settings.isf.as_ref().map_or(Hop::Unreachable, |isf| Hop::Known(isf.hop)),
            (_, Some(uri)) => self.leg_hop(uri, now),
            (_, None) => Hop::Known(self.settings.core.hop),
        };
        let count = setup.instances.len().max(1);
        let resolved = setup.resolved;
        match hop {
            Hop::Known(hop) => {
                let Some(session) = self.large.sessions.get_mut(id) else { return };
                session.stage = Stage::Calling;
                let Some(setup) = &mut session.setup else { return };
                setup.hop = Some(hop);
                for _ in 0..count {
                    setup.forks.push(Fork {
                        client: None,
                        call_id: 0,
                        cseq: 0,
                        timer: TimerOffer::new(SESSION_SECONDS),
                        done: false,
                        answer: None,
                    });
                }
                let mut called = 0;
                for fork in 0..count {
                    called += usize::from(self.call_fork(id, fork as u8, message, way, offered, now));
                }
                if called == 0 {
                    let no_room = self.transactions.is_full();
                    self.fail_unsendable(id, no_room, now);
                    return;
                }
                self.arm_session(id, now);
            }
            Hop::Ask(host, port) if !resolved => {
                let Some(session) = self.large.sessions.get_mut(id) else { return };
                session.stage = Stage::Resolving;
                if let Some(setup) = &mut session.setup {
                    setup.resolved = true;
                }
                self.ask_address(id, host, port);
                self.arm_session(id, now);
            }
            Hop::Ask(..) | Hop::Unreachable => self.fail_unsendable(id, false, now),
        }
    }

    /// Sends one INVITE of the terminating side (SPEC §2.3); false when it could not be sent.
    fn call_fork(
        &mut self,
        id: SlotId,
        fork: u8,
        message: &Message<'_>,
        way: &Way<'_>,
        offered: &Offered<'_>,
        now: Now,
    ) -> bool {
        let settings = Arc::clone(&self.settings);
        let host = &settings.host;
        // B's requests carry this Call-ID: they have to come to this shard.
        let known = self
            .large
            .sessions
            .get(id)
            .and_then(|session| Some(session.setup.as_ref()?.forks.get(usize::from(fork))?.call_id));
        let mut call_id_text = Vec::with_capacity(17 + host.len());
        let call_id = match known {
            None => return false,
            Some(0) => self.draw_call_id(host, &mut call_id_text),
            Some(call_id) => {
                write_call_id(&mut call_id_text, call_id, host);
                call_id
            }
        };
        let mut sdp = std::mem::take(&mut self.large.sdp);
        let mut extra = std::mem::take(&mut self.large.extra);
        sdp.clear();
        extra.clear();
        let client = 'send: {
            let Some(session) = self.large.sessions.get_mut(id) else { break 'send None };
            let (business, kind, size_max) = (session.business, session.kind, session.size_max);
            let tag = session.tag(id, LocalTag::index_of_fork(fork)).text();
            let (Some(media), Some(setup)) = (session.media, &mut session.setup) else { break 'send None };
            let Some(hop) = setup.hop else { break 'send None };
            let instance = setup.instances.get(usize::from(fork));
            let Some(entry) = setup.forks.get_mut(usize::from(fork)) else { break 'send None };
            entry.call_id = call_id;
            entry.cseq += 1;
            let cseq = entry.cseq;
            extra.extend_from_slice(USER_AGENT_LINE.as_bytes());
            extra.extend_from_slice(ALLOW_LINE.as_bytes());
            extra.extend_from_slice(SUPPORTED_LINE.as_bytes());
            entry.timer.write(&mut extra);
            if let Some(instance) = instance {
                // PM-6a.
                let _ = write!(extra, "Accept-Contact: *;+sip.instance=\"<{instance}>\";require;explicit\r\n");
            }
            if names_option(message, Name::Require, b"pref") {
                extra.extend_from_slice(b"Require: pref\r\n");
            }
            for name in [Name::ConversationId, Name::ContributionId] {
                if message.value(name).is_none() {
                    // A client answers 400 to an INVITE without them (SPEC finding 3).
                    let number = self.transactions.digest(&[&call_id_text, name.as_str().as_bytes()]);
                    let _ = write!(extra, "{}: {number:032x}\r\n", name.as_str());
                }
            }
            let own = self.own_description(id, Side::Terminating, media, size_max, 1, offered.media.path);
            write_offer(&mut sdp, &offered.description, &own);
            let Some(listener) = self.listener_for(hop.addr) else { break 'send None };
            let contact = self.contact(listener, kind, hop.transport == Some(Transport::Tcp));
            let max_forwards =
                message.value(Name::MaxForwards).and_then(decimal).map_or(MAX_FORWARDS, |hops| hops as u32 - 1);
            let request_uri = message.request_uri().unwrap_or_default();
            let mark = self.transactions.loop_mark_of([request_uri, &tag, b"", &call_id_text], cseq, LOOP_CASE);
            let interworking = business == Business::Interwork;
            let strict = way.next.filter(|uri| !interworking && !uri.is_loose_route()).map(|uri| uri.text);
            let isf = interworking
                .then(|| self.settings.isf.as_ref().map(|isf| format!("<{}>", isf.uri).into_bytes()))
                .flatten();
            let body = offered.body;
            let mut multipart = Vec::new();
            let body_bytes: &[u8] = if body.is_alone() {
                &sdp
            } else {
                body.write_with(&mut multipart, &sdp);
                &multipart
            };
            let owner = Owner::Leg { session: id, leg: fork, request: LegRequest::Invite };
            let contact = contact.as_ref();
            self.send_invite(owner, hop, mark, now, |out, via| {
                let invite = Invite {
                    via,
                    call_id: &call_id_text,
                    tag: &tag,
                    cseq,
                    max_forwards,
                    own_routes: way.own_routes,
                    push_route: isf.as_deref(),
                    strict,
                    contact,
                    extra: &extra,
                    content_type: body.content_type(),
                    body: body_bytes,
                };
                invite.write(out, message);
            })
        };
        self.large.sdp = sdp;
        self.large.extra = extra;
        let sent = client.is_some();
        if let Some(entry) = self.fork_mut(id, fork) {
            entry.client = client;
            entry.done = !sent;
        }
        sent
    }

    fn fork_mut(&mut self, id: SlotId, fork: u8) -> Option<&mut Fork> {
        self.large.sessions.get_mut(id)?.setup.as_mut()?.forks.get_mut(usize::from(fork))
    }

    pub(super) fn draw_call_id(&mut self, host: &str, text: &mut Vec<u8>) -> u64 {
        loop {
            let number = self.rng.next_u64().max(1);
            text.clear();
            write_call_id(text, number, host);
            if self.transactions.owner_of(text, self.settings.shard_count) == self.shard {
                return number;
            }
        }
    }

    /// Our part of a description on a leg.
    pub(super) fn own_description<'a>(
        &'a self,
        id: SlotId,
        side: Side,
        media: news::SessionId,
        size_max: u64,
        version: u32,
        peer_path: &'a [u8],
    ) -> sdp::Own<'a> {
        let session = self.large.sessions.get(id);
        let listener = session.map_or(0, |session| session.media_listeners[side as usize]);
        let (leg, media_side) = match side {
            Side::Originating => (sdp::Leg::Originating, news::Side::Originating),
            Side::Terminating => (sdp::Leg::Terminating, news::Side::Terminating),
        };
        let prepends = self.settings.msrp.path_mode == PathMode::Prepend && !peer_path.is_empty();
        sdp::Own {
            leg,
            addr: self.settings.msrp.listeners[usize::from(listener)],
            uri: self.relay.uri(media, media_side),
            session_id: session.map_or(0, |session| session.origin(side)),
            version: u64::from(version),
            size_max,
            peer_path: prepends.then_some(peer_path),
        }
    }

    /// Tells the relay what a side's description says.
    pub(super) fn negotiate(
        &mut self,
        media: news::SessionId,
        side: Side,
        description: &sdp::MessageMedia<'_>,
        role: Role,
        now: Now,
    ) {
        let connect_to = connect_addresses(description);
        let (side, accept_types) = match side {
            // What the originating side may send is what its answer says (SPEC §4.7).
            Side::Originating => (news::Side::Originating, &b"message/cpim"[..]),
            Side::Terminating => (news::Side::Terminating, &b""[..]),
        };
        let role = match role {
            Role::Active => news::Role::Active,
            Role::Passive => news::Role::Passive,
        };
        let plan = LegPlan { peer_path: description.path, role, connect_to: &connect_to, accept_types };
        self.relay.negotiate(media, side, plan, now.at);
    }

    /// Our Contact on a listener.
    pub(super) fn contact(&self, listener: u8, kind: super::large::Kind, stream: bool) -> OwnContact {
        OwnContact {
            sent_by: self.shared_sent_by(listener),
            service: kind.feature(),
            stream,
            path_mtu: self.settings.path_mtu,
        }
    }

    /// Where a URI of a leg leads.
    pub(super) fn leg_hop(&self, uri: &Uri<'_>, now: Now) -> Hop {
        let core = &self.settings.core;
        if uri.scheme == Scheme::Sip && uri.port.is_none() && uri.host.eq_ignore_ascii_case(core.host.as_bytes()) {
            return Hop::Known(core.hop);
        }
        self.hop_of(uri, now.at)
    }

    pub(super) fn ask_address(&mut self, id: SlotId, host: Box<str>, port: u16) {
        if let Some(session) = self.large.sessions.get_mut(id) {
            session.asking = Some(host.clone());
        }
        self.effects.push_back(Effect::Control {
            ticket: Waiting::Session(id).ticket(),
            command: ControlCommand::Resolve { host, port },
        });
    }

    /// A name that a session waits for has been looked up.
    pub(super) fn on_session_resolved(&mut self, id: SlotId, addrs: Vec<SocketAddr>, now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else { return };
        let (stage, request) = (session.stage, session.setup.as_ref().map(|setup| setup.request.clone()));
        if let Some(host) = session.asking.take() {
            self.remember(host, addrs, now.at);
        }
        match (stage, request) {
            (Stage::Resolving, Some(request)) => {
                self.with_request(&request, |core, message| core.call(id, message, now));
            }
            _ => self.settle_debts(id, now),
        }
    }

    /// What became of a request of a leg.
    pub(super) fn on_leg_verdict(
        &mut self,
        id: SlotId,
        leg: u8,
        request: LegRequest,
        verdict: Verdict,
        response: Option<(u16, &Message<'_>)>,
        now: Now,
    ) {
        match (request, verdict, response) {
            (LegRequest::Invite, Verdict::Provisional, Some((status, response))) => {
                self.on_ringing(id, leg, status, response, now);
            }
            (LegRequest::Invite, Verdict::Success, Some((_, response))) => self.on_answered(id, leg, response, now),
            (LegRequest::Invite, Verdict::Final, Some((status, response))) => {
                self.on_refused(id, leg, status, Some(response), now);
            }
            (LegRequest::Invite, Verdict::TimedOut, _) => self.on_refused(id, leg, 408, None, now),
            (LegRequest::Invite, Verdict::Unsendable, _) => self.on_refused(id, leg, 503, None, now),
            (LegRequest::Reinvite | LegRequest::Update, verdict, response) => {
                self.on_change_verdict(id, leg, request, verdict, response, now);
            }
            (_, Verdict::Provisional, _) => {}
            // It ends the session whatever comes of it.
            (LegRequest::Bye, ..) => {
                debug_assert!(self.large.bye_count > 0, "each BYE ends once");
                self.large.bye_count = self.large.bye_count.saturating_sub(1);
            }
            // A PRACK that is lost is asked for again.
            (LegRequest::Prack | LegRequest::Invite, ..) => {}
        }
    }

    /// A 2xx: the first one makes the session, every other is refused (LM-6).
    fn on_answered(&mut self, id: SlotId, fork: u8, response: &Message<'_>, now: Now) {
        let Some(session) = self.large.sessions.get_mut(id) else {
            self.refuse_answer(response, now);
            return;
        };
        if session.stage != Stage::Calling {
            let remote_tag = remote_tag_of(response);
            let acked = session.acked;
            match session.leg_mut(Side::Terminating) {
                Some(leg)
                    if leg.tag_index == LocalTag::index_of_fork(fork) && leg.dialog.id().remote_tag == remote_tag =>
                {
                    // Until the originating side's ACK has come repetitions are absorbed; afterwards each has its own.
                    leg.owes.ack |= acked && leg.invite_cseq == cseq_of(response);
                    self.settle_debts(id, now);
                }
                _ => self.refuse_answer(response, now),
            }
            return;
        }
        let Some(setup) = &mut session.setup else { return };
        let Some(entry) = setup.forks.get_mut(usize::from(fork)) else { return };
        entry.done = true;
        let early = entry.answer.take();
        let (request, index) = (std::mem::take(&mut setup.request), setup.index.take());
        self.cancel_forks(id, now);
        let couple = |core: &mut Self, invite: &Message<'_>| match early.filter(|_| response.body().is_empty()) {
            Some(early) => core
                .with_request(&early, |core, early| core.couple(id, fork, invite, response, early, now))
                .unwrap_or(Err(Uncoupled::BadAnswer)),
            None => core.couple(id, fork, invite, response, response, now),
        };
        let outcome = match &index {
            Some(index) => Some(couple(self, &Message { bytes: &request, scan: index })),
            None => self.with_request(&request, couple),
        };
        if let Some(setup) = self.large.sessions.get_mut(id).and_then(|session| session.setup.as_mut()) {
            // Whoever called is to hear of the failure.
            setup.request = request;
        }
        match outcome {
            Some(Ok(())) => {}
            Some(Err(Uncoupled::BadAnswer)) => {
                self.refuse_answer(response, now);
                let warning = self.warning("Session description of the recipient");
                self.fail(id, 488, "Not Acceptable Here", &warning, now);
            }
            Some(Err(Uncoupled::BadDialog)) | None => {
                let warning = self.warning("Answer of the recipient");
                self.fail(id, 502, "Bad Gateway", &warning, now);
            }
        }
    }

    /// Makes both legs of an answer, tells the relay, and answers the originating side (LM-A1 to LM-A6).
    fn couple(
        &mut self,
        id: SlotId,
        fork: u8,
        invite: &Message<'_>,
        response: &Message<'_>,
        described: &Message<'_>,
        now: Now,
    ) -> Result<(), Uncoupled> {
        let body = SessionBody::of(described).map_err(|_| Uncoupled::BadAnswer)?;
        let answer = Description::parse(body.sdp).map_err(|_| Uncoupled::BadAnswer)?;
        let answered = answer.usable(sdp::Leg::Terminating).map_err(|_| Uncoupled::BadAnswer)?;
        let role = role_after_answer(answered.setup).ok_or(Uncoupled::BadAnswer)?;
        if role == Role::Active && connect_addresses(&answered).is_empty() {
            return Err(Uncoupled::BadAnswer);
        }
        let offered = Offered::of(invite).map_err(|_| Uncoupled::BadAnswer)?;
        let session = self.large.sessions.get_mut(id).ok_or(Uncoupled::BadAnswer)?;
        let media = session.media.ok_or(Uncoupled::BadAnswer)?;
        let remote_tag = self.transactions.digest(&[remote_tag_of(response)]);
        let index_b = LocalTag::index_of_fork(fork);
        let (tag_a, tag_b, pracks) = {
            let setup = session.setup.as_ref().ok_or(Uncoupled::BadAnswer)?;
            let known = setup.early.iter().position(|early| early.is(fork, remote_tag));
            let pracks = known.map_or(0, |index| setup.early[index].pracks);
            (session.tag(id, known.unwrap_or(setup.early.len()) as u8), session.tag(id, index_b), pracks)
        };
        let target = invite.request_uri().unwrap_or_default();
        let dialog = Dialog::client(response, &tag_b.text(), target).map_err(|_| Uncoupled::BadDialog)?;
        let mut leg = Leg::new(dialog, index_b, response);
        for _ in 0..pracks {
            // They were the early dialog's, which this one continues.
            leg.dialog.next_cseq();
        }
        leg.role = role;
        leg.version = 1;
        leg.timer.on_agreed(Agreement::of_response(response), Part::Client, now.at);
        if leg.timer.keeper() == Keeper::Us && !leg.takes_update {
            leg.described = self.description_again(id, media, &offered, now);
        }
        let session = self.large.sessions.get_mut(id).ok_or(Uncoupled::BadAnswer)?;
        session.size_max = answered.size_max.map_or(session.size_max, |size_max| size_max.min(session.size_max));
        let size_max = session.size_max;
        session.legs[Side::Terminating as usize] = Some(leg);
        self.relay.limit(media, size_max);
        self.negotiate(media, Side::Terminating, &answered, role, now);
        self.negotiate(media, Side::Originating, &offered.media, offered.setup.role(), now);
        self.metrics.count(Counter::SessionAnswered);
        let mut extra = Vec::new();
        // An identity without the wish for privacy that came with it would be shown to anybody (RFC 3325 §7).
        for name in [Name::PAssertedIdentity, Name::Privacy] {
            for field in response.fields(name) {
                line(&mut extra, name.as_str(), field.value.of(response.bytes));
            }
        }
        if let Some(vector) = response.extension("P-Charging-Vector") {
            line(&mut extra, "P-Charging-Vector", vector);
        }
        let mut sdp = std::mem::take(&mut self.large.sdp);
        sdp.clear();
        let own = self.own_description(id, Side::Originating, media, size_max, 1, answered.path);
        write_answer(&mut sdp, &offered.description, Some(&answer), &own, offered.setup);
        let done = self.answer_originating(id, tag_a, invite, &offered, &sdp, &extra, now);
        self.large.sdp = sdp;
        if done {
            self.find_hop(id, Side::Terminating, now);
        }
        if done { Ok(()) } else { Err(Uncoupled::BadAnswer) }
    }

    /// The offer as it was sent, for a refresh that has to repeat it.
    fn description_again(
        &self,
        id: SlotId,
        media: news::SessionId,
        offered: &Offered<'_>,
        _now: Now,
    ) -> Option<Box<[u8]>> {
        let size_max = self.large.sessions.get(id)?.size_max;
        let mut sdp = Vec::new();
        let own = self.own_description(id, Side::Terminating, media, size_max, 1, offered.media.path);
        write_offer(&mut sdp, &offered.description, &own);
        Some(sdp.into())
    }

    /// The appliance is the called party: it takes the message itself (LM-ed2).
    pub(super) fn answer_as_server(&mut self, id: SlotId, invite: &Message<'_>, now: Now) {
        let Some(session) = self.large.sessions.get(id) else { return };
        let (media, size_max) = (session.media, session.size_max);
        let tag = session.tag(id, 0);
        let (Ok(offered), Some(media)) = (Offered::of(invite), media) else { return };
        self.negotiate(media, Side::Originating, &offered.media, offered.setup.role(), now);
        let mut sdp = std::mem::take(&mut self.large.sdp);
        sdp.clear();
        let own = self.own_description(id, Side::Originating, media, size_max, 1, b"");
        write_answer(&mut sdp, &offered.description, None, &own, offered.setup);
        self.metrics.count(Counter::SessionAnswered);
        let done = self.answer_originating(id, tag, invite, &offered, &sdp, b"", now);
        self.large.sdp = sdp;
        debug_assert!(done, "the INVITE's dialog was checked when it came");
    }

    /// The 200 to the originating side (LM-A1 to LM-A6); it leaves again until its ACK comes.
    #[allow(clippy::too_many_arguments)]
    fn answer_originating(
        &mut self,
        id: SlotId,
        tag: LocalTag,
        invite: &Message<'_>,
        offered: &Offered<'_>,
        sdp: &[u8],
        lines: &[u8],
        now: Now,
    ) -> bool {
        let tag_text = tag.text();
        let Ok(dialog) = Dialog::server(invite, &tag_text) else { return false };
        let mut leg = Leg::new(dialog, tag.index, invite);
        leg.role = offered.setup.role();
        leg.version = 1;
        let Some(session) = self.large.sessions.get_mut(id) else { return false };
        let Some(setup) = session.setup.take() else { return false };
        let server = setup.server;
        let contact = self.contact(session_listener(&self.large.sessions, id), self.kind_of(id), self.is_stream(id));
        let mut extra = std::mem::take(&mut self.large.extra);
        extra.clear();
        extra.extend_from_slice(SERVER_LINE.as_bytes());
        extra.extend_from_slice(ALLOW_LINE.as_bytes());
        extra.extend_from_slice(SUPPORTED_LINE.as_bytes());
        contact.as_ref().write(&mut extra);
        copy_record_route(&mut extra, invite);
        if let Some(TimerAnswer::Agreed(agreement)) =
            TimerRequest::of(invite).map(|request| request.answer(SESSION_SECONDS))
        {
            agreement.write(&mut extra);
            leg.timer.on_agreed(Some(agreement), Part::Server, now.at);
            if leg.timer.keeper() == Keeper::Us && !leg.takes_update {
                leg.described = Some(sdp.into());
            }
        }
        extra.extend_from_slice(lines);
        let cseq = leg.dialog.remote_cseq().unwrap_or_default();
        let bytes = self.compose_answer(server, invite, &tag_text, &extra, sdp);
        self.large.extra = extra;
        leg.answer = Some(Box::new(Answer {
            server,
            cseq,
            bytes: bytes.clone(),
            again: now.at + T1,
            interval: T1,
            given_up: now.at + ACK_PATIENCE,
        }));
        if let Some(session) = self.large.sessions.get_mut(id) {
            session.legs[Side::Originating as usize] = Some(leg);
            session.stage = Stage::Answered;
        }
        self.send_answer(server, bytes, now);
        self.arm_session(id, now);
        true
    }

    fn kind_of(&self, id: SlotId) -> super::large::Kind {
        self.large.sessions.get(id).map_or(super::large::Kind::LargeMessage, |session| session.kind)
    }

    fn is_stream(&self, id: SlotId) -> bool {
        self.large.sessions.get(id).is_some_and(|session| session.stream)
    }

    /// Writes a 200 with a session description, or without one.
    pub(super) fn compose_answer(
        &mut self,
        server: ServerId,
        request: &Message<'_>,
        to_tag: &[u8],
        extra: &[u8],
        sdp: &[u8],
    ) -> Bytes {
        let stamp = self.transactions.path(server).map(|path| path.stamp).unwrap_or_default();
        let response = Response { status: 200, reason: "OK", to_tag, stamp, extra };
        self.compose(|out| match sdp {
            [] => write::response(out, request, &response),
            _ => write::response_with_body(out, request, &response, "application/sdp", sdp),
        })
    }

    /// Sends a 200 that was written, the first time.
    pub(super) fn send_answer(&mut self, server: ServerId, bytes: Bytes, now: Now) {
        if let Some(started) = self.transactions.started(server) {
            self.stages.record(crate::metrics::names::Stage::Total, now.at - started);
        }
        self.transactions.respond(server, 200, bytes, now.at, &mut self.effects);
    }

    /// A failure of the terminating side; the best of all goes back when the last has come.
    fn on_refused(&mut self, id: SlotId, fork: u8, status: u16, response: Option<&Message<'_>>, now: Now) {
        if self.large.sessions.get(id).is_none_or(|session| session.stage != Stage::Calling) {
            return;
        }
        if status == 422 && self.call_fork_again(id, fork, response, now) {
            return;
        }
        let (sent, reason, extra) = match response {
            Some(response) => self.passed_on(status, response),
            None if status == 408 => (408, "Request Timeout".into(), String::new()),
            None => (500, "Server Internal Error".into(), self.warning("Next hop unreachable")),
        };
        let Some(setup) = self.large.sessions.get_mut(id).and_then(|session| session.setup.as_mut()) else { return };
        if let Some(entry) = setup.forks.get_mut(usize::from(fork)) {
            entry.done = true;
        }
        if setup.best.as_ref().is_none_or(|(best, ..)| rank(sent) < rank(*best)) {
            setup.best = Some((sent, reason.into(), extra.into()));
        }
        if sent >= 600 {
            // RFC 3261 §16.7 step 5: nobody else is to be asked.
            self.cancel_forks(id, now);
        }
        let Some(setup) = self.large.sessions.get_mut(id).and_then(|session| session.setup.as_mut()) else { return };
        if (sent >= 600 || setup.forks.iter().all(|fork| fork.done))
            && let Some((status, reason, extra)) = setup.best.take()
        {
            self.fail(id, status, &reason, &extra, now);
        }
    }

    /// What a failure of one side is to the other: status, reason phrase, header lines. Nearly always the same (SPEC §2.3).
    pub(super) fn passed_on(&self, status: u16, response: &Message<'_>) -> (u16, String, String) {
        let (sent, reason) = match status {
            // RFC 3261 §8.1.3.4: nobody recurses; the caller would not reach what the user chose.
            300..=399 => (480, "Temporarily Unavailable".into()),
            // We were challenged. Nobody behind us could answer, and its code needs the challenge (RFC 3261 §22).
            401 | 407 => (403, "Forbidden".into()),
            // It is about our own session interval (RFC 4028 §6), or about the next hop (RFC 3261 §16.7).
            422 | 503 => (500, "Server Internal Error".into()),
            _ => (status, reason_of(response)),
        };
        let mut extra = kept_lines(response, sent);
        if sent == 403 && response.value(Name::Warning).is_none() {
            // A bare one makes clients register anew (SPEC finding 1, G-5).
            extra +=
                &self.warning(if status == 403 { "122 Function not allowed" } else { "127 Service not authorised" });
        }
        (sent, reason, extra)
    }

    /// A 422 asks for a longer session interval: the INVITE is repeated once. RFC 4028 §7.3.
    fn call_fork_again(&mut self, id: SlotId, fork: u8, response: Option<&Message<'_>>, now: Now) -> bool {
        let Some(entry) = self.fork_mut(id, fork).filter(|entry| entry.cseq == 1) else { return false };
        let Some(timer) = response.and_then(|response| entry.timer.after_422(response)) else { return false };
        entry.timer = timer;
        let request = self.large.sessions.get(id).and_then(|session| session.setup.as_ref()).map(|s| s.request.clone());
        let Some(request) = request else { return false };
        let called = self.with_request(&request, |core, message| {
            let way = facts::way(message, &core.settings);
            Offered::of(message).is_ok_and(|offered| core.call_fork(id, fork, message, &way, &offered, now))
        });
        called.unwrap_or(false)
    }

    fn cancel_forks(&mut self, id: SlotId, now: Now) {
        let mut index = 0;
        while let Some(entry) = self.fork_mut(id, index) {
            let client = entry.client.filter(|_| !entry.done);
            if let Some(client) = client {
                self.cancel(client, now);
            }
            index += 1;
        }
    }

    /// Acknowledges a 2xx and ends its dialog at once: it came too late, or its answer is of no use. Nothing has to be
    /// remembered for that, so each repetition is treated alike. RFC 3261 §13.2.2.4.
    pub(super) fn refuse_answer(&mut self, response: &Message<'_>, now: Now) {
        let Some(tag) = response.value(Name::From).and_then(address::tag) else { return };
        let Some(target) = response.address(Name::To).map(|to| to.uri) else { return };
        let Ok(dialog) = Dialog::client(response, tag, target) else { return };
        let next = Uri::parse(dialog.next_hop()).ok().map(|uri| self.leg_hop(&uri, now));
        let hop = next.and_then(Hop::known).unwrap_or(self.settings.core.hop);
        let cseq = dialog.local_cseq();
        let extra = USER_AGENT_LINE.as_bytes();
        self.send_ack(hop, |out, via| {
            Within { method: "ACK", cseq, via, extra, ..Within::default() }.write(out, &dialog);
        });
        // Beyond the PRACKs of its early dialog, if there were any.
        let cseq = cseq.saturating_add(PRACK_COUNT_MAX + 1);
        self.send_request(Owner::Notice, hop, OWN_REQUEST_MARK, now, |out, via| {
            Within { method: "BYE", cseq, via, extra, ..Within::default() }.write(out, &dialog);
        });
    }

    fn fail_unsendable(&mut self, id: SlotId, no_room: bool, now: Now) {
        if no_room {
            self.fail(id, 503, "Service Unavailable", RETRY_AFTER_LINE, now);
        } else {
            let warning = self.warning("Next hop unreachable");
            self.fail(id, 500, "Server Internal Error", &warning, now);
        }
    }

    /// The final failure of a session that was never made.
    pub(super) fn fail(&mut self, id: SlotId, status: u16, reason: &str, extra: &str, now: Now) {
        self.cancel_forks(id, now);
        let setup = self.large.sessions.get_mut(id).and_then(|session| session.setup.take());
        debug_assert!(setup.is_some(), "only a session that is being set up fails");
        if let Some(setup) = setup {
            self.with_request(&setup.request, |core, message| {
                core.respond(setup.server, message, status, reason, extra, now);
            });
        }
        self.remove_session(id, now);
    }
}

/// Why an answer of the terminating side makes no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uncoupled {
    /// Its session description is of no use.
    BadAnswer,
    /// It founds no dialog: there is nothing that could be acknowledged.
    BadDialog,
}

/// Our Contact, with a hold on its address while the core is written to.
pub(super) struct OwnContact {
    sent_by: Arc<str>,
    service: &'static str,
    stream: bool,
    path_mtu: usize,
}

impl OwnContact {
    /// As a message writes it.
    pub fn as_ref(&self) -> Contact<'_> {
        Contact { sent_by: &self.sent_by, service: self.service, stream: self.stream, path_mtu: self.path_mtu }
    }
}

fn session_listener(sessions: &crate::base::slots::Slots<Session>, id: SlotId) -> u8 {
    sessions.get(id).map_or(0, |session| session.listener)
}

fn write_call_id(out: &mut Vec<u8>, number: u64, host: &str) {
    push_hex(out, number, 16);
    out.push(b'@');
    out.extend_from_slice(host.as_bytes());
}

/// RFC 3261 §16.7 step 6: a 6xx before all, then the lowest class; within a class the first.
const fn rank(status: u16) -> u16 {
    match status / 100 {
        6 => 1,
        class => class,
    }
}

pub(super) fn remote_tag_of<'a>(response: &Message<'a>) -> &'a [u8] {
    response.value(Name::To).and_then(address::tag).unwrap_or_default()
}

/// The CSeq number of a response.
pub(super) fn cseq_of(response: &Message<'_>) -> u32 {
    response.value(Name::CSeq).and_then(crate::sip::header::cseq::parse).map_or(0, |(number, _)| number)
}

/// The reason phrase of a response.
pub(super) fn reason_of(response: &Message<'_>) -> String {
    match response.scan.start {
        Start::Response { reason, .. } => String::from_utf8_lossy(reason.of(response.bytes)).into_owned(),
        Start::Request { .. } => String::new(),
    }
}

/// What of a failure's header is passed on: why, and when to try again. Its Contact is not (SPEC §2.3).
pub(super) fn kept_lines(response: &Message<'_>, sent: u16) -> String {
    const KEPT: [Name; 3] = [Name::Warning, Name::Reason, Name::RetryAfter];
    let mut lines = Vec::new();
    for field in &response.scan.fields {
        let value = field.value.of(response.bytes);
        match field.name {
            // How long the next hop is out of service is not how long we are.
            Name::RetryAfter if sent == 500 => {}
            // RFC 3261 §21.4.6: what a 405 is about is its Allow.
            Name::Allow if sent == 405 => line(&mut lines, "Allow", value),
            name if KEPT.contains(&name) => line(&mut lines, name.as_str(), value),
            Name::Other => {
                let name = field.name_span.of(response.bytes);
                for kept in ["Error-Info", "Unsupported", "Accept"] {
                    if name.eq_ignore_ascii_case(kept.as_bytes()) {
                        line(&mut lines, kept, value);
                    }
                }
            }
            _ => {}
        }
    }
    String::from_utf8_lossy(&lines).into_owned()
}
