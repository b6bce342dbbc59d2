//! What waits to leave on one connection: small things copied together, large bodies as slices of the receive buffers.
//!
//! A connection with nothing to send holds no buffer; buffers go round among the connections of a shard.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Egress {
    buffer: Option<Box<Buffer>>,
    waiting_len: usize,
    flight_len: usize,
    /// Bytes that ever left.
    sent_total: u64,
}

/// Memory of a connection that has something to send.
#[derive(Debug, Default)]
struct Buffer {
    /// In order, in front of `tail`.
    queue: VecDeque<Bytes>,
    tail: BytesMut,
}

/// Buffers that no connection uses.
#[derive(Debug, Default)]
pub struct Spare {
    #[expect(clippy::vec_box, reason = "the box itself goes to a connection and comes back")]
    buffers: Vec<Box<Buffer>>,
}

impl Egress {
    /// Appends, copying all parts behind one another. RFC 4975 §7.1.
    #[inline]
    pub fn write<const N: usize>(&mut self, spare: &mut Spare, parts: [&[u8]; N]) {
        let len = parts.iter().map(|part| part.len()).sum();
        let tail = self.room(spare, len);
        for part in parts {
            tail.extend_from_slice(part);
        }
        self.waiting_len += len;
    }

    /// Appends without copying. RFC 4975 §7.1.
    pub fn share(&mut self, spare: &mut Spare, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.waiting_len += bytes.len();
        let buffer = self.buffer.get_or_insert_with(|| spare.pop());
        buffer.seal();
        buffer.queue.push_back(bytes);
    }

    /// Moves up to `count_max` pieces into a batch. RFC 4975 §7.1.
    pub fn take(&mut self, count_max: usize, batch: &mut Vec<Bytes>) {
        let Some(buffer) = &mut self.buffer else { return };
        if buffer.queue.len() < count_max {
            buffer.seal();
        }
        let count = buffer.queue.len().min(count_max);
        let mut len = 0;
        for piece in buffer.queue.drain(..count) {
            len += piece.len();
            batch.push(piece);
        }
        debug_assert!(len <= self.waiting_len);
        self.waiting_len -= len;
        self.flight_len += len;
    }

    /// Notes that bytes have left. RFC 4975 §7.1.
    pub fn on_sent(&mut self, spare: &mut Spare, len: usize) {
        debug_assert!(len <= self.flight_len, "only what was taken can have left");
        self.flight_len = self.flight_len.saturating_sub(len);
        self.sent_total += len as u64;
        if self.is_empty() {
            self.release(spare);
        }
    }

    /// Drops all that waits: the connection has ended. RFC 4975 §5.4.
    pub fn discard(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.queue.clear();
            buffer.tail = BytesMut::new();
        }
        self.sent_total += self.len() as u64;
        (self.waiting_len, self.flight_len) = (0, 0);
    }

    /// Gives the buffer back. RFC 4975 §7.1.
    pub fn release(&mut self, spare: &mut Spare) {
        if let Some(buffer) = self.buffer.take() {
            spare.push(buffer);
        }
    }

    /// Bytes that nobody has taken. RFC 4975 §7.1.
    pub const fn waiting_len(&self) -> usize {
        self.waiting_len
    }

    /// Bytes waiting or in the kernel's hands. RFC 4975 §7.1.
    pub const fn len(&self) -> usize {
        self.waiting_len + self.flight_len
    }

    /// True when all has left. RFC 4975 §7.1.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place in the connection's whole output behind what was appended last. RFC 4975 §7.1.
    pub const fn end_position(&self) -> u64 {
        self.sent_total + self.len() as u64
    }

    /// How much of the connection's whole output has left. RFC 4975 §7.1.
    pub const fn sent_position(&self) -> u64 {
        self.sent_total
    }

    #[inline]
    fn room(&mut self, spare: &mut Spare, len: usize) -> &mut BytesMut {
        let buffer = self.buffer.get_or_insert_with(|| spare.pop());
        if buffer.tail.capacity() - buffer.tail.len() < len {
            buffer.grow(len);
        }
        &mut buffer.tail
    }
}

impl Buffer {
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        self.seal();
        // The memory is taken back when nothing of what left in it is in use any more.
        if !self.tail.try_reclaim(len) {
            self.tail = BytesMut::with_capacity(len.max(BUFFER_LEN));
        }
    }
}

impl Spare {
    fn pop(&mut self) -> Box<Buffer> {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        // Whatever left in it is gone as a rule, and all of it is free again. Its beginning is what the cache knows.
        let _ = buffer.tail.try_reclaim(BUFFER_LEN);
        buffer
    }

    fn push(&mut self, mut buffer: Box<Buffer>) {
        debug_assert!(buffer.queue.is_empty() && buffer.tail.is_empty());
        buffer.queue.shrink_to(QUEUE_KEPT_MAX);
        if self.buffers.len() < SPARE_COUNT_MAX && buffer.tail.capacity() <= BUFFER_LEN {
            self.buffers.push(buffer);
        }
    }
}

/// Memory for small things of one connection: what one receive brings of chunks that are copied, so that they leave in one
/// piece. Only as much of it as is needed is touched.
const BUFFER_LEN: usize = 32 * 1024;
/// Unused buffers that are kept: those of a burst, not of all connections.
const SPARE_COUNT_MAX: usize = 256;
/// Entries that an unused queue keeps room for.
const QUEUE_KEPT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(egress: &mut Egress) -> Vec<Bytes> {
        let mut batch = Vec::new();
        egress.take(64, &mut batch);
        batch
    }

    #[test]
    fn small_things_leave_as_one_piece_and_slices_in_their_place() {
        let (mut egress, mut spare) = (Egress::default(), Spare::default());
        egress.write(&mut spare, [b"head ".as_slice(), b"one "]);
        egress.write(&mut spare, [b"two ".as_slice()]);
        egress.share(&mut spare, Bytes::from_static(b"body"));
        egress.write(&mut spare, [b" end".as_slice()]);
        assert_eq!(taken(&mut egress), ["head one two ", "body", " end"]);
        assert_eq!((egress.waiting_len(), egress.len()), (0, 21));
        egress.on_sent(&mut spare, 21);
        assert!(egress.is_empty() && egress.buffer.is_none());
        assert_eq!((egress.end_position(), spare.buffers.len()), (21, 1));
    }

    #[test]
    fn memory_is_used_again_once_what_left_in_it_is_gone() {
        let (mut egress, mut spare) = (Egress::default(), Spare::default());
        let mut places = std::collections::HashSet::new();
        for _ in 0..100 {
            egress.write(&mut spare, [[7; 3_000].as_slice()]);
            let batch = taken(&mut egress);
            places.insert(batch[0].as_ptr());
            drop(batch);
            egress.on_sent(&mut spare, 3_000);
        }
        assert!(places.len() <= 4, "{} places", places.len());
    }

    #[test]
    fn what_is_in_flight_is_never_written_over() {
        let (mut egress, mut spare) = (Egress::default(), Spare::default());
        let mut flying = Vec::new();
        for n in 0..50u8 {
            egress.write(&mut spare, [[n; 1_000].as_slice()]);
            flying.extend(taken(&mut egress));
            if n % 3 == 0 {
                egress.on_sent(&mut spare, 1_000);
            }
        }
        let all: Vec<u8> = flying.iter().flatten().copied().collect();
        assert_eq!(all, (0..50u8).flat_map(|n| [n; 1_000]).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_is_no_longer_than_asked() {
        let (mut egress, mut spare) = (Egress::default(), Spare::default());
        for _ in 0..5 {
            egress.write(&mut spare, [b"h".as_slice()]);
            egress.share(&mut spare, Bytes::from_static(b"b"));
        }
        let mut batch = Vec::new();
        egress.take(4, &mut batch);
        assert_eq!((batch.len(), egress.waiting_len()), (4, 6));
        assert_eq!(taken(&mut egress).len(), 6);
    }
}
