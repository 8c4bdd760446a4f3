//! A key in the caller's own transaction: rusqlite's and tokio-postgres'.

mod common;

use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use common::postgres::{PgBouncer, Postgres};
use idempotency::events::{self, Event};
use idempotency::function::InTx;
use idempotency::stores::{MemoryStore, postgres_schema};
use idempotency::transactions::SQLITE_TABLES;
use idempotency::{Error, Idempotency, StoreErrorKind};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, NoTls, Transaction};

/// Of it only the options count.
fn idem() -> Idempotency {
    Idempotency::new(MemoryStore::new())
}

fn file() -> (tempfile::TempDir, rusqlite::Connection) {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("shop.db")).unwrap();
    connection.execute_batch(SQLITE_TABLES).unwrap();
    connection.execute_batch("CREATE TABLE orders (item TEXT)").unwrap();
    (folder, connection)
}

fn orders(connection: &rusqlite::Connection) -> u32 {
    connection.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
}

/// Orders once, in a transaction that it leaves open; whether it ran.
fn order(tx: &rusqlite::Connection, item: &str) -> Result<bool, Error> {
    match idem().call("order", "order-7")?.payload(item).in_tx_blocking(tx)? {
        InTx::Replayed(before) => {
            assert_eq!(before, format!("{item} ordered"));
            Ok(false)
        }
        InTx::Run(open) => {
            tx.execute("INSERT INTO orders VALUES (?)", [item]).unwrap();
            open.complete_blocking(tx, format!("{item} ordered")).map(|_| true)
        }
    }
}

#[test]
fn on_sqlite_it_happens_once_or_not_at_all() {
    let (_folder, mut connection) = file();
    let tx = connection.transaction().unwrap();
    assert!(order(&tx, "tea").unwrap());
    tx.rollback().unwrap();
    assert_eq!(orders(&connection), 0);
    for is_first in [true, false, false] {
        let tx = connection.transaction().unwrap();
        assert_eq!(order(&tx, "tea").unwrap(), is_first);
        tx.commit().unwrap();
    }
    let tx = connection.transaction().unwrap();
    assert!(matches!(order(&tx, "coffee"), Err(Error::Conflict)));
    drop(tx);
    assert_eq!(orders(&connection), 1);
}

#[test]
fn on_sqlite_nothing_runs_outside_of_a_transaction() {
    let (_folder, connection) = file();
    let refused = order(&connection, "tea").unwrap_err();
    assert!(matches!(&refused, Error::Store(error) if error.kind() == StoreErrorKind::Setup), "{refused:?}");
    assert_eq!(orders(&connection), 0);
}

#[test]
fn on_sqlite_a_result_without_a_form_undoes_the_work() {
    let (_folder, mut connection) = file();
    let tx = connection.transaction().unwrap();
    let Ok(InTx::<f64>::Run(open)) = idem().call("order", "order-7").unwrap().in_tx_blocking(&tx) else { panic!() };
    tx.execute("INSERT INTO orders VALUES ('tea')", []).unwrap();
    assert!(matches!(open.complete_blocking(&tx, f64::NAN), Err(Error::Unstorable(_))));
    tx.commit().unwrap();
    assert_eq!(orders(&connection), 0);
}

#[test]
fn on_sqlite_another_transaction_stores_nothing() {
    let (_folder, mut connection) = file();
    let tx = connection.transaction().unwrap();
    let Ok(InTx::<u32>::Run(open)) = idem().call("order", "order-7").unwrap().in_tx_blocking(&tx) else { panic!() };
    tx.rollback().unwrap();
    let tx = connection.transaction().unwrap();
    assert!(matches!(open.complete_blocking(&tx, 1), Err(Error::Store(_))));
}

/// A server with the schema and an empty table of transfers for each test.
#[test]
fn observers_are_told_what_comes_of_a_key() {
    let (told, seen) = mpsc::channel();
    let _observation = events::observe(move |event: &Event| {
        if event.operation() == Some("observed") {
            let _ = told.send((event.what.name(), event.store));
        }
    });
    let (_folder, mut connection) = file();
    let idem = idem();
    let call = |payload: u32| idem.call("observed", "a").unwrap().payload(&payload);
    let tx = connection.transaction().unwrap();
    assert!(matches!(call(1).in_tx_blocking::<u32>(&tx), Ok(InTx::Run(_)))); // it is dropped, as by an error of the work
    tx.rollback().unwrap();
    let tx = connection.transaction().unwrap();
    let Ok(InTx::Run(open)) = call(1).in_tx_blocking::<u32>(&tx) else { panic!() };
    open.complete_blocking(&tx, 7).unwrap();
    tx.commit().unwrap();
    let tx = connection.transaction().unwrap();
    assert!(matches!(call(1).in_tx_blocking::<u32>(&tx), Ok(InTx::Replayed(7))));
    assert!(matches!(call(2).in_tx_blocking::<u32>(&tx), Err(Error::Conflict)));
    assert!(events::flush(Duration::from_secs(5)));
    let told: Vec<_> = seen.try_iter().collect();
    let expected = ["claimed", "released", "claimed", "completed", "replayed", "conflict"];
    assert_eq!(told, expected.map(|name| (name, "sqlite")));
}

fn server() -> &'static Postgres {
    static READY: LazyLock<()> = LazyLock::new(|| {
        Postgres::shared().sql(&postgres_schema("idempotency").unwrap());
        Postgres::shared().sql("CREATE TABLE transfers (test TEXT, key TEXT)");
    });
    LazyLock::force(&READY);
    Postgres::shared()
}

async fn connect() -> Client {
    connect_to(server().port).await
}

async fn connect_to(port: u16) -> Client {
    let config = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Transfers once, in a transaction that it leaves open; whether it ran.
async fn transfer(tx: &Transaction<'_>, test: &str, key: &str) -> Result<bool, Error> {
    let idem = idem();
    match idem.call(test, key)?.payload(key).in_tx(tx).await? {
        InTx::Replayed(before) => {
            assert_eq!(before, format!("{key} sent"));
            Ok(false)
        }
        InTx::Run(open) => {
            // Without a prepared statement: a pooler may stand between.
            let insert: [(&(dyn ToSql + Sync), Type); 2] = [(&test, Type::TEXT), (&key, Type::TEXT)];
            if tx.query_typed("INSERT INTO transfers VALUES ($1, $2)", &insert).await.is_err() {
                return Err(Error::InFlight { retry_after: Duration::ZERO }); // 40001: it is sent again
            }
            open.complete(tx, format!("{key} sent")).await.map(|_| true)
        }
    }
}

fn transfers(test: &str) -> String {
    server().sql(&format!("SELECT count(*) || ' ' || count(DISTINCT key) FROM transfers WHERE test = '{test}'"))
}

const LEVELS: [IsolationLevel; 3] =
    [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable];

/// Eight workers send each of 100 keys; how many ran.
async fn many_at_once(port: u16, test: &str, level: IsolationLevel) -> u32 {
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let test = test.to_owned();
            tokio::spawn(async move {
                let mut client = connect_to(port).await;
                let mut ran = 0;
                for key in 0..100 {
                    let key = key.to_string();
                    loop {
                        let tx = client.build_transaction().isolation_level(level).start().await.unwrap();
                        let told = transfer(&tx, &test, &key).await;
                        let (is_first, committed) = match told {
                            Ok(is_first) => (is_first, tx.commit().await.is_ok()),
                            Err(Error::InFlight { .. } | Error::Store(_)) => (false, false), // sent again
                            Err(other) => panic!("{other:?}"),
                        };
                        if committed {
                            ran += u32::from(is_first);
                            break;
                        }
                    }
                }
                ran
            })
        })
        .collect();
    let mut ran = 0;
    for worker in workers {
        ran += worker.await.unwrap();
    }
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_many_at_once_run_each_key_once() {
    for level in LEVELS {
        let test = format!("{level:?}");
        assert_eq!(many_at_once(server().port, &test, level).await, 100, "{level:?}");
        assert_eq!(transfers(&test), "100 100", "{level:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_through_a_pooler_they_do_too() {
    let pooler = PgBouncer::start(server());
    for level in LEVELS {
        let test = format!("pooled {level:?}");
        assert_eq!(many_at_once(pooler.port, &test, level).await, 100, "{level:?}");
        assert_eq!(transfers(&test), "100 100", "{level:?}");
    }
}

#[tokio::test]
async fn on_postgres_a_duplicate_is_told_at_once_and_its_transaction_goes_on() {
    let (mut one, mut two) = (connect().await, connect().await);
    let (first, second) = (one.transaction().await.unwrap(), two.transaction().await.unwrap());
    assert!(transfer(&first, "open", "a").await.unwrap());
    let told = transfer(&second, "open", "a").await;
    assert!(matches!(told, Err(Error::InFlight { retry_after }) if retry_after == Duration::from_secs(1)), "{told:?}");
    second.execute("INSERT INTO transfers VALUES ('open', 'other')", &[]).await.unwrap();
    first.rollback().await.unwrap();
    assert!(transfer(&second, "open", "a").await.unwrap());
    second.commit().await.unwrap();
    assert_eq!(transfers("open"), "2 2");
}

#[tokio::test]
async fn on_postgres_a_snapshot_that_is_too_old_is_told() {
    for level in &LEVELS[1..] {
        let test = format!("old {level:?}");
        let (mut one, mut two) = (connect().await, connect().await);
        let second = two.build_transaction().isolation_level(*level).start().await.unwrap();
        second.query("SELECT * FROM transfers", &[]).await.unwrap(); // takes its snapshot
        let first = one.transaction().await.unwrap();
        assert!(transfer(&first, &test, "a").await.unwrap());
        first.commit().await.unwrap();
        let told = transfer(&second, &test, "a").await;
        assert!(matches!(told, Err(Error::InFlight { retry_after: Duration::ZERO })), "{told:?}");
        second.commit().await.unwrap();
    }
}

#[tokio::test]
async fn on_postgres_a_result_without_a_form_fails_the_transaction() {
    let mut client = connect().await;
    let tx = client.transaction().await.unwrap();
    let Ok(InTx::<f64>::Run(open)) = idem().call("form", "a").unwrap().in_tx(&tx).await else { panic!() };
    tx.execute("INSERT INTO transfers VALUES ('form', 'a')", &[]).await.unwrap();
    assert!(matches!(open.complete(&tx, f64::NAN).await, Err(Error::Unstorable(_))));
    let _ = tx.commit().await; // it is rolled back instead
    assert_eq!(transfers("form"), "0 0");
}

#[tokio::test]
async fn on_postgres_another_transaction_stores_nothing() {
    let mut client = connect().await;
    let tx = client.transaction().await.unwrap();
    let Ok(InTx::<u32>::Run(open)) = idem().call("gone", "a").unwrap().in_tx(&tx).await else { panic!() };
    tx.rollback().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let gone = open.complete(&tx, 1).await.unwrap_err();
    assert!(matches!(&gone, Error::Store(error) if error.to_string().contains("has ended")), "{gone:?}");
}
