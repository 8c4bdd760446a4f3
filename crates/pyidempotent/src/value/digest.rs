//! Digests of arguments, by their canonical form.

use idempotency::Digest;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::encoding::Encoder;

/// The fingerprint of values that have names, as if they were a call's arguments.
#[pyfunction]
pub fn fingerprint_call<'py>(py: Python<'py>, arguments: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyBytes>> {
    let mut named = Vec::with_capacity(arguments.len());
    for (name, value) in arguments {
        let mut encoded = vec![];
        canonical(&value, &mut encoded).map_err(|error| unfit(py, &name, error))?;
        named.push((name.extract::<String>()?, encoded));
    }
    named.sort_unstable();
    let digest = named.iter().fold(empty(), |digest, (name, encoded)| digest.part(name.as_bytes()).part(encoded));
    Ok(PyBytes::new(py, &digest.finish()))
}

/// A digest of no arguments.
pub fn empty() -> Digest {
    Digest::new("idempotency call 1")
}

/// Puts the canonical form of a value in the place of what was there.
pub fn canonical(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    out.clear();
    let mut encoder = Encoder::canonical(std::mem::take(out));
    encoder.value(value)?;
    *out = encoder.into_bytes();
    Ok(())
}

/// The error of an argument that can't be compared.
pub fn unfit(py: Python<'_>, name: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let raised = PyTypeError::new_err(format!(
        "the argument '{name}' can't be part of the fingerprint: {}; pass fingerprint=, a function of the \
         arguments that returns what tells two requests apart",
        error.value(py)
    ));
    raised.set_cause(py, Some(error));
    raised
}
