//! MSRP chunks through one program: what each costs, how many pass, how long they take.

use crate::cli::{Chunks, Common, Via};
use crate::media::{Measured, Pace, Plan, Shape};
use crate::poller;
use crate::rig::{self, Rig, Sessions};
use std::time::Duration;

/// Sets up sessions, measures, prints.
pub fn run(common: &Common, options: &Chunks) -> Result<bool, String> {
    let outcome = measure(common, options)?;
    outcome.print(&title(options));
    Ok(outcome.is_clean())
}

/// What is measured, in a line.
pub fn title(options: &Chunks) -> String {
    let pace = match options.rate {
        Some(rate) => format!("{rate}/s"),
        None => format!("window {}", options.window),
    };
    let range = if options.open_range { ", open ranges" } else { "" };
    format!("chunks via {}: {} sessions × {} B, {pace}{range}", options.via, options.sessions, options.size)
}

/// A measurement with the figures that are printed of it.
pub struct Outcome {
    /// Everything.
    pub measured: Measured,
    /// Highest resident memory of the server while it was measured, bytes.
    pub resident: u64,
}

/// One program, started afresh, one row.
pub fn measure(common: &Common, options: &Chunks) -> Result<Outcome, String> {
    // Two connections a session on either side of the server, which inherits the limit.
    poller::need_descriptors(2 * options.sessions as u64 + 1024)?;
    let shape = Shape {
        chunk_len: options.size,
        message_len: options.size as u64 * u64::from(options.chunks_per_message),
        open_range: options.open_range,
    };
    let users = common.users.min(options.sessions as u32).max(1);
    let habits = rig::habits(options.ends.a_setup, options.ends.b_setup, users);
    let mut rig = Rig::start(common, options.via, shape, habits, options.sessions)?;
    let sessions = Sessions { count: options.sessions, window: 64, sources: 1 };
    rig.establish(&sessions, ESTABLISH_MAX)?;
    let pace = match options.rate {
        Some(rate) => Pace::Open { interval_ns: 1e9 / f64::from(rate) },
        None => Pace::Closed { window: options.window },
    };
    let plan = Plan {
        pace,
        warm_up: Duration::from_secs_f64(options.warm_up),
        measured: Duration::from_secs_f64(options.seconds),
        count_max: options.count,
        one_message: false,
    };
    let measured = rig.exchange.drive(&plan, &mut rig.watch)?;
    let resident = rig.watch.resident.map_or(0, |(_, high)| high);
    rig.release(&sessions, RELEASE_MAX)?;
    Ok(Outcome { measured, resident })
}

impl Outcome {
    /// True when nothing went wrong.
    pub fn is_clean(&self) -> bool {
        self.measured.errors.is_empty() && self.measured.chunks > 0
    }

    /// Chunks a second.
    pub fn rate(&self) -> f64 {
        self.measured.chunks as f64 / self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    /// The server's user and system time of a chunk, µs; of a million chunks, seconds.
    pub fn server_us(&self) -> f64 {
        per_chunk(self.measured.server.stat, self.measured.chunks)
    }

    /// A percentile, µs.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.measured.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// What else kept this machine's CPUs busy, in per cent of one.
    pub fn others_percent(&self) -> f64 {
        self.measured.others.as_secs_f64() * 100.0 / self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    /// Prints it: text for people, one RESULT line for programs.
    pub fn print(&self, title: &str) {
        let Measured { elapsed, chunks, server, generator, chunks_per_read, errors, .. } = &self.measured;
        let seconds = elapsed.as_secs_f64().max(1e-9);
        println!("{title}");
        println!("  good       {chunks:>12}   {:>12.1} /s over {seconds:.2} s", self.rate());
        for (kind, count) in errors {
            println!("  ERROR      {count:>12}   {kind}");
        }
        println!(
            "  latency µs p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}",
            self.micros(0.5),
            self.micros(0.9),
            self.micros(0.99),
            self.micros(0.999),
            self.micros(1.0)
        );
        println!(
            "  server     {:.3} µs CPU a chunk (scheduler {:.3}), {:.1} % of one CPU, {:.1} MB resident at most",
            self.server_us(),
            per_chunk(server.run_time(), *chunks),
            server.stat.as_secs_f64() * 100.0 / seconds,
            self.resident as f64 / 1e6,
        );
        println!(
            "  generator  {:.3} µs CPU a chunk, {:.1} % of one CPU; {chunks_per_read:.1} chunks a read",
            per_chunk(generator.run_time(), *chunks),
            generator.run_time().as_secs_f64() * 100.0 / seconds,
        );
        println!("  others     {:.1} % of one CPU{}", self.others_percent(), self.noise());
        println!(
            "RESULT good={chunks} rate={:.1} errors={} p50_us={:.1} p99_us={:.1} p999_us={:.1} max_us={:.1} \
             server_cpu_us={:.3} server_sched_us={:.3} generator_cpu_us={:.3} chunks_per_read={chunks_per_read:.2} \
             resident_mb={:.1} others_percent={:.1}",
            self.rate(),
            errors.values().sum::<u64>(),
            self.micros(0.5),
            self.micros(0.99),
            self.micros(0.999),
            self.micros(1.0),
            self.server_us(),
            per_chunk(server.run_time(), *chunks),
            per_chunk(generator.run_time(), *chunks),
            self.resident as f64 / 1e6,
            self.others_percent(),
        );
    }

    /// A warning when the machine was not the measurement's alone.
    pub fn noise(&self) -> &'static str {
        if self.others_percent() > OTHERS_PERCENT_MAX { ": NOT A QUIET MACHINE" } else { "" }
    }
}

/// Why a row cannot be carried by a program, if so.
pub fn is_beyond(via: Via, size: usize) -> Option<&'static str> {
    (via == Via::Kamailio && size > KAMAILIO_CHUNK_LEN_MAX).then_some("carries no chunk over 10 KB")
}

fn per_chunk(time: Duration, chunks: u64) -> f64 {
    time.as_secs_f64() * 1e6 / chunks.max(1) as f64
}

/// Beyond this, latencies are those of the scheduler.
const OTHERS_PERCENT_MAX: f64 = 10.0;
const KAMAILIO_CHUNK_LEN_MAX: usize = 10_000;
const ESTABLISH_MAX: Duration = Duration::from_secs(30);
const RELEASE_MAX: Duration = Duration::from_secs(40);
