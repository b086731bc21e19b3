//! Runs a schedule against a real target: one thread per worker, each with its own runtime, engine and connections.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::clock::{Monotonic, Nanos, SECOND, seconds};
use crate::engine::{Closed, Connections, Engine, Slot, Work};
use crate::pacer::{Pacer, PacerKind};
use crate::protocol::hyper::Hyper;
use crate::protocol::lean::Lean;
use crate::protocol::line::Line;
use crate::protocol::stream::{Connector, Tls};
use crate::protocol::{Client, Context, Protocol, Route, udp};
use crate::record::{Metric, Recorder, WINDOW, WindowRecord};
use crate::result::{Generator, UdpCounts, Window};
use crate::schedule::{Arrival, Job, Schedule, Share};
use crate::slo::{Conduct, Objective};
use crate::template::Requests;

/// What kind of requests, and whereto.
#[derive(Clone)]
pub enum RequestKind {
    /// HTTP/1.1, over TLS if there is one.
    Http(Client, Arc<Route>, Arc<Requests>, Option<Tls>),
    /// Datagrams of this size.
    Udp(Arc<Route>, usize),
    /// Connect, send this (if it is not empty), read to the end.
    Line(Arc<Route>, Bytes),
}

/// A run, ready to start.
#[derive(Clone)]
pub struct Spec {
    /// Whereto and what.
    pub kind: RequestKind,
    /// When.
    pub schedule: Schedule,
    /// Which part of the schedule is this process's.
    pub share: Share,
    /// Length of the warm-up.
    pub warm_up: Nanos,
    /// When the warm-up begins; at once if `None`.
    pub start_at: Option<SystemTime>,
    /// How the workers wait.
    pub pacer: PacerKind,
    /// Requests due within this time leave at one wake.
    pub coalesce: Nanos,
    /// Workers.
    pub threads: usize,
    /// Connections (sockets for udp) of all workers together; `None` is auto.
    pub connections: Option<usize>,
    /// Age at which a request is cancelled.
    pub timeout: Nanos,
    /// Wait for what is unfinished at the end.
    pub grace: Nanos,
    /// `None`: open loop.
    pub closed: Option<Closed>,
    /// The objective.
    pub objective: Objective,
    /// End as soon as the objective cannot hold any more.
    pub abort_early: bool,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Seconds since the start of the warm-up.
    pub elapsed: f64,
    /// Length of warm-up and schedule.
    pub total: f64,
    /// It is still warming up.
    pub warm_up: bool,
    /// Requests that ended in the last full window.
    pub ended: u64,
    /// Requests released and not ended.
    pub pending: u64,
    /// Corrected latency of the last full window: median, 99th percentile, maximum, in seconds.
    pub latency: Option<(f64, f64, f64)>,
}

/// A run that has ended.
pub struct Finished {
    /// Everything recorded.
    pub recorder: Recorder,
    /// The windows.
    pub windows: Vec<Window>,
    /// How the generator did.
    pub conduct: Conduct,
    /// What it spent.
    pub generator: Generator,
    /// Connections opened.
    pub connections: u64,
    /// Most connections there might have been.
    pub cap: u64,
    /// Datagrams only.
    pub udp: Option<UdpCounts>,
    /// When the measured schedule began, in seconds since 1970.
    pub started: f64,
    /// Length of the schedule, as far as it ran.
    pub duration: Nanos,
    /// A signal ended it.
    pub interrupted: bool,
}

/// What a worker tells the others while it runs.
#[derive(Debug, Default)]
struct Gauge {
    pending: AtomicU64,
    over_limit: AtomicU64,
}

/// What the workers of a run share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    gauges: Vec<Gauge>,
}

/// What a worker hands back.
pub(crate) struct WorkerEnd {
    pub(crate) recorder: Recorder,
    pub(crate) opened: usize,
    pub(crate) cap: usize,
    pub(crate) saturated: bool,
    pub(crate) wakes: u64,
    pub(crate) udp: Option<UdpCounts>,
    pub(crate) cpu: CpuUse,
}

/// A worker's view of what it shares: stop flag, gauge, the way its windows go.
pub(crate) struct Reporter {
    shared: Arc<Shared>,
    number: usize,
    full: Sender<WindowRecord>,
    empty: Receiver<WindowRecord>,
    next_report: Nanos,
    limit: Option<Nanos>,
}

/// How often a worker looks for the stop flag at least.
pub(crate) const STOP_CHECK: Nanos = 50_000_000;

impl Reporter {
    /// True when the run is to end early.
    pub(crate) fn stopped(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }

    /// True when the next [`Reporter::report`] will pass the numbers on: counting them at each wake would cost too much.
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        now >= self.next_report
    }

    /// The latency above which requests are to be counted.
    pub(crate) fn limit(&self) -> Option<Nanos> {
        self.limit
    }

    /// Sends closed windows off; from time to time, tells how many requests are pending and how many too slow.
    pub(crate) fn report(&mut self, recorder: &mut Recorder, now: Nanos, pending: u64, over: u64) {
        while let Some(window) = recorder.take_full() {
            // The receiver lives as long as the run; without one the window would have no reader anyway.
            _ = self.full.send(window);
        }
        if !self.is_due(now) {
            return;
        }
        self.next_report = now + STOP_CHECK / 2;
        while let Ok(window) = self.empty.try_recv() {
            recorder.recycle(window);
        }
        let gauge = &self.shared.gauges[self.number];
        gauge.pending.store(pending, Relaxed);
        gauge.over_limit.store(over, Relaxed);
    }
}

/// CPU time of a thread between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuUse {
    /// At the start: CPU, wait for a core, clock.
    start: Option<(Nanos, Nanos, Nanos)>,
    end: Option<(Nanos, Nanos, Nanos)>,
}

impl CpuUse {
    /// Call at each wake: notes the first one at or after `start` and the first one at or after `end`.
    pub(crate) fn note(&mut self, now: Nanos, start: Nanos, end: Nanos) {
        if self.start.is_none() && now >= start {
            self.start = Some(Self::read(now));
        } else if self.end.is_none() && now >= end {
            self.end = Some(Self::read(now));
        }
    }

    /// Call when the worker ends.
    pub(crate) fn close(&mut self) {
        self.end.get_or_insert_with(|| Self::read(Monotonic.now()));
    }

    fn read(now: Nanos) -> (Nanos, Nanos, Nanos) {
        // "CPU wait slices"; where the kernel keeps no such account, only the CPU clock remains.
        let account = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut numbers = account.split_whitespace().map_while(|n| n.parse::<Nanos>().ok());
        let _ = numbers.next();
        let wait = numbers.next().unwrap_or(0);
        let cpu = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map_or(0, |t| t.tv_sec() as u64 * SECOND + t.tv_nsec() as u64);
        (cpu, wait, now)
    }

    /// (CPU seconds, share of wall time, share of wall time with the wait for a core).
    fn spent(&self) -> (f64, f64, f64) {
        let (Some(start), Some(end)) = (self.start, self.end) else { return (0.0, 0.0, 0.0) };
        let cpu = seconds(end.0.saturating_sub(start.0));
        let wait = seconds(end.1.saturating_sub(start.1));
        let wall = seconds(end.2.saturating_sub(start.2)).max(1e-3);
        (cpu, cpu / wall, (cpu + wait) / wall)
    }
}

/// Where a connection's task finds its next request.
#[derive(Default)]
struct Mailbox {
    job: Cell<Option<Job>>,
    cancelled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn register(&self, waker: &Waker) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *held = Some(waker.clone());
        }
    }

    async fn next(&self) -> Job {
        poll_fn(|cx| match self.job.take() {
            Some(job) => Poll::Ready(job),
            None => {
                self.register(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    async fn cancelled(&self) {
        poll_fn(|cx| {
            if self.cancelled.get() {
                return Poll::Ready(());
            }
            self.register(cx.waker());
            Poll::Pending
        })
        .await
    }
}

/// One connection's task: takes requests for as long as there are any, then idles.
async fn serve_slot<P: Protocol>(
    mut protocol: P,
    slot: Slot,
    mailbox: Rc<Mailbox>,
    engine: Rc<RefCell<Engine>>,
    drained: Rc<Notify>,
) {
    loop {
        let mut job = tokio::select! {
            biased;
            job = mailbox.next() => job,
            () = protocol.idle() => continue,
        };
        loop {
            mailbox.cancelled.set(false);
            let context = Context { engine: &engine, slot, job };
            let ending = tokio::select! {
                biased;
                () = mailbox.cancelled() => None,
                ending = protocol.fire(&context) => Some(ending),
            };
            let next = match &ending {
                Some(ending) => engine.borrow_mut().finish(slot, Monotonic.now(), ending),
                None => {
                    protocol.abandon();
                    engine.borrow_mut().rejoin(slot, Monotonic.now())
                }
            };
            match next {
                Some(next) => job = next,
                None => break,
            }
        }
        if engine.borrow().next_wake().is_none() {
            drained.notify_one();
        }
    }
}

/// A worker whose requests each have a connection to themselves.
async fn connections_worker<P: Protocol + 'static>(
    work: Work,
    pacer: PacerKind,
    mut reporter: Reporter,
    make: impl Fn(Slot) -> P,
) -> io::Result<WorkerEnd> {
    let mut pacer = Pacer::new(pacer)?;
    let (begin, start, end) = (work.start, work.measured_start(), work.end());
    let shared = Rc::new(RefCell::new(Engine::new(work)));
    let drained = Rc::new(Notify::new());
    let mut mailboxes: Vec<Rc<Mailbox>> = Vec::new();
    let mut cancelled = Vec::new();
    let (mut saturated, mut ending) = (false, false);
    let mut cpu = CpuUse::default();
    pacer.until(begin).await?;
    loop {
        let now = Monotonic.now();
        let wake = {
            let mut engine = shared.borrow_mut();
            cpu.note(now, start, end);
            if reporter.stopped() {
                engine.stop();
            }
            engine.wake(now, &mut cancelled);
            for slot in cancelled.drain(..) {
                mailboxes[slot].cancelled.set(true);
                mailboxes[slot].wake();
            }
            while let Some((slot, job)) = engine.dispatch(now) {
                if slot == mailboxes.len() {
                    mailboxes.push(Rc::default());
                    let (mailbox, drained) = (Rc::clone(&mailboxes[slot]), Rc::clone(&drained));
                    tokio::task::spawn_local(serve_slot(
                        make(slot),
                        slot,
                        mailbox,
                        Rc::clone(&shared),
                        drained,
                    ));
                }
                mailboxes[slot].job.set(Some(job));
                mailboxes[slot].wake();
            }
            if !ending && (engine.released_all() || now >= end) {
                // The moment at which the pool shows whether it was enough: the last request has just been released.
                (saturated, ending) = (engine.saturated(), true);
            }
            let due = reporter.is_due(now);
            let over =
                if due { reporter.limit().map_or(0, |limit| engine.over_limit(now, limit)) } else { 0 };
            let pending = engine.pending();
            reporter.report(&mut engine.recorder, now, pending, over);
            engine.next_wake()
        };
        let Some(wake) = wake else { break };
        let give_up = shared.borrow().give_up_at();
        if now >= give_up || reporter.stopped() {
            break;
        }
        tokio::select! {
            biased;
            woken = pacer.until(wake.min(now + STOP_CHECK).min(give_up)) => woken?,
            () = drained.notified() => {}
        }
    }
    cpu.close();
    let mut engine = shared.borrow_mut();
    let now = Monotonic.now();
    engine.close(now);
    reporter.report(&mut engine.recorder, now, 0, 0);
    let recorder = std::mem::replace(&mut engine.recorder, Recorder::new(start, end - start, None));
    Ok(WorkerEnd {
        recorder,
        opened: engine.opened(),
        cap: engine.cap(),
        saturated,
        wakes: engine.wakes,
        udp: None,
        cpu,
    })
}

/// Keeps the windows of a run: merged over the workers, encoded, and halved in number when they become too many.
struct WindowStore {
    /// How many are too many.
    most: usize,
    /// Windows that some worker may still add to.
    open: BTreeMap<u64, WindowRecord>,
    kept: BTreeMap<u64, Kept>,
    /// Length of a kept window, in windows of the workers.
    fold: u64,
}

/// A window that is done: only its counts and its encoded metrics are held.
struct Kept {
    ok: u64,
    error: u64,
    timeout: u64,
    corrected: crate::result::Summary,
    uncorrected: crate::result::Summary,
}

/// More windows than this are folded in pairs, so that the memory of a long run stays constant.
const MOST_WINDOWS: usize = 900;

/// A worker may be this many windows behind another before its window is merged the slow way.
const OPEN_WINDOWS: u64 = 3;

impl WindowStore {
    fn new(most: usize) -> Self {
        Self { most, open: BTreeMap::new(), kept: BTreeMap::new(), fold: 1 }
    }

    /// Takes a window of a worker; gives back its memory.
    fn add(&mut self, window: WindowRecord) -> Option<WindowRecord> {
        let newest = self.open.last_key_value().map_or(0, |(number, _)| *number).max(window.number);
        let spare = match self.open.get_mut(&window.number) {
            Some(open) => {
                open.merge(&window);
                Some(window)
            }
            None => {
                self.open.insert(window.number, window);
                None
            }
        };
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() + OPEN_WINDOWS <= newest)
        {
            let done = entry.remove();
            self.keep(&done);
            if spare.is_none() {
                return Some(done);
            }
        }
        spare
    }

    fn keep(&mut self, window: &WindowRecord) {
        let number = window.number / self.fold;
        let kept = Kept {
            ok: window.ok,
            error: window.error,
            timeout: window.timeout,
            corrected: window.corrected.summary(),
            uncorrected: window.uncorrected.summary(),
        };
        match self.kept.remove(&number) {
            None => self.kept.insert(number, kept),
            Some(other) => self.kept.insert(number, Self::fold_two(&kept, &other)),
        };
        if self.kept.len() > self.most {
            self.fold *= 2;
            for (number, kept) in std::mem::take(&mut self.kept) {
                let kept = match self.kept.remove(&(number / 2)) {
                    None => kept,
                    Some(other) => Self::fold_two(&other, &kept),
                };
                self.kept.insert(number / 2, kept);
            }
        }
    }

    fn fold_two(a: &Kept, b: &Kept) -> Kept {
        let sum = |a, b| {
            let mut sum = Metric::new();
            // Both were encoded by this process a moment ago.
            for one in [a, b].into_iter().flat_map(Metric::from_summary) {
                sum.merge(&one);
            }
            sum.summary()
        };
        Kept {
            ok: a.ok + b.ok,
            error: a.error + b.error,
            timeout: a.timeout + b.timeout,
            corrected: sum(&a.corrected, &b.corrected),
            uncorrected: sum(&a.uncorrected, &b.uncorrected),
        }
    }

    /// All windows from the first to the last, empty ones included.
    fn finish(mut self, schedule: &Schedule, share: Share, duration: Nanos) -> Vec<Window> {
        for (_, window) in std::mem::take(&mut self.open) {
            self.keep(&window);
        }
        let length = WINDOW * self.fold;
        let scheduled = scheduled_by(schedule, share, length, duration);
        let last = self.kept.last_key_value().map_or(0, |(number, _)| number + 1).max(scheduled.len() as u64);
        let empty = || Metric::new().summary();
        (0..last)
            .map(|number| {
                let kept = self.kept.remove(&number).unwrap_or_else(|| Kept {
                    ok: 0,
                    error: 0,
                    timeout: 0,
                    corrected: empty(),
                    uncorrected: empty(),
                });
                Window {
                    start: seconds(number * length),
                    length: seconds(length),
                    ok: kept.ok,
                    error: kept.error,
                    timeout: kept.timeout,
                    scheduled: scheduled.get(number as usize).copied().unwrap_or(0),
                    corrected: kept.corrected,
                    uncorrected: kept.uncorrected,
                }
            })
            .collect()
    }
}

/// How many requests of `share` are due in each window of `length`, up to `duration`.
fn scheduled_by(schedule: &Schedule, share: Share, length: Nanos, duration: Nanos) -> Vec<u64> {
    let windows = duration.div_ceil(length) as usize;
    let mut scheduled = vec![0; windows];
    match &schedule.arrival {
        Arrival::Constant(_) | Arrival::Steps(..) | Arrival::Trace(_) => {
            let mut before = 0;
            for (i, window) in scheduled.iter_mut().enumerate() {
                let until = share.of_first(schedule.count_before(((i as u64 + 1) * length).min(duration)));
                *window = until - before;
                before = until;
            }
        }
        Arrival::Poisson(..) | Arrival::Ramp(..) => {
            for due in schedule.cursor(share).take_while(|due| due.at < duration) {
                scheduled[(due.at / length) as usize] += 1;
            }
        }
    }
    scheduled
}

impl Spec {
    fn work(&self, worker: usize, start: Nanos) -> Work {
        let threads = self.threads as u64;
        let connections = match self.connections {
            // The first workers take what does not divide evenly; none goes without.
            Some(n) => Connections::Fixed((n / self.threads + usize::from(worker < n % self.threads)).max(1)),
            None => Connections::Auto,
        };
        Work {
            schedule: self.schedule.clone(),
            share: self.share.split(worker as u64, threads),
            start,
            warm_up: self.warm_up,
            connections,
            timeout: self.timeout,
            grace: self.grace,
            coalesce: self.coalesce,
            closed: self.closed,
            limit: self.objective.max_latency.filter(|_| self.abort_early),
        }
    }
}

/// One worker, from its runtime to its end.
fn worker(spec: &Spec, work: Work, number: usize, reporter: Reporter) -> io::Result<WorkerEnd> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    let pacer = spec.pacer;
    let first = number as u64;
    let step = spec.threads as u64;
    match &spec.kind {
        RequestKind::Http(client, route, requests, tls) => {
            let connector = |slot: Slot| Connector {
                route: Arc::clone(route),
                tls: tls.clone(),
                number: first + step * slot as u64,
            };
            let lean = |slot| Lean::new(connector(slot), Arc::clone(requests));
            let hyper = |slot| Hyper::new(connector(slot), Arc::clone(requests));
            match client {
                Client::Lean => runtime.block_on(connections_worker(work, pacer, reporter, lean)),
                Client::Hyper => runtime.block_on(connections_worker(work, pacer, reporter, hyper)),
            }
        }
        RequestKind::Line(route, body) => {
            let (route, body) = (Arc::clone(route), body.clone());
            let make = move |_| Line::new(Arc::clone(&route), body.clone());
            runtime.block_on(connections_worker(work, pacer, reporter, make))
        }
        RequestKind::Udp(route, size) => {
            runtime.block_on(udp::worker(work, pacer, reporter, Arc::clone(route), *size, first))
        }
    }
}

/// The moment on CLOCK_MONOTONIC that `at` is, or one shortly from now.
fn start_on_clock(at: Option<SystemTime>) -> anyhow::Result<Nanos> {
    // Enough for all threads to have started.
    const SOON: Nanos = 20_000_000;
    let (now, wall) = (Monotonic.now(), SystemTime::now());
    match at {
        None => Ok(now + SOON),
        Some(at) => {
            let wait = at.duration_since(wall).map_err(|_| {
                anyhow::anyhow!(
                    "--start-at lies in the past: give a moment that all machines can still reach"
                )
            })?;
            Ok(now + wait.as_nanos() as Nanos)
        }
    }
}

/// Runs `spec` to its end, or until `interrupt` is set. `progress` is called about once a second.
///
/// # Errors
/// What keeps a worker from starting. A target that misbehaves is no error: it is in the result.
pub fn execute(
    spec: &Spec,
    interrupt: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> anyhow::Result<Finished> {
    let start = start_on_clock(spec.start_at)?;
    let measured_start = start + spec.warm_up;
    let (full, windows) = channel();
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        gauges: (0..spec.threads).map(|_| Gauge::default()).collect(),
    });
    let mut empties = Vec::new();
    let mut workers = Vec::new();
    for number in 0..spec.threads {
        let (back, empty) = channel();
        empties.push(back);
        let work = spec.work(number, start);
        let reporter = Reporter {
            shared: Arc::clone(&shared),
            number,
            full: full.clone(),
            empty,
            next_report: 0,
            limit: work.limit,
        };
        let spec = spec.clone();
        let thread = std::thread::Builder::new().name(format!("loadgen-{number}"));
        let spawned = thread.spawn(move || worker(&spec, work, number, reporter));
        workers.push(spawned.context("cannot start a worker thread: use fewer --threads")?);
    }
    drop(full);

    let total = spec.warm_up + spec.schedule.duration;
    // Counting Poisson arrivals means drawing them: only where the number is needed.
    let scheduled =
        if spec.abort_early { spec.share.of_first(spec.schedule.count_before(Nanos::MAX)) } else { 0 };
    let allowed = spec.objective.allowed_over(scheduled);
    let (mut store, mut interrupted, mut stopped_at) = (WindowStore::new(MOST_WINDOWS), false, None);
    let mut next_line = start + SECOND;
    let mut last: Option<WindowRecord> = None;
    let mut turn = 0;
    loop {
        match windows.recv_timeout(Duration::from_millis(50)) {
            Ok(window) => {
                let newest = last.as_ref().is_none_or(|last| last.number < window.number);
                match &mut last {
                    Some(last) if last.number == window.number => last.merge(&window),
                    _ if newest => last = Some(window.clone()),
                    _ => {}
                }
                if let Some(spare) = store.add(window) {
                    // Whoever gets it: all workers' windows are alike.
                    _ = empties[turn % empties.len()].send(spare);
                    turn += 1;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Monotonic.now();
        let sum =
            |of: fn(&Gauge) -> &AtomicU64| shared.gauges.iter().map(|g| of(g).load(Relaxed)).sum::<u64>();
        if stopped_at.is_none() {
            let hopeless = spec.abort_early && sum(|g| &g.over_limit) > allowed;
            interrupted = interrupt.load(Relaxed);
            if hopeless || interrupted {
                stopped_at = Some(now);
                shared.stop.store(true, Relaxed);
            }
        }
        if now >= next_line {
            next_line = now + SECOND;
            let window = last.as_ref();
            progress(&Progress {
                elapsed: seconds(now.saturating_sub(start)),
                total: seconds(total),
                warm_up: now < measured_start,
                ended: window.map_or(0, |w| w.ok + w.error + w.timeout),
                pending: sum(|g| &g.pending),
                latency: window.filter(|w| w.corrected.count() > 0).map(|w| {
                    let at = |q| seconds(w.corrected.quantile_ns(q));
                    (at(0.5), at(0.99), seconds(w.corrected.max_ns()))
                }),
            });
        }
    }

    let mut ends = Vec::new();
    for worker in workers {
        let end = worker
            .join()
            .map_err(|_| anyhow::anyhow!("a worker thread failed: this is a bug of loadgen's"))?;
        ends.push(
            end.map_err(|e| anyhow::anyhow!("a worker could not run ({e}): check the limits on open files"))?,
        );
    }
    let end = measured_start + spec.schedule.duration;
    let duration = stopped_at.map_or(end, |at| at.min(end)).saturating_sub(measured_start);
    let mut recorder = Recorder::new(measured_start, spec.schedule.duration, None);
    let mut generator = Generator::default();
    let (mut saturated, mut connections, mut cap) = (false, 0, 0);
    let mut datagrams: Option<UdpCounts> = None;
    for end in &ends {
        recorder.merge(&end.recorder);
        let (cpu, share, wanted) = end.cpu.spent();
        generator.cpu_seconds += cpu;
        generator.cpu_share = generator.cpu_share.max(share);
        generator.cpu_wanted = generator.cpu_wanted.max(wanted);
        generator.wakes += end.wakes;
        saturated |= end.saturated;
        connections += end.opened as u64;
        cap += end.cap as u64;
        if let Some(udp) = &end.udp {
            datagrams.get_or_insert_default().add(udp);
        }
    }
    let conduct = Conduct {
        cpu_wanted: (spec.pacer != PacerKind::Spin).then_some(generator.cpu_wanted),
        kernel_dropped: datagrams.map_or(0, |udp| udp.kernel_dropped),
        saturated,
        unloaded: recorder.unloaded(),
        coalesce: spec.coalesce,
        open_loop: spec.closed.is_none(),
        aborted: stopped_at.is_some(),
    };
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    Ok(Finished {
        windows: store.finish(&spec.schedule, spec.share, duration),
        recorder,
        conduct,
        generator,
        connections,
        cap,
        udp: datagrams,
        started: wall - (Monotonic.now() as f64 - measured_start as f64) / 1e9,
        duration,
        interrupted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Rate;

    /// A long run has no more windows than a short one, and loses nothing by it.
    #[test]
    fn windows_are_folded_in_pairs_when_they_become_too_many() {
        let seconds = 41;
        let mut store = WindowStore::new(30);
        let mut spare = None;
        for number in 0..seconds {
            let mut window: WindowRecord = spare.take().unwrap_or_default();
            window = WindowRecord { number, ok: 2, ..window };
            window.corrected.clear();
            window.corrected.record(number + 1, number);
            window.corrected.record(1_000_000, number);
            spare = store.add(window);
        }
        let rate = Rate::new(2, 1).expect("not zero");
        let schedule = Schedule { arrival: Arrival::Constant(rate), duration: seconds * SECOND };
        let windows = store.finish(&schedule, Share::ALL, schedule.duration);
        assert_eq!(windows.len() as u64, seconds.div_ceil(2));
        assert!(windows.iter().all(|window| window.length == 2.0));
        for (of, sum) in [
            ("ok", windows.iter().map(|w| w.ok).sum::<u64>()),
            ("scheduled", windows.iter().map(|w| w.scheduled).sum()),
            ("corrected", windows.iter().map(|w| w.corrected.count).sum()),
        ] {
            assert_eq!(sum, 2 * seconds, "{of}");
        }
        assert_eq!(windows[5].corrected.max, Some(0.001));
    }
}
