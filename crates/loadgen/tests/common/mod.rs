//! The real binary, started, spoken to and ended by the tests.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod sample;

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use harness::demo::must;
use harness::{Launch, Process, eventually};
use loadgen::record::Metric;
use loadgen::result::{Document, Run, Summary};
use nix::sys::signal::Signal;

/// For each wait that is expected to succeed; a loaded machine is slow.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The binary with these arguments.
pub fn loadgen(args: &[&str]) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_loadgen")).args(args).patience(4 * DEADLINE)
}

/// Runs the binary to its end.
pub fn output(args: &[&str]) -> Output {
    end(must(loadgen(args).start()))
}

/// Waits for the end of a process.
pub fn end(process: Process) -> Output {
    let ended = must(process.finish());
    Output { status: ended.status, stdout: ended.stdout.into_bytes(), stderr: ended.stderr.into_bytes() }
}

/// What a finished process printed: its exit code and the run in its JSON.
pub fn parse(output: &Output) -> (i32, Run) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    match serde_json::from_str(text.trim()) {
        Ok(Document::Run(run)) => {
            let counts = run.counts;
            assert_eq!(counts.scheduled, counts.ok + counts.error + counts.timeout + counts.unfinished, "A0");
            assert_eq!(run.corrected.count, counts.scheduled, "A0: each scheduled request has a latency");
            assert_eq!(run.errors.values().sum::<u64>(), counts.error, "each error has a class");
            let in_windows: u64 = run.windows.iter().map(|w| w.scheduled).sum();
            if run.plan.arrival != "closed" {
                assert_eq!(in_windows, counts.scheduled, "the windows hold the schedule");
            }
            let ended: u64 = run.windows.iter().map(|w| w.ok + w.error + w.timeout).sum();
            assert_eq!(ended, counts.scheduled, "the windows hold every end");
            (output.status.code().expect("no signal ended it"), run)
        }
        other => panic!("no run in {text:?} ({:?}); stderr: {errors}", other.err()),
    }
}

/// Runs `loadgen run TARGET ARGS --json` to its end.
pub fn run(target: &str, args: &[&str]) -> (i32, Run) {
    parse(&output(&[&["run", target, "--json"], args].concat()))
}

/// Starts `loadgen run TARGET ARGS --json`, and waits until its first worker is there: the schedule begins within the next
/// 20 ms, however long the machine took to come so far.
pub fn start(target: &str, args: &[&str]) -> Process {
    let process = must(loadgen(&[&["run", target, "--json"], args].concat()).start());
    let threads = format!("/proc/{}/task", process.id());
    must(eventually("loadgen starts a worker", DEADLINE, || {
        let mut names = std::fs::read_dir(&threads).ok()?.flatten().map(|task| task.path().join("comm"));
        names
            .any(|name| std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "loadgen-0"))
            .then_some(())
    }));
    process
}

/// An address that no other process uses: what is bound there to port 0 and let go is given to nobody else.
pub fn own_address() -> Ipv4Addr {
    let pid = std::process::id();
    Ipv4Addr::new(127, 128 | (pid >> 16) as u8 & 63, (pid >> 8) as u8, pid as u8)
}

/// A metric out of a result.
pub fn metric(summary: &Summary) -> Metric {
    Metric::from_summary(summary).expect("its own histogram")
}

/// Stops a process for `time` and lets it go on; for how many seconds it was stopped.
pub fn hold(process: &Process, time: Duration) -> f64 {
    must(process.signal(Signal::SIGSTOP));
    let begin = Instant::now();
    std::thread::sleep(time);
    must(process.signal(Signal::SIGCONT));
    begin.elapsed().as_secs_f64()
}

/// A running `loadgen serve`. Killed when dropped.
pub struct Target {
    process: Process,
    pub address: SocketAddr,
    pub greeting: String,
}

impl Target {
    /// Starts `loadgen serve KIND 127.0.0.1:0 --json ARGS`.
    pub fn start(kind: &str, args: &[&str]) -> Self {
        let serve = loadgen(&["serve", kind, "127.0.0.1:0", "--json"]);
        let mut process = must(serve.args(args).patience(DEADLINE).start());
        let greeting = must(process.line());
        let address = greeting
            .strip_prefix("loadgen: listening on ")
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in the greeting {greeting:?}"));
        Self { process, address, greeting }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        must(self.process.signal(signal));
    }

    /// Makes it stand still for `time`; for how many seconds it did in fact.
    pub fn hold(&self, time: Duration) -> f64 {
        hold(&self.process, time)
    }

    /// Waits for the end: its status and the rest of its stdout.
    pub fn wait(self) -> (ExitStatus, String) {
        let ended = must(self.process.finish());
        let rest = ended.stdout.split_once('\n').map_or("", |(_, rest)| rest).to_owned();
        (ended.status, rest)
    }

    /// Ends it with SIGTERM; its summary, whose identity must hold.
    pub fn stop(self) -> serde_json::Value {
        self.signal(Signal::SIGTERM);
        let (status, rest) = self.wait();
        assert_eq!(status.code(), Some(0), "exit status after SIGTERM");
        let summary: serde_json::Value =
            serde_json::from_str(&rest).unwrap_or_else(|e| panic!("the summary {rest:?} is no JSON: {e}"));
        let count = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"));
        let sum = |name: &str| -> u64 {
            summary[name].as_object().expect(name).values().map(|count| count.as_u64().expect(name)).sum()
        };
        let parts =
            ["answered", "rejected", "dropped", "queue_dropped", "unanswered"].map(count).iter().sum::<u64>();
        assert_eq!(
            count("received"),
            parts + sum("refused") + sum("send_errors"),
            "the identity in {summary}"
        );
        summary
    }

    /// A TCP connection to it.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the target accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout is set");
        stream
    }

    /// A UDP socket that is connected to it.
    pub fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        socket.connect(self.address).expect("the target has an address");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout is set");
        socket
    }
}
