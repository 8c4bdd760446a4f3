//! [`RecordForm`]: what records are turned into before they leave the process.

use std::fmt;

use crate::error::StoreError;
use crate::key::StorageKey;
use crate::record::Record;

/// What records are turned into before they leave the process, and back: a seal.
///
/// A store that has one ([`Store::form`](crate::Store::form)) applies it by itself. Who writes records beside the store, as
/// [`transactions`](crate::transactions) do, asks for it.
pub trait RecordForm: Send + Sync {
    /// What the record of a key stands under. The same for the same key, always.
    fn name(&self, key: &StorageKey) -> StorageKey;

    /// What is written in the place of a record of this key. A record that is in flight has one written form, so that it is
    /// recognised.
    fn written(&self, key: &StorageKey, record: &Record) -> Record;

    /// The record that was written.
    ///
    /// # Errors
    /// [`StoreErrorKind::Foreign`](crate::StoreErrorKind::Foreign) where it can't be read here: nothing may run past it.
    fn read(&self, key: &StorageKey, written: Record) -> Result<Record, StoreError>;
}

/// What a label starts with that a form has hidden; the rest is base64, as a label is text.
pub(crate) const HIDDEN: &str = "sealed ";
/// How long that rest is, always.
pub(crate) const HIDDEN_LEN: usize = 192;

/// Whether a label is hidden: its record's fingerprint is too, and only who shows them can write them again.
pub(crate) fn is_hidden(label: &str) -> bool {
    label.strip_prefix(HIDDEN).is_some_and(|rest| {
        rest.len() == HIDDEN_LEN && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    })
}

/// Says no more than that it is a form: what it knows is secret.
impl fmt::Debug for dyn RecordForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordForm")
    }
}
