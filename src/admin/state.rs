//! What the HTTP side serves from.

use crate::control::plane::{ControlPlane, ControlSignal};
use crate::control::spool::Spool;
use crate::metrics::counters::ShardMetrics;
use crate::metrics::exposition::{Row, Scrape};
use crate::participating::input::ControlMailbox;
use crate::participating::storage::StoreMailbox;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Everything [`super::serve::run`] needs besides its socket.
#[derive(Clone)]
pub struct AdminState {
    /// Subscribers and their documents.
    pub plane: Arc<ControlPlane>,
    /// Where shards post jobs for the control plane.
    pub mailbox: Arc<ControlMailbox>,
    /// What that mailbox was made with.
    pub signal: ControlSignal,
    /// Large messages on their way into the content store and out of it.
    pub spool: Spool,
    /// The store's mailbox, for its level.
    pub store: Arc<StoreMailbox>,
    /// Counters, shard by shard.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// Latency histograms of the shards.
    pub scrape: Arc<dyn Scrape>,
    /// Rows of the metrics page that others keep, such as the store's.
    pub rows: Arc<dyn Fn() -> Vec<Row> + Send + Sync>,
    /// `http.xcap_root`, such as `/xcap`.
    pub xcap_root: String,
    /// How long clients may take.
    pub patience: Patience,
    /// How the connections fare.
    pub traffic: Arc<Traffic>,
}

/// Limits of time and number on the HTTP side.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first byte of a request to the first of its response.
    pub request: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// Between a response and the next request, and for a response that is not read.
    pub idle: Duration,
    /// For the store's answer.
    pub store: Duration,
    /// For the shards' and the store's share of a metrics page.
    pub scrape: Duration,
    /// Open connections.
    pub connection_count_max: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(20),
            body: Duration::from_secs(8),
            idle: Duration::from_secs(60),
            store: Duration::from_secs(8),
            scrape: Duration::from_millis(500),
            connection_count_max: 256,
        }
    }
}

/// Counts of the HTTP side.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Connections open.
    pub open: AtomicU64,
    /// Connections refused because too many were open.
    pub refused: AtomicU64,
    /// Connections closed because their client took too long.
    pub slow: AtomicU64,
}
