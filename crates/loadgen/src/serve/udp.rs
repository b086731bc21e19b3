//! The target as a UDP echo.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Target, Verdict};

/// Replies that wait for their time, at most; those beyond are dropped, and counted.
const LONGEST_QUEUE: usize = 1_000_000;

/// Echoes until `stopped`, then until every reply that waits has left.
pub(super) async fn serve(target: &Rc<Target>, socket: UdpSocket, mut stopped: watch::Receiver<bool>) {
    let socket = Rc::new(socket);
    let mut buffer = vec![0; 65_536];
    let mut waiting = JoinSet::new();
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, peer)) => receive(target, &socket, &buffer[..length], peer, &mut waiting).await,
                Err(error) => target.receive_failed(&error),
            },
            Some(_) = waiting.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    target.summary.borrow_mut().kernel_dropped = kernel_drops(&socket);
    while waiting.join_next().await.is_some() {}
}

/// Decides about a datagram; sends what is due now, and lets the rest wait.
async fn receive(
    target: &Rc<Target>,
    socket: &Rc<UdpSocket>,
    datagram: &[u8],
    peer: SocketAddr,
    waiting: &mut JoinSet<()>,
) {
    if let Some(reason) = echo_service::refusal(peer, target.address) {
        return refuse(target, reason, peer);
    }
    let due = match target.receive(peer) {
        Verdict::Answer(due) => due,
        Verdict::Reject | Verdict::Silence => return,
    };
    if due <= Instant::now() {
        return reply(target, socket, datagram, peer).await;
    }
    if waiting.len() >= LONGEST_QUEUE {
        target.summary.borrow_mut().queue_dropped += 1;
        return;
    }
    let (target, socket, datagram) = (Rc::clone(target), Rc::clone(socket), datagram.to_vec());
    waiting.spawn_local(async move {
        target.agenda.until(due).await;
        reply(&target, &socket, &datagram, peer).await;
    });
}

/// Sends a reply: once, twice or not at all.
async fn reply(target: &Target, socket: &UdpSocket, datagram: &[u8], peer: SocketAddr) {
    let copies = target.faults.borrow_mut().copies();
    if copies == 0 {
        target.summary.borrow_mut().dropped += 1;
        return;
    }
    match socket.send_to(datagram, peer).await {
        Ok(_) => target.answered(peer),
        Err(error) => return target.send_failed(&error),
    }
    // The first copy has been counted, so a second that fails is merely none.
    if copies == 2 && socket.send_to(datagram, peer).await.is_ok() {
        target.summary.borrow_mut().duplicated += 1;
    }
}

/// Counts a datagram that no echo may answer, and says so once a minute.
fn refuse(target: &Target, reason: echo_service::Refusal, peer: SocketAddr) {
    let mut summary = target.summary.borrow_mut();
    summary.received += 1;
    *summary.refused.entry(reason.key()).or_default() += 1;
    if target.logged.get().is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
        target.logged.set(Some(Instant::now()));
        target.log(format_args!("refused a datagram from {peer}: {} ({})", reason.sentence(), reason.key()));
    }
}

/// What the socket's receive buffer had no room for.
fn kernel_drops(socket: &UdpSocket) -> Option<u64> {
    let socket: io::Result<std::net::UdpSocket> = socket.as_fd().try_clone_to_owned().map(Into::into);
    echo_service::kernel_drops(&socket.ok()?)
}
