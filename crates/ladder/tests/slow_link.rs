//! What the page "What does waiting for both directions buy?" claims, on a link whose sends block.

// A part of it is for other tests.
#[allow(dead_code)]
mod tool;

use serde_json::Value;
use tool::{is_there, ladder};

/// The rows of `ladder slow-link`; `None`, said on stderr, where no such link can be made.
fn rows(args: &[&str]) -> Option<Vec<Value>> {
    if !is_there("tc") || !is_there("unshare") {
        return None;
    }
    let said = ladder(&[&["slow-link", "--json"], args].concat());
    if said.err.contains("no slow link can be made here") {
        eprintln!("skipped: {}", said.err);
        return None;
    }
    // That every datagram is accounted for, and that who always reads loses nothing in the kernel, it checks itself.
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    Some(report["programs"].as_array().expect("rows").clone())
}

fn policies(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["policy"].as_str().expect("a policy")).collect()
}

fn figure(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} in {row}"))
}

#[test]
fn a_flip_flop_and_backpressure_lose_in_the_kernel_and_a_policy_in_the_queue() {
    let Some(rows) = rows(&["echo-blocking", "echo-tokio-await", "echo-select", "--datagrams", "600"]) else {
        return;
    };
    assert_eq!(
        policies(&rows),
        ["backpressure", "backpressure", "backpressure", "drop-newest", "drop-oldest"]
    );
    for row in &rows {
        let (in_kernel, in_queue) = (figure(row, "kernel_dropped"), figure(row, "queue_dropped"));
        let by_policy = row["policy"] != "backpressure";
        assert!(if by_policy { in_queue > 100.0 } else { in_kernel > 100.0 && in_queue == 0.0 }, "{row}");
    }
}

#[test]
fn with_the_queue_as_the_largest_buffer_the_oldest_dropped_leaves_fresher_echoes() {
    let args = ["echo-select", "--send-buffer", "2304", "--queue", "90", "--datagrams", "900"];
    let Some(rows) = rows(&args) else { return };
    let [_, newest, oldest] = &rows[..] else { panic!("three policies: {rows:?}") };
    assert_eq!((&newest["policy"], &oldest["policy"]), (&"drop-newest".into(), &"drop-oldest".into()));
    let (newest, oldest) = (figure(newest, "age_p50_ms"), figure(oldest, "age_p50_ms"));
    assert!(oldest < newest / 2.0, "p50: drop-oldest {oldest} ms, drop-newest {newest} ms");
}
