//! A bare GET over our own connection and bridge: what `make bench` holds a replay against.

use idempotency::stores::RedisOptions;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyTuple};
use redis::aio::MultiplexedConnection;

use crate::boundary::bridge;
use crate::boundary::runtime::block_on;

/// A function that gets a key's value, as an awaitable.
#[pyfunction]
pub fn bare_get<'py>(py: Python<'py>, url: &str) -> PyResult<Bound<'py, PyCFunction>> {
    let unusable = |error: redis::RedisError| pyo3::exceptions::PyConnectionError::new_err(error.to_string());
    let options = RedisOptions::from_url(url)
        .map_err(|error| PyErr::new::<pyo3::exceptions::PyValueError, _>(error.to_string()))?;
    let client = redis::Client::open(options.address).map_err(unusable)?;
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
