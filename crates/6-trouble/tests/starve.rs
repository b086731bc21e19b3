//! What the page of tokio-starve claims, asked of the program.

#![forbid(unsafe_code)]

use harness::demo::{CALLS, Running, is_wait, survives_without_an_audience};

const STARVE: &str = env!("CARGO_BIN_EXE_tokio-starve");

/// How often the neighbour was polled, by way.
fn polls(args: &[&str]) -> Vec<(String, u64)> {
    let summary = Running::start(STARVE, &[args, &["--json"]].concat()).end().summary();
    let ways = summary["ways"].as_array().expect("ways");
    let polls = |way: &serde_json::Value| way["neighbour_polls"].as_u64().expect("a count");
    ways.iter().map(|way| (way["way"].as_str().expect("a name").to_owned(), polls(way))).collect()
}

#[test]
fn the_neighbour_is_polled_when_the_budget_is_spent_and_only_what_is_charged_spends_it() {
    let expected = [
        ("recv-from", 78),
        ("try-recv-from", 0),
        ("readable", 0),
        ("unconstrained", 0),
        ("async-io", 78),
        ("consume-budget", 78),
        ("yield-now", 312),
    ];
    assert_eq!(polls(&[]), expected.map(|(way, polls)| (way.to_owned(), polls)));
}

#[test]
fn a_yield_is_a_turn() {
    for (every, expected) in [("128", 78), ("1000", 10), ("1", 10_000)] {
        assert_eq!(polls(&["yield-now", "--every", every]), [("yield-now".to_owned(), expected)], "{every}");
    }
}

/// From outside: between the first receive and the last, a turn of the neighbour is a mark and one look at epoll.
#[test]
fn the_trace_shows_the_turns_and_a_look_at_epoll_for_each() {
    for (way, expected) in [("recv-from", 78), ("try-recv-from", 0), ("unconstrained", 0), ("yield-now", 312)]
    {
        let Some(program) = Running::traced(CALLS, STARVE, &[way, "--marks", "--json"]) else { return };
        let ended = program.end();
        ended.summary();
        let calls = ended.trace.calls(|_| true);
        let receives = |call: &&str| call.starts_with("recvfrom(");
        let first = calls.iter().position(receives).expect("a receive");
        let last = calls.iter().rposition(receives).expect("a receive");
        let between = &calls[first..=last];
        let count = |wanted: &dyn Fn(&str) -> bool| between.iter().filter(|call| wanted(call)).count();
        assert_eq!(
            count(&|call| call.starts_with("recvfrom(")),
            10_000,
            "{way}: each receive has a datagram"
        );
        assert_eq!(count(&|call| call.contains("\"poll neighbour\"")), expected, "{way}: turns");
        assert_eq!(count(&|call| is_wait(call)), expected, "{way}: waits");
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    Running::start(STARVE, &["recv"]).end().refused(2, "recv");
    Running::start(STARVE, &["--datagrams", "0"]).end().refused(2, "from 1 to");
    Running::start(STARVE, &["--every", "0"]).end().refused(2, "from 1 to");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(STARVE, &["--datagrams", "200", "--json"]);
}
