//! Options that contradict each other are errors where they are set.

use std::time::Duration;

use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Idempotency, Options, OptionsError};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn options_that_do_not_fit_are_errors() {
    let zero = Duration::ZERO;
    let refusing = Options::new().after_crash(AfterCrash::Refuse);
    let bad = [
        (Options::new().ttl(zero), OptionsError::Ttl(zero)),
        (Options::new().ttl(Duration::MAX), OptionsError::Ttl(Duration::MAX)),
        (Options::new().lease(zero), OptionsError::Lease(zero)),
        (Options::new().ttl(SECOND).lease(SECOND * 2), OptionsError::LeaseOverTtl(SECOND * 2, SECOND)),
        (refusing.ttl(SECOND).lease(SECOND), OptionsError::RefuseWithoutTime(SECOND, SECOND)),
    ];
    let engine = Idempotency::new(MemoryStore::new());
    for (options, error) in bad {
        assert_eq!(engine.with_options(options).err(), Some(error));
    }
    let fitting = Options::new().ttl(SECOND).lease(SECOND);
    assert_eq!(engine.with_options(fitting).unwrap().options(), fitting);
}

#[test]
fn the_default_lease_goes_with_ttl_and_the_crash_policy() {
    let by_default = |seconds, after_crash| {
        Options::new().ttl(SECOND * seconds).after_crash(after_crash).lease_or_default().as_secs_f64()
    };
    assert_eq!([20, 31].map(|ttl| by_default(ttl, AfterCrash::Rerun)), [20.0, 30.0]);
    assert_eq!([20, 31].map(|ttl| by_default(ttl, AfterCrash::Refuse)), [10.0, 30.0]);
}
