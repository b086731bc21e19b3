//! Time: nanoseconds of CLOCK_MONOTONIC in a live run. The engine takes it as an argument, so that a test can make it up.

/// Nanoseconds on the clock in use.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// CLOCK_MONOTONIC: the clock of the timerfd, so that both speak of the same instants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Monotonic {
    /// Nanoseconds since an origin that stays the same for the life of the process.
    pub fn now(self) -> Nanos {
        // The call has no failure for this clock on any Linux; a 0 would be seen at once as an enormous send lag.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(0, |t| t.tv_sec() as u64 * SECOND + t.tv_nsec() as u64)
    }
}

/// Seconds as nanoseconds, for numbers that come from people; saturating, and 0 for what is negative.
pub fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9).round() as Nanos
}

/// Nanoseconds as seconds.
pub fn seconds(ns: Nanos) -> f64 {
    ns as f64 / 1e9
}
