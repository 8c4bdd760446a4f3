//! Operations that come while others are under way: they share a statement, and nothing else.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::place::{KEY, attempt, poll_once};
use common::postgres::Postgres;
use idempotency::decide::Claim;
use idempotency::store::{Claimed, Completed, Store};
use idempotency::stores::{PostgresOptions, PostgresStore};
use idempotency::{Record, State, StorageKey, StoreError, StoreErrorKind};
use tokio::runtime::Handle;

/// A session in which nobody writes a record, until it ends.
struct Locked {
    server: &'static Postgres,
    schema: String,
    client: tokio_postgres::Client,
}

impl Locked {
    async fn new(schema: &str) -> Self {
        let server = Postgres::shared();
        let url = server.url(schema);
        let (text, _) = url.split_once('?').unwrap();
        let (client, connection) = tokio_postgres::connect(text, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("BEGIN; LOCK TABLE {schema}.records")).await.unwrap();
        Self { server, schema: schema.to_owned(), client }
    }

    /// Claims that take both turns; whatever is asked after them waits.
    async fn take_turns(&self, store: &Arc<PostgresStore>, runtime: &Handle) -> [Asked; 2] {
        let first = claim(store, 254, runtime);
        self.is_met_by(1).await;
        let second = claim(store, 255, runtime);
        self.is_met_by(2).await;
        [first, second]
    }

    /// Returns when so many statements wait for the table.
    async fn is_met_by(&self, statements: usize) {
        let Self { server, schema, .. } = self;
        let waiting =
            format!("SELECT count(*) FROM pg_locks WHERE relation = '{schema}.records'::regclass AND NOT granted");
        until(|| server.sql(&waiting) == statements.to_string()).await;
    }

    async fn end(self) {
        self.client.batch_execute("COMMIT").await.unwrap();
    }
}

/// Lets every task of this thread run for as long as it can.
async fn run_tasks() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Returns when the server says so, which tells nobody.
async fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not become so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A store with two connections, whose server may answer late without being taken for dead.
async fn store(schema: &str) -> Arc<PostgresStore> {
    let server = Postgres::shared();
    let mut options = PostgresOptions::from_url(&format!("{}&application_name={schema}", server.url(schema))).unwrap();
    options.time_limit = Duration::from_secs(20);
    let store = PostgresStore::with_options(options).unwrap();
    let connections = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}'");
    // A second one is opened where the first is busy.
    let (one, other) = tokio::join!(store.get(&KEY), store.get(&KEY));
    assert!(one.unwrap().is_none() && other.unwrap().is_none());
    until(|| server.sql(&connections) == "2").await;
    Arc::new(store)
}

type Asked = tokio::task::JoinHandle<Result<(Claimed, Record), StoreError>>;

fn key(number: u8) -> StorageKey {
    StorageKey([number; 32])
}

fn claim(store: &Arc<PostgresStore>, number: u8, runtime: &Handle) -> Asked {
    let store = store.clone();
    runtime.spawn(async move {
        let record = attempt();
        let claim = Claim { record: record.clone(), takes_over: None };
        Ok((store.claim(&key(number), &claim).await?, record))
    })
}

/// How many transactions have written the records that there are.
fn transactions(schema: &str) -> usize {
    Postgres::shared().sql(&format!("SELECT count(DISTINCT xmin::text) FROM {schema}.records")).parse().unwrap()
}

async fn is_claimed(asked: Asked) -> Record {
    match asked.await.unwrap().unwrap() {
        (Claimed::Yes { fence }, record) => Record { fence, ..record },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn claims_that_come_together_share_a_commit_and_so_do_completions() {
    let schema = Postgres::shared().schema();
    let store = store(&schema).await;
    let locked = Locked::new(&schema).await;
    let first = locked.take_turns(&store, &Handle::current()).await;
    let claims: Vec<_> = (0..30).map(|number| claim(&store, number, &Handle::current())).collect();
    let again = claim(&store, 0, &Handle::current());
    run_tasks().await;
    locked.end().await;
    let mut held = vec![];
    for (number, claim) in (0..).zip(claims) {
        held.push((key(number), is_claimed(claim).await));
    }
    let (other, _) = again.await.unwrap().unwrap();
    assert!(matches!(other, Claimed::No { .. }), "of two claims of one key in one statement one runs: {other:?}");
    assert_eq!(transactions(&schema), 3);

    let locked = Locked::new(&schema).await;
    for (number, claim) in [254, 255].into_iter().zip(first) {
        held.push((key(number), is_claimed(claim).await));
    }
    let completions: Vec<_> = held
        .iter()
        .map(|(key, record)| {
            let (store, key) = (store.clone(), *key);
            let done = Record { state: State::Completed, result: [key.0[0]].into(), ..record.clone() };
            tokio::spawn(async move { store.complete(&key, &done, 0).await })
        })
        .collect();
    run_tasks().await;
    locked.end().await;
    for completion in completions {
        assert!(matches!(completion.await.unwrap().unwrap(), Completed::Stored));
    }
    assert!(transactions(&schema) <= 2, "{}", transactions(&schema));
    for (key, _) in held {
        let (stored, _) = store.get(&key).await.unwrap().unwrap();
        assert_eq!(*stored.record.result, [key.0[0]], "each has its own result");
    }
}

#[tokio::test]
async fn an_operation_that_the_server_refuses_spoils_no_other() {
    let schema = Postgres::shared().schema();
    Postgres::shared().sql(&format!(
        "CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;
         CREATE TRIGGER refuse BEFORE INSERT ON {schema}.records FOR EACH ROW
         WHEN (NEW.key = decode(repeat('07', 32), 'hex')) EXECUTE FUNCTION {schema}.refuse()"
    ));
    let store = store(&schema).await;
    let locked = Locked::new(&schema).await;
    let first = locked.take_turns(&store, &Handle::current()).await;
    let claims: Vec<_> = (0..20).map(|number| claim(&store, number, &Handle::current())).collect();
    run_tasks().await;
    locked.end().await;
    for claim in first {
        is_claimed(claim).await;
    }
    for (number, claim) in claims.into_iter().enumerate() {
        if number == 7 {
            let error = claim.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
        } else {
            is_claimed(claim).await;
        }
    }
}

#[tokio::test]
async fn a_claim_that_is_dropped_before_its_turn_is_never_sent() {
    let schema = Postgres::shared().schema();
    let store = store(&schema).await;
    let locked = Locked::new(&schema).await;
    let first = locked.take_turns(&store, &Handle::current()).await;
    let dropped = Claim { record: attempt(), takes_over: None };
    assert!(poll_once(store.claim(&key(2), &dropped)).is_none());
    let last = claim(&store, 3, &Handle::current());
    locked.end().await;
    for claim in first.into_iter().chain([last]) {
        is_claimed(claim).await;
    }
    assert!(store.get(&key(2)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_release_comes_after_the_claim_that_nobody_waits_for() {
    let schema = Postgres::shared().schema();
    let store = store(&schema).await;
    let locked = Locked::new(&schema).await;
    let [kept, dropped] = locked.take_turns(&store, &Handle::current()).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    let release = {
        let store = store.clone();
        // Whose claim it is, only its caller knew.
        tokio::spawn(async move { store.release(&key(255), &attempt()).await })
    };
    run_tasks().await;
    assert!(!release.is_finished());
    locked.end().await;
    is_claimed(kept).await;
    release.await.unwrap().unwrap();
    assert!(store.get(&key(255)).await.unwrap().is_some(), "the claim had come");
}

#[tokio::test]
async fn who_waits_for_a_turn_on_a_runtime_that_ends_goes_on_with_their_own() {
    let schema = Postgres::shared().schema();
    let store = store(&schema).await;
    let locked = Locked::new(&schema).await;
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = locked.take_turns(&store, other.handle()).await;
    let waits = claim(&store, 2, &Handle::current());
    run_tasks().await;
    other.shutdown_background();
    for claim in first {
        assert!(claim.await.unwrap_err().is_cancelled());
    }
    locked.end().await;
    is_claimed(waits).await;
}
