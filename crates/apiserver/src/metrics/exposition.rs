//! The Prometheus text format: families, samples, histograms.
//!
//! Numbers in, text out; what is measured is not known here. Counterpart: `component-base/metrics` and the text encoder of
//! Prometheus' client. Invariant: recording is a few atomic additions and never waits.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The body of `/metrics` while it is being written.
#[derive(Default)]
pub struct Exposition {
    text: String,
}

/// How often a measured value was at most each bound.
pub struct Histogram {
    bounds: &'static [f64],
    /// One count per bound, and one for what is beyond them all.
    counts: Box<[AtomicU64]>,
    /// In millionths, so that it can be added to without a lock.
    sum: AtomicU64,
}

const MILLION: f64 = 1e6;

// === impl Exposition ===

impl Exposition {
    /// Announces a family; its samples follow. `of` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, of: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {of}");
    }

    /// One value; `labels` is either empty or `name="value",...`.
    pub fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{name} {value}"),
            false => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    /// A family of a single value.
    pub fn single(&mut self, name: &str, of: &str, help: &str, value: impl Display) {
        self.family(name, of, help);
        self.sample(name, "", value);
    }

    pub fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            below += count.load(Relaxed);
            self.sample(&bucket, &format!("{labels}{comma}le=\"{bound}\""), below);
        }
        let all = histogram.count();
        self.sample(&bucket, &format!("{labels}{comma}le=\"+Inf\""), all);
        self.sample(&format!("{name}_sum"), labels, histogram.sum());
        self.sample(&format!("{name}_count"), labels, all);
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

/// A label's value, with what would end it escaped.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

// === impl Histogram ===

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[at].fetch_add(1, Relaxed);
        self.sum.fetch_add((value * MILLION) as u64, Relaxed);
    }

    pub fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Takes in what another one counted, of the same bounds.
    pub fn add(&self, other: &Histogram) {
        for (count, more) in self.counts.iter().zip(&other.counts) {
            count.fetch_add(more.load(Relaxed), Relaxed);
        }
        self.sum.fetch_add(other.sum.load(Relaxed), Relaxed);
    }

    fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / MILLION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_everything_below_their_bound() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        [0.05, 0.5, 0.5, 7.0].into_iter().for_each(|value| histogram.observe(value));
        let mut out = Exposition::default();
        out.family("x_seconds", "histogram", "[STABLE] Some time.");
        out.histogram("x_seconds", "verb=\"GET\"", &histogram);
        assert_eq!(
            out.into_text(),
            "# HELP x_seconds [STABLE] Some time.\n# TYPE x_seconds histogram\n\
             x_seconds_bucket{verb=\"GET\",le=\"0.1\"} 1\n\
             x_seconds_bucket{verb=\"GET\",le=\"1\"} 3\n\
             x_seconds_bucket{verb=\"GET\",le=\"+Inf\"} 4\n\
             x_seconds_sum{verb=\"GET\"} 8.05\nx_seconds_count{verb=\"GET\"} 4\n"
        );
    }
}
