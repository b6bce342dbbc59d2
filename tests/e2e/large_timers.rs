//! What happens when nothing happens (SPEC §4.6, LM-4, LM-K2): the waits of one appliance, side by side in one test,
//! because the longest is a minute.

use crate::support::dialog::Dialog;
use crate::support::endpoint::Endpoint;
use crate::support::large::*;
use crate::support::message::Received;
use crate::support::msrp::Arrival;
use crate::support::world::*;
use std::time::{Duration, Instant};

/// A request of this dialog comes before this moment, and not before that one.
#[track_caller]
fn comes_between(at: &mut Endpoint, dialog: &Dialog, method: &str, start: Instant, seconds: [u64; 2]) -> Received {
    let deadline = start + Duration::from_secs(seconds[1]);
    let request = at.wanted_within(deadline.saturating_duration_since(Instant::now()), |message| {
        message.method() == Some(method) && dialog.owns(message)
    });
    let request = request.unwrap_or_else(|| panic!("no {method} within {} s", seconds[1]));
    if method != "ACK" {
        at.answer(&request, 200);
    }
    request
}

#[test]
fn every_wait_has_its_end() {
    let mut world = World::with_bob(VARIANTS[1]);
    let start = Instant::now();

    // Acknowledged hop by hop, a chunk that the device does not answer.
    let mut hop = World::with_bob_and(VARIANTS[0], |config| config.set("msrp.ack", "\"hop-by-hop\""));
    let mut reported = Call::establish(&mut hop, &Plan::default());
    let early = reported.a.whole("m2", CPIM, &large_cpim(100));
    reported.a.send(&early);
    reported.b.next_send();
    assert_eq!(reported.a.response_to(&early).status, Some(200));
    // Alice never acknowledges.
    let mut unacknowledged = Call::start(&mut world, &Plan::default());
    unacknowledged.answer(&mut world);
    // Nobody connects.
    let mut unjoined = Call::connected(&mut world, &Plan::default());
    // The device does not answer a chunk.
    let mut silent = Call::establish(&mut world, &Plan::default());
    let chunk = silent.a.whole("m1", CPIM, &large_cpim(100));
    silent.a.send(&chunk);
    silent.b.next_send();
    // Nothing follows the message.
    let mut idle = Call::establish(&mut world, &Plan::default());
    idle.assert_works();
    // Alice is to refresh, and does not; the device is to be refreshed by the appliance.
    let plan = Plan::default()
        .header("Session-Expires", "90;refresher=uac")
        .answer_header("Session-Expires", "90;refresher=uac")
        .answer_header("Require", "timer");
    let mut refreshed = Call::establish(&mut world, &plan);
    let expires = refreshed.a_ok.as_ref().expect("answered").must("Session-Expires");
    assert_eq!(expires, "90;refresher=uac");
    // The 200 to a failed INVITE's ACK, the 200s that are repeated: nobody's but the first call's.
    assert_eq!(world.gauge("ringpost_msrp_sessions"), 5);

    // LM-K2: the device is acknowledged by 30 s in any case, and then hung up.
    let (a, b) = (unacknowledged.a_dialog().clone(), unacknowledged.b_dialog().clone());
    comes_between(&mut world.core, &b, "ACK", start, [28, 34]);
    comes_between(&mut world.core, &b, "BYE", start, [28, 36]);
    comes_between(&mut world.alice, &a, "BYE", start, [28, 40]);

    // §4.5: no session joined within 30 s of the ACK.
    let (a, b) = (unjoined.a_dialog().clone(), unjoined.b_dialog().clone());
    for (endpoint, dialog) in [(&mut world.alice, &a), (&mut world.core, &b)] {
        let bye = comes_between(endpoint, dialog, "BYE", start, [28, 40]);
        let reason = bye.must("Reason");
        assert!(reason.starts_with("SIP") && reason.replace(' ', "").contains(";cause=480"), "{reason}");
    }

    // §4.6: a transaction ends after 30 s.
    match silent.a.arrival((start + Duration::from_secs(40)).saturating_duration_since(Instant::now())) {
        Arrival::Frame(frame) => assert_eq!((frame.status, &frame.id), (Some(408), &chunk.id)),
        other => panic!("a 408 for the chunk: {other:?}"),
    }
    assert!(start.elapsed() >= Duration::from_secs(28));
    let (a, b) = (silent.a_dialog().clone(), silent.b_dialog().clone());
    comes_between(&mut world.alice, &a, "BYE", start, [28, 42]);
    comes_between(&mut world.core, &b, "BYE", start, [28, 42]);

    match reported.a.arrival((start + Duration::from_secs(42)).saturating_duration_since(Instant::now())) {
        Arrival::Frame(frame) => {
            assert!(frame.is("REPORT"), "{frame:?}");
            assert!(frame.must("Status").starts_with("000 408"), "{frame:?}");
            assert_eq!(frame.must("Message-ID"), "m2");
        }
        other => panic!("a REPORT for the chunk: {other:?}"),
    }

    // RFC 4028 §10: the refresher refreshes at half the interval.
    let b = refreshed.b_dialog().clone();
    let deadline = start + Duration::from_secs(55);
    let refresh = world.core.wanted_within(deadline.saturating_duration_since(Instant::now()), |message| {
        matches!(message.method(), Some("UPDATE" | "INVITE")) && b.owns(message)
    });
    let refresh = refresh.expect("the device's leg is refreshed");
    assert!(refresh.must("Session-Expires").starts_with("90"), "{refresh:?}");
    let headers = [("Session-Expires", "90;refresher=uac"), ("Require", "timer"), ("Contact", b.contact.as_str())];
    let answer = refreshed.b_answer().text();
    let body = (refresh.method() == Some("INVITE")).then_some(("application/sdp", answer.as_bytes()));
    world.core.answer_as(&refresh, 200, "unused", &headers, body);

    // §4.6: 60 s behind the last answered chunk.
    let (a, b) = (idle.a_dialog().clone(), idle.b_dialog().clone());
    comes_between(&mut world.alice, &a, "BYE", start, [55, 70]);
    comes_between(&mut world.core, &b, "BYE", start, [55, 70]);

    // LM-4: without a refresh of Alice's, 30 s before her 90 are over.
    let (a, b) = (refreshed.a_dialog().clone(), refreshed.b_dialog().clone());
    comes_between(&mut world.alice, &a, "BYE", start, [55, 75]);
    comes_between(&mut world.core, &b, "BYE", start, [55, 75]);
    assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
}
