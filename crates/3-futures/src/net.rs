//! UDP and TCP: mio's sockets, with a future for each operation that can block.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};

use crate::reactor::{Interest, Registration};

/// A UDP socket. Can be shared by the tasks of its runtime (`Rc`); each operation takes `&self`.
#[derive(Debug)]
pub struct UdpSocket {
    io: Registration<mio::net::UdpSocket>,
}

impl UdpSocket {
    /// Binds a new socket.
    ///
    /// # Errors
    ///
    /// What the system returns, for instance that the address is in use.
    ///
    /// # Panics
    ///
    /// If no runtime runs on this thread. So do all constructors here.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { io: Registration::new(mio::net::UdpSocket::bind(address)?)? })
    }

    /// Takes over a bound socket, and makes it non-blocking.
    ///
    /// # Errors
    ///
    /// What the system returns.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { io: Registration::new(mio::net::UdpSocket::from_std(socket))? })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// What the system returns.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get().local_addr()
    }

    /// Waits until a receive, a send or either of them is worth a try.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` returns.
    pub async fn ready(&self, interest: Interest) -> io::Result<()> {
        self.io.ready(interest).await
    }

    /// Receives a datagram if one is there; what does not fit into `buffer` is lost.
    ///
    /// # Errors
    ///
    /// Would-block if there is none, and whatever else the system returns.
    #[inline]
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.io.try_io(Interest::READ, |socket| socket.recv_from(buffer))
    }

    /// Sends a datagram if there is room for it.
    ///
    /// # Errors
    ///
    /// Would-block if there is none, and whatever else the system returns.
    #[inline]
    pub fn try_send_to(&self, datagram: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.io.try_io(Interest::WRITE, |socket| socket.send_to(datagram, peer))
    }

    /// Receives a datagram and returns its length and peer; what does not fit into `buffer` is lost.
    ///
    /// # Errors
    ///
    /// What the system returns.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.io.poll_io(cx, Interest::READ, |socket| socket.recv_from(buffer))).await
    }

    /// Sends a datagram; returns its length.
    ///
    /// # Errors
    ///
    /// What the system returns.
    pub async fn send_to(&self, datagram: &[u8], peer: SocketAddr) -> io::Result<usize> {
        poll_fn(|cx| self.io.poll_io(cx, Interest::WRITE, |socket| socket.send_to(datagram, peer))).await
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.get().as_fd()
    }
}

/// A TCP socket that listens.
#[derive(Debug)]
pub struct TcpListener {
    io: Registration<mio::net::TcpListener>,
}

impl TcpListener {
    /// Binds a new socket and listens.
    ///
    /// # Errors
    ///
    /// What the system returns, for instance that the address is in use.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { io: Registration::new(mio::net::TcpListener::bind(address)?)? })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// What the system returns.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get().local_addr()
    }

    /// Waits for a connection; returns it and its peer.
    ///
    /// # Errors
    ///
    /// What the system returns. Those of a single connection, or a shortage of descriptors, are no reason to stop.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) =
            poll_fn(|cx| self.io.poll_io(cx, Interest::READ, |socket| socket.accept())).await?;
        Ok((TcpStream { io: Registration::new(stream)? }, peer))
    }
}

/// A TCP connection. Reads and writes by the traits of the futures crate, and so by all that it offers for them.
#[derive(Debug)]
pub struct TcpStream {
    io: Registration<mio::net::TcpStream>,
}

impl TcpStream {
    /// Connects.
    ///
    /// # Errors
    ///
    /// What the system returns, for instance that the connection was refused.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let io = Registration::new(mio::net::TcpStream::connect(address)?)?;
        // Non-blocking: begun only. It is decided when the socket becomes writable, and then the socket knows how.
        let _: io::Result<()> = io.try_io(Interest::WRITE, |_| Err(io::ErrorKind::WouldBlock.into()));
        io.ready(Interest::WRITE).await?;
        io.get().take_error()?.map_or(Ok(Self { io }), Err)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.io.poll_io(cx, Interest::READ, |mut socket| socket.read(buffer))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io.poll_io(cx, Interest::WRITE, |mut socket| socket.write(bytes))
    }

    /// Nothing is buffered here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our direction. The peer can go on sending.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.io.get().shutdown(Shutdown::Write))
    }
}
