//! The protocol, model-checked.

mod promises;
mod protocol;
mod steps;
mod world;

use std::time::Instant;

use idempotency::AfterCrash::{self, Refuse, Rerun};
use promises::*;
use protocol::{Fault, Protocol, Remedy};
use stateright::{Checker, Model};

/// The protocol as the engine has it, with what the model found in it mended.
fn mended<const N: usize>(policies: [AfterCrash; N]) -> Protocol<N> {
    let mut model = Protocol::new(policies);
    model.remedies = vec![Remedy::BelievesStore, Remedy::LooksAfterwards, Remedy::UnknownNeverRecreates];
    model
}

/// Looks for a course that breaks a promise, the shortest first; says it.
fn breaks<const N: usize>(model: &Protocol<N>, promise: &'static str) -> bool {
    for depth in 2..=16 {
        let checker = model.clone().checker().target_max_depth(depth).spawn_bfs().join();
        if let Some(path) = checker.discovery(promise) {
            let course: Vec<_> = path.into_vec().into_iter().filter_map(|(_, action)| action).collect();
            println!("{promise}:\n    {course:?}");
            return true;
        }
    }
    false
}

fn holds<const N: usize>(model: Protocol<N>) {
    let began = Instant::now();
    let checker = model.checker().spawn_bfs().join();
    println!("{} states, {} deep, {:?}", checker.unique_state_count(), checker.max_depth(), began.elapsed());
    let broken: Vec<_> = checker.discoveries().into_keys().collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn two_attempts_keep_every_promise_under_both_policies() {
    for policies in [[Rerun; 2], [Refuse; 2], [Rerun, Refuse]] {
        holds(mended(policies));
    }
}

#[test]
fn each_fault_breaks_its_promise() {
    use Fault::*;
    let faults = [
        (RecreatesLate, Rerun, 0, FENCED),
        (StartsUnlooked, Rerun, 0, BEGINS_CLAIMED),
        (ReleasesOnce, Refuse, 0, NOT_UNKNOWN),
        (ResolvesByFence, Refuse, 1, ONE_ANSWER),
        (ResolvesByFence, Rerun, 1, ONE_LIVE_CLAIM),
        (RenewsByKey, Rerun, 0, FENCED),
        (CompletesByKey, Rerun, 0, FENCED),
        (ReleasesByKey, Rerun, 0, FENCED),
    ];
    let found = faults.map(|(fault, policy, resolutions, promise)| {
        let model = Protocol { fault: Some(fault), resolutions, ..mended([policy; 2]) };
        println!("{fault:?}");
        breaks(&model, promise).then_some(()).ok_or(fault)
    });
    assert!(found.iter().all(Result::is_ok), "{found:?}");
}

/// What the model finds in the engine as it is.
#[test]
fn found() {
    let found = [
        (Protocol::new([Rerun; 2]), BEGINS_CLAIMED),
        (Protocol::new([Rerun; 2]), ONE_LIVE_CLAIM),
        (Protocol::new([Refuse; 2]), NOT_UNKNOWN),
        (Protocol { resolutions: 1, ..Protocol::new([Refuse; 2]) }, FENCED),
        (Protocol { resolutions: 1, insists: true, ..mended([Rerun; 2]) }, FENCED),
    ];
    for (model, promise) in found {
        assert!(breaks(&model, promise), "{promise}");
    }
}
