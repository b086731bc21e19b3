//! What strace shows: `trace`, `compare`, `docs`.

mod tool;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tool::{Launch, is_there, ladder, run, server};

/// The calls of a transcript, by name, `= EAGAIN` after those that would have blocked.
fn calls(transcript: &str) -> Vec<String> {
    transcript
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .map(|line| {
            let name = line.split('(').next().unwrap_or_default();
            if line.contains("= -1 EAGAIN") { format!("{name} = EAGAIN") } else { name.to_string() }
        })
        .collect()
}

#[test]
fn a_transcript_is_what_the_header_of_the_rung_expects() {
    if !is_there("strace") {
        return;
    }
    let said = ladder(&["trace", "--burst", "0", "echo-epoll-level"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(calls(&said.out), ["epoll_wait", "recvfrom", "recvfrom = EAGAIN", "sendto"], "{}", said.out);
    assert!(said.out.starts_with("* ready\n> client-1 sends \"hello\"\n"), "{}", said.out);
    assert!(said.out.contains("recvfrom(socket, \"hello\", 65508, 0, client-1) = 5\n"), "{}", said.out);
}

#[test]
fn a_transcript_is_the_same_every_time() {
    if !is_there("strace") {
        return;
    }
    for rung in ["echo-blocking", "echo-select", "echo-mio-level", "echo-tokio"] {
        let once = ladder(&["trace", rung]);
        assert_eq!(once.code, Some(0), "{once:?}");
        let again = ladder(&["trace", rung]);
        assert_eq!(once.out, again.out, "{rung}");
        for varying in ["127.0.0.1", "0x", "htons"] {
            assert!(!once.out.contains(varying), "{rung} shows {varying}:\n{}", once.out);
        }
    }
}

#[test]
fn a_raw_transcript_keeps_what_varies() {
    if !is_there("strace") {
        return;
    }
    let said = ladder(&["trace", "--raw", "echo-poll"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("sin_port=htons("), "{}", said.out);
    assert!(said.out.contains("recvfrom(3, "), "{}", said.out);
}

#[test]
fn start_up_and_shutdown_are_shown_when_asked_for() {
    if !is_there("strace") {
        return;
    }
    let said = ladder(&["trace", "--start-up", "--shutdown", "--burst", "0", "echo-epoll-edge"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for line in [
        "epoll_create1(EPOLL_CLOEXEC) = epoll",
        "= signals, signals-writer",
        "--- SIGTERM ---",
        "write(signals-writer, \"X\", 1) = 1",
        "* shutdown",
        "+++ exited with 0 +++",
    ] {
        assert!(said.out.contains(line), "{line} is missing:\n{}", said.out);
    }
}

#[test]
fn the_claims_hold_for_every_rung() {
    if !is_there("strace") {
        return;
    }
    let said = ladder(&["compare", "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    assert_eq!(report["broken"], Value::Array(vec![]));
    let total = |program: &str, phase: &str| -> u64 {
        let rows = report["programs"].as_array().expect("an array");
        let row = rows.iter().find(|row| row["program"] == program).expect("a row for each rung");
        let calls = row[phase]["calls"].as_object().expect("counts by name");
        calls.values().filter_map(Value::as_u64).sum()
    };
    assert_eq!(total("echo-blocking", "one_at_a_time"), 2 * 8);
    assert_eq!(total("echo-poll", "one_at_a_time"), 4 * 8);
    assert_eq!(total("echo-epoll-edge", "one_at_a_time"), 4 * 8);
    assert_eq!(total("echo-mio-level", "one_at_a_time"), 5 * 8);
    assert_eq!(total("echo-blocking", "burst_64"), 2 * 64);
    assert!(total("echo-poll", "burst_64") <= 2 * 64 + 4);
    assert_eq!(total("echo-tokio", "idle_second"), 0);
    assert!(total("echo-poll", "start_up") > 0);
}

#[test]
fn polls_stand_beside_system_calls_for_many_sockets() {
    if !is_there("strace") {
        return;
    }
    let said = ladder(&["compare", "--json", "tokio-multisocket-join", "tokio-multisocket-spawn"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    assert_eq!((&report["programs"], &report["broken"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    let rows = report["many_sockets"].as_array().expect("an array");
    let polls: Vec<_> = rows.iter().map(|row| (row["sockets"].as_u64(), row["polls"].as_u64())).collect();
    assert_eq!(rows.len(), 6, "two demos, three numbers of sockets: {polls:?}");
    let per_datagram: Vec<_> = rows
        .iter()
        .map(|row| row["polls"].as_f64().expect("polls") / row["datagrams"].as_f64().expect("datagrams"))
        .map(|polls| polls.round() as u64)
        .collect();
    assert_eq!(per_datagram, [10, 30, 1, 1, 1, 1]);
    let said = ladder(&["compare", "tokio-multisocket-none"]);
    assert_eq!(said.code, Some(2), "{said:?}");
}

#[test]
fn a_foreign_server_stands_beside_the_rungs() {
    if !is_there("strace") || !is_there("python3") {
        return;
    }
    let with = format!("py=python3 '{}' {{host}} {{port}}", server("echo.py"));
    let said = ladder(&["compare", "--no-start-up", "echo-poll", "--with", &with]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let row = said.out.lines().find(|line| line.starts_with("py ")).expect("a row for it");
    assert_eq!(row.split_ascii_whitespace().collect::<Vec<_>>(), ["py", "-", "1", "1", "2"], "{}", said.out);
    let markdown = ladder(&["compare", "--markdown", "--no-start-up", "echo-poll"]);
    assert!(markdown.out.starts_with("**One at a time"), "{}", markdown.out);
}

#[test]
fn a_server_that_loses_or_garbles_breaks_the_comparison() {
    if !is_there("strace") || !is_there("python3") {
        return;
    }
    let with = format!("lossy=python3 '{}' {{host}} {{port}}", server("lossy.py"));
    let said = ladder(&["compare", "echo-blocking", "--with", &with]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("lossy: burst of 64:"), "{}", said.err);
    assert!(!said.err.contains("echo-blocking:"), "{}", said.err);
}

/// A page of one test, removed when it is over.
struct Page(PathBuf);

impl Page {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ladder-{}-{name}.md", std::process::id()));
        fs::write(&path, text).expect("a page in the folder for temporary files");
        Page(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).expect("the page")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn docs_records_and_finds_drift() {
    if !is_there("strace") {
        return;
    }
    let page = Page::new(
        "whole",
        "# Page\n<!-- ladder: trace --burst 0 echo-poll -->\n<!-- ladder: end -->\ntext\n\
         <!-- ladder: region crates/1-readiness/src/bin/echo-poll.rs wait -->\nold\n<!-- ladder: end -->\n\
         <!-- ladder: file .rustfmt.toml -->\n<!-- ladder: end -->\n\
         <!-- ladder: diff echo-select echo-poll -->\n<!-- ladder: end -->\n\
         <!-- ladder: compare echo-blocking -->\n<!-- ladder: end -->\n\
         <!-- ladder: run mio-pipe wake -->\n<!-- ladder: end -->\n\
         <!-- ladder: strace mio-empty --timeout 100ms -->\n<!-- ladder: end -->\n",
    );
    let said = ladder(&["docs", "--check", page.path()]);
    assert_eq!(said.code, Some(1), "an empty block is drift: {said:?}");
    assert!(said.out.contains("+$ cargo ladder trace --burst 0 echo-poll"), "{}", said.out);
    assert!(said.err.contains("mend the pages with: cargo ladder docs "), "{}", said.err);
    let said = ladder(&["docs", page.path()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let recorded = page.text();
    for expected in [
        "```text\n$ cargo ladder trace --burst 0 echo-poll\n* ready\n",
        "```rust\nwhile service.serving(queue) {\n",
        "```text\n# Lines as wide",
        "```diff\n--- crates/1-readiness/src/bin/echo-select.rs\n",
        "| echo-blocking | 1 | 1 | 2 |\n",
        "$ cargo run --bin mio-pipe -- wake\n",
        "epoll_create1(EPOLL_CLOEXEC) = epoll\n",
    ] {
        assert!(recorded.contains(expected), "{expected:?} is missing in:\n{recorded}");
    }
    assert!(!recorded.contains("\nold\n") && recorded.contains("\ntext\n"), "{recorded}");
    let said = ladder(&["docs", "--check", page.path()]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    fs::write(&page.0, recorded.replace("sendto(socket", "sendto(sock")).expect("the page changed by hand");
    let said = ladder(&["docs", "--check", page.path()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let drift = "-  sendto(sock, \"hello\", 5, MSG_NOSIGNAL, client-1) = 5\n+  sendto(socket, \"hello\"";
    assert!(said.out.contains(drift), "{}", said.out);
}

#[test]
fn a_change_that_breaks_a_rung_is_recorded() {
    if !is_there("strace") {
        return;
    }
    let page = Page::new("break", "<!-- ladder: break echo-epoll-edge -->\n<!-- ladder: end -->\n");
    let said = ladder(&["docs", page.path()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let recorded = page.text();
    for expected in [
        "-        let left_over = readable && queue.has_room();\n+        let left_over = false;\n",
        "ladder: echo-epoll-edge: burst of 64: 32 of 64 echoes came back whole and in order\n",
    ] {
        assert!(recorded.contains(expected), "{expected:?} is missing in:\n{recorded}");
    }
}

#[test]
fn break_makes_the_copy_and_shows_the_fault() {
    if !is_there("strace") {
        return;
    }
    let said = ladder(&["break", "echo-poll"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for expected in [
        "--- crates/1-readiness/src/bin/echo-poll.rs\n",
        "-            let mut budget = service.budget();\n+            let mut budget = 1;\n",
        "$ cargo ladder compare echo-poll\nladder: echo-poll: one at a time: poll, recvfrom, sendto for 8 of 8 datagrams",
    ] {
        assert!(said.out.contains(expected), "{expected:?} is missing in:\n{}", said.out);
    }
    // The copy stays where it is said to lie.
    let path = |what: &str| {
        let line = said.out.lines().find_map(|line| line.strip_prefix(what));
        PathBuf::from(line.unwrap_or_else(|| panic!("no line {what:?} in:\n{}", said.out)).trim())
    };
    let source = fs::read_to_string(path("the changed source:")).expect("the changed source");
    assert!(source.contains("let mut budget = 1;"), "{source}");
    let help = run(Launch::new(path("the changed program:").display()).args(["--help"]));
    assert!(help.code == Some(0) && help.out.contains("echo-poll"), "{help:?}");

    let said = ladder(&["break"]);
    assert!(said.code == Some(0) && said.out.contains("echo-tokio-framed-sink"), "{said:?}");
    let said = ladder(&["break", "mio-empty"]);
    assert!(said.code == Some(2) && said.err.contains("there are echo-blocking"), "{said:?}");
}

#[test]
fn a_marker_that_makes_no_sense_names_its_line() {
    for (marker, hint) in [
        ("trace echo-pol", "did you mean echo-poll"),
        ("dance echo-poll", "none of trace"),
        ("region crates/no-such-file.rs x", "no-such-file"),
        ("region crates/1-readiness/src/bin/echo-poll.rs no-such-region", "no-such-region"),
        ("file docs/no-such-file.txt", "no-such-file"),
        ("break mio-empty", "mio-empty"),
    ] {
        let page = Page::new("wrong", &format!("\n<!-- ladder: {marker} -->\n<!-- ladder: end -->\n"));
        let said = ladder(&["docs", "--check", page.path()]);
        assert_eq!(said.code, Some(1), "{marker}: {said:?}");
        assert!(said.err.contains("line 2") && said.err.contains(hint), "{marker}: {}", said.err);
    }
    let page = Page::new("open", "<!-- ladder: list -->\n");
    let said = ladder(&["docs", "--check", page.path()]);
    assert!(said.code == Some(1) && said.err.contains("ladder: end"), "{said:?}");
}

#[test]
fn it_works_from_any_folder_of_the_checkout() {
    let tool = env!("CARGO_BIN_EXE_ladder");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let said = run(Launch::new(tool).args(["list", "--echo"]).in_folder(source));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("echo-poll"), "{}", said.out);
}
