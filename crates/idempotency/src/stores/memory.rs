//! [`MemoryStore`]: records in this process, for tests and single-process services.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::clock::{Clock, SystemClock};
use crate::decide::{self, Claim, Claiming, Held, Resolution, Settle};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record, State};
use crate::step;
use crate::store::{Claimed, Completed, Cursor, Health, Listed, Listing, Page, Reply, Store, Watch};

/// Records in this process. Bounded: it never drops a live record to make room; a claim that does not fit is
/// [`StoreErrorKind::Full`], a result that does not fit is completed as "not kept".
///
/// Every operation answers at once and also removes what has expired in the meantime.
///
/// ```
/// use idempotency::stores::MemoryStore;
/// let store = MemoryStore::new().max_entries(10_000).max_bytes(64 << 20);
/// assert_eq!(store.len(), 0);
/// ```
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    max_entries: usize,
    max_bytes: usize,
    table: Mutex<Table>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_entries", &self.max_entries)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Table {
    /// As [`step`] writes them, after the time they are looked at (8 bytes): one allocation each, and half of what the
    /// parts would take.
    entries: HashMap<Name, Box<[u8]>, RandomState>,
    /// Every entry once, by the time it is looked at: not later than it expires. A completion expires later than its
    /// claim and keeps its place; it gets another when it is looked at.
    looks: BTreeSet<(Micros, Name)>,
    bytes: usize,
}

/// Half of a storage key: 128 bits of a digest tell records apart as well as 256 do.
type Name = u128;

fn name(key: &StorageKey) -> Name {
    Name::from_be_bytes(*key.0.first_chunk().expect("a storage key has 32 bytes"))
}

/// An entry's time to look at it, and its value.
fn split(entry: &[u8]) -> (Micros, &[u8]) {
    let (look, value) = entry.split_first_chunk().expect("it was written by `put`");
    (Micros::from_be_bytes(*look), value)
}

/// What one record takes beside its wire form, measured on 64-bit Linux.
const OVERHEAD: usize = 180;

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// At most a million records and 1 GiB.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store on a clock of the caller's, for tests.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, max_entries: 1_000_000, max_bytes: 1 << 30, table: Mutex::default() }
    }

    /// The most records it holds.
    pub fn max_entries(self, max_entries: usize) -> Self {
        Self { max_entries, ..self }
    }

    /// The most bytes it holds, about: labels, results and 300 bytes a record.
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// How many live records it holds.
    pub fn len(&self) -> usize {
        self.at_now().0.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table without what has expired, and the time.
    fn at_now(&self) -> (MutexGuard<'_, Table>, Micros) {
        // A panic cannot leave the table half-changed: every step is checked before it is taken.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        table.remove_expired(now);
        (table, now)
    }
}

impl MemoryStore {
    /// In the order of keys: one that is there all the time has its place in it.
    fn page(&self, listing: &Listing) -> Result<Page, StoreError> {
        let after = listing.after.as_ref().map(Cursor::key).transpose()?.map(|key| name(&key));
        let (table, now) = self.at_now();
        let is_wanted = |value: &[u8]| step::state(value).is_some_and(|state| listing.states.contains(&state));
        let mut names: Vec<Name> = table
            .entries
            .iter()
            .filter(|(name, entry)| after.is_none_or(|after| **name > after) && is_wanted(split(entry).1))
            .map(|(name, _)| *name)
            .collect();
        names.sort_unstable();
        let more = names.len() > listing.most;
        names.truncate(listing.most);
        let listed = |name: &Name| {
            let mut key = StorageKey([0; 32]);
            key.0[..16].copy_from_slice(&name.to_be_bytes());
            step::listed(key, split(table.entries.get(name)?).1, now).ok()
        };
        let records: Vec<Listed> = names.iter().filter_map(listed).collect();
        let next = records.last().filter(|_| more).map(|last| Cursor::of_key(&last.key));
        Ok(Page { records, next })
    }
}

impl Table {
    fn held(&self, key: &StorageKey) -> Option<Held> {
        let (_, value) = split(self.entries.get(&name(key))?);
        let (held, _) = step::read(value).expect("it was written by `put`");
        Some(held)
    }

    fn put(&mut self, key: &StorageKey, record: &Record, now: Micros) {
        let (name, expires) = (name(key), step::expiry(record, now));
        let before = self.entries.entry(name);
        let look = match &before {
            Entry::Occupied(before) => Some(split(before.get()).0),
            Entry::Vacant(_) => None,
        };
        let kept = look.filter(|look| *look <= expires);
        if kept.is_none() {
            look.map(|too_late| self.looks.remove(&(too_late, name)));
            self.looks.insert((expires, name));
        }
        let entry = step::write_after(&kept.unwrap_or(expires).to_be_bytes(), record, now).into_boxed_slice();
        self.bytes += OVERHEAD + entry.len();
        match before {
            Entry::Occupied(mut before) => self.bytes -= OVERHEAD + before.insert(entry).len(),
            Entry::Vacant(place) => drop(place.insert(entry)),
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(entry) = self.entries.remove(name) {
            self.bytes -= OVERHEAD + entry.len();
            self.looks.remove(&(split(&entry).0, *name));
        }
    }

    fn remove_expired(&mut self, now: Micros) {
        while let Some((look, name)) = self.looks.first().filter(|(look, _)| *look <= now).copied() {
            let Some(entry) = self.entries.get_mut(&name) else { unreachable!("it leaves with its place") };
            let expires = step::expires_first(split(entry).1);
            if expires <= now {
                self.remove(&name);
            } else {
                entry[..8].copy_from_slice(&expires.to_be_bytes());
                self.looks.remove(&(look, name));
                self.looks.insert((expires, name));
            }
        }
    }
}

fn ready<'a, T: Send + 'a>(answer: Result<T, StoreError>) -> Reply<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl Store for MemoryStore {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        let (mut table, now) = self.at_now();
        let held = table.held(key);
        let grows = held.is_none();
        let record = match decide::claim(held, claim, now, now) {
            Claiming::Write(record) => record,
            Claiming::Stands(held) => return ready(Ok(Claimed::No { held, now })),
        };
        if grows
            && (table.entries.len() >= self.max_entries
                || table.bytes + OVERHEAD + record.encoded_len() > self.max_bytes)
        {
            let message = format!(
                "the memory store is full ({} records, {} bytes; at most {} and {}); raise max_entries or max_bytes, \
                 shorten ttl, or use a store that is not in memory",
                table.entries.len(),
                table.bytes,
                self.max_entries,
                self.max_bytes
            );
            return ready(Err(StoreError::new(StoreErrorKind::Full, message)));
        }
        let fence = record.fence;
        table.put(key, &record, now);
        ready(Ok(Claimed::Yes { fence }))
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        let (mut table, now) = self.at_now();
        let own = table.held(key).filter(|held| decide::owns(Some(held), attempt.token));
        if let Some(held) = &own {
            table.put(key, &held.record, now);
        }
        ready(Ok(own.is_some()))
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        let (mut table, now) = self.at_now();
        let held = table.held(key);
        ready(Ok(match decide::complete(held.as_ref(), record.token, recreate_until, now) {
            Settle::Already => Completed::Stored,
            Settle::Refused => Completed::Refused(held),
            Settle::Write => {
                let room = self.max_bytes.saturating_sub(table.bytes);
                if record.result.len() > room {
                    table.put(key, &Record { state: State::NotKept, result: Arc::default(), ..record.clone() }, now);
                    Completed::NotKept
                } else {
                    table.put(key, record, now);
                    Completed::Stored
                }
            }
        }))
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        let (mut table, _) = self.at_now();
        let own = decide::owns(table.held(key).as_ref(), attempt.token);
        if own {
            table.remove(&name(key));
        }
        ready(Ok(own))
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        let (table, now) = self.at_now();
        ready(Ok(table.held(key).map(|held| (held, now))))
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        let (mut table, now) = self.at_now();
        let is_taken = decide::resolve(table.held(key).as_ref(), resolution, now);
        match &resolution.into {
            Some(record) if is_taken => table.put(key, record, now),
            None if is_taken => table.remove(&name(key)),
            _ => {}
        }
        ready(Ok(is_taken))
    }

    fn purge(&self) -> Reply<'_, u64> {
        let before = self.table.lock().unwrap_or_else(PoisonError::into_inner).entries.len();
        let after = self.at_now().0.entries.len();
        ready(Ok(before.saturating_sub(after) as u64))
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        ready(self.page(listing))
    }

    fn health(&self) -> Reply<'_, Health> {
        let table = self.at_now().0;
        let health = Health::new("memory", env!("CARGO_PKG_VERSION"))
            .fact("records", format!("{} of {} at most", table.entries.len(), self.max_entries))
            .fact("bytes", format!("{} of {} at most", table.bytes, self.max_bytes));
        ready(Ok(health.warning(
            "each process keeps its keys to itself and loses them when it ends; for several processes take redis://, \
             postgresql:// or, on one machine, sqlite:///",
        )))
    }

    fn watch<'a>(&'a self, _key: &'a StorageKey) -> Reply<'a, Watch> {
        // Looking costs nothing here, and the engine's own waiters are told anyway.
        ready(Ok(Watch { changed: None, poll: Duration::from_millis(20) }))
    }
}
