//! tokio-starve: one task always has something to do, and the other tasks of its thread wait.
//!
//! Symptom:  one tokio task starves the others; timers, heartbeats and Ctrl-C come late; what is coop; what does
//!           `unconstrained` do; `readable()` with `try_recv_from` or `try_io` charges no budget
//! New here: what tokio's budget of 128 operations is charged for, and what is free
//! Run:      cargo run --bin tokio-starve      (or ways: tokio-starve try-recv-from recv-from)
//! Watch:    cargo ladder timeline --alone tokio-starve recv-from --datagrams 300
//! Expect:   10,000 datagrams in a row let the neighbour have 78 turns by `recv_from`, one for each 128; none by
//!           `readable` and `try_recv_from`, and none inside `unconstrained`; 78 again by `async_io` or with
//!           `consume_budget`; 312 by a yield after each 32
//! Still wrong: a budget is one for the whole task: many futures in one task share it (see tokio-multisocket).

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::parse_count;
use nix::sys::socket::{MsgFlags, recv};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use tokio::task::{consume_budget, unconstrained, yield_now};
use trace_marks::{Markable, mark};

/// Datagrams that are on their way at once: so many that the socket never is empty.
const AHEAD: usize = 32;

#[derive(clap::Args)]
struct Flags {
    /// How the busy task receives [default: all ways]
    #[arg(value_name = "WAY")]
    ways: Vec<Way>,

    /// How many datagrams the busy task receives in a row, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "10000", value_parser = parse_count::<1_000_000>)]
    datagrams: usize,

    /// After how many datagrams the way `yield-now` yields, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_count::<1_000_000>)]
    every: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    /// recv_from().await
    RecvFrom,
    /// readable().await, then try_recv_from until the socket is empty
    TryRecvFrom,
    /// readable().await before each try_recv_from
    Readable,
    /// recv_from().await, inside unconstrained
    Unconstrained,
    /// async_io around a receive of our own
    AsyncIo,
    /// as try-recv-from, and consume_budget().await after each datagram
    ConsumeBudget,
    /// as try-recv-from, and yield_now().await after some of them
    YieldNow,
}

/// What one way let the neighbour do.
#[derive(Serialize)]
struct Turns {
    way: String,
    datagrams: usize,
    /// How often the neighbour was polled before the last of them was received.
    neighbour_polls: u64,
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, datagrams, neighbour_polls } = self;
        write!(f, "{way:<15} {datagrams} datagrams, neighbour polled {neighbour_polls} times meanwhile")
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    ways: Vec<Turns>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starved = self.ways.iter().filter(|turns| turns.neighbour_polls == 0).count();
        write!(f, "{}: the neighbour starved in {starved} of {} ways", self.program, self.ways.len())
    }
}

fn main() -> ExitCode {
    let about = "A task whose socket is never empty, and how often the other task of its thread is polled";
    let (demo, mut flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    if flags.ways.is_empty() {
        flags.ways = Way::value_variants().to_vec();
    }
    let mut ways = Vec::new();
    for &way in &flags.ways {
        let name = way.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let runtime = demo.start_runtime(|| Builder::new_current_thread().enable_all().build());
        match runtime.block_on(turns(way, &flags)) {
            Ok(neighbour_polls) => {
                let turns = Turns { way: name, datagrams: flags.datagrams, neighbour_polls };
                demo.say(&turns);
                ways.push(turns);
            }
            Err(error) => demo.fail_of("the socket cannot send to itself", &error),
        }
    }
    demo.finish(&Summary { program: demo.program(), ways });
    ExitCode::SUCCESS
}

// region: neighbour
/// Two tasks of one thread. Returns how often the neighbour was polled while the busy one received.
async fn turns(way: Way, flags: &Flags) -> io::Result<u64> {
    let polls = Arc::new(AtomicU64::new(0));
    let flow = Flow::start(flags.datagrams, Arc::clone(&polls)).await?;
    mark("ready");
    // Spawned first, and so polled first.
    let busy = tokio::spawn(receive(way, flow, flags.every).marked("busy"));
    // All that it wants is a turn, again and again.
    let neighbour = async move {
        loop {
            polls.fetch_add(1, Relaxed);
            yield_now().await;
        }
    };
    tokio::spawn(neighbour.marked("neighbour"));
    busy.await.map_err(io::Error::other)?
}
// endregion: neighbour

/// A socket that sends to itself, so that it is never empty, however busy the machine is.
struct Flow {
    socket: UdpSocket,
    own: SocketAddr,
    received: usize,
    datagrams: usize,
    polls: Arc<AtomicU64>,
}

impl Flow {
    /// Makes a socket of which tokio knows that it can be read and written.
    async fn start(datagrams: usize, polls: Arc<AtomicU64>) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own = socket.local_addr()?;
        for _ in 0..AHEAD {
            socket.send_to(b"again", own).await?;
        }
        socket.readable().await?;
        Ok(Self { socket, own, received: 0, datagrams, polls })
    }

    /// A datagram was received, and another one takes its place.
    fn count(&mut self) -> io::Result<()> {
        self.received += 1;
        // Tried, not awaited: this is free of tokio's budget.
        self.socket.try_send_to(b"again", self.own)?;
        Ok(())
    }
}

// region: ways
/// Receives, and never finds the socket empty. Returns how often the neighbour was polled meanwhile.
async fn receive(way: Way, mut flow: Flow, every: usize) -> io::Result<u64> {
    let mut buffer = [0; 64];
    while flow.received < flow.datagrams {
        let socket = &flow.socket;
        match way {
            Way::RecvFrom => drop(socket.recv_from(&mut buffer).await?),
            Way::TryRecvFrom => wait_and_try(socket).await?,
            Way::Readable => {
                socket.readable().await?;
                wait_and_try(socket).await?;
            }
            Way::Unconstrained => drop(unconstrained(socket.recv_from(&mut buffer)).await?),
            Way::AsyncIo => {
                let receive = || Ok(recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?);
                socket.async_io(Interest::READABLE, receive).await?;
            }
            Way::ConsumeBudget => {
                wait_and_try(socket).await?;
                consume_budget().await;
            }
            Way::YieldNow => {
                wait_and_try(socket).await?;
                if (flow.received + 1).is_multiple_of(every) {
                    yield_now().await;
                }
            }
        }
        flow.count()?;
    }
    Ok(flow.polls.load(Relaxed))
}

/// Receives one datagram; waits only when there is none.
async fn wait_and_try(socket: &UdpSocket) -> io::Result<()> {
    loop {
        match socket.try_recv_from(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.readable().await?,
            received => return received.map(drop),
        }
    }
}
// endregion: ways
