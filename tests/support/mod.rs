//! What the tests need to stand around a running appliance: the process itself, SIP and HTTP endpoints, documents.
//!
//! Nothing here touches the appliance's code. SIP is built and read by rsip, an independent codec; where rsip refuses
//! valid SIP (IPv6 references, `tel:` URIs, extension methods) the helpers fall back to plain text.

#![allow(dead_code, reason = "each test target uses its own part of the support")]

pub mod appliance;
pub mod dialog;
pub mod documents;
pub mod endpoint;
pub mod flood;
pub mod http;
pub mod large;
pub mod message;
pub mod msrp;
pub mod sdp;
pub mod world;

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Generous: machines that run tests are busy.
pub const DEADLINE: Duration = Duration::from_secs(25);

/// Looks until `look` finds something, and says `what` was missing when the deadline passes.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "within {DEADLINE:?}: {what}");
        // The only pause of the test suite: between two looks at a state that has no event to wait for.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Prints why a test did nothing, so that a run with gaps is not mistaken for a full one.
pub fn skip(reason: &str) {
    use std::io::Write;
    // Straight to the terminal: the test harness captures the print macros of a passing test.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
