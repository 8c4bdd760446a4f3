//! [`Rehearsal`]: a test's store, which stands in for every other one: in memory, on a clock that the test moves, with
//! crashes on request.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idempotency::clock::FakeClock;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::store::{Claimed, Completed, Listing, Page, Reply, Store, Watch};
use idempotency::stores::MemoryStore;
use idempotency::{Record, StorageKey, Token};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::boundary::convert::seconds;

static REHEARSES: AtomicBool = AtomicBool::new(false);
static STAGE: LazyLock<Mutex<Stage>> = LazyLock::new(Mutex::default);

/// Whether there is a rehearsal.
pub fn is_on() -> bool {
    REHEARSES.load(Ordering::Acquire)
}

struct Stage {
    clock: FakeClock,
    memory: Arc<MemoryStore>,
    living: HashSet<Token>,
    /// Attempts of a process that is said to have crashed: nothing they send arrives.
    dead: HashSet<Token>,
}

impl Default for Stage {
    fn default() -> Self {
        let clock = FakeClock::default();
        let memory = Arc::new(MemoryStore::with_clock(Arc::new(clock.clone())));
        Self { clock, memory, living: HashSet::new(), dead: HashSet::new() }
    }
}

fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A rehearsal. There is one at a time; it begins with no records.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Rehearsal;

#[pymethods]
impl Rehearsal {
    #[new]
    fn new() -> PyResult<Self> {
        if REHEARSES.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err("there is a rehearsal already; end it first"));
        }
        let mut stage = stage();
        let before = std::mem::take(&mut *stage);
        stage.dead = before.living; // what earlier tests left behind does not act in this one
        Ok(Self)
    }

    /// Moves the clock on.
    fn advance(&self, by: f64) -> PyResult<()> {
        stage().clock.advance(seconds("the time to advance", by)?);
        Ok(())
    }

    /// All attempts that are under way end as in a process that is killed: their claims are left to lapse.
    fn crash(&self) {
        let mut stage = stage();
        let crashed = std::mem::take(&mut stage.living);
        stage.dead.extend(crashed);
    }

    /// Every backend is itself again.
    fn end(&self) {
        REHEARSES.store(false, Ordering::Release);
    }
}

/// The store of the rehearsal.
pub struct Rehearsed;

/// The memory, but for an attempt that is dead.
fn memory_for(attempt: Token) -> Option<Arc<MemoryStore>> {
    let stage = stage();
    (!stage.dead.contains(&attempt)).then(|| stage.memory.clone())
}

fn memory() -> Arc<MemoryStore> {
    stage().memory.clone()
}

impl Store for Rehearsed {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        stage().living.insert(claim.record.token);
        Box::pin(async { memory().claim(key, claim).await })
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async {
            match memory_for(attempt.token) {
                Some(memory) => memory.renew(key, attempt).await,
                None => Ok(false),
            }
        })
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: u64) -> Reply<'a, Completed> {
        Box::pin(async move {
            match memory_for(record.token) {
                Some(memory) => memory.complete(key, record, recreate_until).await,
                None => Ok(Completed::Refused(None)),
            }
        })
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async {
            match memory_for(attempt.token) {
                Some(memory) => memory.release(key, attempt).await,
                None => Ok(false),
            }
        })
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, u64)>> {
        Box::pin(async { memory().get(key).await })
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        Box::pin(async move { memory().resolve(key, resolution).await })
    }

    fn purge(&self) -> Reply<'_, u64> {
        Box::pin(async { memory().purge().await })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        Box::pin(async move { memory().list(listing).await })
    }

    fn watch<'a>(&'a self, _key: &'a StorageKey) -> Reply<'a, Watch> {
        // Looked at often, for the clock moves in leaps.
        Box::pin(std::future::ready(Ok(Watch { changed: None, poll: Duration::from_millis(5) })))
    }
}
