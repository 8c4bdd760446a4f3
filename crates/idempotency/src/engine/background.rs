//! Operations that go on after their caller left, and sending again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::error::{StoreError, StoreErrorKind};

/// Counts what runs in the background, so that a shutdown can wait for it.
#[derive(Clone, Default)]
pub(super) struct Background(Arc<(AtomicUsize, Notify)>);

struct Running(Background);

impl Drop for Running {
    fn drop(&mut self) {
        let (count, idle) = &*self.0.0;
        if count.fetch_sub(1, Ordering::SeqCst) == 1 {
            idle.notify_waiters();
        }
    }
}

impl Background {
    pub(super) fn spawn(&self, handle: &Handle, work: impl Future<Output = ()> + Send + 'static) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        let running = Running(self.clone());
        handle.spawn(async move {
            let _running = running;
            work.await;
        });
    }

    pub(super) async fn drain(&self, limit: Duration) -> bool {
        let (count, idle) = &*self.0;
        let ended = tokio::time::timeout(limit, async {
            loop {
                let notified = idle.notified();
                if count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                notified.await;
            }
        });
        ended.await.is_ok()
    }
}

/// An answer slower than this is not asked for again at once.
const QUICK: Duration = Duration::from_millis(100);

/// Sends once more at once where the first sending failed quickly, as on a connection that was lost while idle.
/// Only for operations that their own token makes harmless to repeat: every one of an attempt. `sent` is now;
/// the operation is told when it is sent.
pub(super) async fn twice<T, F>(sent: Instant, operation: impl Fn(Instant) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match operation(sent).await {
        Err(error) if is_passing(&error) && sent.elapsed() < QUICK => operation(Instant::now()).await,
        answer => answer,
    }
}

/// Whether it may go better another time.
pub(super) fn is_passing(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::NotExecuted | StoreErrorKind::Unknown)
}

/// The pauses between tries in the background: growing from 50 ms to a second.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(Duration::from_millis(50)), |pause| Some((*pause * 2).min(Duration::from_secs(1))))
}
