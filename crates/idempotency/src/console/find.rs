//! What the store has, in the words of the page.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::clock::wall_clock;
use crate::decide::Held;
use crate::engine::Idempotency;
use crate::error::StoreError;
use crate::record::{AfterCrash, Micros};
use crate::seen::Standing;
use crate::store::{Cursor, Listed, Listing};
use crate::words;

impl Standing {
    /// In a URL, and as the class of a style.
    pub(super) fn slug(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::NotKept => "not-kept",
            other => other.words(),
        }
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

/// A part of what the store has.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<Listed>,
    /// Where the rest begins.
    pub(super) next: Option<Cursor>,
}

/// How long a page may look for records.
const LOOKS_FOR: Duration = Duration::from_secs(1);

/// The records of a list until there are so many, or until looking took too long.
pub(super) async fn records(engine: &Idempotency, listing: Listing, most: usize) -> Result<Found, StoreError> {
    let (began, mut found) = (Instant::now(), Found::default());
    let mut seen = HashSet::new();
    let mut listing = listing.most(most);
    loop {
        let page = engine.list(&listing).await?;
        // A record may be told twice where it has moved meanwhile.
        found.records.extend(page.records.into_iter().filter(|record| seen.insert(record.key)));
        found.next = page.next;
        match &found.next {
            Some(next) if found.records.len() < most && began.elapsed() < LOOKS_FOR => {
                listing = listing.after(next.clone()).most(most - found.records.len());
            }
            _ => return Ok(found),
        }
    }
}
