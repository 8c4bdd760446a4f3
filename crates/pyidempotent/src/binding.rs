//! Arguments by name, and their fingerprint: what happens on every call, without a Python instruction.

use idempotency::Digest;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyString, PyTuple};

use crate::value::Encoder;

/// How a function's arguments get their names. Worked out once, by `pyidempotent._binding`.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Binding {
    positional: Vec<Py<PyString>>,
    keywords: Py<PyFrozenSet>,
    required: Vec<Py<PyString>>,
    rest: Option<Py<PyString>>,
    extra: Option<Py<PyString>>,
}

#[pymethods]
impl Binding {
    #[new]
    fn new(
        positional: Vec<Py<PyString>>,
        keywords: Py<PyFrozenSet>,
        required: Vec<Py<PyString>>,
        rest: Option<Py<PyString>>,
        extra: Option<Py<PyString>>,
    ) -> Self {
        Self { positional, keywords, required, rest, extra }
    }

    /// The arguments given, by name, without the defaults. `None`: the call does not fit.
    fn bind<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let bound = PyDict::new(py);
        for (name, value) in self.positional.iter().zip(args) {
            bound.set_item(name, value)?;
        }
        let keywords = self.keywords.bind(py);
        if !kwargs.is_empty() {
            let extra = PyDict::new(py);
            for (name, value) in kwargs {
                match keywords.contains(&name)? {
                    true if !bound.contains(&name)? => bound.set_item(name, value)?,
                    false if self.extra.is_some() => extra.set_item(name, value)?,
                    _ => return Ok(None),
                }
            }
            if let (Some(name), false) = (&self.extra, extra.is_empty()) {
                bound.set_item(name, extra)?;
            }
        }
        // Only what was not given by position can be missing.
        for name in self.required.iter().skip(if kwargs.is_empty() { args.len().min(self.positional.len()) } else { 0 })
        {
            if !bound.contains(name)? {
                return Ok(None);
            }
        }
        match &self.rest {
            _ if args.len() <= self.positional.len() => Ok(Some(bound)),
            Some(name) => {
                bound.set_item(name, args.get_slice(self.positional.len(), args.len()))?;
                Ok(Some(bound))
            }
            None => Ok(None),
        }
    }
}

/// The fingerprint of a call's arguments, by name.
///
/// Not part of it: the names in `left_out`; an argument that is its default, so that adding a defaulted parameter breaks
/// no retry; and what can't be part of it, where `is_ignored` says that it is a framework's own.
#[pyfunction]
#[pyo3(signature = (arguments, defaults=None, left_out=None, is_ignored=None))]
pub fn fingerprint_call<'py>(
    py: Python<'py>,
    arguments: &Bound<'py, PyDict>,
    defaults: Option<&Bound<'py, PyDict>>,
    left_out: Option<&Bound<'py, PyFrozenSet>>,
    is_ignored: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let defaults = defaults.filter(|defaults| !defaults.is_empty());
    let left_out = left_out.filter(|names| !names.is_empty());
    let mut named = Vec::with_capacity(arguments.len());
    for (name, value) in arguments {
        if left_out.is_some_and(|names| names.contains(&name).unwrap_or(false)) {
            continue;
        }
        if let Some(default) = defaults.map(|defaults| defaults.get_item(&name)).transpose()?.flatten()
            && is_same(&value, &default)
        {
            continue;
        }
        let mut encoder = Encoder::canonical();
        match encoder.value(&value) {
            Ok(()) => named.push((name.extract::<String>()?, encoder.into_bytes())),
            Err(_)
                if is_ignored
                    .is_some_and(|ask| ask.call1((&value,)).is_ok_and(|yes| yes.is_truthy().unwrap_or(false))) => {}
            Err(error) => return Err(unfit(py, &name, error)),
        }
    }
    named.sort_unstable();
    let digest = named
        .iter()
        .fold(Digest::new("idempotency call 1"), |digest, (name, value)| digest.part(name.as_bytes()).part(value));
    Ok(PyBytes::new(py, &digest.finish()))
}

/// Whether an argument is its default, type and all. A comparison of the user's may do anything.
fn is_same(value: &Bound<'_, PyAny>, default: &Bound<'_, PyAny>) -> bool {
    value.is(default) || (value.get_type().is(default.get_type()) && value.eq(default).unwrap_or(false))
}

fn unfit(py: Python<'_>, name: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let raised = PyTypeError::new_err(format!(
        "the argument '{name}' can't be part of the fingerprint: {}; pass fingerprint=, a function of the \
         arguments that returns what tells two requests apart",
        error.value(py)
    ));
    raised.set_cause(py, Some(error));
    raised
}
