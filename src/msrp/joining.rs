//! Connections come to sessions: opened here or accepted, then joined by the first request that names the session.

use super::bridge::close_chunk;
use super::connection::{Connection, LegRef, Origin, TicketParts};
use super::effect::{ConnectTicket, MediaEffect};
use super::head::Flag;
use super::news::{Event, Role, SessionId, Side, Why};
use super::relay::Relay;
use super::status;
use super::timers::Timed;
use crate::base::id::ConnId;
use crate::base::slots::SlotId;
use crate::base::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Where a connection to an address is, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Open.
    Open(ConnId),
    /// Being opened.
    Attempt(SlotId),
}

/// A connection being opened.
#[derive(Debug)]
pub(super) struct Attempt {
    addrs: Box<[SocketAddr]>,
    listener: u8,
    /// Which address is tried.
    index: usize,
    try_count: u16,
    /// The shard is at work on it.
    is_asked: bool,
    begun: Instant,
    /// When the try, or the pause before the next, is over.
    until: Instant,
    /// Who waits for it.
    pub legs: Vec<LegRef>,
}

impl Relay {
    /// Opens, or finds, the connection of a side on which this appliance is active.
    pub(super) fn reach_out(&mut self, id: SessionId, side: Side, now: Instant) {
        let Some(session) = self.sessions.get(id) else { return };
        let leg = &session.legs[side.index()];
        let is_wanted = session.has(side) && leg.role == Role::Active && leg.conn.is_none() && leg.attempt.is_none();
        if !is_wanted || leg.is_gone {
            return;
        }
        let (addrs, listener, joiner) = (leg.connect_to.clone(), leg.listener, LegRef { id, side });
        let Some(first) = addrs.first().copied() else { return self.lose(id, side, Why::Connect, now) };
        for addr in &addrs {
            match self.reach.get(&(*addr, listener)).copied() {
                Some(Reach::Open(conn)) => return self.join(conn, joiner, now),
                Some(Reach::Attempt(attempt)) => {
                    if let Some(attempt) = self.attempts.get_mut(attempt) {
                        attempt.legs.push(joiner);
                    }
                    return self.note_attempt(joiner, Some(attempt));
                }
                None => {}
            }
        }
        let attempt = Attempt {
            addrs,
            listener,
            index: 0,
            try_count: 0,
            is_asked: false,
            begun: now,
            until: now,
            legs: vec![joiner],
        };
        let Some(attempt) = self.attempts.insert(attempt) else { return self.lose(id, side, Why::Connect, now) };
        self.reach.insert((first, listener), Reach::Attempt(attempt));
        self.note_attempt(joiner, Some(attempt));
        self.try_connect(attempt, now);
    }

    fn note_attempt(&mut self, leg: LegRef, attempt: Option<SlotId>) {
        if let Some(session) = self.sessions.get_mut(leg.id) {
            session.legs[leg.side.index()].attempt = attempt;
        }
    }

    fn try_connect(&mut self, id: SlotId, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.is_asked = true;
        attempt.try_count += 1;
        let deadline = attempt.begun + CONNECT_TIMEOUT;
        let has_another = attempt.index + 1 < attempt.addrs.len();
        attempt.until = if has_another { deadline.min(now + CONNECT_HEAD_START) } else { deadline };
        let ticket = TicketParts { id, try_count: attempt.try_count }.pack();
        let to = attempt.addrs[attempt.index];
        self.net.effects.push_back(MediaEffect::Connect { ticket, to, listener: attempt.listener });
        self.wheel.insert(attempt.until, Timed::Attempt(id));
    }

    /// A connection that was asked for is open; false closes it. RFC 4975 §5.4.
    pub fn on_connected(&mut self, ticket: ConnectTicket, conn: ConnId, now: Instant) -> bool {
        let parts = TicketParts::unpack(ticket);
        let is_current =
            self.attempts.get(parts.id).is_some_and(|attempt| attempt.is_asked && attempt.try_count == parts.try_count);
        if !is_current {
            return false;
        }
        let Some(attempt) = self.take_attempt(parts.id) else { return false };
        let (to, listener) = (attempt.addrs[attempt.index], attempt.listener);
        if self.net.insert(conn, Origin::Connected { to, listener }, now).is_none() {
            for leg in attempt.legs {
                self.lose(leg.id, leg.side, Why::Connect, now);
            }
            self.settle(now);
            return false;
        }
        self.reach.insert((to, listener), Reach::Open(conn));
        for leg in attempt.legs {
            self.join(conn, leg, now);
        }
        self.settle(now);
        true
    }

    /// A connection that was asked for cannot be opened. RFC 4975 §5.4.
    pub fn on_connect_failed(&mut self, ticket: ConnectTicket, now: Instant) {
        let parts = TicketParts::unpack(ticket);
        if let Some(attempt) = self.attempts.get_mut(parts.id)
            && attempt.is_asked
            && attempt.try_count == parts.try_count
        {
            attempt.is_asked = false;
            self.next_try(parts.id, now);
        }
        self.settle(now);
    }

    /// The other address; after the last one a pause, for a peer that listens only when its answer is out.
    fn next_try(&mut self, id: SlotId, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if attempt.index + 1 < attempt.addrs.len() {
            attempt.index += 1;
            return self.try_connect(id, now);
        }
        if now < attempt.begun + RETRY_SPAN {
            attempt.index = 0;
            attempt.until = now + RETRY_PAUSE;
            self.wheel.insert(attempt.until, Timed::Attempt(id));
            return;
        }
        let Some(attempt) = self.take_attempt(id) else { return };
        for leg in attempt.legs {
            self.lose(leg.id, leg.side, Why::Connect, now);
        }
    }

    /// An attempt's time is over, or its pause.
    pub(super) fn on_attempt_timer(&mut self, id: SlotId, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| attempt.until <= now) else { return };
        if !attempt.is_asked {
            return self.try_connect(id, now);
        }
        let ticket = TicketParts { id, try_count: attempt.try_count }.pack();
        attempt.is_asked = false;
        self.net.effects.push_back(MediaEffect::Abandon(ticket));
        self.next_try(id, now);
    }

    /// Takes an attempt out of the tables.
    fn take_attempt(&mut self, id: SlotId) -> Option<Attempt> {
        let attempt = self.attempts.remove(id)?;
        let key = (*attempt.addrs.first()?, attempt.listener);
        if self.reach.get(&key) == Some(&Reach::Attempt(id)) {
            self.reach.remove(&key);
        }
        for leg in &attempt.legs {
            self.note_attempt(*leg, None);
        }
        Some(attempt)
    }

    /// A side does not wait for its connection any more.
    pub(super) fn leave_attempt(&mut self, leg: LegRef) {
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let Some(id) = session.legs[leg.side.index()].attempt.take() else { return };
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.legs.retain(|waiting| *waiting != leg);
        if !attempt.legs.is_empty() {
            return;
        }
        let ticket = TicketParts { id, try_count: attempt.try_count }.pack();
        let is_asked = attempt.is_asked;
        self.take_attempt(id);
        if is_asked {
            self.net.effects.push_back(MediaEffect::Abandon(ticket));
        }
    }

    /// Joins a side to a connection opened here: the first request on it has no body, for peers that accept no other.
    fn join(&mut self, conn: ConnId, leg: LegRef, now: Instant) {
        let is_open = self.net.get(conn).is_some_and(|connection| connection.open.is_some());
        let random = self.rng.next_u64();
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let own = &mut session.legs[leg.side.index()];
        own.next_head();
        own.binding = Some(own.sequence);
        self.bind(conn, leg, now);
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let own = &mut session.legs[leg.side.index()];
        let tid = own.tid();
        let fields = format!("Message-ID: {random:016x}\r\nByte-Range: 1-0/0\r\n");
        let parts: [&[u8]; 7] = [b"MSRP ", &tid, b" SEND\r\n", own.path_lines(), fields.as_bytes(), b"-------", &tid];
        if is_open {
            self.scratch.clear();
            parts.iter().for_each(|part| self.scratch.extend_from_slice(part));
            self.scratch.extend_from_slice(b"$\r\n");
            self.net.say(conn, [&self.scratch]);
        } else {
            self.net.write(conn, [parts[0], parts[1], parts[2], parts[3], parts[4]]);
            close_chunk(&mut self.net, conn, &tid, false, Flag::End);
        }
    }

    /// Joins a side to a connection.
    pub(super) fn bind(&mut self, conn: ConnId, leg: LegRef, now: Instant) {
        self.leave_attempt(leg);
        let (Some(session), Some(connection)) = (self.sessions.get_mut(leg.id), self.net.get_mut(conn)) else { return };
        debug_assert!(session.legs[leg.side.index()].conn.is_none(), "one connection for a side");
        session.legs[leg.side.index()].conn = Some(conn);
        session.active_at = now;
        connection.legs.push(leg);
        self.events.push_back(Event::Bound { id: leg.id, side: leg.side });
        self.arm(leg.id);
        self.wake(leg.id);
    }

    /// The response to our own binding SEND.
    pub(super) fn on_bound_answer(&mut self, id: SessionId, side: Side, code: u16, now: Instant) {
        if !status::is_success(code) {
            return self.lose(id, side, Why::Bind, now);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.legs[side.index()].binding = None;
        self.arm(id);
        self.wake(id);
    }

    /// A peer connected; false closes the connection. RFC 4975 §5.4.
    pub fn on_accepted(&mut self, conn: ConnId, _peer: SocketAddr, _listener: u8, now: Instant) -> bool {
        let Some(connection) = self.net.insert(conn, Origin::Accepted, now) else { return false };
        connection.armed = Some(now + UNBOUND_TIMEOUT);
        self.wheel.insert(now + UNBOUND_TIMEOUT, Timed::Connection(conn));
        self.settle(now);
        true
    }

    /// A connection without sessions has waited long enough.
    pub(super) fn on_connection_timer(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        if connection.armed.is_none_or(|armed| armed > now) {
            return;
        }
        connection.armed = None;
        if connection.is_closing {
            return self.net.remove(conn);
        }
        if !connection.legs.is_empty() {
            return;
        }
        let until = connection.unused_since + connection.patience();
        if until <= now {
            return self.drop_connection(conn);
        }
        connection.armed = Some(until);
        self.wheel.insert(until, Timed::Connection(conn));
    }

    /// A connection lost its last session.
    pub(super) fn on_unused(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        connection.unused_since = now;
        match connection.origin {
            Origin::Accepted => self.drop_connection(conn),
            Origin::Connected { .. } => {
                let until = now + connection.patience();
                if connection.armed.is_none_or(|armed| armed > until) {
                    connection.armed = Some(until);
                    self.wheel.insert(until, Timed::Connection(conn));
                }
            }
        }
    }

    /// Closes a connection that has no sessions.
    pub(super) fn drop_connection(&mut self, conn: ConnId) {
        self.forget_reach(conn);
        self.net.close(conn);
    }

    /// No further session finds the connection.
    pub(super) fn forget_reach(&mut self, conn: ConnId) {
        if let Some(Origin::Connected { to, listener }) = self.net.get(conn).map(|connection| connection.origin)
            && self.reach.get(&(to, listener)) == Some(&Reach::Open(conn))
        {
            self.reach.remove(&(to, listener));
        }
    }
}

impl Connection {
    /// How long it may be without sessions.
    const fn patience(&self) -> Duration {
        match self.origin {
            Origin::Accepted => UNBOUND_TIMEOUT,
            Origin::Connected { .. } => UNUSED_TIMEOUT,
        }
    }
}

/// For all tries together (SPEC §4.6).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the first address has before the second is tried.
const CONNECT_HEAD_START: Duration = Duration::from_secs(3);
/// How long a refused connection is tried again.
const RETRY_SPAN: Duration = Duration::from_secs(2);
/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// From a connection's opening to the first request that names a session (SPEC §4.5).
const UNBOUND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection of ours waits for its next session (SPEC §4.5).
const UNUSED_TIMEOUT: Duration = Duration::from_secs(60);
