//! TLS: certificates by X.509, versions 1.2 and 1.3.
//!
//! A client certificate, where an authority for them is given, is asked for and must be valid: the handshake fails
//! otherwise. Pre-shared keys are not offered, as rustls has none.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

/// Whether clients use TLS.
#[derive(Clone, Default, Debug)]
pub enum TlsMode {
    /// There is none.
    #[default]
    Off,
    /// Clients may.
    Offered(Tls),
    /// Clients must: before that they get no answer but how to.
    Required(Tls),
}

/// The server's certificate and key, and who signs those of clients. Two are equal when all of that is; each has its own
/// sessions, so that no client goes on under another with what it was allowed under this.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
}

/// What is in the files.
#[derive(PartialEq)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_authorities: Option<Vec<CertificateDer<'static>>>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl TlsMode {
    pub(crate) fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Off => None,
            Self::Offered(tls) | Self::Required(tls) => Some(tls),
        }
    }
}

impl Tls {
    /// From PEM files: the certificate with those between it and its authority, its key, and, when clients must have
    /// certificates too, those of the authorities that sign them.
    ///
    /// # Errors
    /// They name the file.
    pub fn from_files(
        certificates: &Path,
        key: &Path,
        client_authorities: Option<&Path>,
    ) -> io::Result<Self> {
        let identity = Identity {
            chain: read_certificates(certificates)?,
            key: PrivateKeyDer::from_pem_file(key).map_err(|error| invalid(key, error))?,
            client_authorities: client_authorities.map(read_certificates).transpose()?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(certificates, error))?;
        let builder = match (&identity.client_authorities, client_authorities) {
            (Some(signers), Some(path)) => {
                let mut authorities = RootCertStore::empty();
                for certificate in signers {
                    authorities.add(certificate.clone()).map_err(|error| invalid(path, error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(authorities.into(), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| invalid(path, error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let config = builder
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| invalid(certificates, error))?;
        Ok(Self { config: Arc::new(config), identity: Arc::new(identity) })
    }

    pub(crate) fn connection(&self) -> io::Result<ServerConnection> {
        ServerConnection::new(self.config.clone()).map_err(io::Error::other)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn read_certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| invalid(path, error))?;
    let certificates: Vec<_> =
        certificates.collect::<Result<_, _>>().map_err(|error| invalid(path, error))?;
    if certificates.is_empty() {
        return Err(invalid(path, "there is no certificate in it"));
    }
    Ok(certificates)
}

fn invalid(path: &Path, error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display()))
}
