//! [`Dial`]: a connection to one server, logged in and looked at.

use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::AsyncDNSResolver;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisFuture, RedisResult, ServerErrorKind,
};
use tokio::time::timeout;

use super::errors::{self, not_connected};
use super::options::{RedisAddress, RedisLogin, RedisTls};
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

/// How a connection to any of several servers is opened: all of them take the same login.
pub(super) struct Dial {
    settings: RedisConnectionInfo,
    encrypted: bool,
    #[cfg_attr(not(feature = "redis-tls"), expect(dead_code, reason = "there is no encryption then"))]
    tls: RedisTls,
    expected: Expected,
    config: AsyncConnectionConfig,
    time_limit: Duration,
}

impl Dial {
    pub(super) fn new(
        login: &RedisLogin,
        database: u32,
        encrypted: bool,
        tls: RedisTls,
        expected: Expected,
        time_limit: Duration,
    ) -> Self {
        let mut settings = RedisConnectionInfo::default().set_db(database.into());
        if let Some(username) = &login.username {
            settings = settings.set_username(username);
        }
        // Without one the server would take us for its default user.
        if let Some(password) = login.password.as_deref().or(login.username.as_ref().map(|_| "")) {
            settings = settings.set_password(password);
        }
        // The store's own limit covers the whole operation; a second one per response would only race with it.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(time_limit))
            .set_response_timeout(None)
            .set_dns_resolver(Resolver);
        Self { settings, encrypted, tls, expected, config, time_limit }
    }

    /// What opens connections to a server. Does no I/O.
    ///
    /// # Errors
    /// Where these settings can't be used.
    pub(super) fn client(&self, at: &RedisAddress) -> Result<Client, StoreError> {
        let address = match at {
            RedisAddress::Host(host, port) if self.encrypted => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
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
        let info = info.set_tcp_settings(tcp).set_redis_settings(self.settings.clone());
        #[cfg(feature = "redis-tls")]
        if self.encrypted {
            // An application's own choice of provider, made before, stands.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let RedisTls { root, client } = self.tls.clone();
            let client_tls = client.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
            let certificates = redis::TlsCertificates { client_tls, root_cert: root };
            return Client::build_with_tls(info, certificates).map_err(unusable);
        }
        Client::open(info).map_err(unusable)
    }

    /// A connection that is logged in, to a server of the kind that is expected.
    pub(super) async fn open(&self, at: &RedisAddress) -> Result<MultiplexedConnection, StoreError> {
        let client = self.client(at)?;
        self.in_time(at, async {
            let opened = client.get_multiplexed_async_connection_with_config(&self.config).await;
            let mut connection = opened.map_err(|source| not_connected(at, source))?;
            if self.expected != Expected::Sentinel {
                self.check(at, &mut connection).await?;
            }
            Ok(connection)
        })
        .await
    }

    /// A connection for what is published.
    pub(super) async fn listen(&self, at: &RedisAddress) -> Result<PubSub, StoreError> {
        let client = self.client(at)?;
        self.in_time(at, async { client.get_async_pubsub().await.map_err(|source| not_connected(at, source)) }).await
    }

    async fn in_time<T>(
        &self,
        at: &RedisAddress,
        opening: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        timeout(self.time_limit, opening).await.unwrap_or_else(|_| {
            let limit = self.time_limit;
            let message = format!("the Redis server at {at} can't be reached: it did not answer within {limit:?}");
            Err(StoreError::new(StoreErrorKind::NotExecuted, message))
        })
    }

    /// Looks at the server once per connection: its version, its kind, and whether it may drop claims.
    async fn check(&self, at: &RedisAddress, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        let answer: RedisResult<String> = redis::cmd("INFO").query_async(connection).await;
        let info = match answer {
            Ok(info) => info,
            // A server that tells nobody is taken at its word.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => return Ok(()),
            Err(source) => return Err(errors::not_executed(errors::error(source, "").error)),
        };
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let unusable = |message: String| Err(StoreError::new(StoreErrorKind::Setup, message));
        if let Some(version) = field("redis_version") {
            let mut parts = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX));
            if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
                let (major, minor) = OLDEST;
                return unusable(format!("the Redis server is version {version}; {major}.{minor} or later is needed"));
            }
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
        Ok(())
    }
}

/// The oldest server with everything the scripts use.
const OLDEST: (u32, u32) = (6, 2);

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
