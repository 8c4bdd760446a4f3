//! [`Sealed`]: a store around another.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::keys::SealKeys;
use crate::decide::{Claim, Held, Resolution};
use crate::error::StoreError;
use crate::form::RecordForm;
use crate::key::StorageKey;
use crate::record::{Micros, Record, Token};
use crate::store::{Claimed, Completed, Health, Listed, Listing, Page, Reply, Store, Watch};

/// A store that seals what another keeps: results are encrypted before they reach it.
///
/// It costs 46 bytes a result. Without [`SealKeys::hiding_names`] nothing else changes: it reads what stood there unsealed,
/// unless [`SealKeys::refusing_plain`] says otherwise.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use idempotency::seal::{SealKeys, Sealed};
/// use idempotency::{Error, Idempotency, stores::MemoryStore};
///
/// let store = Arc::new(MemoryStore::new());
/// let keys = SealKeys::parse(&SealKeys::generate())?;
/// let charge = async |_| Ok::<_, std::io::Error>(42);
/// Idempotency::new(Sealed::new(store.clone(), keys)).call("charge", "order-7")?.run(charge).await?;
///
/// // Without the keys nothing runs, and nothing is answered.
/// let Err(Error::Store(error)) = Idempotency::new(store).call("charge", "order-7")?.run(charge).await else { panic!() };
/// assert!(error.to_string().contains("its result is sealed, and this process has no keys"));
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct Sealed<S> {
    store: S,
    keys: Arc<SealKeys>,
}

impl<S: Store> Sealed<S> {
    /// A store that keeps its records in `store`, sealed with `keys`.
    pub fn new(store: S, keys: SealKeys) -> Self {
        Self { store, keys: Arc::new(keys) }
    }

    fn read(&self, key: &StorageKey, held: Held) -> Result<Held, StoreError> {
        Ok(Held { record: self.keys.read(key, held.record)?, ..held })
    }
}

impl<S> fmt::Debug for Sealed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// The token in what a store says of a record that it can't see yet: an attempt runs there.
const NOBODY: Token = Token([0; 16]);

impl<S: Store> Store for Sealed<S> {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        Box::pin(async move {
            let written = |record| self.keys.written(key, record);
            let sent = Claim { record: written(&claim.record), takes_over: claim.takes_over.as_ref().map(written) };
            match self.store.claim(&self.keys.name(key), &sent).await? {
                Claimed::Yes { fence } => Ok(Claimed::Yes { fence }),
                // It is this claim's own record, with nobody's token: nothing of it was written.
                Claimed::No { held: Held { record, lease_end }, now } if record.token == NOBODY => {
                    let Record { fingerprint, ref label, .. } = claim.record;
                    let record = Record { fingerprint, label: label.clone(), ..record };
                    Ok(Claimed::No { held: Held { record, lease_end }, now })
                }
                Claimed::No { held, now } => Ok(Claimed::No { held: self.read(key, held)?, now }),
            }
        })
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move { self.store.renew(&self.keys.name(key), &self.keys.written(key, attempt)).await })
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        Box::pin(async move {
            let sent = self.keys.written(key, record);
            Ok(match self.store.complete(&self.keys.name(key), &sent, recreate_until).await? {
                Completed::Refused(Some(held)) => Completed::Refused(Some(self.read(key, held)?)),
                completed => completed,
            })
        })
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move { self.store.release(&self.keys.name(key), &self.keys.written(key, attempt)).await })
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        Box::pin(async move {
            match self.store.get(&self.keys.name(key)).await? {
                Some((held, now)) => Ok(Some((self.read(key, held)?, now))),
                None => Ok(None),
            }
        })
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        Box::pin(async move {
            let into = resolution.into.as_ref().map(|record| self.keys.written(key, record));
            self.store.resolve(&self.keys.name(key), &Resolution { into, ..*resolution }).await
        })
    }

    fn time_limit(&self) -> Duration {
        self.store.time_limit()
    }

    fn purge(&self) -> Reply<'_, u64> {
        self.store.purge()
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        Box::pin(async move {
            let Page { records, next } = self.store.list(listing).await?;
            let shown = records.into_iter().map(|listed| {
                let (key, record) = self.keys.listed(listed.key, listed.held.record);
                Listed { key, held: Held { record, ..listed.held }, ..listed }
            });
            Ok(Page { records: shown.collect(), next })
        })
    }

    fn health(&self) -> Reply<'_, Health> {
        self.store.health()
    }

    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn watch<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Watch> {
        Box::pin(async move { self.store.watch(&self.keys.name(key)).await })
    }

    fn form(&self) -> Option<Arc<dyn RecordForm>> {
        Some(self.keys.clone())
    }
}
