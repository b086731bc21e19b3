//! echo-blocking: a UDP echo that waits nowhere but in its calls: receive, then send.
//!
//! New here: the service itself; a flip-flop, which receives or sends, and sleeps in both.
//! Run:      cargo run --bin echo-blocking
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-blocking    (or: strace target/debug/echo-blocking)
//! Expect:   recvfrom, sendto for one datagram; 128 for a burst of 64
//! Still wrong: while it sleeps in one call, it can do nothing else (next: echo-libc).
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use datagram_queue::{DatagramQueue, Fill, Policy};
use echo_service::{Flags, Pause, Service};

/// A send that blocks comes back so often, to see whether a signal has come.
const LOOK_UP: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "it receives nothing while it waits for a send");
    let (socket, mut service) = Service::open(&flags);
    // One datagram at a time is all that it ever holds, whatever --queue says.
    let mut queue = DatagramQueue::new(1, flags.max_size, Policy::Backpressure);
    let outcome = run(&socket, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Receives, then sends. There is no wait in which a signal could be one thing more to wait for, so a
/// signal comes as a datagram, from the address `waker`.
fn run(socket: &UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<()> {
    let waker = service.signals_as_datagrams(socket)?;
    socket.set_write_timeout(Some(LOOK_UP))?;
    service.greet();
    // region: wait
    while service.serving(queue) {
        if service.signalled() {
            service.stop(queue);
        }
        receive(socket, queue, service, waker)?;
        flush(socket, queue, service)?;
    }
    // endregion: wait
    Ok(())
}

// region: receive
/// One datagram from the socket into the queue. Sleeps until there is one.
fn receive(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    waker: SocketAddr,
) -> io::Result<Pause> {
    service.waiting();
    let filled = queue.fill(|slot| match socket.recv_from(slot) {
        Ok((_, peer)) if peer == waker => Ok(None),
        received => service.admit(received),
    });
    match filled {
        Ok(Fill::Full) => return Ok(Pause::QueueFull),
        Ok(Fill::Closed) => return Ok(Pause::Finished),
        Ok(fill) => service.queued(fill, queue.len()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => service.receive_failed(error)?,
    }
    Ok(Pause::BudgetSpent)
}
// endregion: receive

// region: flush
/// The datagram from the queue into the socket. Sleeps while the socket takes none.
fn flush(socket: &UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<Pause> {
    while !queue.is_empty() {
        if service.done() {
            return Ok(Pause::Finished);
        }
        match queue.drain(|payload, peer| socket.send_to(payload, peer)) {
            Ok(bytes) => service.sent(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.send_failed(error)?,
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush
