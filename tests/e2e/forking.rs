//! Device selection (PM-6): one request per selected device, one final response for the sender (RFC 3261 §16.7).

use crate::support::documents::*;
use crate::support::eventually;
use crate::support::message::Received;
use crate::support::world::*;

/// Two of three devices are selected; the two forked requests are at the core.
fn forked(
    variant: Variant,
    change: impl FnOnce(Preferences) -> Preferences,
) -> (World, crate::support::endpoint::Sent, [Received; 2]) {
    let mut world = World::new(variant);
    let devices = [Device::new(), Device::new(), Device::new()];
    world.register(BOB, &devices);
    let selected = vec![devices[0].instance().to_owned(), devices[2].instance().to_owned()];
    let preferences = change(Preferences { selected: selected.clone(), ..Preferences::default() });
    world.appliance.put_preferences(BOB, &preferences.document());
    let request = pager(ALICE, BOB);
    let sent = world.send(&request);
    let forks = [world.core.request("MESSAGE"), world.core.request("MESSAGE")];
    let mut named: Vec<String> = forks.iter().map(instance_of).collect();
    for fork in &forks {
        assert_eq!(fork.call_id(), sent.call_id);
        assert_eq!(fork.uri(), Some(BOB));
        assert_eq!(fork.body(), request.body);
        assert_eq!(fork.values("Accept-Contact").len(), 2);
    }
    assert_ne!(forks[0].branch(), forks[1].branch());
    named.sort();
    let mut expected = selected;
    expected.sort();
    assert_eq!(named, expected, "one request per selected device, each naming one");
    (world, sent, forks)
}

fn instance_of(fork: &Received) -> String {
    let values = fork.values("Accept-Contact");
    let added = values.iter().find(|value| value.contains("+sip.instance")).expect("an instance is named");
    let (_, rest) = added.split_once("+sip.instance=\"<").expect("quoted, in angle brackets");
    rest.split('>').next().expect("split yields a first part").to_owned()
}

/// The sender's one final response when the devices answer so, in this order.
fn merged(first: u16, second: u16) -> Received {
    let (mut world, sent, forks) = forked(VARIANTS[1], |preferences| preferences);
    world.core.answer(&forks[0], first);
    world.core.answer(&forks[1], second);
    let response = world.alice.response(&sent);
    world.assert_nothing_forwarded();
    response
}

#[test]
fn two_selected_devices_get_one_request_each_and_one_200_is_enough() {
    in_all_variants(|variant| {
        let (mut world, sent, forks) = forked(variant, |preferences| preferences);
        world.core.answer(&forks[0], 486);
        world.core.answer(&forks[1], 200);
        assert_eq!(world.alice.response(&sent).status(), Some(200));
        world.assert_nothing_forwarded();
    });
}

#[test]
fn the_first_200_reaches_the_sender_at_once_and_a_second_is_absorbed() {
    in_all_variants(|variant| {
        let (mut world, sent, forks) = forked(variant, |preferences| preferences);
        world.core.answer(&forks[1], 200);
        assert_eq!(world.alice.response(&sent).status(), Some(200), "while the other device has not answered");
        world.core.answer(&forks[0], 200);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn of_two_failures_one_reaches_the_sender() {
    let response = merged(486, 404);
    assert!(matches!(response.status(), Some(486 | 404)), "{response:?}");
    let response = merged(404, 486);
    assert!(matches!(response.status(), Some(486 | 404)), "{response:?}");
}

#[test]
fn a_lower_class_of_failure_is_the_better_one() {
    assert_eq!(merged(500, 486).status(), Some(486));
    assert_eq!(merged(486, 500).status(), Some(486));
}

#[test]
fn a_decline_of_the_user_wins_over_failures_of_devices() {
    assert_eq!(merged(486, 603).status(), Some(603));
    assert_eq!(merged(603, 486).status(), Some(603));
}

#[test]
fn a_retransmission_does_not_fork_again() {
    let (mut world, sent, forks) = forked(VARIANTS[1], |preferences| preferences);
    world.alice.resend(&sent);
    let repeats = || world.appliance.metric("ringpost_sip_request_retransmissions_total", &[]);
    eventually("the repeat is absorbed", || (repeats() == 1).then_some(()));
    world.core.answer(&forks[0], 200);
    let response = world.alice.response(&sent);
    world.core.answer(&forks[1], 200);
    world.alice.resend(&sent);
    assert_eq!(world.alice.response(&sent).raw, response.raw);
    world.assert_nothing_forwarded();
}

#[test]
fn a_forked_message_is_recorded_once() {
    let (mut world, sent, forks) =
        forked(VARIANTS[0], |preferences| Preferences { recording: "active", ..preferences });
    world.core.answer(&forks[0], 200);
    world.core.answer(&forks[1], 200);
    assert_eq!(world.alice.response(&sent).status(), Some(200));
    assert_eq!(world.appliance.admin_count(BOB, "/history"), 1);
}

#[test]
fn a_selected_device_that_is_not_registered_is_left_out() {
    let mut world = World::udp();
    let devices = [Device::new(), Device::new()];
    world.register(BOB, &devices);
    let selected = vec![devices[0].instance().to_owned(), "urn:uuid:00000000-0000-0000-0000-00000000dead".to_owned()];
    world.appliance.put_preferences(BOB, &Preferences { selected, ..Preferences::default() }.document());
    let forwarded = world.assert_delivered(&pager(ALICE, BOB));
    assert_eq!(instance_of(&forwarded), devices[0].instance());
    world.assert_nothing_forwarded();
}
