//! What the pages of the mio demos claim, asked of the programs.

use std::net::{SocketAddr, UdpSocket};

use harness::demo::{CALLS, Running, survives_without_an_audience};
use nix::sys::signal::Signal;
use serde_json::Value;

const EMPTY: &str = env!("CARGO_BIN_EXE_mio-empty");
const MIXED: &str = env!("CARGO_BIN_EXE_mio-mixed");
const PIPE: &str = env!("CARGO_BIN_EXE_mio-pipe");

#[test]
fn empty_makes_an_epoll_and_waits_once() {
    let Some(program) = Running::traced(CALLS, EMPTY, &["--timeout", "300ms", "--json", "--marks"]) else {
        return;
    };
    let ended = program.end();
    let summary = ended.summary();
    assert_eq!(summary["ended_by"], "timeout");
    assert_eq!((&summary["polls"], &summary["events"]), (&Value::from(1), &Value::from(0)));
    assert_eq!(ended.trace.count("epoll_create1"), 1);
    assert_eq!(ended.trace.waits(), 1);
    for absent in ["eventfd2", "pipe2", "epoll_ctl"] {
        assert_eq!(ended.trace.count(absent), 0, "{absent} is not mio's any more");
    }
    assert_eq!(ended.trace.marks(), ["ready", "shutdown"]);
}

#[test]
fn empty_makes_an_eventfd_only_for_a_waker() {
    let Some(mut program) = Running::traced(CALLS, EMPTY, &["--waker", "--json"]) else { return };
    program.line_with("waiting");
    let ended = program.interrupt();
    let summary = ended.summary();
    assert_eq!(summary["ended_by"], "SIGINT");
    assert_eq!(summary["events"], 1, "the waker ended the poll");
    assert_eq!((ended.trace.count("eventfd2"), ended.trace.count("epoll_ctl")), (1, 1));
    assert_eq!(ended.trace.eventfd_writes(), 1);
    assert_eq!(ended.trace.count("pipe2"), 0);
}

#[test]
fn empty_ends_on_either_signal_and_survives_a_stop() {
    for (signal, name) in [(Signal::SIGINT, "SIGINT"), (Signal::SIGTERM, "SIGTERM")] {
        let mut program = Running::start(EMPTY, &["--json"]);
        assert!(program.line().starts_with("mio-empty: waiting "));
        program.signal(Signal::SIGSTOP);
        program.signal(Signal::SIGCONT);
        program.signal(signal);
        let summary = program.end().summary();
        assert_eq!(summary["ended_by"], name);
        assert_eq!(summary["events"], 0, "nothing is registered, so nothing happens");
    }
}

fn address(program: &mut Running) -> SocketAddr {
    program.addresses()[0]
}

#[test]
fn mixed_shows_datagrams_and_ticks_as_separate_tokens() {
    let Some(mut program) = Running::traced(CALLS, MIXED, &["127.0.0.1:0", "--period", "20ms", "--json"])
    else {
        return;
    };
    let to = address(&mut program);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    for size in [0, 1, 1500] {
        client.send_to(&vec![b'x'; size], to).expect("sent");
        let line = program.line_with("token 0 (socket)");
        assert!(line.contains(&format!(" {size} bytes from {}", client.local_addr().unwrap())), "{line}");
    }
    let first = program.line_with("token 1 (timer)");
    let next = program.line_with("token 1 (timer)");
    let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap();
    assert_eq!(number(&next), number(&first) + 1, "no tick is lost");

    let ended = program.interrupt();
    let summary = ended.summary();
    assert_eq!(summary["datagrams"], 3);
    let ticks = summary["ticks"].as_u64().unwrap();
    let wakes = ended.trace.eventfd_writes() as u64;
    // The last tick may still be in the queue, or the last wake not made.
    assert!(ticks >= 2 && wakes.abs_diff(ticks) <= 1, "a write for each tick: {wakes} for {ticks}");
    assert!(summary["timer_events"].as_u64().unwrap() <= wakes);
    let socket_events = summary["socket_events"].as_u64().unwrap();
    assert!(
        (1..=4).contains(&socket_events),
        "at most one event a datagram, and one for an edge read already"
    );
    let receives = ended.trace.count("recvfrom") as u64;
    assert_eq!(receives, 3 + socket_events, "each event is drained: one receive more, which would block");
    let eventfds = ended.trace.calls(|call| call.starts_with("eventfd2("));
    let descriptor = eventfds[0].rsplit(' ').next().unwrap();
    let reads = ended.trace.calls(|call| call.starts_with(&format!("read({descriptor},")));
    assert!(reads.is_empty(), "nobody reads the eventfd: {reads:?}");
}

#[test]
fn mixed_pokes_itself_and_ends() {
    let ended = Running::start(MIXED, &["127.0.0.1:0", "--period", "20ms", "--poke", "2", "--json"]).end();
    let summary = ended.summary();
    assert_eq!(summary["datagrams"], 2);
    assert!(summary["ticks"].as_u64().unwrap() >= 2);
}

#[test]
fn mixed_ticks_while_datagrams_flood() {
    let mut program = Running::start(MIXED, &["127.0.0.1:0", "--period", "10ms", "--json"]);
    let to = address(&mut program);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    let mut ticks = 0;
    while ticks < 5 {
        for _ in 0..64 {
            client.send_to(b"flood", to).expect("sent");
        }
        ticks += usize::from(program.line().contains("(timer)"));
    }
    let summary = program.interrupt().summary();
    assert!(summary["ticks"].as_u64().unwrap() >= 5);
}

#[test]
fn mixed_refuses_what_it_cannot_do() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("its address");
    Running::start(MIXED, &[&taken.1.to_string()]).end().refused(1, "in use");
    Running::start(MIXED, &["0.0.0.0:0"]).end().refused(2, "loopback");
    Running::start(MIXED, &["--period", "0s"]).end().refused(2, "longer than nothing");
    Running::start(MIXED, &["--period", "3"]).end().refused(2, "200ms");
    Running::start(EMPTY, &["--nonsense"]).end().refused(2, "--nonsense");
    Running::start(PIPE, &["pipe"]).end().refused(2, "pipe");
    Running::start(PIPE, &["--wakes", "0"]).end().refused(2, "from 1 to");
}

/// The parts of mio-pipe's summary, by what the woken side did.
fn parts(summary: &Value) -> Vec<(&str, u64, u64)> {
    let parts = summary["parts"].as_array().expect("parts");
    let count = |part: &Value, name: &str| part[name].as_u64().unwrap_or_else(|| panic!("{name} in {part}"));
    parts
        .iter()
        .map(|part| (part["case"].as_str().unwrap(), count(part, "wakes"), count(part, "writes")))
        .collect()
}

#[test]
fn pipe_counts_a_write_for_each_wake_unless_a_flag_saves_it() {
    if std::fs::read_to_string("/proc/thread-self/io").is_err() {
        return eprintln!("skipped: this kernel does not count the calls of write");
    }
    let ended = Running::start(PIPE, &["--wakes", "200", "--json"]).end();
    let summary = ended.summary();
    let [wake, idle, asleep, racing] = parts(&summary)[..] else { panic!("four counts: {summary}") };
    assert_eq!((wake.1, wake.2), (200, 200), "Waker::wake always writes");
    assert_eq!((idle.1, idle.2), (200, 0), "the flag saves the write while nobody sleeps");
    assert_eq!((asleep.1, asleep.2), (200, 200), "who sleeps must be woken");
    assert!(racing.2 <= racing.1, "at most one write a wake: {racing:?}");
    let events: Vec<_> =
        summary["parts"].as_array().unwrap().iter().map(|part| part["events"].as_u64()).collect();
    assert_eq!(events[..3], [Some(1), Some(0), Some(200)], "200 wakes before a poll are one event");
    assert_eq!(ended.stdout.len(), 5, "a line for each count, and the summary");
}

#[test]
fn pipe_counts_as_strace_does() {
    for part in ["wake", "flag", "race"] {
        let args = [part, "--wakes", "50", "--json"];
        let Some(program) = Running::traced("write", PIPE, &args) else { return };
        let ended = program.end();
        let summary = ended.summary();
        let counted: u64 = parts(&summary).iter().map(|count| count.2).sum();
        assert_eq!(ended.trace.eventfd_writes() as u64, counted, "{part}: in the trace, and as it counts");
    }
}

#[test]
fn pipe_loses_no_wake_at_full_speed() {
    // It ends only if the reader has got every letter.
    let summary = Running::start(PIPE, &["race", "--wakes", "20000", "--json"]).end().summary();
    let racing = parts(&summary)[0];
    assert_eq!(racing.1, 20_000);
    assert!(racing.2 <= racing.1);
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(EMPTY, &["--timeout", "10ms"]);
    survives_without_an_audience(MIXED, &["127.0.0.1:0", "--period", "10ms", "--poke", "2"]);
    survives_without_an_audience(PIPE, &["--wakes", "10", "--json"]);
}
