//! SPEC §5.1, cases A28 to A44 without A42, each over UDP and TCP, with one and with two shards.

use crate::support::dialog::{tag_of, uri_in};
use crate::support::documents::*;
use crate::support::large::*;
use crate::support::message::{Request, token};
use crate::support::msrp::{Arrival, Chunk, Peer, address_of};
use crate::support::sdp::{Media, Sdp};
use crate::support::world::*;
use std::time::Duration;

/// An INVITE from Alice to Bob whose offer is all right.
fn offer_to_bob(world: &World) -> Request {
    world.invite(BOB, &Media::offer(&Peer::new()).text(), &[])
}

#[test]
fn a28_a_sender_whom_the_access_policy_rejects_gets_403_with_a_warning() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let media = "<oxe:media-list><lm:large-message xmlns:lm=\"urn:cpm-pf:xml:media:1.0\"/></oxe:media-list>";
        for conditions in [one(ALICE), format!("{}{SERVICE_CPM}{media}", one(ALICE))] {
            world.appliance.put_policy(BOB, &policy(&[Rule::new(conditions, "true")]));
            let response = world.assert_invite_refused(&offer_to_bob(&world), 403);
            assert_warning(&response, "122 Function not allowed");
            assert_generated(&response);
        }
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
    });
}

#[test]
fn a28_a_rule_about_pager_mode_lets_large_messages_through() {
    let mut world = World::with_bob(VARIANTS[0]);
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    Call::establish(&mut world, &Plan::default()).assert_works();
}

#[test]
fn a29_a_client_that_is_too_old_gets_403_with_error_info() {
    in_all_variants(|variant| {
        let mut world = World::with_bob_and(variant, |config| config.set("policy.ua_min", "\"2.0\""));
        let request = offer_to_bob(&world).replace("User-Agent", "CPM-client/OMA1.0 MSP/1.0");
        let response = world.assert_invite_refused(&request, 403);
        assert_warning(&response, "132 Version not supported");
        let info = response.must("Error-Info");
        let uri = info.strip_prefix('<').and_then(|rest| rest.split('>').next()).unwrap_or_default();
        assert!(["http://", "https://", "sip:"].iter().any(|scheme| uri.starts_with(scheme)), "a URI in {info:?}");
        for good in
            ["CPM-client/OMA2.0", "RCS/1 CPM-client/OMA2.2 x", "CPM-serv/OMA2.2 RCS-serv/UP_2.3", "CPM-client/OMA10.0"]
        {
            let mut call = Call::start(&mut world, &Plan::default().header("User-Agent", good));
            call.ring(&mut world, 180);
            world.alice.cancel(&call.sent);
            let cancel = world.core.wanted("CANCEL", |message| message.method() == Some("CANCEL"));
            world.core.answer(&cancel, 200);
            world.core.answer(&call.b_invite, 487);
            assert_eq!(world.alice.final_response(&call.sent).status(), Some(487), "{good}");
            world.core.drain(|_| true);
            world.alice.drain(|_| true);
        }
    });
}

#[test]
fn a30_an_anonymous_sender_gets_403_where_anonymity_is_refused() {
    in_all_variants(|variant| {
        let mut world = World::with_bob_and(variant, |config| config.set("policy.allow_anonymous", "false"));
        for privacy in ["id", "header;id", "user"] {
            let request = offer_to_bob(&world).header("Privacy", privacy);
            let response = world.assert_invite_refused(&request, 403);
            assert_warning(&response, "119 Anonymity not allowed");
        }
        let from = format!("\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag={}", token("f"));
        let response = world.assert_invite_refused(&offer_to_bob(&world).replace("From", &from), 403);
        assert_warning(&response, "119 Anonymity not allowed");
        let mut call = Call::establish(&mut world, &Plan::default().header("Privacy", "none"));
        call.assert_works();
    });
}

#[test]
fn a30_anonymity_is_allowed_by_default_and_passed_on() {
    let mut world = World::with_bob(VARIANTS[0]);
    let call = Call::start(&mut world, &Plan::default().header("Privacy", "id"));
    assert_eq!(call.b_invite.must("Privacy"), "id");
}

#[test]
fn a31_the_device_gets_an_invite_of_the_appliances_own() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let call = Call::start(&mut world, &Plan::default().header("Subject", "Hi").header("X-Unknown", "left behind"));
        let (invite, request) = (&call.b_invite, &call.request);
        assert_ne!(invite.call_id(), call.sent.call_id);
        let from = request.value("From").expect("Alice has one");
        assert_ne!(tag_of(&invite.must("From")), tag_of(from));
        assert_eq!(uri_in(&invite.must("From")), ALICE);
        assert_eq!(uri_in(&invite.must("To")), BOB);
        assert!(!invite.must("To").contains(";tag="), "{invite:?}");
        assert_eq!(invite.uri(), Some(BOB));
        assert_eq!(invite.values("Via").len(), 1, "{invite:?}");
        assert_eq!(invite.must("Max-Forwards"), "69");
        assert!(invite.must("CSeq").ends_with(" INVITE"));
        let copied =
            ["P-Asserted-Identity", "P-Asserted-Service", "Conversation-ID", "Contribution-ID", "Date", "Subject"];
        for name in copied {
            assert_eq!(Some(invite.must(name).as_str()), request.value(name), "{name}");
        }
        assert_eq!(invite.values("Accept-Contact"), [ACCEPT_CONTACT_LARGE]);
        assert!(invite.must("User-Agent").starts_with("CPM-serv/OMA"), "{invite:?}");
        assert!(!uri_in(&invite.must("Contact")).contains(&world.alice.addr().to_string()), "{invite:?}");
        assert!(invite.values("Supported").contains(&"timer".to_owned()), "{invite:?}");
        assert!(invite.values("Allow").contains(&"BYE".to_owned()), "{invite:?}");
        assert_eq!(invite.must("Content-Type"), "application/sdp");

        let offer = &call.b_offer;
        assert_eq!(offer.media.len(), 1);
        assert_eq!(offer.direction(), "sendonly");
        let path = offer.path();
        assert_eq!(path.len(), 2, "{path:?}");
        assert_ne!(path[0], call.a.uri);
        assert_eq!(path[1], call.a.uri);
        assert_eq!(offer.must("accept-types"), CPIM);
        assert_eq!(offer.must("accept-wrapped-types"), "*");
        assert_eq!(offer.must("setup"), "actpass");
        assert!(offer.attribute("msrp-cema").is_some(), "{offer:?}");
        assert!(offer.message().0.ends_with(" TCP/MSRP *"), "{offer:?}");
        assert_eq!(offer.address(), address_of(&path[0]));
        assert_ne!(offer.origin()[1..3], ["4711".to_owned(), "1".to_owned()], "an origin of its own");
    });
}

#[test]
fn a32_alice_gets_a_200_of_the_appliances_own() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let plan = Plan::default().answer_header("P-Asserted-Identity", "<sip:bob@home.example>");
        let mut call = Call::start(&mut world, &plan);
        call.answer(&mut world);
        let ok = call.a_ok.clone().expect("answered");
        let contact = ok.must("Contact");
        assert!(!uri_in(&contact).contains(&world.core.addr().to_string()), "never the device's contact: {contact}");
        let encoded = "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg\"";
        assert!(contact.contains(encoded), "{contact}");
        assert!(!contact.contains("isfocus"), "{contact}");
        assert!(ok.must("Server").starts_with("CPM-serv/OMA"), "{ok:?}");
        let allow = ok.values("Allow");
        for method in ["INVITE", "ACK", "CANCEL", "BYE", "UPDATE"] {
            assert!(allow.iter().any(|value| value == method), "{method} in {allow:?}");
        }
        assert_eq!(ok.must("Content-Type"), "application/sdp");
        assert_eq!(ok.must("P-Asserted-Identity"), "<sip:bob@home.example>");
        assert_eq!(ok.values("Via").len(), 1);
        assert_eq!(ok.call_id(), call.sent.call_id);
        assert_eq!(Some(ok.must("From").as_str()), call.request.value("From"));
        assert_ne!(tag_of(&ok.must("To")), call.b_tag, "the tag is the appliance's");

        let answer = call.a_answer().clone();
        assert_eq!(answer.direction(), "recvonly");
        let path = answer.path();
        assert_eq!(path.len(), 2, "{path:?}");
        assert_eq!(path[1], call.b.uri, "exactly what the device gave");
        assert_ne!(path[0], call.b.uri);
        assert_eq!(answer.must("accept-types"), CPIM);
        assert_eq!(answer.must("setup"), "passive");
        let (line, _) = answer.message();
        assert!(line.ends_with(" TCP/MSRP *"), "{line}");
        assert_ne!(answer.origin()[1], "4711", "an origin of its own");
    });
}

#[test]
fn a33_the_device_is_acknowledged_after_alice_has_acknowledged() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.answer(&mut world);
        // The device repeats its 200 as RFC 3261 §13.3.1.4 has it: nobody acknowledges it yet.
        call.answer_alone(&mut world);
        let early = call.b_dialog().clone().comes(&mut world.core, "ACK", Duration::from_millis(700));
        assert!(!early, "no ACK before Alice's");
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    });
}

#[test]
fn a33_connections_are_opened_by_whose_turn_it_is() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::both_passive());
        call.answer(&mut world);
        assert_eq!(call.a_answer().must("setup"), "active");
        // The path of Alice is where the appliance connects: to her, after her ACK and not before.
        assert!(call.a.accepted(Duration::from_millis(50)).is_none());
        assert!(call.b.accepted(Duration::ZERO).is_none());
        call.acknowledge(&mut world);
        call.join();
        assert_eq!(call.a.bindings.len() + call.b.bindings.len(), 0, "one bodiless SEND binds a connection");
        call.assert_works();
    });
}

#[test]
fn a34_a_send_arrives_with_new_paths_and_its_own_body() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let body = large_cpim(1500);
        let chunk = call.a.whole("Msg-1.x", CPIM, &body).header("X-Unknown", "kept as it is");
        call.a.send(&chunk);
        let frame = call.b.next_send();
        assert_eq!(frame.body.as_deref(), Some(&body[..]));
        assert_eq!(frame.must("Message-ID"), "Msg-1.x");
        assert_eq!(frame.must("To-Path"), call.b.uri);
        assert_eq!(frame.must("From-Path"), call.b_offer.must("path"));
        assert_eq!(frame.must("Content-Type"), CPIM);
        assert_eq!(frame.must("X-Unknown"), "kept as it is");
        let (start, _, total) = frame.range();
        assert_eq!((start, total, frame.flag), (1, Some(body.len() as u64), '$'));
        assert_ne!(frame.id, chunk.id, "a transaction of its own");
    });
}

#[test]
fn a35_alices_200_follows_the_devices() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let chunk = call.a.whole("m1", CPIM, &large_cpim(700));
        call.a.send(&chunk);
        let frame = call.b.next_send();
        // A bodiless SEND is answered at once: had the chunk been answered, that answer would come first.
        call.a.assert_silent();
        call.b.answer(&frame, 200);
        let response = call.a.response_to(&chunk);
        assert_eq!(response.status, Some(200));
        assert_eq!(response.must("To-Path"), call.a.uri);
        assert_eq!(response.must("From-Path"), call.a_answer().path()[0]);
        assert_eq!(response.headers.len(), 2, "{response:?}");
    });
}

#[test]
fn a36_a_mebibyte_in_chunks_of_ten_kibibytes_arrives_as_it_was() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let body = large_cpim(1 << 20);
        let whole = call.transfer(&body, 10_240, 16);
        assert!(whole.chunks >= body.len().div_ceil(10_240));
        assert_eq!(world.gauge("ringpost_msrp_egress_bytes"), 0, "nothing waits when all is answered");
    });
}

#[test]
fn a37_the_devices_error_reaches_alice() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let chunk = call.a.whole("m1", CPIM, &large_cpim(100));
        call.a.send(&chunk);
        let frame = call.b.next_send();
        call.b.answer(&frame, 415);
        assert_eq!(call.a.response_to(&chunk).status, Some(415));
    });
}

#[test]
fn a38_the_devices_report_reaches_alice_and_is_not_answered() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        let body = large_cpim(100);
        let chunk = call.a.whole("m1", CPIM, &body).header("Success-Report", "yes");
        call.a.send(&chunk);
        let frame = call.b.next_send();
        assert_eq!(frame.must("Success-Report"), "yes");
        call.b.answer(&frame, 200);
        let range = format!("1-{0}/{0}", body.len());
        let report = Chunk::report(&frame, "200 OK", &range);
        call.b.send(&report);
        assert_eq!(call.a.response_to(&chunk).status, Some(200));
        let arrived = call.a.next();
        assert!(arrived.is("REPORT"), "{arrived:?}");
        assert_eq!(arrived.must("To-Path"), call.a.uri);
        assert_eq!(arrived.must("From-Path"), call.a_answer().must("path"), "the whole path behind it");
        assert_eq!(arrived.must("Message-ID"), "m1");
        assert_eq!(arrived.must("Byte-Range"), range);
        assert_eq!(arrived.must("Status"), "000 200 OK");
        assert_ne!(arrived.id, report.id, "a transaction of its own");
        call.b.assert_silent();
    });
}

#[test]
fn a39_alices_bye_ends_everything() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let mut call = Call::establish(&mut world, &Plan::default());
        call.assert_works();
        assert_eq!(world.gauge("ringpost_msrp_sessions"), 1);
        assert_eq!(world.gauge("ringpost_large_sessions"), 1);
        assert_eq!(world.gauge("ringpost_msrp_connections"), 2);
        call.hang_up(&mut world);
        drop((call.a.take_wire(), call.b.take_wire()));
        world.assert_all_released();
    });
}

#[test]
fn a40_a_session_interval_that_is_too_small_gets_422() {
    in_all_variants(|variant| {
        let mut world = World::with_bob(variant);
        let request = offer_to_bob(&world).header("Session-Expires", "60");
        let response = world.assert_invite_refused(&request, 422);
        assert_eq!(response.must("Min-SE"), "90");
        let mut call = Call::start(&mut world, &Plan::default().header("Session-Expires", "90"));
        call.answer(&mut world);
        let ok = call.a_ok.as_ref().expect("answered");
        let expires = ok.must("Session-Expires");
        let seconds: u32 = expires.split(';').next().and_then(|word| word.trim().parse().ok()).expect("seconds");
        assert!(seconds >= 90, "{expires}");
        assert!(expires.contains("refresher=ua"), "{expires}");
        if expires.contains("refresher=uac") {
            assert!(ok.values("Require").contains(&"timer".to_owned()), "RFC 4028 §9: {ok:?}");
        }
        call.acknowledge(&mut world);
        call.join();
        call.assert_works();
    });
}

#[test]
fn a41_a_large_message_for_an_unregistered_user_is_deferred() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::large("defer").document());
        let (mut spooled, ok) = Spooled::establish(&mut world, &Plan::default());
        assert_eq!(spooled.answer.path().len(), 1, "only the appliance is in the path: {:?}", spooled.answer);
        assert_eq!(spooled.answer.direction(), "recvonly");
        assert!(ok.must("Contact").contains(".largemsg"), "{ok:?}");
        let body = large_cpim(200_000);
        let statuses = spooled.a.send_message("m1", CPIM, &body, 10_240, 4);
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        // The last 200 is a promise: the queue holds the message from then on.
        let queue = world.appliance.admin(BOB, "/deferred");
        assert_eq!(queue.as_array().map(Vec::len), Some(1), "{queue}");
        assert_eq!(queue[0]["originator"], ALICE);
        assert!(queue[0]["size"].as_u64() >= Some(body.len() as u64), "{queue}");
        spooled.hang_up(&mut world);
        drop(spooled.a.take_wire());
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
        world.assert_nothing_forwarded();

        world.register(BOB, &[Device::new()]);
        let mut delivery = Delivery::accept(&mut world, Some("active"));
        let whole = delivery.receive(&mut world);
        assert_eq!(sha256(&whole.bytes), sha256(&body), "the queue held the full CPIM");
        delivery.assert_ends(&mut world);
        crate::support::eventually("the queue is empty", || {
            (world.appliance.admin_count(BOB, "/deferred") == 0).then_some(())
        });
    });
}

#[test]
fn a43_descriptions_name_one_address_on_each_leg() {
    in_all_variants(|variant| {
        for setup in [Some("passive"), Some("active")] {
            let mut world = World::with_bob(variant);
            let mut call = Call::connected(&mut world, &Plan { answer_setup: setup, ..Plan::default() });
            for sdp in [&call.b_offer, call.a_answer.as_ref().expect("answered")] {
                assert_eq!(sdp.address(), address_of(&sdp.path()[0]), "{sdp:?}");
                assert_ne!(sdp.address().port(), 0);
            }
            call.join();
            call.assert_works();
        }
    });
}

#[test]
fn a44_the_from_path_is_the_path_that_the_device_was_offered() {
    in_all_variants(|variant| {
        for replace in [false, true] {
            let mode = if replace { "\"replace\"" } else { "\"prepend\"" };
            let mut world = World::with_bob_and(variant, |config| config.set("msrp.path_mode", mode));
            let mut call = Call::establish(&mut world, &Plan { replace, ..Plan::default() });
            let chunk = call.a.whole("m1", CPIM, &large_cpim(50));
            call.a.send(&chunk);
            let frame = call.b.next_send();
            let entries = |path: String| path.split(' ').map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(entries(frame.must("From-Path")), call.b_offer.path());
            assert_eq!(call.b_offer.path().len(), if replace { 1 } else { 2 });
            assert_eq!(call.a_answer().path().len(), if replace { 1 } else { 2 });
            assert_eq!(frame.must("To-Path"), call.b.uri);
            call.b.answer(&frame, 200);
            assert_eq!(call.a.response_to(&chunk).status, Some(200));
        }
    });
}

#[test]
fn the_session_goes_on_after_an_answer_that_nobody_waits_for() {
    let mut world = World::with_bob(VARIANTS[0]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let stray = Chunk::new("200 OK", &call.b.remote_path, &call.b.uri);
    call.b.send(&stray);
    call.assert_works();
    assert!(matches!(call.a.arrival(Duration::ZERO), Arrival::Silence), "it went nowhere");
    let sdp = Sdp::read(call.b_invite.body());
    assert_eq!(sdp.path(), call.b_offer.path());
}
