//! What becomes of a chunk, decided at its head: whose it is, and whether it may pass.

use super::connection::{Ingress, LegRef};
use super::head::{FailureReport, Head, HeadFault, Kind};
use super::news::{Event, Purpose, Side};
use super::own_tid::parse_session_id;
use super::relay::{Input, Relay};
use super::session::{Session, Stage, accepts, answer_paths};
use super::{status, uri, write};
use crate::base::id::ConnId;
use crate::base::time::Instant;

/// What is to be done with a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Read on.
    Go(Ingress),
    /// It waits, and all behind it.
    Park,
    /// The connection is of no use any more.
    Close,
}

impl Verdict {
    pub(super) const DROP: Self = Self::Go(Ingress::Drop);
}

impl Relay {
    /// Decides about a head. `repeats`: its paths are those of the request before. `at_hand`: bytes of its body and
    /// end-line, and of what follows, that are there already.
    pub(super) fn on_head(
        &mut self,
        conn: ConnId,
        head: &Head<'_>,
        repeats: bool,
        at_hand: usize,
        now: Instant,
    ) -> Verdict {
        if !repeats
            && !head.kind.is_response()
            && let Some(connection) = self.net.get_mut(conn)
        {
            // What repeats these paths is not for whoever the request before was for.
            connection.route = None;
        }
        match head.kind {
            Kind::Response(code) => {
                if head.fault.is_none() {
                    self.on_response(conn, head.transaction_id, code, now);
                }
                Verdict::DROP
            }
            Kind::Send => self.on_send(conn, head, repeats, at_hand, now),
            Kind::Report => {
                if head.fault.is_none() {
                    self.on_report(conn, head, repeats);
                }
                Verdict::DROP
            }
            Kind::Auth | Kind::Nickname | Kind::Unknown => match head.fault {
                Some(fault) => self.refuse_fault(conn, head, fault),
                None => self.refuse(head, status::UNKNOWN_METHOD),
            },
        }
    }

    fn on_send(&mut self, conn: ConnId, head: &Head<'_>, repeats: bool, at_hand: usize, now: Instant) -> Verdict {
        if let Some(fault) = head.fault {
            return self.refuse_fault(conn, head, fault);
        }
        let leg = match self.route(conn, head, repeats) {
            Ok(leg) => leg,
            Err(code) => return self.refuse(head, code),
        };
        let Some(session) = self.sessions.get_mut(leg.id) else { return self.refuse(head, status::NO_SESSION) };
        match session.legs[leg.side.index()].conn {
            Some(bound) if bound == conn => {}
            Some(_) if session.legs[leg.side.index()].may_move => {
                self.unjoin(leg, now);
                self.bind(conn, leg, now);
            }
            Some(_) => return self.refuse(head, status::WRONG_CONNECTION),
            None if session.is_lost || session.legs[leg.side.index()].is_gone => {
                return self.refuse(head, status::NO_SESSION);
            }
            // Several devices may have been offered the side: it is for the one whose answer was taken.
            None if leg.side == Side::Terminating && !session.legs[1].may_be_joined_by(head.from_path) => {
                return self.refuse(head, status::NO_SESSION);
            }
            None => self.bind(conn, leg, now),
        }
        if !repeats {
            self.learn_answer(leg, head);
            if let Some(connection) = self.net.get_mut(conn)
                && connection.pattern.as_ref().is_some_and(|pattern| pattern.paths() != head.paths)
            {
                connection.pattern = None;
            }
        }
        let Some(session) = self.sessions.get_mut(leg.id) else { return Verdict::DROP };
        if session.is_lost {
            return self.refuse(head, status::NO_SESSION);
        }
        session.active_at = now;
        let is_of_message = head.has_body || (leg.side == Side::Originating && session.continues(head));
        if !is_of_message {
            // RFC 4975 §5.4: it only joins the connection to its session, and is nobody else's business.
            return self.accept(head);
        }
        if leg.side == Side::Terminating {
            return self.refuse(head, status::FORBIDDEN);
        }
        match session.purpose {
            Purpose::Bridge { .. } => self.on_bridge_head(conn, leg.id, head, at_hand, now),
            Purpose::Spool => self.on_spool_head(leg.id, head, now),
            Purpose::Source => self.refuse(head, status::FORBIDDEN),
        }
    }

    /// The side that a request is for, by its To-Path.
    pub(super) fn route(&mut self, conn: ConnId, head: &Head<'_>, repeats: bool) -> Result<LegRef, u16> {
        let connection = self.net.get_mut(conn).ok_or(status::NO_SESSION)?;
        if repeats && let Some(route) = connection.route {
            debug_assert!(self.sessions.get(route.id).is_some(), "routes to ended sessions are forgotten");
            return Ok(route);
        }
        connection.route = None;
        let leg = self.find_leg(head).ok_or(status::NO_SESSION)?;
        // Remembered on the connection that the side is joined to alone: that one forgets it when the session ends.
        let joined = self.sessions.get(leg.id).and_then(|session| session.legs[leg.side.index()].conn);
        if joined == Some(conn)
            && let Some(connection) = self.net.get_mut(conn)
        {
            connection.route = Some(leg);
        }
        Ok(leg)
    }

    /// Own URI first, then the other side's whole path, or nothing (SPEC §4.2).
    fn find_leg(&self, head: &Head<'_>) -> Option<LegRef> {
        let first = uri::first(head.to_path);
        let (slot, side) = parse_session_id(uri::MsrpUri::parse(first)?.session_id)?;
        let (id, session) = self.sessions.at(slot)?;
        let (leg, other) = (&session.legs[side.index()], &session.legs[side.other().index()]);
        let rest = uri::rest(head.to_path);
        let is_ours = session.has(side) && uri::same_uri(first, leg.uri.as_bytes());
        (is_ours && (rest.is_empty() || uri::same_path(rest, &other.peer_path))).then_some(LegRef { id, side })
    }

    /// Responses go to the first URI of the From-Path that requests really have.
    fn learn_answer(&mut self, leg: LegRef, head: &Head<'_>) {
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let leg = &mut session.legs[leg.side.index()];
        let answer = answer_paths(leg.uri.as_bytes(), uri::first(head.from_path));
        leg.set_answer(&answer);
    }

    /// An answer of our own at the chunk's end.
    fn answer(&mut self, head: &Head<'_>, code: u16) -> Ingress {
        if head.from_path.is_empty() {
            return Ingress::Drop;
        }
        let mut bytes = Vec::with_capacity(128);
        let paths = answer_paths(uri::first(head.to_path), uri::first(head.from_path));
        write::response(&mut bytes, head.transaction_id, code, &paths);
        Ingress::Answer(bytes.into_boxed_slice())
    }

    /// Takes a chunk without passing it on.
    fn accept(&mut self, head: &Head<'_>) -> Verdict {
        match head.failure_report {
            FailureReport::Yes => Verdict::Go(self.answer(head, status::OK)),
            FailureReport::Partial | FailureReport::No => Verdict::DROP,
        }
    }

    /// Refuses a request, at its end.
    pub(super) fn refuse(&mut self, head: &Head<'_>, code: u16) -> Verdict {
        self.net.counts.refused += 1;
        match head.failure_report {
            FailureReport::Yes | FailureReport::Partial => Verdict::Go(self.answer(head, code)),
            FailureReport::No => Verdict::DROP,
        }
    }

    fn refuse_fault(&mut self, conn: ConnId, head: &Head<'_>, fault: HeadFault) -> Verdict {
        let verdict = self.refuse(head, status::BAD_REQUEST);
        if !fault.closes() {
            return verdict;
        }
        if let Verdict::Go(Ingress::Answer(bytes)) = verdict {
            self.net.say(conn, [&bytes]);
        }
        Verdict::Close
    }

    /// Takes part of a body.
    #[inline]
    pub(super) fn on_body(&mut self, conn: ConnId, body: &[u8], input: &mut Input<'_>, now: Instant) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        match connection.ingress {
            Ingress::Forward(id) => self.on_bridge_body(conn, id, body, input, now),
            Ingress::Spool(id) => self.on_spool_body(id, body, input, now),
            Ingress::Drop | Ingress::Answer(_) => {}
        }
    }

    /// Takes an end-line.
    #[inline]
    pub(super) fn on_end(&mut self, conn: ConnId, flag: super::head::Flag, keeps_range: bool, now: Instant) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        match std::mem::take(&mut connection.ingress) {
            Ingress::Forward(id) => self.on_bridge_end(conn, id, flag, keeps_range, now),
            Ingress::Spool(id) => self.on_spool_end(id, flag, keeps_range, now),
            Ingress::Answer(bytes) => {
                connection.ingress = Ingress::Drop;
                self.net.counts.own_responses += 1;
                self.net.say(conn, [&bytes]);
            }
            Ingress::Drop => {}
        }
    }
}

/// Whether a chunk that begins a message, or goes on with one, may pass: the status that refuses it.
pub(super) fn check_message(session: &Session, head: &Head<'_>) -> Result<(), u16> {
    let message_id = head.message_id.unwrap_or_default();
    let is_new = !session.continues(head);
    if is_new
        && let Some(stopped) = &session.passage.stopped
        && *stopped.0 == *message_id
    {
        return Err(stopped.1);
    }
    if is_new && head.has_body && !accepts(&session.legs[0].accept_types, head.content_type) {
        return Err(status::UNSUPPORTED_MEDIA_TYPE);
    }
    let range = head.byte_range;
    let size = range.total.unwrap_or(0).max(range.end.unwrap_or(0)).max(range.start - 1);
    if size > session.size_max { Err(status::STOP_SENDING) } else { Ok(()) }
}

impl Session {
    /// The message under way goes no further; its sender is told so whenever it goes on with it.
    pub(super) fn stop_message(
        &mut self,
        message_id: &[u8],
        code: u16,
        events: &mut std::collections::VecDeque<Event>,
    ) {
        self.passage.stopped = Some(Box::new((message_id.into(), code)));
        if self.passage.stage == Stage::Underway && self.passage.message_id == message_id {
            self.passage.stage = Stage::Idle;
            self.abort_record(events);
        }
    }

    /// What was recorded of the message under way is void.
    pub(super) fn abort_record(&mut self, events: &mut std::collections::VecDeque<Event>) {
        if std::mem::take(&mut self.passage.is_recorded) | std::mem::take(&mut self.passage.is_completing) {
            events.push_back(Event::Aborted { id: self.id });
        }
    }
}
