//! What passes, passes whole and in order, with the right paths and transactions.

use super::world::{A_PATH, B_PATH, Bridge, noise, request, settings};
use crate::msrp::news::{Event, Side};
use crate::msrp::settings::{Acknowledgement, PathMode};

const SEEDS: std::ops::Range<u64> = 0..20;

#[test]
fn a_chunk_and_its_response_pass_with_paths_rewritten() {
    for seed in SEEDS {
        let mut bridge = Bridge::new(seed);
        bridge.message("aaaa1111", b"hello\r\n-------aaaa1111x\r\n");
        let heard = bridge.heard_b();
        let [chunk] = &heard[..] else { panic!("{heard:?}") };
        let own = |side| bridge.world.relay.uri(bridge.id, side).to_owned();
        assert_eq!(chunk.what, "SEND");
        assert_eq!(chunk.field("To-Path"), B_PATH);
        assert_eq!(chunk.field("From-Path"), format!("{} {A_PATH}", own(Side::Terminating)));
        assert_eq!(chunk.field("Message-ID"), "m-aaaa1111");
        assert_eq!(chunk.body.as_deref(), Some(&b"hello\r\n-------aaaa1111x\r\n"[..]));
        assert_eq!((chunk.flag, chunk.tid.len()), ('$', 24));
        assert!(bridge.heard_a().is_empty(), "nothing before the receiver's response");
        bridge.answer(chunk, "200 OK");
        let heard = bridge.heard_a();
        assert_eq!((heard[0].tid.as_str(), heard[0].what.as_str()), ("aaaa1111", "200 OK"));
        assert_eq!(
            (heard[0].field("To-Path"), heard[0].field("From-Path")),
            (A_PATH, bridge.world.relay.uri(bridge.id, Side::Originating))
        );
        assert_eq!(heard.len(), 1);
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        bridge.world.assert_empty();
    }
}

#[test]
fn in_replace_mode_the_receiver_sees_our_uri_alone() {
    let mut bridge = Bridge::with(3, settings(Acknowledgement::EndToEnd, PathMode::Replace), false);
    let to = bridge.world.relay.uri(bridge.id, Side::Originating).to_owned();
    let bytes =
        request("aaaa1111", "SEND", &to, A_PATH, "Message-ID: m\r\nContent-Type: message/cpim\r\n", Some(b"x"), '$');
    bridge.world.write(bridge.a, &bytes);
    let heard = bridge.heard_b();
    assert_eq!(heard[0].field("From-Path"), bridge.world.relay.uri(bridge.id, Side::Terminating));
    assert_eq!(heard[0].field("To-Path"), B_PATH);
}

#[test]
fn a_response_goes_to_the_first_uri_of_a_longer_from_path() {
    let mut bridge = Bridge::new(4);
    let (to, _) = bridge.a_paths();
    let from = format!("msrp://relay.example:1/r;tcp {A_PATH}");
    let fields = "Message-ID: m\r\nContent-Type: message/cpim\r\n";
    bridge.world.write(bridge.a, &request("aaaa1111", "SEND", &to, &from, fields, Some(b"x"), '$'));
    let chunk = bridge.heard_b().remove(0);
    bridge.answer(&chunk, "200 OK");
    assert_eq!(bridge.heard_a()[0].field("To-Path"), "msrp://relay.example:1/r;tcp");
}

#[test]
fn long_messages_arrive_whole_whatever_the_cuts() {
    for seed in SEEDS {
        let mut bridge = Bridge::new(seed);
        let body = noise(seed, (bridge.world.cut_max * 2_000).min(150_000));
        let mut at = 0;
        let mut n = 0;
        while at < body.len() {
            let len = [1, 300, 2_048, 10_240, 65_536][(seed as usize + n) % 5].min(body.len() - at);
            let (start, end, total) = (at + 1, at + len, body.len());
            let range = if n % 3 == 2 { format!("{start}-*/{total}") } else { format!("{start}-{end}/{total}") };
            let fields = format!("Message-ID: m\r\nByte-Range: {range}\r\nContent-Type: message/cpim\r\n");
            let flag = if end == total { '$' } else { '+' };
            bridge.send(&format!("tid{n:05}"), &fields, Some(&body[at..end]), flag);
            at = end;
            n += 1;
        }
        let heard = bridge.heard_b();
        assert_eq!(heard.len(), n);
        let arrived: Vec<u8> = heard.iter().flat_map(|chunk| chunk.body.clone().unwrap()).collect();
        assert!(arrived == body);
        for chunk in &heard {
            bridge.answer(chunk, "200 OK");
        }
        let tids: Vec<String> = bridge.heard_a().into_iter().map(|chunk| chunk.tid).collect();
        assert_eq!(tids, (0..n).map(|n| format!("tid{n:05}")).collect::<Vec<_>>());
        let distinct: std::collections::HashSet<_> = heard.iter().map(|chunk| &chunk.tid).collect();
        assert_eq!(distinct.len(), n);
    }
}

#[test]
fn responses_out_of_order_find_their_transactions() {
    let mut bridge = Bridge::new(5);
    for n in 0..5 {
        bridge.message(&format!("tid{n:05}"), b"x");
    }
    let chunks = bridge.heard_b();
    for n in [2, 0, 4, 3, 1] {
        bridge.answer(&chunks[n], if n == 3 { "400 no" } else { "200 OK" });
    }
    let heard: Vec<_> = bridge.heard_a().into_iter().map(|chunk| (chunk.tid.clone(), chunk.status())).collect();
    let expected = [(2, 200), (0, 200), (4, 200), (3, 400), (1, 200)].map(|(n, code)| (format!("tid{n:05}"), code));
    assert_eq!(heard, expected);
    bridge.answer(&chunks[2], "200 OK");
    assert!(bridge.heard_a().is_empty(), "a repetition is nobody's");
}

#[test]
fn a_recorded_message_comes_out_and_completes_with_its_last_response() {
    for seed in SEEDS {
        let mut bridge = Bridge::with(seed, settings(Acknowledgement::EndToEnd, PathMode::Prepend), true);
        let body = noise(seed, 30_000);
        bridge.send(
            "tid00000",
            "Message-ID: m\r\nByte-Range: 1-10000/30000\r\nContent-Type: message/cpim\r\n",
            Some(&body[..10_000]),
            '+',
        );
        bridge.send(
            "tid00001",
            "Message-ID: m\r\nByte-Range: 10001-30000/30000\r\nContent-Type: message/cpim\r\n",
            Some(&body[10_000..]),
            '$',
        );
        let chunks = bridge.heard_b();
        bridge.answer(&chunks[0], "200 OK");
        let mut record = vec![0; 30_000];
        for event in bridge.world.events.drain(..) {
            let Event::Piece { offset, bytes, .. } = event else { panic!("{event:?}") };
            record[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        }
        assert!(record == body);
        bridge.answer(&chunks[1], "200 OK");
        let complete = Event::Complete {
            id: bridge.id,
            message_id: b"m".as_slice().into(),
            content_type: b"message/cpim".as_slice().into(),
            total: 30_000,
        };
        assert_eq!(bridge.world.events, [complete]);
    }
}

#[test]
fn a_record_is_void_when_the_message_is_aborted_or_refused() {
    for refused in [false, true] {
        let mut bridge = Bridge::with(6, settings(Acknowledgement::EndToEnd, PathMode::Prepend), true);
        let fields = "Message-ID: m\r\nByte-Range: 1-*/30000\r\nContent-Type: message/cpim\r\n";
        bridge.send("tid00000", fields, Some(b"some"), if refused { '$' } else { '#' });
        let chunks = bridge.heard_b();
        assert_eq!(chunks[0].flag, if refused { '$' } else { '#' });
        bridge.answer(&chunks[0], if refused { "415" } else { "200 OK" });
        assert_eq!(bridge.heard_a()[0].status(), if refused { 415 } else { 200 });
        assert_eq!(bridge.world.events.last(), Some(&Event::Aborted { id: bridge.id }));
        assert!(!bridge.world.events.iter().any(|event| matches!(event, Event::Complete { .. })));
    }
}

#[test]
fn an_idle_session_and_its_connections_are_small() {
    let mut bridge = Bridge::new(1);
    bridge.message("aaaa1111", &noise(1, 3_000));
    let chunk = bridge.heard_b().remove(0);
    bridge.answer(&chunk, "200 OK");
    bridge.world.pass(std::time::Duration::from_secs(45));
    let len = bridge.world.relay.memory_len();
    assert!(len < 2_048, "{len} bytes");
}
