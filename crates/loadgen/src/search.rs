//! The highest rate that holds an objective, found by trials that may be wrong.
//!
//! A load is judged from *all* its trials, weighed in seconds, after the multiple loss ratio search of the network
//! benchmarkers: a load is an upper bound when too large a share of its time failed, a lower bound when that can no
//! longer happen, and undecided in between. Two goals are always sought: *strict* (no trial may fail) and *typical*
//! (up to half of the time may).

use std::collections::BTreeMap;

use crate::result::{Bounds, Counts, TrialRow};
use crate::slo::Verdict;

/// What a search is to find. Times in seconds, rates a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// No rate below it is tried.
    pub min_rate: f64,
    /// No rate above it is tried.
    pub max_rate: Option<f64>,
    /// Length of a full trial.
    pub trial: f64,
    /// Trial time after which a load is decided.
    pub sum: f64,
    /// Relative width of the bounds at which the search ends.
    pub width: f64,
    /// How long the confirmation runs.
    pub hold: f64,
}

/// Why a trial is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A low rate: whether the target answers at all, and how long that takes.
    Baseline,
    /// Doubling until the first failure.
    Ramp,
    /// Halving the interval.
    Bisect,
    /// The goal itself, at full length.
    Confirm,
    /// One step of additive increase, multiplicative decrease.
    Aimd,
}

impl Phase {
    /// As it stands in a result.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Baseline => "baseline",
            Phase::Ramp => "ramp",
            Phase::Bisect => "bisect",
            Phase::Confirm => "confirm",
            Phase::Aimd => "aimd",
        }
    }
}

/// One trial to be run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Why.
    pub phase: Phase,
    /// Offered rate.
    pub rate: f64,
    /// Length.
    pub duration: f64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not a Pass.
    pub reasons: Vec<String>,
    /// Latency at the objective's percentile, in seconds.
    pub latency: Option<f64>,
    /// Its growth, in seconds a second.
    pub slope: Option<f64>,
    /// Well-answered requests a second.
    pub achieved_rate: f64,
    /// Counts.
    pub counts: Counts,
    /// Send lag at the 99th percentile, in seconds.
    pub send_lag_p99: Option<f64>,
    /// Seconds it ran in fact.
    pub seconds: f64,
    /// How long a reply took lately when it need not wait for others, in seconds.
    pub service: Option<f64>,
    /// How far the target was behind at most: the largest corrected latency, in seconds.
    pub behind: f64,
}

/// Runs trials: against a target, or against a formula.
pub trait Trial {
    /// What can go wrong that ends the whole search.
    type Error;

    /// Runs one trial.
    ///
    /// # Errors
    /// Whatever makes further trials pointless.
    fn run(&mut self, request: &Request) -> Result<Outcome, Self::Error>;

    /// Waits until the target has got over a trial that left it `behind` seconds behind, and says how many seconds that
    /// took: at most about twice as many. `service`: what a reply takes when it need not wait for others.
    ///
    /// # Errors
    /// Whatever makes further trials pointless.
    fn drain(&mut self, service: Option<f64>, behind: f64) -> Result<f64, Self::Error>;

    /// True when a signal asks for an end.
    fn interrupted(&self) -> bool {
        false
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// See the module.
    pub strict: Bounds,
    /// See the module.
    pub typical: Bounds,
    /// Well-answered requests a second at `typical.lower`: its median over the trial time.
    pub conditional_throughput: Option<f64>,
    /// The rate that held for the whole goal.
    pub confirmed: Option<f64>,
    /// How long a reply took in the last trial that passed, when it need not wait for others, in seconds.
    pub service: Option<f64>,
    /// aimd: mean rate of the second half.
    pub estimate: Option<f64>,
    /// Set when the generator was the limit: the highest rate that passed a trial. Not a capacity.
    pub limited_at: Option<f64>,
    /// Why, then.
    pub limited_by: Vec<String>,
    /// A signal ended it.
    pub interrupted: bool,
    /// Every trial.
    pub trials: Vec<TrialRow>,
}

/// The trial time at one load, in seconds.
#[derive(Clone, Debug, Default)]
struct Load {
    full_high: f64,
    full_low: f64,
    short_high: f64,
    short_low: f64,
    /// (achieved rate, seconds) of the full trials.
    achieved: Vec<(f64, f64)>,
}

/// What is known of a load for a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Upper,
    Lower,
    Undecided,
}

impl Load {
    /// `exceed`: the share of the time that may fail. `sum`: the time after which a load is decided.
    fn bound(&self, exceed: f64, sum: f64) -> Bound {
        let balance = self.short_high - self.short_low * exceed / (1.0 - exceed);
        let high = self.full_high + balance.max(0.0);
        let whole = (high + self.full_low).max(sum);
        if high > exceed * whole {
            Bound::Upper
        } else if whole - self.full_low <= exceed * whole {
            Bound::Lower
        } else {
            Bound::Undecided
        }
    }
}

/// The last rate of the ramp that passed, and the first that failed.
type Seed = (Option<f64>, Option<f64>);

/// Why a search ends before it has found anything.
enum Stop<E> {
    Limited(Vec<String>),
    Interrupted,
    Error(E),
}

struct Searcher<'a, T> {
    trial: &'a mut T,
    settings: &'a Settings,
    /// By rate in thousandths, so that a rate tried again is the same load.
    loads: BTreeMap<u64, Load>,
    found: Found,
    best_pass: Option<f64>,
    /// By how many seconds the last trial left the target behind, unless it passed.
    behind: Option<f64>,
}

/// Runs this many invalid trials in a row, and no more.
const MOST_INVALID: usize = 3;

impl<T: Trial> Searcher<'_, T> {
    fn clamp(&self, rate: f64) -> f64 {
        let rate = rate.max(self.settings.min_rate).min(self.settings.max_rate.unwrap_or(f64::MAX));
        (rate * 1000.0).round().max(1.0) / 1000.0
    }

    /// Runs trials at `rate` until one is valid; true when it passed.
    fn measure(&mut self, phase: Phase, rate: f64, duration: f64) -> Result<bool, Stop<T::Error>> {
        let mut reasons = Vec::new();
        for _ in 0..MOST_INVALID {
            if self.trial.interrupted() {
                return Err(Stop::Interrupted);
            }
            let drained = match self.behind.take() {
                Some(behind) => self.trial.drain(self.found.service, behind).map_err(Stop::Error)?,
                None => 0.0,
            };
            let request = Request { phase, rate, duration };
            let outcome = self.trial.run(&request).map_err(Stop::Error)?;
            if self.trial.interrupted() {
                return Err(Stop::Interrupted);
            }
            let verdict = outcome.verdict;
            let achieved = outcome.achieved_rate;
            if phase == Phase::Baseline || verdict == Verdict::Pass {
                self.found.service = outcome.service.or(self.found.service);
            }
            self.found.trials.push(TrialRow {
                phase: phase.name().to_owned(),
                rate,
                duration,
                seconds: outcome.seconds,
                verdict: verdict.name().to_owned(),
                reasons: outcome.reasons.clone(),
                achieved_rate: achieved,
                latency: outcome.latency,
                slope: outcome.slope,
                counts: outcome.counts,
                send_lag_p99: outcome.send_lag_p99,
                drained,
            });
            if verdict == Verdict::Invalid {
                reasons = outcome.reasons;
                self.behind = Some(outcome.behind);
                continue;
            }
            let pass = verdict == Verdict::Pass;
            self.behind = (!pass).then_some(outcome.behind);
            if pass {
                self.best_pass = Some(self.best_pass.map_or(rate, |best| best.max(rate)));
            }
            if matches!(phase, Phase::Bisect | Phase::Confirm) {
                let full = duration >= self.settings.trial;
                let load = self.loads.entry((rate * 1000.0).round() as u64).or_default();
                *match (full, pass) {
                    (true, true) => &mut load.full_low,
                    (true, false) => &mut load.full_high,
                    (false, true) => &mut load.short_low,
                    (false, false) => &mut load.short_high,
                } += duration;
                if full {
                    load.achieved.push((achieved, duration));
                }
            }
            return Ok(pass);
        }
        Err(Stop::Limited(reasons))
    }

    /// Smallest upper bound and largest lower bound below it.
    fn bounds(&self, exceed: f64) -> Bounds {
        let with = |bound: Bound| {
            let sum = self.settings.sum;
            self.loads.iter().filter(move |(_, load)| load.bound(exceed, sum) == bound).map(|(rate, _)| *rate)
        };
        let upper = with(Bound::Upper).min();
        let lower = with(Bound::Lower).filter(|rate| upper.is_none_or(|upper| *rate < upper)).max();
        let rate = |thousandths: u64| thousandths as f64 / 1000.0;
        Bounds { lower: lower.map(rate), upper: upper.map(rate) }
    }

    /// Doubles from the lowest rate until a failure; (last pass, first failure) are a seed only.
    fn ramp(&mut self) -> Result<Seed, Stop<T::Error>> {
        let start = self.clamp(self.settings.min_rate.max(100.0));
        let length = |rate: f64| (20.0 / rate).clamp(1.0, self.settings.trial.max(1.0));
        let (mut low, mut rate) = (None, start);
        loop {
            if self.measure(Phase::Ramp, rate, length(rate))? {
                low = Some(rate);
                if self.settings.max_rate.is_some_and(|max| rate >= max) {
                    return Ok((low, None));
                }
                rate = self.clamp(rate * 2.0);
            } else if low.is_some() {
                return Ok((low, Some(rate)));
            } else {
                break;
            }
        }
        // The first rate was too high already: halve.
        loop {
            let high = rate;
            if high <= self.settings.min_rate {
                return Ok((None, Some(high)));
            }
            rate = self.clamp(rate / 2.0);
            let length = (20.0 / rate).clamp(1.0, self.settings.trial.max(1.0));
            if self.measure(Phase::Ramp, rate, length)? {
                return Ok((Some(rate), Some(high)));
            }
        }
    }

    /// Narrows (low, high) to `width` with trials of `duration`, small loads first. Its trials are short: their
    /// result is where to look, not what is found.
    fn narrow(
        &mut self,
        mut low: f64,
        mut high: f64,
        duration: f64,
        width: f64,
    ) -> Result<(f64, f64), Stop<T::Error>> {
        let mut step = width;
        while !self.measure(Phase::Bisect, low, duration)? {
            high = low;
            if low <= self.settings.min_rate {
                return Ok((low, high));
            }
            low = self.clamp(low / (1.0 + step));
            step *= 2.0;
        }
        while (high - low) / high > width {
            let middle = self.clamp((low * high).sqrt());
            if middle <= low || middle >= high {
                break;
            }
            if self.measure(Phase::Bisect, middle, duration)? { low = middle } else { high = middle }
        }
        Ok((low, high))
    }

    /// Measures until the bounds for `exceed` are decided and narrow.
    fn goal(&mut self, exceed: f64, low: f64, high: Option<f64>) -> Result<(), Stop<T::Error>> {
        let Settings { width, min_rate, max_rate, trial, .. } = *self.settings;
        let (mut down, mut up) = (width, width);
        loop {
            let candidate = match self.bounds(exceed) {
                Bounds { lower: Some(lower), upper: Some(upper) } => {
                    let middle = self.clamp((lower * upper).sqrt());
                    if (upper - lower) / upper <= width || middle <= lower || middle >= upper {
                        return Ok(());
                    }
                    middle
                }
                Bounds { lower: None, upper } => match upper {
                    Some(upper) if upper <= low => {
                        if upper <= min_rate {
                            return Ok(());
                        }
                        let next = self.clamp(upper / (1.0 + down));
                        down *= 2.0;
                        next
                    }
                    _ => low,
                },
                Bounds { lower: Some(lower), upper: None } => {
                    if max_rate.is_some_and(|max| lower >= max) {
                        return Ok(());
                    }
                    match high {
                        Some(high) if high > lower => high,
                        _ => {
                            let next = self.clamp(lower * (1.0 + up));
                            up *= 2.0;
                            next
                        }
                    }
                }
            };
            let key = (candidate * 1000.0).round() as u64;
            loop {
                self.measure(Phase::Bisect, candidate, trial)?;
                let sum = self.settings.sum;
                if self.loads.get(&key).is_some_and(|load| load.bound(exceed, sum) != Bound::Undecided) {
                    break;
                }
            }
        }
    }

    /// The goal at full length, at the strict lower bound; after a failure one width down, at most three times.
    fn confirm(&mut self) -> Result<(), Stop<T::Error>> {
        let Some(mut rate) = self.found.strict.lower else { return Ok(()) };
        for _ in 0..=3 {
            if self.measure(Phase::Confirm, rate, self.settings.hold)? {
                self.found.confirmed = Some(rate);
                self.found.strict.lower = Some(rate);
                return Ok(());
            }
            self.found.strict.upper = Some(rate);
            self.found.strict.lower = None;
            let next = self.clamp(rate * (1.0 - self.settings.width));
            if next >= rate {
                break;
            }
            rate = next;
        }
        Ok(())
    }

    fn baseline(&mut self) -> Result<(), Stop<T::Error>> {
        let rate = self.clamp(20.0);
        self.measure(Phase::Baseline, rate, (10.0 / rate).max(1.0)).map(|_| ())
    }

    fn mlr(&mut self) -> Result<(), Stop<T::Error>> {
        self.baseline()?;
        let (low, high) = self.ramp()?;
        let Settings { trial, width, .. } = *self.settings;
        let Some(mut low) = low else {
            // Not even the lowest rate passed: decide it properly, and be done.
            let lowest = high.unwrap_or(self.settings.min_rate);
            let outcome = self.goal(0.0, lowest, None);
            self.found.strict = self.bounds(0.0);
            self.found.typical = self.bounds(0.5);
            return outcome;
        };
        let mut high = high;
        if let Some(seed) = high {
            let (mut l, mut h) = self.narrow(low, seed, trial / 4.0, 4.0 * width)?;
            (l, h) = self.narrow(l, h, trial / 2.0, 2.0 * width)?;
            (low, high) = (l, Some(h));
        }
        let outcome = self.goal(0.0, low, high);
        self.found.strict = self.bounds(0.0);
        outcome?;
        let strict = self.found.strict;
        let outcome = self.goal(0.5, strict.lower.unwrap_or(low), strict.upper.or(high));
        self.found.typical = self.bounds(0.5);
        outcome?;
        self.found.conditional_throughput = self.found.typical.lower.and_then(|rate| {
            let load = self.loads.get(&((rate * 1000.0).round() as u64))?;
            let mut achieved = load.achieved.clone();
            achieved.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let half = achieved.iter().map(|(_, seconds)| seconds).sum::<f64>() / 2.0;
            let mut passed = 0.0;
            achieved.iter().find_map(|(rate, seconds)| {
                passed += seconds;
                (passed >= half).then_some(*rate)
            })
        });
        self.confirm()
    }

    /// "Scale up and down": a step up after each good window, a tenth down after a bad one, without waiting for the
    /// target to get over it. It swings about the capacity by at least its own decrease: an estimate.
    fn aimd(&mut self) -> Result<(), Stop<T::Error>> {
        self.baseline()?;
        let mut rate = match self.ramp()? {
            (Some(low), _) => low,
            (None, high) => high.unwrap_or(self.settings.min_rate),
        };
        let step = rate * 0.02;
        let window = (self.settings.trial / 4.0).max(1.0);
        let (mut spent, mut rates) = (0.0, Vec::new());
        while spent < self.settings.hold {
            self.behind = None;
            let pass = self.measure(Phase::Aimd, rate, window)?;
            spent += window;
            rates.push(rate);
            let half = &rates[rates.len() / 2..];
            self.found.estimate = Some(half.iter().sum::<f64>() / half.len() as f64);
            rate = self.clamp(if pass { rate + step } else { rate * 0.9 });
        }
        Ok(())
    }
}

/// Searches; `aimd` asks for the estimate by additive increase and multiplicative decrease.
///
/// # Errors
/// What the trials return.
pub fn search<T: Trial>(trial: &mut T, settings: &Settings, aimd: bool) -> Result<Found, T::Error> {
    let mut searcher = Searcher {
        trial,
        settings,
        loads: BTreeMap::new(),
        found: Found::default(),
        best_pass: None,
        behind: None,
    };
    let outcome = if aimd { searcher.aimd() } else { searcher.mlr() };
    let mut found = searcher.found;
    match outcome {
        Ok(()) => {}
        Err(Stop::Error(error)) => return Err(error),
        Err(Stop::Interrupted) => found.interrupted = true,
        Err(Stop::Limited(reasons)) => {
            // Whatever passed below it is a fact about the generator's reach, not about the server.
            found.limited_at = Some(searcher.best_pass.unwrap_or(0.0));
            found.limited_by = reasons;
            found.strict = Bounds::default();
            found.typical = Bounds::default();
            found.confirmed = None;
            found.estimate = None;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(full_low: f64, full_high: f64, short_low: f64, short_high: f64) -> Load {
        Load { full_low, full_high, short_low, short_high, achieved: Vec::new() }
    }

    #[test]
    fn a_load_is_judged_from_all_its_trials() {
        use Bound::{Lower, Undecided, Upper};
        for (l, strict, typical) in [
            (load(0.0, 0.0, 0.0, 0.0), Undecided, Undecided),
            (load(4.0, 0.0, 0.0, 0.0), Undecided, Undecided),
            (load(12.0, 0.0, 0.0, 0.0), Undecided, Lower),
            (load(20.0, 0.0, 0.0, 0.0), Lower, Lower),
            (load(16.0, 4.0, 0.0, 0.0), Upper, Lower),
            (load(0.0, 12.0, 0.0, 0.0), Upper, Upper),
            (load(8.0, 8.0, 0.0, 0.0), Upper, Undecided),
            // Short failures count only as far as short passes do not balance them, and never for strict's passes.
            (load(20.0, 0.0, 2.0, 2.0), Upper, Lower),
        ] {
            assert_eq!((l.bound(0.0, 20.0), l.bound(0.5, 20.0)), (strict, typical), "{l:?}");
        }
    }
}
