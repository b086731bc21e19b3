//! What a panic leaves behind: a runtime that can go on, and handles that say what has become of their tasks.

mod util;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mini_runtime::{JoinHandle, Runtime, sleep, sleep_until, spawn, yield_now};
use proptest::prelude::*;
use util::within_deadline;

/// The text of the panic that ends `act`.
fn panic_of<T>(act: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(act)) else { panic!("it has not panicked") };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast::<&str>().map(|text| text.to_string()).unwrap_or_default(),
    }
}

/// Panics when it is dropped.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("in its drop");
    }
}

#[test]
fn a_panic_does_not_strand_the_others_of_the_turn() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async { panic!("on purpose") });
        let other = runtime.spawn(async {
            yield_now().await;
            "over"
        });
        assert_eq!(panic_of(|| runtime.block_on(pending::<()>())), "on purpose");
        assert_eq!(runtime.block_on(other).unwrap(), "over");
    });
}

#[test]
fn nor_those_that_a_timer_woke_with_it() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let deadline = Instant::now() + Duration::from_millis(300);
        runtime.spawn(async move {
            sleep_until(deadline).await;
            panic!("on purpose");
        });
        let other = runtime.spawn(sleep_until(deadline));
        assert_eq!(panic_of(|| runtime.block_on(pending::<()>())), "on purpose");
        runtime.block_on(other).unwrap();
    });
}

#[test]
fn a_panic_in_a_drop_does_not_strand_them_either() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let held = PanicsInDrop;
        // Ready at once, and dropped then, with what it holds.
        runtime.spawn(poll_fn(move |_| {
            let _held = &held;
            Poll::Ready(())
        }));
        let other = runtime.spawn(yield_now());
        assert_eq!(panic_of(|| runtime.block_on(pending::<()>())), "in its drop");
        runtime.block_on(other).unwrap();
    });
}

#[test]
fn a_panic_of_the_main_future_strands_nobody() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let mut other = None;
        let text = panic_of(|| {
            runtime.block_on(poll_fn(|cx| -> Poll<()> {
                if other.is_some() {
                    panic!("on purpose");
                }
                // Woken first, so that it is polled before the other in their next turn.
                cx.waker().wake_by_ref();
                other = Some(spawn(yield_now()));
                Poll::Pending
            }))
        });
        assert_eq!(text, "on purpose");
        runtime.block_on(other.unwrap()).unwrap();
    });
}

/// A waker that is no task's, and panics.
struct Panics;

impl std::task::Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a foreign waker");
    }
}

#[test]
fn a_waker_that_panics_keeps_no_other_from_being_called() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let deadline = Instant::now() + Duration::from_millis(300);
        let other = runtime.spawn(async move {
            // Registered first, and so called first.
            let mut foreign = Box::pin(sleep_until(deadline));
            let waker = Waker::from(Arc::new(Panics));
            assert!(foreign.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            sleep_until(deadline).await;
        });
        assert_eq!(panic_of(|| runtime.block_on(pending::<()>())), "a foreign waker");
        runtime.block_on(other).unwrap();
    });
}

#[test]
fn the_handle_of_a_task_that_panicked_says_so() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let lost: JoinHandle<()> = runtime.spawn(async { panic!("on purpose") });
        // Awaited already when the task panics: the waiting task is woken.
        let waits = runtime.spawn(lost);
        assert_eq!(panic_of(|| runtime.block_on(waits)), "on purpose");
        let text = panic_of(|| runtime.block_on(pending::<()>()));
        assert!(text.contains("the task has panicked, or its runtime is gone"), "{text:?}");
    });
}

#[test]
fn the_handle_of_a_runtime_that_is_gone_says_so() {
    within_deadline(|| {
        let gone = Runtime::new().unwrap();
        let polled = gone.spawn(pending::<()>());
        gone.block_on(yield_now()).unwrap();
        let new = gone.spawn(async {});
        drop(gone);
        for handle in [polled, new] {
            let text = panic_of(|| Runtime::new().unwrap().block_on(handle));
            assert!(text.contains("its runtime is gone"), "{text:?}");
        }
    });
}

#[test]
fn a_handle_gives_its_output_once() {
    within_deadline(|| {
        let text = panic_of(|| {
            Runtime::new().unwrap().block_on(async {
                let mut handle = spawn(async { 1 });
                assert_eq!((&mut handle).await, 1);
                handle.await
            })
        });
        assert!(text.contains("awaited before"), "{text:?}");
    });
}

/// Does what it is told when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_runtime_that_is_being_dropped_refuses_quietly() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let refused = Rc::new(RefCell::new(Vec::new()));
        let polled = Rc::new(Cell::new(0));
        // Two of them: a panic in each would abort the process.
        for _ in 0..2 {
            let (refused, polled) = (Rc::clone(&refused), Rc::clone(&polled));
            let dropped = OnDrop(move || {
                refused.borrow_mut().push(spawn(async { unreachable!("no task runs any more") }));
                let mut sleep = Box::pin(sleep(Duration::from_secs(3600)));
                assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                polled.set(polled.get() + 1);
            });
            runtime.spawn(async move {
                let _held = dropped;
                pending::<()>().await
            });
        }
        runtime.block_on(yield_now()).unwrap();
        drop(runtime);
        assert_eq!(polled.get(), 2);
        for handle in refused.take() {
            let _: &JoinHandle<()> = &handle;
            let text = panic_of(|| Runtime::new().unwrap().block_on(handle));
            assert!(text.contains("its runtime is gone"), "{text:?}");
        }
    });
}

#[test]
fn what_a_refused_task_holds_may_spawn_again() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let drops = Rc::new(Cell::new(0));
        let count = Rc::clone(&drops);
        let outer = OnDrop(move || {
            let count = Rc::clone(&count);
            // Refused, and dropped at once, with what it holds.
            let inner = OnDrop(move || {
                drop(spawn(async {}));
                count.set(count.get() + 1);
            });
            drop(spawn(async move { drop(inner) }));
        });
        runtime.spawn(async move {
            let _held = outer;
            pending::<()>().await
        });
        drop(runtime);
        assert_eq!(drops.get(), 1);
    });
}

/// What a task of the model does, poll by poll.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Wakes itself, and is pending.
    Yield,
    /// Panics in its poll.
    Panic,
    /// Is ready, and panics in its drop.
    PanicInDrop,
}

fn acts() -> impl Strategy<Value = Vec<Vec<Act>>> {
    let act = prop_oneof![4 => Just(Act::Yield), 1 => Just(Act::Panic), 1 => Just(Act::PanicInDrop)];
    proptest::collection::vec(proptest::collection::vec(act, 0..5), 1..8)
}

/// A task that follows its script, and notes each of its polls.
struct Scripted {
    name: usize,
    acts: VecDeque<Act>,
    log: Rc<RefCell<Vec<usize>>>,
    alive: Rc<Cell<usize>>,
    panics_in_drop: bool,
}

impl Future for Scripted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.log.borrow_mut().push(self.name);
        match self.acts.pop_front() {
            Some(Act::Yield) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Act::Panic) => panic!("on purpose"),
            Some(Act::PanicInDrop) => {
                self.panics_in_drop = true;
                Poll::Ready(())
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
        if self.panics_in_drop {
            panic!("in its drop");
        }
    }
}

/// The polls as they must be: one queue, from which each panic ends a turn early, and takes nobody's place.
fn expected(scripts: &[Vec<Act>]) -> (Vec<usize>, usize) {
    let (mut log, mut panics) = (Vec::new(), 0);
    let mut queue: VecDeque<(usize, usize)> = (0..scripts.len()).map(|name| (name, 0)).collect();
    while let Some((name, step)) = queue.pop_front() {
        log.push(name);
        match scripts[name].get(step) {
            Some(Act::Yield) => queue.push_back((name, step + 1)),
            Some(Act::Panic | Act::PanicInDrop) => panics += 1,
            None => {}
        }
    }
    (log, panics)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever panics, the others are polled as often, and in the order, as if there had been no panic.
    #[test]
    fn the_order_of_polls_survives_any_panics(scripts in acts()) {
        let (log, alive) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(scripts.len())));
        let runtime = Runtime::new().unwrap();
        for (name, acts) in scripts.iter().enumerate() {
            let acts = acts.iter().copied().collect();
            let (log, alive) = (Rc::clone(&log), Rc::clone(&alive));
            runtime.spawn(Scripted { name, acts, log, alive, panics_in_drop: false });
        }
        let mut panics = 0;
        // More turns than any script needs: a task that is stranded does not keep the test waiting.
        let mut turns = 0;
        while alive.get() > 0 && turns < 200 {
            let turn = poll_fn(|cx| {
                turns += 1;
                cx.waker().wake_by_ref();
                if alive.get() == 0 || turns >= 200 { Poll::Ready(()) } else { Poll::Pending }
            });
            match catch_unwind(AssertUnwindSafe(|| runtime.block_on(turn))) {
                Ok(ended) => ended.unwrap(),
                Err(_) => panics += 1,
            }
        }
        let (polls, all_panics) = expected(&scripts);
        prop_assert_eq!(&*log.borrow(), &polls);
        prop_assert_eq!(panics, all_panics);
    }
}

/// The parts that it lends to its thread may be gone before it is.
#[test]
fn a_runtime_may_live_as_long_as_its_thread() {
    thread_local! {
        static RUNTIME: Runtime = Runtime::new().unwrap();
    }
    within_deadline(|| {
        let dropped = Arc::new(());
        let held = Arc::clone(&dropped);
        let thread = thread::spawn(move || {
            RUNTIME.with(|runtime| {
                runtime.spawn(async move {
                    let _held = held;
                    sleep(Duration::from_secs(3600)).await;
                });
                runtime.block_on(yield_now()).unwrap();
            });
        });
        thread.join().unwrap();
        assert_eq!(Arc::strong_count(&dropped), 1, "its tasks are dropped with it");
    });
}
