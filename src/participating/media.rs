//! The relay's door in the core: MSRP connections come in here, and what the relay tells goes to the session it is about.

use super::core::Core;
use super::subscriber::Directory;
use crate::base::id::ConnId;
use crate::base::slots::SlotId;
use crate::base::time::Now;
use crate::metrics::names::{Counter, Gauge};
use crate::msrp::effect::ConnectTicket;
use crate::msrp::news::{Event, OpenPlan, SessionId};
use bytes::Bytes;
use std::net::SocketAddr;

/// On whose behalf an MSRP session is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaOwner {
    /// A session in large message mode.
    Session(SlotId),
    /// An attempt to deliver a deferred large message.
    Delivery {
        /// The user's delivery.
        id: SlotId,
        /// Which attempt.
        round: u32,
    },
}

impl<D: Directory> Core<D> {
    /// A peer opened an MSRP connection; false closes it at once.
    pub fn media_accepted(&mut self, conn: ConnId, peer: SocketAddr, listener: u8, now: Now) -> bool {
        let taken = self.relay.on_accepted(conn, peer, listener, now.at);
        self.hear_relay(now);
        taken
    }

    /// An MSRP connection that was asked for is open; false closes it at once.
    pub fn media_connected(&mut self, ticket: ConnectTicket, conn: ConnId, now: Now) -> bool {
        let taken = self.relay.on_connected(ticket, conn, now.at);
        self.hear_relay(now);
        taken
    }

    /// An MSRP connection that was asked for could not be opened.
    pub fn media_connect_failed(&mut self, ticket: ConnectTicket, now: Now) {
        self.relay.on_connect_failed(ticket, now.at);
        self.hear_relay(now);
    }

    /// Takes bytes of an MSRP connection, borrowed from the receive buffer.
    pub fn handle_media(&mut self, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes, now: Now) {
        self.relay.on_bytes(conn, bytes, share, now.at);
        self.hear_relay(now);
    }

    /// Bytes of an MSRP connection have left.
    pub fn media_sent(&mut self, conn: ConnId, len: usize, now: Now) {
        self.relay.on_sent(conn, len, now.at);
        self.hear_relay(now);
    }

    /// An MSRP connection has ended.
    pub fn media_closed(&mut self, conn: ConnId, now: Now) {
        self.relay.on_closed(conn, now.at);
        self.hear_relay(now);
    }

    /// The next MSRP connection that has something to send.
    pub fn poll_media(&mut self) -> Option<ConnId> {
        self.relay.poll_dirty()
    }

    /// Takes what an MSRP connection sends next.
    pub fn take_media(&mut self, conn: ConnId, batch: &mut Vec<Bytes>) {
        self.relay.take(conn, batch);
    }

    /// Makes an MSRP session; `None` when there is no room.
    pub(super) fn open_media(&mut self, owner: MediaOwner, plan: OpenPlan, now: Now) -> Option<SessionId> {
        let id = self.relay.open(plan, now.at)?;
        self.media_owners.insert(id, owner);
        Some(id)
    }

    /// Ends an MSRP session: nothing more is heard of it.
    pub(super) fn end_media(&mut self, id: SessionId, now: Now) {
        self.media_owners.remove(&id);
        self.end_spool(id, now);
        self.relay.end(id, now.at);
    }

    /// Passes on what the relay has to tell. Called at the end of everything that may make it tell something.
    pub(super) fn hear_relay(&mut self, now: Now) {
        while let Some(event) = self.relay.poll_event() {
            let (Event::Bound { id, .. }
            | Event::Piece { id, .. }
            | Event::Complete { id, .. }
            | Event::Aborted { id }
            | Event::Wanted { id, .. }
            | Event::Sent { id, .. }
            | Event::Lost { id, .. }) = &event;
            match self.media_owners.get(id).copied() {
                Some(MediaOwner::Session(session)) => self.on_session_media(session, *id, event, now),
                Some(MediaOwner::Delivery { id, round }) => self.on_origination_media(id, round, event, now),
                // It ended in the same turn.
                None => {}
            }
        }
        debug_assert_eq!(self.media_owners.len(), self.relay.levels().sessions, "every MSRP session has an owner");
    }

    /// Writes what the relay counted since the last time.
    pub(super) fn publish_relay(&mut self) {
        let levels = self.relay.levels();
        self.metrics.set(Gauge::MsrpSessions, levels.sessions as u64);
        self.metrics.set(Gauge::MsrpEgressBytes, levels.egress_len as u64);
        let counts = self.relay.take_counts();
        for (counter, count) in [
            (Counter::MsrpChunk, counts.chunks),
            (Counter::MsrpBodyBytes, counts.body_bytes),
            (Counter::MsrpResponse, counts.responses),
            (Counter::MsrpOwnResponse, counts.own_responses),
            (Counter::MsrpReport, counts.reports),
            (Counter::MsrpRefused, counts.refused),
            (Counter::MsrpUnframed, counts.unframed),
            (Counter::MsrpTimeout, counts.timeouts),
            (Counter::MsrpPaused, counts.paused),
            (Counter::LargeDelivered, counts.delivered),
            (Counter::LargeAborted, counts.aborted),
        ] {
            self.metrics.add(counter, count);
        }
    }
}
