//! How the server is reached: options, the one connection, and what its errors mean.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind};

use super::{StoreError, StoreErrorKind};

/// How to reach the server.
///
/// ```
/// use idempotency::stores::RedisOptions;
/// let options = RedisOptions { prefix: "shop:".into(), ..RedisOptions::from_url("redis://localhost:6379/2")? };
/// # Ok::<(), idempotency::StoreError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Where, with credentials and database.
    pub address: redis::ConnectionInfo,
    /// What every storage key starts with; `idem:` unless told.
    pub prefix: String,
    /// The longest any command may take, connecting included; 1 s unless told.
    pub time_limit: Duration,
    /// Certificates for `rediss://`, where the system's are not enough.
    pub tls: RedisTls,
}

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
    /// From a URL, with the defaults.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let address = url.into_connection_info().map_err(|source| {
            let message = format!("not a Redis URL: {source}; write redis://[user:password@]host[:port][/database], rediss:// or unix:///path");
            StoreError::new(StoreErrorKind::Setup, message).with_source(source)
        })?;
        Ok(Self { address, prefix: "idem:".into(), time_limit: Duration::from_secs(1), tls: RedisTls::default() })
    }

    pub(super) fn client(self) -> Result<Client, StoreError> {
        let unusable = |source: RedisError| {
            let message = format!("these Redis settings can't be used: {source}");
            StoreError::new(StoreErrorKind::Setup, message).with_source(source)
        };
        #[cfg(feature = "redis-tls")]
        if matches!(self.address.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            // An application's own choice of provider, made before, stands.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client_tls =
                self.tls.client.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
            let certificates = redis::TlsCertificates { client_tls, root_cert: self.tls.root };
            return Client::build_with_tls(self.address, certificates).map_err(unusable);
        }
        Client::open(self.address).map_err(unusable)
    }
}

/// One multiplexed connection, opened when first needed and again after it was lost.
pub(super) struct Connection {
    client: Client,
    config: AsyncConnectionConfig,
    current: Mutex<Current>,
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl Connection {
    pub(super) fn new(client: Client, time_limit: Duration) -> Self {
        // The store's own limit covers the whole operation; a second one per response would only race with it.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(time_limit)).set_response_timeout(None);
        Self { client, config, current: Mutex::default(), opening: tokio::sync::Mutex::new(()) }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> Option<(u64, MultiplexedConnection)> {
        let current = self.current();
        current.connection.clone().map(|connection| (current.number, connection))
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
        let opened = self.client.get_multiplexed_async_connection_with_config(&self.config).await;
        let mut connection = opened.map_err(|source| not_connected(&self.client, source))?;
        check(&mut connection).await?;
        let mut current = self.current();
        current.number += 1;
        current.connection = Some(connection.clone());
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
            current.connection = None;
        }
    }

    /// What an error on this connection means; a lost connection is not used again.
    pub(super) fn failed(&self, number: u64, source: RedisError, key: &str) -> StoreError {
        if source.is_io_error() || source.is_unrecoverable_error() {
            self.forget(number);
        }
        error(source, key)
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
        Err(source) => return Err(error(source, "")),
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
    if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        tracing::warn!(
            "the Redis server may drop claims under memory pressure: maxmemory-policy is {policy}; set it to noeviction"
        );
    }
    Ok(())
}

fn not_connected(client: &Client, source: RedisError) -> StoreError {
    let address = client.get_connection_info().addr();
    let setup = match source.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => true,
        ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        _ if source.to_string().contains("switch database") => true,
        _ => source.code().is_some_and(|code| matches!(code, "NOAUTH" | "WRONGPASS")),
    };
    let (kind, message) = match setup {
        true => (
            StoreErrorKind::Setup,
            format!("the Redis server at {address} refused us: {source}; check user, password and database"),
        ),
        false => (StoreErrorKind::NotExecuted, format!("the Redis server at {address} can't be reached: {source}")),
    };
    StoreError::new(kind, message).with_source(source)
}

pub(super) fn timed_out(limit: Duration) -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, format!("the Redis server did not answer within {limit:?}"))
}

/// What the server's or the connection's error means for the operation.
pub(super) fn error(source: RedisError, key: &str) -> StoreError {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, NoPerm, NoScript, ReadOnly, TryAgain};
    let text = source.to_string();
    // Redis 6 wraps what a script's command answered; 7 hands it on.
    let has = |code: &str| source.code() == Some(code) || text.contains(code);
    if has("WRONGTYPE") {
        return StoreError::foreign(key, crate::record::RecordError::Foreign);
    }
    let (kind, message) = match source.kind() {
        ErrorKind::Server(NoScript | Moved | Ask | TryAgain | ReadOnly | BusyLoading | ClusterDown | MasterDown) => {
            (StoreErrorKind::NotExecuted, format!("the Redis server can't take this now: {text}"))
        }
        ErrorKind::Server(NoPerm) | ErrorKind::AuthenticationFailed => {
            (StoreErrorKind::Setup, format!("the Redis server refused us: {text}; check the user's permissions"))
        }
        _ if has("OOM") => (StoreErrorKind::NotExecuted, format!("the Redis server is out of memory: {text}")),
        _ if has("NOAUTH") => (StoreErrorKind::Setup, format!("the Redis server wants a password: {text}")),
        _ => (StoreErrorKind::Unknown, format!("the connection to the Redis server failed: {text}")),
    };
    StoreError::new(kind, message).with_source(source)
}

pub(super) fn is_out_of_memory(error: &StoreError) -> bool {
    error.kind() == StoreErrorKind::NotExecuted && error.to_string().contains("OOM")
}
