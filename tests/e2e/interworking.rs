//! Delivery as a non-CPM message (PM-4a-iv, SPEC §2.6).

use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::message::token;
use crate::support::world::*;

/// Bob is not registered and prefers interworking; the ISF is a stub.
fn interworking_world(variant: Variant, failure: &str) -> (World, Endpoint) {
    let isf = Endpoint::new();
    let uri = isf.uri(variant.transport);
    let world = World::with(variant, |config| {
        config.set("sip.isf", &format!("{uri:?}")).set("sip.isf_failure", &format!("{failure:?}"))
    });
    world.appliance.put_preferences(BOB, &Preferences::handling("interwork").document());
    (world, isf)
}

#[test]
fn a_refusal_of_the_isf_reaches_the_sender() {
    in_all_variants(|variant| {
        let (mut world, mut isf) = interworking_world(variant, "relay");
        let sent = world.send(&pager(ALICE, BOB));
        let handed_over = isf.request("MESSAGE");
        isf.answer_with(&handed_over, 488, &[("Warning", "399 isf \"no SMS\"")]);
        let response = world.alice.response(&sent);
        assert_eq!(response.status(), Some(488));
        assert_eq!(response.must("Warning"), "399 isf \"no SMS\"");
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a_failure_of_the_isf_can_defer_the_message() {
    in_all_variants(|variant| {
        let (mut world, mut isf) = interworking_world(variant, "defer");
        let sent = world.send(&pager(ALICE, BOB));
        let handed_over = isf.request("MESSAGE");
        isf.answer(&handed_over, 504);
        let response = world.alice.response(&sent);
        assert_eq!(response.status(), Some(202), "{response:?}");
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
    });
}

#[test]
fn an_isf_that_cannot_be_reached_can_defer_the_message() {
    let gone = Endpoint::new().uri(Transport::Tcp);
    let mut world = World::with(VARIANTS[0], |config| {
        config.set("sip.isf", &format!("{gone:?}")).set("sip.isf_failure", "\"defer\"")
    });
    world.appliance.put_preferences(BOB, &Preferences::handling("interwork").document());
    assert_eq!(world.exchange(&pager(ALICE, BOB)).status(), Some(202));
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
}

#[test]
fn a_message_from_the_isf_never_goes_back_to_it() {
    for variant in [VARIANTS[0], VARIANTS[1]] {
        let (mut world, mut isf) = interworking_world(variant, "relay");
        let sent = isf.send(&pager("tel:+15550100", BOB), Transport::Udp, world.addr());
        let response = isf.response(&sent);
        let status = response.status().expect("a response");
        assert!(status == 202 || (400..600).contains(&status), "{response:?}");
        assert!(status != 403 || response.header("Warning").is_some(), "every 403 has a Warning: {response:?}");
        // The next message of another sender is the first that the ISF sees.
        let sent = world.send(&pager(ALICE, BOB));
        let handed_over = isf.request("MESSAGE");
        assert_eq!(handed_over.call_id(), sent.call_id);
        isf.answer(&handed_over, 200);
        assert_eq!(world.alice.response(&sent).status(), Some(200));
    }
}

#[test]
fn a_message_from_the_isf_that_comes_through_the_core_does_not_go_back_either() {
    for variant in [VARIANTS[0], VARIANTS[3]] {
        let (mut world, isf) = interworking_world(variant, "relay");
        // The S-CSCF put its own Via on top of the function's.
        let via = isf.via(variant.transport, &format!("z9hG4bK{}", token("isf")));
        let own = world.alice.via(variant.transport, &format!("z9hG4bK{}", token("s")));
        let request = pager("tel:+15550100", BOB).header_first("Via", &via).header_first("Via", &own);
        let response = world.exchange(&request);
        assert_eq!(response.status(), Some(202), "{response:?}");
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
        drop(isf);
    }
}

#[test]
fn a_message_from_the_isf_for_a_registered_user_is_delivered() {
    let (mut world, mut isf) = interworking_world(VARIANTS[0], "relay");
    world.register(BOB, &[Device::new()]);
    let sent = isf.send(&pager("tel:+15550100", BOB), Transport::Udp, world.addr());
    let forwarded = world.core.request("MESSAGE");
    world.core.answer(&forwarded, 200);
    assert_eq!(isf.response(&sent).status(), Some(200));
}

#[test]
fn without_an_isf_interworking_fails_with_an_answer() {
    let mut world = World::udp();
    world.appliance.put_preferences(BOB, &Preferences::handling("interwork").document());
    let response = world.exchange(&pager(ALICE, BOB));
    let status = response.status().expect("a response");
    assert!(status == 202 || (400..600).contains(&status), "{response:?}");
    world.assert_nothing_forwarded();
}
