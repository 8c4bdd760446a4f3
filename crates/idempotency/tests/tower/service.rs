//! The layer as a service: it is ready when the inner one is, runs in the span of its caller, and does what its options
//! say.

use std::convert::Infallible;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::header::HeaderName;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use idempotency::Idempotency;
use idempotency::stores::MemoryStore;
use idempotency::tower::{IdempotencyLayer, RequestBody, Settle};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tracing::Instrument as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::support::{post as post_, *};

fn sent(key: &str, body: &'static str) -> Request<Full<Bytes>> {
    post_("/pay", key).body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn the_service_that_is_ready_is_the_one_that_is_called() {
    let plain = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("paid")))
    });
    // It panics where it is called without being ready.
    let mut service = ServiceBuilder::new().layer(layer()).layer(ConcurrencyLimitLayer::new(1)).service(plain);
    for key in ["1", "1", "2"] {
        let answer = soon(soon(service.ready()).await.unwrap().call(sent(key, ""))).await.unwrap();
        assert_eq!(Answer::of(answer).await.text(), "paid");
    }
}

#[tokio::test]
async fn the_service_runs_in_the_span_of_its_caller() {
    let _default = tracing_subscriber::registry().set_default();
    let name = || tracing::Span::current().metadata().map_or("", |span| span.name());
    let plain = service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        let parts =
            futures_util::stream::once(async move { Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(name()))) });
        async move {
            Ok::<_, Infallible>(
                Response::builder().header("x-span", name()).body(http_body_util::StreamBody::new(parts)).unwrap(),
            )
        }
    });
    let answered = layer().layer(plain).oneshot(sent("1", "")).instrument(tracing::info_span!("request"));
    let answer = Answer::of(answered.await.unwrap()).await;
    assert_eq!((answer.headers["x-span"].to_str().unwrap(), answer.text()), ("request", "request"));
}

/// Runs of two requests in turn under a layer, whose handler answers with their number.
async fn runs(layer: IdempotencyLayer, one: Request<Full<Bytes>>, other: Request<Full<Bytes>>) -> [Answer; 2] {
    let (gate, _keeper) = gate();
    let server = serve(Router::new().route("/pay", post(async move || gate.arrive().to_string())).layer(layer)).await;
    [send(&server, one).await, send(&server, other).await]
}

#[tokio::test]
async fn requests_are_told_apart_as_the_options_say() {
    let json = |body| {
        let mut request = sent("1", body);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        request
    };
    let (one, other) = (r#"{"a": 1, "b": 2}"#, r#"{"b":2,"a":1.0}"#);
    assert_eq!(runs(layer(), json(one), json(other)).await[1].refusal(), "conflict");
    assert!(runs(layer().json_body(), json(one), json(other)).await[1].is_replay());
    assert_eq!(runs(layer().json_body(), json(one), json("{}")).await[1].refusal(), "conflict");
    let first = |_: &http::request::Parts, body: &Bytes| body[..1].to_vec();
    assert!(runs(layer().fingerprint(first), sent("1", "ab"), sent("1", "ac")).await[1].is_replay());
    assert_eq!(runs(layer().fingerprint(first), sent("1", "ab"), sent("1", "bb")).await[1].refusal(), "conflict");
}

#[tokio::test]
async fn a_hook_decides_what_becomes_of_an_answer() {
    let settled = |settle: Option<Settle>| {
        layer().settle(move |outcome| {
            assert_eq!((outcome.status, outcome.trailers), (StatusCode::OK, None));
            settle
        })
    };
    let after = async |settle| runs(settled(settle), sent("1", ""), sent("1", "")).await[1].clone();
    assert!(after(None).await.is_replay() && after(Some(Settle::Store)).await.is_replay());
    assert_eq!(after(Some(Settle::Release)).await.text(), "2");
    assert_eq!(after(Some(Settle::Hold)).await.refusal(), "processing");
}

#[tokio::test]
async fn what_is_left_out_is_in_no_replay() {
    let [first, repeat] = runs(
        layer().redact(|mut answer| {
            assert_eq!(answer.status, 200);
            answer.headers.retain(|(name, _)| name != "content-type");
            answer.body = "left".into();
            answer
        }),
        sent("1", ""),
        sent("1", ""),
    )
    .await;
    assert_eq!((first.text(), first.headers.contains_key("content-type")), ("1", true));
    assert!(repeat.is_replay() && !repeat.headers.contains_key("content-type"));
    assert_eq!((repeat.text(), repeat.headers["content-length"].to_str().unwrap()), ("left", "4"));
    let [first, repeat] = runs(layer().redact(|_| panic!("it can't")), sent("1", ""), sent("1", "")).await;
    assert_eq!((first.text(), repeat.refusal().as_str()), ("1", "not-kept"));
}

#[tokio::test]
async fn a_key_may_be_in_another_header_and_namespaces_keep_services_apart() {
    let named = layer().key_header(HeaderName::from_static("x-request-id"));
    let by = |id: &'static str| {
        Request::post("/pay").header("host", "x").header("x-request-id", id).body(Full::from("")).unwrap()
    };
    let [one, other] = runs(named.clone(), by("1"), by("1")).await;
    assert!(!one.is_replay() && other.is_replay());
    assert!(!runs(named, sent("1", ""), sent("1", "")).await[1].is_replay());
    let idempotency = Idempotency::new(MemoryStore::new());
    let of = |namespace: &str| IdempotencyLayer::new(idempotency.clone()).namespace(namespace);
    assert!(runs(of("a"), sent("1", ""), sent("1", "")).await[1].is_replay());
    assert!(!runs(of("b"), sent("1", ""), sent("1", "")).await[0].is_replay());
}
