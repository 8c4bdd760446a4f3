//! [`Capture`], for Python: of ASGI's messages and of WSGI's parts.

use idempotency::http;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString, PyTuple};

use super::answer::Answer;
use super::convert::{bytes_of, frozen, is_bytes, is_of_a_message, latin_1, optional, pair_of};
use crate::boundary::once::intern;
use crate::calls::outcome::Outcome;

/// What is seen of an answer on its way out.
///
/// Parameters:
///     limit: the most bytes of a body that is kept.
///
/// >>> from pyidempotent._native import Capture
/// >>> seen = Capture(1000)
/// >>> seen.start(200, [(b"content-length", b"4")])
/// >>> seen.add(b"do"), seen.add(b"ne"), seen.outcome(None).value
/// (False, True, Answer(status=200, headers=[(b'content-length', b'4')], body=b'done'))
#[pyclass(module = "pyidempotent._native")]
pub struct Capture {
    seen: http::Capture<Py<PyBytes>>,
    /// A status that is none, as the application gave it.
    strange: Option<i64>,
    #[pyo3(get)]
    headers: Py<PyList>,
}

impl Capture {
    fn begin<'py>(
        &mut self,
        status: i64,
        headers: &Bound<'py, PyAny>,
        bytes: impl Fn(Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>>,
    ) -> PyResult<()> {
        // A copy: others may add headers to the very list, and will again on a replay.
        let copy = PyList::empty(headers.py());
        let mut length = None;
        for pair in headers.try_iter()? {
            let (name, value) = pair_of(pair?)?;
            let (name, value) = (bytes(name)?, bytes(value)?);
            if name.as_bytes().eq_ignore_ascii_case(b"content-length") {
                length = http::declared_length(value.as_bytes());
            }
            copy.append((name, value))?;
        }
        self.strange = if u16::try_from(status).is_err() { Some(status) } else { None };
        self.seen.start(status.try_into().unwrap_or_default(), length);
        self.headers = copy.unbind();
        Ok(())
    }

    /// What was seen; `None` where it has not started.
    fn answer(&self, py: Python<'_>) -> Option<Answer> {
        let status = self.status()?;
        let body = match self.seen.parts() {
            [whole] => whole.clone_ref(py),
            parts => {
                let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes(py)).collect();
                PyBytes::new(py, &parts.concat()).unbind()
            }
        };
        let cut = self.seen.cut().map(|cut| PyString::new(py, cut).unbind());
        Some(Answer { status, headers: self.headers.clone_ref(py), body, cut, whole: self.seen.is_whole() })
    }

    /// It is malformed. That is the application's error, not ours: the server will say so.
    fn spoil(&mut self) {
        if self.seen.status().is_none() {
            self.seen.start(0, None);
        }
        self.seen.cut_off("it is malformed");
    }

    fn begin_message(&mut self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = message.py();
        let status = message.get_item(intern!(py, "status"))?;
        let status = status.extract().or_else(|_| py.get_type::<PyInt>().call1((status,))?.extract())?;
        match optional(message, intern!(py, "headers"))? {
            Some(headers) => self.begin(status, &headers, frozen),
            None => self.begin(status, PyTuple::empty(py).as_any(), frozen),
        }
    }
}

/// Whether an ASGI message says so.
fn says(message: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    optional(message, name)?.map_or(Ok(false), |said| said.is_truthy())
}

#[pymethods]
impl Capture {
    #[new]
    fn new(py: Python<'_>, limit: usize) -> Self {
        Self { seen: http::Capture::new(limit), strange: None, headers: PyList::empty(py).unbind() }
    }

    /// Its status, once it has started.
    #[getter]
    fn status(&self) -> Option<i64> {
        self.strange.or(self.seen.status().map(i64::from))
    }

    /// Why it can't be kept, where it can't.
    #[getter]
    fn cut(&self) -> Option<&str> {
        self.seen.cut()
    }

    #[setter]
    fn set_cut(&mut self, why: String) {
        self.seen.cut_off(why);
    }

    /// It ended before its end.
    fn break_off(&mut self) {
        self.seen.break_off();
    }

    /// Its status and headers.
    ///
    /// Raises:
    ///     TypeError, ValueError: where they can be none.
    #[pyo3(signature = (status, headers, /))]
    fn start(&mut self, status: i64, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        self.begin(status, headers, frozen)
    }

    /// Its status and its headers in text, as WSGI has them.
    ///
    /// Raises:
    ///     TypeError, ValueError: where they can be none.
    #[pyo3(signature = (status, headers, /))]
    fn start_text(&mut self, status: i64, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        self.begin(status, headers, |text| latin_1(&text))
    }

    /// Its status and headers, of an ASGI message that may be malformed; whether its length is known, so that it does
    /// not stream.
    #[pyo3(signature = (message, /))]
    fn start_message(&mut self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = message.py();
        if says(message, intern!(py, "trailers"))? {
            // They come after its end.
            self.seen.cut_off("it has trailers");
        }
        match self.begin_message(message) {
            Err(error) if !is_of_a_message(py, &error) => return Err(error),
            Err(_) => self.spoil(),
            Ok(()) => {}
        }
        Ok(self.seen.is_short())
    }

    /// A part of its body, of an ASGI message; whether it is the one that ends the answer.
    #[pyo3(signature = (message, /))]
    fn add_message(&mut self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = message.py();
        let ends = match optional(message, intern!(py, "body"))? {
            None => self.add(PyBytes::new(py, b"").into_any())?,
            Some(body) if is_bytes(&body) => self.add(body)?,
            Some(_) => {
                self.spoil();
                return Ok(false);
            }
        };
        Ok(ends || !says(message, intern!(py, "more_body"))?)
    }

    /// A part of its body; whether that completes the declared length.
    #[pyo3(signature = (chunk, /))]
    fn add(&mut self, chunk: Bound<'_, PyAny>) -> PyResult<bool> {
        let chunk = bytes_of(chunk)?; // a copy: a buffer may be used again
        let size = chunk.as_bytes().len();
        Ok(self.seen.add(chunk.unbind(), size))
    }

    /// How the request ended: the answer as it was seen, if it has started, and what was raised, if anything was.
    #[pyo3(signature = (error, /))]
    fn outcome(&self, py: Python<'_>, error: Py<PyAny>) -> PyResult<Outcome> {
        Ok(Outcome { value: self.answer(py).into_py_any(py)?, exception: error, status: None })
    }
}
