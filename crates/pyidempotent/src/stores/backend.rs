//! [`Backend`]: a store, made anew in every process that uses it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use idempotency::decide::Held;
use idempotency::process::generation;
use idempotency::store::{Cursor, Listed, Listing};
use idempotency::stores::{self, MemoryStore, PostgresOptions, PostgresStore, RedisOptions, RedisStore, SqliteStore};
use idempotency::{Idempotency, Micros, State, StorageKey, Store, StoreError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyTraverseError, PyVisit};

use super::credentials::{Given, PythonCredentials};
use super::custom::PythonStore;
use super::rehearsal::{self, Rehearsed};
use super::seal::Seal;
use super::suite;
use crate::boundary::convert::seconds;
use crate::boundary::errors;
use crate::boundary::runtime::{block_on, process};

/// A store. Opening it does no I/O; a forked child gets one of its own.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Backend {
    spec: Spec,
    seal: Option<Seal>,
    current: AtomicPtr<(u32, Idempotency)>,
}

#[derive(Clone)]
enum Spec {
    Memory { max_entries: usize, max_bytes: usize },
    Sqlite { path: PathBuf, time_limit: Duration },
    Redis { options: Box<RedisOptions>, credentials: Option<Given> },
    Postgres(Box<PostgresOptions>),
    Custom { methods: Arc<Py<PyAny>>, time_limit: Duration },
    Rehearsal,
}

impl Spec {
    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self.clone() {
            Self::Memory { max_entries, max_bytes } => {
                Arc::new(MemoryStore::new().max_entries(max_entries).max_bytes(max_bytes))
            }
            Self::Sqlite { path, time_limit } => Arc::new(SqliteStore::open(path).time_limit(time_limit)),
            Self::Redis { options, credentials } => {
                let credentials = credentials.map(|given| Arc::new(PythonCredentials::new(given)) as _);
                Arc::new(RedisStore::with_options(RedisOptions { credentials, ..*options })?)
            }
            Self::Postgres(options) => Arc::new(PostgresStore::with_options(*options)?),
            Self::Custom { methods, time_limit } => Arc::new(PythonStore::new(methods, time_limit)?),
            Self::Rehearsal => Arc::new(Rehearsed),
        })
    }
}

/// # Errors
/// Where an operation would have no time at all.
fn time_limit(given: f64) -> PyResult<Duration> {
    match seconds("time_limit", given)? {
        Duration::ZERO => Err(PyValueError::new_err("time_limit must be more than 0 seconds")),
        limit => Ok(limit),
    }
}

/// The store of a rehearsal.
static STAND_IN: LazyLock<Backend> = LazyLock::new(|| Backend::new(Spec::Rehearsal, None));

/// The backend that stands in for every other, while there is a rehearsal.
fn stand_in() -> Option<&'static Backend> {
    rehearsal::is_on().then(|| &*STAND_IN)
}

impl Backend {
    fn new(spec: Spec, seal: Option<&Bound<'_, Seal>>) -> Self {
        Self { spec, seal: seal.map(|seal| seal.get().clone()), current: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        let store = self.spec.open()?;
        Ok(match self.seal.clone() {
            Some(seal) => seal.around(store),
            None => store,
        })
    }

    /// This process's engine over the store, or over the one that stands in for it.
    pub fn engine(&self) -> Result<&Idempotency, StoreError> {
        stand_in().unwrap_or(self).own_engine()
    }

    fn own_engine(&self) -> Result<&Idempotency, StoreError> {
        let id = generation();
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: null, or leaked by `Box::into_raw` below and never freed: what a parent process opened is left alone.
        if let Some((owner, engine)) = unsafe { current.as_ref() }
            && *owner == id
        {
            return Ok(engine);
        }
        let process = process()?;
        let engine = Idempotency::new(self.open()?);
        let new = Box::into_raw(Box::new((id, engine)));
        match self.current.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: just leaked, never freed.
                let (_, engine) = unsafe { &*new };
                process.adopt(engine.clone());
                Ok(engine)
            }
            Err(_) => {
                // SAFETY: never shared. Another thread of this process was quicker.
                drop(unsafe { Box::from_raw(new) });
                self.own_engine()
            }
        }
    }

    /// Whether every operation answers without I/O.
    pub fn is_immediate(&self) -> bool {
        matches!(stand_in().unwrap_or(self).spec, Spec::Memory { .. } | Spec::Rehearsal)
    }
}

/// A record as operators see it: label, state, fence, seconds left of the lease, result.
fn shown<'py>(py: Python<'py>, held: Held, now: Micros) -> PyResult<Bound<'py, PyAny>> {
    let shown = {
        let state = match held.record.state {
            State::InFlight if held.lease_end <= now => "lapsed",
            State::InFlight => "in flight",
            State::Completed => "completed",
            State::NotKept => "not kept",
            State::Unknown => "unknown",
        };
        let lease_left = Duration::from_micros(held.lease_end.saturating_sub(now)).as_secs_f64();
        (held.record.label.to_string(), state, held.record.fence, lease_left, PyBytes::new(py, &held.record.result))
    };
    Ok(shown.into_pyobject(py)?.into_any())
}

/// The state of a letter: in flight, unknown, completed, not kept.
fn state_of(letter: char) -> Option<State> {
    match letter {
        'F' => Some(State::InFlight),
        'U' => Some(State::Unknown),
        'C' => Some(State::Completed),
        'N' => Some(State::NotKept),
        _ => None,
    }
}

/// The SQL that makes what a store in Postgres needs.
#[pyfunction]
pub fn postgres_schema(schema: &str) -> PyResult<String> {
    stores::postgres_schema(schema).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn storage_key(key: [u8; 32]) -> StorageKey {
    StorageKey(key)
}

#[pymethods]
impl Backend {
    /// Records in this process.
    #[staticmethod]
    #[pyo3(signature = (max_entries, max_bytes, seal=None))]
    fn memory(max_entries: usize, max_bytes: usize, seal: Option<&Bound<'_, Seal>>) -> Self {
        Self::new(Spec::Memory { max_entries, max_bytes }, seal)
    }

    /// Records in one file.
    #[staticmethod]
    #[pyo3(signature = (path, time_limit, seal=None))]
    fn sqlite(path: PathBuf, time_limit: f64, seal: Option<&Bound<'_, Seal>>) -> PyResult<Self> {
        Ok(Self::new(Spec::Sqlite { path, time_limit: self::time_limit(time_limit)? }, seal))
    }

    /// Records in Redis. `replicas` and `aof`, where given, win over the URL's; `credentials` is a callable that returns who logs in, with what errors call it.
    #[staticmethod]
    #[pyo3(signature = (url, prefix, time_limit, replicas=None, aof=None, credentials=None, seal=None))]
    fn redis(
        url: &str,
        prefix: String,
        time_limit: f64,
        replicas: Option<u32>,
        aof: Option<u32>,
        credentials: Option<(Py<PyAny>, String)>,
        seal: Option<&Bound<'_, Seal>>,
    ) -> PyResult<Self> {
        let unusable = |error: StoreError| PyValueError::new_err(error.to_string());
        let options = RedisOptions::from_url(url).map_err(unusable)?;
        let time_limit = self::time_limit(time_limit)?;
        let credentials = credentials.map(|(callable, name)| Given { callable: Arc::new(callable), name });
        let (replicas, aof) = (replicas.unwrap_or(options.replicas), aof.unwrap_or(options.aof));
        let options = Box::new(RedisOptions { prefix, time_limit, replicas, aof, ..options });
        let spec = Spec::Redis { options, credentials };
        spec.open().map_err(unusable)?; // says now what is wrong with it; opening does no I/O
        Ok(Self::new(spec, seal))
    }

    /// Records in Postgres. `time_limit` is in seconds.
    #[staticmethod]
    #[pyo3(signature = (url, schema, time_limit, seal=None))]
    fn postgres(url: &str, schema: Option<String>, time_limit: f64, seal: Option<&Bound<'_, Seal>>) -> PyResult<Self> {
        let unusable = |error: StoreError| PyValueError::new_err(error.to_string());
        let mut options = PostgresOptions::from_url(url).map_err(unusable)?;
        options.time_limit = self::time_limit(time_limit)?;
        options.schema = schema.unwrap_or(options.schema);
        let spec = Spec::Postgres(Box::new(options));
        spec.open().map_err(unusable)?; // says now what is wrong with it; opening does no I/O
        Ok(Self::new(spec, seal))
    }

    /// Makes what a store in Postgres needs in its database.
    fn create_table(&self, py: Python<'_>) -> PyResult<()> {
        let Spec::Postgres(options) = &self.spec else {
            return Err(PyTypeError::new_err("only a store in Postgres has a table to create"));
        };
        let store = PostgresStore::with_options((**options).clone());
        let store = store.map_err(|error| errors::store_error(py, &error))?;
        block_on(py, store.create_table())?.map_err(|error| errors::store_error(py, &error))
    }

    /// Records behind the methods of a Python object. `time_limit` is in seconds.
    #[staticmethod]
    #[pyo3(signature = (methods, time_limit, seal=None))]
    fn custom(methods: Py<PyAny>, time_limit: f64, seal: Option<&Bound<'_, Seal>>) -> PyResult<Self> {
        let time_limit = self::time_limit(time_limit)?;
        Ok(Self::new(Spec::Custom { methods: Arc::new(methods), time_limit }, seal))
    }

    /// Holds the store against every rule; an AssertionError names the first that does not hold.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        let store = self.open().map_err(|error| errors::store_error(py, &error))?;
        suite::check(py, store)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.spec {
            // Once used it lives as long as its process, as every store does.
            Spec::Custom { methods: held, .. }
            | Spec::Redis { credentials: Some(Given { callable: held, .. }), .. }
                if Arc::strong_count(held) == 1 =>
            {
                visit.call(&**held)
            }
            _ => Ok(()),
        }
    }

    /// What stands under a storage key.
    fn get<'py>(&self, py: Python<'py>, key: [u8; 32]) -> PyResult<Bound<'py, PyAny>> {
        let engine = self.engine().map_err(|error| errors::store_error(py, &error))?;
        let found = block_on(py, engine.get(&storage_key(key)))?.map_err(|error| errors::store_error(py, &error))?;
        found.map_or_else(|| Ok(py.None().into_bound(py)), |(held, now)| shown(py, held, now))
    }

    /// A page of records, without their results, and where the next one begins. `states` are the letters of
    /// [`state_of`]; `after` is where the page before ended.
    fn list<'py>(
        &self,
        py: Python<'py>,
        states: &str,
        after: Option<String>,
        most: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let engine = self.engine().map_err(|error| errors::store_error(py, &error))?;
        let mut listing = Listing::of(states.chars().filter_map(state_of)).most(most);
        listing.after = after.map(Cursor::new);
        let page = block_on(py, engine.list(&listing))?.map_err(|error| errors::store_error(py, &error))?;
        let listed = |found: Listed| {
            let left = found.life_left.map(|left| Duration::from_micros(left).as_secs_f64());
            let (key, size) = (PyBytes::new(py, &found.key.0), found.size);
            Ok((key, shown(py, found.held, found.now)?, left, size))
        };
        let records = page.records.into_iter().map(listed).collect::<PyResult<Vec<_>>>()?;
        let next = page.next.as_ref().map(Cursor::as_str);
        Ok((records, next).into_pyobject(py)?.into_any())
    }

    /// Completes or removes the record of exactly this fence, if it is unknown or lapsed or `force` asks for any.
    #[pyo3(signature = (key, fence, result, force))]
    fn resolve(
        &self,
        py: Python<'_>,
        key: [u8; 32],
        fence: u64,
        result: Option<Vec<u8>>,
        force: bool,
    ) -> PyResult<bool> {
        let engine = self.engine().map_err(|error| errors::store_error(py, &error))?;
        let resolved = block_on(py, engine.resolve(&storage_key(key), fence, result.map(Into::into), force))?;
        resolved.map_err(|error| errors::store_error(py, &error))
    }

    /// What kind of store it is, as events and metrics call it.
    #[getter]
    fn kind(&self) -> &'static str {
        self.engine().map_or("custom", |engine| engine.store_kind())
    }

    /// Removes what has expired; how many records.
    fn purge(&self, py: Python<'_>) -> PyResult<u64> {
        let engine = self.engine().map_err(|error| errors::store_error(py, &error))?;
        block_on(py, engine.purge())?.map_err(|error| errors::store_error(py, &error))
    }
}
