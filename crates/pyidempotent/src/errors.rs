//! Errors of the engine as the package's exceptions, which are Python classes.

use std::error::Error;

use idempotency::StoreError;
use pyo3::exceptions::PyConnectionError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// An exception of `pyidempotent.exceptions`, by name.
fn exception<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.import(py, "pyidempotent.exceptions", name)
}

/// A store's failure: `IdempotencyStoreUnavailable`, with what caused it as its cause.
pub fn store_error(py: Python<'_>, error: &StoreError) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let raised = match exception(py, &CLASS, "IdempotencyStoreUnavailable") {
        Ok(class) => PyErr::from_type(class.clone(), error.to_string()),
        Err(import) => return import,
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
