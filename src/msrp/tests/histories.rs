//! What seeded histories found, step by step.

use super::world::{A_PATH, B_PATH, Bridge, World, request, settings};
use crate::msrp::news::{Event, Purpose, Role, Side, Why};
use crate::msrp::settings::{Acknowledgement, PathMode};
use std::time::Duration;

const FIELDS: &str = "Message-ID: m\r\nByte-Range: 1-4/4\r\nContent-Type: message/cpim\r\n";

#[test]
fn the_paths_of_an_unknown_method_lead_the_next_chunk_to_their_own_session() {
    for seed in 0..10 {
        let mut bridge = Bridge::new(seed);
        let (a_path, b_path) = ("msrp://a.example:9/other;tcp", "msrp://b.example:7/other;tcp");
        let world = &mut bridge.world;
        let other = world.open(Purpose::Bridge { record: false });
        world.negotiate(other, Side::Originating, a_path, Role::Passive, &[]);
        world.negotiate(other, Side::Terminating, b_path, Role::Passive, &[]);
        world.relay.start(other, world.now);
        let b = world.accept();
        world.bind(b, other, Side::Terminating, b_path);
        world.bind(bridge.a, other, Side::Originating, a_path);
        bridge.message("aaaa0001", b"for the first");
        assert_eq!(bridge.heard_b().len(), 1);
        let to = format!("{} {b_path}", bridge.world.relay.uri(other, Side::Originating));
        let world = &mut bridge.world;
        world.write(bridge.a, &request("aaaa0002", "FETCH", &to, a_path, "", None, '$'));
        world.write(bridge.a, &request("aaaa0003", "SEND", &to, a_path, FIELDS, Some(b"body"), '$'));
        assert_eq!(world.heard(b)[0].body.as_deref(), Some(&b"body"[..]));
        assert_eq!(world.heard(bridge.b), [], "it is none of the first session's");
    }
}

#[test]
fn a_connection_that_a_session_is_not_joined_to_forgets_it_with_its_end() {
    let mut bridge = Bridge::new(3);
    let (to, from) = bridge.a_paths();
    let world = &mut bridge.world;
    let stranger = world.accept();
    let chunk = request("aaaa0001", "SEND", &to, from, FIELDS, Some(b"body"), '$');
    world.write(stranger, &chunk);
    assert_eq!(world.heard(stranger)[0].status(), 506);
    world.relay.end(bridge.id, world.now);
    world.write(stranger, &chunk);
    assert_eq!(world.heard(stranger)[0].status(), 481);
    world.assert_empty();
}

#[test]
fn a_recorded_message_whose_success_nobody_tells_does_not_hold_up_the_next() {
    let mut bridge = Bridge::with(4, settings(Acknowledgement::EndToEnd, PathMode::Prepend), true);
    let fields = format!("{FIELDS}Failure-Report: partial\r\n");
    bridge.send("aaaa0001", &fields, Some(b"body"), '$');
    bridge.message("aaaa0002", b"the next");
    let heard = bridge.heard_b();
    assert_eq!(heard.len(), 2);
    // Some receivers answer it all the same.
    bridge.answer(&heard[0], "200 OK");
    bridge.answer(&heard[1], "200 OK");
    let ids = bridge.world.events.iter().filter_map(|event| match event {
        Event::Complete { message_id, .. } => Some(&**message_id),
        _ => None,
    });
    assert_eq!(ids.collect::<Vec<_>>(), [&b"m"[..], b"m-aaaa0002"]);
}

#[test]
fn behind_a_chunk_that_breaks_its_range_the_rest_of_its_message_is_refused() {
    let mut bridge = Bridge::new(5);
    let chunk = |start: u64, end: u64| {
        format!("Message-ID: m\r\nByte-Range: {start}-{end}/12\r\nContent-Type: message/cpim\r\n")
    };
    bridge.send("aaaa0001", &chunk(1, 3), Some(b"body"), '+');
    bridge.send("aaaa0002", &chunk(5, 8), Some(b"body"), '+');
    bridge.send("aaaa0003", &chunk(9, 12), Some(b"body"), '$');
    let heard = bridge.heard_b();
    assert_eq!(heard.iter().map(|chunk| chunk.flag).collect::<String>(), "#", "the receiver hears no more of it");
    assert_eq!(bridge.heard_a().iter().map(|chunk| chunk.status()).collect::<Vec<_>>(), [400; 3]);
    bridge.message("aaaa0004", b"another");
    assert_eq!(bridge.heard_b().len(), 1);
}

#[test]
fn a_sender_who_stops_inside_a_chunk_is_given_up_when_nothing_came_for_long() {
    let mut bridge = Bridge::new(6);
    let (to, from) = bridge.a_paths();
    let chunk = request("aaaa0001", "SEND", &to, from, FIELDS, Some(b"body"), '$');
    bridge.world.write(bridge.a, &chunk[..chunk.len() - 20]);
    bridge.world.pass(Duration::from_secs(179));
    assert_eq!(bridge.world.events, []);
    bridge.world.pass(Duration::from_secs(40));
    let lost = Event::Lost { id: bridge.id, side: Side::Originating, why: Why::Idle };
    assert_eq!(bridge.world.events, [lost]);
    assert_eq!(bridge.heard_b()[0].flag, '#');
    bridge.world.relay.end(bridge.id, bridge.world.now);
    bridge.world.assert_empty();
}

#[test]
fn a_slow_receiver_is_not_an_idle_session() {
    let mut bridge = Bridge::new(7);
    bridge.world.wire(bridge.b).is_stuck = true;
    bridge.message("aaaa0001", &[b'x'; 100_000]);
    bridge.world.pass(Duration::from_secs(400));
    assert_eq!(bridge.world.events, []);
    bridge.world.wire(bridge.b).is_stuck = false;
    bridge.world.run();
    let heard = bridge.heard_b();
    bridge.answer(&heard[0], "200 OK");
    assert_eq!(bridge.heard_a()[0].status(), 200);
}

#[test]
fn of_several_devices_only_the_one_whose_answer_was_taken_joins_the_session() {
    for joins_early in [false, true] {
        let mut world = World::new(8, settings(Acknowledgement::EndToEnd, PathMode::Prepend));
        let id = world.open(Purpose::Bridge { record: false });
        world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
        let (a, loser) = (world.accept(), world.accept());
        let to = world.relay.uri(id, Side::Terminating).to_owned();
        let fields = "Message-ID: bind\r\nByte-Range: 1-0/0\r\n";
        let binding = request("bind0001", "SEND", &to, "msrp://other.example:7/x;tcp", fields, None, '$');
        if joins_early {
            world.write(loser, &binding);
            assert_eq!(world.heard(loser)[0].status(), 200, "nobody knows better yet");
        }
        world.negotiate(id, Side::Terminating, B_PATH, Role::Passive, &[]);
        world.relay.start(id, world.now);
        world.run();
        if !joins_early {
            world.write(loser, &binding);
            assert_eq!(world.heard(loser)[0].status(), 481);
        }
        world.bind(a, id, Side::Originating, A_PATH);
        let b = world.accept();
        world.bind(b, id, Side::Terminating, B_PATH);
        let to = world.relay.uri(id, Side::Originating).to_owned();
        world.write(a, &request("aaaa0001", "SEND", &to, A_PATH, FIELDS, Some(b"body"), '$'));
        assert_eq!(world.heard(b).len(), 1);
        assert_eq!(world.heard(loser), []);
        world.relay.end(id, world.now);
        world.assert_empty();
    }
}
