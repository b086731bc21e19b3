//! How the target misbehaves, as pure functions of time: no sockets, no clock.
//!
//! All times are counted from the target's first request. A request that arrives goes through the token bucket, then
//! through the single server, then through the fixed delay; what comes out is the time at which its reply is due.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, Exp};

/// When the target stands still: once, or again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalls {
    /// Start of the first stall.
    pub first: Duration,
    /// Length of each stall.
    pub length: Duration,
    /// From one start to the next; `None` for a single stall.
    pub every: Option<Duration>,
}

impl Stalls {
    /// The end of the stall in which `at` lies, or `None` when the target works at that time.
    pub fn end_of(&self, at: Duration) -> Option<Duration> {
        let since = at.checked_sub(self.first)?;
        let start = match self.every {
            Some(every) => at - Duration::from_nanos((since.as_nanos() % every.as_nanos()) as u64),
            None => self.first,
        };
        Some(start + self.length).filter(|end| at < *end)
    }

    /// The start of the first stall that begins after `at`, or `None` when no more come.
    pub fn next_after(&self, at: Duration) -> Option<Duration> {
        let Some(since) = at.checked_sub(self.first) else { return Some(self.first) };
        let every = self.every?;
        Some(at + every - Duration::from_nanos((since.as_nanos() % every.as_nanos()) as u64))
    }

    // region: finish
    /// When work of length `work` that starts at `start` is done, if no work is done during stalls.
    pub fn finish(&self, start: Duration, work: Duration) -> Duration {
        let mut at = self.end_of(start).unwrap_or(start);
        let mut left = work;
        // Ends: `every` is longer than `length`, so that each round does some of the work.
        while let Some(stall) = self.next_after(at).filter(|stall| *stall < at + left) {
            left -= stall - at;
            at = stall + self.length;
        }
        at + left
    }
    // endregion: finish
}

/// A token bucket, full at the start.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Tokens held at most.
    burst: f64,
    /// From one token to the next, in nanoseconds.
    interval: f64,
    /// Whether a request without a token is refused instead of waiting for one.
    reject: bool,
    /// When the next token is there, in nanoseconds; in the past as long as tokens are left.
    next: f64,
}

impl TokenBucket {
    /// A bucket that gains `rate` tokens a second and holds `burst` at most (at least one).
    ///
    /// A request that finds no token waits for one, or is refused when `reject` is set.
    pub fn new(rate: f64, burst: u64, reject: bool) -> Self {
        Self { burst: burst as f64, interval: 1e9 / rate, reject, next: f64::NEG_INFINITY }
    }

    /// Takes a token for a request that arrives at `at`: when the token is there, or `None` for a refusal.
    ///
    /// Arrivals must come in order of time.
    pub fn take(&mut self, at: Duration) -> Option<Duration> {
        let now = at.as_nanos() as f64;
        // Not further back than `burst` tokens: what overflows the bucket is lost.
        let next = self.next.max(now - (self.burst - 1.0) * self.interval);
        if self.reject && next > now {
            return None;
        }
        self.next = next + self.interval;
        Some(nanos(next.max(now)))
    }
}

/// The service time of a [`SingleServer`].
#[derive(Debug, Clone)]
pub enum Service {
    /// Always the same: D in D/D/1 and M/D/1.
    Fixed(Duration),
    /// Exponential with this mean: the second M in M/M/1.
    Exponential(Duration),
}

/// One server with a first-come, first-served queue.
#[derive(Debug)]
pub struct SingleServer {
    service: Service,
    random: StdRng,
    free: Duration,
}

impl SingleServer {
    /// An idle server; `seed` determines its exponential service times.
    pub fn new(service: Service, seed: u64) -> Self {
        Self { service, random: StdRng::seed_from_u64(seed), free: Duration::ZERO }
    }

    /// When the server is done with a request that arrives at `at`. Arrivals must come in order of time.
    pub fn depart(&mut self, at: Duration, stalls: Option<&Stalls>) -> Duration {
        let work = match self.service {
            Service::Fixed(time) => time,
            Service::Exponential(mean) => {
                let unit = Exp::new(1.0).map_or(1.0, |unit| unit.sample(&mut self.random));
                nanos(mean.as_nanos() as f64 * unit)
            }
        };
        let start = at.max(self.free);
        self.free = stalls.map_or(start + work, |stalls| stalls.finish(start, work));
        self.free
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is answered at this time.
    Answer(Duration),
    /// It is refused at once.
    Reject,
    /// It is never answered: the target is dead, or will be before the reply is due.
    Silence,
}

/// All of a target's behaviour in time.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Times at which nothing is done.
    pub stalls: Option<Stalls>,
    /// Limit of the rate.
    pub bucket: Option<TokenBucket>,
    /// The queue.
    pub server: Option<SingleServer>,
    /// Added to each reply; does not occupy the server.
    pub delay: Duration,
    /// No reply at this time or later.
    pub dead_after: Option<Duration>,
}

impl Behaviour {
    /// Decides about a request that arrives at `at`. Arrivals must come in order of time.
    pub fn fate(&mut self, at: Duration) -> Fate {
        let alive = |at: Duration| self.dead_after.is_none_or(|end| at < end);
        if !alive(at) {
            return Fate::Silence;
        }
        let mut due = match &mut self.bucket {
            Some(bucket) => match bucket.take(at) {
                Some(due) => due,
                None => return Fate::Reject,
            },
            None => at,
        };
        if let Some(server) = &mut self.server {
            due = server.depart(due, self.stalls.as_ref());
        }
        due += self.delay;
        // A reply that falls due in a stall leaves at its end.
        due = self.stalls.as_ref().and_then(|stalls| stalls.end_of(due)).unwrap_or(due);
        if alive(due) { Fate::Answer(due) } else { Fate::Silence }
    }
}

/// Loss and duplication of replies by counting, so that a test knows the exact figures.
#[derive(Debug, Clone, Default)]
pub struct ReplyFaults {
    /// Every how many replies one is dropped.
    pub drop_every: Option<u64>,
    /// Every how many of the kept replies one is sent twice.
    pub duplicate_every: Option<u64>,
    replies: u64,
    kept: u64,
}

impl ReplyFaults {
    /// Faults that drop each `drop_every`-th reply and double each `duplicate_every`-th of the others.
    pub fn new(drop_every: Option<u64>, duplicate_every: Option<u64>) -> Self {
        Self { drop_every, duplicate_every, ..Self::default() }
    }

    /// How often the next reply is sent: 0, 1 or 2 times.
    pub fn copies(&mut self) -> usize {
        self.replies += 1;
        if self.drop_every.is_some_and(|k| self.replies.is_multiple_of(k)) {
            return 0;
        }
        self.kept += 1;
        if self.duplicate_every.is_some_and(|m| self.kept.is_multiple_of(m)) { 2 } else { 1 }
    }
}

/// Nanoseconds as a duration; rounds to whole ones.
fn nanos(value: f64) -> Duration {
    Duration::from_nanos(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Latencies, in seconds, of requests at a constant `rate` for `seconds` under `behaviour`.
    fn latencies(mut behaviour: Behaviour, rate: u64, seconds: u64) -> Vec<f64> {
        (0..rate * seconds)
            .map(|i| Duration::from_nanos(i * 1_000_000_000 / rate))
            .map(|at| match behaviour.fate(at) {
                Fate::Answer(due) => (due - at).as_secs_f64(),
                fate => panic!("request at {at:?} met {fate:?}"),
            })
            .collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn share_above(values: &[f64], x: f64) -> f64 {
        values.iter().filter(|value| **value > x).count() as f64 / values.len() as f64
    }

    fn near(measured: f64, expected: f64, tolerance: f64) {
        let error = (measured - expected).abs() / expected;
        assert!(error <= tolerance, "{measured} for {expected}, off by {:.2} %", 100.0 * error);
    }

    #[test]
    fn a_single_stall_begins_and_ends_once() {
        let stalls = Stalls { first: ms(100), length: ms(50), every: None };
        assert_eq!(stalls.end_of(ms(99)), None);
        assert_eq!(stalls.end_of(ms(100)), Some(ms(150)));
        assert_eq!(stalls.end_of(ms(149)), Some(ms(150)));
        assert_eq!(stalls.end_of(ms(150)), None);
        assert_eq!(stalls.next_after(ms(0)), Some(ms(100)));
        assert_eq!(stalls.next_after(ms(100)), None);
    }

    #[test]
    fn a_periodic_stall_comes_again() {
        let stalls = Stalls { first: ms(100), length: ms(50), every: Some(ms(1000)) };
        assert_eq!(stalls.end_of(ms(1099)), None);
        assert_eq!(stalls.end_of(ms(1100)), Some(ms(1150)));
        assert_eq!(stalls.end_of(ms(5120)), Some(ms(5150)));
        assert_eq!(stalls.next_after(ms(99)), Some(ms(100)));
        assert_eq!(stalls.next_after(ms(100)), Some(ms(1100)), "a start is not after itself");
        assert_eq!(stalls.next_after(ms(1101)), Some(ms(2100)));
    }

    #[test]
    fn work_rests_during_stalls() {
        let stalls = Stalls { first: ms(100), length: ms(50), every: Some(ms(100)) };
        assert_eq!(stalls.finish(ms(0), ms(100)), ms(100));
        assert_eq!(stalls.finish(ms(90), ms(20)), ms(160));
        assert_eq!(stalls.finish(ms(120), ms(10)), ms(160));
        assert_eq!(stalls.finish(ms(0), ms(220)), ms(370), "two stalls and a half");
    }

    #[test]
    fn one_stall_follows_its_formulas() {
        // T = 60 s, R = 1000/s, S = 6 s: the check values of mean, P(> 2 s) and p99 of an independent simulation.
        for (mu, expected_mean, expected_share, expected_p99) in [
            (None, 0.30005, 0.0667, 5.400),
            (Some(1250.0), 1.5008, 0.3334, 5.881),
            (Some(2000.0), 0.6005, 0.1333, 5.70),
        ] {
            let behaviour = Behaviour {
                stalls: Some(Stalls { first: ms(10_000), length: ms(6_000), every: None }),
                server: mu.map(|mu| SingleServer::new(Service::Fixed(Duration::from_secs_f64(1.0 / mu)), 0)),
                ..Behaviour::default()
            };
            let mut values = latencies(behaviour, 1000, 60);
            values.sort_by(f64::total_cmp);
            near(mean(&values), expected_mean, 0.01);
            near(share_above(&values, 2.0), expected_share, 0.01);
            near(values[values.len() * 99 / 100], expected_p99, 0.01);
            near(*values.last().unwrap(), 6.0, 0.001);
        }
    }

    #[test]
    fn periodic_stalls_follow_their_formulas() {
        let behaviour = Behaviour {
            stalls: Some(Stalls { first: ms(5_000), length: ms(1_000), every: Some(ms(10_000)) }),
            ..Behaviour::default()
        };
        let values = latencies(behaviour, 1000, 60);
        near(mean(&values), 0.05, 0.01);
        near(share_above(&values, 0.5), 0.05, 0.01);
    }

    #[test]
    fn queues_follow_their_formulas() {
        use rand::RngExt as _;
        // Poisson arrivals at λ = 800/s, μ = 1000/s: M/D/1 has mean s(1 + ρ/2(1-ρ)) = 3 s, M/M/1 has 1/(μ-λ) = 5 s.
        for (service, expected) in [(Service::Fixed(ms(1)), 0.003), (Service::Exponential(ms(1)), 0.005)] {
            let mut random = StdRng::seed_from_u64(7);
            let mut behaviour =
                Behaviour { server: Some(SingleServer::new(service, 1)), ..Behaviour::default() };
            let mut at = 0.0;
            let values: Vec<f64> = (0..400_000)
                .map(|_| {
                    at += -(1.0 - random.random::<f64>()).ln() / 800.0;
                    let arrival = Duration::from_secs_f64(at);
                    match behaviour.fate(arrival) {
                        Fate::Answer(due) => (due - arrival).as_secs_f64(),
                        fate => panic!("{fate:?}"),
                    }
                })
                .collect();
            near(mean(&values), expected, 0.05);
        }
    }

    #[test]
    fn a_bucket_passes_its_burst_then_its_rate() {
        let mut bucket = TokenBucket::new(100.0, 5, false);
        let at: Vec<_> = (0..8).map(|_| bucket.take(ms(0)).unwrap()).collect();
        assert_eq!(at, [0, 0, 0, 0, 0, 10, 20, 30].map(ms));
        // Three tokens of debt are gained back by 30 ms; by 60 ms three more have come in.
        let at: Vec<_> = (0..4).map(|_| bucket.take(ms(60)).unwrap()).collect();
        assert_eq!(at, [60, 60, 60, 70].map(ms));
        // However long it rests, it holds no more than its burst.
        let at: Vec<_> = (0..6).map(|_| bucket.take(ms(60_000)).unwrap()).collect();
        assert_eq!(at, [60_000, 60_000, 60_000, 60_000, 60_000, 60_010].map(ms));
    }

    #[test]
    fn a_rejecting_bucket_passes_exactly_rate_times_time_plus_burst() {
        let mut bucket = TokenBucket::new(300.0, 20, true);
        let passed = (0..10_000).filter(|i| bucket.take(ms(*i)).is_some()).count();
        assert_eq!(passed, 20 + 300 * 10 - 1, "the token of t = 10 s comes too late");
    }

    #[test]
    fn a_shaped_overload_grows_by_its_slope() {
        // R = 1200, r = 1000, b = 1: after 30 s the backlog is 6 s.
        let behaviour =
            Behaviour { bucket: Some(TokenBucket::new(1000.0, 1, false)), ..Behaviour::default() };
        let values = latencies(behaviour, 1200, 30);
        near(*values.last().unwrap(), 6.0, 0.001);
    }

    #[test]
    fn the_dead_stay_silent_and_so_do_replies_due_after_death() {
        let mut behaviour = Behaviour { delay: ms(10), dead_after: Some(ms(100)), ..Behaviour::default() };
        assert_eq!(behaviour.fate(ms(0)), Fate::Answer(ms(10)));
        assert_eq!(behaviour.fate(ms(89)), Fate::Answer(ms(99)));
        assert_eq!(behaviour.fate(ms(90)), Fate::Silence);
        assert_eq!(behaviour.fate(ms(5000)), Fate::Silence);
    }

    #[test]
    fn reply_faults_are_exact() {
        let (n, k, m) = (10_007_u64, 10_u64, 7_u64);
        let mut faults = ReplyFaults::new(Some(k), Some(m));
        let copies: Vec<_> = (0..n).map(|_| faults.copies()).collect();
        let lost = copies.iter().filter(|copies| **copies == 0).count() as u64;
        let doubled = copies.iter().filter(|copies| **copies == 2).count() as u64;
        assert_eq!(lost, n / k);
        assert_eq!(doubled, (n - lost) / m);
    }
}
