//! The engine's warnings, handed to Python's `logging` under the name `pyidempotent`.

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;

use crate::runtime::{is_stopping, process};

struct ToPython;

impl Log for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn && metadata.target().starts_with("idempotency")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || is_stopping() {
            return;
        }
        let level = if record.level() == Level::Error { "error" } else { "warning" };
        let message = record.args().to_string();
        // Never attach on the thread that logs: it may be the runtime's own, or hold a lock.
        process().runtime.spawn_blocking(move || {
            if is_stopping() {
                return;
            }
            Python::attach(|py| {
                let log = || -> PyResult<()> {
                    let logger = py.import("logging")?.call_method1("getLogger", ("pyidempotent",))?;
                    logger.call_method1(level, ("%s", message)).map(drop)
                };
                if let Err(error) = log() {
                    error.write_unraisable(py, None);
                }
            });
        });
    }

    fn flush(&self) {}
}

pub fn install() {
    // Another extension that links the same crate statically has a logger of its own: this one is only ours.
    if log::set_logger(&ToPython).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
