//! [`Attempt`]: what a protected service may know of the attempt that it runs under.

use std::sync::Arc;

use super::layer::Config;
use crate::engine::CurrentAttempt;
use crate::key::Key;

/// The attempt that a request runs under, in the request's extensions.
///
/// With axum it is an extractor: `async fn pay(attempt: Attempt, …)`.
#[derive(Clone)]
pub struct Attempt {
    seen: CurrentAttempt,
    key: Key,
    caller: Option<Arc<[u8]>>,
    /// Of the layer that holds it.
    config: Arc<Config>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seen, key, caller, .. } = self;
        let attempt = &mut f.debug_struct("Attempt");
        attempt.field("seen", seen).field("key", key).field("caller", caller).finish_non_exhaustive()
    }
}

impl Attempt {
    pub(super) fn new(seen: CurrentAttempt, key: Key, caller: Option<Arc<[u8]>>, config: Arc<Config>) -> Self {
        Self { seen, key, caller, config }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The client's key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Who calls, as [`scope`](super::IdempotencyLayer::scope) has said; `None`: nobody in particular.
    pub fn caller(&self) -> Option<&[u8]> {
        self.caller.as_deref()
    }

    /// A number that is greater for every later attempt on this key: a system downstream can refuse a smaller one.
    pub fn fence(&self) -> u64 {
        self.seen.fence()
    }

    /// Whether the claim is known to be lost: another attempt may run.
    pub fn is_lost(&self) -> bool {
        self.seen.is_lost()
    }

    /// A key for a call downstream: every attempt of this key has one and the same for a `name`.
    pub fn derive(&self, name: &str) -> String {
        self.seen.derive(name)
    }

    /// Says that nothing was done: whatever the answer is, it is not stored, and a repeat runs.
    pub fn release(&self) {
        self.seen.release();
    }

    pub(super) fn is_released(&self) -> bool {
        self.seen.is_released()
    }
}
