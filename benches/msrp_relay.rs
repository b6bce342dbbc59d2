//! What the relay costs for a chunk and its 200: taken apart, routed, rewritten, queued, taken out, answered, passed back.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::id::ConnId;
use ringpost::base::rng::Rng;
use ringpost::base::time::Instant;
use ringpost::msrp::news::{LegPlan, OpenPlan, Purpose, Role, Side};
use ringpost::msrp::relay::Relay;
use ringpost::msrp::settings::{Acknowledgement, PathMode, RelaySettings};

const A_PATH: &str = "msrp://203.0.113.9:49154/iau39soe2843z1;tcp";
const B_PATH: &str = "msrp://198.51.100.7:49152/kjhd37s2s20w2a;tcp";
const NOW: Instant = Instant(1_000_000_000);
const A: ConnId = ConnId { slot: 0, generation: 0 };
const B: ConnId = ConnId { slot: 1, generation: 0 };

/// A bridged session and the bytes that pass through it again and again.
struct Scene {
    relay: Relay,
    batch: Vec<Bytes>,
    chunks: Bytes,
    /// The receiver's response, with gaps for the transaction id.
    response: Vec<u8>,
    gaps: [usize; 2],
    window: usize,
    /// Bytes that were handed to the kernel: kept until the next turn, as the kernel does.
    flying: Vec<Bytes>,
    responses: Vec<u8>,
}

impl Scene {
    fn new(body_len: usize, window: usize) -> Self {
        let settings = RelaySettings {
            listeners: vec!["192.0.2.1:20855".parse().expect("an address")],
            acknowledgement: Acknowledgement::EndToEnd,
            path_mode: PathMode::Prepend,
        };
        let mut relay = Relay::new(settings, Rng::from_u64(1), NOW);
        let plan = OpenPlan { purpose: Purpose::Bridge { record: false }, listeners: [0, 0], size_max: u64::MAX };
        let id = relay.open(plan, NOW).expect("there is room");
        for (side, path, conn) in [(Side::Originating, A_PATH, A), (Side::Terminating, B_PATH, B)] {
            let leg = LegPlan {
                peer_path: path.as_bytes(),
                role: Role::Passive,
                connect_to: &[],
                accept_types: b"message/cpim",
            };
            relay.negotiate(id, side, leg, NOW);
            assert!(relay.on_accepted(conn, "203.0.113.9:49154".parse().expect("an address"), 0, NOW));
        }
        relay.start(id, NOW);
        let own = |side| relay.uri(id, side).to_owned();
        let (own_a, own_b) = (own(Side::Originating), own(Side::Terminating));
        let bind = |to: &str, from: &str| {
            format!("MSRP bind1234 SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: b\r\n-------bind1234$\r\n")
        };
        let mut chunk = format!(
            "MSRP d93kswow83hg5w2x SEND\r\nTo-Path: {own_a} {B_PATH}\r\nFrom-Path: {A_PATH}\r\n\
             Message-ID: 12339sdqwer81ab\r\nByte-Range: 1-{body_len}/1000000000\r\nContent-Type: message/cpim\r\n\r\n"
        )
        .into_bytes();
        chunk.extend((0..body_len).map(|n| (n * 31 % 253) as u8));
        chunk.extend_from_slice(b"\r\n-------d93kswow83hg5w2x+\r\n");
        let gap = "x".repeat(24);
        let response = format!("MSRP {gap} 200 OK\r\nTo-Path: {own_b}\r\nFrom-Path: {B_PATH}\r\n-------{gap}$\r\n");
        let gaps = [5, response.rfind(&gap).expect("it is there")];
        let mut scene = Self {
            relay,
            batch: Vec::new(),
            chunks: chunk.repeat(window).into(),
            response: response.into_bytes(),
            gaps,
            window,
            flying: Vec::new(),
            responses: Vec::new(),
        };
        for (conn, to, from) in [(A, own_a.as_str(), A_PATH), (B, own_b.as_str(), B_PATH)] {
            let bytes = Bytes::from(bind(to, from));
            scene.relay.on_bytes(conn, &bytes, &mut || bytes.clone(), NOW);
        }
        scene.leave(|_| {});
        while scene.relay.poll_event().is_some() {}
        scene
    }

    /// One turn: chunks arrive and leave, their responses arrive and leave.
    fn turn(&mut self) -> usize {
        let chunks = self.chunks.clone();
        self.relay.on_bytes(A, &chunks, &mut || chunks.clone(), NOW);
        let mut responses = std::mem::take(&mut self.responses);
        responses.clear();
        let (mut response, gaps) = (std::mem::take(&mut self.response), self.gaps);
        self.leave(|bytes| {
            for start in memchr::memmem::find_iter(bytes, b"MSRP ") {
                let tid = &bytes[start + 5..start + 29];
                gaps.iter().for_each(|gap| response[*gap..gap + 24].copy_from_slice(tid));
                responses.extend_from_slice(&response);
            }
        });
        let bytes: &[u8] = &responses;
        self.relay.on_bytes(B, bytes, &mut || Bytes::copy_from_slice(bytes), NOW);
        (self.response, self.responses) = (response, responses);
        let mut len = 0;
        self.leave(|bytes| len += bytes.len());
        assert!(len > self.window * 100, "every chunk was answered");
        len
    }

    fn leave(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(conn) = self.relay.poll_dirty() {
            self.relay.take(conn, &mut self.batch);
            let len = self.batch.iter().map(Bytes::len).sum();
            // No head is cut by the end of a piece, and long pieces are bodies.
            self.batch.iter().filter(|piece| piece.len() < 60_000).for_each(|piece| each(piece));
            self.flying.clear();
            self.flying.append(&mut self.batch);
            self.flying.clear();
            self.relay.on_sent(conn, len, NOW);
        }
    }
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("MSRP relay: chunk and 200");
    for body_len in [300, 2_048, 65_536] {
        for window in [1, 8] {
            let mut scene = Scene::new(body_len, window);
            group.throughput(Throughput::Elements(window as u64));
            group.bench_function(BenchmarkId::new(format!("{body_len} B"), format!("window {window}")), |bencher| {
                bencher.iter(|| scene.turn());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, relay);
criterion_main!(benches);
