//! Taking an MSRP stream apart and writing its heads again allocates nothing while chunks come whole.

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;
use ringpost::msrp::byte_range::ByteRange;
use ringpost::msrp::framer::{Event, Framer, place_in};
use ringpost::msrp::head::Flag;
use ringpost::msrp::write;

const PATHS: &str = "To-Path: msrp://p:1/p1;tcp msrp://b:7/sb;tcp\r\nFrom-Path: msrp://a:9/sa;tcp\r\n";

#[test]
fn chunks_that_come_whole_and_bodies_in_pieces_allocate_nothing() {
    let body = "a\r\n-------d93k".repeat(1_000);
    let mut stream = String::new();
    for range in [format!("1-{0}/{0}", body.len()), "1-*/*".to_owned()] {
        stream +=
            &format!("MSRP d93kswow SEND\r\n{PATHS}Message-ID: m1\r\nByte-Range: {range}\r\nContent-Type: a/b\r\n\r\n");
        stream += &format!("{body}\r\n-------d93kswow+\r\nMSRP d93kswow 200 OK\r\n{PATHS}-------d93kswow$\r\n");
    }
    let stream = stream.as_bytes();
    let mut framer = Framer::new();
    let mut out = Vec::with_capacity(1_024);
    let mut take = |mut input: &[u8]| {
        let (whole, mut ends) = (input, 0);
        loop {
            match framer.next(&mut input) {
                Event::Head(head) => {
                    out.clear();
                    assert!(head.fault.is_none() && place_in(whole, head.bytes).is_some());
                    match head.kind.is_response() {
                        true => write::response(&mut out, b"0wn1d", 200, head.paths),
                        false => write::forward_head(&mut out, &head, b"0wn1d", head.paths, Some(ByteRange::WHOLE)),
                    }
                    write::end_line_after_body(&mut out, b"0wn1d", Flag::More);
                }
                Event::Body(part) => assert!(part.len() < 16 || place_in(whole, part).is_some()),
                Event::End(_) => ends += 1,
                Event::Incomplete => return ends,
                Event::Fault(fault) => panic!("{fault:?}"),
            }
        }
    };
    assert_eq!(take(stream), 4, "the paths are kept from here on");
    let count = allocations(|| {
        for cut in [stream.len(), 500, 10_000, body.len() + 170] {
            let (first, second) = stream.split_at(cut);
            assert_eq!(take(first) + take(second), 4, "cut at {cut}");
        }
    });
    assert_eq!(count, 0);
}
