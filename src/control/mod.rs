//! The control plane: who the subscribers are, and everything that changes them.
//!
//! Owns the lock-free directory that shards read, registrations, the documents of the XCAP root, and name resolution.
//! Refuses to know HTTP (that is `admin`), SQL (that is `store`, reached through its mailbox) and XML (that is
//! `documents`). Doors: [`subscribers::Subscribers`] for readers, [`plane::ControlPlane`] for everything else.

pub mod outbox;
pub mod plane;
pub mod precondition;
pub mod registrar;
pub mod resolver;
pub mod spool;
pub mod subscribers;
#[cfg(test)]
pub(crate) mod testing;
pub mod turns;
pub mod xcap;
