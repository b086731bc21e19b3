//! What the page of tokio's runtime claims, asked of the programs.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use harness::PATIENCE;
use harness::demo::{Ended, Running, survives_without_an_audience};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const JOIN: &str = env!("CARGO_BIN_EXE_tokio-runtime-join");
const SPAWN: &str = env!("CARGO_BIN_EXE_tokio-runtime-spawn");
const DESUGARED: &str = env!("CARGO_BIN_EXE_tokio-runtime-desugared");

fn start(program: &str, args: &[&str]) -> (Running, SocketAddr, SocketAddr) {
    let mut program = Running::start(program, &[&["127.0.0.1:0", "127.0.0.1:0", "--json"], args].concat());
    let addresses = program.addresses();
    let [first, second] = addresses[..] else { panic!("two addresses: {addresses:?}") };
    (program, first, second)
}

fn connect(to: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    BufReader::new(stream)
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer");
    line
}

fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// Connects to both, so that the second comes while the first computes; returns what the last lines say.
fn both(first: SocketAddr, second: SocketAddr) -> [String; 2] {
    let mut one = connect(first);
    assert!(line(&mut one).starts_with("listener 0: connection "));
    let mut two = connect(second);
    assert!(line(&mut two).starts_with("listener 1: connection "));
    [rest(one), rest(two)]
}

fn sum(ended: &Ended, field: &str) -> u64 {
    let summary = ended.summary();
    summary["listeners"].as_array().unwrap().iter().map(|tally| tally[field].as_u64().unwrap()).sum()
}

#[test]
fn join_is_concurrent_and_never_parallel() {
    let (program, first, second) = start(JOIN, &["--slice", "20ms"]);
    // The test may be late with its second connection; it has many chances.
    let mut rounds = 0;
    loop {
        rounds += 1;
        let said = both(first, second);
        assert!(said.iter().all(|last| last.ends_with("at the same instant in 0\n")), "{said:?}");
        if said.iter().any(|last| !last.contains(" in 0 of 4 ")) {
            break;
        }
        assert!(rounds < 100, "never concurrent: {said:?}");
    }
    let ended = program.interrupt();
    assert_eq!((sum(&ended, "connections"), sum(&ended, "slices")), (2 * rounds, 8 * rounds));
    assert_eq!(sum(&ended, "parallel"), 0);
    assert!(sum(&ended, "concurrent") > 0);
    let summary = ended.summary();
    assert_eq!(summary["ledger"], 2 * rounds);
    for tally in summary["listeners"].as_array().unwrap() {
        assert_eq!((&tally["task"], &tally["threads"]), (&Value::Null, &json!(["thread main"])));
    }
}

#[test]
fn spawn_is_parallel() {
    let (program, first, second) = start(SPAWN, &["--slice", "20ms"]);
    let mut rounds = 0;
    while both(first, second).iter().all(|last| last.ends_with("at the same instant in 0\n")) {
        rounds += 1;
        assert!(rounds < 100, "never parallel");
    }
    let ended = program.interrupt();
    assert!(sum(&ended, "parallel") > 0);
    let summary = ended.summary();
    let [one, two] = &summary["listeners"].as_array().unwrap()[..] else { panic!("two listeners") };
    assert!(one["task"].is_string() && two["task"].is_string() && one["task"] != two["task"], "a task each");
    let threads = |tally: &Value| tally["threads"].as_array().unwrap().clone();
    let mut all = [threads(one), threads(two)].concat();
    all.sort_by_key(Value::to_string);
    all.dedup();
    assert_eq!(all, [json!("thread 1"), json!("thread 2")], "both workers, and not the main thread");
}

#[test]
fn blocking_stops_the_neighbour_in_the_same_future() {
    let (mut program, first, second) = start(JOIN, &["--blocking", "--slice", "1ms"]);
    program.line_with("listener 0: blocks in accept");
    let mut two = connect(second);
    two.get_ref().set_read_timeout(Some(Duration::from_millis(300))).expect("a deadline");
    let silence = two.fill_buf().map(<[u8]>::to_vec);
    let silent =
        silence.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert!(silent, "the neighbour is not served while the first listener blocks");
    two.get_ref().set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let mut one = connect(first);
    line(&mut one);
    // It came first, and is served last.
    line(&mut two);
    assert!(program.line_with("connection 1").starts_with("listener 0"));
    assert!(program.line_with("connection 1").starts_with("listener 1"));
}

#[test]
fn blocking_takes_a_worker_and_leaves_the_other() {
    let (mut program, _, second) = start(SPAWN, &["--blocking", "--slice", "1ms"]);
    program.line_with("listener 0: blocks in accept");
    assert!(rest(connect(second)).starts_with("listener 1: connection 1 "));
    let ended = program.interrupt();
    let summary = ended.summary();
    assert_eq!(summary["listeners"][0], Value::Null, "a blocked task returns nothing");
    assert_eq!(summary["listeners"][1]["connections"], 1, "its neighbour does");
    assert_eq!(summary["ledger"], 1, "what is shared can be looked at all the same");
}

#[test]
fn a_signal_ends_it_even_while_it_blocks() {
    for (program, signal) in [(JOIN, Signal::SIGINT), (SPAWN, Signal::SIGTERM)] {
        let (mut running, ..) = start(program, &["--blocking"]);
        running.line_with("listener 0: blocks in accept");
        running.signal(signal);
        let summary = running.end().summary();
        assert_eq!(summary["listeners"][0], Value::Null);
        // Without the mistake, both return.
        let (mut running, ..) = start(program, &[]);
        running.signal(signal);
        let summary = running.end().summary();
        assert_eq!(
            (&summary["listeners"][0]["connections"], &summary["listeners"][1]["connections"]),
            (&json!(0), &json!(0))
        );
    }
}

#[test]
fn the_lock_is_asked_for_once_and_the_spinning_one_again_and_again() {
    for program in [JOIN, SPAWN] {
        let attempts = |flag: &[&str]| {
            let ended =
                Running::start(program, &[&["127.0.0.1:0", "127.0.0.1:0", "--json"], flag].concat()).end();
            (sum(&ended, "connections"), sum(&ended, "lock_attempts"))
        };
        let (connections, asked) = attempts(&["--poke", "5", "--slice", "5ms"]);
        assert_eq!((connections, asked), (10, 10), "{program}: who waits is woken when it has the lock");
        // Whether the two meet at the lock depends on the machine: try until they do.
        let met = (0..20).any(|_| {
            let (connections, asked) = attempts(&["--poke", "5", "--slice", "5ms", "--spin"]);
            asked > 2 * connections
        });
        assert!(met, "{program}: whoever spins asks for nothing");
    }
}

#[test]
fn the_attribute_and_the_builder_make_the_same() {
    let ended = Running::start(DESUGARED, &["--json"]).end();
    let summary = ended.summary();
    let runtimes = summary["runtimes"].as_array().unwrap();
    assert_eq!((runtimes.len(), ended.stdout.len()), (6, 7));
    for (pair, (flavor, threads)) in
        runtimes.chunks(2).zip([("multi_thread", 2), ("current_thread", 0), ("local", 0)])
    {
        let [attribute, builder] = pair else { panic!("pairs") };
        assert_eq!(
            (&attribute["written"], &builder["written"]),
            (&json!("#[tokio::main]"), &json!("Builder"))
        );
        for made in pair {
            assert_eq!((&made["flavor"], &made["threads"]), (&json!(flavor), &json!(threads)));
            assert_eq!(made["descriptors"], json!({"eventfd": 1, "eventpoll": 2, "socket": 1}), "{made}");
            assert_eq!(made["block_on"], "main");
            assert_eq!(made["spawned"] == "main", threads == 0, "{made}");
        }
    }
    assert_eq!(summary["once"], json!({"threads": 0, "descriptors": {"socket": 2}}), "the pair for signals");
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("its address").to_string();
    for program in [JOIN, SPAWN] {
        Running::start(program, &["127.0.0.1:0", &port]).end().refused(1, "in use");
        Running::start(program, &["127.0.0.1:0"]).end().refused(2, "2 values required");
        Running::start(program, &["127.0.0.1:0", "0.0.0.0:0"]).end().refused(2, "loopback");
        Running::start(program, &["--slice", "0ms"]).end().refused(2, "longer than nothing");
    }
    Running::start(DESUGARED, &["--workers"]).end().refused(2, "--workers");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut program, ..) = start(JOIN, &["--blocking"]);
    program.line_with("listener 0: blocks in accept");
    // Two different ones: two equal ones could come as one.
    program.signal(Signal::SIGINT);
    program.signal(Signal::SIGTERM);
    let ended = program.end();
    assert!(matches!(ended.code, Some(130 | 143)), "128 and the number of the second: {:?}", ended.code);
}

#[test]
fn nobody_need_listen() {
    for program in [JOIN, SPAWN] {
        survives_without_an_audience(
            program,
            &["127.0.0.1:0", "127.0.0.1:0", "--poke", "1", "--slice", "1ms"],
        );
    }
    survives_without_an_audience(DESUGARED, &["--json"]);
}
