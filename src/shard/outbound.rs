//! Effects, carried out.

use super::core::Core;
use super::doors::Mail;
use super::event_loop::{Shard, token_of};
use super::streams::{Enqueued, Origin, State, Stream};
use crate::base::id::{ConnId, ShardId, Ticket};
use crate::metrics::names::Counter;
use crate::participating::effect::{Effect, Socket, StreamTarget};
use crate::participating::input::{ControlAnswer, ControlCommand, ControlJob, Input, Shards};
use crate::participating::storage::{Fault, Job, ReplyTo, SpoolJob};
use crate::uring::socket::outgoing_stream;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

impl<C: Core> Shard<C> {
    pub(super) fn on_effect(&mut self, effect: Effect) {
        match effect {
            Effect::SendDatagram { socket, listener, to, bytes } => self.send_datagram(socket, listener, to, bytes),
            Effect::SendStream { to, listener, bytes, ticket } => {
                let origin = ticket.map(|ticket| (self.id, ticket));
                match to {
                    StreamTarget::Peer(peer) => self.send_to(peer, listener, bytes, origin),
                    StreamTarget::Connection { shard, conn, fallback } if shard == self.id => {
                        self.send_on(conn, fallback, listener, bytes, origin);
                    }
                    StreamTarget::Connection { shard, conn, fallback } => {
                        let mail = Mail::SendOn { conn, fallback, listener, bytes, ticket: origin };
                        if self.doors.post(shard, mail).is_err() {
                            self.metrics.count(Counter::DroppedMailboxFull);
                            self.fail(origin);
                        }
                    }
                }
            }
            Effect::Store { ticket, command } => {
                let job = Job { command, reply: ReplyTo::Shard(self.id, ticket) };
                if self.store.try_post(job).is_err() {
                    self.core.handle_input(Input::Store { ticket, answer: Err(Fault::Busy) }, self.now);
                }
            }
            Effect::Spool { ticket, command } => {
                if self.spool.try_post(SpoolJob { shard: self.id, ticket, command }).is_err() {
                    self.core.handle_input(Input::Spool { ticket, answer: Err(Fault::Busy) }, self.now);
                }
            }
            Effect::Media(effect) => self.on_media_effect(effect),
            Effect::Control { ticket, command } => {
                if let Err(job) = self.control.try_post(ControlJob { shard: self.id, ticket, command }) {
                    let answer = match job.command {
                        ControlCommand::Register(_) => ControlAnswer::NotRegistered(Fault::Busy),
                        ControlCommand::Resolve { .. } => ControlAnswer::Resolved(Vec::new()),
                    };
                    self.core.handle_input(Input::Control { ticket, answer }, self.now);
                }
            }
            Effect::Post { to, input } => {
                if let Err(input) = self.doors.try_post(to, input) {
                    self.core.handle_input(Input::Returned { to, input: Box::new(input) }, self.now);
                }
            }
        }
    }

    fn send_datagram(&mut self, socket: Socket, listener: u8, to: SocketAddr, bytes: Bytes) {
        let Some(sockets) = self.listeners.get(usize::from(listener)) else {
            debug_assert!(false, "the core knows its listeners");
            return self.metrics.count(Counter::DatagramSendError);
        };
        let socket = match socket {
            Socket::WellKnown => &sockets.udp_well_known,
            Socket::Own => &sockets.udp_own,
        };
        if self.ring.send_datagram(socket, to, bytes).is_err() {
            // As the network might drop it: SIP over UDP repeats itself.
            self.metrics.count(Counter::DatagramSendError);
        }
    }

    /// Sends on a connection of this shard, or on a new one when it is gone.
    ///
    /// RFC 3261 §18.2.2.
    pub(super) fn send_on(&mut self, conn: ConnId, fallback: SocketAddr, listener: u8, bytes: Bytes, origin: Origin) {
        if let Err(bytes) = self.enqueue_on(conn, bytes, origin) {
            self.send_to(fallback, listener, bytes, origin);
        }
    }

    /// Sends on a connection of this shard; gives the bytes back when it is gone.
    pub(super) fn enqueue_on(&mut self, conn: ConnId, bytes: Bytes, origin: Origin) -> Result<(), Bytes> {
        match self.streams.enqueue(conn, bytes, origin, self.now.at) {
            Enqueued::Waiting { newly_dirty } => {
                if newly_dirty {
                    self.dirty.push(conn);
                }
            }
            Enqueued::Full => {
                self.close_stream(conn, Counter::StreamFull);
                self.fail(origin);
            }
            Enqueued::Gone(bytes) => return Err(bytes),
        }
        Ok(())
    }

    /// Sends to a peer over an outgoing connection, an open one if there is one.
    fn send_to(&mut self, peer: SocketAddr, listener: u8, bytes: Bytes, origin: Origin) {
        let bytes = match self.streams.outgoing(peer, listener) {
            Some(conn) => match self.enqueue_on(conn, bytes, origin) {
                Ok(()) => return,
                Err(bytes) => bytes,
            },
            None => bytes,
        };
        match self.open(peer, listener) {
            Some(conn) => {
                let enqueued = self.enqueue_on(conn, bytes, origin);
                debug_assert!(enqueued.is_ok(), "a connection that is being opened takes bytes");
                self.schedule_look(conn);
            }
            None => {
                self.metrics.count(Counter::StreamRefused);
                self.fail(origin);
            }
        }
    }

    fn open(&mut self, peer: SocketAddr, listener: u8) -> Option<ConnId> {
        let local = self.listeners.get(usize::from(listener))?.well_known;
        let socket = match outgoing_stream(local, peer) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%peer, %error, "no socket for an outgoing connection");
                return None;
            }
        };
        let conn = self.streams.next_id();
        let attempt = self.ring.connect(&socket, peer, token_of(conn))?;
        let state = State::Connecting { attempt, until: self.now.at + CONNECT_TIME };
        match self.streams.insert(Stream::new(socket.into(), peer, listener, state, self.now.at)) {
            Ok(inserted) => {
                debug_assert_eq!(inserted, conn);
                Some(conn)
            }
            Err(stream) => {
                // Too many streams. The attempt's completion will find nobody.
                self.ring.abandon(attempt);
                self.ring.close(stream.fd);
                None
            }
        }
    }

    /// Hands what waits on each stream to the kernel, one request a stream.
    pub(super) fn flush_dirty(&mut self) {
        let mut postponed = Vec::new();
        for conn in std::mem::take(&mut self.dirty) {
            let Some(stream) = self.streams.find(conn) else { continue };
            stream.dirty = false;
            if !stream.wants_flush() {
                continue;
            }
            if self.ring.send_stream(&stream.fd, token_of(conn), stream.batch()) {
                stream.sending = true;
                self.schedule_look(conn);
            } else {
                stream.dirty = true;
                postponed.push(conn);
            }
        }
        self.dirty = postponed;
    }

    /// Tells whoever sent something that it did not leave.
    fn fail(&mut self, origin: Origin) {
        if let Some((shard, ticket)) = origin {
            self.tell_failed(shard, ticket);
        }
    }

    pub(super) fn tell_failed(&mut self, shard: ShardId, ticket: Ticket) {
        if shard == self.id {
            self.failed.push(ticket);
        } else if self.doors.try_post(shard, Input::StreamFailed { ticket }).is_err() {
            // Its transaction will time out instead.
            self.metrics.count(Counter::DroppedMailboxFull);
        }
    }
}

/// How long the opening of a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(4);
