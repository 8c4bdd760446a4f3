//! [`Engine`]: the options of one call site over a backend; [`Attempt`]: a claim it holds. Both in both colours.

use std::sync::{Mutex, PoisonError};

use idempotency::{
    AfterCrash, Begun, Call, Fingerprint, Idempotency, Key, Operation, Options, Scope, Settled, StoreError, Verdict,
};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyTuple};

use crate::backends::{Backend, seconds};
use crate::runtime::{block_on, poll_once};
use crate::{bridge, errors};

/// The options of one call site over a backend.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Engine {
    backend: Py<Backend>,
    options: Options,
    namespace: String,
}

/// `name` of a function, or `(method, path)` of a request.
#[derive(FromPyObject)]
enum OperationArg {
    Call(PyBackedStr),
    Http(PyBackedStr, PyBackedBytes),
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
        namespace: String,
    ) -> PyResult<Self> {
        let optional = |name, value: Option<f64>| value.map(|value| seconds(name, value)).transpose();
        let options = Options {
            ttl: seconds("ttl", ttl)?,
            lease: optional("lease", lease)?,
            wait: seconds("wait", wait)?,
            run_limit: optional("run_limit", run_limit)?,
            after_crash: if refuse_after_crash { AfterCrash::Refuse } else { AfterCrash::Rerun },
        };
        options.check().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { backend, options, namespace })
    }

    /// Claims a key. An `Attempt` runs; `bytes` are the stored result; a tuple is the name of a refusal and its detail.
    fn begin<'py>(
        &self,
        py: Python<'py>,
        operation: OperationArg,
        caller: Option<&[u8]>,
        key: &str,
        fingerprint: [u8; 32],
    ) -> PyResult<Bound<'py, PyAny>> {
        let (engine, call) = self.call(py, &operation, caller, key, fingerprint)?;
        let begin = Box::pin(async move { engine.begin(&call).await });
        let begun = match self.backend.get().is_immediate() {
            true => poll_once(begin).or_else(|begin| block_on(py, begin))?,
            false => block_on(py, begin)?,
        };
        begun_to_python(py, begun, self.backend.get().is_immediate())
    }

    /// The same in the running loop: what `begin` returns, or a future of it.
    fn begin_async<'py>(
        &self,
        py: Python<'py>,
        operation: OperationArg,
        caller: Option<&[u8]>,
        key: &str,
        fingerprint: [u8; 32],
    ) -> PyResult<Bound<'py, PyAny>> {
        let (engine, call) = self.call(py, &operation, caller, key, fingerprint)?;
        let begin = Box::pin(async move { engine.begin(&call).await });
        if !self.backend.get().is_immediate() {
            return bridge::submit(py, begin, |py, begun| begun_to_python(py, begun, false));
        }
        match poll_once(begin) {
            Ok(begun) => begun_to_python(py, begun, true),
            Err(begin) => bridge::submit(py, begin, |py, begun| begun_to_python(py, begun, true)),
        }
    }

    /// The storage key, for the operators' calls of a backend.
    fn storage_key<'py>(
        &self,
        py: Python<'py>,
        operation: OperationArg,
        caller: Option<&[u8]>,
        key: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key = Key::new(key).map_err(|error| errors::key_error(py, &error))?;
        Ok(PyBytes::new(py, &self.scope(&operation, caller).storage_key(&key).0))
    }
}

impl Engine {
    fn scope<'a>(&'a self, operation: &'a OperationArg, caller: Option<&'a [u8]>) -> Scope<'a> {
        let operation = match operation {
            OperationArg::Call(name) => Operation::Call(name),
            OperationArg::Http(method, path) => Operation::Http { method, path },
        };
        Scope { namespace: &self.namespace, operation, caller }
    }

    fn call(
        &self,
        py: Python<'_>,
        operation: &OperationArg,
        caller: Option<&[u8]>,
        key: &str,
        fingerprint: [u8; 32],
    ) -> PyResult<(Idempotency, Call)> {
        let key = Key::new(key).map_err(|error| errors::key_error(py, &error))?;
        let engine = self.backend.get().engine().map_err(|error| errors::store_error(py, &error))?;
        let engine = engine.with_options(self.options).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok((engine, Call::new(&self.scope(operation, caller), &key, Fingerprint(fingerprint))))
    }
}

fn begun_to_python<'py>(
    py: Python<'py>,
    begun: Result<Begun, StoreError>,
    is_immediate: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let refusal = |name: &str, detail: Option<Bound<'py, PyAny>>| {
        Ok(PyTuple::new(py, [name.into_pyobject(py)?.into_any(), detail.into_pyobject(py)?])?.into_any())
    };
    match begun.map_err(|error| errors::store_error(py, &error))? {
        Begun::Run(attempt) => Ok(Bound::new(py, Attempt::new(attempt, is_immediate))?.into_any()),
        Begun::Replay(result) => Ok(PyBytes::new(py, &result).into_any()),
        Begun::Mismatch => refusal("conflict", None),
        Begun::Unknown => refusal("unknown", None),
        Begun::InFlight { lease_left } => {
            refusal("processing", Some(lease_left.as_secs_f64().into_pyobject(py)?.into_any()))
        }
        Begun::NotKept(note) => refusal("not-kept", Some(PyBytes::new(py, &note).into_any())),
    }
}

/// A held claim. Collected without being settled, it is released (or failed, once started) in the background.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Attempt {
    held: Mutex<Option<idempotency::Attempt>>,
    key: idempotency::StorageKey,
    fence: u64,
    is_immediate: bool,
}

impl Attempt {
    fn new(attempt: idempotency::Attempt, is_immediate: bool) -> Self {
        let (key, fence) = (*attempt.key(), attempt.fence());
        Self { held: Mutex::new(Some(attempt)), key, fence, is_immediate }
    }

    fn with_held<T>(&self, read: impl FnOnce(Option<&mut idempotency::Attempt>) -> T) -> T {
        read(self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }

    fn take(&self) -> PyResult<idempotency::Attempt> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        held.ok_or_else(|| PyRuntimeError::new_err("this attempt was settled before"))
    }
}

fn verdict(name: &str, payload: Option<&[u8]>) -> PyResult<Verdict> {
    let payload = || payload.unwrap_or_default().into();
    Ok(match name {
        "complete" => Verdict::Complete(payload()),
        "not-kept" => Verdict::NotKept(payload()),
        "release" => Verdict::Release,
        "fail" => Verdict::Fail,
        "hold" => Verdict::Hold,
        other => return Err(PyValueError::new_err(format!("there is no verdict {other:?}"))),
    })
}

/// `None`, or the result of the attempt that completed in this one's place.
fn settled_to_python(py: Python<'_>, settled: Settled) -> PyResult<Bound<'_, PyAny>> {
    match settled {
        Settled::Replaced(result) => Ok(PyBytes::new(py, &result).into_any()),
        _ => Ok(py.None().into_bound(py)),
    }
}

#[pymethods]
impl Attempt {
    /// The fencing number.
    #[getter]
    fn fence(&self) -> u64 {
        self.fence
    }

    /// Whether the claim is known to be lost.
    #[getter]
    fn lost(&self) -> bool {
        self.with_held(|held| held.is_some_and(|attempt| attempt.is_lost()))
    }

    /// Says that the work begins.
    fn start(&self) {
        self.with_held(|held| {
            if let Some(attempt) = held {
                attempt.start();
            }
        });
    }

    /// A child key for a downstream call.
    fn derive(&self, name: &str) -> String {
        self.key.derive(name)
    }

    /// Ends the attempt: `complete`, `not-kept`, `release`, `fail` or `hold`. `bytes`: the result that replaced this one's.
    #[pyo3(signature = (verdict, payload=None))]
    fn settle<'py>(&self, py: Python<'py>, verdict: &str, payload: Option<&[u8]>) -> PyResult<Bound<'py, PyAny>> {
        let verdict = self::verdict(verdict, payload)?;
        let settle = Box::pin(self.take()?.settle(verdict));
        let settled = match self.is_immediate {
            true => poll_once(settle).or_else(|settle| block_on(py, settle))?,
            false => block_on(py, settle)?,
        };
        settled_to_python(py, settled)
    }

    /// The same in the running loop: what `settle` returns, or a future of it.
    #[pyo3(signature = (verdict, payload=None))]
    fn settle_async<'py>(&self, py: Python<'py>, verdict: &str, payload: Option<&[u8]>) -> PyResult<Bound<'py, PyAny>> {
        let verdict = self::verdict(verdict, payload)?;
        let settle = Box::pin(self.take()?.settle(verdict));
        if !self.is_immediate {
            return bridge::submit(py, settle, settled_to_python);
        }
        match poll_once(settle) {
            Ok(settled) => settled_to_python(py, settled),
            Err(settle) => bridge::submit(py, settle, settled_to_python),
        }
    }

    /// Ends the attempt in the background.
    fn settle_later(&self, verdict: &str) -> PyResult<()> {
        let verdict = self::verdict(verdict, None)?;
        self.take()?.settle_later(verdict);
        Ok(())
    }
}
