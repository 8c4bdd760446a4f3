//! [`open`]: the store at a URL.

use std::sync::Arc;

use crate::error::{StoreError, StoreErrorKind};
use crate::store::Store;

/// The store at a URL. Does no I/O.
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory://` | [`MemoryStore`](super::MemoryStore): one of its own for every call | `memory` |
/// | `sqlite:///relative.db`, `sqlite:////absolute.db` | [`SqliteStore`](super::SqliteStore); percent-encoded where it must be | `sqlite` |
/// | `redis://[user[:password]@]host[:port][/database]`, `unix:///path` | [`RedisStore`](super::RedisStore) | `redis` |
/// | `redis+sentinel://[login@]host[:port],host…/service[/database]` | the primary that these sentinels know | `redis` |
/// | `redis+cluster://[login@]host[:port],host…` | a cluster, by some of its nodes | `redis` |
/// | `rediss://…`, `rediss+sentinel://…`, `rediss+cluster://…` | over TLS | `redis-tls` |
/// | `postgresql://[user[:password]@]host[:port][/database][?option=value…]`, `postgres://…` | [`PostgresStore`](super::PostgresStore) | `postgres` |
/// | `postgresql://…?sslmode=require` | encrypted | `postgres-tls` |
///
/// # Errors
/// [`StoreErrorKind::Setup`] for a URL that leads nowhere: of an unknown scheme, of a store whose feature is off, or one
/// that is none. Its message says what to write instead, and shows no password.
///
/// ```
/// use idempotency::{Idempotency, stores};
/// let payments = Idempotency::new(stores::open("memory://")?);
/// let error = stores::open("mysql://root:secret@db").unwrap_err();
/// assert!(error.to_string().starts_with("\"mysql://…\": no store has URLs with mysql://"));
/// # Ok::<(), idempotency::StoreError>(())
/// ```
pub fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    let unusable = |why: String| StoreError::new(StoreErrorKind::Setup, format!("{:?}: {why}", shown(url)));
    let off = |feature: &str| {
        unusable(format!("this program is built without that; turn on the feature {feature} of the crate idempotency"))
    };
    let Some((scheme, _rest)) = url.split_once("://") else {
        return Err(unusable(
            "it is not a URL; write redis://host, postgresql://host, sqlite:///path or memory://".into(),
        ));
    };
    match scheme {
        #[cfg(feature = "memory")]
        "memory" => Ok(Arc::new(super::MemoryStore::new())),
        #[cfg(not(feature = "memory"))]
        "memory" => Err(off("memory")),
        #[cfg(feature = "sqlite")]
        // As everywhere: three slashes are a relative path, four an absolute one.
        "sqlite" => match _rest.strip_prefix('/').filter(|path| !path.is_empty()).map(super::percent::decoded) {
            Some(Ok(path)) => Ok(Arc::new(super::SqliteStore::open(path))),
            Some(Err(_)) => Err(unusable("its path is not UTF-8 when it is decoded".into())),
            None => Err(unusable("it names no file; write sqlite:///relative.db or sqlite:////absolute.db".into())),
        },
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(off("sqlite")),
        #[cfg(feature = "redis")]
        "redis" | "redis+sentinel" | "redis+cluster" | "unix" | "redis+unix" | "rediss" | "rediss+sentinel"
        | "rediss+cluster"
            if !scheme.starts_with("rediss") || cfg!(feature = "redis-tls") =>
        {
            let opened = super::RedisStore::open(url);
            opened.map(|store| Arc::new(store) as _).map_err(|error| unusable(error.to_string()).with_source(error))
        }
        "rediss" | "rediss+sentinel" | "rediss+cluster" => Err(off("redis-tls")),
        #[cfg(feature = "postgres")]
        "postgresql" | "postgres" => {
            let opened = super::PostgresStore::open(url);
            opened.map(|store| Arc::new(store) as _).map_err(|error| unusable(error.to_string()).with_source(error))
        }
        #[cfg(not(feature = "postgres"))]
        "postgresql" | "postgres" => Err(off("postgres")),
        #[cfg(not(feature = "redis"))]
        "redis" | "redis+sentinel" | "redis+cluster" | "unix" | "redis+unix" => Err(off("redis")),
        _ => Err(unusable(format!(
            "no store has URLs with {scheme}://; there are memory://, sqlite:///, redis://, redis+sentinel://, \
             redis+cluster://, rediss://, unix:// and postgresql://"
        ))),
    }
}

/// The path in a SQLite URL, behind its third slash.
#[cfg(feature = "cli")]
pub(crate) fn decoded_path(path: &str) -> Option<String> {
    super::percent::decoded(path).ok()
}

/// A URL without what may be secret: where there is a login or a query, its scheme alone.
fn shown(url: &str) -> String {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| &url[..scheme.len() + 3]);
    if url.contains(['@', '?']) { format!("{scheme}…") } else { url.to_owned() }
}
