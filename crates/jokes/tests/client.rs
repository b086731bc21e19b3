//! The client tells a whole joke from everything else, and says so in its exit code.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::thread;

use serde_json::json;
use socket2::{Domain, Socket, Type};
use support::*;

/// A server that sends `text` to each client and ends well. Lives as long as the test program.
fn server_that_sends(text: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            connection.write_all(text).expect("sent");
            connection.shutdown(Shutdown::Write).expect("ended");
            // The client may be gone first.
            let _ = connection.read(&mut [0]);
        }
    });
    address
}

#[test]
fn failures_are_told_apart() {
    let file = Temporary::new(b"one\n---\ntwo\nlines\n");
    for (sent, kind) in [
        (&b""[..], "empty"),
        (b"two\n", "cut_short"),
        (b"one\nmore\n", "not_a_joke"),
        (b"o\xff", "not_a_joke"),
        (b"ones", "not_a_joke"),
    ] {
        let address = server_that_sends(sent);
        let (mut report, code) = client(address, &["--connections", "3", "--file", file.path()]);
        assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
        report["seconds"] = json!(1);
        let expected = json!({
            "connections": 3, "ok": 0, "failed": {kind: 3}, "seconds": 1, "p50": null, "p99": null, "max": null,
        });
        assert_eq!((report, code), (expected, Some(1)));
    }
    let (report, code) = client(server_that_sends(b"one\n"), &["--connections", "3", "--file", file.path()]);
    assert_eq!((&report["ok"], &report["failed"], code), (&json!(3), &json!({}), Some(0)), "{report}");
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| report[name].as_f64().expect("a number"));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max && max <= report["seconds"].as_f64().expect("a number"));
}

#[test]
fn nobody_there_and_nobody_answering() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // The kernel completes the connection; nobody accepts it.
    let (report, code) = client(address, &["--connections", "2", "--timeout", "100ms"]);
    assert_eq!((&report["failed"], code), (&json!({"timeout": 2}), Some(1)), "{report}");
    // Bound, so that nobody else gets the port, and not listening.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let (report, code) = client(address, &["--connections", "2"]);
    assert_eq!((&report["failed"], code), (&json!({"ECONNREFUSED": 2}), Some(1)), "{report}");
}

#[test]
fn one_thread_is_enough() {
    let file = Temporary::new(b"one\n");
    let address = server_that_sends(b"one\n").to_string();
    let launch = Launch::new(CLIENT).args(["--connections", "3", "--file", file.path(), &address]);
    let ended = must(launch.prefix(with_threads(1)).run());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

#[test]
fn a_server_that_never_ends_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("a connection");
        while connection.write_all(&[b'x'; 65_536]).is_ok() {}
    });
    let (report, code) = client(address, &["--connections", "1"]);
    assert_eq!((&report["failed"], code), (&json!({"not_a_joke": 1}), Some(1)), "{report}");
}

#[test]
fn wrong_usage_and_text() {
    let run = |flags: &[&str]| must(Launch::new(CLIENT).args(flags).run());
    for flags in [
        &["--connections", "0"][..],
        &["localhost:1"],
        &["--timeout", "0s"],
        &["--timeout", "18446744073709551615s"],
        &["--connections", "-1"],
        &["--nonsense"],
    ] {
        let ended = run(flags);
        assert_eq!(ended.code(), Some(2), "{flags:?}: {ended:?}");
        assert!(ended.stderr.starts_with("jokes-client: ") && ended.stderr.contains("Usage:"), "{ended:?}");
    }
    let ended = run(&["--file", "/nonexistent"]);
    assert_eq!((ended.code(), ended.stderr.lines().count()), (Some(1), 1), "{ended:?}");
    let address = server_that_sends(b"no joke of the file").to_string();
    let ended = run(&["--connections", "5", "-v", &address]);
    assert_eq!(ended.code(), Some(1));
    assert!(ended.stdout.contains("failed  5 (not_a_joke 5)"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 5, "one line for each: {ended:?}");
}
