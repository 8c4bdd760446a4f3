//! What the model knows of the world at one moment: small numbers, so that equal situations are one state.
//!
//! No point in time is kept, only what is left or has passed of a lease and of a `ttl`, in ticks.

use idempotency::State;

/// One of the attempts; its token and its fence follow from it.
pub type Who = u8;

/// How long a lease lasts, and how long a record lives after a claim, a renewal or its completion.
pub const LEASE: u8 = 2;
pub const TTL: u8 = 4;
/// Longer than anything lasts.
pub const ALWAYS: u8 = u8::MAX;

/// The record that stands under the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    pub state: State,
    /// Whose claim it was: of its fence and its policy.
    pub claimed_by: Who,
    /// Whether an operator has put it there, under a token of its own.
    pub by_operator: bool,
    /// What is left of its life.
    pub left: u8,
}

impl Stored {
    pub fn lease_left(self) -> u8 {
        if self.state == State::InFlight { self.left.saturating_sub(TTL - LEASE) } else { 0 }
    }

    pub fn is_lapsed(self) -> bool {
        self.state == State::InFlight && self.lease_left() == 0
    }

    pub fn is_done(self) -> bool {
        matches!(self.state, State::Completed | State::NotKept)
    }

    /// Whether it is this attempt's own claim.
    pub fn is_claim_of(self, who: usize) -> bool {
        self.state == State::InFlight && usize::from(self.claimed_by) == who
    }
}

/// What an attempt knows of its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// How long ago the claim or the last renewal was sent.
    pub since: u8,
    /// How long after the claim the first renewal was sent.
    pub first_renewal: Option<u8>,
    /// How long ago the claim was taken, less the time between the first renewal and the last.
    pub behind: u8,
}

impl Lease {
    pub fn renewed(self) -> Self {
        let first_renewal = self.first_renewal.unwrap_or(self.behind);
        Self { since: 0, first_renewal: Some(first_renewal), behind: first_renewal }
    }

    /// How long the attempt believes in it.
    pub fn left(self) -> u8 {
        LEASE.saturating_sub(self.since)
    }
}

/// What has to be sent of an attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    Complete(State),
    Release,
}

/// Where an attempt stands, as its own process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its claim has not been sent.
    Idle,
    /// It asks for the key. `seen`: the lapsed claim that it may take over. `sent`: how long ago this round began, where
    /// a first sending has failed.
    Claiming { seen: Option<Who>, sent: Option<u8> },
    /// Its claim was answered, and its work has not begun.
    Claimed(Lease),
    /// Its work runs.
    Running(Lease),
    /// Its end is to be sent.
    Ending(Work, Lease),
    /// A claim of it was not answered, and may still come to stand: it is released until none can.
    GivingBack,
    /// Nothing more comes from it.
    Gone { crashed: bool },
}

impl Phase {
    /// How long the attempt believes that it holds the live claim.
    pub fn believes(self) -> u8 {
        match self {
            Self::Claimed(lease) | Self::Running(lease) | Self::Ending(Work::Complete(_), lease) => lease.left(),
            _ => 0,
        }
    }

    fn lease_mut(&mut self) -> Option<&mut Lease> {
        match self {
            Self::Claimed(lease) | Self::Running(lease) | Self::Ending(_, lease) => Some(lease),
            _ => None,
        }
    }
}

/// A message that its sender has given up, and that may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    Claim {
        takes_over: Option<Who>,
    },
    Renew,
    /// `recreates`: for how long it is written where nothing stands.
    Complete {
        state: State,
        recreates: u8,
    },
    Release,
}

/// What ended an attempt's claim, other than time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    No,
    /// The attempt released it.
    Released,
    /// Another attempt has the claim, or had it.
    Followed,
    /// An operator has put a result in its place.
    Resolved,
    /// An operator has removed it.
    Removed,
    /// The store came back without it.
    Forgotten,
}

impl Cut {
    /// Whether nobody told the attempt, nor could its lease.
    pub fn is_unheard_of(self) -> bool {
        matches!(self, Self::Resolved | Self::Removed | Self::Forgotten)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub phase: Phase,
    pub late: Option<Message>,
    /// Whether a claim of it was not answered, and may still arrive, for all it knows.
    pub looks: bool,
    pub has_begun: bool,
    /// What is left of the lease that the store gave: what the promises are measured by, and no process knows.
    pub granted: u8,
    pub cut: Cut,
}

impl Attempt {
    pub const NEW: Self =
        Self { phase: Phase::Idle, late: None, looks: false, has_begun: false, granted: 0, cut: Cut::No };

    pub fn is_gone(self) -> bool {
        matches!(self.phase, Phase::Gone { .. })
    }

    fn rank(&self) -> (u8, u8, bool, bool) {
        let phase = match self.phase {
            Phase::Idle => 0,
            Phase::Claiming { .. } => 1,
            Phase::Claimed(_) => 2,
            Phase::Running(_) => 3,
            Phase::Ending(..) => 4,
            Phase::GivingBack => 5,
            Phase::Gone { .. } => 6,
        };
        (phase, self.granted, self.has_begun, self.late.is_some())
    }
}

/// The promises that a step can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// P1: a claim was given beside a live one.
    TwoClaims,
    /// P1: work began without a live claim.
    BeganWithoutClaim,
    /// P2: a stored result changed, or went before its `ttl`.
    ResultChanged,
    /// P3: an attempt that had lost its claim changed something.
    Unfenced,
    /// P5: under `refuse`, work began although an attempt before it may have had its effect.
    RanTwice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World<const N: usize> {
    pub store: Option<Stored>,
    pub attempts: [Attempt; N],
    /// The record that the operator has looked at.
    pub seen: Option<Who>,
    /// How many resolutions the operator may still make, and how often the store may still come back empty.
    pub resolutions: u8,
    pub losses: u8,
    /// For how long the key protects work that has begun.
    pub protected: u8,
    pub broken: Option<Broken>,
}

impl<const N: usize> World<N> {
    /// One tick passes.
    pub fn tick(&mut self) {
        let passes = |left: &mut u8| *left = if *left == ALWAYS { ALWAYS } else { left.saturating_sub(1) };
        let grows = |passed: &mut u8| *passed = LEASE.min(*passed + 1);
        if let Some(stored) = &mut self.store {
            passes(&mut stored.left);
        }
        self.store = self.store.filter(|stored| stored.left > 0);
        passes(&mut self.protected);
        for attempt in &mut self.attempts {
            passes(&mut attempt.granted);
            if let Phase::Claiming { sent: Some(sent), .. } = &mut attempt.phase {
                grows(sent);
            }
            if let Some(lease) = attempt.phase.lease_mut() {
                grows(&mut lease.since);
                grows(&mut lease.behind);
            }
            if let Some(Message::Complete { recreates, .. }) = &mut attempt.late {
                passes(recreates);
            }
        }
    }

    /// Orders attempts that are alike, so that two worlds are one state which differ in their names alone.
    pub fn sort(&mut self) {
        for one in 1..N {
            if self.attempts[one - 1].rank() > self.attempts[one].rank() {
                self.swap((one - 1) as Who, one as Who);
            }
        }
    }

    fn swap(&mut self, one: Who, other: Who) {
        let rename = |who: &mut Who| match *who {
            old if old == one => *who = other,
            old if old == other => *who = one,
            _ => {}
        };
        self.attempts.swap(usize::from(one), usize::from(other));
        self.store.iter_mut().for_each(|stored| rename(&mut stored.claimed_by));
        self.seen.iter_mut().for_each(rename);
        for attempt in &mut self.attempts {
            if let Phase::Claiming { seen: Some(seen), .. } = &mut attempt.phase {
                rename(seen);
            }
            if let Some(Message::Claim { takes_over: Some(seen) }) = &mut attempt.late {
                rename(seen);
            }
        }
    }

    /// Forgets what can't matter any more, so that equal futures are one state.
    pub fn tidy(&mut self) {
        let store = self.store;
        for (who, attempt) in self.attempts.iter_mut().enumerate() {
            let is_held = store.is_some_and(|stored| stored.is_claim_of(who));
            let may_be_held = is_held || matches!(attempt.phase, Phase::Claiming { .. });
            let is_dead = match attempt.late {
                Some(Message::Renew | Message::Release) => !may_be_held,
                Some(Message::Complete { recreates: 0, .. }) => !is_held,
                _ => false,
            };
            if is_dead {
                attempt.late = None;
            }
            if attempt.is_gone() && attempt.late.is_none() && !is_held {
                *attempt = Attempt { phase: Phase::Gone { crashed: false }, ..Attempt::NEW };
            }
        }
        self.seen = self.seen.filter(|seen| {
            let attempt = &self.attempts[usize::from(*seen)];
            let stands = store.is_some_and(|stored| stored.claimed_by == *seen);
            self.resolutions > 0 && (stands || !attempt.is_gone() || attempt.late.is_some())
        });
    }
}
