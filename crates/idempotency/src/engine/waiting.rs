//! Waiting for another attempt's end: one waiter per key asks the store, the others of this process listen to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, watch};
use tokio::time::{Instant, sleep_until};

use super::{Asking, Begun, Idempotency, Tried};
use crate::decide::{Claim, Decision, Held, decide};
use crate::error::StoreError;
use crate::key::StorageKey;
use crate::record::Micros;
use crate::store::Watch;

/// The keys that somebody in this process waits for.
#[derive(Default)]
pub(super) struct Rooms {
    rooms: Mutex<HashMap<StorageKey, Arc<Room>>>,
    open: AtomicUsize,
}

struct Room {
    /// Whoever has the turn asks the store.
    turn: Turn<()>,
    /// What it found that ends the waiting.
    found: watch::Sender<Option<Arc<(Held, Micros)>>>,
    /// An attempt of this process ended.
    ended: watch::Sender<()>,
}

impl Rooms {
    fn rooms(&self) -> MutexGuard<'_, HashMap<StorageKey, Arc<Room>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who waits in this process that an attempt on the key ended in it.
    pub(super) fn tell(&self, key: &StorageKey) {
        if self.open.load(Ordering::SeqCst) > 0
            && let Some(room) = self.rooms().get(key)
        {
            room.ended.send_replace(());
        }
    }

    fn enter(&self, key: &StorageKey) -> Guest<'_> {
        let new = || Arc::new(Room { turn: Turn::new(()), found: watch::channel(None).0, ended: watch::channel(()).0 });
        let mut rooms = self.rooms();
        let room = rooms.entry(*key).or_insert_with(new).clone();
        self.open.store(rooms.len(), Ordering::SeqCst);
        Guest { rooms: self, key: *key, room }
    }
}

/// Somebody in a room; the last to leave closes it.
struct Guest<'a> {
    rooms: &'a Rooms,
    key: StorageKey,
    room: Arc<Room>,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut rooms = self.rooms.rooms();
        // The map's and this one's: nobody else is in, and nobody can enter while the map is locked.
        if Arc::strong_count(&self.room) == 2 {
            rooms.remove(&self.key);
            self.rooms.open.store(rooms.len(), Ordering::SeqCst);
        }
    }
}

impl Idempotency {
    /// Waits for the end of the attempt that stands in the way, and takes over if it fails.
    pub(super) async fn wait_for(&self, mut asking: Asking<'_>) -> Result<Begun, StoreError> {
        let deadline = Instant::now() + self.options.wait.min(Duration::from_secs(24 * 3600));
        let guest = self.engine.keeper.rooms.enter(asking.key);
        let room = &guest.room;
        let mut found = room.found.subscribe();
        let request = asking.request();
        loop {
            tokio::select! {
                biased;
                Ok(()) = found.changed() => {
                    let found = found.borrow_and_update().clone();
                    if let Some((held, now)) = found.as_deref() {
                        match decide(Some(held), &request, *now) {
                            Decision::Run | Decision::InFlight { .. } => {}
                            decision => return Ok(Tried::Held(held.clone(), *now, decision).into()),
                        }
                    }
                }
                _turn = room.turn.lock() => {
                    let tried = self.watch_over(&mut asking, room, deadline).await?;
                    if let Tried::Held(held, now, decision) = &tried
                        && !matches!(decision, Decision::InFlight { .. })
                    {
                        room.found.send_replace(Some(Arc::new((held.clone(), *now))));
                    }
                    return Ok(tried.into());
                }
                () = sleep_until(deadline) => return Ok(self.claim(&mut asking).await?.into()),
            }
        }
    }

    /// Subscribes, claims again, then sleeps until a hint, the lease's end or the next look, until the deadline.
    async fn watch_over(&self, asking: &mut Asking<'_>, room: &Room, deadline: Instant) -> Result<Tried, StoreError> {
        let mut ended = room.ended.subscribe();
        let mut watch = self.watch(asking.key, deadline).await;
        loop {
            let tried = self.claim(asking).await?;
            let Tried::Held(_, _, Decision::InFlight { lease_left }) = &tried else {
                return Ok(tried);
            };
            let now = Instant::now();
            if now >= deadline {
                return Ok(tried);
            }
            let lapses = now + Duration::from_micros(*lease_left);
            let look = now + jittered(watch.poll, &asking.claim);
            let next = lapses.min(look).min(deadline);
            tokio::select! {
                hint = changed(&mut watch) => if hint.is_err() {
                    watch = self.watch(asking.key, deadline).await; // the channel closed: open it again before the next look
                },
                _ = ended.changed() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn watch(&self, key: &StorageKey, deadline: Instant) -> Watch {
        match tokio::time::timeout_at(deadline, self.engine.keeper.store.watch(key)).await {
            Ok(Ok(watch)) => watch,
            _ => Watch { changed: None, poll: Duration::from_secs(1) },
        }
    }
}

async fn changed(watch: &mut Watch) -> Result<(), watch::error::RecvError> {
    match &mut watch.changed {
        Some(changed) => changed.changed().await,
        None => std::future::pending().await,
    }
}

/// Between half of a pause and all of it, so that waiters of many processes do not look at the same moment.
fn jittered(pause: Duration, claim: &Claim) -> Duration {
    pause / 2 + pause.mul_f64(f64::from(claim.record.token.0[0]) / 512.0)
}
