//! Renewal: one task per store and process keeps the leases of all live attempts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use crate::key::StorageKey;
use crate::record::Record;
use crate::store::Store;

/// A claim that is being kept.
pub(super) struct Live {
    pub(super) key: StorageKey,
    /// As claimed: in flight, with its fence.
    pub(super) record: Record,
    /// Of the runtime that the attempt runs on.
    pub(super) handle: Handle,
    /// Renewing ends here.
    renew_until: Instant,
    lost: AtomicBool,
    times: Mutex<Times>,
}

struct Times {
    lease_end: Instant,
    /// When it is renewed; `None` once it has left.
    due: Option<Instant>,
}

impl Live {
    pub(super) fn new(key: StorageKey, record: Record, handle: Handle, sent: Instant, run_limit: Duration) -> Self {
        let times = Mutex::new(Times { lease_end: sent + Duration::from_micros(record.lease), due: None });
        // An `Instant` can't hold a hundred years everywhere; a month is as good as never here.
        let renew_until = sent + run_limit.min(Duration::from_secs(30 * 24 * 3600));
        Self { key, record, handle, renew_until, lost: AtomicBool::new(false), times }
    }

    /// Whether the claim is known to be somebody else's by now.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// When the lease certainly still held, counted from before the claim or renewal was sent.
    pub(super) fn lease_end(&self) -> Instant {
        self.times().lease_end
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is renewed no more; when it would have been.
    fn leave(&self) -> Option<Instant> {
        self.times().due.take()
    }

    fn lease(&self) -> Duration {
        Duration::from_micros(self.record.lease)
    }
}

pub(super) struct Keeper(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    schedule: Mutex<Schedule>,
    wake: Notify,
}

#[derive(Default)]
struct Schedule {
    due: BTreeMap<Place, Arc<Live>>,
    /// When the task looks again by itself. Whoever is due later need not wake it.
    looks: Option<Instant>,
    /// Something was kept since the task last looked.
    was_used: bool,
    /// A task is at work. It says so itself when its runtime goes away under it.
    served: bool,
    closed: bool,
}

/// A time, and the address of what is due then.
type Place = (Instant, usize);

fn place(due: Instant, live: &Arc<Live>) -> Place {
    (due, Arc::as_ptr(live).addr())
}

impl Schedule {
    fn must_look_by(&self, due: Instant) -> bool {
        self.looks.is_none_or(|looks| due < looks)
    }
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.schedule().closed = true;
        self.0.wake.notify_one();
    }
}

impl Keeper {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(Arc::new(Shared { store, schedule: Mutex::default(), wake: Notify::new() }))
    }

    /// Keeps the lease until [`Self::leave`].
    pub(super) fn keep(&self, live: &Arc<Live>) {
        let due = live.lease_end() - live.lease() * 2 / 3;
        let mut schedule = self.0.schedule();
        live.times().due = Some(due);
        schedule.due.insert(place(due, live), live.clone());
        schedule.was_used = true;
        if !schedule.served {
            schedule.served = true;
            drop(schedule);
            Serving { shared: self.0.clone(), gone: vec![] }.start_on(&live.handle);
        } else if schedule.must_look_by(due) {
            self.0.wake.notify_one();
        }
    }

    pub(super) fn leave(&self, live: &Arc<Live>) {
        let mut schedule = self.0.schedule();
        if let Some(due) = live.leave() {
            schedule.due.remove(&place(due, live));
        }
    }
}

/// The task's hold on the schedule.
struct Serving {
    shared: Arc<Shared>,
    /// The runtimes that this task, or those it followed, went away with.
    gone: Vec<Id>,
}

impl Serving {
    fn start_on(mut self, handle: &Handle) {
        self.gone.push(handle.id());
        handle.spawn(serve(self));
    }
}

impl Drop for Serving {
    /// The runtime shuts down, or nobody needs this any more. Attempts of another runtime are served there.
    fn drop(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        let mut schedule = self.shared.schedule();
        let elsewhere = schedule.due.values().map(|live| &live.handle).find(|handle| !gone.contains(&handle.id()));
        if let Some(handle) = elsewhere.filter(|_| !schedule.closed).cloned() {
            drop(schedule);
            Serving { shared: self.shared.clone(), gone }.start_on(&handle);
        } else {
            schedule.served = false;
        }
    }
}

/// How long the task goes on looking by itself where nothing is due. Claims that come and go meanwhile are due later than
/// that, and need not wake it: on a quick store each would be a switch of threads.
const IDLE: Duration = Duration::from_secs(1);

async fn serve(serving: Serving) {
    let shared = &serving.shared;
    loop {
        let next = {
            let mut schedule = shared.schedule();
            if schedule.closed {
                return;
            }
            let now = Instant::now();
            while let Some(entry) = schedule.due.first_entry().filter(|entry| entry.key().0 <= now) {
                tokio::spawn(renew(shared.clone(), entry.remove()));
            }
            let due = schedule.due.first_key_value().map(|((due, _), _)| *due);
            let was_used = std::mem::take(&mut schedule.was_used);
            schedule.looks = due.or_else(|| was_used.then(|| now + IDLE));
            schedule.looks
        };
        match next {
            Some(due) => drop(tokio::time::timeout_at(due.into(), shared.wake.notified()).await),
            None => shared.wake.notified().await,
        }
    }
}

async fn renew(shared: Arc<Shared>, live: Arc<Live>) {
    let sent = Instant::now();
    let label = &live.record.label;
    if sent >= live.renew_until {
        tracing::warn!("{label} still runs after its run_limit; its lease is not renewed any more");
        live.leave();
        return;
    }
    let due = match shared.store.renew(&live.key, &live.record).await {
        Ok(true) => {
            live.times().lease_end = sent + live.lease();
            sent + live.lease() / 3
        }
        Ok(false) => {
            // Settled in the meantime, or truly lost.
            if live.leave().is_some() {
                live.lose();
                tracing::warn!("{label} lost its claim while it ran; its result will not be stored");
            }
            return;
        }
        // One failed renewal is not a lost lease.
        Err(error) => {
            tracing::debug!("renewing {label} failed and is tried again: {error}");
            Instant::now() + (live.lease() / 10).min(Duration::from_secs(1))
        }
    };
    let mut schedule = shared.schedule();
    if let Some(stands) = &mut live.times().due {
        *stands = due;
        schedule.due.insert(place(due, &live), live.clone());
        if schedule.must_look_by(due) {
            shared.wake.notify_one();
        }
    }
}
