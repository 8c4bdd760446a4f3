//! The statements for SQLite: a look; then, before the work, the write lock, a second look under it, a savepoint, by which it shows at the
//! end whether the transaction is still the same, and the claim.

use super::{At as Stands, InTransaction, Next, Statement, Value, unexpected};
use crate::clock::wall_clock;
use crate::decide::Held;
use crate::error::StoreError;
use crate::fingerprint::hex;
use crate::record::Micros;
use crate::step;

#[derive(Debug)]
pub(super) enum At {
    Look,
    Lock,
    LookAgain,
    Mark,
    Claim,
    Release,
    Store,
    Sweep,
    Undo,
}

impl InTransaction {
    pub(super) fn look_sqlite(&mut self) -> Statement {
        self.sqlite(At::Look, include_str!("sqlite/look.sql"), [Value::Bytes(self.name.0.into())])
    }

    pub(super) fn release_sqlite(&mut self) -> Statement {
        let release = format!("RELEASE {}", self.savepoint());
        self.sqlite(At::Release, release, [])
    }

    pub(super) fn undo_sqlite(&mut self) -> Statement {
        let undo = format!("ROLLBACK TO {}", self.savepoint());
        self.sqlite(At::Undo, undo, [])
    }

    pub(super) fn told_sqlite(&mut self, at: At, row: Option<&[Value]>) -> Result<Next, StoreError> {
        Ok(match at {
            At::Look => {
                let held = row.map(|row| self.held(row, wall_clock())).transpose()?.flatten();
                match self.decided(held, wall_clock()) {
                    Some(begun) => Next::Held(begun),
                    // Another transaction may be about to store a result: only who may write goes on.
                    None => {
                        self.claim.takes_over = None;
                        self.ask(At::Lock, include_str!("sqlite/lock.sql"), [Value::time(wall_clock())])
                    }
                }
            }
            At::Lock => {
                let key = [Value::Bytes(self.name.0.into())];
                self.ask(At::LookAgain, include_str!("sqlite/look_again.sql"), key)
            }
            At::LookAgain => {
                let Some([Value::Int(time), record]) = row else { return Err(unexpected()) };
                let now = time.unsigned_abs();
                let held = self.held(std::slice::from_ref(record), now)?;
                match self.decided(held, now) {
                    Some(begun) => Next::Held(begun),
                    None => {
                        let savepoint = format!("SAVEPOINT {}", self.savepoint());
                        self.ask(At::Mark, savepoint, [])
                    }
                }
            }
            At::Mark => self.write(At::Claim),
            At::Claim => self.run(),
            At::Release => self.write(At::Store),
            At::Store => {
                let values = [Value::time(wall_clock()), Value::Bytes(self.name.0.into())];
                self.ask(At::Sweep, include_str!("sqlite/sweep.sql"), values)
            }
            At::Sweep | At::Undo => Next::Ended,
        })
    }

    /// What a row says that has not expired.
    fn held(&self, row: &[Value], now: Micros) -> Result<Option<Held>, StoreError> {
        match row {
            [Value::Null] => Ok(None),
            [Value::Bytes(value)] => {
                let read = step::read(value);
                let (held, expires) = read.map_err(|error| {
                    StoreError::foreign(format_args!("{} in the table idempotency_results", self.key), error)
                })?;
                if now >= expires {
                    return Ok(None);
                }
                Ok(Some(Held { record: self.read(held.record)?, ..held }))
            }
            _ => Err(unexpected()),
        }
    }

    /// Writes the record.
    fn write(&mut self, at: At) -> Next {
        let (record, now) = (self.written(), wall_clock());
        let value = step::write(&record, now);
        let expires = Value::time(step::expiry(&record, now));
        self.ask(at, include_str!("sqlite/store.sql"), [Value::Bytes(self.name.0.into()), Value::Bytes(value), expires])
    }

    /// A name of its own, so that no savepoint of another attempt is taken for it.
    fn savepoint(&self) -> String {
        format!("idempotency_{}", hex(&self.claim.record.token.0))
    }

    fn ask<const N: usize>(
        &mut self,
        at: At,
        sql: impl Into<std::borrow::Cow<'static, str>>,
        values: [Value; N],
    ) -> Next {
        Next::Ask(self.sqlite(at, sql, values))
    }

    fn sqlite<const N: usize>(
        &mut self,
        at: At,
        sql: impl Into<std::borrow::Cow<'static, str>>,
        values: [Value; N],
    ) -> Statement {
        self.at = Stands::Sqlite(at);
        Statement::new(sql, values)
    }
}
