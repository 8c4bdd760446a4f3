//! [`Outage`]: whether the store answers. One state per store and process, with one recovery.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{StoreError, StoreErrorKind};
use crate::events::{self, What};
use crate::key::StorageKey;
use crate::store::Store;

/// What is known of the store's answers.
pub(super) struct Outage {
    /// How many operations were answered.
    answers: AtomicU64,
    is_down: AtomicBool,
    /// Whether somebody was told that it is down.
    is_told: AtomicBool,
    /// When the last outage ended.
    ended: Mutex<Option<Instant>>,
    /// Where something that is not ours was told of last.
    foreign: Mutex<Option<StorageKey>>,
    grace: Duration,
    /// The store's, for its events.
    kind: &'static str,
}

/// The number of answers when an operation was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent(u64);

/// The longest pause between two tries to reach a store that is down.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Outage {
    pub(super) fn new(store: &dyn Store) -> Self {
        // A process that saw the outage too tries again within a pause, and may have a sending under way that must fail
        // first; then its renewal takes a round trip.
        let grace = store.time_limit() * 2 + LONGEST_PAUSE * 2;
        let (answers, is_down, is_told, ended, foreign) = Default::default();
        Self { answers, is_down, is_told, ended, foreign, grace, kind: store.kind() }
    }

    pub(super) fn sent(&self) -> Sent {
        Sent(self.answers.load(Ordering::Relaxed))
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::SeqCst)
    }

    /// Takes note of an operation's end; whether an outage ended with it.
    pub(super) fn heard<T>(&self, sent: Sent, answer: &Result<T, StoreError>) -> bool {
        match answer {
            Err(error) if !error.is_answer() => {
                // Where another operation was answered meanwhile, this one's failure is its own.
                if self.sent() == sent {
                    self.is_down.store(true, Ordering::SeqCst);
                }
                false
            }
            _ => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                self.is_down.load(Ordering::Relaxed) && self.ends()
            }
        }
    }

    #[cold]
    fn ends(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let is_over = self.is_down.swap(false, Ordering::SeqCst);
        if is_over && self.is_told.swap(false, Ordering::SeqCst) {
            events::tell(self.kind, || None, What::StoreRecovered);
        }
        is_over
    }

    /// Says once per outage that the store is down, and why.
    pub(super) fn tell(&self, error: &StoreError) {
        if self.is_down() && !self.is_told.swap(true, Ordering::SeqCst) {
            let what = What::StoreFailed { error: error.kind(), cause: error.to_string().into() };
            events::tell(self.kind, || None, what);
        }
    }

    /// Says that something that is not ours stands under a key, unless that was the last thing said.
    pub(super) fn tell_foreign(&self, key: &StorageKey, error: &StoreError) {
        let mut told = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if error.kind() == StoreErrorKind::Foreign && told.replace(*key) != Some(*key) {
            tracing::error!("nothing runs for the record {}: {error}", key.id());
        }
    }

    /// How long nobody is taken over yet: owners that saw the same outage get this time to renew.
    pub(super) fn grace_left(&self) -> Option<Duration> {
        let ended = (*self.ended.lock().unwrap_or_else(PoisonError::into_inner))?;
        self.grace.checked_sub(ended.elapsed()).filter(|left| !left.is_zero())
    }
}
