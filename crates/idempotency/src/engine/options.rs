//! [`Options`]: what one call site asks of the engine.

use std::time::Duration;

use crate::record::AfterCrash;

/// The lease where none is told, if `ttl` is not shorter.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Options of a call site. The store behind it is shared; these are not.
///
/// ```
/// use std::time::Duration;
/// use idempotency::{AfterCrash, Idempotency, Options, stores::MemoryStore};
///
/// let options = Options::new().ttl(Duration::from_secs(3600)).after_crash(AfterCrash::Refuse);
/// let charges = Idempotency::new(MemoryStore::new()).with_options(options)?;
///
/// let contradictory = options.lease(Duration::from_secs(7200));
/// let error = charges.with_options(contradictory).unwrap_err();
/// assert_eq!(error.to_string(), "lease (7200s) must not be longer than ttl (3600s)");
/// # Ok::<(), idempotency::OptionsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long a result is kept, from its completion on: by default 24 h.
    pub ttl: Duration,
    /// How long a claim or a renewal is good for: by default the lesser of 30 s and `ttl`, but half of a `ttl` of at most 30 s
    /// under [`AfterCrash::Refuse`].
    pub lease: Option<Duration>,
    /// How long a repeat waits for the first answer. By default not at all.
    pub wait: Duration,
    /// How long an attempt is renewed at the most: by default for the `ttl`.
    pub run_limit: Option<Duration>,
    /// What to do about an attempt that crashed.
    pub after_crash: AfterCrash,
}

impl Default for Options {
    fn default() -> Self {
        let (ttl, wait) = (Duration::from_secs(24 * 3600), Duration::ZERO);
        Self { ttl, lease: None, wait, run_limit: None, after_crash: AfterCrash::Rerun }
    }
}

/// Options that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// `ttl` under a millisecond or over a hundred years.
    #[error("ttl must be from 1 ms to 100 years, not {0:?}")]
    Ttl(Duration),
    /// `lease` under a millisecond.
    #[error("lease must be 1 ms or more, not {0:?}")]
    Lease(Duration),
    /// `lease` as long as `ttl` under [`AfterCrash::Refuse`].
    #[error(
        "with after_crash=\"refuse\" lease ({0:?}) must be shorter than ttl ({1:?}): in between, repeats are told that the outcome is unknown"
    )]
    RefuseWithoutTime(Duration, Duration),
    /// `lease` longer than `ttl`.
    #[error("lease ({0:?}) must not be longer than ttl ({1:?})")]
    LeaseOverTtl(Duration, Duration),
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a result is kept, from its completion on: 1 ms to 100 years. The default lease goes with it.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// How long a claim or a renewal is good for: 1 ms to `ttl`. A crash frees the key after this time.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// How long a repeat waits for the first answer.
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// How long an attempt is renewed at the most.
    pub fn run_limit(self, run_limit: Duration) -> Self {
        Self { run_limit: Some(run_limit), ..self }
    }

    /// What to do about an attempt that crashed.
    pub fn after_crash(self, after_crash: AfterCrash) -> Self {
        Self { after_crash, ..self }
    }

    const HUNDRED_YEARS: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

    /// Whether they fit together.
    pub fn check(&self) -> Result<(), OptionsError> {
        let (least, lease) = (Duration::from_millis(1), self.lease_or_default());
        if !(least..=Self::HUNDRED_YEARS).contains(&self.ttl) {
            return Err(OptionsError::Ttl(self.ttl));
        }
        if lease < least {
            return Err(OptionsError::Lease(lease));
        }
        if lease > self.ttl {
            return Err(OptionsError::LeaseOverTtl(lease, self.ttl));
        }
        if self.after_crash == AfterCrash::Refuse && lease == self.ttl {
            return Err(OptionsError::RefuseWithoutTime(lease, self.ttl));
        }
        Ok(())
    }

    /// How long a claim or a renewal is good for: as told, or by default.
    pub fn lease_or_default(&self) -> Duration {
        self.lease.unwrap_or_else(|| match self.after_crash {
            // Between its end and `ttl`, repeats are told that the outcome is unknown.
            AfterCrash::Refuse if self.ttl <= DEFAULT_LEASE => self.ttl / 2,
            _ => self.ttl.min(DEFAULT_LEASE),
        })
    }
}
