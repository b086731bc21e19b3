//! echo-mmsg: a UDP echo that waits in epoll_wait(2), and moves many datagrams a call.
//!
//! Symptom:  when does recvmmsg pay; many small datagrams, and most of the time goes into system calls
//! New here: one recvmmsg takes what has arrived, and one sendmmsg sends what is queued.
//! Run:      cargo run --bin echo-mmsg
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-mmsg    (or: strace target/debug/echo-mmsg)
//! Expect:   epoll_wait, recvmmsg, sendmmsg for one datagram; 18 for a burst of 64
//! Still wrong: each datagram still goes through the network stack alone (next: echo-gso).
#![forbid(unsafe_code)]

use std::array;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use datagram_queue::{DatagramQueue, Fill, Policy};
use echo_service::{Flags, Pause, Service, peer_of};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// What the kernel hands back with an event, to say whose it is.
const SOCKET: u64 = 0;
const SIGNALS: u64 = 1;

/// The most datagrams that one call takes or gives.
const BATCH: usize = 64;

/// What the two calls read and write beside the datagrams.
struct Headers {
    received: MultiHeaders<SockaddrStorage>,
    sent: MultiHeaders<SockaddrStorage>,
    peers: Vec<Option<SockaddrStorage>>,
}

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "it receives a batch only into slots that are free");
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let outcome = run(&socket, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
fn run(socket: &UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<()> {
    // Ready is a hint: a datagram with a bad checksum is gone by the time it is read.
    socket.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut registered = EpollFlags::EPOLLIN;
    epoll.add(socket, EpollEvent::new(registered, SOCKET))?;
    epoll.add(service.signals(), EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
    let mut events = [EpollEvent::empty(); 2];
    let mut headers = Headers {
        received: MultiHeaders::preallocate(BATCH, None),
        sent: MultiHeaders::preallocate(BATCH, None),
        peers: Vec::with_capacity(BATCH),
    };
    service.greet();
    while service.serving(queue) {
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, queue.has_room());
        interest.set(EpollFlags::EPOLLOUT, !queue.is_empty());
        if interest != registered {
            epoll.modify(socket, &mut EpollEvent::new(interest, SOCKET))?;
            registered = interest;
        }

        service.waiting();
        let ready = match epoll.wait(&mut events, service.timeout_ms()) {
            Ok(count) => &events[..count],
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let on_signal = ready.iter().any(|event| event.data() == SIGNALS);
        let on_socket = ready.iter().any(|event| event.data() == SOCKET);
        if on_signal {
            service.stop(queue);
        }
        if on_socket {
            let mut budget = service.budget();
            loop {
                let received = receive(socket, queue, &mut headers, service, &mut budget)?;
                let flushed = flush(socket, queue, &mut headers, service)?;
                if received != Pause::QueueFull || flushed != Pause::QueueEmpty {
                    break;
                }
            }
        }
    }
    Ok(())
}

// region: receive
/// Socket into queue, until it would block, the queue is full or the budget is spent.
fn receive(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    headers: &mut Headers,
    service: &mut Service,
    budget: &mut usize,
) -> io::Result<Pause> {
    while *budget > 0 {
        if queue.is_closed() {
            return Ok(Pause::Finished);
        }
        let asked = queue.free().min(*budget).min(BATCH);
        if asked == 0 {
            return Ok(Pause::QueueFull);
        }
        let mut free = queue.free_slots();
        let mut slots: [_; BATCH] =
            array::from_fn(move |_| [IoSliceMut::new(free.next().unwrap_or_default())]);
        let buffers = slots[..asked].iter_mut();
        let mut labels = [None; BATCH];
        let mut received = 0;
        match recvmmsg(socket.as_raw_fd(), &mut headers.received, buffers, MsgFlags::MSG_DONTWAIT, None) {
            Ok(messages) => {
                for message in messages {
                    let peer = peer_of(message.address.as_ref())?;
                    labels[received] = service.admit(Ok((message.bytes, peer)))?;
                    received += 1;
                }
            }
            Err(Errno::EAGAIN) => return Ok(Pause::WouldBlock),
            Err(Errno::EINTR) => continue,
            Err(error) => {
                service.receive_failed(error.into())?;
                *budget -= 1;
                continue;
            }
        }
        queue.take(labels.into_iter().take(received));
        service.queued(Fill::Queued, queue.len());
        *budget -= received;
        // It took all that was there.
        if received < asked {
            return Ok(Pause::WouldBlock);
        }
    }
    Ok(Pause::BudgetSpent)
}
// endregion: receive

// region: flush
/// Queue into socket, until it would block or the queue is empty.
fn flush(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    headers: &mut Headers,
    service: &mut Service,
) -> io::Result<Pause> {
    while !queue.is_empty() {
        if service.done() {
            return Ok(Pause::Finished);
        }
        let count = queue.len().min(service.left()).min(BATCH);
        let mut payloads = [[IoSlice::new(&[])]; BATCH];
        headers.peers.clear();
        for (batched, (payload, peer)) in payloads[..count].iter_mut().zip(queue.iter()) {
            *batched = [IoSlice::new(payload)];
            headers.peers.push(Some(peer.into()));
        }
        let payloads = &payloads[..count];
        match sendmmsg(socket.as_raw_fd(), &mut headers.sent, payloads, &headers.peers, [], MsgFlags::empty())
        {
            Ok(messages) => {
                // Fewer than all: the next call says why.
                let sent = messages.count();
                payloads[..sent].iter().for_each(|[payload]| service.sent(payload.len()));
                queue.remove(sent);
            }
            Err(Errno::EAGAIN) => return Ok(Pause::WouldBlock),
            Err(Errno::EINTR) => {}
            // The error is that of the oldest.
            Err(error) => {
                queue.remove(1);
                service.send_failed(error.into())?;
            }
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush
