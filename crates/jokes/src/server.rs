//! The server around every act: listener, connections, counters, shutdown.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use echo_service::{
    Signals, is_loopback, limit_hint, print_line, print_to_stderr, raise_descriptor_limit, reachable,
    refused_thread, spare_descriptors, start_threads,
};
use futures::FutureExt;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use trace_marks::mark;

use crate::flags::Flags;
use crate::jokes::{Joke, Jokes};
use crate::summary::{Summary, kind_of};

/// The grace period: how long connections that are open when a signal comes may still finish. A tenth of a
/// second less than the second that the whole end may take.
pub const GRACE_PERIOD: Duration = Duration::from_millis(900);

/// The pauses of a server that cannot accept, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Descriptors that are not for connections: what a runtime opens while it starts and works.
const RESERVED_DESCRIPTORS: u64 = 16;

/// A jokes server before it runs.
#[derive(Debug)]
pub struct Server {
    flags: Flags,
    address: SocketAddr,
    socket: TcpListener,
    jokes: Jokes,
    descriptors_per_connection: u64,
    counters: Arc<Counters>,
}

/// What connections, the listener and the end of the program share.
#[derive(Debug)]
struct Counters {
    program: &'static str,
    verbose: bool,
    idle_limit: Duration,
    bytes_sent: AtomicU64,
    counts: Mutex<Counts>,
    /// Signalled when the last connection closes.
    all_closed: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    connections: u64,
    /// Connections whose joke has neither been sent nor failed.
    in_progress: u64,
    /// Connections that are still open.
    open: u64,
    jokes_sent: u64,
    errors: BTreeMap<String, u64>,
    /// When an error of each kind was last logged.
    logged: BTreeMap<String, Instant>,
}

impl Server {
    /// Indexes the jokes of `flags.file`, listens on `flags.address`, and raises the soft limit of open
    /// descriptors to the hard one.
    ///
    /// SIGINT and SIGTERM are taken when it runs: until then there is nothing to finish, and they end the program
    /// at once, as they end any other.
    ///
    /// A failure prints one line on stderr and ends the program with status 1.
    pub fn open(flags: &Flags) -> Self {
        Self::try_open(flags).unwrap_or_else(|reason| {
            print_to_stderr(flags.program, reason);
            std::process::exit(1)
        })
    }

    fn try_open(flags: &Flags) -> Result<Self, String> {
        raise_descriptor_limit();
        let jokes = Jokes::open(&flags.file, flags.slow_disk)?;
        let (socket, address) = listen(flags.address, flags.backlog).map_err(|error| {
            format!("cannot listen on {}: {}", flags.address, next_step(&error, flags.address))
        })?;
        if flags.marks {
            trace_marks::turn_on().map_err(|error| {
                format!("cannot open /dev/null for --marks: {error}{}", limit_hint(&error))
            })?;
        }
        if !is_loopback(address) {
            print_to_stderr(
                flags.program,
                format_args!("warning: {address} is not loopback; whoever reaches this host gets a joke"),
            );
        }
        let counters = Counters {
            program: flags.program,
            verbose: flags.verbose,
            idle_limit: flags.idle_limit,
            bytes_sent: AtomicU64::new(0),
            counts: Mutex::default(),
            all_closed: Condvar::new(),
        };
        Ok(Self {
            flags: flags.clone(),
            address,
            socket,
            jokes,
            descriptors_per_connection: 1,
            counters: Arc::new(counters),
        })
    }

    /// For an act that opens files of its own while it tells a joke: accepts only so many connections at once
    /// that each can have `count` descriptors. Without this, the limit of descriptors itself is the end of
    /// accepting.
    pub fn descriptors_per_connection(self, count: u64) -> Self {
        Self { descriptors_per_connection: count, ..self }
    }

    /// The jokes.
    pub fn jokes(&self) -> &Jokes {
        &self.jokes
    }

    /// Prints one line on stderr; returns the exit code of a program that could not start.
    pub fn fail(&self, reason: impl std::fmt::Display) -> ExitCode {
        print_to_stderr(self.flags.program, reason);
        ExitCode::FAILURE
    }

    /// Runs `act` on a multi-threaded runtime of tokio until SIGINT or SIGTERM, lets it finish what it is
    /// sending for [`GRACE_PERIOD`], and makes the exit code. Prints the bound address, the first line on
    /// stdout, as soon as nothing can fail any more, and the summary at the end.
    ///
    /// The wait for the signal stands outside of the runtime, on the main thread: an act may block every
    /// thread of the runtime, and still has to end when it is told to.
    pub fn run<Act>(self, act: impl FnOnce(Listener) -> Act) -> ExitCode
    where
        Act: Future<Output = ()> + Send + 'static,
    {
        let permits = self.descriptors_per_connection;
        let (supervisor, socket, acceptor) = match self.take_signals() {
            Ok(parts) => parts,
            Err(code) => return code,
        };
        let flags = &supervisor.flags;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = flags.threads {
            builder.worker_threads(threads.into());
        }
        builder
            .max_blocking_threads(flags.blocking_threads.into())
            .thread_keep_alive(flags.keep_alive)
            .enable_io()
            .enable_time();
        let runtime = spare_descriptors().and_then(|()| start_threads(flags.program, || builder.build()));
        silence_refused_threads();
        let begun = runtime.and_then(|runtime| {
            // The listener registers with the runtime whose context it is made in.
            let context = runtime.enter();
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let permits = connection_limit(permits)?;
            acceptor.greet();
            let accepting = runtime.spawn(act(Listener { socket, permits, acceptor }));
            drop(context);
            Ok((runtime, accepting))
        });
        let (runtime, accepting) = match begun {
            Ok(begun) => begun,
            Err(error) => return supervisor.no_runtime(&error),
        };
        let counts = supervisor.until_signal(|| accepting.abort());
        // A thread that sleeps in a slow read is not waited for.
        runtime.shutdown_background();
        supervisor.finish(counts)
    }

    /// Like [`run`](Self::run), with a runtime of the act's own choice: `act` is called with the listening
    /// socket, which is non-blocking, on a thread of its own; it makes its runtime there, greets by
    /// [`Acceptor::greet`], and returns only when that fails.
    pub fn run_with(
        self,
        act: impl FnOnce(TcpListener, Acceptor) -> io::Result<()> + Send + 'static,
    ) -> ExitCode {
        let (supervisor, socket, acceptor) = match self.take_signals() {
            Ok(parts) => parts,
            Err(code) => return code,
        };
        let flags = supervisor.flags.clone();
        let thread = std::thread::Builder::new().name("runtime".to_owned()).spawn(move || {
            if let Err(error) = act(socket, acceptor) {
                let hint = limit_hint(&error);
                print_to_stderr(flags.program, format_args!("the runtime has failed: {error}{hint}"));
                std::process::exit(1);
            }
        });
        if let Err(error) = thread {
            return supervisor.no_runtime(&error);
        }
        let counts = supervisor.until_signal(|| {});
        supervisor.finish(counts)
    }

    /// Takes SIGINT and SIGTERM, and parts the server into what waits for them and what accepts.
    fn take_signals(self) -> Result<(Supervisor, TcpListener, Acceptor), ExitCode> {
        let signals = Signals::take().map_err(|error| {
            self.fail(format_args!("cannot take SIGINT and SIGTERM: {error}{}", limit_hint(&error)))
        })?;
        let Self { flags, address, socket, jokes, counters, .. } = self;
        let acceptor = Acceptor {
            program: flags.program,
            address,
            jokes,
            pause: PAUSES.0,
            counters: Arc::clone(&counters),
        };
        Ok((Supervisor { flags, address, signals, counters, started: Instant::now() }, socket, acceptor))
    }
}

/// What the main thread keeps while the act runs.
struct Supervisor {
    flags: Flags,
    address: SocketAddr,
    signals: Signals,
    counters: Arc<Counters>,
    started: Instant,
}

impl Supervisor {
    fn no_runtime(&self, error: &io::Error) -> ExitCode {
        let hint = limit_hint(error);
        print_to_stderr(self.flags.program, format_args!("cannot start the runtime: {error}{hint}"));
        ExitCode::FAILURE
    }

    /// Waits for SIGINT or SIGTERM, ends the accepting by `stop`, and lets open connections finish.
    fn until_signal(&self, stop: impl FnOnce()) -> Counts {
        mark("ready");
        wait_until_readable(self.signals.readable());
        mark("shutdown");
        stop();
        self.counters.wait_until_closed(GRACE_PERIOD)
    }

    fn finish(self, counts: Counts) -> ExitCode {
        let summary = Summary {
            program: self.flags.program,
            address: self.address,
            seconds: self.started.elapsed().as_secs_f64(),
            connections: counts.connections,
            jokes_sent: counts.jokes_sent,
            bytes_sent: self.counters.bytes_sent.load(Ordering::Relaxed),
            errors: counts.errors,
        };
        if self.flags.json {
            print_line(summary.to_json());
        } else {
            print_line(&summary);
        }
        ExitCode::SUCCESS
    }
}

/// The rules of accepting, on any runtime.
#[derive(Debug)]
pub struct Acceptor {
    program: &'static str,
    address: SocketAddr,
    jokes: Jokes,
    /// How long the next pause will be.
    pause: Duration,
    counters: Arc<Counters>,
}

impl Acceptor {
    /// Prints the program's first line on stdout: the bound address and a command to try it.
    pub fn greet(&self) {
        let (program, address) = (self.program, self.address);
        let (ip, port) = (reachable(address).ip(), address.port());
        print_line(format_args!("{program}: listening on {address}  (try: nc {ip} {port})"));
    }

    /// Counts a connection; returns its record and the joke that it will be sent.
    pub fn admit(&mut self, peer: SocketAddr) -> (Record, Joke) {
        self.pause = PAUSES.0;
        let joke = self.jokes.pick();
        (Record::new(&self.counters, peer, &joke), joke)
    }

    /// Counts an accept that failed; returns how long to wait before the next: not at all if only that
    /// connection is gone; else, as when descriptors or memory have run out, longer each time.
    // region: back_off
    pub fn back_off(&mut self, error: &io::Error) -> Duration {
        self.counters.accept_failed(error);
        match error.raw_os_error().map(Errno::from_raw) {
            // That connection is gone, or refused by a firewall: the next may be fine.
            Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPERM | Errno::EPROTO) => Duration::ZERO,
            _ => {
                let longer = (self.pause * 2).min(PAUSES.1);
                std::mem::replace(&mut self.pause, longer)
            }
        }
    }
    // endregion: back_off
}

/// The record of one connection: counted when it is accepted, when its joke has been sent or not, and when it
/// closes.
#[derive(Debug)]
pub struct Record {
    counters: Arc<Counters>,
    peer: SocketAddr,
    /// Whether the joke has been counted, as sent or as failed.
    counted: bool,
}

impl Record {
    fn new(counters: &Arc<Counters>, peer: SocketAddr, joke: &Joke) -> Self {
        let mut counts = counters.counts();
        counts.connections += 1;
        counts.in_progress += 1;
        counts.open += 1;
        drop(counts);
        if counters.verbose {
            let (first, last) = joke.span();
            counters.log(format_args!("accept {peer}: the joke of lines {first} to {last}"));
        }
        Self { counters: Arc::clone(counters), peer, counted: false }
    }

    /// How long the client may neither read nor close.
    pub fn idle_limit(&self) -> Duration {
        self.counters.idle_limit
    }

    /// The error of a write for which the idle limit has passed.
    pub fn idle_error(&self) -> io::Error {
        let limit = humantime::format_duration(self.counters.idle_limit);
        io::Error::new(io::ErrorKind::TimedOut, format!("the client has not read for {limit}"))
    }

    /// Counts `bytes` of the joke as sent.
    pub fn count_bytes(&self, bytes: usize) {
        self.counters.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts the joke as sent, and makes closing `socket` no reset any more; or as failed. Returns whether
    /// it was sent.
    pub fn finish(&mut self, socket: &impl AsFd, sent: io::Result<()>) -> bool {
        let sent = sent.and_then(|()| SockRef::from(socket).set_linger(None));
        self.counted = true;
        match &sent {
            Ok(()) => self.counters.joke_sent(self.peer),
            Err(error) => self.counters.joke_failed(self.peer, error),
        }
        sent.is_ok()
    }

    /// Logs with `-v` that the connection is closed because its client has not closed within the idle limit.
    pub fn log_idle_close(&self) {
        if self.counters.verbose {
            self.counters.log(format_args!("close {}: it has not closed within the idle limit", self.peer));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.counters.count_close(self.counted);
    }
}

/// Awaits `sending`. If a call in it needs a thread of tokio's pool and the system refuses one, tokio panics; here
/// that becomes the error of this one connection.
pub async fn catch_refused_thread(sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    // What the panic leaves half done is the connection, and that is reset.
    AssertUnwindSafe(sending).catch_unwind().await.unwrap_or_else(|panic| match refused_thread(&*panic) {
        Some(error) => Err(error),
        None => resume_unwind(panic),
    })
}

/// Lets panics over a refused thread pass without a word: [`catch_refused_thread`] makes errors of them, which are
/// counted and logged.
fn silence_refused_threads() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if refused_thread(info.payload()).is_none() {
            report(info);
        }
    }));
}

/// A permit for each connection that may be open at once, if that is bounded by more than the limit of
/// descriptors itself.
fn connection_limit(descriptors_per_connection: u64) -> io::Result<Option<Arc<Semaphore>>> {
    if descriptors_per_connection == 1 {
        return Ok(None);
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let permits =
        limit.saturating_sub(RESERVED_DESCRIPTORS.max(taken_below(limit) + 2)) / descriptors_per_connection;
    // A limit of "unlimited" is more than any connections.
    let permits = usize::try_from(permits).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
    Ok(Some(Arc::new(Semaphore::new(permits))))
}

/// How many descriptors below `limit` are open already, those among them that the program was started with.
fn taken_below(limit: u64) -> u64 {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    numbers.filter(|number| *number < limit).count() as u64
}

/// Accepts connections, on tokio.
#[derive(Debug)]
pub struct Listener {
    socket: tokio::net::TcpListener,
    permits: Option<Arc<Semaphore>>,
    acceptor: Acceptor,
}

impl Listener {
    /// The next connection, and the joke that it will be sent. An accept that fails is counted and tried again.
    // region: accept
    pub async fn accept(&mut self) -> (Connection, Joke) {
        loop {
            let permit = match &self.permits {
                // It fails if it is closed, and nobody closes it.
                Some(permits) => Arc::clone(permits).acquire_owned().await.ok(),
                None => None,
            };
            match self.socket.accept().await {
                Ok((socket, peer)) => {
                    let (record, joke) = self.acceptor.admit(peer);
                    return (
                        Connection { socket, record, idle_timer: None, shut: false, _permit: permit },
                        joke,
                    );
                }
                Err(error) => sleep(self.acceptor.back_off(&error)).await,
            }
        }
    }
    // endregion: accept
}

/// A connection on tokio, whose writes fail, with `TimedOut`, once the client has taken nothing for
/// `--idle-limit`.
///
/// Dropped without a [`close`](Self::close), it resets the connection.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    record: Record,
    /// Runs while a write waits.
    idle_timer: Option<Pin<Box<Sleep>>>,
    /// Whether the sending has been ended.
    shut: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Closes the connection after a joke was sent, or was not.
    ///
    /// A joke that was sent: ends the sending, then reads what the client sends, and ignores it, until it
    /// closes or `--idle-limit` has passed. A socket that is closed with unread data resets its connection,
    /// and a reset may overtake the joke. A joke that was not sent to its end: resets the connection, so
    /// that nobody takes the half of it for the whole.
    // region: close
    pub async fn close(mut self, result: io::Result<()>) {
        let sent = match result {
            Ok(()) => self.shutdown().await,
            Err(error) => Err(error),
        };
        if !self.record.finish(&self.socket, sent) {
            return;
        }
        let mut ignored = [0; 512];
        let until_closed = async { while matches!(self.socket.read(&mut ignored).await, Ok(1..)) {} };
        if timeout(self.record.idle_limit(), until_closed).await.is_err() {
            self.record.log_idle_close();
        }
    }
    // endregion: close
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let connection = &mut *self;
        match Pin::new(&mut connection.socket).poll_write(context, bytes) {
            Poll::Pending => {
                let limit = connection.record.idle_limit();
                ready!(
                    connection
                        .idle_timer
                        .get_or_insert_with(|| Box::pin(sleep(limit)))
                        .as_mut()
                        .poll(context)
                );
                Poll::Ready(Err(connection.record.idle_error()))
            }
            Poll::Ready(written) => {
                connection.idle_timer = None;
                if let Ok(bytes) = written {
                    connection.record.count_bytes(bytes);
                }
                Poll::Ready(written)
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A sink has done it when it was closed; once more would be an error, if the client has closed too.
        if !self.shut {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

// Only `close` reads from a connection; `Framed` asks for both directions all the same.
impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl Counters {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters have no state in between that a panic could leave behind.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn joke_sent(&self, peer: SocketAddr) {
        let mut counts = self.counts();
        counts.jokes_sent += 1;
        counts.in_progress -= 1;
        drop(counts);
        if self.verbose {
            self.log(format_args!("sent {peer}"));
        }
    }

    #[cold]
    fn joke_failed(&self, peer: SocketAddr, error: &io::Error) {
        let kind = kind_of(error);
        self.counts().in_progress -= 1;
        // Clients go and networks fail: that is routine. Whatever else happens, the one who runs the server
        // should know.
        let routine = matches!(
            kind.as_str(),
            "idle"
                | "ECONNABORTED"
                | "ECONNRESET"
                | "EHOSTUNREACH"
                | "ENETDOWN"
                | "ENETUNREACH"
                | "ENOTCONN"
                | "EPIPE"
                | "ETIMEDOUT"
        );
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                "; the jokes file is opened again for each connection: its mode must permit that, and /proc \
                 must be mounted"
                    .to_owned()
            }
            _ => limit_hint(error),
        };
        self.failed(kind, !routine, format_args!("failed {peer}: {error}{hint}"));
    }

    #[cold]
    fn accept_failed(&self, error: &io::Error) {
        self.failed(
            kind_of(error),
            true,
            format_args!("cannot accept a connection: {error}{}", limit_hint(error)),
        );
    }

    /// Counts, and logs: with `-v` always, else what `matters` once a minute for each kind.
    fn failed(&self, kind: String, matters: bool, text: std::fmt::Arguments<'_>) {
        let mut counts = self.counts();
        let now = Instant::now();
        let due = matters
            && counts
                .logged
                .get(&kind)
                .is_none_or(|last| now.duration_since(*last) >= Duration::from_secs(60));
        if due {
            counts.logged.insert(kind.clone(), now);
        }
        *counts.errors.entry(kind).or_default() += 1;
        drop(counts);
        if self.verbose {
            self.log(text);
        } else if due {
            self.log(format_args!("{text} (more are counted, and not logged for a minute)"));
        }
    }

    fn count_close(&self, counted: bool) {
        let mut counts = self.counts();
        counts.open -= 1;
        if !counted {
            // The runtime has dropped it: the program ends.
            counts.in_progress -= 1;
            *counts.errors.entry("shutdown".to_owned()).or_default() += 1;
        }
        if counts.open == 0 {
            self.all_closed.notify_all();
        }
    }

    /// Waits until the last connection has closed, but not longer than `limit`; a joke that is still in progress
    /// then is counted as `shutdown`.
    fn wait_until_closed(&self, limit: Duration) -> Counts {
        let waited = self.all_closed.wait_timeout_while(self.counts(), limit, |counts| counts.open > 0);
        // A copy: what happens to the connections from here on is counted where nobody reads it.
        let mut counts = waited.unwrap_or_else(PoisonError::into_inner).0.clone();
        if counts.in_progress > 0 {
            *counts.errors.entry("shutdown".to_owned()).or_default() += counts.in_progress;
        }
        counts
    }

    fn log(&self, text: std::fmt::Arguments<'_>) {
        print_to_stderr(self.program, text);
    }
}

/// A listener on `wanted` and the address that the kernel gave it.
fn listen(wanted: SocketAddr, backlog: u16) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(wanted), Type::STREAM, None)?;
    // For TCP it does not let two servers share a port; it lets one start while old connections of
    // another linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // What the listener is set to, each connection that it accepts is set to. A connection that nobody
    // ends well is reset, even by the end of the process: half a joke must not look like a whole one.
    socket.set_linger(Some(Duration::ZERO))?;
    // An act may send a joke line by line: each is to leave at once.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&wanted.into())?;
    socket.listen(backlog.into())?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn next_step(error: &io::Error, wanted: SocketAddr) -> String {
    let ip = wanted.ip();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the address is in use: end the program that has it, or choose another port ({} lets the kernel \
             choose)",
            SocketAddr::from((ip, 0))
        ),
        io::ErrorKind::PermissionDenied => format!(
            "permission denied, as for ports below 1024: choose a higher one, for example {}",
            SocketAddr::from((ip, 12345))
        ),
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address: `ip address` lists those it has".to_owned()
        }
        _ => match limit_hint(error) {
            hint if hint.is_empty() => {
                format!("{error}: choose another address, for example 127.0.0.1:12345")
            }
            hint => format!("{error}{hint}"),
        },
    }
}

/// Blocks the thread until `descriptor` is readable.
fn wait_until_readable(descriptor: impl AsFd) {
    loop {
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            // The handler of the very signal that is waited for interrupts the wait.
            Err(Errno::EINTR) | Ok(0) => {}
            Ok(_) | Err(_) => return,
        }
    }
}
