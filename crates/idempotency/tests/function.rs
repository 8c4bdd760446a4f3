//! Functions on every store: what their callers get, and what becomes of the key.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::place::*;
use idempotency::{AfterCrash, Begun, CurrentAttempt, Done, Error, Idempotency};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

on_every_store! {
    a_function_runs_once_and_every_repeat_gets_its_result
    another_payload_is_a_conflict_and_nothing_runs
    while_one_runs_another_is_told_when_to_come_back
    a_repeat_that_waits_gets_the_first_result
    keys_of_other_operations_callers_and_namespaces_are_other_keys
    the_work_s_error_is_handed_on_and_frees_the_key
    what_failed_under_refuse_is_unknown
    a_panic_goes_on_and_frees_the_key
    work_that_says_that_nothing_happened_frees_the_key
    a_result_without_a_form_reaches_its_caller_and_is_not_kept
    a_run_that_is_dropped_before_its_work_frees_the_key
    a_run_that_is_dropped_half_way_is_held
    a_spawned_run_outlives_its_caller
    by_hand_an_attempt_completes_fails_is_released_or_held
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Receipt {
    amount: f64,
    lines: BTreeMap<String, Option<i64>>,
    state: State,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
enum State {
    Charged { by: String },
    Waiting(u64),
    Free,
}

fn receipt() -> Receipt {
    let lines = BTreeMap::from([("pen".into(), Some(i64::MIN)), ("ink".into(), None)]);
    // Twice the sum is read back a bit off by a reader of JSON that is in a hurry.
    Receipt { amount: 0.1 + 0.2, lines, state: State::Charged { by: "é\0".into() } }
}

/// Nothing but what it returns.
async fn one(_: CurrentAttempt) -> Result<u32, String> {
    Ok(1)
}

async fn never(_: CurrentAttempt) -> Result<u32, String> {
    panic!("nothing may run")
}

/// What a repeat of `work` under `key` meets.
async fn met(engine: &Idempotency, key: &str) -> &'static str {
    match engine.call("work", key).unwrap().begin::<u32>().await {
        Ok(Begun::Run(attempt)) => {
            attempt.release().await;
            "run"
        }
        Ok(Begun::Replayed(_)) => "replay",
        Ok(Begun::InFlight { .. }) => "in flight",
        Err(Error::Conflict) => "conflict",
        Err(Error::Unknown) => "unknown",
        Err(Error::NotKept) => "not kept",
        Err(error) => panic!("{error}"),
    }
}

async fn a_function_runs_once_and_every_repeat_gets_its_result(place: Place) {
    let (engine, other) = (place.engine(), place.engine());
    let ran = AtomicUsize::new(0);
    let work = async |attempt: CurrentAttempt| {
        ran.fetch_add(1, Ordering::SeqCst);
        assert!(attempt.fence() > 0 && !attempt.is_lost());
        Ok::<_, String>((attempt.derive("bank"), receipt()))
    };
    let call = |engine| Idempotency::call(engine, "work", "order-7").unwrap().payload(&receipt());
    let first = call(&engine).run(work).await.unwrap();
    let Done::Ran((derived, result)) = first else { panic!("{first:?}") };
    assert_eq!((derived.len(), result), (32, receipt()));
    for engine in [&engine, &other] {
        let repeat = call(engine).run(work).await.unwrap();
        assert!(repeat.is_replay());
        assert_eq!(repeat.into_inner(), (derived.clone(), receipt()));
    }
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

async fn another_payload_is_a_conflict_and_nothing_runs(place: Place) {
    let engine = place.engine();
    let call = || engine.call("work", "order-7").unwrap();
    call().payload(&("alice", 42)).run(one).await.unwrap();
    let conflict = call().payload(&("alice", 43)).run(never).await;
    assert!(matches!(conflict, Err(Error::Conflict)), "{conflict:?}");
    assert!(matches!(call().run(never).await, Err(Error::Conflict)), "no payload is another one");
    assert!(call().payload(&("alice", 42)).run(never).await.unwrap().is_replay());
}

async fn while_one_runs_another_is_told_when_to_come_back(place: Place) {
    let other = place.engine();
    for (lease, least, most) in [(LEASE * 50, LEASE * 5, Duration::from_secs(1)), (LEASE, Duration::ZERO, LEASE)] {
        let engine = place.engine().lease(lease);
        let work = async |_| {
            let busy = other.call("work", "1").unwrap().run(never).await;
            let Err(Error::InFlight { retry_after }) = busy else { panic!("{busy:?}") };
            assert!(retry_after >= least && retry_after <= most, "{retry_after:?} of a lease of {lease:?}");
            let other = other.call("work", "1").unwrap().payload("another").run(never).await;
            assert!(matches!(other, Err(Error::Conflict)), "conflict comes before in flight: {other:?}");
            Err::<u32, _>("again")
        };
        assert!(matches!(engine.call("work", "1").unwrap().run(work).await, Err(Error::Work("again"))));
    }
}

async fn a_repeat_that_waits_gets_the_first_result(place: Place) {
    let (engine, waiter) = (place.engine(), place.engine().wait(Duration::from_secs(20)));
    let (began, may_end) = (Notify::new(), Notify::new());
    let first = engine.call("work", "1").unwrap().run(async |_| {
        began.notify_one();
        may_end.notified().await;
        Ok::<_, String>(7)
    });
    let second = async {
        began.notified().await;
        let waiting = waiter.call("work", "1").unwrap().run(never);
        tokio::join!(waiting, async { may_end.notify_one() }).0
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap(), second.unwrap()), (Done::Ran(7), Done::Replayed(7)));
}

async fn keys_of_other_operations_callers_and_namespaces_are_other_keys(place: Place) {
    let engine = place.engine();
    let call = |operation| engine.call(operation, "1").unwrap();
    let alice = || call("work").scope("alice");
    for call in [call("work"), call("other"), alice(), call("work").scope("bob"), alice().namespace("shop")] {
        assert_eq!(call.run(one).await.unwrap(), Done::Ran(1));
    }
    assert!(alice().run(never).await.unwrap().is_replay());
    assert!(call("work").scope(b"alice").namespace("shop").run(never).await.unwrap().is_replay());
}

async fn the_work_s_error_is_handed_on_and_frees_the_key(place: Place) {
    let engine = place.engine();
    let fails = async |_| Err::<u32, _>(std::io::Error::other("declined"));
    let failed = engine.call("work", "1").unwrap().run(fails).await;
    let Err(error @ Error::Work(_)) = failed else { panic!("{failed:?}") };
    assert_eq!(error.to_string(), "the work failed");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "declined");
    assert_eq!(met(&place.engine(), "1").await, "run");
}

async fn what_failed_under_refuse_is_unknown(place: Place) {
    let engine = place.engine().after_crash(AfterCrash::Refuse);
    let failed = engine.call("work", "1").unwrap().run(async |_| Err::<u32, _>("declined")).await;
    assert!(matches!(failed, Err(Error::Work("declined"))));
    let unknown = place.engine().call("work", "1").unwrap().run(never).await;
    assert!(matches!(unknown, Err(Error::Unknown)), "{unknown:?}");
}

async fn a_panic_goes_on_and_frees_the_key(place: Place) {
    let engine = place.engine();
    let call = || engine.call("work", "1").unwrap();
    assert!(call().spawn(async |_| -> Result<u32, String> { panic!("by the test") }).await.unwrap_err().is_panic());
    assert_eq!(met(&place.engine(), "1").await, "run");
    // In the function itself, before it has made its future.
    let at_once = |_| -> std::future::Ready<Result<u32, String>> { panic!("by the test") };
    assert!(call().spawn(at_once).await.unwrap_err().is_panic());
    assert_eq!(met(&place.engine(), "1").await, "run");
}

async fn work_that_says_that_nothing_happened_frees_the_key(place: Place) {
    let engine = place.engine().after_crash(AfterCrash::Refuse);
    let work = async |attempt: CurrentAttempt| {
        attempt.release();
        Ok::<_, String>(1)
    };
    assert_eq!(engine.call("work", "1").unwrap().run(work).await.unwrap(), Done::Ran(1));
    assert_eq!(met(&place.engine(), "1").await, "run");
}

async fn a_result_without_a_form_reaches_its_caller_and_is_not_kept(place: Place) {
    let engine = place.engine();
    let nan = async |_| Ok::<_, String>(vec![1.0, f64::NAN]);
    let ran = engine.call("work", "1").unwrap().run(nan).await.unwrap();
    assert!(!ran.is_replay() && ran.into_inner()[1].is_nan());
    let unkeyed = async |_| Ok::<_, String>(HashMap::from([((1, 2), 3)])); // JSON has no such names
    assert_eq!(engine.call("work", "2").unwrap().run(unkeyed).await.unwrap().into_inner()[&(1, 2)], 3);
    for key in ["1", "2"] {
        let repeat = place.engine().call("work", key).unwrap().run(never).await;
        assert!(matches!(repeat, Err(Error::NotKept)), "{repeat:?}");
    }
}

async fn a_run_that_is_dropped_before_its_work_frees_the_key(place: Place) {
    let engine = place.engine();
    assert_eq!(met(&engine, "0").await, "run"); // the store is open
    let waiter = engine.clone().wait(Duration::from_secs(20));
    let first = engine.call("work", "1").unwrap().begin::<u32>().await.unwrap();
    let Begun::Run(attempt) = first else { panic!("{first:?}") };
    let waiting = waiter.call("work", "1").unwrap().run(never);
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err(), "it waits");
    attempt.release().await;
    drop(engine.call("work", "1").unwrap().run(never)); // not polled
    drained(&engine).await;
    assert_eq!(met(&place.engine(), "1").await, "run");
}

async fn a_run_that_is_dropped_half_way_is_held(place: Place) {
    for (key, policy, then) in [("1", AfterCrash::Rerun, "in flight"), ("2", AfterCrash::Refuse, "unknown")] {
        let engine = place.engine().after_crash(policy).lease(LEASE * 3);
        let began = Notify::new();
        let running = engine.call("work", key).unwrap().run(async |_| -> Result<u32, String> {
            began.notify_one();
            std::future::pending().await
        });
        // As hyper does with a handler whose client left.
        tokio::select! { _ = running => panic!("it never ends"), () = began.notified() => {} }
        drained(&engine).await;
        assert_eq!(met(&place.engine(), key).await, then, "{policy:?}");
    }
    let waiter = place.engine().wait(Duration::from_secs(20));
    assert_eq!(met(&waiter, "1").await, "run", "its lease has lapsed");
    assert_eq!(met(&place.engine(), "2").await, "unknown");
}

async fn a_spawned_run_outlives_its_caller(place: Place) {
    let engine = place.engine();
    let (began, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let leaves = {
        let (engine, began, may_end) = (engine.clone(), began.clone(), may_end.clone());
        tokio::spawn(async move {
            let work = async move |_| {
                began.notify_one();
                may_end.notified().await;
                Ok::<_, String>(7)
            };
            engine.call("work", "1").unwrap().spawn(work).await
        })
    };
    began.notified().await;
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    may_end.notify_one();
    let waiter = place.engine().wait(Duration::from_secs(20));
    assert_eq!(waiter.call("work", "1").unwrap().run(never).await.unwrap(), Done::Replayed(7));
}

async fn by_hand_an_attempt_completes_fails_is_released_or_held(place: Place) {
    let engine = place.engine().after_crash(AfterCrash::Refuse);
    let begin = async |key| match engine.call("work", key).unwrap().begin::<u32>().await.unwrap() {
        Begun::Run(attempt) => attempt,
        other => panic!("the key is free, but: {other:?}"),
    };
    let attempt = begin("1").await;
    assert_eq!((attempt.fence(), attempt.derive("x")), (attempt.current().fence(), attempt.current().derive("x")));
    assert_eq!(attempt.complete(7).await.unwrap(), 7);
    begin("2").await.fail().await;
    begin("3").await.release().await;
    drop(begin("4").await);
    drained(&engine).await;
    let other = place.engine();
    let found = [met(&other, "1").await, met(&other, "2").await, met(&other, "3").await, met(&other, "4").await];
    assert_eq!(found, ["replay", "unknown", "run", "unknown"]);
    assert_eq!(other.call("work", "1").unwrap().run(never).await.unwrap(), Done::Replayed(7));
}

/// An attempt that lost its claim hands on the result of the one that took its place.
#[tokio::test]
async fn who_was_taken_over_gets_its_successor_s_result() {
    let place = Place::memory();
    // Its lease is not renewed past the run limit.
    let slow = place.engine().lease(LEASE).run_limit(Duration::from_millis(1));
    let began = Instant::now();
    let work = async |attempt: CurrentAttempt| {
        let waiter = place.engine().wait(Duration::from_secs(20));
        assert_eq!(waiter.call("work", "1").unwrap().run(one).await.unwrap(), Done::Ran(1));
        assert!(attempt.fence() > 0);
        Ok::<u32, String>(2)
    };
    let done = slow.call("work", "1").unwrap().run(work).await.unwrap();
    assert_eq!(done, Done::Replayed(1));
    assert!(began.elapsed() >= LEASE);
}

/// A result that the store has no room for.
#[tokio::test]
async fn a_result_over_the_store_s_room_reaches_its_caller_and_is_not_kept() {
    let engine = Idempotency::new(idempotency::stores::MemoryStore::new().max_bytes(2000));
    let call = || engine.call("work", "1").unwrap();
    let long = async |_| Ok::<_, String>("x".repeat(4000));
    assert_eq!(call().run(long).await.unwrap().into_inner().len(), 4000);
    assert!(matches!(call().run(long).await, Err(Error::NotKept)));
}

#[test]
fn other_states_survive_too() {
    let engine = Idempotency::new(idempotency::stores::MemoryStore::new());
    for (key, state) in [("1", State::Waiting(u64::MAX)), ("2", State::Free)] {
        let run = || engine.call("work", key).unwrap().run_blocking(|_| Ok::<_, String>(state.clone()));
        assert_eq!((run().unwrap(), run().unwrap()), (Done::Ran(state.clone()), Done::Replayed(state.clone())));
    }
}
