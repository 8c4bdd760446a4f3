//! The engine's HTTP exchange as plain functions.

use idempotency::KeyFormat;
use idempotency::http::{Answer, REFUSALS, RequestFacts};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors;

/// The key in the header's lines, as they came.
#[pyfunction]
pub fn parse_key(py: Python<'_>, lines: Vec<Vec<u8>>, strict: bool) -> PyResult<String> {
    let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    let format = if strict { KeyFormat::Strict } else { KeyFormat::Lenient };
    format.parse(&lines).map(|key| key.as_str().to_owned()).map_err(|error| errors::key_error(py, &error))
}

/// The fingerprint of a request.
#[pyfunction]
pub fn fingerprint_http<'py>(
    py: Python<'py>,
    method: &str,
    path: &[u8],
    query: &[u8],
    content_type: &[u8],
    body: &[u8],
) -> Bound<'py, PyBytes> {
    let facts = RequestFacts { method, path, query, content_type, body };
    PyBytes::new(py, &facts.fingerprint().0)
}

/// Whether an answer of this status is stored.
#[pyfunction]
pub fn is_stored(status: u16) -> bool {
    idempotency::http::is_stored(status)
}

/// The wire form of an answer, without its transient headers.
#[pyfunction]
pub fn encode_answer<'py>(
    py: Python<'py>,
    status: u16,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    store_set_cookie: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    if headers.len() > usize::from(u16::MAX) {
        return Err(PyValueError::new_err("it has more headers than can be told"));
    }
    Ok(PyBytes::new(py, &Answer { status, headers, body }.without_transient(store_set_cookie).encode()))
}

type Headers<'py> = Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>;

/// Status, headers and body of an encoded answer.
#[pyfunction]
pub fn decode_answer<'py>(py: Python<'py>, answer: &[u8]) -> PyResult<(u16, Headers<'py>, Bound<'py, PyBytes>)> {
    let answer = Answer::decode(answer).ok_or_else(|| PyValueError::new_err("the stored answer is damaged"))?;
    let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
    let headers = answer.headers.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
    Ok((answer.status, headers, bytes(&answer.body)))
}

/// Every refusal by its name: status, problem type, title, effect.
#[pyfunction]
pub fn refusals(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let table = PyDict::new(py);
    for refusal in REFUSALS {
        table.set_item(refusal.name, (refusal.status, refusal.problem_type(), refusal.title, refusal.effect))?;
    }
    Ok(table)
}
