//! Answers that stream: they pass while they are captured, with their trailers, at the pace of their client.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::{any, post};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Channel, Empty, Full, StreamBody};
use idempotency::tower::{IdempotencyLayer, RequestBody};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::support::*;

/// An answer that a test sends part by part, when it likes.
fn hand_fed() -> (Router, tokio::sync::mpsc::UnboundedReceiver<http_body_util::channel::Sender<Bytes, Infallible>>) {
    let (give, senders) = tokio::sync::mpsc::unbounded_channel();
    let handler = move || {
        let (sender, body) = Channel::<Bytes, Infallible>::new(1);
        give.send(sender).unwrap();
        async { Response::new(Body::new(body)) }
    };
    (Router::new().route("/pay", post(handler)), senders)
}

#[tokio::test]
async fn a_part_passes_before_the_next_one_is_there() {
    let (app, mut senders) = hand_fed();
    let server = serve(app.layer(layer())).await;
    let mut client = Raw::pay(&server, "1").await;
    let mut sender = soon(senders.recv()).await.unwrap();
    sender.send_data("one".into()).await.unwrap();
    client.until("3\r\none\r\n").await;
    sender.send_data("two".into()).await.unwrap();
    client.until("3\r\ntwo\r\n").await;
    let repeat = pay(&server, "1").await;
    assert_eq!(repeat.refusal(), "processing");
    drop(sender);
    client.until("0\r\n\r\n").await;
    // It was stored before its end went out.
    let repeat = pay(&server, "1").await;
    assert_eq!((repeat.text(), repeat.is_replay()), ("onetwo", true));
    assert_eq!(repeat.headers["content-length"], "6");
}

#[tokio::test]
async fn nothing_is_asked_of_a_body_that_its_client_does_not_take() {
    let gate = gate();
    let endless = gate.0.clone();
    let plain = service_fn(move |_: Request<RequestBody<Empty<Bytes>>>| {
        let endless = endless.clone();
        let parts = futures_util::stream::repeat_with(move || {
            endless.arrive();
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"part")))
        });
        async { Ok::<_, Infallible>(Response::new(StreamBody::new(parts))) }
    });
    let request = post_("/pay", "1").body(Empty::new()).unwrap();
    let mut body = soon(layer().layer(plain).oneshot(request)).await.unwrap().into_body();
    for taken in 1..50 {
        soon(body.frame()).await.unwrap().unwrap();
        // One that waits to be taken, and one in the hand of whoever sends it.
        assert!(gate.1.runs() <= taken + 2, "{} of {taken}", gate.1.runs());
    }
}

use super::support::post as post_;

/// A body of one part and its trailers.
fn with_trailers(text: &'static str) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.append("x-sum", HeaderValue::from_static("1"));
    trailers.append("x-sum", HeaderValue::from_static("2"));
    let frames = [Frame::data(Bytes::from_static(text.as_bytes())), Frame::trailers(trailers)];
    Body::new(StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>))))
}

#[tokio::test]
async fn trailers_are_replayed() {
    let handler = || async { Response::builder().header("trailer", "x-sum").body(with_trailers("paid")).unwrap() };
    let server = serve(Router::new().route("/pay", post(handler)).layer(layer())).await;
    let request = || post_("/pay", "1").header("te", "trailers").body(Full::from("42 EUR")).unwrap();
    let first = send(&server, request()).await;
    assert_eq!(first.trailers.as_ref().unwrap().get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
    let repeat = send(&server, request()).await;
    assert!(repeat.is_replay() && !first.is_replay());
    assert_eq!(repeat.plain(), first.plain());
}

#[tokio::test]
async fn what_is_not_protected_passes_as_it_is() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);
    let plain = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
        let sizes = (http_body::Body::size_hint(request.body()).exact(), request.extensions().get::<Mark>().cloned());
        let mut response = Response::new(Full::<Bytes>::from(format!("{sizes:?}")));
        response.extensions_mut().insert(Mark(2));
        Ok::<_, Infallible>(response)
    });
    let service = layer().layer(plain);
    let keyless = Request::post("/").extension(Mark(1)).body(Full::from("four")).unwrap();
    let get = Request::get("/").extension(Mark(1)).header("idempotency-key", "1").body(Full::from("four")).unwrap();
    let head = Request::head("/").extension(Mark(1)).header("idempotency-key", "1").body(Full::from("four")).unwrap();
    for request in [keyless, get, head] {
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.extensions().get(), Some(&Mark(2)));
        assert_eq!(Answer::of(response).await.text(), "(Some(4), Some(Mark(1)))");
    }
}

#[tokio::test]
async fn a_first_answer_keeps_its_extensions_and_its_length() {
    let plain = service_fn(|_: Request<RequestBody<Empty<Bytes>>>| async {
        let mut response = Response::new(Full::<Bytes>::from("four"));
        response.extensions_mut().insert(7_u8);
        Ok::<_, Infallible>(response)
    });
    let request = post_("/pay", "1").body(Empty::new()).unwrap();
    let response = layer().layer(plain).oneshot(request).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&7_u8));
    assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(4));
}

/// What a test makes of a body's length.
struct Lies {
    parts: Vec<&'static str>,
    said: SizeHint,
}

impl http_body::Body for Lies {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = (!self.parts.is_empty()).then(|| self.parts.remove(0));
        Poll::Ready(next.map(|part| Ok(Frame::data(part.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.said.clone()
    }
}

async fn after(layer: &IdempotencyLayer, parts: &[&'static str], said: SizeHint) -> String {
    let parts = parts.to_vec();
    let plain = service_fn(move |_: Request<RequestBody<Empty<Bytes>>>| {
        let body = Lies { parts: parts.clone(), said: said.clone() };
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let request = || post_("/pay", "1").body(Empty::new()).unwrap();
    let service = layer.layer(plain);
    Answer::of(soon(service.clone().oneshot(request())).await.unwrap()).await;
    let repeat = Answer::of(soon(service.oneshot(request())).await.unwrap()).await;
    if repeat.is_replay() { repeat.text().to_owned() } else { repeat.refusal() }
}

#[tokio::test]
async fn a_length_that_lies_stores_no_wrong_answer() {
    let bounds = |lower, upper: Option<u64>| {
        let mut said = SizeHint::new();
        said.set_lower(lower);
        upper.into_iter().for_each(|upper| said.set_upper(upper));
        said
    };
    // No server can send them: the first client has seen less, or more, than was said.
    assert_eq!(after(&layer(), &["one", "two"], SizeHint::with_exact(3)).await, "not-kept");
    assert_eq!(after(&layer(), &["one"], SizeHint::with_exact(5)).await, "processing");
    // Bounds are hints.
    assert_eq!(after(&layer(), &["one", "two"], bounds(100, None)).await, "onetwo");
    assert_eq!(after(&layer(), &["one", "two"], bounds(0, Some(2))).await, "onetwo");
}

#[tokio::test]
async fn an_endless_body_behind_a_short_length_ends_where_it_said() {
    let endless = || async {
        let parts = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(b"part")));
        Response::builder().header("content-length", "6").body(Body::from_stream(parts)).unwrap()
    };
    let server = serve(Router::new().route("/pay", post(endless)).layer(layer())).await;
    assert_eq!(pay(&server, "1").await.text(), "partpa");
    assert_eq!(pay(&server, "1").await.refusal(), "not-kept");
}

#[tokio::test]
async fn an_endless_body_that_nobody_sends_is_not_waited_for() {
    let endless = || async {
        let parts = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        Response::builder().status(204).body(Body::from_stream(parts)).unwrap()
    };
    let server = serve(Router::new().route("/pay", post(endless)).layer(layer())).await;
    assert_eq!(pay(&server, "1").await.status, 204);
    let repeat = pay(&server, "1").await;
    assert_eq!((repeat.status.as_u16(), repeat.is_replay()), (204, true));
}

#[tokio::test]
async fn statuses_without_a_body_are_replayed() {
    let handler = |request: Request<Body>| async move {
        let header = |name: &str| request.headers().get(name).cloned();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = header("x-status").unwrap().to_str().unwrap().parse().unwrap();
        if let Some(length) = header("x-length") {
            response.headers_mut().insert("content-length", length);
        }
        response
    };
    let server = serve(Router::new().route("/pay", any(handler)).layer(layer())).await;
    for (key, status, length) in [("1", "204", None), ("2", "304", None), ("3", "304", Some("12")), ("4", "200", None)]
    {
        let request = || {
            let request = post_("/pay", key).header("x-status", status);
            let request = length.into_iter().fold(request, |request, length| request.header("x-length", length));
            request.body(Empty::<Bytes>::new()).unwrap()
        };
        let (first, repeat) = (send(&server, request()).await, send(&server, request()).await);
        assert!(repeat.is_replay() && first.body.is_empty(), "{key}: {repeat:?}");
        assert_eq!(repeat.headers.get("content-length"), first.headers.get("content-length"), "{key}");
        assert_eq!(repeat.plain(), first.plain(), "{key}");
    }
}

#[tokio::test]
async fn an_answer_at_the_cap_is_kept_and_one_byte_more_is_not() {
    let handler = |body: String| async move { parts(&["12345678", "90123456"][..body.parse().unwrap()]) };
    // Beside the body, what is stored counts: its status, its headers and their lengths.
    for (most, kept) in [(40, true), (7, false)] {
        let app = Router::new().route("/pay", post(handler)).layer(layer().max_response_bytes(most));
        let server = serve(app).await;
        let request = || post_("/pay", "1").body(Full::from("1")).unwrap();
        assert_eq!(send(&server, request()).await.text(), "12345678");
        let repeat = send(&server, request()).await;
        assert_eq!(repeat.is_replay(), kept, "{repeat:?}");
    }
}
