//! Connections come to their sessions.

use super::world::{A_PATH, B_PATH, World, request, response, settings};
use crate::base::id::ConnId;
use crate::msrp::news::{Event, Purpose, Role, SessionId, Side, Why};
use crate::msrp::settings::{Acknowledgement, PathMode};
use std::net::SocketAddr;
use std::time::Duration;

const FIELDS: &str = "Message-ID: m\r\nByte-Range: 1-4/4\r\nContent-Type: message/cpim\r\n";

fn world(seed: u64) -> World {
    World::new(seed, settings(Acknowledgement::EndToEnd, PathMode::Prepend))
}

fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A passive towards us, B to be connected to.
fn towards_b(world: &mut World, path: &str, to: &[&str]) -> SessionId {
    let id = world.open(Purpose::Bridge { record: false });
    world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
    world.negotiate(id, Side::Terminating, path, Role::Active, &addrs(to));
    id
}

fn send(world: &mut World, id: SessionId, conn: ConnId, tid: &str) {
    let to = world.relay.uri(id, Side::Originating).to_owned();
    world.write(conn, &request(tid, "SEND", &to, A_PATH, FIELDS, Some(b"body"), '$'));
}

fn lost(id: SessionId, side: Side, why: Why) -> Event {
    Event::Lost { id, side, why }
}

#[test]
fn a_chunk_before_the_start_waits_for_it_and_for_the_receivers_binding() {
    for seed in 0..20 {
        let mut world = world(seed);
        let id = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
        let a = world.accept();
        send(&mut world, id, a, "aaaa1111");
        send(&mut world, id, a, "aaaa2222");
        assert!(world.wire(a).is_paused, "and its sender is not read from");
        assert!(world.connects.is_empty() && world.heard(a).is_empty());
        world.relay.start(id, world.now);
        world.run();
        assert_eq!(world.connects[0].1, "192.0.2.7:7".parse().unwrap());
        let b = world.connect();
        let heard = world.heard(b);
        let [binding] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((binding.what.as_str(), binding.body.as_ref(), binding.flag), ("SEND", None, '$'));
        assert_eq!(binding.field("To-Path"), B_PATH);
        let own = world.relay.uri(id, Side::Terminating).to_owned();
        assert_eq!(binding.field("From-Path"), format!("{own} {A_PATH}"));
        world.write(b, &response(&binding.tid, "200 OK", &own, B_PATH));
        assert_eq!(world.heard(b).len(), 2);
        assert!(!world.wire(a).is_paused);
        let bound: Vec<_> = world.events.drain(..).collect();
        assert_eq!(bound.len(), 2, "{bound:?}");
    }
}

#[test]
fn a_refused_connection_is_tried_again_for_two_seconds() {
    let mut world = world(1);
    let id = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
    world.relay.start(id, world.now);
    world.run();
    let begun = world.now;
    let mut count = 0;
    while world.events.is_empty() {
        if world.connects.is_empty() {
            world.pass(Duration::from_millis(10));
        } else {
            world.refuse_connect();
            count += 1;
        }
        assert!(count < 100);
    }
    assert_eq!(world.events, [lost(id, Side::Terminating, Why::Connect)]);
    assert!(count >= 5, "{count}");
    let span = world.now - begun;
    assert!(span >= Duration::from_secs(2) && span < Duration::from_secs(3), "{span:?}");
    world.relay.end(id, world.now);
    world.assert_empty();
}

#[test]
fn the_second_address_is_tried_when_the_first_is_silent() {
    let mut world = world(2);
    let id = towards_b(&mut world, B_PATH, &["[2001:db8::1]:7", "192.0.2.7:7"]);
    world.relay.start(id, world.now);
    world.run();
    let first = world.connects[0].0;
    world.pass(Duration::from_secs(4));
    assert_eq!(world.abandoned, [first]);
    assert_eq!(world.connects[0].1, "192.0.2.7:7".parse().unwrap());
    assert!(!world.relay.on_connected(first, ConnId { slot: 77, generation: 1 }, world.now), "too late");
    world.connect();
    assert!(matches!(world.events[..], [Event::Bound { side: Side::Terminating, .. }]));
}

#[test]
fn a_silent_address_is_given_up_after_ten_seconds() {
    let mut world = world(3);
    let id = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
    world.relay.start(id, world.now);
    world.run();
    world.pass(Duration::from_millis(9_900));
    assert!(world.events.is_empty());
    world.pass(Duration::from_millis(200));
    assert_eq!(world.events, [lost(id, Side::Terminating, Why::Connect)]);
    assert_eq!((world.abandoned.len(), world.connects.len()), (1, 0));
    world.relay.end(id, world.now);
    world.assert_empty();
}

#[test]
fn sides_that_nobody_joins_are_lost_after_thirty_seconds() {
    let mut world = world(4);
    let id = world.open(Purpose::Bridge { record: false });
    world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
    world.negotiate(id, Side::Terminating, B_PATH, Role::Passive, &[]);
    world.pass(Duration::from_secs(100));
    assert!(world.events.is_empty(), "SIP's own timers run before");
    world.relay.start(id, world.now);
    let a = world.accept();
    world.bind(a, id, Side::Originating, A_PATH);
    world.events.clear();
    send(&mut world, id, a, "aaaa1111");
    world.pass(Duration::from_secs(29));
    assert!(world.events.is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.events, [lost(id, Side::Terminating, Why::Bind)]);
    assert_eq!(world.heard(a)[0].status(), 481, "what waited is answered");
    world.relay.end(id, world.now);
    world.run();
    world.assert_empty();
}

#[test]
fn a_connection_that_joins_nothing_is_dropped_after_ten_seconds() {
    let mut world = world(5);
    let conn = world.accept();
    world.write(conn, b"MSRP ");
    world.pass(Duration::from_millis(9_900));
    assert!(!world.wire(conn).is_closed);
    world.pass(Duration::from_millis(200));
    assert!(world.wire(conn).is_closed);
    world.assert_empty();
}

#[test]
fn a_binding_that_is_refused_loses_the_session() {
    let mut world = world(6);
    let id = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
    world.relay.start(id, world.now);
    world.run();
    let b = world.connect();
    let binding = world.heard(b).remove(0);
    let own = world.relay.uri(id, Side::Terminating).to_owned();
    world.write(b, &response(&binding.tid, "481", &own, B_PATH));
    assert_eq!(world.events.last(), Some(&lost(id, Side::Terminating, Why::Bind)));
    world.relay.end(id, world.now);
    world.run();
    assert!(!world.wire(b).is_closed, "it is kept for the next session for a while");
    world.pass(Duration::from_secs(61));
    assert!(world.wire(b).is_closed);
    world.assert_empty();
}

#[test]
fn sessions_with_the_same_next_hop_share_a_connection() {
    let mut world = world(7);
    let first = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
    let second = towards_b(&mut world, "msrp://b.example:7/second;tcp", &["192.0.2.7:7"]);
    let third = towards_b(&mut world, "msrp://b.example:7/third;tcp", &["192.0.2.7:7"]);
    world.relay.start(first, world.now);
    world.relay.start(second, world.now);
    world.run();
    assert_eq!(world.connects.len(), 1);
    let b = world.connect();
    world.relay.start(third, world.now);
    world.run();
    assert!(world.connects.is_empty());
    let bindings: Vec<_> = world.heard(b).iter().map(|chunk| chunk.field("To-Path").to_owned()).collect();
    assert_eq!(bindings, [B_PATH, "msrp://b.example:7/second;tcp", "msrp://b.example:7/third;tcp"]);
    world.relay.end(first, world.now);
    world.relay.end(third, world.now);
    world.run();
    assert!(!world.wire(b).is_closed);
    world.close(b);
    assert_eq!(world.events.last(), Some(&lost(second, Side::Terminating, Why::Closed)));
    world.relay.end(second, world.now);
    world.assert_empty();
}

#[test]
fn the_end_of_an_attempts_only_session_ends_the_attempt() {
    let mut world = world(8);
    let id = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
    world.relay.start(id, world.now);
    world.run();
    world.relay.end(id, world.now);
    world.run();
    assert_eq!((world.abandoned.len(), world.connects.len()), (1, 0));
    world.assert_empty();
}

#[test]
fn an_active_sender_side_is_connected_to_and_bound_too() {
    for seed in 0..10 {
        let mut world = world(seed);
        let id = world.open(Purpose::Bridge { record: false });
        world.negotiate(id, Side::Originating, A_PATH, Role::Active, &addrs(&["192.0.2.9:9"]));
        world.negotiate(id, Side::Terminating, B_PATH, Role::Passive, &[]);
        world.relay.start(id, world.now);
        world.run();
        let a = world.connect();
        let binding = world.heard(a).remove(0);
        assert_eq!(binding.field("To-Path"), A_PATH);
        let own = world.relay.uri(id, Side::Originating).to_owned();
        assert_eq!(binding.field("From-Path"), format!("{own} {B_PATH}"));
        world.write(a, &response(&binding.tid, "200 OK", &own, A_PATH));
        send(&mut world, id, a, "aaaa1111");
        let b = world.accept();
        let heard = world.bind(b, id, Side::Terminating, B_PATH);
        assert_eq!(heard.len(), 1, "what waited follows the binding's response");
        assert_eq!(heard[0].body.as_deref(), Some(&b"body"[..]));
    }
}

#[test]
fn a_peer_that_connects_although_we_would_is_taken() {
    let mut world = world(9);
    let id = towards_b(&mut world, B_PATH, &["192.0.2.7:7"]);
    world.relay.start(id, world.now);
    world.run();
    let b = world.accept();
    world.bind(b, id, Side::Terminating, B_PATH);
    assert_eq!((world.abandoned.len(), world.connects.len()), (1, 0));
}
