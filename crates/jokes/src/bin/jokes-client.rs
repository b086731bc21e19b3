//! jokes-client: many connections at once to a jokes server, and whether each got a whole joke.
//!
//! Run:      cargo run --bin jokes-client -- 127.0.0.1:12345
//! Expect:   as many ok as connections, the total time, percentiles
//!
//! A closed loop on purpose: it measures how long so many connections take that are opened at once. How a
//! server behaves at a given rate is the question of the load generator.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{CommandFactory, FromArgMatches, Parser};
use echo_service::{
    errno_name, limit_hint, print_line, print_to_stderr, raise_descriptor_limit, read_command_line,
    start_runtime,
};
use jokes_acts::{BUNDLED, Jokes, by_kind, parse_address, parse_number, parse_positive_duration};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// Opens many connections to a jokes server at once and checks that each gets a whole joke
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Flags {
    /// IP:PORT of the server
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:12345", value_parser = parse_address)]
    address: SocketAddr,

    /// Connections to open at once, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "1000", allow_negative_numbers = true, value_parser = parse_number::<u32>(1, 1_000_000))]
    connections: u32,

    /// The server's jokes
    #[arg(long, value_name = "PATH", default_value = BUNDLED, hide_default_value = true)]
    file: PathBuf,

    /// How long one connection may take, from connecting to the end of its joke; at most 1d
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true, value_parser = parse_positive_duration)]
    timeout: Duration,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,

    /// One line on stderr for each connection that failed
    #[arg(short, long)]
    verbose: bool,
}

/// What came of all connections.
#[derive(Debug, Serialize)]
struct Report {
    /// How many there were.
    connections: u32,
    /// How many got a whole joke.
    ok: u64,
    /// How many did not, by kind: the name of the system's error, or `timeout`, `empty` (the connection
    /// ended before the first byte), `cut_short` (a joke's beginning only), `not_a_joke`.
    failed: BTreeMap<String, u64>,
    /// From the first connect to the last end, in seconds.
    seconds: f64,
    /// Of the connections that were ok, from connect to end, in seconds: the median,
    p50: Option<f64>,
    /// the 99th percentile,
    p99: Option<f64>,
    /// and the longest. None if none was ok.
    max: Option<f64>,
}

/// The jokes that may come.
struct Expected {
    jokes: HashSet<Vec<u8>>,
    longest: usize,
}

fn main() -> ExitCode {
    let (flags, _) =
        read_command_line(PROGRAM, Flags::command().name(PROGRAM).bin_name(PROGRAM), Flags::from_arg_matches);
    raise_descriptor_limit();
    let expected = match expected(&flags) {
        Ok(expected) => Arc::new(expected),
        Err(reason) => return fail(reason),
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match start_runtime(PROGRAM, || builder.enable_io().enable_time().build()) {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(format_args!("cannot start the runtime: {error}{}", limit_hint(&error)));
        }
    };
    let verbose = flags.verbose;
    let report = runtime.block_on(run(&flags, expected, |peer, failure| {
        if verbose {
            print_to_stderr(PROGRAM, format_args!("{peer}: {failure}"));
        }
    }));
    if flags.json {
        print_line(serde_json::to_string(&report).expect("numbers and maps with string keys serialize"));
    } else {
        print_line(&report);
    }
    if report.failed.contains_key("EMFILE") {
        let error = io::Error::from_raw_os_error(nix::libc::EMFILE);
        print_to_stderr(PROGRAM, format_args!("{error}{}", limit_hint(&error)));
    }
    if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(reason: impl fmt::Display) -> ExitCode {
    print_to_stderr(PROGRAM, reason);
    ExitCode::FAILURE
}

fn expected(flags: &Flags) -> Result<Expected, String> {
    let jokes = Jokes::open(&flags.file, Duration::ZERO)?;
    let texts = jokes.texts::<Vec<_>>();
    let texts = texts.map_err(|error| format!("cannot read {}: {error}", flags.file.display()))?;
    let jokes: HashSet<_> = texts.into_iter().map(String::into_bytes).collect();
    let longest = jokes.iter().map(Vec::len).max().unwrap_or(0);
    Ok(Expected { jokes, longest })
}

/// Opens all connections at once, and waits for the last of them.
async fn run(flags: &Flags, expected: Arc<Expected>, on_failure: impl Fn(u32, &str)) -> Report {
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for number in 1..=flags.connections {
        let (address, limit, expected) = (flags.address, flags.timeout, Arc::clone(&expected));
        connections.spawn(async move {
            let started = Instant::now();
            let outcome = match timeout(limit, fetch_joke(address, &expected)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("timeout".to_owned()),
            };
            (number, outcome, started.elapsed().as_secs_f64())
        });
    }
    let mut times = Vec::new();
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(joined) = connections.join_next().await {
        match joined {
            Ok((_, Ok(()), seconds)) => times.push(seconds),
            Ok((number, Err(kind), _)) => {
                on_failure(number, &kind);
                *failed.entry(kind).or_default() += 1;
            }
            Err(_) => *failed.entry("OTHER".to_owned()).or_default() += 1,
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    // The smallest of the times that so many per cent do not exceed.
    let percentile =
        |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Report {
        connections: flags.connections,
        ok: times.len() as u64,
        failed,
        seconds,
        p50: percentile(50),
        p99: percentile(99),
        max: percentile(100),
    }
}

/// One connection: reads to its end, and compares. The error is the kind of failure.
async fn fetch_joke(address: SocketAddr, expected: &Expected) -> Result<(), String> {
    let mut socket = TcpStream::connect(address).await.map_err(|error| errno_name(&error))?;
    let mut text = Vec::new();
    // One byte more than any joke shows that it is none; a server that never ends is not read for ever.
    let limit = expected.longest as u64 + 1;
    (&mut socket).take(limit).read_to_end(&mut text).await.map_err(|error| errno_name(&error))?;
    if expected.jokes.contains(&text) {
        Ok(())
    } else if text.is_empty() {
        Err("empty".to_owned())
    } else if expected.jokes.iter().any(|joke| joke.starts_with(&text)) {
        Err("cut_short".to_owned())
    } else {
        Err("not_a_joke".to_owned())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{:.1} ms", s * 1000.0));
        writeln!(f, "{PROGRAM}: {} connections in {:.3} s", self.connections, self.seconds)?;
        writeln!(f, "  ok      {}", self.ok)?;
        writeln!(f, "  failed  {}", by_kind(&self.failed))?;
        writeln!(f, "  p50     {}", ms(self.p50))?;
        writeln!(f, "  p99     {}", ms(self.p99))?;
        write!(f, "  max     {}", ms(self.max))
    }
}
