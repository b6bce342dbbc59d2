//! What a shard drives.

use crate::base::id::ConnId;
use crate::base::time::{Instant, Now};
use crate::metrics::stages::Stages;
use crate::msrp::effect::ConnectTicket;
use crate::participating;
use crate::participating::effect::Effect;
use crate::participating::input::{Input, Source};
use crate::participating::subscriber::Directory;
use bytes::Bytes;
use std::net::SocketAddr;

/// A sans-IO core: everything that happens arrives as a call, everything it wants leaves as an effect.
pub trait Core {
    /// Takes one whole SIP message, borrowed from the receive buffer.
    fn handle_message(&mut self, bytes: &[u8], source: Source, now: Now);

    /// Takes what another thread or the shard itself has to say.
    fn handle_input(&mut self, input: Input, now: Now);

    /// A peer opened an MSRP connection on the shard's own MSRP address; false closes it at once.
    fn media_accepted(&mut self, _conn: ConnId, _peer: SocketAddr, _listener: u8, _now: Now) -> bool {
        false
    }

    /// An MSRP connection that the core asked for is open; false closes it at once.
    fn media_connected(&mut self, _ticket: ConnectTicket, _conn: ConnId, _now: Now) -> bool {
        false
    }

    /// An MSRP connection that the core asked for could not be opened.
    fn media_connect_failed(&mut self, _ticket: ConnectTicket, _now: Now) {}

    /// Takes bytes of an MSRP connection, borrowed from the receive buffer. `share` makes the whole buffer outlive the
    /// call, without a copy while the shard has buffers to spare.
    fn handle_media(&mut self, _conn: ConnId, _bytes: &[u8], _share: &mut dyn FnMut() -> Bytes, _now: Now) {}

    /// Bytes of an MSRP connection have left.
    fn media_sent(&mut self, _conn: ConnId, _len: usize, _now: Now) {}

    /// An MSRP connection has ended, once, and its id is of no use any more: its peer closed it, it broke, or it took
    /// nothing for too long. Until an effect that closes it is carried out, this and bytes may still come.
    fn media_closed(&mut self, _conn: ConnId, _now: Now) {}

    /// The next MSRP connection that has something to send and had nothing when it was last asked. Asked at the end of a
    /// turn; a connection whose last bytes are still in the kernel's hands is asked again once they have left.
    fn poll_media(&mut self) -> Option<ConnId> {
        None
    }

    /// Takes what an MSRP connection sends next, as one request: at most [`crate::uring::ring::BATCH_COUNT_MAX`] pieces.
    ///
    /// When the connection is closed, by either side, the core is asked again and again until nothing is left, whether or
    /// not earlier requests have completed. What is left then still leaves if the peer takes it.
    fn take_media(&mut self, _conn: ConnId, _batch: &mut Vec<Bytes>) {}

    /// Does what is due. Afterwards [`Core::poll_timeout`] is later than `now`, or `None`.
    fn handle_timeout(&mut self, now: Now);

    /// The next deadline, and whose it is.
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;

    /// The next thing to do.
    fn poll_effect(&mut self) -> Option<Effect>;

    /// Times that the core measured itself; merged with the shard's own when somebody asks.
    fn stages(&mut self) -> Option<&Stages> {
        None
    }

    /// The shard is about to end: nothing is to be begun that does not answer something, and what nobody will be there
    /// for is ended.
    fn stop(&mut self, _now: Now) {}

    /// True when nothing is left that waits for an answer: a shard that stops waits for this, for a while.
    fn is_settled(&self) -> bool {
        true
    }
}

impl<D: Directory> Core for participating::core::Core<D> {
    fn handle_message(&mut self, bytes: &[u8], source: Source, now: Now) {
        Self::handle_message(self, bytes, source, now);
    }

    fn handle_input(&mut self, input: Input, now: Now) {
        Self::handle_input(self, input, now);
    }

    fn media_accepted(&mut self, conn: ConnId, peer: SocketAddr, listener: u8, now: Now) -> bool {
        Self::media_accepted(self, conn, peer, listener, now)
    }

    fn media_connected(&mut self, ticket: ConnectTicket, conn: ConnId, now: Now) -> bool {
        Self::media_connected(self, ticket, conn, now)
    }

    fn media_connect_failed(&mut self, ticket: ConnectTicket, now: Now) {
        Self::media_connect_failed(self, ticket, now);
    }

    fn handle_media(&mut self, conn: ConnId, bytes: &[u8], share: &mut dyn FnMut() -> Bytes, now: Now) {
        Self::handle_media(self, conn, bytes, share, now);
    }

    fn media_sent(&mut self, conn: ConnId, len: usize, now: Now) {
        Self::media_sent(self, conn, len, now);
    }

    fn media_closed(&mut self, conn: ConnId, now: Now) {
        Self::media_closed(self, conn, now);
    }

    fn poll_media(&mut self) -> Option<ConnId> {
        Self::poll_media(self)
    }

    fn take_media(&mut self, conn: ConnId, batch: &mut Vec<Bytes>) {
        Self::take_media(self, conn, batch);
    }

    fn handle_timeout(&mut self, now: Now) {
        Self::handle_timeout(self, now);
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        Self::poll_effect(self)
    }

    fn stages(&mut self) -> Option<&Stages> {
        // Somebody is about to read the levels too.
        self.publish_levels();
        Some(Self::stages(self))
    }

    fn stop(&mut self, now: Now) {
        Self::stop(self, now);
    }

    fn is_settled(&self) -> bool {
        Self::is_settled(self)
    }
}
