//! The database file: opening it, its clock, and the statements.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use crate::clock::wall_clock;
use crate::decide::Held;
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record};
use crate::store::Listed;

pub(super) struct File {
    connection: Connection,
    path: PathBuf,
    boot: String,
}

/// Marks a file as ours (`PRAGMA application_id`): "idm1".
const APPLICATION: i32 = i32::from_be_bytes(*b"idm1");

impl File {
    /// Opens the file, or makes it. Several processes may do so at once.
    pub(super) fn open(path: &Path, time_limit: Duration) -> Result<Self, StoreError> {
        let failed = |source: rusqlite::Error| {
            let message = format!("the SQLite store {} can't be opened: {source}", path.display());
            StoreError::new(StoreErrorKind::Setup, message).with_source(source)
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            let message =
                format!("the SQLite store {} can't be opened: there is no folder {}", path.display(), folder.display());
            return Err(StoreError::new(StoreErrorKind::Setup, message));
        }
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(time_limit).map_err(failed)?;
        // Two that make a file at once meet where SQLite does not wait by itself.
        let deadline = Instant::now() + time_limit;
        loop {
            match Self::prepare(&connection) {
                Ok(true) => break,
                Ok(false) => {
                    let message = format!(
                        "{} is another application's database; give the store a file of its own",
                        path.display()
                    );
                    return Err(StoreError::new(StoreErrorKind::Setup, message));
                }
                Err(source) if is_busy(&source) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(Self { connection, path: path.into(), boot: boot() })
    }

    /// Sets the file up. `false`: it is somebody else's.
    fn prepare(connection: &Connection) -> rusqlite::Result<bool> {
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Read in one transaction: between two, another process may set the file up.
        let look = connection.unchecked_transaction()?;
        let application: i32 = look.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let tables: i64 = look.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        drop(look);
        if application != APPLICATION && tables > 0 {
            return Ok(false);
        }
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        if application != APPLICATION || tables == 0 {
            connection
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION}; {} COMMIT;",
                    include_str!("schema.sql")
                ))
                .inspect_err(|_| drop(connection.execute_batch("ROLLBACK")))?;
        }
        Ok(true)
    }

    /// Runs `work` in a transaction that holds the write lock from its start; an error undoes it.
    pub(super) fn transaction(&self, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let begun = rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let transaction = begun.map_err(|source| self.failed(source))?;
        work()?;
        transaction.commit().map_err(|source| self.failed(source))
    }

    pub(super) fn held(&self, key: &StorageKey) -> Result<Option<Held>, StoreError> {
        let read = || {
            let mut statement = self
                .connection
                .prepare_cached("SELECT record, boot, lease_end FROM records WHERE key = ? AND expires > ?")?;
            statement.query_row(params![key.0, signed(wall_clock())], |row| self.row(row, key, 0)).optional()
        };
        read().map_err(|source| self.failed(source))?.transpose()
    }

    /// What has no result yet.
    pub(super) fn unfinished(&self, most: usize) -> Result<Vec<Listed>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT key, record, boot, lease_end FROM records \
                 WHERE expires > ? AND substr(record, 1, 5) IN (CAST('idm1F' AS BLOB), CAST('idm1U' AS BLOB)) LIMIT ?",
            )?;
            let now = self.lease_clock();
            let rows = statement.query_map(params![signed(wall_clock()), signed(most as u64)], |row| {
                let key = StorageKey(row.get(0)?);
                Ok(self.row(row, &key, 1)?.map(|held| Listed { key, held, now }))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|source| self.failed(source))?.into_iter().collect()
    }

    /// The record, boot and lease end that stand in a row from a column on; the error of a record that is not one.
    fn row(
        &self,
        row: &rusqlite::Row<'_>,
        key: &StorageKey,
        column: usize,
    ) -> rusqlite::Result<Result<Held, StoreError>> {
        let record = Record::decode(row.get_ref(column)?.as_blob()?);
        let is_this_boot = row.get_ref(column + 1)?.as_str()? == self.boot;
        let lease_end = if is_this_boot { row.get::<_, i64>(column + 2)? } else { 0 };
        Ok(record
            .map(|record| Held { record, lease_end: lease_end.try_into().unwrap_or(0) })
            .map_err(|error| StoreError::foreign(format_args!("{key} in {}", self.path.display()), error)))
    }

    pub(super) fn put(&self, key: &StorageKey, record: &Record) -> Result<(), StoreError> {
        let expires = signed(wall_clock().saturating_add(record.ttl.max(record.lease)));
        let lease_end = signed(self.lease_clock().saturating_add(record.lease));
        let values = params![key.0, record.encode(), expires, self.boot, lease_end];
        self.execute(
            "INSERT OR REPLACE INTO records (key, record, expires, boot, lease_end) VALUES (?, ?, ?, ?, ?)",
            values,
        )
        .map(drop)
    }

    pub(super) fn remove(&self, key: &StorageKey) -> Result<(), StoreError> {
        self.execute("DELETE FROM records WHERE key = ?", params![key.0]).map(drop)
    }

    /// Removes at most so many expired records; how many it were.
    pub(super) fn sweep(&self, most: u32) -> Result<u64, StoreError> {
        let expired = "DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires <= ? LIMIT ?)";
        self.execute(expired, params![signed(wall_clock()), most]).map(|rows| rows as u64)
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        let run = || self.connection.prepare_cached(sql)?.execute(values);
        run().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        let message = format!("the SQLite store {} failed: {source}", self.path.display());
        let kind = match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => {
                StoreErrorKind::NotExecuted
            }
            Some(ErrorCode::ReadOnly | ErrorCode::NotADatabase | ErrorCode::CannotOpen) => StoreErrorKind::Setup,
            _ => StoreErrorKind::Unknown,
        };
        StoreError::new(kind, message).with_source(source)
    }

    /// The clock that leases run on: it goes on while the machine sleeps, and nobody sets it.
    pub(super) fn lease_clock(&self) -> Micros {
        #[cfg(target_os = "linux")]
        {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
        }
        #[cfg(not(target_os = "linux"))]
        {
            wall_clock()
        }
    }
}

/// Which boot of the machine this is. Elsewhere than on Linux leases run on the wall clock, which knows no boots.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().into())
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// SQLite's integers are signed.
fn signed(micros: Micros) -> i64 {
    micros.try_into().unwrap_or(i64::MAX)
}
