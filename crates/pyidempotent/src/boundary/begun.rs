//! [`Begun`]: a claim's answer on its way to its flow.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

/// A claim's answer on its way to its flow. Collected untaken, what was claimed is released in the background.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Begun(Mutex<Option<idempotency::engine::Begun>>);

impl Begun {
    pub fn new(begun: idempotency::engine::Begun) -> Self {
        Self(Mutex::new(Some(begun)))
    }

    pub fn take(&self) -> Option<idempotency::engine::Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
