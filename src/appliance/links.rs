//! What links rooms that do not know each other.

use crate::base::id::{ShardId, Ticket};
use crate::metrics::exposition::{Row, Scrape, ScrapeAnswer};
use crate::participating::input::{Input, Shards};
use crate::participating::storage::Answer;
use crate::shard::Doors;
use crate::store::{Answers, StoreMetrics};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the store's thread waits for room in a shard's mailbox before it looks again.
const ROOM_WAIT: Duration = Duration::from_micros(50);

/// Brings the store's answers to the shards.
pub(super) struct StoreAnswers {
    pub(super) doors: Arc<Doors>,
    pub(super) shards_gone: Arc<AtomicBool>,
}

impl Answers for StoreAnswers {
    fn answer(&self, shard: ShardId, ticket: Ticket, answer: Answer) {
        let mut input = Input::Store { ticket, answer };
        // A shard that is behind catches up, or has ended: then nobody waits for the answer.
        while let Err(back) = self.doors.try_post(shard, input) {
            if self.shards_gone.load(Ordering::Acquire) {
                return;
            }
            input = back;
            std::thread::sleep(ROOM_WAIT);
        }
    }
}

/// Brings the shards' latencies to the metrics page.
pub(super) struct Histograms(pub(super) Arc<Doors>);

impl Scrape for Histograms {
    fn stages(&self, answer: ScrapeAnswer) {
        self.0.scrape(move |shard, stages| answer(shard, stages));
    }
}

/// The store's rows of the metrics page.
pub(super) fn store_rows(metrics: &StoreMetrics) -> Vec<Row> {
    let count = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed) as f64;
    let seconds = |cell: &std::sync::atomic::AtomicU64| count(cell) / 1e9;
    vec![
        Row::counter("ringpost_store_commits_total", "durable commits", count(&metrics.commits)),
        Row::counter("ringpost_store_commit_rows_total", "commands in those commits", count(&metrics.commit_rows)),
        Row::gauge("ringpost_store_commit_rows_max", "largest batch of one commit", count(&metrics.commit_rows_max)),
        Row::counter("ringpost_store_commit_seconds_total", "time spent in commits", seconds(&metrics.commit_nanos)),
        Row::gauge(
            "ringpost_store_commit_seconds_max",
            "longest commit since the last scrape",
            metrics.take_commit_nanos_max() as f64 / 1e9,
        ),
        Row::counter("ringpost_store_commit_failures_total", "commits that failed", count(&metrics.commit_failures)),
        Row::counter(
            "ringpost_store_checkpoint_seconds_total",
            "time spent moving the log into the database",
            seconds(&metrics.checkpoint_nanos),
        ),
        Row::gauge(
            "ringpost_store_broken",
            "1 from a failed commit until one succeeds",
            f64::from(u8::from(metrics.is_broken())),
        ),
    ]
}

/// An error's text without the numbers of I/O errors.
pub(super) fn plain(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
