//! Deadlines to handles: a hierarchical timing wheel.
//!
//! Four levels of 256 slots, the finest one tick wide, reach 49 days; what lies beyond waits in one list and is placed
//! when its time comes near. A deadline is rounded up to the next tick, so an item never comes out early and at most
//! one tick late, and all deadlines of one tick share one wake-up.
//!
//! There is no cancelling: an item is a generational handle, and its owner checks whether what it names still waits for
//! this deadline. The owner's own tables bound how many items there are.

use super::time::Instant;
use std::time::Duration;

/// The resolution.
pub const TICK: Duration = Duration::from_millis(1);

/// Deadlines, each with a handle to what waits for it.
///
/// An item is moved at most once per level on its way to the finest one. A slot is a chain of fixed-size blocks out of
/// one recycled pool, so memory follows the number of items and not the history of every slot.
#[derive(Debug)]
pub struct TimerWheel<T> {
    /// The tick up to which everything due has come out; the slot of this tick may still hold items.
    current: u64,
    slots: Box<[Slot]>,
    /// Slots that hold items, one bit each.
    occupied: [[u64; SLOT_COUNT / 64]; LEVEL_COUNT],
    /// What lies beyond the coarsest level.
    far: Slot,
    blocks: Vec<Block<T>>,
    /// First block of the chain of unused blocks.
    free: u32,
    len: usize,
}

/// A chain of blocks.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The block that takes the next item; the rest of the chain is full.
    head: u32,
    /// The earliest tick in the chain.
    earliest: u64,
}

#[derive(Debug)]
struct Block<T> {
    entries: Vec<Entry<T>>,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    tick: u64,
    item: T,
}

/// Where an item belongs.
#[derive(Clone, Copy)]
enum Place {
    Slot { level: usize, index: usize },
    Far,
}

impl<T: Copy> TimerWheel<T> {
    /// An empty wheel that starts turning at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            current: tick_at(now),
            slots: vec![Slot::EMPTY; LEVEL_COUNT * SLOT_COUNT].into_boxed_slice(),
            occupied: [[0; SLOT_COUNT / 64]; LEVEL_COUNT],
            far: Slot::EMPTY,
            blocks: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// Adds a deadline; one that has passed is due at once.
    pub fn insert(&mut self, deadline: Instant, item: T) {
        self.len += 1;
        self.place(Entry { tick: tick_of(deadline).max(self.current), item });
        debug_assert!(self.next_deadline().is_some(), "an item that was put in has a deadline");
    }

    /// Takes an item whose deadline has come. Items of one tick come out in no particular order.
    ///
    /// Called until it answers `None`; after that [`Self::next_deadline`] is later than `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let target = tick_at(now);
        loop {
            if self.current > target {
                return None; // The clock's reader went back within a turn: nothing new can be due.
            }
            if let Some(item) = self.pop_current() {
                return Some(item);
            }
            if !self.advance(target) {
                return None;
            }
        }
    }

    /// The earliest moment at which an item comes out: its deadline, rounded up to the tick.
    ///
    /// Waking then and not before is enough; the answer is exact and costs the same however many items there are.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let earliest = match self.first_occupied() {
            Some((level, index)) => self.slots[level * SLOT_COUNT + index].earliest,
            None => self.far.earliest,
        };
        Some(Instant(earliest.saturating_mul(TICK_NANOS)))
    }

    /// Items waiting.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True when nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes an item out of the slot of the current tick.
    fn pop_current(&mut self) -> Option<T> {
        let index = (self.current % SLOT_COUNT as u64) as usize;
        let head = self.slots[index].head;
        if head == NONE {
            return None;
        }
        let block = &mut self.blocks[head as usize];
        let entry = block.entries.pop().expect("a block in a chain holds at least one entry");
        debug_assert_eq!(entry.tick, self.current);
        if block.entries.is_empty() {
            let next = block.next;
            self.recycle(head);
            self.slots[index].head = next;
            if next == NONE {
                self.slots[index] = Slot::EMPTY;
                self.occupied[0][index / 64] &= !(1 << (index % 64));
            }
        }
        self.len -= 1;
        Some(entry.item)
    }

    /// Turns towards `target`, as far as the next slot that holds something. False when there is nothing up to there.
    fn advance(&mut self, target: u64) -> bool {
        debug_assert!(self.current <= target);
        let Some((level, index)) = self.first_occupied() else {
            let window = WINDOW_TICKS * (self.current / WINDOW_TICKS + 1);
            if self.far.head == NONE || window > target {
                self.current = target;
                return false;
            }
            let far = std::mem::replace(&mut self.far, Slot::EMPTY);
            self.current = far.earliest.min(target);
            self.spread(far.head);
            return true;
        };
        let width = 8 * level as u32;
        // All slots of a level lie ahead of the current one: they share its higher digits.
        let start = ((self.current >> width) / SLOT_COUNT as u64 * SLOT_COUNT as u64 + index as u64) << width;
        if start > target {
            self.current = target;
            return false;
        }
        debug_assert!(start > self.current, "the slot of the current tick is empty");
        if level == 0 {
            self.current = start;
            return true;
        }
        let position = level * SLOT_COUNT + index;
        let slot = std::mem::replace(&mut self.slots[position], Slot::EMPTY);
        self.occupied[level][index / 64] &= !(1 << (index % 64));
        self.current = slot.earliest.min(target);
        self.spread(slot.head);
        true
    }

    /// Places every entry of a chain anew, nearer to the finest level.
    fn spread(&mut self, mut head: u32) {
        while head != NONE {
            let block = &mut self.blocks[head as usize];
            let next = block.next;
            let mut entries = std::mem::take(&mut block.entries);
            for entry in entries.drain(..) {
                self.place(entry);
            }
            self.blocks[head as usize].entries = entries;
            self.recycle(head);
            head = next;
        }
    }

    fn place(&mut self, entry: Entry<T>) {
        debug_assert!(entry.tick >= self.current);
        let place = self.place_of(entry.tick);
        let slot = match place {
            Place::Slot { level, index } => {
                self.occupied[level][index / 64] |= 1 << (index % 64);
                &mut self.slots[level * SLOT_COUNT + index]
            }
            Place::Far => &mut self.far,
        };
        slot.earliest = slot.earliest.min(entry.tick);
        let head = slot.head;
        if head != NONE {
            let entries = &mut self.blocks[head as usize].entries;
            if entries.len() < BLOCK_LEN {
                entries.push(entry);
                return;
            }
        }
        let fresh = self.take_block(head);
        self.blocks[fresh as usize].entries.push(entry);
        match place {
            Place::Slot { level, index } => self.slots[level * SLOT_COUNT + index].head = fresh,
            Place::Far => self.far.head = fresh,
        }
    }

    /// The level is the highest base-256 digit in which the tick differs from the current one.
    const fn place_of(&self, tick: u64) -> Place {
        let different = tick ^ self.current;
        if different >= WINDOW_TICKS {
            return Place::Far;
        }
        let level = ((63 - (different | 1).leading_zeros()) / 8) as usize;
        Place::Slot { level, index: ((tick >> (8 * level)) % SLOT_COUNT as u64) as usize }
    }

    /// The first slot of the finest level that holds anything: nothing is due before it.
    fn first_occupied(&self) -> Option<(usize, usize)> {
        self.occupied.iter().enumerate().find_map(|(level, words)| {
            let (word, bits) = words.iter().enumerate().find(|(_, bits)| **bits != 0)?;
            Some((level, word * 64 + bits.trailing_zeros() as usize))
        })
    }

    /// An empty block in front of `next`.
    fn take_block(&mut self, next: u32) -> u32 {
        if self.free == NONE {
            let index = u32::try_from(self.blocks.len()).expect("four thousand million blocks do not fit in memory");
            self.blocks.push(Block { entries: Vec::with_capacity(BLOCK_LEN), next });
            return index;
        }
        let index = self.free;
        let block = &mut self.blocks[index as usize];
        debug_assert!(block.entries.is_empty());
        self.free = block.next;
        block.next = next;
        index
    }

    fn recycle(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        debug_assert!(block.entries.is_empty());
        block.next = self.free;
        self.free = index;
    }
}

impl Slot {
    const EMPTY: Self = Self { head: NONE, earliest: u64::MAX };
}

/// The last tick that has begun at `now`.
const fn tick_at(now: Instant) -> u64 {
    now.0 / TICK_NANOS
}

/// The first tick that is not before `deadline`.
const fn tick_of(deadline: Instant) -> u64 {
    deadline.0.div_ceil(TICK_NANOS)
}

const TICK_NANOS: u64 = TICK.as_nanos() as u64;
const LEVEL_COUNT: usize = 4;
const SLOT_COUNT: usize = 256;
/// Ticks that the levels cover together: 49 days.
const WINDOW_TICKS: u64 = 1 << (8 * LEVEL_COUNT);
/// Entries of a block: with 16-byte entries half a kilobyte.
const BLOCK_LEN: usize = 32;
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn due(wheel: &mut TimerWheel<u32>, now: Instant) -> Vec<u32> {
        let mut items: Vec<u32> = std::iter::from_fn(|| wheel.pop_due(now)).collect();
        items.sort_unstable();
        items
    }

    #[test]
    fn an_item_comes_out_at_its_deadline_and_not_before() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        wheel.insert(Instant::ZERO + Duration::from_millis(500), 7);
        assert_eq!(wheel.next_deadline(), Some(Instant(500_000_000)));
        assert_eq!(wheel.pop_due(Instant(499_999_999)), None);
        assert_eq!(wheel.pop_due(Instant(500_000_000)), Some(7));
        assert_eq!((wheel.pop_due(Instant(500_000_000)), wheel.next_deadline()), (None, None));
    }

    #[test]
    fn a_deadline_between_two_ticks_waits_for_the_later_one() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        wheel.insert(Instant(1_000_001), 1);
        assert_eq!(wheel.pop_due(Instant(1_999_999)), None);
        assert_eq!(wheel.next_deadline(), Some(Instant(2_000_000)));
        assert_eq!(wheel.pop_due(Instant(2_000_000)), Some(1));
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_once() {
        let mut wheel = TimerWheel::new(Instant(7_500_000_000));
        wheel.insert(Instant(3), 1);
        assert!(wheel.next_deadline() <= Some(Instant(7_500_000_000)));
        assert_eq!(wheel.pop_due(Instant(7_500_000_000)), Some(1));
    }

    #[test]
    fn a_clock_that_steps_back_fires_nothing_and_loses_nothing() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        wheel.insert(Instant(30_000_000), 1);
        assert_eq!(wheel.pop_due(Instant(20_000_000)), None);
        assert_eq!(wheel.pop_due(Instant(10_000_000)), None);
        assert_eq!(wheel.pop_due(Instant(30_000_000)), Some(1));
    }

    #[test]
    fn months_and_the_end_of_time_are_deadlines_too() {
        let mut wheel = TimerWheel::new(Instant(5));
        let in_months = Instant(5) + 100 * DAY;
        wheel.insert(in_months, 1);
        wheel.insert(Instant(u64::MAX), 2);
        wheel.insert(Instant(5) + 60 * DAY, 3);
        assert_eq!(due(&mut wheel, Instant(5) + 59 * DAY), Vec::<u32>::new());
        assert_eq!(due(&mut wheel, Instant(5) + 61 * DAY), [3]);
        assert!(wheel.next_deadline().is_some_and(|next| next.since(in_months) < TICK));
        assert_eq!(due(&mut wheel, in_months + TICK), [1]);
        assert_eq!(wheel.len(), 1);
        assert!(wheel.next_deadline() > Some(in_months + TICK));
    }

    #[test]
    fn one_long_silence_is_followed_by_everything_that_came_due() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        for n in 0..5_000u32 {
            wheel.insert(Instant::ZERO + Duration::from_millis(u64::from(n) * 977), n);
        }
        assert_eq!(due(&mut wheel, Instant::ZERO + DAY), (0..5_000).collect::<Vec<_>>());
        assert!(wheel.is_empty());
    }

    #[test]
    fn blocks_are_used_again_and_do_not_pile_up() {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        for round in 0..1_000u64 {
            let now = Instant(round * 1_000_000);
            while wheel.pop_due(now).is_some() {}
            for n in 0..100 {
                wheel.insert(now + Duration::from_millis(700), n);
            }
        }
        assert_eq!(wheel.len(), 70_000);
        // Full blocks, plus one that is not full for each slot.
        assert!(wheel.blocks.len() < 70_000 / BLOCK_LEN + LEVEL_COUNT * SLOT_COUNT, "{} blocks", wheel.blocks.len());
    }

    /// What a run of operations does.
    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Turn(u64),
    }

    fn spans() -> impl Strategy<Value = u64> {
        // Nanoseconds, evenly over the orders of magnitude up to five months.
        (0u32..54, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1))
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_a_sorted_map(
            start in spans(),
            steps in prop::collection::vec(
                prop_oneof![3 => spans().prop_map(Step::Insert), 1 => spans().prop_map(Step::Turn)], 1..200),
        ) {
            let mut now = Instant(start);
            let mut wheel = TimerWheel::new(now);
            let mut model: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(ahead) => {
                        let deadline = now + Duration::from_nanos(ahead);
                        wheel.insert(deadline, n as u32);
                        model.entry(deadline.0.div_ceil(TICK_NANOS)).or_default().push(n as u32);
                    }
                    Step::Turn(ahead) => {
                        now = now + Duration::from_nanos(ahead);
                        let later = model.split_off(&(now.0 / TICK_NANOS + 1));
                        let mut expected: Vec<u32> = std::mem::replace(&mut model, later).into_values().flatten().collect();
                        expected.sort_unstable();
                        prop_assert_eq!(due(&mut wheel, now), expected);
                        prop_assert!(wheel.next_deadline().is_none_or(|next| next > now));
                    }
                }
                let first = model.keys().next().map(|tick| Instant(tick * TICK_NANOS));
                let next = wheel.next_deadline();
                prop_assert_eq!(next, first);
                prop_assert_eq!(wheel.len(), model.values().map(Vec::len).sum::<usize>());
            }
        }
    }
}
