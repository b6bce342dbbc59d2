//! Two shards behind one port: who sends from where must not matter.

use crate::support::documents::*;
use crate::support::endpoint::Transport;
use crate::support::eventually;
use crate::support::world::*;

const TWO_SHARDS: Variant = VARIANTS[1];

#[test]
fn a_retransmission_reaches_its_transaction_wherever_it_lands() {
    let mut world = World::new(TWO_SHARDS);
    assert_eq!(world.appliance.shards, 2);
    world.register(BOB, &[Device::new()]);
    let mut first_answers = std::collections::HashMap::new();
    // Several messages, so that both shards own some.
    for _ in 0..8 {
        let sent = world.send(&pager(ALICE, BOB));
        let forwarded = world.core.request("MESSAGE");
        for _ in 0..10 {
            world.alice.resend(&sent);
        }
        world.core.answer(&forwarded, 200);
        let first = loop {
            let response = world.alice.next_new();
            if response.branch() == sent.branch {
                break response;
            }
            assert_eq!(Some(&response.raw), first_answers.get(&response.branch()), "{response:?}");
        };
        assert_eq!(first.status(), Some(200));
        // Repeats that arrive before the final response are absorbed, those after it get the same bytes. Answers to the
        // repeats of this or an earlier message may still be on their way.
        first_answers.insert(sent.branch.clone(), first.raw.clone());
        for _ in 0..10 {
            world.alice.resend(&sent);
            loop {
                let response = world.alice.next_new();
                assert_eq!(Some(&response.raw), first_answers.get(&response.branch()), "{response:?}");
                if response.branch() == sent.branch {
                    break;
                }
            }
        }
    }
    world.core.assert_silent();
    let requests = world.appliance.metric("ringpost_sip_requests_total", &["method=\"MESSAGE\""]);
    assert_eq!(requests, 8, "retransmissions are no requests");
    let retransmissions = || world.appliance.metric("ringpost_sip_request_retransmissions_total", &[]);
    eventually("every repeat is counted", || (retransmissions() == 160).then_some(()));
}

#[test]
fn one_source_address_and_port_loads_all_shards_evenly() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new(Variant { transport, shards: 2 });
        world.register(BOB, &[Device::new()]);
        let (count, window) = (400, 20);
        for _ in 0..count / window {
            let sent: Vec<_> = (0..window).map(|_| world.send(&pager(ALICE, BOB))).collect();
            for _ in 0..window {
                let forwarded = world.core.request("MESSAGE");
                world.core.answer(&forwarded, 200);
            }
            for _ in &sent {
                assert_eq!(world.alice.next_new().status(), Some(200));
            }
        }
        let of_shard = |shard: u16| {
            let shard = format!("shard=\"{shard}\"");
            world.appliance.metric("ringpost_sip_requests_total", &["method=\"MESSAGE\"", &shard])
        };
        let loads = [of_shard(0), of_shard(1)];
        assert_eq!(loads.iter().sum::<u64>(), count, "{loads:?}");
        assert!(loads.iter().all(|load| *load > count * 3 / 10), "{transport:?}: {loads:?}");
    }
}

#[test]
fn the_answer_to_a_forwarded_request_comes_straight_to_its_owner() {
    let mut world = World::new(TWO_SHARDS);
    world.register(BOB, &[Device::new()]);
    let mut sent_by = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let forwarded = world.assert_delivered(&pager(ALICE, BOB));
        let via = forwarded.values("Via")[0].clone();
        let own = via.split([' ', ';']).nth(1).expect("sent-by").to_owned();
        assert_ne!(own, world.addr().to_string(), "a shard names its own port: {via}");
        sent_by.insert(own);
    }
    assert_eq!(sent_by.len(), 2, "each shard has a port of its own: {sent_by:?}");
}
