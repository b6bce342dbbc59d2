//! Provided-buffer rings whose buffers may outlive the turn, and the ring: what was received in one is handed on without
//! a copy, and the buffer is offered again once the last part of it has been let go.

use super::buffers::{BufferPlan, PAGE_LEN, allocate};
use bytes::Bytes;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, dealloc};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The shape of a group of shared buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPlan {
    /// Its buffers; half of them may be held at a time.
    pub buffers: BufferPlan,
    /// How many of them the kernel has at a time, at most half. It takes them in turn, so these are what must stay in the
    /// cache; the others are for when many are held, and cost no memory before.
    pub offered_count: u16,
    /// The kernel fills a buffer by as many receives as fit before it takes the next (`IOU_PBUF_RING_INC`, Linux 6.12):
    /// small receives then do not cost a buffer each.
    pub incremental: bool,
}

/// Received bytes in a shared buffer.
#[derive(Debug)]
#[must_use = "a piece that is not given back keeps its buffer from the kernel"]
pub struct Piece {
    buffer: u16,
    start: u32,
    len: u32,
}

/// What came of [`super::ring::Ring::share`].
pub enum Shared {
    /// The bytes are those of the buffer.
    InPlace(Bytes),
    /// Too many buffers are held already: the bytes are a copy.
    Copied(Bytes),
}

/// One buffer group.
pub(super) struct SharedPool {
    region: Arc<Region>,
    group: u16,
    count: u16,
    buffer_len: u32,
    incremental: bool,
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    tail: u16,
    published_tail: u16,
    offered_count_max: u16,
    /// Buffers that the kernel has.
    offered_count: u16,
    /// Buffers that nobody has; the one that came back last, which the cache knows best, is offered first.
    free: Vec<u16>,
    states: Box<[State]>,
}

/// What the ring's thread knows of a buffer.
#[derive(Clone, Copy)]
struct State {
    /// One for the kernel while it may write to the buffer, one for each piece that was not given back.
    users: u32,
    /// Where the kernel goes on writing, in an incremental group.
    filled: u32,
    /// It is in the list of buffers that nobody has.
    is_free: bool,
}

/// The memory, and who outside holds parts of it. It lives as long as the last of them.
struct Region {
    memory: NonNull<u8>,
    layout: Layout,
    stride: usize,
    /// Parts held, by buffer.
    held: Box<[AtomicU32]>,
    /// Buffers of which parts are held.
    held_count: AtomicU32,
    /// Buffers whose last part was let go, one bit each, until the ring's thread looks.
    released: Box<[AtomicU64]>,
}

// SAFETY: the memory is plain bytes that the region owns. Parts of it are read through a `Part` while its count keeps
// the ring's thread from offering the buffer to the kernel; everything else is atomic.
unsafe impl Send for Region {}
// SAFETY: as above; nothing writes to the memory from this side.
unsafe impl Sync for Region {}

/// Keeps a part of a buffer from being written to.
struct Part {
    region: Arc<Region>,
    buffer: u16,
    start: u32,
    len: u32,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.region.bytes(self.buffer, self.start, self.len)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.region.release(self.buffer);
    }
}

impl SharedPool {
    /// Makes the group known to the kernel, in the first of these shapes that it takes.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, plans: [SharedPlan; 2]) -> io::Result<Self> {
        let [first, second] = plans;
        Self::register_as(submitter, group, first).or_else(|_| Self::register_as(submitter, group, second))
    }

    fn register_as(submitter: &Submitter<'_>, group: u16, plan: SharedPlan) -> io::Result<Self> {
        let BufferPlan { count, len, stride } = plan.buffers;
        assert!(count.is_power_of_two(), "the kernel masks indexes into a buffer ring");
        assert!(stride >= len && len > 0 && u32::try_from(len).is_ok());
        assert!(plan.offered_count > 0 && plan.offered_count <= count / 2, "half of the buffers may be held");
        let layout = |len| Layout::from_size_align(len, PAGE_LEN).expect("a few megabytes fit the address space");
        let memory_layout = layout(stride * usize::from(count));
        let entries_layout = layout(size_of::<BufRingEntry>() * usize::from(count));
        let region = Region {
            memory: allocate(memory_layout),
            layout: memory_layout,
            stride,
            held: (0..count).map(|_| AtomicU32::new(0)).collect(),
            held_count: AtomicU32::new(0),
            released: (0..usize::from(count).div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        };
        let mut pool = Self {
            region: Arc::new(region),
            group,
            count,
            buffer_len: len as u32,
            incremental: plan.incremental,
            entries: allocate(entries_layout).cast(),
            entries_layout,
            tail: 0,
            published_tail: 0,
            offered_count_max: plan.offered_count,
            offered_count: 0,
            free: (0..count).rev().collect(),
            states: vec![State { users: 0, filled: 0, is_free: true }; usize::from(count)].into_boxed_slice(),
        };
        let address = pool.entries.as_ptr() as u64;
        let flags = if plan.incremental { INCREMENTAL } else { 0 };
        // SAFETY: the entries are page-aligned, hold `count` entries, and are freed only when the pool is dropped, which
        // its ring does after it has closed the kernel's side (or not at all). A refused registration leaves nothing.
        unsafe { submitter.register_buf_ring_with_flags(address, count, group, flags) }?;
        pool.publish();
        Ok(pool)
    }

    /// The group's number.
    pub(super) const fn group(&self) -> u16 {
        self.group
    }

    /// Takes over what a completion says was received. `goes_on` says that the kernel will write to this buffer again.
    pub(super) fn piece(&mut self, buffer: u16, len: usize, goes_on: bool) -> Piece {
        debug_assert!(self.incremental || !goes_on, "only an incremental group fills a buffer twice");
        let state = &mut self.states[usize::from(buffer)];
        assert!(state.users > 0, "the kernel fills only buffers that were offered to it");
        let start = state.filled;
        assert!(len <= (self.buffer_len - start) as usize, "the kernel stays within a buffer");
        state.filled += len as u32;
        // Without more to come, what was the kernel's use of the buffer is the piece's.
        state.users += u32::from(goes_on);
        self.offered_count -= u16::from(!goes_on);
        Piece { buffer, start, len: len as u32 }
    }

    /// The received bytes.
    pub(super) fn bytes(&self, piece: &Piece) -> &[u8] {
        debug_assert!(self.states[usize::from(piece.buffer)].users > 0, "a piece keeps its buffer");
        self.region.bytes(piece.buffer, piece.start, piece.len)
    }

    /// Makes received bytes outlive the piece.
    ///
    /// At most half of the buffers are held that way. So one peer that takes nothing cannot keep the others from
    /// receiving, and a receive that found no buffer finds one in the next turn.
    pub(super) fn share(&self, piece: &Piece) -> Shared {
        let held = &self.region.held[usize::from(piece.buffer)];
        // Only this thread counts up, so that what is zero here stays zero.
        if held.load(Ordering::Acquire) == 0 {
            if self.region.held_count.load(Ordering::Relaxed) >= u32::from(self.count / 2) {
                return Shared::Copied(Bytes::copy_from_slice(self.bytes(piece)));
            }
            self.region.held_count.fetch_add(1, Ordering::Relaxed);
            held.store(1, Ordering::Relaxed);
        } else if held.fetch_add(1, Ordering::Relaxed) == 0 {
            // The last part was let go in between.
            self.region.held_count.fetch_add(1, Ordering::Relaxed);
        }
        let part = Part { region: self.region.clone(), buffer: piece.buffer, start: piece.start, len: piece.len };
        Shared::InPlace(Bytes::from_owner(part))
    }

    /// Gives a piece back.
    pub(super) fn recycle(&mut self, piece: Piece) {
        let state = &mut self.states[usize::from(piece.buffer)];
        assert!(state.users > 0, "a piece is given back once");
        state.users -= 1;
        if state.users == 0 {
            self.free_unless_held(piece.buffer);
        }
    }

    /// How many buffers the kernel has after the next [`SharedPool::publish`], at least.
    pub(super) fn available_count(&self) -> usize {
        (usize::from(self.offered_count) + self.free.len()).min(usize::from(self.offered_count_max))
    }

    fn free_unless_held(&mut self, buffer: u16) {
        // A part that is let go after this look leaves a bit behind.
        if self.region.held[usize::from(buffer)].load(Ordering::Acquire) == 0 {
            self.states[usize::from(buffer)].is_free = true;
            self.free.push(buffer);
        }
    }

    fn offer(&mut self, buffer: u16) {
        let state = &mut self.states[usize::from(buffer)];
        assert_eq!(state.users, 0, "a buffer is offered when nobody uses it");
        *state = State { users: 1, filled: 0, is_free: false };
        let index = self.tail & (self.count - 1);
        // SAFETY: `index` is below `count`, so the entry lies inside the allocation. No more than `count` buffers exist
        // and each is offered once, so the kernel is done with this entry; it does not read it before the tail passes.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(index));
            entry.set_addr(self.region.start_of(buffer) as u64);
            entry.set_len(self.buffer_len);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.offered_count += 1;
    }

    /// Offers what was given back since the last call, by whomever.
    pub(super) fn publish(&mut self) {
        for word in 0..self.region.released.len() {
            if self.region.released[word].load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = self.region.released[word].swap(0, Ordering::Acquire);
            while bits != 0 {
                let buffer = (word * 64) as u16 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                // A bit may be an old one: the buffer was freed, or is in use, or was shared again.
                let State { users, is_free, .. } = self.states[usize::from(buffer)];
                if users == 0 && !is_free {
                    self.free_unless_held(buffer);
                }
            }
        }
        while self.offered_count < self.offered_count_max
            && let Some(buffer) = self.free.pop()
        {
            self.offer(buffer);
        }
        if self.published_tail == self.tail {
            return;
        }
        self.published_tail = self.tail;
        // SAFETY: the tail overlays a reserved field of the first entry, which is initialised, aligned and lives as long
        // as the pool; the kernel only reads it, with acquire ordering.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut().cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for SharedPool {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the ring that used the entries is gone (see `Ring::drop`).
        unsafe { dealloc(self.entries.as_ptr().cast(), self.entries_layout) };
    }
}

impl Region {
    fn start_of(&self, buffer: u16) -> *mut u8 {
        assert!(usize::from(buffer) < self.held.len());
        // SAFETY: the buffer lies inside the allocation.
        unsafe { self.memory.as_ptr().add(usize::from(buffer) * self.stride) }
    }

    /// Bytes that the kernel has written. The caller is a use of the buffer, which keeps the kernel from them.
    fn bytes(&self, buffer: u16, start: u32, len: u32) -> &[u8] {
        assert!(start as usize + len as usize <= self.stride);
        // SAFETY: inside the buffer, by the check above; zeroed when allocated. Pieces and parts are made from
        // completions only, and name bytes that the kernel does not write to again until the buffer is offered, which
        // waits for all of them; the rest of the buffer, which it may be writing to, is not part of the slice.
        unsafe { std::slice::from_raw_parts(self.start_of(buffer).add(start as usize), len as usize) }
    }

    /// Lets a part of a buffer go; on any thread.
    fn release(&self, buffer: u16) {
        let index = usize::from(buffer);
        // Everything read from the part happened before the kernel is offered the buffer.
        if self.held[index].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.held_count.fetch_sub(1, Ordering::Relaxed);
            self.released[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout. Pool and parts are gone; the pool's ring had closed the kernel's side
        // before the pool was dropped (or leaked the pool, and with it the region).
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// The kernel's `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;

#[cfg(test)]
mod tests {
    use super::super::ring::build;
    use super::*;

    const LEN: usize = 256;

    fn pool(count: u16, offered_count: u16, incremental: bool) -> SharedPool {
        let ring = build(8, 16).unwrap();
        let buffers = BufferPlan { count, len: LEN, stride: LEN };
        let plan = SharedPlan { buffers, offered_count, incremental };
        // The pool outlives its ring: the kernel has forgotten it then, and the test plays its part.
        SharedPool::register(&ring.submitter(), 9, [plan, SharedPlan { incremental: false, ..plan }]).unwrap()
    }

    /// The buffers that the kernel was offered, from the earliest on.
    fn offered(pool: &SharedPool) -> Vec<u16> {
        let first = pool.tail.wrapping_sub(pool.offered_count);
        (0..pool.offered_count)
            .map(|index| {
                let entry = usize::from(first.wrapping_add(index) & (pool.count - 1));
                // SAFETY: inside the entries, which nothing changes meanwhile.
                unsafe { (*pool.entries.as_ptr().add(entry)).bid() }
            })
            .collect()
    }

    fn receive(pool: &mut SharedPool, len: usize) -> Piece {
        let buffer = offered(pool)[0];
        pool.piece(buffer, len, false)
    }

    fn in_place(shared: Shared) -> Bytes {
        match shared {
            Shared::InPlace(bytes) => bytes,
            Shared::Copied(_) => panic!("there are buffers to spare"),
        }
    }

    #[test]
    fn a_buffer_comes_back_when_its_last_part_is_let_go_by_whichever_thread() {
        let mut pool = pool(4, 2, false);
        assert_eq!(offered(&pool).len(), 2);
        let piece = receive(&mut pool, 10);
        let (first, second) = (in_place(pool.share(&piece)), in_place(pool.share(&piece)));
        let buffer = piece.buffer;
        pool.recycle(piece);
        pool.publish();
        assert!(!offered(&pool).contains(&buffer) && !pool.free.contains(&buffer));
        drop(first);
        pool.publish();
        assert!(!pool.free.contains(&buffer), "one part is still held");
        std::thread::spawn(move || drop(second)).join().unwrap();
        assert_eq!(pool.region.held_count.load(Ordering::Relaxed), 0);
        pool.publish();
        assert!(pool.free.contains(&buffer));
        pool.publish();
        assert_eq!(pool.free.iter().filter(|free| **free == buffer).count(), 1, "it is free once");
    }

    #[test]
    fn a_part_that_is_let_go_before_its_piece_leaves_the_buffer_to_the_piece() {
        let mut pool = pool(4, 1, false);
        let piece = receive(&mut pool, 10);
        drop(in_place(pool.share(&piece)));
        pool.publish();
        assert_eq!(pool.available_count(), 1);
        let buffer = piece.buffer;
        assert!(!pool.free.contains(&buffer));
        pool.recycle(piece);
        assert!(pool.free.contains(&buffer));
        // The mark that the part left behind is an old one.
        pool.publish();
        pool.publish();
        assert_eq!(pool.free.len() + offered(&pool).len(), 4);
    }

    #[test]
    fn half_of_the_buffers_may_be_held_and_the_others_go_on() {
        let mut pool = pool(8, 2, false);
        let (mut held, mut copied) = (Vec::new(), 0);
        for _ in 0..20 {
            let piece = receive(&mut pool, LEN);
            match pool.share(&piece) {
                Shared::InPlace(bytes) => held.push(bytes),
                Shared::Copied(bytes) => {
                    assert_eq!(bytes.len(), LEN);
                    copied += 1;
                }
            }
            pool.recycle(piece);
            pool.publish();
            assert_eq!(offered(&pool).len(), 2, "the kernel always has buffers");
        }
        assert_eq!((held.len(), copied), (4, 16));
        held.clear();
        pool.publish();
        let piece = receive(&mut pool, 1);
        in_place(pool.share(&piece));
        pool.recycle(piece);
    }

    #[test]
    fn a_buffer_that_is_filled_in_steps_waits_for_all_its_pieces_and_for_the_kernel() {
        let mut pool = pool(4, 1, true);
        assert!(pool.incremental, "Linux 6.12");
        let buffer = offered(&pool)[0];
        // SAFETY: the test is the kernel; nobody reads the bytes yet.
        unsafe { std::ptr::copy_nonoverlapping(b"onetwo".as_ptr(), pool.region.start_of(buffer), 6) };
        let (one, two) = (pool.piece(buffer, 3, true), pool.piece(buffer, 3, true));
        assert_eq!((pool.bytes(&one), pool.bytes(&two)), (&b"one"[..], &b"two"[..]));
        let kept = in_place(pool.share(&two));
        pool.recycle(one);
        pool.recycle(two);
        pool.publish();
        assert_eq!(offered(&pool), [buffer], "the kernel goes on with it");
        let rest = pool.piece(buffer, LEN - 6, false);
        assert_eq!(pool.available_count(), 1, "another one");
        pool.recycle(rest);
        pool.publish();
        assert_ne!(offered(&pool), [buffer]);
        assert!(!pool.free.contains(&buffer), "a part is held");
        assert_eq!(kept, "two");
        drop(kept);
        pool.publish();
        assert!(pool.free.contains(&buffer));
    }

    #[test]
    fn what_is_held_outlives_the_pool() {
        let mut pool = pool(2, 1, false);
        let piece = receive(&mut pool, 5);
        let kept = in_place(pool.share(&piece));
        pool.recycle(piece);
        drop(pool);
        assert_eq!(kept, [0; 5][..]);
    }

    #[test]
    fn many_threads_letting_go_lose_no_buffer() {
        let mut pool = pool(64, 16, false);
        let (door, parts) = std::sync::mpsc::channel::<Bytes>();
        let parts = std::sync::Arc::new(std::sync::Mutex::new(parts));
        let droppers: Vec<_> = (0..3)
            .map(|_| {
                let parts = parts.clone();
                std::thread::spawn(move || {
                    loop {
                        let part = parts.lock().unwrap().recv();
                        if part.map(drop).is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        for round in 0..20_000 {
            let piece = receive(&mut pool, 1 + round % LEN);
            if let Shared::InPlace(bytes) = pool.share(&piece) {
                door.send(bytes.clone()).unwrap();
                drop(bytes);
            }
            pool.recycle(piece);
            pool.publish();
            assert_eq!(offered(&pool).len(), 16);
        }
        drop(door);
        droppers.into_iter().for_each(|dropper| dropper.join().unwrap());
        pool.publish();
        assert_eq!(pool.region.held_count.load(Ordering::Relaxed), 0);
        let mut all = [offered(&pool), pool.free.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..64).collect::<Vec<_>>(), "each is somewhere, once");
    }
}
