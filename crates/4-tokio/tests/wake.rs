//! What the page of tokio-wake claims, asked of the program.

use harness::demo::{Running, survives_without_an_audience};
use serde_json::Value;

const WAKE: &str = env!("CARGO_BIN_EXE_tokio-wake");

/// The wakes and the writes of the two runtimes: current-thread, multi-thread.
fn counts(summary: &Value) -> [(u64, u64); 2] {
    let runtimes = summary["runtimes"].as_array().expect("runtimes");
    let count =
        |runtime: &Value, name: &str| runtime[name].as_u64().unwrap_or_else(|| panic!("{name}: {runtime}"));
    let counts: Vec<_> =
        runtimes.iter().map(|runtime| (count(runtime, "wakes"), count(runtime, "writes"))).collect();
    counts.try_into().unwrap_or_else(|counts| panic!("two runtimes: {counts:?}"))
}

#[test]
fn a_busy_current_thread_runtime_is_written_to_and_a_busy_worker_is_not() {
    if std::fs::read_to_string("/proc/thread-self/io").is_err() {
        return eprintln!("skipped: this kernel does not count the calls of write");
    }
    let ended = Running::start(WAKE, &["--wakes", "200", "--json"]).end();
    let [current, multi] = counts(&ended.summary());
    assert_eq!(current, (200, 200), "a current-thread runtime is written to while it is busy");
    assert_eq!(multi, (200, 0), "a worker that is busy is not");
    assert_eq!(ended.stdout.len(), 3, "a line for each count, and the summary");
}

#[test]
fn it_counts_as_strace_does() {
    const WAKES: u64 = 50;
    let Some(program) = Running::traced("write", WAKE, &["--wakes", "50", "--json"]) else { return };
    let ended = program.end();
    let counted: u64 = counts(&ended.summary()).iter().map(|count| count.1).sum();
    let seen = ended.trace.eventfd_writes() as u64;
    // The runtimes also write to themselves, when they are set up and when they end.
    assert!((counted..=counted + WAKES).contains(&seen), "{counted} counted, {seen} in the trace");
}

#[test]
fn what_cannot_be_done_is_refused() {
    Running::start(WAKE, &["--wakes", "0"]).end().refused(2, "from 1 to");
    Running::start(WAKE, &["multi"]).end().refused(2, "multi");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(WAKE, &["--wakes", "10", "--json"]);
}
