//! How the server is reached: options, the one connection, and what its errors mean.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::AsyncDNSResolver;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, RedisFuture, ServerErrorKind};

use super::access::{Access, Opened};
use super::credentials::RedisCredentials;
use super::{StoreError, StoreErrorKind};
use crate::stores::resolver::resolve;

/// How to reach the server.
///
/// ```
/// use idempotency::stores::RedisOptions;
/// let options = RedisOptions { prefix: "shop:".into(), ..RedisOptions::from_url("redis://localhost:6379/2")? };
/// # Ok::<(), idempotency::StoreError>(())
/// ```
#[derive(Clone)]
pub struct RedisOptions {
    /// Where, with credentials and database.
    pub address: redis::ConnectionInfo,
    /// What every storage key starts with, by default `idem:`.
    pub prefix: String,
    /// The longest any command may take, connecting included: by default 1 s.
    pub time_limit: Duration,
    /// Certificates for `rediss://`, where the system's are not enough.
    pub tls: RedisTls,
    /// Who logs in, where that changes. The address has no login then.
    pub credentials: Option<Arc<dyn RedisCredentials>>,
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, prefix, time_limit, tls, credentials } = self;
        f.debug_struct("RedisOptions")
            .field("address", address)
            .field("prefix", prefix)
            .field("time_limit", time_limit)
            .field("tls", tls)
            .field("credentials", &credentials.as_ref().map(|credentials| credentials.name()))
            .finish()
    }
}

/// How long a connection is silent before the operating system asks whether its peer is there, and between questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Certificates, PEM-encoded.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Authorities to trust instead of the system's.
    pub root: Option<Vec<u8>>,
    /// The client's certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (root, client) = (self.root.is_some(), self.client.is_some());
        f.debug_struct("RedisTls").field("root", &root).field("client", &client).finish()
    }
}

impl RedisOptions {
    /// From a URL, with the defaults: `redis://[user[:password]@]host[:port][/database]`, `rediss://` for TLS, or
    /// `unix:///path`. `?db=` wins over the path. On `unix://`, `?username=` and `?password=` are the login.
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] for another scheme, or a parameter that is not known.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let unusable = |what: &dyn std::fmt::Display| {
            let message = format!(
                "not a Redis URL: {what}; write redis://[user:password@]host[:port][/database], rediss:// or unix:///path"
            );
            StoreError::new(StoreErrorKind::Setup, message)
        };
        let mut parsed = redis::parse_redis_url(url)
            .ok_or_else(|| unusable(&"write redis://host:port/database, with a number as port"))?;
        let query: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
        parsed.set_query(None);
        let is_socket = parsed.scheme().contains("unix");
        let mut address = parsed.into_connection_info().map_err(|source| unusable(&source).with_source(source))?;
        let mut settings = address.redis_settings().clone();
        for (name, value) in query {
            settings = match (name.as_str(), is_socket) {
                ("db", _) => match value.parse() {
                    Ok(database) if database >= 0 => settings.set_db(database),
                    _ => return Err(unusable(&format_args!("db={value} is not the number of a database"))),
                },
                ("user" | "username", true) => settings.set_username(value),
                ("pass" | "password", true) => settings.set_password(value),
                ("protocol", _) => settings, // each of them does
                _ => return Err(unusable(&format_args!("the parameter {name:?} is not known"))),
            };
        }
        // Without one the server would take us for its default user.
        if settings.username().is_some() && settings.password().is_none() {
            settings = settings.set_password("");
        }
        address = address.set_redis_settings(settings);
        let (tls, credentials) = Default::default();
        Ok(Self { address, prefix: "idem:".into(), time_limit: Duration::from_secs(1), tls, credentials })
    }

    /// What every connection is opened with.
    pub(super) fn access(mut self) -> Result<Access, StoreError> {
        let (credentials, time_limit) = (self.credentials.take(), self.time_limit);
        let settings = self.address.redis_settings();
        if credentials.is_some() && (settings.username().is_some() || settings.password().is_some()) {
            let message = "the Redis URL has a login, and credentials are given too: leave one of them out";
            return Err(StoreError::new(StoreErrorKind::Setup, message));
        }
        // The store's own limit covers the whole operation; a second one per response would only race with it.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(time_limit))
            .set_response_timeout(None)
            .set_dns_resolver(Resolver);
        Ok(Access::new(self.client()?, config, credentials, time_limit))
    }

    fn client(self) -> Result<Client, StoreError> {
        // Commands are small and one round trip each: none waits to be sent along with another. A peer that went away
        // without a word is noticed although nothing is sent.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let address = self.address.set_tcp_settings(tcp);
        let unusable = |source: RedisError| {
            let message = format!("these Redis settings can't be used: {source}");
            StoreError::new(StoreErrorKind::Setup, message).with_source(source)
        };
        #[cfg(feature = "redis-tls")]
        if matches!(address.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            // An application's own choice of provider, made before, stands.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client_tls =
                self.tls.client.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
            let certificates = redis::TlsCertificates { client_tls, root_cert: self.tls.root };
            return Client::build_with_tls(address, certificates).map_err(unusable);
        }
        Client::open(address).map_err(unusable)
    }
}

struct Resolver;

impl AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move { Ok(Box::new(resolve(host, port).await?) as Box<dyn Iterator<Item = SocketAddr> + Send>) })
    }
}

/// One multiplexed connection, opened when first needed and again after it was lost.
pub(super) struct Connection {
    access: Arc<Access>,
    current: Mutex<Current>,
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    number: u64,
    opened: Option<Opened>,
}

impl Connection {
    pub(super) fn new(access: Arc<Access>) -> Self {
        Self { access, current: Mutex::default(), opening: tokio::sync::Mutex::new(()) }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> Option<(u64, MultiplexedConnection)> {
        let current = self.current();
        current.opened.as_ref().map(|opened| (current.number, opened.connection.clone()))
    }

    /// The connection and its number.
    pub(super) async fn get(&self) -> Result<(u64, MultiplexedConnection), StoreError> {
        if let Some(ready) = self.ready() {
            return Ok(ready);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(ready) = self.ready() {
            return Ok(ready);
        }
        let opened = self.access.open().await?;
        let mut connection = opened.connection.clone();
        check(&mut connection).await?;
        let mut current = self.current();
        current.number += 1;
        current.opened = Some(opened);
        Ok((current.number, connection))
    }

    /// The number of the connection that an operation begun now would use.
    pub(super) fn number(&self) -> u64 {
        self.current().number
    }

    /// The next operation opens a new connection, unless somebody has: this one answers too late.
    pub(super) fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.opened = None;
        }
    }

    /// What an error on this connection means; a lost connection is not used again.
    pub(super) fn failed(&self, number: u64, source: RedisError, key: &str) -> StoreError {
        let failed = error(source, key);
        if failed.leaves_connection {
            self.forget(number);
        }
        failed.error
    }
}

/// The oldest server with everything the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// Looks at the server once per connection: its version, and whether it may drop claims.
async fn check(connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
    let info: String = match redis::cmd("INFO").query_async(connection).await {
        Ok(info) => info,
        // A server that tells nobody is taken at its word.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => return Ok(()),
        Err(source) => return Err(error(source, "").error),
    };
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if let Some(version) = field("redis_version") {
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX));
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
            let message =
                format!("the Redis server is version {version}; {}.{} or later is needed", OLDEST.0, OLDEST.1);
            return Err(StoreError::new(StoreErrorKind::Setup, message));
        }
    }
    if field("redis_mode") == Some("cluster") {
        let message = "the Redis server is a node of a cluster, and a cluster is not supported: use a server that is not \
                       in cluster mode";
        return Err(StoreError::new(StoreErrorKind::Setup, message));
    }
    if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        tracing::warn!(
            "the Redis server may drop claims under memory pressure: maxmemory-policy is {policy}; set it to noeviction"
        );
    }
    Ok(())
}

pub(super) fn timed_out(limit: Duration) -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, format!("the Redis server did not answer within {limit:?}"))
}

/// What the server or the connection said, and whether another connection may have a better answer.
pub(super) struct Failed {
    pub(super) error: StoreError,
    leaves_connection: bool,
}

/// What the server's own words mean: each comes before a script has written anything.
const REFUSALS: [(&str, StoreErrorKind, &str); 14] = [
    ("NOSCRIPT", StoreErrorKind::NotExecuted, "has lost its scripts"),
    ("READONLY", StoreErrorKind::NotExecuted, "is a read-only replica; its name should lead to the primary"),
    ("LOADING", StoreErrorKind::NotExecuted, "is loading its data after a start"),
    ("MASTERDOWN", StoreErrorKind::NotExecuted, "is a replica without its primary"),
    ("NOREPLICAS", StoreErrorKind::NotExecuted, "has not enough replicas for a write (min-replicas-to-write)"),
    (
        "MISCONF",
        StoreErrorKind::NotExecuted,
        "takes no writes because it cannot save them (stop-writes-on-bgsave-error)",
    ),
    ("BUSY", StoreErrorKind::NotExecuted, "is busy with a script that runs too long"),
    ("OOM", StoreErrorKind::NotExecuted, "is out of memory (maxmemory)"),
    ("MOVED", StoreErrorKind::Setup, "is a node of a cluster, and a cluster is not supported"),
    ("ASK", StoreErrorKind::Setup, "is a node of a cluster, and a cluster is not supported"),
    ("CLUSTERDOWN", StoreErrorKind::Setup, "is a node of a cluster, and a cluster is not supported"),
    ("NOAUTH", StoreErrorKind::Setup, "wants a password"),
    ("WRONGPASS", StoreErrorKind::Setup, "does not know this user and password"),
    ("NOPERM", StoreErrorKind::Setup, "does not permit this user a command that the store needs"),
];

/// What the server's or the connection's error means for the operation.
fn error(source: RedisError, key: &str) -> Failed {
    let text = source.to_string();
    // Redis 6 wraps what a script's command answered ("... -MISCONF Redis is ..."); 7 hands it on.
    let says = |code: &str| source.code() == Some(code) || text.split([' ', '-', ':']).any(|word| word == code);
    if says("WRONGTYPE") {
        let error = StoreError::foreign(key, crate::record::RecordError::Foreign);
        return Failed { error, leaves_connection: false };
    }
    let refusal = REFUSALS.iter().find(|(code, ..)| !source.is_io_error() && says(code));
    let (kind, message) = match refusal {
        Some((_, kind, words)) => (*kind, format!("the Redis server {words}: {text}")),
        None if source.kind() == ErrorKind::AuthenticationFailed => {
            (StoreErrorKind::Setup, format!("the Redis server refused us: {text}; check user and password"))
        }
        None if source.code() == Some("ERR") => {
            (StoreErrorKind::Refused, format!("the Redis server refused a command: {text}"))
        }
        None => (StoreErrorKind::Unknown, format!("the connection to the Redis server failed: {text}")),
    };
    // A replica that was the primary keeps its connections: the name may lead to another server by now.
    let leaves_connection = source.is_io_error() || source.is_unrecoverable_error() || says("READONLY");
    Failed { error: StoreError::new(kind, message).with_source(source), leaves_connection }
}

pub(super) fn is_out_of_memory(error: &StoreError) -> bool {
    error.kind() == StoreErrorKind::NotExecuted && error.to_string().contains("OOM")
}
