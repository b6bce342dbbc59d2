//! Messages that the relay hands out while they arrive: none is kept here, so each is refused.

use super::core::Core;
use super::storage::Fault;
use super::subscriber::Directory;
use crate::base::slots::SlotId;
use crate::base::time::Now;
use crate::msrp::news::SessionId;
use bytes::Bytes;

/// The MSRP status of a message that cannot be taken.
const REFUSED: u16 = 413;

impl<D: Directory> Core<D> {
    /// Part of a session's message.
    pub(super) fn on_spool_piece(&mut self, _id: SlotId, media: SessionId, _offset: u64, bytes: Bytes, _now: Now) {
        self.relay.written(media, bytes.len());
    }

    /// All of it has been handed out.
    pub(super) fn on_spool_complete(
        &mut self,
        id: SlotId,
        media: SessionId,
        _message_id: &[u8],
        _content_type: &[u8],
        _total: u64,
        now: Now,
    ) {
        self.relay.committed(media, Err(REFUSED), now.at);
        self.spool_settled(id, Err(Fault::Broken), now);
    }

    /// What was handed out is void; said of each session that ends, whether something is open or not.
    pub(super) fn on_spool_aborted(&mut self, _id: SlotId, _now: Now) {}
}
