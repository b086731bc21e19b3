//! Tasks and the executor: how often a future is polled, and by what. Counts, taken from the observer.

mod util;

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use futures::stream::{FuturesUnordered, StreamExt};
use mini_runtime::{Runtime, Step, sleep, spawn, spawn_named, yield_now};
use util::{Log, within_deadline};

#[test]
fn a_ready_future_is_polled_once_and_nothing_waits() {
    within_deadline(|| {
        let log = Log::default();
        assert_eq!(log.runtime().block_on(async { 7 }).unwrap(), 7);
        assert_eq!(log.steps(), [Step::Poll("main"), Step::Ready("main")]);
    });
}

#[test]
fn a_future_that_wakes_itself_is_polled_again_and_nobody_sleeps() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                for _ in 0..9 {
                    yield_now().await;
                }
            })
            .unwrap();
        assert_eq!(log.count(Step::Poll("main")), 10);
        assert_eq!(log.count(Step::Wake("main")), 9);
        assert_eq!(
            log.count(Step::Wait { idle: false }),
            9,
            "a look at the descriptors between any two polls"
        );
        assert_eq!(log.count(Step::Wait { idle: true }), 0);
    });
}

#[test]
fn wakes_during_a_poll_make_one_more_poll() {
    within_deadline(|| {
        let log = Log::default();
        let mut polls = 0;
        log.runtime()
            .block_on(poll_fn(|cx| {
                polls += 1;
                if polls == 2 {
                    return Poll::Ready(());
                }
                let threads: Vec<_> = (0..5)
                    .map(|_| {
                        let waker = cx.waker().clone();
                        thread::spawn(move || waker.wake())
                    })
                    .collect();
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                Poll::Pending
            }))
            .unwrap();
        assert_eq!((log.count(Step::Wake("main")), log.count(Step::Poll("main"))), (5, 2));
    });
}

#[test]
fn a_thread_ends_the_sleep() {
    within_deadline(|| {
        let log = Log::default();
        let mut polls = 0;
        log.runtime()
            .block_on(poll_fn(|cx| {
                polls += 1;
                let (waker, log) = (cx.waker().clone(), log.clone());
                if polls == 1 {
                    thread::spawn(move || {
                        while log.count(Step::Wait { idle: true }) == 0 {
                            thread::yield_now();
                        }
                        waker.wake();
                    });
                    return Poll::Pending;
                }
                Poll::Ready(())
            }))
            .unwrap();
        assert_eq!(polls, 2);
        assert_eq!(log.count(Step::Wait { idle: true }), 1);
    });
}

#[test]
fn a_turn_is_fair() {
    within_deadline(|| {
        let log = Log::default();
        let order = Rc::new(RefCell::new(String::new()));
        let writer = |name: char| {
            let order = Rc::clone(&order);
            async move {
                for _ in 0..4 {
                    order.borrow_mut().push(name);
                    yield_now().await;
                }
            }
        };
        let runtime = log.runtime();
        let (a, b) = (runtime.spawn(writer('a')), runtime.spawn(writer('b')));
        runtime.block_on(async { (a.await, b.await) }).unwrap();
        assert_eq!(*order.borrow(), "abababab");
    });
}

#[test]
fn the_handle_gives_the_output_and_dropping_it_does_not_end_the_task() {
    within_deadline(|| {
        let done = Rc::new(Cell::new(false));
        let runtime = Runtime::new().unwrap();
        let output = runtime.block_on(async {
            let task = {
                let done = Rc::clone(&done);
                spawn(async move {
                    yield_now().await;
                    done.set(true);
                })
            };
            drop(task);
            let early = spawn(async { "early" });
            yield_now().await;
            yield_now().await;
            // The one is over when it is awaited, the other is not.
            [early.await, spawn_named("late", async { "late" }).await]
        });
        assert_eq!(output.unwrap(), ["early", "late"]);
        assert!(done.get());
    });
}

#[test]
fn a_join_handle_polled_by_another_task_wakes_that_one() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let mut first = spawn_named("first", async {
                    yield_now().await;
                    yield_now().await;
                    1
                });
                // Polled here, and awaited elsewhere: the second waker replaces the first.
                assert!(futures::poll!(&mut first).is_pending());
                spawn_named("second", async move { assert_eq!(first.await, 1) }).await;
            })
            .unwrap();
        assert_eq!(log.count(Step::Wake("second")), 1);
        assert_eq!(log.count(Step::Wake("main")), 1, "by the second task alone");
    });
}

#[test]
fn tasks_left_over_go_on_in_the_next_block_on() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let counter = Rc::new(Cell::new(0));
        let count = Rc::clone(&counter);
        let task = runtime.spawn(async move {
            for _ in 0..10 {
                count.set(count.get() + 1);
                yield_now().await;
            }
        });
        runtime.block_on(yield_now()).unwrap();
        let before = counter.get();
        assert!((1..10).contains(&before), "{before}");
        runtime.block_on(task).unwrap();
        assert_eq!(counter.get(), 10);
    });
}

/// R22: wakers on their own, dropped and called in any order, after the task and after the runtime.
#[test]
fn wakers_outlive_task_and_runtime() {
    within_deadline(|| {
        let log = Log::default();
        let runtime = log.runtime();
        let wakers = Rc::new(RefCell::new(Vec::<Waker>::new()));
        let alive = Rc::new(());
        for _ in 0..3 {
            let (wakers, alive) = (Rc::clone(&wakers), Rc::clone(&alive));
            runtime.spawn(poll_fn(move |cx| {
                let _held = &alive;
                let keep = |waker: &Waker| wakers.borrow_mut().push(waker.clone());
                keep(cx.waker());
                keep(&cx.waker().clone());
                if wakers.borrow().len() == 4 { Poll::Ready(()) } else { Poll::Pending }
            }));
        }
        runtime.block_on(yield_now()).unwrap();
        let polls = log.count(Step::Poll("task"));
        assert_eq!(polls, 3);
        assert_eq!(log.count(Step::Ready("task")), 1);
        let wakers = wakers.take();
        // Of the task that is over; of one that is not.
        wakers[2].wake_by_ref();
        wakers[3].wake_by_ref();
        runtime.block_on(yield_now()).unwrap();
        assert_eq!(log.count(Step::Poll("task")), 3, "a task that is over is not polled");
        let thread = {
            let wakers = wakers.clone();
            thread::spawn(move || wakers.iter().for_each(Waker::wake_by_ref))
        };
        drop(runtime);
        thread.join().unwrap();
        assert_eq!(Rc::strong_count(&alive), 1, "the runtime has dropped its futures");
        wakers.into_iter().for_each(Waker::wake);
        assert_eq!(log.count(Step::Poll("task")), 3);
    });
}

/// A task whose waker is all that is left of it is freed with the last waker: nothing points in a circle.
#[test]
fn nothing_leaks() {
    within_deadline(|| {
        let token = Arc::new(());
        let held = Arc::clone(&token);
        // The observer lives in what the wakers share, so it shows when that goes.
        let runtime = Runtime::with_observer(move |_| drop(Arc::clone(&held))).unwrap();
        let slot = Rc::new(RefCell::new(None));
        let keep = Rc::clone(&slot);
        runtime.spawn(poll_fn(move |cx| {
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        runtime.spawn(sleep(Duration::from_secs(3600)));
        runtime.block_on(yield_now()).unwrap();
        let waker = slot.take().expect("the task has been polled");
        // Queued when the runtime goes.
        waker.wake_by_ref();
        drop(runtime);
        assert_eq!(Arc::strong_count(&token), 2, "one waker keeps the shared part");
        drop(waker);
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

#[test]
fn a_drop_may_wake_and_a_task_may_hold_a_handle_of_another() {
    within_deadline(|| {
        struct WakeOnDrop(Waker);
        impl Drop for WakeOnDrop {
            fn drop(&mut self) {
                self.0.wake_by_ref();
            }
        }
        let runtime = Runtime::new().unwrap();
        let other = runtime.spawn(pending::<()>());
        runtime.spawn(async move {
            let _guard = poll_fn(|cx| Poll::Ready(WakeOnDrop(cx.waker().clone()))).await;
            other.await;
        });
        runtime.block_on(yield_now()).unwrap();
    });
}

#[test]
fn a_slot_is_used_again_and_the_old_waker_does_not_reach_the_new_task() {
    within_deadline(|| {
        let log = Log::default();
        let runtime = log.runtime();
        runtime
            .block_on(async {
                let old = spawn_named("old", poll_fn(|cx| Poll::Ready(cx.waker().clone()))).await;
                let new = spawn_named("new", pending::<()>());
                yield_now().await;
                old.wake();
                yield_now().await;
                drop(new);
            })
            .unwrap();
        assert_eq!(log.count(Step::Poll("old")), 1);
        assert_eq!(log.count(Step::Poll("new")), 1);
    });
}

#[test]
fn a_task_that_ended_in_the_queue_does_not_poll_the_next_owner_of_its_slot() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let wakes_and_ends = poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Ready(())
                });
                drop(spawn_named("old", wakes_and_ends));
                // Its turn, and then ours, while it is in the queue for the next one.
                yield_now().await;
                drop(spawn_named("new", pending::<()>()));
                yield_now().await;
                yield_now().await;
            })
            .unwrap();
        assert_eq!(log.count(Step::Wake("old")), 1);
        assert_eq!(log.count(Step::Poll("old")), 1);
        assert_eq!(log.count(Step::Poll("new")), 1);
    });
}

#[test]
fn the_futures_crate_runs_on_it() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let squares = join_all((0..10).map(|n| async move {
                    yield_now().await;
                    n * n
                }));
                assert_eq!(squares.await.iter().sum::<i32>(), 285);
                let unordered: FuturesUnordered<_> = (1..4).map(|n| spawn(async move { n })).collect();
                assert_eq!(unordered.fold(0, |sum, n| async move { sum + n }).await, 6);
                let late = std::pin::pin!(sleep(Duration::from_secs(3600)));
                let early = std::pin::pin!(yield_now());
                assert!(matches!(select(late, early).await, Either::Right(_)));
            })
            .unwrap();
    });
}

#[test]
fn a_panic_of_a_task_comes_out_of_block_on() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async { panic!("on purpose") });
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(pending::<()>())));
        assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
        // The thread is free for another.
        drop(runtime);
        assert_eq!(Runtime::new().unwrap().block_on(async { 1 }).unwrap(), 1);
    });
}

#[test]
fn a_block_on_inside_a_block_on_is_refused() {
    within_deadline(|| {
        let outer = Runtime::new().unwrap();
        let inner = Runtime::new().unwrap();
        let refused = catch_unwind(AssertUnwindSafe(|| outer.block_on(async { inner.block_on(async {}) })));
        assert!(
            refused
                .unwrap_err()
                .downcast_ref::<&str>()
                .is_some_and(|text| text.contains("within a block_on"))
        );
    });
}

#[test]
fn without_a_runtime_spawn_says_what_is_missing() {
    let refused = catch_unwind(|| drop(spawn(async {})));
    let text = *refused.unwrap_err().downcast::<String>().unwrap_or_default();
    assert!(text.contains("no runtime runs on this thread"), "{text:?}");
}

/// Many threads wake many tasks; each must arrive. What loom proves for two, at full size and speed.
#[test]
fn no_wake_is_lost_among_many() {
    const THREADS: usize = 4;
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 2_000 };
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let tasks: Vec<_> = (0..THREADS)
            .map(|_| {
                runtime.spawn(async {
                    let (mut sender, mut receiver) = futures::channel::mpsc::channel(1);
                    let thread = thread::spawn(move || {
                        for n in 0..ROUNDS {
                            while sender.try_send(n).is_err() {
                                thread::yield_now();
                            }
                        }
                    });
                    for n in 0..ROUNDS {
                        assert_eq!(receiver.next().await, Some(n));
                    }
                    thread.join().unwrap();
                })
            })
            .collect();
        runtime.block_on(join_all(tasks)).unwrap();
    });
}

/// Compiles only while a future on this runtime may hold what cannot leave its thread.
fn _futures_need_not_be_send(runtime: &Runtime) -> impl Future {
    let local = Rc::new(());
    runtime.spawn(async move {
        yield_now().await;
        drop(local);
    })
}
