//! The application that `benches/native.py` loads: `SUBJECT` says who protects it, `STORE` where records live; the port
//! is the first argument. One runtime thread serves all connections.

use std::env;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use idempotency::tower::IdempotencyLayer;
use idempotency::{Idempotency, stores};
use idempotent::memory::MemoryStore;
use idempotent::middleware::IdempotencyLayer as RivalLayer;
use idempotent::valkey::ValkeyStore;
use redis::aio::MultiplexedConnection;

async fn pay() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"{"status": "charged", "amount": 42}"#)
}

/// The least that a replay has to do: it asks the store once, and answers.
async fn pay_after(mut redis: MultiplexedConnection) -> impl IntoResponse {
    let found: Option<Vec<u8>> = redis::cmd("GET").arg("none").query_async(&mut redis).await.expect("Redis answers");
    assert!(found.is_none());
    pay().await
}

fn application(post: MethodRouter) -> Router {
    Router::new().route("/pay", post.merge(get(pay)))
}

async fn protected(subject: &str, store: &str) -> Router {
    let plain = application(axum::routing::post(pay));
    match (subject, store) {
        ("plain", _) => plain,
        ("ours", "memory://") => plain.layer(IdempotencyLayer::new(Idempotency::new(stores::MemoryStore::new()))),
        ("ours", url) => {
            let store = stores::RedisStore::open(url).expect("a URL");
            plain.layer(IdempotencyLayer::new(Idempotency::new(store)))
        }
        ("rival", "memory://") => plain.layer(RivalLayer::new(MemoryStore::builder().try_build().expect("a store"))),
        ("rival", url) => {
            plain.layer(RivalLayer::new(ValkeyStore::with_url(url).try_build().await.expect("Redis answers")))
        }
        ("floor", url) => {
            let client = redis::Client::open(url).expect("a URL");
            let redis = client.get_multiplexed_async_connection().await.expect("Redis answers");
            application(axum::routing::post(move || pay_after(redis.clone())))
        }
        _ => panic!("SUBJECT is plain, ours, rival or floor, not {subject:?}"),
    }
}

async fn serve() {
    let variable = |name: &str, other: &str| env::var(name).unwrap_or_else(|_| other.to_owned());
    let application = protected(&variable("SUBJECT", "plain"), &variable("STORE", "memory://")).await;
    let port: u16 = env::args().nth(1).and_then(|port| port.parse().ok()).expect("the port is the first argument");
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    axum::serve(listener, application).await.expect("it serves");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    // In a task: the thread that would block here is not the runtime's.
    let runtime = runtime.expect("a runtime");
    runtime.block_on(runtime.spawn(serve())).expect("it serves");
}
