//! [`RequestCall`]: a request whose whole answer is stored, as its flow asks it.

use std::sync::atomic::{AtomicU16, Ordering};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::errors;
use crate::exchange::{ANSWER, Answer, replayed, verdict_of};
use crate::facts::Facts;
use crate::outcome::Outcome;
use crate::plan::fingerprint_call;
use crate::site::Site;

/// A request whose whole answer is stored. Faces derive from it: what a framework's request is like is theirs.
#[pyclass(frozen, subclass, module = "pyidempotent._native")]
pub struct RequestCall {
    /// The `pyidempotent._plan.Plan` of its route, and its `Site`.
    #[pyo3(get)]
    plan: Py<PyAny>,
    #[pyo3(get)]
    site: Py<PyAny>,
    pub options: Py<Site>,
    #[pyo3(get)]
    facts: Py<Facts>,
    /// What the callables of the user's have said, by option.
    #[pyo3(get)]
    asked: Py<PyDict>,
    /// The status of a refusal that was met inside; 0: none.
    refused: AtomicU16,
}

fn value_of<'py>(outcome: &'py Outcome, py: Python<'py>) -> PyResult<Option<&'py Bound<'py, Answer>>> {
    let value = outcome.value.bind(py);
    if value.is_none() { Ok(None) } else { Ok(Some(value.cast()?)) }
}

#[pymethods]
impl RequestCall {
    /// A class derived from it may take more.
    #[new]
    #[pyo3(signature = (plan, facts, *_more))]
    fn new(plan: &Bound<'_, PyAny>, facts: Py<Facts>, _more: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let py = plan.py();
        let site = plan.getattr(intern!(py, "site"))?;
        let options = Site::of(&site)?;
        let asked = PyDict::new(py).unbind();
        Ok(Self { plan: plan.clone().unbind(), site: site.unbind(), options, facts, asked, refused: AtomicU16::new(0) })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.plan)?;
        visit.call(&self.site)?;
        visit.call(&self.options)?;
        visit.call(&self.facts)?;
        visit.call(&self.asked)
    }

    /// The status of a refusal that was met inside.
    #[setter]
    fn set_refused(&self, status: Option<u16>) {
        self.refused.store(status.unwrap_or(0), Ordering::Relaxed);
    }

    /// The key in the header, or as ``key=`` says.
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        let Some(key) = self.asked.bind(py).get_item(intern!(py, "key"))? else {
            return self.facts.get().key(py, self.options.get());
        };
        if key.is_none() {
            return Ok(None);
        }
        key.cast_into().map(Some).or_else(|other| {
            let kind = other.into_inner().get_type().qualname()?;
            let said = format!("key= must return a str or None, not {kind}");
            Err(errors::refusal(py, "IdempotencyKeyInvalid", (said,), None))
        })
    }

    /// Method and path as the client sent it, or ``name=``.
    fn operation<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let name = self.plan.bind(py).getattr(intern!(py, "name"))?;
        if name.is_truthy()? {
            return Ok(name);
        }
        let facts = self.facts.get();
        Ok((facts.method(py), facts.path(py)).into_pyobject(py)?.into_any())
    }

    /// The authenticated user that the framework itself knows, if it does.
    fn user(&self, py: Python<'_>) -> Py<PyAny> {
        py.None()
    }

    /// Who calls: as ``scope=`` says, or the user that the framework knows, or nobody where nobody claims to be.
    fn caller<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        static CALLER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static ANONYMOUS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let (py, call) = (slf.py(), slf.get());
        let plan = call.plan.bind(py);
        if plan.getattr(intern!(py, "shared"))?.is_truthy()? {
            return Ok(None);
        }
        if let Some(found) = call.asked.bind(py).get_item(intern!(py, "scope"))? {
            let caller = CALLER.import(py, "pyidempotent._plan", "caller_of")?.call1((plan, found))?;
            if !caller.is_none() {
                return Ok(Some(caller.cast_into()?));
            }
        }
        let user = slf.call_method0(intern!(py, "user"))?;
        if !user.is_none() {
            return Ok(Some(user.cast_into()?));
        }
        if call.facts.get().has_caller(py)? {
            let who = format!(
                "{} {}",
                call.facts.get().method(py),
                String::from_utf8_lossy(call.facts.get().path(py).as_bytes())
            );
            ANONYMOUS.import(py, "pyidempotent._http", "anonymous_caller")?.call1((&call.facts, &call.site, who))?;
        }
        Ok(None)
    }

    /// The body comes first, which the application will want anyway.
    fn fingerprint(&self, py: Python<'_>) -> Py<PyAny> {
        py.None()
    }

    /// What has to be read.
    fn body<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let (py, call) = (slf.py(), slf.get());
        call.facts.get().refuse_declared(py, call.options.get().max_request_bytes)?;
        Ok(slf.clone())
    }

    /// The digest of the request, or as ``fingerprint=`` says.
    ///
    /// Parameters:
    ///     body: the whole body.
    ///     content_type: in the place of the header's.
    #[pyo3(signature = (body, content_type=None, /))]
    fn fingerprint_of<'py>(
        &self,
        py: Python<'py>,
        body: &[u8],
        content_type: Option<&[u8]>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        match self.asked.bind(py).get_item(intern!(py, "fingerprint"))? {
            None => Ok(PyBytes::new(py, &self.facts.get().digest(py, body, content_type)?)),
            Some(said) => {
                let asked = PyDict::new(py);
                asked.set_item(intern!(py, "fingerprint"), said)?;
                fingerprint_call(py, &asked)
            }
        }
    }

    /// By the status table. Without an answer the run failed; one that broke off leaves it unknown.
    #[pyo3(signature = (outcome, /))]
    fn verdict(&self, py: Python<'_>, outcome: &Outcome) -> PyResult<&'static str> {
        let Some(answer) = value_of(outcome, py)? else { return Ok("fail") };
        let answer = answer.get();
        let refused = i64::from(self.refused.load(Ordering::Relaxed));
        Ok(match outcome.raised(py).is_some() || !answer.whole {
            true => "hold",
            // A refusal of ours, of a call inside, as the application's handler told it: nothing for a repeat.
            false if refused != 0 && answer.status == refused => "release",
            false => verdict_of(answer.status),
        })
    }

    /// The status that the client sees.
    #[pyo3(signature = (outcome, /))]
    fn status(&self, py: Python<'_>, outcome: &Outcome) -> PyResult<Option<i64>> {
        Ok(value_of(outcome, py)?.map(|answer| answer.get().status))
    }

    /// The answer, without what is not stored.
    #[pyo3(signature = (outcome, /))]
    fn pack<'py>(&self, py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyBytes>> {
        let Some(answer) = value_of(outcome, py)? else {
            return Err(errors::unstorable(py, PyValueError::new_err("there is no answer")));
        };
        if let Some(cut) = &answer.get().cut {
            return Err(errors::unstorable(py, PyValueError::new_err(cut.clone_ref(py))));
        }
        let mut packed = vec![ANSWER];
        match answer.get().encode_into(py, self.options.get().store_set_cookie, &mut packed) {
            Ok(()) => Ok(PyBytes::new(py, &packed)),
            Err(error) if error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyValueError>(py) => {
                let said = format!("it is malformed: {}", error.value(py));
                let raised = errors::unstorable(py, PyValueError::new_err(said));
                raised.set_cause(py, Some(error));
                Err(raised)
            }
            Err(error) => Err(error),
        }
    }

    /// The stored answer, marked as a replay.
    #[pyo3(signature = (payload, /))]
    fn replay(&self, py: Python<'_>, payload: &[u8]) -> PyResult<Outcome> {
        Ok(Outcome::of_value(Bound::new(py, replayed(py, payload)?)?.into_any()))
    }
}
