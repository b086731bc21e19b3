//! UDP echo: each datagram carries its index and its intended time, so a reply tells by itself what it answers. The
//! [ledger](super::ledger) of the outstanding indices gives loss, duplicates and late replies.
//!
//! Datagrams due together leave by one sendmmsg, and replies are taken by recvmmsg: at 200,000 a second a call for
//! each would be half of the cost.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::DerefMut;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::task::Poll;

use echo_service::kernel_drops;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::ledger::{Ledger, Reply};
use super::{Route, class};
use crate::clock::{Monotonic, Nanos};
use crate::engine::{Connections, Work};
use crate::pacer::{Pacer, PacerKind};
use crate::record::{Ending, Recorder, Stamps};
use crate::reporter::{CpuUse, Reporter, WorkerEnd};
use crate::result::UdpCounts;
use crate::schedule::{Backlog, Job, Schedule};
use crate::worker::{self, Turns};

/// The smallest datagram: an index and a time.
pub const SMALLEST: usize = 16;

/// The largest that UDP over IPv4 carries.
pub const LARGEST: usize = 65_507;

/// Marks the indices of the warm-up.
const WARM_UP: u64 = 1 << 63;

/// Datagrams per system call at most.
const BATCH: usize = 64;

/// The receive buffer that is asked for; the kernel may grant less.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Writes the index and the intended time into a datagram; what follows them is filled by [`filler`].
fn stamp(datagram: &mut [u8], sequence: u64, intended: Nanos) {
    datagram[..8].copy_from_slice(&sequence.to_be_bytes());
    datagram[8..16].copy_from_slice(&intended.to_be_bytes());
}

/// The byte at a position beyond the stamp: a pattern, so that a damaged reply shows.
fn filler(position: usize) -> u8 {
    (position % 251) as u8
}

/// Reads back the index and the intended time from a datagram that ends in `pattern` (see [`filler`]); `None` when it is
/// no such datagram.
fn parse(datagram: &[u8], pattern: &[u8]) -> Option<(u64, Nanos)> {
    let (stamp, rest) = datagram.split_at_checked(SMALLEST)?;
    let sequence = u64::from_be_bytes(stamp[..8].try_into().ok()?);
    let intended = Nanos::from_be_bytes(stamp[8..].try_into().ok()?);
    (rest == pattern).then_some((sequence, intended))
}

/// Whether a reply can be one of ours: its time lies between the start and now, and where the schedule has a formula
/// it is the time of its index. The index may be any number: it came from the network.
fn plausible(schedule: Option<&Schedule>, start: Nanos, index: u64, intended: Nanos, now: Nanos) -> bool {
    let time = schedule.and_then(|schedule| schedule.at(index)).map(|at| start.saturating_add(at));
    (start..=now).contains(&intended) && time.is_none_or(|time| time == intended)
}

/// One connected socket.
struct Port {
    socket: UdpSocket,
    /// The highest index answered through it, for the order.
    highest: Option<u64>,
}

fn open(route: &Route, number: u64) -> io::Result<Port> {
    let socket = Socket::new(Domain::for_address(route.to), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // Asks for more than the kernel grants by default; whatever it grants, drops are counted.
    _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    route.bind(&socket, number)?;
    socket.connect(&route.to.into())?;
    Ok(Port { socket: UdpSocket::from_std(socket.into())?, highest: None })
}

/// When the datagrams of a batch left, for the uncorrected view: (intended time of its first, when it was sent).
#[derive(Default)]
struct Departures(VecDeque<(Nanos, Nanos)>);

/// More batches than this are not told apart: an older reply's uncorrected latency begins at its intended time.
const MOST_BATCHES: usize = 1 << 16;

impl Departures {
    fn note(&mut self, first: Nanos, now: Nanos) {
        self.0.push_back((first, now));
        if self.0.len() > MOST_BATCHES {
            self.0.pop_front();
        }
    }

    /// The stamps of a datagram that left, of which no more is heard after `ended`.
    fn stamps(&self, index: u64, intended: Nanos, measured: bool, ended: Nanos) -> Stamps {
        let batch = self.0.partition_point(|(first, _)| *first <= intended);
        let sent = batch.checked_sub(1).map_or(intended, |batch| self.0[batch].1.max(intended));
        let job = Job { index, intended, released: sent, measured };
        Stamps { job, waited: 0, connected: Some(sent), first_byte: None, ended }
    }
}

struct Worker {
    work: Work,
    size: usize,
    backlog: Backlog,
    recorder: Recorder,
    warm_up: Ledger,
    measured: Ledger,
    counts: UdpCounts,
    ports: Vec<Port>,
    /// The port of the next batch, counted on without end.
    next_port: usize,
    departures: Departures,
    /// Taken from the backlog, and refused by the socket for now.
    unsent: VecDeque<Job>,
    /// How often the schedule woke it.
    wakes: u64,
    out: Vec<u8>,
    input: Vec<u8>,
    out_headers: MultiHeaders<()>,
    in_headers: MultiHeaders<()>,
}

impl Worker {
    fn new(work: Work, size: usize, ports: Vec<Port>) -> Self {
        let mut out = vec![0; size * BATCH];
        for datagram in out.chunks_exact_mut(size) {
            datagram.iter_mut().enumerate().skip(16).for_each(|(i, byte)| *byte = filler(i));
        }
        Self {
            backlog: Backlog::new(&work.schedule, work.share, work.start, work.warm_up, work.coalesce),
            recorder: Recorder::new(work.measured_start(), work.schedule.duration, work.limit),
            warm_up: Ledger::new(&work.schedule.warm_up(work.warm_up), work.share),
            measured: Ledger::new(&work.schedule, work.share),
            counts: UdpCounts::default(),
            ports,
            next_port: 0,
            departures: Departures::default(),
            unsent: VecDeque::new(),
            wakes: 0,
            out,
            // One byte more than is sent: a reply that is too long shows.
            input: vec![0; (size + 1) * BATCH],
            out_headers: MultiHeaders::preallocate(BATCH, None),
            in_headers: MultiHeaders::preallocate(BATCH, None),
            size,
            work,
        }
    }

    /// The socket through which the next batch goes.
    fn port(&self) -> &UdpSocket {
        &self.ports[self.next_port % self.ports.len()].socket
    }

    /// Sends one batch of what is released. True when it wants to be called again.
    fn send(&mut self) -> bool {
        while self.unsent.len() < BATCH {
            let Some(job) = self.backlog.take() else { break };
            self.unsent.push_back(job);
        }
        if self.unsent.is_empty() {
            return false;
        }
        for (job, datagram) in self.unsent.iter().zip(self.out.chunks_exact_mut(self.size)) {
            stamp(datagram, if job.measured { job.index } else { job.index | WARM_UP }, job.intended);
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.out.chunks_exact(self.size).take(self.unsent.len()).map(|d| [IoSlice::new(d)]).collect();
        let addresses = [None; BATCH];
        let headers = &mut self.out_headers;
        let now = Monotonic.now();
        let socket = &self.ports[self.next_port % self.ports.len()].socket;
        let sent = socket.try_io(Interest::WRITABLE, || {
            let addresses = &addresses[..slices.len()];
            Ok(sendmmsg(socket.as_raw_fd(), headers, &slices, addresses, [], MsgFlags::empty())?.count())
        });
        match sent {
            Ok(n) => {
                if let Some(first) = self.unsent.front() {
                    self.departures.note(first.intended, now);
                }
                for job in self.unsent.drain(..n) {
                    if job.measured {
                        self.measured.send();
                        self.counts.sent += 1;
                    } else {
                        self.warm_up.send();
                    }
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if is_icmp(&error) => {
                // It tells of an earlier datagram and sent nothing: the same batch again.
                self.refused();
                true
            }
            Err(error) => {
                // This very datagram cannot be sent; the others go on.
                if let Some(job) = self.unsent.pop_front() {
                    let ledger = if job.measured { &mut self.measured } else { &mut self.warm_up };
                    ledger.send();
                    ledger.reply(job.index);
                    let stamps = Stamps { job, waited: 0, connected: None, first_byte: None, ended: now };
                    self.recorder.ended(&stamps, &Ending::Error(class(&error)));
                }
                true
            }
        }
    }

    /// The target's host said that nobody listens. Of the warm-up's datagrams that is all that will ever be heard.
    fn refused(&mut self) {
        if Monotonic.now() < self.work.measured_start() {
            *self.recorder.warm_up.errors.entry("connection refused".to_owned()).or_default() += 1;
        } else {
            self.counts.refused += 1;
        }
    }

    /// Takes one batch of what has arrived on the port of this number. True when there may be more.
    fn receive(&mut self, port: usize) -> bool {
        let mut lengths = [0_usize; BATCH];
        let step = self.size + 1;
        let received = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                self.input.chunks_exact_mut(step).map(|d| [IoSliceMut::new(d)]).collect();
            let (headers, socket) = (&mut self.in_headers, &self.ports[port].socket);
            socket.try_io(Interest::READABLE, || {
                let flags = MsgFlags::MSG_DONTWAIT;
                let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
                let mut n = 0;
                for (message, length) in messages.zip(&mut lengths) {
                    *length = message.bytes;
                    n += 1;
                }
                Ok(n)
            })
        };
        let now = Monotonic.now();
        match received {
            Ok(n) => {
                for (i, length) in lengths[..n].iter().enumerate() {
                    self.reply(i * step, *length, now, port);
                }
                if n < BATCH {
                    // The socket was emptied: say so instead of asking once more. What arrives from now on is a new
                    // event.
                    let empty = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    _ = self.ports[port].socket.try_io(Interest::READABLE, empty);
                }
                n == BATCH
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                if is_icmp(&error) {
                    self.refused();
                }
                true
            }
        }
    }

    fn reply(&mut self, at: usize, length: usize, now: Nanos, port: usize) {
        let Some((sequence, intended)) = parse(&self.input[at..at + length], &self.out[SMALLEST..self.size])
        else {
            self.counts.corrupt += 1;
            return;
        };
        let measured = sequence & WARM_UP == 0;
        let index = sequence & !WARM_UP;
        let start = if measured { self.work.measured_start() } else { self.work.start };
        let schedule = measured.then_some(&self.work.schedule);
        if !plausible(schedule, start, index, intended, now) {
            self.counts.corrupt += 1;
            return;
        }
        let ledger = if measured { &mut self.measured } else { &mut self.warm_up };
        let reply = ledger.reply(index);
        match reply {
            Reply::Foreign => self.counts.corrupt += 1,
            Reply::Duplicate if measured => self.counts.duplicates += 1,
            Reply::Late if measured => self.counts.late += 1,
            _ => {}
        }
        if reply != Reply::First {
            return;
        }
        if measured {
            let highest = &mut self.ports[port].highest;
            if highest.is_some_and(|highest| index < highest) {
                self.counts.reordered += 1;
            }
            *highest = Some(highest.map_or(index, |highest| highest.max(index)));
        }
        self.recorder.ended(&self.departures.stamps(index, intended, measured, now), &Ending::Ok);
    }

    /// Gives up what has reached its timeout.
    fn expire(&mut self, now: Nanos) {
        let timeout = self.work.timeout;
        let (start, measured_start) = (self.work.start, self.work.measured_start());
        if let Some(until) = now.checked_sub(start + timeout) {
            self.warm_up.expire(until, |_| {});
        }
        let Some(until) = now.checked_sub(measured_start + timeout) else { return };
        self.give_up(until, now, &Ending::Timeout);
    }

    fn give_up(&mut self, until: Nanos, now: Nanos, ending: &Ending) {
        let Self { measured, recorder, departures, counts, .. } = self;
        let start = self.work.measured_start();
        measured.expire(until, |due| {
            recorder.ended(&departures.stamps(due.index, start + due.at, true, now), ending);
            counts.lost += 1;
        });
    }

    fn next_wake(&self) -> Option<Nanos> {
        let due = self.backlog.next_wake();
        let deadline = |ledger: &Ledger, start| ledger.oldest().map(|at| start + at + self.work.timeout);
        let deadlines =
            [deadline(&self.warm_up, self.work.start), deadline(&self.measured, self.work.measured_start())];
        [due].into_iter().chain(deadlines).flatten().min()
    }

    /// Releases what is due at `now`, sends, and takes what came. True when there may be more to send at once.
    fn exchange(&mut self, now: Nanos) -> bool {
        // A wake-up for a reply is none for the schedule: otherwise replies would undo what --coalesce asks for.
        if self.backlog.next_wake().is_some_and(|wake| wake <= now) {
            let recorder = &mut self.recorder;
            self.backlog.release(now, |job| recorder.released(&job));
            self.wakes += 1;
        }
        // Bounded, too: behind a long hold-up, the replies to the first of the backlog would fill our own buffers while
        // the last of it is sent.
        const BATCHES: usize = 4;
        let mut batches = 0;
        while batches < BATCHES && self.send() {
            self.next_port += 1;
            batches += 1;
        }
        for port in 0..self.ports.len() {
            // Bounded: the schedule comes first, and what is left is still readable next time.
            let mut left = BATCHES;
            while left > 0 && self.receive(port) {
                left -= 1;
            }
        }
        batches == BATCHES
    }
}

impl Turns for Worker {
    fn stop(&mut self) {
        self.backlog.stop();
    }

    fn turn(&mut self, now: Nanos) -> Option<Nanos> {
        let more = self.exchange(now);
        self.expire(now);
        self.recorder.roll(now);
        if self.backlog.next_wake().is_none() && self.pending() == 0 {
            return None;
        }
        Some(if more { now } else { self.next_wake().unwrap_or(Nanos::MAX) })
    }

    /// Waits until one of the sockets may be read; and if its send buffer was full, until it takes more.
    async fn called(&self) -> io::Result<()> {
        poll_fn(|cx| {
            for port in &self.ports {
                if let Poll::Ready(ready) = port.socket.poll_recv_ready(cx) {
                    return Poll::Ready(ready);
                }
            }
            if self.unsent.is_empty() { Poll::Pending } else { self.port().poll_send_ready(cx) }
        })
        .await
    }

    fn recorder(&mut self) -> impl DerefMut<Target = Recorder> {
        &mut self.recorder
    }

    fn pending(&self) -> u64 {
        let outstanding = self.warm_up.outstanding() + self.measured.outstanding();
        self.backlog.len() + self.unsent.len() as u64 + outstanding
    }

    fn over_limit(&self, now: Nanos, limit: Nanos) -> u64 {
        let start = self.work.measured_start();
        let old = self.measured.oldest().is_some_and(|at| now.saturating_sub(start + at) > limit);
        self.recorder.over_limit() + u64::from(old)
    }

    fn close(&mut self, now: Nanos) {
        let recorder = &mut self.recorder;
        self.backlog.release(now, |job| recorder.released(&job));
        while let Some(job) = self.unsent.pop_front().or_else(|| self.backlog.take()) {
            self.measured.send();
            self.measured.reply(job.index);
            let stamps = Stamps { job, waited: 0, connected: None, first_byte: None, ended: now };
            self.recorder.ended(&stamps, &Ending::Unfinished);
        }
        self.give_up(Nanos::MAX, now, &Ending::Unfinished);
        self.recorder.close_window();
    }

    fn end(self, cpu: CpuUse) -> WorkerEnd {
        let Self { ports, mut counts, recorder, wakes, .. } = self;
        let opened = ports.len();
        let kernel_dropped: Option<u64> =
            ports.into_iter().map(|port| kernel_drops(&port.socket.into_std().ok()?)).sum();
        counts.kernel_dropped = kernel_dropped.unwrap_or(0);
        WorkerEnd { recorder, opened, cap: opened, wakes, udp: Some(counts), kernel_dropped, cpu }
    }
}

fn is_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN)
    )
}

/// A worker for datagrams.
pub(crate) async fn worker(
    work: Work,
    pacer: PacerKind,
    reporter: Reporter,
    route: Arc<Route>,
    size: usize,
    first: u64,
) -> io::Result<WorkerEnd> {
    let pacer = Pacer::new(pacer)?;
    let sockets = match work.connections {
        Connections::Fixed(n) => n as u64,
        Connections::Auto(_) => 1,
    };
    let ports = (0..sockets).map(|n| open(&route, first + n)).collect::<io::Result<_>>()?;
    worker::run(Worker::new(work.clone(), size, ports), &work, pacer, reporter).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SECOND;
    use crate::schedule::{Arrival, Rate, Share};

    proptest! {
        /// R23: no datagram makes the parser panic, and only what was stamped is taken.
        #[test]
        fn any_datagram_parses_or_does_not(mut bytes in prop::collection::vec(any::<u8>(), 0..64), size in 0_usize..64) {
            let _ = parse(&bytes, &vec![0; size]);
            bytes.resize(bytes.len().max(SMALLEST), 0);
            bytes.iter_mut().enumerate().for_each(|(i, b)| *b = filler(i));
            let pattern = bytes[SMALLEST..].to_vec();
            stamp(&mut bytes, 77, 99);
            prop_assert_eq!(parse(&bytes, &pattern), Some((77, 99)));
            bytes.push(0);
            prop_assert_eq!(parse(&bytes, &pattern), None, "longer than it was sent");
        }

        /// R19, R23: no index and no time that the network can make up is taken for ours, or overflows.
        #[test]
        fn a_made_up_reply_is_refused(index in any::<u64>(), intended in any::<u64>(), start in 0_u64..1 << 50, share in 0_u64..4) {
            let schedule = Schedule { arrival: Arrival::Constant(Rate::new(1000, 1).unwrap()), duration: 3 * SECOND / 10 };
            let now = start + SECOND;
            if plausible(Some(&schedule), start, index & !WARM_UP, intended, now) {
                prop_assert_eq!(schedule.at(index & !WARM_UP).map(|at| at + start), Some(intended));
            }
            prop_assert!(plausible(Some(&schedule), start, 7, start + 7_000_000, now));
            let _ = Ledger::new(&schedule, Share { part: share, of: 4 }).reply(index & !WARM_UP);
        }
    }
}
