//! The record that a command line names.

use super::Run;
use super::arguments::Name;
use super::exit::{Failure, usage};
use super::scan::Scan;
use crate::decide::Held;
use crate::key::{Key, Operation, Scope, StorageKey};
use crate::record::Micros;

/// A record, and the clock its lease is on.
pub(super) struct Found {
    pub(super) key: StorageKey,
    pub(super) held: Held,
    pub(super) now: Micros,
}

/// The shortest part of an id that names a record.
const SHORTEST: usize = 8;

/// The record of a name.
pub(super) async fn find(run: &mut Run, name: &Name) -> Result<Found, Failure> {
    let (key, looked_for) = match &name.id {
        Some(id) => (by_id(run, id).await?, format!("id {id}")),
        None => by_key(run, name)?,
    };
    match run.engine.get(&key).await? {
        Some((held, now)) => Ok(Found { key, held, now }),
        None if name.id.is_some() => {
            Err(Failure::NotFound(format!("There is no such record: {looked_for}. It has expired, or was released.")))
        }
        None => Err(Failure::NotFound(format!(
            "There is no such record: {looked_for} (id {key}). It has expired, or its operation, caller or namespace are \
             others."
        ))),
    }
}

fn by_key(run: &Run, name: &Name) -> Result<(StorageKey, String), Failure> {
    let (Some(key), Some(operation)) = (&name.key, &name.operation) else {
        return Err(usage("say which record: its key and its operation, or its id"));
    };
    let key = Key::new(key).map_err(|error| usage(error.to_string()))?;
    let namespace = name.namespace.as_deref().unwrap_or(&run.namespace);
    let caller = name.caller.as_deref().map(str::as_bytes);
    let (method, path) = operation.split_once(' ').unwrap_or(("", ""));
    let method_upper = method.to_ascii_uppercase();
    let is_request = path.starts_with('/') || (!method.is_empty() && method == method_upper);
    let (kind, operation) = if is_request {
        ("request", Operation::Http { method: &method_upper, path: path.as_bytes() })
    } else {
        ("function", Operation::Call(operation))
    };
    let scope = Scope { namespace, operation, caller };
    let looked_for = format!(
        "namespace {namespace:?}, {kind} {:?}, caller {}, key {:?}",
        match operation {
            Operation::Call(name) => name.to_owned(),
            Operation::Http { method, .. } => format!("{method} {path}"),
        },
        name.caller.as_ref().map_or_else(|| "nobody".into(), |caller| format!("{caller:?}")),
        key.as_str(),
    );
    Ok((scope.storage_key(&key), looked_for))
}

/// Of a whole id, or of its first digits, as the log has them.
async fn by_id(run: &mut Run, id: &str) -> Result<StorageKey, Failure> {
    let id = id.to_ascii_lowercase();
    if let Some(key) = StorageKey::parse(id.as_bytes()) {
        return Ok(key);
    }
    if !(SHORTEST..64).contains(&id.len()) || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(usage(format!(
            "{id:?} is not the id of a record, which has 64 hexadecimal digits; its first 12 do, as the log has them"
        )));
    }
    let (mut scan, mut found) = (Scan::everything(), None);
    while let Some(page) = scan.next(run).await? {
        for seen in page.into_iter().filter(|seen| seen.id.to_string().starts_with(&id)) {
            if found.replace(seen.id).is_some() {
                return Err(usage(format!("several records have ids that start with {id}; give more of its digits")));
            }
        }
    }
    found.ok_or_else(|| Failure::NotFound(format!("There is no such record: no id starts with {id}.")))
}
