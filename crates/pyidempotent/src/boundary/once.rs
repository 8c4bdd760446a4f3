//! What is made once for the process, so that no fork catches it half made.
//!
//! PyO3's own ways (`PyOnceLock`, `pyo3::intern!`) let go of the GIL while they hold the lock of the cell. When another
//! thread forks then, the child inherits a cell that nobody fills, and waits for it without end. So this crate uses none
//! of them (a test looks).

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

/// A value that is made when it is first asked for.
pub struct Once<T>(OnceLock<T>);

impl<T> Once<T> {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The value. Threads that ask for it at the same time may each make one; the first one is kept.
    pub fn get_or_try_init<'a, E>(&'a self, _py: Python<'a>, make: impl FnOnce() -> Result<T, E>) -> Result<&'a T, E> {
        if let Some(made) = self.0.get() {
            return Ok(made);
        }
        let made = make()?;
        // The GIL is held from here on: no thread of Python's forks while the lock of the cell is taken.
        Ok(self.0.get_or_init(|| made))
    }
}

impl<T> Once<Py<T>> {
    /// What a module has by this name, imported when it is first asked for.
    pub fn import<'py>(&'py self, py: Python<'py>, module: &str, name: &str) -> PyResult<&'py Bound<'py, T>>
    where
        T: pyo3::type_object::PyTypeCheck,
    {
        let found = self.get_or_try_init(py, || Ok(py.import(module)?.getattr(name)?.cast_into()?.unbind()));
        found.map(|found: &Py<T>| found.bind(py))
    }
}

impl Once<Py<PyString>> {
    /// The interned string of a text. [`intern`] calls it.
    pub fn text<'py>(&'py self, py: Python<'py>, text: &str) -> &'py Bound<'py, PyString> {
        let made = || Ok::<_, std::convert::Infallible>(PyString::intern(py, text).unbind());
        let Ok(found) = self.get_or_try_init(py, made);
        found.bind(py)
    }
}

/// The interned string of a literal, as a `&Bound<PyString>`.
macro_rules! intern {
    ($py:expr, $text:literal) => {{
        static TEXT: $crate::boundary::once::Once<::pyo3::Py<::pyo3::types::PyString>> =
            $crate::boundary::once::Once::new();
        TEXT.text($py, $text)
    }};
}
pub(crate) use intern;
