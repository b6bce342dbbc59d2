//! The per-core worker: one thread, one ring, its sockets, and the core behind them.
//!
//! Owns sockets, streams, MSRP connections, deadlines of connections and the clock; carries out the core's effects and
//! feeds it what happens. Refuses to know SIP beyond message boundaries, and MSRP. A shard waits for nothing but its ring: other threads put
//! [`Mail`] into its bounded mailbox and raise its eventfd only when it sleeps.
//!
//! A panic in this room, in `uring` or in a core that does not contain its own aborts the process: the kernel may own
//! buffers of the thread at any moment, and restarting is the tested way to recover.
//!
//! Doors: [`bind`] and [`bind_media`]; [`spawn`] and [`Plan`]; [`Core`], what is driven; [`Doors`], how other threads reach the shards.

pub mod clock;
mod connections;
mod core;
mod deadlines;
mod doors;
mod event_loop;
mod inbound;
mod media;
mod outbound;
mod streams;
mod thread;

pub use self::core::Core;
pub use crate::uring::socket::{BindError, ListenerSockets, MediaListener, bind, bind_media};
pub use doors::{Doors, Mail};
pub use thread::{Plan, ShardThread, spawn};
