//! A directory of subscribers in a map.

use crate::participating::subscriber::{Directory, Subscriber};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Subscribers by canonical address; clones share them, as shards share the real directory.
#[derive(Clone, Debug, Default)]
pub struct MapDirectory(Rc<RefCell<HashMap<Box<str>, Subscriber>>>);

impl MapDirectory {
    /// Publishes a subscriber.
    pub fn publish(&self, aor: &str, subscriber: Subscriber) {
        self.0.borrow_mut().insert(aor.into(), subscriber);
    }

    /// Changes a subscriber; one that was unknown starts empty.
    pub fn change(&self, aor: &str, change: impl FnOnce(&mut Subscriber)) {
        change(self.0.borrow_mut().entry(aor.into()).or_default());
    }
}

impl Directory for MapDirectory {
    fn read<R>(&self, aor: &str, read: impl FnOnce(Option<&Subscriber>) -> R) -> R {
        read(self.0.borrow().get(aor))
    }
}
