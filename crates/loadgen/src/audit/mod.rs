//! `loadgen audit`: a contract for load generators. A recording server with known misbehaviour, and a row for each thing
//! that a generator must do and say.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use self::reading::Reading;
use self::rules::{Asked, Finding, Row, Said};
use self::server::{Behaviour, Record, RecordingServer};
use crate::exit::{EXIT_FAILURE, EXIT_OK, WrongUsage};
use crate::format::wrap;
use crate::output::{print_result, printable};
use crate::schedule::Rate;
use crate::units::Span;

pub mod reading;
pub mod rules;
pub mod server;

/// Flags of `loadgen audit`.
#[derive(clap::Args, Clone, Debug)]
pub struct AuditArgs {
    /// Audit loadgen itself
    #[arg(long = "self", conflicts_with = "command")]
    pub own: bool,
    /// The rate that the command is asked for
    #[arg(long, value_name = "R", default_value = "200")]
    pub rate: Rate,
    /// The duration that the command is asked for
    #[arg(long, value_name = "DUR", default_value = "4s", value_parser = Span::above_zero)]
    pub duration: Span,
    /// The command sends at random times, as many independent users do
    #[arg(long)]
    pub poisson: bool,
    /// Where its output says how many requests there were, however they ended
    #[arg(long, value_name = "HOW", help_heading = "How to read its output")]
    pub total: Option<Reading>,
    /// Where it says the mean latency
    #[arg(long, value_name = "HOW", help_heading = "How to read its output")]
    pub mean: Option<Reading>,
    /// The median
    #[arg(long, value_name = "HOW", help_heading = "How to read its output")]
    pub p50: Option<Reading>,
    /// The 99th percentile
    #[arg(long, value_name = "HOW", help_heading = "How to read its output")]
    pub p99: Option<Reading>,
    /// The maximum
    ///
    /// HOW is a JSON pointer (/latency/max, in seconds) or a text with one *: what stands in its place is the figure, with
    /// a unit if it has one (ns, us, ms, s, m): 'Max latency: *'.
    #[arg(long, value_name = "HOW", help_heading = "How to read its output")]
    pub max: Option<Reading>,
    /// The load generator; {url}, {rate}, {duration} (4s) and {seconds} (4) in it are filled in
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl AuditArgs {
    /// The audit of loadgen itself.
    fn own(&self) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("loadgen does not find itself")?;
        let program = program.to_str().context("loadgen's own path is no text")?;
        let run = ["run", "{url}", "--rate", "{rate}", "--duration", "{duration}", "--json"];
        let more = ["--warmup", "0s", "--timeout", "2s", "--no-progress", "--seed", "1"];
        let arrival = ["--arrival", if self.poisson { "poisson" } else { "constant" }];
        let pointer = |pointer: &str| Some(Reading::Pointer(pointer.to_owned()));
        Ok(Self {
            total: pointer("/counts/scheduled"),
            mean: pointer("/corrected/mean"),
            p50: pointer("/corrected/p50"),
            p99: pointer("/corrected/p99"),
            max: pointer("/corrected/max"),
            command: [program]
                .iter()
                .chain(&run)
                .chain(&more)
                .chain(&arrival)
                .map(|s| (*s).to_owned())
                .collect(),
            ..self.clone()
        })
    }

    /// Runs the command once against a server that behaves so: what the server saw, what the command said, and its CPU
    /// time in seconds.
    fn try_once(&self, behaviour: Behaviour) -> anyhow::Result<(Record, Said, f64)> {
        let server = RecordingServer::start(behaviour).context("the recording server cannot be started")?;
        let known = BTreeMap::from([
            ("{url}", format!("http://{}/", server.address())),
            ("{rate}", self.rate.to_string()),
            ("{duration}", format!("{}s", self.duration.seconds())),
            ("{seconds}", self.duration.seconds().to_string()),
        ]);
        let fill =
            |word: &String| known.iter().fold(word.clone(), |word, (name, value)| word.replace(name, value));
        let words: Vec<String> = self.command.iter().map(fill).collect();
        let (program, args) = words.split_first().context("no command to audit")?;
        let before = children_cpu();
        let output = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {program:?}: name the load generator after --"))?;
        let used = children_cpu() - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let figure = |reading: &Option<Reading>| reading.as_ref().map(|how| how.read(&text)).transpose();
        let said = Said {
            total: figure(&self.total)?,
            mean: figure(&self.mean)?,
            p50: figure(&self.p50)?,
            p99: figure(&self.p99)?,
            max: figure(&self.max)?,
        };
        Ok((server.record(), said, used))
    }

    fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let whole = self.duration.duration();
        // Not where a start is due at most rates: a moment more or less would decide on which side it falls.
        let from = whole.mul_f64(0.23);
        let until = from + whole / 4;
        let asked = Asked {
            rate: self.rate.per_second(),
            duration: whole.as_secs_f64(),
            stall: (from.as_secs_f64(), until.as_secs_f64()),
            poisson: self.poisson,
        };
        let (record, said, used) = self.try_once(Behaviour::Stall(from, until))?;
        let mut rows = rules::of_stall(&asked, &record, &said, used);
        let (record, said, _) = self.try_once(Behaviour::Dead(whole / 2))?;
        rows.push(rules::of_death(&record, &said));
        Ok(rows)
    }
}

/// CPU time of all children that have ended, in seconds.
fn children_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(0.0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// `loadgen audit`: a row for each requirement; 0 when none fails, else 1.
///
/// # Errors
/// A command that cannot be started, or output that cannot be read as told.
pub fn run(args: &AuditArgs) -> anyhow::Result<u8> {
    if !args.own && args.command.is_empty() {
        let what = "name the load generator: loadgen audit -- COMMAND {url} {rate} {duration}, or --self";
        return Err(WrongUsage(what.to_owned()).into());
    }
    if args.duration.duration() < Duration::from_secs(2) {
        return Err(
            WrongUsage("give a --duration of 2s at least: a quarter of it is the stall".to_owned()).into()
        );
    }
    let rows = if args.own { args.own()?.rows()? } else { args.rows()? };
    let mut text = String::new();
    for Row { name, finding } in &rows {
        let (word, figures) = match finding {
            Finding::Holds(figures) => ("holds", figures.as_str()),
            Finding::Fails(figures) => ("FAILS", figures.as_str()),
            Finding::NotAsked(why) => ("not asked", *why),
        };
        text.push_str(&format!("{word:<10} {}\n", wrap(&format!("{name}: {figures}"), 11, 11)));
    }
    let failed = rows.iter().filter(|row| matches!(row.finding, Finding::Fails(_))).count();
    text.push_str(&format!("{failed} of {} requirements fail", rows.len()));
    print_result(&printable(&text))?;
    Ok(if failed == 0 { EXIT_OK } else { EXIT_FAILURE })
}
