//! What the relay tells of a session in large message mode (SPEC §4.5, §4.6), and the door to whoever keeps what it
//! hands out.

use super::core::Core;
use super::large_decide::Errand;
use super::subscriber::Directory;
use crate::base::slots::SlotId;
use crate::base::time::Now;
use crate::metrics::names::Counter;
use crate::msrp::news::{Event, SessionId, Why};

impl<D: Directory> Core<D> {
    /// News of a session's media.
    pub(super) fn on_session_media(&mut self, id: SlotId, media: SessionId, event: Event, now: Now) {
        let errand = self.large.sessions.get(id).and_then(|session| Some(session.task.as_ref()?.errand));
        match event {
            Event::Piece { offset, bytes, .. } => {
                if errand.is_some() {
                    self.on_spool_piece(id, media, offset, bytes, now);
                }
            }
            Event::Complete { message_id, content_type, total, .. } => {
                if errand.is_some() {
                    self.on_spool_complete(id, media, &message_id, &content_type, total, now);
                }
            }
            Event::Aborted { .. } => {
                // A message that is bridged is counted by the relay.
                if errand.is_some_and(|errand| errand != Errand::History) {
                    self.metrics.count(Counter::LargeAborted);
                }
                if errand.is_some() {
                    self.on_spool_aborted(media, now);
                }
            }
            Event::Lost { why, .. } => {
                self.metrics.count(Counter::SessionBroken);
                let reason: &[u8] = match why {
                    Why::Connect | Why::Bind => b"Reason: SIP;cause=480;text=\"No MSRP connection\"\r\n",
                    Why::Closed => b"Reason: SIP;cause=480;text=\"MSRP connection lost\"\r\n",
                    Why::Silence => b"Reason: SIP;cause=408;text=\"No MSRP response\"\r\n",
                    Why::Protocol => b"Reason: SIP;cause=400;text=\"MSRP\"\r\n",
                    // Nobody did anything wrong.
                    Why::Idle => b"",
                };
                self.end_session(id, None, reason, now);
            }
            Event::Bound { .. } => {}
            Event::Wanted { .. } | Event::Sent { .. } => debug_assert!(false, "a session sends nothing of its own"),
        }
    }
}
