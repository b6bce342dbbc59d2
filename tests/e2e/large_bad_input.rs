//! Hostile MSRP: the protocol's own answer or a closed connection, and nothing stays behind.

use crate::support::documents::*;
use crate::support::eventually;
use crate::support::large::*;
use crate::support::message::token;
use crate::support::msrp::{Arrival, Chunk, Peer, Wire};
use crate::support::world::*;
use std::time::Duration;

/// What may become of a request that breaks the rules.
#[derive(Debug, PartialEq)]
enum Fate {
    Status(u16),
    Closed,
}

/// What came of bytes that were sent on a connection of their own; a session elsewhere is not hurt.
#[track_caller]
fn fate_of(to: std::net::SocketAddr, bytes: &[u8]) -> Fate {
    let mut wire = Wire::connect(to);
    // The appliance may close while it is still being sent to.
    let _ = wire.try_write(bytes);
    match wire.arrival(crate::support::DEADLINE) {
        Arrival::Frame(frame) => Fate::Status(frame.status.unwrap_or_else(|| panic!("a response: {frame:?}"))),
        Arrival::Closed => Fate::Closed,
        Arrival::Silence => panic!("neither an answer nor an end"),
    }
}

#[test]
fn bad_byte_ranges_get_400() {
    let mut world = World::with_bob(VARIANTS[1]);
    for range in ["0-5/5", "7-8/5", "5-3/9", "1-5", "x-5/5", "1-5/x", "-1-5/5", "1-99999999999999999999999/5", ""] {
        let mut call = Call::establish(&mut world, &Plan::default());
        let chunk = call.a.send_request("m").header("Byte-Range", range).body(CPIM, *b"hello");
        call.a.send(&chunk);
        let response = call.a.response_to(&chunk);
        assert_eq!(response.status, Some(400), "{range:?}");
        call.hang_up(&mut world);
    }
}

#[test]
fn a_range_that_does_not_fit_its_body_gets_400_or_an_end() {
    let mut world = World::with_bob(VARIANTS[1]);
    for (end, total, len) in [(3, 5, 5), (9, 9, 5), (5, 5, 5_000), (9_000, 9_000, 100), (4, 4, 5)] {
        println!("1-{end}/{total} over {len} bytes");
        let mut call = Call::establish(&mut world, &Plan::default());
        let chunk = call.a.send_request("m").range(1, Some(end), Some(total)).body(CPIM, vec![b'x'; len]);
        call.a.send(&chunk);
        // Where more bytes are announced than come, only another chunk or the end shows it.
        call.a.wire().half_close();
        match call.a.arrival(crate::support::DEADLINE) {
            Arrival::Frame(frame) => assert_eq!((frame.status, frame.id), (Some(400), chunk.id)),
            Arrival::Closed => {}
            Arrival::Silence => panic!("neither an answer nor an end"),
        }
        call.assert_a_ends(&mut world);
        call.assert_b_ends(&mut world);
        // Whatever the device got, it is not told that it is the whole message unless it is what was announced.
        while let Arrival::Frame(frame) = call.b.arrival(Duration::from_millis(300)) {
            let whole = frame.flag == '$' && frame.body.as_ref().map(|body| body.len() as u64) != Some(total);
            assert!(!whole, "{frame:?}");
        }
    }
}

#[test]
fn heads_that_cannot_be_framed_end_the_connection() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let to = call.a.remote_addr();
    let endless = |text: &str, len: usize| [text.as_bytes(), &vec![b'a'; len]].concat();
    let cases: [(&str, Vec<u8>); 9] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("binary", (0..=255).cycle().take(4096).collect()),
        ("endless start line", endless("MSRP abcd ", 100_000)),
        ("endless transaction id", endless("MSRP ", 100_000)),
        ("endless header", endless("MSRP abcd SEND\r\nTo-Path: ", 100_000)),
        ("endless head", [b"MSRP abcd SEND\r\n".to_vec(), b"X-More: y\r\n".repeat(20_000)].concat()),
        ("short transaction id", b"MSRP a SEND\r\nTo-Path: x\r\n-------a$\r\n".to_vec()),
        ("NULs", vec![0; 8192]),
        ("line ends", b"\r\n".repeat(8192)),
    ];
    for (what, bytes) in cases {
        println!("{what}");
        assert_eq!(fate_of(to, &bytes), Fate::Closed, "{what}");
    }
    call.assert_works();
    eventually("only the session's own connections are left", || {
        (world.gauge("ringpost_msrp_connections") == 2).then_some(())
    });
}

#[test]
fn paths_that_are_too_long_or_wrong_are_refused() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let to = call.a.remote_addr();
    let own = call.a_answer().path()[0].clone();
    let many = |count: usize| format!("{own} {}", vec!["msrp://h:1/s;tcp"; count].join(" "));
    let bytes = |to_path: &str, from_path: &str| {
        Chunk::new("SEND", to_path, from_path).header("Message-ID", "m").body(CPIM, *b"x").encode()
    };
    for (what, to_path, from_path) in [
        ("a thousand URIs to go", many(1000), call.a.uri.clone()),
        ("a thousand URIs behind", own.clone(), many(1000)),
        ("twelve URIs", many(11), call.a.uri.clone()),
        ("no URI", "hello".into(), call.a.uri.clone()),
        ("empty", String::new(), call.a.uri.clone()),
        ("another scheme", own.replace("msrp://", "http://"), call.a.uri.clone()),
    ] {
        println!("{what}");
        let fate = fate_of(to, &bytes(&to_path, &from_path));
        assert!(matches!(fate, Fate::Status(400 | 481) | Fate::Closed), "{what}: {fate:?}");
    }
    let headless = format!(
        "MSRP abcd1234 SEND\r\nFrom-Path: {0}\r\nTo-Path: {own}\r\nMessage-ID: m\r\n-------abcd1234$\r\n",
        call.a.uri
    );
    let fate = fate_of(to, headless.as_bytes());
    assert!(matches!(fate, Fate::Status(400) | Fate::Closed), "paths in another order: {fate:?}");
    call.assert_works();
}

#[test]
fn a_send_before_the_ack_does_no_harm() {
    for variant in [VARIANTS[1], VARIANTS[3]] {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &Plan::default());
        call.answer(&mut world);
        call.a.connect();
        let body = large_cpim(3000);
        let chunk = call.a.whole("m1", CPIM, &body);
        call.a.send(&chunk);
        call.acknowledge(&mut world);
        call.join_b();
        let frame = call.b.next_send();
        assert_eq!(frame.body.as_deref(), Some(&body[..]), "held until the session is up");
        call.b.answer(&frame, 200);
        assert_eq!(call.a.response_to(&chunk).status, Some(200));
    }
}

#[test]
fn answers_without_a_request_are_dropped() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    for status in [200, 400, 481, 999] {
        for _ in 0..500 {
            let stray = Chunk::new(&status.to_string(), &call.b.remote_path, &call.b.uri);
            call.b.send(&stray);
            let stray = Chunk::new(&status.to_string(), &call.a.remote_path, &call.a.uri);
            call.a.send(&stray);
        }
    }
    call.a.assert_silent();
    call.b.assert_silent();
    call.assert_works();
}

#[test]
fn a_flood_of_reports_is_answered_with_nothing_and_harms_nobody() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let mut other = Call::establish(&mut world, &Plan::default());
    let chunk = call.a.whole("m1", CPIM, b"hello").header("Success-Report", "yes");
    call.a.send(&chunk);
    let frame = call.b.next_send();
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
    let bytes: Vec<u8> = (0..20_000).flat_map(|_| Chunk::report(&frame, "200 OK", "1-5/5").encode()).collect();
    // Alice does not read: her side fills, and the device is stopped or its reports are dropped.
    call.b.wire().write_until_stuck(&bytes, Duration::from_millis(500));
    other.transfer(&large_cpim(500_000), 10_240, 8);
    assert!(world.gauge("ringpost_msrp_egress_bytes") < 4 << 20);
    // Nor are REPORTs for nobody answered.
    let stranger = Chunk::new("REPORT", "msrp://127.0.0.1:1/none;tcp", &other.a.uri)
        .header("Message-ID", "x")
        .header("Status", "000 200 OK");
    other.a.send(&stranger);
    other.a.assert_silent();
    call.hang_up(&mut world);
    other.hang_up(&mut world);
    drop((call, other));
    eventually("nothing is left", || (world.gauge("ringpost_msrp_connections") == 0).then_some(()));
}

#[test]
fn connections_that_say_nothing_or_little_are_dropped() {
    let mut world = World::with_bob(VARIANTS[3]);
    let mut call = Call::connected(&mut world, &Plan::default());
    let to = call.a.remote_addr();
    let silent: Vec<Wire> = (0..20).map(|_| Wire::connect(to)).collect();
    let mut partial = Wire::connect(to);
    partial.write(b"MSRP abcd1234 SEN");
    let mut strangers = Wire::connect(to);
    let stray = Chunk::new("SEND", "msrp://127.0.0.1:1/none;tcp", &call.a.uri).header("Message-ID", "x");
    strangers.send(&stray);
    assert_eq!(strangers.next().status, Some(481));
    // Without paths nobody can be answered.
    let mut pathless = Wire::connect(to);
    pathless.write(b"MSRP abcd1234 SEND\r\nMessage-ID: m\r\n-------abcd1234$\r\n");
    call.join();
    // SPEC §4.5: 10 seconds without a valid first request.
    for mut wire in silent.into_iter().chain([partial, strangers, pathless]) {
        wire.until_closed();
    }
    call.assert_works();
    assert_eq!(world.gauge("ringpost_msrp_connections"), 2);
}

#[test]
fn a_party_that_sends_against_the_agreed_direction_is_refused() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    // The device said recvonly, and large message mode has one sender.
    let chunk = call.b.whole("m1", CPIM, &large_cpim(100));
    call.b.send(&chunk);
    let response = call.b.response_to(&chunk);
    assert!(response.status >= Some(400), "{response:?}");
    call.a.assert_silent();
    call.assert_works();
}

#[test]
fn somebody_else_cannot_take_a_session_over() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::connected(&mut world, &Plan::default());
    // A guess at the session id does not bind.
    let guess = call.a.remote_path.replacen(";tcp", "x;tcp", 1);
    let mut stranger = Wire::connect(call.a.remote_addr());
    let chunk = Chunk::new("SEND", &guess, &call.a.uri).header("Message-ID", "m");
    stranger.send(&chunk);
    assert_eq!(stranger.next().status, Some(481));
    call.join();
    call.assert_works();
}

#[test]
fn session_ids_are_long_and_tell_nothing() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..8 {
        let mut call = Call::start(&mut world, &Plan::default());
        call.answer(&mut world);
        for uri in [call.b_offer.path()[0].clone(), call.a_answer().path()[0].clone()] {
            let id = uri.rsplit('/').next().and_then(|rest| rest.split(';').next()).expect("a session id").to_owned();
            // 80 bits take 14 characters of base64.
            assert!(id.len() >= 14, "{uri}");
            assert!(!call.sent.call_id.contains(&id) && !id.contains(&call.sent.call_id));
            assert!(seen.insert(id), "{uri} was used before");
        }
    }
}

#[test]
fn more_sessions_than_there_is_room_for_are_refused_politely() {
    // Whatever the room is, many calls at once are each answered, and the appliance works when they are over.
    let mut world = World::with_bob(VARIANTS[3]);
    let mut calls = Vec::new();
    for _ in 0..60 {
        calls.push(Call::start(&mut world, &Plan::default()));
    }
    for call in &calls {
        world.core.answer(&call.b_invite, 486);
        assert_eq!(world.alice.final_response(&call.sent).status(), Some(486));
    }
    world.assert_all_released();
    Call::establish(&mut world, &Plan::default()).assert_works();
}

#[test]
fn hostile_bytes_in_the_middle_of_a_session_end_it_on_both_sides() {
    let mut world = World::with_bob(VARIANTS[3]);
    for (from_a, bytes) in
        [(true, &b"garbage\r\n\r\n"[..]), (false, b"\x00\xff\r\n"), (true, b"MSRP !!!! SEND\r\n\r\n")]
    {
        let mut call = Call::establish(&mut world, &Plan::default());
        call.assert_works();
        let wire = if from_a { call.a.wire() } else { call.b.wire() };
        wire.write(bytes);
        wire.until_closed();
        call.assert_a_ends(&mut world);
        call.assert_b_ends(&mut world);
    }
    world.assert_all_released();
}

#[test]
fn random_mutations_of_a_chunk_never_stop_the_appliance() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let to = call.a.remote_addr();
    let peer = Peer::new().knowing(&call.a.remote_path);
    let seed = peer.whole(&token("m"), CPIM, &large_cpim(200)).header("Success-Report", "yes").encode();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for _ in 0..300 {
        let mut bytes = seed.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            match next() % 4 {
                0 => bytes[at] = next() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, next() as u8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut wire = Wire::connect(to);
        let _ = wire.try_write(&bytes);
        wire.half_close();
        wire.discard_until_closed();
    }
    assert!(world.appliance.is_running());
    call.assert_works();
    call.hang_up(&mut world);
    assert_eq!(world.gauge("ringpost_msrp_sessions"), 0);
}

#[test]
fn offers_that_point_at_the_appliance_itself_end() {
    let mut world = World::with_bob(VARIANTS[1]);
    let first = Call::start(&mut world, &Plan::default());
    // A passive party whose path is the appliance's own: the appliance connects to itself.
    let mut a = Peer::new();
    a.uri = first.b_offer.path()[0].clone();
    let mut call = Call::start_with(&mut world, &Plan { offer_setup: Some("passive"), ..Plan::default() }, BOB, a);
    call.answer(&mut world);
    call.acknowledge(&mut world);
    call.join_b();
    // Whatever it says to itself, hanging up ends it, and others are not hurt.
    call.hang_up(&mut world);
    Call::establish(&mut world, &Plan::default()).assert_works();
    assert!(world.appliance.is_running());
}
