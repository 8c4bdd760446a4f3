//! Encrypted connections: what a URL says of them, by redis-py's names, and how the server is verified.

use std::fmt;

use crate::error::{StoreError, StoreErrorKind};

/// How connections to a server are encrypted (feature `redis-tls`). By default the server's certificate must come from an
/// authority that the system trusts, and name the host.
///
/// ```
/// use idempotency::stores::{RedisOptions, RedisTls};
/// let tls = RedisTls { server_name: Some("redis.internal".into()), ..RedisTls::default() };
/// let options = RedisOptions { tls, ..RedisOptions::from_url("rediss://10.0.0.1")? };
/// # Ok::<(), idempotency::StoreError>(())
/// ```
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Authorities to trust instead of the system's, PEM-encoded. In a URL `ssl_ca_certs=`, the path of a file, or
    /// `ssl_ca_data=`.
    pub root: Option<Vec<u8>>,
    /// The client's certificate and key, PEM-encoded. In a URL `ssl_certfile=` and `ssl_keyfile=`, paths of files.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate has, where that is not the host's. In a URL `ssl_server_hostname=`. There
    /// are no hints then: who waits for another call's end looks every second.
    pub server_name: Option<String>,
    /// What of the server is verified. In a URL `ssl_cert_reqs=` and `ssl_check_hostname=`.
    pub verify: RedisVerify,
}

/// What of a server is verified before it is told anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisVerify {
    /// Its certificate, and that it names the host. In a URL `ssl_cert_reqs=required`.
    #[default]
    Everything,
    /// Its certificate alone: whoever has one of the same authority may stand in its place. In a URL
    /// `ssl_check_hostname=false`.
    Certificate,
    /// Nothing: anybody in between may stand in its place, and gets the password. In a URL `ssl_cert_reqs=none`.
    Nothing,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, client, server_name, verify } = self;
        f.debug_struct("RedisTls")
            .field("root", &root.is_some())
            .field("client", &client.is_some())
            .field("server_name", server_name)
            .field("verify", verify)
            .finish()
    }
}

/// What the parameters of one URL say.
#[derive(Default)]
pub(super) struct Parameters {
    tls: RedisTls,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    /// The first parameter that was read.
    first: Option<String>,
}

fn unusable(why: impl fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Setup, format!("not a Redis URL: {why}"))
}

impl Parameters {
    /// Reads a parameter; whether it is one of these.
    ///
    /// # Errors
    /// For a value that has no meaning, or a file that can't be read.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Result<bool, StoreError> {
        let file = || {
            std::fs::read(value).map_err(|source| {
                unusable(format_args!("the file of {name} can't be read: {value}: {source}")).with_source(source)
            })
        };
        match name {
            "ssl_ca_certs" => self.tls.root = Some(file()?),
            "ssl_ca_data" => self.tls.root = Some(value.as_bytes().into()),
            "ssl_certfile" => self.certificate = Some(file()?),
            "ssl_keyfile" => self.key = Some(file()?),
            "ssl_server_hostname" => self.tls.server_name = Some(value.into()),
            "ssl_cert_reqs" => match value {
                "none" => self.tls.verify = RedisVerify::Nothing,
                // To a client both mean the same.
                "required" | "optional" => {}
                _ => return Err(unusable(format_args!("ssl_cert_reqs is required or none, not {value:?}"))),
            },
            "ssl_check_hostname" => match value.to_ascii_lowercase().as_str() {
                "0" | "f" | "false" | "n" | "no" if self.tls.verify == RedisVerify::Everything => {
                    self.tls.verify = RedisVerify::Certificate;
                }
                "0" | "f" | "false" | "n" | "no" | "1" | "t" | "true" | "y" | "yes" => {}
                _ => return Err(unusable(format_args!("ssl_check_hostname is true or false, not {value:?}"))),
            },
            _ => return Ok(false),
        }
        self.first.get_or_insert_with(|| name.to_owned());
        Ok(true)
    }

    /// All of them together.
    ///
    /// # Errors
    /// Where one is missing, or nothing is encrypted.
    pub(super) fn finish(mut self, encrypted: bool) -> Result<RedisTls, StoreError> {
        if let Some(name) = self.first.filter(|_| !encrypted) {
            return Err(unusable(format_args!("{name} is for connections over TLS; write rediss:// for them")));
        }
        self.tls.client = match (self.certificate, self.key) {
            // Some keep both in one file.
            (Some(certificate), None) => Some((certificate.clone(), certificate)),
            (None, Some(_)) => return Err(unusable("ssl_keyfile is given without ssl_certfile")),
            (certificate, key) => certificate.zip(key),
        };
        Ok(self.tls)
    }
}

#[cfg(feature = "redis-tls")]
pub(super) use client::client;

#[cfg(feature = "redis-tls")]
mod client {
    use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, RedisResult, TlsCertificates};

    use super::{RedisTls, RedisVerify};

    /// What opens encrypted connections.
    pub(in super::super) fn client(info: ConnectionInfo, tls: &RedisTls) -> RedisResult<Client> {
        // An application's own choice of provider, made before, stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let RedisTls { root, client, .. } = tls.clone();
        has_certificates("ssl_ca_certs", root.as_deref())?;
        has_certificates("ssl_certfile", client.as_ref().map(|(certificate, _)| &certificate[..]))?;
        let client_tls = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let client = Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: root })?;
        if tls.verify != RedisVerify::Certificate {
            return Ok(client);
        }
        let info = client.get_connection_info().clone();
        let mut address = info.addr().clone();
        address.set_danger_accept_invalid_hostnames(true);
        Client::open(info.set_addr(address))
    }

    /// The library takes what is none for an empty list: nobody would be trusted, and nobody told why.
    fn has_certificates(name: &str, pem: Option<&[u8]>) -> RedisResult<()> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        match pem.map(|pem| CertificateDer::pem_slice_iter(pem).next()) {
            Some(None) => {
                let why = format!("{name} has no certificate in PEM");
                Err(RedisError::from((redis::ErrorKind::InvalidClientConfig, "no certificate", why)))
            }
            _ => Ok(()),
        }
    }
}
