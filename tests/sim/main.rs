//! Cores in a model world: seeded randomness, virtual time, loss, duplication, reordering, store faults, crashes.
//!
//! Every seed is one history. A failure prints the seed, the step and the last steps; `SIM_SEED=…` replays one seed,
//! `SIM_COUNT=…` runs that many.

mod large;
mod ledger;
mod msrp;
mod parties;
mod rules;
mod world;

use msrp::wire::Trouble;
use std::time::Duration;
use world::{Plan, World};

const SEED_COUNT: u64 = 240;
const RELAY_SEED_COUNT: u64 = 25;
const LARGE_SEED_COUNT: u64 = 20;

fn run(name: &str, plan: fn(u64) -> Plan) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SIM_COUNT").unwrap_or(SEED_COUNT / 4) + 1,
    };
    let mut totals = ledger::Totals::default();
    for seed in seeds.clone() {
        totals += World::new(name, seed, plan(seed)).run();
    }
    eprintln!("{name}: {totals:?}");
    if seeds.end - seeds.start > 20 {
        totals.check_variety(name);
    }
}

#[test]
fn a_calm_world_delivers_everything_once() {
    run("a_calm_world_delivers_everything_once", |seed| Plan::calm(1 + (seed % 2) as u16));
}

#[test]
fn a_bad_network_changes_nothing_but_the_time_it_takes() {
    run("a_bad_network_changes_nothing_but_the_time_it_takes", |seed| Plan {
        loss: 15,
        duplication: 15,
        delay_max: Duration::from_millis(300),
        ..Plan::calm(1 + (seed % 2) as u16)
    });
}

#[test]
fn a_failing_store_is_never_answered_with_success() {
    run("a_failing_store_is_never_answered_with_success", |seed| Plan {
        loss: 5,
        store_fault: 25,
        store_delay_max: Duration::from_millis(800),
        ..Plan::calm(1 + (seed % 2) as u16)
    });
}

#[test]
fn a_crash_loses_nothing_that_was_accepted() {
    run("a_crash_loses_nothing_that_was_accepted", |seed| Plan {
        loss: 10,
        duplication: 10,
        delay_max: Duration::from_millis(200),
        store_fault: 5,
        store_delay_max: Duration::from_millis(200),
        crashes: 1 + seed % 3,
        ..Plan::calm(1 + (seed % 2) as u16)
    });
}

fn relay_alone(name: &str, plan: fn(u64) -> msrp::world::Plan) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SIM_COUNT").unwrap_or(RELAY_SEED_COUNT) + 1,
    };
    let mut counts = msrp::wire::Counts::default();
    for seed in seeds.clone() {
        counts += msrp::world::World::new(name, seed, plan(seed)).run();
    }
    eprintln!("{name}: {counts:?}");
    if seeds.end - seeds.start > 20 {
        assert!(counts.completed > counts.chunks / 1_000 && counts.aborted > 0 && counts.pauses > 0, "{counts:?}");
    }
}

#[test]
fn a_calm_relay_passes_every_message_whole() {
    relay_alone("a_calm_relay_passes_every_message_whole", |_| msrp::world::Plan::calm());
}

#[test]
fn slow_readers_stop_their_senders_and_lose_nothing() {
    relay_alone("slow_readers_stop_their_senders_and_lose_nothing", |seed| msrp::world::Plan {
        hosts: 1 + (seed % 3) as u8,
        len_max: 2_000_000,
        trouble: Trouble { slow: 300, stops: 300, ..Trouble::default() },
        ..msrp::world::Plan::calm()
    });
}

#[test]
fn broken_connections_and_bad_peers_are_told_about() {
    relay_alone("broken_connections_and_bad_peers_are_told_about", |seed| msrp::world::Plan {
        hosts: 1 + (seed % 4) as u8,
        is_rough: true,
        sessions: 12,
        trouble: Trouble {
            reset: seed % 3 * 2,
            connect_fails: 200,
            connect_hangs: 100,
            slow: 100,
            stops: 100,
            garbage: seed % 2 * 4,
        },
        ..msrp::world::Plan::calm()
    });
}

fn large(name: &str, plan: fn(u64) -> large::world::Plan) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SIM_COUNT").unwrap_or(LARGE_SEED_COUNT) + 1,
    };
    let mut totals = large::world::Totals::default();
    for seed in seeds.clone() {
        totals += large::world::World::new(name, seed, plan(seed)).run();
    }
    eprintln!("{name}: {totals:?}");
    if seeds.end - seeds.start >= 20 {
        let rarest = totals.answered.min(totals.spooled).min(totals.delivered_later);
        assert!(rarest > totals.calls / 20, "{totals:?}");
    }
}

#[test]
fn large_messages_pass_in_a_calm_world() {
    large("large_messages_pass_in_a_calm_world", |seed| large::world::Plan::calm(1 + (seed % 2) as u16));
}

#[test]
fn large_messages_survive_a_bad_network_or_their_senders_are_told() {
    large("large_messages_survive_a_bad_network_or_their_senders_are_told", |seed| large::world::Plan {
        loss: 12,
        duplication: 12,
        delay_max: Duration::from_millis(250),
        trouble: Trouble { reset: 1, connect_fails: 100, slow: 100, ..Trouble::default() },
        ..large::world::Plan::calm(1 + (seed % 2) as u16)
    });
}

#[test]
fn large_messages_meet_peers_who_cancel_refuse_and_hang_up() {
    large("large_messages_meet_peers_who_cancel_refuse_and_hang_up", |seed| large::world::Plan {
        loss: seed % 3 * 5,
        duplication: 5,
        delay_max: Duration::from_millis(100),
        store_fault: 10,
        is_rough: true,
        toggles: 12,
        trouble: Trouble {
            reset: 1,
            connect_fails: 100,
            connect_hangs: 50,
            slow: 100,
            stops: 50,
            ..Trouble::default()
        },
        ..large::world::Plan::calm(1 + (seed % 2) as u16)
    });
}
