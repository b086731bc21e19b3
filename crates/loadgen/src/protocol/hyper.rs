//! HTTP/1.1 over one connection, by hyper's connection API: a pooling client would hide the wait for a connection.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use ::hyper::client::conn::http1::{self, SendRequest};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

use super::stream::{Connector, Stream};
use super::{Context, Protocol, class};
use crate::clock::Monotonic;
use crate::record::Ending;
use crate::template::Requests;

type Connection = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended: then the sender knows it, too.
    connection: Option<Connection>,
}

impl Open {
    /// Runs `future` and the connection it depends on as one task: no hand-over between two for each request.
    async fn drive<F: Future>(connection: &mut Option<Connection>, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            if let Some(open) = connection
                && Pin::new(open).poll(cx).is_ready()
            {
                // Its error, if it had one, comes out of the request it befell.
                *connection = None;
            }
            future.as_mut().poll(cx)
        })
        .await
    }
}

/// One connection at a time, opened when it is first needed and again when it was closed.
pub struct Hyper {
    connector: Connector,
    requests: Arc<Requests>,
    open: Option<Open>,
}

impl Hyper {
    /// Makes `requests` over what `connector` opens.
    pub fn new(connector: Connector, requests: Arc<Requests>) -> Self {
        Self { connector, requests, open: None }
    }

    async fn connect(&self) -> Result<Open, Cow<'static, str>> {
        let stream = self.connector.open().await?;
        // Head and body in one plain write: for requests of this size cheaper than a vector of two.
        let handshake = http1::Builder::new().writev(false).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|e| hyper_class(&e))?;
        Ok(Open { sender, connection: Some(connection) })
    }

    async fn attempt(&mut self, context: &Context<'_>) -> Result<Ending, Cow<'static, str>> {
        let (name, mut request) = self.requests.build(context.job.index).map_err(Cow::Owned)?;
        if let Some(name) = name {
            context.named(name);
        }
        // Twice: the server may have closed an idle connection in the moment in which we chose it.
        let mut reused = self.ready().await;
        let response = loop {
            if self.open.is_none() {
                let start = Monotonic.now();
                let open = self.connect().await?;
                self.open = Some(open);
                let now = Monotonic.now();
                context.connected(now, Some(now - start));
            } else {
                context.connected(Monotonic.now(), None);
            }
            let Some(open) = &mut self.open else { return Err("connection closed".into()) };
            let sending = open.sender.try_send_request(request);
            match Open::drive(&mut open.connection, sending).await {
                Ok(response) => break response,
                Err(mut failed) => {
                    self.open = None;
                    match failed.take_message() {
                        // Not a byte of it was sent: a new connection may have it.
                        Some(unsent) if reused => {
                            reused = false;
                            request = unsent;
                        }
                        _ => return Err(hyper_class(failed.error())),
                    }
                }
            }
        };
        context.first_byte();
        let status = response.status();
        let mut body = response.into_body();
        while let Some(open) = &mut self.open {
            match Open::drive(&mut open.connection, body.frame()).await {
                None => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.open = None;
                    return Err(hyper_class(&error));
                }
            }
        }
        if status.is_client_error() || status.is_server_error() {
            return Err(format!("http {}", status.as_u16()).into());
        }
        Ok(Ending::Ok)
    }

    /// True when there is a connection that can take a request.
    async fn ready(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        if Open::drive(&mut open.connection, open.sender.ready()).await.is_err() {
            self.open = None;
        }
        self.open.is_some()
    }
}

impl Protocol for Hyper {
    async fn fire(&mut self, context: &Context<'_>) -> Ending {
        self.attempt(context).await.unwrap_or_else(Ending::Error)
    }

    fn abandon(&mut self) {
        self.open = None;
    }

    async fn idle(&mut self) {
        if let Some(Open { connection: Some(connection), .. }) = &mut self.open {
            // Ends when the server closes it: then the next request opens another.
            _ = connection.await;
            self.open = None;
        }
        std::future::pending().await
    }
}

fn hyper_class(error: &::hyper::Error) -> Cow<'static, str> {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(io) = io {
        match io.kind() {
            // A malformed chunk comes as an error of reading.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => "malformed response".into(),
            _ => class(io),
        }
    } else if error.is_incomplete_message() {
        "response cut short".into()
    } else if error.is_parse() {
        "malformed response".into()
    } else if error.is_closed() || error.is_canceled() {
        "connection closed".into()
    } else {
        "http".into()
    }
}
