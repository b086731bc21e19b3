//! A marked future is polled exactly when a bare one is: counted under the combinators that poll most of all by
//! their wakers. Marks are on in this whole process; nobody looks at them here.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::{BoxFuture, FutureExt, join_all};
use futures::select_biased;
use futures::stream::{FuturesUnordered, StreamExt};
use trace_marks::{Markable, turn_on};

/// Counts how often it is called.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a leaf and its driver share.
#[derive(Default)]
struct Source {
    /// Times that the leaf has to be woken yet before it is ready.
    left: usize,
    waker: Option<Waker>,
    /// Registrations of a waker that would not have woken the one registered before.
    anew: usize,
    polls: usize,
}

/// A future that is ready when it has been woken `times`. It keeps its waker as tokio and mio's users do: only a
/// waker that differs from the last is registered.
fn leaf(source: &Arc<Mutex<Source>>, times: usize) -> impl Future<Output = ()> + Send + use<> {
    source.lock().expect("no panic under it").left = times;
    let source = Arc::clone(source);
    poll_fn(move |cx| {
        let mut source = source.lock().expect("no panic under it");
        source.polls += 1;
        if source.left == 0 {
            return Poll::Ready(());
        }
        if !source.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            source.waker = Some(cx.waker().clone());
            source.anew += 1;
        }
        Poll::Pending
    })
}

fn wake(source: &Arc<Mutex<Source>>) {
    let waker = {
        let mut source = source.lock().expect("no panic under it");
        source.left = source.left.saturating_sub(1);
        source.waker.clone()
    };
    waker.into_iter().for_each(|waker| waker.wake_by_ref());
}

type Combine = fn(Vec<BoxFuture<'static, ()>>) -> BoxFuture<'static, ()>;

const COMBINATORS: &[(&str, Combine)] = &[
    ("join_all", |leaves| join_all(leaves).map(drop).boxed()),
    ("FuturesUnordered", |leaves| {
        leaves.into_iter().collect::<FuturesUnordered<_>>().collect::<()>().boxed()
    }),
    ("select_biased!", |leaves| {
        async move {
            let mut leaves = leaves.into_iter();
            let mut next = || leaves.next().expect("three leaves").fuse();
            let (mut first, mut second, mut third) = (next(), next(), next());
            for _ in 0..3 {
                select_biased! {
                    () = first => {}
                    () = second => {}
                    () = third => {}
                }
            }
        }
        .boxed()
    }),
];

/// Polls and registrations of each leaf, and the calls of the outermost waker.
fn run(combine: Combine, marked: bool) -> (Vec<(usize, usize)>, usize) {
    let sources: Vec<_> = (0..3).map(|_| Arc::new(Mutex::new(Source::default()))).collect();
    let leaves = sources.iter().enumerate().map(|(index, source)| match marked {
        true => leaf(source, index + 1).marked(format!("leaf-{index}")).boxed(),
        false => leaf(source, index + 1).boxed(),
    });
    let mut all = combine(leaves.collect());
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(Arc::clone(&counting));
    let mut cx = Context::from_waker(&waker);
    // Woken in turn, and polled as an executor does: once for each time that the waker was called.
    let mut turns = sources.iter().cycle().take(30);
    let mut seen = 0;
    while all.as_mut().poll(&mut cx).is_pending() {
        while counting.0.load(Ordering::Relaxed) == seen {
            wake(turns.next().expect("all leaves are ready by then"));
        }
        seen = counting.0.load(Ordering::Relaxed);
    }
    let counts = sources.iter().map(|source| {
        let source = source.lock().expect("no panic under it");
        (source.polls, source.anew)
    });
    (counts.collect(), counting.0.load(Ordering::Relaxed))
}

#[test]
fn a_marked_future_is_polled_as_often_as_a_bare_one() {
    turn_on().expect("/dev/null can be opened");
    for (name, combine) in COMBINATORS {
        let bare = run(*combine, false);
        assert!(bare.1 > 0 && bare.0.iter().all(|(polls, _)| *polls > 0), "{name} polls nobody: {bare:?}");
        assert_eq!(run(*combine, true), bare, "{name}");
    }
}

#[test]
fn nobody_registers_anew_while_the_waker_stays() {
    turn_on().expect("/dev/null can be opened");
    let source = Arc::new(Mutex::new(Source::default()));
    let mut future = pin!(leaf(&source, 8).marked("leaf"));
    let waker = Waker::from(Arc::new(Counting::default()));
    for _ in 0..8 {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        wake(&source);
    }
    assert_eq!(source.lock().expect("no panic under it").anew, 1);

    // A task that moves to another waker is woken there.
    let source = Arc::new(Mutex::new(Source::default()));
    let mut future = pin!(leaf(&source, 2).marked("leaf"));
    let (one, other) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
    for counting in [&one, &other] {
        let waker = Waker::from(Arc::clone(counting));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        wake(&source);
    }
    assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(source.lock().expect("no panic under it").anew, 2);
}

#[test]
fn a_marked_future_is_a_name_and_a_pointer_larger() {
    struct Large([u8; 1024]);
    impl Future for Large {
        type Output = u8;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u8> {
            Poll::Ready(self.0[0])
        }
    }
    let marked = Large([0; 1024]).marked("large");
    assert!(size_of_val(&marked) <= 1024 + 56, "{} bytes", size_of_val(&marked));
}
