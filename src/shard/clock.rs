//! The only reader of the operating system's clocks on the data path.

use crate::base::time::{Instant, Now, UnixMillis};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// The monotonic clock. Every thread sees the same origin: the first reading of the process.
pub fn instant() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    Instant::ZERO + START.get_or_init(std::time::Instant::now).elapsed()
}

/// Both clocks.
pub fn now() -> Now {
    let wall = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => millis(since),
        Err(before) => -millis(before.duration()),
    };
    Now { at: instant(), wall: UnixMillis(wall) }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let earlier = now();
        let later = std::thread::spawn(now).join().unwrap();
        assert!(later.at >= earlier.at, "threads share one origin");
        assert!(earlier.wall.seconds() > 1_700_000_000);
    }
}
