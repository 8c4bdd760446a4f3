//! Waiting for what is on its way to the stores: at a server's shutdown, and at the interpreter's exit.

use std::pin::pin;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use idempotency::events;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::convert::seconds;
use super::runtime::{Process, current};
use super::{bridge, logging, observing, stopping};

/// Waits at most `limit` for completions and releases that are still on their way; whether all have ended.
async fn drained(process: &Process, limit: Duration) -> bool {
    let engines = process.engines.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let deadline = tokio::time::Instant::now() + limit;
    let mut all = true;
    for engine in &engines {
        all &= engine.drain(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
    }
    all
}

/// Waits at most `limit` seconds for completions and releases that are still on their way: a future of the running
/// loop, of whether all have ended.
#[pyfunction]
#[pyo3(signature = (limit, /))]
pub fn drain(py: Python<'_>, limit: f64) -> PyResult<Bound<'_, PyAny>> {
    let limit = seconds("limit", limit)?;
    let drained = async move {
        match current() {
            Some(process) => drained(process, limit).await,
            None => true,
        }
    };
    bridge::submit(py, drained, |py, all| Ok(PyBool::new(py, all).to_owned().into_any()))
}

/// Waits at most `limit` seconds for completions and releases that are still on their way, for the interpreter's exit:
/// afterwards nothing of ours calls Python. Whether all have ended.
#[pyfunction]
pub fn shutdown(py: Python<'_>, limit: f64) -> bool {
    let deadline = Instant::now() + Duration::try_from_secs_f64(limit).unwrap_or_default();
    // What calls Python by then gets a moment of its own.
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let all = py.detach(|| {
        let drained = |process: &'static Process| process.driver.wait(pin!(drained(process, left())), Duration::MAX);
        current().is_none_or(|process| drained(process).unwrap_or(false))
    });
    py.detach(|| events::flush(left()));
    stopping::stop(py, left());
    py.detach(|| {
        observing::finish(left());
        if let Some(process) = current() {
            let pools = process.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
            pools.iter().for_each(|pool| pool.rest(left()));
        }
    });
    logging::finish(py, left());
    all
}
