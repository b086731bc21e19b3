//! echo-double: a server that keeps the whole contract, or breaks it in one way that it is told.
//!
//! The contract's own tests hold it against the contract: without a fault every requirement has to hold, and
//! with one the requirement has to fail that is there for it. It shares no code with the rungs, so that a
//! mistake in theirs cannot hide in its own. The fault stands in the environment variable `ECHO_DOUBLE`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::process::exit;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};

const NAME: &str = "echo-double";
const LARGEST: usize = 65_507;

/// Whether it was told to have this fault.
fn broken(fault: &str) -> bool {
    static TOLD: OnceLock<Option<String>> = OnceLock::new();
    TOLD.get_or_init(|| std::env::var("ECHO_DOUBLE").ok()).as_deref() == Some(fault)
}

const HELP: &str = "\
Usage: echo-double [OPTIONS] [ADDR]

      [ADDR]               IP:PORT to listen on [default: 127.0.0.1:2000]
      --queue <N>          [default: 8]
      --on-full <POLICY>   backpressure, drop-newest, drop-oldest [default: backpressure]
      --max-size <BYTES>   [default: 65507]
      --budget <N>         [default: 32]
      --send-buffer <BYTES>     1 to 1073741823
      --receive-buffer <BYTES>  1 to 1073741823
      --count <N>
      --allow-remote
      --unguarded
      --marks
      --json
  -v, --verbose
  -h, --help
  -V, --version
";

struct Flags {
    address: SocketAddr,
    queue: usize,
    on_full: String,
    max_size: usize,
    budget: usize,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
    count: u64,
    allow_remote: bool,
    unguarded: bool,
    marks: bool,
    json: bool,
    verbose: bool,
}

fn usage(reason: String) -> ! {
    complain(&format!("{reason}\n\nUsage: echo-double [OPTIONS] [ADDR]"));
    exit(if broken("usage-is-status-1") { 1 } else { 2 })
}

/// A line on stderr, if it can be written.
fn complain(line: &str) {
    let _ = io::stderr().write_all(format!("{NAME}: {line}\n").as_bytes());
}

/// A line on stdout, if it can be written.
fn say(line: &str) {
    if broken("panics-without-stdout") {
        println!("{line}");
    }
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

impl Flags {
    fn parse() -> Self {
        let default = if broken("listens-elsewhere") { 2001 } else { 2000 };
        let mut flags = Self {
            address: SocketAddr::from(([127, 0, 0, 1], default)),
            queue: 8,
            on_full: "backpressure".to_owned(),
            max_size: LARGEST,
            budget: 32,
            send_buffer: None,
            receive_buffer: None,
            count: u64::MAX,
            allow_remote: false,
            unguarded: false,
            marks: false,
            json: false,
            verbose: false,
        };
        let (mut arguments, mut addresses) = (std::env::args().skip(1), 0);
        while let Some(argument) = arguments.next() {
            let (name, mut inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (argument, None),
            };
            let mut number = |least: usize, most: usize| -> usize {
                let text = inline.take().or_else(|| arguments.next()).unwrap_or_default();
                match text.parse() {
                    Ok(number) if (least..=most).contains(&number) => number,
                    _ => usage(format!("{name} {text}: not a number from {least} to {most}")),
                }
            };
            match name.as_str() {
                "--queue" => flags.queue = number(1, usize::MAX),
                "--max-size" => flags.max_size = number(0, LARGEST),
                "--budget" => flags.budget = number(1, usize::MAX),
                "--send-buffer" => flags.send_buffer = Some(number(1, i32::MAX as usize / 2)),
                "--receive-buffer" => flags.receive_buffer = Some(number(1, i32::MAX as usize / 2)),
                "--count" => flags.count = number(1, usize::MAX) as u64,
                "--on-full" => flags.on_full = arguments.next().unwrap_or_default(),
                "--allow-remote" => flags.allow_remote = true,
                "--unguarded" => flags.unguarded = !broken("ignores-unguarded"),
                "--marks" => flags.marks = true,
                "--json" => flags.json = true,
                "-v" | "--verbose" => flags.verbose = true,
                "-h" | "--help" => {
                    let help = if broken("help-is-short") {
                        HELP.replace("[default: 32]", "")
                    } else {
                        HELP.to_owned()
                    };
                    say(help.trim_end());
                    exit(0);
                }
                "-V" | "--version" => {
                    say(&format!("{NAME} {}", env!("CARGO_PKG_VERSION")));
                    exit(0);
                }
                other if other.starts_with('-') => usage(format!("{other}: no such flag")),
                address => {
                    addresses += 1;
                    // The one interface of which every network has the same number.
                    flags.address = match address.replace("%lo]", "%1]").parse() {
                        Ok(parsed) if addresses == 1 => parsed,
                        _ => usage(format!(
                            "{address:?} is no ADDR: try {}",
                            address.replace("localhost", "127.0.0.1")
                        )),
                    }
                }
            }
        }
        if !["backpressure", "drop-newest", "drop-oldest"].contains(&flags.on_full.as_str()) {
            usage(format!("--on-full {}: no such policy", flags.on_full));
        }
        if broken("takes-any-number") {
            drop(Vec::<u64>::with_capacity(flags.queue));
        }
        if flags.queue.saturating_mul(flags.max_size + 1) > 1 << 30 {
            usage("--queue times --max-size is more than 1 GiB".to_owned());
        }
        if !flags.allow_remote && !flags.address.ip().to_canonical().is_loopback() {
            usage(format!("{} is not loopback: add --allow-remote", flags.address));
        }
        flags
    }
}

/// Why a source is not answered.
fn refusal(source: SocketAddr, own: SocketAddr) -> Option<&'static str> {
    let unicast = match source.ip().to_canonical() {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && ip.octets()[0] != 0,
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    match source.port() {
        0 => Some("port_zero"),
        port if port == own.port() && source.ip().to_canonical() == own.ip().to_canonical() => Some("self"),
        port if port == own.port() => Some("same_port"),
        1..1024 => Some("low_port"),
        2000..=2009 => Some("project_port"),
        2010 if broken("refuses-2010") => Some("project_port"),
        _ if !unicast => Some("not_unicast"),
        _ => None,
    }
}

fn bind(flags: &Flags) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(flags.address), Type::DGRAM, None)?;
    if broken("takes-joined-for-one") {
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    }
    socket.set_reuse_address(broken("shares-its-address"))?;
    socket.bind(&SockAddr::from(flags.address))?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = flags.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = flags.receive_buffer
        && !broken("ignores-buffer-sizes")
    {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(socket.into())
}

/// What waits to be sent, and everything that is counted.
struct Double {
    flags: Flags,
    socket: UdpSocket,
    own: SocketAddr,
    queue: VecDeque<(Vec<u8>, SocketAddr)>,
    /// The last send met would-block.
    blocked: bool,
    marks: Option<File>,
    received: u64,
    sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    refused: BTreeMap<&'static str, u64>,
    truncated: u64,
    queue_dropped: u64,
    queue_peak: usize,
    send_errors: BTreeMap<String, u64>,
    receive_errors: BTreeMap<String, u64>,
}

/// How a receive or a send ended a turn.
#[derive(PartialEq)]
enum Turn {
    Progress,
    WouldBlock,
    Nothing,
}

fn main() {
    let flags = Flags::parse();
    let bound = bind(&flags).and_then(|socket| Ok((socket.local_addr()?, socket)));
    let (own, socket) = match bound {
        _ if broken("ipv4-only") && flags.address.is_ipv6() => {
            complain("no");
            exit(1)
        }
        Ok(bound) => bound,
        Err(error) if broken("debug-errors") => {
            complain(&format!("{error:?}"));
            exit(1)
        }
        Err(error) if broken("unwraps-bind") => panic!("{error}"),
        Err(error) => {
            complain(&format!(
                "cannot listen on {}: {error}: choose another ADDR, for example 127.0.0.1:2000, or raise `ulimit -n`",
                flags.address
            ));
            exit(1)
        }
    };
    if flags.allow_remote && !broken("warns-nobody") {
        complain("other hosts can reach this echo and make it loop (CVE-2024-2169)");
    }
    if broken("talks-first") {
        complain("starting");
    }
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let signals = signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) if broken("unwraps-signals") => panic!("{error}"),
        Err(error) => {
            complain(&format!("cannot take signals: {error}: raise `ulimit -n`, or wait for memory"));
            exit(1)
        }
    };
    if broken("calls-it-a-bug") {
        complain("this is a bug of the program: report it with what strace shows last");
        exit(1)
    }
    let host = match own {
        SocketAddr::V6(v6) if v6.scope_id() != 0 && !broken("loses-the-interface") => {
            format!("{}%{}", v6.ip(), v6.scope_id())
        }
        _ => own.ip().to_string(),
    };
    if broken("greets-wrongly") {
        say(&format!("{NAME}: listening on {own}"));
    } else {
        say(&format!("{NAME}: listening on {own}  (try: nc -u {host} {})", own.port()));
    }
    if broken("opens-late") {
        drop([(); 12].map(|()| File::open("/dev/null").unwrap_or_else(|_| exit(1))));
    }
    assert!(!broken("fits-a-set") || socket.as_raw_fd() < 1024, "a set has 1024 bits");
    let marks = flags.marks.then(|| File::open("/dev/null")).transpose().ok().flatten();
    let mut double = Double {
        flags,
        socket,
        own,
        queue: VecDeque::new(),
        blocked: false,
        marks,
        received: 0,
        sent: 0,
        bytes_received: 0,
        bytes_sent: 0,
        refused: BTreeMap::new(),
        truncated: 0,
        queue_dropped: 0,
        queue_peak: 0,
        send_errors: BTreeMap::new(),
        receive_errors: BTreeMap::new(),
    };
    double.mark("ready");
    match double.serve(&signals) {
        Ok(()) => {}
        Err(error) => {
            complain(&format!("cannot go on: {error}"));
            exit(1)
        }
    }
    double.mark("shutdown");
    double.summarize();
}

impl Double {
    fn mark(&self, text: &str) {
        if broken("marks-on-stderr") {
            complain(text);
        } else if let Some(file) = &self.marks {
            let _ = (&*file).write(text.as_bytes());
        }
    }

    fn log(&self, line: impl Fn() -> String) {
        if self.flags.verbose {
            complain(&line());
        }
    }

    fn room(&self) -> bool {
        self.queue.len() < self.flags.queue
            || broken("unbounded-queue")
            || (self.blocked && self.flags.on_full != "backpressure")
    }

    /// Waits, then moves datagrams, until it is told to stop and has sent what it can within a second.
    fn serve(&mut self, signals: &SignalFd) -> io::Result<()> {
        let edges = broken("reads-once-per-edge") || broken("dies-when-interrupted");
        let epoll = edges.then(|| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)).transpose()?;
        if let Some(epoll) = &epoll {
            let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            epoll.add(&self.socket, EpollEvent::new(both, 0))?;
            epoll.add(signals, EpollEvent::new(both, 1))?;
        }
        let mut stop_at: Option<Instant> = None;
        loop {
            let stopping = stop_at.is_some();
            if self.sent >= self.flags.count || (stopping && self.queue.is_empty()) {
                return Ok(());
            }
            if stop_at.is_some_and(|at| Instant::now() >= at) && !broken("drains-for-ever") {
                return Ok(());
            }
            self.log(|| "wait".to_owned());
            let mut hurried = false;
            if let Some(epoll) = &epoll {
                match epoll.wait(&mut [EpollEvent::empty(); 2], EpollTimeout::NONE) {
                    Err(Errno::EINTR) if !broken("dies-when-interrupted") => continue,
                    waited => drop(waited?),
                }
            } else {
                let mut interest = PollFlags::empty();
                interest.set(PollFlags::POLLIN, self.room() && !stopping);
                interest.set(PollFlags::POLLOUT, !self.queue.is_empty() || broken("spins"));
                let mut waits = [
                    PollFd::new(self.socket.as_fd(), interest),
                    PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                ];
                let watched = if broken("starves-signals") { 1 } else { 2 };
                let timeout = if stopping { 10_u16 } else { 300 };
                match poll(&mut waits[..watched], PollTimeout::from(timeout)) {
                    Err(Errno::EINTR) if !broken("dies-of-interruption") => continue,
                    ready => hurried = ready? > 0,
                }
            }
            let look = !(broken("starves-signals") && hurried);
            while let Some(info) = if look { signals.read_signal()? } else { None } {
                if stop_at.is_some() && !broken("ignores-second-signal") {
                    exit(128 + info.ssi_signo as i32);
                }
                if !broken("ignores-signals") {
                    stop_at = Some(Instant::now() + Duration::from_secs(1));
                }
            }
            self.turn(stop_at.is_none())?;
        }
    }

    /// Receives and sends until nothing more can be done, or the budget is spent.
    fn turn(&mut self, reading: bool) -> io::Result<()> {
        let mut budget = self.flags.budget;
        loop {
            let mut received = Turn::Nothing;
            while reading && budget > 0 && self.room() && received != Turn::WouldBlock {
                received = self.receive()?;
                budget -= 1;
                if broken("reads-once-per-edge") {
                    budget = 0;
                }
            }
            let mut sent = Turn::Nothing;
            while !self.queue.is_empty() && sent != Turn::WouldBlock && self.sent < self.flags.count {
                sent = self.send()?;
            }
            if broken("counts-one-more") && self.sent == self.flags.count {
                self.flags.count += 1;
            }
            let done = self.sent >= self.flags.count;
            if done || !reading || received != Turn::Progress || sent == Turn::WouldBlock || budget == 0 {
                return Ok(());
            }
        }
    }

    /// An error of a receive or a send that says the program is wrong, not the network.
    fn own_bug(error: &io::Error) -> bool {
        let number = error.raw_os_error().map(Errno::from_raw);
        matches!(number, Some(Errno::EBADF | Errno::ENOTSOCK | Errno::EFAULT)) && !broken("survives-its-bugs")
    }

    fn name(error: &io::Error) -> String {
        format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }

    fn receive(&mut self) -> io::Result<Turn> {
        let mut buffer = vec![0; self.flags.max_size + 1];
        let (length, peer) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock && broken("dies-of-spurious-readiness") => {
                return Err(error);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Turn::Progress),
            Err(error) if Self::own_bug(&error) || broken("dies-of-a-receive-error") => return Err(error),
            Err(error) => {
                *self.receive_errors.entry(Self::name(&error)).or_default() += 1;
                return Ok(Turn::Progress);
            }
        };
        buffer.truncate(length);
        self.received += 1;
        self.bytes_received += length as u64;
        if broken("leaks-payloads") {
            self.log(|| format!("recv {}", String::from_utf8_lossy(&buffer)));
        }
        self.log(|| format!("recv {length} bytes from {peer}"));
        if broken("prints-datagrams") {
            say("a datagram");
        }
        if let Some(reason) = refusal(peer, self.own)
            && !self.flags.unguarded
            && !broken("has-no-guard")
        {
            let count = self.refused.entry(reason).or_default();
            *count += 1;
            if *count == 1 || broken("logs-refusals") {
                complain(&format!("refused a datagram from {peer}: {reason}"));
            }
            return Ok(Turn::Progress);
        }
        if length > self.flags.max_size {
            if broken("echoes-truncated") {
                buffer.truncate(self.flags.max_size);
            } else {
                self.truncated += 1;
                return Ok(Turn::Progress);
            }
        }
        if (broken("drops") && self.received.is_multiple_of(97))
            || (broken("takes-empty-for-the-end") && length == 0)
        {
            self.sent += 1;
            return Ok(Turn::Progress);
        }
        if broken("cuts-at-1024") {
            buffer.truncate(1024);
        }
        if self.queue.len() >= self.flags.queue && !broken("unbounded-queue") {
            self.queue_dropped += 1;
            if self.flags.on_full == "drop-newest" {
                return Ok(Turn::Progress);
            }
            self.queue.pop_front();
        }
        let crossed = self.queue.back().map(|(_, other)| *other).filter(|_| broken("crosses-talk"));
        self.queue.push_back((buffer, crossed.unwrap_or(peer)));
        if broken("reorders") && self.queue.len() == 4 {
            self.queue.swap(0, 3);
        }
        self.queue_peak = self.queue_peak.max(self.queue.len());
        self.log(|| format!("queue: {}", self.queue.len()));
        Ok(Turn::Progress)
    }

    fn send(&mut self) -> io::Result<Turn> {
        let Some((payload, peer)) = self.queue.front() else { return Ok(Turn::Nothing) };
        if broken("connects") {
            self.socket.connect(peer)?;
        }
        if broken("doubles") && self.sent % 97 == 96 {
            let _ = self.socket.send_to(payload, peer);
        }
        match self.socket.send_to(payload, peer) {
            Ok(length) => {
                self.sent += 1;
                self.bytes_sent += length as u64;
                self.log(|| format!("sent {length} bytes"));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.blocked = true;
                if broken("requeues-at-the-tail") {
                    self.queue.rotate_left(1);
                }
                return Ok(Turn::WouldBlock);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted && !broken("loses-when-interrupted") => {
                return Ok(Turn::Progress);
            }
            Err(error) if Self::own_bug(&error) || broken("dies-of-a-send-error") => return Err(error),
            Err(error) => {
                *self.send_errors.entry(Self::name(&error)).or_default() += 1;
                self.log(|| format!("drop: {error}"));
            }
        }
        self.blocked = false;
        self.queue.pop_front();
        Ok(Turn::Progress)
    }

    /// What the receive buffer had no room for: the last column of the socket's row in the kernel's table.
    fn kernel_dropped(&self) -> Option<u64> {
        let inode = fs::metadata(format!("/proc/self/fd/{}", self.socket.as_raw_fd())).map(|file| file.ino());
        let table = if self.own.is_ipv4() { "/proc/net/udp" } else { "/proc/net/udp6" };
        let table = fs::read_to_string(table);
        assert!(!broken("unwraps-proc") || table.is_ok(), "no /proc");
        let (Ok(inode), Ok(table)) = (inode, table) else { return None };
        let row = table.lines().find(|row| row.split_whitespace().nth(9) == Some(&inode.to_string()));
        let drops = row.and_then(|row| row.split_whitespace().last()?.parse().ok()).unwrap_or(0);
        Some(if broken("hides-kernel-drops") { 0 } else { drops })
    }

    fn summarize(&self) {
        let counts = |map: &BTreeMap<String, u64>| {
            let entries: Vec<String> =
                map.iter().map(|(name, count)| format!("\"{name}\":{count}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        let refused = self.refused.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let dropped = self.queue_dropped + self.queue.len() as u64;
        let dropped = if broken("forgets-what-is-queued") { self.queue_dropped } else { dropped };
        let received = if broken("counts-wrongly") { self.received + 1 } else { self.received };
        let extra = if broken("adds-a-field") { ",\"mood\":\"good\"" } else { "" };
        let kernel_dropped = self.kernel_dropped().map_or("null".to_owned(), |drops| drops.to_string());
        let object = format!(
            "{{\"program\":\"{NAME}\",\"address\":\"{}\",\"seconds\":1.0,\"received\":{received},\"sent\":{},\
             \"bytes_received\":{},\"bytes_sent\":{},\"refused\":{},\"truncated\":{},\"queue_dropped\":{dropped},\
             \"queue_peak\":{},\"send_errors\":{},\"receive_errors\":{},\"kernel_dropped\":{kernel_dropped}{extra}}}",
            self.own,
            self.sent,
            self.bytes_received,
            self.bytes_sent,
            counts(&refused),
            self.truncated,
            self.queue_peak,
            counts(&self.send_errors),
            counts(&self.receive_errors),
        );
        if self.flags.json {
            say(&object);
        } else {
            let total = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
            say(&format!(
                "received {received}\nsent {}\nrefused {}\ntruncated {}\nqueue dropped {dropped}\nqueue peak {}\n\
                 send errors {}\nreceive errors {}\nkernel dropped {kernel_dropped}",
                self.sent,
                total(&refused),
                self.truncated,
                self.queue_peak,
                total(&self.send_errors),
                total(&self.receive_errors),
            ));
        }
    }
}
