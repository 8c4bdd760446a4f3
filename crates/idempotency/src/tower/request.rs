//! [`Protected`]: a request from its key to its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use ::http::request::Parts;
use ::http::{HeaderMap, Request, Response};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError};
use tower_service::Service;
use tracing::Instrument as _;

use super::answer::{Ending, Refused};
use super::attempt::Attempt;
use super::body::{BoxError, RequestBody, ResponseBody};
use super::future::Answered;
use super::grpc::{self, GrpcStreams};
use super::layer::{Config, FingerprintBy, ScopeBy};
use super::path::path_of;
use super::running::Tracker;
use crate::decide::Start;
use crate::engine::{self, Begun, Call};
use crate::fingerprint::{Digest, Fingerprint};
use crate::http::{
    Note, POSSIBLE_CALLERS, Problem, Refusal, RequestFacts, canonical_json, declared_length, names_caller,
};
use crate::key::{Key, Operation, Scope};

/// A request under a layer.
pub(super) struct Protected<S> {
    pub(super) inner: S,
    pub(super) under: Under,
}

/// What a request is under.
#[derive(Clone)]
pub(super) struct Under {
    pub(super) config: Arc<Config>,
    pub(super) tracker: Arc<Tracker>,
}

/// A request that was read.
struct Read {
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// Why a body was not read to its end.
enum Unread<B> {
    Refused(Box<Problem>),
    /// It is a stream of gRPC's: what was read of it, and the rest.
    Stream(Bytes, Pin<Box<B>>),
}

/// Who calls; `None`: nobody in particular.
type Caller = Option<Arc<[u8]>>;

fn refusal(refusal: Refusal) -> Box<Problem> {
    Box::new(refusal.into())
}

/// What the request's claim came to.
enum Claimed {
    Run(engine::Attempt),
    Replay(Arc<[u8]>),
}

impl<S> Protected<S> {
    /// Serves a request that is protected.
    pub(super) async fn serve<B, R>(self, request: Request<B>) -> Answered<R, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let Self { mut inner, under } = self;
        let (mut parts, body) = request.into_parts();
        let refused = Refused::new(&parts, &under.config);
        let (key, caller) = match under.asked(&parts) {
            Ok(asked) => asked,
            Err(problem) => return Ok(refused.answer(&problem)),
        };
        let read = match under.read(&parts.headers, body).await {
            Ok(read) => read,
            Err(Unread::Refused(problem)) => return Ok(refused.answer(&problem)),
            Err(Unread::Stream(begun, rest)) if under.config.grpc_streams == GrpcStreams::Pass => {
                let request = Request::from_parts(parts, RequestBody::begun(begun, rest));
                return Ok(inner.call(request).await?.map(ResponseBody::passed));
            }
            Err(Unread::Stream(..)) => return Ok(refused.answer(&Refusal::STREAM.into())),
        };
        let call = under.call(&parts, &key, caller.as_deref(), &read.body);
        let attempt = match under.claim(&call).await {
            Ok(Claimed::Run(attempt)) => attempt,
            Ok(Claimed::Replay(stored)) => return Ok(refused.replay(&stored)),
            Err(problem) => return Ok(refused.answer(&problem)),
        };
        let Some(running) = under.tracker.enter(under.config.max_in_flight) else {
            attempt.settle(engine::Verdict::Release).await;
            let problem = Problem { retry_after: Some(under.config.retry_after), ..Refusal::OVERLOADED.into() };
            return Ok(refused.answer(&problem));
        };
        let current = Attempt::new(attempt.current(), key, caller, under.config.clone());
        parts.extensions.insert(current.clone());
        let is_inline = under.config.inline;
        let ending = Ending { config: under.config, attempt, current, refused, running };
        let request = Request::from_parts(parts, RequestBody::whole(read.body, read.trailers));
        // In a box: a task moves what it runs, and what that has come to, several times.
        let run = Box::pin(ending.run(inner, request));
        if is_inline {
            return run.await;
        }
        match tokio::spawn(run.in_current_span()).await {
            Ok(answer) => answer,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Its runtime shuts down, and this task is about to be dropped with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Under {
    /// The key, and who calls.
    fn asked(&self, parts: &Parts) -> Result<(Key, Caller), Box<Problem>> {
        let config = &self.config;
        let lines: Vec<&[u8]> = parts.headers.get_all(&config.key_header).iter().map(|line| line.as_bytes()).collect();
        if lines.is_empty() {
            return Err(refusal(Refusal::KEY_MISSING));
        }
        let key = config
            .key_format
            .parse(&lines)
            .map_err(|error| Box::new(Problem { detail: error.to_string(), ..Refusal::KEY_INVALID.into() }))?;
        let caller = match &config.scope {
            ScopeBy::Shared => None,
            ScopeBy::Asked(scope) => Some(scope(parts).ok_or_else(|| self.unnamed(parts))?.into_bytes().into()),
            ScopeBy::Nothing => self.anonymous(parts)?,
        };
        Ok((key, caller))
    }

    fn unnamed(&self, parts: &Parts) -> Box<Problem> {
        if self.tracker.may_say() {
            tracing::error!(
                "{} {}: scope named no caller for a request with an Idempotency-Key; nothing runs. Return a name for \
                 every request that is protected, or use .shared() if callers share answers",
                parts.method,
                path_of(parts)
            );
        }
        refusal(Refusal::SCOPE_MISSING)
    }

    /// Nobody, where nobody claims to be somebody.
    fn anonymous(&self, parts: &Parts) -> Result<Caller, Box<Problem>> {
        let named = |is: &dyn Fn(&str) -> bool| {
            let names: Vec<&str> = parts.headers.keys().map(|name| name.as_str()).filter(|name| is(name)).collect();
            names.join(", ")
        };
        let certain = named(&|name| names_caller(name.as_bytes()));
        if !certain.is_empty() {
            if self.tracker.may_say() {
                tracing::error!(
                    "{} {}: a request names a caller in its headers ({certain}), and nothing says whose its \
                     Idempotency-Key is; nothing runs. Give the layer .scope(…), .scope(by_authorization) for static \
                     API keys, or .shared() if callers share answers",
                    parts.method,
                    path_of(parts)
                );
            }
            let detail = format!("{} The request names one in: {certain}.", Refusal::SCOPE_MISSING.detail);
            return Err(Box::new(Problem { detail, ..Refusal::SCOPE_MISSING.into() }));
        }
        let possible = named(&|name| POSSIBLE_CALLERS.contains(&name));
        if !possible.is_empty() && self.tracker.is_first_warning() {
            tracing::warn!(
                "{} {}: requests with different values of {possible} share their keys; if it names the caller, give \
                 the layer .scope(…)",
                parts.method,
                path_of(parts)
            );
        }
        Ok(None)
    }

    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Read, Unread<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let limit = self.config.max_request_bytes;
        let too_large = || Unread::Refused(Box::new(Problem::payload_too_large(limit as u64)));
        let declared = headers.get(CONTENT_LENGTH).and_then(|length| declared_length(length.as_bytes()));
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let is_grpc = grpc::is_grpc(headers);
        let (mut seen, mut trailers) = (BytesMut::new(), None);
        let mut first = Bytes::new();
        let mut body = Box::pin(body);
        while let Some(frame) = body.as_mut().frame().await {
            match frame.map_err(|error| unread(error.into()))?.into_data() {
                // Most bodies come in one part, which is not copied.
                Ok(data) if first.is_empty() && seen.is_empty() => first = data,
                Ok(data) => {
                    seen.extend_from_slice(&std::mem::take(&mut first));
                    seen.extend_from_slice(&data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            let so_far = if seen.is_empty() { &first[..] } else { &seen[..] };
            if so_far.len() > limit {
                return Err(too_large());
            }
            if is_grpc && grpc::has_second_message(so_far) {
                let read = if seen.is_empty() { first } else { seen.freeze() };
                return Err(Unread::Stream(read, body));
            }
        }
        Ok(Read { body: if seen.is_empty() { first } else { seen.freeze() }, trailers })
    }

    fn call(&self, parts: &Parts, key: &Key, caller: Option<&[u8]>, body: &Bytes) -> Call {
        let (method, path) = (parts.method.as_str(), path_of(parts).as_bytes());
        let name = self.config.name.as_ref().and_then(|name| name(parts));
        let operation = match &name {
            Some(name) => Operation::Call(name),
            None => Operation::Http { method, path },
        };
        let scope = Scope { namespace: &self.config.namespace, operation, caller };
        Call::new(&scope, key, self.fingerprint(parts, path, body))
    }

    fn fingerprint(&self, parts: &Parts, path: &[u8], body: &Bytes) -> Fingerprint {
        let content_type = parts.headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
        let canonical = match &self.config.fingerprint {
            FingerprintBy::Asked(fingerprint) => {
                let said = fingerprint(parts, body);
                return Fingerprint(Digest::new("idempotency fingerprint of a layer 1").part(&said).finish());
            }
            FingerprintBy::Json => canonical_json(content_type, body),
            FingerprintBy::Bytes => None,
        };
        let (method, query) = (parts.method.as_str(), parts.uri.query().unwrap_or_default().as_bytes());
        let body = canonical.as_deref().unwrap_or(body);
        RequestFacts { method, path, query, content_type, body }.fingerprint()
    }

    /// Claims the key for work that begins at once.
    async fn claim(&self, call: &Call) -> Result<Claimed, Box<Problem>> {
        let idempotency = &self.config.idempotency;
        let mut begun = idempotency.begin(call).await;
        loop {
            match begun {
                Ok(Begun::Run(mut attempt)) => match attempt.start() {
                    Start::Now => return Ok(Claimed::Run(attempt)),
                    // This process stood still for longer than the lease.
                    Start::AfterRenewal => begun = idempotency.begin_again(call, attempt).await,
                },
                Ok(Begun::Replay(stored)) => return Ok(Claimed::Replay(stored)),
                Ok(Begun::Mismatch) => return Err(refusal(Refusal::CONFLICT)),
                Ok(Begun::Unknown) => return Err(refusal(Refusal::UNKNOWN)),
                Ok(Begun::InFlight { lease_left }) => {
                    return Err(Box::new(Problem::processing(lease_left, self.config.retry_after)));
                }
                Ok(Begun::NotKept(note)) => {
                    return Err(Box::new(Problem::not_kept(&Note::decode(&note).unwrap_or_default())));
                }
                Err(error) => {
                    if self.tracker.may_say() {
                        tracing::error!("{} runs nothing: {error}", call.label.operation());
                    }
                    let retry_after = error.is_passing().then_some(Duration::from_secs(1));
                    return Err(Box::new(Problem::store_unavailable(retry_after)));
                }
            }
        }
    }
}

/// A limit that a layer further out has set is met while the body is read; how much it is, nothing says.
fn unread<B>(error: BoxError) -> Unread<B> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Unread::Refused(refusal(Refusal::PAYLOAD_TOO_LARGE));
        }
        cause = error.source();
    }
    tracing::debug!("the body of a request broke off: {error}");
    Unread::Refused(refusal(Refusal::BODY_BROKEN))
}
