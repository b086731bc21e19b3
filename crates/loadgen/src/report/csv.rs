//! Tables for other programs: a row for each window of a run, or for each trial of a search.

use std::io::Write;

use crate::result::{Document, Run, Search, Summary};

/// Writes a row for each window (run, compare) or each trial (search). Durations are seconds; a figure that is not
/// there is an empty field.
///
/// # Errors
///
/// The writer fails.
pub fn write_csv(document: &Document, out: impl Write) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    match document {
        Document::Run(run) => windows(&mut csv, std::slice::from_ref(run))?,
        Document::Compare(compare) => windows(&mut csv, &compare.targets)?,
        Document::Search(search) => trials(&mut csv, search)?,
    }
    csv.flush()?;
    Ok(())
}

fn windows(csv: &mut csv::Writer<impl Write>, runs: &[Run]) -> csv::Result<()> {
    let mut header: Vec<_> =
        ["target", "start", "length", "scheduled", "ok", "error", "timeout"].map(str::to_owned).into();
    for view in ["corrected", "uncorrected"] {
        for figure in ["count", "mean", "p50", "p75", "p90", "p99", "p999", "max"] {
            header.push(format!("{view}_{figure}"));
        }
    }
    csv.write_record(&header)?;
    for run in runs {
        for window in &run.windows {
            let mut row = vec![run.plan.target.clone(), window.start.to_string(), window.length.to_string()];
            row.extend(
                [window.scheduled, window.ok, window.error, window.timeout].map(|count| count.to_string()),
            );
            row.extend(figures(&window.corrected));
            row.extend(figures(&window.uncorrected));
            csv.write_record(&row)?;
        }
    }
    Ok(())
}

fn figures(summary: &Summary) -> impl Iterator<Item = String> {
    let Summary { mean, p50, p75, p90, p99, p999, max, .. } = *summary;
    std::iter::once(summary.count.to_string()).chain([mean, p50, p75, p90, p99, p999, max].map(field))
}

fn field(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn trials(csv: &mut csv::Writer<impl Write>, search: &Search) -> csv::Result<()> {
    csv.write_record([
        "phase",
        "rate",
        "duration",
        "seconds",
        "verdict",
        "achieved_rate",
        "latency",
        "slope",
        "scheduled",
        "ok",
        "error",
        "timeout",
        "unfinished",
        "send_lag_p99",
        "drained",
        "reasons",
    ])?;
    for trial in &search.trials {
        let counts = trial.counts;
        csv.write_record([
            trial.phase.clone(),
            trial.rate.to_string(),
            trial.duration.to_string(),
            trial.seconds.to_string(),
            trial.verdict.clone(),
            trial.achieved_rate.to_string(),
            field(trial.latency),
            field(trial.slope),
            counts.scheduled.to_string(),
            counts.ok.to_string(),
            counts.error.to_string(),
            counts.timeout.to_string(),
            counts.unfinished.to_string(),
            field(trial.send_lag_p99),
            trial.drained.to_string(),
            trial.reasons.join("; "),
        ])?;
    }
    Ok(())
}
