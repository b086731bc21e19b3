//! echo-tokio-mpsc: a UDP echo that waits in tokio, as a reader, a writer and a channel between them.
//!
//! New here: each direction is its own loop; a bounded channel joins them and holds the reader back.
//! Run:      cargo run --bin echo-tokio-mpsc    (--tasks 1: both in one task)
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-tokio-mpsc    (or: strace -f target/debug/echo-tokio-mpsc)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto, epoll_wait (writable) for one datagram;
//!           132 for a burst of 64
//! Still wrong: both loops speak of buffers and would-block, not of datagrams (next: echo-tokio-framed).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use bytes::{BufMut, Bytes};
use clap::Args;
use datagram_queue::{Fill, Policy};
use echo_service::{Flags, Service, spare_descriptors};
use futures::FutureExt;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn_local, unconstrained, yield_now};
use tokio_rungs::{Buffers, Shared, place, until_signal};
use tokio_util::sync::CancellationToken;
use trace_marks::{Markable, mark};

/// The flags of this rung alone.
#[derive(Args)]
struct More {
    /// Run the reader and the writer in one task (join!) or in two (spawn)
    #[arg(long, value_name = "1|2", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=2))]
    tasks: u8,
}

/// A payload and its peer, on the way from the reader to the writer.
type Datagram = (Bytes, SocketAddr);

fn main() -> ExitCode {
    let (flags, More { tasks }) = Flags::parse_with(env!("CARGO_BIN_NAME"));
    flags.require_policy(
        &[Policy::Backpressure, Policy::DropNewest],
        "the reader's end of a channel cannot take out what it has put in",
    );
    let (socket, service) = Service::open(&flags);
    let shared = Rc::new(Shared::new(service));
    let mut builder = Builder::new_current_thread();
    let runtime =
        spare_descriptors().and_then(|()| builder.enable_all().build_local(LocalOptions::default()));
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(&socket, &flags, &shared, tasks)));
    shared.service().finish(outcome, &socket, shared.totals())
}

/// Runs the reader and the writer until a signal stops the reader, and the writer has sent the rest.
async fn run(socket: &std::net::UdpSocket, flags: &Flags, shared: &Rc<Shared>, tasks: u8) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = Rc::new(UdpSocket::from_std(socket.try_clone()?)?);
    shared.service().greet();
    // region: wait
    let (queue, queued) = mpsc::channel(flags.queue);
    let (blocked, is_blocked) = watch::channel(false);
    let stop = CancellationToken::new();
    // The rung's own budget takes the place of tokio's.
    let reader =
        unconstrained(receive(Rc::clone(&socket), queue, flags.clone(), Rc::clone(shared), is_blocked));
    let writer = unconstrained(flush(socket, queued, Rc::clone(shared), blocked));
    let reader = stop.clone().run_until_cancelled_owned(reader).marked("reader");
    // A reader without a writer has nothing to do.
    let end = stop.clone().drop_guard();
    let writer = writer.inspect(|_| drop(end)).marked("writer");
    let echo = async {
        mark("ready");
        if tasks == 1 {
            // One task: a wake of either polls both.
            let (received, flushed) = tokio::join!(reader, writer);
            received.unwrap_or(Ok(())).and(flushed)
        } else {
            // Two tasks: a wake polls the one that it is for.
            let (received, flushed) = tokio::join!(spawn_local(reader), spawn_local(writer));
            received?.unwrap_or(Ok(())).and(flushed?)
        }
    };
    // endregion: wait
    until_signal(echo, shared, &stop).await
}

// region: receive
/// Socket into channel. A place in the channel comes first: what cannot be queued is not received.
async fn receive(
    socket: Rc<UdpSocket>,
    queue: mpsc::Sender<Datagram>,
    flags: Flags,
    shared: Rc<Shared>,
    mut is_blocked: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffers = Buffers::new(flags.queue, flags.max_size + 1);
    let mut budget = flags.budget;
    loop {
        let Ok(place) = place(&queue, flags.policy(), &mut is_blocked).await else { return Ok(()) };
        let buffer = buffers.vacant();
        let received = socket.try_recv_buf_from(&mut (&mut *buffer).limit(flags.max_size + 1));
        let admitted = shared.service().admit(received);
        match (admitted, place.or_else(|| queue.try_reserve().ok())) {
            (Ok(Some((_, peer))), Some(place)) => {
                place.send((buffers.take(), peer));
                let waiting = shared.pushed();
                shared.service().queued(Fill::Queued, waiting);
            }
            (Ok(Some(_)), None) => {
                shared.dropped();
                shared.service().queued(Fill::Dropped, flags.queue);
            }
            (Ok(None), _) => {}
            (Err(error), _) if error.kind() == ErrorKind::WouldBlock => {
                budget = flags.budget;
                shared.service().waiting();
                socket.readable().await?;
                continue;
            }
            (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
            (Err(error), _) => shared.service().receive_failed(error)?,
        }
        budget -= 1;
        if budget == 0 {
            budget = flags.budget;
            yield_now().await;
        }
    }
}
// endregion: receive

// region: flush
/// Channel into socket, until the reader has gone and the channel is empty.
async fn flush(
    socket: Rc<UdpSocket>,
    mut queued: mpsc::Receiver<Datagram>,
    shared: Rc<Shared>,
    blocked: watch::Sender<bool>,
) -> io::Result<()> {
    // tokio tries a send only once it has heard that the socket is writable.
    socket.writable().await?;
    while !shared.service().done()
        && let Some((payload, peer)) = queued.recv().await
    {
        shared.popped();
        loop {
            match socket.try_send_to(&payload, peer) {
                Ok(bytes) => shared.service().sent(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked.send_replace(true);
                    socket.writable().await?;
                    blocked.send_replace(false);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => shared.service().send_failed(error)?,
            }
            shared.settled();
            break;
        }
    }
    Ok(())
}
// endregion: flush
