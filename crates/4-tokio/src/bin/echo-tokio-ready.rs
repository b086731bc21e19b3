//! echo-tokio-ready: a UDP echo that waits in tokio, as the async function of echo-mini.
//!
//! New here: the runtime is tokio's. Beside imports, opening and waits, the program is echo-mini's.
//! Run:      cargo run --bin echo-tokio-ready
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-tokio-ready    (or: strace -f target/debug/echo-tokio-ready)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto, epoll_wait (writable) for one datagram;
//!           132 for a burst of 64
//! Still wrong: readiness is asked for in one place and used in two others, kept together by hand (next: echo-tokio).

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service, spare_descriptors};
use futures::TryFutureExt;
use futures::future::select;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::net::unix::pipe;
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::sleep;
use trace_marks::Markable;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let echo = run(&socket, &mut queue, &mut service).marked("echo");
    // region: opening
    let runtime = spare_descriptors().and_then(|()| Builder::new_current_thread().enable_all().build());
    let outcome = runtime.and_then(|runtime| runtime.block_on(echo));
    // endregion: opening
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
async fn run(
    socket: &std::net::UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
) -> io::Result<()> {
    // region: opening
    socket.set_nonblocking(true)?;
    let socket = &UdpSocket::from_std(socket.try_clone()?)?;
    let signals = pipe::Receiver::from_owned_fd(service.signals().try_clone_to_owned()?)?;
    // endregion: opening
    service.greet();
    // region: wait
    while service.serving(queue) {
        service.waiting();
        // region: waits
        let ready = socket.ready(match (queue.has_room(), queue.is_empty()) {
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, _) => Interest::WRITABLE,
        });
        let ready = ready.map_ok(drop);
        let signal = async {
            match service.timeout_ms() {
                None => signals.readable().await?,
                Some(left) => sleep(Duration::from_millis(left.into())).await,
            }
            io::Result::Ok(())
        };
        // endregion: waits
        select(pin!(ready), pin!(signal)).await.factor_first().0?;
        if service.signalled() {
            service.stop(queue);
        }
        let mut budget = service.budget();
        loop {
            let received = receive(socket, queue, service, &mut budget)?;
            let flushed = flush(socket, queue, service)?;
            if received == Pause::BudgetSpent {
                // The rest is still known to be there, so the next `socket.ready` is ready at once. Others come first.
                yield_now().await;
            }
            if received != Pause::QueueFull || flushed != Pause::QueueEmpty {
                break;
            }
        }
    }
    // endregion: wait
    Ok(())
}

// region: receive
/// Socket into queue, until it would block, the queue is full or the budget is spent.
fn receive(
    socket: &UdpSocket,
    queue: &mut DatagramQueue,
    service: &mut Service,
    budget: &mut usize,
) -> io::Result<Pause> {
    while *budget > 0 {
        match queue.fill(|slot| service.admit(socket.try_recv_from(slot))) {
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
fn flush(socket: &UdpSocket, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<Pause> {
    while !queue.is_empty() {
        if service.done() {
            return Ok(Pause::Finished);
        }
        match queue.drain(|payload, peer| socket.try_send_to(payload, peer)) {
            Ok(bytes) => service.sent(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.send_failed(error)?,
        }
    }
    Ok(Pause::QueueEmpty)
}
// endregion: flush
