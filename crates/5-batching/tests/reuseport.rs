//! What the page of echo-reuseport claims: which peer goes where, who may join, and what is decided over all sockets.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use harness::{Client, Launch};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const REUSEPORT: &str = env!("CARGO_BIN_EXE_echo-reuseport");
const MMSG: &str = env!("CARGO_BIN_EXE_echo-mmsg");

/// Enough that all of them on one of two sockets is a matter of 1 in 2^63.
const PEERS: usize = 64;

fn bind(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.bind(&address.into()).expect("the address");
    socket.set_nonblocking(true).expect("a mode");
    socket.into()
}

/// Two sockets on one address.
fn two() -> [UdpSocket; 2] {
    let first = bind("127.0.0.1:0".parse().expect("an address"));
    let second = bind(first.local_addr().expect("its address"));
    [first, second]
}

fn peers(server: SocketAddr) -> Vec<UdpSocket> {
    let peer = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(server).expect("a peer");
        socket
    };
    (0..PEERS).map(|_| peer()).collect()
}

/// Sends one datagram from each peer, then takes what has come. Returns the socket of each.
fn placed(sockets: &[UdpSocket], peers: &[UdpSocket]) -> Vec<usize> {
    peers.iter().for_each(|peer| assert_eq!(peer.send(b"x").expect("a send"), 1));
    let mut places = vec![None; peers.len()];
    let addresses: Vec<_> = peers.iter().map(|peer| peer.local_addr().expect("its address")).collect();
    for (place, socket) in sockets.iter().enumerate() {
        loop {
            match socket.recv_from(&mut [0; 8]) {
                Ok((_, from)) => {
                    let peer = addresses.iter().position(|address| *address == from).expect("one of ours");
                    places[peer] = Some(place);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("receive: {error}"),
            }
        }
    }
    places.into_iter().map(|place| place.expect("loopback loses nothing")).collect()
}

#[test]
fn a_peer_stays_on_its_socket_and_each_socket_has_some() {
    let sockets = two();
    let peers = peers(sockets[0].local_addr().expect("its address"));
    let first = placed(&sockets, &peers);
    assert!(first.contains(&0) && first.contains(&1), "{first:?}");
    for _ in 0..5 {
        assert_eq!(placed(&sockets, &peers), first);
    }
}

#[test]
fn a_socket_that_closes_loses_its_queue_and_one_that_comes_takes_peers_away() {
    let [first, second] = two();
    let address = first.local_addr().expect("its address");
    let peers = peers(address);
    let before = placed(&[first.try_clone().expect("a name"), second.try_clone().expect("a name")], &peers);
    peers.iter().for_each(|peer| assert_eq!(peer.send(b"y").expect("a send"), 1));
    let lost = before.iter().filter(|place| **place == 1).count();
    drop(second);
    let mut left = 0;
    while first.recv_from(&mut [0; 8]).is_ok() {
        left += 1;
    }
    assert_eq!(left, PEERS - lost, "what was in the closed socket is gone");
    // All peers are now on the other one.
    let one = [first];
    assert_eq!(placed(&one, &peers), vec![0; PEERS]);
    let [first] = one;
    let three = [first, bind(address), bind(address)];
    let after = placed(&three, &peers);
    assert!((0..3).all(|place| after.contains(&place)), "{after:?}");
}

/// The summary of a server that has ended.
fn summary(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

fn start(args: &[&str]) -> harness::Process {
    let mut server = Launch::new(REUSEPORT).args(args).start().expect("a server");
    server.await_greeting().expect("its greeting");
    server
}

#[test]
fn a_second_process_joins_and_nobody_is_told() {
    let first = start(&["--json", "127.0.0.1:0"]);
    let address = first.address().expect("its address");
    let second = start(&["--json", &address.to_string()]);
    for _ in 0..PEERS {
        Client::of(address).and_then(|mut client| client.echo(b"who?")).expect("an echo");
    }
    let ended = [first, second].map(|server| server.terminate().expect("an end"));
    let sent = ended.each_ref().map(|ended| summary(&ended.stdout)["sent"].as_u64().expect("a number"));
    assert_eq!(sent[0] + sent[1], PEERS as u64, "{sent:?}");
    assert!(sent[0] > 0 && sent[1] > 0, "{sent:?}");
    assert!(ended.iter().all(|ended| ended.stderr.is_empty()), "{ended:?}");
}

#[test]
fn a_server_without_the_option_cannot_join() {
    let first = start(&["127.0.0.1:0"]);
    let address = first.address().expect("its address").to_string();
    let refused = Launch::new(MMSG).args([address]).run().expect("an end");
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("in use"), "{refused:?}");
}

#[test]
fn a_count_is_that_of_all_sockets() {
    for _ in 0..10 {
        let mut server = start(&["--json", "--count", "100", "127.0.0.1:0"]);
        let peers = peers(server.address().expect("its address"));
        server.freeze().expect("a stop");
        for _ in 0..20 {
            peers.iter().for_each(|peer| drop(peer.send(b"x")));
        }
        server.thaw().expect("a start");
        server.wait().expect("an end");
        let counted = summary(&server.finish().expect("an end").stdout);
        assert_eq!(counted["sent"], 100, "{counted}");
    }
}

#[test]
fn what_the_kernel_dropped_is_that_of_all_sockets() {
    let mut server = start(&["--json", "--receive-buffer", "4096", "127.0.0.1:0"]);
    let address = server.address().expect("its address");
    let peers = peers(address);
    server.freeze().expect("a stop");
    for _ in 0..20 {
        peers.iter().for_each(|peer| assert_eq!(peer.send(b"x").expect("a send"), 1));
    }
    server.thaw().expect("a start");
    server.await_quiet().expect("quiet");
    let counted = summary(&server.terminate().expect("an end").stdout);
    let number = |name: &str| counted[name].as_u64().expect("a number");
    assert!(number("kernel_dropped") > PEERS as u64, "{counted}");
    assert_eq!(number("received") + number("kernel_dropped"), 20 * PEERS as u64, "{counted}");
}
