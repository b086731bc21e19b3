//! Exact waiting for any number of replies with one timer.
//!
//! The runtime's own timers are rounded up to whole milliseconds, which would be the largest part of many service
//! times. So the due times stand in a heap, and one timerfd is set for the first of them.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// `AsyncFd` asks for a raw descriptor, which nix's timer does not give.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Who waits, ordered by time and then by arrival.
struct Entry {
    key: (Instant, u64),
    wake: oneshot::Sender<()>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// The due times of one thread. [`Agenda::run`] must be polled for anybody to be woken.
pub(super) struct Agenda {
    timer: AsyncFd<Timer>,
    entries: RefCell<BinaryHeap<Reverse<Entry>>>,
    number: Cell<u64>,
}

impl Agenda {
    /// An empty agenda, inside a runtime with I/O.
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // The kernel may be 50 µs late by default, to spare wake-ups. Should it refuse, replies are that much later.
        let _ = nix::sys::prctl::set_timerslack(1);
        // `register`, its replacement, is unsafe: it trusts that the descriptor is never exchanged, as is so here.
        #[allow(deprecated, reason = "the replacement would need unsafe code")]
        let timer = AsyncFd::new(Timer(timer))?;
        Ok(Self { timer, entries: RefCell::default(), number: Cell::new(0) })
    }

    /// Waits until `at`; at once when that is past. Those who wait for the same time go on in the order in which
    /// they came.
    pub(super) async fn until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        let number = self.number.replace(self.number.get() + 1);
        let first = {
            let mut entries = self.entries.borrow_mut();
            entries.push(Reverse(Entry { key: (at, number), wake }));
            entries.peek().is_some_and(|entry| entry.0.key == (at, number))
        };
        if first {
            self.set(at);
        }
        // It fails only when the agenda is gone, and the program with it.
        let _ = woken.await;
    }

    /// Wakes each at their time, for ever.
    ///
    /// # Errors
    ///
    /// The runtime's I/O driver is gone.
    pub(super) async fn run(&self) -> io::Result<()> {
        loop {
            self.timer.readable().await?.clear_ready();
            let now = Instant::now();
            let next = loop {
                let mut entries = self.entries.borrow_mut();
                match entries.peek() {
                    Some(Reverse(entry)) if entry.key.0 <= now => {
                        if let Some(Reverse(entry)) = entries.pop() {
                            // Whoever no longer waits does not mind.
                            let _ = entry.wake.send(());
                        }
                    }
                    first => break first.map(|entry| entry.0.key.0),
                }
            };
            if let Some(next) = next {
                self.set(next);
            }
        }
    }

    /// Sets the timer for `at`, which also takes back an expiration that nobody has seen.
    fn set(&self, at: Instant) {
        // A time of zero would switch it off.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let set = self
            .timer
            .get_ref()
            .0
            .set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty());
        // It can fail for a bad descriptor or a malformed time only, and neither can come to be here.
        debug_assert!(set.is_ok(), "{set:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn everyone_is_woken_in_order_and_not_too_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let agenda = Rc::new(Agenda::new().unwrap());
            let woken = Rc::new(RefCell::new(Vec::new()));
            let driver = Rc::clone(&agenda);
            tokio::task::spawn_local(async move { driver.run().await });
            let start = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for (name, ms) in [("c", 30), ("a", 10), ("b1", 20), ("b2", 20), ("now", 0)] {
                let (agenda, woken) = (Rc::clone(&agenda), Rc::clone(&woken));
                tasks.spawn_local(async move {
                    let at = start + Duration::from_millis(ms);
                    agenda.until(at).await;
                    assert!(Instant::now() >= at, "{name} was woken too early");
                    woken.borrow_mut().push(name);
                });
            }
            let all = async {
                while let Some(done) = tasks.join_next().await {
                    done.unwrap()
                }
            };
            tokio::time::timeout(Duration::from_secs(20), all).await.expect("all woken within the deadline");
            assert_eq!(*woken.borrow(), ["now", "a", "b1", "b2", "c"]);
        });
    }
}
