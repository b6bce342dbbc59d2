//! Large messages for users who cannot be reached: taken over MSRP, kept durably, delivered later (SPEC LM-ed2, §2.4).

use crate::support::dialog::uri_in;
use crate::support::documents::*;
use crate::support::eventually;
use crate::support::large::*;
use crate::support::message::{Request, token};
use crate::support::msrp::{Assembled, Chunk, Peer};
use crate::support::sdp::Media;
use crate::support::world::*;

/// A stage where Bob is known, is not registered, and wants large messages handled so.
fn absent(variant: Variant, handling: &'static str) -> World {
    let world = World::new(variant);
    world.appliance.put_preferences(BOB, &Preferences::large(handling).document());
    world
}

/// Alice's message is taken whole.
#[track_caller]
fn take(world: &mut World, body: &[u8]) -> Request {
    let plan = Plan::default().header("Subject", "Greetings");
    let mut spooled = Spooled::establish_full(world, &plan);
    let statuses = spooled.0.a.send_message(&token("m"), CPIM, body, 10_240, 8);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    spooled.0.hang_up(world);
    spooled.1
}

#[track_caller]
fn assert_queue(world: &World, len: usize) {
    eventually("the queue has its length", || (world.appliance.admin_count(BOB, "/deferred") == len).then_some(()));
}

#[test]
fn a_stored_message_is_an_object_with_its_bytes() {
    in_all_variants(|variant| {
        let mut world = absent(variant, "store");
        // Below and above the threshold of the content store.
        for len in [2_000, 300_000] {
            let body = large_cpim(len);
            let request = take(&mut world, &body);
            let list = world.appliance.admin(BOB, "/messages");
            let object = list.as_array().and_then(|rows| rows.first()).unwrap_or_else(|| panic!("a row in {list}"));
            assert_eq!(object["peer"], ALICE);
            assert_eq!(object["direction"], "received");
            assert_eq!(object["outcome"], "stored");
            assert_eq!(object["size"].as_u64(), Some(body.len() as u64), "{object}");
            assert_eq!(object["conversation_id"].as_str(), request.value("Conversation-ID"));
            assert_eq!(object["contribution_id"].as_str(), request.value("Contribution-ID"));
            let id = String::from_utf8_lossy(&body)
                .split("imdn.Message-ID: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next().map(str::to_owned));
            assert_eq!(object["imdn_message_id"].as_str(), id.as_deref());
            let stored =
                world.appliance.http("GET", &format!("/admin/users/{BOB}/messages/{}", object["id"]), &[], b"");
            assert_eq!(stored.status, 200);
            assert!(stored.body.ends_with(&body), "the CPIM bytes are kept: {} of {}", stored.body.len(), body.len());
            let head = String::from_utf8_lossy(&stored.body[..stored.body.len() - body.len()]).to_ascii_lowercase();
            assert!(head.contains("content-type: message/cpim\r\n"), "{head}");
            assert!(head.contains("p-asserted-service: ") && head.contains(".largemsg"), "{head}");
        }
        assert_eq!(world.appliance.admin_count(BOB, "/messages"), 2);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a_deferred_message_is_delivered_by_an_invite_of_the_appliance() {
    in_all_variants(|variant| {
        for setup in [Some("passive"), Some("active")] {
            let mut world = absent(variant, "defer");
            let body = large_cpim(150_000);
            let request = take(&mut world, &body);
            assert_queue(&world, 1);
            world.register(BOB, &[Device::new()]);
            let mut delivery = Delivery::accept(&mut world, setup);
            let invite = delivery.invite.clone();
            assert_eq!(invite.uri(), Some(BOB));
            assert_eq!(uri_in(&invite.must("From")), ALICE);
            assert_eq!(uri_in(&invite.must("To")), BOB);
            assert_ne!(Some(invite.call_id().as_str()), request.value("Call-ID"));
            for name in ["P-Asserted-Identity", "Date", "Conversation-ID", "Contribution-ID", "Subject"] {
                assert_eq!(Some(invite.must(name).as_str()), request.value(name), "{name}");
            }
            let accept_contact = invite.values("Accept-Contact").concat();
            assert!(
                accept_contact.contains("oma.cpm.largemsg") || accept_contact.contains("oma.cpm.deferred"),
                "{accept_contact}"
            );
            assert_eq!(delivery.offer.direction(), "sendonly");
            assert_eq!(delivery.offer.path().len(), 1, "nobody stands behind the appliance");
            assert_eq!(delivery.offer.must("setup"), "actpass");
            let whole = delivery.receive(&mut world);
            assert_eq!(sha256(&whole.bytes), sha256(&body));
            assert_eq!(whole.total, Some(body.len() as u64));
            delivery.assert_ends(&mut world);
            assert_queue(&world, 0);
            world.assert_nothing_forwarded();
        }
    });
}

#[test]
fn a_deferred_message_survives_kill_nine() {
    for variant in [VARIANTS[1], VARIANTS[2]] {
        let mut world = absent(variant, "defer");
        for len in [1_000, 200_000] {
            let body = large_cpim(len);
            let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
            let statuses = spooled.a.send_message("m1", CPIM, &body, 10_240, 8);
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
            // The moment the promise is made.
            world.crash_and_restart();
            assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
            world.register(BOB, &[Device::new()]);
            let mut delivery = Delivery::accept(&mut world, Some("active"));
            assert_eq!(sha256(&delivery.receive(&mut world).bytes), sha256(&body));
            delivery.assert_ends(&mut world);
            assert_queue(&world, 0);
            world.deregister(BOB);
        }
    }
}

#[test]
fn an_unfinished_message_is_no_ghost_after_kill_nine() {
    let mut world = absent(VARIANTS[1], "defer");
    let body = large_cpim(200_000);
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
    let chunk = spooled.a.part("m1", CPIM, &body, 0, 150_000);
    spooled.a.send(&chunk);
    assert_eq!(spooled.a.response_to(&chunk).status, Some(200));
    world.crash_and_restart();
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
    world.register(BOB, &[Device::new()]);
    world.assert_nothing_forwarded();
    assert_eq!(content_files(&world), 0, "no file of the unfinished message is left");
}

/// Files below the store's folder that are no part of the database.
fn content_files(world: &World) -> usize {
    fn count(dir: &std::path::Path) -> usize {
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        entries
            .flatten()
            .map(|entry| match entry.file_type() {
                Ok(kind) if kind.is_dir() => count(&entry.path()),
                // Held by the store as long as it runs.
                _ if entry.file_name() == "lock" => 0,
                _ => 1,
            })
            .sum()
    }
    count(&world.appliance.config().dir().join("data").join("content"))
}

#[test]
fn what_is_broken_off_leaves_nothing() {
    for variant in [VARIANTS[0], VARIANTS[3]] {
        for handling in ["defer", "store"] {
            let mut world = absent(variant, handling);
            let body = large_cpim(200_000);
            for end in ["abort", "reset", "bye", "close"] {
                println!("{handling}, {end}");
                let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
                let chunk = spooled.a.part("m1", CPIM, &body, 0, 100_000);
                spooled.a.send(&chunk);
                assert_eq!(spooled.a.response_to(&chunk).status, Some(200));
                match end {
                    "abort" => {
                        let abort = spooled.a.part("m1", CPIM, &body, 100_000, 50).flag('#');
                        spooled.a.send(&abort);
                        assert_eq!(spooled.a.response_to(&abort).status, Some(200));
                        spooled.hang_up(&mut world);
                    }
                    "bye" => spooled.hang_up(&mut world),
                    reset_or_close => {
                        let wire = spooled.a.take_wire();
                        if reset_or_close == "reset" {
                            wire.reset()
                        } else {
                            drop(wire)
                        }
                        let bye = spooled.dialog.expect(&mut world.alice, "BYE");
                        world.alice.answer(&bye, 200);
                    }
                }
            }
            eventually("no session is left", || (world.gauge("ringpost_msrp_sessions") == 0).then_some(()));
            assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
            assert_eq!(world.appliance.admin_count(BOB, "/messages"), 0);
            eventually("no file is left", || (content_files(&world) == 0).then_some(()));
        }
    }
}

#[test]
fn an_aborted_message_may_be_followed_by_a_whole_one() {
    let mut world = absent(VARIANTS[1], "defer");
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
    let body = large_cpim(30_000);
    let chunk = spooled.a.part("gone", CPIM, &body, 0, 10_000).flag('#');
    spooled.a.send(&chunk);
    assert_eq!(spooled.a.response_to(&chunk).status, Some(200));
    let statuses = spooled.a.send_message("kept", CPIM, &body, 10_000, 1);
    assert_eq!(statuses, [200; 4][..statuses.len()]);
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
    spooled.hang_up(&mut world);
    world.register(BOB, &[Device::new()]);
    let mut delivery = Delivery::accept(&mut world, Some("active"));
    assert_eq!(sha256(&delivery.receive(&mut world).bytes), sha256(&body));
}

#[test]
fn chunks_in_any_order_and_twice_make_one_message() {
    let mut world = absent(VARIANTS[1], "defer");
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
    let body = large_cpim(100_000);
    for at in [20_000, 0, 0, 40_000, 20_000, 60_000, 80_000] {
        let chunk = spooled.a.part("m1", CPIM, &body, at, 20_000).flag('+');
        spooled.a.send(&chunk);
        assert_eq!(spooled.a.response_to(&chunk).status, Some(200), "at {at}");
    }
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0, "no $ was seen");
    let last = spooled.a.part("m1", CPIM, &body, 80_000, body.len());
    spooled.a.send(&last);
    assert_eq!(spooled.a.response_to(&last).status, Some(200));
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
    spooled.hang_up(&mut world);
    world.register(BOB, &[Device::new()]);
    let mut delivery = Delivery::accept(&mut world, Some("passive"));
    assert_eq!(sha256(&delivery.receive(&mut world).bytes), sha256(&body));
}

#[test]
fn a_message_with_a_gap_is_not_complete() {
    let mut world = absent(VARIANTS[1], "defer");
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
    let body = large_cpim(50_000);
    let first = spooled.a.part("m1", CPIM, &body, 0, 10_000);
    spooled.a.send(&first);
    assert_eq!(spooled.a.response_to(&first).status, Some(200));
    let last = spooled.a.part("m1", CPIM, &body, 20_000, body.len());
    spooled.a.send(&last);
    spooled.hang_up(&mut world);
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
}

#[test]
fn what_the_sender_wants_to_hear_is_what_she_hears() {
    let mut world = absent(VARIANTS[1], "defer");
    let body = large_cpim(1_000);
    let len = body.len() as u64;
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
    for report in ["no", "partial"] {
        let chunk = spooled.a.whole(report, CPIM, &body).header("Failure-Report", report);
        spooled.a.send(&chunk);
    }
    let chunk = spooled.a.whole("last", CPIM, &body).header("Success-Report", "yes");
    spooled.a.send(&chunk);
    // The first two were answered with nothing.
    let (mut answered, mut reported) = (false, false);
    while !(answered && reported) {
        let frame = spooled.a.next();
        if frame.is("REPORT") {
            assert_eq!(frame.must("Status").split(' ').take(2).collect::<Vec<_>>(), ["000", "200"]);
            assert_eq!(frame.must("Message-ID"), "last");
            assert_eq!(frame.range(), (1, Some(len), Some(len)));
            assert_eq!(frame.must("To-Path"), spooled.a.uri);
            reported = true;
        } else {
            assert_eq!((frame.status, &frame.id), (Some(200), &chunk.id), "{frame:?}");
            answered = true;
        }
    }
    assert_queue(&world, 3);
}

#[test]
fn what_is_too_long_or_of_another_type_is_refused() {
    let mut world = World::with(VARIANTS[1], |config| config.set("large.max_size", "50000"));
    world.appliance.put_preferences(BOB, &Preferences::large("defer").document());
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan::default());
    assert_eq!(spooled.answer.must("max-size"), "50000");
    let chunk = spooled.a.send_request("m").range(1, Some(5), Some(50_001)).body(CPIM, *b"hello").flag('+');
    spooled.a.send(&chunk);
    assert_eq!(spooled.a.response_to(&chunk).status, Some(413));
    let chunk = spooled.a.whole("m2", "image/png", b"png");
    spooled.a.send(&chunk);
    assert_eq!(spooled.a.response_to(&chunk).status, Some(415));
    spooled.hang_up(&mut world);
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
}

#[test]
fn the_appliance_connects_to_a_passive_sender() {
    let mut world = absent(VARIANTS[3], "defer");
    let (mut spooled, _) = Spooled::establish(&mut world, &Plan { offer_setup: Some("passive"), ..Plan::default() });
    assert_eq!(spooled.answer.must("setup"), "active");
    let body = large_cpim(40_000);
    let statuses = spooled.a.send_message("m1", CPIM, &body, 10_000, 2);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_queue(&world, 1);
}

#[test]
fn a_registered_user_who_is_not_available_is_spared() {
    let mut world = World::with_bob(VARIANTS[1]);
    let preferences = Preferences { availability: "not-available", ..Preferences::large("defer") };
    world.appliance.put_preferences(BOB, &preferences.document());
    let body = large_cpim(5_000);
    take(&mut world, &body);
    assert_queue(&world, 1);
    world.assert_nothing_forwarded();
}

#[test]
fn messages_of_both_modes_are_delivered_in_their_order() {
    for variant in [VARIANTS[1], VARIANTS[3]] {
        let mut world = absent(variant, "defer");
        let first = pager(ALICE, BOB);
        assert_eq!(world.exchange(&first).status(), Some(202));
        let body = large_cpim(90_000);
        take(&mut world, &body);
        let last = pager(ALICE, BOB);
        assert_eq!(world.exchange(&last).status(), Some(202));
        assert_queue(&world, 3);
        world.register(BOB, &[Device::new()]);
        let message = world.core.request("MESSAGE");
        assert_eq!(message.body(), first.body);
        world.core.answer(&message, 200);
        let mut delivery = Delivery::accept(&mut world, Some("active"));
        assert_eq!(sha256(&delivery.receive(&mut world).bytes), sha256(&body));
        delivery.assert_ends(&mut world);
        let message = world.core.wanted("MESSAGE", |message| message.method() == Some("MESSAGE"));
        assert_eq!(message.body(), last.body);
        world.core.answer(&message, 200);
        assert_queue(&world, 0);
    }
}

#[test]
fn a_delivery_that_breaks_goes_on_where_it_was() {
    let mut world = absent(VARIANTS[3], "defer");
    let body = large_cpim(2 << 20);
    take(&mut world, &body);
    world.register(BOB, &[Device::new()]);
    let mut delivery = Delivery::accept(&mut world, Some("active"));
    let mut first = Assembled::default();
    while first.bytes.len() < 1 << 20 {
        let frame = delivery.b.next_send();
        first.add(&frame);
        delivery.b.answer(&frame, 200);
    }
    delivery.b.take_wire().reset();
    let bye = delivery.dialog.expect(&mut world.core, "BYE");
    world.core.answer(&bye, 200);
    assert_queue(&world, 1);
    world.deregister(BOB);
    world.register(BOB, &[Device::new()]);
    let mut delivery = Delivery::accept(&mut world, Some("active"));
    let mut rest = Vec::new();
    let start = loop {
        let frame = delivery.b.next_send();
        let start = frame.range().0 as usize - 1 - rest.len();
        assert_eq!(frame.must("Message-ID"), first.message_id);
        rest.extend_from_slice(frame.body.as_deref().unwrap_or_default());
        delivery.b.answer(&frame, 200);
        if frame.flag == '$' {
            break start;
        }
    };
    assert!(start > 0, "what was acknowledged is not sent again");
    assert!(start <= first.bytes.len(), "nothing is left out");
    let whole = [&first.bytes[..start], &rest].concat();
    assert_eq!(sha256(&whole), sha256(&body));
    delivery.assert_ends(&mut world);
    assert_queue(&world, 0);
}

#[test]
fn the_answer_to_a_delivery_decides_about_the_message() {
    for (status, kept) in [(404, 0), (488, 0), (603, 0), (480, 1), (503, 1)] {
        let mut world = absent(VARIANTS[1], "defer");
        take(&mut world, &large_cpim(2_000));
        world.register(BOB, &[Device::new()]);
        let invite = world.core.wanted("INVITE", |message| message.method() == Some("INVITE"));
        world.core.answer(&invite, status);
        world.core.wanted("ACK", |message| message.method() == Some("ACK"));
        if kept == 0 {
            assert_queue(&world, 0);
        } else {
            eventually("the attempt is counted", || {
                let queue = world.appliance.admin(BOB, "/deferred");
                (queue[0]["attempts"].as_u64() >= Some(1)).then_some(())
            });
        }
        assert_queue(&world, kept);
    }
}

#[test]
fn an_error_of_the_device_over_msrp_decides_too() {
    let mut world = absent(VARIANTS[1], "defer");
    take(&mut world, &large_cpim(2_000));
    world.register(BOB, &[Device::new()]);
    let mut delivery = Delivery::accept(&mut world, Some("active"));
    let frame = delivery.b.next_send();
    delivery.b.send(&Chunk::response(&frame, 415));
    delivery.assert_ends(&mut world);
    assert_queue(&world, 0);
}

#[test]
fn a_sender_who_was_blocked_meanwhile_is_dropped() {
    let mut world = absent(VARIANTS[1], "defer");
    take(&mut world, &large_cpim(2_000));
    world.appliance.put_policy(BOB, &policy(&[Rule::new(one(ALICE), "true")]));
    world.register(BOB, &[Device::new()]);
    assert_queue(&world, 0);
    world.assert_nothing_forwarded();
}

#[test]
fn a_delivered_message_is_recorded() {
    let mut world = World::new(VARIANTS[1]);
    let preferences = Preferences { recording: "active", ..Preferences::large("defer") };
    world.appliance.put_preferences(BOB, &preferences.document());
    let body = large_cpim(120_000);
    take(&mut world, &body);
    assert_eq!(world.appliance.admin_count(BOB, "/history"), 0, "a deferred message is recorded when it is delivered");
    world.register(BOB, &[Device::new()]);
    let mut delivery = Delivery::accept(&mut world, Some("active"));
    delivery.receive(&mut world);
    delivery.assert_ends(&mut world);
    let object = listed(&world, BOB, "/history");
    let stored = world.appliance.http("GET", &format!("/admin/users/{BOB}/history/{}", object["id"]), &[], b"");
    assert!(stored.body.ends_with(&body), "the CPIM bytes are kept");
    assert_eq!(object["outcome"], "delivered", "{object}");
}

#[test]
fn files_go_with_the_last_message_that_needs_them() {
    let mut world = absent(VARIANTS[1], "defer");
    let body = large_cpim(300_000);
    take(&mut world, &body);
    take(&mut world, &body);
    assert_queue(&world, 2);
    assert_eq!(content_files(&world), 1, "the same bytes are kept once");
    world.register(BOB, &[Device::new()]);
    for left in [1, 0] {
        let mut delivery = Delivery::accept(&mut world, Some("active"));
        assert_eq!(sha256(&delivery.receive(&mut world).bytes), sha256(&body));
        delivery.assert_ends(&mut world);
        eventually("the file's fate", || (content_files(&world) == left).then_some(()));
    }
}

#[test]
fn many_senders_at_once_lose_nothing() {
    let mut world = absent(VARIANTS[1], "defer");
    let mut spooled: Vec<Spooled> = (0..8).map(|_| Spooled::establish(&mut world, &Plan::default()).0).collect();
    let bodies: Vec<Vec<u8>> = (0..8).map(|index| large_cpim(100_000 + index * 1_000)).collect();
    std::thread::scope(|scope| {
        for (spooled, body) in spooled.iter_mut().zip(&bodies) {
            scope.spawn(move || {
                let statuses = spooled.a.send_message(&token("m"), CPIM, body, 10_240, 8);
                assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
            });
        }
    });
    world.crash_and_restart();
    assert_queue(&world, 8);
    world.register(BOB, &[Device::new()]);
    let mut arrived: Vec<String> = bodies
        .iter()
        .map(|_| {
            let mut delivery = Delivery::accept(&mut world, Some("active"));
            let whole = delivery.receive(&mut world);
            delivery.assert_ends(&mut world);
            sha256(&whole.bytes)
        })
        .collect();
    let mut sent: Vec<String> = bodies.iter().map(|body| sha256(body)).collect();
    arrived.sort();
    sent.sort();
    assert_eq!(arrived, sent);
    assert_queue(&world, 0);
}

#[test]
fn offers_for_the_spool_are_checked_as_for_a_bridge() {
    let mut world = absent(VARIANTS[1], "defer");
    let media = Media { accept_types: "text/plain", ..Media::offer(&Peer::new()) };
    let request = world.invite(BOB, &media.text(), &[]);
    let sent = world.send(&request);
    assert_eq!(world.alice.final_response(&sent).status(), Some(488));
    let request = world.invite(BOB, &Media::offer(&Peer::new()).text(), &[]).header("Session-Expires", "60");
    let sent = world.send(&request);
    assert_eq!(world.alice.final_response(&sent).status(), Some(422));
}
