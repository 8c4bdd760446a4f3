//! [`Channels`]: who is told of a notification.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::key::StorageKey;

/// Who waits for which key. Emptied when the connection ends, which closes every receiver.
#[derive(Default)]
pub(super) struct Channels(Mutex<HashMap<String, (StorageKey, watch::Sender<()>)>>);

impl Channels {
    pub(super) fn locked(&self) -> MutexGuard<'_, HashMap<String, (StorageKey, watch::Sender<()>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A notification came.
    pub(super) fn tell(&self, payload: &str) {
        if let Some((_, sender)) = self.locked().get(payload) {
            sender.send_replace(());
        }
    }

    /// The connection ended.
    pub(super) fn close(&self) {
        self.locked().clear();
    }
}

/// What a notification says of a key, as `tell` of schema.sql has it.
pub(super) fn payload(key: &StorageKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}
