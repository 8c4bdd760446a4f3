//! Hints that a key changed, over one connection that listens, opened when somebody first waits.
//!
//! Who waits holds a lock on the key that others who wait share. Who writes the record looks whether that lock is free,
//! in the same transaction, and sends a notification after its commit only where it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, watch};
use tokio::time::{sleep, timeout};

use super::PAUSES;
use super::channels::{Channels, payload};
use super::connect::{Connection, Opening, Which};
use super::errors::failed;
use super::pool::Pool;
use super::sql::Statements;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::store::Watch;
use crate::stores::shared_work::SharedWork;

/// How often to look where there are no hints.
const POLL: Duration = Duration::from_secs(1);

/// How often to look at a key whose record is being written for longer than a moment.
const SOON: Duration = Duration::from_millis(20);

/// The most keys that are listened for: each takes a place in the server's table of locks.
const MOST: usize = 1_000;

#[derive(Default)]
pub(super) struct Hints {
    listening: Arc<Listening>,
    opening: SharedWork,
}

type Listening = tokio::sync::Mutex<Option<Listener>>;
type Listener = (Connection, Arc<Channels>);

impl Hints {
    /// Starts to listen for a key. Where that fails, waiters look by themselves: hints are a help, not a need.
    pub(super) async fn watch(&self, pool: &Arc<Pool>, key: &StorageKey) -> Watch {
        if pool.options.listen.is_none() && pool.is_pooled() {
            return Watch { changed: None, poll: POLL };
        }
        let listen = async {
            for pause in PAUSES {
                if let Some(watch) = self.listen(pool, key).await? {
                    return Ok(watch);
                }
                sleep(pause).await;
            }
            Ok::<_, StoreError>(Watch { changed: None, poll: SOON }) // a transaction of the user's, which may take its time
        };
        match timeout(pool.options.time_limit, listen).await {
            Ok(Ok(watch)) => watch,
            Ok(Err(error)) => {
                tracing::debug!("no hints from the Postgres server, waiting by polling: {error}");
                Watch { changed: None, poll: POLL }
            }
            Err(_) => {
                // A connection that does not answer is not asked again.
                if let Ok(mut listening) = self.listening.try_lock() {
                    *listening = None;
                }
                Watch { changed: None, poll: POLL }
            }
        }
    }

    /// `None`: the key's record is being written.
    async fn listen(&self, pool: &Arc<Pool>, key: &StorageKey) -> Result<Option<Watch>, StoreError> {
        let listening = self.listening(pool).await?;
        let (connection, channels) = listening.as_ref().expect("opened");
        unwatch_the_deserted(connection, channels, &pool.statements).await;
        let payload = payload(key);
        if let Some((_, sender)) = channels.locked().get(&payload) {
            return Ok(Some(Watch { changed: Some(sender.subscribe()), poll: POLL }));
        }
        if channels.locked().len() >= MOST {
            return Ok(Some(Watch { changed: None, poll: POLL }));
        }
        // Before the lock is held: what is written from then on is told of.
        let changed = {
            let (sender, changed) = watch::channel(());
            channels.locked().insert(payload.clone(), (*key, sender));
            changed
        };
        let values: super::Parameters<'_> = super::parameters![&key.0[..] => BYTEA];
        let is_held = connection.rows(Which::Other, &pool.statements.watch, values).await;
        match is_held.map(|rows| rows.iter().any(|row| row.get("is_held"))) {
            Ok(true) => Ok(Some(Watch { changed: Some(changed), poll: POLL })),
            Ok(false) => {
                channels.locked().remove(&payload);
                Ok(None)
            }
            Err(source) => {
                channels.locked().remove(&payload);
                Err(failed(source, &pool.options.schema).error)
            }
        }
    }

    /// The connection that listens.
    async fn listening(&self, pool: &Arc<Pool>) -> Result<MutexGuard<'_, Option<Listener>>, StoreError> {
        loop {
            let mut listening = self.listening.lock().await;
            listening.take_if(|(connection, _)| connection.is_closed());
            if listening.is_some() {
                return Ok(listening);
            }
            drop(listening);
            let (place, pool) = (self.listening.clone(), pool.clone());
            let open = async move {
                let opened = open(&pool).await?;
                *place.lock().await = Some(opened);
                Ok(())
            };
            self.opening.join(|| open).await?;
        }
    }
}

async fn open(pool: &Pool) -> Result<Listener, StoreError> {
    let mut options = pool.options.clone();
    if let Some(address) = options.listen.take() {
        options.address = address;
    }
    let channels = Arc::<Channels>::default();
    let connection = Opening::listening(&options, &pool.statements, &channels).open().await?;
    connection.batch("LISTEN idempotency").await.map_err(|source| failed(source, &options.schema).error)?;
    Ok((connection, channels))
}

async fn unwatch_the_deserted(connection: &Connection, channels: &Channels, statements: &Statements) {
    let is_deserted = |_: &String, (_, sender): &mut (StorageKey, watch::Sender<()>)| sender.receiver_count() == 0;
    let deserted: Vec<_> = channels.locked().extract_if(is_deserted).map(|(_, (key, _))| key.0.to_vec()).collect();
    if !deserted.is_empty() {
        let values: super::Parameters<'_> = super::parameters![deserted => BYTEA_ARRAY];
        let _ = connection.rows(Which::Other, &statements.unwatch, values).await; // a lost connection has none left
    }
}
