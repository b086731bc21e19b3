//! Starting a server as its user starts it, and watching it from outside.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::client::Client;
use crate::strace::{self, Trace};
use crate::summary::Summary;
use crate::target::{self, Origin, Target};
use crate::verdict::{Unmet, ensure, fails};

static DEADLINE_SECONDS: AtomicU64 = AtomicU64::new(30);

/// The longest any single wait may take. Far longer than any of them needs, so that a loaded machine does
/// not fail a sound server.
pub(crate) fn deadline() -> Duration {
    Duration::from_secs(DEADLINE_SECONDS.load(Ordering::Relaxed))
}

/// Sets the deadline of every check in this process.
pub(crate) fn set_deadline(seconds: u64) {
    DEADLINE_SECONDS.store(seconds, Ordering::Relaxed);
}

/// Looks every millisecond or so until `look` finds something, or the deadline has passed.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, Unmet> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > deadline() {
            return fails(format!("{what}: not within {} s", deadline().as_secs()));
        }
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Where an output of the server leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Kept.
    Captured,
    /// Nowhere: the descriptor is not open.
    Closed,
    /// To a device that is full.
    Full,
    /// To a reader that goes away after the first line.
    FirstLine,
    /// For stderr: into stdout, so that their order shows.
    Merged,
}

/// What an output has carried so far.
#[derive(Clone, Default)]
struct Capture(Arc<(Mutex<Captured>, Condvar)>);

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    /// Of an output that leads elsewhere.
    fn none() -> Self {
        let capture = Self::default();
        capture.lock().ended = true;
        capture
    }

    fn of(mut pipe: impl Read + Send + 'static, first_line_only: bool) -> Self {
        let capture = Self::default();
        let shared = capture.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = match pipe.read(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let mut captured = shared.lock();
                captured.bytes.extend_from_slice(&buffer[..read]);
                captured.ended = read == 0 || (first_line_only && captured.bytes.contains(&b'\n'));
                shared.0.1.notify_all();
                if captured.ended {
                    return;
                }
            }
        });
        capture
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `enough` or the end of the output; what there is then.
    fn wait(&self, enough: impl Fn(&[u8]) -> bool) -> String {
        let start = Instant::now();
        let mut captured = self.lock();
        while !captured.ended && !enough(&captured.bytes) && start.elapsed() < deadline() {
            let (guard, _) = self
                .0
                .1
                .wait_timeout(captured, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner);
            captured = guard;
        }
        String::from_utf8_lossy(&captured.bytes).into_owned()
    }
}

/// A server about to be started.
#[derive(Clone)]
pub(crate) struct Launch<'a> {
    target: &'a Target,
    address: Option<String>,
    without_address: bool,
    args: Vec<String>,
    prefix: Vec<String>,
    trace: Option<Vec<String>>,
    stdout: Output,
    stderr: Output,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(target: &'a Target) -> Self {
        Self {
            target,
            address: None,
            without_address: false,
            args: Vec::new(),
            prefix: Vec::new(),
            trace: None,
            stdout: Output::Captured,
            stderr: Output::Captured,
        }
    }

    /// Where it listens. Without it: on a port of 127.0.0.1 that the kernel chooses.
    pub(crate) fn on(mut self, address: impl ToString) -> Self {
        self.address = Some(address.to_string());
        self
    }

    /// With no ADDR on its command line, unless it is among the flags.
    pub(crate) fn without_address(mut self) -> Self {
        self.without_address = true;
        self
    }

    /// More flags.
    pub(crate) fn args<S: ToString>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    /// A command that runs the server's command behind it, in the same process.
    pub(crate) fn prefix<S: ToString>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        self.prefix = prefix.into_iter().map(|word| word.to_string()).collect();
        self
    }

    /// Under strace with these options.
    pub(crate) fn traced<S: ToString>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.trace = Some(options.into_iter().map(|option| option.to_string()).collect());
        self
    }

    pub(crate) fn stdout(mut self, stdout: Output) -> Self {
        self.stdout = stdout;
        self
    }

    pub(crate) fn stderr(mut self, stderr: Output) -> Self {
        self.stderr = stderr;
        self
    }

    fn words(&self) -> (Vec<String>, Option<SocketAddr>, Option<tempfile::NamedTempFile>, Result<(), Unmet>) {
        let mut words = self.prefix.clone();
        let mut log = None;
        let mut problem = Ok(());
        if let Some(options) = &self.trace {
            match tempfile::NamedTempFile::new() {
                Ok(file) => {
                    // -D: the server stays our child, and its exit status ours to see.
                    words.extend(["strace", "-D", "-f", "-q", "-yy", "-o"].map(str::to_owned));
                    words.push(file.path().display().to_string());
                    words.extend(options.iter().cloned());
                    words.push("--".to_owned());
                    log = Some(file);
                }
                Err(error) => problem = fails(format!("no file for strace's log: {error}")),
            }
        }
        let known = match &self.target.0 {
            Origin::Rung { program, flags, .. } => {
                words.push(program.display().to_string());
                words.extend(flags.iter().cloned());
                words.extend(self.args.iter().cloned());
                let address = self.address.clone().unwrap_or_else(|| {
                    if self.stdout == Output::Captured || self.stdout == Output::FirstLine {
                        return "127.0.0.1:0".to_owned();
                    }
                    // It will not be able to say where it is.
                    target::free_address(&mut fastrand::Rng::new()).to_string()
                });
                if !self.without_address {
                    words.push(address.clone());
                }
                address.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
            }
            Origin::Foreign { command } => {
                let address = match self.address.as_ref().and_then(|address| address.parse().ok()) {
                    Some(address) => address,
                    None => target::free_address(&mut fastrand::Rng::new()),
                };
                words.extend(target::fill_in(command, address));
                Some(address)
            }
        };
        (words, known, log, problem)
    }

    fn spawn(&self) -> Result<(Server, Option<SocketAddr>), Unmet> {
        let (mut words, known, log, problem) = self.words();
        problem?;
        let mut redirections = String::new();
        if self.stdout == Output::Closed {
            redirections.push_str(" >&-");
        }
        if self.stderr == Output::Closed {
            redirections.push_str(" 2>&-");
        }
        if self.stderr == Output::Merged {
            redirections.push_str(" 2>&1");
        }
        if !redirections.is_empty() {
            // Only a shell can start a program with a closed descriptor and no unsafe code.
            let script = format!("exec \"$@\"{redirections}");
            words.splice(0..0, ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        if let Origin::Rung { env, .. } = &self.target.0 {
            command.envs(env.iter().map(|(name, value)| (name, value)));
        }
        for (is_stdout, output) in [(true, self.stdout), (false, self.stderr)] {
            let stdio = match output {
                Output::Captured | Output::FirstLine => Stdio::piped(),
                Output::Closed | Output::Merged => Stdio::null(),
                Output::Full => match File::options().write(true).open("/dev/full") {
                    Ok(full) => Stdio::from(full),
                    Err(error) => return Err(Unmet::NotAsked(format!("/dev/full does not open: {error}"))),
                },
            };
            if is_stdout {
                command.stdout(stdio);
            } else {
                command.stderr(stdio);
            }
        }
        // A foreign server may start others, so it gets a group of its own that ends with it. One of ours
        // stays in the terminal's group, where an interrupt ends it too.
        let foreign = matches!(self.target.0, Origin::Foreign { .. });
        if foreign {
            end_groups_with_us();
            command.process_group(0);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return fails(format!("cannot start `{}`: {error}", words.join(" "))),
        };
        let stdout = child
            .stdout
            .take()
            .map(|pipe| Capture::of(pipe, self.stdout == Output::FirstLine))
            .unwrap_or_else(Capture::none);
        let stderr = child
            .stderr
            .take()
            .map(|pipe| Capture::of(pipe, self.stderr == Output::FirstLine))
            .unwrap_or_else(Capture::none);
        let pid = Pid::from_raw(child.id() as i32);
        if foreign {
            groups().insert(pid);
        }
        let server = Server {
            child,
            pid,
            foreign,
            address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            command: words.join(" "),
            name: self.target.entry().map_or("the server", |rung| rung.name),
            log,
            stdout,
            stderr,
            exit: None,
        };
        Ok((server, known))
    }

    /// Starts it and waits until it is ready: until its greeting, or until its port is bound.
    pub(crate) fn start(self) -> Result<Server, Unmet> {
        let (mut server, known) = self.spawn()?;
        let speaks = matches!(self.target.0, Origin::Rung { .. })
            && matches!(self.stdout, Output::Captured | Output::FirstLine);
        if speaks {
            let out = server.stdout.wait(|bytes| bytes.contains(&b'\n'));
            let Some(address) = out.lines().next().and_then(|line| greeted_address(line, server.name)) else {
                return fails(format!(
                    "its first line on stdout is no greeting: {out:?} (stderr: {:?})\n  {}",
                    server.stderr_so_far(),
                    server.command
                ));
            };
            server.address = address;
            return Ok(server);
        }
        let Some(address) = known else {
            return fails("a server that cannot say where it listens was given no port");
        };
        server.address = address;
        eventually("the port is bound", || {
            let exited = server.has_exited();
            if exited || port_is_bound(address.port()) { Some(exited) } else { None }
        })
        .map_err(|unmet| unmet.context(&server.command))
        .and_then(|exited| {
            let error = server.stderr_so_far();
            ensure(!exited, || {
                format!("it ended instead of serving (stderr: {error:?})\n  {}", server.command)
            })
        })?;
        Ok(server)
    }

    /// Starts it and waits until it ends: for what is to fail, or to end by itself.
    pub(crate) fn run(self) -> Result<Ended, Unmet> {
        let (mut server, _) = self.spawn()?;
        let status = server.wait()?;
        Ok(server.ended(status))
    }
}

/// The address in the greeting, if that is how `program` greets.
fn greeted_address(line: &str, program: &str) -> Option<SocketAddr> {
    let rest = line.strip_prefix(program)?.strip_prefix(": listening on ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Whether some socket of this network namespace is bound to the UDP port.
fn port_is_bound(port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    ["/proc/net/udp", "/proc/net/udp6"].iter().any(|table| {
        fs::read_to_string(table).is_ok_and(|table| {
            table
                .lines()
                .skip(1)
                .any(|row| row.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&suffix)))
        })
    })
}

/// A running server. It ends when this goes out of scope.
pub(crate) struct Server {
    child: Child,
    pub(crate) pid: Pid,
    /// It has a process group of its own, whose number is its pid.
    foreign: bool,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How it was started.
    pub(crate) command: String,
    name: &'static str,
    log: Option<tempfile::NamedTempFile>,
    stdout: Capture,
    stderr: Capture,
    exit: Option<ExitStatus>,
}

impl Server {
    /// A client of it, on a port that the kernel chooses.
    pub(crate) fn client(&self) -> Result<Client, Unmet> {
        Ok(Client::of(self.address)?.watching(self.watch()))
    }

    /// A client of it with a certain port number.
    pub(crate) fn client_on_port(&self, port: u16) -> Result<Client, Unmet> {
        Ok(Client::on_port(port, self.address)?.watching(self.watch()))
    }

    /// Something that knows whether it runs, for a client of it.
    pub(crate) fn watch(&self) -> Watch {
        Watch { pid: self.pid, stderr: self.stderr.clone() }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Unmet> {
        signal::kill(self.pid, signal).map_err(|error| Unmet::Fails(format!("cannot send {signal}: {error}")))
    }

    /// Stops it, and waits until it has stopped.
    pub(crate) fn freeze(&self) -> Result<(), Unmet> {
        self.signal(Signal::SIGSTOP)?;
        // T: stopped, t: stopped while traced.
        eventually("the server is stopped", || matches!(self.state(), Some('T' | 't')).then_some(()))
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<(), Unmet> {
        self.signal(Signal::SIGCONT)
    }

    /// The state letter of `/proc/PID/stat`.
    pub(crate) fn state(&self) -> Option<char> {
        stat_field(self.pid, 0)?.chars().next()
    }

    /// How much processor time it has used.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        // The whole process, in clock ticks, of which Linux shows a hundred a second.
        let ticks: u64 =
            stat_field(self.pid, 11)?.parse::<u64>().ok()? + stat_field(self.pid, 12)?.parse::<u64>().ok()?;
        // The first thread, in nanoseconds, where the kernel counts them.
        let schedule = fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).unwrap_or_default();
        let fine = schedule.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Duration::from_millis(10 * ticks).max(Duration::from_nanos(fine)))
    }

    /// A line of `/proc/PID/status` in its unit, kB for sizes.
    pub(crate) fn status(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Whether a signal has been sent to it that it has not been given yet.
    pub(crate) fn has_pending_signals(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.pid)).is_ok_and(|status| {
            status.lines().any(|line| {
                let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
                mask.is_some_and(|mask| mask.trim().bytes().any(|digit| digit != b'0'))
            })
        })
    }

    /// Whether it has a handler for the signal.
    pub(crate) fn catches(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal as u32 - 1) & 1 == 1)
    }

    pub(crate) fn has_exited(&mut self) -> bool {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit.is_some()
    }

    /// Fails if it has ended.
    pub(crate) fn still_serves(&mut self) -> Result<(), Unmet> {
        if !self.has_exited() {
            return self.client()?.echo(b"still there?");
        }
        let status = self.exit.map(describe).unwrap_or_default();
        let error = self.stderr.wait(|_| false);
        fails(format!("it ended ({status}; stderr: {error:?})\n  {}", self.command))
    }

    pub(crate) fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().bytes).into_owned()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus, Unmet> {
        let command = self.command.clone();
        eventually("the server has ended", || if self.has_exited() { self.exit } else { None })
            .map_err(|unmet| unmet.context(&command))
    }

    fn ended(self, status: ExitStatus) -> Ended {
        let finished = |text: &str| {
            // strace writes the last line when the server is gone already.
            text.lines().any(|line| line.starts_with(&self.pid.to_string()) && line.contains("+++ "))
        };
        let trace = self.log.as_ref().map(|log| {
            let read = || fs::read(log.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let text = eventually("strace is done", || read().ok().filter(|text| finished(text)));
            Trace::new(text.or_else(|_| read().map_err(Unmet::from)).unwrap_or_default())
        });
        Ended {
            stdout: self.stdout_at_end(),
            stderr: self.stderr.wait(|_| false),
            address: self.address,
            name: self.name,
            command: self.command.clone(),
            status,
            trace,
        }
    }

    fn stdout_at_end(&self) -> String {
        self.stdout.wait(|_| false)
    }

    /// Waits until it has ended, for whatever reason.
    pub(crate) fn finish(mut self) -> Result<Ended, Unmet> {
        let status = self.wait()?;
        Ok(self.ended(status))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(self) -> Result<Ended, Unmet> {
        self.signal(Signal::SIGTERM)?;
        self.finish()
    }

    /// Asks it to end, and holds the end against the contract: status 0, nothing but the greeting and the
    /// summary on stdout, a summary whose counts add up. For a server started with `--json`.
    pub(crate) fn stop(self) -> Result<Summary, Unmet> {
        self.terminate()?.summary()
    }

    /// What strace has seen so far.
    pub(crate) fn trace_so_far(&self) -> String {
        let bytes = self.log.as_ref().and_then(|log| fs::read(log.path()).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        if self.foreign {
            let _ = signal::killpg(self.pid, Signal::SIGKILL);
            groups().remove(&self.pid);
        }
        if !self.has_exited() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The process groups of the foreign servers that run.
fn groups() -> MutexGuard<'static, BTreeSet<Pid>> {
    static GROUPS: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, a signal that ends this process ends those groups before.
fn end_groups_with_us() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without it they would be left behind: no reason not to check.
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            for number in signals.forever() {
                for group in groups().iter() {
                    let _ = signal::killpg(*group, Signal::SIGKILL);
                }
                let _ = low_level::emulate_default_handler(number);
            }
        });
    });
}

/// Knows whether a server runs.
#[derive(Clone)]
pub(crate) struct Watch {
    pid: Pid,
    stderr: Capture,
}

impl Watch {
    /// What it left on stderr, if it has ended.
    pub(crate) fn ended(&self) -> Option<String> {
        // Z: ended, and nobody has asked how.
        match stat_field(self.pid, 0).as_deref() {
            None | Some("Z") => Some(self.stderr.wait(|_| false)),
            Some(_) => None,
        }
    }
}

/// The fields of `/proc/PID/stat` behind the name, the state being number 0.
fn stat_field(pid: Pid, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(index).map(str::to_owned)
}

/// A server that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) address: SocketAddr,
    pub(crate) command: String,
    pub(crate) trace: Option<Trace>,
    pub(crate) name: &'static str,
}

impl Ended {
    /// Fails unless it ended with this status.
    pub(crate) fn expect_status(&self, expected: i32) -> Result<(), Unmet> {
        ensure(self.status.code() == Some(expected), || {
            format!(
                "it ended with {}, not status {expected} (stdout: {:?}, stderr: {:?})\n  {}",
                describe(self.status),
                self.stdout,
                self.stderr,
                self.command
            )
        })?;
        ensure(!self.stderr.contains("panicked") && !self.stderr.contains("stack backtrace"), || {
            format!("it panicked: {:?}\n  {}", self.stderr, self.command)
        })
    }

    /// Its summary, after a proper end. For a server started with `--json`.
    pub(crate) fn summary(&self) -> Result<Summary, Unmet> {
        self.expect_status(0)?;
        let mut lines = self.stdout.lines();
        let greeting = lines.next().unwrap_or_default();
        ensure(greeted_address(greeting, self.name).is_some(), || {
            format!("stdout does not begin with the greeting: {:?}", self.stdout)
        })?;
        let (object, more) = (lines.next().unwrap_or_default(), lines.next());
        ensure(more.is_none(), || {
            format!("stdout is not the greeting and one line of JSON: {:?}\n  {}", self.stdout, self.command)
        })?;
        let summary = Summary::parse(object)?;
        summary.check(self.name, self.address)?;
        Ok(summary)
    }

    /// What strace has seen.
    pub(crate) fn trace(&self) -> Result<&Trace, Unmet> {
        self.trace.as_ref().ok_or_else(strace::missing_log)
    }
}

/// An exit status in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(number)) => format!("signal {number}"),
        (None, None) => "no status".to_owned(),
    }
}
