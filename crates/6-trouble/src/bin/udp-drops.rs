//! udp-drops: a UDP server is busy for a moment, its receive buffer fills, and the kernel drops what does not fit.
//!
//! Symptom:  my UDP server drops datagrams (SO_RCVBUF, rmem_max, RcvbufErrors, `ss -uanm`, `nstat`)
//! New here: how many datagrams a receive buffer holds, and the four places in which the kernel counts the others
//! Run:      cargo run --bin udp-drops          (cured: -- --receive-buffer 212992)
//! Watch:    cargo run --bin udp-drops -- --stay, and beside it: ss -uanm, nstat -az UdpRcvbufErrors
//! Expect:   the first of the burst are received, the others are dropped; none is, once the buffer holds the burst
//! Still wrong: a larger buffer does not help a server that is too slow (--overload); what arrives may also be answered
//! from the wrong address (next: udp-reply-address)

#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;

use echo_service::demo::Demo;
use echo_service::{ReceiveBuffer, parse_count, receive_buffer};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use serde::Serialize;
use trace_marks::mark;

/// The largest payload of a datagram over IPv4.
const LARGEST: usize = 65_507;

/// The largest buffer that may be asked for: the kernel doubles it, and holds it in an `int`.
const LARGEST_BUFFER: usize = (1 << 30) - 1;

#[derive(clap::Args)]
struct Flags {
    /// Ask for a receive buffer of so many bytes (SO_RCVBUF), at most 1073741823 [default: the kernel's]
    #[arg(long, value_name = "BYTES", value_parser = parse_count::<LARGEST_BUFFER>)]
    receive_buffer: Option<usize>,

    /// How many datagrams arrive while the server is busy, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "400", value_parser = parse_count::<1_000_000>)]
    burst: usize,

    /// The payload of a datagram, 8 to 65507 bytes
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = parse_size)]
    size: usize,

    /// Instead of a burst: the server receives all the time, one datagram for each two that arrive
    #[arg(long)]
    overload: bool,

    /// Wait for Ctrl-C before the server receives, to look at the socket from outside
    #[arg(long)]
    stay: bool,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    /// The receive buffer that was asked for, and the one that the kernel gave, in bytes.
    asked: Option<usize>,
    buffer: usize,
    /// What one datagram takes of it, in bytes; `null` where `/proc` does not tell.
    datagram_takes: Option<u64>,
    sent: usize,
    received: usize,
    /// How many arrived before the first that was lost; `null` if none was.
    before_the_first_loss: Option<usize>,
    /// Datagrams that arrived between one's arrival and its receive: the median of all that were received, and the most.
    behind_median: usize,
    behind_most: usize,
    /// What this socket dropped, from `/proc/net/udp`.
    dropped: Option<u64>,
    /// By how much `RcvbufErrors` grew, which counts all sockets of the network namespace.
    rcvbuf_errors: Option<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, sent, received, .. } = self;
        write!(f, "{program}: {sent} sent, {received} received, {} lost", sent - received)
    }
}

fn main() -> ExitCode {
    let about = "A UDP server is busy, its receive buffer fills, and the kernel drops what does not fit";
    let (demo, flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    match run(&demo, &flags) {
        Ok(summary) => demo.finish(&summary),
        Err(error) => demo.fail_of("a socket failed", &error),
    }
    ExitCode::SUCCESS
}

fn run(demo: &Demo, flags: &Flags) -> io::Result<Summary> {
    let (server, client) = sockets()?;
    if let Some(bytes) = flags.receive_buffer {
        setsockopt(&server, sockopt::RcvBuf, &bytes)?;
    }
    // The kernel gives less than was asked without an error: who wants to know, asks.
    let buffer = getsockopt(&server, sockopt::RcvBuf)?;
    let errors_before = rcvbuf_errors();
    let signals = flags.stay.then(|| demo.signals());
    mark("ready");
    let mut arrivals = Arrivals::default();
    for number in 0..flags.burst {
        send(&client, number, flags.size)?;
        arrivals.sent += 1;
        if flags.overload && number % 2 == 1 {
            arrivals.receive(&server)?;
        }
    }
    let held = receive_buffer(&server);
    if let Some(signals) = signals {
        let address = server.local_addr()?;
        let look = format_args!("look: ss -uanm 'sport = :{}'", address.port());
        demo.greet(format_args!("listening on {address}, and receiving nothing until Ctrl-C  ({look})"));
        signals.wait()?;
    }
    while arrivals.receive(&server)? {}
    let grown = |before| Some(rcvbuf_errors()? - before);
    let summary = Summary {
        program: demo.program(),
        asked: flags.receive_buffer,
        buffer,
        datagram_takes: one_takes(flags.size)?,
        sent: arrivals.sent,
        received: arrivals.behind.len(),
        before_the_first_loss: arrivals.first_gap(),
        behind_median: arrivals.behind_median(),
        behind_most: arrivals.behind.iter().copied().max().unwrap_or(0),
        dropped: held.map(|held| held.dropped),
        rcvbuf_errors: errors_before.and_then(grown),
    };
    tell(demo, flags, &summary);
    Ok(summary)
}

fn tell(demo: &Demo, flags: &Flags, summary: &Summary) {
    let Summary { buffer, sent, received, .. } = summary;
    let asked = flags.receive_buffer.map_or_else(|| "nothing".to_string(), |bytes| format!("{bytes} bytes"));
    demo.say(format_args!("asked for {asked}, the server has a receive buffer of {buffer} bytes"));
    if let Some(takes) = summary.datagram_takes {
        let fit = *buffer as u64 / takes;
        demo.say(format_args!("a datagram of {} bytes takes {takes} of them, so {fit} fit", flags.size));
    }
    if flags.overload {
        let Summary { behind_median, behind_most, .. } = summary;
        demo.say(format_args!("{sent} came; it received one for each two that came, {received} in all"));
        demo.say(format_args!(
            "newer ones that had come when it received one: {behind_median} in the median, at most {behind_most}"
        ));
    } else {
        demo.say(format_args!("{sent} came while it was busy; it received {received}"));
    }
    if let Some(first) = summary.before_the_first_loss {
        demo.say(format_args!("the first {first} were received, and the next one was lost"));
    }
    let Some((dropped, errors)) = summary.dropped.zip(summary.rcvbuf_errors) else {
        return demo
            .say("what the kernel dropped is unknown: /proc/net/udp or /proc/net/snmp cannot be read");
    };
    // The count of all sockets is not this program's alone, so it is not printed as a number of its own.
    let all = if errors >= dropped { "as many, or more" } else { "less" };
    demo.say(format_args!("the kernel counts {dropped} dropped by this socket, and {all} by all sockets"));
}

/// What the server has received.
#[derive(Default)]
struct Arrivals {
    sent: usize,
    numbers: Vec<usize>,
    /// Of each that was received: how many had been sent after it by then.
    behind: Vec<usize>,
}

impl Arrivals {
    // region: receive
    /// Receives one datagram, which carries its number; `false` when there is none.
    fn receive(&mut self, server: &UdpSocket) -> io::Result<bool> {
        let mut payload = [0; 8];
        match server.recv(&mut payload) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let number = u64::from_be_bytes(payload) as usize;
        self.numbers.push(number);
        self.behind.push(self.sent.saturating_sub(number + 1));
        Ok(true)
    }
    // endregion: receive

    /// How many arrived before the first that did not.
    fn first_gap(&self) -> Option<usize> {
        let unbroken = self.numbers.iter().enumerate().take_while(|(place, number)| place == *number).count();
        (unbroken < self.sent).then_some(unbroken)
    }

    fn behind_median(&self) -> usize {
        let mut sorted = self.behind.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

/// A server that does not wait, and a client that is connected to it.
fn sockets() -> io::Result<(UdpSocket, UdpSocket)> {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    server.set_nonblocking(true)?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.connect(server.local_addr()?)?;
    Ok((server, client))
}

/// Sends a datagram that begins with its number. On loopback it has arrived, or is lost, when the send returns.
fn send(client: &UdpSocket, number: usize, size: usize) -> io::Result<()> {
    let mut payload = vec![0; size];
    payload[..8].copy_from_slice(&(number as u64).to_be_bytes());
    client.send(&payload).map(|_| ())
}

/// What one datagram takes of a receive buffer, measured on a socket of its own.
fn one_takes(size: usize) -> io::Result<Option<u64>> {
    let (server, client) = sockets()?;
    send(&client, 0, size)?;
    Ok(receive_buffer(&server).map(|ReceiveBuffer { used, .. }| used))
}

/// `RcvbufErrors` of UDP, which `nstat` prints as `UdpRcvbufErrors`.
fn rcvbuf_errors() -> Option<u64> {
    let snmp = fs::read_to_string("/proc/net/snmp").ok()?;
    // Two lines: the names, and below them the numbers.
    let mut lines = snmp.lines().filter(|line| line.starts_with("Udp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "RcvbufErrors")?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

/// Reads the size of a payload, which holds a number of eight bytes.
fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 8..=LARGEST) => Ok(size),
        _ => Err(format!("must be a whole number from 8 to {LARGEST}")),
    }
}
