//! The main job in one command: `ringpost demo`.
//!
//! Starts the real appliance as a child process on loopback, plays the SIP/IP core, an interworking selection function
//! and senders around it over real sockets, and walks through everything a pager mode message can meet, then sends large messages over MSRP. It shares no SIP
//! code with the appliance (its codec is rsip), so that a bug there cannot cancel itself out.
//!
//! Door: [`run`].

mod appliance;
mod documents;
mod endpoint;
mod http;
mod ladder;
mod large;
mod message;
mod msrp;
mod scene;
mod sip_core;
mod steps;

use std::process::ExitCode;

/// Walks through all steps; success only if every one passed.
pub fn run() -> ExitCode {
    steps::run()
}
