//! What the page of tokio-cancel claims, asked of the programs.

#![forbid(unsafe_code)]

use harness::demo::{CALLS, Running, survives_without_an_audience};
use serde_json::Value;

const CANCEL: &str = env!("CARGO_BIN_EXE_tokio-cancel");
const CALLS_TRIED: &str = env!("CARGO_BIN_EXE_tokio-cancel-calls");

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

/// What became of 1,000 datagrams or frames, with a tick in every `every`th.
fn outcomes(part: &str, every: &str) -> Vec<Value> {
    let summary = Running::start(CANCEL, &[part, "--every", every, "--json"]).end().summary();
    let outcomes = summary["outcomes"].as_array().expect("outcomes").clone();
    for outcome in &outcomes {
        assert_eq!(number(&outcome["sent"]), 1000, "{outcome}");
        assert_eq!(number(&outcome["ticks"]), 1000 / every.parse::<u64>().expect("a number"), "{outcome}");
    }
    outcomes
}

/// How many of a thousand were lost, by cure.
fn lost(outcomes: &[Value]) -> Vec<(&str, u64)> {
    let lost = |outcome: &Value| 1000 - number(&outcome["good"]);
    outcomes.iter().map(|outcome| (outcome["cure"].as_str().expect("a name"), lost(outcome))).collect()
}

#[test]
fn each_tick_into_the_second_await_takes_a_datagram_and_no_cure_loses_one() {
    for (every, ticks) in [("10", 100), ("100", 10)] {
        let outcomes = outcomes("datagrams", every);
        let cures = ["handler", "reserve", "held", "task", "token"].map(|cure| (cure, 0));
        assert_eq!(lost(&outcomes), [&[("none", ticks), ("abort", ticks)], &cures[..]].concat());
        for outcome in &outcomes {
            // The kernel dropped none: the server had each of them in its hands.
            assert_eq!(number(&outcome["received"]), 1000, "{outcome}");
            // While the handler waits for room, nobody listens to the other branch.
            let at_once = if outcome["cure"] == "handler" { 0 } else { ticks };
            assert_eq!(number(&outcome["heard_at_once"]), at_once, "{outcome}");
        }
    }
}

#[test]
fn one_tick_into_read_exact_tears_all_frames_after_it_and_no_cure_tears_one() {
    for (every, expected) in [("10", 991), ("100", 901)] {
        let outcomes = outcomes("frames", every);
        assert_eq!(lost(&outcomes), [("none", expected), ("held", 0), ("task", 0), ("framed", 0)]);
        let begin = outcomes[0]["first_torn"].as_str().expect("a torn frame");
        assert!(begin.starts_with(&format!("{every:0>6}]")), "it begins with its eighth byte: {begin}");
        for outcome in &outcomes {
            assert_eq!(number(&outcome["heard_at_once"]), number(&outcome["ticks"]), "{outcome}");
        }
    }
}

/// From outside: what the sockets took and gave.
#[test]
fn the_trace_shows_the_receives_and_the_sends_that_are_missing() {
    for (cure, answers) in [("none", 900), ("held", 1000)] {
        let args = ["datagrams", "--cure", cure, "--json"];
        let Some(program) = Running::traced(CALLS, CANCEL, &args) else { return };
        let ended = program.end();
        ended.summary();
        let calls = |name: &str| {
            ended.trace.calls(|call| call.starts_with(name) && !call.contains("= -1 EAGAIN")).len()
        };
        // The server receives all and answers some; the client sends all and receives the answers.
        assert_eq!((calls("sendto("), calls("recvfrom(")), (1000 + answers, 1000 + answers), "{cure}");
    }
}

/// From outside: a codec reads as much as there is, and so needs no receive to find out that nothing is left.
#[test]
fn a_codec_halves_the_receives() {
    let receives = |cure: &str| {
        let program = Running::traced(CALLS, CANCEL, &["frames", "--cure", cure, "--json"])?;
        let ended = program.end();
        ended.summary();
        Some(ended.trace.count("recvfrom"))
    };
    let (Some(held), Some(framed)) = (receives("held"), receives("framed")) else { return };
    assert!((2_000..2_300).contains(&held), "two for each frame: {held}");
    assert!((1_000..1_300).contains(&framed), "one for each frame: {framed}");
}

#[test]
fn the_tick_drops_the_future_that_holds_the_datagram() {
    for (cure, dropped) in
        [("none", true), ("abort", true), ("held", false), ("task", false), ("token", false)]
    {
        let args = ["datagrams", "--cure", cure, "--count", "3", "--every", "3", "--marks", "--json"];
        let Some(program) = Running::traced(CALLS, CANCEL, &args) else { return };
        let ended = program.end();
        let marks = ended.trace.marks();
        let at = |mark: &str| {
            marks.iter().position(|made| *made == mark).unwrap_or_else(|| panic!("{mark}: {marks:?}"))
        };
        let meanwhile = &marks[at("tick")..at("room")];
        assert_eq!(meanwhile.contains(&"drop receive"), dropped, "{cure}: {meanwhile:?}");
    }
}

#[test]
fn each_call_costs_what_tokio_s_documentation_says() {
    let ended = Running::start(CALLS_TRIED, &["--json"]).end();
    let summary = ended.summary();
    let calls = summary["calls"].as_array().expect("calls");
    let costs: Vec<_> = calls
        .iter()
        .map(|call| {
            (call["call"].as_str().expect("a name"), number(&call["cancelled"]), number(&call["cost"]))
        })
        .collect();
    let expected = [
        ("UdpSocket::recv_from", 0),
        ("TcpListener::accept", 0),
        ("mpsc::Receiver::recv", 0),
        ("mpsc::Sender::send", 100),
        ("mpsc::Sender::reserve", 0),
        ("AsyncReadExt::read", 0),
        ("AsyncReadExt::read_exact", 200),
        ("AsyncBufReadExt::read_line", 200),
        ("AsyncBufReadExt::read_until", 0),
        ("Lines::next_line", 0),
        ("AsyncWriteExt::write_all", 200),
        ("Mutex::lock", 100),
        ("Semaphore::acquire", 100),
        ("Notify::notified", 100),
    ];
    assert_eq!(costs, expected.map(|(call, cost)| (call, 100, cost)));
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    Running::start(CANCEL, &["--every", "2"]).end().refused(2, "from 3 to 200");
    Running::start(CANCEL, &["datagrams", "--cure", "framed"]).end().refused(2, "datagrams knows");
    Running::start(CANCEL, &["--count", "0"]).end().refused(2, "from 1 to");
    Running::start(CALLS_TRIED, &["--cancels", "0"]).end().refused(2, "from 1 to");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(CANCEL, &["--count", "20", "--json"]);
    survives_without_an_audience(CALLS_TRIED, &["--cancels", "1"]);
}
