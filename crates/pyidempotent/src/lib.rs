//! `pyidempotent._native`: the engine, for Python. Conversions, the boundary, and the flow of a protected call, which every
//! face shares, sync or async (`flow`); what becomes of a key is decided in `idempotency`.

#[cfg(feature = "bench")]
mod bare_get;
mod boundary;
mod calls;
mod cli;
mod console;
mod events;
mod flow;
mod function;
mod http;
mod stores;
mod transactions;
mod value;

use idempotency::clock::{Clock, SystemClock};
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
    boundary::logging::install();
    module.add_class::<stores::backend::Backend>()?;
    module.add_class::<stores::seal::Seal>()?;
    module.add_class::<console::Console>()?;
    module.add_class::<calls::engine::Engine>()?;
    module.add_class::<calls::site::Site>()?;
    module.add_class::<function::plan::Plan>()?;
    module.add_class::<function::call::FunctionCall>()?;
    module.add_class::<http::facts::Facts>()?;
    module.add_class::<http::request::RequestCall>()?;
    module.add_class::<http::answer::Answer>()?;
    module.add_class::<http::capture::Capture>()?;
    module.add_class::<flow::Flow>()?;
    module.add_class::<transactions::InTransaction>()?;
    module.add_function(wrap_pyfunction!(cli::command_line, module)?)?;
    module.add_function(wrap_pyfunction!(transactions::sqlite_tables, module)?)?;
    module.add_class::<calls::attempt::CurrentAttempt>()?;
    module.add_class::<calls::attempt::Completion>()?;
    module.add_class::<calls::outcome::Outcome>()?;
    module.add_class::<stores::custom::Step>()?;
    module.add("TooLarge", module.py().get_type::<stores::custom::TooLarge>())?;
    module.add_class::<stores::rehearsal::Rehearsal>()?;
    module.add_function(wrap_pyfunction!(stores::custom::expires_at, module)?)?;
    module.add_function(wrap_pyfunction!(boundary::bridge::abandon, module)?)?;
    module.add_function(wrap_pyfunction!(boundary::lifecycle::drain, module)?)?;
    module.add_function(wrap_pyfunction!(boundary::lifecycle::shutdown, module)?)?;
    module.add_function(wrap_pyfunction!(value::encoding::encode, module)?)?;
    module.add_function(wrap_pyfunction!(value::encoding::decode, module)?)?;
    module.add_function(wrap_pyfunction!(value::encoding::unpack, module)?)?;
    module.add_function(wrap_pyfunction!(flow::protect, module)?)?;
    module.add_function(wrap_pyfunction!(value::key::key_text, module)?)?;
    module.add_function(wrap_pyfunction!(stores::backend::postgres_schema, module)?)?;
    module.add_function(wrap_pyfunction!(function::plan::find_instance, module)?)?;
    module.add_function(wrap_pyfunction!(value::digest::fingerprint_call, module)?)?;
    module.add_function(wrap_pyfunction!(http::facts::authorization_caller, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::replayed, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::verdict_of, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::refusals, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::is_refusal, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::problem, module)?)?;
    module.add_function(wrap_pyfunction!(http::answer::too_large, module)?)?;
    module.add_class::<events::Event>()?;
    module.add_class::<events::Observation>()?;
    module.add_class::<events::totals::Totals>()?;
    module.add_function(wrap_pyfunction!(events::observe, module)?)?;
    module.add_function(wrap_pyfunction!(events::flush_events, module)?)?;
    module.add_function(wrap_pyfunction!(events::dropped_events, module)?)?;
    module.add_function(wrap_pyfunction!(events::totals::metrics, module)?)?;
    http::answer::add_constants(module)?;
    // What PyO3 and the engine would make when it is first used is made before anything forks: see `boundary::once`.
    module.py().get_type::<boundary::begun::Begun>();
    module.py().get_type::<stores::custom::Foreign>();
    boundary::bridge::make_class(module.py());
    idempotency::process::generation();
    SystemClock.now();
    #[cfg(feature = "bench")]
    module.add_function(wrap_pyfunction!(bare_get::bare_get, module)?)?;
    #[cfg(feature = "bench")]
    module.add_function(wrap_pyfunction!(bare_get::bare_select, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
