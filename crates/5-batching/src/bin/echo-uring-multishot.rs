//! echo-uring-multishot: a UDP echo that waits in io_uring_enter(2), and asks once for all datagrams to come.
//!
//! Symptom:  what are a multishot receive and provided buffers, and when do they pay?
//! New here: one request with many completions; the kernel picks a buffer for each; sendmmsg takes the replies.
//! Run:      cargo run --bin echo-uring-multishot
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-uring-multishot    (or: strace target/debug/echo-uring-multishot --marks)
//! Expect:   io_uring_enter, sendmmsg for one datagram; 17 for a burst of 64
//! Still wrong: one thread, and so one core, does it all (next: echo-reuseport).
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use batching_rungs::Outgoing;
use batching_rungs::ring::{Arrived, Done, MOST_SLOTS, Ring};
use datagram_queue::{Fill, Policy};
use echo_service::{Flags, Pause, Service};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

/// Datagrams to be sent, each in a buffer that is ours until it is given back.
type Queue = Outgoing<Arrived>;

/// The most datagrams that one call gives.
const BATCH: usize = 64;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "the kernel receives only into a buffer that is free");
    flags.require_queue(MOST_SLOTS, "a ring has no room for more completions");
    let (socket, mut service) = Service::open(&flags);
    let mut queue = Queue::default();
    let outcome = run(&socket, &flags, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Asks once for all datagrams, and for a signal; waits for whatever comes.
fn run(socket: &UdpSocket, flags: &Flags, queue: &mut Queue, service: &mut Service) -> io::Result<()> {
    let mut ring = Ring::with_buffers(socket, flags.queue, flags.max_size)?;
    ring.ask_readable(service.signals());
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    service.greet();
    // region: wait
    while service.serving_while(!queue.is_empty() || ring.receives() > 0) {
        receive(&mut ring, service);
        service.waiting();
        ring.enter(service.timeout())?;
        take(&mut ring, queue, service)?;
        if flush(socket, &mut ring, queue, &mut headers, service)? == Pause::WouldBlock {
            ring.ask_writable();
        }
    }
    // endregion: wait
    // The kernel gives up what it was asked, and with it the buffers.
    while ring.is_asked() {
        ring.cancel_all();
        ring.enter(None)?;
        take(&mut ring, queue, service)?;
    }
    Ok(())
}

// region: receive
/// Asks for all datagrams to come, unless that is asked already: an empty datagram has ended the request, or a moment
/// without a buffer. Then there has to be one again.
fn receive(ring: &mut Ring, service: &Service) {
    if ring.receives() == 0 && ring.lent() > 0 && !service.signalled() {
        ring.ask_receive_many();
    }
}
// endregion: receive

// region: flush
/// Queue into socket, until it would block or the queue is empty. Each buffer goes back to the kernel.
fn flush(
    socket: &UdpSocket,
    ring: &mut Ring,
    queue: &mut Queue,
    headers: &mut MultiHeaders<SockaddrStorage>,
    service: &mut Service,
) -> io::Result<Pause> {
    while !queue.is_empty() {
        if service.done() {
            return Ok(Pause::Finished);
        }
        let count = queue.waiting().min(service.left()).min(BATCH);
        let mut payloads = [[IoSlice::new(&[])]; BATCH];
        let mut peers = [None; BATCH];
        for ((payload, peer), arrived) in payloads[..count].iter_mut().zip(&mut peers).zip(queue.iter()) {
            *payload = [IoSlice::new(ring.payload(arrived))];
            *peer = Some(arrived.peer.into());
        }
        // The socket is in blocking mode, which is what lets the receive wait.
        let flags = MsgFlags::MSG_DONTWAIT;
        let (gone, outcome) =
            match sendmmsg(socket.as_raw_fd(), headers, &payloads[..count], &peers[..count], [], flags) {
                // Fewer than all: the next call says why.
                Ok(messages) => (messages.count(), Ok(())),
                Err(Errno::EAGAIN) => return Ok(Pause::WouldBlock),
                Err(Errno::EINTR) => continue,
                // The error is that of the oldest.
                Err(error) => (1, Err(error)),
            };
        for _ in 0..gone {
            let Some(arrived) = queue.begin() else { break };
            queue.end();
            match outcome {
                Ok(()) => service.sent(arrived.len),
                Err(error) => service.send_failed(error.into())?,
            }
            ring.give_back(arrived);
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush

// region: take
/// Takes what is done: datagrams into the queue, the others back to the kernel.
fn take(ring: &mut Ring, queue: &mut Queue, service: &mut Service) -> io::Result<()> {
    while let Some(done) = ring.done() {
        match done {
            Done::Arrived(arrived) => match service.admit(Ok((arrived.len, arrived.peer)))? {
                Some(_) => {
                    queue.push(arrived);
                    service.queued(Fill::Queued, queue.len());
                }
                None => ring.give_back(arrived),
            },
            Done::Failed(error) if error.raw_os_error() == Some(Errno::ECANCELED as i32) => {}
            Done::Failed(error) => service.receive_failed(error)?,
            Done::Readable => {
                service.last_call();
                ring.cancel_receive();
            }
            // Or one of a slot, of which this ring has none.
            Done::Writable | Done::Received(..) | Done::Sent(..) => {}
        }
    }
    Ok(())
}
// endregion: take
