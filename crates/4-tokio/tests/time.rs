//! What the pages of work stealing and of tokio's timers claim, asked of the programs.

use harness::demo::{CALLS, Running, survives_without_an_audience};
use serde_json::{Value, json};

const STEALING: &str = env!("CARGO_BIN_EXE_tokio-work-stealing");
const TIME: &str = env!("CARGO_BIN_EXE_tokio-time");

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

/// The tasks that each worker ran.
fn ran(part: &Value) -> Vec<Vec<u64>> {
    let workers = part["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["ran"].as_array().unwrap().iter().map(number).collect()).collect()
}

#[test]
fn dealt_tasks_stay_where_they_are() {
    let ended = Running::start(STEALING, &["dealt", "--workers", "4", "--unit", "100us", "--json"]).end();
    let summary = ended.summary();
    let part = &summary["parts"][0];
    for (worker, ran) in ran(part).iter().enumerate() {
        let dealt: Vec<_> = (worker as u64..32).step_by(4).collect();
        assert_eq!(ran, &dealt, "worker {worker}");
    }
    assert_eq!((number(&part["workers"][0]["units"]), number(&part["workers"][1]["units"])), (64, 8));
    assert_eq!(number(&part["stolen"]), 0);
    assert_eq!(ended.stdout.len(), 5, "a line for each worker, and the summary");
}

#[test]
fn who_is_free_steals() {
    // How the work falls out in the end depends on the machine: one run of ten must be better balanced than
    // what was dealt, by 89 to 11.
    let balanced = (0..10).any(|_| {
        let summary = Running::start(STEALING, &["stolen", "--json"]).end().summary();
        let part = &summary["parts"][0];
        let ran = ran(part);
        assert_eq!(ran.len(), 2, "both workers ran some: {ran:?}");
        // The first keeps its thread until a quarter has been run by others.
        assert!(number(&part["stolen"]) >= 8 && ran[1].len() >= 8, "{ran:?}");
        let mut all = ran.concat();
        all.sort_unstable();
        assert_eq!(all, (0..32).collect::<Vec<_>>(), "each task ran, and ran once");
        part["busiest"].as_f64().unwrap() < 0.8
    });
    assert!(balanced, "stealing balances nothing");
}

#[test]
fn a_sleep_is_polled_twice() {
    let Some(program) = Running::traced(CALLS, TIME, &["sleep", "--marks", "--json"]) else { return };
    let ended = program.end();
    ended.summary();
    assert_eq!(
        ended.trace.marks(),
        ["ready", "poll sleep", "pending sleep", "wake sleep", "poll sleep", "ready sleep"]
    );
    // Its own wake-up is one write today, and may be none one day.
    assert!(ended.trace.eventfd_writes() <= 2, "{} writes", ended.trace.eventfd_writes());
    assert!((1..=10).contains(&ended.trace.waits()), "{} waits", ended.trace.waits());
}

#[test]
fn no_sleep_wakes_early() {
    let summary = Running::start(TIME, &["lateness", "--json"]).end().summary();
    let lateness = summary["lateness"].as_array().unwrap();
    assert_eq!(lateness.len(), 6);
    for asked in lateness {
        assert_eq!((number(&asked["early"]), number(&asked["sleeps"])), (0, 21), "{asked}");
        let (median, worst) = (number(&asked["median_late_us"]), number(&asked["worst_late_us"]));
        assert!(median <= worst, "{asked}");
    }
    // A microsecond is rounded up to a millisecond, so its sleep is late by many times itself.
    assert!(number(&lateness[0]["median_late_us"]) > 10 * number(&lateness[0]["asked_us"]));
}

#[test]
fn a_stall_is_made_up_for_or_dictates() {
    let summary = Running::start(TIME, &["interval", "--json"]).end().summary();
    let [burst, delay, skip] = &summary["intervals"].as_array().unwrap()[..] else {
        panic!("three behaviours")
    };
    // Five ticks and a half were missed; a busy machine may miss more.
    assert!(number(&burst["at_once"]) >= 5, "{burst}");
    assert_eq!((&burst["left_out"], &burst["on_schedule"]), (&json!(0), &json!(true)), "{burst}");
    assert!(number(&delay["left_out"]) >= 3, "{delay}");
    assert_eq!(delay["on_schedule"], false, "{delay}");
    assert!(number(&skip["left_out"]) >= 3, "{skip}");
    assert_eq!(skip["on_schedule"], true, "{skip}");
    for other in [delay, skip] {
        assert!(
            number(&other["ticks"]) < number(&burst["ticks"]),
            "fewer sends than the schedule has: {other}"
        );
    }
}

#[test]
fn missed_ticks_count_as_missed_from_more_than_five_milliseconds_on() {
    let summary = Running::start(TIME, &["missed", "--json"]).end().summary();
    let next = |period: u64, late: u64| -> Vec<Value> {
        let rows = summary["missed"].as_array().unwrap().iter();
        rows.filter(|row| row["period_us"] == period && row["late_us"] == late)
            .map(|row| row["next_us"].clone())
            .collect()
    };
    let on_schedule = [30_000, 40_000];
    assert_eq!(next(10_000, 5_000), [json!(on_schedule), json!(on_schedule), json!(on_schedule)]);
    // Skip leaves out what is over, and nothing is: the next tick lies ahead.
    assert_eq!(next(10_000, 5_001), [json!(on_schedule), json!([35_001, 45_001]), json!(on_schedule)]);
    let burst = json!([6_000, 8_000]);
    assert_eq!(next(2_000, 5_000), [burst.clone(), burst.clone(), burst.clone()]);
    assert_eq!(next(2_000, 5_001), [burst, json!([11_001, 13_001]), json!([10_000, 12_000])]);
}

#[test]
fn a_timeout_ends_what_waits_and_nothing_else() {
    let summary = Running::start(TIME, &["timeout", "--json"]).end().summary();
    let elapsed: Vec<_> =
        summary["timeouts"].as_array().unwrap().iter().map(|case| &case["elapsed"]).collect();
    assert_eq!(elapsed, [true, false, false], "never ready, ready at once, blocking");
}

#[test]
fn sleepers_are_as_many_as_there_is_memory() {
    let summary = Running::start(TIME, &["sleepers", "--sleepers", "200000", "--json"]).end().summary();
    let crowds = summary["sleepers"].as_array().unwrap();
    let expected = [("equal", 20_000), ("spread", 20_000), ("equal", 200_000), ("spread", 200_000)];
    assert_eq!(crowds.len(), expected.len());
    for (crowd, (kind, sleepers)) in crowds.iter().zip(expected) {
        assert_eq!((&crowd["kind"], number(&crowd["sleepers"])), (&json!(kind), sleepers));
        assert_eq!((number(&crowd["woken"]), number(&crowd["early"])), (sleepers, 0), "{crowd}");
        if kind == "equal" {
            assert_eq!(
                number(&crowd["outstanding"]),
                sleepers,
                "all of them are in the wheel at once: {crowd}"
            );
            assert!(number(&crowd["polls"]) <= 10, "equal deadlines are one wake, or a few: {crowd}");
        }
        if sleepers == 200_000 && !crowd["bytes_each"].is_null() {
            let (bytes, sleep) = (number(&crowd["bytes_each"]), number(&crowd["sleep_bytes"]));
            let most = if kind == "equal" { 3 } else { 10 };
            assert!(
                (sleep / 2..=most * sleep).contains(&bytes),
                "{bytes} bytes for each Sleep of {sleep}: {crowd}"
            );
        }
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    Running::start(STEALING, &["--workers", "1"]).end().refused(2, "--workers");
    Running::start(STEALING, &["--unit", "1"]).end().refused(2, "200ms");
    Running::start(TIME, &["nap"]).end().refused(2, "nap");
    Running::start(TIME, &["--sleepers", "0"]).end().refused(2, "from 1 to");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(STEALING, &["--unit", "100us"]);
    survives_without_an_audience(TIME, &["sleep", "timeout"]);
}
