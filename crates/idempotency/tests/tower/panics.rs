//! Handlers that panic, and services that run in the task of their caller.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::Response;
use idempotency::AfterCrash;
use idempotency::tower::IdempotencyLayer;
use tower_http::catch_panic::CatchPanicLayer;

use super::support::*;

#[tokio::test]
async fn a_panic_before_the_first_byte_is_a_failure_and_goes_on() {
    for (policy, inline) in [(AfterCrash::Rerun, false), (AfterCrash::Rerun, true), (AfterCrash::Refuse, false)] {
        let layer = with(policy, PATIENCE);
        let layer = if inline { layer.inline() } else { layer };
        let (gate, _keeper) = gate();
        let handler = move || async move {
            assert!(gate.arrive() > 1, "the bank is not there");
            "paid"
        };
        let app = Router::new().route("/pay", post(handler)).layer(layer).layer(CatchPanicLayer::new());
        let server = serve(app).await;
        let first = pay(&server, "1").await;
        assert_eq!((first.status.as_u16(), first.text()), (500, "Service panicked"));
        let second = pay(&server, "1").await;
        match policy {
            AfterCrash::Rerun => assert_eq!((second.text(), second.is_replay()), ("paid", false)),
            _ => assert_eq!(second.refusal(), "unknown"),
        }
    }
}

fn panics_later() -> Response<Body> {
    let mut parts = vec!["one"];
    let parts =
        std::iter::from_fn(move || Some(Ok::<_, std::io::Error>(Bytes::from(parts.pop().expect("a second part")))));
    Response::new(Body::from_stream(futures_util::stream::iter(parts)))
}

#[tokio::test]
async fn a_panic_after_the_first_byte_ends_the_answer_and_holds_the_key() {
    for inline in [false, true] {
        for (policy, refusal) in [(AfterCrash::Rerun, "processing"), (AfterCrash::Refuse, "unknown")] {
            let layer = with(policy, PATIENCE);
            let layer = if inline { layer.inline() } else { layer };
            let app = Router::new().route("/pay", post(async || panics_later())).layer(layer.clone());
            let server = serve(app).await;
            let seen = String::from_utf8(Raw::pay(&server, "1").await.rest().await).unwrap();
            assert!(seen.is_empty() || !seen.ends_with("0\r\n\r\n"), "{seen}");
            assert!(layer.drain(PATIENCE).await);
            assert_eq!(pay(&server, "1").await.refusal(), refusal);
        }
    }
}

tokio::task_local! { static TENANT: &'static str; }

/// A server whose requests have a task-local.
async fn tenants(layer: IdempotencyLayer) -> Server {
    let scoped = axum::middleware::from_fn(async |request: axum::extract::Request, next: axum::middleware::Next| {
        TENANT.scope("of seven", next.run(request)).await
    });
    let handler = async || TENANT.try_with(|tenant| *tenant).unwrap_or("of nobody");
    serve(Router::new().route("/pay", post(handler)).layer(layer).layer(scoped)).await
}

#[tokio::test]
async fn inline_keeps_task_locals_and_a_task_of_its_own_does_not() {
    assert_eq!(pay(&tenants(layer().inline()).await, "1").await.text(), "of seven");
    assert_eq!(pay(&tenants(layer()).await, "1").await.text(), "of nobody");
}

#[tokio::test]
async fn inline_streams_are_captured_and_stored() {
    let server =
        serve(Router::new().route("/pay", post(async || parts(&["one", "two"]))).layer(layer().inline())).await;
    let first = pay(&server, "1").await;
    let repeat = pay(&server, "1").await;
    assert_eq!((first.text(), first.is_replay()), ("onetwo", false));
    assert_eq!((repeat.text(), repeat.is_replay()), ("onetwo", true));
}

/// The first client of a service that runs inline leaves; what is under the key then.
async fn left_inline(policy: AfterCrash, lease: Duration) -> (Server, Keeper) {
    let (gate, mut keeper) = gate();
    let handler = move || async move { gate.pass().await.to_string() };
    let app = Router::new().route("/pay", post(handler)).layer(with(policy, lease).inline());
    let (app, mut gone) = watched(app);
    let server = serve(app).await;
    let client = Raw::pay(&server, "1").await;
    keeper.arrived().await;
    client.leave();
    soon(gone.recv()).await.unwrap();
    (server, keeper)
}

#[tokio::test]
async fn whoever_leaves_a_service_that_runs_inline_ends_it_and_holds_the_key() {
    let lease = Duration::from_secs(1);
    let (server, keeper) = left_inline(AfterCrash::Rerun, lease).await;
    let left = std::time::Instant::now();
    let at_once = pay(&server, "1").await;
    assert!(at_once.refusal() == "processing" || left.elapsed() > lease / 2, "{at_once:?}");
    keeper.open(1);
    let second = soon(async {
        loop {
            let answer = pay(&server, "1").await;
            if answer.status == 200 {
                return answer;
            }
            tokio::time::sleep(lease / 20).await;
        }
    });
    let second = second.await;
    assert_eq!((second.text(), second.is_replay(), keeper.runs()), ("2", false, 2));
    let (server, keeper) = left_inline(AfterCrash::Refuse, lease).await;
    let unknown = soon(async {
        loop {
            let refusal = pay(&server, "1").await.refusal();
            if refusal != "processing" {
                return refusal;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!((unknown.await.as_str(), keeper.runs()), ("unknown", 1));
}
