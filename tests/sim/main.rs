//! Cores in a model world: seeded randomness, virtual time, loss, duplication, reordering, store faults, crashes.
//!
//! Every seed is one history. A failure prints the seed, the step and the last steps; `SIM_SEED=…` replays one seed,
//! `SIM_COUNT=…` runs that many.

mod ledger;
mod parties;
mod rules;
mod world;

use std::time::Duration;
use world::{Plan, World};

const SEED_COUNT: u64 = 240;

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
