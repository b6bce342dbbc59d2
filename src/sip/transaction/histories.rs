//! What holds for every machine whatever happens to it, over random histories.

use super::{Action, InviteClient, InviteServer, NonInviteClient, NonInviteServer, Reliability, Send, Tell};
use crate::base::time::Instant;
use proptest::prelude::*;
use std::time::Duration;

/// One thing that happens, and how long after the one before.
#[derive(Clone, Copy, Debug)]
enum Step {
    Message(u16),
    Request,
    TransportError,
    /// The holder turns exactly at the machine's next deadline.
    OnTime,
    /// The holder turns at any moment.
    Anytime,
}

fn histories() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        3 => (100u16..700).prop_map(Step::Message),
        2 => Just(Step::Request),
        1 => Just(Step::TransportError),
        5 => Just(Step::OnTime),
        2 => Just(Step::Anytime),
    ];
    prop::collection::vec((0u64..12_000_000_000, step), 0..40)
}

fn reliabilities() -> impl Strategy<Value = Reliability> {
    prop_oneof![Just(Reliability::Unreliable), Just(Reliability::Reliable)]
}

/// The doors of a machine, so that one test serves all four.
struct Doors<M> {
    message: fn(&mut M, u16, Instant) -> Action,
    request: fn(&mut M, Instant) -> Action,
    transport_error: fn(&mut M) -> Action,
    handle_timeout: fn(&mut M, Instant) -> Action,
    poll_timeout: fn(&M) -> Option<(Instant, &'static str)>,
}

/// Runs a history; returns what was told.
fn run<M>(mut machine: M, start: Instant, doors: &Doors<M>, history: &[(u64, Step)]) -> Vec<Tell> {
    let mut now = start;
    let mut ended = false;
    let mut told = Vec::new();
    for (ahead, step) in history {
        let later = now + Duration::from_nanos(*ahead);
        let on_time = (doors.poll_timeout)(&machine).map_or(later, |(at, _)| at);
        now = if matches!(step, Step::OnTime) { on_time.max(now) } else { later };
        let action = match step {
            Step::Message(status) => (doors.message)(&mut machine, *status, now),
            Step::Request => (doors.request)(&mut machine, now),
            Step::TransportError => (doors.transport_error)(&mut machine),
            Step::OnTime | Step::Anytime => {
                let action = (doors.handle_timeout)(&mut machine, now);
                let next = (doors.poll_timeout)(&machine);
                assert!(next.is_none_or(|(at, _)| at > now), "firing moves on: {next:?} at {now:?}");
                action
            }
        };
        assert!(!ended || action == Action::NONE, "a terminated machine does nothing: {action:?}");
        ended |= action.terminated;
        assert!(!ended || (doors.poll_timeout)(&machine).is_none(), "a terminated machine waits for nothing");
        if action.tell != Tell::Nothing {
            told.push(action.tell);
        }
    }
    told
}

fn count(told: &[Tell], of: &[Tell]) -> usize {
    told.iter().filter(|tell| of.contains(tell)).count()
}

const START: Instant = Instant(1);

proptest! {
    #[test]
    fn a_non_invite_client_has_one_outcome_at_most(history in histories(), reliability in reliabilities()) {
        let doors = Doors {
            message: NonInviteClient::on_response,
            request: NonInviteClient::handle_timeout,
            transport_error: NonInviteClient::on_transport_error,
            handle_timeout: NonInviteClient::handle_timeout,
            poll_timeout: NonInviteClient::poll_timeout,
        };
        let told = run(NonInviteClient::new(reliability, START), START, &doors, &history);
        prop_assert!(count(&told, &[Tell::Final, Tell::TimedOut, Tell::TransportError]) <= 1, "{told:?}");
    }

    #[test]
    fn an_invite_client_fails_once_at_most_and_never_after_a_success(
        history in histories(), reliability in reliabilities(),
    ) {
        let doors = Doors {
            message: InviteClient::on_response,
            request: InviteClient::handle_timeout,
            transport_error: InviteClient::on_transport_error,
            handle_timeout: InviteClient::handle_timeout,
            poll_timeout: InviteClient::poll_timeout,
        };
        let told = run(InviteClient::new(reliability, START), START, &doors, &history);
        // An ACK that cannot be sent is told after the failure it was for.
        prop_assert!(count(&told, &[Tell::Final, Tell::TimedOut]) <= 1, "{told:?}");
        prop_assert!(count(&told, &[Tell::Success]) == 0 || count(&told, &[Tell::Final, Tell::TimedOut]) == 0);
    }

    #[test]
    fn a_non_invite_server_sends_only_what_it_was_given(history in histories(), reliability in reliabilities()) {
        let doors = Doors {
            message: NonInviteServer::on_send_response,
            request: NonInviteServer::on_request,
            transport_error: NonInviteServer::on_transport_error,
            handle_timeout: NonInviteServer::handle_timeout,
            poll_timeout: NonInviteServer::poll_timeout,
        };
        let mut fresh = NonInviteServer::new(reliability);
        prop_assert_eq!(fresh.on_request(START).send, Send::Nothing);
        let told = run(fresh.with_trying(START), START, &doors, &history);
        prop_assert!(count(&told, &[Tell::TryingDue]) <= 1 && count(&told, &[Tell::TransportError]) <= 1, "{told:?}");
    }

    #[test]
    fn an_invite_server_times_out_once_at_most(history in histories(), reliability in reliabilities()) {
        let doors = Doors {
            message: InviteServer::on_send_response,
            request: |server, now| if now.0 % 2 == 0 { server.on_request(now) } else { server.on_ack(now) },
            transport_error: InviteServer::on_transport_error,
            handle_timeout: InviteServer::handle_timeout,
            poll_timeout: InviteServer::poll_timeout,
        };
        let told = run(InviteServer::new(reliability).with_trying(START), START, &doors, &history);
        prop_assert!(count(&told, &[Tell::TimedOut]) <= 1 && count(&told, &[Tell::TryingDue]) <= 1, "{told:?}");
        prop_assert!(count(&told, &[Tell::Ack]) == 0 || count(&told, &[Tell::TimedOut]) == 0, "{told:?}");
    }
}
