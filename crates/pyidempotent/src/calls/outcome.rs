//! [`Outcome`]: how a run ended.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::boundary::once::intern;

/// How a run ended, as the ``settle`` hook sees it.
///
/// Parameters:
///     value: what it returned; ``None`` where it raised.
///     exception: what it raised, if it did.
///     status: the HTTP status of its answer, where it has one.
///
/// >>> from pyidempotent import Outcome
/// >>> Outcome(value=42, status=201)
/// Outcome(value=42, exception=None, status=201)
#[pyclass(frozen, get_all, module = "pyidempotent")]
pub struct Outcome {
    pub value: Py<PyAny>,
    pub exception: Py<PyAny>,
    pub status: Option<u16>,
}

impl Outcome {
    pub fn of_value(value: Bound<'_, PyAny>) -> Self {
        Self { exception: value.py().None(), value: value.unbind(), status: None }
    }

    pub fn of_exception(exception: Bound<'_, PyAny>) -> Self {
        Self { value: exception.py().None(), exception: exception.unbind(), status: None }
    }

    /// The exception, if there is one.
    pub fn raised<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyAny>> {
        Some(self.exception.bind(py)).filter(|exception| !exception.is_none())
    }

    fn parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        (&self.value, &self.exception, self.status).into_pyobject(py)
    }
}

#[pymethods]
impl Outcome {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("value", "exception", "status")
    }

    #[new]
    #[pyo3(signature = (value=None, exception=None, status=None))]
    fn new(py: Python<'_>, value: Option<Py<PyAny>>, exception: Option<Py<PyAny>>, status: Option<u16>) -> Self {
        let none = |part: Option<_>| part.unwrap_or_else(|| py.None());
        Self { value: none(value), exception: none(exception), status }
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        match other.cast_exact::<Self>() {
            Ok(other) => self.parts(py)?.eq(other.get().parts(py)?),
            Err(_) => Ok(false),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let format = intern!(py, "Outcome(value={!r}, exception={!r}, status={!r})");
        format.call_method1(intern!(py, "format"), self.parts(py)?)?.extract()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.value)?;
        visit.call(&self.exception)
    }
}
