//! [`IdempotencyLayer`]: the options.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{AUTHORIZATION, HeaderName};
use ::http::request::Parts;
use ::http::{HeaderMap, Method, StatusCode, Uri};
use bytes::Bytes;

use super::grpc::GrpcStreams;
use super::running::Tracker;
use crate::engine::{Idempotency, Options, OptionsError};
use crate::http::{Answer, METHODS, SAFE_METHODS, authorization_caller};
use crate::key::KeyFormat;

/// What a service answered, as [`IdempotencyLayer::settle`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outcome<'a> {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What came after the body, if anything did.
    pub trailers: Option<&'a HeaderMap>,
}

/// What becomes of a key, as [`IdempotencyLayer::settle`] decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settle {
    /// The answer is stored, and every repeat gets it.
    Store,
    /// Nothing was done: the key is free, and a repeat runs.
    Release,
    /// Nobody knows what was done: as after a crash.
    Hold,
}

/// Options of a layer that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A method that changes nothing.
    #[error("a {0} request changes nothing, and is never protected; leave it out of methods")]
    SafeMethod(Method),
    /// No method at all.
    #[error("methods is empty, and would protect nothing; name the methods, like [Method::POST, Method::PUT]")]
    NoMethod,
    /// Documentation that is not at an absolute URL.
    #[error(
        "problem_docs must be the absolute URL of your documentation, like https://docs.example.com/errors#, not {0:?}"
    )]
    ProblemDocs(String),
    /// No request could ever run.
    #[error("max_in_flight must be 1 or more")]
    MaxInFlight,
}

/// A year: moments that are further away than any clock tells can't be waited for.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

type AskedOfBody = Arc<dyn Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync>;
type Asked<T> = Arc<dyn Fn(&Parts) -> T + Send + Sync>;

#[derive(Clone)]
pub(super) enum ScopeBy {
    /// Nothing says it: a request that names a caller is refused.
    Nothing,
    Shared,
    Asked(Asked<Option<String>>),
}

#[derive(Clone)]
pub(super) enum FingerprintBy {
    Bytes,
    Json,
    Asked(AskedOfBody),
}

type SettleBy = Arc<dyn Fn(&Outcome<'_>) -> Option<Settle> + Send + Sync>;
type RedactBy = Arc<dyn Fn(Answer<Bytes>) -> Answer<Bytes> + Send + Sync>;

/// The options of a layer.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) idempotency: Idempotency,
    pub(super) namespace: Arc<str>,
    pub(super) required: bool,
    pub(super) methods: Vec<Method>,
    pub(super) key_header: HeaderName,
    pub(super) key_format: KeyFormat,
    pub(super) scope: ScopeBy,
    pub(super) name: Option<Asked<Option<String>>>,
    pub(super) fingerprint: FingerprintBy,
    pub(super) settle: Option<SettleBy>,
    pub(super) redact: Option<RedactBy>,
    pub(super) retry_after: Duration,
    pub(super) disconnect_grace: Option<Duration>,
    pub(super) max_request_bytes: usize,
    pub(super) max_response_bytes: usize,
    pub(super) max_in_flight: Option<usize>,
    pub(super) store_set_cookie: bool,
    pub(super) problem_docs: Option<Arc<str>>,
    pub(super) grpc_streams: GrpcStreams,
    pub(super) inline: bool,
}

/// Protects the requests of an HTTP service: [the module](super) says what it does.
///
/// Each method takes the layer and returns it. Clones share the engine, the count of running requests and
/// [`drain`](Self::drain).
///
/// ```
/// use std::time::Duration;
/// use idempotency::{Idempotency, stores::MemoryStore, tower::IdempotencyLayer};
///
/// #[derive(Clone)]
/// struct User { id: u64 } // left in the extensions by authentication
///
/// let layer = IdempotencyLayer::new(Idempotency::new(MemoryStore::new()))
///     .scope(|parts| parts.extensions.get::<User>().map(|user| user.id))
///     .retry_after(Duration::from_secs(2));
/// let orders = layer.clone().required(true); // for a route of its own
/// ```
#[derive(Clone)]
pub struct IdempotencyLayer {
    pub(super) config: Arc<Config>,
    pub(super) tracker: Arc<Tracker>,
}

impl std::fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Config { idempotency, required, methods, key_header, .. } = &*self.config;
        f.debug_struct("IdempotencyLayer")
            .field("idempotency", idempotency)
            .field("required", required)
            .field("methods", methods)
            .field("key_header", key_header)
            .finish_non_exhaustive()
    }
}

impl IdempotencyLayer {
    /// A layer over an engine, whose options are `ttl`, `lease`, `wait`, `run_limit` and `after_crash`.
    pub fn new(idempotency: Idempotency) -> Self {
        let methods = METHODS.iter().filter_map(|method| method.parse().ok()).collect();
        let config = Config {
            idempotency,
            namespace: "".into(),
            required: false,
            methods,
            key_header: HeaderName::from_static("idempotency-key"),
            key_format: KeyFormat::Lenient,
            scope: ScopeBy::Nothing,
            name: None,
            fingerprint: FingerprintBy::Bytes,
            settle: None,
            redact: None,
            retry_after: Duration::from_secs(1),
            disconnect_grace: None,
            max_request_bytes: 10 * 1024 * 1024,
            max_response_bytes: 1024 * 1024,
            max_in_flight: None,
            store_set_cookie: false,
            problem_docs: None,
            grpc_streams: GrpcStreams::Refuse,
            inline: false,
        };
        Self { config: Arc::new(config), tracker: Arc::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// The engine's options for this layer, as for one route: `ttl`, `lease`, `wait`, `run_limit` and `after_crash`.
    ///
    /// # Errors
    ///
    /// Where they contradict each other.
    pub fn with_options(self, options: Options) -> Result<Self, OptionsError> {
        let idempotency = self.config.idempotency.with_options(options)?;
        Ok(self.with(|config| config.idempotency = idempotency))
    }

    /// Keeps applications apart that share a store. By default it is empty.
    pub fn namespace(self, namespace: impl Into<Arc<str>>) -> Self {
        self.with(|config| config.namespace = namespace.into())
    }

    /// Whether a request without a key is refused. By default it passes unprotected.
    pub fn required(self, required: bool) -> Self {
        self.with(|config| config.required = required)
    }

    /// The methods that are protected: by default POST and PATCH.
    ///
    /// # Errors
    ///
    /// For none, and for GET, HEAD, OPTIONS and TRACE, which change nothing.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Result<Self, LayerError> {
        let methods: Vec<Method> = methods.into_iter().collect();
        match methods.iter().find(|method| SAFE_METHODS.contains(&method.as_str())) {
            Some(safe) => Err(LayerError::SafeMethod(safe.clone())),
            None if methods.is_empty() => Err(LayerError::NoMethod),
            None => Ok(self.with(|config| config.methods = methods)),
        }
    }

    /// The header that the key is in: by default `Idempotency-Key`.
    pub fn key_header(self, name: HeaderName) -> Self {
        self.with(|config| config.key_header = name)
    }

    /// How the key may be written: by default bare or quoted.
    pub fn key_format(self, format: KeyFormat) -> Self {
        self.with(|config| config.key_format = format)
    }

    /// Who calls, by the request without its body: a name or a number of a user, an account, an API key. `None` refuses
    /// the request, as one whose caller nobody can name. See [`by_authorization`] for static API keys, and
    /// [`shared`](Self::shared) for callers that share their answers.
    pub fn scope<C: ToString>(self, scope: impl Fn(&Parts) -> Option<C> + Send + Sync + 'static) -> Self {
        let asked = move |parts: &Parts| scope(parts).map(|caller| caller.to_string());
        self.with(|config| config.scope = ScopeBy::Asked(Arc::new(asked)))
    }

    /// Callers share their keys: whoever sends a key gets its answer.
    pub fn shared(self) -> Self {
        self.with(|config| config.scope = ScopeBy::Shared)
    }

    /// The operation's name by the request without its body, instead of method and path. `None`: method and path.
    /// With axum, `matched_path` names it by its route.
    pub fn name(self, name: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.name = Some(Arc::new(name)))
    }

    /// What tells two requests apart, instead of method, path, query, content type and body.
    pub fn fingerprint(self, fingerprint: impl Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.with(|config| config.fingerprint = FingerprintBy::Asked(Arc::new(fingerprint)))
    }

    /// JSON bodies are compared by what they say (RFC 8785), not byte for byte.
    pub fn json_body(self) -> Self {
        self.with(|config| config.fingerprint = FingerprintBy::Json)
    }

    /// What becomes of the key after a whole answer. `None`: as the table of [the module](super) has it.
    pub fn settle(self, settle: impl Fn(&Outcome<'_>) -> Option<Settle> + Send + Sync + 'static) -> Self {
        self.with(|config| config.settle = Some(Arc::new(settle)))
    }

    /// What is stored in the place of an answer: its parts that no repeat needs are left out. The first caller gets the
    /// whole answer, and a repeat what is left; nothing brings the rest back. `content-length` follows the body. If it
    /// panics, the answer is not kept, and a repeat is told so (410).
    ///
    /// ```
    /// # use idempotency::{Idempotency, stores::MemoryStore, tower::IdempotencyLayer};
    /// let layer = IdempotencyLayer::new(Idempotency::new(MemoryStore::new())).redact(|mut answer| {
    ///     answer.headers.retain(|(name, _)| name != "x-session");
    ///     answer
    /// });
    /// ```
    pub fn redact(self, redact: impl Fn(Answer<Bytes>) -> Answer<Bytes> + Send + Sync + 'static) -> Self {
        self.with(|config| config.redact = Some(Arc::new(redact)))
    }

    /// The longest `Retry-After` of a repeat while the first request still runs: by default a second.
    pub fn retry_after(self, most: Duration) -> Self {
        self.with(|config| config.retry_after = most)
    }

    /// How long an answer that streams is still read after its client has left, so that a repeat finds it: by default
    /// the lease. An answer that is cut off is held.
    pub fn disconnect_grace(self, grace: Duration) -> Self {
        self.with(|config| config.disconnect_grace = Some(grace.min(LONGEST)))
    }

    /// A request with more bytes is refused with 413: by default 10 MiB.
    pub fn max_request_bytes(self, most: usize) -> Self {
        self.with(|config| config.max_request_bytes = most)
    }

    /// An answer with more bytes passes and is not kept, and a repeat gets 410: by default 1 MiB.
    pub fn max_response_bytes(self, most: usize) -> Self {
        self.with(|config| config.max_response_bytes = most)
    }

    /// How many protected requests run at once; those beyond it get 503 with a `Retry-After`, and leave their key free.
    /// By default there is no limit. Clones share the count.
    ///
    /// # Errors
    ///
    /// For 0.
    pub fn max_in_flight(self, most: usize) -> Result<Self, LayerError> {
        if most == 0 {
            return Err(LayerError::MaxInFlight);
        }
        Ok(self.with(|config| config.max_in_flight = Some(most)))
    }

    /// Whether `Set-Cookie` is stored and replayed. By default it is not.
    pub fn store_set_cookie(self, store: bool) -> Self {
        self.with(|config| config.store_set_cookie = store)
    }

    /// The URL of your documentation of the refusals: a problem's `type` is this and the refusal's name, and a `Link`
    /// header points there.
    ///
    /// # Errors
    ///
    /// For what is no absolute URL.
    pub fn problem_docs(self, url: impl Into<String>) -> Result<Self, LayerError> {
        let url = url.into();
        // A fragment is no part of what is parsed. All of it goes between angle brackets into a header.
        let is_absolute =
            url.split('#').next().unwrap_or_default().parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some());
        if !is_absolute || !url.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte)) {
            return Err(LayerError::ProblemDocs(url));
        }
        Ok(self.with(|config| config.problem_docs = Some(url.into())))
    }

    /// What becomes of a gRPC request with more than one message. By default it is refused.
    pub fn grpc_streams(self, streams: GrpcStreams) -> Self {
        self.with(|config| config.grpc_streams = streams)
    }

    /// The service runs in the caller's task instead of one of its own, for services that need its task-locals. A
    /// client that leaves then ends it half-way: its key is held until the lease has ended, and the crash policy
    /// decides.
    pub fn inline(self) -> Self {
        self.with(|config| config.inline = true)
    }

    /// For a graceful shutdown, after the server has stopped to take requests: waits until every protected request has
    /// ended and its end is in the store, or for `limit`; whether all have.
    pub async fn drain(&self, limit: Duration) -> bool {
        let end = tokio::time::Instant::now() + limit.min(LONGEST);
        let are_done = tokio::time::timeout_at(end, self.tracker.idle()).await.is_ok();
        let is_sent = self.config.idempotency.drain(end.saturating_duration_since(tokio::time::Instant::now())).await;
        are_done && is_sent
    }
}

/// For [`IdempotencyLayer::scope`]: callers are told apart by a digest of their `Authorization` header. Only for static
/// API keys: with a token that is refreshed, the repeat would be another caller's.
///
/// ```
/// # use idempotency::{Idempotency, stores::MemoryStore, tower::{IdempotencyLayer, by_authorization}};
/// let layer = IdempotencyLayer::new(Idempotency::new(MemoryStore::new())).scope(by_authorization);
/// ```
pub fn by_authorization(parts: &Parts) -> Option<String> {
    let header = parts.headers.get(AUTHORIZATION)?;
    let text: String = header.as_bytes().iter().copied().map(char::from).collect();
    Some(authorization_caller(&text))
}
