//! Everybody registers at once: each deferred message is delivered once and in order.

use crate::answers::Answers;
use crate::appliance::Usage;
use crate::cli::{Common, Storm};
use crate::deferral::queue_len;
use crate::pager::{Pace, Plan, drive};
use crate::report::Report;
use crate::setup::Stage;
use crate::template;
use crate::wire::{self, Side};
use std::time::{Duration, Instant};

/// Fills the queues, registers everybody, counts what arrives.
pub fn run(common: &Common, options: &Storm, stage: &mut Stage) -> Result<bool, String> {
    let longest = Duration::from_secs(u64::from(options.seconds));
    stage.put_preferences(common.users)?;
    fill(common, options, stage)?;
    let expected = u64::from(common.users) * u64::from(options.per_user);
    let title = format!("storm {:?} users {} with {} messages each", common.transport, common.users, options.per_user);
    let mut report = Report::new(title);
    report.sent = expected;
    let mut deliveries = Deliveries::new(common.users);
    let usage = (stage.usage(), Usage::of(std::process::id()).unwrap_or_default());
    let started = Instant::now();
    deliveries.started = started;
    let registered =
        stage.register(common.users, options.in_flight, longest, |core| deliveries.take(core, &mut report))?;
    while report.good < expected && started.elapsed() < longest {
        if deliveries.take(&mut stage.core, &mut report).map_err(|error| error.to_string())? == 0 {
            wire::wait([&stage.core, &stage.sender], Duration::from_millis(5)).map_err(|error| error.to_string())?;
        }
    }
    report.elapsed = deliveries.last.unwrap_or(started) - started;
    report.server = stage.usage().since(&usage.0);
    report.generator = Usage::of(std::process::id()).unwrap_or_default().since(&usage.1);
    report.note("milliseconds until everybody was registered", registered.as_millis() as u64);
    for _ in report.good..expected {
        report.error("never delivered");
    }
    for user in (0..common.users).step_by((common.users as usize / 10).max(1)) {
        // The last answer may still be on its way into the store.
        let deadline = Instant::now() + Duration::from_secs(5);
        while queue_len(stage, user)? > 0 && Instant::now() < deadline {
            wire::wait([&stage.core, &stage.sender], Duration::from_millis(20)).map_err(|error| error.to_string())?;
        }
        if queue_len(stage, user)? > 0 {
            report.error("a queue that is not empty");
        }
    }
    report.print();
    Ok(report.is_clean())
}

/// Puts every user's messages into the queue, each user's in order.
fn fill(common: &Common, options: &Storm, stage: &mut Stage) -> Result<(), String> {
    let message = template::message(&stage.places, true, common.message_len)?;
    let count = u64::from(common.users) * u64::from(options.per_user);
    let plan = Plan {
        pace: Pace::Closed { window: 500 },
        users: common.users,
        expected: 202,
        count_max: Some(count),
        warm_up: Duration::ZERO,
        measured: FILL_MAX,
    };
    let report = drive(stage, message, &plan, "filling the queues".into(), |core, report| {
        core.receive(|_, _| report.error("forwarded although nobody is registered"))
    })?;
    if report.good == count && report.errors.is_empty() {
        return Ok(());
    }
    report.print();
    Err(format!("{} of {count} messages were deferred", report.good))
}

/// What has been delivered.
struct Deliveries {
    /// The sequence number that each user gets next.
    next: Vec<u32>,
    answers: Answers,
    started: Instant,
    last: Option<Instant>,
}

impl Deliveries {
    fn new(users: u32) -> Self {
        Self { next: vec![0; users as usize], answers: Answers::default(), started: Instant::now(), last: None }
    }

    /// Answers what has arrived at the core and checks that it is each user's next message.
    fn take(&mut self, core: &mut Side, report: &mut Report) -> std::io::Result<usize> {
        let Self { next, answers, started, last } = self;
        answers.serve(core, |request| {
            let Some((user, sequence)) = template::user_and_sequence(request) else {
                report.error("a stranger at the core");
                return;
            };
            let Some(expected) = next.get_mut(user as usize) else {
                report.error("an unknown user");
                return;
            };
            match sequence.cmp(expected) {
                std::cmp::Ordering::Less => report.note("delivered again", 1),
                std::cmp::Ordering::Greater => {
                    report.error("out of order");
                    *expected = sequence + 1;
                }
                std::cmp::Ordering::Equal => {
                    *expected += 1;
                    report.good += 1;
                    let now = Instant::now();
                    *last = Some(now);
                    report.latency.saturating_record((now - *started).as_nanos().max(1) as u64);
                }
            }
        })
    }
}

const FILL_MAX: Duration = Duration::from_secs(300);
