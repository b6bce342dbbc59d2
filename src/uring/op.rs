//! Memory of requests that send: payload, address and vectors stay put until the kernel is done with them.

use super::addr::RawAddr;
use bytes::Bytes;
use io_uring::squeue;
use std::net::SocketAddr;
use std::ptr::NonNull;

/// A bounded table of values that never move while the kernel may look at them. It grows by whole chunks.
pub(super) struct Slots<T> {
    chunks: Vec<NonNull<T>>,
    capacity_max: usize,
    make: fn() -> T,
    free: Vec<u32>,
    taken: Vec<bool>,
}

const CHUNK_LEN: usize = 256;

impl<T> Slots<T> {
    /// An empty table that grows to `capacity_max` values, rounded up to whole chunks.
    pub(super) fn new(capacity_max: usize, make: fn() -> T) -> Self {
        assert!(u32::try_from(capacity_max).is_ok(), "slots are numbered with 32 bits");
        Self { chunks: Vec::new(), capacity_max, make, free: Vec::new(), taken: Vec::new() }
    }

    /// Takes a slot; `None` when all are in the kernel's hands.
    pub(super) fn take(&mut self) -> Option<(u32, &mut T)> {
        if self.free.is_empty() {
            self.grow();
        }
        // Last in, first out: the slots in use stay few and warm.
        let slot = self.free.pop()?;
        self.taken[slot as usize] = true;
        Some((slot, self.value(slot)))
    }

    /// The value of a taken slot. The kernel must not be writing to it, and only reads it.
    pub(super) fn value(&mut self, slot: u32) -> &mut T {
        let index = slot as usize;
        assert!(self.taken[index], "a slot is looked at between its take and its release");
        let chunk = self.chunks[index / CHUNK_LEN];
        // SAFETY: the remainder is inside the chunk; `&mut self` excludes another reference from here. The kernel reads
        // the memory, never writes it, and callers write to it only before submission and after completion.
        unsafe { &mut *chunk.as_ptr().add(index % CHUNK_LEN) }
    }

    /// Gives a slot back after its completion.
    pub(super) fn release(&mut self, slot: u32) {
        assert!(self.taken[slot as usize], "a slot is given back once");
        self.taken[slot as usize] = false;
        self.free.push(slot);
    }

    fn grow(&mut self) {
        let start = self.chunks.len() * CHUNK_LEN;
        if start >= self.capacity_max {
            return;
        }
        let values: Box<[T]> = std::iter::repeat_with(self.make).take(CHUNK_LEN).collect();
        self.chunks.push(NonNull::new(Box::into_raw(values).cast::<T>()).expect("a box is not null"));
        self.taken.resize(start + CHUNK_LEN, false);
        self.free.extend((start as u32..(start + CHUNK_LEN) as u32).rev());
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            let slice = std::ptr::slice_from_raw_parts_mut(chunk.as_ptr(), CHUNK_LEN);
            // SAFETY: the chunk came from `Box::into_raw` of a slice of this length, and is dropped once.
            drop(unsafe { Box::from_raw(slice) });
        }
    }
}

/// A datagram on its way out.
pub(super) struct DatagramSend {
    pub(super) bytes: Bytes,
    pub(super) addr: RawAddr,
}

impl DatagramSend {
    pub(super) fn empty() -> Self {
        Self { bytes: Bytes::new(), addr: RawAddr::EMPTY }
    }
}

/// Bytes on their way into a stream, as one request.
pub(super) struct StreamSend {
    pub(super) token: super::ring::Token,
    pub(super) bytes: Vec<Bytes>,
    pub(super) iovecs: Vec<libc::iovec>,
    pub(super) header: libc::msghdr,
}

impl StreamSend {
    pub(super) fn empty() -> Self {
        Self { token: super::ring::Token::default(), bytes: Vec::new(), iovecs: Vec::new(), header: empty_header() }
    }

    /// Points the vectors and the header at the bytes.
    pub(super) fn gather(&mut self) -> *const libc::msghdr {
        self.iovecs.clear();
        self.iovecs.extend(
            self.bytes
                .iter()
                .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }),
        );
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len() as _;
        &raw const self.header
    }

    /// Takes out what is left when this many bytes have gone; mostly nothing.
    pub(super) fn unsent(&mut self, sent: usize) -> Vec<Bytes> {
        let mut skip = sent;
        let mut rest = Vec::new();
        for bytes in self.bytes.drain(..) {
            if skip >= bytes.len() {
                skip -= bytes.len();
            } else {
                rest.push(bytes.slice(std::mem::take(&mut skip)..));
            }
        }
        rest
    }

    /// Lets go of the bytes, keeping the vectors' memory for the next use.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.iovecs.clear();
        self.header = empty_header();
    }
}

/// A connection being opened.
pub(super) struct Connecting {
    pub(super) token: super::ring::Token,
    pub(super) addr: RawAddr,
    pub(super) len: libc::socklen_t,
}

impl Connecting {
    pub(super) fn empty() -> Self {
        Self { token: super::ring::Token::default(), addr: RawAddr::EMPTY, len: 0 }
    }

    pub(super) fn set(&mut self, token: super::ring::Token, to: SocketAddr) {
        self.token = token;
        (self.addr, self.len) = RawAddr::new(to);
    }
}

/// A multishot receive that lets other requests have their turn after so many bytes; 0 sets no bound.
pub(super) fn with_burst_len(mut entry: squeue::Entry, len: u32) -> squeue::Entry {
    // The bindings have no name for `optlen` of `struct io_uring_sqe`, which a receive reads as this bound.
    const OPTLEN_OFFSET: usize = 44;
    const { assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= align_of::<u32>()) };
    // SAFETY: the entry is the kernel's structure of 64 plain bytes, in its layout; the field lies inside, is aligned, and
    // takes any value.
    unsafe { std::ptr::from_mut(&mut entry).cast::<u8>().add(OPTLEN_OFFSET).cast::<u32>().write(len) };
    entry
}

/// A message header that points nowhere.
pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` holds integers and raw pointers, for which all bits zero is a value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_stay_where_they_are() {
        let mut slots = Slots::<u64>::new(CHUNK_LEN * 2, || 7);
        let mut places = Vec::new();
        while let Some((slot, value)) = slots.take() {
            *value = u64::from(slot);
            places.push((slot, std::ptr::from_mut(value)));
        }
        assert_eq!(places.len(), CHUNK_LEN * 2);
        for (slot, place) in places {
            assert_eq!(std::ptr::from_mut(slots.value(slot)), place);
            assert_eq!(*slots.value(slot), u64::from(slot));
            slots.release(slot);
        }
        assert!(slots.take().is_some());
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_slot_given_back_twice_is_a_fault_of_ours() {
        let mut slots = Slots::<u8>::new(1, || 0);
        let slot = slots.take().expect("the table is empty").0;
        slots.release(slot);
        slots.release(slot);
    }
}
