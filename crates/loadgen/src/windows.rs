//! The windows of a run, however long it is.

use std::collections::BTreeMap;

use crate::clock::{Nanos, seconds};
use crate::record::{Metric, WINDOW, WindowRecord};
use crate::result::{Summary, Window};
use crate::schedule::{Arrival, Schedule, Share};

/// Keeps the windows of a run: merged over the workers, encoded, and halved in number when they become too many.
pub(crate) struct WindowStore {
    /// How many are too many.
    most: usize,
    /// Windows that some worker may still add to.
    open: BTreeMap<u64, WindowRecord>,
    kept: BTreeMap<u64, Kept>,
    /// Length of a kept window, in windows of the workers.
    fold: u64,
}

/// A window that is done: only its counts and its encoded metrics are held.
struct Kept {
    ok: u64,
    error: u64,
    timeout: u64,
    corrected: Summary,
    uncorrected: Summary,
}

/// More windows than this are folded in pairs, so that the memory of a long run stays constant.
pub(crate) const MOST_WINDOWS: usize = 900;

/// A worker may be this many windows behind another before its window is merged the slow way.
const OPEN_WINDOWS: u64 = 3;

impl WindowStore {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, open: BTreeMap::new(), kept: BTreeMap::new(), fold: 1 }
    }

    /// Takes a window of a worker; gives back its memory.
    pub(crate) fn add(&mut self, window: WindowRecord) -> Option<WindowRecord> {
        let newest = self.open.last_key_value().map_or(0, |(number, _)| *number).max(window.number);
        let spare = match self.open.get_mut(&window.number) {
            Some(open) => {
                open.merge(&window);
                Some(window)
            }
            None => {
                self.open.insert(window.number, window);
                None
            }
        };
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() + OPEN_WINDOWS <= newest)
        {
            let done = entry.remove();
            self.keep(&done);
            if spare.is_none() {
                return Some(done);
            }
        }
        spare
    }

    fn keep(&mut self, window: &WindowRecord) {
        let number = window.number / self.fold;
        let kept = Kept {
            ok: window.ok,
            error: window.error,
            timeout: window.timeout,
            corrected: window.corrected.summary(),
            uncorrected: window.uncorrected.summary(),
        };
        match self.kept.remove(&number) {
            None => self.kept.insert(number, kept),
            Some(other) => self.kept.insert(number, Self::fold_two(&kept, &other)),
        };
        if self.kept.len() > self.most {
            self.fold *= 2;
            for (number, kept) in std::mem::take(&mut self.kept) {
                let kept = match self.kept.remove(&(number / 2)) {
                    None => kept,
                    Some(other) => Self::fold_two(&other, &kept),
                };
                self.kept.insert(number / 2, kept);
            }
        }
    }

    fn fold_two(a: &Kept, b: &Kept) -> Kept {
        let sum = |a, b| {
            let mut sum = Metric::new();
            // Both were encoded by this process a moment ago.
            for one in [a, b].into_iter().flat_map(Metric::from_summary) {
                sum.merge(&one);
            }
            sum.summary()
        };
        Kept {
            ok: a.ok + b.ok,
            error: a.error + b.error,
            timeout: a.timeout + b.timeout,
            corrected: sum(&a.corrected, &b.corrected),
            uncorrected: sum(&a.uncorrected, &b.uncorrected),
        }
    }

    /// All windows of a run that lasted `duration`, empty ones included. `parts`: each worker's share of `schedule`, and how
    /// many of its requests were released; all of them, unless the run was ended early.
    pub(crate) fn finish(
        mut self,
        schedule: &Schedule,
        parts: &[(Share, u64)],
        duration: Nanos,
    ) -> Vec<Window> {
        for (_, window) in std::mem::take(&mut self.open) {
            self.keep(&window);
        }
        let length = WINDOW * self.fold;
        let scheduled = scheduled_by(schedule, parts, length);
        let fewest = duration.div_ceil(length);
        let kept = self.kept.last_key_value().map_or(0, |(number, _)| number + 1);
        let last = kept.max(scheduled.len() as u64).max(fewest);
        let empty = || Metric::new().summary();
        (0..last)
            .map(|number| {
                let kept = self.kept.remove(&number).unwrap_or_else(|| Kept {
                    ok: 0,
                    error: 0,
                    timeout: 0,
                    corrected: empty(),
                    uncorrected: empty(),
                });
                Window {
                    start: seconds(number * length),
                    length: seconds(length),
                    ok: kept.ok,
                    error: kept.error,
                    timeout: kept.timeout,
                    scheduled: scheduled.get(number as usize).copied().unwrap_or(0),
                    corrected: kept.corrected,
                    uncorrected: kept.uncorrected,
                }
            })
            .collect()
    }
}

/// How many of the released requests were due in each window of `length`, up to the last of them.
fn scheduled_by(schedule: &Schedule, parts: &[(Share, u64)], length: Nanos) -> Vec<u64> {
    let mut scheduled = Vec::new();
    let mut add = |window: u64, n: u64| {
        let window = window as usize;
        if scheduled.len() <= window {
            scheduled.resize(window + 1, 0);
        }
        scheduled[window] += n;
    };
    for (share, released) in parts {
        match &schedule.arrival {
            Arrival::Constant(_) | Arrival::Steps(..) | Arrival::Trace(_) => {
                let (mut before, windows) = (0, schedule.duration.div_ceil(length));
                for window in 0..windows {
                    let until = schedule.count_before(((window + 1) * length).min(schedule.duration));
                    let until = share.of_first(until).min(*released);
                    if until > before {
                        add(window, until - before);
                    }
                    before = until;
                    if before == *released {
                        break;
                    }
                }
            }
            Arrival::Poisson(..) | Arrival::Ramp(..) => {
                // No more than were released: an early end leaves the rest of a long schedule undrawn.
                let released = usize::try_from(*released).unwrap_or(usize::MAX);
                for due in schedule.cursor(*share).take(released) {
                    add(due.at / length, 1);
                }
            }
        }
    }
    scheduled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use crate::schedule::Rate;

    /// A long run has no more windows than a short one, and loses nothing by it.
    #[test]
    fn windows_are_folded_in_pairs_when_they_become_too_many() {
        let seconds = 41;
        let mut store = WindowStore::new(30);
        let mut spare = None;
        for number in 0..seconds {
            let mut window: WindowRecord = spare.take().unwrap_or_default();
            window = WindowRecord { number, ok: 2, ..window };
            window.corrected.clear();
            window.corrected.record(number + 1, number);
            window.corrected.record(1_000_000, number);
            spare = store.add(window);
        }
        let rate = Rate::new(2, 1).expect("not zero");
        let schedule = Schedule { arrival: Arrival::Constant(rate), duration: seconds * SECOND };
        let windows = store.finish(&schedule, &[(Share::ALL, u64::MAX)], schedule.duration);
        assert_eq!(windows.len() as u64, seconds.div_ceil(2));
        assert!(windows.iter().all(|window| window.length == 2.0));
        for (of, sum) in [
            ("ok", windows.iter().map(|w| w.ok).sum::<u64>()),
            ("scheduled", windows.iter().map(|w| w.scheduled).sum()),
            ("corrected", windows.iter().map(|w| w.corrected.count).sum()),
        ] {
            assert_eq!(sum, 2 * seconds, "{of}");
        }
        assert_eq!(windows[5].corrected.max, Some(0.001));
    }

    /// A run that is ended early has in its windows what its workers released, however far each of them had come: the one
    /// that was to wake at the moment of the end may have done so or not.
    #[test]
    fn the_windows_of_an_ended_run_hold_what_was_released() {
        let rate = Rate::new(2, 1).expect("not zero");
        let parts = [(Share { part: 0, of: 2 }, 3), (Share { part: 1, of: 2 }, 1)];
        for arrival in [Arrival::Constant(rate), Arrival::Ramp(rate, rate)] {
            let schedule = Schedule { arrival, duration: 3600 * SECOND };
            // Due at 0, 1 and 2 s, and at 0.5 s.
            let windows = WindowStore::new(30).finish(&schedule, &parts, 2 * SECOND - 1);
            let scheduled: Vec<u64> = windows.iter().map(|window| window.scheduled).collect();
            assert_eq!(scheduled, [2, 1, 1], "{:?}", schedule.arrival);
            assert_eq!(WindowStore::new(30).finish(&schedule, &parts, 4 * SECOND).len(), 4);
        }
    }
}
