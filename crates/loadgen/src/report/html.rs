//! One page that needs nothing beside itself: no script, no font, no network.

use std::fmt::{self, Write as _};

use super::plot::{self, Plot, escape};
use super::tables;
use crate::format::{self, duration, latency, percent, rate};
use crate::result::{Compare, Document, Run, Search, Summary};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1f2937; --quiet: #6b7280; --line: #e5e7eb; --paper: #ffffff; --tile: #f3f4f6;
  --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --quiet: #9ca3af; --line: #374151; --paper: #111827; --tile: #1f2937;
    --good: #4ade80; --bad: #f87171; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 52rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; }
.quiet, figcaption { color: var(--quiet); }
.verdict { border-left: 4px solid var(--good); padding: .2rem .8rem; margin: 1rem 0; }
.verdict.bad { border-color: var(--bad); }
.verdict ul { margin: .2rem 0; padding-left: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.2rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--tile); border-radius: .4rem; padding: .5rem .8rem; }
.tile b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { color: var(--quiet); font-size: .85rem; }
figure { margin: 0; }
figcaption { font-size: .85rem; }
figure { overflow-x: auto; }
svg { width: 100%; min-width: 34rem; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; min-width: 20rem; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; }
th { color: var(--quiet); font-weight: 600; }
td.wrap { white-space: normal; min-width: 14rem; text-align: left; }
summary { cursor: pointer; margin: 2rem 0 .4rem; font-weight: 600; }
";

/// The page for `document`.
///
/// # Errors
///
/// A histogram in it cannot be decoded.
pub(super) fn page(document: &Document) -> anyhow::Result<String> {
    let title = match document {
        Document::Run(run) => format!("loadgen run {}", run.plan.target),
        Document::Search(search) => format!("loadgen search {}", search.plan.target),
        Document::Compare(_) => "loadgen compare".to_owned(),
    };
    let mut out = String::new();
    writeln!(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(
        out,
        "<title>{}</title>\n<style>{STYLE}{}</style>\n</head>\n<body>",
        escape(&title),
        plot::STYLE
    )?;
    match document {
        Document::Run(run) => write_run(&mut out, run)?,
        Document::Search(search) => write_search(&mut out, search)?,
        Document::Compare(compare) => write_compare(&mut out, compare)?,
    }
    writeln!(out, "</body>\n</html>")?;
    Ok(out)
}

fn write_head(out: &mut String, title: &str, subtitle: &str, interrupted: bool) -> fmt::Result {
    writeln!(out, "<h1>{}</h1>\n<p class=\"quiet\">{}</p>", escape(title), escape(subtitle))?;
    if interrupted {
        write_verdict(out, false, "Interrupted", "everything below is partial", &[])?;
    }
    Ok(())
}

fn write_verdict(
    out: &mut String,
    good: bool,
    head: &str,
    sentence: &str,
    reasons: &[String],
) -> fmt::Result {
    let class = if good { "verdict" } else { "verdict bad" };
    writeln!(out, "<div class=\"{class}\"><strong>{}</strong>: {}", escape(head), escape(sentence))?;
    if !reasons.is_empty() {
        writeln!(out, "<ul>")?;
        reasons.iter().try_for_each(|reason| writeln!(out, "<li>{}</li>", escape(reason)))?;
        writeln!(out, "</ul>")?;
    }
    writeln!(out, "</div>")
}

fn write_tiles(out: &mut String, tiles: &[(String, &str)]) -> fmt::Result {
    writeln!(out, "<div class=\"tiles\">")?;
    for (value, name) in tiles {
        writeln!(out, "<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(value), escape(name))?;
    }
    writeln!(out, "</div>")
}

fn write_plot(out: &mut String, plot: &Plot, caption: &str) -> fmt::Result {
    writeln!(out, "<h2>{}</h2>\n<figure>\n{}", escape(&plot.title), plot.svg(false))?;
    writeln!(out, "<figcaption>{}</figcaption>\n</figure>", escape(caption))
}

/// A table; cells of the columns after the first are aligned as numbers.
fn write_table(out: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> fmt::Result {
    write!(out, "<div class=\"wide\"><table>\n<tr>")?;
    head.iter().try_for_each(|cell| write!(out, "<th>{}</th>", escape(cell)))?;
    writeln!(out, "</tr>")?;
    for row in rows {
        write!(out, "<tr>")?;
        for cell in &row {
            let class = if cell.chars().count() > 40 { " class=\"wrap\"" } else { "" };
            write!(out, "<td{class}>{}</td>", escape(cell))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</table></div>")
}

const LATENCY_HEAD: [&str; 9] = ["", "mean", "p50", "p75", "p90", "p99", "p99.9", "max", "count"];

fn latency_row(name: &str, s: &Summary) -> Vec<String> {
    let figures = [s.mean, s.p50, s.p75, s.p90, s.p99, s.p999, s.max].map(|value| latency(s, value));
    std::iter::once(name.to_owned()).chain(figures).chain([s.count.to_string()]).collect()
}

fn write_judgement(out: &mut String, run: &Run) -> fmt::Result {
    let held = if run.slo.held { "Objective held" } else { "Objective violated" };
    write_verdict(out, run.slo.held, held, &tables::objective(run), &run.slo.reasons)?;
    let (head, sentence) = tables::validity(run);
    let reasons = [&run.validity.reasons[..], &run.notes].concat();
    write_verdict(out, head == "Valid", head, sentence, &reasons)
}

fn write_run(out: &mut String, run: &Run) -> anyhow::Result<()> {
    let corrected = &run.corrected;
    write_head(out, &run.plan.target, &tables::headline(run), run.interrupted)?;
    write_judgement(out, run)?;
    write_tiles(
        out,
        &[
            (latency(corrected, corrected.p50), "p50, corrected"),
            (latency(corrected, corrected.p99), "p99, corrected"),
            (latency(corrected, corrected.max), "max, corrected"),
            (latency(&run.uncorrected, run.uncorrected.p99), "p99, uncorrected"),
            (format!("{} /s", rate(run.achieved_rate)), "answered well"),
            (percent(run.slo.observed_error_ratio), "errors"),
        ],
    )?;
    write_plot(
        out,
        &plot::latency_by_percentile(run)?,
        "Corrected counts from the time at which a request should have started, uncorrected from when it had its \
         connection. Where they part, requests waited that a closed loop would never have sent.",
    )?;
    if !run.windows.is_empty() {
        let caption = "By the time at which requests ended; a gap is a window in which none did.";
        write_plot(out, &plot::latency_over_time(run), caption)?;
        write_plot(out, &plot::rate_over_time(run), "Scheduled by intended start, the others by end.")?;
    }

    writeln!(out, "<h2>Latency</h2>")?;
    let views =
        [("corrected", corrected), ("uncorrected", &run.uncorrected), ("corrected, ok", &run.corrected_ok)];
    let rows = views.into_iter().chain(tables::parts(run)).filter(|(_, summary)| summary.count > 0);
    write_table(out, &LATENCY_HEAD, rows.map(|(name, summary)| latency_row(name, summary)))?;
    if corrected.censored > 0 {
        let n = corrected.censored;
        writeln!(
            out,
            "<p class=\"quiet\">≥: {n} requests had not ended; they count at the age at which they were given up.</p>"
        )?;
    }

    writeln!(out, "<h2>Requests</h2>")?;
    let counts = run.counts;
    let mut rows: Vec<(String, String)> = [
        ("scheduled", counts.scheduled),
        ("ok", counts.ok),
        ("error", counts.error),
        ("timeout", counts.timeout),
        ("unfinished", counts.unfinished),
    ]
    .map(|(name, count)| (name.to_owned(), count.to_string()))
    .into();
    if counts.omitted > 0 {
        rows.push(("omitted by the closed loop".to_owned(), counts.omitted.to_string()));
    }
    rows.extend(run.requests.iter().map(|(name, count)| (format!("request {name}"), count.to_string())));
    rows.extend(run.errors.iter().map(|(name, count)| (format!("error {name}"), count.to_string())));
    if let Some(udp) = run.udp {
        for (name, count) in [
            ("datagrams sent", udp.sent),
            ("datagrams lost", udp.lost),
            ("duplicates", udp.duplicates),
            ("reordered", udp.reordered),
            ("late", udp.late),
            ("corrupt", udp.corrupt),
            ("refused", udp.refused),
            ("dropped by our own buffers", udp.kernel_dropped),
        ] {
            rows.push((name.to_owned(), count.to_string()));
        }
    }
    write_table(out, &["", "count"], rows.into_iter().map(|(name, count)| vec![name, count]))?;

    let (plan, generator) = (&run.plan, &run.generator);
    writeln!(out, "<h2>Run</h2>")?;
    let rows = [
        ("protocol", plan.protocol.clone()),
        ("offered", plan.rate.map_or_else(|| "-".to_owned(), |r| format!("{} /s", rate(r)))),
        ("sent", format!("{} /s", rate(run.sent_rate))),
        ("arrival", plan.arrival.clone()),
        ("duration", duration(plan.duration)),
        ("warm-up", duration(plan.warmup)),
        ("timeout", duration(plan.timeout)),
        ("connections used", format!("{} of {}", plan.connections_used, plan.connections)),
        ("pacer", format!("{}, coalesce {}", plan.pacer, duration(plan.coalesce))),
        ("threads", plan.threads.to_string()),
        (
            "generator CPU",
            format!("{:.2} s, busiest thread {}", generator.cpu_seconds, percent(generator.cpu_share)),
        ),
        ("seed", run.seed.to_string()),
    ];
    write_table(out, &["", "value"], rows.map(|(name, value)| vec![name.to_owned(), value]))?;

    if !run.windows.is_empty() {
        writeln!(out, "<details><summary>Windows</summary>")?;
        let head = ["from", "scheduled", "ok", "error", "timeout", "p50", "p99", "max"];
        let rows = run.windows.iter().map(|window| {
            let corrected = &window.corrected;
            let mut row = vec![format!("{} s", window.start)];
            row.extend(
                [window.scheduled, window.ok, window.error, window.timeout].map(|count| count.to_string()),
            );
            row.extend([corrected.p50, corrected.p99, corrected.max].map(|value| latency(corrected, value)));
            row
        });
        write_table(out, &head, rows)?;
        writeln!(out, "</details>")?;
    }
    Ok(())
}

fn write_search(out: &mut String, search: &Search) -> anyhow::Result<()> {
    let subtitle = format!(
        "the highest rate with {} ≤ {} and errors ≤ {} for {}; {} search",
        format::percentile(search.percentile),
        duration(search.max_latency),
        percent(search.error_ratio),
        duration(search.hold),
        search.mode
    );
    write_head(out, &search.plan.target, &subtitle, search.interrupted)?;
    let good = search.validity.ok && (search.confirmed.is_some() || search.estimate.is_some());
    write_verdict(out, good, "Result", &tables::finding(search), &search.validity.reasons)?;
    if search.mode != "aimd" {
        writeln!(
            out,
            "<p>Strict: {}<br>Typical: {}</p>",
            tables::bounds(&search.strict),
            tables::bounds(&search.typical)
        )?;
    }
    write_plot(out, &plot::rates_tried(search), "Every trial, in the order in which they ran.")?;
    writeln!(out, "<h2>Trials</h2>")?;
    let head = ["phase", "req/s", "seconds", "verdict", "achieved", "latency", "slope", "reasons"];
    let rows = search.trials.iter().map(|trial| {
        vec![
            trial.phase.clone(),
            rate(trial.rate),
            format!("{:.1}", trial.seconds),
            trial.verdict.clone(),
            rate(trial.achieved_rate),
            trial.latency.map_or_else(|| "-".to_owned(), duration),
            trial.slope.map_or_else(|| "-".to_owned(), |slope| format!("{slope:.4}")),
            trial.reasons.join("; "),
        ]
    });
    write_table(out, &head, rows)?;
    Ok(())
}

fn write_compare(out: &mut String, compare: &Compare) -> anyhow::Result<()> {
    let subtitle = format!(
        "{} targets on the same schedule, interleaved in {} rounds",
        compare.targets.len(),
        compare.rounds
    );
    write_head(out, "Comparison", &subtitle, compare.targets.iter().any(|run| run.interrupted))?;
    writeln!(out, "<ol>")?;
    for run in &compare.targets {
        writeln!(out, "<li>{}</li>", escape(&format!("{}: {}", run.plan.target, tables::headline(run))))?;
    }
    writeln!(out, "</ol>")?;
    write_plot(out, &plot::latency_by_target(&compare.targets)?, "Corrected latency of each target.")?;
    writeln!(out, "<h2>Latency</h2>")?;
    let rows = compare.targets.iter().enumerate();
    let rows = rows.map(|(i, run)| latency_row(&format!("target {}", i + 1), &run.corrected));
    write_table(out, &LATENCY_HEAD, rows)?;
    writeln!(out, "<h2>Ratios to the first target</h2>")?;
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let rows = compare.ratios.iter().enumerate().map(|(i, ratio)| {
        let figures = [ratio.mean, ratio.p50, ratio.p99, ratio.max].map(figure);
        std::iter::once(format!("target {}", i + 1)).chain(figures).collect()
    });
    write_table(out, &["", "mean", "p50", "p99", "max"], rows)?;
    for (i, run) in compare.targets.iter().enumerate() {
        writeln!(out, "<h2>Target {}: {}</h2>", i + 1, escape(&run.plan.target))?;
        write_judgement(out, run)?;
    }
    Ok(())
}
