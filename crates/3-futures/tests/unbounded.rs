//! R14, a lab: a task for each datagram, with no bound on how many. Under a memory limit the server dies; its
//! bounded twin leaves what it cannot take in the kernel, and lives.
//!
//! The server is this test itself, started again with a limit on its address space (`ulimit -v`).

mod util;

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use harness::demo::must;
use harness::{Launch, Process};
use mini_runtime::net::UdpSocket;
use mini_runtime::{Runtime, sleep, spawn};
use util::{DEADLINE, within_deadline};

/// The size of the largest datagram, and so of the buffer that each task is given.
const BUFFER: usize = 65_507;
/// The memory that the server may have, in KiB: 512 MiB. It is full after some 8,000 tasks.
const LIMIT: usize = 512 * 1024;
const DATAGRAMS: usize = 10_000;
const BOUND: usize = 64;

/// Starts the server, which takes datagrams without a bound or up to one.
fn start(bound: usize) -> (Process, StdSocket) {
    let mut server = must(
        Launch::new(std::env::current_exe().unwrap().display())
            .args(["serve", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env("BOUND", &bound.to_string())
            .in_shell(&format!("ulimit -v {LIMIT}"))
            .start(),
    );
    let line = must(server.line_with("listening on "));
    let address: SocketAddr = line.split(' ').next_back().and_then(|word| word.parse().ok()).unwrap();
    let client = StdSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    (server, client)
}

/// Sends datagrams, a few at a time, until the server is dead or says no more; returns how many it has taken.
fn flood(server: &mut Process, client: &StdSocket, bound: usize) -> usize {
    let mut taken = 0;
    let mut heard = Instant::now();
    while taken < DATAGRAMS && !server.has_exited() {
        // Before the bound it may be slow; behind it, it is to be silent.
        let patience = if taken < bound { DEADLINE / 3 } else { Duration::from_secs(1) };
        if heard.elapsed() > patience {
            break;
        }
        for _ in 0..16 {
            // A server that is gone answers with a refusal, which the next turn finds out.
            let _ = client.send(b"one more");
        }
        for _ in 0..16 {
            if client.recv(&mut [0; 16]).is_err() {
                break;
            }
            taken += 1;
            heard = Instant::now();
        }
    }
    taken
}

#[test]
fn without_a_bound_it_dies() {
    within_deadline(|| {
        let (mut server, client) = start(usize::MAX);
        let taken = flood(&mut server, &client, usize::MAX);
        assert!(taken < DATAGRAMS, "{taken} tasks of {BUFFER} bytes fit into {LIMIT} KiB");
        let status = must(server.wait());
        assert!(!status.success(), "it died of it: {status}");
        assert!(taken > BOUND, "and not of the first datagram");
    });
}

#[test]
fn with_a_bound_it_lives() {
    within_deadline(|| {
        let (mut server, client) = start(BOUND);
        assert_eq!(flood(&mut server, &client, BOUND), BOUND, "it takes as many as it has places for");
        assert!(!server.has_exited(), "and lives");
    });
}

/// The server. Not a test: the tests above start it.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn serve() {
    let Some(bound) = std::env::var("BOUND").ok().and_then(|bound| bound.parse().ok()) else { return };
    Runtime::new()
        .unwrap()
        .block_on(async move {
            let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            println!("listening on {}", socket.local_addr().unwrap());
            // region: accept
            let places = Rc::new(());
            loop {
                let mut buffer = vec![0; BUFFER];
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                socket.send_to(b"taken", peer).await.unwrap();
                let place = Rc::clone(&places);
                spawn(async move {
                    // Work that takes its time: somebody else's answer is waited for.
                    sleep(Duration::from_secs(3600)).await;
                    drop((place, buffer, length));
                });
                // The bound. What is not received stays in the kernel's buffer, or is dropped there.
                while Rc::strong_count(&places) > bound {
                    sleep(Duration::from_millis(10)).await;
                }
            }
            // endregion: accept
        })
        .unwrap()
}
