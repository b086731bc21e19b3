//! `ladder acts`: the jokes server's acts, one after the other, under a crowd that comes at once.
//!
//! The story claims an order, and this asserts it: with a disk that takes its time, the act that reads head
//! first is the slowest, those that move the read elsewhere are alike, and who has read before is the fastest
//! by far. The times printed are medians over rounds; asserted are only ratios, between the fastest rounds.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use harness::strace::Call;
use harness::{Launch, Output, Process, only, proc};
use serde::Serialize;
use serde_json::Value;

use crate::bench::in_release;
use crate::checkout::{Checkout, Profile};
use crate::failure::{Context, Result, failed, note, print, usage};
use crate::server::require_strace;
use crate::table::Table;

/// Options of `ladder acts`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Connections that the client opens at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Rounds; in each, every act is started anew and takes its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How much longer a read of the slow disk takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub slow_disk: u32,
    /// Worker threads of each act's runtime
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Instead of measuring: what one connection to ACT is in system calls, and on which threads (needs strace)
    #[arg(long, value_name = "ACT")]
    pub trace: Option<String>,
    /// Flags for the act of --trace
    #[arg(last = true, requires = "trace", value_name = "FLAGS")]
    pub flags: Vec<String>,
    /// Measure the development builds, to try the tool out: their figures mean little
    #[arg(long)]
    pub dev: bool,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Milliseconds for 1000 connections that the 2018 article reports which the acts retell, on its author's machine:
/// acts 1 to 7.
const ORIGINAL: [&str; 7] = ["660", "300-330", "300-330", "300-330", "300-330", "300-330", "380"];

/// And of its cached version.
const ORIGINAL_CACHED: &str = "100";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One act's figures, as `--json` prints them.
#[derive(Debug, Serialize)]
struct Row {
    program: String,
    /// Median seconds of all connections, with the file in the page cache, and the ratio to act 1.
    seconds: f64,
    ratio: f64,
    /// The same with `--slow-disk`; and its fastest round, the one that other work disturbed least.
    slow_seconds: f64,
    slow_seconds_min: f64,
    slow_ratio: f64,
    /// Median processor time that the server spent on a joke, with `--slow-disk`, in microseconds.
    cpu_us_per_joke: f64,
    /// The most threads that a run ended with, with `--slow-disk`.
    threads: u64,
    /// The most memory that a run had, with `--slow-disk`.
    peak_memory_kib: u64,
    /// Null without strace.
    system_calls_per_joke: Option<f64>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    profile: &'static str,
    connections: u32,
    rounds: u32,
    slow_disk_ms: u32,
    threads: u16,
    acts: Vec<Row>,
    /// What the story claims and these figures deny.
    denied: Vec<String>,
}

/// Runs `ladder acts`: exit code 1 when the order is not the story's.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    if let Some(program) = &options.trace {
        let program = &checkout.program(program)?.name;
        if !program.starts_with("jokes-") || program == CLIENT {
            return usage(format!("{program} is no act of the jokes server; jokes-1-head-first is one"));
        }
        print(&transcript(checkout, program, &options.flags)?);
        return Ok(ExitCode::SUCCESS);
    }
    if checkout.profile == Profile::Dev && !options.dev {
        return in_release(checkout);
    }
    let mut acts: Vec<&str> = checkout
        .programs
        .iter()
        .map(|program| program.name.as_str())
        .filter(|name| name.starts_with("jokes-") && *name != CLIENT)
        .collect();
    // The numbered ones first: digits sort before letters.
    acts.sort_unstable();
    if !acts.first().is_some_and(|first| is_act(first, 1)) {
        return failed("this checkout has no jokes-1-head-first, to which the others are compared");
    }
    checkout.build(acts.iter().copied().chain([CLIENT]), checkout.profile)?;
    let mut fast = vec![Vec::new(); acts.len()];
    let mut slow = vec![Vec::new(); acts.len()];
    let mut cpu = vec![Vec::new(); acts.len()];
    let mut grown = vec![(0, 0); acts.len()];
    for number in 0..options.rounds {
        for turn in 0..acts.len() {
            // Another act begins in each round, so that none always follows the same neighbour.
            let index = (turn + number as usize) % acts.len();
            fast[index].push(measure(checkout, options, acts[index], 0)?.seconds);
            let run = measure(checkout, options, acts[index], options.slow_disk)?;
            slow[index].push(run.seconds);
            cpu[index].push(run.cpu_us);
            grown[index] = (run.threads.max(grown[index].0), run.peak_kib.max(grown[index].1));
        }
    }
    let traceable = harness::require_strace();
    if let Err(why) = &traceable {
        note(&format!("ladder: system calls are not counted: {why}"));
    }
    let mut rows = Vec::new();
    for (index, program) in acts.iter().enumerate() {
        let calls = if traceable.is_ok() { Some(calls_per_joke(checkout, program, options)?) } else { None };
        rows.push(Row {
            program: (*program).to_string(),
            seconds: median(&fast[index]),
            ratio: ratio(&fast[index], &fast[0]),
            slow_seconds: median(&slow[index]),
            slow_seconds_min: slow[index].iter().copied().fold(f64::INFINITY, f64::min),
            slow_ratio: ratio(&slow[index], &slow[0]),
            cpu_us_per_joke: median(&cpu[index]),
            threads: grown[index].0,
            peak_memory_kib: grown[index].1,
            system_calls_per_joke: calls,
        });
    }
    let denied = denied(&rows);
    report(checkout, options, rows, denied)
}

const CLIENT: &str = "jokes-client";

fn is_act(program: &str, number: usize) -> bool {
    program.starts_with(&format!("jokes-{number}-"))
}

/// The claims of the story that the figures do not bear out, with the figures. Judged by the fastest rounds:
/// other work on the machine can only add time.
fn denied(rows: &[Row]) -> Vec<String> {
    let mut denied = Vec::new();
    let Some((first, others)) = rows.split_first() else { return denied };
    let (told, kept): (Vec<&Row>, Vec<&Row>) =
        others.iter().partition(|row| (2..=9).any(|number| is_act(&row.program, number)));
    let ms = |row: &Row| format!("{} {:.1} ms", row.program, row.slow_seconds_min * 1000.0);
    for other in others {
        if other.slow_seconds_min * 1.5 > first.slow_seconds_min {
            denied.push(format!(
                "act 1 is the slowest when the disk is slow, by half at least: {}, {}",
                ms(first),
                ms(other)
            ));
        }
    }
    let by_time = |a: &&&Row, b: &&&Row| a.slow_seconds_min.total_cmp(&b.slow_seconds_min);
    if let (Some(fastest), Some(slowest)) = (told.iter().min_by(by_time), told.iter().max_by(by_time)) {
        if slowest.slow_seconds_min > fastest.slow_seconds_min * 2.5 {
            denied.push(format!(
                "acts 2 to 7 are alike, within a factor of 2.5: {}, {}",
                ms(fastest),
                ms(slowest)
            ));
        }
        let cheapest = told.iter().map(|row| row.cpu_us_per_joke).fold(f64::INFINITY, f64::min);
        for cached in kept {
            // Where other work blurs the times, the processor time still tells.
            let faster = cached.slow_seconds_min * 1.2 <= fastest.slow_seconds_min;
            let cheaper = cached.cpu_us_per_joke * 1.5 <= cheapest;
            if !faster && !cheaper {
                denied.push(format!(
                    "who has read before is the fastest, by a fifth at least, or the cheapest, by a third: {} and \
                     {:.0} us of processor time, {} and at least {cheapest:.0} us",
                    ms(cached),
                    cached.cpu_us_per_joke,
                    ms(fastest)
                ));
            }
        }
    }
    denied
}

/// What one turn of one act shows.
struct Run {
    seconds: f64,
    cpu_us: f64,
    threads: u64,
    peak_kib: u64,
}

/// One act's turn: started, warmed up by one crowd, measured with the next, ended.
fn measure(checkout: &Checkout, options: &Options, program: &str, slow_disk: u32) -> Result<Run> {
    let launch = Launch::new(checkout.binary(program, checkout.profile).display());
    let act = start(launch, slow_disk, options.threads)?;
    // Threads are started and buffers allocated by the first crowd.
    crowd(checkout, &act, options.connections)?;
    let pid = [act.id()];
    let before = proc::cpu(&pid);
    let seconds = crowd(checkout, &act, options.connections)?;
    let cpu = proc::cpu(&pid).saturating_sub(before);
    let run = Run {
        seconds,
        cpu_us: cpu.as_nanos() as f64 / 1000.0 / f64::from(options.connections),
        threads: proc::status(act.id()).map_or(0, |status| status.threads),
        peak_kib: proc::peak_kib(&pid),
    };
    finish(act)?;
    Ok(run)
}

/// System calls that one joke more costs the server: two runs under strace, so that the start, which both
/// have, falls out of the difference.
fn calls_per_joke(checkout: &Checkout, program: &str, options: &Options) -> Result<f64> {
    let calls = |jokes| -> Result<usize> {
        let launch = Launch::new(checkout.binary(program, checkout.profile).display()).traced(["-s", "0"]);
        let act = start(launch, 0, options.threads)?;
        crowd(checkout, &act, jokes)?;
        finish(act).map(|calls| calls.len())
    };
    let (few, many) = (calls(50)?, calls(250)?);
    Ok(many.saturating_sub(few) as f64 / 200.0)
}

/// The one joke of a transcript, from the top of the checkout: two lines, so that who sends line by line can be told from
/// who does not.
const TRACED: &str = "crates/jokes/knock.txt";

/// The calls that move a joke.
const MOVES: &[&str] = &[
    "accept4", "openat", "lseek", "read", "pread64", "write", "writev", "sendto", "sendmsg", "shutdown",
    "recvfrom",
];

/// What one connection to an act is in system calls: each with its thread, `A` being the one that accepts. The
/// act has one worker and one thread in its pool, so that the order is the same each time; waits, and calls
/// that would have blocked, are left out. `flags` are the act's own.
pub fn transcript(checkout: &Checkout, program: &str, flags: &[String]) -> Result<String> {
    require_strace()?;
    checkout.build([program], checkout.profile)?;
    let file = checkout.root.join(TRACED);
    let told = fs::read_to_string(&file).context(|| format!("read {TRACED}"))?;
    let launch = Launch::new(checkout.binary(program, checkout.profile).display())
        .args(["--blocking-threads", "1", "--file", &file.display().to_string()])
        .args(flags)
        .traced([["-s".into(), "32".into()], only(MOVES)].concat());
    let act = start(launch, 0, 1)?;
    let mut joke = String::new();
    TcpStream::connect(act.address()?)
        .and_then(|mut connection| {
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.read_to_string(&mut joke)
        })
        .context(|| format!("hear a joke from {program}"))?;
    if joke != told {
        return failed(format!("{program} sent {joke:?} instead of {told:?}"));
    }
    Ok(one_connection(&finish(act)?))
}

/// The calls of a connection, from its accept to the end of what the client sends, one a line.
fn one_connection(calls: &[Call]) -> String {
    let calls = calls.iter().filter(|call| call.errno.is_none());
    let mut threads: Vec<u32> = Vec::new();
    let mut names: Vec<(i64, &str)> = Vec::new();
    let mut lines = String::new();
    for call in calls {
        let descriptor = call.args.first().and_then(|arg| arg.parse::<i64>().ok());
        let name = |descriptor: Option<i64>| {
            names.iter().rev().find(|(number, _)| Some(*number) == descriptor).map(|(_, name)| *name)
        };
        // Before the connection there is the start: only what was opened there matters.
        let begun = names.iter().any(|(_, name)| *name == "connection");
        let (shown, result) = match (call.name.as_str(), name(descriptor)) {
            ("accept4", _) => ("accept4(listener)".to_string(), "connection".to_string()),
            ("openat", _) if begun => ("openat(jokes)".to_string(), "file".to_string()),
            ("lseek", Some(file)) => {
                (format!("lseek({file}, {})", call.args.get(1).map_or("", String::as_str)), value(call))
            }
            ("read" | "pread64" | "recvfrom", Some(from)) => (format!("{}({from})", call.name), value(call)),
            ("write" | "writev" | "sendto" | "sendmsg", Some(to)) => {
                let text = call.args.get(1).map_or("", String::as_str);
                (format!("{}({to}, {text})", call.name), value(call))
            }
            ("shutdown", Some(connection)) => (format!("shutdown({connection}, SHUT_WR)"), value(call)),
            // A file that is read by position was opened at the start.
            ("pread64", None) if begun => ("pread64(jokes)".to_string(), value(call)),
            _ => continue,
        };
        if let ("accept4" | "openat", Some(number)) = (call.name.as_str(), call.value) {
            names.push((number, if call.name == "accept4" { "connection" } else { "file" }));
        }
        let thread = threads.iter().position(|&thread| thread == call.pid).unwrap_or_else(|| {
            threads.push(call.pid);
            threads.len() - 1
        });
        let thread = char::from(b'A' + (thread % 26) as u8);
        lines.push_str(&format!("thread {thread}  {shown} = {result}\n"));
        // The client has closed, and so does the act; but that may be after it was told to end.
        if call.name == "recvfrom" && call.value == Some(0) {
            break;
        }
    }
    lines
}

fn value(call: &Call) -> String {
    call.value.map_or_else(|| "?".into(), |value| value.to_string())
}

/// Lets the client open its connections; the seconds that it took. A joke that did not arrive whole fails.
fn crowd(checkout: &Checkout, act: &Process, connections: u32) -> Result<f64> {
    let address = act.address()?.to_string();
    let ended = Launch::new(checkout.binary(CLIENT, checkout.profile).display())
        .args(["--json", "--connections", &connections.to_string(), &address])
        .stderr(Output::Inherited)
        .patience(PATIENCE)
        .run()?;
    let report: Value =
        serde_json::from_str(&ended.stdout).context(|| format!("read what {CLIENT} printed"))?;
    if !ended.status.success() {
        return failed(format!("{}: not everybody got a joke: {report}", act.name));
    }
    match report["seconds"].as_f64() {
        Some(seconds) => Ok(seconds),
        None => failed(format!("{CLIENT} printed no seconds: {report}")),
    }
}

/// Starts an act with the flags of the measurement behind those that it has.
fn start(launch: Launch, slow_disk: u32, threads: u16) -> Result<Process> {
    let flags = ["--json", "--slow-disk", &slow_disk.to_string(), "--threads", &threads.to_string()];
    let mut act = launch.args(flags).args(["127.0.0.1:0"]).patience(PATIENCE).start()?;
    act.await_greeting()?;
    Ok(act)
}

/// Ends an act, which has to end well; the system calls that strace has seen, if it has looked.
fn finish(act: Process) -> Result<Vec<Call>> {
    let ended = act.terminate()?;
    ended.expect_code(0)?;
    Ok(ended.calls().cloned().collect())
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

/// The median of the ratios within each round.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs.max(f64::MIN_POSITIVE)).collect();
    median(&ratios)
}

fn report(checkout: &Checkout, options: &Options, rows: Vec<Row>, denied: Vec<String>) -> Result<ExitCode> {
    let code = if denied.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if options.json {
        let report = Report {
            profile: if checkout.profile == Profile::Release { "release" } else { "dev" },
            connections: options.connections,
            rounds: options.rounds,
            slow_disk_ms: options.slow_disk,
            threads: options.threads,
            acts: rows,
            denied,
        };
        let text = serde_json::to_string(&report).context(|| "write JSON".into())?;
        print(&format!("{text}\n"));
        return Ok(code);
    }
    let slow_disk = format!("disk +{} ms", options.slow_disk);
    let header = [
        "act",
        "cached file",
        "ratio",
        &slow_disk,
        "ratio",
        "CPU/joke",
        "threads",
        "memory",
        "calls/joke",
        "original",
    ];
    let mut table = Table::new(header, 1);
    for (index, row) in rows.iter().enumerate() {
        let original = match ORIGINAL.get(index) {
            Some(original) if is_act(&row.program, index + 1) => format!("{original} ms"),
            _ if row.program == "jokes-cached" => format!("{ORIGINAL_CACHED} ms"),
            _ => "-".into(),
        };
        table.row([
            row.program.clone(),
            format!("{:.1} ms", row.seconds * 1000.0),
            format!("{:.2}", row.ratio),
            format!("{:.1} ms", row.slow_seconds * 1000.0),
            format!("{:.2}", row.slow_ratio),
            format!("{:.0} us", row.cpu_us_per_joke),
            row.threads.to_string(),
            format!("{:.1} MiB", row.peak_memory_kib as f64 / 1024.0),
            row.system_calls_per_joke.map_or_else(|| "-".into(), |calls| format!("{calls:.1}")),
            original,
        ]);
    }
    print(&if options.markdown { table.markdown() } else { table.text() });
    note(&format!(
        "ladder: {} connections at once, median of {} interleaved rounds, {} worker threads; processor time, threads and memory with the slow disk",
        options.connections, options.rounds, options.threads
    ));
    for claim in &denied {
        note(&format!(
            "ladder: not as the story tells: {claim} (fastest of the rounds; try again when the machine has less to do)"
        ));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(slow_ms: [f64; 4]) -> Vec<Row> {
        let names = ["jokes-1-head-first", "jokes-2-blocking-pool", "jokes-7-async-fs", "jokes-cached"];
        let row = |(name, ms): (&str, f64)| Row {
            program: name.to_string(),
            seconds: 1.0,
            ratio: 1.0,
            slow_seconds: ms / 1000.0,
            slow_seconds_min: ms / 1000.0,
            slow_ratio: 1.0,
            cpu_us_per_joke: ms / 10.0,
            threads: 1,
            peak_memory_kib: 1,
            system_calls_per_joke: None,
        };
        names.into_iter().zip(slow_ms).map(row).collect()
    }

    #[test]
    fn the_order_of_the_story_is_asserted() {
        assert_eq!(denied(&rows([660.0, 300.0, 380.0, 100.0])), [""; 0]);
        for (other, words) in [
            ([300.0, 300.0, 380.0, 100.0], "act 1 is the slowest"),
            ([2000.0, 300.0, 900.0, 100.0], "alike"),
            ([660.0, 300.0, 380.0, 290.0], "the fastest"),
        ] {
            let denied = denied(&rows(other)).join("\n");
            assert!(denied.contains(words), "{other:?}: {denied:?}");
        }
    }

    #[test]
    fn a_connection_is_shown_by_thread() {
        let trace = "7 openat(AT_FDCWD, \"jokes.txt\", O_RDONLY) = 3\n\
            7 read(3, \"Knock\", 8192) = 28\n\
            8 accept4(5, NULL, NULL, SOCK_CLOEXEC) = 9\n\
            9 pread64(3,  <unfinished ...>\n\
            8 accept4(5, NULL, NULL, SOCK_CLOEXEC) = -1 EAGAIN (Resource temporarily unavailable)\n\
            9 <... pread64 resumed>\"Knock\", 28, 0) = 28\n\
            8 sendto(9, \"Knock\", 28, MSG_NOSIGNAL, NULL, 0) = 28\n\
            8 recvfrom(9, \"\", 512, 0, NULL, NULL) = 0\n\
            8 accept4(5, NULL, NULL, SOCK_CLOEXEC) = 10\n";
        let expected = "thread A  accept4(listener) = connection\nthread B  pread64(jokes) = 28\n\
            thread A  sendto(connection, \"Knock\") = 28\nthread A  recvfrom(connection) = 0\n";
        let events = harness::strace::read(trace.as_bytes()).events;
        let calls: Vec<Call> = harness::calls(&events).cloned().collect();
        assert_eq!(one_connection(&calls), expected);
    }
}
