//! What the page of udp-drops claims, asked of the program and of the kernel's own counters.

use std::fs;

use harness::Launch;
use harness::demo::{Running, must, survives_without_an_audience};
use serde_json::{Value, json};

const DROPS: &str = env!("CARGO_BIN_EXE_udp-drops");

fn summary(args: &[&str]) -> Value {
    Running::start(DROPS, &[args, &["--json"]].concat()).end().summary()
}

fn number(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_else(|| panic!("{name}: {summary}"))
}

#[test]
fn the_first_that_fit_are_received_and_the_kernel_counts_the_others() {
    for (asked, size) in [("4096", "100"), ("8192", "100"), ("106496", "100"), ("106496", "1000")] {
        let summary = summary(&["--receive-buffer", asked, "--size", size]);
        let received = number(&summary, "received");
        // One more than fits may be let in, since the kernel looks at what is in the buffer before it adds.
        let fit = number(&summary, "buffer") / number(&summary, "datagram_takes");
        assert!((fit..=fit + 1).contains(&received), "{fit} fit: {summary}");
        assert_eq!(summary["before_the_first_loss"], json!(received), "the first ones");
        assert_eq!(summary["dropped"], json!(400 - received), "every other one is counted: {summary}");
        assert!(number(&summary, "rcvbuf_errors") >= 400 - received, "{summary}");
    }
}

#[test]
fn a_buffer_that_holds_the_burst_loses_nothing() {
    let summary = summary(&["--receive-buffer", "212992"]);
    assert_eq!((&summary["received"], &summary["dropped"]), (&json!(400), &json!(0)));
    assert_eq!(summary["before_the_first_loss"], Value::Null);
}

#[test]
fn a_datagram_takes_more_than_it_carries() {
    assert!(number(&summary(&["--burst", "1"]), "datagram_takes") > 100 * 4);
}

#[test]
fn the_kernel_doubles_what_is_asked_and_has_an_upper_bound_of_which_nobody_is_told() {
    let most = fs::read_to_string("/proc/sys/net/core/rmem_max").expect("rmem_max");
    let most: usize = most.trim().parse().expect("a number of bytes");
    for asked in [10_000, most, most + 1, most * 4] {
        let summary = summary(&["--receive-buffer", &asked.to_string(), "--burst", "1"]);
        assert_eq!(summary["buffer"], json!(2 * asked.min(most)), "asked for {asked}");
    }
}

#[test]
fn a_larger_buffer_does_not_help_who_is_too_slow_and_makes_what_is_received_older() {
    let overload = |asked| summary(&["--overload", "--burst", "4000", "--receive-buffer", asked]);
    let (small, large) = (overload("4096"), overload("212992"));
    for summary in [&small, &large] {
        let (received, dropped) = (number(summary, "received"), number(summary, "dropped"));
        assert_eq!(received + dropped, 4000, "{summary}");
        // Half of them, and what was in the buffer at the end.
        let fit = number(summary, "buffer") / number(summary, "datagram_takes");
        assert!((2000..=2000 + fit + 1).contains(&received), "{summary}");
    }
    assert!(number(&large, "behind_median") > 40 * number(&small, "behind_median"), "{small} {large}");
}

/// What a tool prints; `None`, said on stderr, where it is missing or may not.
fn said(launch: Launch) -> Option<String> {
    match launch.run() {
        Ok(ended) if ended.code() == Some(0) => Some(ended.stdout),
        Ok(ended) => {
            eprintln!("skipped: {}", ended.stderr.trim());
            None
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn ss_shows_what_a_socket_holds_and_has_dropped() {
    let mut program = must(Launch::new(DROPS).args(["--stay", "--receive-buffer", "4096"]).start());
    let port = must(program.await_greeting()).addresses[0].port();
    let shown = said(Launch::new("ss").args(["-uanm", &format!("sport = :{port}")]));
    let ended = must(program.interrupt());
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let Some(shown) = shown else { return };
    let (dropped, takes) = (dropped_by(&ended.stdout), taken_by_one(&ended.stdout));
    assert!(shown.contains("rb8192,"), "the size of the buffer: {shown}");
    assert!(shown.contains(&format!("skmem:(r{},", (400 - dropped) * takes)), "what is in it: {shown}");
    assert!(shown.contains(&format!(",d{dropped})")), "what was dropped: {shown}");
}

/// The number in "... N lost", which is the last line.
fn dropped_by(stdout: &str) -> u64 {
    let last = stdout.lines().last().unwrap_or_default();
    let number = last.strip_suffix(" lost").and_then(|line| line.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("a summary: {last:?}"))
}

/// The number in "a datagram of 100 bytes takes N of them".
fn taken_by_one(stdout: &str) -> u64 {
    let rest = stdout.split_once(" takes ").map_or("", |(_, rest)| rest);
    rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{stdout}"))
}

#[test]
fn nstat_counts_the_same_where_nobody_else_loses_anything() {
    // A network namespace of its own: the counters are those of a namespace, and begin at nothing.
    let script = "ip link set lo up && \"$1\" --receive-buffer 4096 && nstat -asz UdpRcvbufErrors";
    let unshare = ["unshare", "--user", "--map-root-user", "--net", "--", "sh", "-c", script, "sh", DROPS];
    let Some(shown) = said(Launch::new(unshare[0]).args(&unshare[1..])) else { return };
    let lines: Vec<&str> = shown.lines().collect();
    let summary = lines.iter().position(|line| line.starts_with("udp-drops: ")).expect("a summary");
    let dropped = dropped_by(&lines[..=summary].join("\n"));
    let counted = lines.iter().find_map(|line| line.strip_prefix("UdpRcvbufErrors")).expect("nstat's count");
    let counted = counted.split_whitespace().next().and_then(|number| number.parse().ok());
    assert_eq!(counted, Some(dropped), "{shown}");
}

#[test]
fn what_cannot_be_done_is_refused() {
    Running::start(DROPS, &["--burst", "0"]).end().refused(2, "from 1 to");
    Running::start(DROPS, &["--size", "7"]).end().refused(2, "from 8 to");
    Running::start(DROPS, &["--size", "65508"]).end().refused(2, "from 8 to");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(DROPS, &[]);
}
