//! A key in a transaction of sqlx's, on Postgres.

mod common;

use std::sync::LazyLock;
use std::time::Duration;

use common::place::Tuned;
use common::postgres::{PgBouncer, Postgres};
use idempotency::function::InTx;
use idempotency::stores::{MemoryStore, postgres_schema};
use idempotency::{Error, Idempotency, StoreErrorKind};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres as OfSqlx, Transaction, query};

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

fn idem() -> Idempotency {
    Idempotency::new(MemoryStore::new())
}

fn server() -> &'static Postgres {
    static READY: LazyLock<()> = LazyLock::new(|| {
        Postgres::shared().sql(&postgres_schema("idempotency").unwrap());
        Postgres::shared().sql("CREATE TABLE transfers (test TEXT, key TEXT)");
    });
    LazyLock::force(&READY);
    Postgres::shared()
}

/// Connections to the server, or to a pooler before it, behind which nothing may stay prepared.
fn pool(port: u16) -> PgPool {
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("postgres");
    let options = options.database("postgres").statement_cache_capacity(0).extra_float_digits(None);
    PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(60)).connect_lazy_with(options)
}

/// Transfers once, in a transaction that it leaves open; whether it ran.
async fn transfer(idem: &Idempotency, tx: &mut Transaction<'_, OfSqlx>, test: &str, key: &str) -> Result<bool, Error> {
    match idem.call(test, key)?.payload(key).in_tx(&mut *tx).await? {
        InTx::Replayed(before) => {
            assert_eq!(before, format!("{key} sent"));
            Ok(false)
        }
        InTx::Run(open) => {
            let insert = query("INSERT INTO transfers VALUES ($1, $2)").persistent(false).bind(test).bind(key);
            if insert.execute(&mut **tx).await.is_err() {
                return Err(Error::InFlight { retry_after: Duration::ZERO }); // 40001: it is sent again
            }
            open.complete(tx, format!("{key} sent")).await.map(|_| true)
        }
    }
}

fn transfers(test: &str) -> String {
    server().sql(&format!("SELECT count(*) || ' ' || count(DISTINCT key) FROM transfers WHERE test = '{test}'"))
}

/// Eight workers send each of 100 keys: how many ran, and how many were replayed.
async fn many_at_once(port: u16, test: &str, level: &'static str) -> (u32, u32) {
    let (idem, pool) = (idem(), pool(port));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (idem, pool, test) = (idem.clone(), pool.clone(), test.to_owned());
            tokio::spawn(async move {
                let (mut ran, mut replayed) = (0, 0);
                for key in 0..100 {
                    let key = key.to_string();
                    loop {
                        let mut tx = pool.begin().await.unwrap();
                        let set = format!("SET TRANSACTION ISOLATION LEVEL {level}");
                        query(sqlx::AssertSqlSafe(set)).persistent(false).execute(&mut *tx).await.unwrap();
                        let is_first = match transfer(&idem, &mut tx, &test, &key).await {
                            Ok(is_first) => is_first,
                            Err(Error::InFlight { .. } | Error::Store(_)) => continue, // sent again
                            Err(other) => panic!("{other:?}"),
                        };
                        if tx.commit().await.is_ok() {
                            ran += u32::from(is_first);
                            replayed += u32::from(!is_first);
                            break;
                        }
                    }
                }
                (ran, replayed)
            })
        })
        .collect();
    let mut sum = (0, 0);
    for worker in workers {
        let (ran, replayed) = worker.await.unwrap();
        sum = (sum.0 + ran, sum.1 + replayed);
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_run_each_key_once() {
    for level in LEVELS {
        assert_eq!(many_at_once(server().port, level, level).await, (100, 700), "{level}");
        assert_eq!(transfers(level), "100 100", "{level}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_they_do_too() {
    let pooler = PgBouncer::start(server());
    for level in LEVELS {
        let test = format!("pooled {level}");
        assert_eq!(many_at_once(pooler.port, &test, level).await, (100, 700), "{level}");
        assert_eq!(transfers(&test), "100 100", "{level}");
    }
}

#[tokio::test]
async fn a_duplicate_is_told_at_once_and_its_transaction_goes_on() {
    let (idem, pool) = (idem(), pool(server().port));
    let (mut first, mut second) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    assert!(transfer(&idem, &mut first, "open", "a").await.unwrap());
    let told = transfer(&idem, &mut second, "open", "a").await;
    assert!(matches!(told, Err(Error::InFlight { .. })), "{told:?}");
    query("INSERT INTO transfers VALUES ('open', 'other')").execute(&mut *second).await.unwrap();
    first.rollback().await.unwrap();
    assert!(transfer(&idem, &mut second, "open", "a").await.unwrap());
    second.commit().await.unwrap();
    assert_eq!(transfers("open"), "2 2");
}

#[tokio::test]
async fn a_look_waits_for_the_first_and_needs_no_transaction() {
    let (idem, pool) = (idem().wait(Duration::from_secs(60)), pool(server().port));
    let look = |key: &'static str| {
        let (idem, pool) = (idem.clone(), pool.clone());
        tokio::spawn(async move { idem.call("look", key).unwrap().payload(key).look::<String>(&pool).await })
    };
    assert_eq!(look("a").await.unwrap().unwrap(), None, "nobody is at it");
    let mut first = pool.begin().await.unwrap();
    assert!(transfer(&idem, &mut first, "look", "a").await.unwrap());
    let told = idem.clone().wait(Duration::ZERO);
    let told = told.call("look", "a").unwrap().payload("a").look::<String>(&pool).await;
    assert!(matches!(told, Err(Error::InFlight { .. })), "{told:?}");
    let second = look("a");
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().as_deref(), Some("a sent"));
    let conflict = idem.call("look", "a").unwrap().payload("b").look::<String>(&pool).await;
    assert!(matches!(conflict, Err(Error::Conflict)), "{conflict:?}");
    let mut first = pool.begin().await.unwrap();
    assert!(transfer(&idem, &mut first, "look", "b").await.unwrap());
    let second = look("b");
    first.rollback().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), None, "it is free");
}

#[tokio::test]
async fn a_schema_that_is_not_there_says_what_to_run_and_leaves_the_transaction_alone() {
    let (idem, pool) = (idem(), pool(server().port));
    let schema = common::postgres::fresh_schema();
    let mut tx = pool.begin().await.unwrap();
    let missing = idem.call("schema", "a").unwrap().schema(&schema).in_tx::<u32>(&mut tx).await.unwrap_err();
    let Error::Store(error) = &missing else { panic!("{missing:?}") };
    assert_eq!(error.kind(), StoreErrorKind::Setup);
    assert!(error.to_string().contains("create_table()") && error.to_string().contains(&schema), "{error}");
    query("SELECT 1").execute(&mut *tx).await.unwrap();
    drop(tx);
    server().sql(&postgres_schema(&schema).unwrap());
    for is_first in [true, false] {
        let mut tx = pool.begin().await.unwrap();
        match idem.call("schema", "a").unwrap().schema(&schema).in_tx::<u32>(&mut tx).await.unwrap() {
            InTx::Run(open) => assert!(is_first && open.complete(&mut tx, 1).await.unwrap() == 1),
            InTx::Replayed(one) => assert!(!is_first && one == 1),
        }
        tx.commit().await.unwrap();
    }
    assert_eq!(server().sql(&format!("SELECT count(*) FROM {schema}.records")), "1");
    // Found before, and gone since: the statement fails, and says why.
    server().sql(&format!("DROP SCHEMA {schema} CASCADE"));
    let mut tx = pool.begin().await.unwrap();
    let gone = idem.call("schema", "b").unwrap().schema(&schema).in_tx::<u32>(&mut tx).await.unwrap_err();
    assert!(matches!(&gone, Error::Store(error) if error.to_string().contains("create_table()")), "{gone:?}");
}

/// The block of docs/transactions.md.
#[rustfmt::skip]
mod page {
    use idempotency::function::InTx;
    use idempotency::{Error, Idempotency};
    use sqlx::PgPool;

    pub async fn transfer(
        idem: &Idempotency,
        pool: &PgPool,
        key: &str,
        amount: i64,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let call = || -> Result<_, Error> { Ok(idem.call("transfer", key)?.payload(&amount)) };
        // Done: no transaction. It waits up to `wait` while another one is at it.
        if let Some(receipt) = call()?.look(pool).await? {
            return Ok(receipt);
        }
        let mut tx = pool.begin().await?;
        match call()?.in_tx(&mut tx).await? {
            InTx::Replayed(receipt) => Ok(receipt), // done in between
            InTx::Run(open) => {
                sqlx::query("UPDATE accounts SET balance = balance - $1").bind(amount).execute(&mut *tx).await?;
                let receipt = open.complete(&mut tx, format!("{amount} sent")).await?;
                tx.commit().await?;
                Ok(receipt)
            }
        }
    }
}

#[tokio::test]
async fn the_page_s_block_charges_once() {
    let here = include_str!("sqlx.rs").replace("\n    ", "\n").replace("pub async", "async");
    let page_s =
        include_str!("../../../docs/transactions.md").split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(here.contains(page_s), "this file has another block than docs/transactions.md");
    server().sql("CREATE TABLE accounts (balance BIGINT); INSERT INTO accounts VALUES (100)");
    for _ in 0..2 {
        assert_eq!(page::transfer(&idem(), &pool(server().port), "page", 42).await.unwrap(), "42 sent");
    }
    assert_eq!(server().sql("SELECT balance FROM accounts"), "58");
    assert!(page::transfer(&idem(), &pool(server().port), "page", 43).await.is_err());
}
