//! Prometheus text exposition, format 0.0.4.
//!
//! Everything leaves in base units: a series named in nanoseconds in [`names`](super::names) is written in seconds.

use super::counters::ShardMetrics;
use super::names::{Counter, Gauge, Stage};
use super::stages::Stages;
use crate::base::id::ShardId;
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// The Content-Type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Asks the shards for their latency histograms.
pub trait Scrape: Send + Sync {
    /// Calls `answer` once for every shard, on the shard's thread. A shard that is busy or gone may never answer:
    /// whoever asks sets the limit. Drops `answer` when it has no more use for it.
    fn stages(&self, answer: ScrapeAnswer);
}

/// What a shard's answer to [`Scrape::stages`] is given to. Must not block.
pub type ScrapeAnswer = Arc<dyn Fn(ShardId, Stages) + Send + Sync>;

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; the name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One sample of a series that no shard counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The series.
    pub name: Cow<'static, str>,
    /// What it says; the first row of a series speaks for all.
    pub help: Cow<'static, str>,
    /// What it is.
    pub kind: Kind,
    /// `key="value",…` without braces, empty when there are none.
    pub labels: Cow<'static, str>,
    /// The sample.
    pub value: f64,
}

impl Row {
    /// A row of a counter without labels.
    pub const fn counter(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::new(name, help, Kind::Counter, value)
    }

    /// A row of a gauge without labels.
    pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::new(name, help, Kind::Gauge, value)
    }

    const fn new(name: &'static str, help: &'static str, kind: Kind, value: f64) -> Self {
        Self { name: Cow::Borrowed(name), help: Cow::Borrowed(help), kind, labels: Cow::Borrowed(""), value }
    }

    /// The row with labels, `key="value",…`; the caller vouches for their form.
    #[must_use]
    pub fn labelled(mut self, labels: impl Into<Cow<'static, str>>) -> Self {
        self.labels = labels.into();
        self
    }
}

/// Everything on one page.
#[derive(Default)]
pub struct Snapshot<'a> {
    /// Each shard's counters and gauges.
    pub shards: &'a [Arc<ShardMetrics>],
    /// The latency histograms of the shards that answered.
    pub stages: &'a [(ShardId, Stages)],
    /// Everything else.
    pub rows: &'a [Row],
}

/// Writes the page.
pub fn render(snapshot: &Snapshot<'_>) -> String {
    let mut page = Page { text: String::with_capacity(64 * 1024) };
    for series in families(Counter::ALL, |row| row.series()) {
        page.shard_family(
            series,
            "counter",
            series.iter().map(|row| (row.series(), row.labels(), row.help())),
            snapshot.shards.iter().map(|shard| series.iter().map(|row| shard.counter(*row)).collect()),
        );
    }
    for series in families(Gauge::ALL, |row| row.series()) {
        page.shard_family(
            series,
            "gauge",
            series.iter().map(|row| (row.series(), row.labels(), row.help())),
            snapshot.shards.iter().map(|shard| series.iter().map(|row| shard.gauge(*row)).collect()),
        );
    }
    page.histograms(snapshot.stages);
    page.quantiles(snapshot.stages);
    page.rows(snapshot.rows);
    page.text
}

/// Rows that stand together because they have one series.
fn families<T>(all: &[T], series: impl Fn(&T) -> &'static str) -> impl Iterator<Item = &[T]> {
    all.chunk_by(move |one, next| series(one) == series(next))
}

struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} ");
        for part in help.chars() {
            match part {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
        let _ = write!(self.text, "\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: [&str; 3], value: f64) {
        self.text.push_str(name);
        let mut separator = '{';
        for label in labels.into_iter().filter(|label| !label.is_empty()) {
            self.text.push(separator);
            self.text.push_str(label);
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = match value {
            _ if value.is_nan() => writeln!(self.text, " NaN"),
            f64::INFINITY => writeln!(self.text, " +Inf"),
            f64::NEG_INFINITY => writeln!(self.text, " -Inf"),
            _ => writeln!(self.text, " {value}"),
        };
    }

    /// One series of [`names`](super::names): every row of every shard.
    fn shard_family<T>(
        &mut self,
        series: &[T],
        kind: &str,
        rows: impl Iterator<Item = (&'static str, &'static str, &'static str)> + Clone,
        values: impl Iterator<Item = Vec<u64>>,
    ) {
        let Some((written, _, _)) = rows.clone().next() else { return };
        let (name, divisor) = base_unit(written);
        let help: Vec<String> = rows
            .clone()
            .map(|(_, labels, help)| match label_value(labels) {
                // The rows of a series differ in what they count: its one HELP line says so for each.
                Some(value) if series.len() > 1 => format!("{value}: {help}"),
                _ => help.to_owned(),
            })
            .collect();
        self.head(&name, kind, &help.join("; "));
        for (shard, values) in values.enumerate() {
            let shard = format!("shard=\"{shard}\"");
            for ((_, labels, _), value) in rows.clone().zip(values) {
                self.sample(&name, [labels, &shard, ""], value as f64 / divisor);
            }
        }
    }

    /// Classic histograms, shard by shard: a shard that did not answer is missing, and no sum goes backwards.
    fn histograms(&mut self, stages: &[(ShardId, Stages)]) {
        for series in families(Stage::ALL, |row| row.series()) {
            let name = series[0].series();
            let help: Vec<String> = series.iter().map(|row| format!("{}: {}", stage_name(*row), row.help())).collect();
            self.head(name, "histogram", &help.join("; "));
            let (bucket, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
            for (shard, times) in stages {
                let shard = format!("shard=\"{}\"", shard.0);
                for stage in series {
                    let view = Classic::of(times, *stage);
                    for (bound, up_to) in BOUNDS.iter().zip(view.up_to) {
                        let le = format!("le=\"{}\"", bound.as_secs_f64());
                        self.sample(&bucket, [stage.labels(), &shard, &le], up_to as f64);
                    }
                    self.sample(&bucket, [stage.labels(), &shard, "le=\"+Inf\""], view.count as f64);
                    self.sample(&sum, [stage.labels(), &shard, ""], view.sum_seconds);
                    self.sample(&count, [stage.labels(), &shard, ""], view.count as f64);
                }
            }
        }
    }

    /// Quantiles since the start, over all shards that answered, to two significant digits.
    fn quantiles(&mut self, stages: &[(ShardId, Stages)]) {
        const NAME: &str = "ringpost_stage_quantile_seconds";
        self.head(NAME, "gauge", "quantiles of ringpost_stage_seconds since the start, over all shards");
        let mut all = Stages::default();
        for (_, times) in stages {
            all.merge(times);
        }
        for stage in Stage::ALL {
            let histogram = all.histogram(*stage);
            if histogram.is_empty() {
                continue;
            }
            for quantile in QUANTILES {
                let nanos = histogram.value_at_quantile(quantile).min(histogram.max());
                let label = format!("quantile=\"{quantile}\"");
                self.sample(NAME, [stage.labels(), &label, ""], seconds(nanos));
            }
        }
    }

    fn rows(&mut self, rows: &[Row]) {
        for (index, row) in rows.iter().enumerate() {
            if rows[..index].iter().any(|earlier| earlier.name == row.name) {
                continue; // written with the first of its series
            }
            debug_assert!(row.kind == Kind::Gauge || row.name.ends_with("_total"), "{} is a counter", row.name);
            let kind = match row.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            self.head(&row.name, kind, &row.help);
            for sample in rows[index..].iter().filter(|sample| sample.name == row.name) {
                self.sample(&sample.name, [&sample.labels, "", ""], sample.value);
            }
        }
    }
}

/// One stage's times as cumulative buckets.
struct Classic {
    up_to: [u64; BOUNDS.len()],
    count: u64,
    sum_seconds: f64,
}

impl Classic {
    fn of(times: &Stages, stage: Stage) -> Self {
        let histogram = times.histogram(stage);
        let mut view = Self { up_to: [0; BOUNDS.len()], count: 0, sum_seconds: 0.0 };
        for step in histogram.iter_recorded() {
            let middle = histogram.median_equivalent(step.value_iterated_to());
            let count = step.count_since_last_iteration();
            view.count += count;
            view.sum_seconds += seconds(middle) * count as f64;
            for (bound, up_to) in BOUNDS.iter().zip(&mut view.up_to) {
                if u128::from(middle) <= bound.as_nanos() {
                    *up_to += count;
                }
            }
        }
        view
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// A series' name in base units, and what its values are divided by.
fn base_unit(name: &'static str) -> (Cow<'static, str>, f64) {
    if name.contains("_nanoseconds") {
        (Cow::Owned(name.replace("_nanoseconds", "_seconds")), 1e9)
    } else {
        (Cow::Borrowed(name), 1.0)
    }
}

/// `x` of `key="x"`.
fn label_value(labels: &str) -> Option<&str> {
    labels.split('"').nth(1)
}

fn stage_name(stage: Stage) -> &'static str {
    label_value(stage.labels()).unwrap_or_default()
}

/// Upper bounds of the buckets, 1 µs to 10 s.
const BOUNDS: [Duration; 22] = {
    let mut bounds = [Duration::ZERO; 22];
    let (mut index, mut decade) = (0, 1);
    while index < bounds.len() {
        let step = match index % 3 {
            0 => 1,
            1 => 2,
            _ => 5,
        };
        bounds[index] = Duration::from_micros(step * decade);
        if index % 3 == 2 {
            decade *= 10;
        }
        index += 1;
    }
    bounds
};

const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn page() -> String {
        let shards = [Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default())];
        shards[1].add(Counter::RequestMessage, 7);
        shards[0].add(Counter::RingIdle, 2_500_000_000);
        shards[0].set(Gauge::Streams, 3);
        let mut times = Stages::default();
        times.record(Stage::Handle, Duration::from_nanos(900));
        times.record(Stage::Handle, Duration::from_micros(150));
        times.record(Stage::Handle, Duration::from_secs(60));
        let rows = [
            Row::gauge("ringpost_mailbox_items", "items\nwaiting \\ queued", 4.0).labelled("mailbox=\"store\""),
            Row::counter("ringpost_store_commits_total", "commits", 9.0),
            Row::gauge("ringpost_mailbox_items", "unused", 5.0).labelled("mailbox=\"control\""),
        ];
        render(&Snapshot {
            shards: &shards,
            stages: &[(ShardId(0), times), (ShardId(1), Stages::default())],
            rows: &rows,
        })
    }

    fn value(page: &str, series: &str) -> f64 {
        let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn every_shard_has_its_own_samples() {
        let page = page();
        assert_eq!(value(&page, r#"ringpost_sip_requests_total{method="MESSAGE",shard="0"}"#), 0.0);
        assert_eq!(value(&page, r#"ringpost_sip_requests_total{method="MESSAGE",shard="1"}"#), 7.0);
        assert_eq!(value(&page, r#"ringpost_streams{shard="0"}"#), 3.0);
    }

    #[test]
    fn nanoseconds_leave_as_seconds() {
        let page = page();
        assert_eq!(value(&page, r#"ringpost_shard_idle_seconds_total{shard="0"}"#), 2.5);
        assert!(!page.contains("nanoseconds"));
    }

    #[test]
    fn histograms_are_cumulative_and_end_in_infinity() {
        let page = page();
        let bucket =
            |le| value(&page, &format!(r#"ringpost_stage_seconds_bucket{{stage="handle",shard="0",le="{le}"}}"#));
        assert_eq!(
            [bucket("0.000001"), bucket("0.0001"), bucket("0.0002"), bucket("10"), bucket("+Inf")],
            [1.0, 1.0, 2.0, 2.0, 3.0]
        );
        assert_eq!(value(&page, r#"ringpost_stage_seconds_count{stage="handle",shard="0"}"#), 3.0);
        let sum = value(&page, r#"ringpost_stage_seconds_sum{stage="handle",shard="0"}"#);
        assert!((59.0..61.0).contains(&sum), "{sum}");
    }

    #[test]
    fn quantiles_are_taken_over_all_shards() {
        let page = page();
        let median = value(&page, r#"ringpost_stage_quantile_seconds{stage="handle",quantile="0.5"}"#);
        assert!((0.000149..0.000152).contains(&median), "{median}");
        assert!(value(&page, r#"ringpost_stage_quantile_seconds{stage="handle",quantile="1"}"#) > 59.0);
        assert!(!page.contains(r#"quantile_seconds{stage="total""#), "no quantile of nothing");
    }

    #[test]
    fn rows_of_one_series_stand_together_under_one_head() {
        let page = page();
        assert!(page.contains(concat!(
            "# HELP ringpost_mailbox_items items\\nwaiting \\\\ queued\n# TYPE ringpost_mailbox_items gauge\n",
            "ringpost_mailbox_items{mailbox=\"store\"} 4\nringpost_mailbox_items{mailbox=\"control\"} 5\n"
        )));
    }

    #[test]
    fn the_page_keeps_the_rules_of_the_format() {
        // The rules of `promtool check metrics` that a page can break.
        let page = page();
        let mut kinds: HashMap<&str, &str> = HashMap::new();
        let mut helped = HashSet::new();
        let mut samples = HashSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                let (name, help) = head.split_once(' ').unwrap();
                assert!(helped.insert(name), "a second HELP for {name}");
                assert!(!help.trim().is_empty());
            } else if let Some(head) = line.strip_prefix("# TYPE ") {
                let (name, kind) = head.split_once(' ').unwrap();
                assert!(kinds.insert(name, kind).is_none(), "a second TYPE for {name}");
                assert!(helped.contains(name), "HELP comes first");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                assert!(["_milliseconds", "_microseconds", "_nanoseconds"].iter().all(|unit| !name.contains(unit)));
                current = name;
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                value.parse::<f64>().unwrap();
                assert!(samples.insert(sample), "a second {sample}");
                let name = sample.split('{').next().unwrap();
                assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'));
                let base = match kinds[current] {
                    "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)),
                    _ => Some(name),
                };
                assert_eq!(base, Some(current), "{name} stands under its own head");
            }
        }
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn bounds_go_from_a_microsecond_to_ten_seconds() {
        assert_eq!(BOUNDS[0], Duration::from_micros(1));
        assert_eq!(BOUNDS[BOUNDS.len() - 1], Duration::from_secs(10));
        assert!(BOUNDS.is_sorted());
    }
}
