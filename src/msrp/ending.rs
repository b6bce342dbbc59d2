//! Sessions and connections end: what is open is closed with `#`, who waits is told, nothing is left behind.

use super::bridge::tell;
use super::connection::{Ingress, LegRef};
use super::head::FailureReport;
use super::local::Local;
use super::news::{Event, Purpose, SessionId, Side, Why};
use super::relay::Relay;
use super::session::Stage;
use super::status;
use crate::base::id::ConnId;
use crate::base::time::Instant;

impl Relay {
    /// SIP says it is over. RFC 4975 §5.4.
    pub fn end(&mut self, id: SessionId, now: Instant) {
        if self.sessions.get(id).is_none() {
            return;
        }
        self.wind_up(id, status::NO_SESSION, now);
        for side in Side::BOTH {
            let leg = LegRef { id, side };
            self.leave_attempt(leg);
            self.leave(leg, now);
        }
        self.sessions.remove(id);
        self.settle(now);
    }

    /// A session cannot go on; SIP will end it.
    pub(super) fn lose(&mut self, id: SessionId, side: Side, why: Why, now: Instant) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.is_lost) else { return };
        debug_assert!(session.has(side), "only a side that exists is lost");
        session.is_lost = true;
        self.wind_up(id, status::TIMEOUT, now);
        for side in Side::BOTH {
            self.leave_attempt(LegRef { id, side });
        }
        self.events.push_back(Event::Lost { id, side, why });
        self.wake(id);
    }

    /// Closes what is open towards the receiver and answers what the sender waits for.
    fn wind_up(&mut self, id: SessionId, code: u16, now: Instant) {
        self.abort_chunk(id, now);
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.abort_record(&mut self.events);
        let pending = std::mem::take(&mut session.pending);
        let was_underway = std::mem::take(&mut session.passage.stage) == Stage::Underway;
        let is_unfinished = was_underway || pending.iter().any(|entry| entry.is_last && !entry.is_done);
        if is_unfinished && matches!(session.purpose, Purpose::Bridge { .. }) {
            self.net.counts.aborted += 1;
        }
        for entry in pending {
            if entry.is_done {
                continue;
            }
            if !entry.is_told {
                if entry.report != FailureReport::No {
                    tell(&mut self.net, &session.legs[0], entry.tid(), code);
                    self.net.counts.own_responses += 1;
                }
            } else if let Some(note) = &entry.note
                && status::is_success(entry.status)
            {
                self.net.counts.reports += 1;
                super::report::write(&mut self.net, &mut session.legs[0], note, code, &mut self.scratch);
            }
        }
        if let Local::Spool(spool) = &mut session.local {
            let is_void = spool.abandon();
            if let (true, Some(conn)) = (spool.take_restraint(), session.legs[0].conn) {
                self.net.restrain(conn, false);
            }
            if is_void {
                self.events.push_back(Event::Aborted { id });
            }
        }
        // What is left of the sender's chunk is read and dropped.
        if let Some(connection) = session.legs[0].conn.and_then(|conn| self.net.get_mut(conn))
            && matches!(connection.ingress, Ingress::Forward(of) | Ingress::Spool(of) if of == id)
        {
            connection.ingress = Ingress::Drop;
        }
    }

    /// Takes a side off its connection.
    fn leave(&mut self, leg: LegRef, now: Instant) {
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let Some(conn) = session.legs[leg.side.index()].conn.take() else { return };
        session.legs[leg.side.index()].is_gone = true;
        let Some(connection) = self.net.get_mut(conn) else { return };
        connection.legs.retain(|joined| *joined != leg);
        if connection.route.is_some_and(|route| route.id == leg.id) {
            connection.route = None;
        }
        if connection.is_held() {
            self.net.releases.push(conn);
        }
        let Some(connection) = self.net.get_mut(conn) else { return };
        if connection.legs.is_empty() {
            self.on_unused(conn, now);
        }
    }

    /// A side's peer has moved to another endpoint: its connection is left, what it was in the midst of is ended, and
    /// another one is awaited.
    pub(super) fn unjoin(&mut self, leg: LegRef, now: Instant) {
        self.wind_up(leg.id, status::TIMEOUT, now);
        self.leave_attempt(leg);
        self.leave(leg, now);
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        // Both connections have as long as at the beginning.
        session.begun = now;
        let own = &mut session.legs[leg.side.index()];
        (own.is_gone, own.may_move, own.binding) = (false, false, None);
    }

    /// A connection ended. RFC 4975 §5.4.
    pub fn on_closed(&mut self, conn: ConnId, now: Instant) {
        self.forget_connection(conn, now, Why::Closed);
        self.settle(now);
    }

    /// A connection whose stream cannot be read any more is closed from here.
    pub(super) fn give_up_connection(&mut self, conn: ConnId, now: Instant) {
        self.forget_reach(conn);
        let legs = self.net.get(conn).map(|connection| connection.legs.clone()).unwrap_or_default();
        for leg in &legs {
            self.lose(leg.id, leg.side, Why::Protocol, now);
            self.leave_quietly(*leg);
        }
        self.net.close(conn);
    }

    fn forget_connection(&mut self, conn: ConnId, now: Instant, why: Why) {
        self.forget_reach(conn);
        let legs = self.net.get(conn).map(|connection| connection.legs.clone()).unwrap_or_default();
        for leg in &legs {
            self.leave_quietly(*leg);
        }
        self.net.remove(conn);
        for leg in &legs {
            self.lose(leg.id, leg.side, why, now);
        }
    }

    /// Takes a side off a connection that is going itself.
    fn leave_quietly(&mut self, leg: LegRef) {
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let own = &mut session.legs[leg.side.index()];
        own.is_gone = true;
        own.binding = None;
        let Some(conn) = own.conn.take() else { return };
        if let Some(connection) = self.net.get_mut(conn) {
            connection.legs.retain(|joined| *joined != leg);
            if connection.open == Some(leg.id) && leg.side == Side::Terminating {
                connection.open = None;
            }
            if connection.route.is_some_and(|route| route.id == leg.id) {
                connection.route = None;
            }
        }
    }
}
