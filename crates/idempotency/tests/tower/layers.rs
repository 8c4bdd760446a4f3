//! More than one layer on a request.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use idempotency::tower::{Attempt, IdempotencyLayer};
use idempotency::{AfterCrash, Options};

use super::support::{post as post_, *};

async fn under(inner: IdempotencyLayer, outer: IdempotencyLayer) -> (Server, Keeper) {
    let (gate, keeper) = gate();
    let handler = async move |attempt: Option<Attempt>| {
        gate.arrive();
        attempt.map_or("none".to_owned(), |attempt| attempt.key().as_str().to_owned())
    };
    (serve(Router::new().route("/pay", post(handler)).layer(inner).layer(outer)).await, keeper)
}

#[tokio::test]
async fn an_inner_layer_of_the_same_options_joins() {
    let layer = layer();
    let (server, keeper) = under(layer.clone(), layer).await;
    assert_eq!(pay(&server, "1").await.text(), "1");
    assert!(pay(&server, "1").await.is_replay());
    assert_eq!(keeper.runs(), 1);
}

#[tokio::test]
async fn an_inner_layer_may_ask_for_a_key() {
    let layer = layer();
    let (server, keeper) = under(layer.clone().required(true), layer).await;
    let keyless = Request::post("/pay").header("host", "x").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(send(&server, keyless).await.refusal(), "key-missing");
    assert_eq!(pay(&server, "1").await.text(), "1");
    assert!(pay(&server, "1").await.is_replay());
    assert_eq!(keeper.runs(), 1);
}

#[tokio::test]
async fn an_inner_layer_that_cannot_have_its_way_runs_nothing() {
    let base = layer();
    let others = [
        base.clone().with_options(Options::new().after_crash(AfterCrash::Refuse)).unwrap(),
        base.clone().scope(|parts| parts.headers.get("x-user").map(|_| 1)),
        base.clone().settle(|_| None),
        base.clone().redact(|answer| answer),
        base.clone().max_request_bytes(1),
        base.clone().retry_after(Duration::from_secs(2)),
        layer(), // of another store
    ];
    for inner in others {
        let (server, keeper) = under(inner, base.clone()).await;
        let refused = send(&server, post_("/pay", "1").body(Empty::<Bytes>::new()).unwrap()).await;
        assert_eq!((refused.status.as_u16(), refused.refusal().as_str(), keeper.runs()), (500, "layers-differ", 0));
        // The key is free.
        let again = send(&server, post_("/pay", "1").body(Empty::<Bytes>::new()).unwrap()).await;
        assert_eq!((again.refusal().as_str(), again.is_replay()), ("layers-differ", false));
    }
}
