//! What a client, a handler or an operator may get wrong.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use idempotency::engine::{Attempt, Begun, Call, Verdict};
use idempotency::stores::MemoryStore;
use idempotency::tower::{IdempotencyLayer, LayerError, RequestBody};
use idempotency::{Idempotency, Key, Operation, Options, OptionsError, Scope};
use std::time::Duration;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_http::limit::RequestBodyLimitLayer;

use super::support::{post as post_, *};

async fn echo(body: Bytes) -> String {
    body.len().to_string()
}

#[tokio::test]
async fn a_body_that_breaks_off_runs_nothing_and_leaves_the_key_free() {
    let (gate, keeper) = gate();
    let handler = move |_: Bytes| async move { gate.arrive().to_string() };
    let server = serve(Router::new().route("/pay", post(handler)).layer(layer())).await;
    let broken = [
        "POST /pay HTTP/1.1\r\nhost: x\r\nidempotency-key: 1\r\ncontent-length: 6\r\n\r\n42",
        "POST /pay HTTP/1.1\r\nhost: x\r\nidempotency-key: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n42\r\nfour",
    ];
    for broken in broken {
        let mut client = Raw::connect(&server).await;
        client.write(broken).await;
        client.end().await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(pay(&server, "1").await.text(), "1");
    assert_eq!(keeper.runs(), 1);
}

#[tokio::test]
async fn a_body_whose_error_is_the_services_own_is_refused() {
    let plain = service_fn(|_: Request<RequestBody<Body>>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    let parts =
        futures_util::stream::iter([Ok(Bytes::from_static(b"42")), Err(std::io::Error::other("a broken disk"))]);
    let request = post_("/pay", "1").body(Body::from_stream(parts)).unwrap();
    let answer = Answer::of(layer().layer(plain).oneshot(request).await.unwrap()).await;
    assert_eq!((answer.refusal().as_str(), answer.status.as_u16()), ("body-broken", 400));
    assert!(!answer.text().contains("disk"));
}

#[tokio::test]
async fn a_request_at_the_cap_runs_and_one_byte_more_does_not() {
    let server = serve(Router::new().route("/pay", post(echo)).layer(layer().max_request_bytes(6))).await;
    let at = |key: &str, body: &'static str| post_("/pay", key).body(Full::<Bytes>::from(body)).unwrap();
    let unknown = |key: &str, body: &'static [&'static str]| post_("/pay", key).body(parts(body)).unwrap();
    assert_eq!(send(&server, at("1", "123456")).await.text(), "6");
    assert_eq!(send(&server, unknown("2", &["123", "456"])).await.text(), "6");
    for answer in [send(&server, at("3", "1234567")).await, send(&server, unknown("4", &["1234", "567"])).await] {
        assert_eq!((answer.status.as_u16(), answer.refusal().as_str()), (413, "payload-too-large"));
        assert!(answer.text().contains("larger than 6 bytes"), "{answer:?}");
    }
    // Nothing of it holds the key.
    assert_eq!(send(&server, at("3", "12345")).await.text(), "5");
}

#[tokio::test]
async fn a_limit_further_out_is_met_as_413() {
    let limited = || ServiceBuilder::new().layer(RequestBodyLimitLayer::new(6)).layer(layer());
    let server = serve(Router::new().route("/pay", post(echo)).layer(limited())).await;
    let declared = send(&server, post_("/pay", "1").body(Full::<Bytes>::from("1234567")).unwrap()).await;
    assert_eq!(declared.status, 413);
    let answer = send(&server, post_("/pay", "1").body(parts(&["1234", "567"])).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.refusal().as_str()), (413, "payload-too-large"));
    // It is not this layer's number.
    assert!(!answer.text().contains("10485760"), "{answer:?}");
    assert_eq!(send(&server, post_("/pay", "1").body(parts(&["123", "456"])).unwrap()).await.text(), "6");
}

#[tokio::test]
async fn axums_own_limit_is_its_extractors() {
    let app = Router::new().route("/pay", post(echo)).layer(layer()).layer(DefaultBodyLimit::max(6));
    let server = serve(app).await;
    let answer = send(&server, post_("/pay", "1").body(parts(&["1234", "567"])).unwrap()).await;
    assert_eq!(answer.status, 413);
    let repeat = send(&server, post_("/pay", "1").body(parts(&["1234", "567"])).unwrap()).await;
    assert!(repeat.is_replay(), "the handler's own answer");
}

#[tokio::test]
async fn a_declared_length_over_the_cap_is_refused_before_its_body_is_asked_for() {
    let server = serve(Router::new().route("/pay", post(echo)).layer(layer().max_request_bytes(6))).await;
    let head = "POST /pay HTTP/1.1\r\nhost: x\r\nidempotency-key: 1\r\nexpect: 100-continue\r\ncontent-length:";
    let mut client = Raw::connect(&server).await;
    client.write(format!("{head} 7\r\n\r\n")).await;
    assert!(client.until("\r\n").await.starts_with("HTTP/1.1 413"));
    let mut client = Raw::connect(&server).await;
    client.write(format!("{head} 6\r\n\r\n")).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("123456").await;
    assert!(client.until("\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let server = serve(Router::new().route("/pay", post(echo)).layer(layer())).await;
    let sent = |key: &'static [u8]| {
        post_("/pay", "").header("x", "").body(Full::<Bytes>::from("")).map(|mut request| {
            request.headers_mut().insert("idempotency-key", HeaderValue::from_bytes(key).unwrap());
            request
        })
    };
    for key in [&b""[..], b"\xc3\xa4", b"\xff", b"\"open", &[b'a'; 300]] {
        let answer = send(&server, sent(key).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.refusal().as_str()), (400, "key-invalid"), "{key:?}");
    }
    let twice = post_("/pay", "1").header("idempotency-key", "2").body(Full::<Bytes>::from("")).unwrap();
    assert_eq!(send(&server, twice).await.refusal(), "key-invalid");
}

#[tokio::test]
async fn headers_of_any_bytes_are_replayed() {
    let handler = || async {
        let mut headers = HeaderMap::new();
        headers.append("x-name", HeaderValue::from_bytes(b"M\xfcller").unwrap());
        headers.append("x-name", HeaderValue::from_bytes(b"\xe6\x97\xa5").unwrap());
        headers.append("x-empty", HeaderValue::from_static(""));
        headers
    };
    let server = serve(Router::new().route("/pay", post(handler)).layer(layer())).await;
    let (first, repeat) = (pay(&server, "1").await, pay(&server, "1").await);
    assert!(repeat.is_replay());
    assert_eq!(repeat.plain(), first.plain());
}

fn numbered(many: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..many).map(|at| (format!("x-{at}").into_bytes(), vec![b'1'])).collect()
}

#[tokio::test]
async fn more_headers_than_any_server_sends_are_no_panic() {
    let plain = service_fn(|_: Request<RequestBody<Empty<Bytes>>>| async {
        let mut response = Response::new(Full::<Bytes>::from("paid"));
        for (name, value) in numbered(20_000) {
            let name = HeaderName::from_bytes(&name).unwrap();
            response.headers_mut().append(name, HeaderValue::from_bytes(&value).unwrap());
        }
        Ok::<_, Infallible>(response)
    });
    let request = || post_("/pay", "1").body(Empty::<Bytes>::new()).unwrap();
    let service = layer().max_response_bytes(8 << 20).layer(plain);
    let first = Answer::of(service.clone().oneshot(request()).await.unwrap()).await;
    let repeat = Answer::of(service.oneshot(request()).await.unwrap()).await;
    assert!(repeat.is_replay());
    assert_eq!(repeat.plain(), first.plain());
}

/// What another service has stored for `POST /pay`.
async fn stored_elsewhere(idempotency: &Idempotency, stored: Vec<u8>) {
    let scope = Scope { namespace: "", operation: Operation::Http { method: "POST", path: b"/pay" }, caller: None };
    let facts =
        idempotency::http::RequestFacts { method: "POST", path: b"/pay", query: b"", content_type: b"", body: b"" };
    let call = Call::new(&scope, &Key::new("1").unwrap(), facts.fingerprint());
    let Begun::Run(attempt) = idempotency.begin(&call).await.unwrap() else { panic!("the key is free") };
    let attempt: Attempt = attempt;
    attempt.settle(Verdict::Complete(stored.into())).await;
}

#[tokio::test]
async fn a_stored_answer_that_nobody_can_send_is_not_sent() {
    let sent = |headers, status| {
        let answer = idempotency::http::Answer { status, headers, body: b"paid".to_vec() };
        idempotency::http::store_answer(answer, &[], false).unwrap()
    };
    let long = numbered(65_535);
    let odd = vec![(b"x y".to_vec(), b"1".to_vec())];
    let lines = vec![(b"x".to_vec(), b"1\r\nset-cookie: a".to_vec())];
    let damaged = b"R\0".to_vec();
    let value = b"V whatever".to_vec();
    for stored in [sent(long, 200), sent(odd, 200), sent(lines, 200), sent(vec![], 1000), damaged, value, vec![]] {
        let idempotency = Idempotency::new(MemoryStore::new());
        stored_elsewhere(&idempotency, stored).await;
        let plain = service_fn(|_: Request<RequestBody<Empty<Bytes>>>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("it has run again")))
        });
        let service = IdempotencyLayer::new(idempotency).layer(plain);
        let repeat = service.oneshot(post_("/pay", "1").body(Empty::new()).unwrap()).await.unwrap();
        let repeat = Answer::of(repeat).await;
        assert_eq!((repeat.status.as_u16(), repeat.refusal().as_str()), (410, "not-kept"));
    }
}

#[tokio::test]
async fn an_upgrade_passes_and_is_not_replayed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let handler = |mut request: Request<Body>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte + 1).await.unwrap();
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "count");
        response.body(Body::empty()).unwrap()
    };
    let server = serve(Router::new().route("/pay", post(handler)).layer(layer())).await;
    let head = "POST /pay HTTP/1.1\r\nhost: x\r\nidempotency-key: 1\r\nconnection: upgrade\r\nupgrade: count\r\n\r\n";
    let mut client = Raw::connect(&server).await;
    client.write(head).await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    client.write("a").await;
    client.until("b").await;
    // No answer is behind it that could be sent again.
    let mut client = Raw::connect(&server).await;
    client.write(head).await;
    let repeat = client.until("\r\n\r\n").await;
    assert!(repeat.starts_with("HTTP/1.1 410"), "{repeat}");
}

#[test]
fn options_that_cannot_be_are_an_error_where_they_are_set() {
    let safe = layer().methods([Method::POST, Method::GET]).unwrap_err();
    assert_eq!(safe, LayerError::SafeMethod(Method::GET));
    assert_eq!(safe.to_string(), "a GET request changes nothing, and is never protected; leave it out of methods");
    assert_eq!(layer().methods([]).unwrap_err(), LayerError::NoMethod);
    assert_eq!(layer().max_in_flight(0).unwrap_err(), LayerError::MaxInFlight);
    for url in ["", "/errors", "docs.example.com", "not a url", "https://example.com/#\n", "https://example.com/#é>"] {
        assert!(matches!(layer().problem_docs(url), Err(LayerError::ProblemDocs(_))), "{url:?}");
    }
    let second = Duration::from_secs(1);
    let options = Options::new().ttl(second).lease(2 * second);
    assert_eq!(layer().with_options(options).unwrap_err(), OptionsError::LeaseOverTtl(2 * second, second));
}

#[tokio::test]
async fn a_problem_names_its_documentation_and_the_path_that_was_asked_for() {
    let layer = layer().required(true).problem_docs("https://docs.example.com/errors#").unwrap();
    let inner = Router::new().route("/pay", post(echo)).layer(layer);
    let server = serve(Router::new().nest("/v1", inner)).await;
    let answer = send(&server, Request::post("/v1/pay").header("host", "x").body(Empty::<Bytes>::new()).unwrap()).await;
    assert_eq!(answer.headers["link"], "<https://docs.example.com/errors#key-missing>; rel=\"describedby\"");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (&problem["type"], &problem["instance"]),
        (&"https://docs.example.com/errors#key-missing".into(), &"/v1/pay".into())
    );
}

#[tokio::test]
async fn an_error_of_the_service_is_passed_on_and_a_repeat_runs() {
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let plain = service_fn(move |_: Request<RequestBody<Empty<Bytes>>>| {
        let run = runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move { if run == 0 { Err("no bank") } else { Ok(Response::new(Full::<Bytes>::from("paid"))) } }
    });
    let service = layer().layer(plain);
    let request = || post_("/pay", "1").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(service.clone().oneshot(request()).await.unwrap_err(), "no bank");
    let second = Answer::of(service.oneshot(request()).await.unwrap()).await;
    assert_eq!((second.text(), second.is_replay()), ("paid", false));
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_service() {
    let plain = service_fn(|request: Request<RequestBody<Body>>| async {
        let sent = request.into_body().collect().await.unwrap();
        let trailers = format!("{:?}", sent.trailers().map(|trailers| trailers["x-sum"].clone()));
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(trailers)))
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let frames = [http_body::Frame::data(Bytes::from_static(b"42")), http_body::Frame::trailers(trailers)];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = post_("/pay", "1").body(Body::new(body)).unwrap();
    let answer = Answer::of(layer().layer(plain).oneshot(request).await.unwrap()).await;
    assert_eq!(answer.text(), "Some(\"1\")");
}
