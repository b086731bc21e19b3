//! tokio-readiness: a receive made behind tokio's back, and a wait that then never waits.
//!
//! Symptom:  `readable().await` returns at once again and again, each receive fails with EAGAIN, and a core is at 100 %
//! New here: tokio takes a socket for ready until a call that it knows of has met EAGAIN
//! Run:      cargo run --bin tokio-readiness      (or some of: by-hand, fd-by-hand, try-io, try-recv, async-io, fd-try-io)
//! Watch:    strace -c -e trace=recvfrom,epoll_wait target/debug/tokio-readiness by-hand
//! Expect:   by-hand: as many EAGAIN as --give-up allows, and no tick of the neighbour; try-io and the like: one EAGAIN
//! Still wrong: a reader that keeps up may still get more than it can serve (next: tokio-outstanding)

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{self, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::{parse_count, parse_duration};
use nix::sys::socket::{MsgFlags, recv};
use serde::Serialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::time::interval;
use trace_marks::{Markable, mark};

/// How many datagrams are there to be received.
const BURST: usize = 8;

#[derive(clap::Args)]
struct Flags {
    /// How the reader receives [default: all]
    #[arg(value_name = "WAY")]
    ways: Vec<Way>,

    /// After how many EAGAIN the reader gives up, 1 to 1000000000
    #[arg(long, value_name = "N", default_value = "100000", value_parser = parse_count::<1_000_000_000>)]
    give_up: usize,

    /// How many ticks the neighbour waits for, 1 to 100000
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_count::<100_000>)]
    ticks: usize,

    /// How often the neighbour ticks: 1ms, 1s, at most 1day
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = parse_duration)]
    period: Duration,

    /// How many workers, 1 to 64; with 1 the runtime is a current-thread one
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count::<64>)]
    workers: usize,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Wrong: wait with tokio, receive without it
    ByHand,
    /// Wrong in the same way, with `AsyncFd`
    FdByHand,
    /// Receive in `UdpSocket::try_io`
    TryIo,
    /// Receive with `UdpSocket::try_recv`
    TryRecv,
    /// Wait and receive in `UdpSocket::async_io`
    AsyncIo,
    /// Receive in `AsyncFdReadyGuard::try_io`
    FdTryIo,
}

/// What one way has shown.
#[derive(Serialize)]
struct Outcome {
    way: Way,
    datagrams: u64,
    /// Receives that failed with EAGAIN.
    would_block: u64,
    /// Whether the reader gave up.
    gave_up: bool,
    /// Ticks of the neighbour between the first EAGAIN and the end.
    ticks: u64,
    wanted: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, datagrams, would_block, gave_up, ticks, wanted } = self;
        let way = way.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let end = if *gave_up { ", then it gave up" } else { "" };
        write!(
            f,
            "{way:<10}  {datagrams} datagrams, {would_block} EAGAIN{end}; the neighbour ticked {ticks} of {wanted} times"
        )
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    workers: usize,
    outcomes: Vec<Outcome>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: u64 = self.outcomes.iter().map(|outcome| outcome.would_block).sum();
        write!(f, "{}: {} readers met {sum} EAGAIN in all", self.program, self.outcomes.len())
    }
}

/// What reader and neighbour have counted so far.
struct Counts {
    give_up: u64,
    ticks_wanted: u64,
    datagrams: AtomicU64,
    would_block: AtomicU64,
    gave_up: AtomicBool,
    ticks: AtomicU64,
}

impl Counts {
    /// Counts what a receive has returned, and passes it on.
    fn count(&self, received: io::Result<usize>) -> io::Result<usize> {
        match &received {
            Ok(_) => _ = self.datagrams.fetch_add(1, Ordering::SeqCst),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let so_far = self.would_block.fetch_add(1, Ordering::SeqCst) + 1;
                self.gave_up.store(so_far >= self.give_up, Ordering::SeqCst);
            }
            Err(_) => {}
        }
        received
    }

    /// Calls `receive` until the socket is empty.
    fn drain(&self, mut receive: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
        loop {
            match self.count(receive()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::SeqCst)
    }
}

fn main() -> ExitCode {
    let about = "Receives behind tokio's back: a wait that never waits, and five ways that tell tokio";
    let (demo, Flags { mut ways, give_up, ticks, period, workers }) =
        Demo::parse(env!("CARGO_BIN_NAME"), about);
    if ways.is_empty() {
        ways = Way::value_variants().to_vec();
    }
    mark("ready");
    let mut summary = Summary { program: demo.program(), workers, outcomes: Vec::new() };
    for way in ways {
        let runtime = demo.start_runtime(|| match workers {
            1 => Builder::new_current_thread().enable_all().build(),
            _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
        });
        match observe(&runtime, way, give_up, ticks, period) {
            Ok(outcome) => {
                demo.say(&outcome);
                summary.outcomes.push(outcome);
            }
            Err(error) => demo.fail_of("cannot receive", &error),
        }
    }
    demo.finish(&summary);
    ExitCode::SUCCESS
}

/// Lets a reader receive a burst in `way`, with a neighbour that ticks. Ends when the neighbour has ticked often
/// enough, or the reader has given up.
fn observe(
    runtime: &Runtime,
    way: Way,
    give_up: usize,
    ticks: usize,
    period: Duration,
) -> io::Result<Outcome> {
    let local: SocketAddr = ([127, 0, 0, 1], 0).into();
    let (socket, client) = (net::UdpSocket::bind(local)?, net::UdpSocket::bind(local)?);
    socket.set_nonblocking(true)?;
    for _ in 0..BURST {
        client.send_to(b"hello", socket.local_addr()?)?;
    }
    let counts = Arc::new(Counts {
        give_up: give_up as u64,
        ticks_wanted: ticks as u64,
        datagrams: AtomicU64::new(0),
        would_block: AtomicU64::new(0),
        gave_up: AtomicBool::new(false),
        ticks: AtomicU64::new(0),
    });
    runtime.block_on(async {
        let neighbour = tokio::spawn(neighbour(period, Arc::clone(&counts)).marked("neighbour"));
        let reader = tokio::spawn(read(socket, way, Arc::clone(&counts)).marked("reader"));
        tokio::select! {
            ended = reader => ended?,
            ended = neighbour => Ok(ended?),
        }
    })?;
    Ok(Outcome {
        way,
        datagrams: counts.datagrams.load(Ordering::SeqCst),
        would_block: counts.would_block.load(Ordering::SeqCst),
        gave_up: counts.gave_up(),
        ticks: counts.ticks.load(Ordering::SeqCst),
        wanted: ticks,
    })
}

/// Ticks each `period`. Counts its ticks from the first EAGAIN of the reader on.
async fn neighbour(period: Duration, counts: Arc<Counts>) {
    let mut interval = interval(period);
    while counts.ticks.load(Ordering::SeqCst) < counts.ticks_wanted {
        interval.tick().await;
        if counts.would_block.load(Ordering::SeqCst) > 0 && !counts.gave_up() {
            counts.ticks.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The reader. It ends only when it gives up.
async fn read(socket: net::UdpSocket, way: Way, counts: Arc<Counts>) -> io::Result<()> {
    match way {
        Way::FdByHand | Way::FdTryIo => {
            // Its successor `register` is unsafe, since a type of one's own may lie about its descriptor. std's do not.
            #[expect(deprecated)]
            let socket = AsyncFd::new(socket)?;
            read_descriptor(socket, way, &counts).await
        }
        _ => read_socket(UdpSocket::from_std(socket)?, way, &counts).await,
    }
}

/// One recv(2), of which tokio knows nothing.
fn receive(socket: &impl AsRawFd) -> io::Result<usize> {
    Ok(recv(socket.as_raw_fd(), &mut [0; 16], MsgFlags::empty())?)
}

// region: socket
async fn read_socket(socket: UdpSocket, way: Way, counts: &Counts) -> io::Result<()> {
    while !counts.gave_up() {
        match way {
            Way::TryIo => {
                socket.readable().await?;
                counts.drain(|| socket.try_io(Interest::READABLE, || receive(&socket)))?;
            }
            Way::TryRecv => {
                socket.readable().await?;
                counts.drain(|| socket.try_recv(&mut [0; 16]))?;
            }
            Way::AsyncIo => {
                // It waits as well, and returns with a datagram.
                socket.async_io(Interest::READABLE, || counts.count(receive(&socket))).await?;
            }
            _ => {
                socket.readable().await?;
                // Wrong on purpose: tokio does not hear of the EAGAIN.
                counts.drain(|| receive(&socket))?;
            }
        }
    }
    Ok(())
}
// endregion: socket

// region: descriptor
async fn read_descriptor(socket: AsyncFd<net::UdpSocket>, way: Way, counts: &Counts) -> io::Result<()> {
    while !counts.gave_up() {
        let mut guard = socket.readable().await?;
        match way {
            Way::FdTryIo => counts.drain(|| {
                let received = guard.try_io(|socket| receive(socket.get_ref()));
                // The guard has cleared the readiness then.
                received.unwrap_or_else(|_| Err(ErrorKind::WouldBlock.into()))
            })?,
            // Wrong on purpose: the guard does not hear of the EAGAIN.
            _ => counts.drain(|| receive(socket.get_ref()))?,
        }
    }
    Ok(())
}
// endregion: descriptor
