//! tokio-stuck: a task that is ready waits for a busy one, while another worker is idle.
//!
//! Symptom:  one slow task delays others although workers are idle; latency is bimodal: at once, or after the slow task;
//!           the LIFO slot
//! New here: two places where an idle worker does not look: the LIFO slot, and the driver that a busy worker left
//! Run:      cargo run --bin tokio-stuck      (or one of: slot, driver; with a cure: -- slot --cure spawn)
//! Watch:    strace -f -e trace=epoll_wait,futex,sendto,recvfrom target/debug/tokio-stuck driver --rounds 1
//! Expect:   the other task runs in no round; with --cure block-in-place or --cure spawn-blocking in each of them
//! Still wrong: here at least the runtime is at fault; next, the program deceives it (next: tokio-readiness)

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{self, SocketAddr};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use echo_service::demo::{self, Demo};
use echo_service::{parse_count, parse_duration};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{block_in_place, consume_budget, spawn_blocking, yield_now};
use trace_marks::{Markable, mark};

/// The longest that the program waits for its own workers to be idle.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
struct Flags {
    /// Where the other task is stuck [default: both]
    #[arg(value_name = "FAULT")]
    faults: Vec<Fault>,

    /// What the busy task or the runtime does about it, several separated by commas
    #[arg(long, value_name = "CURE", value_delimiter = ',', default_value = "none")]
    cure: Vec<Cure>,

    /// How often the two meet, 1 to 100000
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_count::<100_000>)]
    rounds: usize,

    /// How long the busy task computes: 100ms, 1s, at most 1day; it stops when the other has run
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    busy: Duration,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// The busy task wakes the other one, which then lies in the LIFO slot of the busy worker
    Slot,
    /// A datagram comes for the other task, while the worker that waited for sockets is busy
    Driver,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Cure {
    /// Nothing
    None,
    /// Charge the task's budget, of which plenty is left
    ConsumeBudget,
    /// Spawn an empty task before computing
    Spawn,
    /// Yield before computing
    Yield,
    /// Compute in `block_in_place`
    BlockInPlace,
    /// Compute in `spawn_blocking`
    SpawnBlocking,
    /// Build the runtime with `disable_lifo_slot` (tokio_unstable)
    DisableLifoSlot,
    /// Build the runtime with `enable_eager_driver_handoff` (tokio_unstable)
    EagerDriverHandoff,
}

/// What some rounds have shown.
#[derive(Serialize)]
struct Outcome {
    fault: Fault,
    cure: Cure,
    rounds: usize,
    /// Rounds in which the other task ran before the busy one had computed for its whole time.
    ran: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, cure, rounds, ran } = self;
        write!(
            f,
            "{:<6}  {:<20}  the other task ran meanwhile in {ran} of {rounds} rounds",
            name(fault),
            name(cure)
        )
    }
}

/// The name of a value on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    outcomes: Vec<Outcome>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds: usize = self.outcomes.iter().map(|outcome| outcome.rounds).sum();
        let ran: usize = self.outcomes.iter().map(|outcome| outcome.ran).sum();
        write!(f, "{}: {rounds} rounds, in {} of them the other task was stuck", self.program, rounds - ran)
    }
}

fn main() -> ExitCode {
    let about = "A task that is ready waits for a busy one, while another worker is idle";
    let (demo, Flags { mut faults, cure: cures, rounds, busy }) = Demo::parse(env!("CARGO_BIN_NAME"), about);
    if faults.is_empty() {
        faults = Fault::value_variants().to_vec();
    }
    let is_unstable = |cure: &Cure| matches!(cure, Cure::DisableLifoSlot | Cure::EagerDriverHandoff);
    if let Some(cure) = cures.iter().find(|cure| is_unstable(cure) && !cfg!(tokio_unstable)) {
        demo.wrong_usage(format_args!(
            "tokio has `--cure {}` only in a build with `--cfg tokio_unstable`: set RUSTFLAGS='--cfg tokio_unstable', \
             and give cargo a `--target-dir` of its own",
            name(cure)
        ));
    }
    mark("ready");
    let mut summary = Summary { program: demo.program(), outcomes: Vec::new() };
    for fault in faults {
        for cure in &cures {
            let runtime = demo.start_runtime(|| start(*cure));
            match meet(&runtime, fault, *cure, rounds, busy) {
                Ok(ran) => {
                    let outcome = Outcome { fault, cure: *cure, rounds, ran };
                    demo.say(&outcome);
                    summary.outcomes.push(outcome);
                }
                Err(error) => demo.fail_of("cannot let the two tasks meet", &error),
            }
        }
    }
    demo.finish(&summary);
    ExitCode::SUCCESS
}

/// A runtime with two workers.
fn start(cure: Cure) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    #[cfg(tokio_unstable)]
    match cure {
        Cure::DisableLifoSlot => builder.disable_lifo_slot(),
        Cure::EagerDriverHandoff => builder.enable_eager_driver_handoff(),
        _ => &mut builder,
    };
    #[cfg(not(tokio_unstable))]
    let _ = cure;
    builder.build()
}

/// A computation, which keeps its thread as long as it lasts: at most for `longest`, and at most until the other task
/// has run. It reads no clock and spins in no loop, so that the two workers have both cores for themselves.
struct Computation {
    other_ran: Mutex<Receiver<()>>,
    longest: Duration,
}

impl Computation {
    /// Computes. Returns whether the other task has run by then.
    fn run(&self) -> bool {
        self.other_ran().recv_timeout(self.longest).is_ok()
    }

    /// Forgets that the other task has run in rounds before this one.
    fn forget(&self) {
        while self.other_ran().try_recv().is_ok() {}
    }

    fn other_ran(&self) -> std::sync::MutexGuard<'_, Receiver<()>> {
        self.other_ran.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the two tasks meet `rounds` times. Returns in how many of them the other task ran while the busy one computed.
fn meet(runtime: &Runtime, fault: Fault, cure: Cure, rounds: usize, busy: Duration) -> io::Result<usize> {
    let _inside = runtime.enter();
    let local: SocketAddr = ([127, 0, 0, 1], 0).into();
    let client = net::UdpSocket::bind(local)?;
    let (first, second) = (bind(local)?, bind(local)?);
    let (to_busy, to_other) = (first.local_addr()?, second.local_addr()?);
    let (message, mut messages) = unbounded_channel();
    let (runs, other_ran) = channel();
    let (ends, ended) = channel();

    // region: other
    let other = async move {
        loop {
            match fault {
                Fault::Slot => _ = messages.recv().await,
                // An error of the socket also is an event, and is as good as a datagram here.
                Fault::Driver => _ = second.recv(&mut [0]).await,
            }
            if runs.send(()).is_err() {
                return;
            }
        }
    };
    // endregion: other
    let neighbour = client.try_clone()?;
    let wake_other = move || match fault {
        Fault::Slot => message.send(()).map_err(io::Error::other),
        Fault::Driver => neighbour.send_to(b"2", to_other).map(|_| ()),
    };
    let computation = Arc::new(Computation { other_ran: Mutex::new(other_ran), longest: busy });
    // region: busy
    let busy = async move {
        loop {
            first.recv(&mut [0]).await?;
            computation.forget();
            wake_other()?;
            let ran = match cure {
                Cure::ConsumeBudget => {
                    consume_budget().await;
                    computation.run()
                }
                Cure::Spawn => {
                    tokio::spawn(async {});
                    computation.run()
                }
                Cure::Yield => {
                    yield_now().await;
                    computation.run()
                }
                Cure::BlockInPlace => block_in_place(|| computation.run()),
                Cure::SpawnBlocking => {
                    let computation = Arc::clone(&computation);
                    spawn_blocking(move || computation.run()).await.map_err(io::Error::other)?
                }
                // What the runtime's builder does about it, if anything.
                Cure::None | Cure::DisableLifoSlot | Cure::EagerDriverHandoff => computation.run(),
            };
            if ends.send(ran).is_err() {
                return io::Result::Ok(());
            }
        }
    };
    // endregion: busy
    runtime.spawn(other.marked("other"));
    let busy = runtime.spawn(busy.marked("busy"));
    let mut ran = 0;
    for _ in 0..rounds {
        // Both workers are idle: one sleeps in epoll_wait, the other one until it is woken.
        let start = Instant::now();
        while !demo::all_others_are_asleep() {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(
                    "the workers do not come to rest: is /proc mounted, or the machine overloaded?",
                ));
            }
            thread::yield_now();
        }
        client.send_to(b"1", to_busy)?;
        match ended.recv() {
            Ok(ran_meanwhile) => ran += usize::from(ran_meanwhile),
            // It ends only with an error.
            Err(_) => return runtime.block_on(busy)?.map(|()| ran),
        }
    }
    Ok(ran)
}

/// A socket of the runtime.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
