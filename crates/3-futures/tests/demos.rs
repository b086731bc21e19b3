//! What the pages of this layer claim, asked of the programs: polls and wakes by their summaries and trace marks,
//! system calls by strace where it is installed.

use std::net::{SocketAddr, UdpSocket};

use harness::PATIENCE;
use harness::demo::{CALLS, Running, is_wait};
use nix::sys::signal::Signal;
use serde_json::json;

const NOTIFY: &str = env!("CARGO_BIN_EXE_future-notify");
const FLOW: &str = env!("CARGO_BIN_EXE_waker-flow");
const ECHO: &str = env!("CARGO_BIN_EXE_echo-mini");

#[test]
fn notify_polls_each_future_as_often_as_it_is_woken() {
    let ended = Running::start(NOTIFY, &["--json"]).end();
    let tasks = ended.summary()["tasks"].clone();
    let counts = |polls: u32, wakes: u32, finished: bool| json!({"polls": polls, "wakes": wakes, "finished": finished});
    assert_eq!(tasks["countdown"], counts(10, 9, true), "one poll because it is new, one for each wake");
    assert_eq!(tasks["coalesced"], counts(2, 5, true), "five wakes during a poll are one poll more");
    assert_eq!(tasks["forgotten"], counts(1, 0, false), "no wake, no poll");
    assert_eq!(tasks["first"], counts(1, 0, false), "its waker was replaced");
    assert_eq!(tasks["second"], counts(2, 1, true));
    assert_eq!(tasks["spurious"], counts(5, 4, true), "a wake for nothing costs a poll");
    assert_eq!(ended.stdout.iter().filter(|line| line.starts_with("   poll ")).count(), 10);
}

#[test]
fn notify_prints_the_same_each_time() {
    let first = Running::start(NOTIFY, &[]).end();
    let second = Running::start(NOTIFY, &[]).end();
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(first.code, Some(0));
}

#[test]
fn notify_writes_to_the_eventfd_for_threads_alone() {
    let Some(program) = Running::traced(CALLS, NOTIFY, &["--marks", "--json"]) else { return };
    let ended = program.end();
    ended.summary();
    let marks = ended.trace.marks();
    let count = |mark: &str| marks.iter().filter(|made| **made == mark).count();
    assert_eq!((count("poll countdown"), count("wake countdown")), (10, 9));
    assert_eq!((count("poll forgotten"), count("wake forgotten")), (1, 0));
    assert_eq!(count("ready countdown") + count("ready second") + count("ready spurious"), 3);
    assert_eq!((marks[0], marks[marks.len() - 1]), ("ready", "shutdown"));
    // Four naps, each of which most likely finds the executor asleep. Nothing else comes from outside: those who wake during a
    // poll, and the future itself, find it awake.
    let writes = ended.trace.eventfd_writes();
    assert!(writes <= 4, "{writes} writes for 4 wakes of a sleeper");
    assert!(writes >= 1, "a sleeper must be woken by a write");
    assert_eq!((ended.trace.count("epoll_create1"), ended.trace.count("eventfd2")), (1, 1));
}

#[test]
fn flow_tells_eight_steps_in_order() {
    let ended = Running::start(FLOW, &["--json"]).end();
    let summary = ended.summary();
    assert_eq!(
        summary,
        json!({"program": "waker-flow", "steps": 8, "datagrams": 1, "polls": 2, "wakes": 1, "wakers_kept": 1})
    );
    let steps: Vec<_> =
        ended.stdout[1..9].iter().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
    let told = ["called", "scheduled", "polled", "cloned", "pending", "event", "woken", "polled"];
    for (number, (step, told)) in steps.iter().zip(told).enumerate() {
        assert_eq!(*step, [(number + 1).to_string().as_str(), told]);
    }
}

#[test]
fn flow_has_the_system_call_between_its_marks() {
    let Some(program) = Running::traced(CALLS, FLOW, &["--marks", "--json"]) else { return };
    let ended = program.end();
    ended.summary();
    // From the reader's first poll on, what concerns it: marks, waits that sleep, and receives.
    let story: Vec<_> = ended
        .trace
        .calls(|call| {
            call.contains("reader\"")
                || (is_wait(call) && call.contains(", -1)"))
                || call.starts_with("recvfrom(")
        })
        .into_iter()
        .map(|call| {
            if call.starts_with("write(") {
                call.split('"').nth(1).unwrap()
            } else {
                call.split('(').next().unwrap()
            }
        })
        .collect();
    let wait = story.iter().find(|call| call.starts_with("epoll_")).copied().expect("it has waited");
    assert_eq!(
        story,
        [
            "spawn reader",
            "poll reader",
            "pending reader",
            wait,
            "wake reader",
            "poll reader",
            "recvfrom",
            "ready reader"
        ]
    );
    assert_eq!(ended.trace.eventfd_writes(), 0, "all wakes come from the executor's own thread");
}

/// Sends `count` datagrams one at a time; each must have come back before the next goes.
fn one_at_a_time(to: SocketAddr, count: usize) {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    for _ in 0..count {
        client.send_to(b"hello", to).expect("sent");
        let mut heard = [0; 16];
        assert_eq!(client.recv(&mut heard).expect("an echo"), 5);
        assert_eq!(&heard[..5], b"hello");
    }
}

#[test]
fn echo_mini_costs_four_calls_a_datagram_and_one_poll() {
    const COUNT: usize = 20;
    let Some(mut program) = Running::traced(CALLS, ECHO, &["127.0.0.1:0", "--marks", "--json"]) else {
        return;
    };
    let to = program.addresses()[0];
    one_at_a_time(to, COUNT);
    let ended = program.interrupt();
    assert_eq!(ended.summary()["sent"], COUNT);
    let trace = &ended.trace;
    assert_eq!(trace.count("recvfrom"), 2 * COUNT, "one datagram, one would-block");
    assert_eq!(trace.calls(|call| call.starts_with("sendto(") && call.contains("hello")).len(), COUNT);
    let waits = trace.waits();
    // The last wait is interrupted by the signal, and the next one ends by it.
    assert!((COUNT + 1..=COUNT + 2).contains(&waits), "{waits} waits for {COUNT} datagrams");
    assert_eq!(trace.eventfd_writes(), 0);
    assert_eq!(trace.calls(|call| call.contains("EPOLL_CTL_MOD")).len(), 0, "no send has met would-block");
    let marks = trace.marks();
    let count = |mark: &str| marks.iter().filter(|made| **made == mark).count();
    // The first poll, one for each datagram, one for the signal.
    assert_eq!((count("poll echo"), count("wake echo")), (COUNT + 2, COUNT + 1));
    assert_eq!((count("pending echo"), count("ready echo")), (COUNT + 1, 1));
}

#[test]
fn echo_mini_drains_a_burst_within_its_budget() {
    const COUNT: usize = 64;
    let args = ["127.0.0.1:0", "--marks", "--json", "--count", "64"];
    let Some(mut program) = Running::traced(CALLS, ECHO, &args) else { return };
    let to = program.addresses()[0];
    program.signal(Signal::SIGSTOP);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    for _ in 0..COUNT {
        client.send_to(b"hello", to).expect("sent");
    }
    program.signal(Signal::SIGCONT);
    let ended = program.end();
    assert_eq!(ended.summary()["sent"], COUNT);
    let marks = ended.trace.marks();
    let polls = marks.iter().filter(|mark| **mark == "poll echo").count();
    // The first poll; two budgets of 32, between which it wakes itself. If the stop comes late, a few more.
    assert!((3..=3 + 4).contains(&polls), "{polls} polls for a burst of {COUNT}");
    assert!(ended.trace.waits() <= polls + 1, "{} waits, {polls} polls", ended.trace.waits());
}

#[test]
fn what_cannot_be_done_is_refused() {
    Running::start(NOTIFY, &["now"]).end().refused(2, "now");
    Running::start(FLOW, &["--nonsense"]).end().refused(2, "--nonsense");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("its address").to_string();
    Running::start(ECHO, &[&address]).end().refused(1, "in use");
}
