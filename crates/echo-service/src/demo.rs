//! What the demos share: programs that isolate one mechanism and are no echo servers.
//!
//! A demo takes `--marks`, `--json` and `-v`. One that runs until a signal prints `NAME: waiting ...` or
//! `NAME: listening on ...` as its first line; each prints a line on stdout for each event that it shows,
//! and its summary as the last. Exit codes are those of the servers.

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use clap::{Args, Command, FromArgMatches};
use serde::Serialize;
use trace_marks::mark;

use crate::limits::{explain, start_runtime};
use crate::output::{print_line, print_to_stderr};
use crate::{Signals, flags, socket, turn_on_marks};

#[derive(Args)]
struct Common {
    /// Announce user-space events as writes that fail, to be seen in strace
    #[arg(long)]
    marks: bool,

    /// Print the summary as one JSON object, on the last line
    #[arg(long)]
    json: bool,

    /// One line on stderr for each event
    #[arg(short, long)]
    verbose: bool,
}

/// A running demo: its name, its common flags and its output.
#[derive(Debug)]
pub struct Demo {
    program: &'static str,
    usage: String,
    json: bool,
    verbose: bool,
    started: Instant,
}

impl Demo {
    /// Reads the command line of `program`: the common flags, and those of `More`. `about` is the first
    /// line of its help.
    ///
    /// `--help` and `--version` are printed on stdout and end the program with status 0. Wrong usage
    /// prints one line and the usage on stderr and ends it with status 2.
    pub fn parse<More: Args>(program: &'static str, about: &'static str) -> (Self, More) {
        let command = Command::new(program)
            .bin_name(program)
            .version(env!("CARGO_PKG_VERSION"))
            .about(about)
            .max_term_width(100);
        let command = Common::augment_args(More::augment_args(command));
        let ((common, more), usage) = flags::read_command_line(program, command, |matches| {
            Ok((Common::from_arg_matches(matches)?, More::from_arg_matches(matches)?))
        });
        let Common { marks, json, verbose } = common;
        let demo = Self { program, usage, json, verbose, started: Instant::now() };
        if marks {
            turn_on_marks().unwrap_or_else(|reason| demo.fail(reason));
        }
        (demo, more)
    }

    /// Takes SIGINT and SIGTERM; a second one ends the program at once. A failure ends it with status 1.
    pub fn signals(&self) -> Signals {
        Signals::take().unwrap_or_else(|error| self.fail_of("cannot take SIGINT and SIGTERM", &error))
    }

    /// Binds a UDP socket, in blocking mode; returns it and the address that the kernel gave it. A failure
    /// ends the program with status 1.
    pub fn bind_udp(&self, wanted: SocketAddr) -> (UdpSocket, SocketAddr) {
        socket::bind(wanted, UdpSocket::bind).unwrap_or_else(|reason| self.fail(reason))
    }

    /// Binds a TCP listener, in blocking mode; returns it and the address that the kernel gave it. A
    /// failure ends the program with status 1.
    pub fn bind_tcp(&self, wanted: SocketAddr) -> (TcpListener, SocketAddr) {
        let bound = TcpListener::bind(wanted).and_then(|socket| Ok((socket.local_addr()?, socket)));
        match bound {
            Ok((address, listener)) => (listener, address),
            Err(error) => {
                self.fail(format_args!("cannot listen on {wanted}: {}", socket::next_step(&error, wanted)))
            }
        }
    }

    /// Prints the first line on stdout, the program's name and `what`, and makes the trace mark `ready`.
    pub fn greet(&self, what: impl Display) {
        print_line(format_args!("{}: {what}", self.program));
        mark("ready");
    }

    /// Prints a line on stdout.
    pub fn say(&self, line: impl Display) {
        print_line(line);
    }

    /// Prints a line on stderr if `-v` was given.
    pub fn log(&self, line: impl Display) {
        if self.verbose {
            print_to_stderr(self.program, line);
        }
    }

    /// The program's name.
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// How long the program has run, in seconds.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Prints the summary: as text, or as one JSON object if `--json` was given.
    pub fn finish<Summary: Serialize + Display>(&self, summary: &Summary) {
        if !self.json {
            return print_line(summary);
        }
        match serde_json::to_string(summary) {
            Ok(object) => print_line(object),
            Err(error) => self.fail(format_args!("cannot write the summary as JSON: {error}")),
        }
    }

    /// Starts a thread. A failure ends the program with status 1.
    pub fn spawn<T: Send + 'static>(&self, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        thread::Builder::new()
            .spawn(run)
            .unwrap_or_else(|error| self.fail_of("cannot start a thread", &error))
    }

    /// The runtime, or what it returns, that `start` makes ([`start_runtime`]). A failure ends the program with
    /// status 1.
    pub fn start_runtime<R>(&self, start: impl FnOnce() -> io::Result<R>) -> R {
        start_runtime(self.program, start)
            .unwrap_or_else(|error| self.fail_of("cannot start the runtime", &error))
    }

    /// Prints one line on stderr, `what` could not be done and why, and ends the program with status 1.
    pub fn fail_of(&self, what: impl Display, error: &io::Error) -> ! {
        self.fail(format_args!("{what}: {}", explain(error)))
    }

    /// Prints one line on stderr and ends the program with status 1.
    pub fn fail(&self, reason: impl Display) -> ! {
        print_to_stderr(self.program, reason);
        std::process::exit(1)
    }

    /// Prints one line and the usage on stderr and ends the program with status 2.
    pub fn wrong_usage(&self, reason: impl Display) -> ! {
        flags::wrong_usage(self.program, &reason.to_string(), self.usage.clone())
    }
}

/// Reads a loopback address, `127.0.0.1:2000` or `[::1]:2000`. For clap's `value_parser`.
///
/// # Errors
///
/// A sentence with a next step.
pub fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    let address = flags::parse_address(text)?;
    if !socket::is_loopback(address) {
        return Err(
            "not a loopback address; a demo listens on this host only: write 127.0.0.1 or [::1]".to_owned()
        );
    }
    Ok(address)
}

/// Whether a thread of this program sleeps in a system call; `thread` is the kernel's number of it.
pub fn is_asleep(thread: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    // The state stands behind the name, which is in brackets and may hold anything.
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')))
}

/// Whether all other threads of this program sleep in a system call.
pub fn all_others_are_asleep() -> bool {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<i32>().ok();
    // The link reads `PID/task/THREAD`.
    let me = fs::read_link("/proc/thread-self").ok().and_then(|link| number(&link));
    let look = || {
        let threads = fs::read_dir("/proc/self/task").ok()?;
        let mut others =
            threads.filter_map(|thread| number(&thread.ok()?.path())).filter(|it| Some(*it) != me);
        Some(others.all(is_asleep))
    };
    // Twice: one that is asleep when it is looked at may then be woken by one that goes to sleep itself.
    look() == Some(true) && look() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_for_demos() {
        assert_eq!(parse_loopback("[::1]:0"), Ok("[::1]:0".parse().unwrap()));
        for wrong in ["0.0.0.0:0", "192.0.2.1:2000", "localhost:2000", "127.0.0.1"] {
            assert!(parse_loopback(wrong).is_err(), "{wrong} is no loopback address");
        }
    }
}
