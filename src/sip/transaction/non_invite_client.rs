//! Non-INVITE client transaction: Figure 6.

use super::timer::{Deadline, Retransmission, Timers};
use super::{Action, Reliability, Send, Tell};
use crate::base::time::Instant;

/// The states of Figure 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The request went out.
    Trying,
    /// A provisional response came.
    Proceeding,
    /// The final response came; its retransmissions are absorbed.
    Completed,
    /// Nothing is left to do.
    Terminated,
}

/// What moves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A 1xx came.
    Provisional,
    /// A response of 200 to 699 came.
    Final,
    /// It is time to send the request again.
    TimerE,
    /// No final response came in time.
    TimerF,
    /// No retransmission of the final response is expected any more.
    TimerK,
    /// The transport could not deliver the request.
    TransportError,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Trying, Self::Proceeding, Self::Completed, Self::Terminated];

    /// Follows one arrow of Figure 6; `None` where the figure draws none.
    ///
    /// Responses in Completed have no arrow: they are absorbed.
    ///
    /// RFC 3261 §17.1.2.2.
    pub const fn next(self, event: Event) -> Option<Self> {
        use {Event::*, State::*};
        Some(match (self, event) {
            (Trying, TimerE) => Trying,
            (Trying | Proceeding, Provisional) => Proceeding,
            (Proceeding, TimerE) => Proceeding,
            (Trying | Proceeding, Final) => Completed,
            (Trying | Proceeding, TimerF | TransportError) => Terminated,
            (Completed, TimerK) => Terminated,
            _ => return None,
        })
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 6] =
        [Self::Provisional, Self::Final, Self::TimerE, Self::TimerF, Self::TimerK, Self::TransportError];
}

/// A non-INVITE client transaction. Whoever makes it sends the request at once.
#[derive(Clone, Copy, Debug)]
pub struct NonInviteClient {
    state: State,
    reliability: Reliability,
    timers: Timers,
    timer_e: Retransmission,
    /// Timer F, in Completed Timer K.
    deadline: Deadline,
}

impl NonInviteClient {
    /// A transaction for a request sent at `now` over a transport of this reliability.
    ///
    /// RFC 3261 §17.1.2.2.
    pub fn new(reliability: Reliability, now: Instant) -> Self {
        Self::with_timers(reliability, Timers::DEFAULT, now)
    }

    /// A transaction with its own base values.
    ///
    /// RFC 3261 §17.1.2.2.
    pub fn with_timers(reliability: Reliability, timers: Timers, now: Instant) -> Self {
        Self {
            state: State::Trying,
            reliability,
            timers,
            timer_e: Retransmission::start(reliability, timers, now),
            deadline: Deadline::after(timers.patience(), now),
        }
    }

    /// A response came that matches the transaction.
    ///
    /// RFC 3261 §17.1.2.2.
    pub fn on_response(&mut self, status: u16, now: Instant) -> Action {
        if status < 200 {
            let known = self.follow(Event::Provisional);
            return if known { Action::tell(Tell::Provisional) } else { Action::NONE };
        }
        if !self.follow(Event::Final) {
            return Action::NONE;
        }
        self.timer_e = Retransmission::OFF;
        self.deadline = Deadline::NONE;
        let linger = self.timers.linger(self.reliability);
        if linger.is_zero() {
            self.follow(Event::TimerK);
        } else {
            self.deadline = Deadline::after(linger, now);
        }
        self.check_invariants();
        Action::tell(Tell::Final).ended(self.state == State::Terminated)
    }

    /// The transport could not deliver the request.
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
    /// RFC 3261 §17.1.2.2.
    pub fn handle_timeout(&mut self, now: Instant) -> Action {
        if self.deadline.is_due(now) {
            let tell = if self.state == State::Completed { Tell::Nothing } else { Tell::TimedOut };
            let ended = self.follow(Event::TimerF) || self.follow(Event::TimerK);
            debug_assert!(ended, "a deadline belongs to a state with an arrow for it");
            self.stop();
            return Action::tell(tell).ended(true);
        }
        if !self.timer_e.is_due(now) {
            return Action::NONE;
        }
        let again = self.follow(Event::TimerE);
        debug_assert!(again, "Timer E runs in Trying and Proceeding only");
        match self.state {
            State::Proceeding => self.timer_e.again(self.timers.t2(), now),
            _ => self.timer_e.back_off(Some(self.timers.t2()), now),
        }
        self.check_invariants();
        Action::send(Send::Request)
    }

    /// The next deadline and whose it is.
    ///
    /// RFC 3261 §17.1.2.2.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let end = self.deadline.get()?;
        match self.timer_e.at() {
            Some(again) if again < end => Some((again, "timer E")),
            _ if self.state == State::Completed => Some((end, "timer K")),
            _ => Some((end, "timer F")),
        }
    }

    /// Where the machine stands.
    ///
    /// RFC 3261 §17.1.2.2.
    pub const fn state(&self) -> State {
        self.state
    }

    fn stop(&mut self) {
        self.timer_e = Retransmission::OFF;
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
        let live = self.state != State::Terminated;
        debug_assert_eq!(self.deadline != Deadline::NONE, live, "a live client transaction ends by a timer");
        let waits = matches!(self.state, State::Trying | State::Proceeding);
        debug_assert!(waits || self.timer_e == Retransmission::OFF, "an answered request is not sent again");
    }
}

const _: () = assert!(size_of::<NonInviteClient>() <= 32);

#[cfg(test)]
mod tests {
    use super::*;
    use Reliability::{Reliable, Unreliable};
    use std::time::Duration;

    const START: Instant = Instant(7_000_000_000);

    fn after(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    /// Runs the machine on its own deadlines and notes when it does what, in milliseconds.
    fn run(client: &mut NonInviteClient) -> Vec<(u64, Action)> {
        let mut seen = Vec::new();
        while let Some((at, _)) = client.poll_timeout() {
            seen.push((at.since(START).as_millis() as u64, client.handle_timeout(at)));
            assert!(client.poll_timeout().is_none_or(|(next, _)| next > at), "firing moves on");
        }
        seen
    }

    #[test]
    fn an_unanswered_request_is_sent_eleven_times_and_then_timed_out() {
        let mut client = NonInviteClient::new(Unreliable, START);
        let mut seen = run(&mut client);
        assert_eq!(seen.pop(), Some((32_000, Action::tell(Tell::TimedOut).ended(true))));
        let times: Vec<u64> = seen.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        assert!(seen.iter().all(|(_, action)| *action == Action::send(Send::Request)));
        assert_eq!(client.state(), State::Terminated);
    }

    #[test]
    fn a_provisional_response_slows_retransmission_down_to_t2() {
        let mut client = NonInviteClient::new(Unreliable, START);
        assert_eq!(client.on_response(100, after(100)), Action::tell(Tell::Provisional));
        let times: Vec<u64> = run(&mut client).iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [500, 4_500, 8_500, 12_500, 16_500, 20_500, 24_500, 28_500, 32_000]);
    }

    #[test]
    fn a_stream_is_not_sent_to_twice_but_times_out_as_well() {
        let mut client = NonInviteClient::new(Reliable, START);
        assert_eq!(client.poll_timeout(), Some((after(32_000), "timer F")));
        assert_eq!(run(&mut client), [(32_000, Action::tell(Tell::TimedOut).ended(true))]);
    }

    #[test]
    fn the_final_response_goes_up_once_and_timer_k_ends_it() {
        let mut client = NonInviteClient::new(Unreliable, START);
        assert_eq!(client.on_response(200, after(20)), Action::tell(Tell::Final));
        assert_eq!(client.on_response(200, after(30)), Action::NONE);
        assert_eq!(client.on_response(100, after(40)), Action::NONE);
        assert_eq!(client.poll_timeout(), Some((after(5_020), "timer K")));
        assert_eq!(client.handle_timeout(after(5_020)), Action::NONE.ended(true));
    }

    #[test]
    fn timer_k_is_zero_on_a_stream() {
        let mut client = NonInviteClient::new(Reliable, START);
        assert_eq!(client.on_response(404, after(20)), Action::tell(Tell::Final).ended(true));
        assert_eq!(client.poll_timeout(), None);
    }

    #[test]
    fn a_transport_error_ends_it_unless_it_is_answered_already() {
        let mut client = NonInviteClient::new(Unreliable, START);
        assert_eq!(client.on_transport_error(), Action::tell(Tell::TransportError).ended(true));
        let mut answered = NonInviteClient::new(Unreliable, START);
        let _ = answered.on_response(200, after(1));
        assert_eq!(answered.on_transport_error(), Action::NONE);
        assert_eq!(answered.state(), State::Completed);
    }

    #[test]
    fn a_late_turn_retransmits_once_and_keeps_the_schedule() {
        let mut client = NonInviteClient::new(Unreliable, START);
        assert_eq!(client.handle_timeout(after(503)), Action::send(Send::Request));
        assert_eq!(client.poll_timeout(), Some((after(1_500), "timer E")));
        assert_eq!(client.handle_timeout(after(9_000)), Action::send(Send::Request));
        assert_eq!(client.poll_timeout(), Some((after(11_000), "timer E")), "the schedule had fallen behind");
    }

    #[test]
    fn a_turn_after_everything_was_due_only_ends_the_transaction() {
        let mut client = NonInviteClient::new(Unreliable, START);
        assert_eq!(client.handle_timeout(after(40_000)), Action::tell(Tell::TimedOut).ended(true));
        assert_eq!(client.handle_timeout(after(50_000)), Action::NONE);
    }
}
