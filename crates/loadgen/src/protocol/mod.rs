//! How a request is made of each kind of target.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::net::TcpStream;

use crate::clock::{Monotonic, Nanos};
use crate::engine::{Engine, Slot};
use crate::record::{Ending, Failure};
use crate::schedule::Job;

pub mod hyper;
pub mod lean;
pub mod ledger;
pub mod line;
pub mod response;
pub mod stream;
#[cfg(feature = "tls")]
mod trust;
pub mod udp;

/// One connection's way of making requests: native `async`, generic, never boxed.
#[allow(async_fn_in_trait, reason = "used on one thread only: no Send bound is wanted")]
pub trait Protocol {
    /// Makes one request and says how it ended. May be dropped at a timeout; then [`Protocol::abandon`] follows.
    async fn fire(&mut self, context: &Context<'_>) -> Ending;

    /// Drops whatever a cancelled request left behind.
    fn abandon(&mut self);

    /// Looks after the connection while there is nothing to send; never returns.
    async fn idle(&mut self);
}

/// What a request tells the engine while it is under way.
#[derive(Debug)]
pub struct Context<'a> {
    /// The engine of this worker.
    pub engine: &'a RefCell<Engine>,
    /// The connection.
    pub slot: Slot,
    /// The request.
    pub job: Job,
}

impl Context<'_> {
    /// The request has its connection since `at`; `took`: how long establishing it took, when it is new.
    pub fn connected(&self, at: Nanos, took: Option<Nanos>) {
        self.engine.borrow_mut().connected(self.slot, at, took);
    }

    /// The first byte of the reply is there.
    pub fn first_byte(&self) {
        self.engine.borrow_mut().first_byte(self.slot, Monotonic.now());
    }

    /// The whole reply is there: its status, and the bytes of its body.
    pub fn replied(&self, status: u16, body: u64) {
        if self.job.measured {
            self.engine.borrow_mut().recorder.replied(status, body);
        }
    }

    /// So many bytes came for the request.
    pub fn read(&self, bytes: u64) {
        if self.job.measured {
            self.engine.borrow_mut().recorder.bytes_read += bytes;
        }
    }

    /// The request goes to a new connection, since the server has closed the idle one that it was given.
    pub fn retried(&self) {
        if self.job.measured {
            self.engine.borrow_mut().recorder.retried += 1;
        }
    }

    /// The request failed; the first of each class is kept as an example.
    pub fn failed(&self, failure: Failure) -> Ending {
        if self.job.measured {
            let examples = &mut self.engine.borrow_mut().recorder.examples;
            if !examples.contains_key(failure.class.as_ref()) {
                let example = format!("request {}: {}", self.job.index, failure.detail);
                examples.insert(failure.class.to_string(), example);
            }
        }
        Ending::Error(failure.class)
    }

    /// Counts the request under a name.
    pub fn named(&self, name: &str) {
        if self.job.measured {
            let requests = &mut self.engine.borrow_mut().recorder.requests;
            match requests.get_mut(name) {
                Some(count) => *count += 1,
                None => _ = requests.insert(name.to_owned(), 1),
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(class(&error), error.to_string())
    }
}

/// Whether a connection was ended by the other side, however its kernel told it.
pub fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof
    )
}

/// What speaks HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// Bytes made before the run go out, the end of what comes back is looked for: cheapest
    Lean,
    /// hyper's connections: the same to the server, and a second opinion on what it says
    Hyper,
}

impl Client {
    /// As it stands in a result.
    pub fn name(self) -> &'static str {
        match self {
            Client::Lean => "lean",
            Client::Hyper => "hyper",
        }
    }
}

/// A `--source` that this machine does not have.
#[derive(Debug, thiserror::Error)]
#[error("the source address is not one of this machine's")]
struct NotOurs;

/// Where connections come from and go to.
#[derive(Clone, Debug)]
pub struct Route {
    /// The target's address: of a name with several, one that answered.
    pub to: SocketAddr,
    /// Local addresses to take in turn; empty lets the kernel choose.
    pub from: Vec<IpAddr>,
}

impl Route {
    /// The local address of the `n`th connection.
    pub fn source(&self, n: u64) -> Option<IpAddr> {
        if self.from.is_empty() { None } else { Some(self.from[(n % self.from.len() as u64) as usize]) }
    }

    /// Binds a socket to the local address of the `n`th connection, if there is one.
    ///
    /// # Errors
    /// The kernel's; an address that this machine does not have says so.
    pub fn bind(&self, socket: &Socket, n: u64) -> io::Result<()> {
        let Some(source) = self.source(n) else { return Ok(()) };
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| {
            if error.kind() == io::ErrorKind::AddrNotAvailable { io::Error::other(NotOurs) } else { error }
        })
    }

    /// Connects, without Nagle's delay.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn connect(&self, n: u64) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(SocketProtocol::TCP))?;
        socket.set_nonblocking(true)?;
        self.bind(&socket, n)?;
        let stream = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// The class under which an I/O error is counted. The generator's own failures are those of
/// [`crate::record::OWN_FAILURES`].
pub fn class(error: &io::Error) -> Cow<'static, str> {
    use io::ErrorKind as Kind;
    let errno = error.raw_os_error().map(Errno::from_raw);
    match error.kind() {
        _ if error.get_ref().is_some_and(|inner| inner.is::<NotOurs>()) => "source address not ours".into(),
        Kind::ConnectionRefused => "connection refused".into(),
        Kind::ConnectionReset => "connection reset".into(),
        Kind::ConnectionAborted => "connection aborted".into(),
        Kind::BrokenPipe => "connection closed".into(),
        Kind::UnexpectedEof => "response cut short".into(),
        Kind::TimedOut => "connect timed out".into(),
        Kind::HostUnreachable | Kind::NetworkUnreachable => "unreachable".into(),
        Kind::AddrInUse | Kind::AddrNotAvailable => "no local port left".into(),
        _ => match errno {
            Some(Errno::EMFILE | Errno::ENFILE) => "no descriptor left".into(),
            Some(Errno::ENOMEM | Errno::ENOBUFS) => "no memory left".into(),
            Some(errno) => format!("{errno:?}").into(),
            None => error.kind().to_string().into(),
        },
    }
}
