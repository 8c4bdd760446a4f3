//! [`Serving`]: the one task of a keeper, which sends what is due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};

use super::holding::Holding;
use super::keeper::{AT_ONCE, Keeper, Schedule};
use super::outage::LONGEST_PAUSE;

/// Starts the task.
pub(super) fn start(keeper: Arc<Keeper>, handle: &Handle) {
    Serving { keeper, gone: vec![] }.start_on(handle);
}

/// The task's hold on the schedule.
struct Serving {
    keeper: Arc<Keeper>,
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
        let mut schedule = self.keeper.schedule();
        let elsewhere = schedule.held().map(|held| &held.handle).find(|handle| !gone.contains(&handle.id()));
        if let Some(handle) = elsewhere.cloned() {
            drop(schedule);
            Serving { keeper: self.keeper.clone(), gone }.start_on(&handle);
        } else {
            schedule.served = false;
        }
    }
}

/// A holding that is being attended to; it has its place again whatever becomes of the task.
struct Attending {
    keeper: Arc<Keeper>,
    holding: Arc<Holding>,
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut schedule = self.keeper.schedule();
        let at = schedule.attended.iter().position(|attended| Arc::ptr_eq(attended, &self.holding));
        at.map(|at| schedule.attended.swap_remove(at));
        let mut state = self.holding.state();
        if state.place.is_none() && !state.has_left {
            let due = Instant::now() + state.next_pause(Duration::from_secs(1));
            schedule.put(&self.holding, &mut state, due);
        }
        drop(state);
        // Others may have waited for their turn.
        if self.keeper.outage.is_down() || schedule.closed || schedule.attended.len() + 1 == AT_ONCE {
            self.keeper.wake.notify_one();
        }
    }
}

/// Poll interval while no lease is due. Claims that come and go meanwhile are due later than this,
/// and need not wake the task: on a quick store each would be a switch of threads.
const IDLE: Duration = Duration::from_secs(1);

async fn serve(serving: Serving) {
    let keeper = &serving.keeper;
    loop {
        let mut attended = vec![];
        let next = {
            let mut schedule = keeper.schedule();
            if schedule.closed && schedule.held().next().is_none() {
                return;
            }
            let now = Instant::now();
            let next = match keeper.outage.is_down() {
                true => try_one(&mut schedule, now, &mut attended),
                false => {
                    schedule.next_try = None;
                    while schedule.attended.len() < AT_ONCE
                        && let Some(entry) = schedule.due.first_entry().filter(|entry| entry.key().0 <= now)
                    {
                        let holding = entry.remove();
                        attended.push(schedule.attend(holding));
                    }
                    let first = schedule.due.first_key_value().map(|((due, ..), _)| *due);
                    first.filter(|due| *due > now)
                }
            };
            let was_used = std::mem::take(&mut schedule.was_used);
            schedule.looks = next.or_else(|| was_used.then(|| now + IDLE));
            schedule.looks
        };
        // Without the lock: a runtime that goes away drops at once what is spawned on it, which takes the lock.
        for holding in attended {
            let attending = Attending { keeper: keeper.clone(), holding };
            tokio::spawn(async move { attending.keeper.attend(&attending.holding).await });
        }
        match next {
            Some(due) => drop(tokio::time::timeout_at(due.into(), keeper.wake.notified()).await),
            None => keeper.wake.notified().await,
        }
    }
}

/// Of a store that is down one thing is tried at a time, whatever has waited longest. When to look again.
fn try_one(schedule: &mut Schedule, now: Instant, attended: &mut Vec<Arc<Holding>>) -> Option<Instant> {
    let (at, pause) = *schedule.next_try.get_or_insert((now, LONGEST_PAUSE / 8));
    if !schedule.attended.is_empty() {
        return None; // its end wakes the task
    }
    let due = schedule.due.first_key_value().map(|((due, ..), _)| *due)?;
    if due.max(at) > now {
        return Some(due.max(at));
    }
    let (_, holding) = schedule.due.pop_first()?;
    attended.push(schedule.attend(holding));
    schedule.next_try = Some((now + pause, (pause * 2).min(LONGEST_PAUSE)));
    None
}
