//! The objective, and the verdict on one trial: Invalid (the generator was the limit), Fail, or Pass.

use crate::clock::{Nanos, seconds};
use crate::format::{duration, percent, percentile};
use crate::record::{Metric, Recorder};
use crate::result::{Counts, LittlesLaw};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// The limit on the corrected latency; `None` judges errors only.
    pub max_latency: Option<Nanos>,
    /// The percentile it is asked of; 100 is the exact maximum.
    pub percentile: f64,
    /// The largest share of errors, timeouts and unfinished requests.
    pub error_ratio: f64,
    /// False when nobody gave one: then it is the default.
    pub given: bool,
}

impl Objective {
    /// The latency at the objective's percentile; `None` when nothing was recorded.
    pub fn latency(&self, metric: &Metric) -> Option<Nanos> {
        (metric.count() > 0).then(|| {
            if self.percentile >= 100.0 {
                metric.max_ns()
            } else {
                metric.quantile_ns(self.percentile / 100.0)
            }
        })
    }

    /// How many of `scheduled` requests may exceed the limit.
    pub fn allowed_over(&self, scheduled: u64) -> u64 {
        ((1.0 - self.percentile / 100.0).max(0.0) * scheduled as f64).floor() as u64
    }
}

/// Growth of the corrected latency above which a backlog is growing, in seconds a second.
pub const SLOPE_LIMIT: f64 = 0.005;

/// The verdict on a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The objective held.
    Pass,
    /// It did not.
    Fail,
    /// The generator, not the server, was the limit: the trial says nothing.
    Invalid,
}

impl Verdict {
    /// As it stands in a result.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Invalid => "invalid",
        }
    }
}

/// What a run was like for the generator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conduct {
    /// The busiest worker's CPU time plus its wait for a core, as a share of wall time; `None` for the spinning
    /// pacer, which always wants all of it.
    pub cpu_wanted: Option<f64>,
    /// Replies that our own sockets' buffers dropped; `None` when the kernel did not say.
    pub kernel_dropped: Option<u64>,
    /// A run that its connections limit is invalid: nobody chose their number, or a search asks what the server can do.
    pub connections_must_suffice: bool,
    /// Requests leave in bunches of this length by the user's own wish.
    pub coalesce: Nanos,
    /// Open loop; a closed one follows the server by design and is never called late.
    pub open_loop: bool,
    /// The run was ended early.
    pub aborted: bool,
}

impl Default for Conduct {
    /// An open loop with nothing to complain of.
    fn default() -> Self {
        Self {
            cpu_wanted: None,
            kernel_dropped: Some(0),
            connections_must_suffice: false,
            coalesce: 0,
            open_loop: true,
            aborted: false,
        }
    }
}

/// The longest send lag at the 99th percentile that a limit of `limit` bears.
fn lag_limit(limit: Option<Nanos>) -> Nanos {
    match limit {
        Some(limit) => (limit / 20).max(200_000),
        // Without a limit to defend the lag is reported; only one that must be seen in any figure is a fault.
        None => 10_000_000,
    }
}

/// Why the generator was the limit: empty when it was not.
pub fn invalid_reasons(recorder: &Recorder, conduct: &Conduct, objective: &Objective) -> Vec<String> {
    let mut reasons = Vec::new();
    if !conduct.open_loop {
        return reasons;
    }
    // The 99th percentile of a few is their maximum, and one slow wake-up is no verdict.
    let (which, quantile) = if recorder.send_lag.count() >= 100 { ("p99", 0.99) } else { ("p50", 0.5) };
    let lag = recorder.send_lag.quantile_ns(quantile);
    let bears =
        lag_limit(objective.max_latency) + if objective.max_latency.is_none() { conduct.coalesce } else { 0 };
    if lag > bears {
        reasons.push(format!(
            "the generator was late: send lag {which} {:.3} ms, more than the {:.3} ms that this limit bears; give it a core of its own, more --threads, or a finer --pacer",
            lag as f64 / 1e6,
            bears as f64 / 1e6
        ));
    }
    if let Some(wanted) = conduct.cpu_wanted
        && wanted >= 0.9
    {
        reasons.push(format!(
            "a generator thread wanted {:.0} % of a core (90 % is the limit): give it a core of its own or more --threads",
            wanted * 100.0
        ));
    }
    match conduct.kernel_dropped {
        Some(0) => {}
        Some(dropped) => reasons.push(format!(
            "the generator's own receive buffers dropped {dropped} replies: raise net.core.rmem_max or use more --threads"
        )),
        None => reasons.push(
            "the kernel did not say how many replies the generator's own receive buffers dropped: see that /proc/net/udp can be read, and run it again".to_owned(),
        ),
    }
    for (class, count, step) in recorder.own_failures() {
        reasons.push(format!("{count} requests failed in the generator itself ({class}): {step}"));
    }
    if let Some((in_flight, rate_times_latency)) = recorder.littles_law()
        && !(LittlesLaw { in_flight, rate_times_latency }).holds()
    {
        reasons.push(format!(
            "the figures contradict each other: {in_flight:.3} requests were in flight, and rate times latency is {rate_times_latency:.3}; this is a bug of loadgen's"
        ));
    }
    if conduct.connections_must_suffice {
        reasons.extend(limited_by_connections(recorder, objective));
    }
    reasons
}

/// Says so when requests waited for a free connection, of an open loop, for more than a tenth of the latency at a
/// percentile that is judged or printed first. A wait through a silence of the server is the server's
/// ([`Recorder::waited_at`]).
pub fn limited_by_connections(recorder: &Recorder, objective: &Objective) -> Option<String> {
    [objective.percentile, 99.0, 50.0].into_iter().find_map(|which| {
        let latency = Objective { percentile: which, ..*objective }.latency(&recorder.corrected)?;
        let waited = recorder.waited_at(which / 100.0);
        (waited > latency / 10).then(|| {
            format!(
                "limited by its connections: at {} a request waited {} of its {} for a free one; raise --connections, ulimit -n, or the number of --source addresses",
                percentile(which),
                duration(seconds(waited)),
                duration(seconds(latency))
            )
        })
    })
}

/// What the objective says of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not a Pass.
    pub reasons: Vec<String>,
    /// Latency at the objective's percentile.
    pub latency: Option<Nanos>,
    /// Growth of the latency, seconds a second.
    pub slope: Option<f64>,
}

/// Share of the requests that did not end well.
pub fn error_ratio(counts: &Counts) -> f64 {
    let bad = counts.scheduled.saturating_sub(counts.ok);
    if counts.scheduled == 0 { 0.0 } else { bad as f64 / counts.scheduled as f64 }
}

/// Says so when requests were made and none of them was answered well: then no latency means anything.
pub fn nothing_good(counts: &Counts) -> Option<String> {
    (counts.scheduled > 0 && counts.ok == 0).then(|| "no request was answered well".to_owned())
}

/// Why these counts fail an objective that allows a share `allowed` of errors; `None` when they hold it.
pub fn too_many_errors(counts: &Counts, allowed: f64) -> Option<String> {
    let bad = counts.scheduled.saturating_sub(counts.ok);
    (error_ratio(counts) > allowed).then(|| {
        let (is, allowed) = (percent(error_ratio(counts)), percent(allowed));
        format!("{bad} of {} requests did not end well ({is}), and {allowed} are allowed", counts.scheduled)
    })
}

/// Why a latency fails an objective, in seconds.
pub fn too_slow(which: f64, latency: f64, limit: f64) -> String {
    format!("latency {} {} is above {}", percentile(which), duration(latency), duration(limit))
}

/// What a run fails the objective for, the slope and the achieved rate not asked: empty when it holds.
pub fn violations(recorder: &Recorder, objective: &Objective) -> Vec<String> {
    let mut reasons = Vec::new();
    if let (Some(limit), Some(latency)) = (objective.max_latency, objective.latency(&recorder.corrected))
        && latency > limit
    {
        reasons.push(too_slow(objective.percentile, seconds(latency), seconds(limit)));
    }
    reasons.extend(nothing_good(&recorder.counts));
    reasons.extend(too_many_errors(&recorder.counts, objective.error_ratio));
    reasons
}

/// Judges a trial of `offered` requests a second over `duration`: Invalid first, then Fail, else Pass.
pub fn judge(recorder: &Recorder, conduct: &Conduct, objective: &Objective, duration: Nanos) -> Judgement {
    let latency = objective.latency(&recorder.corrected);
    let slope = slope(&recorder.groups.medians());
    let reasons = invalid_reasons(recorder, conduct, objective);
    if !reasons.is_empty() {
        return Judgement { verdict: Verdict::Invalid, reasons, latency, slope };
    }
    let mut reasons = violations(recorder, objective);
    if let Some(slope) = slope
        && slope > SLOPE_LIMIT
    {
        reasons.push(format!("the backlog grows: latency rises by {slope:.4} s a second"));
    }
    let achieved = achieved_share(recorder, duration);
    if achieved < 0.99 && !conduct.aborted {
        reasons.push(format!("only {achieved:.4} of the offered rate was achieved"));
    }
    let verdict = if reasons.is_empty() { Verdict::Pass } else { Verdict::Fail };
    Judgement { verdict, reasons, latency, slope }
}

/// Answered requests a second, as a share of the offered ones (errors have a budget of their own). What a steady run still
/// has under way when its schedule ends is no loss: two replies' time is allowed for it.
fn achieved_share(recorder: &Recorder, duration: Nanos) -> f64 {
    let counts = recorder.counts;
    if counts.scheduled == 0 {
        return 1.0;
    }
    let took = recorder.took().saturating_sub(2 * recorder.service().unwrap_or(0)).max(duration);
    (counts.ok + counts.error) as f64 / counts.scheduled as f64 * duration as f64 / took as f64
}

/// Theil-Sen: the median of the slopes between all pairs of points, which a stall of up to 29 % of them cannot move.
/// `None` with fewer than ten points.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 10 {
        return None;
    }
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
    for (i, (x0, y0)) in points.iter().enumerate() {
        slopes.extend(points[i + 1..].iter().map(|(x1, y1)| (y1 - y0) / (x1 - x0)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let middle = slopes.len() / 2;
    Some(if slopes.len() % 2 == 1 { slopes[middle] } else { (slopes[middle - 1] + slopes[middle]) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowed_share_of_errors_is_allowed() {
        let counts = |ok| Counts { scheduled: 1000, ok, error: 1000 - ok, ..Counts::default() };
        assert_eq!(too_many_errors(&counts(999), 0.001), None);
        assert_eq!(
            too_many_errors(&counts(998), 0.001).as_deref(),
            Some("2 of 1000 requests did not end well (0.200 %), and 0.100 % are allowed")
        );
        assert_eq!(too_many_errors(&Counts::default(), 0.0), None);
    }

    #[test]
    fn a_stall_does_not_move_the_slope_and_a_backlog_does() {
        let flat: Vec<(f64, f64)> =
            (0..20).map(|i| (f64::from(i), if i == 7 || i == 8 { 2.0 } else { 0.01 })).collect();
        assert!(slope(&flat).unwrap().abs() < 1e-9);
        let growing: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i), 0.2 * f64::from(i))).collect();
        assert!((slope(&growing).unwrap() - 0.2).abs() < 1e-9);
        assert_eq!(slope(&flat[..9]), None);
    }
}
