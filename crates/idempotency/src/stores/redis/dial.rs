//! [`Dial`]: a connection to one server, logged in and looked at.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::AsyncDNSResolver;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisFuture, RedisResult, ServerErrorKind,
};

use super::credentials::{RedisLogin, Renewal, Who};
use super::errors::{self, is_refusal, not_connected};
use super::options::RedisAddress;
use super::tls::{RedisTls, RedisVerify};
use crate::error::{StoreError, StoreErrorKind};
use crate::stores::resolver::resolve;

/// How long a connection is silent before the operating system asks whether its peer is there, and between questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What a server must be for us to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// A server that is in no cluster.
    Server,
    /// One that is nobody's replica, too.
    Primary,
    /// A node of a cluster.
    Node,
    /// A sentinel, which has no records.
    Sentinel,
}

/// A connection, and what keeps it logged in.
pub(super) struct Opened {
    pub(super) connection: MultiplexedConnection,
    pub(super) renewal: Option<Arc<Renewal>>,
    /// The server's own name for its process.
    pub(super) process: Option<Arc<str>>,
}

/// Where a write must be before it counts, beside the server's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// In the memory of so many replicas.
    pub(super) replicas: u32,
    /// On the disks of so many servers, the primary's among them.
    pub(super) aof: u32,
}

impl Wanted {
    pub(super) fn is_more(self) -> bool {
        self != Self::default()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, aof } = self;
        match (replicas, aof) {
            (replicas, 0) => write!(f, "replicas={replicas}"),
            (0, aof) => write!(f, "aof={aof}"),
            (replicas, aof) => write!(f, "replicas={replicas} and aof={aof}"),
        }
    }
}

/// How a connection to any of several servers is opened: all of them take the same login.
pub(super) struct Dial {
    who: Who,
    database: u32,
    encrypted: bool,
    tls: RedisTls,
    expected: Expected,
    wanted: Wanted,
    config: AsyncConnectionConfig,
    /// Whether the log has that a server is not verified.
    is_told: AtomicBool,
}

impl Dial {
    pub(super) fn new(
        who: Who,
        database: u32,
        encrypted: bool,
        tls: RedisTls,
        expected: Expected,
        wanted: Wanted,
        time_limit: Duration,
    ) -> Self {
        // The store's own limit covers the whole operation; a second one per response would only race with it.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(time_limit))
            .set_response_timeout(None)
            .set_dns_resolver(Resolver(None));
        let is_told = AtomicBool::new(false);
        Self { who, database, encrypted, tls, expected, wanted, config, is_told }
    }

    /// Does no I/O.
    ///
    /// # Errors
    /// Where these settings can't be used.
    pub(super) fn check_settings(&self, at: &RedisAddress) -> Result<(), StoreError> {
        self.client(at, &RedisLogin::default()).map(drop)
    }

    /// What opens connections to a server.
    fn client(&self, at: &RedisAddress, login: &RedisLogin) -> Result<Client, StoreError> {
        let address = match at {
            RedisAddress::Host(host, port) if self.encrypted => {
                let host = self.tls.server_name.as_ref().unwrap_or(host).clone();
                let insecure = self.tls.verify == RedisVerify::Nothing;
                ConnectionAddr::TcpTls { host, port: *port, insecure, tls_params: None }
            }
            RedisAddress::Host(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
            RedisAddress::Socket(path) => ConnectionAddr::Unix(path.clone()),
        };
        // Commands are small and one round trip each: none waits to be sent along with another. A peer that went away
        // without a word is noticed although nothing is sent.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let unusable = |source: RedisError| {
            let message = format!("these Redis settings can't be used: {source}");
            StoreError::new(StoreErrorKind::Setup, message).with_source(source)
        };
        let info = address.into_connection_info().map_err(unusable)?;
        let info = info.set_tcp_settings(tcp).set_redis_settings(self.settings(login));
        #[cfg(feature = "redis-tls")]
        if self.encrypted {
            return super::tls::client(info, &self.tls).map_err(unusable);
        }
        Client::open(info).map_err(unusable)
    }

    fn settings(&self, login: &RedisLogin) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default().set_db(self.database.into());
        if let Some(username) = &login.username {
            settings = settings.set_username(username);
        }
        // Without one the server would take us for its default user.
        if let Some(password) = login.password.as_deref().or(login.username.as_ref().map(|_| "")) {
            settings = settings.set_password(password);
        }
        settings
    }

    /// A connection that is logged in, to a server of the kind that is expected.
    pub(super) async fn open(&self, at: &RedisAddress) -> Result<Opened, StoreError> {
        let mut opened = self.connect(at).await?;
        if self.expected != Expected::Sentinel {
            opened.process = self.check(at, &mut opened.connection).await?;
        }
        Ok(opened)
    }

    async fn connect(&self, at: &RedisAddress) -> Result<Opened, StoreError> {
        self.warn(at);
        let config = match at {
            RedisAddress::Host(host, _) if self.names_another() => {
                self.config.clone().set_dns_resolver(Resolver(Some(host.clone())))
            }
            _ => self.config.clone(),
        };
        let asker = match &self.who {
            Who::Login(login) => {
                let opened = self.client(at, login)?.get_multiplexed_async_connection_with_config(&config).await;
                let connection = opened.map_err(|source| not_connected(at, source))?;
                return Ok(Opened { connection, renewal: None, process: None });
            }
            Who::Asked(asker) => asker,
        };
        let mut is_again = false;
        loop {
            let granted = asker.ask().await?;
            let client = self.client(at, &granted.login)?;
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => {
                    let renewal = Renewal::of(connection.clone(), asker.clone(), granted);
                    return Ok(Opened { connection, renewal: Some(Arc::new(renewal)), process: None });
                }
                // It may have been replaced on the way.
                Err(source) if is_refusal(&source) && !is_again => is_again = true,
                Err(source) if is_refusal(&source) => return Err(asker.refused(at, source)),
                Err(source) => return Err(not_connected(at, source)),
            }
        }
    }

    /// A connection for what is published.
    pub(super) async fn listen(&self, at: &RedisAddress) -> Result<PubSub, StoreError> {
        if self.names_another() {
            // The library connects to the host that the certificate names, and takes no resolver here.
            let message = "where the server's name in its certificate is given there are no hints";
            return Err(StoreError::new(StoreErrorKind::NotExecuted, message));
        }
        let client = match &self.who {
            Who::Login(login) => self.client(at, login)?,
            Who::Asked(asker) => self.client(at, &asker.ask().await?.login)?,
        };
        client.get_async_pubsub().await.map_err(|source| not_connected(at, source))
    }

    /// Whether the certificate is to name something else than the host that is connected to.
    fn names_another(&self) -> bool {
        self.encrypted && self.tls.server_name.is_some()
    }

    /// Says once what is not verified.
    fn warn(&self, at: &RedisAddress) {
        let what = match self.tls.verify {
            _ if !self.encrypted => return,
            RedisVerify::Everything => return,
            RedisVerify::Certificate => "the name in its certificate is not checked (ssl_check_hostname=false)",
            RedisVerify::Nothing => "its certificate is not checked (ssl_cert_reqs=none)",
        };
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!("somebody else may stand in the place of the Redis server at {at}: {what}");
        }
    }

    /// Where a write must be before it counts.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.expected == Expected::Node
    }

    /// Looks at the server once per connection: its version, its kind, and whether it may drop claims. Its own name for
    /// its process.
    async fn check(
        &self,
        at: &RedisAddress,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<Arc<str>>, StoreError> {
        let answer: RedisResult<String> = redis::cmd("INFO").query_async(connection).await;
        let info = match answer {
            Ok(info) => info,
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) && self.wanted.is_more() => {
                let message = format!("{} needs a Redis user that may ask for INFO: {error}", self.wanted);
                return Err(StoreError::new(StoreErrorKind::Setup, message).with_source(error));
            }
            // A server that tells nobody is taken at its word.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => return Ok(None),
            Err(source) => return Err(errors::not_executed(errors::error(source, "").error)),
        };
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let unusable = |message: String| Err(StoreError::new(StoreErrorKind::Setup, message));
        if let Some(version) = field("redis_version") {
            let mut parts = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX));
            let (is, aof) = ((parts.next().unwrap_or(0), parts.next().unwrap_or(0)), self.wanted.aof > 0);
            let ((major, minor), what) = if aof { (WAITAOF, " for aof=") } else { (OLDEST, "") };
            if is < (major, minor) {
                let message =
                    format!("the Redis server is version {version}; {major}.{minor} or later is needed{what}");
                return unusable(message);
            }
        }
        if self.wanted.aof > 0 && field("aof_enabled") == Some("0") {
            return unusable(format!(
                "the Redis server keeps no file that aof= could mean; set appendonly yes at {at}"
            ));
        }
        match (field("redis_mode"), self.expected) {
            (Some("cluster"), Expected::Server | Expected::Primary) => return Err(errors::is_a_node()),
            (Some(mode), Expected::Node) if mode != "cluster" => {
                return unusable(format!(
                    "the Redis server at {at} is no node of a cluster; write redis://{at} for a server of its own"
                ));
            }
            (Some("sentinel"), _) => {
                return unusable(format!(
                    "the server at {at} is a sentinel; write redis+sentinel://{at}/service, with the name of the \
                     service"
                ));
            }
            _ => {}
        }
        if field("role") == Some("active-replica") {
            return unusable(format!(
                "the server at {at} is a KeyDB that merges what others write (active-replica yes): two of them may both \
                 grant one claim; set active-replica no"
            ));
        }
        if self.expected == Expected::Primary && field("role") == Some("slave") {
            let message = format!("the Redis server at {at} is a replica, not the primary any more, or not yet");
            return Err(StoreError::new(StoreErrorKind::NotExecuted, message));
        }
        if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
            tracing::warn!(
                "the Redis server may drop claims under memory pressure: maxmemory-policy is {policy}; set it to \
                 noeviction"
            );
        }
        Ok(field("run_id").map(Into::into))
    }
}

/// The oldest server with everything the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// The oldest server with WAITAOF.
const WAITAOF: (u32, u32) = (7, 2);

/// Looks up this host instead of the one in the server's certificate, if any.
struct Resolver(Option<String>);

impl AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        let host = self.0.as_deref().unwrap_or(host);
        Box::pin(async move { Ok(Box::new(resolve(host, port).await?) as Box<dyn Iterator<Item = SocketAddr> + Send>) })
    }
}
