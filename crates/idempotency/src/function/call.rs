//! [`Call`]: one call of a function, put together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::attempt::{Attempt, Begun};
use super::blocking::runtime;
use super::canonical::canonical;
use super::error::{Error, ValueError};
use super::in_transaction::{self, InTx};
use super::run::{self, Done, Started, finish, start};
use crate::engine::{self, CurrentAttempt, Idempotency};
use crate::fingerprint::{Digest, Fingerprint};
use crate::key::{Key, KeyError, Operation, Scope};
use crate::transactions::{Connection, Outside};

/// One call of a function: [`Idempotency::call`].
#[derive(Debug)]
#[must_use = "a call does nothing until it is run"]
pub struct Call<'a> {
    engine: &'a Idempotency,
    scope: Scope<'a>,
    key: Key,
    fingerprint: Result<Fingerprint, ValueError>,
    schema: Option<&'a str>,
}

/// What payloads are digested for.
const DOMAIN: &str = "idempotency payload 1";

/// The fingerprint of a call without a payload.
static WITHOUT_PAYLOAD: LazyLock<Fingerprint> = LazyLock::new(|| Fingerprint(Digest::new(DOMAIN).finish()));

impl Fingerprint {
    /// Of a payload that serde can serialize, as [`Call::payload`] takes it: SHA-256 of its canonical form.
    ///
    /// # Errors
    /// Where the payload can't be told from others, as one with a NaN.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use idempotency::Fingerprint;
    /// let (one, other) = (HashMap::from([("a", 1), ("b", 2)]), HashMap::from([("b", 2), ("a", 1)]));
    /// assert_eq!(Fingerprint::of(&one), Fingerprint::of(&other));
    /// assert!(Fingerprint::of(&[0.5, f64::NAN]).unwrap_err().to_string().starts_with(".1 is not a finite number"));
    /// ```
    pub fn of<P: Serialize + ?Sized>(payload: &P) -> Result<Self, ValueError> {
        let mut form = Vec::with_capacity(256);
        canonical(payload, &mut form)?;
        Ok(Self(Digest::new(DOMAIN).part(&form).finish()))
    }
}

impl Idempotency {
    /// A call of the operation `operation` under `key`.
    ///
    /// - `operation`: the name of what is done, in this application; keys of another operation are other keys. Keep it when
    ///   the function is renamed.
    /// - `key`: what tells this call from others, the same in every repeat: 1 to 255 characters.
    ///
    /// # Errors
    /// [`KeyError`] if the key is empty or longer than 255 characters.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use idempotency::{Done, Idempotency, stores::MemoryStore};
    ///
    /// let payments = Idempotency::new(MemoryStore::new());
    /// let charge = async |_| Ok::<_, std::io::Error>(42);
    /// assert_eq!(payments.call("charge", "order-7")?.payload(&"42 EUR").run(charge).await?, Done::Ran(42));
    /// assert_eq!(payments.call("charge", "order-7")?.payload(&"42 EUR").run(charge).await?, Done::Replayed(42));
    /// assert!(payments.call("charge", "").is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn call<'a, K>(&'a self, operation: &'a str, key: K) -> Result<Call<'a>, KeyError>
    where
        K: TryInto<Key>,
        KeyError: From<K::Error>,
    {
        let scope = Scope { namespace: "", operation: Operation::Call(operation), caller: None };
        Ok(Call { engine: self, scope, key: key.try_into()?, fingerprint: Ok(*WITHOUT_PAYLOAD), schema: None })
    }

    /// Waits, on a thread without a runtime, until every completion and release in the background has ended, but not
    /// longer than `limit`. Returns whether all have ended. A program that uses [`Call::run_blocking`] calls it at its
    /// end.
    ///
    /// # Errors
    /// [`Error::InRuntime`] on a thread of a Tokio runtime, where there is [`Idempotency::drain`].
    pub fn drain_blocking(&self, limit: Duration) -> Result<bool, Error> {
        Ok(runtime()?.block_on(self.drain(limit)))
    }
}

impl<'a> Call<'a> {
    /// What is asked for. A repeat with another payload is [`Error::Conflict`]; without a payload every repeat is the same
    /// request.
    ///
    /// Two payloads are the same if serde serializes them to the same values. The order of fields and of a map's
    /// entries does not matter. The order of a sequence does: take a `BTreeSet` rather than a `HashSet`. If a type gets
    /// a new field that serde does not skip, its values differ from those before.
    ///
    /// A payload that can't be told from others (a NaN, `Some(None)`) is [`Error::Payload`] when the call is run.
    pub fn payload<P: Serialize + ?Sized>(self, payload: &P) -> Self {
        Self { fingerprint: Fingerprint::of(payload), ..self }
    }

    /// Takes a fingerprint of your own instead of a payload, for example one that a program in another language makes
    /// too.
    pub fn fingerprint(self, fingerprint: Fingerprint) -> Self {
        Self { fingerprint: Ok(fingerprint), ..self }
    }

    /// Who calls: the same key from another caller is another key. Without it the key belongs to nobody, and whoever
    /// knows it gets the result.
    pub fn scope<C: AsRef<[u8]> + ?Sized>(mut self, caller: &'a C) -> Self {
        self.scope.caller = Some(caller.as_ref());
        self
    }

    /// Keeps applications apart that share a store.
    pub fn namespace(mut self, namespace: &'a str) -> Self {
        self.scope.namespace = namespace;
        self
    }

    /// In which schema of Postgres the table and the functions are, for [`Call::in_tx`] and [`Call::look`]; by default `idempotency`, as
    /// `PostgresOptions::schema` says it for the store. 1 to 63 letters, digits and underscores; another name is [`Error::Store`] there.
    pub fn schema(mut self, schema: &'a str) -> Self {
        self.schema = Some(schema);
        self
    }

    fn prepared<E>(&self) -> Result<engine::Call, Error<E>> {
        let fingerprint = self.fingerprint.clone().map_err(Error::Payload)?;
        Ok(engine::Call::new(&self.scope, &self.key, fingerprint))
    }

    /// Runs `work` once for the key; a repeat gets its stored result.
    ///
    /// An error of the work releases the key, and so does a panic; under [`AfterCrash::Refuse`](crate::AfterCrash::Refuse)
    /// they leave it unknown. A result that can't be stored goes to its caller, and repeats are told
    /// [`Error::NotKept`].
    ///
    /// **Dropping the future half-way is not a failure.** It holds the key: whether the work had its effect is not known.
    /// Repeats meet [`Error::InFlight`] until its lease lapses, and then the crash policy decides. Where callers leave, as
    /// clients of a web server do, take [`Call::spawn`].
    ///
    /// # Errors
    /// [`Error`] says whether the work failed, or why it did not run.
    pub async fn run<T, E>(self, work: impl AsyncFnOnce(CurrentAttempt) -> Result<T, E>) -> Result<Done<T>, Error<E>>
    where
        T: Serialize + DeserializeOwned,
    {
        run::run(self.engine, &self.prepared()?, work).await
    }

    /// Runs `work` as [`Call::run`] does, but in a task of its own: it goes on if the handle is dropped. If its runtime
    /// ends first, the task is dropped half-way, and the key is held.
    ///
    /// # Errors
    /// The handle's own: the work panicked, or its runtime has ended. Within, an [`Error`] as of [`Call::run`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime, as `tokio::spawn` does.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use idempotency::{Idempotency, stores::MemoryStore};
    ///
    /// let payments = Idempotency::new(MemoryStore::new());
    /// let order = "42 EUR".to_owned();
    /// let charging = payments.call("charge", "order-7")?.spawn(async move |_| Ok::<_, std::io::Error>(order.len()));
    /// assert_eq!(charging.await??.into_inner(), 6);
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn spawn<T, E, F>(
        self,
        work: impl FnOnce(CurrentAttempt) -> F + Send + 'static,
    ) -> JoinHandle<Result<Done<T>, Error<E>>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
    {
        let (engine, call) = (self.engine.clone(), self.prepared());
        tokio::spawn(async move { run::run(&engine, &call?, async move |attempt| work(attempt).await).await })
    }

    /// Runs `work`, a plain function, on this thread, which has no runtime. Leases are renewed by a thread of the process
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::InRuntime`] on a thread of a Tokio runtime; otherwise as of [`Call::run`].
    ///
    /// ```
    /// use idempotency::{Done, Idempotency, stores::MemoryStore};
    ///
    /// let payments = Idempotency::new(MemoryStore::new());
    /// let charge = |_| Ok::<_, std::io::Error>(42);
    /// assert_eq!(payments.call("charge", "order-7")?.run_blocking(charge)?, Done::Ran(42));
    /// assert_eq!(payments.call("charge", "order-7")?.run_blocking(charge)?, Done::Replayed(42));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_blocking<T, E>(self, work: impl FnOnce(CurrentAttempt) -> Result<T, E>) -> Result<Done<T>, Error<E>>
    where
        T: Serialize + DeserializeOwned,
    {
        let (runtime, call) = (runtime()?, self.prepared()?);
        match runtime.block_on(start(self.engine, &call))? {
            Started::Replayed(result) => Ok(Done::Replayed(result)),
            Started::Run(attempt) => {
                // Outside of the runtime: the work may block, and may call another function that is protected.
                let current = attempt.current();
                // What it leaves half done is seen by nobody: the panic goes on.
                let ended = catch_unwind(AssertUnwindSafe(|| work(current)));
                runtime.block_on(finish(attempt, ended))
            }
        }
    }

    /// Claims the key for work of your own: you end it with the [`Attempt`] that this returns. The work counts as begun
    /// from here on.
    ///
    /// # Errors
    /// [`Error`] says why nothing may run; another attempt that runs is [`Begun::InFlight`].
    pub async fn begin<T: DeserializeOwned>(self) -> Result<Begun<T>, Error> {
        match start(self.engine, &self.prepared()?).await {
            Ok(Started::Run(attempt)) => Ok(Begun::Run(Attempt::new(attempt))),
            Ok(Started::Replayed(result)) => Ok(Begun::Replayed(result)),
            Err(Error::InFlight { retry_after }) => Ok(Begun::InFlight { retry_after }),
            Err(error) => Err(error),
        }
    }

    /// Claims the key in your database transaction: what you write there and its record commit or roll back as one.
    ///
    /// You begin the transaction and you commit it. A crash at any moment leaves both or neither. The tables must be there:
    /// `stores::postgres_schema`, [`SQLITE_TABLES`](crate::transactions::SQLITE_TABLES). The first call of an engine in a schema looks for
    /// them, because a statement that fails would take your transaction with it. A key that is claimed in this transaction and not
    /// completed is [`Error::Unknown`] to a second call in it. Of the options `ttl` counts; nothing is waited for: there is
    /// [`Call::look`], before you begin.
    ///
    /// - `connection`: a `&tokio_postgres::Transaction` (feature `postgres`), a `&mut sqlx::Transaction<'_, Postgres>` (feature `sqlx`), or
    ///   whatever else is a
    ///   [`Connection`](crate::transactions::Connection). For SQLite there is `in_tx_blocking`.
    ///
    /// # Errors
    /// [`Error`] says why nothing may run. [`Error::InFlight`] with a `retry_after` of zero: the first was done after this transaction
    /// began, and its isolation level does not see that; a new transaction does.
    ///
    /// ```
    /// # #[cfg(feature = "postgres")] {
    /// use idempotency::{Error, Idempotency, function::InTx};
    /// use tokio_postgres::Client;
    ///
    /// # type Failure = Box<dyn std::error::Error>;
    /// async fn transfer(idem: &Idempotency, client: &mut Client, key: &str, amount: i64) -> Result<String, Failure> {
    ///     let tx = client.transaction().await?;
    ///     match idem.call("transfer", key)?.payload(&amount).in_tx(&tx).await? {
    ///         InTx::Replayed(receipt) => Ok(receipt),
    ///         InTx::Run(open) => {
    ///             tx.execute("UPDATE accounts SET balance = balance - $1", &[&amount]).await?;
    ///             let receipt = open.complete(&tx, format!("{amount} sent")).await?;
    ///             tx.commit().await?;
    ///             Ok(receipt)
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn in_tx<T: DeserializeOwned>(self, mut connection: impl Connection) -> Result<InTx<T>, Error> {
        in_transaction::begin(self.engine, &self.prepared()?, self.schema, &mut connection).await
    }

    /// Looks before your transaction begins: the stored result, which needs no transaction, or `None`: begin one, and call
    /// [`Call::in_tx`] with the same key. It claims nothing.
    ///
    /// While another transaction or call is at the key it waits, up to `wait` of the [`Options`](crate::Options), and looks again with
    /// pauses of 10 to 200 ms. In a transaction you would wait with an old snapshot and with locks.
    ///
    /// - `connection`: a `&tokio_postgres::Client` (feature `postgres`), a `&sqlx::PgPool` (feature `sqlx`), or whatever else is
    ///   [`Outside`](crate::transactions::Outside) of a transaction. SQLite's own busy timeout waits there.
    ///
    /// # Errors
    /// [`Error`] says why nothing may run; [`Error::InFlight`] after the wait.
    ///
    /// ```
    /// # #[cfg(feature = "postgres")] {
    /// use idempotency::{Idempotency, function::InTx};
    ///
    /// # type Failure = Box<dyn std::error::Error>;
    /// async fn transfer(idem: &Idempotency, client: &mut tokio_postgres::Client, key: &str) -> Result<String, Failure> {
    ///     if let Some(receipt) = idem.call("transfer", key)?.look(&*client).await? {
    ///         return Ok(receipt);
    ///     }
    ///     let tx = client.transaction().await?;
    ///     match idem.call("transfer", key)?.in_tx(&tx).await? {
    ///         InTx::Replayed(receipt) => Ok(receipt), // done in between
    ///         InTx::Run(open) => {
    ///             let receipt = open.complete(&tx, "sent".to_owned()).await?;
    ///             tx.commit().await?;
    ///             Ok(receipt)
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn look<T: DeserializeOwned>(self, connection: impl Outside) -> Result<Option<T>, Error> {
        in_transaction::look(self.engine, &self.prepared()?, self.schema, connection).await
    }

    /// Claims the key in your SQLite transaction, as [`Call::in_tx`] does on Postgres.
    ///
    /// # Errors
    /// [`Error`] says why nothing may run; [`Error::Store`] where the connection is in no transaction.
    ///
    /// ```
    /// use idempotency::function::InTx;
    /// use idempotency::{Idempotency, stores::MemoryStore, transactions};
    ///
    /// let idem = Idempotency::new(MemoryStore::new()); // for calls outside of a transaction
    /// let mut shop = rusqlite::Connection::open_in_memory()?;
    /// shop.execute_batch(transactions::SQLITE_TABLES)?;
    /// shop.execute_batch("CREATE TABLE orders (item TEXT)")?;
    /// for _ in 1..=2 {
    ///     let tx = shop.transaction()?;
    ///     let placed: u32 = match idem.call("order", "order-7")?.payload(&"tea").in_tx_blocking(&tx)? {
    ///         InTx::Replayed(before) => before,
    ///         InTx::Run(open) => {
    ///             tx.execute("INSERT INTO orders VALUES ('tea')", [])?;
    ///             open.complete_blocking(&tx, 1)?
    ///         }
    ///     };
    ///     tx.commit()?;
    ///     assert_eq!(placed, 1);
    /// }
    /// assert_eq!(shop.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, u32>(0))?, 1);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "sqlite")]
    pub fn in_tx_blocking<T: DeserializeOwned>(self, connection: &rusqlite::Connection) -> Result<InTx<T>, Error> {
        in_transaction::now(self.in_tx(connection))
    }

    /// [`Call::begin`] on a thread without a runtime. End the work with [`Attempt::complete_blocking`],
    /// [`Attempt::fail_blocking`] or [`Attempt::release_blocking`]. Leases are renewed by a thread of the process meanwhile.
    ///
    /// # Errors
    /// [`Error::InRuntime`] on a thread of a Tokio runtime; otherwise as of [`Call::begin`].
    ///
    /// ```
    /// use idempotency::{Begun, Idempotency, stores::MemoryStore};
    ///
    /// let consumer = Idempotency::new(MemoryStore::new());
    /// for delivery in 1..=2 {
    ///     let handled: u32 = match consumer.call("webhook", "event-7")?.begin_blocking()? {
    ///         Begun::Run(attempt) => attempt.complete_blocking(delivery)?,
    ///         Begun::Replayed(before) => before,
    ///         Begun::InFlight { retry_after } => panic!("ask for it again in {retry_after:?}"),
    ///     };
    ///     assert_eq!(handled, 1);
    /// }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn begin_blocking<T: DeserializeOwned>(self) -> Result<Begun<T>, Error> {
        runtime()?.block_on(self.begin())
    }
}
