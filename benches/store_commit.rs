//! Durable commands a second: 1.2 KB messages, 1,000 commands in flight, through the real mailbox and writer thread.
//!
//! The disk under the target directory is what is measured; `users` is how many queues the messages are spread over.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::channel::{Receiver, Sender, bounded};
use hdrhistogram::Histogram;
use ringpost::base::id::{Aor, MessageId, NodeId, ShardId, Ticket};
use ringpost::base::limits::STORE_MAILBOX_LEN;
use ringpost::base::mailbox::Mailbox;
use ringpost::base::time::UnixMillis;
use ringpost::participating::storage::{
    Answer, Command, DeferredMessage, Direction, Job, MessageObject, Outcome, Quota, Reply, ReplyTo, Settlement, Shelf,
    StoreMailbox,
};
use ringpost::store::{Answers, Options, Store, StoreMetrics, StoreThread, mailbox};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

struct Told(Sender<(Ticket, Answer)>);

impl Answers for Told {
    fn answer(&self, _shard: ShardId, ticket: Ticket, answer: Answer) {
        self.0.send((ticket, answer)).expect("the bench waits for every answer");
    }
}

struct Rig {
    mailbox: Arc<StoreMailbox>,
    thread: StoreThread,
    told: Receiver<(Ticket, Answer)>,
    metrics: Arc<StoreMetrics>,
    users: Vec<Aor>,
    request: Bytes,
    sent: u64,
    ids: Vec<(Aor, MessageId)>,
    start: Instant,
    waits: Histogram<u64>,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn start(user_count: usize) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (store, _) = Store::open(Options {
            data_dir: directory.path().join("data"),
            content_dir: directory.path().join("content"),
            content_threshold: 65_536,
            node: NodeId(1),
            disk_free_min: 0,
        })
        .expect("an empty store opens");
        let (mailbox, waker) = mailbox();
        let (tell, told) = bounded(STORE_MAILBOX_LEN);
        let metrics = Arc::<StoreMetrics>::default();
        let thread =
            store.start(mailbox.clone(), waker, Box::new(Told(tell)), metrics.clone()).expect("a thread starts");
        let users = (0..user_count).map(|n| Aor::from_canonical(&format!("sip:user{n:07}@home.example"))).collect();
        let request = Bytes::from(vec![b'x'; 1200]);
        let waits =
            Histogram::new_with_bounds(1, 100_000_000, 2).expect("1 us to 100 s at two digits is a valid range");
        let start = Instant::now();
        Self {
            start,
            waits,
            mailbox,
            thread,
            told,
            metrics,
            users,
            request,
            sent: 0,
            ids: Vec::new(),
            _directory: directory,
        }
    }

    fn nanos(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// A fixed stride that shares no factor with the number of users visits them in no order of their pages.
    fn next_user(&mut self) -> Aor {
        self.sent += 1;
        self.users[(self.sent as usize).wrapping_mul(7_919) % self.users.len()].clone()
    }

    /// The wall clock of something like 40,000 messages a second.
    fn now(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + (self.sent / 40) as i64)
    }

    fn defer(&mut self) -> Command {
        let user = self.next_user();
        let now = self.now();
        let message = DeferredMessage {
            id: MessageId(0),
            user,
            originator: "sip:alice@away.example".into(),
            accepted: now,
            expires: now.plus_seconds(604_800),
            attempts: 0,
            not_before: now,
            wants_failure_notice: false,
            request: self.request.clone(),
            content: None,
        };
        Command::Defer { message: Box::new(message), quota: Quota { count: u32::MAX, bytes: u64::MAX } }
    }

    fn keep(&mut self) -> Command {
        let user = self.next_user();
        let object = MessageObject {
            id: MessageId(0),
            user,
            peer: "sip:alice@away.example".into(),
            imdn_message_id: format!("{:016x}", self.sent.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into(),
            conversation_id: "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".into(),
            contribution_id: "abcdef-1234-5678-90ab-cdef01234567".into(),
            direction: Direction::Received,
            outcome: Outcome::Delivered,
            at: self.now(),
            head: self.request.slice(..400),
            content_type: "message/cpim".into(),
            body: self.request.slice(..800),
            body_len: 800,
            content: None,
        };
        Command::Keep { shelf: Shelf::History, object: Box::new(object) }
    }

    fn settle(&mut self) -> Command {
        let (user, id) = self.ids.pop().expect("as many as were deferred");
        Command::Settle { user, id, settlement: Settlement::Remove }
    }

    fn post(&mut self, command: Command) {
        self.post_at(command, self.nanos());
    }

    fn post_at(&mut self, command: Command, nanos: u64) {
        let job = Job { command, reply: ReplyTo::Shard(ShardId(0), Ticket(nanos)) };
        assert!(Mailbox::try_post(&self.mailbox, job).is_ok(), "fewer are in flight than the mailbox holds");
    }

    fn run(&mut self, count: u64, mut next: impl FnMut(&mut Self) -> Command) -> Duration {
        let start = Instant::now();
        for told in 0..count + IN_FLIGHT {
            if told >= IN_FLIGHT.min(count) && told - IN_FLIGHT.min(count) < count {
                let (Ticket(posted), answer) = self.told.recv().expect("every command is answered");
                self.waits.saturating_record((self.nanos() - posted) / 1_000);
                black_box(answer).expect("every command succeeds");
            }
            if told < count {
                let command = next(self);
                self.post(command);
            }
        }
        start.elapsed()
    }

    /// Defers at a steady rate, whatever the store does; a message's wait starts when it was due.
    fn run_paced(&mut self, rate: u64, span: Duration) {
        let start = self.nanos();
        let count = rate * span.as_millis() as u64 / 1_000;
        let (mut posted, mut told) = (0, 0);
        while told < count {
            let due = ((self.nanos() - start) * rate / 1_000_000_000).min(count);
            while posted < due && self.mailbox.len() < self.mailbox.capacity() {
                let command = self.defer();
                let due_nanos = start + posted * 1_000_000_000 / rate;
                self.post_at(command, due_nanos);
                posted += 1;
            }
            while let Ok((Ticket(due), answer)) = self.told.try_recv() {
                self.waits.saturating_record((self.nanos() - due) / 1_000);
                black_box(answer).expect("every command succeeds");
                told += 1;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Puts as many messages into queues as will be settled, in no order of their pages.
    fn fill(&mut self, count: u64) {
        let mut posted = Vec::new();
        for chunk in 0..count.div_ceil(IN_FLIGHT) {
            for _ in 0..IN_FLIGHT.min(count - chunk * IN_FLIGHT) {
                let command = self.defer();
                let Command::Defer { message, .. } = &command else { unreachable!("just made") };
                posted.push(message.user.clone());
                self.post(command);
            }
            for user in posted.drain(..) {
                let Ok((_, Ok(Reply::Deferred(id)))) = self.told.recv() else { panic!("deferred") };
                self.ids.push((user, id));
            }
        }
        self.ids.sort_unstable_by_key(|(_, id)| id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }

    fn stop(self) {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let commits = read(&self.metrics.commits).max(1);
        let wait = |quantile| self.waits.value_at_quantile(quantile);
        if self.sent > 0 {
            println!(
                "command to answer p50 {} us p99 {} us; {commits} commits, mean {} rows, {} us, max {} us; checkpoints {} ms",
                wait(0.5),
                wait(0.99),
                read(&self.metrics.commit_rows) / commits,
                read(&self.metrics.commit_nanos) / commits / 1_000,
                read(&self.metrics.commit_nanos_max) / 1_000,
                read(&self.metrics.checkpoint_nanos) / 1_000_000,
            );
        }
        self.thread.stop();
    }
}

fn commands(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store_commit");
    group.throughput(Throughput::Elements(1));
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for user_count in [1_000, 100_000] {
        let mut rig = Rig::start(user_count);
        group.bench_function(BenchmarkId::new("defer/users", user_count), |bencher| {
            bencher.iter_custom(|count| rig.run(count, Rig::defer));
        });
        rig.stop();
    }
    let mut rig = Rig::start(100_000);
    rig.run_paced(40_000, Duration::from_secs(3));
    println!("store_commit/defer at 40,000 a second");
    rig.stop();
    let mut rig = Rig::start(100_000);
    group.bench_function("settle", |bencher| {
        bencher.iter_custom(|count| {
            rig.fill(count);
            rig.run(count, Rig::settle)
        });
    });
    rig.stop();
    let mut rig = Rig::start(100_000);
    group.bench_function("keep", |bencher| {
        bencher.iter_custom(|count| rig.run(count, Rig::keep));
    });
    rig.stop();
    group.finish();
}

const IN_FLIGHT: u64 = 1_000;

criterion_group!(benches, commands);
criterion_main!(benches);
