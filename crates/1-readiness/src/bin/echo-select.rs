//! echo-select: a UDP echo that waits in select(2).
//!
//! New here: one wait for both directions; what to wait for is computed from the queue.
//! Run:      cargo run --bin echo-select
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-select    (or: strace target/debug/echo-select)
//! Expect:   select, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 130 for a burst of 64
//! Still wrong: descriptors from 1024 up do not fit the sets (next: echo-poll).
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use nix::errno::Errno;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

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
    // A set is 1024 bits and a descriptor is the index of its bit: the wall of select.
    let highest = socket.as_raw_fd().max(service.signals().as_raw_fd());
    if highest as usize >= FD_SETSIZE {
        return Err(io::Error::other(format!(
            "descriptor {highest} is beyond the {FD_SETSIZE} that fit a set: start it with fewer open, or run echo-poll"
        )));
    }
    service.greet();
    // region: wait
    while service.serving(queue) {
        // Ask for what the queue can use: room wants datagrams, contents want to go. The sets are built
        // anew each time, since the kernel overwrites them with its answer.
        let (mut readable, mut writable) = (FdSet::new(), FdSet::new());
        readable.insert(service.signals());
        if queue.has_room() {
            readable.insert(socket.as_fd());
        }
        if !queue.is_empty() {
            writable.insert(socket.as_fd());
        }
        let mut timeout = service.timeout_ms().map(|ms| TimeVal::milliseconds(ms.into()));

        service.waiting();
        match select(highest + 1, &mut readable, &mut writable, None, &mut timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let on_signal = readable.contains(service.signals());
        let on_socket = readable.contains(socket.as_fd()) || writable.contains(socket.as_fd());
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
