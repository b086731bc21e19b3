//! echo-tokio-framed: a UDP echo that waits in tokio, as a stream of datagrams and a sink for them.
//!
//! New here: a codec stands between socket and program; the loops speak of datagrams only.
//! Run:      cargo run --bin echo-tokio-framed
//! Poke:     nc -u 127.0.0.1 2000
//! Watch:    cargo ladder trace echo-tokio-framed    (or: strace -f target/debug/echo-tokio-framed)
//! Expect:   epoll_wait, recvfrom, recvfrom = EAGAIN, sendto, epoll_wait (writable) for one datagram;
//!           133 for a burst of 64
//! Still wrong: every payload is copied, in and out, and each still costs two system calls.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use datagram_queue::{Fill, Policy};
use echo_service::{Flags, Service, spare_descriptors};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn_local, unconstrained, yield_now};
use tokio_rungs::{Shared, on_pending, place, until_signal};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;
use tokio_util::udp::UdpFramed;
use trace_marks::{Markable, mark};

/// A payload and its peer, on the way from the reader to the writer.
type Datagram = (Bytes, SocketAddr);

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    flags.require_policy(
        &[Policy::Backpressure, Policy::DropNewest],
        "the reader's end of a channel cannot take out what it has put in",
    );
    let (socket, service) = Service::open(&flags);
    let shared = Rc::new(Shared::new(service));
    let mut builder = Builder::new_current_thread();
    let runtime =
        spare_descriptors().and_then(|()| builder.enable_all().build_local(LocalOptions::default()));
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(&socket, &flags, &shared)));
    shared.service().finish(outcome, &socket, shared.totals())
}

/// Runs the reader and the writer until a signal stops the reader, and the writer has sent the rest.
async fn run(socket: &std::net::UdpSocket, flags: &Flags, shared: &Rc<Shared>) -> io::Result<()> {
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
        let (received, flushed) = tokio::join!(spawn_local(reader), spawn_local(writer));
        received?.unwrap_or(Ok(())).and(flushed?)
    };
    // endregion: wait
    until_signal(echo, shared, &stop).await
}

// region: receive
/// Stream into channel. A place in the channel comes first: what cannot be queued is not received.
async fn receive(
    socket: Rc<UdpSocket>,
    queue: mpsc::Sender<Datagram>,
    flags: Flags,
    shared: Rc<Shared>,
    mut is_blocked: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut stream = UdpFramed::new(socket, DatagramCodec::default());
    let mut budget = flags.budget;
    loop {
        let Ok(place) = place(&queue, flags.policy(), &mut is_blocked).await else { return Ok(()) };
        let next = on_pending(stream.next(), || shared.service().waiting()).await;
        // The stream of a UDP socket has no end.
        let Some(received) = next else { return Ok(()) };
        let mut payload = Bytes::new();
        let received = received.map(|(bytes, peer)| {
            payload = bytes;
            (payload.len(), peer)
        });
        let admitted = shared.service().admit(received);
        match (admitted, place.or_else(|| queue.try_reserve().ok())) {
            (Ok(Some((_, peer))), Some(place)) => {
                place.send((payload, peer));
                let waiting = shared.pushed();
                shared.service().queued(Fill::Queued, waiting);
            }
            (Ok(Some(_)), None) => {
                shared.dropped();
                shared.service().queued(Fill::Dropped, flags.queue);
            }
            (Ok(None), _) => {}
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
/// Channel into sink, until the reader has gone and the channel is empty.
async fn flush(
    socket: Rc<UdpSocket>,
    mut queued: mpsc::Receiver<Datagram>,
    shared: Rc<Shared>,
    blocked: watch::Sender<bool>,
) -> io::Result<()> {
    // tokio tries a send only once it has heard that the socket is writable.
    socket.writable().await?;
    let mut sink = UdpFramed::new(Rc::clone(&socket), DatagramCodec::default());
    while !shared.service().done()
        && let Some((payload, peer)) = queued.recv().await
    {
        shared.popped();
        loop {
            let sent = sink.send((payload.clone(), peer));
            let sent = on_pending(sent, || {
                blocked.send_replace(true);
            });
            let sent = sent.await;
            // True becomes false, and the reader hears of it; false stays false, unheard.
            blocked.send_if_modified(std::mem::take);
            if sent.is_err() {
                // A failed datagram stays in the sink, to be sent before all others: take a new one.
                sink = UdpFramed::new(Rc::clone(&socket), DatagramCodec::default());
            }
            match sent {
                Ok(()) => shared.service().sent(payload.len()),
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

// region: codec
/// A frame is a whole datagram, an empty one too.
#[derive(Default)]
struct DatagramCodec {
    /// The datagram has been handed out; the next call says that there is no other in it.
    taken: bool,
}

impl Decoder for DatagramCodec {
    type Item = Bytes;
    type Error = io::Error;

    /// `UdpFramed` asks until it hears `None`: once for the datagram, once more for the end of it.
    fn decode(&mut self, datagram: &mut BytesMut) -> io::Result<Option<Bytes>> {
        self.taken = !self.taken;
        if !self.taken {
            return Ok(None);
        }
        // A copy, so that the large buffer of the stream stays with it.
        let payload = Bytes::copy_from_slice(datagram);
        datagram.clear();
        Ok(Some(payload))
    }
}

impl Encoder<Bytes> for DatagramCodec {
    type Error = io::Error;

    fn encode(&mut self, payload: Bytes, datagram: &mut BytesMut) -> io::Result<()> {
        datagram.extend_from_slice(&payload);
        Ok(())
    }
}
// endregion: codec
