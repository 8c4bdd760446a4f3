//! The memory store keeps a record exactly as long as it should, and forgets it without being asked for it.

use std::sync::Arc;
use std::time::Duration;

use idempotency::clock::FakeClock;
use idempotency::decide::Claim;
use idempotency::store::{Claimed, Completed};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Fingerprint, Record, State, StorageKey, Store, Token};

const KEY: StorageKey = StorageKey([7; 32]);
const SECOND: u64 = 1_000_000;

fn store() -> (MemoryStore, FakeClock) {
    let clock = FakeClock::default();
    (MemoryStore::with_clock(Arc::new(clock.clone())), clock)
}

fn record(token: u8, lease: u64, ttl: u64) -> Record {
    Record {
        state: State::InFlight,
        after_crash: AfterCrash::Rerun,
        token: Token([token; 16]),
        fence: 0,
        lease: lease * SECOND,
        ttl: ttl * SECOND,
        fingerprint: Fingerprint([1; 32]),
        label: "test".into(),
        result: Arc::default(),
    }
}

async fn claim(store: &MemoryStore, record: Record, takes_over: Option<Record>) -> Record {
    match store.claim(&KEY, &Claim { record: record.clone(), takes_over }).await {
        Ok(Claimed::Yes { fence }) => Record { fence, ..record },
        other => panic!("{other:?}"),
    }
}

fn pass(clock: &FakeClock, seconds: u64) {
    clock.advance(Duration::from_secs(seconds));
}

#[tokio::test]
async fn a_completion_lives_its_ttl_from_its_own_time() {
    let (store, clock) = store();
    let claimed = claim(&store, record(1, 1, 10), None).await;
    pass(&clock, 8);
    let done = Record { state: State::Completed, result: (*b"done").into(), ..claimed };
    assert!(matches!(store.complete(&KEY, &done, 0).await, Ok(Completed::Stored)));
    pass(&clock, 9); // the claim would have gone long ago
    assert_eq!(store.get(&KEY).await.unwrap().map(|(held, _)| held.record), Some(done));
    pass(&clock, 1);
    assert_eq!(store.len(), 0);
    assert_eq!(store.get(&KEY).await.unwrap(), None);
}

#[tokio::test]
async fn a_renewal_keeps_a_claim_beyond_its_first_life() {
    let (store, clock) = store();
    let claimed = claim(&store, record(1, 10, 10), None).await;
    for _ in 0..5 {
        pass(&clock, 9);
        assert!(store.renew(&KEY, &claimed).await.unwrap());
    }
    assert_eq!(store.len(), 1);
    pass(&clock, 10);
    assert_eq!(store.len(), 0);
}

#[tokio::test]
async fn a_takeover_with_a_shorter_life_goes_at_its_own_time() {
    let (store, clock) = store();
    let lapsed = claim(&store, record(1, 1, 100), None).await;
    pass(&clock, 2);
    claim(&store, record(2, 3, 3), Some(lapsed)).await;
    pass(&clock, 2);
    assert_eq!(store.len(), 1);
    pass(&clock, 1);
    assert_eq!(store.len(), 0, "not when the record that it took the place of would have gone");
}

#[tokio::test]
async fn what_expires_makes_room_for_a_claim() {
    let (store, clock) = store();
    let store = store.max_entries(1);
    let claimed = claim(&store, record(1, 1, 5), None).await;
    assert!(store.release(&KEY, &claimed).await.unwrap());
    claim(&store, record(2, 1, 5), None).await;
    let other = Claim { record: record(3, 1, 5), takes_over: None };
    assert!(store.claim(&StorageKey([8; 32]), &other).await.is_err(), "it is full");
    pass(&clock, 5);
    assert!(matches!(store.claim(&StorageKey([8; 32]), &other).await, Ok(Claimed::Yes { .. })));
    assert_eq!(store.purge().await.unwrap(), 0);
    pass(&clock, 5);
    assert_eq!(store.purge().await.unwrap(), 1);
}
