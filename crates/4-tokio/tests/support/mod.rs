//! What the demos' tests share: a program run as its reader runs it, with a deadline on every wait, and
//! under strace where that is installed.

// Each test file uses its part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The longest that anything may take. It is far longer than anything does: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A program that has been started.
pub struct Running {
    child: Child,
    /// The program itself: `child`, or strace's child.
    pid: Pid,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    trace: Option<PathBuf>,
    /// What stdout has carried so far.
    pub seen: Vec<String>,
}

/// A program that has ended.
pub struct Ended {
    /// The exit code; `None` if a signal killed it.
    pub code: Option<i32>,
    /// The lines of stdout.
    pub stdout: Vec<String>,
    /// All of stderr.
    pub stderr: String,
    /// What strace recorded, if it did.
    pub trace: Trace,
}

impl Running {
    /// Starts `program`.
    pub fn start(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command, None)
    }

    /// Starts `program` under strace, which records `calls`; `None`, said on stderr, where strace is missing.
    pub fn traced(calls: &str, program: &str, args: &[&str]) -> Option<Self> {
        let works =
            Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
        if !works.is_ok_and(|status| status.success()) {
            eprintln!("skipped: strace is not installed, or may not trace here");
            return None;
        }
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}.trace", std::process::id()));
        // A call that this machine does not have is marked as no error by the question mark.
        let calls = calls.split(',').map(|call| format!("?{call}")).collect::<Vec<_>>().join(",");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "200", "-e", &format!("trace={calls}"), "-o"]).arg(&file);
        command.arg("--").arg(program).args(args);
        Some(Self::spawn(command, Some(file)))
    }

    fn spawn(mut command: Command, trace: Option<PathBuf>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have enough.
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text).unwrap_or_default()
        });
        let pid = Pid::from_raw(child.id() as i32);
        Self { child, pid, lines, stderr: Some(stderr), trace, seen: Vec::new() }
    }

    /// The next line of stdout.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?} after {:?}", self.seen),
            Err(RecvTimeoutError::Disconnected) => panic!("stdout ended after {:?}", self.seen),
        }
    }

    /// Reads lines until one contains `text`; returns that one.
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Whether stdout carries a line within `time`. For "nothing happens", which a longer wait only makes surer.
    pub fn silent_for(&mut self, time: Duration) -> bool {
        match self.lines.recv_timeout(time) {
            Ok(line) => {
                self.seen.push(line);
                false
            }
            Err(_) => true,
        }
    }

    /// The addresses in the first line.
    pub fn addresses(&mut self) -> Vec<SocketAddr> {
        let line = self.line();
        let words = line.split([' ', ',']).map_while(|word| (word != "(try:").then_some(word));
        words.filter_map(|word| word.parse().ok()).collect()
    }

    /// Sends a signal to the program, not to strace above it.
    pub fn signal(&mut self, signal: Signal) {
        if self.trace.is_some() {
            let parent = self.child.id();
            let start = Instant::now();
            loop {
                let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
                let child = children.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
                if let Some(pid) = child {
                    self.pid = Pid::from_raw(pid);
                    break;
                }
                assert!(start.elapsed() < DEADLINE, "strace has no child");
                thread::yield_now();
            }
        }
        kill(self.pid, signal).expect("the program is there to be signalled");
    }

    /// Stops the program with SIGSTOP, and returns when it stands still.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGSTOP);
        let start = Instant::now();
        let stopped = || {
            let state = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("the program is there");
            // The state follows the name, which stands in brackets and may hold anything.
            state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        };
        while !stopped() {
            assert!(start.elapsed() < DEADLINE, "SIGSTOP stops nothing");
            thread::yield_now();
        }
    }

    /// Sends SIGINT and waits for the end.
    pub fn interrupt(mut self) -> Ended {
        self.signal(Signal::SIGINT);
        self.end()
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("still running after {DEADLINE:?}: {:?}", self.seen),
            }
        }
        let status = self.child.wait().expect("the program ends");
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let trace = self.trace.take().map(|file| {
            let text = fs::read_to_string(&file).expect("strace has written its file");
            // It lies in the build folder: left over, it does no harm.
            let _ = fs::remove_file(file);
            text
        });
        let stdout = std::mem::take(&mut self.seen);
        Ended { code: status.code(), stdout, stderr, trace: Trace(trace.unwrap_or_default()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.trace.is_some() && self.pid.as_raw() != self.child.id() as i32 {
            // It may have ended by itself.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        // Ended and waited for already, or a test has failed: then it must not stay behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that `program`, which ends by itself, does so with exit code 0 although nobody can read what it prints.
pub fn survives_without_an_audience(program: &str, args: &[&str]) {
    for full in [true, false] {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stderr(Stdio::piped());
        if full {
            command.stdout(fs::File::create("/dev/full").expect("/dev/full opens"));
        } else {
            // A pipe whose reader has gone.
            let (_, writer) = std::io::pipe().expect("a pipe");
            command.stdout(writer);
        }
        let output = command.output().expect("the program starts");
        assert_eq!(
            output.status.code(),
            Some(0),
            "{program} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Ended {
    /// The summary of `--json`, after the checks that hold for every demo: exit code 0, nothing on stderr.
    pub fn summary(&self) -> Value {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        assert_eq!(self.stderr, "", "nothing went wrong, so nothing is complained of");
        let last = self.stdout.last().expect("a summary on stdout");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("the last line is JSON: {error}: {last}"))
    }

    /// Checks that it ended with `code` and one line, which contains `text`, before the usage if any.
    pub fn refused(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "stderr: {}", self.stderr);
        assert!(self.stdout.is_empty(), "nothing stands on stdout: {:?}", self.stdout);
        let first = self.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(text), "{text:?} stands in the first line of {:?}", self.stderr);
        let usage = self.stderr.lines().any(|line| line.starts_with("Usage:"));
        assert_eq!(usage, code == 2, "wrong usage shows the usage, a failure does not: {:?}", self.stderr);
    }
}

/// What strace recorded.
pub struct Trace(String);

impl Trace {
    /// The lines in which a call begins that `wanted` accepts, without the process id, in order. A call in
    /// whose middle another thread was scheduled counts once.
    pub fn calls(&self, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
        let lines =
            self.0.lines().map(|line| line.split_once(' ').map_or(line, |(_, call)| call.trim_start()));
        lines.filter(|call| !call.starts_with(['<', '+', '-']) && wanted(call)).collect()
    }

    /// How often `name` was called.
    pub fn count(&self, name: &str) -> usize {
        self.calls(|call| call.split('(').next() == Some(name)).len()
    }

    /// How often epoll_wait was called, by whichever of its names.
    pub fn waits(&self) -> usize {
        self.calls(is_wait).len()
    }

    /// The trace marks, in order.
    pub fn marks(&self) -> Vec<&str> {
        let writes = self.calls(|call| call.starts_with("write(") && call.contains("EBADF"));
        writes.iter().filter_map(|call| call.split('"').nth(1)).collect()
    }

    /// How often `writes` of eight bytes, as to an eventfd, were made.
    pub fn eventfd_writes(&self) -> usize {
        self.calls(|call| call.starts_with("write(") && call.contains("\"\\1\\0\\0\\0\\0\\0\\0\\0\", 8"))
            .len()
    }
}

/// Whether the call is epoll_wait, by whichever name the C library and the architecture have for it.
pub fn is_wait(call: &str) -> bool {
    ["epoll_wait(", "epoll_pwait(", "epoll_pwait2("].iter().any(|name| call.starts_with(name))
}

/// All calls that the demos' traces are read for.
pub const CALLS: &str =
    "epoll_create1,epoll_ctl,epoll_wait,epoll_pwait,epoll_pwait2,eventfd2,pipe2,read,write,recvfrom,sendto";
