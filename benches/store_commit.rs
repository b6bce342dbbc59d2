//! Durable deferrals a second: 1.2 KB requests, 1,000 in flight, through the real mailbox and writer thread.
//!
//! The disk under the target directory is what is measured; `users` is how many queues the messages are spread over.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::channel::{Receiver, Sender, bounded};
use ringpost::base::id::{Aor, MessageId, NodeId, ShardId, Ticket};
use ringpost::base::mailbox::Mailbox;
use ringpost::base::time::UnixMillis;
use ringpost::participating::storage::{
    Answer, Command, DeferredMessage, Job, Quota, Reply, ReplyTo, StoreMailbox,
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
        let (tell, told) = bounded(2 * IN_FLIGHT);
        let metrics = Arc::<StoreMetrics>::default();
        let thread =
            store.start(mailbox.clone(), waker, Box::new(Told(tell)), metrics.clone()).expect("a thread starts");
        let users = (0..user_count).map(|n| Aor::from_canonical(&format!("sip:user{n:07}@home.example"))).collect();
        let request = Bytes::from(vec![b'x'; 1200]);
        Self { mailbox, thread, told, metrics, users, request, sent: 0, _directory: directory }
    }

    fn post(&mut self) {
        // A fixed stride that shares no factor with the number of users visits them in no order of their pages.
        let user = &self.users[(self.sent as usize).wrapping_mul(7_919) % self.users.len()];
        self.sent += 1;
        let now = UnixMillis(1_700_000_000_000 + (self.sent / 40) as i64);
        let message = DeferredMessage {
            id: MessageId(0),
            user: user.clone(),
            originator: "sip:alice@away.example".into(),
            accepted: now,
            expires: now.plus_seconds(604_800),
            attempts: 0,
            not_before: now,
            wants_failure_notice: false,
            request: self.request.clone(),
        };
        let quota = Quota { count: u32::MAX, bytes: u64::MAX };
        let command = Command::Defer { message: Box::new(message), quota };
        let job = Job { command, reply: ReplyTo::Shard(ShardId(0), Ticket(self.sent)) };
        assert!(Mailbox::try_post(&self.mailbox, job).is_ok(), "fewer are in flight than the mailbox holds");
    }

    fn run(&mut self, count: u64) -> Duration {
        let start = Instant::now();
        let first = count.min(IN_FLIGHT as u64);
        (0..first).for_each(|_| self.post());
        for told in 0..count {
            let (_, answer) = self.told.recv().expect("every command is answered");
            assert!(matches!(black_box(answer), Ok(Reply::Deferred(_))));
            if told + first < count {
                self.post();
            }
        }
        start.elapsed()
    }

    fn stop(self) {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let commits = read(&self.metrics.commits).max(1);
        println!(
            "{} commits, mean {} rows, commit mean {} us max {} us, checkpoints {} ms in all, {} rows",
            commits,
            read(&self.metrics.commit_rows) / commits,
            read(&self.metrics.commit_nanos) / commits / 1_000,
            read(&self.metrics.commit_nanos_max) / 1_000,
            read(&self.metrics.checkpoint_nanos) / 1_000_000,
            self.sent,
        );
        self.thread.stop();
    }
}

fn defer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store_commit/defer");
    group.throughput(Throughput::Elements(1));
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for user_count in [1_000, 100_000] {
        let mut rig = Rig::start(user_count);
        group.bench_function(BenchmarkId::new("users", user_count), |bencher| {
            bencher.iter_custom(|count| rig.run(count));
        });
        rig.stop();
    }
    group.finish();
}

const IN_FLIGHT: usize = 1_000;

criterion_group!(benches, defer);
criterion_main!(benches);
