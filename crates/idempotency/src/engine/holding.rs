//! [`Holding`]: a claim that this process holds or has to give back, and what is still to be sent of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::outage::Sent;
use crate::clock::micros;
use crate::decide::{self, Start};
use crate::events::About;
use crate::key::{Label, StorageKey};
use crate::record::{Micros, Record, State};

/// A claim of this process, until its end has landed in the store.
pub(super) struct Holding {
    pub(super) key: StorageKey,
    /// As claimed: in flight, with its fence.
    pub(super) record: Record,
    pub(super) label: Label,
    /// When its claim was sent.
    claimed: Instant,
    /// Of the runtime that the attempt runs on.
    pub(super) handle: Handle,
    /// Renewing ends here, while the work runs.
    pub(super) renew_until: Instant,
    is_lost: AtomicBool,
    /// The work has said that nothing happened.
    is_released: AtomicBool,
    state: Mutex<HoldingState>,
}

/// What changes in a [`Holding`].
pub(super) struct HoldingState {
    pub(super) work: Work,
    /// When the lease certainly still held, counted from before the claim or renewal was sent.
    lease_end: Instant,
    /// When the last renewal that succeeded, or the claim, was sent.
    renewed: Instant,
    /// When the first renewal was sent: the claim had been answered by then.
    first_renewed: Option<Instant>,
    /// Its place in the keeper's schedule; `None` while it is attended to, and once it has left.
    pub(super) place: Option<Place>,
    pub(super) has_left: bool,
    /// Whether a shutdown waits for it, and whether it is a release, as the keeper has counted.
    pub(super) counted: (bool, bool),
    /// How many releases have been sent, by the attempt itself and by the keeper.
    pub(super) releases: u32,
    /// Tries that a store has refused while it took others.
    pub(super) refusals: u32,
    /// A claim of the same call may still arrive, also after the end of this one.
    may_arrive: bool,
    /// How often it was looked for.
    looks: u32,
    /// How often the store had answered when its last try failed.
    pub(super) failed: Option<Sent>,
    pub(super) pause: Duration,
    /// Whether its end goes without the result that the work gave it.
    pub(super) is_without_result: bool,
    /// Its caller does not wait for its end any more.
    pub(super) is_deferred: bool,
    /// Its end was told.
    pub(super) is_told: bool,
}

/// A time, the rank of what is due then, and its address.
pub(super) type Place = (Instant, u8, usize);

/// What has to be sent of a holding.
#[derive(Clone)]
pub(super) enum Work {
    /// The work runs: its lease is renewed.
    Renew,
    /// The work has ended: a record in this state, with this result, replaces the claim.
    Complete(State, Arc<[u8]>),
    /// Nothing happened: the claim is removed. `is_answered`: the claim's own answer came.
    Release { is_answered: bool },
}

impl Work {
    pub(super) const END: u8 = 0;
    pub(super) const RENEW: u8 = 1;
    pub(super) const RELEASE: u8 = 2;

    /// The order in which things go out after an outage: ends, renewals, releases.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Complete(..) => Self::END,
            Self::Renew => Self::RENEW,
            Self::Release { .. } => Self::RELEASE,
        }
    }
}

/// No `Instant` can hold a hundred years everywhere; a month is as good as never here.
fn within_a_month(duration: Duration) -> Duration {
    duration.min(Duration::from_secs(30 * 24 * 3600))
}

impl Holding {
    pub(super) fn new(
        key: StorageKey,
        record: Record,
        label: Label,
        handle: Handle,
        sent: Instant,
        run_limit: Duration,
        work: Work,
    ) -> Self {
        let may_arrive = matches!(work, Work::Release { is_answered: false });
        let state = HoldingState {
            work,
            may_arrive,
            looks: 0,
            lease_end: sent + within_a_month(Duration::from_micros(record.lease)),
            renewed: sent,
            first_renewed: None,
            place: None,
            has_left: false,
            counted: (false, false),
            releases: 0,
            refusals: 0,
            failed: None,
            pause: FIRST_PAUSE,
            is_without_result: false,
            is_deferred: false,
            is_told: false,
        };
        let renew_until = sent + within_a_month(run_limit);
        let (is_lost, is_released) = Default::default();
        Self { key, record, label, claimed: sent, handle, renew_until, is_lost, is_released, state: Mutex::new(state) }
    }

    /// This one, with a claim of the same call that may still arrive.
    pub(super) fn that(mut self, may_arrive: bool) -> Self {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).may_arrive = may_arrive;
        self
    }

    /// The record's short id, which log lines name it by.
    pub(super) fn id(&self) -> String {
        self.key.id()
    }

    /// How long ago its claim was sent.
    pub(super) fn took(&self) -> Duration {
        self.claimed.elapsed()
    }

    /// What its events are about.
    pub(super) fn about(&self) -> About {
        About { label: self.label.clone(), key: Some(self.key), fence: self.record.fence }
    }

    /// Whether the claim is known to be somebody else's by now.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    pub(super) fn lose(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    /// Whether the work has said that nothing happened.
    pub(super) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Relaxed)
    }

    pub(super) fn release(&self) {
        self.is_released.store(true, Ordering::Relaxed);
    }

    pub(super) fn lease(&self) -> Duration {
        within_a_month(Duration::from_micros(self.record.lease))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, HoldingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When its end is given up: `ttl` after the claim's last renewal nobody can tell what it belongs to.
    pub(super) fn give_up(&self) -> Instant {
        self.state().renewed + within_a_month(Duration::from_micros(self.record.ttl))
    }

    /// Whether work may begin on it.
    pub(super) fn start(&self) -> Start {
        decide::start(self.state().lease_end, Instant::now())
    }
}

/// The pause after a first failed try.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl HoldingState {
    pub(super) fn renewed(&mut self, sent: Instant, lease: Duration) {
        (self.renewed, self.lease_end, self.pause) = (sent, sent + lease, FIRST_PAUSE);
        self.first_renewed.get_or_insert(sent);
    }

    /// When the next renewal is due by itself.
    pub(super) fn renewal_due(&self, lease: Duration) -> Instant {
        self.lease_end - lease * 2 / 3
    }

    /// Until when an end may be written where nothing stands.
    fn recreate_until(&self, record: &Record) -> Micros {
        let renewed_for = self.first_renewed.map_or(0, |first| micros(self.renewed.saturating_duration_since(first)));
        decide::recreate_until(record.fence, renewed_for, record.lease)
    }

    /// The end to send, and until when it may be written where nothing stands.
    pub(super) fn end(&self, claimed: &Record) -> Option<(Record, Micros)> {
        let Work::Complete(state, result) = &self.work else { return None };
        let record = Record { state: *state, result: result.clone(), ..claimed.clone() };
        Some((record, self.recreate_until(claimed)))
    }

    /// The pause before the next try, at most so long; each is longer than the one before.
    pub(super) fn next_pause(&mut self, most: Duration) -> Duration {
        let pause = self.pause.min(most);
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        pause
    }

    /// What is sent from now on; its tries are counted anew.
    pub(super) fn set_work(&mut self, work: Work) {
        (self.work, self.refusals, self.pause) = (work, 0, FIRST_PAUSE);
    }

    /// What was sent was answered. How often a claim was looked for that may still arrive, and is released from now on.
    pub(super) fn look(&mut self) -> Option<u32> {
        if !self.may_arrive {
            return None;
        }
        self.set_work(Work::Release { is_answered: false });
        self.looks += 1;
        Some(self.looks)
    }

    /// Whether a shutdown waits for it. Not for a claim that will hardly ever come.
    pub(super) fn is_awaited(&self) -> bool {
        !self.has_left
            && match self.work {
                Work::Renew => false,
                Work::Complete(..) => true,
                Work::Release { is_answered } => is_answered || self.looks == 0,
            }
    }

    /// Whether it waits to be given back.
    pub(super) fn is_release(&self) -> bool {
        !self.has_left && matches!(self.work, Work::Release { .. })
    }

    /// The end without its result, which the store does not take; `false` where it has none.
    pub(super) fn drop_result(&mut self) -> bool {
        let Work::Complete(State::Completed, _) = self.work else { return false };
        self.work = Work::Complete(State::NotKept, Arc::default());
        self.is_without_result = true;
        true
    }
}
