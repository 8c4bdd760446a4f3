//! [`Attempt`]: a claim that is held, and how it ends.

use std::sync::Arc;
use std::time::Instant;

use super::Engine;
use super::current::CurrentAttempt;
use super::holding::{Holding, Work};
use crate::decide::Start;
use crate::error::StoreErrorKind;
use crate::events::What;
use crate::key::StorageKey;
use crate::process::generation;
use crate::record::{AfterCrash, State};

/// How an attempt ends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// With a result, which every repeat gets.
    Complete(Arc<[u8]>),
    /// Done, but the result can't be kept: a repeat is told so, with this note, and runs nothing.
    NotKept(Arc<[u8]>),
    /// Nothing happened: the next call runs.
    Release,
    /// The work itself ended with an error: released under [`AfterCrash::Rerun`], unknown under [`AfterCrash::Refuse`].
    Fail,
    /// Nobody knows, as after a crash: the claim is left to lapse under [`AfterCrash::Rerun`], unknown under
    /// [`AfterCrash::Refuse`].
    Hold,
}

/// What became of the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// It is in the store.
    Stored,
    /// It is in the store, but without its result: completed as "not kept".
    NotKept,
    /// This attempt had lost its claim and another completed in its place: that one's result.
    Replaced(Arc<[u8]>),
    /// This attempt had lost its claim; nothing was stored.
    Lost,
    /// The store did not take it in time; it is sent again in the background.
    Deferred,
}

/// A held claim. Its lease is renewed in the background until its end is in the store.
///
/// Where its work has called [`CurrentAttempt::release`], it is released however it ends.
///
/// Dropped without [`Attempt::settle`], it is released in the background if the work had not begun. Afterwards a drop is
/// [`Verdict::Hold`]: a future that is dropped half-way (its client left, its task was aborted) may have had its effect.
/// In a process forked from the one that claimed it, none of this does anything.
pub struct Attempt {
    engine: Arc<Engine>,
    holding: Arc<Holding>,
    process: u32,
    started: bool,
    settled: bool,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("record", &self.holding.id())
            .field("fence", &self.fence())
            .finish_non_exhaustive()
    }
}

impl Attempt {
    pub(super) fn new(engine: Arc<Engine>, holding: Holding) -> Self {
        let holding = Arc::new(holding);
        engine.keeper.hold(&holding);
        Self { engine, holding, process: generation(), started: false, settled: false }
    }

    /// The key it claimed.
    pub fn key(&self) -> &StorageKey {
        &self.holding.key
    }

    /// Its fencing number: greater than that of every attempt on this key before it.
    pub fn fence(&self) -> u64 {
        self.holding.record.fence
    }

    /// Whether the claim is known to be lost. Where it matters, let the downstream system compare fences.
    pub fn is_lost(&self) -> bool {
        self.holding.is_lost()
    }

    /// Says that the work begins: from here on a drop holds the key instead of giving it back.
    ///
    /// [`Start::AfterRenewal`]: the work must not begin, because the lease may have ended since the claim was sent, as
    /// in a process that was stopped. Call [`begin_again`](crate::Idempotency::begin_again).
    #[must_use = "where the lease may have ended the work must not begin"]
    pub fn start(&mut self) -> Start {
        let start = self.holding.start();
        self.started = start == Start::Now;
        start
    }

    /// Renews the claim before the work begins. `false`: it is another's by now.
    pub(super) async fn renew(&self) -> Result<bool, crate::StoreError> {
        let (keeper, holding) = (&self.engine.keeper, &self.holding);
        let (is_own, sent) = keeper
            .ask_twice(Instant::now(), || async {
                let sent = Instant::now();
                keeper
                    .ask("renew", keeper.store.renew(&holding.key, &holding.record))
                    .await
                    .map(|is_own| (is_own, sent))
            })
            .await?;
        if is_own {
            holding.state().renewed(sent, holding.lease());
        }
        Ok(is_own)
    }

    /// Ends the attempt. Dropping the future lets the end go on in the background.
    pub fn settle(mut self, verdict: Verdict) -> impl Future<Output = Settled> + Send + 'static {
        let is_sent = self.end(verdict);
        // Made before the first poll: what is dropped unpolled goes on too.
        Unsettled { attempt: self, is_open: is_sent }.send()
    }

    /// Ends the attempt in the background.
    pub fn settle_later(mut self, verdict: Verdict) {
        if self.end(verdict) {
            self.engine.keeper.hurry(&self.holding);
        }
    }

    /// The attempt as its work sees it.
    pub fn current(&self) -> CurrentAttempt {
        CurrentAttempt::new(self.holding.clone())
    }

    fn is_inherited(&self) -> bool {
        self.process != generation()
    }

    /// Hands the end over to the keeper; whether something has to be sent.
    fn end(&mut self, verdict: Verdict) -> bool {
        self.settled = true;
        if self.is_inherited() {
            return false;
        }
        let verdict = if self.holding.is_released() { Verdict::Release } else { verdict };
        let (state, result) = match (verdict, self.holding.record.after_crash) {
            (Verdict::Complete(result), _) => (State::Completed, result),
            (Verdict::NotKept(note), _) => (State::NotKept, note),
            (Verdict::Release, _) | (Verdict::Fail, AfterCrash::Rerun) => {
                self.engine.keeper.end(&self.holding, Work::Release { is_answered: true });
                return true;
            }
            (Verdict::Hold, AfterCrash::Rerun) => {
                self.engine.keeper.say(&self.holding, What::Held { took: self.holding.took() });
                self.engine.keeper.leave(&self.holding);
                return false;
            }
            (Verdict::Fail | Verdict::Hold, AfterCrash::Refuse) => (State::Unknown, Arc::default()),
        };
        self.engine.keeper.end(&self.holding, Work::Complete(state, result));
        true
    }
}

/// An end on its way: sent again in the background if it is dropped before the store took it.
struct Unsettled {
    attempt: Attempt,
    is_open: bool,
}

impl Unsettled {
    async fn send(mut self) -> Settled {
        if !self.is_open {
            return if self.attempt.is_inherited() { Settled::Lost } else { Settled::Stored };
        }
        let Attempt { engine, holding, .. } = &self.attempt;
        let keeper = &engine.keeper;
        loop {
            let answers = keeper.outage.sent();
            let error = match keeper.ask_twice(Instant::now(), || keeper.send_end(holding)).await {
                Ok(settled) => {
                    keeper.answered(holding);
                    self.is_open = false;
                    return settled;
                }
                Err(error) => error,
            };
            if !keeper.failed(holding, &error, keeper.outage.sent() != answers) {
                self.is_open = false;
                return if error.kind() == StoreErrorKind::Foreign { Settled::Lost } else { keeper.defer(holding) };
            }
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.attempt.engine.keeper.hurry(&self.attempt.holding);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.settled {
            let verdict = if self.started { Verdict::Hold } else { Verdict::Release };
            if self.end(verdict) {
                self.engine.keeper.hurry(&self.holding);
            }
        }
    }
}
