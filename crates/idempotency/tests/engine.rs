//! The engine on every store: what a caller gets, and how an attempt ends.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::place::*;
use idempotency::decide::Start;
use idempotency::engine::{Begun, Call, Settled, Verdict};
use idempotency::{AfterCrash, Idempotency, State};

on_every_store! {
    a_repeat_gets_the_first_answer_and_another_payload_a_mismatch
    a_result_that_is_not_kept_is_told_and_nothing_runs
    of_fifty_at_once_one_runs
    a_dropped_begin_frees_the_key
    a_dropped_attempt_frees_the_key_unless_its_work_began
    an_attempt_whose_work_says_that_nothing_happened_frees_the_key
    a_settle_that_is_dropped_goes_on
    a_settle_that_is_dropped_before_its_first_poll_goes_on
    failures_end_as_the_crash_policy_says
    an_operator_resolves_both_ways
}

async fn a_repeat_gets_the_first_answer_and_another_payload_a_mismatch(place: Place) {
    let (engine, other) = (place.engine(), place.engine());
    let attempt = begun(&engine, &call(1)).await;
    let Ok(Begun::InFlight { lease_left }) = other.begin(&call(1)).await else { panic!("it runs") };
    assert!(lease_left > Duration::from_secs(5) && lease_left <= Duration::from_micros(10_002_000), "{lease_left:?}");
    assert!(matches!(other.begin(&paying(1, 1)).await, Ok(Begun::Mismatch)), "mismatch before in flight");
    let result: Arc<[u8]> = b"first \0\xff"[..].into();
    assert_eq!(attempt.settle(Verdict::Complete(result.clone())).await, Settled::Stored);
    for engine in [&engine, &other, &engine] {
        assert!(matches!(engine.begin(&call(1)).await, Ok(Begun::Replay(stored)) if stored == result));
        assert!(matches!(engine.begin(&paying(1, 1)).await, Ok(Begun::Mismatch)));
    }
}

async fn a_result_that_is_not_kept_is_told_and_nothing_runs(place: Place) {
    let engine = place.engine();
    let note: Arc<[u8]> = b"201 /orders/7"[..].into();
    assert_eq!(begun(&engine, &call(1)).await.settle(Verdict::NotKept(note.clone())).await, Settled::Stored);
    assert!(matches!(place.engine().begin(&call(1)).await, Ok(Begun::NotKept(told)) if told == note));
}

async fn an_attempt_whose_work_says_that_nothing_happened_frees_the_key(place: Place) {
    let engine = place.engine().after_crash(AfterCrash::Refuse);
    for (key, verdict) in [(1, Some(complete("done"))), (2, Some(Verdict::Hold)), (3, Some(Verdict::Fail)), (4, None)] {
        let mut attempt = begun(&engine, &call(key)).await;
        assert_eq!(attempt.start(), Start::Now);
        let current = attempt.current();
        assert_eq!((current.fence(), current.derive("bank")), (attempt.fence(), attempt.key().derive("bank")));
        current.release();
        match verdict {
            Some(verdict) => assert_eq!(attempt.settle(verdict).await, Settled::Stored),
            None => drop(attempt),
        }
        drained(&engine).await;
        assert_eq!(met(&place.engine(), &call(key)).await, "run", "key {key}");
    }
}

async fn of_fifty_at_once_one_runs(place: Place) {
    let engines = [place.engine(), place.engine()];
    let begins = (0..50).map(|n| {
        let engine = engines[n % 2].clone();
        tokio::spawn(async move { engine.begin(&call(1)).await.unwrap() })
    });
    let mut attempts = vec![];
    for begin in begins.collect::<Vec<_>>() {
        match begin.await.unwrap() {
            Begun::Run(attempt) => attempts.push(attempt),
            other => assert!(matches!(other, Begun::InFlight { .. }), "{other:?}"),
        }
    }
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts.pop().unwrap().settle(complete("once")).await, Settled::Stored);
    assert_eq!(replayed(&engines[1], &call(1)).await, "once");
}

async fn a_dropped_begin_frees_the_key(place: Place) {
    let (engine, other) = (place.engine(), place.engine());
    begun(&engine, &call(0)).await.settle(Verdict::Release).await; // the store is open
    for key in 1..=30 {
        let now = call(key);
        match key % 3 {
            // Dropped where it first waits, or, in the other cases, anywhere in its course.
            0 => drop(poll_once(engine.begin(&now))),
            _ => drop(tokio::time::timeout(Duration::from_micros(key as u64 * 50), engine.begin(&now)).await),
        }
    }
    drained(&engine).await;
    for key in 1..=30 {
        begun(&other, &paying(key, 1)).await.settle(Verdict::Release).await;
    }
}

async fn a_dropped_attempt_frees_the_key_unless_its_work_began(place: Place) {
    let (engine, other) = (place.engine(), place.engine());
    let refusing = place.engine().after_crash(AfterCrash::Refuse);
    let drops = [
        (1, &engine, false, "run"),
        (2, &engine, true, "in flight"),
        (3, &refusing, false, "run"),
        (4, &refusing, true, "unknown"),
    ];
    for (key, engine, start, then) in drops {
        let mut attempt = begun(engine, &call(key)).await;
        if start {
            assert_eq!(attempt.start(), Start::Now);
        }
        drop(attempt);
        drained(engine).await;
        assert_eq!(met(&other, &call(key)).await, then, "key {key}");
    }
}

async fn a_settle_that_is_dropped_goes_on(place: Place) {
    let (engine, other) = (place.engine(), place.engine());
    for key in 1..=20 {
        let attempt = begun(&engine, &call(key)).await;
        match key % 2 {
            0 => drop(poll_once(attempt.settle(complete("kept")))),
            _ => {
                let settle = attempt.settle(complete("kept"));
                drop(tokio::time::timeout(Duration::from_micros(key as u64 * 50), settle).await);
            }
        }
    }
    drained(&engine).await;
    for key in 1..=20 {
        assert_eq!(replayed(&other, &call(key)).await, "kept");
    }
}

async fn a_settle_that_is_dropped_before_its_first_poll_goes_on(place: Place) {
    let (engine, other) = (place.engine(), place.engine());
    let mut attempt = begun(&engine, &call(1)).await;
    assert_eq!(attempt.start(), Start::Now);
    // What `select!` does to the branch that it does not look at.
    drop(attempt.settle(complete("kept")));
    drained(&engine).await;
    assert_eq!(replayed(&other, &call(1)).await, "kept");
}

/// What a repeat meets; where it may run, it does not.
async fn met(engine: &Idempotency, call: &Call) -> &'static str {
    match engine.begin(call).await.unwrap() {
        Begun::Run(attempt) => {
            assert_eq!(attempt.settle(Verdict::Release).await, Settled::Stored);
            "run"
        }
        Begun::Replay(_) => "replay",
        Begun::Mismatch => "mismatch",
        Begun::InFlight { .. } => "in flight",
        Begun::Unknown => "unknown",
        Begun::NotKept(_) => "not kept",
    }
}

async fn failures_end_as_the_crash_policy_says(place: Place) {
    use AfterCrash::{Refuse, Rerun};
    let ends = [
        (1, Rerun, Verdict::Fail, "run"),
        (2, Refuse, Verdict::Fail, "unknown"),
        (3, Rerun, Verdict::Hold, "in flight"),
        (4, Refuse, Verdict::Hold, "unknown"),
        (5, Rerun, Verdict::Release, "run"),
        (6, Refuse, Verdict::Release, "run"),
    ];
    for (key, policy, verdict, then) in ends {
        let engine = place.engine().after_crash(policy).lease(LEASE);
        let mut attempt = begun(&engine, &call(key)).await;
        assert_eq!(attempt.start(), Start::Now);
        let shown = format!("{verdict:?} under {policy:?}");
        assert_eq!(attempt.settle(verdict).await, Settled::Stored, "{shown}");
        assert_eq!(met(&engine, &paying(key, 1)).await, if then == "run" { "run" } else { "mismatch" }, "{shown}");
        assert_eq!(met(&engine, &call(key)).await, then, "{shown}");
    }
    tokio::time::sleep(LEASE + LEASE / 4).await;
    let strict = place.engine().after_crash(Refuse);
    assert!(matches!(strict.begin(&call(3)).await, Ok(Begun::Unknown)), "the stricter of record and request");
    assert_eq!(met(&place.engine(), &call(3)).await, "run", "held under rerun, it runs when its lease has lapsed");
    assert_eq!(met(&place.engine(), &call(4)).await, "unknown", "whoever asks");
}

async fn an_operator_resolves_both_ways(place: Place) {
    let engine = place.engine().after_crash(AfterCrash::Refuse);
    for (key, result) in [(1, Some("by hand")), (2, None)] {
        assert!(!engine.resolve(&call(key).key, 1, None, true).await.unwrap(), "nothing stands there");
        let attempt = begun(&engine, &call(key)).await;
        let fence = attempt.fence();
        attempt.settle(Verdict::Hold).await;
        let (held, _) = engine.get(&call(key).key).await.unwrap().unwrap();
        assert_eq!((held.record.state, held.record.fence), (State::Unknown, fence));
        let word = result.map(|text| text.as_bytes().into());
        assert!(!engine.resolve(&call(key).key, fence + 1, word.clone(), true).await.unwrap(), "another fence");
        assert!(engine.resolve(&call(key).key, fence, word, false).await.unwrap());
        match result {
            Some(text) => assert_eq!(replayed(&place.engine(), &call(key)).await, text),
            None => assert!(begun(&place.engine(), &call(key)).await.fence() > fence),
        }
    }
    // An attempt that still runs when an operator speaks changes nothing afterwards.
    let attempt = begun(&engine, &call(3)).await;
    assert!(engine.resolve(&call(3).key, attempt.fence(), Some(b"by hand"[..].into()), true).await.unwrap());
    assert_eq!(attempt.settle(complete("late")).await, Settled::Replaced(b"by hand"[..].into()));
    assert_eq!(replayed(&place.engine(), &call(3)).await, "by hand");
}
