//! What the page of the demos with many sockets claims, asked of the programs.

use std::net::{SocketAddr, UdpSocket};

use harness::PATIENCE;
use harness::demo::{CALLS, Ended, Running, survives_without_an_audience};
use nix::sys::signal::Signal;
use serde_json::Value;

const JOIN: &str = env!("CARGO_BIN_EXE_tokio-multisocket-join");
const SPAWN: &str = env!("CARGO_BIN_EXE_tokio-multisocket-spawn");
const UNORDERED: &str = env!("CARGO_BIN_EXE_tokio-multisocket-futuresunordered");
const JOINSET: &str = env!("CARGO_BIN_EXE_tokio-multisocket-joinset");
const ALL: [&str; 4] = [JOIN, SPAWN, UNORDERED, JOINSET];

/// The addresses in the greeting, "first to last", in full.
fn addresses(program: &mut Running, count: usize) -> Vec<SocketAddr> {
    let addresses = program.addresses();
    assert_eq!(addresses.len(), count, "{addresses:?}");
    addresses
}

/// Sends 100 datagrams in turn, each after the echo of the last, and ends the program.
fn hundred(mut program: Running, sockets: usize) -> Ended {
    let to = addresses(&mut program, sockets);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    for (number, address) in to.iter().cycle().take(100).enumerate() {
        let payload = format!("datagram {number}");
        client.send_to(payload.as_bytes(), address).expect("sent");
        let mut buffer = [0; 100];
        let (bytes, from) = client.recv_from(&mut buffer).expect("an echo");
        assert_eq!((&buffer[..bytes], from), (payload.as_bytes(), *address));
    }
    program.interrupt()
}

/// The polls of each socket's future, after the checks of the rest of the summary.
fn polls(ended: &Ended, sockets: usize) -> Vec<u64> {
    let summary = ended.summary();
    let fields: Vec<_> = summary.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["datagrams", "polls", "program", "received", "sockets"]);
    assert_eq!((&summary["sockets"], &summary["datagrams"]), (&Value::from(sockets), &Value::from(100)));
    let lines = ended.stdout.iter().filter(|line| line.contains(" bytes from 127.0.0.1:")).count();
    assert_eq!(lines, 100, "a line for each datagram");
    let polls: Vec<_> =
        summary["polls"].as_array().unwrap().iter().map(|polls| polls.as_u64().unwrap()).collect();
    assert_eq!(polls.len(), sockets);
    polls
}

/// Checks that 100 datagrams over `sockets` sockets cost about `each` polls a datagram, beside the first poll
/// of each future. A tenth more is allowed: a wake may come for nothing.
fn costs(program: &str, sockets: usize, each: u64) {
    let args = ["--base-port", "0", "--sockets", &sockets.to_string(), "--json"];
    let ended = hundred(Running::start(program, &args), sockets);
    let total: u64 = polls(&ended, sockets).iter().sum();
    let least = 100 * each + sockets as u64;
    assert!(
        (least..=least + least / 10).contains(&total),
        "{program}, {sockets} sockets: {total} polls, not {least}"
    );
}

#[test]
fn join_polls_all_ten_for_each_datagram() {
    costs(JOIN, 10, 10);
}

#[test]
fn join_changes_its_engine_at_31() {
    costs(JOIN, 30, 30);
    costs(JOIN, 31, 1);
}

#[test]
fn the_others_poll_only_the_one_that_was_woken() {
    for program in [SPAWN, UNORDERED, JOINSET] {
        costs(program, 10, 1);
        costs(program, 31, 1);
    }
}

#[test]
fn system_calls_do_not_differ() {
    for program in ALL {
        let args = ["--base-port", "0", "--json", "--marks"];
        let Some(program) = Running::traced(CALLS, program, &args) else { return };
        let ended = hundred(program, 10);
        let total: u64 = polls(&ended, 10).iter().sum();
        let (receives, sends) = (ended.trace.count("recvfrom"), ended.trace.count("sendto"));
        // The socket that wakes tokio for a signal is a socket, too.
        assert!((100..=104).contains(&sends), "an answer each: {sends}");
        assert!((200..=230).contains(&receives), "each datagram, and one that would block: {receives}");
        assert!((100..=330).contains(&ended.trace.waits()), "about a wait each: {}", ended.trace.waits());
        let marks = ended.trace.marks();
        let marked = marks.iter().filter(|mark| mark.starts_with("poll socket-")).count() as u64;
        assert_eq!(marked, total, "each poll is marked");
        let pending = marks.iter().filter(|mark| mark.starts_with("pending socket-")).count() as u64;
        assert_eq!(pending, total, "and none of the futures completes");
        assert_eq!((marks[0], marks[marks.len() - 1]), ("ready", "shutdown"));
    }
}

#[test]
fn a_flood_on_one_socket_starves_no_other() {
    for program in ALL {
        let mut program = Running::start(program, &["--base-port", "0", "--sockets", "3", "--json"]);
        let to = addresses(&mut program, 3);
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        // One echo, so that the futures are at rest in their wait.
        client.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        client.send_to(b"first", to[0]).expect("sent");
        client.recv(&mut [0; 5]).expect("an echo");
        program.line_with("socket 0");
        // 150 for the first socket, one for the others, all there when the program goes on.
        program.stop();
        for _ in 0..150 {
            client.send_to(b"flood", to[0]).expect("sent");
        }
        client.send_to(b"quiet", to[1]).expect("sent");
        client.send_to(b"quiet", to[2]).expect("sent");
        program.signal(Signal::SIGCONT);
        let mut before = 0;
        let mut quiet = 0;
        for _ in 0..152 {
            match program.line().starts_with("socket 0 ") {
                false => quiet += 1,
                true if quiet < 2 => before += 1,
                true => {}
            }
        }
        assert_eq!(quiet, 2);
        assert!(before <= 64, "the others waited for {before} datagrams of the first socket");
        assert_eq!(program.interrupt().summary()["datagrams"], 153);
    }
}

/// How many datagrams each of ten sockets had that are never empty, while 10,000 were received in all.
fn of_each(program: &str, budget: &str) -> Vec<u64> {
    let args = ["--base-port", "0", "--hot", "10000", "--budget", budget, "--json"];
    let summary = Running::start(program, &args).end().summary();
    let received: Vec<u64> =
        summary["received"].as_array().unwrap().iter().filter_map(|one| one.as_u64()).collect();
    assert_eq!(received.len(), 10, "{summary}");
    assert!((10_000..10_020).contains(&received.iter().sum::<u64>()), "{summary}");
    received
}

#[test]
fn tokio_s_budget_alone_starves_most_futures_of_one_task() {
    let join = of_each(JOIN, "task");
    assert!(join[0] >= 9_900 && join[1..].iter().all(|one| *one <= 10), "the first has all: {join:?}");
    let unordered = of_each(UNORDERED, "task");
    let middle = &unordered[1..9];
    assert!(middle.iter().all(|one| *one <= 10), "the eight in the middle have nothing: {unordered:?}");
    assert!(unordered[0] > 4_500 && unordered[9] > 4_500, "the first and the last share: {unordered:?}");
}

#[test]
fn a_budget_of_each_future_or_a_task_each_is_fair() {
    for program in ALL {
        let each = of_each(program, "future");
        assert!(each.iter().all(|one| (900..=1100).contains(one)), "{program}: {each:?}");
    }
    for program in [SPAWN, JOINSET] {
        let each = of_each(program, "task");
        assert!(each.iter().all(|one| (850..=1150).contains(one)), "{program}: {each:?}");
    }
}

#[test]
fn the_project_s_own_ports_are_not_answered() {
    // Any free one of 2000 to 2009; other programs may hold some of them.
    let Some(client) = (2000..2010).find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok()) else {
        return eprintln!("skipped: ports 2000 to 2009 are all taken");
    };
    let mut program = Running::start(JOINSET, &["--base-port", "0", "--sockets", "1", "--json"]);
    let to = addresses(&mut program, 1)[0];
    client.send_to(b"loop", to).expect("sent");
    assert!(program.line().ends_with("refused: project_port"));
    let summary = program.interrupt().summary();
    assert_eq!(summary["datagrams"], 1);
}

#[test]
fn either_signal_ends_it_at_once_and_a_poke_by_itself() {
    for (program, signal) in ALL.into_iter().zip([Signal::SIGINT, Signal::SIGTERM].into_iter().cycle()) {
        let mut running = Running::start(program, &["--base-port", "0", "--sockets", "2", "--json"]);
        running.line_with("listening on 127.0.0.1:");
        running.signal(signal);
        let summary = running.end().summary();
        assert_eq!(summary["datagrams"], 0);
        let summary = Running::start(program, &["--base-port", "0", "--poke", "7", "--json"]).end().summary();
        assert_eq!((&summary["datagrams"], &summary["sockets"]), (&Value::from(7), &Value::from(10)));
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("its address").port().to_string();
    for program in ALL {
        Running::start(program, &["--base-port", &port, "--sockets", "1"]).end().refused(1, &port);
        Running::start(program, &["--base-port", "65530"]).end().refused(2, "65535");
        Running::start(program, &["--sockets", "0"]).end().refused(2, "from 1 to");
        Running::start(program, &["--base-port", "70000"]).end().refused(2, "70000");
    }
}

#[test]
fn nobody_need_listen() {
    for program in ALL {
        survives_without_an_audience(program, &["--base-port", "0", "--poke", "20"]);
    }
}

#[test]
fn a_row_of_ports_is_found_beside_many_neighbours() {
    // Of the ports that the kernel gives away, one in 59 is taken: 60 in a row are nowhere free among them.
    let neighbours: Vec<_> =
        (32_768..61_000).step_by(59).map(|port| UdpSocket::bind(("127.0.0.1", port))).collect();
    let args = ["--base-port", "0", "--sockets", "60", "--json"];
    let mut together: Vec<_> = (0..4).map(|_| Running::start(JOIN, &args)).collect();
    for program in &mut together {
        addresses(program, 60);
    }
    drop(neighbours);
    for program in together {
        assert_eq!(program.interrupt().summary()["sockets"], 60);
    }
}
