//! INVITE server transaction: Figure 7, with the Accepted state of RFC 6026.

use super::timer::{Deadline, INVITE_TRYING_DELAY, Retransmission, Timers};
use super::{Action, Reliability, Send, Tell};
use crate::base::time::Instant;

/// The states of Figure 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The transaction user has the INVITE.
    Proceeding,
    /// A response of 300 to 699 went out and waits for its ACK.
    Completed,
    /// The ACK came; others are absorbed.
    Confirmed,
    /// A 2xx went out; the transaction user retransmits it until its ACK comes.
    Accepted,
    /// Nothing is left to do.
    Terminated,
}

/// What moves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The INVITE came once more.
    Invite,
    /// An ACK came.
    Ack,
    /// The transaction user gives a 1xx.
    SendProvisional,
    /// The transaction user gives a 2xx.
    SendSuccess,
    /// The transaction user gives a response of 300 to 699.
    SendFailure,
    /// It is time to send the final response again.
    TimerG,
    /// No ACK came in time.
    TimerH,
    /// No further ACK is expected.
    TimerI,
    /// No retransmission of the INVITE is expected any more.
    TimerL,
    /// The transport could not deliver a response.
    TransportError,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Proceeding, Self::Completed, Self::Confirmed, Self::Accepted, Self::Terminated];

    /// Follows one arrow of Figure 7; `None` where the figure draws none.
    ///
    /// A transport error is told and changes nothing: the client retransmits, and the answer may get through then.
    /// The arrow for an ACK in Confirmed stands in the text of §17.2.1 alone, which absorbs it.
    ///
    /// RFC 3261 §17.2.1, RFC 6026 §7.1.
    pub const fn next(self, event: Event) -> Option<Self> {
        use {Event::*, State::*};
        Some(match (self, event) {
            (Proceeding, Invite | SendProvisional | TransportError) => Proceeding,
            (Proceeding, SendSuccess) => Accepted,
            (Proceeding, SendFailure) => Completed,
            (Completed, Invite | TimerG | TransportError) => Completed,
            (Completed, Ack) => Confirmed,
            (Completed, TimerH) => Terminated,
            (Confirmed, Ack) => Confirmed,
            (Confirmed, TimerI) => Terminated,
            (Accepted, Invite | Ack | SendSuccess | TransportError) => Accepted,
            (Accepted, TimerL) => Terminated,
            _ => return None,
        })
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 10] = [
        Self::Invite,
        Self::Ack,
        Self::SendProvisional,
        Self::SendSuccess,
        Self::SendFailure,
        Self::TimerG,
        Self::TimerH,
        Self::TimerI,
        Self::TimerL,
        Self::TransportError,
    ];
}

/// An INVITE server transaction. The first INVITE has been passed to the transaction user by whoever made it.
#[derive(Clone, Copy, Debug)]
pub struct InviteServer {
    state: State,
    reliability: Reliability,
    /// A response went out, so that there is one to repeat.
    answered: bool,
    timers: Timers,
    timer_g: Retransmission,
    /// In Proceeding, when a 100 is due; otherwise Timer H, I or L.
    deadline: Deadline,
}

impl InviteServer {
    /// A transaction for an INVITE that came over a transport of this reliability.
    ///
    /// RFC 3261 §17.2.1.
    pub const fn new(reliability: Reliability) -> Self {
        Self::with_timers(reliability, Timers::DEFAULT)
    }

    /// A transaction with its own base values.
    ///
    /// RFC 3261 §17.2.1.
    pub const fn with_timers(reliability: Reliability, timers: Timers) -> Self {
        Self {
            state: State::Proceeding,
            reliability,
            answered: false,
            timers,
            timer_g: Retransmission::OFF,
            deadline: Deadline::NONE,
        }
    }

    /// Asks to be told 150 ms after `now`, when the INVITE came, that a 100 is due if there is no answer by then.
    ///
    /// RFC 3261 §17.2.1.
    #[must_use]
    pub fn with_trying(mut self, now: Instant) -> Self {
        debug_assert!(self.state == State::Proceeding && !self.answered);
        self.deadline = Deadline::after(INVITE_TRYING_DELAY, now);
        self
    }

    /// The INVITE came once more: answered with the last response, but absorbed after a 2xx, which the transaction
    /// user repeats by itself.
    ///
    /// RFC 3261 §17.2.1, RFC 6026 §7.1.
    pub fn on_request(&mut self, _now: Instant) -> Action {
        let send = match self.state {
            State::Proceeding if self.answered => Send::Response,
            State::Completed => Send::Response,
            _ => Send::Nothing,
        };
        self.follow(Event::Invite);
        Action::send(send)
    }

    /// An ACK came: one for 300 to 699 ends the retransmissions, one for a 2xx goes up.
    ///
    /// RFC 3261 §17.2.1, RFC 6026 §7.1.
    pub fn on_ack(&mut self, now: Instant) -> Action {
        let before = self.state;
        if !self.follow(Event::Ack) {
            return Action::NONE;
        }
        match (before, self.state) {
            (State::Completed, State::Confirmed) => {
                self.timer_g = Retransmission::OFF;
                self.deadline = Deadline::NONE;
                let linger = self.timers.linger(self.reliability);
                if linger.is_zero() {
                    self.follow(Event::TimerI);
                } else {
                    self.deadline = Deadline::after(linger, now);
                }
                self.check_invariants();
                Action::NONE.ended(self.state == State::Terminated)
            }
            (State::Accepted, _) => Action::tell(Tell::Ack),
            _ => Action::NONE,
        }
    }

    /// The transaction user gives a response. One that the state has no room for is discarded.
    ///
    /// RFC 3261 §17.2.1, RFC 6026 §7.1.
    pub fn on_send_response(&mut self, status: u16, now: Instant) -> Action {
        debug_assert!((100..700).contains(&status));
        let event = match status {
            ..200 => Event::SendProvisional,
            200..300 => Event::SendSuccess,
            300.. => Event::SendFailure,
        };
        let before = self.state;
        if !self.follow(event) {
            return Action::NONE;
        }
        self.answered = true;
        if before == State::Proceeding {
            self.deadline = match self.state {
                State::Proceeding => Deadline::NONE,
                // Timer H, Timer L.
                _ => Deadline::after(self.timers.patience(), now),
            };
            if self.state == State::Completed {
                self.timer_g = Retransmission::start(self.reliability, self.timers, now);
            }
        }
        self.check_invariants();
        Action::send(Send::Response)
    }

    /// The transport could not deliver a response: the transaction user hears of it, the machine stays where it is.
    ///
    /// RFC 6026 §8.8.
    pub fn on_transport_error(&mut self) -> Action {
        if self.follow(Event::TransportError) { Action::tell(Tell::TransportError) } else { Action::NONE }
    }

    /// Does what is due at `now`. An end that is due comes before a retransmission that is due.
    ///
    /// RFC 3261 §17.2.1.
    pub fn handle_timeout(&mut self, now: Instant) -> Action {
        if self.deadline.is_due(now) {
            self.deadline = Deadline::NONE;
            let tell = match self.state {
                State::Proceeding => Tell::TryingDue,
                State::Completed => Tell::TimedOut,
                _ => Tell::Nothing,
            };
            let ended = self.follow(Event::TimerH) || self.follow(Event::TimerI) || self.follow(Event::TimerL);
            debug_assert_eq!(ended, tell != Tell::TryingDue);
            if ended {
                self.timer_g = Retransmission::OFF;
            }
            self.check_invariants();
            return Action::tell(tell).ended(ended);
        }
        if !self.timer_g.is_due(now) {
            return Action::NONE;
        }
        let again = self.follow(Event::TimerG);
        debug_assert!(again, "Timer G runs in Completed only");
        self.timer_g.back_off(Some(self.timers.t2()), now);
        self.check_invariants();
        Action::send(Send::Response)
    }

    /// The next deadline and whose it is.
    ///
    /// RFC 3261 §17.2.1.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let end = self.deadline.get()?;
        match (self.timer_g.at(), self.state) {
            (Some(again), _) if again < end => Some((again, "timer G")),
            (_, State::Completed) => Some((end, "timer H")),
            (_, State::Confirmed) => Some((end, "timer I")),
            (_, State::Accepted) => Some((end, "timer L")),
            _ => Some((end, "INVITE 100")),
        }
    }

    /// Where the machine stands.
    ///
    /// RFC 3261 §17.2.1.
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
            State::Proceeding => debug_assert!(!self.answered || self.deadline == Deadline::NONE),
            State::Terminated => debug_assert!(self.deadline == Deadline::NONE),
            _ => debug_assert!(self.answered && self.deadline != Deadline::NONE),
        }
        debug_assert!(self.state == State::Completed || self.timer_g == Retransmission::OFF);
    }
}

const _: () = assert!(size_of::<InviteServer>() <= 40);

#[cfg(test)]
mod tests {
    use super::*;
    use Reliability::{Reliable, Unreliable};
    use std::time::Duration;

    const START: Instant = Instant(3_000_000_000);

    fn after(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    fn run(server: &mut InviteServer) -> Vec<(u64, Action)> {
        let mut seen = Vec::new();
        while let Some((at, _)) = server.poll_timeout() {
            seen.push((at.since(START).as_millis() as u64, server.handle_timeout(at)));
            assert!(server.poll_timeout().is_none_or(|(next, _)| next > at), "firing moves on");
        }
        seen
    }

    #[test]
    fn a_100_is_due_150_ms_after_an_unanswered_invite() {
        let mut server = InviteServer::new(Unreliable).with_trying(START);
        assert_eq!(server.poll_timeout(), Some((after(150), "INVITE 100")));
        assert_eq!(server.handle_timeout(after(150)), Action::tell(Tell::TryingDue));
        assert_eq!((server.state(), server.poll_timeout()), (State::Proceeding, None));
        let mut answered = InviteServer::new(Unreliable).with_trying(START);
        let _ = answered.on_send_response(180, after(50));
        assert_eq!(answered.poll_timeout(), None);
    }

    #[test]
    fn a_retransmitted_invite_gets_the_last_response_if_there_is_one() {
        let mut server = InviteServer::new(Unreliable);
        assert_eq!(server.on_request(after(1)), Action::NONE);
        assert_eq!(server.on_send_response(180, after(2)), Action::send(Send::Response));
        assert_eq!(server.on_request(after(3)), Action::send(Send::Response));
        let _ = server.on_send_response(486, after(4));
        assert_eq!(server.on_request(after(5)), Action::send(Send::Response));
    }

    #[test]
    fn an_unacknowledged_failure_is_sent_again_until_timer_h() {
        let mut server = InviteServer::new(Unreliable);
        assert_eq!(server.on_send_response(486, START), Action::send(Send::Response));
        let mut seen = run(&mut server);
        assert_eq!(seen.pop(), Some((32_000, Action::tell(Tell::TimedOut).ended(true))));
        let times: Vec<u64> = seen.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        assert!(seen.iter().all(|(_, action)| *action == Action::send(Send::Response)));
    }

    #[test]
    fn a_stream_needs_no_timer_g_but_waits_for_the_ack_as_well() {
        let mut server = InviteServer::new(Reliable);
        let _ = server.on_send_response(486, START);
        assert_eq!(run(&mut server), [(32_000, Action::tell(Tell::TimedOut).ended(true))]);
    }

    #[test]
    fn the_ack_stops_retransmission_and_timer_i_ends_it() {
        let mut server = InviteServer::new(Unreliable);
        let _ = server.on_send_response(486, START);
        assert_eq!(server.on_ack(after(100)), Action::NONE);
        assert_eq!((server.state(), server.poll_timeout()), (State::Confirmed, Some((after(5_100), "timer I"))));
        assert_eq!(server.on_ack(after(200)), Action::NONE);
        assert_eq!(server.on_request(after(300)), Action::NONE);
        assert_eq!(server.handle_timeout(after(5_100)), Action::NONE.ended(true));
    }

    #[test]
    fn timer_i_is_zero_on_a_stream() {
        let mut server = InviteServer::new(Reliable);
        let _ = server.on_send_response(486, START);
        assert_eq!(server.on_ack(after(100)), Action::NONE.ended(true));
        assert_eq!(server.poll_timeout(), None);
    }

    #[test]
    fn after_a_2xx_invites_are_absorbed_and_acks_and_further_2xx_pass() {
        for reliability in [Unreliable, Reliable] {
            let mut server = InviteServer::new(reliability);
            assert_eq!(server.on_send_response(200, START), Action::send(Send::Response));
            assert_eq!(server.on_request(after(100)), Action::NONE);
            assert_eq!(server.on_send_response(200, after(500)), Action::send(Send::Response));
            assert_eq!(server.on_send_response(486, after(500)), Action::NONE);
            assert_eq!(server.on_ack(after(600)), Action::tell(Tell::Ack));
            assert_eq!(server.on_ack(after(601)), Action::tell(Tell::Ack));
            assert_eq!(server.poll_timeout(), Some((after(32_000), "timer L")), "64*T1 on any transport");
            assert_eq!(server.handle_timeout(after(32_000)), Action::NONE.ended(true));
        }
    }

    #[test]
    fn a_transport_error_is_told_and_changes_nothing() {
        let mut server = InviteServer::new(Unreliable);
        let _ = server.on_send_response(486, START);
        assert_eq!(server.on_transport_error(), Action::tell(Tell::TransportError));
        assert_eq!((server.state(), server.poll_timeout()), (State::Completed, Some((after(500), "timer G"))));
    }

    #[test]
    fn an_ack_before_any_final_response_is_ignored() {
        let mut server = InviteServer::new(Unreliable);
        assert_eq!(server.on_ack(after(1)), Action::NONE);
        assert_eq!(server.state(), State::Proceeding);
    }
}
