//! Non-INVITE server transaction: Figure 8.

use super::timer::{Deadline, Timers};
use super::{Action, Reliability, Send, Tell};
use crate::base::time::Instant;

/// The states of Figure 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The transaction user has the request.
    Trying,
    /// A provisional response went out.
    Proceeding,
    /// The final response went out.
    Completed,
    /// Nothing is left to do.
    Terminated,
}

/// What moves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The request came once more.
    Request,
    /// The transaction user gives a 1xx.
    SendProvisional,
    /// The transaction user gives a final response.
    SendFinal,
    /// No retransmission is expected any more.
    TimerJ,
    /// The transport could not deliver a response.
    TransportError,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Trying, Self::Proceeding, Self::Completed, Self::Terminated];

    /// Follows one arrow of Figure 8; `None` where the figure draws none.
    ///
    /// A final response in Completed has no arrow: it is discarded.
    ///
    /// RFC 3261 §17.2.2, erratum 1470.
    pub const fn next(self, event: Event) -> Option<Self> {
        use {Event::*, State::*};
        Some(match (self, event) {
            (Trying, Request) => Trying,
            (Trying | Proceeding, SendProvisional) => Proceeding,
            (Trying | Proceeding, SendFinal) => Completed,
            (Proceeding, Request) => Proceeding,
            (Completed, Request) => Completed,
            (Completed, TimerJ) => Terminated,
            (Proceeding | Completed, TransportError) => Terminated,
            _ => return None,
        })
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 5] =
        [Self::Request, Self::SendProvisional, Self::SendFinal, Self::TimerJ, Self::TransportError];
}

/// A non-INVITE server transaction. The first request has been passed to the transaction user by whoever made it.
#[derive(Clone, Copy, Debug)]
pub struct NonInviteServer {
    state: State,
    reliability: Reliability,
    timers: Timers,
    /// In Trying, when a 100 is due; in Completed, Timer J.
    deadline: Deadline,
}

impl NonInviteServer {
    /// A transaction for a request that came over a transport of this reliability.
    ///
    /// RFC 3261 §17.2.2.
    pub const fn new(reliability: Reliability) -> Self {
        Self::with_timers(reliability, Timers::DEFAULT)
    }

    /// A transaction with its own base values.
    ///
    /// RFC 3261 §17.2.2.
    pub const fn with_timers(reliability: Reliability, timers: Timers) -> Self {
        Self { state: State::Trying, reliability, timers, deadline: Deadline::NONE }
    }

    /// Asks to be told when a 100 is due for a request received at `now` that is still unanswered then.
    ///
    /// RFC 4320 §4.1.
    #[must_use]
    pub fn with_trying(mut self, now: Instant) -> Self {
        debug_assert_eq!(self.state, State::Trying);
        self.deadline = Deadline::after(self.timers.trying_delay(), now);
        self
    }

    /// The request came once more: answered from memory, never by the transaction user.
    ///
    /// RFC 3261 §17.2.2.
    pub fn on_request(&mut self, _now: Instant) -> Action {
        let send = match self.state {
            State::Proceeding | State::Completed => Send::Response,
            State::Trying | State::Terminated => Send::Nothing,
        };
        self.follow(Event::Request);
        Action::send(send)
    }

    /// The transaction user gives a response. One that the state has no room for is discarded.
    ///
    /// RFC 3261 §17.2.2.
    pub fn on_send_response(&mut self, status: u16, now: Instant) -> Action {
        debug_assert!((100..700).contains(&status));
        let event = if status < 200 { Event::SendProvisional } else { Event::SendFinal };
        if !self.follow(event) {
            return Action::NONE;
        }
        self.deadline = Deadline::NONE;
        if self.state == State::Completed {
            let linger = self.timers.timer_j(self.reliability);
            if linger.is_zero() {
                self.follow(Event::TimerJ);
            } else {
                self.deadline = Deadline::after(linger, now);
            }
        }
        self.check_invariants();
        Action::send(Send::Response).ended(self.state == State::Terminated)
    }

    /// The transport could not deliver a response.
    ///
    /// RFC 3261 §17.2.4.
    pub fn on_transport_error(&mut self) -> Action {
        if !self.follow(Event::TransportError) {
            return Action::NONE;
        }
        self.deadline = Deadline::NONE;
        self.check_invariants();
        Action::tell(Tell::TransportError).ended(true)
    }

    /// Does what is due at `now`.
    ///
    /// RFC 3261 §17.2.2.
    pub fn handle_timeout(&mut self, now: Instant) -> Action {
        if !self.deadline.is_due(now) {
            return Action::NONE;
        }
        self.deadline = Deadline::NONE;
        let action = if self.follow(Event::TimerJ) {
            Action::NONE.ended(true)
        } else {
            debug_assert_eq!(self.state, State::Trying);
            Action::tell(Tell::TryingDue)
        };
        self.check_invariants();
        action
    }

    /// The next deadline and whose it is.
    ///
    /// RFC 3261 §17.2.2.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let name = if self.state == State::Completed { "timer J" } else { "non-INVITE 100" };
        self.deadline.get().map(|at| (at, name))
    }

    /// Where the machine stands.
    ///
    /// RFC 3261 §17.2.2.
    pub const fn state(&self) -> State {
        self.state
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
        match self.state {
            State::Trying => {}
            State::Completed => debug_assert!(self.deadline != Deadline::NONE, "Completed ends by Timer J"),
            State::Proceeding | State::Terminated => debug_assert!(self.deadline == Deadline::NONE),
        }
    }
}

const _: () = assert!(size_of::<NonInviteServer>() <= 16);

#[cfg(test)]
mod tests {
    use super::*;
    use Reliability::{Reliable, Unreliable};
    use std::time::Duration;

    const START: Instant = Instant(1_000_000_000);

    fn after(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    #[test]
    fn a_retransmission_before_any_response_is_absorbed() {
        let mut server = NonInviteServer::new(Unreliable);
        assert_eq!(server.on_request(START), Action::NONE);
        assert_eq!((server.state(), server.poll_timeout()), (State::Trying, None));
    }

    #[test]
    fn a_retransmission_is_answered_with_the_last_response() {
        let mut server = NonInviteServer::new(Unreliable);
        assert_eq!(server.on_send_response(100, START), Action::send(Send::Response));
        assert_eq!(server.on_request(after(1)), Action::send(Send::Response));
        assert_eq!(server.on_send_response(200, after(2)), Action::send(Send::Response));
        assert_eq!(server.on_request(after(3)), Action::send(Send::Response));
        assert_eq!(server.state(), State::Completed);
    }

    #[test]
    fn a_second_final_response_is_discarded() {
        let mut server = NonInviteServer::new(Unreliable);
        let _ = server.on_send_response(202, START);
        assert_eq!(server.on_send_response(500, after(1)), Action::NONE);
        assert_eq!(server.on_send_response(100, after(1)), Action::NONE);
        assert_eq!(server.poll_timeout(), Some((after(32_000), "timer J")));
    }

    #[test]
    fn timer_j_ends_the_transaction_after_64_t1_on_udp() {
        let mut server = NonInviteServer::new(Unreliable);
        let _ = server.on_send_response(200, START);
        assert_eq!(server.handle_timeout(after(31_999)), Action::NONE);
        assert_eq!(server.handle_timeout(after(32_000)), Action::NONE.ended(true));
        assert_eq!((server.state(), server.poll_timeout()), (State::Terminated, None));
        assert_eq!(server.on_request(after(32_001)), Action::NONE);
    }

    #[test]
    fn timer_j_is_zero_on_a_stream() {
        let mut server = NonInviteServer::new(Reliable);
        assert_eq!(server.on_send_response(200, START), Action::send(Send::Response).ended(true));
        assert_eq!(server.poll_timeout(), None);
    }

    #[test]
    fn a_request_unanswered_for_three_and_a_half_seconds_is_due_a_100() {
        let mut server = NonInviteServer::new(Unreliable).with_trying(START);
        assert_eq!(server.poll_timeout(), Some((after(3_500), "non-INVITE 100")));
        assert_eq!(server.handle_timeout(after(3_500)), Action::tell(Tell::TryingDue));
        assert_eq!((server.state(), server.poll_timeout()), (State::Trying, None));
        assert_eq!(server.on_send_response(100, after(3_500)), Action::send(Send::Response));
        assert_eq!(server.handle_timeout(after(60_000)), Action::NONE);
    }

    #[test]
    fn an_answer_takes_the_100_off_the_list() {
        let mut server = NonInviteServer::new(Reliable).with_trying(START);
        let _ = server.on_send_response(100, after(10));
        assert_eq!(server.poll_timeout(), None);
    }

    #[test]
    fn a_response_that_cannot_be_delivered_ends_the_transaction() {
        let mut server = NonInviteServer::new(Unreliable);
        assert_eq!(server.on_transport_error(), Action::NONE, "nothing was sent yet");
        let _ = server.on_send_response(200, START);
        assert_eq!(server.on_transport_error(), Action::tell(Tell::TransportError).ended(true));
        assert_eq!(server.poll_timeout(), None);
    }

    #[test]
    fn the_timers_can_be_scaled_for_a_simulation() {
        let timers = Timers::new(Duration::from_millis(10), Duration::from_millis(80), Duration::from_millis(100));
        let mut server = NonInviteServer::with_timers(Unreliable, timers);
        let _ = server.on_send_response(200, START);
        assert_eq!(server.poll_timeout(), Some((after(640), "timer J")));
    }
}
