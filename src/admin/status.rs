//! `/metrics` and `/healthz`.

use super::answer::{Refusal, fault_text, plain};
use super::state::AdminState;
use crate::base::id::ShardId;
use crate::metrics::exposition::{self, Row, Snapshot};
use crate::metrics::stages::Stages;
use crate::participating::storage::{Command, Fault, Levels, Reply};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// `GET /healthz`: 200 while the store answers and takes messages.
pub async fn health(State(state): State<Arc<AdminState>>) -> Response {
    match levels(&state, state.patience.store).await {
        Ok(Levels { fault: None, .. }) => plain(StatusCode::OK, "ok\n"),
        Ok(Levels { fault: Some(fault), .. }) | Err(fault) => {
            warn!(reason = fault_text(fault).trim_end(), "not healthy");
            Refusal::Store(fault).into_response()
        }
    }
}

/// `GET /metrics`: the Prometheus page. What does not answer in time is left out.
pub async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let (stages, levels) = tokio::join!(stages(&state), levels(&state, state.patience.scrape));
    let mut rows = own_rows(&state);
    if let Ok(levels) = levels {
        rows.extend(level_rows(levels));
    }
    rows.extend((state.rows)());
    let page = exposition::render(&Snapshot { shards: &state.shards, stages: &stages, rows: &rows });
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], page).into_response()
}

async fn levels(state: &AdminState, time: Duration) -> Result<Levels, Fault> {
    match tokio::time::timeout(time, state.plane.ask_store(Command::Levels)).await {
        Ok(Ok(Reply::Levels(levels))) => Ok(levels),
        Ok(Err(fault)) => Err(fault),
        Ok(Ok(_)) | Err(_) => Err(Fault::Broken),
    }
}

/// The histograms of the shards that answer in time, in the shards' order.
async fn stages(state: &AdminState) -> Vec<(ShardId, Stages)> {
    let shard_count = state.shards.len();
    let (answered, mut answers) = mpsc::channel(shard_count.max(1));
    state.scrape.stages(Arc::new(move |shard, stages| {
        // One answer per shard: there is room, or nobody waits for it.
        let _ = answered.try_send((shard, stages));
    }));
    let mut found = Vec::with_capacity(shard_count);
    let collect = async {
        while found.len() < shard_count
            && let Some((shard, stages)) = answers.recv().await
        {
            found.push((shard, stages));
        }
    };
    let _ = tokio::time::timeout(state.patience.scrape, collect).await;
    found.sort_by_key(|(shard, _)| *shard);
    found.dedup_by_key(|(shard, _)| *shard);
    found
}

fn own_rows(state: &AdminState) -> Vec<Row> {
    let traffic = &state.traffic;
    let items = |label, len: usize| {
        Row::gauge("ringpost_mailbox_items", "items waiting in a mailbox between threads", len as f64).labelled(label)
    };
    let room = |label, capacity: usize| {
        Row::gauge("ringpost_mailbox_capacity_items", "bound of that mailbox", capacity as f64).labelled(label)
    };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    vec![
        Row::gauge("ringpost_build_info", "the program's version", 1.0).labelled(concat!(
            "version=\"",
            env!("CARGO_PKG_VERSION"),
            "\""
        )),
        Row::gauge("ringpost_shards", "shards", state.shards.len() as f64),
        Row::gauge("ringpost_subscribers", "subscribers known", state.plane.subscribers().len() as f64),
        Row::gauge(
            "ringpost_subscribers_registered",
            "subscribers with a registration",
            state.plane.registered_count() as f64,
        ),
        items("mailbox=\"store\"", state.store.len()),
        items("mailbox=\"control\"", state.mailbox.len()),
        items("mailbox=\"spool\"", state.spool.mailbox.len()),
        room("mailbox=\"store\"", state.store.capacity()),
        room("mailbox=\"control\"", state.mailbox.capacity()),
        room("mailbox=\"spool\"", state.spool.mailbox.capacity()),
        Row::gauge("ringpost_control_jobs", "jobs of shards under way", state.plane.job_count() as f64),
        Row::gauge(
            "ringpost_control_outbox_items",
            "words to shards that wait for room in their mailboxes",
            state.plane.outbox_len() as f64,
        ),
        Row::gauge("ringpost_http_connections", "open HTTP connections", count(&traffic.open)),
        Row::counter(
            "ringpost_http_connections_refused_total",
            "HTTP connections refused because too many were open",
            count(&traffic.refused),
        ),
        Row::counter(
            "ringpost_http_connections_slow_total",
            "HTTP connections closed because their client took too long",
            count(&traffic.slow),
        ),
    ]
}

fn level_rows(levels: Levels) -> [Row; 5] {
    [
        Row::gauge("ringpost_store_deferred_messages", "messages in deferred queues", levels.deferred as f64),
        Row::gauge(
            "ringpost_store_deferred_bytes",
            "bytes of deferred requests and contents",
            levels.deferred_bytes as f64,
        ),
        Row::gauge("ringpost_store_message_objects", "objects in message stores", levels.messages as f64),
        Row::gauge("ringpost_store_history_objects", "objects in conversation histories", levels.history as f64),
        Row::gauge("ringpost_store_documents", "documents of the XCAP root", levels.documents as f64),
    ]
}
