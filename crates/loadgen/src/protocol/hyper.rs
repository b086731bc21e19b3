//! HTTP/1.1 over one connection, by hyper's connection API: a pooling client would hide the wait for a connection.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use ::hyper::client::conn::http1::{self, SendRequest};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

use super::response::{LARGEST_HEAD, Unusable};
use super::stream::{Connector, Stream};
use super::{Context, Protocol, class, is_end};
use crate::clock::Monotonic;
use crate::record::{Ending, Failure};
use crate::template::Requests;

type Connection = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

struct Open {
    /// Bytes that came over it.
    read: Rc<Cell<u64>>,
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

    async fn connect(&self) -> Result<Open, Failure> {
        let stream = self.connector.open().await?;
        let read = stream.read();
        // Head and body in one plain write: for requests of this size cheaper than a vector of two.
        let handshake = http1::Builder::new()
            .writev(false)
            .max_buf_size(LARGEST_HEAD)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|e| hyper_failure(&e, 0))?;
        Ok(Open { read, sender, connection: Some(connection) })
    }

    async fn attempt(&mut self, context: &Context<'_>) -> Result<Ending, Failure> {
        let requests = Arc::clone(&self.requests);
        let index = context.job.index;
        let (name, mut request, traits) = requests.build(index)?;
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
            let Some(open) = &mut self.open else { return Err(Failure::new("connection closed", "")) };
            open.read.set(0);
            let read = Rc::clone(&open.read);
            let sending = open.sender.try_send_request(request);
            match Open::drive(&mut open.connection, sending).await {
                Ok(response) => break response,
                Err(mut failed) => {
                    self.open = None;
                    let no_reply = read.get() == 0 && is_closed(failed.error());
                    match failed.take_message() {
                        // Not a byte of it was sent: a new connection may have it.
                        Some(unsent) if reused => request = unsent,
                        None if reused && no_reply && traits.repeatable => request = requests.build(index)?.1,
                        None if reused && no_reply => return Err(Failure::closed_while_idle()),
                        _ => return Err(hyper_failure(failed.error(), read.get())),
                    }
                    reused = false;
                    context.retried();
                }
            }
        };
        context.first_byte();
        let status = response.status();
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(open) = &mut self.open {
            match Open::drive(&mut open.connection, body.frame()).await {
                None => break,
                Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(error)) => {
                    self.open = None;
                    return Err(hyper_failure(&error, 0));
                }
            }
        }
        if let Some(open) = self.open.take() {
            context.read(open.read.get());
            self.open = (!traits.closes).then_some(open);
        }
        context.replied(status.as_u16(), length);
        requests.judge(status.as_u16())
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
        self.attempt(context).await.unwrap_or_else(|failure| context.failed(failure))
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

/// Whether the connection ended, by whatever name hyper calls it.
fn is_closed(error: &::hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    io.map_or(error.is_incomplete_message() || error.is_closed() || error.is_canceled(), is_end)
}

/// A failure of hyper's, after so many bytes of the reply.
fn hyper_failure(error: &::hyper::Error, read: u64) -> Failure {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let class = if let Some(io) = io {
        match io.kind() {
            // A malformed chunk comes as an error of reading.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Unusable::Malformed.class().into(),
            _ => class(io),
        }
    } else if error.is_incomplete_message() {
        "response cut short".into()
    } else if error.is_parse_too_large() {
        // hyper has one name for both.
        let too_large = read >= LARGEST_HEAD as u64;
        (if too_large { Unusable::HeadTooLarge } else { Unusable::TooManyFields }).class().into()
    } else if error.is_parse() {
        Unusable::Malformed.class().into()
    } else if error.is_closed() || error.is_canceled() {
        "connection closed".into()
    } else {
        "http".into()
    };
    Failure::new(class, error.to_string())
}
