//! The engine's HTTP exchange: [`Answer`], what is seen of one ([`Capture`]), and the tables.

use idempotency::http::{self, REFUSALS};
use pyo3::exceptions::{PyKeyError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};

use crate::errors;
use crate::facts::optional;
use crate::outcome::Outcome;

/// The first byte of a stored answer; `pyidempotent._results` knows them all.
pub const ANSWER: u8 = b'R';

/// Statuses of answers that have no body (RFC 9110, section 6.4.1), and so no length.
const WITHOUT_BODY: [i64; 3] = [204, 205, 304];

/// A whole HTTP answer, as faces that see answers have it.
///
/// Parameters:
///     status: the status code.
///     headers: in order, as sent, duplicates and all.
///     body: the whole body.
///     cut: why it can't be kept, where it can't.
///     whole: whether it reached its end.
///
/// >>> from pyidempotent._native import Answer
/// >>> answer = Answer(201, [(b"x-a", b"1"), (b"date", b"now")], b"done")
/// >>> Answer.decode(answer.encode(False))
/// Answer(status=201, headers=[(b'x-a', b'1')], body=b'done')
#[pyclass(frozen, get_all, module = "pyidempotent._native")]
pub struct Answer {
    pub status: i64,
    headers: Py<PyList>,
    body: Py<PyBytes>,
    pub cut: Option<Py<PyString>>,
    pub whole: bool,
}

impl Answer {
    /// The wire form after what stands in `out`, without what is not stored.
    pub fn encode_into(&self, py: Python<'_>, store_set_cookie: bool, out: &mut Vec<u8>) -> PyResult<()> {
        let status = u16::try_from(self.status).map_err(|_| PyValueError::new_err("its status is none"))?;
        let headers: Vec<(PyBackedBytes, PyBackedBytes)> = self.headers.extract(py)?;
        if headers.len() > usize::from(u16::MAX) {
            return Err(PyValueError::new_err("it has more headers than can be told"));
        }
        let body = PyBackedBytes::from(self.body.bind(py).clone());
        if is_longer_than_declared(self.status, &headers, body.len()) {
            return Err(PyValueError::new_err("its body is longer than its Content-Length"));
        }
        http::Answer { status, headers, body }.without_transient(store_set_cookie).encode_into(out);
        Ok(())
    }

    fn decoded(stored: &[u8]) -> PyResult<http::Answer<&[u8]>> {
        http::Answer::decode(stored).ok_or_else(|| PyValueError::new_err("the stored answer is damaged"))
    }

    fn of<'py>(py: Python<'py>, answer: &http::Answer<&[u8]>) -> PyResult<(Bound<'py, PyList>, Self)> {
        let pair = |(name, value): &(&[u8], &[u8])| (PyBytes::new(py, name), PyBytes::new(py, value));
        let headers = PyList::new(py, answer.headers.iter().map(pair))?;
        let body = PyBytes::new(py, answer.body).unbind();
        let status = i64::from(answer.status);
        Ok((headers.clone(), Self { status, headers: headers.unbind(), body, cut: None, whole: true }))
    }
}

#[pymethods]
impl Answer {
    #[new]
    #[pyo3(signature = (status, headers, body, cut=None, whole=true))]
    fn new(
        status: i64,
        headers: &Bound<'_, PyAny>,
        body: Bound<'_, PyAny>,
        cut: Option<Py<PyString>>,
        whole: bool,
    ) -> PyResult<Self> {
        let lines = PyList::empty(headers.py());
        for pair in headers.try_iter()? {
            lines.append(line_of(pair?)?)?;
        }
        Ok(Self { status, headers: lines.unbind(), body: bytes_of(body)?.unbind(), cut, whole })
    }

    /// The wire form, without the headers that are not stored.
    #[pyo3(signature = (store_set_cookie, /))]
    fn encode<'py>(&self, py: Python<'py>, store_set_cookie: bool) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = vec![];
        self.encode_into(py, store_set_cookie, &mut out)?;
        Ok(PyBytes::new(py, &out))
    }

    /// What `encode` made.
    #[staticmethod]
    #[pyo3(signature = (stored, /))]
    fn decode(py: Python<'_>, stored: &[u8]) -> PyResult<Self> {
        Ok(Self::of(py, &Self::decoded(stored)?)?.1)
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(other) = other.cast_exact::<Self>() else { return Ok(false) };
        let parts =
            |answer: &Self| (answer.status, &answer.headers, &answer.body, &answer.cut, answer.whole).into_pyobject(py);
        parts(self)?.eq(parts(other.get())?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let format = intern!(py, "Answer(status={!r}, headers={!r}, body={!r})");
        format.call_method1(intern!(py, "format"), (self.status, &self.headers, &self.body))?.extract()
    }
}

/// The answer that is stored, marked as a replay.
///
/// Raises:
///     IdempotencyNotKept: where a function's value is stored, which only that function can make an answer of.
#[pyfunction]
#[pyo3(signature = (payload, /))]
pub fn replayed(py: Python<'_>, payload: &[u8]) -> PyResult<Answer> {
    let Some(stored) = payload.strip_prefix(&[ANSWER]) else {
        let said = "The first request with this key is done; its answer can't be repeated here.";
        return Err(errors::refusal(py, "IdempotencyNotKept", (said,), None));
    };
    let decoded = Answer::decoded(stored)?;
    let (headers, answer) = Answer::of(py, &decoded)?;
    let has_length = decoded.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
    if !has_length && !WITHOUT_BODY.contains(&answer.status) {
        // It came in pieces, or its server told the length; now it is known.
        let length = decoded.body.len().to_string();
        headers.append((PyBytes::new(py, b"content-length"), PyBytes::new(py, length.as_bytes())))?;
    }
    headers.append((PyBytes::new(py, http::REPLAYED.as_bytes()), PyBytes::new(py, b"true")))?;
    Ok(answer)
}

/// What becomes of the key after an answer of this status.
#[pyfunction]
#[pyo3(signature = (status, /))]
pub fn verdict_of(status: i64) -> &'static str {
    match u16::try_from(status) {
        Ok(status) if http::is_stored(status) => "store",
        Ok(500..) => "fail",
        Ok(_) => "release",
        Err(_) => "hold",
    }
}

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
    #[pyo3(get)]
    status: Option<i64>,
    #[pyo3(get)]
    headers: Py<PyList>,
    #[pyo3(get, set)]
    cut: Option<Py<PyString>>,
    #[pyo3(get, set)]
    broke_off: bool,
    limit: usize,
    length: Option<u64>,
    size: usize,
    chunks: Vec<Py<PyBytes>>,
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
                length = declared(value.as_bytes());
            }
            copy.append((name, value))?;
        }
        (self.status, self.headers, self.length) = (Some(status), copy.unbind(), length);
        Ok(())
    }

    fn has_no_body(&self) -> bool {
        self.status.is_some_and(|status| WITHOUT_BODY.contains(&status))
    }

    /// Whether its whole length is known from its start: it does not stream.
    fn is_short(&self) -> bool {
        self.length.is_some() || self.has_no_body()
    }

    /// What was seen; `None` where it has not started.
    fn answer(&self, py: Python<'_>) -> Option<Answer> {
        let status = self.status?;
        // A server breaks off an answer that is not as long as it said.
        let is_short = self.length.is_some_and(|length| (self.size as u64) < length) && !self.has_no_body();
        let body = match &self.chunks[..] {
            [whole] => whole.clone_ref(py),
            chunks => {
                let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.as_bytes(py)).collect();
                PyBytes::new(py, &chunks.concat()).unbind()
            }
        };
        let (headers, cut) = (self.headers.clone_ref(py), self.cut.as_ref().map(|cut| cut.clone_ref(py)));
        Some(Answer { status, headers, body, cut, whole: !(self.broke_off || is_short) })
    }

    /// It is malformed. That is the application's error, not ours: the server will say so.
    fn spoil(&mut self, py: Python<'_>) {
        self.status.get_or_insert(0);
        self.cut = Some(intern!(py, "it is malformed").clone().unbind());
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

fn is_bytes(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>()
}

/// Whether an error says that a message is malformed.
fn is_of_a_message(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyError>(py)
        || error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyOverflowError>(py)
}

/// The same, of what is bytes in some form: a number or a list of them is none.
fn bytes_of<'py>(bytes: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if !is_bytes(&bytes) {
        let kind = bytes.get_type().qualname()?;
        return Err(PyTypeError::new_err(format!("a body is bytes, not {kind}")));
    }
    frozen(bytes)
}

/// The same, of text that is latin-1.
pub fn latin_1<'py>(text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = text.py();
    match text.cast::<PyString>()?.to_str() {
        Ok(ascii) if ascii.is_ascii() => Ok(PyBytes::new(py, ascii.as_bytes())),
        _ => Ok(text.call_method1(intern!(py, "encode"), (intern!(py, "latin-1"),))?.cast_into()?),
    }
}

/// Name and value, of whatever a server or an application makes its pairs.
fn pair_of<'py>(pair: Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
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

/// Whether a body does not fit the length that is declared for it: no server can send that.
fn is_longer_than_declared(status: i64, headers: &[(PyBackedBytes, PyBackedBytes)], size: usize) -> bool {
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
    let length = length.and_then(|(_, value)| declared(value));
    length.is_some_and(|length| size as u64 > length) && !WITHOUT_BODY.contains(&status)
}

/// The number that a length declares; what is no number declares nothing, and what is too large for one the most.
pub fn declared(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX))
}

#[pymethods]
impl Capture {
    #[new]
    fn new(py: Python<'_>, limit: usize) -> Self {
        Self {
            status: None,
            headers: PyList::empty(py).unbind(),
            cut: None,
            broke_off: false,
            limit,
            length: None,
            size: 0,
            chunks: vec![],
        }
    }

    /// Its status and headers.
    ///
    /// Raises:
    ///     TypeError, ValueError: where they can be none.
    #[pyo3(signature = (status, headers, /))]
    fn start(&mut self, status: i64, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        self.begin(status, headers, frozen)
    }

    /// The same of headers in text, as WSGI has them.
    ///
    /// Raises:
    ///     TypeError, ValueError: where they can be none.
    #[pyo3(signature = (status, headers, /))]
    fn start_text(&mut self, status: i64, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        self.begin(status, headers, |text| latin_1(&text))
    }

    /// The same of an ASGI message, which may be malformed; whether its whole length is known: no stream.
    #[pyo3(signature = (message, /))]
    fn start_message(&mut self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = message.py();
        if says(message, intern!(py, "trailers"))? {
            // They come after its end.
            self.cut = Some(intern!(py, "it has trailers").clone().unbind());
        }
        match self.begin_message(message) {
            Err(error) if !is_of_a_message(py, &error) => return Err(error),
            Err(_) => self.spoil(py),
            Ok(()) => {}
        }
        Ok(self.is_short())
    }

    /// A part of its body, of an ASGI message; whether it is the one that ends the answer.
    #[pyo3(signature = (message, /))]
    fn add_message(&mut self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = message.py();
        let ends = match optional(message, intern!(py, "body"))? {
            None => self.add(PyBytes::new(py, b"").into_any())?,
            Some(body) if is_bytes(&body) => self.add(body)?,
            Some(_) => {
                self.spoil(py);
                return Ok(false);
            }
        };
        Ok(ends || !says(message, intern!(py, "more_body"))?)
    }

    /// A part of its body; whether that completes the declared length.
    #[pyo3(signature = (chunk, /))]
    fn add(&mut self, chunk: Bound<'_, PyAny>) -> PyResult<bool> {
        let py = chunk.py();
        let chunk = bytes_of(chunk)?; // a copy: a buffer may be used again
        self.size += chunk.as_bytes().len();
        if self.size > self.limit {
            let why = format!("it has more than {} bytes, which is max_response_bytes", self.limit);
            self.cut = Some(PyString::new(py, &why).unbind());
            self.chunks.clear();
        } else {
            self.chunks.push(chunk.unbind());
        }
        Ok(self.length.is_some_and(|length| self.size as u64 >= length))
    }

    /// How the request ended: the answer as it was seen, if it has started, and what was raised, if anything was.
    #[pyo3(signature = (error, /))]
    fn outcome(&self, py: Python<'_>, error: Py<PyAny>) -> PyResult<Outcome> {
        Ok(Outcome { value: self.answer(py).into_py_any(py)?, exception: error, status: None })
    }
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
