//! What a carrier sees of large message mode on the wire: the end of the process, headers that nobody may smuggle in.

use crate::support::documents::*;
use crate::support::large::*;
use crate::support::msrp::Arrival;
use crate::support::world::*;

#[test]
fn sigterm_hangs_up_on_both_sides_and_refuses_who_is_calling() {
    for variant in [VARIANTS[1], VARIANTS[3]] {
        let mut world = World::with_bob(variant);
        let mut talking = Call::establish(&mut world, &Plan::default());
        let mut ringing = Call::start(&mut world, &Plan::default());
        ringing.ring(&mut world, 180);
        world.alice.response_with(&ringing.sent, 180);
        world.appliance.sigterm();
        // Alice's connection to the appliance is not read from any more: her answers get nowhere, and are not waited for long.
        let byes = [talking.assert_b_ends(&mut world), talking.assert_a_ends(&mut world)];
        for bye in byes {
            assert_eq!(bye.must("Reason"), "SIP;cause=503;text=\"Shutting down\"", "{bye:?}");
        }
        let refused = world.alice.final_response(&ringing.sent);
        assert_eq!(refused.status(), Some(503), "{refused:?}");
        assert!(!refused.must("Retry-After").is_empty(), "{refused:?}");
        let branch = ringing.b_invite.branch();
        let cancels = |message: &crate::support::message::Received| {
            message.method() == Some("CANCEL") && message.branch() == branch
        };
        world.core.wanted("CANCEL", cancels);
        for peer in [&mut talking.a, &mut talking.b] {
            assert!(matches!(peer.arrival(crate::support::DEADLINE), Arrival::Closed), "the MSRP connection ends");
        }
        assert_eq!(world.appliance.wait().code(), Some(0));
    }
}

#[test]
fn a_line_end_that_only_some_see_is_refused() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let offer = crate::support::sdp::Media::offer(&crate::support::msrp::Peer::new()).text();
        let smuggled = [("X-Any".into(), "a\rP-Asserted-Identity: <sip:boss@a.example>".into())];
        let request = world.invite(BOB, &offer, &smuggled);
        world.assert_invite_refused(&request, 400);
        Call::establish(&mut world, &Plan::default()).hang_up(&mut world);
    });
}
