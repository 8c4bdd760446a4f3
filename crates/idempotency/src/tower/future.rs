//! [`ResponseFuture`]: the answer to come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::ResponseBody;

pub(super) type Answered<R, E> = Result<Response<ResponseBody<R>>, E>;

pin_project! {
    #[project = KindPinned]
    enum Kind<F, R: Body, E> {
        Passed { #[pin] future: F },
        Protected { future: Pin<Box<dyn Future<Output = Answered<R, E>> + Send>> },
    }
}

pin_project! {
    /// The answer of an [`IdempotencyService`](super::IdempotencyService).
    ///
    /// Dropped before the service inside has begun, it leaves the key free. Dropped later, it changes nothing: the
    /// service goes on in a task of its own, unless it runs inline.
    #[must_use = "a future does nothing unless it is polled"]
    pub struct ResponseFuture<F, R: Body, E> {
        #[pin]
        kind: Kind<F, R, E>,
    }
}

impl<F, R: Body, E> std::fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, R: Body, E> ResponseFuture<F, R, E> {
    pub(super) fn passed(future: F) -> Self {
        Self { kind: Kind::Passed { future } }
    }

    pub(super) fn protected(future: impl Future<Output = Answered<R, E>> + Send + 'static) -> Self {
        Self { kind: Kind::Protected { future: Box::pin(future) } }
    }
}

impl<F, R: Body, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Answered<R, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindPinned::Passed { future } => {
                Poll::Ready(ready!(future.poll(context)).map(|response| response.map(ResponseBody::passed)))
            }
            KindPinned::Protected { future } => future.as_mut().poll(context),
        }
    }
}
