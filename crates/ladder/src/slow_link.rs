//! `ladder slow-link`: who loses what, and how old the echoes are, behind a link whose sends block.
//!
//! It runs inside a network namespace that `scripts/slow-link` makes, where what goes to [`CLIENT`] passes a link of
//! 1 Mbit/s. Outside of one it starts that script.

use std::env;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use echo_contract::RUNGS;
use harness::Launch;
use serde::{Deserialize, Serialize};

use crate::checkout::{Checkout, Profile, Program};
use crate::failure::{Context, Result, failed, note, print, usage};
use crate::table::Table;

/// Set by `scripts/slow-link` inside the namespace.
const INSIDE: &str = "LADDER_SLOW_LINK";

/// Whose address is behind the slow link.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Bytes of a datagram: eight of its number, eight of when it was sent, and filling.
const SIZE: usize = 1000;

/// A datagram is sent so often: four times what the link carries.
const PERIOD: Duration = Duration::from_millis(2);

/// The link carries one each 8 ms: when none has come for so long, it is empty, and nothing is on its way.
const SILENCE: Duration = Duration::from_secs(1);

/// The servers that are run unless others are named: a flip-flop and one that waits for both directions, by hand and on tokio.
const DEFAULT: [&str; 4] = ["echo-blocking", "echo-select", "echo-tokio-await", "echo-tokio"];

/// Options of `ladder slow-link`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Echo servers to run, each with every policy that it has [default: echo-blocking, echo-select, echo-tokio-await, echo-tokio]
    pub programs: Vec<String>,
    /// How many datagrams each of them is sent, one each 2 ms
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    pub datagrams: u64,
    /// Passed on to the servers [default: theirs]
    #[arg(long, value_name = "N")]
    pub queue: Option<usize>,
    /// Passed on to the servers [default: theirs]
    #[arg(long, value_name = "BYTES")]
    pub send_buffer: Option<usize>,
    /// Passed on to the servers [default: theirs]
    #[arg(long, value_name = "BYTES")]
    pub receive_buffer: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What became of the datagrams of one server.
#[derive(Debug, Serialize)]
struct Row {
    program: String,
    policy: &'static str,
    sent: u64,
    /// Received by the server.
    received: u64,
    /// Echoes that came back.
    echoed: u64,
    /// Lost in the kernel: the server's receive buffer was full.
    kernel_dropped: u64,
    /// Lost by the server: its queue was full.
    queue_dropped: u64,
    /// From the send until the echo had come back, in milliseconds.
    age_p50_ms: f64,
    age_max_ms: f64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    datagrams: u64,
    programs: Vec<Row>,
}

/// The counts of a server's summary that are looked at.
#[derive(Deserialize)]
struct Counts {
    received: u64,
    sent: u64,
    queue_dropped: u64,
    kernel_dropped: u64,
}

/// Runs `ladder slow-link`: exit code 1 when a datagram is not accounted for.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    let named = if options.programs.is_empty() { &DEFAULT.map(String::from)[..] } else { &options.programs };
    let programs = checkout.echo_programs(named)?;
    if let Some(other) = programs.iter().find(|program| !RUNGS.iter().any(|rung| rung.name == program.name)) {
        return usage(format!(
            "{} is no echo server of the ladder: `cargo ladder list --echo` names them",
            other.name
        ));
    }
    if env::var_os(INSIDE).is_none() {
        return in_namespace(checkout);
    }
    checkout.build(programs.iter().map(|program| program.name.as_str()), checkout.profile)?;
    let mut rows = Vec::new();
    for program in &programs {
        let rung = RUNGS.iter().find(|rung| rung.name == program.name);
        for policy in rung.map_or(&[][..], |rung| rung.policies) {
            rows.push(measure(checkout, checkout.profile, program, policy, options)?);
        }
    }
    let broken: Vec<String> = rows.iter().flat_map(|row| broken(row, options)).collect();
    if options.json {
        match serde_json::to_string(&Report { datagrams: options.datagrams, programs: rows }) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => return failed(format!("could not write JSON: {error}")),
        }
    } else {
        print(&format!("{}{}", title(options), table(&rows).text()));
    }
    broken.iter().for_each(|sentence| note(&format!("ladder: {sentence}")));
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Becomes the script that makes the namespace, and starts this command again in there.
fn in_namespace(checkout: &Checkout) -> Result<ExitCode> {
    let script = checkout.root.join("scripts/slow-link");
    let tool = env::current_exe().context(|| "find the tool's own binary".into())?;
    // Returns only when it fails.
    let error = Command::new(&script).args(env::args_os().skip(2)).env("LADDER", tool).exec();
    failed(format!("could not start {}: {error}", script.display()))
}

/// Sends the datagrams to one server with one policy, and waits until nothing is on its way any more.
fn measure(
    checkout: &Checkout,
    profile: Profile,
    program: &Program,
    policy: &'static str,
    options: &Options,
) -> Result<Row> {
    let mut args = vec!["--json".to_owned(), format!("--on-full={policy}")];
    for (flag, value) in [
        ("--queue", options.queue),
        ("--send-buffer", options.send_buffer),
        ("--receive-buffer", options.receive_buffer),
    ] {
        args.extend(value.map(|value| format!("{flag}={value}")));
    }
    args.push("127.0.0.1:0".to_owned());
    let binary = checkout.binary(&program.name, profile);
    let starting = || format!("measure {} --on-full {policy}", program.name);
    let mut server = Launch::new(binary.display()).args(args).start().context(starting)?;
    server.await_greeting().context(starting)?;

    let socket = UdpSocket::bind((CLIENT, 0)).context(|| format!("bind a socket at {CLIENT}"))?;
    socket.connect(server.address().context(starting)?).context(starting)?;
    socket.set_read_timeout(Some(SILENCE)).context(starting)?;
    let start = Instant::now();
    let sending = AtomicBool::new(true);
    let (sent, ages) = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&socket, start, &sending));
        let sent = send(&socket, start, options.datagrams);
        sending.store(false, Ordering::Relaxed);
        (sent, receiver.join())
    });
    sent.context(starting)?;
    let Ok(mut ages) = ages else { return failed("the thread that receives the echoes panicked") };
    let ended = server.interrupt().context(starting)?;
    ended.expect_code(0).context(starting)?;
    let last = ended.stdout.lines().last().unwrap_or_default();
    let counts: Counts =
        serde_json::from_str(last).context(|| format!("read the summary of {}", program.name))?;
    ages.sort_unstable();
    let ms = |age: Option<&Duration>| age.map_or(0.0, |age| age.as_secs_f64() * 1e3);
    if counts.sent != ages.len() as u64 {
        return failed(format!(
            "{} --on-full {policy} has sent {} echoes, and {} have come back: they overtook the pause of {} ms",
            program.name,
            counts.sent,
            ages.len(),
            SILENCE.as_millis()
        ));
    }
    Ok(Row {
        program: program.name.clone(),
        policy,
        sent: options.datagrams,
        received: counts.received,
        echoed: ages.len() as u64,
        kernel_dropped: counts.kernel_dropped,
        queue_dropped: counts.queue_dropped,
        age_p50_ms: ms(ages.get(ages.len() / 2)),
        age_max_ms: ms(ages.last()),
    })
}

/// Sends by an absolute schedule: a late datagram does not make the next one late.
fn send(socket: &UdpSocket, start: Instant, datagrams: u64) -> std::io::Result<()> {
    let mut payload = [0; SIZE];
    for number in 0..datagrams {
        thread::sleep((start + PERIOD * number as u32).saturating_duration_since(Instant::now()));
        payload[..8].copy_from_slice(&number.to_be_bytes());
        payload[8..16].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_be_bytes());
        socket.send(&payload)?;
    }
    Ok(())
}

/// Receives until nothing comes any more after the last was sent; returns the age of each echo.
fn receive(socket: &UdpSocket, start: Instant, sending: &AtomicBool) -> Vec<Duration> {
    let mut ages = Vec::new();
    let mut payload = [0; SIZE];
    loop {
        match socket.recv(&mut payload) {
            Ok(SIZE) => {
                let sent = payload[8..16].try_into().map_or(0, u64::from_be_bytes);
                ages.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
            }
            // A short one is nobody's echo. A pause is the end only when all has been sent.
            Ok(_) => {}
            Err(_) if sending.load(Ordering::Relaxed) => {}
            Err(_) => return ages,
        }
    }
}

/// What does not hold of a row, as sentences.
fn broken(row: &Row, options: &Options) -> Vec<String> {
    let Row { program, policy, sent, received, kernel_dropped, .. } = row;
    let mut broken = Vec::new();
    if received + kernel_dropped != *sent {
        broken.push(format!(
            "{program} --on-full {policy}: {sent} were sent; {received} received and {kernel_dropped} dropped by the \
             kernel do not add up to that"
        ));
    }
    if *policy != "backpressure" && options.receive_buffer.is_none() && *kernel_dropped > 0 {
        broken.push(format!(
            "{program} --on-full {policy} always reads, and the kernel dropped {kernel_dropped}"
        ));
    }
    broken
}

/// What the table has no room to say.
fn title(options: &Options) -> String {
    format!(
        "{} datagrams of {SIZE} bytes, one each {} ms; the link carries one each 8 ms.\n\
         kernel, queue: where they were lost. p50, max: age of the echoes in ms.\n",
        options.datagrams,
        PERIOD.as_millis()
    )
}

fn table(rows: &[Row]) -> Table {
    let header = ["program", "on-full", "received", "echoed", "kernel", "queue", "p50", "max"];
    let mut table = Table::new(header, 2);
    for row in rows {
        table.row([
            row.program.clone(),
            row.policy.to_owned(),
            row.received.to_string(),
            row.echoed.to_string(),
            row.kernel_dropped.to_string(),
            row.queue_dropped.to_string(),
            format!("{:.0}", row.age_p50_ms),
            format!("{:.0}", row.age_max_ms),
        ]);
    }
    table
}
