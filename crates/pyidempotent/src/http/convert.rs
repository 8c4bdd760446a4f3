//! Bytes and pairs, of whatever form servers and applications give them.

use pyo3::exceptions::{PyKeyError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyMemoryView, PyString, PyTuple};

use crate::boundary::once::intern;

/// Bytes that nobody changes.
pub fn frozen<'py>(bytes: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    match bytes.cast_into_exact::<PyBytes>() {
        Ok(bytes) => Ok(bytes),
        Err(other) => {
            let other = other.into_inner();
            Ok(other.py().get_type::<PyBytes>().call1((other,))?.cast_into()?)
        }
    }
}

/// Name and value of a header's line.
pub type Line<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);

pub fn is_bytes(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>()
}

/// Whether an error says that a message is malformed.
pub fn is_of_a_message(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyError>(py)
        || error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyOverflowError>(py)
}

/// Bytes that nobody changes, of a `bytes`, a `bytearray` or a `memoryview`: a number is no body.
pub fn bytes_of<'py>(bytes: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if !is_bytes(&bytes) {
        let kind = bytes.get_type().qualname()?;
        return Err(PyTypeError::new_err(format!("a body is bytes, not {kind}")));
    }
    frozen(bytes)
}

/// Text that is Latin-1, as bytes.
pub fn latin_1<'py>(text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = text.py();
    match text.cast::<PyString>()?.to_str() {
        Ok(ascii) if ascii.is_ascii() => Ok(PyBytes::new(py, ascii.as_bytes())),
        _ => Ok(text.call_method1(intern!(py, "encode"), (intern!(py, "latin-1"),))?.cast_into()?),
    }
}

/// Name and value, of whatever a server or an application makes its pairs.
pub fn pair_of<'py>(pair: Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    match pair.cast_exact::<PyTuple>() {
        Ok(pair) => pair.extract(),
        Err(_) => pair.py().get_type::<PyTuple>().call1((pair,))?.extract(),
    }
}

/// A header's line.
pub fn line_of<'py>(pair: Bound<'py, PyAny>) -> PyResult<Line<'py>> {
    let (name, value) = pair_of(pair)?;
    Ok((frozen(name)?, frozen(value)?))
}

/// What a mapping has under a name.
pub fn optional<'py>(mapping: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
    match mapping.cast_exact::<PyDict>() {
        Ok(dict) => dict.get_item(name),
        Err(_) if mapping.contains(name)? => mapping.get_item(name).map(Some),
        Err(_) => Ok(None),
    }
}
