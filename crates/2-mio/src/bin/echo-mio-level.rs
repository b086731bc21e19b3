//! echo-mio-level: a UDP echo that waits in mio, made level-triggered by hand.
//!
//! New here: one library for epoll, kqueue and the rest. It has no level mode: `reregister` asks anew.
//! Run:      cargo run --bin echo-mio-level    (--rearm batch: ask once a wake, not once a read)
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-mio-level    (or: strace target/debug/echo-mio-level)
//! Expect:   epoll_wait, recvfrom, epoll_ctl, recvfrom = EAGAIN, sendto for one datagram;
//!           194 for a burst of 64
//! Still wrong: every read is paid for with an epoll_ctl (next: echo-mio-edge).

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// What mio hands back with an event, to say whose it is.
const SOCKET: Token = Token(0);
const SIGNALS: Token = Token(1);

/// The flags of this rung alone.
#[derive(Args)]
struct More {
    /// How often to ask anew for readiness: after each read, or once after a batch of them
    #[arg(long, value_name = "WHEN", default_value = "read")]
    rearm: Rearm,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Rearm {
    Read,
    Batch,
}

fn main() -> ExitCode {
    let (flags, More { rearm }) = Flags::parse_with(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let outcome = run(&socket, &mut queue, &mut service, rearm);
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
fn run(
    socket: &std::net::UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    rearm: Rearm,
) -> io::Result<()> {
    // Ready is a hint: a datagram with a bad checksum is gone by the time it is read.
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
    service.greet();
    // region: wait
    while service.serving(queue) {
        // hole: interest
        // Ask for what the queue can use: room wants datagrams, contents want to go. mio knows no empty
        // interest. None is needed: a queue has room, or contents, or both.
        let interest = match (queue.has_room(), queue.is_empty()) {
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, _) => Interest::WRITABLE,
        };
        if interest != registered {
            poll.registry().reregister(socket, SOCKET, interest)?;
            registered = interest;
        }
        // endhole: interest

        service.waiting();
        match poll.poll(&mut events, service.timeout_ms().map(|ms| Duration::from_millis(ms.into()))) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let on_signal = events.iter().any(|event| event.token() == SIGNALS);
        let on_socket = events.iter().any(|event| event.token() == SOCKET);
        if on_signal {
            service.stop(queue);
        }
        if on_socket {
            // hole: look-again
            // Registering the same again makes the kernel look again: what is still unread, when the
            // budget ends, is then an event of the next poll, as it would be of a level.
            let mut look_again =
                |socket: &mut UdpSocket| poll.registry().reregister(socket, SOCKET, registered);
            // endhole: look-again
            let mut budget = service.budget();
            loop {
                let received = match rearm {
                    Rearm::Read => receive(socket, queue, service, &mut budget, &mut look_again)?,
                    Rearm::Batch => receive(socket, queue, service, &mut budget, &mut |_| Ok(()))?,
                };
                let flushed = flush(socket, queue, service)?;
                if received != Pause::QueueFull || flushed != Pause::QueueEmpty {
                    break;
                }
            }
            if rearm == Rearm::Batch {
                look_again(socket)?;
            }
        }
    }
    // endregion: wait
    Ok(())
}

// region: receive
/// Socket into queue, until it would block, the queue is full or the budget is spent.
fn receive(
    socket: &mut UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    budget: &mut usize,
    after_read: &mut impl FnMut(&mut UdpSocket) -> io::Result<()>,
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
        after_read(socket)?;
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
