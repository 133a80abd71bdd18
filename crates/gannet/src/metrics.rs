//! Metrics: a histogram, a writer of the Prometheus text format, and the metrics of a fetcher.
//!
//! No registry: whoever serves `/metrics` writes the page when it is asked for, from atomics and
//! snapshots. What is written conforms to the text exposition format 0.0.4 whatever the labels hold.
//! Nothing here bounds the number of label values: do not put what strangers send into one.
//!
//! ```
//! use gannet::metrics::{Histogram, Page};
//!
//! let waited = Histogram::new(&[0.1, 1.0]);
//! waited.observe(0.25);
//! let mut page = Page::new();
//! page.counter("jobs_total", "Jobs done.").sample(&[("kind", "small")], 3_u64);
//! page.histogram("wait_seconds", "How long jobs wait.").samples(&[], &waited);
//! let lines: Vec<&str> = page.text().lines().filter(|line| !line.starts_with('#')).collect();
//! assert_eq!(
//!     lines,
//!     [
//!         "jobs_total{kind=\"small\"} 3",
//!         "wait_seconds_bucket{le=\"0.1\"} 0",
//!         "wait_seconds_bucket{le=\"1\"} 1",
//!         "wait_seconds_bucket{le=\"+Inf\"} 1",
//!         "wait_seconds_sum 0.25",
//!         "wait_seconds_count 1",
//!     ]
//! );
//! ```

use crate::{
    Gauges,
    engine::{Counters, Health, SourceId, SourceView},
};
use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The content type of a [`Page`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds for durations in seconds, from half a millisecond to a minute.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// A histogram with fixed bounds. Observing takes no lock and costs O(log bounds).
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what exceeds all.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// A histogram whose buckets end at these bounds, in rising order; one without end follows.
    ///
    /// # Panics
    ///
    /// If the bounds do not rise.
    pub fn new(bounds: &'static [f64]) -> Self {
        assert!(
            bounds.is_sorted_by(|a, b| a < b),
            "the bounds of a histogram rise"
        );
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one value. What is not a number is left out.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A page of metrics in the Prometheus text format.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// What one of several fetchers tells of itself.
#[derive(Clone, Debug)]
pub struct Figures<'a> {
    /// What tells it from the others.
    pub labels: &'a [(&'static str, &'a str)],
    /// What is in flight.
    pub gauges: Gauges,
    /// What has happened.
    pub counters: Counters,
    /// Its sources, and their names.
    pub sources: Vec<(String, SourceView)>,
}

impl<'a> Figures<'a> {
    fn with<'b>(&self, more: &[(&'static str, &'b str)]) -> Vec<(&'static str, &'b str)>
    where
        'a: 'b,
    {
        self.labels.iter().chain(more).copied().collect()
    }
}

/// Sources with the names that they have on a page.
pub fn named(
    sources: impl IntoIterator<Item = SourceView>,
    mut name: impl FnMut(SourceId) -> String,
) -> Vec<(String, SourceView)> {
    let sources = sources.into_iter();
    sources
        .map(|source| (name(source.source), source))
        .collect()
}

/// One figure of many.
type Figure<T> = fn(&T) -> u64;

/// All sources of all fetchers.
fn all<'b, 'a: 'b>(
    fetchers: &'b [Figures<'a>],
) -> impl Iterator<Item = (&'b Figures<'a>, &'b str, &'b SourceView)> {
    fetchers.iter().flat_map(|fetcher| {
        let sources = fetcher.sources.iter();
        sources.map(move |(name, source)| (fetcher, name.as_str(), source))
    })
}

impl Page {
    /// An empty page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a counter; its name should end in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    /// Begins a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    /// Begins a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "histogram")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        debug_assert!(is_name(name), "{name:?} is no name of a metric");
        let text = &mut self.text;
        let _ = writeln!(text, "# HELP {name} {}", Escaped(help, false));
        let _ = writeln!(text, "# TYPE {name} {kind}");
        Family { text, name }
    }

    /// Writes what a fetcher tells of itself: `gannet_fetch_*` and `gannet_source_*`. `name` gives
    /// the label of a source.
    pub fn fetcher(
        &mut self,
        gauges: &Gauges,
        counters: &Counters,
        sources: &[SourceView],
        name: impl FnMut(SourceId) -> String,
    ) {
        let sources = sources.iter().cloned();
        self.fetchers(&[Figures {
            labels: &[],
            gauges: *gauges,
            counters: *counters,
            sources: named(sources, name),
        }]);
    }

    /// Writes what several fetchers of one process tell of themselves, each under its own labels.
    pub fn fetchers(&mut self, fetchers: &[Figures<'_>]) {
        let gauges: [(_, _, Figure<Gauges>); 4] = [
            (
                "gannet_fetch_inflight",
                "Fetches that are not over.",
                |gauges| gauges.fetches,
            ),
            (
                "gannet_fetch_waiters",
                "Callers without an outcome yet.",
                |gauges| gauges.waiters,
            ),
            ("gannet_fetch_attempts", "Requests under way.", |gauges| {
                gauges.attempts
            }),
            ("gannet_fetch_body_bytes", "Bytes in bodies.", |gauges| {
                gauges.body_bytes
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = self.gauge(name, help);
            for fetcher in fetchers {
                family.sample(fetcher.labels, value(&fetcher.gauges));
            }
        }
        let counters: [(_, _, Figure<Counters>); 7] = [
            ("gannet_fetch_wants_total", "Wants taken.", |counters| {
                counters.wants
            }),
            (
                "gannet_fetch_coalesced_total",
                "Wants that joined a fetch.",
                |counters| counters.coalesced,
            ),
            (
                "gannet_fetch_attempts_total",
                "Requests made.",
                |counters| counters.attempts,
            ),
            (
                "gannet_fetch_resumes_total",
                "Requests that continued a body.",
                |counters| counters.resumes,
            ),
            (
                "gannet_fetch_retries_total",
                "Requests after a failed one.",
                |counters| counters.retries,
            ),
            (
                "gannet_fetch_timeouts_total",
                "Requests that took too long.",
                |counters| counters.timeouts,
            ),
            (
                "gannet_fetch_faults_total",
                "Requests that failed.",
                |counters| counters.faults,
            ),
        ];
        for (name, help, value) in counters {
            let mut family = self.counter(name, help);
            for fetcher in fetchers {
                family.sample(fetcher.labels, value(&fetcher.counters));
            }
        }
        let mut hedges = self.counter(
            "gannet_fetch_hedges_total",
            "Hedges, by whether they brought the datum.",
        );
        for fetcher in fetchers {
            let counters = &fetcher.counters;
            let won = counters.hedges_won.min(counters.hedges);
            for (label, count) in [("true", won), ("false", counters.hedges - won)] {
                hedges.sample(&fetcher.with(&[("won", label)]), count);
            }
        }
        let mut outcomes =
            self.counter("gannet_fetch_outcomes_total", "Outcomes given to callers.");
        for fetcher in fetchers {
            let counters = &fetcher.counters;
            for (label, count) in [("datum", counters.answered), ("error", counters.failed)] {
                outcomes.sample(&fetcher.with(&[("outcome", label)]), count);
            }
        }
        let mut health = self.gauge("gannet_source_health", "1 for the state a source is in.");
        for (fetcher, name, source) in all(fetchers) {
            for (state, label) in STATES {
                let labels = fetcher.with(&[("source", name), ("state", label)]);
                health.sample(&labels, u64::from(source.health == state));
            }
        }
        let mut latency = self.gauge("gannet_source_latency_seconds", "Mean time to first byte.");
        for (fetcher, name, source) in all(fetchers) {
            if let Some(mean) = source.latency_mean {
                latency.sample(&fetcher.with(&[("source", name)]), mean.as_secs_f64());
            }
        }
        let mut blocked = self.gauge("gannet_source_blocked", "1 if the source is blocked.");
        for (fetcher, name, source) in all(fetchers) {
            let labels = fetcher.with(&[("source", name)]);
            blocked.sample(&labels, u64::from(source.blocked.is_some()));
        }
    }

    /// The page.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The page, to be sent.
    pub fn into_text(self) -> String {
        self.text
    }
}

const STATES: [(Health, &str); 5] = [
    (Health::Healthy, "healthy"),
    (Health::Disconnected, "disconnected"),
    (Health::Degraded, "degraded"),
    (Health::Dead, "dead"),
    (Health::Throttled, "throttled"),
];

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// Writes one sample. Names of labels are the program's own; values may hold anything.
    pub fn sample(
        &mut self,
        labels: &[(&'static str, &str)],
        value: impl Into<Number>,
    ) -> &mut Self {
        self.line("", labels, None, value.into());
        self
    }

    /// Writes the samples of a histogram.
    pub fn samples(&mut self, labels: &[(&'static str, &str)], histogram: &Histogram) -> &mut Self {
        let counts = histogram.counts.iter().map(|count| count.load(Relaxed));
        let sum = f64::from_bits(histogram.sum.load(Relaxed));
        self.buckets(labels, histogram.bounds, counts, sum)
    }

    /// Writes the samples of a histogram that was counted elsewhere: how many values each bucket got
    /// (one for each bound, and one for what exceeds all), and their sum.
    pub fn buckets(
        &mut self,
        labels: &[(&'static str, &str)],
        bounds: &[f64],
        counts: impl IntoIterator<Item = u64>,
        sum: f64,
    ) -> &mut Self {
        let mut below = 0;
        for (n, count) in counts.into_iter().enumerate() {
            below += count;
            let bound = bounds.get(n).copied().unwrap_or(f64::INFINITY);
            self.line("_bucket", labels, Some(bound), below.into());
        }
        self.line("_sum", labels, None, sum.into());
        // The same as the last bucket, whatever was counted meanwhile.
        self.line("_count", labels, None, below.into());
        self
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&'static str, &str)],
        bound: Option<f64>,
        value: Number,
    ) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let mut next = '{';
        for (label, value) in labels {
            debug_assert!(
                is_name(label) && !label.contains(':'),
                "{label:?} is no label"
            );
            let _ = write!(text, "{next}{label}=\"{}\"", Escaped(value, true));
            next = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(text, "{next}le=\"{}\"", Number::from(bound));
            next = ',';
        }
        if next == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// A value of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Number(Value);

#[derive(Clone, Copy, Debug)]
enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self(Value::Whole(value))
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self(Value::Whole(value.into()))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(Value::Real(value))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Whole(value) => write!(f, "{value}"),
            Value::Real(value) if value.is_nan() => f.write_str("NaN"),
            Value::Real(f64::INFINITY) => f.write_str("+Inf"),
            Value::Real(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Value::Real(value) => write!(f, "{value}"),
        }
    }
}

/// Text as the format wants it: in quotes (a label's value), or to the end of the line (a help).
struct Escaped<'a>(&'a str, bool);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['\\', '\n', '"']) {
            let (plain, special) = match part.chars().next_back() {
                Some(last @ ('\\' | '\n' | '"')) => (&part[..part.len() - 1], Some(last)),
                _ => (part, None),
            };
            f.write_str(plain)?;
            match special {
                Some('\\') => f.write_str("\\\\")?,
                Some('\n') => f.write_str("\\n")?,
                Some('"') => f.write_str(if self.1 { "\\\"" } else { "\"" })?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_' || first == b':')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Name, labels, value.
    type Sample = (String, Vec<(String, String)>, String);

    /// Reads one sample line as the format's grammar has it.
    fn parse(line: &str) -> Option<Sample> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, value) = rest.split_once("=\"")?;
                let mut text = String::new();
                let mut chars = value.char_indices();
                let end = loop {
                    match chars.next()? {
                        (at, '"') => break at,
                        (_, '\\') => text.push(match chars.next()?.1 {
                            'n' => '\n',
                            escaped @ ('\\' | '"') => escaped,
                            _ => return None,
                        }),
                        (_, other) => text.push(other),
                    }
                };
                labels.push((label.to_owned(), text));
                rest = &value[end + 1..];
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        Some((name.to_owned(), labels, rest.strip_prefix(' ')?.to_owned()))
    }

    proptest! {
        /// Whatever labels and helps hold, the page keeps its lines, and a reader gets them back.
        #[test]
        fn any_text_survives(a in any::<String>(), b in "[\\\\\"\n{}=, a]*", value in any::<u64>()) {
            let mut page = Page::new();
            page.counter("x_total", &a).sample(&[("a", &a), ("b", &b)], value).sample(&[], value);
            // Only line feeds end lines: other separators are ordinary text in this format.
            let lines: Vec<&str> = page.text().split_terminator('\n').collect();
            prop_assert_eq!(lines.len(), 4);
            prop_assert!(lines[0].starts_with("# HELP x_total "));
            let labels = vec![("a".to_owned(), a), ("b".to_owned(), b)];
            prop_assert_eq!(parse(lines[2]), Some(("x_total".to_owned(), labels, value.to_string())));
            prop_assert_eq!(parse(lines[3]), Some(("x_total".to_owned(), vec![], value.to_string())));
        }

        /// Buckets are cumulative, and hold what is at most their bound.
        #[test]
        fn buckets_are_cumulative(values in prop::collection::vec(-1.0..100.0_f64, 0..50)) {
            let histogram = Histogram::new(SECONDS);
            values.iter().for_each(|value| histogram.observe(*value));
            let mut page = Page::new();
            page.histogram("h", "").samples(&[], &histogram);
            for line in page.text().lines().filter(|line| line.starts_with("h_bucket")) {
                let (_, labels, count) = parse(line).unwrap();
                let bound: f64 = labels[0].1.trim_start_matches('+').parse().unwrap();
                let expected = values.iter().filter(|value| **value <= bound).count();
                prop_assert_eq!(count, expected.to_string());
            }
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }

    #[test]
    fn numbers() {
        let check = |number: Number, text: &str| assert_eq!(number.to_string(), text);
        check(u64::MAX.into(), "18446744073709551615");
        check(7_u32.into(), "7");
        check(0.5.into(), "0.5");
        check(3.0.into(), "3");
        check(f64::INFINITY.into(), "+Inf");
        check(f64::NEG_INFINITY.into(), "-Inf");
        check(f64::NAN.into(), "NaN");
    }

    #[test]
    fn what_is_no_number_is_not_counted() {
        let histogram = Histogram::new(&[1.0]);
        histogram.observe(f64::NAN);
        histogram.observe(f64::INFINITY);
        histogram.observe(1.0);
        let mut page = Page::new();
        page.histogram("h", "").samples(&[("a", "b")], &histogram);
        let expected = "# HELP h \n# TYPE h histogram\nh_bucket{a=\"b\",le=\"1\"} 1\n\
            h_bucket{a=\"b\",le=\"+Inf\"} 2\nh_sum{a=\"b\"} +Inf\nh_count{a=\"b\"} 2\n";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn names() {
        let check = |name: &str, fits: bool| assert_eq!(is_name(name), fits, "{name:?}");
        check("a_b:c9", true);
        check("_", true);
        check("", false);
        check("9a", false);
        check("a-b", false);
        check("ä", false);
    }

    #[test]
    fn a_fetcher_with_a_source_that_has_a_strange_name() {
        let mut page = Page::new();
        let counters = Counters::default();
        let view = SourceView {
            source: SourceId(1),
            group: crate::engine::GroupId(1),
            health: Health::Degraded,
            up: true,
            blocked: Some(None),
            parked_until: None,
            attempts: 0,
            queued: 0,
            performance: 0,
            latency_mean: Some(std::time::Duration::from_millis(250)),
            latency_p99: None,
            faults: 1,
        };
        page.fetcher(&Gauges::default(), &counters, &[view], |_| {
            "a\"b".to_owned()
        });
        let text = page.text();
        assert!(text.contains("gannet_source_health{source=\"a\\\"b\",state=\"degraded\"} 1\n"));
        assert!(text.contains("gannet_source_health{source=\"a\\\"b\",state=\"healthy\"} 0\n"));
        assert!(text.contains("gannet_source_latency_seconds{source=\"a\\\"b\"} 0.25\n"));
        assert!(text.contains("gannet_source_blocked{source=\"a\\\"b\"} 1\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                parse(line).is_some_and(|(name, ..)| is_name(&name)),
                "{line}"
            );
        }
    }
}
