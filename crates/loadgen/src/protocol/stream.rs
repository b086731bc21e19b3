//! A connection to an HTTP target, plain or encrypted.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Route, class};

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
pub enum Stream {
    /// `http://`
    Plain(TcpStream),
    /// `https://`
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
    /// The class of what went wrong.
    pub async fn open(&self) -> Result<Stream, Cow<'static, str>> {
        let stream = self.route.connect(self.number).await.map_err(|e| class(&e))?;
        match &self.tls {
            None => Ok(Stream::Plain(stream)),
            #[cfg(feature = "tls")]
            Some(Tls { connector, name }) => match connector.connect(name.clone(), stream).await {
                Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
                Err(error) => Err(tls_class(&error)),
            },
            #[cfg(not(feature = "tls"))]
            Some(never) => match *never {},
        }
    }
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
