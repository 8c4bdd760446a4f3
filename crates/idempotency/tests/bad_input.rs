//! Connections and databases that a key can't be claimed on in the caller's own transaction: what is said, that nothing runs, and that
//! the transaction is as usable as before. On tokio-postgres and on sqlx.

mod common;

use std::time::{Duration, Instant};

use common::postgres::{Postgres, fresh_schema, replica_of};
use idempotency::function::{Begun, InTx};
use idempotency::stores::{MemoryStore, PostgresStore, postgres_schema};
use idempotency::transactions::{Connection, Dialect, Statement, Value};
use idempotency::{Error, Idempotency, StoreError, StoreErrorKind};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::{Client, NoTls};

const LONG: Duration = Duration::from_secs(20);

/// A connection, lent.
struct Lent<'a, C>(&'a mut C);

impl<C: Connection> Connection for Lent<'_, C> {
    fn dialect(&self) -> Dialect {
        self.0.dialect()
    }

    fn run(&mut self, statement: Statement) -> impl Future<Output = Result<Option<Vec<Value>>, StoreError>> {
        self.0.run(statement)
    }
}

async fn connect(port: &str, user: &str) -> Client {
    let hosts = vec!["127.0.0.1"; port.split(',').count()].join(",");
    let attributes = if port.contains(',') { "target_session_attrs=read-write" } else { "" };
    let config = format!("host={hosts} port={port} user={user} dbname=postgres {attributes}");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Does the same in a transaction of tokio-postgres' and in one of sqlx's, which are rolled back.
macro_rules! on_both {
    ($server:expr, $user:expr, |$tx:ident| $body:block) => {{
        let (port, user): (u16, &str) = ($server.port, $user);
        let mut client = connect(&port.to_string(), user).await;
        let opened = client.transaction().await.unwrap();
        {
            let $tx = &mut &opened;
            $body
        }
        opened.rollback().await.unwrap();
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username(user);
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.database("postgres"));
        let mut opened = pool.begin().await.unwrap();
        {
            let $tx = &mut &mut opened;
            $body
        }
        opened.rollback().await.unwrap();
        pool.close().await;
    }};
}

/// An engine that has found no tables yet.
fn idem() -> Idempotency {
    Idempotency::new(MemoryStore::new())
}

async fn sql(tx: &mut impl Connection, sql: &str) -> Result<Option<Vec<Value>>, StoreError> {
    tx.run(Statement { sql: sql.to_owned().into(), values: vec![] }).await
}

/// Claims, and completes with 1; whether it ran.
async fn charge(idem: &Idempotency, tx: &mut impl Connection, schema: &str, key: &str) -> Result<bool, Error> {
    match idem.call("charge", key)?.schema(schema).in_tx::<u32>(Lent(tx)).await? {
        InTx::Run(open) => open.complete(Lent(tx), 1).await.map(|_| true),
        InTx::Replayed(one) => {
            assert_eq!(one, 1);
            Ok(false)
        }
    }
}

/// A claim is refused in these words, and the transaction goes on.
async fn is_refused(idem: &Idempotency, tx: &mut impl Connection, schema: &str, says: &[&str]) -> StoreErrorKind {
    let refused = charge(idem, tx, schema, "refused").await.unwrap_err();
    let Error::Store(error) = &refused else { panic!("{refused:?}") };
    for words in says {
        assert!(error.to_string().contains(words), "{error}");
    }
    sql(tx, "SELECT 1::bigint").await.expect("it goes on");
    error.kind()
}

#[tokio::test]
async fn a_schema_of_an_earlier_version_is_told_for_each_schema() {
    let server = Postgres::shared();
    let (good, older, missing) = (server.schema(), server.schema(), fresh_schema());
    server.sql(&format!(
        "CREATE OR REPLACE FUNCTION {older}.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 0';\
         DROP FUNCTION {older}.claim_in_transaction"
    ));
    on_both!(server, "postgres", |tx| {
        let idem = idem();
        assert!(charge(&idem, tx, &good, "a").await.unwrap());
        // The engine has found one schema, and looks for the next one all the same.
        let kind = is_refused(&idem, tx, &older, &[&older, "version 0", "needs 1", "create_table()"]).await;
        assert_eq!(kind, StoreErrorKind::Setup);
        let kind = is_refused(&idem, tx, &missing, &[&missing, "create_table()"]).await;
        assert_eq!(kind, StoreErrorKind::Setup);
        assert!(!charge(&idem, tx, &good, "a").await.unwrap(), "and it is as it was");
    });
    let store = PostgresStore::open(&server.url(&older)).unwrap();
    store.create_table().await.unwrap();
    on_both!(server, "postgres", |tx| { assert!(charge(&idem(), tx, &older, "a").await.unwrap()) });
}

#[tokio::test]
async fn what_a_role_may_not_do_is_told() {
    let server = Postgres::shared();
    let (schema, role) = (server.schema(), fresh_schema());
    server.sql(&format!("CREATE ROLE {role} LOGIN"));
    on_both!(server, &role, |tx| {
        let kind = is_refused(&idem(), tx, &schema, &["grant the role USAGE", &schema]).await;
        assert_eq!(kind, StoreErrorKind::Setup);
    });
    server.sql(&format!("GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.records TO {role}"));
    on_both!(server, &role, |tx| {
        is_refused(&idem(), tx, &schema, &["nothing ran", "permission denied"]).await;
    });
    // The table stays somebody else's, and no search_path leads to it.
    server.sql(&format!("GRANT INSERT, UPDATE, DELETE ON {schema}.records TO {role}"));
    on_both!(server, &role, |tx| {
        sql(tx, "SET LOCAL search_path = pg_catalog").await.unwrap();
        assert!(charge(&idem(), tx, &schema, "a").await.unwrap());
        assert!(!charge(&idem(), tx, &schema, "a").await.unwrap());
        sql(tx, "SET TRANSACTION READ ONLY").await.unwrap();
        is_refused(&idem(), tx, &schema, &["nothing ran", "read-only", "connect to the primary"]).await;
    });
}

#[tokio::test]
async fn a_transaction_that_has_failed_is_told_to_be_rolled_back() {
    let server = Postgres::shared();
    let schema = server.schema();
    on_both!(server, "postgres", |tx| {
        sql(tx, "SELECT 1 / 0").await.unwrap_err();
        let refused = charge(&idem(), tx, &schema, "a").await.unwrap_err();
        assert!(matches!(&refused, Error::Store(error) if error.to_string().contains("roll it back")), "{refused:?}");
    });
}

#[tokio::test]
async fn a_statement_timeout_in_the_claim_leaves_the_transaction_alone() {
    let server = Postgres::shared();
    let schema = server.schema();
    on_both!(server, "postgres", |tx| {
        let idem = idem();
        let locking = connect(&server.port.to_string(), "postgres").await;
        locking.batch_execute(&format!("BEGIN; LOCK TABLE {schema}.records")).await.unwrap(); // as a migration does
        sql(tx, "SET LOCAL statement_timeout = '100ms'").await.unwrap();
        is_refused(&idem, tx, &schema, &["nothing ran", "statement timeout"]).await;
        locking.batch_execute("ROLLBACK").await.unwrap();
        assert!(charge(&idem, tx, &schema, "a").await.unwrap());
    });
}

#[tokio::test]
async fn a_key_of_the_other_mode_and_one_inside_of_itself() {
    let server = Postgres::shared();
    let schema = server.schema();
    let plain = Idempotency::new(PostgresStore::open(&server.url(&schema)).unwrap());
    for key in ["running", "done"] {
        let Begun::Run(attempt) = plain.call("charge", key).unwrap().begin::<u32>().await.unwrap() else { panic!() };
        if key == "done" {
            attempt.complete(1).await.unwrap();
        } else {
            std::mem::forget(attempt); // it runs on
        }
    }
    on_both!(server, "postgres", |tx| {
        let idem = idem();
        let told = charge(&idem, tx, &schema, "running").await;
        assert!(matches!(told, Err(Error::InFlight { .. })), "{told:?}");
        assert!(!charge(&idem, tx, &schema, "done").await.unwrap());
        let open = idem.call("charge", "a").unwrap().schema(&schema).in_tx::<u32>(Lent(tx)).await.unwrap();
        let InTx::Run(open) = open else { panic!() };
        let told = charge(&idem, tx, &schema, "a").await;
        assert!(matches!(told, Err(Error::Unknown)), "{told:?}"); // as of a claim that was committed in the middle
        assert!(charge(&idem, tx, &schema, "b").await.unwrap(), "another key is another one");
        open.complete(Lent(tx), 1).await.unwrap();
    });
}

#[tokio::test]
async fn on_a_standby_what_is_done_is_replayed_and_nothing_runs() {
    let primary = Postgres::start(&[]);
    primary.sql(&postgres_schema("idempotency").unwrap());
    let mut client = connect(&primary.port.to_string(), "postgres").await;
    let tx = client.transaction().await.unwrap();
    assert!(charge(&idem(), &mut &tx, "idempotency", "done").await.unwrap());
    tx.commit().await.unwrap();
    let standby = replica_of(&primary);
    let done = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", primary.sql("SELECT pg_current_wal_lsn()"));
    let deadline = Instant::now() + LONG;
    while standby.sql(&done) != "t" {
        assert!(Instant::now() < deadline, "the standby does not follow");
    }
    on_both!(standby, "postgres", |tx| {
        is_refused(&idem(), tx, "idempotency", &["nothing ran", "standby", "connect to the primary"]).await;
        assert!(!charge(&idem(), tx, "idempotency", "done").await.unwrap());
    });
    // Whoever asks for a server that takes writes is not led to it.
    let mut client = connect(&format!("{},{}", standby.port, primary.port), "postgres").await;
    let tx = client.transaction().await.unwrap();
    assert!(charge(&idem(), &mut &tx, "idempotency", "new").await.unwrap());
}
