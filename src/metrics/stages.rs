//! Latency histograms of one shard.

use super::names::Stage;
use hdrhistogram::Histogram;
use std::time::Duration;

/// One histogram per stage, in nanoseconds, 1 ns to 100 s with two significant digits.
#[derive(Clone)]
pub struct Stages {
    histograms: Vec<Histogram<u64>>,
}

/// Highest value kept apart; longer times count as this one.
const NANOS_MAX: u64 = 100_000_000_000;

impl Default for Stages {
    fn default() -> Self {
        let one = || Histogram::new_with_bounds(1, NANOS_MAX, 2).expect("1 ns to 100 s at two digits is a valid range");
        Self { histograms: (0..Stage::COUNT).map(|_| one()).collect() }
    }
}

impl Stages {
    /// Records one time.
    pub fn record(&mut self, stage: Stage, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(NANOS_MAX);
        self.histograms[stage as usize].saturating_record(nanos.max(1));
    }

    /// One stage's histogram.
    pub fn histogram(&self, stage: Stage) -> &Histogram<u64> {
        &self.histograms[stage as usize]
    }

    /// Adds another shard's times.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
    }
}
