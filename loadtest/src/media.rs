//! Both MSRP ends of all sessions on one thread: senders with windows or a rate, receivers that check and answer.

use crate::appliance::{Usage, machine_busy};
use crate::msrp::{self, ByteRange, Flag, Framer, HeadText, Kind, Piece};
use crate::poller::{Poller, Ready};
use crate::template;
use hdrhistogram::Histogram;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// Which end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Sends the message.
    Sender,
    /// Receives it.
    Receiver,
}

impl End {
    const fn mark(self) -> u8 {
        match self {
            Self::Sender => b'a',
            Self::Receiver => b'b',
        }
    }
}

/// Chunks and messages of all sessions.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of body in a chunk; the last of a message may be shorter.
    pub chunk_len: usize,
    /// Bytes of a message.
    pub message_len: u64,
    /// Write the end of a chunk's range as `*`.
    pub open_range: bool,
}

/// When chunks leave.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At fixed intervals over all sessions in turn, whatever comes back.
    Open {
        /// Between two chunks.
        interval_ns: f64,
    },
    /// So many unanswered in each session.
    Closed {
        /// How many.
        window: u32,
    },
}

/// A measurement.
pub struct Plan {
    /// When chunks leave.
    pub pace: Pace,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
    /// Ends the measured part earlier.
    pub count_max: Option<u64>,
    /// One message of each session and no more.
    pub one_message: bool,
}

/// Figures at an edge of the measured part.
struct Edge {
    server: Usage,
    own: Usage,
    machine: Duration,
    at: u64,
    good: u64,
    arrived: u64,
    reads: u64,
}

/// Looks at the server's process.
#[derive(Default)]
pub struct Watch {
    /// The process, with everything below it.
    pub pid: Option<u32>,
    next_sample: u64,
    /// Lowest and highest resident memory that was seen.
    pub resident: Option<(u64, u64)>,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new(pid: Option<u32>) -> Self {
        Self { pid, ..Self::default() }
    }

    /// What it has used.
    pub fn usage(&self) -> Usage {
        self.pid.and_then(Usage::of_tree).unwrap_or_default()
    }

    fn sample(&mut self, now: u64) {
        if now < self.next_sample {
            return;
        }
        self.next_sample = now + SAMPLE_NS;
        if let Some(resident) = self.pid.and_then(crate::appliance::resident) {
            let (low, high) = self.resident.unwrap_or((resident, resident));
            self.resident = Some((low.min(resident), high.max(resident)));
        }
    }
}

/// What a measurement gave.
pub struct Measured {
    /// How long.
    pub elapsed: Duration,
    /// Chunks answered 200 in that time.
    pub chunks: u64,
    /// From the intended moment to the 200, nanoseconds.
    pub latency: Histogram<u64>,
    /// What the server used.
    pub server: Usage,
    /// What the generator used.
    pub generator: Usage,
    /// CPU time of everything else on this machine, and what the host took.
    pub others: Duration,
    /// Chunks that a receiver found in one read, on average: how far they were coalesced.
    pub chunks_per_read: f64,
    /// What went wrong.
    pub errors: BTreeMap<String, u64>,
}

/// All connections and sessions.
pub struct Exchange {
    poller: Poller,
    ready: Vec<Ready>,
    listeners: Vec<TcpListener>,
    links: Vec<Link>,
    dirty: Vec<usize>,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    shape: Shape,
    /// What bodies are cut from.
    block: Vec<u8>,
    scratch: Vec<u8>,
    started: Instant,
    progress: Progress,
}

/// What happens while bytes are read.
struct Progress {
    now: u64,
    latency: Histogram<u64>,
    /// Senders that may send again.
    freed: Vec<usize>,
    /// Chunks answered 200.
    good: u64,
    /// Chunks that receivers have seen end, and the reads that brought any.
    arrived: u64,
    reads: u64,
    ends_bound: usize,
    errors: BTreeMap<String, u64>,
    is_measuring: bool,
}

impl Progress {
    fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }
}

/// A connection.
struct Link {
    /// `None` once it is closed.
    stream: Option<TcpStream>,
    framer: Framer,
    /// Bytes of an incomplete piece.
    carry: Vec<u8>,
    egress: Egress,
    is_dirty: bool,
    waits_to_write: bool,
    /// A session lives on it; a stray connection may come and go.
    is_used: bool,
    /// Opened by this side for one session. One that was accepted may carry many, and whoever opened it closes it.
    is_own: bool,
    /// The end whose URI the last To-Path was, and the path lines of answers to it.
    owner: Option<(End, usize)>,
    answer_paths: Vec<u8>,
    chunk: Option<Chunk>,
}

impl Link {
    /// The connection is gone: an error when a session lived on it.
    fn lose(&mut self, why: &str, progress: &mut Progress) {
        if self.is_used {
            progress.error(why);
        }
        self.stream = None;
        self.egress = Egress::default();
        self.carry = Vec::new();
    }
}

/// The chunk that a link is in.
struct Chunk {
    tid: Vec<u8>,
    /// Bytes of the message before the next one.
    position: u64,
    has_body: bool,
    is_compared: bool,
}

/// What waits to be written: own bytes and slices of the block, in order.
#[derive(Default)]
struct Egress {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that have left.
    taken: usize,
    parts: VecDeque<Part>,
}

enum Part {
    Own(usize),
    Block { from: usize, len: usize },
}

struct Sender {
    link: Option<usize>,
    /// Both path lines of its requests.
    paths: Vec<u8>,
    to_path: Vec<u8>,
    tid: [u8; TID_LEN],
    next: u32,
    outstanding: u32,
    /// When each unanswered chunk should have left; zero for a free place.
    intended: Vec<u64>,
    message: u64,
    position: u64,
    sent_len: u64,
    is_bound: bool,
    hash: Option<Sha256>,
}

struct Receiver {
    uri: Vec<u8>,
    /// What From-Path must be, when it is known.
    from_path: Option<Vec<u8>>,
    link: Option<usize>,
    /// Bytes of the current message.
    position: u64,
    received_len: u64,
    chunk_count: u64,
    message_count: u64,
    is_bound: bool,
    hash: Option<Sha256>,
}

impl Exchange {
    /// No connections yet.
    pub fn new(shape: Shape) -> io::Result<Self> {
        let block = if shape.message_len > shape.chunk_len as u64 { BLOCK_LEN.max(2 * shape.chunk_len) } else { 0 };
        Ok(Self {
            poller: Poller::new()?,
            ready: Vec::new(),
            listeners: Vec::new(),
            links: Vec::new(),
            dirty: Vec::new(),
            senders: Vec::new(),
            receivers: Vec::new(),
            block: block_of(block.max(shape.chunk_len)),
            shape,
            scratch: vec![0; SCRATCH_LEN],
            started: Instant::now(),
            progress: Progress {
                now: 0,
                latency: new_histogram(),
                freed: Vec::new(),
                good: 0,
                arrived: 0,
                reads: 0,
                ends_bound: 0,
                errors: BTreeMap::new(),
                is_measuring: false,
            },
        })
    }

    /// Descriptor that becomes readable when there is something to do.
    pub fn descriptor(&self) -> RawFd {
        self.poller.descriptor()
    }

    /// Accepts connections on a port of the kernel's choice.
    pub fn listen(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((ip, 0))?;
        // The standard library's backlog of 128 is short for a burst of connections.
        socket2::SockRef::from(&listener).listen(4096)?;
        listener.set_nonblocking(true)?;
        self.poller.add(listener.as_raw_fd(), LISTENER_TOKEN + self.listeners.len() as u64)?;
        let addr = listener.local_addr()?;
        self.listeners.push(listener);
        Ok(addr)
    }

    /// Adds a session whose ends are reached at these addresses; returns its index and the URIs of both ends.
    pub fn add_session(&mut self, sender_at: SocketAddr, receiver_at: SocketAddr) -> (usize, [String; 2]) {
        let index = self.senders.len();
        let uris = [uri(End::Sender, index, sender_at), uri(End::Receiver, index, receiver_at)];
        let mut tid = [b'0'; TID_LEN];
        tid[0] = b'c';
        tid[1..9].copy_from_slice(&template::run().as_bytes()[..8]);
        template::write_hex(&mut tid[9..15], index as u64);
        self.senders.push(Sender {
            link: None,
            paths: Vec::new(),
            to_path: Vec::new(),
            tid,
            next: 0,
            outstanding: 0,
            intended: Vec::new(),
            message: 0,
            position: 0,
            sent_len: 0,
            is_bound: false,
            hash: None,
        });
        self.receivers.push(Receiver {
            uri: uris[1].clone().into_bytes(),
            from_path: None,
            link: None,
            position: 0,
            received_len: 0,
            chunk_count: 0,
            message_count: 0,
            is_bound: false,
            hash: None,
        });
        (index, uris)
    }

    /// The sender's own URI.
    pub fn sender_uri(&self, index: usize, sender_at: SocketAddr) -> String {
        uri(End::Sender, index, sender_at)
    }

    /// The sender's To-Path, from the path list that it was given.
    pub fn set_sender_path(&mut self, index: usize, to_path: &str, own_uri: &str) {
        let sender = &mut self.senders[index];
        sender.to_path = to_path.as_bytes().to_vec();
        sender.paths = msrp::path_lines(to_path.as_bytes(), own_uri.as_bytes());
    }

    /// What the receiver's From-Path lines must be, entry by entry.
    pub fn expect_from_path(&mut self, index: usize, path: &str) {
        self.receivers[index].from_path = Some(path.as_bytes().to_vec());
    }

    /// Computes the hash of everything that a session carries.
    pub fn hash_session(&mut self, index: usize) {
        self.senders[index].hash = Some(Sha256::new());
        self.receivers[index].hash = Some(Sha256::new());
    }

    /// Both hashes of a session: sent and received.
    pub fn hashes(&mut self, index: usize) -> Option<[String; 2]> {
        let text = |hash: Sha256| hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some([text(self.senders[index].hash.take()?), text(self.receivers[index].hash.take()?)])
    }

    /// Complete messages and bytes at a session's receiver.
    pub fn received(&self, index: usize) -> (u64, u64) {
        (self.receivers[index].message_count, self.receivers[index].received_len)
    }

    /// Opens a connection for one end of a session and sends the bodiless SEND that binds it.
    pub fn connect(&mut self, end: End, index: usize, to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
        if let Some(ip) = from {
            bind_without_port(&socket);
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
        socket.connect_timeout(&to.into(), CONNECT_MAX)?;
        let link = self.add_link(socket.into())?;
        let mut tid = self.senders[index].tid;
        let paths = match end {
            End::Sender => {
                self.senders[index].link = Some(link);
                tid[0] = b'x';
                self.senders[index].paths.clone()
            }
            End::Receiver => {
                let receiver = &mut self.receivers[index];
                receiver.link = Some(link);
                tid[0] = b'y';
                msrp::path_lines(receiver.from_path.as_deref().unwrap_or_default(), &receiver.uri)
            }
        };
        let range = ByteRange { start: 1, end: Some(0), total: Some(0) };
        let head = HeadText { tid: &tid, paths: &paths, message_id: &tid, range, content_type: b"" };
        self.links[link].is_used = true;
        self.links[link].is_own = true;
        self.links[link].egress.own(|bytes| {
            head.write(bytes);
            msrp::write_end(bytes, &tid, Flag::End);
        });
        self.mark_dirty(link);
        Ok(())
    }

    fn add_link(&mut self, stream: TcpStream) -> io::Result<usize> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let link = self.links.len();
        self.poller.add(stream.as_raw_fd(), link as u64)?;
        self.links.push(Link {
            stream: Some(stream),
            framer: Framer::default(),
            carry: Vec::new(),
            egress: Egress::default(),
            is_dirty: false,
            waits_to_write: false,
            is_used: false,
            is_own: false,
            owner: None,
            answer_paths: Vec::new(),
            chunk: None,
        });
        Ok(link)
    }

    /// Sessions that were added.
    pub fn session_count(&self) -> usize {
        self.senders.len()
    }

    /// Ends that are bound, of two a session.
    pub fn bound_count(&self) -> usize {
        self.progress.ends_bound
    }

    /// Pumps until so many ends are bound.
    pub fn wait_bound(&mut self, count: usize, longest: Duration) -> Result<(), String> {
        let deadline = Instant::now() + longest;
        while self.bound_count() < count {
            self.pump(Duration::from_millis(5)).map_err(|error| error.to_string())?;
            if let Some(errors) = self.error_text() {
                return Err(errors);
            }
            if Instant::now() > deadline {
                return Err(format!("{} of {count} ends were bound within {longest:?}", self.bound_count()));
            }
        }
        Ok(())
    }

    /// What went wrong, in a line.
    pub fn error_text(&self) -> Option<String> {
        let list: Vec<String> =
            self.progress.errors.iter().map(|(kind, count)| format!("MSRP: {kind} ({count}×)")).collect();
        (!list.is_empty()).then(|| list.join(", "))
    }

    /// Both ends of a session are bound.
    pub fn is_bound(&self, index: usize) -> bool {
        self.senders[index].is_bound && self.receivers[index].is_bound
    }

    /// Sends one chunk of a session.
    pub fn send_one(&mut self, index: usize) {
        let now = self.now();
        self.push(index, now);
    }

    /// Every chunk that a session has sent was answered and has arrived.
    pub fn is_settled(&self, index: usize) -> bool {
        self.senders[index].outstanding == 0 && self.senders[index].sent_len == self.receivers[index].received_len
    }

    /// From here on the connections of a session may be closed by the other side.
    pub fn retire_session(&mut self, index: usize) {
        for link in [self.senders[index].link, self.receivers[index].link].into_iter().flatten() {
            self.links[link].is_used &= !self.links[link].is_own;
        }
    }

    /// From here on connections may be closed by the other side.
    pub fn retire(&mut self) {
        for link in &mut self.links {
            link.is_used = false;
        }
    }

    /// Closes the connections that were opened for a session; reset, so that no port waits for latecomers.
    pub fn close(&mut self, index: usize) {
        for link in [self.senders[index].link.take(), self.receivers[index].link.take()].into_iter().flatten() {
            let link = &mut self.links[link];
            if !link.is_own {
                continue;
            }
            if let Some(stream) = link.stream.take() {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            link.egress = Egress::default();
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn mark_dirty(&mut self, link: usize) {
        if !std::mem::replace(&mut self.links[link].is_dirty, true) {
            self.dirty.push(link);
        }
    }

    /// Queues a session's next chunk.
    fn push(&mut self, index: usize, intended: u64) {
        let Self { senders, links, shape, block, .. } = self;
        let sender = &mut senders[index];
        let Some(link) = sender.link else { return };
        if sender.intended.is_empty() {
            sender.intended = vec![0; UNANSWERED_MAX];
        }
        let tid = &mut sender.tid;
        template::write_hex(&mut tid[15..23], u64::from(sender.next));
        sender.intended[sender.next as usize % UNANSWERED_MAX] = intended.max(1);
        sender.next = sender.next.wrapping_add(1);
        sender.outstanding += 1;
        let len = shape.chunk_len.min((shape.message_len - sender.position) as usize);
        let from = block_offset(sender.position, shape.chunk_len, block.len());
        let (start, end) = (sender.position + 1, sender.position + len as u64);
        let is_last = end == shape.message_len;
        let mut message_id = [b'm'; 17];
        template::write_hex(&mut message_id[1..], sender.message);
        let end_text = if shape.open_range { None } else { Some(end) };
        let head = HeadText {
            tid: &*tid,
            paths: &sender.paths,
            message_id: &message_id,
            range: ByteRange { start, end: end_text, total: Some(shape.message_len) },
            content_type: b"message/cpim",
        };
        let egress = &mut links[link].egress;
        egress.own(|bytes| head.write(bytes));
        if let Some(hash) = &mut sender.hash {
            hash.update(&block[from..from + len]);
        }
        if len < COPIED_LEN_MAX {
            egress.own(|bytes| bytes.extend_from_slice(&block[from..from + len]));
        } else {
            egress.parts.push_back(Part::Block { from, len });
        }
        egress.own(|bytes| {
            bytes.extend_from_slice(b"\r\n");
            msrp::write_end(bytes, &*tid, if is_last { Flag::End } else { Flag::More });
        });
        sender.position = if is_last { 0 } else { end };
        sender.message += u64::from(is_last);
        sender.sent_len += len as u64;
        self.mark_dirty(link);
    }

    /// Writes what is queued, waits at most so long, reads what has arrived and writes the answers.
    pub fn pump(&mut self, longest: Duration) -> io::Result<()> {
        self.flush_dirty()?;
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(longest, &mut ready)?;
        for event in &ready {
            if event.token >= LISTENER_TOKEN {
                self.accept((event.token - LISTENER_TOKEN) as usize)?;
                continue;
            }
            let link = event.token as usize;
            if event.write {
                self.flush(link)?;
            }
            if event.read {
                self.progress.now = self.now();
                self.read(link);
            }
        }
        self.ready = ready;
        self.flush_dirty()
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            match self.listeners[listener].accept() {
                Ok((stream, _)) => self.add_link(stream)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
        }
    }

    fn flush_dirty(&mut self) -> io::Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in dirty.drain(..) {
            self.links[link].is_dirty = false;
            if !self.links[link].waits_to_write {
                self.flush(link)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn flush(&mut self, index: usize) -> io::Result<()> {
        let link = &mut self.links[index];
        let Some(stream) = &mut link.stream else { return Ok(()) };
        let full = match link.egress.flush(stream, &self.block) {
            Ok(()) => false,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => true,
            Err(error) => {
                link.lose(&format!("write: {}", error.kind()), &mut self.progress);
                return Ok(());
            }
        };
        if full != link.waits_to_write {
            link.waits_to_write = full;
            self.poller.watch_writing(stream.as_raw_fd(), index as u64, full)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) {
        let Self { links, senders, receivers, progress, scratch, block, shape, .. } = self;
        let link = &mut links[index];
        let Some(stream) = &mut link.stream else { return };
        let carried = link.carry.len();
        scratch[..carried].copy_from_slice(&link.carry);
        let len = match stream.read(&mut scratch[carried..]) {
            Ok(0) => return link.lose("a connection was closed", progress),
            Ok(len) => carried + len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(error) => return link.lose(&format!("read: {}", error.kind()), progress),
        };
        link.carry.clear();
        let arrived_before = progress.arrived;
        let Link { framer, egress, owner, answer_paths, chunk, is_used, .. } = link;
        let mut desk = Desk { index, senders, receivers, progress, block, shape, egress, owner, answer_paths, chunk };
        let used = framer.feed(&scratch[..len], |piece| desk.take(piece));
        *is_used |= owner.is_some();
        progress.reads += u64::from(progress.arrived != arrived_before);
        match used {
            Ok(used) => link.carry.extend_from_slice(&scratch[used..len]),
            Err(fault) => return link.lose(&format!("framing: {fault:?}"), progress),
        }
        if !link.egress.parts.is_empty() {
            self.mark_dirty(index);
        }
    }

    /// Sends by plan and checks every answer and every byte count.
    pub fn drive(&mut self, plan: &Plan, watch: &mut Watch) -> Result<Measured, String> {
        let start = self.now();
        let warm_up = start + plan.warm_up.as_nanos() as u64;
        let end = warm_up + plan.measured.as_nanos() as u64;
        let sender_count = self.senders.len();
        self.progress.freed = (0..sender_count).collect();
        self.progress.latency = new_histogram();
        let good_at_start = self.progress.good;
        let (mut next, mut before, mut after) = (0_u64, None, None);
        let (mut last_good, mut last_progress) = (0, start);
        loop {
            let now = self.now();
            if before.is_none() && now >= warm_up {
                before = Some(self.edge(watch, now));
                self.progress.is_measuring = true;
            }
            let measured_from = before.as_ref().map_or(u64::MAX, |edge: &Edge| edge.good);
            let count_reached =
                plan.count_max.is_some_and(|max| self.progress.good.saturating_sub(measured_from) >= max);
            let all_sent = plan.one_message && self.senders.iter().all(|sender| sender.message > 0);
            let is_ending = now >= end || count_reached || all_sent;
            let unanswered: u64 =
                if is_ending { self.senders.iter().map(|sender| u64::from(sender.outstanding)).sum() } else { 0 };
            // One message is measured up to its last answer, a stream up to the moment in which it is cut off.
            let is_over = is_ending && (!all_sent || unanswered == 0);
            if after.is_none() && is_over {
                after = Some(self.edge(watch, now));
                self.progress.is_measuring = false;
            }
            if is_over && unanswered == 0 {
                break;
            }
            watch.sample(now);
            if self.progress.good != last_good {
                (last_good, last_progress) = (self.progress.good, now);
            }
            if now - last_progress > STALL_NS {
                self.progress.error("no answer for ten seconds");
            }
            if !self.progress.errors.is_empty() {
                break;
            }
            if after.is_none() {
                match plan.pace {
                    Pace::Closed { window } => {
                        let mut freed = std::mem::take(&mut self.progress.freed);
                        for index in freed.drain(..) {
                            while self.senders[index].outstanding < window
                                && !(plan.one_message && self.senders[index].message > 0)
                            {
                                self.push(index, now);
                            }
                        }
                        self.progress.freed = freed;
                    }
                    Pace::Open { interval_ns } => {
                        loop {
                            let intended = start + (next as f64 * interval_ns) as u64;
                            let index = next as usize % sender_count;
                            // A full table is the sender's own limit: the chunk leaves late and counts from its moment.
                            if intended > now || self.senders[index].outstanding as usize >= UNANSWERED_MAX {
                                break;
                            }
                            self.push(index, intended);
                            next += 1;
                        }
                        self.progress.freed.clear();
                    }
                }
            }
            // An open loop does not sleep: waking up would be measured, too.
            let longest =
                if matches!(plan.pace, Pace::Open { .. }) { Duration::ZERO } else { Duration::from_millis(50) };
            self.pump(longest).map_err(|error| error.to_string())?;
        }
        self.settle(sender_count)?;
        let before = before.ok_or_else(|| self.failure())?;
        let after = after.ok_or_else(|| self.failure())?;
        let (good0, good1) = (before.good, after.good);
        debug_assert!(good0 >= good_at_start && good1 >= good0);
        let (server, generator) = (after.server.since(&before.server), after.own.since(&before.own));
        Ok(Measured {
            elapsed: Duration::from_nanos(after.at - before.at),
            chunks: good1 - good0,
            latency: std::mem::replace(&mut self.progress.latency, new_histogram()),
            others: (after.machine - before.machine).saturating_sub(server.stat + generator.stat),
            server,
            generator,
            chunks_per_read: (after.arrived - before.arrived) as f64 / (after.reads - before.reads).max(1) as f64,
            errors: std::mem::take(&mut self.progress.errors),
        })
    }

    /// Everything that is read at both edges of the measured part.
    fn edge(&self, watch: &Watch, at: u64) -> Edge {
        let Progress { good, arrived, reads, .. } = self.progress;
        let own = Usage::of(std::process::id()).unwrap_or_default();
        Edge { server: watch.usage(), own, machine: machine_busy(), at, good, arrived, reads }
    }

    fn failure(&self) -> String {
        self.error_text().unwrap_or_else(|| "nothing was measured".into())
    }

    /// With every 200 in, every byte must be at its receiver; one that answers early for another gets a moment.
    fn settle(&mut self, count: usize) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let missing =
                (0..count).filter(|index| self.senders[*index].sent_len != self.receivers[*index].received_len);
            let missing = missing.count() as u64;
            if missing == 0 || !self.progress.errors.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                *self.progress.errors.entry("sessions whose bytes did not all arrive".into()).or_default() += missing;
                return Ok(());
            }
            self.pump(Duration::from_millis(5)).map_err(|error| error.to_string())?;
        }
    }
}

/// What one link's bytes act upon.
struct Desk<'a> {
    index: usize,
    senders: &'a mut Vec<Sender>,
    receivers: &'a mut Vec<Receiver>,
    progress: &'a mut Progress,
    block: &'a [u8],
    shape: &'a Shape,
    egress: &'a mut Egress,
    owner: &'a mut Option<(End, usize)>,
    answer_paths: &'a mut Vec<u8>,
    chunk: &'a mut Option<Chunk>,
}

impl Desk<'_> {
    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Head(head) => match head.kind {
                Kind::Send => self.on_send(&head),
                Kind::Response(status) => self.on_response(head.tid, status),
                Kind::Report => self.progress.error("a REPORT that nobody asked for"),
                Kind::Other => self.progress.error("an unknown method"),
            },
            Piece::Body(bytes) => self.on_body(bytes),
            Piece::End(flag) => self.on_end(flag),
        }
    }

    fn on_send(&mut self, head: &msrp::Head<'_>) {
        if !head.paths_repeat {
            *self.owner = self.find_owner(head);
            *self.answer_paths = msrp::path_lines(msrp::first(head.from_path), head.to_path);
        }
        let Some((end, index)) = *self.owner else {
            self.progress.error("a SEND for nobody");
            return;
        };
        let start = head.range.map_or(1, |range| range.start);
        if end == End::Receiver && head.has_body {
            let receiver = &mut self.receivers[index];
            if start != receiver.position + 1 {
                self.progress.error(format!("a chunk that starts at {start} and not at {}", receiver.position + 1));
            }
            if head.content_type != b"message/cpim" || head.message_id.is_empty() {
                self.progress.error("a changed Content-Type or Message-ID");
            }
            if head.range.and_then(|range| range.total) != Some(self.shape.message_len) {
                self.progress.error("a changed total");
            }
            receiver.link = Some(self.index);
        }
        if end == End::Sender && head.has_body {
            self.progress.error("a message toward a sender");
        }
        let sampled = if self.shape.chunk_len >= COPIED_LEN_MAX { 31 } else { 1023 };
        *self.chunk = Some(Chunk {
            tid: head.tid.to_vec(),
            position: start - 1,
            has_body: head.has_body,
            is_compared: self.progress.arrived & sampled == 0,
        });
    }

    /// To-Path must be one of our URIs alone; From-Path what was agreed.
    fn find_owner(&mut self, head: &msrp::Head<'_>) -> Option<(End, usize)> {
        let id = msrp::session_id(head.to_path)?;
        let index = usize::from_str_radix(std::str::from_utf8(id.get(1..7)?).ok()?, 16).ok()?;
        let end = if id[0] == End::Sender.mark() { End::Sender } else { End::Receiver };
        let receiver = self.receivers.get(index)?;
        if end == End::Receiver {
            if receiver.uri != head.to_path {
                return None;
            }
            if receiver.from_path.as_ref().is_some_and(|path| path != head.from_path) {
                self.progress.error(format!("From-Path {}", String::from_utf8_lossy(head.from_path)));
            }
        }
        Some((end, index))
    }

    fn on_body(&mut self, bytes: &[u8]) {
        let (Some(chunk), Some((End::Receiver, index))) = (self.chunk.as_mut(), *self.owner) else { return };
        let receiver = &mut self.receivers[index];
        if chunk.is_compared {
            let within = (chunk.position % self.shape.chunk_len as u64) as usize;
            let at = block_offset(chunk.position - within as u64, self.shape.chunk_len, self.block.len()) + within;
            let same = self.block.get(at..at + bytes.len());
            // A body cut together differently than it was sent is left to the hash.
            if within + bytes.len() <= self.shape.chunk_len && same != Some(bytes) {
                self.progress.error("a changed body");
            }
        }
        if let Some(hash) = &mut receiver.hash {
            hash.update(bytes);
        }
        chunk.position += bytes.len() as u64;
        receiver.position = chunk.position;
        receiver.received_len += bytes.len() as u64;
    }

    fn on_end(&mut self, flag: Flag) {
        let Some(chunk) = self.chunk.take() else { return };
        self.egress.own(|bytes| msrp::write_ok(bytes, &chunk.tid, self.answer_paths));
        match *self.owner {
            Some((End::Receiver, index)) if chunk.has_body => {
                self.progress.arrived += 1;
                let receiver = &mut self.receivers[index];
                receiver.chunk_count += 1;
                match flag {
                    Flag::More => {}
                    Flag::End => {
                        if receiver.position != self.shape.message_len {
                            self.progress.error("a message ended early");
                        }
                        receiver.message_count += 1;
                        receiver.position = 0;
                    }
                    Flag::Abort => self.progress.error("a message was given up"),
                }
            }
            Some((End::Receiver, index)) => self.bind(End::Receiver, index),
            Some((End::Sender, index)) => {
                self.senders[index].link = Some(self.index);
                self.bind(End::Sender, index);
            }
            None => {}
        }
    }

    fn bind(&mut self, end: End, index: usize) {
        let is_bound = match end {
            End::Sender => &mut self.senders[index].is_bound,
            End::Receiver => &mut self.receivers[index].is_bound,
        };
        if !std::mem::replace(is_bound, true) {
            self.progress.ends_bound += 1;
        }
    }

    fn on_response(&mut self, tid: &[u8], status: u16) {
        if status != 200 {
            self.progress.error(format!("status {status}"));
            return;
        }
        let hex = |range: std::ops::Range<usize>| -> Option<u64> {
            u64::from_str_radix(std::str::from_utf8(tid.get(range)?).ok()?, 16).ok()
        };
        let (Some(index), Some(number)) = (hex(9..15), hex(15..23)) else {
            self.progress.error("an answer to nothing");
            return;
        };
        let index = index as usize;
        match tid[0] {
            b'x' if index < self.senders.len() => self.bind(End::Sender, index),
            b'y' if index < self.receivers.len() => self.bind(End::Receiver, index),
            b'c' if index < self.senders.len() => {
                let sender = &mut self.senders[index];
                let age = u64::from(sender.next.wrapping_sub(number as u32));
                let Some(place) = sender.intended.get_mut(number as usize % UNANSWERED_MAX) else { return };
                if *place == 0 || age == 0 || age > UNANSWERED_MAX as u64 {
                    self.progress.error("an answer that came twice");
                    return;
                }
                if self.progress.is_measuring {
                    self.progress.latency.saturating_record(self.progress.now.saturating_sub(*place).max(1));
                }
                *place = 0;
                sender.outstanding -= 1;
                self.progress.good += 1;
                if self.progress.freed.last() != Some(&index) {
                    self.progress.freed.push(index);
                }
            }
            _ => self.progress.error("an answer to nothing"),
        }
    }
}

impl Egress {
    /// Appends bytes of its own.
    pub fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        let len = self.bytes.len() - before;
        match self.parts.back_mut() {
            Some(Part::Own(last)) => *last += len,
            _ => self.parts.push_back(Part::Own(len)),
        }
    }

    fn flush(&mut self, stream: &mut TcpStream, block: &[u8]) -> io::Result<()> {
        while !self.parts.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let (mut at, mut count) = (self.taken, 0);
                for part in self.parts.iter().take(SLICES_MAX) {
                    slices[count] = match part {
                        Part::Own(len) => {
                            at += len;
                            IoSlice::new(&self.bytes[at - len..at])
                        }
                        Part::Block { from, len } => IoSlice::new(&block[*from..from + len]),
                    };
                    count += 1;
                }
                if count == 1 { stream.write(&slices[0])? } else { stream.write_vectored(&slices[..count])? }
            };
            self.advance(written);
        }
        self.bytes.clear();
        self.taken = 0;
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let Some(part) = self.parts.front_mut() else { return };
            let (part_len, own) = match part {
                Part::Own(len) => (len, true),
                Part::Block { from, len } => {
                    *from += written.min(*len);
                    (len, false)
                }
            };
            let step = written.min(*part_len);
            *part_len -= step;
            written -= step;
            if own {
                self.taken += step;
            }
            if *part_len == 0 {
                self.parts.pop_front();
            }
        }
    }
}

/// The URI of one end: it carries the session's index and the run, so that no table is needed to find it.
fn uri(end: End, index: usize, at: SocketAddr) -> String {
    format!("msrp://{at}/{}{index:06x}{}x;tcp", char::from(end.mark()), template::run())
}

/// Where in the block a chunk's body is: neighbours differ, so that a lost or doubled one changes the hash.
fn block_offset(position: u64, chunk_len: usize, block_len: usize) -> usize {
    let room = block_len - chunk_len;
    if room == 0 { 0 } else { (position / chunk_len as u64 * 4099 % room as u64) as usize }
}

/// A CPIM head and printable filler behind it.
fn block_of(len: usize) -> Vec<u8> {
    let head = b"From: <sip:alice@a.example>\r\nTo: <sip:bob@home.example>\r\nDateTime: 2031-05-04T09:30:00Z\r\n\r\n\
        Content-Type: text/plain;charset=UTF-8\r\n\r\n";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let filler = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b' ' + (state >> 32) as u8 % 94
    });
    head.iter().copied().chain(filler).take(len).collect()
}

/// Leaves the choice of the port to connect, where it may repeat for another peer.
fn bind_without_port(socket: &socket2::Socket) {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, whose address and size are given; a refusal is only a return value.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// 1 ns to 100 s.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("1 ns to 100 s at three digits is valid")
}

/// Mark, run, session, number.
const TID_LEN: usize = 23;
/// Unanswered chunks that a session tells apart.
const UNANSWERED_MAX: usize = 1 << 12;
/// Bodies below this are copied behind their heads: an iovec costs more.
const COPIED_LEN_MAX: usize = 4096;
/// Bytes of one read, and of what was left of the read before.
const SCRATCH_LEN: usize = 512 * 1024;
/// Where the bodies of long messages are cut from.
const BLOCK_LEN: usize = 256 * 1024;
const SLICES_MAX: usize = 64;
/// Tokens below are links.
const LISTENER_TOKEN: u64 = 1 << 32;
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// No answer for so long ends a measurement.
const STALL_NS: u64 = 10_000_000_000;
const SAMPLE_NS: u64 = 20_000_000;
const SETTLE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn direct(shape: Shape, sessions: usize) -> (Exchange, SocketAddr) {
        let mut exchange = Exchange::new(shape).expect("an epoll instance");
        let at = exchange.listen(LOCAL).expect("a listener");
        for _ in 0..sessions {
            let (index, [sender, receiver]) = exchange.add_session(at, at);
            exchange.set_sender_path(index, &receiver, &sender);
            exchange.expect_from_path(index, &sender);
            exchange.connect(End::Sender, index, at, None).expect("a connection");
        }
        exchange.wait_bound(2 * sessions, Duration::from_secs(10)).expect("both ends are bound");
        (exchange, at)
    }

    fn one_message(window: u32) -> Plan {
        Plan {
            pace: Pace::Closed { window },
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(20),
            count_max: None,
            one_message: true,
        }
    }

    #[test]
    fn a_message_arrives_whole_with_its_last_short_chunk() {
        for (chunk_len, open_range) in [(100_000, false), (100_000, true), (300, false), (300, true)] {
            let (mut exchange, _) = direct(Shape { chunk_len, message_len: 1_000_001, open_range }, 1);
            exchange.hash_session(0);
            let measured = exchange.drive(&one_message(8), &mut Watch::default()).expect("it passes");
            assert_eq!(measured.errors, BTreeMap::new());
            assert_eq!(measured.chunks, 1_000_001_u64.div_ceil(chunk_len as u64));
            assert_eq!(measured.latency.len(), measured.chunks);
            let [sent, received] = exchange.hashes(0).expect("hashes were asked for");
            assert_eq!(sent, received);
            assert_eq!(exchange.received(0), (1, 1_000_001));
        }
    }

    #[test]
    fn an_open_loop_keeps_its_rate_over_all_sessions() {
        let (mut exchange, _) = direct(Shape { chunk_len: 300, message_len: 900, open_range: false }, 3);
        let plan = Plan {
            pace: Pace::Open { interval_ns: 1e6 },
            warm_up: Duration::from_millis(50),
            measured: Duration::from_millis(300),
            count_max: None,
            one_message: false,
        };
        let measured = exchange.drive(&plan, &mut Watch::default()).expect("it passes");
        assert_eq!(measured.errors, BTreeMap::new());
        let counts: Vec<u32> = exchange.senders.iter().map(|sender| sender.next).collect();
        let all: u32 = counts.iter().sum();
        // A machine that stops for a moment delays chunks, but it never makes more of them.
        assert!((50..=351).contains(&all), "{all} chunks in 350 ms at 1000/s");
        assert!(counts.iter().max().zip(counts.iter().min()).is_some_and(|(most, least)| most - least <= 1));
    }

    #[test]
    fn what_a_server_spoils_is_noticed() {
        let body = |exchange: &Exchange| exchange.block[..4].to_vec();
        let cases: [(&str, &str, &str, &str); 6] = [
            ("a chunk that starts at 2", "2-5/4", "message/cpim", ""),
            ("a changed total", "1-4/5", "message/cpim", ""),
            ("a changed Content-Type", "1-4/4", "text/plain", ""),
            ("a changed body", "1-4/4", "message/cpim", "xxxx"),
            ("a message ended early", "1-3/4", "message/cpim", "Fro"),
            ("framing: EndLine", "1-3/4", "message/cpim", ""),
        ];
        for (expected, range, content_type, text) in cases {
            let (mut exchange, at) = direct(Shape { chunk_len: 4, message_len: 4, open_range: false }, 1);
            let bytes = if text.is_empty() { body(&exchange) } else { text.as_bytes().to_vec() };
            let receiver = String::from_utf8(exchange.receivers[0].uri.clone()).expect("ASCII");
            let sender = exchange.sender_uri(0, at);
            let mut chunk = format!(
                "MSRP tid1aaaa SEND\r\nTo-Path: {receiver}\r\nFrom-Path: {sender}\r\nMessage-ID: m\r\nByte-Range: {range}\r\n\
                 Content-Type: {content_type}\r\n\r\n"
            )
            .into_bytes();
            chunk.extend(bytes);
            chunk.extend(b"\r\n-------tid1aaaa$\r\n");
            let mut stream = TcpStream::connect(at).expect("a connection");
            stream.write_all(&chunk).expect("it fits");
            let deadline = Instant::now() + Duration::from_secs(10);
            while exchange.error_text().is_none() && Instant::now() < deadline {
                exchange.pump(Duration::from_millis(5)).expect("epoll works");
            }
            let error = exchange.error_text().unwrap_or_default();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_foreign_from_path_and_a_stranger_are_noticed() {
        let (mut exchange, at) = direct(Shape { chunk_len: 4, message_len: 4, open_range: false }, 1);
        let receiver = String::from_utf8(exchange.receivers[0].uri.clone()).expect("ASCII");
        let mut stream = TcpStream::connect(at).expect("a connection");
        for to in [receiver.as_str(), "msrp://127.0.0.1:9/b000009;tcp"] {
            let send = format!(
                "MSRP tid1aaaa SEND\r\nTo-Path: {to}\r\nFrom-Path: msrp://127.0.0.1:9/x;tcp\r\nMessage-ID: m\r\n-------tid1aaaa$\r\n"
            );
            stream.write_all(send.as_bytes()).expect("it fits");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while exchange.progress.errors.len() < 2 && Instant::now() < deadline {
            exchange.pump(Duration::from_millis(5)).expect("epoll works");
        }
        let errors = exchange.error_text().unwrap_or_default();
        assert!(
            errors.contains("From-Path msrp://127.0.0.1:9/x;tcp") && errors.contains("a SEND for nobody"),
            "{errors}"
        );
    }

    #[test]
    fn a_partial_write_is_continued_where_it_stopped() {
        let mut egress = Egress::default();
        egress.own(|bytes| bytes.extend_from_slice(b"head"));
        egress.parts.push_back(Part::Block { from: 10, len: 6 });
        egress.own(|bytes| bytes.extend_from_slice(b"tail"));
        for written in [3, 4, 5] {
            egress.advance(written);
        }
        assert_eq!(egress.taken, 6);
        assert!(matches!(egress.parts.front(), Some(Part::Own(2))));
        egress.advance(2);
        assert!(egress.parts.is_empty());
    }
}
