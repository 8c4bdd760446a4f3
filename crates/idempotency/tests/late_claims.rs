//! A claim that times out on its way, and reaches the store after its release did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use idempotency::clock::FakeClock;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::engine::{Begun, Call};
use idempotency::store::{Claimed, Completed, Reply, Store};
use idempotency::stores::MemoryStore;
use idempotency::{
    AfterCrash, Digest, Fingerprint, Idempotency, Key, Micros, Operation, Options, Record, Scope, StorageKey,
    StoreError, StoreErrorKind,
};
use tokio::sync::Notify;

/// Memory whose first claim gets no answer, and is taken when the release has been and gone.
#[derive(Clone)]
struct Late(Arc<Shared>);

struct Shared {
    memory: MemoryStore,
    is_first: AtomicBool,
    released: Notify,
    arrived: Notify,
}

impl Store for Late {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        if !self.0.is_first.swap(false, Ordering::SeqCst) {
            return self.0.memory.claim(key, claim);
        }
        let (shared, key, claim) = (self.0.clone(), *key, claim.clone());
        tokio::spawn(async move {
            shared.released.notified().await;
            assert!(matches!(shared.memory.claim(&key, &claim).await, Ok(Claimed::Yes { .. })));
            shared.arrived.notify_one();
        });
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(120)).await; // too slow to be asked for again at once
            Err(StoreError::new(StoreErrorKind::Unknown, "no answer"))
        })
    }
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.memory.renew(key, attempt)
    }
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        self.0.memory.complete(key, record, recreate_until)
    }
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move {
            let own = self.0.memory.release(key, attempt).await;
            self.0.released.notify_one();
            own
        })
    }
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.0.memory.get(key)
    }
    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        self.0.memory.resolve(key, resolution)
    }
}

#[tokio::test]
async fn a_claim_that_arrives_after_its_release_is_released_all_the_same() {
    // The clock stands still: no lease lapses by itself.
    let memory = MemoryStore::with_clock(Arc::new(FakeClock::default()));
    let (released, arrived) = (Notify::new(), Notify::new());
    let late = Late(Arc::new(Shared { memory, is_first: AtomicBool::new(true), released, arrived }));
    let options = Options::new().after_crash(AfterCrash::Refuse);
    let engine = Idempotency::new(late.clone()).with_options(options).unwrap();
    let scope = Scope { namespace: "", operation: Operation::Call("charge"), caller: None };
    let call = Call::new(&scope, &Key::new("k").unwrap(), Fingerprint(Digest::new("x").finish()));
    assert!(engine.begin(&call).await.is_err());
    late.0.arrived.notified().await;
    let free = async {
        while !matches!(engine.begin(&call).await, Ok(Begun::Run(_))) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.expect("nothing ever ran: the key is free again");
}
