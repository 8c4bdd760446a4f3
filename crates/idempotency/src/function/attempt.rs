//! [`Begun`] and [`Attempt`]: a call that its caller ends.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blocking::runtime;
use super::error::Error;
use super::run::complete;
use crate::engine::{self, CurrentAttempt, Verdict};
use crate::key::StorageKey;

/// How a call begins that its caller ends: [`Call::begin`](super::Call::begin).
#[derive(Debug)]
pub enum Begun<T> {
    /// The key is claimed: do the work, then complete the attempt.
    Run(Attempt<T>),
    /// Done before: its stored result.
    Replayed(T),
    /// Another attempt runs.
    InFlight {
        /// When a repeat makes sense: the lesser of what is left of the other's lease and 1 s.
        retry_after: Duration,
    },
}

/// A claim that is held until its owner ends it. Until then its lease is renewed in the background.
///
/// If it is dropped without an end, as by a `?` in between, the key is held: nobody knows what was done. Its lease
/// lapses, and then the crash policy decides. Call [`Attempt::fail`] or [`Attempt::release`] if you know better.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use idempotency::{Begun, Idempotency, stores::MemoryStore};
///
/// let consumer = Idempotency::new(MemoryStore::new());
/// for delivery in 1..=2 {
///     let handled: u32 = match consumer.call("webhook", "event-7")?.begin().await? {
///         Begun::Run(attempt) => attempt.complete(delivery).await?,
///         Begun::Replayed(before) => before,
///         Begun::InFlight { retry_after } => panic!("ask for it again in {retry_after:?}"),
///     };
///     assert_eq!(handled, 1);
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct Attempt<T> {
    attempt: engine::Attempt,
    result: PhantomData<fn(T) -> T>,
}

impl<T> std::fmt::Debug for Attempt<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.attempt.fmt(f)
    }
}

impl<T> Attempt<T> {
    pub(super) fn new(attempt: engine::Attempt) -> Self {
        Self { attempt, result: PhantomData }
    }

    /// The key it claimed, with its scope.
    pub fn key(&self) -> &StorageKey {
        self.attempt.key()
    }

    /// Its fencing number: greater than that of every attempt on this key before it. Downstream can refuse a smaller one.
    pub fn fence(&self) -> u64 {
        self.attempt.fence()
    }

    /// Whether another attempt is known to have taken its place. A paused process learns that late: where it matters,
    /// let the downstream system compare fences.
    pub fn is_lost(&self) -> bool {
        self.attempt.is_lost()
    }

    /// A key for a downstream call: the same for every attempt of this key, another for every `name`. 32 hexadecimal
    /// digits.
    pub fn derive(&self, name: &str) -> String {
        self.attempt.key().derive(name)
    }

    /// The attempt as its work sees it, to be handed on.
    pub fn current(&self) -> CurrentAttempt {
        self.attempt.current()
    }

    /// Stores the result, and gives it back. Where another attempt completed in this one's place, that one's result comes
    /// back. A store that does not answer in time gets the result in the background.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where another attempt completed in this one's place and its result can't be read here.
    pub async fn complete(self, result: T) -> Result<T, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        Ok(complete(self.attempt, result).await?.into_inner())
    }

    /// Says that the work failed: the key is released, or unknown under [`AfterCrash::Refuse`](crate::AfterCrash::Refuse).
    pub async fn fail(self) {
        self.attempt.settle(Verdict::Fail).await;
    }

    /// Says that nothing happened: the key is free, and the next call runs.
    pub async fn release(self) {
        self.attempt.settle(Verdict::Release).await;
    }

    /// [`Attempt::complete`] on a thread without a runtime.
    ///
    /// # Errors
    /// [`Error::InRuntime`] on a thread of a Tokio runtime: the attempt is dropped, and the key held. Otherwise those of
    /// [`Attempt::complete`].
    pub fn complete_blocking(self, result: T) -> Result<T, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        runtime()?.block_on(self.complete(result))
    }

    /// [`Attempt::fail`] on a thread without a runtime.
    ///
    /// # Errors
    /// [`Error::InRuntime`] on a thread of a Tokio runtime: the attempt is dropped, and the key held.
    pub fn fail_blocking(self) -> Result<(), Error> {
        runtime()?.block_on(self.fail());
        Ok(())
    }

    /// [`Attempt::release`] on a thread without a runtime.
    ///
    /// # Errors
    /// [`Error::InRuntime`] on a thread of a Tokio runtime: the attempt is dropped, and the key held.
    pub fn release_blocking(self) -> Result<(), Error> {
        runtime()?.block_on(self.release());
        Ok(())
    }
}
