//! The connections, opened as they are needed and again after they were lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_postgres::Row;

use super::connect::{Connection, For, Opening, Parameters, Which};
use super::errors::{Leaves, failed};
use super::options::PostgresOptions;
use super::sql::Statements;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::stores::shared_work::SharedWork;

pub(super) struct Pool {
    pub(super) options: PostgresOptions,
    pub(super) statements: Statements,
    open: Mutex<Vec<Arc<Connection>>>,
    /// The first connection, while there is none.
    opening: SharedWork,
    /// Another one is being opened in the background.
    grows: AtomicBool,
    /// A pooler was met.
    is_pooled: AtomicBool,
    /// Claims that nobody waits for any more, whose statements have ended when these are closed.
    unanswered: Mutex<HashMap<StorageKey, watch::Receiver<()>>>,
}

/// The most claims that are known to be unanswered. Each is released, which takes it out again.
const MOST_UNANSWERED: usize = 10_000;

impl Pool {
    pub(super) fn new(options: PostgresOptions) -> Result<Self, StoreError> {
        let statements = Statements::of(&options.schema)?;
        let (open, opening, grows, is_pooled, unanswered) = Default::default();
        Ok(Self { options, statements, open, opening, grows, is_pooled, unanswered })
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<StorageKey, watch::Receiver<()>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for a claim any more whose statement has ended when `ended` is closed.
    pub(super) fn leave_unanswered(&self, key: &StorageKey, ended: watch::Receiver<()>) {
        let mut unanswered = self.unanswered();
        if unanswered.len() < MOST_UNANSWERED {
            unanswered.insert(*key, ended);
        }
    }

    /// A connection for a release: it comes after the claim that nobody waited for.
    pub(super) async fn get_behind(self: &Arc<Self>, key: &StorageKey) -> Result<Arc<Connection>, StoreError> {
        let unanswered = self.unanswered().remove(key);
        if let Some(mut ended) = unanswered {
            let _closed = ended.changed().await;
        }
        self.get().await
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether connections go through a pooler, as far as is known.
    pub(super) fn is_pooled(&self) -> bool {
        self.options.pooler.unwrap_or_else(|| self.is_pooled.load(Ordering::Relaxed))
    }

    /// The connection that is used least, and whether there should be another one.
    fn idlest(&self) -> Option<(Arc<Connection>, bool)> {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.is_closed());
        let uses = |connection: &&Arc<Connection>| connection.uses.load(Ordering::Relaxed);
        let idlest = connections.iter().min_by_key(uses)?;
        Some((idlest.clone(), uses(&idlest) > 0 && connections.len() < self.options.connections))
    }

    pub(super) async fn get(self: &Arc<Self>) -> Result<Arc<Connection>, StoreError> {
        loop {
            if let Some((idlest, is_busy)) = self.idlest() {
                self.grow_if(is_busy);
                return Ok(idlest);
            }
            let pool = self.clone();
            let first = async move { if pool.idlest().is_some() { Ok(()) } else { pool.connect().await } };
            self.opening.join(|| first).await?;
        }
    }

    /// Opens another connection in the background.
    fn grow_if(self: &Arc<Self>, is_busy: bool) {
        if is_busy && !self.grows.swap(true, Ordering::Relaxed) {
            let pool = self.clone();
            tokio::spawn(async move {
                let _ = pool.connect().await; // whoever needs it meets the error
                pool.grows.store(false, Ordering::Relaxed);
            });
        }
    }

    async fn connect(&self) -> Result<(), StoreError> {
        let pooler = self.options.pooler.or(self.is_pooled.load(Ordering::Relaxed).then_some(true));
        let opening = Opening::new(&self.options, &self.statements, For::Operations { pooler });
        let connection = Arc::new(opening.open().await?);
        if connection.is_pooled() {
            self.is_pooled.store(true, Ordering::Relaxed);
        }
        self.connections().push(connection);
        Ok(())
    }

    /// This connection is not used again: it answers too late.
    pub(super) fn forget(&self, connection: &Arc<Connection>) {
        self.connections().retain(|known| !Arc::ptr_eq(known, connection));
    }

    /// Runs a statement.
    pub(super) async fn rows(
        &self,
        connection: &Connection,
        which: Which,
        sql: &str,
        values: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        connection.rows(which, sql, values).await.map_err(|source| {
            let failed = failed(source, &self.options.schema);
            if failed.leaves == Leaves::Prepared && self.options.pooler.is_none() {
                self.is_pooled.store(true, Ordering::Relaxed);
            }
            if failed.leaves != Leaves::Nothing {
                self.connections().clear(); // each goes when nobody waits for it any more
            }
            failed.error
        })
    }
}
