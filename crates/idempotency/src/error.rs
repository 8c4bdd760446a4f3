//! [`StoreError`]: what a store could not do, and whether it may have done it after all.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What became of an operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Certainly not executed; sending it again is safe.
    NotExecuted,
    /// A timeout or a lost connection: it may have been executed.
    Unknown,
    /// The store answered with an error of its own: the operation may have been executed.
    Refused,
    /// There is no room for another claim. Nothing was executed.
    Full,
    /// The store can never take this result. Nothing was executed.
    TooLarge,
    /// Another transaction holds the key for as long as it lasts. Nothing was executed; sending it again is safe.
    Busy,
    /// Something that is not ours, or newer than us, stands under the key. Nothing was executed.
    Foreign,
    /// The store can't be used as it is set up (password, version, path). Nothing was executed.
    Setup,
}

impl StoreErrorKind {
    /// Its name in events and metrics: `not_executed`, `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotExecuted => "not_executed",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Foreign => "foreign",
            Self::Setup => "setup",
        }
    }
}

/// A store's failure: a kind to match on, words for a person, and the source.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl StoreError {
    /// An error with a message that says what to do.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Keeps what caused it.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// What became of the operation.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Of two sendings of one operation the worse counts: where the first may have been executed, both may.
    pub(crate) fn after(self, first: &Self) -> Self {
        let kind = if first.may_be_executed() { first.kind } else { self.kind };
        Self { kind, ..self }
    }

    /// Whether it is the word of a store that works.
    pub(crate) fn is_answer(&self) -> bool {
        use StoreErrorKind::{Busy, Foreign, Full, TooLarge};
        matches!(self.kind, Busy | Full | Foreign | TooLarge)
    }

    /// Whether the operation may have been executed after all.
    pub(crate) fn may_be_executed(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unknown | StoreErrorKind::Refused)
    }

    /// Whether it may go better another time, without anybody mending something.
    pub fn is_passing(&self) -> bool {
        use StoreErrorKind::{Busy, Full, NotExecuted, Refused, Unknown};
        matches!(self.kind, NotExecuted | Unknown | Refused | Full | Busy)
    }

    /// The error for a record whose result is sealed, where there are no keys.
    pub(crate) fn sealed(key: impl fmt::Display) -> Self {
        Self::foreign(
            key,
            "its result is sealed, and this process has no keys; give it those that it was sealed with (in Python seal=, in \
             Rust Sealed, for the command line IDEMPOTENCY_SEAL_KEYS)",
        )
    }

    /// The error for a record that [`crate::Record::decode`] refused, under the name the store knows it by.
    pub fn foreign(name: impl fmt::Display, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let error = error.into();
        Self::new(StoreErrorKind::Foreign, format!("the storage key {name} can't be used: {error}")).with_source(error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
