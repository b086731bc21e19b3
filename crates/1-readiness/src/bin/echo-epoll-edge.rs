//! echo-epoll-edge: a UDP echo that waits in epoll_wait(2), edge-triggered.
//!
//! New here: an event tells of a change, once; what is left unread is the program's to remember.
//! Run:      cargo run --bin echo-epoll-edge
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-epoll-edge    (or: strace target/debug/echo-epoll-edge)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 132 for a burst of 64
//! Still wrong: flags and structures of one system call, of one system (next: echo-mio-level).
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::process::ExitCode;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

/// What the kernel hands back with an event, to say whose it is.
const SOCKET: u64 = 0;
const SIGNALS: u64 = 1;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let outcome = run(&socket, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
fn run(socket: &UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<()> {
    // Edge-triggered reads go on until they would block, so a blocking socket would hang them.
    socket.set_nonblocking(true)?;
    // region: register
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut registered = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(socket, EpollEvent::new(registered, SOCKET))?;
    epoll.add(service.signals(), EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
    // endregion: register
    let mut events = [EpollEvent::empty(); 2];
    // There may be more to read: set by an edge, cleared by nothing but would-block.
    let mut readable = false;
    service.greet();
    // region: wait
    while service.serving(queue) {
        // Every send that the kernel completes is an edge of writability, and would end a wait: ask for
        // it only while something is left to send.
        let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        interest.set(EpollFlags::EPOLLOUT, !queue.is_empty());
        if interest != registered {
            epoll.modify(socket, &mut EpollEvent::new(interest, SOCKET))?;
            registered = interest;
        }
        // No edge will tell again of what is left over when the budget ends: with some left, only look at
        // the other descriptors, so that a busy socket starves nobody, and go on.
        let left_over = readable && queue.has_room();
        let timeout = if left_over { Some(0) } else { service.timeout_ms() };

        service.waiting();
        let ready = match epoll.wait(&mut events, timeout) {
            Ok(count) => &events[..count],
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let on_signal = ready.iter().any(|event| event.data() == SIGNALS);
        let on_socket = left_over || ready.iter().any(|event| event.data() == SOCKET);
        // An error makes a socket readable, too: the receive fetches it.
        let sources = EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        readable |= ready.iter().any(|event| event.data() == SOCKET && event.events().intersects(sources));
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
