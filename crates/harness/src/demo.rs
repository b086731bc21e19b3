//! A program under test: whatever goes wrong is a panic of the test that asked.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::launch::{Launch, Output};
use crate::process::{self, Process};
use crate::recorder::only;
use crate::strace::Call;

/// All calls that the traces of demos are read for.
pub const CALLS: &str =
    "epoll_create1,epoll_ctl,epoll_wait,epoll_pwait,epoll_pwait2,eventfd2,pipe2,read,write,recvfrom,sendto";

/// A program that has been started.
pub struct Running(Process);

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

/// What a step came to; its failure is the test's.
#[track_caller]
pub fn must<T>(result: Result<T>) -> T {
    match result {
        Ok(done) => done,
        Err(error) => panic!("{error}"),
    }
}

impl Running {
    /// Starts `program`.
    #[track_caller]
    pub fn start(program: &str, args: &[&str]) -> Self {
        Self(must(Launch::new(program).args(args).start()))
    }

    /// Starts `program` under strace, which records `calls`, separated by commas; `None`, said on stderr, where
    /// strace cannot trace.
    #[track_caller]
    pub fn traced(calls: &str, program: &str, args: &[&str]) -> Option<Self> {
        let calls: Vec<&str> = calls.split(',').collect();
        let options = [["-s".into(), "200".into()], only(&calls)].concat();
        match Launch::new(program).args(args).traced(options).start() {
            Err(Error::Unavailable(why)) => {
                eprintln!("skipped: {why}");
                None
            }
            started => Some(Self(must(started))),
        }
    }

    /// The next line of stdout.
    #[track_caller]
    pub fn line(&mut self) -> String {
        must(self.0.line())
    }

    /// Reads lines until one contains `text`; returns that one.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        must(self.0.line_with(text))
    }

    /// Whether stdout carries no line for that time.
    pub fn silent_for(&mut self, time: Duration) -> bool {
        self.0.is_silent_for(time)
    }

    /// The addresses in the greeting, which is the next line.
    #[track_caller]
    pub fn addresses(&mut self) -> Vec<SocketAddr> {
        must(self.0.await_greeting()).addresses
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        must(self.0.signal(signal));
    }

    /// Stops the program with SIGSTOP, and returns when it stands still.
    #[track_caller]
    pub fn stop(&mut self) {
        must(self.0.freeze());
    }

    /// Sends SIGINT and waits for the end.
    #[track_caller]
    pub fn interrupt(self) -> Ended {
        Ended::of(must(self.0.interrupt()))
    }

    /// Waits for the end.
    #[track_caller]
    pub fn end(self) -> Ended {
        Ended::of(must(self.0.finish()))
    }
}

/// Checks that `program`, which ends by itself, does so with exit code 0 although nobody can read what it prints.
#[track_caller]
pub fn survives_without_an_audience(program: &str, args: &[&str]) {
    for output in [Output::Full, Output::Unread] {
        let ended = must(Launch::new(program).args(args).stdout(output).run());
        must(ended.expect_code(0).map_err(|error| error.context(&format!("stdout: {output:?}"))));
    }
}

impl Ended {
    fn of(ended: process::Ended) -> Self {
        let stdout = ended.stdout.lines().map(str::to_owned).collect();
        let calls = ended.calls().map(|call| (call.to_string(), call.clone())).collect();
        Self { code: ended.code(), stdout, stderr: ended.stderr, trace: Trace(calls) }
    }

    /// The summary of `--json`, after the checks that hold for every demo: exit code 0, nothing on stderr.
    #[track_caller]
    pub fn summary(&self) -> Value {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        assert_eq!(self.stderr, "", "nothing went wrong, so nothing is complained of");
        let last = self.stdout.last().expect("a summary on stdout");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("the last line is JSON: {error}: {last}"))
    }

    /// Checks that it ended with `code` and one line, which contains `text`, before the usage if any.
    #[track_caller]
    pub fn refused(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "stderr: {}", self.stderr);
        assert!(self.stdout.is_empty(), "nothing stands on stdout: {:?}", self.stdout);
        let first = self.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(text), "{text:?} stands in the first line of {:?}", self.stderr);
        let usage = self.stderr.lines().any(|line| line.starts_with("Usage:"));
        assert_eq!(usage, code == 2, "wrong usage shows the usage, a failure does not: {:?}", self.stderr);
    }
}

/// The finished calls that strace recorded, each with its text.
pub struct Trace(Vec<(String, Call)>);

impl Trace {
    /// The calls whose text `wanted` accepts, in order.
    pub fn calls(&self, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
        self.0.iter().map(|(text, _)| text.as_str()).filter(|text| wanted(text)).collect()
    }

    /// How often `name` was called.
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(_, call)| call.name == name).count()
    }

    /// How often it waited, by whichever name the C library and the architecture have for that.
    pub fn waits(&self) -> usize {
        self.0.iter().filter(|(_, call)| call.waits()).count()
    }

    /// The trace marks, in order.
    pub fn marks(&self) -> Vec<&str> {
        self.0.iter().filter_map(|(_, call)| call.mark()).collect()
    }

    /// How many writes of eight bytes were made, as to an eventfd.
    pub fn eventfd_writes(&self) -> usize {
        self.calls(|call| call.starts_with("write(") && call.contains("\"\\1\\0\\0\\0\\0\\0\\0\\0\", 8"))
            .len()
    }
}

/// Whether the text of a call is that of epoll_wait, by whichever name the C library and the architecture have
/// for it.
pub fn is_wait(call: &str) -> bool {
    ["epoll_wait(", "epoll_pwait(", "epoll_pwait2("].iter().any(|name| call.starts_with(name))
}
