//! What the page "Two sockets" claims, asked of two-sockets. No clock is compared: what is blocked is known to be.

use harness::demo::{Running, survives_without_an_audience};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_two-sockets");

fn summary(args: &[&str]) -> Value {
    Running::start(PROGRAM, &[args, &["--json"]].concat()).end().summary()
}

#[test]
fn a_blocked_send_keeps_the_other_client_waiting_until_the_first_reads() {
    let summary = summary(&["--flip-flop", "--patience", "300ms"]);
    assert_eq!(summary["meanwhile"], json!({ "sent": 1, "answered": 0 }));
    assert_eq!(summary["afterwards"], json!({ "sent": 21, "answered": 21 }), "the late ping, too");
}

#[test]
fn poll_with_queues_answers_the_other_and_so_does_a_thread_each() {
    for server in [&[][..], &["--threads"]] {
        let summary = summary(&[server, &["--patience", "60s"]].concat());
        let all = json!({ "sent": 20, "answered": 20 });
        assert_eq!((&summary["meanwhile"], &summary["afterwards"]), (&all, &all), "{server:?}");
    }
}

#[test]
fn the_queue_is_what_poll_takes_more() {
    let taken = |args: &[&str]| summary(args)["taken"].as_u64().expect("a count");
    // All fill the buffers of both sockets. Whoever blocks holds one datagram, and a queue holds eight.
    let in_buffers = taken(&["--flip-flop", "--patience", "1ms"]) - 1;
    assert!(in_buffers >= 2);
    assert_eq!(taken(&["--threads"]), in_buffers + 1);
    assert_eq!(taken(&[]), in_buffers + 8);
}

#[test]
fn sa_restart_keeps_a_signal_from_a_blocked_send_and_from_no_poll() {
    let summary = summary(&["--signal"]);
    let cases: Vec<_> = summary["cases"].as_array().expect("cases").iter().collect();
    let heard: Vec<_> = cases
        .iter()
        .map(|case| {
            (case["sleeps_in"].as_str(), case["sa_restart"].as_bool(), case["heard_after_ms"].is_f64())
        })
        .collect();
    assert_eq!(
        heard,
        [
            (Some("send"), Some(true), false),
            (Some("send"), Some(false), true),
            (Some("poll"), Some(true), true),
            (Some("poll"), Some(false), true),
        ]
    );
}

#[test]
fn one_server_at_a_time() {
    Running::start(PROGRAM, &["--flip-flop", "--threads"]).end().refused(2, "--threads");
    Running::start(PROGRAM, &["--signal", "--threads"]).end().refused(2, "--signal");
    Running::start(PROGRAM, &["--pings", "0"]).end().refused(2, "from 1 to");
    Running::start(PROGRAM, &["--patience", "0s"]).end().refused(2, "longer than nothing");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(PROGRAM, &[]);
    survives_without_an_audience(PROGRAM, &["--signal", "--patience", "50ms"]);
}
