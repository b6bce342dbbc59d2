//! The durable store: SQLite behind one writer thread with group commit.
//!
//! Owns the deferred queue, the message store, the conversation history, registrations, availability and XCAP
//! documents on disk, and the content store of large bodies. Executes [`crate::participating::storage::Command`]s and
//! decides nothing; refuses to know SIP, shards and XML. An answer leaves only after the commit that made it durable.
//! Doors: [`Store::open`] gives a store and the [`Image`] that a restart reads back, [`Store::start`] gives it a thread
//! and a [`mailbox`], [`StoreThread::stop`] ends it in order. Formats: RFC 2017 and RFC 2046 for references to large
//! parts, RFC 3862 to find them.

mod content;
mod deferred;
mod engine;
mod failure;
mod ids;
mod ledger;
mod messages;
mod metrics;
mod mime;
mod open;
mod schema;
mod subscribers;
mod writer;

#[cfg(test)]
mod durability;
#[cfg(test)]
mod fixture;

pub use metrics::StoreMetrics;
pub use open::{Image, OpenError, Options, Store};
pub use writer::{Answers, StoreThread, mailbox};
