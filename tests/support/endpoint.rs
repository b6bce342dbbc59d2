//! A SIP endpoint on real sockets, UDP and TCP on one port: a sender, the SIP/IP core with devices behind it, an ISF.

use super::DEADLINE;
use super::message::{Origin, Received, Request, parameter, rsip_header, token};
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A connection.
    Tcp,
}

impl Transport {
    /// The name in a Via.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// A request that left, and what its answer will carry.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The branch of the endpoint's Via.
    pub branch: String,
    /// The Call-ID.
    pub call_id: String,
    /// What left, byte for byte.
    pub bytes: Vec<u8>,
    /// Where it went.
    pub to: SocketAddr,
    /// How it went.
    pub transport: Transport,
}

type Connections = Arc<Mutex<HashMap<u64, TcpStream>>>;

/// An endpoint. Dropping it closes its sockets.
pub struct Endpoint {
    addr: SocketAddr,
    udp: UdpSocket,
    connections: Connections,
    inbox: Receiver<(Vec<u8>, Origin)>,
    inbox_door: Sender<(Vec<u8>, Origin)>,
    stop: Arc<AtomicBool>,
    connection_to: HashMap<SocketAddr, u64>,
    /// Requests already seen (branch and method), with the answer that a repeat gets.
    seen: HashMap<String, Option<(Vec<u8>, Origin)>>,
    /// The connection of the last message read as text.
    last_connection: Option<u64>,
    /// Messages that came while a test waited for another one.
    backlog: VecDeque<Received>,
}

impl Endpoint {
    /// An endpoint on IPv4 loopback.
    pub fn new() -> Self {
        Self::on(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("loopback has a free port")
    }

    /// An endpoint on this address, UDP and TCP on one port that the kernel chooses.
    pub fn on(ip: IpAddr) -> std::io::Result<Self> {
        let mut last = std::io::Error::from(ErrorKind::AddrInUse);
        for _ in 0..50 {
            let udp = UdpSocket::bind((ip, 0))?;
            match TcpListener::bind(udp.local_addr()?) {
                Ok(listener) => return Self::start(udp, listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn start(udp: UdpSocket, listener: TcpListener) -> std::io::Result<Self> {
        let addr = udp.local_addr()?;
        let (inbox_door, inbox) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Connections::default();
        {
            let (udp, door, stop) = (udp.try_clone()?, inbox_door.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while let Ok((len, peer)) = udp.recv_from(&mut buffer) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = door.send((buffer[..len].to_vec(), Origin::Udp(peer)));
                }
            });
        }
        {
            let (door, stop, connections) = (inbox_door.clone(), stop.clone(), connections.clone());
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = adopt(stream, &connections, &door);
                }
            });
        }
        Ok(Self {
            addr,
            udp,
            connections,
            inbox,
            inbox_door,
            stop,
            connection_to: HashMap::new(),
            seen: HashMap::new(),
            last_connection: None,
            backlog: VecDeque::new(),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A SIP URI of it, for Routes and next hops.
    pub fn uri(&self, transport: Transport) -> String {
        format!("sip:{};transport={}", self.addr, transport.name().to_ascii_lowercase())
    }

    /// The Via that this endpoint puts on its requests.
    pub fn via(&self, transport: Transport, branch: &str) -> String {
        format!("SIP/2.0/{} {};branch={branch};rport", transport.name(), self.addr)
    }

    /// Sends a request with an own Via on top, unless it has one already.
    pub fn send(&mut self, request: &Request, transport: Transport, to: SocketAddr) -> Sent {
        let mut request = request.clone();
        if request.value("Via").is_none() {
            request = request.header_first("Via", &self.via(transport, &format!("z9hG4bK{}", token("b"))));
        }
        let branch = parameter(request.value("Via").expect("a Via was added"), "branch").unwrap_or_default();
        let call_id = request.value("Call-ID").unwrap_or_default().to_owned();
        let bytes = request.encode();
        self.send_bytes(&bytes, transport, to);
        Sent { branch, call_id, bytes, to, transport }
    }

    /// Sends the same bytes again.
    pub fn resend(&mut self, sent: &Sent) {
        self.send_bytes(&sent.bytes, sent.transport, sent.to);
    }

    /// Sends bytes as they are: as a datagram, or on this endpoint's connection to that address.
    pub fn send_bytes(&mut self, bytes: &[u8], transport: Transport, to: SocketAddr) {
        match transport {
            Transport::Udp => {
                self.udp.send_to(bytes, to).expect("loopback takes the datagram");
            }
            Transport::Tcp => {
                let id = self.connection(to);
                let written = self.write(id, bytes);
                if written.is_err() {
                    // The appliance was restarted meanwhile.
                    self.connection_to.remove(&to);
                    let id = self.connection(to);
                    self.write(id, bytes).expect("a fresh connection takes the bytes");
                }
            }
        }
    }

    /// This endpoint's connection to that address, opened when there is none.
    pub fn connection(&mut self, to: SocketAddr) -> u64 {
        if let Some(id) = self.connection_to.get(&to)
            && self.connections.lock().expect("no reader panics").contains_key(id)
        {
            return *id;
        }
        let stream = TcpStream::connect_timeout(&to, DEADLINE).expect("the SIP port accepts");
        let id = adopt(stream, &self.connections, &self.inbox_door).expect("the connection can be shared");
        self.connection_to.insert(to, id);
        id
    }

    /// True while the connection is open on both sides.
    pub fn is_open(&self, connection: u64) -> bool {
        self.connections.lock().expect("no reader panics").contains_key(&connection)
    }

    /// Closes every connection, accepted or opened, as a restarting peer does.
    pub fn close_connections(&mut self) {
        self.connection_to.clear();
        for (_, stream) in self.connections.lock().expect("no reader panics").drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn write(&self, connection: u64, bytes: &[u8]) -> std::io::Result<()> {
        let stream = {
            let connections = self.connections.lock().expect("no reader panics");
            connections.get(&connection).ok_or(ErrorKind::NotConnected)?.try_clone()?
        };
        (&stream).write_all(bytes)
    }

    /// The next message, repeats included, or `None` after `wait`.
    pub fn next_within(&mut self, wait: Duration) -> Option<Received> {
        match self.inbox.recv_timeout(wait) {
            Ok((raw, origin)) => Some(Received::read(raw, origin)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the endpoint holds a sender itself"),
        }
    }

    /// The next message that is no repeat of a request. Repeats get their answer again, as RFC 3261 §17.2.2 has it.
    pub fn next_new_within(&mut self, wait: Duration) -> Option<Received> {
        self.backlog.pop_front().or_else(|| self.next_arrived(wait))
    }

    /// The first message that `is_wanted`, old or new; all others stay for later.
    #[track_caller]
    pub fn wanted(&mut self, what: &str, is_wanted: impl Fn(&Received) -> bool) -> Received {
        match self.wanted_within(DEADLINE, is_wanted) {
            Some(message) => message,
            None => panic!("no {what} arrived at {}; what did: {:#?}", self.addr, self.backlog),
        }
    }

    /// The same, if it comes in time.
    pub fn wanted_within(&mut self, wait: Duration, is_wanted: impl Fn(&Received) -> bool) -> Option<Received> {
        if let Some(index) = self.backlog.iter().position(&is_wanted) {
            return self.backlog.remove(index);
        }
        let deadline = Instant::now() + wait;
        loop {
            let message = self.next_arrived(deadline.saturating_duration_since(Instant::now()))?;
            if is_wanted(&message) {
                return Some(message);
            }
            self.backlog.push_back(message);
        }
    }

    /// Takes out what has arrived so far and `is_meant`: repeats of responses, usually.
    pub fn drain(&mut self, is_meant: impl Fn(&Received) -> bool) -> Vec<Received> {
        while let Some(message) = self.next_arrived(Duration::ZERO) {
            self.backlog.push_back(message);
        }
        let (meant, others): (VecDeque<_>, VecDeque<_>) = self.backlog.drain(..).partition(is_meant);
        self.backlog = others;
        meant.into()
    }

    fn next_arrived(&mut self, wait: Duration) -> Option<Received> {
        let deadline = Instant::now() + wait;
        loop {
            let message = self.next_within(deadline.saturating_duration_since(Instant::now()))?;
            let Some(method) = message.method() else { return Some(message) };
            let key = format!("{method} {}", message.branch());
            match self.seen.get(&key) {
                None => {
                    self.seen.insert(key, None);
                    return Some(message);
                }
                Some(Some((answer, origin))) => {
                    let (answer, origin) = (answer.clone(), *origin);
                    self.send_answer(&answer, origin);
                }
                Some(None) => {}
            }
        }
    }

    /// The next message that is no repeat; it must come.
    #[track_caller]
    pub fn next_new(&mut self) -> Received {
        match self.next_new_within(DEADLINE) {
            Some(message) => message,
            None => panic!("no SIP message arrived at {}", self.addr),
        }
    }

    /// The next message, which must be a new request with this method.
    #[track_caller]
    pub fn request(&mut self, method: &str) -> Received {
        let message = self.next_new();
        assert_eq!(message.method(), Some(method), "expected a {method}, got\n{message:?}");
        message
    }

    /// The next message, which must be the final response to what was sent.
    #[track_caller]
    pub fn response(&mut self, sent: &Sent) -> Received {
        let message = self.next_new();
        assert!(message.status().is_some(), "expected a response, got\n{message:?}");
        assert!(message.status() >= Some(200), "provisional responses to non-INVITE requests stay away:\n{message:?}");
        assert_eq!(message.branch(), sent.branch, "a response to another request:\n{message:?}");
        message
    }

    /// The next message as bytes, unread by rsip.
    pub fn next_raw(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let (raw, origin) = self.inbox.recv_timeout(wait).ok()?;
        if let Origin::Tcp(connection) = origin {
            self.last_connection = Some(connection);
        }
        Some(raw)
    }

    /// The next message as text, unread by rsip: for headers that it refuses, such as folded ones.
    #[track_caller]
    pub fn request_text(&mut self) -> String {
        let raw = self.next_raw(DEADLINE).expect("a SIP message arrives");
        String::from_utf8(raw).expect("the messages of the tests are UTF-8")
    }

    /// The next message as text.
    #[track_caller]
    pub fn response_text(&mut self) -> String {
        self.request_text()
    }

    /// Sends text back: to this address, or on the connection of the last message read as text.
    pub fn reply_text(&mut self, text: &str, transport: Transport, to: SocketAddr) {
        match (transport, self.last_connection) {
            (Transport::Tcp, Some(connection)) => self.write(connection, text.as_bytes()).expect("it is open"),
            _ => self.send_bytes(text.as_bytes(), transport, to),
        }
    }

    /// Asserts that nothing has arrived so far. Only meaningful behind an event that orders it.
    #[track_caller]
    pub fn assert_silent(&mut self) {
        if let Some(message) = self.next_new_within(Duration::ZERO) {
            panic!("nothing was expected at {}, but\n{message:?}", self.addr);
        }
    }

    /// Answers a request without further headers.
    pub fn answer(&mut self, request: &Received, status: u16) -> Vec<u8> {
        self.answer_with(request, status, &[])
    }

    /// Answers a request, built by rsip, and remembers the answer for repeats.
    pub fn answer_with(&mut self, request: &Received, status: u16, extra: &[(&str, &str)]) -> Vec<u8> {
        self.answer_as(request, status, &token("t"), extra, None)
    }

    /// Answers a request with this To-tag, if it has none, and with a body of a type.
    pub fn answer_as(
        &mut self,
        request: &Received,
        status: u16,
        tag: &str,
        extra: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Vec<u8> {
        let mut headers: Vec<rsip::Header> = Vec::new();
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            for mut line in request.lines(name) {
                if name == "To" && parameter(&line, "tag").is_none() && status > 100 {
                    line.push_str(&format!(";tag={tag}"));
                }
                headers.push(rsip_header(name, &line));
            }
        }
        headers.extend(extra.iter().map(|(name, value)| rsip_header(name, value)));
        let (content_type, body) = body.unwrap_or(("", b""));
        if !content_type.is_empty() {
            headers.push(rsip_header("Content-Type", content_type));
        }
        headers.push(rsip_header("Content-Length", &body.len().to_string()));
        let response = rsip::Response {
            status_code: rsip::StatusCode::Other(status, "As The Test Says".into()),
            version: rsip::Version::V2,
            headers: headers.into(),
            body: Vec::new(),
        };
        let mut bytes = response.to_string().into_bytes();
        bytes.extend_from_slice(body);
        let key = format!("{} {}", request.method().expect("only requests are answered"), request.branch());
        let to = match request.origin {
            Origin::Tcp(connection) => Origin::Tcp(connection),
            Origin::Udp(peer) => Origin::Udp(response_target(&request.values("Via")[0], peer)),
        };
        self.seen.insert(key, Some((bytes.clone(), to)));
        self.send_answer(&bytes, to);
        bytes
    }

    fn send_answer(&self, bytes: &[u8], to: Origin) {
        match to {
            Origin::Udp(peer) => {
                self.udp.send_to(bytes, peer).expect("loopback takes the datagram");
            }
            // The appliance may have gone; then the answer is lost as in life.
            Origin::Tcp(connection) => drop(self.write(connection, bytes)),
        }
    }

    /// Asserts that nothing new has arrived from that sender: a message of its own that follows must be the first.
    #[track_caller]
    pub fn assert_silent_after(&mut self, sender: &mut Endpoint, transport: Transport) {
        let marker = Request::between("OPTIONS", "sip:marker@test.example", "sip:marker@test.example");
        let sent = sender.send(&marker, transport, self.addr);
        let next = self.next_new();
        assert_eq!(next.branch(), sent.branch, "nothing new was expected, but\n{next:?}");
    }

    /// Gives the endpoint to a thread that answers every request with this status until it is asked back.
    pub fn answer_everything(self, status: u16) -> Answering {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (thread_stop, thread_count, mut endpoint) = (stop.clone(), count.clone(), self);
        let addr = endpoint.addr;
        let thread = std::thread::spawn(move || {
            while !thread_stop.load(Ordering::Relaxed) {
                if let Some(message) = endpoint.next_new_within(Duration::from_millis(50))
                    && message.method().is_some()
                {
                    // Counted first: whoever sees the answer's effect sees the count.
                    thread_count.fetch_add(1, Ordering::SeqCst);
                    endpoint.answer(&message, status);
                }
            }
            endpoint
        });
        Answering { addr, stop, count, thread: Some(thread) }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.close_connections();
        // The readers block on their sockets: wake each once.
        let _ = self.udp.send_to(b"", self.addr);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

/// An endpoint that answers on its own.
pub struct Answering {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<Endpoint>>,
}

impl Answering {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests answered so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Takes the endpoint back.
    pub fn stop(mut self) -> Endpoint {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("stopped once").join().expect("the answering thread saw only valid SIP")
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where a response to a datagram goes: RFC 3261 §18.2.2 and RFC 3581 §4.
fn response_target(via: &str, source: SocketAddr) -> SocketAddr {
    if parameter(via, "rport").is_some() {
        return source;
    }
    let sent_by = via.split_whitespace().nth(1).unwrap_or_default().split(';').next().unwrap_or_default();
    sent_by.parse().unwrap_or_else(|_| panic!("the appliance's Via names an address and port: {via:?}"))
}

/// Registers a connection and starts its reader.
fn adopt(stream: TcpStream, connections: &Connections, door: &Sender<(Vec<u8>, Origin)>) -> std::io::Result<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    stream.set_nodelay(true)?;
    let reader = stream.try_clone()?;
    connections.lock().expect("no reader panics").insert(id, stream);
    let (connections, door) = (connections.clone(), door.clone());
    std::thread::spawn(move || {
        read_messages(reader, id, &door);
        if let Ok(mut connections) = connections.lock() {
            connections.remove(&id);
        }
    });
    Ok(id)
}

/// Cuts a stream into messages by Content-Length (RFC 3261 §18.3).
fn read_messages(mut stream: TcpStream, id: u64, door: &Sender<(Vec<u8>, Origin)>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16_384];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
        }
        loop {
            let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            bytes.drain(..blank);
            let Some(head_len) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
                break;
            };
            let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
            let body_len = head
                .split("\r\n")
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-length") || name.trim() == "l")
                .and_then(|(_, value)| value.trim().parse().ok())
                .unwrap_or(0);
            if bytes.len() < head_len + body_len {
                break;
            }
            let message = bytes.drain(..head_len + body_len).collect();
            if door.send((message, Origin::Tcp(id))).is_err() {
                return;
            }
        }
    }
}
