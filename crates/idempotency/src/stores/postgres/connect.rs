//! One connection: how it is opened, and what is looked at first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Row, Statement};

use super::channels::Channels;
use super::errors::{self, advice};
use super::options::{PostgresOptions, Server, servers};
use super::sql::Statements;
use super::wire::Wire;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::Token;
use crate::schema::VERSION;
use crate::stores::resolver::resolve;

/// How long a connection is silent before the operating system asks whether its peer is there, and between questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The oldest server with everything that the functions use.
const OLDEST: i32 = 13;

/// Where a connection keeps its number: a setting that means nothing to the server.
const NUMBER: &str = "idempotent.connection";

/// A statement with its parameters, and what they are.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Which statement of the store's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Claim,
    Renew,
    Complete,
    Release,
    Get,
    /// Many claims.
    Claims,
    /// Many completions.
    Completions,
    /// One that is not prepared.
    Other,
}

/// A connection, which any number of operations use at once: each is sent at once and answered in turn.
pub(super) struct Connection {
    client: Client,
    /// What is prepared; nothing behind a pooler.
    prepared: Option<[Statement; 7]>,
    /// How many operations wait for an answer.
    pub(super) uses: AtomicUsize,
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.prepared.is_none()
    }

    /// Runs a statement that answers with rows.
    pub(super) async fn rows(&self, which: Which, sql: &str, values: Parameters<'_>) -> Result<Vec<Row>, Error> {
        let _use = Use::of(self);
        match &self.prepared {
            Some(prepared) if (which as usize) < prepared.len() => {
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|(value, _)| *value).collect();
                self.client.query(&prepared[which as usize], &values).await
            }
            _ => self.client.query_typed(sql, values).await,
        }
    }

    /// Runs statements without parameters, in one transaction.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }
}

struct Use<'a>(&'a AtomicUsize);

impl<'a> Use<'a> {
    fn of(connection: &'a Connection) -> Self {
        connection.uses.fetch_add(1, Ordering::Relaxed);
        Self(&connection.uses)
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is wanted of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// The store's operations.
    Operations {
        /// Whether a pooler stands between; `None`: it is to be found out.
        pooler: Option<bool>,
    },
    /// What takes its time: the schema is made, records are listed or purged.
    Upkeep,
}

/// A connection that is to be opened.
pub(super) struct Opening<'a> {
    options: &'a PostgresOptions,
    statements: &'a Statements,
    wanted: For,
    /// Who is told of notifications.
    told: Option<&'a Arc<Channels>>,
}

impl<'a> Opening<'a> {
    pub(super) fn new(options: &'a PostgresOptions, statements: &'a Statements, wanted: For) -> Self {
        Self { options, statements, wanted, told: None }
    }

    /// One that listens.
    pub(super) fn listening(options: &'a PostgresOptions, statements: &'a Statements, told: &'a Arc<Channels>) -> Self {
        Self { options, statements, wanted: For::Upkeep, told: Some(told) }
    }

    /// Opens a connection to the first server that takes writes.
    pub(super) async fn open(self) -> Result<Connection, StoreError> {
        let servers = servers(&self.options.address);
        // One that does not answer leaves time for the others.
        let limit = self.options.time_limit / u32::try_from(servers.len()).unwrap_or(u32::MAX).max(1);
        let mut first_error = None;
        for server in servers {
            let opened = async {
                let is_told = self.wanted != For::Operations { pooler: Some(true) };
                match self.open_at(&server, is_told).await {
                    // A pooler does not know what it is told at the start, and says so.
                    Err(error) if is_told && errors::is_protocol_violation(&error) => {
                        self.open_at(&server, false).await
                    }
                    opened => opened,
                }
            };
            match timeout(limit, opened).await.unwrap_or_else(|_| Err(late(&server, limit))) {
                Ok(connection) => return Ok(connection),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.expect("a URL names a host"))
    }

    async fn open_at(&self, server: &Server, is_told: bool) -> Result<Connection, StoreError> {
        let stream = stream(server).await.map_err(|source| {
            let message = format!("the Postgres server at {server} can't be reached: {source}");
            StoreError::new(StoreErrorKind::NotExecuted, message).with_source(source)
        })?;
        let (number, mut config) = (number(), self.options.address.clone());
        if is_told {
            // Each operation is a transaction of its own. What nobody waits for any more is not to be done. The number
            // comes back only over a connection that is ours alone.
            let limit = if self.wanted == For::Upkeep { 0 } else { self.options.time_limit.as_millis().max(1) };
            let more = format!(
                "{} -c default_transaction_isolation=read\\ committed -c statement_timeout={limit} -c {NUMBER}={number}",
                config.get_options().unwrap_or_default(),
            );
            config.options(more.trim());
        }
        let client = self.start(&config, server, stream).await?;
        let connection = |client, prepared| Connection { client, prepared, uses: AtomicUsize::new(0) };
        let For::Operations { pooler } = self.wanted else { return Ok(connection(client, None)) };
        let is_ours = self.look(&client, server, &number).await?;
        if pooler.unwrap_or(!is_ours) {
            return Ok(connection(client, None));
        }
        let prepared = prepare(&client, self.statements).await;
        let prepared = prepared.map_err(|source| errors::failed(source, &self.options.schema).error)?;
        Ok(connection(client, Some(prepared)))
    }

    /// Logs in. A task of its own carries the connection until it ends.
    async fn start(&self, config: &Config, server: &Server, stream: Wire) -> Result<Client, StoreError> {
        let refused = |source: Error| errors::not_connected(source, server);
        let told = self.told.cloned();
        match (config.get_ssl_mode(), &server.host) {
            #[cfg(feature = "postgres-tls")]
            (SslMode::Require, Host::Tcp(name)) => {
                let encryption = super::tls::Encryption::to(name, &self.options.tls)?;
                let (client, connection) = config.connect_raw(stream, encryption).await.map_err(refused)?;
                tokio::spawn(carry(connection, told));
                Ok(client)
            }
            _ => {
                let mut config = config.clone();
                config.ssl_mode(SslMode::Disable); // a socket does not leave the machine
                let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(refused)?;
                tokio::spawn(carry(connection, told));
                Ok(client)
            }
        }
    }

    /// Looks at the server: whether it is one that can be used, and whether the connection is ours alone.
    async fn look(&self, client: &Client, server: &Server, number: &str) -> Result<bool, StoreError> {
        let schema = &self.options.schema;
        let row = client.query_typed_one(&self.statements.check, &[]).await;
        let row = row.map_err(|source| errors::failed(source, schema).error)?;
        let unusable =
            |kind, what: String| Err(StoreError::new(kind, format!("the Postgres server at {server} {what}")));
        let (version, oldest): (i32, i32) = (row.get("version"), row.get("server"));
        if oldest < OLDEST * 10_000 {
            return unusable(
                StoreErrorKind::Setup,
                format!("is version {}; {OLDEST} or later is needed", oldest / 10_000),
            );
        }
        if version < VERSION {
            let advice = advice("", schema);
            let what =
                format!("has version {version} of the schema {schema:?}, and this library needs {VERSION}{advice}");
            return unusable(StoreErrorKind::Setup, what);
        }
        if row.get("is_standby") {
            return unusable(StoreErrorKind::NotExecuted, "is a standby; its name should lead to the primary".into());
        }
        if row.get("is_read_only") {
            return unusable(StoreErrorKind::Setup, "takes no writes (default_transaction_read_only)".into());
        }
        Ok(row.get::<_, &str>("number") == number)
    }
}

fn late(server: &Server, limit: Duration) -> StoreError {
    let message = format!("the Postgres server at {server} did not answer within {limit:?}");
    StoreError::new(StoreErrorKind::NotExecuted, message)
}

/// Carries a connection until it ends.
async fn carry<T>(mut connection: tokio_postgres::Connection<Wire, T>, told: Option<Arc<Channels>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(hint), Some(channels)) = (message, &told) {
            channels.tell(hint.payload());
        }
    }
    if let Some(channels) = told {
        channels.close();
    }
}

/// A number that no other connection has.
fn number() -> String {
    let Token(token) = Token::random();
    format!("{:032x}", u128::from_be_bytes(token))
}

async fn stream(Server { host, address, port }: &Server) -> io::Result<Wire> {
    let name = match host {
        Host::Tcp(name) => name,
        #[cfg(unix)]
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            return Ok(Wire(Box::new(tokio::net::UnixStream::connect(path).await?)));
        }
    };
    let addresses = match address {
        Some(address) => vec![(*address, *port).into()].into_iter(),
        None => resolve(name, *port).await?,
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Statements are small: none waits to be sent along with another. A peer that went away without a word
                // is noticed although nothing is sent.
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(Wire(Box::new(stream)));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn prepare(client: &Client, statements: &Statements) -> Result<[Statement; 7], Error> {
    const BYTES: Type = Type::BYTEA;
    const STEP: [Type; 5] = [BYTES, BYTES, BYTES, Type::INT8, Type::INT8];
    const STEPS: [Type; 5] =
        [Type::BYTEA_ARRAY, Type::BYTEA_ARRAY, Type::BYTEA_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];
    let (claim, renew, complete, release, get, claims, completions) = tokio::try_join!(
        client.prepare_typed(&statements.claim, &STEP),
        client.prepare_typed(&statements.renew, &[BYTES, BYTES, Type::INT8, Type::INT8]),
        client.prepare_typed(&statements.complete, &STEP),
        client.prepare_typed(&statements.release, &[BYTES, BYTES]),
        client.prepare_typed(&statements.get, &[BYTES]),
        client.prepare_typed(&statements.claims, &STEPS),
        client.prepare_typed(&statements.completions, &STEPS),
    )?;
    Ok([claim, renew, complete, release, get, claims, completions])
}
