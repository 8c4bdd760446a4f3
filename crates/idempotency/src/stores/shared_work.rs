//! [`SharedWork`]: what many callers wait for is done once, as the opening of a connection.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::error::{StoreError, StoreErrorKind};

/// Does one thing at a time, in a task of its own. An opening has its whole time limit although each who waits for it has
/// spent a part of theirs: under load there is always one who gives up soon.
#[derive(Default)]
pub(super) struct SharedWork {
    under_way: Mutex<Option<Outcome>>,
}

/// `None` until it is known.
type Outcome = watch::Receiver<Option<Result<(), StoreError>>>;

impl SharedWork {
    /// Waits for the work that is under way, or begins it.
    pub(super) async fn join<F>(&self, begin: impl FnOnce() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let mut outcome = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            // Its task has gone where its runtime has.
            let is_under_way = |outcome: &&Outcome| matches!(outcome.has_changed(), Ok(false));
            match under_way.as_ref().filter(is_under_way) {
                Some(outcome) => outcome.clone(),
                None => {
                    let (tells, outcome) = watch::channel(None);
                    let work = begin();
                    tokio::spawn(async move { tells.send_replace(Some(work.await)) });
                    under_way.insert(outcome).clone()
                }
            }
        };
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            Err(_) => Err(StoreError::new(
                StoreErrorKind::NotExecuted,
                "the runtime of the work that this waited for has ended",
            )),
        }
    }
}
