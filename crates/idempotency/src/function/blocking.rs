//! The runtime of threads that have none: one thread of the process drives it, whoever waits polls on its own thread.

use std::sync::{Mutex, PoisonError, mpsc};

use tokio::runtime::{Builder, Handle};

use super::error::Error;
use crate::error::{StoreError, StoreErrorKind};
use crate::process::generation;

/// The runtime, and the process that it belongs to.
static RUNTIME: Mutex<Option<(u32, Handle)>> = Mutex::new(None);

/// The runtime for this thread, which must have none of its own.
pub(super) fn runtime<E>() -> Result<Handle, Error<E>> {
    if Handle::try_current().is_ok() {
        return Err(Error::InRuntime);
    }
    handle().map_err(Error::Store)
}

fn handle() -> Result<Handle, StoreError> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match runtime.as_ref() {
        Some((process, handle)) if *process == generation() => Ok(handle.clone()),
        _ => {
            let handle = start().map_err(|source| {
                let message = format!("no thread can be started that renews leases: {source}");
                StoreError::new(StoreErrorKind::Setup, message).with_source(source)
            })?;
            // The one of the process that this one was forked from has lost its thread; nothing of it may run here.
            std::mem::forget(runtime.replace((generation(), handle.clone())));
            Ok(handle)
        }
    }
}

fn start() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (handle, (going, goes)) = (runtime.handle().clone(), mpsc::channel());
    std::thread::Builder::new().name("idempotency".into()).spawn(move || {
        let _ = going.send(());
        runtime.block_on(std::future::pending::<()>())
    })?;
    let _ = goes.recv();
    Ok(handle)
}
