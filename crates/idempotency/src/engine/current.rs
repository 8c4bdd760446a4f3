//! [`CurrentAttempt`]: an attempt, seen from inside its work.

use std::sync::Arc;

use super::holding::Holding;
use crate::key::StorageKey;

/// The attempt that runs now, seen from inside its work. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use idempotency::{CurrentAttempt, Idempotency, stores::MemoryStore};
///
/// async fn charge(attempt: CurrentAttempt) -> Result<String, std::io::Error> {
///     // The bank gets the same key from every attempt, and may refuse a fence that is smaller than one it saw.
///     let (key, fence) = (attempt.derive("bank"), attempt.fence());
///     Ok(format!("charged under {key}, fence {fence}"))
/// }
///
/// let payments = Idempotency::new(MemoryStore::new());
/// payments.call("charge", "order-7")?.run(charge).await?;
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct CurrentAttempt {
    holding: Arc<Holding>,
}

impl std::fmt::Debug for CurrentAttempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentAttempt")
            .field("record", &self.holding.id())
            .field("fence", &self.fence())
            .finish_non_exhaustive()
    }
}

impl CurrentAttempt {
    pub(super) fn new(holding: Arc<Holding>) -> Self {
        Self { holding }
    }

    /// The key it claimed, with its scope.
    pub fn key(&self) -> &StorageKey {
        &self.holding.key
    }

    /// Its fencing number: greater than that of every attempt on this key before it. Downstream can refuse a smaller one.
    pub fn fence(&self) -> u64 {
        self.holding.record.fence
    }

    /// Whether another attempt is known to have taken its place. A paused process learns that late: where it matters,
    /// let the downstream system compare fences.
    pub fn is_lost(&self) -> bool {
        self.holding.is_lost()
    }

    /// A key for a downstream call: the same for every attempt of this key, another for every `name`. 32 hexadecimal
    /// digits.
    pub fn derive(&self, name: &str) -> String {
        self.holding.key.derive(name)
    }

    /// Declares that nothing happened: the key is free again when the work ends, however it ends. A result that the work
    /// returns afterwards goes to its caller and is not stored.
    pub fn release(&self) {
        self.holding.release();
    }

    /// Whether the work has declared that nothing happened.
    pub fn is_released(&self) -> bool {
        self.holding.is_released()
    }
}
