//! How long a SIGINT waits for a program that sleeps in a send, and for one that sleeps in poll.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use echo_service::demo::{self, Demo};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::gettid;
use serde::Serialize;

/// Set by the signal.
static SIGNALLED: AtomicBool = AtomicBool::new(false);

// region: handler
extern "C" fn take_note(_: i32) {
    SIGNALLED.store(true, Ordering::Relaxed);
}

/// Installs the handler. With `restart` the kernel goes on with an interrupted call by itself, where it can.
fn install(restart: bool) -> nix::Result<()> {
    let flags = if restart { SaFlags::SA_RESTART } else { SaFlags::empty() };
    let action = SigAction::new(SigHandler::Handler(take_note), flags, SigSet::empty());
    // SAFETY: the handler only stores to an atomic, which a handler may do (signal-safety(7)).
    unsafe { sigaction(Signal::SIGINT, &action) }.map(drop)
}
// endregion: handler

/// Where a program sleeps.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Send,
    Poll,
}

#[derive(Serialize)]
struct Case {
    sleeps_in: Place,
    sa_restart: bool,
    /// When the program looked at its flag after the signal, in milliseconds; `null` if not within the patience.
    heard_after_ms: Option<f64>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.sleeps_in {
            Place::Send => "asleep in a send",
            Place::Poll => "asleep in poll",
        };
        let with = if self.sa_restart { "with" } else { "without" };
        write!(f, "{:<38}", format!("{place}, {with} SA_RESTART:"))?;
        match self.heard_after_ms {
            Some(time) => write!(f, "SIGINT heard after {time:.2} ms"),
            None => write!(f, "SIGINT not heard until the other side had read"),
        }
    }
}

#[derive(Serialize)]
pub struct Summary {
    program: &'static str,
    patience_ms: f64,
    cases: Vec<Case>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = self.cases.iter().filter(|case| case.heard_after_ms.is_some()).count();
        let (program, cases) = (self.program, self.cases.len());
        write!(f, "{program}: {heard} of {cases} heard the signal within {} ms", self.patience_ms)
    }
}

/// Tries all cases, waiting no longer than `patience` for each.
pub fn run(demo: &Demo, patience: Duration) -> io::Result<Summary> {
    let mut cases = Vec::new();
    for sleeps_in in [Place::Send, Place::Poll] {
        for sa_restart in [true, false] {
            let case =
                Case { sleeps_in, sa_restart, heard_after_ms: interrupt(sleeps_in, sa_restart, patience)? };
            demo.say(&case);
            cases.push(case);
        }
    }
    Ok(Summary { program: demo.program(), patience_ms: patience.as_secs_f64() * 1e3, cases })
}

/// Signals a thread that sleeps because nobody reads what it sends; returns after how many milliseconds it
/// looked at its flag.
fn interrupt(sleeps_in: Place, restart: bool, patience: Duration) -> io::Result<Option<f64>> {
    install(restart)?;
    SIGNALLED.store(false, Ordering::Relaxed);
    let (reader, writer) = super::pair()?;
    let (begun, thread) = mpsc::channel();
    let (hears, heard) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        // Both receivers wait for these.
        let _ = begun.send((gettid().as_raw(), pthread_self()));
        let outcome = match sleeps_in {
            Place::Send => send_until_signalled(&writer),
            Place::Poll => poll_until_signalled(&writer),
        };
        let _ = hears.send(outcome.map(|()| Instant::now()));
    })?;
    let gone = |_| io::Error::other("the thread that sends has ended");
    let (number, thread) = thread.recv().map_err(gone)?;
    while !demo::is_asleep(number) {
        thread::yield_now();
    }
    let sent = Instant::now();
    pthread_kill(thread, Signal::SIGINT)?;
    match heard.recv_timeout(patience) {
        Ok(at) => return Ok(Some((at? - sent).as_secs_f64() * 1e3)),
        Err(RecvTimeoutError::Timeout) => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    // It hears when its send has gone through: read, until it has.
    reader.set_read_timeout(Some(Duration::from_millis(10)))?;
    loop {
        match reader.recv(&mut [0; 16]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ if heard.try_recv().is_ok() => return Ok(None),
            _ => {}
        }
    }
}

// region: send
fn send_until_signalled(socket: &UnixDatagram) -> io::Result<()> {
    while !SIGNALLED.load(Ordering::Relaxed) {
        match socket.send(b"datagram") {
            Ok(_) => {}
            // Without SA_RESTART the signal ends the call.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
// endregion: send

fn poll_until_signalled(socket: &UnixDatagram) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    while !SIGNALLED.load(Ordering::Relaxed) {
        match socket.send(b"datagram") {
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
            // A signal ends this call always: signal(7) lists it among those that are never restarted.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
