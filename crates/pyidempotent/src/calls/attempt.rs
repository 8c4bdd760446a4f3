//! [`CurrentAttempt`]: a held claim, as the running code sees it and as its flow ends it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use idempotency::StorageKey;
use idempotency::engine::{Settled, Verdict};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::boundary::runtime::{Answer, Mode, at_once, block_on};
use crate::boundary::{bridge, python};

/// What is done: the name of a function, or method and path of a request.
pub enum Operation {
    Call(Py<PyString>),
    Http(Py<PyString>, Py<PyBytes>),
}

impl FromPyObject<'_, '_> for Operation {
    type Error = PyErr;

    fn extract(operation: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match operation.cast::<PyTuple>() {
            Ok(_) => operation.extract().map(|(method, path)| Self::Http(method, path)),
            Err(_) => Ok(Self::Call(operation.extract()?)),
        }
    }
}

impl Operation {
    /// In words, for the log.
    pub fn words(&self, py: Python<'_>) -> String {
        match self {
            Self::Call(name) => name.to_string(),
            Self::Http(method, path) => format!("{method} {}", String::from_utf8_lossy(path.as_bytes(py))),
        }
    }

    /// As Python sees it.
    pub fn bind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Call(name) => Ok(name.bind(py).clone().into_any()),
            Self::Http(method, path) => Ok((method, path).into_pyobject(py)?.into_any()),
        }
    }
}

/// Where a key means something, and the key.
pub struct Asked {
    /// As ``namespace=`` has said of this call; `None`: its engine's.
    pub namespace: Option<Py<PyString>>,
    pub operation: Operation,
    pub caller: Option<Py<PyBytes>>,
    pub key: Py<PyString>,
}

/// The attempt that runs now, seen from inside.
///
/// Collected without being settled, it is held, or released if the handler said so: in the background.
#[pyclass(frozen, module = "pyidempotent")]
pub struct CurrentAttempt {
    held: Mutex<Option<idempotency::engine::Attempt>>,
    storage_key: StorageKey,
    #[pyo3(get)]
    /// A number that is greater for every later attempt on this key: downstream can refuse a smaller one.
    fence: u64,
    is_immediate: bool,
    released: AtomicBool,
    /// The status of a refusal that a protected call inside met; 0: none.
    refused: AtomicU16,
    asked: Asked,
    namespace: Py<PyString>,
}

impl CurrentAttempt {
    pub fn new(
        attempt: idempotency::engine::Attempt,
        asked: Asked,
        namespace: Py<PyString>,
        is_immediate: bool,
    ) -> Self {
        Self {
            storage_key: *attempt.key(),
            fence: attempt.fence(),
            held: Mutex::new(Some(attempt)),
            is_immediate,
            released: AtomicBool::new(false),
            refused: AtomicU16::new(0),
            asked,
            namespace,
        }
    }

    /// The operation and the record, for the log, which must not tell the key.
    pub fn who(&self, py: Python<'_>) -> String {
        format!("{} [{}]", self.asked.operation.words(py), self.storage_key.id())
    }

    pub fn record_id(&self) -> String {
        self.storage_key.id()
    }

    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// The status of a refusal that a protected call inside met; 0: none.
    pub fn refused(&self) -> u16 {
        self.refused.load(Ordering::Relaxed)
    }

    fn with_held<T>(&self, read: impl FnOnce(Option<&mut idempotency::engine::Attempt>) -> T) -> T {
        read(self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }

    fn take(&self) -> PyResult<idempotency::engine::Attempt> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        held.ok_or_else(|| PyRuntimeError::new_err("this attempt was settled before"))
    }

    /// Ends the attempt in the background.
    pub fn settle_later(&self, verdict: Verdict) -> PyResult<()> {
        self.take()?.settle_later(verdict);
        Ok(())
    }

    /// Ends the attempt.
    pub fn settle<'py>(&self, py: Python<'py>, verdict: Verdict, mode: Mode) -> PyResult<Answer<'py, Settled>> {
        let settle = self.take()?.settle(verdict);
        if self.is_immediate {
            return at_once(py, pin!(settle)).map(Answer::Ready);
        }
        match mode {
            Mode::Sync => block_on(py, settle).map(Answer::Ready),
            Mode::Async => bridge::submit(py, settle, settled_to_python).map(Answer::Later),
        }
    }
}

/// `None`, or the result of the attempt that completed in this one's place.
fn settled_to_python(py: Python<'_>, settled: Settled) -> PyResult<Bound<'_, PyAny>> {
    match settled {
        Settled::Replaced(result) => Ok(PyBytes::new(py, &result).into_any()),
        _ => Ok(py.None().into_bound(py)),
    }
}

#[pymethods]
impl CurrentAttempt {
    /// The idempotency key.
    #[getter]
    pub fn key(&self, py: Python<'_>) -> Py<PyString> {
        self.asked.key.clone_ref(py)
    }

    /// The key's scope.
    #[getter]
    fn scope<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        python::scope(py)?.call1((&self.namespace, self.asked.operation.bind(py)?, &self.asked.caller))
    }

    /// Whether another attempt is known to have taken this one's place.
    #[getter]
    fn lost(&self) -> bool {
        self.with_held(|held| held.is_some_and(|attempt| attempt.is_lost()))
    }

    /// A key for a downstream call: the same for every attempt of this key, another for every ``name``.
    fn derive(&self, name: &str) -> String {
        self.storage_key.derive(name)
    }

    /// Declares that nothing happened: the key is free again when the handler ends, however it ends.
    fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// A protected call inside met a refusal.
    #[pyo3(signature = (status, /))]
    fn _refused(&self, status: u16) {
        self.refused.store(status, Ordering::Relaxed);
    }

    /// The work was cancelled, interrupted or is exiting: it ends in the background, held, or released if the handler
    /// said so.
    fn _hurry(&self) -> PyResult<()> {
        self.settle_later(self.unended())
    }
}

impl CurrentAttempt {
    /// What becomes of the key where the work has come to no end of its own.
    fn unended(&self) -> Verdict {
        if self.is_released() { Verdict::Release } else { Verdict::Hold }
    }
}

impl Drop for CurrentAttempt {
    fn drop(&mut self) {
        let verdict = self.unended();
        if let Some(attempt) = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            attempt.settle_later(verdict);
        }
    }
}

/// The end of an attempt that waits for a transaction's commit.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Completion {
    running: Py<CurrentAttempt>,
    verdict: Mutex<Option<Verdict>>,
}

impl Completion {
    pub fn new(running: Py<CurrentAttempt>, verdict: Verdict) -> Self {
        Self { running, verdict: Mutex::new(Some(verdict)) }
    }

    pub fn take(&self) -> PyResult<Verdict> {
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        verdict.ok_or_else(|| PyRuntimeError::new_err("this attempt was settled before"))
    }
}

#[pymethods]
impl Completion {
    /// It is committed.
    fn settle(&self, py: Python<'_>) -> PyResult<()> {
        self.running.get().settle(py, self.take()?, Mode::Sync).map(drop)
    }

    /// It was rolled back: the attempt has failed.
    ///
    /// Parameters:
    ///     waits: whether this thread may wait for the store. Otherwise the attempt ends in the background.
    #[pyo3(signature = (*, waits))]
    fn fail(&self, py: Python<'_>, waits: bool) -> PyResult<()> {
        self.take()?;
        match waits {
            true => self.running.get().settle(py, Verdict::Fail, Mode::Sync).map(drop),
            false => self.running.get().settle_later(Verdict::Fail),
        }
    }
}
