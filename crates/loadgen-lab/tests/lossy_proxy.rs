//! The lossy proxy over real sockets: what clients see is what it counted, and clients stay apart.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use loadgen_lab::lossy_proxy::{Faults, LossyProxy};

/// For each wait of a test that is expected to succeed.
const DEADLINE: Duration = Duration::from_secs(20);

/// An echo server in a thread; it ends with the test's process.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], peer).unwrap();
        }
    });
    address
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Sends `n` numbered datagrams, at most 64 of which are under way, and returns the numbers that came back.
fn exchange(socket: &UdpSocket, proxy: &LossyProxy, n: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut receive = |quiet: Duration| {
        let mut buffer = [0; 100];
        socket.set_read_timeout(Some(quiet)).unwrap();
        while let Ok(length) = socket.recv(&mut buffer) {
            numbers.push(u64::from_be_bytes(buffer[..length].try_into().expect("eight bytes")));
        }
    };
    for i in 0..n {
        socket.send_to(&i.to_be_bytes(), proxy.address()).unwrap();
        if i % 64 == 63 {
            // Small batches that have left the proxy, so that no socket buffer overflows.
            let counts = proxy.wait_until(|counts| counts.there.received > i && settled(counts));
            assert!(settled(&counts), "the batch is stuck: {counts:?}");
            receive(Duration::from_millis(1));
        }
    }
    let counts = proxy.wait_until(|counts| counts.there.received == n && settled(counts));
    assert!(settled(&counts), "the last batch is stuck: {counts:?}");
    // What has been sent over loopback is in the socket's buffer already.
    receive(Duration::from_millis(1));
    numbers
}

/// Whether nothing is under way: all that was delivered has come back, and all that came back has been judged.
fn settled(counts: &loadgen_lab::lossy_proxy::BothCounts) -> bool {
    let through = |c: &loadgen_lab::lossy_proxy::Counts| c.received + c.duplicated == c.delivered + c.lost;
    counts.there.delivered == counts.back.received && through(&counts.there) && through(&counts.back)
}

#[test]
fn clients_see_what_the_proxy_counted() {
    let faults = Faults { loss: 0.05, duplication: 0.05, reordering: 0.05, ..Faults::default() };
    let proxy = LossyProxy::start(echo(), 42, Faults::default(), faults).unwrap();
    let numbers = exchange(&client(), &proxy, 2000);
    let counts = proxy.counts().back;

    let mut times = HashMap::<u64, u64>::new();
    let (mut highest, mut late) = (0, 0);
    for number in &numbers {
        let seen = times.entry(*number).or_default();
        *seen += 1;
        highest = highest.max(*number);
        late += u64::from(*seen == 1 && *number < highest);
    }
    assert_eq!(counts.received, 2000);
    assert_eq!(2000 - times.len() as u64, counts.lost, "lost");
    assert_eq!(numbers.len() as u64 - times.len() as u64, counts.duplicated, "duplicated");
    assert_eq!(late, counts.reordered, "reordered");
    assert!(counts.lost > 0 && counts.duplicated > 0 && counts.reordered > 0, "{counts:?}");
}

#[test]
fn the_same_seed_does_the_same_on_the_wire() {
    let faults = Faults { loss: 0.2, duplication: 0.2, ..Faults::default() };
    let [first, second, other] = [7, 7, 8].map(|seed| {
        let proxy = LossyProxy::start(echo(), seed, faults, Faults::default()).unwrap();
        exchange(&client(), &proxy, 200)
    });
    assert_eq!(first, second);
    assert_ne!(first, other);
}

#[test]
fn replies_reach_their_own_client() {
    let proxy = LossyProxy::start(echo(), 1, Faults::default(), Faults::default()).unwrap();
    let clients: Vec<_> = (0..16).map(|_| client()).collect();
    for (i, socket) in clients.iter().enumerate() {
        socket.send_to(format!("client {i}").as_bytes(), proxy.address()).unwrap();
    }
    for (i, socket) in clients.iter().enumerate() {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).expect("a reply within the deadline");
        assert_eq!(&buffer[..length], format!("client {i}").as_bytes());
    }
}

#[test]
fn delay_is_added() {
    let slow = Faults { delay: Duration::from_millis(60), ..Faults::default() };
    let proxy = LossyProxy::start(echo(), 1, slow, slow).unwrap();
    let socket = client();
    let start = Instant::now();
    socket.send_to(b"x", proxy.address()).unwrap();
    socket.recv(&mut [0; 10]).expect("a reply within the deadline");
    assert!(start.elapsed() >= Duration::from_millis(120), "twice 60 ms took {:?}", start.elapsed());
}

#[test]
fn the_last_datagram_is_not_held_for_ever() {
    let faults = Faults { reordering: 1.0, ..Faults::default() };
    let proxy = LossyProxy::start(echo(), 1, faults, faults).unwrap();
    let socket = client();
    socket.send_to(b"alone", proxy.address()).unwrap();
    let mut buffer = [0; 10];
    let length = socket.recv(&mut buffer).expect("a reply within the deadline");
    assert_eq!(&buffer[..length], b"alone");
    assert_eq!(proxy.counts().there.reordered, 0, "nothing overtook it");
}

#[test]
fn a_closed_target_is_counted_and_the_proxy_goes_on() {
    // An address of its own, so that nobody else is given the port in between.
    let target = UdpSocket::bind("127.0.99.1:0").unwrap();
    let address = target.local_addr().unwrap();
    drop(target);
    let proxy = LossyProxy::start(address, 1, Faults::default(), Faults::default()).unwrap();
    let socket = client();
    socket.send_to(b"to nobody", proxy.address()).unwrap();
    let counts = proxy.wait_until(|counts| counts.back.errors > 0);
    assert!(counts.back.errors > 0, "connection refused was not counted: {counts:?}");
    // Somebody opens the port after all.
    let target = UdpSocket::bind(address).unwrap();
    target.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send_to(b"now", proxy.address()).unwrap();
    let mut buffer = [0; 10];
    let length = target.recv(&mut buffer).expect("the proxy goes on");
    assert_eq!(&buffer[..length], b"now");
}
