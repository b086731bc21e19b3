//! Whom `https://` trusts: the roots of the system, or the certificates that somebody named, or everybody.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The certificates in a PEM file: at least one.
///
/// # Errors
/// A file that cannot be read, or holds none.
pub(super) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(
            |e| anyhow::anyhow!("cannot read certificates from {} ({e}): give a PEM file", path.display()),
        )?;
    anyhow::ensure!(
        !certificates.is_empty(),
        "{} holds no certificate: give a PEM file with BEGIN CERTIFICATE in it",
        path.display()
    );
    Ok(certificates)
}

/// The private key in a PEM file.
///
/// # Errors
/// A file that cannot be read, or holds none.
pub(super) fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| {
        anyhow::anyhow!("cannot read a private key from {} ({e}): give a PEM file", path.display())
    })
}

/// The roots, and the certificates as they were given: those of `path`, or the system's, or where it has none those that
/// browsers trust.
///
/// # Errors
/// Those of [`certificates`].
pub(super) fn roots(path: Option<&Path>) -> anyhow::Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let mut store = RootCertStore::empty();
    let Some(path) = path else {
        // A root that rustls cannot use is one fewer to trust.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        return Ok((store, Vec::new()));
    };
    let given = certificates(path)?;
    for certificate in &given {
        store
            .add(certificate.clone())
            .with_context(|| format!("a certificate in {} cannot be used", path.display()))?;
    }
    Ok((store, given))
}

/// Judges the server's certificate as browsers do, with two exceptions that a lab needs.
#[derive(Debug)]
pub(super) struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    /// Trusted as they are: a self-signed one is its own root, and often says that it may sign others.
    given: Vec<CertificateDer<'static>>,
    insecure: bool,
}

impl Verifier {
    pub(super) fn new(
        store: RootCertStore,
        given: Vec<CertificateDer<'static>>,
        insecure: bool,
        provider: Arc<CryptoProvider>,
    ) -> anyhow::Result<Self> {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build()?;
        Ok(Self { usual, given, insecure })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.insecure {
            return Ok(ServerCertVerified::assertion());
        }
        if self.given.iter().any(|given| given == end_entity) {
            // Named by hand: what is left to ask is whether it is for this server.
            rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.usual.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
