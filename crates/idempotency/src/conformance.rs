//! What every store must do, as one suite: [`check`].

use std::sync::Arc;
use std::time::Duration;

use crate::decide::{Claim, Held, Resolution};
use crate::error::{StoreError, StoreErrorKind};
use crate::fingerprint::{Digest, Fingerprint};
use crate::key::{Key, Operation, Scope, StorageKey};
use crate::record::{AfterCrash, Micros, Record, State, Token};
use crate::store::{Claimed, Completed, Cursor, Listed, Listing, Store};

const LEASE: Duration = Duration::from_millis(150);
const TTL: Duration = Duration::from_millis(600);
/// Long enough that nothing lapses while a step is checked.
const LONG: Duration = Duration::from_secs(60);
/// Until when an absent record is written: not at all.
const NEVER: Micros = 0;

/// Checks a store against every rule of [`Store`]. It uses keys of its own; an empty store is not needed.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use idempotency::{conformance, stores::MemoryStore};
/// conformance::check(MemoryStore::new()).await;
/// # });
/// ```
///
/// # Panics
/// At the first rule that does not hold, in words that name it.
pub async fn check(store: impl Store) {
    let store: Arc<dyn Store> = Arc::new(store);
    let store = &*store;
    a_claim_stands(store).await;
    an_attempt_recognises_itself(store).await;
    only_the_owner_renews(store).await;
    a_completion_is_kept_as_it_is(store).await;
    only_the_owner_completes(store).await;
    only_the_owner_releases(store).await;
    a_lapsed_claim_is_taken_over_once(store).await;
    a_renewed_claim_is_not_taken_over(store).await;
    a_late_owner_that_nobody_followed_completes(store).await;
    an_absent_record_is_recreated_only_in_time(store).await;
    a_lapsed_record_stays_for_its_ttl(store).await;
    a_completed_record_expires(store).await;
    fences_grow(store).await;
    an_operator_resolves_what_is_unknown_or_lapsed(store).await;
    an_operator_does_not_resolve_what_came_back_to_life_or_ended(store).await;
    of_many_claims_one_holds(store).await;
    keys_do_not_meet(store).await;
    records_are_listed(store).await;
    store.purge().await.answers();
    store.health().await.answers();
    store.watch(&fresh_key()).await.answers();
}

/// What an operation answers; its failure in its own words.
trait Answers<T> {
    fn answers(self) -> T;
}

impl<T> Answers<T> for Result<T, StoreError> {
    fn answers(self) -> T {
        self.unwrap_or_else(|error| panic!("an operation failed: {error}"))
    }
}

fn fresh_key() -> StorageKey {
    let unique = Token::random();
    let scope = Scope { namespace: "conformance", operation: Operation::Call("check"), caller: Some(&unique.0) };
    scope.storage_key(&Key::new("k").expect("a valid key"))
}

fn attempt(lease: Duration, ttl: Duration) -> Record {
    Record {
        state: State::InFlight,
        after_crash: AfterCrash::Refuse,
        token: Token::random(),
        fence: 0,
        lease: crate::clock::micros(lease),
        ttl: crate::clock::micros(ttl),
        fingerprint: Fingerprint(Digest::new("conformance").finish()),
        label: "conformance ü".into(),
        result: [].into(),
    }
}

fn completed(attempt: &Record, result: &[u8]) -> Record {
    Record { state: State::Completed, result: result.into(), ..attempt.clone() }
}

async fn claim(store: &dyn Store, key: &StorageKey, record: &Record, takes_over: Option<&Record>) -> Claimed {
    let claim = Claim { record: record.clone(), takes_over: takes_over.cloned() };
    store.claim(key, &claim).await.answers()
}

/// Claims, which must succeed; the attempt with its fence.
async fn claimed(store: &dyn Store, key: &StorageKey, record: Record, takes_over: Option<&Record>) -> Record {
    match claim(store, key, &record, takes_over).await {
        Claimed::Yes { fence } => Record { fence, ..record },
        Claimed::No { held, .. } => panic!("a claim on a free key must succeed; it was refused by {held:?}"),
    }
}

async fn refused(store: &dyn Store, key: &StorageKey, record: Record, takes_over: Option<&Record>, rule: &str) -> Held {
    match claim(store, key, &record, takes_over).await {
        Claimed::No { held, .. } => held,
        Claimed::Yes { .. } => panic!("{rule}"),
    }
}

async fn stored(store: &dyn Store, key: &StorageKey) -> Option<Record> {
    store.get(key).await.answers().map(|(held, _)| held.record)
}

async fn pass(duration: Duration) {
    tokio::time::sleep(duration + Duration::from_millis(60)).await;
}

async fn a_claim_stands(store: &dyn Store) {
    let key = fresh_key();
    assert_eq!(stored(store, &key).await, None, "an unused key is absent");
    let first = claimed(store, &key, attempt(LONG, LONG), None).await;
    let claim = Claim { record: attempt(LONG, LONG), takes_over: None };
    let Claimed::No { held, now } = store.claim(&key, &claim).await.answers() else {
        panic!("a second claim on a live key must be refused");
    };
    assert_eq!(held.record, first, "a refused claim is told exactly what stands there");
    let left = held.lease_end.saturating_sub(now);
    let lease = crate::clock::micros(LONG);
    assert!(
        left <= lease + 2_000 && left > lease - 10_000_000,
        "the lease ends {LONG:?} after the claim, not {left} µs from now"
    );
}

async fn an_attempt_recognises_itself(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LONG, LONG), None).await;
    let held =
        refused(store, &key, Record { fence: 0, ..own.clone() }, None, "a claim sent twice must not be written twice")
            .await;
    assert_eq!(held.record, own, "a claim sent twice finds itself, fence and all");
}

async fn only_the_owner_renews(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LEASE, TTL), None).await;
    for _ in 0..5 {
        tokio::time::sleep(LEASE / 2).await;
        assert!(store.renew(&key, &own).await.answers(), "an owner renews its claim");
    }
    let (held, now) = store.get(&key).await.answers().expect("a renewed claim is there");
    assert!(held.lease_end > now, "a renewed lease has not ended");
    assert_eq!(held.record, own, "a renewal changes nothing but the lease");
    assert!(!store.renew(&key, &attempt(LEASE, TTL)).await.answers(), "a stranger does not renew");
    assert!(!store.renew(&fresh_key(), &own).await.answers(), "an absent claim is not renewed");
}

async fn a_completion_is_kept_as_it_is(store: &dyn Store) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for result in [&b""[..], b"\0", &every_byte] {
        let key = fresh_key();
        let own = claimed(store, &key, attempt(LONG, LONG), None).await;
        let done = completed(&own, result);
        for _ in 0..2 {
            let answer = store.complete(&key, &done, NEVER).await.answers();
            assert!(matches!(answer, Completed::Stored), "an owner completes, and sending it again succeeds");
        }
        let again = store.complete(&key, &completed(&own, b"other"), Micros::MAX).await.answers();
        assert!(matches!(again, Completed::Stored), "a completion sent again succeeds");
        assert_eq!(
            stored(store, &key).await,
            Some(done.clone()),
            "a stored result is kept byte for byte and never changes"
        );
        let held = refused(store, &key, attempt(LONG, LONG), None, "a completed key is not claimed").await;
        assert_eq!(held.record, done, "a claim on a completed key is told its record");
        assert!(!store.renew(&key, &own).await.answers(), "a completed record is not renewed");
    }
}

async fn only_the_owner_completes(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LONG, LONG), None).await;
    let stranger = completed(&attempt(LONG, LONG), b"x");
    match store.complete(&key, &stranger, Micros::MAX).await.answers() {
        Completed::Refused(Some(held)) => {
            assert_eq!(held.record, own, "a refused completion is told what stands there")
        }
        other => panic!("a stranger's completion must be refused, not {other:?}"),
    }
    assert_eq!(stored(store, &key).await, Some(own), "a refused completion changes nothing");
}

async fn only_the_owner_releases(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LONG, LONG), None).await;
    assert!(!store.release(&key, &attempt(LONG, LONG)).await.answers(), "a stranger does not release");
    assert_eq!(stored(store, &key).await, Some(own.clone()), "a refused release changes nothing");
    assert!(store.release(&key, &own).await.answers(), "an owner releases its claim");
    assert!(!store.release(&key, &own).await.answers(), "a released claim is gone");
    assert_eq!(stored(store, &key).await, None, "a released key is absent");
    let next = claimed(store, &key, attempt(LONG, LONG), None).await;
    store.complete(&key, &completed(&next, b"r"), NEVER).await.answers();
    assert!(!store.release(&key, &next).await.answers(), "a completed record is not released, not even by its owner");
    assert!(stored(store, &key).await.is_some(), "a completed record stays");
}

async fn a_lapsed_claim_is_taken_over_once(store: &dyn Store) {
    let key = fresh_key();
    let first = claimed(store, &key, attempt(LEASE, LONG), None).await;
    refused(store, &key, attempt(LEASE, LONG), Some(&first), "a live claim must not be taken over").await;
    pass(LEASE).await;
    let (held, now) = store.get(&key).await.answers().expect("a lapsed claim stays for its `ttl`");
    assert!(held.lease_end <= now, "a lease ends after {LEASE:?}");
    refused(store, &key, attempt(LONG, LONG), None, "a lapsed claim is only replaced by one who has seen it").await;
    let second = claimed(store, &key, attempt(LONG, LONG), Some(&first)).await;
    assert!(second.fence > first.fence, "the fence grows when a claim is taken over");
    refused(store, &key, attempt(LONG, LONG), Some(&first), "a claim is taken over once").await;
    assert!(!store.renew(&key, &first).await.answers(), "who was taken over does not renew");
    assert!(!store.release(&key, &first).await.answers(), "who was taken over does not release");
    let late = store.complete(&key, &completed(&first, b"late"), Micros::MAX).await.answers();
    assert!(matches!(late, Completed::Refused(Some(_))), "who was taken over does not complete");
    assert_eq!(stored(store, &key).await, Some(second), "who was taken over changes nothing");
}

async fn a_renewed_claim_is_not_taken_over(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LEASE, LONG), None).await;
    pass(LEASE).await;
    assert!(store.renew(&key, &own).await.answers(), "a late renewal is fine while the token matches");
    refused(
        store,
        &key,
        attempt(LEASE, LONG),
        Some(&own),
        "a claim seen lapsed and renewed since must not be taken over",
    )
    .await;
}

async fn a_late_owner_that_nobody_followed_completes(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LEASE, LONG), None).await;
    pass(LEASE).await;
    let answer = store.complete(&key, &completed(&own, b"late"), NEVER).await.answers();
    assert!(matches!(answer, Completed::Stored), "completing late is fine while the token matches");
}

async fn an_absent_record_is_recreated_only_in_time(store: &dyn Store) {
    let key = fresh_key();
    // A fence is the clock at the claim.
    let own = claimed(store, &key, attempt(LONG, LONG), None).await;
    let (lost, lease_end) = (completed(&own, b"r"), own.fence + own.lease);
    assert!(store.release(&key, &own).await.answers(), "an owner releases its claim");
    pass(Duration::ZERO).await; // the clock is past the fence by now
    for too_late in [NEVER, own.fence] {
        let answer = store.complete(&key, &lost, too_late).await.answers();
        assert!(matches!(answer, Completed::Refused(None)), "an absent claim is not completed once its time is over");
        assert_eq!(stored(store, &key).await, None, "a refused completion writes nothing");
    }
    let answer = store.complete(&key, &lost, lease_end).await.answers();
    assert!(matches!(answer, Completed::Stored), "an absent record is recreated before the time given");
    assert_eq!(stored(store, &key).await, Some(lost), "a recreated record is complete");
}

async fn a_lapsed_record_stays_for_its_ttl(store: &dyn Store) {
    let key = fresh_key();
    claimed(store, &key, attempt(LEASE, TTL), None).await;
    pass(LEASE).await;
    assert!(
        stored(store, &key).await.is_some(),
        "an in-flight record outlives its lease, so that the crash can be told"
    );
    pass(TTL).await;
    assert_eq!(stored(store, &key).await, None, "an in-flight record goes `ttl` after its last renewal");
}

async fn a_completed_record_expires(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LEASE, TTL), None).await;
    tokio::time::sleep(LEASE).await;
    store.complete(&key, &completed(&own, b"r"), NEVER).await.answers();
    tokio::time::sleep(TTL - LEASE / 2).await;
    assert!(stored(store, &key).await.is_some(), "`ttl` counts from the completion");
    pass(LEASE).await;
    assert_eq!(stored(store, &key).await, None, "a completed record goes after `ttl`");
    let next = claimed(store, &key, attempt(LEASE, TTL), None).await;
    assert!(next.fence > own.fence, "the fence grows across expiry");
}

async fn fences_grow(store: &dyn Store) {
    let key = fresh_key();
    let mut last = 0;
    for _ in 0..3 {
        let own = claimed(store, &key, attempt(LONG, LONG), None).await;
        assert!(own.fence > last, "the fence grows across releases");
        last = own.fence;
        assert!(store.release(&key, &own).await.answers(), "an owner releases");
        tokio::time::sleep(Duration::from_millis(2)).await; // the fence is a clock in µs
    }
}

async fn resolve(store: &dyn Store, key: &StorageKey, fence: u64, into: Option<&Record>, force: bool) -> bool {
    let resolution = Resolution { fence, into: into.cloned(), force };
    store.resolve(key, &resolution).await.answers()
}

async fn an_operator_resolves_what_is_unknown_or_lapsed(store: &dyn Store) {
    for is_unknown in [true, false] {
        let key = fresh_key();
        let own = claimed(store, &key, attempt(LEASE, LONG), None).await;
        let word = Record { token: Token::random(), ..completed(&own, b"by hand") };
        assert!(!resolve(store, &key, own.fence, None, false).await, "a live claim is not removed");
        assert!(!resolve(store, &key, own.fence, Some(&word), false).await, "a live claim is not resolved");
        let seen = match is_unknown {
            true => Record { state: State::Unknown, ..own.clone() },
            false => own.clone(),
        };
        match is_unknown {
            true => drop(store.complete(&key, &seen, NEVER).await.answers()),
            false => pass(LEASE).await,
        }
        assert!(!resolve(store, &key, own.fence + 1, Some(&word), true).await, "another fence is not resolved");
        assert!(!resolve(store, &key, own.fence + 1, None, true).await, "another fence is not removed");
        assert_eq!(stored(store, &key).await, Some(seen), "a refused resolution changes nothing");
        assert!(resolve(store, &key, own.fence, Some(&word), false).await, "what is unknown or lapsed is resolved");
        assert_eq!(stored(store, &key).await, Some(word), "a resolved record is the operator's");
        let late = store.complete(&key, &completed(&own, b"late"), Micros::MAX).await.answers();
        assert!(matches!(late, Completed::Refused(Some(_))), "the old attempt does not overwrite an operator's word");
    }
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LEASE, LONG), None).await;
    pass(LEASE).await;
    assert!(resolve(store, &key, own.fence, None, false).await, "what has lapsed is removed");
    assert_eq!(stored(store, &key).await, None, "a removed record is absent");
}

async fn an_operator_does_not_resolve_what_came_back_to_life_or_ended(store: &dyn Store) {
    let key = fresh_key();
    let own = claimed(store, &key, attempt(LEASE, LONG), None).await;
    pass(LEASE).await;
    assert!(store.renew(&key, &own).await.answers(), "a late renewal is fine while the token matches");
    assert!(!resolve(store, &key, own.fence, None, false).await, "a claim that came back to life is not removed");
    let done = completed(&own, b"r");
    store.complete(&key, &done, NEVER).await.answers();
    let word = Record { token: Token::random(), ..completed(&own, b"by hand") };
    for into in [None, Some(&word)] {
        assert!(!resolve(store, &key, own.fence, into, false).await, "a stored result is not resolved");
        assert_eq!(stored(store, &key).await, Some(done.clone()), "a refused resolution changes nothing");
    }
    assert!(resolve(store, &key, own.fence, Some(&word), true).await, "an operator who insists replaces a result");
    assert!(resolve(store, &key, own.fence, None, true).await, "an operator who insists removes a result");
    let live = claimed(store, &key, attempt(LONG, LONG), None).await;
    assert!(resolve(store, &key, live.fence, None, true).await, "an operator who insists removes a live claim");
    assert!(!resolve(store, &key, live.fence, None, true).await, "an absent record is not resolved");
}

async fn records_are_listed(store: &dyn Store) {
    let running = claimed(store, &fresh_key(), attempt(LONG, LONG), None).await;
    let lapsed = claimed(store, &fresh_key(), attempt(LEASE, LONG), None).await;
    let (unknown_key, done_key) = (fresh_key(), fresh_key());
    let unknown = claimed(store, &unknown_key, attempt(LONG, LONG), None).await;
    let held = Record { state: State::Unknown, ..unknown.clone() };
    store.complete(&unknown_key, &held, NEVER).await.expect("a completion is answered");
    let done = claimed(store, &done_key, attempt(LONG, LONG), None).await;
    store.complete(&done_key, &completed(&done, b"r"), NEVER).await.expect("a completion is answered");
    pass(LEASE).await;
    let listed = match every_page(store, Listing::unfinished()).await {
        Ok(listed) => listed,
        Err(error) if error.kind() == StoreErrorKind::Setup => return, // a store need not be able to
        Err(error) => panic!("a list is answered, not {error}"),
    };
    let of = |token: Token| listed.iter().filter(|found| found.held.record.token == token).collect::<Vec<_>>();
    for (own, is_held) in [(&running, true), (&lapsed, false)] {
        let [found] = of(own.token)[..] else { panic!("what is in flight is listed once") };
        assert_eq!(found.held.record, *own, "what is listed is told as it stands");
        assert_eq!(found.held.lease_end > found.now, is_held, "a listed lease ends when it ends");
        assert!(found.life_left.is_none_or(|left| 0 < left && left <= own.ttl), "a listed record has its life left");
        assert_eq!(stored(store, &found.key).await.as_ref(), Some(own), "what is listed is found by its key");
    }
    assert_eq!(of(unknown.token).len(), 1, "what is unknown is listed");
    assert!(of(done.token).is_empty(), "what is completed is not listed where it is not asked for");
    let all = every_page(store, Listing::everything().most(1)).await.answers();
    for own in [&running, &lapsed, &unknown, &done] {
        let is_own = |found: &&Listed| found.held.record.token == own.token;
        assert!(all.iter().any(|found| is_own(&found)), "pages of any size are all of the list");
    }
    let found = every_page(store, Listing::of([State::Completed])).await.answers();
    let found = found.iter().find(|found| found.held.record.token == done.token).expect("what is completed is listed");
    let done = completed(&done, b"r");
    assert_eq!(found.held.record, Record { result: Arc::default(), ..done.clone() }, "a result is not listed");
    // A sealed result is longer.
    assert!(found.size >= done.encoded_len(), "a listed record has the size of all of it");
    let lost = Listing::unfinished().after(Cursor::new("nowhere"));
    let error = store.list(&lost).await.expect_err("a list does not go on where it never was");
    assert_eq!(error.kind(), StoreErrorKind::Setup, "a cursor of another store is a mistake, not a failure");
}

/// All of a list, each record once.
async fn every_page(store: &dyn Store, mut listing: Listing) -> Result<Vec<Listed>, StoreError> {
    let mut all = vec![];
    loop {
        let page = store.list(&listing).await?;
        for found in page.records {
            if all.iter().all(|known: &Listed| known.key != found.key) {
                all.push(found);
            }
        }
        let Some(next) = page.next else { return Ok(all) };
        listing = listing.after(next);
    }
}

async fn of_many_claims_one_holds(store: &dyn Store) {
    let key = fresh_key();
    let claims = (0..50).map(|_| Claim { record: attempt(LONG, LONG), takes_over: None }).collect::<Vec<_>>();
    let mut waiting: Vec<_> = claims.iter().map(|claim| Some(store.claim(&key, claim))).collect();
    let mut held = 0;
    // All are under way before the first is awaited.
    std::future::poll_fn(|context| {
        for slot in &mut waiting {
            if let Some(std::task::Poll::Ready(answer)) = slot.as_mut().map(|future| future.as_mut().poll(context)) {
                held += usize::from(matches!(answer.answers(), Claimed::Yes { .. }));
                *slot = None;
            }
        }
        if waiting.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!(held, 1, "of 50 claims at once exactly one holds");
}

async fn keys_do_not_meet(store: &dyn Store) {
    let (one, two) = (fresh_key(), fresh_key());
    let own = claimed(store, &one, attempt(LONG, LONG), None).await;
    assert_eq!(stored(store, &two).await, None, "a claim on one key is not one on another");
    assert!(!store.release(&two, &own).await.answers(), "a release is of its own key");
    assert!(stored(store, &one).await.is_some(), "a release of another key changes nothing");
}
