//! A program that has been started: greeted, poked, watched, frozen and ended.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::address::Greeting;
use crate::capture::{Capture, Line};
use crate::client::Client;
use crate::deadline::eventually;
use crate::ending::{self, Group};
use crate::error::{Context, Result, failed};
use crate::proc;
use crate::recorder::{Recorder, STRACE};
use crate::strace::{Call, Event};
use crate::watch::Watch;

/// More calls than any program makes before it sleeps again when nothing comes.
const SPINNING: usize = 20_000;

/// More processor time than any server uses before it sleeps again when nothing comes. It may spin without a call.
const SPINNING_CPU: Duration = Duration::from_secs(2);

/// How long a program that is asked to end gets before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A started program. Dropped, it is killed, and with it what it has started.
pub struct Process {
    pub(crate) child: Child,
    pub(crate) group: Group,
    /// Its name.
    pub name: String,
    /// How it was started.
    pub command: String,
    /// Where it listens: as its greeting says, or as it was told.
    pub addresses: Vec<SocketAddr>,
    pub(crate) stdout: Capture,
    pub(crate) stderr: Capture,
    /// So many bytes of stdout have been taken by [`Process::line`].
    pub(crate) taken: usize,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) patience: Duration,
}

impl Process {
    /// Its process id. strace, where there is one, stands beside it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// It and what it has started.
    pub fn pids(&self) -> Vec<u32> {
        proc::tree(self.id())
    }

    /// Its first address.
    pub fn address(&self) -> Result<SocketAddr> {
        match self.addresses.first() {
            Some(&address) => Ok(address),
            None => failed(format!("{} named no address to send to\n  {}", self.name, self.command)),
        }
    }

    /// Takes the first line of stdout, which has to be a [`Greeting`].
    pub fn await_greeting(&mut self) -> Result<Greeting> {
        let end = match self.stdout.line_at(self.taken, self.patience) {
            Line::Whole(line, end) => match Greeting::parse(&line) {
                Some(greeting) => {
                    self.taken = end;
                    self.addresses.clone_from(&greeting.addresses);
                    return Ok(greeting);
                }
                None => format!("is no greeting: {line:?}"),
            },
            Line::Late => format!("has not come within {} s", self.patience.as_secs()),
            Line::End => return self.ended_early(),
        };
        let error = self.stderr();
        let Self { name, command, .. } = self;
        failed(format!("{name}: its first line on stdout {end} (stderr: {error:?})\n  {command}"))
    }

    /// Waits until a UDP socket is bound to the address's port: so does a program begin that does not greet.
    pub fn await_port(&mut self, address: SocketAddr) -> Result<()> {
        let pid = self.id();
        let bound =
            eventually(&format!("{} binds UDP port {}", self.name, address.port()), self.patience, || {
                match self.has_exited() {
                    true => Some(false),
                    false => proc::udp_port_is_bound(pid, address.port()).then_some(true),
                }
            });
        match bound.map_err(|error| error.context(&self.command))? {
            true => self.addresses = vec![address],
            false => return self.ended_early(),
        }
        Ok(())
    }

    fn ended_early<T>(&mut self) -> Result<T> {
        let status = self.wait()?;
        self.await_record()?;
        // What it has started may hold the pipe open.
        self.group.kill();
        failed(format!(
            "{} ended instead of serving ({}; stderr: {:?})\n  {}",
            self.name,
            describe(status),
            self.stderr.at_end(self.patience),
            self.command
        ))
    }

    /// The next line of stdout, without its newline.
    pub fn line(&mut self) -> Result<String> {
        let what = match self.stdout.line_at(self.taken, self.patience) {
            Line::Whole(line, end) => {
                self.taken = end;
                return Ok(line);
            }
            Line::Late => format!("no line came within {} s", self.patience.as_secs()),
            Line::End => "stdout ended".to_owned(),
        };
        let (out, error) = (self.stdout(), self.stderr());
        failed(format!("{}: {what} after {out:?} (stderr: {error:?})\n  {}", self.name, self.command))
    }

    /// Takes lines until one contains `text`; returns that one.
    pub fn line_with(&mut self, text: &str) -> Result<String> {
        loop {
            let line = self.line()?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Whether stdout carries no line for that time. For "nothing happens", which a longer wait only makes surer.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        match self.stdout.line_at(self.taken, time) {
            Line::Whole(_, end) => {
                self.taken = end;
                false
            }
            Line::Late | Line::End => true,
        }
    }

    /// What stdout has carried so far.
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What stderr has carried so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Something that knows whether it runs, for a client of it.
    pub fn watch(&self) -> Watch {
        Watch { pid: self.id(), stderr: self.stderr.clone(), patience: self.patience }
    }

    /// A client of it, on a port that the kernel chooses.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::of(self.address()?)?.watching(self.watch()))
    }

    /// A client of it with a certain port number.
    pub fn client_on_port(&self, port: u16) -> Result<Client> {
        Ok(Client::on_port(port, self.address()?)?.watching(self.watch()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(ending::raw(self.id()), signal).context(|| format!("send {signal} to {}", self.name))
    }

    /// The trace so far. It grows by [`Process::pump`], and by whatever waits for the program.
    pub fn events(&self) -> &[Event] {
        self.recorder.as_ref().map_or(&[], |recorder| &recorder.events)
    }

    /// Calls that have not returned yet, in the order in which they began.
    pub fn open_calls(&self) -> Vec<Call> {
        self.recorder.as_ref().map_or_else(Vec::new, Recorder::open_calls)
    }

    /// The finished calls of the trace from that event on.
    pub fn calls_since(&self, start: usize) -> impl Iterator<Item = &Call> {
        calls(&self.events()[start..])
    }

    /// Reads what strace has written, waiting at most `patience` for the first of it; without strace it only
    /// waits. Returns whether anything came.
    pub fn pump(&mut self, patience: Duration) -> Result<bool> {
        let Some(recorder) = &mut self.recorder else {
            thread::sleep(patience);
            return Ok(false);
        };
        let start = Instant::now();
        loop {
            let came = recorder.read().context(|| format!("read the trace of {}", self.name))?;
            let left = patience.saturating_sub(start.elapsed());
            if came || left.is_zero() {
                return Ok(came);
            }
            thread::sleep(left.min(Duration::from_micros(200)));
        }
    }

    /// Whether every thread sleeps and the trace has been read to its end, right now.
    pub fn is_quiet(&mut self) -> Result<bool> {
        let came = self.pump(Duration::ZERO)?;
        let states = proc::states(&self.pids());
        // One that has just ended has no thread left, and strace may still hold it back from its parent.
        Ok(!came && self.has_begun() && !states.is_empty() && states.iter().all(|&state| state == 'S'))
    }

    /// Whether the process is the program already. Under strace it is strace's own first process until the tracer
    /// holds it, and that one sleeps while it waits for the tracer.
    fn has_begun(&self) -> bool {
        self.recorder.is_none() || !proc::runs(self.id(), STRACE[0])
    }

    /// Waits until every thread sleeps and the trace has been read to its end: the program is back in its wait.
    pub fn await_quiet(&mut self) -> Result<()> {
        // What it has done before is no reason for doubt.
        self.pump(Duration::ZERO)?;
        let (start, cpu) = (self.events().len(), proc::cpu(&self.pids()));
        let rest = eventually(&format!("{} comes to rest", self.name), self.patience, || {
            // Once could be between two calls.
            for _ in 0..3 {
                match self.is_quiet() {
                    _ if self.has_exited() => return Some(Ok(Some(true))),
                    Ok(true) => {}
                    Ok(false) if self.events().len() - start > SPINNING => return Some(Ok(None)),
                    Ok(false) if proc::cpu(&self.pids()).saturating_sub(cpu) > SPINNING_CPU => {
                        return Some(Ok(None));
                    }
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
            Some(Ok(Some(false)))
        });
        match rest.map_err(|error| error.context(&self.command))?? {
            Some(false) => Ok(()),
            Some(true) => self.ended_early(),
            None => failed(format!(
                "{} never came to rest: nothing is sent to it, and it goes on without end\n  {}",
                self.name, self.command
            )),
        }
    }

    /// Stops it and what it has started with SIGSTOP, and waits until all their threads stand still.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let mut told = vec![self.id()];
        let what = format!("{} stops on SIGSTOP", self.name);
        let stopped = eventually(&what, self.patience, || {
            let came = match self.pump(Duration::ZERO) {
                Ok(came) => came,
                Err(error) => return Some(Err(error)),
            };
            let mut states = proc::states(&told);
            // One that has ended waits for its parent, which stands still.
            states.retain(|&state| state != 'Z');
            let still = !states.is_empty() && states.iter().all(|&state| matches!(state, 'T' | 't'));
            if !still {
                return None;
            }
            // Parents first: one that waits for its child in vfork(2) stops only when the child goes on.
            if let Some(&child) = self.pids().iter().find(|pid| !told.contains(pid)) {
                ending::signal(&[child], Signal::SIGSTOP);
                told.push(child);
                return None;
            }
            (!came && self.threads_stopped(states.len())).then_some(Ok(()))
        });
        stopped.map_err(|error| error.context(&self.command))?
    }

    /// Whether the end of the trace, if there is one, says of that many threads that they stopped. A thread in
    /// the middle of a traced call looks stopped in `/proc` too.
    fn threads_stopped(&self, threads: usize) -> bool {
        let Some(recorder) = &self.recorder else { return true };
        let goes_on = |event: &Event| matches!(event, Event::Signal { name, .. } if name == "SIGCONT");
        let since = recorder.events.iter().rposition(goes_on).unwrap_or(0);
        let stops = recorder.events[since..].iter().filter(|event| matches!(event, Event::Stopped { .. }));
        let mut stopped: Vec<u32> = stops.map(Event::pid).collect();
        stopped.sort_unstable();
        stopped.dedup();
        stopped.len() >= threads
    }

    /// Lets what was stopped go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        ending::signal(&self.pids()[1..], Signal::SIGCONT);
        Ok(())
    }

    /// Whether it has ended.
    pub fn has_exited(&mut self) -> bool {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit.is_some()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("{} has ended", self.name);
        let status = eventually(&what, self.patience, || if self.has_exited() { self.exit } else { None });
        status.map_err(|error| error.context(&self.command))
    }

    /// Waits until the record of a program that has ended is whole: strace writes its last line when the program is gone
    /// already, and strace is in the group that is killed next.
    fn await_record(&mut self) -> Result<()> {
        if self.recorder.is_none() {
            return Ok(());
        }
        let (pid, patience) = (self.id(), self.patience);
        eventually("strace is done", patience, || match self.pump(Duration::ZERO) {
            Ok(_) => self.recorder.as_ref().is_some_and(|it| it.has_ended(pid)).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })?
    }

    /// Waits until it has ended, for whatever reason; what it leaves. What it has started ends with it.
    pub fn finish(mut self) -> Result<Ended> {
        let status = self.wait()?;
        self.await_record()?;
        // Or it would hold the pipes open.
        self.group.kill();
        Ok(Ended {
            status,
            stdout: self.stdout.at_end(self.patience),
            stderr: self.stderr.at_end(self.patience),
            events: self.recorder.take().map(|recorder| recorder.events),
            addresses: std::mem::take(&mut self.addresses),
            name: std::mem::take(&mut self.name),
            command: std::mem::take(&mut self.command),
        })
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> Result<Ended> {
        self.signal(Signal::SIGTERM)?;
        self.finish()
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for the end.
    pub fn interrupt(self) -> Result<Ended> {
        self.signal(Signal::SIGINT)?;
        self.finish()
    }

    /// Asks it to end, and kills it when it does not: for a program whose end is nobody's concern.
    pub fn dismiss(mut self) {
        // Gone, or deaf to it: the drop does the rest.
        if self.signal(Signal::SIGTERM).is_ok() {
            let _ = eventually("the end", GRACE, || self.has_exited().then_some(()));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_exited() {
            // Children may have groups of their own; the others end with ours.
            ending::signal(&self.pids(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The finished calls among events.
pub fn calls(events: &[Event]) -> impl Iterator<Item = &Call> {
    events.iter().filter_map(|event| match event {
        Event::Call(call) => Some(call),
        _ => None,
    })
}

/// What a program leaves that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// What strace recorded, if it did.
    pub events: Option<Vec<Event>>,
    /// Where it listened.
    pub addresses: Vec<SocketAddr>,
    /// Its name.
    pub name: String,
    /// How it was started.
    pub command: String,
}

impl Ended {
    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The finished calls that strace recorded.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        calls(self.events.as_deref().unwrap_or_default())
    }

    /// Fails unless it ended with this exit code, and without a panic.
    pub fn expect_code(&self, expected: i32) -> Result<()> {
        if self.code() != Some(expected) {
            return failed(format!(
                "{} ended with {}, not status {expected} (stdout: {:?}, stderr: {:?})\n  {}",
                self.name,
                describe(self.status),
                self.stdout,
                self.stderr,
                self.command
            ));
        }
        if self.stderr.contains("panicked") || self.stderr.contains("stack backtrace") {
            return failed(format!("{} panicked: {:?}\n  {}", self.name, self.stderr, self.command));
        }
        Ok(())
    }
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(number)) => format!("signal {number}"),
        (None, None) => "no status".to_owned(),
    }
}
