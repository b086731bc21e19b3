//! echo-poll: a UDP echo that waits in poll(2).
//!
//! New here: a list of (descriptor, events); no FD_SETSIZE.
//! Run:      cargo run --bin echo-poll
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-poll    (or: strace target/debug/echo-poll)
//! Expect:   poll, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 130 for a burst of 64
//! Still wrong: the kernel walks the whole list on each call (next: echo-epoll-level).
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::ExitCode;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let outcome = run(&socket, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
fn run(socket: &UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<()> {
    // Ready is a hint: a datagram with a bad checksum is gone by the time it is read.
    socket.set_nonblocking(true)?;
    service.greet();
    // region: wait
    while service.serving(queue) {
        // hole: wait
        // Ask for what the queue can use: room wants datagrams, contents want to go.
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, queue.has_room());
        interest.set(PollFlags::POLLOUT, !queue.is_empty());
        let mut list =
            [PollFd::new(socket.as_fd(), interest), PollFd::new(service.signals(), PollFlags::POLLIN)];

        service.waiting();
        match poll(&mut list, service.timeout_ms()) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // The kernel has written its answer into the same list.
        let [on_socket, on_signal] = list.map(|entry| entry.any().unwrap_or(true));
        // endhole: wait
        if on_signal {
            service.stop(queue);
        }
        if on_socket {
            let mut budget = service.budget();
            loop {
                let received = receive(socket, queue, service, &mut budget)?;
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
