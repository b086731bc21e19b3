//! echo-mini: a UDP echo that waits in a runtime of our own, as an async function, or in tokio as the same one.
//!
//! New here: async and await: the compiler keeps the function's place, and a runtime of our own polls it.
//! Run:      cargo run --bin echo-mini    (or: cargo run --bin echo-mini -- --runtime tokio)
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-mini    (or: strace target/debug/echo-mini --marks)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 132 for a burst of 64
//! Still wrong: one thread, no budget but the function's own, nobody else's libraries (next: echo-tokio-await).

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use datagram_queue::{DatagramQueue, Fill};
use echo_service::{Flags, Pause, Service};
use futures::future::select;
use mini_runtime::yield_now;

use runtimes::{Mini, Net, Tokio};

/// What the function needs of a runtime, and how each of the two gives it.
#[path = "echo-mini/runtimes.rs"]
mod runtimes;

#[derive(Args)]
struct More {
    /// Who polls the function: the runtime of this project, or tokio's for one thread
    #[arg(long, value_name = "NAME", default_value = "mini")]
    runtime: Choice,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Mini,
    Tokio,
}

fn main() -> ExitCode {
    let (flags, More { runtime }) = Flags::parse_with(env!("CARGO_BIN_NAME"));
    let (socket, mut service) = Service::open(&flags);
    let mut queue = flags.queue();
    let outcome = match runtime {
        Choice::Mini => {
            runtimes::mini(async { run(&Mini::open(&socket, &service)?, &mut queue, &mut service).await })
        }
        Choice::Tokio => {
            runtimes::tokio(async { run(&Tokio::open(&socket, &service)?, &mut queue, &mut service).await })
        }
    };
    service.finish(outcome, &socket, &queue)
}

/// Waits for the socket in both directions, and for signals.
async fn run(net: &impl Net, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<()> {
    service.greet();
    // region: wait
    while service.serving(queue) {
        service.waiting();
        let socket = net.ready(queue.has_room(), !queue.is_empty());
        let signal = async {
            match service.timeout_ms() {
                None => net.signalled().await,
                Some(left) => net.sleep(Duration::from_millis(left.into())).await,
            }
        };
        select(pin!(socket), pin!(signal)).await.factor_first().0?;
        if service.signalled() {
            service.stop(queue);
        }
        let mut budget = service.budget();
        loop {
            let received = receive(net, queue, service, &mut budget)?;
            let flushed = flush(net, queue, service)?;
            if received == Pause::BudgetSpent {
                // The rest is still known to be there, so the next wait does not wait. Others come first.
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

/// Socket into queue, until it would block, the queue is full or the budget is spent.
fn receive(
    net: &impl Net,
    queue: &mut DatagramQueue,
    service: &mut Service,
    budget: &mut usize,
) -> io::Result<Pause> {
    while *budget > 0 {
        match queue.fill(|slot| service.admit(net.try_recv_from(slot))) {
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

/// Queue into socket, until it would block or the queue is empty.
fn flush(net: &impl Net, queue: &mut DatagramQueue, service: &mut Service) -> io::Result<Pause> {
    while !queue.is_empty() {
        if service.done() {
            return Ok(Pause::Finished);
        }
        match queue.drain(|payload, peer| net.try_send_to(payload, peer)) {
            Ok(bytes) => service.sent(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => service.send_failed(error)?,
        }
    }
    Ok(Pause::QueueEmpty)
}
