//! `pyidempotent._native`: the engine, for Python. Conversions, the boundary, and the flow of a protected call, which every
//! face and both colours share (`flow`); what becomes of a key is decided in `idempotency`.

mod attempt;
mod backends;
mod bridge;
mod call;
mod conformance;
mod custom;
mod driver;
mod engine;
mod errors;
#[cfg(feature = "bench")]
mod floor;
mod flow;
mod http;
mod logging;
mod outcome;
mod per_process;
mod plan;
mod pool;
mod rehearsal;
mod runtime;
mod site;
mod stopping;
mod value;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The engine of pyidempotent.
// The bridges rely on the GIL: a free-threaded interpreter turns it on, and says so.
#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // SAFETY: this thread is attached, so it has a current interpreter.
    let interpreter = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if interpreter != 0 {
        return Err(PyImportError::new_err(
            "pyidempotent works in the main interpreter only: its runtime and its stores are one per process",
        ));
    }
    logging::install();
    module.add_class::<backends::Backend>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<site::Site>()?;
    module.add_class::<plan::Plan>()?;
    module.add_class::<call::FunctionCall>()?;
    module.add_class::<http::facts::Facts>()?;
    module.add_class::<http::request::RequestCall>()?;
    module.add_class::<http::answer::Answer>()?;
    module.add_class::<http::capture::Capture>()?;
    module.add_class::<flow::Flow>()?;
    module.add_class::<attempt::CurrentAttempt>()?;
    module.add_class::<attempt::Completion>()?;
    module.add_class::<outcome::Outcome>()?;
    module.add_class::<custom::Step>()?;
    module.add("TooLarge", module.py().get_type::<custom::TooLarge>())?;
    module.add_class::<rehearsal::Rehearsal>()?;
    module.add_function(wrap_pyfunction!(custom::expires_at, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::abandon, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::drain, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::shutdown, module)?)?;
    module.add_function(wrap_pyfunction!(value::encode, module)?)?;
    module.add_function(wrap_pyfunction!(value::decode, module)?)?;
    module.add_function(wrap_pyfunction!(flow::protect, module)?)?;
    module.add_function(wrap_pyfunction!(call::key_text, module)?)?;
    module.add_function(wrap_pyfunction!(plan::find_instance, module)?)?;
    module.add_function(wrap_pyfunction!(plan::fingerprint_call, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::replayed, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::verdict_of, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::refusals, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::is_refusal, module)?)?;
    http::answer::add_constants(module)?;
    #[cfg(feature = "bench")]
    module.add_function(wrap_pyfunction!(floor::bare_get, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
