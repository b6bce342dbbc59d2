//! Who opens which connection (SPEC §4.5), what descriptions say (SPEC §4.7), which URIs travel (SPEC §4.2).

use crate::support::large::*;
use crate::support::msrp::{Peer, address_of};
use crate::support::sdp::{Media, Sdp};
use crate::support::skip;
use crate::support::world::*;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

const OFFERS: [Option<&str>; 4] = [None, Some("actpass"), Some("active"), Some("passive")];
const ANSWERS: [Option<&str>; 3] = [Some("active"), Some("passive"), None];

/// Every combination of setup roles bridges a message of several chunks.
fn bridges_in_all_roles(variant: Variant, path_mode: &str, ack: &str) {
    let mut world = World::with_bob_and(variant, |config| {
        config.set("msrp.path_mode", &format!("{path_mode:?}")).set("msrp.ack", &format!("{ack:?}"))
    });
    let replace = path_mode == "replace";
    for offer_setup in OFFERS {
        for answer_setup in ANSWERS {
            println!("offer {offer_setup:?}, answer {answer_setup:?}, {path_mode}, {ack}");
            let plan = Plan { offer_setup, answer_setup, replace, ..Plan::default() };
            let mut call = Call::connected(&mut world, &plan);
            let answered = call.a_answer().attribute("setup");
            match offer_setup {
                None => assert!(matches!(answered.as_deref(), None | Some("passive")), "{answered:?}"),
                Some("passive") => assert_eq!(answered.as_deref(), Some("active")),
                Some(_) => assert_eq!(answered.as_deref(), Some("passive")),
            }
            assert_eq!(call.b_offer.must("setup"), "actpass");
            let (to_a, to_b) = (call.a_answer().path(), call.b_offer.path());
            if replace {
                assert_eq!((to_a.len(), to_b.len()), (1, 1));
            } else {
                assert_eq!((&to_a[1..], &to_b[1..]), (&[call.b.uri.clone()][..], &[call.a.uri.clone()][..]));
            }
            call.join();
            let body = large_cpim(30_000);
            call.transfer(&body, 10_240, 2);
            call.hang_up(&mut world);
        }
    }
    assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
}

#[test]
fn all_roles_bridge_with_prepended_paths_acknowledged_end_to_end() {
    bridges_in_all_roles(VARIANTS[1], "prepend", "end-to-end");
}

#[test]
fn all_roles_bridge_with_replaced_paths_acknowledged_end_to_end() {
    bridges_in_all_roles(VARIANTS[2], "replace", "end-to-end");
}

#[test]
fn all_roles_bridge_with_prepended_paths_acknowledged_hop_by_hop() {
    bridges_in_all_roles(VARIANTS[0], "prepend", "hop-by-hop");
}

#[test]
fn all_roles_bridge_with_replaced_paths_acknowledged_hop_by_hop() {
    bridges_in_all_roles(VARIANTS[3], "replace", "hop-by-hop");
}

#[test]
fn a_device_that_listens_late_is_connected_to_all_the_same() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::start(&mut world, &Plan { answer_setup: Some("passive"), ..Plan::default() });
    call.b = Peer::deaf().knowing(&call.b.remote_path);
    call.answer(&mut world);
    call.acknowledge(&mut world);
    // Refused meanwhile: the device listens a second after the ACK.
    assert!(world.core.next_within(Duration::from_secs(1)).is_none(), "no BYE while the device may still listen");
    call.b.listen();
    call.join();
    call.assert_works();
}

#[test]
fn a_device_that_never_listens_ends_the_session_on_both_sides() {
    let mut world = World::with_bob(VARIANTS[3]);
    let mut call = Call::start(&mut world, &Plan { answer_setup: Some("passive"), ..Plan::default() });
    call.b = Peer::deaf().knowing(&call.b.remote_path);
    call.answer(&mut world);
    call.acknowledge(&mut world);
    call.join_a();
    let chunk = call.a.whole("m1", CPIM, &large_cpim(500));
    call.a.send(&chunk);
    let response = call.a.response_to(&chunk);
    assert!(matches!(response.status, Some(408 | 481)), "{response:?}");
    call.assert_a_ends(&mut world);
    call.assert_b_ends(&mut world);
    drop(call.a.take_wire());
    world.assert_all_released();
}

#[test]
fn a_message_sent_before_the_device_is_bound_waits_for_it() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::connected(&mut world, &Plan::default());
    // No bodiless SEND from Alice: her first request is the message.
    call.a.connect();
    let body = large_cpim(5000);
    let chunk = call.a.whole("m1", CPIM, &body);
    call.a.send(&chunk);
    call.join_b();
    let frame = call.b.next_send();
    assert_eq!(frame.body.as_deref(), Some(&body[..]));
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn a_passive_device_gets_the_binding_send_alone_until_it_has_answered_it() {
    let mut world = World::with_bob(VARIANTS[0]);
    let mut call = Call::connected(&mut world, &Plan { answer_setup: Some("passive"), ..Plan::default() });
    call.a.connect();
    let chunk = call.a.whole("m1", CPIM, &large_cpim(100));
    call.a.send(&chunk);
    call.b.accept();
    let binding = call.b.wire().next();
    assert!(binding.is("SEND") && binding.body.is_none(), "{binding:?}");
    assert_eq!(binding.must("From-Path"), call.b.remote_path);
    let next = call.b.wire().arrival(Duration::from_millis(300));
    assert!(matches!(next, crate::support::msrp::Arrival::Silence), "{next:?}");
    call.b.answer(&binding, 200);
    let frame = call.b.next_send();
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn a_bodiless_send_of_a_passive_device_is_answered_and_goes_no_further() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::both_passive());
    call.b.bind();
    call.a.bind();
    call.assert_works();
    assert_eq!((call.a.bindings.len(), call.b.bindings.len()), (0, 0), "nobody's reached the other side");
    call.a.assert_silent();
    call.b.assert_silent();
}

#[test]
fn the_bridge_works_over_ipv6() {
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if Peer::on(loopback).is_err() {
        skip("there is no ::1 here");
        return;
    }
    let plan = Plan { a_ip: loopback, b_ip: loopback, ..Plan::default() };
    for setups in [(Some("actpass"), Some("active")), (Some("passive"), Some("passive"))] {
        let mut world = World::with_bob_and(VARIANTS[1], |config| config.set("msrp.listen", "\"[::1]:0\""));
        let mut call = Call::start(&mut world, &Plan { offer_setup: setups.0, answer_setup: setups.1, ..plan.clone() });
        assert!(call.b_offer.address().is_ipv6(), "{:?}", call.b_offer);
        assert!(call.b_offer.path()[0].starts_with("msrp://[::1]:"), "{:?}", call.b_offer);
        call.answer(&mut world);
        assert!(call.a_answer().address().is_ipv6());
        call.acknowledge(&mut world);
        call.join();
        let body = large_cpim(100_000);
        call.transfer(&body, 10_240, 4);
        call.hang_up(&mut world);
    }
}

#[test]
fn the_families_of_the_two_legs_need_not_be_one() {
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if Peer::on(loopback).is_err() {
        skip("there is no ::1 here");
        return;
    }
    let mut world =
        World::with_bob_and(VARIANTS[1], |config| config.set("msrp.listen", r#"["127.0.0.1:0", "[::1]:0"]"#));
    let mut call =
        Call::connected(&mut world, &Plan { a_ip: loopback, answer_setup: Some("passive"), ..Plan::default() });
    assert!(call.a_answer().address().is_ipv6(), "an address as Alice can reach it: {:?}", call.a_answer());
    call.join();
    call.assert_works();
    let mut call =
        Call::connected(&mut world, &Plan { b_ip: loopback, answer_setup: Some("passive"), ..Plan::default() });
    assert!(call.a_answer().address().is_ipv4(), "{:?}", call.a_answer());
    call.join();
    call.assert_works();
}

#[test]
fn uris_of_relays_keep_their_place_in_the_path() {
    let mut world = World::with_bob(VARIANTS[0]);
    let mut a = Peer::new();
    let end = "msrp://alice.a.example:7777/behind;tcp";
    a.uri = format!("{} {end}", a.uri);
    let mut call = Call::start_with(&mut world, &Plan::default(), crate::support::documents::BOB, a);
    assert_eq!(call.b_offer.path()[1..].join(" "), call.a.uri);
    call.b.uri.push_str(" msrp://bob.home.example:7777/behind;tcp");
    call.answer(&mut world);
    assert_eq!(call.a_answer().path()[1..].join(" "), call.b.uri);
    call.acknowledge(&mut world);
    // Relays bind with the paths that they were given.
    call.b.connect();
    let binding = call.b.send_request("bind");
    call.b.send(&binding);
    assert_eq!(call.b.response_to(&binding).must("To-Path"), crate::support::msrp::first(&call.b.uri));
    call.a.connect();
    let chunk = call.a.whole("m1", CPIM, &large_cpim(100));
    call.a.send(&chunk);
    let frame = call.b.next_send();
    assert_eq!(frame.must("To-Path"), call.b.uri);
    assert_eq!(frame.must("From-Path"), call.b.remote_path);
    call.b.answer(&frame, 200);
    let response = call.a.response_to(&chunk);
    assert_eq!(response.must("To-Path"), crate::support::msrp::first(&call.a.uri), "a response goes one hop");
}

#[test]
fn a_client_that_ignores_the_rest_of_the_path_is_tolerated() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    call.a.remote_path = call.a_answer().path()[0].clone();
    let chunk = call.a.whole("m1", CPIM, &large_cpim(100));
    call.a.send(&chunk);
    let frame = call.b.next_send();
    assert_eq!((frame.must("To-Path"), frame.must("From-Path")), (call.b.uri.clone(), call.b.remote_path.clone()));
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn uris_are_compared_as_the_rfc_says() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let path = call.a_answer().path();
    call.a.remote_path = format!("{} {}", path[0].replace("msrp://", "MSRP://").replace(";tcp", ";TCP"), path[1]);
    let chunk = call.a.whole("m1", CPIM, &large_cpim(100));
    call.a.send(&chunk);
    let frame = call.b.next_send();
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn the_smaller_size_limit_holds() {
    let sizes = |a, b, own: u64| {
        let mut world = World::with_bob_and(VARIANTS[0], |config| config.set("large.max_size", &own.to_string()));
        let mut call = Call::start(&mut world, &Plan { a_max_size: a, b_max_size: b, ..Plan::default() });
        call.answer(&mut world);
        let number = |sdp: &Sdp| sdp.must("max-size").parse::<u64>().expect("a number");
        (number(&call.b_offer), number(call.a_answer()))
    };
    assert_eq!(sizes(None, None, 50_000), (50_000, 50_000));
    assert_eq!(sizes(Some(20_000), Some(30_000), 50_000), (20_000, 30_000));
    assert_eq!(sizes(Some(90_000), Some(90_000), 50_000), (50_000, 50_000));
}

#[test]
fn further_media_are_refused_in_their_order() {
    let mut world = World::with_bob(VARIANTS[1]);
    let a = Peer::new();
    let offer = Media {
        before: "m=audio 4000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\n".into(),
        behind: "m=video 4002 RTP/AVP 31\r\nm=message 4004 TCP/MSRP *\r\na=accept-types:text/plain\r\n".into(),
        ..Media::offer(&a)
    };
    let request = world.invite(crate::support::documents::BOB, &offer.text(), &[]);
    let sent = world.send(&request);
    let mut call = Call::arrived(&mut world, &Plan::default(), a, request, sent);
    assert_eq!(call.b_offer.media.len(), 1, "the device is offered the message line alone");
    call.answer(&mut world);
    let lines: Vec<String> = call.a_answer().media.iter().map(|(line, _)| line.clone()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("audio 0 RTP/AVP "), "{lines:?}");
    assert!(lines[1].starts_with("message ") && !lines[1].starts_with("message 0 "), "{lines:?}");
    assert!(lines[2].starts_with("video 0 RTP/AVP "), "{lines:?}");
    assert!(lines[3].starts_with("message 0 TCP/MSRP "), "{lines:?}");
    call.acknowledge(&mut world);
    call.join();
    call.assert_works();
}

#[test]
fn attributes_of_files_and_unknown_ones_are_kept() {
    let mut world = World::with_bob(VARIANTS[0]);
    let a = Peer::new();
    let kept = [
        "file-selector:name:\"a b.jpg\" type:image/jpeg size:4092",
        "file-transfer-id:vBnG916bdberum2fFEABR1FR3ExZMUrd",
        "x-unknown:kept as it is",
    ];
    let mut offer = Media::offer(&a);
    offer.attributes.extend(kept.map(str::to_owned));
    offer.attributes.push("msrp-cema".into());
    let request = world.invite(crate::support::documents::BOB, &offer.text(), &[]);
    let sent = world.send(&request);
    let mut call = Call::arrived(&mut world, &Plan::default(), a, request, sent);
    for line in kept {
        let (name, value) = line.split_once(':').expect("a value");
        assert_eq!(call.b_offer.must(name), value);
    }
    let mut answer = call.b_answer();
    answer.attributes.extend(kept[..2].iter().map(|line| (*line).to_owned()));
    call.answer_text(&mut world, &answer.text());
    call.answered(&mut world);
    for line in &kept[..2] {
        let (name, value) = line.split_once(':').expect("a value");
        assert_eq!(call.a_answer().must(name), value);
    }
    assert!(call.a_answer().attribute("msrp-cema").is_some(), "she offered it: {:?}", call.a_answer());
    assert_eq!(call.a_answer().address(), address_of(&call.a_answer().path()[0]));
}

#[test]
fn cema_is_not_answered_to_who_did_not_offer_it() {
    let mut world = World::with_bob(VARIANTS[0]);
    let mut call = Call::start(&mut world, &Plan::default());
    call.answer(&mut world);
    assert_eq!(call.a_answer().attribute("msrp-cema"), None);
}

#[test]
fn a_device_may_say_that_it_would_send_too() {
    let mut world = World::with_bob(VARIANTS[0]);
    let mut call = Call::start(&mut world, &Plan::default());
    let answer = Media { direction: Some("sendrecv"), ..call.b_answer() };
    call.answer_text(&mut world, &answer.text());
    call.answered(&mut world);
    assert_eq!(call.a_answer().direction(), "recvonly");
    call.acknowledge(&mut world);
    call.join();
    call.assert_works();
}

#[test]
fn an_offer_without_direction_is_answered_recvonly() {
    let mut world = World::with_bob(VARIANTS[0]);
    let a = Peer::new();
    let offer = Media { direction: None, ..Media::offer(&a) };
    let request = world.invite(crate::support::documents::BOB, &offer.text(), &[]);
    let sent = world.send(&request);
    let mut call = Call::arrived(&mut world, &Plan::default(), a, request, sent);
    assert_eq!(call.b_offer.direction(), "sendonly");
    call.answer(&mut world);
    assert_eq!(call.a_answer().direction(), "recvonly");
}
