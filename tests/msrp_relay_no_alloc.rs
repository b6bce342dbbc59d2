//! Chunks and their responses pass the relay without allocating, once its buffers go round.

#[path = "support/counting.rs"]
mod counting;

use bytes::Bytes;
use counting::allocations;
use ringpost::base::id::ConnId;
use ringpost::base::rng::Rng;
use ringpost::base::time::Instant;
use ringpost::msrp::news::{LegPlan, OpenPlan, Purpose, Role, Side};
use ringpost::msrp::relay::Relay;
use ringpost::msrp::settings::{Acknowledgement, PathMode, RelaySettings};

const A: ConnId = ConnId { slot: 0, generation: 0 };
const B: ConnId = ConnId { slot: 1, generation: 0 };
const NOW: Instant = Instant(1_000_000_000);

/// Takes what waits; answers the connection and what left. As a shard does, it lets go of that before it says so.
fn leave(relay: &mut Relay, batch: &mut Vec<Bytes>, each: &mut dyn FnMut(ConnId, &[u8])) {
    while let Some(conn) = relay.poll_dirty() {
        relay.take(conn, batch);
        let len = batch.iter().map(Bytes::len).sum();
        batch.drain(..).for_each(|piece| each(conn, &piece));
        relay.on_sent(conn, len, NOW);
    }
}

#[test]
fn small_chunks_and_their_responses_allocate_nothing() {
    let listeners = vec!["192.0.2.1:20855".parse().unwrap()];
    let settings =
        RelaySettings { listeners, acknowledgement: Acknowledgement::EndToEnd, path_mode: PathMode::Prepend };
    let mut relay = Relay::new(settings, Rng::from_u64(1), NOW);
    let plan = OpenPlan { purpose: Purpose::Bridge { record: false }, listeners: [0, 0], size_max: u64::MAX };
    let id = relay.open(plan, NOW).unwrap();
    let mut own = Vec::new();
    for (side, path, conn) in [(Side::Originating, "msrp://a:9/sa;tcp", A), (Side::Terminating, "msrp://b:7/sb;tcp", B)]
    {
        let leg = LegPlan { peer_path: path.as_bytes(), role: Role::Passive, connect_to: &[], accept_types: b"" };
        relay.negotiate(id, side, leg, NOW);
        assert!(relay.on_accepted(conn, "192.0.2.9:9".parse().unwrap(), 0, NOW));
        own.push(relay.uri(id, side).to_owned());
    }
    relay.start(id, NOW);
    for (to, from, conn) in [(&own[0], "msrp://a:9/sa;tcp", A), (&own[1], "msrp://b:7/sb;tcp", B)] {
        let text = format!("MSRP bind SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: b\r\n-------bind$\r\n");
        relay.on_bytes(conn, text.as_bytes(), &mut || panic!("too small to share"), NOW);
    }
    let paths = format!("To-Path: {} msrp://b:7/sb;tcp\r\nFrom-Path: msrp://a:9/sa;tcp\r\n", own[0]);
    let fields = "Message-ID: m\r\nByte-Range: 1-300/300\r\nContent-Type: message/cpim\r\n";
    let chunk = format!("MSRP d93kswow SEND\r\n{paths}{fields}\r\n{}\r\n-------d93kswow$\r\n", "x".repeat(300));
    let chunks = chunk.repeat(8).into_bytes();
    let gap = "_".repeat(24);
    let paths = format!("To-Path: {}\r\nFrom-Path: msrp://b:7/sb;tcp\r\n", own[1]);
    let response = format!("MSRP {gap} 200 OK\r\n{paths}-------{gap}$\r\n");
    let second = response.rfind(&gap).unwrap();
    let mut response = response.into_bytes();
    let mut batch = Vec::with_capacity(64);
    leave(&mut relay, &mut batch, &mut |_, _| {});
    let mut answers: Vec<u8> = Vec::with_capacity(16 * 1024);
    let mut turn = |relay: &mut Relay| {
        let (mut answered, mut none) = (0, || -> Bytes { panic!("too small to share") });
        relay.on_bytes(A, &chunks, &mut none, NOW);
        answers.clear();
        leave(relay, &mut batch, &mut |_, bytes| {
            for at in memchr::memmem::find_iter(bytes, b"MSRP ") {
                let tid = &bytes[at + 5..at + 29];
                [5, second].iter().for_each(|gap| response[*gap..gap + 24].copy_from_slice(tid));
                answers.extend_from_slice(&response);
            }
        });
        relay.on_bytes(B, &answers, &mut none, NOW);
        leave(relay, &mut batch, &mut |conn, bytes| {
            assert_eq!(conn, A);
            answered += memchr::memmem::find_iter(bytes, b" 200 OK").count();
        });
        assert_eq!(answered, 8);
    };
    for _ in 0..20 {
        turn(&mut relay);
    }
    let count = allocations(|| (0..1_000).for_each(|_| turn(&mut relay)));
    assert_eq!(count, 0, "in 8,000 chunks");
}
