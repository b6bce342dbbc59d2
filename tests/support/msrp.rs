//! An MSRP endpoint on blocking sockets, with a codec of its own (RFC 4975): independent of the appliance's, and strict
//! about what it reads.

use super::DEADLINE;
use super::message::token;
use memchr::memmem;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A request or response in the making. Everything can be set, wrong values too.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The transaction id.
    pub id: String,
    /// Method, or status with comment.
    pub verb: String,
    /// Header names and values, To-Path and From-Path included, in order.
    pub headers: Vec<(String, String)>,
    /// The body; none is a bodiless request.
    pub body: Option<Vec<u8>>,
    /// `$`, `+` or `#`.
    pub flag: char,
}

impl Chunk {
    /// A request with its paths.
    pub fn new(verb: &str, to_path: &str, from_path: &str) -> Self {
        let headers = vec![("To-Path".into(), to_path.into()), ("From-Path".into(), from_path.into())];
        Self { id: token("t"), verb: verb.into(), headers, body: None, flag: '$' }
    }

    /// Adds a header after the others, and before those of the body.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let mime = self.headers.iter().position(|(name, _)| name.starts_with("Content-"));
        self.headers.insert(mime.unwrap_or(self.headers.len()), (name.into(), value.into()));
        self
    }

    /// Takes out every header of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(candidate, _)| candidate != name);
        self
    }

    /// Puts another value in the header's place.
    pub fn replace(mut self, name: &str, value: &str) -> Self {
        for (candidate, old) in &mut self.headers {
            if candidate == name {
                *old = value.into();
            }
        }
        self
    }

    /// Adds a Byte-Range.
    pub fn range(self, start: u64, end: Option<u64>, total: Option<u64>) -> Self {
        let star = |number: Option<u64>| number.map_or("*".into(), |number| number.to_string());
        self.header("Byte-Range", &format!("{start}-{}/{}", star(end), star(total)))
    }

    /// Adds a body and its type, behind every other header as RFC 4975 §9 has it.
    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut chunk = self.header("Content-Type", content_type);
        chunk.body = Some(body.into());
        chunk
    }

    /// Sets the flag of the end-line.
    pub fn flag(mut self, flag: char) -> Self {
        self.flag = flag;
        self
    }

    /// Sets the transaction id.
    pub fn id(mut self, id: &str) -> Self {
        self.id = id.into();
        self
    }

    /// The answer to a request: to the first URI of its From-Path, from the first of its To-Path (RFC 4975 §7.2).
    pub fn response(to: &Frame, status: u16) -> Self {
        let (from_path, to_path) = (to.must("From-Path"), to.must("To-Path"));
        let mut response = Self::new(&format!("{status} As The Test Says"), first(&from_path), first(&to_path));
        response.id = to.id.clone();
        response
    }

    /// A REPORT about bytes of a SEND: to its whole From-Path (RFC 4975 §7.1.2).
    pub fn report(about: &Frame, status: &str, range: &str) -> Self {
        let (from_path, to_path) = (about.must("From-Path"), about.must("To-Path"));
        Self::new("REPORT", &from_path, first(&to_path))
            .header("Message-ID", &about.must("Message-ID"))
            .header("Byte-Range", range)
            .header("Status", &format!("000 {status}"))
    }

    /// Everything before the end-line: the head, and the body if there is one.
    pub fn encode_open(&self) -> Vec<u8> {
        let lines: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut bytes = format!("MSRP {} {}\r\n{lines}", self.id, self.verb).into_bytes();
        if let Some(body) = &self.body {
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(body);
        }
        bytes
    }

    /// The end-line, with the CRLF that ends a body.
    pub fn encode_end(&self) -> Vec<u8> {
        let line_end = if self.body.is_some() { "\r\n" } else { "" };
        format!("{line_end}-------{}{}\r\n", self.id, self.flag).into_bytes()
    }

    /// All of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_open();
        bytes.extend_from_slice(&self.encode_end());
        bytes
    }
}

/// The first URI of a path.
pub fn first(path: &str) -> &str {
    path.split(' ').next().unwrap_or_default()
}

/// A request or response that arrived.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The transaction id.
    pub id: String,
    /// The method, of a request.
    pub method: Option<String>,
    /// The status, of a response.
    pub status: Option<u16>,
    /// Header names and values in order.
    pub headers: Vec<(String, String)>,
    /// The body, if a blank line came before the end-line.
    pub body: Option<Vec<u8>>,
    /// The flag of the end-line.
    pub flag: char,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "MSRP {} {}{}", self.id, self.method.as_deref().unwrap_or_default(), self.status.unwrap_or(0))?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        write!(f, "body of {:?} bytes, flag {}", self.body.as_ref().map(Vec::len), self.flag)
    }
}

impl Frame {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    /// A header that must be there.
    #[track_caller]
    pub fn must(&self, name: &str) -> String {
        self.header(name).unwrap_or_else(|| panic!("{name} in\n{self:?}"))
    }

    /// True for this method.
    pub fn is(&self, method: &str) -> bool {
        self.method.as_deref() == Some(method)
    }

    /// The Byte-Range of a request: start, end and total, `None` for a star.
    #[track_caller]
    pub fn range(&self) -> (u64, Option<u64>, Option<u64>) {
        let text = self.must("Byte-Range");
        let number = |text: &str| match text {
            "*" => None,
            digits => Some(digits.parse().unwrap_or_else(|_| panic!("a number in Byte-Range, got {digits:?}"))),
        };
        let (range, total) = text.split_once('/').unwrap_or_else(|| panic!("Byte-Range {text:?}"));
        let (start, end) = range.split_once('-').unwrap_or_else(|| panic!("Byte-Range {text:?}"));
        (number(start).expect("a start is a number"), number(end), number(total))
    }
}

/// Reads the frame at the beginning of `bytes`: `None` while it is incomplete, a reason when it is no MSRP.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let Some(line_len) = memmem::find(bytes, b"\r\n") else {
        return if bytes.len() > 16_384 { Err("a start line without end".into()) } else { Ok(None) };
    };
    let start_line = std::str::from_utf8(&bytes[..line_len]).map_err(|error| error.to_string())?;
    let mut words = start_line.splitn(3, ' ');
    let (Some("MSRP"), Some(id), Some(verb)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("start line {start_line:?}"));
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-+%=".contains(&byte);
    if !(4..=32).contains(&id.len()) || !id.bytes().all(legal) || !id.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(format!("transaction id {id:?}"));
    }
    let status: Option<u16> = verb.split(' ').next().and_then(|word| word.parse().ok());
    let mut frame = Frame {
        id: id.to_owned(),
        method: status.is_none().then(|| verb.to_owned()),
        status,
        headers: Vec::new(),
        body: None,
        flag: ' ',
    };
    let end_line = format!("-------{id}");
    let mut at = line_len + 2;
    loop {
        let Some(len) = memmem::find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + len];
        at += len + 2;
        if line.is_empty() {
            break;
        }
        let line = std::str::from_utf8(line).map_err(|error| error.to_string())?;
        if let Some(flag) = line.strip_prefix(&end_line) {
            frame.flag = read_flag(flag)?;
            return check(frame).map(|frame| Some((frame, at)));
        }
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("header line {line:?}"))?;
        frame.headers.push((name.to_owned(), value.to_owned()));
    }
    let finder = format!("\r\n{end_line}");
    let mut from = at;
    // An empty body has the CRLF of its end-line right behind the blank line.
    loop {
        let Some(found) = memmem::find(&bytes[from..], finder.as_bytes()) else { return Ok(None) };
        let behind = from + found + finder.len();
        let Some(rest) = bytes.get(behind..behind + 3) else { return Ok(None) };
        if matches!(rest[0], b'$' | b'+' | b'#') && &rest[1..] == b"\r\n" {
            frame.body = Some(bytes[at..from + found].to_vec());
            frame.flag = char::from(rest[0]);
            return check(frame).map(|frame| Some((frame, behind + 3)));
        }
        from = behind;
    }
}

fn read_flag(text: &str) -> Result<char, String> {
    match text {
        "$" => Ok('$'),
        "+" => Ok('+'),
        "#" => Ok('#'),
        other => Err(format!("end-line flag {other:?}")),
    }
}

/// What every frame must satisfy (RFC 4975 §7, §9).
fn check(frame: Frame) -> Result<Frame, String> {
    let name = |index: usize| frame.headers.get(index).map(|(name, _)| name.as_str());
    if name(0) != Some("To-Path") || name(1) != Some("From-Path") {
        return Err(format!("To-Path and From-Path come first in\n{frame:?}"));
    }
    if frame.status.is_some() && (frame.body.is_some() || frame.flag != '$') {
        return Err(format!("a response has no body and ends with $:\n{frame:?}"));
    }
    let mime = frame.headers.iter().position(|(name, _)| name.starts_with("Content-"));
    if mime.is_some_and(|mime| frame.headers[mime..].iter().any(|(name, _)| !name.starts_with("Content-"))) {
        return Err(format!("MIME headers come last in\n{frame:?}"));
    }
    if frame.is("SEND") {
        if frame.header("Message-ID").is_none() {
            return Err(format!("a SEND has a Message-ID:\n{frame:?}"));
        }
        if let (Some(body), Some(range)) = (&frame.body, frame.header("Byte-Range"))
            && let (start, Some(end), _) = frame.range()
            && end + 1 - start != body.len() as u64
            && frame.flag == '$'
        {
            return Err(format!("Byte-Range {range} over {} bytes in\n{frame:?}", body.len()));
        }
    }
    Ok(frame)
}

/// What a wait for a connection ended with.
#[derive(Debug)]
pub enum Arrival {
    /// A request or response.
    Frame(Frame),
    /// The other side closed or reset the connection.
    Closed,
    /// Nothing until the wait was over.
    Silence,
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
    carry: Vec<u8>,
    /// Bytes read so far.
    pub read_len: u64,
}

impl Wire {
    /// Takes a connection over.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        Self { stream, carry: Vec::new(), read_len: 0 }
    }

    /// Connects.
    pub fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&to, DEADLINE).expect("the MSRP port accepts"))
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("the connection takes the bytes");
    }

    /// Writes bytes as they are, unless the connection is gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        (&self.stream).write_all(bytes)
    }

    /// Writes as much as is taken until nothing was taken for `patience`; how much that was.
    pub fn write_until_stuck(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.stream.set_write_timeout(Some(patience)).expect("a write timeout");
        let mut written = 0;
        while written < bytes.len() {
            match (&self.stream).write(&bytes[written..]) {
                Ok(len) => written += len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("after {written} bytes: {error}"),
            }
        }
        self.stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        written
    }

    /// Sends a chunk.
    #[track_caller]
    pub fn send(&mut self, chunk: &Chunk) {
        self.write(&chunk.encode());
    }

    /// What comes next, within `wait`.
    #[track_caller]
    pub fn arrival(&mut self, wait: Duration) -> Arrival {
        let deadline = Instant::now() + wait;
        let mut buffer = vec![0; 262_144];
        let mut looked_at = 0;
        loop {
            // Long chunks come in many pieces: decoding starts over only when there is twice as much.
            if self.carry.len() >= looked_at {
                match decode(&self.carry) {
                    Ok(Some((frame, len))) => {
                        self.carry.drain(..len);
                        return Arrival::Frame(frame);
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        panic!("{reason}\nin {:?}", String::from_utf8_lossy(&self.carry[..self.carry.len().min(2000)]))
                    }
                }
                looked_at = if self.carry.len() < 1_000_000 { 0 } else { self.carry.len() + 500_000 };
            } else if memmem::find(&self.carry[self.carry.len().saturating_sub(64)..], b"\r\n-------").is_some() {
                looked_at = 0;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("a read timeout");
            match self.stream.read(&mut buffer) {
                Ok(0) => return Arrival::Closed,
                Ok(len) => {
                    self.read_len += len as u64;
                    self.carry.extend_from_slice(&buffer[..len]);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Arrival::Silence;
                    }
                }
                Err(_) => return Arrival::Closed,
            }
        }
    }

    /// The next frame; it must come.
    #[track_caller]
    pub fn next(&mut self) -> Frame {
        match self.arrival(DEADLINE) {
            Arrival::Frame(frame) => frame,
            other => panic!("an MSRP frame was expected: {other:?}"),
        }
    }

    /// Reads until the other side closes, which it must; the frames that came before.
    #[track_caller]
    pub fn until_closed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.arrival(DEADLINE) {
                Arrival::Frame(frame) => frames.push(frame),
                Arrival::Closed => return frames,
                Arrival::Silence => panic!("the connection was to be closed; before: {frames:?}"),
            }
        }
    }

    /// Reads whatever comes until the other side closes, which it must.
    #[track_caller]
    pub fn discard_until_closed(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a read timeout");
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
            assert!(Instant::now() < deadline, "the connection was to be closed");
        }
    }

    /// Bytes that arrived and are no whole frame yet.
    pub fn carry(&self) -> &[u8] {
        &self.carry
    }

    /// Ends the sending direction.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }

    /// Sets how many bytes the kernel takes on this end's behalf.
    pub fn set_kernel_buffers(&self, len: usize) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_recv_buffer_size(len).expect("a socket option");
        socket.set_send_buffer_size(len).expect("a socket option");
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.stream.peer_addr().expect("connected")
    }
}

/// One party of one session: its URI, the path it was given, its connection.
pub struct Peer {
    listener: TcpListener,
    /// The own URI.
    pub uri: String,
    /// The whole path that SDP gave for the other side.
    pub remote_path: String,
    /// Bodiless SENDs that came and were answered with 200.
    pub bindings: Vec<Frame>,
    wire: Option<Wire>,
}

impl Peer {
    /// A party on IPv4 loopback.
    pub fn new() -> Self {
        Self::on(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("loopback has a free port")
    }

    /// A party on this address.
    pub fn on(ip: IpAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((ip, 0))?;
        let uri = format!("msrp://{};tcp", [listener.local_addr()?.to_string(), token("s")].join("/"));
        Ok(Self { listener, uri, remote_path: String::new(), bindings: Vec::new(), wire: None })
    }

    /// A further session of the same host and port.
    pub fn sibling(&self) -> Self {
        let listener = self.listener.try_clone().expect("a listener can be shared");
        let uri = format!("msrp://{};tcp", [self.addr().to_string(), token("s")].join("/"));
        Self { listener, uri, remote_path: String::new(), bindings: Vec::new(), wire: None }
    }

    /// A party whose port refuses connections until [`Peer::listen`].
    pub fn deaf() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
        let listener: TcpListener = socket.into();
        let addr = listener.local_addr().expect("bound");
        let uri = format!("msrp://{};tcp", [addr.to_string(), token("s")].join("/"));
        Self { listener, uri, remote_path: String::new(), bindings: Vec::new(), wire: None }
    }

    /// The same party, given another path for the other side.
    pub fn knowing(mut self, remote_path: &str) -> Self {
        self.remote_path = remote_path.to_owned();
        self
    }

    /// Begins to listen.
    pub fn listen(&self) {
        socket2::SockRef::from(&self.listener).listen(16).expect("a bound socket can listen");
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// The address of the other side's first URI.
    pub fn remote_addr(&self) -> SocketAddr {
        address_of(first(&self.remote_path))
    }

    /// Connects to the other side.
    pub fn connect(&mut self) {
        self.wire = Some(Wire::connect(self.remote_addr()));
    }

    /// Accepts the next connection, which must come.
    #[track_caller]
    pub fn accept(&mut self) {
        self.wire = Some(self.accepted(DEADLINE).unwrap_or_else(|| panic!("nobody connected to {}", self.addr())));
    }

    /// The next connection, if it comes in time.
    pub fn accepted(&self, wait: Duration) -> Option<Wire> {
        self.listener.set_nonblocking(true).expect("a socket option");
        let deadline = Instant::now() + wait;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("a socket option");
                    return Some(Wire::over(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The connection.
    #[track_caller]
    pub fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().expect("connected or accepted before")
    }

    /// Takes the connection away from the session.
    pub fn take_wire(&mut self) -> Wire {
        self.wire.take().expect("connected or accepted before")
    }

    /// Gives the session a connection.
    pub fn set_wire(&mut self, wire: Wire) {
        self.wire = Some(wire);
    }

    /// Sends a bodiless SEND, as whoever connects does, and gets its 200.
    #[track_caller]
    pub fn bind(&mut self) {
        let binding = self.send_request(&token("bind"));
        self.wire().send(&binding);
        let response = self.next();
        assert_eq!(
            (response.status, &response.id),
            (Some(200), &binding.id),
            "a bodiless SEND is answered: {response:?}"
        );
        assert_eq!(response.must("To-Path"), self.uri);
        assert_eq!(response.must("From-Path"), first(&self.remote_path));
    }

    /// A SEND without range and body, for this session.
    pub fn send_request(&self, message_id: &str) -> Chunk {
        Chunk::new("SEND", &self.remote_path, &self.uri).header("Message-ID", message_id)
    }

    /// A SEND of a whole message.
    pub fn whole(&self, message_id: &str, content_type: &str, body: &[u8]) -> Chunk {
        let len = body.len() as u64;
        self.send_request(message_id).range(1, Some(len), Some(len)).body(content_type, body)
    }

    /// One of a message's chunks: bytes `at..at + len`, `$` on the last.
    pub fn part(&self, message_id: &str, content_type: &str, body: &[u8], at: usize, len: usize) -> Chunk {
        let end = (at + len).min(body.len());
        let (start, total) = (at as u64 + 1, body.len() as u64);
        let flag = if end == body.len() { '$' } else { '+' };
        let chunk = self.send_request(message_id).range(start, Some(end as u64), Some(total));
        chunk.body(content_type, &body[at..end]).flag(flag)
    }

    /// Sends a chunk.
    #[track_caller]
    pub fn send(&mut self, chunk: &Chunk) {
        self.wire().send(chunk);
    }

    /// Answers a request.
    #[track_caller]
    pub fn answer(&mut self, request: &Frame, status: u16) {
        self.wire().send(&Chunk::response(request, status));
    }

    /// What comes next, within `wait`. Bodiless SENDs are answered and remembered.
    #[track_caller]
    pub fn arrival(&mut self, wait: Duration) -> Arrival {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wire().arrival(left) {
                Arrival::Frame(frame) if frame.is("SEND") && frame.body.is_none() && frame.flag == '$' => {
                    self.answer(&frame, 200);
                    self.bindings.push(frame);
                }
                other => return other,
            }
        }
    }

    /// The next frame; it must come.
    #[track_caller]
    pub fn next(&mut self) -> Frame {
        match self.arrival(DEADLINE) {
            Arrival::Frame(frame) => frame,
            other => panic!("an MSRP frame was expected at {}: {other:?}", self.uri),
        }
    }

    /// The next frame, which must be a SEND with a body or an abort.
    #[track_caller]
    pub fn next_send(&mut self) -> Frame {
        let frame = self.next();
        assert!(frame.is("SEND"), "a SEND was expected at {}, got\n{frame:?}", self.uri);
        frame
    }

    /// The next frame, which must be the response to this chunk.
    #[track_caller]
    pub fn response_to(&mut self, chunk: &Chunk) -> Frame {
        let frame = self.next();
        assert!(frame.status.is_some(), "a response was expected at {}, got\n{frame:?}", self.uri);
        assert_eq!(frame.id, chunk.id, "a response to another chunk at {}:\n{frame:?}", self.uri);
        frame
    }

    /// Waits for the binding SEND of a peer that connected, answers it, and returns it.
    #[track_caller]
    pub fn bound(&mut self) -> Frame {
        let frame = self.wire().next();
        assert!(frame.is("SEND") && frame.body.is_none(), "the first request is a bodiless SEND:\n{frame:?}");
        self.answer(&frame, 200);
        frame
    }

    /// Asserts that nothing came before a bodiless SEND of our own got its answer: what was to come would have come.
    #[track_caller]
    pub fn assert_silent(&mut self) {
        self.bind();
    }

    /// Reads responses away until there are none for a while: of chunks whose fate is open.
    pub fn drain_responses(&mut self) {
        while let Arrival::Frame(frame) = self.arrival(Duration::from_millis(200)) {
            assert!(frame.status.is_some(), "{frame:?}");
        }
    }

    /// Sends a message in chunks with at most `window` of them unanswered; the statuses in the order of the chunks.
    #[track_caller]
    pub fn send_message(
        &mut self,
        message_id: &str,
        content_type: &str,
        body: &[u8],
        chunk_len: usize,
        window: usize,
    ) -> Vec<u16> {
        let mut sent: Vec<String> = Vec::new();
        let mut statuses = Vec::new();
        let mut at = 0;
        loop {
            while at < body.len() && sent.len() - statuses.len() < window {
                let chunk = self.part(message_id, content_type, body, at, chunk_len);
                self.send(&chunk);
                sent.push(chunk.id);
                at += chunk_len;
            }
            if statuses.len() == sent.len() {
                return statuses;
            }
            let response = self.next();
            assert_eq!(response.id, sent[statuses.len()], "responses come in the order of the chunks:\n{response:?}");
            statuses.push(response.status.expect("a response"));
        }
    }

    /// Receives a message to its end, answering every chunk with 200.
    #[track_caller]
    pub fn receive_message(&mut self) -> Assembled {
        let mut whole = Assembled::default();
        while !whole.is_complete() {
            let frame = self.next_send();
            whole.add(&frame);
            let asked = frame.header("Failure-Report").is_none_or(|value| value == "yes");
            if asked {
                self.answer(&frame, 200);
            }
        }
        whole
    }
}

/// A message put together from its chunks.
#[derive(Debug, Default)]
pub struct Assembled {
    /// The Message-ID of all chunks.
    pub message_id: String,
    /// The Content-Type of the first chunk.
    pub content_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The chunks.
    pub chunks: usize,
    /// The last chunk's flag.
    pub flag: char,
    /// The total that the chunks name.
    pub total: Option<u64>,
}

impl Assembled {
    /// Adds a chunk: of the same message, right behind the last one.
    #[track_caller]
    pub fn add(&mut self, frame: &Frame) {
        let (start, end, total) = frame.range();
        let message_id = frame.must("Message-ID");
        if self.chunks == 0 {
            self.message_id = message_id.clone();
            self.content_type = frame.must("Content-Type");
        }
        assert_eq!(message_id, self.message_id, "two messages are never mixed in one session:\n{frame:?}");
        assert_eq!(start, self.bytes.len() as u64 + 1, "chunks come in order without a gap:\n{frame:?}");
        let body = frame.body.as_deref().unwrap_or_default();
        self.bytes.extend_from_slice(body);
        if let Some(end) = end {
            assert!(end >= self.bytes.len() as u64, "more bytes than the range says:\n{frame:?}");
        }
        if let (Some(total), Some(known)) = (total, self.total) {
            assert_eq!(total, known, "totals never change:\n{frame:?}");
        }
        self.total = total.or(self.total);
        self.chunks += 1;
        self.flag = frame.flag;
    }

    /// True once the last chunk came.
    pub fn is_complete(&self) -> bool {
        self.chunks > 0 && self.flag != '+'
    }
}

/// The address in an MSRP URI that names one.
pub fn address_of(uri: &str) -> SocketAddr {
    let rest = uri.strip_prefix("msrp://").unwrap_or_else(|| panic!("an msrp URI, got {uri:?}"));
    let authority = rest.split(['/', ';']).next().unwrap_or_default();
    authority.parse().unwrap_or_else(|_| panic!("address and port in {uri:?}"))
}
