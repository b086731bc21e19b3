//! ready-among-many: finds the one socket that is ready among N, and says what that costs.
//!
//! New here: the question itself, asked of select, poll, epoll, or left to a thread for each socket.
//! Run:      cargo run --release --bin ready-among-many -- --wait poll --sockets 1000
//! Watch:    strace -f -c target/debug/ready-among-many --wait epoll
//! Expect:   poll and select cost more with each socket; epoll and threads do not; threads cost memory and switches
//! Still wrong: nothing is done with what is found (next: two-sockets).

#[path = "ready-among-many/sources.rs"]
mod sources;
#[path = "ready-among-many/waits.rs"]
mod waits;

use std::fmt;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use echo_service::demo::{self, Demo};
use echo_service::{explain, parse_count};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::gettid;
use serde::Serialize;
use trace_marks::mark;

use sources::{Kind, Sources};
use waits::{Trigger, Wait, Waiter};

#[derive(clap::Args)]
struct Flags {
    /// How the ready one is found
    #[arg(long, value_name = "HOW", default_value = "epoll")]
    wait: Wait,

    /// How many sockets there are, 1 to 100000000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count::<100_000_000>)]
    sockets: usize,

    /// What stands for a socket
    #[arg(long, value_name = "KIND", default_value = "udp")]
    kind: Kind,

    /// How often one socket becomes ready, 1 to 1000000; the medians are over so many
    #[arg(long, value_name = "N", default_value = "200", value_parser = parse_count::<1_000_000>)]
    rounds: usize,

    /// How many sockets become ready at once where bursts are counted, 1 to 1000000 [default: 64, or all]
    #[arg(long, value_name = "N", value_parser = parse_count::<1_000_000>)]
    burst: Option<usize>,

    /// Instead: epoll, level-triggered and edge-triggered, while K of the sockets, 1 to 1000000, are never read to the end
    #[arg(long, value_name = "K", value_parser = parse_count::<1_000_000>)]
    stay_ready: Option<usize>,
}

/// What the one way to wait costs.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    wait: Wait,
    kind: Kind,
    sockets: usize,
    /// How long it took to open them, in milliseconds.
    open_ms: f64,
    /// How long it took from there until all of them were waited for, in milliseconds.
    start_ms: f64,
    /// What the waiting added to the memory of the program that is in RAM, in KiB.
    resident_kib: Option<u64>,
    /// What it added to the stacks that the kernel keeps for threads, in KiB; of the whole system.
    kernel_stacks_kib: Option<u64>,
    /// What it added to the address space of the program, in KiB.
    virtual_kib: Option<u64>,
    /// A wait for a socket that is ready already, and the receive: the median, in microseconds. A thread that
    /// waits for one socket has nothing to find: `null`.
    ready_us: Option<f64>,
    /// From the send until the sleeping waiter has the datagram: the median, in microseconds.
    asleep_us: f64,
    /// How many sockets became ready at once.
    burst: usize,
    /// Waits for each datagram of a burst, the first of which is handled until the last has come; a thread has no wait but its receive: `null`.
    burst_waits: Option<f64>,
    /// How often a waiter went to sleep for each datagram of a burst: voluntary context switches.
    burst_switches: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |kib: Option<u64>| match kib {
            Some(kib) => format!("{:.1} MB", kib as f64 / 1024.0),
            None => "unknown".to_owned(),
        };
        writeln!(f, "{}: {} sockets ({}), found by {}", self.program, self.sockets, self.kind, self.wait)?;
        writeln!(
            f,
            "  start    {:.1} ms to open them, {:.1} ms until all are waited for",
            self.open_ms, self.start_ms
        )?;
        writeln!(
            f,
            "  memory   {} resident, {} of kernel stacks, {} of address space",
            mb(self.resident_kib),
            mb(self.kernel_stacks_kib),
            mb(self.virtual_kib)
        )?;
        match self.ready_us {
            Some(ready) => writeln!(
                f,
                "  wake-up  {ready:.1} us if it is ready already, {:.1} us asleep",
                self.asleep_us
            )?,
            None => writeln!(f, "  wake-up  {:.1} us asleep", self.asleep_us)?,
        }
        write!(f, "  burst    {} at once: ", self.burst)?;
        if let Some(waits) = self.burst_waits {
            write!(f, "{waits:.2} waits and ")?;
        }
        write!(f, "{:.2} switches for each datagram", self.burst_switches)
    }
}

/// How many sockets become ready at once unless told.
const BURST: usize = 64;

/// How many turns `--stay-ready` takes: no more than the datagrams that a socket's buffer holds.
const TURNS: usize = 100;

/// What `--stay-ready` counts.
#[derive(Serialize)]
struct StayReady {
    program: &'static str,
    kind: Kind,
    sockets: usize,
    stay_ready: usize,
    turns: usize,
    level: Turns,
    edge: Turns,
}

/// The turns of one trigger.
#[derive(Serialize)]
struct Turns {
    /// Events that all waits together reported.
    events: u64,
    /// A wait: the median, in microseconds.
    wait_us: f64,
}

impl fmt::Display for StayReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, kind, sockets, stay_ready, turns, .. } = self;
        write!(f, "{program}: {sockets} sockets ({kind}), {stay_ready} of them never empty; {turns} turns")?;
        for (name, trigger) in [("level", &self.level), ("edge", &self.edge)] {
            write!(
                f,
                "\n  {name:<5}  {} events reported, {:.1} us for a wait",
                trigger.events, trigger.wait_us
            )?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let about = "Finds the one socket that is ready among many, and says what that costs";
    let (demo, flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    for (flag, count) in [("--burst", flags.burst), ("--stay-ready", flags.stay_ready)] {
        if count.is_some_and(|count| count > flags.sockets) {
            demo.wrong_usage(format_args!("{flag} asks for more sockets than --sockets {}", flags.sockets));
        }
    }
    mark("ready");
    let outcome = match flags.stay_ready {
        Some(stay_ready) => {
            stay_ready_under_both(&demo, &flags, stay_ready).map(|counts| demo.finish(&counts))
        }
        None => measure(&demo, &flags).map(|summary| demo.finish(&summary)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => demo.fail(explain(&error)),
    }
}

/// Places to be ready next, one after the other, spread evenly over `0..sockets`: steps by the golden section.
fn places(sockets: usize) -> impl FnMut() -> usize {
    let mut at = 0.0_f64;
    move || {
        at = (at + 0.618_033_988_749_895).fract();
        (at * sockets as f64) as usize
    }
}

/// Opens the sockets, waits for them in one way, and makes one ready, and again, and many.
fn measure(demo: &Demo, flags: &Flags) -> io::Result<Summary> {
    let start = Instant::now();
    let sources = Sources::open(flags.kind, flags.sockets)?;
    let (opened, before) = (Instant::now(), Memory::now());
    let mut waiter = match flags.wait {
        Wait::Threads => None,
        how => Some(Waiter::new(how, Trigger::Level, &sources)?),
    };
    let waiters = if waiter.is_some() { 1 } else { flags.sockets };
    let sleepers = Sleepers::new(demo, &sources, waiters);
    let mut place = places(flags.sockets);
    let driven = thread::scope(|scope| {
        match &mut waiter {
            Some(waiter) => {
                let started = thread::Builder::new().spawn_scoped(scope, || sleepers.run_loop(waiter));
                started.unwrap_or_else(|error| demo.fail_of("cannot start a thread", &error));
            }
            None => {
                for index in 0..flags.sockets {
                    let run = {
                        let sleepers = &sleepers;
                        move || sleepers.run_thread(index)
                    };
                    let started = thread::Builder::new().spawn_scoped(scope, run);
                    started.unwrap_or_else(|error| {
                        demo.fail(format_args!(
                            "could start {index} of {} threads ({error}): ask for fewer with --sockets, or raise the \
                             limits on processes (`ulimit -u`) and mappings (`sysctl vm.max_map_count`)",
                            flags.sockets
                        ))
                    });
                }
            }
        }
        // A failure ends the program here: those that sleep would never end.
        sleepers.drive(flags, &mut place).unwrap_or_else(|error| demo.fail(explain(&error)))
    });
    let grown = |of: fn(&Memory) -> Option<u64>| {
        of(&driven.memory).zip(of(&before)).map(|(now, then)| now.saturating_sub(then))
    };
    let mut summary = Summary {
        program: demo.program(),
        wait: flags.wait,
        kind: flags.kind,
        sockets: flags.sockets,
        open_ms: (opened - start).as_secs_f64() * 1e3,
        start_ms: (driven.waiting - opened).as_secs_f64() * 1e3,
        resident_kib: grown(|memory| memory.resident),
        kernel_stacks_kib: grown(|memory| memory.kernel_stacks),
        virtual_kib: grown(|memory| memory.address_space),
        ready_us: None,
        asleep_us: median_us(driven.asleep),
        burst: driven.burst,
        burst_waits: waiter.is_some().then_some(driven.waits),
        burst_switches: driven.switches,
    };

    if let Some(waiter) = &mut waiter {
        // region: ready
        let mut ready = Vec::new();
        for _ in 0..flags.rounds {
            let socket = place();
            sources.make_ready(socket)?;
            let start = Instant::now();
            for &found in waiter.wait(true)? {
                sources.take(found)?;
            }
            ready.push(start.elapsed().as_nanos() as u64);
        }
        // endregion: ready
        summary.ready_us = Some(median_us(ready));
    }
    Ok(summary)
}

/// Those that wait for the sockets, in threads of their own: one for each, or one that asks which is ready.
struct Sleepers<'a> {
    demo: &'a Demo,
    sources: &'a Sources,
    origin: Instant,
    /// The kernel's number of each waiting thread; 0 while it starts.
    threads: Vec<AtomicI32>,
    /// When the last datagram was taken, in nanoseconds since `origin`.
    taken_at: AtomicU64,
    taken: AtomicU64,
    waits: AtomicU64,
    /// Voluntary context switches, from before a wait until after what it found was taken.
    switches: AtomicU64,
    /// Whether a burst is on its way. Whoever has a datagram of it handles that one for so long.
    arriving: AtomicBool,
    over: AtomicBool,
}

impl<'a> Sleepers<'a> {
    fn new(demo: &'a Demo, sources: &'a Sources, waiters: usize) -> Self {
        Self {
            demo,
            sources,
            origin: Instant::now(),
            threads: (0..waiters).map(|_| AtomicI32::new(0)).collect(),
            taken_at: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            arriving: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Makes sockets ready, one at a time and many at once, and ends those that wait for them.
    fn drive(&self, flags: &Flags, place: &mut impl FnMut() -> usize) -> io::Result<Driven> {
        let waiters = self.threads.len();
        (0..waiters).for_each(|waiter| self.until_asleep(waiter));
        let (waiting, memory) = (Instant::now(), Memory::now());

        // region: asleep
        let mut asleep = Vec::new();
        for _ in 0..flags.rounds {
            let socket = place();
            self.until_asleep(socket);
            let sent = self.now();
            self.sources.make_ready(socket)?;
            self.until_taken(1);
            asleep.push(self.taken_at.load(Ordering::Relaxed) - sent);
        }
        // endregion: asleep

        // region: burst
        self.waits.store(0, Ordering::Relaxed);
        self.switches.store(0, Ordering::Relaxed);
        let size = flags.burst.unwrap_or(BURST.min(flags.sockets));
        let bursts = flags.rounds.div_ceil(size);
        for _ in 0..bursts {
            // Each socket once, wherever the burst begins.
            let first = place();
            let burst = (0..size).map(|step| (first + step) % flags.sockets);
            burst.clone().for_each(|socket| self.until_asleep(socket));
            self.arriving.store(true, Ordering::Relaxed);
            burst.clone().try_for_each(|socket| self.sources.make_ready(socket))?;
            self.arriving.store(false, Ordering::Relaxed);
            self.until_taken(size as u64);
        }
        // endregion: burst
        let each = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / (bursts * size) as f64;
        let (waits, switches) = (each(&self.waits), each(&self.switches));

        self.over.store(true, Ordering::Relaxed);
        (0..waiters).try_for_each(|waiter| self.sources.make_ready(waiter))?;
        Ok(Driven { waiting, memory, asleep, burst: size, waits, switches })
    }

    /// Nanoseconds since `origin`.
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// A thread for the socket `index`: sleeps in the receive.
    fn run_thread(&self, index: usize) {
        self.run(index, || self.sources.take(index).map(|()| 1));
    }

    /// A thread for all sockets: sleeps in the wait.
    fn run_loop(&self, waiter: &mut Waiter<'_>) {
        self.run(0, || {
            let found = waiter.wait(true)?;
            found.iter().try_for_each(|&socket| self.sources.take(socket))?;
            Ok(found.len() as u64)
        });
    }

    /// Waits and takes by `wait_and_take`, which returns how many, until all is over.
    fn run(&self, waiter: usize, mut wait_and_take: impl FnMut() -> io::Result<u64>) {
        self.threads[waiter].store(gettid().as_raw(), Ordering::Release);
        loop {
            let before = voluntary_switches();
            let taken = wait_and_take().unwrap_or_else(|error| self.demo.fail(explain(&error)));
            self.taken_at.store(self.now(), Ordering::Relaxed);
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.switches.fetch_add(voluntary_switches() - before, Ordering::Relaxed);
            self.waits.fetch_add(1, Ordering::Relaxed);
            self.taken.fetch_add(taken, Ordering::Release);
            while self.arriving.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        }
    }

    /// Returns when the one who waits for `socket` sleeps.
    fn until_asleep(&self, socket: usize) {
        let thread = &self.threads[socket % self.threads.len()];
        while !demo::is_asleep(thread.load(Ordering::Acquire)) {
            thread::yield_now();
        }
    }

    /// Returns when `count` datagrams more have been taken.
    fn until_taken(&self, count: u64) {
        while self.taken.load(Ordering::Acquire) < count {
            thread::yield_now();
        }
        self.taken.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What came of making sockets ready.
struct Driven {
    /// When all were waited for.
    waiting: Instant,
    memory: Memory,
    /// From each send until its datagram was taken, in nanoseconds.
    asleep: Vec<u64>,
    /// How many datagrams a burst had; waits and voluntary switches for each of them.
    burst: usize,
    waits: f64,
    switches: f64,
}

/// Level-triggered and edge-triggered epoll, while the first `stay_ready` sockets always hold more than a turn takes.
fn stay_ready_under_both(demo: &Demo, flags: &Flags, stay_ready: usize) -> io::Result<StayReady> {
    let turns = |trigger| {
        let sources = Sources::open(flags.kind, flags.sockets)?;
        turns(&sources, &mut Waiter::new(Wait::Epoll, trigger, &sources)?, stay_ready)
    };
    Ok(StayReady {
        program: demo.program(),
        kind: flags.kind,
        sockets: flags.sockets,
        stay_ready,
        turns: TURNS,
        level: turns(Trigger::Level)?,
        edge: turns(Trigger::Edge)?,
    })
}

// region: turns
/// In each turn one datagram is taken from each socket that may have one. One more socket, if there is one,
/// becomes ready in each turn.
fn turns(sources: &Sources, waiter: &mut Waiter<'_>, stay_ready: usize) -> io::Result<Turns> {
    for _ in 0..TURNS {
        (0..stay_ready).try_for_each(|socket| sources.make_ready(socket))?;
    }
    let other = (stay_ready < sources.len()).then_some(stay_ready);
    // What an edge-triggered program has to remember: who may have more.
    let mut may_have_more = vec![false; sources.len()];
    let (mut events, mut waits) = (0, Vec::new());
    for _ in 0..TURNS {
        if let Some(other) = other {
            sources.make_ready(other)?;
        }
        let start = Instant::now();
        let found = waiter.wait(false)?;
        waits.push(start.elapsed().as_nanos() as u64);
        events += found.len() as u64;
        found.iter().for_each(|&socket| may_have_more[socket] = true);
        (0..stay_ready)
            .filter(|&socket| may_have_more[socket])
            .try_for_each(|socket| sources.take(socket))?;
        if let Some(other) = other.filter(|&other| std::mem::take(&mut may_have_more[other])) {
            sources.take(other)?;
        }
    }
    Ok(Turns { events, wait_us: median_us(waits) })
}
// endregion: turns

/// The median of nanoseconds, in microseconds.
fn median_us(mut nanoseconds: Vec<u64>) -> f64 {
    nanoseconds.sort_unstable();
    nanoseconds.get(nanoseconds.len() / 2).map_or(0.0, |&median| median as f64 / 1e3)
}

/// How often this thread has gone to sleep.
fn voluntary_switches() -> u64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.voluntary_context_switches() as u64)
}

/// What the kernel says of memory, in KiB; `None` where it does not.
struct Memory {
    resident: Option<u64>,
    address_space: Option<u64>,
    kernel_stacks: Option<u64>,
}

impl Memory {
    fn now() -> Self {
        let read = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        };
        Self {
            resident: read("/proc/self/status", "VmRSS:"),
            address_space: read("/proc/self/status", "VmSize:"),
            kernel_stacks: read("/proc/meminfo", "KernelStack:"),
        }
    }
}
