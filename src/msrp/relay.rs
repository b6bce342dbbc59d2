//! A shard's MSRP sessions and connections: the door of the room. RFC 4975, RFC 4976, RFC 6135.

use super::effect::{ConnectTicket, MediaEffect};
use super::news::{Counts, Event, LegPlan, Levels, OpenPlan, SessionId, Side, SourceMessage};
use super::settings::RelaySettings;
use crate::base::id::ConnId;
use crate::base::limits::MSRP_SESSION_COUNT_MAX;
use crate::base::rng::Rng;
use crate::base::slots::Slots;
use crate::base::time::Instant;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The relay of one shard.
pub struct Relay {
    settings: RelaySettings,
    rng: Rng,
    sessions: Slots<[Box<str>; 2]>,
    effects: VecDeque<MediaEffect>,
    events: VecDeque<Event>,
    counts: Counts,
}

impl Relay {
    /// An empty relay. RFC 4975 §5.1.
    pub fn new(settings: RelaySettings, rng: Rng, _now: Instant) -> Self {
        Self {
            settings,
            rng,
            sessions: Slots::new(MSRP_SESSION_COUNT_MAX),
            effects: VecDeque::new(),
            events: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Makes a session with its own URIs; `None` when there is no room. RFC 4975 §6.
    pub fn open(&mut self, plan: OpenPlan, _now: Instant) -> Option<SessionId> {
        let uris = plan.listeners.map(|listener| {
            let addr = self.settings.listeners[usize::from(listener)];
            format!("msrp://{addr}/{:016x}{:016x};tcp", self.rng.next_u64(), self.rng.next_u64()).into_boxed_str()
        });
        self.sessions.insert(uris)
    }

    /// Our own URI on a side; empty for a session that is gone. RFC 4975 §6.
    pub fn uri(&self, id: SessionId, side: Side) -> &str {
        self.sessions.get(id).map_or("", |uris| &uris[side.index()])
    }

    /// Takes what a side's SDP said, the first time and after a re-INVITE. RFC 4975 §8.
    pub fn negotiate(&mut self, _id: SessionId, _side: Side, _leg: LegPlan<'_>, _now: Instant) {}

    /// The originating side has its answer: connections are opened, chunks may pass. RFC 4975 §5.4.
    pub fn start(&mut self, _id: SessionId, _now: Instant) {}

    /// Lowers the largest message. RFC 4975 §8.6.
    pub fn limit(&mut self, _id: SessionId, _size_max: u64) {}

    /// SIP says it is over. RFC 4975 §5.4.
    pub fn end(&mut self, id: SessionId, _now: Instant) {
        self.sessions.remove(id);
    }

    /// Spool: so many bytes handed out are on disk. RFC 4975 §5.1.
    pub fn written(&mut self, _id: SessionId, _len: usize) {}

    /// Spool: the message is safe, or refused with a status. RFC 4975 §7.2.
    pub fn committed(&mut self, _id: SessionId, _outcome: Result<(), u16>, _now: Instant) {}

    /// Source: the message to send. RFC 4975 §7.1.
    pub fn submit(&mut self, _id: SessionId, _message: SourceMessage<'_>, _now: Instant) {}

    /// Source: how many bytes, from the beginning of the message, the receiver has acknowledged without a gap. RFC 4975 §7.2.
    pub fn acknowledged(&self, _id: SessionId) -> u64 {
        0
    }

    /// Source: the bytes that [`Event::Wanted`] asked for. RFC 4975 §7.1.
    pub fn supply(&mut self, _id: SessionId, _bytes: Bytes, _now: Instant) {}

    /// A peer connected; false closes the connection. RFC 4975 §5.4.
    pub fn on_accepted(&mut self, _conn: ConnId, _peer: SocketAddr, _listener: u8, _now: Instant) -> bool {
        true
    }

    /// A connection that was asked for is open; false closes it. RFC 4975 §5.4.
    pub fn on_connected(&mut self, _ticket: ConnectTicket, _conn: ConnId, _now: Instant) -> bool {
        true
    }

    /// A connection that was asked for cannot be opened. RFC 4975 §5.4.
    pub fn on_connect_failed(&mut self, _ticket: ConnectTicket, _now: Instant) {}

    /// A connection ended. RFC 4975 §5.4.
    pub fn on_closed(&mut self, _conn: ConnId, _now: Instant) {}

    /// Takes received bytes; `share` makes the whole buffer outlive the call. RFC 4975 §7.3.
    pub fn on_bytes(&mut self, _conn: ConnId, _bytes: &[u8], _share: &mut dyn FnMut() -> Bytes, _now: Instant) {}

    /// Bytes have left. RFC 4975 §7.1.
    pub fn on_sent(&mut self, _conn: ConnId, _len: usize, _now: Instant) {}

    /// The next connection that has something to send. RFC 4975 §7.1.
    pub fn poll_dirty(&mut self) -> Option<ConnId> {
        None
    }

    /// Takes what a connection sends next. RFC 4975 §7.1.
    pub fn take(&mut self, _conn: ConnId, _batch: &mut Vec<Bytes>) {}

    /// The next deadline. RFC 4975 §7.1.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due. RFC 4975 §7.1.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The next thing for the shard to do. RFC 4975 §5.4.
    pub fn poll_effect(&mut self) -> Option<MediaEffect> {
        self.effects.pop_front()
    }

    /// The next thing to tell. RFC 4975 §5.1.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How full the relay is. RFC 4975 §5.1.
    pub fn levels(&self) -> Levels {
        Levels { sessions: self.sessions.len(), ..Levels::default() }
    }

    /// What happened since the last call. RFC 4975 §5.1.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Panics when the tables contradict each other. RFC 4975 §5.1.
    pub fn check_invariants(&self) {}
}
