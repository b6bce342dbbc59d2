//! What taking an MSRP stream apart costs: heads alone, whole chunks, bodies in pieces, and writing heads again.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::msrp::byte_range::ByteRange;
use ringpost::msrp::framer::{Event, Framer};
use ringpost::msrp::head::{Head, SeenPaths, Step, read};
use ringpost::msrp::write;
use std::hint::black_box;

const PATHS: &str = "To-Path: msrp://192.0.2.1:20855/0123456789abcdefghij;tcp msrp://198.51.100.7:49152/kjhd37s2s20w2a;tcp\r\n\
                     From-Path: msrp://203.0.113.9:49154/iau39soe2843z1;tcp\r\n";

fn chunk(range: &str, body_len: usize) -> Vec<u8> {
    let mut out = format!(
        "MSRP d93kswow83hg5w2x SEND\r\n{PATHS}Message-ID: 12339sdqwer81ab\r\nByte-Range: {range}\r\n\
         Content-Type: message/cpim\r\n\r\n"
    )
    .into_bytes();
    out.extend((0..body_len).map(|n| (n * 31 % 253) as u8));
    out.extend_from_slice(b"\r\n-------d93kswow83hg5w2x+\r\n");
    out
}

fn response() -> Vec<u8> {
    format!("MSRP d93kswow83hg5w2x 200 OK\r\n{PATHS}-------d93kswow83hg5w2x$\r\n").into_bytes()
}

/// Takes all events; returns the body bytes and the ends, so that nothing is optimised away.
fn drain(framer: &mut Framer, mut input: &[u8]) -> usize {
    let mut sum = 0;
    loop {
        match framer.next(&mut input) {
            Event::Head(head) => sum += head.rest.len(),
            Event::Body(part) => sum += part.len(),
            Event::End(_) => sum += 1,
            Event::Incomplete | Event::Fault(_) => return sum,
        }
    }
}

fn whole(bytes: &[u8]) -> Head<'_> {
    match read(bytes, &SeenPaths::default()) {
        Step::Whole { head, .. } => head,
        other => panic!("{other:?}"),
    }
}

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("MSRP head");
    for (name, bytes) in [("SEND", chunk("1-300/300", 300)), ("response", response())] {
        let fresh = SeenPaths::default();
        let mut seen = SeenPaths::default();
        seen.keep(&whole(&bytes));
        group.bench_function(BenchmarkId::new(name, "new paths"), |bencher| {
            bencher
                .iter(|| matches!(read(black_box(&bytes), &fresh), Step::Whole { head, .. } if head.fault.is_none()));
        });
        group.bench_function(BenchmarkId::new(name, "paths repeat"), |bencher| {
            bencher.iter(|| matches!(read(black_box(&bytes), &seen), Step::Whole { head, .. } if head.paths_repeat));
        });
    }
    let bytes = chunk("1-300/300", 300);
    let (head, mut out) = (whole(&bytes), Vec::with_capacity(1024));
    let range = ByteRange { start: 1, end: Some(300), total: Some(300) };
    group.bench_function("forward_head", |bencher| {
        bencher.iter(|| {
            out.clear();
            write::forward_head(&mut out, black_box(&head), b"0wn1d00000000000", PATHS.as_bytes(), Some(range));
            out.len()
        });
    });
    group.bench_function("response written", |bencher| {
        bencher.iter(|| {
            out.clear();
            write::response(&mut out, black_box(b"d93kswow83hg5w2x"), 200, PATHS.as_bytes());
            out.len()
        });
    });
    group.finish();
}

fn framer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("MSRP framer");
    for len in [300, 2_048, 65_536] {
        for (form, range) in [("range", format!("1-{len}/{len}")), ("star", format!("1-*/{len}"))] {
            let bytes = chunk(&range, len);
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            let mut framer = Framer::new();
            group.bench_function(BenchmarkId::new(format!("{form}, whole"), len), |bencher| {
                bencher.iter(|| drain(&mut framer, black_box(&bytes)));
            });
            if len > 16_384 {
                group.bench_function(BenchmarkId::new(format!("{form}, pieces of 16 KB"), len), |bencher| {
                    bencher
                        .iter(|| bytes.chunks(16_384).map(|piece| drain(&mut framer, black_box(piece))).sum::<usize>());
                });
            }
            assert!(framer.is_idle());
        }
    }
    let responses = response().repeat(16);
    group.throughput(Throughput::Elements(16));
    let mut framer = Framer::new();
    group.bench_function("16 responses", |bencher| bencher.iter(|| drain(&mut framer, black_box(&responses))));
    group.finish();
}

criterion_group!(benches, heads, framer);
criterion_main!(benches);
