//! What the store counts. Written by its thread, read by whoever scrapes, relaxed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The store's counters. How much waits in its mailbox is the mailbox's own length.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// Commits that succeeded.
    pub commits: AtomicU64,
    /// Commands in those commits: over `commits`, the mean batch.
    pub commit_rows: AtomicU64,
    /// The largest batch.
    pub commit_rows_max: AtomicU64,
    /// Time of all commits, first statement to durable, in nanoseconds.
    pub commit_nanos: AtomicU64,
    /// The longest of them since [`StoreMetrics::take_commit_nanos_max`] was last called.
    pub commit_nanos_max: AtomicU64,
    /// Transactions that failed and were rolled back.
    pub commit_failures: AtomicU64,
    /// Time spent moving the log into the database, in nanoseconds.
    pub checkpoint_nanos: AtomicU64,
    /// True from a failed commit until one succeeds.
    pub broken: AtomicBool,
}

impl StoreMetrics {
    /// True while the store cannot commit: the health page's word.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The longest commit since the last call, in nanoseconds.
    pub fn take_commit_nanos_max(&self) -> u64 {
        self.commit_nanos_max.swap(0, Ordering::Relaxed)
    }

    /// Records a commit that succeeded.
    pub(super) fn committed(&self, rows: usize, took: Duration) {
        let (rows, nanos) = (rows as u64, nanos(took));
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_rows.fetch_add(rows, Ordering::Relaxed);
        self.commit_rows_max.fetch_max(rows, Ordering::Relaxed);
        self.commit_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.commit_nanos_max.fetch_max(nanos, Ordering::Relaxed);
    }

    /// Records time spent on a checkpoint.
    pub(super) fn checkpointed(&self, took: Duration) {
        self.checkpoint_nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
