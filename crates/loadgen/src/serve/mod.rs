//! `loadgen serve`: the misbehaving target, so that every claim can be tried on one machine.
//!
//! What it does to a request is decided by [`model`], as a function of the time since the first request. A stall is
//! real all the same: the only thread stands still, so that sockets and their backlogs fill as they would.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use echo_service::{LAST_CALL, Signals, errno_name, next_step, print_line, print_to_stderr, reachable};
use serde::Serialize;
use tokio::sync::watch;

use self::agenda::Agenda;
use self::model::{Behaviour, Fate, ReplyFaults, Service, SingleServer, Stalls, TokenBucket};
use crate::exit::{EXIT_OK, WrongUsage};
use crate::schedule::Rate;
use crate::units::Span;

mod agenda;
mod http;
pub mod model;
mod tcp;
mod udp;

/// The name in front of every line.
const PROGRAM: &str = "loadgen";

/// The body of an answer, and the line of a TCP server.
const ANSWER: &str = "ok\n";

/// What the target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServeKind {
    /// HTTP/1.1: every request is answered with 200 and a short body
    Http,
    /// A UDP echo
    Udp,
    /// One line for each connection, then the end of the file
    Tcp,
}

/// Flags of `loadgen serve`.
#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    /// What the target speaks
    pub kind: ServeKind,
    /// IP:PORT to listen on, `[::1]:2000` too; port 0 lets the kernel choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:2000", value_parser = echo_service::parse_address)]
    pub addr: SocketAddr,
    /// Answer each request this much later; requests do not wait for each other
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = duration)]
    pub delay: Duration,
    /// A single server with a queue: MU requests a second, each takes the same time (M/D/1 under Poisson arrivals)
    #[arg(long, value_name = "MU", conflicts_with = "mm1")]
    pub md1: Option<Rate>,
    /// A single server with a queue: MU requests a second on average, exponential service times (M/M/1)
    #[arg(long, value_name = "MU")]
    pub mm1: Option<Rate>,
    /// A token bucket: requests wait for a token; with `,reject` those without one are refused: 429 (http), no reply
    /// (udp), closed without a line (tcp)
    #[arg(long, value_name = "RATE,BURST[,reject]", value_parser = parse_bucket)]
    pub bucket: Option<Bucket>,
    /// Stand still for this long: once, or every --every
    #[arg(long, value_name = "DUR", value_parser = positive)]
    pub stall: Option<Duration>,
    /// From the start of one stall to the start of the next
    #[arg(long, value_name = "DUR", value_parser = positive, requires = "stall")]
    pub every: Option<Duration>,
    /// Start of the first stall, from the first request [default: half of --every, or 6s for a single stall]
    #[arg(long, value_name = "DUR", requires = "stall", value_parser = duration)]
    pub stall_at: Option<Duration>,
    /// Never answer again from this long after the first request on; connections stay open
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub dead_after: Option<Duration>,
    /// Drop each K-th reply (udp)
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub drop_every: Option<u64>,
    /// Send each M-th of the replies that are not dropped twice (udp)
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    pub dup_every: Option<u64>,
    /// Seed of the exponential service times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Connections that may wait to be accepted (http, tcp); the kernel grants no more than net.core.somaxconn
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u16).range(1..))]
    pub backlog: u16,
    /// Permit an ADDR that is not loopback
    #[arg(long)]
    pub allow_remote: bool,
    /// Announce user-space events as writes that fail, to be seen in strace
    #[arg(long)]
    pub marks: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
    /// One line on stderr for each event
    #[arg(short, long)]
    pub verbose: bool,
}

/// The value of `--bucket`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Tokens a second.
    pub rate: f64,
    /// Tokens held at most.
    pub burst: u64,
    /// Refuse instead of waiting.
    pub reject: bool,
}

impl ServeArgs {
    /// What holds between several flags; a sentence if something does not.
    fn check(&self) -> Result<(), String> {
        if !self.allow_remote && !echo_service::is_loopback(self.addr) {
            return Err(format!(
                "{} is not a loopback address; other hosts could reach this target: listen on 127.0.0.1, or add \
                 --allow-remote",
                self.addr
            ));
        }
        if let (Some(stall), Some(every)) = (self.stall, self.every)
            && every <= stall
        {
            return Err(format!(
                "--every {every:?} must be longer than --stall {stall:?}: choose a longer one"
            ));
        }
        if self.kind != ServeKind::Udp && (self.drop_every.is_some() || self.dup_every.is_some()) {
            return Err(
                "--drop-every and --dup-every are for udp, where replies can be lost: leave them out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn behaviour(&self) -> Behaviour {
        let service = |mu: Rate| Duration::from_secs_f64(1.0 / mu.per_second());
        let server = (self.md1.map(service).map(Service::Fixed))
            .or_else(|| self.mm1.map(service).map(Service::Exponential))
            .map(|service| SingleServer::new(service, self.seed));
        let stalls = self.stall.map(|length| Stalls {
            first: self.stall_at.or(self.every.map(|every| every / 2)).unwrap_or(Duration::from_secs(6)),
            length,
            every: self.every,
        });
        let bucket = self.bucket.map(|bucket| TokenBucket::new(bucket.rate, bucket.burst, bucket.reject));
        Behaviour { stalls, bucket, server, delay: self.delay, dead_after: self.dead_after }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map(Span::duration)
}

fn positive(text: &str) -> Result<Duration, String> {
    Span::above_zero(text).map(Span::duration)
}

fn parse_bucket(text: &str) -> Result<Bucket, String> {
    let form = "write RATE,BURST or RATE,BURST,reject, as in 1000,10";
    let parts: Vec<_> = text.split(',').collect();
    let (rate, burst, reject) = match parts[..] {
        [rate, burst] => (rate, burst, false),
        [rate, burst, "reject"] => (rate, burst, true),
        _ => return Err(form.to_owned()),
    };
    match burst.parse() {
        Ok(burst) if (1..=1_000_000_000).contains(&burst) => {
            Ok(Bucket { rate: rate.parse::<Rate>().map_err(|e| e.to_string())?.per_second(), burst, reject })
        }
        _ => Err(format!("the burst is a whole number from 1 to 1000000000: {form}")),
    }
}

/// What happened. `received = answered + rejected + sum(refused) + dropped + queue_dropped + sum(send_errors) +
/// unanswered`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    program: &'static str,
    /// http, udp or tcp.
    serves: String,
    address: String,
    seconds: f64,
    /// Connections accepted (http, tcp).
    connections: u64,
    /// Requests; for tcp each connection is one.
    received: u64,
    /// Requests that got their answer.
    answered: u64,
    /// Requests refused for want of a token.
    rejected: u64,
    /// Replies dropped by --drop-every.
    dropped: u64,
    /// Replies sent a second time by --dup-every, beside the first.
    duplicated: u64,
    /// Datagrams that the loop guard refused, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Datagrams for which too many replies were waiting already.
    queue_dropped: u64,
    /// Requests that got no answer: the target was dead, or it ended, or the client went away first.
    unanswered: u64,
    /// Replies that could not be sent, by the error's name.
    send_errors: BTreeMap<String, u64>,
    /// Receives and accepts that failed, by the error's name.
    receive_errors: BTreeMap<String, u64>,
    /// What the socket's receive buffer had no room for (udp); null where the kernel does not tell.
    kernel_dropped: Option<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PROGRAM}: served {} on {} for {:.1} s: received {}, answered {}, rejected {}, unanswered {}",
            self.serves,
            self.address,
            self.seconds,
            self.received,
            self.answered,
            self.rejected,
            self.unanswered
        )?;
        for (name, count) in [
            ("connections", self.connections),
            ("dropped", self.dropped),
            ("duplicated", self.duplicated),
            ("refused by the guard", self.refused.values().sum()),
            ("dropped for too long a queue", self.queue_dropped),
            ("send errors", self.send_errors.values().sum()),
            ("receive errors", self.receive_errors.values().sum()),
            ("dropped by the kernel", self.kernel_dropped.unwrap_or(0)),
        ] {
            if count > 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        Ok(())
    }
}

/// What becomes of a request, in the time of this process.
enum Verdict {
    /// Answer at this time.
    Answer(Instant),
    /// Refuse now.
    Reject,
    /// Never answer.
    Silence,
}

/// What the tasks of a target share; they all run on one thread.
struct Target {
    address: SocketAddr,
    verbose: bool,
    /// When the first request came; tells the stalls that time has begun.
    started: watch::Sender<Option<Instant>>,
    behaviour: RefCell<Behaviour>,
    faults: RefCell<ReplyFaults>,
    agenda: Agenda,
    summary: RefCell<Summary>,
    /// When a refusal by the guard was last logged.
    logged: Cell<Option<Instant>>,
}

impl Target {
    /// Counts a request that has come now and decides about it.
    fn receive(&self, from: SocketAddr) -> Verdict {
        let now = Instant::now();
        let start = match *self.started.borrow() {
            Some(start) => start,
            None => now,
        };
        self.started.send_if_modified(|started| started.replace(start).is_none());
        self.summary.borrow_mut().received += 1;
        let fate = self.behaviour.borrow_mut().fate(now - start);
        if self.verbose {
            self.log(format_args!("recv from {from}: {fate:?}"));
        }
        match fate {
            Fate::Answer(due) => Verdict::Answer(start + due),
            Fate::Reject => {
                self.summary.borrow_mut().rejected += 1;
                Verdict::Reject
            }
            Fate::Silence => Verdict::Silence,
        }
    }

    /// Counts an answer.
    fn answered(&self, to: SocketAddr) {
        self.summary.borrow_mut().answered += 1;
        if self.verbose {
            self.log(format_args!("sent to {to}"));
        }
    }

    /// Counts a reply that could not be sent.
    fn send_failed(&self, error: &io::Error) {
        *self.summary.borrow_mut().send_errors.entry(errno_name(error)).or_default() += 1;
        if self.verbose {
            self.log(format_args!("drop: the send failed: {error}"));
        }
    }

    /// Counts a receive or an accept that failed.
    fn receive_failed(&self, error: &io::Error) {
        *self.summary.borrow_mut().receive_errors.entry(errno_name(error)).or_default() += 1;
        if self.verbose {
            self.log(format_args!("the receive failed: {error}"));
        }
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        print_to_stderr(PROGRAM, line);
    }

    /// Stands still, really, at each stall's time.
    async fn stall(&self, signals: &Signals) {
        let Some(stalls) = self.behaviour.borrow().stalls else { return };
        let mut started = self.started.subscribe();
        let start = match started.wait_for(Option::is_some).await {
            Ok(start) => start.unwrap_or_else(Instant::now),
            Err(_) => return,
        };
        // The first stall may be due with the very first request.
        let mut next = Some(stalls.first);
        while let Some(at) = next {
            self.agenda.until(start + at).await;
            let end = start + at + stalls.length;
            if self.verbose {
                self.log(format_args!("stall for {:?}", stalls.length));
            }
            // Everything waits, except for a signal.
            while !signals.received() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(Duration::from_millis(10)));
            }
            next = stalls.next_after(at);
        }
    }
}

/// Waits for the next accept after one that failed: at once, or longer and longer when descriptors or memory have
/// run out, since the next would fail as fast.
async fn back_off(error: &io::Error, pause: &mut Duration) {
    use nix::errno::Errno;
    let exhausted = error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM));
    if exhausted {
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(Duration::from_secs(1));
    }
}

/// The first pause of [`back_off`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// `loadgen serve`: runs until a signal ends it, and returns the exit code.
///
/// # Errors
///
/// The address cannot be bound, or the runtime or the signals cannot be set up.
pub fn run(args: &ServeArgs) -> anyhow::Result<u8> {
    args.check().map_err(WrongUsage)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(args))
}

/// The bound socket of either kind.
enum Socket {
    Http(tokio::net::TcpListener),
    Udp(tokio::net::UdpSocket),
    Tcp(tokio::net::TcpListener),
}

impl Socket {
    async fn bind(kind: ServeKind, wanted: SocketAddr, backlog: u16) -> io::Result<Self> {
        let listen = || {
            let socket = match wanted {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            }?;
            // As `TcpListener::bind` does: the port of a target that has just ended can be had at once.
            socket.set_reuseaddr(true)?;
            socket.bind(wanted)?;
            socket.listen(backlog.into())
        };
        Ok(match kind {
            ServeKind::Http => Self::Http(listen()?),
            ServeKind::Udp => Self::Udp(tokio::net::UdpSocket::bind(wanted).await?),
            ServeKind::Tcp => Self::Tcp(listen()?),
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Http(listener) | Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

async fn serve(args: &ServeArgs) -> anyhow::Result<u8> {
    let wanted = args.addr;
    let cannot =
        |error: io::Error| anyhow::anyhow!("cannot listen on {wanted}: {}", next_step(&error, wanted));
    let socket = Socket::bind(args.kind, wanted, args.backlog).await.map_err(cannot)?;
    let address = socket.address().map_err(cannot)?;
    let signals = Signals::take().context("cannot take SIGINT and SIGTERM")?;
    if args.marks {
        trace_marks::turn_on().context("cannot open /dev/null for --marks")?;
    }
    let target = Rc::new(Target {
        address,
        verbose: args.verbose,
        started: watch::Sender::new(None),
        behaviour: RefCell::new(args.behaviour()),
        faults: RefCell::new(ReplyFaults::new(args.drop_every, args.dup_every)),
        agenda: Agenda::new().context("cannot make a timer")?,
        summary: RefCell::default(),
        logged: Cell::default(),
    });
    let pipe = (signals.readable().try_clone_to_owned())
        .and_then(tokio::net::unix::pipe::Receiver::from_owned_fd)
        .context("cannot wait for signals")?;

    if !echo_service::is_loopback(address) {
        print_to_stderr(
            PROGRAM,
            format_args!("warning: {address} is not loopback; other hosts can reach this target"),
        );
    }
    let (ip, port) = (reachable(address).ip(), address.port());
    let hint = match args.kind {
        ServeKind::Http => format!("curl http://{}/", reachable(address)),
        ServeKind::Udp => format!("nc -u {ip} {port}"),
        ServeKind::Tcp => format!("nc {ip} {port}"),
    };
    print_line(format_args!("{PROGRAM}: listening on {address}  (try: {hint})"));
    trace_marks::mark("ready");
    let begun = Instant::now();

    let (stop, stopped) = watch::channel(false);
    let mut serving = std::pin::pin!(async {
        match socket {
            Socket::Http(listener) => http::serve(&target, listener, stopped).await,
            Socket::Udp(socket) => udp::serve(&target, socket, stopped).await,
            Socket::Tcp(listener) => tcp::serve(&target, listener, stopped).await,
        }
    });
    let mut agenda = std::pin::pin!(target.agenda.run());
    let mut stalling = std::pin::pin!(async {
        target.stall(&signals).await;
        std::future::pending::<()>().await;
    });
    tokio::select! {
        // The error is the I/O driver's end, and this program's own.
        _ = pipe.readable() => {}
        outcome = &mut agenda => outcome.context("the timer failed")?,
        () = &mut serving => {}
        () = &mut stalling => {}
    }
    trace_marks::mark("shutdown");
    // Nobody listens any more when the server has come to its own end.
    let _ = stop.send(true);
    tokio::select! {
        () = &mut serving => {}
        _ = &mut agenda => {}
        () = tokio::time::sleep(LAST_CALL) => {}
    }

    let mut summary = target.summary.take();
    summary.program = PROGRAM;
    summary.serves = args.kind.to_possible_value().map(|kind| kind.get_name().to_owned()).unwrap_or_default();
    summary.address = address.to_string();
    summary.seconds = begun.elapsed().as_secs_f64();
    summary.unanswered = summary.received
        - summary.answered
        - summary.rejected
        - summary.dropped
        - summary.queue_dropped
        - summary.refused.values().sum::<u64>()
        - summary.send_errors.values().sum::<u64>();
    if args.json {
        print_line(serde_json::to_string(&summary)?);
    } else {
        print_line(summary);
    }
    Ok(EXIT_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_buckets_are_read() {
        let rate = |text: &str| text.parse().map(Rate::per_second);
        assert_eq!(rate("1000"), Ok(1000.0));
        assert_eq!((rate("2k"), rate("1.5e3")), (Ok(2000.0), Ok(1500.0)));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(rate("600/m"), Ok(10.0));
        for wrong in ["0", "-1", "nan", "inf", "", "fast", "10/y", "1e12"] {
            assert!(rate(wrong).is_err(), "{wrong:?} passed");
        }
        assert_eq!(parse_bucket("1000,10"), Ok(Bucket { rate: 1000.0, burst: 10, reject: false }));
        assert_eq!(parse_bucket("1000,1,reject"), Ok(Bucket { rate: 1000.0, burst: 1, reject: true }));
        for wrong in ["1000", "1000,0", "1000,-1", "0,1", "1000,1,drop", "1000,1,reject,", ""] {
            assert!(parse_bucket(wrong).is_err(), "{wrong:?} passed");
        }
    }
}
