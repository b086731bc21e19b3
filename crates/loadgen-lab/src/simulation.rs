//! A discrete-event simulator: the real [`Engine`] against servers that are formulas, on a virtual clock.

use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use loadgen::clock::Nanos;
use loadgen::engine::{Engine, Slot};
use loadgen::record::Ending;

/// A server: says, when a request arrives, when it will answer. Arrivals come in order of time.
pub trait Server {
    /// The moment of the reply and how it ends; `None` when there is none.
    fn arrive(&mut self, now: Nanos) -> Option<(Nanos, Ending)>;
}

impl<F: FnMut(Nanos) -> Option<(Nanos, Ending)>> Server for F {
    fn arrive(&mut self, now: Nanos) -> Option<(Nanos, Ending)> {
        self(now)
    }
}

/// Parallel service: every request takes `delay`.
pub fn delay(delay: Nanos) -> impl Server {
    move |now| Some((now + delay, Ending::Ok))
}

/// How long one request occupies a [`Single`] server.
#[derive(Debug)]
pub enum Service {
    /// Always this long.
    Fixed(Nanos),
    /// Exponentially distributed with this mean.
    Exponential(Nanos, SmallRng),
}

impl Service {
    /// Exponential service times from a seed.
    pub fn exponential(mean: Nanos, seed: u64) -> Self {
        Self::Exponential(mean, SmallRng::seed_from_u64(seed))
    }

    fn draw(&mut self) -> Nanos {
        match self {
            Self::Fixed(ns) => *ns,
            Self::Exponential(mean, rng) => (-(1.0 - rng.random::<f64>()).ln() * *mean as f64) as Nanos,
        }
    }
}

/// One server with a queue, that stands still from time to time and may die.
#[derive(Debug)]
pub struct Single {
    /// Time per request.
    pub service: Service,
    /// Added to every reply, in parallel.
    pub base: Nanos,
    /// When it stands still: (start, length), ascending and apart.
    pub stalls: Vec<(Nanos, Nanos)>,
    /// From when on it answers nothing.
    pub dead_from: Nanos,
    free: Nanos,
}

impl Single {
    /// A healthy server.
    pub fn new(service: Service) -> Self {
        Self { service, base: 0, stalls: Vec::new(), dead_from: Nanos::MAX, free: 0 }
    }

    /// The same with stalls.
    pub fn stalling(self, stalls: Vec<(Nanos, Nanos)>) -> Self {
        Self { stalls, ..self }
    }

    /// The same with a time added to every reply.
    pub fn with_base(self, base: Nanos) -> Self {
        Self { base, ..self }
    }

    /// The same, answering nothing from a moment on.
    pub fn dead_from(self, dead_from: Nanos) -> Self {
        Self { dead_from, ..self }
    }
}

impl Server for Single {
    fn arrive(&mut self, now: Nanos) -> Option<(Nanos, Ending)> {
        let mut start = now.max(self.free);
        let mut work = self.service.draw();
        for (from, length) in &self.stalls {
            if start >= from + length {
                continue;
            }
            if start >= *from {
                start = from + length;
            } else if start + work > *from {
                // Work under way is frozen with the server.
                work += length;
            }
        }
        self.free = start + work;
        (self.free <= self.dead_from).then_some((self.free + self.base, Ending::Ok))
    }
}

/// A token bucket: `rate` a second, `burst` at once. Beyond it a request waits (shaper) or is refused (429).
#[derive(Debug)]
pub struct Bucket {
    period: f64,
    burst: f64,
    reject: bool,
    tokens: f64,
    at: f64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: f64, burst: f64, reject: bool) -> Self {
        Self { period: 1e9 / rate, burst, reject, tokens: burst, at: 0.0 }
    }
}

impl Server for Bucket {
    fn arrive(&mut self, now: Nanos) -> Option<(Nanos, Ending)> {
        let time = now as f64;
        if time > self.at {
            self.tokens = (self.tokens + (time - self.at) / self.period).min(self.burst);
            self.at = time;
        }
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Some((now, Ending::Ok));
        }
        if self.reject {
            return Some((now, Ending::Error("http 429".into())));
        }
        // The token it waits for is drawn in advance: `at` runs ahead of the clock.
        self.at += (1.0 - self.tokens) * self.period;
        self.tokens = 0.0;
        Some((self.at as Nanos, Ending::Ok))
    }
}

/// A datagram server with a receive buffer: what arrives while it stands still waits there, as long as there is room.
#[derive(Debug)]
pub struct Buffered {
    /// (start, length) of its stall.
    pub stall: (Nanos, Nanos),
    /// Datagrams the buffer holds.
    pub room: u64,
    held: u64,
}

impl Buffered {
    /// An empty buffer.
    pub fn new(stall: (Nanos, Nanos), room: u64) -> Self {
        Self { stall, room, held: 0 }
    }
}

impl Server for Buffered {
    fn arrive(&mut self, now: Nanos) -> Option<(Nanos, Ending)> {
        let (from, length) = self.stall;
        if now < from || now >= from + length {
            return Some((now, Ending::Ok));
        }
        self.held += 1;
        (self.held <= self.room).then_some((from + length, Ending::Ok))
    }
}

/// How late a wake-up is: the moment asked for, and the moment it happens.
pub trait Pacer {
    /// When a wake-up asked for `at` happens.
    fn wake(&mut self, at: Nanos) -> Nanos;
}

/// On time.
#[derive(Clone, Copy, Debug)]
pub struct Exact;

impl Pacer for Exact {
    fn wake(&mut self, at: Nanos) -> Nanos {
        at
    }
}

/// As tokio's timers: the deadline is rounded up to a millisecond of the wheel, and so is the park that waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Millisecond;

impl Pacer for Millisecond {
    fn wake(&mut self, at: Nanos) -> Nanos {
        const MS: Nanos = 1_000_000;
        at.div_ceil(MS) * MS + MS
    }
}

/// What the simulator itself saw, to hold against what the recorder says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Integral of the requests released and not ended over the measured time, in request-nanoseconds.
    pub in_flight: u128,
    /// When it ended.
    pub ended: Nanos,
}

/// A reply on its way.
struct Reply {
    at: Nanos,
    number: u64,
    slot: Slot,
    generation: u64,
    ending: Ending,
}

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Reply {}

impl PartialOrd for Reply {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reply {
    /// The earliest is the greatest, which is what a heap gives first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

struct Sim<'a, S> {
    engine: &'a mut Engine,
    server: &'a mut S,
    replies: BinaryHeap<Reply>,
    /// Counts the requests of each connection: a cancelled request's reply must not be taken for its successor's.
    generation: Vec<u64>,
    number: u64,
}

impl<S: Server> Sim<'_, S> {
    fn begin(&mut self, slot: Slot, now: Nanos) {
        self.engine.connected(slot, now, None);
        self.number += 1;
        if let Some((at, ending)) = self.server.arrive(now) {
            let (number, generation) = (self.number, self.generation[slot]);
            self.replies.push(Reply { at, number, slot, generation, ending });
        }
    }

    fn dispatch(&mut self, now: Nanos) {
        while let Some((slot, _)) = self.engine.dispatch(now) {
            if slot == self.generation.len() {
                self.generation.push(0);
            }
            self.begin(slot, now);
        }
    }

    fn reply(&mut self, now: Nanos) {
        let Some(Reply { slot, generation, ending, .. }) = self.replies.pop() else { return };
        if self.generation[slot] == generation {
            self.generation[slot] += 1;
            self.engine.first_byte(slot, now);
            if self.engine.finish(slot, now, &ending).is_some() {
                self.begin(slot, now);
            }
        }
    }

    fn wake(&mut self, now: Nanos, cancelled: &mut Vec<Slot>) {
        self.engine.wake(now, cancelled);
        for slot in cancelled.drain(..) {
            self.generation[slot] += 1;
            if self.engine.rejoin(slot, now).is_some() {
                self.begin(slot, now);
            }
        }
        self.dispatch(now);
    }
}

/// Runs `engine` against `server` until everything has ended or been given up.
pub fn run(engine: &mut Engine, server: &mut impl Server, pacer: &mut impl Pacer) -> Seen {
    let mut sim = Sim { engine, server, replies: BinaryHeap::new(), generation: Vec::new(), number: 0 };
    let mut last = sim.engine.work().start;
    let (mut in_flight, mut cancelled) = (0_u128, Vec::new());
    sim.dispatch(last);
    loop {
        let wake = sim.engine.next_wake().map(|at| pacer.wake(at).max(last));
        let reply = sim.replies.peek().map(|reply| reply.at);
        let Some(next) = [wake, reply].into_iter().flatten().min() else { break };
        let now = next.min(sim.engine.give_up_at());
        in_flight += u128::from(sim.engine.pending()) * u128::from(now - last);
        last = now;
        if next > now || now == sim.engine.give_up_at() && reply != Some(now) {
            break;
        }
        if reply == Some(now) {
            sim.reply(now);
        } else {
            sim.wake(now, &mut cancelled);
        }
    }
    sim.engine.close(last);
    Seen { in_flight, ended: last }
}
