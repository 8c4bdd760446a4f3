//! What is promised, as properties of every state, and what the model must be seen to reach.

use stateright::Property;

use idempotency::{AfterCrash, State};

use super::protocol::Protocol;
use super::world::*;

/// What happens on the way to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    Claimed,
    TookOver,
    RecognisedItself,
    Replayed,
    ToldNotKept,
    ToldUnknown,
    ToldMismatch,
    GaveBack,
    Revived,
    Recreated,
    CompletedTwice,
    Replaced,
    ResolvedWithResult,
    ResolvedToNothing,
}

/// What stands under the key once nothing more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Absent,
    Completed,
    NotKept,
    Unknown,
    /// Lapsed under `rerun`: the next call runs.
    Lapsed,
    /// Lapsed under `refuse`: unknown to whoever asks.
    LapsedRefused,
    /// Completed by an operator.
    Resolved,
}

impl<const N: usize> Protocol<N> {
    /// The state in which the model leaves the key, if nothing more comes.
    pub fn rest(&self, world: &World<N>) -> Option<Rest> {
        if !world.attempts.iter().all(|attempt| attempt.is_gone() && attempt.late.is_none()) {
            return None;
        }
        let Some(stored) = world.store else { return Some(Rest::Absent) };
        let refuses = self.attempts.policies[usize::from(stored.claimed_by)] == AfterCrash::Refuse;
        match stored.state {
            State::Completed if stored.by_operator => Some(Rest::Resolved),
            State::Completed => Some(Rest::Completed),
            State::NotKept => Some(Rest::NotKept),
            State::Unknown => Some(Rest::Unknown),
            State::InFlight if !stored.is_lapsed() => None,
            State::InFlight => Some(if refuses { Rest::LapsedRefused } else { Rest::Lapsed }),
        }
    }
}

pub const ONE_LIVE_CLAIM: &str = "P1: at most one attempt holds the live claim";
pub const BEGINS_CLAIMED: &str = "P1: work begins on a live claim alone";
pub const ONE_ANSWER: &str = "P2: a stored result does not change until its ttl passes";
pub const FENCED: &str = "P3: an attempt that has lost its claim changes nothing";
pub const AT_MOST_ONCE: &str = "P5: under refuse nothing runs beside work that may have had its effect";
pub const NOT_UNKNOWN: &str = "P5: what never began is not left unknown";

fn is<const N: usize>(world: &World<N>, broken: &[Broken]) -> bool {
    world.broken.is_some_and(|found| broken.contains(&found))
}

/// Whether at most one attempt believes in a live claim. A store's loss and an operator who insists end a claim without
/// its owner's knowledge.
fn believers<const N: usize>(world: &World<N>) -> usize {
    let counts =
        |attempt: &&Attempt| attempt.phase.believes() > 0 && !matches!(attempt.cut, Cut::Resolved | Cut::Forgotten);
    world.attempts.iter().filter(counts).count()
}

pub fn properties<const N: usize>() -> Vec<Property<Protocol<N>>> {
    vec![
        Property::always(ONE_LIVE_CLAIM, |_, world: &World<N>| {
            !is(world, &[Broken::TwoClaims]) && believers(world) <= 1
        }),
        Property::always(BEGINS_CLAIMED, |_, world| !is(world, &[Broken::BeganWithoutClaim])),
        Property::always(ONE_ANSWER, |_, world| !is(world, &[Broken::ResultChanged])),
        Property::always(FENCED, |_, world| !is(world, &[Broken::Unfenced])),
        Property::always(AT_MOST_ONCE, |_, world| !is(world, &[Broken::RanTwice])),
        Property::always(NOT_UNKNOWN, |model, world: &World<N>| {
            !world.attempts.iter().enumerate().any(|(who, attempt)| {
                let is_orphan = attempt.phase == Phase::Gone { crashed: false } && !attempt.has_begun;
                let refuses = model.attempts.policies[who] == AfterCrash::Refuse;
                let is_stuck = world.store.is_some_and(|stored| stored.is_claim_of(who) && stored.is_lapsed());
                is_orphan && refuses && is_stuck && attempt.late.is_none()
            })
        }),
    ]
}
