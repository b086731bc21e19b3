//! echo-mini: a UDP echo that waits in a runtime of our own, as an async function.
//!
//! New here: async and await: the compiler keeps the function's place, and a runtime of our own polls it.
//! Run:      cargo run --bin echo-mini
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-mini    (or: strace target/debug/echo-mini --marks)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 132 for a burst of 64
//! Still wrong: a runtime of one thread that nobody else writes libraries for (next: echo-tokio-await).

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use futures::future::select;
use mini_runtime::net::UdpSocket;
use mini_runtime::reactor::{Interest, Registration};
use mini_runtime::{Runtime, sleep, yield_now};
use trace_marks::Markable;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let echo = run(&socket, &mut queue, &mut service).marked("echo");
    // region: opening
    let outcome = Runtime::new().and_then(|runtime| runtime.block_on(echo)?);
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
    let socket = &UdpSocket::from_std(socket.try_clone()?)?;
    let signals = Registration::new(service.signals().try_clone_to_owned()?)?;
    // endregion: opening
    service.greet();
    // region: wait
    while service.serving(queue) {
        service.waiting();
        // region: waits
        let ready = socket.ready(Interest { read: queue.has_room(), write: !queue.is_empty() });
        let signal = async {
            match service.timeout_ms() {
                None => signals.ready(Interest::READ).await?,
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
