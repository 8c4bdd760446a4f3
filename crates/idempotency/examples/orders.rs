//! A service that takes orders, with axum: who is logged in is the caller, an import streams its progress, and SIGTERM
//! lets what runs end.
//!
//! `cargo run -p idempotency --features axum,redis,sqlite --example orders [store]`, then twice
//!
//! ```sh
//! curl -i localhost:3000/orders -H 'Authorization: Bearer alice-token' -H 'Idempotency-Key: order-7' --json '{"item": "book"}'
//! ```

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use http::{StatusCode, header};
use http_body_util::Channel;
use idempotency::tower::{Attempt, IdempotencyLayer};
use idempotency::{Idempotency, Options, stores};
use serde::{Deserialize, Serialize};

/// Who is logged in.
#[derive(Clone)]
struct User(&'static str);

#[derive(Deserialize)]
struct Order {
    item: String,
}

#[derive(Serialize)]
struct Receipt {
    item: String,
    /// The bank's own key: it makes a second run after a crash safe.
    payment: String,
}

/// Leaves the user in the request's extensions, where the idempotency layer finds it.
async fn login(mut request: Request, next: Next) -> Result<Response, StatusCode> {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|token| token.to_str().ok());
    let user = match token {
        Some("Bearer alice-token") => User("alice"),
        Some("Bearer bob-token") => User("bob"),
        _ => return Err(StatusCode::UNAUTHORIZED),
    };
    request.extensions_mut().insert(user);
    Ok(next.run(request).await)
}

async fn order(attempt: Attempt, Json(order): Json<Order>) -> (StatusCode, Json<Receipt>) {
    (StatusCode::CREATED, Json(Receipt { item: order.item, payment: attempt.derive("payment") }))
}

/// An answer that streams passes while it is captured, and is replayed whole.
async fn import(lines: String) -> Response {
    let (mut sender, body) = Channel::<_, std::io::Error>::new(1);
    tokio::spawn(async move {
        for line in lines.lines() {
            if sender.send_data(format!("imported {line}\n").into()).await.is_err() {
                return; // nobody reads any more
            }
        }
    });
    Response::new(Body::new(body))
}

/// The service, and its layer, which a shutdown waits for.
pub fn service(store: &str) -> Result<(Router, IdempotencyLayer), Box<dyn std::error::Error>> {
    let options = Options::new().ttl(Duration::from_secs(7 * 24 * 3600)).wait(Duration::from_secs(5));
    let layer = IdempotencyLayer::new(Idempotency::new(stores::open(store)?).with_options(options)?)
        .scope(|parts| parts.extensions.get::<User>().map(|user| user.0));
    let app = Router::new()
        .route("/orders", post(order).layer(layer.clone().required(true)))
        .route("/import", post(import).layer(layer.clone()))
        .layer(from_fn(login)); // the last one is the outermost: it runs first
    Ok((app, layer))
}

#[tokio::main]
#[allow(dead_code, reason = "a test runs the service")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (app, layer) = service(&std::env::args().nth(1).unwrap_or_else(|| "redis://localhost".into()))?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let asked = async move {
        terminate.recv().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(asked).await?;
    // Orders whose client has left may still run.
    layer.drain(Duration::from_secs(30)).await;
    Ok(())
}
