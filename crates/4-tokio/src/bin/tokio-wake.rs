//! tokio-wake: what does a wake from another thread cost?
//!
//! New here: the question of mio-pipe, asked of a runtime: is it written to while it is busy?
//! Run:      cargo run --bin tokio-wake
//! Watch:    strace -f -c -e trace=write,epoll_wait target/debug/tokio-wake
//! Expect:   a write for each wake of a current-thread runtime; none for a multi-thread one whose worker is busy
//! Still wrong: one task is woken at a time; which of many is polled for one wake? (next: tokio-multisocket)

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use echo_service::demo::Demo;
use echo_service::parse_count;
use echo_service::wakes::{self, WakeCount, count_writes};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// How many wakes are made in each runtime, 1 to 100000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count::<100_000>)]
    wakes: usize,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    runtimes: Vec<WakeCount>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.program, wakes::sum(self.runtimes.iter()))
    }
}

fn main() -> ExitCode {
    let about = "Counts the writes that it costs to wake the tasks of a tokio runtime while it is busy";
    let (demo, Flags { wakes }) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    mark("ready");
    match run(&demo, wakes) {
        Ok(runtimes) => demo.finish(&Summary { program: demo.program(), runtimes }),
        Err(error) => demo.fail_of("cannot wake or be woken", &error),
    }
    ExitCode::SUCCESS
}

fn run(demo: &Demo, wakes: usize) -> io::Result<Vec<WakeCount>> {
    let mut counts = Vec::new();
    let mut wake = |runtime, case| -> io::Result<()> {
        let count = WakeCount::new(case, wakes, wake_while_busy(runtime, wakes)?);
        demo.say(&count);
        counts.push(count);
        Ok(())
    };
    let current = demo.start_runtime(|| Builder::new_current_thread().enable_all().build());
    wake(current, "a current-thread runtime, busy")?;
    // A worker that is busy looks for work before it sleeps, and so need not be told.
    let multi = demo.start_runtime(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
    wake(multi, "a multi-thread runtime, its worker busy")?;
    Ok(counts)
}

// region: wake
/// Spawns `wakes` tasks that wait, then one that keeps the thread while another thread wakes them all. Returns how
/// many writes that took.
fn wake_while_busy(runtime: Runtime, wakes: usize) -> io::Result<Option<u64>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..wakes).map(|_| oneshot::channel::<()>()).unzip();
    runtime.block_on(async {
        let (waiting, mut all_wait) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for receiver in receivers {
            let waiting = waiting.clone();
            tasks.push(tokio::spawn(async move {
                // Nobody listens any more only if the program ends.
                let _ = waiting.send(());
                let _ = receiver.await;
            }));
        }
        for _ in 0..wakes {
            all_wait.recv().await;
        }
        let busy = tokio::spawn(async move {
            // Wrong on purpose: this blocks the runtime's thread, which is to be busy.
            let (done, result) = mpsc::channel();
            let waker = thread::Builder::new().spawn(move || {
                let writes = count_writes(|| {
                    senders.into_iter().for_each(|sender| {
                        // Sent to a task that waits, so it cannot fail.
                        let _ = sender.send(());
                    });
                    Ok(())
                });
                let _ = done.send(writes);
            })?;
            let writes = result.recv().map_err(|_| io::Error::other("the waking thread panicked"))?;
            let _ = waker.join();
            writes
        });
        let writes = busy.await.map_err(io::Error::other)??;
        for task in tasks {
            task.await.map_err(io::Error::other)?;
        }
        Ok(writes)
    })
}
// endregion: wake
