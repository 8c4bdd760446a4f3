//! Messages that arrive after their sender has gone on, on the engine itself: courses that the model found.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::place::*;
use idempotency::decide::{Claim, Held, Resolution, Start};
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::store::{Claimed, Completed, Reply, Store};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Idempotency, Micros, Record, State, StorageKey, StoreError, StoreErrorKind};
use tokio::sync::Notify;

/// Memory behind a connection that breaks: the first claim arrives when it is told to, and the answers to so many
/// completions are lost.
#[derive(Clone)]
struct Line(Arc<Shared>);

struct Shared {
    memory: Arc<MemoryStore>,
    late_claims: AtomicUsize,
    lost_completions: AtomicUsize,
    may_arrive: Notify,
    arrived: Notify,
}

fn line(memory: &Arc<MemoryStore>, late_claims: usize, lost_completions: usize) -> Line {
    Line(Arc::new(Shared {
        memory: memory.clone(),
        late_claims: late_claims.into(),
        lost_completions: lost_completions.into(),
        may_arrive: Notify::new(),
        arrived: Notify::new(),
    }))
}

fn takes(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

fn no_answer<T>() -> Result<T, StoreError> {
    Err(StoreError::new(StoreErrorKind::Unknown, "the connection broke"))
}

impl Store for Line {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        if !takes(&self.0.late_claims) {
            return self.0.memory.claim(key, claim);
        }
        let (shared, key, claim) = (self.0.clone(), *key, claim.clone());
        tokio::spawn(async move {
            shared.may_arrive.notified().await;
            assert!(matches!(shared.memory.claim(&key, &claim).await, Ok(Claimed::Yes { .. })));
            shared.arrived.notify_one();
        });
        Box::pin(async { no_answer() })
    }
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.memory.renew(key, attempt)
    }
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        Box::pin(async move {
            let answer = self.0.memory.complete(key, record, recreate_until).await;
            if takes(&self.0.lost_completions) { no_answer() } else { answer }
        })
    }
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.memory.release(key, attempt)
    }
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.0.memory.get(key)
    }
    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        self.0.memory.resolve(key, resolution)
    }
}

fn engine(store: impl Store, lease: Duration) -> Idempotency {
    Idempotency::new(store).ttl(Duration::from_secs(60)).lease(lease)
}

#[tokio::test]
async fn work_does_not_begin_on_a_lapsed_claim_that_met_itself() {
    let memory = Arc::new(MemoryStore::new());
    let leader = begun(&engine(memory.clone(), Duration::from_secs(10)), &call(1)).await;
    let broken = line(&memory, 1, 0);
    let waiter = engine(broken.clone(), LEASE).wait(Duration::from_secs(10));
    let waiting = tokio::spawn(async move { waiter.begin(&call(1)).await });
    tokio::time::sleep(Duration::from_millis(50)).await; // it has met the leader, and sleeps for half a second at least
    assert_eq!(leader.settle(Verdict::Release).await, Settled::Stored);
    broken.0.may_arrive.notify_one();
    broken.0.arrived.notified().await;
    let Ok(Ok(Begun::Run(mut first))) = waiting.await else { panic!("it met itself") };
    let other = engine(memory.clone(), LEASE);
    let second = match other.begin(&call(1)).await.unwrap() {
        Begun::Run(mut attempt) => Some(attempt.start()),
        _ => None,
    };
    let first = first.start();
    assert!(!(first == Start::Now && second == Some(Start::Now)), "both begin");
}

/// What stands once the lease and the grace after the outage are over.
async fn settled_state(engine: &Idempotency) -> Result<Begun, StoreError> {
    loop {
        match engine.begin(&call(1)).await {
            Ok(Begun::InFlight { .. }) => tokio::time::sleep(LEASE).await,
            met => return met,
        }
    }
}

#[tokio::test]
async fn a_claim_that_arrives_after_its_call_has_ended_is_given_back() {
    let memory = Arc::new(MemoryStore::new());
    let leader = begun(&engine(memory.clone(), Duration::from_secs(10)), &call(1)).await;
    let broken = line(&memory, 1, 0);
    let refusing = engine(broken.clone(), LEASE).after_crash(AfterCrash::Refuse);
    assert!(matches!(refusing.begin(&call(1)).await, Ok(Begun::InFlight { .. })));
    assert_eq!(leader.settle(Verdict::Release).await, Settled::Stored);
    broken.0.may_arrive.notify_one();
    broken.0.arrived.notified().await;
    let met = settled_state(&refusing).await;
    assert!(matches!(met, Ok(Begun::Run(_))), "nothing ever ran, and the key is {met:?}");
}

#[tokio::test]
async fn a_first_sending_that_arrives_after_the_end_of_the_attempt_is_given_back() {
    let memory = Arc::new(MemoryStore::new());
    let broken = line(&memory, 1, 0);
    let refusing = engine(broken.clone(), LEASE).after_crash(AfterCrash::Refuse);
    let attempt = begun(&refusing, &call(1)).await;
    assert_eq!(attempt.settle(Verdict::Release).await, Settled::Stored);
    broken.0.may_arrive.notify_one();
    broken.0.arrived.notified().await;
    let met = settled_state(&refusing).await;
    assert!(matches!(met, Ok(Begun::Run(_))), "nothing ever ran, and the key is {met:?}");
}

/// The operator removes what it has seen. The attempt's word is the later one, and it says that nothing may run.
#[tokio::test]
async fn a_hold_that_is_sent_again_stands_although_an_operator_has_removed_it() {
    let memory = Arc::new(MemoryStore::new());
    let broken = line(&memory, 0, 2); // both sendings of the caller's; the keeper sends again 50 ms later
    let refusing = engine(broken, Duration::from_secs(10)).after_crash(AfterCrash::Refuse);
    let mut attempt = begun(&refusing, &call(1)).await;
    assert_eq!(attempt.start(), Start::Now);
    assert_eq!(attempt.settle(Verdict::Fail).await, Settled::Deferred);
    let (held, _) = memory.get(&call(1).key).await.unwrap().unwrap();
    assert_eq!(held.record.state, State::Unknown);
    assert!(refusing.resolve(&call(1).key, held.record.fence, None, false).await.unwrap());
    drained(&refusing).await;
    let stands = memory.get(&call(1).key).await.unwrap().map(|(held, _)| held.record.state);
    assert_eq!(stands, Some(State::Unknown));
}

on_every_store! { an_attempt_whose_claim_an_operator_has_removed_stores_its_result_unless_another_has_the_key }

async fn an_attempt_whose_claim_an_operator_has_removed_stores_its_result_unless_another_has_the_key(place: Place) {
    let engine = place.engine();
    for is_claimed_again in [false, true] {
        let call = call(u8::from(is_claimed_again));
        let mut attempt = begun(&engine, &call).await;
        assert_eq!(attempt.start(), Start::Now);
        assert!(place.engine().resolve(&call.key, attempt.fence(), None, true).await.unwrap());
        let other = if is_claimed_again { Some(begun(&place.engine(), &call).await) } else { None };
        let settled = attempt.settle(complete("late")).await;
        assert_eq!(settled, if is_claimed_again { Settled::Lost } else { Settled::Stored });
        match other {
            Some(other) => assert_eq!(other.settle(complete("another")).await, Settled::Stored),
            None => {
                assert!(matches!(place.engine().begin(&call).await, Ok(Begun::Replay(result)) if *result == *b"late"))
            }
        }
    }
}
