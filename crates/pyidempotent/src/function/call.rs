//! [`FunctionCall`]: a call of a function that is protected as a function.

use std::sync::{Arc, OnceLock};

use idempotency::hex;
use idempotency::result_tags::{EXCEPTION, VALUE};
use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::plan::{KeySource, Plan, Values};
use crate::boundary::once::intern;
use crate::boundary::{errors, python};
use crate::calls::outcome::Outcome;
use crate::calls::site::Site;
use crate::value::digest::fingerprint_call;
use crate::value::encoding::{Classes, encode_value, unpack_value};
use crate::value::key::text_of;

/// A call of a function that is protected as a function: its arguments are the payload, its value the result.
#[pyclass(frozen, subclass, module = "pyidempotent._native")]
pub struct FunctionCall {
    plan: Py<Plan>,
    #[pyo3(get)]
    args: Py<PyTuple>,
    #[pyo3(get)]
    kwargs: Py<PyDict>,
    values: OnceLock<Values>,
    digest: OnceLock<[u8; 32]>,
}

impl FunctionCall {
    /// The decorated function's analysis, which Python has made.
    fn function<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.plan.get().function.bind(py)
    }

    pub fn site<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.plan.get().site.bind(py)
    }

    pub fn options(&self) -> &Py<Site> {
        &self.plan.get().options
    }

    fn bound_values(&self, py: Python<'_>) -> PyResult<&Values> {
        if let Some(values) = self.values.get() {
            return Ok(values);
        }
        let (args, kwargs) = (self.args.bind(py), self.kwargs.bind(py));
        let Some(values) = self.plan.get().bind(args, kwargs)? else {
            let signature = self.function(py).getattr("binding")?.getattr("signature")?;
            signature.call_method("bind", args, Some(kwargs))?; // raises, in Python's own words
            return Err(PyTypeError::new_err(format!("the arguments do not fit {signature}")));
        };
        Ok(self.values.get_or_init(|| values))
    }

    /// What a callable of the user's makes of the call; `option` is where it was given.
    fn selected<'py>(slf: &Bound<'py, Self>, option: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        slf.call_method1(intern!(slf.py(), "select"), (slf.get().function(slf.py()).getattr(option)?,))
    }

    pub fn digest(slf: &Bound<'_, Self>) -> PyResult<[u8; 32]> {
        let (py, call) = (slf.py(), slf.get());
        if let Some(digest) = call.digest.get() {
            return Ok(*digest);
        }
        let digest = match call.plan.get().has_fingerprint {
            true => {
                let made = PyDict::new(py);
                made.set_item("fingerprint", Self::selected(slf, intern!(py, "fingerprint"))?)?;
                fingerprint_call(py, &made)?.extract()?
            }
            false => call.plan.get().fingerprint(py, call.bound_values(py)?)?,
        };
        Ok(*call.digest.get_or_init(|| digest))
    }

    /// The classes that the return annotation names.
    fn classes<'a, 'py>(&'a self, py: Python<'py>) -> Classes<'a, 'py> {
        Classes::Of(self.function(py))
    }

    fn stored<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.call_method0(intern!(slf.py(), "stored_exceptions"))
    }

    /// The stored form of an end.
    pub fn packed(slf: &Bound<'_, Self>, outcome: &Outcome) -> PyResult<Arc<[u8]>> {
        let (py, call) = (slf.py(), slf.get());
        let classes = call.classes(py);
        if let Some(error) = outcome.raised(py) {
            let pack = python::pack_exception(py)?;
            let packed = pack.call1((error, classes.get(py)?, Self::stored(slf)?))?;
            return Ok(packed.cast::<PyBytes>()?.as_bytes().into());
        }
        let mut packed = Vec::with_capacity(128);
        packed.push(VALUE);
        match encode_value(packed, outcome.value.bind(py), classes) {
            Ok(packed) => Ok(packed.into()),
            Err(error) => Err(errors::unstorable(py, error)),
        }
    }

    /// The end that is stored.
    pub fn replayed(slf: &Bound<'_, Self>, payload: &[u8]) -> PyResult<Outcome> {
        let (py, call) = (slf.py(), slf.get());
        let classes = call.classes(py);
        if payload.first() == Some(&EXCEPTION) {
            let unpack = python::unpack_exception(py)?;
            let error = unpack.call1((PyBytes::new(py, payload), classes.get(py)?, Self::stored(slf)?))?;
            return Ok(Outcome::of_exception(error));
        }
        unpack_value(py, payload, classes).map(Outcome::of_value)
    }

    pub fn name<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.plan.get().name.bind(py)
    }
}

#[pymethods]
impl FunctionCall {
    /// A class derived from it may take more.
    #[new]
    #[pyo3(signature = (plan, args, kwargs, *_more))]
    fn new(
        plan: &Bound<'_, PyAny>,
        args: Py<PyTuple>,
        kwargs: Py<PyDict>,
        _more: &Bound<'_, PyTuple>,
    ) -> PyResult<Self> {
        let py = plan.py();
        let plan = plan.getattr(intern!(py, "native"))?.cast_into::<Plan>()?.unbind();
        Ok(Self::of(plan, args, kwargs))
    }

    /// Of a plan that is native already.
    #[staticmethod]
    #[pyo3(signature = (plan, args, kwargs, /))]
    fn of(plan: Py<Plan>, args: Py<PyTuple>, kwargs: Py<PyDict>) -> Self {
        Self { plan, args, kwargs, values: OnceLock::new(), digest: OnceLock::new() }
    }

    #[pyo3(signature = (_plan, _args, _kwargs))]
    fn __init__(&self, _plan: &Bound<'_, PyAny>, _args: &Bound<'_, PyAny>, _kwargs: &Bound<'_, PyAny>) {}

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.plan)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)?;
        self.values.get().into_iter().flatten().try_for_each(|value| visit.call(value))
    }

    #[getter(plan)]
    fn get_plan(&self, py: Python<'_>) -> Py<PyAny> {
        self.plan.get().function.clone_ref(py)
    }

    #[getter(site)]
    fn get_site(&self, py: Python<'_>) -> Py<PyAny> {
        self.plan.get().site.clone_ref(py)
    }

    /// The arguments given, by name.
    #[getter]
    fn bound<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.plan.get().named(py, self.bound_values(py)?)
    }

    /// What a callable of the user's may ask for, by name.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let defaults = self.function(py).getattr("binding")?.getattr("defaults")?;
        let values = defaults.cast_into::<PyDict>()?.copy()?;
        values.update(self.bound(py)?.as_mapping())?;
        Ok(values)
    }

    /// What a callable of the user's makes of the call.
    fn select<'py>(slf: &Bound<'py, Self>, selector: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let values = slf.call_method0(intern!(slf.py(), "values"))?;
        selector.call1((values, &slf.get().args, &slf.get().kwargs))
    }

    /// The key, as ``key=`` says.
    pub fn key<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyString>>> {
        let (py, call) = (slf.py(), slf.get());
        let plan = call.plan.get();
        let key = match plan.key {
            KeySource::Arguments => return Ok(Some(PyString::new(py, &hex(&Self::digest(slf)?)))),
            KeySource::Callable => Some(Self::selected(slf, intern!(py, "key"))?),
            KeySource::Parameter(index) => {
                plan.argument(call.bound_values(py)?, index).map(|value| value.bind(py).clone())
            }
            KeySource::Request => {
                let message = format!(
                    "{} got no request to take a key from; pass key=: a callable on its arguments, the name of a \
                     parameter, or pyidempotent.arguments",
                    plan.name
                );
                return Err(errors::refusal(py, "IdempotencyKeyMissing", (message,), None));
            }
        };
        let Some(key) = key.filter(|key| !key.is_none()) else { return Ok(None) };
        text_of(&key, || format!("the key of {}", plan.name)).map(Some)
    }

    /// As ``namespace=`` says, where it is a callable.
    pub fn namespace<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match slf.get().plan.get().has_namespace {
            true => Self::selected(slf, intern!(slf.py(), "namespace")).map(Some),
            false => Ok(None),
        }
    }

    /// The function's name.
    fn operation<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.name(py).clone()
    }

    /// Who calls, as ``scope=`` says.
    pub fn caller<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (py, call) = (slf.py(), slf.get());
        let plan = call.plan.get();
        if !plan.has_scope {
            return Ok(None);
        }
        if call.function(py).getattr("by_authorization")?.is_truthy()? {
            let message = format!("scope=by_authorization needs a request, and {} got none", plan.name);
            return Err(errors::refusal(py, "IdempotencyScopeMissing", (message,), None));
        }
        let caller = Self::selected(slf, intern!(py, "scope"))?;
        let bytes = python::caller_bytes(py)?.call1((caller,))?;
        Ok(Some(bytes.cast_into()?))
    }

    /// The digest of the arguments.
    fn fingerprint<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(slf.py(), &Self::digest(slf)?))
    }

    /// A function has none.
    fn body(&self) -> PyResult<()> {
        Err(PyAssertionError::new_err("the fingerprint of a function needs no body"))
    }

    /// As `body`.
    #[pyo3(signature = (body, /))]
    fn fingerprint_of(&self, body: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = body;
        self.body()
    }

    /// A value is stored; an exception releases the key, unless its type is stored.
    #[pyo3(signature = (outcome, /))]
    pub fn verdict(&self, py: Python<'_>, outcome: &Outcome) -> PyResult<&'static str> {
        let Some(error) = outcome.raised(py) else { return Ok("store") };
        if error.is_instance(&self.site(py).getattr("store_exceptions")?)? {
            return Ok("store");
        }
        let to_run_again = python::is_to_run_again(py)?;
        let function = self.function(py).getattr("function")?;
        Ok(if to_run_again.call1((error, function))?.is_truthy()? { "release" } else { "fail" })
    }

    /// A function has none.
    #[pyo3(signature = (outcome, /))]
    fn status(&self, outcome: &Outcome) -> Option<u16> {
        let _ = outcome;
        None
    }

    /// The value, or the exception.
    #[pyo3(signature = (outcome, /))]
    fn pack<'py>(slf: &Bound<'py, Self>, outcome: &Outcome) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(slf.py(), &Self::packed(slf, outcome)?))
    }

    /// A function has none.
    #[pyo3(signature = (outcome, /))]
    fn headers<'py>(&self, py: Python<'py>, outcome: &Outcome) -> Bound<'py, PyTuple> {
        let _ = outcome;
        PyTuple::empty(py)
    }

    /// The stored value or exception.
    #[pyo3(signature = (payload, /))]
    fn replay(slf: &Bound<'_, Self>, payload: &[u8]) -> PyResult<Outcome> {
        Self::replayed(slf, payload)
    }

    /// The exception types that a stored exception may be of, with their subclasses.
    fn stored_exceptions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.site(py).getattr("store_exceptions")
    }
}
