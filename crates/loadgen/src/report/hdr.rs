//! The formats of the HdrHistogram tools: the interval log (`.hlog`) and the percentile distribution (`.hgrm`).

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::record::Metric;
use crate::result::{Run, Summary};

/// The tools print milliseconds; the values recorded are nanoseconds.
const NS_PER_MS: f64 = 1e6;

/// Writes `runs` as an HdrHistogram V2 interval log.
///
/// The corrected and the uncorrected latency have a line for each window; the attribution (`send_lag`, `pool_wait`,
/// `connect`, `first_byte`, `body`) has one for the whole run. Each metric has its tag; with several runs the tag
/// begins with the run's number, as in `2-corrected`. Values are nanoseconds.
///
/// # Errors
///
/// The writer fails, or a histogram in a run cannot be decoded.
pub fn write_hlog(runs: &[&Run], mut out: impl Write) -> anyhow::Result<()> {
    let start = runs.iter().map(|run| run.started).fold(f64::INFINITY, f64::min);
    // A file may hold any number; a time that the clock does not know becomes 1970.
    let epoch = SystemTime::UNIX_EPOCH.checked_add(seconds(start)).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder
        .add_comment("[loadgen: values are nanoseconds, Interval_Max is milliseconds; one tag per metric]");
    for run in runs {
        builder.add_comment(&format!("[target {}]", run.plan.target));
    }
    builder.with_start_time(epoch).with_base_time(epoch).with_max_value_divisor(NS_PER_MS);

    let mut lines = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let prefix = if runs.len() > 1 { format!("{}-", number + 1) } else { String::new() };
        let since = run.started - start;
        for (name, summary) in attribution(run) {
            if summary.count > 0 {
                lines.push((since, run.plan.duration, format!("{prefix}{name}"), summary));
            }
        }
        for window in &run.windows {
            for (name, summary) in [("corrected", &window.corrected), ("uncorrected", &window.uncorrected)] {
                lines.push((since + window.start, window.length, format!("{prefix}{name}"), summary));
            }
        }
    }
    // Readers expect the order of time.
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));

    let mut serializer = V2DeflateSerializer::new();
    let mut log = builder.begin_log_with(&mut out, &mut serializer)?;
    for (at, length, tag, summary) in lines {
        let histogram = summary.histogram.decode()?;
        let tag = Tag::new(&tag).context("the tag is not fit for a log")?;
        log.write_histogram(&histogram, seconds(at), seconds(length), Some(tag))
            .map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(())
}

/// The metrics that stand in the log once, with their tags.
fn attribution(run: &Run) -> [(&'static str, &Summary); 5] {
    [
        ("send_lag", &run.send_lag),
        ("pool_wait", &run.pool_wait),
        ("connect", &run.connect),
        ("first_byte", &run.first_byte),
        ("body", &run.body),
    ]
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

/// Writes a metric's distribution as the text that the HdrHistogram tools print and plot, in milliseconds.
///
/// # Errors
///
/// The writer fails.
pub fn write_hgrm(metric: &Metric, mut out: impl Write) -> io::Result<()> {
    let histogram = metric.histogram();
    // Nothing exceeds the exact maximum, though the top bucket's edge does.
    let ms = |ns: u64| ns.min(metric.max_ns()) as f64 / NS_PER_MS;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (ms(step.value_iterated_to()), step.quantile_iterated_to());
        if quantile < 1.0 {
            writeln!(out, "{value:12.3} {quantile:2.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{value:12.3} {quantile:2.12} {total:10}")?;
            break;
        }
    }
    let deviation = histogram.stdev() / NS_PER_MS;
    writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {deviation:12.3}]", metric.mean_ns() / NS_PER_MS)?;
    writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", ms(u64::MAX), metric.count())?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), sub_buckets(histogram))
}

/// The smallest power of two that tells values apart with the histogram's number of digits.
fn sub_buckets(histogram: &Histogram<u64>) -> u64 {
    (2 * 10_u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
}
