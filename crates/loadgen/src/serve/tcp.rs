//! The target as a TCP server that says one line to each connection and closes it.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ANSWER, FIRST_PAUSE, Target, Verdict, back_off};

/// Serves until `stopped`, then until every connection has its line.
pub(super) async fn serve(target: &Rc<Target>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    target.summary.borrow_mut().connections += 1;
                    connections.spawn_local(converse(Rc::clone(target), stream, peer));
                }
                Err(error) => {
                    target.receive_failed(&error);
                    back_off(&error, &mut pause).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn converse(target: Rc<Target>, mut stream: TcpStream, peer: SocketAddr) {
    match target.receive(peer) {
        Verdict::Answer(due) => {
            target.agenda.until(due).await;
            let sent = async {
                stream.write_all(ANSWER.as_bytes()).await?;
                stream.shutdown().await
            };
            match sent.await {
                Ok(()) => {
                    // What the client has said unasked must be read, or the close would cut our line off.
                    while stream.try_read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
                    target.answered(peer);
                }
                Err(error) => target.send_failed(&error),
            }
        }
        Verdict::Reject => {}
        Verdict::Silence => std::future::pending().await,
    }
}
