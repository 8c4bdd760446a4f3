//! Waiters are woken by hints, not by looking.

mod common;

use std::time::{Duration, Instant};

use common::Redis;
use common::cluster::Cluster;
use common::place::{Tuned, begun, call, complete, replayed};
use common::postgres::Postgres;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::store::{Claimed, Completed, Reply, Watch};
use idempotency::stores::{PostgresStore, RedisStore};
use idempotency::{Idempotency, Micros, Record, StorageKey, Store};

/// A store whose waiters look once an hour.
struct HardlyLooks<S>(S);

impl<S: Store> Store for HardlyLooks<S> {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        self.0.claim(key, claim)
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.renew(key, attempt)
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        self.0.complete(key, record, recreate_until)
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.release(key, attempt)
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.0.get(key)
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        self.0.resolve(key, resolution)
    }

    fn watch<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Watch> {
        Box::pin(async move { Ok(Watch { poll: Duration::from_secs(3600), ..self.0.watch(key).await? }) })
    }
}

/// A leader and its waiter, in two processes for all they know: the waiter, which looks once an hour, wakes at the end of
/// the leader. `is_awaited` says when it listens.
async fn wakes<S: Store>(store: impl Fn() -> S, is_awaited: impl Fn() -> bool) {
    let engine = || Idempotency::new(HardlyLooks(store())).lease(Duration::from_secs(30));
    let (leader, waiter) = (engine(), engine().wait(Duration::from_secs(20)));
    for key in 0..6 {
        let attempt = begun(&leader, &call(key)).await;
        let waiter = waiter.clone();
        let waiting = tokio::spawn(async move { replayed(&waiter, &call(key)).await });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_awaited() {
            assert!(Instant::now() < deadline, "nobody listens");
            tokio::task::yield_now().await;
        }
        attempt.settle(complete("led")).await;
        assert_eq!(waiting.await.unwrap(), "led");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // redis-cli takes the test's own thread
async fn redis() {
    let server = Redis::start(&[]);
    let is_awaited = || server.cli(&["PUBSUB", "NUMPAT"]) != "0" || !server.cli(&["PUBSUB", "CHANNELS"]).is_empty();
    wakes(|| RedisStore::open(&server.url()).unwrap(), is_awaited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // redis-cli takes the test's own thread
async fn redis_cluster() {
    let cluster = Cluster::start(3);
    // One node is listened to, whichever has the key.
    let is_awaited = || cluster.nodes.iter().any(|node| !node.cli(&["PUBSUB", "CHANNELS"]).is_empty());
    wakes(|| RedisStore::open(&cluster.url()).unwrap(), is_awaited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // psql takes the test's own thread
async fn postgres() {
    let server = Postgres::start(&[]);
    let url = server.url(&server.schema());
    let is_awaited =
        || server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'") != "0";
    wakes(|| PostgresStore::open(&url).unwrap(), is_awaited).await;
}
