//! `loadgen run`: one run at a constant rate (or ramp, steps, closed loop).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{EXIT_INTERRUPTED, usage};
use crate::clock::seconds;
use crate::live::{Finished, Spec, execute};
use crate::options::{LoadArgs, ScheduleArgs, SloArgs, TargetArg, plan};
use crate::progress::Display;
use crate::report::{self, OutputArgs};
use crate::result::{Document, Run, SCHEMA_VERSION, Slo, Validity};
use crate::slo::{error_ratio, invalid_reasons, violations};
use crate::target::Target;

/// Flags of `loadgen run`.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    /// http://HOST/PATH, https://HOST/PATH, udp://HOST:PORT, tcp://HOST:PORT or scenario.toml
    pub target: TargetArg,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub schedule: ScheduleArgs,
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

/// A flag that SIGINT and SIGTERM set; a second one ends the process at once.
pub(crate) fn interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(EXIT_INTERRUPTED),
            Arc::clone(&flag),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
        .context("cannot watch for signals")?;
    }
    Ok(flag)
}

/// Raises the limit on open files as far as it goes: each connection is one.
pub(crate) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Not granted: then connections fail with a class that says so.
        _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The result of a run as it is printed.
pub(crate) fn result(
    spec: &Spec,
    target: &Target,
    schedule: Option<&ScheduleArgs>,
    seed: u64,
    finished: Finished,
) -> Run {
    let Finished { recorder, conduct, .. } = &finished;
    let objective = &spec.objective;
    let duration = seconds(finished.duration).max(1e-9);
    let reasons = invalid_reasons(recorder, conduct, objective);
    let mut broken = violations(recorder, objective);
    if finished.interrupted {
        broken.push("it was interrupted".to_owned());
    }
    let mut plan = plan(spec, target, schedule);
    plan.connections = finished.cap;
    plan.connections_used = finished.connections;
    Run {
        schema_version: SCHEMA_VERSION,
        plan,
        seed,
        started: finished.started,
        elapsed: seconds(recorder.took()),
        counts: recorder.counts,
        achieved_rate: recorder.counts.ok as f64 / duration,
        sent_rate: recorder.sent as f64 / duration,
        corrected: recorder.corrected.summary(),
        uncorrected: recorder.uncorrected.summary(),
        corrected_ok: recorder.corrected_ok.summary(),
        send_lag: recorder.send_lag.summary(),
        pool_wait: recorder.pool_wait.summary(),
        connect: recorder.connect.summary(),
        first_byte: recorder.first_byte.summary(),
        body: recorder.body.summary(),
        errors: recorder.errors.clone(),
        requests: recorder.requests.clone(),
        udp: finished.udp,
        generator: finished.generator,
        validity: Validity { ok: reasons.is_empty(), reasons },
        slo: Slo {
            max_latency: objective.max_latency.map(seconds),
            percentile: objective.percentile,
            error_ratio: objective.error_ratio,
            observed_latency: objective.latency(&recorder.corrected).map(seconds),
            observed_error_ratio: error_ratio(&recorder.counts),
            held: broken.is_empty(),
            reasons: broken,
        },
        interrupted: finished.interrupted,
        windows: finished.windows,
    }
}

/// The exit code of a result.
pub(crate) fn exit(document: &Document, interrupted: bool) -> u8 {
    if interrupted { EXIT_INTERRUPTED } else { report::exit_code(document) }
}

/// `loadgen run`.
///
/// # Errors
/// A target that does not resolve, a file that cannot be read or written.
pub fn run(args: &RunArgs) -> anyhow::Result<u8> {
    let seed = args.load.seed();
    let (schedule, closed) =
        args.schedule.schedule(args.load.arrival, seed).unwrap_or_else(|e| usage("run", &e));
    let (spec, target) = args.load.spec(&args.target, schedule, closed, args.slo.objective(), seed)?;
    raise_descriptor_limit();
    let interrupt = interrupt()?;
    let mut display = Display::new(args.output.no_progress);
    let finished = execute(&spec, &interrupt, &mut |progress| display.show(progress))?;
    drop(display);
    let interrupted = finished.interrupted;
    let document = Document::Run(result(&spec, &target, Some(&args.schedule), seed, finished));
    report::emit(&document, &args.output)?;
    Ok(exit(&document, interrupted))
}
