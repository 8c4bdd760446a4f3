//! [`Console`]: the operator's page, for servers in Python.

use idempotency::console::{self, MAX_BODY, Request};
use idempotency::http::Answer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary::runtime::block_on;
use crate::boundary::{bridge, errors};
use crate::stores::backend::Backend;

/// The operator's page over a backend.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Console {
    backend: Py<Backend>,
}

/// The attributes of a Python object that says what a server has received.
#[derive(FromPyObject)]
struct Asked {
    method: String,
    path: String,
    query: String,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    mount: String,
    is_secure: bool,
    is_allowed: bool,
    who: Option<String>,
    may_change: bool,
}

impl Asked {
    async fn answer(self, console: console::Console) -> Answer {
        let mut request = Request::new(&self.method, &self.path, &self.query);
        request.headers = self.headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        request.body = &self.body;
        request.mount = &self.mount;
        request.is_secure = self.is_secure;
        request.who = self.who.as_deref();
        request.may_change = self.may_change;
        if self.is_allowed { console.answer(&request).await } else { console::Console::forbidden(&request) }
    }
}

fn shown(py: Python<'_>, answer: Answer) -> PyResult<Bound<'_, PyAny>> {
    let bytes = |part: &[u8]| PyBytes::new(py, part);
    let headers: Vec<_> = answer.headers.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
    Ok((answer.status, headers, bytes(&answer.body)).into_pyobject(py)?.into_any())
}

impl Console {
    fn of_this_process(&self, py: Python<'_>) -> PyResult<console::Console> {
        let engine = self.backend.get().engine().map_err(|error| errors::store_error(py, &error))?;
        Ok(console::Console::new(engine.clone()))
    }
}

#[pymethods]
impl Console {
    /// The most bytes of a form.
    #[classattr]
    const MAX_BODY: usize = MAX_BODY;

    #[new]
    fn new(backend: Py<Backend>) -> Self {
        Self { backend }
    }

    /// The status, headers and body of the answer.
    fn answer<'py>(&self, py: Python<'py>, request: Asked) -> PyResult<Bound<'py, PyAny>> {
        let answer = block_on(py, request.answer(self.of_this_process(py)?))?;
        shown(py, answer)
    }

    /// A future of the running loop with the status, headers and body of the answer.
    fn answer_later<'py>(&self, py: Python<'py>, request: Asked) -> PyResult<Bound<'py, PyAny>> {
        bridge::submit(py, request.answer(self.of_this_process(py)?), shown)
    }
}
