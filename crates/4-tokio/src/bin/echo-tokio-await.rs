//! echo-tokio-await: a UDP echo that waits in tokio, by `recv_from().await` and `send_to().await` in a loop.
//!
//! New here: the loop that everybody writes first; `await` makes it a flip-flop, which sleeps without its thread.
//! Run:      cargo run --bin echo-tokio-await
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-tokio-await    (or: strace -f target/debug/echo-tokio-await)
//! Expect:   epoll_wait, recvfrom, sendto, recvfrom = EAGAIN, epoll_wait (writable) for one datagram;
//!           132 for a burst of 64
//! Still wrong: while a send waits, the loop does nothing else, and cannot choose what to drop (next: echo-tokio-ready).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use datagram_queue::{Fill, Policy};
use echo_service::{Flags, Service, start_runtime};
use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use tokio_rungs::{Shared, until_signal};
use tokio_util::sync::CancellationToken;
use trace_marks::{Markable, mark};

/// The flags of this rung alone.
#[derive(Args)]
struct More {
    /// Run on the runtime that `#[tokio::main]` makes: the loop on the main thread, the waits in others
    #[arg(long)]
    multi_thread: bool,
}

fn main() -> ExitCode {
    let (flags, More { multi_thread }) = Flags::parse_with(env!("CARGO_BIN_NAME"));
    flags.require_policy(&[Policy::Backpressure], "it receives nothing while it waits for a send");
    let (socket, service) = Service::open(&flags);
    let shared = Shared::new(service);
    let mut builder = if multi_thread { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = start_runtime(flags.program, || builder.enable_all().build());
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(&socket, &flags, &shared)));
    shared.service().finish(outcome, &socket, shared.totals())
}

/// Receives, then sends, until a signal comes: that ends the loop at its receive.
async fn run(socket: &std::net::UdpSocket, flags: &Flags, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket.try_clone()?)?;
    // One byte more than is accepted: a datagram that is longer shows by it.
    let mut buffer = vec![0; flags.max_size + 1];
    let stop = CancellationToken::new();
    shared.service().greet();
    // region: wait
    let echo = async {
        mark("ready");
        while !shared.service().done() {
            let Some(received) = stop.run_until_cancelled(receive(&socket, &mut buffer, shared)).await else {
                break;
            };
            if let Some((length, peer)) = received? {
                flush(&socket, &buffer[..length], peer, shared).await?;
            }
        }
        Ok(())
    };
    // endregion: wait
    until_signal(echo.marked("echo"), shared, &stop).await
}

// region: receive
/// One datagram from the socket into the buffer. Sleeps until there is one.
async fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    shared: &Shared,
) -> io::Result<Option<(usize, SocketAddr)>> {
    shared.service().waiting();
    let received = socket.recv_from(buffer).await;
    let admitted = shared.service().admit(received);
    match admitted {
        Ok(admitted) => return Ok(admitted),
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => shared.service().receive_failed(error)?,
    }
    Ok(None)
}
// endregion: receive

// region: flush
/// The datagram from the buffer into the socket. Sleeps while the socket takes none.
async fn flush(socket: &UdpSocket, payload: &[u8], peer: SocketAddr, shared: &Shared) -> io::Result<()> {
    // One datagram at a time is all that it ever holds, whatever --queue says.
    let held = shared.pushed();
    shared.service().queued(Fill::Queued, held);
    shared.popped();
    let sent = loop {
        match socket.send_to(payload, peer).await {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            sent => break sent,
        }
    };
    shared.settled();
    match sent {
        Ok(bytes) => shared.service().sent(bytes),
        Err(error) => shared.service().send_failed(error)?,
    }
    Ok(())
}
// endregion: flush
