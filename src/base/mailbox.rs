//! Bounded lock-free queues between threads, with a wake-up only when the other side sleeps.

use crossbeam::queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// Wakes the thread that reads a mailbox: an eventfd for a shard, an unpark for a plain thread.
pub trait Wake: Send + Sync {
    /// Makes the reader look at its mailbox soon. May be called from any thread, must not block.
    fn wake(&self);
}

/// A bounded many-to-one queue. Being full is an answer, never a wait.
pub struct Mailbox<T> {
    queue: ArrayQueue<T>,
    sleeping: AtomicBool,
    wake: Box<dyn Wake>,
}

impl<T> Mailbox<T> {
    /// A mailbox for `capacity` items whose reader is woken by `wake`.
    pub fn new(capacity: usize, wake: Box<dyn Wake>) -> Self {
        assert!(capacity > 0, "a mailbox holds at least one item");
        Self { queue: ArrayQueue::new(capacity), sleeping: AtomicBool::new(false), wake }
    }

    /// Puts an item in, or gives it back when the mailbox is full.
    pub fn try_post(&self, item: T) -> Result<(), T> {
        self.queue.push(item)?;
        // Pairs with the fence in `prepare_sleep`: either the reader sees the item, or we see that it sleeps.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.wake.wake();
        }
        Ok(())
    }

    /// Takes the oldest item. Only the reading thread calls this.
    pub fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Announces that the reader is about to sleep; false means there is work and it must not.
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::Relaxed);
        false
    }

    /// Announces that the reader is awake, so that posters need not wake it.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Wakes the reader whatever the mailbox holds (used to stop threads).
    pub fn nudge(&self) {
        self.wake.wake();
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The bound.
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

/// Wakes a thread that parks. The mailbox may exist before its reader does: the reader announces itself.
#[derive(Clone, Default)]
pub struct Unpark(Arc<OnceLock<Thread>>);

impl Unpark {
    /// Names the current thread as the one to wake. Called once, by the reader, before its first look.
    pub fn announce(&self) {
        let _ = self.0.set(std::thread::current());
    }
}

impl Wake for Unpark {
    fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(Arc<AtomicUsize>);
    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_full_mailbox_gives_the_item_back() {
        let mailbox = Mailbox::new(1, Box::new(Count(Arc::default())));
        assert_eq!(mailbox.try_post(1), Ok(()));
        assert_eq!(mailbox.try_post(2), Err(2));
        assert_eq!(mailbox.take(), Some(1));
    }

    #[test]
    fn only_a_sleeping_reader_is_woken_and_only_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailbox = Mailbox::new(8, Box::new(Count(wakes.clone())));
        mailbox.try_post(1).unwrap();
        assert_eq!(wakes.load(Ordering::SeqCst), 0);
        assert!(!mailbox.prepare_sleep(), "there is work");
        assert_eq!(mailbox.take(), Some(1));
        assert!(mailbox.prepare_sleep());
        mailbox.try_post(2).unwrap();
        mailbox.try_post(3).unwrap();
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
    }
}
