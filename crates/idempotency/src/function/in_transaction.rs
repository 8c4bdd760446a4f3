//! [`InTx`] and [`Open`]: a call in a database transaction of its caller's.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::run::refused;
use super::value::{decode, encode};
use crate::engine::{Begun, Call, Idempotency};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::transactions::{Connection, Dialect, InTransaction, Next, Outside};

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

/// How long a look waits before the next one; at first, and at the most.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

fn made(
    engine: &Idempotency,
    call: &Call,
    schema: Option<&str>,
    dialect: Dialect,
) -> Result<InTransaction, StoreError> {
    let mut made = InTransaction::new(dialect, call, &engine.options());
    // An engine whose results are sealed stores none that is not.
    if let Some(form) = engine.form() {
        made = made.in_form(form);
    }
    match schema {
        Some(schema) => made.in_schema(schema),
        None => Ok(made),
    }
}

/// Claims the key, or says why not.
pub(super) async fn begin<T: DeserializeOwned>(
    engine: &Idempotency,
    call: &Call,
    schema: Option<&str>,
    connection: &mut impl Connection,
) -> Result<InTx<T>, Error> {
    let mut inner = made(engine, call, schema, connection.dialect())?;
    let first = inner.begin(engine.has_found(inner.schema())).map_err(|error| setup(error.to_string()))?;
    let next = inner.drive(connection, first).await?;
    if connection.dialect() == Dialect::Postgres {
        engine.find(inner.schema());
    }
    match next {
        Next::Run { fence } => Ok(InTx::Run(Open { inner: Box::new(inner), fence, result: PhantomData })),
        Next::Held(Begun::Replay(stored)) => Ok(InTx::Replayed(decode(&stored)?)),
        Next::Held(begun) => Err(refused(begun)),
        Next::Stale => Err(Error::InFlight { retry_after: Duration::ZERO }),
        Next::Ask(_) | Next::Ended => Err(setup("the claim came to no end").into()),
    }
}

/// What stands under the key, before a transaction begins; waits while another one is at it.
pub(super) async fn look<T: DeserializeOwned>(
    engine: &Idempotency,
    call: &Call,
    schema: Option<&str>,
    mut connection: impl Outside,
) -> Result<Option<T>, Error> {
    let mut inner = made(engine, call, schema, Dialect::Postgres)?;
    let (until, mut pause) = (Instant::now() + engine.options().wait, POLL.0);
    loop {
        let look = inner.look_postgres();
        match inner.looked_postgres(connection.run(look).await?.as_deref())? {
            None => return Ok(None),
            Some(Begun::InFlight { .. }) if Instant::now() + pause <= until => {}
            Some(begun) => {
                inner.tell_held(&begun);
                return match begun {
                    Begun::Replay(stored) => Ok(Some(decode(&stored)?)),
                    begun => Err(refused(begun)),
                };
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(POLL.1);
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
