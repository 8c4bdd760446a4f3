//! What the log says of events: one place for their words and levels.
//!
//! | level | events |
//! |---|---|
//! | error | the store can't be used; an end that is given up; a claim that something foreign stands in place of |
//! | warn | unknown, not kept, deferred, lost; the store answers again |
//! | info | a claim that takes over; an attempt that is left to lapse |
//! | debug | replays, conflicts, in flight, waited, refused, released, renewed late, nothing ran because the store failed |
//! | trace | claims, completions, operations of the store |

use std::fmt;

use tracing::Level;

use super::{Event, What};
use crate::key::StorageKey;

/// The target of every line.
const TARGET: &str = "idempotency";

fn level(what: &What) -> Level {
    match what {
        What::StoreFailed { .. } | What::GivenUp { .. } | What::ClaimLost { cause: Some(_) } => Level::ERROR,
        What::Lost { is_replaced: false, .. } => Level::ERROR,
        What::Unknown
        | What::NotKept
        | What::EndedUnknown { .. }
        | What::Deferred
        | What::Lost { .. }
        | What::ClaimLost { .. }
        | What::StoreRecovered => Level::WARN,
        What::Claimed { takes_over: true, .. } | What::Held { .. } => Level::INFO,
        What::Replayed { .. }
        | What::Conflict
        | What::InFlight { .. }
        | What::Waited { .. }
        | What::Refused { .. }
        | What::Released { .. }
        | What::RenewedLate { .. }
        | What::Unavailable { .. } => Level::DEBUG,
        What::Claimed { .. } | What::Completed { .. } | What::StoreOperation { .. } => Level::TRACE,
        // Whoever did not keep it has said why.
        What::CompletedWithoutResult { .. } => Level::TRACE,
    }
}

/// Whether anybody may read it. Where nobody does, this costs two loads.
pub(super) fn is_enabled(what: &What) -> bool {
    let level = level(what);
    level <= tracing::level_filters::LevelFilter::current() || level <= logged()
}

/// The level of the `log` crate, which tracing hands lines on to where it has no subscriber.
fn logged() -> tracing::level_filters::LevelFilter {
    use ::log::LevelFilter as Log;
    use tracing::level_filters::LevelFilter;
    match ::log::max_level() {
        Log::Off => LevelFilter::OFF,
        Log::Error => LevelFilter::ERROR,
        Log::Warn => LevelFilter::WARN,
        Log::Info => LevelFilter::INFO,
        Log::Debug => LevelFilter::DEBUG,
        Log::Trace => LevelFilter::TRACE,
    }
}

/// Writes a line. Its fields are what a program filters by.
pub(super) fn write(event: &Event) {
    macro_rules! line {
        ($level:expr) => {
            match event.operation() {
                Some(operation) => tracing::event!(target: TARGET, $level, store = event.store, operation, "{event}"),
                None => tracing::event!(target: TARGET, $level, store = event.store, "{event}"),
            }
        };
    }
    match level(&event.what) {
        Level::ERROR => line!(Level::ERROR),
        Level::WARN => line!(Level::WARN),
        Level::INFO => line!(Level::INFO),
        Level::DEBUG => line!(Level::DEBUG),
        Level::TRACE => line!(Level::TRACE),
    }
}

/// What happened, in words.
pub(super) fn words(f: &mut fmt::Formatter<'_>, what: &What, key: Option<StorageKey>) -> fmt::Result {
    let id = key.map(|key| key.id()).unwrap_or_default();
    match what {
        What::Claimed { takes_over: false, .. } => write!(f, "the record {id} is claimed"),
        What::Claimed { takes_over: true, .. } => {
            write!(f, "the record {id} is claimed again: the attempt that had it let its lease end")
        }
        What::Replayed { bytes } => write!(f, "a repeat gets the result of the record {id} ({bytes} bytes)"),
        What::Conflict => write!(f, "nothing runs: the record {id} belongs to another payload"),
        What::InFlight { .. } => write!(f, "nothing runs: an attempt on the record {id} is in flight"),
        What::Unknown => {
            write!(f, "nothing runs: the outcome of the record {id} is unknown until an operator resolves it")
        }
        What::NotKept => write!(f, "nothing runs: the record {id} is done, and its result was not kept"),
        What::Unavailable { .. } => write!(f, "nothing runs for the record {id}: the store can't be asked"),
        What::Refused { row } => write!(f, "a call is refused: {row}"),
        What::Waited { took } => write!(f, "a repeat waited {took:.1?} for the record {id}"),
        What::Completed { bytes, took, .. } => {
            write!(f, "the record {id} is completed after {took:.1?}: {bytes} bytes")
        }
        What::CompletedWithoutResult { took, .. } => {
            write!(f, "the record {id} is completed after {took:.1?}; its result is not kept")
        }
        What::EndedUnknown { .. } => {
            write!(f, "nobody knows whether the effect of the record {id} happened; an operator must resolve it")
        }
        What::Released { took, .. } => write!(f, "the record {id} is released after {took:.1?}"),
        What::Held { took } => {
            write!(f, "the attempt on the record {id} was broken off after {took:.1?}; its lease ends by itself")
        }
        What::Lost { is_replaced: true, .. } => {
            write!(f, "the record {id} lost its claim; another attempt completed in its place")
        }
        What::Lost { .. } => write!(f, "the record {id} lost its claim before it ended; its result is not stored"),
        What::GivenUp { cause, .. } => {
            write!(f, "the result of the record {id} could not be stored and is lost: {cause}")
        }
        What::Deferred => {
            write!(f, "the store did not take the end of the record {id}; it is sent again in the background")
        }
        What::RenewedLate { late } => write!(f, "the lease of the record {id} was renewed {late:.1?} late"),
        What::ClaimLost { cause: None } => {
            write!(f, "the record {id} lost its claim while it ran; its result will not be stored")
        }
        What::ClaimLost { cause: Some(cause) } => write!(f, "the record {id} lost its claim while it ran: {cause}"),
        What::StoreOperation { name, took, error: None } => write!(f, "{name} took {took:.1?}"),
        What::StoreOperation { name, took, error: Some(kind) } => {
            write!(f, "{name} failed after {took:.1?}: {}", kind.name())
        }
        What::StoreFailed { cause, .. } => write!(f, "the store can't be used: {cause}"),
        What::StoreRecovered => write!(f, "the store answers again"),
    }
}
