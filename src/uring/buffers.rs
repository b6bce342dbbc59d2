//! Provided-buffer rings: memory that the kernel fills at its own choice of buffer.

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The shape of a buffer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferPlan {
    /// Buffers; a power of two.
    pub count: u16,
    /// Bytes of one buffer.
    pub len: usize,
    /// Bytes from one buffer to the next. An odd number of cache lines keeps the starts of the buffers, which are all
    /// that most messages touch, from competing for the same few cache sets.
    pub stride: usize,
}

/// A filled buffer that is ours until it is given back.
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to the kernel"]
pub struct Lease {
    pub(super) group: u16,
    pub(super) buffer: u16,
}

/// One buffer group. The kernel takes buffers in the order in which they were offered.
pub(super) struct Pool {
    plan: BufferPlan,
    group: u16,
    memory: NonNull<u8>,
    memory_layout: Layout,
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    tail: u16,
    offered: u16,
    /// Bytes in each buffer that is ours; `KERNELS` for those that are not.
    filled: Box<[u32]>,
}

const KERNELS: u32 = u32::MAX;
pub(super) const PAGE_LEN: usize = 4096;

impl Pool {
    /// Makes the group known to the kernel, every buffer offered.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, plan: BufferPlan) -> io::Result<Self> {
        assert!(plan.count.is_power_of_two(), "the kernel masks indexes into a buffer ring");
        assert!(plan.stride >= plan.len && plan.len > 0 && plan.len < KERNELS as usize);
        let layout = |len| Layout::from_size_align(len, PAGE_LEN).expect("a few megabytes fit the address space");
        let memory_layout = layout(plan.stride * usize::from(plan.count));
        let entries_layout = layout(size_of::<BufRingEntry>() * usize::from(plan.count));
        let mut pool = Self {
            plan,
            group,
            memory: allocate(memory_layout),
            memory_layout,
            entries: allocate(entries_layout).cast(),
            entries_layout,
            tail: 0,
            offered: 0,
            filled: vec![0; usize::from(plan.count)].into_boxed_slice(),
        };
        let address = pool.entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, hold `count` entries, and are freed only when the pool is dropped,
        // which its ring does after it has closed the kernel's side (or not at all).
        unsafe { submitter.register_buf_ring_with_flags(address, plan.count, group, 0) }?;
        for buffer in 0..plan.count {
            pool.offer(buffer);
        }
        pool.publish();
        Ok(pool)
    }

    /// Takes over a buffer that a completion names.
    pub(super) fn lease(&mut self, buffer: u16, len: usize) -> Lease {
        let filled = &mut self.filled[usize::from(buffer)];
        assert_eq!(*filled, KERNELS, "the kernel fills only buffers that were offered to it");
        assert!(len <= self.plan.len, "the kernel stays within a buffer");
        *filled = len as u32;
        Lease { group: self.group, buffer }
    }

    /// What the kernel put into a buffer.
    pub(super) fn bytes(&self, lease: &Lease) -> &[u8] {
        let len = self.filled[usize::from(lease.buffer)];
        assert_ne!(len, KERNELS, "a lease names a buffer that is ours");
        // SAFETY: the buffer lies inside the allocation (its index passed the check above, its length the one in
        // `lease`), was zeroed when allocated, and is not offered to the kernel while its `filled` says it is ours;
        // giving it back needs `&mut self`, which ends this borrow.
        unsafe {
            let start = self.memory.as_ptr().add(usize::from(lease.buffer) * self.plan.stride);
            std::slice::from_raw_parts(start, len as usize)
        }
    }

    /// Gives a buffer back. The kernel sees it after [`Pool::publish`].
    pub(super) fn recycle(&mut self, lease: Lease) {
        assert_eq!(lease.group, self.group);
        assert_ne!(self.filled[usize::from(lease.buffer)], KERNELS, "a buffer is given back once");
        self.offer(lease.buffer);
    }

    fn offer(&mut self, buffer: u16) {
        self.filled[usize::from(buffer)] = KERNELS;
        let index = self.tail & (self.plan.count - 1);
        // SAFETY: `index` is below `count`, so the entry lies inside the allocation. No more than `count` buffers exist
        // and each is offered once, so the kernel is done with this entry; it does not read it before the tail passes.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(index));
            entry.set_addr(self.memory.as_ptr().add(usize::from(buffer) * self.plan.stride) as u64);
            entry.set_len(self.plan.len as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.offered += 1;
    }

    /// Shows the kernel what was offered since the last call.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.offered) == 0 {
            return;
        }
        // SAFETY: the tail overlays a reserved field of the first entry, which is initialised, aligned and lives as long
        // as the pool; the kernel only reads it, with acquire ordering.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut().cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts; the ring that wrote to them is gone (see `Ring::drop`).
        unsafe {
            dealloc(self.memory.as_ptr(), self.memory_layout);
            dealloc(self.entries.as_ptr().cast(), self.entries_layout);
        }
    }
}

/// Zeroed memory; the process ends when there is none.
pub(super) fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0);
    // SAFETY: the size is not zero. Zeroed pages are taken from the system only when first touched.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}
