//! Three servers that echo what two clients send. Each serves for as long as the program runs.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The largest datagram that a client sends, in bytes.
const SIZE: usize = 16;

/// How many datagrams a client's queue holds.
const QUEUE: usize = 8;

// region: flip_flop
/// Waits for whichever socket has a datagram, then receives it and sends it back.
pub fn flip_flop(sockets: [UnixDatagram; 2]) -> io::Result<()> {
    let mut buffer = [0; SIZE];
    loop {
        let ready = wait(&sockets, [PollFlags::POLLIN; 2])?;
        for (socket, _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
            let length = socket.recv(&mut buffer)?;
            // While this sleeps, nobody looks at the other socket.
            socket.send(&buffer[..length])?;
        }
    }
}
// endregion: flip_flop

/// Serves one socket, and sleeps in both calls.
pub fn alone(socket: UnixDatagram) -> io::Result<()> {
    let mut buffer = [0; SIZE];
    loop {
        let length = socket.recv(&mut buffer)?;
        socket.send(&buffer[..length])?;
    }
}

// region: poll
/// Waits for both sockets in both directions. What cannot be sent now stands in a queue, one for each socket.
pub fn poll_with_queues(sockets: [UnixDatagram; 2]) -> io::Result<()> {
    let mut queues = [VecDeque::new(), VecDeque::new()];
    sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    loop {
        let interest = [&queues[0], &queues[1]].map(|queue: &VecDeque<Vec<u8>>| {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::POLLIN, queue.len() < QUEUE);
            interest.set(PollFlags::POLLOUT, !queue.is_empty());
            interest
        });
        let ready = wait(&sockets, interest)?;
        for ((socket, queue), _) in sockets.iter().zip(&mut queues).zip(ready).filter(|(_, ready)| *ready) {
            receive(socket, queue)?;
            flush(socket, queue)?;
        }
    }
}
// endregion: poll

/// Waits until one of the sockets is as `interest` asks; says which.
fn wait(sockets: &[UnixDatagram; 2], interest: [PollFlags; 2]) -> io::Result<[bool; 2]> {
    let [first, second] = sockets;
    let mut list = [PollFd::new(first.as_fd(), interest[0]), PollFd::new(second.as_fd(), interest[1])];
    loop {
        match poll(&mut list, PollTimeout::NONE) {
            Ok(_) => return Ok(list.map(|entry| entry.any().unwrap_or(true))),
            // Stopped and continued, or looked at by a debugger.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Socket into queue, until it would block or the queue is full.
fn receive(socket: &UnixDatagram, queue: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
    let mut buffer = [0; SIZE];
    while queue.len() < QUEUE {
        match socket.recv(&mut buffer) {
            Ok(length) => queue.push_back(buffer[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Queue into socket, until it would block or the queue is empty.
fn flush(socket: &UnixDatagram, queue: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
    while let Some(datagram) = queue.front() {
        match socket.send(datagram) {
            Ok(_) => drop(queue.pop_front()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
