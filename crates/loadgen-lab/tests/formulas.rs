//! The analytic tests of the core, through the real schedule, engine and recorder, against servers that are formulas,
//! on a virtual clock: exact, and done in milliseconds. Each formula has a control that must miss it.
//!
//! A0, A1 and A2 are asserted in every run ([`Case::run`]).

use loadgen::clock::{Nanos, SECOND, nanos};
use loadgen::engine::{Closed, Connections, Engine, Work};
use loadgen::record::Recorder;
use loadgen::schedule::{Arrival, Rate, Schedule, Share};
use loadgen::slo::{Conduct, Objective, Verdict, invalid_reasons, judge, limited_by_connections, slope};
use loadgen_lab::simulation::{
    self as sim, Bucket, Buffered, Exact, Millisecond, Pacer, Server, Service, Single,
};

const MS: Nanos = SECOND / 1000;

#[derive(Clone)]
struct Case {
    rate: f64,
    seconds: f64,
    poisson: Option<u64>,
    connections: usize,
    timeout: Nanos,
    grace: Nanos,
    closed: Option<Closed>,
}

impl Case {
    fn new(rate: f64, seconds: f64) -> Self {
        Self {
            rate,
            seconds,
            poisson: None,
            connections: 1_000_000,
            timeout: 1000 * SECOND,
            grace: 1000 * SECOND,
            closed: None,
        }
    }

    fn schedule(&self) -> Schedule {
        let rate = Rate::approximate(self.rate);
        let arrival = self.poisson.map_or(Arrival::Constant(rate), |seed| Arrival::Poisson(rate, seed));
        Schedule { arrival, duration: nanos(self.seconds) }
    }

    fn work(&self, share: Share) -> Work {
        Work {
            schedule: self.schedule(),
            share,
            start: 0,
            warm_up: 0,
            connections: Connections::Fixed(self.connections),
            timeout: self.timeout,
            grace: self.grace,
            coalesce: 0,
            closed: self.closed,
            limit: None,
        }
    }

    fn paced(&self, server: &mut impl Server, pacer: &mut impl Pacer) -> Recorder {
        let mut engine = Engine::new(self.work(Share::ALL));
        let seen = sim::run(&mut engine, server, pacer);
        let recorder = engine.recorder;
        let counts = recorder.counts;
        // A0.
        assert_eq!(counts.scheduled, counts.ok + counts.error + counts.timeout + counts.unfinished, "A0");
        assert_eq!(recorder.corrected.count(), counts.scheduled, "A0: every scheduled request has a latency");
        if self.closed.is_none() {
            assert_eq!(
                counts.scheduled,
                self.schedule().count_before(Nanos::MAX),
                "A0: the schedule decides the count"
            );
        }
        // A1, from the simulator's own integral: it counts from the release, so the send lag is the rest.
        let latency = recorder.corrected.sum_ns();
        assert_eq!(
            seen.in_flight + recorder.send_lag.sum_ns(),
            latency,
            "A1: in flight over time is latency"
        );
        // The same as it stands in a result.
        if let (Some((in_flight, product)), None) = (recorder.littles_law(), self.closed) {
            close("Little's law", in_flight, product, 1e-6 * product.max(1e-9));
        }
        // A2, summed over all requests that got a connection and ended.
        if counts.timeout + counts.unfinished == 0 {
            let wait = recorder.send_lag.sum_ns() + recorder.pool_wait.sum_ns();
            assert_eq!(
                latency - recorder.uncorrected.sum_ns(),
                wait,
                "A2: the difference is send lag and pool wait"
            );
        }
        recorder
    }

    fn run(&self, server: &mut impl Server) -> Recorder {
        self.paced(server, &mut Exact)
    }

    fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }
}

#[track_caller]
fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} instead of {want} ± {tolerance}");
}

/// Like [`close`], relative.
#[track_caller]
fn near(what: &str, got: f64, want: f64, share: f64) {
    close(what, got, want, want.abs() * share);
}

fn max(recorder: &Recorder) -> f64 {
    recorder.corrected.max_ns() as f64 / 1e9
}

fn mean(recorder: &Recorder) -> f64 {
    recorder.corrected.mean_ns() / 1e9
}

fn quantile(recorder: &Recorder, q: f64) -> f64 {
    recorder.corrected.quantile_ns(q) as f64 / 1e9
}

/// A server of rate `mu` (0: so fast that its time does not count) that stands still for 6 s of 60.
fn t1_server(mu: f64) -> Single {
    let service = if mu == 0.0 { 0 } else { nanos(1.0 / mu) };
    Single::new(Service::Fixed(service)).stalling(vec![(10 * SECOND, 6 * SECOND)])
}

const T1: [(f64, f64, f64, f64); 3] =
    [(0.0, 0.30005, 0.0667, 5.400), (1250.0, 1.5008, 0.3334, 5.881), (2000.0, 0.6005, 0.1333, 5.70)];

fn t1_holds(recorder: &Recorder, (mu, want_mean, above_2s, p99): (f64, f64, f64, f64)) -> bool {
    let (s, t, r) = (6.0, 60.0, 1000.0);
    let rho = if mu == 0.0 { 0.0 } else { r / mu };
    let above = |x: f64| (s - x) / (t * (1.0 - rho));
    let within = |got: f64, want: f64, tolerance: f64| (got - want).abs() <= tolerance;
    within(max(recorder), s, 0.020 + 0.01 * s)
        && [0.5, 1.0, 2.0, 4.0].iter().all(|x| {
            within(recorder.corrected.share_above(nanos(*x)), above(*x), 2.0 / (r * t) + 0.03 * above(*x))
        })
        && within(recorder.corrected.share_above(2 * SECOND), above_2s, 0.001)
        && within(mean(recorder), want_mean, 0.05 * want_mean)
        && within(quantile(recorder, 0.99), p99, 0.01 * p99)
}

#[test]
fn t1_a_stall_is_seen_by_every_request_that_should_have_started_in_it() {
    for row in T1 {
        let recorder = Case::new(1000.0, 60.0).run(&mut t1_server(row.0));
        assert!(
            t1_holds(&recorder, row),
            "mu {}: max {}, mean {}, p99 {}",
            row.0,
            max(&recorder),
            mean(&recorder),
            quantile(&recorder, 0.99)
        );
        // Few connections change where the time is spent, not how much of it there is.
        assert!(t1_holds(&Case::new(1000.0, 60.0).connections(8).run(&mut t1_server(row.0)), row));
    }
}

#[test]
fn t1_controls_miss_it() {
    for row in T1 {
        for closed in [Closed::AsFastAsPossible, Closed::Paced] {
            let mut server = t1_server(if row.0 == 0.0 { 100_000.0 } else { row.0 });
            let recorder =
                Case { closed: Some(closed), ..Case::new(1000.0, 60.0).connections(8) }.run(&mut server);
            assert!(!t1_holds(&recorder, row), "a closed loop ({closed:?}) must not pass T1");
            if closed == Closed::Paced {
                assert!(
                    recorder.counts.omitted > 5000,
                    "it skipped the stall's starts: {:?}",
                    recorder.counts
                );
            }
        }
    }
}

/// A generator that is itself held up, as by SIGSTOP, over the server's stall.
struct HeldUp;

impl Pacer for HeldUp {
    fn wake(&mut self, at: Nanos) -> Nanos {
        if (10 * SECOND..16 * SECOND).contains(&at) { 16 * SECOND } else { at }
    }
}

#[test]
fn t1_control_stamped_on_wake_up_misses_it() {
    let recorder = Case::new(1000.0, 60.0).paced(&mut t1_server(0.0), &mut HeldUp);
    assert!(t1_holds(&recorder, T1[0]), "from the intended time it makes no difference who was late");
    let on_wake_up = (recorder.corrected.sum_ns() - recorder.send_lag.sum_ns()) as f64 / 1e9 / 60_000.0;
    assert!(on_wake_up < 0.01, "stamped on wake-up the stall is gone: mean {on_wake_up} s instead of 0.3 s");
}

#[test]
fn t1u_the_uncorrected_view_is_the_lie() {
    for row in T1 {
        let c = 8;
        let recorder = Case::new(1000.0, 60.0).connections(c).run(&mut t1_server(row.0));
        for x in [0.5, 2.0, 4.0] {
            let above = recorder.uncorrected.share_above(nanos(x));
            assert!(above <= c as f64 / 60_000.0 + 1e-9, "P(>{x} s) = {above}");
        }
        assert!(recorder.uncorrected.quantile_ns(0.99) < 10 * MS, "p99 uncorrected sees nothing");
    }
}

#[test]
fn t2_periodic_stalls() {
    let (s, p, t) = (0.5, 5.0, 100.0);
    for rho in [0.0, 0.5] {
        let service = nanos(rho / 1000.0);
        let stalls = (0..20).map(|i| (i * 5 * SECOND + SECOND, SECOND / 2)).collect();
        let recorder = Case::new(1000.0, t).run(&mut Single::new(Service::Fixed(service)).stalling(stalls));
        let free = 1.0 - rho;
        near("mean", mean(&recorder), rho / 1000.0 + s * s / (2.0 * p * free), 0.05);
        for x in [0.1, 0.3] {
            near("P(>x)", recorder.corrected.share_above(nanos(x)), (s - x) / (p * free), 0.05);
        }
        let closed = Case { closed: Some(Closed::Paced), ..Case::new(1000.0, t).connections(4) };
        let stalls = (0..20).map(|i| (i * 5 * SECOND + SECOND, SECOND / 2)).collect();
        let control = closed.run(&mut Single::new(Service::Fixed(service)).stalling(stalls));
        assert!(
            mean(&control) < 0.3 * mean(&recorder),
            "the closed-loop control misses it: {}",
            mean(&control)
        );
    }
}

#[test]
fn t3_overload() {
    let (r, mu, t) = (1200.0, 1000.0, 30.0);
    let drained = Case::new(r, t).run(&mut Single::new(Service::Fixed(MS)));
    let growth = r / mu - 1.0;
    near("slope", slope(&drained.groups.medians()).expect("thirty groups"), growth, 0.02);
    close("max", max(&drained), 6.0008, 0.0005);
    near("mean", mean(&drained), t * growth / 2.0, 0.02);

    let cut = Case { grace: 0, ..Case::new(r, t) }.run(&mut Single::new(Service::Fixed(MS)));
    near("completed", cut.counts.ok as f64, mu * t, 0.01);
    near("unfinished", cut.counts.unfinished as f64, t * (r - mu), 0.01);
    near("their oldest", cut.corrected.max_ns() as f64 / 1e9, t * (1.0 - mu / r), 0.02);
    near("max of the completed", cut.corrected_ok.max_ns() as f64 / 1e9, t * (1.0 - mu / r), 0.01);

    let control = Case { closed: Some(Closed::AsFastAsPossible), ..Case::new(r, t).connections(8) };
    let control = control.run(&mut Single::new(Service::Fixed(MS)));
    assert!(max(&control) < 0.01, "a closed loop slows down with the server and sees no overload");
}

#[test]
fn t4_too_few_connections_are_the_generators_fault() {
    let (r, w, c) = (1000.0, 0.050, 40);
    let case = Case::new(r, 20.0).connections(c);
    let mut engine = Engine::new(case.work(Share::ALL));
    sim::run(&mut engine, &mut sim::delay(nanos(w)), &mut Exact);
    let recorder = engine.recorder;
    near("slope", slope(&recorder.groups.medians()).expect("groups"), r * w / c as f64 - 1.0, 0.03);
    assert_eq!(recorder.uncorrected.max_ns(), nanos(w), "all of it is pool wait");
    let objective =
        Objective { max_latency: Some(SECOND), percentile: 100.0, error_ratio: 0.001, given: true };
    let conduct = Conduct { connections_must_suffice: true, ..Conduct::default() };
    assert_eq!(judge(&recorder, &conduct, &objective, 20 * SECOND).verdict, Verdict::Invalid);
    // The control: enough connections, and the same limit holds.
    let enough = Case::new(r, 20.0).connections(60).run(&mut sim::delay(nanos(w)));
    let judgement = judge(&enough, &conduct, &objective, 20 * SECOND);
    assert_eq!(judgement.verdict, Verdict::Pass, "{:?}", judgement.reasons);
}

#[test]
fn t5_below_capacity_every_latency_is_the_service_time() {
    let server = || Single::new(Service::Fixed(500_000)).with_base(200_000);
    let recorder = Case::new(1000.0, 10.0).run(&mut server());
    assert_eq!(recorder.corrected.max_ns(), 700_000);
    close("p99 - p50", quantile(&recorder, 0.99) - quantile(&recorder, 0.5), 0.0, 300e-6);
    let tokio = Case::new(997.0, 10.0).paced(&mut server(), &mut Millisecond);
    let raised = quantile(&tokio, 0.5) - quantile(&recorder, 0.5);
    assert!(
        raised > 0.0008,
        "the control, a millisecond timer, raises the median by about a millisecond: {raised}"
    );
}

#[test]
fn t6_md1() {
    let s = 0.001;
    for (rho, want, t) in [(0.5, 1.5, 200.0), (0.8, 3.0, 400.0), (0.9, 5.5, 1000.0)] {
        let case = Case { poisson: Some(7), ..Case::new(rho / s, t) };
        let recorder = case.run(&mut Single::new(Service::Fixed(nanos(s))));
        near(&format!("mean at rho {rho}"), mean(&recorder), want * s, 0.05);
        let even = Case::new(rho / s, 100.0).run(&mut Single::new(Service::Fixed(nanos(s))));
        near("the control, evenly spaced, never queues", mean(&even), s, 0.01);
    }
}

#[test]
fn t7_mm1() {
    let mu = 1000.0_f64;
    for rho in [0.5, 0.8] {
        let lambda = rho * mu;
        let case = Case { poisson: Some(11), ..Case::new(lambda, 600.0) };
        let recorder = case.run(&mut Single::new(Service::exponential(nanos(1.0 / mu), 3)));
        near("mean", mean(&recorder), 1.0 / (mu - lambda), 0.05);
        near("p99", quantile(&recorder, 0.99), 100_f64.ln() / (mu - lambda), 0.05);
        for x in [0.5 / (mu - lambda), 2.0 / (mu - lambda)] {
            near("P(>x)", recorder.corrected.share_above(nanos(x)), (-(mu - lambda) * x).exp(), 0.05);
        }
        let fixed = Case { poisson: Some(11), ..Case::new(lambda, 300.0) };
        let fixed = fixed.run(&mut Single::new(Service::Fixed(nanos(1.0 / mu))));
        assert!(mean(&fixed) < 0.8 / (mu - lambda), "the control, a fixed service time, is quicker");
    }
}

#[test]
fn t8_a_dead_server_leaves_its_requests_in_the_result() {
    let (r, t, a) = (1000.0, 60.0, 50.0);
    let server = || Single::new(Service::Fixed(10_000)).dead_from(nanos(a));
    let at_once = Case { grace: 0, ..Case::new(r, t) }.run(&mut server());
    near("unfinished", at_once.counts.unfinished as f64, r * (t - a), 0.01);
    assert!(max(&at_once) >= t - a - 0.001);
    let case = Case { grace: 0, timeout: 2 * SECOND, ..Case::new(r, t) };
    let timed = case.run(&mut server());
    near(
        "timeouts and unfinished",
        (timed.counts.timeout + timed.counts.unfinished) as f64,
        r * (t - a),
        0.01,
    );
    assert!(max(&timed) >= 2.0);
    // Dead for half of the time, with all connections stuck: the server's fault, not the pool's.
    let mut half = Single::new(Service::Fixed(10_000)).dead_from(nanos(t / 2.0));
    let half = Case { grace: 0, ..Case::new(r, t) }.connections(8).run(&mut half);
    let conduct = Conduct { connections_must_suffice: true, ..Conduct::default() };
    let objective = Objective { max_latency: None, percentile: 100.0, error_ratio: 0.001, given: true };
    assert_eq!(judge(&half, &conduct, &objective, nanos(t)).verdict, Verdict::Fail);
    let control = Case { closed: Some(Closed::AsFastAsPossible), grace: 0, ..Case::new(r, t).connections(4) };
    assert!(
        control.run(&mut server()).counts.unfinished <= 4,
        "a closed loop has four requests to show for it"
    );
}

#[test]
fn t9_timeouts_run_from_the_intended_time() {
    let (s, t, tau) = (6.0, 60.0, 2.0);
    for (mu, rho) in [(0.0, 0.0), (2000.0, 0.5)] {
        let case = Case { timeout: nanos(tau), ..Case::new(1000.0, t) };
        let recorder = case.run(&mut t1_server(mu));
        let share = recorder.counts.timeout as f64 / recorder.counts.scheduled as f64;
        let bound = (s - tau) / (t * (1.0 - rho));
        if rho == 0.0 {
            near("P(timeout)", share, bound, 0.05)
        } else {
            assert!(share <= bound * 1.05, "{share} > {bound}")
        }
        assert!(recorder.corrected.max_ns() >= nanos(tau), "recorded at its age");
        let few = Case { timeout: nanos(tau), ..Case::new(1000.0, t).connections(4) };
        let few = few.run(&mut t1_server(mu));
        near("few connections: the same", few.counts.timeout as f64, recorder.counts.timeout as f64, 0.05);
        // The control: timeouts from the send. With few connections hardly any request is sent during the stall.
        let from_send = few.uncorrected.share_above(nanos(tau) - 1);
        assert!(from_send < 0.01 * bound, "counted from the send, nearly no request times out: {from_send}");
    }
}

#[test]
fn t13_a_datagram_buffer_keeps_the_first_and_loses_the_rest() {
    let (r, s, room) = (1000.0, 2.0, 500);
    let case = Case { timeout: 10 * SECOND, grace: 20 * SECOND, ..Case::new(r, 10.0) };
    let recorder = case.run(&mut Buffered::new((3 * SECOND, 2 * SECOND), room));
    near("lost", recorder.counts.timeout as f64, r * s - room as f64, 0.02);
    assert_eq!(recorder.corrected_ok.max_ns(), 2 * SECOND);
    near("survivors above 1.75 s", recorder.corrected_ok.share_above(nanos(1.75)), 250.0 / 8500.0, 0.02);
    let roomy = case.run(&mut Buffered::new((3 * SECOND, 2 * SECOND), 5000));
    assert_eq!(roomy.counts.timeout, 0, "the control: with room for all nothing is lost");
}

#[test]
fn t16_the_shares_of_a_run_add_up_to_it_bucket_by_bucket() {
    let case = Case { poisson: Some(5), ..Case::new(2000.0, 20.0) };
    // Parallel service: what one request takes does not depend on the others, so the split run is the same run.
    let server = || {
        let stalled =
            |now: Nanos| if (5 * SECOND..6 * SECOND).contains(&now) { 6 * SECOND - now } else { now % 7919 };
        move |now: Nanos| Some((now + MS + stalled(now), loadgen::record::Ending::Ok))
    };
    let whole = case.run(&mut server());
    for of in [2, 4] {
        let mut merged = Recorder::new(0, nanos(case.seconds), None);
        for part in 0..of {
            let mut engine = Engine::new(case.work(Share { part, of }));
            sim::run(&mut engine, &mut server(), &mut Exact);
            merged.merge(&engine.recorder);
        }
        assert_eq!(merged.counts, whole.counts);
        assert_eq!(merged.corrected.summary(), whole.corrected.summary());
        assert_eq!(merged.uncorrected.summary(), whole.uncorrected.summary());
    }
    let mut short = Recorder::new(0, nanos(case.seconds), None);
    let mut engine = Engine::new(case.work(Share { part: 0, of: 2 }));
    sim::run(&mut engine, &mut server(), &mut Exact);
    short.merge(&engine.recorder);
    assert_ne!(short.counts, whole.counts, "the control: half of it is not all of it");
}

#[test]
fn t17_correction_after_the_fact_needs_a_loop_that_does_not_catch_up() {
    // One connection; 1 s stall in every 10 s; an instant server otherwise.
    let stalls = || (0..6).map(|i| (i * 10 * SECOND + 5 * SECOND, SECOND)).collect();
    let server = || Single::new(Service::Fixed(0)).stalling(stalls());
    let after_the_fact = |recorder: &Recorder| {
        let mut corrected = loadgen::record::histogram();
        for value in recorder.uncorrected.histogram().iter_recorded() {
            corrected
                .record_n_correct(value.value_iterated_to(), value.count_at_value(), MS)
                .expect("values below an hour");
        }
        corrected
    };
    let skipping = Case { closed: Some(Closed::Paced), ..Case::new(1000.0, 60.0).connections(1) };
    let good = after_the_fact(&skipping.run(&mut server()));
    near("n without catch-up", good.len() as f64, 60_000.0, 0.001);
    let above =
        |h: &hdrhistogram::Histogram<u64>| 1.0 - h.count_between(0, SECOND / 2) as f64 / h.len() as f64;
    near("P(>0.5 s) without catch-up", above(&good), 0.05, 0.01);
    // A trace that catches up already holds every late request: correcting it counts the stall twice.
    let open = Case::new(1000.0, 60.0).run(&mut server());
    near("the open loop needs no correction", open.corrected.share_above(SECOND / 2), 0.05, 0.01);
    let twice = after_the_fact(&Case::new(1000.0, 60.0).connections(1).run(&mut server()));
    assert!((65_900..66_100).contains(&twice.len()), "n of the catch-up trace: {}", twice.len());
    near("P(>0.5 s) of the catch-up trace", above(&twice), 0.0455, 0.01);
}

#[test]
fn a_token_bucket_shapes_and_polices() {
    let mut shaper = Bucket::new(1000.0, 10.0, false);
    let replies: Vec<Nanos> = (0..1010).map(|_| shaper.arrive(0).expect("a reply").0).collect();
    assert_eq!(replies[9], 0);
    close("the thousandth after the burst", replies[1009] as f64 / 1e9, 1.0, 1e-6);
    let policed = Case::new(2000.0, 10.0).run(&mut Bucket::new(1000.0, 10.0, true));
    near("refused", policed.counts.error as f64, 10_000.0 - 10.0, 0.01);
}

/// Few connections through a stall: requests wait for one, and that is the server's silence. The control: the same few at a
/// server that is merely slow.
#[test]
fn the_wait_through_a_silence_is_the_servers() {
    let objective = Objective { max_latency: None, percentile: 100.0, error_ratio: 0.001, given: false };
    let through = Case::new(1000.0, 60.0).connections(8).run(&mut t1_server(0.0));
    assert!(max(&through) > 5.9, "the stall is there");
    assert_eq!(limited_by_connections(&through, &objective), None);
    let slow = Case::new(1000.0, 20.0).connections(8).run(&mut sim::delay(nanos(0.05)));
    assert!(limited_by_connections(&slow, &objective).is_some());
}

/// A p99 of fifteen requests is their maximum: one slow wake-up is no verdict on the generator.
#[test]
fn a_verdict_on_lag_needs_enough_samples() {
    struct OnceLate(bool);
    impl Pacer for OnceLate {
        fn wake(&mut self, at: Nanos) -> Nanos {
            at + if std::mem::take(&mut self.0) { 30 * MS } else { 0 }
        }
    }
    let objective = Objective { max_latency: None, percentile: 100.0, error_ratio: 0.001, given: false };
    let few = Case::new(15.0, 1.0).paced(&mut sim::delay(MS), &mut OnceLate(true));
    assert_eq!(invalid_reasons(&few, &Conduct::default(), &objective), [""; 0]);
    struct Late;
    impl Pacer for Late {
        fn wake(&mut self, at: Nanos) -> Nanos {
            at + 30 * MS
        }
    }
    // What the kernel does not tell is not taken for none.
    let silent = Conduct { kernel_dropped: None, ..Conduct::default() };
    assert_eq!(invalid_reasons(&few, &silent, &objective).len(), 1);
    let always = Case::new(15.0, 1.0).paced(&mut sim::delay(MS), &mut Late);
    assert_eq!(invalid_reasons(&always, &Conduct::default(), &objective).len(), 1);
}
