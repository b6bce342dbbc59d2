//! SPEC §4.3, row by row, and what hostile peers try.

use super::world::{A_PATH, B_PATH, Bridge, Chunk, noise, request, response, settings};
use crate::msrp::news::{Event, Role, Side, Why};
use crate::msrp::settings::{Acknowledgement, PathMode};
use std::time::Duration;

fn both(test: impl Fn(Bridge, bool)) {
    for seed in 0..6 {
        test(Bridge::new(seed), false);
        test(Bridge::hop_by_hop(seed), true);
    }
}

fn codes(heard: &[Chunk]) -> Vec<u16> {
    heard.iter().map(Chunk::status).collect()
}

fn fields(more: &str) -> String {
    format!("Message-ID: m\r\nByte-Range: 1-4/4\r\n{more}Content-Type: message/cpim\r\n")
}

#[test]
fn every_code_of_the_receiver_reaches_a_sender_who_wants_responses() {
    for code in [200, 400, 403, 408, 413, 415, 423, 481, 501, 506] {
        both(|mut bridge, hop_by_hop| {
            bridge.send("aaaa1111", &fields(""), Some(b"body"), '$');
            let early = codes(&bridge.heard_a());
            assert_eq!(early, if hop_by_hop { vec![200] } else { vec![] });
            let chunk = bridge.heard_b().remove(0);
            bridge.answer(&chunk, &code.to_string());
            let heard = bridge.heard_a();
            if !hop_by_hop {
                assert_eq!(codes(&heard), [code]);
                assert_eq!(heard[0].tid, "aaaa1111");
            } else if code == 200 {
                assert!(heard.is_empty());
            } else {
                let [report] = &heard[..] else { panic!("{heard:?}") };
                assert_eq!((report.what.as_str(), report.field("Message-ID")), ("REPORT", "m"));
                assert!(report.field("Status").starts_with(&format!("000 {code}")), "{report:?}");
                assert_eq!(report.field("Byte-Range"), "1-4/4");
                assert_eq!(report.field("To-Path"), A_PATH);
                let own = bridge.world.relay.uri(bridge.id, Side::Originating);
                assert_eq!(report.field("From-Path"), format!("{own} {B_PATH}"));
            }
        });
    }
}

#[test]
fn with_failure_report_partial_only_failures_are_told() {
    both(|mut bridge, hop_by_hop| {
        for (n, code) in [200, 415, 200].into_iter().enumerate() {
            bridge.send(&format!("aaaa111{n}"), &fields("Failure-Report: partial\r\n"), Some(b"body"), '$');
            let chunk = bridge.heard_b().remove(0);
            assert_eq!(chunk.field("Failure-Report"), "partial");
            bridge.answer(&chunk, &code.to_string());
            let heard = bridge.heard_a();
            if code == 200 {
                assert!(heard.is_empty());
            } else if !hop_by_hop {
                assert_eq!(codes(&heard), [415]);
            } else {
                assert!(codes(&heard) == [415] || heard[0].what == "REPORT", "{heard:?}");
            }
        }
        // Nobody is told when nothing comes, and nothing is lost.
        bridge.send("aaaa9999", &fields("Failure-Report: partial\r\n"), Some(b"body"), '$');
        bridge.world.pass(Duration::from_secs(50));
        assert!(bridge.heard_a().is_empty());
        assert!(!bridge.world.events.iter().any(|event| matches!(event, Event::Lost { .. })));
    });
}

#[test]
fn with_failure_report_no_nothing_is_told() {
    both(|mut bridge, _| {
        bridge.send("aaaa1111", &fields("Failure-Report: no\r\n"), Some(b"body"), '$');
        let chunk = bridge.heard_b().remove(0);
        bridge.answer(&chunk, "415");
        bridge.world.pass(Duration::from_secs(50));
        assert!(bridge.heard_a().is_empty());
        assert!(bridge.world.events.is_empty(), "{:?}", bridge.world.events);
    });
}

#[test]
fn a_silent_receiver_costs_a_408_and_the_session() {
    both(|mut bridge, hop_by_hop| {
        bridge.message("aaaa1111", b"body");
        bridge.message("bbbb1111", b"body");
        bridge.send("cccc1111", &fields("Failure-Report: no\r\n"), Some(b"body"), '$');
        bridge.heard_a();
        bridge.world.pass(Duration::from_secs(29));
        assert!(bridge.heard_a().is_empty() && bridge.world.events.is_empty());
        bridge.world.pass(Duration::from_secs(2));
        let heard = bridge.heard_a();
        assert_eq!(heard.len(), 2);
        if hop_by_hop {
            assert!(heard.iter().all(|report| report.field("Status").starts_with("000 408")), "{heard:?}");
        } else {
            assert_eq!(codes(&heard), [408, 408]);
        }
        let lost = Event::Lost { id: bridge.id, side: Side::Terminating, why: Why::Silence };
        assert_eq!(bridge.world.events, [lost]);
        bridge.message("dddd1111", b"body");
        assert_eq!(codes(&bridge.heard_a()), [481], "until SIP ends it");
    });
}

#[test]
fn methods_that_nobody_knows_are_answered_501() {
    both(|mut bridge, _| {
        let (to, from) = bridge.a_paths();
        for method in ["AUTH", "NICKNAME", "FOO"] {
            bridge.world.write(bridge.a, &request("aaaa1111", method, &to, from, "", None, '$'));
            assert_eq!(codes(&bridge.heard_a()), [501]);
        }
        bridge.world.write(bridge.a, &request("aaaa1111", "FOO", &to, from, "Content-Type: a/b\r\n", Some(b"x"), '$'));
        assert_eq!(codes(&bridge.heard_a()), [501]);
        assert!(bridge.heard_b().is_empty());
    });
}

#[test]
fn paths_that_lead_nowhere_are_answered_481_and_the_connection_stays() {
    both(|mut bridge, _| {
        let own = bridge.world.relay.uri(bridge.id, Side::Originating).to_owned();
        let own_b = bridge.world.relay.uri(bridge.id, Side::Terminating).to_owned();
        let shouting = own.to_uppercase();
        for to in [
            "msrp://127.0.0.1:20855/nobody;tcp",
            B_PATH,
            &format!("{B_PATH} {own}"),
            &format!("{own} msrp://other.example:1/x;tcp"),
            &format!("{own} {B_PATH} {B_PATH}"),
            &shouting,
            &own.replace("20855", "20856"),
        ] {
            bridge.world.write(bridge.a, &request("aaaa1111", "SEND", to, A_PATH, &fields(""), Some(b"body"), '$'));
            let heard = bridge.heard_a();
            assert_eq!(codes(&heard), [481], "{to}");
            assert_eq!(
                (heard[0].field("To-Path"), heard[0].field("From-Path")),
                (A_PATH, to.split(' ').next().unwrap())
            );
        }
        bridge.world.write(bridge.a, &request("aaaa1111", "SEND", &own_b, A_PATH, &fields(""), Some(b"body"), '$'));
        assert_eq!(codes(&bridge.heard_a()), [506], "the other side's URI is bound elsewhere");
        assert!(bridge.heard_b().is_empty());
        bridge.world.write(bridge.a, &request("aaaa1111", "SEND", &own, A_PATH, &fields(""), Some(b"body"), '$'));
        assert_eq!(bridge.heard_b().len(), 1, "our URI alone is tolerated");
    });
}

#[test]
fn a_second_connection_for_a_session_is_answered_506() {
    both(|mut bridge, _| {
        let other = bridge.world.accept();
        let (to, from) = bridge.a_paths();
        bridge.world.write(other, &request("aaaa1111", "SEND", &to, from, &fields(""), Some(b"body"), '$'));
        assert_eq!(codes(&bridge.world.heard(other)), [506]);
        bridge.message("bbbb1111", b"body");
        assert_eq!(bridge.heard_b().len(), 1);
        bridge.world.pass(Duration::from_secs(11));
        assert!(bridge.world.wire(other).is_closed, "it never joined a session");
    });
}

#[test]
fn a_media_type_that_is_not_accepted_is_answered_415() {
    both(|mut bridge, _| {
        bridge.send("aaaa1111", "Message-ID: m\r\nContent-Type: text/plain\r\n", Some(b"body"), '+');
        bridge.send(
            "aaaa2222",
            "Message-ID: m\r\nByte-Range: 5-8/8\r\nContent-Type: text/plain\r\n",
            Some(b"body"),
            '$',
        );
        assert_eq!(codes(&bridge.heard_a()), [415, 415]);
        assert!(bridge.heard_b().is_empty());
    });
}

#[test]
fn a_message_that_says_it_is_too_large_is_answered_413_at_once() {
    both(|mut bridge, _| {
        bridge.world.relay.limit(bridge.id, 1_000);
        bridge.send(
            "aaaa1111",
            "Message-ID: m\r\nByte-Range: 1-4/1001\r\nContent-Type: message/cpim\r\n",
            Some(b"body"),
            '+',
        );
        assert_eq!(codes(&bridge.heard_a()), [413]);
        assert!(bridge.heard_b().is_empty());
        bridge.message("bbbb1111", &[0; 1_000]);
        assert_eq!(bridge.heard_b().len(), 1);
    });
}

#[test]
fn a_message_that_grows_too_large_is_stopped_for_both() {
    both(|mut bridge, hop_by_hop| {
        bridge.world.relay.limit(bridge.id, 20_000);
        let body = noise(1, 30_000);
        bridge.send(
            "aaaa1111",
            "Message-ID: m\r\nByte-Range: 1-*/*\r\nContent-Type: message/cpim\r\n",
            Some(&body),
            '$',
        );
        assert_eq!(codes(&bridge.heard_a()), [413]);
        let heard = bridge.heard_b();
        let [chunk] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!(chunk.flag, '#');
        let arrived = chunk.body.as_deref().unwrap();
        assert!(arrived.len() <= 20_000 && body.starts_with(arrived));
        bridge.answer(chunk, "200 OK");
        assert!(bridge.heard_a().is_empty(), "{hop_by_hop}");
        bridge.send(
            "cccc1111",
            "Message-ID: m\r\nByte-Range: 30001-30004/*\r\nContent-Type: message/cpim\r\n",
            Some(b"more"),
            '$',
        );
        assert_eq!(codes(&bridge.heard_a()), [413], "no more of this message");
        bridge.message("bbbb1111", b"another");
        assert_eq!(bridge.heard_b().len(), 1);
    });
}

#[test]
fn what_is_malformed_but_framed_is_answered_400() {
    both(|mut bridge, _| {
        for bad in [
            "Byte-Range: 1-4/4\r\n",
            "Message-ID: m\r\nByte-Range: 0-4/4\r\n",
            "Message-ID: m\r\nByte-Range: 9-8/4\r\n",
            "Message-ID: m\r\nByte-Range: x\r\n",
        ] {
            bridge.send("aaaa1111", &format!("{bad}Content-Type: message/cpim\r\n"), Some(b"body"), '$');
            assert_eq!(codes(&bridge.heard_a()), [400], "{bad}");
        }
        assert!(bridge.heard_b().is_empty());
        assert!(bridge.world.events.is_empty());
    });
}

#[test]
fn a_body_that_is_not_as_long_as_its_range_is_answered_400_and_aborted() {
    both(|mut bridge, _| {
        for (n, range) in ["1-3/10", "1-9/10"].into_iter().enumerate() {
            let fields = format!("Message-ID: m{n}\r\nByte-Range: {range}\r\nContent-Type: message/cpim\r\n");
            bridge.send(&format!("aaaa111{n}"), &fields, Some(b"five!"), '$');
            assert_eq!(codes(&bridge.heard_a()), [400]);
            let chunk = bridge.heard_b().remove(0);
            assert_eq!(chunk.flag, '#');
            bridge.answer(&chunk, "200 OK");
            assert!(bridge.heard_a().is_empty());
        }
    });
}

#[test]
fn a_stream_without_chunks_is_closed_and_both_sides_end() {
    both(|mut bridge, _| {
        bridge.world.write(bridge.a, b"GET / HTTP/1.1\r\n\r\n");
        assert!(bridge.world.wire(bridge.a).is_closed);
        let lost = Event::Lost { id: bridge.id, side: Side::Originating, why: Why::Protocol };
        assert_eq!(bridge.world.events, [lost]);
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        bridge.world.assert_empty();
    });
}

#[test]
fn reports_pass_and_are_never_answered() {
    both(|mut bridge, _| {
        bridge.send("aaaa1111", &fields("Success-Report: yes\r\n"), Some(b"body"), '$');
        let chunk = bridge.heard_b().remove(0);
        assert_eq!(chunk.field("Success-Report"), "yes");
        bridge.answer(&chunk, "200 OK");
        bridge.heard_a();
        let own = bridge.world.relay.uri(bridge.id, Side::Terminating).to_owned();
        let text = "Message-ID: m\r\nByte-Range: 1-4/4\r\nStatus: 000 200 OK\r\n";
        bridge
            .world
            .write(bridge.b, &request("rrrr1111", "REPORT", &format!("{own} {A_PATH}"), B_PATH, text, None, '$'));
        let heard = bridge.heard_a();
        let [report] = &heard[..] else { panic!("{heard:?}") };
        let own = bridge.world.relay.uri(bridge.id, Side::Originating).to_owned();
        assert_eq!((report.what.as_str(), report.field("To-Path")), ("REPORT", A_PATH));
        assert_eq!(report.field("From-Path"), format!("{own} {B_PATH}"));
        assert_eq!(report.field("Status"), "000 200 OK");
        assert_ne!(report.tid, "rrrr1111");
        bridge.world.write(bridge.a, &response(&report.tid, "200 OK", &own, A_PATH));
        assert!(bridge.heard_b().is_empty() && bridge.heard_a().is_empty());
    });
}

#[test]
fn a_flood_of_reports_does_not_pile_up() {
    let mut bridge = Bridge::new(3);
    let (a, b) = (bridge.a, bridge.b);
    bridge.world.wire(a).is_stuck = true;
    let own = bridge.world.relay.uri(bridge.id, Side::Terminating).to_owned();
    let text = format!("Message-ID: m\r\nStatus: 000 200 OK\r\nX: {}\r\n", "x".repeat(2_000));
    let report = request("rrrr1111", "REPORT", &own, B_PATH, &text, None, '$');
    bridge.world.write(b, &report.repeat(1_000));
    assert!(bridge.world.relay.levels().egress_len < 300 * 1024);
    bridge.world.wire(a).is_stuck = false;
    bridge.world.run();
    let heard = bridge.heard_a();
    assert!((100..200).contains(&heard.len()), "{}", heard.len());
}

#[test]
fn responses_to_nothing_are_ignored() {
    both(|mut bridge, _| {
        bridge.message("aaaa1111", b"body");
        let chunk = bridge.heard_b().remove(0);
        bridge.heard_a();
        let mut guessed = chunk.clone();
        for tid in [
            "aaaa1111",
            "x1234567",
            &chunk.tid.replace(|c: char| c.is_ascii_digit(), "7"),
            &format!("{}9", &chunk.tid[..23]),
        ] {
            guessed.tid = tid.to_owned();
            bridge.answer(&guessed, "200 OK");
        }
        // The right one, but from the wrong connection.
        let own = bridge.world.relay.uri(bridge.id, Side::Terminating).to_owned();
        bridge.world.write(bridge.a, &response(&chunk.tid, "200 OK", &own, B_PATH));
        assert!(bridge.heard_a().is_empty() && bridge.heard_b().is_empty());
    });
}

#[test]
fn the_receiver_stops_a_chunk_that_is_passing() {
    both(|mut bridge, _| {
        let (to, from) = bridge.a_paths();
        let fields = "Message-ID: m\r\nByte-Range: 1-100000/100000\r\nContent-Type: message/cpim\r\n";
        let bytes = request("aaaa1111", "SEND", &to, from, fields, Some(&noise(1, 100_000)), '$');
        bridge.world.write(bridge.a, &bytes[..50_000]);
        let tid = std::str::from_utf8(&bridge.world.wire(bridge.b).heard[5..29]).unwrap().to_owned();
        let own = bridge.world.relay.uri(bridge.id, Side::Terminating).to_owned();
        bridge.world.write(bridge.b, &response(&tid, "413", &own, B_PATH));
        let chunk = bridge.heard_b().remove(0);
        assert_eq!((chunk.flag, chunk.tid), ('#', tid));
        assert_eq!(codes(&bridge.heard_a()), [413]);
        bridge.world.write(bridge.a, &bytes[50_000..]);
        assert!(bridge.heard_b().is_empty() && bridge.heard_a().is_empty());
        bridge.message("bbbb1111", b"body");
        assert_eq!(bridge.heard_b().len(), 1);
    });
}

#[test]
fn a_413_between_chunks_stops_the_message() {
    let mut bridge = Bridge::new(1);
    let fields = |range: &str| format!("Message-ID: m\r\nByte-Range: {range}\r\nContent-Type: message/cpim\r\n");
    bridge.send("aaaa1111", &fields("1-4/12"), Some(b"body"), '+');
    let chunk = bridge.heard_b().remove(0);
    bridge.answer(&chunk, "413");
    bridge.send("aaaa2222", &fields("5-8/12"), Some(b"body"), '+');
    assert_eq!(codes(&bridge.heard_a()), [413, 413]);
    assert!(bridge.heard_b().is_empty(), "the receiver said so itself");
}

#[test]
fn an_abort_passes_with_a_body_and_without() {
    both(|mut bridge, _| {
        let fields = |range: &str| format!("Message-ID: m\r\nByte-Range: {range}\r\n");
        bridge.send("aaaa1111", &(fields("1-4/12") + "Content-Type: message/cpim\r\n"), Some(b"body"), '+');
        bridge.send("aaaa2222", &fields("5-4/12"), None, '#');
        let heard = bridge.heard_b();
        assert_eq!(heard.iter().map(|chunk| chunk.flag).collect::<String>(), "+#");
        assert_eq!(heard[1].body, None);
        for chunk in &heard {
            bridge.answer(chunk, "200 OK");
        }
        assert_eq!(codes(&bridge.heard_a()), [200, 200]);
    });
}

#[test]
fn bodiless_requests_are_answered_here_and_go_nowhere() {
    both(|mut bridge, _| {
        bridge.send("aaaa1111", "Message-ID: keep\r\n", None, '$');
        bridge.send("aaaa2222", "Message-ID: keep\r\nFailure-Report: no\r\n", None, '$');
        assert_eq!(codes(&bridge.heard_a()), [200]);
        let own = bridge.world.relay.uri(bridge.id, Side::Terminating).to_owned();
        bridge.world.write(bridge.b, &request("bbbb1111", "SEND", &own, B_PATH, "Message-ID: keep\r\n", None, '$'));
        bridge.world.write(bridge.b, &request("bbbb2222", "SEND", &own, B_PATH, &fields(""), Some(b"body"), '$'));
        assert_eq!(codes(&bridge.heard_b()), [200, 403], "the receiver sends nothing");
        assert!(bridge.heard_a().is_empty());
    });
}

#[test]
fn a_new_message_ends_one_that_was_not() {
    both(|mut bridge, _| {
        let fields = |id: &str, range: &str| {
            format!("Message-ID: {id}\r\nByte-Range: {range}\r\nContent-Type: message/cpim\r\n")
        };
        bridge.send("aaaa1111", &fields("m1", "1-4/12"), Some(b"body"), '+');
        bridge.send("aaaa2222", &fields("m2", "1-4/8"), Some(b"body"), '+');
        bridge.send("aaaa3333", &fields("m1", "5-8/12"), Some(b"body"), '+');
        bridge.send("aaaa4444", &fields("m2", "5-8/8"), Some(b"body"), '$');
        let heard: Vec<_> =
            bridge.heard_b().iter().map(|chunk| format!("{}{}", chunk.field("Message-ID"), chunk.flag)).collect();
        assert_eq!(heard, ["m1+", "m1#", "m2+", "m2$"]);
        assert!(codes(&bridge.heard_a()).contains(&413));
    });
}

#[test]
fn a_sender_lost_in_the_midst_of_a_chunk_ends_it_with_an_abort() {
    both(|mut bridge, _| {
        let (to, from) = bridge.a_paths();
        let bytes = request("aaaa1111", "SEND", &to, from, &fields(""), Some(b"body"), '$');
        bridge.world.write(bridge.a, &bytes[..bytes.len() - 20]);
        bridge.world.close(bridge.a);
        let chunk = bridge.heard_b().remove(0);
        assert_eq!(chunk.flag, '#');
        let lost = Event::Lost { id: bridge.id, side: Side::Originating, why: Why::Closed };
        assert_eq!(bridge.world.events, [lost]);
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        assert!(bridge.world.wire(bridge.b).is_closed);
        bridge.world.assert_empty();
    });
}

#[test]
fn a_lost_receiver_costs_the_pending_transactions_a_408() {
    both(|mut bridge, hop_by_hop| {
        bridge.message("aaaa1111", b"body");
        let (to, from) = bridge.a_paths();
        let bytes = request("bbbb1111", "SEND", &to, from, &fields(""), Some(b"body"), '$');
        bridge.world.write(bridge.a, &bytes[..bytes.len() - 20]);
        bridge.heard_a();
        bridge.world.close(bridge.b);
        let heard = bridge.heard_a();
        if hop_by_hop {
            assert_eq!(heard[0].what, "REPORT");
            assert_eq!(heard[1].status(), 408);
        } else {
            assert_eq!(codes(&heard), [408, 408]);
        }
        let lost = Event::Lost { id: bridge.id, side: Side::Terminating, why: Why::Closed };
        assert_eq!(bridge.world.events, [lost]);
        bridge.world.write(bridge.a, &bytes[bytes.len() - 20..]);
        assert!(bridge.heard_a().is_empty());
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        bridge.world.assert_empty();
    });
}

#[test]
fn the_end_closes_what_is_open_and_tells_who_waits() {
    both(|mut bridge, _| {
        let (to, from) = bridge.a_paths();
        let bytes = request("bbbb1111", "SEND", &to, from, &fields(""), Some(b"body"), '$');
        bridge.world.write(bridge.a, &bytes[..bytes.len() - 20]);
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        assert_eq!(bridge.heard_b()[0].flag, '#');
        assert_eq!(codes(&bridge.heard_a()), [481]);
        assert!(bridge.world.wire(bridge.a).is_closed && bridge.world.wire(bridge.b).is_closed);
        bridge.world.assert_empty();
    });
}

#[test]
fn a_reset_at_any_byte_leaves_nothing_behind() {
    for len in 0..300 {
        let mut bridge = Bridge::with(len as u64, settings(Acknowledgement::EndToEnd, PathMode::Prepend), true);
        let (to, from) = bridge.a_paths();
        let bytes = request("bbbb1111", "SEND", &to, from, &fields(""), Some(b"body"), '$');
        bridge.world.write(bridge.a, &bytes[..len.min(bytes.len())]);
        let conn = if len % 2 == 0 { bridge.a } else { bridge.b };
        bridge.world.close(conn);
        assert!(matches!(bridge.world.events.last(), Some(Event::Lost { why: Why::Closed, .. })));
        bridge.world.relay.end(bridge.id, bridge.world.now);
        bridge.world.run();
        bridge.world.assert_empty();
    }
}

#[test]
fn a_re_invite_may_change_the_receivers_path() {
    let mut bridge = Bridge::new(8);
    bridge.message("aaaa1111", b"body");
    bridge.heard_b();
    let path = "msrp://b.example:7/other;tcp";
    bridge.world.negotiate(bridge.id, Side::Terminating, path, Role::Passive, &[]);
    bridge.message("aaaa2222", b"body");
    assert_eq!(codes(&bridge.heard_a()), [481], "the old path is not the receiver's any more");
    let own = bridge.world.relay.uri(bridge.id, Side::Originating).to_owned();
    bridge.world.write(
        bridge.a,
        &request("aaaa3333", "SEND", &format!("{own} {path}"), A_PATH, &fields(""), Some(b"body"), '$'),
    );
    assert_eq!(bridge.heard_b()[0].field("To-Path"), path);
}

#[test]
fn idle_sessions_end() {
    let mut bridge = Bridge::new(9);
    bridge.world.pass(Duration::from_secs(179));
    assert!(bridge.world.events.is_empty());
    bridge.message("aaaa1111", b"body");
    let chunk = bridge.heard_b().remove(0);
    bridge.answer(&chunk, "200 OK");
    bridge.world.pass(Duration::from_secs(59));
    assert!(bridge.world.events.is_empty());
    bridge.world.pass(Duration::from_secs(2));
    assert_eq!(bridge.world.events, [Event::Lost { id: bridge.id, side: Side::Originating, why: Why::Idle }]);
    let mut unused = Bridge::new(10);
    unused.world.pass(Duration::from_secs(181));
    assert!(matches!(unused.world.events[..], [Event::Lost { why: Why::Idle, .. }]));
}
