//! A program under strace: its calls, the calls that are made to fail, and the moments when it stands still.

use std::time::Duration;

use harness::strace::Event;
use harness::{Launch, Process, inject, only, require_strace};

/// Says so where strace cannot be asked.
fn can_trace() -> bool {
    require_strace().map_err(|why| eprintln!("skipped: {why}")).is_ok()
}

fn start(launch: Launch) -> Process {
    launch.start().unwrap_or_else(|error| panic!("{error}"))
}

fn cat(options: impl IntoIterator<Item = String>) -> Launch {
    Launch::new("cat").args(["/proc/self/comm"]).traced(options)
}

#[test]
fn a_record_is_complete_at_the_end() {
    if !can_trace() {
        return;
    }
    let ended = cat([]).run().expect("it ends");
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "cat\n"));
    assert!(ended.calls().next().is_some_and(|call| call.name == "execve"), "from the first call");
    let last = ended.events.expect("events").pop().expect("a last one");
    assert!(matches!(last, Event::Ended { how, .. } if how == "exited with 0"), "to the end");
}

#[test]
fn only_some_calls_are_recorded_and_one_is_made_to_fail() {
    if !can_trace() {
        return;
    }
    // In another directory of the machine's calls the first name does not exist: it is ignored.
    let options = [only(&["no_such_call", "write"]), inject("write", "ENOSPC", "1")].concat();
    let ended = cat(options).env("LC_ALL", "C").run().expect("it ends");
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("No space left"), "{:?}", ended.stderr);
    assert!(ended.calls().all(|call| call.name == "write"));
    let injected: Vec<_> = ended.calls().filter(|call| call.injected()).collect();
    assert_eq!(injected.len(), 1);
    assert_eq!(injected[0].errno.as_deref(), Some("ENOSPC"));
}

#[test]
fn a_program_at_rest_is_told_from_one_that_works() {
    if !can_trace() {
        return;
    }
    let mut program = start(Launch::new("sh").args(["-c", "read line; exec sleep 600"]).traced(["-s", "8"]));
    program.await_quiet().expect("it sleeps");
    let before = program.events().len();
    assert!(!program.pump(Duration::from_millis(50)).expect("a look"), "nothing more comes");
    program.freeze().expect("it stops");
    assert!(matches!(program.events().last(), Some(Event::Stopped { .. })), "the trace shows the stop");
    program.thaw().expect("it runs");
    program.await_quiet().expect("it sleeps again");
    let cut = program.calls_since(before).next().expect("the nap goes on");
    assert!(cut.interrupted(), "{cut:?}");
    let ended = program.terminate().expect("it ends");
    assert!(
        matches!(ended.events.expect("events").last(), Some(Event::Ended { how, .. }) if how.contains("SIGTERM"))
    );
}

#[test]
fn a_program_that_never_rests_is_told_so() {
    if !can_trace() {
        return;
    }
    let spins = Launch::new("sh").args(["-c", "while :; do umask >/dev/null; done"]).traced([""; 0]);
    let error = start(spins).await_quiet().expect_err("it never rests").to_string();
    assert!(error.contains("sh never came to rest"), "{error}");
    let ended = start(Launch::new("false").traced([""; 0])).await_quiet().expect_err("it ends").to_string();
    assert!(ended.contains("status 1"), "{ended}");
}

#[test]
fn threads_and_children_are_followed() {
    if !can_trace() {
        return;
    }
    let ended = Launch::new("sh").args(["-c", "(:); /bin/echo x; :"]).traced([""; 0]).run().expect("it ends");
    let mut pids: Vec<u32> = ended.calls().map(|call| call.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3, "the shell, its copy, and echo");
}
