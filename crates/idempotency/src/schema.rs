//! The schema of Postgres that the table and the functions are in, in the SQL of the store and of transactions.

use crate::error::{StoreError, StoreErrorKind};

/// Its name in the files, unless another is asked for.
pub(crate) const SCHEMA: &str = "idempotency";

/// The version of what `stores/postgres/schema.sql` makes.
pub(crate) const VERSION: i32 = 1;

/// SQL as it is in the files, for another schema.
///
/// # Errors
/// [`StoreErrorKind::Setup`] for a name that a schema can't have.
#[cfg(feature = "postgres")]
pub(crate) fn in_schema(sql: &str, schema: &str) -> Result<String, StoreError> {
    check(schema)?;
    Ok(renamed(sql, schema))
}

/// Whether a schema can have the name.
///
/// # Errors
/// [`StoreErrorKind::Setup`] where it can't.
pub(crate) fn check(schema: &str) -> Result<(), StoreError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if schema.is_empty() || schema.len() > 63 || !schema.chars().all(is_plain) {
        let words = format!("the schema {schema:?} can't be used; name it by 1 to 63 letters, digits and underscores");
        return Err(StoreError::new(StoreErrorKind::Setup, words));
    }
    Ok(())
}

/// SQL for another schema, whose name is checked. Quoted, it may be a keyword.
pub(crate) fn renamed(sql: &str, schema: &str) -> String {
    let sql = sql.replace("SCHEMA IF NOT EXISTS idempotency;", &format!("SCHEMA IF NOT EXISTS \"{schema}\";"));
    sql.replace("idempotency.", &format!("\"{schema}\"."))
}
