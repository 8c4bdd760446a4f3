//! A client that leaves cancels nothing: it is as if it had waited.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::Response;
use http_body_util::Channel;
use idempotency::tower::IdempotencyLayer;
use idempotency::{AfterCrash, Options};
use tokio::sync::mpsc;

use super::support::*;

/// A handler behind a gate, under a layer, and who learns that a request's future is gone.
async fn gated(layer: IdempotencyLayer) -> (Server, Keeper, mpsc::UnboundedReceiver<()>) {
    let (gate, keeper) = gate();
    let app = Router::new().route("/pay", post(move || async move { gate.pass().await.to_string() })).layer(layer);
    let (app, gone) = watched(app);
    (serve(app).await, keeper, gone)
}

#[tokio::test]
async fn two_disconnects_and_a_patient_retry_are_one_run_and_a_replay() {
    let waits = layer().with_options(Options::new().wait(PATIENCE)).unwrap();
    let (server, mut keeper, mut gone) = gated(waits).await;
    let first = Raw::pay(&server, "1").await;
    keeper.arrived().await;
    first.leave();
    soon(gone.recv()).await.unwrap();
    // It waits for the first one's end, which goes on without its client.
    let second = Raw::pay(&server, "1").await;
    second.leave();
    soon(gone.recv()).await.unwrap();
    keeper.open(1);
    let patient = pay(&server, "1").await;
    assert_eq!((patient.text(), patient.is_replay(), keeper.runs()), ("1", true, 1));
}

#[tokio::test]
async fn whoever_leaves_while_the_body_is_sent_has_claimed_nothing() {
    let (server, keeper, mut gone) = gated(layer()).await;
    let mut client = Raw::connect(&server).await;
    client.write("POST /pay HTTP/1.1\r\nhost: x\r\nidempotency-key: 1\r\ncontent-length: 6\r\n\r\n42").await;
    client.leave();
    soon(gone.recv()).await.unwrap();
    keeper.open(1);
    let next = pay(&server, "1").await;
    assert_eq!((next.text(), next.is_replay(), keeper.runs()), ("1", false, 1));
}

#[tokio::test]
async fn whoever_leaves_while_the_claim_is_made_leaves_the_key_free() {
    let store = super::stores::Faulty::new();
    let layer = IdempotencyLayer::new(idempotency::Idempotency::new(store.clone()));
    let (server, keeper, mut gone) = gated(layer.clone()).await;
    store.hold("claim");
    let client = Raw::pay(&server, "1").await;
    store.held().await;
    client.leave();
    soon(gone.recv()).await.unwrap();
    store.let_go();
    assert!(layer.drain(PATIENCE).await);
    keeper.open(1);
    let next = pay(&server, "1").await;
    assert_eq!((next.text(), next.is_replay(), keeper.runs()), ("1", false, 1));
}

/// A stream that a test feeds, under a layer that waits as long as told for who has left.
async fn streaming(
    layer: &IdempotencyLayer,
) -> (Server, mpsc::UnboundedReceiver<http_body_util::channel::Sender<Bytes, Infallible>>) {
    let (give, senders) = mpsc::unbounded_channel();
    let handler = move || {
        let (sender, body) = Channel::<Bytes, Infallible>::new(1);
        give.send(sender).unwrap();
        async { Response::new(Body::new(body)) }
    };
    (serve(Router::new().route("/pay", post(handler)).layer(layer.clone())).await, senders)
}

#[tokio::test]
async fn a_stream_whose_client_leaves_is_drained_and_stored() {
    let layer = layer();
    let (server, mut senders) = streaming(&layer).await;
    let mut client = Raw::pay(&server, "1").await;
    let mut sender = soon(senders.recv()).await.unwrap();
    sender.send_data("one".into()).await.unwrap();
    client.until("one\r\n").await;
    client.leave();
    for part in ["two", "three", "four"] {
        soon(sender.send_data(part.into())).await.unwrap();
    }
    drop(sender);
    assert!(layer.drain(PATIENCE).await);
    let repeat = pay(&server, "1").await;
    assert_eq!((repeat.text(), repeat.is_replay()), ("onetwothreefour", true));
}

#[tokio::test]
async fn a_stream_is_drained_for_no_longer_than_the_grace_and_then_held() {
    let grace = Duration::from_millis(50);
    for (policy, refusal) in [(AfterCrash::Rerun, "processing"), (AfterCrash::Refuse, "unknown")] {
        let layer = with(policy, PATIENCE).disconnect_grace(grace);
        let (server, mut senders) = streaming(&layer).await;
        let mut client = Raw::pay(&server, "1").await;
        let mut sender = soon(senders.recv()).await.unwrap();
        sender.send_data("one".into()).await.unwrap();
        client.until("one\r\n").await;
        client.leave();
        // The body is dropped when nobody waits for it any more.
        soon(async {
            while sender.send_data("more".into()).await.is_ok() {
                tokio::time::sleep(grace / 10).await
            }
        })
        .await;
        assert!(layer.drain(PATIENCE).await);
        assert_eq!(pay(&server, "1").await.refusal(), refusal);
    }
}

#[tokio::test]
async fn a_grace_may_be_as_long_as_it_likes() {
    let layer = layer().disconnect_grace(Duration::MAX);
    let (server, mut senders) = streaming(&layer).await;
    let mut client = Raw::pay(&server, "1").await;
    let mut sender = soon(senders.recv()).await.unwrap();
    sender.send_data("one".into()).await.unwrap();
    client.until("one\r\n").await;
    client.leave();
    for part in ["two", "three"] {
        soon(sender.send_data(part.into())).await.unwrap();
    }
    drop(sender);
    assert!(soon(layer.drain(Duration::MAX)).await);
    assert!(pay(&server, "1").await.is_replay());
}

#[tokio::test]
async fn whoever_leaves_before_the_first_byte_finds_the_stream_later() {
    let layer = layer();
    let (server, mut senders) = streaming(&layer).await;
    let client = Raw::pay(&server, "1").await;
    let mut sender = soon(senders.recv()).await.unwrap();
    client.leave();
    soon(sender.send_data("one".into())).await.unwrap();
    drop(sender);
    assert!(layer.drain(PATIENCE).await);
    assert_eq!(pay(&server, "1").await.text(), "one");
}

#[tokio::test]
async fn a_reset_stream_of_http2_cancels_nothing() {
    use http_body_util::Full;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (server, mut keeper, mut gone) = gated(layer()).await;
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = || {
        let request = http::Request::post("http://localhost/pay").header("idempotency-key", "1");
        request.body(Full::<Bytes>::from("42 EUR")).unwrap()
    };
    let first = tokio::spawn(sender.send_request(request()));
    keeper.arrived().await;
    first.abort();
    soon(gone.recv()).await.unwrap();
    assert_eq!(Answer::of(soon(sender.send_request(request())).await.unwrap()).await.refusal(), "processing");
    keeper.open(1);
    // A wait of its own is not set here: what is asked again is asked until the first one has ended.
    let replayed = soon(async {
        loop {
            let answer = Answer::of(sender.send_request(request()).await.unwrap()).await;
            if answer.status == 200 {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    });
    let replayed = replayed.await;
    assert_eq!((replayed.text(), replayed.is_replay(), keeper.runs()), ("1", true, 1));
}
