//! Errors of the engine as the package's exceptions, which are Python classes.

use std::error::Error;

use idempotency::StoreError;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyConnectionError, PyException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::python;

/// A store's failure: `IdempotencyStoreUnavailable`, with what caused it as its cause. It names no time to try again
/// where waiting mends nothing.
pub fn store_error(py: Python<'_>, error: &StoreError) -> PyErr {
    let made = || {
        let class = python::store_unavailable(py)?;
        let options = PyDict::new(py);
        if !error.is_passing() {
            options.set_item("retry_after", py.None())?;
        }
        class.call((error.to_string(),), Some(&options))
    };
    let raised = match made() {
        Ok(raised) => PyErr::from_value(raised),
        Err(error) => return error,
    };
    if let Some(source) = error.source() {
        let cause = match source.downcast_ref::<PyErr>() {
            Some(own) => own.clone_ref(py), // of a backend in Python
            None => PyConnectionError::new_err(source.to_string()),
        };
        raised.set_cause(py, Some(cause));
    }
    raised
}

/// A malformed key: `IdempotencyKeyInvalid`.
pub fn key_error(py: Python<'_>, error: &idempotency::KeyError) -> PyErr {
    python::key_invalid(py)
        .and_then(|class| class.call1((error.to_string(),)))
        .map_or_else(|error| error, PyErr::from_value)
}

/// A refusal: an exception of `pyidempotent.exceptions`, by name. Never on the way of a call that is answered.
pub fn refusal<'py>(
    py: Python<'py>,
    class: &str,
    args: impl PyCallArgs<'py>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyErr {
    let made = || python::exception(py, class)?.call(args, kwargs);
    made().map_or_else(|error| error, PyErr::from_value)
}

/// `Unstorable`, for a value that the encoding has no form for; any other error stays what it is.
pub fn unstorable(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(py) && !error.is_instance_of::<PyValueError>(py) {
        return error;
    }
    match python::unstorable(py).and_then(|class| class.call1((error.value(py).to_string(),))) {
        Ok(raised) => {
            let raised = PyErr::from_value(raised);
            raised.set_cause(py, Some(error));
            raised
        }
        Err(import) => import,
    }
}

/// What an error says, for the log: our own words alone, those of any other error after its type. An error that is no
/// `Exception` (an interrupt, an exit) is handed on.
pub fn reason(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    let exception = py.get_type::<PyException>();
    if !error.is_instance(py, &exception) {
        return Err(error.clone_ref(py));
    }
    let words = match error.value(py).str() {
        Ok(words) => words.to_string_lossy().into_owned(),
        Err(unprintable) if unprintable.is_instance(py, &exception) => String::new(),
        Err(other) => return Err(other),
    };
    if is_unstorable(py, error) {
        return Ok(words);
    }
    let name = error.get_type(py).qualname()?;
    Ok(if words.is_empty() { name.to_string() } else { format!("{name}: {words}") })
}

/// Logs an error, with the traceback of its cause. A log that fails is told to `sys.unraisablehook`: it must cost nobody
/// a result.
pub fn log(py: Python<'_>, message: &str, cause: Option<&PyErr>) -> PyResult<()> {
    let logged = || {
        let more = PyDict::new(py);
        if let Some(cause) = cause {
            more.set_item("exc_info", cause.value(py))?;
        }
        python::logger(py)?.call_method("error", ("%s", message), Some(&more)).map(drop)
    };
    match logged() {
        Err(error) if error.is_instance_of::<PyException>(py) => {
            error.write_unraisable(py, None);
            Ok(())
        }
        done => done,
    }
}

/// Whether an error is a refusal of ours.
pub fn is_refusal(py: Python<'_>, error: &PyErr) -> bool {
    python::error(py).is_ok_and(|class| error.is_instance(py, class))
}

/// Whether the words of an error are ours, about a result that has no stored form.
pub fn is_unstorable(py: Python<'_>, error: &PyErr) -> bool {
    python::unstorable(py).is_ok_and(|class| error.is_instance(py, class))
}
