//! The server around every act: listener, guests, counters, shutdown.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use echo_service::{Signals, complain, is_loopback, print_line, reachable, spare_descriptors};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use trace_marks::mark;

use crate::flags::Flags;
use crate::jokes::{Joke, Jokes};
use crate::summary::{Summary, kind_of};

/// How long jokes that are being told are told on after a signal. A tenth of a second less than the
/// second that the whole end may take.
pub const LAST_CALL: Duration = Duration::from_millis(900);

/// The pauses of a server that cannot accept, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Descriptors that are not for guests: what a runtime opens while it starts and works.
const RESERVED_DESCRIPTORS: u64 = 16;

/// A jokes server before it runs.
#[derive(Debug)]
pub struct Server {
    flags: Flags,
    address: SocketAddr,
    socket: TcpListener,
    jokes: Jokes,
    signals: Signals,
    descriptors_per_guest: u64,
    hall: Arc<Hall>,
}

/// What guests, the listener and the end of the program share.
#[derive(Debug)]
struct Hall {
    program: &'static str,
    verbose: bool,
    idle_limit: Duration,
    bytes_sent: AtomicU64,
    counts: Mutex<Counts>,
    /// Signalled when the last guest leaves.
    empty: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    connections: u64,
    /// Guests that have neither been told their joke nor failed.
    listening: u64,
    /// Guests that are still connected.
    present: u64,
    jokes_sent: u64,
    errors: BTreeMap<String, u64>,
    /// When an error of each kind was last logged.
    logged: BTreeMap<String, Instant>,
}

impl Server {
    /// Indexes the jokes of `flags.file`, listens on `flags.address`, takes the signals SIGINT and SIGTERM,
    /// and raises the soft limit of open descriptors to the hard one.
    ///
    /// A failure prints one line on stderr and ends the program with status 1.
    pub fn open(flags: &Flags) -> Self {
        Self::try_open(flags).unwrap_or_else(|reason| {
            complain(flags.program, reason);
            std::process::exit(1)
        })
    }

    fn try_open(flags: &Flags) -> Result<Self, String> {
        raise_descriptor_limit();
        let jokes = Jokes::open(&flags.file, flags.slow_disk)?;
        let (socket, address) = listen(flags.address, flags.backlog).map_err(|error| {
            format!("cannot listen on {}: {}", flags.address, next_step(&error, flags.address))
        })?;
        let signals = Signals::take()
            .map_err(|error| format!("cannot take SIGINT and SIGTERM: {error}{}", descriptor_hint(&error)))?;
        if flags.marks {
            trace_marks::turn_on().map_err(|error| {
                format!("cannot open /dev/null for --marks: {error}{}", descriptor_hint(&error))
            })?;
        }
        if !is_loopback(address) {
            complain(
                flags.program,
                format_args!("warning: {address} is not loopback; whoever reaches this host gets a joke"),
            );
        }
        let hall = Hall {
            program: flags.program,
            verbose: flags.verbose,
            idle_limit: flags.idle_limit,
            bytes_sent: AtomicU64::new(0),
            counts: Mutex::default(),
            empty: Condvar::new(),
        };
        Ok(Self {
            flags: flags.clone(),
            address,
            socket,
            jokes,
            signals,
            descriptors_per_guest: 1,
            hall: Arc::new(hall),
        })
    }

    /// For an act that opens files of its own while it tells a joke: accepts only so many guests at once
    /// that each can have `count` descriptors. Without this, the limit of descriptors itself is the end of
    /// accepting.
    pub fn descriptors_per_guest(self, count: u64) -> Self {
        Self { descriptors_per_guest: count, ..self }
    }

    /// The jokes.
    pub fn jokes(&self) -> &Jokes {
        &self.jokes
    }

    /// Prints one line on stderr; returns the exit code of a program that could not start.
    pub fn fail(&self, reason: impl std::fmt::Display) -> ExitCode {
        complain(self.flags.program, reason);
        ExitCode::FAILURE
    }

    /// Runs `act` on a multi-threaded runtime of tokio until SIGINT or SIGTERM, lets it finish what it is
    /// telling for [`LAST_CALL`], and makes the exit code. Prints the bound address, the first line on
    /// stdout, as soon as nothing can fail any more, and the summary at the end.
    ///
    /// The wait for the signal stands outside of the runtime, on the main thread: an act may block every
    /// thread of the runtime, and still has to end when it is told to.
    pub fn run<Act>(self, act: impl FnOnce(Listener) -> Act) -> ExitCode
    where
        Act: Future<Output = ()> + Send + 'static,
    {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = self.flags.threads {
            builder.worker_threads(threads.into());
        }
        builder
            .max_blocking_threads(self.flags.blocking_threads.into())
            .thread_keep_alive(self.flags.keep_alive)
            .enable_io()
            .enable_time();
        let runtime = spare_descriptors().and_then(|()| builder.build());
        let seats = self.descriptors_per_guest;
        let (house, socket, door) = self.open_door();
        let begun = runtime.and_then(|runtime| {
            // The listener registers with the runtime whose context it is made in.
            let context = runtime.enter();
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let seats = seats_for(seats)?;
            door.greet();
            let accepting = runtime.spawn(act(Listener { socket, seats, door }));
            drop(context);
            Ok((runtime, accepting))
        });
        let (runtime, accepting) = match begun {
            Ok(begun) => begun,
            Err(error) => return house.no_runtime(&error),
        };
        let counts = house.until_signal(|| accepting.abort());
        // A thread that sleeps in a slow read is not waited for.
        runtime.shutdown_background();
        house.finish(counts)
    }

    /// Like [`run`](Self::run), with a runtime of the act's own choice: `act` is called with the listening
    /// socket, which is non-blocking, on a thread of its own; it makes its runtime there, greets by
    /// [`Door::greet`], and returns only when that fails.
    pub fn run_with(
        self,
        act: impl FnOnce(TcpListener, Door) -> io::Result<()> + Send + 'static,
    ) -> ExitCode {
        let (house, socket, door) = self.open_door();
        let flags = house.flags.clone();
        let thread = std::thread::Builder::new().name("runtime".to_owned()).spawn(move || {
            if let Err(error) = act(socket, door) {
                let hint = descriptor_hint(&error);
                complain(flags.program, format_args!("the runtime has failed: {error}{hint}"));
                std::process::exit(1);
            }
        });
        if let Err(error) = thread {
            return house.no_runtime(&error);
        }
        let counts = house.until_signal(|| {});
        house.finish(counts)
    }

    fn open_door(self) -> (House, TcpListener, Door) {
        let Self { flags, address, socket, jokes, signals, hall, .. } = self;
        let door = Door { program: flags.program, address, jokes, pause: PAUSES.0, hall: Arc::clone(&hall) };
        (House { flags, address, signals, hall, started: Instant::now() }, socket, door)
    }
}

/// What the main thread keeps while the act runs.
struct House {
    flags: Flags,
    address: SocketAddr,
    signals: Signals,
    hall: Arc<Hall>,
    started: Instant,
}

impl House {
    fn no_runtime(&self, error: &io::Error) -> ExitCode {
        let hint = descriptor_hint(error);
        complain(self.flags.program, format_args!("cannot start the runtime: {error}{hint}"));
        ExitCode::FAILURE
    }

    /// Waits for SIGINT or SIGTERM, ends the accepting by `stop`, and makes the last call.
    fn until_signal(&self, stop: impl FnOnce()) -> Counts {
        mark("ready");
        wait_until_readable(self.signals.readable());
        mark("shutdown");
        stop();
        self.hall.wait_until_empty(LAST_CALL)
    }

    fn finish(self, counts: Counts) -> ExitCode {
        let summary = Summary {
            program: self.flags.program,
            address: self.address,
            seconds: self.started.elapsed().as_secs_f64(),
            connections: counts.connections,
            jokes_sent: counts.jokes_sent,
            bytes_sent: self.hall.bytes_sent.load(Ordering::Relaxed),
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

/// Where guests come in, on any runtime: the rules of accepting.
#[derive(Debug)]
pub struct Door {
    program: &'static str,
    address: SocketAddr,
    jokes: Jokes,
    /// How long the next pause will be.
    pause: Duration,
    hall: Arc<Hall>,
}

impl Door {
    /// Prints the program's first line on stdout: the bound address and a command to try it.
    pub fn greet(&self) {
        let (program, address) = (self.program, self.address);
        let (ip, port) = (reachable(address).ip(), address.port());
        print_line(format_args!("{program}: listening on {address}  (try: nc {ip} {port})"));
    }

    /// Counts a guest; returns the record of its visit, and the joke that it will be told.
    pub fn welcome(&mut self, peer: SocketAddr) -> (Visit, Joke) {
        self.pause = PAUSES.0;
        let joke = self.jokes.pick();
        (Visit::new(&self.hall, peer, &joke), joke)
    }

    /// Counts an accept that failed; returns how long to wait before the next: not at all if only that
    /// connection is gone; else, as when descriptors or memory have run out, longer each time.
    // region: pause
    pub fn failed(&mut self, error: &io::Error) -> Duration {
        self.hall.accept_failed(error);
        match error.raw_os_error().map(Errno::from_raw) {
            // That connection is gone, or refused by a firewall: the next may be fine.
            Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPERM | Errno::EPROTO) => Duration::ZERO,
            _ => {
                let longer = (self.pause * 2).min(PAUSES.1);
                std::mem::replace(&mut self.pause, longer)
            }
        }
    }
    // endregion: pause
}

/// The record of one connection: counted when it comes, when its joke has been told or not, when it goes.
#[derive(Debug)]
pub struct Visit {
    hall: Arc<Hall>,
    peer: SocketAddr,
    /// Whether the joke has been counted, as sent or as failed.
    counted: bool,
}

impl Visit {
    fn new(hall: &Arc<Hall>, peer: SocketAddr, joke: &Joke) -> Self {
        let mut counts = hall.counts();
        counts.connections += 1;
        counts.listening += 1;
        counts.present += 1;
        drop(counts);
        if hall.verbose {
            let (first, last) = joke.span();
            hall.log(format_args!("accept {peer}: the joke of lines {first} to {last}"));
        }
        Self { hall: Arc::clone(hall), peer, counted: false }
    }

    /// How long the client may neither read nor close.
    pub fn idle_limit(&self) -> Duration {
        self.hall.idle_limit
    }

    /// The error of a write for which the idle limit has passed.
    pub fn idle(&self) -> io::Error {
        let limit = humantime::format_duration(self.hall.idle_limit);
        io::Error::new(io::ErrorKind::TimedOut, format!("the client has not read for {limit}"))
    }

    /// Counts bytes of the joke as sent.
    pub fn wrote(&self, bytes: usize) {
        self.hall.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts the joke as sent, and makes closing `socket` no reset any more; or as failed. Returns whether
    /// it was sent.
    pub fn settle(&mut self, socket: &impl AsFd, sent: io::Result<()>) -> bool {
        let sent = sent.and_then(|()| SockRef::from(socket).set_linger(None));
        self.counted = true;
        match &sent {
            Ok(()) => self.hall.joke_sent(self.peer),
            Err(error) => self.hall.joke_failed(self.peer, error),
        }
        sent.is_ok()
    }

    /// Says with `-v` that the client has been given up, because it has not closed within the idle limit.
    pub fn given_up(&self) {
        if self.hall.verbose {
            self.hall.log(format_args!("close {}: it has not closed within the idle limit", self.peer));
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.hall.leave(self.counted);
    }
}

/// How many guests may come at once, if that is bounded by more than the limit of descriptors itself.
fn seats_for(descriptors_per_guest: u64) -> io::Result<Option<Arc<Semaphore>>> {
    if descriptors_per_guest == 1 {
        return Ok(None);
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let seats =
        limit.saturating_sub(RESERVED_DESCRIPTORS.max(taken_below(limit) + 2)) / descriptors_per_guest;
    // A limit of "unlimited" is more than any guests.
    let seats = usize::try_from(seats).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
    Ok(Some(Arc::new(Semaphore::new(seats))))
}

/// How many descriptors below `limit` are open already, those among them that the program was started with.
fn taken_below(limit: u64) -> u64 {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    numbers.filter(|number| *number < limit).count() as u64
}

/// Accepts guests, on tokio.
#[derive(Debug)]
pub struct Listener {
    socket: tokio::net::TcpListener,
    seats: Option<Arc<Semaphore>>,
    door: Door,
}

impl Listener {
    /// The next guest, and the joke that it will be told. An accept that fails is counted and tried again.
    // region: accept
    pub async fn accept(&mut self) -> (Guest, Joke) {
        loop {
            let seat = match &self.seats {
                // It fails if it is closed, and nobody closes it.
                Some(seats) => Arc::clone(seats).acquire_owned().await.ok(),
                None => None,
            };
            match self.socket.accept().await {
                Ok((socket, peer)) => {
                    let (visit, joke) = self.door.welcome(peer);
                    return (Guest { socket, visit, patience: None, shut: false, _seat: seat }, joke);
                }
                Err(error) => sleep(self.door.failed(&error)).await,
            }
        }
    }
    // endregion: accept
}

/// A connection on tokio, whose writes fail, with `TimedOut`, once the client has taken nothing for
/// `--idle-limit`.
///
/// Dropped without a [`farewell`](Self::farewell), it resets the connection.
#[derive(Debug)]
pub struct Guest {
    socket: TcpStream,
    visit: Visit,
    /// Runs while a write waits.
    patience: Option<Pin<Box<Sleep>>>,
    /// Whether the sending has been ended.
    shut: bool,
    _seat: Option<OwnedSemaphorePermit>,
}

impl Guest {
    /// Ends the connection after a joke was told, or was not.
    ///
    /// A joke that was told: ends the sending, then reads what the client sends, and ignores it, until it
    /// closes or `--idle-limit` has passed. A socket that is closed with unread data resets its connection,
    /// and a reset may overtake the joke. A joke that was not told to its end: resets the connection, so
    /// that nobody takes the half of it for the whole.
    // region: farewell
    pub async fn farewell(mut self, told: io::Result<()>) {
        let sent = match told {
            Ok(()) => self.shutdown().await,
            Err(error) => Err(error),
        };
        if !self.visit.settle(&self.socket, sent) {
            return;
        }
        let mut ignored = [0; 512];
        let until_closed = async { while matches!(self.socket.read(&mut ignored).await, Ok(1..)) {} };
        if timeout(self.visit.idle_limit(), until_closed).await.is_err() {
            self.visit.given_up();
        }
    }
    // endregion: farewell
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let guest = &mut *self;
        match Pin::new(&mut guest.socket).poll_write(context, bytes) {
            Poll::Pending => {
                let limit = guest.visit.idle_limit();
                ready!(guest.patience.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context));
                Poll::Ready(Err(guest.visit.idle()))
            }
            Poll::Ready(written) => {
                guest.patience = None;
                if let Ok(bytes) = written {
                    guest.visit.wrote(bytes);
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

// Nobody reads from a guest but its farewell; `Framed` asks for both directions all the same.
impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl Hall {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters have no state in between that a panic could leave behind.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn joke_sent(&self, peer: SocketAddr) {
        let mut counts = self.counts();
        counts.jokes_sent += 1;
        counts.listening -= 1;
        drop(counts);
        if self.verbose {
            self.log(format_args!("sent {peer}"));
        }
    }

    #[cold]
    fn joke_failed(&self, peer: SocketAddr, error: &io::Error) {
        let kind = kind_of(error);
        self.counts().listening -= 1;
        // What a client does is its own affair; what the disk does, the one who runs the server should know.
        let of_the_file =
            matches!(kind.as_str(), "file_shrank" | "file_changed" | "OTHER" | "EIO" | "EMFILE" | "ENFILE");
        self.failed(kind, of_the_file, format_args!("failed {peer}: {error}"));
    }

    #[cold]
    fn accept_failed(&self, error: &io::Error) {
        self.failed(
            kind_of(error),
            true,
            format_args!("cannot accept a connection: {error}{}", descriptor_hint(error)),
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

    fn leave(&self, counted: bool) {
        let mut counts = self.counts();
        counts.present -= 1;
        if !counted {
            // The runtime has dropped it: the program ends.
            counts.listening -= 1;
            *counts.errors.entry("shutdown".to_owned()).or_default() += 1;
        }
        if counts.present == 0 {
            self.empty.notify_all();
        }
    }

    /// Waits until the last guest has left, but not longer than `limit`; who is still listening then, is
    /// not told the rest.
    fn wait_until_empty(&self, limit: Duration) -> Counts {
        let waited = self.empty.wait_timeout_while(self.counts(), limit, |counts| counts.present > 0);
        // A copy: what happens to the guests from here on is counted where nobody reads it.
        let mut counts = waited.unwrap_or_else(PoisonError::into_inner).0.clone();
        if counts.listening > 0 {
            *counts.errors.entry("shutdown".to_owned()).or_default() += counts.listening;
        }
        counts
    }

    fn log(&self, text: std::fmt::Arguments<'_>) {
        complain(self.program, text);
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
        _ => match descriptor_hint(error) {
            hint if hint.is_empty() => {
                format!("{error}: choose another address, for example 127.0.0.1:12345")
            }
            hint => format!("{error}{hint}"),
        },
    }
}

/// What to do about it if `error` says that descriptors have run out; else nothing.
pub fn descriptor_hint(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
            format!(
                "; the limit is {limit} descriptors: raise it before the start, for example `ulimit -n 20000`"
            )
        }
        Some(Errno::ENFILE) => {
            "; the whole system has no descriptor left: raise the sysctl fs.file-max".to_owned()
        }
        _ => String::new(),
    }
}

/// Raises the soft limit of open descriptors to the hard one: each connection takes a descriptor.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // If it fails, the lower limit holds, and accepting pauses when it is met.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
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
