//! Messages for registered users: sender → appliance → core, and the 200 back.

use crate::answers::Answers;
use crate::appliance::Usage;
use crate::cli::{Common, Pager};
use crate::report::Report;
use crate::setup::Stage;
use crate::template::{self, Template};
use crate::wire::{self, Side};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Registers the users, stores policies, measures.
pub fn run(common: &Common, options: &Pager, stage: &mut Stage) -> Result<bool, String> {
    let took = stage.register(common.users, 64, SETUP_MAX, |_| Ok(0))?;
    println!("{} users registered in {:.2} s", common.users, took.as_secs_f64());
    if options.rules > 0 {
        let started = Instant::now();
        stage.put_policies(common.users, options.rules)?;
        println!(
            "{} policies of {} rules stored in {:.2} s",
            common.users,
            options.rules,
            started.elapsed().as_secs_f64()
        );
    }
    let message = template::message(&stage.places, !options.no_routes, common.message_len)?;
    let pace = match (options.rate, options.window) {
        (Some(rate), _) => Pace::Open { interval_ns: 1e9 / f64::from(rate) },
        (None, window) => Pace::Closed { window: window.unwrap_or(32) },
    };
    let title = format!(
        "pager {:?} {pace:?} users {} rules {} message {} B",
        common.transport,
        common.users,
        options.rules,
        message.len()
    );
    let plan = Plan {
        pace,
        users: common.users,
        expected: 200,
        count_max: None,
        warm_up: Duration::from_secs(u64::from(options.warm_up)),
        measured: Duration::from_secs(u64::from(options.seconds)),
    };
    let mut core = Core::new(template::message(&stage.places, !options.no_routes, common.message_len)?, common.users);
    let report = drive(stage, message, &plan, title, |side, report| core.serve(side, report))?;
    report.print();
    Ok(report.is_clean())
}

/// When messages leave.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At fixed intervals, whatever comes back.
    Open {
        /// Between two messages.
        interval_ns: f64,
    },
    /// So many in flight.
    Closed {
        /// How many.
        window: u32,
    },
}

/// A measurement.
pub struct Plan {
    /// When messages leave.
    pub pace: Pace,
    /// Recipients, in turn.
    pub users: u32,
    /// The status that is right.
    pub expected: u16,
    /// Messages in all, if their number and not the time ends the run. Each user then has at most one in flight.
    pub count_max: Option<u64>,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
}

impl Plan {
    /// Whom a message goes to.
    fn user(&self, number: u64) -> u32 {
        (number % u64::from(self.users)) as u32
    }

    /// Which of that user's messages it is.
    fn sequence(&self, number: u64) -> u32 {
        (number / u64::from(self.users) % 1_000_000) as u32
    }
}

/// A message on its way.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Its number plus one; zero when the slot is free.
    occupant: u64,
    /// Nanoseconds since the start: when it should have left.
    intended: u64,
    /// When it last left.
    last_sent: u64,
    resends: u32,
}

/// Sends by plan, checks every answer, and lets `serve` play the core.
pub fn drive(
    stage: &mut Stage,
    mut message: Template,
    plan: &Plan,
    title: String,
    mut serve: impl FnMut(&mut Side, &mut Report) -> std::io::Result<usize>,
) -> Result<Report, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut report = Report::new(title);
    let mut slots = vec![Slot::default(); SLOT_COUNT];
    let (mut next, mut oldest, mut outstanding) = (0_u64, 0_u64, 0_u64);
    let (warm_up, end) = (plan.warm_up.as_nanos() as u64, (plan.warm_up + plan.measured).as_nanos() as u64);
    let resends = matches!(stage.sender, Side::Udp(_));
    let mut usage_before: Option<(Usage, Usage, u64)> = None;
    let mut usage_after: Option<(Usage, Usage, u64)> = None;
    let (mut first_measured, mut last_look) = (u64::MAX, 0);
    let started = Instant::now();
    let own_pid = std::process::id();
    loop {
        let now = started.elapsed().as_nanos() as u64;
        if now >= warm_up && usage_before.is_none() {
            usage_before = Some((stage.usage(), Usage::of(own_pid).unwrap_or_default(), now));
            first_measured = next;
        }
        while oldest < next && slots[oldest as usize % SLOT_COUNT].occupant != oldest + 1 {
            oldest += 1;
        }
        let is_sending = now < end && plan.count_max.is_none_or(|count| next < count);
        if usage_after.is_none() && (now >= end || !is_sending && outstanding == 0) {
            usage_after = Some((stage.usage(), Usage::of(own_pid).unwrap_or_default(), now));
        }
        if !is_sending && (outstanding == 0 || now > end + DRAIN_NS) {
            break;
        }
        let mut batch = 0;
        // What the kernel has not taken yet goes first.
        let room = if stage.sender.has_queued() { 0 } else { SEND_BATCH };
        while is_sending && batch < room {
            if let Some(count) = plan.count_max
                && (next >= count || next - oldest >= u64::from(plan.users))
            {
                break;
            }
            let intended = match plan.pace {
                Pace::Open { interval_ns } => (next as f64 * interval_ns) as u64,
                Pace::Closed { window } if outstanding < u64::from(window) => now,
                Pace::Closed { .. } => break,
            };
            if intended > now {
                break;
            }
            let slot = &mut slots[next as usize % SLOT_COUNT];
            if slot.occupant != 0 {
                // A million newer messages have left since.
                outstanding -= 1;
                report.error("no answer");
            }
            *slot = Slot { occupant: next + 1, intended, last_sent: now, resends: 0 };
            let peer = stage.sender.peer_for(next, stage.places.target);
            stage.sender.queue(message.patch(next, plan.user(next), plan.sequence(next)), peer);
            outstanding += 1;
            if next >= first_measured {
                report.sent += 1;
            }
            next += 1;
            batch += 1;
        }
        stage.sender.flush().map_err(failed)?;
        let mut moved = serve(&mut stage.core, &mut report).map_err(failed)?;
        let received_at = started.elapsed().as_nanos() as u64;
        moved += stage
            .sender
            .receive(|response, _| {
                let (Some(number), Some(status)) = (template::number(response), template::status(response)) else {
                    report.error("not an answer of ours");
                    return;
                };
                let slot = &mut slots[number as usize % SLOT_COUNT];
                if slot.occupant != number + 1 {
                    // The answer to a repeat, after the answer.
                    report.note("answers received twice", 1);
                    return;
                }
                slot.occupant = 0;
                outstanding -= 1;
                if status != plan.expected {
                    report.error(format!("status {status}"));
                } else if number >= first_measured && usage_after.is_none() {
                    report.good += 1;
                    report.latency.saturating_record(received_at.saturating_sub(slot.intended).max(1));
                }
            })
            .map_err(failed)?;
        if received_at.saturating_sub(last_look) > LOOK_NS {
            last_look = received_at;
            for number in oldest..next.min(oldest + SLOT_COUNT as u64) {
                let slot = &mut slots[number as usize % SLOT_COUNT];
                if slot.occupant != number + 1 || received_at - slot.last_sent < T1_NS << slot.resends {
                    continue;
                }
                if !resends || slot.resends == RESENDS_MAX {
                    if received_at - slot.intended > GIVE_UP_NS {
                        slot.occupant = 0;
                        outstanding -= 1;
                        report.error("no answer");
                    }
                    continue;
                }
                slot.resends += 1;
                slot.last_sent = received_at;
                let peer = stage.sender.peer_for(number, stage.places.target);
                stage.sender.queue(message.patch(number, plan.user(number), plan.sequence(number)), peer);
                report.note("requests sent again", 1);
            }
        }
        if moved == 0 && batch == 0 {
            let until = match plan.pace {
                Pace::Open { interval_ns } => ((next as f64 * interval_ns) as u64).saturating_sub(received_at),
                Pace::Closed { .. } => 5_000_000,
            };
            let longest = Duration::from_nanos(until.clamp(1_000, 5_000_000));
            wire::wait([&stage.sender, &stage.core], longest).map_err(failed)?;
        }
    }
    for slot in &slots {
        if slot.occupant != 0 {
            report.error("no answer");
        }
    }
    if let (Some((server0, own0, from)), Some((server1, own1, to))) = (usage_before, usage_after) {
        report.server = server1.since(&server0);
        report.generator = own1.since(&own0);
        report.elapsed = Duration::from_nanos(to - from);
    }
    Ok(report)
}

/// The core: checks every forwarded message and answers 200.
struct Core {
    /// The message as it was sent.
    original: Template,
    users: u32,
    answers: Answers,
    seen: Seen,
}

/// Which numbers have been at the core, for the last million or so.
struct Seen(Vec<u64>);

impl Seen {
    /// True when this is the first time.
    fn insert(&mut self, number: u64) -> bool {
        let cell = &mut self.0[number as usize % SLOT_COUNT];
        let is_new = *cell != number + 1;
        *cell = number + 1;
        is_new
    }
}

impl Core {
    fn new(original: Template, users: u32) -> Self {
        Self { original, users, answers: Answers::default(), seen: Seen(vec![0; SLOT_COUNT]) }
    }

    fn serve(&mut self, side: &mut Side, report: &mut Report) -> std::io::Result<usize> {
        let Self { original, users, answers, seen } = self;
        answers.serve(side, |request| match template::number(request) {
            None => report.error("a stranger at the core"),
            Some(number) => {
                if !seen.insert(number) {
                    report.note("forwarded again", 1);
                }
                if let Err(what) = check(request, original, number, *users) {
                    report.error(what);
                }
            }
        })
    }
}

/// The body must be the one that was sent; now and then the whole head is read by rsip.
fn check(request: &[u8], original: &mut Template, number: u64, users: u32) -> Result<(), String> {
    let users = u64::from(users);
    let sent = original.patch(number, (number % users) as u32, (number / users % 1_000_000) as u32);
    let body = |message: &[u8]| template::head_len(message).map(|at| at..message.len());
    let (Some(ours), Some(theirs)) = (body(sent), body(request)) else { return Err("no end of headers".into()) };
    if sent[ours] != request[theirs.clone()] {
        return Err("the body was changed".into());
    }
    if number.is_multiple_of(CHECK_EVERY) {
        let head = &request[..theirs.start];
        let read = rsip::Request::try_from(head).map_err(|error| format!("rsip refuses: {error}"))?;
        let text = read.to_string();
        let mut wrong = BTreeMap::new();
        wrong.insert("Max-Forwards", !text.contains("Max-Forwards: 66\r\n"));
        wrong.insert("Vias", text.matches("\r\nVia: ").count() + text.matches(", SIP/2.0/").count() != 5);
        wrong.insert("own Route", text.contains("sip:term@"));
        if let Some((what, _)) = wrong.iter().find(|(_, is_wrong)| **is_wrong) {
            return Err(format!("wrong {what}"));
        }
    }
    Ok(())
}

const SETUP_MAX: Duration = Duration::from_secs(300);
/// Messages that can be told apart at one time.
const SLOT_COUNT: usize = 1 << 20;
/// Messages queued before the sockets are looked at again.
const SEND_BATCH: u32 = 64;
/// Every so many messages one is read whole.
const CHECK_EVERY: u64 = 1024;
/// How often lost messages are looked for.
const LOOK_NS: u64 = 100_000_000;
/// RFC 3261's T1, doubled with each repeat.
const T1_NS: u64 = 500_000_000;
const RESENDS_MAX: u32 = 4;
const GIVE_UP_NS: u64 = 16_000_000_000;
/// How long answers are waited for at the end.
const DRAIN_NS: u64 = 20_000_000_000;
