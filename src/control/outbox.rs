//! What the control plane has to tell the shards, kept until their mailboxes take it.

use crate::base::id::{Aor, ShardId, Ticket};
use crate::participating::input::{ControlAnswer, Input, Shards};
use foldhash::fast::RandomState;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Waiting words, shard by shard: answers first, because a SIP transaction waits for them; then the news that a
/// subscriber can be reached, each subscriber once.
///
/// Both are bounded without a bound of their own: answers by the jobs under way, news by the subscribers.
pub struct Outbox {
    shards: Arc<dyn Shards>,
    waiting: Vec<Waiting>,
}

#[derive(Default)]
struct Waiting {
    answers: VecDeque<(Ticket, ControlAnswer)>,
    ready: VecDeque<Aor>,
    known_ready: HashSet<Aor, RandomState>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(shards: Arc<dyn Shards>) -> Self {
        let waiting = (0..shards.count()).map(|_| Waiting::default()).collect();
        Self { shards, waiting }
    }

    /// Answers a shard; false when the answer has to wait.
    pub fn answer(&mut self, to: ShardId, ticket: Ticket, answer: ControlAnswer) -> bool {
        let Some(waiting) = self.waiting.get_mut(to.index()) else {
            debug_assert!(false, "a shard that asks exists");
            return true;
        };
        if waiting.answers.is_empty() {
            let input = Input::Control { ticket, answer };
            let Err(Input::Control { ticket, answer }) = self.shards.try_post(to, input) else { return true };
            waiting.answers.push_back((ticket, answer));
        } else {
            waiting.answers.push_back((ticket, answer));
        }
        false
    }

    /// Tells a subscriber's home shard that he can be reached; false when the news has to wait.
    pub fn ready(&mut self, aor: &Aor) -> bool {
        let home = ShardId::home_of(aor.as_str(), self.shards.count());
        let waiting = &mut self.waiting[home.index()];
        if waiting.is_empty() {
            let Err(_) = self.shards.try_post(home, Input::SubscriberReady(aor.clone())) else { return true };
        }
        self.ready_later(aor);
        false
    }

    /// The same, at the pace of [`flush`](Self::flush): for the many of a restart.
    pub fn ready_later(&mut self, aor: &Aor) {
        let home = ShardId::home_of(aor.as_str(), self.shards.count());
        let waiting = &mut self.waiting[home.index()];
        if waiting.known_ready.insert(aor.clone()) {
            waiting.ready.push_back(aor.clone());
        }
    }

    /// Posts what the mailboxes take, at most `limit` pieces of news per shard. Returns how many answers left.
    pub fn flush(&mut self, limit: usize) -> usize {
        let mut answered = 0;
        for (index, waiting) in self.waiting.iter_mut().enumerate() {
            let to = ShardId(index as u16);
            while let Some((ticket, answer)) = waiting.answers.pop_front() {
                match self.shards.try_post(to, Input::Control { ticket, answer }) {
                    Err(Input::Control { ticket, answer }) => {
                        waiting.answers.push_front((ticket, answer));
                        break;
                    }
                    _ => answered += 1,
                }
            }
            if !waiting.answers.is_empty() {
                continue;
            }
            for _ in 0..limit {
                let Some(aor) = waiting.ready.pop_front() else { break };
                if self.shards.try_post(to, Input::SubscriberReady(aor.clone())).is_err() {
                    waiting.ready.push_front(aor);
                    break;
                }
                waiting.known_ready.remove(&aor);
            }
        }
        answered
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(Waiting::is_empty)
    }

    /// Words that wait.
    pub fn len(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.answers.len() + waiting.ready.len()).sum()
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// One shard with room for a given number of inputs.
    #[derive(Default)]
    struct Cramped {
        room: Mutex<usize>,
        taken: Mutex<Vec<String>>,
    }

    impl Shards for Cramped {
        fn count(&self) -> u16 {
            1
        }

        fn try_post(&self, _: ShardId, input: Input) -> Result<(), Input> {
            let mut room = self.room.lock().unwrap();
            if *room == 0 {
                return Err(input);
            }
            *room -= 1;
            self.taken.lock().unwrap().push(match input {
                Input::SubscriberReady(aor) => aor.to_string(),
                Input::Control { ticket, .. } => ticket.0.to_string(),
                other => panic!("unexpected {other:?}"),
            });
            Ok(())
        }
    }

    fn aor(name: &str) -> Aor {
        Aor::from_canonical(name)
    }

    #[test]
    fn what_a_full_mailbox_refuses_is_told_later_answers_first_and_news_once() {
        let shards = Arc::new(Cramped::default());
        let mut outbox = Outbox::new(shards.clone());
        assert!(!outbox.ready(&aor("a")));
        assert!(!outbox.ready(&aor("b")));
        assert!(!outbox.ready(&aor("a")));
        assert!(!outbox.answer(ShardId(0), Ticket(1), ControlAnswer::Registered));
        assert_eq!(outbox.len(), 3);
        *shards.room.lock().unwrap() = 2;
        assert_eq!(outbox.flush(100), 1);
        *shards.room.lock().unwrap() = 100;
        assert!(!outbox.ready(&aor("c")), "keeps behind what waits");
        assert_eq!(outbox.flush(100), 0);
        assert!(outbox.is_empty());
        assert!(outbox.ready(&aor("a")), "told again once it was told");
        assert_eq!(*shards.taken.lock().unwrap(), ["1", "a", "b", "c", "a"]);
    }

    #[test]
    fn a_flush_tells_no_more_than_its_limit() {
        let shards = Arc::new(Cramped::default());
        *shards.room.lock().unwrap() = 100;
        let mut outbox = Outbox::new(shards.clone());
        for index in 0..10 {
            outbox.ready_later(&aor(&index.to_string()));
        }
        outbox.flush(4);
        assert_eq!(shards.taken.lock().unwrap().len(), 4);
        outbox.flush(100);
        assert_eq!(*shards.taken.lock().unwrap(), (0..10).map(|i| i.to_string()).collect::<Vec<_>>());
    }
}
