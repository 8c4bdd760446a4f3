//! The statements for Postgres: one claims, one stores the result. They call the functions that the Postgres store calls, so that a key is
//! the same in both modes.

use std::borrow::Cow;

use super::{At as Stands, InTransaction, Next, Statement, Value, unexpected};
use crate::decide::{Decision, Held, decide};
use crate::engine::Begun;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Micros, Record};
use crate::schema::{SCHEMA, VERSION, renamed};

/// How many lapsed claims in a row are taken over before the key is called busy.
const TAKEOVERS: u32 = 4;

/// The least life of a claim, in µs: it must outlast the transaction, however short the `ttl` is.
const LIFE: Micros = 24 * 3600 * 1_000_000;

#[derive(Debug)]
pub(super) enum At {
    Check,
    Claim { takeovers: u32 },
    Complete,
    Refuse,
}

impl InTransaction {
    pub(super) fn check_postgres(&mut self) -> Statement {
        let check = self.postgres(At::Check, include_str!("postgres/check.sql"), []);
        let sql = check.sql.replace("'idempotency'", &format!("'{}'", self.schema));
        Statement { sql: sql.into(), ..check }
    }

    pub(super) fn claim_postgres(&mut self, seen: Option<(Vec<u8>, u32)>) -> Statement {
        let record = self.written();
        let life = record.ttl.max(LIFE);
        let (seen, takeovers) = seen.map_or((Value::Null, 0), |(seen, takeovers)| (Value::Bytes(seen), takeovers));
        let values = [
            Value::Bytes(self.name.0.into()),
            Value::Bytes(record.encode()),
            Value::time(record.lease),
            Value::time(life),
            seen,
        ];
        self.postgres(At::Claim { takeovers }, include_str!("postgres/claim.sql"), values)
    }

    pub(super) fn complete_postgres(&mut self) -> Statement {
        let record = self.written();
        let values = [
            Value::Bytes(self.name.0.into()),
            Value::Bytes(record.token.0.into()),
            Value::Bytes(record.encode()),
            Value::time(record.ttl),
        ];
        self.postgres(At::Complete, include_str!("postgres/complete.sql"), values)
    }

    /// A statement that fails: its transaction can't be committed any more.
    pub(super) fn refuse_postgres(&mut self) -> Statement {
        self.postgres(At::Refuse, include_str!("postgres/refuse.sql"), [])
    }

    /// Looks what stands under the key, outside of a transaction. Whether the key's lock is free comes as an integer.
    #[cfg(feature = "functions")]
    pub(crate) fn look_postgres(&mut self) -> Statement {
        let key = Value::Bytes(self.name.0.into());
        let look = self.postgres(At::Check, include_str!("postgres/look.sql"), [key.clone(), key]);
        self.at = Stands::Start;
        look
    }

    /// What was seen. `None`: nothing that keeps the work from running.
    #[cfg(feature = "functions")]
    pub(crate) fn looked_postgres(&self, row: Option<&[Value]>) -> Result<Option<Begun>, StoreError> {
        let Some([Value::Int(is_free), held, lease_end, Value::Int(now)]) = row else { return Err(unexpected()) };
        if let (Value::Bytes(bytes), Value::Int(lease_end)) = (held, lease_end) {
            let record = Record::decode(bytes).map_err(|error| StoreError::foreign(self.key, error))?;
            let record = self.read(record)?;
            let held = Held { record, lease_end: lease_end.unsigned_abs() };
            match decide(Some(&held), &self.request, now.unsigned_abs()) {
                Decision::Run => {}
                decision => return Ok(Some(Begun::held(held.record, decision))),
            }
        }
        Ok((*is_free == 0).then(|| Begun::in_flight(self.lease)))
    }

    pub(super) fn told_postgres(&mut self, at: At, row: Option<&[Value]>) -> Result<Next, StoreError> {
        match (at, row) {
            (At::Check, Some([version, usable])) => match self.unusable_postgres(version, usable) {
                None => Ok(Next::Ask(self.claim_postgres(None))),
                Some(what) => Err(StoreError::new(StoreErrorKind::Setup, what)),
            },
            (At::Claim { takeovers }, Some(row)) => self.claimed_postgres(takeovers, row),
            (At::Complete, Some([Value::Text(outcome), Value::Int(began)])) => {
                self.is_gone = outcome != "stored" || *began != self.began;
                // Where the work is committed without its record, the record had better follow.
                Ok(if outcome == "stored" { Next::Ended } else { Next::Ask(self.refuse_postgres()) })
            }
            (At::Refuse, _) => Ok(Next::Ended),
            _ => Err(unexpected()),
        }
    }

    /// Why the schema can't be used, as the catalogue has it: without a call that would fail.
    fn unusable_postgres(&self, version: &Value, usable: &Value) -> Option<String> {
        let schema = &self.schema;
        let what = match (version, usable) {
            (Value::Int(version), _) if *version < i64::from(VERSION) => format!(
                "in the schema {schema:?} is version {version} of the table and the functions of the idempotency keys, and this \
                 library needs {VERSION}: run create_table(), which keeps the records"
            ),
            (Value::Int(_), Value::Int(usable)) if *usable > 0 => return None,
            (Value::Int(_), _) => format!(
                "this role may not use the schema {schema:?} of the idempotency keys: grant the role USAGE on it, and SELECT, \
                 INSERT, UPDATE and DELETE on its table"
            ),
            _ => format!(
                "the table and the functions of the idempotency keys are not in the schema {schema:?}: make them by \
                 create_table()"
            ),
        };
        Some(what)
    }

    fn claimed_postgres(&mut self, takeovers: u32, row: &[Value]) -> Result<Next, StoreError> {
        let [Value::Text(outcome), fence, held, lease_end, now, began, failure] = row else { return Err(unexpected()) };
        let in_flight = |lease| Next::Held(Begun::in_flight(lease));
        Ok(match (&**outcome, fence, held, lease_end, now, began, failure) {
            ("claimed", Value::Int(fence), _, _, _, Value::Int(began), _) => {
                (self.claim.record.fence, self.began) = (fence.unsigned_abs(), *began);
                self.run()
            }
            ("stands", _, Value::Bytes(bytes), Value::Int(lease_end), Value::Int(now), ..) => {
                let record = Record::decode(bytes).map_err(|error| StoreError::foreign(self.key, error))?;
                let record = self.read(record)?;
                let (held, now) = (Held { record, lease_end: lease_end.unsigned_abs() }, now.unsigned_abs());
                match decide(Some(&held), &self.request, now) {
                    // Its owner may live, but has let its lease pass.
                    Decision::Run if takeovers < TAKEOVERS => {
                        self.claim.takes_over = Some(held.record);
                        Next::Ask(self.claim_postgres(Some((bytes.clone(), takeovers + 1))))
                    }
                    Decision::Run => in_flight(self.lease),
                    decision => Next::Held(Begun::held(held.record, decision)),
                }
            }
            ("busy", ..) => in_flight(self.lease),
            ("stale", ..) => Next::Stale,
            ("failed", .., Value::Text(failure)) => {
                let advice = if failure.starts_with("25006") {
                    "; it is a standby, or the transaction may only read: connect to the primary"
                } else {
                    ""
                };
                let words = format!("the claim failed, and nothing ran: {failure}{advice}");
                return Err(StoreError::new(StoreErrorKind::NotExecuted, words));
            }
            _ => return Err(unexpected()),
        })
    }

    fn postgres<const N: usize>(&mut self, at: At, sql: &'static str, values: [Value; N]) -> Statement {
        self.at = Stands::Postgres(at);
        let sql: Cow<'static, str> = if self.schema == SCHEMA { sql.into() } else { renamed(sql, &self.schema).into() };
        Statement::new(sql, values)
    }
}
