//! two-sockets: one client reads no echo; is the other still answered?
//!
//! New here: a second socket, which a blocked send keeps waiting.
//! Run:      cargo run --bin two-sockets -- --flip-flop        (or --threads, or neither: poll)
//! Watch:    strace -f -e trace=poll,recvfrom,sendto target/debug/two-sockets --flip-flop
//! Expect:   --flip-flop: a sendto that does not return, and no recvfrom of the other socket until it does
//! Still wrong: poll with queues answers both, and every rung from echo-select up is that loop (next: echo-blocking).

#[path = "two-sockets/servers.rs"]
mod servers;
#[path = "two-sockets/signal.rs"]
mod signal;

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use echo_service::demo::{self, Demo};
use echo_service::{explain, parse_count, parse_duration, print_to_stderr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::gettid;
use serde::Serialize;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// One thread that waits for both sockets, and whose sends block
    #[arg(long, conflicts_with_all = ["threads", "signal"])]
    flip_flop: bool,

    /// A thread for each socket, which receives and sends, and blocks in both
    #[arg(long, conflicts_with = "signal")]
    threads: bool,

    /// Instead: how long a SIGINT waits for a program that is blocked in a send, and for one that waits in poll
    #[arg(long)]
    signal: bool,

    /// How many pings the quick client sends while the slow one does not read, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "20", value_parser = parse_count::<1_000_000>)]
    pings: usize,

    /// How long to wait for what may never come: 200ms, 3s, 1m; at most 1day
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    patience: Duration,
}

/// How the server waits.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Server {
    Poll,
    FlipFlop,
    Threads,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poll => "one thread, which waits in poll and never blocks in a send",
            Self::FlipFlop => "one thread, which waits in poll and may block in a send",
            Self::Threads => "a thread for each socket, which may block in a send",
        })
    }
}

#[derive(Serialize)]
struct Summary {
    program: &'static str,
    server: Server,
    /// Datagrams that the slow client could send before the server took no more.
    taken: usize,
    /// The quick client's pings meanwhile, the last of which may have no answer.
    meanwhile: Pings,
    /// Its pings after the slow client had read its echoes, one that still had no answer among them.
    afterwards: Pings,
}

#[derive(Clone, Copy, Serialize)]
struct Pings {
    sent: usize,
    answered: usize,
}

impl fmt::Display for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pings answered", self.answered, self.sent)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, meanwhile, afterwards, .. } = self;
        write!(f, "{program}: {meanwhile} while the slow client did not read, {afterwards} afterwards")
    }
}

fn main() -> ExitCode {
    let about = "One client reads no echo; is the other still answered?";
    let (demo, flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    mark("ready");
    let outcome = if flags.signal {
        signal::run(&demo, flags.patience).map(|summary| demo.finish(&summary))
    } else {
        run(&demo, &flags).map(|summary| demo.finish(&summary))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => demo.fail_of("a socket failed", &error),
    }
}

/// Two connected sockets, client and server, in blocking mode.
///
/// Unix datagrams block where UDP on loopback drops: in the send, until the other side has read. Their send
/// buffers are the smallest that the kernel gives, so that this comes soon.
fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
    let (client, server) = UnixDatagram::pair()?;
    for socket in [&client, &server] {
        setsockopt(socket, sockopt::SndBuf, &1)?;
    }
    Ok((client, server))
}

fn run(demo: &Demo, flags: &Flags) -> io::Result<Summary> {
    let (slow, slow_server) = pair()?;
    let (quick, quick_server) = pair()?;
    let server = match flags {
        Flags { flip_flop: true, .. } => Server::FlipFlop,
        Flags { threads: true, .. } => Server::Threads,
        _ => Server::Poll,
    };
    demo.say(format_args!("the server is {server}"));
    // The thread that serves the slow client.
    let serving = match server {
        Server::Poll => start(demo, || servers::poll_with_queues([slow_server, quick_server])),
        Server::FlipFlop => start(demo, || servers::flip_flop([slow_server, quick_server])),
        Server::Threads => {
            start(demo, || servers::alone(quick_server));
            start(demo, || servers::alone(slow_server))
        }
    };

    let taken = send_until_stuck(&slow, serving)?;
    mark("stuck");
    demo.say(format_args!(
        "the slow client has sent {taken} datagrams and read no echo: the server takes no more"
    ));

    quick.set_read_timeout(Some(flags.patience))?;
    let mut meanwhile = Pings { sent: 0, answered: 0 };
    while meanwhile.sent < flags.pings && meanwhile.sent == meanwhile.answered {
        quick.send(b"ping")?;
        meanwhile.sent += 1;
        meanwhile.answered += usize::from(is_answered(&quick)?);
    }
    demo.say(format_args!("the quick client: {meanwhile}"));

    slow.set_nonblocking(false)?;
    for _ in 0..taken {
        slow.recv(&mut [0; 16])?;
    }
    demo.say(format_args!("the slow client has read its {taken} echoes"));

    let late = meanwhile.sent - meanwhile.answered;
    let mut afterwards = Pings { sent: late + flags.pings, answered: 0 };
    for number in 0..afterwards.sent {
        if number >= late {
            quick.send(b"ping")?;
        }
        afterwards.answered += usize::from(is_answered(&quick)?);
    }
    demo.say(format_args!("the quick client: {afterwards}"));
    Ok(Summary { program: demo.program(), server, taken, meanwhile, afterwards })
}

/// Starts a thread that serves for as long as the program runs; returns the kernel's number of it.
fn start(demo: &Demo, serve: impl FnOnce() -> io::Result<()> + Send + 'static) -> i32 {
    let (started, thread) = mpsc::channel();
    let program = demo.program();
    demo.spawn(move || {
        // Its receiver waits for it.
        let _ = started.send(gettid().as_raw());
        if let Err(error) = serve() {
            print_to_stderr(program, format_args!("the server failed: {}", explain(&error)));
            std::process::exit(1);
        }
    });
    thread.recv().unwrap_or_else(|_| demo.fail("the server's thread has ended before it began"))
}

/// Sends until `server`, a thread, takes no more; returns how many datagrams that were.
fn send_until_stuck(client: &UnixDatagram, server: i32) -> io::Result<usize> {
    client.set_nonblocking(true)?;
    let (mut sent, mut slept) = (0, false);
    loop {
        match client.send(b"datagram") {
            Ok(_) => (sent, slept) = (sent + 1, false),
            // Its socket was full before it was seen asleep, and still is: it does not sleep for want of input.
            Err(error) if error.kind() == ErrorKind::WouldBlock && slept => return Ok(sent),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                slept = demo::is_asleep(server);
                thread::yield_now();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether an echo comes within the socket's timeout.
fn is_answered(client: &UnixDatagram) -> io::Result<bool> {
    match client.recv(&mut [0; 16]) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
