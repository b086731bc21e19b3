//! What strace shows of marks. Each test starts itself again under strace, with another role.

use std::env;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use futures::executor::block_on;
use futures::future::{Either, poll_fn, select};
use harness::demo::must;
use harness::{Error, Launch, only};
use trace_marks::{Markable, mark};

/// The role of a process that a test has started.
const ROLE: &str = "TRACE_MARKS_TEST_ROLE";

/// Starts the test `name` again under strace, with TRACE_MARKS as given, and returns the marks that strace showed,
/// in order. `None`: this process is the one that was started, or there is no strace.
fn marks(name: &str, switch: Option<&str>) -> Option<Vec<String>> {
    if env::var_os(ROLE).is_some() {
        return None;
    }
    let test = env::current_exe().expect("a test has a path");
    let launch = Launch::new(test.display()).args(["--exact", name]).env(ROLE, "child");
    let launch = match switch {
        Some(switch) => launch.env("TRACE_MARKS", switch),
        None => launch.prefix(["env", "-u", "TRACE_MARKS"]),
    };
    let options = ["-s".into(), "200".into()].into_iter().chain(only(&["write"]));
    let ended = match launch.traced(options).run() {
        Err(Error::Unavailable(why)) => {
            eprintln!("not asked: {why}");
            return None;
        }
        ended => must(ended),
    };
    must(ended.expect_code(0));
    // Whatever is written neither to standard output nor to standard error.
    let marks =
        ended.calls().filter(|call| !matches!(call.args.first().map(String::as_str), Some("1" | "2")));
    Some(marks.filter_map(|call| call.args.get(1)?.split('"').nth(1)).map(str::to_owned).collect())
}

#[test]
fn a_future_says_what_happens_to_it() {
    let story = || {
        let mut polled = false;
        let reader = poll_fn(move |cx| {
            if polled {
                return Poll::Ready(());
            }
            polled = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        mark("begin");
        let loser = std::future::pending::<()>().marked("loser");
        match block_on(select(pin!(reader.marked("reader")), pin!(loser))) {
            Either::Left(_) => mark("end"),
            Either::Right(_) => mark("the wrong one has won"),
        }
        // A future that was never polled is unfinished too.
        drop(std::future::ready(()).marked("unpolled"));
    };
    match marks("a_future_says_what_happens_to_it", Some("1")) {
        None => story(),
        Some(seen) => assert_eq!(
            seen,
            [
                "begin",
                "poll reader",
                "wake reader",
                "pending reader",
                "poll loser",
                "pending loser",
                "poll reader",
                "ready reader",
                "end",
                "drop loser",
                "drop unpolled"
            ]
        ),
    }
}

#[test]
fn nothing_is_seen_unless_it_is_asked_for() {
    for switch in [None, Some("")] {
        match marks("nothing_is_seen_unless_it_is_asked_for", switch) {
            None => {
                mark("not asked for");
                let mut future = pin!(std::future::ready(()).marked("reader"));
                let mut cx = Context::from_waker(Waker::noop());
                assert!(future.as_mut().poll(&mut cx).is_ready());
            }
            Some(seen) => assert_eq!(seen, Vec::<String>::new()),
        }
    }
}

#[test]
fn marks_of_several_threads_stay_whole() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    let text = |thread: usize, number: usize| format!("mark {number} of thread {thread}");
    match marks("marks_of_several_threads_stay_whole", Some("1")) {
        None => thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || (0..EACH).for_each(|number| mark(&text(thread, number))));
            }
        }),
        Some(mut seen) => {
            let mut all: Vec<String> =
                (0..THREADS).flat_map(|thread| (0..EACH).map(move |number| text(thread, number))).collect();
            seen.sort();
            all.sort();
            let differs = seen.iter().zip(&all).find(|(seen, wanted)| seen != wanted);
            assert!(
                seen == all,
                "{} of {} marks; the first that differs: {differs:?}",
                seen.len(),
                all.len()
            );
        }
    }
}
