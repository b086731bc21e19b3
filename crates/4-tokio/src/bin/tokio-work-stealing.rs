//! tokio-work-stealing: uneven tasks on several workers, dealt out before, or stolen by who is free.
//!
//! New here: a worker without work takes half of a neighbour's queue.
//! Run:      cargo run --bin tokio-work-stealing      (or one part: dealt, stolen)
//! Watch:    strace -f -e trace=futex,write target/debug/tokio-work-stealing stolen --marks
//! Expect:   dealt: one worker has nearly all the work; stolen: every worker ran some, and none ran twice
//! Still wrong: tasks that compute; most of them wait, and many for a time (next: tokio-time).

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::{parse_count, parse_duration};
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use trace_marks::{mark, mark_of};

/// How much longer a long task is than a short one.
const LONG: u64 = 8;

/// The longest that the first worker keeps its thread while it waits to be stolen from.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
struct Flags {
    /// Which parts to run [default: all]
    #[arg(value_name = "PART")]
    parts: Vec<Part>,

    /// How many workers, 2 to 64
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u64).range(2..=64))]
    workers: u64,

    /// How many tasks, 1 to 100000
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_count::<100_000>)]
    tasks: usize,

    /// How long a short task computes: 1ms, at most 1day; a long one eight times as long
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = parse_duration)]
    unit: Duration,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// Before: each worker gets its tasks at the start, in turn, and no others
    Dealt,
    /// After: all tasks lie in one worker's queue, and the others help themselves
    Stolen,
}

/// What one worker ran.
#[derive(Serialize)]
struct Worker {
    /// Numbers of the tasks, in the order in which it ran them.
    ran: Vec<usize>,
    /// Its work, in units: 1 for a short task, 8 for a long one.
    units: u64,
}

/// What one part has shown.
#[derive(Serialize)]
struct Outcome {
    part: Part,
    workers: Vec<Worker>,
    /// Tasks run by another worker than the one that had them in its queue.
    stolen: usize,
    /// The busiest worker's part of all units: 1 / workers at best.
    busiest: f64,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    tasks: usize,
    parts: Vec<Outcome>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} tasks", self.program, self.tasks)?;
        for outcome in &self.parts {
            let percent = outcome.busiest * 100.0;
            match outcome.part {
                Part::Dealt => write!(f, "\n  dealt:  the busiest worker had {percent:.0} % of the work")?,
                Part::Stolen => {
                    let stolen = outcome.stolen;
                    write!(
                        f,
                        "\n  stolen: the busiest worker had {percent:.0} % of the work; {stolen} tasks were stolen"
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// Who has run what so far.
struct Log {
    demo: Demo,
    unit: Duration,
    done: AtomicUsize,
    ran: Mutex<Vec<(ThreadId, usize)>>,
}

impl Log {
    /// What every task does: it computes, without a pause, and says who did.
    async fn task(self: Arc<Self>, number: usize, units: u64) {
        mark_of("poll", format_args!("task-{number}"));
        let start = Instant::now();
        while start.elapsed() < self.unit.saturating_mul(units as u32) {
            std::hint::spin_loop();
        }
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).push((thread::current().id(), number));
        self.done.fetch_add(1, Ordering::SeqCst);
        mark_of("ready", format_args!("task-{number}"));
    }

    /// Makes the outcome of `part`, and prints it. `workers` have the threads that are known, in order.
    fn outcome(&self, part: Part, mut workers: Vec<ThreadId>, units: &[u64]) -> Outcome {
        let ran = std::mem::take(&mut *self.ran.lock().unwrap_or_else(PoisonError::into_inner));
        self.done.store(0, Ordering::SeqCst);
        for (thread, _) in &ran {
            if !workers.contains(thread) {
                workers.push(*thread);
            }
        }
        let first = workers.first().copied();
        let stolen = ran.iter().filter(|(thread, _)| Some(*thread) != first).count();
        let workers: Vec<_> = workers
            .iter()
            .map(|worker| {
                let ran = ran.iter().filter(|(thread, _)| thread == worker).map(|(_, number)| *number);
                let ran: Vec<_> = ran.collect();
                let units = ran.iter().map(|number| units[*number]).sum();
                Worker { ran, units }
            })
            .collect();
        let name = match part {
            Part::Dealt => "dealt: ",
            Part::Stolen => "stolen:",
        };
        for (index, Worker { ran, units }) in workers.iter().enumerate() {
            let numbers: Vec<_> = ran.iter().map(usize::to_string).collect();
            let numbers = numbers.join(" ");
            self.demo.say(format_args!(
                "{name} worker {} ran {} tasks, {units} units of work: {numbers}",
                index + 1,
                ran.len()
            ));
        }
        let most = workers.iter().map(|worker| worker.units).max().unwrap_or(0);
        let busiest = most as f64 / units.iter().sum::<u64>() as f64;
        Outcome { part, workers, stolen: if matches!(part, Part::Stolen) { stolen } else { 0 }, busiest }
    }
}

fn main() -> ExitCode {
    let about = "Uneven tasks on several workers: dealt out before, or stolen by who is free";
    let (demo, Flags { mut parts, workers, tasks, unit }) = Demo::parse(env!("CARGO_BIN_NAME"), about);
    if parts.is_empty() {
        parts = vec![Part::Dealt, Part::Stolen];
    }
    mark("ready");
    let workers = workers as usize;
    // Dealt in turn, all long ones fall to the first worker.
    let units: Vec<_> = (0..tasks).map(|number| if number % workers == 0 { LONG } else { 1 }).collect();
    let log = Arc::new(Log { demo, unit, done: AtomicUsize::new(0), ran: Mutex::default() });
    let mut summary = Summary { program: log.demo.program(), tasks, parts: Vec::new() };
    for part in parts {
        let threads = match part {
            Part::Dealt => dealt(&log, workers, &units),
            Part::Stolen => stolen(&log, workers, &units),
        };
        match threads {
            Ok(threads) => summary.parts.push(log.outcome(part, threads, &units)),
            Err(error) => log.demo.fail_of("cannot run the tasks", &error),
        }
    }
    log.demo.finish(&summary);
    ExitCode::SUCCESS
}

// region: dealt
/// Before: a runtime of its own for each worker, and the tasks dealt out in turn. Returns the threads.
fn dealt(log: &Arc<Log>, workers: usize, units: &[u64]) -> io::Result<Vec<ThreadId>> {
    thread::scope(|scope| {
        let spawn = |worker: usize| {
            thread::Builder::new().spawn_scoped(scope, move || {
                Builder::new_current_thread().build()?.block_on(async {
                    let mine = units.iter().copied().enumerate().skip(worker).step_by(workers);
                    let mut tasks: JoinSet<()> =
                        mine.map(|(number, units)| Arc::clone(log).task(number, units)).collect();
                    while let Some(ended) = tasks.join_next().await {
                        ended.map_err(io::Error::other)?;
                    }
                    Ok(thread::current().id())
                })
            })
        };
        let threads: io::Result<Vec<_>> = (0..workers).map(spawn).collect();
        let panicked = |_| Err(io::Error::other("a worker's thread panicked"));
        threads?.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}
// endregion: dealt

// region: stolen
/// After: one task on one worker spawns all others. Returns the thread on which they were queued.
fn stolen(log: &Arc<Log>, workers: usize, units: &[u64]) -> io::Result<Vec<ThreadId>> {
    let runtime = log.demo.start_runtime(|| Builder::new_multi_thread().worker_threads(workers).build());
    let (log, units) = (Arc::clone(log), units.to_vec());
    let first = runtime.spawn(async move {
        // Spawned on a worker, a task goes to that worker's own queue.
        let first = thread::current().id();
        let count = units.len();
        let tasks: JoinSet<()> = units
            .into_iter()
            .enumerate()
            .map(|(number, units)| Arc::clone(&log).task(number, units))
            .collect();
        // This worker is busy now, and does not look into its queue until a quarter is gone.
        let start = Instant::now();
        while log.done.load(Ordering::SeqCst) < count / 4 && start.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        tasks.join_all().await;
        first
    });
    Ok(vec![runtime.block_on(first).map_err(io::Error::other)?])
}
// endregion: stolen
