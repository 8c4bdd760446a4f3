//! Errors of the engine as the package's exceptions, which are Python classes.

use std::error::Error;

use idempotency::StoreError;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyConnectionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

/// An exception of `pyidempotent.exceptions`, by name.
fn exception<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.import(py, "pyidempotent.exceptions", name)
}

/// A store's failure: `IdempotencyStoreUnavailable`, with what caused it as its cause. It names no time to try again
/// where waiting mends nothing.
pub fn store_error(py: Python<'_>, error: &StoreError) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let made = || {
        let class = exception(py, &CLASS, "IdempotencyStoreUnavailable")?;
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
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    match exception(py, &CLASS, "IdempotencyKeyInvalid") {
        Ok(class) => PyErr::from_type(class.clone(), error.to_string()),
        Err(import) => import,
    }
}

/// A refusal: an exception of `pyidempotent.exceptions`, by name. Never on the way of a call that is answered.
pub fn refusal<'py>(
    py: Python<'py>,
    class: &str,
    args: impl PyCallArgs<'py>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyErr {
    let made = || py.import("pyidempotent.exceptions")?.getattr(class)?.call(args, kwargs);
    made().map_or_else(|error| error, PyErr::from_value)
}

fn unstorable_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    Ok(py.import("pyidempotent._results")?.getattr("Unstorable")?.cast_into()?)
}

/// `Unstorable`, for a value that the encoding has no form for; any other error stays what it is.
pub fn unstorable(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(py) && !error.is_instance_of::<PyValueError>(py) {
        return error;
    }
    match unstorable_class(py) {
        Ok(class) => {
            let raised = PyErr::from_type(class, error.value(py).to_string());
            raised.set_cause(py, Some(error));
            raised
        }
        Err(import) => import,
    }
}

/// Whether a result can't be kept, rather than something else being wrong.
pub fn is_unstorable(py: Python<'_>, error: &PyErr) -> bool {
    unstorable_class(py).is_ok_and(|class| error.is_instance(py, class.as_any()))
}
