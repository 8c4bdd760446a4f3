//! What can happen, step by step: what the engine does with a claim, what the network does with its messages, and what
//! befalls a process, an operator and a store.
//!
//! A message that is answered takes no time here. One that takes time differs in what its sender believes of its lease,
//! and that is less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use idempotency::decide::{self, Start};
use idempotency::{AfterCrash, State};
use stateright::{Model, Property};

use super::promises::{Event, properties};
use super::steps::{Answers, Ask, Attempts, Met, NOW, TICK, Told};
use super::world::*;

/// The protocol, for so many attempts on one key.
#[derive(Clone, Debug)]
pub struct Protocol<const N: usize> {
    pub attempts: Attempts<N>,
    /// How often an operator speaks, and whether it insists.
    pub resolutions: u8,
    pub insists: bool,
    /// How often the store comes back without its data.
    pub losses: u8,
    /// Whether a result may be one that can't be kept.
    pub not_kept: bool,
    pub fault: Option<Fault>,
    /// What has happened on any course so far, one bit for each [`Event`].
    pub happened: Arc<AtomicU32>,
    pub answers: Arc<Answers>,
}

/// A rule that the protocol needs, left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sender of a completion decides whether it may be written where nothing stands; the store does not look again.
    RecreatesLate,
    /// Work begins without a look at the lease.
    StartsUnlooked,
    /// A claim that was not answered is released once.
    ReleasesOnce,
    /// A call that sent a claim in vain does not look for it after its end.
    LooksNoMore,
    /// A claim that meets itself counts its lease from this sending, whenever the store took the claim.
    TrustsItsOwnSending,
    /// A resolution compares the fence alone.
    ResolvesByFence,
    /// A renewal, a completion or a release is taken whoever sends it.
    RenewsByKey,
    CompletesByKey,
    ReleasesByKey,
}

/// How work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Returns,
    /// With a result that can't be kept.
    ReturnsTooMuch,
    Fails,
    /// It says itself that nothing happened.
    Releases,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    /// A claim is sent and answered. Told that another attempt runs, the call waits or ends.
    Claim {
        who: usize,
        waits: bool,
    },
    /// A claim gets no answer. It is sent again at once, or is to be released.
    ClaimFails {
        who: usize,
        again: bool,
    },
    Start(usize),
    Renew(usize),
    RenewFails(usize),
    /// The call is dropped before its work begins.
    Drop(usize),
    End(usize, End),
    Send(usize),
    SendFails(usize),
    GiveBack(usize),
    Crash(usize),
    /// What was given up arrives, or is lost.
    Arrive(usize),
    Lose(usize),
    Look,
    Resolve {
        completes: bool,
        force: bool,
    },
    Forget,
}

impl<const N: usize> Protocol<N> {
    pub fn new(policies: [AfterCrash; N]) -> Self {
        Self {
            attempts: Attempts { policies, payloads: [0; N] },
            resolutions: 0,
            insists: false,
            losses: 0,
            not_kept: false,
            fault: None,
            happened: Arc::default(),
            answers: Arc::default(),
        }
    }

    pub fn refuses(&self) -> bool {
        self.attempts.policies.iter().all(|policy| *policy == AfterCrash::Refuse)
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn note(&self, event: Event) {
        self.happened.fetch_or(1 << event as u32, Ordering::Relaxed);
    }

    fn gone(&self, world: &World<N>, who: usize) -> Phase {
        if world.attempts[who].looks { Phase::GivingBack } else { Phase::Gone { crashed: false } }
    }

    /// How long from now a completion is written where nothing stands.
    pub fn recreates(lease: Lease) -> u8 {
        let until = decide::recreate_until(NOW - u64::from(lease.behind) * TICK, 0, u64::from(LEASE) * TICK);
        (until.saturating_sub(NOW) / TICK) as u8
    }

    /// What an attempt sends to end.
    fn end_of(&self, work: Work, lease: Lease) -> Message {
        match work {
            Work::Complete(state) if self.has(Fault::RecreatesLate) => {
                Message::Complete { state, recreates: if Self::recreates(lease) > 0 { ALWAYS } else { 0 } }
            }
            Work::Complete(state) => Message::Complete { state, recreates: Self::recreates(lease) },
            Work::Release => Message::Release,
        }
    }

    /// A message reaches the store, which takes its step.
    fn arrives(&self, world: &mut World<N>, who: usize, message: Message) -> Told {
        let before = world.store;
        let (ask, by_key) = match message {
            Message::Claim { takes_over } => (Ask::Claim { takes_over }, false),
            Message::Renew => (Ask::Renew, self.has(Fault::RenewsByKey)),
            Message::Complete { state, recreates } => {
                (Ask::Complete { state, recreates }, self.has(Fault::CompletesByKey))
            }
            Message::Release => (Ask::Release, self.has(Fault::ReleasesByKey)),
        };
        let by = before.filter(|_| by_key).map_or(who, |stored| stored.claimed_by.into());
        let (after, told) = self.answers.ask(&self.attempts, before, by, ask);
        world.store = after;
        self.judge(world, who, ask, before, told);
        told
    }

    /// What the step means for the promises.
    fn judge(&self, world: &mut World<N>, who: usize, ask: Ask, before: Option<Stored>, told: Told) {
        let after = world.store;
        let mut broken = None;
        if before.is_some_and(Stored::is_done) && after != before {
            broken = Some(Broken::ResultChanged);
        }
        let attempt = &mut world.attempts[who];
        let is_own = before.is_some_and(|stored| stored.is_claim_of(who)) && attempt.cut == Cut::No;
        let is_change = matches!((ask, told), (Ask::Renew | Ask::Release, Told::Done(true))) || after != before;
        match ask {
            Ask::Claim { .. } if told == Told::Claimed => {
                (attempt.granted, attempt.cut) = (LEASE, Cut::No);
                for (other, attempt) in world.attempts.iter_mut().enumerate().filter(|(other, _)| *other != who) {
                    if attempt.cut == Cut::No && attempt.granted > 0 {
                        broken = Some(Broken::TwoClaims);
                    }
                    let stood = before.is_some_and(|stored| usize::from(stored.claimed_by) == other);
                    let has_claimed = !matches!(attempt.phase, Phase::Idle | Phase::Claiming { .. });
                    if attempt.cut == Cut::No && (stood || has_claimed) {
                        attempt.cut = Cut::Followed;
                    }
                }
                self.note(if before.is_some() { Event::TookOver } else { Event::Claimed });
            }
            Ask::Renew if is_change => {
                broken = broken.or((!is_own).then_some(Broken::Unfenced));
                attempt.granted = LEASE;
                if attempt.has_begun {
                    world.protected = TTL;
                }
                if before.is_some_and(Stored::is_lapsed) {
                    self.note(Event::Revived);
                }
            }
            Ask::Release if is_change => {
                broken = broken.or((!is_own).then_some(Broken::Unfenced));
                (attempt.granted, attempt.cut) = (0, Cut::Released);
                if attempt.has_begun {
                    world.protected = 0;
                }
            }
            Ask::Complete { .. } if is_change => {
                // What has had its effect is not to be run again: where nothing stands its end is written once more, as
                // long as its lease would last. Never over another's record, nor after an operator's result.
                let may_recreate = matches!(attempt.cut, Cut::No | Cut::Removed | Cut::Forgotten);
                let recreates = before.is_none() && attempt.granted > 0 && may_recreate;
                broken = broken.or((!is_own && !recreates).then_some(Broken::Unfenced));
                if attempt.has_begun {
                    world.protected = TTL;
                }
                if before.is_none() {
                    self.note(Event::Recreated);
                }
            }
            Ask::Complete { .. } if told == Told::Stored => self.note(Event::CompletedTwice),
            Ask::Complete { .. } if before.is_some_and(Stored::is_done) => self.note(Event::Replaced),
            _ => {}
        }
        world.broken = world.broken.or(broken);
    }

    fn claim(&self, world: &mut World<N>, who: usize, waits: bool) -> Option<()> {
        let (seen, sent) = match world.attempts[who].phase {
            Phase::Claiming { seen, sent } => (seen, sent),
            _ => (None, None),
        };
        let told = self.arrives(world, who, Message::Claim { takes_over: seen });
        if !waits && told != Told::Met(Met::InFlight) {
            return None;
        }
        let since = sent.unwrap_or(0);
        let behind = LEASE - world.attempts[who].granted;
        world.attempts[who].phase = match told {
            Told::Claimed => Phase::Claimed(Lease { since, first_renewal: None, behind: 0 }),
            Told::Met(Met::Itself) if self.has(Fault::TrustsItsOwnSending) => {
                Phase::Claimed(Lease { since, first_renewal: None, behind })
            }
            Told::Met(Met::Itself) => {
                let passed = LEASE - world.store.map_or(0, Stored::lease_left);
                Phase::Claimed(Lease { since: LEASE.min(since + passed), first_renewal: None, behind })
            }
            Told::Met(Met::Lapsed(seen)) => Phase::Claiming { seen: Some(seen), sent: None },
            Told::Met(Met::InFlight) if waits => Phase::Claiming { seen, sent: None },
            Told::Met(_) => self.gone(world, who),
            other => unreachable!("a claim is not told {other:?}"),
        };
        match told {
            Told::Met(Met::Itself) => self.note(Event::RecognisedItself),
            Told::Met(Met::Replay) => self.note(Event::Replayed),
            Told::Met(Met::NotKept) => self.note(Event::ToldNotKept),
            Told::Met(Met::Unknown) => self.note(Event::ToldUnknown),
            Told::Met(Met::Mismatch) => self.note(Event::ToldMismatch),
            _ => {}
        }
        Some(())
    }

    fn claim_fails(&self, world: &mut World<N>, who: usize, again: bool) -> Option<()> {
        let attempt = &mut world.attempts[who];
        let (seen, sent) = match attempt.phase {
            Phase::Claiming { seen, sent } => (seen, sent),
            _ => (None, None),
        };
        attempt.late = attempt.late.or(Some(Message::Claim { takes_over: seen }));
        attempt.looks = !self.has(Fault::LooksNoMore);
        attempt.phase = if again { Phase::Claiming { seen, sent: Some(0) } } else { Phase::GivingBack };
        (!again || sent.is_none()).then_some(())
    }

    fn start(&self, world: &mut World<N>, who: usize) -> Option<()> {
        let attempt = &mut world.attempts[who];
        let Phase::Claimed(lease) = attempt.phase else { return None };
        if decide::start(LEASE, lease.since) != Start::Now && !self.has(Fault::StartsUnlooked) {
            return None;
        }
        (attempt.phase, attempt.has_begun) = (Phase::Running(lease), true);
        let is_excused = attempt.cut.is_unheard_of();
        let live = world.store.filter(|stored| stored.is_claim_of(who) && stored.lease_left() > 0);
        if live.is_none() && !is_excused {
            world.broken = world.broken.or(Some(Broken::BeganWithoutClaim));
        }
        if self.refuses() && !is_excused {
            if world.protected > 0 {
                world.broken = world.broken.or(Some(Broken::RanTwice));
            }
            world.protected = live.map_or(0, |stored| stored.left);
        }
        Some(())
    }

    fn renew(&self, world: &mut World<N>, who: usize) -> Option<()> {
        let is_renewed = self.arrives(world, who, Message::Renew) == Told::Done(true);
        let phase = &mut world.attempts[who].phase;
        *phase = match (*phase, is_renewed) {
            (Phase::Claimed(lease), true) => Phase::Claimed(lease.renewed()),
            (Phase::Claimed(lease), false) => Phase::Ending(Work::Release, lease),
            (Phase::Running(lease), true) => Phase::Running(lease.renewed()),
            (Phase::Ending(work @ Work::Complete(_), lease), true) => Phase::Ending(work, lease.renewed()),
            _ => return None,
        };
        Some(())
    }

    fn renew_fails(&self, world: &mut World<N>, who: usize) -> Option<()> {
        let attempt = &mut world.attempts[who];
        if let Phase::Claimed(lease) = attempt.phase {
            attempt.phase = Phase::Ending(Work::Release, lease);
        }
        attempt.late.replace(Message::Renew).is_none().then_some(())
    }

    fn end(&self, world: &mut World<N>, who: usize, end: End) -> Option<()> {
        let attempt = &mut world.attempts[who];
        let Phase::Running(lease) = attempt.phase else { return None };
        let work = match (end, self.attempts.policies[who]) {
            (End::Returns, _) => Work::Complete(State::Completed),
            (End::ReturnsTooMuch, _) => Work::Complete(State::NotKept),
            (End::Releases, _) | (End::Fails, AfterCrash::Rerun) => Work::Release,
            (End::Fails, AfterCrash::Refuse) => Work::Complete(State::Unknown),
        };
        attempt.phase = Phase::Ending(work, lease);
        Some(())
    }

    fn send(&self, world: &mut World<N>, who: usize) -> Option<()> {
        let Phase::Ending(work, lease) = world.attempts[who].phase else { return None };
        self.arrives(world, who, self.end_of(work, lease));
        world.attempts[who].phase = self.gone(world, who);
        Some(())
    }

    fn send_fails(&self, world: &mut World<N>, who: usize) -> Option<()> {
        let attempt = &mut world.attempts[who];
        let Phase::Ending(work, lease) = attempt.phase else { return None };
        attempt.late.replace(self.end_of(work, lease)).is_none().then_some(())
    }

    fn give_back(&self, world: &mut World<N>, who: usize) -> Option<()> {
        let is_released = self.arrives(world, who, Message::Release) == Told::Done(true);
        let attempt = &mut world.attempts[who];
        // It is looked for again and again: for longer than a message is on its way.
        let looks_on = attempt.late.is_some() && (!is_released || attempt.looks);
        if looks_on && is_released {
            return Some(());
        }
        if looks_on && !self.has(Fault::ReleasesOnce) {
            return None;
        }
        attempt.phase = Phase::Gone { crashed: false };
        if is_released {
            self.note(Event::GaveBack);
        }
        Some(())
    }

    fn resolve(&self, world: &mut World<N>, completes: bool, force: bool) -> Option<()> {
        let (seen, before) = (world.seen?, world.store);
        let after = self.attempts.resolve(before, seen, completes, force || self.has(Fault::ResolvesByFence));
        if after == before {
            return None;
        }
        (world.store, world.seen, world.resolutions) = (after, None, world.resolutions - 1);
        let stood = before?;
        if stood.is_done() && !force {
            world.broken = Some(Broken::ResultChanged);
        }
        if force || stood.lease_left() == 0 {
            let cut = if completes { Cut::Resolved } else { Cut::Removed };
            world.attempts[usize::from(stood.claimed_by)].cut = cut;
            world.protected = after.map_or(0, |_| TTL.min(world.protected * TTL));
        }
        self.note(if completes { Event::ResolvedWithResult } else { Event::ResolvedToNothing });
        Some(())
    }

    fn forget(&self, world: &mut World<N>) -> Option<()> {
        let stored = world.store.take()?;
        world.losses -= 1;
        world.protected = 0;
        let attempt = &mut world.attempts[usize::from(stored.claimed_by)];
        // An operator's word is forgotten as well.
        if attempt.cut == Cut::No || stored.by_operator {
            attempt.cut = Cut::Forgotten;
        }
        Some(())
    }

    fn take(&self, world: &mut World<N>, action: Action) -> Option<()> {
        match action {
            Action::Tick => world.tick(),
            Action::Claim { who, waits } => self.claim(world, who, waits)?,
            Action::ClaimFails { who, again } => self.claim_fails(world, who, again)?,
            Action::Start(who) => self.start(world, who)?,
            Action::Renew(who) => self.renew(world, who)?,
            Action::RenewFails(who) => self.renew_fails(world, who)?,
            Action::Drop(who) => {
                let Phase::Claimed(lease) = world.attempts[who].phase else { return None };
                world.attempts[who].phase = Phase::Ending(Work::Release, lease);
            }
            Action::End(who, end) => self.end(world, who, end)?,
            Action::Send(who) => self.send(world, who)?,
            Action::SendFails(who) => self.send_fails(world, who)?,
            Action::GiveBack(who) => self.give_back(world, who)?,
            Action::Crash(who) => world.attempts[who].phase = Phase::Gone { crashed: true },
            Action::Arrive(who) => {
                let message = world.attempts[who].late.take()?;
                self.arrives(world, who, message);
            }
            Action::Lose(who) => drop(world.attempts[who].late.take()?),
            Action::Look => world.seen = Some(world.store?.claimed_by),
            Action::Resolve { completes, force } => self.resolve(world, completes, force)?,
            Action::Forget => self.forget(world)?,
        }
        Some(())
    }
}

impl<const N: usize> Model for Protocol<N> {
    type State = World<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<World<N>> {
        vec![World {
            store: None,
            attempts: [Attempt::NEW; N],
            seen: None,
            resolutions: self.resolutions,
            losses: self.losses,
            protected: 0,
            broken: None,
        }]
    }

    fn actions(&self, world: &World<N>, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        actions.push(Action::Tick);
        for (who, attempt) in world.attempts.iter().enumerate() {
            match attempt.phase {
                Phase::Idle | Phase::Claiming { .. } => {
                    actions.extend([true, false].map(|waits| Action::Claim { who, waits }));
                    actions.extend([true, false].map(|again| Action::ClaimFails { who, again }));
                }
                Phase::Claimed(_) => {
                    actions.extend([Action::Start(who), Action::Renew(who), Action::RenewFails(who), Action::Drop(who)])
                }
                Phase::Running(_) => {
                    actions.extend([Action::Renew(who), Action::RenewFails(who)]);
                    actions.extend([End::Returns, End::Fails].map(|end| Action::End(who, end)));
                    actions.extend(self.not_kept.then_some(Action::End(who, End::ReturnsTooMuch)));
                    let refuses = self.attempts.policies[who] == AfterCrash::Refuse;
                    actions.extend(refuses.then_some(Action::End(who, End::Releases)));
                }
                Phase::Ending(..) => actions.extend([
                    Action::Send(who),
                    Action::SendFails(who),
                    Action::Renew(who),
                    Action::RenewFails(who),
                ]),
                Phase::GivingBack => actions.push(Action::GiveBack(who)),
                Phase::Gone { .. } => {}
            }
            if !attempt.is_gone() && attempt.phase != Phase::Idle {
                actions.push(Action::Crash(who));
            }
            if attempt.late.is_some() {
                actions.extend([Action::Arrive(who), Action::Lose(who)]);
            }
        }
        if world.resolutions > 0 {
            actions.push(Action::Look);
            for completes in [true, false] {
                actions.extend([false, true].map(|force| Action::Resolve { completes, force }));
            }
        }
        if world.losses > 0 {
            actions.push(Action::Forget);
        }
        actions.retain(|action| self.insists || !matches!(action, Action::Resolve { force: true, .. }));
    }

    fn next_state(&self, last: &World<N>, action: Action) -> Option<World<N>> {
        let mut world = *last;
        self.take(&mut world, action)?;
        // Under a fault a message may do what it should not: none is forgotten.
        if self.fault.is_none() {
            world.tidy();
            if self.attempts.are_alike() {
                world.sort();
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties(self)
    }
}
