//! [`Answer`], for Python, and the tables.

use idempotency::http::{self, Fate, NotReplayable, Problem, REFUSALS, Refusal, Replay};
use idempotency::result_tags::{ANSWER, ENDPOINT_VALUE, EXCEPTION, VALUE};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyList, PyString, PyTuple};

use super::convert::{bytes_of, line_of};
use crate::boundary::convert::seconds;
use crate::boundary::errors;
use crate::boundary::once::intern;

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
    pub headers: Py<PyList>,
    pub body: Py<PyBytes>,
    pub cut: Option<Py<PyString>>,
    pub whole: bool,
}

impl Answer {
    /// The wire form after what stands in `out`, without what is not stored.
    pub fn encode_into(&self, py: Python<'_>, store_set_cookie: bool, out: &mut Vec<u8>) -> PyResult<()> {
        let status = u16::try_from(self.status).map_err(|_| PyValueError::new_err("its status is none"))?;
        let headers: Vec<(PyBackedBytes, PyBackedBytes)> = self.headers.extract(py)?;
        let body = PyBackedBytes::from(self.body.bind(py).clone());
        let stored = http::Answer { status, headers, body }.store_into(store_set_cookie, out);
        stored.map_err(|malformed| PyValueError::new_err(malformed.to_string()))
    }

    /// Whether it is a refusal of this library's that came from a service below.
    pub fn is_refusal(&self, py: Python<'_>) -> PyResult<bool> {
        for line in self.headers.bind(py) {
            let (name, value): (PyBackedBytes, PyBackedBytes) = line.extract()?;
            if name.eq_ignore_ascii_case(b"content-type") {
                return Ok(http::is_refusal(&value, self.body.as_bytes(py)));
            }
        }
        Ok(false)
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
    let replay = match Replay::of(payload) {
        Ok(replay) if replay.trailers.is_empty() => replay,
        Err(NotReplayable::Damaged) => return Err(PyValueError::new_err(NotReplayable::Damaged.to_string())),
        // Nor can the faces send trailers.
        _ => return Err(errors::refusal(py, "IdempotencyNotKept", (NotReplayable::Value.to_string(),), None)),
    };
    let (headers, answer) = Answer::of(py, &replay.answer)?;
    for (name, value) in replay.added_headers() {
        headers.append((PyBytes::new(py, name.as_bytes()), PyBytes::new(py, value.as_bytes())))?;
    }
    Ok(answer)
}

/// What becomes of the key after an answer of this status.
#[pyfunction]
#[pyo3(signature = (status, /))]
pub fn verdict_of(status: i64) -> &'static str {
    verdict_word(u16::try_from(status).map_or(Fate::Hold, Fate::of_status))
}

/// What becomes of a key, as a flow's verdict.
pub fn verdict_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Store => "store",
        Fate::Release => "release",
        Fate::Fail => "fail",
        Fate::Hold => "hold",
    }
}

/// Whether an answer is the problem document of a refusal: of this library in a service below, passed on.
///
/// >>> import json
/// >>> from pyidempotent import IdempotencyProcessing
/// >>> from pyidempotent._native import is_refusal
/// >>> is_refusal(b"application/problem+json", json.dumps(IdempotencyProcessing().problem()).encode())
/// True
#[pyfunction]
#[pyo3(signature = (content_type, body, /))]
pub fn is_refusal(content_type: &[u8], body: &[u8]) -> bool {
    http::is_refusal(content_type, body)
}

/// What a client is told whose body is over the limit, in bytes.
#[pyfunction]
#[pyo3(signature = (limit, /))]
pub fn too_large(limit: u64) -> String {
    Problem::payload_too_large(limit).detail
}

/// The constants of the rules.
pub fn add_constants(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("REPLAYED", PyBytes::new(py, http::REPLAYED.as_bytes()))?;
    module.add("SAFE_METHODS", PyFrozenSet::new(py, http::SAFE_METHODS)?)?;
    module.add("METHODS", PyFrozenSet::new(py, http::METHODS)?)?;
    let tags = [VALUE, ENDPOINT_VALUE, ANSWER, EXCEPTION].map(|tag| PyBytes::new(py, &[tag]));
    module.add("RESULT_TAGS", PyTuple::new(py, tags)?)
}

/// Every refusal by its name: status, effect, and what its client is told in words.
#[pyfunction]
pub fn refusals(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let table = PyDict::new(py);
    for refusal in REFUSALS {
        table.set_item(refusal.name, (refusal.status, refusal.effect, refusal.detail))?;
    }
    Ok(table)
}

/// The answer to a refusal (RFC 9457).
///
/// Parameters:
///     name: its row in the table.
///     detail: in words; None: those of the table.
///     retry_after: seconds after which a repeat makes sense, if one does.
///     parameters: members of the document beside the standard ones, as JSON.
///     instance: what was asked for: the path of the request.
///     docs: the URL of the service's own documentation of the refusals.
#[pyfunction]
pub fn problem(
    py: Python<'_>,
    name: &str,
    detail: Option<&Bound<'_, PyString>>,
    retry_after: Option<f64>,
    parameters: &str,
    instance: Option<&Bound<'_, PyString>>,
    docs: Option<&str>,
) -> PyResult<Answer> {
    let refusal = REFUSALS.iter().find(|refusal| refusal.name == name);
    let refusal = *refusal.ok_or_else(|| PyValueError::new_err(format!("there is no refusal {name:?}")))?;
    let retry_after = retry_after.map(|pause| seconds("retry_after", pause)).transpose()?;
    let told = match refusal {
        Refusal::STORE_UNAVAILABLE => Problem::store_unavailable(retry_after),
        _ => Problem { retry_after, ..refusal.into() },
    };
    let parameters = serde_json::from_str(parameters).map_err(|error| PyValueError::new_err(error.to_string()))?;
    // A client may send anything in a path.
    let detail = detail.map_or(told.detail.clone(), |detail| detail.to_string_lossy().into_owned());
    let instance = instance.map(|instance| instance.to_string_lossy());
    let answer = Problem { detail, parameters, ..told }.answer(instance.as_deref(), docs);
    let line = |(name, value): &(Vec<u8>, Vec<u8>)| (PyBytes::new(py, name), PyBytes::new(py, value));
    let headers = PyList::new(py, answer.headers.iter().map(line))?.unbind();
    let body = PyBytes::new(py, &answer.body).unbind();
    Ok(Answer { status: answer.status.into(), headers, body, cut: None, whole: true })
}
