//! What the page of tokio-outstanding claims, asked of the program.

use harness::demo::{Running, survives_without_an_audience};
use serde_json::Value;

const OUTSTANDING: &str = env!("CARGO_BIN_EXE_tokio-outstanding");

/// The ways without a bound, and those with one.
const WITHOUT: [&str; 5] = ["tasks", "spawn-blocking", "abandoned", "aborted", "unbounded-channel"];
const WITH: [&str; 2] = ["bounded-channel", "semaphore"];

/// Of each way: how many requests were outstanding, refused, and served later.
fn counts(args: &[&str]) -> Vec<[u64; 3]> {
    let summary = Running::start(OUTSTANDING, &[args, &["--json"]].concat()).end().summary();
    let outcomes = summary["outcomes"].as_array().expect("outcomes").clone();
    let number = |outcome: &Value, name: &str| outcome[name].as_u64().expect("a number");
    outcomes
        .iter()
        .map(|outcome| ["outstanding", "refused", "served"].map(|name| number(outcome, name)))
        .collect()
}

#[test]
fn without_a_bound_nobody_is_refused() {
    let all = [20_000, 0, 20_000];
    // Who aborts is not served; who only goes away is.
    let expected = [all, all, all, [20_000, 0, 0], all];
    assert_eq!(counts(&[&WITHOUT[..], &["--requests", "20000", "--bound", "10"]].concat()), expected);
}

#[test]
fn with_a_bound_that_many_wait_and_the_others_are_refused() {
    for (bound, waiting) in [("1", 1), ("10", 10), ("20000", 20_000), ("30000", 20_000)] {
        let counted = counts(&[&WITH[..], &["--requests", "20000", "--bound", bound]].concat());
        assert_eq!(counted, [[waiting, 20_000 - waiting, waiting]; 2], "--bound {bound}");
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    Running::start(OUTSTANDING, &["in-a-heap"]).end().refused(2, "in-a-heap");
    Running::start(OUTSTANDING, &["--requests", "0"]).end().refused(2, "from 1 to 300000");
    Running::start(OUTSTANDING, &["--bound", "0"]).end().refused(2, "from 1 to");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(OUTSTANDING, &["--requests", "10", "--json"]);
}
