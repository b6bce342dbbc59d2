//! What the transaction machines and the timer wheel cost per message.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::rng::Rng;
use ringpost::base::time::Instant;
use ringpost::base::timer_wheel::TimerWheel;
use ringpost::sip::transaction::{InviteClient, InviteServer, NonInviteClient, NonInviteServer, Reliability};
use std::hint::black_box;
use std::time::Duration;

/// Handles of the size that tables use: a slot and its generation.
type Handle = (u32, u32);

fn machines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    let now = Instant(1_000_000_000);
    let soon = now + Duration::from_millis(20);
    let end = now + Duration::from_secs(40);
    group.bench_function("MESSAGE relayed over UDP: both machines from request to end", |bencher| {
        bencher.iter(|| {
            let mut server = NonInviteServer::new(black_box(Reliability::Unreliable)).with_trying(now);
            let mut client = NonInviteClient::new(black_box(Reliability::Unreliable), now);
            let up = client.on_response(black_box(200), soon);
            let down = server.on_send_response(black_box(200), soon);
            let deadlines = (client.poll_timeout(), server.poll_timeout());
            (up, down, deadlines, client.handle_timeout(end), server.handle_timeout(end))
        });
    });
    group.bench_function("INVITE answered 486 over UDP: both machines from request to end", |bencher| {
        bencher.iter(|| {
            let mut server = InviteServer::new(black_box(Reliability::Unreliable)).with_trying(now);
            let mut client = InviteClient::new(black_box(Reliability::Unreliable), now);
            let trying = (server.on_send_response(100, now), client.on_response(100, now));
            let busy = (client.on_response(black_box(486), soon), server.on_send_response(black_box(486), soon));
            let ack = server.on_ack(soon);
            (trying, busy, ack, client.handle_timeout(end), server.handle_timeout(end))
        });
    });
    group.finish();
}

/// A wheel with `len` deadlines spread over the 32 seconds of Timer J.
fn loaded(len: u32) -> (TimerWheel<Handle>, Rng) {
    let mut rng = Rng::from_u64(7);
    let mut wheel = TimerWheel::new(Instant::ZERO);
    for slot in 0..len {
        wheel.insert(Instant(rng.below(32_000_000_000)), (slot, 0));
    }
    (wheel, rng)
}

fn wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel");
    group.throughput(Throughput::Elements(1));
    for len in [1_000, 1_000_000] {
        // Each item that comes out goes in again 32 seconds later: the load stays as it is.
        group.bench_function(format!("one insert and one fire among {len}"), |bencher| {
            let (mut wheel, _) = loaded(len);
            let mut now = Instant::ZERO;
            bencher.iter(|| {
                let item = loop {
                    match wheel.pop_due(now) {
                        Some(item) => break item,
                        None => now = wheel.next_deadline().expect("the load stays as it is"),
                    }
                };
                wheel.insert(now + Duration::from_secs(32), item);
                item
            });
        });
    }
    group.throughput(Throughput::Elements(1_000_000));
    group.sample_size(10);
    group.bench_function("a million fire in one silence", |bencher| {
        bencher.iter_batched_ref(
            || loaded(1_000_000).0,
            |wheel| {
                let mut count = 0;
                while let Some(item) = wheel.pop_due(Instant(33_000_000_000)) {
                    black_box(item);
                    count += 1;
                }
                count
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = machines, wheel
}
criterion_main!(benches);
