//! Runs a schedule against a real target: one thread per worker, each with its own runtime, engine and connections.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::clock::{Monotonic, Nanos, SECOND, seconds};
use crate::connections;
use crate::engine::{Connections, Slot, Work};
use crate::exit::OwnFailure;
use crate::pacer::PacerKind;
use crate::process::most_connections;
use crate::protocol::hyper::Hyper;
use crate::protocol::lean::Lean;
use crate::protocol::line::Line;
use crate::protocol::stream::Connector;
use crate::protocol::{Client, class, udp};
use crate::record::{OWN_FAILURES, Recorder, WindowRecord};
use crate::reporter::{Gauge, Reporter, Shared, WorkerEnd};
use crate::result::{Generator, UdpCounts, WarmUp, Window};
use crate::schedule::Share;
use crate::slo::Conduct;
use crate::spec::{RequestKind, Spec};
use crate::windows::{MOST_WINDOWS, WindowStore};

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

impl Spec {
    fn most_connections(&self) -> usize {
        most_connections(self.kind.route().from.len(), self.threads)
    }

    fn worker_share(&self, worker: usize) -> Share {
        self.share.split(worker as u64, self.threads as u64)
    }

    fn work(&self, worker: usize, start: Nanos) -> Work {
        let connections = match self.connections {
            // The first workers take what does not divide evenly; none goes without.
            Some(n) => Connections::Fixed((n / self.threads + usize::from(worker < n % self.threads)).max(1)),
            None => Connections::Auto((self.most_connections() / self.threads).max(1)),
        };
        Work {
            schedule: self.schedule.clone(),
            share: self.worker_share(worker),
            start,
            warm_up: self.warm_up,
            connections,
            timeout: self.timeout,
            grace: self.grace,
            coalesce: self.coalesce,
            closed: self.closed,
            limit: self.objective.max_latency.filter(|_| self.trial),
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
                Client::Lean => runtime.block_on(connections::worker(work, pacer, reporter, lean)),
                Client::Hyper => runtime.block_on(connections::worker(work, pacer, reporter, hyper)),
            }
        }
        RequestKind::Line(route, body) => {
            let (route, body) = (Arc::clone(route), body.clone());
            let make = move |_| Line::new(Arc::clone(&route), body.clone());
            runtime.block_on(connections::worker(work, pacer, reporter, make))
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

/// Why a worker could not run. What the kernel refuses it is the generator's own failure.
fn worker_failed(error: &io::Error) -> anyhow::Error {
    let class = class(error);
    match OWN_FAILURES.iter().find(|(own, _)| *own == class) {
        Some((_, step)) => OwnFailure(format!("a worker could not run ({class}): {step}")).into(),
        None => anyhow::anyhow!("a worker could not run ({error}): check the limits on open files"),
    }
}

/// What a warm-up says in which requests failed and nothing was answered, neither well nor otherwise: to go on would
/// measure nothing.
fn no_answer(warm_up: &WarmUp) -> Option<anyhow::Error> {
    let failed: u64 = warm_up.errors.values().sum();
    let answered = warm_up.ok > 0 || warm_up.errors.keys().any(|class| class.starts_with("http "));
    if answered || 2 * failed < warm_up.scheduled.max(1) {
        return None;
    }
    let (class, _) = warm_up.errors.iter().max_by_key(|(_, count)| **count)?;
    let what = format!("none of {} requests of the warm-up was answered ({class})", warm_up.scheduled);
    Some(match OWN_FAILURES.iter().find(|(own, _)| own == class) {
        Some((_, step)) => OwnFailure(format!("{what}: {step}")).into(),
        None => anyhow::anyhow!(
            "{what}: see that the server runs and that the target names its address and port, then run it again"
        ),
    })
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
        warmed_up: Mutex::default(),
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
            warm_until: (spec.warm_up > 0).then_some(measured_start),
        };
        let spec = spec.clone();
        let thread = std::thread::Builder::new().name(format!("loadgen-{number}"));
        let spawned = thread.spawn(move || worker(&spec, work, number, reporter));
        workers.push(spawned.context("cannot start a worker thread: use fewer --threads")?);
    }
    drop(full);

    let total = spec.warm_up + spec.schedule.duration;
    // Counting Poisson arrivals means drawing them: only where the number is needed.
    let scheduled = if spec.trial { spec.share.of_first(spec.schedule.count_before(Nanos::MAX)) } else { 0 };
    let allowed = spec.objective.allowed_over(scheduled);
    let (mut store, mut interrupted, mut stopped_at) = (WindowStore::new(MOST_WINDOWS), false, None);
    let mut next_line = start + SECOND;
    let mut last: Option<WindowRecord> = None;
    let mut turn = 0;
    let mut unanswered = None;
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
            let hopeless = spec.trial && sum(|g| &g.over_limit) > allowed;
            interrupted = interrupt.load(Relaxed);
            if spec.stop_if_unanswered && unanswered.is_none() {
                let warmed_up = shared.warmed_up.lock().unwrap_or_else(PoisonError::into_inner);
                unanswered = (warmed_up.1 == spec.threads).then(|| no_answer(&warmed_up.0)).flatten();
            }
            if hopeless || interrupted || unanswered.is_some() {
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
    let mut kernel_dropped = Some(0);
    for worker in workers {
        let end = worker
            .join()
            .map_err(|_| anyhow::anyhow!("a worker thread failed: this is a bug of loadgen's"))?;
        ends.push(end.map_err(|e| worker_failed(&e))?);
    }
    if let Some(error) = unanswered {
        return Err(error);
    }
    let end = measured_start + spec.schedule.duration;
    let duration = stopped_at.map_or(end, |at| at.min(end)).saturating_sub(measured_start);
    let mut recorder = Recorder::new(measured_start, spec.schedule.duration, None);
    let mut generator = Generator::default();
    let (mut connections, mut cap) = (0, 0);
    let mut datagrams: Option<UdpCounts> = None;
    for end in &ends {
        recorder.merge(&end.recorder);
        let (cpu, share, wanted) = end.cpu.spent();
        generator.cpu_seconds += cpu;
        generator.cpu_share = generator.cpu_share.max(share);
        generator.cpu_wanted = generator.cpu_wanted.max(wanted);
        generator.wakes += end.wakes;
        kernel_dropped = kernel_dropped.zip(end.kernel_dropped).map(|(a, b)| a + b);
        connections += end.opened as u64;
        cap += end.cap as u64;
        if let Some(udp) = &end.udp {
            datagrams.get_or_insert_default().add(udp);
        }
    }
    // What a closed loop sends is not the schedule's; that is shown beside it.
    let due = |share: Share| share.of_first(spec.schedule.count_before(duration));
    let parts: Vec<(Share, u64)> = (ends.iter().enumerate())
        .map(|(number, end)| {
            let share = spec.worker_share(number);
            (share, if spec.closed.is_some() { due(share) } else { end.recorder.counts.scheduled })
        })
        .collect();
    let conduct = Conduct {
        cpu_wanted: (spec.pacer != PacerKind::Spin).then_some(generator.cpu_wanted),
        kernel_dropped,
        connections_must_suffice: spec.trial || spec.connections.is_none(),
        coalesce: spec.coalesce,
        open_loop: spec.closed.is_none(),
        aborted: stopped_at.is_some(),
    };
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    Ok(Finished {
        windows: store.finish(&spec.schedule, &parts, duration),
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
