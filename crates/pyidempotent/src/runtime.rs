//! One Tokio runtime per process, and how a thread that holds the GIL waits for it.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use idempotency::Idempotency;
use idempotency::process::generation;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle};

use crate::pool::Pool;

/// What belongs to one process. A forked child makes its own and leaks its parent's: the parent's thread does not
/// exist there, and dropping the runtime would wait for it.
pub struct Process {
    pub id: u32,
    pub runtime: Handle,
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
    // On a thread of our own instead of a pool's: its tasks run in turn, so that the commands of a batch reach the
    // connection before it writes. A pool's worker would run the connection after every one of them.
    let runtime = Builder::new_current_thread().enable_all().build().expect("the operating system gives a poller");
    let (handle, calls) = (runtime.handle().clone(), Pool::default());
    let new = Box::into_raw(Box::new(Process { id, runtime: handle, calls, engines: Mutex::default() }));
    match CURRENT.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            let thread = std::thread::Builder::new().name("idempotency".into());
            let served = thread.spawn(move || runtime.block_on(std::future::pending::<()>()));
            served.expect("the operating system gives a thread");
            // SAFETY: `new` was just leaked and is never freed.
            unsafe { &*new }
        }
        Err(_) => {
            // SAFETY: `new` was never shared. Another thread of this process was quicker.
            drop(unsafe { Box::from_raw(new) });
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

/// How long a signal may have to wait for its handler.
const SLICE: Duration = Duration::from_millis(100);

/// Runs a future to its end on the runtime while the GIL is free; a signal's exception ends the wait and drops it.
pub fn block_on<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = &process().runtime;
    let mut future = pin!(future);
    loop {
        // The timer is made inside: it needs the runtime's context.
        let slice = py.detach(|| runtime.block_on(async { tokio::time::timeout(SLICE, future.as_mut()).await }));
        match slice {
            Ok(output) => return Ok(output),
            Err(_) => py.check_signals()?,
        }
    }
}

/// Polls a future once in the runtime's context: a store that answers without I/O has answered then.
pub fn poll_once<F: Future + Unpin>(mut future: F) -> Result<F::Output, F> {
    let _context = process().runtime.enter();
    match std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err(future),
    }
}

/// Waits at most `limit` seconds for completions and releases that are still on their way. For the interpreter's exit.
#[pyfunction]
pub fn shutdown(py: Python<'_>, limit: f64) -> bool {
    let process = process();
    let engines = std::mem::take(&mut *process.engines.lock().unwrap_or_else(PoisonError::into_inner));
    let deadline = Instant::now() + Duration::try_from_secs_f64(limit).unwrap_or_default();
    let left = || deadline.saturating_duration_since(Instant::now());
    py.detach(|| {
        let drained = process.runtime.block_on(async {
            let mut all = true;
            for engine in &engines {
                all &= engine.drain(left()).await;
            }
            all
        });
        STOPPING.store(true, Ordering::Release);
        process.calls.rest(left());
        drained
    })
}
