//! [`Store`]: four atomic operations, and four for operators.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::decide::{Claim, Held, Resolution};
use crate::error::{StoreError, StoreErrorKind};
use crate::form::RecordForm;
use crate::key::StorageKey;
use crate::record::{Micros, Record};

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

/// A record that was found by looking at all of them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it stands under; a store that keeps less of a key than its 32 bytes fills it up with zeros, and finds the
    /// record again by that.
    pub key: StorageKey,
    /// The record.
    pub held: Held,
    /// The clock that `held.lease_end` is on.
    pub now: Micros,
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

    /// What has no result yet: in flight, lapsed or unknown; at most so many records, in any order. It looks at every
    /// record. A store that can't is [`StoreErrorKind::Setup`].
    fn unfinished(&self, _most: usize) -> Reply<'_, Vec<Listed>> {
        Box::pin(async { Err(StoreError::new(StoreErrorKind::Setup, "this store can't list its records")) })
    }

    /// What it turns records into before they leave the process; whoever writes records of its keys elsewhere does the same.
    /// `None`: they are written as they are.
    fn form(&self) -> Option<Arc<dyn RecordForm>> {
        None
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
            fn unfinished(&self, most: usize) -> Reply<'_, Vec<Listed>> {
                (**self).unfinished(most)
            }
            fn watch<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Watch> {
                (**self).watch(key)
            }
            fn form(&self) -> Option<Arc<dyn RecordForm>> {
                (**self).form()
            }
        })*
    };
}

pointers! { Arc, Box }
