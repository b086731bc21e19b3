//! The UDP client: what it takes for an echo, and what it says when none comes.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use harness::{Client, Launch, Result};

/// A server that lives as long as the test: answers each datagram with what `answers` makes of it.
fn server(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            for answer in answers(&buffer[..length]) {
                socket.send_to(&answer, peer).expect("loopback takes it");
            }
        }
    });
    address
}

fn said<T>(result: Result<T>) -> String {
    result.err().expect("it fails").to_string()
}

#[test]
fn an_echo_is_equal_to_the_byte() {
    let mut client = Client::of(server(|datagram| vec![datagram.to_vec()])).expect("a client");
    for length in [0, 1, 65_507] {
        client.echo(&vec![7; length]).expect("an echo");
    }
    assert!(said(client.send(&vec![7; 65_508])).contains("65508 bytes"));
    client.expect_nothing().expect("nothing more");
    let (sent, replies) = client.settle().expect("it settles");
    assert!(sent >= 1 && replies.len() as u64 == sent);
    assert!(client.arrived().expect("a look").is_empty());
}

#[test]
fn a_wrong_echo_is_shown() {
    let mut client = Client::of(server(|datagram| vec![[datagram, b"!"].concat()])).expect("a client");
    let error = said(client.echo(b"abc"));
    assert!(error.contains("expected 3 bytes [616263], got 4 bytes [61626321]"), "{error}");
    assert!(error.contains("from byte 3 on"), "{error}");
    let mut twice = Client::of(server(|datagram| vec![datagram.to_vec(); 2])).expect("a client");
    twice.echo(b"abc").expect("the first");
    assert!(said(twice.expect_silence(Duration::from_secs(20))).contains("not asked for"));
}

#[test]
fn a_reply_from_elsewhere_is_told_from_one_of_the_server() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut client = Client::of(server.local_addr().expect("its address")).expect("a client");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = client.socket.local_addr().expect("its address");
    other.send_to(b"hello", to).expect("loopback takes it");
    assert!(said(client.receive()).contains("not from"));
}

#[test]
fn nobody_is_waited_for_who_has_ended() {
    // As long as the patience of a launch is, it is not spent on a program that is gone.
    let launch =
        Launch::new("sh").args(["-c", "echo 'x: listening on 127.0.0.1:9'; echo broken >&2; read end"]);
    let mut program = launch.start().expect("it starts");
    program.await_greeting().expect("it greets");
    let mut client = program.client().expect("a client");
    let error = said(client.receive());
    assert!(error.contains("the server has ended") && error.contains("broken"), "{error}");
}

#[test]
fn a_client_has_the_port_it_asks_for() {
    let server = server(|datagram| vec![datagram.to_vec()]);
    let (mut one, mut two) =
        (Client::on_port(2003, server).expect("a client"), Client::on_port(2003, server).expect("another"));
    assert_eq!((one.port().expect("a port"), two.port().expect("a port")), (2003, 2003));
    one.echo(b"one").expect("an echo");
    two.echo(b"two").expect("an echo");
}
