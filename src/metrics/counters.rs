//! One shard's counters and gauges.

use super::names::{Counter, Gauge};
use std::sync::atomic::{AtomicU64, Ordering};

/// Written by one shard alone, read by anyone. Aligned so that no two shards share a cache line.
#[repr(align(128))]
pub struct ShardMetrics {
    counters: [AtomicU64; Counter::COUNT],
    gauges: [AtomicU64; Gauge::COUNT],
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl ShardMetrics {
    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts several.
    pub fn add(&self, counter: Counter, amount: u64) {
        // One writer: a load and a store are enough, and cheaper than a locked add.
        let cell = &self.counters[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Sets a level.
    pub fn set(&self, gauge: Gauge, level: u64) {
        self.gauges[gauge as usize].store(level, Ordering::Relaxed);
    }

    /// Counts a response sent, by class.
    pub fn response_sent(&self, status: u16) {
        const CLASSES: [Counter; 6] = [
            Counter::ResponseSent1,
            Counter::ResponseSent2,
            Counter::ResponseSent3,
            Counter::ResponseSent4,
            Counter::ResponseSent5,
            Counter::ResponseSent6,
        ];
        if let Some(class) = CLASSES.get(usize::from(status / 100).wrapping_sub(1)) {
            self.count(*class);
        }
    }

    /// Counts a response received, by class.
    pub fn response_received(&self, status: u16) {
        const CLASSES: [Counter; 6] = [
            Counter::ResponseReceived1,
            Counter::ResponseReceived2,
            Counter::ResponseReceived3,
            Counter::ResponseReceived4,
            Counter::ResponseReceived5,
            Counter::ResponseReceived6,
        ];
        if let Some(class) = CLASSES.get(usize::from(status / 100).wrapping_sub(1)) {
            self.count(*class);
        }
    }

    /// A counter's value.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// A gauge's level.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].load(Ordering::Relaxed)
    }
}
