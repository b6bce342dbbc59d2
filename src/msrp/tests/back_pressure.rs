//! A slow receiver stops its own sender and nobody else; everything is bounded.

use super::world::{Bridge, noise, request};
use crate::base::limits::{MSRP_EGRESS_HIGH, MSRP_PENDING_COUNT_MAX};

#[test]
fn a_receiver_that_does_not_read_stops_its_sender_until_it_reads() {
    for seed in 0..10 {
        let mut bridge = Bridge::new(seed);
        if bridge.world.cut_max < 1_000 {
            continue; // A megabyte in single bytes proves nothing more.
        }
        let (a, b) = (bridge.a, bridge.b);
        bridge.world.wire(b).is_stuck = true;
        let body = noise(seed, 1 << 20);
        bridge.message("aaaa1111", &body);
        assert!(bridge.world.wire(a).is_paused);
        assert!(bridge.world.unread_len(a) > 500_000, "TCP holds the rest");
        assert!(bridge.world.relay.levels().egress_len < MSRP_EGRESS_HIGH + 80_000);
        assert_eq!(bridge.world.relay.take_counts().paused, 1);
        bridge.world.wire(b).is_stuck = false;
        bridge.world.run();
        // Nothing asks a connection whose bytes were already wanted: the next turn does.
        assert!(!bridge.world.wire(a).is_paused);
        let chunk = bridge.heard_b().remove(0);
        assert!(chunk.body.as_deref() == Some(&body[..]));
        bridge.answer(&chunk, "200 OK");
        assert_eq!(bridge.heard_a()[0].status(), 200);
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        bridge.world.assert_empty();
    }
}

#[test]
fn chunks_without_responses_are_bounded() {
    let mut bridge = Bridge::new(2);
    let a = bridge.a;
    let count = MSRP_PENDING_COUNT_MAX + 50;
    for n in 0..count {
        bridge.message(&format!("tid{n:05}"), b"x");
    }
    let chunks = bridge.heard_b();
    assert_eq!(chunks.len(), MSRP_PENDING_COUNT_MAX);
    assert!(bridge.world.wire(a).is_paused);
    for chunk in &chunks {
        bridge.answer(chunk, "200 OK");
    }
    assert!(!bridge.world.wire(a).is_paused);
    let rest = bridge.heard_b();
    assert_eq!(rest.len(), 50);
    for chunk in &rest {
        bridge.answer(chunk, "200 OK");
    }
    let tids: Vec<_> = bridge.heard_a().into_iter().map(|chunk| chunk.tid).collect();
    assert_eq!(tids, (0..count).map(|n| format!("tid{n:05}")).collect::<Vec<_>>());
}

#[test]
fn partial_failure_reports_never_fill_the_table() {
    let mut bridge = Bridge::new(4);
    let fields = "Message-ID: m\r\nFailure-Report: partial\r\nContent-Type: message/cpim\r\n";
    for n in 0..MSRP_PENDING_COUNT_MAX * 2 {
        bridge.send(&format!("tid{n:05}"), fields, Some(b"x"), '$');
    }
    assert_eq!(bridge.heard_b().len(), MSRP_PENDING_COUNT_MAX * 2);
}

#[test]
fn one_who_asks_for_refusals_and_does_not_read_them_is_not_read_from() {
    let mut bridge = Bridge::new(1);
    if bridge.world.cut_max < 100 {
        bridge.world.cut_max = 2_000;
    }
    let stranger = bridge.world.accept();
    bridge.world.wire(stranger).is_stuck = true;
    let bad =
        request("aaaa1111", "SEND", "msrp://127.0.0.1:20855/x;tcp", "msrp://s:1/s;tcp", "Message-ID: m\r\n", None, '$');
    bridge.world.write(stranger, &bad.repeat(10_000));
    assert!(bridge.world.wire(stranger).is_paused);
    assert!(bridge.world.relay.levels().egress_len < MSRP_EGRESS_HIGH + 80_000);
    bridge.world.wire(stranger).is_stuck = false;
    bridge.world.run();
    assert_eq!(bridge.world.heard(stranger).len(), 10_000);
}

#[test]
fn a_slow_receiver_that_is_lost_lets_its_senders_go() {
    let mut bridge = Bridge::new(2);
    bridge.world.cut_max = 70_000;
    let (a, b) = (bridge.a, bridge.b);
    bridge.world.wire(b).is_stuck = true;
    bridge.message("aaaa1111", &noise(1, 1 << 20));
    assert!(bridge.world.wire(a).is_paused);
    bridge.world.close(b);
    assert!(!bridge.world.wire(a).is_paused);
    assert_eq!(bridge.heard_a()[0].status(), 408);
    assert_eq!(bridge.world.unread_len(a), 0, "the rest is read and dropped");
}

#[test]
fn slowness_is_not_silence() {
    let mut bridge = Bridge::new(3);
    let b = bridge.b;
    bridge.world.wire(b).is_stuck = true;
    bridge.message("aaaa1111", b"body");
    bridge.world.pass(std::time::Duration::from_secs(45));
    assert!(bridge.world.events.is_empty(), "its last byte has not left");
    bridge.world.wire(b).is_stuck = false;
    bridge.world.run();
    bridge.world.pass(std::time::Duration::from_secs(61));
    assert_eq!(bridge.heard_a()[0].status(), 408);
}
