//! [`Call`] and [`Begun`]: what is asked of the engine, and how it begins.

use std::sync::Arc;
use std::time::Duration;

use super::attempt::Attempt;
use crate::decide::Decision;
use crate::events::What;
use crate::fingerprint::Fingerprint;
use crate::key::{Key, Label, Scope, StorageKey};
use crate::record::{Micros, Record};

/// A request, as the engine sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Scope and key.
    pub key: StorageKey,
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// Operation and key in words, kept with the record for operators.
    pub label: Label,
}

impl Call {
    /// A call of `key` in `scope`.
    pub fn new(scope: &Scope<'_>, key: &Key, fingerprint: Fingerprint) -> Self {
        Self { key: scope.storage_key(key), fingerprint, label: scope.label(key) }
    }
}

/// How a call begins.
#[derive(Debug)]
pub enum Begun {
    /// This attempt holds the claim: do the work, then settle it.
    Run(Attempt),
    /// Done before: its result.
    Replay(Arc<[u8]>),
    /// The key belongs to another payload.
    Mismatch,
    /// Another attempt runs, for at least this long by its lease.
    InFlight {
        /// What is left of the lease.
        lease_left: Duration,
    },
    /// Nobody knows whether the effect happened; an operator must resolve the key.
    Unknown,
    /// Done; the result could not be kept. What is known of it instead.
    NotKept(Arc<[u8]>),
}

impl Begun {
    /// How a call ends before it began, by the record that stands in its way.
    pub(crate) fn held(record: Record, decision: Decision) -> Self {
        match decision {
            Decision::Replay => Self::Replay(record.result),
            Decision::NotKept => Self::NotKept(record.result),
            Decision::Mismatch => Self::Mismatch,
            Decision::InFlight { lease_left } => Self::in_flight(lease_left),
            // `Run` is followed by a claim, never returned as held; were it, "unknown" would be the safe word.
            Decision::Unknown | Decision::Run => Self::Unknown,
        }
    }

    /// What it is to an observer, where nothing runs.
    pub(crate) fn what(&self) -> Option<What> {
        match self {
            Self::Run(_) => None,
            Self::Replay(result) => Some(What::Replayed { bytes: result.len() }),
            Self::Mismatch => Some(What::Conflict),
            Self::InFlight { lease_left } => Some(What::InFlight { lease_left: *lease_left }),
            Self::Unknown => Some(What::Unknown),
            Self::NotKept(_) => Some(What::NotKept),
        }
    }

    /// Another attempt runs.
    pub(crate) fn in_flight(lease_left: Micros) -> Self {
        Self::InFlight { lease_left: Duration::from_micros(lease_left) }
    }
}
