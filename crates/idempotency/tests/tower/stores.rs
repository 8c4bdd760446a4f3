//! A store that is down, slow, or has another's answer.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::store::{Claimed, Completed, Listing, Page, Reply, Store};
use idempotency::stores::MemoryStore;
use idempotency::tower::IdempotencyLayer;
use idempotency::{Idempotency, Micros, Record, State, StorageKey, StoreError, StoreErrorKind};
use tokio::sync::{Semaphore, mpsc};

use super::support::*;

/// Memory that a test makes fail, or wait.
#[derive(Clone)]
pub struct Faulty(Arc<Inner>);

struct Inner {
    memory: MemoryStore,
    down: Mutex<&'static str>,
    holds: Mutex<&'static str>,
    held: mpsc::UnboundedSender<()>,
    holding: tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>,
    go: Semaphore,
}

impl Faulty {
    pub fn new() -> Self {
        let (held, holding) = mpsc::unbounded_channel();
        let (down, holds) = Default::default();
        let go = Semaphore::new(0);
        Self(Arc::new(Inner { memory: MemoryStore::new(), down, holds, held, holding: holding.into(), go }))
    }

    /// The next operation of this name waits.
    pub fn hold(&self, operation: &'static str) {
        *self.0.holds.lock().unwrap() = operation;
    }

    /// Returns when it waits.
    pub async fn held(&self) {
        soon(self.0.holding.lock().await.recv()).await.unwrap();
    }

    pub fn let_go(&self) {
        self.0.go.add_permits(1);
    }

    /// Operations of this name fail.
    pub fn fail(&self, operation: &'static str) {
        *self.0.down.lock().unwrap() = operation;
    }

    fn pass<'a, T: Send + 'a>(
        &'a self,
        name: &'static str,
        operation: impl FnOnce() -> Reply<'a, T> + Send + 'a,
    ) -> Reply<'a, T> {
        Box::pin(async move {
            let waits = {
                let mut holds = self.0.holds.lock().unwrap();
                *holds == name && !std::mem::take(&mut *holds).is_empty()
            };
            if waits {
                self.0.held.send(()).unwrap();
                self.0.go.acquire().await.unwrap().forget();
            }
            if *self.0.down.lock().unwrap() == name {
                return Err(StoreError::new(StoreErrorKind::NotExecuted, "the line is cut"));
            }
            operation().await
        })
    }
}

impl Store for Faulty {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        self.pass("claim", move || self.0.memory.claim(key, claim))
    }
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.pass("renew", move || self.0.memory.renew(key, attempt))
    }
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, until: Micros) -> Reply<'a, Completed> {
        self.pass("complete", move || self.0.memory.complete(key, record, until))
    }
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.pass("release", move || self.0.memory.release(key, attempt))
    }
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.0.memory.get(key)
    }
    fn resolve<'a>(&'a self, key: &'a StorageKey, word: &'a Resolution) -> Reply<'a, bool> {
        self.0.memory.resolve(key, word)
    }
    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        self.0.memory.list(listing)
    }
}

async fn counting(store: &Faulty) -> (Server, Keeper, IdempotencyLayer) {
    let (gate, keeper) = gate();
    let layer = IdempotencyLayer::new(Idempotency::new(store.clone()));
    let app = Router::new().route("/pay", post(async move || gate.arrive().to_string())).layer(layer.clone());
    (serve(app).await, keeper, layer)
}

#[tokio::test]
async fn a_store_that_is_down_at_the_claim_runs_nothing() {
    let store = Faulty::new();
    let (server, keeper, _) = counting(&store).await;
    store.fail("claim");
    let refused = pay(&server, "1").await;
    assert_eq!((refused.status.as_u16(), refused.refusal().as_str()), (503, "store-unavailable"));
    assert_eq!((refused.headers["retry-after"].to_str().unwrap(), keeper.runs()), ("1", 0));
    store.fail("");
    assert_eq!(pay(&server, "1").await.text(), "1");
}

#[tokio::test]
async fn a_store_that_is_down_at_the_completion_costs_no_client_its_answer() {
    let store = Faulty::new();
    let (server, keeper, layer) = counting(&store).await;
    store.fail("complete");
    assert_eq!(pay(&server, "1").await.text(), "1");
    assert_eq!(pay(&server, "1").await.refusal(), "processing");
    store.fail("");
    assert!(layer.drain(PATIENCE).await, "it is sent again in the background");
    let repeat = pay(&server, "1").await;
    assert_eq!((repeat.text(), repeat.is_replay(), keeper.runs()), ("1", true, 1));
}

#[tokio::test]
async fn whoever_was_replaced_sends_the_answer_that_is_stored() {
    let store = Faulty::new();
    let idempotency = Idempotency::new(store.clone());
    let (gate, mut keeper) = gate();
    let app = Router::new().route("/pay", post(async move || gate.pass().await.to_string()));
    let server = serve(app.layer(IdempotencyLayer::new(idempotency.clone()))).await;
    let server = Arc::new(server);
    let paying = tokio::spawn({
        let server = server.clone();
        async move { pay(&server, "1").await }
    });
    keeper.arrived().await;
    // An operator completes the key by force, as another attempt would after a takeover.
    let found = idempotency.list(&Listing::unfinished()).await.unwrap().records;
    let [listed] = &found[..] else { panic!("one is in flight: {found:?}") };
    assert_eq!(listed.held.record.state, State::InFlight);
    let answer = idempotency::http::Answer { status: 201, headers: vec![("x-by", "another")], body: "paid" };
    let stored = idempotency::http::store_answer(answer, &[], false).unwrap();
    let fence = listed.held.record.fence;
    assert!(idempotency.resolve(&listed.key, fence, Some(stored.into()), true).await.unwrap());
    keeper.open(1);
    let first = soon(paying).await.unwrap();
    assert_eq!((first.status.as_u16(), first.text(), first.is_replay()), (201, "paid", true));
    assert_eq!(first.headers["x-by"], "another");
}
