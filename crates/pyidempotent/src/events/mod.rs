//! Events on their way to Python: an observer is a callable, and metrics are added up here until somebody takes them.

pub mod totals;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use idempotency::events::{self, What};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::boundary::convert::seconds;
use crate::boundary::{observing, stopping};

/// Something that happened to a call, an attempt or a store.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Event(events::Event);

#[pymethods]
impl Event {
    #[getter]
    fn name(&self) -> &'static str {
        self.0.what.name()
    }

    #[getter]
    fn store(&self) -> &'static str {
        self.0.store
    }

    #[getter]
    fn operation(&self) -> Option<&str> {
        self.0.operation()
    }

    #[getter]
    fn has_caller(&self) -> bool {
        self.0.has_caller()
    }

    #[getter]
    fn record_id(&self) -> Option<String> {
        self.0.record_id()
    }

    #[getter]
    fn fence(&self) -> Option<u64> {
        self.0.fence()
    }

    /// What else is known; durations are seconds.
    #[getter]
    fn details<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let details = PyDict::new(py);
        let duration = |name, duration: &Duration| details.set_item(name, duration.as_secs_f64());
        match &self.0.what {
            What::Claimed { takes_over, lease } => {
                details.set_item("takes_over", takes_over)?;
                duration("lease", lease)?;
            }
            What::Replayed { bytes } => details.set_item("bytes", bytes)?,
            What::InFlight { lease_left } => duration("lease_left", lease_left)?,
            What::Unavailable { error } => details.set_item("error", error.name())?,
            What::Refused { row } => details.set_item("reason", row)?,
            What::Waited { took } | What::Held { took } => duration("took", took)?,
            What::Completed { bytes, took, .. } => {
                details.set_item("bytes", bytes)?;
                duration("took", took)?;
            }
            What::CompletedWithoutResult { took, .. }
            | What::EndedUnknown { took, .. }
            | What::Released { took, .. } => duration("took", took)?,
            What::Lost { took, is_replaced, .. } => {
                duration("took", took)?;
                details.set_item("is_replaced", is_replaced)?;
            }
            What::GivenUp { cause, .. } => details.set_item("cause", &**cause)?,
            What::RenewedLate { late } => duration("late", late)?,
            What::ClaimLost { cause } => details.set_item("cause", cause.as_deref())?,
            What::StoreOperation { name, took, error } => {
                details.set_item("command", name)?;
                duration("took", took)?;
                details.set_item("error", error.map(|kind| kind.name()))?;
            }
            What::StoreFailed { error, cause } => {
                details.set_item("error", error.name())?;
                details.set_item("cause", &**cause)?;
            }
            _ => {}
        }
        if self.0.what.was_deferred() {
            details.set_item("was_deferred", true)?;
        }
        Ok(details)
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<Event {}: {}>", self.name(), self.0)
    }
}

/// An observer that is told of events until it is stopped.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Observation(Mutex<Option<events::Observation>>);

#[pymethods]
impl Observation {
    fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Collected, it goes on: whoever wants it to end calls `stop`.
impl Drop for Observation {
    fn drop(&mut self) {
        if let Some(observation) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            observation.forever();
        }
    }
}

/// Calls an observer with every event, on a thread of its own.
#[pyfunction]
#[pyo3(signature = (observer, /))]
pub fn observe(observer: Py<PyAny>) -> Observation {
    let observation = events::observe(move |event: &events::Event| {
        observing::attached(|py| tell(py, &observer, event));
    });
    Observation(Mutex::new(Some(observation)))
}

fn tell(py: Python<'_>, observer: &Py<PyAny>, event: &events::Event) {
    let told = || {
        let args = (Event(event.clone()),).into_pyobject(py)?;
        stopping::call(observer.bind(py), &args).map(drop)
    };
    // Its own error is told where Python tells of errors that nobody can catch.
    if let Err(error) = told() {
        error.write_unraisable(py, Some(observer.bind(py)));
    }
}

/// Waits at most `limit` seconds until observers were told of everything; whether they were.
#[pyfunction]
#[pyo3(signature = (limit, /))]
pub fn flush_events(py: Python<'_>, limit: f64) -> PyResult<bool> {
    let limit = seconds("limit", limit)?;
    Ok(py.detach(|| events::flush(limit)))
}

/// How many events found no room, because an observer was too slow.
#[pyfunction]
pub fn dropped_events() -> u64 {
    events::dropped()
}
