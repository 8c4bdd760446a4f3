//! [`RequestCall`]: a request whose whole answer is stored, as its flow asks it.

use std::sync::Arc;

use idempotency::http::Fate;
use idempotency::result_tags::ANSWER;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::answer::{Answer, replayed, verdict_word};
use super::facts::Facts;
use crate::boundary::once::intern;
use crate::boundary::{errors, python};
use crate::calls::attempt::Operation;
use crate::calls::outcome::Outcome;
use crate::calls::site::Site;
use crate::value::digest::fingerprint_call;
use crate::value::key::text_of;

/// A request whose whole answer is stored. Faces derive from it: who the user is, they know.
#[pyclass(frozen, subclass, module = "pyidempotent._native")]
pub struct RequestCall {
    /// The `pyidempotent._http.routes.Plan` of its route, and its `Site`.
    #[pyo3(get)]
    plan: Py<PyAny>,
    #[pyo3(get)]
    site: Py<PyAny>,
    pub options: Py<Site>,
    #[pyo3(get)]
    facts: Py<Facts>,
    /// What the callables of the user's have said, if there are any.
    asked: Option<Py<PyDict>>,
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
        let asks = plan.getattr(intern!(py, "asked"))?.is_truthy()?;
        let asked = asks.then(|| PyDict::new(py).unbind());
        Ok(Self { plan: plan.clone().unbind(), site: site.unbind(), options, facts, asked })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.plan)?;
        visit.call(&self.site)?;
        visit.call(&self.options)?;
        visit.call(&self.facts)?;
        visit.call(&self.asked)
    }

    /// What the callables of the user's have said, by option.
    #[getter]
    fn asked<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        self.asked.as_ref().map_or_else(|| PyDict::new(py), |asked| asked.bind(py).clone())
    }

    /// The authenticated user that the framework itself knows, if it does.
    fn user(&self, py: Python<'_>) -> Py<PyAny> {
        py.None()
    }
}

/// What its flow asks.
impl RequestCall {
    fn said<'py>(&self, option: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = option.py();
        self.asked.as_ref().map_or(Ok(None), |asked| asked.bind(py).get_item(option))
    }

    /// The key in the header, or as ``key=`` says.
    pub fn key<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        let Some(key) = self.said(intern!(py, "key"))? else {
            return self.facts.get().key(py, self.options.get());
        };
        if key.is_none() {
            return Ok(None);
        }
        text_of(&key, || "what key= returns".to_owned()).map(Some)
    }

    /// As ``namespace=`` has said, if it was asked.
    pub fn namespace<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.said(intern!(py, "namespace"))
    }

    /// Method and path as the client sent it, or ``name=``.
    pub fn operation(&self, py: Python<'_>) -> PyResult<Operation> {
        let name = self.plan.bind(py).getattr(intern!(py, "name"))?;
        if name.is_truthy()? {
            return Ok(Operation::Call(name.cast_into::<PyString>()?.unbind()));
        }
        let facts = self.facts.get();
        Ok(Operation::Http(facts.method(py).clone().unbind(), facts.path(py).clone().unbind()))
    }

    /// Who calls: as ``scope=`` says, or the user that the framework knows, or nobody where nobody claims to be.
    pub fn caller<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (py, call) = (slf.py(), slf.get());
        let plan = call.plan.bind(py);
        if plan.getattr(intern!(py, "shared"))?.is_truthy()? {
            return Ok(None);
        }
        let who = || {
            let facts = call.facts.get();
            format!("{} {}", facts.method(py), String::from_utf8_lossy(facts.path(py).as_bytes()))
        };
        if let Some(found) = call.said(intern!(py, "scope"))? {
            // Without a word for the log where it says who.
            let who = if found.is_none() { who() } else { String::new() };
            let caller = python::caller_of(py)?.call1((plan, found, who))?;
            if !caller.is_none() {
                return Ok(Some(caller.cast_into()?));
            }
        }
        let user = slf.call_method0(intern!(py, "user"))?;
        if !user.is_none() {
            return Ok(Some(user.cast_into()?));
        }
        if call.facts.get().has_caller(py)? {
            python::anonymous_caller(py)?.call1((&call.facts, &call.site, who()))?;
        }
        Ok(None)
    }

    /// The digest of what ``fingerprint=`` has said, if it was asked. Otherwise the body comes first, which the
    /// application will want anyway.
    pub fn fingerprint(&self, py: Python<'_>) -> PyResult<Option<[u8; 32]>> {
        let Some(said) = self.said(intern!(py, "fingerprint"))? else { return Ok(None) };
        let asked = PyDict::new(py);
        asked.set_item(intern!(py, "fingerprint"), said)?;
        Ok(Some(fingerprint_call(py, &asked)?.extract()?))
    }

    /// The digest of the request.
    ///
    /// Parameters:
    ///     body: the whole body, or it and the content type in the place of the header's: ``(content_type, body)``.
    pub fn fingerprint_of(&self, body: &Bound<'_, PyAny>) -> PyResult<[u8; 32]> {
        let (py, facts) = (body.py(), self.facts.get());
        let by_json_body = self.plan.bind(py).getattr(intern!(py, "by_json_body"))?.is_truthy()?;
        match body.cast::<PyBytes>() {
            Ok(body) => facts.digest(py, body.as_bytes(), None, by_json_body),
            Err(_) => {
                let (content_type, body): (Bound<'_, PyBytes>, Bound<'_, PyBytes>) = body.extract()?;
                facts.digest(py, body.as_bytes(), Some(content_type.as_bytes()), by_json_body)
            }
        }
    }

    /// By the status table. Without an answer the run failed; one that broke off leaves it unknown.
    ///
    /// Parameters:
    ///     refused: the status of a refusal that was met inside; 0: none.
    pub fn verdict(&self, py: Python<'_>, outcome: &Outcome, refused: u16) -> PyResult<&'static str> {
        let Some(answer) = value_of(outcome, py)? else {
            // Only what the work raised is a failure. Without an answer, nobody knows what it came to.
            return Ok(if outcome.raised(py).is_some() { "fail" } else { "hold" });
        };
        let answer = answer.get();
        // A refusal of ours, of a call inside, as the application's handler told it: nothing for a repeat.
        let is_told = refused != 0 && answer.status == i64::from(refused);
        let is_whole = outcome.raised(py).is_none() && answer.whole;
        let Ok(status) = u16::try_from(answer.status) else { return Ok("hold") };
        let mut looked = Ok(false);
        let fate = Fate::of_answer(status, is_whole, || {
            looked = if is_told { Ok(true) } else { answer.is_refusal(py) };
            *looked.as_ref().unwrap_or(&false)
        });
        looked.map(|_| verdict_word(fate))
    }

    /// The status that the client sees.
    pub fn status(&self, py: Python<'_>, outcome: &Outcome) -> PyResult<Option<u16>> {
        let Some(answer) = value_of(outcome, py)? else { return Ok(None) };
        Ok(Some(u16::try_from(answer.get().status)?))
    }

    /// The headers of the answer, where there is one.
    pub fn headers<'py>(&self, py: Python<'py>, outcome: &Outcome) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(value_of(outcome, py)?.map(|answer| answer.get().headers.bind(py).clone().into_any()))
    }

    /// The answer, without what is not stored.
    pub fn pack(&self, py: Python<'_>, outcome: &Outcome) -> PyResult<Arc<[u8]>> {
        let Some(answer) = value_of(outcome, py)? else {
            return Err(errors::unstorable(py, PyValueError::new_err("there is no answer")));
        };
        if let Some(cut) = &answer.get().cut {
            return Err(errors::unstorable(py, PyValueError::new_err(cut.clone_ref(py))));
        }
        let mut packed = vec![ANSWER];
        match answer.get().encode_into(py, self.options.get().store_set_cookie, &mut packed) {
            Ok(()) => Ok(packed.into()),
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
    pub fn replay(py: Python<'_>, payload: &[u8]) -> PyResult<Outcome> {
        Ok(Outcome::of_value(Bound::new(py, replayed(py, payload)?)?.into_any()))
    }
}
