//! Python values ⇄ bytes: tagged, length-prefixed, versioned. Never `str()`, never `repr()`, never pickle.
//!
//! | tag | value |
//! |---|---|
//! | `N` `T` `F` | None, True, False |
//! | `i` | int: two's complement, big endian, of `bit_length // 8 + 1` bytes |
//! | `f` | float: IEEE 754, big endian |
//! | `s` `b` | str (UTF-8, lone surrogates passed), bytes |
//! | `l` `t` | list, tuple |
//! | `d` | dict: keys and values in turn |
//! | `e` `z` | set, frozenset: elements in the order of their bytes |
//! | `x` | anything else: kind, class, and what it is made of; `pyidempotent._values.parts` takes it apart and together |
//!
//! Counts and lengths are 4 bytes, big endian. The canonical form, for fingerprints, orders dicts by their keys'
//! bytes, makes `-0.0` and every NaN one, and takes apart by value (equal instants, equal decimals).

use std::sync::{Mutex, PoisonError};

use idempotency::result_tags::{ENDPOINT_VALUE, EXCEPTION, VALUE, described};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple};

use crate::boundary::once::intern;
use crate::boundary::python;

const VERSION: u8 = b'1';

/// Deeper values are refused: neither side may run out of stack.
const MAX_DEPTH: u32 = 100;

/// Classes that may occur beside what is importable by name. Looked up where one does.
#[derive(Clone, Copy)]
pub enum Classes<'a, 'py> {
    None,
    These(&'a Bound<'py, PyAny>),
    /// The attribute `classes` of a decorated function's analysis.
    Of(&'a Bound<'py, PyAny>),
}

impl<'py> Classes<'_, 'py> {
    pub fn get(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::None => Ok(PyDict::new(py).into_any()),
            Self::These(classes) => Ok(classes.clone()),
            Self::Of(function) => function.getattr(intern!(py, "classes")),
        }
    }
}

pub struct Encoder<'a, 'py> {
    out: Vec<u8>,
    /// Not there for the canonical form.
    classes: Option<Classes<'a, 'py>>,
    depth: u32,
}

impl<'a, 'py> Encoder<'a, 'py> {
    fn new(mut out: Vec<u8>, classes: Option<Classes<'a, 'py>>) -> Self {
        out.push(VERSION);
        Self { out, classes, depth: 0 }
    }

    /// For a fingerprint.
    pub fn canonical(out: Vec<u8>) -> Self {
        Self::new(out, None)
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    fn is_canonical(&self) -> bool {
        self.classes.is_none()
    }

    fn count(&mut self, tag: u8, count: usize) -> PyResult<()> {
        self.out.push(tag);
        let count = u32::try_from(count).map_err(|_| PyValueError::new_err("a value is larger than 4 GiB"))?;
        self.out.extend_from_slice(&count.to_be_bytes());
        Ok(())
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) -> PyResult<()> {
        self.count(tag, bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    pub fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.depth == MAX_DEPTH {
            return Err(PyValueError::new_err(format!("the value is nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth += 1;
        let done = self.tagged(value);
        self.depth -= 1;
        done
    }

    fn tagged(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        // Exact types only: a subclass is something of its own and would come back as something else.
        if value.is_none() {
            self.out.push(b'N');
        } else if value.is_exact_instance_of::<PyString>() {
            self.text(value)?;
        } else if value.is_exact_instance_of::<PyBool>() {
            self.out.push(if value.is_truthy()? { b'T' } else { b'F' });
        } else if value.is_exact_instance_of::<PyInt>() {
            self.int(value)?;
        } else if let Ok(float) = value.cast_exact::<PyFloat>() {
            let float = match float.value() {
                float if !self.is_canonical() => float,
                float if float.is_nan() => f64::NAN,
                float => float + 0.0, // -0.0 becomes 0.0
            };
            self.out.push(b'f');
            self.out.extend_from_slice(&float.to_be_bytes());
        } else if let Ok(dict) = value.cast_exact::<PyDict>() {
            self.dict(dict)?;
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            self.count(b'l', list.len())?;
            list.iter().try_for_each(|item| self.value(&item))?;
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            self.count(b't', tuple.len())?;
            tuple.iter().try_for_each(|item| self.value(&item))?;
        } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            self.bytes(b'b', bytes.as_bytes())?;
        } else if value.is_exact_instance_of::<PySet>() {
            self.elements(b'e', value)?;
        } else if value.is_exact_instance_of::<PyFrozenSet>() {
            self.elements(b'z', value)?;
        } else {
            let py = value.py();
            let classes = self.classes.map(|classes| classes.get(py)).transpose()?;
            let parts = python::reduce(py)?.call1((value, classes))?;
            self.out.push(b'x');
            parts.cast_into::<PyTuple>()?.iter().try_for_each(|part| self.value(&part))?;
        }
        Ok(())
    }

    fn text(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match value.cast::<PyString>()?.to_str() {
            Ok(text) => self.bytes(b's', text.as_bytes()),
            Err(_) => {
                let bytes = value.call_method1(intern!(value.py(), "encode"), ("utf-8", "surrogatepass"))?;
                self.bytes(b's', bytes.cast::<PyBytes>()?.as_bytes())
            }
        }
    }

    fn int(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(small) = value.extract::<i64>() {
            let length = (64 - small.unsigned_abs().leading_zeros() as usize) / 8 + 1;
            let wide = i128::from(small).to_be_bytes();
            return self.bytes(b'i', &wide[16 - length..]);
        }
        let py = value.py();
        let bits: usize = value.call_method0(intern!(py, "bit_length"))?.extract()?;
        let signed = PyDict::new(py);
        signed.set_item("signed", true)?;
        let bytes = value.call_method(intern!(py, "to_bytes"), (bits / 8 + 1, "big"), Some(&signed))?;
        self.bytes(b'i', bytes.cast::<PyBytes>()?.as_bytes())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        self.count(b'd', dict.len())?;
        if !self.is_canonical() {
            return dict.iter().try_for_each(|(key, value)| {
                self.value(&key)?;
                self.value(&value)
            });
        }
        let mut items = Vec::with_capacity(dict.len());
        for (key, value) in dict.iter() {
            items.push((self.apart(&key)?, self.apart(&value)?));
        }
        items.sort_unstable();
        items.into_iter().for_each(|(key, value)| self.out.extend([key, value].concat()));
        Ok(())
    }

    fn elements(&mut self, tag: u8, set: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut elements = set.try_iter()?.map(|element| self.apart(&element?)).collect::<PyResult<Vec<_>>>()?;
        elements.sort_unstable();
        self.count(tag, elements.len())?;
        self.out.extend(elements.concat());
        Ok(())
    }

    /// The bytes of one value, by themselves.
    fn apart(&mut self, value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        let before = std::mem::take(&mut self.out);
        let done = self.value(value);
        let bytes = std::mem::replace(&mut self.out, before);
        done.map(|()| bytes)
    }
}

struct Decoder<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
    classes: Classes<'a, 'py>,
    depth: u32,
}

fn damaged() -> PyErr {
    PyValueError::new_err("the stored value is damaged, or of a newer version of pyidempotent")
}

impl<'py> Decoder<'_, 'py> {
    fn take(&mut self, length: usize) -> PyResult<&[u8]> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or_else(damaged)?;
        self.rest = tail;
        Ok(head)
    }

    fn count(&mut self) -> PyResult<usize> {
        let bytes = self.take(4)?.try_into().map_err(|_| damaged())?;
        Ok(u32::from_be_bytes(bytes) as usize)
    }

    fn values(&mut self) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let count = self.count()?;
        (0..count).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> PyResult<Bound<'py, PyAny>> {
        if self.depth == MAX_DEPTH {
            return Err(damaged());
        }
        self.depth += 1;
        let value = self.tagged();
        self.depth -= 1;
        value
    }

    /// A text that is a dict's key.
    fn name(&mut self) -> PyResult<Bound<'py, PyAny>> {
        self.take(1)?;
        let (length, py) = (self.count()?, self.py);
        let bytes = self.take(length)?;
        if length > LONGEST_NAME { text(py, bytes) } else { known_name(py, bytes) }
    }

    fn tagged(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        Ok(match self.take(1)?[0] {
            b'N' => py.None().into_bound(py),
            b'T' => PyBool::new(py, true).to_owned().into_any(),
            b'F' => PyBool::new(py, false).to_owned().into_any(),
            b'i' => {
                let length = self.count()?;
                int(py, self.take(length)?)?
            }
            b'f' => {
                let bytes = self.take(8)?.try_into().map_err(|_| damaged())?;
                PyFloat::new(py, f64::from_be_bytes(bytes)).into_any()
            }
            b's' => {
                let length = self.count()?;
                text(py, self.take(length)?)?
            }
            b'b' => {
                let length = self.count()?;
                PyBytes::new(py, self.take(length)?).into_any()
            }
            b'l' => PyList::new(py, self.values()?)?.into_any(),
            b't' => PyTuple::new(py, self.values()?)?.into_any(),
            b'd' => {
                let dict = PyDict::new(py);
                for _ in 0..self.count()? {
                    let key = if self.rest.starts_with(b"s") { self.name()? } else { self.value()? };
                    dict.set_item(key, self.value()?)?;
                }
                dict.into_any()
            }
            b'e' => PySet::new(py, self.values()?)?.into_any(),
            b'z' => PyFrozenSet::new(py, self.values()?)?.into_any(),
            b'x' => {
                let (kind, class, parts) = (self.value()?, self.value()?, self.value()?);
                python::rebuild(py)?.call1((kind, class, parts, self.classes.get(py)?))?
            }
            _ => return Err(damaged()),
        })
    }
}

fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(PyString::new(py, text).into_any()),
        Err(_) => PyBytes::new(py, bytes).call_method1("decode", ("utf-8", "surrogatepass")),
    }
}

/// The names of dicts' items are few and come again: making and hashing them is half of decoding a small dict.
const LONGEST_NAME: usize = 32;

fn known_name<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    type Known = Option<(Box<[u8]>, Py<PyAny>)>;
    /// By a hash of their bytes; another name takes the place. Only touched with the GIL held, and never across a call
    /// into Python, so that a fork cannot copy it locked.
    static NAMES: Mutex<[Known; 256]> = Mutex::new([const { None }; 256]);
    let hash = bytes.iter().fold(0_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let place = (hash >> 24) as usize;
    let names = || NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, name)) = &names()[place]
        && **known == *bytes
    {
        return Ok(name.bind(py).clone());
    }
    let name = text(py, bytes)?;
    let before = names()[place].replace((bytes.into(), name.clone().unbind()));
    drop(before); // outside of the lock
    Ok(name)
}

fn int<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if let (1..=8, Some(first)) = (bytes.len(), bytes.first()) {
        let mut wide = [if first & 0x80 == 0 { 0 } else { 0xff }; 8];
        wide[8 - bytes.len()..].copy_from_slice(bytes);
        return Ok(i64::from_be_bytes(wide).into_pyobject(py)?.into_any());
    }
    let signed = PyDict::new(py);
    signed.set_item("signed", true)?;
    py.get_type::<PyInt>().call_method("from_bytes", (PyBytes::new(py, bytes), "big"), Some(&signed))
}

/// Adds the bytes of a value, whose classes are importable by name or among `classes`, and from which [`decode_value`]
/// makes an equal one of the same type.
pub fn encode_value<'py>(out: Vec<u8>, value: &Bound<'py, PyAny>, classes: Classes<'_, 'py>) -> PyResult<Vec<u8>> {
    let mut encoder = Encoder::new(out, Some(classes));
    encoder.value(value)?;
    Ok(encoder.out)
}

/// The value of some bytes; `classes` are those it may contain beside what is importable by name.
pub fn decode_value<'py>(py: Python<'py>, encoded: &[u8], classes: Classes<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let Some((&VERSION, rest)) = encoded.split_first() else {
        return Err(damaged());
    };
    let mut decoder = Decoder { py, rest, classes, depth: 0 };
    let value = decoder.value()?;
    if decoder.rest.is_empty() { Ok(value) } else { Err(damaged()) }
}

/// The value of a stored payload, whose tag says that it is one.
pub fn unpack_value<'py>(py: Python<'py>, payload: &[u8], classes: Classes<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    match payload.split_first() {
        Some((&(VALUE | ENDPOINT_VALUE | EXCEPTION), encoded)) => decode_value(py, encoded, classes),
        _ => {
            let said = format!("it is {}, not that of a Python function", described(payload));
            Err(PyValueError::new_err(said))
        }
    }
}

/// The bytes of a value.
#[pyfunction]
pub fn encode<'py>(value: &Bound<'py, PyAny>, classes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(value.py(), &encode_value(vec![], value, Classes::These(classes))?))
}

/// The value of some bytes.
#[pyfunction]
pub fn decode<'py>(py: Python<'py>, encoded: &[u8], classes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    decode_value(py, encoded, Classes::These(classes))
}

/// The value of a stored payload.
#[pyfunction]
pub fn unpack<'py>(py: Python<'py>, payload: &[u8], classes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    unpack_value(py, payload, Classes::These(classes))
}
