//! tokio-time: sleeps, intervals, timeouts, and a million of them.
//!
//! Symptom:  which MissedTickBehavior do I want: Burst, Delay or Skip? How many sleeps can tokio hold?
//! New here: a wheel of timers with slots of a millisecond, turned by the timeout of epoll_wait.
//! Run:      cargo run --bin tokio-time      (or parts: sleep, lateness, interval, missed, timeout, sleepers)
//! Watch:    cargo ladder trace --alone tokio-time sleep    (or: strace target/debug/tokio-time sleep --marks)
//! Expect:   poll sleep, pending sleep, a write that wakes the own epoll_wait, epoll_wait with the time to go, wake
//! Still wrong: fine enough for a timeout, too coarse to pace a load of thousands a second (next: the jokes server).

use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::thread;

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::parse_count;
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, unconstrained, yield_now};
use tokio::time::{
    Duration, Instant, MissedTickBehavior, Sleep, advance, interval, pause, resume, sleep, sleep_until,
    timeout,
};
use trace_marks::{Markable, mark};

/// Period of the interval that is stalled.
const PERIOD: Duration = Duration::from_millis(100);

/// How long it is stalled, in tenths of its period: five ticks and a half.
const STALL: u32 = 55;

/// What an interval can do about ticks that it has missed.
const BEHAVIORS: [(&str, MissedTickBehavior); 3] = [
    ("burst", MissedTickBehavior::Burst),
    ("delay", MissedTickBehavior::Delay),
    ("skip", MissedTickBehavior::Skip),
];

#[derive(clap::Args)]
struct Flags {
    /// Which parts to run [default: all]
    #[arg(value_name = "PART")]
    parts: Vec<Part>,

    /// How many sleeps are outstanding at once in the part `sleepers`, 1 to 5000000
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = parse_count::<5_000_000>)]
    sleepers: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// One sleep, poll by poll
    Sleep,
    /// How late sleeps of several lengths wake
    Lateness,
    /// An interval that is stalled, with each `MissedTickBehavior`
    Interval,
    /// From how late on a `MissedTickBehavior` acts, on a clock that stands still
    Missed,
    /// What a timeout ends, and what it cannot
    Timeout,
    /// A million sleeps at once: their memory, many equal deadlines
    Sleepers,
}

/// What happened, as text and as JSON. A part that was not asked for is empty.
#[derive(Default, Serialize)]
struct Summary {
    program: &'static str,
    lateness: Vec<Lateness>,
    intervals: Vec<Stalled>,
    missed: Vec<Missed>,
    timeouts: Vec<TimedOut>,
    sleepers: Vec<Crowd>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let early: usize = self.lateness.iter().map(|lateness| lateness.early).sum();
        let sleepers: usize = self.sleepers.iter().map(|crowd| crowd.woken).sum();
        write!(f, "{}: {early} sleeps woke early; {sleepers} sleepers woke", self.program)
    }
}

fn main() -> ExitCode {
    let about = "tokio's timers: Sleep, Interval, Timeout, their lateness, and a million of them";
    let (demo, Flags { mut parts, sleepers }) = Demo::parse(env!("CARGO_BIN_NAME"), about);
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    let mut summary = Summary { program: demo.program(), ..Summary::default() };
    let runtime = demo.start_runtime(|| Builder::new_current_thread().enable_all().build());
    mark("ready");
    let outcome = runtime.block_on(async {
        for part in parts {
            match part {
                Part::Sleep => one_sleep(&demo).await,
                Part::Lateness => summary.lateness = lateness(&demo).await,
                Part::Interval => summary.intervals = intervals(&demo).await,
                Part::Missed => summary.missed = missed(&demo).await,
                Part::Timeout => summary.timeouts = timeouts(&demo).await,
                Part::Sleepers => summary.sleepers = crowds(&demo, sleepers).await?,
            }
        }
        io::Result::Ok(())
    });
    match outcome {
        Ok(()) => {
            demo.finish(&summary);
            ExitCode::SUCCESS
        }
        Err(error) => demo.fail_of("cannot run the timers", &error),
    }
}

// region: sleep
/// One sleep, with a mark at each of its polls and wakes.
async fn one_sleep(demo: &Demo) {
    let mut sleep = std::pin::pin!(sleep(Duration::from_millis(20)).marked("sleep"));
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        sleep.as_mut().poll(cx)
    })
    .await;
    demo.say(format_args!("sleep: {polls} polls: one that starts it, one that finds it over"));
}
// endregion: sleep

/// How late sleeps of one length woke.
#[derive(Serialize)]
struct Lateness {
    asked_us: u64,
    sleeps: usize,
    /// Sleeps that woke before their time.
    early: usize,
    median_late_us: u64,
    worst_late_us: u64,
}

async fn lateness(demo: &Demo) -> Vec<Lateness> {
    const SLEEPS: usize = 21;
    let mut all = Vec::new();
    for asked_us in [1, 500, 1_000, 1_500, 2_500, 10_000] {
        let asked = Duration::from_micros(asked_us);
        let (mut early, mut late) = (0, Vec::new());
        for _ in 0..SLEEPS {
            let deadline = Instant::now() + asked;
            sleep_until(deadline).await;
            match Instant::now().checked_duration_since(deadline) {
                Some(by) => late.push(by.as_micros() as u64),
                None => early += 1,
            }
        }
        late.sort_unstable();
        let median_late_us = late.get(late.len() / 2).copied().unwrap_or(0);
        let worst_late_us = late.last().copied().unwrap_or(0);
        demo.say(format_args!(
            "lateness: a sleep of {:?} wakes {:?} late, at worst {:?}; {early} of {SLEEPS} early",
            asked,
            Duration::from_micros(median_late_us),
            Duration::from_micros(worst_late_us)
        ));
        all.push(Lateness { asked_us, sleeps: SLEEPS, early, median_late_us, worst_late_us });
    }
    all
}

/// What an interval did about a stall.
#[derive(Serialize)]
struct Stalled {
    behavior: &'static str,
    /// Ticks in all.
    ticks: usize,
    /// Ticks that were due already when they were asked for.
    at_once: usize,
    /// Ticks that the schedule has, and that never came.
    left_out: usize,
    /// Whether the last ticks fall on the schedule of the first.
    on_schedule: bool,
}

// region: interval
async fn intervals(demo: &Demo) -> Vec<Stalled> {
    let mut all = Vec::new();
    let meanings = [
        "what a load generator needs",
        "who stalls dictates the load",
        "what was missed is missing in the report",
    ];
    for ((name, behavior), meaning) in BEHAVIORS.into_iter().zip(meanings) {
        let mut interval = interval(PERIOD);
        interval.set_missed_tick_behavior(behavior);
        let first = interval.tick().await;
        let (mut last, mut ticks, mut at_once) = (first, 1, 0);
        // Until the schedule has twelve ticks more, however many of them come.
        while last < first + PERIOD * 12 {
            if ticks == 4 {
                // The mistake that happens: something blocks the thread.
                thread::sleep(PERIOD * STALL / 10);
            }
            let asked = Instant::now();
            // The time for which the tick was due, which is not the time at which it came.
            last = interval.tick().await;
            ticks += 1;
            at_once += usize::from(last < asked);
        }
        let periods = (last - first).as_nanos() / PERIOD.as_nanos();
        let on_schedule = (last - first).as_nanos() % PERIOD.as_nanos() == 0;
        let left_out = (periods as usize + 1).saturating_sub(ticks);
        // In words: the counts depend on the machine, and stand in the summary.
        let count = if at_once > 1 { "all missed ticks" } else { "one tick" };
        let rest = if left_out > 0 { "the others left out" } else { "none left out" };
        let schedule = if on_schedule { "on the schedule" } else { "on a new schedule" };
        demo.say(format_args!("interval: {name:<5} {count} at once, {rest}, then {schedule}: {meaning}"));
        all.push(Stalled { behavior: name, ticks, at_once, left_out, on_schedule });
    }
    all
}
// endregion: interval

/// What an interval did about one late tick. Times are in microseconds since its first tick.
#[derive(Serialize)]
struct Missed {
    behavior: &'static str,
    period_us: u64,
    /// How late the third tick was asked for, which was due after two periods.
    late_us: u64,
    /// When the next two ticks came.
    next_us: [u64; 2],
}

// region: missed
/// On a clock that stands still until it is moved, so that a microsecond makes the difference.
async fn missed(demo: &Demo) -> Vec<Missed> {
    pause();
    let mut all = Vec::new();
    for (period, late_us) in [(10, 5_000), (10, 5_001), (2, 5_000), (2, 5_001)] {
        let (period, late) = (Duration::from_millis(period), Duration::from_micros(late_us));
        for (name, behavior) in BEHAVIORS {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(behavior);
            let first = interval.tick().await;
            interval.tick().await;
            // The next one is due two periods after the first, and is asked for later than that. (The clock has moved to
            // the end of a slot of the wheel, so what is left is counted from there.)
            advance((first + 2 * period + late) - Instant::now()).await;
            interval.tick().await;
            let next = [interval.tick().await, interval.tick().await];
            let next_us = next.map(|tick| (tick - first).as_micros() as u64);
            demo.say(format_args!(
                "missed: each {period:>4?}, one tick {late_us} us late: {name:<5} goes on at {} and {} us",
                next_us[0], next_us[1]
            ));
            let period_us = period.as_micros() as u64;
            all.push(Missed { behavior: name, period_us, late_us, next_us });
        }
    }
    resume();
    all
}
// endregion: missed

/// What became of a future under a timeout of ten milliseconds.
#[derive(Serialize)]
struct TimedOut {
    future: &'static str,
    elapsed: bool,
}

// region: timeout
async fn timeouts(demo: &Demo) -> Vec<TimedOut> {
    let limit = Duration::from_millis(10);
    let never = timeout(limit, std::future::pending::<()>()).await;
    let ready = timeout(limit, async {}).await;
    // Polled first, and ready when it comes back: the timer is not even asked.
    let blocking = timeout(limit, async { thread::sleep(limit * 5) }).await;
    let outcomes = [
        ("that is never ready", never),
        ("that is ready at once", ready),
        ("that blocks its thread for 50 ms", blocking),
    ];
    let shown = |(future, outcome): (&'static str, Result<(), _>)| {
        let elapsed = outcome.is_err();
        let word = if elapsed { "Elapsed" } else { "Ok" };
        demo.say(format_args!("timeout: of 10 ms over a future {future}: {word}"));
        TimedOut { future, elapsed }
    };
    outcomes.into_iter().map(shown).collect()
}
// endregion: timeout

/// Many sleeps at once.
#[derive(Serialize)]
struct Crowd {
    /// `equal`: sleeps with one deadline, polled by one task. `spread`: a task each, deadlines over a second.
    kind: &'static str,
    sleepers: usize,
    /// The most that were asleep at once.
    outstanding: usize,
    woken: usize,
    /// Sleeps that woke before their time.
    early: usize,
    /// Resident memory, in bytes a sleeper; `null` where the system does not tell.
    bytes_each: Option<usize>,
    /// Size of the `Sleep` itself, in bytes.
    sleep_bytes: usize,
    /// How often the one task was polled from the reset on; `null` for many tasks.
    polls: Option<usize>,
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, outstanding, woken, bytes_each, sleep_bytes, .. } = self;
        write!(f, "sleepers: {kind:<6} {outstanding} asleep at once, {woken} woken; ")?;
        match bytes_each {
            Some(bytes) => write!(f, "{bytes} bytes each")?,
            None => write!(f, "memory unknown")?,
        }
        write!(f, ", of which the Sleep has {sleep_bytes}")
    }
}

async fn crowds(demo: &Demo, sleepers: usize) -> io::Result<Vec<Crowd>> {
    let mut all = Vec::new();
    // A tenth first: if a queue were finite, or the memory not in proportion, it would show in the second.
    for count in [sleepers.div_ceil(10), sleepers] {
        for crowd in [equal_deadlines(count).await, spread_deadlines(count).await?] {
            demo.say(&crowd);
            all.push(crowd);
        }
    }
    Ok(all)
}

// region: equal
/// `count` sleeps in one task. They wait for an hour until all are there, and are then set to one deadline.
async fn equal_deadlines(count: usize) -> Crowd {
    let before = resident();
    let hour = Instant::now() + Duration::from_secs(3600);
    let mut sleeps: Vec<Pin<Box<Sleep>>> = (0..count).map(|_| Box::pin(sleep_until(hour))).collect();
    // Polled without tokio's budget: after 128 sleeps that are done, it would send every other one away unheard.
    let asleep = unconstrained(poll_fn(|cx| {
        // Their first poll puts them into the wheel.
        let asleep = sleeps.iter_mut().filter_map(|sleep| sleep.as_mut().poll(cx).is_pending().then_some(()));
        Poll::Ready(asleep.count())
    }));
    let start = Instant::now();
    let outstanding = asleep.await;
    let bytes_each = resident().zip(before).map(|(after, before)| after.saturating_sub(before) / count);

    // To set them takes about as long as to start them.
    let deadline = Instant::now() + start.elapsed() * 2 + Duration::from_millis(100);
    sleeps.iter_mut().for_each(|sleep| sleep.as_mut().reset(deadline));
    let (mut polls, mut woken, mut early) = (0, 0, 0);
    unconstrained(poll_fn(|cx| {
        polls += 1;
        let now = Instant::now();
        sleeps.retain_mut(|sleep| {
            let over = sleep.as_mut().poll(cx).is_ready();
            woken += usize::from(over);
            early += usize::from(over && now < deadline);
            !over
        });
        if sleeps.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
    let (sleep_bytes, polls) = (size_of::<Sleep>(), Some(polls));
    Crowd { kind: "equal", sleepers: count, outstanding, woken, early, bytes_each, sleep_bytes, polls }
}
// endregion: equal

// region: spread
/// `count` tasks with a sleep each. The deadlines begin when all can be expected to sleep, and spread over a
/// second.
async fn spread_deadlines(count: usize) -> io::Result<Crowd> {
    #[derive(Default)]
    struct Counts {
        /// The first deadline, known when all tasks are spawned and none is polled yet.
        first: OnceLock<Instant>,
        started: AtomicUsize,
        asleep: AtomicUsize,
        early: AtomicUsize,
    }
    let before = resident();
    let counts = Arc::new(Counts::default());
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let counts = Arc::clone(&counts);
        tasks.spawn(async move {
            counts.started.fetch_add(1, Ordering::Relaxed);
            counts.asleep.fetch_add(1, Ordering::Relaxed);
            let spread = Duration::from_secs(1) * number as u32 / count as u32;
            let deadline = *counts.first.get_or_init(Instant::now) + spread;
            sleep_until(deadline).await;
            counts.early.fetch_add(usize::from(Instant::now() < deadline), Ordering::Relaxed);
            counts.asleep.fetch_sub(1, Ordering::Relaxed);
        });
    }
    // To poll them once takes less than to spawn them.
    counts.first.get_or_init(|| Instant::now() + start.elapsed() * 4 + Duration::from_millis(100));
    while counts.started.load(Ordering::Relaxed) < count {
        yield_now().await;
    }
    let outstanding = counts.asleep.load(Ordering::Relaxed);
    let bytes_each = resident().zip(before).map(|(after, before)| after.saturating_sub(before) / count);
    let mut woken = 0;
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)?;
        woken += 1;
    }
    let early = counts.early.load(Ordering::Relaxed);
    let sleep_bytes = size_of::<Sleep>();
    Ok(Crowd {
        kind: "spread",
        sleepers: count,
        outstanding,
        woken,
        early,
        bytes_each,
        sleep_bytes,
        polls: None,
    })
}
// endregion: spread

/// This process's resident memory, in bytes, from proc_pid_status(5).
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}
