//! How the server is reached: what a URL and its options say.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::error::{StoreError, StoreErrorKind};
use crate::stores::percent::decoded;

/// How to reach the server.
///
/// ```
/// use idempotency::stores::PostgresOptions;
/// let options = PostgresOptions { schema: "shop".into(), ..PostgresOptions::from_url("postgresql://localhost/app")? };
/// # Ok::<(), idempotency::StoreError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Where, with credentials and database; several hosts are tried in turn, until one takes writes.
    pub address: Config,
    /// The schema in the database that the store's table and functions are in, by default `idempotency`.
    pub schema: String,
    /// The longest any operation may take, connecting and the commit included: by default 5 s.
    pub time_limit: Duration,
    /// The most connections, by default 10. Fewer are opened while fewer are needed.
    pub connections: usize,
    /// Whether a pooler stands between, as PgBouncer does, that gives a connection of the server to a client for no longer
    /// than a transaction: nothing is prepared then. `None`: each new connection finds out.
    pub pooler: Option<bool>,
    /// Where the server can be reached without a pooler, for [`Store::watch`](crate::Store::watch) to be told of
    /// changes. `None`: at `address`, unless a pooler stands there.
    pub listen: Option<Config>,
    /// Certificates for encrypted connections.
    pub tls: PostgresTls,
}

/// Certificates, PEM-encoded, in files that are read when a connection is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresTls {
    /// Authorities to trust instead of the system's.
    pub root: Option<PathBuf>,
    /// The client's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

const FORM: &str = "write postgresql://user:password@host:5432/database?sslmode=require";

fn unusable(what: impl fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Setup, format!("not a Postgres URL: {what}; {FORM}"))
}

impl PostgresOptions {
    /// From a URL, with the defaults: `postgresql://[user[:password]@]host[:port][,host…][/database][?option=value&…]`,
    /// or `postgres://`. Parts are percent-encoded where they must be.
    ///
    /// | option | |
    /// |---|---|
    /// | `sslmode` | `disable` (default), or `require`, `verify-ca`, `verify-full`: encrypted, and the server's certificate and name are checked, whichever of the three (feature `postgres-tls`) |
    /// | `sslrootcert`, `sslcert`, `sslkey` | files with certificates (PEM): authorities to trust instead of the system's; the client's certificate and its key |
    /// | `schema` | [`PostgresOptions::schema`] |
    /// | `connections` | [`PostgresOptions::connections`] |
    /// | `pooler` | `yes` or `no`: [`PostgresOptions::pooler`] |
    /// | `listen_url` | [`PostgresOptions::listen`], percent-encoded |
    /// | `host`, `port`, `user`, `password`, `dbname`, `hostaddr`, `options`, `application_name` | as libpq has them; `host` may be a folder with the server's socket |
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] for another scheme, an option that is not known, or a value that it can't have.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        if !address.starts_with("postgresql://") && !address.starts_with("postgres://") {
            return Err(unusable("it starts with another scheme"));
        }
        let mut known = Self {
            address: Config::new(),
            schema: "idempotency".into(),
            time_limit: Duration::from_secs(5),
            connections: 10,
            pooler: None,
            listen: None,
            tls: PostgresTls::default(),
        };
        let (mut client, mut ssl_mode, mut rest) = ((None, None), SslMode::Disable, vec![]);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, encoded) = pair
                .split_once('=')
                .ok_or_else(|| unusable("an option has no value; is a ? in the password written as %3F?"))?;
            let value = decoded(encoded).map_err(|_| unusable("an option is not UTF-8 when it is decoded"))?;
            match name {
                "schema" => known.schema = value,
                "connections" => match value.parse() {
                    Ok(number @ 1..=1000) => known.connections = number,
                    _ => return Err(unusable("connections is a number from 1 to 1000")),
                },
                "pooler" => match value.as_str() {
                    "yes" => known.pooler = Some(true),
                    "no" => known.pooler = Some(false),
                    _ => return Err(unusable("pooler is yes or no")),
                },
                "listen_url" => known.listen = Some(Self::from_url(&value)?.address),
                "sslmode" => match value.as_str() {
                    "disable" => ssl_mode = SslMode::Disable,
                    "require" | "verify-ca" | "verify-full" if cfg!(feature = "postgres-tls") => {
                        ssl_mode = SslMode::Require
                    }
                    "require" | "verify-ca" | "verify-full" => {
                        return Err(unusable(
                            "this program is built without encryption for it; turn on the feature \
                                             postgres-tls of the crate idempotency",
                        ));
                    }
                    "allow" | "prefer" => {
                        return Err(unusable(
                            "sslmode=allow and sslmode=prefer protect nothing; choose require or disable",
                        ));
                    }
                    _ => return Err(unusable("sslmode is disable, require, verify-ca or verify-full")),
                },
                "sslrootcert" if value == "system" => {}
                "sslrootcert" => known.tls.root = Some(value.into()),
                "sslcert" => client.0 = Some(value.into()),
                "sslkey" => client.1 = Some(value.into()),
                "host"
                | "port"
                | "user"
                | "password"
                | "dbname"
                | "hostaddr"
                | "options"
                | "application_name"
                | "target_session_attrs"
                | "channel_binding"
                | "connect_timeout" => rest.push(pair),
                // What may be a part of a password is not shown.
                name if name.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                    return Err(unusable(format_args!("the option {name:?} is not known")));
                }
                _ => return Err(unusable("an option is not known; is a ? in the password written as %3F?")),
            }
        }
        known.tls.client = match client {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(unusable("sslcert and sslkey belong together")),
        };
        let address = format!("{address}?{}", rest.join("&"));
        // The library's own words may hold parts of the password.
        let mut config = Config::from_str(address.trim_end_matches('?')).map_err(|_| {
            unusable("it can't be read; a character with a meaning in URLs is written as %40 (@) or %2F (/)")
        })?;
        let (hosts, addresses, ports) =
            (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
        if hosts == 0 {
            return Err(unusable("it names no host"));
        }
        if addresses > 0 && addresses != hosts || ports > 1 && ports != hosts {
            return Err(unusable("it has not one port and one address for each host"));
        }
        if config.get_application_name().is_none() {
            config.application_name("idempotency");
        }
        config.ssl_mode(ssl_mode);
        known.address = config;
        Ok(known)
    }
}

/// One of the servers of an address.
pub(super) struct Server {
    pub(super) host: Host,
    /// Its address, where that is given.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(host) => write!(f, "{host}:{}", self.port),
            #[cfg(unix)]
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

pub(super) fn servers(address: &Config) -> Vec<Server> {
    let ports = address.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    let hosts = address.get_hosts().iter().enumerate();
    let server = |(at, host): (usize, &Host)| Server {
        host: host.clone(),
        address: address.get_hostaddrs().get(at).copied(),
        port: port(at),
    };
    hosts.map(server).collect()
}
