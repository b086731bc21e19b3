//! What is kept of a run: histograms, exact maxima, windows; never the samples themselves.

use hdrhistogram::Histogram;

use crate::report::model::{EncodedHistogram, ModelError, Summary};

/// The longest latency a histogram tells apart: one hour, in nanoseconds.
pub const LONGEST_NS: u64 = 3_600_000_000_000;

/// An empty histogram of the one shape used everywhere (1 ns to one hour, 3 digits), so that any two can be added
/// bucket by bucket.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that the constructor accepts: this cannot fail for any input of a user's.
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("constant bounds are valid")
}

/// One latency, recorded over a run: a histogram and, beside it, what a histogram cannot hold exactly.
#[derive(Clone, Debug)]
pub struct Metric {
    histogram: Histogram<u64>,
    sum_ns: u128,
    max: Option<(u64, u64)>,
    censored: u64,
    censored_from: Option<u64>,
    clamped: u64,
}

impl Default for Metric {
    fn default() -> Self {
        Self::new()
    }
}

impl Metric {
    /// An empty metric.
    pub fn new() -> Self {
        Self { histogram: histogram(), sum_ns: 0, max: None, censored: 0, censored_from: None, clamped: 0 }
    }

    /// Records `ns` nanoseconds for the request with this index in the schedule.
    pub fn record(&mut self, ns: u64, index: u64) {
        if self.histogram.record(ns).is_err() {
            // Longer than an hour: it counts in the top bucket, and the exact maximum tells how long.
            self.histogram.saturating_record(ns);
            self.clamped += 1;
        }
        self.sum_ns += u128::from(ns);
        if self.max.is_none_or(|(max, _)| ns > max) {
            self.max = Some((ns, index));
        }
    }

    /// Records a request that had not ended at the age of `ns`: its latency is at least that.
    pub fn record_censored(&mut self, ns: u64, index: u64) {
        self.record(ns, index);
        self.censored += 1;
        self.censored_from = Some(self.censored_from.map_or(ns, |from| from.min(ns)));
    }

    /// Adds everything recorded in `other`; bucket by bucket, so nothing is lost by it.
    pub fn merge(&mut self, other: &Metric) {
        // Both have the same bounds and precision, the only reason for which an addition can fail.
        self.histogram.add(&other.histogram).expect("histograms of one shape");
        self.sum_ns += other.sum_ns;
        if let Some((ns, index)) = other.max
            && self.max.is_none_or(|(max, _)| ns > max)
        {
            self.max = Some((ns, index));
        }
        self.censored += other.censored;
        self.censored_from = match (self.censored_from, other.censored_from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.clamped += other.clamped;
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.histogram.reset();
        self.sum_ns = 0;
        self.max = None;
        self.censored = 0;
        self.censored_from = None;
        self.clamped = 0;
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The sum of all values, in nanoseconds, exact.
    pub fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// The mean in nanoseconds, exact; 0 when empty.
    pub fn mean_ns(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.sum_ns as f64 / self.count() as f64 }
    }

    /// The largest value in nanoseconds, exact; 0 when empty.
    pub fn max_ns(&self) -> u64 {
        self.max.map_or(0, |(ns, _)| ns)
    }

    /// The value, in nanoseconds, that `quantile` (0 to 1) of all values do not exceed; within 0.1 %.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile).min(self.max_ns())
    }

    /// The share of all values above `ns` nanoseconds.
    pub fn share_above(&self, ns: u64) -> f64 {
        if self.count() == 0 {
            return 0.0;
        }
        1.0 - self.histogram.count_between(0, ns) as f64 / self.count() as f64
    }

    /// How many values are lower bounds only ([`Metric::record_censored`]).
    pub fn censored(&self) -> u64 {
        self.censored
    }

    /// The buckets.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The form that stands in a result file: durations in seconds, and the buckets themselves.
    pub fn summary(&self) -> Summary {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let some = self.count() > 0;
        let at = |quantile| some.then(|| seconds(self.quantile_ns(quantile)));
        Summary {
            count: self.count(),
            mean: some.then(|| self.mean_ns() / 1e9),
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.max.map(|(ns, _)| seconds(ns)),
            max_index: self.max.map(|(_, index)| index),
            censored: self.censored,
            censored_from: self.censored_from.map(seconds),
            sum: self.sum_ns as f64 / 1e9,
            histogram: EncodedHistogram::encode(&self.histogram),
        }
    }

    /// Reads a metric back from a result file.
    ///
    /// # Errors
    /// When the histogram in it cannot be decoded or has another shape than [`histogram`]'s.
    pub fn from_summary(summary: &Summary) -> Result<Self, ModelError> {
        let mut metric = Self::new();
        metric.histogram.add(summary.histogram.decode()?).map_err(|_| ModelError::Shape)?;
        let ns = |seconds: f64| (seconds * 1e9).round() as u64;
        metric.sum_ns = (summary.sum * 1e9).round() as u128;
        metric.max = summary.max.map(|max| (ns(max), summary.max_index.unwrap_or(0)));
        metric.censored = summary.censored;
        metric.censored_from = summary.censored_from.map(ns);
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_survives_the_result_file() {
        let mut metric = Metric::new();
        for i in 0..1000 {
            metric.record(i * 1_234_567, i);
        }
        metric.record_censored(7_000_000_000, 1000);
        let summary = metric.summary();
        let text = serde_json::to_string(&summary).unwrap();
        let back = Metric::from_summary(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(back.histogram(), metric.histogram());
        assert_eq!(back.max_ns(), 7_000_000_000);
        assert_eq!(back.sum_ns(), metric.sum_ns());
        assert_eq!(back.summary(), summary);
    }

    #[test]
    fn a_merge_is_the_sum_of_the_buckets() {
        let (mut whole, mut parts) = (Metric::new(), [Metric::new(), Metric::new(), Metric::new()]);
        for i in 0..10_000_u64 {
            let ns = i.wrapping_mul(2_654_435_761) % 5_000_000_000;
            whole.record(ns, i);
            parts[(i % 3) as usize].record(ns, i);
        }
        let mut merged = Metric::new();
        parts.iter().for_each(|part| merged.merge(part));
        assert_eq!(merged.summary(), whole.summary());
    }

    #[test]
    fn longer_than_the_longest_still_counts_and_its_maximum_is_exact() {
        let mut metric = Metric::new();
        metric.record(2 * LONGEST_NS, 3);
        assert_eq!((metric.count(), metric.max_ns(), metric.clamped), (1, 2 * LONGEST_NS, 1));
    }
}
