//! The task's state and the run queue under every interleaving of their threads, by loom.
//!
//! loom needs no RUSTFLAGS here, since the code under test is generic over its primitives. Each model is run
//! on the real code with one waker and no bound, on the real code with two wakers and a bound on preemptions, and
//! on mutants: the real code with one plausible fault seeded, which the model must find.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed};

use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use mini_runtime::queue::RunQueue;
use mini_runtime::sync::{Lock, Primitives, Word};
use mini_runtime::task::State;

struct Loom;

impl Primitives for Loom {
    type Word = Bits<SOUND>;
    type Lock<T> = LoomLock<T>;
}

struct LoomLock<T>(Mutex<T>);

impl<T> Lock<T> for LoomLock<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }
}

/// An atomic word, sound or with one fault.
struct Bits<const FAULT: u8>(AtomicUsize);
const SOUND: u8 = 0;
/// Sets bits by a load and a store.
const TORN: u8 = 1;
/// Does not write bits that are set already: "it is queued, so there is nothing to do".
const LOOKING: u8 = 2;
/// Orders nothing but itself.
const UNORDERED: u8 = 3;

impl<const FAULT: u8> Word for Bits<FAULT> {
    fn new(bits: usize) -> Self {
        Self(AtomicUsize::new(bits))
    }
    fn fetch_or(&self, bits: usize, order: Ordering) -> usize {
        match FAULT {
            TORN => {
                let before = self.0.load(Acquire);
                self.0.store(before | bits, Ordering::Release);
                before
            }
            LOOKING => match self.0.load(Acquire) {
                before if before & bits == bits => before,
                _ => self.0.fetch_or(bits, order),
            },
            UNORDERED => self.0.fetch_or(bits, Relaxed),
            _ => self.0.fetch_or(bits, order),
        }
    }
    fn fetch_and(&self, bits: usize, order: Ordering) -> usize {
        self.0.fetch_and(bits, if FAULT == UNORDERED { Relaxed } else { order })
    }
}

/// A fault in the order of things, seeded into the calls of the model.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Takes the task's mark away after the poll instead of before.
    ClearAfterPoll,
    /// Does not note that the task is over.
    NeverDone,
    /// Looks whether the queue is empty, then raises the flag, and sleeps.
    LookThenSleep,
    /// Raises no flag and sleeps.
    SleepUnannounced,
    /// Empties the queue at the end, and leaves it open.
    LeaveOpen,
    /// Drops what a panic has left of a turn.
    DropTheRest,
    /// Queues it anew, behind what has come meanwhile.
    QueueTheRest,
}

struct Eventfd {
    /// Writes since it last ended a sleep.
    written: usize,
    /// How many writes there may be: one for each time that the flag was raised.
    allowed: usize,
    /// How many threads may still write.
    wakers: usize,
}

/// One task, its run queue, and the executor's eventfd.
struct Model<const WORD: u8> {
    state: State<Bits<WORD>>,
    queue: RunQueue<(), Loom>,
    eventfd: Mutex<Eventfd>,
    /// Notified of every change of the eventfd.
    changed: Condvar,
    fault: Fault,
}

impl<const WORD: u8> Model<WORD> {
    fn new(wakers: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            state: State::new(),
            queue: RunQueue::new(),
            eventfd: Mutex::new(Eventfd { written: 0, allowed: 0, wakers }),
            changed: Condvar::new(),
            fault,
        })
    }

    /// What `Task::wake_by_ref` and `Shared::schedule` do.
    fn wake(&self) {
        if self.state.wake() && self.queue.push(()) {
            self.eventfd.lock().unwrap().written += 1;
            self.changed.notify_one();
        }
    }

    /// A thread that does `first`, and then wakes, once.
    fn waker(this: &Arc<Self>, first: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
        let model = Arc::clone(this);
        thread::spawn(move || {
            first();
            model.wake();
            model.eventfd.lock().unwrap().wakers -= 1;
            model.changed.notify_one();
        })
    }

    /// One turn of the executor. Polls the task if it is queued; returns what the poll returned.
    fn turn(&self, poll: impl FnOnce() -> bool) -> Option<bool> {
        let mut batch = VecDeque::new();
        self.queue.take(&mut batch);
        assert!(batch.len() <= 1, "the task was queued twice");
        batch.pop_front()?;
        if self.fault == Fault::ClearAfterPoll {
            let ready = poll();
            self.state.begin();
            return Some(ready);
        }
        self.state.begin().then(poll)
    }

    /// What the executor does when a turn is over: sleeps until the eventfd is written to, unless there is work.
    fn sleep(&self) {
        self.eventfd.lock().unwrap().allowed += 1;
        let asleep = match self.fault {
            Fault::LookThenSleep => {
                let mut batch = VecDeque::new();
                self.queue.take(&mut batch);
                let idle = batch.is_empty();
                batch.into_iter().for_each(|task| _ = self.queue.push(task));
                if idle {
                    self.queue.try_sleep();
                }
                idle
            }
            Fault::SleepUnannounced => {
                let idle = self.queue.try_sleep();
                self.queue.awake();
                idle
            }
            _ => self.queue.try_sleep(),
        };
        if asleep {
            let mut eventfd = self.eventfd.lock().unwrap();
            while eventfd.written == 0 {
                assert!(
                    eventfd.wakers > 0,
                    "asleep for ever: everybody has called wake, and nobody has written"
                );
                eventfd = self.changed.wait(eventfd).unwrap();
            }
            // A write may be late, from a sleep that found work and so was none. It ends the next one early.
            assert!(eventfd.written <= eventfd.allowed, "more writes than raised flags");
            eventfd.allowed -= eventfd.written;
            eventfd.written = 0;
        }
        self.queue.awake();
    }

    fn finish(&self) {
        if self.fault != Fault::NeverDone {
            self.state.finish();
        }
    }

    fn close(&self) {
        match self.fault {
            Fault::LeaveOpen => self.queue.take(&mut VecDeque::new()),
            _ => drop(self.queue.close()),
        }
    }
}

/// Runs a model in all interleavings, or in those with at most `preemptions`.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// The model must fail on a mutant, in some interleaving, and for the reason given.
fn caught(mutant: &str, reason: &str, model: impl Fn() + Sync + Send + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| explore(None, model)));
    let panic = found.expect_err(&format!("the model has not found the mutant: {mutant}"));
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    assert!(text.is_some_and(|text| text.contains(reason)), "{mutant}: failed with {text:?}");
}

/// Lost wakes: threads each publish something and wake; the task must in the end have seen all of it.
fn no_wake_is_lost<const WORD: u8>(wakers: usize, fault: Fault) {
    let model = Model::<WORD>::new(wakers, fault);
    // Relaxed: what a thread wrote before its wake must be visible to the poll by virtue of the wake alone.
    let written: Arc<Vec<AtomicBool>> = Arc::new((0..wakers).map(|_| AtomicBool::new(false)).collect());
    for waker in 0..wakers {
        let written = Arc::clone(&written);
        Model::waker(&model, move || written[waker].store(true, Relaxed));
    }
    let mut polls = 0;
    while model.turn(|| {
        polls += 1;
        written.iter().all(|written| written.load(Relaxed))
    }) != Some(true)
    {
        model.sleep();
    }
    assert!(polls <= wakers, "{wakers} wakes made {polls} polls");
}

#[test]
fn lost_wake() {
    explore(None, || no_wake_is_lost::<SOUND>(1, Fault::None));
    explore(Some(3), || no_wake_is_lost::<SOUND>(2, Fault::None));
    caught("looks at the queue before it raises the flag", "asleep for ever", || {
        no_wake_is_lost::<SOUND>(1, Fault::LookThenSleep)
    });
    caught("sleeps without the flag", "asleep for ever", || {
        no_wake_is_lost::<SOUND>(1, Fault::SleepUnannounced)
    });
    caught("wakes without ordering", "asleep for ever", || no_wake_is_lost::<UNORDERED>(2, Fault::None));
    caught("a wake that only looks", "asleep for ever", || no_wake_is_lost::<LOOKING>(2, Fault::None));
}

/// Double wakes: of several wakes before a poll, one alone queues the task.
fn wakes_coalesce<const WORD: u8>(wakers: usize) {
    let model = Model::<WORD>::new(wakers, Fault::None);
    let threads: Vec<_> = (0..wakers).map(|_| Model::waker(&model, || {})).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(model.turn(|| false), Some(false), "woken {wakers} times, it is polled");
    assert_eq!(model.turn(|| false), None, "and once only");
}

#[test]
fn double_wake() {
    explore(None, || wakes_coalesce::<SOUND>(2));
    explore(Some(3), || wakes_coalesce::<SOUND>(3));
    caught("a load and a store in place of one operation", "queued twice", || wakes_coalesce::<TORN>(2));
}

/// Wake during the poll: the poll looked too early, so there must be another.
fn wake_during_poll_polls_again(fault: Fault) {
    let model = Model::<SOUND>::new(1, fault);
    model.wake();
    let published = Arc::new(AtomicBool::new(false));
    let waker = {
        let published = Arc::clone(&published);
        Model::waker(&model, move || published.store(true, Relaxed))
    };
    let mut seen = model.turn(|| published.load(Relaxed)).expect("it was woken before");
    waker.join().unwrap();
    while let Some(now) = model.turn(|| published.load(Relaxed)) {
        seen |= now;
    }
    assert!(seen, "the wake during the poll was lost");
}

#[test]
fn wake_during_poll() {
    explore(None, || wake_during_poll_polls_again(Fault::None));
    caught("the mark is taken away after the poll", "was lost", || {
        wake_during_poll_polls_again(Fault::ClearAfterPoll)
    });
}

/// Wake after drop: whatever the moment of the wake, a task that is over is never polled.
fn no_poll_after_the_end(wakers: usize, fault: Fault) {
    let model = Model::<SOUND>::new(wakers, fault);
    model.wake();
    let threads: Vec<_> = (0..wakers).map(|_| Model::waker(&model, || {})).collect();
    model.turn(|| true);
    model.finish();
    model.turn(|| panic!("polled after its end"));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    model.turn(|| panic!("polled after its end"));
}

#[test]
fn wake_after_drop() {
    explore(None, || no_poll_after_the_end(1, Fault::None));
    explore(Some(3), || no_poll_after_the_end(2, Fault::None));
    caught("the end is not noted", "polled after its end", || no_poll_after_the_end(1, Fault::NeverDone));
}

/// Shutdown: the runtime goes while a thread wakes. Nothing may stay in the queue, which the task's wakers keep in
/// memory, and which would keep the task in turn.
fn nothing_stays_queued(wakers: usize, fault: Fault) {
    let model = Model::<SOUND>::new(wakers, fault);
    let threads: Vec<_> = (0..wakers).map(|_| Model::waker(&model, || {})).collect();
    model.finish();
    model.close();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(model.queue.close().is_empty(), "a task stayed in the queue of a runtime that is gone");
}

#[test]
fn shutdown() {
    explore(None, || nothing_stays_queued(1, Fault::None));
    explore(Some(3), || nothing_stays_queued(2, Fault::None));
    caught("the queue is emptied and left open", "stayed in the queue", || {
        nothing_stays_queued(1, Fault::LeaveOpen)
    });
}

/// A panic ends a turn of three tasks after the first, while threads wake others. The rest of the turn is polled next, in its
/// order and before the others; all are polled once, and nobody sleeps while one of them is queued.
fn a_turn_that_a_panic_ends_is_resumed(wakers: usize, fault: Fault) {
    let queue = Arc::new(RunQueue::<usize, Loom>::new());
    (0..3).for_each(|task| assert!(!queue.push(task), "the owner is awake"));
    let threads: Vec<_> = (3..3 + wakers)
        .map(|task| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push(task))
        })
        .collect();
    let mut turn = VecDeque::new();
    queue.take(&mut turn);
    let mut polled = vec![turn.pop_front().expect("three were queued")];
    // Here it panics.
    match fault {
        Fault::DropTheRest => turn.clear(),
        Fault::QueueTheRest => turn.drain(..).for_each(|task| _ = queue.push(task)),
        _ => queue.put_back(mem::take(&mut turn)),
    }
    turn.clear();
    let mut written = 0;
    while !queue.try_sleep() {
        queue.take(&mut turn);
        polled.extend(turn.drain(..));
    }
    // Asleep: whoever comes now writes, and the owner looks again.
    for thread in threads {
        written += usize::from(thread.join().unwrap());
    }
    queue.awake();
    queue.take(&mut turn);
    assert!(turn.is_empty() || written > 0, "asleep for ever with {turn:?} in the queue");
    polled.extend(turn);
    assert!(polled.starts_with(&[0, 1, 2]), "the rest of the turn has lost its place: {polled:?}");
    polled.sort();
    assert_eq!(polled, (0..3 + wakers).collect::<Vec<_>>(), "each is polled once");
}

#[test]
fn panic_in_a_turn() {
    explore(None, || a_turn_that_a_panic_ends_is_resumed(1, Fault::None));
    explore(Some(3), || a_turn_that_a_panic_ends_is_resumed(2, Fault::None));
    caught("the rest of the turn is dropped", "lost its place", || {
        a_turn_that_a_panic_ends_is_resumed(1, Fault::DropTheRest)
    });
    caught("the rest of the turn is queued anew", "lost its place", || {
        a_turn_that_a_panic_ends_is_resumed(1, Fault::QueueTheRest)
    });
}

/// The models count on a sound word being one: if it were not, mutants would prove nothing.
#[test]
fn sound_word() {
    explore(None, || {
        let word = Arc::new(Bits::<SOUND>::new(0));
        let other = Arc::clone(&word);
        let thread = thread::spawn(move || other.fetch_or(1, AcqRel));
        let before = [word.fetch_or(1, AcqRel), thread.join().unwrap()];
        assert_eq!(before.iter().filter(|bits| **bits == 0).count(), 1);
    });
}
