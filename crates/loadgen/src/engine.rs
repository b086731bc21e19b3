//! What the generator does, without the doing: releases due requests, hands them to connections, cancels at the
//! timeout, and gives up at the end. The live workers and the simulator both drive this one engine.

use std::collections::VecDeque;

use crate::clock::Nanos;
use crate::record::{Ending, Recorder, Stamps};
use crate::schedule::{Backlog, Job, Schedule, Share};

/// How a closed loop departs from the schedule: for comparison only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Each connection sends its next request when the one before has ended.
    AsFastAsPossible,
    /// The same at a rate: a start for which no connection is free is skipped. This is coordinated omission.
    Paced,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// This many.
    Fixed(usize),
    /// The open model: a request that is due and finds none idle opens one, up to this many.
    Auto(usize),
}

/// What one worker is to do.
#[derive(Clone, Debug)]
pub struct Work {
    /// The whole schedule.
    pub schedule: Schedule,
    /// The requests of it that are this worker's.
    pub share: Share,
    /// When the warm-up begins, on the clock.
    pub start: Nanos,
    /// How long it lasts.
    pub warm_up: Nanos,
    /// Most connections of this worker.
    pub connections: Connections,
    /// Age, from the intended time, at which a request is cancelled.
    pub timeout: Nanos,
    /// How long unfinished requests are waited for after the schedule's end.
    pub grace: Nanos,
    /// Requests due within this time leave at one wake.
    pub coalesce: Nanos,
    /// `None`: open loop.
    pub closed: Option<Closed>,
    /// Latencies above it are counted.
    pub limit: Option<Nanos>,
}

impl Work {
    /// When the measured schedule begins.
    pub fn measured_start(&self) -> Nanos {
        self.start + self.warm_up
    }

    /// When it ends.
    pub fn end(&self) -> Nanos {
        self.measured_start() + self.schedule.duration
    }

    fn cap(&self) -> usize {
        match self.connections {
            Connections::Fixed(n) => n,
            // A closed loop has no arrivals that would ask for more.
            Connections::Auto(most) if self.closed.is_some() => most.min(16),
            Connections::Auto(most) => most,
        }
    }
}

/// The server counts as silent when it has sent no reply for this long, and for twice as long as it lately takes.
const SILENCE: Nanos = 100_000_000;

/// So many silences are remembered: a request waits through few.
const MOST_SILENCES: usize = 64;

/// Number of a connection within its worker.
pub type Slot = usize;

#[derive(Clone, Copy, Debug)]
struct Flight {
    job: Job,
    /// How long it waited for a free connection while the server was answering others.
    waited: Nanos,
    connected: Option<Nanos>,
    first_byte: Option<Nanos>,
}

impl Flight {
    fn stamps(&self, ended: Nanos) -> Stamps {
        let Self { job, waited, connected, first_byte } = *self;
        Stamps { job, waited, connected, first_byte, ended }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    work: Work,
    backlog: Backlog,
    /// What has been recorded so far.
    pub recorder: Recorder,
    flights: Vec<Option<Flight>>,
    in_flight: usize,
    idle: Vec<Slot>,
    cap: usize,
    last_reply: Nanos,
    /// When the server sent nothing although requests waited for a connection: from, until.
    silences: VecDeque<(Nanos, Nanos)>,
    /// No flight's deadline lies before this: a scan is due only when it has passed.
    deadline: Nanos,
    /// Closed loop: the next index.
    next_index: u64,
    /// How often it woke.
    pub wakes: u64,
    stopped: bool,
}

impl Engine {
    /// An engine for `work`.
    pub fn new(work: Work) -> Self {
        let backlog = Backlog::new(&work.schedule, work.share, work.start, work.warm_up, work.coalesce);
        let recorder = Recorder::new(work.measured_start(), work.schedule.duration, work.limit);
        let cap = work.cap();
        Self {
            backlog,
            recorder,
            flights: Vec::new(),
            in_flight: 0,
            idle: Vec::new(),
            cap,
            last_reply: work.start,
            silences: VecDeque::new(),
            deadline: Nanos::MAX,
            next_index: work.share.part,
            wakes: 0,
            stopped: false,
            work,
        }
    }

    /// What it was made for.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Most connections it will open.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Connections opened so far: as many as were in use at once, since a new one is opened only when none is idle.
    pub fn opened(&self) -> usize {
        self.flights.len()
    }

    /// Requests released and not ended.
    pub fn pending(&self) -> u64 {
        self.backlog.len() + self.in_flight as u64
    }

    /// When to call [`Engine::wake`] next; `None` when nothing is left to wait for.
    pub fn next_wake(&self) -> Option<Nanos> {
        let due = match self.work.closed {
            Some(Closed::AsFastAsPossible) if !self.stopped => Some(self.work.end()),
            Some(Closed::AsFastAsPossible) => None,
            _ => self.backlog.next_wake(),
        };
        if due.is_none() && self.pending() == 0 {
            return None;
        }
        let waiting = self.backlog.first().map(|job| job.intended + self.work.timeout);
        let flying = (self.in_flight > 0).then_some(self.deadline);
        let end = due.is_none().then(|| self.give_up_at());
        [due, waiting, flying, end].into_iter().flatten().min()
    }

    /// Hands over what has been recorded.
    pub fn take_recorder(&mut self) -> Recorder {
        let empty = Recorder::new(self.work.measured_start(), self.work.schedule.duration, None);
        std::mem::replace(&mut self.recorder, empty)
    }

    /// When what is unfinished is given up.
    pub fn give_up_at(&self) -> Nanos {
        self.work.end() + self.work.grace
    }

    /// Releases what is due at `now`, and appends to `cancelled` the connections whose request has reached its
    /// timeout: they are to be dropped and reported by [`Engine::rejoin`].
    pub fn wake(&mut self, now: Nanos, cancelled: &mut Vec<Slot>) {
        self.wakes += 1;
        let recorder = &mut self.recorder;
        match self.work.closed {
            None => {
                self.backlog.release(now, |job| recorder.released(&job));
            }
            Some(Closed::Paced) => {
                let mut free = (self.idle.len() + self.cap.saturating_sub(self.flights.len())) as u64;
                free = free.saturating_sub(self.backlog.len());
                let mut late = 0;
                self.backlog.release(now, |job| {
                    if free > 0 {
                        free -= 1;
                        if job.measured {
                            recorder.counts.scheduled += 1;
                        }
                    } else {
                        late += 1;
                        recorder.counts.omitted += u64::from(job.measured);
                    }
                });
                // Skipped starts leave the backlog from its old end: which of them go is all the same, since the
                // loop stamps its requests when it sends them.
                for _ in 0..late {
                    self.backlog.take();
                }
            }
            Some(Closed::AsFastAsPossible) => {
                if now >= self.work.end() {
                    self.stopped = true;
                }
            }
        }
        while let Some(job) = self.backlog.first().filter(|job| job.intended + self.work.timeout <= now) {
            self.backlog.take();
            let waited = self.waited(&job, now);
            let stamps = Stamps { job, waited, connected: None, first_byte: None, ended: now };
            self.recorder.ended(&stamps, &Ending::Timeout);
        }
        if self.in_flight > 0 && self.deadline <= now {
            self.scan(now, cancelled);
        }
        self.recorder.roll(now);
    }

    fn scan(&mut self, now: Nanos, cancelled: &mut Vec<Slot>) {
        let mut deadline = Nanos::MAX;
        for (slot, entry) in self.flights.iter_mut().enumerate() {
            let Some(flight) = entry else { continue };
            let due = flight.job.intended + self.work.timeout;
            if due <= now {
                self.recorder.ended(&flight.stamps(now), &Ending::Timeout);
                *entry = None;
                self.in_flight -= 1;
                cancelled.push(slot);
            } else {
                deadline = deadline.min(due);
            }
        }
        self.deadline = deadline;
    }

    fn next_job(&mut self, now: Nanos) -> Option<Job> {
        match self.work.closed {
            None => self.backlog.take(),
            Some(Closed::Paced) => self.backlog.take().map(|job| Job { intended: now, released: now, ..job }),
            Some(Closed::AsFastAsPossible) => {
                if self.stopped || now >= self.work.end() {
                    self.stopped = true;
                    return None;
                }
                let job = Job {
                    index: self.next_index,
                    intended: now,
                    released: now,
                    measured: now >= self.work.measured_start(),
                };
                if job.measured {
                    self.next_index += self.work.share.of;
                    self.recorder.counts.scheduled += 1;
                }
                Some(job)
            }
        }
    }

    /// How long `job`, which gets its connection at `now`, waited for one, silences of the server left out: a server that
    /// stands still keeps every connection busy, and that is no fault of their number.
    fn waited(&self, job: &Job, now: Nanos) -> Nanos {
        let wait = now.saturating_sub(job.released);
        if wait == 0 || self.work.closed.is_some() {
            return 0;
        }
        let open = self.silence(now);
        let silent = (self.silences.iter().chain(&open))
            .map(|(from, until)| until.min(&now).saturating_sub(*from.max(&job.released)))
            .sum();
        wait.saturating_sub(silent)
    }

    /// The silence that lasts until `now`, if the last reply was long enough ago to call it one.
    fn silence(&self, now: Nanos) -> Option<(Nanos, Nanos)> {
        let gap = now.saturating_sub(self.last_reply);
        let is_one = gap > SILENCE && gap > SILENCE + 2 * self.recorder.service().unwrap_or(0);
        is_one.then_some((self.last_reply, now))
    }

    /// The server has answered a request, well or not.
    fn replied(&mut self, now: Nanos) {
        if !self.backlog.is_empty()
            && let Some(silence) = self.silence(now)
        {
            self.silences.push_back(silence);
            if self.silences.len() > MOST_SILENCES {
                self.silences.pop_front();
            }
        }
        self.last_reply = now;
    }

    fn assign(&mut self, slot: Slot, job: Job, now: Nanos) {
        let waited = self.waited(&job, now);
        self.flights[slot] = Some(Flight { job, waited, connected: None, first_byte: None });
        self.in_flight += 1;
        self.deadline = self.deadline.min(job.intended + self.work.timeout);
    }

    /// A waiting request and a free connection for it; the connection is new when its number equals what
    /// [`Engine::opened`] said before the call. `None` when either is missing.
    pub fn dispatch(&mut self, now: Nanos) -> Option<(Slot, Job)> {
        if self.idle.is_empty() && self.flights.len() >= self.cap {
            return None;
        }
        let job = self.next_job(now)?;
        let slot = self.idle.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.assign(slot, job, now);
        Some((slot, job))
    }

    /// The request on `slot` has its connection; `connect` is how long establishing it took, if it was new.
    pub fn connected(&mut self, slot: Slot, now: Nanos, connect: Option<Nanos>) {
        if let Some(flight) = &mut self.flights[slot] {
            flight.connected = Some(now);
            if let Some(ns) = connect {
                self.recorder.connected(&flight.job, ns);
            }
        }
    }

    /// The first byte of the reply on `slot` is there.
    pub fn first_byte(&mut self, slot: Slot, now: Nanos) {
        if let Some(flight) = &mut self.flights[slot] {
            flight.first_byte.get_or_insert(now);
        }
    }

    /// The request on `slot` ended. Returns the connection's next request, if one waits; otherwise it is idle.
    pub fn finish(&mut self, slot: Slot, now: Nanos, ending: &Ending) -> Option<Job> {
        if let Some(flight) = self.flights[slot].take() {
            self.in_flight -= 1;
            self.recorder.ended(&flight.stamps(now), ending);
            self.replied(now);
        }
        self.rejoin(slot, now)
    }

    /// A connection is free again, after a cancelled request. Returns its next request, if one waits.
    pub fn rejoin(&mut self, slot: Slot, now: Nanos) -> Option<Job> {
        match self.next_job(now) {
            Some(job) => {
                self.assign(slot, job, now);
                Some(job)
            }
            None => {
                self.idle.push(slot);
                None
            }
        }
    }

    /// Ends the schedule early: nothing more becomes due.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.backlog.stop();
    }

    /// Gives up: every request that has not ended is recorded at its age, released or not.
    pub fn close(&mut self, now: Nanos) {
        let recorder = &mut self.recorder;
        if self.work.closed.is_none() {
            self.backlog.release(now, |job| recorder.released(&job));
        }
        while let Some(job) = self.backlog.take() {
            let waited = self.waited(&job, now);
            let stamps = Stamps { job, waited, connected: None, first_byte: None, ended: now };
            self.recorder.ended(&stamps, &Ending::Unfinished);
        }
        for flight in self.flights.iter_mut().filter_map(Option::take) {
            self.recorder.ended(&flight.stamps(now), &Ending::Unfinished);
        }
        self.in_flight = 0;
        self.recorder.close_window();
    }

    /// How many requests exceed `limit` for certain: those that ended above it and those older than it.
    pub fn over_limit(&self, now: Nanos, limit: Nanos) -> u64 {
        let old = |intended: Nanos| now.saturating_sub(intended) > limit;
        let waiting = u64::from(self.backlog.first().is_some_and(|job| job.measured && old(job.intended)));
        let flying = self.flights.iter().flatten().filter(|f| f.job.measured && old(f.job.intended)).count();
        self.recorder.over_limit() + waiting + flying as u64
    }
}
