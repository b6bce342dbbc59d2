//! What the store knows without asking the disk: how much each user's deferred queue holds, and row counts.

use crate::base::id::Aor;
use crate::participating::storage::{Levels, Quota, Shelf};
use hashbrown::HashMap;

/// What one user's deferred queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Messages.
    pub(super) count: u64,
    /// Bytes of their requests.
    pub(super) bytes: u64,
}

/// The books, kept in step with the transaction under way: they can be taken back to any [`Mark`] of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    users: HashMap<Aor, Usage, foldhash::fast::RandomState>,
    levels: Levels,
    /// What entries were before this transaction changed them, oldest first.
    undo: Vec<(Aor, Usage)>,
}

/// A point of the transaction under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    undo_len: usize,
    levels: Levels,
}

impl Ledger {
    /// Books a user's queue as the database has it at the start.
    pub(super) fn open_account(&mut self, user: Aor, usage: Usage) {
        debug_assert!(usage.count > 0, "an empty queue has no account");
        self.levels.deferred += usage.count;
        self.levels.deferred_bytes += usage.bytes;
        self.users.insert(user, usage);
    }

    /// Books row counts as the database has them at the start.
    pub(super) fn open_counts(&mut self, messages: u64, history: u64, documents: u64) {
        self.levels.messages = messages;
        self.levels.history = history;
        self.levels.documents = documents;
    }

    /// Row counts.
    pub(super) fn levels(&self) -> Levels {
        self.levels
    }

    /// Users with something in their deferred queue.
    pub(super) fn users(&self) -> impl Iterator<Item = &Aor> {
        self.users.keys()
    }

    /// What a user's queue holds.
    pub(super) fn usage(&self, user: &Aor) -> Usage {
        self.users.get(user).copied().unwrap_or_default()
    }

    /// True if one more message of this size keeps the user within the quota.
    pub(super) fn fits(&self, user: &Aor, len: u64, quota: Quota) -> bool {
        let usage = self.usage(user);
        usage.count < u64::from(quota.count) && usage.bytes.saturating_add(len) <= quota.bytes
    }

    /// Books a message in.
    pub(super) fn deferred(&mut self, user: &Aor, len: u64) {
        let usage = self.usage(user);
        self.set(user, Usage { count: usage.count + 1, bytes: usage.bytes + len });
    }

    /// Books a message out.
    pub(super) fn removed(&mut self, user: &Aor, len: u64) {
        let usage = self.usage(user);
        assert!(usage.count > 0 && usage.bytes >= len, "a message that leaves the queue was booked in");
        self.set(user, Usage { count: usage.count - 1, bytes: usage.bytes - len });
    }

    /// Books an object in.
    pub(super) fn kept(&mut self, shelf: Shelf) {
        *self.shelf(shelf) += 1;
    }

    /// Books an object out.
    pub(super) fn discarded(&mut self, shelf: Shelf) {
        let count = self.shelf(shelf);
        assert!(*count > 0, "an object that leaves was booked in");
        *count -= 1;
    }

    /// Books a new document in.
    pub(super) fn document_created(&mut self) {
        self.levels.documents += 1;
    }

    /// Books a document out.
    pub(super) fn document_removed(&mut self) {
        assert!(self.levels.documents > 0, "a document that leaves was booked in");
        self.levels.documents -= 1;
    }

    /// Where the transaction stands.
    pub(super) fn mark(&self) -> Mark {
        Mark { undo_len: self.undo.len(), levels: self.levels }
    }

    /// Takes back everything since `mark`.
    pub(super) fn undo_to(&mut self, mark: Mark) {
        for (user, usage) in self.undo.drain(mark.undo_len..).rev() {
            put(&mut self.users, user, usage);
        }
        self.levels = mark.levels;
    }

    /// The transaction is durable: nothing of it will be taken back.
    pub(super) fn committed(&mut self) {
        self.undo.clear();
    }

    fn set(&mut self, user: &Aor, usage: Usage) {
        let before = self.usage(user);
        self.undo.push((user.clone(), before));
        self.levels.deferred = self.levels.deferred - before.count + usage.count;
        self.levels.deferred_bytes = self.levels.deferred_bytes - before.bytes + usage.bytes;
        put(&mut self.users, user.clone(), usage);
    }

    fn shelf(&mut self, shelf: Shelf) -> &mut u64 {
        match shelf {
            Shelf::Messages => &mut self.levels.messages,
            Shelf::History => &mut self.levels.history,
        }
    }
}

fn put(users: &mut HashMap<Aor, Usage, foldhash::fast::RandomState>, user: Aor, usage: Usage) {
    if usage.count == 0 {
        debug_assert_eq!(usage.bytes, 0, "no messages, no bytes");
        users.remove(&user);
    } else {
        users.insert(user, usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_transaction_booked_is_taken_back() {
        let (bob, ann) = (Aor::from_canonical("sip:bob@home.example"), Aor::from_canonical("sip:ann@home.example"));
        let mut ledger = Ledger::default();
        ledger.open_account(bob.clone(), Usage { count: 2, bytes: 30 });
        let start = ledger.mark();
        ledger.removed(&bob, 10);
        ledger.deferred(&ann, 7);
        ledger.kept(Shelf::History);
        let middle = ledger.mark();
        ledger.removed(&bob, 20);
        assert_eq!(ledger.users().collect::<Vec<_>>(), [&ann], "an empty queue has no account");
        ledger.undo_to(middle);
        assert_eq!(ledger.usage(&bob), Usage { count: 1, bytes: 20 });
        assert_eq!(ledger.usage(&ann), Usage { count: 1, bytes: 7 });
        ledger.undo_to(start);
        assert_eq!(ledger.usage(&bob), Usage { count: 2, bytes: 30 });
        assert_eq!(ledger.users().count(), 1);
        assert_eq!(ledger.levels(), Levels { deferred: 2, deferred_bytes: 30, ..Levels::default() });
    }

    #[test]
    fn a_quota_bounds_messages_and_bytes() {
        let bob = Aor::from_canonical("sip:bob@home.example");
        let mut ledger = Ledger::default();
        let quota = Quota { count: 2, bytes: 10 };
        assert!(ledger.fits(&bob, 10, quota));
        assert!(!ledger.fits(&bob, 11, quota));
        ledger.deferred(&bob, 3);
        assert!(ledger.fits(&bob, 7, quota));
        ledger.deferred(&bob, 3);
        assert!(!ledger.fits(&bob, 1, quota));
    }
}
