//! echo-mio-edge: a UDP echo that waits in mio, which is edge-triggered everywhere.
//!
//! New here: the wait of echo-epoll-edge, on every system that mio knows.
//! Run:      cargo run --bin echo-mio-edge
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-mio-edge    (or: strace target/debug/echo-mio-edge)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 132 for a burst of 64
//! Still wrong: the program's place is kept in variables, by hand (next: future-notify).

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// What mio hands back with an event, to say whose it is.
const SOCKET: Token = Token(0);
const SIGNALS: Token = Token(1);

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let outcome = run(&socket, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
fn run(socket: &std::net::UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<()> {
    // Edge-triggered reads go on until they would block, so a blocking socket would hang them.
    socket.set_nonblocking(true)?;
    // region: register
    let socket = &mut UdpSocket::from_std(socket.try_clone()?);
    let mut poll = Poll::new()?;
    let mut registered = Interest::READABLE;
    poll.registry().register(socket, SOCKET, registered)?;
    let signals = service.signals().as_raw_fd();
    poll.registry().register(&mut SourceFd(&signals), SIGNALS, Interest::READABLE)?;
    // endregion: register
    let mut events = Events::with_capacity(2);
    // There may be more to read: set by an edge, cleared by nothing but would-block.
    let mut readable = false;
    service.greet();
    // region: wait
    while service.serving(queue) {
        // Every send that the kernel completes is an edge of writability, and would end a wait: ask for
        // it only while something is left to send.
        let interest = match queue.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        if interest != registered {
            poll.registry().reregister(socket, SOCKET, interest)?;
            registered = interest;
        }
        // No edge will tell again of what is left over when the budget ends: with some left, only look at
        // the other descriptors, so that a busy socket starves nobody, and go on.
        let left_over = readable && queue.has_room();
        let timeout = if left_over { Some(0) } else { service.timeout_ms() };

        service.waiting();
        match poll.poll(&mut events, timeout.map(|ms| Duration::from_millis(ms.into()))) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let on_signal = events.iter().any(|event| event.token() == SIGNALS);
        let on_socket = left_over || events.iter().any(|event| event.token() == SOCKET);
        // An error makes a socket readable, too: the receive fetches it.
        readable |= events.iter().any(|event| {
            event.token() == SOCKET && (event.is_readable() || event.is_error() || event.is_read_closed())
        });
        if on_signal {
            service.stop(queue);
        }
        if on_socket {
            let mut budget = service.budget();
            loop {
                let received = match readable {
                    true => receive(socket, queue, service, &mut budget)?,
                    false => Pause::WouldBlock,
                };
                readable &= received != Pause::WouldBlock;
                let flushed = flush(socket, queue, service)?;
                if received != Pause::QueueFull || flushed != Pause::QueueEmpty {
                    break;
                }
            }
        }
    }
    // endregion: wait
    Ok(())
}

// region: receive
/// Socket into queue, until it would block, the queue is full or the budget is spent.
fn receive(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    budget: &mut usize,
) -> io::Result<Pause> {
    while *budget > 0 {
        match queue.fill(|slot| service.admit(socket.recv_from(slot))) {
            Ok(Fill::Full) => return Ok(Pause::QueueFull),
            Ok(Fill::Closed) => return Ok(Pause::Finished),
            Ok(fill) => service.queued(fill, queue.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.receive_failed(error)?,
        }
        *budget -= 1;
    }
    Ok(Pause::BudgetSpent)
}
// endregion: receive

// region: flush
/// Queue into socket, until it would block or the queue is empty.
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
