//! One result out of several: histograms bucket by bucket, counts by addition.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

use crate::record::Metric;
use crate::result::{
    Counts, LittlesLaw, Run, SCHEMA_VERSION, Slo, Summary, UdpCounts, Window,
    add_counts as add_counts_by_name,
};
use crate::slo::{error_ratio, nothing_good, too_many_errors, too_slow};

/// Merges runs into one; `names` are for the messages.
///
/// - Shards of one schedule (`--shard I/N`), whenever they ran, become that schedule's run: rates add up, windows
///   with the same offset become one.
/// - Whole runs that were under way at the same time are taken as one load: the same.
/// - Whole runs one after the other become one longer run: durations add up, windows follow one another.
///
/// # Errors
///
/// No run; runs of another format, of different targets or of different plans; a shard that is there twice; a
/// histogram that cannot be decoded.
pub fn merge(names: &[String], runs: Vec<Run>) -> anyhow::Result<Run> {
    let mut parts: Vec<_> = names.iter().map(String::as_str).zip(runs).collect();
    for (name, run) in &parts {
        ensure!(
            run.schema_version == SCHEMA_VERSION,
            "{name} is of format {}, this loadgen reads {SCHEMA_VERSION}: merge with the loadgen that wrote it",
            run.schema_version
        );
    }
    parts.sort_by(|a, b| a.1.started.total_cmp(&b.1.started));
    let mut parts = parts.into_iter();
    let (first, mut whole) = parts.next().context("no result to merge: name at least one FILE")?;
    let mut shards: BTreeMap<u64, &str> =
        whole.plan.merged_shards.iter().map(|shard| (*shard, first)).collect();
    if parts.len() == 0 {
        return Ok(whole);
    }
    label(first, &mut whole);
    for (name, mut run) in parts {
        same_plan(first, &whole, name, &run)?;
        if whole.plan.shards > 1 {
            for shard in &run.plan.merged_shards {
                if let Some(other) = shards.insert(*shard, name) {
                    bail!(
                        "shard {shard} of {} is in {other} and in {name}: leave one of them out",
                        whole.plan.shards
                    );
                }
            }
        }
        label(name, &mut run);
        let in_turn = whole.plan.shards == 1 && run.started >= whole.started + whole.plan.duration;
        add(&mut whole, &run, in_turn).with_context(|| format!("cannot merge {name}"))?;
    }
    whole.slo = judge(&whole.slo, &whole);
    Ok(whole)
}

/// Says in each reason from which file it comes.
fn label(name: &str, run: &mut Run) {
    for reason in &mut run.validity.reasons {
        *reason = format!("{name}: {reason}");
    }
}

/// Whether two runs can be parts of one.
fn same_plan(first: &str, a: &Run, name: &str, b: &Run) -> anyhow::Result<()> {
    let differ = |what: &str, a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| {
        anyhow::anyhow!(
            "{first} and {name} are not parts of one run: {what} {a} and {b}; report them one by one"
        )
    };
    let (p, q) = (&a.plan, &b.plan);
    for (what, x, y) in [("targets", &p.target, &q.target), ("arrivals", &p.arrival, &q.arrival)] {
        ensure!(x == y, differ(what, x, y));
    }
    ensure!(
        p.requests == q.requests,
        "{first} and {name} are not parts of one run: they made different requests (method, path, header or body); report them one by one"
    );
    // Of the shards of a schedule, their numbers tell.
    ensure!(
        p.shards > 1 || (a.started, a.seed, a.counts) != (b.started, b.seed, b.counts),
        "{first} and {name} hold the same run: name one of them"
    );
    ensure!(p.shards == q.shards, differ("shares of a schedule cut in", &p.shards, &q.shards));
    if p.shards > 1 {
        ensure!(p.rate_text == q.rate_text, differ("rates", &p.rate_text, &q.rate_text));
        ensure!(p.duration == q.duration, differ("durations in seconds", &p.duration, &q.duration));
        ensure!(p.arrival == "constant" || a.seed == b.seed, differ("seeds", &a.seed, &b.seed));
    }
    Ok(())
}

/// Adds `run` to `whole`: beside it, or after it.
fn add(whole: &mut Run, run: &Run, in_turn: bool) -> anyhow::Result<()> {
    let (before, length) = (whole.plan.duration, run.plan.duration);
    for (sum, part) in [
        (&mut whole.corrected, &run.corrected),
        (&mut whole.uncorrected, &run.uncorrected),
        (&mut whole.corrected_ok, &run.corrected_ok),
        (&mut whole.send_lag, &run.send_lag),
        (&mut whole.pool_wait, &run.pool_wait),
        (&mut whole.connect, &run.connect),
        (&mut whole.first_byte, &run.first_byte),
        (&mut whole.body, &run.body),
    ] {
        *sum = add_summaries(sum, part)?;
    }
    whole.counts = add_counts(whole.counts, run.counts);
    add_counts_by_name(&mut whole.errors, &run.errors);
    add_counts_by_name(&mut whole.requests, &run.requests);
    add_counts_by_name(&mut whole.statuses, &run.statuses);
    for (class, example) in &run.examples {
        whole.examples.entry(class.clone()).or_insert_with(|| example.clone());
    }
    whole.bytes_read += run.bytes_read;
    whole.retried += run.retried;
    whole.warm_up.add(&run.warm_up);
    for note in &run.notes {
        if !whole.notes.contains(note) {
            whole.notes.push(note.clone());
        }
    }
    whole.udp = match (whole.udp, run.udp) {
        (Some(a), Some(b)) => Some(add_udp(a, b)),
        (a, b) => a.or(b),
    };
    add_windows(&mut whole.windows, &run.windows, if in_turn { before } else { 0.0 })?;

    let (plan, part) = (&mut whole.plan, &run.plan);
    if in_turn {
        let mean = |a: f64, b: f64| (a * before + b * length) / (before + length);
        plan.rate = plan.rate.zip(part.rate).map(|(a, b)| mean(a, b));
        whole.achieved_rate = mean(whole.achieved_rate, run.achieved_rate);
        whole.sent_rate = mean(whole.sent_rate, run.sent_rate);
        whole.elapsed += run.elapsed;
        plan.duration += part.duration;
        plan.connections = plan.connections.max(part.connections);
        plan.connections_used = plan.connections_used.max(part.connections_used);
        plan.threads = plan.threads.max(part.threads);
        whole.generator.cpu_share = mean(whole.generator.cpu_share, run.generator.cpu_share);
    } else {
        if plan.shards == 1 {
            // A shard's plan has the rate of the whole schedule already.
            plan.rate = plan.rate.zip(part.rate).map(|(a, b)| a + b);
            plan.rate_text = format!("{} + {}", plan.rate_text, part.rate_text);
        }
        whole.achieved_rate += run.achieved_rate;
        whole.sent_rate += run.sent_rate;
        whole.elapsed = whole.elapsed.max(run.started + run.elapsed - whole.started).max(run.elapsed);
        plan.duration = before.max(length);
        plan.connections += part.connections;
        plan.connections_used += part.connections_used;
        plan.threads += part.threads;
        whole.generator.cpu_share = whole.generator.cpu_share.max(run.generator.cpu_share);
    }
    plan.merged_shards.extend(&part.merged_shards);
    plan.merged_shards.sort_unstable();
    plan.merged_shards.dedup();
    whole.generator.cpu_seconds += run.generator.cpu_seconds;
    whole.generator.cpu_wanted = whole.generator.cpu_wanted.max(run.generator.cpu_wanted);
    whole.generator.wakes += run.generator.wakes;
    let (mine, theirs) = (whole.validity.littles_law, run.validity.littles_law);
    whole.validity.littles_law = mine.zip(theirs).map(|(a, b)| {
        let add =
            |a: f64, b: f64| if in_turn { (a * before + b * length) / (before + length) } else { a + b };
        LittlesLaw {
            in_flight: add(a.in_flight, b.in_flight),
            rate_times_latency: add(a.rate_times_latency, b.rate_times_latency),
        }
    });
    whole.validity.ok &= run.validity.ok;
    whole.validity.reasons.extend(run.validity.reasons.iter().cloned());
    whole.interrupted |= run.interrupted;
    Ok(())
}

/// The sum of two summaries, bucket by bucket.
fn add_summaries(a: &Summary, b: &Summary) -> anyhow::Result<Summary> {
    let mut metric = Metric::from_summary(a)?;
    metric.merge(&Metric::from_summary(b)?);
    Ok(metric.summary())
}

fn add_counts(a: Counts, b: Counts) -> Counts {
    Counts {
        scheduled: a.scheduled + b.scheduled,
        ok: a.ok + b.ok,
        error: a.error + b.error,
        timeout: a.timeout + b.timeout,
        unfinished: a.unfinished + b.unfinished,
        omitted: a.omitted + b.omitted,
    }
}

fn add_udp(mut a: UdpCounts, b: UdpCounts) -> UdpCounts {
    a.add(&b);
    a
}

/// Adds `parts`, moved by `offset`, to the windows at the same place. Where lengths differ, the longer one rules;
/// they are powers of two of each other.
fn add_windows(windows: &mut Vec<Window>, parts: &[Window], offset: f64) -> anyhow::Result<()> {
    let length = windows.iter().chain(parts).map(|window| window.length).fold(0.0, f64::max);
    if length <= 0.0 {
        return Ok(());
    }
    let mut places: BTreeMap<u64, Window> = BTreeMap::new();
    let moved = parts.iter().map(|window| Window { start: window.start + offset, ..window.clone() });
    for window in std::mem::take(windows).into_iter().chain(moved) {
        // A start may be a rounding error short of its place.
        let place = (window.start / length + 1e-6).floor().max(0.0) as u64;
        match places.entry(place) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(Window { start: place as f64 * length, length, ..window });
            }
            std::collections::btree_map::Entry::Occupied(mut taken) => {
                let sum = taken.get_mut();
                sum.ok += window.ok;
                sum.error += window.error;
                sum.timeout += window.timeout;
                sum.scheduled += window.scheduled;
                sum.corrected = add_summaries(&sum.corrected, &window.corrected)?;
                sum.uncorrected = add_summaries(&sum.uncorrected, &window.uncorrected)?;
            }
        }
    }
    *windows = places.into_values().collect();
    Ok(())
}

/// Judges the merged figures by the objective of the parts.
fn judge(slo: &Slo, run: &Run) -> Slo {
    let corrected = &run.corrected;
    let latency = match Metric::from_summary(corrected) {
        Ok(metric) if metric.count() > 0 && slo.percentile < 100.0 => {
            Some(metric.quantile_ns(slo.percentile / 100.0) as f64 / 1e9)
        }
        _ => corrected.max,
    };
    let mut reasons = Vec::new();
    if let (Some(limit), Some(latency)) = (slo.max_latency, latency)
        && latency > limit
    {
        reasons.push(too_slow(slo.percentile, latency, limit));
    }
    reasons.extend(nothing_good(&run.counts));
    reasons.extend(too_many_errors(&run.counts, slo.error_ratio));
    Slo {
        observed_latency: latency,
        observed_error_ratio: error_ratio(&run.counts),
        held: reasons.is_empty(),
        reasons,
        ..slo.clone()
    }
}
