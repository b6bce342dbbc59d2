//! What is printed.

use crate::appliance::Usage;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Results of the measured part of a scenario.
pub struct Report {
    /// What was measured.
    pub title: String,
    /// How long.
    pub elapsed: Duration,
    /// Messages sent.
    pub sent: u64,
    /// Messages that ended as they should.
    pub good: u64,
    /// What else happened, by kind; any of it makes the run a failure.
    pub errors: BTreeMap<String, u64>,
    /// What is worth knowing and no failure.
    pub notes: BTreeMap<String, u64>,
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// What the appliance used.
    pub server: Usage,
    /// What the generator used.
    pub generator: Usage,
}

impl Report {
    /// An empty report.
    pub fn new(title: String) -> Self {
        Self {
            title,
            elapsed: Duration::ZERO,
            sent: 0,
            good: 0,
            errors: BTreeMap::new(),
            notes: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("1 ns to 100 s at three digits is valid"),
            server: Usage::default(),
            generator: Usage::default(),
        }
    }

    /// Counts an error.
    pub fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }

    /// Counts something harmless.
    pub fn note(&mut self, kind: &str, count: u64) {
        *self.notes.entry(kind.into()).or_default() += count;
    }

    /// True when everything ended as it should.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.good > 0
    }

    /// Prints it: text for people, one RESULT line for programs.
    pub fn print(&self) {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let per_message = |time: Duration| time.as_secs_f64() * 1e6 / self.good.max(1) as f64;
        println!("{}", self.title);
        println!("  sent       {:>12}   {:>12.1} /s", self.sent, self.sent as f64 / seconds);
        println!("  good       {:>12}   {:>12.1} /s over {seconds:.2} s", self.good, self.good as f64 / seconds);
        for (kind, count) in &self.errors {
            println!("  ERROR      {count:>12}   {kind}");
        }
        for (kind, count) in &self.notes {
            println!("  note       {count:>12}   {kind}");
        }
        let micros = |quantile: f64| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];
        let listed: Vec<String> =
            quantiles.iter().map(|(name, quantile)| format!("{name} {:.0}", micros(*quantile))).collect();
        println!("  latency µs {}", listed.join("  "));
        println!(
            "  server     {:.2} µs CPU a message (stat {:.2}), {:.1} % of one CPU, {:.1} MB resident, {:.1} MB at most",
            per_message(self.server.run_time()),
            per_message(self.server.stat),
            self.server.run_time().as_secs_f64() * 100.0 / seconds,
            self.server.resident as f64 / 1e6,
            self.server.resident_peak as f64 / 1e6,
        );
        for (name, time) in &self.server.threads {
            if per_message(*time) >= 0.01 {
                println!("    thread   {:<16} {:.2} µs a message", name, per_message(*time));
            }
        }
        println!(
            "  generator  {:.2} µs CPU a message, {:.1} % of one CPU",
            per_message(self.generator.run_time()),
            self.generator.run_time().as_secs_f64() * 100.0 / seconds,
        );
        println!(
            "RESULT good={} rate={:.1} errors={} p50_us={:.1} p99_us={:.1} p999_us={:.1} max_us={:.1} \
             server_cpu_us={:.3} server_stat_us={:.3} generator_cpu_us={:.3} resident_mb={:.1}",
            self.good,
            self.good as f64 / seconds,
            self.errors.values().sum::<u64>(),
            micros(0.5),
            micros(0.99),
            micros(0.999),
            micros(1.0),
            per_message(self.server.run_time()),
            per_message(self.server.stat),
            per_message(self.generator.run_time()),
            self.server.resident as f64 / 1e6,
        );
    }
}
