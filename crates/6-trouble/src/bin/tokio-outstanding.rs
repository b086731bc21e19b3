//! tokio-outstanding: requests come, none can be served, and tokio takes them all.
//!
//! Symptom:  how many outstanding requests can tokio stack up; is there a finite queue; memory grows under overload; is
//!           the queue of `spawn_blocking` bounded; do requests whose callers gave up still run?
//! New here: tokio bounds nothing by itself; what does is a channel with a bound, or a semaphore
//! Run:      cargo run --bin tokio-outstanding      (or some of: tasks, spawn-blocking, abandoned, aborted,
//!           unbounded-channel, bounded-channel, semaphore)
//! Expect:   none refused without a bound; with one, as many wait as it allows, and all others are refused
//! Still wrong: a server that has to read a file needs that pool all the time (next: the jokes server)

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as threads;

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::parse_count;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// Where the requests wait [default: all]
    #[arg(value_name = "WAY")]
    ways: Vec<Way>,

    /// How many requests come, 1 to 300000
    #[arg(long, value_name = "N", default_value = "100000", value_parser = parse_count::<300_000>)]
    requests: usize,

    /// How many may wait, where that is bounded, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count::<1_000_000>)]
    bound: usize,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// A task for each
    Tasks,
    /// A closure for each, for a pool with one thread
    SpawnBlocking,
    /// The same; then each caller drops its handle
    Abandoned,
    /// The same; then each caller calls `abort`
    Aborted,
    /// A channel without a bound
    UnboundedChannel,
    /// A channel with a bound
    BoundedChannel,
    /// A task for each that gets a permit
    Semaphore,
}

/// What one way has shown.
#[derive(Serialize)]
struct Outcome {
    way: Way,
    requests: usize,
    /// Requests that were taken while none could be served.
    outstanding: usize,
    refused: usize,
    /// Requests that were served once they could be.
    served: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, requests, outstanding, refused, served } = self;
        let way = way.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        write!(
            f,
            "{way:<17}  {requests} requests, {outstanding} outstanding, {refused} refused; served later: {served}"
        )
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    outcomes: Vec<Outcome>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let takes_all = self.outcomes.iter().filter(|outcome| outcome.refused == 0).count();
        write!(f, "{}: {takes_all} of {} ways refuse nobody", self.program, self.outcomes.len())
    }
}

fn main() -> ExitCode {
    let about = "Requests that nobody serves: how many of them tokio takes, in seven ways";
    let (demo, Flags { mut ways, requests, bound }) = Demo::parse(env!("CARGO_BIN_NAME"), about);
    if ways.is_empty() {
        ways = Way::value_variants().to_vec();
    }
    mark("ready");
    let mut summary = Summary { program: demo.program(), outcomes: Vec::new() };
    for way in ways {
        let (runtime, pool) = demo.start_runtime(|| {
            let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
            let pool = Pool::occupy(&runtime);
            Ok((runtime, pool))
        });
        match runtime.block_on(observe(way, requests, bound, pool)) {
            Ok((outstanding, served)) => {
                let refused = requests - outstanding;
                let outcome = Outcome { way, requests, outstanding, refused, served };
                demo.say(&outcome);
                summary.outcomes.push(outcome);
            }
            Err(error) => demo.fail_of("cannot wait for the requests", &error),
        }
    }
    demo.finish(&summary);
    ExitCode::SUCCESS
}

/// The one thread of the runtime's pool, which sleeps until it is set free.
struct Pool {
    thread: JoinHandle<()>,
    free: threads::Sender<()>,
}

impl Pool {
    /// Lets the pool start its thread, and keeps that busy.
    fn occupy(runtime: &Runtime) -> Self {
        let (free, is_free) = threads::channel();
        // It fails when `free` is dropped, which sets the thread free as well.
        let thread = runtime.spawn_blocking(move || _ = is_free.recv());
        Self { thread, free }
    }
}

/// Brings `requests` requests, and then lets those be served that were taken. Returns how many were taken, and served.
async fn observe(way: Way, requests: usize, bound: usize, pool: Pool) -> io::Result<(usize, usize)> {
    match way {
        Way::Tasks => {
            let answer = CancellationToken::new();
            let mut outstanding = JoinSet::new();
            for _ in 0..requests {
                outstanding.spawn(answer.clone().cancelled_owned());
            }
            serve(outstanding, answer).await
        }
        Way::Semaphore => {
            // region: semaphore
            let answer = CancellationToken::new();
            let permits = Arc::new(Semaphore::new(bound));
            let mut outstanding = JoinSet::new();
            for _ in 0..requests {
                // No permit, no task: the client is told that it came too often, or nothing.
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                let answered = answer.clone().cancelled_owned();
                outstanding.spawn(async move {
                    answered.await;
                    drop(permit);
                });
            }
            // endregion: semaphore
            serve(outstanding, answer).await
        }
        Way::SpawnBlocking | Way::Abandoned | Way::Aborted => {
            let served = Arc::new(AtomicUsize::new(0));
            let mut outstanding = Vec::new();
            for _ in 0..requests {
                let served = Arc::clone(&served);
                outstanding.push(spawn_blocking(move || served.fetch_add(1, Ordering::SeqCst)));
            }
            let taken = outstanding.iter().filter(|request| !request.is_finished()).count();
            match way {
                // What a `timeout` around the handle does.
                Way::Abandoned => outstanding.clear(),
                Way::Aborted => outstanding.iter().for_each(JoinHandle::abort),
                _ => {}
            }
            drop(pool.free);
            pool.thread.await?;
            // The queue is in order, so this one runs last.
            spawn_blocking(|| ()).await?;
            Ok((taken, served.load(Ordering::SeqCst)))
        }
        Way::UnboundedChannel => {
            let (requested, mut queue) = mpsc::unbounded_channel();
            (0..requests).for_each(|request| _ = requested.send(request));
            let taken = queue.len();
            drop(requested);
            let mut served = 0;
            while queue.recv().await.is_some() {
                served += 1;
            }
            Ok((taken, served))
        }
        Way::BoundedChannel => {
            // region: channel
            let (requested, mut queue) = mpsc::channel(bound);
            for request in 0..requests {
                // It fails when the channel is full. `send` would wait for room.
                _ = requested.try_send(request);
            }
            // endregion: channel
            let taken = queue.len();
            drop(requested);
            let mut served = 0;
            while queue.recv().await.is_some() {
                served += 1;
            }
            Ok((taken, served))
        }
    }
}

/// Counts the tasks, lets them end, and counts again.
async fn serve(mut outstanding: JoinSet<()>, answer: CancellationToken) -> io::Result<(usize, usize)> {
    let taken = outstanding.len();
    answer.cancel();
    let mut served = 0;
    while let Some(request) = outstanding.join_next().await {
        request?;
        served += 1;
    }
    Ok((taken, served))
}
