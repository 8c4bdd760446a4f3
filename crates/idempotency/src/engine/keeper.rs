//! [`Keeper`]: what this process holds at one store. Its task, which sends what is due, is in `serving`.
//!
//! Every claim is here from its answer until its end has landed: its lease is renewed until then, and whoever finds it
//! lapsed asks here first. What can't be sent waits here. While the store is down one thing at a time is tried, with
//! growing pauses; with the first answer, whoever gets it, everything goes out: ends, then renewals, then releases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::holding::{Holding, HoldingState, Place, Work};
use super::outage::Outage;
use super::waiting::Rooms;
use crate::error::{StoreError, StoreErrorKind};
use crate::events::{self, What};
use crate::record::{State, Token};
use crate::result_tags::is_sealed;
use crate::store::{Completed, Store};

use super::attempt::Settled;

/// How many sendings of the keeper's are under way at once.
pub(super) const AT_ONCE: usize = 256;

/// How many claims may wait for their release.
const MOST_RELEASES: usize = 10_000;

/// After so many refused tries at a store that answers otherwise, a result is taken to be one that it can never take.
const REFUSED_TRIES: u32 = 5;

/// How often a claim whose answer did not come is looked for. The pauses grow to a total of 34 s.
const LOOKS: u32 = 6;

/// An answer slower than this is not asked for again at once.
const QUICK: Duration = Duration::from_millis(100);

/// What one process holds at one store.
pub(super) struct Keeper {
    pub(super) store: Arc<dyn Store>,
    pub(super) outage: Outage,
    pub(super) rooms: Rooms,
    schedule: Mutex<Schedule>,
    /// Starts the task that sends what is due.
    serve: fn(Arc<Self>, &Handle),
    pub(super) wake: Notify,
    /// Notified when nothing is left that a shutdown waits for.
    idle: Notify,
}

#[derive(Default)]
pub(super) struct Schedule {
    pub(super) due: BTreeMap<Place, Arc<Holding>>,
    /// What is being attended to has no place until that has ended.
    pub(super) attended: Vec<Arc<Holding>>,
    /// How many of them a shutdown waits for, and how many are to be released.
    pub(super) awaited: usize,
    pub(super) releases: usize,
    /// Of a store that is down: when the next try is due, and the pause after it.
    pub(super) next_try: Option<(Instant, Duration)>,
    /// When the task looks again by itself. Whoever is due later need not wake it.
    pub(super) looks: Option<Instant>,
    /// Something was kept since the task last looked.
    pub(super) was_used: bool,
    /// A task is at work. It says so itself when its runtime goes away under it.
    pub(super) served: bool,
    pub(super) closed: bool,
}

impl Schedule {
    pub(super) fn held(&self) -> impl Iterator<Item = &Arc<Holding>> {
        self.due.values().chain(&self.attended)
    }

    fn must_look_by(&self, due: Instant) -> bool {
        self.looks.is_none_or(|looks| due < looks)
    }

    /// Gives a holding its place.
    pub(super) fn put(&mut self, holding: &Arc<Holding>, state: &mut HoldingState, due: Instant) {
        self.take(state);
        let place = (due, state.work.rank(), Arc::as_ptr(holding).addr());
        state.place = Some(place);
        self.due.insert(place, holding.clone());
    }

    fn take(&mut self, state: &mut HoldingState) {
        if let Some(place) = state.place.take() {
            self.due.remove(&place);
        }
    }

    /// Takes note that a holding is attended to from now on.
    pub(super) fn attend(&mut self, holding: Arc<Holding>) -> Arc<Holding> {
        holding.state().place = None;
        self.attended.push(holding.clone());
        holding
    }

    /// Counts what waits for the store. What its caller sends for the first time does not wait.
    fn count(&mut self, state: &mut HoldingState) {
        let (is_awaited, is_release) = (state.is_awaited(), state.is_release());
        self.awaited = self.awaited - usize::from(state.counted.0) + usize::from(is_awaited);
        self.releases = self.releases - usize::from(state.counted.1) + usize::from(is_release);
        state.counted = (is_awaited, is_release);
    }
}

impl Keeper {
    pub(super) fn new(store: Arc<dyn Store>, serve: fn(Arc<Self>, &Handle)) -> Self {
        let outage = Outage::new(&*store);
        let (rooms, schedule, wake, idle) = Default::default();
        Self { store, outage, rooms, schedule, serve, wake, idle }
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a claim, and renews its lease until it leaves.
    pub(super) fn hold(self: &Arc<Self>, holding: &Arc<Holding>) {
        self.add(holding, |state| state.renewal_due(holding.lease()));
    }

    /// Gives back a claim that nothing was done on.
    pub(super) fn give_back(self: &Arc<Self>, holding: &Arc<Holding>) {
        if self.schedule().releases >= MOST_RELEASES {
            // It is not forgotten: its lease ends by itself.
            tracing::warn!("{MOST_RELEASES} claims wait for their release: the record {} is left alone", holding.id());
            return;
        }
        self.add(holding, |_| Instant::now());
    }

    fn add(self: &Arc<Self>, holding: &Arc<Holding>, due: impl FnOnce(&HoldingState) -> Instant) {
        let mut schedule = self.schedule();
        let mut state = holding.state();
        let due = due(&state);
        schedule.put(holding, &mut state, due);
        schedule.count(&mut state);
        drop(state);
        schedule.was_used = true;
        self.serve_by(schedule, due, &holding.handle);
    }

    /// Makes sure that the task looks by then.
    fn serve_by(self: &Arc<Self>, mut schedule: MutexGuard<'_, Schedule>, due: Instant, handle: &Handle) {
        if !schedule.served {
            schedule.served = true;
            drop(schedule);
            (self.serve)(self.clone(), handle);
        } else if schedule.must_look_by(due) {
            self.wake.notify_one();
        }
    }

    /// The claim of this token, if this process holds it. Asked for lapsed claims alone, so that it may look at all.
    pub(super) fn held(&self, token: Token) -> Option<Arc<Holding>> {
        let schedule = self.schedule();
        schedule.held().find(|held| held.record.token == token && !held.state().has_left).cloned()
    }

    /// The work has ended: from here on its end is to be sent. The lease is renewed meanwhile.
    pub(super) fn end(self: &Arc<Self>, holding: &Arc<Holding>, work: Work) {
        let has_left = {
            let mut state = holding.state();
            state.set_work(work);
            std::mem::take(&mut state.has_left)
        };
        // At its limit.
        if has_left {
            self.add(holding, |_| Instant::now() + holding.lease() / 3);
        }
    }

    /// Nothing more is to be sent of it.
    pub(super) fn leave(&self, holding: &Arc<Holding>) {
        let mut schedule = self.schedule();
        let mut state = holding.state();
        schedule.take(&mut state);
        if std::mem::replace(&mut state.has_left, true) {
            return;
        }
        let was_awaited = state.counted.0;
        schedule.count(&mut state);
        drop(state);
        if was_awaited && schedule.awaited == 0 {
            self.idle.notify_waiters();
        }
        if schedule.closed && schedule.held().next().is_none() {
            self.wake.notify_one();
        }
    }

    /// Sends what there is of it soon.
    pub(super) fn hurry(self: &Arc<Self>, holding: &Arc<Holding>) {
        let now = Instant::now();
        self.reschedule(holding, now);
    }

    fn reschedule(self: &Arc<Self>, holding: &Arc<Holding>, due: Instant) {
        let mut schedule = self.schedule();
        let mut state = holding.state();
        if !state.has_left {
            schedule.put(holding, &mut state, due);
            schedule.count(&mut state);
            if schedule.awaited == 0 {
                self.idle.notify_waiters();
            }
            drop(state);
            self.serve_by(schedule, due, &holding.handle);
        }
    }

    /// Everything that has waited for the store goes out.
    #[cold]
    fn recover(&self) {
        let now = Instant::now();
        let mut schedule = self.schedule();
        schedule.next_try = None;
        let held: Vec<_> = schedule.due.values().cloned().collect();
        for holding in held {
            let mut state = holding.state();
            let waits = match state.work {
                Work::Renew => state.renewal_due(holding.lease()) <= now,
                Work::Complete(..) | Work::Release { .. } => true,
            };
            if waits {
                schedule.put(&holding, &mut state, now);
            }
        }
        drop(schedule);
        self.wake.notify_one();
    }

    /// One operation: what its answer says of the store is taken note of. It is called `name` in events.
    pub(super) async fn ask<T>(
        &self,
        name: &'static str,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (sent, began) = (self.outage.sent(), events::wants_operations().then(Instant::now));
        let answer = operation.await;
        if let Some(began) = began {
            let error = answer.as_ref().err().map(StoreError::kind);
            let what = What::StoreOperation { name, took: began.elapsed(), error };
            events::tell(self.store.kind(), || None, what);
        }
        if self.outage.heard(sent, &answer) {
            self.recover();
        }
        answer
    }

    /// An operation that asks, sent once more at once where the first sending failed quickly, as on a connection that was lost
    /// while idle. Only for operations that their own token makes harmless to repeat: every one of an attempt. `sent` is
    /// now.
    pub(super) async fn ask_twice<T, F>(&self, sent: Instant, operation: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let answer = match operation().await {
            // What has no room has none at once.
            Err(first) if first.is_passing() && !first.is_answer() && sent.elapsed() < QUICK => {
                operation().await.map_err(|second| second.after(&first))
            }
            answer => answer,
        };
        answer.inspect_err(|error| self.outage.tell(error))
    }

    /// Sends what there is of a holding, once; whether it was taken. What is still to be sent has its place again.
    pub(super) async fn attend(self: &Arc<Self>, holding: &Arc<Holding>) -> bool {
        let work = holding.state().work.clone();
        let sent = self.outage.sent();
        let error = match &work {
            Work::Renew if Instant::now() >= holding.renew_until => {
                tracing::warn!(
                    "the record {} still runs after its run_limit; its lease is not renewed any more",
                    holding.id()
                );
                self.leave(holding);
                return false;
            }
            Work::Renew => self.renew(holding).await.err(),
            Work::Complete(..) => self.complete(holding).await.map(|_| self.answered(holding)).err(),
            Work::Release { .. } => self.release(holding).await.map(|_| self.answered(holding)).err(),
        };
        let Some(error) = error else { return true };
        if self.failed(holding, &error, self.outage.sent() != sent) {
            self.hurry(holding);
        } else if work.rank() == Work::END {
            self.renew_beside(holding).await;
        }
        false
    }

    /// An end or a release was answered: nothing more is to be sent, but where a claim of the same call may still arrive.
    /// That one is looked for a few times.
    pub(super) fn answered(self: &Arc<Self>, holding: &Arc<Holding>) {
        let looks = holding.state().look();
        match looks {
            Some(looks) if looks < LOOKS => {
                self.reschedule(holding, Instant::now() + Duration::from_millis(100) * 4u32.pow(looks - 1));
            }
            _ => self.leave(holding),
        }
    }

    /// What a failed sending means for what is to be sent: the one place that decides it.
    ///
    /// | the store says | a renewal | an end | a release |
    /// |---|---|---|---|
    /// | not executed, unknown, not as set up, full | again | again, until `ttl` | again, until `ttl` |
    /// | too large, or refused 5 times while it answers others | again | "not kept" instead | given up |
    /// | foreign or newer data | lost | lost, and logged | given up |
    ///
    /// `answers`: the store answered something else meanwhile. Returns whether an end is to be sent again at once, without
    /// its result.
    pub(super) fn failed(self: &Arc<Self>, holding: &Arc<Holding>, error: &StoreError, answers: bool) -> bool {
        self.outage.tell(error);
        let (id, now) = (holding.id(), Instant::now());
        let give_up = holding.give_up();
        let mut state = holding.state();
        let now_sent = self.outage.sent();
        let answers = answers || state.failed.replace(now_sent).is_some_and(|failed| failed != now_sent);
        if error.kind() == StoreErrorKind::Refused && answers {
            state.refusals += 1;
        }
        let is_foreign = error.kind() == StoreErrorKind::Foreign;
        let is_refused = error.kind() == StoreErrorKind::TooLarge || state.refusals >= REFUSED_TRIES;
        let work = state.work.rank();
        if is_foreign || work != Work::RENEW && now > give_up || work == Work::RELEASE && is_refused {
            drop(state);
            self.leave(holding);
            match work {
                Work::RENEW => {
                    holding.lose();
                    self.say(holding, What::ClaimLost { cause: Some(error.to_string().into()) });
                }
                Work::END => {
                    let cause = error.to_string().into();
                    self.ended(holding, |_, was_deferred| What::GivenUp { cause, was_deferred });
                }
                _ => {}
            }
            return false;
        }
        let most = Duration::from_secs(1).min(holding.lease() / if work == Work::RENEW { 10 } else { 3 });
        let is_without_result = is_refused && state.drop_result();
        let due = now + state.next_pause(most);
        drop(state);
        if is_without_result {
            tracing::error!("the store does not take the result of the record {id}, which is not kept: {error}");
        } else {
            tracing::debug!("the record {id} is tried again: {error}");
        }
        self.reschedule(holding, due);
        is_without_result
    }

    async fn renew(self: &Arc<Self>, holding: &Arc<Holding>) -> Result<(), StoreError> {
        let sent = Instant::now();
        if self.ask("renew", self.store.renew(&holding.key, &holding.record)).await? {
            let mut state = holding.state();
            let late = sent.saturating_duration_since(state.renewal_due(holding.lease()));
            state.renewed(sent, holding.lease());
            let due = sent + holding.lease() / 3;
            let is_running = matches!(state.work, Work::Renew);
            drop(state);
            if late > holding.lease() / 10 {
                self.say(holding, What::RenewedLate { late });
            }
            // An end that was given meanwhile has its own time.
            if is_running {
                self.reschedule(holding, due);
            }
        } else if matches!(holding.state().work, Work::Renew) {
            holding.lose();
            self.leave(holding);
            self.say(holding, What::ClaimLost { cause: None });
        }
        Ok(())
    }

    /// Renews the lease of an end that waits, if that is due: nobody takes it over meanwhile.
    async fn renew_beside(&self, holding: &Arc<Holding>) {
        let sent = Instant::now();
        let is_due = { holding.state().renewal_due(holding.lease()) <= sent };
        if is_due && matches!(self.ask("renew", self.store.renew(&holding.key, &holding.record)).await, Ok(true)) {
            holding.state().renewed(sent, holding.lease());
        }
    }

    /// Releases a claim; whether it was its own. Of several sendings one finds the claim.
    async fn release(&self, holding: &Arc<Holding>) -> Result<bool, StoreError> {
        holding.state().releases += 1;
        let is_own = self.ask("release", self.store.release(&holding.key, &holding.record)).await?;
        self.rooms.tell(&holding.key);
        let (is_own, is_end) = {
            let state = holding.state();
            (is_own || state.releases > 1, matches!(state.work, Work::Release { is_answered: true }))
        };
        if is_end {
            self.ended(holding, |took, was_deferred| match is_own {
                true => What::Released { took, was_deferred },
                false => What::Lost { took, is_replaced: false, was_deferred },
            });
        }
        Ok(is_own)
    }

    /// Tells what happened to an attempt.
    pub(super) fn say(&self, holding: &Holding, what: What) {
        events::tell(self.store.kind(), || Some(holding.about()), what);
    }

    /// Tells how an attempt ended, once: `what` is told how long it took, and whether its caller had stopped waiting.
    fn ended(&self, holding: &Holding, what: impl FnOnce(Duration, bool) -> What) {
        let (is_told, was_deferred) = {
            let mut state = holding.state();
            (std::mem::replace(&mut state.is_told, true), state.is_deferred)
        };
        if !is_told {
            self.say(holding, what(holding.took(), was_deferred));
        }
    }

    /// The caller of an attempt does not wait for its end any more.
    pub(super) fn defer(&self, holding: &Holding) -> Settled {
        let is_open = {
            let mut state = holding.state();
            let is_open = !state.has_left && !state.is_told;
            state.is_deferred |= is_open;
            is_open
        };
        if is_open {
            self.say(holding, What::Deferred);
        }
        Settled::Deferred
    }

    /// Sends the end of a holding once.
    pub(super) async fn send_end(&self, holding: &Arc<Holding>) -> Result<Settled, StoreError> {
        let is_end = { holding.state().work.rank() == Work::END };
        match is_end {
            true => self.complete(holding).await,
            false => match self.release(holding).await? {
                true => Ok(Settled::Stored),
                false => Ok(Settled::Lost),
            },
        }
    }

    async fn complete(&self, holding: &Arc<Holding>) -> Result<Settled, StoreError> {
        let Some((record, recreate_until)) = holding.state().end(&holding.record) else { return Ok(Settled::Stored) };
        let completed = self.ask("complete", self.store.complete(&holding.key, &record, recreate_until)).await?;
        self.rooms.tell(&holding.key);
        let settled = match completed {
            Completed::Stored if holding.state().is_without_result => Settled::NotKept,
            Completed::Stored => Settled::Stored,
            Completed::NotKept => {
                let id = holding.id();
                tracing::error!("no room for the result of the record {id}: it is not kept, and a repeat is told so");
                Settled::NotKept
            }
            Completed::Refused(held) => {
                holding.lose();
                match held {
                    Some(held)
                        if held.record.state == State::Completed
                            && held.record.fingerprint == record.fingerprint
                            && !is_sealed(&held.record.result) =>
                    {
                        Settled::Replaced(held.record.result)
                    }
                    _ => Settled::Lost,
                }
            }
        };
        self.ended(holding, |took, was_deferred| match (&settled, record.state) {
            (Settled::Replaced(_), _) => What::Lost { took, is_replaced: true, was_deferred },
            (Settled::Lost, _) => What::Lost { took, is_replaced: false, was_deferred },
            (Settled::Stored, State::Completed) => What::Completed { bytes: record.result.len(), took, was_deferred },
            (_, State::Unknown) => What::EndedUnknown { took, was_deferred },
            _ => What::CompletedWithoutResult { took, was_deferred },
        });
        Ok(settled)
    }

    /// Waits at most `limit` until nothing is left to be sent; whether that came.
    pub(super) async fn drain(&self, limit: Duration) -> bool {
        let ended = tokio::time::timeout(limit, async {
            loop {
                let idle = self.idle.notified();
                if self.schedule().awaited == 0 {
                    return;
                }
                idle.await;
            }
        });
        ended.await.is_ok()
    }

    /// The last user of the engine has gone: the task ends once everything has been sent.
    pub(super) fn close(&self) {
        self.schedule().closed = true;
        self.wake.notify_one();
    }
}
