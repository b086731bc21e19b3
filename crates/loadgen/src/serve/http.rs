//! The target as an HTTP/1.1 server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ANSWER, FIRST_PAUSE, Target, Verdict, back_off};

/// Serves until `stopped`, then until every request under way is answered.
pub(super) async fn serve(target: &Rc<Target>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    target.summary.borrow_mut().connections += 1;
                    connections.spawn_local(converse(Rc::clone(target), stream, peer, stopped.clone()));
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

/// Serves one connection.
async fn converse(
    target: Rc<Target>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stopped: watch::Receiver<bool>,
) {
    // A reply is one small write: it must not wait for the acknowledgement of the one before. Without the option it
    // merely comes later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|_: Request<Incoming>| answer(&target, peer));
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            // An idle connection is the client's to close.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended
        && target.verbose
    {
        // What a client breaks off or garbles is its own affair; its requests without answer are counted.
        target.log(format_args!("the connection from {peer} failed: {error}"));
    }
}

/// Answers a request at its time, or never.
async fn answer(target: &Target, peer: SocketAddr) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match target.receive(peer) {
        Verdict::Answer(due) => {
            target.agenda.until(due).await;
            target.answered(peer);
            (StatusCode::OK, ANSWER)
        }
        Verdict::Reject => (StatusCode::TOO_MANY_REQUESTS, "no token left\n"),
        Verdict::Silence => std::future::pending().await,
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    Ok(response)
}
