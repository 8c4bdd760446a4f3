//! Every store against the one suite.

mod common;

use idempotency::conformance;
use idempotency::stores::{MemoryStore, RedisStore, SqliteStore};

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
