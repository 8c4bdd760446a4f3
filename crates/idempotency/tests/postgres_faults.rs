//! Postgres when it is killed, stands still, is cut off, or is followed by its replica.

mod common;

use std::time::{Duration, Instant};

use common::place::{Tuned, begun, call, complete, replayed};
use common::postgres::{Postgres, replica_of};
use idempotency::engine::{Begun, Settled};
use idempotency::stores::{PostgresOptions, PostgresStore};
use idempotency::{Idempotency, StoreErrorKind};

/// How long an operation may take where it is made to fail.
const LIMIT: Duration = Duration::from_secs(2);

/// More than a loaded machine needs.
const LONG: Duration = Duration::from_secs(30);

fn engine(url: &str) -> Idempotency {
    let options = PostgresOptions { time_limit: LIMIT, ..PostgresOptions::from_url(url).unwrap() };
    let engine = Idempotency::new(PostgresStore::with_options(options).unwrap());
    engine.ttl(Duration::from_secs(600)).lease(Duration::from_secs(60))
}

/// Runs a call until the store answers.
async fn runs_soon(engine: &Idempotency, key: u8, result: &str) {
    let deadline = Instant::now() + LONG;
    loop {
        match engine.begin(&call(key)).await {
            Ok(Begun::Run(attempt)) => {
                assert_eq!(attempt.settle(complete(result)).await, Settled::Stored);
                return;
            }
            Ok(Begun::Replay(_)) => return,
            other => assert!(Instant::now() < deadline, "the store does not answer: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_server_is_an_error_and_works_again_once_it_is_back_with_what_it_stored() {
    let mut server = Postgres::start(&[]);
    let engine = engine(&server.url(&server.schema()));
    begun(&engine, &call(1)).await.settle(complete("before")).await;
    let pending = begun(&engine, &call(2)).await;
    server.stop();
    for key in [1, 3] {
        let error = engine.begin(&call(key)).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::NotExecuted | StoreErrorKind::Unknown), "{error}");
        assert!(error.is_passing());
    }
    assert_eq!(pending.settle(complete("kept")).await, Settled::Deferred);
    server.begin();
    assert!(engine.drain(LONG).await);
    runs_soon(&engine, 4, "after").await;
    for (key, result) in [(1, "before"), (2, "kept"), (4, "after")] {
        assert_eq!(replayed(&engine, &call(key)).await, result);
    }
}

#[tokio::test]
async fn a_server_that_stands_still_is_an_error_within_the_limit() {
    let server = Postgres::start(&[]);
    let engine = engine(&server.url(&server.schema()));
    begun(&engine, &call(0)).await.settle(complete("warm")).await;
    server.signal("STOP");
    let began = Instant::now();
    let begins: Vec<_> = (1..=20)
        .map(|key| (key, engine.clone()))
        .map(|(key, engine)| tokio::spawn(async move { engine.begin(&call(key)).await.map(drop) }))
        .collect();
    for begin in begins {
        assert!(begin.await.unwrap().unwrap_err().is_passing());
    }
    assert!(began.elapsed() < LIMIT * 6, "{:?}", began.elapsed());
    server.signal("CONT");
    assert!(engine.drain(LONG).await);
    for key in 1..=20 {
        runs_soon(&engine, key, "again").await;
    }
}

#[tokio::test]
async fn connections_that_an_administrator_ends_are_opened_again() {
    let server = Postgres::start(&[]);
    let engine = engine(&server.url(&server.schema()));
    begun(&engine, &call(0)).await.settle(complete("warm")).await;
    for key in 1..5 {
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idempotency'");
        runs_soon(&engine, key, "again").await;
    }
}

#[tokio::test]
async fn a_statement_that_is_cancelled_was_not_executed() {
    let server = Postgres::start(&[]);
    let schema = server.schema();
    let engine = engine(&server.url(&schema));
    begun(&engine, &call(0)).await.settle(complete("warm")).await;
    // A table that is locked, as while it is altered: the statement waits until its own limit.
    let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port);
    let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("BEGIN; LOCK TABLE {schema}.records")).await.unwrap();
    let error = engine.begin(&call(1)).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(engine.drain(LONG).await);
    runs_soon(&engine, 1, "after").await;
}

#[tokio::test]
async fn after_a_failover_to_a_synchronous_replica_everything_that_was_acknowledged_is_replayed() {
    let mut primary = Postgres::start(&["synchronous_standby_names=*", "synchronous_commit=local"]);
    let schema = primary.schema();
    let replica = replica_of(&primary);
    let deadline = Instant::now() + LONG;
    while primary.sql("SELECT sync_state FROM pg_stat_replication") != "sync" {
        assert!(Instant::now() < deadline, "the replica does not follow");
    }
    primary.sql("ALTER ROLE postgres SET synchronous_commit = 'on'");
    // Both in one URL; the replica first: it takes no writes, and is passed over.
    let both =
        format!("postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?schema={schema}", replica.port, primary.port);
    let engine = engine(&both);
    for key in 1..=20 {
        begun(&engine, &call(key)).await.settle(complete("acknowledged")).await;
    }
    let pending = begun(&engine, &call(21)).await;
    primary.stop();
    replica.sql("SELECT pg_promote()");
    replica.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    replica.sql("SELECT pg_reload_conf()");
    let _ = pending.settle(complete("completed after it")).await;
    assert!(engine.drain(LONG).await);
    runs_soon(&engine, 22, "new").await;
    for key in 1..=20 {
        assert_eq!(replayed(&engine, &call(key)).await, "acknowledged");
    }
    assert_eq!(replayed(&engine, &call(21)).await, "completed after it");
}

#[tokio::test]
async fn a_connection_to_a_server_that_takes_no_writes_any_more_is_dropped() {
    let server = Postgres::start(&[]);
    let engine = engine(&server.url(&server.schema()));
    begun(&engine, &call(0)).await.settle(complete("warm")).await;
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    server.sql("SELECT pg_reload_conf()");
    let deadline = Instant::now() + LONG;
    while engine.begin(&call(1)).await.is_ok_and(|begun| matches!(begun, Begun::Run(_))) {
        assert!(Instant::now() < deadline, "the server goes on to take writes");
    }
    server.sql("ALTER SYSTEM RESET default_transaction_read_only");
    server.sql("SELECT pg_reload_conf()");
    runs_soon(&engine, 2, "again").await;
}
