//! [`Store`]: four atomic operations, and those for operators.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::decide::{Claim, Held, Resolution};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record, State};

/// What every operation returns: a boxed future, so that a store can be chosen at run time (`Arc<dyn Store>`).
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store's word on a claim.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The record was written: this attempt runs.
    Yes {
        /// Its fencing number.
        fence: u64,
    },
    /// Something live stands there.
    No {
        /// What stands there.
        held: Held,
        /// The clock that `held.lease_end` is on.
        now: Micros,
    },
}

/// A store's word on a completion.
#[derive(Clone, Debug)]
pub enum Completed {
    /// Stored, now or by the same attempt before.
    Stored,
    /// There was no room for the result: the key is completed as "not kept".
    NotKept,
    /// Refused by the token; what stands there instead, if anything.
    Refused(Option<Held>),
}

/// Which records are listed, and how many at a time.
///
/// ```
/// use idempotency::store::Listing;
/// use idempotency::{Idempotency, State, stores::MemoryStore};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let engine = Idempotency::new(MemoryStore::new());
/// let mut listing = Listing::of([State::Completed]).most(100);
/// loop {
///     let page = engine.list(&listing).await?;
///     for found in page.records {
///         println!("{} {}", found.key.id(), found.held.record.label);
///     }
///     let Some(next) = page.next else { break };
///     listing = listing.after(next);
/// }
/// # Ok::<_, idempotency::StoreError>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In which states. A claim whose lease has lapsed is in flight here.
    pub states: Vec<State>,
    /// Where the page before this one ended; `None`: the first page.
    pub after: Option<Cursor>,
    /// A page ends when it has so many records. A store that finds them in steps may add the rest of its last step.
    pub most: usize,
}

impl Listing {
    /// The first page of what is in one of these states: 1000 records.
    pub fn of(states: impl IntoIterator<Item = State>) -> Self {
        Self { states: states.into_iter().collect(), after: None, most: 1000 }
    }

    /// The first page of what has no result: in flight, lapsed or unknown.
    pub fn unfinished() -> Self {
        Self::of([State::InFlight, State::Unknown])
    }

    /// The first page of all records.
    pub fn everything() -> Self {
        Self::of([State::InFlight, State::Unknown, State::Completed, State::NotKept])
    }

    /// With so many records a page.
    pub fn most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The page behind another.
    pub fn after(self, cursor: Cursor) -> Self {
        Self { after: Some(cursor), ..self }
    }
}

/// Where a page of a list ended. What it says is the store's own business; it is text, so that it can be passed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(Arc<str>);

impl Cursor {
    /// A cursor from its text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The error of a store that can't read this one.
    pub fn unreadable(&self) -> StoreError {
        StoreError::new(StoreErrorKind::Setup, format!("{:?} is no place in a list of this store", self.as_str()))
    }

    /// A cursor that is the last key of a page, where a list is in the order of keys.
    pub fn of_key(key: &StorageKey) -> Self {
        Self::new(key.to_string())
    }

    /// The key that [`Cursor::of_key`] was made of.
    ///
    /// # Errors
    /// [`StoreErrorKind::Setup`] where it was made of something else.
    pub fn key(&self) -> Result<StorageKey, StoreError> {
        StorageKey::parse(self.as_str().as_bytes()).ok_or_else(|| self.unreadable())
    }
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What was found, in any order. A record may be in two pages where it has moved meanwhile; one that was there all
    /// the time is in one at least.
    pub records: Vec<Listed>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Cursor>,
}

/// A record that was found by looking at all of them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it stands under; a store that keeps less of a key than its 32 bytes fills it up with zeros, and finds the
    /// record again by that.
    pub key: StorageKey,
    /// The record, without its result.
    pub held: Held,
    /// The clock that `held.lease_end` is on.
    pub now: Micros,
    /// How long the record is still kept; `None`: until somebody removes it.
    pub life_left: Option<Micros>,
    /// The bytes of the whole record in its wire form.
    pub size: usize,
}

/// What a store says of itself, for whoever has to look after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What it is, as `Redis`.
    pub store: String,
    /// Of which version.
    pub version: String,
    /// What else is worth knowing, by name.
    pub facts: Vec<(String, String)>,
    /// What endangers the promises: each a sentence that says what to do.
    pub warnings: Vec<String>,
    /// Its wall clock, where it has one of its own.
    pub clock: Option<Micros>,
}

impl Health {
    /// Of a store without anything to say.
    pub fn new(store: impl Into<String>, version: impl Into<String>) -> Self {
        Self { store: store.into(), version: version.into(), ..Self::default() }
    }

    /// With one more fact.
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }

    /// With one more danger.
    pub fn warning(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

/// A hint that a key may have changed. Hints may be lost: whoever waits looks again every `poll` anyway.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Marked changed when the key's record did; closed when no more hints will come.
    pub changed: Option<watch::Receiver<()>>,
    /// How often to look without a hint.
    pub poll: Duration,
}

/// Where records live. Each operation is one round trip and one atomic step.
///
/// The rules of each step are in [`mod@crate::decide`]; a store knows no policy. Where it can do no more than read and write one
/// value, [`mod@crate::step`] has each operation as one change of it. An error says whether the step was
/// certainly not taken or may have been ([`StoreError`]). Wrong or newer data under a key is an error that names
/// the key; it is never overwritten. [`crate::conformance`] tests all of it.
///
/// A complete store:
///
/// ```
/// use std::{collections::HashMap, sync::Mutex, time::Instant};
/// use idempotency::decide::{self, Claim, Claiming, Held, Resolution, Settle};
/// use idempotency::store::{Claimed, Completed, Reply, Store};
/// use idempotency::{Record, StorageKey};
///
/// struct Toy { started: Instant, records: Mutex<HashMap<StorageKey, (Held, u64)>> }
///
/// impl Toy {
///     fn step<T>(&self, key: &StorageKey, step: impl FnOnce(Option<Held>, u64, &mut HashMap<StorageKey, (Held, u64)>) -> T) -> Reply<'_, T>
///     where T: Send + 'static {
///         let now = self.started.elapsed().as_micros() as u64;
///         let mut records = self.records.lock().unwrap();
///         let held = records.get(key).filter(|(_, expires)| now < *expires).map(|(held, _)| held.clone());
///         let answer = step(held, now, &mut records);
///         Box::pin(async { Ok(answer) })
///     }
/// }
///
/// fn entry(record: Record, now: u64) -> (Held, u64) {
///     let (lease_end, expires) = (now + record.lease, now + record.ttl.max(record.lease));
///     (Held { record, lease_end }, expires)
/// }
///
/// impl Store for Toy {
///     fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
///         self.step(key, |held, now, records| match decide::claim(held, claim, now, now) {
///             Claiming::Write(record) => { let fence = record.fence; records.insert(*key, entry(record, now)); Claimed::Yes { fence } }
///             Claiming::Stands(held) => Claimed::No { held, now },
///         })
///     }
///     fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
///         self.step(key, |held, now, records| {
///             let own = decide::owns(held.as_ref(), attempt.token);
///             if own { records.insert(*key, entry(held.unwrap().record, now)); }
///             own
///         })
///     }
///     fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, until: u64) -> Reply<'a, Completed> {
///         self.step(key, |held, now, records| match decide::complete(held.as_ref(), record.token, until, now) {
///             Settle::Write => { records.insert(*key, entry(record.clone(), now)); Completed::Stored }
///             Settle::Already => Completed::Stored,
///             Settle::Refused => Completed::Refused(held),
///         })
///     }
///     fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
///         self.step(key, |held, _, records| {
///             let own = decide::owns(held.as_ref(), attempt.token);
///             if own { records.remove(key); }
///             own
///         })
///     }
///     fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, u64)>> {
///         self.step(key, |held, now, _| held.map(|held| (held, now)))
///     }
///     fn resolve<'a>(&'a self, key: &'a StorageKey, word: &'a Resolution) -> Reply<'a, bool> {
///         self.step(key, |held, now, records| {
///             let is_taken = decide::resolve(held.as_ref(), word, now);
///             if is_taken {
///                 match &word.into {
///                     Some(record) => { records.insert(*key, entry(record.clone(), now)); }
///                     None => { records.remove(key); }
///                 }
///             }
///             is_taken
///         })
///     }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(idempotency::conformance::check(Toy { started: Instant::now(), records: Mutex::default() }));
/// ```
pub trait Store: Send + Sync + 'static {
    /// Writes `claim.record` where nothing live stands (or the lapsed claim it takes over), with a fence of
    /// `max(fence of the record taken over + 1, clock in µs)`, for `max(ttl, lease)`.
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed>;

    /// Starts the lease and the life of the attempt's own in-flight record anew. `false`: it is not its own any more.
    /// Needs no new memory.
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool>;

    /// Replaces the attempt's own in-flight record by `record`, for `record.ttl`. Sent again by the same attempt it
    /// succeeds and changes nothing. An absent record is written too while the clock that fences come from has not
    /// reached `recreate_until`; 0: never.
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed>;

    /// Removes the attempt's own in-flight record. `false`: there is none, and nothing changed.
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool>;

    /// What stands there, and the clock its lease is on.
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>>;

    /// An operator's word: replaces or removes the record of exactly this fence, while it is unknown or lapsed or
    /// where the operator insists. `false`: there is no such record, and nothing changed.
    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool>;

    /// The longest that an operation takes before it fails.
    fn time_limit(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Removes what has expired; how many. A store that expires by itself has nothing to do.
    fn purge(&self) -> Reply<'_, u64> {
        Box::pin(async { Ok(0) })
    }

    /// A page of its records. All pages together have looked at every record. A store that can't is
    /// [`StoreErrorKind::Setup`].
    fn list<'a>(&'a self, _listing: &'a Listing) -> Reply<'a, Page> {
        Box::pin(async { Err(StoreError::new(StoreErrorKind::Setup, "this store can't list its records")) })
    }

    /// What it is, and what of its settings endangers the promises. It need not say anything.
    fn health(&self) -> Reply<'_, Health> {
        Box::pin(async { Ok(Health::new("a store of the application's own", "")) })
    }

    /// Starts to listen for changes of a key. Without a channel of its own a store is looked at again every second.
    fn watch<'a>(&'a self, _key: &'a StorageKey) -> Reply<'a, Watch> {
        Box::pin(async { Ok(Watch { changed: None, poll: Duration::from_secs(1) }) })
    }
}

/// Says no more than that it is a store: what it knows is its own business.
impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// A pointer to a store is one.
macro_rules! pointers {
    ($($pointer:ident),*) => {
        $(impl<S: Store + ?Sized> Store for $pointer<S> {
            fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
                (**self).claim(key, claim)
            }
            fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
                (**self).renew(key, attempt)
            }
            fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
                (**self).complete(key, record, recreate_until)
            }
            fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
                (**self).release(key, attempt)
            }
            fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
                (**self).get(key)
            }
            fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
                (**self).resolve(key, resolution)
            }
            fn time_limit(&self) -> Duration {
                (**self).time_limit()
            }
            fn purge(&self) -> Reply<'_, u64> {
                (**self).purge()
            }
            fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
                (**self).list(listing)
            }
            fn health(&self) -> Reply<'_, Health> {
                (**self).health()
            }
            fn watch<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Watch> {
                (**self).watch(key)
            }
        })*
    };
}

pointers! { Arc, Box }
