//! INVITE client transaction: Figure 5, with the Accepted state of RFC 6026.

use super::timer::{Deadline, Retransmission, Timers};
use super::{Action, Reliability, Send, Tell};
use crate::base::time::Instant;

/// The states of Figure 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The INVITE went out.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A response of 300 to 699 came and was acknowledged.
    Completed,
    /// A 2xx came; others may follow from other branches.
    Accepted,
    /// Nothing is left to do.
    Terminated,
}

/// What moves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A 1xx came.
    Provisional,
    /// A 2xx came.
    Success,
    /// A response of 300 to 699 came.
    Failure,
    /// It is time to send the INVITE again.
    TimerA,
    /// No response came in time.
    TimerB,
    /// No retransmission of the 300 to 699 is expected any more.
    TimerD,
    /// No further 2xx is expected.
    TimerM,
    /// The transport could not deliver the INVITE or the ACK.
    TransportError,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Calling, Self::Proceeding, Self::Completed, Self::Accepted, Self::Terminated];

    /// Follows one arrow of Figure 5; `None` where the figure draws none.
    ///
    /// RFC 3261 §17.1.1.2, RFC 6026 §7.2.
    pub const fn next(self, event: Event) -> Option<Self> {
        use {Event::*, State::*};
        Some(match (self, event) {
            (Calling, TimerA) => Calling,
            (Calling, TimerB | TransportError) => Terminated,
            (Calling | Proceeding, Provisional) => Proceeding,
            (Calling | Proceeding, Success) => Accepted,
            (Calling | Proceeding, Failure) => Completed,
            (Completed, Failure) => Completed,
            (Completed, TimerD | TransportError) => Terminated,
            (Accepted, Success) => Accepted,
            (Accepted, TimerM) => Terminated,
            _ => return None,
        })
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 8] = [
        Self::Provisional,
        Self::Success,
        Self::Failure,
        Self::TimerA,
        Self::TimerB,
        Self::TimerD,
        Self::TimerM,
        Self::TransportError,
    ];
}

/// An INVITE client transaction. Whoever makes it sends the INVITE at once.
///
/// In Proceeding it waits without a limit: the transaction user's Timer C or its patience ends that (RFC 3261 §16.6).
#[derive(Clone, Copy, Debug)]
pub struct InviteClient {
    state: State,
    reliability: Reliability,
    timers: Timers,
    timer_a: Retransmission,
    /// Timer B, D or M.
    deadline: Deadline,
}

impl InviteClient {
    /// A transaction for an INVITE sent at `now` over a transport of this reliability.
    ///
    /// RFC 3261 §17.1.1.2.
    pub fn new(reliability: Reliability, now: Instant) -> Self {
        Self::with_timers(reliability, Timers::DEFAULT, now)
    }

    /// A transaction with its own base values.
    ///
    /// RFC 3261 §17.1.1.2.
    pub fn with_timers(reliability: Reliability, timers: Timers, now: Instant) -> Self {
        Self {
            state: State::Calling,
            reliability,
            timers,
            timer_a: Retransmission::start(reliability, timers, now),
            deadline: Deadline::after(timers.patience(), now),
        }
    }

    /// A response came that matches the transaction. The machine acknowledges 300 to 699 itself, each time it comes;
    /// a 2xx is the transaction user's to acknowledge.
    ///
    /// RFC 3261 §17.1.1.2, RFC 6026 §7.2.
    pub fn on_response(&mut self, status: u16, now: Instant) -> Action {
        let event = match status {
            ..200 => Event::Provisional,
            200..300 => Event::Success,
            300.. => Event::Failure,
        };
        let before = self.state;
        if !self.follow(event) {
            return Action::NONE;
        }
        let moved = before != self.state;
        if moved {
            self.timer_a = Retransmission::OFF;
            self.deadline = Deadline::NONE;
        }
        let action = match event {
            Event::Provisional => Action::tell(Tell::Provisional),
            Event::Success => {
                if moved {
                    self.deadline = Deadline::after(self.timers.patience(), now);
                }
                Action::tell(Tell::Success)
            }
            _ if moved => {
                let linger = self.timers.timer_d(self.reliability);
                if linger.is_zero() {
                    self.follow(Event::TimerD);
                } else {
                    self.deadline = Deadline::after(linger, now);
                }
                Action::send(Send::Ack).and_tell(Tell::Final)
            }
            _ => Action::send(Send::Ack),
        };
        self.check_invariants();
        action.ended(self.state == State::Terminated)
    }

    /// The transport could not deliver the INVITE or the ACK.
    ///
    /// RFC 3261 §17.1.4.
    pub fn on_transport_error(&mut self) -> Action {
        if !self.follow(Event::TransportError) {
            return Action::NONE;
        }
        self.stop();
        Action::tell(Tell::TransportError).ended(true)
    }

    /// Does what is due at `now`. An end that is due comes before a retransmission that is due.
    ///
    /// RFC 3261 §17.1.1.2.
    pub fn handle_timeout(&mut self, now: Instant) -> Action {
        if self.deadline.is_due(now) {
            let tell = if self.state == State::Calling { Tell::TimedOut } else { Tell::Nothing };
            let ended = self.follow(Event::TimerB) || self.follow(Event::TimerD) || self.follow(Event::TimerM);
            debug_assert!(ended, "a deadline belongs to a state with an arrow for it");
            self.stop();
            return Action::tell(tell).ended(true);
        }
        if !self.timer_a.is_due(now) {
            return Action::NONE;
        }
        let again = self.follow(Event::TimerA);
        debug_assert!(again, "Timer A runs in Calling only");
        self.timer_a.back_off(None, now);
        self.check_invariants();
        Action::send(Send::Request)
    }

    /// The next deadline and whose it is.
    ///
    /// RFC 3261 §17.1.1.2.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let end = self.deadline.get()?;
        match (self.timer_a.at(), self.state) {
            (Some(again), _) if again < end => Some((again, "timer A")),
            (_, State::Completed) => Some((end, "timer D")),
            (_, State::Accepted) => Some((end, "timer M")),
            _ => Some((end, "timer B")),
        }
    }

    /// Where the machine stands.
    ///
    /// RFC 3261 §17.1.1.2.
    pub const fn state(&self) -> State {
        self.state
    }

    fn stop(&mut self) {
        self.timer_a = Retransmission::OFF;
        self.deadline = Deadline::NONE;
        self.check_invariants();
    }

    /// Takes an arrow, if there is one.
    const fn follow(&mut self, event: Event) -> bool {
        match self.state.next(event) {
            Some(next) => {
                self.state = next;
                true
            }
            None => false,
        }
    }

    fn check_invariants(&self) {
        let timed = !matches!(self.state, State::Proceeding | State::Terminated);
        debug_assert_eq!(self.deadline != Deadline::NONE, timed);
        debug_assert!(self.state == State::Calling || self.timer_a == Retransmission::OFF);
    }
}

const _: () = assert!(size_of::<InviteClient>() <= 32);

#[cfg(test)]
mod tests {
    use super::*;
    use Reliability::{Reliable, Unreliable};
    use std::time::Duration;

    const START: Instant = Instant(3_000_000_000);

    fn after(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    fn run(client: &mut InviteClient) -> Vec<(u64, Action)> {
        let mut seen = Vec::new();
        while let Some((at, _)) = client.poll_timeout() {
            seen.push((at.since(START).as_millis() as u64, client.handle_timeout(at)));
            assert!(client.poll_timeout().is_none_or(|(next, _)| next > at), "firing moves on");
        }
        seen
    }

    #[test]
    fn an_unanswered_invite_is_sent_seven_times_with_doubling_intervals() {
        let mut client = InviteClient::new(Unreliable, START);
        let mut seen = run(&mut client);
        assert_eq!(seen.pop(), Some((32_000, Action::tell(Tell::TimedOut).ended(true))));
        let times: Vec<u64> = seen.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
        assert!(seen.iter().all(|(_, action)| *action == Action::send(Send::Request)));
    }

    #[test]
    fn a_stream_only_waits_for_timer_b() {
        let mut client = InviteClient::new(Reliable, START);
        assert_eq!(client.poll_timeout(), Some((after(32_000), "timer B")));
        assert_eq!(run(&mut client), [(32_000, Action::tell(Tell::TimedOut).ended(true))]);
    }

    #[test]
    fn a_provisional_response_stops_both_timers() {
        let mut client = InviteClient::new(Unreliable, START);
        assert_eq!(client.on_response(100, after(10)), Action::tell(Tell::Provisional));
        assert_eq!(client.on_response(180, after(20)), Action::tell(Tell::Provisional));
        assert_eq!((client.state(), client.poll_timeout()), (State::Proceeding, None));
        assert_eq!(client.on_transport_error(), Action::NONE);
    }

    #[test]
    fn a_failure_is_acknowledged_each_time_it_comes_and_told_once() {
        let mut client = InviteClient::new(Unreliable, START);
        assert_eq!(client.on_response(486, after(10)), Action::send(Send::Ack).and_tell(Tell::Final));
        assert_eq!(client.on_response(486, after(510)), Action::send(Send::Ack));
        assert_eq!(client.on_response(180, after(520)), Action::NONE);
        assert_eq!(client.on_response(200, after(530)), Action::NONE);
        assert_eq!(client.poll_timeout(), Some((after(32_010), "timer D")));
        assert_eq!(client.handle_timeout(after(32_010)), Action::NONE.ended(true));
    }

    #[test]
    fn timer_d_is_zero_on_a_stream() {
        let mut client = InviteClient::new(Reliable, START);
        let expected = Action::send(Send::Ack).and_tell(Tell::Final).ended(true);
        assert_eq!(client.on_response(603, after(10)), expected);
        assert_eq!(client.poll_timeout(), None);
    }

    #[test]
    fn every_2xx_goes_up_unacknowledged_until_timer_m() {
        for reliability in [Unreliable, Reliable] {
            let mut client = InviteClient::new(reliability, START);
            let _ = client.on_response(183, after(5));
            assert_eq!(client.on_response(200, after(10)), Action::tell(Tell::Success));
            assert_eq!(client.on_response(200, after(600)), Action::tell(Tell::Success));
            assert_eq!(client.on_response(404, after(700)), Action::NONE);
            assert_eq!(client.poll_timeout(), Some((after(32_010), "timer M")), "64*T1 on any transport");
            assert_eq!(client.handle_timeout(after(32_010)), Action::NONE.ended(true));
        }
    }

    #[test]
    fn an_ack_that_cannot_be_delivered_ends_it() {
        let mut client = InviteClient::new(Unreliable, START);
        let _ = client.on_response(500, after(10));
        assert_eq!(client.on_transport_error(), Action::tell(Tell::TransportError).ended(true));
        assert_eq!(client.poll_timeout(), None);
    }
}
