//! What every echo server must do and no rung teaches.
//!
//! A rung reads its [`Flags`], opens a [`Service`], waits in its own way, and gives each datagram, each
//! error and each signal to the service to be judged and counted:
//!
//! | in the rung | what the service does |
//! |---|---|
//! | [`Flags::parse`] | reads the command line; wrong usage ends the program with status 2 |
//! | [`Service::open`] | binds the socket, takes SIGINT and SIGTERM; a failure ends it with status 1 |
//! | [`Service::greet`] | prints the address, the first line on stdout |
//! | [`Service::serving`] | whether to go on, and for how long to wait: [`Service::timeout_ms`] |
//! | [`Service::signals`] | a descriptor that becomes readable on a signal; then [`Service::stop`] |
//! | [`Service::admit`] | judges a received datagram: the guard, the size; counts it |
//! | [`Service::admit_many`], [`Service::sent_many`], [`Service::left`] | the same, where a call takes or gives several datagrams |
//! | [`Service::sent`], [`Service::send_failed`], [`Service::receive_failed`] | count; only a bug of ours is an error |
//! | [`Service::open_another`], [`Service::join`] | the same for a second socket on the same address |
//! | [`Service::finish`] | prints the summary and makes the exit code |
//!
//! A demo that is no echo server has a [`demo::Demo`] instead; those that ask what a wake-up costs have [`wakes`].
//! The guard is [`refusal`], a pure function. Trace marks are those of `trace-marks`, turned on by `--marks`.
#![forbid(unsafe_code)]

pub mod demo;
mod flags;
mod guard;
mod limits;
mod output;
mod signals;
mod socket;
mod summary;
pub mod wakes;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use std::time::{Duration, Instant};

use datagram_queue::{DatagramQueue, Fill};
use trace_marks::mark;

pub use flags::{Flags, parse_address, parse_count, parse_duration, read_command_line, wrong_usage};
pub use guard::{Refusal, refusal};
pub use limits::{
    explain, limit_hint, raise_descriptor_limit, refused_thread, spare_descriptors, start_runtime,
    start_threads,
};
pub use output::{print_line, print_to_stderr};
pub use signals::Signals;
pub use socket::{ReceiveBuffer, is_loopback, kernel_drops, next_step, peer_of, reachable, receive_buffer};
pub use summary::{QueueTotals, Summary, errno_name};

/// Turns trace marks on for `--marks`; a failure is a sentence.
fn turn_on_marks() -> Result<(), String> {
    trace_marks::turn_on().map_err(|error| format!("cannot open /dev/null for --marks: {}", explain(&error)))
}

/// How long the queue is drained after a signal before the program ends all the same.
pub const LAST_CALL: Duration = Duration::from_secs(1);

/// Why `receive` or `flush` of a rung came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The socket has no datagram, or takes none, right now.
    WouldBlock,
    /// The queue has no room.
    QueueFull,
    /// The queue has nothing to send.
    QueueEmpty,
    /// As many datagrams as one readiness event may cost have been received.
    BudgetSpent,
    /// The service is over: the queue is closed, or `--count` has been reached.
    Finished,
}

/// The part of an echo server that is the same on every rung.
#[derive(Debug)]
pub struct Service {
    flags: Flags,
    address: SocketAddr,
    signals: Signals,
    summary: Summary,
    /// What all sockets of the server have echoed; kept only for `--count`.
    echoed: Arc<AtomicU64>,
    started: Instant,
    greeted: bool,
    ready: bool,
    /// When the last call ends; set by the first signal.
    deadline: Option<Instant>,
    /// When a refusal of each kind was last logged, by whichever socket of the server.
    logged: Arc<Mutex<[Option<Instant>; Refusal::ALL.len()]>>,
}

impl Service {
    /// Binds the socket of `flags.address` and takes the signals SIGINT and SIGTERM.
    ///
    /// The socket is in blocking mode. It never has `SO_REUSEADDR`: on a UDP socket that would let a
    /// second program take the datagrams of the first.
    ///
    /// A failure prints one line on stderr and ends the program with status 1.
    pub fn open(flags: &Flags) -> (UdpSocket, Self) {
        Self::open_by(flags, UdpSocket::bind)
    }

    /// The same, where it is the rung that binds the socket.
    pub fn open_by(
        flags: &Flags,
        bind: impl FnOnce(SocketAddr) -> io::Result<UdpSocket>,
    ) -> (UdpSocket, Self) {
        let opened = open_socket(flags, flags.address, bind).and_then(|(socket, address)| {
            let signals = Signals::take()
                .map_err(|error| format!("cannot take SIGINT and SIGTERM: {}", explain(&error)))?;
            if flags.marks {
                turn_on_marks()?;
            }
            Ok((socket, address, signals))
        });
        let (socket, address, signals) = opened.unwrap_or_else(|reason| {
            print_to_stderr(flags.program, reason);
            std::process::exit(1)
        });
        if !socket::is_loopback(address) {
            print_to_stderr(
                flags.program,
                format_args!(
                    "warning: {address} is not loopback; an echo reachable from a network can be made to loop \
                     with another one (CVE-2024-2169), and the guard knows only this project's ports"
                ),
            );
        }
        let service = Self {
            flags: flags.clone(),
            address,
            signals,
            summary: Summary::new(flags.program, address),
            echoed: Arc::default(),
            started: Instant::now(),
            greeted: false,
            ready: false,
            deadline: None,
            logged: Default::default(),
        };
        (socket, service)
    }

    /// Another socket on the same address, and the service of the thread that serves it. It shares signals and
    /// `--count` with this one, and counts for itself; [`join`](Self::join) adds it up at the end.
    ///
    /// A failure prints one line on stderr and ends the program with status 1.
    pub fn open_another(&self, bind: impl FnOnce(SocketAddr) -> io::Result<UdpSocket>) -> (UdpSocket, Self) {
        let opened = open_socket(&self.flags, self.address, bind).and_then(|(socket, address)| {
            let signals = self
                .signals
                .share()
                .map_err(|error| format!("cannot share SIGINT and SIGTERM: {}", explain(&error)))?;
            Ok((socket, address, signals))
        });
        let (socket, address, signals) = opened.unwrap_or_else(|reason| {
            print_to_stderr(self.flags.program, reason);
            std::process::exit(1)
        });
        let service = Self {
            flags: self.flags.clone(),
            address,
            signals,
            summary: Summary::new(self.flags.program, address),
            echoed: Arc::clone(&self.echoed),
            started: self.started,
            greeted: false,
            // The first one says it.
            ready: true,
            deadline: None,
            logged: Arc::clone(&self.logged),
        };
        (socket, service)
    }

    /// Adds what another service of the same server has counted, with what its socket and its queue say.
    pub fn join(&mut self, mut other: Self, socket: &UdpSocket, queue: impl Into<QueueTotals>) {
        other.summary.add_queue(queue.into());
        other.summary.add_kernel_drops(socket::kernel_drops(socket));
        self.summary.add(other.summary);
    }

    /// Prints the program's first line on stdout: the bound address and a command to try it. To be called when
    /// all that may fail at the start is done: until then, a failure is one of the start.
    pub fn greet(&mut self) {
        self.greeted = true;
        let Flags { program, .. } = self.flags;
        let (host, port) = (socket::host(socket::reachable(self.address)), self.address.port());
        print_line(format_args!("{program}: listening on {}  (try: nc -u {host} {port})", self.address));
    }

    /// Whether to go on: until `--count` is reached or, after a signal, until the queue is empty or the
    /// last call is over. The first time, it makes the trace mark `ready`.
    #[inline]
    pub fn serving(&mut self, queue: &DatagramQueue) -> bool {
        self.serving_while(!queue.is_empty())
    }

    /// The same without a [`DatagramQueue`]: after a signal it goes on while something is `left` to do.
    #[inline]
    pub fn serving_while(&mut self, left: bool) -> bool {
        if !self.ready {
            self.ready = true;
            mark("ready");
        }
        !self.done() && self.deadline.is_none_or(|deadline| left && Instant::now() < deadline)
    }

    /// How long a wait may last: `None` is for ever; after a signal, what is left of the last call.
    #[inline]
    pub fn timeout(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// How long a wait may last, in milliseconds rounded up: `None` is for ever; after a signal, what is
    /// left of the last call.
    #[inline]
    pub fn timeout_ms(&self) -> Option<u16> {
        Some(self.timeout()?.as_millis() as u16 + 1)
    }

    /// How many datagrams one readiness event may cost.
    #[inline]
    pub fn budget(&self) -> usize {
        self.flags.budget
    }

    /// Whether `--count` datagrams have been echoed.
    #[inline]
    pub fn done(&self) -> bool {
        self.flags.count.is_some_and(|count| self.echoed.load(Ordering::Acquire) >= count)
    }

    /// How many datagrams may still be sent before `--count` of them are echoed, for who sends several at once.
    #[inline]
    pub fn left(&self) -> usize {
        let echoed = self.echoed.load(Ordering::Acquire);
        let left = self.flags.count.map_or(u64::MAX, |count| count.saturating_sub(echoed));
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// A descriptor that is readable once SIGINT or SIGTERM has come, however early it came: wait for
    /// it beside the socket, then call [`stop`](Self::stop).
    pub fn signals(&self) -> BorrowedFd<'_> {
        self.signals.readable()
    }

    /// Whether SIGINT or SIGTERM has come, without a system call.
    #[inline]
    pub fn signalled(&self) -> bool {
        self.signals.received()
    }

    /// The flag behind [`signalled`](Self::signalled), for a program that hears of signals in its own way: one
    /// that came before it was listening is here.
    pub fn signal_flag(&self) -> Arc<AtomicBool> {
        self.signals.flag()
    }

    /// For a server that has no wait: makes each signal a datagram to `socket`, the server's own, which
    /// wakes a blocking receive. Returns the address from which those datagrams come; they are neither
    /// counted nor echoed.
    ///
    /// # Errors
    ///
    /// When the socket that sends them cannot be made.
    pub fn signals_as_datagrams(&self, socket: &UdpSocket) -> io::Result<SocketAddr> {
        signals::send_to(socket, socket::reachable(self.address))
    }

    /// Begins the end: closes the queue, so that nothing more is received, and starts the last call.
    pub fn stop(&mut self, queue: &mut DatagramQueue) {
        queue.close();
        self.last_call();
    }

    /// Starts the last call without a [`DatagramQueue`]; returns when it is over.
    pub fn last_call(&mut self) -> Instant {
        *self.deadline.get_or_insert_with(|| {
            self.signals.clear();
            mark("shutdown");
            Instant::now() + LAST_CALL
        })
    }

    /// Judges what a receive returned. `Some` is a datagram to be echoed; `None` was refused by the guard
    /// or is longer than `--max-size`, and has been counted as such. Errors pass through.
    #[inline]
    pub fn admit(
        &mut self,
        received: io::Result<(usize, SocketAddr)>,
    ) -> io::Result<Option<(usize, SocketAddr)>> {
        let (len, peer) = received?;
        Ok(self.admit_many(len, len, peer).map(|_| (len, peer)))
    }

    /// Judges what one receive returned where that may be several datagrams: `len` bytes from `peer`, cut into
    /// datagrams of `segment` bytes each, of which only the last may be shorter. Returns which of the bytes are
    /// datagrams to be echoed: all of them, or none; or the last datagram alone, if only the others are longer than
    /// `--max-size`.
    #[inline]
    pub fn admit_many(&mut self, len: usize, segment: usize, peer: SocketAddr) -> Option<Range<usize>> {
        // An empty datagram is a datagram.
        let whole = if len <= segment { 1 } else { len / segment };
        let rest = len.saturating_sub(whole * segment);
        let count = (whole + usize::from(rest > 0)) as u64;
        let most = self.flags.max_size;
        self.summary.received += count;
        if self.flags.verbose {
            match count {
                1 => self.log(format_args!("recv {len} bytes from {peer}")),
                _ => self.log(format_args!("recv {len} bytes from {peer}: {count} datagrams of {segment}")),
            }
        }
        let mut admitted = 0..len;
        if len.min(segment) <= most {
            self.summary.bytes_received += len as u64;
        } else {
            // A rung may read a longer datagram whole, or no more of it than shows that it is longer.
            let last = if rest <= most { rest } else { most + 1 };
            self.summary.bytes_received += (whole * (most + 1) + last) as u64;
            let truncated = whole + usize::from(rest > most);
            self.summary.truncated += truncated as u64;
            if self.flags.verbose {
                self.log(format_args!("drop: {truncated} longer than --max-size {most}"));
            }
            if rest == 0 || rest > most {
                return None;
            }
            admitted.start = whole * segment;
        }
        if !self.flags.unguarded
            && let Some(reason) = refusal(peer, self.address)
        {
            self.refused(reason, peer, if admitted.start == 0 { count } else { 1 });
            return None;
        }
        Some(admitted)
    }

    #[cold]
    fn refused(&mut self, reason: Refusal, peer: SocketAddr, count: u64) {
        *self.summary.refused.entry(reason.key()).or_default() += count;
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut logged[reason as usize];
        if last.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(60)) {
            *last = Some(now);
            self.log(format_args!(
                "refused a datagram from {peer}: {} ({}); more are counted, and not logged for a minute",
                reason.sentence(),
                reason.key()
            ));
        }
    }

    /// Says with `-v` what became of a datagram that was admitted; `len` is the queue's length now.
    #[inline]
    pub fn queued(&self, fill: Fill, len: usize) {
        if self.flags.verbose {
            match fill {
                Fill::Queued => self.log(format_args!("queue: {len} waiting")),
                Fill::Dropped => self.log(format_args!("drop: the queue is full ({len} waiting)")),
                Fill::Refused | Fill::Full | Fill::Closed => {}
            }
        }
    }

    /// Says with `-v` that the rung waits now.
    #[inline]
    pub fn waiting(&self) {
        if self.flags.verbose {
            self.log(format_args!("wait"));
        }
    }

    /// Counts a datagram of `bytes` as sent.
    #[inline]
    pub fn sent(&mut self, bytes: usize) {
        self.sent_many(1, bytes);
    }

    /// Counts `count` datagrams, of `bytes` in all, as sent.
    #[inline]
    pub fn sent_many(&mut self, count: usize, bytes: usize) {
        self.summary.sent += count as u64;
        if self.flags.count.is_some() {
            self.echoed.fetch_add(count as u64, Ordering::AcqRel);
        }
        self.summary.bytes_sent += bytes as u64;
        if self.flags.verbose {
            match count {
                1 => self.log(format_args!("sent {bytes} bytes")),
                _ => self.log(format_args!("sent {bytes} bytes: {count} datagrams")),
            }
        }
    }

    /// Counts a receive that failed, by the name of its error.
    ///
    /// # Errors
    ///
    /// The same error, if it can only be a bug of ours: a bad descriptor and the like.
    #[cold]
    pub fn receive_failed(&mut self, error: io::Error) -> io::Result<()> {
        let name = network_error("receive", error)?;
        if self.flags.verbose {
            self.log(format_args!("drop: the receive failed with {name}"));
        }
        *self.summary.receive_errors.entry(name).or_default() += 1;
        Ok(())
    }

    /// Counts a datagram as lost because its send failed, by the name of the error.
    ///
    /// # Errors
    ///
    /// The same error, if it can only be a bug of ours: a bad descriptor and the like.
    #[cold]
    pub fn send_failed(&mut self, error: io::Error) -> io::Result<()> {
        // The datagram has left the queue whatever the error was, so it is counted before it is judged.
        *self.summary.send_errors.entry(errno_name(&error)).or_default() += 1;
        let name = network_error("send", error)?;
        if self.flags.verbose {
            self.log(format_args!("drop: the send failed with {name}"));
        }
        Ok(())
    }

    /// Prints the summary, and one line on stderr if `outcome` is an error; returns the exit code. What is
    /// still queued counts as dropped. A service that has never greeted has nothing to sum up: its start failed.
    pub fn finish(
        &mut self,
        outcome: io::Result<()>,
        socket: &UdpSocket,
        queue: impl Into<QueueTotals>,
    ) -> ExitCode {
        if self.greeted {
            self.sum_up(socket, queue.into());
        }
        let Err(error) = outcome else { return ExitCode::SUCCESS };
        let failed = if self.greeted { "stopped serving on" } else { "cannot serve on" };
        self.log(format_args!("{failed} {}: {}", self.address, explain(&error)));
        ExitCode::FAILURE
    }

    /// Prints the summary.
    fn sum_up(&mut self, socket: &UdpSocket, queue: QueueTotals) {
        let Self { flags: Flags { json, .. }, summary, .. } = self;
        summary.add_queue(queue);
        summary.seconds = self.started.elapsed().as_secs_f64();
        summary.add_kernel_drops(socket::kernel_drops(socket));
        if *json {
            print_line(summary.to_json());
        } else {
            print_line(&summary);
        }
    }

    fn log(&self, text: std::fmt::Arguments<'_>) {
        print_to_stderr(self.flags.program, text);
    }
}

/// Binds a socket by `bind` and sizes its buffers; a failure is a sentence.
fn open_socket(
    flags: &Flags,
    address: SocketAddr,
    bind: impl FnOnce(SocketAddr) -> io::Result<UdpSocket>,
) -> Result<(UdpSocket, SocketAddr), String> {
    let (socket, address) = socket::bind(address, bind)?;
    socket::size_buffers(&socket, flags.send_buffer, flags.receive_buffer)
        .map_err(|error| format!("cannot set the size of the socket's buffers: {error}"))?;
    Ok((socket, address))
}

/// The name of an error that the network may cause.
///
/// # Errors
///
/// The error itself, with the call named, if only a bug of ours causes it.
fn network_error(call: &str, error: io::Error) -> io::Result<String> {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBADF | Errno::ENOTSOCK | Errno::EFAULT) => {
            Err(io::Error::new(error.kind(), format!("the {call} failed with {}", explain(&error))))
        }
        _ => Ok(errno_name(&error)),
    }
}
