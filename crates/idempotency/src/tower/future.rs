//! [`ResponseFuture`]: the answer to come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tracing::{Instrument as _, Span};

use super::body::ResponseBody;

pub(super) type Answered<R, E> = Result<Response<ResponseBody<R>>, E>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a protected request begins.
pub(super) enum Begun<R: Body, E> {
    /// The service does not run for it, or not under a key.
    Answered(Answered<R, E>),
    Runs(Work<Answered<R, E>>),
}

/// The service at work for a request. Its caller drives it, which costs no task; a caller that leaves hands it over to
/// one.
pub(super) struct Work<T> {
    /// Until it has ended.
    future: Option<Boxed<T>>,
    /// How it goes on without its caller; `None`: not at all.
    without_caller: Option<WithoutCaller<T>>,
}

struct WithoutCaller<T> {
    runtime: Handle,
    span: Span,
    /// [`spawn`], found where `T` is known to borrow nothing: a future's own type must not ask for that, or compilers do
    /// not see that it is [`Send`].
    spawn: fn(&Handle, Boxed<T>, Span),
}

fn spawn<T: 'static>(runtime: &Handle, future: Boxed<T>, span: Span) {
    runtime.spawn(async move { drop(future.await) }.instrument(span));
}

impl<T> Work<T> {
    /// - `is_inline`: whether it ends with its caller.
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static, is_inline: bool) -> Self
    where
        T: 'static,
    {
        let without_caller = || WithoutCaller { runtime: Handle::current(), span: Span::current(), spawn: spawn::<T> };
        Self { future: Some(Box::pin(future)), without_caller: (!is_inline).then(without_caller) }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<T> {
        // Not here while it runs: what has panicked does not go on.
        let Some(mut future) = self.future.take() else { unreachable!("it is not polled after its end") };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        if let (Some(future), Some(WithoutCaller { runtime, span, spawn })) =
            (self.future.take(), self.without_caller.take())
        {
            spawn(&runtime, future, span);
        }
    }
}

pin_project! {
    #[project = KindPinned]
    enum Kind<F, R: Body, E> {
        Passed { #[pin] future: F },
        Begins { future: Boxed<Begun<R, E>> },
        Runs { work: Work<Answered<R, E>> },
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

    pub(super) fn protected(future: impl Future<Output = Begun<R, E>> + Send + 'static) -> Self {
        Self { kind: Kind::Begins { future: Box::pin(future) } }
    }
}

impl<F, R: Body, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Answered<R, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut kind = self.project().kind;
        loop {
            match kind.as_mut().project() {
                KindPinned::Passed { future } => {
                    return Poll::Ready(
                        ready!(future.poll(context)).map(|response| response.map(ResponseBody::passed)),
                    );
                }
                KindPinned::Begins { future } => match ready!(future.as_mut().poll(context)) {
                    Begun::Answered(answered) => return Poll::Ready(answered),
                    Begun::Runs(work) => kind.set(Kind::Runs { work }),
                },
                KindPinned::Runs { work } => return work.poll(context),
            }
        }
    }
}
