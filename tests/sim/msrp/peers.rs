//! The peers: senders that cut messages into chunks, receivers that put them together, both with bad days.

use super::codec::{Chunk, Parsed};
use super::wire::{Happening, Meaning, Media, State};
use ringpost::base::rng::Rng;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Which responses a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Absent,
    Yes,
    Partial,
    No,
}

/// Who takes a message, or gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// From peer to peer; the receiver acknowledges.
    EndToEnd,
    /// From peer to peer; the appliance acknowledges.
    HopByHop,
    /// From a peer to the appliance.
    Spool,
    /// From the appliance to a peer.
    Source,
}

/// One message, as both its ends know it.
#[derive(Clone, Debug)]
pub struct Message {
    pub body: Vec<u8>,
    pub route: Route,
    pub wish: Wish,
    pub wants_success: bool,
    pub is_star: bool,
    pub is_total_known: bool,
    pub chunk_max: usize,
    pub content_type: &'static str,
    /// Where its sender gives it up.
    pub abort_at: Option<usize>,
    /// One of its Byte-Ranges is not true.
    pub is_lie: bool,
    /// It may be refused without anybody being told, because nobody asked to be.
    pub is_refusable: bool,

    /// Bytes that its sender sent.
    pub sent: usize,
    pub is_all_sent: bool,
    pub is_given_up: bool,
    pub chunk_count: usize,
    pub ack_count: usize,
    /// The first bad news that its sender had.
    pub failed: Option<u16>,
    pub success_reports: usize,

    /// Bytes that its receiver has.
    pub received: usize,
    pub is_done: bool,
    pub is_cut: bool,
    /// Ranges that the receiver answered with 200.
    pub covered: Vec<(usize, usize)>,
    pub refused: Option<u16>,
    /// The appliance said that it is safe.
    pub is_committed: bool,
    /// The history has it.
    pub is_recorded: bool,
}

impl Message {
    pub fn random(number: usize, route: Route, len_max: usize, rng: &mut Rng) -> Self {
        let mut below = |bound: usize| rng.below(bound.max(1) as u64) as usize;
        let len = match below(12) {
            0 => below(3),
            1..7 => below(5_000),
            7..11 => below(100_000),
            _ => below(len_max),
        };
        let chunk_max = match below(6) {
            0 if len < 3_000 => 1 + below(20) + len / 100,
            0..3 => 1 + below(4_000) + len / 40,
            3..5 => 2_048 + below(64_000),
            _ => 1 + below(200_000),
        };
        let wish = [Wish::Absent, Wish::Absent, Wish::Yes, Wish::Yes, Wish::Partial, Wish::No][below(6)];
        let is_total_known = below(5) > 0;
        let abort_at = (below(10) == 0).then(|| below(len));
        let is_star = below(2) == 0;
        let is_lie = below(40) == 0 && len > 10 && !is_star;
        let content_type = if below(60) == 0 { "text/html" } else { "message/cpim" };
        let wants_success = below(3) == 0;
        Self {
            body: body(number, len, rng),
            route,
            wish,
            wants_success,
            is_star,
            is_total_known,
            chunk_max,
            content_type,
            abort_at,
            is_lie,
            is_refusable: content_type == "text/html",
            sent: 0,
            is_all_sent: false,
            is_given_up: false,
            chunk_count: 0,
            ack_count: 0,
            failed: None,
            success_reports: 0,
            received: 0,
            is_done: false,
            is_cut: false,
            covered: Vec::new(),
            refused: None,
            is_committed: false,
            is_recorded: false,
        }
    }

    /// The same message on its way from the appliance to a device.
    pub fn onward(&self) -> Self {
        let body = self.body.clone();
        let mut onward = Self { body, covered: Vec::new(), ..self.clone() };
        (onward.route, onward.wish, onward.is_lie, onward.is_total_known) = (Route::Source, Wish::Yes, false, true);
        (onward.is_done, onward.is_cut, onward.received, onward.refused) = (false, false, 0, None);
        onward
    }

    /// Puts CPIM headers before the body.
    pub fn make_cpim(&mut self, number: usize) {
        let head = format!(
            "From: <sip:alice@a.example>\r\nTo: <sip:bob@home.example>\r\nNS: imdn <urn:ietf:params:imdn>\r\n\
             imdn.Message-ID: lm{number}\r\nDateTime: 2026-01-01T00:00:00Z\r\n\r\nContent-Type: text/plain\r\n\r\n"
        );
        self.body.splice(..0, head.into_bytes());
    }

    pub fn wants_responses(&self) -> bool {
        matches!(self.wish, Wish::Absent | Wish::Yes)
    }

    fn is_covered(&self, start: usize, end: usize) -> bool {
        let mut at = start;
        while at < end {
            let Some(next) = self.covered.iter().filter(|(from, to)| *from <= at && at < *to).map(|(_, to)| *to).max()
            else {
                return false;
            };
            at = next;
        }
        true
    }
}

/// A body full of what looks like the end of a chunk, and is none.
fn body(number: usize, len: usize, rng: &mut Rng) -> Vec<u8> {
    let mut body: Vec<u8> = (0..len).map(|at| (at * 31 + number * 17 + (at >> 8)) as u8).collect();
    let decoys = [
        format!("\r\n-------n0b0dy{number}$\r\n"),
        format!("\r\n-------dEc0y{number}x\r\n"),
        format!("\r\n-------dEc0y{number}+x\r\n"),
        format!("\r\n-------dEc0y{number}$\r"),
        format!("\r\n-------dEc0y{number}"),
        "\r\n\r\n-------".into(),
        format!("MSRP dEc0y{number} SEND\r\nTo-Path: msrp://nobody/x;tcp\r\n"),
    ];
    for _ in 0..(len / 2_000).min(20) + usize::from(len > 60) {
        let decoy = decoys[rng.below(decoys.len() as u64) as usize].as_bytes();
        if decoy.len() + 2 < len {
            let at = rng.below((len - decoy.len() - 1) as u64) as usize;
            body[at..at + decoy.len()].copy_from_slice(decoy);
            // Whatever stood behind it does not make it whole.
            body[at + decoy.len()] = b'.';
        }
    }
    body
}

/// Whether a body with this transaction id would end before its end.
fn ends_early(body: &[u8], tid: &str) -> bool {
    let whole = [body, b"\r\n"].concat();
    b"$+#".iter().any(|flag| {
        let line = format!("\r\n-------{tid}{}\r\n", char::from(*flag));
        memchr::memmem::find(&whole, line.as_bytes()).is_some()
    })
}

/// Our own bodiless SEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    None,
    Sent,
    Answered,
}

/// A request of the peer that waits for its response.
#[derive(Clone, Debug)]
pub enum Waiting {
    Chunk { message: usize, start: usize, end: usize, is_last: bool },
    Binding,
    Odd { status: u16 },
}

/// What a receiver does with chunks.
#[derive(Clone, Copy, Debug)]
pub enum Habit {
    Good,
    /// Good, but late with its answers, in milliseconds.
    Late(u64),
    /// Refuses everything behind so many chunks.
    Refuses {
        after: usize,
        status: u16,
        at_head: bool,
    },
    /// Says nothing behind so many chunks.
    Silent {
        after: usize,
    },
}

/// One end of a session.
pub struct End {
    pub shard: u16,
    pub host: SocketAddr,
    /// Its own whole path.
    pub path: String,
    /// The path that the appliance's SDP gave it.
    pub far_path: String,
    /// To-Path of its requests.
    pub to: String,
    /// It connects.
    pub dials: bool,
    pub wire: Option<usize>,
    /// The session has ended for it.
    pub is_over: bool,
    /// The connection went before SIP ended the session.
    pub is_cut_off: bool,
    /// The appliance has lost the session.
    pub is_lost: bool,
    pub binding: Binding,
    pub far_binding: Binding,
    pub waiting: HashMap<String, Waiting>,
    /// Chunks of which only failures are told.
    partial: HashMap<String, usize>,
    pub sends: Option<Sender>,
    pub receives: Option<Receiver>,
    tid_count: usize,
    number: usize,
}

/// A sender.
pub struct Sender {
    pub queue: Vec<usize>,
    pub at: usize,
    pub window: usize,
    pub is_due: bool,
    /// How long it may think before each chunk, in milliseconds.
    pub pace: u64,
}

/// A receiver.
pub struct Receiver {
    pub habit: Habit,
    pub chunk_count: usize,
    pub open: Option<usize>,
    early: Option<String>,
}

impl Receiver {
    pub fn new(habit: Habit) -> Self {
        Self { habit, chunk_count: 0, open: None, early: None }
    }
}

impl End {
    pub fn new(shard: u16, host: SocketAddr, path: String, far_path: String, dials: bool) -> Self {
        Self {
            shard,
            host,
            path,
            to: far_path.clone(),
            far_path,
            dials,
            wire: None,
            is_over: false,
            is_cut_off: false,
            is_lost: false,
            binding: Binding::None,
            far_binding: Binding::None,
            waiting: HashMap::new(),
            partial: HashMap::new(),
            sends: None,
            receives: None,
            tid_count: 0,
            number: 0,
        }
    }

    pub fn is_all_sent(&self) -> bool {
        self.sends.as_ref().is_none_or(|sender| sender.at >= sender.queue.len())
    }

    fn tid(&mut self) -> String {
        self.tid_count += 1;
        format!("p{}e{:04}", self.number, self.tid_count)
    }

    fn request(&mut self, what: &str) -> Chunk {
        Chunk {
            what: what.into(),
            tid: self.tid(),
            to: self.to.clone(),
            from: self.path.clone(),
            fields: Vec::new(),
            body: None,
            flag: b'$',
        }
    }

    fn bodiless(&mut self) -> Chunk {
        let mut chunk = self.request("SEND");
        chunk.fields = vec![("Message-ID".into(), format!("bind{}", chunk.tid)), ("Byte-Range".into(), "1-0/0".into())];
        chunk
    }
}

fn first(path: &str) -> &str {
    path.split(' ').next().unwrap_or_default()
}

impl Media {
    pub fn add_end(&mut self, mut end: End) -> usize {
        let number = self.ends.len();
        end.number = number;
        let known = self.end_of.insert(first(&end.path).to_owned(), number);
        assert!(known.is_none(), "every end has a URI of its own");
        self.ends.push(end);
        number
    }

    /// SIP ended the session of an end.
    pub fn end_over(&mut self, end: usize) {
        self.ends[end].is_over = true;
        let Some(wire) = self.ends[end].wire else { return };
        let is_unused = self.wires[wire].ends.iter().all(|end| self.ends[*end].is_over);
        if is_unused && self.chance(300) {
            self.soon(Duration::from_secs(2), Happening::Fin(wire));
        }
    }

    pub fn on_wire_gone(&mut self, end: usize, wire: usize) {
        let found = &mut self.ends[end];
        if found.wire == Some(wire) {
            found.is_cut_off |= !found.is_over;
            found.is_over = true;
        }
    }

    /// An active peer connects, or goes on with a connection that it has.
    pub fn dial(&mut self, end: usize) {
        let found = &self.ends[end];
        if found.wire.is_some() || found.is_over {
            return;
        }
        let (shard, host) = (found.shard, found.host);
        let known = self
            .wires
            .iter()
            .rposition(|wire| wire.shard == shard && wire.host == host && wire.by_peer && wire.is_usable());
        let wire = match known {
            Some(wire) if self.rng.below(10) < 7 => wire,
            _ => self.connect_from(shard, host),
        };
        self.join(end, wire);
        let is_receiver = self.ends[end].receives.is_some();
        if is_receiver || self.rng.below(10) < 6 {
            self.bind(end, wire);
        }
        self.wish_emit(end);
    }

    fn join(&mut self, end: usize, wire: usize) {
        self.ends[end].wire = Some(wire);
        self.wires[wire].ends.insert(end);
    }

    fn bind(&mut self, end: usize, wire: usize) {
        let chunk = self.ends[end].bodiless();
        self.ends[end].binding = Binding::Sent;
        self.request(end, wire, &chunk, Waiting::Binding);
    }

    fn request(&mut self, end: usize, wire: usize, chunk: &Chunk, waiting: Waiting) {
        self.ends[end].waiting.insert(chunk.tid.clone(), waiting);
        self.write(wire, chunk);
    }

    fn write(&mut self, wire: usize, chunk: &Chunk) {
        let mut bytes = Vec::new();
        chunk.write(&mut bytes);
        self.push(wire, &bytes);
    }

    pub fn wish_emit(&mut self, end: usize) {
        let Some(sender) = &mut self.ends[end].sends else { return };
        if !std::mem::replace(&mut sender.is_due, true) {
            let pace = sender.pace;
            self.soon(Duration::from_millis(pace), Happening::Emit(end));
        }
    }

    /// A sender may send something.
    pub fn emit(&mut self, end: usize) {
        let Some(sender) = &mut self.ends[end].sends else { return };
        sender.is_due = false;
        if self.ends[end].is_over {
            return;
        }
        let Some(wire) = self.ends[end].wire else {
            if self.ends[end].dials {
                self.dial(end);
            }
            return;
        };
        if !self.wires[wire].is_usable() {
            return;
        }
        if self.wires[wire].backlog() > SEND_BUFFER_LEN {
            return self.later(end);
        }
        if self.rng.below(40) == 0 {
            self.be_odd(end, wire);
        }
        if self.chance(self.trouble.garbage) {
            self.note(|| format!("end {end}: nonsense on wire {wire}"));
            self.wires[wire].sent_garbage = true;
            self.push(wire, b"\x16\x03\x01 this is no MSRP\r\n\r\n");
            return;
        }
        let chunks = self.ends[end].waiting.values().filter(|waiting| matches!(waiting, Waiting::Chunk { .. })).count();
        let Some(sender) = &self.ends[end].sends else { return };
        if chunks >= sender.window {
            return; // The next response wakes it.
        }
        let Some(number) = sender.queue.get(sender.at).copied() else { return };
        if self.messages[number].failed.is_some() && self.messages[number].chunk_count > 0 {
            // What a sender does whose message was refused: stops, ends it in order, or has not noticed.
            match number % 3 {
                0 => return self.next_message(end, number),
                1 => {
                    self.give_up(end, wire, number);
                    return self.next_message(end, number);
                }
                _ => {}
            }
        }
        self.send_chunk(end, wire, number);
        self.later(end);
    }

    fn later(&mut self, end: usize) {
        self.wish_emit(end);
    }

    fn next_message(&mut self, end: usize, number: usize) {
        self.messages[number].is_given_up |= !self.messages[number].is_all_sent;
        if let Some(sender) = &mut self.ends[end].sends {
            sender.at += 1;
        }
        self.wish_emit(end);
    }

    /// `#` without a body.
    fn give_up(&mut self, end: usize, wire: usize, number: usize) {
        let message = &mut self.messages[number];
        message.is_given_up = true;
        let at = message.sent;
        let total = if message.is_total_known { message.body.len().to_string() } else { "*".into() };
        let mut chunk = self.ends[end].request("SEND");
        chunk.fields = vec![
            ("Message-ID".into(), format!("m{number}")),
            ("Byte-Range".into(), format!("{}-{at}/{total}", at + 1)),
        ];
        chunk.flag = b'#';
        self.wish(end, wire, number, chunk, at, at);
    }

    /// Sends a chunk, and remembers what it asks for.
    fn wish(&mut self, end: usize, wire: usize, number: usize, mut chunk: Chunk, start: usize, stop: usize) {
        let message = &mut self.messages[number];
        message.chunk_count += 1;
        self.counts.chunks += 1;
        let is_last = chunk.flag == b'$';
        match message.wish {
            Wish::Absent => {}
            Wish::Yes => chunk.fields.push(("Failure-Report".into(), "yes".into())),
            Wish::Partial => chunk.fields.push(("Failure-Report".into(), "partial".into())),
            Wish::No => chunk.fields.push(("Failure-Report".into(), "no".into())),
        }
        if message.wants_success {
            chunk.fields.push(("Success-Report".into(), "yes".into()));
        }
        if chunk.body.is_some() {
            chunk.fields.push(("Content-Type".into(), message.content_type.into()));
        }
        match message.wish {
            Wish::Absent | Wish::Yes => {
                self.ends[end]
                    .waiting
                    .insert(chunk.tid.clone(), Waiting::Chunk { message: number, start, end: stop, is_last });
            }
            Wish::Partial => {
                self.ends[end].partial.insert(chunk.tid.clone(), number);
            }
            Wish::No => {}
        }
        let (tid, flag, what) = (chunk.tid.clone(), char::from(chunk.flag), chunk.field("Byte-Range").unwrap_or("-"));
        let line = format!("end {end}: m{number} {what} {tid}{flag} on wire {wire}");
        self.note(|| line);
        self.write(wire, &chunk);
    }

    fn send_chunk(&mut self, end: usize, wire: usize, number: usize) {
        let max = self.messages[number].chunk_max;
        let len = match self.rng.below(3) {
            0 => max,
            _ => 1 + self.below(max),
        };
        let is_odd_id = self.rng.below(6) == 0;
        let message = &self.messages[number];
        let (start, total) = (message.sent, message.body.len());
        let mut stop = (start + len).min(total);
        let gives_up = message.abort_at.filter(|at| *at >= start && *at <= stop);
        if let Some(at) = gives_up {
            stop = at;
        }
        let is_last = stop == total && gives_up.is_none();
        let is_star = message.is_star || gives_up.is_some();
        let mut told = stop;
        if message.is_lie && start == 0 && !is_star {
            told = if number.is_multiple_of(2) { stop + 7 } else { stop - 1 };
        }
        let range_end = if is_star { "*".into() } else { told.to_string() };
        let range_total = if message.is_total_known { total.to_string() } else { "*".into() };
        let body = message.body[start..stop].to_vec();
        let mut chunk = self.ends[end].request("SEND");
        let odd_id = format!("dEc0y{number}");
        if is_odd_id && start == 0 && !ends_early(&body, &odd_id) {
            // The body is full of its beginnings.
            chunk.tid = odd_id;
        }
        chunk.fields = vec![
            ("Message-ID".into(), format!("m{number}")),
            ("Byte-Range".into(), format!("{}-{range_end}/{range_total}", start + 1)),
            ("X-Odd".into(), format!("  {number}: ;,\"")),
        ];
        chunk.body = Some(body);
        chunk.flag = match (gives_up, is_last) {
            (Some(_), _) => b'#',
            (None, true) => b'$',
            (None, false) => b'+',
        };
        self.wish(end, wire, number, chunk, start, stop);
        let message = &mut self.messages[number];
        message.sent = stop;
        message.is_all_sent |= is_last;
        message.is_given_up |= gives_up.is_some();
        if is_last || gives_up.is_some() {
            self.next_message(end, number);
        }
    }

    /// Something that a careful peer does not do, between two chunks.
    fn be_odd(&mut self, end: usize, wire: usize) {
        let kind = self.rng.below(8);
        let found = &mut self.ends[end];
        let mut chunk = found.bodiless();
        let status = match kind {
            0 => {
                chunk.what = "FETCH".into();
                501
            }
            1 => {
                chunk.to = "msrp://192.0.2.1:2855/nobody;tcp".into();
                481
            }
            2 => {
                chunk.fields.remove(0);
                400
            }
            3 => {
                let stray = Chunk { fields: Vec::new(), what: "200 OK".into(), ..chunk };
                return self.write(wire, &stray);
            }
            4 | 5 => {
                chunk.what = "REPORT".into();
                chunk.fields.push(("Status".into(), "000 200 OK".into()));
                return self.write(wire, &chunk);
            }
            6 if self.ends[end].binding == Binding::Answered || self.ends[end].far_binding == Binding::Answered => {
                let (shard, host) = (self.ends[end].shard, self.ends[end].host);
                let other = self.connect_from(shard, host);
                return self.request(end, other, &chunk, Waiting::Odd { status: 506 });
            }
            _ => 200,
        };
        self.request(end, wire, &chunk, Waiting::Odd { status });
    }

    /// Takes what has arrived at the peer.
    pub fn read(&mut self, wire: usize) {
        while let Some(parsed) = self.wires[wire].parser.next() {
            match parsed {
                Parsed::Head(chunk) => self.on_head(wire, &chunk),
                Parsed::Whole(chunk) => self.on_chunk(wire, chunk),
            }
        }
    }

    fn on_head(&mut self, wire: usize, chunk: &Chunk) {
        let Some(end) = self.end_of.get(first(&chunk.to)).copied() else { return };
        let wants = chunk.wants_response() && chunk.what == "SEND";
        let Some(receiver) = &mut self.ends[end].receives else { return };
        if let Habit::Refuses { after, status, at_head: true } = receiver.habit
            && receiver.chunk_count >= after
            && wants
        {
            receiver.early = Some(chunk.tid.clone());
            self.refuse(wire, end, chunk, status);
        }
    }

    fn refuse(&mut self, wire: usize, end: usize, chunk: &Chunk, status: u16) {
        let number = self.number_of(chunk);
        self.messages[number].refused.get_or_insert(status);
        self.counts.refused += 1;
        let mut bytes = Vec::new();
        chunk.response(status).write(&mut bytes);
        self.soon(Duration::from_millis(20), Happening::Say { wire, end, bytes, meaning: Meaning::Other });
    }

    fn on_chunk(&mut self, wire: usize, chunk: Chunk) {
        let found = self.end_of.get(first(&chunk.to)).copied();
        let end = found.unwrap_or_else(|| panic!("wire {wire}: nobody here is {}", chunk.to));
        assert_eq!(self.ends[end].host, self.wires[wire].host, "end {end} lives elsewhere");
        if let Some(status) = chunk.status() {
            return self.on_response(end, &chunk, status);
        }
        assert!(self.wires[wire].tids.insert(chunk.tid.clone()), "wire {wire}: {} is used twice", chunk.tid);
        assert_eq!(chunk.to, self.ends[end].path, "end {end}: the whole path of it");
        assert_eq!(chunk.from, self.ends[end].far_path, "end {end}: the path that its SDP was given");
        match chunk.what.as_str() {
            "SEND" if chunk.body.is_none() && chunk.flag == b'$' => self.on_far_binding(wire, end, &chunk),
            "SEND" => self.on_send(wire, end, &chunk),
            "REPORT" => self.on_report(end, &chunk),
            other => panic!("the relay sends no {other}"),
        }
    }

    /// A bodiless SEND: the appliance's own.
    fn on_far_binding(&mut self, wire: usize, end: usize, chunk: &Chunk) {
        let id = chunk.field("Message-ID").expect("a SEND has a Message-ID");
        if id.starts_with('m') && self.ends[end].receives.is_some() && id[1..].parse::<usize>().is_ok() {
            return self.on_send(wire, end, chunk);
        }
        assert!(!id.starts_with("bind"), "end {end}: a bodiless SEND is nobody else's business");
        let found = &mut self.ends[end];
        assert!(!found.dials && found.far_binding == Binding::None, "end {end}: bound once, by who connects");
        found.far_binding = Binding::Sent;
        self.join(end, wire);
        self.note(|| format!("end {end}: bound to wire {wire}"));
        let mut bytes = Vec::new();
        chunk.response(200).write(&mut bytes);
        self.soon(Duration::from_millis(30), Happening::Say { wire, end, bytes, meaning: Meaning::Binds });
        if self.rng.below(3) == 0 {
            let wire = self.ends[end].wire.expect("it was just joined");
            self.bind(end, wire);
        }
        self.wish_emit(end);
    }

    fn on_send(&mut self, wire: usize, end: usize, chunk: &Chunk) {
        let number = self.number_of(chunk);
        // A host with both sides on one connection could not answer behind a chunk that is not read.
        let is_loop = self.wires[wire].ends.iter().any(|other| self.ends[*other].sends.is_some());
        let found = &mut self.ends[end];
        assert_eq!(found.wire, Some(wire), "end {end}: m{number} comes on its own connection");
        if is_loop {
            // Bound all the same.
        } else if found.dials {
            assert_eq!(found.binding, Binding::Answered, "end {end}: nothing comes before its binding is answered");
        } else {
            assert_eq!(found.far_binding, Binding::Answered, "end {end}: nothing comes before the binding is answered");
        }
        let receiver = found.receives.as_mut().expect("only receivers are sent messages");
        if let Some(open) = receiver.open.filter(|open| *open != number) {
            // Who says 413 need not be told the end.
            assert_eq!(self.messages[open].refused, Some(413), "end {end}: m{number} begins inside m{open}");
        }
        let message = &mut self.messages[number];
        let range = chunk.range();
        if message.route == Route::Source && receiver.chunk_count == 0 {
            // Another attempt goes on where the last one was acknowledged.
            let at = range.start as usize - 1;
            assert!(message.is_covered(0, at), "end {end}: m{number} begins at {at}: {:?}", message.covered);
            (message.received, message.is_done, message.is_cut) = (at, false, false);
        }
        assert!(!message.is_done && !message.is_cut, "end {end}: m{number} goes on behind its end");
        let body = chunk.body.as_deref().unwrap_or_default();
        let (start, stop) = (message.received, message.received + body.len());
        assert_eq!(range.start as usize, start + 1, "end {end}: m{number} is in order");
        if !message.is_lie {
            assert!(message.body.get(start..stop) == Some(body), "end {end}: m{number} {start}..{stop} is changed");
            assert!(
                range.end.is_none_or(|at| at as usize == stop || chunk.flag == b'#'),
                "end {end}: m{number} {range:?}"
            );
        }
        if chunk.body.is_some() && message.route != Route::Source {
            let odd = format!("  {number}: ;,\"");
            assert_eq!(chunk.field("X-Odd").map(str::trim), Some(odd.trim()), "unknown fields pass");
            assert_eq!(chunk.field("Content-Type"), Some(message.content_type));
            let total = message.is_total_known.then_some(message.body.len() as u64);
            assert_eq!(range.total, total, "totals never change");
        }
        message.received = stop;
        self.counts.bytes += body.len() as u64;
        match chunk.flag {
            b'$' => {
                assert!(stop == message.body.len() && !message.is_lie, "end {end}: m{number} is whole");
                message.is_done = true;
                receiver.open = None;
                self.counts.completed += 1;
            }
            b'#' => {
                message.is_cut = true;
                receiver.open = None;
                self.counts.aborted += 1;
            }
            _ => receiver.open = Some(number),
        }
        let (flag, is_done) = (char::from(chunk.flag), message.is_done);
        receiver.chunk_count += 1;
        let (count, habit) = (receiver.chunk_count, receiver.habit);
        let was_early = receiver.early.take_if(|tid| *tid == chunk.tid).is_some();
        self.note(|| format!("end {end}: gets m{number} {start}..{stop}{flag} {}", chunk.tid));
        if was_early {
            return;
        }
        let delay = match habit {
            Habit::Good => 5,
            Habit::Late(delay) => delay,
            Habit::Refuses { after, status, .. } if count > after => {
                if chunk.wants_response() {
                    self.refuse(wire, end, chunk, status);
                }
                return;
            }
            Habit::Silent { after } if count > after => return,
            Habit::Refuses { .. } | Habit::Silent { .. } => 5,
        };
        let meaning = Meaning::Has { message: number, start, end: stop };
        let is_partial = chunk.field("Failure-Report") == Some("partial");
        if chunk.wants_response() && (!is_partial || number.is_multiple_of(3)) {
            let mut bytes = Vec::new();
            chunk.response(200).write(&mut bytes);
            self.soon(Duration::from_millis(delay), Happening::Say { wire, end, bytes, meaning });
        }
        if is_done && chunk.field("Success-Report") == Some("yes") {
            let mut report = self.ends[end].request("REPORT");
            report.to = chunk.from.clone();
            report.fields = vec![
                ("Message-ID".into(), format!("m{number}")),
                ("Byte-Range".into(), format!("1-{stop}/{stop}")),
                ("Status".into(), "000 200 OK".into()),
            ];
            let mut bytes = Vec::new();
            report.write(&mut bytes);
            self.soon(Duration::from_millis(delay), Happening::Say { wire, end, bytes, meaning: Meaning::Other });
        }
    }

    fn on_report(&mut self, end: usize, chunk: &Chunk) {
        self.counts.reports += 1;
        let id = chunk.field("Message-ID").expect("a REPORT names its message");
        let status = chunk.report_status();
        let Some(number) = id.strip_prefix('m').and_then(|number| number.parse::<usize>().ok()) else {
            return assert!(id.starts_with("bind"), "end {end}: a report about {id}");
        };
        self.note(|| format!("end {end}: m{number} is reported {status}"));
        let message = &mut self.messages[number];
        if status == 200 {
            message.success_reports += 1;
            let is_there = message.is_done || (message.route == Route::Spool && message.is_committed);
            assert!(is_there && message.wants_success, "m{number} is reported to be there");
        } else {
            message.failed.get_or_insert(status);
        }
    }

    fn on_response(&mut self, end: usize, chunk: &Chunk, status: u16) {
        let found = &mut self.ends[end];
        assert_eq!(chunk.to, first(&found.path), "end {end}: a response goes to the first URI alone");
        let Some(waiting) = found.waiting.remove(&chunk.tid) else {
            let number = found.partial.remove(&chunk.tid);
            let number = number.unwrap_or_else(|| panic!("end {end}: {status} answers nothing: {}", chunk.tid));
            assert_ne!(status, 200, "end {end}: m{number}: only failures are told");
            self.messages[number].failed.get_or_insert(status);
            return self.wish_emit(end);
        };
        match waiting {
            Waiting::Binding => {
                let is_late = found.is_over || found.is_lost || self.is_sip_slow;
                assert!(status == 200 || is_late, "end {end}: its binding is answered {status}");
                found.binding = Binding::Answered;
            }
            Waiting::Odd { status: expected } => {
                let is_late = (found.is_over || found.is_lost || self.is_sip_slow) && status == 481;
                assert!(status == expected || is_late, "end {end}: {expected} is the answer, not {status}");
            }
            Waiting::Chunk { message: number, start, end: stop, is_last } => {
                assert_eq!(chunk.from, first(&found.to), "end {end}: m{number}: a response comes from our URI");
                let message = &mut self.messages[number];
                if status == 200 {
                    message.ack_count += 1;
                    let is_there = message.is_lie || message.is_covered(start, stop);
                    match message.route {
                        Route::EndToEnd => assert!(is_there, "m{number} {start}..{stop}: 200 before the receiver's"),
                        Route::Spool if is_last => {
                            // Behind a chunk that was refused, this one is only a part.
                            let is_part = message.failed.is_some();
                            assert!(message.is_committed || is_part, "m{number}: 200 before the commit");
                        }
                        _ => {}
                    }
                } else {
                    message.failed.get_or_insert(status);
                }
                self.note(|| format!("end {end}: m{number} {start}..{stop} is answered {status}"));
                self.wish_emit(end);
            }
        }
    }

    fn number_of(&self, chunk: &Chunk) -> usize {
        let id = chunk.field("Message-ID").expect("a SEND has a Message-ID");
        let own = id.strip_prefix('m').and_then(|number| number.parse().ok());
        own.or_else(|| self.aliases.get(id).copied()).unwrap_or_else(|| panic!("a message named {id}"))
    }

    /// A response or report leaves the peer.
    pub fn say(&mut self, wire: usize, end: usize, bytes: &[u8], meaning: Meaning) {
        if self.wires[wire].state == State::Gone || !self.wires[wire].is_usable() {
            return;
        }
        match meaning {
            Meaning::Other => {}
            Meaning::Binds => self.ends[end].far_binding = Binding::Answered,
            Meaning::Has { message, start, end } => self.messages[message].covered.push((start, end)),
        }
        self.push(wire, bytes);
    }
}

/// What a peer's socket takes before its sender waits.
const SEND_BUFFER_LEN: usize = 64 * 1024;
