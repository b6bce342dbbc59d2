//! Media connections in pairs: what comes on one leaves on the other.

use super::cpu_ns;
use bytes::{Bytes, BytesMut};
use ringpost::base::id::{ConnId, ShardId};
use ringpost::base::limits::{MSRP_EGRESS_HIGH, MSRP_EGRESS_LOW};
use ringpost::base::mailbox::{Mailbox, Unpark};
use ringpost::base::time::{Instant, Now};
use ringpost::metrics::counters::ShardMetrics;
use ringpost::metrics::names::Counter;
use ringpost::msrp::effect::MediaEffect;
use ringpost::participating::effect::Effect;
use ringpost::participating::input::{Input, Source};
use ringpost::shard::{Core, Doors, Plan, bind, bind_media, spawn};
use ringpost::uring::ring::BATCH_COUNT_MAX;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant as Moment};

pub fn main() {
    println!(
        "{:>26} {:>10} {:>10} {:>11} {:>9} {:>9} {:>9} {:>9}",
        "media", "µs/message", "s/GB", "messages/s", "p99 µs", "per turn", "enobufs", "copied"
    );
    for (pairs, len, window) in
        [(16, 300, 1), (256, 300, 1), (256, 300, 4), (16, 2_000, 1), (4, 65_536, 4), (64, 65_536, 1)]
    {
        measure(&format!("{len} B x {pairs}, {window} ahead"), |addr| {
            let mut load = Load::new(addr, pairs, len, window);
            Box::new(move |time| load.run(time))
        });
    }
    measure("300 B x 64 beside bulk", |addr| {
        let mut load = Load::new(addr, 64, 300, 1);
        let mut bulk = Load::new(addr, 1, 65_536, 16);
        Box::new(move |time| load.run_beside(&mut bulk, time))
    });
}

#[derive(Clone, Default)]
struct Outcome {
    messages: u64,
    bytes: u64,
    waits: Vec<Duration>,
}

type Drive = Box<dyn FnMut(Duration) -> Outcome>;

fn measure(name: &str, load: impl FnOnce(SocketAddr) -> Drive) {
    let media_listeners = bind_media(&["127.0.0.1:0".parse().expect("an address")], 1).expect("a free port").remove(0);
    let addr = media_listeners[0].addr;
    let metrics = Arc::<ShardMetrics>::default();
    let plan = Plan {
        shard: ShardId(0),
        cpu: Some(0),
        listeners: bind(&["127.0.0.1:0".parse().expect("an address")], 0, 1).expect("a free port").remove(0),
        media_listeners,
        doors: Doors::new(1).expect("an eventfd"),
        store: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
        spool: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
        control: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
        metrics: metrics.clone(),
    };
    let shard = spawn(plan, |_| Forward::default()).expect("a shard");
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let mut drive = load(addr);
    drive(Duration::from_millis(200));
    let count = |counter| metrics.counter(counter);
    let counters = || [count(Counter::RingTurn), count(Counter::BufferStarved), count(Counter::MsrpBufferCopied)];
    let (cpu, before, start) = (cpu_ns(), counters(), Moment::now());
    let mut outcome = drive(Duration::from_millis(700));
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (cpu_ns() - cpu) as f64;
    let after = counters();
    let [turns, starved, copied] = [0, 1, 2].map(|index| (after[index] - before[index]) as f64);
    let messages = outcome.messages as f64;
    outcome.waits.sort_unstable();
    let p99 = outcome.waits[outcome.waits.len() * 99 / 100].as_secs_f64() * 1e6;
    println!(
        "{name:>26} {:>10.2} {:>10.3} {:>11.0} {p99:>9.0} {:>9.2} {:>9.4} {:>9.4}",
        cpu / 1000.0 / messages,
        cpu / outcome.bytes as f64,
        messages / seconds,
        messages / turns,
        starved / messages,
        copied / messages,
    );
    shard.stop();
}

struct Load {
    pairs: Vec<(TcpStream, TcpStream)>,
    message: Vec<u8>,
    buffer: Vec<u8>,
    window: usize,
}

impl Load {
    fn new(addr: SocketAddr, pairs: usize, len: usize, window: usize) -> Self {
        let connect = || {
            let stream = TcpStream::connect(addr).expect("loopback");
            stream.set_nodelay(true).expect("a socket option");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
            // Accepted before the next: the core couples them in this order.
            (&stream).write_all(b"!").expect("loopback");
            (&stream).read_exact(&mut [0]).expect("the core's greeting");
            stream
        };
        let pairs = (0..pairs).map(|_| (connect(), connect())).collect();
        Self { pairs, message: vec![b'x'; len], buffer: vec![0; len], window }
    }

    fn run(&mut self, time: Duration) -> Outcome {
        let (start, mut outcome) = (Moment::now(), Outcome::default());
        for _ in 1..self.window {
            self.send(&mut Vec::new());
        }
        let mut sent_at = Vec::new();
        while start.elapsed() < time {
            self.send(&mut sent_at);
            self.receive(&mut outcome, &mut sent_at);
        }
        for _ in 1..self.window {
            self.receive(&mut Outcome::default(), &mut []);
        }
        outcome
    }

    /// The small ones are counted; the bulk goes on meanwhile.
    fn run_beside(&mut self, bulk: &mut Self, time: Duration) -> Outcome {
        let (start, mut outcome) = (Moment::now(), Outcome::default());
        let (source, mut sink) = (&bulk.pairs[0].0, &bulk.pairs[0].1);
        source.set_nonblocking(true).expect("a socket option");
        sink.set_nonblocking(true).expect("a socket option");
        let (mut unsent, mut moved) = (0i64, 0u64);
        let mut buffer = vec![0; 1 << 18];
        let mut sent_at = Vec::new();
        while start.elapsed() < time {
            while let Ok(len) = (&*source).write(&buffer) {
                unsent += len as i64;
            }
            self.send(&mut sent_at);
            while let Ok(len) = sink.read(&mut buffer) {
                moved += len as u64;
            }
            self.receive(&mut outcome, &mut sent_at);
        }
        sink.set_nonblocking(false).expect("a socket option");
        while (moved as i64) < unsent {
            moved += sink.read(&mut buffer).expect("the rest") as u64;
        }
        outcome.bytes += moved;
        outcome
    }

    fn send(&mut self, sent_at: &mut Vec<Moment>) {
        sent_at.clear();
        for (source, _) in &mut self.pairs {
            sent_at.push(Moment::now());
            source.write_all(&self.message).expect("loopback");
        }
    }

    fn receive(&mut self, outcome: &mut Outcome, sent_at: &mut [Moment]) {
        for (index, (_, sink)) in self.pairs.iter_mut().enumerate() {
            sink.read_exact(&mut self.buffer).expect("what was sent");
            outcome.messages += 1;
            outcome.bytes += self.message.len() as u64;
            if let Some(at) = sent_at.get(index) {
                outcome.waits.push(at.elapsed());
            }
        }
    }
}

/// Passes bytes on as the relay does: small pieces are copied into one buffer a connection, large ones are shared.
#[derive(Default)]
struct Forward {
    links: Vec<Link>,
    dirty: VecDeque<ConnId>,
    effects: VecDeque<Effect>,
}

struct Link {
    conn: ConnId,
    greeted: bool,
    queue: VecDeque<Bytes>,
    copied: BytesMut,
    len: usize,
    dirty: bool,
    paused: bool,
}

impl Forward {
    fn queue(&mut self, to: usize, len: usize, put: impl FnOnce(&mut Link)) {
        let link = &mut self.links[to];
        put(link);
        link.len += len;
        if !std::mem::replace(&mut link.dirty, true) {
            self.dirty.push_back(link.conn);
        }
    }
}

impl Core for Forward {
    fn handle_message(&mut self, _bytes: &[u8], _source: Source, _now: Now) {}

    fn handle_input(&mut self, _input: Input, _now: Now) {}

    fn media_accepted(&mut self, conn: ConnId, _peer: SocketAddr, _listener: u8, _now: Now) -> bool {
        assert_eq!(conn.slot as usize, self.links.len(), "connections of a bench are never reused");
        self.links.push(Link {
            conn,
            greeted: false,
            queue: VecDeque::new(),
            copied: BytesMut::new(),
            len: 0,
            dirty: false,
            paused: false,
        });
        true
    }

    fn handle_media(&mut self, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes, _now: Now) {
        let slot = conn.slot as usize;
        if !std::mem::replace(&mut self.links[slot].greeted, true) {
            return self.queue(slot, 1, |link| link.copied.extend_from_slice(b"!"));
        }
        let to = slot ^ 1;
        if bytes.len() >= 4096 {
            let piece = share();
            self.queue(to, bytes.len(), |link| {
                if !link.copied.is_empty() {
                    let copied = link.copied.split().freeze();
                    link.queue.push_back(copied);
                }
                link.queue.push_back(piece);
            });
        } else {
            self.queue(to, bytes.len(), |link| link.copied.extend_from_slice(bytes));
        }
        if self.links[to].len > MSRP_EGRESS_HIGH && !std::mem::replace(&mut self.links[slot].paused, true) {
            self.effects.push_back(Effect::Media(MediaEffect::Pause(conn)));
        }
    }

    fn media_sent(&mut self, conn: ConnId, len: usize, _now: Now) {
        let slot = conn.slot as usize;
        self.links[slot].len -= len;
        let low = self.links[slot].len < MSRP_EGRESS_LOW;
        // A greeting may leave before the other is there.
        let Some(source) = self.links.get_mut(slot ^ 1) else { return };
        if low && std::mem::replace(&mut source.paused, false) {
            let resume = MediaEffect::Resume(source.conn);
            self.effects.push_back(Effect::Media(resume));
        }
    }

    fn poll_media(&mut self) -> Option<ConnId> {
        let conn = self.dirty.pop_front()?;
        self.links[conn.slot as usize].dirty = false;
        Some(conn)
    }

    fn take_media(&mut self, conn: ConnId, batch: &mut Vec<Bytes>) {
        let link = &mut self.links[conn.slot as usize];
        batch.extend(link.queue.drain(..link.queue.len().min(BATCH_COUNT_MAX - 1)));
        if link.queue.is_empty() && !link.copied.is_empty() {
            batch.push(link.copied.split().freeze());
        }
    }

    fn handle_timeout(&mut self, _now: Now) {}

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
