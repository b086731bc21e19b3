//! `loadgen serve` through the reader's door: the binary, its greeting, its wire, its summary.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use harness::Output;
use harness::demo::must;
use nix::sys::signal::Signal;

mod common;
use common::{Target, loadgen, output, own_address};

/// Sends a GET on `stream` and returns the status line's code.
fn get(stream: &mut TcpStream) -> u16 {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n").expect("the request is sent");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a reply within the deadline");
    let status =
        line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).expect("headers");
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("the body");
    status
}

#[test]
fn http_greets_answers_and_sums_up() {
    let target = Target::start("http", &[]);
    assert_eq!(
        target.greeting,
        format!("loadgen: listening on {0}  (try: curl http://{0}/)", target.address)
    );
    let mut stream = target.connect();
    for _ in 0..5 {
        assert_eq!(get(&mut stream), 200);
    }
    let summary = target.stop();
    assert_eq!((summary["connections"].as_u64(), summary["answered"].as_u64()), (Some(1), Some(5)));
}

#[test]
fn tcp_says_its_line_and_closes() {
    let target = Target::start("tcp", &[]);
    for unasked in ["", "a client that talks first\n"] {
        let mut stream = target.connect();
        stream.write_all(unasked.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a line and the end, not a reset");
        assert_eq!(text, "ok\n");
    }
    assert_eq!(target.stop()["answered"], 2);
}

#[test]
fn udp_echoes_every_size() {
    let target = Target::start("udp", &[]);
    let socket = target.udp();
    let mut buffer = vec![0; 70_000];
    for size in [0, 1, 16, 1472, 1473, 65_507] {
        let sent: Vec<u8> = (0..size).map(|i| i as u8).collect();
        socket.send(&sent).expect("sent");
        let length = socket.recv(&mut buffer).expect("an echo within the deadline");
        assert_eq!(&buffer[..length], sent, "{size} bytes");
    }
    assert_eq!(target.stop()["answered"], 6);
}

#[test]
fn udp_obeys_the_loop_guard() {
    let target = Target::start("udp", &[]);
    // An address of this test's own, so that nobody else has the port.
    let project =
        UdpSocket::bind((own_address(), 2003)).expect("a port of the project's on an unused address");
    project.send_to(b"from a rung", target.address).expect("sent");
    let honest = target.udp();
    honest.send(b"x").expect("sent");
    honest.recv(&mut [0; 10]).expect("the next is answered");
    project.set_nonblocking(true).expect("non-blocking");
    let reply = project.recv(&mut [0; 10]);
    assert!(reply.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "a refused source got a reply");
    let summary = target.stop();
    assert_eq!(summary["refused"], serde_json::json!({"project_port": 1}));
}

#[test]
fn delay_holds_each_reply_but_not_the_next_request() {
    let target = Target::start("udp", &["--delay", "300ms"]);
    let socket = target.udp();
    let start = Instant::now();
    for i in 0..20_u8 {
        socket.send(&[i]).expect("sent");
    }
    let mut buffer = [0; 10];
    for i in 0..20_u8 {
        let length = socket.recv(&mut buffer).expect("a reply within the deadline");
        assert_eq!(buffer[..length], [i], "in order");
    }
    // One after the other they would take 6 s.
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    target.stop();
}

#[test]
fn a_single_server_serves_one_after_the_other() {
    // 50 a second: ten at once take at least 200 ms, of which the first takes 20.
    let target = Target::start("udp", &["--md1", "50"]);
    let socket = target.udp();
    let start = Instant::now();
    for i in 0..10_u8 {
        socket.send(&[i]).expect("sent");
    }
    for _ in 0..10 {
        socket.recv(&mut [0; 10]).expect("a reply within the deadline");
    }
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    target.stop();
}

#[test]
fn an_empty_bucket_rejects_exactly() {
    let target = Target::start("http", &["--bucket", "0.001,3,reject"]);
    let mut stream = target.connect();
    let codes: Vec<_> = (0..6).map(|_| get(&mut stream)).collect();
    assert_eq!(codes, [200, 200, 200, 429, 429, 429]);
    let summary = target.stop();
    assert_eq!((summary["answered"].as_u64(), summary["rejected"].as_u64()), (Some(3), Some(3)));

    let target = Target::start("tcp", &["--bucket", "0.001,1,reject"]);
    let texts = ["", ""].map(|_| {
        let mut text = String::new();
        target.connect().read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(texts[0].as_deref().ok(), Some("ok\n"));
    // Closed without a line: the end, or a reset.
    assert!(texts[1].as_deref().unwrap_or("").is_empty(), "{texts:?}");
    target.stop();
}

#[test]
fn every_kth_reply_is_lost_and_every_mth_doubled() {
    let (n, k, m) = (500_u32, 10, 7);
    let target = Target::start("udp", &["--drop-every", "10", "--dup-every", "7"]);
    let socket = target.udp();
    let mut seen = vec![0_u32; n as usize];
    let mut receive = |socket: &UdpSocket| {
        let mut buffer = [0; 4];
        socket.recv(&mut buffer).expect("a reply within the deadline");
        seen[u32::from_be_bytes(buffer) as usize] += 1;
    };
    for i in 0..n {
        socket.send(&i.to_be_bytes()).expect("sent");
        // The kept replies so far tell how many arrive for this one.
        let (replies, kept) = (i + 1, i + 1 - (i + 1) / k);
        if replies % k != 0 {
            receive(&socket);
            if kept % m == 0 {
                receive(&socket);
            }
        }
    }
    let summary = target.stop();
    let lost = n / k;
    assert_eq!(seen.iter().filter(|times| **times == 0).count() as u32, lost);
    assert_eq!(seen.iter().filter(|times| **times == 2).count() as u32, (n - lost) / m);
    assert_eq!((summary["dropped"].as_u64(), summary["duplicated"].as_u64()), (Some(50), Some(64)));
    assert_eq!(summary["kernel_dropped"], 0);
}

#[test]
fn a_stall_holds_everyone() {
    // Again and again, so that no slow start misses it.
    let target = Target::start("udp", &["--stall", "1s", "--stall-at", "100ms", "--every", "2s"]);
    let socket = target.udp();
    let end = Instant::now() + common::DEADLINE;
    let mut longest = Duration::ZERO;
    while longest < Duration::from_millis(500) {
        assert!(Instant::now() < end, "no stall within the deadline: the longest wait was {longest:?}");
        let sent = Instant::now();
        socket.send(b"x").expect("sent");
        socket.recv(&mut [0; 10]).expect("a reply within the deadline");
        longest = longest.max(sent.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(target.stop()["unanswered"], 0);
}

#[test]
fn a_signal_ends_a_stall() {
    let target = Target::start("udp", &["--stall", "1h", "--stall-at", "50ms"]);
    let socket = target.udp();
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
    let end = Instant::now() + common::DEADLINE;
    loop {
        socket.send(b"x").expect("sent");
        if socket.recv(&mut [0; 10]).is_err() {
            break;
        }
        assert!(Instant::now() < end, "no stall within the deadline");
    }
    // Within the deadline of `stop`, that is, and not in an hour.
    target.stop();
}

#[test]
fn the_dead_keep_connections_and_do_not_answer() {
    for kind in ["http", "tcp", "udp"] {
        let target = Target::start(kind, &["--dead-after", "0s"]);
        // Time for a slow machine to let it read the request.
        let patience = Some(Duration::from_secs(1));
        let reply = if kind == "udp" {
            let socket = target.udp();
            socket.send(b"x").expect("sent");
            socket.set_read_timeout(patience).expect("set");
            socket.recv(&mut [0; 10])
        } else {
            let mut stream = target.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n").expect("sent");
            stream.set_read_timeout(patience).expect("set");
            stream.read(&mut [0; 10])
        };
        assert!(
            reply.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "{kind}: {reply:?}"
        );
        let summary = target.stop();
        assert_eq!(
            (summary["received"].as_u64(), summary["unanswered"].as_u64()),
            (Some(1), Some(1)),
            "{kind}"
        );
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    let target = Target::start("http", &["--delay", "1h"]);
    let mut stream = target.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n").expect("sent");
    // Both come at once, however slow the machine is.
    for signal in [Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGCONT] {
        target.signal(signal);
    }
    let (status, rest) = target.wait();
    // Signals that come together are delivered in the kernel's order.
    assert!(matches!(status.code(), Some(130 | 143)), "{status:?}");
    assert_eq!(rest, "", "no summary");
}

#[test]
fn wrong_usage_is_told_and_ends_with_2() {
    for (args, hint) in [
        (&["http", "localhost:2000"][..], "127.0.0.1:2000"),
        (&["http", "0.0.0.0:0"], "--allow-remote"),
        (&["http", "[::]:0"], "--allow-remote"),
        (&["ftp"], "http"),
        (&["http", "--stall", "2s", "--every", "1s"], "longer"),
        (&["http", "--every", "1s"], "--stall"),
        (&["http", "--stall", "0s"], "longer than nothing"),
        (&["http", "--md1", "10", "--mm1", "10"], "cannot be used with"),
        (&["http", "--md1", "0"], "1000"),
        (&["http", "--bucket", "0,10"], "1000"),
        (&["http", "--bucket", "10"], "BURST"),
        (&["tcp", "--drop-every", "3"], "udp"),
        (&["udp", "--drop-every", "0"], "0"),
        (&["udp", "--no-such-flag"], "--no-such-flag"),
    ] {
        let output = output(&[&["serve"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(hint), "{args:?}: no {hint:?} in {stderr:?}");
        assert!(stderr.contains("Usage: loadgen serve"), "{args:?}: {stderr:?}");
        assert!(stderr.starts_with("loadgen: "), "{args:?}: {stderr:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_address_in_use_is_one_line_and_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("an address").to_string();
    let output = output(&["serve", "http", &address]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&address) && stderr.contains("in use") && stderr.lines().count() == 1,
        "{stderr:?}"
    );
}

#[test]
fn without_an_audience_it_serves_on() {
    // The address cannot be read from a full disk, so it is chosen: one of this test's own.
    let address = format!("{}:29170", own_address());
    let serve = loadgen(&["serve", "udp", &address, "-v"]).stdout(Output::Full).stderr(Output::Full);
    let server = must(serve.start());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.connect(&address).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
    let end = Instant::now() + common::DEADLINE;
    let answered = loop {
        // It is refused until the server has bound its port.
        let _ = socket.send(b"x");
        if socket.recv(&mut [0; 10]).is_ok() {
            break true;
        }
        if Instant::now() > end {
            break false;
        }
    };
    let ended = must(server.terminate());
    assert!(answered, "no reply within the deadline");
    assert_eq!(ended.code(), Some(0));
}
