//! HTTP/1.1 over one connection with nothing between the socket and the schedule: a request is bytes that were made
//! before the run, a response is bytes whose end is looked for.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::response::{Inbox, Response};
use super::stream::{Connector, Stream};
use super::{Context, Protocol, is_end};
use crate::clock::Monotonic;
use crate::record::{Ending, Failure};
use crate::template::Requests;

/// How much is read at once.
const BUFFER: usize = 8 * 1024;

struct Open {
    stream: Stream,
    inbox: Inbox,
}

impl Open {
    fn new(stream: Stream) -> Self {
        Self { stream, inbox: Inbox::new(BUFFER) }
    }

    /// Reads behind what is there; how many bytes came, 0 at the end of the connection.
    fn poll_read(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(self.inbox.space());
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut space);
        let came = space.filled().len();
        self.inbox.came(came);
        read.map_ok(|()| came)
    }

    /// Writes as much of `request` as the connection takes.
    fn poll_write(&mut self, cx: &mut TaskContext<'_>, request: &mut &[u8]) -> Poll<io::Result<()>> {
        while !request.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, request) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => *request = &request[n..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// How much of a request had left when its response had ended.
enum Sent {
    Whole,
    Part,
}

/// How an exchange failed.
enum Failed {
    /// The connection ended before a byte of the reply: how, and whether not a byte of the request had been taken either.
    NoReply(Failure, bool),
    Broken(Failure),
}

/// One connection at a time, opened when it is first needed and again when it was closed.
pub struct Lean {
    connector: Connector,
    requests: Arc<Requests>,
    open: Option<Open>,
}

impl Lean {
    /// Makes `requests` over what `connector` opens.
    pub fn new(connector: Connector, requests: Arc<Requests>) -> Self {
        Self { connector, requests, open: None }
    }

    async fn attempt(&mut self, context: &Context<'_>) -> Result<Ending, Failure> {
        let requests = Arc::clone(&self.requests);
        let (name, request, traits) = requests.wire(context.job.index)?;
        if let Some(name) = name {
            context.named(name);
        }
        loop {
            let (mut open, reused) = match self.open.take() {
                Some(mut open) => {
                    // Its end may have come since, or what nobody asked for: no reason for a request to fail. Costs no
                    // call as long as the reactor knows of nothing.
                    if poll_fn(|cx| Poll::Ready(open.poll_read(cx).is_ready())).await {
                        continue;
                    }
                    context.connected(Monotonic.now(), None);
                    (open, true)
                }
                None => {
                    let start = Monotonic.now();
                    let open = Open::new(self.connector.open().await?);
                    let now = Monotonic.now();
                    context.connected(now, Some(now - start));
                    (open, false)
                }
            };
            let mut response = Response::new(traits.head_only);
            // It is put back only if the next request can have it: the rest of this one would be taken for the next.
            let exchanged = exchange(&mut open, &request, &mut response, context).await;
            context.read(open.stream.take_read());
            match exchanged {
                Ok(Sent::Whole) if response.keeps_alive() && !traits.closes && open.inbox.is_empty() => {
                    self.open = Some(open);
                }
                Ok(_) => {}
                // The server has closed an idle connection in the moment in which we chose it. The second attempt has a
                // connection of its own, so there is no third.
                Err(Failed::NoReply(_, unsent)) if reused && (unsent || traits.repeatable) => {
                    context.retried();
                    continue;
                }
                Err(Failed::NoReply(..)) if reused => return Err(Failure::closed_while_idle()),
                Err(Failed::NoReply(failure, _) | Failed::Broken(failure)) => return Err(failure),
            }
            context.replied(response.status(), response.body());
            return requests.judge(response.status());
        }
    }
}

/// Writes `request` and reads until `response` has ended: both at once, since a server may answer before it has read
/// all.
async fn exchange(
    open: &mut Open,
    request: &[u8],
    response: &mut Response,
    context: &Context<'_>,
) -> Result<Sent, Failed> {
    let mut unsent = request;
    // `Pending` until the last byte is the kernel's, not only until TLS has taken it.
    let mut sending = Poll::Pending;
    let mut first = true;
    loop {
        // region: exchange
        let read = poll_fn(|cx| {
            if sending.is_pending() {
                // If it fails: what the server said before it closed may still be there to be read.
                sending = open.poll_write(cx, &mut unsent);
            }
            open.poll_read(cx)
        })
        .await;
        // endregion: exchange
        if matches!(read, Ok(0) | Err(_)) {
            if response.end() {
                // Its end is the response's, and it cannot be used again, whatever was sent.
                return Ok(Sent::Part);
            }
            let ended = !matches!(&read, Err(error) if !is_end(error));
            let failure = match (sending, read) {
                (Poll::Ready(Err(error)), _) | (_, Err(error)) => error.into(),
                _ => Failure::new("response cut short", "the connection ended before the response did"),
            };
            return Err(if first && ended {
                Failed::NoReply(failure, unsent.len() == request.len())
            } else {
                Failed::Broken(failure)
            });
        }
        if std::mem::take(&mut first) {
            context.first_byte();
        }
        let glimpse = |open: &Open| format!("it began with \"{}\"", open.inbox.glimpse());
        open.inbox.feed(response).map_err(|why| Failed::Broken(Failure::new(why.class(), glimpse(open))))?;
        if response.is_done() {
            return Ok(if matches!(sending, Poll::Ready(Ok(()))) { Sent::Whole } else { Sent::Part });
        }
    }
}

impl Protocol for Lean {
    async fn fire(&mut self, context: &Context<'_>) -> Ending {
        self.attempt(context).await.unwrap_or_else(|failure| context.failed(failure))
    }

    fn abandon(&mut self) {
        self.open = None;
    }

    async fn idle(&mut self) {
        // Whether the server has closed is looked at when the connection is needed again.
        std::future::pending().await
    }
}
