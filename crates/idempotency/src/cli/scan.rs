//! [`Scan`]: all of a list, page by page.

use std::collections::HashSet;

use super::Run;
use super::arguments::Which;
use super::exit::Failure;
use super::seen::Seen;
use super::words::count;
use crate::record::State;
use crate::seen::Standing;
use crate::store::{Cursor, Listing};

/// Goes through a store's records, each once, and says how far it is to whoever sits at a terminal.
pub(super) struct Scan {
    which: Which,
    standings: Vec<Standing>,
    listing: Option<Listing>,
    /// Halves of keys: enough to tell them apart.
    seen: HashSet<u128>,
    looked_at: u64,
    has_told: bool,
}

impl Scan {
    /// Of what is asked for; `default` where no state is.
    pub(super) fn new(which: &Which, default: &[Standing]) -> Self {
        let standings = if which.state.is_empty() { default.to_vec() } else { which.state.clone() };
        let mut states: Vec<State> = vec![];
        for standing in &standings {
            if !states.contains(&standing.stored()) {
                states.push(standing.stored());
            }
        }
        let listing = Some(Listing::of(states));
        Self { which: which.clone(), standings, listing, seen: HashSet::new(), looked_at: 0, has_told: false }
    }

    /// Of everything.
    pub(super) fn everything() -> Self {
        Self::new(&Which { state: vec![], operation: None, older: None }, &Standing::ALL)
    }

    /// The next records, if any are left; a page may have none that is wanted.
    pub(super) async fn next(&mut self, run: &mut Run) -> Result<Option<Vec<Seen>>, Failure> {
        let Some(listing) = self.listing.take() else {
            self.clear(run)?;
            return Ok(None);
        };
        let page = run.engine.list(&listing).await?;
        self.looked_at += page.records.len() as u64;
        self.listing = page.next.map(|next: Cursor| listing.after(next));
        if self.listing.is_some() && run.streams.tells_progress {
            self.has_told = true;
            run.streams.tell_part(&format!("\r{} records looked at", count(self.looked_at)))?;
        }
        let mut wanted = vec![];
        for found in page.records {
            let half = u128::from_be_bytes(*found.key.0.first_chunk().expect("a storage key has 32 bytes"));
            let seen = Seen::of(&found);
            if self.is_wanted(&seen) && self.seen.insert(half) {
                wanted.push(seen);
            }
        }
        Ok(Some(wanted))
    }

    /// All of it, or the first so many; whether there may be more.
    pub(super) async fn most(mut self, run: &mut Run, most: usize) -> Result<(Vec<Seen>, bool), Failure> {
        let mut found = vec![];
        while found.len() <= most {
            match self.next(run).await? {
                Some(page) => found.extend(page),
                None => break,
            }
        }
        self.clear(run)?;
        let more = found.len() > most;
        found.truncate(most);
        Ok((found, more))
    }

    fn clear(&mut self, run: &mut Run) -> Result<(), Failure> {
        if std::mem::take(&mut self.has_told) {
            run.streams.tell_part("\r\x1b[K")?;
        }
        Ok(())
    }

    fn is_wanted(&self, seen: &Seen) -> bool {
        self.standings.contains(&seen.standing)
            && self.which.operation.as_deref().is_none_or(|operation| seen.is_of(operation))
            && self.which.older.is_none_or(|older| seen.age() > older)
    }
}
