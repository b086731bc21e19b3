//! Wakes a worker when the next request is due.
//!
//! The default is an absolute timerfd: tokio's own timers know whole milliseconds and round up, so a request due now
//! would leave one to two milliseconds late, and its neighbours with it in one bunch.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::clock::{Monotonic, Nanos};

/// How a worker waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PacerKind {
    /// An absolute timer of the kernel's, as a descriptor: tens of microseconds late
    Timerfd,
    /// tokio's timer: one to two milliseconds late
    Tokio,
    /// Sleep until shortly before, then poll the clock: exact, and costs a whole core
    Spin,
}

impl PacerKind {
    /// As it stands in a result.
    pub fn name(self) -> &'static str {
        match self {
            PacerKind::Timerfd => "timerfd",
            PacerKind::Tokio => "tokio",
            PacerKind::Spin => "spin",
        }
    }
}

/// `AsyncFd` asks for a raw descriptor, which nix does not hand out; borrowing is enough for it.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Wakes its task at moments on CLOCK_MONOTONIC. Belongs to one thread's runtime.
#[derive(Debug)]
pub struct Pacer {
    kind: PacerKind,
    timer: AsyncFd<Timer>,
    /// What the timer is set to, until it has expired: setting it again to the same moment would be a wasted call.
    armed: Option<Nanos>,
}

/// The spinning pacer sleeps until this long before the moment: longer than a wake-up usually takes.
const SPIN: Nanos = 100_000;

impl Pacer {
    /// A pacer for the runtime and the thread that it is made on; the thread's timer slack becomes one nanosecond.
    ///
    /// # Errors
    /// No descriptor left for the timer.
    pub fn new(kind: PacerKind) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // The default slack of 50 µs would be added to every wait. Not allowed to: later, and the send lag shows it.
        _ = nix::sys::prctl::set_timerslack(1);
        #[allow(
            deprecated,
            reason = "its successor asks in unsafe for what Timer does: own one descriptor until dropped"
        )]
        let timer = AsyncFd::with_interest(Timer(timer), Interest::READABLE)?;
        Ok(Self { kind, timer, armed: None })
    }

    /// Waits until `at`; returns at once when it has passed. May be dropped and called again.
    ///
    /// # Errors
    /// None that a user could cause.
    pub async fn until(&mut self, at: Nanos) -> io::Result<()> {
        let now = Monotonic.now();
        if at <= now {
            return Ok(());
        }
        match self.kind {
            PacerKind::Timerfd => self.timer_until(at).await,
            PacerKind::Tokio => {
                tokio::time::sleep_until((Instant::now() + Duration::from_nanos(at - now)).into()).await;
                Ok(())
            }
            PacerKind::Spin => {
                if at - now > SPIN {
                    self.timer_until(at - SPIN).await?;
                }
                while Monotonic.now() < at {
                    // Lets the connections of this thread run, and looks for their events.
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        }
    }

    async fn timer_until(&mut self, at: Nanos) -> io::Result<()> {
        if self.armed != Some(at) {
            let time = TimeSpec::from_duration(Duration::from_nanos(at));
            self.timer.get_ref().0.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            self.armed = Some(at);
        }
        loop {
            // Never read: setting the timer again takes back what expired, and saves a call for each wake-up.
            self.timer.readable().await?.clear_ready();
            if Monotonic.now() >= at {
                self.armed = None;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pacer_wakes_and_none_wakes_early() {
        for kind in [PacerKind::Timerfd, PacerKind::Tokio, PacerKind::Spin] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut pacer = Pacer::new(kind).unwrap();
                for step in [3_000_000, 200_000, 0, 1_500_000] {
                    let at = Monotonic.now() + step;
                    pacer.until(at).await.unwrap();
                    assert!(Monotonic.now() >= at, "{kind:?} woke before its time");
                }
                // Dropped in the middle of a wait, it must neither be stuck nor keep the old moment.
                let soon = Monotonic.now() + 1_000_000;
                let late = Monotonic.now() + 5_000_000;
                tokio::select! { biased; _ = tokio::task::yield_now() => {}, _ = pacer.until(soon) => {} }
                pacer.until(late).await.unwrap();
                assert!(Monotonic.now() >= late, "{kind:?} kept the moment of a dropped wait");
            });
        }
    }
}
