//! echo-gso: a UDP echo that waits in epoll_wait(2), and moves many datagrams a trip through the network stack.
//!
//! Symptom:  when do GSO and GRO pay for UDP (UDP_SEGMENT, UDP_GRO)?
//! New here: a receive takes datagrams that the kernel has joined (UDP_GRO); a send joins the replies to one peer (UDP_SEGMENT).
//! Run:      cargo run --bin echo-gso
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-gso    (or: strace target/debug/echo-gso)
//! Expect:   epoll_wait, recvmsg, recvmsg = EAGAIN, sendmsg for one datagram; 74 for a burst of 64
//! Still wrong: a client that sends its datagrams one by one has them received one by one (next: echo-uring).
#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use batching_rungs::GroupQueue;
use datagram_queue::{Fill, Policy};
use echo_service::{Flags, Pause, Service, peer_of};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// What the kernel hands back with an event, to say whose it is.
const SOCKET: u64 = 0;
const SIGNALS: u64 = 1;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "what it drops would be many datagrams at once");
    flags.require_queue(
        16_384,
        "a slot holds all that may arrive at once, 64 KiB, and all slots 1 GiB at most",
    );
    let (socket, mut service) = Service::open(&flags);
    let mut queue = GroupQueue::new(flags.queue);
    let outcome = run(&socket, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
fn run(socket: &UdpSocket, queue: &mut GroupQueue, service: &mut Service) -> io::Result<()> {
    // Ready is a hint: a datagram with a bad checksum is gone by the time it is read.
    socket.set_nonblocking(true)?;
    // region: gro
    // What one peer sent in one go arrives in one go, with the size of its datagrams in a control message.
    setsockopt(socket, sockopt::UdpGroSegment, &true)?;
    let mut control = cmsg_space!(i32);
    // endregion: gro
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut registered = EpollFlags::EPOLLIN;
    epoll.add(socket, EpollEvent::new(registered, SOCKET))?;
    epoll.add(service.signals(), EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
    let mut events = [EpollEvent::empty(); 2];
    service.greet();
    while service.serving_while(!queue.is_empty()) {
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
            queue.close();
            service.last_call();
        }
        if on_socket {
            let mut budget = service.budget();
            loop {
                let received = receive(socket, queue, &mut control, service, &mut budget)?;
                let flushed = flush(socket, queue, service)?;
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
    queue: &mut GroupQueue,
    control: &mut [u8],
    service: &mut Service,
    budget: &mut usize,
) -> io::Result<Pause> {
    while *budget > 0 {
        if queue.is_closed() {
            return Ok(Pause::Finished);
        }
        let Some(slot) = queue.slot() else { return Ok(Pause::QueueFull) };
        match recvmsg(socket.as_raw_fd(), &mut [IoSliceMut::new(slot)], Some(control), MsgFlags::empty()) {
            Ok(arrival) => {
                // An arrival: one datagram, or several of one size from one peer.
                let (segment, peer) = (segment_of(&arrival)?, peer_of(arrival.address.as_ref())?);
                if let Some(range) = service.admit_many(arrival.bytes, segment, peer) {
                    queue.add(range, segment, peer);
                    service.queued(Fill::Queued, queue.len());
                }
            }
            Err(Errno::EAGAIN) => return Ok(Pause::WouldBlock),
            Err(Errno::EINTR) => {}
            Err(error) => service.receive_failed(error.into())?,
        }
        *budget -= 1;
    }
    Ok(Pause::BudgetSpent)
}

/// The size of the datagrams in an arrival, of which only the last may be shorter. Without a control message there is
/// one.
fn segment_of(arrival: &RecvMsg<SockaddrStorage>) -> io::Result<usize> {
    for message in arrival.cmsgs()? {
        if let ControlMessageOwned::UdpGroSegments(size) = message {
            return Ok(size as usize);
        }
    }
    Ok(arrival.bytes)
}
// endregion: receive

// region: flush
/// Queue into socket, until it would block or the queue is empty.
fn flush(socket: &UdpSocket, queue: &mut GroupQueue, service: &mut Service) -> io::Result<Pause> {
    while !service.done() {
        let Some(batch) = queue.oldest(service.left()) else { return Ok(Pause::QueueEmpty) };
        let count = batch.count;
        let segment = [ControlMessage::UdpGsoSegments(&batch.segment)];
        let control = if count > 1 { &segment[..] } else { &[] };
        let peer = SockaddrStorage::from(batch.peer);
        match sendmsg(socket.as_raw_fd(), batch.pieces(), control, MsgFlags::empty(), Some(&peer)) {
            Ok(bytes) => {
                queue.remove(count);
                service.sent_many(count, bytes);
            }
            Err(Errno::EAGAIN) => return Ok(Pause::WouldBlock),
            Err(Errno::EINTR) => {}
            // Whatever is wrong with the group need not be wrong with each of them.
            Err(_) if count > 1 => queue.split(),
            Err(error) => {
                queue.remove(count);
                service.send_failed(error.into())?;
            }
        }
    }
    Ok(Pause::Finished)
}
// endregion: flush
