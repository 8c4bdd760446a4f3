//! What only Postgres can get wrong: its schema, its errors, poolers, and transactions of the user's at our keys.

mod common;

use std::time::Duration;

use common::place::{KEY, LIMIT, Tuned, attempt, begun, call, claimed, complete, paying, replayed};
use common::postgres::{PgBouncer, Postgres, fresh_schema};
use idempotency::clock::wall_clock;
use idempotency::decide::{Claim, Resolution};
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::store::Store;
use idempotency::stores::{PostgresOptions, PostgresStore, postgres_schema};
use idempotency::{Idempotency, Record, State, StoreError, StoreErrorKind};

fn store(url: &str) -> PostgresStore {
    PostgresStore::open(url).unwrap()
}

fn engine(url: &str) -> Idempotency {
    Idempotency::new(store(url)).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
}

#[tokio::test]
async fn fences_are_the_servers_clock_and_grow_by_one_where_it_is_behind() {
    let server = Postgres::shared();
    let store = store(&server.url(&server.schema()));
    let own = attempt();
    let fence = claimed(&store, &own, None).await;
    assert!(fence.abs_diff(wall_clock()) < 10_000_000, "{fence} is the server's clock in µs");
    let (held, now) = store.get(&KEY).await.unwrap().unwrap();
    assert_eq!(held.record, Record { fence, ..own.clone() });
    assert_eq!(held.lease_end - own.lease, fence, "one clock reading for all");
    assert!(now >= fence);
    assert!(store.release(&KEY, &own).await.unwrap());
    let ahead = Record { fence: 4_102_444_800_000_001, lease: 1000, ..attempt() };
    store.complete(&KEY, &ahead, u64::MAX).await.unwrap(); // written as it is, since nothing stands there
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(claimed(&store, &attempt(), Some(ahead)).await, 4_102_444_800_000_002);
}

#[tokio::test]
async fn a_century_of_ttl_is_kept() {
    let server = Postgres::shared();
    let engine = engine(&server.url(&server.schema())).ttl(Duration::from_secs(100 * 365 * 24 * 3600));
    begun(&engine, &call(1)).await.settle(complete("long")).await;
    assert_eq!(replayed(&engine, &call(1)).await, "long");
}

#[tokio::test]
async fn a_schema_that_is_missing_or_older_is_named_with_what_to_run() {
    let server = Postgres::shared();
    let schema = fresh_schema();
    let store = store(&server.url(&schema));
    let error = store.get(&KEY).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("create_table()") && error.to_string().contains(&schema), "{error}");
    for _ in 0..2 {
        store.create_table().await.unwrap();
    }
    claimed(&store, &attempt(), None).await;
    let version = |number| {
        server.sql(&format!(
            "CREATE OR REPLACE FUNCTION {schema}.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT {number}'"
        ))
    };
    version(0);
    let error = self::store(&server.url(&schema)).get(&KEY).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("version 0") && error.to_string().contains("create_table()"), "{error}");
    store.create_table().await.unwrap();
    let after = self::store(&server.url(&schema));
    assert!(after.get(&KEY).await.unwrap().is_some(), "its records stay");
    // A later version of this library has been here: its functions stay.
    version(2);
    after.create_table().await.unwrap();
    assert_eq!(server.sql(&format!("SELECT {schema}.schema_version()")), "2");
    assert!(self::store(&server.url(&schema)).get(&KEY).await.unwrap().is_some(), "what is newer has what is older");
    server.sql(&format!("DROP TABLE {schema}.records"));
    let error = after.get(&KEY).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("create_table()"), "{error}");
}

#[tokio::test]
async fn two_that_make_the_schema_at_once_make_it_once() {
    let server = Postgres::shared();
    let url = server.url(&fresh_schema());
    let making: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let store = PostgresStore::with_options(PostgresOptions {
                    time_limit: LONG,
                    ..PostgresOptions::from_url(&url).unwrap()
                });
                async move { store.unwrap().create_table().await }
            })
        })
        .collect();
    for made in making {
        made.await.unwrap().unwrap();
    }
    claimed(&store(&url), &attempt(), None).await;
}

/// More than a loaded machine needs for a connection.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_schema_needs_a_plain_name() {
    for name in ["", "a b", "a\"b", "ü", "a.b", &"x".repeat(64)] {
        let error = postgres_schema(name).unwrap_err();
        assert!(error.to_string().contains("letters, digits and underscores"), "{error}");
    }
    assert!(postgres_schema("select").unwrap().contains("\"select\".claim"), "a keyword is quoted");
}

#[tokio::test]
async fn who_may_not_write_is_told_which_grants_are_missing() {
    let server = Postgres::shared();
    let (schema, role) = (server.schema(), fresh_schema());
    server.sql(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}"));
    let url = server.url(&schema).replace("postgres@", &format!("{role}@"));
    server.sql(&format!("GRANT SELECT ON {schema}.records TO {role}"));
    let reader = store(&url);
    assert!(reader.get(&KEY).await.unwrap().is_none());
    let claim = Claim { record: attempt(), takes_over: None };
    let error = reader.claim(&KEY, &claim).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("GRANT") && error.to_string().contains(&schema), "{error}");
    let error = store(&server.url(&fresh_schema()).replace("postgres@", &format!("{role}@"))).create_table().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("owner"), "{error}");
    server.sql(&format!("GRANT INSERT, UPDATE, DELETE ON {schema}.records TO {role}"));
    claimed(&reader, &attempt(), None).await;
    server.sql(&format!("ALTER ROLE {role} SET default_transaction_read_only = on"));
    let error = store(&url).get(&KEY).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("default_transaction_read_only"), "{error}");
}

#[tokio::test]
async fn a_server_that_refuses_us_is_a_matter_of_setup_and_one_that_is_away_is_not() {
    let server = Postgres::shared();
    let at = |url: String| async move { store(&url).get(&KEY).await.unwrap_err() };
    let url = server.url("x");
    let error = at(url.replace("/postgres?", "/missing?")).await;
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    let error = at(url.replace("postgres@", "stranger@")).await;
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    let error = at("postgresql://postgres:secret@127.0.0.1:1/postgres".into()).await;
    assert_eq!(error.kind(), StoreErrorKind::NotExecuted, "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

/// What every operation says about a key that is not ours to touch.
#[tokio::test]
async fn a_foreign_or_newer_record_is_refused_by_name_and_stays() {
    let server = Postgres::shared();
    let schema = server.schema();
    let store = store(&server.url(&schema));
    let own = attempt();
    let newer = {
        let mut newer = Record { fence: 1_700_000_000_000_000, ..own.clone() }.encode();
        newer[3] = b'2';
        newer.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (record, says) in
        [("6162", "not an idempotency record"), ("", "not an idempotency record"), (&newer, "version 2")]
    {
        let put = format!("INSERT INTO {schema}.records VALUES ('\\x{}', '\\x{record}', 0, 9e18)", "01".repeat(32));
        server.sql(&format!("DELETE FROM {schema}.records; {put}"));
        let check = |error: StoreError| {
            assert_eq!(error.kind(), StoreErrorKind::Foreign, "{error}");
            assert!(error.to_string().contains(&KEY.to_string()) && error.to_string().contains(says), "{error}");
        };
        let done = Record { state: State::Completed, ..own.clone() };
        for takes_over in [None, Some(own.clone())] {
            check(store.claim(&KEY, &Claim { record: own.clone(), takes_over }).await.unwrap_err());
        }
        check(store.complete(&KEY, &done, 0).await.unwrap_err());
        check(store.complete(&KEY, &done, u64::MAX).await.unwrap_err());
        check(store.get(&KEY).await.unwrap_err());
        let word = Resolution { fence: 0, into: None, force: true };
        for answer in [store.renew(&KEY, &own).await, store.release(&KEY, &own).await, store.resolve(&KEY, &word).await]
        {
            assert!(!answer.unwrap());
        }
        let stays = server.sql(&format!("SELECT encode(record, 'hex') FROM {schema}.records"));
        assert_eq!(stays, record, "nothing is overwritten");
    }
}

/// A transaction of the user's that has a key's record in it.
struct Theirs(tokio_postgres::Client);

impl Theirs {
    async fn begin(server: &Postgres, schema: &str, record: &Record, seen: Option<Record>) -> Self {
        let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port);
        let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN").await.unwrap();
        let claim = format!("SELECT outcome FROM {schema}.claim($1, $2, $3, $4, $5)");
        let (lease, life) = (record.lease as i64, record.ttl as i64);
        let seen = seen.map(|seen| seen.encode());
        let row = client.query_one(&claim, &[&&KEY.0[..], &record.encode(), &lease, &life, &seen]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "claimed");
        Self(client)
    }
}

#[tokio::test]
async fn a_key_in_a_transaction_of_the_users_is_in_flight_until_it_ends() {
    let server = Postgres::shared();
    let schema = server.schema();
    let engine = engine(&server.url(&schema));
    let theirs = Theirs::begin(server, &schema, &attempt(), None).await;
    // Nobody can see yet what it is: another payload is told that something runs, too.
    assert!(matches!(engine.begin(&call(1)).await, Ok(Begun::InFlight { .. })));
    assert!(matches!(engine.begin(&paying(1, 7)).await, Ok(Begun::InFlight { .. })));
    let waiter = engine.clone().wait(LONG);
    let waiting = tokio::spawn(async move { begun(&waiter, &call(1)).await.settle(complete("after")).await });
    assert!(engine.get(&KEY).await.unwrap().is_none());
    theirs.0.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(waiting.await.unwrap(), Settled::Stored);
    assert_eq!(replayed(&engine, &call(1)).await, "after");
}

#[tokio::test]
async fn an_owner_whose_lapsed_claim_a_transaction_takes_over_never_queues_behind_it() {
    let server = Postgres::shared();
    let schema = server.schema();
    let store = store(&server.url(&schema));
    let own = Record { lease: 1_000, ..attempt() };
    let own = Record { fence: claimed(&store, &own, None).await, ..own };
    let theirs = Theirs::begin(server, &schema, &attempt(), Some(own.clone())).await;
    let done = Record { state: State::Completed, ..own.clone() };
    let word = Resolution { fence: own.fence, into: None, force: true };
    for answer in [
        store.renew(&KEY, &own).await.map(drop),
        store.complete(&KEY, &done, 0).await.map(drop),
        store.release(&KEY, &own).await.map(drop),
        store.resolve(&KEY, &word).await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Busy, "{error}");
        assert!(error.is_passing());
    }
    assert_eq!(store.purge().await.unwrap(), 0);
    theirs.0.batch_execute("ROLLBACK").await.unwrap();
    assert!(store.renew(&KEY, &own).await.unwrap(), "it is its own again");
}

#[tokio::test]
async fn a_completion_behind_a_transaction_of_the_users_lands_after_it() {
    let server = Postgres::shared();
    let schema = server.schema();
    let store = store(&server.url(&schema));
    let lapsed = engine(&server.url(&schema)).lease(LIMIT).run_limit(Duration::from_millis(1));
    let own = begun(&lapsed, &call(1)).await;
    tokio::time::sleep(LIMIT * 2).await;
    let (held, _) = store.get(&KEY).await.unwrap().unwrap();
    let theirs = Theirs::begin(server, &schema, &attempt(), Some(held.record)).await;
    assert_eq!(own.settle(complete("late")).await, Settled::Deferred);
    theirs.0.batch_execute("ROLLBACK").await.unwrap();
    assert!(lapsed.drain(LONG).await);
    assert_eq!(replayed(&engine(&server.url(&schema)), &call(1)).await, "late");
}

#[tokio::test]
async fn a_snapshot_that_is_too_old_to_see_the_record_says_so_and_the_transaction_lives_on() {
    let server = Postgres::shared();
    let schema = server.schema();
    let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port);
    let store = store(&server.url(&schema));
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM pg_class")).await.unwrap();
        let own = attempt();
        claimed(&store, &own, None).await;
        let claim = format!("SELECT outcome FROM {schema}.claim($1, $2, 10000000, 60000000, NULL)");
        let row = client.query_one(&claim, &[&&KEY.0[..], &attempt().encode()]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "stale", "{level}");
        client.batch_execute("COMMIT").await.unwrap();
        assert!(store.release(&KEY, &own).await.unwrap());
    }
}

#[tokio::test]
async fn a_purge_removes_what_has_expired_and_nothing_else() {
    let server = Postgres::shared();
    let schema = server.schema();
    let store = store(&server.url(&schema));
    claimed(&store, &attempt(), None).await;
    server.sql(&format!(
        "INSERT INTO {schema}.records SELECT decode(lpad(to_hex(n), 64, '0'), 'hex'), 'idm1C', 0, 1 FROM generate_series(1, 4500) n"
    ));
    assert_eq!(store.purge().await.unwrap(), 4500);
    assert!(store.get(&KEY).await.unwrap().is_some());
    assert_eq!(server.sql(&format!("SELECT count(*) FROM {schema}.records")), "1");
}

#[tokio::test]
async fn a_purge_passes_over_an_expired_record_that_is_claimed_again() {
    let server = Postgres::shared();
    let schema = server.schema();
    let store = store(&server.url(&schema));
    server.sql(&format!("INSERT INTO {schema}.records VALUES (decode(repeat('01', 32), 'hex'), 'idm1C', 0, 1)"));
    let theirs = Theirs::begin(server, &schema, &attempt(), None).await;
    assert_eq!(store.purge().await.unwrap(), 0, "it does not wait for it either");
    theirs.0.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 0);
    assert!(store.get(&KEY).await.unwrap().is_some(), "the live claim stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_everything_works_whether_it_is_told_or_finds_out() {
    let server = Postgres::shared();
    let pooler = PgBouncer::start(server);
    let schema = server.schema();
    for told in ["", "&pooler=yes"] {
        let url = format!("{}{told}", pooler.url(&schema));
        // As in several processes, whose statements would meet on the few connections of the pooler.
        let engines: Vec<_> = (0..4).map(|_| engine(&url)).collect();
        let running: Vec<_> = (0..200u8)
            .map(|key| {
                let engine = engines[usize::from(key) % 4].clone();
                tokio::spawn(async move {
                    let attempt = begun(&engine, &call(key)).await;
                    assert_eq!(attempt.settle(complete("pooled")).await, Settled::Stored);
                    replayed(&engine, &call(key)).await
                })
            })
            .collect();
        for run in running {
            assert_eq!(run.await.unwrap(), "pooled");
        }
        assert_eq!(server.sql("SELECT count(*) FROM pg_prepared_statements"), "0");
        server.sql(&format!("TRUNCATE {schema}.records"));
    }
    store(&pooler.url(&fresh_schema())).create_table().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_behind_a_pooler_are_woken_over_a_listen_url() {
    let server = Postgres::start(&[]);
    let pooler = PgBouncer::start(&server);
    let schema = server.schema();
    let direct = server.url(&schema).replace('?', "%3F").replace('&', "%26");
    let url = format!("{}&listen_url={direct}", pooler.url(&schema));
    let (leader, waiter) = (engine(&url), engine(&url).wait(LONG));
    let attempt = begun(&leader, &call(1)).await;
    let waiting = tokio::spawn(async move { replayed(&waiter, &call(1)).await });
    let listens = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'";
    while server.sql(listens) == "0" {
        tokio::task::yield_now().await;
    }
    attempt.settle(complete("led")).await;
    assert_eq!(waiting.await.unwrap(), "led");
}

#[tokio::test]
async fn a_released_key_can_be_held_by_hand_and_a_socket_serves() {
    let server = Postgres::shared();
    let schema = server.schema();
    let folder = server.folder().display().to_string().replace('/', "%2F");
    let url = format!("postgresql://postgres@{folder}:{}/postgres?schema={schema}", server.port);
    let engine = engine(&url);
    begun(&engine, &call(1)).await.settle(Verdict::Release).await;
    begun(&engine, &call(1)).await.settle(complete("socket")).await;
    assert_eq!(replayed(&engine, &call(1)).await, "socket");
}

#[test]
fn a_url_that_cant_be_read_says_what_to_write_and_no_password() {
    let said = [
        ("mysql://u:secret@h/d", "another scheme"),
        ("postgresql+psycopg://u:secret@h/d", "another scheme"),
        ("postgresql:///d", "names no host"),
        ("postgresql://u:secret@h:port/d", "can't be read"),
        ("postgresql://u:secr?et@h/d", "%3F"),
        ("postgresql://u:secret@h/d?ssl=true", "\"ssl\" is not known"),
        ("postgresql://u:secret@h/d?sslmode=prefer", "choose require or disable"),
        ("postgresql://u:secret@h/d?sslmode=on", "sslmode is disable, require"),
        ("postgresql://u:secret@h/d?sslcert=x", "belong together"),
        ("postgresql://u:secret@h/d?connections=0", "a number from 1 to 1000"),
        ("postgresql://u:secret@h/d?pooler=maybe", "yes or no"),
        ("postgresql://u:secret@h/d?listen_url=secret", "another scheme"),
        ("postgresql://u:secret@h1,h2,h3/d?port=1,2", "one port"),
    ];
    for (url, words) in said {
        let error = PostgresOptions::from_url(url).map(|_| panic!("{url} can be read")).unwrap_err();
        assert!(error.to_string().contains(words), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("secr"), "{url}: {error:?}");
        assert_eq!(error.kind(), StoreErrorKind::Setup);
    }
}

#[test]
fn a_store_is_shown_without_its_password() {
    let store = store("postgresql://alice:secret@localhost/shop?schema=s");
    let shown =
        format!("{store:?} {:?}", PostgresOptions::from_url("postgresql://alice:secret@localhost/shop").unwrap());
    assert!(shown.contains("PostgresStore { schema: \"s\"") && !shown.contains("secret"), "{shown}");
}
