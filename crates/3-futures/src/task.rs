//! A task: what a `Waker` points to.
//!
//! The future itself never leaves the executor's thread, so it need not be `Send`. What wakers on other threads
//! share is this: a state, a name, and the way to the run queue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use crate::observer::{Observed, Step};
use crate::queue::RunQueue;
use crate::sync::Word;

/// The task is in the run queue, or its waker is about to put it there.
const QUEUED: usize = 1;
/// The future has finished or was dropped. It must never be polled again.
const DONE: usize = 2;

/// The state of a task, of which every wake is a part.
///
/// | bits | the task | a wake | the executor |
/// |---|---|---|---|
/// | none | waits for a wake | sets `QUEUED` and pushes the task | |
/// | `QUEUED` | is in the run queue | nothing more to do: wakes coalesce | clears the bit, **then** polls |
/// | `DONE` | is over | nothing to do | |
/// | both | is over, and still queued | nothing to do | takes it out, and does not poll |
///
/// A wake during the poll finds the bit clear, and so queues the task once more. Every operation is one
/// read-modify-write, even a wake that changes nothing: it must hand what its thread wrote to the poll that the
/// earlier wake has asked for. A wake that only looked ("is it queued already? then never mind") loses that.
#[derive(Debug)]
pub struct State<W: Word = AtomicUsize> {
    bits: W,
}

// region: state
impl<W: Word> State<W> {
    /// The state of a new task: waiting for its first wake.
    pub fn new() -> Self {
        Self { bits: W::new(0) }
    }

    /// Wakes. Returns whether the caller must push the task onto the run queue.
    pub fn wake(&self) -> bool {
        // hole: wake
        self.bits.fetch_or(QUEUED, Ordering::AcqRel) == 0
        // endhole: wake
    }

    /// The executor took the task from the queue. Returns whether to poll it.
    pub fn begin(&self) -> bool {
        // hole: begin
        self.bits.fetch_and(!QUEUED, Ordering::AcqRel) & DONE == 0
        // endhole: begin
    }

    /// The future is gone: no wake will queue the task again.
    pub fn finish(&self) {
        self.bits.fetch_or(DONE, Ordering::AcqRel);
    }
}
// endregion: state

impl<W: Word> Default for State<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// What all wakers of a runtime share, on whatever thread they are.
pub(crate) struct Shared {
    pub(crate) queue: RunQueue<Arc<Task>>,
    /// An eventfd in the reactor's epoll. Written to only when the executor sleeps.
    pub(crate) eventfd: mio::Waker,
    pub(crate) observed: Observed,
}

impl Shared {
    /// Queues a task that [`State::wake`] has allowed to be queued.
    pub(crate) fn schedule(&self, task: Arc<Task>) {
        if self.queue.push(task) {
            // A wake cannot report an error, and a write to an eventfd of our own has none to report.
            let _ = self.eventfd.wake();
        }
    }
}

/// A task as its wakers see it.
pub(crate) struct Task {
    pub(crate) state: State,
    /// Under which the executor keeps the future.
    pub(crate) number: u64,
    /// For the observer alone.
    pub(crate) name: &'static str,
    /// Where to queue, and whom to wake. The queue is closed, and so emptied of tasks, when the runtime ends; or
    /// the two would keep each other in memory.
    pub(crate) shared: Arc<Shared>,
}

// region: wake
/// std makes a `Waker` of an `Arc<Task>` by this trait; the raw table of function pointers stays in std.
impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Said first: once queued, the task may be polled before this thread goes on.
        self.shared.observed.observe(Step::Wake(self.name));
        if self.state.wake() {
            self.shared.schedule(Arc::clone(self));
        }
    }
}
// endregion: wake

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("state", &self.state).finish_non_exhaustive()
    }
}
