//! Between Python's threads and loops and the engine's runtime: waiting, waking, forks, the interpreter's end; errors and
//! log lines on their way to Python. It imports the engine, and nothing of this crate.

pub mod begun;
pub mod bridge;
pub mod convert;
mod driver;
pub mod errors;
pub mod lifecycle;
pub mod logging;
pub mod observing;
pub mod once;
pub mod pool;
pub mod python;
pub mod runtime;
pub mod stopping;
