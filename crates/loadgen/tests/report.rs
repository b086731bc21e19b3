//! `loadgen report` and the files that results are written to.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use loadgen::record::Metric;
use loadgen::result::{Bounds, Compare, Document, Ratio, Run, Search, TrialRow, UdpCounts};
use serde_json::Value;

mod common;
use common::output;
use common::sample::{save, stalled};

/// A directory of this test's own, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("loadgen-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left there harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The JSON object that `loadgen report --json FILES` prints, which must end with `code`.
fn merged(files: &[String], code: i32) -> Value {
    let mut args = vec!["report", "--json"];
    args.extend(files.iter().map(String::as_str));
    let output = output(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

/// The values of the metric in the result field `name`, as bucket and count.
fn buckets(result: &Value, name: &str) -> Vec<(u64, u64)> {
    let summary = serde_json::from_value(result[name].clone()).expect("a summary");
    let metric = Metric::from_summary(&summary).expect("a histogram");
    metric.histogram().iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

#[test]
fn shards_merge_to_the_whole_bucket_by_bucket() {
    let directory = Directory::new("shards");
    let whole = serde_json::to_value(Document::Run(stalled(0, 1))).expect("JSON");
    let files: Vec<_> = (0..4).map(|i| save(&directory.0, &format!("{i}.json"), stalled(i, 4))).collect();
    // In whatever order they are named.
    let files = [&files[2..], &files[..2]].concat();
    let merged = merged(&files, 3);

    for metric in
        ["corrected", "uncorrected", "corrected_ok", "send_lag", "pool_wait", "connect", "first_byte", "body"]
    {
        assert_eq!(buckets(&merged, metric), buckets(&whole, metric), "{metric}");
        // The figures too, but for the encoded histogram, which may be written in more than one way.
        for figure in ["count", "mean", "p50", "p75", "p90", "p99", "p999", "max", "sum"] {
            assert_eq!(merged[metric][figure], whole[metric][figure], "{metric} {figure}");
        }
    }
    assert_eq!(merged["counts"], whole["counts"]);
    assert_eq!(merged["achieved_rate"], whole["achieved_rate"]);
    assert_eq!(merged["plan"]["rate"], whole["plan"]["rate"], "each shard knows the whole rate");
    assert_eq!(merged["plan"]["merged_shards"], serde_json::json!([0, 1, 2, 3]));
    assert_eq!(merged["slo"]["held"], false);
    let windows = |result: &Value| result["windows"].as_array().expect("windows").clone();
    assert_eq!(windows(&merged).len(), windows(&whole).len());
    for (a, b) in windows(&merged).iter().zip(&windows(&whole)) {
        assert_eq!((&a["start"], &a["ok"], &a["scheduled"]), (&b["start"], &b["ok"], &b["scheduled"]));
        assert_eq!(buckets(a, "corrected"), buckets(b, "corrected"));
    }
}

#[test]
fn a_part_that_is_missing_or_double_is_noticed() {
    let directory = Directory::new("double");
    let files: Vec<_> = (0..3).map(|i| save(&directory.0, &format!("{i}.json"), stalled(i, 4))).collect();
    let merged = merged(&files, 3);
    assert_eq!(
        merged["plan"]["merged_shards"],
        serde_json::json!([0, 1, 2]),
        "the fourth is visibly missing"
    );
    assert_eq!(merged["counts"]["scheduled"], 15_000);

    let again = save(&directory.0, "again.json", stalled(1, 4));
    let output = output(&["report", &files[1], &again]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("shard 1 of 4") && stderr.lines().count() == 1, "{stderr:?}");
}

#[test]
fn runs_at_the_same_time_add_up_and_runs_in_turn_follow_each_other() {
    let directory = Directory::new("runs");
    let first = save(&directory.0, "first.json", stalled(0, 1));
    let beside = save(&directory.0, "beside.json", Run { started: 1_700_000_001.0, ..stalled(0, 1) });
    let after = save(&directory.0, "after.json", Run { started: 1_700_000_100.0, ..stalled(0, 1) });

    let sum = merged(&[first.clone(), beside], 3);
    assert_eq!((&sum["plan"]["rate"], &sum["plan"]["duration"]), (&2000.0.into(), &20.0.into()));
    assert_eq!((&sum["achieved_rate"], &sum["counts"]["ok"]), (&2000.0.into(), &40_000.into()));
    assert_eq!(sum["windows"].as_array().map(Vec::len), Some(20));

    let sequence = merged(&[after, first], 3);
    assert_eq!((&sequence["plan"]["rate"], &sequence["plan"]["duration"]), (&1000.0.into(), &40.0.into()));
    assert_eq!((&sequence["achieved_rate"], &sequence["counts"]["ok"]), (&1000.0.into(), &40_000.into()));
    assert_eq!(sequence["windows"].as_array().map(Vec::len), Some(40));
    assert_eq!(sequence["corrected"]["p99"], sum["corrected"]["p99"]);
}

#[test]
fn the_merged_run_is_judged_anew() {
    let directory = Directory::new("judged");
    // Each half kept its own objective of 3 s; the errors are in one half and too many for both together.
    let mut good = stalled(0, 2);
    good.slo.max_latency = Some(3.0);
    (good.slo.held, good.slo.reasons) = (true, Vec::new());
    let mut bad = Run { errors: [("status_503".to_owned(), 500)].into(), ..stalled(1, 2) };
    bad.slo = good.slo.clone();
    (bad.counts.ok, bad.counts.error) = (bad.counts.ok - 500, 500);
    let good_file = save(&directory.0, "good.json", good.clone());
    let bad_file = save(&directory.0, "bad.json", bad);
    let result = merged(&[good_file.clone(), bad_file], 3);
    assert_eq!(result["slo"]["observed_error_ratio"], 0.025);
    assert_eq!(result["slo"]["reasons"].as_array().map(Vec::len), Some(1), "{}", result["slo"]);
    assert_eq!(result["errors"]["status_503"], 500);

    // And a generator that was the limit wins over everything.
    let mut late = stalled(1, 2);
    late.slo = good.slo.clone();
    (late.validity.ok, late.validity.reasons) = (false, vec!["the generator was late".to_owned()]);
    let late_file = save(&directory.0, "late.json", late);
    let result = merged(&[good_file.clone(), late_file.clone()], 4);
    assert_eq!(
        result["validity"]["reasons"],
        serde_json::json!([format!("{late_file}: the generator was late")])
    );
    merged(&[good_file], 0);
}

#[test]
fn what_cannot_be_read_or_merged_is_one_line_and_1() {
    let directory = Directory::new("bad");
    let run = save(&directory.0, "run.json", stalled(0, 1));
    let other = {
        let mut other = stalled(0, 1);
        other.plan.target = "http://127.0.0.2/".to_owned();
        save(&directory.0, "other.json", other)
    };
    let newer = save(&directory.0, "newer.json", Run { schema_version: 2, ..stalled(0, 1) });
    let garbage = directory.path("garbage.json");
    fs::write(&garbage, "{\"kind\": \"run\"").expect("written");
    let binary = directory.path("binary.json");
    fs::write(&binary, [0xff, 0xfe, 0x00]).expect("written");
    let search = directory.path("search.json");
    fs::write(&search, serde_json::to_string(&Document::Search(a_search())).expect("JSON")).expect("written");
    let missing = directory.path("missing.json");
    let damaged = {
        let mut run = stalled(1, 2);
        run.corrected.histogram.0 = "AAAA".to_owned();
        save(&directory.0, "damaged.json", run)
    };
    let half = save(&directory.0, "half.json", stalled(0, 2));
    for (files, hint) in [
        (&[&run, &other][..], "targets"),
        (&[&run, &newer], "format 2"),
        (&[&garbage], "no result"),
        (&[&binary], "cannot read"),
        (&[&missing], "missing.json"),
        (&[&run, &search], "report it alone"),
        (&[&half, &damaged], "damaged.json"),
    ] {
        let args: Vec<_> = std::iter::once("report").chain(files.iter().map(|file| file.as_str())).collect();
        let output = output(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{hint}: {stderr}");
        assert!(stderr.contains(hint) && stderr.lines().count() == 1, "no {hint:?} in {stderr:?}");
    }
    assert_eq!(output(&["report"]).status.code(), Some(2), "no file at all is wrong usage");
    let unwritable = output(&["report", &run, "--csv", "/nowhere/at/all.csv"]);
    assert_eq!(unwritable.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unwritable.stderr).contains("/nowhere/at/all.csv"));
}

#[test]
fn a_log_line_before_the_result_does_no_harm() {
    let directory = Directory::new("log");
    let file = save(&directory.0, "run.json", stalled(0, 1));
    let text = fs::read_to_string(&file).expect("read");
    fs::write(&file, format!("some log line\n{text}\n\n")).expect("written");
    assert_eq!(merged(std::slice::from_ref(&file), 3)["kind"], "run");
    let pretty = serde_json::to_string_pretty(&Document::Run(stalled(0, 1))).expect("JSON");
    fs::write(&file, pretty).expect("written");
    assert_eq!(merged(&[file], 3)["kind"], "run");
}

#[test]
fn the_tables_say_both_views_and_the_verdict() {
    let directory = Directory::new("tables");
    let file = save(&directory.0, "run.json", stalled(0, 1));
    let output = output(&["report", &file]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let row = |name: &str| {
        let row =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // name, mean, p50, p90, p99, ...: each with a unit.
    assert_eq!(row("corrected")[7..9], ["1.81", "s"], "{text}");
    assert_eq!(row("uncorrected")[7..9], ["498", "µs"], "{text}");
    assert!(text.contains("objective    VIOLATED: max 2.00 s > 1.00 s"), "{text}");
    assert!(text.contains("20000 scheduled = 20000 ok + 0 error + 0 timeout + 0 unfinished"), "{text}");
}

#[test]
fn unfinished_requests_are_marked_as_bounds() {
    let mut run = stalled(0, 1);
    let mut metric = Metric::from_summary(&run.corrected).expect("a metric");
    (0..400).for_each(|i| metric.record_censored(3_000_000_000 + i, 20_000 + i));
    run.corrected = metric.summary();
    let directory = Directory::new("censored");
    let file = save(&directory.0, "run.json", run);
    let text = String::from_utf8(output(&["report", &file]).stdout).expect("UTF-8");
    let row = text.lines().find(|line| line.starts_with("corrected")).expect("a row");
    assert!(row.contains("≥ 3.00 s") && row.contains(" 449 µs") && !row.contains("≥ 449"), "{row}");
}

#[test]
fn the_interval_log_holds_every_value_in_its_window() {
    let directory = Directory::new("hlog");
    let run = stalled(0, 1);
    let file = save(&directory.0, "run.json", stalled(0, 1));
    let log = directory.path("run.hlog");
    output(&["report", &file, "--hlog", &log]);
    let bytes = fs::read(&log).expect("the log");
    let mut sums: Vec<_> = (0..3).map(|_| Metric::new().histogram().clone()).collect();
    let (mut starts, mut base) = (Vec::new(), None);
    for entry in IntervalLogIterator::new(&bytes) {
        match entry.expect("a line of the format") {
            LogEntry::Interval(interval) => {
                let place = ["corrected", "uncorrected", "send_lag"]
                    .iter()
                    .position(|tag| interval.tag().is_some_and(|found| found.as_str() == *tag));
                let encoded = base64::engine::general_purpose::STANDARD
                    .decode(interval.encoded_histogram())
                    .expect("base64");
                let histogram =
                    Deserializer::new().deserialize::<u64, _>(&mut encoded.as_slice()).expect("V2");
                if let Some(place) = place {
                    sums[place].add(&histogram).expect("one shape");
                }
                starts.push((interval.start_timestamp(), interval.duration()));
            }
            LogEntry::BaseTime(time) => base = Some(time),
            LogEntry::StartTime(_) => {}
        }
    }
    let whole =
        [&run.corrected, &run.uncorrected, &run.send_lag].map(|s| s.histogram.decode().expect("decoded"));
    assert!(sums.iter().zip(&whole).all(|(sum, whole)| sum == whole), "the windows make up the run");
    assert_eq!(base.map(|time| time.as_secs()), Some(1_700_000_000));
    assert!(starts.is_sorted_by_key(|(start, _)| *start), "in the order of time");
    assert_eq!(starts.len(), 2 * 20 + 4, "two views of each window, and the parts that have values");
}

#[test]
fn the_percentile_text_has_the_layout_that_the_tools_read() {
    let directory = Directory::new("hgrm");
    let file = save(&directory.0, "run.json", stalled(0, 1));
    let path = directory.path("run.hgrm");
    output(&["report", &file, "--hgrm", &path]);
    let text = fs::read_to_string(&path).expect("the file");
    let mut lines = text.lines();
    let head: Vec<_> = lines.next().expect("a head").split_whitespace().collect();
    assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    assert_eq!(lines.next(), Some(""));
    let rows: Vec<Vec<f64>> = lines
        .clone()
        .take_while(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|cell| cell.parse().expect("a number")).collect())
        .collect();
    assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "all columns rise");
    let (last, before) = rows.split_last().expect("rows");
    assert!(before.iter().all(|row| row.len() == 4 && (row[3] - 1.0 / (1.0 - row[1])).abs() < 0.01));
    assert_eq!(last[1..], [1.0, 20_000.0], "the last row is everything, and has no odds");
    let p90 = before.iter().find(|row| row[1] == 0.9).expect("a row at 90 %");
    assert!((p90[0] / 80.0 - 1.0).abs() < 0.02, "in milliseconds: {p90:?}");
    let footer: Vec<_> = lines.filter(|line| line.starts_with("#[")).collect();
    assert!(footer[0].starts_with("#[Mean    = ") && footer[0].contains(", StdDeviation   = "), "{footer:?}");
    assert!(footer[1].starts_with("#[Max     = ") && footer[1].ends_with("       20000]"), "{footer:?}");
    assert!(footer[2].starts_with("#[Buckets = ") && footer[2].ends_with("        2048]"), "{footer:?}");
}

#[test]
fn the_csv_has_a_row_for_each_window() {
    let directory = Directory::new("csv");
    let file = save(&directory.0, "run.json", stalled(0, 1));
    let path = directory.path("run.csv");
    output(&["report", &file, "--csv", &path]);
    let mut csv = csv::Reader::from_path(&path).expect("the file");
    let column = {
        let head = csv.headers().expect("a head").clone();
        move |name: &str| head.iter().position(|column| column == name).unwrap_or_else(|| panic!("no {name}"))
    };
    let rows: Vec<_> = csv.records().map(|row| row.expect("a row")).collect();
    assert_eq!(rows.len(), 20);
    let sum =
        |name: &str| rows.iter().map(|row| row[column(name)].parse::<u64>().expect("a count")).sum::<u64>();
    assert_eq!((sum("scheduled"), sum("ok"), sum("corrected_count")), (20_000, 20_000, 20_000));
    assert_eq!(&rows[9][column("corrected_p50")], "", "nothing ended while the target stood still");
    let max: f64 = rows[10][column("corrected_max")].parse().expect("seconds");
    assert!((1.99..2.01).contains(&max), "{max}");
}

/// Fails unless `text` is well-formed XML, as far as elements and quotes go.
fn assert_balanced(text: &str) {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once('<') {
        assert!(!before.contains('>') || open.last() == Some(&"style"), "a loose > in {before:?}");
        let (tag, after) = tag.split_once('>').expect("each < has its >");
        rest = after;
        assert!(tag.matches('"').count().is_multiple_of(2), "quotes in <{tag}>");
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a name");
        if tag.starts_with('!') || tag.ends_with('/') || ["meta", "br"].contains(&name) {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes something else");
        } else {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

#[test]
fn the_page_needs_nothing_beside_itself() {
    let directory = Directory::new("html");
    let mut run = stalled(0, 1);
    run.plan.target = "http://127.0.0.1/?q=\"<script>alert(1)</script>&x".to_owned();
    run.windows[3].error = 7;
    let file = save(&directory.0, "run.json", run);
    let (page, svg) = (directory.path("run.html"), directory.path("run.svg"));
    output(&["report", &file, "--html", &page, "--svg", &svg]);
    let (page, svg) = [page, svg].map(|path| fs::read_to_string(path).expect("the file")).into();
    for text in [&page, &svg] {
        assert_balanced(text);
        assert!(
            !text.contains("<script") && !text.contains("src=") && !text.contains("href="),
            "self-contained"
        );
        assert!(!text.contains("NaN") && !text.contains("inf "), "no figure is missing");
        assert!(text.contains("prefers-color-scheme: dark"));
    }
    assert_eq!(page.matches("<svg ").count(), 3, "by percentile, latency over time, rate over time");
    assert!(page.contains("&lt;script&gt;"), "the target is text");
    for curve in ["corrected", "uncorrected", "p99", "scheduled", "failed", "limit 1.00 s"] {
        assert!(page.contains(&format!(">{curve}</text>")), "no curve {curve}");
    }
    assert!(page.contains("Objective violated"));
}

#[test]
fn an_empty_run_renders_too() {
    let directory = Directory::new("empty");
    let nothing = Metric::new().summary();
    let run = Run {
        corrected: nothing.clone(),
        uncorrected: nothing.clone(),
        corrected_ok: nothing.clone(),
        send_lag: nothing.clone(),
        pool_wait: nothing.clone(),
        first_byte: nothing.clone(),
        body: nothing,
        windows: Vec::new(),
        interrupted: true,
        ..stalled(0, 1)
    };
    let file = save(&directory.0, "run.json", run);
    let paths = ["html", "svg", "csv", "hlog", "hgrm"].map(|kind| directory.path(kind));
    let flags = ["--html", "--svg", "--csv", "--hlog", "--hgrm"];
    let mut args = vec!["report", file.as_str()];
    args.extend(flags.iter().zip(&paths).flat_map(|(flag, path)| [*flag, path.as_str()]));
    let output = output(&args);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("interrupted"));
    assert_balanced(&fs::read_to_string(&paths[0]).expect("the page"));
    assert_balanced(&fs::read_to_string(&paths[1]).expect("the plot"));
}

/// A search that found something.
fn a_search() -> Search {
    let trial = |phase: &str, rate: f64, verdict: &str| TrialRow {
        phase: phase.to_owned(),
        rate,
        duration: 4.0,
        seconds: 4.0,
        verdict: verdict.to_owned(),
        reasons: if verdict == "pass" { Vec::new() } else { vec!["the backlog grows".to_owned()] },
        achieved_rate: rate.min(1000.0),
        latency: Some(0.02),
        slope: Some(0.001),
        counts: stalled(0, 1).counts,
        send_lag_p99: Some(80e-6),
        drained: 0.5,
    };
    let run = stalled(0, 1);
    Search {
        schema_version: run.schema_version,
        plan: loadgen::result::Plan { rate: None, ..run.plan },
        seed: 1,
        mode: "mlr".to_owned(),
        started: run.started,
        elapsed: 100.0,
        max_latency: 0.1,
        percentile: 100.0,
        error_ratio: 0.001,
        hold: 30.0,
        width: 0.01,
        baseline: Some(0.0003),
        strict: Bounds { lower: Some(995.0), upper: Some(1004.0) },
        typical: Bounds { lower: Some(999.0), upper: None },
        conditional_throughput: Some(999.0),
        confirmed: Some(995.0),
        estimate: None,
        trials: vec![
            trial("baseline", 10.0, "pass"),
            trial("ramp", 2000.0, "fail"),
            trial("bisect", 1400.0, "invalid"),
            trial("bisect", 995.0, "pass"),
            trial("confirm", 995.0, "pass"),
        ],
        validity: run.validity,
        interrupted: false,
    }
}

fn a_comparison() -> Compare {
    let ratio = |target: &str, value| Ratio {
        target: target.to_owned(),
        mean: value,
        p50: value,
        p99: value,
        max: value,
    };
    Compare {
        schema_version: 1,
        targets: vec![stalled(0, 2), stalled(1, 2)],
        ratios: vec![ratio("a", Some(1.0)), ratio("b", None)],
        rounds: 3,
    }
}

#[test]
fn searches_and_comparisons_are_rendered() {
    let directory = Directory::new("others");
    for (name, document, words) in [
        (
            "search",
            Document::Search(a_search()),
            ["995 req/s hold max within 100 ms for 30.0 s: confirmed", "bisect"],
        ),
        ("compare", Document::Compare(a_comparison()), ["target 2", "interleaved in 3 rounds"]),
    ] {
        let file = directory.path(&format!("{name}.json"));
        fs::write(&file, serde_json::to_string(&document).expect("JSON")).expect("written");
        let paths = ["html", "svg", "csv"].map(|kind| directory.path(&format!("{name}.{kind}")));
        let output = output(&["report", &file, "--html", &paths[0], "--svg", &paths[1], "--csv", &paths[2]]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        let page = fs::read_to_string(&paths[0]).expect("the page");
        assert_balanced(&page);
        assert!(words.iter().all(|word| page.contains(word)), "{words:?} in the page");
        assert_balanced(&fs::read_to_string(&paths[1]).expect("the plot"));
        let mut csv = csv::Reader::from_path(&paths[2]).expect("the table");
        let rows = csv.records().collect::<Result<Vec<_>, _>>().expect("rows as long as the head").len();
        assert_eq!(rows, if name == "search" { 5 } else { 40 });
    }
}

#[test]
fn results_obey_the_schema_and_the_schema_is_strict() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/result.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).expect("the schema")).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let mut full = stalled(0, 1);
    full.udp = Some(UdpCounts::default());
    full.requests = [("index".to_owned(), 3)].into();
    full.errors = [("refused".to_owned(), 3)].into();
    for document in [
        Document::Run(stalled(0, 1)),
        Document::Run(full),
        Document::Search(a_search()),
        Document::Compare(a_comparison()),
    ] {
        let value = serde_json::to_value(&document).expect("JSON");
        let errors: Vec<_> = validator
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:?}");

        // Each field is needed, and no other is known: the schema cannot fall behind the program unnoticed.
        let fields: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
        for field in fields.iter().filter(|field| *field != "requests") {
            let mut less = value.clone();
            less.as_object_mut().expect("an object").remove(field);
            assert!(!validator.is_valid(&less), "valid without {field}");
        }
        let mut more = value.clone();
        more["surprise"] = 1.into();
        assert!(!validator.is_valid(&more), "a field that nobody knows");
        let mut wrong = value;
        wrong["schema_version"] = 2.into();
        assert!(!validator.is_valid(&wrong), "another version");
    }
}

/// The paths of all numbers in `value`.
fn numbers(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(path.to_owned()),
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| numbers(value, &format!("{path}/{key}"), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| numbers(value, &format!("{path}/{i}"), found))
        }
        _ => {}
    }
}

/// Merges and renders in every format; errors are fine, panics are not.
fn use_in_every_way(text: &str) {
    let Ok(Document::Run(run)) = loadgen::report::parse(text) else { return };
    let mut other = stalled(1, 2);
    other.windows.truncate(1);
    let names = ["a".to_owned(), "b".to_owned()];
    let merged = loadgen::report::merge(&names, vec![run.clone(), other]).ok();
    for run in [Some(run), merged].into_iter().flatten() {
        let _ = loadgen::report::write_hlog(&[&run], std::io::sink());
        if let Ok(metric) = Metric::from_summary(&run.corrected) {
            let _ = loadgen::report::write_hgrm(&metric, std::io::sink());
        }
        let document = Document::Run(run);
        let _ = loadgen::report::write_csv(&document, std::io::sink());
        let _ = loadgen::report::render_svg(&document);
        if let Ok(page) = loadgen::report::render_html(&document) {
            assert!(!page.contains("NaN"), "{text}");
        }
    }
}

#[test]
fn no_number_in_a_file_makes_it_panic() {
    let mut run = stalled(0, 2);
    run.windows.truncate(1);
    let valid = serde_json::to_value(Document::Run(run)).expect("JSON");
    let mut paths = Vec::new();
    numbers(&valid, "", &mut paths);
    assert!(paths.len() > 100, "{}", paths.len());
    for path in paths {
        for extreme in [serde_json::json!(1e15), serde_json::json!(0)] {
            let mut bad = valid.clone();
            *bad.pointer_mut(&path).expect("it was there") = extreme;
            use_in_every_way(&bad.to_string());
        }
    }
}

#[test]
fn no_damaged_histogram_makes_it_panic() {
    let mut run = stalled(0, 2);
    run.windows.clear();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&run.corrected.histogram.0).expect("base64");
    // Bytes of all parts, in turn, with some other value; and as many lengths.
    for i in (0..40).chain((40..bytes.len()).step_by(29)) {
        let mut flipped = bytes.clone();
        flipped[i] = flipped[i].wrapping_mul(31).wrapping_add(i as u8 | 1);
        for damaged in [flipped, bytes[..i].to_vec()] {
            run.corrected.histogram.0 = base64::engine::general_purpose::STANDARD.encode(damaged);
            use_in_every_way(&serde_json::to_string(&Document::Run(run.clone())).expect("JSON"));
        }
    }
}
