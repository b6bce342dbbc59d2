//! Stand-ins for the rooms that the control plane works with: a store, shards and a clock under a test's control.

use super::plane::{Clock, ControlPlane, ControlSignal, Doors, Restored};
use super::resolver::Resolver;
use super::subscribers::Subscribers;
use crate::base::id::{Aor, ShardId};
use crate::base::limits::{CONTROL_MAILBOX_LEN, STORE_MAILBOX_LEN};
use crate::base::mailbox::{Mailbox, Unpark};
use crate::base::time::UnixMillis;
use crate::participating::devices::{Device, RegistrationChange};
use crate::participating::input::{ControlAnswer, ControlMailbox, Input, Shards};
use crate::participating::storage::{Answer, Command, Levels, Reply, ReplyTo, StoreMailbox};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Everything one control plane needs, and the control plane.
pub struct Bench {
    pub plane: Arc<ControlPlane>,
    pub store: FakeStore,
    pub shards: Arc<FakeShards>,
    pub time: Arc<AtomicI64>,
    pub mailbox: Arc<ControlMailbox>,
    pub signal: ControlSignal,
}

/// When tests begin.
pub const START: i64 = 1_000_000_000_000;
/// How long a test waits for what has to come.
pub const DEADLINE: Duration = Duration::from_secs(20);

impl Bench {
    pub fn new() -> Self {
        Self::restored(Restored::default())
    }

    pub fn restored(restored: Restored) -> Self {
        Self::with_resolver(restored, Resolver::default())
    }

    pub fn with_resolver(restored: Restored, resolver: Resolver) -> Self {
        let store = FakeStore::new();
        let shards = Arc::new(FakeShards::default());
        let time = Arc::new(AtomicI64::new(START));
        let clock_time = time.clone();
        let clock: Clock = Arc::new(move || UnixMillis(clock_time.load(Ordering::SeqCst)));
        let doors = Doors {
            subscribers: Arc::new(Subscribers::default()),
            shards: shards.clone(),
            store: store.mailbox.clone(),
            clock,
            resolver: Arc::new(resolver),
        };
        let signal = ControlSignal::default();
        let mailbox = Arc::new(Mailbox::new(CONTROL_MAILBOX_LEN, Box::new(signal.clone())));
        Self { plane: ControlPlane::new(doors, restored), store, shards, time, mailbox, signal }
    }

    /// Runs a test inside the kind of runtime that the control thread has, with the plane's tasks started.
    pub fn run<F: Future>(&self, test: impl FnOnce() -> F) -> F::Output {
        run(async {
            self.plane.start(self.mailbox.clone(), &self.signal);
            tokio::time::timeout(DEADLINE, test()).await.expect("the test ends in time")
        })
    }

    pub fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub fn now(&self) -> UnixMillis {
        UnixMillis(self.time.load(Ordering::SeqCst))
    }

    /// A registration of one device for so many seconds; zero ends it.
    pub fn registration(&self, aor: &str, contact: &str, seconds: i64) -> RegistrationChange {
        let device = device(contact, self.now().plus_seconds(seconds));
        RegistrationChange { user: aor_of(aor), devices: vec![device], replaces_all: false, at: self.now() }
    }
}

pub fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Lets other tasks work until something holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub fn aor_of(text: &str) -> Aor {
    Aor::from_canonical(text)
}

pub fn device(contact: &str, expires: UnixMillis) -> Device {
    Device { instance: None, contact: contact.into(), q_milli: 1000, expires, cpm: true, features: "".into() }
}

/// Shards that remember what they were told.
#[derive(Default)]
pub struct FakeShards {
    full: AtomicBool,
    told: Mutex<Vec<(ShardId, Input)>>,
}

impl FakeShards {
    pub const COUNT: u16 = 2;

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Who was announced as reachable since the last call; the announcement must have gone to the home shard.
    pub fn take_ready(&self) -> Vec<String> {
        let mut ready = Vec::new();
        self.told.lock().unwrap().retain(|(shard, input)| match input {
            Input::SubscriberReady(aor) => {
                assert_eq!(*shard, ShardId::home_of(aor.as_str(), Self::COUNT));
                ready.push(aor.to_string());
                false
            }
            _ => true,
        });
        ready
    }

    /// Answers since the last call, by ticket.
    pub fn take_answers(&self) -> Vec<(u64, ControlAnswer)> {
        let mut answers = Vec::new();
        self.told.lock().unwrap().retain(|(_, input)| match input {
            Input::Control { ticket, answer } => {
                answers.push((ticket.0, answer.clone()));
                false
            }
            _ => true,
        });
        answers
    }

    pub fn answer_count(&self) -> usize {
        self.told.lock().unwrap().iter().filter(|(_, input)| matches!(input, Input::Control { .. })).count()
    }
}

impl Shards for FakeShards {
    fn count(&self) -> u16 {
        Self::COUNT
    }

    fn try_post(&self, to: ShardId, input: Input) -> Result<(), Input> {
        if self.full.load(Ordering::SeqCst) {
            return Err(input);
        }
        self.told.lock().unwrap().push((to, input));
        Ok(())
    }
}

type Script = Box<dyn FnMut(&Command) -> Answer + Send>;

/// A store on a thread of its own that remembers commands and answers as its script says.
pub struct FakeStore {
    pub mailbox: Arc<StoreMailbox>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    script: Mutex<Script>,
    committed: Mutex<Vec<Command>>,
    holds: Mutex<bool>,
    released: Condvar,
    stopped: AtomicBool,
}

impl FakeStore {
    fn new() -> Self {
        let unpark = Unpark::default();
        let mailbox: Arc<StoreMailbox> = Arc::new(Mailbox::new(STORE_MAILBOX_LEN, Box::new(unpark.clone())));
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(obedient)),
            committed: Mutex::default(),
            holds: Mutex::default(),
            released: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let (jobs, work) = (mailbox.clone(), shared.clone());
        let thread = std::thread::spawn(move || {
            unpark.announce();
            while !work.stopped.load(Ordering::SeqCst) {
                let mut holds = work.holds.lock().unwrap();
                while *holds && !work.stopped.load(Ordering::SeqCst) {
                    holds = work.released.wait(holds).unwrap();
                }
                // Taken under the lock: once told to hold, nothing more is taken.
                let job = jobs.take();
                drop(holds);
                if let Some(job) = job {
                    let answer = (work.script.lock().unwrap())(&job.command);
                    work.committed.lock().unwrap().push(job.command);
                    match job.reply {
                        ReplyTo::Call(call) => call(answer),
                        ReplyTo::Shard(..) => panic!("no shard asks here"),
                    }
                } else if jobs.prepare_sleep() {
                    std::thread::park_timeout(Duration::from_millis(50));
                    jobs.awake();
                }
            }
        });
        Self { mailbox, shared, thread: Some(thread) }
    }

    /// Lets commands wait, or go on.
    pub fn hold(&self, holds: bool) {
        *self.shared.holds.lock().unwrap() = holds;
        self.shared.released.notify_all();
    }

    pub fn answer_with(&self, script: impl FnMut(&Command) -> Answer + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    pub fn obey(&self) {
        self.answer_with(obedient);
    }

    /// Commands answered since the last call.
    pub fn take_committed(&self) -> Vec<Command> {
        std::mem::take(&mut self.shared.committed.lock().unwrap())
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.hold(false);
        self.mailbox.nudge();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn obedient(command: &Command) -> Answer {
    Ok(match command {
        Command::Levels => Reply::Levels(Levels::default()),
        Command::PeekDeferred { .. } => Reply::Queue(Vec::new()),
        Command::SweepExpired { .. } => Reply::Swept { count: 0, told: Vec::new() },
        Command::ListObjects { .. } | Command::ReadObject { .. } => Reply::Objects(Vec::new()),
        _ => Reply::Done,
    })
}
