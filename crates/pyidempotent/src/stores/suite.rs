//! The suite that every store must pass, for authors of backends in Python.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Arc;
use std::thread::ThreadId;

use futures_util::FutureExt;
use idempotency::Store;
use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;

use crate::boundary::runtime::block_on;

/// Checks a store; an AssertionError names the first rule that does not hold.
pub fn check(py: Python<'_>, store: Arc<dyn Store>) -> PyResult<()> {
    let quiet = Quiet::on_this_thread();
    let checked = block_on(py, AssertUnwindSafe(idempotency::conformance::check(store)).catch_unwind());
    drop(quiet);
    checked?.map_err(|broken| {
        let words = broken.downcast_ref::<String>().cloned();
        let words = words.or_else(|| broken.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        let words = words.unwrap_or_else(|| "the suite ended without a word".to_owned());
        PyAssertionError::new_err(words.replace("assertion `left == right` failed: ", ""))
    })
}

type Hook = dyn Fn(&PanicHookInfo<'_>) + Send + Sync;

/// A broken rule is told by the exception, not printed as a panic.
struct Quiet(Arc<Hook>);

impl Quiet {
    fn on_this_thread() -> Self {
        let (checking, before): (ThreadId, Arc<Hook>) = (std::thread::current().id(), panic::take_hook().into());
        let otherwise = before.clone();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() != checking {
                otherwise(info);
            }
        }));
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let before = self.0.clone();
        panic::set_hook(Box::new(move |info| before(info)));
    }
}
