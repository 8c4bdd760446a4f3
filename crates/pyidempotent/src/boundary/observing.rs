//! The thread that tells Python's observers of events, as the interpreter's end has to know it.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use idempotency::process::PerProcess;
use pyo3::prelude::*;

use super::stopping::is_stopping;

#[derive(Default)]
struct Calling {
    is_calling: Mutex<bool>,
    ended: Condvar,
}

static CALLING: PerProcess<Calling> = PerProcess::new();

impl Calling {
    fn set(&self, is_calling: bool) {
        *self.is_calling.lock().unwrap_or_else(PoisonError::into_inner) = is_calling;
        self.ended.notify_all();
    }
}

/// Runs code that calls Python, unless the interpreter is going away.
pub fn attached(code: impl FnOnce(Python<'_>)) {
    let calling = CALLING.get();
    calling.set(true);
    // Asked after the shutdown can see that this thread calls.
    if !is_stopping() {
        Python::attach(code);
    }
    calling.set(false);
}

/// For the interpreter's exit, once nothing attaches any more: waits at most `limit` for an observer that is being called.
pub fn finish(limit: Duration) {
    let calling = CALLING.get();
    let is_calling = calling.is_calling.lock().unwrap_or_else(PoisonError::into_inner);
    drop(calling.ended.wait_timeout_while(is_calling, limit, |is_calling| *is_calling));
}
