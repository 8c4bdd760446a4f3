//! [`InTx`] and [`Open`]: a call in a database transaction of its caller's.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::run::refused;
use super::value::{decode, encode};
use crate::engine::{Begun, Call, Idempotency};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::transactions::{Connection, InTransaction, Next};

/// How a call begins in a transaction: [`Call::in_tx`](super::Call::in_tx).
#[derive(Debug)]
pub enum InTx<T> {
    /// The key is claimed in this transaction: do the work in it, then complete it, then commit.
    Run(Open<T>),
    /// Done before: its stored result.
    Replayed(T),
}

/// A claim in a transaction, until its result is stored there. Dropped without that, it is what the transaction makes of it: roll back,
/// and the key is free.
pub struct Open<T> {
    inner: Box<InTransaction>,
    fence: u64,
    result: PhantomData<fn(T) -> T>,
}

impl<T> std::fmt::Debug for Open<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("record", &self.inner.key().id())
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

impl<T> Open<T> {
    /// The key it claimed, with its scope.
    pub fn key(&self) -> &StorageKey {
        self.inner.key()
    }

    /// Its fencing number: greater than that of every attempt on this key before it.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// A key for a downstream call: the same for every attempt of this key, another for every `name`. 32 hexadecimal
    /// digits.
    pub fn derive(&self, name: &str) -> String {
        self.inner.key().derive(name)
    }

    /// Stores the result in the transaction, and gives it back. It counts when you commit.
    ///
    /// - `connection`: the one of [`Call::in_tx`](super::Call::in_tx), in the same transaction.
    ///
    /// # Errors
    /// Roll back after any: [`Error::Unstorable`] where the result has no stored form, [`Error::Store`] where the database fails or the
    /// transaction is another one.
    pub async fn complete(mut self, mut connection: impl Connection, result: T) -> Result<T, Error>
    where
        T: Serialize,
    {
        let stored = match encode(&result) {
            Ok(stored) => stored,
            Err(error) => {
                if let Ok(undo) = self.inner.undo() {
                    let _ = self.inner.drive(&mut connection, undo).await; // on Postgres it is to fail
                }
                return Err(Error::Unstorable(error));
            }
        };
        let first = self.inner.complete(stored).map_err(|error| setup(error.to_string()))?;
        let ended = self.inner.drive(&mut connection, first).await;
        if self.inner.is_gone() {
            return Err(
                setup("the transaction that the work began in has ended, or was rolled back to a savepoint").into()
            );
        }
        ended?;
        Ok(result)
    }

    /// Stores the result in the SQLite transaction, and gives it back. It counts when you commit.
    ///
    /// # Errors
    /// Roll back after any: [`Error::Unstorable`] where the result has no stored form, [`Error::Store`] where the database fails or the
    /// transaction is another one.
    #[cfg(feature = "sqlite")]
    pub fn complete_blocking(self, connection: &rusqlite::Connection, result: T) -> Result<T, Error>
    where
        T: Serialize,
    {
        now(self.complete(connection, result))
    }
}

/// Claims the key, or says why not.
pub(super) async fn begin<T: DeserializeOwned>(
    engine: &Idempotency,
    call: &Call,
    connection: &mut impl Connection,
) -> Result<InTx<T>, Error> {
    let mut inner = InTransaction::new(connection.dialect(), call, &engine.options());
    // An engine whose results are sealed stores none that is not.
    if let Some(form) = engine.form() {
        inner = inner.in_form(form);
    }
    let first = inner.begin(true).map_err(|error| setup(error.to_string()))?;
    match inner.drive(connection, first).await? {
        Next::Run { fence } => Ok(InTx::Run(Open { inner: Box::new(inner), fence, result: PhantomData })),
        Next::Held(Begun::Replay(stored)) => Ok(InTx::Replayed(decode(&stored)?)),
        Next::Held(begun) => Err(refused(begun)),
        Next::Stale => Err(Error::InFlight { retry_after: Duration::ZERO }),
        Next::Ask(_) | Next::Ended => Err(setup("the claim came to no end").into()),
    }
}

fn setup(words: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Setup, words)
}

/// What a future comes to that waits for nothing.
#[cfg(feature = "sqlite")]
pub(super) fn now<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => Err(setup("SQLite is not waited for").into()),
    }
}
