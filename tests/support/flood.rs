//! Many requests at once over one socket: plain text for speed, one request in flight for each user, so that a user's
//! answers say in which order his requests were taken.

use super::DEADLINE;
use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is sent again and again, and whose promise its answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MESSAGE; 202 promises that it is in the deferred queue.
    Defer,
    /// MESSAGE; 200 promises that it is in the message store.
    Store,
    /// MESSAGE; 200 comes from the device, and the history has it.
    Record,
    /// Third-party REGISTER, each with another contact of one device; 200 promises that the latest is known.
    Register,
}

impl Kind {
    const fn letter(self) -> char {
        match self {
            Self::Defer => 'd',
            Self::Store => 's',
            Self::Record => 'h',
            Self::Register => 'r',
        }
    }

    const fn promise(self, errand: Errand) -> u16 {
        match (self, errand) {
            (Self::Defer, Errand::Send) => 202,
            _ => 200,
        }
    }

    const fn errand(self) -> Errand {
        match self {
            Self::Register => Errand::Register,
            Self::Defer | Self::Store | Self::Record => Errand::Send,
        }
    }

    /// A user's address.
    pub fn user(self, user: usize) -> String {
        format!("sip:{}{user}@home.example", self.letter())
    }

    /// The CPIM Message-ID of a user's message.
    pub fn message_id(self, user: usize, sequence: u32) -> String {
        format!("{}-{user}-{sequence}", self.letter())
    }

    /// The contact of a user's registration.
    pub fn contact(self, user: usize, sequence: u32) -> String {
        format!("sip:{}{user}-{sequence}@192.0.2.7:5060", self.letter())
    }

    /// A user's message as it travels on a connection.
    pub fn on_a_stream(self, user: usize, sequence: u32) -> Vec<u8> {
        let from = SocketAddr::from(([127, 0, 0, 1], 9));
        let text = String::from_utf8(self.request(Errand::Send, user, sequence, from, 0)).expect("text");
        text.replacen("SIP/2.0/UDP", "SIP/2.0/TCP", 1).into_bytes()
    }

    fn request(self, errand: Errand, user: usize, sequence: u32, from: SocketAddr, run: u32) -> Vec<u8> {
        let (aor, mark) = (self.user(user), self.message_id(user, sequence));
        let registers = errand == Errand::Register;
        let (method, uri) = if registers { ("REGISTER", "sip:pf@127.0.0.1") } else { ("MESSAGE", &*aor) };
        let head = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKflood-{run}-{mark};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:alice@a.example>;tag=f\r\nTo: <{aor}>\r\nCall-ID: {run}-{mark}@test.example\r\n\
             CSeq: 1 {method}\r\n"
        );
        if registers {
            let contact = self.contact(user, sequence);
            let instance = format!("<urn:uuid:f81d4fae-7dec-11d0-a765-{user:012x}>");
            return format!(
                "{head}Contact: <{contact}>;+sip.instance=\"{instance}\"\r\nExpires: 6000\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes();
        }
        let body = format!(
            "From: <sip:alice@a.example>\r\nTo: <{aor}>\r\nNS: imdn<urn:ietf:params:imdn>\r\nimdn.Message-ID: {mark}\r\n\
             DateTime: 2031-05-04T09:30:00Z\r\n\r\nContent-Type: text/plain\r\n\r\n{}",
            "all work and no play ".repeat(20)
        );
        format!(
            "{head}P-Asserted-Identity: <sip:alice@a.example>\r\nP-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg\r\n\
             Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"\r\n\
             Content-Type: message/cpim\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Errand {
    Send,
    Register,
}

/// What the users were promised.
#[derive(Clone, Debug)]
pub struct Promises {
    /// For each user, the sequence numbers that were answered.
    pub answered: Vec<Vec<u32>>,
    /// For each user, how many were sent: the next sequence number.
    pub sent: Vec<u32>,
}

impl Promises {
    /// Nothing yet.
    pub fn new(users: usize) -> Self {
        Self { answered: vec![Vec::new(); users], sent: vec![0; users] }
    }

    /// Answers in all.
    pub fn count(&self) -> usize {
        self.answered.iter().map(Vec::len).sum()
    }
}

/// A sender with one request in flight for each of its users, on a thread of its own.
pub struct Flood {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<Promises>,
}

impl Flood {
    /// Starts sending. `promises` is what earlier floods left; each user gets at most `per_user` answers in all.
    pub fn start(kind: Kind, to: SocketAddr, promises: Promises, per_user: u32) -> Self {
        Self::begin(kind, kind.errand(), to, promises, per_user)
    }

    /// Registers each of the users who has no answer yet.
    pub fn start_registering(kind: Kind, to: SocketAddr, registered: Promises) -> Self {
        Self::begin(kind, Errand::Register, to, registered, 1)
    }

    fn begin(kind: Kind, errand: Errand, to: SocketAddr, promises: Promises, per_user: u32) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || run((kind, errand), to, promises, per_user, &stop, &answered))
        };
        Self { stop, answered, thread }
    }

    /// Answers since the start.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Takes what has arrived and ends. What the appliance sent before it died counts as said.
    pub fn stop(self) -> Promises {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("every answer was the promised one")
    }

    /// Waits until every user has as many answers as were asked for.
    pub fn finish(self) -> Promises {
        self.thread.join().expect("every answer was the promised one")
    }
}

fn run(
    (kind, errand): (Kind, Errand),
    to: SocketAddr,
    mut promises: Promises,
    per_user: u32,
    stop: &AtomicBool,
    answered: &AtomicUsize,
) -> Promises {
    static RUNS: AtomicUsize = AtomicUsize::new(1);
    let run = RUNS.fetch_add(1, Ordering::Relaxed) as u32;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let from = socket.local_addr().expect("bound");
    socket.set_read_timeout(Some(TICK)).expect("a read timeout");
    // What an ordinary user may have; all users' answers can come at once.
    socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).expect("a buffer size");
    let users = promises.sent.len();
    let mut in_flight: Vec<Option<(u32, Vec<u8>, Instant)>> = vec![None; users];
    let (mut buffer, mut moved_at) = (vec![0; 65_536], Instant::now());
    loop {
        let stopping = stop.load(Ordering::SeqCst);
        for (user, waiting) in in_flight.iter_mut().enumerate() {
            match waiting {
                // A lost datagram is sent again, as a UAC does; the rest of the transaction is the appliance's work.
                Some((_, bytes, sent_at)) if sent_at.elapsed() > RESEND && !stopping => {
                    *sent_at = Instant::now();
                    let _ = socket.send_to(bytes, to);
                }
                None if !stopping && (promises.answered[user].len() as u32) < per_user => {
                    let sequence = promises.sent[user];
                    promises.sent[user] += 1;
                    let bytes = kind.request(errand, user, sequence, from, run);
                    let _ = socket.send_to(&bytes, to);
                    *waiting = Some((sequence, bytes, Instant::now()));
                }
                _ => {}
            }
        }
        if stopping {
            socket.set_nonblocking(true).expect("a mode");
        }
        // Refusals by a port that nobody listens on any more show up as errors here: the flood ends with `stop`.
        let mut budget = BATCH;
        while let Ok((len, _)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..len]);
            let (user, sequence) = mark(&text).unwrap_or_else(|| panic!("an answer of ours:\n{text}"));
            if in_flight[user].as_ref().is_some_and(|(waiting, ..)| *waiting == sequence) {
                assert!(text.starts_with(&format!("SIP/2.0 {} ", kind.promise(errand))), "{kind:?}:\n{text}");
                in_flight[user] = None;
                promises.answered[user].push(sequence);
                answered.fetch_add(1, Ordering::SeqCst);
                moved_at = Instant::now();
            }
            budget = budget.saturating_sub(1);
            if budget == 0 && !stopping {
                break;
            }
        }
        let done = promises.answered.iter().all(|answered| answered.len() as u32 >= per_user);
        if stopping || done {
            return promises;
        }
        assert!(moved_at.elapsed() < DEADLINE, "{kind:?}: no answer within {DEADLINE:?}");
    }
}

/// User and sequence number out of the branch.
fn mark(text: &str) -> Option<(usize, u32)> {
    let branch = text.split("z9hG4bKflood-").nth(1)?.split([';', '\r', ',']).next()?;
    let mut parts = branch.split('-').skip(2);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The SIP/IP core: takes every request with 200 and remembers it, until it is dropped.
pub struct Core {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Core {
    /// Starts it.
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(TICK)).expect("a read timeout");
        let addr = socket.local_addr().expect("bound");
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = {
            let (stop, taken) = (stop.clone(), taken.clone());
            std::thread::spawn(move || {
                let (mut buffer, mut seen) = (vec![0; 65_536], HashSet::new());
                while !stop.load(Ordering::SeqCst) {
                    let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
                    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
                    let (first, answer) = answer(&text);
                    if seen.insert(first)
                        && let Some(id) = value(&text, "imdn.Message-ID")
                    {
                        taken.lock().expect("nobody panics with it").push(id.to_owned());
                    }
                    let _ = socket.send_to(answer.as_bytes(), peer);
                }
            })
        };
        Self { addr, stop, taken, thread: Some(thread) }
    }

    /// Its URI, for the configuration.
    pub fn uri(&self) -> String {
        format!("sip:{};transport=udp", self.addr)
    }

    /// The Message-IDs taken so far, in order of arrival.
    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().expect("nobody panics with it").clone()
    }

    /// The sequence numbers of one user's messages, in order of arrival.
    pub fn taken_by(&self, kind: Kind, users: usize) -> Vec<Vec<u32>> {
        let mut by_user = vec![Vec::new(); users];
        for id in self.taken() {
            let mut parts = id.split('-');
            if parts.next() == Some(kind.letter().to_string().as_str())
                && let (Some(Ok(user)), Some(Ok(sequence))) =
                    (parts.next().map(str::parse::<usize>), parts.next().map(str::parse::<u32>))
            {
                by_user[user].push(sequence);
            }
        }
        by_user
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The topmost Via, which tells repeats, and a 200 to the request.
fn answer(request: &str) -> (String, String) {
    let copied = |name: &str| -> String {
        let lines = request.split("\r\n").take_while(|line| !line.is_empty());
        lines.filter(|line| line.starts_with(&format!("{name}: "))).map(|line| format!("{line}\r\n")).collect()
    };
    let vias = copied("Via");
    let first = vias.split("\r\n").next().unwrap_or_default().to_owned();
    let to = copied("To").trim_end().to_owned();
    let rest = format!("{}{}{}", copied("From"), copied("Call-ID"), copied("CSeq"));
    let answer = format!("SIP/2.0 200 OK\r\n{vias}{to};tag=core\r\n{rest}Content-Length: 0\r\n\r\n");
    (first, answer)
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

const BATCH: usize = 32;
const TICK: Duration = Duration::from_millis(5);
const RESEND: Duration = Duration::from_millis(500);
