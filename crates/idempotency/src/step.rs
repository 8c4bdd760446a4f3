//! [`Step`]: an operation of a [`Store`](crate::Store) as one pure change of one value.
//!
//! For stores that can read a value and write it in one atomic step, and know nothing of records: a table with locked rows, a key-value
//! file, a compare-and-set. The value is opaque to them and says itself when it has expired.
//!
//! ```
//! use idempotency::step::{Answer, Change, Step, expires};
//! assert!(matches!(Step::Get.apply(None, 0).unwrap(), (Change::Nothing, Answer::Found(None))));
//! assert!(Step::Get.apply(Some(b"something else"), 0).is_err());
//! assert!(expires(b"something else").is_err());
//! ```

use std::sync::Arc;

use crate::decide::{self, Claim, Claiming, Held, Resolution, Settle};
use crate::key::StorageKey;
use crate::record::{Micros, Record, RecordError, Token};
use crate::store::{Claimed, Completed, Listed};

#[cfg(feature = "memory")]
use crate::record::State;

/// An operation of a store, with all that it needs beside the value and the clock.
#[derive(Clone, Debug)]
pub enum Step {
    /// [`Store::claim`](crate::Store::claim).
    Claim(Claim),
    /// [`Store::renew`](crate::Store::renew).
    Renew(Token),
    /// [`Store::complete`](crate::Store::complete): the record, and until when an absent one is written.
    Complete(Record, Micros),
    /// [`Store::release`](crate::Store::release).
    Release(Token),
    /// [`Store::get`](crate::Store::get).
    Get,
    /// [`Store::resolve`](crate::Store::resolve).
    Resolve(Resolution),
}

/// What becomes of the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    Nothing,
    /// This stands there instead.
    Write(Vec<u8>),
    /// Nothing stands there any more.
    Remove,
}

/// What the operation answers once the change is made.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To a claim.
    Claimed(Claimed),
    /// To a renewal, a release or a resolution.
    Done(bool),
    /// To a completion.
    Completed(Completed),
    /// To a look.
    Found(Option<(Held, Micros)>),
}

impl Step {
    /// What this step makes of a value. `now` is the store's clock, the wall clock in µs.
    ///
    /// # Errors
    /// Where the value is not ours: it must stay as it is.
    pub fn apply(&self, value: Option<&[u8]>, now: Micros) -> Result<(Change, Answer), RecordError> {
        let held = match value.map(read).transpose()? {
            Some((held, expires)) if now < expires => Some(held),
            _ => None,
        };
        let done = |change: Option<Change>| {
            let is_done = change.is_some();
            (change.unwrap_or(Change::Nothing), Answer::Done(is_done))
        };
        Ok(match self {
            Self::Claim(claim) => match decide::claim(held, claim, now, now) {
                Claiming::Write(record) => {
                    let claimed = Claimed::Yes { fence: record.fence };
                    (Change::Write(write(&record, now)), Answer::Claimed(claimed))
                }
                Claiming::Stands(held) => (Change::Nothing, Answer::Claimed(Claimed::No { held, now })),
            },
            Self::Renew(token) => {
                let own = held.filter(|held| decide::owns(Some(held), *token));
                done(own.map(|held| Change::Write(write(&held.record, now))))
            }
            Self::Complete(record, recreate_until) => {
                match decide::complete(held.as_ref(), record.token, *recreate_until, now) {
                    Settle::Write => (Change::Write(write(record, now)), Answer::Completed(Completed::Stored)),
                    Settle::Already => (Change::Nothing, Answer::Completed(Completed::Stored)),
                    Settle::Refused => (Change::Nothing, Answer::Completed(Completed::Refused(held))),
                }
            }
            Self::Release(token) => done(decide::owns(held.as_ref(), *token).then_some(Change::Remove)),
            Self::Get => (Change::Nothing, Answer::Found(held.map(|held| (held, now)))),
            Self::Resolve(resolution) => {
                let is_taken = decide::resolve(held.as_ref(), resolution, now);
                let change =
                    resolution.into.as_ref().map_or(Change::Remove, |record| Change::Write(write(record, now)));
                done(is_taken.then_some(change))
            }
        })
    }
}

/// When a value expires, in µs of the store's clock; after that it may be removed.
///
/// # Errors
/// Where the value is not ours.
pub fn expires(value: &[u8]) -> Result<Micros, RecordError> {
    read(value).map(|(_, expires)| expires)
}

/// When a record that is written now expires.
pub(crate) fn expiry(record: &Record, now: Micros) -> Micros {
    now.saturating_add(life(record))
}

/// How long a record lives after it was written.
fn life(record: &Record) -> Micros {
    record.ttl.max(record.lease)
}

/// The value of a record that is written now: the time it expires, 8 bytes big endian, before its wire form. The lease's
/// end follows from that time, as in Redis.
pub(crate) fn write(record: &Record, now: Micros) -> Vec<u8> {
    write_after(&[], record, now)
}

/// A value to write, after something else (8 bytes at the most), in one allocation.
pub(crate) fn write_after(head: &[u8], record: &Record, now: Micros) -> Vec<u8> {
    let mut before = [0; 16];
    before[..head.len()].copy_from_slice(head);
    before[head.len()..][..8].copy_from_slice(&expiry(record, now).to_be_bytes());
    record.encode_after(&before[..head.len() + 8])
}

/// When a value of ours expires, without reading the record.
#[cfg(feature = "memory")]
pub(crate) fn expires_first(value: &[u8]) -> Micros {
    value.first_chunk().map_or(0, |expires| Micros::from_be_bytes(*expires))
}

/// The state of a value of ours, without reading the record.
#[cfg(feature = "memory")]
pub(crate) fn state(value: &[u8]) -> Option<State> {
    let states = [State::InFlight, State::Completed, State::NotKept, State::Unknown];
    states.into_iter().find(|state| value.get(12) == Some(&state.letter()))
}

/// A value that a list has come to, for [`Store::list`](crate::Store::list). `now` is the store's clock. An expired one
/// has a life of 0.
///
/// # Errors
/// Where the value is not ours.
pub fn listed(key: StorageKey, value: &[u8], now: Micros) -> Result<Listed, RecordError> {
    let (mut held, expires) = read(value)?;
    held.record.result = Arc::default();
    Ok(Listed { key, held, now, life_left: Some(expires.saturating_sub(now)), size: value.len() - 8 })
}

/// The record of a value, and when it expires.
pub(crate) fn read(value: &[u8]) -> Result<(Held, Micros), RecordError> {
    let (expires, record) = value.split_first_chunk().ok_or(RecordError::Foreign)?;
    let (expires, record) = (Micros::from_be_bytes(*expires), Record::decode(record)?);
    let lease_end = expires.saturating_sub(life(&record)).saturating_add(record.lease);
    Ok((Held { record, lease_end }, expires))
}
