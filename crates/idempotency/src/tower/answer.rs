//! [`Ending`]: an answer is captured on its way out, and stored before its last byte goes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use ::http::request::Parts;
use ::http::{HeaderMap, Method, Request, Response, StatusCode, response};
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;
use tracing::Instrument as _;

use super::attempt::Attempt;
use super::body::{Part, Passing, RequestBody, ResponseBody, Whole};
use super::future::Answered;
use super::grpc;
use super::layer::{Config, Outcome, Settle};
use super::path::path_of;
use super::running::Running;
use crate::engine::{self, Settled, Verdict, caught};
use crate::events;
use crate::http::{
    Answer, Capture, Fate, Note, Problem, Refusal, Replay, declared_length, has_body, is_refusal, store_answer,
};

/// What is needed of a request to answer it without the service.
pub(super) struct Refused {
    method: Method,
    path: String,
    store: &'static str,
    is_grpc: bool,
    docs: Option<Arc<str>>,
}

impl Refused {
    pub(super) fn new(parts: &Parts, config: &Config) -> Self {
        Self {
            method: parts.method.clone(),
            path: path_of(parts).to_owned(),
            store: config.idempotency.store_kind(),
            is_grpc: grpc::is_grpc(&parts.headers),
            docs: config.problem_docs.clone(),
        }
    }

    /// The answer to a refusal.
    pub(super) fn answer<R: Body>(&self, problem: &Problem) -> Response<ResponseBody<R>> {
        events::refused(self.store, || [self.method.as_str(), &self.path].join(" ").as_str().into(), problem.refusal);
        if self.is_grpc {
            let mut response = Response::new(ResponseBody::default());
            *response.headers_mut() = grpc::refusal_headers(problem);
            return response;
        }
        let Answer { status, headers, body } = problem.answer(Some(&self.path), self.docs.as_deref());
        let lines = headers.iter().map(|(name, value)| (&name[..], &value[..]));
        let response = respond(status, lines, Whole::new(body.into(), None));
        response
            .expect("a problem is made of what can be sent: its status, its names and its documentation are checked")
    }

    /// What is stored, as an answer.
    pub(super) fn replay<R: Body>(&self, stored: &[u8]) -> Response<ResponseBody<R>> {
        let replayed = Replay::of(stored);
        let response = replayed.as_ref().ok().and_then(|replay| {
            let mut trailers = HeaderMap::new();
            for (name, value) in &replay.trailers {
                add_line(&mut trailers, name, value)?;
            }
            let added = replay.added_headers();
            let added = added.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            // Headers of a gRPC answer are metadata, and its messages have lengths of their own.
            let added = added.filter(|(name, _)| !self.is_grpc || *name != CONTENT_LENGTH.as_str().as_bytes());
            let Answer { status, headers, body } = &replay.answer;
            let trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
            let body = Whole::new(Bytes::copy_from_slice(body), trailers);
            respond(*status, headers.iter().copied().chain(added), body)
        });
        response.unwrap_or_else(|| {
            let why = replayed.err().map_or("no server can send it".to_owned(), |error| error.to_string());
            tracing::error!("{}: the stored answer can't be sent again: {why}", self.path);
            self.answer(&Refusal::NOT_KEPT.into())
        })
    }
}

fn respond<'a, R: Body>(
    status: u16,
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    body: Whole,
) -> Option<Response<ResponseBody<R>>> {
    let mut response = Response::new(ResponseBody::whole(body, None));
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    for (name, value) in headers {
        add_line(response.headers_mut(), name, value)?;
    }
    Some(response)
}

/// `None` for what no server can send, and for more lines than a map holds.
fn add_line(lines: &mut HeaderMap, name: &[u8], value: &[u8]) -> Option<()> {
    lines.try_append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?).ok().map(drop)
}

/// A request that runs, and what its end needs.
pub(super) struct Ending {
    pub(super) config: Arc<Config>,
    pub(super) attempt: engine::Attempt,
    pub(super) current: Attempt,
    pub(super) refused: Refused,
    /// It counts until the end is in the store.
    pub(super) running: Running,
}

/// What was seen of an answer.
struct Seen {
    head: response::Parts,
    body: Capture<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Ending {
    /// Runs the service, and stores what it answers.
    pub(super) async fn run<S, B, R>(self, mut inner: S, request: Request<RequestBody<B>>) -> Answered<R, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        // What it leaves half done is seen by nobody: the panic goes on.
        let response = match caught(async { inner.call(request).await }).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.fail().await;
                return Err(error);
            }
            Err(panic) => {
                self.fail().await;
                std::panic::resume_unwind(panic);
            }
        };
        let (head, body) = response.into_parts();
        let declared = head.headers.get(CONTENT_LENGTH).and_then(|length| declared_length(length.as_bytes()));
        let length = declared.or(body.size_hint().exact());
        let mut capture = Capture::new(self.config.max_response_bytes);
        capture.start(head.status.as_u16(), length);
        let seen = Seen { head, body: capture, trailers: None };
        let is_small = length.is_some_and(|length| length <= self.config.max_response_bytes as u64);
        if is_small || !has_body(seen.head.status.as_u16()) {
            Ok(self.whole(seen, body).await)
        } else {
            Ok(self.passing(seen, body))
        }
    }

    /// Without an answer the work has failed.
    async fn fail(self) {
        let verdict = if self.current.is_released() { Verdict::Release } else { Verdict::Fail };
        self.attempt.settle(verdict).await;
    }

    /// An answer whose length is known and small goes out when it is stored: another may take its place. Nothing is
    /// asked of a body that no server sends, nor of what follows the length.
    async fn whole<R>(self, mut seen: Seen, body: R) -> Response<ResponseBody<R>>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let mut body = std::pin::pin!(body);
        let mut broken = None;
        while has_body(seen.head.status.as_u16())
            && !seen.body.is_over()
            && let Some(frame) = body.as_mut().frame().await
        {
            match frame {
                Ok(frame) => {
                    drop(seen.add(&frame).then(|| frame.into_trailers().map(|lines| seen.trailers = Some(lines))))
                }
                Err(error) => {
                    seen.body.break_off();
                    broken = Some(error);
                    break;
                }
            }
        }
        let verdict = self.verdict(&seen);
        if let Settled::Replaced(stored) = self.attempt.settle(verdict).await {
            return self.refused.replay(&stored);
        }
        let mut data = joined(seen.body.parts());
        data.truncate(seen.body.length().unwrap_or(data.len()));
        Response::from_parts(seen.head, ResponseBody::whole(Whole::new(data, seen.trailers), broken))
    }

    /// An answer that is large, or whose length nobody knows, goes out part by part.
    fn passing<R>(self, seen: Seen, body: R) -> Response<ResponseBody<R>>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let (head, left) = (seen.head.clone(), body.size_hint());
        let (sender, parts) = mpsc::channel(1);
        let is_inline = self.config.inline;
        let pumped = async move {
            let last = match caught(self.pump(seen, body, &sender)).await {
                Ok(last) => last,
                Err(panic) => Part::Panic(panic),
            };
            drop(sender.send(last).await);
        };
        let capture: Option<Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>> = if is_inline {
            Some(Mutex::new(Box::pin(pumped)))
        } else {
            tokio::spawn(pumped.in_current_span());
            None
        };
        Response::from_parts(head, ResponseBody::passing(Passing { parts, capture, left, is_ended: false }))
    }

    /// Hands an answer on part by part, to its end; its last part.
    async fn pump<R>(self, mut seen: Seen, body: R, client: &mpsc::Sender<Part<R::Error>>) -> Part<R::Error>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let mut body = std::pin::pin!(body);
        let mut client = Client { parts: client, until: None };
        let grace =
            self.config.disconnect_grace.unwrap_or_else(|| self.config.idempotency.options().lease_or_default());
        // What completes the answer goes out when it is stored.
        let mut last = vec![];
        loop {
            let next = client.while_there(body.as_mut().frame(), grace).await;
            let frame = match next {
                Ok(Some(Ok(_))) if seen.body.is_over() => break,
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    seen.body.break_off();
                    let verdict = self.verdict(&seen);
                    self.attempt.settle(verdict).await;
                    return Part::Error(error);
                }
                // Nobody has it for so long: what it would have come to, nobody knows.
                Err(_) => return Part::End,
            };
            if seen.add(&frame) || !last.is_empty() {
                if let Some(lines) = frame.trailers_ref() {
                    seen.trailers = Some(lines.clone());
                }
                last.push(frame);
            } else {
                client.send(frame, grace).await;
            }
        }
        let verdict = self.verdict(&seen);
        self.attempt.settle(verdict).await;
        drop(self.running);
        for frame in last {
            client.send(frame, grace).await;
        }
        Part::End
    }

    /// What becomes of the key.
    fn verdict(&self, seen: &Seen) -> Verdict {
        if self.current.is_released() {
            return Verdict::Release;
        }
        let Seen { head, body, trailers } = seen;
        let (status, headers) = (head.status.as_u16(), &head.headers);
        let settled = self
            .config
            .settle
            .as_ref()
            .filter(|_| body.is_whole())
            .and_then(|settle| settle(&Outcome { status: head.status, headers, trailers: trailers.as_ref() }));
        let fate = match settled {
            Some(Settle::Store) => Fate::Store,
            Some(Settle::Release) => Fate::Release,
            Some(Settle::Hold) => Fate::Hold,
            None if self.refused.is_grpc && body.is_whole() && status == 200 => grpc::fate(headers, trailers.as_ref()),
            None => Fate::of_answer(status, body.is_whole(), || {
                let kind = headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
                is_refusal(kind, &body.parts().concat())
            }),
        };
        match fate {
            Fate::Release => Verdict::Release,
            Fate::Fail => Verdict::Fail,
            Fate::Hold => Verdict::Hold,
            Fate::Store => match self.packed(seen) {
                Ok(payload) => Verdict::Complete(payload.into()),
                Err(why) => {
                    tracing::warn!(
                        "{} [{}]: its answer is not kept, and a repeat gets 410: {why}",
                        self.refused.path,
                        self.attempt.key().id()
                    );
                    let lines = headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
                    Verdict::NotKept(Note::of(Some(status), lines).encode().into())
                }
            },
        }
    }

    fn packed(&self, seen: &Seen) -> Result<Vec<u8>, String> {
        if let Some(cut) = seen.body.cut() {
            return Err(cut.to_owned());
        }
        let lines = |lines: &HeaderMap| -> Vec<(Bytes, Bytes)> {
            let line = |(name, value): (&HeaderName, &HeaderValue)| {
                (Bytes::copy_from_slice(name.as_str().as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
            };
            lines.iter().map(line).collect()
        };
        let body = joined(seen.body.parts());
        let mut answer = Answer { status: seen.head.status.as_u16(), headers: lines(&seen.head.headers), body };
        if let Some(redact) = &self.config.redact {
            // What it leaves half done is seen by nobody: the answer is not kept.
            let redacted = catch_unwind(AssertUnwindSafe(|| redact(answer)));
            answer = redacted.map_err(|_| "redact panicked".to_owned())?;
            let length = answer.body.len().to_string();
            let declared =
                |(name, _): &&mut (Bytes, Bytes)| name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes());
            answer.headers.iter_mut().filter(declared).for_each(|(_, value)| *value = length.clone().into());
        }
        let trailers = seen.trailers.as_ref().map_or_else(Vec::new, lines);
        let stored =
            store_answer(answer, &trailers, self.config.store_set_cookie).map_err(|error| error.to_string())?;
        match stored.len() <= self.config.max_response_bytes {
            true => Ok(stored),
            false => Err(format!(
                "it has {} bytes, and max_response_bytes is {}",
                stored.len(),
                self.config.max_response_bytes
            )),
        }
    }
}

impl Seen {
    /// Another part of it; whether it completes the answer.
    fn add(&mut self, frame: &Frame<Bytes>) -> bool {
        match frame.data_ref() {
            Some(data) => self.body.add(data.clone(), data.len()),
            None => true,
        }
    }
}

/// Most bodies come in one part, which is not copied.
fn joined(parts: &[Bytes]) -> Bytes {
    match parts {
        [one] => one.clone(),
        parts => parts.concat().into(),
    }
}

/// Who receives an answer.
struct Client<'a, E> {
    parts: &'a mpsc::Sender<Part<E>>,
    /// Once it has left: when nobody waits for the answer any more.
    until: Option<Instant>,
}

impl<E> Client<'_, E> {
    /// Sends a part, where somebody is there.
    async fn send(&mut self, frame: Frame<Bytes>, grace: std::time::Duration) {
        if self.until.is_none() && self.parts.send(Part::Frame(frame)).await.is_err() {
            self.until = Some(Instant::now() + grace);
        }
    }

    /// What comes next of an answer, while its client is there and for a grace afterwards.
    async fn while_there<T>(
        &mut self,
        next: impl Future<Output = T>,
        grace: std::time::Duration,
    ) -> Result<T, tokio::time::error::Elapsed> {
        let mut next = std::pin::pin!(next);
        let until = match self.until {
            Some(until) => until,
            None => {
                tokio::select! {
                    biased;
                    next = next.as_mut() => return Ok(next),
                    () = self.parts.closed() => {}
                }
                *self.until.insert(Instant::now() + grace)
            }
        };
        timeout_at(until, next).await
    }
}
