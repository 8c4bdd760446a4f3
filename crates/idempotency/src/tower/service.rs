//! [`IdempotencyService`]: which requests are protected.

use std::task::{Context, Poll};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::attempt::Attempt;
use super::body::{BoxError, RequestBody, ResponseBody};
use super::future::ResponseFuture;
use super::layer::IdempotencyLayer;
use super::request::{Protected, Under};

/// A service whose requests are protected: made by an [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// It takes requests with any body of bytes, and calls the service inside with a [`RequestBody`].
#[derive(Clone)]
pub struct IdempotencyService<S> {
    inner: S,
    under: Under,
}

impl<S: std::fmt::Debug> std::fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotencyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = IdempotencyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let under = Under { config: self.config.clone(), tracker: self.tracker.clone() };
        IdempotencyService { inner, under }
    }
}

impl<S> IdempotencyService<S> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for IdempotencyService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let config = &self.under.config;
        let is_protected = config.methods.contains(request.method())
            && (config.required || request.headers().contains_key(&config.key_header));
        // A layer further out may hold an attempt already: there is one for a request, and this layer joins it.
        let held = if is_protected { request.extensions().get::<Attempt>() } else { None };
        if let Some(option) = held.and_then(|held| config.differs_from(held.config())) {
            let (parts, _) = request.into_parts();
            return ResponseFuture::protected(std::future::ready(Ok(self.under.apart(&parts, option))));
        }
        if !is_protected || held.is_some() {
            return ResponseFuture::passed(self.inner.call(request.map(RequestBody::passed)));
        }
        // The service that is ready is the one that is called.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        ResponseFuture::protected(Protected { inner, under: self.under.clone() }.serve(request))
    }
}
