//! Completions and mail, fed to the core.

use super::clock;
use super::core::Core;
use super::doors::Mail;
use super::event_loop::{Armed, Look, Port, Shard, conn_of};
use super::streams::{Due, Ingested, State, Stream};
use crate::base::id::ConnId;
use crate::base::time::Now;
use crate::metrics::names::{Counter, Stage};
use crate::metrics::stages::Stages;
use crate::participating::effect::Socket;
use crate::participating::input::{Source, Transport};
use crate::uring::ring::{Completion, Kind};
use bytes::Bytes;
use socket2::SockRef;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

impl<C: Core> Shard<C> {
    pub(super) fn on_completion(&mut self, completion: Completion) {
        match completion.kind {
            Kind::Datagram => self.on_datagram(completion),
            Kind::Stream => self.on_stream(completion),
            Kind::Accept => self.on_accept(completion),
            Kind::SendStream => self.on_sent(conn_of(completion.token), completion.result),
            Kind::Connect => self.on_connect(conn_of(completion.token), completion.result),
            Kind::SendDatagram => {
                self.metrics.count(Counter::DatagramSendError);
                tracing::debug!(error = completion.result.err(), "the kernel refused a datagram");
            }
            Kind::MediaAccept => self.on_media_accept(completion),
            Kind::Media => self.on_media(completion),
            Kind::SendMedia => self.on_media_sent(completion),
            Kind::MediaConnect => self.on_media_connect(conn_of(completion.token), completion.result),
            Kind::Wake => self.rearm.push(Armed::Wake),
            Kind::Unwatched => {}
        }
    }

    fn on_datagram(&mut self, completion: Completion) {
        let port = Port::from_token(completion.token);
        if let Some(lease) = completion.lease {
            match self.ring.datagram(&lease) {
                Some(datagram) if datagram.truncated => self.metrics.count(Counter::DatagramTruncated),
                // Peers keep their NAT bindings alive with empty lines.
                Some(datagram) if is_keep_alive(datagram.payload) => self.metrics.count(Counter::DatagramIn),
                Some(datagram) => {
                    self.metrics.count(Counter::DatagramIn);
                    let socket = if port.own { Socket::Own } else { Socket::WellKnown };
                    let source = Source {
                        transport: Transport::Udp,
                        peer: datagram.peer,
                        listener: port.listener,
                        socket,
                        conn: None,
                    };
                    let mut feed = Feed {
                        core: &mut self.core,
                        stages: &mut self.stages,
                        now: &mut self.now,
                        untimed_count: &mut self.untimed_count,
                    };
                    feed.message(datagram.payload, source);
                }
                None => self.metrics.count(Counter::DroppedMalformed),
            }
            self.ring.recycle(lease);
        }
        if !completion.more {
            self.on_multishot_end(Armed::Datagrams(port), completion.result);
        }
    }

    fn on_stream(&mut self, completion: Completion) {
        let conn = conn_of(completion.token);
        if let Some(lease) = completion.lease {
            let mut pings = 0;
            let stopping = self.stopping.is_some();
            let ingested = match self.streams.find(conn) {
                // A late completion of a connection that is gone.
                None => Ingested::Fine,
                // A peer whose request is not taken any more sees the connection end, and may send it elsewhere.
                Some(stream) if stopping && stream.state == State::Accepted => Ingested::Fine,
                Some(stream) => {
                    let source = Source {
                        transport: Transport::Tcp,
                        peer: stream.peer,
                        listener: stream.listener,
                        socket: Socket::WellKnown,
                        conn: Some((self.id, conn)),
                    };
                    let at = self.now.at;
                    let mut feed = Feed {
                        core: &mut self.core,
                        stages: &mut self.stages,
                        now: &mut self.now,
                        untimed_count: &mut self.untimed_count,
                    };
                    let bytes = self.ring.stream_bytes(&lease);
                    self.streams.ingest(conn, bytes, at, &mut pings, |message| feed.message(message, source))
                }
            };
            self.ring.recycle(lease);
            // A few answers are enough for any number of keep-alives that came together.
            for _ in 0..pings.min(PONG_COUNT_MAX) {
                // A connection that is gone needs no answer.
                let _ = self.enqueue_on(conn, Bytes::from_static(b"\r\n"), None);
            }
            match ingested {
                Ingested::Fine => self.schedule_look(conn),
                Ingested::LastAnswer => self.begin_closing(conn),
                Ingested::Close(reason) => self.close_stream(conn, reason),
            }
        }
        match completion.result {
            Ok(0) => {
                self.streams.retire(conn);
                self.ended.push(conn);
            }
            Ok(_) if completion.more => {}
            Ok(_) => self.rearm.push(Armed::Stream(conn)),
            Err(libc::ENOBUFS) => {
                self.metrics.count(Counter::BufferStarved);
                self.rearm.push(Armed::Stream(conn));
            }
            Err(_) => self.close_stream(conn, Counter::StreamClosed),
        }
    }

    fn on_accept(&mut self, completion: Completion) {
        let port = Port::from_token(completion.token);
        if let Some(fd) = completion.fd
            && self.stopping.is_none()
        {
            self.accept(fd, port.listener);
        }
        if !completion.more {
            self.on_multishot_end(Armed::Accept(port), completion.result);
        }
    }

    fn accept(&mut self, fd: OwnedFd, listener: u8) {
        let socket = TcpStream::from(fd);
        // A peer that is gone already has no address.
        let Ok(peer) = socket.peer_addr() else { return };
        let stream = Stream::new(socket.into(), peer, listener, State::Accepted, self.now.at);
        let inserted = self.streams.insert(stream).or_else(|stream| {
            self.evict_idle();
            self.streams.insert(stream)
        });
        match inserted {
            Ok(conn) => {
                self.metrics.count(Counter::StreamAccepted);
                self.arm(Armed::Stream(conn));
            }
            // Every stream is busy: the new one is closed, its peer may try again.
            Err(_) => self.metrics.count(Counter::StreamRefused),
        }
    }

    /// A receive or accept that serves a listening socket has ended.
    pub(super) fn on_multishot_end(&mut self, armed: Armed, result: Result<u32, i32>) {
        match result {
            Ok(_) => self.rearm.push(armed),
            Err(libc::ENOBUFS) => {
                self.metrics.count(Counter::BufferStarved);
                self.rearm.push(armed);
            }
            Err(libc::ECANCELED) if self.stopping.is_some() => {}
            Err(code) => {
                if matches!(code, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) {
                    self.evict_idle();
                }
                let error = std::io::Error::from_raw_os_error(code);
                tracing::warn!(shard = self.id.0, ?armed, %error, "a listening socket pauses");
                // Not at once: an error that stays must not keep the shard busy.
                self.deadlines.schedule(self.now.at + PAUSE_TIME, Look::Rearm(armed));
            }
        }
    }

    fn evict_idle(&mut self) {
        if let Some(conn) = self.streams.idle_accepted() {
            self.close_stream(conn, Counter::StreamFull);
        }
    }

    fn on_sent(&mut self, conn: ConnId, result: Result<u32, i32>) {
        match result {
            Ok(len) => {
                let silent = self.streams.sent(conn, len as usize, self.now.at);
                let Some(stream) = self.streams.find(conn) else { return };
                if !silent {
                    if !std::mem::replace(&mut stream.dirty, true) {
                        self.dirty.push(conn);
                    }
                } else if stream.ended {
                    self.ended.push(conn);
                } else if let State::Closing { said_all, .. } = &mut stream.state
                    && !std::mem::replace(said_all, true)
                {
                    let _ = SockRef::from(&stream.fd).shutdown(Shutdown::Write);
                }
            }
            Err(_) => self.close_stream(conn, Counter::StreamClosed),
        }
    }

    fn on_connect(&mut self, conn: ConnId, result: Result<u32, i32>) {
        let Some(stream) = self.streams.find(conn) else { return };
        match result {
            Ok(_) => {
                stream.state = State::Connected;
                stream.used_at = self.now.at;
                if !stream.is_silent() && !std::mem::replace(&mut stream.dirty, true) {
                    self.dirty.push(conn);
                }
                self.metrics.count(Counter::StreamConnected);
                self.arm(Armed::Stream(conn));
                self.schedule_look(conn);
            }
            Err(code) => {
                let error = std::io::Error::from_raw_os_error(code);
                tracing::debug!(peer = %stream.peer, %error, "a connection could not be opened");
                // The attempt is over: there is nothing to give up.
                stream.state = State::Connected;
                self.close_stream(conn, Counter::StreamRefused);
            }
        }
    }

    /// Stops listening to a stream whose message boundaries are lost; an answer may still leave.
    fn begin_closing(&mut self, conn: ConnId) {
        let until = self.now.at + CLOSING_TIME;
        self.streams.retire(conn);
        if let Some(stream) = self.streams.find(conn) {
            stream.state = State::Closing { until, said_all: false };
            self.schedule_look(conn);
        }
    }

    /// Closes streams whose peers are done, once everything said in this turn is on its way; flushes the others.
    pub(super) fn settle_streams(&mut self) {
        for conn in std::mem::take(&mut self.ended) {
            let Some(stream) = self.streams.find(conn) else { continue };
            // Answers of this turn still leave; later ones take a new connection.
            stream.ended = true;
            if stream.is_silent() {
                self.close_stream(conn, Counter::StreamClosed);
            }
        }
        self.flush_dirty();
    }

    pub(super) fn look_at_stream(&mut self, conn: ConnId) {
        let now = self.now.at;
        let Some(stream) = self.streams.find(conn) else { return };
        if stream.look_at.is_some_and(|at| at > now) {
            return;
        }
        stream.look_at = None;
        match stream.due(now) {
            Due::Close(reason) => self.close_stream(conn, reason),
            Due::Later(_) | Due::Never => self.schedule_look(conn),
        }
    }

    /// Makes sure that the stream is looked at when something becomes due.
    pub(super) fn schedule_look(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.find(conn) else { return };
        let at = match stream.due(self.now.at) {
            Due::Never => return,
            Due::Later(at) => at,
            Due::Close(_) => self.now.at,
        };
        if stream.look_at.is_none_or(|scheduled| at < scheduled) {
            stream.look_at = Some(at);
            self.deadlines.schedule(at, Look::Stream(conn));
        }
    }

    /// Ends a connection; whoever had something waiting on it is told.
    pub(super) fn close_stream(&mut self, conn: ConnId, reason: Counter) {
        let Some(stream) = self.streams.remove(conn) else { return };
        self.metrics.count(reason);
        tracing::debug!(peer = %stream.peer, reason = reason.labels(), "stream closed");
        if let State::Connecting { attempt, .. } = stream.state {
            self.ring.abandon(attempt);
        }
        let (fd, origins) = stream.into_parts();
        self.ring.close(fd);
        for (shard, ticket) in origins {
            self.tell_failed(shard, ticket);
        }
    }

    pub(super) fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Core(input) => self.core.handle_input(input, self.now),
            Mail::SendOn { conn, fallback, listener, bytes, ticket } => {
                self.send_on(conn, fallback, listener, bytes, ticket);
            }
            Mail::Scrape(answer) => {
                let mut stages = self.stages.clone();
                if let Some(measured) = self.core.stages() {
                    stages.merge(measured);
                }
                answer(stages);
            }
            Mail::Stop => self.stop(),
        }
    }
}

/// What handing a message to the core needs, apart from the buffer that holds it.
struct Feed<'a, C> {
    core: &'a mut C,
    stages: &'a mut Stages,
    now: &'a mut Now,
    untimed_count: &'a mut u32,
}

impl<C: Core> Feed<'_, C> {
    fn message(&mut self, bytes: &[u8], source: Source) {
        *self.untimed_count += 1;
        if *self.untimed_count < TIMED_EVERY {
            return self.core.handle_message(bytes, source, *self.now);
        }
        // Reading the clock costs more than some stages: a sample is enough, and keeps a long turn's time fresh.
        *self.untimed_count = 0;
        let before = clock::instant();
        self.now.at = before.max(self.now.at);
        self.core.handle_message(bytes, source, *self.now);
        self.stages.record(Stage::Handle, clock::instant() - before);
    }
}

fn is_keep_alive(payload: &[u8]) -> bool {
    payload.len() <= KEEP_ALIVE_LEN_MAX && payload.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

const TIMED_EVERY: u32 = 16;
const PONG_COUNT_MAX: usize = 4;
const KEEP_ALIVE_LEN_MAX: usize = 4;
/// How long a stream without message boundaries waits for its answer and for its peer's end.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// How long a listening socket rests after an error.
const PAUSE_TIME: Duration = Duration::from_millis(250);
