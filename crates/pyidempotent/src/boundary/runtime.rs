//! One Tokio runtime per process, and how a thread that holds the GIL waits for it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use idempotency::process::generation;
use idempotency::{Idempotency, StoreError, StoreErrorKind};
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle};

use super::driver::Driver;
use super::pool::Pool;
use super::stopping::Inside;
use super::{errors, stopping};
use idempotency::process::PerProcess;

/// What belongs to one process. A forked child makes its own and leaks its parent's: the parent's thread does not
/// exist there, and dropping the runtime would wait for it.
pub struct Process {
    pub id: u32,
    pub runtime: Handle,
    /// Who drives it.
    pub driver: &'static Driver,
    pub engines: Mutex<Vec<Idempotency>>,
    /// The threads of stores that have to call Python.
    pub pools: Mutex<Vec<Arc<Pool>>>,
}

static CURRENT: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());

/// This process's own, if it has used a store.
pub fn current() -> Option<&'static Process> {
    // SAFETY: the pointer is null or was leaked by `Box::into_raw` below, and is never freed.
    let current = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    current.filter(|process| process.id == generation())
}

/// This process's own, made when a store is first used.
///
/// # Errors
/// Where the operating system refuses a poller or a thread; the next call tries again.
pub fn process() -> Result<&'static Process, StoreError> {
    current().map_or_else(start, Ok)
}

#[cold]
fn start() -> Result<&'static Process, StoreError> {
    static STARTING: PerProcess<Mutex<()>> = PerProcess::new();
    let _one_at_a_time = STARTING.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(process) = current() {
        return Ok(process);
    }
    let refused = |what: &str, source: std::io::Error| {
        let message = format!("the operating system refuses {what}: {source}; nothing ran. Raise its limit");
        StoreError::new(StoreErrorKind::NotExecuted, message).with_source(source)
    };
    // Of one thread, whichever it is, instead of a pool: its tasks run in turn, so that the commands of a batch reach
    // the connection before it writes. A pool's worker would run the connection after every one of them.
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| refused("a poller (file descriptors)", source))?;
    let (handle, driver) = (runtime.handle().clone(), Box::into_raw(Box::new(Driver::new(runtime))));
    // SAFETY: it was just leaked, and is freed below alone, where nothing has seen it.
    let driver_here: &'static Driver = unsafe { &*driver };
    if let Err(source) = driver_here.start() {
        // SAFETY: no thread was started, so nobody else has it.
        drop(unsafe { Box::from_raw(driver) });
        return Err(refused("a thread", source));
    }
    let (engines, pools) = Default::default();
    let made = Process { id: generation(), runtime: handle, driver: driver_here, engines, pools };
    let process: &'static Process = Box::leak(Box::new(made));
    CURRENT.store(std::ptr::from_ref(process).cast_mut(), Ordering::Release);
    Ok(process)
}

impl Process {
    /// Remembers an engine, so that a shutdown waits for its background work.
    pub fn adopt(&self, engine: Idempotency) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }

    /// Remembers a store's threads, so that a shutdown waits until they have left Python.
    pub fn adopt_pool(&self, pool: Arc<Pool>) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
    }
}

/// How a call waits for the store.
#[derive(Clone, Copy)]
pub enum Mode {
    /// On its own thread.
    Sync,
    /// In the running loop.
    Async,
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
    let _inside = Inside::enter(py)?;
    let process = process().map_err(|error| errors::store_error(py, &error))?;
    let mut future = pin!(future);
    loop {
        let ended = py.detach(|| process.driver.wait(future.as_mut(), SLICE));
        stopping::may_go_on(py)?; // what has ended is dropped, as a claim that comes too late
        match ended {
            Some(output) => return Ok(output),
            None => py.check_signals()?,
        }
    }
}

/// Polls a future once in the runtime's context; `None` too where there is no runtime to be had, which `block_on` says.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    let _context = process().ok()?.runtime.enter();
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
