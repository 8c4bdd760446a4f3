//! [`InTransaction`]: a key in a transaction of the caller's, whose connection Python has.

use idempotency::engine::Begun;
use idempotency::transactions::{self, Dialect, Next, OutOfTurn, Statement, Value};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString, PyTuple};

use crate::boundary::errors;
use crate::calls::attempt::{Asked, Operation};
use crate::calls::engine::Engine;
use crate::flow::refused;
use crate::stores::seal::Seal;

/// One key in one transaction of the caller's: says which statement runs next, and is told its row.
#[pyclass(module = "pyidempotent._native")]
pub struct InTransaction {
    inner: transactions::InTransaction,
    words: String,
    retry_after: f64,
    fence: Option<u64>,
    payload: Option<Py<PyBytes>>,
}

const STALE: &str = "The first request with this key was done after this transaction began, and its isolation level does not \
                     let it see that: repeat it in a new transaction.";

/// A statement's text and its values.
type Asks<'py> = (Bound<'py, PyString>, Bound<'py, PyTuple>);

fn dialect(name: &str) -> PyResult<Dialect> {
    match name {
        "sqlite" => Ok(Dialect::Sqlite),
        "postgres" => Ok(Dialect::Postgres),
        _ => Err(PyValueError::new_err(format!("there is no dialect {name:?}"))),
    }
}

/// The SQL that makes the tables for an application's own transactions on SQLite.
#[pyfunction]
pub fn sqlite_tables() -> &'static str {
    transactions::SQLITE_TABLES
}

fn named(name: &Bound<'_, PyAny>) -> PyResult<Dialect> {
    dialect(name.cast::<PyString>()?.to_str()?)
}

#[pymethods]
impl InTransaction {
    /// A call of ``key`` with the options of ``engine``, for a connection to ``dialect``; on Postgres with the table in
    /// ``schema``.
    #[new]
    #[pyo3(signature = (engine, dialect, key, operation, caller, fingerprint, *, retry_after, schema=None, seal=None))]
    #[expect(clippy::too_many_arguments, reason = "one caller passes what it has read")]
    fn new(
        py: Python<'_>,
        engine: &Engine,
        #[pyo3(from_py_with = named)] dialect: Dialect,
        key: Py<PyString>,
        operation: Operation,
        caller: Option<Py<PyBytes>>,
        fingerprint: [u8; 32],
        retry_after: f64,
        schema: Option<&str>,
        seal: Option<&Bound<'_, Seal>>,
    ) -> PyResult<Self> {
        let asked = Asked { namespace: None, operation, caller, key };
        let call = engine.scoped(py, &asked, fingerprint)?;
        let words = engine.who(py, &asked)?;
        let mut inner = transactions::InTransaction::new(dialect, &call, &engine.options());
        if let Some(schema) = schema {
            inner = inner.in_schema(schema).map_err(|error| PyValueError::new_err(error.to_string()))?;
        }
        if let Some(seal) = seal {
            inner = inner.in_form(seal.get().form());
        }
        Ok(Self { inner, words, retry_after, fence: None, payload: None })
    }

    /// The first statement.
    ///
    /// Parameters:
    ///     is_ready: whether this connection has found the tables before.
    #[pyo3(signature = (is_ready, /))]
    fn begin<'py>(&mut self, py: Python<'py>, is_ready: bool) -> PyResult<Asks<'py>> {
        asks(py, self.inner.begin(is_ready).map_err(out_of_turn)?)
    }

    /// The next statement, after the row of the last one; ``None``: the work is to run (``fence``), has its ``payload``
    /// from before, or is stored. Raises the refusals.
    #[pyo3(signature = (row, /))]
    fn told<'py>(&mut self, py: Python<'py>, row: Option<Vec<Bound<'py, PyAny>>>) -> PyResult<Option<Asks<'py>>> {
        let row = row.map(|row| row.iter().map(value).collect::<PyResult<Vec<_>>>()).transpose()?;
        match self.inner.told(row.as_deref()).map_err(|error| errors::store_error(py, &error))? {
            Next::Ask(statement) => return asks(py, statement).map(Some),
            Next::Run { fence } => self.fence = Some(fence),
            Next::Held(Begun::Replay(result)) => self.payload = Some(PyBytes::new(py, &result).unbind()),
            Next::Stale => {
                let parameters = PyDict::new(py);
                parameters.set_item("retry_after", 0)?;
                return Err(errors::refusal(py, "IdempotencyProcessing", (STALE,), Some(&parameters)));
            }
            Next::Held(begun) => return Err(refused(py, &begun, self.retry_after)),
            _ => {}
        }
        Ok(None)
    }

    /// Stores a result: the first statement for that.
    #[pyo3(signature = (payload, /))]
    fn complete<'py>(&mut self, py: Python<'py>, payload: &[u8]) -> PyResult<Asks<'py>> {
        asks(py, self.inner.complete(payload.into()).map_err(out_of_turn)?)
    }

    /// Undoes the work, whose result can't be stored: the statement for that.
    fn undo<'py>(&mut self, py: Python<'py>) -> PyResult<Asks<'py>> {
        asks(py, self.inner.undo().map_err(out_of_turn)?)
    }

    /// A number that is greater for every later attempt on this key; ``None``: the work is not to run.
    #[getter]
    fn fence(&self) -> Option<u64> {
        self.fence
    }

    /// Whether the transaction of the claim has ended, or the claim was undone.
    #[getter]
    fn gone(&self) -> bool {
        self.inner.is_gone()
    }

    /// What was stored before.
    #[getter]
    fn payload(&self, py: Python<'_>) -> Option<Py<PyBytes>> {
        self.payload.as_ref().map(|payload| payload.clone_ref(py))
    }

    /// The operation and the record, for messages, which must not tell the key.
    #[getter]
    fn who(&self) -> &str {
        &self.words
    }

    /// The storage key.
    #[getter]
    fn storage_key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.key().0)
    }

    /// A key for a downstream call: the same for every attempt of this key, another for every ``name``.
    fn derive(&self, name: &str) -> String {
        self.inner.key().derive(name)
    }
}

fn out_of_turn(error: OutOfTurn) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

fn asks(py: Python<'_>, statement: Statement) -> PyResult<Asks<'_>> {
    let values = statement.values.into_iter().map(|value| match value {
        Value::Int(int) => Ok(int.into_pyobject(py)?.into_any()),
        Value::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
        Value::Text(text) => Ok(PyString::new(py, &text).into_any()),
        _ => Ok(py.None().into_bound(py)),
    });
    let values = values.collect::<PyResult<Vec<_>>>()?;
    Ok((PyString::new(py, &statement.sql), PyTuple::new(py, values)?))
}

/// A value of a row, as the driver has it.
fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_none() {
        Ok(Value::Null)
    } else if value.is_instance_of::<PyInt>() {
        value.extract().map(Value::Int)
    } else if value.is_instance_of::<PyString>() {
        value.extract().map(Value::Text)
    } else {
        // A memoryview, of some drivers.
        let bytes = value.py().get_type::<PyBytes>().call1((value,))?;
        Ok(Value::Bytes(bytes.cast::<PyBytes>()?.as_bytes().to_vec()))
    }
}
