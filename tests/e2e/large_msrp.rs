//! The media plane: who answers what (SPEC §4.3), chunks of every form (SPEC §4.4), slow receivers, broken connections.

use crate::support::documents::*;
use crate::support::eventually;
use crate::support::large::*;
use crate::support::message::token;
use crate::support::msrp::{Arrival, Assembled, Chunk, Frame, Peer, Wire, first};
use crate::support::sdp::{Media, Sdp};
use crate::support::world::*;
use std::time::Duration;

/// Every code that a device may answer a chunk with (SPEC §4.3).
const ERRORS: [u16; 8] = [400, 403, 408, 413, 415, 423, 481, 501];

fn end_to_end() -> World {
    World::with_bob(VARIANTS[1])
}

fn hop_by_hop() -> World {
    World::with_bob_and(VARIANTS[1], |config| config.set("msrp.ack", "\"hop-by-hop\""))
}

/// Sends a whole short message with these headers; the device gets it.
#[track_caller]
fn send(call: &mut Call, headers: &[(&str, &str)]) -> (Chunk, Frame) {
    let mut chunk = call.a.whole(&token("m"), CPIM, &large_cpim(200));
    for (name, value) in headers {
        chunk = chunk.header(name, value);
    }
    call.a.send(&chunk);
    let frame = call.b.next_send();
    assert_eq!(Some(frame.must("Message-ID")), header_of(&chunk, "Message-ID"));
    (chunk, frame)
}

fn header_of(chunk: &Chunk, name: &str) -> Option<String> {
    chunk.headers.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.clone())
}

#[test]
fn every_code_of_the_device_reaches_a_sender_who_wants_to_know() {
    let mut world = end_to_end();
    for status in ERRORS.into_iter().chain([200, 506]) {
        for headers in [&[][..], &[("Failure-Report", "yes")]] {
            let mut call = Call::establish(&mut world, &Plan::default());
            let (chunk, frame) = send(&mut call, headers);
            call.b.answer(&frame, status);
            let response = call.a.response_to(&chunk);
            assert_eq!(response.status, Some(status), "{response:?}");
        }
    }
}

#[test]
fn a_sender_who_wants_failures_only_hears_no_200() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let (_, frame) = send(&mut call, &[("Failure-Report", "partial")]);
    assert_eq!(frame.must("Failure-Report"), "partial");
    call.b.answer(&frame, 200);
    // The 200 went nowhere: the next chunk's answer is the first thing that Alice gets.
    call.assert_works();
    let (chunk, frame) = send(&mut call, &[("Failure-Report", "partial")]);
    call.b.answer(&frame, 403);
    assert_eq!(call.a.response_to(&chunk).status, Some(403));
}

#[test]
fn a_sender_who_wants_no_failures_hears_nothing() {
    for mut world in [end_to_end(), hop_by_hop()] {
        let mut call = Call::establish(&mut world, &Plan::default());
        let (_, frame) = send(&mut call, &[("Failure-Report", "no")]);
        assert_eq!(frame.must("Failure-Report"), "no");
        let (_, second) = send(&mut call, &[("Failure-Report", "no")]);
        // What a device must not do: it is dropped.
        call.b.answer(&frame, 403);
        call.b.answer(&second, 200);
        call.assert_works();
    }
}

#[test]
fn hop_by_hop_a_chunk_is_answered_at_its_end() {
    let mut world = hop_by_hop();
    let mut call = Call::establish(&mut world, &Plan::default());
    let (chunk, frame) = send(&mut call, &[]);
    let response = call.a.response_to(&chunk);
    assert_eq!(response.status, Some(200), "before the device has answered");
    assert_eq!(response.must("To-Path"), call.a.uri);
    assert_eq!(response.must("From-Path"), call.a_answer().path()[0]);
    call.b.answer(&frame, 200);
    call.assert_works();
}

#[test]
fn hop_by_hop_a_later_failure_becomes_a_report() {
    let mut world = hop_by_hop();
    for status in ERRORS {
        let mut call = Call::establish(&mut world, &Plan::default());
        let (chunk, frame) = send(&mut call, &[]);
        assert_eq!(call.a.response_to(&chunk).status, Some(200));
        call.b.answer(&frame, status);
        let report = call.a.next();
        assert!(report.is("REPORT"), "{report:?}");
        let text = report.must("Status");
        assert!(text.starts_with(&format!("000 {status}")), "{text}");
        assert_eq!(Some(report.must("Message-ID")), header_of(&chunk, "Message-ID"));
        assert_eq!(report.must("To-Path"), call.a.uri, "the sender's whole From-Path");
        // Own URI alone as relays do it (SPEC §4.8), or the whole path that SDP gave.
        assert_eq!(first(&report.must("From-Path")), call.a_answer().path()[0]);
        let (start, end, _) = report.range();
        assert_eq!((start, end), (1, frame.body.map(|body| body.len() as u64)));
    }
}

#[test]
fn hop_by_hop_partial_hears_of_failures_only() {
    let mut world = hop_by_hop();
    let mut call = Call::establish(&mut world, &Plan::default());
    let (_, frame) = send(&mut call, &[("Failure-Report", "partial")]);
    call.b.answer(&frame, 200);
    call.assert_works();
    let (chunk, frame) = send(&mut call, &[("Failure-Report", "partial")]);
    call.b.answer(&frame, 403);
    let news = call.a.next();
    // SPEC §4.3 has "same" here: a response that carries the code; a REPORT says it too.
    assert!(news.status == Some(403) && news.id == chunk.id || news.is("REPORT"), "{news:?}");
}

#[test]
fn a_success_report_passes_in_both_modes() {
    for mut world in [end_to_end(), hop_by_hop()] {
        let mut call = Call::establish(&mut world, &Plan::default());
        let (chunk, frame) = send(&mut call, &[("Success-Report", "yes"), ("Failure-Report", "yes")]);
        assert_eq!(frame.must("Success-Report"), "yes");
        let len = frame.body.as_ref().map_or(0, Vec::len);
        call.b.answer(&frame, 200);
        assert_eq!(call.a.response_to(&chunk).status, Some(200));
        call.b.send(&Chunk::report(&frame, "200 OK", &format!("1-{len}/{len}")));
        let report = call.a.next();
        assert!(report.is("REPORT"), "{report:?}");
        assert_eq!(report.must("Status"), "000 200 OK");
        call.b.assert_silent();
    }
}

#[test]
fn a_report_may_precede_the_response() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let (chunk, frame) = send(&mut call, &[("Success-Report", "yes")]);
    call.b.send(&Chunk::report(&frame, "200 OK", "1-*/*"));
    call.b.answer(&frame, 200);
    assert!(call.a.next().is("REPORT"));
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn an_unknown_method_gets_501_and_the_connection_stays() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    for method in ["AUTH", "NICKNAME", "FROB"] {
        let chunk = Chunk { verb: method.into(), ..call.a.send_request("m") };
        call.a.send(&chunk);
        let response = call.a.response_to(&chunk);
        assert_eq!(response.status, Some(501), "{method}");
        assert_eq!(response.must("To-Path"), call.a.uri);
    }
    let with_body = Chunk { verb: "FROB".into(), ..call.a.whole("m", "text/plain", b"hello") };
    call.a.send(&with_body);
    assert_eq!(call.a.response_to(&with_body).status, Some(501));
    call.assert_works();
}

#[test]
fn an_unknown_to_path_gets_481_and_the_connection_stays() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let path = call.a_answer().path();
    let (head, tail) = path[0].rsplit_once('/').expect("a session id");
    let case = format!(
        "{head}/{}",
        tail.chars()
            .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect::<String>()
    );
    let wrong = [
        format!("{head}/nosuchsession;tcp {}", path[1]),
        format!("{} {}", path[1], path[0]),
        format!("{} msrp://127.0.0.1:9/other;tcp", path[0]),
        format!("{} {} {}", path[0], path[1], path[1]),
        path[1].clone(),
        format!("{} {}", case.replace(";TCP", ";tcp"), path[1]),
    ];
    for to_path in wrong {
        let chunk = call.a.whole("m", CPIM, b"hello").replace("To-Path", &to_path);
        call.a.send(&chunk);
        let response = call.a.response_to(&chunk);
        assert_eq!(response.status, Some(481), "{to_path}: {response:?}");
    }
    call.assert_works();
}

#[test]
fn a_second_connection_for_a_session_gets_506() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    call.assert_works();
    let mut second = Wire::connect(call.a.remote_addr());
    let chunk = call.a.whole("m", CPIM, b"hello");
    second.send(&chunk);
    let response = second.next();
    assert_eq!((response.status, &response.id), (Some(506), &chunk.id));
    call.assert_works();
}

#[test]
fn a_type_that_was_not_negotiated_gets_415() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let chunk = call.a.whole("m", "application/x-evil", b"hello");
    call.a.send(&chunk);
    assert_eq!(call.a.response_to(&chunk).status, Some(415));
    call.assert_works();
    let with_parameters = call.a.whole("m2", "Message/CPIM; charset=utf-8", &large_cpim(10));
    call.a.send(&with_parameters);
    let frame = call.b.next_send();
    assert_eq!(frame.must("Content-Type"), "Message/CPIM; charset=utf-8");
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&with_parameters).status, Some(200));
}

#[test]
fn a_total_over_the_limit_gets_413_and_reaches_nobody() {
    let mut world = World::with_bob_and(VARIANTS[1], |config| config.set("large.max_size", "50000"));
    let mut call = Call::establish(&mut world, &Plan::default());
    let chunk = call.a.send_request("m").range(1, Some(10), Some(50_001)).body(CPIM, *b"0123456789").flag('+');
    call.a.send(&chunk);
    assert_eq!(call.a.response_to(&chunk).status, Some(413));
    call.assert_works();
    let whole = large_cpim(40_000);
    call.transfer(&whole, 10_240, 2);
}

#[test]
fn running_bytes_over_the_limit_get_413_and_end_the_devices_chunk() {
    let mut world = World::with_bob(VARIANTS[1]);
    // The device takes less than the appliance would.
    let mut call = Call::establish(&mut world, &Plan { b_max_size: Some(50_000), ..Plan::default() });
    let body = large_cpim(60_000);
    let chunk = call.a.send_request("m").range(1, None, None).body(CPIM, body);
    call.a.send(&chunk);
    let response = call.a.response_to(&chunk);
    assert_eq!(response.status, Some(413));
    let mut got = 0;
    loop {
        match call.b.arrival(Duration::from_millis(500)) {
            Arrival::Frame(frame) => {
                got += frame.body.as_ref().map_or(0, Vec::len);
                assert_ne!(frame.flag, '$', "a message that is too long is never complete: {frame:?}");
                call.b.answer(&frame, 200);
                if frame.flag == '#' {
                    break;
                }
            }
            Arrival::Silence if got == 0 => break,
            other => panic!("the device's chunk ends with #: {other:?}"),
        }
    }
    assert!(got <= 50_000, "{got}");
    call.assert_works();
}

#[test]
fn a_413_of_the_device_stops_the_sender() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(30_000);
    let chunk = call.a.part("m", CPIM, &body, 0, 10_000);
    call.a.send(&chunk);
    let frame = call.b.next_send();
    call.b.answer(&frame, 413);
    assert_eq!(call.a.response_to(&chunk).status, Some(413));
    // She gives up with one more chunk, as RFC 4975 §7.1.1 allows.
    let abort = call.a.part("m", CPIM, &body, 10_000, 5).flag('#');
    call.a.send(&abort);
    let mut last = None;
    while let Arrival::Frame(frame) = call.b.arrival(Duration::from_millis(300)) {
        call.b.answer(&frame, 200);
        last = Some(frame.flag);
    }
    assert!(matches!(last, None | Some('#')), "{last:?}");
    call.a.drain_responses();
    call.assert_works();
}

#[test]
fn a_request_without_message_id_gets_400() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let chunk = call.a.whole("m", CPIM, b"hello").without("Message-ID");
    call.a.send(&chunk);
    assert_eq!(call.a.response_to(&chunk).status, Some(400));
    call.assert_works();
}

#[test]
fn a_request_without_byte_range_counts_as_a_whole() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(100);
    let chunk = call.a.send_request("m").body(CPIM, body.clone());
    call.a.send(&chunk);
    let frame = call.b.next_send();
    assert_eq!((frame.body.as_deref(), frame.flag), (Some(&body[..]), '$'));
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn open_ended_ranges_pass_with_their_totals() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    for (total, len) in [(None, 9_000), (Some(9_000), 9_000)] {
        let body = &large_cpim(9_000)[..len];
        let chunk = call.a.send_request(&token("m")).range(1, None, total).body(CPIM, body);
        let (a, b) = (&mut call.a, &mut call.b);
        let whole = std::thread::scope(|scope| {
            let receiver = scope.spawn(move || b.receive_message());
            a.send(&chunk);
            assert_eq!(a.response_to(&chunk).status, Some(200));
            receiver.join().expect("the receiver saw what it should")
        });
        assert_eq!(whole.bytes, body);
        assert_eq!(whole.total, total);
    }
}

#[test]
fn an_empty_message_passes() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let chunk = call.a.send_request("m").range(1, Some(0), Some(0)).body(CPIM, *b"");
    call.a.send(&chunk);
    let frame = call.b.next_send();
    assert_eq!((frame.body.as_deref(), frame.range()), (Some(&b""[..]), (1, Some(0), Some(0))));
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn a_mebibyte_in_one_chunk_passes() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(1 << 20);
    call.transfer(&body, body.len(), 1);
    for chunk_len in [300, 2_048, 4_096, 65_536] {
        call.transfer(&body[..200_000], chunk_len, 32);
    }
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(1 << 20);
    let chunk = call.a.whole("m", CPIM, &body);
    let bytes = chunk.encode();
    let head_len = bytes.len() - body.len() - chunk.encode_end().len();
    let (a, b) = (&mut call.a, &mut call.b);
    let whole = std::thread::scope(|scope| {
        let receiver = scope.spawn(move || b.receive_message());
        for byte in &bytes[..head_len] {
            a.wire().write(&[*byte]);
        }
        let end = bytes.len() - chunk.encode_end().len();
        a.wire().write(&bytes[head_len..end]);
        for byte in &bytes[end..] {
            a.wire().write(&[*byte]);
        }
        assert_eq!(a.response_to(&chunk).status, Some(200));
        receiver.join().expect("the receiver saw what it should")
    });
    assert_eq!(sha256(&whole.bytes), sha256(&body));
}

#[test]
fn decoys_of_end_lines_are_part_of_the_body() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let decoys = [
        "\r\n-------abcd123$\r\n",
        "\r\n-------abcd12345$\r\n",
        "\r\n-------abcd1234\r\n",
        "\r\n-------abcd1234x\r\n",
        "\r\n-------ABCD1234$\r\n",
        "\r\n------abcd1234$\r\n",
        "\n-------abcd1234$\r\n",
        " -------abcd1234$\r\n",
        "\r\n\r\nMSRP abcd1234 SEND\r\n",
        "\r\n\r\n\r\n------",
        "\r\n-------",
    ];
    let all: String = decoys.concat();
    for body in decoys.into_iter().chain([all.as_str()]) {
        for open in [false, true] {
            let len = body.len() as u64;
            let end = (!open).then_some(len);
            let chunk = call.a.send_request(&token("m")).range(1, end, Some(len)).body(CPIM, body).id("abcd1234");
            call.a.send(&chunk);
            let frame = call.b.next_send();
            assert_eq!((frame.body.as_deref(), frame.flag), (Some(body.as_bytes()), '$'), "open {open}, {body:?}");
            call.b.answer(&frame, 200);
            assert_eq!(call.a.response_to(&chunk).status, Some(200));
        }
    }
}

#[test]
fn transaction_ids_of_the_sender_do_not_matter_to_the_device() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    // One id for every chunk, and ids of every form that the grammar allows.
    for id in ["same", "same", "a.-+%=", "0123456789abcdef0123456789abcdef"] {
        let chunk = call.a.whole(&token("m"), CPIM, b"hello").id(id);
        call.a.send(&chunk);
        let frame = call.b.next_send();
        call.b.answer(&frame, 200);
        assert_eq!(call.a.response_to(&chunk).status, Some(200));
    }
}

#[test]
fn many_messages_follow_each_other() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    // All in one write: boundaries of chunks and of reads have nothing to do with each other.
    let bodies: Vec<Vec<u8>> = (0..40).map(|index| large_cpim(index * 97)).collect();
    let chunks: Vec<Chunk> = bodies.iter().map(|body| call.a.whole(&token("m"), CPIM, body)).collect();
    let bytes: Vec<u8> = chunks.iter().flat_map(Chunk::encode).collect();
    call.a.wire().write(&bytes);
    for (chunk, body) in chunks.iter().zip(&bodies) {
        let frame = call.b.next_send();
        assert_eq!(Some(frame.must("Message-ID")), header_of(chunk, "Message-ID"));
        assert_eq!(frame.body.as_ref(), Some(body));
        call.b.answer(&frame, 200);
    }
    for chunk in &chunks {
        assert_eq!(call.a.response_to(chunk).status, Some(200));
    }
}

#[test]
fn answers_may_come_in_another_order() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let chunks: Vec<Chunk> = (0..4).map(|_| call.a.whole(&token("m"), CPIM, &large_cpim(50))).collect();
    for chunk in &chunks {
        call.a.send(chunk);
    }
    let frames: Vec<Frame> = chunks.iter().map(|_| call.b.next_send()).collect();
    for index in [2, 0, 3, 1] {
        call.b.answer(&frames[index], [200, 403, 200, 415][index]);
    }
    let mut answers: Vec<(String, Option<u16>)> =
        chunks.iter().map(|_| call.a.next()).map(|frame| (frame.id, frame.status)).collect();
    let mut expected: Vec<(String, Option<u16>)> =
        chunks.iter().zip([200, 403, 200, 415]).map(|(chunk, status)| (chunk.id.clone(), Some(status))).collect();
    answers.sort();
    expected.sort();
    assert_eq!(answers, expected);
}

/// Two calls whose devices share a host and port, and whose senders do too; both on one connection on either side.
fn two_sessions_on_one_connection(world: &mut World) -> [Call; 2] {
    let first = Call::establish(world, &Plan::default());
    let (a, b) = (first.a.sibling(), first.b.sibling());
    let mut second = Call::start_with(world, &Plan::default(), BOB, a);
    second.b = b.knowing(&second.b.remote_path);
    second.answer(world);
    second.acknowledge(world);
    [first, second]
}

#[test]
fn one_connection_carries_two_sessions() {
    // One shard: a connection belongs to one.
    let mut world = World::with_bob(VARIANTS[0]);
    let [mut first, mut second] = two_sessions_on_one_connection(&mut world);
    assert_eq!(first.a.remote_addr(), second.a.remote_addr());
    // The second session binds on the connections of the first.
    for (one, other) in [(&mut first.a, &second.a), (&mut first.b, &second.b)] {
        let binding = other.send_request(&token("bind"));
        one.send(&binding);
        assert_eq!(one.response_to(&binding).status, Some(200));
    }
    // A long message of the first, cut into pieces, and short ones of the second between.
    let body = large_cpim(50_000);
    let mut whole = Assembled::default();
    let mut at = 0;
    while at < body.len() {
        let chunk = first.a.part("long", CPIM, &body, at, 10_000);
        let short = second.a.whole(&token("short"), CPIM, &large_cpim(20));
        first.a.send(&chunk);
        first.a.send(&short);
        let mut answered = 0;
        while answered < 2 {
            let frame = first.b.next_send();
            first.b.answer(&frame, 200);
            if frame.must("To-Path") == first.b.uri {
                whole.add(&frame);
            } else {
                assert_eq!(frame.must("To-Path"), second.b.uri);
                assert_eq!(frame.must("From-Path"), second.b.remote_path);
            }
            answered += usize::from(frame.flag == '$' || (whole.bytes.len() as u64) == at as u64 + 10_000);
        }
        let answers = [first.a.next(), first.a.next()];
        assert!(answers.iter().all(|answer| answer.status == Some(200)), "{answers:?}");
        at += 10_000;
    }
    assert_eq!(sha256(&whole.bytes), sha256(&body));
    assert_eq!(world.gauge("ringpost_msrp_connections"), 2);
    // One session's end leaves the other alone.
    second.hang_up(&mut world);
    first.assert_works();
    let late = second.a.whole("late", CPIM, b"late");
    first.a.send(&late);
    assert_eq!(first.a.response_to(&late).status, Some(481));
    first.assert_works();
}

#[test]
fn an_answer_does_not_wait_for_a_chunk_whose_sender_stalls() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(10_000);
    let chunk = call.a.send_request("m").range(1, None, Some(body.len() as u64)).body(CPIM, body.clone());
    let bytes = chunk.encode();
    call.a.wire().write(&bytes[..5_000]);
    // The device asks something while the chunk towards it is open: the chunk is interrupted (SPEC §4.4).
    let question = call.b.send_request("question");
    call.b.send(&question);
    let mut whole = Assembled::default();
    loop {
        let frame = call.b.next();
        if frame.status.is_some() {
            assert_eq!((frame.status, &frame.id), (Some(200), &question.id));
            break;
        }
        whole.add(&frame);
        call.b.answer(&frame, 200);
    }
    call.a.wire().write(&bytes[5_000..]);
    while !whole.is_complete() {
        let frame = call.b.next_send();
        whole.add(&frame);
        call.b.answer(&frame, 200);
    }
    assert_eq!(sha256(&whole.bytes), sha256(&body));
    assert_eq!(call.a.response_to(&chunk).status, Some(200));
}

#[test]
fn messages_of_one_session_are_never_mixed() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    // Alice interleaves two messages, which RFC 4975 §5.1 lets her do; clients that append whatever comes must not see
    // it (SPEC §4.8). What cannot be kept whole is aborted, and she is told.
    let (one, two) = (large_cpim(20_000), large_cpim(21_000));
    let mut chunks = Vec::new();
    for at in [0, 10_000, 20_000] {
        chunks.push(call.a.part("one", CPIM, &one, at, 10_000));
        chunks.push(call.a.part("two", CPIM, &two, at, 10_000));
    }
    for chunk in &chunks {
        call.a.send(chunk);
    }
    let mut open: Option<Assembled> = None;
    let mut whole = Vec::new();
    while let Arrival::Frame(frame) = call.b.arrival(Duration::from_millis(500)) {
        call.b.answer(&frame, 200);
        let message = open.get_or_insert_default();
        // Asserts that the Message-ID is that of the open message.
        message.add(&frame);
        if frame.flag != '+' {
            let message = open.take().expect("just filled");
            whole.extend((frame.flag == '$').then_some(message.bytes));
        }
    }
    assert!(open.is_none(), "every message that begins has an end");
    let answers: Vec<u16> = chunks.iter().map(|_| call.a.next()).filter_map(|frame| frame.status).collect();
    assert!(whole.iter().all(|bytes| *bytes == one || *bytes == two), "what is complete is whole");
    let refused = answers.iter().any(|status| *status >= 400);
    assert!(!whole.is_empty() && (whole.len() == 2 || refused), "{} whole, answers {answers:?}", whole.len());
    call.assert_works();
}

#[test]
fn an_abort_reaches_the_device() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(30_000);
    let first = call.a.part("m", CPIM, &body, 0, 10_000);
    call.a.send(&first);
    let frame = call.b.next_send();
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&first).status, Some(200));
    let abort = call.a.part("m", CPIM, &body, 10_000, 100).flag('#');
    let abort = abort.replace("Byte-Range", &format!("10001-*/{}", body.len()));
    call.a.send(&abort);
    let frame = call.b.next_send();
    assert_eq!((frame.flag, frame.must("Message-ID").as_str()), ('#', "m"));
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&abort).status, Some(200));
    call.assert_works();
}

#[test]
fn a_slow_receiver_stops_its_own_sender_and_nobody_else() {
    let mut world = World::with_bob_and(VARIANTS[0], |config| config.set("large.max_size", "200000000"));
    let mut slow = Call::establish(&mut world, &Plan::default());
    let mut quick = Call::establish(&mut world, &Plan::default());
    slow.a.wire().set_kernel_buffers(16_384);
    slow.b.wire().set_kernel_buffers(16_384);
    let body = large_cpim(1 << 20).repeat(40);
    let chunk_len = 65_536;
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let chunk = slow.a.part("slow", CPIM, &body, at, chunk_len).header("Failure-Report", "no");
        bytes.extend_from_slice(&chunk.encode());
        at += chunk_len;
    }
    // The device reads nothing. What is taken fits windows and kernel buffers; the rest stays with Alice.
    let taken = slow.a.wire().write_until_stuck(&bytes, Duration::from_secs(1));
    println!("{taken} of {} bytes taken", bytes.len());
    assert!(taken < 30 << 20, "the sender is stopped: {taken} of {} bytes were taken", bytes.len());
    assert!(world.appliance.metric("ringpost_msrp_pauses_total", &[]) > 0, "the appliance stopped reading");
    let waiting = world.gauge("ringpost_msrp_egress_bytes");
    assert!(waiting < 4 << 20, "{waiting} bytes wait in the appliance for one session");
    // Others on the same shard are as quick as ever.
    let other = large_cpim(2 << 20);
    quick.transfer(&other, 65_536, 16);
    // When the device reads, everything arrives, in order and whole.
    slow.a.wire().set_kernel_buffers(1 << 20);
    slow.b.wire().set_kernel_buffers(1 << 20);
    let Call { a, b, .. } = &mut slow;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || b.receive_message());
        a.wire().write(&bytes[taken..]);
        let whole = receiver.join().expect("the receiver saw what it should");
        assert!(whole.bytes == body, "{} bytes arrived, another text", whole.bytes.len());
    });
    let waiting = world.gauge("ringpost_msrp_egress_bytes");
    assert_eq!(waiting, 0, "nothing waits any more");
}

#[test]
fn a_sender_without_answers_is_stopped_by_a_bound() {
    let mut world = World::with_bob(VARIANTS[0]);
    let mut call = Call::establish(&mut world, &Plan::default());
    // The device reads and never answers: what is remembered for its answers has an end.
    let chunks: Vec<Chunk> = (0..30_000).map(|_| call.a.whole(&token("m"), CPIM, b"x")).collect();
    let bytes: Vec<u8> = chunks.iter().flat_map(Chunk::encode).collect();
    let Call { a, b, .. } = &mut call;
    let (read, written) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut frames = Vec::new();
            while let Arrival::Frame(frame) = b.arrival(Duration::from_secs(2)) {
                frames.push(frame);
            }
            (frames, b)
        });
        let written = a.wire().write_until_stuck(&bytes, Duration::from_secs(1));
        let (frames, b) = reader.join().expect("the reader saw MSRP");
        let read = frames.len();
        for frame in &frames {
            b.answer(frame, 200);
        }
        (read, written)
    });
    println!("{read} chunks reached the device, {written} of {} bytes were taken", bytes.len());
    assert!(read < 20_000, "{read} chunks without an answer were passed on");
    for chunk in &chunks[..read] {
        assert_eq!(call.a.response_to(chunk).status, Some(200));
    }
}

#[test]
fn a_reset_anywhere_in_a_chunk_ends_both_legs_and_leaves_nothing() {
    // TCP: nothing lingers behind the last response.
    let mut world = World::with_bob(VARIANTS[2]);
    let body = b"0123456789";
    let len = {
        let mut call = Call::establish(&mut world, &Plan::default());
        let len = call.a.whole("m1", CPIM, body).encode().len();
        call.hang_up(&mut world);
        len
    };
    for offset in 0..=len {
        let mut call = Call::establish(&mut world, &Plan::default());
        let chunk = call.a.whole("m1", CPIM, body).encode();
        call.a.wire().write(&chunk[..offset.min(chunk.len())]);
        if offset % 2 == 0 {
            // Bytes and reset may be seen at once; every second time they are seen apart.
            let early = call.b.arrival(Duration::from_millis(5));
            assert!(matches!(early, Arrival::Silence | Arrival::Frame(_)), "{early:?}");
        }
        call.a.take_wire().reset();
        ends_on_both_sides(&mut world, &mut call);
    }
    world.assert_all_released();
    Call::establish(&mut world, &Plan::default()).assert_works();
}

#[test]
fn a_device_that_resets_anywhere_in_its_answer_ends_both_legs_and_leaves_nothing() {
    let mut world = World::with_bob(VARIANTS[2]);
    let mut len = 1;
    let mut offset = 0;
    while offset <= len {
        let mut call = Call::establish(&mut world, &Plan::default());
        let chunk = call.a.whole("m1", CPIM, b"0123456789");
        call.a.send(&chunk);
        let frame = call.b.next_send();
        let answer = Chunk::response(&frame, 200).encode();
        len = answer.len();
        call.b.wire().write(&answer[..offset.min(len)]);
        call.b.take_wire().reset();
        // The last byte may overtake the reset; before it Alice is told that nobody answered.
        match call.a.arrival(crate::support::DEADLINE) {
            Arrival::Frame(response) => {
                assert_eq!(response.id, chunk.id);
                let good: &[u16] = if offset == len { &[200, 408, 481] } else { &[408, 481] };
                assert!(good.contains(&response.status.unwrap_or(0)), "at {offset}: {response:?}");
            }
            Arrival::Closed => {}
            Arrival::Silence => panic!("at {offset}: Alice is told nothing"),
        }
        ends_on_both_sides(&mut world, &mut call);
        offset += 1;
    }
    world.assert_all_released();
}

#[test]
fn a_device_that_resets_while_it_is_sent_a_chunk_ends_both_legs() {
    let mut world = World::with_bob(VARIANTS[2]);
    for len in [0, 1, 5_000, 200_000] {
        let mut call = Call::establish(&mut world, &Plan::default());
        let body = large_cpim(400_000);
        let chunk = call.a.whole("m1", CPIM, &body).encode();
        let written = call.a.wire().write_until_stuck(&chunk[..chunk.len() - len.max(1)], Duration::from_millis(200));
        assert!(written > 0);
        call.b.take_wire().reset();
        ends_on_both_sides(&mut world, &mut call);
    }
    world.assert_all_released();
}

#[test]
fn a_connection_lost_within_a_chunk_aborts_the_devices_chunk() {
    let mut world = World::with_bob(VARIANTS[3]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(100_000);
    let bytes = call.a.whole("m1", CPIM, &body).encode();
    call.a.wire().write(&bytes[..50_000]);
    call.a.take_wire().reset();
    let mut last = None;
    while let Arrival::Frame(frame) = call.b.arrival(Duration::from_secs(2)) {
        assert_ne!(frame.flag, '$', "the message is not complete: {frame:?}");
        last = Some(frame.flag);
        if frame.flag == '#' {
            break;
        }
    }
    // Nothing may have left when the reset was seen; what has left is aborted.
    assert!(matches!(last, None | Some('#')), "{last:?}");
    ends_on_both_sides(&mut world, &mut call);
}

#[test]
fn a_half_closed_connection_ends_the_session() {
    for from_a in [true, false] {
        let mut world = World::with_bob(VARIANTS[3]);
        let mut call = Call::establish(&mut world, &Plan::default());
        call.assert_works();
        if from_a {
            call.a.wire().half_close()
        } else {
            call.b.wire().half_close()
        }
        ends_on_both_sides(&mut world, &mut call);
        drop((call.a, call.b));
        world.assert_all_released();
    }
}

/// Both sides get a BYE, in whatever order, and answer it.
#[track_caller]
fn ends_on_both_sides(world: &mut World, call: &mut Call) {
    call.assert_a_ends(world);
    call.assert_b_ends(world);
}

#[test]
fn a_hangup_within_a_chunk_aborts_it() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(100_000);
    let bytes = call.a.whole("m1", CPIM, &body).encode();
    call.a.wire().write(&bytes[..60_000]);
    call.hang_up(&mut world);
    let mut flags = Vec::new();
    while let Arrival::Frame(frame) = call.b.arrival(Duration::from_secs(1)) {
        flags.push(frame.flag);
        if frame.flag == '#' {
            break;
        }
    }
    assert!(!flags.contains(&'$'), "{flags:?}");
    assert!(matches!(flags.last(), None | Some('#')), "{flags:?}");
}

#[test]
fn a_history_is_recorded_while_the_message_passes() {
    let mut world = World::new(VARIANTS[1]);
    let preferences = Preferences { recording: "active", ..Preferences::default() };
    world.appliance.put_preferences(BOB, &preferences.document());
    world.register(BOB, &[Device::new()]);
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(300_000);
    // An aborted message leaves nothing.
    let aborted = call.a.part("gone", CPIM, &body, 0, 20_000);
    call.a.send(&aborted);
    let frame = call.b.next_send();
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&aborted).status, Some(200));
    let abort = call.a.part("gone", CPIM, &body, 20_000, 10).flag('#');
    call.a.send(&abort);
    let frame = call.b.next_send();
    call.b.answer(&frame, 200);
    assert_eq!(call.a.response_to(&abort).status, Some(200));
    // A refused one neither.
    let refused = call.a.whole("refused", CPIM, b"refused");
    call.a.send(&refused);
    let frame = call.b.next_send();
    call.b.answer(&frame, 403);
    assert_eq!(call.a.response_to(&refused).status, Some(403));

    call.transfer(&body, 10_240, 8);
    call.hang_up(&mut world);
    let object = listed(&world, BOB, "/history");
    assert_eq!(object["outcome"], "delivered", "{object}");
    assert_eq!(object["peer"], ALICE);
    assert_eq!(object["conversation_id"].as_str(), call.request.value("Conversation-ID"));
    assert_eq!(object["size"].as_u64(), Some(body.len() as u64), "{object}");
    assert_eq!(world.appliance.admin_count(BOB, "/history"), 1);
    let stored = world.appliance.http("GET", &format!("/admin/users/{BOB}/history/{}", object["id"]), &[], b"");
    assert_eq!(stored.status, 200);
    assert!(stored.body.ends_with(&body), "the CPIM bytes are kept: {} bytes", stored.body.len());
}

#[test]
fn memory_stays_flat_while_much_passes() {
    let mut world = World::with_bob_and(VARIANTS[0], |config| config.set("large.max_size", "2000000000"));
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(6 << 20);
    call.transfer(&body, 65_536, 8);
    let before = resident_len(world.appliance.pid());
    for _ in 0..4 {
        call.transfer(&body, 65_536, 8);
    }
    let after = resident_len(world.appliance.pid());
    assert!(after < before + (4 << 20), "from {before} to {after} bytes while 24 MiB passed");
}

/// Bytes of physical memory of a process.
fn resident_len(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[test]
fn many_sessions_at_once_do_not_get_in_each_others_way() {
    let mut world = World::with_bob(VARIANTS[1]);
    let mut calls: Vec<Call> = (0..12).map(|_| Call::establish(&mut world, &Plan::default())).collect();
    std::thread::scope(|scope| {
        for call in &mut calls {
            scope.spawn(move || {
                let body = large_cpim(150_000 + call.a.uri.len());
                call.transfer(&body, 10_240, 4);
            });
        }
    });
    assert_eq!(world.gauge("ringpost_msrp_sessions"), 12);
    for call in &mut calls {
        call.hang_up(&mut world);
    }
    drop(calls);
    eventually("all sessions end", || (world.gauge("ringpost_msrp_sessions") == 0).then_some(()));
    eventually("all connections end", || (world.gauge("ringpost_msrp_connections") == 0).then_some(()));
}

#[test]
fn counters_tell_what_passed() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    let body = large_cpim(25_000);
    call.transfer(&body, 10_000, 1);
    let appliance = &world.appliance;
    assert_eq!(appliance.metric("ringpost_msrp_chunks_total", &[]), 3);
    assert_eq!(appliance.metric("ringpost_msrp_body_bytes_total", &[]), body.len() as u64);
    assert_eq!(appliance.metric("ringpost_msrp_responses_total", &["by=\"peer\""]), 3);
    assert_eq!(appliance.metric("ringpost_large_decisions_total", &["kind=\"bridge\""]), 1);
    eventually("the message counts", || {
        (appliance.metric("ringpost_large_messages_total", &["outcome=\"delivered\""]) == 1).then_some(())
    });
}

#[test]
fn a_session_that_moved_by_re_invite_goes_on_at_its_new_place() {
    let mut world = end_to_end();
    let mut call = Call::establish(&mut world, &Plan::default());
    call.assert_works();
    // Alice comes back with another MSRP endpoint.
    let a = Peer::new().knowing(&call.a.remote_path);
    let offer = Media { version: 2, ..Media::offer(&a) };
    let dialog = call.a_dialog().clone();
    let again = call.a_dialog().request("INVITE").body("application/sdp", offer.text());
    let sent = dialog.send(&mut world.alice, &again);
    let arrived = call.b_dialog().clone().expect(&mut world.core, "INVITE");
    let offered = sdp_of(&arrived);
    assert_eq!(offered.path()[1], a.uri);
    call.b.remote_path = offered.must("path");
    let body = Media { version: 2, ..call.b_answer() }.text();
    let contact = call.b_contact(&world);
    world.core.answer_as(&arrived, 200, "unused", &[("Contact", &contact)], Some(("application/sdp", body.as_bytes())));
    let response = world.alice.final_response(&sent);
    assert_eq!(response.status(), Some(200), "{response:?}");
    let dialog = call.a_dialog().clone();
    dialog.send(&mut world.alice, &dialog.ack(dialog.cseq));
    call.b_dialog().clone().expect(&mut world.core, "ACK");
    let old = std::mem::replace(&mut call.a, a.knowing(&Sdp::read(response.body()).must("path")));
    call.a.connect();
    call.a.bind();
    drop(old);
    if call.b.remote_addr() == call.b.wire().peer_addr() {
        call.assert_works();
    }
}
