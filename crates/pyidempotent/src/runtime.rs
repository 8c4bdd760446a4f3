//! One Tokio runtime per process, and how a thread that holds the GIL waits for it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use idempotency::Idempotency;
use idempotency::process::generation;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use tokio::runtime::{Builder, Handle};

use crate::bridge;
use crate::driver::Driver;
use crate::pool::Pool;

/// What belongs to one process. A forked child makes its own and leaks its parent's: the parent's thread does not
/// exist there, and dropping the runtime would wait for it.
pub struct Process {
    pub id: u32,
    pub runtime: Handle,
    /// Who drives it.
    pub driver: &'static Driver,
    /// For what has to call Python.
    pub calls: Pool,
    engines: Mutex<Vec<Idempotency>>,
}

static CURRENT: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());
static STOPPING: AtomicBool = AtomicBool::new(false);

/// This process's own.
pub fn process() -> &'static Process {
    let id = generation();
    let current = CURRENT.load(Ordering::Acquire);
    // SAFETY: the pointer is null or was leaked by `Box::into_raw` below, and is never freed.
    match unsafe { current.as_ref() } {
        Some(process) if process.id == id => process,
        _ => start(id, current),
    }
}

#[cold]
fn start(id: u32, seen: *mut Process) -> &'static Process {
    // Of one thread, whichever it is, instead of a pool: its tasks run in turn, so that the commands of a batch reach
    // the connection before it writes. A pool's worker would run the connection after every one of them.
    let runtime = Builder::new_current_thread().enable_all().build().expect("the operating system gives a poller");
    let (handle, calls) = (runtime.handle().clone(), Pool::default());
    let driver = Box::into_raw(Box::new(Driver::new(runtime)));
    // SAFETY: it lives as long as its process, which is either leaked or gone before it, below.
    let made = Process { id, runtime: handle, driver: unsafe { &*driver }, calls, engines: Mutex::default() };
    let new = Box::into_raw(Box::new(made));
    match CURRENT.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // SAFETY: `new` was just leaked and is never freed.
            let process = unsafe { &*new };
            process.driver.start();
            process
        }
        Err(_) => {
            // SAFETY: neither was ever shared. Another thread of this process was quicker.
            unsafe {
                drop(Box::from_raw(new));
                drop(Box::from_raw(driver));
            }
            process()
        }
    }
}

impl Process {
    /// Remembers an engine, so that a shutdown waits for its background work.
    pub fn adopt(&self, engine: Idempotency) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }
}

/// Whether the interpreter is going away: nothing may attach to it any more.
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::Acquire)
}

/// How a call waits for the store.
#[derive(Clone, Copy)]
pub enum Colour {
    /// On its own thread.
    Thread,
    /// In the running loop.
    Loop,
}

/// What an operation on the store comes to.
pub enum Answer<'py, T> {
    Ready(T),
    /// A future of the running loop.
    Later(Bound<'py, PyAny>),
}

/// How long a signal may have to wait for its handler.
const SLICE: Duration = Duration::from_millis(100);

/// Runs a future to its end on the runtime while the GIL is free; a signal's exception ends the wait and drops it.
pub fn block_on<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let mut future = pin!(future);
    loop {
        match py.detach(|| process().driver.wait(future.as_mut(), SLICE)) {
            Some(output) => return Ok(output),
            None => py.check_signals()?,
        }
    }
}

/// Polls a future once in the runtime's context.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    let _context = process().runtime.enter();
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The output of a future that needs no I/O: nothing is moved to another thread, and the GIL is kept.
pub fn at_once<F>(py: Python<'_>, mut future: Pin<&mut F>) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    match poll_once(future.as_mut()) {
        Some(output) => Ok(output),
        None => block_on(py, future),
    }
}

/// Waits at most `limit` for completions and releases that are still on their way; whether all have ended.
async fn drained(limit: Duration) -> bool {
    let engines = process().engines.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let deadline = tokio::time::Instant::now() + limit;
    let mut all = true;
    for engine in &engines {
        all &= engine.drain(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
    }
    all
}

/// Waits at most `limit` seconds for completions and releases that are still on their way: a future of the running
/// loop, of whether all have ended.
#[pyfunction]
#[pyo3(signature = (limit, /))]
pub fn drain(py: Python<'_>, limit: f64) -> PyResult<Bound<'_, PyAny>> {
    let limit = crate::backends::seconds("limit", limit)?;
    bridge::submit(py, drained(limit), |py, all| Ok(PyBool::new(py, all).to_owned().into_any()))
}

/// The same for the interpreter's exit: afterwards nothing calls Python.
#[pyfunction]
pub fn shutdown(py: Python<'_>, limit: f64) -> bool {
    let deadline = Instant::now() + Duration::try_from_secs_f64(limit).unwrap_or_default();
    let left = || deadline.saturating_duration_since(Instant::now());
    py.detach(|| {
        let all = process().driver.wait(pin!(drained(left())), Duration::MAX).unwrap_or(false);
        STOPPING.store(true, Ordering::Release);
        process().calls.rest(left());
        all
    })
}
