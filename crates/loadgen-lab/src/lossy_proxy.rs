//! Test support: a UDP relay that loses, doubles, reorders, delays and corrupts datagrams, by a seed, and counts
//! what it does.
//!
//! It runs in user space and without rights, so it is there on every machine, and the losses that a program under
//! test reports can be compared with what really happened:
//!
//! ```
//! use std::net::UdpSocket;
//! use loadgen_lab::lossy_proxy::{Faults, LossyProxy};
//!
//! let server = UdpSocket::bind("127.0.0.1:0")?;
//! let lossy = Faults { loss: 0.5, ..Faults::default() };
//! let proxy = LossyProxy::start(server.local_addr()?, 7, lossy, Faults::default())?;
//!
//! let client = UdpSocket::bind("127.0.0.1:0")?;
//! for i in 0..10_u8 {
//!     client.send_to(&[i], proxy.address())?;
//! }
//! let there = proxy.wait_until(|counts| counts.there.received == 10).there;
//! assert!(there.lost < 10, "not every one of them, with this seed");
//! # Ok::<(), std::io::Error>(())
//! ```

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// What happens to the datagrams of one direction. Probabilities are between 0 and 1; the default does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that a datagram is delivered twice.
    pub duplication: f64,
    /// Probability that a datagram is delivered after the one behind it.
    pub reordering: f64,
    /// Probability that one bit of a datagram is inverted; an empty datagram has none.
    pub corruption: f64,
    /// Added to the way of every datagram.
    pub delay: Duration,
}

/// What happened to the datagrams of one direction.
///
/// `received + duplicated = delivered + lost`, once nothing is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Datagrams that arrived at the proxy.
    pub received: u64,
    /// Datagrams that it sent on.
    pub delivered: u64,
    /// Datagrams that it swallowed.
    pub lost: u64,
    /// Datagrams of which it sent a second copy.
    pub duplicated: u64,
    /// Datagrams that were overtaken by a later one.
    pub reordered: u64,
    /// Datagrams in which it inverted a bit.
    pub corrupted: u64,
    /// Sends and receives that failed, as when the target's port is closed; a failed send counts as delivered.
    pub errors: u64,
}

/// The counts of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BothCounts {
    /// From the clients to the target.
    pub there: Counts,
    /// From the target to the clients.
    pub back: Counts,
}

/// A datagram that nothing overtakes is held back for this long at most, so that the last one is not stuck.
const HOLD: Duration = Duration::from_millis(50);

/// One direction, without sockets: decides about each datagram by the seed alone, whatever the time is.
struct Link {
    faults: Faults,
    random: StdRng,
    /// The copies of a datagram that waits for another to overtake it.
    held: Vec<Vec<u8>>,
    /// All but `delivered` and `errors`, which are the sockets'.
    counts: Counts,
}

impl Link {
    fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, random: StdRng::seed_from_u64(seed), held: Vec::new(), counts: Counts::default() }
    }

    /// Takes a datagram that arrived and hands on those that leave now, in order.
    fn pass(&mut self, datagram: &[u8], deliver: impl FnMut(Vec<u8>)) {
        self.counts.received += 1;
        // All dice are thrown for every datagram, so that one fault's probability does not shift another's pattern.
        let [lose, double, hold, corrupt] =
            [self.faults.loss, self.faults.duplication, self.faults.reordering, self.faults.corruption]
                .map(|probability| self.random.random::<f64>() < probability);
        let bit = self.random.random::<u64>();

        if lose {
            self.counts.lost += 1;
            return;
        }
        let mut bytes = datagram.to_vec();
        if corrupt && !bytes.is_empty() {
            let bit = bit % (8 * bytes.len() as u64);
            bytes[bit as usize / 8] ^= 1 << (bit % 8);
            self.counts.corrupted += 1;
        }
        let mut copies = vec![bytes];
        if double {
            copies.push(copies[0].clone());
            self.counts.duplicated += 1;
        }
        if hold && self.held.is_empty() {
            self.held = copies;
            return;
        }
        self.counts.reordered += u64::from(!self.held.is_empty());
        copies.into_iter().chain(self.held.drain(..)).for_each(deliver);
    }

    /// Hands on a datagram that nothing has overtaken in time.
    fn release(&mut self, deliver: impl FnMut(Vec<u8>)) {
        self.held.drain(..).for_each(deliver);
    }
}

/// Both directions' counts and a bell for who waits for them.
#[derive(Default)]
struct Shared {
    counts: Mutex<BothCounts>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BothCounts> {
        // Counters are whole even if a panicking test held the lock.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut BothCounts)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A running relay. It ends when dropped.
///
/// Each client gets a socket of its own towards the target, as through an address translator, so a reply never
/// reaches another client. The faults of one client's datagrams depend on the seed, on the client's number (in order
/// of appearance) and on nothing else.
pub struct LossyProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LossyProxy {
    /// Starts a relay on a free loopback port that sends what it gets to `target`, with the faults `there`, and
    /// sends the replies back with the faults `back`.
    ///
    /// # Errors
    ///
    /// When a socket or the relay's thread cannot be made.
    pub fn start(target: SocketAddr, seed: u64, there: Faults, back: Faults) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::<Shared>::default();
        let (stop, stopped) = oneshot::channel();
        let relay = Relay { target, seed, there, back, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("lossy proxy".to_owned()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    _ = stopped => {}
                    () = relay.run(socket) => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has happened so far.
    pub fn counts(&self) -> BothCounts {
        *self.shared.lock()
    }

    /// Waits until `condition` holds, for ten seconds at most; returns the counts then, for the caller to judge.
    pub fn wait_until(&self, condition: impl Fn(&BothCounts) -> bool) -> BothCounts {
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), Duration::from_secs(10), |counts| !condition(counts))
            .unwrap_or_else(PoisonError::into_inner);
        *waited.0
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the relay has been printed; a second one here would hide the test's own.
            let _ = thread.join();
        }
    }
}

/// What the relay's thread works with.
struct Relay {
    target: SocketAddr,
    seed: u64,
    there: Faults,
    back: Faults,
    shared: Arc<Shared>,
}

impl Relay {
    async fn run(&self, socket: UdpSocket) {
        let Ok(socket) = tokio::net::UdpSocket::from_std(socket).map(Rc::new) else { return };
        let mut clients = HashMap::<SocketAddr, Way>::new();
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(_) => {
                    // A client that has closed its port makes the next receive fail; the others go on.
                    self.shared.update(|counts| counts.there.errors += 1);
                    continue;
                }
            };
            if !clients.contains_key(&client) {
                match self.connect(&socket, client, clients.len() as u64).await {
                    Ok(way) => drop(clients.insert(client, way)),
                    Err(_) => {
                        // Out of sockets: the datagram is gone, and counted.
                        self.shared.update(|counts| counts.there.errors += 1);
                        continue;
                    }
                }
            }
            if let Some(way) = clients.get_mut(&client) {
                way.arrive(&buffer[..length]);
            }
        }
    }

    /// Makes the socket and the two ways of a new client; returns the way to the target.
    async fn connect(
        &self,
        socket: &Rc<tokio::net::UdpSocket>,
        client: SocketAddr,
        number: u64,
    ) -> io::Result<Way> {
        let any: IpAddr =
            if self.target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let upstream = Rc::new(tokio::net::UdpSocket::bind((any, 0)).await?);
        upstream.connect(self.target).await?;
        let seed = self.seed.wrapping_add(2 * number);
        let there = Way::start(
            Link::new(self.there, seed),
            Rc::clone(&upstream),
            None,
            Arc::clone(&self.shared),
            |counts| &mut counts.there,
        );
        let mut back = Way::start(
            Link::new(self.back, seed.wrapping_add(1)),
            Rc::clone(socket),
            Some(client),
            Arc::clone(&self.shared),
            |counts| &mut counts.back,
        );
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                match upstream.recv(&mut buffer).await {
                    Ok(length) => back.arrive(&buffer[..length]),
                    // The target's port is closed: it may be opened again.
                    Err(_) => back.shared.update(|counts| counts.back.errors += 1),
                }
            }
        });
        Ok(there)
    }
}

/// The line of datagrams that leave, each with its time.
type Line = Rc<RefCell<VecDeque<(Instant, Vec<u8>)>>>;

/// One direction of one client: the link's decisions, and the line of what is under way.
struct Way {
    link: Rc<RefCell<Link>>,
    line: Line,
    bell: Rc<Notify>,
    shared: Arc<Shared>,
    select: fn(&mut BothCounts) -> &mut Counts,
}

impl Way {
    /// Starts the task that sends to `peer`, or to where `socket` is connected, what is due.
    fn start(
        link: Link,
        socket: Rc<tokio::net::UdpSocket>,
        peer: Option<SocketAddr>,
        shared: Arc<Shared>,
        select: fn(&mut BothCounts) -> &mut Counts,
    ) -> Self {
        let (delay, reorders) = (link.faults.delay, link.faults.reordering > 0.0);
        let way = Self {
            link: Rc::new(link.into()),
            line: Rc::default(),
            bell: Rc::default(),
            shared: Arc::clone(&shared),
            select,
        };
        let (link, line, bell) = (Rc::clone(&way.link), Rc::clone(&way.line), Rc::clone(&way.bell));
        tokio::task::spawn_local(async move {
            loop {
                let next = line.borrow_mut().pop_front();
                let Some((due, bytes)) = next else {
                    let patience = if reorders { HOLD } else { Duration::MAX };
                    if tokio::time::timeout(patience, bell.notified()).await.is_err() {
                        let due = Instant::now() + delay;
                        link.borrow_mut().release(|bytes| line.borrow_mut().push_back((due, bytes)));
                    }
                    continue;
                };
                tokio::time::sleep_until(due).await;
                let sent = match peer {
                    Some(peer) => socket.send_to(&bytes, peer).await,
                    None => socket.send(&bytes).await,
                };
                // A failed send means that the receiver is gone, as a network's would be.
                shared.update(|counts| {
                    select(counts).delivered += 1;
                    select(counts).errors += u64::from(sent.is_err());
                });
            }
        });
        way
    }

    /// Judges a datagram and puts what comes of it in line.
    fn arrive(&mut self, datagram: &[u8]) {
        let mut link = self.link.borrow_mut();
        let before = link.counts;
        let due = Instant::now() + link.faults.delay;
        link.pass(datagram, |bytes| self.line.borrow_mut().push_back((due, bytes)));
        let after = link.counts;
        self.shared.update(|counts| add((self.select)(counts), before, after));
        self.bell.notify_one();
    }
}

/// Adds to `sum` what one link has counted between `before` and `after`.
fn add(sum: &mut Counts, before: Counts, after: Counts) {
    sum.received += after.received - before.received;
    sum.lost += after.lost - before.lost;
    sum.duplicated += after.duplicated - before.duplicated;
    sum.reordered += after.reordered - before.reordered;
    sum.corrupted += after.corrupted - before.corrupted;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a link delivers of the datagrams `0..n` (eight bytes each), and its counts.
    fn deliver(faults: Faults, seed: u64, n: u64) -> (Vec<Vec<u8>>, Counts) {
        let mut link = Link::new(faults, seed);
        let mut out = Vec::new();
        for i in 0..n {
            link.pass(&i.to_be_bytes(), |bytes| out.push(bytes));
        }
        link.release(|bytes| out.push(bytes));
        (out, link.counts)
    }

    fn numbers(datagrams: &[Vec<u8>]) -> Vec<u64> {
        datagrams.iter().map(|bytes| u64::from_be_bytes(bytes.as_slice().try_into().unwrap())).collect()
    }

    #[test]
    fn a_link_without_faults_passes_everything_in_order() {
        let (out, counts) = deliver(Faults::default(), 1, 1000);
        assert_eq!(numbers(&out), (0..1000).collect::<Vec<_>>());
        assert_eq!(counts, Counts { received: 1000, ..Counts::default() });
    }

    #[test]
    fn the_seed_decides() {
        let faults =
            Faults { loss: 0.1, duplication: 0.1, reordering: 0.1, corruption: 0.1, delay: Duration::ZERO };
        assert_eq!(deliver(faults, 1, 1000), deliver(faults, 1, 1000));
        assert_ne!(deliver(faults, 1, 1000).0, deliver(faults, 2, 1000).0);
    }

    #[test]
    fn every_fault_is_counted_as_a_receiver_would_count_it() {
        let n = 20_000;
        let loss = deliver(Faults { loss: 0.1, ..Faults::default() }, 3, n);
        assert_eq!(loss.0.len() as u64, n - loss.1.lost);
        assert!((1800..2200).contains(&loss.1.lost), "{:?}", loss.1);

        let (out, counts) = deliver(Faults { duplication: 0.1, ..Faults::default() }, 3, n);
        let repeated = numbers(&out).windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        assert_eq!(repeated, counts.duplicated);
        assert!((1800..2200).contains(&repeated), "{counts:?}");

        let (out, counts) = deliver(Faults { reordering: 0.1, ..Faults::default() }, 3, n);
        let mut highest = 0;
        let late = numbers(&out)
            .into_iter()
            .filter(|number| {
                highest = highest.max(*number);
                *number < highest
            })
            .count() as u64;
        assert_eq!(late, counts.reordered);
        assert_eq!(out.len() as u64, n, "reordering loses nothing");
        assert!((1600..2000).contains(&late), "one in eleven, since the next is never held too: {counts:?}");

        let (out, counts) = deliver(Faults { corruption: 0.1, ..Faults::default() }, 3, n);
        let changed: Vec<_> = (0..n)
            .zip(numbers(&out))
            .map(|(sent, got)| (sent ^ got).count_ones())
            .filter(|bits| *bits > 0)
            .collect();
        assert!(changed.iter().all(|bits| *bits == 1));
        assert_eq!(changed.len() as u64, counts.corrupted);
        assert!((1800..2200).contains(&changed.len()), "{counts:?}");
    }

    #[test]
    fn a_held_datagram_with_no_successor_is_released_and_was_not_reordered() {
        let (out, counts) = deliver(Faults { reordering: 1.0, ..Faults::default() }, 1, 1);
        assert_eq!(out.len(), 1);
        assert_eq!(counts.reordered, 0);
    }

    #[test]
    fn an_empty_datagram_is_a_datagram() {
        let mut link = Link::new(Faults { corruption: 1.0, ..Faults::default() }, 1);
        let mut out = Vec::new();
        link.pass(&[], |bytes| out.push(bytes));
        assert_eq!(out, [Vec::<u8>::new()]);
        assert_eq!(link.counts.corrupted, 0, "it has no bit to invert");
    }
}
