//! echo-uring: a UDP echo that waits in io_uring_enter(2), for what it has asked for to be done.
//!
//! New here: completions in place of readiness: ask first, and be told when it is done.
//! Symptom:  when does io_uring pay; should my server use io_uring?
//! Run:      cargo run --bin echo-uring
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-uring --marks    (or: strace target/debug/echo-uring --marks)
//! Expect:   io_uring_enter, io_uring_enter for one datagram; 19 for a burst of 64
//! Still wrong: each datagram takes two requests (next: echo-uring-multishot).
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::process::ExitCode;

use batching_rungs::Outgoing;
use batching_rungs::ring::{Done, MOST_SLOTS, Ring, Slot};
use datagram_queue::{Fill, Policy};
use echo_service::{Flags, Service};
use nix::errno::Errno;

/// Slots with a datagram to be sent.
type Queue = Outgoing<Box<Slot>>;

/// How many receives to ask for at once.
struct Pace {
    asked: usize,
    /// The last one of these found no datagram, and waits.
    waits: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "it asks for a datagram only when a slot is free");
    flags.require_queue(MOST_SLOTS, "a ring has no room for more requests");
    let (socket, mut service) = Service::open(&flags);
    let mut queue = Queue::default();
    let outcome = run(&socket, &flags, &mut queue, &mut service);
    service.finish(outcome, &socket, &queue)
}

/// Asks for receives, for sends, and for a signal; waits for whatever of it is done.
fn run(socket: &UdpSocket, flags: &Flags, queue: &mut Queue, service: &mut Service) -> io::Result<()> {
    // The socket stays in blocking mode: that is what lets a request wait.
    let mut ring = Ring::new(socket, flags.queue, flags.max_size + 1)?;
    ring.ask_readable(service.signals());
    let mut pace = Pace { asked: 1, waits: true };
    service.greet();
    // region: wait
    while service.serving_while(!queue.is_empty() || ring.receives() > 0) {
        flush(&mut ring, queue, service);
        receive(&mut ring, &mut pace, service);
        service.waiting();
        ring.enter(service.timeout())?;
        take(&mut ring, queue, service)?;
        pace.waits |= ring.receives() > 0;
    }
    // endregion: wait
    // The kernel gives up what it was asked: the receive that waits; a send, and then the one chained behind it.
    while ring.is_asked() {
        ring.cancel_all();
        ring.enter(None)?;
        take(&mut ring, queue, service)?;
    }
    Ok(())
}

// region: receive
/// Asks for datagrams, as many as there are slots and budget, if all that were asked for have come at once; else for
/// one. Only the last receive of them waits.
fn receive(ring: &mut Ring, pace: &mut Pace, service: &Service) {
    let one_waits = ring.receives() > 0;
    if one_waits || ring.free() == 0 || service.signalled() {
        return;
    }
    // Twice as many each time: one that finds nothing has cost something for nothing.
    let wanted = if pace.waits { 1 } else { 2 * pace.asked };
    let asked = wanted.min(service.budget()).min(ring.free());
    // With nothing to send the ring sleeps until one has come.
    *pace = Pace { asked, waits: asked == 1 && ring.sends() == 0 };
    for behind in (0..pace.asked).rev() {
        let waits = behind == 0;
        ring.ask_receive(waits);
    }
}
// endregion: receive

// region: flush
/// Asks to send the queue, one datagram behind the other. Sends that are not chained overtake each other when they
/// block, and so do two chains: the next one begins when this one is over.
fn flush(ring: &mut Ring, queue: &mut Queue, service: &Service) {
    if ring.sends() > 0 {
        return;
    }
    for behind in (0..queue.waiting().min(service.left())).rev() {
        if let Some(slot) = queue.begin() {
            ring.ask_send(slot, behind > 0);
        }
    }
}
// endregion: flush

// region: take
/// Takes what is done: datagrams into the queue, slots that were sent out of it.
fn take(ring: &mut Ring, queue: &mut Queue, service: &mut Service) -> io::Result<()> {
    while let Some(done) = ring.done() {
        match done {
            Done::Received(slot, result) => match service.admit(result.map(|len| (len, slot.peer()))) {
                Ok(Some(_)) => {
                    queue.push(slot);
                    service.queued(Fill::Queued, queue.len());
                }
                Ok(None) => ring.put_back(slot),
                Err(error) => {
                    ring.put_back(slot);
                    if !is_over(&error) {
                        service.receive_failed(error)?;
                    }
                }
            },
            Done::Sent(slot, result) => {
                queue.end();
                match result {
                    Ok(bytes) => {
                        ring.put_back(slot);
                        service.sent(bytes);
                    }
                    // The end has come before its turn: it was never sent.
                    Err(error) if is_over(&error) => queue.push(slot),
                    Err(error) => {
                        ring.put_back(slot);
                        service.send_failed(error)?;
                    }
                }
            }
            Done::Readable => {
                service.last_call();
                ring.cancel_receive();
            }
            // Of requests that this server does not make.
            Done::Arrived(_) | Done::Failed(_) | Done::Writable => {}
        }
    }
    Ok(())
}

/// Whether a request has ended without being done: nothing was there, or it was cancelled.
fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(Errno::ECANCELED as i32)
}
// endregion: take
