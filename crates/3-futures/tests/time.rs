//! Timers: what is asserted is order, and counts of ticks, polls and waits; never how exact the clock is.
//!
//! A deadline that must not be over when it is first looked at lies some hundred milliseconds ahead, however busy
//! the machine is.

mod util;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::Launch;
use harness::demo::must;
use mini_runtime::{
    Elapsed, Runtime, Step, interval, sleep, sleep_until, spawn, spawn_named, timeout, yield_now,
};
use util::{Log, within_deadline};

const MS: Duration = Duration::from_millis(1);

#[test]
fn nothing_fires_early_and_earlier_deadlines_come_first() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        let start = Instant::now();
        // Of three levels of the wheel, in no order.
        let sleepers = [630, 501, 564, 505, 700, 563, 565, 600, 500].map(|millis| {
            let order = Rc::clone(&order);
            async move {
                sleep_until(start + millis * MS).await;
                assert!(start.elapsed() >= millis * MS, "{millis} ms fired early");
                order.borrow_mut().push(millis);
            }
        });
        let tasks = sleepers.map(|sleeper| runtime.spawn(sleeper));
        runtime.block_on(join_all(tasks)).unwrap();
        // The scheduler may hold this thread for any time, and then several fire at once: in the order of the wheel still.
        let mut sorted = order.borrow().clone();
        sorted.sort_unstable();
        assert_eq!(*order.borrow(), sorted);
    });
}

#[test]
fn a_sleep_is_two_polls_and_one_wake() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime().block_on(sleep(300 * MS)).unwrap();
        assert_eq!(log.count(Step::Poll("main")), 2);
        assert_eq!(log.count(Step::Wake("main")), 1);
        assert_eq!(log.count(Step::Fire), 1);
        // Set by the loop's own thread, the timer is in the timeout of the wait that follows: no wake for that. A
        // second wait may bring it down one level of the wheel.
        assert!((1..=2).contains(&log.count(Step::Wait { idle: true })), "{:?}", log.steps());
    });
}

#[test]
fn a_sleep_costs_at_most_a_wait_for_each_level() {
    within_deadline(|| {
        let log = Log::default();
        let runtime = log.runtime();
        // Twice, so that the second starts somewhere within the wheel's turn.
        runtime.block_on(sleep(70 * MS)).unwrap();
        runtime.block_on(sleep(130 * MS)).unwrap();
        assert!(log.count(Step::Wait { idle: true }) <= 2 * 3, "{:?}", log.steps());
    });
}

#[test]
fn a_spurious_wake_does_not_end_a_sleep() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let start = Instant::now();
                let sleeper = spawn_named("sleeper", async move {
                    let mut sleep = std::pin::pin!(sleep(300 * MS));
                    std::future::poll_fn(|cx| {
                        if start.elapsed() < 300 * MS {
                            cx.waker().wake_by_ref();
                        }
                        sleep.as_mut().poll(cx)
                    })
                    .await;
                    start.elapsed()
                });
                assert!(sleeper.await >= 300 * MS);
            })
            .unwrap();
        assert!(log.count(Step::Poll("sleeper")) >= 2);
        assert_eq!(log.count(Step::Keep), 1, "one registration, however often it is polled");
    });
}

#[test]
fn a_sleep_that_moves_wakes_the_task_that_polled_it_last() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let mut moving = Box::pin(sleep(300 * MS));
                assert!(futures::poll!(&mut moving).is_pending());
                spawn_named("mover", moving).await;
            })
            .unwrap();
        assert_eq!(log.count(Step::Wake("mover")), 1);
        assert_eq!(log.count(Step::Wake("main")), 1, "by the join handle, and not by the timer");
    });
}

#[test]
fn a_timeout_gives_the_output_or_its_absence() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                assert_eq!(timeout(Duration::from_secs(3600), async { 1 }).await, Ok(1));
                assert_eq!(timeout(Duration::ZERO, async { 2 }).await, Ok(2), "what is ready counts");
                assert_eq!(timeout(300 * MS, pending::<()>()).await, Err(Elapsed));
                assert_eq!(timeout(Duration::MAX, async { 3 }).await, Ok(3), "more than the clock can tell");
                // One that was begun and dropped leaves nothing in the wheel: this sleep is the only thing that fires.
                assert!(futures::poll!(std::pin::pin!(sleep(300 * MS))).is_pending());
                sleep(600 * MS).await;
            })
            .unwrap();
        assert_eq!(log.count(Step::Fire), 2, "the timeout that came, and the last sleep");
    });
}

#[test]
fn the_deadline_counts_from_the_call() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let late = timeout(MS, pending::<()>());
                let sleep = sleep(MS);
                thread::sleep(5 * MS);
                // Both are over when they are first polled.
                assert_eq!(futures::poll!(std::pin::pin!(sleep)), Poll::Ready(()));
                assert_eq!(futures::poll!(std::pin::pin!(late)), Poll::Ready(Err(Elapsed)));
            })
            .unwrap();
    });
}

#[test]
fn an_interval_keeps_its_schedule_and_skips_what_it_missed() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let mut ticks = interval(10 * MS);
                let first = ticks.tick().await;
                // Missed: those at 10, 20 and 30, at the least.
                thread::sleep(35 * MS);
                let mut before = first;
                for n in 1..5 {
                    let due = ticks.tick().await;
                    assert!(due > before, "tick {n} was due before the last one");
                    assert_eq!(
                        (due - first).as_nanos() % (10 * MS).as_nanos(),
                        0,
                        "tick {n} is off the schedule"
                    );
                    before = due;
                }
                assert!(before - first >= 60 * MS);
            })
            .unwrap();
    });
}

#[test]
fn what_is_due_beyond_the_clock_is_never_due() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                for period in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
                    let mut ticks = interval(period);
                    let start = Instant::now();
                    assert!(ticks.tick().await <= start, "the first tick is due at once");
                    assert_eq!(timeout(MS, ticks.tick()).await, Err(Elapsed));
                    assert_eq!(timeout(MS, ticks.tick()).await, Err(Elapsed), "and never again");
                }
                assert_eq!(timeout(MS, sleep(Duration::MAX)).await, Err(Elapsed));
            })
            .unwrap();
    });
}

#[test]
fn a_thousand_sleepers_are_polled_twice_each() {
    within_deadline(|| {
        let log = Log::default();
        let runtime = log.runtime();
        let start = Instant::now();
        let sleepers: Vec<_> =
            (0..1_000).map(|n| runtime.spawn(sleep_until(start + (500 + n % 100) * MS))).collect();
        runtime.block_on(join_all(sleepers)).unwrap();
        assert_eq!(log.count(Step::Poll("task")), 2_000);
        assert_eq!(log.count(Step::Fire), 1_000);
        // Equal deadlines share a wait; a hundred different ones, and a few steps down the wheel.
        assert!(log.count(Step::Wait { idle: true }) <= 104);
    });
}

/// R15: a task that always has something to do, against a 20 ms timer. It yields after `budget` units of work; returns how
/// many units were done when the timer's task was polled, of the `WORK` that the flood has in all.
fn flood(budget: u64) -> u64 {
    const UNIT: Duration = Duration::from_micros(10);
    let runtime = Runtime::new().unwrap();
    let count = Rc::new(Cell::new(0));
    runtime
        .block_on(async move {
            let seen = Rc::clone(&count);
            let timer = spawn(async move {
                sleep(20 * MS).await;
                seen.get()
            });
            let flood = spawn(async move {
                for unit in 1..=WORK {
                    let start = Instant::now();
                    while start.elapsed() < UNIT {}
                    count.set(unit);
                    if unit % budget == 0 {
                        yield_now().await;
                    }
                }
            });
            let seen = timer.await;
            flood.await;
            seen
        })
        .unwrap()
}
const WORK: u64 = 5_000;

#[test]
fn a_timer_is_seen_amid_a_flood_if_there_is_a_budget() {
    within_deadline(|| {
        let seen = flood(32);
        // 21 ms hold 2,100 units of 10 us at most, the timer is looked at after each 32,
        // and no units are counted while the system lets this thread wait.
        assert!(seen <= 2_000 + 100 + 3 * 32, "the timer was seen after {seen} of {WORK} units");
        assert_eq!(flood(u64::MAX), WORK, "without a budget it must be seen only after the flood");
    });
}

/// R25: the process is stopped for two seconds across a timeout and a hundred ticks.
#[test]
fn a_stop_makes_no_burst() {
    if std::env::var_os("TICKER").is_some() {
        ticker();
        return;
    }
    within_deadline(|| {
        let this = std::env::current_exe().unwrap();
        let args = ["a_stop_makes_no_burst", "--exact", "--nocapture", "--test-threads=1"];
        let mut child = must(Launch::new(this.display()).args(args).env("TICKER", "1").start());
        must(child.line_with("ready"));
        must(child.freeze());
        thread::sleep(Duration::from_secs(2));
        must(child.thaw());
        let ended = must(child.finish());
        must(ended.expect_code(0));
        let rest: Vec<&str> = ended.stdout.lines().skip_while(|line| !line.ends_with("ready")).collect();
        let number = |name: &str| -> usize {
            let line =
                rest.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{rest:?}"));
            line.trim().parse().unwrap()
        };
        assert_eq!(number("timeouts"), 1, "the timeout in the pause came once");
        // A burst would be a hundred ticks at once; half a second has room for 26.
        assert!(number("ticks") <= 30, "{rest:?}");
    });
}

/// Ticks each 20 ms until half a second after a pause, and prints how many ticks there were in that half second.
fn ticker() {
    let runtime = Runtime::new().unwrap();
    runtime
        .block_on(async {
            let mut ticks = interval(20 * MS);
            let mut last = ticks.tick().await;
            println!("ready");
            let waiting = spawn(timeout(Duration::from_millis(1_900), pending::<()>()));
            while last.elapsed() < Duration::from_millis(1_500) {
                last = Instant::now();
                ticks.tick().await;
            }
            let end = Instant::now() + 500 * MS;
            let mut count = 1;
            while Instant::now() < end {
                ticks.tick().await;
                count += 1;
            }
            println!("ticks {count}");
            println!("timeouts {}", usize::from(waiting.await == Err(Elapsed)));
        })
        .unwrap();
}
