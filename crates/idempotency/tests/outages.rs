//! A store that is away for a while, or refuses something: what this process holds is looked at before a takeover, and
//! everything goes out once the store answers again.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::place::*;
use idempotency::decide::{Claim, Held, Resolution, Start};
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::store::{Claimed, Completed, Reply, Store};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Idempotency, Micros, Record, State, StorageKey, StoreError, StoreErrorKind};

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It does not reach the store.
    Before(StoreErrorKind),
    /// It is executed, and its answer gets lost.
    After(StoreErrorKind),
}

/// Memory that several processes share, behind a connection of this process's own.
#[derive(Clone)]
struct Link(Arc<Shared>);

struct Shared {
    memory: Arc<MemoryStore>,
    is_down: AtomicBool,
    /// What the next operations of this name meet, first come first.
    faults: Mutex<Vec<(&'static str, Fault)>>,
    /// What every completion with a result meets.
    refuses_results: Mutex<Option<StoreErrorKind>>,
    /// The operations that reached the store, in order.
    seen: Mutex<Vec<&'static str>>,
    sent: AtomicUsize,
}

impl Link {
    fn to(memory: &Arc<MemoryStore>) -> Self {
        Self(Arc::new(Shared {
            memory: memory.clone(),
            is_down: AtomicBool::new(false),
            faults: Mutex::default(),
            refuses_results: Mutex::default(),
            seen: Mutex::default(),
            sent: AtomicUsize::new(0),
        }))
    }

    fn engine(&self) -> Idempotency {
        Idempotency::new(self.clone()).ttl(Duration::from_secs(60)).lease(LEASE)
    }

    fn cut(&self) {
        self.0.is_down.store(true, Ordering::SeqCst);
    }

    fn mend(&self) {
        self.0.is_down.store(false, Ordering::SeqCst);
        self.0.seen.lock().unwrap().clear();
    }

    fn fails(&self, operation: &'static str, fault: Fault) {
        self.0.faults.lock().unwrap().push((operation, fault));
    }

    fn seen(&self) -> Vec<&'static str> {
        self.0.seen.lock().unwrap().clone()
    }

    fn sent(&self) -> usize {
        self.0.sent.load(Ordering::SeqCst)
    }

    async fn pass<'a, T>(&self, name: &'static str, operation: impl FnOnce() -> Reply<'a, T>) -> Result<T, StoreError> {
        self.0.sent.fetch_add(1, Ordering::SeqCst);
        if self.0.is_down.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Unknown, "the connection is cut"));
        }
        let fault = {
            let mut faults = self.0.faults.lock().unwrap();
            faults.iter().position(|(of, _)| *of == name).map(|at| faults.remove(at).1)
        };
        if let Some(Fault::Before(kind)) = fault {
            return Err(StoreError::new(kind, "by the test, before"));
        }
        self.0.seen.lock().unwrap().push(name);
        let answer = operation().await;
        match fault {
            Some(Fault::After(kind)) => Err(StoreError::new(kind, "by the test, after")),
            _ => answer,
        }
    }
}

impl Store for Link {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        Box::pin(self.pass("claim", move || self.0.memory.claim(key, claim)))
    }
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(self.pass("renew", move || self.0.memory.renew(key, attempt)))
    }
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        Box::pin(async move {
            let refused = self.0.refuses_results.lock().unwrap().filter(|_| record.state == State::Completed);
            if let Some(kind) = refused {
                self.0.sent.fetch_add(1, Ordering::SeqCst);
                return Err(StoreError::new(kind, "it has a limit of its own"));
            }
            self.pass("complete", move || self.0.memory.complete(key, record, recreate_until)).await
        })
    }
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(self.pass("release", move || self.0.memory.release(key, attempt)))
    }
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.0.memory.get(key)
    }
    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        self.0.memory.resolve(key, resolution)
    }
    fn time_limit(&self) -> Duration {
        Duration::from_millis(100) // so that the grace is 1.2 s
    }
}

const GRACE: Duration = Duration::from_millis(1200);

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn state(memory: &MemoryStore, key: u8) -> Option<State> {
    memory.get(&call(key).key).await.unwrap().map(|(held, _)| held.record.state)
}

/// Until every lease has lapsed.
async fn outlast() {
    tokio::time::sleep(LEASE * 2).await;
}

#[tokio::test]
async fn an_end_that_waits_is_sent_before_its_own_process_takes_over() {
    let (memory, policies) = (memory(), [AfterCrash::Rerun, AfterCrash::Refuse]);
    for (key, policy) in (1..).zip(policies) {
        let link = Link::to(&memory);
        let engine = link.engine().after_crash(policy);
        let attempt = begun(&engine, &call(key)).await;
        link.cut();
        assert_eq!(attempt.settle(complete("once")).await, Settled::Deferred);
        outlast().await;
        link.mend();
        // The repeat is what finds the store back.
        assert_eq!(replayed(&engine, &call(key)).await, "once", "{policy:?}");
    }
}

#[tokio::test]
async fn an_attempt_that_runs_is_not_taken_over_by_its_own_process() {
    for (key, policy) in [(1, AfterCrash::Rerun), (2, AfterCrash::Refuse)] {
        let link = Link::to(&memory());
        let engine = link.engine().after_crash(policy);
        let attempt = begun(&engine, &call(key)).await;
        link.cut();
        outlast().await;
        link.mend();
        assert!(matches!(engine.begin(&call(key)).await, Ok(Begun::InFlight { .. })), "{policy:?}");
        assert!(!attempt.is_lost());
        assert_eq!(attempt.settle(complete("once")).await, Settled::Stored);
    }
}

#[tokio::test]
async fn owners_that_saw_the_outage_get_a_grace() {
    let memory = memory();
    let (owner, other) = (Link::to(&memory), Link::to(&memory));
    let (owning, looking) = (owner.engine(), other.engine());
    let refusing = looking.clone().after_crash(AfterCrash::Refuse);
    let attempt = begun(&owning, &call(1)).await;
    begun(&owning, &call(2)).await.settle(Verdict::Hold).await; // as a crash: nobody renews it
    for link in [&owner, &other] {
        link.cut();
    }
    assert!(looking.begin(&call(1)).await.is_err());
    outlast().await;
    let back = Instant::now();
    other.mend();
    for engine in [&looking, &refusing] {
        let met = engine.begin(&call(1)).await.unwrap();
        let Begun::InFlight { lease_left } = met else { panic!("taken over, or told as unknown: {met:?}") };
        assert!(lease_left <= GRACE, "{lease_left:?}");
    }
    owner.mend();
    until(
        "the owner renews",
        async || matches!(memory.get(&call(1).key).await, Ok(Some((held, now))) if !held.is_lapsed(now)),
    )
    .await;
    // What nobody renews is free after the grace.
    until("the key is blocked", async || matches!(looking.begin(&call(2)).await, Ok(Begun::Run(_)))).await;
    assert!(back.elapsed() >= GRACE - Duration::from_millis(20), "taken over after {:?}", back.elapsed());
    assert!(matches!(looking.begin(&call(1)).await, Ok(Begun::InFlight { .. })));
    assert_eq!(attempt.settle(complete("once")).await, Settled::Stored);
    assert_eq!(replayed(&looking, &call(1)).await, "once");
}

#[tokio::test]
async fn after_an_outage_ends_go_out_before_renewals_and_renewals_before_releases() {
    let link = Link::to(&memory());
    let engine = link.engine();
    let mut running = vec![];
    for key in 1..=3 {
        running.push(begun(&engine, &call(key)).await);
    }
    let ending = [begun(&engine, &call(4)).await, begun(&engine, &call(5)).await];
    let releasing = [begun(&engine, &call(6)).await, begun(&engine, &call(7)).await];
    link.cut();
    for attempt in releasing {
        attempt.settle(Verdict::Release).await;
    }
    for attempt in ending {
        attempt.settle(complete("end")).await;
    }
    outlast().await;
    link.mend();
    assert!(matches!(engine.begin(&call(9)).await, Ok(Begun::Run(_))), "another key is free");
    until("everything goes out", async || link.seen().len() >= 8).await;
    let seen = link.seen();
    assert_eq!(seen[1..8], ["complete", "complete", "renew", "renew", "renew", "release", "release"], "{seen:?}");
}

#[tokio::test]
async fn a_store_that_is_down_is_asked_one_thing_at_a_time() {
    let link = Link::to(&memory());
    let engine = link.engine().lease(Duration::from_secs(30));
    let mut attempts = vec![];
    for key in 0..200 {
        attempts.push(begun(&engine, &call(key)).await);
    }
    link.cut();
    for attempt in attempts {
        attempt.settle_later(Verdict::Release);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = link.sent();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = link.sent() - before;
    assert!((1..=8).contains(&sent), "{sent} sendings in a second");
    link.mend();
    assert!(engine.drain(Duration::from_secs(3)).await);
    assert_eq!(link.seen().len(), 200);
}

#[tokio::test]
async fn an_end_that_was_deferred_goes_out_with_the_first_answer() {
    let (memory, key) = (memory(), 1);
    let link = Link::to(&memory);
    let engine = link.engine().lease(Duration::from_secs(30));
    let attempt = begun(&engine, &call(key)).await;
    link.cut();
    assert_eq!(attempt.settle(complete("once")).await, Settled::Deferred);
    tokio::time::sleep(Duration::from_secs(1)).await; // the pauses have grown
    link.mend();
    drop(begun(&engine, &call(2)).await);
    let asked = Instant::now();
    until("it goes out", async || state(&memory, key).await == Some(State::Completed)).await;
    assert!(asked.elapsed() < Duration::from_millis(200), "only after {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_store_that_refuses_us_for_a_while_gets_the_end_afterwards() {
    for kind in [StoreErrorKind::Setup, StoreErrorKind::NotExecuted, StoreErrorKind::Full, StoreErrorKind::Unknown] {
        let memory = memory();
        let link = Link::to(&memory);
        let engine = link.engine();
        let attempt = begun(&engine, &call(1)).await;
        for _ in 0..4 {
            link.fails("complete", Fault::Before(kind));
        }
        assert_eq!(attempt.settle(complete("once")).await, Settled::Deferred, "{kind:?}");
        assert!(engine.drain(Duration::from_secs(5)).await, "{kind:?}");
        assert_eq!(replayed(&engine, &call(1)).await, "once", "{kind:?}");
    }
}

#[tokio::test]
async fn a_record_that_is_not_ours_ends_the_trying() {
    let link = Link::to(&memory());
    let engine = link.engine();
    let attempt = begun(&engine, &call(1)).await;
    link.fails("complete", Fault::Before(StoreErrorKind::Foreign));
    assert_eq!(attempt.settle(complete("lost")).await, Settled::Lost);
    assert!(engine.drain(Duration::ZERO).await, "nothing is tried any more");
}

#[tokio::test]
async fn a_result_that_the_store_can_never_take_is_not_kept() {
    for (kind, settled) in [(StoreErrorKind::TooLarge, Settled::NotKept), (StoreErrorKind::Refused, Settled::Deferred)]
    {
        let link = Link::to(&memory());
        let engine = link.engine();
        let attempt = begun(&engine, &call(1)).await;
        *link.0.refuses_results.lock().unwrap() = Some(kind);
        assert_eq!(attempt.settle(complete("too large")).await, settled, "{kind:?}");
        // Somebody else's operations are answered meanwhile; its own renewals would do as well.
        until("it is not kept", async || {
            drop(begun(&engine, &call(2)).await);
            matches!(engine.begin(&call(1)).await, Ok(Begun::NotKept(note)) if note.is_empty())
        })
        .await;
    }
}

#[tokio::test]
async fn of_two_sendings_the_worse_counts() {
    use StoreErrorKind::{NotExecuted, Unknown};
    let ends = [
        (Fault::After(Unknown), Fault::Before(NotExecuted), Unknown),
        (Fault::Before(NotExecuted), Fault::Before(NotExecuted), NotExecuted),
        (Fault::Before(NotExecuted), Fault::After(Unknown), Unknown),
    ];
    for (first, second, kind) in ends {
        let memory = memory();
        let link = Link::to(&memory);
        let engine = link.engine().lease(Duration::from_secs(30)).after_crash(AfterCrash::Refuse);
        link.fails("claim", first);
        link.fails("claim", second);
        assert_eq!(engine.begin(&call(1)).await.unwrap_err().kind(), kind);
        until("the claim is given back", async || state(&memory, 1).await.is_none()).await;
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_given_back_after_an_outage_of_any_length() {
    let memory = memory();
    let link = Link::to(&memory);
    let engine = link.engine().after_crash(AfterCrash::Refuse);
    link.fails("claim", Fault::After(StoreErrorKind::Unknown));
    link.fails("claim", Fault::Before(StoreErrorKind::Unknown));
    let claiming = engine.begin(&call(1)).await;
    link.cut();
    assert!(claiming.is_err());
    outlast().await;
    let other = Link::to(&memory).engine();
    assert!(matches!(other.begin(&call(1)).await, Ok(Begun::Unknown)), "the lease has lapsed, and the claim stands");
    link.mend();
    until("nothing ran: the key is free", async || matches!(other.begin(&call(1)).await, Ok(Begun::Run(_)))).await;
}

#[tokio::test]
async fn a_claim_that_never_came_is_looked_for_a_few_times() {
    let link = Link::to(&memory());
    let engine = link.engine().lease(Duration::from_secs(30));
    link.fails("claim", Fault::Before(StoreErrorKind::Unknown));
    link.fails("claim", Fault::Before(StoreErrorKind::Unknown));
    assert!(engine.begin(&call(1)).await.is_err());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let releases = link.seen().iter().filter(|name| **name == "release").count();
    assert!((3..=4).contains(&releases), "{releases} releases in three seconds");
}

#[tokio::test]
async fn work_does_not_begin_on_a_lease_that_may_have_ended() {
    let memory = memory();
    let link = Link::to(&memory);
    let (engine, other) = (link.engine(), Link::to(&memory).engine());
    // Nobody followed: it is renewed. Somebody followed and ended: their result. Somebody runs.
    for (key, then) in [(1, "run"), (2, "replay"), (3, "in flight"), (4, "mismatch")] {
        link.cut();
        link.mend();
        let mut attempt = begun(&engine, &call(key)).await;
        link.cut(); // no renewal goes out, as in a process that is stopped
        outlast().await;
        let follower = match then {
            "run" => None,
            "mismatch" => {
                begun(&other, &call(key)).await.settle(Verdict::Release).await;
                Some(begun(&other, &paying(key, 1)).await)
            }
            _ => Some(begun(&other, &call(key)).await),
        };
        let follower = match (follower, then) {
            (Some(follower), "replay") => {
                follower.settle(complete("followed")).await;
                None
            }
            (follower, _) => follower,
        };
        link.mend();
        assert_eq!(attempt.start(), Start::AfterRenewal);
        let begun = engine.begin_again(&call(key), attempt).await.unwrap();
        match (then, begun) {
            ("run", Begun::Run(mut attempt)) => {
                assert_eq!(attempt.start(), Start::Now);
                assert_eq!(attempt.settle(complete("renewed")).await, Settled::Stored);
            }
            ("replay", Begun::Replay(result)) => assert_eq!(&result[..], b"followed"),
            ("in flight", Begun::InFlight { .. }) | ("mismatch", Begun::Mismatch) => {}
            (then, begun) => panic!("{then}: {begun:?}"),
        }
        drop(follower);
    }
}

#[tokio::test]
async fn a_pending_end_keeps_its_lease() {
    let memory = memory();
    let link = Link::to(&memory);
    let (engine, other) = (link.engine().run_limit(Duration::from_millis(1)), Link::to(&memory).engine());
    let attempt = begun(&engine, &call(1)).await;
    *link.0.refuses_results.lock().unwrap() = Some(StoreErrorKind::NotExecuted);
    assert_eq!(attempt.settle(complete("once")).await, Settled::Deferred);
    let deadline = Instant::now() + LEASE * 4;
    while Instant::now() < deadline {
        let met = other.begin(&call(1)).await.unwrap();
        assert!(matches!(met, Begun::InFlight { .. }), "it is taken over while its end waits: {met:?}");
        tokio::time::sleep(LEASE / 10).await;
    }
    *link.0.refuses_results.lock().unwrap() = None;
    assert!(engine.drain(Duration::from_secs(3)).await);
    assert_eq!(replayed(&other, &call(1)).await, "once");
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_not_a_lost_claim() {
    let link = Link::to(&memory());
    let engine = link.engine();
    let attempt = begun(&engine, &call(1)).await;
    link.fails("release", Fault::After(StoreErrorKind::Unknown));
    assert_eq!(attempt.settle(Verdict::Release).await, Settled::Stored);
    assert_eq!(link.seen(), ["claim", "release", "release"]);
}
