//! A shard of paper: connections whose bytes arrive and leave in random cuts, and a codec of its own for the peers.

use crate::base::id::ConnId;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::msrp::effect::{ConnectTicket, MediaEffect};
use crate::msrp::news::{Event, LegPlan, OpenPlan, Purpose, Role, SessionId, Side};
use crate::msrp::relay::Relay;
use crate::msrp::settings::{Acknowledgement, PathMode, RelaySettings};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

pub const A_PATH: &str = "msrp://a.example:9/sa;tcp";
pub const B_PATH: &str = "msrp://b.example:7/sb;tcp";

/// The relay and all connections.
pub struct World {
    pub relay: Relay,
    pub now: Instant,
    pub wires: BTreeMap<u32, Wire>,
    pub events: Vec<Event>,
    pub connects: Vec<(ConnectTicket, SocketAddr, u8)>,
    pub abandoned: Vec<ConnectTicket>,
    rng: Rng,
    pub cut_max: usize,
    next_slot: u32,
}

/// One connection: what its peer wrote and has not arrived, what arrived at its peer.
#[derive(Default)]
pub struct Wire {
    inbound: VecDeque<u8>,
    flight: VecDeque<Bytes>,
    pub heard: Vec<u8>,
    pub is_paused: bool,
    pub is_closed: bool,
    /// The peer takes nothing.
    pub is_stuck: bool,
    is_wanted: bool,
}

/// A chunk as a peer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub tid: String,
    /// Method, or code and comment.
    pub what: String,
    pub fields: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    pub flag: char,
}

impl Chunk {
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    pub fn status(&self) -> u16 {
        self.what.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

pub fn settings(acknowledgement: Acknowledgement, path_mode: PathMode) -> RelaySettings {
    let listeners = vec!["127.0.0.1:20855".parse().unwrap(), "[::1]:20856".parse().unwrap()];
    RelaySettings { listeners, acknowledgement, path_mode }
}

/// A bridged session whose sides are joined to two connections that the peers opened.
pub struct Bridge {
    pub world: World,
    pub id: SessionId,
    pub a: ConnId,
    pub b: ConnId,
}

impl Bridge {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, settings(Acknowledgement::EndToEnd, PathMode::Prepend), false)
    }

    pub fn hop_by_hop(seed: u64) -> Self {
        Self::with(seed, settings(Acknowledgement::HopByHop, PathMode::Prepend), false)
    }

    pub fn with(seed: u64, settings: RelaySettings, record: bool) -> Self {
        let mut world = World::new(seed, settings);
        let id = world.open(Purpose::Bridge { record });
        world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
        world.negotiate(id, Side::Terminating, B_PATH, Role::Passive, &[]);
        world.relay.start(id, world.now);
        let (a, b) = (world.accept(), world.accept());
        assert!(world.bind(a, id, Side::Originating, A_PATH).is_empty());
        assert!(world.bind(b, id, Side::Terminating, B_PATH).is_empty());
        assert_eq!(world.events.drain(..).count(), 2, "both sides are bound");
        Self { world, id, a, b }
    }

    /// To-Path and From-Path of the originating side's requests.
    pub fn a_paths(&self) -> (String, &'static str) {
        (format!("{} {B_PATH}", self.world.relay.uri(self.id, Side::Originating)), A_PATH)
    }

    /// Sends a chunk as A, whole.
    pub fn send(&mut self, tid: &str, fields: &str, body: Option<&[u8]>, flag: char) {
        let (to, from) = self.a_paths();
        let bytes = request(tid, "SEND", &to, from, fields, body, flag);
        self.world.write(self.a, &bytes);
    }

    /// A whole message in one chunk.
    pub fn message(&mut self, tid: &str, body: &[u8]) {
        let len = body.len();
        let fields = format!("Message-ID: m-{tid}\r\nByte-Range: 1-{len}/{len}\r\nContent-Type: message/cpim\r\n");
        self.send(tid, &fields, Some(body), '$');
    }

    /// B answers one of its requests.
    pub fn answer(&mut self, chunk: &Chunk, status: &str) {
        let to = self.world.relay.uri(self.id, Side::Terminating).to_owned();
        let bytes = response(&chunk.tid, status, &to, B_PATH);
        self.world.write(self.b, &bytes);
    }

    pub fn heard_a(&mut self) -> Vec<Chunk> {
        self.world.heard(self.a)
    }

    pub fn heard_b(&mut self) -> Vec<Chunk> {
        self.world.heard(self.b)
    }
}

pub fn request(
    tid: &str,
    method: &str,
    to: &str,
    from: &str,
    fields: &str,
    body: Option<&[u8]>,
    flag: char,
) -> Vec<u8> {
    let mut bytes = format!("MSRP {tid} {method}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{fields}").into_bytes();
    if let Some(body) = body {
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("-------{tid}{flag}\r\n").as_bytes());
    bytes
}

pub fn response(tid: &str, status: &str, to: &str, from: &str) -> Vec<u8> {
    format!("MSRP {tid} {status}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{tid}$\r\n").into_bytes()
}

impl World {
    pub fn new(seed: u64, settings: RelaySettings) -> Self {
        let mut rng = Rng::from_u64(seed);
        // Some runs move single bytes, others whole buffers.
        let cut_max = [1, 7, 100, 2_000, 70_000][rng.below(5) as usize];
        let now = Instant(1_000_000_000);
        Self {
            relay: Relay::new(settings, Rng::from_u64(seed ^ 0x5eed), now),
            now,
            wires: BTreeMap::new(),
            events: Vec::new(),
            connects: Vec::new(),
            abandoned: Vec::new(),
            rng,
            cut_max,
            next_slot: 0,
        }
    }

    pub fn open(&mut self, purpose: Purpose) -> SessionId {
        let plan = OpenPlan { purpose, listeners: [0, 0], size_max: 10 << 20 };
        self.relay.open(plan, self.now).unwrap()
    }

    pub fn negotiate(&mut self, id: SessionId, side: Side, path: &str, role: Role, connect_to: &[SocketAddr]) {
        let leg = LegPlan { peer_path: path.as_bytes(), role, connect_to, accept_types: b"message/cpim" };
        self.relay.negotiate(id, side, leg, self.now);
    }

    fn new_conn(&mut self) -> ConnId {
        let conn = ConnId { slot: self.next_slot, generation: self.next_slot + 100 };
        self.next_slot += 1;
        self.wires.insert(conn.slot, Wire::default());
        conn
    }

    pub fn accept(&mut self) -> ConnId {
        let conn = self.new_conn();
        let peer = "192.0.2.1:4000".parse().unwrap();
        assert!(self.relay.on_accepted(conn, peer, 0, self.now));
        self.run();
        conn
    }

    /// The oldest connection that was asked for opens.
    pub fn connect(&mut self) -> ConnId {
        let (ticket, ..) = self.connects.remove(0);
        let conn = self.new_conn();
        assert!(self.relay.on_connected(ticket, conn, self.now));
        self.run();
        conn
    }

    pub fn refuse_connect(&mut self) {
        let (ticket, ..) = self.connects.remove(0);
        self.relay.on_connect_failed(ticket, self.now);
        self.run();
    }

    /// A peer binds its side, and hears that it did.
    ///
    /// Answers what comes behind the response.
    pub fn bind(&mut self, conn: ConnId, id: SessionId, side: Side, from: &str) -> Vec<Chunk> {
        let to = self.relay.uri(id, side).to_owned();
        let fields = "Message-ID: bind\r\nByte-Range: 1-0/0\r\n";
        self.write(conn, &request("bind1234", "SEND", &to, from, fields, None, '$'));
        let mut heard = self.heard(conn);
        let answer = heard.remove(0);
        assert_eq!((answer.what.as_str(), answer.tid.as_str()), ("200 OK", "bind1234"));
        heard
    }

    /// A peer's bytes arrive.
    pub fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.wire(conn).inbound.extend(bytes);
        self.run();
    }

    pub fn close(&mut self, conn: ConnId) {
        self.wire(conn).is_closed = true;
        self.relay.on_closed(conn, self.now);
        self.run();
    }

    pub fn wire(&mut self, conn: ConnId) -> &mut Wire {
        self.wires.get_mut(&conn.slot).unwrap()
    }

    /// Bytes of a peer that have not been read.
    pub fn unread_len(&self, conn: ConnId) -> usize {
        self.wires[&conn.slot].inbound.len()
    }

    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(next) = self.relay.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.relay.handle_timeout(self.now);
            assert!(self.relay.poll_timeout().is_none_or(|next| next > self.now), "firing moves on");
            self.run();
        }
        self.now = end;
    }

    /// What a peer has heard since it was last asked.
    pub fn heard(&mut self, conn: ConnId) -> Vec<Chunk> {
        parse(&self.heard_bytes(conn))
    }

    /// The same, as it came.
    pub fn heard_bytes(&mut self, conn: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.wire(conn).heard)
    }

    /// Moves everything until nothing moves.
    pub fn run(&mut self) {
        loop {
            let mut moved = self.drain();
            let slots: Vec<u32> = self.wires.keys().copied().collect();
            for slot in slots {
                moved |= self.arrive(slot) | self.drain() | self.leave(slot);
            }
            if !moved {
                return;
            }
        }
    }

    fn drain(&mut self) -> bool {
        let mut moved = false;
        while let Some(effect) = self.relay.poll_effect() {
            moved = true;
            match effect {
                MediaEffect::Connect { ticket, to, listener } => self.connects.push((ticket, to, listener)),
                MediaEffect::Abandon(ticket) => {
                    self.abandoned.push(ticket);
                    self.connects.retain(|(asked, ..)| *asked != ticket);
                }
                MediaEffect::Close(conn) => {
                    let mut batch = Vec::new();
                    loop {
                        self.relay.take(conn, &mut batch);
                        if batch.is_empty() {
                            break;
                        }
                        self.wire(conn).flight.extend(batch.drain(..));
                    }
                    let wire = self.wire(conn);
                    wire.heard.extend(wire.flight.drain(..).flatten());
                    wire.is_closed = true;
                }
                MediaEffect::Pause(conn) => {
                    assert!(!std::mem::replace(&mut self.wire(conn).is_paused, true), "paused twice");
                }
                MediaEffect::Resume(conn) => {
                    assert!(std::mem::replace(&mut self.wire(conn).is_paused, false), "resumed twice");
                }
            }
        }
        while let Some(event) = self.relay.poll_event() {
            moved = true;
            self.events.push(event);
        }
        while let Some(conn) = self.relay.poll_dirty() {
            moved = true;
            self.wire(conn).is_wanted = true;
        }
        moved
    }

    fn arrive(&mut self, slot: u32) -> bool {
        let cut = 1 + self.rng.below(self.cut_max as u64) as usize;
        let wire = self.wires.get_mut(&slot).unwrap();
        if wire.is_paused || wire.is_closed || wire.inbound.is_empty() {
            return false;
        }
        let len = wire.inbound.len().min(cut);
        let bytes: Bytes = wire.inbound.drain(..len).collect::<Vec<u8>>().into();
        let conn = ConnId { slot, generation: slot + 100 };
        let mut share_count = 0;
        self.relay.on_bytes(
            conn,
            &bytes,
            &mut || {
                share_count += 1;
                bytes.clone()
            },
            self.now,
        );
        assert!(share_count <= 1, "a buffer is shared once");
        true
    }

    fn leave(&mut self, slot: u32) -> bool {
        let conn = ConnId { slot, generation: slot + 100 };
        let cut = 1 + self.rng.below(self.cut_max as u64 * 2) as usize;
        let wire = self.wires.get_mut(&slot).unwrap();
        if wire.is_closed || wire.is_stuck {
            return false;
        }
        if wire.flight.is_empty() {
            if !std::mem::take(&mut wire.is_wanted) {
                return false;
            }
            let mut batch = Vec::new();
            self.relay.take(conn, &mut batch);
            assert!(batch.len() <= 64);
            wire.flight.extend(batch);
            return true;
        }
        let mut left = cut;
        while left > 0
            && let Some(mut piece) = wire.flight.pop_front()
        {
            let part = piece.split_to(piece.len().min(left));
            left -= part.len();
            wire.heard.extend_from_slice(&part);
            if !piece.is_empty() {
                wire.flight.push_front(piece);
            }
        }
        self.relay.on_sent(conn, cut - left, self.now);
        true
    }

    /// All is over: nothing may be left.
    pub fn assert_empty(&mut self) {
        self.pass(Duration::from_secs(300));
        let levels = self.relay.levels();
        assert_eq!((levels.sessions, levels.connections, levels.egress_len), (0, 0, 0));
        self.relay.assert_no_leftovers();
        assert_eq!(self.relay.poll_timeout(), None);
    }
}

/// Reads whole chunks; panics about anything else.
pub fn parse(mut bytes: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let line_end =
            find(bytes, b"\r\n").unwrap_or_else(|| panic!("no line in {:?}", String::from_utf8_lossy(bytes)));
        let line = std::str::from_utf8(&bytes[..line_end]).unwrap();
        let mut words = line.splitn(3, ' ');
        assert_eq!(words.next(), Some("MSRP"), "{line}");
        let (tid, what) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let mark = format!("-------{tid}");
        bytes = &bytes[line_end + 2..];
        let mut fields = Vec::new();
        let mut body = None;
        loop {
            if bytes.starts_with(mark.as_bytes()) {
                bytes = &bytes[mark.len()..];
                break;
            }
            let end = find(bytes, b"\r\n").expect("a whole chunk");
            let line = std::str::from_utf8(&bytes[..end]).unwrap();
            bytes = &bytes[end + 2..];
            if let Some((name, value)) = line.split_once(": ") {
                fields.push((name.to_owned(), value.to_owned()));
                continue;
            }
            assert_eq!(line, "");
            let end = find(bytes, format!("\r\n{mark}").as_bytes()).expect("a whole chunk");
            body = Some(bytes[..end].to_vec());
            bytes = &bytes[end + 2 + mark.len()..];
            break;
        }
        let flag = char::from(bytes[0]);
        assert_eq!(&bytes[1..3], b"\r\n");
        bytes = &bytes[3..];
        chunks.push(Chunk { tid, what, fields, body, flag });
    }
    chunks
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, text)
}

/// A body that differs everywhere.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::from_u64(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}
