//! The run queue: tasks that want to be polled, pushed by any thread, taken by the executor's.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::Ordering;

use crate::sync::{Lock, Primitives, Std, Word};

/// The executor is about to block in the wait, or is blocked there.
const ASLEEP: usize = 1;

/// A first-in, first-out queue whose owner may be asleep.
///
/// A wake-up costs a system call, so it must be made only when the owner sleeps, and must never be missed
/// when it does. That takes an order on both sides:
///
/// | the owner | a waker |
/// |---|---|
/// | 1. raises the flag `asleep` | 1. pushes |
/// | 2. looks at the queue once more | 2. lowers the flag; if it was up, writes to the eventfd |
/// | 3. blocks only if it is still empty | |
///
/// Whoever comes second sees what the first one did: the lock around the queue orders the two steps of one side
/// against the two of the other. (Around a lock-free queue both sides would need a `SeqCst` fence between their steps.)
/// Of several wakers, only the first finds the flag up.
#[derive(Debug)]
pub struct RunQueue<T, P: Primitives = Std> {
    inner: P::Lock<Inner<T>>,
    asleep: P::Word,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    /// Set once the owner is gone. What is pushed then would stay for ever.
    closed: bool,
}

impl<T, P: Primitives> RunQueue<T, P> {
    /// Makes an empty queue whose owner is awake.
    pub fn new() -> Self {
        Self { inner: P::Lock::new(Inner { items: VecDeque::new(), closed: false }), asleep: P::Word::new(0) }
    }

    /// Appends `item`; drops it instead if the queue is closed.
    ///
    /// Returns whether the owner sleeps and the caller is the one who must wake it.
    pub fn push(&self, item: T) -> bool {
        // region: push
        let refused = self.inner.with(|inner| {
            if inner.closed {
                return Some(item);
            }
            inner.items.push_back(item);
            None
        });
        refused.is_none() && self.asleep.fetch_and(!ASLEEP, Ordering::AcqRel) & ASLEEP != 0
        // endregion: push
    }

    /// Exchanges all queued items for the empty `batch`: one lock for a whole turn of the executor.
    pub fn take(&self, batch: &mut VecDeque<T>) {
        debug_assert!(batch.is_empty(), "the last batch has been worked off");
        self.inner.with(|inner| mem::swap(&mut inner.items, batch));
    }

    /// Puts back at the front what is left of a batch that was not worked off; drops it instead if the queue is closed.
    ///
    /// For the owner, who is awake: nobody needs to be woken for it.
    pub fn put_back(&self, mut batch: VecDeque<T>) {
        self.inner.with(|inner| {
            if !inner.closed {
                batch.append(&mut inner.items);
                mem::swap(&mut inner.items, &mut batch);
            }
        });
    }

    /// Announces that the owner is going to block. Returns whether it may: `false` if there is work.
    ///
    /// One [`push`](Self::push) returns `true` for it, the first that comes. If it comes just when the result is
    /// `false`, its wake-up is not needed, and ends a later sleep early: one turn for nothing.
    pub fn try_sleep(&self) -> bool {
        // region: sleep
        self.asleep.fetch_or(ASLEEP, Ordering::AcqRel);
        let idle = self.inner.with(|inner| inner.items.is_empty());
        if !idle {
            self.awake();
        }
        idle
        // endregion: sleep
    }

    /// Ends what [`try_sleep`](Self::try_sleep) began: the owner is back, for whatever reason.
    pub fn awake(&self) {
        self.asleep.fetch_and(!ASLEEP, Ordering::AcqRel);
    }

    /// The owner is gone: returns what is still queued, and refuses all that comes later.
    pub fn close(&self) -> VecDeque<T> {
        self.inner.with(|inner| {
            inner.closed = true;
            mem::take(&mut inner.items)
        })
    }
}

impl<T, P: Primitives> Default for RunQueue<T, P> {
    fn default() -> Self {
        Self::new()
    }
}
