//! [`PostgresStore`]: records in PostgreSQL 13 or later.

mod channels;
mod connect;
mod errors;
mod gathering;
mod hints;
mod list;
mod options;
mod pool;
mod sql;
#[cfg(feature = "postgres-tls")]
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::Row;

use crate::decide::{Claim, Held, Resolution};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record, RecordError, Token};
use crate::schema::VERSION;
use crate::store::{Claimed, Completed, Health, Listing, Page, Reply, Store, Watch};
use crate::stores::anchor::Anchor;

use connect::{Connection, For, Opening, Parameters, Which};
use gathering::{Gathering, Step};
use hints::Hints;
pub use options::{PostgresOptions, PostgresTls};
use pool::Pool;
pub use sql::postgres_schema;

/// Records in PostgreSQL 13 or later: one row per record, one function call per operation, and the server's clock.
///
/// The table and the functions are made by [`PostgresStore::create_table`], or by a migration with the SQL of
/// [`postgres_schema`]; never by themselves. Each operation is one round trip and one transaction, which claims share with
/// claims, and completions with completions, that come while others are under way. A few connections are shared by all
/// operations; behind a pooler that changes connections between transactions, as PgBouncer may, nothing
/// is prepared. A connection to a server that has become a standby is dropped.
///
/// As durable as the server is set up to be: with `synchronous_commit = off`, or after a failover to a standby that
/// replicates asynchronously, what was acknowledged last may be lost, and a lost record is a second run.
///
/// ```no_run
/// use idempotency::stores::PostgresStore;
/// # async fn once() -> Result<(), idempotency::StoreError> {
/// let store = PostgresStore::open("postgresql://app:secret@localhost/shop")?;
/// store.create_table().await?; // once, by whoever owns the database
/// # Ok(())
/// # }
/// ```
pub struct PostgresStore {
    pool: Arc<Pool>,
    hints: Hints,
    anchor: Arc<Anchor>,
    claims: Arc<Gathering>,
    completions: Arc<Gathering>,
}

// Without the address, which has a password.
impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("schema", &self.pool.options.schema)
            .field("time_limit", &self.pool.options.time_limit)
            .finish_non_exhaustive()
    }
}

/// How long to wait before another transaction at the same key is met again. It is over at once where it is a claim or a
/// completion; it may last where it is one of the user's, which has the key's record in it.
const PAUSES: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(8), Duration::from_millis(30)];

/// The most bytes of a record. A value in a row has at most 1 GB, and so has a message with all its values.
const LARGEST: usize = 1_000_000_000;

/// How many expired records one transaction removes.
const PURGED: i32 = 2_000;

/// The values of a statement, each with its type.
macro_rules! parameters {
    ($($value:expr => $type:ident),* $(,)?) => {
        &[$((&$value as &(dyn tokio_postgres::types::ToSql + Sync), tokio_postgres::types::Type::$type)),*]
    };
}

use parameters;

/// SQL's integers are signed, and times are added to the clock there.
fn bounded(micros: Micros) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX).min(1 << 61)
}

fn life(record: &Record) -> i64 {
    bounded(record.ttl.max(record.lease)).max(1)
}

fn busy(what: &str) -> StoreError {
    let message = format!("another transaction holds the key in the Postgres server: {what}");
    StoreError::new(StoreErrorKind::Busy, message)
}

fn unexpected(row: &Row) -> StoreError {
    let message = format!("the Postgres server answered something else than its function says: {row:?}");
    StoreError::new(StoreErrorKind::Unknown, message)
}

impl PostgresStore {
    /// The store at a URL, as [`PostgresOptions::from_url`] reads it. Does no I/O.
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] for a URL that can't be read.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::with_options(PostgresOptions::from_url(url)?)
    }

    /// Opens a store with options. Does no I/O.
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] for a schema's name that is not letters, digits and underscores.
    pub fn with_options(options: PostgresOptions) -> Result<Self, StoreError> {
        let (hints, anchor) = Default::default();
        let (claims, completions) = (Gathering::of(Which::Claim), Gathering::of(Which::Complete));
        Ok(Self { pool: Arc::new(Pool::new(options)?), hints, anchor, claims, completions })
    }

    /// Makes what the store needs in the database, where it is not there or is of an earlier version: a schema, a table
    /// and functions. Records stay. The user must be allowed to: to create a schema in the database, or to own what is
    /// there.
    ///
    /// # Errors
    /// What the server says; [`StoreErrorKind::Setup`] where the user is not allowed to.
    pub async fn create_table(&self) -> Result<(), StoreError> {
        let options = &self.pool.options;
        let connection = self.upkeep().await?;
        let made = connection.rows(Which::Other, &self.pool.statements.version, &[]).await;
        // A later version has added to what this one knows.
        if made.is_ok_and(|rows| rows.iter().any(|row| row.get::<_, i32>(0) >= VERSION)) {
            return Ok(());
        }
        let sql = postgres_schema(&options.schema)?;
        connection.batch(&sql).await.map_err(|source| errors::not_made(source, &options.schema))
    }

    /// A connection of its own, for what takes its time.
    async fn upkeep(&self) -> Result<Connection, StoreError> {
        Opening::new(&self.pool.options, &self.pool.statements, For::Upkeep).open().await
    }

    async fn run(&self, key: &StorageKey, which: Which, sql: &str, values: Parameters<'_>) -> Result<Row, StoreError> {
        let limit = self.pool.options.time_limit;
        self.anchor.hold(limit);
        let mut used = None;
        let work = async {
            let connection = used.insert(match which {
                Which::Release => self.pool.get_behind(key).await?,
                _ => self.pool.get().await?,
            });
            let rows = self.pool.rows(connection, which, sql, values).await?;
            rows.into_iter().next().ok_or_else(|| StoreError::new(StoreErrorKind::Unknown, "a function has no answer"))
        };
        let answer = timeout(limit, work).await;
        match (answer, used) {
            (Ok(answer), _) => answer,
            (Err(_), Some(connection)) => {
                self.pool.forget(&connection);
                Err(errors::timed_out(limit))
            }
            (Err(_), None) => Err(errors::not_connected_within(limit)),
        }
    }

    async fn run_freely(
        &self,
        key: &StorageKey,
        which: Which,
        sql: &str,
        values: Parameters<'_>,
    ) -> Result<Row, StoreError> {
        freely(|| self.run(key, which, sql, values)).await
    }

    async fn gathered(&self, gathering: &Arc<Gathering>, step: Step) -> Result<Row, StoreError> {
        let step = Arc::new(step);
        freely(|| {
            self.anchor.hold(self.pool.options.time_limit);
            gathering.ask(&self.pool, &step)
        })
        .await
    }

    /// The record in a row.
    fn held(&self, key: &StorageKey, row: &Row) -> Result<Option<(Held, Micros)>, StoreError> {
        let Some(record) = row.get::<_, Option<&[u8]>>("held") else { return Ok(None) };
        let record = self.decoded(key, Record::decode(record))?;
        let lease_end = row.get::<_, i64>("held_lease_end").unsigned_abs();
        Ok(Some((Held { record, lease_end }, now(row))))
    }

    fn decoded(&self, key: &StorageKey, read: Result<Record, RecordError>) -> Result<Record, StoreError> {
        let name = || format!("{key} in {}.records", self.pool.options.schema);
        read.map_err(|error| StoreError::foreign(name(), error))
    }

    /// Tells who waits for a key, after its record was written. A hint: it may be lost.
    fn tell(&self, key: &StorageKey) {
        let (pool, key) = (self.pool.clone(), *key);
        tokio::spawn(async move {
            let tell = async {
                let connection = pool.get().await?;
                pool.rows(&connection, Which::Other, &pool.statements.tell, parameters![&key.0[..] => BYTEA]).await
            };
            if let Ok(Err(error)) = timeout(pool.options.time_limit, tell).await {
                tracing::debug!("who waits for the record {} is not told: {error}", key.id());
            }
        });
    }

    /// Whether a step was taken; who waits for the key is told of it.
    fn is_done(&self, key: &StorageKey, row: &Row, what: &str) -> Result<bool, StoreError> {
        match row.get("outcome") {
            "done" => {
                if row.try_get("awaited").unwrap_or(false) {
                    self.tell(key);
                }
                Ok(true)
            }
            "refused" => Ok(false),
            "busy" => Err(busy(what)),
            _ => Err(unexpected(row)),
        }
    }
}

/// Runs an operation until no other transaction is at its key, or for as long as such ones last that are not the user's.
async fn freely<F>(ask: impl Fn() -> F) -> Result<Row, StoreError>
where
    F: Future<Output = Result<Row, StoreError>>,
{
    let mut pauses = PAUSES.iter();
    loop {
        let row = ask().await?;
        if !matches!(row.get("outcome"), "busy" | "stale") {
            return Ok(row);
        }
        match pauses.next() {
            Some(pause) => sleep(*pause).await,
            None => return Ok(row),
        }
    }
}

/// The server's clock.
fn now(row: &Row) -> Micros {
    row.get::<_, i64>("now").unsigned_abs()
}

/// What is told of a key that another transaction has, whose record nobody else can see yet: an attempt runs.
fn unseen(claim: &Claim, now: Micros) -> Claimed {
    let record = Record { token: Token([0; 16]), fence: 0, ..claim.record.clone() };
    Claimed::No { held: Held { lease_end: now.saturating_add(record.lease), record }, now }
}

impl Store for PostgresStore {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        Box::pin(async move {
            let (record, seen) = (claim.record.encode(), claim.takes_over.as_ref().map(Record::encode));
            let (lease, life) = (bounded(claim.record.lease), life(&claim.record));
            let step = Step { key: *key, bytes: [Some(record), seen], numbers: [lease, life] };
            let row = self.gathered(&self.claims, step).await?;
            match row.get("outcome") {
                "claimed" => Ok(Claimed::Yes { fence: row.get::<_, i64>("fence").unsigned_abs() }),
                "stands" => match self.held(key, &row)? {
                    Some((held, now)) => Ok(Claimed::No { held, now }),
                    None => Err(unexpected(&row)),
                },
                "busy" | "stale" => Ok(unseen(claim, now(&row))),
                _ => Err(unexpected(&row)),
            }
        })
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move {
            let (lease, life) = (bounded(attempt.lease), life(attempt));
            let values: Parameters<'_> = parameters![
                &key.0[..] => BYTEA, &attempt.token.0[..] => BYTEA, lease => INT8, life => INT8
            ];
            let row = self.run_freely(key, Which::Renew, &self.pool.statements.renew, values).await?;
            self.is_done(key, &row, "the lease is not renewed yet")
        })
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        Box::pin(async move {
            let encoded = record.encode();
            if encoded.len() > LARGEST {
                let message = format!("a result of {} bytes is more than a row in Postgres holds", encoded.len());
                return Err(StoreError::new(StoreErrorKind::TooLarge, message));
            }
            let (life, recreate_until) = (life(record), i64::try_from(recreate_until).unwrap_or(i64::MAX));
            let token = record.token.0.to_vec();
            let step = Step { key: *key, bytes: [Some(token), Some(encoded)], numbers: [life, recreate_until] };
            let row = self.gathered(&self.completions, step).await?;
            match row.get("outcome") {
                "stored" => {
                    if row.get("awaited") {
                        self.tell(key);
                    }
                    Ok(Completed::Stored)
                }
                "refused" => Ok(Completed::Refused(self.held(key, &row)?.map(|(held, _)| held))),
                "busy" => Err(busy("the result is not stored yet")),
                _ => Err(unexpected(&row)),
            }
        })
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move {
            let values: Parameters<'_> = parameters![&key.0[..] => BYTEA, &attempt.token.0[..] => BYTEA];
            let row = self.run_freely(key, Which::Release, &self.pool.statements.release, values).await?;
            self.is_done(key, &row, "the claim is not released yet")
        })
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        Box::pin(async move {
            let values: Parameters<'_> = parameters![&key.0[..] => BYTEA];
            self.held(key, &self.run(key, Which::Get, &self.pool.statements.get, values).await?)
        })
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        Box::pin(async move {
            let Resolution { fence, into, force } = resolution;
            let (fence, record) = (format!("{fence:016}").into_bytes(), into.as_ref().map(Record::encode));
            let life = into.as_ref().map_or(0, life);
            let values: Parameters<'_> = parameters![
                &key.0[..] => BYTEA, fence => BYTEA, record => BYTEA, life => INT8, force => BOOL
            ];
            let row = self.run_freely(key, Which::Other, &self.pool.statements.resolve, values).await?;
            self.is_done(key, &row, "nothing is resolved")
        })
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn time_limit(&self) -> Duration {
        self.pool.options.time_limit
    }

    /// One short transaction after another, each of so many records that nobody waits for it.
    fn purge(&self) -> Reply<'_, u64> {
        Box::pin(async move {
            let connection = self.upkeep().await?;
            let mut removed = 0;
            loop {
                let values: Parameters<'_> = parameters![PURGED => INT4];
                let rows = self.pool.rows(&connection, Which::Other, &self.pool.statements.purge, values).await?;
                let some: i64 = rows.first().map_or(0, |row| row.get("removed"));
                removed += some.unsigned_abs();
                if some < i64::from(PURGED) {
                    return Ok(removed);
                }
            }
        })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        Box::pin(self.page(listing))
    }

    fn health(&self) -> Reply<'_, Health> {
        Box::pin(self.look())
    }

    fn watch<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Watch> {
        Box::pin(async move { Ok(self.hints.watch(&self.pool, key).await) })
    }
}
