//! How a connection to the server is opened, the hints' too: with whose login.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};

use super::credentials::{Asker, RedisCredentials, RedisLogin, Renewal};
use crate::error::{StoreError, StoreErrorKind};

/// What every connection of a store is opened with.
pub(super) struct Access {
    client: Client,
    config: AsyncConnectionConfig,
    asker: Option<Arc<Asker>>,
}

/// A connection, and what keeps it logged in.
pub(super) struct Opened {
    pub(super) connection: MultiplexedConnection,
    _renewal: Option<Renewal>,
}

impl Access {
    pub(super) fn new(
        client: Client,
        config: AsyncConnectionConfig,
        credentials: Option<Arc<dyn RedisCredentials>>,
        time_limit: Duration,
    ) -> Self {
        Self { client, config, asker: credentials.map(|credentials| Asker::new(credentials, time_limit)) }
    }

    pub(super) async fn open(&self) -> Result<Opened, StoreError> {
        let Some(asker) = &self.asker else {
            let opened = self.client.get_multiplexed_async_connection_with_config(&self.config).await;
            let connection = opened.map_err(|source| self.not_connected(source))?;
            return Ok(Opened { connection, _renewal: None });
        };
        let mut is_again = false;
        loop {
            let login = asker.ask().await?;
            match self.client_for(&login)?.get_multiplexed_async_connection_with_config(&self.config).await {
                Ok(connection) => {
                    let renewal = Renewal::of(connection.clone(), asker.clone(), login);
                    return Ok(Opened { connection, _renewal: Some(renewal) });
                }
                // It may have been replaced on the way.
                Err(source) if is_refusal(&source) && !is_again => is_again = true,
                Err(source) => return Err(self.not_connected(source)),
            }
        }
    }

    /// A connection for hints.
    pub(super) async fn subscribe(&self) -> Result<PubSub, StoreError> {
        let client = match &self.asker {
            Some(asker) => &self.client_for(&asker.ask().await?)?,
            None => &self.client,
        };
        client.get_async_pubsub().await.map_err(|source| self.not_connected(source))
    }

    fn client_for(&self, login: &RedisLogin) -> Result<Client, StoreError> {
        let info = self.client.get_connection_info().clone();
        let settings = login.apply(info.redis_settings());
        Client::open(info.set_redis_settings(settings)).map_err(|source| self.not_connected(source))
    }

    fn not_connected(&self, source: RedisError) -> StoreError {
        let address = self.client.get_connection_info().addr();
        let (kind, message) = match (is_refusal(&source), &self.asker) {
            // Another time there may be better ones.
            (true, Some(asker)) => {
                let name = asker.name();
                let message = format!("the Redis server at {address} refused the credentials from {name}: {source}");
                (StoreErrorKind::NotExecuted, message)
            }
            (true, None) => (
                StoreErrorKind::Setup,
                format!("the Redis server at {address} refused us: {source}; check user, password and database"),
            ),
            (false, _) => {
                (StoreErrorKind::NotExecuted, format!("the Redis server at {address} can't be reached: {source}"))
            }
        };
        StoreError::new(kind, message).with_source(source)
    }
}

/// Whether the server was reached and does not let us in.
fn is_refusal(source: &RedisError) -> bool {
    match source.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => true,
        ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        _ if source.to_string().contains("switch database") => true,
        _ => source.code().is_some_and(|code| matches!(code, "NOAUTH" | "WRONGPASS")),
    }
}
