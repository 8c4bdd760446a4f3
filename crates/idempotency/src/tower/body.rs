//! The bodies that a protected service sees and sends.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use ::http::HeaderMap;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::mpsc;

/// An error of any body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What follows of a whole body.
#[derive(Debug, Default)]
pub(super) struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    pub(super) fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data: Some(data).filter(|data| !data.is_empty()), trailers }
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.data.take().map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers))
    }

    fn is_end(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    /// HTTP/1 sends no trailers behind a length that is known.
    fn size_hint(&self) -> SizeHint {
        let left = self.data.as_ref().map_or(0, |data| data.len() as u64);
        if self.trailers.is_none() { SizeHint::with_exact(left) } else { SizeHint::new() }
    }
}

pin_project! {
    /// The body of a request, as a service inside of the layer receives it: the client's own where the request is not
    /// protected, and otherwise one that has been read.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        kind: RequestKind<B>,
    }
}

pin_project! {
    #[project = RequestPinned]
    #[derive(Debug)]
    enum RequestKind<B> {
        Passed { #[pin] body: B },
        Whole { body: Whole },
        /// A part of it has been read.
        Begun { read: Whole, rest: Pin<Box<B>> },
    }
}

impl<B> RequestBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self { kind: RequestKind::Passed { body } }
    }

    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { kind: RequestKind::Whole { body: Whole::new(data, trailers) } }
    }

    /// A body of which a part has been read.
    pub(super) fn begun(data: Bytes, rest: Pin<Box<B>>) -> Self {
        Self { kind: RequestKind::Begun { read: Whole::new(data, None), rest } }
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().kind.project() {
            RequestPinned::Passed { body } => body.poll_frame(context),
            RequestPinned::Whole { body } => Poll::Ready(body.next().map(Ok)),
            RequestPinned::Begun { read, rest } => match read.next() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => rest.as_mut().poll_frame(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Passed { body } => body.is_end_stream(),
            RequestKind::Whole { body } => body.is_end(),
            RequestKind::Begun { read, rest } => read.is_end() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Passed { body } => body.size_hint(),
            RequestKind::Whole { body } => body.size_hint(),
            RequestKind::Begun { .. } => SizeHint::new(),
        }
    }
}

/// A part of an answer, from the task that sees all of it.
pub(super) enum Part<E> {
    Frame(Frame<Bytes>),
    Error(E),
    Panic(Box<dyn Any + Send>),
    End,
}

/// An answer that passes while it is captured.
pub(super) struct Passing<E> {
    pub(super) parts: mpsc::Receiver<Part<E>>,
    /// What captures it, where it has no task of its own. Nobody else locks it: a body may have to be [`Sync`].
    pub(super) capture: Option<Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// What follows of its length.
    pub(super) left: SizeHint,
    pub(super) is_ended: bool,
}

impl<E> Passing<E> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if let Some(capture) = &mut self.capture
            && capture.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context).is_ready()
        {
            self.capture = None;
        }
        // Without a last part the runtime shuts down, and this body is about to be dropped with it.
        let Poll::Ready(Some(part)) = self.parts.poll_recv(context) else { return Poll::Pending };
        self.is_ended = !matches!(part, Part::Frame(_));
        Poll::Ready(match part {
            Part::Frame(frame) => {
                self.left = frame.data_ref().map_or_else(SizeHint::new, |data| rest_of(&self.left, data.len() as u64));
                Some(Ok(frame))
            }
            Part::End => None,
            Part::Error(error) => Some(Err(error)),
            Part::Panic(panic) => std::panic::resume_unwind(panic),
        })
    }
}

/// What is left of a length after so many bytes.
fn rest_of(length: &SizeHint, seen: u64) -> SizeHint {
    let mut rest = SizeHint::new();
    if let Some(most) = length.upper() {
        rest.set_upper(most.saturating_sub(seen));
    }
    rest.set_lower(length.lower().saturating_sub(seen));
    rest
}

pin_project! {
    #[project = KindPinned]
    enum Kind<R: Body> {
        Passed { #[pin] body: R },
        Whole { body: Whole, broken: Option<R::Error> },
        Passing { passing: Passing<R::Error> },
    }
}

pin_project! {
    /// The body of an answer: the service's own where the request is not protected, and otherwise one that is stored
    /// as it goes out.
    pub struct ResponseBody<R: Body> {
        #[pin]
        kind: Kind<R>,
    }
}

impl<R: Body> std::fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Passed { .. } => "passed",
            Kind::Whole { .. } => "whole",
            Kind::Passing { .. } => "passing",
        };
        f.debug_struct("ResponseBody").field("kind", &kind).finish_non_exhaustive()
    }
}

/// An empty body.
impl<R: Body> Default for ResponseBody<R> {
    fn default() -> Self {
        Self::whole(Whole::default(), None)
    }
}

impl<R: Body> ResponseBody<R> {
    pub(super) fn passed(body: R) -> Self {
        Self { kind: Kind::Passed { body } }
    }

    /// - `broken`: an error that follows it.
    pub(super) fn whole(body: Whole, broken: Option<R::Error>) -> Self {
        Self { kind: Kind::Whole { body, broken } }
    }

    pub(super) fn passing(passing: Passing<R::Error>) -> Self {
        Self { kind: Kind::Passing { passing } }
    }
}

impl<R: Body<Data = Bytes>> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().kind.project() {
            KindPinned::Passed { body } => body.poll_frame(context),
            KindPinned::Whole { body, broken } => Poll::Ready(body.next().map(Ok).or_else(|| broken.take().map(Err))),
            KindPinned::Passing { passing } => passing.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Whole { body, broken } => body.is_end() && broken.is_none(),
            Kind::Passing { passing } => passing.is_ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { body } => body.size_hint(),
            Kind::Whole { broken: Some(_), .. } => SizeHint::new(),
            Kind::Whole { body, .. } => body.size_hint(),
            Kind::Passing { passing } => passing.left,
        }
    }
}
