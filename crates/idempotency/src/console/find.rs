//! What the store has, in the words of the page.

use crate::clock::wall_clock;
use crate::decide::Held;
use crate::engine::Idempotency;
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::record::{AfterCrash, Micros, State};
use crate::store::Listed;
use crate::words;

/// Where a record stands, for an operator: of a claim the lease counts too. In the order in which they want to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Unknown,
    Lapsed,
    InFlight,
    Completed,
    NotKept,
}

impl Standing {
    pub(super) fn of(held: &Held, now: Micros) -> Self {
        match held.record.state {
            State::InFlight if held.is_lapsed(now) => Self::Lapsed,
            State::InFlight => Self::InFlight,
            State::Completed => Self::Completed,
            State::NotKept => Self::NotKept,
            State::Unknown => Self::Unknown,
        }
    }

    /// In words, as everywhere else.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Lapsed => "lapsed",
            Self::InFlight => "in flight",
            Self::Completed => "completed",
            Self::NotKept => "not kept",
        }
    }

    /// In a URL, and as the class of a style.
    pub(super) fn slug(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::NotKept => "not-kept",
            other => other.words(),
        }
    }

    /// Whether a person may decide: nobody is at work, and nobody knows of a result.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Unknown | Self::Lapsed)
    }

    /// What it means, and what a repeat gets.
    pub(super) fn meaning(self, after_crash: AfterCrash) -> &'static str {
        match (self, after_crash) {
            (Self::InFlight, _) => "An attempt is at work. A repeat is told to come back (409), or waits.",
            (Self::Lapsed, AfterCrash::Rerun) => {
                "The attempt has stopped renewing its lease: it crashed, or can't reach the store. The next repeat runs again."
            }
            (Self::Lapsed, AfterCrash::Refuse) => {
                "The attempt has stopped renewing its lease: it crashed, or can't reach the store. Nobody knows whether it had its \
                 effect, and no repeat runs (409) until you decide."
            }
            (Self::Unknown, _) => "Nobody knows whether the effect happened. No repeat runs (409) until you decide.",
            (Self::Completed, _) => "It is done. Every repeat gets the stored result.",
            (Self::NotKept, _) => {
                "It is done, but its result could not be kept. A repeat is told so (410), and nothing runs again."
            }
        }
    }
}

/// What is left of a lease, or how long ago it ended.
pub(super) fn lease(held: &Held, now: Micros) -> String {
    match Standing::of(held, now) {
        Standing::InFlight => format!("{} left", words::duration(held.lease_end - now)),
        // A lease of before the machine was started anew has no time of its own.
        Standing::Lapsed if held.lease_end == 0 => "ended".into(),
        Standing::Lapsed => format!("ended {} ago", words::duration(now - held.lease_end)),
        _ => "–".into(),
    }
}

/// How long ago its attempt began. A fence is the store's clock at the claim, but for clocks that were set back.
pub(super) fn age(fence: u64) -> String {
    words::duration(wall_clock().saturating_sub(fence))
}

/// A part of what the store has, and whether there is more.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<Listed>,
    pub(super) has_more: bool,
}

/// What has no result, at most so many.
pub(super) async fn unfinished(engine: &Idempotency, most: usize) -> Result<Found, StoreError> {
    let records = engine.unfinished(most).await?;
    Ok(Found { has_more: records.len() >= most, records })
}

/// Reads the hexadecimal form of a storage key.
pub(super) fn storage_key(digits: &str) -> Option<StorageKey> {
    let mut key = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(StorageKey(key))
}
