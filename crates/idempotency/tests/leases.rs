//! The engine on every store: renewing, waiting, and being overtaken.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::place::*;
use idempotency::AfterCrash;
use idempotency::decide::Start;
use idempotency::engine::{Begun, Settled, Verdict};

on_every_store! {
    renewal_keeps_a_claim_for_five_leases
    run_limit_ends_renewal
    a_waiter_is_answered_when_its_leader_ends
    fifty_waiters_whose_leader_fails_run_once_more
    a_waiter_takes_over_when_the_lease_lapses
    a_waiter_with_another_payload_is_told_at_once
    a_waiter_times_out_as_in_flight
    a_paused_owner_gets_its_successors_result_and_changes_nothing
    an_owner_past_its_run_limit_gets_its_successors_result
    drain_waits_for_what_goes_on_in_the_background
    renewal_survives_the_runtime_that_first_used_the_engine
}

async fn renewal_keeps_a_claim_for_five_leases(place: Place) {
    let (engine, other) = (place.engine().lease(LEASE), place.engine().lease(LEASE));
    let attempt = begun(&engine, &call(1)).await;
    let until = Instant::now() + LEASE * 5;
    while Instant::now() < until {
        let met = other.begin(&call(1)).await.unwrap();
        assert!(matches!(met, Begun::InFlight { .. }), "the claim is renewed, but: {met:?}");
        tokio::time::sleep(LEASE / 10).await;
    }
    assert!(!attempt.is_lost());
    assert_eq!(attempt.settle(complete("late")).await, Settled::Stored);
    assert_eq!(replayed(&other, &call(1)).await, "late");
}

async fn run_limit_ends_renewal(place: Place) {
    let engine = place.engine().lease(LEASE).run_limit(LEASE * 2);
    let (other, began) = (place.engine(), Instant::now());
    let stuck = begun(&engine, &call(1)).await;
    let successor = begun_soon(&other, &call(1)).await;
    assert!(began.elapsed() >= LEASE * 2, "renewed up to its limit, not only for {:?}", began.elapsed());
    assert!(successor.fence() > stuck.fence());
    assert_eq!(stuck.settle(complete("stuck")).await, Settled::Lost);
    assert_eq!(successor.settle(complete("successor")).await, Settled::Stored);
    assert_eq!(replayed(&other, &call(1)).await, "successor");
}

async fn a_waiter_is_answered_when_its_leader_ends(place: Place) {
    let leader = place.engine();
    // In the leader's own process, and in another.
    for (base, waiter) in [(0, leader.clone()), (10, place.engine())] {
        let mut took = vec![];
        for key in base..base + 5 {
            let attempt = begun(&leader, &call(key)).await;
            let waiter = waiter.clone().wait(Duration::from_secs(5));
            let waiting = tokio::spawn(async move { (replayed(&waiter, &call(key)).await, Instant::now()) });
            // By now it has subscribed; without a hint it would look again 500 ms after that at the soonest.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!waiting.is_finished());
            assert_eq!(attempt.settle(complete("led")).await, Settled::Stored);
            let ended = Instant::now();
            let (result, answered) = waiting.await.unwrap();
            assert_eq!(result, "led");
            took.push(answered.saturating_duration_since(ended));
        }
        assert!(took.iter().all(|took| *took < Duration::from_millis(250)), "by polling, not by a hint: {took:?}");
        assert!(took.iter().any(|took| *took < Duration::from_millis(50)), "{took:?}");
    }
}

async fn fifty_waiters_whose_leader_fails_run_once_more(place: Place) {
    let engines = [place.engine(), place.engine()];
    let mut leader = begun(&engines[0], &call(1)).await;
    assert_eq!(leader.start(), Start::Now);
    let ran = Arc::new(AtomicUsize::new(1));
    let waiting: Vec<_> = (0..50)
        .map(|n| (engines[n % 2].clone().wait(Duration::from_secs(20)), ran.clone()))
        .map(|(engine, ran)| {
            tokio::spawn(async move {
                match engine.begin(&call(1)).await.unwrap() {
                    Begun::Run(mut attempt) => {
                        assert_eq!(attempt.start(), Start::Now);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        let run = format!("run {}", ran.fetch_add(1, Ordering::SeqCst) + 1);
                        assert_eq!(attempt.settle(complete(&run)).await, Settled::Stored);
                        None
                    }
                    Begun::Replay(result) => Some(result),
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let failed = Instant::now();
    assert_eq!(leader.settle(Verdict::Fail).await, Settled::Stored);
    let second: Arc<[u8]> = b"run 2"[..].into();
    let mut runs = 0;
    for waiter in waiting {
        match waiter.await.unwrap() {
            None => runs += 1,
            Some(result) => assert_eq!(result, second),
        }
    }
    assert_eq!((runs, ran.load(Ordering::SeqCst)), (1, 2));
    assert!(failed.elapsed() < Duration::from_secs(3), "all are answered soon, not after {:?}", failed.elapsed());
}

async fn a_waiter_takes_over_when_the_lease_lapses(place: Place) {
    let crashed = place.engine().lease(LEASE);
    for key in [1, 2] {
        begun(&crashed, &call(key)).await.settle(Verdict::Hold).await; // as a crash: neither renewed nor released
    }
    let began = Instant::now();
    let waiter = place.engine().wait(Duration::from_secs(5));
    let refusing = waiter.clone().after_crash(AfterCrash::Refuse);
    let (run, refused) = (call(1), call(2));
    let (run, refused) = tokio::join!(waiter.begin(&run), refusing.begin(&refused));
    assert!(matches!(run, Ok(Begun::Run(_))), "{run:?}");
    assert!(matches!(refused, Ok(Begun::Unknown)), "{refused:?}");
    assert!(began.elapsed() < LEASE * 8, "at the lease's end, not {:?} later", began.elapsed());
}

async fn a_waiter_with_another_payload_is_told_at_once(place: Place) {
    let leader = begun(&place.engine(), &call(1)).await;
    let (waiter, began) = (place.engine().wait(Duration::from_secs(5)), Instant::now());
    assert!(matches!(waiter.begin(&paying(1, 1)).await, Ok(Begun::Mismatch)));
    assert!(began.elapsed() < Duration::from_secs(3));
    leader.settle(Verdict::Release).await;
}

async fn a_waiter_times_out_as_in_flight(place: Place) {
    let leader = begun(&place.engine(), &call(1)).await;
    let waiter = place.engine().wait(Duration::from_millis(300));
    let (one, two, three) = (call(1), call(1), call(1)); // one of them has the turn, the others wait for it
    let began = Instant::now();
    let met = tokio::join!(waiter.begin(&one), waiter.begin(&two), waiter.begin(&three));
    for met in [met.0, met.1, met.2] {
        assert!(matches!(met, Ok(Begun::InFlight { .. })), "{met:?}");
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(900), "{took:?}");
    leader.settle(Verdict::Release).await;
}

async fn a_paused_owner_gets_its_successors_result_and_changes_nothing(place: Place) {
    let engine = place.engine().lease(LEASE);
    let (begins, began) = std::sync::mpsc::channel();
    let (resume, resumed) = std::sync::mpsc::channel::<()>();
    // A process that stops: its one thread, renewals and all, stands still in the middle of the work.
    let paused = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut attempt = begun(&engine, &call(1)).await;
            assert_eq!(attempt.start(), Start::Now);
            begins.send(attempt.fence()).unwrap();
            resumed.recv().unwrap();
            attempt.settle(complete("paused")).await
        })
    });
    let fence = tokio::task::spawn_blocking(move || began.recv().unwrap()).await.unwrap();
    let successor = begun_soon(&place.engine(), &call(1)).await;
    assert!(successor.fence() > fence);
    assert_eq!(successor.settle(complete("successor")).await, Settled::Stored);
    let stood = place.store().get(&call(1).key).await.unwrap().map(|(held, _)| held.record);
    resume.send(()).unwrap();
    let settled = tokio::task::spawn_blocking(|| paused.join().unwrap()).await.unwrap();
    assert_eq!(settled, Settled::Replaced(b"successor"[..].into()));
    assert_eq!(place.store().get(&call(1).key).await.unwrap().map(|(held, _)| held.record), stood);
}

async fn an_owner_past_its_run_limit_gets_its_successors_result(place: Place) {
    let engine = place.engine().lease(LEASE).run_limit(Duration::from_millis(1));
    let ends = [(1, complete("late"), Settled::Replaced(b"new"[..].into())), (2, Verdict::Fail, Settled::Lost)];
    for (key, verdict, settled) in ends {
        let late = begun(&engine, &call(key)).await;
        begun_soon(&place.engine(), &call(key)).await.settle(complete("new")).await;
        let stood = place.store().get(&call(key).key).await.unwrap().map(|(held, _)| held.record);
        assert_eq!(late.settle(verdict).await, settled);
        assert_eq!(place.store().get(&call(key).key).await.unwrap().map(|(held, _)| held.record), stood);
    }
}

async fn drain_waits_for_what_goes_on_in_the_background(place: Place) {
    let engine = place.engine();
    assert!(engine.drain(Duration::ZERO).await, "nothing goes on yet");
    for key in 0..20 {
        let attempt = begun(&engine, &call(key)).await;
        match key % 2 {
            0 => drop(attempt),
            _ => attempt.settle_later(complete("later")),
        }
    }
    drained(&engine).await;
    for key in 0..20 {
        match key % 2 {
            0 => drop(begun(&place.engine(), &call(key)).await),
            _ => assert_eq!(replayed(&place.engine(), &call(key)).await, "later"),
        }
    }
}

async fn renewal_survives_the_runtime_that_first_used_the_engine(place: Place) {
    // As an engine in a static, first used by one runtime and then by another.
    let engine = place.engine().lease(LEASE);
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let there = engine.clone();
    first.spawn(async move { begun(&there, &call(0)).await.settle(complete("first")).await }).await.unwrap();
    let attempt = begun(&engine, &call(1)).await;
    first.shutdown_background();
    let until = Instant::now() + LEASE * 3;
    while Instant::now() < until {
        let met = place.engine().begin(&call(1)).await.unwrap();
        assert!(matches!(met, Begun::InFlight { .. }), "the claim is still renewed, but: {met:?}");
        tokio::time::sleep(LEASE / 10).await;
    }
    assert_eq!(attempt.settle(complete("second")).await, Settled::Stored);
}
