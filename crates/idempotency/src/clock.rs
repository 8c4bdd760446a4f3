//! Clocks. The core takes points in time as values; what reads a clock takes it as a [`Clock`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::record::Micros;

/// Tells the time in µs since the Unix epoch. Must not go backwards.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Micros;
}

/// The wall clock at the first reading, carried on by the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        static START: LazyLock<(Instant, Micros)> = LazyLock::new(|| (Instant::now(), wall_clock()));
        let (started, epoch) = *START;
        epoch + micros(started.elapsed())
    }
}

/// The wall clock, which an administrator may move.
pub fn wall_clock() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).map(micros).unwrap_or_default()
}

/// A duration in µs; what is longer than 584,000 years is as long as that.
pub fn micros(duration: Duration) -> Micros {
    duration.as_micros().try_into().unwrap_or(Micros::MAX)
}

/// A clock that a test moves.
///
/// ```
/// use idempotency::clock::{Clock, FakeClock};
/// let clock = FakeClock::default();
/// let before = clock.now();
/// clock.advance(std::time::Duration::from_secs(1));
/// assert_eq!(clock.now() - before, 1_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct FakeClock(Arc<AtomicU64>);

impl Default for FakeClock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000_000_000)))
    }
}

impl FakeClock {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(micros(by), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}
