//! What is promised, as properties of every state, and what the model must be seen to reach.

use stateright::Property;

use idempotency::{AfterCrash, State};

use super::protocol::Protocol;
use super::rest::{Rest, listed};
use super::world::*;

listed! {
    /// What a step may be that shows that the model does something.
    Event {
        Claimed,
        TookOver,
        RecognisedItself,
        Replayed,
        ToldNotKept,
        ToldUnknown,
        ToldMismatch,
        GaveBack,
        /// A lapsed claim was renewed.
        Revived,
        /// An end was written where nothing stood.
        Recreated,
        /// An end arrived twice.
        CompletedTwice,
        /// An end found another's.
        Replaced,
        ResolvedWithResult,
        ResolvedToNothing,
    }
}

impl<const N: usize> Protocol<N> {
    /// Whether a step of this kind is among what can happen here.
    pub fn comes(&self, event: Event) -> bool {
        let refuses = self.attempts.policies.contains(&AfterCrash::Refuse);
        let meets_others = N > 1 && self.attempts.payloads.iter().all(|payload| *payload == self.attempts.payloads[0]);
        let is_resolved = self.resolutions > 0;
        match event {
            Event::Claimed | Event::RecognisedItself | Event::GaveBack => true,
            Event::Revived | Event::CompletedTwice => true,
            Event::TookOver => meets_others && !refuses,
            Event::Replaced => N > 1 || is_resolved,
            Event::Replayed => meets_others || is_resolved,
            Event::ToldNotKept => meets_others && self.not_kept,
            Event::ToldUnknown => meets_others && refuses,
            Event::ToldMismatch => N > 1 && !meets_others,
            Event::Recreated => self.losses > 0 || is_resolved && (self.insists || refuses),
            Event::ResolvedWithResult | Event::ResolvedToNothing => is_resolved,
        }
    }

    /// Whether the key can be left in this state.
    fn leaves(&self, rest: Rest) -> bool {
        match rest {
            Rest::Absent | Rest::Completed => true,
            Rest::NotKept => self.not_kept,
            Rest::Unknown | Rest::LapsedRefused => self.attempts.policies.contains(&AfterCrash::Refuse),
            Rest::Lapsed => self.attempts.policies.contains(&AfterCrash::Rerun),
            Rest::Resolved => self.resolutions > 0,
        }
    }

    /// The state in which the key is left, if nothing more comes.
    fn rest(&self, world: &World<N>) -> Option<Rest> {
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

/// That the key can be left in this state.
fn left<const N: usize>(rest: Rest) -> Property<Protocol<N>> {
    match rest {
        Rest::Absent => Property::sometimes("left absent", |model, world| model.rest(world) == Some(Rest::Absent)),
        Rest::Completed => {
            Property::sometimes("left completed", |model, world| model.rest(world) == Some(Rest::Completed))
        }
        Rest::NotKept => Property::sometimes("left not kept", |model, world| model.rest(world) == Some(Rest::NotKept)),
        Rest::Unknown => Property::sometimes("left unknown", |model, world| model.rest(world) == Some(Rest::Unknown)),
        Rest::Lapsed => Property::sometimes("left lapsed", |model, world| model.rest(world) == Some(Rest::Lapsed)),
        Rest::LapsedRefused => {
            Property::sometimes("left lapsed, refused", |model, world| model.rest(world) == Some(Rest::LapsedRefused))
        }
        Rest::Resolved => {
            Property::sometimes("left resolved", |model, world| model.rest(world) == Some(Rest::Resolved))
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

/// How many attempts believe in a live claim. A store's loss and an operator who insists end a claim without its owner's
/// knowledge; those are not counted.
fn believers<const N: usize>(world: &World<N>) -> usize {
    let counts = |attempt: &&Attempt| attempt.phase.believes() > 0 && !attempt.cut.is_unheard_of();
    world.attempts.iter().filter(counts).count()
}

pub fn properties<const N: usize>(model: &Protocol<N>) -> Vec<Property<Protocol<N>>> {
    let mut properties = vec![
        Property::always(ONE_LIVE_CLAIM, |_, world: &World<N>| {
            !is(world, &[Broken::TwoClaims]) && believers(world) <= 1
        }),
        Property::always(BEGINS_CLAIMED, |_, world| !is(world, &[Broken::BeganWithoutClaim])),
        Property::always(ONE_ANSWER, |_, world| !is(world, &[Broken::ResultChanged])),
        Property::always(FENCED, |_, world| !is(world, &[Broken::Unfenced])),
        Property::always(AT_MOST_ONCE, |_, world| !is(world, &[Broken::RanTwice])),
        Property::always(NOT_UNKNOWN, |model: &Protocol<N>, world: &World<N>| {
            !world.attempts.iter().enumerate().any(|(who, attempt)| {
                let is_orphan = attempt.phase == Phase::Gone { crashed: false } && !attempt.has_begun;
                let refuses = model.attempts.policies[who] == AfterCrash::Refuse;
                let is_stuck = world.store.is_some_and(|stored| stored.is_claim_of(who) && stored.is_lapsed());
                is_orphan && refuses && is_stuck && attempt.late.is_none()
            })
        }),
    ];
    properties.extend(Rest::ALL.iter().filter(|rest| model.leaves(**rest)).map(|rest| left(*rest)));
    properties
}
