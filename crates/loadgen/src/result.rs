//! The result of a run, a search or a comparison, as `--json` prints it (`schema/result.schema.json`).
//!
//! Durations are floats in **seconds**, rates are per second. Every metric carries its histogram, so that results of
//! several processes or machines merge bucket by bucket, exactly.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// The version of this format; a change that old readers would misread raises it.
pub const SCHEMA_VERSION: u32 = 1;

/// A result file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The base64 text or the histogram in it is damaged.
    #[error("a histogram in it cannot be decoded ({0}): write the file again with loadgen's --json")]
    Histogram(String),
    /// The histogram has other bounds than ours.
    #[error("a histogram in it has other bounds than loadgen's: only loadgen's own results can be merged")]
    Shape,
}

/// A histogram as HdrHistogram's V2 compressed encoding in base64: what the `.hlog` format holds, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncodedHistogram(pub String);

impl EncodedHistogram {
    /// Encodes `histogram`.
    pub fn encode(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        // Writing into memory cannot fail, and u64 counts always encode.
        V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("encoding into memory");
        Self(BASE64.encode(bytes))
    }

    /// Decodes the histogram.
    ///
    /// # Errors
    /// Damaged text.
    pub fn decode(&self) -> Result<Histogram<u64>, ModelError> {
        let bytes = BASE64.decode(&self.0).map_err(|e| ModelError::Histogram(e.to_string()))?;
        Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|e| ModelError::Histogram(format!("{e:?}")))
    }
}

/// One latency over a whole run (or a window). Built by [`crate::record::Metric::summary`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many requests it counts.
    pub count: u64,
    /// Exact mean; null when `count` is 0, like the rest.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// Three quarters of all requests took no longer.
    pub p75: Option<f64>,
    /// Nine tenths.
    pub p90: Option<f64>,
    /// 99 %.
    pub p99: Option<f64>,
    /// 99.9 %.
    pub p999: Option<f64>,
    /// The exact maximum, not a bucket's edge.
    pub max: Option<f64>,
    /// Index in the schedule of the request that took longest.
    pub max_index: Option<u64>,
    /// How many of `count` are lower bounds: requests that had not ended when they were given up.
    pub censored: u64,
    /// The smallest such bound: a percentile at or above it is printed with `≥`.
    pub censored_from: Option<f64>,
    /// Exact sum.
    pub sum: f64,
    /// The buckets, in nanoseconds.
    pub histogram: EncodedHistogram,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The target as given.
    pub target: String,
    /// The address that was connected to.
    #[serde(default)]
    pub address: String,
    /// What was asked for there.
    #[serde(default)]
    pub requests: Vec<PlannedRequest>,
    /// http, https, udp or tcp.
    pub protocol: String,
    /// constant, poisson, ramp or steps; closed for a closed loop.
    pub arrival: String,
    /// Mean requests a second of the whole schedule (of all shards); null for a closed loop without a rate.
    pub rate: Option<f64>,
    /// The rate as given (`600/m`, `100:2000:30s`).
    pub rate_text: String,
    /// Length of the measured schedule.
    pub duration: f64,
    /// Length of the warm-up before it, which is in no count.
    pub warmup: f64,
    /// What spoke HTTP/1.1: lean or hyper; null for other protocols.
    pub client: Option<String>,
    /// timerfd, tokio or spin.
    pub pacer: String,
    /// Requests due within this time leave at one wake, the last of them on time.
    pub coalesce: f64,
    /// Worker threads.
    pub threads: u64,
    /// Most connections (sockets for udp) of all workers together.
    pub connections: u64,
    /// How many of those were in use at once at most.
    pub connections_used: u64,
    /// Age, from the intended time, at which a request is cancelled.
    pub timeout: f64,
    /// How long unfinished requests were waited for after the schedule's end.
    pub grace: f64,
    /// This process owned the indices i ≡ shard (mod shards); 0 of 1 when it owned all.
    pub shard: u64,
    /// See `shard`.
    pub shards: u64,
    /// Which shards stand in this result: one, or several after a merge.
    pub merged_shards: Vec<u64>,
}

/// A kind of request, so that results of different ones are not taken for parts of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRequest {
    /// Its name in a scenario.
    pub name: Option<String>,
    /// Its share among all, relative to the other weights.
    pub weight: u64,
    /// The HTTP method; "datagram" or "connection" for other protocols.
    pub method: String,
    /// Path and query as given, templates included.
    pub path: String,
    /// Name and value, as given.
    pub headers: Vec<(String, String)>,
    /// A hash of the body (64-bit FNV-1a, hexadecimal) and its length; of the size, for a datagram.
    pub body: String,
}

impl PlannedRequest {
    /// A request of this method with this content.
    pub fn content(method: &str, body: &[u8]) -> Self {
        let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let body = format!("{hash:016x}, {} bytes", body.len());
        Self { weight: 1, method: method.to_owned(), body, ..Self::default() }
    }
}

/// Where every scheduled request ended. `scheduled = ok + error + timeout + unfinished`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests whose intended time lay within the measured schedule.
    pub scheduled: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// Answered otherwise, or failed; `errors` has the classes.
    pub error: u64,
    /// Cancelled at their timeout.
    pub timeout: u64,
    /// Neither answered nor failed when the run ended.
    pub unfinished: u64,
    /// Closed loop only: starts that the schedule wanted and the loop skipped; not in `scheduled`. It is the omission.
    pub omitted: u64,
}

/// What became of the warm-up, which is in no figure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Requests whose intended time lay in it.
    pub scheduled: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// The others by class; "timeout" has those that were given up.
    pub errors: BTreeMap<String, u64>,
}

impl WarmUp {
    /// Adds another worker's or another run's.
    pub fn add(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.ok += other.ok;
        add_counts(&mut self.errors, &other.errors);
    }
}

/// Adds counts by name.
pub fn add_counts(sums: &mut BTreeMap<String, u64>, parts: &BTreeMap<String, u64>) {
    for (name, count) in parts {
        *sums.entry(name.clone()).or_default() += count;
    }
}

/// What a datagram protocol alone can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpCounts {
    /// Datagrams of the measured schedule that were sent.
    pub sent: u64,
    /// Of those, never answered within their time.
    pub lost: u64,
    /// Second and further replies to one datagram.
    pub duplicates: u64,
    /// Replies that arrived after a reply to a later datagram of the same socket.
    pub reordered: u64,
    /// Replies that came after their datagram's timeout.
    pub late: u64,
    /// Datagrams that are no reply to ours: wrong length, or a sequence or time that was never sent.
    pub corrupt: u64,
    /// Replies that our own socket's buffer dropped: the generator was the limit.
    pub kernel_dropped: u64,
    /// Times the target's host said that nobody listens there.
    pub refused: u64,
}

impl UdpCounts {
    /// Adds another worker's or another run's counts.
    pub fn add(&mut self, other: &UdpCounts) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.late += other.late;
        self.corrupt += other.corrupt;
        self.kernel_dropped += other.kernel_dropped;
        self.refused += other.refused;
    }
}

/// One window of the run, by completion time. Windows without any completion stand in the list too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Start, from the start of the measured schedule.
    pub start: f64,
    /// Length; 1 s, or a power of two of it in a long run.
    pub length: f64,
    /// Requests that ended in this window: ok.
    pub ok: u64,
    /// Error.
    pub error: u64,
    /// Timed out or unfinished.
    pub timeout: u64,
    /// Requests whose intended time lay in this window.
    pub scheduled: u64,
    /// Corrected latency of those that ended in it.
    pub corrected: Summary,
    /// Uncorrected latency of those that ended in it.
    pub uncorrected: Summary,
}

/// What the generator itself spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// CPU time of the worker threads over the measured schedule.
    pub cpu_seconds: f64,
    /// The busiest worker's CPU time as a share of wall time.
    pub cpu_share: f64,
    /// The same, plus the time for which it was runnable and had to wait for a core: 0.9 means that it was starved.
    pub cpu_wanted: f64,
    /// How often the workers woke to release requests.
    pub wakes: u64,
}

/// Whether the figures say something about the server, or about the generator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Validity {
    /// True when the generator kept its schedule.
    pub ok: bool,
    /// Sentences, one for each rule that was broken.
    pub reasons: Vec<String>,
    /// Little's law; null for a closed loop and for a search.
    #[serde(default)]
    pub littles_law: Option<LittlesLaw>,
}

/// Both sides of it, counted independently: they agree unless the figures contradict each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LittlesLaw {
    /// The mean number of requests in flight (released and not ended), by their integral over time.
    pub in_flight: f64,
    /// Their rate times their mean latency from the release.
    pub rate_times_latency: f64,
}

impl LittlesLaw {
    /// Whether the two sides agree within a hundredth.
    pub fn holds(&self) -> bool {
        (self.in_flight - self.rate_times_latency).abs() <= 0.01 * self.in_flight.max(self.rate_times_latency)
    }
}

/// The objective, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// The limit L; null when only errors were judged.
    pub max_latency: Option<f64>,
    /// The percentile it was asked of: 100 is the maximum.
    pub percentile: f64,
    /// Largest share of errors, timeouts and unfinished requests.
    pub error_ratio: f64,
    /// False when nobody gave an objective and this one is the default.
    #[serde(default = "yes")]
    pub given: bool,
    /// The latency at that percentile.
    pub observed_latency: Option<f64>,
    /// The share of errors.
    pub observed_error_ratio: f64,
    /// Whether it held.
    pub held: bool,
    /// Sentences, one for each part of it that did not hold.
    pub reasons: Vec<String>,
}

fn yes() -> bool {
    true
}

/// One constant-rate (or ramp, steps, Poisson, closed-loop) run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was asked for.
    pub plan: Plan,
    /// Seed of everything random in it.
    pub seed: u64,
    /// When the measured schedule began, in seconds since 1970.
    pub started: f64,
    /// From the start of the measured schedule to the last request's end.
    pub elapsed: f64,
    /// Where every scheduled request ended.
    pub counts: Counts,
    /// Requests answered well (ok) per second of `duration`.
    pub achieved_rate: f64,
    /// Requests sent per second of `duration`.
    pub sent_rate: f64,
    /// Latency from the intended start: the one to believe.
    pub corrected: Summary,
    /// Latency from the moment the request got its connection, which is what a closed loop would have reported.
    pub uncorrected: Summary,
    /// The corrected latency of the requests that ended ok.
    pub corrected_ok: Summary,
    /// Released minus intended: the generator's own lateness.
    pub send_lag: Summary,
    /// Connection minus released: the wait for a free connection, connecting included.
    pub pool_wait: Summary,
    /// Time to establish connections; one value per connection opened.
    pub connect: Summary,
    /// First byte minus connection.
    pub first_byte: Summary,
    /// Last byte minus first byte.
    pub body: Summary,
    /// Errors by class.
    pub errors: BTreeMap<String, u64>,
    /// What was wrong with one request of each class of errors.
    #[serde(default)]
    pub examples: BTreeMap<String, String>,
    /// HTTP only: replies by status.
    #[serde(default)]
    pub statuses: BTreeMap<String, u64>,
    /// Bytes that came from the target.
    #[serde(default)]
    pub bytes_read: u64,
    /// Requests sent again on a new connection, since the server had closed the idle one that they were given.
    #[serde(default)]
    pub retried: u64,
    /// What became of the warm-up.
    #[serde(default)]
    pub warm_up: WarmUp,
    /// Sentences about what makes no figure wrong and yet is good to know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Scenario only: requests by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, u64>,
    /// Datagram protocols only.
    pub udp: Option<UdpCounts>,
    /// The run in windows.
    pub windows: Vec<Window>,
    /// What the generator spent.
    pub generator: Generator,
    /// Whether the generator kept its schedule.
    pub validity: Validity,
    /// The objective.
    pub slo: Slo,
    /// True when a signal ended it early: everything in it is partial.
    pub interrupted: bool,
}

/// Bounds of the searched rate, in requests a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The highest rate that is known to hold; null when none did.
    pub lower: Option<f64>,
    /// The lowest rate that is known not to; null when none failed.
    pub upper: Option<f64>,
}

/// One trial of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialRow {
    /// baseline, ramp, bisect, confirm or aimd.
    pub phase: String,
    /// Offered rate.
    pub rate: f64,
    /// Planned length.
    pub duration: f64,
    /// Seconds it ran in fact: less when aborted early.
    pub seconds: f64,
    /// pass, fail or invalid.
    pub verdict: String,
    /// Why it failed or was invalid.
    pub reasons: Vec<String>,
    /// Rate of well-answered requests.
    pub achieved_rate: f64,
    /// Corrected latency at the objective's percentile.
    pub latency: Option<f64>,
    /// Growth of the corrected latency, in seconds per second of schedule.
    pub slope: Option<f64>,
    /// Counts of the trial.
    pub counts: Counts,
    /// 99th percentile of the send lag.
    pub send_lag_p99: Option<f64>,
    /// Waited before it for the backlog of the trial before to drain.
    pub drained: f64,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was asked for; `rate` is null and `duration` the trial's length.
    pub plan: Plan,
    /// Seed.
    pub seed: u64,
    /// mlr or aimd.
    pub mode: String,
    /// When it began, in seconds since 1970.
    pub started: f64,
    /// How long it took.
    pub elapsed: f64,
    /// The objective: limit.
    pub max_latency: f64,
    /// Its percentile; 100 is the maximum.
    pub percentile: f64,
    /// Its error ratio.
    pub error_ratio: f64,
    /// The goal's duration, which the confirmation runs for.
    pub hold: f64,
    /// Relative width at which the search stops.
    pub width: f64,
    /// What a reply took when nothing waited: the low quartile of the last seconds of the last trial that passed.
    pub baseline: Option<f64>,
    /// No trial at this rate may fail.
    pub strict: Bounds,
    /// Up to half of the trial time at this rate may fail.
    pub typical: Bounds,
    /// Well-answered requests a second at `typical.lower`: their median over the trial time.
    pub conditional_throughput: Option<f64>,
    /// The confirmed rate: it held for `hold`; null when nothing was confirmed.
    pub confirmed: Option<f64>,
    /// aimd only: mean rate of the second half, an estimate.
    pub estimate: Option<f64>,
    /// Every trial.
    pub trials: Vec<TrialRow>,
    /// Whether the bounds are the server's.
    pub validity: Validity,
    /// True when a signal ended it early.
    pub interrupted: bool,
}

/// Two or more targets on the same schedule, interleaved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// One result per target, in the order given, merged over the rounds.
    pub targets: Vec<Run>,
    /// For each target, its corrected latencies divided by the first target's.
    pub ratios: Vec<Ratio>,
    /// How many rounds each target had.
    pub rounds: u64,
}

/// See [`Compare::ratios`]; null where the first target's figure is missing or zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The target.
    pub target: String,
    /// Ratio of means.
    pub mean: Option<f64>,
    /// Ratio of medians.
    pub p50: Option<f64>,
    /// Ratio of 99th percentiles.
    pub p99: Option<f64>,
    /// Ratio of maxima.
    pub max: Option<f64>,
}

/// What a result file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Document {
    /// `loadgen run`, or the merge of several.
    Run(Run),
    /// `loadgen search`.
    Search(Search),
    /// `loadgen compare`.
    Compare(Compare),
}
