//! [`Engine`]: the options of one call site over a backend.

use std::pin::pin;
use std::sync::OnceLock;

use idempotency::engine::{Attempt, Call};
use idempotency::{AfterCrash, Fingerprint, Idempotency, Key, Options, Scope, ScopedKeys, StoreError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString};

use super::attempt::{Asked, Operation};
use crate::boundary::begun::Begun;
use crate::boundary::convert::seconds;
use crate::boundary::runtime::{Answer, Mode, at_once, block_on, poll_once};
use crate::boundary::{bridge, errors, logging};
use crate::stores::backend::Backend;

/// The options of one call site over a backend.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Engine {
    backend: Py<Backend>,
    options: Options,
    namespace: PyBackedStr,
    /// The name of a function that was called without a caller, and its hashed scope: most call sites have one.
    hashed: OnceLock<(Py<PyString>, ScopedKeys)>,
}

fn arrived(py: Python<'_>, begun: Result<idempotency::engine::Begun, StoreError>) -> PyResult<Bound<'_, PyAny>> {
    let begun = begun.map_err(|error| errors::store_error(py, &error))?;
    Ok(Bound::new(py, Begun::new(begun))?.into_any())
}

#[pymethods]
impl Engine {
    /// Durations are seconds. Options that do not fit are a ValueError.
    #[new]
    #[pyo3(signature = (backend, *, ttl, lease, wait, run_limit, refuse_after_crash, namespace))]
    fn new(
        backend: Py<Backend>,
        ttl: f64,
        lease: Option<f64>,
        wait: f64,
        run_limit: Option<f64>,
        refuse_after_crash: bool,
        namespace: PyBackedStr,
    ) -> PyResult<Self> {
        let optional = |name, value: Option<f64>| value.map(|value| seconds(name, value)).transpose();
        let after_crash = if refuse_after_crash { AfterCrash::Refuse } else { AfterCrash::Rerun };
        let mut options =
            Options::new().ttl(seconds("ttl", ttl)?).wait(seconds("wait", wait)?).after_crash(after_crash);
        options.lease = optional("lease", lease)?;
        options.run_limit = optional("run_limit", run_limit)?;
        options.check().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { backend, options, namespace, hashed: OnceLock::new() })
    }

    /// How long a claim or a renewal is good for, in seconds.
    #[getter]
    fn lease(&self) -> f64 {
        self.options.lease_or_default().as_secs_f64()
    }

    /// The storage key, for the operators' calls of a backend.
    fn storage_key<'py>(
        &self,
        py: Python<'py>,
        operation: Operation,
        caller: Option<&[u8]>,
        key: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key = Key::new(key).map_err(|error| errors::key_error(py, &error))?;
        Ok(PyBytes::new(py, &self.scope(py, None, &operation, caller)?.storage_key(&key).0))
    }
}

impl Engine {
    fn scope<'a>(
        &'a self,
        py: Python<'a>,
        namespace: Option<&'a Py<PyString>>,
        operation: &'a Operation,
        caller: Option<&'a [u8]>,
    ) -> PyResult<Scope<'a>> {
        let operation = match operation {
            Operation::Call(name) => idempotency::Operation::Call(name.to_str(py)?),
            Operation::Http(method, path) => {
                idempotency::Operation::Http { method: method.to_str(py)?, path: path.as_bytes(py) }
            }
        };
        let namespace = namespace.map_or(Ok(&*self.namespace), |namespace| namespace.to_str(py))?;
        Ok(Scope { namespace, operation, caller })
    }

    fn scope_of<'a>(&'a self, py: Python<'a>, asked: &'a Asked) -> PyResult<Scope<'a>> {
        let caller = asked.caller.as_ref().map(|caller| caller.as_bytes(py));
        self.scope(py, asked.namespace.as_ref(), &asked.operation, caller)
    }

    /// The operation and the record, for the log, which must not tell the key.
    pub fn who(&self, py: Python<'_>, asked: &Asked) -> PyResult<String> {
        let key = Key::new(asked.key.to_str(py)?).map_err(|error| errors::key_error(py, &error))?;
        let scope = self.scope_of(py, asked)?;
        Ok(format!("{} [{}]", asked.operation.words(py), scope.storage_key(&key).id()))
    }

    /// The record's short id, where the key is one.
    pub fn record_id(&self, py: Python<'_>, asked: &Asked) -> Option<String> {
        let key = Key::new(asked.key.to_str(py).ok()?).ok()?;
        Some(self.scope_of(py, asked).ok()?.storage_key(&key).id())
    }

    /// What the store is called in events.
    pub fn store_kind(&self) -> &'static str {
        self.backend.get().engine().map_or("custom", |engine| engine.store_kind())
    }

    pub fn namespace(&self, py: Python<'_>, asked: &Asked) -> Py<PyString> {
        asked.namespace.as_ref().unwrap_or(self.namespace.as_py_str()).clone_ref(py)
    }

    /// Whether every operation answers without I/O.
    pub fn is_immediate(&self) -> bool {
        self.backend.get().is_immediate()
    }

    /// Claims a key. What comes later comes as a [`Begun`].
    pub fn begin<'py>(
        &self,
        py: Python<'py>,
        asked: &Asked,
        fingerprint: [u8; 32],
        mode: Mode,
    ) -> PyResult<Answer<'py, idempotency::engine::Begun>> {
        logging::look(py);
        let (engine, call) = self.call(py, asked, fingerprint)?;
        if self.is_immediate() && self.options.wait.is_zero() {
            let begun = at_once(py, pin!(engine.begin(&call)))?;
            return begun.map(Answer::Ready).map_err(|error| errors::store_error(py, &error));
        }
        self.answer(py, mode, async move { engine.begin(&call).await })
    }

    /// What becomes of an attempt whose lease may have ended before its work began.
    pub fn begin_again<'py>(
        &self,
        py: Python<'py>,
        asked: &Asked,
        fingerprint: [u8; 32],
        attempt: Attempt,
        mode: Mode,
    ) -> PyResult<Answer<'py, idempotency::engine::Begun>> {
        let (engine, call) = self.call(py, asked, fingerprint)?;
        self.answer(py, mode, async move { engine.begin_again(&call, attempt).await })
    }

    fn answer<'py>(
        &self,
        py: Python<'py>,
        mode: Mode,
        begin: impl Future<Output = Result<idempotency::engine::Begun, StoreError>> + Send + 'static,
    ) -> PyResult<Answer<'py, idempotency::engine::Begun>> {
        let (mut begin, failed) = (Box::pin(begin), |error: StoreError| errors::store_error(py, &error));
        if self.is_immediate()
            && let Some(begun) = poll_once(begin.as_mut())
        {
            return begun.map(Answer::Ready).map_err(failed);
        }
        match mode {
            Mode::Sync => block_on(py, begin)?.map(Answer::Ready).map_err(failed),
            Mode::Async => bridge::submit(py, begin, arrived).map(Answer::Later),
        }
    }

    fn call(&self, py: Python<'_>, asked: &Asked, fingerprint: [u8; 32]) -> PyResult<(Idempotency, Call)> {
        let engine = self.backend.get().engine().map_err(|error| errors::store_error(py, &error))?;
        let engine = engine.with_options(self.options).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok((engine, self.scoped(py, asked, fingerprint)?))
    }

    /// The options of the call site.
    pub fn options(&self) -> Options {
        self.options
    }

    /// A call, as every engine and every store sees it.
    pub fn scoped(&self, py: Python<'_>, asked: &Asked, fingerprint: [u8; 32]) -> PyResult<Call> {
        let text = asked.key.to_str(py).map_err(|_| {
            let words = "the idempotency key has a lone surrogate, which is no character; send 1 to 255 characters";
            errors::refusal(py, "IdempotencyKeyInvalid", (words,), None)
        })?;
        let key = Key::new(text).map_err(|error| errors::key_error(py, &error))?;
        let scope = self.scope_of(py, asked)?;
        let storage_key = match (&asked.operation, &asked.caller, &asked.namespace) {
            (Operation::Call(name), None, None) => {
                let (hashed, keys) = self.hashed.get_or_init(|| (name.clone_ref(py), scope.keys()));
                if hashed.is(name) { keys.storage_key(&key) } else { scope.storage_key(&key) }
            }
            _ => scope.storage_key(&key),
        };
        let label = scope.label(&key);
        Ok(Call { key: storage_key, fingerprint: Fingerprint(fingerprint), label })
    }
}
