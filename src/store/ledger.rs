//! What the store knows without asking the disk: who has what in the deferred queue, and row counts.

use crate::base::id::{Aor, MessageId};
use crate::participating::storage::{Levels, Quota, Shelf};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// The books, kept in step with the transaction under way: they can be taken back to any [`Mark`] of it.
///
/// A few words for a message whose row takes fifty times that: the disk is full long before the memory.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    queues: HashMap<Aor, Queue, foldhash::fast::RandomState>,
    levels: Levels,
    /// What this transaction did to the queues, oldest first.
    changes: Vec<Change>,
}

/// A point of the transaction under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    change_count: usize,
    levels: Levels,
}

/// One user's deferred queue, never empty.
#[derive(Debug, Default)]
struct Queue {
    /// In order of id, which is the order of acceptance.
    entries: VecDeque<Entry>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: MessageId,
    size: Size,
}

/// What a deferred message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes of the request, and of the content if there is one.
    pub(super) len: u64,
    /// It has a file in the content store.
    pub(super) has_content: bool,
}

#[derive(Debug)]
enum Change {
    Added(Aor, Entry),
    Removed(Aor, Entry),
}

impl Ledger {
    /// Books row counts as the database has them at the start.
    pub(super) fn open_counts(&mut self, messages: u64, history: u64, documents: u64) {
        self.levels.messages = messages;
        self.levels.history = history;
        self.levels.documents = documents;
    }

    /// Books a message as the database has it at the start.
    pub(super) fn open_deferred(&mut self, user: &str, id: MessageId, size: Size) {
        let (_, queue) =
            self.queues.raw_entry_mut().from_key(user).or_insert_with(|| (Aor::from_canonical(user), Queue::default()));
        queue.insert(Entry { id, size });
        self.count_in(size);
    }

    /// Row counts.
    pub(super) fn levels(&self) -> Levels {
        self.levels
    }

    /// Users with something in their deferred queue.
    pub(super) fn users(&self) -> impl Iterator<Item = &Aor> {
        self.queues.keys()
    }

    /// A user's messages, oldest first.
    pub(super) fn queue(&self, user: &Aor) -> impl Iterator<Item = MessageId> {
        self.queues.get(user).into_iter().flat_map(|queue| queue.entries.iter().map(|entry| entry.id))
    }

    /// True if this message waits for this user.
    pub(super) fn has(&self, user: &Aor, id: MessageId) -> bool {
        self.queues.get(user).is_some_and(|queue| queue.index(id).is_ok())
    }

    /// True if this message waits for this user and has a file in the content store.
    pub(super) fn has_content(&self, user: &Aor, id: MessageId) -> bool {
        let queue = self.queues.get(user);
        queue.is_some_and(|queue| queue.index(id).is_ok_and(|index| queue.entries[index].size.has_content))
    }

    /// True if one more message of this size keeps the user within the quota.
    pub(super) fn fits(&self, user: &Aor, len: u64, quota: Quota) -> bool {
        let (count, bytes) = self.queues.get(user).map_or((0, 0), |queue| (queue.entries.len(), queue.bytes));
        count < quota.count as usize && bytes.saturating_add(len) <= quota.bytes
    }

    /// Books a message in.
    pub(super) fn deferred(&mut self, user: &Aor, id: MessageId, size: Size) {
        let entry = Entry { id, size };
        self.add(user, entry);
        self.count_in(size);
        self.changes.push(Change::Added(user.clone(), entry));
    }

    /// Books a message out, if it is in.
    pub(super) fn removed(&mut self, user: &Aor, id: MessageId) {
        if let Some(entry) = self.take(user, id) {
            self.levels.deferred -= 1;
            self.levels.deferred_bytes -= entry.size.len;
            self.changes.push(Change::Removed(user.clone(), entry));
        }
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
        Mark { change_count: self.changes.len(), levels: self.levels }
    }

    /// Takes back everything since `mark`.
    pub(super) fn undo_to(&mut self, mark: Mark) {
        while self.changes.len() > mark.change_count {
            match self.changes.pop().expect("there are more than none") {
                Change::Added(user, entry) => {
                    let taken = self.take(&user, entry.id);
                    debug_assert!(taken.is_some(), "what was added is there");
                }
                Change::Removed(user, entry) => self.add(&user, entry),
            }
        }
        self.levels = mark.levels;
    }

    /// The transaction is durable: nothing of it will be taken back.
    pub(super) fn committed(&mut self) {
        self.changes.clear();
        debug_assert_eq!(self.levels.deferred == 0, self.queues.is_empty(), "the books agree");
    }

    fn add(&mut self, user: &Aor, entry: Entry) {
        match self.queues.get_mut(user) {
            Some(queue) => queue.insert(entry),
            None => {
                let mut queue = Queue::default();
                queue.insert(entry);
                self.queues.insert(user.clone(), queue);
            }
        }
    }

    fn take(&mut self, user: &Aor, id: MessageId) -> Option<Entry> {
        let queue = self.queues.get_mut(user)?;
        let entry = queue.index(id).ok().and_then(|index| queue.entries.remove(index))?;
        queue.bytes -= entry.size.len;
        if queue.entries.is_empty() {
            debug_assert_eq!(queue.bytes, 0, "no messages, no bytes");
            self.queues.remove(user);
        }
        Some(entry)
    }

    fn count_in(&mut self, size: Size) {
        self.levels.deferred += 1;
        self.levels.deferred_bytes += size.len;
    }

    fn shelf(&mut self, shelf: Shelf) -> &mut u64 {
        match shelf {
            Shelf::Messages => &mut self.levels.messages,
            Shelf::History => &mut self.levels.history,
        }
    }
}

impl Queue {
    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.size.len;
        match self.index(entry.id) {
            Ok(_) => debug_assert!(false, "an id is given once"),
            Err(index) => self.entries.insert(index, entry),
        }
    }

    fn index(&self, id: MessageId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(len: u64) -> Size {
        Size { len, has_content: false }
    }

    fn ids(ledger: &Ledger, user: &Aor) -> Vec<u64> {
        ledger.queue(user).map(|id| id.0).collect()
    }

    #[test]
    fn what_a_failed_transaction_booked_is_taken_back() {
        let (bob, ann) = (Aor::from_canonical("sip:bob@home.example"), Aor::from_canonical("sip:ann@home.example"));
        let mut ledger = Ledger::default();
        ledger.open_deferred(bob.as_str(), MessageId(1), size(10));
        ledger.open_deferred(bob.as_str(), MessageId(2), size(20));
        let start = ledger.mark();
        ledger.removed(&bob, MessageId(1));
        ledger.deferred(&ann, MessageId(3), size(7));
        ledger.kept(Shelf::History);
        let middle = ledger.mark();
        ledger.removed(&bob, MessageId(2));
        assert_eq!(ledger.users().collect::<Vec<_>>(), [&ann], "an empty queue is none");
        ledger.undo_to(middle);
        assert_eq!((ids(&ledger, &bob), ids(&ledger, &ann)), (vec![2], vec![3]));
        ledger.undo_to(start);
        assert_eq!((ids(&ledger, &bob), ids(&ledger, &ann)), (vec![1, 2], vec![]));
        assert_eq!(ledger.levels(), Levels { deferred: 2, deferred_bytes: 30, ..Levels::default() });
        assert!(ledger.fits(&bob, 70, Quota { count: 3, bytes: 100 }));
        assert!(!ledger.fits(&bob, 71, Quota { count: 3, bytes: 100 }));
    }

    #[test]
    fn a_quota_bounds_messages_and_bytes() {
        let bob = Aor::from_canonical("sip:bob@home.example");
        let mut ledger = Ledger::default();
        let quota = Quota { count: 2, bytes: 10 };
        assert!(ledger.fits(&bob, 10, quota));
        assert!(!ledger.fits(&bob, 11, quota));
        ledger.deferred(&bob, MessageId(1), size(3));
        assert!(ledger.fits(&bob, 7, quota));
        ledger.deferred(&bob, MessageId(2), size(3));
        assert!(!ledger.fits(&bob, 1, quota));
    }
}
