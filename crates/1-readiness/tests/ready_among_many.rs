//! What the page "Why not a thread for each socket?" claims, asked of ready-among-many. Ratios only: eventfds, and
//! medians of calls that do not sleep, so that a busy machine changes little.

use harness::demo::{Running, survives_without_an_audience};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ready-among-many");

fn summary(args: &[&str]) -> Value {
    Running::start(PROGRAM, &[args, &["--json"]].concat()).end().summary()
}

/// Microseconds to find the one that is ready already, among `sockets`.
fn ready_us(wait: &str, sockets: &str) -> f64 {
    let summary = summary(&["--kind", "eventfd", "--wait", wait, "--sockets", sockets, "--rounds", "500"]);
    summary["ready_us"].as_f64().expect("a loop finds")
}

#[test]
fn poll_pays_for_each_socket_and_epoll_does_not() {
    let [poll_few, poll_many] = ["10", "1000"].map(|sockets| ready_us("poll", sockets));
    let [epoll_few, epoll_many] = ["10", "1000"].map(|sockets| ready_us("epoll", sockets));
    assert!(poll_many / poll_few >= 10.0, "poll: {poll_few} us among 10, {poll_many} us among 1000");
    assert!(epoll_many / epoll_few <= 3.0, "epoll: {epoll_few} us among 10, {epoll_many} us among 1000");
    assert!(poll_many / epoll_many >= 20.0, "among 1000: poll {poll_many} us, epoll {epoll_many} us");
}

#[test]
fn select_pays_for_each_socket_too() {
    let [few, many] = ["10", "1000"].map(|sockets| ready_us("select", sockets));
    assert!(many / few >= 5.0, "select: {few} us among 10, {many} us among 1000");
}

#[test]
fn in_a_burst_each_thread_is_switched_to_and_a_loop_is_not() {
    let burst = |wait| summary(&["--kind", "eventfd", "--wait", wait, "--sockets", "64", "--burst", "64"]);
    let threads = burst("threads");
    assert_eq!(threads["burst_switches"], 1.0, "each thread slept, and was woken for its one datagram");
    assert_eq!((&threads["burst_waits"], &threads["ready_us"]), (&Value::Null, &Value::Null));
    let epoll = burst("epoll");
    assert!(epoll["burst_waits"].as_f64().expect("a loop waits") <= 0.25, "{epoll}");
    assert!(epoll["burst_switches"].as_f64().expect("counted") <= 0.25, "{epoll}");
}

#[test]
fn a_thread_costs_memory_and_an_entry_in_a_list_next_to_none() {
    let memory = |wait| {
        let summary = summary(&["--kind", "eventfd", "--wait", wait, "--sockets", "500"]);
        ["resident_kib", "virtual_kib"].map(|name| summary[name].as_u64().expect("Linux says"))
    };
    let ([resident, address_space], [of_epoll, _]) = (memory("threads"), memory("epoll"));
    assert!(resident >= 500 * 4, "a page of stack each, at least: {resident} KiB");
    assert!(address_space >= 500 * 2048, "2 MiB of stack each: {address_space} KiB");
    assert!(of_epoll * 4 < resident, "epoll {of_epoll} KiB, threads {resident} KiB");
}

#[test]
fn level_repeats_what_is_not_read_and_edge_does_not() {
    let events = |sockets: &str, stay: &str| {
        let summary = summary(&["--sockets", sockets, "--stay-ready", stay]);
        assert_eq!(summary["turns"], 100);
        ["level", "edge"].map(|trigger| summary[trigger]["events"].as_u64().expect("a count"))
    };
    // In each of 100 turns one more socket becomes ready.
    assert_eq!(events("200", "50"), [100 * 51, 50 + 100]);
    assert_eq!(events("1", "1"), [100, 1], "a single socket");
}

#[test]
fn it_serves_udp_sockets_by_each_way() {
    for wait in ["select", "poll", "epoll", "threads"] {
        let summary = summary(&["--wait", wait, "--sockets", "20", "--rounds", "20"]);
        assert_eq!((&summary["wait"], &summary["burst"]), (&Value::from(wait), &Value::from(20)));
    }
}

#[test]
fn limits_are_sentences() {
    let refused = |args: &[&str], code, text| Running::start(PROGRAM, args).end().refused(code, text);
    refused(&["--wait", "select", "--sockets", "1030"], 1, "FD_SETSIZE");
    refused(&["--sockets", "100000000"], 1, "ulimit -n");
    refused(&["--burst", "65", "--sockets", "64"], 2, "--burst");
    refused(&["--stay-ready", "65", "--sockets", "64"], 2, "--stay-ready");
    refused(&["--wait", "hope"], 2, "hope");
    refused(&["--sockets", "0"], 2, "from 1 to");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(PROGRAM, &["--sockets", "10"]);
}
