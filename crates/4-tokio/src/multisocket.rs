//! What the demos with many sockets share: the sockets, one future for each, and the count of its polls.
//! How these futures are put together is what each demo shows.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{self, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::{Signals, explain, parse_count, refusal};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, oneshot};
use tokio::task::{unconstrained, yield_now};

use crate::take_signals;
use trace_marks::{Markable, Marked, mark};

/// Datagrams that a future handles before it lets its neighbours have a turn.
const BUDGET: usize = 32;

/// How many datagrams a socket that is kept busy has before it.
const AHEAD: usize = 4;

#[derive(clap::Args)]
struct Flags {
    /// How many sockets to open, 1 to 65535
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_count::<65_535>)]
    sockets: usize,

    /// Port of the first socket, at most 65535, the others follow; 0 looks for free ones
    #[arg(long, value_name = "PORT", default_value = "2000")]
    base_port: u16,

    /// Poke itself: N datagrams, 1 to 1000000, to the sockets in turn, each after the echo of the last; then end
    #[arg(long, value_name = "N", value_parser = parse_count::<1_000_000>)]
    poke: Option<usize>,

    /// Keep all sockets busy: each sends itself another datagram for each that it receives, until N have been received in
    /// all, 1 to 100000000; then end
    #[arg(long, value_name = "N", conflicts_with = "poke", value_parser = parse_count::<100_000_000>)]
    hot: Option<usize>,

    /// Whose budget says when a busy socket lets the others have a turn
    #[arg(long, value_name = "WHOSE", default_value = "future")]
    budget: Budget,
}

/// What ends the turn of a future that always finds something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Budget {
    /// A budget of each future: 32 datagrams, then it yields
    Future,
    /// tokio's, which is one for the whole task: 128 operations
    Task,
}

/// Many sockets on consecutive ports of 127.0.0.1, and what is counted about them.
#[derive(Debug)]
pub struct ManySockets {
    sockets: Mutex<Vec<net::UdpSocket>>,
    addresses: Vec<SocketAddr>,
    poke: Option<usize>,
    hot: Option<u64>,
    budget: Budget,
    state: Arc<State>,
    /// Kept for the second signal, which ends the program at once.
    _signals: Signals,
}

/// What the futures count and print with.
#[derive(Debug)]
struct State {
    demo: Demo,
    datagrams: AtomicU64,
    /// By socket.
    polls: Vec<AtomicU64>,
    /// By socket.
    received: Vec<AtomicU64>,
    /// Told when `--hot` has had its datagrams.
    cooled: Notify,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    sockets: usize,
    datagrams: u64,
    /// How often each socket's future was polled, in the order of the sockets.
    polls: Vec<u64>,
    /// How many datagrams each socket received, in the same order.
    received: Vec<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, sockets, datagrams, polls, received } = self;
        let total: u64 = polls.iter().sum();
        write!(f, "{program}: {sockets} sockets, {datagrams} datagrams, {total} polls")?;
        if *datagrams > 0 {
            write!(f, ": {:.1} a datagram", total as f64 / *datagrams as f64)?;
        }
        write!(f, "\n  polls of each")?;
        polls.iter().try_for_each(|count| write!(f, " {count}"))?;
        write!(f, "\n  datagrams of each")?;
        received.iter().try_for_each(|count| write!(f, " {count}"))
    }
}

impl ManySockets {
    /// Reads the command line of `program`, binds the sockets and takes the signals. Wrong usage ends the
    /// program with status 2, a failure with status 1.
    pub fn open(program: &'static str, about: &'static str) -> Self {
        let (demo, Flags { sockets: count, base_port, poke, hot, budget }) =
            Demo::parse::<Flags>(program, about);
        if usize::from(base_port) + count > 65_536 {
            demo.wrong_usage(format_args!(
                "--sockets {count} from --base-port {base_port} on would pass port 65535: lower one of them"
            ));
        }
        let sockets = bind(&demo, count, base_port);
        let addresses = sockets.iter().map(|socket| socket.local_addr()).collect::<io::Result<_>>();
        let addresses =
            addresses.unwrap_or_else(|error| demo.fail_of("a socket has lost its address", &error));
        let _signals = demo.signals();
        let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect();
        let (datagrams, polls, received) = (AtomicU64::new(0), zeros(), zeros());
        let state = Arc::new(State { demo, datagrams, polls, received, cooled: Notify::new() });
        let hot = hot.map(|count| count as u64);
        Self { sockets: Mutex::new(sockets), addresses, poke, hot, budget, state, _signals }
    }

    /// A runtime for one thread. A failure ends the program with status 1.
    pub fn runtime(&self) -> Runtime {
        self.state.demo.start_runtime(|| Builder::new_current_thread().enable_all().build())
    }

    /// One future for each socket, in their order: it echoes, and never completes. A second call finds no
    /// sockets left.
    ///
    /// # Errors
    ///
    /// When tokio cannot register a socket.
    pub fn futures(&self) -> io::Result<Vec<Marked<Echo>>> {
        let sockets = std::mem::take(&mut *self.sockets.lock().unwrap_or_else(PoisonError::into_inner));
        let echo = |(index, (socket, address)): (usize, (net::UdpSocket, &SocketAddr))| {
            socket.set_nonblocking(true)?;
            let state = Arc::clone(&self.state);
            let socket = UdpSocket::from_std(socket)?;
            let own = (self.budget == Budget::Future).then_some(BUDGET);
            let turn = own.unwrap_or(usize::MAX);
            let future: Pin<Box<dyn Future<Output = ()> + Send>> = match self.hot {
                Some(count) => Box::pin(keep_busy(socket, *address, index, Arc::clone(&state), turn, count)),
                None => Box::pin(echo(socket, *address, index, Arc::clone(&state), turn)),
            };
            // tokio's own budget is one for the whole task: with all futures in one task, the first busy
            // socket would use it up in every round, and others would starve. Ours is one a future.
            let future = if own.is_some() { Box::pin(unconstrained(future)) } else { future };
            Ok(Echo { future, index, state }.marked(format!("socket-{index}")))
        };
        sockets.into_iter().zip(&self.addresses).enumerate().map(echo).collect()
    }

    /// Greets, and completes when a signal comes or all pokes are answered.
    ///
    /// # Errors
    ///
    /// When tokio cannot take the signals, or a poke fails.
    pub async fn ended(&self) -> io::Result<()> {
        let signals = take_signals()?;
        let poked = self.poke.map(|count| {
            let (done, poked) = oneshot::channel();
            let addresses = self.addresses.clone();
            self.state.demo.spawn(move || {
                // Nobody listens any more after a signal.
                let _ = done.send(poke(&addresses, count));
            });
            poked
        });
        let first = self.addresses[0];
        let range = match &self.addresses[1..] {
            [] => first.to_string(),
            [.., last] => format!("{first} to {last}"),
        };
        self.state.demo.greet(format_args!(
            "listening on {range}  (try: nc -u {} {})",
            first.ip(),
            first.port()
        ));
        let poked = async {
            match poked {
                Some(poked) => {
                    poked.await.unwrap_or_else(|_| Err(io::Error::other("the poking thread panicked")))
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signals => Ok(()),
            outcome = poked => outcome,
            () = self.state.cooled.notified() => Ok(()),
        }
    }

    /// Prints the summary or, if `outcome` is an error, one line on stderr that ends the program with status 1.
    pub fn finish(&self, outcome: io::Result<()>) -> ExitCode {
        let State { demo, datagrams, polls, received, .. } = &*self.state;
        let counts = |all: &[AtomicU64]| all.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        if let Err(error) = outcome {
            demo.fail_of("cannot serve", &error);
        }
        mark("shutdown");
        demo.finish(&Summary {
            program: demo.program(),
            sockets: self.addresses.len(),
            datagrams: datagrams.load(Ordering::Relaxed),
            polls: counts(polls),
            received: counts(received),
        });
        ExitCode::SUCCESS
    }
}

/// Binds `count` sockets to consecutive ports from `base` on.
fn bind(demo: &Demo, count: usize, base: u16) -> Vec<net::UdpSocket> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if base > 0 {
        return (0..count).map(|index| demo.bind_udp(local(base + index as u16)).0).collect();
    }
    bind_row(count).unwrap_or_else(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            demo.fail(format_args!("found no {count} free ports in a row: choose them with --base-port"))
        }
        _ => demo.fail(format_args!(
            "cannot open {count} sockets: {}, or ask for fewer with --sockets",
            explain(&error)
        )),
    })
}

/// The first port behind those that Linux gives to whoever asks for any (ip(7), `ip_local_port_range`): from here on
/// no neighbour gets one by chance.
const FIRST_UNASKED: u32 = 61_000;

/// Binds `count` sockets to the first ports in a row that are free on 127.0.0.1, sought from a random one on.
///
/// # Errors
///
/// `AddrInUse` when there is no such row; what the system says when it opens no further socket.
fn bind_row(count: usize) -> io::Result<Vec<net::UdpSocket>> {
    let end = u32::from(u16::MAX) + 1;
    // A row that is too long for the last ports reaches over those that the kernel gives away.
    let begin = if count <= (end - FIRST_UNASKED) as usize { FIRST_UNASKED } else { 10_000 };
    // Programs that start together do not all begin at the same port. std has no other randomness than this.
    let start = begin + (RandomState::new().hash_one(count) % u64::from(end - begin)) as u32;
    let mut row = Vec::with_capacity(count);
    // Once around, and on to where the last row that begins before `start` ends.
    for port in (start..end).chain(begin..end) {
        if port == begin {
            row.clear();
        }
        match net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port as u16)) {
            Ok(socket) => row.push(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => row.clear(),
            Err(error) => return Err(error),
        }
        if row.len() == count {
            return Ok(row);
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

/// Sends `count` datagrams to `addresses` in turn, each after the echo of the last.
fn poke(addresses: &[SocketAddr], count: usize) -> io::Result<()> {
    let client = net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for address in addresses.iter().cycle().take(count) {
        client.send_to(b"poke", address)?;
        while client.recv_from(&mut [0; 4])?.1 != *address {}
    }
    Ok(())
}

/// A future that counts its polls.
pub struct Echo {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    index: usize,
    state: Arc<State>,
}

impl Future for Echo {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let index = self.index;
        self.state.polls[index].fetch_add(1, Ordering::Relaxed);
        self.future.as_mut().poll(cx)
    }
}

/// Echoes what comes in on one socket, and prints a line for each datagram.
async fn echo(socket: UdpSocket, local: SocketAddr, index: usize, state: Arc<State>, turn: usize) {
    let mut buffer = vec![0; 65_536];
    loop {
        for _ in 0..turn {
            let (bytes, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // What the network causes is no reason to stop; the budget keeps it from spinning.
                Err(error) => {
                    state.demo.log(format_args!("socket {index}: the receive failed: {error}"));
                    continue;
                }
            };
            state.datagrams.fetch_add(1, Ordering::Relaxed);
            state.received[index].fetch_add(1, Ordering::Relaxed);
            let polls = state.polls[index].load(Ordering::Relaxed);
            let line = format!("socket {index} ({local}): {bytes} bytes from {peer}, in poll {polls}");
            if let Some(reason) = refusal(peer, local) {
                state.demo.say(format_args!("{line}, refused: {}", reason.key()));
                continue;
            }
            state.demo.say(line);
            if let Err(error) = socket.send_to(&buffer[..bytes], peer).await {
                // This datagram is lost; the next one has another receiver.
                state.demo.log(format_args!("socket {index}: the send failed: {error}"));
            }
        }
        yield_now().await;
    }
}

// region: hot
/// Receives from a socket that is never empty, since each datagram is followed by another one to itself. Ends for ever
/// when all sockets together have received `count`.
async fn keep_busy(
    socket: UdpSocket,
    own: SocketAddr,
    index: usize,
    state: Arc<State>,
    turn: usize,
    count: u64,
) {
    // What is tried is sent only if tokio knows that it can be.
    if let Err(error) = socket.writable().await {
        state.demo.log(format_args!("socket {index}: cannot wait until it can be written: {error}"));
    }
    // Tried, not awaited: this costs nothing of tokio's budget. A send that fails leaves one fewer ahead.
    let feed = || drop(socket.try_send_to(b"again", own));
    (0..AHEAD).for_each(|_| feed());
    loop {
        for _ in 0..turn {
            if state.datagrams.load(Ordering::Relaxed) >= count {
                state.cooled.notify_one();
                return std::future::pending().await;
            }
            // What fails was never received: it counts for nothing, and nothing follows it.
            if socket.recv_from(&mut [0; 8]).await.is_ok() {
                state.datagrams.fetch_add(1, Ordering::Relaxed);
                state.received[index].fetch_add(1, Ordering::Relaxed);
                feed();
            }
        }
        yield_now().await;
    }
}
// endregion: hot
