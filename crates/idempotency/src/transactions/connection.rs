//! [`Connection`]: a connection of the caller's in a transaction, and those that are known.

use super::{Dialect, Statement, Value};
#[cfg(feature = "functions")]
use super::{InTransaction, Next};
use crate::error::StoreError;

/// A connection of the caller's, in a transaction.
///
/// Implemented for `&tokio_postgres::Transaction` (feature `postgres`) and for `&rusqlite::Connection` in a transaction (feature
/// `sqlite`), to which `&rusqlite::Transaction` dereferences. For another driver implement it: run the text with its values, in the
/// transaction, and give the first row.
pub trait Connection {
    /// What it is connected to.
    fn dialect(&self) -> Dialect;

    /// Runs a statement; its row, if it has one.
    ///
    /// # Errors
    /// What the database or the driver says.
    fn run(&mut self, statement: Statement) -> impl Future<Output = Result<Option<Vec<Value>>, StoreError>>;
}

#[cfg(feature = "functions")]
impl InTransaction {
    /// Runs a statement and those that follow it, up to what is no statement.
    pub(crate) async fn drive(
        &mut self,
        connection: &mut impl Connection,
        mut statement: Statement,
    ) -> Result<Next, StoreError> {
        loop {
            let row = connection.run(statement).await?;
            match self.told(row.as_deref())? {
                Next::Ask(next) => statement = next,
                next => return Ok(next),
            }
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use tokio_postgres::types::{ToSql, Type};
    use tokio_postgres::{Row, Transaction};

    use super::{Connection, Dialect, Statement, StoreError, Value};
    use crate::error::StoreErrorKind;

    impl Connection for &Transaction<'_> {
        fn dialect(&self) -> Dialect {
            Dialect::Postgres
        }

        async fn run(&mut self, statement: Statement) -> Result<Option<Vec<Value>>, StoreError> {
            // Nothing is prepared: a pooler may stand between.
            let values: Vec<(&(dyn ToSql + Sync), Type)> = statement.values.iter().map(typed).collect();
            let rows = self.query_typed(&statement.sql, &values).await.map_err(|source| {
                let said = source.as_db_error().map_or_else(|| source.to_string(), ToString::to_string);
                StoreError::new(StoreErrorKind::NotExecuted, format!("the transaction's Postgres failed: {said}"))
                    .with_source(source)
            })?;
            Ok(rows.first().map(|row| (0..row.len()).map(|column| value(row, column)).collect()))
        }
    }

    fn typed(value: &Value) -> (&(dyn ToSql + Sync), Type) {
        match value {
            Value::Null => (&None::<&[u8]>, Type::BYTEA),
            Value::Int(int) => (int, Type::INT8),
            Value::Bytes(bytes) => (bytes, Type::BYTEA),
            Value::Text(text) => (text, Type::TEXT),
        }
    }

    /// A value of a column, which has one of four types.
    fn value(row: &Row, column: usize) -> Value {
        let found = match *row.columns()[column].type_() {
            Type::INT8 => row.get::<_, Option<i64>>(column).map(Value::Int),
            Type::TEXT => row.get::<_, Option<String>>(column).map(Value::Text),
            Type::BYTEA => row.get::<_, Option<Vec<u8>>>(column).map(Value::Bytes),
            _ => None,
        };
        found.unwrap_or(Value::Null)
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use rusqlite::types::{ToSqlOutput, ValueRef};
    use rusqlite::{Connection as Sqlite, OptionalExtension, Row, ToSql, params_from_iter};

    use super::{Connection, Dialect, Statement, StoreError, Value};
    use crate::error::StoreErrorKind;

    impl Connection for &Sqlite {
        fn dialect(&self) -> Dialect {
            Dialect::Sqlite
        }

        async fn run(&mut self, statement: Statement) -> Result<Option<Vec<Value>>, StoreError> {
            if self.is_autocommit() {
                let words = "this connection is in no transaction, or in one that has ended: begin one first";
                return Err(StoreError::new(StoreErrorKind::Setup, words));
            }
            let run = || {
                let mut prepared = self.prepare_cached(&statement.sql)?;
                let columns = prepared.column_count();
                let row = |row: &Row<'_>| (0..columns).map(|column| row.get_ref(column).map(value)).collect();
                prepared.query_row(params_from_iter(&statement.values), row).optional()
            };
            run().map_err(|source| {
                StoreError::new(StoreErrorKind::NotExecuted, format!("the transaction's SQLite failed: {source}"))
                    .with_source(source)
            })
        }
    }

    impl ToSql for Value {
        fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
            Ok(ToSqlOutput::Borrowed(match self {
                Self::Null => ValueRef::Null,
                Self::Int(int) => ValueRef::Integer(*int),
                Self::Bytes(bytes) => ValueRef::Blob(bytes),
                Self::Text(text) => ValueRef::Text(text.as_bytes()),
            }))
        }
    }

    fn value(found: ValueRef<'_>) -> Value {
        match found {
            ValueRef::Integer(int) => Value::Int(int),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.into()),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Null | ValueRef::Real(_) => Value::Null,
        }
    }
}
