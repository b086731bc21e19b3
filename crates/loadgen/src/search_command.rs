//! `loadgen search`: trials against a real target, under the rules of [`crate::search`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use echo_service::raise_descriptor_limit;

use crate::clock::{nanos, seconds};
use crate::exit::WrongUsage;
use crate::format::duration;
use crate::live::execute;
use crate::options::{ArrivalArg, LoadArgs, SloArgs, TargetArg, width};
use crate::outcome::plan;
use crate::process::interrupt;
use crate::progress::Display;
use crate::report::{self, OutputArgs};
use crate::result::{Document, SCHEMA_VERSION, Search, Validity};
use crate::schedule::{Arrival, Rate, Schedule};
use crate::search::{Outcome, Phase, Request, Settings, Trial, search};
use crate::slo::{Verdict, judge, nothing_good};
use crate::spec::Spec;
use crate::units::Span;

/// Flags of `loadgen search`.
#[derive(clap::Args, Clone, Debug)]
pub struct SearchArgs {
    /// http://HOST/PATH, https://HOST/PATH, udp://HOST:PORT, tcp://HOST:PORT or scenario.toml
    pub target: TargetArg,
    /// mlr finds and confirms bounds; aimd goes up and down and gives an estimate
    #[arg(long, value_enum, default_value = "mlr")]
    pub mode: Mode,
    /// How long the rate must hold: the length of the confirmation
    #[arg(long = "for", value_name = "D", default_value = "300s")]
    pub hold: Span,
    /// No rate below it is tried
    #[arg(long, value_name = "R", default_value = "1")]
    pub min_rate: Rate,
    /// No rate above it is tried
    #[arg(long, value_name = "R")]
    pub max_rate: Option<Rate>,
    /// Length of a full trial
    #[arg(long, value_name = "D", default_value = "4s")]
    pub trial: Span,
    /// Trial time at one rate after which it is decided
    #[arg(long, value_name = "D", default_value = "20s")]
    pub sum: Span,
    /// Relative width of the bounds at which the search ends
    #[arg(long, value_name = "W", default_value = "1%", value_parser = width)]
    pub width: f64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub load: LoadArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub slo: SloArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub output: OutputArgs,
}

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Bounds from repeated trials, then a confirmation
    Mlr,
    /// Additive increase, multiplicative decrease: an estimate
    Aimd,
}

/// Trials against the target.
struct Live<'a> {
    spec: Spec,
    warm_up: Option<Span>,
    poisson: Option<u64>,
    interrupt: Arc<AtomicBool>,
    display: &'a mut Display,
}

/// A probe of the drain: so long, at so many requests a second.
const PROBE: (f64, f64) = (0.5, 20.0);

impl Live<'_> {
    /// The spec for `rate` over `duration` seconds.
    fn trial(&self, rate: f64, duration: f64) -> Spec {
        let mut spec = self.spec.clone();
        let rate_of = Rate::approximate(rate);
        let arrival = match self.poisson {
            Some(seed) => Arrival::Poisson(rate_of, seed),
            None => Arrival::Constant(rate_of),
        };
        spec.schedule = Schedule { arrival, duration: nanos(duration) };
        spec.warm_up = self.warm_up.map_or_else(|| nanos((duration / 4.0).min(1.0)), |span| span.0);
        spec.stop_if_unanswered = false;
        spec
    }
}

impl Trial for Live<'_> {
    type Error = anyhow::Error;

    fn run(&mut self, request: &Request) -> anyhow::Result<Outcome> {
        let mut spec = self.trial(request.rate, request.duration);
        let first = request.phase == Phase::Baseline;
        (spec.trial, spec.stop_if_unanswered) = (!first, first);
        self.display.prefix(format!("{} at {}/s: ", request.phase.name(), request.rate));
        let display = &mut *self.display;
        let finished = execute(&spec, &self.interrupt, &mut |progress| display.show(progress))?;
        let conduct = finished.conduct;
        let recorder = &finished.recorder;
        if first && nothing_good(&recorder.counts).is_some() && recorder.own_failures().next().is_none() {
            let classes: Vec<String> =
                recorder.errors.iter().map(|(class, n)| format!("{class} {n}")).collect();
            anyhow::bail!(
                "none of the first {} requests was answered well ({}): try the target with `loadgen run` first",
                recorder.counts.scheduled,
                if classes.is_empty() { "no reply".to_owned() } else { classes.join(", ") }
            );
        }
        let mut judgement = judge(recorder, &conduct, &spec.objective, spec.schedule.duration);
        if conduct.aborted && judgement.verdict == Verdict::Pass {
            // Ended because it could not pass any more; what was recorded until then need not show it.
            judgement.verdict = Verdict::Fail;
            judgement
                .reasons
                .push("ended early: more requests than allowed had exceeded the limit".to_owned());
        }
        let run_for = seconds(finished.duration).max(1e-9);
        let line = format!(
            "{} {}/s for {run_for:.1} s: {}{}",
            request.phase.name(),
            request.rate,
            judgement.verdict.name(),
            judgement.reasons.first().map_or_else(String::new, |reason| format!(" ({reason})"))
        );
        self.display.line(&line);
        Ok(Outcome {
            verdict: judgement.verdict,
            reasons: judgement.reasons,
            latency: judgement.latency.map(seconds),
            slope: judgement.slope,
            achieved_rate: recorder.counts.ok as f64 / run_for,
            counts: recorder.counts,
            send_lag_p99: (recorder.send_lag.count() > 0)
                .then(|| seconds(recorder.send_lag.quantile_ns(0.99))),
            seconds: run_for,
            service: recorder.service().map(seconds),
            behind: seconds(recorder.corrected.max_ns()),
        })
    }

    fn drain(&mut self, service: Option<f64>, behind: f64) -> anyhow::Result<f64> {
        let begin = Instant::now();
        // Without it there is nothing to compare with.
        let Some(service) = service else { return Ok(0.0) };
        let recovered = 1.5 * service + 0.001;
        // The backlog that the trial left takes about as long as its last request took; a probe more for a short one.
        let most = 2.0 * behind + PROBE.0;
        let mut waits_for = format!("a probe is to take {} at most", duration(recovered));
        loop {
            self.display.prefix(format!(
                "draining for {:.0} s of {most:.0} s, {waits_for}: ",
                begin.elapsed().as_secs_f64()
            ));
            let mut spec = self.trial(PROBE.1, PROBE.0);
            spec.warm_up = 0;
            spec.grace = spec.grace.min(nanos(PROBE.0));
            let display = &mut *self.display;
            let finished = execute(&spec, &self.interrupt, &mut |progress| display.show(progress))?;
            let took = seconds(finished.recorder.corrected.quantile_ns(0.5));
            if took <= recovered || self.interrupted() {
                break;
            }
            if begin.elapsed().as_secs_f64() > most {
                self.display.line(&format!("drained for {most:.1} s, {waits_for}: going on all the same"));
                break;
            }
            waits_for =
                format!("a probe took {} and is to take {} at most", duration(took), duration(recovered));
        }
        Ok(begin.elapsed().as_secs_f64())
    }

    fn interrupted(&self) -> bool {
        self.interrupt.load(Relaxed)
    }
}

/// `loadgen search`.
///
/// # Errors
/// A target that does not resolve, a file that cannot be read or written.
pub fn run(args: &SearchArgs) -> anyhow::Result<u8> {
    let objective = args.slo.objective();
    let Some(limit) = objective.max_latency else {
        return Err(WrongUsage("give --max-latency L: the limit that the rate is to hold".to_owned()).into());
    };
    let bad_rates = args.max_rate.is_some_and(|max| max.per_second() < args.min_rate.per_second());
    if bad_rates || args.trial.0 == 0 || args.hold.0 == 0 {
        return Err(WrongUsage(
            "give a --max-rate of at least --min-rate, and a --trial and --for above zero".to_owned(),
        )
        .into());
    }
    if args.load.start_at.is_some() || args.load.shard.is_some() {
        return Err(WrongUsage(
            "--shard and --start-at belong to run: a search decides by itself what comes next".to_owned(),
        )
        .into());
    }
    let seed = args.load.seed();
    let schedule = Schedule { arrival: Arrival::Constant(args.min_rate), duration: args.trial.0 };
    let (spec, target) = args.load.spec(&args.target, schedule, None, objective, seed)?;
    let outputs = args.output.open()?;
    raise_descriptor_limit();
    let interrupt = interrupt()?;
    let settings = Settings {
        min_rate: args.min_rate.per_second(),
        max_rate: args.max_rate.map(Rate::per_second),
        trial: args.trial.seconds(),
        sum: args.sum.seconds(),
        width: args.width,
        hold: args.hold.seconds(),
    };
    let begin = Instant::now();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let mut display = Display::new(args.output.no_progress);
    let poisson = (args.load.arrival == ArrivalArg::Poisson).then_some(seed);
    let mut live = Live { spec, warm_up: args.load.warmup, poisson, interrupt, display: &mut display };
    let aimd = args.mode == Mode::Aimd;
    let found = search(&mut live, &settings, aimd)?;
    let mut plan = plan(&live.spec, &target, None);
    plan.rate = None;
    plan.warmup = args.load.warmup.map_or_else(|| (settings.trial / 4.0).min(1.0), Span::seconds);
    drop(display);

    let mut reasons = found.limited_by;
    if let Some(rate) = found.limited_at {
        reasons
            .insert(0, format!("≥ {rate} requests a second, generator-limited: no capacity of the server's"));
    }
    let document = Document::Search(Search {
        schema_version: SCHEMA_VERSION,
        plan,
        seed,
        mode: if aimd { "aimd" } else { "mlr" }.to_owned(),
        started,
        elapsed: begin.elapsed().as_secs_f64(),
        max_latency: seconds(limit),
        percentile: objective.percentile,
        error_ratio: objective.error_ratio,
        hold: settings.hold,
        width: settings.width,
        baseline: found.service,
        strict: found.strict,
        typical: found.typical,
        conditional_throughput: found.conditional_throughput,
        confirmed: found.confirmed,
        estimate: found.estimate,
        trials: found.trials,
        validity: Validity { ok: reasons.is_empty(), reasons, littles_law: None },
        interrupted: found.interrupted,
    });
    report::finish(&document, outputs, found.interrupted)
}
