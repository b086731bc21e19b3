//! R19: the real binary behind a network that loses, doubles, damages and delays datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use loadgen::result::{Document, Run};
use loadgen_lab::lossy_proxy::{Faults, LossyProxy};

mod common;

/// What `loadgen run TARGET ARGS --json` printed.
fn run(target: &str, args: &[&str]) -> Run {
    let ended = common::loadgen(&[&["run", target, "--json", "--no-progress"], args].concat());
    match serde_json::from_str(&ended.stdout) {
        Ok(Document::Run(run)) => run,
        _ => panic!("no run: {}", ended.stderr),
    }
}

/// An echo server in a thread; it ends with the test's process.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            // The peer may be gone.
            _ = socket.send_to(&buffer[..length], peer);
        }
    });
    address
}

/// R19: what the proxy lost, doubled and damaged is what the generator counts.
#[test]
fn r19_losses_equal_the_proxys() {
    let args = ["--rate", "400", "--duration", "2s", "--warmup", "0s", "--grace", "3s"];
    for (there, back) in [
        (
            Faults { loss: 0.1, ..Faults::default() },
            Faults { duplication: 0.1, reordering: 0.05, ..Faults::default() },
        ),
        (Faults::default(), Faults { corruption: 0.1, ..Faults::default() }),
    ] {
        let proxy = LossyProxy::start(echo(), 42, there, back).expect("a proxy");
        let run = run(&format!("udp://{}", proxy.address()), &args);
        let counts = proxy.counts();
        let udp = run.udp.expect("datagrams");
        let expected = udp.sent - counts.back.received + counts.back.lost + counts.back.corrupted;
        assert!(expected > 0, "the proxy did something: {counts:?}");
        assert_eq!((udp.lost, udp.duplicates), (expected, counts.back.duplicated), "{udp:?} {counts:?}");
        assert_eq!((udp.corrupt, udp.kernel_dropped), (counts.back.corrupted, 0), "{udp:?} {counts:?}");
        assert_eq!(udp.reordered > 0, counts.back.reordered > 0, "{udp:?} {counts:?}");
    }
}

/// R19: a reply that comes after its datagram's timeout is late, and never another's.
#[test]
fn r19_a_late_reply_is_never_anothers() {
    let slow = Faults { delay: Duration::from_millis(600), ..Faults::default() };
    let proxy = LossyProxy::start(echo(), 1, Faults::default(), slow).expect("a proxy");
    let args = ["--rate", "100", "--duration", "2s", "--warmup", "0s", "--timeout", "200ms", "--grace", "3s"];
    let run = run(&format!("udp://{}", proxy.address()), &args);
    let udp = run.udp.expect("datagrams");
    assert_eq!((run.counts.ok, run.counts.timeout), (0, 200), "{:?}", run.counts);
    // The run ends when nothing is outstanding; the last replies are still on their way then.
    assert!(udp.late >= 100 && udp.duplicates == 0 && udp.corrupt == 0, "{udp:?}");
}
