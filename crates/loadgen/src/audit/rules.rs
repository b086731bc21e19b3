//! What an audit asks of a load generator, as functions of what the server saw and of what the generator said.

use super::server::Record;
use crate::clock::seconds;
use crate::format::{duration, percent};

/// What the generator was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Requests a second.
    pub rate: f64,
    /// Seconds.
    pub duration: f64,
    /// When the server stands still, in seconds from the first request: from, until.
    pub stall: (f64, f64),
    /// The arrivals are random, as of many independent users.
    pub poisson: bool,
}

/// What the generator said; `None` where nobody told how to read it. Times in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// All requests, however they ended.
    pub total: Option<f64>,
    /// Mean latency.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Maximum.
    pub max: Option<f64>,
}

/// What became of a requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It holds.
    Holds(String),
    /// It fails, by these figures.
    Fails(String),
    /// It was not asked, for this reason.
    NotAsked(&'static str),
}

/// A requirement and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What became of it.
    pub finding: Finding,
}

fn row(name: &'static str, holds: bool, figures: String) -> Row {
    Row { name, finding: if holds { Finding::Holds(figures) } else { Finding::Fails(figures) } }
}

const NOT_TOLD: Finding = Finding::NotAsked("nobody told how to read the figure");

/// The rows of the run in which the server stands still for a while.
pub fn of_stall(asked: &Asked, record: &Record, said: &Said, used: f64) -> Vec<Row> {
    let arrivals: Vec<f64> = record.iter().map(|(at, _)| seconds(*at)).collect();
    vec![
        count(asked, &arrivals),
        spacing(asked, &arrivals),
        omission(asked, &arrivals),
        quantile("the median is the one of theory", asked, 0.5, said.p50),
        quantile("the 99th percentile is the one of theory", asked, 0.99, said.p99),
        quantile("the maximum is the one of theory", asked, 1.0, said.max),
        total("every request that arrived is in the total", &arrivals, said.total),
        little(asked, record, said),
        Row {
            name: "its own CPU time is known",
            finding: Finding::Holds(format!("{} for {} requests", duration(used), arrivals.len())),
        },
    ]
}

/// The row of the run in which the server dies.
pub fn of_death(record: &Record, said: &Said) -> Row {
    let arrivals: Vec<f64> = record.iter().map(|(at, _)| seconds(*at)).collect();
    let unanswered = record.iter().filter(|(_, answer)| answer.is_none()).count();
    let mut row = total("requests that were never answered are in the total", &arrivals, said.total);
    if let Finding::Holds(text) | Finding::Fails(text) = &mut row.finding {
        text.push_str(&format!(", {unanswered} without an answer"));
    }
    row
}

fn count(asked: &Asked, arrivals: &[f64]) -> Row {
    let want = asked.rate * asked.duration;
    // Random arrivals have a number that is random itself.
    let slack = if asked.poisson { 3.0 * want.sqrt() } else { 0.01 * want };
    let got = arrivals.len() as f64;
    let figures = format!("{got} of {want:.0} arrived");
    row("as many requests as were asked for", (got - want).abs() <= slack.max(1.0), figures)
}

/// Gaps between arrivals while the server answers. Evenly spaced: hardly any is short. Random: they are distributed
/// exponentially, by the distance of Kolmogorov and Smirnov.
fn spacing(asked: &Asked, arrivals: &[f64]) -> Row {
    let quiet = |at: f64| at < asked.stall.0;
    let mut times: Vec<f64> = arrivals.iter().copied().filter(|at| quiet(*at)).collect();
    times.sort_by(f64::total_cmp);
    let mut gaps: Vec<f64> = times.windows(2).map(|two| (two[1] - two[0]) * asked.rate).collect();
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len() as f64;
    if asked.poisson {
        let distance = (gaps.iter().enumerate())
            .map(|(i, gap)| ((i as f64 + 0.5) / n - (1.0 - (-gap).exp())).abs())
            .fold(0.0, f64::max);
        let bears = 1.63 / n.sqrt() + 0.03;
        let figures = format!("distance from exponential gaps {distance:.3}, {bears:.3} allowed");
        return row("random spacing", n > 0.0 && distance <= bears, figures);
    }
    let short = gaps.iter().filter(|gap| **gap < 0.25).count() as f64 / n.max(1.0);
    let figures = format!("{} of the gaps are shorter than a quarter of the period", percent(short));
    row("even spacing", n > 0.0 && short <= 0.25, figures)
}

/// Arrivals go on while the server stands still.
fn omission(asked: &Asked, arrivals: &[f64]) -> Row {
    let (from, until) = asked.stall;
    let during = arrivals.iter().filter(|at| (from..until).contains(*at)).count() as f64;
    let want = asked.rate * (until - from);
    let figures = format!("{during} of {want:.0} arrived while the server stood still");
    row("no omission while the server stands still", during >= 0.9 * want, figures)
}

/// A latency by theory: a request that should start t seconds into the stall of S seconds waits S - t, all others do not
/// wait.
fn quantile(name: &'static str, asked: &Asked, q: f64, said: Option<f64>) -> Row {
    let Some(said) = said else { return Row { name, finding: NOT_TOLD } };
    let stall = asked.stall.1 - asked.stall.0;
    let want = (stall - (1.0 - q) * asked.duration).max(0.0);
    let slack = 0.05 * stall + 0.1 * want;
    let figures = format!("{} said, {} by theory", duration(said), duration(want));
    row(name, (said - want).abs() <= slack, figures)
}

fn total(name: &'static str, arrivals: &[f64], said: Option<f64>) -> Row {
    let Some(said) = said else { return Row { name, finding: NOT_TOLD } };
    let got = arrivals.len() as f64;
    row(name, (said - got).abs() <= (0.01 * got).max(1.0), format!("{said:.0} said, {got:.0} arrived"))
}

/// Rate times mean latency is the mean number of requests in flight, as the server saw it.
fn little(asked: &Asked, record: &Record, said: &Said) -> Row {
    let name = "rate times mean latency is what was in flight";
    let (Some(total), Some(mean)) = (said.total, said.mean) else { return Row { name, finding: NOT_TOLD } };
    let answered = record.iter().filter_map(|(at, answer)| Some(seconds(answer.as_ref()? - at)));
    let (saw, claims) = (answered.sum::<f64>() / asked.duration, total * mean / asked.duration);
    let figures = format!("{claims:.2} by its figures, {saw:.2} at the server");
    row(name, (saw - claims).abs() <= 0.1 * saw + 0.01 * asked.rate, figures)
}
