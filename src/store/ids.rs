//! Message ids: one sequence for everything the store numbers, strictly growing over the store's whole life.

use crate::base::id::MessageId;
use crate::base::time::UnixMillis;

/// Gives out ids: the millisecond of acceptance above a counter, and always more than the one before.
///
/// The database remembers a ceiling that no id given out has reached, so that an id is not given twice even if the
/// clock goes back or the rows are gone. A crash costs the ids between the last one given and the ceiling.
#[derive(Debug)]
pub(super) struct Ids {
    last: u64,
    ceiling: u64,
    ceiling_durable: u64,
}

impl Ids {
    /// Continues above everything the database knows.
    pub(super) fn above(highest: u64) -> Self {
        Self { last: highest, ceiling: highest, ceiling_durable: highest }
    }

    /// The next id, for something accepted at `at`.
    pub(super) fn next(&mut self, at: UnixMillis) -> MessageId {
        let millis = u64::try_from(at.0).unwrap_or(0).min(MILLIS_MAX);
        self.last = (self.last + 1).max(millis << COUNTER_BITS);
        assert!(self.last <= ID_MAX, "ids fit SQLite's integers");
        MessageId(self.last)
    }

    /// The ceiling to write with this commit, if the one on disk has been reached.
    pub(super) fn raise(&mut self) -> Option<u64> {
        (self.last > self.ceiling).then(|| {
            self.ceiling = self.last + CEILING_STEP;
            self.ceiling
        })
    }

    /// The same, also when there is no need: a write that shows whether the disk takes any.
    pub(super) fn raise_anyway(&mut self) -> u64 {
        self.ceiling = self.ceiling.max(self.last) + 1;
        self.ceiling
    }

    /// The commit succeeded.
    pub(super) fn committed(&mut self) {
        self.ceiling_durable = self.ceiling;
    }

    /// The commit failed: the ceiling on disk is the old one.
    pub(super) fn undone(&mut self) {
        self.ceiling = self.ceiling_durable;
    }

    /// The last id given out, or what it continued from.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}

/// A thousand ids a millisecond before the sequence runs ahead of the clock; running ahead does no harm.
const COUNTER_BITS: u32 = 20;
/// The year 2109; leaves room above for a sequence that runs ahead.
const MILLIS_MAX: u64 = (1 << 42) - 1;
/// About four seconds of the clock: one more small write in so long a time.
const CEILING_STEP: u64 = 1 << 32;
/// What an INTEGER column holds.
const ID_MAX: u64 = i64::MAX as u64 - CEILING_STEP;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_even_if_the_clock_goes_back() {
        let mut ids = Ids::above(0);
        let first = ids.next(UnixMillis(1_000_000));
        let second = ids.next(UnixMillis(10));
        let third = ids.next(UnixMillis(i64::MIN));
        assert!(first < second && second < third);
    }

    #[test]
    fn an_id_tells_its_millisecond() {
        assert_eq!(Ids::above(0).next(UnixMillis(1_700_000_000_000)).0 >> COUNTER_BITS, 1_700_000_000_000);
    }

    #[test]
    fn a_ceiling_is_written_once_per_step_and_again_after_a_failed_commit() {
        let mut ids = Ids::above(0);
        ids.next(UnixMillis(5));
        let ceiling = ids.raise().expect("the first id is above the old ceiling");
        assert!(ceiling > ids.last());
        ids.undone();
        assert_eq!(ids.raise(), Some(ceiling), "it did not reach the disk");
        ids.committed();
        ids.next(UnixMillis(5));
        assert_eq!(ids.raise(), None);
    }

    #[test]
    fn a_date_out_of_range_leaves_room_for_more_ids() {
        let mut ids = Ids::above(0);
        let far = ids.next(UnixMillis(i64::MAX));
        assert!(ids.next(UnixMillis(0)) > far);
    }
}
