//! MSRP connections: bytes in, batches out, and when to close.
//!
//! What is on them is the core's: it owns chunks, queues and the decision whom to read from. A connection costs its entry
//! in the table and a receive in the kernel; buffers are the shard's.

use super::connections::{Closing, Connection, Phase, State, Step};
use super::core::Core;
use super::event_loop::{Armed, Look, Shard, conn_of, token_of};
use crate::base::id::ConnId;
use crate::metrics::names::Counter;
use crate::msrp::effect::{ConnectTicket, MediaEffect};
use crate::uring::ring::{BATCH_COUNT_MAX, Completion, Patience, Token};
use crate::uring::shared::Shared;
use crate::uring::socket::{acknowledged_len, keep_alive, outgoing_stream};
use bytes::Bytes;
use socket2::SockRef;
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Completions.
impl<C: Core> Shard<C> {
    pub(super) fn on_media_accept(&mut self, completion: Completion) {
        let listener = completion.token.slot as u8;
        if let Some(fd) = completion.fd
            && self.stopping.is_none()
        {
            self.accept_media(fd, listener);
        }
        if !completion.more {
            self.on_multishot_end(Armed::MediaAccept(listener), completion.result);
        }
    }

    fn accept_media(&mut self, fd: OwnedFd, listener: u8) {
        let socket = TcpStream::from(fd);
        // A peer that is gone already has no address.
        let Ok(peer) = socket.peer_addr() else { return };
        // Dropped when there are too many: the peer sees its connection closed.
        let Some(conn) = self.media.insert(socket.into(), State::Open, self.now.at) else { return };
        self.metrics.count(Counter::MsrpAccepted);
        if self.core.media_accepted(conn, peer, listener, self.now) {
            self.arm_media(conn);
        } else {
            self.remove_media(conn);
        }
    }

    pub(super) fn on_media(&mut self, mut completion: Completion) {
        let conn = conn_of(completion.token);
        if let Some(piece) = completion.piece.take() {
            if self.media.find(conn).is_some_and(|connection| connection.is_open()) {
                let (ring, metrics) = (&self.ring, &self.metrics);
                let mut share = || match ring.share(&piece) {
                    Shared::InPlace(bytes) => bytes,
                    Shared::Copied(bytes) => {
                        metrics.count(Counter::MsrpBufferCopied);
                        bytes
                    }
                };
                let bytes = ring.media_bytes(&piece);
                if !bytes.is_empty() {
                    self.core.handle_media(conn, bytes, &mut share, self.now);
                }
            }
            self.ring.recycle_media(piece);
        }
        let Some(connection) = self.media.find(conn) else { return };
        if completion.more {
            if connection.receive.went_on() == Step::Cancel {
                self.ring.cancel_media(completion.token);
            }
            return;
        }
        connection.receive.ended();
        let given_up = connection.broken && !connection.receive.wanted;
        match completion.result {
            Ok(0) => {
                connection.ended = true;
                self.media.ended.push(conn);
            }
            Err(libc::ECANCELED) if given_up => self.lose_media(conn),
            Ok(_) | Err(libc::ECANCELED) => self.rearm.push(Armed::Media(conn)),
            Err(libc::ENOBUFS) => {
                self.metrics.count(Counter::BufferStarved);
                self.media.starved.push_back(conn);
            }
            Err(_) => self.lose_media(conn),
        }
    }

    pub(super) fn on_media_sent(&mut self, mut completion: Completion) {
        let conn = conn_of(completion.token);
        let Some(connection) = self.media.find(conn) else { return };
        connection.sending = false;
        let Ok(len) = completion.result else { return self.on_media_broken(conn) };
        if len > 0 {
            connection.progress_at = self.now.at;
            if connection.is_open() {
                self.core.media_sent(conn, len as usize, self.now);
            }
        }
        if completion.unsent.is_empty() {
            self.media.dirty.push(conn);
        } else {
            self.send_media(conn, &mut completion.unsent, Patience::Lasting);
        }
    }

    /// Sending has failed. What the peer had sent before is still heard.
    fn on_media_broken(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        connection.broken = true;
        let receive = connection.receive;
        if !connection.is_open() || (receive.phase == Phase::Idle && !receive.wanted) {
            return self.lose_media(conn);
        }
        // Makes sure that receiving ends, after what there is to receive.
        let _ = SockRef::from(&connection.fd).shutdown(Shutdown::Both);
    }

    pub(super) fn on_media_connect(&mut self, conn: ConnId, result: Result<u32, i32>) {
        let Some(connection) = self.media.find(conn) else { return };
        let State::Opening { attempt, ticket, .. } = &mut connection.state else {
            return debug_assert!(false, "only a connection that is being opened is opened");
        };
        let ticket = *ticket;
        // The attempt is over: there is nothing to give up.
        *attempt = None;
        if let Err(code) = result {
            let error = std::io::Error::from_raw_os_error(code);
            tracing::debug!(%error, "an MSRP connection could not be opened");
            return self.fail_media(conn);
        }
        connection.state = State::Open;
        self.media.opening.remove(&ticket);
        self.metrics.count(Counter::MsrpConnected);
        if self.core.media_connected(ticket, conn, self.now) {
            self.arm_media(conn);
        } else {
            self.remove_media(conn);
        }
    }
}

/// Effects.
impl<C: Core> Shard<C> {
    pub(super) fn on_media_effect(&mut self, effect: MediaEffect) {
        match effect {
            MediaEffect::Connect { ticket, to, listener } => {
                if !self.open_media(ticket, to, listener) {
                    self.media.refused.push(ticket);
                }
            }
            MediaEffect::Abandon(ticket) => {
                self.media.refused.retain(|refused| *refused != ticket);
                if let Some(conn) = self.media.opening.get(&ticket).copied() {
                    self.remove_media(conn);
                }
            }
            MediaEffect::Close(conn) => self.close_media(conn),
            MediaEffect::Pause(conn) => self.want_media(conn, false),
            MediaEffect::Resume(conn) => self.want_media(conn, true),
        }
    }

    fn open_media(&mut self, ticket: ConnectTicket, to: SocketAddr, listener: u8) -> bool {
        let Some(local) = self.media_listeners.get(usize::from(listener)).map(|listener| listener.addr) else {
            debug_assert!(false, "the core knows its listeners");
            return false;
        };
        let socket = match outgoing_stream(local, to) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(peer = %to, %error, "no socket for an MSRP connection");
                return false;
            }
        };
        // Best effort: without it a peer that vanished is noticed later.
        let _ = keep_alive(&socket);
        let state = State::Opening { attempt: None, ticket, until: self.now.at + CONNECT_TIME };
        let Some(conn) = self.media.insert(socket.into(), state, self.now.at) else { return false };
        self.media.opening.insert(ticket, conn);
        let connection = self.media.find(conn).expect("it was just inserted");
        let begun = self.ring.connect_media(&connection.fd, to, token_of(conn));
        let State::Opening { attempt, .. } = &mut connection.state else { unreachable!("as inserted") };
        *attempt = begun;
        if begun.is_none() {
            self.remove_media(conn);
            return false;
        }
        self.schedule_media_look(conn);
        true
    }

    /// Tells the core of an attempt that failed at once.
    pub(super) fn tell_media_refused(&mut self, ticket: ConnectTicket) {
        self.metrics.count(Counter::MsrpConnectFailed);
        self.core.media_connect_failed(ticket, self.now);
    }

    fn want_media(&mut self, conn: ConnId, wanted: bool) {
        let Some(connection) = self.media.find(conn).filter(|connection| connection.is_open()) else { return };
        if connection.ended {
            return;
        }
        match connection.receive.want(wanted) {
            Step::Arm => self.ring.receive_media(&connection.fd, token_of(conn)),
            Step::Cancel => self.ring.cancel_media(token_of(conn)),
            Step::Nothing => {}
        }
    }

    /// Receives if that is wanted and not done.
    pub(super) fn arm_media(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        if !connection.ended && connection.receive.next() == Step::Arm {
            self.ring.receive_media(&connection.fd, token_of(conn));
        }
    }

    /// Arms receives that found no buffer, at the end of a turn, when buffers are back: no more than find one, because
    /// each that does not costs a request and an answer.
    pub(super) fn arm_starved_media(&mut self) {
        for _ in 0..self.ring.media_available_count() {
            let Some(conn) = self.media.starved.pop_front() else { return };
            self.arm_media(conn);
        }
    }

    /// Closes a connection of which the core has taken leave, after what it left to send.
    fn close_media(&mut self, conn: ConnId) {
        match self.media.find(conn) {
            Some(connection) if connection.broken => return self.remove_media(conn),
            Some(connection) if connection.is_open() => {}
            _ => return,
        }
        let mut rest = VecDeque::new();
        let mut rest_len = 0;
        let mut batch = std::mem::take(&mut self.media.batch);
        while rest_len < CLOSING_LEN_MAX {
            self.core.take_media(conn, &mut batch);
            if batch.is_empty() {
                break;
            }
            rest_len += batch.iter().map(Bytes::len).sum::<usize>();
            rest.extend(batch.drain(..));
        }
        self.media.batch = batch;
        let Some(connection) = self.media.find(conn) else { return };
        let until = self.now.at + CLOSING_TIME;
        connection.state = State::Closing(Box::new(Closing { until, rest, said_all: false }));
        // What still comes is read and dropped.
        connection.receive.wanted = true;
        self.arm_media(conn);
        self.schedule_media_look(conn);
        self.media.dirty.push(conn);
    }
}

/// The ends of a turn and of a connection.
impl<C: Core> Shard<C> {
    /// Closes connections whose peers are done. Answers to what was received before still leave, for peers that shut
    /// their side only.
    pub(super) fn settle_media(&mut self) {
        for conn in std::mem::take(&mut self.media.ended) {
            let Some(connection) = self.media.find(conn) else { continue };
            match &connection.state {
                State::Open if connection.broken => self.lose_media(conn),
                State::Open => {
                    self.close_media(conn);
                    self.core.media_closed(conn, self.now);
                }
                State::Closing(closing) if closing.said_all => self.remove_media(conn),
                State::Closing(_) => self.media.dirty.push(conn),
                State::Opening { .. } => debug_assert!(false, "nothing is received before it is open"),
            }
        }
    }

    /// Hands what waits on each connection to the kernel, one request a connection.
    pub(super) fn flush_media(&mut self) {
        while let Some(conn) = self.core.poll_media() {
            self.flush_media_of(conn);
        }
        while let Some(conn) = self.media.dirty.pop() {
            self.flush_media_of(conn);
        }
    }

    fn flush_media_of(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        if connection.sending || connection.broken {
            return;
        }
        let mut batch = std::mem::take(&mut self.media.batch);
        let Some(connection) = self.media.find(conn) else { return };
        match &mut connection.state {
            State::Opening { .. } => {}
            State::Open => self.core.take_media(conn, &mut batch),
            State::Closing(closing) => {
                batch.extend(closing.rest.drain(..closing.rest.len().min(BATCH_COUNT_MAX)));
                if batch.is_empty() {
                    self.say_all(conn);
                }
            }
        }
        if !batch.is_empty() {
            self.send_media(conn, &mut batch, Patience::None);
        }
        self.media.batch = batch;
    }

    /// Hands a batch to the kernel and empties it.
    fn send_media(&mut self, conn: ConnId, batch: &mut Vec<Bytes>, patience: Patience) {
        let Some(connection) = self.media.find(conn) else { return };
        debug_assert!(!connection.sending, "one send a connection");
        if self.ring.send_media(&connection.fd, token_of(conn), batch, patience) {
            connection.sending = true;
            connection.progress_at = self.now.at;
            self.schedule_media_look(conn);
        } else {
            debug_assert!(false, "the ring has room for one send of each connection");
            batch.clear();
            self.on_media_broken(conn);
        }
    }

    /// Everything has left on a connection that is closing.
    fn say_all(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        let State::Closing(closing) = &mut connection.state else { return };
        if connection.ended {
            self.remove_media(conn);
        } else if !std::mem::replace(&mut closing.said_all, true) {
            let _ = SockRef::from(&connection.fd).shutdown(Shutdown::Write);
        }
    }

    pub(super) fn look_at_media(&mut self, conn: ConnId) {
        let now = self.now.at;
        let Some(connection) = self.media.find(conn) else { return };
        if connection.look_at.is_some_and(|at| at > now) {
            return;
        }
        connection.look_at = None;
        match &connection.state {
            State::Opening { until, .. } if *until <= now => return self.fail_media(conn),
            State::Closing(closing) if closing.until <= now => return self.remove_media(conn),
            _ => {}
        }
        if connection.is_open() && connection.sending && connection.is_stalled(acknowledged_len(&connection.fd), now) {
            tracing::debug!("an MSRP peer takes nothing");
            return self.lose_media(conn);
        }
        self.schedule_media_look(conn);
    }

    /// Makes sure that the connection is looked at when something becomes due.
    fn schedule_media_look(&mut self, conn: ConnId) {
        let now = self.now.at;
        let Some(connection) = self.media.find(conn) else { return };
        let Some(at) = connection.look_due(now) else { return };
        if connection.look_at.is_none_or(|scheduled| at < scheduled) {
            connection.look_at = Some(at);
            self.deadlines.schedule(at, Look::Media(conn));
        }
    }

    /// An attempt to open a connection has failed.
    fn fail_media(&mut self, conn: ConnId) {
        let Some(Connection { state: State::Opening { ticket, .. }, .. }) = self.media.find(conn) else { return };
        let ticket = *ticket;
        self.remove_media(conn);
        self.tell_media_refused(ticket);
    }

    /// A connection has ended on its own.
    fn lose_media(&mut self, conn: ConnId) {
        let Some(connection) = self.media.find(conn) else { return };
        let open = connection.is_open();
        self.remove_media(conn);
        if open {
            self.core.media_closed(conn, self.now);
        }
    }

    fn remove_media(&mut self, conn: ConnId) {
        let Some(connection) = self.media.remove(conn) else { return };
        if let State::Opening { attempt: Some(attempt), .. } = connection.state {
            self.ring.abandon(attempt);
        }
        self.ring.close(connection.fd);
    }
}

/// Names the listener of a media accept.
pub(super) const fn listener_token(listener: u8) -> Token {
    Token { slot: listener as u32, generation: 0 }
}

/// How long the opening of a connection may take (SPEC §4.5).
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long what is left may take to leave once the core has done with a connection.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Bytes that may be left then; a core that leaves more loses them.
const CLOSING_LEN_MAX: usize = 16 << 20;
