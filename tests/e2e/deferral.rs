//! The deferred queue (SPEC §2.4): durable, in order, one at a time, and never for ever.

use crate::support::documents::*;
use crate::support::eventually;
use crate::support::message::{Received, token};
use crate::support::world::*;
use std::time::SystemTime;

/// Bob is known, unregistered, and prefers deferral.
fn deferring_world(
    variant: Variant,
    change: impl FnOnce(crate::support::appliance::Config) -> crate::support::appliance::Config,
) -> World {
    let world = World::with(variant, change);
    world.appliance.put_preferences(BOB, &Preferences::handling("defer").document());
    world
}

fn defer(world: &mut World, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| {
            let id = token("id");
            let request =
                pager_with(ALICE, BOB, &id, "positive-delivery", "text/plain", &format!("{BODY_MARK} {index}"));
            let response = world.exchange(&request);
            assert_eq!(response.status(), Some(202), "{response:?}");
            request.body
        })
        .collect()
}

fn queue_len(world: &World) -> usize {
    world.appliance.admin_count(BOB, "/deferred")
}

fn queue_empties(world: &World) {
    eventually("the deferred queue empties", || (queue_len(world) == 0).then_some(()));
}

#[test]
fn deferred_messages_are_delivered_in_order_one_at_a_time() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        let bodies = defer(&mut world, 6);
        world.register(BOB, &[Device::new()]);
        for (index, body) in bodies.iter().enumerate() {
            let delivered = world.core.request("MESSAGE");
            assert_eq!(delivered.body(), body, "number {index}");
            if index < 3 {
                // Nothing else may be on its way while this one has no answer.
                world.assert_nothing_forwarded();
            }
            world.core.answer(&delivered, 200);
        }
        queue_empties(&world);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn what_was_accepted_with_202_survives_a_crash_at_once_after_it() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        let bodies = defer(&mut world, 3);
        world.crash_and_restart();
        assert_eq!(queue_len(&world), 3);
        world.register(BOB, &[Device::new()]);
        for body in &bodies {
            let delivered = world.core.request("MESSAGE");
            assert_eq!(delivered.body(), body);
            world.core.answer(&delivered, 200);
        }
        queue_empties(&world);
    });
}

#[test]
fn a_registered_user_gets_what_a_crash_left_in_the_queue_without_registering_again() {
    let mut world = deferring_world(VARIANTS[1], |config| config);
    let bodies = defer(&mut world, 2);
    world.register(BOB, &[Device::new()]);
    let delivered = world.core.request("MESSAGE");
    assert_eq!(delivered.body(), bodies[0]);
    world.crash_and_restart();
    // The first may come again: it had no answer (SPEC §2.4, double delivery). The order stays.
    for body in &bodies {
        let delivered = world.core.request("MESSAGE");
        assert_eq!(delivered.body(), body);
        world.core.answer(&delivered, 200);
    }
    queue_empties(&world);
}

#[test]
fn a_sender_who_was_blocked_meanwhile_is_dropped_without_a_word() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        defer(&mut world, 2);
        world.appliance.put_policy(BOB, &policy_blocking(ALICE));
        world.register(BOB, &[Device::new()]);
        queue_empties(&world);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a_permanent_refusal_drops_the_message_and_goes_on() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        let bodies = defer(&mut world, 2);
        world.register(BOB, &[Device::new()]);
        let first = world.core.request("MESSAGE");
        world.core.answer(&first, 404);
        let second = world.core.request("MESSAGE");
        assert_eq!(second.body(), bodies[1]);
        world.core.answer(&second, 200);
        queue_empties(&world);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a_temporary_refusal_keeps_the_message_for_the_next_registration() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        let bodies = defer(&mut world, 1);
        let device = Device::new();
        world.register(BOB, std::slice::from_ref(&device));
        let delivered = world.core.request("MESSAGE");
        world.core.answer(&delivered, 480);
        eventually("the attempt is counted", || {
            (world.appliance.admin(BOB, "/deferred")[0]["attempts"] == 1).then_some(())
        });
        world.register(BOB, &[device]);
        let again = world.core.request("MESSAGE");
        assert_eq!(again.body(), bodies[0]);
        assert_ne!(again.branch(), delivered.branch());
        world.core.answer(&again, 200);
        queue_empties(&world);
    });
}

#[test]
fn a_full_queue_gets_480_and_no_202() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config.set("deferred.per_user_count", "2"));
        defer(&mut world, 2);
        let response = world.assert_refused(&pager(ALICE, BOB), 480);
        assert_generated(&response);
        assert_eq!(queue_len(&world), 2);
        // Another user's queue has room.
        world.appliance.put_preferences("sip:dora@home.example", &Preferences::handling("defer").document());
        assert_eq!(world.exchange(&pager(ALICE, "sip:dora@home.example")).status(), Some(202));
    });
}

#[test]
fn a_queue_is_bounded_in_bytes_too() {
    let mut world = deferring_world(VARIANTS[0], |config| config.set("deferred.per_user_bytes", "3000"));
    assert_eq!(world.exchange(&pager(ALICE, BOB)).status(), Some(202));
    let statuses: Vec<_> = (0..4).map(|_| world.exchange(&pager(ALICE, BOB)).status()).collect();
    assert_eq!(statuses.last(), Some(&Some(480)), "{statuses:?}");
}

#[test]
fn a_deferred_message_expires() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        let request = pager(ALICE, BOB).header("Expires", "1");
        assert_eq!(world.exchange(&request).status(), Some(202));
        queue_empties(&world);
        world.register(BOB, &[Device::new()]);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn the_operators_longest_stay_bounds_the_senders() {
    let mut world = deferring_world(VARIANTS[0], |config| config.set("deferred.max_age", "1"));
    let request = pager(ALICE, BOB).header("Expires", "86400");
    assert_eq!(world.exchange(&request).status(), Some(202));
    queue_empties(&world);
}

#[test]
fn the_sender_of_an_expired_message_is_told_when_it_asked_for_it() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config);
        let id = token("imdn");
        let request = pager_with(ALICE, BOB, &id, "positive-delivery, negative-delivery", "text/plain", BODY_MARK);
        assert_eq!(world.exchange(&request.header("Expires", "1")).status(), Some(202));
        let notice = world.core.request("MESSAGE");
        assert_failed_notice(&notice, &id);
        world.core.answer(&notice, 200);
        assert_eq!(queue_len(&world), 0);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn the_sender_of_a_message_that_comes_too_late_is_told_by_notification_or_by_error_but_not_twice() {
    for (setting, status) in [("\"202-discard\"", 202), ("410", 410), ("480", 480)] {
        let mut world = World::with(VARIANTS[1], |config| config.set("policy.expired", setting));
        world.register(BOB, &[Device::new()]);
        let id = token("imdn");
        let request = pager_with(ALICE, BOB, &id, "negative-delivery", "text/plain", BODY_MARK);
        let request = request.header("Expires", "60").replace("Date", &date(seconds_ago(600)));
        assert_eq!(world.exchange(&request).status(), Some(status));
        if status == 202 {
            let notice = world.core.request("MESSAGE");
            assert_failed_notice(&notice, &id);
            world.core.answer(&notice, 200);
        }
        world.assert_nothing_forwarded();
    }
}

#[test]
fn the_sender_of_a_refused_message_is_told_when_it_asked_for_it() {
    let mut world = deferring_world(VARIANTS[1], |config| config);
    let id = token("imdn");
    let request = pager_with(ALICE, BOB, &id, "negative-delivery", "text/plain", BODY_MARK);
    assert_eq!(world.exchange(&request).status(), Some(202));
    world.register(BOB, &[Device::new()]);
    let delivered = world.core.request("MESSAGE");
    world.core.answer(&delivered, 404);
    let notice = world.core.request("MESSAGE");
    assert_failed_notice(&notice, &id);
    world.core.answer(&notice, 200);
    queue_empties(&world);
}

#[test]
fn no_notification_is_sent_about_a_notification() {
    let mut world = deferring_world(VARIANTS[0], |config| config);
    let request = pager_with(ALICE, BOB, &token("id"), "negative-delivery", "message/imdn+xml", &imdn());
    assert_eq!(world.exchange(&request.header("Expires", "1")).status(), Some(202));
    queue_empties(&world);
    world.assert_nothing_forwarded();
}

#[test]
fn a_sender_who_asks_how_the_message_is_processed_is_told_that_it_is_stored() {
    in_all_variants(|variant| {
        for (handling, status) in [("defer", 202), ("store", 200)] {
            let mut world = World::new(variant);
            world.appliance.put_preferences(BOB, &Preferences::handling(handling).document());
            let id = token("imdn");
            let request = pager_with(ALICE, BOB, &id, "processing", "text/plain", BODY_MARK);
            assert_eq!(world.exchange(&request).status(), Some(status));
            let notice = world.core.request("MESSAGE");
            assert_notice(&notice, &id);
            let body = String::from_utf8_lossy(notice.body()).into_owned();
            assert!(body.contains("<processing-notification><status><stored/>"), "{body}");
            world.core.answer(&notice, 200);
            // Who asks for nothing of the kind is told nothing (SPEC §2.4).
            let request = pager_with(ALICE, BOB, &token("imdn"), "positive-delivery", "text/plain", BODY_MARK);
            assert_eq!(world.exchange(&request).status(), Some(status));
            world.assert_nothing_forwarded();
        }
    });
}

fn imdn() -> String {
    format!(
        "<?xml version=\"1.0\"?><imdn xmlns=\"urn:ietf:params:xml:ns:imdn\"><message-id>x</message-id>\
         <datetime>{}</datetime><delivery-notification><status><delivered/></status></delivery-notification></imdn>",
        date(SystemTime::now())
    )
}

#[test]
fn a_notification_of_any_cpm_service_is_delivered_and_never_rejected_by_preference() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::handling("reject").document());
        let notification = |service: &str| {
            let icsi = format!("urn:urn-7:3gpp-service.ims.icsi.oma.cpm.{service}");
            pager_with(ALICE, BOB, &token("id"), "", "message/imdn+xml", &imdn())
                .replace("P-Asserted-Service", &icsi)
                .replace("Accept-Contact", &format!("*;+g.3gpp.icsi-ref=\"{}\"", icsi.replace(':', "%3A")))
        };
        world.assert_refused(&pager(ALICE, BOB), 403);
        world.assert_refused(&notification("session"), 202);
        world.register(BOB, &[Device::new()]);
        let delivered = world.core.request("MESSAGE");
        world.core.answer(&delivered, 200);
        for service in ["msg", "largemsg", "deferred", "session", "session.group", "filetransfer", "systemmsg"] {
            let request = notification(service);
            let forwarded = world.assert_delivered(&request);
            assert_eq!(Some(forwarded.must("Accept-Contact").as_str()), request.value("Accept-Contact"));
            assert_eq!(forwarded.body(), request.body);
        }
        // Step 1 holds for notifications as for everything (SPEC §2.8).
        world.appliance.put_policy(BOB, &policy(&[Rule::new(one(ALICE), "true")]));
        world.assert_refused(&notification("session"), 403);
    });
}

/// An IMDN for Alice that says that the message with this id failed (RFC 5438, SPEC §2.8).
fn assert_failed_notice(notice: &Received, id: &str) {
    assert_notice(notice, id);
    let body = String::from_utf8_lossy(notice.body()).into_owned();
    assert!(body.contains("<failed/>") || body.contains("<failed></failed>"), "{body}");
}

/// An IMDN for Alice about the message with this id.
fn assert_notice(notice: &Received, id: &str) {
    assert_eq!(notice.uri(), Some(ALICE), "{notice:?}");
    assert!(notice.must("Content-Type").starts_with("message/cpim"), "{notice:?}");
    assert!(notice.must("P-Asserted-Identity").contains("sip:"), "{notice:?}");
    let body = String::from_utf8_lossy(notice.body()).into_owned();
    assert!(body.contains("message/imdn+xml"), "{body}");
    assert!(body.to_ascii_lowercase().contains("content-disposition: notification"), "{body}");
    assert!(body.contains(&format!("<message-id>{id}</message-id>")), "{body}");
    let outer = body.split("\r\n\r\n").next().unwrap_or_default();
    assert!(!outer.contains("Disposition-Notification"), "no disposition is requested for a notification: {body}");
    assert!(!outer.contains(&format!("Message-ID: {id}\r\n")), "a new id: {body}");
}

#[test]
fn chosen_failures_of_devices_can_defer_the_message() {
    in_all_variants(|variant| {
        let mut world = deferring_world(variant, |config| config.set("deferred.defer_on", "[480, 504]"));
        let device = Device::new();
        world.register(BOB, std::slice::from_ref(&device));
        let request = pager(ALICE, BOB);
        let sent = world.send(&request);
        let forwarded = world.core.request("MESSAGE");
        world.core.answer(&forwarded, 480);
        let response = world.alice.response(&sent);
        assert_eq!(response.status(), Some(202), "{response:?}");
        assert_eq!(queue_len(&world), 1);
        // Others are forwarded as ever.
        let sent = world.send(&pager(ALICE, BOB));
        let forwarded = loop {
            // The queue may be tried again at any time.
            let message = world.core.request("MESSAGE");
            if message.call_id() == sent.call_id {
                break message;
            }
            world.core.answer(&message, 480);
        };
        world.core.answer(&forwarded, 486);
        assert_eq!(world.alice.response(&sent).status(), Some(486));
        world.register(BOB, &[device]);
        let again = world.core.request("MESSAGE");
        world.core.answer(&again, 200);
        assert_eq!(again.body(), request.body);
        queue_empties(&world);
    });
}

#[test]
fn availability_set_by_the_admin_api_makes_deferred_messages_flow() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let preferences = Preferences { availability: "not-available", ..Preferences::handling("defer") };
        world.appliance.put_preferences(BOB, &preferences.document());
        let bodies = defer(&mut world, 2);
        world.assert_nothing_forwarded();
        let path = format!("/admin/users/{BOB}/availability");
        let response = world.appliance.http("PUT", &path, &[("Content-Type", "text/plain")], b"available");
        assert_eq!(response.status, 204, "{}", response.text());
        assert_eq!(world.appliance.admin(BOB, "")["availability"], "available");
        for body in &bodies {
            let delivered = world.core.request("MESSAGE");
            assert_eq!(delivered.body(), body);
            world.core.answer(&delivered, 200);
        }
        queue_empties(&world);
        // Without the override the document counts again.
        assert_eq!(world.appliance.http("DELETE", &path, &[], b"").status, 204);
        assert_eq!(world.appliance.admin(BOB, "")["availability"], "not-available");
        world.assert_refused(&pager(ALICE, BOB), 202);
        let response = world.appliance.http("PUT", &path, &[("Content-Type", "text/plain")], b"perhaps");
        assert_eq!(response.status, 400);
    });
}

#[test]
fn a_preference_document_that_says_available_makes_deferred_messages_flow() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    let preferences = Preferences { availability: "not-available", ..Preferences::handling("defer") };
    world.appliance.put_preferences(BOB, &preferences.document());
    let bodies = defer(&mut world, 1);
    world.appliance.put_preferences(BOB, &Preferences::handling("defer").document());
    let delivered = world.core.request("MESSAGE");
    assert_eq!(delivered.body(), bodies[0]);
    world.core.answer(&delivered, 200);
    queue_empties(&world);
}
