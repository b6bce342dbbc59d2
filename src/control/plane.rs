//! Every change of a subscriber: applied in order, made durable, then published to the shards.
//!
//! A change waits for its turn among those of its subscriber, is worked out against what is published, goes to the
//! store, and is published when the store has committed it. Nothing is published that a crash could take back, and a
//! refused commit leaves everything as it was. Changes of many subscribers are under way at once, so the store commits
//! them together: a registration storm costs one disk flush for hundreds of them.

use super::outbox::Outbox;
use super::registrar::{self, Expiries};
use super::resolver::Resolver;
use super::subscribers::Subscribers;
use super::turns::{Turn, Turns};
use super::xcap::Library;
use crate::base::id::{Aor, ShardId, Ticket};
use crate::base::limits::CONTROL_MAILBOX_LEN;
use crate::base::mailbox::Wake;
use crate::base::time::UnixMillis;
use crate::participating::devices::{Device, RegistrationChange};
use crate::participating::input::{ControlAnswer, ControlCommand, ControlJob, ControlMailbox, Shards};
use crate::participating::preferences::Availability;
use crate::participating::storage::{Answer, Command, Document, Fault, Job, ReplyTo, StoreMailbox};
use crate::participating::subscriber::{Directory, Subscriber};
use foldhash::fast::RandomState;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

/// The wall clock, read by whoever owns the clock.
pub type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// What the store held when the appliance started.
#[derive(Debug, Default)]
pub struct Restored {
    /// Devices of every subscriber who was ever registered; an empty list for those who are not any more.
    pub devices: Vec<(Aor, Vec<Device>)>,
    /// What the admin API said last of a subscriber's availability.
    pub availabilities: Vec<(Aor, Availability)>,
    /// Documents of the XCAP root.
    pub documents: Vec<Document>,
    /// Subscribers whose deferred queue is not empty.
    pub users_with_deferred: Vec<Aor>,
}

/// What the control plane works with.
#[derive(Clone)]
pub struct Doors {
    /// The directory that it writes.
    pub subscribers: Arc<Subscribers>,
    /// The shards that it tells.
    pub shards: Arc<dyn Shards>,
    /// The store that it asks.
    pub store: Arc<StoreMailbox>,
    /// The wall clock.
    pub clock: Clock,
    /// Names to addresses.
    pub resolver: Arc<Resolver>,
}

/// Wakes the control thread when a shard posts a job; to be given to its mailbox.
#[derive(Clone, Default)]
pub struct ControlSignal(pub(super) Arc<Notify>);

impl Wake for ControlSignal {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// The control plane. Its methods run on the control thread, inside a tokio runtime.
pub struct ControlPlane {
    pub(super) doors: Doors,
    turns: Arc<Turns>,
    state: Mutex<State>,
    /// Jobs of shards between being taken and being answered.
    jobs: AtomicUsize,
    job_ended: Notify,
    outbox_filled: Notify,
}

/// What only the control thread knows. The lock is never contended and never held across an await.
pub(super) struct State {
    outbox: Outbox,
    expiries: Expiries,
    pub(super) library: Library,
    /// Subscribers known by a document or the admin API alone: forgotten with the last of these.
    unregistered: HashSet<Aor, RandomState>,
    deferred_at_start: Vec<Aor>,
}

/// Which changes wake a subscriber's deferred messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announce {
    /// Any that leaves the subscriber reachable: somebody registered.
    WhenReachable,
    /// One that makes an unreachable subscriber reachable.
    WhenBecomingReachable,
}

impl ControlPlane {
    /// Takes over what the store held: compiles documents and publishes every subscriber.
    pub fn new(doors: Doors, restored: Restored) -> Arc<Self> {
        let state = State {
            outbox: Outbox::new(doors.shards.clone()),
            expiries: Expiries::default(),
            library: Library::default(),
            unregistered: HashSet::default(),
            deferred_at_start: restored.users_with_deferred,
        };
        let plane = Self {
            doors,
            turns: Arc::default(),
            state: Mutex::new(state),
            jobs: AtomicUsize::new(0),
            job_ended: Notify::new(),
            outbox_filled: Notify::new(),
        };
        for (aor, devices) in restored.devices {
            plane.publish(&aor, None, |subscriber| subscriber.devices = devices.into());
        }
        for (aor, availability) in restored.availabilities {
            plane.meet(&aor);
            plane.publish(&aor, None, |subscriber| subscriber.availability = Some(availability));
        }
        plane.restore_documents(restored.documents);
        info!(subscribers = plane.doors.subscribers.len(), "subscribers restored");
        Arc::new(plane)
    }

    /// Starts everything that runs beside requests: the mailbox of the shards, expiry, and what waits for a shard.
    /// Called once, inside the runtime.
    pub fn start(self: &Arc<Self>, mailbox: Arc<ControlMailbox>, signal: &ControlSignal) {
        self.announce_deferred();
        tokio::spawn(self.clone().take_jobs(mailbox, signal.0.clone()));
        tokio::spawn(self.clone().expire_forever());
        tokio::spawn(self.clone().empty_outbox());
    }

    /// The directory that shards read.
    pub fn subscribers(&self) -> &Arc<Subscribers> {
        &self.doors.subscribers
    }

    /// The wall clock.
    pub fn now(&self) -> UnixMillis {
        (self.doors.clock)()
    }

    /// Subscribers with a registration.
    pub fn registered_count(&self) -> usize {
        self.state().expiries.len()
    }

    /// Words that wait for room in a shard's mailbox.
    pub fn outbox_len(&self) -> usize {
        self.state().outbox.len()
    }

    /// Jobs of shards that have been taken and not answered.
    pub fn job_count(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Applies a registration change and answers when it is durable and published (SPEC §2.1).
    pub async fn register(self: &Arc<Self>, change: RegistrationChange) -> Result<(), Fault> {
        let aor = change.user.clone();
        self.in_turn(&aor, |plane| async move { plane.register_now(change).await }).await?
    }

    /// Sets what the admin API says of a subscriber's availability; `None` leaves it to his document again.
    pub async fn set_availability(
        self: &Arc<Self>,
        aor: &Aor,
        availability: Option<Availability>,
    ) -> Result<(), Fault> {
        let user = aor.clone();
        self.in_turn(aor, move |plane| async move { plane.set_availability_now(&user, availability).await }).await?
    }

    /// Asks the store; a full mailbox is [`Fault::Busy`].
    pub async fn ask_store(&self, command: Command) -> Answer {
        self.post_store(command)?.await.unwrap_or(Err(Fault::Broken))
    }

    /// Posts a command at once, to be awaited later: two commands posted in a row are committed in a row.
    pub fn post_store(&self, command: Command) -> Result<oneshot::Receiver<Answer>, Fault> {
        let (answered, answer) = oneshot::channel();
        let reply = ReplyTo::Call(Box::new(move |answer| {
            let _ = answered.send(answer);
        }));
        self.doors.store.try_post(Job { command, reply }).map_err(|_| Fault::Busy)?;
        Ok(answer)
    }

    /// Runs a change when its turn has come.
    ///
    /// The change is a task of its own: a client that hangs up between commit and publication must not leave the
    /// directory behind the store.
    pub(super) async fn in_turn<F, Fut>(self: &Arc<Self>, aor: &Aor, change: F) -> Result<Fut::Output, Fault>
    where
        F: FnOnce(Arc<Self>) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        let turn = self.turns.enter(aor).ok_or(Fault::Busy)?;
        self.spawn_change(turn, change).await.map_err(|panic| {
            error!(%panic, "a change of a subscriber failed");
            Fault::Broken
        })
    }

    fn spawn_change<F, Fut>(self: &Arc<Self>, mut turn: Turn, change: F) -> JoinHandle<Fut::Output>
    where
        F: FnOnce(Arc<Self>) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        let plane = self.clone();
        tokio::spawn(async move {
            turn.come().await;
            let outcome = change(plane).await;
            drop(turn);
            outcome
        })
    }

    async fn register_now(&self, change: RegistrationChange) -> Result<(), Fault> {
        let aor = &change.user;
        let before = self.doors.subscribers.find(aor.as_str());
        let known = before.is_some() && !self.state().unregistered.contains(aor);
        let before = before.map(|subscriber| subscriber.devices).unwrap_or_default();
        let after = registrar::merge(&before, &change);
        if !known || after[..] != before[..] {
            self.ask_store(Command::PutDevices { user: aor.clone(), devices: after.clone() }).await?;
        }
        let registers = change.devices.iter().any(|device| device.is_registered(change.at));
        self.state().unregistered.remove(aor);
        self.publish(aor, registers.then_some(Announce::WhenReachable), |subscriber| subscriber.devices = after.into());
        debug!(%aor, "registration changed");
        Ok(())
    }

    pub(super) async fn set_availability_now(
        &self,
        aor: &Aor,
        availability: Option<Availability>,
    ) -> Result<(), Fault> {
        if availability.is_none() && !self.doors.subscribers.contains(aor.as_str()) {
            return Ok(());
        }
        self.ask_store(Command::PutAvailability { user: aor.clone(), availability }).await?;
        self.meet(aor);
        self.publish(aor, Some(Announce::WhenBecomingReachable), |subscriber| subscriber.availability = availability);
        self.forget_if_nothing_is_left(aor);
        debug!(%aor, ?availability, "availability set");
        Ok(())
    }

    /// Publishes a change of a subscriber, and tells his home shard where that is due.
    pub(super) fn publish(&self, aor: &Aor, announce: Option<Announce>, change: impl FnOnce(&mut Subscriber)) {
        let now = self.now();
        let mut subscriber = self.doors.subscribers.find(aor.as_str()).unwrap_or_default();
        let expiry_before = registrar::first_expiry(&subscriber.devices);
        let was_reachable = subscriber.is_reachable(now);
        change(&mut subscriber);
        let is_reachable = subscriber.is_reachable(now);

        let mut state = self.state();
        state.expiries.follow(aor, expiry_before, registrar::first_expiry(&subscriber.devices));
        self.doors.subscribers.publish(aor.clone(), subscriber);
        let due = match announce {
            None => false,
            Some(Announce::WhenReachable) => is_reachable,
            Some(Announce::WhenBecomingReachable) => is_reachable && !was_reachable,
        };
        if due && !state.outbox.ready(aor) {
            self.outbox_filled.notify_one();
        }
    }

    /// Notes a subscriber who is about to be known by something other than a registration.
    pub(super) fn meet(&self, aor: &Aor) {
        if !self.doors.subscribers.contains(aor.as_str()) {
            self.state().unregistered.insert(aor.clone());
        }
    }

    /// Forgets a subscriber who was known by a document or the admin API alone and has lost the last of these, as a
    /// restart would.
    pub(super) fn forget_if_nothing_is_left(&self, aor: &Aor) {
        let mut state = self.state();
        let directory = &self.doors.subscribers;
        if state.unregistered.contains(aor)
            && !state.library.has_documents(aor)
            && directory.read(aor.as_str(), |subscriber| subscriber.is_some_and(|s| s.availability.is_none()))
        {
            state.unregistered.remove(aor);
            directory.forget(aor.as_str());
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic in one change must not end all others; every change of the state is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the news of everybody who can be reached and has messages waiting since before the start.
    fn announce_deferred(&self) {
        let now = self.now();
        let mut state = self.state();
        for aor in std::mem::take(&mut state.deferred_at_start) {
            let reachable =
                self.doors.subscribers.read(aor.as_str(), |subscriber| subscriber.is_some_and(|s| s.is_reachable(now)));
            if reachable {
                state.outbox.ready_later(&aor);
            }
        }
        if !state.outbox.is_empty() {
            self.outbox_filled.notify_one();
        }
    }

    /// Takes jobs of shards as long as there is room to work on them; otherwise their mailbox fills, and a full
    /// mailbox is the shards' answer.
    async fn take_jobs(self: Arc<Self>, mailbox: Arc<ControlMailbox>, signal: Arc<Notify>) {
        loop {
            for _ in 0..JOBS_PER_YIELD {
                if self.job_count() >= JOB_COUNT_MAX {
                    break;
                }
                let Some(job) = mailbox.take() else { break };
                self.begin(job);
            }
            if self.job_count() >= JOB_COUNT_MAX {
                self.job_ended.notified().await;
            } else if mailbox.prepare_sleep() {
                signal.notified().await;
                mailbox.awake();
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Begins a job. A registration takes its place in the subscriber's line here, in the order of the mailbox.
    fn begin(self: &Arc<Self>, job: ControlJob) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        let ControlJob { shard, ticket, command } = job;
        let plane = self.clone();
        match command {
            ControlCommand::Register(change) => {
                let Some(turn) = self.turns.enter(&change.user) else {
                    self.answer(shard, ticket, ControlAnswer::NotRegistered(Fault::Busy));
                    return;
                };
                let work = self.spawn_change(turn, |plane| async move { plane.register_now(change).await });
                tokio::spawn(async move {
                    let answer = match work.await {
                        Ok(Ok(())) => ControlAnswer::Registered,
                        Ok(Err(fault)) => ControlAnswer::NotRegistered(fault),
                        Err(panic) => {
                            error!(%panic, "a registration failed");
                            ControlAnswer::NotRegistered(Fault::Broken)
                        }
                    };
                    plane.answer(shard, ticket, answer);
                });
            }
            ControlCommand::Resolve { host, port } => {
                tokio::spawn(async move {
                    let found = plane.doors.resolver.resolve(&host, port, plane.now()).await;
                    plane.answer(shard, ticket, ControlAnswer::Resolved(found));
                });
            }
        }
    }

    fn answer(&self, shard: ShardId, ticket: Ticket, answer: ControlAnswer) {
        if self.state().outbox.answer(shard, ticket, answer) {
            self.end_jobs(1);
        } else {
            self.outbox_filled.notify_one();
        }
    }

    fn end_jobs(&self, count: usize) {
        let before = self.jobs.fetch_sub(count, Ordering::Relaxed);
        debug_assert!(before >= count, "a job ends once");
        if before >= JOB_COUNT_MAX {
            self.job_ended.notify_one();
        }
    }

    /// Repeats what full mailboxes refused, and paces the news of a restart.
    async fn empty_outbox(self: Arc<Self>) {
        loop {
            let (answered, empty) = {
                let mut state = self.state();
                let answered = state.outbox.flush(READY_PER_FLUSH);
                (answered, state.outbox.is_empty())
            };
            if answered > 0 {
                self.end_jobs(answered);
            }
            if empty {
                self.outbox_filled.notified().await;
            } else {
                tokio::time::sleep(FLUSH_PERIOD).await;
            }
        }
    }

    async fn expire_forever(self: Arc<Self>) {
        loop {
            if !self.expire().await {
                tokio::time::sleep(EXPIRY_PERIOD).await;
            }
        }
    }

    /// Removes registrations that have ended; true when there are more to remove at once.
    pub(super) async fn expire(self: &Arc<Self>) -> bool {
        let due = self.state().expiries.due(self.now(), EXPIRIES_AT_ONCE);
        let full = due.len() == EXPIRIES_AT_ONCE;
        let mut work = Vec::with_capacity(due.len());
        for aor in due {
            let Some(turn) = self.turns.enter(&aor) else { continue };
            work.push(self.spawn_change(turn, |plane| async move { plane.expire_now(&aor).await }));
        }
        let mut all_removed = true;
        for change in work {
            if !matches!(change.await, Ok(Ok(()))) {
                all_removed = false;
            }
        }
        if !all_removed {
            warn!("ended registrations could not be removed from the store; they are repeated");
        }
        full && all_removed
    }

    async fn expire_now(&self, aor: &Aor) -> Result<(), Fault> {
        let Some(subscriber) = self.doors.subscribers.find(aor.as_str()) else { return Ok(()) };
        let left = registrar::without_expired(&subscriber.devices, self.now());
        if left.len() == subscriber.devices.len() {
            return Ok(());
        }
        self.ask_store(Command::PutDevices { user: aor.clone(), devices: left.clone() }).await?;
        self.publish(aor, None, |subscriber| subscriber.devices = left.into());
        debug!(%aor, "registration ended");
        Ok(())
    }
}

/// Jobs of shards under way at a time. Below the length of their mailbox, so that a storm is felt there first.
const JOB_COUNT_MAX: usize = CONTROL_MAILBOX_LEN / 2;
/// Jobs taken before other tasks get their turn.
const JOBS_PER_YIELD: usize = 256;
/// News told to one shard per flush: a restart leaves room in the mailbox for traffic.
const READY_PER_FLUSH: usize = 256;
/// Time between flushes while something waits.
const FLUSH_PERIOD: Duration = Duration::from_millis(5);
/// Time between looks for ended registrations. Readers ignore ended ones meanwhile.
const EXPIRY_PERIOD: Duration = Duration::from_secs(1);
/// Ended registrations removed side by side.
const EXPIRIES_AT_ONCE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, START, aor_of, device, run, until};
    use super::*;
    use crate::participating::storage::Reply;
    use std::sync::atomic::AtomicU64;

    const BOB: &str = "sip:bob@home.example";
    const PHONE: &str = "sip:bob@192.0.2.1";
    const TABLET: &str = "sip:bob@192.0.2.2";

    fn contacts(bench: &Bench, aor: &str) -> Vec<String> {
        bench.plane.subscribers().read(aor, |subscriber| {
            subscriber.map(|s| s.devices.iter().map(|device| device.contact.to_string()).collect()).unwrap_or_default()
        })
    }

    fn post(bench: &Bench, ticket: u64, command: ControlCommand) {
        let job = ControlJob { shard: ShardId((ticket % 2) as u16), ticket: Ticket(ticket), command };
        assert!(bench.mailbox.try_post(job).is_ok());
    }

    #[test]
    fn a_registration_is_published_after_its_commit_and_not_before() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.store.hold(true);
            let plane = bench.plane.clone();
            let change = bench.registration(BOB, PHONE, 3600);
            let registering = tokio::spawn(async move { plane.register(change).await });
            until(|| !bench.store.mailbox.is_empty() || bench.plane.turns.len() == 1).await;
            assert!(!bench.plane.subscribers().contains(BOB));
            assert!(bench.shards.take_ready().is_empty());
            bench.store.hold(false);
            assert_eq!(registering.await.unwrap(), Ok(()));
            assert_eq!(contacts(&bench, BOB), [PHONE]);
            assert_eq!(bench.shards.take_ready(), [BOB]);
            let [Command::PutDevices { user, devices }] = &bench.store.take_committed()[..] else { panic!() };
            assert_eq!((user.as_str(), devices.len()), (BOB, 1));
        });
    }

    #[test]
    fn a_refused_commit_changes_nothing() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.plane.register(bench.registration(BOB, PHONE, 3600)).await.unwrap();
            bench.shards.take_ready();
            for fault in [Fault::Broken, Fault::DiskFull] {
                bench.store.answer_with(move |_| Err(fault));
                assert_eq!(bench.plane.register(bench.registration(BOB, TABLET, 3600)).await, Err(fault));
                assert_eq!(
                    bench.plane.set_availability(&aor_of(BOB), Some(Availability::NotAvailable)).await,
                    Err(fault)
                );
                assert_eq!(contacts(&bench, BOB), [PHONE]);
                assert!(bench.shards.take_ready().is_empty());
            }
            bench.store.obey();
            bench.plane.register(bench.registration(BOB, TABLET, 3600)).await.unwrap();
            assert_eq!(contacts(&bench, BOB), [PHONE, TABLET]);
        });
    }

    #[test]
    fn a_full_store_mailbox_is_busy_at_once() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.store.hold(true);
            while let Ok(answer) = bench.plane.post_store(Command::Levels) {
                drop(answer);
            }
            assert_eq!(bench.plane.register(bench.registration(BOB, PHONE, 3600)).await, Err(Fault::Busy));
            bench.store.hold(false);
        });
    }

    #[test]
    fn a_subscriber_is_announced_exactly_when_due() {
        let bench = Bench::new();
        let bob = aor_of(BOB);
        bench.run(|| async {
            let plane = &bench.plane;
            let expect = |what: &str, announced: bool| {
                let expected: &[&str] = if announced { &[BOB] } else { &[] };
                assert_eq!(bench.shards.take_ready(), expected, "{what}");
            };
            plane.register(bench.registration(BOB, PHONE, 3600)).await.unwrap();
            expect("first registration", true);
            plane.register(bench.registration(BOB, PHONE, 7200)).await.unwrap();
            expect("refresh", true);
            plane.register(bench.registration(BOB, TABLET, 3600)).await.unwrap();
            expect("second device", true);
            plane.register(bench.registration(BOB, TABLET, 0)).await.unwrap();
            expect("one of two devices leaves", false);
            plane.set_availability(&bob, Some(Availability::Available)).await.unwrap();
            expect("available as before", false);
            plane.set_availability(&bob, Some(Availability::NotAvailable)).await.unwrap();
            expect("not available any more", false);
            plane.register(bench.registration(BOB, TABLET, 3600)).await.unwrap();
            expect("registers while not available", false);
            plane.set_availability(&bob, Some(Availability::Available)).await.unwrap();
            expect("available again", true);
            plane.set_availability(&bob, Some(Availability::NotAvailable)).await.unwrap();
            plane.set_availability(&bob, None).await.unwrap();
            expect("back to the document's word", true);
            let all = RegistrationChange { user: bob.clone(), devices: vec![], replaces_all: true, at: bench.now() };
            plane.register(all).await.unwrap();
            expect("de-registered", false);
            plane.set_availability(&bob, Some(Availability::Available)).await.unwrap();
            expect("available without a device", false);
            let mut no_cpm = bench.registration(BOB, PHONE, 3600);
            no_cpm.devices[0].cpm = false;
            plane.register(no_cpm).await.unwrap();
            expect("a device without CPM", false);
        });
    }

    #[test]
    fn a_registration_storm_waits_side_by_side() {
        const USERS: u64 = 5_000;
        let bench = Bench::new();
        bench.run(|| async {
            bench.store.hold(true);
            for index in 0..USERS {
                let change = bench.registration(&format!("sip:user{index}@home.example"), PHONE, 3600);
                post(&bench, index, ControlCommand::Register(change));
            }
            // All but the one in the store's hands wait in its mailbox together: one commit can take them all.
            until(|| bench.store.mailbox.len() as u64 >= USERS - 1).await;
            assert_eq!(bench.shards.answer_count(), 0);
            bench.store.hold(false);
            until(|| bench.shards.answer_count() as u64 == USERS).await;
            let answers = bench.shards.take_answers();
            assert!(answers.iter().all(|(_, answer)| matches!(answer, ControlAnswer::Registered)));
            assert_eq!(bench.plane.subscribers().len() as u64, USERS);
            assert_eq!(bench.shards.take_ready().len() as u64, USERS);
            assert_eq!(bench.plane.job_count(), 0);
            assert!(bench.plane.turns.is_empty());
        });
    }

    #[test]
    fn changes_of_one_user_are_applied_in_the_order_of_the_mailbox() {
        let bench = Bench::new();
        bench.run(|| async {
            for index in 0..50 {
                let contact = if index % 2 == 0 { PHONE } else { TABLET };
                let mut change = bench.registration(BOB, contact, 1000 + index);
                change.replaces_all = true;
                post(&bench, index as u64, ControlCommand::Register(change));
            }
            until(|| bench.shards.answer_count() == 50).await;
            let tickets: Vec<u64> = bench.shards.take_answers().iter().map(|(ticket, _)| *ticket).collect();
            assert_eq!(tickets, (0..50).collect::<Vec<_>>());
            let committed: Vec<i64> = bench
                .store
                .take_committed()
                .iter()
                .map(|command| match command {
                    Command::PutDevices { devices, .. } => (devices[0].expires.0 - START) / 1000,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(committed, (1000..1050).collect::<Vec<_>>());
            assert_eq!(contacts(&bench, BOB), [TABLET]);
        });
    }

    #[test]
    fn more_changes_of_one_user_than_may_wait_are_refused() {
        use super::super::turns::WAITING_COUNT_MAX;
        let bench = Bench::new();
        bench.run(|| async {
            bench.store.hold(true);
            let posted = WAITING_COUNT_MAX as u64 + 11;
            for index in 0..posted {
                post(&bench, index, ControlCommand::Register(bench.registration(BOB, PHONE, 1000 + index as i64)));
            }
            until(|| bench.shards.answer_count() == 10).await;
            bench.store.hold(false);
            until(|| bench.shards.answer_count() as u64 == posted).await;
            let answers = bench.shards.take_answers();
            let refused: Vec<u64> = answers
                .iter()
                .filter(|(_, answer)| matches!(answer, ControlAnswer::NotRegistered(Fault::Busy)))
                .map(|(ticket, _)| *ticket)
                .collect();
            assert_eq!(refused, (posted - 10..posted).collect::<Vec<_>>());
        });
    }

    #[test]
    fn what_full_shards_refuse_reaches_them_later() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.shards.set_full(true);
            for index in 0..20 {
                let change = bench.registration(&format!("sip:user{index}@home.example"), PHONE, 3600);
                post(&bench, index, ControlCommand::Register(change));
            }
            until(|| bench.plane.outbox_len() == 40).await;
            assert_eq!(bench.plane.job_count(), 20, "not answered is not ended");
            bench.shards.set_full(false);
            until(|| bench.plane.outbox_len() == 0).await;
            assert_eq!(bench.shards.take_answers().len(), 20);
            assert_eq!(bench.shards.take_ready().len(), 20);
            until(|| bench.plane.job_count() == 0).await;
        });
    }

    #[test]
    fn ended_registrations_leave_the_directory_and_the_store() {
        let bench = Bench::new();
        // Without the plane's own tasks: it is the test that says when registrations are looked through.
        run(async {
            let plane = &bench.plane;
            plane.register(bench.registration(BOB, PHONE, 60)).await.unwrap();
            plane.register(bench.registration(BOB, TABLET, 120)).await.unwrap();
            bench.store.take_committed();
            bench.shards.take_ready();
            plane.expire().await;
            assert!(bench.store.take_committed().is_empty(), "nothing has ended");
            bench.pass(60);
            bench.store.answer_with(|_| Err(Fault::Busy));
            plane.expire().await;
            bench.store.obey();
            assert_eq!(contacts(&bench, BOB), [PHONE, TABLET], "kept until the store agrees");
            plane.expire().await;
            assert_eq!(contacts(&bench, BOB), [TABLET]);
            bench.pass(60);
            plane.expire().await;
            assert!(contacts(&bench, BOB).is_empty());
            assert!(plane.subscribers().contains(BOB), "he is still known");
            assert_eq!(plane.registered_count(), 0);
            assert!(bench.shards.take_ready().is_empty());
            let committed = bench.store.take_committed();
            let Some(Command::PutDevices { devices, .. }) = committed.last() else { panic!("{committed:?}") };
            assert!(devices.is_empty());
        });
    }

    #[test]
    fn a_late_refresh_is_not_undone_by_expiry() {
        let bench = Bench::new();
        bench.run(|| async {
            let plane = &bench.plane;
            plane.register(bench.registration(BOB, PHONE, 60)).await.unwrap();
            bench.pass(61);
            bench.store.hold(true);
            let refresh = bench.registration(BOB, PHONE, 3600);
            post(&bench, 1, ControlCommand::Register(refresh));
            until(|| plane.turns.len() == 1).await;
            let expiring = tokio::spawn({
                let plane = plane.clone();
                async move { plane.expire().await }
            });
            tokio::task::yield_now().await;
            bench.store.hold(false);
            expiring.await.unwrap();
            until(|| bench.shards.answer_count() == 1).await;
            assert_eq!(contacts(&bench, BOB), [PHONE]);
        });
    }

    #[test]
    fn everything_is_as_before_after_a_restart() {
        let later = UnixMillis(START + 1000);
        let user = |index: usize| format!("sip:user{index}@home.example");
        let restored = Restored {
            devices: vec![
                (aor_of(&user(0)), vec![device(PHONE, later)]),
                (aor_of(&user(1)), vec![]),
                (aor_of(&user(2)), vec![device(PHONE, later)]),
                (aor_of(&user(3)), vec![device(PHONE, UnixMillis(START))]),
            ],
            availabilities: vec![
                (aor_of(&user(2)), Availability::NotAvailable),
                (aor_of(&user(4)), Availability::NotAvailable),
            ],
            documents: vec![],
            users_with_deferred: (0..6).map(|index| aor_of(&user(index))).collect(),
        };
        let bench = Bench::restored(restored);
        assert_eq!(bench.plane.subscribers().len(), 5);
        assert_eq!(bench.plane.subscribers().find(&user(4)).unwrap().availability(), Availability::NotAvailable);
        bench.shards.set_full(true);
        bench.run(|| async {
            bench.shards.set_full(false);
            until(|| bench.plane.outbox_len() == 0).await;
            assert_eq!(bench.shards.take_ready(), [user(0)], "only who can be reached");
            // Whoever was known by the admin API alone is forgotten with its word, the others are not.
            bench.plane.set_availability(&aor_of(&user(4)), None).await.unwrap();
            bench.plane.set_availability(&aor_of(&user(2)), None).await.unwrap();
            assert!(!bench.plane.subscribers().contains(&user(4)));
            assert!(bench.plane.subscribers().contains(&user(2)));
            assert_eq!(bench.shards.take_ready(), [user(2)]);
        });
    }

    #[test]
    fn a_restart_with_many_deferred_users_announces_each_once() {
        const USERS: usize = 3_000;
        let users: Vec<Aor> = (0..USERS).map(|index| aor_of(&format!("sip:user{index}@home.example"))).collect();
        let later = UnixMillis(START + 3_600_000);
        let bench = Bench::restored(Restored {
            devices: users.iter().map(|aor| (aor.clone(), vec![device(PHONE, later)])).collect(),
            users_with_deferred: users.clone(),
            ..Restored::default()
        });
        bench.run(|| async {
            until(|| bench.plane.outbox_len() == 0).await;
            let mut ready = bench.shards.take_ready();
            ready.sort();
            let mut expected: Vec<_> = users.iter().map(ToString::to_string).collect();
            expected.sort();
            assert_eq!(ready, expected);
        });
    }

    #[test]
    fn names_are_resolved_for_shards() {
        let resolver =
            Resolver::new(Arc::new(
                |host| {
                    if host == "core.example" { vec!["192.0.2.9".parse().unwrap()] } else { vec![] }
                },
            ));
        let bench = Bench::with_resolver(Restored::default(), resolver);
        bench.run(|| async {
            for (ticket, host) in [(1, "core.example"), (2, "nowhere.example"), (3, "::1")] {
                post(&bench, ticket, ControlCommand::Resolve { host: host.into(), port: 5070 });
            }
            until(|| bench.shards.answer_count() == 3).await;
            let mut answers = bench.shards.take_answers();
            answers.sort_by_key(|(ticket, _)| *ticket);
            let found: Vec<_> = answers
                .into_iter()
                .map(|(_, answer)| match answer {
                    ControlAnswer::Resolved(found) => found,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found[0], ["192.0.2.9:5070".parse().unwrap()]);
            assert_eq!(found[1], []);
            assert_eq!(found[2], ["[::1]:5070".parse().unwrap()]);
        });
    }

    #[test]
    fn a_job_posted_from_another_thread_wakes_the_control_thread() {
        let bench = Bench::new();
        let posted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for index in 0..200 {
                    let change = bench.registration(&format!("sip:user{index}@home.example"), PHONE, 3600);
                    post(&bench, index, ControlCommand::Register(change));
                    posted.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                }
            });
            bench.run(|| until(|| bench.shards.answer_count() == 200));
        });
        assert_eq!(posted.load(Ordering::SeqCst), 200);
    }

    #[test]
    fn a_client_that_hangs_up_does_not_part_directory_and_store() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.store.hold(true);
            let bob = aor_of(BOB);
            let mut change = Box::pin(bench.plane.set_availability(&bob, Some(Availability::NotAvailable)));
            tokio::select! {
                biased;
                _ = &mut change => panic!("the store has not answered"),
                () = until(|| bench.plane.turns.len() == 1) => (),
            }
            drop(change);
            bench.store.hold(false);
            until(|| bench.plane.turns.is_empty()).await;
            assert_eq!(bench.plane.subscribers().find(BOB).unwrap().availability(), Availability::NotAvailable);
        });
    }

    #[test]
    fn a_store_that_is_gone_is_broken() {
        let bench = Bench::new();
        run(async {
            bench.store.answer_with(|_| panic!("the store's thread ends"));
            assert_eq!(bench.plane.ask_store(Command::Levels).await, Err::<Reply, _>(Fault::Broken));
        });
    }
}
