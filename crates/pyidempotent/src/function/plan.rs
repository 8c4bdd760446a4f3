//! [`Plan`]: what is worked out once about a decorated function, so that a call of it is bound and hashed without a
//! Python instruction.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::boundary::python;
use crate::calls::site::Site;
use crate::value::digest::{canonical, empty, unfit};

/// Where a function's key comes from.
#[derive(Clone, Copy)]
pub enum KeySource {
    /// No `key=`: from a request, which a function has not got.
    Request,
    /// `key=arguments`.
    Arguments,
    /// `key=` is a callable.
    Callable,
    /// `key=` names this parameter.
    Parameter(usize),
}

struct Parameter {
    name: Py<PyString>,
    text: String,
    default: Option<Py<PyAny>>,
    /// The canonical form of the default, where it has one.
    default_form: Option<Vec<u8>>,
    /// Whether a call has to give it.
    is_required: bool,
    /// Whether it may be given by its name.
    by_name: bool,
}

/// A function's parameters, its name, and which options its calls have to ask.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Plan {
    /// The `pyidempotent._calls.function.Function` that has made it, and its `Site`.
    pub function: Py<PyAny>,
    pub site: Py<PyAny>,
    pub options: Py<Site>,
    pub name: Py<PyString>,
    pub key: KeySource,
    pub has_scope: bool,
    pub has_namespace: bool,
    pub has_fingerprint: bool,
    parameters: Vec<Parameter>,
    /// How many of them may be given by position. They come first.
    positional: usize,
    /// `*args` and `**kwargs`.
    rest: Option<usize>,
    extra: Option<usize>,
    /// Those that are part of the fingerprint, in the order of their names' bytes.
    hashed: Vec<usize>,
}

/// A call's arguments, in the order of the parameters; `None` where a default stands.
pub type Values = Vec<Option<Py<PyAny>>>;

#[pymethods]
impl Plan {
    /// `parameters` are the signature's; `key` is one of `request`, `arguments`, `callable`, or `parameter` with its name.
    #[new]
    #[pyo3(signature = (function, site, name, parameters, left_out, *, key, key_parameter, has_scope, has_namespace, has_fingerprint))]
    #[expect(clippy::too_many_arguments, reason = "all of it is worked out by one caller")]
    fn new(
        function: Py<PyAny>,
        site: Py<PyAny>,
        name: Py<PyString>,
        parameters: Vec<Bound<'_, PyAny>>,
        left_out: &Bound<'_, PyFrozenSet>,
        key: &str,
        key_parameter: Option<&str>,
        has_scope: bool,
        has_namespace: bool,
        has_fingerprint: bool,
    ) -> PyResult<Self> {
        let options = Site::of(site.bind(left_out.py()))?;
        let (mut known, mut hashed) = (Vec::with_capacity(parameters.len()), vec![]);
        let (mut positional, mut rest, mut extra) = (0, None, None);
        for (index, parameter) in parameters.iter().enumerate() {
            let kind = parameter.getattr("kind")?.getattr("name")?.extract::<String>()?;
            let default = parameter.getattr("default")?;
            let default = (!default.is(parameter.getattr("empty")?)).then(|| default.unbind());
            match kind.as_str() {
                "POSITIONAL_ONLY" | "POSITIONAL_OR_KEYWORD" => positional += 1,
                "VAR_POSITIONAL" => rest = Some(index),
                "VAR_KEYWORD" => extra = Some(index),
                _ => {}
            }
            let name = parameter.getattr("name")?.cast_into::<PyString>()?;
            if !left_out.contains(&name)? {
                hashed.push(index);
            }
            let form = |default: &Py<PyAny>| {
                let mut form = vec![];
                canonical(default.bind(left_out.py()), &mut form).ok().map(|()| form)
            };
            known.push(Parameter {
                default_form: default.as_ref().and_then(form),
                text: name.extract()?,
                name: name.unbind(),
                is_required: default.is_none() && !kind.starts_with("VAR_"),
                by_name: matches!(kind.as_str(), "POSITIONAL_OR_KEYWORD" | "KEYWORD_ONLY"),
                default,
            });
        }
        hashed.sort_unstable_by(|one, other| known[*one].text.cmp(&known[*other].text));
        let named = |wanted: Option<&str>| known.iter().position(|parameter| Some(parameter.text.as_str()) == wanted);
        let key = match (key, named(key_parameter)) {
            ("request", _) => KeySource::Request,
            ("arguments", _) => KeySource::Arguments,
            ("callable", _) => KeySource::Callable,
            ("parameter", Some(index)) => KeySource::Parameter(index),
            _ => return Err(PyValueError::new_err(format!("there is no key source {key:?} of {key_parameter:?}"))),
        };
        Ok(Self {
            function,
            options,
            site,
            name,
            key,
            has_scope,
            has_namespace,
            has_fingerprint,
            parameters: known,
            positional,
            rest,
            extra,
            hashed,
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.site)?;
        visit.call(&self.options)?;
        self.parameters
            .iter()
            .filter_map(|parameter| parameter.default.as_ref())
            .try_for_each(|value| visit.call(value))
    }
}

impl Plan {
    /// The arguments given. `None`: they do not fit.
    pub fn bind(&self, args: &Bound<'_, PyTuple>, kwargs: &Bound<'_, PyDict>) -> PyResult<Option<Values>> {
        let (py, given, has_named) = (args.py(), args.len(), !kwargs.is_empty());
        let mut values = Vec::with_capacity(self.parameters.len());
        let mut taken = 0;
        for (index, parameter) in self.parameters.iter().enumerate() {
            let value = if index < self.positional.min(given) {
                Some(args.get_item(index)?)
            } else if has_named && parameter.by_name {
                kwargs.get_item(&parameter.name)?.inspect(|_| taken += 1)
            } else {
                None
            };
            if value.is_none() && parameter.is_required {
                return Ok(None);
            }
            values.push(value.map(Bound::unbind));
        }
        if given > self.positional {
            let Some(rest) = self.rest else { return Ok(None) };
            values[rest] = Some(args.get_slice(self.positional, given).into_any().unbind());
        }
        if taken < kwargs.len() {
            // Some names are of no parameter, or of one that was given by position.
            let Some(extra) = self.extra else { return Ok(None) };
            let others = PyDict::new(py);
            for (name, value) in kwargs {
                let is_named = |parameter: &Parameter| parameter.by_name && name.eq(&parameter.name).unwrap_or(false);
                match self.parameters.iter().position(is_named) {
                    None => others.set_item(name, value)?,
                    Some(index) if index < given.min(self.positional) => return Ok(None),
                    Some(_) => {}
                }
            }
            values[extra] = Some(others.into_any().unbind());
        }
        Ok(Some(values))
    }

    /// The arguments by name, without the defaults.
    pub fn named<'py>(&self, py: Python<'py>, values: &Values) -> PyResult<Bound<'py, PyDict>> {
        let named = PyDict::new(py);
        for (parameter, value) in self.parameters.iter().zip(values) {
            if let Some(value) = value {
                named.set_item(&parameter.name, value)?;
            }
        }
        Ok(named)
    }

    /// One argument or its default.
    pub fn argument<'a>(&'a self, values: &'a Values, index: usize) -> Option<&'a Py<PyAny>> {
        values[index].as_ref().or(self.parameters[index].default.as_ref())
    }

    /// The fingerprint of a call's arguments, by name.
    ///
    /// Not part of it: what was left out for good; an argument that is its default, so that adding a defaulted
    /// parameter breaks no retry; and what can't be part of it where it is a framework's own.
    pub fn fingerprint(&self, py: Python<'_>, values: &Values) -> PyResult<[u8; 32]> {
        let is_ignored = |value: &Bound<'_, PyAny>| python::is_framework_object(py)?.call1((value,))?.is_truthy();
        let (mut digest, mut scratch) = (empty(), Vec::with_capacity(64));
        for &index in &self.hashed {
            let Some(value) = values[index].as_ref().map(|value| value.bind(py)) else { continue };
            let Parameter { name, text, default, default_form, .. } = &self.parameters[index];
            if default.as_ref().is_some_and(|default| value.is(default)) {
                continue;
            }
            digest = match canonical(value, &mut scratch) {
                Ok(()) if default_form.as_ref() == Some(&scratch) => digest,
                Ok(()) => digest.part(text.as_bytes()).part(&scratch),
                Err(_) if is_ignored(value).unwrap_or(false) => digest,
                Err(error) => return Err(unfit(py, name.bind(py), error)),
            };
        }
        Ok(digest.finish())
    }
}

/// The first instance of a class among a call's arguments, those with names first. Abstract base classes are not asked.
#[pyfunction]
#[pyo3(signature = (class, args, kwargs, /))]
pub fn find_instance<'py>(
    class: &Bound<'py, PyType>,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
) -> Option<Bound<'py, PyAny>> {
    let is_one = |value: &Bound<'py, PyAny>| {
        // SAFETY: both are type objects, and both are borrowed here.
        unsafe { pyo3::ffi::PyType_IsSubtype(value.get_type_ptr(), class.as_type_ptr()) != 0 }
    };
    kwargs.iter().map(|(_, value)| value).find(is_one).or_else(|| args.iter().find(is_one))
}
