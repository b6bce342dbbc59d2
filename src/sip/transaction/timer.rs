//! The timers of RFC 3261 §17: base values, table 4, and how a retransmission backs off.

use super::Reliability;
use crate::base::time::Instant;
use std::time::Duration;

/// Estimate of the round-trip time. RFC 3261 §17.1.1.1.
pub const T1: Duration = Duration::from_millis(500);
/// Longest retransmission interval of non-INVITE requests and INVITE responses. RFC 3261 §17.1.2.2.
pub const T2: Duration = Duration::from_secs(4);
/// Longest time a message stays in the network. RFC 3261 §17.1.2.2.
pub const T4: Duration = Duration::from_secs(5);
/// An INVITE not answered for this long is answered 100, which is to be there within 200 ms. RFC 3261 §17.2.1.
pub const INVITE_TRYING_DELAY: Duration = Duration::from_millis(150);

/// The base values of all timers, kept small because every machine carries its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timers {
    t1_ms: u16,
    t2_ms: u16,
    t4_ms: u16,
}

impl Timers {
    /// The values of the specification.
    ///
    /// RFC 3261 §17.
    pub const DEFAULT: Self = Self::new(T1, T2, T4);

    /// Other values, each between one millisecond and a minute; T2 is at least T1.
    ///
    /// RFC 3261 §17.
    pub const fn new(t1: Duration, t2: Duration, t4: Duration) -> Self {
        let t1_ms = clamp_ms(t1);
        let t2_ms = clamp_ms(t2);
        Self { t1_ms, t2_ms: if t2_ms < t1_ms { t1_ms } else { t2_ms }, t4_ms: clamp_ms(t4) }
    }

    /// T1.
    ///
    /// RFC 3261 §17.1.1.1.
    pub const fn t1(self) -> Duration {
        Duration::from_millis(self.t1_ms as u64)
    }

    /// T2.
    ///
    /// RFC 3261 §17.1.2.2.
    pub const fn t2(self) -> Duration {
        Duration::from_millis(self.t2_ms as u64)
    }

    /// T4.
    ///
    /// RFC 3261 §17.1.2.2.
    pub const fn t4(self) -> Duration {
        Duration::from_millis(self.t4_ms as u64)
    }

    /// Timers B, F, H, L and M: 64*T1, on any transport.
    ///
    /// RFC 3261 §17.1.1.2, RFC 6026 §8.4.
    pub const fn patience(self) -> Duration {
        Duration::from_millis(64 * self.t1_ms as u64)
    }

    /// Timer D: at least 32 seconds, because the server's Timer H may run on a longer T1 than ours.
    ///
    /// RFC 3261 §17.1.1.2.
    pub const fn timer_d(self, reliability: Reliability) -> Duration {
        match reliability {
            Reliability::Unreliable if self.patience().as_millis() > TIMER_D_MIN.as_millis() => self.patience(),
            Reliability::Unreliable => TIMER_D_MIN,
            Reliability::Reliable => Duration::ZERO,
        }
    }

    /// Timers I and K: T4, or nothing on a reliable transport.
    ///
    /// RFC 3261 §17.1.2.2, §17.2.1.
    pub const fn linger(self, reliability: Reliability) -> Duration {
        match reliability {
            Reliability::Unreliable => self.t4(),
            Reliability::Reliable => Duration::ZERO,
        }
    }

    /// Timer J: 64*T1, or nothing on a reliable transport.
    ///
    /// RFC 3261 §17.2.2.
    pub const fn timer_j(self, reliability: Reliability) -> Duration {
        match reliability {
            Reliability::Unreliable => self.patience(),
            Reliability::Reliable => Duration::ZERO,
        }
    }

    /// How long a client's Timer E takes to be reset to T2; a non-INVITE request is answered 100 no earlier than that
    /// over UDP, and then at the latest if there is no other answer. 3.5 seconds with the default values.
    ///
    /// RFC 4320 §4.1.
    pub const fn trying_delay(self) -> Duration {
        let mut elapsed_ms = self.t1_ms as u64;
        let mut interval_ms = self.t1_ms as u64;
        while interval_ms * 2 < self.t2_ms as u64 {
            interval_ms *= 2;
            elapsed_ms += interval_ms;
        }
        Duration::from_millis(elapsed_ms)
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Truncates to what a machine keeps; never zero, so that a timer that fires always moves on.
const fn clamp_ms(value: Duration) -> u16 {
    match value.as_millis() {
        0 => 1,
        1..=60_000 => value.as_millis() as u16,
        _ => 60_000,
    }
}

/// One deadline, or none: half the size of an `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) const NONE: Self = Self(Instant(u64::MAX));

    pub(super) fn after(span: Duration, now: Instant) -> Self {
        Self(now + span)
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        self != Self::NONE && self.0 <= now
    }

    pub(super) fn get(self) -> Option<Instant> {
        (self != Self::NONE).then_some(self.0)
    }
}

/// A timer that sends something again and again: A, E or G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retransmission {
    at: Deadline,
    interval_ms: u32,
}

impl Retransmission {
    pub(super) const OFF: Self = Self { at: Deadline::NONE, interval_ms: 0 };

    /// Starts with T1 on an unreliable transport; a reliable one retransmits by itself.
    pub(super) fn start(reliability: Reliability, timers: Timers, now: Instant) -> Self {
        match reliability {
            Reliability::Unreliable => {
                Self { at: Deadline::after(timers.t1(), now), interval_ms: u32::from(timers.t1_ms) }
            }
            Reliability::Reliable => Self::OFF,
        }
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        self.at.is_due(now)
    }

    pub(super) fn at(self) -> Option<Instant> {
        self.at.get()
    }

    /// Doubles the interval, up to `interval_max` if there is one.
    pub(super) fn back_off(&mut self, interval_max: Option<Duration>, now: Instant) {
        let doubled = Duration::from_millis(u64::from(self.interval_ms) * 2);
        self.again(interval_max.map_or(doubled, |longest| doubled.min(longest)), now);
    }

    /// Sets the next interval. The schedule follows from the deadline that fired, not from when that was noticed,
    /// unless it has fallen behind by a whole interval.
    pub(super) fn again(&mut self, interval: Duration, now: Instant) {
        debug_assert!(self.is_due(now), "only a timer that fired goes on");
        debug_assert!(!interval.is_zero());
        let next = self.at.0 + interval;
        self.at = if next > now { Deadline(next) } else { Deadline::after(interval, now) };
        self.interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    }
}

const TIMER_D_MIN: Duration = Duration::from_secs(32);

#[cfg(test)]
mod tests {
    use super::*;
    use Reliability::{Reliable, Unreliable};

    #[test]
    fn the_default_values_are_those_of_table_4() {
        let timers = Timers::default();
        assert_eq!((timers.t1(), timers.t2(), timers.t4()), (T1, T2, T4));
        assert_eq!(timers.patience(), Duration::from_secs(32));
        assert_eq!(timers.timer_d(Unreliable), Duration::from_secs(32));
        assert_eq!(timers.timer_j(Unreliable), Duration::from_secs(32));
        assert_eq!(timers.linger(Unreliable), Duration::from_secs(5));
        for zero in [timers.timer_d(Reliable), timers.timer_j(Reliable), timers.linger(Reliable)] {
            assert_eq!(zero, Duration::ZERO);
        }
    }

    #[test]
    fn a_hundred_for_other_methods_waits_until_timer_e_reaches_t2() {
        assert_eq!(Timers::DEFAULT.trying_delay(), Duration::from_millis(3_500));
        let quick = Timers::new(Duration::from_millis(10), Duration::from_millis(10), T4);
        assert_eq!(quick.trying_delay(), Duration::from_millis(10));
    }

    #[test]
    fn values_out_of_range_are_brought_into_it() {
        let timers = Timers::new(Duration::ZERO, Duration::ZERO, Duration::from_secs(3_600));
        assert_eq!(timers.t1(), Duration::from_millis(1));
        assert_eq!(timers.t2(), Duration::from_millis(1));
        assert_eq!(timers.t4(), Duration::from_secs(60));
    }

    #[test]
    fn a_short_t1_does_not_shorten_timer_d_below_32_seconds() {
        let timers = Timers::new(Duration::from_millis(10), T2, T4);
        assert_eq!(timers.timer_d(Unreliable), Duration::from_secs(32));
    }
}
