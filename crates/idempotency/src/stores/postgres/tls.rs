//! Encrypted connections, by rustls: tokio-postgres has them from elsewhere.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Encrypted;

use super::options::PostgresTls;
use super::wire::{Wire, passes_on};
use crate::error::{StoreError, StoreErrorKind};

/// What encrypts the connections to one host.
pub(super) struct Encryption {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Encryption {
    /// Reads the certificates.
    pub(super) fn to(host: &str, certificates: &PostgresTls) -> Result<Self, StoreError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|source| unusable(format!("{host:?} is not a name that a certificate can have"), source))?;
        // An application's own choice of provider, made before, stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = RootCertStore::empty();
        match &certificates.root {
            Some(file) => {
                for certificate in read(file)? {
                    roots.add(certificate).map_err(|source| unusable(format!("in {}", file.display()), source))?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match &certificates.client {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|source| unusable(format!("the key {}", key.display()), source))?;
                let chain = read(certificate)?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|source| unusable("sslcert and sslkey".into(), source))?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(format!("{} holds no certificate", file.display()), "PEM is wanted")),
        Err(source) => Err(unusable(format!("{}", file.display()), source)),
    }
}

fn unusable<E: std::fmt::Display>(what: String, source: E) -> StoreError {
    StoreError::new(
        StoreErrorKind::Setup,
        format!("the connection to the Postgres server can't be encrypted: {what}: {source}"),
    )
}

impl TlsConnect<Wire> for Encryption {
    type Stream = Connected;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send>>;

    fn connect(self, stream: Wire) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Connected) })
    }
}

/// An encrypted connection.
pub(super) struct Connected(Encrypted<Wire>);

impl TlsStream for Connected {
    /// None: the server's certificate and name are always checked.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

passes_on! { Connected }
