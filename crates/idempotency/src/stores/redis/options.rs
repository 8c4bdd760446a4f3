//! How the servers are reached: what a URL says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::error::{StoreError, StoreErrorKind};
use crate::stores::percent::decoded;

/// How to reach the servers.
///
/// ```
/// use idempotency::stores::RedisOptions;
/// let options = RedisOptions { prefix: "shop:".into(), ..RedisOptions::from_url("redis://localhost:6379/2")? };
/// # Ok::<(), idempotency::StoreError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Which servers, and how the one with a key is found.
    pub servers: RedisServers,
    /// Who we are to them.
    pub login: RedisLogin,
    /// The number of the database. A cluster has only 0.
    pub database: u32,
    /// Whether connections to them are encrypted (feature `redis-tls`).
    pub encrypted: bool,
    /// What every storage key starts with, by default `idem:`. On a cluster keys lie on every node, unless a `{tag}` in
    /// the prefix puts all of them on one.
    pub prefix: String,
    /// The longest any command may take, finding the server and connecting included: by default 1 s.
    pub time_limit: Duration,
    /// Certificates for encrypted connections, where the system's are not enough.
    pub tls: RedisTls,
}

/// Which servers there are, and how the one with a key is found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisServers {
    /// One server, or a name that leads to one.
    One(RedisAddress),
    /// A primary that sentinels know.
    Sentinel {
        /// Some of the sentinels; they name the others.
        sentinels: Vec<RedisAddress>,
        /// What the sentinels call the primary and its replicas.
        service: String,
        /// Who we are to the sentinels.
        login: RedisLogin,
        /// Whether connections to the sentinels are encrypted.
        encrypted: bool,
    },
    /// A cluster, by some of its nodes; they name the others.
    Cluster(Vec<RedisAddress>),
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedisAddress {
    /// A name or a number of a host, and a port.
    Host(String, u16),
    /// The path of a unix socket.
    Socket(PathBuf),
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// A user and a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// `None`: the server's default user.
    pub username: Option<String>,
    /// `None`: without a password, unless there is a user name.
    pub password: Option<String>,
}

impl fmt::Debug for RedisLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (username, password) = (self.username.is_some(), self.password.is_some());
        f.debug_struct("RedisLogin").field("username", &username).field("password", &password).finish()
    }
}

/// Certificates, PEM-encoded.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Authorities to trust instead of the system's.
    pub root: Option<Vec<u8>>,
    /// The client's certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (root, client) = (self.root.is_some(), self.client.is_some());
        f.debug_struct("RedisTls").field("root", &root).field("client", &client).finish()
    }
}

const FORM: &str = "write redis://[user:password@]host[:port][/database], rediss:// or unix:///path; \
                    redis+sentinel://host[:port],host…/service[/database]; redis+cluster://host[:port],host…";

fn unusable(what: impl fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Setup, format!("not a Redis URL: {what}; {FORM}"))
}

impl RedisOptions {
    /// From a URL, with the defaults.
    ///
    /// | URL | |
    /// |---|---|
    /// | `redis://[user[:password]@]host[:port][/database]` | one server, or a name that leads to one; `?db=` wins over the path |
    /// | `unix:///path` | a unix socket; `?username=`, `?password=` and `?db=` are login and database |
    /// | `redis+sentinel://[user[:password]@]host[:port],host…/service[/database]` | the primary that these sentinels know; the login is the servers', and `?sentinel_username=`, `?sentinel_password=` are the sentinels' |
    /// | `redis+cluster://[user[:password]@]host[:port],host…` | a cluster, by some of its nodes |
    /// | `rediss://`, `rediss+sentinel://`, `rediss+cluster://` | over TLS; `?sentinel_tls=no`: to the sentinels without |
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] for another scheme, or a parameter that is not known.
    ///
    /// ```
    /// use idempotency::stores::{RedisAddress, RedisOptions, RedisServers};
    /// let options = RedisOptions::from_url("redis+cluster://10.0.0.1,10.0.0.2:7000")?;
    /// let nodes = [("10.0.0.1", 6379), ("10.0.0.2", 7000)].map(|(host, port)| RedisAddress::Host(host.into(), port));
    /// assert_eq!(options.servers, RedisServers::Cluster(nodes.into()));
    /// # Ok::<(), idempotency::StoreError>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        match url.split_once("://") {
            Some(("redis+sentinel", rest)) => Self::sentinel("redis", rest),
            Some(("rediss+sentinel", rest)) => Self::sentinel("rediss", rest),
            Some(("redis+cluster", rest)) => Self::cluster("redis", rest),
            Some(("rediss+cluster", rest)) => Self::cluster("rediss", rest),
            _ => Self::one(url),
        }
    }

    fn one(url: &str) -> Result<Self, StoreError> {
        let mut parsed = redis::parse_redis_url(url)
            .ok_or_else(|| unusable("write redis://host:port/database, with a number as port"))?;
        let query: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
        parsed.set_query(None);
        let is_socket = parsed.scheme().contains("unix");
        let info = parsed.into_connection_info().map_err(|source| unusable(&source).with_source(source))?;
        let (address, encrypted) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (RedisAddress::Host(host.clone(), *port), false),
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                (RedisAddress::Host(host.clone(), *port), true)
            }
            ConnectionAddr::Unix(path) => (RedisAddress::Socket(path.clone()), false),
            _ => return Err(unusable("a server over TLS is verified")),
        };
        let settings = info.redis_settings();
        let mut database = u32::try_from(settings.db()).map_err(|_| unusable("no database has this number"))?;
        let mut login =
            RedisLogin { username: settings.username().map(Into::into), password: settings.password().map(Into::into) };
        for (name, value) in query {
            match (name.as_str(), is_socket) {
                ("db", _) => match value.parse() {
                    Ok(number) => database = number,
                    Err(_) => return Err(unusable(format_args!("db={value} is not the number of a database"))),
                },
                ("user" | "username", true) => login.username = Some(value),
                ("pass" | "password", true) => login.password = Some(value),
                ("protocol", _) => {} // each of them does
                _ => return Err(unusable(format_args!("the parameter {name:?} is not known"))),
            }
        }
        Ok(Self {
            servers: RedisServers::One(address),
            login,
            database,
            encrypted,
            prefix: "idem:".into(),
            time_limit: Duration::from_secs(1),
            tls: RedisTls::default(),
        })
    }

    fn sentinel(scheme: &str, rest: &str) -> Result<Self, StoreError> {
        let mut several = Several::of(rest)?;
        let (mut login, mut encrypted) = (RedisLogin::default(), scheme == "rediss");
        for (name, value) in several.take("sentinel_")? {
            match (name, value.as_str()) {
                ("username", _) => login.username = Some(value),
                ("password", _) => login.password = Some(value),
                ("tls", "yes" | "no") => encrypted = value == "yes",
                ("tls", _) => return Err(unusable("sentinel_tls is yes or no")),
                _ => return Err(unusable(format_args!("the parameter \"sentinel_{name}\" is not known"))),
            }
        }
        let (service, database) = several.path.split_once('/').unwrap_or((several.path, ""));
        let service = decoded(service).map_err(|_| unusable("the service is not UTF-8 when it is decoded"))?;
        if service.is_empty() {
            return Err(unusable("name the service after the hosts, as in redis+sentinel://host/mymaster"));
        }
        let (sentinels, options) = several.each(scheme, 26379, database)?;
        Ok(Self { servers: RedisServers::Sentinel { sentinels, service, login, encrypted }, ..options })
    }

    fn cluster(scheme: &str, rest: &str) -> Result<Self, StoreError> {
        let several = Several::of(rest)?;
        let (nodes, options) = several.each(scheme, 6379, several.path)?;
        if options.database != 0 {
            return Err(unusable("a cluster has one database, 0"));
        }
        Ok(Self { servers: RedisServers::Cluster(nodes), ..options })
    }
}

/// The parts of a URL with several hosts.
struct Several<'a> {
    login: &'a str,
    hosts: &'a str,
    path: &'a str,
    query: Vec<&'a str>,
}

impl<'a> Several<'a> {
    fn of(rest: &'a str) -> Result<Self, StoreError> {
        if rest.contains('#') {
            return Err(unusable("is a # in the password written as %23?"));
        }
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = address.split_once('/').unwrap_or((address, ""));
        let (login, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        Ok(Self { login, hosts, path, query: query.split('&').filter(|pair| !pair.is_empty()).collect() })
    }

    /// Takes out the parameters with names that start so; without that start, and decoded.
    fn take(&mut self, start: &str) -> Result<Vec<(&'a str, String)>, StoreError> {
        let (taken, left) = self.query.iter().partition(|pair| pair.starts_with(start));
        self.query = left;
        let taken: Vec<&'a str> = taken;
        taken
            .into_iter()
            .map(|pair| {
                let (name, value) = pair[start.len()..].split_once('=').unwrap_or((&pair[start.len()..], ""));
                let value = decoded(value).map_err(|_| unusable("a parameter is not UTF-8 when it is decoded"))?;
                Ok((name, value))
            })
            .collect()
    }

    /// Reads each host by a URL of its own: the hosts, and what is the same for all of them.
    fn each(&self, scheme: &str, port: u16, database: &str) -> Result<(Vec<RedisAddress>, RedisOptions), StoreError> {
        let (mut hosts, mut last) = (vec![], None);
        for host in self.hosts.split(',') {
            if host.is_empty() {
                return Err(unusable("a host is missing"));
            }
            // The colons of an address of IPv6 are between brackets.
            let has_port = host.rsplit_once(']').map_or(host, |(_, behind)| behind).contains(':');
            let port = if has_port { String::new() } else { format!(":{port}") };
            let (login, query) = (self.login, self.query.join("&"));
            let options = RedisOptions::one(&format!("{scheme}://{login}{host}{port}/{database}?{query}"))?;
            if let RedisServers::One(address) = &options.servers {
                hosts.push(address.clone());
            }
            last = Some(options);
        }
        Ok((hosts, last.expect("a text has a part before its first comma")))
    }
}
