//! Who logs in to Redis, where a Python callable says it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use idempotency::StoreError;
use idempotency::stores::{RedisCredentials, RedisLogin, RedisLoginReply};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tokio::sync::oneshot;

use crate::boundary::convert::seconds;
use crate::boundary::pool::{Job, Pool, Rank};
use crate::boundary::runtime::process;
use crate::boundary::stopping;

/// A callable without arguments that returns a user's name or None, a password, and the seconds that they hold or None.
#[derive(Clone)]
pub struct Given {
    pub callable: Arc<Py<PyAny>>,
    /// What errors and the log call it.
    pub name: String,
}

/// Calls it, on a thread of its own.
pub struct PythonCredentials {
    /// Never dropped on the runtime's thread: the `Backend` that it was made for holds it too.
    given: Given,
    /// Made when it is first asked: before, it may be another process.
    pool: OnceLock<Arc<Pool>>,
}

/// How long a callable may take until another one is called beside it.
const HANGS: Duration = Duration::from_secs(10);

impl PythonCredentials {
    pub fn new(given: Given) -> Self {
        Self { given, pool: OnceLock::new() }
    }

    fn pool(&self) -> Result<&Arc<Pool>, StoreError> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let pool = Arc::new(Pool::new(HANGS));
        process()?.adopt_pool(pool.clone());
        Ok(self.pool.get_or_init(|| pool))
    }
}

impl RedisCredentials for PythonCredentials {
    fn login(&self) -> RedisLoginReply<'_> {
        Box::pin(async {
            let (callable, (to, answer)) = (self.given.callable.clone(), oneshot::channel());
            let job: Job = Box::new(move |py| {
                let login = login(callable.bind(py));
                drop(callable);
                Box::new(move || drop(to.send(login))) // who asked may have gone
            });
            let _ticket = self.pool()?.submit(Rank::New, None, job)?;
            let login = answer.await.map_err(|_| "the interpreter is going away")??;
            Ok(login)
        })
    }

    fn name(&self) -> String {
        self.given.name.clone()
    }
}

fn login(callable: &Bound<'_, PyAny>) -> PyResult<(RedisLogin, Option<Duration>)> {
    let returned = stopping::call(callable, &PyTuple::empty(callable.py()))?;
    let (username, password, valid_for): (Option<String>, String, Option<f64>) = returned.extract()?;
    let valid_for = valid_for.map(|left| seconds("credentials", left)).transpose()?;
    Ok((RedisLogin { username, password: Some(password) }, valid_for))
}
