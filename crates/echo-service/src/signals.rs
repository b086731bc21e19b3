//! SIGINT and SIGTERM: the first as readiness, the second as the end.

use std::io::{self, ErrorKind, PipeReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The signals that end a program.
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// The first SIGINT or SIGTERM makes a pipe readable; a second one ends the program at once, with
/// status 128 + its number.
///
/// A signal is a byte in a pipe from the moment at which it arrives, so it cannot fall between a check
/// and a wait. It costs nothing until it comes.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicBool>,
    /// Whether the byte has been taken out of the pipe.
    cleared: Arc<AtomicBool>,
    pipe: PipeReader,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    ///
    /// When the pipe or the handlers cannot be made.
    pub fn take() -> io::Result<Self> {
        let received = Arc::new(AtomicBool::new(false));
        let (pipe, writer) = io::pipe()?;
        for signal in SIGNALS {
            // Actions run in the order of registration: the way out is tested before the flag is set,
            // so it opens to the second signal. The pipe comes last: who wakes finds the flag set.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&received))?;
            flag::register(signal, Arc::clone(&received))?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { received, cleared: Arc::default(), pipe })
    }

    /// The same signals, for another thread.
    pub(crate) fn share(&self) -> io::Result<Self> {
        let pipe = self.pipe.try_clone()?;
        Ok(Self { received: Arc::clone(&self.received), cleared: Arc::clone(&self.cleared), pipe })
    }

    /// Whether a signal has come, without a system call.
    #[inline]
    pub fn received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// The flag that says whether a signal has come.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.received)
    }

    /// The descriptor that becomes readable.
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Sleeps until a signal has come.
    ///
    /// # Errors
    ///
    /// When the pipe cannot be read.
    pub fn wait(&self) -> io::Result<()> {
        (&self.pipe).read_exact(&mut [0])
    }

    /// Takes the byte out of the pipe, so that a level-triggered wait does not find it again.
    pub fn clear(&mut self) {
        if self.received() && !self.cleared.swap(true, Ordering::Relaxed) {
            // The byte was written before anyone was woken, so this does not block. Should the pipe
            // fail, the worst is a wait that returns early.
            let _ = self.pipe.read(&mut [0]);
        }
    }
}

/// Makes each signal a datagram to `socket`, which is bound to `address`. Returns where they come from.
pub(crate) fn send_to(socket: &UdpSocket, address: SocketAddr) -> io::Result<SocketAddr> {
    // The same address with another port, since a link-local one has an interface too.
    let mut own = address;
    own.set_port(0);
    let sender = UdpSocket::bind(own)?;
    sender.connect(address)?;
    let source = sender.local_addr()?;
    for signal in SIGNALS {
        low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    // Each registration has sent an empty datagram to learn that it is a socket. They are here already
    // (loopback delivers at once); take them out, and leave what others may have sent.
    socket.set_nonblocking(true)?;
    if socket.peek_from(&mut [0]).err().is_some_and(|error| error.kind() == ErrorKind::WouldBlock) {
        // They are lost, as a signal would be: the interface is down.
        return Err(Errno::ENETUNREACH.into());
    }
    while let Ok((_, peer)) = socket.peek_from(&mut [0])
        && peer == source
    {
        socket.recv_from(&mut [0])?;
    }
    socket.set_nonblocking(false)?;
    Ok(source)
}
