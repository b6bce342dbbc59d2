//! The writer thread: takes what has piled up, makes it durable in one commit, then answers.

use super::engine::Engine;
use super::metrics::StoreMetrics;
use super::open::{Locks, Store};
use crate::base::id::{ShardId, Ticket};
use crate::base::limits::{COMMIT_ROWS_MAX, STORE_MAILBOX_LEN};
use crate::base::mailbox::{Mailbox, Unpark};
use crate::participating::storage::{Answer, Command, Job, ReplyTo, StoreMailbox};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where answers for shards go.
pub trait Answers: Send {
    /// Brings an answer to a shard. Called on the store's thread; must not lose it, so a full mailbox is tried again.
    fn answer(&self, shard: ShardId, ticket: Ticket, answer: Answer);
}

/// The store's mailbox, and what names its reader.
pub fn mailbox() -> (Arc<StoreMailbox>, Unpark) {
    let waker = Unpark::default();
    (Arc::new(Mailbox::new(STORE_MAILBOX_LEN, Box::new(waker.clone()))), waker)
}

/// The running store. Dropped without [`StoreThread::stop`] it runs on until the process ends.
pub struct StoreThread {
    thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl Store {
    /// Starts the writer thread. `waker` is the one that came with the mailbox.
    pub fn start(
        self,
        mailbox: Arc<StoreMailbox>,
        waker: Unpark,
        answers: Box<dyn Answers>,
        metrics: Arc<StoreMetrics>,
    ) -> std::io::Result<StoreThread> {
        let stopping = Arc::new(AtomicBool::new(false));
        let Self { engine, locks } = self;
        let probe_at = Instant::now();
        let writer = Writer { engine, mailbox, answers, metrics, stopping: stopping.clone(), probe_at, _locks: locks };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            waker.announce();
            if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                // Shards would wait for answers for ever. What was acknowledged is on disk: a restart has it.
                tracing::error!("store: the writer thread panicked");
                std::process::abort();
            }
        })?;
        Ok(StoreThread { thread, stopping })
    }
}

impl StoreThread {
    /// Commits and answers what is in the mailbox, then closes the database. Nothing may be posted any more.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("store: the thread ended in a panic");
        }
    }
}

struct Writer {
    engine: Engine,
    mailbox: Arc<StoreMailbox>,
    answers: Box<dyn Answers>,
    metrics: Arc<StoreMetrics>,
    stopping: Arc<AtomicBool>,
    /// When a store that cannot commit tries again, whatever it is asked meanwhile.
    probe_at: Instant,
    _locks: Locks,
}

impl Writer {
    fn run(mut self) {
        self.engine.watch_log();
        let mut commands = Vec::with_capacity(COMMIT_ROWS_MAX);
        let mut replies = Vec::with_capacity(COMMIT_ROWS_MAX);
        loop {
            // Before the mailbox: what was posted before the stop is then seen.
            let stopping = self.stopping.load(Ordering::Acquire);
            self.probe_when_due();
            self.take(&mut commands, &mut replies);
            if !commands.is_empty() {
                self.commit(&mut commands, &mut replies);
            } else if stopping {
                break;
            } else if self.mailbox.prepare_sleep() {
                self.sleep();
            }
        }
        self.engine.close();
    }

    /// Takes what is there, up to a commit's bound. There is no waiting for more: more is what comes during the commit.
    fn take(&self, commands: &mut Vec<Command>, replies: &mut Vec<ReplyTo>) {
        debug_assert!(commands.is_empty() && replies.is_empty(), "every command was answered");
        while commands.len() < COMMIT_ROWS_MAX
            && let Some(Job { command, reply }) = self.mailbox.take()
        {
            commands.push(command);
            replies.push(reply);
        }
    }

    fn commit(&mut self, commands: &mut Vec<Command>, replies: &mut Vec<ReplyTo>) {
        let start = Instant::now();
        let failures_before = self.engine.failure_count;
        let answers = self.engine.commit(commands);
        assert_eq!(answers.len(), replies.len(), "every command is answered once");
        let failures = self.engine.failure_count - failures_before;
        self.metrics.commit_failures.fetch_add(failures, Ordering::Relaxed);
        if failures == 0 {
            self.metrics.committed(commands.len(), start.elapsed());
        }
        self.metrics.broken.store(self.engine.broken, Ordering::Relaxed);
        if failures > 0 {
            self.probe_at = Instant::now() + PROBE_INTERVAL;
        }
        commands.clear();

        for (reply, answer) in replies.drain(..).zip(answers) {
            // Whoever asked may fail at being told; the store goes on for the others.
            let told = catch_unwind(AssertUnwindSafe(|| match reply {
                ReplyTo::Shard(shard, ticket) => self.answers.answer(shard, ticket, answer),
                ReplyTo::Call(call) => call(answer),
            }));
            if told.is_err() {
                tracing::error!("store: a panic while an answer was delivered");
            }
        }
        self.checkpoint_when_due();
    }

    /// Between two commits, with all answers out: nobody waits for a checkpoint who does not have to.
    fn checkpoint_when_due(&self) {
        if self.engine.log_page_count() >= CHECKPOINT_PAGE_COUNT {
            let start = Instant::now();
            self.engine.checkpoint();
            self.metrics.checkpointed(start.elapsed());
        }
    }

    /// Looks whether the disk takes writes again. Commands that only read, such as the health page's, do not show it.
    fn probe_when_due(&mut self) {
        if self.engine.broken && Instant::now() >= self.probe_at {
            if self.engine.probe() {
                tracing::info!("store: the disk takes writes again");
                self.metrics.broken.store(false, Ordering::Relaxed);
            }
            self.probe_at = Instant::now() + PROBE_INTERVAL;
        }
    }

    /// Sleeps until somebody posts. A wake-up for another reason does no harm: the mailbox is looked at again.
    fn sleep(&self) {
        if self.engine.broken {
            std::thread::park_timeout(PROBE_INTERVAL);
        } else if !self.stopping.load(Ordering::Acquire) {
            std::thread::park();
        }
        self.mailbox.awake();
    }
}

/// Pages of the log that are moved into the database at once: 4 MiB, some ten milliseconds. More make the commits behind a
/// checkpoint wait longer and save little, because the tables grow at their ends.
const CHECKPOINT_PAGE_COUNT: usize = 1024;
/// How often a store that cannot commit looks whether it can.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, aor, deferral, options};
    use super::*;
    use crate::participating::storage::{Fault, Reply};
    use crossbeam::channel::{Receiver, Sender, unbounded};

    struct Told(Sender<(ShardId, Ticket, Answer)>);

    impl Answers for Told {
        fn answer(&self, shard: ShardId, ticket: Ticket, answer: Answer) {
            self.0.send((shard, ticket, answer)).unwrap();
        }
    }

    struct Running {
        thread: StoreThread,
        mailbox: Arc<StoreMailbox>,
        metrics: Arc<StoreMetrics>,
        told: Receiver<(ShardId, Ticket, Answer)>,
    }

    fn start(directory: &std::path::Path) -> Running {
        let (store, _) = Store::open(options(directory)).unwrap();
        let (mailbox, waker) = mailbox();
        let (tell, told) = unbounded();
        let metrics = Arc::<StoreMetrics>::default();
        let thread = store.start(mailbox.clone(), waker, Box::new(Told(tell)), metrics.clone()).unwrap();
        Running { thread, mailbox, metrics, told }
    }

    impl Running {
        fn post(&self, command: Command, ticket: u64) {
            let reply = ReplyTo::Shard(ShardId(3), Ticket(ticket));
            assert!(self.mailbox.try_post(Job { command, reply }).is_ok());
        }

        fn next(&self) -> (ShardId, Ticket, Answer) {
            self.told.recv_timeout(Duration::from_secs(20)).expect("every command is answered")
        }
    }

    #[test]
    fn an_idle_store_wakes_for_every_command_and_answers_whoever_asked() {
        let directory = tempfile::tempdir().unwrap();
        let running = start(directory.path());
        for n in 0..20 {
            running.post(deferral("bob", n), n);
            let (shard, ticket, answer) = running.next();
            assert_eq!((shard, ticket), (ShardId(3), Ticket(n)));
            fixture::deferred_id(&answer);
        }
        let (tell, told) = unbounded();
        let reply = ReplyTo::Call(Box::new(move |answer| tell.send(answer).unwrap()));
        let command = Command::PeekDeferred { user: aor("bob"), limit: 100 };
        assert!(running.mailbox.try_post(Job { command, reply }).is_ok());
        let Ok(Reply::Queue(queue)) = told.recv_timeout(Duration::from_secs(20)).unwrap() else { panic!("a queue") };
        assert_eq!(queue.into_iter().map(fixture::sequence).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        running.thread.stop();
        assert_eq!(running.metrics.commit_rows.load(Ordering::Relaxed), 21);
        assert!(running.metrics.take_commit_nanos_max() > 0 && running.metrics.take_commit_nanos_max() == 0);
        assert!(!running.metrics.is_broken());
    }

    #[test]
    fn a_stop_commits_and_answers_what_waits_and_leaves_no_log_behind() {
        let directory = tempfile::tempdir().unwrap();
        let running = start(directory.path());
        let count = 3 * COMMIT_ROWS_MAX as u64 + 1;
        for n in 0..count {
            running.post(deferral("bob", n), n);
        }
        running.thread.stop();
        let acknowledged = running.told.try_iter().map(|(_, ticket, answer)| {
            fixture::deferred_id(&answer);
            ticket.0
        });
        assert_eq!(acknowledged.collect::<Vec<_>>(), (0..count).collect::<Vec<_>>(), "all of them, in order");
        assert!(running.metrics.commit_rows_max.load(Ordering::Relaxed) <= COMMIT_ROWS_MAX as u64);
        assert!(!directory.path().join("data/ringpost.db-wal").exists());
        let (mut store, image) = Store::open(options(directory.path())).unwrap();
        assert_eq!(image.users_with_deferred, [aor("bob")]);
        let peek = Command::PeekDeferred { user: aor("bob"), limit: u16::MAX };
        assert_eq!(fixture::queue(&mut store.engine, peek).len() as u64, count);
    }

    #[test]
    fn a_panic_of_whoever_asked_does_not_reach_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let running = start(directory.path());
        let reply = ReplyTo::Call(Box::new(|_| panic!("an asker that cannot take its answer")));
        assert!(running.mailbox.try_post(Job { command: Command::Levels, reply }).is_ok());
        running.post(deferral("bob", 1), 1);
        fixture::deferred_id(&running.next().2);
        running.thread.stop();
    }

    #[test]
    fn a_broken_store_says_so_and_finds_out_by_itself_that_it_is_well() {
        let directory = tempfile::tempdir().unwrap();
        let running = start(directory.path());
        // Another process that writes the same file is the one thing a lock file cannot keep out.
        let intruder = rusqlite::Connection::open(directory.path().join("data/ringpost.db")).unwrap();
        intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
        running.post(deferral("bob", 1), 1);
        assert_eq!(running.next().2, Err(Fault::Broken));
        assert!(running.metrics.is_broken());
        intruder.execute_batch("ROLLBACK").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while running.metrics.is_broken() {
            assert!(Instant::now() < deadline, "nobody asked, and it recovered");
            std::thread::yield_now();
        }
        running.post(deferral("bob", 2), 2);
        fixture::deferred_id(&running.next().2);
        running.thread.stop();
    }

    #[test]
    fn a_broken_store_recovers_while_it_is_asked_for_its_health_all_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let running = start(directory.path());
        let intruder = rusqlite::Connection::open(directory.path().join("data/ringpost.db")).unwrap();
        intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
        running.post(deferral("bob", 1), 1);
        assert_eq!(running.next().2, Err(Fault::Broken));
        intruder.execute_batch("ROLLBACK").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        for ticket in 2.. {
            running.post(Command::Levels, ticket);
            let Ok(Reply::Levels(levels)) = running.next().2 else { panic!("a broken store still reads") };
            if levels.fault.is_none() {
                break;
            }
            assert!(Instant::now() < deadline, "reading all the time keeps nobody from trying to write");
        }
        running.thread.stop();
    }
}
