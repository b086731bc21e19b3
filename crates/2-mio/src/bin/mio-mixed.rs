//! mio-mixed: one poll for the system's events and for the program's own.
//!
//! New here: a `Waker`, one more token in the same wait; what it announces lies in a queue of ours.
//! Run:      cargo run --bin mio-mixed
//! Poke:     nc -u 127.0.0.1 2000
//!           (or let it poke itself: mio-mixed --period 200ms --poke 2)
//! Watch:    strace -f -e trace=eventfd2,epoll_wait,recvfrom,write target/debug/mio-mixed
//! Expect:   a datagram: epoll_wait, recvfrom, recvfrom = EAGAIN; a tick: write by the timer's thread, epoll_wait
//! Still wrong: the wake is written whether or not anybody sleeps (next: mio-pipe).

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{self, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use echo_service::demo::{self, Demo};
use echo_service::{Signals, parse_duration};
use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use serde::Serialize;
use trace_marks::mark;

/// What mio hands back with an event, to say whose it is.
const SOCKET: Token = Token(0);
const TIMER: Token = Token(1);
const SIGNALS: Token = Token(2);

/// Datagrams read before the other tokens are looked at.
const BUDGET: usize = 32;

#[derive(clap::Args)]
struct Flags {
    /// IP:PORT to listen on; port 0 lets the kernel choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:2000", value_parser = demo::parse_loopback)]
    address: SocketAddr,

    /// How often the timer's thread wakes the poll: 200ms, 3s, 1m; at most 1day
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    period: Duration,

    /// Poke itself: N datagrams, each just before a tick; then end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    poke: Option<u64>,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    address: SocketAddr,
    seconds: f64,
    /// Calls of `Poll::poll`.
    polls: u64,
    /// Datagrams received.
    datagrams: u64,
    /// Ticks of the timer's thread that were taken from the queue.
    ticks: u64,
    /// Events of the socket's token.
    socket_events: u64,
    /// Events of the waker's token: at most one a tick, fewer when ticks came together.
    timer_events: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: waited on {} for {:.1} s, in {} polls",
            self.program, self.address, self.seconds, self.polls
        )?;
        writeln!(
            f,
            "  datagrams  {} in {} events of token {}",
            self.datagrams, self.socket_events, SOCKET.0
        )?;
        write!(f, "  ticks      {} in {} events of token {}", self.ticks, self.timer_events, TIMER.0)
    }
}

fn main() -> ExitCode {
    let (demo, flags) = Demo::parse::<Flags>(
        env!("CARGO_BIN_NAME"),
        "One mio poll for datagrams and for the ticks of a thread",
    );
    let signals = demo.signals();
    let (socket, address) = demo.bind_udp(flags.address);
    let mut summary = Summary {
        program: demo.program(),
        address,
        seconds: 0.0,
        polls: 0,
        datagrams: 0,
        ticks: 0,
        socket_events: 0,
        timer_events: 0,
    };
    match run(&demo, socket, &signals, &flags, &mut summary) {
        Ok(()) => {
            summary.seconds = demo.seconds();
            demo.finish(&summary);
            ExitCode::SUCCESS
        }
        Err(error) => demo.fail_of(format_args!("cannot wait on {address}"), &error),
    }
}

/// Waits for the socket, the timer's thread and the signals, and prints what each of them brings.
fn run(
    demo: &Demo,
    socket: net::UdpSocket,
    signals: &Signals,
    &Flags { period, poke, .. }: &Flags,
    summary: &mut Summary,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut socket = UdpSocket::from_std(socket);
    // region: register
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
    // Not a registration but a handle, for any thread: an eventfd behind a token.
    let waker = Waker::new(poll.registry(), TIMER)?;
    poll.registry().register(&mut SourceFd(&signals.readable().as_raw_fd()), SIGNALS, Interest::READABLE)?;
    let (ticks, queue) = mpsc::channel();
    // endregion: register
    let (handled, acknowledged) = mpsc::channel();
    let from = match poke {
        Some(_) => {
            let (socket, _) = demo.bind_udp((summary.address.ip(), 0).into());
            socket.connect(summary.address)?;
            Some((socket, acknowledged))
        }
        None => {
            // Without a listener the channel stays empty.
            drop(acknowledged);
            None
        }
    };
    thread::Builder::new().name("timer".into()).spawn(move || tick(period, &ticks, &waker, from.as_ref()))?;
    let port = summary.address.port();
    demo.greet(format_args!(
        "listening on {}  (try: nc -u {} {port}; a tick every {})",
        summary.address,
        summary.address.ip(),
        humantime::format_duration(period)
    ));

    let mut events = Events::with_capacity(3);
    // There may be more to read: no edge will tell again of what is left over when the budget ends.
    let mut left_over = false;
    // region: wait
    loop {
        demo.log("wait");
        summary.polls += 1;
        match poll.poll(&mut events, left_over.then_some(Duration::ZERO)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if left_over {
            left_over = receive(demo, &socket, summary);
        }
        for event in &events {
            match event.token() {
                SOCKET => {
                    summary.socket_events += 1;
                    left_over = receive(demo, &socket, summary);
                }
                TIMER => {
                    summary.timer_events += 1;
                    take_ticks(demo, &queue, summary);
                }
                _ => {
                    mark("shutdown");
                    return Ok(());
                }
            }
            // Only a poking thread listens.
            let _ = handled.send(());
        }
        if poke.is_some_and(|count| summary.datagrams >= count && summary.ticks >= count) {
            mark("shutdown");
            return Ok(());
        }
    }
    // endregion: wait
}

/// The timer's thread: puts a tick into the queue and wakes the poll, every `period`, until nobody is there.
/// Given a socket to poke with, it sends a datagram before each tick, and waits until each has been handled.
fn tick(period: Duration, queue: &Sender<u64>, waker: &Waker, poke: Option<&(net::UdpSocket, Receiver<()>)>) {
    let start = Instant::now();
    for number in 1.. {
        // From the start, not from the last tick: lateness does not add up.
        let next = start + period.saturating_mul(number);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        if let Some((socket, handled)) = poke
            && (socket.send(b"poke").is_err() || handled.recv().is_err())
        {
            return;
        }
        // The queue first: who is woken looks into it. An event says that there is something, not how much.
        if queue.send(number.into()).is_err() || waker.wake().is_err() {
            return;
        }
        if poke.is_some_and(|(_, handled)| handled.recv().is_err()) {
            return;
        }
    }
}

/// Empties the queue: two wakes before a poll are one event.
fn take_ticks(demo: &Demo, queue: &Receiver<u64>, summary: &mut Summary) {
    for number in queue.try_iter() {
        summary.ticks += 1;
        demo.say(format_args!("token {} (timer): tick {number}", TIMER.0));
    }
}

/// Reads until it would block or the budget is spent. Returns whether there may be more.
fn receive(demo: &Demo, socket: &UdpSocket, summary: &mut Summary) -> bool {
    let mut buffer = [0; 65_536];
    for _ in 0..BUDGET {
        match socket.recv_from(&mut buffer) {
            Ok((bytes, peer)) => {
                summary.datagrams += 1;
                demo.say(format_args!("token {} (socket): {bytes} bytes from {peer}", SOCKET.0));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What the network causes is no reason to stop; the budget keeps it from spinning.
            Err(error) => demo.log(format_args!("the receive failed: {error}")),
        }
    }
    true
}
