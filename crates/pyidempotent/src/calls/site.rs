//! [`Site`]: the options of a call site that its calls need.

use idempotency::KeyFormat;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::engine::Engine;
use crate::boundary::once::intern;

/// The options of a call site that its calls need: the half of `pyidempotent._options.Site` that needs no Python
/// instruction.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Site {
    /// The header's name as it is in a request's facts, and as it was given.
    pub header: Vec<u8>,
    pub key_header: String,
    pub format: KeyFormat,
    pub required: bool,
    pub settle: Option<Py<PyAny>>,
    pub retry_after: f64,
    pub max_request_bytes: u64,
    pub max_response_bytes: u64,
    pub store_set_cookie: bool,
    pub redact: Option<Py<PyAny>>,
    /// The engine with these options, if there is a backend.
    pub engine: Option<Py<Engine>>,
}

impl Site {
    /// That of a `pyidempotent._options.Site`.
    pub fn of(site: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        Ok(site.getattr(intern!(site.py(), "native"))?.cast_into()?.unbind())
    }
}

#[pymethods]
impl Site {
    #[new]
    #[pyo3(signature = (engine, *, key_header, strict, required, settle, retry_after, max_request_bytes, max_response_bytes, store_set_cookie, redact))]
    #[expect(clippy::too_many_arguments, reason = "all of it is checked by one caller")]
    fn new(
        engine: Option<Py<Engine>>,
        key_header: String,
        strict: bool,
        required: bool,
        settle: Option<Py<PyAny>>,
        retry_after: f64,
        max_request_bytes: u64,
        max_response_bytes: u64,
        store_set_cookie: bool,
        redact: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            header: key_header.to_ascii_lowercase().into_bytes(),
            key_header,
            format: if strict { KeyFormat::Strict } else { KeyFormat::Lenient },
            required,
            settle,
            retry_after,
            max_request_bytes,
            max_response_bytes,
            store_set_cookie,
            redact,
            engine,
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.settle)?;
        visit.call(&self.redact)
    }
}
