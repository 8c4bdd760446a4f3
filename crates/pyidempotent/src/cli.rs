//! The operator's command line, for Python: `pyidempotent`, `manage.py idempotency`, `flask idempotency`.

use std::ffi::OsString;
use std::io::{self, Write};

use idempotency::cli::{Program, Streams};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary::errors;
use crate::boundary::runtime::block_on;
use crate::stores::backend::Backend;

/// A text file of Python's.
struct TextFile(Py<PyAny>);

impl TextFile {
    fn call(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>) -> io::Result<()> {
        Python::attach(|py| work(self.0.bind(py))).map_err(io::Error::other)
    }
}

impl Write for TextFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is written at once is whole text.
        let text = String::from_utf8_lossy(bytes);
        self.call(|file| file.call_method1("write", (text,)).map(drop))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call(|file| file.call_method0("flush").map(drop))
    }
}

/// Runs a command of an operator's, and returns its exit code. A signal's exception ends it.
///
/// - `arguments`: without the name.
/// - `name`: what its users type.
/// - `encode`: makes the stored form of a function's result from its JSON.
/// - `backend`, `namespace`: the application's own; without them the command line or the environment says which store.
/// - `others`: commands that somebody else runs, and what they do.
/// - `files`: where to write, in place of the process's own streams.
#[pyfunction]
#[pyo3(signature = (arguments, name, encode, backend, namespace, others, files))]
#[expect(clippy::too_many_arguments, reason = "they have names in Python")]
pub fn command_line(
    py: Python<'_>,
    arguments: Vec<OsString>,
    name: String,
    encode: Py<PyAny>,
    backend: Option<&Bound<'_, Backend>>,
    namespace: String,
    others: Vec<(String, String)>,
    files: Option<(Py<PyAny>, Py<PyAny>)>,
) -> PyResult<u8> {
    let mut program = Program::new(name).encoding(move |json| {
        Python::attach(|py| {
            let stored = encode.bind(py).call1((json,)).map_err(|error| error.value(py).to_string())?;
            let stored = stored.cast::<PyBytes>().map_err(|error| error.to_string())?;
            Ok(stored.as_bytes().to_vec())
        })
    });
    if let Some(backend) = backend {
        let engine = backend.get().engine().map_err(|error| errors::store_error(py, &error))?;
        program = program.on(engine.clone(), namespace);
    }
    for (name, about) in others {
        program = program.besides(name, about);
    }
    let streams = match files {
        Some((out, err)) => Streams::to(TextFile(out), TextFile(err)),
        None => Streams::of_the_process(),
    };
    Ok(block_on(py, program.run(arguments, streams))?.code())
}
