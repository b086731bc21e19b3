//! A worker's view of what it shares with the rest of a run: the stop flag, its gauge, the way its windows go; and what
//! it hands back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::{Monotonic, Nanos, SECOND, seconds};
use crate::record::{Recorder, WindowRecord};
use crate::result::{UdpCounts, WarmUp};

/// What a worker tells the others while it runs.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    pub(crate) pending: AtomicU64,
    pub(crate) over_limit: AtomicU64,
}

/// What the workers of a run share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    /// What became of the warm-ups that are over, and how many workers that are.
    pub(crate) warmed_up: Mutex<(WarmUp, usize)>,
    pub(crate) gauges: Vec<Gauge>,
}

/// What a worker hands back.
pub(crate) struct WorkerEnd {
    pub(crate) recorder: Recorder,
    pub(crate) opened: usize,
    pub(crate) cap: usize,
    pub(crate) wakes: u64,
    pub(crate) udp: Option<UdpCounts>,
    /// Replies that its sockets' buffers dropped; `None` when the kernel did not say.
    pub(crate) kernel_dropped: Option<u64>,
    pub(crate) cpu: CpuUse,
}

/// A worker's view of what it shares: stop flag, gauge, the way its windows go.
pub(crate) struct Reporter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: usize,
    pub(crate) full: Sender<WindowRecord>,
    pub(crate) empty: Receiver<WindowRecord>,
    pub(crate) next_report: Nanos,
    pub(crate) limit: Option<Nanos>,
    /// When the warm-up is over; `None` once it has been told what became of it.
    pub(crate) warm_until: Option<Nanos>,
}

/// How often a worker looks for the stop flag at least.
pub(crate) const STOP_CHECK: Nanos = 50_000_000;

impl Reporter {
    /// True when the run is to end early.
    pub(crate) fn stopped(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }

    /// True when the next [`Reporter::report`] will pass the numbers on: counting them at each wake would cost too much.
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        now >= self.next_report
    }

    /// The latency above which requests are to be counted.
    pub(crate) fn limit(&self) -> Option<Nanos> {
        self.limit
    }

    /// Sends closed windows off; from time to time, tells how many requests are pending and how many too slow.
    pub(crate) fn report(&mut self, recorder: &mut Recorder, now: Nanos, pending: u64, over: u64) {
        while let Some(window) = recorder.take_full() {
            // The receiver lives as long as the run; without one the window would have no reader anyway.
            _ = self.full.send(window);
        }
        if !self.is_due(now) {
            return;
        }
        self.next_report = now + STOP_CHECK / 2;
        while let Ok(window) = self.empty.try_recv() {
            recorder.recycle(window);
        }
        if self.warm_until.is_some_and(|until| now >= until) {
            self.warm_until = None;
            let mut warmed_up = self.shared.warmed_up.lock().unwrap_or_else(PoisonError::into_inner);
            warmed_up.0.add(&recorder.warm_up);
            warmed_up.1 += 1;
        }
        let gauge = &self.shared.gauges[self.number];
        gauge.pending.store(pending, Relaxed);
        gauge.over_limit.store(over, Relaxed);
    }
}

/// CPU time of a thread between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuUse {
    /// At the start: CPU, wait for a core, clock.
    start: Option<(Nanos, Nanos, Nanos)>,
    end: Option<(Nanos, Nanos, Nanos)>,
}

impl CpuUse {
    /// Call at each wake: notes the first one at or after `start` and the first one at or after `end`.
    pub(crate) fn note(&mut self, now: Nanos, start: Nanos, end: Nanos) {
        if self.start.is_none() && now >= start {
            self.start = Some(Self::read(now));
        } else if self.end.is_none() && now >= end {
            self.end = Some(Self::read(now));
        }
    }

    /// Call when the worker ends.
    pub(crate) fn close(&mut self) {
        self.end.get_or_insert_with(|| Self::read(Monotonic.now()));
    }

    fn read(now: Nanos) -> (Nanos, Nanos, Nanos) {
        // "CPU wait slices"; where the kernel keeps no such account, only the CPU clock remains.
        let account = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut numbers = account.split_whitespace().map_while(|n| n.parse::<Nanos>().ok());
        let _ = numbers.next();
        let wait = numbers.next().unwrap_or(0);
        let cpu = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map_or(0, |t| t.tv_sec() as u64 * SECOND + t.tv_nsec() as u64);
        (cpu, wait, now)
    }

    /// (CPU seconds, share of wall time, share of wall time with the wait for a core).
    pub(crate) fn spent(&self) -> (f64, f64, f64) {
        let (Some(start), Some(end)) = (self.start, self.end) else { return (0.0, 0.0, 0.0) };
        let cpu = seconds(end.0.saturating_sub(start.0));
        let wait = seconds(end.1.saturating_sub(start.1));
        let wall = seconds(end.2.saturating_sub(start.2)).max(1e-3);
        (cpu, cpu / wall, (cpu + wait) / wall)
    }
}
