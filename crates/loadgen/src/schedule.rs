//! When requests should start: fixed in advance, recomputable, never dependent on the server.
//!
//! Times are nanoseconds from the schedule's start. The constant rate is exact integer arithmetic: request `i` of rate
//! `num / den` is due at `i * 10^9 * den / num`, rounded down, so no truncated period adds up to a wrong rate.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::clock::{Nanos, SECOND};

/// A rate as an exact fraction: `num` requests in `den` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    num: u64,
    den: u64,
}

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate: write requests a second (1000, 0.5, 2k, 1e3) or a fraction (600/m, 30/h), above zero"
)]
pub struct BadRate(String);

impl Rate {
    /// `num` requests in `den` seconds; `None` when either is zero.
    pub fn new(num: u64, den: u64) -> Option<Self> {
        if num == 0 || den == 0 {
            return None;
        }
        let (mut a, mut b) = (num, den);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Some(Self { num: num / a, den: den / a })
    }

    /// The nearest rate with three decimals, at least 0.001 a second: for rates that were computed.
    pub fn approximate(per_second: f64) -> Self {
        let num = (per_second * 1000.0).round().clamp(1.0, 1e15) as u64;
        Self::new(num, 1000).unwrap_or(Self { num: 1, den: 1000 })
    }

    /// Requests a second.
    pub fn per_second(self) -> f64 {
        self.num as f64 / self.den as f64
    }

    // region: at
    /// When request `index` is due.
    pub fn at(self, index: u64) -> Nanos {
        let at = u128::from(index) * u128::from(SECOND) * u128::from(self.den) / u128::from(self.num);
        Nanos::try_from(at).unwrap_or(Nanos::MAX)
    }
    // endregion: at

    /// How many requests are due before `end`: `ceil(rate * end)`, exact.
    pub fn count_before(self, end: Nanos) -> u64 {
        let period = u128::from(SECOND) * u128::from(self.den);
        let count = (u128::from(end) * u128::from(self.num)).div_ceil(period);
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let bad = || BadRate(text.to_owned());
        let (number, per) = match text.split_once('/') {
            None | Some((_, "s")) => (text.split('/').next().unwrap_or(text), 1),
            Some((number, "m")) => (number, 60),
            Some((number, "h")) => (number, 3600),
            Some(_) => return Err(bad()),
        };
        let (number, power) = if let Some(number) = number.strip_suffix('k') {
            (number, 3)
        } else if let Some((number, power)) = number.split_once(['e', 'E']) {
            (number, power.parse::<u32>().ok().filter(|power| *power <= 9).ok_or_else(bad)?)
        } else {
            (number, 0)
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty()
            || !digits(whole)
            || !digits(fraction)
            || fraction.len() > 9
        {
            return Err(bad());
        }
        let num: u64 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        let num = num.checked_mul(10_u64.pow(power)).ok_or_else(bad)?;
        let den = 10_u64.pow(fraction.len() as u32) * per;
        // Above a thousand million a second the period is below the clock's resolution.
        let rate = Rate::new(num, den).ok_or_else(bad)?;
        if rate.per_second() > 1e9 { Err(bad()) } else { Ok(rate) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.per_second() * 1000.0).round() / 1000.0)
    }
}

/// The shape of the arrivals.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// Evenly spaced.
    Constant(Rate),
    /// Exponential gaps of this mean rate, from this seed.
    Poisson(Rate, u64),
    /// From the first rate to the second, linearly over the schedule's duration.
    Ramp(Rate, Rate),
    /// These rates one after the other, each for this long; each step begins with a request.
    Steps(Arc<[Rate]>, Nanos),
    /// These times, ascending.
    Trace(Arc<[Nanos]>),
}

/// Arrivals over a duration: all indices whose time lies before its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub arrival: Arrival,
    /// The end; what is due at or after it is not in the schedule.
    pub duration: Nanos,
}

/// Which indices are ours: `i ≡ part (mod of)`. Interleaved, so that every part sees the whole schedule's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The remainder.
    pub part: u64,
    /// The number of parts.
    pub of: u64,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self { part: 0, of: 1 };

    /// Splits this share again: worker `part` of `of` within it.
    pub fn split(self, part: u64, of: u64) -> Self {
        Self { part: self.part + self.of * part, of: self.of * of }
    }

    /// How many of the indices below `count` are in this share.
    pub fn of_first(self, count: u64) -> u64 {
        if count > self.part { (count - self.part).div_ceil(self.of) } else { 0 }
    }
}

impl Schedule {
    /// The requests of `share`, in order.
    pub fn cursor(&self, share: Share) -> Cursor {
        let stream = match self.arrival {
            Arrival::Poisson(_, seed) => {
                Some(Stream { rng: SmallRng::seed_from_u64(seed), at: 0.0, drawn: 0 })
            }
            _ => None,
        };
        let mut cursor = Cursor { schedule: self.clone(), share, index: share.part, at: None, stream };
        cursor.at = cursor.compute();
        cursor
    }

    /// When request `index` is due, within the schedule or after it; `None` for Poisson arrivals, which have no
    /// formula, and past a trace's or the last step's end.
    pub fn at(&self, index: u64) -> Option<Nanos> {
        match &self.arrival {
            Arrival::Constant(rate) => Some(rate.at(index)),
            Arrival::Ramp(from, to) => ramp(from.per_second(), to.per_second(), self.duration, index),
            Arrival::Steps(rates, each) => {
                let mut rest = index;
                for (step, rate) in rates.iter().enumerate() {
                    let in_step = rate.count_before(*each);
                    if rest < in_step {
                        return Some(step as u64 * each + rate.at(rest));
                    }
                    rest -= in_step;
                }
                None
            }
            Arrival::Trace(times) => times.get(usize::try_from(index).ok()?).copied(),
            Arrival::Poisson(..) => None,
        }
    }

    /// How many requests are due before `end` (and within the schedule), in all shares together.
    pub fn count_before(&self, end: Nanos) -> u64 {
        let end = end.min(self.duration);
        match &self.arrival {
            Arrival::Constant(rate) => rate.count_before(end),
            Arrival::Trace(times) => times.partition_point(|at| *at < end) as u64,
            Arrival::Steps(rates, each) => {
                let step = |i: usize| end.saturating_sub(i as u64 * each).min(*each);
                rates.iter().enumerate().map(|(i, rate)| rate.count_before(step(i))).sum()
            }
            // Neither has a closed form that agrees with the cursor in its last nanosecond: walk it.
            Arrival::Poisson(..) | Arrival::Ramp(..) => {
                self.cursor(Share::ALL).take_while(|due| due.at < end).count() as u64
            }
        }
    }

    /// The mean rate over the whole duration.
    pub fn mean_rate(&self) -> f64 {
        match &self.arrival {
            Arrival::Constant(rate) | Arrival::Poisson(rate, _) => rate.per_second(),
            Arrival::Ramp(a, b) => (a.per_second() + b.per_second()) / 2.0,
            Arrival::Steps(rates, _) => {
                rates.iter().map(|r| r.per_second()).sum::<f64>() / rates.len().max(1) as f64
            }
            Arrival::Trace(times) => times.len() as f64 * 1e9 / self.duration.max(1) as f64,
        }
    }

    /// The highest rate at any moment of it.
    pub fn peak_rate(&self) -> f64 {
        match &self.arrival {
            Arrival::Ramp(a, b) => a.per_second().max(b.per_second()),
            Arrival::Steps(rates, _) => rates.iter().map(|r| r.per_second()).fold(0.0, f64::max),
            _ => self.mean_rate(),
        }
    }

    /// A schedule of the rate with which this one begins, for the warm-up before it.
    pub fn warm_up(&self, duration: Nanos) -> Self {
        let arrival = match &self.arrival {
            Arrival::Constant(rate) | Arrival::Ramp(rate, _) => Arrival::Constant(*rate),
            // Another seed: the warm-up must not rehearse the measured gaps.
            Arrival::Poisson(rate, seed) => Arrival::Poisson(*rate, seed ^ 0x57a7_1c5e_ed00_0001),
            Arrival::Steps(rates, _) => {
                Arrival::Constant(rates.first().copied().unwrap_or(Rate { num: 1, den: 1 }))
            }
            Arrival::Trace(_) => Arrival::Constant(Rate::approximate(self.mean_rate())),
        };
        Self { arrival, duration }
    }
}

/// A request of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its index among all requests of the schedule, other shares' included.
    pub index: u64,
    /// When it should start, from the schedule's start.
    pub at: Nanos,
}

/// Exponential gaps: every share draws the whole stream, so that shares on different machines agree on it.
#[derive(Clone, Debug)]
struct Stream {
    rng: SmallRng,
    at: f64,
    drawn: u64,
}

/// Walks the requests of one share. A clone walks the same ones again: a backlog is two cursors, not a queue.
#[derive(Clone, Debug)]
pub struct Cursor {
    schedule: Schedule,
    share: Share,
    index: u64,
    at: Option<Nanos>,
    stream: Option<Stream>,
}

impl Cursor {
    /// The next request, without moving on.
    pub fn peek(&self) -> Option<Due> {
        self.at.map(|at| Due { index: self.index, at })
    }

    fn compute(&mut self) -> Option<Nanos> {
        let i = self.index;
        let at = match &self.schedule.arrival {
            Arrival::Poisson(rate, _) => {
                let mean = 1e9 / rate.per_second();
                let stream = self.stream.as_mut()?;
                while stream.drawn <= i {
                    // 1 - u is in (0, 1]: its logarithm is finite.
                    stream.at -= (1.0 - stream.rng.random::<f64>()).ln() * mean;
                    stream.drawn += 1;
                }
                stream.at as Nanos
            }
            _ => self.schedule.at(i)?,
        };
        (at < self.schedule.duration).then_some(at)
    }
}

impl Iterator for Cursor {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        let due = self.peek()?;
        self.index = self.index.checked_add(self.share.of)?;
        self.at = self.compute();
        Some(due)
    }
}

/// The time at which the integral of a rate that moves linearly from `a` to `b` over `duration` reaches `index`.
fn ramp(a: f64, b: f64, duration: Nanos, index: u64) -> Option<Nanos> {
    let length = duration as f64 / 1e9;
    let slope = (b - a) / length;
    let root = a * a + 2.0 * slope * index as f64;
    // Below zero: the falling ramp never gets there.
    (root >= 0.0).then(|| {
        // This form of the solution of a t + slope t² / 2 = index does not cancel for small slopes.
        let t = 2.0 * index as f64 / (a + root.sqrt());
        (t * 1e9) as Nanos
    })
}

/// A request that is to be sent, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Index in its schedule.
    pub index: u64,
    /// When it should start, on the clock.
    pub intended: Nanos,
    /// When the generator woke up for it.
    pub released: Nanos,
    /// False for the warm-up, which is in no count.
    pub measured: bool,
}

/// Warm-up and measured schedule one after the other, on the clock.
#[derive(Clone, Debug)]
struct Timeline {
    warm_up: Cursor,
    measured: Cursor,
    start: Nanos,
    measured_start: Nanos,
}

impl Timeline {
    fn peek(&self) -> Option<Job> {
        let job = |due: Due, start, measured| Job {
            index: due.index,
            intended: start + due.at,
            released: 0,
            measured,
        };
        (self.warm_up.peek().map(|due| job(due, self.start, false)))
            .or_else(|| self.measured.peek().map(|due| job(due, self.measured_start, true)))
    }

    fn advance(&mut self) {
        if self.warm_up.next().is_none() {
            self.measured.next();
        }
    }
}

/// The requests that are due, and those that wait to be sent: an index range between two cursors, so it cannot
/// overflow and skips nothing, however long the server stands still.
#[derive(Clone, Debug)]
pub struct Backlog {
    due: Timeline,
    head: Timeline,
    /// For each wake-up, how many of its requests still wait and when it was; bounded, see [`Backlog::release`].
    batches: VecDeque<(u64, Nanos)>,
    waiting: u64,
    stopped: bool,
    coalesce: Nanos,
    /// See [`Backlog::next_wake`].
    wake: Option<Nanos>,
}

/// More wake-ups than this are not told apart in the backlog: their requests take the time of the last one that is.
const MOST_BATCHES: usize = 1 << 16;

impl Backlog {
    /// `schedule`'s requests of `share`; its warm-up starts at `start` on the clock and lasts `warm_up`. Requests that are
    /// due within `coalesce` leave together.
    pub fn new(schedule: &Schedule, share: Share, start: Nanos, warm_up: Nanos, coalesce: Nanos) -> Self {
        let due = Timeline {
            warm_up: schedule.warm_up(warm_up).cursor(share),
            measured: schedule.cursor(share),
            start,
            measured_start: start + warm_up,
        };
        let head = due.clone();
        let (batches, waiting, stopped, wake) = (VecDeque::new(), 0, false, None);
        let mut backlog = Self { due, head, batches, waiting, stopped, coalesce, wake };
        backlog.plan();
        backlog
    }

    /// Sets the next wake-up: when the last of those is due that are due within `coalesce` of the first. So the last of a
    /// batch leaves on time, and one that is alone does, too.
    fn plan(&mut self) {
        self.wake = self.due.peek().map(|job| job.intended);
        if self.coalesce == 0 {
            return;
        }
        // region: plan
        if let Some(first) = self.due.peek() {
            let mut ahead = self.due.clone();
            while let Some(job) = ahead.peek().filter(|job| job.intended <= first.intended + self.coalesce) {
                self.wake = Some(job.intended);
                ahead.advance();
            }
        }
        // endregion: plan
    }

    /// When to release next; `None` after the last.
    pub fn next_wake(&self) -> Option<Nanos> {
        if self.stopped { None } else { self.wake }
    }

    /// Releases all requests due at `now`, telling each to `each`, and says how many there were.
    pub fn release(&mut self, now: Nanos, mut each: impl FnMut(Job)) -> u64 {
        let mut count = 0;
        while let Some(job) = self.due.peek().filter(|job| !self.stopped && job.intended <= now) {
            self.due.advance();
            each(Job { released: now, ..job });
            count += 1;
        }
        if count > 0 {
            self.plan();
            self.waiting += count;
            let full = self.batches.len() >= MOST_BATCHES;
            match self.batches.back_mut() {
                Some(last) if full => last.0 += count,
                _ => self.batches.push_back((count, now)),
            }
        }
        count
    }

    /// The oldest released request that waits, without taking it.
    pub fn first(&self) -> Option<Job> {
        if self.waiting == 0 {
            return None;
        }
        let released = self.batches.front()?.1;
        self.head.peek().map(|job| Job { released: released.max(job.intended), ..job })
    }

    /// Takes the oldest released request that waits.
    pub fn take(&mut self) -> Option<Job> {
        let job = self.first()?;
        self.head.advance();
        self.waiting -= 1;
        if let Some(batch) = self.batches.front_mut() {
            batch.0 -= 1;
            if batch.0 == 0 {
                self.batches.pop_front();
            }
        }
        Some(job)
    }

    /// How many released requests wait.
    pub fn len(&self) -> u64 {
        self.waiting
    }

    /// True when no released request waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Ends the schedule early: nothing more becomes due.
    pub fn stop(&mut self) {
        self.stopped = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn constant(text: &str, seconds: u64) -> Schedule {
        Schedule { arrival: Arrival::Constant(rate(text)), duration: seconds * SECOND }
    }

    #[test]
    fn rates_are_exact_fractions() {
        assert_eq!(rate("600/m"), rate("10"));
        assert_eq!(rate("0.5"), Rate::new(1, 2).unwrap());
        assert_eq!(rate("30/h"), Rate::new(1, 120).unwrap());
        assert_eq!((rate("1k"), rate("1.5e3"), rate("6k/m")), (rate("1000"), rate("1500"), rate("100")));
        for bad in [
            "",
            "0",
            "0.0",
            "-1",
            "1e",
            "k",
            "1e99",
            "1e-3",
            "1kk",
            "x",
            "1/d",
            ".",
            "1.2.3",
            "inf",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?} was taken for a rate");
        }
    }

    /// A3: no drift. At 700,000 a second a period truncated to whole nanoseconds runs 0.04 % fast: the control.
    #[test]
    fn a3_constant_times_do_not_drift() {
        let r = rate("700000");
        assert_eq!(r.at(700_000 * 3600), 3600 * SECOND);
        let truncated = SECOND / 700_000 * 700_000 * 3600;
        assert!(
            truncated < 3600 * SECOND - SECOND,
            "the control, a truncated period, drifts by more than a second"
        );
    }

    /// A0: exactly ceil(R T) requests.
    #[test]
    fn a0_the_schedule_holds_exactly_its_requests() {
        for (text, seconds, count) in [("1000", 60, 60_000), ("0.3", 10, 3), ("1/m", 61, 2), ("3", 1, 3)] {
            let schedule = constant(text, seconds);
            assert_eq!(schedule.cursor(Share::ALL).count() as u64, count, "{text} for {seconds} s");
            assert_eq!(schedule.count_before(Nanos::MAX), count, "{text} for {seconds} s");
        }
    }

    fn some_schedule() -> impl Strategy<Value = Schedule> {
        let r = || (1_u64..5000, 1_u64..50).prop_map(|(n, d)| Rate::new(n, d).unwrap());
        let arrival = prop_oneof![
            r().prop_map(Arrival::Constant),
            (r(), any::<u64>()).prop_map(|(r, seed)| Arrival::Poisson(r, seed)),
            (r(), r()).prop_map(|(a, b)| Arrival::Ramp(a, b)),
            (prop::collection::vec(r(), 1..5), 1..SECOND).prop_map(|(v, d)| Arrival::Steps(v.into(), d)),
        ];
        (arrival, 0..2 * SECOND).prop_map(|(arrival, duration)| Schedule { arrival, duration })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// T16's ground: shares are disjoint, together everything, and each agrees with the whole on every time.
        #[test]
        fn shares_partition_the_schedule(schedule in some_schedule(), of in 1_u64..5) {
            let whole: Vec<Due> = schedule.cursor(Share::ALL).collect();
            let mut parts: Vec<Due> =
                (0..of).flat_map(|part| schedule.cursor(Share { part, of }).collect::<Vec<_>>()).collect();
            parts.sort_by_key(|due| due.index);
            prop_assert_eq!(&parts, &whole);
            prop_assert!(whole.windows(2).all(|w| w[0].at <= w[1].at));
            prop_assert_eq!(schedule.count_before(Nanos::MAX), whole.len() as u64);
            for part in 0..of {
                let share = Share { part, of };
                prop_assert_eq!(share.of_first(whole.len() as u64), schedule.cursor(share).count() as u64);
            }
        }

        /// The backlog gives back every request in order, whatever the pattern of wakes and takes.
        #[test]
        fn the_backlog_skips_nothing(schedule in some_schedule(), steps in prop::collection::vec((0..SECOND / 4, 0_usize..50), 1..40)) {
            let mut backlog = Backlog::new(&schedule, Share::ALL, 5, 0, 0);
            let (mut now, mut taken) = (5, Vec::new());
            for (pause, takes) in steps {
                now += pause;
                backlog.release(now, |_| ());
                for _ in 0..takes {
                    let Some(job) = backlog.take() else { break };
                    prop_assert!(job.intended <= job.released && job.released <= now);
                    taken.push(Due { index: job.index, at: job.intended - 5 });
                }
            }
            backlog.release(Nanos::MAX, |_| ());
            while let Some(job) = backlog.take() {
                taken.push(Due { index: job.index, at: job.intended - 5 });
            }
            prop_assert_eq!(taken, schedule.cursor(Share::ALL).collect::<Vec<_>>());
        }

        /// R23: no text makes the parser panic, and what it takes is a rate above zero.
        #[test]
        fn any_text_is_a_rate_or_an_error(text in "\\PC{0,12}|[0-9./msh]{0,12}") {
            if let Ok(rate) = text.parse::<Rate>() {
                prop_assert!(rate.per_second() > 0.0);
            }
        }
    }

    #[test]
    fn a_ramp_holds_its_mean() {
        let schedule = Schedule { arrival: Arrival::Ramp(rate("100"), rate("900")), duration: 10 * SECOND };
        let times: Vec<Due> = schedule.cursor(Share::ALL).collect();
        assert_eq!(times.len(), 5000);
        assert_eq!(
            times.iter().filter(|due| due.at < 5 * SECOND).count(),
            1500,
            "half a ramp is a quarter of its rise"
        );
    }

    /// The last of a batch leaves on time, none waits for longer than is allowed, and none that could have come along is
    /// left for a wake-up of its own.
    #[test]
    fn what_is_due_together_leaves_with_the_last_of_it() {
        let poisson = Schedule { arrival: Arrival::Poisson(rate("5000"), 3), duration: SECOND };
        for (schedule, coalesce, wakes) in [
            (constant("1000", 1), 999_999, Some(1000)),
            (constant("1000", 1), 1_000_000, Some(500)),
            (constant("10000", 1), 450_000, Some(2000)),
            (poisson.clone(), 0, None),
            (poisson, 1_000_000, None),
        ] {
            let mut backlog = Backlog::new(&schedule, Share::ALL, 7, 0, coalesce);
            let mut batches: Vec<Vec<Nanos>> = Vec::new();
            while let Some(wake) = backlog.next_wake() {
                let mut batch = Vec::new();
                backlog.release(wake, |job| batch.push(job.intended));
                assert_eq!(batch.last(), Some(&wake));
                assert!(wake - batch[0] <= coalesce);
                batches.push(batch);
            }
            assert!(batches.windows(2).all(|two| two[1][0] > two[0][0] + coalesce));
            let due: Vec<Nanos> = schedule.cursor(Share::ALL).map(|due| 7 + due.at).collect();
            assert_eq!(batches.concat(), due);
            assert!(wakes.is_none_or(|wakes| wakes == batches.len()), "{} wakes", batches.len());
        }
    }

    #[test]
    fn the_warm_up_is_told_apart() {
        let mut backlog = Backlog::new(&constant("10", 1), Share::ALL, 0, SECOND / 2, 0);
        backlog.release(10 * SECOND, |_| ());
        let jobs: Vec<Job> = std::iter::from_fn(|| backlog.take()).collect();
        assert_eq!(jobs.iter().filter(|job| !job.measured).count(), 5);
        let measured: Vec<&Job> = jobs.iter().filter(|job| job.measured).collect();
        assert_eq!((measured.len(), measured[0].index, measured[0].intended), (10, 0, SECOND / 2));
    }
}
