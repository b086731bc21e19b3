//! echo-tokio: a UDP echo that waits in tokio, as one future for both directions.
//!
//! New here: a runtime waits; the two directions are one future that says what it waits for.
//! Run:      cargo run --bin echo-tokio
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-tokio    (or: strace -f target/debug/echo-tokio)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto, epoll_wait (writable) for one datagram;
//!           132 for a burst of 64
//! Still wrong: one future does two jobs, and its author schedules them (next: echo-tokio-mpsc).

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service, spare_descriptors};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use tokio::task::unconstrained;
use tokio::time::timeout_at;
use tokio_rungs::first_signal;
use trace_marks::Markable;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let runtime = spare_descriptors().and_then(|()| Builder::new_current_thread().enable_all().build());
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(&socket, &mut queue, &mut service)));
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
async fn run(
    socket: &std::net::UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket.try_clone()?)?;
    service.greet();
    let signalled = service.signal_flag();
    let mut echo = Echo { socket, queue, service };
    tokio::select! {
        // The rung's own budget takes the place of tokio's, which would end a drain at 128.
        outcome = unconstrained(&mut echo).marked("echo") => return outcome,
        caught = first_signal(signalled) => caught?,
    }
    echo.service.stop(echo.queue);
    let last_call = echo.service.last_call();
    // When the time is up, what is still queued is counted as dropped.
    timeout_at(last_call.into(), echo).await.unwrap_or(Ok(()))
}

/// The echo as a future: it completes when the service is over.
struct Echo<'a> {
    socket: UdpSocket,
    queue: &'a mut DatagramQueue,
    service: &'a mut Service,
}

// region: wait
impl Future for Echo<'_> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, queue, service } = self.get_mut();
        // hole: poll
        if !service.serving(queue) {
            return Poll::Ready(Ok(()));
        }
        let mut budget = service.budget();
        loop {
            let received = receive(socket, queue, service, &mut budget, cx)?;
            let flushed = flush(socket, queue, service, cx)?;
            if !service.serving(queue) {
                return Poll::Ready(Ok(()));
            }
            if received == Pause::BudgetSpent && queue.has_room() {
                // There may be more to read, of which nobody will tell: ask to be polled again, after
                // the runtime has looked at everything else.
                cx.waker().wake_by_ref();
            }
            if received != Pause::QueueFull || flushed != Pause::QueueEmpty {
                break;
            }
        }
        // Whatever met would-block has left the waker with the socket.
        service.waiting();
        Poll::Pending
        // endhole: poll
    }
}
// endregion: wait

// region: receive
/// Socket into queue, until it would block, the queue is full or the budget is spent.
fn receive(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    budget: &mut usize,
    cx: &mut Context<'_>,
) -> io::Result<Pause> {
    while *budget > 0 {
        let filled = queue.fill(|slot| {
            let mut slot = ReadBuf::new(slot);
            match socket.poll_recv_from(cx, &mut slot) {
                Poll::Ready(peer) => service.admit(peer.map(|peer| (slot.filled().len(), peer))),
                Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            }
        });
        match filled {
            Ok(Fill::Full) => return Ok(Pause::QueueFull),
            Ok(Fill::Closed) => return Ok(Pause::Finished),
            Ok(fill) => service.queued(fill, queue.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.receive_failed(error)?,
        }
        *budget -= 1;
    }
    Ok(Pause::BudgetSpent)
}
// endregion: receive

// region: flush
/// Queue into socket, until it would block or the queue is empty.
fn flush(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    cx: &mut Context<'_>,
) -> io::Result<Pause> {
    while !queue.is_empty() {
        if service.done() {
            return Ok(Pause::Finished);
        }
        let drained = queue.drain(|payload, peer| match socket.poll_send_to(cx, payload, peer) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        });
        match drained {
            Ok(bytes) => service.sent(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.send_failed(error)?,
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush
