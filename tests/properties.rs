//! Properties of the SIP room and the core over generated and mutated messages.
//!
//! What each holds is written in `ringpost::testing::fuzz`, so that fuzz targets and properties cannot drift apart.

use proptest::collection::vec;
use proptest::prelude::*;
use ringpost::sip::framing::{self, Frame};
use ringpost::sip::scan::Scan;
use ringpost::testing::fuzz;

/// Header lines of all sorts; some take part in transactions, some are broken.
const LINES: [&str; 40] = [
    "Via: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKa;rport",
    "v: SIP/2.0/TCP [2001:db8::1]:5070;branch=z9hG4bKb, SIP/2.0/UDP c.example ;branch=old",
    "VIA : SIP / 2.0 / UDP d.example\r\n ;received=192.0.2.1",
    "From: \"A, \\\"B\\\"\" <sip:alice@a.example>;tag=1",
    "f: sip:alice@a.example;tag=2",
    "To: <sip:bob@home.example>",
    "t: <tel:+15550100>;tag=x",
    "Call-ID: a@b",
    "i: other",
    "CSeq: 1 MESSAGE",
    "CSeq: 7  REGISTER",
    "CSeq: 99999999999 MESSAGE",
    "Max-Forwards: 70",
    "Max-Forwards: 0",
    "Route: <sip:term@192.0.2.1:5060;lr>, <sip:core.example;lr>",
    "Route: <sip:strict.example>",
    "Contact: *",
    "m: <sip:bob@192.0.2.7>;+sip.instance=\"<urn:uuid:1>\";q=0.5",
    "Content-Type: text/plain",
    "c: multipart/mixed;boundary=b",
    "Content-Length: 5",
    "l: 0",
    "Content-Length: -1",
    "Expires: 60",
    "Date: Sat, 13 Nov 2010 23:29:00 GMT",
    "Require: foo, pref",
    "P-Asserted-Identity: <sip:alice@a.example>, <tel:+15550101>",
    "P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg",
    "P-Served-User: <sip:rich@home.example>;sescase=term;regstate=reg",
    "Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\";require",
    "X-Folded: one\r\n\ttwo\r\n  three",
    "no colon here",
    ": no name",
    "Subject:",
    "Record-Route: <sip:p1.example;lr>, \"P, 2\" <sip:p2.example;lr>;x=\"a,b\"",
    "Record-Route: sip:strict.example;method=INVITE\r\n ;a=b",
    "Contact: \"Bob\" <sip:bob@[2001:db8::7]:5070;transport=tcp?a=b>;expires=60, <sip:other.example>",
    "Session-Expires: 1800;refresher=uas",
    "x: 95",
    "Min-SE: 2000",
];

/// Lines of session descriptions of all sorts.
const SDP_LINES: [&str; 44] = [
    "m=message 7654 TCP/MSRP *",
    "m=message 9 tcp/msrp *",
    "m=message 0 TCP/MSRP *",
    "m=message 9 TCP/TLS/MSRP *",
    "m=audio 49170/2 RTP/AVP 0 8",
    "m=video 0 RTP/AVP 31",
    "m=broken",
    "o=alice 2890844526 2890844527 IN IP4 a.example",
    "o=-",
    "s=-",
    "t=0 0",
    "i=A letter",
    "b=AS:64",
    "c=IN IP4 192.0.2.10",
    "c=IN IP6 2001:db8::1",
    "c=IN IP4 a.example",
    "c=",
    "a=path:msrp://a.example:7654/sa;tcp",
    "a=path: msrp://r.example:9/r;tcp  msrp://a.example:7654/sa;tcp ",
    "a=path:http://a.example",
    "a=Path",
    "a=accept-types:message/cpim text/plain",
    "a=accept-types:*",
    "a=accept-types:text/plain",
    "a=accept-wrapped-types:text/* image/jpeg",
    "a=sendonly",
    "a=recvonly",
    "a=SendRecv",
    "a=inactive",
    "a=setup:active",
    "a=setup:passive",
    "a=setup:actpass",
    "a=setup:holdconn",
    "a=setup:other",
    "a=max-size:5000",
    "a=max-size:99999999999999999999999",
    "a=msrp-cema",
    "a=fingerprint:SHA-1 00",
    "a=file-selector:name:\"a size:9\" size:3",
    "a=file-transfer-id:t1",
    "a=file-range:1-3",
    "a=x-other: 1",
    "a=:",
    "k=clear:1",
];

const STARTS: [&str; 8] = [
    "MESSAGE sip:bob@home.example SIP/2.0",
    "MESSAGE sip:gone@home.example SIP/2.0",
    "REGISTER sip:192.0.2.1 SIP/2.0",
    "OPTIONS sip:192.0.2.1 SIP/2.0",
    "CANCEL sip:bob@home.example SIP/2.0",
    "INVITE tel:+15550100 SIP/2.0",
    "SIP/2.0 200 OK",
    "SIP/2.0 503",
];

/// A message that the core takes as it is.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let user = prop_oneof![Just("bob"), Just("rich"), Just("gone"), Just("nobody")];
    (user, 0..1_000_u32, vec(prop_oneof![Just(b'x'), Just(b'\n'), any::<u8>()], 0..60), vec(0..LINES.len(), 0..4)).prop_map(
        |(user, n, body, extra)| {
            let mut text = format!(
                "MESSAGE sip:{user}@home.example SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bK{n};rport\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:alice@a.example>;tag={n}\r\nTo: <sip:{user}@home.example>\r\n\
                 Call-ID: {n}@a.example\r\nCSeq: 1 MESSAGE\r\nP-Asserted-Identity: <sip:alice@a.example>\r\n"
            );
            for index in extra {
                // Fields that stand once stand already.
                if LINES[index].starts_with("X-") || LINES[index].starts_with("Accept") || index == 0 || index == 14 {
                    text.push_str(LINES[index]);
                    text.push_str("\r\n");
                }
            }
            text.push_str(&format!("Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len()));
            [text.as_bytes(), &body].concat()
        },
    )
}

/// Lines in any order: sometimes a message.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r\n \r\n"), 1 => Just("")];
    (0..STARTS.len(), vec((0..LINES.len(), end), 0..16), vec(any::<u8>(), 0..12)).prop_map(|(start, fields, body)| {
        let mut text = format!("{}\r\n", STARTS[start]);
        for (index, end) in fields {
            text.push_str(LINES[index]);
            text.push_str(end);
        }
        text.push_str("\r\n");
        [text.as_bytes(), &body].concat()
    })
}

/// An INVITE or its answer, from which dialogs are made.
fn founders() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), vec(prop_oneof![3 => 34..LINES.len(), 1 => 0..34_usize], 0..8)).prop_map(|(is_request, extra)| {
        let start = if is_request { "INVITE sip:bob@home.example SIP/2.0" } else { "SIP/2.0 200 OK" };
        let mut text = format!(
            "{start}\r\nVia: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@a.example>;tag=1\r\nTo: <sip:bob@home.example>\r\nCall-ID: 1@a.example\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:alice@192.0.2.3>\r\n"
        );
        for index in extra {
            text.push_str(LINES[index]);
            text.push_str("\r\n");
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        text.into_bytes()
    })
}

/// A session description, usable or not; sometimes an answer behind it.
fn descriptions() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let one = vec((0..SDP_LINES.len(), end), 0..24).prop_map(|lines| {
        lines.into_iter().fold(String::from("v=0\r\n"), |text, (index, end)| text + SDP_LINES[index] + end)
    });
    vec(one, 1..3).prop_map(|descriptions| descriptions.join("\0").into_bytes())
}

/// So many cases, or as many as `PROPTEST_CASES` says.
fn cases(count: u32) -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: wanted.unwrap_or(count), failure_persistence: None, ..ProptestConfig::default() }
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(usize, u8),
    Insert(usize, u8),
    Remove(usize, usize),
    Repeat(usize, usize),
    Cut(usize),
}

fn mutated(source: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![proptest::sample::select(&b"\r\n \t:;,<>\"\\=/@%0[]\0"[..]), any::<u8>(),];
    let place = any::<proptest::sample::Index>();
    let mutation = prop_oneof![
        (0..10_000_usize, byte.clone()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (0..10_000_usize, byte).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        (0..10_000_usize, 1..40_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (0..10_000_usize, 1..80_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        place.prop_map(|index| Mutation::Cut(index.index(10_000))),
    ];
    (source, vec(mutation, 0..5)).prop_map(|(mut bytes, mutations)| {
        for mutation in mutations {
            let len = bytes.len().max(1);
            match mutation {
                Mutation::Replace(at, byte) => {
                    if let Some(place) = bytes.get_mut(at % len) {
                        *place = byte;
                    }
                }
                Mutation::Insert(at, byte) => bytes.insert((at % len).min(bytes.len()), byte),
                Mutation::Remove(at, count) => {
                    let at = (at % len).min(bytes.len());
                    bytes.drain(at..(at + count).min(bytes.len()));
                }
                Mutation::Repeat(at, count) => {
                    let at = (at % len).min(bytes.len());
                    let piece = bytes[at..(at + count).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                Mutation::Cut(at) => bytes.truncate(at % len),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn any_bytes_scan_without_panic(bytes in vec(any::<u8>(), 0..400)) {
        fuzz::message(&bytes);
        fuzz::framing(&bytes);
        fuzz::uri(&bytes);
        fuzz::body(&bytes);
        fuzz::sdp(&bytes);
        fuzz::sdp(&[b"v=0\r\n", &bytes[..]].concat());
    }

    #[test]
    fn descriptions_are_answered_line_by_line(bytes in descriptions()) {
        fuzz::sdp(&bytes);
    }

    #[test]
    fn mutated_descriptions_are_read_and_written_alike(bytes in mutated(descriptions())) {
        fuzz::sdp(&bytes);
    }

    #[test]
    fn dialogs_write_requests_that_name_them(bytes in mutated(founders())) {
        fuzz::message(&bytes);
    }

    #[test]
    fn lines_in_any_order_are_read_and_written_alike(bytes in mutated(lines())) {
        fuzz::message(&bytes);
        fuzz::framing(&bytes);
    }

    #[test]
    fn a_valid_message_has_no_fault(bytes in valid()) {
        let mut scan = Scan::default();
        prop_assert!(scan.scan(&bytes).is_ok());
        prop_assert_eq!(scan.fault, None);
        fuzz::message(&bytes);
    }

    #[test]
    fn mutated_messages_are_read_and_written_alike(bytes in mutated(valid())) {
        fuzz::message(&bytes);
        fuzz::framing(&bytes);
    }

    #[test]
    fn messages_on_a_stream_come_out_wherever_it_is_cut(
        messages in vec((valid(), prop_oneof![Just(&b""[..]), Just(&b"\r\n"[..]), Just(&b"\r\n\r\n"[..])]), 1..5),
        cuts in vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|(message, gap)| [gap, &message[..]].concat()).collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        let mut framer = framing::Framer::default();
        let (mut start, mut found) = (0, Vec::new());
        for end in ends {
            loop {
                match framer.next(&stream[start..end]) {
                    Frame::Incomplete => break,
                    Frame::Ping { len } | Frame::Blank { len } => start += len,
                    Frame::Message { len } => {
                        found.push(stream[start..start + len].to_vec());
                        start += len;
                    }
                    frame => prop_assert!(false, "{:?}", frame),
                }
            }
        }
        let sent: Vec<Vec<u8>> = messages.into_iter().map(|(message, _)| message).collect();
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn uris_are_canonical_once(text in "(sips?|tel|SIP):[a-zA-Z0-9%+._~;=@:\\[\\]-]{0,40}") {
        fuzz::uri(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_core_takes_whatever_comes(messages in vec(prop_oneof![mutated(valid()), mutated(lines())], 1..4)) {
        fuzz::core(&messages.join(&0));
    }
}
