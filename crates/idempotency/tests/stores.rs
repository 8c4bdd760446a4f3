//! Every store against the one suite.

mod common;

use std::collections::HashMap;
use std::sync::Mutex;

use idempotency::clock::wall_clock;
use idempotency::conformance;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::step::{Answer, Change, Step};
use idempotency::store::{Claimed, Completed, Reply, Store};
use idempotency::stores::{MemoryStore, PostgresStore, RedisStore, SqliteStore};
use idempotency::{Micros, Record, StorageKey};

#[tokio::test]
async fn memory() {
    conformance::check(MemoryStore::new()).await;
}

#[tokio::test]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    conformance::check(SqliteStore::open(folder.path().join("i.db"))).await;
}

#[tokio::test]
async fn redis() {
    let server = common::Redis::start(&[]);
    conformance::check(RedisStore::open(&server.url()).unwrap()).await;
}

#[tokio::test]
async fn redis_cluster() {
    let cluster = common::cluster::Cluster::start(3);
    conformance::check(RedisStore::open(&cluster.url()).unwrap()).await;
}

#[tokio::test]
async fn postgres() {
    let server = common::postgres::Postgres::shared();
    for pooler in ["no", "yes"] {
        let url = format!("{}&pooler={pooler}", server.url(&server.schema()));
        conformance::check(PostgresStore::open(&url).unwrap()).await;
    }
}

/// One value per key, changed by steps.
#[derive(Default)]
struct Values(Mutex<HashMap<StorageKey, Vec<u8>>>);

impl Values {
    fn change<'a, T: Send + 'a>(&'a self, key: &StorageKey, step: Step, pick: fn(Answer) -> Option<T>) -> Reply<'a, T> {
        let mut values = self.0.lock().unwrap();
        let (change, answer) = step.apply(values.get(key).map(Vec::as_slice), wall_clock()).unwrap();
        match change {
            Change::Nothing => {}
            Change::Write(value) => drop(values.insert(*key, value)),
            Change::Remove => drop(values.remove(key)),
        }
        Box::pin(std::future::ready(Ok(pick(answer).unwrap())))
    }
}

fn done(answer: Answer) -> Option<bool> {
    if let Answer::Done(done) = answer { Some(done) } else { None }
}

impl Store for Values {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        self.change(key, Step::Claim(claim.clone()), |answer| match answer {
            Answer::Claimed(claimed) => Some(claimed),
            _ => None,
        })
    }
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.change(key, Step::Renew(attempt.token), done)
    }
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        self.change(key, Step::Complete(record.clone(), recreate_until), |answer| match answer {
            Answer::Completed(completed) => Some(completed),
            _ => None,
        })
    }
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.change(key, Step::Release(attempt.token), done)
    }
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.change(key, Step::Get, |answer| match answer {
            Answer::Found(found) => Some(found),
            _ => None,
        })
    }
    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        self.change(key, Step::Resolve(resolution.clone()), done)
    }
}

#[tokio::test]
async fn values_changed_by_steps() {
    conformance::check(Values::default()).await;
}
