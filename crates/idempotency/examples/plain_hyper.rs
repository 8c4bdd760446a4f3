//! hyper without a framework: `cargo run -p idempotency --features tower --example plain_hyper`, then twice
//! `curl -i localhost:3000/pay -H 'Idempotency-Key: order-7' -d '42 EUR'`.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use idempotency::tower::{IdempotencyLayer, RequestBody};
use idempotency::{Idempotency, stores};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

async fn pay(request: Request<RequestBody<Incoming>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Ok(amount) = request.into_body().collect().await else { return Ok(Response::default()) };
    println!("charging {:?}", amount.to_bytes());
    Ok(Response::new(Full::from("charged\n")))
}

/// Serves every connection of a listener.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let layer = IdempotencyLayer::new(Idempotency::new(stores::open("memory://")?));
    let service = ServiceBuilder::new().layer(layer).service_fn(pay);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

#[tokio::main]
#[allow(dead_code, reason = "a test serves on a port of its own")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    serve(TcpListener::bind("127.0.0.1:3000").await?).await
}
