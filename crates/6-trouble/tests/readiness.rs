//! What the page of tokio-readiness claims, asked of the program: by its own counts, and by what strace saw.

use harness::demo::{Running, survives_without_an_audience};
use serde_json::Value;

const READINESS: &str = env!("CARGO_BIN_EXE_tokio-readiness");

/// The ways that do not tell tokio of the EAGAIN, and those that do.
const SILENT: [&str; 2] = ["by-hand", "fd-by-hand"];
const TOLD: [&str; 4] = ["try-io", "try-recv", "async-io", "fd-try-io"];

fn outcomes(args: &[&str]) -> Vec<Value> {
    let summary = Running::start(READINESS, &[args, &["--json"]].concat()).end().summary();
    summary["outcomes"].as_array().expect("outcomes").clone()
}

fn number(outcome: &Value, name: &str) -> u64 {
    outcome[name].as_u64().unwrap_or_else(|| panic!("{name}: {outcome}"))
}

#[test]
fn who_does_not_tell_tokio_spins_and_starves_its_thread() {
    let outcomes = outcomes(&[&SILENT[..], &["--give-up", "10000"]].concat());
    assert_eq!(outcomes.len(), SILENT.len());
    for outcome in outcomes {
        assert_eq!(number(&outcome, "datagrams"), 8, "all datagrams came at once: {outcome}");
        assert_eq!(number(&outcome, "would_block"), 10_000, "it never stopped by itself: {outcome}");
        assert_eq!(number(&outcome, "ticks"), 0, "nobody else had a turn: {outcome}");
        assert_eq!(outcome["gave_up"], true, "{outcome}");
    }
}

#[test]
fn who_tells_tokio_meets_one_eagain_in_a_burst() {
    for workers in ["1", "2"] {
        let outcomes = outcomes(&[&TOLD[..], &["--workers", workers]].concat());
        assert_eq!(outcomes.len(), TOLD.len());
        for outcome in outcomes {
            assert_eq!(number(&outcome, "datagrams"), 8, "{outcome}");
            assert!(number(&outcome, "would_block") <= 1, "{outcome}");
            assert_eq!((number(&outcome, "ticks"), &outcome["gave_up"]), (100, &false.into()), "{outcome}");
        }
    }
}

#[test]
fn a_second_worker_does_not_end_the_spinning() {
    for outcome in outcomes(&[&SILENT[..], &["--workers", "2"]].concat()) {
        // It ends when the neighbour has ticked a hundred times, if it ever does.
        assert!(number(&outcome, "would_block") >= 1000, "{outcome}");
    }
}

#[test]
fn strace_sees_as_many() {
    for (way, expected) in [("by-hand", 500), ("fd-by-hand", 500), ("try-io", 1), ("async-io", 1)] {
        let args = [way, "--give-up", "500", "--json"];
        let Some(program) = Running::traced("recvfrom", READINESS, &args) else { return };
        let ended = program.end();
        let would_block = ended.trace.calls(|call| call.contains("EAGAIN")).len();
        assert_eq!(would_block, expected, "{way}");
        assert_eq!(number(&ended.summary()["outcomes"][0], "would_block"), expected as u64, "{way}");
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    Running::start(READINESS, &["by-foot"]).end().refused(2, "by-foot");
    Running::start(READINESS, &["--give-up", "0"]).end().refused(2, "from 1 to");
    Running::start(READINESS, &["--workers", "65"]).end().refused(2, "from 1 to 64");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(READINESS, &["--give-up", "10", "--ticks", "1", "--json"]);
}
