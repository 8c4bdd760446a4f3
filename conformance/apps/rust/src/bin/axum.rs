//! axum behind the layer: a layer of its own for each route that has options of its own.

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use conformance_apps::{PATIENCE, handle, layers, port, terminated};
use tower_http::catch_panic::CatchPanicLayer;

#[tokio::main]
async fn main() {
    let layers = layers();
    let handler = || any(handle::<Body>);
    let mut app = Router::new();
    for (path, layer) in layers.clone() {
        let route = || Router::new().route(&format!("{path}{{*rest}}"), handler());
        app = app.merge(match layer {
            None => route(),
            Some(layer) if path.is_empty() => {
                let mounted = Router::new().route("/{*rest}", handler()).layer(layer.clone());
                // Two layers: the inner one joins.
                let joined =
                    Router::new().route("/joined/{*rest}", handler()).layer(layer.clone()).layer(layer.clone());
                let others = Router::new().fallback(handle::<Body>).layer(layer);
                others.merge(joined).nest("/mount-a", mounted.clone()).nest("/mount-b", mounted)
            }
            Some(layer) => route().layer(layer),
        });
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port())).await.expect("the port is free");
    let app = app.layer(CatchPanicLayer::new());
    axum::serve(listener, app).with_graceful_shutdown(terminated()).await.expect("it serves");
    for layer in layers.iter().filter_map(|(_, layer)| layer.as_ref()) {
        layer.drain(PATIENCE).await;
    }
}
