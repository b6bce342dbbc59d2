//! Coarse deadlines of connections: a wheel of quarter seconds.
//!
//! Precise timers are the core's. Deadlines here fire late by up to a tick and are never taken back: whoever is named
//! looks whether something is due and, if it is too early, asks again.

use crate::base::time::Instant;
use std::time::Duration;

/// Deadlines and who asked for them.
pub(super) struct Deadlines<T> {
    ticks: Vec<Vec<T>>,
    /// Every tick up to this one has fired.
    fired: u64,
    /// The earliest tick that holds something.
    next: Option<u64>,
}

/// How late a deadline may fire.
pub(super) const TICK: Duration = Duration::from_millis(250);
const TICK_NS: u64 = TICK.as_nanos() as u64;
const TICK_COUNT: u64 = 2048;

impl<T> Deadlines<T> {
    /// No deadlines, from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        Self { ticks: (0..TICK_COUNT).map(|_| Vec::new()).collect(), fired: now.0 / TICK_NS, next: None }
    }

    /// Fires at `at` or up to a tick later; a moment beyond the wheel fires early, at its end.
    pub(super) fn schedule(&mut self, at: Instant, whose: T) {
        let tick = at.0.div_ceil(TICK_NS).clamp(self.fired + 1, self.fired + TICK_COUNT - 1);
        self.ticks[(tick % TICK_COUNT) as usize].push(whose);
        self.next = Some(self.next.map_or(tick, |next| next.min(tick)));
    }

    /// When something fires next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.map(|tick| Instant(tick * TICK_NS))
    }

    /// Takes out everything that is due.
    pub(super) fn fire(&mut self, now: Instant, due: &mut Vec<T>) {
        let current = now.0 / TICK_NS;
        if self.next.is_none_or(|next| next > current) {
            return;
        }
        for tick in (self.fired + 1)..=current.min(self.fired + TICK_COUNT) {
            due.append(&mut self.ticks[(tick % TICK_COUNT) as usize]);
        }
        self.fired = current;
        self.next =
            (current + 1..current + TICK_COUNT).find(|tick| !self.ticks[(tick % TICK_COUNT) as usize].is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_deadline_fires_in_time_and_once() {
        let mut deadlines = Deadlines::new(at(0));
        deadlines.schedule(at(300), 'a');
        deadlines.schedule(at(10_000), 'b');
        assert_eq!(deadlines.next(), Some(at(500)));
        let mut due = Vec::new();
        deadlines.fire(at(499), &mut due);
        assert!(due.is_empty());
        deadlines.fire(at(500), &mut due);
        assert_eq!(due, ['a']);
        assert_eq!(deadlines.next(), Some(at(10_000)));
        deadlines.fire(at(60_000), &mut due);
        assert_eq!(due, ['a', 'b']);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn the_past_fires_at_the_next_tick_and_the_far_future_at_the_end_of_the_wheel() {
        let mut deadlines = Deadlines::new(at(10_000));
        deadlines.schedule(at(0), 'p');
        deadlines.schedule(at(100_000_000), 'f');
        let mut due = Vec::new();
        deadlines.fire(at(10_250), &mut due);
        assert_eq!(due, ['p']);
        let end = deadlines.next().unwrap();
        assert!(end <= at(10_000) + TICK * TICK_COUNT as u32);
        deadlines.fire(end, &mut due);
        assert_eq!(due, ['p', 'f']);
    }

    #[test]
    fn a_long_sleep_fires_everything() {
        let mut deadlines = Deadlines::new(at(0));
        for second in 1..400 {
            deadlines.schedule(at(second * 1000), second);
        }
        let mut due = Vec::new();
        deadlines.fire(at(100_000_000), &mut due);
        assert_eq!(due.len(), 399);
        deadlines.schedule(at(100_000_100), 0);
        assert_eq!(deadlines.next(), Some(at(100_000_250)));
    }
}
