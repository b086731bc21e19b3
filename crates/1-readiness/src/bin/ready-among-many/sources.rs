//! What can become ready: many UDP sockets, or many eventfds.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use echo_service::explain;
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;

/// What stands for a socket.
#[derive(Clone, Copy, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UDP sockets on loopback; ready when a datagram has come
    Udp,
    /// eventfd(2): a counter in the kernel, ready when it is not 0; nothing but the wait costs much
    Eventfd,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Eventfd => "eventfd",
        })
    }
}

/// Many of one kind.
pub enum Sources {
    Udp { sockets: Vec<(UdpSocket, SocketAddr)>, sender: UdpSocket },
    Eventfds(Vec<EventFd>),
}

impl Sources {
    /// Opens `count` of them, in blocking mode.
    ///
    /// # Errors
    ///
    /// A sentence with a next step.
    pub fn open(kind: Kind, count: usize) -> io::Result<Self> {
        let udp = || {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            let address = socket.local_addr()?;
            Ok((socket, address))
        };
        match kind {
            Kind::Udp => {
                let sender = UdpSocket::bind("127.0.0.1:0")?;
                Ok(Self::Udp { sockets: open_all(count, udp)?, sender })
            }
            // A read takes 1 off the counter, as it takes one datagram off a socket.
            Kind::Eventfd => {
                let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_SEMAPHORE;
                Ok(Self::Eventfds(open_all(count, || Ok(EventFd::from_value_and_flags(0, flags)?))?))
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Udp { sockets, .. } => sockets.len(),
            Self::Eventfds(eventfds) => eventfds.len(),
        }
    }

    /// The descriptors, in order.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        (0..self.len()).map(|index| match self {
            Self::Udp { sockets, .. } => sockets[index].0.as_fd(),
            Self::Eventfds(eventfds) => eventfds[index].as_fd(),
        })
    }

    /// Sends it one datagram, or adds 1 to its counter.
    pub fn make_ready(&self, index: usize) -> io::Result<()> {
        match self {
            Self::Udp { sockets, sender } => sender.send_to(b".", sockets[index].1).map(drop),
            Self::Eventfds(eventfds) => Ok(eventfds[index].write(1).map(drop)?),
        }
    }

    /// Takes one datagram, or 1 off the counter; sleeps until there is one.
    pub fn take(&self, index: usize) -> io::Result<()> {
        match self {
            Self::Udp { sockets, .. } => sockets[index].0.recv(&mut [0]).map(drop),
            Self::Eventfds(eventfds) => Ok(eventfds[index].read().map(drop)?),
        }
    }
}

fn open_all<T>(count: usize, mut open: impl FnMut() -> io::Result<T>) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(open().map_err(|error| {
            let (opened, why) = (all.len(), explain(&error));
            io::Error::other(format!(
                "could open {opened} of {count} sockets: {why}, or ask for fewer with --sockets"
            ))
        })?);
    }
    Ok(all)
}
