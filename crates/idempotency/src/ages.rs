//! The ages of the oldest records that have no result, as metrics of the [`metrics`](https://docs.rs/metrics) facade. No event
//! tells them: a store has to be looked at.

use std::time::Duration;

use ::metrics::{counter, gauge};

use crate::clock::wall_clock;
use crate::engine::Idempotency;
use crate::error::StoreError;
use crate::events::{LOOKS_FAILED, OLDEST_IN_FLIGHT, OLDEST_UNKNOWN};
use crate::record::State;
use crate::store::{Listing, Page};

/// Looks at a store once, and tells the ages of its oldest record in flight or lapsed and of its oldest unknown one: the gauges
/// `idempotency_oldest_in_flight_seconds` and `idempotency_oldest_unknown_seconds`. One process of an application calls it now
/// and then.
///
/// - `most`: how many unfinished records are looked at; the oldest may be beyond them.
///
/// # Errors
/// Where the store fails; `idempotency_looks_failed` counts it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use idempotency::{Idempotency, ages, stores};
///
/// let payments = Idempotency::new(stores::open("memory://")?);
/// // Each minute, in a task of its own:
/// ages::measure(&payments, 10_000).await?;
/// # Ok::<_, idempotency::StoreError>(()) }).unwrap();
/// ```
pub async fn measure(engine: &Idempotency, most: usize) -> Result<(), StoreError> {
    let store = engine.store_kind();
    match oldest(engine, most).await {
        Ok(ages) => {
            for (metric, age) in [OLDEST_IN_FLIGHT, OLDEST_UNKNOWN].into_iter().zip(ages) {
                gauge!(metric.name, "store" => store).set(age.as_secs_f64());
            }
            Ok(())
        }
        Err(error) => {
            counter!(LOOKS_FAILED.name, "store" => store).increment(1);
            Err(error)
        }
    }
}

/// The ages of the oldest record in flight or lapsed, and of the oldest unknown one; 0 without one.
async fn oldest(engine: &Idempotency, most: usize) -> Result<[Duration; 2], StoreError> {
    let (mut listing, mut left) = (Listing::unfinished().most(most.min(1000)), most);
    // A fence is the store's clock at the claim.
    let mut fences = [None, None];
    loop {
        let Page { records, next } = engine.list(&listing).await?;
        for record in records.iter().map(|listed| &listed.held.record) {
            let fence = &mut fences[usize::from(record.state == State::Unknown)];
            *fence = Some(fence.map_or(record.fence, |oldest: u64| oldest.min(record.fence)));
        }
        left = left.saturating_sub(records.len());
        match next {
            Some(next) if left > 0 => listing = listing.after(next).most(left.min(1000)),
            _ => break,
        }
    }
    let now = wall_clock();
    Ok(fences.map(|fence| fence.map_or(Duration::ZERO, |fence| Duration::from_micros(now.saturating_sub(fence)))))
}
