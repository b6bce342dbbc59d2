//! One subscriber as a shard sees it: immutable, compiled, looked up without a lock.

use super::devices::Device;
use super::policy::AccessPolicy;
use super::preferences::{Availability, Profile};
use crate::base::time::UnixMillis;
use std::sync::Arc;

/// Everything known of one subscriber. A change replaces the whole value.
#[derive(Clone, Debug, Default)]
pub struct Subscriber {
    /// The compiled access policy; `None` rejects nobody.
    pub policy: Option<Arc<AccessPolicy>>,
    /// The active preference profile; `None` is the provider's default.
    pub profile: Option<Arc<Profile>>,
    /// What the admin API set, until the next preference document.
    pub availability: Option<Availability>,
    /// Registered contacts, those without CPM included.
    pub devices: Box<[Device]>,
}

impl Subscriber {
    /// The devices that hold a registration and support CPM.
    pub fn cpm_devices(&self, now: UnixMillis) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(move |device| device.cpm && device.is_registered(now))
    }

    /// The availability in force.
    pub fn availability(&self) -> Availability {
        self.availability.or_else(|| self.profile.as_ref().map(|profile| profile.availability)).unwrap_or_default()
    }

    /// Registered for CPM and available: messages can be delivered (PM-4b).
    pub fn is_reachable(&self, now: UnixMillis) -> bool {
        self.availability() == Availability::Available && self.cpm_devices(now).next().is_some()
    }
}

/// Where a core looks subscribers up. The control plane's directory implements it; simulations use a map.
pub trait Directory {
    /// Calls `read` with the subscriber of a canonical address of record, if known.
    fn read<R>(&self, aor: &str, read: impl FnOnce(Option<&Subscriber>) -> R) -> R;
}
