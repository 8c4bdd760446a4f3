//! asyncio: an operation runs on the runtime and resolves a future of the running loop.
//!
//! Each loop has one bridge. An operation's completion is put on the bridge's queue; the first of a batch writes one
//! byte to a socket the loop watches, and the loop's own thread resolves the whole batch. The runtime's thread never
//! takes the GIL and never sees a Python object: operations are numbers to it.

use std::collections::HashMap;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use idempotency::process::generation;
use idempotency::{StoreError, StoreErrorKind};
use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefMethods, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use super::begun::Begun;
use super::errors;
use super::once::{Once, intern};
use super::runtime::process;
use super::stopping::Inside;

/// Makes the Python result, on the loop's thread.
type Completion = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// The side that the runtime's thread sees.
struct Shared {
    queue: Mutex<Vec<(u64, Completion)>>,
    woken: AtomicBool,
    waker: UnixStream,
}

impl Shared {
    fn push(&self, number: u64, completion: Completion) {
        locked(&self.queue).push((number, completion));
        if !self.woken.swap(true, Ordering::SeqCst) {
            // A full socket has woken the loop already; a closed one has no loop any more.
            let _ = (&self.waker).write(&[1]);
        }
    }
}

/// The loop's side. Only the loop holds it, as the owner of a reader, so that it goes when the loop is closed or gone,
/// with all that it waits for; late completions then release their claims.
#[pyclass(frozen, weakref, module = "pyidempotent._native")]
struct Bridge {
    process: u32,
    shared: Arc<Shared>,
    reader: UnixStream,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    futures: HashMap<u64, (Py<PyAny>, AbortHandle)>,
    /// While a batch of resolved tasks runs, what they submit is kept here, to go out together: one waking of the
    /// runtime and one write to the server instead of one each.
    outbox: Option<Vec<Operation>>,
}

/// Work on the runtime, which ends by pushing its completion.
type Operation = Pin<Box<dyn Future<Output = ()> + Send>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Bridge {
    /// Futures know their loop, which knows its bridge.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.waiting.try_lock() {
            Ok(waiting) => waiting.futures.values().try_for_each(|(future, _)| visit.call(future)),
            Err(_) => Ok(()), // in use, so not garbage
        }
    }

    fn __clear__(&self) {
        let futures = std::mem::take(&mut locked(&self.waiting).futures);
        drop(futures); // outside of the lock
    }

    /// Resolves what has completed. Called by the loop when the socket is readable.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, bridge) = (slf.py(), slf.get());
        let Ok(_inside) = Inside::enter(py) else { return Ok(()) };
        // The byte first, the flag second, the queue last: whoever pushes after the flag is cleared writes a byte that
        // stays, and whoever pushed before is in the queue.
        let _ = (&bridge.reader).read(&mut [0; 16]);
        bridge.shared.woken.store(false, Ordering::SeqCst);
        // The queue is swapped before anything is resolved: resolving may run code that queues more.
        let batch = std::mem::take(&mut *locked(&bridge.shared.queue));
        let many = batch.len() > 1;
        let mut running = None;
        for (number, completion) in batch {
            let Some((future, _)) = locked(&bridge.waiting).futures.remove(&number) else {
                continue; // abandoned: dropping the completion releases its claim
            };
            let future = future.into_bound(py);
            if let Err(error) = resolve(&future, completion) {
                error.write_unraisable(py, Some(&future));
            }
            running = Some(future);
        }
        if let Some(future) = running.filter(|_| many) {
            // The tasks just resolved are scheduled before this, and have all run when it is called.
            let flush = slf.getattr(intern!(py, "flush"))?;
            locked(&bridge.waiting).outbox.get_or_insert_default();
            future.call_method0(intern!(py, "get_loop"))?.call_method1(intern!(py, "call_soon"), (flush,))?;
        }
        Ok(())
    }

    /// Sends what was submitted since the last batch was resolved.
    fn flush(&self) {
        send(locked(&self.waiting).outbox.take().unwrap_or_default());
    }
}

/// How many operations leave together. The server works on them while the loop's tasks submit the next.
const TOGETHER: usize = 16;

fn send(operations: Vec<Operation>) {
    // Whoever submitted them has made sure that there is a process.
    let Ok(process) = process() else { return };
    // One task from here, the others on the runtime's own thread.
    process.runtime.spawn(async move {
        for operation in operations {
            tokio::spawn(operation);
        }
    });
}

fn resolve<'py>(future: &Bound<'py, PyAny>, completion: Completion) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(()); // cancelled meanwhile: dropping the completion releases its claim
    }
    match completion(py) {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,)),
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error,)),
    }
    .map(drop)
}

/// Makes the class of [`Bridge`].
pub fn make_class(py: Python<'_>) {
    py.get_type::<Bridge>();
}

/// The bridges by the address of their loop. Only touched with the GIL held and never across a call into Python, so
/// that a fork cannot copy it locked.
static BRIDGES: Mutex<Option<HashMap<usize, Py<PyWeakrefReference>>>> = Mutex::new(None);

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: Once<Py<PyAny>> = Once::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0().map_err(|error| {
        let message = "there is no running asyncio loop: async functions run under asyncio (or uvloop), not under trio; \
                       a def can be called anywhere";
        let raised = PyRuntimeError::new_err(message);
        raised.set_cause(py, Some(error));
        raised
    })
}

fn known_bridge(py: Python<'_>, address: usize) -> Option<Bound<'_, Bridge>> {
    let weak = locked(&BRIDGES).as_ref()?.get(&address)?.clone_ref(py);
    weak.bind(py).upgrade_as().ok()?
}

fn bridge_of<'py>(running: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Bridge>> {
    match known_bridge(running.py(), running.as_ptr() as usize) {
        Some(bridge) if bridge.get().process == generation() => Ok(bridge),
        // None yet, or a parent's.
        _ => build(running),
    }
}

#[cold]
fn build<'py>(running: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Bridge>> {
    let py = running.py();
    let refused = |source: std::io::Error| {
        let message = format!("the operating system refuses a socket to wake the event loop by: {source}; nothing ran");
        errors::store_error(py, &StoreError::new(StoreErrorKind::NotExecuted, message).with_source(source))
    };
    let (waker, reader) = UnixStream::pair().map_err(refused)?;
    waker.set_nonblocking(true).and_then(|()| reader.set_nonblocking(true)).map_err(refused)?;
    let descriptor = reader.as_raw_fd();
    let shared = Arc::new(Shared { queue: Mutex::default(), woken: AtomicBool::new(false), waker });
    let bridge = Bound::new(py, Bridge { process: generation(), shared, reader, waiting: Mutex::default() })?;
    running.call_method1("add_reader", (descriptor, bridge.getattr("drain")?)).map_err(|error| {
        if !error.is_instance_of::<PyNotImplementedError>(py) {
            return error;
        }
        let message = "pyidempotent needs an event loop with add_reader; on Windows use asyncio.SelectorEventLoop";
        let raised = PyRuntimeError::new_err(message);
        raised.set_cause(py, Some(error));
        raised
    })?;
    let weak = PyWeakrefReference::new(&bridge)?.unbind();
    let mut bridges = locked(&BRIDGES);
    let bridges = bridges.get_or_insert_default();
    bridges.retain(|_, known| known.bind(py).upgrade().is_some());
    bridges.insert(running.as_ptr() as usize, weak);
    Ok(bridge)
}

/// Runs `work` on the runtime; the returned future of the running loop gets what `convert` makes of its output.
pub fn submit<'py, T: Send + 'static>(
    py: Python<'py>,
    work: impl Future<Output = T> + Send + 'static,
    convert: for<'a> fn(Python<'a>, T) -> PyResult<Bound<'a, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let _inside = Inside::enter(py)?;
    let process = process().map_err(|error| errors::store_error(py, &error))?;
    let running = running_loop(py)?;
    let bridge = bridge_of(&running)?;
    let future = running.call_method0(intern!(py, "create_future"))?;
    let (shared, mut waiting) = (bridge.get().shared.clone(), locked(&bridge.get().waiting));
    waiting.last += 1;
    let number = waiting.last;
    let under_way = process.driver.under_way();
    let operation = async move {
        let _under_way = under_way;
        let output = work.await;
        shared.push(number, Box::new(move |py| convert(py, output)));
    };
    let (abort, registration) = AbortHandle::new_pair();
    let operation = Abortable::new(operation, registration);
    match &mut waiting.outbox {
        Some(outbox) => {
            outbox.push(Box::pin(operation.map(drop)));
            if outbox.len() >= TOGETHER {
                send(std::mem::take(outbox));
            }
        }
        None => drop(process.runtime.spawn(operation)),
    }
    waiting.futures.insert(number, (future.clone().unbind(), abort));
    Ok(future)
}

/// Gives up a future that `submit` returned, whatever became of it: on the wire or just arrived, its operation ends and
/// its claim is released. Its loop may have stopped running.
#[pyfunction]
pub fn abandon(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    let address = future.call_method0(intern!(py, "get_loop"))?.as_ptr() as usize;
    let given_up = known_bridge(py, address).and_then(|bridge| {
        let mut waiting = locked(&bridge.get().waiting);
        let number = waiting.futures.iter().find(|(_, (known, _))| known.is(future)).map(|(number, _)| *number);
        number.and_then(|number| waiting.futures.remove(&number))
    });
    if let Some((_, operation)) = given_up {
        operation.abort();
    }
    let is = |question: &Bound<'_, PyString>| future.call_method0(question)?.is_truthy();
    if is(intern!(py, "done"))? && !is(intern!(py, "cancelled"))? && !is(intern!(py, "exception"))? {
        let arrived = future.call_method0(intern!(py, "result"))?;
        if let Ok(begun) = arrived.cast::<Begun>() {
            drop(begun.get().take());
        }
    }
    Ok(())
}
