//! Threads that call Python: never the runtime's own, and none of the caller's. Each store of the user's has a pool.
//!
//! They stay attached for life, so that what a backend keeps in `threading.local` (a connection, say) is kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use idempotency::{StoreError, StoreErrorKind, Token};
use pyo3::prelude::*;

use super::stopping::{is_stopping, stopped};

/// Work that needs the interpreter; it returns what tells its caller.
pub type Job = Box<dyn FnOnce(Python<'_>) -> Tell + Send>;
pub type Tell = Box<dyn FnOnce() + Send>;

/// How many threads a pool has at the most, and how many of them no claim takes: what an attempt needs to keep its claim
/// and to end does not wait for a store that is slow with new ones.
const MOST: usize = 32;
const KEPT_FREE: usize = 4;

/// How many jobs of a rank wait at the most.
const MOST_WAITING: usize = 1000;

/// What goes first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Renewals, completions, releases.
    Held,
    /// Claims, and what operators ask.
    New,
}

impl Rank {
    /// How many threads it may take.
    fn threads(self) -> usize {
        match self {
            Self::Held => MOST,
            Self::New => MOST - KEPT_FREE,
        }
    }
}

pub struct Pool {
    /// A job that has run for so long hangs.
    time_limit: Duration,
    state: Mutex<State>,
    ready: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// By number, first come first.
    held: BTreeMap<u64, Waiting>,
    new: BTreeMap<u64, Waiting>,
    running: HashMap<u64, Running>,
    last: u64,
    threads: usize,
    idle: usize,
}

struct Waiting {
    attempt: Option<Token>,
    job: Job,
}

struct Running {
    rank: Rank,
    /// What an attempt sends runs one at a time: its release waits for its claim, even where nobody does any more.
    attempt: Option<Token>,
    since: Instant,
}

impl State {
    fn waiting(&mut self, rank: Rank) -> &mut BTreeMap<u64, Waiting> {
        match rank {
            Rank::Held => &mut self.held,
            Rank::New => &mut self.new,
        }
    }

    fn on(&self, rank: Rank) -> impl Iterator<Item = &Running> {
        self.running.values().filter(move |running| rank == Rank::Held || running.rank == rank)
    }

    fn take(&mut self) -> Option<(u64, Job)> {
        [Rank::Held, Rank::New].into_iter().find_map(|rank| self.take_of(rank))
    }

    fn take_of(&mut self, rank: Rank) -> Option<(u64, Job)> {
        if self.on(rank).count() >= rank.threads() {
            return None;
        }
        let (queue, running) = match rank {
            Rank::Held => (&mut self.held, &mut self.running),
            Rank::New => (&mut self.new, &mut self.running),
        };
        let is_free = |waiting: &Waiting| {
            waiting.attempt.is_none() || running.values().all(|running| running.attempt != waiting.attempt)
        };
        let number = queue.iter().find(|(_, waiting)| is_free(waiting)).map(|(number, _)| *number)?;
        let Waiting { attempt, job } = queue.remove(&number)?;
        running.insert(number, Running { rank, attempt, since: Instant::now() });
        Some((number, job))
    }
}

/// A job that was submitted. Dropped, it takes a job back that has not begun.
pub struct Ticket {
    pool: Arc<Pool>,
    rank: Rank,
    number: u64,
}

impl Ticket {
    /// Takes the job back; whether it had not begun, and never will.
    pub fn withdraw(&self) -> bool {
        let withdrawn = self.pool.state().waiting(self.rank).remove(&self.number);
        withdrawn.is_some() // dropped here, outside of the lock
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl Pool {
    pub fn new(time_limit: Duration) -> Self {
        let (state, ready, ended) = Default::default();
        Self { time_limit, state, ready, ended }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job on one of the threads, after those of the same attempt.
    ///
    /// # Errors
    /// Where no thread can be had, all of them hang, or the interpreter is going away: the job does not run.
    pub fn submit(self: &Arc<Self>, rank: Rank, attempt: Option<Token>, job: Job) -> Result<Ticket, StoreError> {
        if is_stopping() {
            return Err(stopped());
        }
        let refused = |message| Err(StoreError::new(StoreErrorKind::NotExecuted, message));
        let mut state = self.state();
        let hanging = state.on(rank).filter(|running| running.since.elapsed() >= self.time_limit).count();
        if hanging >= rank.threads() {
            return refused(format!("the store hangs: {hanging} operations have taken longer than its time_limit"));
        }
        let queue = state.waiting(rank);
        if queue.len() >= MOST_WAITING {
            return refused(format!("the store is too slow: {MOST_WAITING} operations wait for it"));
        }
        if state.held.len() + state.new.len() >= state.idle && state.threads < MOST {
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
        state.last += 1;
        let number = state.last;
        state.waiting(rank).insert(number, Waiting { attempt, job });
        self.ready.notify_one();
        Ok(Ticket { pool: self.clone(), rank, number })
    }

    fn serve(&self) {
        let Some((mut number, mut job)) = self.next(false) else { return };
        Python::attach(|py| {
            loop {
                let tell = job(py);
                // First: the caller's next job finds this thread idle, and starts no other.
                self.rests(number);
                tell();
                match py.detach(|| self.next(true)) {
                    Some(next) => (number, job) = next,
                    None => return,
                }
            }
        });
    }

    fn rests(&self, number: u64) {
        let mut state = self.state();
        state.idle += 1;
        state.running.remove(&number);
        if !state.held.is_empty() {
            self.ready.notify_one(); // this thread may take another than the one that has waited for this one's end
        }
    }

    /// The next job. Where the interpreter is going away nothing may attach to it again: a thread that it knows
    /// (`is_attached`) waits for the end of the process.
    fn next(&self, is_attached: bool) -> Option<(u64, Job)> {
        let mut state = self.state();
        if !is_attached {
            state.idle += 1;
        }
        self.ended.notify_all();
        loop {
            if is_stopping() && !is_attached {
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
