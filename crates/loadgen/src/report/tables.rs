//! The tables that a person reads on a terminal.

use std::fmt::{self, Display, Write as _};

use crate::format::{duration, latency, percent, percentile, rate, wrap};
use crate::result::{Bounds, Compare, Document, LittlesLaw, Plan, Run, Search, Summary, WarmUp};
use crate::slo::nothing_good;

/// The whole text for `document`, without a line end behind it.
pub(super) fn text(document: &Document) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = match document {
        Document::Run(run) => write_run(&mut out, run),
        Document::Search(search) => write_search(&mut out, search),
        Document::Compare(compare) => write_compare(&mut out, compare),
    };
    out.truncate(out.trim_end().len());
    out
}

/// A figure of a summary.
type Figure = fn(&Summary) -> Option<f64>;

/// Column heads of a latency table and the figures below them: what fits into 80 columns.
const FIGURES: [(&str, Figure); 6] = [
    ("mean", |s| s.mean),
    ("p50", |s| s.p50),
    ("p90", |s| s.p90),
    ("p99", |s| s.p99),
    ("p99.9", |s| s.p999),
    ("max", |s| s.max),
];

fn write_head(out: &mut String, title: &str) -> fmt::Result {
    write!(out, "{title:<12}")?;
    FIGURES.iter().try_for_each(|(head, _)| write!(out, " {head:>9}"))?;
    writeln!(out, " {:>7}", "count")
}

fn write_row(out: &mut String, name: &str, summary: &Summary) -> fmt::Result {
    write_figures(out, name, summary, true)
}

/// Without a good answer there is no latency: the age of a failure is none.
fn write_figures(out: &mut String, name: &str, summary: &Summary, good: bool) -> fmt::Result {
    write!(out, "{name:<12}")?;
    let cell = |figure: &Figure| if good { latency(summary, figure(summary)) } else { "-".to_owned() };
    FIGURES.iter().try_for_each(|(_, figure)| write!(out, " {:>9}", cell(figure)))?;
    writeln!(out, " {:>7}", summary.count)
}

/// Writes `text` in lines that fit, as [`wrap`] does.
fn write_wrapped(out: &mut String, text: &str, at: usize, indent: usize) -> fmt::Result {
    writeln!(out, "{}", wrap(text, at, indent))
}

fn write_reason(out: &mut String, reason: &str) -> fmt::Result {
    out.push_str("  - ");
    write_wrapped(out, reason, 4, 4)
}

fn write_field(out: &mut String, name: &str, value: impl Display) -> fmt::Result {
    write!(out, "{name:<12} ")?;
    write_wrapped(out, &value.to_string(), 13, 13)
}

/// Whereto: the target, and the address that it is when that does not stand in it.
pub(super) fn place(run: &Run) -> String {
    let Plan { target, address, .. } = &run.plan;
    if address.is_empty() || target.contains(address.as_str()) {
        target.clone()
    } else {
        format!("{target} ({address})")
    }
}

/// What was asked for, in a sentence.
pub(super) fn headline(run: &Run) -> String {
    let plan = &run.plan;
    let offered =
        plan.rate.map_or_else(|| "as fast as answered".to_owned(), |r| format!("{} req/s", rate(r)));
    let mut line = format!("{offered}, {}, for {}", plan.arrival, duration(plan.duration));
    if plan.warmup > 0.0 {
        line += &format!(" after {} of warm-up", duration(plan.warmup));
    }
    if plan.shards > 1 {
        let shards: Vec<_> = plan.merged_shards.iter().map(u64::to_string).collect();
        line += &format!("; shard {} of {}", shards.join(", "), plan.shards);
    }
    line
}

fn write_run(out: &mut String, run: &Run) -> fmt::Result {
    let plan = &run.plan;
    write_wrapped(out, &format!("{}: {}", place(run), headline(run)), 0, 2)?;
    writeln!(out)?;
    if run.interrupted {
        writeln!(out, "interrupted: everything below is partial\n")?;
    }
    write_head(out, "latency")?;
    let good = nothing_good(&run.counts).is_none();
    write_figures(out, "corrected", &run.corrected, good)?;
    write_figures(out, "uncorrected", &run.uncorrected, good)?;
    let what = "corrected counts from the time at which a request should have started, uncorrected from when it had its \
                connection";
    write_wrapped(out, what, 0, 2)?;
    if run.corrected.censored > 0 {
        let censored = run.corrected.censored;
        let text = format!(
            "≥: {censored} requests had not ended; they count at the age at which they were given up"
        );
        write_wrapped(out, &text, 0, 2)?;
    }
    writeln!(out)?;
    write_head(out, "of which")?;
    for (name, summary) in parts(run) {
        if summary.count > 0 {
            write_row(out, name, summary)?;
        }
    }
    writeln!(out)?;

    let counts = run.counts;
    write_field(
        out,
        "requests",
        format_args!(
            "{} scheduled = {} ok + {} error + {} timeout + {} unfinished",
            counts.scheduled, counts.ok, counts.error, counts.timeout, counts.unfinished
        ),
    )?;
    if counts.omitted > 0 {
        write_field(
            out,
            "omitted",
            format_args!("{} starts that the schedule wanted and the closed loop skipped", counts.omitted),
        )?;
    }
    if run.warm_up.scheduled > 0 {
        let WarmUp { scheduled, ok, errors } = &run.warm_up;
        let errors = if errors.is_empty() { String::new() } else { format!("; {}", list(errors.iter())) };
        write_field(out, "warm-up", format_args!("{scheduled} more before, {ok} ok{errors}: in no figure"))?;
    }
    if run.requests.len() > 1 {
        write_field(out, "of which", list(run.requests.iter()))?;
    }
    if !run.statuses.is_empty() {
        write_field(out, "replies", list(run.statuses.iter()))?;
    }
    if run.retried > 0 {
        write_field(
            out,
            "retried",
            format_args!("{} requests, whose idle connection the server had closed", run.retried),
        )?;
    }
    if !run.errors.is_empty() {
        write_field(out, "errors", list(run.errors.iter()))?;
        for (class, example) in &run.examples {
            write_reason(out, &format!("{class}, for example {example}"))?;
        }
    }
    if let Some(udp) = run.udp {
        write_field(
            out,
            "datagrams",
            format_args!(
                "{} sent, {} lost, {} duplicates, {} reordered, {} late, {} corrupt, {} refused, \
                 {} dropped by our own buffers",
                udp.sent,
                udp.lost,
                udp.duplicates,
                udp.reordered,
                udp.late,
                udp.corrupt,
                udp.refused,
                udp.kernel_dropped
            ),
        )?;
    }
    let offered = plan.rate.map_or_else(String::new, |r| format!("{} offered, ", rate(r)));
    let (sent, achieved) = (rate(run.sent_rate), rate(run.achieved_rate));
    write_field(out, "rate", format_args!("{offered}{sent} sent, {achieved} answered well, per second"))?;
    if run.bytes_read > 0 {
        let megabytes = run.bytes_read as f64 / 1e6 / plan.duration.max(1e-9);
        write_field(out, "received", format_args!("{} bytes, {megabytes:.3} MB/s", run.bytes_read))?;
    }
    write_field(
        out,
        "connections",
        format_args!("{} in use at once at most, of {}", plan.connections_used, plan.connections),
    )?;
    if let Some(law) = &run.validity.littles_law {
        let LittlesLaw { in_flight, rate_times_latency } = law;
        let text =
            format!("{in_flight:.3} requests on average; rate times latency is {rate_times_latency:.3}");
        write_field(out, "in flight", text)?;
    }
    write_field(
        out,
        "generator",
        format_args!(
            "{} thread{}, {}{} pacer, {:.2} s of CPU, busiest thread {} of a core, {} wakes",
            plan.threads,
            if plan.threads == 1 { "" } else { "s" },
            plan.client.as_ref().map_or_else(String::new, |client| format!("{client} client, ")),
            plan.pacer,
            run.generator.cpu_seconds,
            percent(run.generator.cpu_share),
            run.generator.wakes
        ),
    )?;
    writeln!(out)?;
    write_verdict(out, run)
}

/// The parts of a latency, in the order in which they pass.
pub(super) fn parts(run: &Run) -> [(&'static str, &Summary); 5] {
    [
        ("send lag", &run.send_lag),
        ("pool wait", &run.pool_wait),
        ("connect", &run.connect),
        ("first byte", &run.first_byte),
        ("body", &run.body),
    ]
}

fn list<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// The objective and what became of it, in a sentence.
pub(super) fn objective(run: &Run) -> String {
    let slo = &run.slo;
    let sign = |above: bool| if above { ">" } else { "≤" };
    let mut parts = Vec::new();
    if let (Some(limit), Some(observed)) = (slo.max_latency, slo.observed_latency) {
        let which = percentile(slo.percentile);
        parts.push(format!("{which} {} {} {}", duration(observed), sign(observed > limit), duration(limit)));
    }
    let (errors, allowed) = (slo.observed_error_ratio, slo.error_ratio);
    parts.push(format!("errors {} {} {}", percent(errors), sign(errors > allowed), percent(allowed)));
    parts.join(", ")
}

/// Whether the figures of a run are the server's: in a word, and in a sentence.
pub(super) fn validity(run: &Run) -> (&'static str, &'static str) {
    if !run.validity.ok {
        ("Invalid", "THE GENERATOR WAS THE LIMIT: the figures are not the server's")
    } else if nothing_good(&run.counts).is_some() {
        ("Nothing measured", "no request was answered well: there are no figures")
    } else if !run.notes.is_empty() {
        ("On schedule", "the generator kept its schedule; but read this:")
    } else {
        ("Valid", "the generator kept its schedule: the figures are the server's")
    }
}

fn write_verdict(out: &mut String, run: &Run) -> fmt::Result {
    write_field(out, "validity", validity(run).1)?;
    for sentence in run.validity.reasons.iter().chain(&run.notes) {
        write_reason(out, sentence)?;
    }
    let verdict = if run.slo.held { "held" } else { "VIOLATED" };
    let default = if run.slo.given { "" } else { " (default)" };
    write_field(out, "objective", format_args!("{verdict}: {}{default}", objective(run)))?;
    run.slo.reasons.iter().try_for_each(|reason| write_reason(out, reason))
}

/// Bounds in words.
pub(super) fn bounds(bounds: &Bounds) -> String {
    match (bounds.lower, bounds.upper) {
        (Some(lower), Some(upper)) => {
            format!(
                "{} req/s hold, {} do not ({} apart)",
                rate(lower),
                rate(upper),
                percent(1.0 - lower / upper)
            )
        }
        (Some(lower), None) => format!("{} req/s hold; no failing rate was found", rate(lower)),
        (None, Some(upper)) => format!("{} req/s do not hold; no holding rate was found", rate(upper)),
        (None, None) => "not known".to_owned(),
    }
}

/// What a search found, in a sentence.
pub(super) fn finding(search: &Search) -> String {
    let goal = format!(
        "{} within {} for {}",
        percentile(search.percentile),
        duration(search.max_latency),
        duration(search.hold)
    );
    if !search.validity.ok {
        return match search.strict.lower {
            Some(lower) => format!("≥ {} req/s with {goal}: generator-limited", rate(lower)),
            None => format!("no capacity with {goal}: generator-limited"),
        };
    }
    match (search.confirmed, search.estimate) {
        (Some(confirmed), _) => format!("{} req/s hold {goal}: confirmed", rate(confirmed)),
        (None, Some(estimate)) => format!("about {} req/s with {goal}: an estimate", rate(estimate)),
        (None, None) => format!("no rate was confirmed to hold {goal}"),
    }
}

fn write_search(out: &mut String, search: &Search) -> fmt::Result {
    write_wrapped(out, &format!("{}: search ({})", search.plan.target, search.mode), 0, 2)?;
    writeln!(out)?;
    if search.interrupted {
        writeln!(out, "interrupted: everything below is partial\n")?;
    }
    writeln!(
        out,
        "{:<9} {:>10} {:>8} {:>8} {:>10} {:>10} {:>9}",
        "phase", "req/s", "seconds", "verdict", "achieved", "latency", "slope"
    )?;
    for trial in &search.trials {
        writeln!(
            out,
            "{:<9} {:>10} {:>8.1} {:>8} {:>10} {:>10} {:>9}",
            trial.phase,
            rate(trial.rate),
            trial.seconds,
            trial.verdict,
            rate(trial.achieved_rate),
            trial.latency.map_or_else(|| "-".to_owned(), duration),
            trial.slope.map_or_else(|| "-".to_owned(), |slope| format!("{slope:.4}")),
        )?;
        trial.reasons.iter().try_for_each(|reason| write_reason(out, reason))?;
    }
    writeln!(out)?;
    if search.mode != "aimd" {
        write_field(out, "strict", bounds(&search.strict))?;
        write_field(out, "typical", bounds(&search.typical))?;
    }
    if let Some(answered) = search.conditional_throughput {
        write_field(
            out,
            "answered",
            format_args!("{} req/s well at the typical bound (median)", rate(answered)),
        )?;
    }
    if let Some(baseline) = search.baseline {
        write_field(
            out,
            "a reply",
            format_args!("takes {} when it need not wait for others", duration(baseline)),
        )?;
    }
    write_field(out, "took", duration(search.elapsed))?;
    write_field(out, "result", finding(search))?;
    search.validity.reasons.iter().try_for_each(|reason| write_reason(out, reason))
}

fn write_compare(out: &mut String, compare: &Compare) -> fmt::Result {
    if let Some(first) = compare.targets.first() {
        let offered =
            first.plan.rate.map_or_else(|| "a closed loop".to_owned(), |r| format!("{} req/s", rate(r)));
        writeln!(
            out,
            "{} targets on the same schedule, interleaved in {} rounds: {offered}, {}\n",
            compare.targets.len(),
            compare.rounds,
            first.plan.arrival
        )?;
    }
    write_head(out, "corrected")?;
    for (number, run) in compare.targets.iter().enumerate() {
        write_row(out, &format!("target {}", number + 1), &run.corrected)?;
    }
    writeln!(out)?;
    writeln!(out, "{:<12} {:>9} {:>9} {:>9} {:>9}", "ratio", "mean", "p50", "p99", "max")?;
    for (number, ratio) in compare.ratios.iter().enumerate() {
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let [mean, p50, p99, max] = [ratio.mean, ratio.p50, ratio.p99, ratio.max].map(figure);
        writeln!(out, "{:<12} {mean:>9} {p50:>9} {p99:>9} {max:>9}", format!("target {}", number + 1))?;
    }
    writeln!(out)?;
    for (number, run) in compare.targets.iter().enumerate() {
        let counts = run.counts;
        write_field(
            out,
            &format!("target {}", number + 1),
            format_args!(
                "{}: {} of {} ok, generator {}, objective {}",
                run.plan.target,
                counts.ok,
                counts.scheduled,
                if run.validity.ok { "on time" } else { "WAS THE LIMIT" },
                if run.slo.held { "held" } else { "VIOLATED" }
            ),
        )?;
        let reasons = run.validity.reasons.iter().chain(&run.notes).chain(&run.slo.reasons);
        reasons.into_iter().try_for_each(|reason| write_reason(out, reason))?;
    }
    Ok(())
}
