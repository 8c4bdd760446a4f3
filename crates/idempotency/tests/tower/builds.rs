//! A user's usual code builds, and what it makes answers.

use std::convert::Infallible;
use std::error::Error;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use idempotency::tower::{IdempotencyLayer, IdempotencyService, RequestBody, ResponseBody, ResponseFuture};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use super::support::*;

type AnyError = Box<dyn Error + Send + Sync>;

#[test]
fn what_a_user_holds_goes_everywhere() {
    fn goes<T: Clone + Send + Sync + 'static>() {}
    fn is_sent<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync>() {}
    goes::<IdempotencyLayer>();
    goes::<IdempotencyService<Router>>();
    is_sent::<ResponseFuture<std::future::Ready<()>, Full<Bytes>, Infallible>>();
    is_shared::<ResponseBody<Full<Bytes>>>();
    is_shared::<RequestBody<Full<Bytes>>>();
}

async fn paid() -> &'static str {
    "paid"
}

#[tokio::test]
async fn in_axum_it_goes_wherever_a_layer_goes() {
    let layer = layer();
    let app = Router::new()
        .route("/pay", post(paid).layer(layer.clone().required(true)))
        .nest("/v1", Router::new().route("/pay", post(paid)).route_layer(layer.clone()))
        .merge(Router::new().route("/other/pay", post(paid)).layer(layer.clone()))
        .route_service("/service", ServiceBuilder::new().layer(layer.clone()).service(post(paid)))
        .layer(ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(layer));
    let server = serve(app).await;
    for path in ["/pay", "/v1/pay", "/other/pay", "/service"] {
        let request = || super::support::post(path, "1").body(Full::from("42 EUR")).unwrap();
        let (first, repeat) = (send(&server, request()).await, send(&server, request()).await);
        assert_eq!((first.text(), first.is_replay()), ("paid", false), "{path}");
        assert_eq!((repeat.text(), repeat.is_replay()), ("paid", true), "{path}");
    }
}

/// Serves each connection with a service that is made for it inside of the task.
macro_rules! served {
    ($listener:ident, $service:expr) => {
        tokio::spawn(async move {
            loop {
                let (stream, _) = $listener.accept().await.unwrap();
                let service = $service.clone();
                tokio::spawn(async move {
                    let service = TowerToHyperService::new(service);
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        })
    };
}

async fn answers(address: std::net::SocketAddr) {
    let server = Server::elsewhere(address);
    assert!(!pay(&server, "1").await.is_replay());
    let repeat = pay(&server, "1").await;
    assert_eq!((repeat.text(), repeat.is_replay()), ("paid", true));
}

async fn listening() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn under_hyper_a_service_of_functions_is_spawned() {
    let (listener, address) = listening().await;
    let plain = service_fn(|request: Request<RequestBody<Incoming>>| async move {
        drop(request.into_body().collect().await);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("paid")))
    });
    let service = ServiceBuilder::new().layer(layer()).service(plain);
    let server = served!(listener, service);
    answers(address).await;
    server.abort();
}

/// Made inside of the task, such a service's future is not known to be `Send`: the compiler forgets there that the error
/// of the body is `'static` (rust-lang/rust#100013), as under `CatchPanicLayer` alone.
#[tokio::test]
async fn under_hyper_a_body_may_have_any_error() {
    let (listener, address) = listening().await;
    let plain = service_fn(|request: Request<RequestBody<Incoming>>| async move {
        let body = request.into_body().map_err(|error| Box::new(error) as AnyError);
        drop(body.collect().await);
        let body: BoxBody<Bytes, AnyError> = Full::from("paid").map_err(|never| match never {}).boxed();
        Ok::<_, AnyError>(Response::new(body))
    });
    let service = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(layer()).service(plain);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    answers(address).await;
    server.abort();
}

#[tokio::test]
async fn an_answer_may_be_boxed_as_other_bodies_are() {
    use tower::ServiceExt as _;
    let plain = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        Ok::<_, AnyError>(Response::new(Full::<Bytes>::from("paid")))
    });
    let service = layer().layer(plain).map_response(|response| response.map(|body| body.boxed()));
    let answered = tokio::spawn(async move {
        let request = super::support::post("/pay", "1").body(Full::from("42 EUR")).unwrap();
        service.oneshot(request).await.unwrap()
    });
    let response: Response<BoxBody<Bytes, Infallible>> = answered.await.unwrap();
    assert_eq!(Answer::of(response).await.text(), "paid");
}
