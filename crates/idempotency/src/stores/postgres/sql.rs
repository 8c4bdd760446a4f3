//! The SQL, each statement in a file of its own, for the schema that it works in.

use crate::error::StoreError;
use crate::schema::in_schema;

/// The statements of one schema.
pub(crate) struct Statements {
    pub(crate) claim: String,
    pub(crate) renew: String,
    pub(crate) complete: String,
    /// Many claims at once, and many completions.
    pub(super) claims: String,
    pub(super) completions: String,
    pub(crate) release: String,
    pub(crate) resolve: String,
    pub(crate) get: String,
    pub(super) list: String,
    pub(super) health: String,
    pub(super) purge: String,
    pub(super) tell: String,
    pub(super) check: String,
    pub(super) version: String,
    pub(super) watch: String,
    pub(super) unwatch: String,
}

impl Statements {
    /// # Errors
    /// [`StoreErrorKind::Setup`](crate::StoreErrorKind::Setup) for a name that a schema can't have.
    pub(crate) fn of(schema: &str) -> Result<Self, StoreError> {
        let of = |sql: &str| in_schema(sql.trim_end(), schema);
        Ok(Self {
            claim: of(include_str!("claim.sql"))?,
            renew: of(include_str!("renew.sql"))?,
            complete: of(include_str!("complete.sql"))?,
            claims: of(include_str!("claims.sql"))?,
            completions: of(include_str!("completions.sql"))?,
            release: of(include_str!("release.sql"))?,
            resolve: of(include_str!("resolve.sql"))?,
            get: of(include_str!("get.sql"))?,
            list: of(include_str!("list.sql"))?,
            health: of(include_str!("health.sql"))?,
            purge: of(include_str!("purge.sql"))?,
            tell: of(include_str!("tell.sql"))?,
            check: of(include_str!("check.sql"))?,
            version: of("SELECT idempotency.schema_version()")?,
            watch: of(include_str!("watch.sql"))?,
            unwatch: of(include_str!("unwatch.sql"))?,
        })
    }
}

/// The SQL that makes what the store needs, for a tool that migrates databases: a schema, a table, an index and
/// functions. It changes nothing that is there already, and may run in a transaction.
///
/// # Errors
/// [`StoreErrorKind::Setup`](crate::StoreErrorKind::Setup) where `schema` is not 1 to 63 letters, digits and underscores.
///
/// ```
/// use idempotency::stores::postgres_schema;
/// assert!(postgres_schema("idempotency")?.contains("CREATE TABLE IF NOT EXISTS \"idempotency\".records"));
/// # Ok::<(), idempotency::StoreError>(())
/// ```
pub fn postgres_schema(schema: &str) -> Result<String, StoreError> {
    in_schema(include_str!("schema.sql"), schema)
}
