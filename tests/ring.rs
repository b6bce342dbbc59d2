//! Shards over real sockets, with a scripted core behind them.

use bytes::Bytes;
use ringpost::base::id::{ConnId, ShardId, Ticket};
use ringpost::base::mailbox::{Mailbox, Unpark};
use ringpost::base::time::{Instant, Now};
use ringpost::metrics::counters::ShardMetrics;
use ringpost::metrics::names::{Counter, Gauge, Stage};
use ringpost::participating::effect::{Effect, StreamTarget};
use ringpost::participating::input::{Input, Shards, Source, Transport};
use ringpost::participating::storage::{Answer, Command, Fault};
use ringpost::shard::{Core, Doors, Mail, Plan, ShardThread, bind, spawn};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant as Moment};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn a_datagram_is_answered_from_the_socket_it_came_to() {
    let node = Node::start(1, &[V4, V6]);
    for (listener, local) in [(0, V4), (1, V6)] {
        let sockets = &node.listeners[listener];
        for to in [sockets.well_known, sockets.own] {
            let client = udp(local);
            client.send_to(b"echo", to).unwrap();
            let (answer, from) = receive(&client);
            assert_eq!(answer, b"echo");
            assert_eq!(from, to, "the scripted core answers from where it was asked");
        }
    }
    assert_eq!(node.metrics[0].counter(Counter::DatagramIn), 4);
}

#[test]
fn the_largest_datagram_arrives_whole_and_goes_back_whole() {
    let node = Node::start(1, &[V4]);
    let client = udp(V4);
    let payload: Vec<u8> = (0..65_507u32).map(|index| (index * 7) as u8).collect();
    for _ in 0..3 {
        client.send_to(&payload, node.listeners[0].well_known).unwrap();
        assert_eq!(receive(&client).0, payload);
    }
    assert_eq!(node.metrics[0].counter(Counter::DatagramTruncated), 0);
}

#[test]
fn a_keep_alive_datagram_is_not_a_message() {
    let node = Node::start(1, &[V4]);
    let client = udp(V4);
    for payload in [&b"\r\n\r\n"[..], b"", b"\0", b"echo"] {
        client.send_to(payload, node.listeners[0].well_known).unwrap();
    }
    assert_eq!(receive(&client).0, b"echo");
}

#[test]
fn a_burst_larger_than_the_buffer_pool_is_answered_whole() {
    let node = Node::start(1, &[V4]);
    let client = udp(V4);
    socket2::SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
    let mut missing = 0u32;
    for round in 0..20u32 {
        for number in 0..150u32 {
            client.send_to(format!("{round} {number}").as_bytes(), node.listeners[0].well_known).unwrap();
            missing += 1;
        }
        while missing > 0 {
            receive(&client);
            missing -= 1;
        }
    }
}

#[test]
fn one_source_loads_both_shards_alike() {
    const SENT: usize = 2000;
    let node = Node::start(2, &[V4]);
    let client = udp(V4);
    for _ in 0..SENT {
        client.send_to(b"which shard", node.listeners[0].well_known).unwrap();
        receive(&client);
    }
    let counts: Vec<u64> = node.metrics.iter().map(|metrics| metrics.counter(Counter::DatagramIn)).collect();
    assert_eq!(counts.iter().sum::<u64>(), SENT as u64);
    // Six standard deviations of a fair coin: 6 * sqrt(2000 / 4) = 134.
    assert!(counts.iter().all(|count| count.abs_diff(SENT as u64 / 2) < 134), "{counts:?}");
}

#[test]
fn pipelined_messages_are_answered_in_order() {
    let node = Node::start(1, &[V4, V6]);
    for listener in &node.listeners {
        for to in [listener.well_known, listener.own] {
            let mut client = tcp(to);
            let messages: Vec<Vec<u8>> = (0..200).map(|number| message(&format!("echo {number}"), number)).collect();
            client.write_all(&messages.concat()).unwrap();
            expect(&mut client, &messages.concat());
        }
    }
}

#[test]
fn a_message_may_come_a_byte_at_a_time() {
    let node = Node::start(1, &[V4]);
    let mut client = tcp(node.listeners[0].well_known);
    let bytes = message("echo", 40);
    for byte in &bytes {
        client.write_all(&[*byte]).unwrap();
    }
    expect(&mut client, &bytes);
}

#[test]
fn messages_that_span_buffers_are_put_together() {
    let node = Node::start(1, &[V4]);
    let mut client = tcp(node.listeners[0].well_known);
    let bodies = [10, 4096, 9000, 3, 60_000, 4000, 100, 65_000 - 300];
    let all: Vec<u8> = bodies.iter().flat_map(|len| message("echo", *len)).collect();
    let mut writer = client.try_clone().unwrap();
    let sent = all.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent));
    expect(&mut client, &all);
    writing.join().unwrap().unwrap();
}

#[test]
fn a_keep_alive_is_answered_with_one_line_end() {
    let node = Node::start(1, &[V4]);
    let mut client = tcp(node.listeners[0].well_known);
    client.write_all(b"\r\n\r\n").unwrap();
    expect(&mut client, b"\r\n");
    let bytes = message("echo", 3);
    client.write_all(&bytes).unwrap();
    expect(&mut client, &bytes);
}

#[test]
fn a_message_without_a_clear_length_is_answered_and_the_stream_closed() {
    let node = Node::start(1, &[V4]);
    let mut client = tcp(node.listeners[0].well_known);
    let head = b"MESSAGE echo SIP/2.0\r\nContent-Length: many\r\n\r\n";
    client.write_all(head).unwrap();
    client.write_all(b"whatever follows\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, head);
}

#[test]
fn a_message_over_the_bounds_closes_the_stream() {
    let node = Node::start(1, &[V4]);
    let mut client = tcp(node.listeners[0].well_known);
    client.write_all(b"MESSAGE echo SIP/2.0\r\nContent-Length: 999999\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(answer.is_empty());
    node.until(|node| node.metrics[0].counter(Counter::StreamFraming) == 1);
}

#[test]
fn a_peer_that_ends_after_its_request_still_reads_the_answer() {
    let node = Node::start(1, &[V4]);
    let mut client = tcp(node.listeners[0].well_known);
    let bytes = message("echo", 3);
    client.write_all(&bytes).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, bytes);
    node.until(|node| node.metrics[0].gauge(Gauge::Streams) == 0);
    assert_eq!(node.metrics[0].counter(Counter::StreamClosed), 1);
}

#[test]
fn many_connections_at_once_lose_nothing_when_buffers_run_out() {
    let node = Node::start(1, &[V4]);
    let mut clients: Vec<TcpStream> = (0..300).map(|_| tcp(node.listeners[0].well_known)).collect();
    for round in 0..5 {
        let bytes = message(&format!("echo {round}"), 5000);
        for client in &mut clients {
            client.write_all(&bytes).unwrap();
        }
        for client in &mut clients {
            expect(client, &bytes);
        }
    }
    assert_eq!(node.metrics[0].counter(Counter::StreamAccepted), 300);
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_does_not_hold_up_the_others() {
    let node = Node::start(1, &[V4]);
    let mut slow = tcp(node.listeners[0].well_known);
    let mut quick = tcp(node.listeners[0].well_known);
    // One such request is answered with 1 MB: the kernel's buffers fill, then ours.
    let greedy = message("flood", 0);
    let small = message("echo", 100);
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        let _ = slow.write_all(&greedy);
        let start = Moment::now();
        quick.write_all(&small).unwrap();
        expect(&mut quick, &small);
        slowest = slowest.max(start.elapsed());
    }
    node.until(|node| node.metrics[0].counter(Counter::StreamFull) >= 1);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // The sends that had a ticket are told.
    while !matches!(node.next_event(), Event::Failed(_)) {}
    quick.write_all(&small).unwrap();
    expect(&mut quick, &small);
}

#[test]
fn a_refused_connection_is_told_for_every_message() {
    let node = Node::start(1, &[V4]);
    let nobody = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    for ticket in 0..3 {
        node.tell(0, Order::Send { to: nobody, bytes: message("x", 1), ticket });
    }
    let mut failed: Vec<u64> = (0..3).map(|_| node.next_failed()).collect();
    failed.sort_unstable();
    assert_eq!(failed, [0, 1, 2]);
    assert!(node.metrics[0].counter(Counter::StreamRefused) >= 1);
}

#[test]
fn messages_to_one_peer_share_one_connection() {
    let node = Node::start(1, &[V4]);
    let peer = TcpListener::bind(V4).unwrap();
    let bytes = message("x", 20);
    for ticket in 0..5 {
        node.tell(0, Order::Send { to: peer.local_addr().unwrap(), bytes: bytes.clone(), ticket });
    }
    let (mut stream, _) = peer.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    expect(&mut stream, &bytes.repeat(5));
    node.tell(0, Order::Send { to: peer.local_addr().unwrap(), bytes: bytes.clone(), ticket: 5 });
    expect(&mut stream, &bytes);
    assert_eq!(node.metrics[0].counter(Counter::StreamConnected), 1);
    // The peer's requests on it are heard, too.
    let request = message("echo", 7);
    stream.write_all(&request).unwrap();
    expect(&mut stream, &request);
    // Once it is gone, a new one is opened.
    drop(stream);
    node.until(|node| node.metrics[0].gauge(Gauge::Streams) == 0);
    node.tell(0, Order::Send { to: peer.local_addr().unwrap(), bytes: bytes.clone(), ticket: 6 });
    let (mut stream, _) = peer.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    expect(&mut stream, &bytes);
}

#[test]
fn an_answer_for_a_gone_connection_goes_to_a_new_one() {
    let node = Node::start(2, &[V4]);
    let peer = TcpListener::bind(V4).unwrap();
    let fallback = peer.local_addr().unwrap();
    let conn = ConnId { slot: 0, generation: 77 };
    for (shard, owner) in [(0, 0), (0, 1)] {
        let bytes = message("late", shard + owner);
        node.tell(shard, Order::Answer { shard: ShardId(owner as u16), conn, fallback, bytes: bytes.clone() });
        let (mut stream, _) = peer.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        expect(&mut stream, &bytes);
    }
}

#[test]
fn an_answer_travels_through_the_shard_that_owns_the_connection() {
    let node = Node::start(2, &[V4]);
    // The own port of shard 1: its core hands the message over, shard 0 answers.
    let mut client = tcp(node.own_of[1][0]);
    let bytes = message("elsewhere", 30);
    client.write_all(&bytes).unwrap();
    expect(&mut client, &bytes);
}

#[test]
fn mail_wakes_a_sleeping_shard() {
    let node = Node::start(1, &[V4]);
    let mut waits = Vec::new();
    for _ in 0..50 {
        let turns = node.metrics[0].counter(Counter::RingTurn);
        let start = Moment::now();
        node.tell(0, Order::Report);
        assert!(matches!(node.next_event(), Event::Reported));
        waits.push(start.elapsed());
        node.until(|node| node.metrics[0].counter(Counter::RingTurn) > turns);
    }
    waits.sort_unstable();
    // A shard that looked at its mailbox only now and then would take its sleep's length, a minute.
    assert!(waits[25] < Duration::from_millis(100), "{waits:?}");
}

#[test]
fn a_deadline_of_the_core_ends_the_wait_in_time() {
    let node = Node::start(1, &[V4]);
    let start = Moment::now();
    node.tell(0, Order::Alarm(Duration::from_millis(50)));
    assert!(matches!(node.next_event(), Event::Alarm));
    // The core counts from the start of the turn that read the order, a little before.
    assert!(start.elapsed() >= Duration::from_millis(40));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_full_store_is_an_answer() {
    let node = Node::start(1, &[V4]);
    // Nobody empties this store's mailbox of one.
    node.tell(0, Order::Store);
    node.tell(0, Order::Store);
    assert!(matches!(node.next_event(), Event::Stored(Err(Fault::Busy))));
}

#[test]
fn latencies_are_given_on_request() {
    let node = Node::start(1, &[V4]);
    let client = udp(V4);
    for _ in 0..64 {
        client.send_to(b"echo", node.listeners[0].well_known).unwrap();
        receive(&client);
    }
    let (answer, stages) = channel();
    node.doors.scrape(move |shard, stages| answer.send((shard, stages)).unwrap());
    let (shard, stages) = stages.recv_timeout(DEADLINE).unwrap();
    assert_eq!(shard, ShardId(0));
    assert_eq!(stages.histogram(Stage::Handle).len(), 4, "one in sixteen is timed");
}

#[test]
fn a_stopped_shard_sends_what_it_has_and_ends() {
    let mut node = Node::start(1, &[V4]);
    let addr = node.listeners[0].well_known;
    let mut client = tcp(addr);
    // Seen by the shard before it is told to stop.
    let bytes = message("echo", 50_000);
    client.write_all(&bytes).unwrap();
    expect(&mut client, &bytes);
    let start = Moment::now();
    node.threads.pop().unwrap().stop();
    assert!(start.elapsed() < Duration::from_secs(4));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    drop(node);
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
}

#[test]
fn a_stopping_shard_does_not_wait_for_a_peer_that_does_not_read() {
    let mut node = Node::start(1, &[V4]);
    let mut slow = tcp(node.listeners[0].well_known);
    // Sends until one stays in the kernel's hands, however much the kernel buffers.
    let mut held_up = false;
    for _ in 0..64 {
        slow.write_all(&message("flood", 0)).unwrap();
        assert!(matches!(node.next_event(), Event::Flooded));
        // What the kernel takes at once is gone two turns later.
        node.turn();
        node.turn();
        held_up = node.metrics[0].gauge(Gauge::SendsInFlight) > 0;
        if held_up {
            break;
        }
    }
    assert!(held_up);
    let start = Moment::now();
    node.threads.pop().unwrap().stop();
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// What the test tells the scripted core, as the text of a hand-over.
enum Order {
    Send { to: SocketAddr, bytes: Vec<u8>, ticket: u64 },
    Answer { shard: ShardId, conn: ConnId, fallback: SocketAddr, bytes: Vec<u8> },
    Report,
    Alarm(Duration),
    Store,
}

/// What the scripted core tells the test.
#[derive(Debug)]
enum Event {
    Flooded,
    Failed(u64),
    Reported,
    Alarm,
    Stored(Answer),
}

/// Answers every message by what its first line says.
struct Script {
    shard: ShardId,
    effects: VecDeque<Effect>,
    orders: Receiver<Order>,
    events: Sender<Event>,
    alarm: Option<Instant>,
}

impl Core for Script {
    fn handle_message(&mut self, bytes: &[u8], source: Source, _now: Now) {
        let first_line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let says = |word: &str| memchr::memmem::find(first_line, word.as_bytes()).is_some();
        if says("elsewhere") && self.shard != ShardId(0) {
            let input = Input::Handover { message: Bytes::copy_from_slice(bytes), source };
            return self.effects.push_back(Effect::Post { to: ShardId(0), input });
        }
        if says("flood") {
            for ticket in 0..16 {
                self.answer(Bytes::from(vec![b'x'; 65_536]), source, Some(Ticket(ticket)));
            }
            return self.tell(Event::Flooded);
        }
        self.answer(Bytes::copy_from_slice(bytes), source, None);
    }

    fn handle_input(&mut self, input: Input, now: Now) {
        match input {
            Input::Handover { message, source } => self.handle_message(&message, source, now),
            Input::StreamFailed { ticket } => self.tell(Event::Failed(ticket.0)),
            Input::Store { answer, .. } => self.tell(Event::Stored(answer)),
            // Any other input means: look at your orders.
            _ => {
                while let Ok(order) = self.orders.try_recv() {
                    self.obey(order, now);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.alarm.is_some_and(|at| at <= now.at) {
            self.alarm = None;
            self.tell(Event::Alarm);
        }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.alarm.map(|at| (at, "alarm"))
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

impl Script {
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn answer(&mut self, bytes: Bytes, source: Source, ticket: Option<Ticket>) {
        let Source { transport, peer, listener, socket, conn } = source;
        self.effects.push_back(match (transport, conn) {
            (Transport::Tcp, Some((shard, conn))) => Effect::SendStream {
                to: StreamTarget::Connection { shard, conn, fallback: peer },
                listener,
                bytes,
                ticket,
            },
            _ => Effect::SendDatagram { socket, listener, to: peer, bytes },
        });
    }

    fn obey(&mut self, order: Order, now: Now) {
        match order {
            Order::Send { to, bytes, ticket } => self.effects.push_back(Effect::SendStream {
                to: StreamTarget::Peer(to),
                listener: 0,
                bytes: bytes.into(),
                ticket: Some(Ticket(ticket)),
            }),
            Order::Answer { shard, conn, fallback, bytes } => self.effects.push_back(Effect::SendStream {
                to: StreamTarget::Connection { shard, conn, fallback },
                listener: 0,
                bytes: bytes.into(),
                ticket: None,
            }),
            Order::Report => self.tell(Event::Reported),
            Order::Alarm(after) => self.alarm = Some(now.at + after),
            Order::Store => {
                self.effects.push_back(Effect::Store { ticket: Ticket(1), command: Command::Levels });
            }
        }
    }
}

/// The addresses of one listener.
struct Addresses {
    well_known: SocketAddr,
    own: SocketAddr,
}

/// Running shards.
struct Node {
    doors: Arc<Doors>,
    threads: Vec<ShardThread>,
    /// The listeners as shard 0 has them.
    listeners: Vec<Addresses>,
    own_of: Vec<Vec<SocketAddr>>,
    metrics: Vec<Arc<ShardMetrics>>,
    orders: Vec<Sender<Order>>,
    events: Receiver<Event>,
}

impl Node {
    fn start(shard_count: u16, listen: &[&str]) -> Self {
        let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
        let doors = Doors::new(shard_count).unwrap();
        let bound = bind(&listen, 0, shard_count).unwrap();
        let addresses =
            |sockets: &ringpost::shard::ListenerSockets| Addresses { well_known: sockets.well_known, own: sockets.own };
        let listeners = bound[0].iter().map(addresses).collect();
        let own_of = bound.iter().map(|sockets| sockets.iter().map(|sockets| sockets.own).collect()).collect();
        let (events, told) = channel();
        let mut node = Self {
            doors,
            threads: Vec::new(),
            listeners,
            own_of,
            metrics: Vec::new(),
            orders: Vec::new(),
            events: told,
        };
        for (index, listeners) in bound.into_iter().enumerate() {
            let (sender, orders) = channel();
            let events = events.clone();
            let metrics = Arc::<ShardMetrics>::default();
            let shard = ShardId(index as u16);
            let plan = Plan {
                shard,
                cpu: None,
                listeners,
                media_listeners: Vec::new(),
                doors: node.doors.clone(),
                store: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
                spool: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
                control: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
                metrics: metrics.clone(),
            };
            let core = move |_| Script { shard, effects: VecDeque::new(), orders, events, alarm: None };
            node.threads.push(spawn(plan, core).unwrap());
            node.metrics.push(metrics);
            node.orders.push(sender);
        }
        node
    }

    fn tell(&self, shard: usize, order: Order) {
        self.orders[shard].send(order).unwrap();
        let look = Input::SubscriberReady(ringpost::base::id::Aor::from_canonical("sip:look@orders"));
        self.doors.try_post(ShardId(shard as u16), look).map_err(drop).unwrap();
    }

    fn next_event(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    fn next_failed(&self) -> u64 {
        match self.next_event() {
            Event::Failed(ticket) => ticket,
            other => panic!("{other:?} instead of a failure"),
        }
    }

    /// Waits, in bounded time, until something holds; makes the shards turn meanwhile.
    fn until(&self, holds: impl Fn(&Self) -> bool) {
        let start = Moment::now();
        while !holds(self) {
            assert!(start.elapsed() < DEADLINE, "it never came true");
            self.turn();
        }
    }

    /// Makes every shard end a turn.
    fn turn(&self) {
        for shard in 0..self.threads.len() {
            let (answer, turned) = channel();
            let scrape = Mail::Scrape(Box::new(move |_| answer.send(()).unwrap()));
            self.doors.post(ShardId(shard as u16), scrape).map_err(drop).unwrap();
            turned.recv_timeout(DEADLINE).unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.doors.stop_all();
        for thread in self.threads.drain(..) {
            thread.join();
        }
    }
}

fn message(what: &str, body_len: usize) -> Vec<u8> {
    let mut bytes =
        format!("MESSAGE {what} SIP/2.0\r\nVia: SIP/2.0/TCP x\r\nContent-Length: {body_len}\r\n\r\n").into_bytes();
    bytes.extend((0..body_len).map(|index| b'a' + (index % 26) as u8));
    bytes
}

fn udp(local: &str) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(len);
    (buffer, from)
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    let read: io::Result<()> = stream.read_exact(&mut answer);
    read.unwrap();
    assert!(answer == bytes, "the answer differs");
}
