//! What axum adds: an extractor of the attempt, and names by route.

use ::axum::extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts};
use ::axum::response::{IntoResponse, Response};
use ::http::StatusCode;
use ::http::request::Parts;

use super::attempt::Attempt;

/// The rejection of [`Attempt`] as an extractor: the request runs under no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this request runs under no Idempotency-Key: add an IdempotencyLayer to the route with .required(true), or extract \
     Option<Attempt>"
)]
pub struct NoAttempt;

impl IntoResponse for NoAttempt {
    /// 500: the service is not set up as its handler expects. What exactly is missing is for the log.
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for Attempt {
    type Rejection = NoAttempt;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or(NoAttempt)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Attempt {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// For [`IdempotencyLayer::name`](super::IdempotencyLayer::name): method and route, as `POST /orders/{id}`. Requests on
/// two paths of one route are then one operation, and their paths are told apart by the fingerprint alone.
pub fn matched_path(parts: &Parts) -> Option<String> {
    let route = parts.extensions.get::<MatchedPath>()?;
    Some(format!("{} {}", parts.method, route.as_str()))
}
