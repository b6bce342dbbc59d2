//! Registrations: what a third-party REGISTER makes of a subscriber's devices, and when they end.

use crate::base::id::Aor;
use crate::base::limits::DEVICE_COUNT_MAX;
use crate::base::time::UnixMillis;
use crate::participating::devices::{Device, RegistrationChange};
use std::collections::BTreeSet;

/// The devices after a change: refreshed ones replaced, new ones added, ended ones left out (SPEC §2.1).
///
/// Over [`DEVICE_COUNT_MAX`] the registrations that end first make room: a network that lost a de-registration must
/// not keep a subscriber from his new device.
pub fn merge(devices: &[Device], change: &RegistrationChange) -> Vec<Device> {
    let mut merged: Vec<Device> = if change.replaces_all { Vec::new() } else { devices.to_vec() };
    for device in &change.devices {
        match merged.iter_mut().find(|known| known.key() == device.key()) {
            Some(known) => *known = device.clone(),
            None => merged.push(device.clone()),
        }
    }
    merged.retain(|device| device.is_registered(change.at));
    while merged.len() > DEVICE_COUNT_MAX {
        let first_to_end =
            merged.iter().enumerate().min_by_key(|(_, device)| device.expires).map_or(0, |(index, _)| index);
        merged.remove(first_to_end);
    }
    debug_assert!(merged.iter().all(|device| device.is_registered(change.at)));
    merged
}

/// The devices whose registration holds.
pub fn without_expired(devices: &[Device], now: UnixMillis) -> Vec<Device> {
    devices.iter().filter(|device| device.is_registered(now)).cloned().collect()
}

/// When which subscriber's next registration ends. One entry per subscriber.
#[derive(Default)]
pub struct Expiries {
    due: BTreeSet<(UnixMillis, Aor)>,
}

impl Expiries {
    /// Follows a change of a subscriber's [`first_expiry`].
    pub fn follow(&mut self, aor: &Aor, before: Option<UnixMillis>, after: Option<UnixMillis>) {
        if before == after {
            return;
        }
        if let Some(expiry) = before {
            self.due.remove(&(expiry, aor.clone()));
        }
        if let Some(expiry) = after {
            self.due.insert((expiry, aor.clone()));
        }
    }

    /// Subscribers with a registration that has ended at `now`, the longest overdue first.
    pub fn due(&self, now: UnixMillis, limit: usize) -> Vec<Aor> {
        self.due.iter().take_while(|(expiry, _)| *expiry <= now).take(limit).map(|(_, aor)| aor.clone()).collect()
    }

    /// Subscribers with a registration.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// True when nobody is registered.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

/// When the first of these registrations ends.
pub fn first_expiry(devices: &[Device]) -> Option<UnixMillis> {
    devices.iter().map(|device| device.expires).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn device(instance: Option<&str>, contact: &str, expires: i64) -> Device {
        Device {
            instance: instance.map(Into::into),
            contact: contact.into(),
            q_milli: 1000,
            expires: UnixMillis(expires),
            cpm: true,
            features: "".into(),
        }
    }

    fn change(devices: Vec<Device>, replaces_all: bool) -> RegistrationChange {
        RegistrationChange { user: bob(), devices, replaces_all, at: NOW }
    }

    fn bob() -> Aor {
        Aor::from_canonical("sip:bob@home.example")
    }

    #[test]
    fn every_kind_of_registration_change_has_its_result() {
        let phone = device(Some("urn:uuid:1"), "sip:bob@192.0.2.1", 2_000_000);
        let phone_moved = device(Some("urn:uuid:1"), "sip:bob@192.0.2.9", 3_000_000);
        let tablet = device(Some("urn:uuid:2"), "sip:bob@192.0.2.2", 2_000_000);
        let desk = device(None, "sip:desk@192.0.2.3", 2_000_000);
        let desk_later = device(None, "sip:desk@192.0.2.3", 4_000_000);
        let gone = |device: &Device| Device { expires: NOW, ..device.clone() };
        let table: Vec<(&str, Vec<Device>, RegistrationChange, Vec<Device>)> = vec![
            ("first registration", vec![], change(vec![phone.clone()], false), vec![phone.clone()]),
            (
                "a second device is added",
                vec![phone.clone()],
                change(vec![tablet.clone()], false),
                vec![phone.clone(), tablet.clone()],
            ),
            (
                "the same instance from another contact replaces it",
                vec![phone.clone(), tablet.clone()],
                change(vec![phone_moved.clone()], false),
                vec![phone_moved.clone(), tablet.clone()],
            ),
            (
                "without an instance the contact is the key",
                vec![desk.clone(), phone.clone()],
                change(vec![desk_later.clone()], false),
                vec![desk_later.clone(), phone.clone()],
            ),
            (
                "one device de-registers",
                vec![phone.clone(), tablet.clone()],
                change(vec![gone(&phone)], false),
                vec![tablet.clone()],
            ),
            (
                "a device nobody knew de-registers",
                vec![phone.clone()],
                change(vec![gone(&desk)], false),
                vec![phone.clone()],
            ),
            ("everything de-registers", vec![phone.clone(), desk.clone()], change(vec![], true), vec![]),
            (
                "a full list replaces",
                vec![phone.clone(), desk.clone()],
                change(vec![tablet.clone()], true),
                vec![tablet.clone()],
            ),
            (
                "what expired meanwhile goes with the next change",
                vec![gone(&phone), tablet.clone()],
                change(vec![desk.clone()], false),
                vec![tablet.clone(), desk.clone()],
            ),
            (
                "the later of two entries for one device counts",
                vec![],
                change(vec![phone.clone(), phone_moved.clone()], false),
                vec![phone_moved.clone()],
            ),
        ];
        for (what, before, change, after) in table {
            assert_eq!(merge(&before, &change), after, "{what}");
        }
    }

    #[test]
    fn over_the_bound_the_first_to_end_makes_room() {
        let many: Vec<_> = (0..DEVICE_COUNT_MAX as i64)
            .map(|index| device(None, &format!("sip:{index}@192.0.2.1"), 2_000_000 - index))
            .collect();
        let newcomer = device(None, "sip:new@192.0.2.1", 3_000_000);
        let merged = merge(&many, &change(vec![newcomer.clone()], false));
        assert_eq!(merged.len(), DEVICE_COUNT_MAX);
        assert!(merged.contains(&newcomer));
        assert!(!merged.contains(&many[DEVICE_COUNT_MAX - 1]));
    }

    #[test]
    fn the_next_expiry_follows_every_change() {
        let mut expiries = Expiries::default();
        let early = vec![device(None, "sip:a@192.0.2.1", 10), device(None, "sip:b@192.0.2.1", 20)];
        expiries.follow(&bob(), None, first_expiry(&early));
        assert_eq!(expiries.due(UnixMillis(9), 10), []);
        assert_eq!(expiries.due(UnixMillis(10), 10), [bob()]);
        let later = without_expired(&early, UnixMillis(10));
        assert_eq!(later.len(), 1);
        expiries.follow(&bob(), first_expiry(&early), first_expiry(&later));
        assert_eq!(expiries.due(UnixMillis(19), 10), []);
        assert_eq!(expiries.len(), 1);
        expiries.follow(&bob(), first_expiry(&later), None);
        assert!(expiries.is_empty());
    }

    #[test]
    fn the_longest_overdue_come_first_and_no_more_than_asked() {
        let mut expiries = Expiries::default();
        for index in 0..10 {
            let aor = Aor::from_canonical(&format!("sip:{index}@home.example"));
            expiries.follow(&aor, None, Some(UnixMillis(100 - index)));
        }
        let due = expiries.due(UnixMillis(1000), 2);
        assert_eq!(due, [Aor::from_canonical("sip:9@home.example"), Aor::from_canonical("sip:8@home.example")]);
    }
}
