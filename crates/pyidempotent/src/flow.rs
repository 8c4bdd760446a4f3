//! [`Flow`]: one protected call, from its key to its answer. The rules are only here, for every face, sync or async.
//!
//! A flow is told what came of its last step, and says what has to be done next, until it has ended:
//!
//! | step | what it is about | what it is told |
//! |---|---|---|
//! | `body` | what the call wants read | what was read |
//! | `wait` | a future of the running loop | its result |
//! | `run` | the attempt, or `None` for a run without a key | the `Outcome` |
//! | `end` | the `Outcome` of the call | |

use std::borrow::Cow;
use std::sync::Arc;

use idempotency::decide::Start;
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::events;
use idempotency::http::{Note, REFUSALS};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit, ffi};

use crate::boundary::begun;
use crate::boundary::once::{Once, intern};
use crate::boundary::runtime::{Answer, Mode};
use crate::boundary::stopping::Inside;
use crate::boundary::{errors, python};
use crate::calls::attempt::{Asked, Completion, CurrentAttempt, Operation};
use crate::calls::engine::Engine;
use crate::calls::outcome::Outcome;
use crate::calls::site::Site;
use crate::function::call::FunctionCall;
use crate::http::request::RequestCall;
use crate::value::encoding::{Classes, decode_value};

/// A call, as the flow asks it: directly where it is a request's or a plain function's, and otherwise by the methods of
/// `pyidempotent._calls.flow.Call`.
enum Call<'a, 'py> {
    Function(&'a Bound<'py, FunctionCall>),
    Request(&'a Bound<'py, RequestCall>),
    Other(&'a Bound<'py, PyAny>),
}

impl<'a, 'py> Call<'a, 'py> {
    fn new(call: &'a Bound<'py, PyAny>) -> Self {
        // A class derived from a function's may answer otherwise.
        if let Ok(call) = call.cast_exact() {
            Self::Function(call)
        } else if let Ok(call) = call.cast() {
            Self::Request(call)
        } else {
            Self::Other(call)
        }
    }

    fn options(&self) -> PyResult<Py<Site>> {
        match self {
            Self::Function(call) => Ok(call.get().options().clone_ref(call.py())),
            Self::Request(call) => Ok(call.get().options.clone_ref(call.py())),
            // It may have a site of its own.
            Self::Other(call) => Site::of(&call.getattr(intern!(call.py(), "site"))?),
        }
    }

    fn key(&self) -> PyResult<Option<Bound<'py, PyString>>> {
        match self {
            Self::Function(call) => FunctionCall::key(call),
            Self::Request(call) => call.get().key(call.py()),
            Self::Other(call) => call.call_method0(intern!(call.py(), "key"))?.extract().map_err(PyErr::from),
        }
    }

    fn namespace(&self) -> PyResult<Option<Py<PyString>>> {
        let said = match self {
            Self::Function(call) => FunctionCall::namespace(call)?,
            Self::Request(call) => call.get().namespace(call.py())?,
            Self::Other(call) => call.call_method0(intern!(call.py(), "namespace"))?.extract()?,
        };
        let text = |said: Bound<'py, PyAny>| {
            said.cast_into::<PyString>().map(Bound::unbind).map_err(|other| {
                let kind = other.into_inner().get_type().to_string();
                PyTypeError::new_err(format!("namespace= must return a str, not {kind}"))
            })
        };
        said.map(text).transpose()
    }

    fn operation(&self) -> PyResult<Operation> {
        match self {
            Self::Function(call) => Ok(Operation::Call(call.get().name(call.py()).clone().unbind())),
            Self::Request(call) => call.get().operation(call.py()),
            Self::Other(call) => call.call_method0(intern!(call.py(), "operation"))?.extract(),
        }
    }

    fn caller(&self) -> PyResult<Option<Bound<'py, PyBytes>>> {
        match self {
            Self::Function(call) => FunctionCall::caller(call),
            Self::Request(call) => RequestCall::caller(call),
            Self::Other(call) => call.call_method0(intern!(call.py(), "caller"))?.extract().map_err(PyErr::from),
        }
    }

    fn fingerprint(&self) -> PyResult<Option<[u8; 32]>> {
        match self {
            Self::Function(call) => FunctionCall::digest(call).map(Some),
            Self::Request(call) => call.get().fingerprint(call.py()),
            Self::Other(call) => call.call_method0(intern!(call.py(), "fingerprint"))?.extract(),
        }
    }

    fn body(&self) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Request(call) => Ok(call.as_any().clone()),
            _ => self.any().call_method0(intern!(self.any().py(), "body")),
        }
    }

    fn fingerprint_of(&self, body: &Bound<'py, PyAny>) -> PyResult<[u8; 32]> {
        match self {
            Self::Request(call) => call.get().fingerprint_of(body),
            _ => self.any().call_method1(intern!(body.py(), "fingerprint_of"), (body,))?.extract(),
        }
    }

    fn verdict(&self, outcome: &Bound<'py, Outcome>, running: &CurrentAttempt) -> PyResult<Cow<'static, str>> {
        match self {
            Self::Function(call) => call.get().verdict(call.py(), outcome.get()).map(Cow::Borrowed),
            Self::Request(call) => call.get().verdict(call.py(), outcome.get(), running.refused()).map(Cow::Borrowed),
            Self::Other(call) => {
                let word: String = call.call_method1(intern!(call.py(), "verdict"), (outcome,))?.extract()?;
                Ok(Cow::Owned(word))
            }
        }
    }

    fn status(&self, outcome: &Bound<'py, Outcome>) -> PyResult<Option<u16>> {
        match self {
            Self::Request(call) => call.get().status(call.py(), outcome.get()),
            _ => self.any().call_method1(intern!(outcome.py(), "status"), (outcome,))?.extract(),
        }
    }

    fn pack(&self, outcome: &Bound<'py, Outcome>) -> PyResult<Arc<[u8]>> {
        match self {
            Self::Function(call) => FunctionCall::packed(call, outcome.get()),
            Self::Request(call) => call.get().pack(call.py(), outcome.get()),
            Self::Other(call) => {
                let packed = call.call_method1(intern!(call.py(), "pack"), (outcome,))?;
                Ok(packed.cast::<PyBytes>()?.as_bytes().into())
            }
        }
    }

    /// What a repeat may know of an answer that could not be stored.
    fn note(&self, outcome: &Bound<'py, Outcome>) -> PyResult<Note> {
        let headers = match self {
            Self::Function(_) => return Ok(Note::default()),
            Self::Request(call) => call.get().headers(call.py(), outcome.get())?,
            Self::Other(call) => Some(call.call_method1(intern!(call.py(), "headers"), (outcome,))?),
        };
        let lines = headers.iter().flat_map(|headers| headers.try_iter()).flatten();
        let lines: Vec<(PyBackedBytes, PyBackedBytes)> = lines.map(|line| line?.extract()).collect::<PyResult<_>>()?;
        Ok(Note::of(self.status(outcome)?, lines.iter().map(|(name, value)| (&name[..], &value[..]))))
    }

    fn replay(&self, payload: &[u8]) -> PyResult<Bound<'py, Outcome>> {
        match self {
            Self::Function(call) => Bound::new(call.py(), FunctionCall::replayed(call, payload)?),
            Self::Request(call) => Bound::new(call.py(), RequestCall::replay(call.py(), payload)?),
            Self::Other(call) => {
                let payload = PyBytes::new(call.py(), payload);
                Ok(call.call_method1(intern!(call.py(), "replay"), (payload,))?.cast_into()?)
            }
        }
    }

    fn any(&self) -> &Bound<'py, PyAny> {
        match self {
            Self::Function(call) => call.as_any(),
            Self::Request(call) => call.as_any(),
            Self::Other(call) => call,
        }
    }
}

/// Where a protected call stands. It is told the call at every step instead of holding it: a call may hold its flow.
#[pyclass(module = "pyidempotent._native")]
pub struct Flow {
    options: Py<Site>,
    at: At,
    /// What a repeat asked for, once it has its result.
    replayed: Option<Asked>,
    /// Of whoever traces calls: it ends with the flow.
    #[pyo3(get, set)]
    span: Option<Py<PyAny>>,
    /// What became of the attempt.
    ended: Option<&'static str>,
}

/// What the flow waits to be told.
enum At {
    Start,
    Body(Asked),
    Claim(Asked, [u8; 32]),
    /// The end of a run without a key.
    Unprotected,
    Run(Py<CurrentAttempt>),
    Settle(Py<Outcome>, Py<CurrentAttempt>),
    End,
}

/// A step and what it is about.
type Step<'py> = (&'py Bound<'py, PyString>, Bound<'py, PyAny>);

/// The whole of a protected call, at its start.
#[pyfunction]
#[pyo3(signature = (call, /))]
pub fn protect(call: &Bound<'_, PyAny>) -> PyResult<Flow> {
    Ok(Flow { options: Call::new(call).options()?, at: At::Start, replayed: None, span: None, ended: None })
}

#[pymethods]
impl Flow {
    /// The next step on this thread: the store is waited for inside.
    #[pyo3(signature = (call, told, /))]
    fn step<'py>(&mut self, call: &Bound<'py, PyAny>, told: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
        let _inside = Inside::enter(call.py())?;
        self.next_named(&Call::new(call), told, Mode::Sync)
    }

    /// The next step in the running loop.
    #[pyo3(signature = (call, told, /))]
    fn step_async<'py>(&mut self, call: &Bound<'py, PyAny>, told: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
        let _inside = Inside::enter(call.py())?;
        self.next_named(&Call::new(call), told, Mode::Async)
    }

    /// Takes note of a refusal that was raised while the flow waited for its caller: it is told what the call is about.
    #[pyo3(signature = (call, refusal, /))]
    fn refused(&self, call: &Bound<'_, PyAny>, refusal: &Bound<'_, PyAny>) {
        let asked = match &self.at {
            At::Body(asked) | At::Claim(asked, _) => Some(asked),
            _ => None,
        };
        self.name(&Call::new(call), asked, refusal);
    }

    /// What is done, the record's short id once it is known that there is one, and what became of the attempt. What can't
    /// be found out is `None`.
    #[pyo3(signature = (call, /))]
    fn about(&self, call: &Bound<'_, PyAny>) -> (Option<String>, Option<String>, Option<&'static str>) {
        let (py, call) = (call.py(), Call::new(call));
        let operation = call.operation().ok().map(|operation| operation.words(py));
        let record = match (&self.at, &self.replayed) {
            (At::Run(running) | At::Settle(_, running), _) => Some(running.get().record_id()),
            (_, Some(asked)) => self.engine(&call).ok().and_then(|engine| engine.get().record_id(py, asked)),
            _ => None,
        };
        (operation, record, self.ended)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.options)?;
        visit.call(&self.span)?;
        match &self.at {
            At::Settle(outcome, _) => visit.call(outcome),
            _ => Ok(()),
        }
    }
}

/// What a stored note says, as parameters of `IdempotencyNotKept`.
fn noted<'py>(py: Python<'py>, stored: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let Some(note) = Note::decode(stored) else {
        // Until version 0.2 it was a value of Python's.
        return Ok(decode_value(py, stored, Classes::None)?.cast_into()?);
    };
    let parameters = PyDict::new(py);
    if let Some(status) = note.status {
        parameters.set_item(intern!(py, "answer_status"), status)?;
    }
    if let Some(location) = note.location {
        parameters.set_item(intern!(py, "location"), location)?;
    }
    Ok(parameters)
}

/// Why a call does not run, as one of the package's exceptions.
///
/// Parameters:
///     retry_after: the longest wait that a repeat is asked for, in seconds.
pub fn refused(py: Python<'_>, begun: &Begun, retry_after: f64) -> PyErr {
    let made = match begun {
        Begun::Mismatch => Ok(("IdempotencyConflict", None)),
        Begun::InFlight { lease_left } => {
            let parameters = PyDict::new(py);
            let wait = lease_left.as_secs_f64().min(retry_after);
            parameters.set_item("retry_after", wait).map(|()| ("IdempotencyProcessing", Some(parameters)))
        }
        Begun::NotKept(note) => noted(py, note).map(|note| ("IdempotencyNotKept", Some(note))),
        Begun::Unknown | Begun::Run(_) | Begun::Replay(_) => Ok(("IdempotencyUnknown", None)),
    };
    made.map_or_else(|error| error, |(class, parameters)| errors::refusal(py, class, (), parameters.as_ref()))
}

impl Flow {
    /// The next step. A refusal says what the call is about.
    fn next_named<'py>(&mut self, call: &Call<'_, 'py>, told: &Bound<'py, PyAny>, mode: Mode) -> PyResult<Step<'py>> {
        let py = told.py();
        self.next(call, told, mode).inspect_err(|error| {
            if errors::is_refusal(py, error) {
                self.name(call, None, error.value(py));
            }
        })
    }

    /// Says in a refusal what the call is about, and tells of one that no claim came to. What can't be found out is left
    /// out: the refusal itself is what its caller has to see.
    fn name(&self, call: &Call<'_, '_>, asked: Option<&Asked>, refusal: &Bound<'_, PyAny>) {
        let (py, engine) = (refusal.py(), self.engine(call).ok());
        let own;
        let operation = match asked {
            Some(asked) => Some(&asked.operation),
            None => {
                own = call.operation().ok();
                own.as_ref()
            }
        };
        let words = operation.map(|operation| operation.words(py));
        let set = |name: &Bound<'_, PyString>, value: Option<&str>| {
            if value.is_some() && refusal.getattr(name).is_ok_and(|set| set.is_none()) {
                drop(refusal.setattr(name, value));
            }
        };
        let is_first = refusal.getattr(intern!(py, "operation")).is_ok_and(|set| set.is_none());
        set(intern!(py, "operation"), words.as_deref());
        if let (Some(engine), Some(asked)) = (&engine, asked) {
            set(intern!(py, "record_id"), engine.get().record_id(py, asked).as_deref());
        }
        if !is_first {
            return;
        }
        let row = refusal.getattr(intern!(py, "name")).ok().and_then(|name| name.extract::<String>().ok());
        if let Some(row) = REFUSALS.iter().find(|refusal| Some(refusal.name) == row.as_deref()) {
            let store = engine.map_or("custom", |engine| engine.get().store_kind());
            events::refused(store, || words.as_deref().unwrap_or_default().into(), *row);
        }
    }

    fn next<'py>(&mut self, call: &Call<'_, 'py>, told: &Bound<'py, PyAny>, mode: Mode) -> PyResult<Step<'py>> {
        let py = told.py();
        match std::mem::replace(&mut self.at, At::End) {
            At::Start => {
                let Some(key) = call.key()? else {
                    if self.options.get().required {
                        let said = "key= gave None, and this operation needs a key; required=False lets a call without \
                                    one run unprotected";
                        return Err(errors::refusal(py, "IdempotencyKeyMissing", (said,), None));
                    }
                    self.at = At::Unprotected;
                    return Ok((intern!(py, "run"), py.None().into_bound(py)));
                };
                let (operation, caller) = (call.operation()?, call.caller()?.map(Bound::unbind));
                let asked = Asked { namespace: call.namespace()?, operation, caller, key: key.unbind() };
                match call.fingerprint()? {
                    Some(fingerprint) => self.claim(call, asked, fingerprint, mode),
                    None => {
                        self.at = At::Body(asked);
                        Ok((intern!(py, "body"), call.body()?))
                    }
                }
            }
            At::Body(asked) => self.claim(call, asked, call.fingerprint_of(told)?, mode),
            At::Claim(asked, fingerprint) => {
                let begun = told.cast::<begun::Begun>()?.get().take().ok_or_else(out_of_turn)?;
                self.begun(call, self.engine(call)?.get(), asked, fingerprint, begun, mode)
            }
            At::Unprotected => Ok((intern!(py, "end"), told.clone())),
            At::Run(running) => self.settle(call, running.bind(py), told.cast()?, mode),
            At::Settle(outcome, running) => {
                let replaced = told.cast::<PyBytes>().ok();
                self.end(call, outcome.bind(py), running.bind(py), replaced.map(|replaced| replaced.as_bytes()))
            }
            At::End => Err(out_of_turn()),
        }
    }

    fn engine<'py>(&self, call: &Call<'_, 'py>) -> PyResult<Bound<'py, Engine>> {
        let py = call.any().py();
        match &self.options.get().engine {
            Some(engine) => Ok(engine.bind(py).clone()),
            None => {
                let site = call.any().getattr(intern!(py, "site"))?;
                Ok(site.call_method0(intern!(py, "application_engine"))?.cast_into()?)
            }
        }
    }

    fn claim<'py>(
        &mut self,
        call: &Call<'_, 'py>,
        asked: Asked,
        fingerprint: [u8; 32],
        mode: Mode,
    ) -> PyResult<Step<'py>> {
        let py = call.any().py();
        let engine = self.engine(call)?;
        let begun = engine.get().begin(py, &asked, fingerprint, mode).inspect_err(|error| {
            if errors::is_refusal(py, error) {
                self.name(call, Some(&asked), error.value(py));
            }
        })?;
        self.claimed(call, engine.get(), asked, fingerprint, begun, mode)
    }

    fn claimed<'py>(
        &mut self,
        call: &Call<'_, 'py>,
        engine: &Engine,
        asked: Asked,
        fingerprint: [u8; 32],
        begun: Answer<'py, Begun>,
        mode: Mode,
    ) -> PyResult<Step<'py>> {
        match begun {
            Answer::Ready(begun) => self.begun(call, engine, asked, fingerprint, begun, mode),
            Answer::Later(future) => {
                self.at = At::Claim(asked, fingerprint);
                Ok((intern!(future.py(), "wait"), future))
            }
        }
    }

    fn begun<'py>(
        &mut self,
        call: &Call<'_, 'py>,
        engine: &Engine,
        asked: Asked,
        fingerprint: [u8; 32],
        begun: Begun,
        mode: Mode,
    ) -> PyResult<Step<'py>> {
        let py = call.any().py();
        match begun {
            Begun::Run(mut attempt) => {
                if attempt.start() == Start::AfterRenewal {
                    // This process stood still, or its loop was busy, for longer than the lease.
                    let begun = engine.begin_again(py, &asked, fingerprint, attempt, mode)?;
                    return self.claimed(call, engine, asked, fingerprint, begun, mode);
                }
                let (namespace, is_immediate) = (engine.namespace(py, &asked), engine.is_immediate());
                let running = Bound::new(py, CurrentAttempt::new(attempt, asked, namespace, is_immediate))?;
                self.at = At::Run(running.clone().unbind());
                Ok((intern!(py, "run"), running.into_any()))
            }
            Begun::Replay(result) => {
                let outcome = replayed(call, &result, || engine.who(py, &asked))?;
                self.replayed = Some(asked);
                Ok((intern!(py, "end"), outcome.into_any()))
            }
            begun => {
                let refusal = refused(py, &begun, self.options.get().retry_after);
                self.name(call, Some(&asked), refusal.value(py));
                Err(refusal)
            }
        }
    }

    fn settle<'py>(
        &mut self,
        call: &Call<'_, 'py>,
        running: &Bound<'py, CurrentAttempt>,
        outcome: &Bound<'py, Outcome>,
        mode: Mode,
    ) -> PyResult<Step<'py>> {
        let py = call.any().py();
        let instead = match is_awaitable(outcome.get().value.bind(py)) {
            true => Some(not_awaited(outcome.get().value.bind(py), running)?),
            false => None,
        };
        let outcome = instead.as_ref().unwrap_or(outcome);
        let verdict = match self.verdict(call, running.get(), outcome) {
            Ok(verdict) => verdict,
            Err(error) => {
                // A hook or a face of somebody's failed: nobody knows what this end means, and the work's own error
                // is not to be lost.
                running.get().settle_later(Verdict::Hold)?;
                self.ended = Some("held");
                if let Some(raised) = outcome.get().raised(py) {
                    error.value(py).setattr(intern!(py, "__context__"), raised)?;
                }
                return Err(error);
            }
        };
        self.ended = Some(match &verdict {
            Verdict::Complete(_) => "completed",
            Verdict::NotKept(_) => "not_kept",
            Verdict::Release => "released",
            Verdict::Hold => "held",
            _ => "failed",
        });
        let verdict = match (verdict, mode) {
            (verdict @ (Verdict::Complete(_) | Verdict::NotKept(_)), Mode::Sync) if is_django_there(py)? => {
                let completion = Bound::new(py, Completion::new(running.clone().unbind(), verdict))?;
                if waits_for_a_commit(&completion)? {
                    return self.end(call, outcome, running, None);
                }
                completion.get().take()?
            }
            (verdict, _) => verdict,
        };
        match running.get().settle(py, verdict, mode)? {
            Answer::Ready(Settled::Replaced(result)) => self.end(call, outcome, running, Some(&result)),
            Answer::Ready(_) => self.end(call, outcome, running, None),
            Answer::Later(future) => {
                self.at = At::Settle(outcome.clone().unbind(), running.clone().unbind());
                Ok((intern!(py, "wait"), future))
            }
        }
    }

    /// What becomes of the key, and what is stored.
    fn verdict<'py>(
        &self,
        call: &Call<'_, 'py>,
        running: &CurrentAttempt,
        outcome: &Bound<'py, Outcome>,
    ) -> PyResult<Verdict> {
        let py = outcome.py();
        if running.is_released() {
            return Ok(Verdict::Release);
        }
        let word = match self.asked_of_settle(call, outcome)? {
            Some(word) => Cow::Owned(word),
            None => call.verdict(outcome, running)?,
        };
        match &*word {
            "store" => {}
            "release" => return Ok(Verdict::Release),
            "hold" => return Ok(Verdict::Hold),
            "fail" => return Ok(Verdict::Fail),
            other => return Err(PyValueError::new_err(format!("there is no verdict {other:?}"))),
        }
        let limit = self.options.get().max_response_bytes;
        let (mut why, cause) = match call.pack(outcome).and_then(|payload| self.redacted(call, outcome, payload)) {
            Ok(payload) if payload.len() as u64 <= limit => return Ok(Verdict::Complete(payload)),
            Ok(payload) => (format!("it has {} bytes, and max_response_bytes is {limit}", payload.len()), None),
            Err(error) => (errors::reason(py, &error)?, Some(error).filter(|error| !errors::is_unstorable(py, error))),
        };
        let note = match call.note(outcome) {
            Ok(note) => note.encode(),
            Err(error) => {
                why = format!("{why}; nor can its status and location be: {}", errors::reason(py, &error)?);
                vec![]
            }
        };
        let message = format!("the result of {} is not kept, and a repeat gets 410: {why}", running.who(py));
        errors::log(py, &message, cause.as_ref())?;
        Ok(Verdict::NotKept(note.into()))
    }

    /// A stored form without what `redact=` takes out, if it is there.
    fn redacted<'py>(
        &self,
        call: &Call<'_, 'py>,
        outcome: &Bound<'py, Outcome>,
        payload: Arc<[u8]>,
    ) -> PyResult<Arc<[u8]>> {
        let py = outcome.py();
        let Some(redact) = &self.options.get().redact else { return Ok(payload) };
        // A request's call has no `pack` of its own, and none is asked for: its end is an answer.
        let pack = call.any().getattr_opt(intern!(py, "pack"))?;
        let left = python::redacted(py)?.call1((redact, PyBytes::new(py, &payload), outcome, pack))?;
        Ok(left.cast::<PyBytes>()?.as_bytes().into())
    }

    /// The word of the `settle=` hook, if it has one.
    fn asked_of_settle<'py>(&self, call: &Call<'_, 'py>, outcome: &Bound<'py, Outcome>) -> PyResult<Option<String>> {
        let py = outcome.py();
        let Some(settle) = &self.options.get().settle else { return Ok(None) };
        let settle = settle.bind(py);
        let status = call.status(outcome)?;
        let Outcome { value, exception, .. } = outcome.get();
        let seen = Outcome { value: value.clone_ref(py), exception: exception.clone_ref(py), status };
        let word = settle.call1((seen,))?;
        match word.extract::<Option<String>>() {
            Ok(word) if matches!(word.as_deref(), None | Some("store" | "release" | "hold")) => Ok(word),
            _ => Err(PyValueError::new_err(format!(
                "settle= must return 'store', 'release', 'hold' or None, not {}",
                word.repr()?
            ))),
        }
    }

    fn end<'py>(
        &mut self,
        call: &Call<'_, 'py>,
        outcome: &Bound<'py, Outcome>,
        running: &Bound<'py, CurrentAttempt>,
        replaced: Option<&[u8]>,
    ) -> PyResult<Step<'py>> {
        // Another attempt completed in this one's place: its answer is the one that every repeat gets.
        let outcome = match replaced {
            Some(result) => replayed(call, result, || Ok(running.get().who(running.py())))?,
            None => outcome.clone(),
        };
        Ok((intern!(outcome.py(), "end"), outcome.into_any()))
    }
}

/// The end that is stored. One that can't be made again here is told as not kept: its work is done, and nothing runs.
fn replayed<'py>(
    call: &Call<'_, 'py>,
    result: &[u8],
    who: impl FnOnce() -> PyResult<String>,
) -> PyResult<Bound<'py, Outcome>> {
    let py = call.any().py();
    call.replay(result).or_else(|error| {
        if errors::is_refusal(py, &error) {
            return Err(error);
        }
        let why = errors::reason(py, &error)?;
        errors::log(py, &format!("the stored result of {} can't be made again: {why}", who()?), None)?;
        let refusal = errors::refusal(py, "IdempotencyNotKept", (), None);
        refusal.set_cause(py, Some(error));
        Err(refusal)
    })
}

fn is_awaitable(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: it is a type, and the slot is one that CPython knows.
    !unsafe { ffi::PyType_GetSlot(value.get_type_ptr(), ffi::Py_am_await) }.is_null()
}

/// The end of work that has yet to be awaited.
#[cold]
fn not_awaited<'py>(value: &Bound<'py, PyAny>, running: &Bound<'py, CurrentAttempt>) -> PyResult<Bound<'py, Outcome>> {
    let end = python::not_awaited(value.py())?.call1((value, running))?;
    Ok(end.cast_into()?)
}

/// Whether a transaction of Django's may be open.
fn is_django_there(py: Python<'_>) -> PyResult<bool> {
    static MODULES: Once<Py<PyDict>> = Once::new();
    MODULES.import(py, "sys", "modules")?.contains(intern!(py, "django.db"))
}

fn waits_for_a_commit(completion: &Bound<'_, Completion>) -> PyResult<bool> {
    python::settle_on_commit(completion.py())?.call1((completion,))?.is_truthy()
}

fn out_of_turn() -> PyErr {
    PyRuntimeError::new_err("a flow is told what came of its last step, once, and ends once")
}
