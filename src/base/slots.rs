//! A bounded slot table with generational handles: a late answer to something that is gone finds nothing.

/// Generations wrap here, so that a handle packs into a [`super::id::Ticket`].
const GENERATION_MASK: u32 = (1 << 28) - 1;

/// Names one entry of one [`Slots`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// The slot.
    pub slot: u32,
    /// Times the slot was given out before, modulo 2^28.
    pub generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// The table. It grows by pieces that stay where they are: moving a large table would stop its shard for a while.
#[derive(Debug)]
pub struct Slots<T> {
    pieces: Vec<Vec<Entry<T>>>,
    slot_count: usize,
    free: Vec<u32>,
    count_max: usize,
}

/// Entries of one piece.
const PIECE_LEN: usize = 1024;

impl<T> Slots<T> {
    /// A table for at most `count_max` entries.
    pub fn new(count_max: usize) -> Self {
        assert!(count_max > 0 && count_max <= u32::MAX as usize, "a slot index has 32 bits");
        Self { pieces: Vec::new(), slot_count: 0, free: Vec::new(), count_max }
    }

    /// Puts a value in; `None` when the table is full.
    pub fn insert(&mut self, value: T) -> Option<SlotId> {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.pieces[slot as usize / PIECE_LEN][slot as usize % PIECE_LEN];
            debug_assert!(entry.value.is_none(), "a free slot holds nothing");
            entry.value = Some(value);
            return Some(SlotId { slot, generation: entry.generation });
        }
        if self.slot_count == self.count_max {
            return None;
        }
        let slot = self.slot_count as u32;
        if self.slot_count.is_multiple_of(PIECE_LEN) {
            self.pieces.push(Vec::with_capacity(PIECE_LEN));
        }
        self.pieces[self.slot_count / PIECE_LEN].push(Entry { generation: 0, value: Some(value) });
        self.slot_count += 1;
        Some(SlotId { slot, generation: 0 })
    }

    fn entry(&self, slot: u32) -> Option<&Entry<T>> {
        self.pieces.get(slot as usize / PIECE_LEN)?.get(slot as usize % PIECE_LEN)
    }

    fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        self.pieces.get_mut(slot as usize / PIECE_LEN)?.get_mut(slot as usize % PIECE_LEN)
    }

    /// The value, if it is still there.
    pub fn get(&self, id: SlotId) -> Option<&T> {
        self.entry(id.slot).filter(|entry| entry.generation == id.generation)?.value.as_ref()
    }

    /// The value, to change.
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        self.entry_mut(id.slot).filter(|entry| entry.generation == id.generation)?.value.as_mut()
    }

    /// The entry of a slot, whatever its generation.
    pub fn at(&self, slot: u32) -> Option<(SlotId, &T)> {
        let entry = self.entry(slot)?;
        entry.value.as_ref().map(|value| (SlotId { slot, generation: entry.generation }, value))
    }

    /// Takes a value out.
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let entry = self.entry_mut(id.slot).filter(|entry| entry.generation == id.generation)?;
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(id.slot);
        Some(value)
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten().filter_map(|entry| entry.value.as_ref())
    }

    /// The handle of every entry.
    pub fn ids(&self) -> impl Iterator<Item = SlotId> {
        let entries = self.pieces.iter().flatten().zip(0..);
        entries
            .filter(|(entry, _)| entry.value.is_some())
            .map(|(entry, slot)| SlotId { slot, generation: entry.generation })
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.slot_count - self.free.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when an insert would fail.
    pub fn is_full(&self) -> bool {
        self.len() == self.count_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_finds_nothing() {
        let mut slots = Slots::new(1);
        let first = slots.insert('a').unwrap();
        assert_eq!(slots.insert('b'), None, "full");
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('c').unwrap();
        assert_eq!((first.slot, slots.get(first), slots.get(second)), (second.slot, None, Some(&'c')));
        assert_eq!(slots.remove(first), None);
    }
}
