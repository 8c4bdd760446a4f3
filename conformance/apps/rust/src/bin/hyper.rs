//! hyper without a framework: the path chooses the layer.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use conformance_apps::{PATIENCE, handle, layers, port, terminated};
use http::Request;
use http_body::Body;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use idempotency::tower::{BoxError, RequestBody};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

fn boxed<B>(body: B) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

#[tokio::main]
async fn main() {
    let layers = layers();
    let all = layers.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let path = request.uri().path();
        let (_, layer) = all.iter().find(|(begin, _)| path.starts_with(begin)).expect("the last one fits");
        let layer = layer.clone();
        Box::pin(async move {
            let Some(layer) = layer else { return Ok(handle(request).await.map(boxed)) };
            let plain = service_fn(|request: Request<RequestBody<Incoming>>| async move {
                Ok::<_, Infallible>(handle(request).await)
            });
            let answer = layer.layer(plain).oneshot(request).await;
            answer.map(|answer| answer.map(boxed))
        }) as Pin<Box<dyn Future<Output = _> + Send>>
    });
    let service = CatchPanicLayer::new().layer(service);
    let listener = TcpListener::bind(("127.0.0.1", port())).await.expect("the port is free");
    let (graceful, mut terminated) = (GracefulShutdown::new(), std::pin::pin!(terminated()));
    loop {
        let connected = tokio::select! {
            connected = listener.accept() => connected,
            () = &mut terminated => break,
        };
        let Ok((stream, _)) = connected else { continue };
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(connection);
    }
    drop(tokio::time::timeout(PATIENCE, graceful.shutdown()).await);
    for layer in layers.iter().filter_map(|(_, layer)| layer.as_ref()) {
        layer.drain(PATIENCE).await;
    }
}
