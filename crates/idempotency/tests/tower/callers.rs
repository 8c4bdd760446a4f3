//! Whose a key is, where a request went, and what its handler knows of its attempt.

use axum::Router;
use axum::extract::{Path, Request as Extracted};
use axum::middleware::{Next, from_fn};
use axum::routing::post;
use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use idempotency::tower::{Attempt, NoAttempt, by_authorization, matched_path};

use super::support::{post as post_, *};

#[derive(Clone)]
struct User(u64);

/// Leaves the user in the extensions, as authentication does.
async fn authenticated(mut request: Extracted, next: Next) -> axum::response::Response {
    let user = request.headers().get("x-token").and_then(|token| token.to_str().ok()?.parse().ok());
    if let Some(user) = user {
        request.extensions_mut().insert(User(user));
    }
    next.run(request).await
}

fn by(token: &'static str, key: &str) -> Request<Full<Bytes>> {
    post_("/pay", key).header("x-token", token).body(Full::from("42 EUR")).unwrap()
}

#[tokio::test]
async fn a_scope_sees_what_authentication_left() {
    let (gate, keeper) = gate();
    let handler = async move |attempt: Attempt| {
        gate.arrive();
        String::from_utf8(attempt.caller().unwrap().to_vec()).unwrap()
    };
    let layer = layer().scope(|parts| parts.extensions.get::<User>().map(|user| user.0));
    let app = Router::new().route("/pay", post(handler)).layer(layer).layer(from_fn(authenticated));
    let server = serve(app).await;
    assert_eq!(send(&server, by("7", "1")).await.text(), "7");
    assert!(send(&server, by("7", "1")).await.is_replay());
    let other = send(&server, by("8", "1")).await;
    assert_eq!((other.text(), other.is_replay(), keeper.runs()), ("8", false, 2));
    let nobody = send(&server, by("", "1")).await;
    assert_eq!((nobody.status.as_u16(), nobody.refusal().as_str(), keeper.runs()), (500, "scope-missing", 2));
}

#[tokio::test]
async fn a_request_that_names_a_caller_is_refused_where_nothing_says_who_it_is() {
    let app = |layer| Router::new().route("/pay", post(async || "paid")).layer(layer);
    let called = |token: &str| post_("/pay", "1").header("authorization", token).body(Full::<Bytes>::from("")).unwrap();
    let server = serve(app(layer())).await;
    let refused = send(&server, called("Bearer a")).await;
    assert_eq!(refused.refusal(), "scope-missing");
    assert!(refused.text().contains("authorization") && !refused.text().contains("Bearer"), "{refused:?}");
    let server = serve(app(layer().shared())).await;
    assert!(
        !send(&server, called("Bearer a")).await.is_replay() && send(&server, called("Bearer b")).await.is_replay()
    );
    let server = serve(app(layer().scope(by_authorization))).await;
    for (token, is_replay) in [("Bearer a", false), ("Bearer b", false), ("Bearer a", true)] {
        assert_eq!(send(&server, called(token)).await.is_replay(), is_replay, "{token}");
    }
}

#[tokio::test]
async fn the_path_is_the_one_that_the_client_sent() {
    let (gate, keeper) = gate();
    let mounted = Router::new().route("/pay", post(async move || gate.arrive().to_string())).layer(layer());
    let server = serve(Router::new().nest("/a", mounted.clone()).nest("/b", mounted)).await;
    let at = |path: &str| post_(path, "1").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(send(&server, at("/a/pay")).await.text(), "1");
    assert_eq!(send(&server, at("/b/pay")).await.text(), "2");
    let repeat = send(&server, at("/a/pay")).await;
    assert_eq!((repeat.text(), repeat.is_replay(), keeper.runs()), ("1", true, 2));
}

#[tokio::test]
async fn paths_of_one_route_are_one_operation_where_the_route_names_it() {
    let handler = async |Path(id): Path<u32>| id.to_string();
    let inner = Router::new().route("/orders/{id}", post(handler)).layer(layer().name(matched_path));
    let server = serve(Router::new().nest("/v1", inner)).await;
    let at = |path: &str| post_(path, "1").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(send(&server, at("/v1/orders/1")).await.text(), "1");
    assert!(send(&server, at("/v1/orders/1")).await.is_replay());
    assert_eq!(send(&server, at("/v1/orders/2")).await.refusal(), "conflict");
}

#[tokio::test]
async fn a_handler_knows_its_attempt() {
    let handler = async |attempt: Attempt| {
        assert!(attempt.fence() > 0 && !attempt.is_lost() && attempt.caller().is_none());
        format!("{} {}", attempt.key().as_str(), attempt.derive("bank"))
    };
    let optional = async |attempt: Option<Attempt>| attempt.is_some().to_string();
    let layered = Router::new().route("/pay", post(handler)).route("/maybe", post(optional)).layer(layer());
    let server = serve(layered).await;
    let (one, two) = (pay(&server, "1").await, pay(&server, "2").await);
    assert!(one.text().starts_with("1 ") && two.text().starts_with("2 "));
    assert_ne!(one.text()[2..], two.text()[2..]);
    let keyless = |path: &str| Request::post(path).header("host", "x").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(send(&server, keyless("/maybe")).await.text(), "false");
    assert_eq!(send(&server, post_("/maybe", "1").body(Empty::<Bytes>::new()).unwrap()).await.text(), "true");
    // What is missing is for the log.
    let without = send(&server, keyless("/pay")).await;
    assert_eq!((without.status.as_u16(), without.text()), (500, ""));
    assert!(NoAttempt.to_string().contains("IdempotencyLayer"));
}

#[tokio::test]
async fn what_is_derived_is_one_for_every_attempt_of_a_key() {
    let (gate, _keeper) = gate();
    let handler = async move |attempt: Attempt| {
        let derived = format!("{} {}", attempt.derive("bank"), attempt.fence());
        if gate.arrive() == 1 { (http::StatusCode::BAD_GATEWAY, derived) } else { (http::StatusCode::OK, derived) }
    };
    let server = serve(Router::new().route("/pay", post(handler)).layer(layer())).await;
    let (first, second) = (pay(&server, "1").await, pay(&server, "1").await);
    let ((one, fence), (two, later)) = (first.text().split_once(' ').unwrap(), second.text().split_once(' ').unwrap());
    assert_eq!(one, two);
    assert!(later.parse::<u64>().unwrap() > fence.parse::<u64>().unwrap());
}

#[tokio::test]
async fn what_is_released_runs_again_whatever_was_answered() {
    let (gate, keeper) = gate();
    let handler = async move |attempt: Attempt| {
        attempt.release();
        gate.arrive().to_string()
    };
    let server = serve(Router::new().route("/pay", post(handler)).layer(layer())).await;
    assert_eq!((pay(&server, "1").await.text(), pay(&server, "1").await.text()), ("1", "2"));
    assert_eq!(keeper.runs(), 2);
}

#[tokio::test]
async fn methods_and_required_say_what_is_protected() {
    use http::Method;
    let (gate, keeper) = gate();
    let layer = layer().methods([Method::PUT]).unwrap().required(true);
    let app = Router::new().route("/pay", axum::routing::any(async move || gate.arrive().to_string()));
    let server = serve(app.layer(layer)).await;
    let put = |key: Option<&str>| {
        let request = Request::put("/pay").header("host", "x");
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    assert_eq!(send(&server, put(None)).await.refusal(), "key-missing");
    assert_eq!(send(&server, put(Some("1"))).await.text(), "1");
    assert!(send(&server, put(Some("1"))).await.is_replay());
    assert_eq!((pay(&server, "1").await.text(), pay(&server, "1").await.text()), ("2", "3"));
    assert_eq!(keeper.runs(), 3);
}
