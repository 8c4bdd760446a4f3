//! [`Node`]: the one connection to a server, or to the server that is the primary now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::credentials::Renewal;
use super::dial::{Dial, Opened};
use super::errors;
use super::options::RedisAddress;
use super::sentinel::Sentinels;
use crate::error::StoreError;

/// One multiplexed connection, opened when first needed and again after it was lost.
pub(super) struct Node {
    finder: Finder,
    current: Mutex<Current>,
    opening: tokio::sync::Mutex<()>,
}

/// Where the server is.
pub(super) enum Finder {
    At(RedisAddress, Arc<Dial>),
    /// Where the sentinels say.
    Primary(Box<Sentinels>),
}

#[derive(Default)]
struct Current {
    number: u64,
    link: Option<Link>,
}

/// An open connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) at: Arc<RedisAddress>,
    pub(super) connection: MultiplexedConnection,
    /// The server's own name for its process.
    pub(super) process: Option<Arc<str>>,
    /// For as long as anybody uses it.
    _renewal: Option<Arc<Renewal>>,
}

impl Node {
    pub(super) fn new(finder: Finder) -> Arc<Self> {
        Arc::new(Self { finder, current: Mutex::default(), opening: tokio::sync::Mutex::new(()) })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if there is one.
    pub(super) fn ready(&self) -> Option<Link> {
        self.current().link.clone()
    }

    /// The connection. Whoever comes first opens it.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Link, StoreError> {
        if let Some(ready) = self.ready() {
            self.look_again(&ready);
            return Ok(ready);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(ready) = self.ready() {
            return Ok(ready);
        }
        let (at, opened) = match &self.finder {
            Finder::At(at, dial) => (at.clone(), dial.open(at).await?),
            Finder::Primary(sentinels) => sentinels.open().await?,
        };
        Ok(self.put(at, opened))
    }

    fn put(&self, at: RedisAddress, Opened { connection, renewal, process }: Opened) -> Link {
        let mut current = self.current();
        current.number += 1;
        let link = Link { number: current.number, at: Arc::new(at), connection, process, _renewal: renewal };
        current.link = Some(link.clone());
        link
    }

    /// Asks the sentinels now and then, while nobody waits for it: a primary that was replaced may still answer us, and
    /// the sentinels themselves may move.
    fn look_again(self: &Arc<Self>, link: &Link) {
        let Finder::Primary(sentinels) = &self.finder else { return };
        if !sentinels.is_due() {
            return;
        }
        let (node, used) = (self.clone(), link.clone());
        tokio::spawn(async move {
            let Finder::Primary(sentinels) = &node.finder else { return };
            if let Some((at, opened)) = sentinels.replacement(&used.at).await {
                tracing::warn!("the sentinels have another Redis primary now: {at} instead of {}", used.at);
                node.put(at, opened);
            }
        });
    }

    /// The next operation opens a new connection, unless somebody has: this one answers too late, or not at all.
    pub(super) fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.link = None;
        }
    }

    /// What an error on this connection means; a lost connection is not used again.
    pub(super) fn failed(&self, number: u64, source: RedisError, key: &str) -> StoreError {
        let failed = errors::error(source, key);
        if failed.leaves_connection {
            self.forget(number);
        }
        failed.error
    }
}
