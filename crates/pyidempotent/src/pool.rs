//! Threads that call Python: never the runtime's own, and none of the caller's.
//!
//! They stay attached for life, so that what a backend keeps in `threading.local` (a connection, say) is kept.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::runtime::is_stopping;

/// Work that needs the interpreter; it returns what tells its caller.
pub type Job = Box<dyn FnOnce(Python<'_>) -> Tell + Send>;
pub type Tell = Box<dyn FnOnce() + Send>;

/// As many as Python's own executor has on a large machine.
const MOST: usize = 32;

#[derive(Default)]
pub struct Pool {
    state: Mutex<State>,
    ready: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job on one of the threads. Dropped where the interpreter is going away.
    pub fn submit(&'static self, job: Job) {
        if is_stopping() {
            return;
        }
        let mut state = self.state();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle {
            self.ready.notify_one();
        } else if state.threads < MOST {
            state.threads += 1;
            drop(state);
            let thread = std::thread::Builder::new().name("idempotency-python".into());
            thread.spawn(|| self.serve()).expect("the operating system gives a thread");
        }
    }

    fn serve(&self) {
        self.state().idle += 1;
        let Some(mut job) = self.next(false) else { return };
        Python::attach(|py| {
            loop {
                let tell = job(py);
                // First: the caller's next job finds this thread idle, and starts no other.
                self.state().idle += 1;
                tell();
                match py.detach(|| self.next(true)) {
                    Some(next) => job = next,
                    None => return,
                }
            }
        });
    }

    /// The next job. Where the interpreter is going away nothing may attach to it again: a thread that it knows waits for
    /// the end of the process.
    fn next(&self, is_attached: bool) -> Option<Job> {
        let mut state = self.state();
        self.ended.notify_all();
        while state.jobs.is_empty() && !is_stopping() || is_stopping() && is_attached {
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle -= 1;
        state.jobs.pop_front().filter(|_| !is_stopping())
    }

    /// Waits at most `limit` until no thread is in Python code; for the interpreter's exit.
    pub fn rest(&self, limit: Duration) {
        let state = self.state();
        let busy = |state: &mut State| state.idle < state.threads;
        drop(self.ended.wait_timeout_while(state, limit, busy));
    }
}
