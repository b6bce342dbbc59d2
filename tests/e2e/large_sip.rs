//! The signalling of large message mode (SPEC §1.2): a back-to-back user agent with two dialogs of its own.

use crate::support::dialog::{address_in, tag_of, uri_in};
use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Sent, Transport};
use crate::support::large::*;
use crate::support::message::{Received, Request, token};
use crate::support::msrp::Peer;
use crate::support::sdp::{Media, Sdp};
use crate::support::world::*;
use std::time::{Duration, Instant};

/// Each end of the rules that depend on the transport.
const BOTH: [Variant; 2] = [VARIANTS[1], VARIANTS[3]];

/// Alice's offer, when nobody will use it.
fn any_offer() -> String {
    Media::offer(&Peer::new()).text()
}

/// The core's next CANCEL is for this INVITE; both are answered.
#[track_caller]
fn assert_cancelled(world: &mut World, invite: &Received) {
    let cancel = world
        .core
        .wanted("CANCEL", |message| message.method() == Some("CANCEL") && message.branch() == invite.branch());
    assert_eq!((cancel.call_id(), cancel.uri()), (invite.call_id(), invite.uri()));
    assert_eq!(cancel.must("CSeq").split(' ').next(), invite.must("CSeq").split(' ').next());
    world.core.answer(&cancel, 200);
    world.core.answer(invite, 487);
    world.core.wanted("ACK", |message| message.method() == Some("ACK") && message.branch() == invite.branch());
}

/// A request inside a dialog that one side sends, passed on or answered here; its final response. Whoever gets it on the
/// other side answers with 200 and this description.
#[track_caller]
fn answered_by_either(
    world: &mut World,
    call: &mut Call,
    from_a: bool,
    request: &Request,
    answer: &str,
) -> (Received, bool) {
    let (near, far) = if from_a {
        (call.a_dialog().clone(), call.b_dialog().clone())
    } else {
        (call.b_dialog().clone(), call.a_dialog().clone())
    };
    let (sender, receiver) =
        if from_a { (&mut world.alice, &mut world.core) } else { (&mut world.core, &mut world.alice) };
    let sent = near.send(sender, request);
    let deadline = Instant::now() + Duration::from_secs(25);
    let mut passed_on = false;
    loop {
        let wait = Duration::from_millis(10);
        if let Some(arrived) =
            receiver.wanted_within(wait, |message| message.method() == Some(&request.method) && far.owns(message))
        {
            let body = (!arrived.body().is_empty()).then_some(("application/sdp", answer.as_bytes()));
            receiver.answer_as(&arrived, 200, "unused", &[("Contact", &far.contact)], body);
            passed_on = true;
        }
        let is_final = |message: &Received| message.status() >= Some(200) && message.branch() == sent.branch;
        if let Some(response) = sender.wanted_within(wait, is_final) {
            if request.method == "INVITE" {
                let number =
                    request.value("CSeq").and_then(|value| value.split(' ').next()?.parse().ok()).expect("a number");
                near.send(sender, &near.ack(number));
                if passed_on {
                    far.expect(receiver, "ACK");
                }
            }
            return (response, passed_on);
        }
        assert!(Instant::now() < deadline, "{} is answered", request.method);
    }
}

#[test]
fn a_100_comes_within_200_ms_whatever_the_device_does() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        // A busy machine may pause the test itself: one of a few attempts must be in time.
        let in_time = (0..5).any(|_| {
            let request = world.invite(BOB, &any_offer(), &[]);
            let start = Instant::now();
            let sent = world.send(&request);
            let trying = world.alice.response_with(&sent, 100);
            assert!(!trying.must("To").contains(";tag="), "{trying:?}");
            start.elapsed() < Duration::from_millis(200)
        });
        assert!(in_time);
    }
}

#[test]
fn a_ringing_device_is_heard_of_with_a_tag_of_the_appliances_own() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.ring(&mut world, 180);
        let ringing = world.alice.response_with(&call.sent, 180);
        let tag = tag_of(&ringing.must("To"));
        assert_ne!(tag, call.b_tag);
        assert!(!uri_in(&ringing.must("Contact")).contains(&world.core.addr().to_string()), "{ringing:?}");
        call.answer(&mut world);
        assert_eq!(tag_of(&call.a_dialog().remote), tag, "the early dialog is the one that is confirmed");
    });
}

#[test]
fn two_early_dialogs_behind_one_leg_are_two_early_dialogs_for_alice() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.ring(&mut world, 180);
        let first = world.alice.response_with(&call.sent, 180);
        call.b_tag = token("bt2");
        call.ring(&mut world, 180);
        let second = world.alice.response_with(&call.sent, 180);
        let (first, second) = (tag_of(&first.must("To")), tag_of(&second.must("To")));
        assert_ne!(first, second);
        call.answer(&mut world);
        assert_eq!(tag_of(&call.a_dialog().remote), second, "the device that answered rang second");
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    });
}

/// Two of Bob's three devices are selected and both are called.
fn forked(variant: Variant) -> (World, Call, Received) {
    let mut world = World::new(variant);
    let devices = [Device::new(), Device::new(), Device::new()];
    world.register(BOB, &devices);
    let selected = vec![devices[0].instance().to_owned(), devices[2].instance().to_owned()];
    let preferences = Preferences { selected: selected.clone(), ..Preferences::default() };
    world.appliance.put_preferences(BOB, &preferences.document());
    let call = Call::start(&mut world, &Plan::default());
    let other = world.core.wanted("second INVITE", |message| message.method() == Some("INVITE"));
    assert_ne!(call.b_invite.call_id(), other.call_id(), "dialogs of their own");
    for invite in [&call.b_invite, &other] {
        let values = invite.values("Accept-Contact");
        assert!(values.iter().any(|value| value == ACCEPT_CONTACT_LARGE), "{values:?}");
        assert_eq!(values.len(), 2, "{values:?}");
        let named = selected.iter().filter(|instance| values.iter().any(|value| value.contains(*instance)));
        assert_eq!(named.count(), 1, "{values:?}");
    }
    (world, call, other)
}

#[test]
fn the_first_device_that_answers_wins_and_the_other_is_cancelled() {
    in_all_variants(|variant| {
        let (mut world, mut call, other) = forked(variant);
        world.core.answer_as(&other, 180, "ringing", &[("Contact", &call.b_contact(&world))], None);
        world.alice.response_with(&call.sent, 180);
        call.answer(&mut world);
        assert_cancelled(&mut world, &other);
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
        call.hang_up(&mut world);
    });
}

#[test]
fn a_device_that_answers_too_late_is_acknowledged_and_hung_up() {
    in_all_variants(|variant| {
        let (mut world, mut call, other) = forked(variant);
        let mut late = Call {
            plan: call.plan.clone(),
            a: Peer::new(),
            b: Peer::new(),
            request: call.request.clone(),
            sent: call.sent.clone(),
            b_offer: sdp_of(&other),
            b_invite: other,
            b_tag: token("late"),
            a_ok: None,
            a_answer: None,
            a_dialog: None,
            b_dialog: None,
        };
        late.ring(&mut world, 180);
        call.answer(&mut world);
        late.answer_alone(&mut world);
        late.b_dialog().clone().expect(&mut world.core, "ACK");
        late.assert_b_ends(&mut world);
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    });
}

#[test]
fn of_two_failures_alice_hears_one() {
    for variant in BOTH {
        let (mut world, call, other) = forked(variant);
        world.core.answer(&call.b_invite, 486);
        world.core.answer(&other, 404);
        let response = world.alice.final_response(&call.sent);
        assert!(matches!(response.status(), Some(486 | 404)), "{response:?}");
    }
}

#[test]
fn a_6xx_of_one_device_ends_the_search() {
    let (mut world, mut call, other) = forked(VARIANTS[1]);
    call.ring(&mut world, 180);
    world.core.answer(&other, 603);
    assert_cancelled(&mut world, &call.b_invite);
    assert_eq!(world.alice.final_response(&call.sent).status(), Some(603));
}

#[test]
fn failures_reach_alice_with_their_code() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        for (status, expected) in
            [(302, 480), (404, 404), (415, 415), (480, 480), (486, 486), (488, 488), (500, 500), (603, 603)]
        {
            let call = Call::start(&mut world, &Plan::default());
            let extra = [("Warning", "399 device \"as it was\""), ("Contact", "<sip:elsewhere@192.0.2.1>")];
            world.core.answer_with(&call.b_invite, status, if status == 302 { &extra } else { &extra[..1] });
            let response = world.alice.final_response(&call.sent);
            assert_eq!(response.status(), Some(expected), "{response:?}");
            assert_eq!(response.must("Warning"), "399 device \"as it was\"");
            assert_eq!(response.header("Contact"), None, "{response:?}");
            assert_eq!(response.values("Via").len(), 1);
            let branch = call.b_invite.branch();
            world.core.wanted("ACK", |message| message.method() == Some("ACK") && message.branch() == branch);
        }
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    }
}

#[test]
fn a_call_can_be_cancelled_before_anybody_rings() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        let cancel = world.alice.cancel(&call.sent);
        assert_eq!(world.alice.final_response(&cancel).status(), Some(200));
        // RFC 3261 §9.1: a CANCEL leaves once the INVITE had a provisional response.
        call.ring(&mut world, 180);
        assert_cancelled(&mut world, &call.b_invite);
        assert_eq!(world.alice.final_response(&call.sent).status(), Some(487));
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    });
}

#[test]
fn a_ringing_call_can_be_cancelled() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.ring(&mut world, 180);
        world.alice.response_with(&call.sent, 180);
        let cancel = world.alice.cancel(&call.sent);
        assert_eq!(world.alice.final_response(&cancel).status(), Some(200));
        assert_cancelled(&mut world, &call.b_invite);
        assert_eq!(world.alice.final_response(&call.sent).status(), Some(487));
        if world.is_tcp() {
            world.assert_all_released();
        }
    });
}

#[test]
fn a_device_that_answers_although_it_is_being_cancelled_is_hung_up() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.ring(&mut world, 180);
        world.alice.response_with(&call.sent, 180);
        let cancelling = world.alice.cancel(&call.sent);
        let cancel = world.core.wanted("CANCEL", |message| message.method() == Some("CANCEL"));
        call.answer_alone(&mut world);
        world.core.answer(&cancel, 200);
        call.b_dialog().clone().expect(&mut world.core, "ACK");
        call.assert_b_ends(&mut world);
        assert_eq!(world.alice.final_response(&cancelling).status(), Some(200));
        assert_eq!(world.alice.final_response(&call.sent).status(), Some(487));
    }
}

#[test]
fn a_cancel_that_comes_too_late_changes_nothing() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.answer(&mut world);
        let cancel = world.alice.cancel(&call.sent);
        let response = world.alice.final_response(&cancel);
        // The transaction of a 2xx has ended for some (RFC 3261 §9.2), and lives for others (RFC 6026 §7.1).
        assert!(matches!(response.status(), Some(200 | 481)), "{response:?}");
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    }
}

#[test]
fn a_cancel_for_nothing_gets_481() {
    let mut world = World::with_bob(VARIANTS[1]);
    let request = Request::between("CANCEL", ALICE, BOB);
    let response = world.exchange(&request);
    assert_eq!(response.status(), Some(481), "{response:?}");
}

#[test]
fn either_side_can_hang_up() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        for from_a in [true, false] {
            let mut call = Call::establish(&mut world, &Plan::default());
            call.assert_works();
            if from_a {
                call.hang_up(&mut world);
            } else {
                let bye = call.b_dialog().request("BYE").header("Reason", "SIP;cause=200;text=\"enough\"");
                let sent = call.b_dialog().clone().send(&mut world.core, &bye);
                call.assert_a_ends(&mut world);
                assert_eq!(world.core.final_response(&sent).status(), Some(200));
            }
            // Both connections are released by the side that left: nothing more can be sent on either.
            let (mut a, mut b) = (call.a.take_wire(), call.b.take_wire());
            let late = call.a.whole("late", CPIM, b"late");
            if a.try_write(&late.encode()).is_ok() {
                match a.arrival(crate::support::DEADLINE) {
                    crate::support::msrp::Arrival::Frame(frame) => assert_eq!(frame.status, Some(481), "{frame:?}"),
                    crate::support::msrp::Arrival::Closed => {}
                    crate::support::msrp::Arrival::Silence => {
                        panic!("a SEND behind the end is answered or the connection closed")
                    }
                }
            }
            assert!(
                !matches!(b.arrival(Duration::ZERO), crate::support::msrp::Arrival::Frame(frame) if frame.is("SEND"))
            );
        }
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    });
}

#[test]
fn both_sides_can_hang_up_at_once() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let (mut a, mut b) = (call.a_dialog().clone(), call.b_dialog().clone());
        let (a_bye, b_bye) = (a.request("BYE"), b.request("BYE"));
        let a_sent = a.send(&mut world.alice, &a_bye);
        let b_sent = b.send(&mut world.core, &b_bye);
        // Each may get the other's, or the answer to its own first.
        for (endpoint, dialog, sent) in [(&mut world.alice, &a, &a_sent), (&mut world.core, &b, &b_sent)] {
            if let Some(bye) = endpoint.wanted_within(Duration::from_millis(300), |message| {
                message.method() == Some("BYE") && dialog.owns(message)
            }) {
                endpoint.answer(&bye, 200);
            }
            let status = endpoint.final_response(sent).status();
            assert!(matches!(status, Some(200 | 481)), "{status:?}");
        }
        drop((call.a.take_wire(), call.b.take_wire()));
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    }
}

#[test]
fn a_bye_in_a_dialog_that_is_over_gets_481() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        call.hang_up(&mut world);
        let again = call.a_dialog().request("BYE");
        let response = call.a_dialog().clone().exchange(&mut world.alice, &again);
        assert_eq!(response.status(), Some(481), "{response:?}");
        // A tag that somebody makes up finds nothing either.
        let mut made_up = call.a_dialog().clone();
        made_up.remote = format!("<{BOB}>;tag=madeup");
        for method in ["BYE", "UPDATE", "INVITE"] {
            let request = made_up.request(method);
            let response = made_up.exchange(&mut world.alice, &request);
            assert_eq!(response.status(), Some(481), "{method} {response:?}");
        }
    }
}

#[test]
fn a_200_is_repeated_until_alice_acknowledges_it() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.answer(&mut world);
        let first = call.a_ok.clone().expect("answered");
        for _ in 0..2 {
            let again = world.alice.response_with(&call.sent, 200);
            assert_eq!(again.raw, first.raw);
        }
        call.acknowledge(&mut world);
        // A second ACK is absorbed, and nothing is repeated any more.
        call.acknowledge_alone(&mut world);
        call.join();
        call.assert_works();
        let branch = call.sent.branch.clone();
        world.alice.drain(|message| message.branch() == branch);
        let more = world.alice.wanted_within(Duration::from_millis(1500), |message| message.branch() == branch);
        assert!(more.is_none(), "{more:?}");
    }
}

#[test]
fn a_device_that_repeats_its_200_gets_its_ack_again() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::connected(&mut world, &Plan::default());
        // The same 200 again, as if the ACK had been lost; the ACK may be the same datagram.
        call.answer_alone(&mut world);
        let dialog = call.b_dialog().clone();
        let deadline = Instant::now() + crate::support::DEADLINE;
        loop {
            let again = world.core.next_within(deadline - Instant::now()).expect("an ACK for the repeated 200");
            if again.method() == Some("ACK") && dialog.owns(&again) {
                break;
            }
        }
        call.join();
        call.assert_works();
    }
}

#[test]
fn a_repeated_invite_calls_nobody_twice() {
    let mut world = World::with_bob(VARIANTS[1]);
    let call = Call::start(&mut world, &Plan::default());
    for _ in 0..3 {
        world.alice.resend(&call.sent);
    }
    let other = world.core.wanted_within(Duration::from_millis(400), |message| message.method() == Some("INVITE"));
    assert!(other.is_none(), "{other:?}");
}

#[test]
fn route_sets_are_kept_apart() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let a_route = format!("<{};lr>", world.alice.uri(variant.transport));
        let b_route = format!("<{};lr;mark=b>", world.core.uri(variant.transport));
        let plan = Plan::default().header("Record-Route", &a_route).answer_header("Record-Route", &b_route);
        let mut call = Call::start(&mut world, &plan);
        assert_eq!(call.b_invite.header("Record-Route"), None, "Alice's routes stay on her side");
        call.answer(&mut world);
        let ok = call.a_ok.clone().expect("answered");
        assert_eq!(ok.values("Record-Route").concat(), a_route, "copied, and the device's stay on its side");
        call.a_dialog().routes.clear();
        call.acknowledge_alone(&mut world);
        let ack = call.b_acknowledged(&mut world);
        assert_eq!(ack.values("Route").concat(), b_route);
        assert_eq!(ack.uri().map(str::to_owned), Some(uri_in(&call.b_contact(&world))));
        call.join();
        let bye = call.b_dialog().request("BYE").without("Route");
        let b_dialog = crate::support::dialog::Dialog { routes: Vec::new(), ..call.b_dialog().clone() };
        let sent = b_dialog.send(&mut world.core, &bye);
        let arrived = call.assert_a_ends(&mut world);
        assert_eq!(arrived.values("Route"), [a_route]);
        assert_eq!(arrived.uri().map(str::to_owned), Some(uri_in(&world.alice.contact("alice", variant.transport))));
        assert_eq!(world.core.final_response(&sent).status(), Some(200));
    });
}

#[test]
fn requests_go_to_the_shard_that_the_contact_names() {
    // With two shards, the Contact is where the session is: the address that listens for everybody is another.
    let mut world = World::with_bob(VARIANTS[1]);
    for _ in 0..6 {
        let mut call = Call::connected(&mut world, &Plan::default());
        assert_eq!(call.a_dialog().next_hop(), address_in(&call.a_dialog().target));
        call.join();
        call.assert_works();
        call.hang_up(&mut world);
    }
}

#[test]
fn a_refresh_is_answered_on_either_leg() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let plan = Plan::default().header("Session-Expires", "1800;refresher=uac");
        let mut call = Call::establish(&mut world, &plan);
        for from_a in [true, false] {
            let dialog = if from_a { call.a_dialog() } else { call.b_dialog() };
            let update =
                dialog.request("UPDATE").header("Supported", "timer").header("Session-Expires", "1800;refresher=uac");
            let (response, _) = answered_by_either(&mut world, &mut call, from_a, &update, "");
            assert_eq!(response.status(), Some(200), "{response:?}");
            assert!(response.must("Session-Expires").starts_with("1800"), "{response:?}");
        }
        let update = call.a_dialog().request("UPDATE").header("Supported", "timer").header("Session-Expires", "60");
        let response = call.a_dialog().clone().exchange(&mut world.alice, &update);
        assert_eq!((response.status(), response.header("Min-SE").as_deref()), (Some(422), Some("90")));
        call.assert_works();
    });
}

#[test]
fn a_re_invite_with_the_same_offer_changes_nothing() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let offer = Media::offer(&call.a).text();
        let answer = call.b_answer().text();
        let before = call.a_answer().clone();
        let again = call.a_dialog().request("INVITE").header("Supported", "timer").body("application/sdp", offer);
        let (response, _) = answered_by_either(&mut world, &mut call, true, &again, &answer);
        assert_eq!(response.status(), Some(200), "{response:?}");
        let after = Sdp::read(response.body());
        assert_eq!(after.path(), before.path());
        assert_eq!(after.origin()[1], before.origin()[1], "the session is the same");
        call.assert_works();
        let offer = Media { direction: Some("recvonly"), setup: Some("active"), ..Media::offer(&call.b) }.text();
        let answer = Media { setup: Some("passive"), ..Media::offer(&call.a) }.text();
        let again = call.b_dialog().request("INVITE").header("Supported", "timer").body("application/sdp", offer);
        let (response, _) = answered_by_either(&mut world, &mut call, false, &again, &answer);
        assert_eq!(response.status(), Some(200), "{response:?}");
        assert_eq!(Sdp::read(response.body()).path(), call.b_offer.path());
        call.assert_works();
    });
}

#[test]
fn a_re_invite_with_a_new_offer_reaches_the_other_side() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let moved = Media { version: 2, max_size: Some(77_000), ..Media::offer(&call.a) };
        let dialog = call.a_dialog().clone();
        let again = call.a_dialog().request("INVITE").body("application/sdp", moved.text());
        let sent = dialog.send(&mut world.alice, &again);
        let arrived = call.b_dialog().clone().expect(&mut world.core, "INVITE");
        let offer = sdp_of(&arrived);
        assert_eq!(offer.must("max-size"), "77000");
        assert_eq!(offer.path(), call.b_offer.path());
        let (old, new) = (call.b_offer.origin(), offer.origin());
        assert_eq!(old[1], new[1], "the session id stays");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        assert_eq!(number(&new[2]), number(&old[2]) + 1, "RFC 3264 §8: the version grows by one");
        // A re-INVITE can be refused; the session goes on as it was.
        world.core.answer(&arrived, 488);
        assert_eq!(world.alice.final_response(&sent).status(), Some(488));
        call.assert_works();
        call.hang_up(&mut world);
    });
}

#[test]
fn offers_that_cannot_be_met_get_488() {
    let mut world = World::with_bob(VARIANTS[1]);
    let peer = Peer::new();
    let good = Media::offer(&peer);
    let text = good.text();
    let bad = [
        ("no message/cpim", Media { accept_types: "text/plain", ..good.clone() }.text()),
        ("recvonly", Media { direction: Some("recvonly"), ..good.clone() }.text()),
        ("inactive", Media { direction: Some("inactive"), ..good.clone() }.text()),
        ("port 0", text.replace(&format!("m=message {} ", peer.addr().port()), "m=message 0 ")),
        ("no message line", text.replace("m=message ", "m=audio ").replace("TCP/MSRP *", "RTP/AVP 0")),
        ("no path", text.replace("a=path:", "a=x-path:")),
        ("another transport", text.replace("TCP/MSRP", "UDP/MSRP")),
    ];
    for (what, offer) in bad {
        println!("{what}");
        let request = world.invite(BOB, &offer, &[]);
        let sent = world.send(&request);
        let response = world.alice.final_response(&sent);
        assert_eq!(response.status(), Some(488), "{what}: {response:?}");
    }
    let empty = Request { body: Vec::new(), ..world.invite(BOB, "", &[]).without("Content-Type") };
    world.assert_invite_refused(&empty, 488);
    assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
}

#[test]
fn wildcards_in_accept_types_take_cpim() {
    for accept_types in ["*", "text/plain message/*", "text/plain message/cpim"] {
        let mut world = World::with_bob(VARIANTS[0]);
        let a = Peer::new();
        let offer = Media { accept_types, ..Media::offer(&a) };
        let request = world.invite(BOB, &offer.text(), &[]);
        let sent = world.send(&request);
        let invite = world.forwarded_invite(&sent);
        let offered = sdp_of(&invite).must("accept-types");
        assert!(offered.contains("message/cpim") || offered == accept_types, "{offered}");
    }
}

#[test]
fn a_description_that_is_no_description_gets_an_error() {
    let mut world = World::with_bob(VARIANTS[1]);
    for offer in ["", "hello", "v=0\r\nm=message", "m=message 1 TCP/MSRP *\r\n"] {
        let request = world.invite(BOB, offer, &[]);
        let sent = world.send(&request);
        let response = world.alice.final_response(&sent);
        assert!(matches!(response.status(), Some(400 | 488)), "{offer:?}: {response:?}");
    }
    world.assert_nothing_forwarded();
}

#[test]
fn a_body_that_is_no_description_gets_415_with_what_is_taken() {
    let mut world = World::with_bob(VARIANTS[1]);
    let request = world.invite(BOB, "", &[]).body("text/plain", "hello");
    let response = world.assert_invite_refused(&request, 415);
    assert!(response.values("Accept").iter().any(|value| value == "application/sdp"), "{response:?}");
}

#[test]
fn a_cpim_part_beside_the_offer_reaches_the_device() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let a = Peer::new();
        let cpim = cpim(ALICE, BOB, &token("imdn"), "positive-delivery", "text/plain", BODY_MARK);
        let body = format!(
            "--bnd\r\nContent-Type: application/sdp\r\n\r\n{}\r\n--bnd\r\nContent-Type: message/cpim\r\n\r\n{cpim}\r\n--bnd--\r\n",
            Media::offer(&a).text()
        );
        let request = world.invite(BOB, "", &[]).body("multipart/mixed;boundary=\"bnd\"", body);
        let sent = world.send(&request);
        let mut call = Call::arrived(&mut world, &Plan::default(), a, request, sent);
        let parts = parts_of(&call.b_invite);
        assert_eq!(parts.len(), 2, "{parts:?}");
        let (_, kept) = parts.iter().find(|(head, _)| head.contains("message/cpim")).expect("the CPIM part");
        assert_eq!(kept, cpim.as_bytes());
        assert_eq!(call.b_offer.direction(), "sendonly");
        call.answer(&mut world);
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    });
}

#[test]
fn an_answer_that_cannot_be_used_ends_the_call() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let good = Call::start(&mut world, &Plan::default());
        let port = good.b.addr().port();
        type Edit = fn(String, u16) -> String;
        let edits: [(&str, Edit); 4] = [
            ("inactive", |text, _| text.replace("a=recvonly", "a=inactive")),
            ("sendonly", |text, _| text.replace("a=recvonly", "a=sendonly")),
            ("port 0", |text, port| text.replace(&format!("m=message {port} "), "m=message 0 ")),
            ("no SDP", |_, _| "hello\r\n".into()),
        ];
        let mut first = Some(good);
        for (what, edit) in edits {
            println!("{what}");
            let mut call = first.take().unwrap_or_else(|| Call::start(&mut world, &Plan::default()));
            let port = if what == "inactive" { port } else { call.b.addr().port() };
            let text = edit(call.b_answer().text(), port);
            call.answer_text(&mut world, &text);
            let response = world.alice.final_response(&call.sent);
            assert_eq!(response.status(), Some(488), "{what}: {response:?}");
            call.b_dialog().clone().expect(&mut world.core, "ACK");
            call.assert_b_ends(&mut world);
        }
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    }
}

#[test]
fn ids_that_the_sender_left_out_are_made_up() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let a = Peer::new();
        let request =
            world.invite(BOB, &Media::offer(&a).text(), &[]).without("Conversation-ID").without("Contribution-ID");
        let sent = world.send(&request);
        let invite = world.forwarded_invite(&sent);
        assert!(!invite.must("Conversation-ID").is_empty() && !invite.must("Contribution-ID").is_empty());
    }
}

#[test]
fn a_sender_whom_nobody_vouches_for_gets_403() {
    let mut world = World::with_bob(VARIANTS[1]);
    let request = world.invite(BOB, &any_offer(), &[]).without("P-Asserted-Identity");
    let response = world.assert_invite_refused(&request, 403);
    assert_warning(&response, "127 Service not authorised");
}

#[test]
fn requests_that_break_the_rules_of_sip_are_refused() {
    let mut world = World::with_bob(VARIANTS[1]);
    let good = |world: &World| world.invite(BOB, &any_offer(), &[]);
    let request = good(&world).replace("Max-Forwards", "0");
    world.assert_invite_refused(&request, 483);
    let request = good(&world).header("Require", "frobnication");
    let response = world.assert_invite_refused(&request, 420);
    assert_eq!(response.must("Unsupported"), "frobnication");
    let request =
        Request { uri: "sip:nobody@home.example".into(), ..good(&world) }.replace("To", "<sip:nobody@home.example>");
    world.assert_invite_refused(&request, 404);
    let request = good(&world).header("Session-Expires", "soon");
    world.assert_invite_refused(&request, 400);
}

#[test]
fn a_client_without_a_version_is_let_in_or_not_as_configured() {
    let mut world = World::with_bob_and(VARIANTS[0], |config| config.set("policy.ua_min", "\"2.0\""));
    let plan = Plan::default().header("User-Agent", "Some phone");
    Call::establish(&mut world, &plan).assert_works();
    let mut world = World::with_bob_and(VARIANTS[0], |config| {
        config.set("policy.ua_min", "\"2.0\"").set("policy.ua_absent", "\"reject\"")
    });
    let request = world.invite(BOB, &any_offer(), &[]).without("User-Agent");
    let response = world.assert_invite_refused(&request, 403);
    assert!(response.header("Error-Info").is_some(), "{response:?}");
}

#[test]
fn an_unregistered_user_who_prefers_rejection_gets_no_call() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::large("reject").document());
        let request = world.invite(BOB, &any_offer(), &[]);
        let response = world.assert_invite_refused(&request, 403);
        assert_warning(&response, "122 Function not allowed");
    });
}

#[test]
fn an_unregistered_user_who_prefers_interworking_is_called_there() {
    in_all_variants(|variant| {
        let isf = Endpoint::new();
        let uri = isf.uri(variant.transport);
        let mut world = World::with(variant, |config| config.set("sip.isf", &format!("{uri:?}")));
        world.appliance.put_preferences(BOB, &Preferences::large("interwork").document());
        // From here on the ISF is whom the appliance calls.
        let core = std::mem::replace(&mut world.core, isf);
        let call = Call::start(&mut world, &Plan::default());
        assert!(call.b_invite.values("Route")[0].contains(&uri), "{:?}", call.b_invite);
        assert_eq!(call.b_invite.uri(), Some(BOB));
        assert_eq!(call.b_invite.values("Accept-Contact"), [ACCEPT_CONTACT_LARGE]);
        let mut call = call;
        call.answer(&mut world);
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
        drop(core);
    });
}

#[test]
fn a_device_that_never_answers_is_cancelled_and_alice_gets_408() {
    for variant in BOTH {
        let mut world = World::with_bob_and(variant, |config| config.set("large.invite_timeout", "2"));
        let mut call = Call::start(&mut world, &Plan::default());
        call.ring(&mut world, 180);
        assert_cancelled(&mut world, &call.b_invite);
        assert_eq!(world.alice.final_response(&call.sent).status(), Some(408));
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    }
}

#[test]
fn a_device_that_rings_reliably_gets_a_prack() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        assert!(call.b_invite.values("Supported").contains(&"100rel".to_owned()), "{:?}", call.b_invite);
        let contact = call.b_contact(&world);
        let headers = [("Contact", contact.as_str()), ("Require", "100rel"), ("RSeq", "4711")];
        world.core.answer_as(&call.b_invite, 183, &call.b_tag, &headers, None);
        let prack = world.core.wanted("PRACK", |message| message.method() == Some("PRACK"));
        assert_eq!(prack.must("RAck"), format!("4711 {}", call.b_invite.must("CSeq")));
        assert_eq!(tag_of(&prack.must("To")), call.b_tag);
        assert_eq!(prack.call_id(), call.b_invite.call_id());
        world.core.answer(&prack, 200);
        let progress = world.alice.response_with(&call.sent, 183);
        assert_eq!(progress.header("RSeq"), None, "Alice did not ask for it: {progress:?}");
        call.answer(&mut world);
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    }
}

#[test]
fn alice_can_ask_for_reliable_ringing() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default().header("Require", "100rel"));
        call.ring(&mut world, 180);
        let ringing = world.alice.response_with(&call.sent, 180);
        assert!(ringing.values("Require").contains(&"100rel".to_owned()), "{ringing:?}");
        let number = ringing.must("RSeq");
        if variant.transport == Transport::Udp {
            let again = world.alice.response_with(&call.sent, 180);
            assert_eq!(again.raw, ringing.raw, "repeated until it is acknowledged");
        }
        let mut early = crate::support::dialog::Dialog::caller(&call.request, &ringing, world.transport);
        let prack = early.request("PRACK").header("RAck", &format!("{number} 1 INVITE"));
        assert_eq!(early.exchange(&mut world.alice, &prack).status(), Some(200));
        let wrong = early.request("PRACK").header("RAck", "99 1 INVITE");
        assert_eq!(early.exchange(&mut world.alice, &wrong).status(), Some(481));
        call.answer(&mut world);
        call.a_dialog().cseq = early.cseq;
        let ack = call.a_dialog().ack(1);
        call.a_dialog().clone().send(&mut world.alice, &ack);
        call.b_acknowledged(&mut world);
        call.join();
        call.assert_works();
    }
}

#[test]
fn a_device_that_wants_a_longer_interval_gets_it() {
    for variant in BOTH {
        let mut world = World::with_bob(variant);
        let call = Call::start(&mut world, &Plan::default().header("Session-Expires", "100"));
        world.core.answer_with(&call.b_invite, 422, &[("Min-SE", "3600")]);
        let again = world.core.wanted("INVITE", |message| message.method() == Some("INVITE"));
        let seconds = |value: String| value.split(';').next().and_then(|word| word.trim().parse::<u32>().ok());
        assert!(seconds(again.must("Session-Expires")) >= Some(3600), "{again:?}");
        assert!(seconds(again.must("Min-SE")) >= Some(3600), "{again:?}");
        assert!(seconds(call.b_invite.must("Session-Expires")) >= Some(90));
    }
}

#[test]
fn methods_that_are_not_served_in_a_dialog_are_refused() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let dialog = call.a_dialog();
    let request = dialog.request("REFER").header("Refer-To", "<sip:carol@a.example>");
    let response = dialog.clone().exchange(&mut world.alice, &request);
    assert!(matches!(response.status(), Some(405 | 501 | 403)), "{response:?}");
    // CSeq goes up in a dialog (RFC 3261 §12.2.2).
    let dialog = call.a_dialog();
    dialog.cseq = 20;
    let update = dialog.request("UPDATE");
    assert_eq!(dialog.clone().exchange(&mut world.alice, &update).status(), Some(200));
    dialog.cseq = 10;
    let stale = dialog.request("UPDATE");
    dialog.cseq = 30;
    let response = dialog.clone().exchange(&mut world.alice, &stale);
    assert_eq!(response.status(), Some(500), "{response:?}");
    call.assert_works();
}

#[test]
fn fifty_calls_in_a_row_leave_nothing_behind() {
    let mut world = World::with_bob(VARIANTS[3]);
    for round in 0..50 {
        let mut call = Call::start(&mut world, &Plan::default());
        match round % 4 {
            0 => {
                call.answer(&mut world);
                call.acknowledge(&mut world);
                call.hang_up(&mut world);
            }
            1 => {
                world.core.answer(&call.b_invite, 486);
                world.alice.final_response(&call.sent);
            }
            2 => {
                let cancel: Sent = world.alice.cancel(&call.sent);
                call.ring(&mut world, 180);
                assert_cancelled(&mut world, &call.b_invite);
                world.alice.final_response(&call.sent);
                world.alice.final_response(&cancel);
            }
            _ => {
                call.answer(&mut world);
                call.acknowledge(&mut world);
                call.join();
                call.assert_works();
                call.hang_up(&mut world);
            }
        }
    }
    world.assert_all_released();
}
