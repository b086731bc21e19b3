//! mio-empty: polls with nothing registered, and waits for ever.
//!
//! New here: what mio itself costs: one epoll_create1, one epoll_wait; nobody asked for more.
//! Run:      cargo run --bin mio-empty
//! Poke:     nothing is registered, so nothing can: end it with Ctrl-C
//! Watch:    strace -f -e trace=epoll_create1,eventfd2,epoll_ctl,epoll_wait target/debug/mio-empty --timeout 1s
//! Expect:   epoll_create1, epoll_wait; with --waker an eventfd2 and an epoll_ctl between them
//! Still wrong: a poll that nobody can wake (next: mio-mixed).

use std::fmt;
use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use echo_service::demo::Demo;
use echo_service::parse_duration;
use mio::{Events, Poll, Token, Waker};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// Give up waiting after this time: 200ms, 3s, 1m; at most 1day
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Make a `Waker`, with which a signal ends the poll: the one thing that adds an eventfd
    #[arg(long)]
    waker: bool,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    seconds: f64,
    /// Calls of `Poll::poll`: one, and one more for each that a stop and continue interrupted.
    polls: u64,
    /// Events that they returned.
    events: u64,
    /// `timeout`, or the signal's name.
    ended_by: &'static str,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, seconds, polls, events, ended_by } = self;
        write!(f, "{program}: ended by {ended_by} after {seconds:.1} s; polls {polls}, events {events}")
    }
}

/// What the waiting thread and the one that takes the signals both know.
struct State {
    demo: Demo,
    polls: AtomicU64,
    events: AtomicU64,
    /// Set with `--waker`.
    waker: OnceLock<Waker>,
}

impl State {
    fn finish(&self, ended_by: &'static str) {
        mark("shutdown");
        self.demo.finish(&Summary {
            program: self.demo.program(),
            seconds: self.demo.seconds(),
            polls: self.polls.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            ended_by,
        });
    }
}

fn main() -> ExitCode {
    let (demo, flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), "A mio poll with nothing registered");
    let state =
        Arc::new(State { demo, polls: AtomicU64::new(0), events: AtomicU64::new(0), waker: OnceLock::new() });
    match run(&state, &flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => state.demo.fail_of("cannot poll", &error),
    }
}

fn run(state: &Arc<State>, flags: &Flags) -> io::Result<()> {
    // region: signals
    // Blocked before there is a second thread, so that every thread inherits it and sigwait takes them all.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    let taker = state.demo.spawn({
        let state = Arc::clone(state);
        let with_waker = flags.waker;
        move || take(&state, signals, with_waker)
    });
    // endregion: signals
    // Greeted first, so that a recording shows all that follows.
    state.demo.greet("waiting for nothing  (end it with Ctrl-C)");
    // region: poll
    let mut poll = Poll::new()?;
    // Nothing was registered, and nothing was made: mio has no pipe of its own. Who wants to be woken asks.
    if flags.waker {
        // It is set once, here.
        let _ = state.waker.set(Waker::new(poll.registry(), Token(0))?);
    }
    // endregion: poll
    let deadline = flags.timeout.map(|timeout| Instant::now() + timeout);
    let mut events = Events::with_capacity(1);
    // region: wait
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        state.polls.fetch_add(1, Ordering::Relaxed);
        match poll.poll(&mut events, left) {
            Ok(()) => break,
            // A stop and continue, or a debugger that attaches, ends the wait without an event.
            Err(error) if error.kind() == ErrorKind::Interrupted => state.demo.log("interrupted; again"),
            Err(error) => return Err(error),
        }
    }
    // endregion: wait
    state.events.store(events.iter().count() as u64, Ordering::Relaxed);
    if events.is_empty() {
        state.finish("timeout");
    } else if let Ok(name) = taker.join() {
        // Only the waker can have ended the poll, and its thread says why.
        state.finish(name);
    }
    Ok(())
}

/// Waits for a signal outside of the poll. Wakes the poll where there is a way to; otherwise ends the program.
fn take(state: &State, signals: SigSet, with_waker: bool) -> &'static str {
    let name = match signals.wait() {
        Ok(signal) => signal.as_str(),
        Err(errno) => state.demo.fail(format_args!("cannot wait for a signal: {errno}")),
    };
    // A second signal finds the default again, and ends the program at once. Should this fail, it does not.
    let _ = signals.thread_unblock();
    match with_waker.then(|| state.waker.wait().wake()) {
        Some(Ok(())) => name,
        Some(Err(error)) => state.demo.fail(format_args!("cannot wake the poll: {error}")),
        None => {
            state.finish(name);
            std::process::exit(0)
        }
    }
}
