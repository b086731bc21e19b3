//! Starting a server, ours or a foreign one, with or without strace around it, and ending it again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::checkout::{Checkout, Profile, Program};
use crate::failure::{Context, Failure, Result, failed, usage};
use crate::process;
use harness::strace::{Call, Event, Parser};

/// How long a program may take for anything that it does at once on a machine at rest. Generous, since a
/// deadline only ends what hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// More calls than any server makes before it sleeps again when nothing comes.
const SPINNING: usize = 20_000;

/// A server to start.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of the project's programs.
    Own(Program),
    /// Anybody's: the words of its command, with `{addr}`, `{host}` and `{port}` to be filled in, and `{bin}` for
    /// the folder of the project's own binaries, so that one of them can take part with other flags.
    Foreign { name: String, command: Vec<String> },
}

impl Target {
    /// Name for the tables.
    pub fn name(&self) -> &str {
        match self {
            Target::Own(program) => &program.name,
            Target::Foreign { name, .. } => name,
        }
    }

    /// Reads `NAME=COMMAND {addr}`, the command split into words as a shell would.
    pub fn parse_with(text: &str) -> Result<Self> {
        let example = "for example --with py='python3 echo.py {addr}'";
        let Some((name, command)) = text.split_once('=') else {
            return usage(format!("--with {text:?} has no name: write NAME='COMMAND {{addr}}', {example}"));
        };
        let Some(command) = shlex::split(command) else {
            return usage(format!("--with {name}: a quotation mark is not closed in {command:?}"));
        };
        Self::foreign(name, command)
    }

    /// A foreign command as a list of words.
    pub fn foreign(name: &str, command: Vec<String>) -> Result<Self> {
        if name.is_empty() || command.is_empty() {
            return usage(format!(
                "{name:?} has no command: give its words, with {{addr}} where the address goes"
            ));
        }
        let filled = ["{addr}", "{port}"];
        if !command.iter().any(|word| filled.iter().any(|mark| word.contains(mark))) {
            return usage(format!(
                "the command of {name} names no address: write {{addr}} (or {{host}} and {{port}}) where its \
                 address goes"
            ));
        }
        Ok(Target::Foreign { name: name.to_string(), command })
    }
}

/// The echo servers named (all of them when none is) and after them the foreign ones.
pub fn targets(checkout: &Checkout, names: &[String], with: &[String]) -> Result<Vec<Target>> {
    let foreign: Vec<Target> = with.iter().map(|text| Target::parse_with(text)).collect::<Result<_>>()?;
    let own = checkout.echo_programs(names)?;
    if let Some(other) = own.iter().find(|program| !program.is_echo()) {
        return usage(format!(
            "{} is no echo server, so its calls per datagram have no meaning; `cargo ladder trace {0}` shows what it \
             does",
            other.name
        ));
    }
    Ok(own.into_iter().map(Target::Own).chain(foreign).collect())
}

/// Builds what is missing of the targets that are ours, `{bin}/NAME` in a command among them.
pub fn build(checkout: &Checkout, targets: &[Target], profile: Profile) -> Result<()> {
    let own = targets.iter().filter_map(|target| match target {
        Target::Own(program) => Some(program.name.as_str()),
        Target::Foreign { command, .. } => command[0].strip_prefix("{bin}/"),
    });
    checkout.build(own, profile)
}

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Put strace around it.
    pub traced: bool,
    /// Let strace write the time of day.
    pub times: bool,
    /// Start this file in place of the program's binary.
    pub binary: Option<PathBuf>,
    /// Pin it to this core.
    pub core: Option<usize>,
    /// Arguments for the program, before those that the tool adds.
    pub args: Vec<String>,
    /// The program ends by itself: nothing is added to its arguments but `--marks`, no greeting is awaited.
    pub alone: bool,
}

/// A started server. Dropping it kills it.
pub struct Server {
    name: String,
    child: Child,
    /// Where it listens; several for a program with several sockets; none for one that listens nowhere.
    pub addresses: Vec<SocketAddr>,
    stdout: Receiver<String>,
    /// Lines of standard output read so far.
    pub printed: Vec<String>,
    stderr: Arc<Mutex<String>>,
    tracer: Option<Tracer>,
}

impl Server {
    /// Starts the target and waits until it serves: ours say so in their first line, a foreign one has bound its
    /// port.
    pub fn start(checkout: &Checkout, profile: Profile, target: &Target, launch: &Launch) -> Result<Self> {
        let mut port = 0;
        let words: Vec<String> = match target {
            Target::Own(program) => {
                let built = checkout.binary(&program.name, profile);
                let mut words = vec![launch.binary.as_ref().unwrap_or(&built).display().to_string()];
                words.extend(launch.args.iter().cloned());
                if launch.traced && (program.is_echo() || !launch.args.iter().any(|arg| arg == "--marks")) {
                    words.push("--marks".into());
                }
                if program.is_echo() && !launch.alone {
                    words.push("127.0.0.1:0".into());
                }
                words
            }
            Target::Foreign { command, .. } => {
                port = free_port()?;
                command
                    .iter()
                    .map(|word| {
                        word.replace("{bin}", &checkout.binaries(profile).display().to_string())
                            .replace("{addr}", &format!("127.0.0.1:{port}"))
                            .replace("{host}", "127.0.0.1")
                            .replace("{port}", &port.to_string())
                    })
                    .collect()
            }
        };
        let mut server = Self::spawn(target.name(), &words, launch)?;
        match target {
            _ if launch.alone => {}
            Target::Own(_) => server.await_greeting()?,
            Target::Foreign { .. } => {
                server.addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                server.await_port(port)?;
            }
        }
        Ok(server)
    }

    fn spawn(name: &str, words: &[String], launch: &Launch) -> Result<Self> {
        let (mut command, tracer) = if launch.traced {
            let tracer = Tracer::new()?;
            let mut command = Command::new("strace");
            command.args(["-f", "-q", "-s", "80"]);
            if launch.times {
                command.arg("-tt");
            }
            command.arg("-o").arg(tracer.folder.join("trace")).arg("--").args(words);
            (command, Some(tracer))
        } else {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            (command, None)
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = match launch.core {
            // The child inherits the affinity of the thread that starts it.
            Some(core) => on_core(core, || command.spawn())?,
            None => command.spawn(),
        };
        let mut child = spawned.map_err(|error| match (error.kind(), launch.traced) {
            (io::ErrorKind::NotFound, true) => Failure::Failed(NO_STRACE.into()),
            (io::ErrorKind::NotFound, false) => {
                Failure::Failed(format!("could not start {name}: there is no program {:?}", words[0]))
            }
            _ => Failure::Failed(format!("could not start {name} ({:?}): {error}", words[0])),
        })?;
        let (sender, stdout) = channel();
        if let Some(pipe) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n') {
                    let Ok(line) = line else { break };
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        break;
                    }
                }
            });
        }
        let stderr = Arc::new(Mutex::new(String::new()));
        if let Some(mut pipe) = child.stderr.take() {
            let stderr = Arc::clone(&stderr);
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                    if let Ok(mut text) = stderr.lock() {
                        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
                    }
                }
            });
        }
        Ok(Server {
            name: name.to_string(),
            child,
            addresses: Vec::new(),
            stdout,
            printed: Vec::new(),
            stderr,
            tracer,
        })
    }

    /// Waits for the first line of standard output and reads the addresses from it.
    fn await_greeting(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.pump(Duration::ZERO)?;
            match self.stdout.recv_timeout(Duration::from_millis(2)) {
                Ok(line) => {
                    let greeting = line.contains(": listening on ") || line.contains(": waiting");
                    if let Some((_, places)) = line.split_once(": listening on ") {
                        self.addresses = addresses(places);
                    }
                    self.printed.push(line);
                    if greeting {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    return failed(format!("{} did not say that it listens within {PATIENCE:?}", self.name));
                }
                Err(RecvTimeoutError::Disconnected) => return self.ended_early(),
            }
        }
    }

    fn await_port(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !process::udp_port_is_bound(port) {
            self.pump(Duration::from_millis(2))?;
            if self.child.try_wait().context(|| format!("wait for {}", self.name))?.is_some() {
                return self.ended_early();
            }
            if Instant::now() > deadline {
                return failed(format!(
                    "{} did not bind UDP port {port} within {PATIENCE:?}: does its command use {{addr}}?",
                    self.name
                ));
            }
        }
        Ok(())
    }

    fn ended_early<T>(&mut self) -> Result<T> {
        // Its standard error is complete once it is gone.
        let _ = self.await_exit(Duration::from_secs(2));
        thread::sleep(Duration::from_millis(20));
        let said = self.said();
        let said = said.trim();
        let said = if said.is_empty() { "it said nothing" } else { said };
        failed(format!("{} ended before it served: {said}", self.name))
    }

    /// What it wrote to standard error so far.
    pub fn said(&self) -> String {
        self.stderr.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Its first address.
    pub fn address(&self) -> Result<SocketAddr> {
        match self.addresses.first() {
            Some(&address) => Ok(address),
            None => failed(format!("{} named no address to send to", self.name)),
        }
    }

    /// Its processes, without strace.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = process::tree(self.child.id());
        if self.tracer.is_some() {
            pids.remove(0);
        }
        pids
    }

    /// The trace so far.
    pub fn events(&self) -> &[Event] {
        self.tracer.as_ref().map_or(&[], |tracer| &tracer.events)
    }

    /// Calls that have not returned yet, in the order in which they began.
    pub fn open_calls(&self) -> Vec<Call> {
        self.tracer
            .as_ref()
            .map_or_else(Vec::new, |tracer| tracer.parser.open_calls(&String::from_utf8_lossy(&tracer.bytes)))
    }

    /// The finished calls of the trace from that event on.
    pub fn calls_since(&self, start: usize) -> impl Iterator<Item = &Call> {
        self.events()[start..].iter().filter_map(|event| match event {
            Event::Call(call) => Some(call),
            _ => None,
        })
    }

    /// Reads what strace has written, waiting at most `patience` for the first of it; without strace it only
    /// waits. Returns whether anything came. Must be called again and again while the server works: strace
    /// stops it when nobody reads.
    pub fn pump(&mut self, patience: Duration) -> Result<bool> {
        match &mut self.tracer {
            Some(tracer) => tracer.pump(patience).context(|| format!("read the trace of {}", self.name)),
            None => {
                thread::sleep(patience);
                Ok(false)
            }
        }
    }

    /// Waits until every thread sleeps and the trace has been read to its end: the server is back in its wait.
    pub fn await_quiet(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let start = self.events().len();
        let mut quiet = 0;
        while quiet < 3 {
            let came = self.pump(Duration::ZERO)?;
            let states = process::states(&self.pids());
            if states.is_empty() {
                return self.ended_early();
            }
            if !came && states.iter().all(|&state| state == 'S') {
                quiet += 1;
                continue;
            }
            quiet = 0;
            if Instant::now() > deadline || self.events().len() - start > SPINNING {
                return failed(format!(
                    "{} never came to rest: nothing is sent to it, and it calls the kernel without end",
                    self.name
                ));
            }
            self.pump(Duration::from_micros(500))?;
        }
        Ok(())
    }

    /// Whether every thread sleeps and the trace has been read to its end, right now.
    pub fn is_quiet(&mut self) -> Result<bool> {
        let came = self.pump(Duration::ZERO)?;
        Ok(!came && process::states(&self.pids()).iter().all(|&state| state == 'S'))
    }

    /// Stops all its processes with SIGSTOP and waits until the trace shows it.
    pub fn freeze(&mut self) -> Result<()> {
        let pids = self.pids();
        process::signal(&pids, Signal::SIGSTOP);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let came = self.pump(Duration::ZERO)?;
            let states = process::states(&pids);
            if !came
                && states.iter().all(|&state| matches!(state, 'T' | 't'))
                && self.threads_stopped(states.len())
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return failed(format!("{} did not stop on SIGSTOP", self.name));
            }
            self.pump(Duration::from_micros(500))?;
        }
    }

    /// Whether the end of the trace says of that many threads that they stopped. A thread in the middle of a
    /// traced call looks stopped in `/proc` too.
    fn threads_stopped(&self, threads: usize) -> bool {
        let since = self
            .events()
            .iter()
            .rposition(|event| matches!(event, Event::Signal { name, .. } if name == "SIGCONT"))
            .unwrap_or(0);
        let mut stopped: Vec<u32> = self.events()[since..]
            .iter()
            .filter(|event| matches!(event, Event::Stopped { .. }))
            .map(Event::pid)
            .collect();
        stopped.sort_unstable();
        stopped.dedup();
        stopped.len() >= threads
    }

    /// Lets the stopped processes go on.
    pub fn thaw(&mut self) {
        process::signal(&self.pids(), Signal::SIGCONT);
    }

    /// Asks it to end as a user does, reads the rest of its output and of the trace, and returns its status.
    pub fn finish(&mut self) -> Result<ExitStatus> {
        let pids = self.pids();
        process::signal(&pids, Signal::SIGTERM);
        if let Some(status) = self.await_exit(Duration::from_secs(10))? {
            return Ok(status);
        }
        process::signal(&self.pids(), Signal::SIGKILL);
        match self.await_exit(PATIENCE)? {
            Some(status) => Ok(status),
            None => failed(format!("{} does not end, not even on SIGKILL", self.name)),
        }
    }

    /// Waits until it has ended by itself; kills it when that takes longer than `patience`.
    pub fn await_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        match self.await_exit(patience)? {
            Some(status) => Ok(status),
            None => failed(format!("{} did not end by itself within {patience:?}", self.name)),
        }
    }

    fn await_exit(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            self.pump(Duration::from_millis(1))?;
            self.printed.extend(self.stdout.try_iter());
            if let Some(status) = self.child.try_wait().context(|| format!("wait for {}", self.name))? {
                while self.tracer.is_some() && self.pump(Duration::ZERO)? {}
                // The reader ends with the pipe, unless a grandchild holds it open.
                while let Ok(line) = self.stdout.recv_timeout(Duration::from_millis(200)) {
                    self.printed.push(line);
                }
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // strace ends when the last of its children has; killed before them it would leave them running.
        process::signal(&self.pids(), Signal::SIGKILL);
        let _ = self.await_exit(Duration::from_secs(5));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Said wherever strace is needed and missing.
const NO_STRACE: &str = "strace is not installed, and this subcommand reads system calls with it: install the \
    package strace (Debian, Ubuntu: apt-get install strace; Fedora: dnf install strace; Arch: pacman -S strace; \
    Alpine: apk add strace); list, check, bench and diff work without it";

/// Whether strace can be started.
pub fn strace_is_there() -> bool {
    Command::new("strace")
        .arg("-V")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Fails, before anything is built, where strace is missing.
pub fn require_strace() -> Result<()> {
    if strace_is_there() { Ok(()) } else { failed(NO_STRACE) }
}

/// Reads strace's output from a named pipe.
struct Tracer {
    folder: PathBuf,
    pipe: File,
    bytes: Vec<u8>,
    parser: Parser,
    events: Vec<Event>,
}

impl Tracer {
    fn new() -> Result<Self> {
        let template = std::env::temp_dir().join("ladder-XXXXXX");
        let folder = nix::unistd::mkdtemp(&template).context(|| format!("make {}", template.display()))?;
        let path = folder.join("trace");
        let opened = mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
            // Without O_NONBLOCK the open would wait for strace, which is not started yet.
            .and_then(|()| {
                nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
            });
        match opened {
            Ok(pipe) => Ok(Tracer {
                folder,
                pipe: File::from(pipe),
                bytes: Vec::new(),
                parser: Parser::default(),
                events: Vec::new(),
            }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                failed(format!("could not make the pipe for strace in {}: {error}", folder.display()))
            }
        }
    }

    fn pump(&mut self, patience: Duration) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        // Rounded up: below a millisecond it would not wait at all.
        let timeout = PollTimeout::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let readable = descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
        if !readable {
            if descriptors[0].any().unwrap_or(false) {
                // Hung up: strace is gone, and poll returns at once for ever.
                thread::sleep(patience);
            }
            return Ok(false);
        }
        let mut chunk = [0; 1 << 16];
        loop {
            match self.pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut start = 0;
        while let Some(length) = self.bytes[start..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.bytes[start..start + length]);
            self.events.extend(self.parser.line(&line));
            start += length + 1;
        }
        self.bytes.drain(..start);
        Ok(true)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs an action with this thread on one core, and lets it go back to where it was.
pub fn on_core<T>(core: usize, action: impl FnOnce() -> T) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context(|| "ask for the cores of this thread".into())?;
    let mut one = CpuSet::new();
    one.set(core).context(|| format!("name core {core}"))?;
    sched_setaffinity(this, &one).context(|| format!("move to core {core}"))?;
    let done = action();
    sched_setaffinity(this, &before).context(|| "go back to all cores".into())?;
    Ok(done)
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

/// A UDP port that is free now. A foreign server is told a port, so somebody else may take it in between; the
/// server then says that the address is in use.
fn free_port() -> Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "find a free port".into())?;
    Ok(socket.local_addr().context(|| "read the port found".into())?.port())
}

/// Socket addresses that stand in a line; `A to B` stands for all ports between them as well.
fn addresses(line: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut range = false;
    for word in line.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')')) {
        if let Ok(address) = word.parse::<SocketAddr>() {
            if let Some(first) = found.last().filter(|_| range).copied() {
                let between = first.port().saturating_add(1)..address.port();
                found.extend(between.map(|port| SocketAddr::new(first.ip(), port)));
            }
            found.push(address);
        }
        range = word == "to";
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_command_is_split_into_words() {
        let target = Target::parse_with("py=python3 'my echo.py' {host} {port}").expect("a whole command");
        assert_eq!(target.name(), "py");
        let Target::Foreign { command, .. } = target else { panic!("not foreign") };
        assert_eq!(command, ["python3", "my echo.py", "{host}", "{port}"]);
    }

    #[test]
    fn a_foreign_command_without_name_or_address_is_wrong_usage() {
        for text in ["python3 echo.py {addr}", "x=", "x=echo", "x='open {addr}"] {
            assert!(matches!(Target::parse_with(text), Err(Failure::Usage(_))), "{text}");
        }
    }

    #[test]
    fn addresses_are_read_from_a_greeting() {
        assert_eq!(
            addresses("127.0.0.1:2000  (try: nc -u 127.0.0.1 2000)"),
            ["127.0.0.1:2000".parse().expect("an address")]
        );
        assert_eq!(addresses("[::1]:7, 127.0.0.1:8").len(), 2);
        assert_eq!(addresses("127.0.0.1:2000 to 127.0.0.1:2009  (try: nc -u 127.0.0.1 2000)").len(), 10);
        assert!(addresses("nothing").is_empty());
    }
}
