//! Events: what happened to each call, each attempt and each store, told once per fact.
//!
//! Every event goes to the log ([`tracing`]), and to whoever has called [`observe`]. Observers are called on a thread of
//! their own, in the order of the events. Between the engine and that thread is a queue of 10,000 events: an observer that
//! is slow or panics harms nobody, and what had no room is counted ([`dropped`]).
//!
//! An event names its record by the short id and the operation. It never has the key, a payload, a result or a credential.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::mpsc;
//! use std::time::Duration;
//! use idempotency::{Idempotency, events, stores};
//!
//! let (told, seen) = mpsc::channel();
//! let observation = events::observe(move |event: &events::Event| {
//!     drop(told.send((event.what.name(), event.operation().map(str::to_owned))));
//! });
//! let payments = Idempotency::new(stores::open("memory://")?);
//! for _ in 0..2 {
//!     payments.call("example charge", "order-7")?.run(async |_| Ok::<_, std::io::Error>("receipt".to_owned())).await?;
//! }
//! events::flush(Duration::from_secs(5));
//! drop(observation);
//! let seen: Vec<_> = seen.try_iter().filter(|(_, operation)| operation.as_deref() == Some("example charge")).collect();
//! let names: Vec<_> = seen.iter().map(|(name, _)| *name).filter(|name| *name != "store_operation").collect();
//! assert_eq!(names, ["claimed", "completed", "replayed"]);
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

#[cfg(feature = "metrics")]
mod facade;
mod log;
mod measures;
mod queue;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::StoreErrorKind;
use crate::key::{Label, StorageKey};

#[cfg(feature = "metrics")]
pub use facade::to_metrics;
#[cfg(feature = "metrics")]
pub(crate) use measures::{LOOKS_FAILED, OLDEST_IN_FLIGHT, OLDEST_UNKNOWN};
pub use measures::{METRICS, Measure, Metric, MetricKind, measure_dropped};
pub use queue::{Observation, dropped, flush, observe};

/// Somebody who is told of events. A closure `Fn(&Event)` is one.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of an event.
    fn observe(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event) {
        self(event);
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// What it was.
    pub what: What,
    /// The kind of store: `memory`, `sqlite`, `redis`, `postgres`, or what a store of your own calls itself.
    pub store: &'static str,
    about: Option<About>,
}

/// Whom an event is about.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) label: Label,
    /// `None` where no record was asked for.
    pub(crate) key: Option<StorageKey>,
    /// 0 where there is no attempt.
    pub(crate) fence: u64,
}

impl Event {
    /// What is done: the name of a function, or method and path. `None` for what concerns the store as a whole.
    pub fn operation(&self) -> Option<&str> {
        self.about.as_ref().map(|about| about.label.operation())
    }

    /// Whether the key belongs to a caller. Which one is never told.
    pub fn has_caller(&self) -> bool {
        self.about.as_ref().is_some_and(|about| about.label.has_caller())
    }

    /// The record's short id, as the log has it: [`StorageKey::id`].
    pub fn record_id(&self) -> Option<String> {
        self.about.as_ref()?.key.map(|key| key.id())
    }

    /// The fence of the attempt, where there is one.
    pub fn fence(&self) -> Option<u64> {
        self.about.as_ref().map(|about| about.fence).filter(|fence| *fence > 0)
    }
}

/// The words of the log.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        log::words(f, &self.what, self.about.as_ref().and_then(|about| about.key))
    }
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum What {
    /// An attempt holds the claim and may begin.
    Claimed {
        /// It took the place of one that crashed.
        takes_over: bool,
        /// How long the claim is good for unless it is renewed.
        lease: Duration,
    },
    /// A repeat got the stored result.
    Replayed {
        /// The size of the stored result.
        bytes: usize,
    },
    /// The key belongs to another payload. Nothing ran.
    Conflict,
    /// Another attempt runs. Nothing ran.
    InFlight {
        /// What is left of its lease.
        lease_left: Duration,
    },
    /// Nobody knows whether the effect of an earlier attempt happened. Nothing ran.
    Unknown,
    /// An earlier attempt is done, and its result was not kept. Nothing ran.
    NotKept,
    /// The store failed. Nothing ran.
    Unavailable {
        /// What became of the claim.
        error: StoreErrorKind,
    },
    /// A call was refused before the store was asked.
    Refused {
        /// The row of the table of refusals: `key-missing`.
        row: &'static str,
    },
    /// A call waited for another one, whatever came of it.
    Waited {
        /// How long.
        took: Duration,
    },

    /// An attempt ended, and its result is in the store.
    Completed {
        /// The size of the stored result.
        bytes: usize,
        /// From the claim to the answer of the store.
        took: Duration,
        /// The store took it later than its caller waited.
        was_deferred: bool,
    },
    /// An attempt ended well, and its result is not kept.
    CompletedWithoutResult {
        /// From the claim to the answer of the store.
        took: Duration,
        /// The store took it later than its caller waited.
        was_deferred: bool,
    },
    /// An attempt ended, and nobody knows whether its effect happened: an operator must resolve the record.
    EndedUnknown {
        /// From the claim to the answer of the store.
        took: Duration,
        /// The store took it later than its caller waited.
        was_deferred: bool,
    },
    /// An attempt ended without an effect. The next call runs.
    Released {
        /// From the claim to the answer of the store.
        took: Duration,
        /// The store took it later than its caller waited.
        was_deferred: bool,
    },
    /// An attempt was broken off. Its claim is left to lapse, and a repeat runs then.
    Held {
        /// From the claim on.
        took: Duration,
    },
    /// An attempt had lost its claim when it ended. Its result is not stored.
    Lost {
        /// From the claim on.
        took: Duration,
        /// Another attempt's result stands there.
        is_replaced: bool,
        /// The store took note later than its caller waited.
        was_deferred: bool,
    },
    /// The end of an attempt could not be stored, and is not tried any more.
    GivenUp {
        /// Why the last try failed.
        cause: Arc<str>,
        /// Its caller had stopped waiting.
        was_deferred: bool,
    },
    /// The store did not take the end of an attempt in time. It is sent again in the background.
    Deferred,

    /// A claim was renewed later than it should have been.
    RenewedLate {
        /// By how much.
        late: Duration,
    },
    /// A claim was found to be another's while its work ran.
    ClaimLost {
        /// What else stands under the key, if it is no record of this library.
        cause: Option<Arc<str>>,
    },

    /// An operation of the store ended.
    StoreOperation {
        /// Its name: `claim`, `renew`, `complete`, `release`, `get`, `resolve`, `purge`, `list` or `health`.
        name: &'static str,
        /// How long it took.
        took: Duration,
        /// What became of it, if it failed.
        error: Option<StoreErrorKind>,
    },
    /// The store can't be used. Told once, until it answers again.
    StoreFailed {
        /// The kind of the error.
        error: StoreErrorKind,
        /// Its words.
        cause: Arc<str>,
    },
    /// The store answers again.
    StoreRecovered,
}

impl What {
    /// The event's name, in lower case: `claimed`, `store_operation`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::Replayed { .. } => "replayed",
            Self::Conflict => "conflict",
            Self::InFlight { .. } => "in_flight",
            Self::Unknown => "unknown",
            Self::NotKept => "not_kept",
            Self::Unavailable { .. } => "unavailable",
            Self::Refused { .. } => "refused",
            Self::Waited { .. } => "waited",
            Self::Completed { .. } => "completed",
            Self::CompletedWithoutResult { .. } => "completed_without_result",
            Self::EndedUnknown { .. } => "ended_unknown",
            Self::Released { .. } => "released",
            Self::Held { .. } => "held",
            Self::Lost { .. } => "lost",
            Self::GivenUp { .. } => "given_up",
            Self::Deferred => "deferred",
            Self::RenewedLate { .. } => "renewed_late",
            Self::ClaimLost { .. } => "claim_lost",
            Self::StoreOperation { .. } => "store_operation",
            Self::StoreFailed { .. } => "store_failed",
            Self::StoreRecovered => "store_recovered",
        }
    }

    /// Whether an attempt ended that was deferred.
    pub fn was_deferred(&self) -> bool {
        match self {
            Self::Completed { was_deferred, .. }
            | Self::CompletedWithoutResult { was_deferred, .. }
            | Self::EndedUnknown { was_deferred, .. }
            | Self::Released { was_deferred, .. }
            | Self::Lost { was_deferred, .. }
            | Self::GivenUp { was_deferred, .. } => *was_deferred,
            _ => false,
        }
    }
}

/// Tells that a call was refused before the store was asked. Refusals that an event of their own tells are left out.
#[cfg(feature = "http")]
pub fn refused(store: &'static str, label: impl FnOnce() -> Label, refusal: crate::http::Refusal) {
    use crate::http::Refusal;
    let told =
        [Refusal::CONFLICT, Refusal::PROCESSING, Refusal::UNKNOWN, Refusal::NOT_KEPT, Refusal::STORE_UNAVAILABLE];
    if !told.contains(&refusal) {
        let about = || Some(About { label: label(), key: None, fence: 0 });
        tell(store, about, What::Refused { row: refusal.name });
    }
}

/// Tells the log and the observers.
pub(crate) fn tell(store: &'static str, about: impl FnOnce() -> Option<About>, what: What) {
    let is_logged = log::is_enabled(&what);
    if is_logged || queue::is_observed() {
        let event = Event { what, store, about: about() };
        if is_logged {
            log::write(&event);
        }
        queue::push(event);
    }
}

/// Whether anybody wants to know of the operations of a store, which have to be timed for it.
pub(crate) fn wants_operations() -> bool {
    queue::is_observed() || log::is_enabled(&What::StoreOperation { name: "", took: Duration::ZERO, error: None })
}
