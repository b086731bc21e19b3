//! mio-pipe: is a wake-up written although nobody sleeps?
//!
//! New here: the count: how many writes a wake costs, as the kernel has counted them.
//! Run:      cargo run --bin mio-pipe              (or one part: wake, flag, race)
//! Watch:    strace -f -c -e trace=write,epoll_wait target/debug/mio-pipe flag
//! Expect:   wake: a write each; flag: none while nobody sleeps, one for each wake of a sleeper; race: in between
//! Still wrong: a flag, a queue and an order of three steps, to be kept by hand (next: future-notify).

use std::fmt;
use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::parse_count;
use echo_service::wakes::{self, WakeCount, count_writes};
use mio::{Events, Poll, Token, Waker};
use serde::Serialize;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// Which parts to run [default: all]
    #[arg(value_name = "PART")]
    parts: Vec<Part>,

    /// How many wakes each part makes, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count::<1_000_000>)]
    wakes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// `Waker::wake` while nobody polls
    Wake,
    /// The same behind an "is it asleep?" flag, with a queue
    Flag,
    /// Behind the flag, while both sides run at full speed
    Race,
}

/// What one experiment counted.
#[derive(Serialize)]
struct Count {
    part: Part,
    #[serde(flatten)]
    cost: WakeCount,
    /// How often the woken side was woken: events of the poll.
    events: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Wake => "wake",
            Part::Flag => "flag",
            Part::Race => "race",
        };
        write!(f, "{part}  {}", self.cost)
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    parts: Vec<Count>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let costs = self.parts.iter().map(|count| &count.cost);
        write!(f, "{}: {}", self.program, wakes::sum(costs))
    }
}

fn main() -> ExitCode {
    let about = "Counts the writes that a wake-up costs: mio's, and one behind a flag";
    let (demo, Flags { mut parts, wakes }) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    let mut summary = Summary { program: demo.program(), parts: Vec::new() };
    mark("ready");
    for part in parts {
        let counts = match part {
            Part::Wake => nobody_polls(&demo, wakes).map(|count| vec![count]),
            Part::Flag => behind_a_flag(&demo, wakes),
            Part::Race => at_full_speed(&demo, wakes).map(|count| vec![count]),
        };
        match counts {
            Ok(counts) => summary.parts.extend(counts),
            Err(error) => demo.fail_of("cannot wake or be woken", &error),
        }
    }
    demo.finish(&summary);
    ExitCode::SUCCESS
}

/// Makes a count, and prints it.
fn shown(
    demo: &Demo,
    part: Part,
    case: &'static str,
    wakes: usize,
    writes: Option<u64>,
    events: u64,
) -> Count {
    let count = Count { part, cost: WakeCount::new(case, wakes, writes), events };
    demo.say(&count);
    count
}

/// Polls once, however often it is interrupted; returns how many events there were.
fn poll_once(poll: &mut Poll, timeout: Option<Duration>) -> io::Result<u64> {
    let mut events = Events::with_capacity(4);
    loop {
        match poll.poll(&mut events, timeout) {
            Ok(()) => return Ok(events.iter().count() as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

// region: wake
/// Part one: the waker of mio, while nobody polls. It cannot know, so it writes; the poll finds one event.
fn nobody_polls(demo: &Demo, wakes: usize) -> io::Result<Count> {
    let mut poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), Token(0))?;
    mark("wake poll");
    let writes = count_writes(|| (0..wakes).try_for_each(|_| waker.wake()))?;
    mark("poll poll");
    let events = poll_once(&mut poll, Some(Duration::ZERO))?;
    Ok(shown(demo, Part::Wake, "Waker::wake, nobody polls", wakes, writes, events))
}
// endregion: wake

/// Part two: a queue of work, and a waker that writes only if the other side said that it would sleep.
struct Mailbox {
    letters: Mutex<Vec<usize>>,
    /// Whether the reader sleeps, or is about to.
    asleep: AtomicBool,
    waker: Waker,
}

impl Mailbox {
    fn new(poll: &Poll) -> io::Result<Self> {
        let waker = Waker::new(poll.registry(), Token(0))?;
        Ok(Self { letters: Mutex::new(Vec::new()), asleep: AtomicBool::new(false), waker })
    }

    // region: flag
    /// Leaves a letter; wakes the reader if it sleeps.
    fn post(&self, letter: usize) -> io::Result<()> {
        self.letters().push(letter);
        // The letter first, then the look at the flag. Whoever finds the flag set, and clears it, must
        // write, and nobody else.
        if self.asleep.swap(false, Ordering::SeqCst) { self.waker.wake() } else { Ok(()) }
    }

    /// Announces a sleep. Returns whether to go through with it: not if a letter has come meanwhile.
    fn fall_asleep(&self) -> bool {
        // The flag first, then the look at the letters: the other way round, a letter between the two
        // would find nobody asleep, write nothing, and lie there while the reader sleeps.
        self.asleep.store(true, Ordering::SeqCst);
        let sleep = self.letters().is_empty();
        if !sleep {
            self.asleep.store(false, Ordering::SeqCst);
        }
        sleep
    }
    // endregion: flag

    /// Takes all letters.
    fn collect(&self) -> Vec<usize> {
        std::mem::take(&mut *self.letters())
    }

    fn letters(&self) -> MutexGuard<'_, Vec<usize>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader: takes letters, sleeps when there are none, until it has taken `expected`. Calls
    /// `asleep` when nothing can keep it from sleeping any more. Returns how often an event woke it.
    fn read(&self, poll: &mut Poll, expected: usize, asleep: impl Fn()) -> io::Result<u64> {
        let (mut taken, mut events) = (0, 0);
        while taken < expected {
            if self.fall_asleep() {
                asleep();
                mark("poll reader");
                events += poll_once(poll, None)?;
                // Awake, for whatever reason: nobody needs to write.
                self.asleep.store(false, Ordering::SeqCst);
            }
            taken += self.collect().len();
        }
        Ok(events)
    }
}

fn behind_a_flag(demo: &Demo, wakes: usize) -> io::Result<Vec<Count>> {
    let mut poll = Poll::new()?;
    let mailbox = Mailbox::new(&poll)?;
    let shown = |case, writes, events| shown(demo, Part::Flag, case, wakes, writes, events);

    mark("wake reader");
    let writes = count_writes(|| (0..wakes).try_for_each(|letter| mailbox.post(letter)))?;
    let events = poll_once(&mut poll, Some(Duration::ZERO))?;
    mailbox.collect();
    let busy = shown("behind a flag, nobody sleeps", writes, events);

    // Each letter waits until the reader sleeps, so each must be written.
    let (writes, events) = thread::scope(|scope| {
        let (sleeps, asleep) = mpsc::channel();
        let sleeps = move || {
            // Nobody asks any more once the last letter is posted.
            let _ = sleeps.send(());
        };
        let reader = thread::Builder::new().spawn_scoped(scope, || mailbox.read(&mut poll, wakes, sleeps))?;
        let writes = count_writes(|| {
            (0..wakes).try_for_each(|letter| match asleep.recv() {
                Ok(()) => mailbox.post(letter),
                Err(_) => Ok(()),
            })
        })?;
        io::Result::Ok((writes, joined(reader.join())?))
    })?;
    let asleep = shown("behind a flag, asleep each time", writes, events);
    Ok(vec![busy, asleep])
}

/// Part three: the flag, and nobody waits for anybody.
fn at_full_speed(demo: &Demo, wakes: usize) -> io::Result<Count> {
    let mut poll = Poll::new()?;
    let mailbox = Mailbox::new(&poll)?;
    // Letters as fast as they go: that the reader gets them all is the proof that no wake is lost.
    let (writes, events) = thread::scope(|scope| {
        let reader = thread::Builder::new().spawn_scoped(scope, || mailbox.read(&mut poll, wakes, || {}))?;
        let writes = count_writes(|| (0..wakes).try_for_each(|letter| mailbox.post(letter)))?;
        io::Result::Ok((writes, joined(reader.join())?))
    })?;
    Ok(shown(demo, Part::Race, "behind a flag, both at full speed", wakes, writes, events))
}

/// What the reader's thread returned.
fn joined(joined: thread::Result<io::Result<u64>>) -> io::Result<u64> {
    joined.unwrap_or_else(|_| Err(io::Error::other("the reader's thread panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> (Poll, Mailbox) {
        let poll = Poll::new().expect("an epoll");
        let mailbox = Mailbox::new(&poll).expect("an eventfd");
        (poll, mailbox)
    }

    #[test]
    fn a_letter_that_comes_before_the_sleep_prevents_it() {
        let (_poll, mailbox) = mailbox();
        assert!(mailbox.collect().is_empty());
        // The reader has just found nothing; it has not said yet that it sleeps.
        mailbox.post(7).expect("posted");
        assert!(!mailbox.fall_asleep(), "a sleep now would never end: the letter was not announced");
        assert_eq!(mailbox.collect(), [7]);
    }

    #[test]
    fn a_letter_that_comes_after_the_announcement_wakes() {
        let (mut poll, mailbox) = mailbox();
        assert!(mailbox.fall_asleep());
        let writes = count_writes(|| (0..3).try_for_each(|letter| mailbox.post(letter))).expect("posted");
        assert!(writes.is_none_or(|writes| writes == 1), "the first letter writes for all three: {writes:?}");
        assert_eq!(poll_once(&mut poll, Some(Duration::ZERO)).expect("polled"), 1);
    }
}
