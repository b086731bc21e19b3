//! Time: `sleep`, `interval` and `timeout`, on the wheel.
//!
//! The parts have the names that they have in tokio: an *entry* stands in the wheel, a *registration* is a
//! future's hold on its entry, a *deadline* is when. Ticks are milliseconds; a deadline is rounded up, so that
//! nothing fires early.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::current::Current;
use crate::observer::{Observed, Step};
use crate::wheel::{Entry, Wheel};

thread_local! {
    /// The timer of the runtime that runs on this thread.
    pub(crate) static CURRENT: Current<RefCell<Timer>> = const { Current::none() };
}

/// The wheel and the clock that drives it.
pub(crate) struct Timer {
    wheel: Wheel,
    /// Tick 0.
    start: Instant,
    fired: Vec<Rc<Entry>>,
    observed: Observed,
}

impl Timer {
    pub(crate) fn new(observed: Observed) -> Self {
        Self { wheel: Wheel::default(), start: Instant::now(), fired: Vec::new(), observed }
    }

    /// How long the executor may sleep, or `None` for as long as it likes.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let tick = self.wheel.next()?;
        // Beyond what an Instant can tell: wait for an hour, and see again.
        let deadline = self.start.checked_add(Duration::from_millis(tick));
        Some(deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now())))
    }

    /// Moves the wakers of those whose deadline has come to `woken`.
    pub(crate) fn fire(&mut self, woken: &mut VecDeque<Waker>) {
        // A program without timers does not read the clock.
        if self.wheel.next().is_none() {
            return;
        }
        let now = self.start.elapsed().as_millis() as u64;
        self.wheel.advance(now, &mut self.fired);
        for entry in self.fired.drain(..) {
            self.observed.observe(Step::Fire);
            woken.push_back(entry.waker.replace(Waker::noop().clone()));
        }
    }

    /// The first tick that is not before `deadline`.
    fn tick(&self, deadline: Instant) -> u64 {
        let nanos = deadline.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

/// A future's hold on its entry: dropping it cancels the timer.
struct Registration {
    entry: Rc<Entry>,
    timer: Rc<RefCell<Timer>>,
}

impl Registration {
    fn new(deadline: Instant, waker: &Waker) -> Self {
        let current = Current::get(&CURRENT);
        let entry = {
            let timer = &mut *current.borrow_mut();
            let entry = Entry::new(timer.tick(deadline), waker.clone());
            timer.wheel.insert(Rc::clone(&entry));
            timer.observed.observe(Step::Keep);
            entry
        };
        Self { entry, timer: current }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.timer.borrow_mut().wheel.remove(&self.entry);
    }
}

/// A future that is ready when its deadline has come. Made by [`sleep`] and [`sleep_until`].
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep {
    /// `None` if it lies beyond what the clock can tell.
    deadline: Option<Instant>,
    /// Made at the first poll: a sleep that is never awaited costs nothing.
    registration: Option<Registration>,
}

/// Waits for `duration`, to the next full millisecond; for ever, if that is longer than the clock can tell.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { deadline: Instant::now().checked_add(duration), registration: None }
}

/// Waits until `deadline`, to the next full millisecond.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline: Some(deadline), registration: None }
}

impl Future for Sleep {
    type Output = ();

    /// # Panics
    ///
    /// If no runtime runs on this thread.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        // The clock decides, not the wake: a spurious wake ends no sleep.
        if Instant::now() >= deadline {
            self.registration = None;
            return Poll::Ready(());
        }
        match &self.registration {
            Some(registration) => registration.entry.waker.borrow_mut().clone_from(cx.waker()),
            None => self.registration = Some(Registration::new(deadline, cx.waker())),
        }
        Poll::Pending
    }
}

/// Ticks at a fixed rate. Made by [`interval`].
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    /// `None` if it lies beyond what the clock can tell.
    next: Option<Instant>,
}

/// Ticks now, and then every `period`, which is at least a millisecond.
///
/// Ticks that were missed, because the task was busy or the process stopped, are skipped: the next one comes
/// at its place in the schedule, and no burst makes up for those lost. A tick that lies beyond what the clock can tell is
/// never due.
pub fn interval(period: Duration) -> Interval {
    Interval { period: period.max(Duration::from_millis(1)), next: Some(Instant::now()) }
}

impl Interval {
    /// Waits for the next tick; returns when it was due.
    pub async fn tick(&mut self) -> Instant {
        let Some(due) = self.next else { return pending().await };
        sleep_until(due).await;
        let missed = due.elapsed().as_nanos() / self.period.as_nanos();
        let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.next = due.checked_add(self.period.saturating_mul(steps));
        due
    }
}

/// What [`timeout`] returns in place of an output that came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline has passed")
    }
}

impl std::error::Error for Elapsed {}

/// Gives `future` the time `duration`, counted from now, and drops it when that is over.
///
/// # Errors
///
/// [`Elapsed`] if the future was not ready by then. One that is ready at the same moment counts as ready.
pub fn timeout<F: Future>(duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let mut sleep = sleep(duration);
    async move {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed)),
        })
        .await
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
