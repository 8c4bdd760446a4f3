//! [`Seal`]: the keys that results are sealed with.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use idempotency::Store;
use idempotency::form::RecordForm;
use idempotency::seal::{SealKeys, Sealed, from_environment};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The keys of `pyidempotent.Seal`. Equal ones are of equal keys and settings; nothing shows them.
#[pyclass(frozen, module = "pyidempotent._native")]
#[derive(Clone)]
pub struct Seal(SealKeys);

impl Seal {
    /// A store that seals what `store` keeps.
    pub fn around(self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Sealed::new(store, self.0))
    }

    /// What records are written in, beside a store.
    pub fn form(&self) -> Arc<dyn RecordForm> {
        Arc::new(self.0.clone())
    }
}

fn wrong(what: &str, error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{what}: {error}"))
}

#[pymethods]
impl Seal {
    /// Of keys as text, and of the one that hides names.
    #[new]
    #[pyo3(signature = (keys, names, reads_plain))]
    fn new(keys: &str, names: Option<&str>, reads_plain: bool) -> PyResult<Self> {
        let mut seal = SealKeys::parse(keys).map_err(|error| wrong("seal", error))?;
        if let Some(names) = names {
            seal = seal.hiding_names(names).map_err(|error| wrong("the names' key of a seal", error))?;
        }
        Ok(Self(if reads_plain { seal } else { seal.refusing_plain() }))
    }

    /// That of the environment's variables, if it has them.
    #[staticmethod]
    fn from_environment() -> PyResult<Option<Self>> {
        from_environment().map(|keys| keys.map(Self)).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// A new key's text.
    #[staticmethod]
    fn new_key() -> String {
        SealKeys::generate()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().0 == self.0)
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }
}
