//! A connection to an HTTP target, plain or encrypted.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Route;
#[cfg(feature = "tls")]
use super::trust;
use crate::record::Failure;

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

/// A connection to the target, which counts what comes over it.
pub struct Stream {
    transport: Transport,
    read: Rc<Cell<u64>>,
}

impl Stream {
    fn new(transport: Transport) -> Self {
        Self { transport, read: Rc::default() }
    }

    /// The count of the bytes that came.
    pub fn read(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.read)
    }

    /// How many bytes came since it was asked last.
    pub fn take_read(&self) -> u64 {
        self.read.take()
    }
}

/// Plain or encrypted.
enum Transport {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Opens one of a run's connections, as often as it is closed.
#[derive(Clone)]
pub struct Connector {
    /// Whereto.
    pub route: Arc<Route>,
    /// Encrypted, if there is one.
    pub tls: Option<Tls>,
    /// Which of the run's connections it is, for the choice of a source address.
    pub number: u64,
}

impl Connector {
    /// Connects, and shakes hands if there is TLS.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn open(&self) -> Result<Stream, Failure> {
        let stream = self.route.connect(self.number).await?;
        match &self.tls {
            None => Ok(Stream::new(Transport::Plain(stream))),
            #[cfg(feature = "tls")]
            Some(Tls { connector, name }) => match connector.connect(name.clone(), stream).await {
                Ok(stream) => Ok(Stream::new(Transport::Tls(Box::new(stream)))),
                Err(error) => Err(tls_failure(error)),
            },
            #[cfg(not(feature = "tls"))]
            Some(never) => match *never {},
        }
    }
}

/// Calls the same method on whichever stream it is.
macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().transport {
            Transport::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => {
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
        let before = buf.filled().len();
        let read = Rc::clone(&self.read);
        let polled = either!(self, stream => stream.poll_read(cx, buf));
        read.set(read.get() + (buf.filled().len() - before) as u64);
        polled
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

/// Why a handshake failed. What is wrong with the certificate has classes, since each is mended elsewhere.
#[cfg(feature = "tls")]
fn tls_failure(error: io::Error) -> Failure {
    use rustls::CertificateError as Certificate;
    let class = match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "tls certificate for another name"
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => "tls certificate expired",
            Certificate::UnknownIssuer => "tls certificate not trusted",
            // Self-signed, and it says that it may sign others, which webpki looks at before it looks for an issuer.
            Certificate::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                "tls certificate not trusted"
            }
            _ => "tls certificate unusable",
        },
        Some(_) => "tls handshake failed",
        None => return error.into(),
    };
    Failure::new(class, error.to_string())
}

/// What `https://` targets are met with.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings<'a> {
    /// Trust what is in this PEM file, and nothing else.
    pub roots: Option<&'a Path>,
    /// Trust any certificate.
    pub insecure: bool,
    /// PEM files with our own certificate and its key.
    pub client: Option<(&'a Path, &'a Path)>,
}

/// TLS to the server of this name.
///
/// # Errors
/// A name that no certificate can carry; a file that cannot be read, or that holds nothing of use.
#[cfg(feature = "tls")]
pub fn tls(host: &str, settings: &TlsSettings<'_>) -> anyhow::Result<Tls> {
    use rustls::pki_types::ServerName;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let (store, given) = trust::roots(settings.roots)?;
    let verifier = trust::Verifier::new(store, given, settings.insecure, provider)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let config = match settings.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            builder.with_client_auth_cert(trust::certificates(certificate)?, trust::key(key)?)?
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        anyhow::anyhow!("{host:?} cannot be the name in a certificate: give a host name or an IP address")
    })?;
    Ok(Tls { connector: Arc::new(config).into(), name })
}

/// This build cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "tls"))]
pub fn tls(_: &str, _: &TlsSettings<'_>) -> anyhow::Result<Tls> {
    anyhow::bail!("this loadgen was built without TLS: build it with the feature tls, or measure http://")
}
