//! The two runtimes on which `run` runs, behind one trait.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use echo_service::{Service, spare_descriptors};
use mini_runtime::Runtime;
use mini_runtime::reactor::{Interest, Registration};
use tokio::net::unix::pipe;
use trace_marks::Markable;

/// What the echo needs of a runtime: a socket, a signal, a clock.
pub trait Net {
    /// Waits until a receive or a send, whichever is wanted, is worth a try.
    async fn ready(&self, receive: bool, send: bool) -> io::Result<()>;
    /// Waits for SIGINT or SIGTERM.
    async fn signalled(&self) -> io::Result<()>;
    /// Waits for some time.
    async fn sleep(&self, time: Duration) -> io::Result<()>;
    /// Receives what is there, or would block.
    fn try_recv_from(&self, slot: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
    /// Sends what there is room for, or would block.
    fn try_send_to(&self, payload: &[u8], peer: SocketAddr) -> io::Result<usize>;
}

// region: mini
/// On the runtime of this crate.
pub struct Mini {
    socket: mini_runtime::net::UdpSocket,
    signals: Registration<OwnedFd>,
}

/// Runs `echo` to its end.
pub fn mini(echo: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    Runtime::new()?.block_on(echo.marked("echo"))?
}

impl Mini {
    /// Registers the service's socket and its signals.
    pub fn open(socket: &UdpSocket, service: &Service) -> io::Result<Self> {
        let socket = mini_runtime::net::UdpSocket::from_std(socket.try_clone()?)?;
        Ok(Self { socket, signals: Registration::new(service.signals().try_clone_to_owned()?)? })
    }
}

impl Net for Mini {
    async fn ready(&self, receive: bool, send: bool) -> io::Result<()> {
        self.socket.ready(Interest { read: receive, write: send }).await
    }

    async fn signalled(&self) -> io::Result<()> {
        self.signals.ready(Interest::READ).await
    }

    async fn sleep(&self, time: Duration) -> io::Result<()> {
        mini_runtime::sleep(time).await;
        Ok(())
    }

    fn try_recv_from(&self, slot: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.try_recv_from(slot)
    }

    fn try_send_to(&self, payload: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.socket.try_send_to(payload, peer)
    }
}
// endregion: mini

// region: tokio
/// On tokio's runtime for one thread.
pub struct Tokio {
    socket: tokio::net::UdpSocket,
    signals: pipe::Receiver,
}

/// Runs `echo` to its end.
pub fn tokio(echo: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    spare_descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(echo.marked("echo"))
}

impl Tokio {
    /// Registers the service's socket and its signals.
    pub fn open(socket: &UdpSocket, service: &Service) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
        let signals = service.signals().try_clone_to_owned()?;
        Ok(Self { socket, signals: pipe::Receiver::from_owned_fd(signals)? })
    }
}

impl Net for Tokio {
    async fn ready(&self, receive: bool, send: bool) -> io::Result<()> {
        use tokio::io::Interest;
        let interest = match (receive, send) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (_, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
        };
        self.socket.ready(interest).await.map(drop)
    }

    async fn signalled(&self) -> io::Result<()> {
        self.signals.readable().await
    }

    async fn sleep(&self, time: Duration) -> io::Result<()> {
        tokio::time::sleep(time).await;
        Ok(())
    }

    fn try_recv_from(&self, slot: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.try_recv_from(slot)
    }

    fn try_send_to(&self, payload: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.socket.try_send_to(payload, peer)
    }
}
// endregion: tokio
