//! What observers are told of a key in the caller's transaction. Whether it commits, nobody here sees: what is told of its end is
//! what was written.

use std::time::Instant;

use super::{Dialect, InTransaction, Next};
use crate::engine::Begun;
use crate::error::StoreError;
use crate::events::{self, About, What};
use crate::record::State;

impl InTransaction {
    /// Tells what came of a statement.
    pub(super) fn tell_next(&mut self, next: &Result<Next, StoreError>) {
        match next {
            Ok(Next::Ask(_)) => {}
            Ok(Next::Run { .. }) => {
                self.ran = Some(Instant::now());
                self.tell(What::Claimed { takes_over: self.claim.takes_over.is_some(), lease: self.lease() });
            }
            Ok(Next::Held(begun)) => self.tell_held(begun),
            Ok(Next::Stale) => self.tell(What::InFlight { lease_left: self.lease() }),
            Ok(Next::Ended) => self.tell_end(),
            Err(error) => self.tell(What::Unavailable { error: error.kind() }),
        }
    }

    /// Tells that the work must not be done.
    pub(crate) fn tell_held(&self, begun: &Begun) {
        if let Some(what) = begun.what() {
            self.tell(what);
        }
    }

    fn tell_end(&mut self) {
        let Some(took) = self.ran.take().map(|ran| ran.elapsed()) else { return };
        let record = &self.claim.record;
        self.tell(match record.state {
            _ if self.is_gone => What::Lost { took, is_replaced: false, was_deferred: false },
            State::Completed => What::Completed { bytes: record.result.len(), took, was_deferred: false },
            _ => What::Released { took, was_deferred: false },
        });
    }

    fn tell(&self, what: What) {
        let store = match self.dialect {
            Dialect::Sqlite => "sqlite",
            Dialect::Postgres => "postgres",
        };
        let fence = self.claim.record.fence;
        events::tell(store, || Some(About { label: self.label.clone(), key: Some(self.key), fence }), what);
    }
}

/// The work ended without a result: its transaction is to be rolled back.
impl Drop for InTransaction {
    fn drop(&mut self) {
        self.tell_end();
    }
}
