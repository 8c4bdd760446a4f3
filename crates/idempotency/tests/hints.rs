//! Waiters on Redis are woken by its hints, not by looking.

mod common;

use std::time::{Duration, Instant};

use common::Redis;
use common::place::{Tuned, begun, call, complete, redis_store, replayed};
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::store::{Claimed, Completed, Reply, Watch};
use idempotency::stores::RedisStore;
use idempotency::{Idempotency, Micros, Record, StorageKey, Store};

/// A Redis store whose waiters look once an hour.
struct HardlyLooks(RedisStore);

impl Store for HardlyLooks {
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

#[tokio::test]
async fn a_waiter_that_looks_once_an_hour_wakes_when_its_leader_ends() {
    let server = Redis::start(&[]);
    let engine = || Idempotency::new(HardlyLooks(redis_store(&server.url()))).lease(Duration::from_secs(30));
    // In another process, for all they know.
    let (leader, waiter) = (engine(), engine().wait(Duration::from_secs(20)));
    for key in 0..3 {
        let attempt = begun(&leader, &call(key)).await;
        let waiter = waiter.clone();
        let waiting = tokio::spawn(async move { replayed(&waiter, &call(key)).await });
        while server.cli(&["PUBSUB", "NUMPAT"]) == "0" && server.cli(&["PUBSUB", "CHANNELS"]).is_empty() {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        attempt.settle(complete("led")).await;
        assert_eq!(waiting.await.unwrap(), "led");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
