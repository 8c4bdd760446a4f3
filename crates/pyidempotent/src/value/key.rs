//! Keys as text.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString, PyType};

use crate::boundary::errors;
use crate::boundary::once::Once;

/// A key as text: a str, an int in decimal digits, or a UUID in its usual form (RFC 9562, section 4).
///
/// Parameters:
///     key: the key.
///     what: what it is, for a message.
///
/// Raises:
///     IdempotencyKeyInvalid: for anything else.
#[pyfunction]
#[pyo3(signature = (key, what, /))]
pub fn key_text<'py>(key: &Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyString>> {
    text_of(key, || what.to_owned())
}

pub fn text_of<'py>(key: &Bound<'py, PyAny>, what: impl FnOnce() -> String) -> PyResult<Bound<'py, PyString>> {
    static UUID: Once<Py<PyType>> = Once::new();
    let py = key.py();
    if let Ok(text) = key.cast::<PyString>() {
        return Ok(text.clone());
    }
    // Of a bool or a float nobody means what it would become.
    if key.is_instance_of::<PyInt>() && !key.is_instance_of::<PyBool>() {
        return py.get_type::<PyInt>().call1((key,))?.str(); // of an enum the number
    }
    if key.is_instance(UUID.import(py, "uuid", "UUID")?)? {
        return key.str();
    }
    let what = what();
    let message = format!("{what} must be a str, an int or a UUID, not {}", key.get_type().qualname()?);
    Err(errors::refusal(py, "IdempotencyKeyInvalid", (message,), None))
}
