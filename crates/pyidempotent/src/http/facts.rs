//! [`Facts`]: a request, as far as it is known before its body.

use idempotency::http::{CALLERS, POSSIBLE_CALLERS, RequestFacts, canonical_json, declared_length, names_caller};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyList, PyString};
use pyo3::{PyTraverseError, PyVisit};

use super::convert::{Line, frozen, latin_1, line_of, optional};
use crate::boundary::once::{Once, intern};
use crate::boundary::stopping::Inside;
use crate::boundary::{errors, python};
use crate::calls::site::Site;

/// A request, as far as it is known before its body.
///
/// Parameters:
///     method: in upper case.
///     path: as the client sent it, still percent-encoded, without the query.
///     query: as the client sent it, without the ``?``.
///     headers: in order, names in lower case.
///
/// >>> from pyidempotent._native import Facts
/// >>> facts = Facts("POST", b"/pay", b"", [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-api-key", b"s")])
/// >>> facts.line(b"x-a"), facts.line(b"x-b"), facts.callers()
/// (b'1', b'', (['x-api-key'], []))
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Facts {
    #[pyo3(get)]
    method: Py<PyString>,
    #[pyo3(get)]
    path: Py<PyBytes>,
    #[pyo3(get)]
    query: Py<PyBytes>,
    headers: Headers,
}

enum Headers {
    /// Pairs of bytes, as ASGI has them.
    Lines(Py<PyAny>),
    /// WSGI's, where a server has joined the lines of one name by commas.
    Environ(Py<PyDict>),
}

/// From this size on, in bytes, a body is digested without the GIL.
const LARGE: usize = 1 << 18;

/// The headers that stand in an environ under a name of their own.
const OWN: [&str; 2] = ["CONTENT_TYPE", "CONTENT_LENGTH"];

/// Where a header stands in an environ.
fn environ_name(header: &[u8]) -> String {
    let name: String =
        header.iter().map(|byte| char::from(if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() })).collect();
    if OWN.contains(&name.as_str()) { name } else { format!("HTTP_{name}") }
}

impl Facts {
    /// Looks at the headers in order, until `seen` is done with them.
    fn each<'py>(py: Python<'py>, lines: &Py<PyAny>, mut seen: impl FnMut(Line<'py>) -> bool) -> PyResult<()> {
        for line in lines.bind(py).try_iter()? {
            if seen(line_of(line?)?) {
                break;
            }
        }
        Ok(())
    }

    fn of_name<'py>(&self, py: Python<'py>, name: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let mut found = vec![];
        match &self.headers {
            Headers::Lines(lines) => Self::each(py, lines, |(header, value)| {
                if header.as_bytes() == name {
                    found.push(value);
                }
                false
            })?,
            Headers::Environ(environ) => {
                if let Some(value) = environ.bind(py).get_item(environ_name(name))? {
                    found.push(latin_1(&value)?);
                }
            }
        }
        Ok(found)
    }

    fn first<'py>(&self, py: Python<'py>, name: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(self.of_name(py, name)?.into_iter().next())
    }

    /// Those of the names that the request has a header of.
    fn among(&self, py: Python<'_>, names: &[&'static str]) -> PyResult<Vec<&'static str>> {
        let mut found = vec![];
        for name in names {
            if self.first(py, name.as_bytes())?.is_some() {
                found.push(*name);
            }
        }
        Ok(found)
    }

    pub fn path<'py>(&self, py: Python<'py>) -> &Bound<'py, PyBytes> {
        self.path.bind(py)
    }

    pub fn method<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.method.bind(py)
    }

    /// The key in the header that a site names.
    pub fn key<'py>(&self, py: Python<'py>, site: &Site) -> PyResult<Option<Bound<'py, PyString>>> {
        let lines = self.of_name(py, &site.header)?;
        if lines.is_empty() {
            if site.required {
                let said = python::key_missing(py)?.call1((&site.key_header,))?;
                return Err(errors::refusal(py, "IdempotencyKeyMissing", (said,), None));
            }
            return Ok(None);
        }
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let key = site.format.parse(&lines).map_err(|error| errors::key_error(py, &error))?;
        Ok(Some(PyString::new(py, key.as_str())))
    }

    /// Whether the request carries a header that may say who calls.
    pub fn has_caller(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.headers {
            Headers::Lines(lines) => {
                let mut has = false;
                Self::each(py, lines, |(header, _)| {
                    let header = header.as_bytes();
                    has = names_caller(header) || POSSIBLE_CALLERS.iter().any(|name| name.as_bytes() == header);
                    has
                })?;
                Ok(has)
            }
            Headers::Environ(environ) => {
                let is_disjoint = intern!(py, "isdisjoint");
                Ok(!caller_names(py)?.call_method1(is_disjoint, (environ,))?.is_truthy()?)
            }
        }
    }

    pub fn digest(
        &self,
        py: Python<'_>,
        body: &[u8],
        content_type: Option<&[u8]>,
        by_json_body: bool,
    ) -> PyResult<[u8; 32]> {
        let told = match content_type {
            None => self.first(py, b"content-type")?,
            Some(_) => None,
        };
        let content_type = content_type.unwrap_or_else(|| told.as_ref().map_or(&[], |told| told.as_bytes()));
        let (method, path, query) = (self.method.to_str(py)?, self.path.as_bytes(py), self.query.as_bytes(py));
        let digest = || {
            let canonical = if by_json_body { canonical_json(content_type, body) } else { None };
            let body = canonical.as_deref().unwrap_or(body);
            RequestFacts { method, path, query, content_type, body }.fingerprint().0
        };
        // A large body takes longer than the GIL's interval: others run meanwhile.
        Ok(if body.len() < LARGE { digest() } else { py.detach(digest) })
    }
}

fn before_query(uri: Bound<'_, PyBytes>) -> Bound<'_, PyBytes> {
    match uri.as_bytes().iter().position(|byte| *byte == b'?') {
        Some(at) => PyBytes::new(uri.py(), &uri.as_bytes()[..at]),
        None => uri,
    }
}

/// Where the headers that may say who calls stand in an environ.
fn caller_names(py: Python<'_>) -> PyResult<&Bound<'_, PyFrozenSet>> {
    static NAMES: Once<Py<PyFrozenSet>> = Once::new();
    let names = NAMES.get_or_try_init(py, || {
        let names = CALLERS.iter().chain(&POSSIBLE_CALLERS).map(|name| environ_name(name.as_bytes()));
        let names: Vec<String> = names.collect();
        PyFrozenSet::new(py, names).map(Bound::unbind)
    })?;
    Ok(names.bind(py))
}

#[pymethods]
impl Facts {
    /// An environ may hold anything.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.headers {
            Headers::Lines(lines) => visit.call(lines),
            Headers::Environ(environ) => visit.call(environ),
        }
    }

    #[new]
    fn new(method: Py<PyString>, path: Py<PyBytes>, query: Py<PyBytes>, headers: Py<PyAny>) -> Self {
        Self { method, path, query, headers: Headers::Lines(headers) }
    }

    /// Of an ASGI scope.
    #[staticmethod]
    #[pyo3(signature = (scope, /))]
    fn of_scope(scope: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = scope.py();
        let _inside = Inside::enter(py)?;
        let path = match optional(scope, intern!(py, "raw_path"))? {
            Some(raw) if raw.is_truthy()? => before_query(frozen(raw)?),
            // Not every server tells it.
            _ => python::path_of_scope(py)?.call1((scope,))?.cast_into()?,
        };
        let query = match optional(scope, intern!(py, "query_string"))? {
            Some(query) => frozen(query)?,
            None => PyBytes::new(py, b""),
        };
        Ok(Self {
            method: scope.get_item(intern!(py, "method"))?.cast_into()?.unbind(),
            path: path.unbind(),
            query: query.unbind(),
            headers: Headers::Lines(scope.get_item(intern!(py, "headers"))?.unbind()),
        })
    }

    /// Of a WSGI environ, whose headers are looked up, instead of listed for every request.
    ///
    /// Parameters:
    ///     environ: the environ.
    ///     path: in the place of its own.
    ///     query: likewise.
    #[staticmethod]
    #[pyo3(signature = (environ, path=None, query=None, /))]
    fn of_environ(
        environ: &Bound<'_, PyDict>,
        path: Option<Bound<'_, PyBytes>>,
        query: Option<Bound<'_, PyBytes>>,
    ) -> PyResult<Self> {
        let py = environ.py();
        let _inside = Inside::enter(py)?;
        let path = match path {
            Some(path) => path,
            // A proxy's form of it, with the host, and what a server does not tell are for more words.
            None => match environ.get_item(intern!(py, "RAW_URI"))? {
                Some(uri) if uri.cast::<PyString>()?.to_str().is_ok_and(|uri| uri.starts_with('/')) => {
                    before_query(latin_1(&uri)?)
                }
                _ => python::path_of_environ(py)?.call1((environ,))?.cast_into()?,
            },
        };
        let query = match (query, environ.get_item(intern!(py, "QUERY_STRING"))?) {
            (Some(query), _) => query,
            (None, Some(query)) => latin_1(&query)?,
            (None, None) => PyBytes::new(py, b""),
        };
        Ok(Self {
            method: environ.as_any().get_item(intern!(py, "REQUEST_METHOD"))?.cast_into()?.unbind(),
            path: path.unbind(),
            query: query.unbind(),
            headers: Headers::Environ(environ.clone().unbind()),
        })
    }

    /// The headers, in order.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        match &self.headers {
            Headers::Lines(lines) => {
                for line in lines.bind(py).try_iter()? {
                    list.append(line?)?;
                }
            }
            Headers::Environ(environ) => {
                for (name, value) in environ.bind(py) {
                    let name = name.extract::<String>()?;
                    let own = OWN.contains(&name.as_str()) && value.is_truthy()?;
                    if let Some(name) = name.strip_prefix("HTTP_").or(own.then_some(&name)) {
                        let name = name.replace('_', "-").to_lowercase();
                        list.append((PyBytes::new(py, name.as_bytes()), latin_1(&value)?))?;
                    }
                }
            }
        }
        Ok(list)
    }

    /// The first line of a header, or nothing.
    #[pyo3(signature = (name, /))]
    fn line<'py>(&self, py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(self.first(py, name)?.unwrap_or_else(|| PyBytes::new(py, b"")))
    }

    /// The names of the headers that say who calls, and of those that may.
    fn callers(&self, py: Python<'_>) -> PyResult<(Vec<&'static str>, Vec<&'static str>)> {
        Ok((self.among(py, &CALLERS)?, self.among(py, &POSSIBLE_CALLERS)?))
    }

    /// The key in the header that a site names.
    ///
    /// Raises:
    ///     IdempotencyKeyMissing: where it is required and not there.
    ///     IdempotencyKeyInvalid: where it is malformed, required or not.
    #[pyo3(name = "key", signature = (site, /))]
    fn key_for<'py>(&self, site: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyString>>> {
        self.key(site.py(), Site::of(site)?.get())
    }

    /// Refuses a body whose declared length is over the limit, before it is read.
    ///
    /// Raises:
    ///     IdempotencyPayloadTooLarge: where it is.
    #[pyo3(signature = (limit, /))]
    pub fn refuse_declared(&self, py: Python<'_>, limit: u64) -> PyResult<()> {
        let length = self.first(py, b"content-length")?.and_then(|length| declared_length(length.as_bytes()));
        if length.is_some_and(|length| length > limit) {
            return Err(PyErr::from_value(python::too_large(py)?.call1((limit,))?));
        }
        Ok(())
    }

    /// The digest of the request.
    ///
    /// Parameters:
    ///     body: the whole body.
    ///     content_type: in the place of the header's.
    ///     by_json_body: whether a JSON body is compared by what it says (RFC 8785).
    #[pyo3(signature = (body, content_type=None, by_json_body=false, /))]
    fn fingerprint<'py>(
        &self,
        py: Python<'py>,
        body: &[u8],
        content_type: Option<&[u8]>,
        by_json_body: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.digest(py, body, content_type, by_json_body)?))
    }
}

/// The caller by an ``Authorization`` header: a digest of it.
#[pyfunction]
#[pyo3(signature = (header, /))]
pub fn authorization_caller(header: &str) -> String {
    idempotency::http::authorization_caller(header)
}
