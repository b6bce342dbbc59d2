//! MSRP: chunks on connections, sessions with two sides, and what passes between them.
//!
//! Owns framing, heads, paths, transactions, reports, binding, egress order and back-pressure. Refuses to know SIP, SDP,
//! sockets, disks and clocks: bytes come in as borrowed slices, what leaves is taken out by the shard, everything rarer
//! than a chunk is an [`effect::MediaEffect`] or an event.
//!
//! Specifications: RFC 4975, RFC 4976 (path handling), RFC 6135, RFC 6714; SPEC §4.

mod bridge;
pub mod byte_range;
mod connection;
pub mod effect;
mod egress;
mod ending;
pub mod framer;
pub mod head;
mod ingress;
mod joining;
mod local;
pub mod news;
mod own_tid;
mod pending;
pub mod relay;
mod repeat;
mod report;
mod session;
pub mod settings;
pub mod status;
#[cfg(test)]
mod tests;
mod timers;
pub mod uri;
pub mod write;
