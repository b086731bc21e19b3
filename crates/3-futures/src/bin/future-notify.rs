//! future-notify: a future written by hand, and everything that a waker does or fails to do for it.
//!
//! New here: `Future`, `Poll` and `Waker`: after the first poll, only a call of its waker leads to another.
//! Run:      cargo run --bin future-notify    (ends by itself)
//! Watch:    cargo ladder trace future-notify    (or: strace -f target/debug/future-notify --marks)
//! Expect:   a write to the eventfd for a wake by a thread, none for a wake by the future itself
//! Still wrong: whoever calls `poll` and waits between two polls is taken for granted (next: mini-runtime).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use echo_service::demo::Demo;
use futures::future::join;
use mini_runtime::{JoinHandle, Runtime, Step, spawn_named, timeout, yield_now};
use serde::Serialize;
use trace_marks::mark;

/// How long a thread sleeps before it wakes a future.
const NAP: Duration = Duration::from_millis(50);
/// How long a future that nobody wakes is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
struct Flags {
    /// Which parts to show; all of them when none is named
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    AgainAndAgain,
    Coalesced,
    Forgotten,
    Replaced,
    Spurious,
}

fn main() -> ExitCode {
    let about = "Polls futures written by hand, and shows why each poll happened, or why none did";
    let (demo, Flags { mut parts }) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    let stage = Arc::new(Stage { demo, tasks: Mutex::default() });
    stage.demo.greet("a future is polled once when it is new, then only when somebody has called its waker");
    let observer = Arc::clone(&stage);
    let outcome = Runtime::with_observer(move |step| observer.note(step))
        .and_then(|runtime| runtime.block_on(run(&stage, &parts)));
    if let Err(error) = outcome {
        stage.demo.fail_of("the runtime cannot wait", &error);
    }
    mark("shutdown");
    let tasks = stage.tasks().clone();
    stage.demo.finish(&Summary { program: stage.demo.program(), tasks });
    ExitCode::SUCCESS
}

async fn run(stage: &Arc<Stage>, parts: &[Part]) {
    for part in parts {
        match part {
            Part::AgainAndAgain => again_and_again(stage).await,
            Part::Coalesced => coalesced(stage).await,
            Part::Forgotten => forgotten(stage).await,
            Part::Replaced => replaced(stage).await,
            Part::Spurious => spurious(stage).await,
        }
    }
}

// region: countdown
/// Ready when it has been polled ten times. Of each poll it knows why it happened.
struct Countdown {
    polls: u32,
    why: Arc<Mutex<&'static str>>,
    stage: Arc<Stage>,
}

impl Future for Countdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.polls += 1;
        self.stage.demo.say(format_args!("   poll {:>2}: {}", self.polls, locked(&self.why)));
        if self.polls == 10 {
            return Poll::Ready(());
        }
        // Whoever returns Pending has seen to it that somebody will call the waker.
        if self.polls % 2 == 1 {
            *locked(&self.why) = "it had woken itself";
            cx.waker().wake_by_ref();
        } else {
            let (waker, why) = (cx.waker().clone(), Arc::clone(&self.why));
            self.stage.demo.spawn(move || {
                thread::sleep(NAP);
                *locked(&why) = "a thread had slept, and then woken it";
                waker.wake();
            });
        }
        Poll::Pending
    }
}
// endregion: countdown

async fn again_and_again(stage: &Arc<Stage>) {
    stage.demo.say("1  again and again: a future that is ready at its tenth poll");
    let why = Arc::new(Mutex::new("it was new"));
    spawn_named("countdown", Countdown { polls: 0, why, stage: Arc::clone(stage) }).await;
    stage.report("countdown", true);
}

async fn coalesced(stage: &Arc<Stage>) {
    stage.demo.say("2  coalesced: five threads wake it during one poll");
    let (mut polls, starter) = (0, Arc::clone(stage));
    let future = poll_fn(move |cx| {
        polls += 1;
        if polls == 2 {
            return Poll::Ready(());
        }
        let threads = [(); 5].map(|()| {
            let waker = cx.waker().clone();
            starter.demo.spawn(move || waker.wake())
        });
        for thread in threads {
            // A thread that only wakes does not panic.
            let _ = thread.join();
        }
        Poll::Pending
    });
    spawn_named("coalesced", future).await;
    stage.report("coalesced", true);
}

// region: forgotten
async fn forgotten(stage: &Stage) {
    stage.demo.say("3  forgotten: it returns Pending, and has given its waker to nobody");
    let hangs = spawn_named("forgotten", poll_fn(|_| Poll::<()>::Pending));
    stage.report("forgotten", in_time(hangs).await);
}
// endregion: forgotten

// region: gate
/// Closed, until it is opened. Keeps one waker: that of whoever asked last.
#[derive(Default)]
struct Gate {
    open: bool,
    waker: Option<Waker>,
}

impl Gate {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Calls the waker, as honest code does when it has changed something.
    fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}
// endregion: gate

/// A task that waits for the gate.
fn wait_for(gate: &Rc<RefCell<Gate>>, name: &'static str) -> JoinHandle<()> {
    let gate = Rc::clone(gate);
    spawn_named(name, poll_fn(move |cx| gate.borrow_mut().poll(cx)))
}

async fn replaced(stage: &Stage) {
    stage.demo.say("4  replaced: two tasks wait for a gate that keeps one waker");
    let gate = Rc::default();
    let (first, second) = (wait_for(&gate, "first"), wait_for(&gate, "second"));
    // Both have been polled once when this task's turn comes again.
    yield_now().await;
    gate.borrow_mut().open = true;
    gate.borrow_mut().wake();
    let (first, second) = join(in_time(first), in_time(second)).await;
    stage.report("first", first);
    stage.report("second", second);
}

async fn spurious(stage: &Stage) {
    stage.demo.say("5  spurious: woken three times while the gate is still closed");
    let gate = Rc::default();
    let waiting = wait_for(&gate, "spurious");
    yield_now().await;
    for _ in 0..3 {
        gate.borrow_mut().wake();
        yield_now().await;
    }
    gate.borrow_mut().open = true;
    gate.borrow_mut().wake();
    waiting.await;
    stage.report("spurious", true);
}

/// Whether a task is over before the patience is.
async fn in_time(task: JoinHandle<()>) -> bool {
    timeout(PATIENCE, task).await.is_ok()
}

/// Where the futures perform: counts their polls and wakes.
struct Stage {
    demo: Demo,
    tasks: Mutex<BTreeMap<&'static str, Counts>>,
}

#[derive(Clone, Default, Serialize)]
struct Counts {
    polls: usize,
    wakes: usize,
    finished: bool,
}

impl Stage {
    /// The runtime's observer.
    fn note(&self, step: Step) {
        self.demo.log(step);
        let Some(task) = step.task() else { return };
        mark(&step.to_string());
        // The task that directs the others is none of them.
        if task == "main" {
            return;
        }
        let mut tasks = self.tasks();
        let counts = tasks.entry(task).or_default();
        match step {
            Step::Poll(_) => counts.polls += 1,
            Step::Wake(_) => counts.wakes += 1,
            _ => {}
        }
    }

    fn report(&self, task: &'static str, finished: bool) {
        let Counts { polls, wakes, .. } = {
            let mut tasks = self.tasks();
            let counts = tasks.entry(task).or_default();
            counts.finished = finished;
            counts.clone()
        };
        let plural = |count| if count == 1 { "" } else { "s" };
        let outcome = match finished {
            true => "ready".to_owned(),
            false => format!("it hangs: given up after {}", humantime::format_duration(PATIENCE)),
        };
        self.demo.say(format_args!(
            "   {task}: {polls} poll{}, {wakes} wake{}, {outcome}",
            plural(polls),
            plural(wakes)
        ));
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<&'static str, Counts>> {
        locked(&self.tasks)
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    tasks: BTreeMap<&'static str, Counts>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |count: fn(&Counts) -> usize| self.tasks.values().map(count).sum::<usize>();
        let (polls, wakes) = (sum(|task| task.polls), sum(|task| task.wakes));
        let hang = sum(|task| usize::from(!task.finished));
        write!(f, "{}: {} futures, {polls} polls, {wakes} wakes, {hang} hang", self.program, self.tasks.len())
    }
}

/// The value behind a lock. Nothing that runs under one here can panic half way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
