//! A server as its user starts it, and what the contract says of its end.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::{Greeting, Output, Process, describe, free_address};

use crate::summary::Summary;
use crate::target::{Origin, Target};
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

/// Looks until `look` finds something, or the deadline has passed.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> Result<T, Unmet> {
    Ok(harness::eventually(what, deadline(), look)?)
}

/// A server about to be started.
#[derive(Clone)]
pub(crate) struct Launch<'a> {
    target: &'a Target,
    launch: harness::Launch,
    address: Option<String>,
    without_address: bool,
    /// It can say where it listens.
    heard: bool,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(target: &'a Target) -> Self {
        let launch = match &target.0 {
            Origin::Rung { program, flags, env, .. } => env
                .iter()
                .fold(harness::Launch::new(program.display()).args(flags), |launch, (name, value)| {
                    launch.env(name, value)
                }),
            Origin::Foreign { command } => harness::Launch::new(&command[0]).args(&command[1..]),
        };
        let launch = launch.patience(deadline());
        Self { target, launch, address: None, without_address: false, heard: true }
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
        self.launch = self.launch.args(args);
        self
    }

    /// A command that runs the server's command behind it, in the same process.
    pub(crate) fn prefix<S: ToString>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        self.launch = self.launch.prefix(prefix);
        self
    }

    /// Under strace with these options, which shows what a descriptor leads to.
    pub(crate) fn traced(mut self, options: impl IntoIterator<Item = String>) -> Self {
        self.launch = self.launch.traced(["-yy".to_owned()].into_iter().chain(options));
        self
    }

    /// On this core alone.
    pub(crate) fn on_core(mut self, core: usize) -> Self {
        self.launch = self.launch.on_core(core);
        self
    }

    pub(crate) fn stdout(mut self, stdout: Output) -> Self {
        self.heard = matches!(stdout, Output::Captured | Output::FirstLine);
        self.launch = self.launch.stdout(stdout);
        self
    }

    pub(crate) fn stderr(mut self, stderr: Output) -> Self {
        self.launch = self.launch.stderr(stderr);
        self
    }

    /// The whole command, and the address that it is given, if its port is known before.
    fn whole(self) -> (harness::Launch, Option<SocketAddr>) {
        let known = self.address.as_ref().and_then(|address| address.parse::<SocketAddr>().ok());
        match &self.target.0 {
            Origin::Rung { .. } if self.without_address => (self.launch, known),
            Origin::Rung { .. } => {
                let address = match self.address {
                    Some(address) => address,
                    None if self.heard => "127.0.0.1:0".to_owned(),
                    // It will not be able to say where it is.
                    None => free_address().to_string(),
                };
                let known = address.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
                (self.launch.args([address]), known)
            }
            Origin::Foreign { .. } => {
                let address = known.unwrap_or_else(free_address);
                (self.launch.fill_in(address), Some(address))
            }
        }
    }

    /// Starts it and waits until it is ready: until its greeting, or until its port is bound.
    pub(crate) fn start(self) -> Result<Server, Unmet> {
        let name = self.name();
        let speaks = self.heard && matches!(self.target.0, Origin::Rung { .. });
        let (launch, known) = self.whole();
        let mut process = launch.start()?;
        if speaks {
            let greeting = process.await_greeting()?;
            ensure(greeting.program == name, || {
                format!("its first line on stdout is no greeting of {name}: {:?}", process.stdout())
            })?;
        } else {
            match known {
                Some(address) => process.await_port(address)?,
                None => return fails("a server that cannot say where it listens was given no port"),
            }
        }
        let address = process.address()?;
        Ok(Server { process, address, name })
    }

    /// Starts it and waits until it greets or ends: for a place in which it may serve or not. For a server of the
    /// ladder.
    pub(crate) fn start_or_end(self) -> Result<Result<Server, harness::Ended>, Unmet> {
        let name = self.name();
        let mut process = self.whole().0.start()?;
        match process.await_greeting() {
            Ok(_) => {
                let address = process.address()?;
                Ok(Ok(Server { process, address, name }))
            }
            Err(_) if process.has_exited() => Ok(Err(process.finish()?)),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts it and waits until it ends: for what is to fail, or to end by itself.
    pub(crate) fn run(self) -> Result<harness::Ended, Unmet> {
        Ok(self.whole().0.run()?)
    }

    fn name(&self) -> &'static str {
        self.target.entry().map_or("the server", |rung| rung.name)
    }
}

/// A running server. It ends when this goes out of scope.
pub(crate) struct Server {
    process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    name: &'static str,
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Server {
    /// Fails if it has ended.
    pub(crate) fn still_serves(&mut self) -> Result<(), Unmet> {
        if !self.has_exited() {
            return Ok(self.client()?.echo(b"still there?")?);
        }
        let status = describe(self.wait()?);
        fails(format!("it ended ({status}; stderr: {:?})\n  {}", self.stderr(), self.command))
    }

    /// Waits until it has ended, for whatever reason.
    pub(crate) fn finish(self) -> Result<Ended, Unmet> {
        Ok(Ended { ended: self.process.finish()?, address: self.address, name: self.name })
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(self) -> Result<Ended, Unmet> {
        Ok(Ended { ended: self.process.terminate()?, address: self.address, name: self.name })
    }

    /// Asks it to end, and holds the end against the contract: status 0, nothing but the greeting and the
    /// summary on stdout, a summary whose counts add up. For a server started with `--json`.
    pub(crate) fn stop(self) -> Result<Summary, Unmet> {
        self.terminate()?.summary()
    }
}

/// A server that has served and ended.
pub(crate) struct Ended {
    ended: harness::Ended,
    /// Where it listened.
    address: SocketAddr,
    name: &'static str,
}

impl Deref for Ended {
    type Target = harness::Ended;

    fn deref(&self) -> &harness::Ended {
        &self.ended
    }
}

impl Ended {
    /// Its summary, after a proper end. For a server started with `--json`.
    pub(crate) fn summary(&self) -> Result<Summary, Unmet> {
        self.expect_code(0)?;
        let mut lines = self.stdout.lines();
        let greeting = lines.next().and_then(Greeting::parse);
        ensure(greeting.is_some_and(|greeting| greeting.program == self.name), || {
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

    /// How many calls were failed by strace.
    pub(crate) fn injected(&self) -> usize {
        self.calls().filter(|call| call.injected()).count()
    }

    /// How many calls on a UDP socket were failed by strace.
    pub(crate) fn injected_on_socket(&self) -> u64 {
        let on_udp = |first: &String| first.contains("<UDP:") || first.contains("<UDPv6:");
        let injected = self.calls().filter(|call| call.injected());
        injected.filter(|call| call.args.first().is_some_and(on_udp)).count() as u64
    }
}
