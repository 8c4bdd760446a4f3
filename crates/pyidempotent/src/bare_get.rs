//! A bare GET and a bare SELECT over connections and a bridge like our own: what `make bench` holds a replay against.

use std::sync::Arc;

use idempotency::stores::PostgresOptions;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyTuple};
use redis::aio::MultiplexedConnection;
use tokio_postgres::{Client, NoTls, Statement};

use crate::boundary::bridge;
use crate::boundary::runtime::block_on;

/// A function that gets a key's value, as an awaitable.
#[pyfunction]
pub fn bare_get<'py>(py: Python<'py>, url: &str) -> PyResult<Bound<'py, PyCFunction>> {
    let unusable = |error: redis::RedisError| pyo3::exceptions::PyConnectionError::new_err(error.to_string());
    let client = redis::Client::open(url).map_err(unusable)?;
    let connection = block_on(py, async { client.get_multiplexed_async_connection().await })?.map_err(unusable)?;
    PyCFunction::new_closure(py, None, None, move |args: &Bound<'_, PyTuple>, _| {
        let key: String = args.get_item(0)?.extract()?;
        let work = get(connection.clone(), key);
        Ok::<_, PyErr>(bridge::submit(args.py(), work, to_python)?.unbind())
    })
}

async fn get(mut connection: MultiplexedConnection, key: String) -> redis::RedisResult<Vec<u8>> {
    redis::cmd("GET").arg(key).query_async(&mut connection).await
}

fn to_python<'py>(py: Python<'py>, answer: redis::RedisResult<Vec<u8>>) -> PyResult<Bound<'py, PyAny>> {
    let value = answer.map_err(|error| pyo3::exceptions::PyConnectionError::new_err(error.to_string()))?;
    Ok(PyBytes::new(py, &value).into_any())
}

/// A function that reads a record by its key, with a prepared statement, as an awaitable.
#[pyfunction]
pub fn bare_select<'py>(py: Python<'py>, url: &str) -> PyResult<Bound<'py, PyCFunction>> {
    let unusable = |error: tokio_postgres::Error| pyo3::exceptions::PyConnectionError::new_err(error.to_string());
    let options = PostgresOptions::from_url(url)
        .map_err(|error| PyErr::new::<pyo3::exceptions::PyValueError, _>(error.to_string()))?;
    let opened = block_on(py, async {
        let (client, connection) = options.address.connect(NoTls).await?;
        tokio::spawn(connection);
        let statement =
            client.prepare("SELECT record, lease_end, expires FROM idempotency.records WHERE key = $1").await?;
        Ok((Arc::new(client), statement))
    })?;
    let (client, statement) = opened.map_err(unusable)?;
    PyCFunction::new_closure(py, None, None, move |args: &Bound<'_, PyTuple>, _| {
        let key: Vec<u8> = args.get_item(0)?.extract()?;
        let work = select(client.clone(), statement.clone(), key);
        Ok::<_, PyErr>(bridge::submit(args.py(), work, selected)?.unbind())
    })
}

async fn select(client: Arc<Client>, statement: Statement, key: Vec<u8>) -> Result<Vec<u8>, tokio_postgres::Error> {
    client.query_one(&statement, &[&key]).await.map(|row| row.get(0))
}

fn selected<'py>(py: Python<'py>, answer: Result<Vec<u8>, tokio_postgres::Error>) -> PyResult<Bound<'py, PyAny>> {
    let record = answer.map_err(|error| pyo3::exceptions::PyConnectionError::new_err(error.to_string()))?;
    Ok(PyBytes::new(py, &record).into_any())
}
