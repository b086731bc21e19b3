//! echo-reuseport: a UDP echo that waits nowhere but in its calls, on every core.
//!
//! Symptom:  one UDP port on all cores; one thread is at 100 % and the other cores are idle; SO_REUSEPORT
//! New here: SO_REUSEPORT, by which several sockets have one address; a socket and a thread a core, which share nothing.
//! Run:      cargo run --bin echo-reuseport
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-reuseport    (or: strace -f target/debug/echo-reuseport)
//! Expect:   recvfrom, sendto for one datagram; 128 for a burst of 64
//! Still wrong: a peer stays on one socket, so one busy peer has one core; anybody of the same user can join.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use datagram_queue::{DatagramQueue, Fill, Policy};
use echo_service::{Flags, Pause, Service, peer_of};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, SockRef, Socket, Type};

/// A send that blocks comes back so often, to see whether a signal has come.
const LOOK_UP: Duration = Duration::from_millis(100);

/// What the threads share: nothing that a datagram needs.
struct Group {
    sockets: Vec<UdpSocket>,
    over: AtomicBool,
    /// Held until the program has greeted: before that no thread begins.
    start: Mutex<()>,
    /// With `--count` one thread at a time sends, so that not one more is echoed.
    counting: Option<Mutex<()>>,
}

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "it receives nothing while it waits for a send");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (socket, mut service) = Service::open_by(&flags, bind);
    let (mut sockets, mut others) = (vec![socket], Vec::new());
    for _ in 1..cores {
        let (socket, other) = service.open_another(bind);
        sockets.push(socket);
        others.push((other, DatagramQueue::new(1, flags.max_size, Policy::Backpressure)));
    }
    let counting = flags.count.map(|_| Mutex::new(()));
    let group = Arc::new(Group { sockets, over: AtomicBool::new(false), start: Mutex::new(()), counting });
    let mut queue = DatagramQueue::new(1, flags.max_size, Policy::Backpressure);
    let outcome = run(&group, &mut queue, &mut service, &mut others);
    // No socket was closed before all threads were done: the peers of a closed one would have moved to another.
    for ((other, queue), socket) in others.into_iter().zip(&group.sockets[1..]) {
        service.join(other, socket, &queue);
    }
    service.finish(outcome, &group.sockets[0], &queue)
}

// region: bind
/// One of several sockets on `address`. Each of them sets the option before it binds.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.set_write_timeout(Some(LOOK_UP))?;
    Ok(socket.into())
}
// endregion: bind

/// Starts a thread for each socket but the first, and serves that one. When one ends, all do.
fn run(
    group: &Arc<Group>,
    queue: &mut DatagramQueue,
    service: &mut Service,
    others: &mut [(Service, DatagramQueue)],
) -> io::Result<()> {
    let signals = service.signals().try_clone_to_owned()?;
    let told = Arc::clone(group);
    // Nobody waits for this thread: it is asleep when the program ends without a signal.
    thread::Builder::new().spawn(move || told.end_on_signal(signals.as_fd()))?;
    thread::scope(|scope| {
        let held = group.start.lock().unwrap_or_else(PoisonError::into_inner);
        let mut threads = Vec::new();
        for ((service, queue), socket) in others.iter_mut().zip(&group.sockets[1..]) {
            match thread::Builder::new().spawn_scoped(scope, || {
                drop(group.start.lock());
                serve(socket, queue, service, group)
            }) {
                Ok(started) => threads.push(started),
                Err(error) => {
                    group.end();
                    return Err(error);
                }
            }
        }
        service.greet();
        drop(held);
        let mut outcome = serve(&group.sockets[0], queue, service, group);
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    })
}

/// Receives, then sends, as echo-blocking does, until the first thread of all ends.
fn serve(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    group: &Group,
) -> io::Result<()> {
    // What was there at the end is echoed too, as far as it costs no more than a turn.
    let mut rest = service.budget();
    let mut served = Ok(());
    while served.is_ok() && service.serving(queue) {
        if group.over() {
            if rest == 0 || !queue.is_empty() {
                service.stop(queue);
            }
            rest = rest.saturating_sub(1);
        }
        served = receive(socket, queue, service, group)
            .and_then(|_| flush(socket, queue, service, group))
            .map(drop);
    }
    group.end();
    served
}

// region: end
impl Group {
    /// Whether the threads have to end.
    fn over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends the receives in which the threads sleep, and those to come.
    fn end(&self) {
        self.over.store(true, Ordering::Release);
        for socket in &self.sockets {
            // A datagram would not do: the kernel chooses which of the sockets gets it. This says that the
            // socket is not connected, and wakes who sleeps in it all the same.
            let _ = SockRef::from(socket).shutdown(Shutdown::Read);
        }
    }

    /// Sleeps until SIGINT or SIGTERM has come, then ends.
    fn end_on_signal(&self, signals: BorrowedFd<'_>) {
        while let Err(nix::errno::Errno::EINTR) =
            poll(&mut [PollFd::new(signals, PollFlags::POLLIN)], PollTimeout::NONE)
        {}
        self.end();
    }
}
// endregion: end

// region: receive
/// One datagram from the socket into the queue. Sleeps until there is one.
fn receive(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    group: &Group,
) -> io::Result<Pause> {
    service.waiting();
    // Not the receive of std: it panics when there is neither a datagram nor a peer, as when the receive is ended.
    let filled = queue.fill(|slot| {
        let (bytes, peer) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), slot)?;
        service.admit(Ok((bytes, peer_of(peer.as_ref())?)))
    });
    match filled {
        Ok(Fill::Full) => return Ok(Pause::QueueFull),
        Ok(Fill::Closed) => return Ok(Pause::Finished),
        Ok(fill) => service.queued(fill, queue.len()),
        Err(_) if group.over() => {
            service.stop(queue);
            return Ok(Pause::Finished);
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => service.receive_failed(error)?,
    }
    Ok(Pause::BudgetSpent)
}
// endregion: receive

// region: flush
/// The datagram from the queue into the socket. Sleeps while the socket takes none.
fn flush(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    group: &Group,
) -> io::Result<Pause> {
    while !queue.is_empty() {
        let _turn = group.counting.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
        if service.done() {
            return Ok(Pause::Finished);
        }
        match queue.drain(|payload, peer| socket.send_to(payload, peer)) {
            Ok(bytes) => service.sent(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.send_failed(error)?,
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush
