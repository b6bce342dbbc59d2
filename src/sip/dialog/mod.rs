//! Dialogs: identifiers, route sets, sequence numbers, session timers.
//!
//! Owns what a peer-to-peer relation between two user agents keeps between its messages, and the head of requests inside
//! it. Refuses to know transactions, media and the other leg. Doors: [`Dialog`], [`DialogId`], [`RouteSet`],
//! [`session_timer`].
//!
//! Specifications: RFC 3261 §12, RFC 4028.

mod id;
mod route_set;
pub mod session_timer;
mod state;

pub use id::{DialogFault, DialogId};
pub use route_set::{Order, RouteSet};
pub use state::{Dialog, InDialog};
