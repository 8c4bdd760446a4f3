//! Results as bytes: a tag, and JSON.

use std::any::type_name;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::canonical::canonical;
use super::error::{Unreadable, ValueError};
use crate::result_tags;

/// The stored form of a result, from which [`decode`] makes an equal one.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Arc<[u8]>, ValueError> {
    // JSON writes a NaN, a nested option and much else as something else. What is written must read as it was.
    canonical(value, &mut Vec::with_capacity(128))?;
    let mut encoded = Vec::with_capacity(128);
    encoded.push(result_tags::JSON);
    serde_json::to_writer(&mut encoded, value).map_err(serde::ser::Error::custom)?;
    Ok(encoded.into())
}

/// The result of a stored form.
pub(super) fn decode<T: DeserializeOwned>(stored: &[u8]) -> Result<T, Unreadable> {
    match stored.split_first() {
        Some((&result_tags::JSON, json)) => serde_json::from_slice(json)
            .map_err(|source| Unreadable::OtherType { expected: type_name::<T>(), source: source.into() }),
        _ => Err(Unreadable::Foreign(result_tags::described(stored))),
    }
}
