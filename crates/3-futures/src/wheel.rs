//! A hierarchical timing wheel: to set and to cancel a timer costs the same however many there are.
//!
//! Time is counted in ticks. A level has 64 slots; a slot of level 0 is one tick wide, and a slot of any other level
//! as wide as the whole level below. A timer stands in the level that is just fine enough to tell its tick from
//! now, and falls to finer levels as its time comes near. Six levels span 2^36 ticks, two years of
//! milliseconds; what lies beyond waits at the far end and is put off from there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

const LEVELS: usize = 6;
const SLOTS: usize = 64;
/// One level divides the bits of a tick after the next: six bits for 64 slots.
const BITS: usize = 6;
/// The farthest slot ahead that cannot be confused with one behind.
const FARTHEST: u64 = (1 << (BITS * LEVELS)) - (1 << (BITS * (LEVELS - 1)));

/// A timer: known to the wheel, which fires it, and to the future, which waits for it.
pub(crate) struct Entry {
    pub(crate) deadline: u64,
    pub(crate) waker: RefCell<Waker>,
    /// Where it stands in the wheel; nowhere once it has fired.
    place: Cell<Option<Place>>,
}

#[derive(Clone, Copy)]
struct Place {
    level: usize,
    slot: usize,
    /// In the slot's list.
    index: usize,
}

#[derive(Default)]
struct Level {
    /// One bit for each slot that is not empty: the next one is found by counting zeros.
    occupied: u64,
    slots: Box<[Vec<Rc<Entry>>]>,
}

pub(crate) struct Wheel {
    /// Every entry whose deadline is before this tick has been fired.
    now: u64,
    levels: [Level; LEVELS],
}

impl Entry {
    pub(crate) fn new(deadline: u64, waker: Waker) -> Rc<Self> {
        Rc::new(Self { deadline, waker: RefCell::new(waker), place: Cell::new(None) })
    }
}

impl Default for Wheel {
    fn default() -> Self {
        let level = || Level { occupied: 0, slots: (0..SLOTS).map(|_| Vec::new()).collect() };
        Self { now: 0, levels: std::array::from_fn(|_| level()) }
    }
}

impl Wheel {
    /// Puts an entry in. One that is overdue fires at the next [`advance`](Self::advance).
    pub(crate) fn insert(&mut self, entry: Rc<Entry>) {
        let when = entry.deadline.clamp(self.now, self.now.saturating_add(FARTHEST));
        // The highest bit in which it differs from now decides which level can tell the two apart.
        let highest = (self.now ^ when).checked_ilog2().unwrap_or(0) as usize;
        let level = (highest / BITS).min(LEVELS - 1);
        let slot = (when >> (BITS * level)) as usize % SLOTS;
        let entries = &mut self.levels[level].slots[slot];
        entry.place.set(Some(Place { level, slot, index: entries.len() }));
        entries.push(entry);
        self.levels[level].occupied |= 1 << slot;
    }

    /// Takes an entry out, if it has not fired.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        let Some(Place { level, slot, index }) = entry.place.take() else { return };
        let entries = &mut self.levels[level].slots[slot];
        entries.swap_remove(index);
        match entries.get(index) {
            // The last of the list has taken the free place.
            Some(moved) => moved.place.set(Some(Place { level, slot, index })),
            None if entries.is_empty() => self.levels[level].occupied &= !(1 << slot),
            None => {}
        }
    }

    /// The tick at which something is to be done: an entry to fire, or a slot to be spread over finer levels.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next_slot().map(|(tick, ..)| tick)
    }

    fn next_slot(&self) -> Option<(u64, usize, usize)> {
        // All of a finer level comes before all of a coarser one.
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let here = self.now >> (BITS * level);
        let ahead = self.levels[level].occupied.rotate_right((here % SLOTS as u64) as u32).trailing_zeros();
        let slot = here + u64::from(ahead);
        Some((slot << (BITS * level), level, slot as usize % SLOTS))
    }

    /// Moves on to the tick `now` and returns, to `fired`, the entries whose deadlines have come.
    pub(crate) fn advance(&mut self, now: u64, fired: &mut Vec<Rc<Entry>>) {
        while let Some((tick, level, slot)) = self.next_slot().filter(|next| next.0 <= now) {
            self.now = tick;
            self.levels[level].occupied &= !(1 << slot);
            for entry in std::mem::take(&mut self.levels[level].slots[slot]) {
                if entry.deadline <= tick {
                    entry.place.set(None);
                    fired.push(entry);
                } else {
                    self.insert(entry);
                }
            }
        }
        self.now = self.now.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deadlines(fired: &mut Vec<Rc<Entry>>) -> Vec<u64> {
        let mut deadlines: Vec<_> = fired.drain(..).map(|entry| entry.deadline).collect();
        deadlines.sort_unstable();
        deadlines
    }

    fn entry(deadline: u64) -> Rc<Entry> {
        Entry::new(deadline, Waker::noop().clone())
    }

    #[test]
    fn an_entry_is_found_in_few_steps_however_far_it_is() {
        for deadline in [0, 1, 63, 64, 65, 4_095, 4_096, 1 << 30, (1 << 36) - 1, 1 << 36, 1 << 40] {
            let mut wheel = Wheel::default();
            wheel.insert(entry(deadline));
            let mut fired = Vec::new();
            let mut steps = 0;
            while fired.is_empty() {
                let next = wheel.next().expect("it is in the wheel");
                assert!(next <= deadline, "the wheel would miss {deadline} at {next}");
                wheel.advance(next, &mut fired);
                steps += 1;
            }
            assert_eq!(wheel.now, deadline);
            // Six levels; the last one holds 2^36 ticks, and is gone through again for what lies beyond.
            assert!(
                steps <= LEVELS + (deadline >> (BITS * (LEVELS - 1))) as usize,
                "{deadline} took {steps} steps"
            );
            assert_eq!(wheel.next(), None);
        }
    }

    #[test]
    fn the_end_of_time_is_far_away() {
        let mut wheel = Wheel::default();
        wheel.insert(entry(u64::MAX));
        let mut fired = Vec::new();
        wheel.advance(1 << 41, &mut fired);
        assert!(fired.is_empty() && wheel.next().is_some_and(|next| next > 1 << 41));
    }

    #[test]
    fn what_was_removed_leaves_no_trace() {
        let mut wheel = Wheel::default();
        let entries: Vec<_> = (0..300).map(|n| entry(n % 7 * 50)).collect();
        entries.iter().for_each(|entry| wheel.insert(Rc::clone(entry)));
        entries.iter().rev().step_by(2).for_each(|entry| wheel.remove(entry));
        entries.iter().for_each(|entry| wheel.remove(entry));
        // Once more does no harm.
        wheel.remove(&entries[0]);
        assert_eq!(wheel.next(), None);
        assert!(entries.iter().all(|entry| Rc::strong_count(entry) == 1));
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Insert { after: u64 },
        Remove { which: usize },
        Advance { by: u64 },
        AdvanceToNext,
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        // Of every order of magnitude, so that all levels are met and their borders crossed.
        let ticks = || (0u32..42, any::<u64>()).prop_map(|(bits, tick)| tick & ((1 << bits) - 1));
        let operation = prop_oneof![
            4 => ticks().prop_map(|after| Operation::Insert { after }),
            2 => any::<usize>().prop_map(|which| Operation::Remove { which }),
            1 => ticks().prop_map(|by| Operation::Advance { by }),
            2 => Just(Operation::AdvanceToNext),
        ];
        proptest::collection::vec(operation, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The wheel does what a sorted list does: each entry fires once, at the first advance that reaches it.
        #[test]
        fn it_is_a_sorted_list(operations in operations()) {
            let mut wheel = Wheel::default();
            let mut model: Vec<Rc<Entry>> = Vec::new();
            let mut now = 0;
            let mut fired = Vec::new();
            for operation in operations {
                match operation {
                    Operation::Insert { after } => {
                        let entry = entry(now + after);
                        wheel.insert(Rc::clone(&entry));
                        model.push(entry);
                    }
                    Operation::Remove { which } if !model.is_empty() => {
                        wheel.remove(&model.swap_remove(which % model.len()));
                    }
                    Operation::Remove { .. } => {}
                    Operation::Advance { by } => now += by,
                    Operation::AdvanceToNext => now = wheel.next().unwrap_or(now).max(now),
                }
                wheel.advance(now, &mut fired);
                let mut due: Vec<_> = model.extract_if(.., |entry| entry.deadline <= now).map(|e| e.deadline).collect();
                due.sort_unstable();
                prop_assert_eq!(deadlines(&mut fired), due);
                let earliest = model.iter().map(|entry| entry.deadline).min();
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                prop_assert!(wheel.next() <= earliest, "it would sleep over an entry");
                prop_assert!(wheel.next().is_none_or(|next| next > now), "it would not sleep");
            }
        }
    }
}
