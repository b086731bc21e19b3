//! The search, through the real engine and judge, against servers whose capacity is a formula (T10, T11, T12).

use std::convert::Infallible;

use loadgen::clock::{Nanos, SECOND, nanos};
use loadgen::engine::{Connections, Engine, Work};
use loadgen::record::Recorder;
use loadgen::schedule::{Arrival, Rate, Schedule, Share};
use loadgen::search::{Found, Outcome, Request, Settings, Trial, search};
use loadgen::slo::{Conduct, Objective, Verdict, judge, violations};
use loadgen_lab::simulation::{self as sim, Bucket, Exact, Server};

struct Simulated<F> {
    /// A fresh server for each trial.
    server: F,
    objective: Objective,
    warm_up: Nanos,
    /// The generator itself reaches no more than this.
    reach: f64,
}

fn measure(server: &mut impl Server, rate: f64, duration: f64, warm_up: Nanos) -> Recorder {
    let schedule =
        Schedule { arrival: Arrival::Constant(Rate::approximate(rate)), duration: nanos(duration) };
    let mut engine = Engine::new(Work {
        schedule,
        share: Share::ALL,
        start: 0,
        warm_up,
        connections: Connections::Fixed(1_000_000),
        timeout: 30 * SECOND,
        grace: 30 * SECOND,
        coalesce: 0,
        closed: None,
        limit: None,
    });
    sim::run(&mut engine, server, &mut Exact);
    engine.recorder
}

impl<S: Server, F: FnMut() -> S> Trial for Simulated<F> {
    type Error = Infallible;

    fn run(&mut self, request: &Request) -> Result<Outcome, Infallible> {
        let recorder = measure(&mut (self.server)(), request.rate, request.duration, self.warm_up);
        let wanted = if request.rate > self.reach { 1.0 } else { 0.1 };
        let conduct = Conduct { open_loop: true, cpu_wanted: Some(wanted), ..Conduct::default() };
        let judgement = judge(&recorder, &conduct, &self.objective, nanos(request.duration));
        Ok(Outcome {
            verdict: judgement.verdict,
            reasons: judgement.reasons,
            latency: judgement.latency.map(|ns| ns as f64 / 1e9),
            slope: judgement.slope,
            achieved_rate: recorder.counts.ok as f64 / request.duration,
            counts: recorder.counts,
            send_lag_p99: None,
            seconds: request.duration,
            service: recorder.service().map(|ns| ns as f64 / 1e9),
            behind: recorder.corrected.max_ns() as f64 / 1e9,
        })
    }

    fn drain(&mut self, _: Option<f64>, _: f64) -> Result<f64, Infallible> {
        Ok(0.0)
    }
}

fn settings(trial: f64, hold: f64) -> Settings {
    Settings { min_rate: 1.0, max_rate: None, trial, sum: 4.0 * trial, width: 0.01, hold }
}

fn find<S: Server>(
    server: impl FnMut() -> S,
    objective: Objective,
    warm_up: Nanos,
    settings: &Settings,
) -> Found {
    let mut trial = Simulated { server, objective, warm_up, reach: f64::MAX };
    let Ok(found) = search(&mut trial, settings, false);
    found
}

fn limit(seconds: f64) -> Objective {
    Objective { max_latency: Some(nanos(seconds)), percentile: 100.0, error_ratio: 0.001, given: true }
}

#[track_caller]
fn near(what: &str, got: f64, want: f64, share: f64) {
    assert!((got - want).abs() <= want * share, "{what}: {got} instead of {want} ± {} %", share * 100.0);
}

/// The highest rate that a verdict on latency alone lets pass: the control, which over-estimates.
fn by_latency_alone(server: impl Fn() -> Bucket, objective: &Objective, duration: f64) -> f64 {
    let (mut low, mut high) = (500.0, 4000.0);
    while high - low > 0.5 {
        let middle = (low + high) / 2.0;
        let recorder = measure(&mut server(), middle, duration, 0);
        if violations(&recorder, objective).is_empty() { low = middle } else { high = middle }
    }
    low
}

#[test]
fn t10_a_shaper_is_found_by_the_slope_and_missed_by_latency_alone() {
    let (r, l) = (1000.0, 1.0);
    for (d, b, reported) in [(5.0, 1.0, 1199.7), (20.0, 1.0, 1049.9)] {
        let formula = r * (1.0 + (l + b / r) / d);
        let alone = by_latency_alone(|| Bucket::new(r, b, false), &limit(l), d);
        near("latency alone", alone, formula, 0.002);
        near("latency alone, simulated before", alone, reported, 0.002);
    }
    let burst = by_latency_alone(|| Bucket::new(r, 5000.0, false), &limit(0.1), 30.0);
    near("a burst hides an overload", burst, 1169.8, 0.002);

    let found = find(|| Bucket::new(r, 20.0, false), limit(l), SECOND, &settings(5.0, 60.0));
    for bounds in [found.strict, found.typical] {
        near("lower", bounds.lower.expect("a lower bound"), r, 0.02);
        near("upper", bounds.upper.expect("an upper bound"), r, 0.02);
    }
    let confirmed = found.confirmed.expect("it holds for a minute");
    near("confirmed", confirmed, r, 0.02);
    assert!(confirmed <= r * 1.0051, "the confirmation does not let an overload pass: {confirmed}");
}

#[test]
fn t11_a_policer_is_found_by_its_refusals() {
    let (r, b, d) = (1000.0, 100.0, 5.0);
    let mut settings = settings(d, d);
    settings.sum = d;
    for e in [0.0, 0.02, 0.1] {
        let objective =
            Objective { max_latency: Some(SECOND), percentile: 100.0, error_ratio: e, given: true };
        let found = find(|| Bucket::new(r, b, true), objective, 0, &settings);
        near(
            "bounded by the error budget",
            found.strict.lower.expect("a bound"),
            (r + b / d) / (1.0 - e),
            0.02,
        );
    }
}

#[test]
fn t12_a_generator_at_its_limit_yields_no_capacity() {
    let objective = limit(0.1);
    let mut trial =
        Simulated { server: || Bucket::new(1e9, 1.0, false), objective, warm_up: 0, reach: 3000.0 };
    let Ok(found) = search(&mut trial, &settings(1.0, 1.0), false);
    assert_eq!(found.limited_at, Some(1600.0), "the last rate of the ramp that passed");
    assert_eq!((found.strict.lower, found.strict.upper, found.confirmed), (None, None, None));
    let invalid = found.trials.iter().filter(|row| row.verdict == Verdict::Invalid.name()).count();
    assert_eq!(invalid, 3, "three in a row end it");
    // The control: with the reach, the same search finds its maximum rate.
    let mut trial = Simulated { reach: f64::MAX, ..trial };
    let Ok(found) = search(&mut trial, &Settings { max_rate: Some(5000.0), ..settings(1.0, 1.0) }, false);
    assert_eq!((found.confirmed, found.limited_at), (Some(5000.0), None));
}

#[test]
fn a_rare_stall_parts_the_two_goals() {
    // One trial in ten meets a stall: strict fails wherever it does, typical does not care.
    let mut number = 0;
    let server = move || {
        number += 1;
        let stall = if number % 10 == 0 { SECOND / 2 } else { 0 };
        sim::Single::new(sim::Service::Fixed(SECOND / 1000)).stalling(vec![(SECOND, stall)])
    };
    let mut settings = settings(4.0, 4.0);
    settings.sum = 20.0;
    let found = find(server, limit(0.25), 0, &settings);
    near("typical", found.typical.lower.expect("a typical bound"), 1000.0, 0.02);
    assert!(
        found.strict.lower.is_none_or(|strict| strict <= found.typical.lower.expect("set")),
        "{:?}",
        found.strict
    );
}

#[test]
fn not_even_the_lowest_rate() {
    let found = find(|| sim::delay(SECOND), limit(0.1), 0, &settings(1.0, 1.0));
    assert_eq!((found.strict.lower, found.confirmed), (None, None));
    assert_eq!(found.strict.upper, Some(1.0));
}

#[test]
fn aimd_swings_about_the_capacity() {
    let mut trial = Simulated {
        server: || Bucket::new(1000.0, 1.0, false),
        objective: limit(0.05),
        warm_up: 0,
        reach: f64::MAX,
    };
    let Ok(found) = search(&mut trial, &settings(4.0, 60.0), true);
    near("estimate", found.estimate.expect("an estimate"), 1000.0, 0.15);
    assert_eq!(found.confirmed, None, "an estimate is not a confirmed capacity");
}
