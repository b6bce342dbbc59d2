//! MSRP connections of a shard over real sockets, with a core behind them that passes bytes on.

use bytes::Bytes;
use ringpost::base::id::{Aor, ConnId, ShardId};
use ringpost::base::limits::{MSRP_EGRESS_HIGH, MSRP_EGRESS_LOW};
use ringpost::base::mailbox::{Mailbox, Unpark};
use ringpost::base::time::{Instant, Now};
use ringpost::metrics::counters::ShardMetrics;
use ringpost::metrics::names::{Counter, Gauge};
use ringpost::msrp::effect::{ConnectTicket, MediaEffect};
use ringpost::participating::effect::Effect;
use ringpost::participating::input::{Input, Shards, Source};
use ringpost::shard::{Core, Doors, Mail, Plan, ShardThread, bind, bind_media, spawn};
use ringpost::uring::ring::BATCH_COUNT_MAX;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant as Moment};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn bytes_pass_whole_and_in_order_however_they_are_cut() {
    let node = Node::start(&[V4]);
    for piece_len in [1, 7, 300, 4095, 4096, 4097, 65_536, 1 << 20] {
        let (a, b) = node.pair();
        let total = if piece_len < 100 { 3_000 } else { (piece_len * 3).max(200_000) };
        let (sent, mut source) = (pattern(total), a.stream.try_clone().unwrap());
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || {
            for piece in bytes.chunks(piece_len) {
                source.write_all(piece).unwrap();
            }
        });
        let mut received = vec![0; total];
        (&b.stream).read_exact(&mut received).unwrap();
        assert!(received == sent, "cut into {piece_len}");
        writing.join().unwrap();
        // The way back is the same.
        (&b.stream).write_all(&sent[..3000]).unwrap();
        expect(&a.stream, &sent[..3000]);
    }
    assert_eq!(node.metrics.counter(Counter::MsrpAccepted), 16);
}

#[test]
fn each_family_has_a_listener() {
    let node = Node::start(&[V4, V6]);
    let streams: Vec<TcpStream> = node.addrs.iter().map(|addr| connect(*addr)).collect();
    for (index, stream) in streams.iter().enumerate() {
        let Event::Accepted { peer: seen, listener, .. } = node.next_event() else { panic!("it was accepted") };
        assert_eq!((seen, usize::from(listener)), (stream.local_addr().unwrap(), index));
    }
}

#[test]
fn a_slow_receiver_holds_up_its_sender_alone_and_loses_nothing() {
    let node = Node::start(&[V4]);
    let (a, b) = node.pair();
    let (quick, other) = node.pair();
    const TOTAL: usize = 24 << 20;
    let sent = pattern(TOTAL);
    let (bytes, mut source) = (sent.clone(), a.stream.try_clone().unwrap());
    let writing = std::thread::spawn(move || source.write_all(&bytes).unwrap());
    // Nobody reads: its sender is stopped.
    while !matches!(node.next_event(), Event::Paused) {}
    let mut slowest = Duration::ZERO;
    let message = pattern(20_000);
    for _ in 0..200 {
        let start = Moment::now();
        (&quick.stream).write_all(&message).unwrap();
        expect(&other.stream, &message);
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let mut received = vec![0; TOTAL];
    (&b.stream).read_exact(&mut received).unwrap();
    assert!(received == sent);
    writing.join().unwrap();
}

#[test]
fn buffers_that_are_kept_for_ever_starve_nobody() {
    let node = Node::start(&[V4]);
    let keeper = node.accept();
    node.tell(Order::Hold(keeper.conn));
    const TOTAL: usize = 8 << 20;
    let sent = pattern(TOTAL);
    let (bytes, mut source) = (sent.clone(), keeper.stream.try_clone().unwrap());
    let writing = std::thread::spawn(move || source.write_all(&bytes).unwrap());
    let (mut kept, mut len) = (Vec::new(), 0);
    while len < TOTAL {
        match node.next_event() {
            Event::Held(bytes) => {
                len += bytes.len();
                kept.push(bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    writing.join().unwrap();
    assert!(node.metrics.counter(Counter::MsrpBufferCopied) > 0, "eight megabytes are more than the pool");
    let (a, b) = node.pair();
    let message = pattern(100_000);
    for _ in 0..50 {
        let (bytes, mut source) = (message.clone(), a.stream.try_clone().unwrap());
        let writing = std::thread::spawn(move || source.write_all(&bytes).unwrap());
        expect(&b.stream, &message);
        writing.join().unwrap();
    }
    // What was kept was not written over.
    assert!(kept.concat() == sent);
    // Given back, the buffers are filled again without a copy.
    drop(kept);
    let copied = node.metrics.counter(Counter::MsrpBufferCopied);
    (&a.stream).write_all(&message).unwrap();
    expect(&b.stream, &message);
    assert_eq!(node.metrics.counter(Counter::MsrpBufferCopied), copied);
}

#[test]
fn a_storm_of_pauses_loses_nothing() {
    let node = Node::start(&[V4]);
    let (a, b) = node.pair();
    const TOTAL: usize = 16 << 20;
    let sent = pattern(TOTAL);
    let (bytes, mut source) = (sent.clone(), a.stream.try_clone().unwrap());
    let writing = std::thread::spawn(move || source.write_all(&bytes).unwrap());
    let mut sink = b.stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut received = vec![0; TOTAL];
        sink.read_exact(&mut received).unwrap();
        received
    });
    let (pause, resume) = (MediaEffect::Pause(a.conn), MediaEffect::Resume(a.conn));
    let mut rounds = 0;
    while !reading.is_finished() {
        for storm in [&[pause, resume][..], &[pause, pause, resume, resume], &[pause], &[resume, pause, resume]] {
            node.tell(Order::Effects(storm.to_vec()));
        }
        rounds += 1;
        assert!(rounds < 1_000_000, "reading goes on");
    }
    assert!(reading.join().unwrap() == sent);
    writing.join().unwrap();
}

#[test]
fn a_paused_connection_is_not_read_until_it_is_resumed() {
    let node = Node::start(&[V4]);
    let (a, b) = node.pair();
    node.tell(Order::Effects(vec![MediaEffect::Pause(a.conn)]));
    // The kernel's last word on the receive is in after two turns.
    node.turn();
    node.turn();
    (&a.stream).write_all(b"later").unwrap();
    node.turn();
    node.turn();
    b.stream.set_nonblocking(true).unwrap();
    assert_eq!((&b.stream).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    b.stream.set_nonblocking(false).unwrap();
    node.tell(Order::Effects(vec![MediaEffect::Resume(a.conn)]));
    expect(&b.stream, b"later");
}

#[test]
fn what_waits_when_the_core_closes_still_leaves() {
    let node = Node::start(&[V4]);
    let peer = node.accept();
    let rest = pattern(3 << 20);
    let half = rest.len() / 2;
    for piece in [&rest[..half], &rest[half..]] {
        node.tell(Order::Send(peer.conn, Bytes::copy_from_slice(piece)));
    }
    node.tell(Order::Effects(vec![MediaEffect::Close(peer.conn)]));
    // Bytes that come in meanwhile must not reset it.
    (&peer.stream).write_all(b"whatever").unwrap();
    let mut received = Vec::new();
    (&peer.stream).read_to_end(&mut received).unwrap();
    assert!(received == rest);
    drop(peer);
    node.until(|node| node.metrics.gauge(Gauge::MsrpConnections) == 0);
    assert!(node.events.try_recv().is_err(), "the core hears nothing more");
}

#[test]
fn a_peer_that_takes_nothing_does_not_keep_a_closed_connection() {
    let node = Node::start(&[V4]);
    let peer = node.accept();
    node.tell(Order::Send(peer.conn, Bytes::from(vec![b'x'; 15 << 20])));
    let start = Moment::now();
    node.tell(Order::Effects(vec![MediaEffect::Close(peer.conn)]));
    node.until(|node| node.metrics.gauge(Gauge::MsrpConnections) == 0);
    assert!(start.elapsed() >= Duration::from_secs(2) && start.elapsed() < Duration::from_secs(10));
}

#[test]
fn everything_received_before_an_end_is_delivered_and_the_end_is_told_once() {
    let node = Node::start(&[V4]);
    for _ in 0..20 {
        let (a, b) = node.pair();
        let bytes = pattern(100_000);
        (&a.stream).write_all(&bytes).unwrap();
        a.stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        (&b.stream).read_to_end(&mut received).unwrap();
        assert!(received == bytes);
        assert!(matches!(node.next_event(), Event::Closed(conn) if conn == a.conn));
    }
    node.until(|node| node.metrics.gauge(Gauge::MsrpConnections) == 0);
    assert!(node.events.try_recv().is_err());
}

#[test]
fn a_peer_that_has_ended_its_side_still_reads_what_answers_it() {
    let node = Node::start(&[V4]);
    let peer = node.accept();
    node.tell(Order::Link(peer.conn, peer.conn));
    let bytes = pattern(50_000);
    (&peer.stream).write_all(&bytes).unwrap();
    peer.stream.shutdown(Shutdown::Write).unwrap();
    let mut echoed = Vec::new();
    (&peer.stream).read_to_end(&mut echoed).unwrap();
    assert!(echoed == bytes);
}

#[test]
fn a_reset_is_told_once_whatever_was_under_way() {
    let node = Node::start(&[V4]);
    for _ in 0..20 {
        let (a, b) = node.pair();
        // Much is under way to a peer that resets in the middle of it.
        (&a.stream).write_all(&pattern(200_000)).unwrap();
        (&b.stream).read_exact(&mut [0; 100]).unwrap();
        (&b.stream).write_all(b"last words").unwrap();
        socket2::SockRef::from(&b.stream).set_linger(Some(Duration::ZERO)).unwrap();
        let conn = b.conn;
        drop(b);
        let closed = std::iter::repeat_with(|| node.next_event()).find_map(|event| match event {
            Event::Closed(conn) => Some(conn),
            _ => None,
        });
        assert_eq!(closed, Some(conn));
        let mut received = Vec::new();
        (&a.stream).read_to_end(&mut received).unwrap();
        assert_eq!(received, b"last words");
    }
    node.until(|node| node.metrics.gauge(Gauge::MsrpConnections) == 0);
    assert!(node.events.try_iter().all(|event| matches!(event, Event::Paused)));
}

#[test]
fn a_connection_is_opened_refused_given_up_or_not_wanted() {
    let node = Node::start(&[V4]);
    let peer = TcpListener::bind(V4).unwrap();
    let to = peer.local_addr().unwrap();
    let connect = |ticket, to| MediaEffect::Connect { ticket: ConnectTicket(ticket), to, listener: 0 };

    node.tell(Order::Effects(vec![connect(1, to)]));
    let (stream, _) = peer.accept().unwrap();
    let Event::Connected { ticket: ConnectTicket(1), conn } = node.next_event() else { panic!("it was opened") };
    node.tell(Order::Link(conn, conn));
    (&stream).write_all(b"echo").unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    expect(&stream, b"echo");

    let nobody = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    node.tell(Order::Effects(vec![connect(2, nobody)]));
    assert!(matches!(node.next_event(), Event::ConnectFailed(ConnectTicket(2))));
    // An address of another family than the listener's is as good as any; one that cannot be is refused at once.
    node.tell(Order::Effects(vec![connect(3, "255.255.255.255:9".parse().unwrap())]));
    assert!(matches!(node.next_event(), Event::ConnectFailed(ConnectTicket(3))));
    assert_eq!(node.metrics.counter(Counter::MsrpConnectFailed), 2);

    // Given up at once, it is not answered; the next one is.
    node.tell(Order::Effects(vec![connect(4, nobody), MediaEffect::Abandon(ConnectTicket(4)), connect(5, nobody)]));
    assert!(matches!(node.next_event(), Event::ConnectFailed(ConnectTicket(5))));

    node.tell(Order::Effects(vec![connect(REFUSED.0, to)]));
    let (stream, _) = peer.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(node.next_event(), Event::Connected { ticket: REFUSED, .. }));
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    assert_eq!(node.metrics.counter(Counter::MsrpConnected), 2);
}

#[test]
fn a_thousand_connections_talk_at_once() {
    const PAIRS: usize = 500;
    let node = Node::start(&[V4]);
    let pairs: Vec<(Peer, Peer)> = (0..PAIRS).map(|_| node.pair()).collect();
    for round in 0..5usize {
        let message = |index: usize| pattern(300 + 7_000 * ((index + round) % 3));
        for (index, (a, b)) in pairs.iter().enumerate() {
            (&a.stream).write_all(&message(index)).unwrap();
            (&b.stream).write_all(&message(index + 1)).unwrap();
        }
        for (index, (a, b)) in pairs.iter().enumerate() {
            expect(&b.stream, &message(index));
            expect(&a.stream, &message(index + 1));
        }
    }
    node.until(|node| node.metrics.gauge(Gauge::MsrpConnections) == 2 * PAIRS as u64);
}

#[test]
fn a_shard_may_end_while_its_buffers_are_kept() {
    let node = Node::start(&[V4]);
    let keeper = node.accept();
    node.tell(Order::Hold(keeper.conn));
    let sent = pattern(400_000);
    let (bytes, mut source) = (sent.clone(), keeper.stream.try_clone().unwrap());
    let writing = std::thread::spawn(move || source.write_all(&bytes).unwrap());
    let mut kept = Vec::new();
    while kept.iter().map(Bytes::len).sum::<usize>() < sent.len() {
        let Event::Held(bytes) = node.next_event() else { panic!("nothing else happens") };
        kept.push(bytes);
    }
    writing.join().unwrap();
    let start = Moment::now();
    drop(node);
    assert!(start.elapsed() < Duration::from_secs(4));
    // The peer sees its end; what was kept is still what was sent.
    assert_eq!((&keeper.stream).read(&mut [0]).unwrap(), 0);
    assert!(kept.concat() == sent);
}

#[test]
fn a_stopping_shard_sends_its_goodbyes_first() {
    let mut node = Node::start(&[V4]);
    let peer = node.accept();
    let goodbye = pattern(300_000);
    node.tell(Order::Send(peer.conn, Bytes::from(goodbye.clone())));
    let mut sink = peer.stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut received = Vec::new();
        sink.read_to_end(&mut received).unwrap();
        received
    });
    node.thread.take().unwrap().stop();
    assert!(reading.join().unwrap() == goodbye);
    assert!(TcpStream::connect(node.addrs[0]).is_err(), "nobody listens any more");
}

/// What the test tells the core.
enum Order {
    /// Whatever comes on one goes to the other.
    Link(ConnId, ConnId),
    /// Whatever comes on it is told as it is, the bytes kept.
    Hold(ConnId),
    Send(ConnId, Bytes),
    Effects(Vec<MediaEffect>),
}

/// What the core tells the test.
#[derive(Debug)]
enum Event {
    Accepted { conn: ConnId, peer: SocketAddr, listener: u8 },
    Connected { ticket: ConnectTicket, conn: ConnId },
    ConnectFailed(ConnectTicket),
    Held(Bytes),
    Closed(ConnId),
    Paused,
}

#[derive(Default)]
struct Link {
    to: Option<ConnId>,
    hold: bool,
    queue: VecDeque<Bytes>,
    /// Bytes waiting or in the kernel's hands.
    len: usize,
    paused: bool,
    dirty: bool,
    /// Closed by the core: forgotten once the shard has taken what is left.
    closing: bool,
}

/// Passes bytes on as the relay does: small pieces copied, large ones shared, senders stopped while much waits.
struct Relay {
    links: HashMap<ConnId, Link>,
    dirty: VecDeque<ConnId>,
    /// Connections that the core has closed.
    left: HashSet<ConnId>,
    effects: VecDeque<Effect>,
    orders: Receiver<Order>,
    events: Sender<Event>,
    obeyed: Sender<()>,
}

impl Relay {
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn media(&mut self, effect: MediaEffect) {
        self.effects.push_back(Effect::Media(effect));
    }

    fn queue(&mut self, to: ConnId, bytes: Bytes) {
        let Some(link) = self.links.get_mut(&to) else { return };
        link.len += bytes.len();
        link.queue.push_back(bytes);
        if !std::mem::replace(&mut link.dirty, true) {
            self.dirty.push_back(to);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Link(a, b) => {
                for (one, other) in [(a, b), (b, a)] {
                    self.links.entry(one).or_default().to = Some(other);
                }
            }
            Order::Hold(conn) => self.links.entry(conn).or_default().hold = true,
            Order::Send(conn, bytes) => self.queue(conn, bytes),
            Order::Effects(effects) => {
                for effect in effects {
                    if let MediaEffect::Close(conn) = effect {
                        self.links.get_mut(&conn).expect("the test closes what is open").closing = true;
                        self.left.insert(conn);
                    }
                    self.media(effect);
                }
            }
        }
        let _ = self.obeyed.send(());
    }
}

impl Core for Relay {
    fn handle_message(&mut self, _bytes: &[u8], _source: Source, _now: Now) {}

    fn handle_input(&mut self, _input: Input, _now: Now) {
        // Any input means: look at your orders.
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order);
        }
    }

    fn media_accepted(&mut self, conn: ConnId, peer: SocketAddr, listener: u8, _now: Now) -> bool {
        self.links.insert(conn, Link::default());
        self.tell(Event::Accepted { conn, peer, listener });
        true
    }

    fn media_connected(&mut self, ticket: ConnectTicket, conn: ConnId, _now: Now) -> bool {
        self.links.insert(conn, Link::default());
        self.tell(Event::Connected { ticket, conn });
        ticket != REFUSED
    }

    fn media_connect_failed(&mut self, ticket: ConnectTicket, _now: Now) {
        self.tell(Event::ConnectFailed(ticket));
    }

    fn handle_media(&mut self, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes, _now: Now) {
        let link = self.links.get_mut(&conn).expect("the shard knows the core's connections");
        if link.closing {
            return;
        }
        if link.hold {
            let shared = share();
            assert_eq!(shared, bytes);
            return self.tell(Event::Held(shared));
        }
        let to = link.to.expect("the test linked it before it sent");
        let piece = if bytes.len() >= 4096 { share() } else { Bytes::copy_from_slice(bytes) };
        self.queue(to, piece);
        let full = self.links.get(&to).is_some_and(|link| link.len > MSRP_EGRESS_HIGH);
        let link = self.links.get_mut(&conn).expect("as above");
        if full && !std::mem::replace(&mut link.paused, true) {
            self.media(MediaEffect::Pause(conn));
            self.tell(Event::Paused);
        }
    }

    fn media_sent(&mut self, conn: ConnId, len: usize, _now: Now) {
        let link = self.links.get_mut(&conn).expect("the shard knows the core's connections");
        link.len -= len;
        let (low, source) = (link.len < MSRP_EGRESS_LOW, link.to);
        if low
            && let Some(source) = source
            && let Some(from) = self.links.get_mut(&source)
            && std::mem::replace(&mut from.paused, false)
        {
            self.media(MediaEffect::Resume(source));
        }
    }

    fn media_closed(&mut self, conn: ConnId, _now: Now) {
        // One that the core has asked to close may still end by itself before that is done.
        let closing = self.links.get(&conn).is_none_or(|link| link.closing);
        assert!(!closing || self.left.remove(&conn), "an end is told once");
        let Some(link) = self.links.remove(&conn) else { return };
        if closing {
            return;
        }
        self.tell(Event::Closed(conn));
        if let Some(other) = link.to
            && let Some(link) = self.links.get_mut(&other)
            && !std::mem::replace(&mut link.closing, true)
        {
            self.left.insert(other);
            self.media(MediaEffect::Close(other));
        }
    }

    fn poll_media(&mut self) -> Option<ConnId> {
        let conn = self.dirty.pop_front()?;
        if let Some(link) = self.links.get_mut(&conn) {
            link.dirty = false;
        }
        Some(conn)
    }

    fn take_media(&mut self, conn: ConnId, batch: &mut Vec<Bytes>) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        batch.extend(link.queue.drain(..link.queue.len().min(BATCH_COUNT_MAX)));
        if link.closing && batch.is_empty() {
            self.links.remove(&conn);
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

/// A peer of the shard.
struct Peer {
    stream: TcpStream,
    conn: ConnId,
}

/// One running shard.
struct Node {
    doors: Arc<Doors>,
    thread: Option<ShardThread>,
    addrs: Vec<SocketAddr>,
    metrics: Arc<ShardMetrics>,
    orders: Sender<Order>,
    events: Receiver<Event>,
    obeyed: Receiver<()>,
}

impl Node {
    fn start(listen: &[&str]) -> Self {
        let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
        let doors = Doors::new(1).unwrap();
        let media_listeners = bind_media(&listen, 1).unwrap().remove(0);
        let addrs = media_listeners.iter().map(|listener| listener.addr).collect();
        let metrics = Arc::<ShardMetrics>::default();
        let plan = Plan {
            shard: ShardId(0),
            cpu: None,
            listeners: bind(&[V4.parse().unwrap()], 0, 1).unwrap().remove(0),
            media_listeners,
            doors: doors.clone(),
            store: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
            spool: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
            control: Arc::new(Mailbox::new(1, Box::new(Unpark::default()))),
            metrics: metrics.clone(),
        };
        let ((orders, ordered), (events, told), (done, obeyed)) = (channel(), channel(), channel());
        let core = move |_| Relay {
            links: HashMap::new(),
            dirty: VecDeque::new(),
            left: HashSet::new(),
            effects: VecDeque::new(),
            orders: ordered,
            events,
            obeyed: done,
        };
        let thread = Some(spawn(plan, core).unwrap());
        Self { doors, thread, addrs, metrics, orders, events: told, obeyed }
    }

    /// A connection that the shard has accepted.
    fn accept(&self) -> Peer {
        let stream = connect(self.addrs[0]);
        let local = stream.local_addr().unwrap();
        loop {
            match self.next_event() {
                Event::Accepted { conn, peer, .. } if peer == local => return Peer { stream, conn },
                // Of earlier connections.
                Event::Closed(_) | Event::Paused => {}
                other => panic!("{other:?} instead of a connection"),
            }
        }
    }

    /// Two connections, each of which gets what comes on the other.
    fn pair(&self) -> (Peer, Peer) {
        let (a, b) = (self.accept(), self.accept());
        self.tell(Order::Link(a.conn, b.conn));
        (a, b)
    }

    /// Has the core do something, and waits until it has.
    fn tell(&self, order: Order) {
        self.orders.send(order).unwrap();
        let look = Input::SubscriberReady(Aor::from_canonical("sip:look@orders"));
        self.doors.try_post(ShardId(0), look).map_err(drop).unwrap();
        self.obeyed.recv_timeout(DEADLINE).unwrap();
    }

    fn next_event(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    /// Waits, in bounded time, until something holds; makes the shard turn meanwhile.
    fn until(&self, holds: impl Fn(&Self) -> bool) {
        let start = Moment::now();
        while !holds(self) {
            assert!(start.elapsed() < DEADLINE, "it never came true");
            self.turn();
        }
    }

    /// Makes the shard end a turn.
    fn turn(&self) {
        let (answer, turned) = channel();
        let scrape = Mail::Scrape(Box::new(move |_| answer.send(()).unwrap()));
        self.doors.post(ShardId(0), scrape).map_err(drop).unwrap();
        turned.recv_timeout(DEADLINE).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

/// A ticket whose connection the core does not want any more when it comes.
const REFUSED: ConnectTicket = ConnectTicket(99);

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
}

fn expect(mut stream: &TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer == bytes, "the answer differs");
}
