//! echo-libc: a UDP echo that waits in poll(2), and calls the kernel by its own names.
//!
//! New here: one wait for both directions; the bare calls, with pointers, lengths, addresses and errno by hand.
//! Run:      cargo run --bin echo-libc
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-libc    (or: strace target/debug/echo-libc)
//! Expect:   poll, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 130 for a burst of 64
//! Still wrong: the compiler checks no pointer and no length here (next: echo-select).

use std::io::{self, ErrorKind};
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::ptr::from_ref;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};

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
        // Ask for what the queue can use: room wants datagrams, contents want to go.
        let mut interest = 0;
        interest |= if queue.has_room() { libc::POLLIN } else { 0 };
        interest |= if queue.is_empty() { 0 } else { libc::POLLOUT };
        let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut list =
            [entry(socket.as_raw_fd(), interest), entry(service.signals().as_raw_fd(), libc::POLLIN)];
        // No end is written -1.
        let timeout = service.timeout_ms().map_or(-1, i32::from);

        service.waiting();
        // SAFETY: the kernel reads and writes as many entries as the list has, and only during the call.
        match checked(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout) } as isize)
        {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // The kernel has written its answer into the same list.
        let [on_socket, on_signal] = list.map(|entry| entry.revents != 0);
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
        match queue.fill(|slot| service.admit(recv_from(socket, slot))) {
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
        match queue.drain(|payload, peer| send_to(socket, payload, peer)) {
            Ok(bytes) => service.sent(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.send_failed(error)?,
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush

// region: recv_from
/// The result of a call: -1 says that `errno`, a variable of this thread, holds the reason.
fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `UdpSocket::recv_from`, by hand.
fn recv_from(socket: &UdpSocket, slot: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    // SAFETY: an address is made of numbers, for which zero is a value.
    let mut address: libc::sockaddr_storage = unsafe { zeroed() };
    let mut size = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let (fd, peer) = (socket.as_raw_fd(), (&raw mut address).cast());
    // SAFETY: the kernel writes no more bytes than the slot and the address have, and keeps no pointer.
    let received =
        unsafe { libc::recvfrom(fd, slot.as_mut_ptr().cast(), slot.len(), 0, peer, &raw mut size) };
    Ok((checked(received)?, std_address(&address)?))
}
// endregion: recv_from

/// `UdpSocket::send_to`, by hand.
fn send_to(socket: &UdpSocket, payload: &[u8], peer: SocketAddr) -> io::Result<usize> {
    let (fd, bytes) = (socket.as_raw_fd(), payload.as_ptr().cast());
    let send = |address: *const libc::sockaddr, size: usize| {
        // SAFETY: the kernel reads no more bytes than the payload and the address have, and keeps no pointer.
        unsafe {
            libc::sendto(fd, bytes, payload.len(), libc::MSG_NOSIGNAL, address, size as libc::socklen_t)
        }
    };
    // Ports and IPv4 addresses stand in network order, the largest byte first.
    checked(match peer {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: v4.ip().to_bits().to_be() },
                sin_zero: [0; 8],
            };
            send(from_ref(&address).cast(), size_of_val(&address))
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            send(from_ref(&address).cast(), size_of_val(&address))
        }
    })
}

/// The address that the kernel has written, as std writes it. The family says which structure it is.
fn std_address(address: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough for any address, aligned for any, and of this family.
            let v4 = unsafe { &*from_ref(address).cast::<libc::sockaddr_in>() };
            Ok((u32::from_be(v4.sin_addr.s_addr).to_be_bytes(), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*from_ref(address).cast::<libc::sockaddr_in6>() };
            let (ip, port) = (v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port));
            Ok(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        family => Err(io::Error::other(format!("address family {family}"))),
    }
}
