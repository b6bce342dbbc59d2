//! The lock-free directory of subscribers: read by shards, written by the control thread.

use crate::base::id::Aor;
use crate::participating::subscriber::{Directory, Subscriber};
use foldhash::fast::RandomState;
use papaya::HashMap;
use std::fmt;
use std::sync::Arc;

/// Everybody the appliance knows. A reader takes no lock and touches no reference count; it sees a subscriber as a
/// whole, before or after a change, never between.
///
/// One thread writes. That is a rule between the rooms, not of the table: a change is a read, a clone and a
/// [`publish`](Self::publish), so a second writer could undo the first one's change.
pub struct Subscribers {
    table: HashMap<Aor, Subscriber, RandomState>,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Subscribers {
    /// An empty directory with room for `capacity` subscribers before it first grows.
    pub fn with_capacity(capacity: usize) -> Self {
        // Keys come from the network: the seed makes their places unpredictable.
        Self { table: HashMap::builder().capacity(capacity).hasher(RandomState::default()).build() }
    }

    /// Replaces everything known of one subscriber. Readers that start afterwards see it.
    pub fn publish(&self, aor: Aor, subscriber: Subscriber) {
        self.table.pin().insert(aor, subscriber);
    }

    /// Forgets a subscriber; false when he was unknown.
    pub fn forget(&self, aor: &str) -> bool {
        self.table.pin().remove(aor).is_some()
    }

    /// A copy of what is known of a subscriber, to be changed and published again.
    pub fn find(&self, aor: &str) -> Option<Subscriber> {
        self.read(aor, |subscriber| subscriber.cloned())
    }

    /// True when anything is known of this address.
    pub fn contains(&self, aor: &str) -> bool {
        self.table.pin().contains_key(aor)
    }

    /// How many subscribers are known.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True when nobody is known.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl Directory for Subscribers {
    fn read<R>(&self, aor: &str, read: impl FnOnce(Option<&Subscriber>) -> R) -> R {
        // The guard lives as long as the closure: reclamation waits for no one who merely holds a reference to us.
        let table = self.table.pin();
        read(table.get(aor))
    }
}

impl Directory for &Subscribers {
    fn read<R>(&self, aor: &str, read: impl FnOnce(Option<&Subscriber>) -> R) -> R {
        (**self).read(aor, read)
    }
}

impl Directory for Arc<Subscribers> {
    fn read<R>(&self, aor: &str, read: impl FnOnce(Option<&Subscriber>) -> R) -> R {
        (**self).read(aor, read)
    }
}

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Identities stay out of whatever prints this.
        f.debug_struct("Subscribers").field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixMillis;
    use crate::participating::devices::Device;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn subscriber(version: i64, device_count: usize) -> Subscriber {
        let device = |index: usize| Device {
            instance: None,
            contact: format!("sip:{index}@192.0.2.1").into(),
            q_milli: 1000,
            expires: UnixMillis(version),
            cpm: true,
            features: "".into(),
        };
        Subscriber { devices: (0..device_count).map(device).collect(), ..Subscriber::default() }
    }

    #[test]
    fn an_unknown_subscriber_reads_as_none() {
        let directory = Subscribers::default();
        assert!(directory.read("sip:nobody@home.example", |subscriber| subscriber.is_none()));
        assert!(directory.is_empty());
    }

    #[test]
    fn publishing_replaces_the_whole_value() {
        let directory = Arc::new(Subscribers::with_capacity(8));
        let bob = Aor::from_canonical("sip:bob@home.example");
        directory.publish(bob.clone(), subscriber(1, 2));
        directory.publish(bob.clone(), subscriber(2, 1));
        assert_eq!(directory.len(), 1);
        assert_eq!(directory.read(bob.as_str(), |s| s.map(|s| s.devices.len())), Some(1));
        assert!(directory.forget(bob.as_str()));
        assert!(!directory.forget(bob.as_str()));
        assert!(!directory.contains(bob.as_str()));
    }

    #[test]
    fn readers_never_see_half_a_change_nor_an_older_one_again() {
        const VERSIONS: i64 = 20_000;
        let directory = Subscribers::default();
        let users: Vec<Aor> =
            (0..16).map(|user| Aor::from_canonical(&format!("sip:user{user}@home.example"))).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (directory, users, done) = (&directory, &users, &done);
                scope.spawn(move || {
                    let mut seen = vec![0; users.len()];
                    let mut turn = reader;
                    while !done.load(Ordering::Acquire) {
                        turn = (turn + 1) % users.len();
                        directory.read(users[turn].as_str(), |subscriber| {
                            let Some(subscriber) = subscriber else { return };
                            let version = subscriber.devices[0].expires.0;
                            assert_eq!(subscriber.devices.len(), 1 + (version % 4) as usize);
                            assert!(subscriber.devices.iter().all(|device| device.expires.0 == version));
                            assert!(version >= seen[turn], "went back in time");
                            seen[turn] = version;
                        });
                    }
                });
            }
            for version in 1..=VERSIONS {
                let user = &users[version as usize % users.len()];
                directory.publish(user.clone(), subscriber(version, 1 + (version % 4) as usize));
            }
            done.store(true, Ordering::Release);
        });
        assert_eq!(directory.len(), users.len());
    }
}
