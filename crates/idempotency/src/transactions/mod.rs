//! Keys in the caller's own transaction: what was done and its record commit or roll back as one.
//!
//! There is no I/O here. [`InTransaction`] says which statement runs next on the caller's connection, and is told the row that came of
//! it. It never begins and never commits.
//!
//! ```
//! use idempotency::engine::Call;
//! use idempotency::transactions::{Dialect, InTransaction, Next, Value};
//! use idempotency::{Digest, Fingerprint, Key, Operation, Options, Scope};
//!
//! let scope = Scope { namespace: "", operation: Operation::Call("transfer"), caller: None };
//! let call = Call::new(&scope, &Key::new("t-1")?, Fingerprint(Digest::new("transfer").part(b"42 EUR").finish()));
//! let mut transfer = InTransaction::new(Dialect::Sqlite, &call, &Options::default());
//! let look = transfer.begin(true)?;
//! assert_eq!((&*look.sql, look.values.len()), ("SELECT record FROM idempotency_results WHERE key = $1", 1));
//! let Next::Ask(lock) = transfer.told(None)? else { panic!("nothing stands under the key") };
//! assert!(lock.sql.starts_with("UPDATE idempotency_clock"));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod postgres;
mod sqlite;
mod telling;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::micros;
use crate::decide::{Claim, Claiming, Decision, Held, Request, claim, decide};
use crate::engine::{Begun, Call, Options};
use crate::error::{StoreError, StoreErrorKind};
use crate::form::RecordForm;
use crate::key::{Label, StorageKey};
use crate::record::{AfterCrash, Micros, Record, State, Token};
use crate::result_tags::is_sealed;
use crate::schema;

pub use connection::{Connection, Outside};

/// What the connection is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// SQLite 3.24 and later.
    Sqlite,
    /// Postgres 13 and later, with the table and the functions of the Postgres store.
    Postgres,
}

/// The SQL that makes the tables on SQLite, if they are not there. On Postgres there is `stores::postgres_schema`.
pub const SQLITE_TABLES: &str = include_str!("sqlite/schema.sql");

/// A value that a statement is given, or that stands in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Int(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Text.
    Text(String),
}

impl Value {
    fn time(micros: Micros) -> Self {
        Self::Int(micros.try_into().unwrap_or(i64::MAX))
    }
}

/// A statement for the caller's connection. It returns one row or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its text. `$1` stands for the first value; each stands there once, in order.
    pub sql: Cow<'static, str>,
    /// Its values.
    pub values: Vec<Value>,
}

impl Statement {
    fn new(sql: impl Into<Cow<'static, str>>, values: impl Into<Vec<Value>>) -> Self {
        let sql = match sql.into() {
            Cow::Borrowed(sql) => Cow::Borrowed(sql.trim_end()),
            owned => owned,
        };
        Self { sql, values: values.into() }
    }
}

/// What comes next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Next {
    /// Run this statement, and tell its row.
    Ask(Statement),
    /// Do the work, then [`InTransaction::complete`].
    Run {
        /// The attempt's fencing number.
        fence: u64,
    },
    /// The work must not be done. It is never [`Begun::Run`].
    Held(Begun),
    /// The work must not be done in this transaction: its isolation level can't see what was stored after it began. A new one can.
    Stale,
    /// Nothing more: the result is written, and counts when the transaction commits, unless [`InTransaction::is_gone`]; or the work is
    /// undone.
    Ended,
}

/// Something was told or asked that this attempt does not wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutOfTurn {
    /// It was begun before.
    #[error("it was begun before; make another one")]
    Begun,
    /// It was completed before.
    #[error("it was completed before: a result is stored once")]
    Completed,
    /// The work must not be done, or is not yet to be done.
    #[error("there is nothing to complete: the work was not begun")]
    NotRunning,
}

/// Where it stands: what it waits to be told.
#[derive(Debug)]
enum At {
    Start,
    Sqlite(sqlite::At),
    Postgres(postgres::At),
    Running,
    End,
}

/// One key in one transaction of the caller's.
///
/// Call [`InTransaction::begin`], run the statement, tell its row, until the answer is no statement any more. After the work the
/// statements of [`InTransaction::complete`] run. An error of a statement ends it: nothing is left to be told.
#[derive(Debug)]
pub struct InTransaction {
    key: StorageKey,
    label: Label,
    /// What the record stands under: the key, or what a form makes of it.
    name: StorageKey,
    form: Option<Arc<dyn RecordForm>>,
    /// Its record is seen by others only where the caller commits before the end: then nobody knows whether the work is done.
    claim: Claim,
    /// What is asked for.
    request: Request,
    /// How long the work is expected to take, for those who meet it.
    lease: Micros,
    at: At,
    dialect: Dialect,
    /// Of the table, on Postgres.
    schema: Cow<'static, str>,
    /// When the transaction of the claim began, by the database's clock.
    began: i64,
    has_ended: bool,
    is_gone: bool,
    /// Since when the work runs.
    ran: Option<Instant>,
}

impl InTransaction {
    /// A call, for a connection of this dialect. Of the options `ttl`, `lease` and `after_crash` count.
    pub fn new(dialect: Dialect, call: &Call, options: &Options) -> Self {
        let record = Record {
            state: State::InFlight,
            after_crash: AfterCrash::Refuse,
            token: Token::random(),
            fence: 0,
            lease: 1,
            ttl: micros(options.ttl),
            fingerprint: call.fingerprint,
            label: call.label.words().clone(),
            result: Arc::default(),
        };
        let request = Request { fingerprint: call.fingerprint, token: record.token, after_crash: options.after_crash };
        let (claim, lease) = (Claim { record, takes_over: None }, micros(options.lease_or_default()));
        Self {
            key: call.key,
            label: call.label.clone(),
            name: call.key,
            form: None,
            claim,
            request,
            lease,
            at: At::Start,
            dialect,
            schema: Cow::Borrowed(schema::SCHEMA),
            began: 0,
            has_ended: false,
            is_gone: false,
            ran: None,
        }
    }

    /// Writes its record in a form, and reads what stands there by it: that of the store whose keys these are
    /// ([`Idempotency::form`](crate::Idempotency::form)).
    pub fn in_form(mut self, form: Arc<dyn RecordForm>) -> Self {
        self.name = form.name(&self.key);
        self.form = Some(form);
        self
    }

    /// With the table and the functions in another schema of Postgres than `idempotency`, as `PostgresOptions::schema` says it for the
    /// store. On SQLite it means nothing.
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] where the name is not 1 to 63 letters, digits and underscores.
    ///
    /// ```
    /// # use idempotency::engine::Call;
    /// # use idempotency::transactions::{Dialect, InTransaction};
    /// # use idempotency::{Digest, Fingerprint, Key, Operation, Options, Scope};
    /// # let scope = Scope { namespace: "", operation: Operation::Call("transfer"), caller: None };
    /// # let call = Call::new(&scope, &Key::new("t-1")?, Fingerprint(Digest::new("transfer").finish()));
    /// let transfer = InTransaction::new(Dialect::Postgres, &call, &Options::default());
    /// let claim = transfer.in_schema("shop")?.begin(true)?;
    /// assert!(claim.sql.contains("\"shop\".claim_in_transaction($1, $2, $3, $4, $5)"));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_schema(mut self, name: &str) -> Result<Self, StoreError> {
        schema::check(name)?;
        self.schema = Cow::Owned(name.to_owned());
        Ok(self)
    }

    /// The first statement.
    ///
    /// `is_ready` says that this connection has found the tables before. On Postgres, where a statement that fails takes the transaction
    /// with it, they are looked for otherwise.
    ///
    /// # Errors
    /// Where it was begun before.
    pub fn begin(&mut self, is_ready: bool) -> Result<Statement, OutOfTurn> {
        match self.at {
            At::Start => Ok(match self.dialect {
                Dialect::Sqlite => self.look_sqlite(),
                Dialect::Postgres if is_ready => self.claim_postgres(None),
                Dialect::Postgres => self.check_postgres(),
            }),
            _ => Err(OutOfTurn::Begun),
        }
    }

    /// What comes after a statement, by its row, if it returned one.
    ///
    /// # Errors
    /// Where what stands under the key is not ours, or the tables are not as they must be.
    pub fn told(&mut self, row: Option<&[Value]>) -> Result<Next, StoreError> {
        let next = self.next(row);
        self.tell_next(&next);
        next
    }

    fn next(&mut self, row: Option<&[Value]>) -> Result<Next, StoreError> {
        match std::mem::replace(&mut self.at, At::End) {
            At::Sqlite(at) => self.told_sqlite(at, row),
            At::Postgres(at) => self.told_postgres(at, row),
            at => {
                self.at = at;
                Err(StoreError::new(StoreErrorKind::Setup, "no statement was asked for"))
            }
        }
    }

    /// Stores the result: the first statement for that.
    ///
    /// # Errors
    /// Where the work has not begun, or was completed before.
    pub fn complete(&mut self, result: Arc<[u8]>) -> Result<Statement, OutOfTurn> {
        self.end()?;
        self.claim.record.state = State::Completed;
        self.claim.record.result = result;
        Ok(match self.dialect {
            Dialect::Sqlite => self.release_sqlite(),
            Dialect::Postgres => self.complete_postgres(),
        })
    }

    /// Undoes the work, whose result can't be stored: the statement for that.
    ///
    /// # Errors
    /// Where the work has not begun, or was completed.
    pub fn undo(&mut self) -> Result<Statement, OutOfTurn> {
        self.end()?;
        Ok(match self.dialect {
            Dialect::Sqlite => self.undo_sqlite(),
            Dialect::Postgres => self.refuse_postgres(),
        })
    }

    fn end(&mut self) -> Result<(), OutOfTurn> {
        match self.at {
            At::Running => {
                self.has_ended = true;
                Ok(())
            }
            _ if self.has_ended => Err(OutOfTurn::Completed),
            _ => Err(OutOfTurn::NotRunning),
        }
    }

    /// Whether it was found at the end that the transaction of the work had ended, or that its claim was undone: roll back what there is.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// The schema of Postgres that the table is in.
    #[cfg(feature = "functions")]
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// The key that it is about.
    pub fn key(&self) -> &StorageKey {
        &self.key
    }

    fn lease(&self) -> Duration {
        Duration::from_micros(self.lease)
    }

    /// The record, as it is written.
    fn written(&self) -> Cow<'_, Record> {
        let record = &self.claim.record;
        self.form.as_ref().map_or(Cow::Borrowed(record), |form| Cow::Owned(form.written(&self.key, record)))
    }

    /// A record that was written.
    fn read(&self, record: Record) -> Result<Record, StoreError> {
        match &self.form {
            Some(form) => form.read(&self.key, record),
            None if is_sealed(&record.result) => Err(StoreError::sealed(self.key)),
            None => Ok(record),
        }
    }

    /// What is decided over what stands under the key, by this clock of the store's. `None`: to run; the record is claimed.
    fn decided(&mut self, held: Option<Held>, now: Micros) -> Option<Begun> {
        let decision = decide(held.as_ref(), &self.request, now);
        if decision == Decision::Run {
            self.claim.takes_over = held.as_ref().map(|held| held.record.clone());
        }
        match claim(held, &self.claim, now, now) {
            Claiming::Write(record) => {
                self.claim.record = record;
                None
            }
            Claiming::Stands(held) => Some(Begun::held(held.record, decision)),
        }
    }

    fn run(&mut self) -> Next {
        self.at = At::Running;
        Next::Run { fence: self.claim.record.fence }
    }
}

/// A row that is not as our statements return it.
fn unexpected() -> StoreError {
    StoreError::new(
        StoreErrorKind::Setup,
        "the tables of the idempotency keys are not as this library makes them: make them again, by create_table()",
    )
}
