//! Waiting: one entry of the wheel for each session and connection, moved only when it comes up.

use super::head::FailureReport;
use super::local::Local;
use super::news::{SessionId, Side, Why};
use super::relay::Relay;
use super::session::{BIND_TIMEOUT, FINISHED_IDLE, RESPONSE_TIMEOUT, Stage, UNUSED_IDLE};
use crate::base::id::ConnId;
use crate::base::slots::SlotId;
use crate::base::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// What the wheel comes up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    Session(SessionId),
    Connection(ConnId),
    Attempt(SlotId),
}

/// The shortest time between two looks at one session.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Relay {
    /// The next deadline. RFC 4975 §7.1.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// Does what is due. RFC 4975 §7.1.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timed) = self.wheel.pop_due(now) {
            match timed {
                Timed::Session(id) => self.on_session_timer(id, now),
                Timed::Connection(conn) => self.on_connection_timer(conn, now),
                Timed::Attempt(id) => self.on_attempt_timer(id, now),
            }
        }
        self.settle(now);
    }

    /// Has a session looked at when its next deadline comes.
    pub(super) fn arm(&mut self, id: SessionId) {
        if let Some(deadline) = self.sessions.get(id).and_then(|session| session.deadline()) {
            self.arm_by(id, deadline);
        }
    }

    /// Has a session looked at by then.
    #[inline]
    pub(super) fn arm_by(&mut self, id: SessionId, deadline: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.armed.is_none_or(|armed| armed > deadline) {
            session.armed = Some(deadline);
            self.wheel.insert(deadline, Timed::Session(id));
        }
    }

    /// Has a session looked at again, later than now whatever its deadline: a timer that fires moves on.
    fn arm_again(&mut self, id: SessionId, now: Instant) {
        if let Some(deadline) = self.sessions.get(id).and_then(|session| session.deadline()) {
            self.arm_by(id, deadline.max(now + LOOK_AGAIN));
        }
    }

    fn on_session_timer(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.armed.is_none_or(|armed| armed > now) {
            return; // An earlier look was asked for later, and this one is void.
        }
        session.armed = None;
        if session.is_lost || !session.is_started {
            return;
        }
        let unready = Side::BOTH.into_iter().find(|side| session.has(*side) && !session.legs[side.index()].is_ready());
        if let Some(side) = unready {
            if session.begun + BIND_TIMEOUT <= now {
                return self.lose(id, side, Why::Bind, now);
            }
            return self.arm_again(id, now);
        }
        if self.expire_pending(id, now) {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let patience = if session.is_finished { FINISHED_IDLE } else { UNUSED_IDLE };
        if session.active_at + patience <= now {
            let awaits_response = session.pending.front().is_some_and(|front| front.is_closed);
            let far = session.legs[1].conn.and_then(|conn| self.net.get(conn));
            if !awaits_response && far.is_none_or(|connection| connection.egress.is_empty()) {
                let side = if session.has(Side::Originating) { Side::Originating } else { Side::Terminating };
                return self.lose(id, side, Why::Idle, now);
            }
            // Not idle: its receiver is slow, and its sender may not be read from for that reason.
            session.active_at = now;
        }
        if session.pending.is_empty() {
            // An idle session keeps no memory for what may not come again.
            session.pending = VecDeque::new();
            if session.passage.stage == Stage::Idle {
                session.passage.message_id = Vec::new();
                session.passage.stopped = None;
            }
            for conn in session.legs.iter().filter_map(|leg| leg.conn) {
                if let Some(connection) = self.net.get_mut(conn) {
                    connection.rest();
                }
            }
        }
        self.arm_again(id, now);
        debug_assert!(self.sessions.get(id).is_none_or(|session| session.armed.is_none_or(|armed| armed > now)));
    }

    /// Gives up on responses that did not come in time. True when the session is lost with them.
    fn expire_pending(&mut self, id: SessionId, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return true };
        let sent =
            session.legs[1].conn.and_then(|conn| self.net.get(conn)).map_or(0, |found| found.egress.sent_position());
        if let Local::Source(source) = &mut session.local {
            if !source.expire(sent, now) {
                return false;
            }
            self.net.counts.timeouts += 1;
            self.on_source_silence(id);
            self.lose(id, Side::Terminating, Why::Silence, now);
            return true;
        }
        while let Some(front) = session.pending.front_mut() {
            if front.is_done {
                session.pending.pop_front();
                continue;
            }
            if !front.is_closed || front.stamp + RESPONSE_TIMEOUT > now {
                return false;
            }
            if front.position > sent {
                // It has not left yet: the receiver is slow, not silent.
                front.stamp = now;
                return false;
            }
            if front.report == FailureReport::Partial {
                session.pending.pop_front();
                continue;
            }
            self.net.counts.timeouts += 1;
            self.lose(id, Side::Terminating, Why::Silence, now);
            return true;
        }
        false
    }
}
