//! The programs in `examples/`.

#[path = "../examples/charge.rs"]
mod charge;
#[path = "../examples/grpc_bank.rs"]
mod grpc_bank;
#[path = "../examples/orders.rs"]
mod orders;
#[path = "../examples/plain_hyper.rs"]
mod plain_hyper;
#[path = "../examples/worker.rs"]
mod worker;

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

#[tokio::test]
async fn the_function_charges_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:///{}", folder.path().join("charge.db").display());
    assert!(!charge::pay(&url, 42).await.unwrap());
    assert!(charge::pay(&url, 42).await.unwrap());
    let error = charge::pay(&url, 43).await.unwrap_err();
    assert!(error.to_string().starts_with("the idempotency key was used with another payload"), "{error}");
}

#[tokio::test]
async fn the_worker_handles_each_message_once() {
    let message = |id, body: &str| worker::Message { id, body: body.into() };
    let deliveries = [message(1, "one"), message(2, "two"), message(1, "one")];
    assert_eq!(worker::work("memory://", deliveries.into()).await.unwrap(), ["one", "two"]);
}

/// Status, whether it is a replay, body.
async fn seen<B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>>(
    response: Response<B>,
) -> (u16, bool, String) {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let is_replay = parts.headers.contains_key("idempotent-replayed");
    (parts.status.as_u16(), is_replay, String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn the_order_service_keeps_its_users_apart() {
    let (app, layer) = orders::service("memory://").unwrap();
    let ask = async |path: &str, user: &str, key: Option<&str>, body: &'static str| {
        let request = Request::post(path).header("authorization", format!("Bearer {user}-token"));
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
        seen(app.clone().oneshot(request).await.unwrap()).await
    };
    let book = r#"{"item": "book"}"#;
    let (status, is_replay, first) = ask("/orders", "alice", Some("7"), book).await;
    assert_eq!((status, is_replay), (201, false));
    assert_eq!(ask("/orders", "alice", Some("7"), book).await, (201, true, first.clone()));
    let (status, is_replay, of_bob) = ask("/orders", "bob", Some("7"), book).await;
    assert_eq!((status, is_replay), (201, false));
    assert_ne!(of_bob, first);
    assert_eq!(ask("/orders", "alice", None, book).await.0, 400);
    assert_eq!(ask("/orders", "eve", Some("7"), book).await.0, 401);
    let imported = (200, "imported a\nimported b\n".to_owned());
    for is_repeat in [false, true] {
        let (status, is_replay, body) = ask("/import", "alice", Some("8"), "a\nb").await;
        assert_eq!(((status, body), is_replay), (imported.clone(), is_repeat));
    }
    assert!(layer.drain(std::time::Duration::from_secs(5)).await);
}

#[tokio::test]
async fn hyper_serves_a_repeat() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { plain_hyper::serve(listener).await.map_err(|error| error.to_string()) });
    for is_repeat in [false, true] {
        let stream = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/pay").header("idempotency-key", "7").header("host", "localhost");
        let request = request.body(http_body_util::Full::<bytes::Bytes>::from("42 EUR")).unwrap();
        let answer = seen(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer, (200, is_repeat, "charged\n".to_owned()));
    }
}

#[tokio::test]
async fn the_bank_pays_once() {
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(grpc_bank::serve(incoming));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    let mut pay = async |amount| {
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(grpc_bank::Money { amount });
        request.metadata_mut().insert("idempotency-key", "7".parse().unwrap());
        let codec = tonic_prost::ProstCodec::<grpc_bank::Money, grpc_bank::Receipt>::default();
        let answer = client.unary(request, http::uri::PathAndQuery::from_static("/bank.Bank/Pay"), codec).await;
        answer.map(|answer| (answer.metadata().contains_key("idempotent-replayed"), answer.into_inner().text))
    };
    let (is_replay, first) = pay(42).await.unwrap();
    assert!(!is_replay && first.starts_with("42 paid; booked under Some("), "{first}");
    assert_eq!(pay(42).await.unwrap(), (true, first));
    assert_eq!(pay(43).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
