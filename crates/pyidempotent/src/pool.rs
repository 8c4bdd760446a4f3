//! Threads that call Python: never the runtime's own, and none of the caller's. Each store of the user's has a pool.
//!
//! They stay attached for life, so that what a backend keeps in `threading.local` (a connection, say) is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idempotency::{StoreError, StoreErrorKind};
use pyo3::prelude::*;

use crate::runtime::is_stopping;

/// Work that needs the interpreter; it returns what tells its caller.
pub type Job = Box<dyn FnOnce(Python<'_>) -> Tell + Send>;
pub type Tell = Box<dyn FnOnce() + Send>;

/// How many threads a pool has at the most, and how many of them no claim takes: what an attempt needs to keep its claim
/// and to end does not wait for a store that is slow with new ones.
const MOST: usize = 32;
const KEPT_FREE: usize = 4;

/// How many jobs wait at the most. Where so many do, every thread hangs.
const MOST_WAITING: usize = 1000;

/// What goes first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Renewals, completions, releases.
    Held,
    /// Claims, and what operators ask.
    New,
}

#[derive(Default)]
pub struct Pool {
    state: Mutex<State>,
    ready: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    held: VecDeque<Job>,
    new: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// How many threads work on claims.
    on_new: usize,
}

impl State {
    fn take(&mut self) -> Option<(Job, Rank)> {
        if let Some(job) = self.held.pop_front() {
            return Some((job, Rank::Held));
        }
        if self.on_new >= MOST - KEPT_FREE {
            return None;
        }
        let job = self.new.pop_front()?;
        self.on_new += 1;
        Some((job, Rank::New))
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job on one of the threads. Dropped where the interpreter is going away.
    ///
    /// # Errors
    /// Where no thread can be had, or all of them hang: the job does not run.
    pub fn submit(self: &Arc<Self>, rank: Rank, job: Job) -> Result<(), StoreError> {
        if is_stopping() {
            return Ok(());
        }
        let mut state = self.state();
        let waiting = state.held.len() + state.new.len();
        if waiting >= MOST_WAITING {
            let message = format!("the store's {MOST} threads hang, and {MOST_WAITING} operations wait for them");
            return Err(StoreError::new(StoreErrorKind::NotExecuted, message));
        }
        if waiting >= state.idle && state.threads < MOST {
            let pool = self.clone();
            let thread = std::thread::Builder::new().name("idempotency-python".into());
            match thread.spawn(move || pool.serve()) {
                Ok(_) => state.threads += 1,
                Err(source) if state.threads == 0 => {
                    let message = format!("the operating system gives no thread for the store: {source}");
                    return Err(StoreError::new(StoreErrorKind::NotExecuted, message).with_source(source));
                }
                Err(_) => {} // those there are do it
            }
        }
        match rank {
            Rank::Held => state.held.push_back(job),
            Rank::New => state.new.push_back(job),
        }
        self.ready.notify_one();
        Ok(())
    }

    fn serve(&self) {
        let Some((mut job, mut rank)) = self.next(None) else { return };
        Python::attach(|py| {
            loop {
                let tell = job(py);
                // First: the caller's next job finds this thread idle, and starts no other.
                self.rests(rank);
                tell();
                match py.detach(|| self.next(Some(()))) {
                    Some(next) => (job, rank) = next,
                    None => return,
                }
            }
        });
    }

    fn rests(&self, rank: Rank) {
        let mut state = self.state();
        state.idle += 1;
        state.on_new -= usize::from(rank == Rank::New);
    }

    /// The next job. Where the interpreter is going away nothing may attach to it again: a thread that it knows
    /// (`attached`) waits for the end of the process.
    fn next(&self, attached: Option<()>) -> Option<(Job, Rank)> {
        let mut state = self.state();
        if attached.is_none() {
            state.idle += 1;
        }
        self.ended.notify_all();
        loop {
            if is_stopping() && attached.is_none() {
                return None;
            }
            if !is_stopping()
                && let Some(job) = state.take()
            {
                state.idle -= 1;
                return Some(job);
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits at most `limit` until no thread is in Python code; for the interpreter's exit.
    pub fn rest(&self, limit: Duration) {
        let state = self.state();
        let busy = |state: &mut State| state.idle < state.threads;
        drop(self.ended.wait_timeout_while(state, limit, busy));
    }
}
