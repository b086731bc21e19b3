//! `loadgen run`: one run at a constant rate (or ramp, steps, closed loop).

use echo_service::raise_descriptor_limit;

use crate::live::execute;
use crate::options::{LoadArgs, ScheduleArgs, SloArgs, TargetArg};
use crate::outcome::result;
use crate::process::interrupt;
use crate::progress::Display;
use crate::report::{self, OutputArgs};
use crate::result::Document;

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

/// `loadgen run`.
///
/// # Errors
/// A target that does not resolve, a file that cannot be read or written.
pub fn run(args: &RunArgs) -> anyhow::Result<u8> {
    let seed = args.load.seed();
    let (schedule, closed) = args.schedule.schedule(args.load.arrival, seed)?;
    let (spec, target) = args.load.spec(&args.target, schedule, closed, args.slo.objective(), seed)?;
    let outputs = args.output.open()?;
    raise_descriptor_limit();
    let interrupt = interrupt()?;
    let mut display = Display::new(args.output.no_progress);
    let finished = execute(&spec, &interrupt, &mut |progress| display.show(progress))?;
    drop(display);
    let interrupted = finished.interrupted;
    let document = Document::Run(result(&spec, &target, Some(&args.schedule), seed, finished));
    report::finish(&document, outputs, interrupted)
}
