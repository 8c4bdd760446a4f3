//! The interpreter's end.
//!
//! Until CPython 3.14 a thread that needs the interpreter after its end is ended by unwinding its stack, and Rust frames
//! on that stack abort the process. So a shutdown waits until the threads that are inside of this library have left it,
//! no other thread enters it any more, and what may not return in time is called by [`call`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use idempotency::{StoreError, StoreErrorKind};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::errors;
use idempotency::process::PerProcess;

static STOPPER: PerProcess<OnceLock<Stopper>> = PerProcess::new();

/// Whether this process or one that it was forked from has a [`STOPPER`]: every call asks.
static HAS_STOPPER: AtomicBool = AtomicBool::new(false);

/// The thread that ends the interpreter. It may go on until the process ends.
struct Stopper {
    thread: Thread,
    /// What every other thread gets. It was made before: making it runs Python code.
    refusal: Py<PyAny>,
}

/// How many times threads are inside. It changes with the GIL held alone.
static INSIDE: PerProcess<AtomicUsize> = PerProcess::new();

fn stopper() -> Option<&'static Stopper> {
    if HAS_STOPPER.load(Ordering::Acquire) { STOPPER.get().get() } else { None }
}

/// Whether the interpreter is going away: nothing may attach to it any more.
pub fn is_stopping() -> bool {
    stopper().is_some()
}

/// Why a store is not asked any more.
pub fn stopped() -> StoreError {
    StoreError::new(StoreErrorKind::NotExecuted, "the interpreter is going away")
}

/// # Errors
/// On every thread but the one that ends the interpreter.
pub fn may_go_on(py: Python<'_>) -> PyResult<()> {
    match stopper() {
        Some(stopper) if stopper.thread.id() != thread::current().id() => {
            let refusal = PyErr::from_value(stopper.refusal.bind(py).clone());
            refusal.set_traceback(py, None); // of the thread that had it before
            Err(refusal)
        }
        _ => Ok(()),
    }
}

/// A thread's stay in code of this library that calls Python. A shutdown waits until all have left.
pub struct Inside(&'static AtomicUsize);

impl Inside {
    /// # Errors
    /// Where the interpreter is going away.
    pub fn enter(py: Python<'_>) -> PyResult<Self> {
        may_go_on(py)?;
        let inside = INSIDE.get();
        inside.store(inside.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(Self(inside))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let left = self.0.load(Ordering::Relaxed) - 1;
        self.0.store(left, Ordering::Relaxed);
        if left == 0
            && let Some(stopper) = stopper()
        {
            stopper.thread.unpark();
        }
    }
}

/// Lets no other thread enter from now on, and waits at most `limit` until all have left.
pub fn stop(py: Python<'_>, limit: Duration) {
    let refusal = errors::store_error(py, &stopped()).into_value(py).into_any();
    let _ = STOPPER.get().set(Stopper { thread: thread::current(), refusal });
    HAS_STOPPER.store(true, Ordering::Release);
    let deadline = Instant::now() + limit;
    py.detach(|| {
        while INSIDE.get().load(Ordering::Relaxed) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    });
}

/// Parks its thread for good when it is dropped, which only the interpreter's unwinding does.
struct Parked;

impl Drop for Parked {
    fn drop(&mut self) {
        loop {
            thread::park();
        }
    }
}

/// Calls what may still run when the interpreter ends: its thread is parked then.
pub fn call<'py>(callable: &Bound<'py, PyAny>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    type Call = unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
    type Unwinding = unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
    // SAFETY: the two types differ in whether the function may unwind, and this one does.
    let function: Unwinding = unsafe { std::mem::transmute(ffi::PyObject_Call as Call) };
    let parked = Parked;
    // SAFETY: both are alive, `args` is a tuple, and null means no keyword arguments.
    let returned = unsafe { function(callable.as_ptr(), args.as_ptr(), std::ptr::null_mut()) };
    std::mem::forget(parked);
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), returned) }
}
