//! The database file: opening it, its clock, and the statements.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use crate::clock::wall_clock;
use crate::decide::Held;
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record, RecordError, State};

use super::turns::{self, Turn};

pub(super) struct File {
    pub(super) connection: Connection,
    path: PathBuf,
    boot: String,
    /// Which file was opened: another one may stand at its path later.
    identity: Option<Identity>,
    /// The highest fence that was ever given, as this transaction knows it; `None`: it has not looked.
    highest_fence: Cell<Option<u64>>,
    /// Whether this transaction gave a higher one.
    is_higher: Cell<bool>,
    turn: Turn,
}

/// Device and number of a file.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|_| (0, 0))
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
        let mut connection = Connection::open(path).map_err(failed)?;
        turns::wait_at_most(&mut connection, time_limit).map_err(failed)?;
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
        let (highest_fence, is_higher, turn) = (Cell::new(None), Cell::new(false), Turn::new());
        Ok(Self {
            connection,
            path: path.into(),
            boot: boot(),
            identity: identity(path),
            highest_fence,
            is_higher,
            turn,
        })
    }

    /// Whether the file that was opened still stands at its path.
    pub(super) fn is_there(&self) -> bool {
        identity(&self.path) == self.identity
    }

    /// The path it was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the file up. `false`: it is somebody else's.
    fn prepare(connection: &Connection) -> rusqlite::Result<bool> {
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Read in one transaction: between two, another process may set the file up.
        let look = connection.unchecked_transaction()?;
        let application: i32 = look.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let count = "SELECT count(*), count(*) FILTER (WHERE name IN ('records', 'fences')) FROM sqlite_schema";
        let (all, ours): (i64, i64) = look.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        drop(look);
        if application != APPLICATION && all > 0 {
            return Ok(false);
        }
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        // A file of an earlier version has no fences.
        if application != APPLICATION || ours < 2 {
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
        let _turn = self.turn.take();
        let begun = rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let transaction = begun.map_err(|source| self.failed(source))?;
        self.highest_fence.set(None);
        self.is_higher.set(false);
        work()?;
        if let Some(highest) = self.highest_fence.get().filter(|_| self.is_higher.get()) {
            self.execute("UPDATE fences SET highest = ?", params![signed(highest)])?;
        }
        transaction.commit().map_err(|source| self.failed(source))
    }

    /// A clock for fences that never goes back, whatever is done to the wall clock: later than every fence given.
    /// Inside a transaction only.
    pub(super) fn fence_clock(&self) -> Result<Micros, StoreError> {
        let highest = match self.highest_fence.get() {
            Some(highest) => highest,
            None => {
                let read =
                    || self.connection.prepare_cached("SELECT highest FROM fences")?.query_row([], |row| row.get(0));
                let highest = read().map(i64::unsigned_abs).map_err(|source| self.failed(source))?;
                self.highest_fence.set(Some(highest));
                highest
            }
        };
        Ok(wall_clock().max(highest + 1))
    }

    /// Remembers a fence that was given, for the transaction's end to write down.
    pub(super) fn gave(&self, fence: u64) {
        self.highest_fence.set(self.highest_fence.get().max(Some(fence)));
        self.is_higher.set(true);
    }

    pub(super) fn held(&self, key: &StorageKey) -> Result<Option<Held>, StoreError> {
        let read = || {
            let mut statement =
                self.connection.prepare_cached("SELECT record, boot, lease_end, expires FROM records WHERE key = ?")?;
            statement.query_row(params![key.0], |row| self.row(row, key, 0)).optional()
        };
        Ok(read().map_err(|source| self.failed(source))?.transpose()?.flatten())
    }

    /// The record, boot, lease end and expiry that stand in a row from a column on, if they have not expired; the error
    /// of a record that is not one.
    fn row(
        &self,
        row: &rusqlite::Row<'_>,
        key: &StorageKey,
        column: usize,
    ) -> rusqlite::Result<Result<Option<Held>, StoreError>> {
        let live = self.look(row, key, column, Record::decode)?;
        Ok(live.map(|(held, left)| (left > 0).then_some(held)))
    }

    /// As `row`, with how long it still lives.
    pub(super) fn look(
        &self,
        row: &rusqlite::Row<'_>,
        key: &StorageKey,
        column: usize,
        decode: impl FnOnce(&[u8]) -> Result<Record, RecordError>,
    ) -> rusqlite::Result<Result<(Held, Micros), StoreError>> {
        let record = match decode(row.get_ref(column)?.as_blob()?) {
            Ok(record) => record,
            Err(error) => {
                return Ok(Err(StoreError::foreign(format_args!("{key} in {}", self.path.display()), error)));
            }
        };
        let is_this_boot = row.get_ref(column + 1)?.as_str()? == self.boot;
        let unsigned = |column| Ok::<Micros, rusqlite::Error>(row.get::<_, i64>(column)?.try_into().unwrap_or(0));
        let lease_end = if is_this_boot { unsigned(column + 2)? } else { 0 };
        // A claim of this boot lives by the clock that its lease is on, which nobody sets.
        let left = match record.state {
            State::InFlight if is_this_boot => {
                let end = lease_end.saturating_add(record.ttl.saturating_sub(record.lease));
                end.saturating_sub(self.lease_clock())
            }
            _ => unsigned(column + 3)?.saturating_sub(wall_clock()),
        };
        Ok(Ok((Held { record, lease_end }, left)))
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

    /// Looks at so many records at most that the wall clock says have expired, and removes those that have; how many.
    pub(super) fn sweep(&self, most: u32) -> Result<u64, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT key, record, boot, lease_end, expires FROM records WHERE expires <= ? LIMIT ?",
            )?;
            let rows = statement.query_map(params![signed(wall_clock()), most], |row| {
                let key = StorageKey(row.get(0)?);
                Ok((key, self.row(row, &key, 1)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let expired = read().map_err(|source| self.failed(source))?.into_iter();
        let expired = expired.filter(|(_, held)| matches!(held, Ok(None))).map(|(key, _)| key);
        expired.map(|key| self.remove(&key)).try_fold(0, |removed, done| done.map(|()| removed + 1))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        let run = || self.connection.prepare_cached(sql)?.execute(values);
        run().map_err(|source| self.failed(source))
    }

    pub(super) fn failed(&self, source: rusqlite::Error) -> StoreError {
        let mut message = format!("the SQLite store {} failed: {source}", self.path.display());
        if is_busy(&source) {
            message += "; another process holds its write lock: is one stopped in the middle of a commit?";
        }
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
