//! `ladder bench`: how fast each server is, as ratios to `echo-blocking` in the same round.
//!
//! What ranks servers is the CPU time of an echoed datagram. A machine drifts by a tenth over minutes, so the
//! servers take turns round by round, a ratio is taken within its round, and the median over rounds is printed.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use harness::{Process, cores, on_core, proc, require_strace};
use serde::Serialize;

use crate::checkout::{Checkout, Profile};
use crate::counts::per_datagram;
use crate::failure::{Result, failed, note, print, usage};
use crate::load::{Load, Offload, Until, ping_pong};
use crate::peers;
use crate::server::{self, Launch, Target};
use crate::table::Table;

/// Options of `ladder bench`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Programs to measure; all echo servers when none is named. The reference, echo-blocking, always runs
    pub programs: Vec<String>,
    /// Somebody's server as well: NAME='COMMAND {addr}', where {addr}, {host}, {port} and {bin} (the folder of our binaries) are filled in
    #[arg(long, value_name = "NAME=COMMAND")]
    pub with: Vec<String>,
    /// Rounds; in each, every server is started anew and takes its turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Datagrams under way at any time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub window: u16,
    /// Sockets of the client over which the window is spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub peers: u16,
    /// Payload of a datagram in bytes
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(8..=65507))]
    pub size: u16,
    /// How the client sends and receives: plain, gso (sends by UDP_SEGMENT), or gso-gro (and receives by UDP_GRO)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub client: Offload,
    /// Put the server on the client's core: who has it sleeps in turn with the other
    #[arg(long)]
    pub same_core: bool,
    /// Measure the short servers in C too (crates/5-batching/peers), which are built when there is a compiler
    #[arg(long)]
    pub c_peers: bool,
    /// How long the window is kept full, for each server and round
    #[arg(long, default_value = "400ms", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Single datagrams sent for the round trip, for each server and round
    #[arg(long, default_value_t = 2000)]
    pub pings: u32,
    /// Measure the development builds, to try the tool out: their figures mean nothing
    #[arg(long)]
    pub dev: bool,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The server that the ratios refer to.
const REFERENCE: &str = "echo-blocking";

/// Datagrams sent under strace to count system calls.
const COUNTED: u64 = 2048;

/// Median and range over the rounds, and the median of the ratios to the reference within each round.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
    /// `None` when the reference was at 0 in every round: with no echo and with `--pings 0` there is nothing to compare.
    ratio: Option<f64>,
}

/// What one server did in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    echoes_per_second: f64,
    cpu_ns: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    peak_kib: f64,
    lost: u64,
    wrong: u64,
}

/// The figures of one server, as `--json` prints them.
#[derive(Debug, Serialize)]
struct Row {
    program: String,
    foreign: bool,
    cpu_ns_per_datagram: Figure,
    echoes_per_second: Figure,
    round_trip_p50_us: Figure,
    round_trip_p99_us: Figure,
    round_trip_max_us: Figure,
    /// Under strace; null where it is missing.
    system_calls_per_datagram: Option<f64>,
    peak_memory_kib: Figure,
    lost: u64,
    wrong: u64,
    /// CPU time of a datagram in each round, in nanoseconds, for ratios to another program of the same round.
    cpu_ns_of_rounds: Vec<f64>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    profile: &'static str,
    rounds: u32,
    window: u16,
    peers: u16,
    size: u16,
    duration_seconds: f64,
    reference: &'static str,
    programs: Vec<Row>,
}

/// Runs `ladder bench`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    if options.peers > options.window {
        return usage(format!(
            "--peers {} is more than the --window of {}: every peer needs one datagram",
            options.peers, options.window
        ));
    }
    if checkout.profile == Profile::Dev && !options.dev {
        return in_release(checkout);
    }
    let mut names = options.programs.clone();
    if !names.is_empty() && !names.iter().any(|name| name == REFERENCE) {
        names.insert(0, REFERENCE.into());
    }
    let mut targets = server::targets(checkout, &names, &options.with)?;
    if options.c_peers {
        targets.extend(peers::targets(checkout)?);
    }
    server::build(checkout, &targets, checkout.profile)?;
    let cores = cores();
    let client_core = cores.first().copied().unwrap_or(0);
    let server_core = if options.same_core { client_core } else { cores.last().copied().unwrap_or(0) };
    if server_core == client_core && !options.same_core {
        note(
            "ladder: only one core is allowed: client and server share it, and the CPU figures include waiting",
        );
    }
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); targets.len()];
    for number in 0..options.rounds {
        for turn in 0..targets.len() {
            // Another server begins in each round, so that none always follows the same neighbour.
            let index = (turn + number as usize) % targets.len();
            let core = server_core;
            let round =
                on_core(client_core, || measure(checkout, &targets[index], core, client_core, options))??;
            rounds[index].push(round);
        }
    }
    let reference = targets.iter().position(|target| target.name() == REFERENCE);
    let Some(reference) = reference.map(|index| rounds[index].clone()) else {
        return failed(format!("the reference {REFERENCE} is not among the programs of this checkout"));
    };
    let traceable = require_strace();
    if let Err(why) = &traceable {
        note(&format!("ladder: system calls are not counted: {why}"));
    }
    let mut rows = Vec::new();
    for (target, rounds) in targets.iter().zip(&rounds) {
        let calls = if traceable.is_ok() { Some(system_calls(checkout, target, options)?) } else { None };
        rows.push(row(target, rounds, &reference, calls));
    }
    report(checkout, options, rows)
}

/// Builds the release of the tool and of the servers, and becomes it.
pub fn in_release(checkout: &Checkout) -> Result<ExitCode> {
    note("ladder: development builds say nothing about speed: building and running the release builds");
    checkout.build(["ladder"], Profile::Release)?;
    let tool = checkout.binary("ladder", Profile::Release);
    // Returns only when it fails.
    let error = Command::new(&tool).args(std::env::args_os().skip(1)).exec();
    failed(format!("could not start {}: {error}", tool.display()))
}

/// One server's turn: started, driven with a full window, asked for round trips, ended.
fn measure(
    checkout: &Checkout,
    target: &Target,
    core: usize,
    client_core: usize,
    options: &Options,
) -> Result<Round> {
    let launch = Launch { core: Some(core), ..Launch::default() };
    let mut server = server::start(checkout, checkout.profile, target, &launch)?;
    let address = server.address()?;
    let mut load = Load::new(
        address,
        options.size.into(),
        options.window.into(),
        options.peers.into(),
        core != client_core,
        options.client,
    )?;
    // Caches, branch predictors and the server's own first steps.
    load.run(Until::Elapsed(options.duration / 10))?;
    rest(&mut server)?;
    let pids = server.pids();
    let before = proc::cpu(&pids);
    let flow = load.run(Until::Elapsed(options.duration))?;
    rest(&mut server)?;
    let pids = server.pids();
    let cpu = proc::cpu(&pids).saturating_sub(before);
    let echoes = flow.echoes.max(1) as f64;
    // Across cores nearly all of a round trip is the wake-up; on one core it is the server.
    let (times, unanswered) =
        on_core(core, || ping_pong(address, options.size.into(), options.pings as usize))??;
    let microseconds = |quantile: f64| {
        let index = ((times.len() as f64 * quantile) as usize).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or(0) as f64 / 1000.0
    };
    let round = Round {
        echoes_per_second: if flow.echoes == 0 { 0.0 } else { flow.echoes as f64 / flow.seconds },
        cpu_ns: cpu.as_nanos() as f64 / echoes,
        p50_us: microseconds(0.5),
        p99_us: microseconds(0.99),
        max_us: microseconds(1.0),
        peak_kib: proc::peak_kib(&server.pids()) as f64,
        lost: flow.lost + unanswered,
        wrong: flow.wrong,
    };
    server.dismiss();
    Ok(round)
}

/// Waits until the server sleeps: the kernel accounts for a thread's time when it leaves the core. One that
/// never sleeps is measured as it is.
fn rest(server: &mut Process) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(50);
    while Instant::now() < deadline {
        if proc::states(&server.pids()).iter().all(|&state| state == 'S') {
            return Ok(());
        }
        server.pump(Duration::from_micros(200))?;
    }
    Ok(())
}

/// Calls per datagram with the window kept full, from a run of its own: strace slows what it counts.
fn system_calls(checkout: &Checkout, target: &Target, options: &Options) -> Result<f64> {
    let launch = Launch { traced: true, ..Launch::default() };
    let mut server = server::start(checkout, checkout.profile, target, &launch)?;
    server.await_quiet()?;
    let before = server.events().len();
    let address = server.address()?;
    let (size, window, peers) = (options.size.into(), options.window.into(), options.peers.into());
    let flow =
        Load::new(address, size, window, peers, false, options.client)?.run(Until::Datagrams(COUNTED))?;
    server.await_quiet()?;
    let calls = server.calls_since(before).filter(|call| call.mark().is_none()).count();
    server.dismiss();
    Ok(calls as f64 / flow.echoes.max(1) as f64)
}

fn row(target: &Target, rounds: &[Round], reference: &[Round], calls: Option<f64>) -> Row {
    let figure = |pick: fn(&Round) -> f64| {
        let values: Vec<f64> = rounds.iter().map(pick).collect();
        let ratios: Vec<f64> = rounds
            .iter()
            .zip(reference)
            .filter(|(_, theirs)| pick(theirs) > 0.0)
            .map(|(ours, theirs)| pick(ours) / pick(theirs))
            .collect();
        Figure {
            median: median(&values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(0.0, f64::max),
            ratio: (!ratios.is_empty()).then(|| median(&ratios)),
        }
    };
    Row {
        program: target.name().to_string(),
        foreign: matches!(target, Target::Foreign { .. }),
        cpu_ns_per_datagram: figure(|round| round.cpu_ns),
        echoes_per_second: figure(|round| round.echoes_per_second),
        round_trip_p50_us: figure(|round| round.p50_us),
        round_trip_p99_us: figure(|round| round.p99_us),
        round_trip_max_us: figure(|round| round.max_us),
        system_calls_per_datagram: calls,
        peak_memory_kib: figure(|round| round.peak_kib),
        lost: rounds.iter().map(|round| round.lost).sum(),
        wrong: rounds.iter().map(|round| round.wrong).sum(),
        cpu_ns_of_rounds: rounds.iter().map(|round| round.cpu_ns).collect(),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

fn report(checkout: &Checkout, options: &Options, rows: Vec<Row>) -> Result<ExitCode> {
    let profile = if checkout.profile == Profile::Release { "release" } else { "dev" };
    if options.json {
        let report = Report {
            profile,
            rounds: options.rounds,
            window: options.window,
            peers: options.peers,
            size: options.size,
            duration_seconds: options.duration.as_secs_f64(),
            reference: REFERENCE,
            programs: rows,
        };
        match serde_json::to_string(&report) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => return failed(format!("could not write JSON: {error}")),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let ratio = |figure: Figure| figure.ratio.map_or_else(|| "?".into(), |ratio| format!("{ratio:.2}"));
    let mut cost = Table::new(
        [
            "program",
            "ratio",
            "CPU ns/datagram",
            "range",
            "calls/datagram",
            "echoes/s",
            "peak KiB",
            "lost",
            "wrong",
        ],
        1,
    );
    for row in &rows {
        let cpu = row.cpu_ns_per_datagram;
        cost.row([
            row.program.clone(),
            ratio(cpu),
            format!("{:.0}", cpu.median),
            format!("{:.0}-{:.0}", cpu.min, cpu.max),
            row.system_calls_per_datagram
                .map_or_else(|| "?".into(), |calls| per_datagram((calls * 1000.0).round() as usize, 1000)),
            format!("{:.0}", row.echoes_per_second.median),
            format!("{:.0}", row.peak_memory_kib.max),
            row.lost.to_string(),
            row.wrong.to_string(),
        ]);
    }
    let mut trip =
        Table::new(["program", "ratio", "p50 us", "range", "p99 us", "range", "max us", "range"], 1);
    for row in &rows {
        let (p50, p99, max) = (row.round_trip_p50_us, row.round_trip_p99_us, row.round_trip_max_us);
        let range = |figure: Figure| format!("{:.1}-{:.1}", figure.min, figure.max);
        trip.row([
            row.program.clone(),
            ratio(p50),
            format!("{:.1}", p50.median),
            range(p50),
            format!("{:.1}", p99.median),
            range(p99),
            format!("{:.0}", max.median),
            format!("{:.0}-{:.0}", max.min, max.max),
        ]);
    }
    let titles = [
        format!(
            "Window of {} datagrams of {} bytes over {} peer(s), {profile} builds, {} rounds of {}; medians, ratios to \
             {REFERENCE} within a round",
            options.window,
            options.size,
            options.peers,
            options.rounds,
            humantime::format_duration(options.duration)
        ),
        format!("Round trip of one datagram, client and server on one core, {} a round", options.pings),
    ];
    let [cost, trip] = [cost.titled(&titles[0], options.markdown), trip.titled(&titles[1], options.markdown)];
    print(&format!("{cost}\n{trip}"));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let rounds = |values: [f64; 3]| values.map(|cpu_ns| Round { cpu_ns, ..Round::default() });
        let target = Target::Foreign { name: "x".into(), command: vec!["x".into()] };
        // The machine slows down by half in the last round, and the ratio does not notice.
        let row = row(&target, &rounds([110.0, 220.0, 440.0]), &rounds([100.0, 200.0, 400.0]), None);
        assert!(row.cpu_ns_per_datagram.ratio.is_some_and(|ratio| (ratio - 1.1).abs() < 1e-9));
        assert_eq!(row.cpu_ns_per_datagram.median, 220.0);
        assert_eq!((row.cpu_ns_per_datagram.min, row.cpu_ns_per_datagram.max), (110.0, 440.0));
    }

    #[test]
    fn a_round_in_which_the_reference_is_at_0_has_no_ratio() {
        let rounds = |values: [f64; 2]| values.map(|cpu_ns| Round { cpu_ns, ..Round::default() });
        let target = Target::Foreign { name: "x".into(), command: vec!["x".into()] };
        let ratio =
            |reference| row(&target, &rounds([5.0, 6.0]), &rounds(reference), None).cpu_ns_per_datagram.ratio;
        assert_eq!(ratio([0.0, 2.0]), Some(3.0));
        assert_eq!(ratio([0.0, 0.0]), None);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
