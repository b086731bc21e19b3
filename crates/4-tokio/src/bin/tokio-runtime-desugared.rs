//! tokio-runtime-desugared: what `#[tokio::main]` stands for, and what each runtime makes.
//!
//! New here: the builder behind the attribute, three times; threads and descriptors, counted.
//! Run:      cargo run --bin tokio-runtime-desugared
//! Watch:    strace -f -e trace=clone3,epoll_create1,eventfd2,socketpair target/debug/tokio-runtime-desugared
//! Expect:   multi_thread: a clone3 for each worker; current_thread and local: none; an epoll and an eventfd each
//! Still wrong: several workers, and no word on who runs what (next: tokio-work-stealing).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use echo_service::demo::Demo;
use serde::Serialize;
use tokio::runtime::{Builder, LocalOptions};

#[derive(clap::Args)]
struct Flags {}

/// Threads and descriptors of this process.
#[derive(Clone, Default, Serialize)]
struct Footprint {
    threads: usize,
    /// By kind: eventpoll, eventfd, socket and so on.
    descriptors: BTreeMap<String, usize>,
}

impl Footprint {
    /// Counts what there is now.
    fn now() -> io::Result<Self> {
        let threads = fs::read_dir("/proc/self/task")?.count();
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/fd")? {
            // `socket:[4711]`, `anon_inode:[eventpoll]`, or a path. The folder being read is one, too, and
            // closed before it can be looked at again.
            let target = fs::read_link(entry?.path()).unwrap_or_default().to_string_lossy().into_owned();
            let kind = match target.split_once(':') {
                Some(("anon_inode", kind)) => kind.trim_matches(['[', ']']),
                Some((kind, _)) => kind,
                None => continue,
            };
            *descriptors.entry(kind.to_owned()).or_default() += 1;
        }
        Ok(Self { threads, descriptors })
    }

    /// What there is once no more than `threads` threads are left: one that has ended, and has been waited
    /// for, may still be listed for a moment.
    fn settled(threads: usize) -> io::Result<Self> {
        for _ in 0..1000 {
            if Self::now()?.threads <= threads {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Self::now()
    }

    /// What there is now and was not before.
    fn since(&self) -> io::Result<Self> {
        let Self { threads, mut descriptors } = Self::now()?;
        for (kind, count) in &mut descriptors {
            *count = count.saturating_sub(*self.descriptors.get(kind).unwrap_or(&0));
        }
        descriptors.retain(|_, count| *count > 0);
        Ok(Self { threads: threads.saturating_sub(self.threads), descriptors })
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads", self.threads)?;
        self.descriptors.iter().try_for_each(|(kind, count)| write!(f, ", {count} {kind}"))
    }
}

/// What one runtime has made, and where it runs futures.
#[derive(Serialize)]
struct Made {
    flavor: &'static str,
    written: &'static str,
    #[serde(flatten)]
    made: Footprint,
    /// Name of the thread that polls the future of `block_on`.
    block_on: String,
    /// Name of the thread that polls a spawned task.
    spawned: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flavor, written, made, block_on, spawned } = self;
        write!(f, "{flavor:<14}  {written:<14}  {made}; block_on runs on {block_on}, a task on {spawned}")
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    /// What the first runtime leaves behind, for all that follow.
    once: Footprint,
    runtimes: Vec<Made>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: once a process, and kept: {}", self.program, self.once)
    }
}

fn main() -> ExitCode {
    let about = "What #[tokio::main] stands for: three runtimes, with the threads and descriptors each makes";
    let (demo, Flags {}) = Demo::parse(env!("CARGO_BIN_NAME"), about);
    match run(&demo) {
        Ok(summary) => {
            demo.finish(&summary);
            ExitCode::SUCCESS
        }
        Err(error) => demo.fail_of("cannot look into /proc/self", &error),
    }
}

fn run(demo: &Demo) -> io::Result<Summary> {
    // The first runtime of a process also makes what all of them share. Not to count it with the first.
    let before = Footprint::now()?;
    drop(demo.start_runtime(|| Builder::new_current_thread().enable_all().build()));
    let once = before.since()?;

    let mut runtimes = Vec::new();
    for make in [
        multi_thread,
        multi_thread_desugared,
        current_thread,
        current_thread_desugared,
        local,
        local_desugared,
    ] {
        let before = Footprint::settled(before.threads)?;
        let made = demo.start_runtime(|| make(before));
        demo.say(&made);
        runtimes.push(made);
    }
    Ok(Summary { program: demo.program(), once, runtimes })
}

// region: multi_thread
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn multi_thread(before: Footprint) -> io::Result<Made> {
    look("multi_thread", "#[tokio::main]", &before).await
}

fn multi_thread_desugared(before: Footprint) -> io::Result<Made> {
    // Without `worker_threads`: as many as there are cores. The attribute says `expect` for our `?`.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { look("multi_thread", "Builder", &before).await })
}
// endregion: multi_thread

// region: current_thread
#[tokio::main(flavor = "current_thread")]
async fn current_thread(before: Footprint) -> io::Result<Made> {
    look("current_thread", "#[tokio::main]", &before).await
}

fn current_thread_desugared(before: Footprint) -> io::Result<Made> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { look("current_thread", "Builder", &before).await })
}
// endregion: current_thread

// region: local
#[tokio::main(flavor = "local")]
async fn local(before: Footprint) -> io::Result<Made> {
    look_locally("#[tokio::main]", &before).await
}

fn local_desugared(before: Footprint) -> io::Result<Made> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async { look_locally("Builder", &before).await })
}
// endregion: local

/// The name of the thread that polls the caller.
async fn here() -> String {
    thread::current().name().unwrap_or("a thread without a name").to_owned()
}

async fn look(flavor: &'static str, written: &'static str, before: &Footprint) -> io::Result<Made> {
    let spawned = tokio::spawn(here()).await.map_err(io::Error::other)?;
    Ok(Made { flavor, written, made: before.since()?, block_on: here().await, spawned })
}

async fn look_locally(written: &'static str, before: &Footprint) -> io::Result<Made> {
    // A task that holds an `Rc` may not go to another thread: elsewhere this would not compile.
    let name = Rc::new(here().await);
    let spawned = tokio::task::spawn_local({
        let name = Rc::clone(&name);
        async move { if *name == here().await { name.to_string() } else { "another thread".to_owned() } }
    });
    let spawned = spawned.await.map_err(io::Error::other)?;
    Ok(Made { flavor: "local", written, made: before.since()?, block_on: name.to_string(), spawned })
}
