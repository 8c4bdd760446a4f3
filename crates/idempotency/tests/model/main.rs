//! The protocol, model-checked on the rules of `decide.rs` themselves: every course of a few attempts on one key, with
//! crashes, pauses, late, lost and repeated messages, the end of leases and of `ttl`, an operator, and a store that comes
//! back empty.
//!
//! A lease lasts two ticks and a `ttl` four. Of each attempt one message at a time may be late, for as long as it likes.

mod promises;
mod protocol;
#[path = "rest.rs"]
mod rest;
mod steps;
mod world;

use std::sync::atomic::Ordering;
use std::time::Instant;

use idempotency::AfterCrash::{Refuse, Rerun};
use promises::*;
use protocol::{Fault, Protocol};
use stateright::{Checker, DiscoveryClassification, HasDiscoveries, Model};

/// Checks every course, and that nothing is left out of what can happen.
fn holds<const N: usize>(model: Protocol<N>) {
    let began = Instant::now();
    let checker = model.clone().checker().spawn_bfs().join();
    println!(
        "{:?}, {} resolutions, insists: {}, {} losses: {} states, {} deep, {:?}",
        model.attempts,
        model.resolutions,
        model.insists,
        model.losses,
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    for (promise, path) in checker.discoveries() {
        if matches!(checker.discovery_classification(promise), DiscoveryClassification::Counterexample) {
            let course: Vec<_> = path.into_vec().into_iter().filter_map(|(_, action)| action).collect();
            panic!("{promise}:\n    {course:?}");
        }
    }
    checker.assert_properties();
    let happened = model.happened.load(Ordering::Relaxed);
    let (happened, comes): (Vec<_>, Vec<_>) = Event::ALL
        .iter()
        .map(|event| ((happened & 1 << *event as u32 != 0).then_some(*event), model.comes(*event).then_some(*event)))
        .unzip();
    assert_eq!(happened, comes);
}

/// How many steps the shortest course takes that breaks a promise.
fn shortest<const N: usize>(model: Protocol<N>, promise: &'static str) -> Option<usize> {
    let wanted = HasDiscoveries::AllOf([promise].into());
    let checker = model.checker().target_max_depth(16).finish_when(wanted).spawn_bfs().join();
    let course: Vec<_> = checker.discovery(promise)?.into_vec().into_iter().filter_map(|(_, action)| action).collect();
    println!("{promise}:\n    {course:?}");
    Some(course.len())
}

#[test]
fn two_attempts_keep_every_promise() {
    holds(Protocol::new([Rerun; 2]));
    holds(Protocol::new([Refuse; 2]));
}

#[test]
fn one_attempt_keeps_every_promise_beside_an_operator_and_a_store_that_forgets() {
    for policy in [Rerun, Refuse] {
        holds(Protocol { resolutions: 2, insists: true, losses: 1, not_kept: true, ..Protocol::new([policy]) });
    }
}

/// Each with the number of steps of the shortest course that breaks the promise.
#[test]
fn each_fault_breaks_its_promise() {
    use Fault::*;
    let faults = [
        (RecreatesLate, Rerun, 0, FENCED, 9),
        (StartsUnlooked, Rerun, 0, BEGINS_CLAIMED, 5),
        (ReleasesOnce, Refuse, 0, NOT_UNKNOWN, 5),
        (LooksNoMore, Refuse, 0, NOT_UNKNOWN, 7),
        (TrustsItsOwnSending, Rerun, 0, BEGINS_CLAIMED, 10),
        (ResolvesByFence, Refuse, 1, ONE_ANSWER, 6),
        (ResolvesByFence, Rerun, 1, ONE_LIVE_CLAIM, 5),
        (RenewsByKey, Rerun, 0, FENCED, 5),
        (CompletesByKey, Rerun, 0, FENCED, 8),
        (ReleasesByKey, Rerun, 0, FENCED, 5),
    ];
    for (fault, policy, resolutions, promise, steps) in faults {
        let model = Protocol { fault: Some(fault), resolutions, ..Protocol::new([policy; 2]) };
        println!("{fault:?}");
        assert_eq!(shortest(model, promise), Some(steps), "{fault:?}: {promise}");
    }
}

#[test]
#[ignore = "minutes: make model"]
fn attempts_that_differ_keep_every_promise() {
    holds(Protocol { not_kept: true, ..Protocol::new([Rerun, Refuse]) });
    let mut others = Protocol::new([Rerun; 2]);
    others.attempts.payloads = [0, 1];
    holds(others);
}

#[test]
#[ignore = "minutes: make model"]
fn two_attempts_keep_every_promise_beside_an_operator_who_insists() {
    for policies in [[Rerun; 2], [Refuse; 2]] {
        holds(Protocol { resolutions: 1, insists: true, ..Protocol::new(policies) });
    }
}

#[test]
#[ignore = "minutes: make model"]
fn two_attempts_keep_every_promise_on_a_store_that_forgets() {
    for policies in [[Rerun; 2], [Refuse; 2]] {
        holds(Protocol { losses: 1, ..Protocol::new(policies) });
    }
}
