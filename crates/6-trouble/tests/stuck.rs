//! What the page of tokio-stuck claims, asked of the program: by its own counts, and by what strace saw.

use std::collections::BTreeMap;

use harness::demo::{CALLS, Ended, Running, survives_without_an_audience};

const STUCK: &str = env!("CARGO_BIN_EXE_tokio-stuck");

/// In how many rounds the other task ran, by cure.
fn ran(args: &[&str]) -> BTreeMap<String, u64> {
    let summary = Running::start(STUCK, &[args, &["--json"]].concat()).end().summary();
    let outcomes = summary["outcomes"].as_array().expect("outcomes");
    let ran = outcomes.iter().map(|outcome| {
        let cure = outcome["cure"].as_str().unwrap_or_else(|| panic!("a cure: {outcome}"));
        (cure.to_owned(), outcome["ran"].as_u64().unwrap_or_else(|| panic!("a count: {outcome}")))
    });
    ran.collect()
}

fn counts<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected.map(|(cure, ran)| (cure.to_owned(), ran)).into()
}

/// The computation lasts as long as given if the other task is stuck, so it is short.
const STUCK_FOR: [&str; 4] = ["--rounds", "20", "--busy", "50ms"];

/// It ends when the other task has run, so it may last as long as a busy machine needs.
const CURED: [&str; 4] = ["--rounds", "100", "--busy", "10s"];

#[test]
fn who_lies_in_the_slot_waits_for_the_worker() {
    let args = [&["slot", "--cure", "none,consume-budget"], &STUCK_FOR[..]].concat();
    assert_eq!(ran(&args), counts([("none", 0), ("consume-budget", 0)]));
}

#[test]
fn nobody_hears_of_a_datagram_while_the_driver_is_busy() {
    let args = [&["driver", "--cure", "none,consume-budget,spawn"], &STUCK_FOR[..]].concat();
    assert_eq!(ran(&args), counts([("none", 0), ("consume-budget", 0), ("spawn", 0)]));
}

#[test]
fn each_cure_of_the_slot_lets_the_other_run() {
    let args = [&["slot", "--cure", "spawn,yield,block-in-place,spawn-blocking"], &CURED[..]].concat();
    let expected = [("spawn", 100), ("yield", 100), ("block-in-place", 100), ("spawn-blocking", 100)];
    assert_eq!(ran(&args), counts(expected));
}

#[test]
fn each_cure_of_the_driver_lets_the_other_run() {
    let args = [&["driver", "--cure", "yield,block-in-place,spawn-blocking"], &CURED[..]].concat();
    let expected = [("yield", 100), ("block-in-place", 100), ("spawn-blocking", 100)];
    assert_eq!(ran(&args), counts(expected));
}

/// What strace saw of one round: `None` where it cannot trace.
fn traced(args: &[&str]) -> Option<Ended> {
    let args = [args, &["--rounds", "1", "--marks", "--json"]].concat();
    let ended = Running::traced(CALLS, STUCK, &args)?.end();
    ended.summary();
    Some(ended)
}

/// Whether the other task was polled a second time before the busy one had ended its own second poll. The program may end
/// before a task that was stuck has had its turn.
fn other_came_first(ended: &Ended) -> bool {
    let marks = ended.trace.marks();
    let second =
        |mark: &str| marks.iter().enumerate().filter(|(_, one)| **one == mark).map(|(place, _)| place).nth(1);
    let busy = second("pending busy").unwrap_or_else(|| panic!("the busy one is polled twice: {marks:?}"));
    second("poll other").is_some_and(|other| other < busy)
}

#[test]
fn strace_sees_the_same_order() {
    for fault in ["slot", "driver"] {
        let Some(stuck) = traced(&[fault, "--busy", "300ms"]) else { return };
        assert!(!other_came_first(&stuck), "{fault}: the other task waits for the busy one");
        let Some(cured) = traced(&[fault, "--busy", "10s", "--cure", "block-in-place"]) else { return };
        assert!(other_came_first(&cured), "{fault}: with block_in_place it does not");
    }
}

/// Only in a build of its own: RUSTFLAGS='--cfg tokio_unstable' cargo test --target-dir target/unstable ...
#[cfg(tokio_unstable)]
#[test]
fn each_option_of_the_runtime_cures_one_of_the_two() {
    let options = "disable-lifo-slot,eager-driver-handoff";
    for (fault, cured, not) in [
        ("slot", "disable-lifo-slot", "eager-driver-handoff"),
        ("driver", "eager-driver-handoff", "disable-lifo-slot"),
    ] {
        let args = [&[fault, "--cure", cured], &CURED[..]].concat();
        assert_eq!(ran(&args), counts([(cured, 100)]), "{fault}, of {options}");
        let args = [&[fault, "--cure", not], &STUCK_FOR[..]].concat();
        assert_eq!(ran(&args), counts([(not, 0)]), "{fault}, of {options}");
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    Running::start(STUCK, &["pipe"]).end().refused(2, "pipe");
    Running::start(STUCK, &["--rounds", "0"]).end().refused(2, "from 1 to");
    Running::start(STUCK, &["--cure", "hope"]).end().refused(2, "hope");
    if cfg!(not(tokio_unstable)) {
        for cure in ["disable-lifo-slot", "eager-driver-handoff"] {
            Running::start(STUCK, &["--cure", cure]).end().refused(2, "--cfg tokio_unstable");
        }
    }
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(STUCK, &["--cure", "block-in-place", "--rounds", "1", "--json"]);
}
