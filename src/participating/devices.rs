//! Registrations as plain values.

use crate::base::id::Aor;
use crate::base::time::UnixMillis;

/// One registered contact of a subscriber.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// The `+sip.instance` value without quotes and angle brackets (RFC 5626 §4.1), such as `urn:uuid:…`.
    pub instance: Option<Box<str>>,
    /// The contact URI as registered.
    pub contact: Box<str>,
    /// The contact's `q`, in thousandths (RFC 3261 §20.10); 1000 when absent.
    pub q_milli: u16,
    /// When the registration ends.
    pub expires: UnixMillis,
    /// The contact supports the CPM service (SPEC PM-4a: a contact that does not is no device).
    pub cpm: bool,
    /// Contact header parameters that are feature tags, as written: `+g.3gpp.icsi-ref="…";…`.
    pub features: Box<str>,
}

impl Device {
    /// What tells one device of a user from another: the instance where there is one, the contact otherwise.
    pub fn key(&self) -> &str {
        self.instance.as_deref().unwrap_or(&self.contact)
    }

    /// True while the registration holds.
    pub fn is_registered(&self, now: UnixMillis) -> bool {
        self.expires > now
    }
}

/// What a third-party REGISTER says of a user's devices (SPEC §2.1).
#[derive(Clone, Debug, PartialEq)]
pub struct RegistrationChange {
    /// The public identity that is registered (To).
    pub user: Aor,
    /// Devices that are registered or refreshed; one whose `expires` has passed is removed.
    pub devices: Vec<Device>,
    /// Every device that is not in `devices` goes (de-registration of the whole user, or `Contact: *`).
    pub replaces_all: bool,
    /// When it was received.
    pub at: UnixMillis,
}
