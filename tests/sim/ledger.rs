//! What happened to every message, and what must hold.

use ringpost::base::id::MessageId;
use ringpost::base::time::UnixMillis;
use std::collections::{BTreeSet, HashMap};

/// One message as the ledger knows it.
#[derive(Debug, Default)]
pub struct Entry {
    pub user: usize,
    /// When it expires, if it says so.
    pub expires: Option<UnixMillis>,
    /// Committed deferrals.
    pub deferred: Vec<MessageId>,
    /// Committed objects in the message store.
    pub stored: u32,
    /// Branches on which a device took it.
    pub taken: u32,
    /// Of these, branches of deferred delivery.
    pub taken_deferred: u32,
    /// A device refused it for good.
    pub refused: bool,
    /// The device stayed silent or was late, or an answer of it got lost: what it did may not be known.
    pub uncertain: bool,
    /// A crash came between sending and the end.
    pub crashed: bool,
    /// Distinct final responses since the last crash.
    pub finals: BTreeSet<String>,
    /// Status of the final response that its sender saw.
    pub answer: Option<u16>,
    /// Some copy of the request reached the appliance.
    pub arrived: bool,
    /// Devices it may be forked to.
    pub forks: u32,
}

/// All messages.
#[derive(Debug, Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
    /// The deferral that each user's device saw last for the first time.
    first_seen: HashMap<usize, MessageId>,
    seen: BTreeSet<usize>,
}

/// What a whole run saw, so that a test that tests nothing is noticed.
#[derive(Debug, Default)]
pub struct Totals {
    pub messages: u64,
    pub delivered: u64,
    pub deferred: u64,
    pub stored: u64,
    pub refused: u64,
    pub expired: u64,
    pub unanswered: u64,
    pub crashes: u64,
    pub steps: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.delivered += other.delivered;
        self.deferred += other.deferred;
        self.stored += other.stored;
        self.refused += other.refused;
        self.expired += other.expired;
        self.unanswered += other.unanswered;
        self.crashes += other.crashes;
        self.steps += other.steps;
    }
}

impl Totals {
    pub fn check_variety(&self, name: &str) {
        for (what, count) in [
            ("delivered", self.delivered),
            ("deferred", self.deferred),
            ("stored", self.stored),
            ("refused", self.refused),
        ] {
            assert!(count > self.messages / 100, "{name}: hardly any message was {what}: {self:?}");
        }
    }
}

impl Ledger {
    /// A deferral is committed.
    pub fn on_deferred(&mut self, number: usize, id: MessageId) {
        let entry = &mut self.entries[number];
        entry.deferred.push(id);
        assert!(entry.deferred.len() == 1 || entry.crashed, "message {number} is deferred twice: {entry:?}");
    }

    /// A final response is on its way to the sender.
    pub fn on_final(&mut self, number: usize, status: u16, bytes: &[u8], now: UnixMillis) {
        let entry = &mut self.entries[number];
        entry.finals.insert(String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(entry.finals.len(), 1, "message {number} gets two final responses: {entry:?}");
        if status < 300 {
            let expired = entry.expires.is_some_and(|at| now.0 > at.0);
            let reason = !entry.deferred.is_empty() || entry.stored > 0 || entry.taken > 0 || expired;
            assert!(reason, "message {number} is answered {status} for no reason: {entry:?}");
        }
        if status == 202 && entry.taken == 0 && entry.expires.is_none_or(|at| now.0 <= at.0) {
            assert!(!entry.deferred.is_empty(), "message {number}: 202 before the commit: {entry:?}");
        }
    }

    /// A device sees a deferred message.
    pub fn on_deferred_arrival(&mut self, number: usize) {
        if !self.seen.insert(number) {
            return;
        }
        let entry = &self.entries[number];
        let id = *entry.deferred.first().expect("only what was deferred is delivered later");
        if let Some(before) = self.first_seen.insert(entry.user, id) {
            assert!(before < id, "message {number} overtakes an earlier one of its user");
        }
    }

    /// A message leaves the queue.
    pub fn on_removed(&mut self, number: usize, expires: UnixMillis, now: UnixMillis) {
        let entry = &self.entries[number];
        let reason = entry.taken_deferred > 0 || entry.refused || expires <= now;
        assert!(reason, "message {number} leaves the queue for no reason: {entry:?}");
    }

    /// Everything in memory is gone.
    pub fn on_crash(&mut self) {
        for entry in &mut self.entries {
            entry.crashed = true;
            entry.finals.clear();
        }
    }

    /// The world is at rest.
    pub fn check_end(&self) {
        for (number, entry) in self.entries.iter().enumerate() {
            let many = entry.taken > entry.forks.max(1) && !entry.crashed && !entry.uncertain;
            assert!(!many, "message {number} was delivered more than once: {entry:?}");
            if entry.arrived && !entry.crashed && !entry.uncertain {
                assert_eq!(entry.finals.len(), 1, "message {number} was never answered: {entry:?}");
            }
            if entry.answer == Some(200) {
                assert!(entry.stored > 0 || entry.taken > 0, "message {number}: 200 for nothing: {entry:?}");
            }
        }
    }
}
