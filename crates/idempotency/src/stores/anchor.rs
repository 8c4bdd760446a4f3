//! [`Anchor`]: a timer that is always pending, which makes others cheap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Keeps a timer pending while commands go out. Tokio's driver is woken by a system call for every timer that ends before
/// all others, and among quick commands with time limits each would be one.
#[derive(Default)]
pub(super) struct Anchor {
    used: AtomicBool,
    runs: AtomicBool,
}

impl Anchor {
    /// A command with this time limit goes out.
    pub(super) fn hold(self: &Arc<Self>, time_limit: Duration) {
        self.used.store(true, Ordering::Relaxed);
        if !self.runs.swap(true, Ordering::Relaxed) {
            let (anchor, pause) = (self.clone(), time_limit / 2);
            tokio::spawn(async move {
                while anchor.used.swap(false, Ordering::Relaxed) {
                    tokio::time::sleep(pause).await;
                }
                anchor.runs.store(false, Ordering::Relaxed);
            });
        }
    }
}
