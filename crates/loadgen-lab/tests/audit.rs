//! `loadgen audit` passes loadgen and a generator without fault, and catches four that lie, each by its own rows.

mod common;

/// The rows that fail, by name, and everything that was printed.
fn audit(args: &[&str]) -> (Vec<String>, String) {
    let ended = common::loadgen(&[&["audit"], args].concat());
    let (code, text) = (ended.code(), ended.stdout);
    let failed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("FAILS"))
        .map(|line| line.split(':').next().unwrap_or_default().trim().to_owned())
        .collect();
    assert_eq!(code, Some(i32::from(!failed.is_empty())), "{text}{}", ended.stderr);
    (failed, text)
}

/// A busy machine can make any generator late: each is tried five times, and must show exactly this once.
fn fails(args: &[&str], rows: &[&str]) {
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (failed, text) = audit(args);
        if failed == rows {
            return;
        }
        seen.push(text);
    }
    panic!("{args:?}: not exactly {rows:?}, five times:\n{}", seen.join("\n"));
}

#[test]
fn loadgen_passes_its_own_audit() {
    fails(&["--self", "--rate", "100", "--duration", "2s"], &[]);
    fails(&["--self", "--rate", "200", "--duration", "2s", "--poisson"], &[]);
}

#[test]
fn each_double_fails_its_own_rows() {
    let p99 = "the 99th percentile is the one of theory";
    let max = "the maximum is the one of theory";
    let omission = "no omission while the server stands still";
    let total = "every request that arrived is in the total";
    let little = "rate times mean latency is what was in flight";
    let unanswered = "requests that were never answered are in the total";
    for (kind, rows) in [
        ("honest", &[][..]),
        ("closed", &["as many requests as were asked for", omission, p99]),
        ("bursty", &["even spacing"]),
        ("drops-timeouts", &[p99, max, total, little, unanswered]),
        ("from-release", &[omission, p99]),
    ] {
        let double = env!("CARGO_BIN_EXE_loadgen-double");
        let how = ["--total", "/total", "--mean", "/mean", "--p50", "/p50", "--p99", "/p99", "--max", "/max"];
        let ask = ["--rate", "100", "--duration", "2s"];
        fails(&[&ask[..], &how, &["--", double, kind, "{url}", "{rate}", "{duration}"]].concat(), rows);
    }
}
