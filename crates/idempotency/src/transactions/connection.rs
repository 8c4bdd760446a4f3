//! [`Connection`]: a connection of the caller's in a transaction, and those that are known.

use super::{Dialect, Statement, Value};
#[cfg(feature = "functions")]
use super::{InTransaction, Next};
use crate::error::StoreError;

/// A connection of the caller's, in a transaction.
///
/// Implemented for `&tokio_postgres::Transaction` (feature `postgres`), for `&mut sqlx::Transaction<'_, Postgres>` (feature `sqlx`), and for `&rusqlite::Connection` in a transaction (feature
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

/// A connection of the caller's that is in no transaction, for a look before one begins: each statement is one of its own.
///
/// Implemented for `&tokio_postgres::Client` (feature `postgres`) and for `&sqlx::PgPool` (feature `sqlx`).
pub trait Outside {
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

/// What an error of Postgres means, by its SQLSTATE. It has failed the transaction.
#[cfg(any(feature = "postgres", feature = "sqlx"))]
fn failed(code: &str, said: &str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    use crate::error::StoreErrorKind::{NotExecuted, Setup};
    let (kind, advice) = match code {
        "3F000" | "42883" | "42P01" => (
            Setup,
            ": the table and the functions of the idempotency keys are not there: run create_table() of the Postgres store, or \
             the SQL of postgres_schema(), and say in which schema they are",
        ),
        "42501" => (Setup, ": grant the role the use of the schema and of its table"),
        "25P02" => (NotExecuted, ": the transaction has failed before: roll it back"),
        _ => (NotExecuted, ""),
    };
    let code = if code.is_empty() { String::new() } else { format!("{code} ") };
    StoreError::new(kind, format!("the transaction's Postgres failed: {code}{said}{advice}")).with_source(source)
}

#[cfg(feature = "postgres")]
mod postgres {
    use tokio_postgres::error::SqlState;
    use tokio_postgres::types::{ToSql, Type};
    use tokio_postgres::{Client, Error, Row, Transaction};

    use super::{Connection, Dialect, Outside, Statement, StoreError, Value, failed};

    impl Connection for &Transaction<'_> {
        fn dialect(&self) -> Dialect {
            Dialect::Postgres
        }

        async fn run(&mut self, statement: Statement) -> Result<Option<Vec<Value>>, StoreError> {
            let values: Vec<(&(dyn ToSql + Sync), Type)> = statement.values.iter().map(typed).collect();
            first(self.query_typed(&statement.sql, &values).await)
        }
    }

    impl Outside for &Client {
        async fn run(&mut self, statement: Statement) -> Result<Option<Vec<Value>>, StoreError> {
            let values: Vec<(&(dyn ToSql + Sync), Type)> = statement.values.iter().map(typed).collect();
            first(self.query_typed(&statement.sql, &values).await)
        }
    }

    /// The first row of a query. Nothing is prepared for them: a pooler may stand between.
    fn first(rows: Result<Vec<Row>, Error>) -> Result<Option<Vec<Value>>, StoreError> {
        let rows = rows.map_err(|source| {
            let code = source.code().map_or("", SqlState::code).to_owned();
            let said = source.as_db_error().map_or_else(|| source.to_string(), |said| said.message().to_owned());
            failed(&code, &said, source)
        })?;
        Ok(rows.first().map(|row| (0..row.len()).map(|column| value(row, column)).collect()))
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

#[cfg(feature = "sqlx")]
mod sqlx {
    use sqlx::postgres::{PgArguments, PgRow};
    use sqlx::query::Query;
    use sqlx::{AssertSqlSafe, Column, PgPool, Postgres, Row, Transaction, TypeInfo, query};

    use super::{Connection, Dialect, Outside, Statement, StoreError, Value, failed};

    impl Connection for &mut Transaction<'_, Postgres> {
        fn dialect(&self) -> Dialect {
            Dialect::Postgres
        }

        async fn run(&mut self, statement: Statement) -> Result<Option<Vec<Value>>, StoreError> {
            first(asked(statement).fetch_optional(&mut ***self).await)
        }
    }

    impl Outside for &PgPool {
        async fn run(&mut self, statement: Statement) -> Result<Option<Vec<Value>>, StoreError> {
            first(asked(statement).fetch_optional(*self).await)
        }
    }

    /// Prepared without a name, for this once: a pooler may stand between.
    fn asked(statement: Statement) -> Query<'static, Postgres, PgArguments> {
        let asked = query::<Postgres>(AssertSqlSafe(statement.sql.into_owned())).persistent(false);
        statement.values.into_iter().fold(asked, |asked, value| match value {
            Value::Null => asked.bind(None::<Vec<u8>>),
            Value::Int(int) => asked.bind(int),
            Value::Bytes(bytes) => asked.bind(bytes),
            Value::Text(text) => asked.bind(text),
        })
    }

    fn first(row: Result<Option<PgRow>, sqlx::Error>) -> Result<Option<Vec<Value>>, StoreError> {
        let row = row.map_err(|source| {
            let database = source.as_database_error();
            let code = database.and_then(|said| said.code()).unwrap_or_default().into_owned();
            let said = database.map_or_else(|| source.to_string(), |said| said.message().to_owned());
            failed(&code, &said, source)
        })?;
        Ok(row.map(|row| (0..row.len()).map(|column| value(&row, column)).collect()))
    }

    /// A value of a column, which has one of four types.
    fn value(row: &PgRow, column: usize) -> Value {
        let found = match row.column(column).type_info().name() {
            "INT8" => row.get::<Option<i64>, _>(column).map(Value::Int),
            "TEXT" => row.get::<Option<String>, _>(column).map(Value::Text),
            "BYTEA" => row.get::<Option<Vec<u8>>, _>(column).map(Value::Bytes),
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
