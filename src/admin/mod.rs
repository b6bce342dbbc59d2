//! HTTP: the XCAP root, the admin API, metrics and health.
//!
//! Owns methods, paths, headers, status codes and the patience with clients. Refuses to know what a document means
//! and how a change is made durable: that is `control`. No authentication: the listening address is the protection.
//!
//! Doors: [`serve::run`] for the control thread, [`state::AdminState`] for what it serves.
//! Specifications: RFC 4825 (XCAP), RFC 9110 (HTTP), Prometheus text format 0.0.4.

mod answer;
pub mod serve;
pub mod state;
mod status;
#[cfg(test)]
mod tests;
mod users;
mod xcap;
