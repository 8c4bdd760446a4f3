//! [`Tracker`]: how many protected requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What the clones of a layer share.
#[derive(Default)]
pub(super) struct Tracker {
    running: AtomicUsize,
    ended: Notify,
    has_warned: AtomicBool,
    last_said: Mutex<Option<Instant>>,
}

/// A request that runs.
pub(super) struct Running(Arc<Tracker>);

impl Tracker {
    /// Another request runs; `None` where `most` do already.
    pub(super) fn enter(self: &Arc<Self>, most: Option<usize>) -> Option<Running> {
        let most = most.unwrap_or(usize::MAX);
        let more = |running: usize| (running < most).then_some(running + 1);
        self.running.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Running(self.clone()))
    }

    /// Returns when none runs.
    pub(super) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Whether it is the first time that somebody asks.
    pub(super) fn is_first_warning(&self) -> bool {
        !self.has_warned.swap(true, Ordering::Relaxed)
    }

    /// Whether nothing was said for a second: a store that is down fails every request.
    pub(super) fn may_say(&self) -> bool {
        let mut last = self.last_said.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() > Duration::from_secs(1));
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify_waiters();
    }
}
