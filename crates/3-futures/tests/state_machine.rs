//! What the page "What does `async fn` compile to?" claims, asked of state-machine.

use harness::demo::{Running, survives_without_an_audience};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_state-machine");

fn summary(args: &[&str]) -> Value {
    Running::start(PROGRAM, &[args, &["--json"]].concat()).end().summary()
}

#[test]
fn both_are_polled_alike_and_hold_the_buffer() {
    let summary = summary(&[]);
    let calls = [
        json!(["receive: not ready"]),
        json!(["receive: 5 bytes", "send: not ready"]),
        json!(["send: 5 bytes"]),
    ];
    let states = [json!("Receiving"), json!("Sending"), json!("Done")];
    for (number, (calls, state)) in calls.into_iter().zip(states).enumerate() {
        let ready = number == 2;
        assert_eq!(summary["async_fn"][number], json!({ "calls": calls, "ready": ready, "state": null }));
        assert_eq!(summary["by_hand"][number], json!({ "calls": calls, "ready": ready, "state": state }));
    }
    let [by_hand, by_compiler, receive] =
        ["enum_bytes", "async_fn_bytes", "receive_bytes"].map(|name| summary[name].as_u64().expect("a size"));
    assert!((64 + 8..64 + 64).contains(&by_hand), "the buffer of 64 bytes and some words: {by_hand}");
    assert!((64 + receive..64 + receive + 64).contains(&by_compiler), "and its receive: {by_compiler}");
}

#[test]
fn what_is_needed_after_an_await_is_in_the_future_and_nothing_else() {
    let summary = summary(&[]);
    let bytes = |name: &str| summary[name].as_u64().expect("a size");
    assert!(bytes("keeps_bytes") >= 1024, "{summary}");
    assert!(bytes("lets_go_bytes") < 128, "{summary}");
}

#[test]
fn a_move_breaks_a_self_reference_and_not_the_enum() {
    let summary = summary(&[]);
    assert_eq!(summary["points_home"], json!([true, false]));
    assert_eq!(summary["moved_enum_returned"], 5);
}

#[test]
fn a_box_is_measured_when_asked() {
    assert_eq!(summary(&[])["cost"], Value::Null);
    let cost = &summary(&["--boxed"])["cost"];
    assert!(cost["in_place_ns"].is_f64() && cost["boxed_ns"].is_f64(), "{cost}");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(PROGRAM, &[]);
}
