//! Changes of one subscriber one after the other, those of many side by side.

use crate::base::id::Aor;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Who is being changed at the moment, and which changes wait for that.
///
/// A place in the line is taken when [`enter`](Self::enter) is called, not when somebody first waits: what arrives
/// first is applied first, however tasks are scheduled.
#[derive(Default)]
pub struct Turns {
    lines: Mutex<HashMap<Aor, VecDeque<oneshot::Sender<()>>, RandomState>>,
}

impl Turns {
    /// Takes the next place in a subscriber's line; `None` when [`WAITING_COUNT_MAX`] changes wait in it already.
    pub fn enter(self: &Arc<Self>, aor: &Aor) -> Option<Turn> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = match lines.get_mut(aor) {
            None => {
                lines.insert(aor.clone(), VecDeque::new());
                None
            }
            Some(line) if line.len() >= WAITING_COUNT_MAX => return None,
            Some(line) => {
                let (grant, granted) = oneshot::channel();
                line.push_back(grant);
                Some(granted)
            }
        };
        Some(Turn { turns: self.clone(), aor: aor.clone(), waiting })
    }

    /// Subscribers with a change under way.
    pub fn len(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True when no change is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn pass_on(&self, aor: &Aor) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = lines.get_mut(aor) else {
            debug_assert!(false, "a turn has a line");
            return;
        };
        while let Some(next) = line.pop_front() {
            // Whoever gave up waiting is skipped.
            if next.send(()).is_ok() {
                return;
            }
        }
        lines.remove(aor);
    }
}

/// A place in a subscriber's line. Dropping it lets the next one go, whether its own turn came or not.
pub struct Turn {
    turns: Arc<Turns>,
    aor: Aor,
    waiting: Option<oneshot::Receiver<()>>,
}

impl Turn {
    /// Returns when every change before this one has ended.
    pub async fn come(&mut self) {
        if let Some(granted) = &mut self.waiting {
            // The sender is only dropped after sending.
            let _ = granted.await;
            self.waiting = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(granted) = &mut self.waiting {
            granted.close();
            if granted.try_recv().is_err() {
                return; // our turn never came: whoever has it finds us gone
            }
        }
        self.turns.pass_on(&self.aor);
    }
}

/// Changes of one subscriber that may wait for an earlier one.
pub const WAITING_COUNT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn has_come(turn: &mut Turn) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(pin!(turn.come()).poll(&mut context), Poll::Ready(()))
    }

    fn bob() -> Aor {
        Aor::from_canonical("sip:bob@home.example")
    }

    #[test]
    fn turns_of_one_user_come_in_the_order_of_entering() {
        let turns = Arc::new(Turns::default());
        let mut first = turns.enter(&bob()).unwrap();
        let mut second = turns.enter(&bob()).unwrap();
        let mut third = turns.enter(&bob()).unwrap();
        assert!(has_come(&mut first));
        assert!(!has_come(&mut third));
        assert!(!has_come(&mut second));
        drop(first);
        assert!(!has_come(&mut third));
        assert!(has_come(&mut second));
        drop(second);
        assert!(has_come(&mut third));
        drop(third);
        assert!(turns.is_empty());
    }

    #[test]
    fn users_do_not_wait_for_each_other() {
        let turns = Arc::new(Turns::default());
        let _bob = turns.enter(&bob()).unwrap();
        let mut alice = turns.enter(&Aor::from_canonical("sip:alice@home.example")).unwrap();
        assert!(has_come(&mut alice));
    }

    #[test]
    fn who_gives_up_waiting_holds_nobody_up() {
        let turns = Arc::new(Turns::default());
        let first = turns.enter(&bob()).unwrap();
        let second = turns.enter(&bob()).unwrap();
        let third = turns.enter(&bob()).unwrap();
        let mut fourth = turns.enter(&bob()).unwrap();
        drop(second); // before its turn
        drop(first); // the third's turn has come, unseen
        drop(third);
        assert!(has_come(&mut fourth));
        drop(fourth);
        assert!(turns.is_empty());
    }

    #[test]
    fn a_line_is_bounded() {
        let turns = Arc::new(Turns::default());
        let line: Vec<_> = (0..=WAITING_COUNT_MAX).map(|_| turns.enter(&bob()).unwrap()).collect();
        assert!(turns.enter(&bob()).is_none());
        drop(line);
        assert!(turns.is_empty());
    }
}
