//! Backends of the user's own: a Python object whose four methods apply the steps they are given.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idempotency::clock::wall_clock;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::step::{self, Answer, Change};
use idempotency::store::{Claimed, Completed, Cursor, Health, Listing, Page, Reply, Store};
use idempotency::{Record, StorageKey, StoreError, StoreErrorKind, Token};
use pyo3::BoundObject;
use pyo3::exceptions::{PyNotImplementedError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use tokio::sync::oneshot;

use crate::boundary::pool::{Job, Pool, Rank};
use crate::boundary::runtime::process;
use crate::boundary::stopping;

/// A store behind Python methods, called on threads of its own.
pub struct PythonStore {
    /// Never dropped on the runtime's thread: the `Backend` it was opened by holds it too.
    methods: Arc<Py<PyAny>>,
    pool: Arc<Pool>,
    time_limit: Duration,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PythonStore {
    pub fn new(methods: Arc<Py<PyAny>>, time_limit: Duration) -> Result<Self, StoreError> {
        let pool = Arc::new(Pool::new(time_limit));
        process()?.adopt_pool(pool.clone());
        Ok(Self { methods, pool, time_limit })
    }

    fn apply<'a, T: Send + 'static>(
        &'a self,
        method: &'static str,
        key: &StorageKey,
        attempt: Option<Token>,
        step: step::Step,
        pick: fn(Answer) -> Option<T>,
    ) -> Reply<'a, T> {
        let key = *key;
        self.ask(method, attempt, move |py, methods| {
            let answer = call(py, methods, method, key, step)?;
            Ok(pick(answer).expect("a step gives the answer of its operation"))
        })
    }

    /// Has a method called on one of the threads, within the time limit.
    fn ask<'a, T: Send + 'static>(
        &'a self,
        method: &'static str,
        attempt: Option<Token>,
        work: impl FnOnce(Python<'_>, &Py<PyAny>) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<'a, T> {
        let (methods, (to, answer)) = (self.methods.clone(), oneshot::channel());
        let job: Job = Box::new(move |py| {
            // Who asked has given up before it began: it is not executed.
            if to.is_closed() {
                return Box::new(|| ());
            }
            let answer = work(py, &methods);
            Box::new(move || drop(to.send(answer))) // who asked may have gone
        });
        let rank = if matches!(method, "renew" | "complete" | "release") { Rank::Held } else { Rank::New };
        let submitted = self.pool.submit(rank, attempt, job);
        Box::pin(async move {
            let (ticket, limit) = (submitted?, self.time_limit);
            let answer = tokio::time::timeout(limit, answer).await.map_err(|_| {
                if ticket.withdraw() {
                    let message = format!("the store is too slow: {method}() was not called within {limit:?}");
                    return StoreError::new(StoreErrorKind::NotExecuted, message);
                }
                let message = format!("{method}() of the backend did not return within {limit:?}");
                StoreError::new(StoreErrorKind::Unknown, message)
            })?;
            let stopped = |_| StoreError::new(StoreErrorKind::Unknown, "the interpreter is going away");
            answer.map_err(stopped)?
        })
    }
}

/// What a method of the user's returns that is no step's.
fn returned<'py, A: IntoPyObject<'py, Target = PyTuple>>(
    py: Python<'py>,
    methods: &Py<PyAny>,
    method: &str,
    arguments: A,
) -> Result<Bound<'py, PyAny>, StoreError> {
    let methods = methods.bind(py);
    let called = arguments.into_pyobject(py).map_err(Into::into).and_then(|arguments| {
        stopping::call(&methods.getattr(method)?, &arguments.into_any().into_bound().cast_into()?)
    });
    called.map_err(|error| {
        let class = methods.get_type().name().map_or_else(|_| "the backend".to_owned(), |name| name.to_string());
        let kind = match error.is_instance_of::<PyNotImplementedError>(py) {
            true => StoreErrorKind::Setup,
            false => StoreErrorKind::Refused,
        };
        StoreError::new(kind, format!("{method}() of {class} failed: {}", error.value(py))).with_source(error)
    })
}

/// A page of what the backend's own `items` finds.
fn items(py: Python<'_>, methods: &Py<PyAny>, listing: &Listing) -> Result<Page, StoreError> {
    let after = listing.after.as_ref().map(Cursor::key).transpose()?.map(|key| PyBytes::new(py, &key.0));
    let found = returned(py, methods, "items", (after, listing.most))?;
    // It may be a generator, whose code runs here.
    let pairs = PyTuple::new(py, [found]).and_then(|found| stopping::call(&py.get_type::<PyList>(), &found));
    let pairs = pairs.and_then(|pairs| pairs.extract::<Vec<([u8; 32], Vec<u8>)>>());
    let pairs = pairs.map_err(|error| {
        let message = format!("items() of the backend must return pairs of keys and values, both bytes: {error}");
        StoreError::new(StoreErrorKind::Setup, message).with_source(error)
    })?;
    let (mut page, now) = (Page::default(), wall_clock());
    if let Some((last, _)) = pairs.last().filter(|_| pairs.len() >= listing.most) {
        page.next = Some(Cursor::of_key(&StorageKey(*last)));
    }
    for (key, value) in pairs {
        let key = StorageKey(key);
        let listed = step::listed(key, &value, now).map_err(|error| StoreError::foreign(key, error))?;
        if listed.life_left != Some(0) && listing.states.contains(&listed.held.record.state) {
            page.records.push(listed);
        }
    }
    Ok(page)
}

fn call(
    py: Python<'_>,
    methods: &Py<PyAny>,
    method: &'static str,
    key: StorageKey,
    step: step::Step,
) -> Result<Answer, StoreError> {
    let methods = methods.bind(py);
    let class = methods.get_type().name().map_or_else(|_| "the backend".to_owned(), |name| name.to_string());
    let step = Bound::new(py, Step { step, key, outcome: Mutex::default() });
    let returned = step.and_then(|step| {
        let args = (PyBytes::new(py, &key.0), &step).into_pyobject(py)?;
        let returned = stopping::call(&methods.getattr(method)?, &args)?;
        Ok((returned, locked(&step.get().outcome).take()))
    });
    let misuse = |what: String| Err(StoreError::new(StoreErrorKind::Setup, format!("{method}() of {class} {what}")));
    match returned {
        Err(error) if error.is_instance_of::<TooLarge>(py) => {
            let message = format!("{method}() of {class} can't take the value: {}", error.value(py));
            Err(StoreError::new(StoreErrorKind::TooLarge, message).with_source(error))
        }
        Err(error) if error.is_instance_of::<Foreign>(py) => {
            Err(StoreError::new(StoreErrorKind::Foreign, error.value(py).to_string()))
        }
        Err(error) => {
            let message = format!("{method}() of {class} failed: {error}");
            Err(StoreError::new(StoreErrorKind::Refused, message).with_source(error))
        }
        Ok((returned, _)) if !returned.is_none() => {
            let _ = returned.call_method0("close"); // of a coroutine, which would complain that nobody awaited it
            let kind = returned.get_type().name().map_or_else(|_| "something".to_owned(), |name| name.to_string());
            misuse(format!("must be a plain method that returns None; it returned a {kind}"))
        }
        Ok((_, None)) => misuse("must call the step that it is given; it returned without".to_owned()),
        Ok((_, Some(answer))) => Ok(answer),
    }
}

pyo3::create_exception!(pyidempotent._native, Foreign, PyValueError, "A value that is not an idempotency record.");

pyo3::create_exception!(
    pyidempotent.backends.custom,
    TooLarge,
    pyo3::exceptions::PyException,
    "Raised by a backend's method that can never take a value of this size: its result is not kept, and nothing runs again."
);

/// One operation: what a backend calls with the value that stands under the key.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Step {
    step: step::Step,
    key: StorageKey,
    /// The answer of its last call.
    outcome: Mutex<Option<Answer>>,
}

#[pymethods]
impl Step {
    /// What stands under the key from now on, ``None``: nothing. The very object that it was given where it stays.
    #[pyo3(signature = (value, now=None))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        value: Bound<'py, PyAny>,
        now: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let now = now.map_or_else(|| Ok(wall_clock()), microseconds)?;
        let stored = match value.cast::<PyBytes>() {
            Ok(bytes) => Some(bytes.clone()),
            Err(_) if value.is_none() => None,
            Err(_) => {
                return Err(PyTypeError::new_err(format!(
                    "a step is called with the bytes that stand under the key, or None, not with a {}",
                    value.get_type().name()?
                )));
            }
        };
        let (change, answer) = self
            .step
            .apply(stored.as_ref().map(|bytes| bytes.as_bytes()), now)
            .map_err(|error| Foreign::new_err(StoreError::foreign(self.key, error).to_string()))?;
        *locked(&self.outcome) = Some(answer);
        Ok(match change {
            Change::Nothing => stored.map(Bound::into_any),
            Change::Write(value) => Some(PyBytes::new(py, &value).into_any()),
            Change::Remove => None,
        })
    }
}

fn microseconds(seconds: f64) -> PyResult<u64> {
    match (seconds * 1e6).round() {
        now if (0.0..1e16).contains(&now) => Ok(now as u64),
        _ => Err(PyValueError::new_err(format!("now must be seconds since 1970, not {seconds}"))),
    }
}

/// When a value expires, in seconds since 1970.
#[pyfunction]
pub fn expires_at(value: &[u8]) -> PyResult<f64> {
    let expires = step::expires(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(expires as f64 / 1e6)
}

fn done(answer: Answer) -> Option<bool> {
    match answer {
        Answer::Done(done) => Some(done),
        _ => None,
    }
}

impl Store for PythonStore {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        self.apply("claim", key, Some(claim.record.token), step::Step::Claim(claim.clone()), |answer| match answer {
            Answer::Claimed(claimed) => Some(claimed),
            _ => None,
        })
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.apply("renew", key, Some(attempt.token), step::Step::Renew(attempt.token), done)
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: u64) -> Reply<'a, Completed> {
        let step = step::Step::Complete(record.clone(), recreate_until);
        self.apply("complete", key, Some(record.token), step, |answer| match answer {
            Answer::Completed(completed) => Some(completed),
            _ => None,
        })
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.apply("release", key, Some(attempt.token), step::Step::Release(attempt.token), done)
    }

    // What operators do is a step as any other: the first of the four methods takes it.

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, u64)>> {
        self.apply("claim", key, None, step::Step::Get, |answer| match answer {
            Answer::Found(found) => Some(found),
            _ => None,
        })
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        self.apply("claim", key, None, step::Step::Resolve(resolution.clone()), done)
    }

    fn purge(&self) -> Reply<'_, u64> {
        self.ask("purge", None, |py, methods| {
            let removed = returned(py, methods, "purge", ())?;
            removed.extract().map_err(|error| {
                let message = format!("purge() of the backend must return how many values it removed: {error}");
                StoreError::new(StoreErrorKind::Setup, message).with_source(error)
            })
        })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        let listing = listing.clone();
        self.ask("items", None, move |py, methods| items(py, methods, &listing))
    }

    fn health(&self) -> Reply<'_, Health> {
        self.ask("health", None, |py, methods| {
            let class = methods.bind(py).get_type().name();
            Ok(Health::new(class.map_or_else(|_| "the backend".to_owned(), |name| name.to_string()), ""))
        })
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }
}
