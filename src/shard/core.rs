//! What a shard drives.

use crate::base::time::{Instant, Now};
use crate::metrics::stages::Stages;
use crate::participating;
use crate::participating::effect::Effect;
use crate::participating::input::{Input, Source};
use crate::participating::subscriber::Directory;

/// A sans-IO core: everything that happens arrives as a call, everything it wants leaves as an effect.
pub trait Core {
    /// Takes one whole SIP message, borrowed from the receive buffer.
    fn handle_message(&mut self, bytes: &[u8], source: Source, now: Now);

    /// Takes what another thread or the shard itself has to say.
    fn handle_input(&mut self, input: Input, now: Now);

    /// Does what is due. Afterwards [`Core::poll_timeout`] is later than `now`, or `None`.
    fn handle_timeout(&mut self, now: Now);

    /// The next deadline, and whose it is.
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;

    /// The next thing to do.
    fn poll_effect(&mut self) -> Option<Effect>;

    /// Times that the core measured itself; merged with the shard's own when somebody asks.
    fn stages(&self) -> Option<&Stages> {
        None
    }

    /// The shard is about to end: nothing is to be begun that does not answer something.
    fn stop(&mut self) {}

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

    fn handle_timeout(&mut self, now: Now) {
        Self::handle_timeout(self, now);
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        Self::poll_effect(self)
    }

    fn stages(&self) -> Option<&Stages> {
        // Somebody is about to read the levels too.
        self.publish_levels();
        Some(Self::stages(self))
    }

    fn stop(&mut self) {
        Self::stop(self);
    }

    fn is_settled(&self) -> bool {
        Self::is_settled(self)
    }
}
