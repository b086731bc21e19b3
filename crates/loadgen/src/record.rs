//! What is kept of a run: histograms, exact maxima, windows; never the samples themselves.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

use crate::clock::{Nanos, SECOND};
use crate::result::{Counts, EncodedHistogram, ModelError, Summary, WarmUp, add_counts};
use crate::schedule::Job;

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
        self.raise_max(ns, index);
    }

    /// Of two that took equally long it names the earlier, so that the order of a merge makes no difference.
    fn raise_max(&mut self, ns: u64, index: u64) {
        if self.max.is_none_or(|(max, at)| ns > max || ns == max && index < at) {
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
        if let Some((ns, index)) = other.max {
            self.raise_max(ns, index);
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

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered as it should be.
    Ok,
    /// Answered otherwise, or failed; the class is counted by name.
    Error(Cow<'static, str>),
    /// Cancelled at its timeout.
    Timeout,
    /// It had not ended when the run did.
    Unfinished,
}

/// How a request failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it is counted under.
    pub class: Cow<'static, str>,
    /// What was wrong with this very one.
    pub detail: String,
}

impl Failure {
    /// A failure of this class.
    pub fn new(class: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { class: class.into(), detail: detail.into() }
    }

    /// The server closed a connection that was idle when the request was given to it, and the request is none that can be
    /// sent again.
    pub fn closed_while_idle() -> Self {
        Self::new(
            "closed while idle",
            "the server closed the connection while it was idle; sent twice, such a request could act twice",
        )
    }
}

/// The moments of one request. Those it never reached are `None`.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    /// Intended and released.
    pub job: Job,
    /// Waited so long for a free connection while the server was answering others.
    pub waited: Nanos,
    /// It had a connection to itself.
    pub connected: Option<Nanos>,
    /// The first byte of the reply.
    pub first_byte: Option<Nanos>,
    /// The last byte, the failure, or the moment at which it was given up.
    pub ended: Nanos,
}

/// The requests that ended within one second (see [`Recorder::take_full`]).
#[derive(Clone, Debug, Default)]
pub struct WindowRecord {
    /// The number of the window: it starts this many seconds after the measured schedule.
    pub number: u64,
    /// Corrected latency.
    pub corrected: Metric,
    /// Uncorrected latency.
    pub uncorrected: Metric,
    /// Ended ok.
    pub ok: u64,
    /// Ended with an error.
    pub error: u64,
    /// Timed out or unfinished.
    pub timeout: u64,
    /// Requests under way or waiting when the window closed.
    pub in_flight: u64,
}

impl WindowRecord {
    /// Adds the same window of another worker.
    pub fn merge(&mut self, other: &WindowRecord) {
        self.corrected.merge(&other.corrected);
        self.uncorrected.merge(&other.uncorrected);
        self.ok += other.ok;
        self.error += other.error;
        self.timeout += other.timeout;
        self.in_flight += other.in_flight;
    }

    fn clear(&mut self) {
        self.corrected.clear();
        self.uncorrected.clear();
        (self.ok, self.error, self.timeout, self.in_flight) = (0, 0, 0, 0);
    }

    fn is_empty(&self) -> bool {
        self.ok + self.error + self.timeout == 0
    }
}

/// Length of a window.
pub const WINDOW: Nanos = SECOND;

/// Corrected latencies grouped by *intended* time: what the slope of a growing backlog is fitted to.
#[derive(Clone, Debug)]
pub struct Groups {
    length: Nanos,
    groups: Vec<Histogram<u64>>,
}

impl Groups {
    /// Groups of `min(1 s, duration / 10)`, but not more than a hundred of them.
    pub fn new(duration: Nanos) -> Self {
        let length = SECOND.min(duration / 10).max(duration / 100).max(1);
        Self { length, groups: Vec::new() }
    }

    fn record(&mut self, since_start: Nanos, latency: Nanos) {
        let group = (since_start / self.length) as usize;
        while self.groups.len() <= group.min(127) {
            // Two digits and growing on demand: a median needs no more, and there are many of these.
            self.groups.push(Histogram::new(2).expect("a constant precision"));
        }
        if let Some(histogram) = self.groups.get_mut(group) {
            // It grows for any value: there is no error to lose.
            _ = histogram.record(latency);
        }
    }

    fn merge(&mut self, other: &Groups) {
        for (i, histogram) in other.groups.iter().enumerate() {
            match self.groups.get_mut(i) {
                Some(mine) => mine.add(histogram).expect("an auto-resizing histogram takes any other"),
                None => self.groups.push(histogram.clone()),
            }
        }
    }

    /// The medians as (seconds from the start, seconds of latency); empty groups are left out.
    pub fn medians(&self) -> Vec<(f64, f64)> {
        let middle = |i: usize| (i as f64 + 0.5) * self.length as f64 / 1e9;
        (self.groups.iter().enumerate())
            .filter(|(_, group)| !group.is_empty())
            .map(|(i, group)| (middle(i), group.value_at_quantile(0.5) as f64 / 1e9))
            .collect()
    }
}

/// Everything a run records. One per worker; merged at the end. Its size does not depend on the length of the run.
#[derive(Clone, Debug)]
pub struct Recorder {
    measured_start: Nanos,
    /// Latency from the intended start; errors, timeouts and unfinished requests included.
    pub corrected: Metric,
    /// Latency from the connection.
    pub uncorrected: Metric,
    /// Corrected latency of those that ended ok.
    pub corrected_ok: Metric,
    /// Released minus intended.
    pub send_lag: Metric,
    /// Connection minus released.
    pub pool_wait: Metric,
    /// [`Stamps::waited`] of those that waited at all: the others are not counted in it.
    pub waited: Metric,
    /// Time to establish a connection.
    pub connect: Metric,
    /// First byte minus connection.
    pub first_byte: Metric,
    /// Last byte minus first byte.
    pub body: Metric,
    /// Where every scheduled request ended.
    pub counts: Counts,
    /// Measured requests that got as far as a connection.
    pub sent: u64,
    /// Errors by class.
    pub errors: BTreeMap<String, u64>,
    /// Requests by name, when there are several.
    pub requests: BTreeMap<String, u64>,
    /// By intended time.
    pub groups: Groups,
    /// When the last measured request ended.
    pub last_end: Nanos,
    /// Replies by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The smallest and the largest body of a reply with a good status.
    pub sizes: Option<(u64, u64)>,
    /// Bytes that came from the target.
    pub bytes_read: u64,
    /// Requests that were sent again, since the server had closed the idle connection that they were given.
    pub retried: u64,
    /// What was wrong with one request of each class of errors.
    pub examples: BTreeMap<String, String>,
    /// Requests released and not ended, over time: counted at each event, independently of their latencies.
    in_flight: InFlight,
    /// What became of the warm-up.
    pub warm_up: WarmUp,
    recent: Recent,
    limit: Option<Nanos>,
    over_limit: u64,
    window: WindowRecord,
    full: Vec<WindowRecord>,
    spare: Vec<WindowRecord>,
}

/// How many requests are in flight, and the sum of that over time, in request-nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    now: i64,
    since: Nanos,
    area: i128,
}

impl InFlight {
    fn step(&mut self, at: Nanos, change: i64) {
        self.area += i128::from(self.now) * (i128::from(at) - i128::from(self.since));
        self.since = at;
        self.now += change;
    }
}

/// Uncorrected latencies of the last seconds: a thinned sample of those that ended ok.
#[derive(Clone, Debug, Default)]
struct Recent(VecDeque<(Nanos, Nanos)>);

impl Recent {
    /// "The last seconds".
    const SPAN: Nanos = 5 * SECOND;
    /// One sample in this time at most, so that their number is bounded.
    const SPACING: Nanos = SECOND / 50;
    /// So many stay even when they are older.
    const LEAST: usize = 8;

    fn record(&mut self, at: Nanos, latency: Nanos) {
        if self.0.back().is_none_or(|(last, _)| *last + Self::SPACING <= at) {
            self.0.push_back((at, latency));
            self.forget(at);
        }
    }

    fn forget(&mut self, now: Nanos) {
        while self.0.len() > Self::LEAST && self.0.front().is_some_and(|(at, _)| at + Self::SPAN < now) {
            self.0.pop_front();
        }
    }

    fn merge(&mut self, other: &Self) {
        self.0.extend(&other.0);
        self.0.make_contiguous().sort_unstable();
        if let Some((last, _)) = self.0.back().copied() {
            self.forget(last);
        }
    }

    /// The low quartile: what a reply takes when it need not wait for others.
    fn low_quartile(&self) -> Option<Nanos> {
        let mut latencies: Vec<Nanos> = self.0.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        latencies.get(latencies.len() / 4).copied()
    }
}

/// Error classes that are the generator's own failures and say nothing about the server, each with the next step.
pub const OWN_FAILURES: [(&str, &str); 4] = [
    ("no descriptor left", "raise the limit on open files (ulimit -n) or lower --connections"),
    ("no local port left", "give several --source addresses or widen net.ipv4.ip_local_port_range"),
    ("no memory left", "lower --connections or --threads"),
    ("source address not ours", "give --source addresses that this machine has (see: ip address)"),
];

impl Recorder {
    /// A recorder for a measured schedule that starts at `measured_start` and lasts `duration`. `limit`: latencies
    /// above it are counted, for an early end of a trial that has already failed.
    pub fn new(measured_start: Nanos, duration: Nanos, limit: Option<Nanos>) -> Self {
        Self {
            measured_start,
            corrected: Metric::new(),
            uncorrected: Metric::new(),
            corrected_ok: Metric::new(),
            send_lag: Metric::new(),
            pool_wait: Metric::new(),
            waited: Metric::new(),
            connect: Metric::new(),
            first_byte: Metric::new(),
            body: Metric::new(),
            counts: Counts::default(),
            sent: 0,
            errors: BTreeMap::new(),
            requests: BTreeMap::new(),
            groups: Groups::new(duration),
            last_end: measured_start,
            statuses: BTreeMap::new(),
            sizes: None,
            bytes_read: 0,
            retried: 0,
            examples: BTreeMap::new(),
            in_flight: InFlight::default(),
            warm_up: WarmUp::default(),
            recent: Recent::default(),
            limit,
            over_limit: 0,
            window: WindowRecord::default(),
            full: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// A request of the schedule became due and was released. The warm-up's are in no count.
    pub fn released(&mut self, job: &Job) {
        if job.measured {
            self.counts.scheduled += 1;
            self.send_lag.record(job.released - job.intended, job.index);
            self.in_flight.step(job.released, 1);
        } else {
            self.warm_up.scheduled += 1;
        }
    }

    /// A connection was established in `ns`.
    pub fn connected(&mut self, job: &Job, ns: Nanos) {
        if job.measured {
            self.connect.record(ns, job.index);
        }
    }

    /// A request ended.
    pub fn ended(&mut self, stamps: &Stamps, ending: &Ending) {
        let Stamps { job, waited, connected, first_byte, ended } = *stamps;
        if let (Some(connected), Ending::Ok) = (connected, ending) {
            self.recent.record(ended, ended.saturating_sub(connected));
        }
        if !job.measured {
            self.warm_up.ended(ending);
            return;
        }
        if waited > 0 {
            self.waited.record(waited, job.index);
        }
        let latency = ended.saturating_sub(job.intended);
        self.in_flight.step(ended, -1);
        self.roll(ended);
        match ending {
            Ending::Ok => {
                self.counts.ok += 1;
                self.window.ok += 1;
                self.corrected_ok.record(latency, job.index);
            }
            Ending::Error(class) => {
                self.counts.error += 1;
                self.window.error += 1;
                count(&mut self.errors, class);
            }
            Ending::Timeout => {
                self.counts.timeout += 1;
                self.window.timeout += 1;
            }
            Ending::Unfinished => {
                self.counts.unfinished += 1;
                self.window.timeout += 1;
            }
        }
        let censored = matches!(ending, Ending::Timeout | Ending::Unfinished);
        let put = |metric: &mut Metric, ns| {
            if censored { metric.record_censored(ns, job.index) } else { metric.record(ns, job.index) }
        };
        put(&mut self.corrected, latency);
        put(&mut self.window.corrected, latency);
        self.groups.record(job.intended.saturating_sub(self.measured_start), latency);
        if self.limit.is_some_and(|limit| latency > limit) {
            self.over_limit += 1;
        }
        if let Some(connected) = connected {
            self.sent += 1;
            put(&mut self.uncorrected, ended.saturating_sub(connected));
            put(&mut self.window.uncorrected, ended.saturating_sub(connected));
            self.pool_wait.record(connected.saturating_sub(job.released), job.index);
            if let Some(first_byte) = first_byte {
                self.first_byte.record(first_byte.saturating_sub(connected), job.index);
                if !censored {
                    self.body.record(ended.saturating_sub(first_byte), job.index);
                }
            }
        }
        self.last_end = self.last_end.max(ended);
    }

    /// A whole reply came, with `body` bytes of content.
    pub fn replied(&mut self, status: u16, body: u64) {
        *self.statuses.entry(status).or_default() += 1;
        if status < 400 {
            self.sizes = add_sizes(self.sizes, Some((body, body)));
        }
    }

    /// From the start of the measured schedule to the end of the last request.
    pub fn took(&self) -> Nanos {
        self.last_end.saturating_sub(self.measured_start)
    }

    /// How many requests have ended above the limit given to [`Recorder::new`].
    pub fn over_limit(&self) -> u64 {
        self.over_limit
    }

    /// How long a reply lately takes: the low quartile of the last seconds, never a figure taken once.
    pub fn service(&self) -> Option<Nanos> {
        self.recent.low_quartile()
    }

    /// The wait for a free connection, silences of the server left out, that `quantile` (0 to 1) of all requests do not
    /// exceed.
    pub fn waited_at(&self, quantile: f64) -> Nanos {
        let all = self.corrected.count() as f64;
        let waited = self.waited.count() as f64;
        let rank = quantile * all - (all - waited);
        if waited == 0.0 || rank <= 0.0 { 0 } else { self.waited.quantile_ns(rank / waited) }
    }

    /// Little's law, both sides: the mean number of requests in flight, and their rate times their mean latency from the
    /// release. They are counted independently and must agree. `None` for a closed loop, whose requests have no release.
    pub fn littles_law(&self) -> Option<(f64, f64)> {
        let took = self.took() as f64;
        let latency = self.corrected.sum_ns().saturating_sub(self.send_lag.sum_ns());
        let open_loop = self.send_lag.count() == self.corrected.count();
        (took > 0.0 && open_loop).then(|| (self.in_flight.area as f64 / took, latency as f64 / took))
    }

    /// The generator's own failures: class, count, next step.
    pub fn own_failures(&self) -> impl Iterator<Item = (&'static str, u64, &'static str)> {
        OWN_FAILURES.into_iter().filter_map(|(class, step)| Some((class, *self.errors.get(class)?, step)))
    }

    /// Closes the current window when `now` lies beyond it.
    pub fn roll(&mut self, now: Nanos) {
        let number = now.saturating_sub(self.measured_start) / WINDOW;
        if number > self.window.number {
            self.close_window();
            self.window.number = number;
        }
    }

    /// Closes the current window whatever the time.
    pub fn close_window(&mut self) {
        if !self.window.is_empty() {
            let fresh = self.spare.pop().unwrap_or_default();
            self.full.push(std::mem::replace(&mut self.window, fresh));
        }
    }

    /// A closed window, to be sent to whoever keeps them; give its memory back by [`Recorder::recycle`].
    pub fn take_full(&mut self) -> Option<WindowRecord> {
        if self.full.is_empty() { None } else { Some(self.full.remove(0)) }
    }

    /// Takes back the memory of a window.
    pub fn recycle(&mut self, mut window: WindowRecord) {
        window.clear();
        self.spare.push(window);
    }

    /// Adds what another worker recorded of the same schedule (its closed windows excepted).
    pub fn merge(&mut self, other: &Recorder) {
        self.corrected.merge(&other.corrected);
        self.uncorrected.merge(&other.uncorrected);
        self.corrected_ok.merge(&other.corrected_ok);
        self.send_lag.merge(&other.send_lag);
        self.pool_wait.merge(&other.pool_wait);
        self.waited.merge(&other.waited);
        self.connect.merge(&other.connect);
        self.first_byte.merge(&other.first_byte);
        self.body.merge(&other.body);
        let (mine, theirs) = (&mut self.counts, other.counts);
        mine.scheduled += theirs.scheduled;
        mine.ok += theirs.ok;
        mine.error += theirs.error;
        mine.timeout += theirs.timeout;
        mine.unfinished += theirs.unfinished;
        mine.omitted += theirs.omitted;
        self.sent += other.sent;
        add_counts(&mut self.errors, &other.errors);
        add_counts(&mut self.requests, &other.requests);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.sizes = add_sizes(self.sizes, other.sizes);
        self.in_flight.area += other.in_flight.area;
        self.bytes_read += other.bytes_read;
        self.retried += other.retried;
        for (class, example) in &other.examples {
            self.examples.entry(class.clone()).or_insert_with(|| example.clone());
        }
        self.warm_up.add(&other.warm_up);
        self.groups.merge(&other.groups);
        self.last_end = self.last_end.max(other.last_end);
        self.recent.merge(&other.recent);
        self.over_limit += other.over_limit;
    }
}

fn add_sizes(a: Option<(u64, u64)>, b: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

/// Counts one more of `class`.
fn count(counts: &mut BTreeMap<String, u64>, class: &str) {
    match counts.get_mut(class) {
        Some(count) => *count += 1,
        None => _ = counts.insert(class.to_owned(), 1),
    }
}

impl WarmUp {
    fn ended(&mut self, ending: &Ending) {
        match ending {
            Ending::Ok => self.ok += 1,
            Ending::Error(class) => count(&mut self.errors, class),
            Ending::Timeout | Ending::Unfinished => count(&mut self.errors, "timeout"),
        }
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
            // Every value twice, the largest too.
            let ns = (i / 2).wrapping_mul(2_654_435_761) % 5_000_000_000;
            whole.record(ns, i);
            parts[(i % 3) as usize].record(ns, i);
        }
        for order in [[0, 1, 2], [2, 1, 0]] {
            let mut merged = Metric::new();
            order.iter().for_each(|part: &usize| merged.merge(&parts[*part]));
            assert_eq!(merged.summary(), whole.summary());
        }
    }

    #[test]
    fn longer_than_the_longest_still_counts_and_its_maximum_is_exact() {
        let mut metric = Metric::new();
        metric.record(2 * LONGEST_NS, 3);
        assert_eq!((metric.count(), metric.max_ns(), metric.clamped), (1, 2 * LONGEST_NS, 1));
    }
}
