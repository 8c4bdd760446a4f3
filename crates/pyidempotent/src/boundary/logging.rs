//! The engine's lines, handed to Python's `logging` under the name `pyidempotent`.
//!
//! Whoever logs may be the runtime's own thread, or hold a lock: it only queues its line. One thread hands the lines
//! over; what is left at the interpreter's exit is handed over there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;

use super::python;
use super::stopping::{self, is_stopping};
use idempotency::process::PerProcess;

/// How many lines wait at the most; what comes beyond that is counted.
const MOST: usize = 1000;

#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    arrived: Condvar,
    handed_over: Condvar,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<(Level, String)>,
    dropped: usize,
    /// Whether there is a thread that hands them over.
    is_served: bool,
    /// Whether that thread is in Python code, or about to be.
    is_handing_over: bool,
}

static QUEUE: PerProcess<Queue> = PerProcess::new();

impl Queue {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands lines over until the interpreter goes away.
    fn serve(&self) {
        loop {
            let mut lines = self.lines();
            let (line, dropped) = loop {
                if is_stopping() {
                    return;
                }
                if let Some(line) = lines.waiting.pop_front() {
                    lines.is_handing_over = true;
                    break (line, std::mem::take(&mut lines.dropped));
                }
                lines = self.arrived.wait(lines).unwrap_or_else(PoisonError::into_inner);
            };
            drop(lines);
            Python::attach(|py| hand_over(py, line, dropped));
            self.lines().is_handing_over = false;
            self.handed_over.notify_all();
        }
    }
}

struct ToPython;

impl Log for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && metadata.target().starts_with("idempotency")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || is_stopping() {
            return;
        }
        let (queue, line) = (QUEUE.get(), (record.level(), record.args().to_string()));
        let mut lines = queue.lines();
        if lines.waiting.len() < MOST {
            lines.waiting.push_back(line);
        } else {
            lines.dropped += 1;
        }
        if !lines.is_served {
            // Without a thread the lines wait for the next one, or for the exit.
            let thread = std::thread::Builder::new().name("idempotency-logging".into());
            lines.is_served = thread.spawn(|| queue.serve()).is_ok();
        }
        queue.arrived.notify_one();
    }

    fn flush(&self) {}
}

fn hand_over(py: Python<'_>, (level, message): (Level, String), dropped: usize) {
    let log = || -> PyResult<()> {
        let logger = python::logger(py)?.clone();
        if dropped > 0 {
            let args = ("%d lines of the log were dropped: they came too fast", dropped).into_pyobject(py)?;
            stopping::call(&logger.getattr("error")?, &args)?;
        }
        let level = match level {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        stopping::call(&logger.getattr(level)?, &("%s", message).into_pyobject(py)?).map(drop)
    };
    if let Err(error) = log() {
        error.write_unraisable(py, None);
    }
}

/// For the interpreter's exit, once nothing attaches any more: waits at most `limit` for the line that is being handed
/// over, and hands over the others. Where a handler does not return they are dropped: it may hold what they need.
pub fn finish(py: Python<'_>, limit: Duration) {
    let queue = QUEUE.get();
    let Lines { waiting, mut dropped, is_handing_over, .. } = py.detach(|| {
        queue.arrived.notify_all();
        let waited = queue.handed_over.wait_timeout_while(queue.lines(), limit, |lines| lines.is_handing_over);
        let (mut lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *lines)
    });
    if is_handing_over {
        return;
    }
    for line in waiting {
        hand_over(py, line, std::mem::take(&mut dropped));
    }
}

/// How many calls ask for the level each time; later ones ask now and then, because asking takes time.
const FIRST: u32 = 256;
const NOW_AND_THEN: u32 = 64;

/// Takes note of the level that Python's logger has: lines below it are not made. Every call asks.
pub fn look(py: Python<'_>) {
    static LOOKS: AtomicU32 = AtomicU32::new(0);
    let looks = LOOKS.load(Ordering::Relaxed);
    LOOKS.store(looks.wrapping_add(1).max(looks.min(FIRST)), Ordering::Relaxed);
    if looks < FIRST || looks.is_multiple_of(NOW_AND_THEN) {
        look_now(py);
    }
}

#[cold]
fn look_now(py: Python<'_>) {
    let level = python::logger(py).and_then(|logger| logger.call_method0("getEffectiveLevel")?.extract::<u32>());
    // Python's numbers: 10 is DEBUG, 50 is CRITICAL. A level that can't be read changes nothing.
    let Ok(level) = level else { return };
    log::set_max_level(match level {
        ..=10 => LevelFilter::Debug,
        11..=20 => LevelFilter::Info,
        21..=30 => LevelFilter::Warn,
        _ => LevelFilter::Error,
    });
}

pub fn install() {
    // Another extension that links the same crate statically has a logger of its own: this one is only ours.
    if log::set_logger(&ToPython).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
