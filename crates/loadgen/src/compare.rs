//! `loadgen compare`: several targets on one schedule, in turns, so that what drifts on the machine befalls them all.

use echo_service::raise_descriptor_limit;

use crate::clock::{Nanos, SECOND, nanos};
use crate::exit::WrongUsage;
use crate::live::{Finished, execute};
use crate::options::{LoadArgs, ScheduleArgs, SloArgs, TargetArg};
use crate::outcome::result;
use crate::process::interrupt;
use crate::progress::Display;
use crate::report::{self, OutputArgs};
use crate::result::{Compare, Document, Ratio, Run, SCHEMA_VERSION, Summary};
use crate::schedule::{Arrival, Schedule};
use crate::spec::Spec;
use crate::target::Target;

/// Flags of `loadgen compare`.
#[derive(clap::Args, Clone, Debug)]
pub struct CompareArgs {
    /// Two targets or more; the others are compared with the first
    #[arg(required = true, num_args = 2.., value_name = "TARGET")]
    pub targets: Vec<TargetArg>,
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

/// A turn is at most this long: what drifts in less is noise to all.
const TURN: Nanos = 5 * SECOND;

/// One target's part.
struct Side {
    spec: Spec,
    target: Target,
    finished: Option<Finished>,
}

/// Adds a round to what a target has shown so far.
fn add(sum: &mut Option<Finished>, round: Finished) {
    let Some(sum) = sum else {
        *sum = Some(round);
        return;
    };
    let shift = sum.duration as f64 / 1e9;
    sum.recorder.merge(&round.recorder);
    sum.windows.extend(round.windows.into_iter().map(|mut window| {
        window.start += shift;
        window
    }));
    let (mine, theirs) = (&mut sum.generator, round.generator);
    mine.cpu_seconds += theirs.cpu_seconds;
    mine.cpu_share = mine.cpu_share.max(theirs.cpu_share);
    mine.cpu_wanted = mine.cpu_wanted.max(theirs.cpu_wanted);
    mine.wakes += theirs.wakes;
    sum.conduct.cpu_wanted = sum.conduct.cpu_wanted.map(|_| mine.cpu_wanted);
    sum.conduct.kernel_dropped =
        sum.conduct.kernel_dropped.zip(round.conduct.kernel_dropped).map(|(a, b)| a + b);
    sum.conduct.aborted |= round.conduct.aborted;
    sum.connections = sum.connections.max(round.connections);
    sum.cap = sum.cap.max(round.cap);
    if let Some(udp) = &round.udp {
        sum.udp.get_or_insert_default().add(udp);
    }
    sum.duration += round.duration;
    sum.interrupted |= round.interrupted;
}

fn ratios(runs: &[Run]) -> Vec<Ratio> {
    let Some(first) = runs.first() else { return Vec::new() };
    let ratio = |run: &Run, of: fn(&Summary) -> Option<f64>| {
        let base = of(&first.corrected).filter(|base| *base > 0.0)?;
        Some(of(&run.corrected)? / base)
    };
    let row = |run: &Run| Ratio {
        target: run.plan.target.clone(),
        mean: ratio(run, |s| s.mean),
        p50: ratio(run, |s| s.p50),
        p99: ratio(run, |s| s.p99),
        max: ratio(run, |s| s.max),
    };
    runs.iter().map(row).collect()
}

/// `loadgen compare`.
///
/// # Errors
/// A target that does not resolve, a file that cannot be read or written.
pub fn run(args: &CompareArgs) -> anyhow::Result<u8> {
    let seed = args.load.seed();
    let (schedule, closed) = args.schedule.schedule(args.load.arrival, seed)?;
    if args.load.start_at.is_some() || args.load.shard.is_some() {
        return Err(WrongUsage(
            "--shard and --start-at belong to run: a comparison takes its turns by itself".to_owned(),
        )
        .into());
    }
    // What has a shape is run whole each turn; what is even is cut into turns.
    let even = matches!(schedule.arrival, Arrival::Constant(_) | Arrival::Poisson(..))
        || schedule.peak_rate() == 0.0;
    let rounds = if even { schedule.duration.div_ceil(TURN).max(2) } else { 1 };
    let turn = Schedule { duration: (schedule.duration / rounds).max(1), ..schedule };
    let mut sides = Vec::new();
    for target in &args.targets {
        let (mut spec, target) = args.load.spec(target, turn.clone(), closed, args.slo.objective(), seed)?;
        if args.load.warmup.is_none() {
            spec.warm_up = nanos(0.5);
        }
        sides.push(Side { spec, target, finished: None });
    }
    let outputs = args.output.open()?;
    raise_descriptor_limit();
    let interrupt = interrupt()?;
    let mut display = Display::new(args.output.no_progress);
    let mut done = 0;
    'rounds: for round in 0..rounds {
        for side in &mut sides {
            display.prefix(format!("round {} of {rounds}, {}: ", round + 1, side.target));
            if let Arrival::Poisson(rate, _) = side.spec.schedule.arrival {
                // Other gaps in each round, the same for every target of it.
                side.spec.schedule.arrival = Arrival::Poisson(rate, seed.wrapping_add(round));
            }
            let finished = execute(&side.spec, &interrupt, &mut |progress| display.show(progress))?;
            let stop = finished.interrupted;
            add(&mut side.finished, finished);
            if stop {
                break 'rounds;
            }
        }
        done += 1;
    }
    drop(display);
    let mut interrupted = false;
    let mut targets = Vec::new();
    for side in sides {
        // Interrupted before its first turn: there is nothing to show of it.
        let Some(finished) = side.finished else {
            interrupted = true;
            continue;
        };
        interrupted |= finished.interrupted;
        let duration = finished.duration;
        let mut run = result(&side.spec, &side.target, Some(&args.schedule), seed, finished);
        run.plan.duration = duration as f64 / 1e9;
        targets.push(run);
    }
    let ratios = ratios(&targets);
    let document =
        Document::Compare(Compare { schema_version: SCHEMA_VERSION, targets, ratios, rounds: done });
    report::finish(&document, outputs, interrupted)
}
