//! The state machine: pure functions over values, no I/O, no clock of their own.
//!
//! ```text
//!              claim                     complete(token)
//!   absent ─────────────▶ in flight ─────────────────────▶ completed ──ttl──▶ absent
//!      ▲                   │   ▲   │                         (result kept, or "not kept")
//!      └──release(token)───┘   │   └── hold, or refuse + lapse ──▶ unknown ──resolve──▶ absent | completed
//!                              └── claim by another once the lease has lapsed (rerun): same record, fence grows
//! ```
//!
//! [`decide`] says what a request gets. The functions below it say what one atomic step of a store changes;
//! a store that can run Rust inside its atomic step calls them, any other (a script, a statement) does the same.

use crate::fingerprint::Fingerprint;
use crate::record::{AfterCrash, Micros, Record, State, Token};

/// A record as a store found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is stored.
    pub record: Record,
    /// When an in-flight record's lease ends (or ended), by the store's lease clock.
    pub lease_end: Micros,
}

impl Held {
    /// Whether it is a claim whose lease has ended. `now` is the clock that `lease_end` was read on.
    pub fn is_lapsed(&self, now: Micros) -> bool {
        self.record.state == State::InFlight && self.lease_end <= now
    }
}

/// What is asked of [`decide`].
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What this request asks for.
    pub fingerprint: Fingerprint,
    /// This attempt's token.
    pub token: Token,
    /// This request's crash policy; of it and the record's the stricter wins.
    pub after_crash: AfterCrash,
}

/// What a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing stands in the way: claim and run (or go on, where the record is this attempt's own).
    Run,
    /// The stored result.
    Replay,
    /// The key belongs to another payload.
    Mismatch,
    /// Another attempt runs; its lease lasts this long.
    InFlight {
        /// What is left of the lease.
        lease_left: Micros,
    },
    /// Nobody knows whether the effect happened.
    Unknown,
    /// Done; the result could not be kept.
    NotKept,
}

/// Decides from what is stored. `now` is the clock that `held.lease_end` was read on.
pub fn decide(held: Option<&Held>, request: &Request, now: Micros) -> Decision {
    let Some(Held { record, lease_end }) = held else {
        return Decision::Run;
    };
    // First, for every live state: another payload never takes over, not even a crashed claim.
    if record.fingerprint != request.fingerprint {
        return Decision::Mismatch;
    }
    match record.state {
        State::Completed => Decision::Replay,
        State::NotKept => Decision::NotKept,
        State::Unknown => Decision::Unknown,
        // A claim whose acknowledgement was lost recognises itself.
        State::InFlight if record.token == request.token => Decision::Run,
        State::InFlight if now < *lease_end => Decision::InFlight { lease_left: lease_end - now },
        State::InFlight => match record.after_crash.max(request.after_crash) {
            AfterCrash::Rerun => Decision::Run,
            AfterCrash::Refuse => Decision::Unknown,
        },
    }
}

/// A claim: the record to write, and the lapsed claim that [`decide`] allowed it to replace.
#[derive(Clone, Debug)]
pub struct Claim {
    /// In flight, with everything but the fence, which the store gives.
    pub record: Record,
    /// The record seen before; replaced only if it is still that one and still lapsed.
    pub takes_over: Option<Record>,
}

/// What a claim's step does.
#[derive(Clone, Debug)]
pub enum Claiming {
    /// Write this record, whose fence is the attempt's.
    Write(Record),
    /// What is there stands.
    Stands(Held),
}

/// The claim's step. `now` is the lease clock, `fence_clock` the wall clock.
pub fn claim(held: Option<Held>, claim: &Claim, now: Micros, fence_clock: Micros) -> Claiming {
    let previous = match (held, &claim.takes_over) {
        (None, _) => 0,
        (Some(held), Some(seen)) if held.record == *seen && held.is_lapsed(now) => seen.fence + 1,
        (Some(held), _) => return Claiming::Stands(held),
    };
    Claiming::Write(Record { fence: previous.max(fence_clock), ..claim.record.clone() })
}

/// How work may begin on a claim that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The lease still holds.
    Now,
    /// The lease may have ended, as in a process that was stopped: renew first, and claim again where that fails.
    AfterRenewal,
}

/// Whether work may begin. Both are times of one clock; `lease_end` counts from before the claim was sent.
pub fn start<T: PartialOrd>(lease_end: T, now: T) -> Start {
    if now < lease_end { Start::Now } else { Start::AfterRenewal }
}

/// Whether a renewal or a release by this token may touch `held`.
pub fn owns(held: Option<&Held>, token: Token) -> bool {
    held.is_some_and(|held| held.record.state == State::InFlight && held.record.token == token)
}

/// What a completion's step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Write the completed record.
    Write,
    /// This attempt completed before: nothing to write, and it succeeded.
    Already,
    /// The claim is another's, or gone: nothing is written.
    Refused,
}

/// Until when, by the clock that fences come from, an attempt's completion may be written where nothing stands: not after
/// its lease. `renewed_for` is the time between the sending of its first renewal and of its last; 0 without renewals. A
/// fence is the store's clock at the claim, and the last renewal came at least as long after that as after the first.
pub fn recreate_until(fence: u64, renewed_for: Micros, lease: Micros) -> Micros {
    fence.saturating_add(renewed_for).saturating_add(lease)
}

/// The completion's step. An absent record is written while `fence_clock`, the wall clock of the store, has not reached
/// `recreate_until`: until then the attempt's own lease lasts, and no successor can have come and gone.
pub fn complete(held: Option<&Held>, token: Token, recreate_until: Micros, fence_clock: Micros) -> Settle {
    match held {
        None if fence_clock < recreate_until => Settle::Write,
        Some(held) if held.record.token == token => match held.record.state {
            State::InFlight => Settle::Write,
            _ => Settle::Already,
        },
        _ => Settle::Refused,
    }
}

/// An operator's word on a record.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The fence of the record that the operator looked at. Every later attempt has a greater one.
    pub fence: u64,
    /// What stands there instead; `None`: nothing, so that a repeat runs.
    pub into: Option<Record>,
    /// Resolves a live claim or a stored result too.
    pub force: bool,
}

/// Whether the resolution's step is taken. A fence does not change when its attempt completes or renews, so that the
/// record must still be unknown or lapsed, unless the operator insists.
pub fn resolve(held: Option<&Held>, resolution: &Resolution, now: Micros) -> bool {
    held.is_some_and(|held| {
        let is_open = held.record.state == State::Unknown || held.is_lapsed(now);
        held.record.fence == resolution.fence && (is_open || resolution.force)
    })
}
