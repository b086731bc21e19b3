//! What the page of echo-tokio-ready claims beside its diff, asked of the program.

use std::net::UdpSocket;

use harness::PATIENCE;
use harness::demo::{CALLS, Running};

const READY: &str = env!("CARGO_BIN_EXE_echo-tokio-ready");

/// As echo-mini, but for the waits: tokio always asks for writability, too, and each completed send is news of it.
#[test]
fn it_makes_the_calls_and_the_polls_of_echo_mini_and_more_waits() {
    const COUNT: usize = 20;
    let Some(mut program) = Running::traced(CALLS, READY, &["127.0.0.1:0", "--marks", "--json"]) else {
        return;
    };
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.connect(program.addresses()[0]).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    for _ in 0..COUNT {
        client.send(b"hello").expect("sent");
        assert_eq!(client.recv(&mut [0; 16]).expect("an echo"), 5);
    }
    let ended = program.interrupt();
    assert_eq!(ended.summary()["sent"], COUNT);
    let trace = &ended.trace;
    assert_eq!(trace.count("recvfrom"), 2 * COUNT, "one datagram, one would-block");
    assert_eq!(trace.calls(|call| call.starts_with("sendto(") && call.contains("hello")).len(), COUNT);
    let waits = trace.waits();
    assert!((COUNT + 1..=2 * COUNT + 4).contains(&waits), "{waits} waits for {COUNT} datagrams");
    let marks = trace.marks();
    let count = |mark: &str| marks.iter().filter(|made| **made == mark).count();
    // The first poll, one for each datagram, one for the signal.
    assert_eq!((count("poll echo"), count("ready echo")), (COUNT + 2, 1));
}
