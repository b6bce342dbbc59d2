//! A SIP endpoint on real sockets: one UDP socket and one TCP listener on the same port, with the few transaction
//! rules that a peer must keep (retransmit requests over UDP, answer a repeated request with the same response).

use super::message::{branch, decode, encode, is_request, status, title, value};
use rsip::SipMessage;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The demo was asked to stop; every wait ends early.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// How often waits look up: at [`INTERRUPTED`], and at retransmissions that are due.
pub const TICK: Duration = Duration::from_millis(20);

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// A message that arrived, and where its answer goes.
#[derive(Clone)]
pub struct Arrival {
    /// The message.
    pub message: SipMessage,
    way_back: WayBack,
}

#[derive(Clone)]
enum WayBack {
    Udp(SocketAddr),
    Tcp(Arc<TcpStream>),
}

impl Arrival {
    /// How it came.
    pub fn transport(&self) -> Transport {
        match self.way_back {
            WayBack::Udp(_) => Transport::Udp,
            WayBack::Tcp(_) => Transport::Tcp,
        }
    }
}

/// A SIP endpoint on loopback.
pub struct Endpoint {
    name: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
    arrivals: Receiver<Event>,
    waiting: VecDeque<Arrival>,
    connections: HashMap<SocketAddr, Arc<TcpStream>>,
    threads: Vec<JoinHandle<()>>,
}

enum Event {
    Arrived(Box<Arrival>),
    Unreadable(String),
    Marker(u64),
}

/// What the endpoint's threads share.
struct Shared {
    udp: UdpSocket,
    events: SyncSender<Event>,
    transactions: Mutex<Transactions>,
    streams: Mutex<Vec<Arc<TcpStream>>>,
    markers: AtomicU64,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Transactions {
    /// Requests sent over UDP that have no final response yet, by branch.
    clients: HashMap<String, Client>,
    /// Status of the final responses received, by branch: a repeated one is not told twice.
    ended: HashMap<String, u16>,
    /// Requests received, by branch and method, with their final response once there is one.
    servers: HashMap<String, Option<Vec<u8>>>,
}

/// Timer E of RFC 3261 §17.1.2.2, at our tick's precision.
struct Client {
    bytes: Vec<u8>,
    to: SocketAddr,
    due: Instant,
    interval: Duration,
}

impl Endpoint {
    /// An endpoint on a port of the kernel's choice, the same for UDP and TCP.
    pub fn bind(name: &'static str) -> io::Result<Self> {
        let (udp, tcp) = bind_pair()?;
        udp.set_read_timeout(Some(TICK))?;
        let address = udp.local_addr()?;
        let (events, arrivals) = sync_channel(EVENT_COUNT_MAX);
        let shared = Arc::new(Shared {
            udp,
            events,
            transactions: Mutex::default(),
            streams: Mutex::default(),
            markers: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            std::thread::spawn(move || for_udp.receive_datagrams()),
            std::thread::spawn(move || for_tcp.accept_streams(&tcp)),
        ];
        Ok(Self { name, address, shared, arrivals, waiting: VecDeque::new(), connections: HashMap::new(), threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request; over UDP it is retransmitted until a final response is there.
    pub fn send(&mut self, request: &SipMessage, to: SocketAddr, transport: Transport) -> Result<(), String> {
        let bytes = encode(request);
        let sent = match transport {
            Transport::Udp => {
                let client = Client { bytes: bytes.clone(), to, due: Instant::now() + T1, interval: T1 };
                lock(&self.shared.transactions).clients.insert(branch(request), client);
                self.shared.udp.send_to(&bytes, to).map(drop)
            }
            Transport::Tcp => self.connection(to).and_then(|stream| (&*stream).write_all(&bytes)),
        };
        sent.map_err(|cause| format!("{} cannot send to {to} over {transport}: {cause}", self.name))
    }

    /// Sends a response the way its request came, and again whenever the request is repeated.
    pub fn answer(&mut self, request: &Arrival, response: &SipMessage) -> Result<(), String> {
        let bytes = encode(response);
        lock(&self.shared.transactions).servers.insert(server_key(&request.message), Some(bytes.clone()));
        self.shared
            .send_back(&request.way_back, &bytes)
            .map_err(|cause| format!("{} cannot answer over {}: {cause}", self.name, request.transport()))
    }

    /// Waits for a request of a method.
    pub fn expect_request(&mut self, method: rsip::Method) -> Result<Arrival, String> {
        self.wait(&format!("a {method} request"), |message| is_request(message, method))
    }

    /// Waits for the final response to a request sent before.
    pub fn expect_final(&mut self, request: &SipMessage) -> Result<SipMessage, String> {
        let wanted = branch(request);
        let arrival = self.wait(&format!("the final response to {}", title(request)), |message| {
            status(message) >= 200 && branch(message) == wanted
        })?;
        Ok(arrival.message)
    }

    /// Proves that no message waits here: everything that reached the UDP socket before this call has been looked at.
    pub fn expect_nothing(&mut self) -> Result<(), String> {
        self.catch_up()?;
        match self.waiting.front() {
            None => Ok(()),
            Some(arrival) => Err(format!("{} got {} and should have got nothing", self.name, title(&arrival.message))),
        }
    }

    /// Forgets what nobody waited for, so that one failed step does not fail the next.
    pub fn forget(&mut self) {
        // A failure here shows again at the next wait.
        let _ = self.catch_up();
        self.waiting.clear();
        lock(&self.shared.transactions).clients.clear();
    }

    /// Waits until everything that is in the UDP socket's queue has reached `waiting`: datagrams on loopback keep
    /// their order, so a marker sent to ourselves comes after them.
    fn catch_up(&mut self) -> Result<(), String> {
        let marker = self.shared.markers.fetch_add(1, Ordering::Relaxed);
        let bytes = [MARKER, &marker.to_be_bytes()].concat();
        let sent = self.shared.udp.send_to(&bytes, self.address);
        sent.map_err(|cause| format!("{} cannot send to itself: {cause}", self.name))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_event(deadline)? {
                Some(Event::Marker(number)) if number == marker => return Ok(()),
                Some(Event::Marker(_)) => {}
                Some(Event::Arrived(arrival)) => self.keep(*arrival)?,
                Some(Event::Unreadable(what)) => return Err(format!("{} got {what}", self.name)),
                None => return Err(format!("{} does not keep up", self.name)),
            }
        }
    }

    fn wait(&mut self, what: &str, is_wanted: impl Fn(&SipMessage) -> bool) -> Result<Arrival, String> {
        if let Some(index) = self.waiting.iter().position(|arrival| is_wanted(&arrival.message)) {
            return Ok(self.waiting.remove(index).expect("position found it"));
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_event(deadline)? {
                Some(Event::Arrived(arrival)) if is_wanted(&arrival.message) => return Ok(*arrival),
                Some(Event::Arrived(arrival)) => self.keep(*arrival)?,
                Some(Event::Unreadable(what)) => return Err(format!("{} got {what}", self.name)),
                Some(Event::Marker(_)) => {}
                None => {
                    let got: Vec<_> = self.waiting.iter().map(|arrival| title(&arrival.message)).collect();
                    let instead = if got.is_empty() { "nothing".to_owned() } else { got.join(", ") };
                    return Err(format!("{} waited {} s for {what} and got {instead}", self.name, PATIENCE.as_secs()));
                }
            }
        }
    }

    fn keep(&mut self, arrival: Arrival) -> Result<(), String> {
        if self.waiting.len() >= EVENT_COUNT_MAX {
            return Err(format!("{} got more messages than a demo has", self.name));
        }
        self.waiting.push_back(arrival);
        Ok(())
    }

    /// The next event, or `None` at the deadline.
    fn next_event(&self, deadline: Instant) -> Result<Option<Event>, String> {
        loop {
            if INTERRUPTED.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals.recv_timeout(left.min(TICK)) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(format!("{} has stopped", self.name)),
            }
        }
    }

    /// An open connection to a peer, or a new one.
    fn connection(&mut self, to: SocketAddr) -> io::Result<Arc<TcpStream>> {
        if let Some(stream) = self.connections.get(&to) {
            return Ok(stream.clone());
        }
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream = Arc::new(stream);
        self.connections.insert(to, stream.clone());
        self.shared.read_stream_aside(&stream);
        Ok(stream)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for stream in lock(&self.shared.streams).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts; when nothing listens any more there is nothing to wake.
        let _ = TcpStream::connect_timeout(&self.address, TICK);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn receive_datagrams(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.stopping.load(Ordering::Relaxed) {
            match self.udp.recv_from(&mut buffer) {
                Ok((len, _)) if buffer[..len].starts_with(MARKER) => {
                    let number = buffer[MARKER.len()..len].try_into().map_or(0, u64::from_be_bytes);
                    self.tell(Event::Marker(number));
                }
                Ok((len, peer)) => self.take(&buffer[..len], &WayBack::Udp(peer)),
                // Without a datagram for a tick; or a peer that is gone (ICMP): neither ends the endpoint.
                Err(_) => {}
            }
            self.retransmit();
        }
    }

    fn accept_streams(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            // Without the time-out a write to a peer that does not read would never end.
            if stream.set_nodelay(true).is_ok() && stream.set_write_timeout(Some(PATIENCE)).is_ok() {
                self.read_stream_aside(&Arc::new(stream));
            }
        }
    }

    /// Reads a stream on a thread of its own, which ends with the stream.
    fn read_stream_aside(self: &Arc<Self>, stream: &Arc<TcpStream>) {
        lock(&self.streams).push(stream.clone());
        let (shared, stream) = (self.clone(), stream.clone());
        std::thread::spawn(move || shared.read_stream(&stream));
    }

    fn read_stream(&self, stream: &Arc<TcpStream>) {
        let mut gathered = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            match (&**stream).read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => gathered.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            while let Some(len) = message_len(&gathered) {
                let message: Vec<_> = gathered.drain(..len).collect();
                self.take(&message, &WayBack::Tcp(stream.clone()));
            }
            if gathered.len() > STREAM_MESSAGE_LEN_MAX {
                self.tell(Event::Unreadable("a stream that is no SIP".to_owned()));
                return;
            }
        }
    }

    /// One whole message: repeats are answered here, everything else is told.
    fn take(&self, bytes: &[u8], way_back: &WayBack) {
        let message = match decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                let start: String = String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
                return self.tell(Event::Unreadable(format!("what rsip cannot read ({error}): {start:?}")));
            }
        };
        match &message {
            SipMessage::Request(_) => {
                let key = server_key(&message);
                let mut transactions = lock(&self.transactions);
                if let Some(earlier) = transactions.servers.get(&key) {
                    if let Some(response) = earlier {
                        // A repeat whose answer cannot be sent comes again.
                        let _ = self.send_back(way_back, response);
                    }
                    return;
                }
                transactions.servers.insert(key, None);
            }
            SipMessage::Response(_) if status(&message) >= 200 => {
                let (branch, status) = (branch(&message), status(&message));
                let mut transactions = lock(&self.transactions);
                transactions.clients.remove(&branch);
                if transactions.ended.insert(branch, status) == Some(status) {
                    return;
                }
            }
            SipMessage::Response(_) => {}
        }
        self.tell(Event::Arrived(Box::new(Arrival { message, way_back: way_back.clone() })));
    }

    fn retransmit(&self) {
        let now = Instant::now();
        for client in lock(&self.transactions).clients.values_mut().filter(|client| client.due <= now) {
            // A datagram that cannot be sent is a lost one.
            let _ = self.udp.send_to(&client.bytes, client.to);
            client.interval = (client.interval * 2).min(T2);
            client.due = now + client.interval;
        }
    }

    fn send_back(&self, way_back: &WayBack, bytes: &[u8]) -> io::Result<()> {
        match way_back {
            WayBack::Udp(peer) => self.udp.send_to(bytes, peer).map(drop),
            WayBack::Tcp(stream) => (&**stream).write_all(bytes),
        }
    }

    fn tell(&self, event: Event) {
        // Full means that nobody has waited for hundreds of messages: what follows is lost like a datagram.
        let _ = self.events.try_send(event);
    }
}

/// The same port for UDP and TCP.
fn bind_pair() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..16 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ErrorKind::AddrInUse.into()))
}

/// What makes a server transaction one. RFC 3261 §17.2.3.
fn server_key(request: &SipMessage) -> String {
    format!("{} {}", branch(request), value(request, "CSeq"))
}

/// The length of the first whole message in a stream's bytes. RFC 3261 §18.3.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let head_len = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let name = name.trim();
        let is_length = name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("l");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let len = head_len.checked_add(length.unwrap_or(0))?;
    (len <= bytes.len()).then_some(len)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
/// RFC 3261 §17.1.2.2.
const T2: Duration = Duration::from_secs(4);
const EVENT_COUNT_MAX: usize = 512;
const STREAM_MESSAGE_LEN_MAX: usize = 65_536;
const MARKER: &[u8] = b"\0marker";

#[cfg(test)]
mod tests {
    use super::super::message::{request, response_to};
    use super::*;
    use rsip::Method;
    use rsip::headers::{CSeq, CallId, From, To, UntypedHeader, Via};

    fn message(from: &Endpoint, branch: &str, body: Vec<u8>) -> SipMessage {
        let headers = vec![
            Via::new(format!("SIP/2.0/UDP {};branch={branch};rport", from.address())).into(),
            From::new("<sip:alice@a.example>;tag=1").into(),
            To::new("<sip:bob@home.example>").into(),
            CallId::new(branch).into(),
            CSeq::new("1 MESSAGE").into(),
        ];
        request(Method::Message, "sip:bob@home.example", headers, ("text/plain", body)).unwrap()
    }

    #[test]
    fn a_request_and_its_response_cross_over_udp_and_over_tcp() {
        for (transport, len) in [(Transport::Udp, 10), (Transport::Tcp, 30_000)] {
            let (mut alice, mut bob) = (Endpoint::bind("alice").unwrap(), Endpoint::bind("bob").unwrap());
            let sent = message(&alice, "z9hG4bK1", vec![b'x'; len]);
            alice.send(&sent, bob.address(), transport).unwrap();
            let arrival = bob.expect_request(Method::Message).unwrap();
            assert_eq!((arrival.transport(), arrival.message.body().len()), (transport, len));
            bob.answer(&arrival, &response_to(&arrival.message, 202, "b")).unwrap();
            let response = alice.expect_final(&sent).unwrap();
            assert_eq!(title(&response), "202 Accepted");
        }
    }

    #[test]
    fn a_repeated_request_is_answered_alike_and_shown_once() {
        let mut bob = Endpoint::bind("bob").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let bytes = encode(&message(&bob, "z9hG4bK2", b"hi".to_vec()));
        for _ in 0..3 {
            client.send_to(&bytes, bob.address()).unwrap();
        }
        let arrival = bob.expect_request(Method::Message).unwrap();
        bob.expect_nothing().unwrap();
        bob.answer(&arrival, &response_to(&arrival.message, 200, "b")).unwrap();
        client.send_to(&bytes, bob.address()).unwrap();
        let (mut first, mut second) = ([0; 2_000], [0; 2_000]);
        let lens = (client.recv(&mut first).unwrap(), client.recv(&mut second).unwrap());
        assert_eq!(first[..lens.0], second[..lens.1]);
        bob.expect_nothing().unwrap();
    }

    #[test]
    fn a_request_without_an_answer_is_retransmitted() {
        let mut alice = Endpoint::bind("alice").unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent = message(&alice, "z9hG4bK3", Vec::new());
        alice.send(&sent, silent.local_addr().unwrap(), Transport::Udp).unwrap();
        let mut buffer = [0; 2_000];
        let first = silent.recv(&mut buffer).unwrap();
        let second = silent.recv(&mut buffer).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn what_arrived_unasked_is_told() {
        let (mut alice, mut bob) = (Endpoint::bind("alice").unwrap(), Endpoint::bind("bob").unwrap());
        bob.expect_nothing().unwrap();
        alice.send(&message(&alice, "z9hG4bK4", Vec::new()), bob.address(), Transport::Udp).unwrap();
        let problem = bob.expect_nothing().unwrap_err();
        assert_eq!(problem, "bob got MESSAGE sip:bob@home.example and should have got nothing");
        bob.forget();
        bob.expect_nothing().unwrap();
    }

    #[test]
    fn a_stream_is_cut_into_messages_by_content_length() {
        let one = b"OPTIONS sip:a SIP/2.0\r\nl: 4\r\n\r\nbody".to_vec();
        assert_eq!(message_len(&one[..one.len() - 1]), None);
        assert_eq!(message_len(&[one.as_slice(), b"next"].concat()), Some(one.len()));
        let without_length = b"OPTIONS sip:a SIP/2.0\r\nX: 1\r\n\r\n";
        assert_eq!(message_len(without_length), Some(without_length.len()));
    }
}
