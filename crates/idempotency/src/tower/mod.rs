//! A [`tower`](https://docs.rs/tower) layer: an HTTP service runs each `Idempotency-Key` once, and a repeat gets the
//! stored answer.
//!
//! # What it guarantees
//!
//! 1. Of all requests with one key, one runs the service. A repeat gets its status, headers, body and trailers byte for
//!    byte, marked `Idempotent-Replayed: true`.
//! 2. An answer is stored before its last byte goes out: a client that saw all of it can count on the replay.
//! 3. A client that leaves changes nothing: the service runs in a task of its own and goes on to its end
//!    ([`IdempotencyLayer::inline`] for services that need the caller's task).
//! 4. A key belongs to a method, a path and a caller. A request that names a caller in its headers, where the layer has
//!    no [`scope`](IdempotencyLayer::scope), is refused: nobody gets another's answer.
//! 5. Without a key, or with a method that is not protected, a request passes as it is.
//!
//! # What a client sees
//!
//! Refusals are problem documents (RFC 9457), one type each: see [`Refusal`](crate::http::Refusal). A gRPC request
//! (`content-type: application/grpc`) gets them as a status, with `idempotency-refusal` and `idempotency-effect` in the
//! metadata:
//!
//! | refusal | status |
//! |---|---|
//! | `key-missing`, `key-invalid`, `conflict` | `INVALID_ARGUMENT` |
//! | `not-kept` | `ALREADY_EXISTS` |
//! | `payload-too-large` | `RESOURCE_EXHAUSTED` |
//! | `unknown` | `FAILED_PRECONDITION` |
//! | `stream` | `UNIMPLEMENTED` |
//! | `processing`, `store-unavailable`, `overloaded` | `UNAVAILABLE`, with `grpc-retry-pushback-ms` |
//! | any other | `INTERNAL` |
//!
//! # What becomes of a key
//!
//! | the service | its key |
//! |---|---|
//! | answers with a status below 500, except 401, 403, 405, 408, 425 and 429 | completed: every repeat gets the answer |
//! | answers with 401, 403, 405, 408, 425 or 429, or passes on a refusal by this library | released: nothing was done, and a repeat runs |
//! | answers with 500 or above, returns an error or panics | failed: released, or unknown under [`AfterCrash::Refuse`] |
//! | answers more than [`max_response_bytes`](IdempotencyLayer::max_response_bytes) | completed without its answer: a repeat gets 410 |
//! | breaks off its answer, or runs [inline](IdempotencyLayer::inline) and is dropped | held: the key waits for the end of its lease, or is unknown under [`AfterCrash::Refuse`] |
//!
//! [`AfterCrash::Refuse`]: crate::AfterCrash::Refuse
//!
//! # Two layers on one request
//!
//! There is one attempt for a request: the inner layer joins the outer one's, where its options are the same but for
//! [`required`](IdempotencyLayer::required) and [`methods`](IdempotencyLayer::methods), as a clone's are. With others,
//! which the outer layer would not follow, nothing runs: the client gets a 500, and the log names the option. Give a
//! route with options of its own its own layer, and leave it out of the outer one.
//!
//! # OpenAPI
//!
//! What describes a protected operation (with `utoipa`, in its `params(…)` and `responses(…)`): a parameter
//! `Idempotency-Key` in the header, a string of 1 to 255 characters, required where the layer's
//! [`required`](IdempotencyLayer::required) says so; the header `Idempotent-Replayed` of its answers; and answers of type
//! `application/problem+json` with 400, 409 (its `Retry-After` in seconds), 410, 413, 422 and 503.
//!
//! # Caveats
//!
//! - A replay does not reach what is inside of the layer. Put authentication outside of it: otherwise a repeat is
//!   answered without it.
//! - The whole request body is read before the service runs, up to
//!   [`max_request_bytes`](IdempotencyLayer::max_request_bytes).
//! - Extensions of an answer are not stored; a replay has none. Nor is an upgrade (101): a repeat gets 410.
//! - gRPC-Web has its status in its body: put the layer inside of the one that translates it.
//! - A gRPC client that waits for an answer before it sends its second message, or ends, waits for its deadline: a request
//!   with a key is read to its end first. Send such streams without a key.
//!
//! # Example
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use idempotency::tower::{Attempt, IdempotencyLayer, RequestBody};
//! use idempotency::{Idempotency, stores::MemoryStore};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! let pay = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
//!     let attempt: &Attempt = request.extensions().get().expect("a key is required");
//!     println!("charging; the bank is told the key {}", attempt.derive("bank"));
//!     Ok::<_, std::convert::Infallible>(Response::new(Full::from("charged")))
//! });
//! let layer = IdempotencyLayer::new(Idempotency::new(MemoryStore::new())).required(true);
//! let service = layer.layer(pay);
//!
//! let request = || Request::post("/pay").header("idempotency-key", "order-7").body(Full::from("42 EUR")).unwrap();
//! let first = service.clone().oneshot(request()).await.unwrap();
//! let repeat = service.clone().oneshot(request()).await.unwrap();
//! assert!(!first.headers().contains_key("idempotent-replayed"));
//! assert_eq!(repeat.headers()["idempotent-replayed"], "true");
//! assert_eq!(repeat.into_body().collect().await.unwrap().to_bytes(), "charged");
//! # });
//! ```

mod answer;
mod attempt;
#[cfg(feature = "axum")]
mod axum;
mod body;
mod future;
mod grpc;
mod joined;
mod layer;
mod path;
mod request;
mod running;
mod service;

pub use attempt::Attempt;
#[cfg(feature = "axum")]
pub use axum::{NoAttempt, matched_path};
pub use body::{BoxError, RequestBody, ResponseBody};
pub use future::ResponseFuture;
pub use grpc::GrpcStreams;
pub use layer::{IdempotencyLayer, LayerError, Outcome, Settle, by_authorization};
pub use service::IdempotencyService;
