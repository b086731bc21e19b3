//! HTTP/1.1 over one connection, by hyper's connection API: a pooling client would hide the wait for a connection.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Context, Protocol, Route, class};
use crate::clock::{Clock as _, Monotonic};
use crate::record::Ending;
use crate::template::Requests;

/// TLS for all connections of a run.
#[cfg(feature = "tls")]
#[derive(Clone)]
pub struct Tls {
    /// Holds the roots and the session cache.
    pub connector: tokio_rustls::TlsConnector,
    /// The name that the certificate must carry.
    pub name: rustls::pki_types::ServerName<'static>,
}

#[cfg(not(feature = "tls"))]
/// TLS is not in this build.
#[derive(Clone, Debug)]
pub enum Tls {}

/// A connection to the target, plain or encrypted.
enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Calls the same method on whichever stream it is.
macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

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
pub struct Http {
    route: Arc<Route>,
    requests: Arc<Requests>,
    tls: Option<Tls>,
    /// Which of the run's connections this is, for the choice of a source address.
    number: u64,
    open: Option<Open>,
}

impl Http {
    /// Connection `number` by `route`, making `requests`.
    pub fn new(route: Arc<Route>, requests: Arc<Requests>, tls: Option<Tls>, number: u64) -> Self {
        Self { route, requests, tls, number, open: None }
    }

    async fn connect(&self) -> Result<Open, Cow<'static, str>> {
        let stream = self.route.connect(self.number).await.map_err(|e| class(&e))?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            #[cfg(feature = "tls")]
            Some(Tls { connector, name }) => match connector.connect(name.clone(), stream).await {
                Ok(stream) => Stream::Tls(Box::new(stream)),
                Err(error) => return Err(tls_class(&error)),
            },
            #[cfg(not(feature = "tls"))]
            Some(never) => match *never {},
        };
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

impl Protocol for Http {
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

fn hyper_class(error: &hyper::Error) -> Cow<'static, str> {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(io) = io {
        class(io)
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

#[cfg(feature = "tls")]
fn tls_class(error: &io::Error) -> Cow<'static, str> {
    let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => "tls certificate not trusted".into(),
        Some(_) => "tls handshake failed".into(),
        None => class(error),
    }
}

/// TLS with the given roots (PEM), or with those that browsers trust.
///
/// # Errors
/// A name that no certificate can carry; a file of roots that cannot be read.
#[cfg(feature = "tls")]
pub fn tls(host: &str, roots: Option<&std::path::Path>) -> anyhow::Result<Tls> {
    use anyhow::Context as _;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut store = rustls::RootCertStore::empty();
    match roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| {
                    anyhow::anyhow!("cannot read certificates from {} ({e}): give a PEM file", path.display())
                })?;
            for certificate in certificates {
                store
                    .add(certificate)
                    .with_context(|| format!("a certificate in {} is no root", path.display()))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|_| {
        anyhow::anyhow!("{host:?} cannot be the name in a certificate: give a host name or an IP address")
    })?;
    Ok(Tls { connector: Arc::new(config).into(), name })
}

/// This build cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "tls"))]
pub fn tls(_: &str, _: Option<&std::path::Path>) -> anyhow::Result<Tls> {
    anyhow::bail!("this loadgen was built without TLS: build it with the feature tls, or measure http://")
}
