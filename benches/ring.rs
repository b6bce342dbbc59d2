//! CPU time that the shell takes for a datagram of 600 bytes and its answer, and for media bytes passed on, with cores
//! that do nothing else.
//!
//! `cargo bench --bench ring`. The shard runs on CPU 0, the generator on CPU 1. The figure is the CPU time of the shard's
//! thread as the scheduler counts it, so that a busy machine disturbs it little; loopback's receive path for what the
//! shard sends is part of it.

#[path = "ring/media.rs"]
mod media;

use bytes::Bytes;
use ringpost::base::id::ShardId;
use ringpost::base::mailbox::{Mailbox, Unpark};
use ringpost::base::time::{Instant, Now};
use ringpost::metrics::counters::ShardMetrics;
use ringpost::metrics::names::Counter;
use ringpost::participating::effect::Effect;
use ringpost::participating::effect::StreamTarget;
use ringpost::participating::input::{Input, Source, Transport};
use ringpost::shard::{Core, Doors, Plan, bind, spawn};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;

const PAYLOAD_LEN: usize = 600;
const MESSAGE_COUNT: usize = 30_000;
const WINDOWS: [usize; 4] = [1, 4, 16, 64];

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    // `-- media` or `-- sip` runs one half.
    let wanted = |half: &str| std::env::args().skip(1).all(|arg| arg.starts_with('-') || arg == half);
    if wanted("media") {
        media::main();
    }
    if !wanted("sip") {
        return;
    }
    println!("{:>24} {:>12} {:>14} {:>12}", "mode", "µs/message", "messages/turn", "messages/s");
    for window in WINDOWS {
        measure_plain(window);
    }
    for window in WINDOWS {
        measure(&format!("udp, {window} in flight"), |addr| udp(addr, window));
    }
    for window in [1, 32] {
        measure(&format!("tcp, {window} in flight"), |addr| tcp(addr, window));
    }
}

/// The same with a blocking socket and two system calls a message: what there is to beat.
fn measure_plain(window: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = socket.local_addr().expect("a bound socket");
    let echo = move || {
        core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
        let (mut buffer, answer) = ([0; 2048], [b'y'; PAYLOAD_LEN]);
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            if len == 0 {
                return;
            }
            socket.send_to(&answer, peer).expect("loopback");
        }
    };
    let thread = std::thread::Builder::new().name("shard-0".into()).spawn(echo).expect("a thread");
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    udp(addr, window);
    let (cpu, start) = (cpu_ns(), std::time::Instant::now());
    let count = udp(addr, window) as f64;
    let cpu = (cpu_ns() - cpu) as f64 / 1000.0 / count;
    let rate = count / start.elapsed().as_secs_f64();
    println!("{:>24} {cpu:>12.2} {:>14} {rate:>12.0}", format!("plain udp, {window}"), "-");
    let stop = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    stop.send_to(&[], addr).expect("loopback");
    thread.join().expect("the thread ends");
}

fn measure(name: &str, drive: impl Fn(std::net::SocketAddr) -> usize) {
    let doors = Doors::new(1).expect("an eventfd");
    let listeners = bind(&["127.0.0.1:0".parse().expect("an address")], 0, 1).expect("a free port").remove(0);
    let addr = listeners[0].well_known;
    let metrics = Arc::<ShardMetrics>::default();
    let plan = Plan {
        shard: ShardId(0),
        cpu: Some(0),
        listeners,
        media_listeners: Vec::new(),
        doors,
        store: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
        spool: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
        control: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
        metrics: metrics.clone(),
    };
    let shard = spawn(plan, |_| Echo::default()).expect("a shard");
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    drive(addr);
    let (cpu, turns, start) = (cpu_ns(), metrics.counter(Counter::RingTurn), std::time::Instant::now());
    let count = drive(addr) as f64;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (cpu_ns() - cpu) as f64 / 1000.0 / count;
    let turns = (metrics.counter(Counter::RingTurn) - turns) as f64;
    println!("{name:>24} {cpu:>12.2} {:>14.2} {:>12.0}", count / turns, count / seconds);
    shard.stop();
}

fn udp(addr: std::net::SocketAddr, window: usize) -> usize {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.connect(addr).expect("loopback");
    socket2::SockRef::from(&client).set_recv_buffer_size(1 << 20).expect("a socket option");
    client.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a socket option");
    let payload = [b'x'; PAYLOAD_LEN];
    let mut buffer = [0; 2048];
    for sent in 0..MESSAGE_COUNT + window {
        if sent < MESSAGE_COUNT {
            client.send(&payload).expect("loopback");
        }
        if sent >= window {
            client.recv(&mut buffer).expect("the echo");
        }
    }
    MESSAGE_COUNT
}

fn tcp(addr: std::net::SocketAddr, window: usize) -> usize {
    let mut client = TcpStream::connect(addr).expect("loopback");
    client.set_nodelay(true).expect("a socket option");
    let head = "MESSAGE sip:b@x SIP/2.0\r\nVia: SIP/2.0/TCP x\r\nContent-Length: ";
    let body_len = PAYLOAD_LEN - head.len() - 7;
    let message = format!("{head}{body_len}\r\n\r\n{}", "x".repeat(body_len)).into_bytes();
    assert_eq!(message.len(), PAYLOAD_LEN);
    let mut buffer = vec![0; PAYLOAD_LEN];
    for sent in 0..MESSAGE_COUNT + window {
        if sent < MESSAGE_COUNT {
            client.write_all(&message).expect("loopback");
        }
        if sent >= window {
            client.read_exact(&mut buffer).expect("the echo");
        }
    }
    MESSAGE_COUNT
}

/// CPU time of the shard's thread so far, in nanoseconds.
fn cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let shard = tasks
        .map(|task| task.path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "shard-0"));
    let stat = std::fs::read_to_string(shard.expect("the shard runs").join("schedstat")).expect("schedstat");
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
}

/// Sends an answer of the same length back.
struct Echo {
    answer: Bytes,
    effects: VecDeque<Effect>,
}

impl Default for Echo {
    fn default() -> Self {
        Self { answer: Bytes::from(vec![b'y'; PAYLOAD_LEN]), effects: VecDeque::new() }
    }
}

impl Core for Echo {
    fn handle_message(&mut self, bytes: &[u8], source: Source, _now: Now) {
        assert_eq!(bytes.len(), PAYLOAD_LEN);
        let Source { transport, peer, listener, socket, conn } = source;
        let bytes = self.answer.clone();
        self.effects.push_back(match (transport, conn) {
            (Transport::Tcp, Some((shard, conn))) => Effect::SendStream {
                to: StreamTarget::Connection { shard, conn, fallback: peer },
                listener,
                bytes,
                ticket: None,
            },
            _ => Effect::SendDatagram { socket, listener, to: peer, bytes },
        });
    }

    fn handle_input(&mut self, _input: Input, _now: Now) {}

    fn handle_timeout(&mut self, _now: Now) {}

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
