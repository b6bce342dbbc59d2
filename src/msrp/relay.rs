//! A shard's MSRP sessions and connections: the door of the room. RFC 4975, RFC 4976, RFC 6135.
//!
//! Each concern has its own file and its own part of [`Relay`]: `ingress` decides about heads,
//! `bridge` passes chunks on and responses back, `report` passes reports, `local` takes and
//! sends messages itself, `joining` connects and binds, `ending` gives up, `timers` waits.

use super::connection::{Connection, Held, Ingress, LegRef, Net};
use super::effect::MediaEffect;
use super::framer::{Event as Framed, Framer, place_in};
use super::head::{Flag, Head};
use super::ingress::Verdict;
use super::joining::{Attempt, Reach};
use super::news::{Counts, Event, LegPlan, Levels, OpenPlan, Role, SessionId, Side};
use super::session::Session;
use super::settings::RelaySettings;
use super::timers::Timed;
use super::{uri, write};
use crate::base::id::ConnId;
use crate::base::limits::{MSRP_EGRESS_HIGH, MSRP_SESSION_COUNT_MAX};
use crate::base::rng::Rng;
use crate::base::slots::Slots;
use crate::base::time::Instant;
use crate::base::timer_wheel::TimerWheel;
use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The relay of one shard.
pub struct Relay {
    pub(super) settings: RelaySettings,
    pub(super) rng: Rng,
    pub(super) sessions: Slots<Session>,
    pub(super) net: Net,
    pub(super) attempts: Slots<Attempt>,
    /// Connections opened here, and being opened, by where they lead.
    pub(super) reach: HashMap<(SocketAddr, u8), Reach, RandomState>,
    pub(super) wheel: TimerWheel<Timed>,
    pub(super) events: VecDeque<Event>,
    /// Where texts are put together.
    pub(super) scratch: Vec<u8>,
    /// What repeats is taken apart like all else.
    #[cfg(test)]
    pub(super) takes_no_shortcut: bool,
    /// Chunks and responses that were only compared.
    #[cfg(test)]
    pub(super) shortcut_count: u64,
}

/// Received bytes, and the way to keep them.
pub(super) struct Input<'a> {
    pub bytes: &'a [u8],
    share: &'a mut dyn FnMut() -> Bytes,
    whole: Option<Bytes>,
}

impl Input<'_> {
    /// Part of the input as bytes that outlive the call: shared when that is cheaper than a copy.
    pub(super) fn keep(&mut self, part: &[u8]) -> Bytes {
        match self.slice(part) {
            Some(bytes) => bytes,
            None => Bytes::copy_from_slice(part),
        }
    }

    /// Part of the input, shared; `None` when a copy is cheaper, or it is no part.
    pub(super) fn slice(&mut self, part: &[u8]) -> Option<Bytes> {
        if part.len() < SHARE_LEN_MIN {
            return None;
        }
        let place = place_in(self.bytes, part)?;
        let whole = self.whole.get_or_insert_with(|| (self.share)());
        debug_assert_eq!(whole.len(), self.bytes.len(), "the whole input is shared");
        (place.end <= whole.len()).then(|| whole.slice(place))
    }
}

impl Relay {
    /// An empty relay. RFC 4975 §5.1.
    pub fn new(settings: RelaySettings, rng: Rng, now: Instant) -> Self {
        Self {
            settings,
            rng,
            sessions: Slots::new(MSRP_SESSION_COUNT_MAX),
            net: Net::default(),
            attempts: Slots::new(MSRP_SESSION_COUNT_MAX * 2),
            reach: HashMap::with_hasher(RandomState::default()),
            wheel: TimerWheel::new(now),
            events: VecDeque::new(),
            scratch: Vec::new(),
            #[cfg(test)]
            takes_no_shortcut: false,
            #[cfg(test)]
            shortcut_count: 0,
        }
    }

    /// Makes a session with its own URIs; `None` when there is no room. RFC 4975 §6.
    pub fn open(&mut self, plan: OpenPlan, now: Instant) -> Option<SessionId> {
        let id = self.sessions.insert(Session::new(&plan, now))?;
        let listeners = &self.settings.listeners;
        let session = self.sessions.get_mut(id)?;
        let uri = |listener: u8, session_id: &str| match listeners.get(usize::from(listener)) {
            Some(addr) => format!("msrp://{addr}/{session_id};tcp").into_boxed_str(),
            None => Box::default(),
        };
        session.name(id, uri, &mut self.rng);
        self.settle(now);
        Some(id)
    }

    /// Our own URI on a side; empty for a session that is gone. RFC 4975 §6.
    pub fn uri(&self, id: SessionId, side: Side) -> &str {
        self.sessions.get(id).map_or("", |session| &session.legs[side.index()].uri)
    }

    /// Takes what a side's SDP said, the first time and after a re-INVITE. RFC 4975 §8.
    pub fn negotiate(&mut self, id: SessionId, side: Side, leg: LegPlan<'_>, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let own = &mut session.legs[side.index()];
        // Of several devices that were offered the side one joined, and the answer of another was taken.
        let is_another = side == Side::Terminating
            && own.conn.is_some()
            && own.peer_path.is_empty()
            && !uri::same_uri(own.answered_uri(), uri::first(leg.peer_path.trim_ascii()));
        let has_moved = session.is_started
            && !own.peer_path.is_empty()
            && !uri::same_path(&own.peer_path, leg.peer_path.trim_ascii());
        // A peer that connects comes when it likes, over another connection or the one that it has.
        own.may_move |= has_moved && leg.role == Role::Passive;
        // Where we connect, only another address needs another connection.
        let is_elsewhere = leg.role == Role::Active && leg.connect_to.iter().take(2).ne(own.connect_to.iter());
        if is_another || (has_moved && is_elsewhere) {
            self.unjoin(LegRef { id, side }, now);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.negotiate(side, &leg, self.settings.path_mode);
        // What was checked against the paths before has to be checked again.
        for conn in session.legs.iter().filter_map(|leg| leg.conn) {
            if let Some(connection) = self.net.get_mut(conn) {
                connection.route = None;
            }
        }
        if self.sessions.get(id).is_some_and(|session| session.is_started) {
            // A peer that has moved, or that leaves it to us to connect.
            self.reach_out(id, side, now);
            self.arm(id);
        }
        self.settle(now);
    }

    /// The originating side has its answer: connections are opened, chunks may pass. RFC 4975 §5.4.
    pub fn start(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.is_started && !session.is_lost) else {
            return;
        };
        session.is_started = true;
        (session.begun, session.active_at) = (now, now);
        for side in Side::BOTH {
            self.reach_out(id, side, now);
        }
        self.arm(id);
        self.wake(id);
        self.settle(now);
    }

    /// Lowers the largest message. RFC 4975 §8.6.
    pub fn limit(&mut self, id: SessionId, size_max: u64) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.size_max = session.size_max.min(size_max);
        }
    }

    /// Takes received bytes; `share` makes the whole buffer outlive the call. RFC 4975 §7.3.
    pub fn on_bytes(&mut self, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes, now: Instant) {
        let mut input = Input { bytes, share, whole: None };
        let Some(connection) = self.net.get_mut(conn).filter(|connection| !connection.is_closing) else { return };
        if let Some(held) = connection.extra.as_mut().and_then(|extra| extra.held.as_mut()) {
            held.len += bytes.len();
            let is_too_much = held.len > HELD_LEN_MAX;
            held.input.push_back(input.keep(bytes));
            if is_too_much {
                // Reading was stopped long ago: more than what was on its way then cannot come.
                self.give_up_connection(conn, now);
            }
        } else {
            self.feed(conn, &mut input, now);
        }
        self.settle(now);
    }

    /// Takes input apart and deals with it, until it ends or has to wait.
    pub(super) fn feed(&mut self, conn: ConnId, input: &mut Input<'_>, now: Instant) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        let Some(mut framer) = connection.framer.take() else { return };
        let mut rest = input.bytes;
        loop {
            if framer.is_idle() {
                rest = &rest[self.pass_repeats(conn, rest, now)..];
                if rest.is_empty() {
                    break;
                }
            }
            match framer.next(&mut rest) {
                Framed::Head(head) => {
                    // A head that came in pieces was read twice, and so repeats itself.
                    let repeats = head.paths_repeat && place_in(input.bytes, head.paths).is_some();
                    match self.on_head(conn, &head, repeats, rest.len(), now) {
                        Verdict::Go(ingress) => {
                            let Some(connection) = self.net.get_mut(conn) else { return };
                            connection.ingress = ingress;
                        }
                        Verdict::Park => {
                            let head = whole_head(&head);
                            let Some(connection) = self.net.get_mut(conn) else { return };
                            connection.framer = Some(framer);
                            let rest = (!rest.is_empty()).then(|| input.keep(rest));
                            return self.hold(conn, head, rest);
                        }
                        Verdict::Close => return self.give_up_connection(conn, now),
                    }
                }
                Framed::Body(body) => self.on_body(conn, body, input, now),
                Framed::End(flag) => self.on_end(conn, flag, framer.keeps_range(), now),
                Framed::Incomplete => break,
                Framed::Fault(_) => {
                    self.net.counts.unframed += 1;
                    return self.give_up_connection(conn, now);
                }
            }
        }
        let Some(connection) = self.net.get_mut(conn) else { return };
        connection.framer = Some(framer);
        // Answers to those who do not read them: nothing more is taken from them until they do.
        if Net::is_high(connection) {
            self.net.throttle(conn, conn);
        }
    }

    /// Keeps input until its session can go on.
    fn hold(&mut self, conn: ConnId, head: Vec<u8>, rest: Option<Bytes>) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        let held =
            connection.extra().held.get_or_insert_with(|| Held { head: Vec::new(), input: VecDeque::new(), len: 0 });
        debug_assert!(held.head.is_empty(), "one head waits at a time");
        held.head = head;
        held.len += rest.as_ref().map_or(0, Bytes::len);
        if let Some(rest) = rest {
            held.input.push_front(rest);
        }
        self.net.settle_reading(conn);
    }

    /// Takes held input up again.
    fn release(&mut self, conn: ConnId, now: Instant) {
        self.pump_connection(conn, now);
        let Some(mut held) = self.net.get_mut(conn).and_then(|connection| connection.extra.as_mut()?.held.take())
        else {
            return;
        };
        let head = std::mem::take(&mut held.head);
        let at_hand = held.input.front().map_or(0, Bytes::len);
        let mut framer = Framer::new();
        let mut text = head.as_slice();
        let verdict = match framer.next(&mut text) {
            Framed::Head(head) => self.on_head(conn, &head, false, at_hand, now),
            _ => Verdict::Go(Ingress::Drop),
        };
        match verdict {
            Verdict::Go(ingress) => match self.net.get_mut(conn) {
                Some(connection) => connection.ingress = ingress,
                None => return,
            },
            Verdict::Park => {
                held.head = head;
                if let Some(connection) = self.net.get_mut(conn) {
                    connection.extra().held = Some(held);
                }
                return;
            }
            Verdict::Close => return self.give_up_connection(conn, now),
        }
        // Without more input there still can be the end-line of a chunk without a body.
        let mut next = Some(Bytes::new());
        while let Some(bytes) = next {
            held.len -= bytes.len();
            let mut share = || bytes.clone();
            let mut input = Input { bytes: &bytes, share: &mut share, whole: None };
            self.feed(conn, &mut input, now);
            let Some(connection) = self.net.get_mut(conn) else { return };
            if let Some(again) = connection.extra.as_mut().and_then(|extra| extra.held.as_mut()) {
                again.len += held.len;
                again.input.append(&mut held.input);
                return;
            }
            next = held.input.pop_front();
        }
        if let Some(connection) = self.net.get_mut(conn) {
            connection.tidy();
        }
        self.net.settle_reading(conn);
    }

    /// Lets input go on that waited for a session.
    pub(super) fn wake(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        self.net.releases.extend(session.legs.iter().filter_map(|leg| leg.conn));
    }

    /// The end of every call: what can go on now does.
    pub(super) fn settle(&mut self, now: Instant) {
        // Whoever was told to close has taken what there was to take.
        while let Some(conn) = self.net.closing.pop() {
            self.net.remove(conn);
        }
        let mut round_count = 0;
        while let Some(conn) = self.net.releases.pop() {
            self.release(conn, now);
            round_count += 1;
            if round_count > RELEASE_ROUNDS_MAX {
                break; // The rest goes on with the next call; time-outs watch over it.
            }
        }
        if cfg!(debug_assertions) && self.sessions.len() + self.net.len() <= CHECKED_COUNT_MAX {
            self.check_invariants();
        }
    }

    /// Bytes have left. RFC 4975 §7.1.
    pub fn on_sent(&mut self, conn: ConnId, len: usize, now: Instant) {
        self.net.on_sent(conn, len);
        self.settle(now);
    }

    /// The next connection that has something to send. RFC 4975 §7.1.
    pub fn poll_dirty(&mut self) -> Option<ConnId> {
        loop {
            let conn = self.net.poll_dirty()?;
            self.flush_later(conn);
            let Some(connection) = self.net.get_mut(conn) else { continue };
            if connection.egress.waiting_len() > 0 {
                return Some(conn);
            }
        }
    }

    /// Takes what a connection sends next. RFC 4975 §7.1.
    pub fn take(&mut self, conn: ConnId, batch: &mut Vec<Bytes>) {
        let Some(connection) = self.net.get_mut(conn) else { return };
        connection.egress.take(BATCH_COUNT_MAX, batch);
        if connection.is_closing && connection.egress.waiting_len() == 0 {
            self.net.remove(conn);
        }
    }

    /// The next thing for the shard to do. RFC 4975 §5.4.
    pub fn poll_effect(&mut self) -> Option<MediaEffect> {
        let effect = self.net.effects.pop_front();
        if let Some(MediaEffect::Close(conn)) = effect {
            self.net.closing.push(conn);
        }
        effect
    }

    /// The next thing to tell. RFC 4975 §5.1.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How full the relay is. RFC 4975 §5.1.
    pub fn levels(&self) -> Levels {
        Levels {
            sessions: self.sessions.len(),
            connections: self.net.len(),
            egress_len: self.net.iter().map(|connection| connection.egress.len()).sum(),
        }
    }

    /// What happened since the last call. RFC 4975 §5.1.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.net.counts)
    }

    /// Panics when the tables contradict each other. RFC 4975 §5.1.
    pub fn check_invariants(&self) {
        for connection in self.net.iter() {
            for leg in &connection.legs {
                let session = self.sessions.get(leg.id).expect("a connection knows living sessions only");
                assert_eq!(session.legs[leg.side.index()].conn, Some(connection.id), "both know each other");
            }
            assert!(!connection.is_held() || connection.is_paused, "nothing is read behind held input");
            if let Some(open) = connection.open {
                let session = self.sessions.get(open).expect("an open chunk belongs to a living session");
                assert_eq!(session.legs[1].conn, Some(connection.id), "and to this connection");
            }
            assert_eq!(connection.route.filter(|route| self.sessions.get(route.id).is_none()), None, "routes live");
        }
        for session in self.sessions.iter() {
            for side in Side::BOTH {
                let leg = &session.legs[side.index()];
                let Some(conn) = leg.conn else { continue };
                let connection: &Connection = self.net.get(conn).expect("a side is joined to a living connection");
                assert!(connection.legs.iter().any(|leg| leg.id == session.id && leg.side == side));
            }
            assert!(session.pending.len() <= crate::base::limits::MSRP_PENDING_COUNT_MAX + 1);
            assert!(session.is_lost || !session.is_started || session.armed.is_some(), "a running session is watched");
        }
        for attempt in self.attempts.iter() {
            assert!(!attempt.legs.is_empty(), "nobody waits for an attempt");
        }
    }
}

#[cfg(test)]
impl Relay {
    /// Bytes of all sessions and connections.
    pub(super) fn memory_len(&self) -> usize {
        let sessions = self.sessions.iter().map(|session| size_of::<Session>() + 8 + session.heap_len()).sum::<usize>();
        let connections = self.net.iter().map(|connection| 8 + size_of::<Connection>() + connection.heap_len());
        sessions + connections.sum::<usize>()
    }

    /// Panics when something remains of sessions and connections that are gone.
    pub(super) fn assert_no_leftovers(&self) {
        assert!(self.attempts.is_empty() && self.reach.is_empty(), "{:?}", self.reach);
        assert!(self.sessions.is_empty() && self.net.len() == 0);
        assert!(self.net.releases.is_empty());
    }
}

/// A head as it can be read again: without a body, its end is known by an end-line.
fn whole_head(head: &Head<'_>) -> Vec<u8> {
    let mut bytes = head.bytes.to_vec();
    if !head.has_body {
        write::end_line(&mut bytes, head.transaction_id, Flag::End);
    }
    bytes
}

/// Bodies from here on are not copied: below, a copy is cheaper than a piece of its own.
pub(super) const SHARE_LEN_MIN: usize = 4 * 1024;
/// Pieces of one batch: what a shard hands the kernel at once.
const BATCH_COUNT_MAX: usize = 64;
/// Input held for one session: what can be on its way when reading stops.
const HELD_LEN_MAX: usize = 8 * MSRP_EGRESS_HIGH;
/// Held inputs taken up again in one call.
const RELEASE_ROUNDS_MAX: usize = 4_096;
/// Entries up to which debug builds check all tables after every call.
const CHECKED_COUNT_MAX: usize = 256;
