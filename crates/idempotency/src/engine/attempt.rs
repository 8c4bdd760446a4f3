//! [`Attempt`]: a claim that is held, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Engine;
use super::background::{is_passing, pauses, twice};
use super::keeper::Live;
use crate::key::StorageKey;
use crate::process::generation;
use crate::record::{AfterCrash, Record, State};
use crate::store::Completed;

/// How an attempt ends.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// With a result, which every repeat gets.
    Complete(Arc<[u8]>),
    /// Done, but the result can't be kept: a repeat is told so, with this note, and runs nothing.
    NotKept(Arc<[u8]>),
    /// Nothing happened: the next call runs.
    Release,
    /// An error ended the work: released under [`AfterCrash::Rerun`], unknown under [`AfterCrash::Refuse`].
    Fail,
    /// Nobody knows, as after a crash: the claim is left to lapse under [`AfterCrash::Rerun`], unknown under
    /// [`AfterCrash::Refuse`].
    Hold,
}

/// What became of the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is in the store.
    Stored,
    /// It is in the store, but there was no room for the result: completed as "not kept".
    NotKept,
    /// This attempt had lost its claim and another completed in its place: that one's result.
    Replaced(Arc<[u8]>),
    /// This attempt had lost its claim; nothing was stored.
    Lost,
    /// The store did not take it in time; it is sent again in the background.
    Deferred,
}

/// A held claim. Its lease is renewed in the background until it is settled.
///
/// Dropped without [`Attempt::settle`], it is released in the background if the work had not begun, and otherwise
/// ends as [`Verdict::Fail`] says. In a process forked from the one that claimed it, none of this does anything.
pub struct Attempt {
    engine: Arc<Engine>,
    live: Arc<Live>,
    process: u32,
    started: bool,
    settled: bool,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("label", &self.live.record.label)
            .field("fence", &self.fence())
            .finish_non_exhaustive()
    }
}

impl Attempt {
    pub(super) fn new(
        engine: Arc<Engine>,
        handle: Handle,
        key: StorageKey,
        record: Record,
        sent: Instant,
        run_limit: Duration,
    ) -> Self {
        let live = Arc::new(Live::new(key, record, handle, sent, run_limit));
        engine.keeper.keep(&live);
        Self { engine, live, process: generation(), started: false, settled: false }
    }

    /// The key it claimed.
    pub fn key(&self) -> &StorageKey {
        &self.live.key
    }

    /// Its fencing number: greater than that of every attempt on this key before it.
    pub fn fence(&self) -> u64 {
        self.live.record.fence
    }

    /// Whether the claim is known to be lost. Where it matters, let the downstream system compare fences.
    pub fn is_lost(&self) -> bool {
        self.live.is_lost()
    }

    /// Says that the work begins: from here on a drop is a failure, not a withdrawal.
    pub fn start(&mut self) {
        self.started = true;
    }

    /// Ends the attempt. Dropping the future lets the end go on in the background.
    pub fn settle(mut self, verdict: Verdict) -> impl Future<Output = Settled> + Send + 'static {
        let end = self.end(verdict);
        // Made before the first poll: what is dropped unpolled goes on too.
        let unsettled = Unsettled { attempt: self, end };
        unsettled.send()
    }

    /// Ends the attempt in the background.
    pub fn settle_later(mut self, verdict: Verdict) {
        if let Some(end) = self.end(verdict) {
            self.later(end);
        }
    }

    fn is_inherited(&self) -> bool {
        self.process != generation()
    }

    /// What has to be sent. `None`: nothing.
    fn end(&mut self, verdict: Verdict) -> Option<End> {
        self.settled = true;
        if self.is_inherited() {
            return None;
        }
        self.engine.keeper.leave(&self.live);
        let record = &self.live.record;
        let (state, result) = match (verdict, record.after_crash) {
            (Verdict::Complete(result), _) => (State::Completed, result),
            (Verdict::NotKept(note), _) => (State::NotKept, note),
            (Verdict::Release, _) | (Verdict::Fail, AfterCrash::Rerun) => return Some(End::Release),
            (Verdict::Hold, AfterCrash::Rerun) => return None,
            (Verdict::Fail | Verdict::Hold, AfterCrash::Refuse) => (State::Unknown, Arc::default()),
        };
        Some(End::Complete(Record { state, result, ..record.clone() }))
    }

    fn later(&self, end: End) {
        let (engine, live) = (self.engine.clone(), self.live.clone());
        match end {
            End::Release => {
                release_later(&self.engine, &self.live.handle, live.key, live.record.clone(), ClaimAnswer::Came)
            }
            End::Complete(record) => self.engine.background.spawn(&self.live.handle, async move {
                let give_up = Instant::now() + Duration::from_micros(record.ttl).min(Duration::from_secs(24 * 3600));
                for pause in pauses() {
                    match complete(&engine, &live, &record, Instant::now()).await {
                        Ok(_) => return,
                        Err(error) if !is_passing(&error) || Instant::now() > give_up => {
                            tracing::error!("the result of {} could not be stored and is lost: {error}", record.label);
                            return;
                        }
                        Err(_) => tokio::time::sleep(pause).await,
                    }
                }
            }),
        }
    }
}

enum End {
    Release,
    Complete(Record),
}

/// An end on its way: sent again in the background if it is dropped before the store took it.
struct Unsettled {
    attempt: Attempt,
    end: Option<End>,
}

impl Unsettled {
    async fn send(mut self) -> Settled {
        let Attempt { engine, live, .. } = &self.attempt;
        let sent = Instant::now();
        let answer = match self.end.as_ref() {
            None if self.attempt.is_inherited() => return Settled::Lost,
            None => return Settled::Stored,
            Some(End::Complete(record)) => twice(sent, |now| complete(engine, live, record, now)).await,
            Some(End::Release) => twice(sent, |_| engine.store.release(&live.key, &live.record)).await.map(|own| {
                engine.rooms.tell(&live.key);
                if own { Settled::Stored } else { Settled::Lost }
            }),
        };
        match answer {
            Ok(settled) => {
                self.end = None;
                settled
            }
            Err(error) => {
                tracing::warn!(
                    "the store did not take the end of {}; it is sent again in the background: {error}",
                    live.record.label
                );
                Settled::Deferred
            }
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.attempt.later(end);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let verdict = if self.started { Verdict::Fail } else { Verdict::Release };
        if let Some(end) = self.end(verdict) {
            self.later(end);
        }
    }
}

/// Sends a completion once, now.
async fn complete(engine: &Engine, live: &Live, record: &Record, now: Instant) -> Result<Settled, crate::StoreError> {
    let recreate = now < live.lease_end();
    let completed = engine.store.complete(&live.key, record, recreate).await?;
    engine.rooms.tell(&live.key);
    Ok(match completed {
        Completed::Stored => Settled::Stored,
        Completed::NotKept => {
            tracing::error!("no room for the result of {}: it is not kept, and a repeat will be told so", record.label);
            Settled::NotKept
        }
        Completed::Refused(held) => {
            live.lose();
            match held {
                Some(held)
                    if held.record.state == State::Completed && held.record.fingerprint == record.fingerprint =>
                {
                    tracing::warn!("{} lost its claim; another attempt completed in its place", record.label);
                    Settled::Replaced(held.record.result)
                }
                _ => {
                    tracing::error!("{} lost its claim before it ended; its result is not stored", record.label);
                    Settled::Lost
                }
            }
        }
    })
}

/// Whether the store's answer to a claim has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimAnswer {
    Came,
    /// It may still be on its way, and arrive after its release.
    Missing,
}

/// Releases a claim in the background, trying again until its lease ends by itself.
pub(super) fn release_later(
    engine: &Arc<Engine>,
    handle: &Handle,
    key: StorageKey,
    record: Record,
    answer: ClaimAnswer,
) {
    let held = engine.clone();
    engine.background.spawn(handle, async move {
        let give_up = Instant::now() + Duration::from_micros(record.lease);
        for pause in pauses() {
            match held.store.release(&key, &record).await {
                Err(error) if is_passing(&error) && Instant::now() < give_up => tokio::time::sleep(pause).await,
                Ok(false) if answer == ClaimAnswer::Missing => {
                    // No exit waits for what will hardly ever come.
                    tokio::spawn(release_when_it_comes(held.clone(), key, record, give_up));
                    break;
                }
                _ => break,
            }
        }
        held.rooms.tell(&key);
    });
}

async fn release_when_it_comes(engine: Arc<Engine>, key: StorageKey, record: Record, give_up: Instant) {
    for pause in pauses() {
        tokio::time::sleep(pause).await;
        match engine.store.release(&key, &record).await {
            Ok(true) => return engine.rooms.tell(&key),
            _ if Instant::now() >= give_up => return,
            _ => {}
        }
    }
}
