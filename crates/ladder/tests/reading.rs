//! What needs no strace: `list`, `diff`, `check`, `bench`, wrong usage; and what the others say without it.

mod tool;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use harness::demo::must;
use harness::{eventually, proc};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;
use serde_json::Value;
use tool::{Launch, is_there, ladder, run, server};

const RUNGS: [&str; 13] = [
    "echo-blocking",
    "echo-libc",
    "echo-select",
    "echo-poll",
    "echo-epoll-level",
    "echo-epoll-edge",
    "echo-mio-level",
    "echo-mio-edge",
    "echo-mini",
    "echo-tokio-ready",
    "echo-tokio",
    "echo-tokio-mpsc",
    "echo-tokio-framed",
];

#[test]
fn list_names_the_rungs_in_ladder_order() {
    let said = ladder(&["list"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("rung  program"), "{}", said.out);
    let places: Vec<usize> = RUNGS
        .iter()
        .map(|rung| {
            let is_row = |line: &str| line.split_ascii_whitespace().nth(1) == Some(rung);
            said.out.lines().position(is_row).unwrap_or_else(|| panic!("{rung} is missing in:\n{}", said.out))
        })
        .collect();
    assert!(places.is_sorted(), "the ladder is out of order:\n{}", said.out);
}

#[test]
fn list_as_json_says_what_a_rung_waits_in_and_what_is_new() {
    let said = ladder(&["list", "--echo", "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let rows: Value = serde_json::from_str(&said.out).expect("one JSON array");
    let poll = rows
        .as_array()
        .expect("an array")
        .iter()
        .find(|row| row["program"] == "echo-poll")
        .expect("a row for echo-poll");
    assert_eq!(poll["waits_in"], "poll(2)");
    assert_eq!(poll["source"], "crates/1-readiness/src/bin/echo-poll.rs");
    assert!(poll["new_idea"].as_str().is_some_and(|idea| !idea.is_empty()), "{poll}");
    assert!(poll["lines"].as_u64().is_some_and(|lines| (20..=150).contains(&lines)), "{poll}");
}

#[test]
fn list_as_markdown_is_a_table() {
    let said = ladder(&["list", "--markdown"]);
    assert!(said.out.starts_with("| rung | program |"), "{}", said.out);
}

/// What the tool prints to a terminal of so many columns.
fn on_a_terminal(args: &[&str], columns: u16) -> String {
    let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    let mut tool = Command::new(env!("CARGO_BIN_EXE_ladder"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(slave)
        .spawn()
        .expect("the tool starts");
    // The terminal is read while the tool writes; that it was closed is an error of the read.
    let reader = thread::spawn(move || {
        let (mut master, mut bytes, mut chunk) = (File::from(master), Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = master.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8(bytes).expect("UTF-8").replace("\r\n", "\n")
    });
    let status = tool.wait().expect("the tool ends");
    assert!(status.success(), "{args:?}: {status}");
    reader.join().expect("the reader of the terminal")
}

#[test]
fn tables_fit_the_terminal() {
    let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    for args in [&["list"][..], &["list", "--echo"], &["break"]] {
        let said = ladder(args);
        assert!(widest(&said.out) <= 80, "{args:?} without a terminal: {}", said.out);
        for columns in [70, 80, 120] {
            let text = on_a_terminal(args, columns);
            assert!(widest(&text) <= columns.into(), "{args:?} on {columns} columns:\n{text}");
        }
        let wide = on_a_terminal(args, 500);
        let narrow = on_a_terminal(args, 70);
        assert!(wide.lines().count() < narrow.lines().count(), "{args:?}: {wide}\n{narrow}");
        // The same words in another place.
        let words = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_string).collect();
            words.sort();
            words
        };
        assert_eq!(words(&wide), words(&narrow), "{args:?}");
    }
    let wide = on_a_terminal(&["list", "--echo"], 500);
    assert!(wide.lines().all(|line| !line.starts_with(' ')), "a row is a line:\n{wide}");
}

#[test]
fn diff_of_neighbours_shows_the_wait() {
    let said = ladder(&["diff", "echo-select", "echo-poll"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("--- crates/1-readiness/src/bin/echo-select.rs\n+++ "), "{}", said.out);
    assert!(said.out.lines().any(|line| line.starts_with('-') && line.contains("FdSet")), "{}", said.out);
    assert!(said.out.lines().any(|line| line.starts_with('+') && line.contains("PollFd")), "{}", said.out);
    let side = ladder(&["diff", "--side-by-side", "--width", "120", "echo-select", "echo-poll"]);
    assert!(side.out.lines().all(|line| line.chars().count() <= 120), "{}", side.out);
    assert!(ladder(&["diff", "echo-poll", "echo-poll"]).out.is_empty());
}

/// The lines of a program in which it may differ from its twin on another runtime: the header, the imports, and the
/// regions `opening` and `waits`.
fn lines_of_the_runtime(source: &str) -> Vec<String> {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(source));
    let source = source.expect("the source is there");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in source.lines() {
        match line.trim() {
            "// region: opening" | "// region: waits" => inside = true,
            "// endregion: opening" | "// endregion: waits" => inside = false,
            _ if inside || line.starts_with("//! ") || line.starts_with("use ") => {
                lines.push(line.to_owned())
            }
            _ => {}
        }
    }
    assert!(!inside && lines.len() < 50, "{lines:#?}");
    lines
}

#[test]
fn echo_tokio_ready_differs_from_echo_mini_in_imports_opening_and_waits() {
    let said = ladder(&["diff", "echo-mini", "echo-tokio-ready"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let mut lines = said.out.lines();
    let mut allowed = |sign| {
        let source = lines.next().expect("a header").split_once(' ').expect("a name").1;
        (sign, lines_of_the_runtime(source))
    };
    let allowed = [allowed('-'), allowed('+')];
    let mut changes = 0;
    for line in lines {
        for (sign, allowed) in &allowed {
            if let Some(changed) = line.strip_prefix(*sign) {
                changes += 1;
                assert!(
                    allowed.iter().any(|line| line == changed),
                    "not a line of the runtime: {line}\n{}",
                    said.out
                );
            }
        }
    }
    assert!(changes > 0, "{}", said.out);
}

#[test]
fn wrong_usage_is_two_and_says_what_to_do() {
    for (args, hint) in [
        (&["trace", "echo-pol"][..], "did you mean echo-poll"),
        (&["compare", "--with", "nameless {addr}"], "NAME='COMMAND"),
        (&["compare", "--with", "x=socat"], "{addr}"),
        (&["bench", "--peers", "9", "--window", "8"], "--peers 9"),
        (&["bench", "--rounds", "0"], "--rounds"),
        (&["check", "mio-empty"], "mio-empty"),
        (&["check", "echo-poll", "--only", "R999"], "R999"),
        (&["check", "--", "socat"], "{addr}"),
        (&["check"], "Usage"),
        (&["docs", "docs/no-such-page.md"], "no-such-page"),
        (&["climb"], "climb"),
        (&[], "Usage"),
    ] {
        let said = ladder(args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.err.contains(hint), "{args:?}: {}", said.err);
        assert!(said.out.is_empty(), "{args:?}: {}", said.out);
    }
    assert_eq!(ladder(&["--help"]).code, Some(0));
    assert_eq!(ladder(&["--version"]).code, Some(0));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let tool = env!("CARGO_BIN_EXE_ladder");
    let said = run(Launch::new("bash").args(["-c", &format!("set -o pipefail; {tool} list | head -1")]));
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn without_strace_the_package_is_named_and_the_rest_works() {
    // Everything that the tool starts is built before strace is taken away together with cargo.
    assert_eq!(
        ladder(&["bench", "--dev", "--rounds", "1", "--duration", "1ms", "--pings", "1", "echo-poll"]).code,
        Some(0)
    );
    let bare = |args: &[&str]| run(tool::tool(args).env("PATH", env!("CARGO_MANIFEST_DIR")));
    for args in [&["trace", "echo-poll"][..], &["compare", "echo-poll"], &["list", "--calls"]] {
        let said = bare(args);
        assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
        assert!(said.err.contains("apt-get install strace"), "{args:?}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{args:?}: one clear line: {}", said.err);
    }
    assert_eq!(bare(&["list"]).code, Some(0));
    assert_eq!(bare(&["diff", "echo-poll", "echo-select"]).code, Some(0));
    let said = bare(&["check", "echo-poll", "--only", "R01"]);
    assert!(said.code == Some(0) && said.out.contains("R01"), "{said:?}");
    let said = bare(&[
        "bench",
        "--dev",
        "--rounds",
        "1",
        "--duration",
        "10ms",
        "--pings",
        "10",
        "--json",
        "echo-poll",
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    assert_eq!(report["programs"][1]["system_calls_per_datagram"], Value::Null);
}

#[test]
fn bench_reports_every_figure_and_the_loss() {
    let (good, lossy) = (server("echo.py"), server("lossy.py"));
    let (good, lossy) = (
        format!("py=python3 '{good}' {{host}} {{port}}"),
        format!("lossy=python3 '{lossy}' {{host}} {{port}}"),
    );
    let mut args = vec!["bench", "--dev", "--rounds", "2", "--duration", "20ms", "--pings", "50", "--json"];
    args.extend(["--window", "8", "--peers", "2", "echo-epoll-edge"]);
    if is_there("python3") {
        args.extend(["--with", &good]);
    }
    let said = ladder(&args);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    assert_eq!((&report["profile"], &report["window"]), (&Value::from("dev"), &Value::from(8)));
    let programs = report["programs"].as_array().expect("an array");
    assert_eq!(programs[0]["program"], "echo-blocking", "the reference always runs");
    for row in programs {
        for figure in ["cpu_ns_per_datagram", "echoes_per_second", "round_trip_p50_us", "peak_memory_kib"] {
            for field in ["median", "min", "max", "ratio"] {
                assert!(
                    row[figure][field].as_f64().is_some_and(|value| value > 0.0),
                    "{figure} {field}: {row}"
                );
            }
            assert!(row[figure]["min"].as_f64() <= row[figure]["median"].as_f64(), "{figure}: {row}");
            assert!(row[figure]["median"].as_f64() <= row[figure]["max"].as_f64(), "{figure}: {row}");
        }
        assert_eq!((&row["lost"], &row["wrong"]), (&Value::from(0), &Value::from(0)), "{row}");
    }
    assert_eq!(programs[0]["cpu_ns_per_datagram"]["ratio"], 1.0);
    if Path::new("/usr/bin/strace").exists() {
        // Two for a datagram, and a wait now and then.
        let calls = programs[1]["system_calls_per_datagram"].as_f64().expect("a count");
        assert!((2.0..=6.0).contains(&calls), "{calls}");
    }
    if is_there("python3") {
        // One round of few datagrams: the windows of a lossy server end by giving up.
        let said = ladder(&[
            "bench",
            "--dev",
            "--rounds",
            "1",
            "--duration",
            "1ms",
            "--pings",
            "0",
            "--json",
            "--window",
            "4",
            "echo-blocking",
            "--with",
            &lossy,
        ]);
        // It cannot even be asked for single datagrams if every fourth is lost; whatever it is, it is reported.
        let seen = said.code == Some(1) || {
            let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
            report["programs"][1]["lost"].as_u64().is_some_and(|lost| lost > 0)
        };
        assert!(seen, "{said:?}");
    }
}

#[test]
fn bench_of_a_dev_build_says_that_it_measures_the_release() {
    let tool = env!("CARGO_BIN_EXE_ladder");
    if !Path::new(tool).parent().is_some_and(|folder| folder.ends_with("debug")) {
        return;
    }
    // No cargo can be started, so that it stops where it would build; unless nothing is left to build.
    let args = ["bench", "--rounds", "1", "--duration", "1ms", "--pings", "1", "echo-blocking"];
    let said = run(Launch::new(tool).args(args).env("CARGO", "/nowhere/cargo"));
    assert!(said.err.contains("release builds"), "{said:?}");
}

#[test]
fn told_to_end_it_takes_its_servers_along() {
    let patience = Duration::from_secs(300);
    let args = ["bench", "--dev", "--rounds", "1000000", "--duration", "10s", "echo-poll"];
    let tool = must(tool::tool(&args).patience(patience).start());
    let is_server = |pid: &u32| {
        // The reference takes its turn first.
        proc::status(*pid).is_some_and(|status| status.name == "echo-blocking")
    };
    let started = must(eventually("a server is started", patience, || {
        let started: Vec<u32> = tool.pids().into_iter().filter(is_server).collect();
        (!started.is_empty()).then_some(started)
    }));
    must(tool.signal(Signal::SIGTERM));
    let ended = must(tool.finish());
    assert_eq!(ended.code(), Some(128 + 15), "{ended:?}");
    for pid in started {
        let gone = || matches!(proc::state(pid), None | Some('Z')).then_some(());
        must(eventually("the server has ended", patience, gone));
    }
}

#[test]
fn check_holds_a_rung_and_anybodys_server_against_the_contract() {
    let said = ladder(&["check", "echo-poll", "--only", "R01"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("R01  holds"), "{}", said.out);
    if is_there("python3") {
        let said =
            ladder(&["check", "--only", "R01", "--", "python3", &server("echo.py"), "{host}", "{port}"]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    if is_there("socat") {
        // A pipe knows no empty datagram, and socat's buffer ends at 8192 bytes.
        let said = ladder(&["check", "--only", "R01", "--", "socat", "UDP4-RECVFROM:{port},fork", "PIPE"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(
            said.out.contains("FAILS") && said.out.contains(" 0 hold, 1 fail") || said.out.contains("1 fail")
        );
    }
}

#[test]
fn every_rung_has_a_header_of_the_projects_form() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let said = ladder(&["list", "--echo", "--json"]);
    let rows: Value = serde_json::from_str(&said.out).expect("one JSON array");
    for row in rows.as_array().expect("an array") {
        let source = row["source"].as_str().expect("a path");
        let text = fs::read_to_string(root.join(source)).expect("the source of a rung");
        for key in ["New here:", "Run:", "Poke:", "Watch:", "Expect:", "Still wrong:"] {
            assert!(text.contains(&format!("//! {key}")), "{source} has no line `{key}`");
        }
    }
}
