//! What the handler of a Rust application of the conformance suite does, and the options of its paths. README.md says it
//! in words.

use std::env;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Channel, Full};
use idempotency::tower::IdempotencyLayer;
use idempotency::{AfterCrash, Idempotency, KeyFormat, Options, stores};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The body of every answer.
pub type Answered = UnsyncBoxBody<Bytes, io::Error>;

/// How long a handler waits at its gate, and a server for its handlers.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// The port on which the application listens: its first argument.
pub fn port() -> u16 {
    env::args().nth(1).and_then(|port| port.parse().ok()).expect("the port is the first argument")
}

/// The options of the paths, by what they begin with; the last one is every other path's. `None`: not protected.
pub fn layers() -> Vec<(&'static str, Option<IdempotencyLayer>)> {
    let store = stores::open(&env::var("STORE").expect("STORE is the URL of the store")).expect("it is one");
    let layer = IdempotencyLayer::new(Idempotency::new(store))
        .methods([Method::POST, Method::PATCH])
        .expect("these are protected");
    let with = |options: Options| layer.clone().with_options(options).expect("these fit");
    let second = Duration::from_secs(1);
    let user = |parts: &http::request::Parts| Some(parts.headers.get("x-user")?.to_str().ok()?.to_owned());
    vec![
        ("/required/", Some(layer.clone().required(true))),
        ("/strict/", Some(layer.clone().key_format(KeyFormat::Strict))),
        ("/owned/", Some(layer.clone().scope(user))),
        ("/shared/", Some(layer.clone().shared())),
        ("/brief/", Some(with(Options::new().ttl(second).lease(second)))),
        ("/short/", Some(with(Options::new().lease(second)))),
        ("/refuse/", Some(with(Options::new().lease(second).after_crash(AfterCrash::Refuse)))),
        ("/waits/", Some(with(Options::new().wait(20 * second)))),
        ("/small/", Some(layer.clone().max_request_bytes(1000).max_response_bytes(1000))),
        ("/large/", Some(layer.clone().max_response_bytes(8 << 20))),
        ("/left-out/", None),
        ("", Some(layer)),
    ]
}

/// Returns when the process is asked to end.
pub async fn terminated() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a signal");
    terminate.recv().await;
}

/// One run.
struct Run {
    folder: PathBuf,
    name: String,
    does: Value,
}

impl Run {
    fn new(headers: &HeaderMap) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let does = Some(header("x-do")).filter(|does| !does.is_empty()).unwrap_or("{}");
        Self {
            folder: env::var_os("RUNS").expect("RUNS is a folder").into(),
            name: header("x-run").to_owned(),
            does: serde_json::from_str(does).expect("X-Do is JSON"),
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.does.get(name)?.as_u64()
    }

    /// How many runs of this name there are, with this one.
    fn count(&self) -> u64 {
        let book = self.folder.join("runs");
        // Whole lines, from any process.
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&book).expect("the book opens");
        file.write_all(format!("{}\n", self.name).as_bytes()).expect("a line is written");
        let lines = fs::read_to_string(book).expect("the book is read");
        lines.lines().filter(|line| *line == self.name).count() as u64
    }

    async fn pass_gate(&self) {
        let file = |end: &str| self.folder.join(format!("{}.{end}", self.name));
        fs::write(file("begun"), b"").expect("the gate is told");
        let began = Instant::now();
        while !Path::new(&file("open")).exists() && began.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn has_gate(&self) -> bool {
        self.does.get("gate").and_then(Value::as_bool).unwrap_or_default()
    }
}

/// Text that is new for every call.
fn fresh() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let digest = Sha256::digest(format!("{} {:?} {count}", std::process::id(), Instant::now()));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Latin-1.
fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(letter).expect("Latin-1")).collect()
}

/// The one handler.
///
/// # Panics
///
/// Where `X-Do` says that the run fails.
pub async fn handle<B>(request: Request<B>) -> Response<Answered>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = request.into_parts();
    let run = Run::new(&parts.headers);
    let count = run.count();
    let stream = run.does.get("stream").cloned();
    if run.has_gate() && stream.is_none() {
        run.pass_gate().await;
    }
    let sent = body.collect().await.expect("the body is read").to_bytes();
    if count <= run.number("fail").unwrap_or_default() {
        let status = run.number("failing").expect("this run fails");
        let failed = Response::builder().status(status as u16).header(header::CONTENT_TYPE, "text/plain");
        return failed.body(full(b"this run fails".to_vec())).expect("an answer");
    }
    let mut headers = HeaderMap::new();
    for pair in run.does.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let text = |at: usize| pair[at].as_str().expect("a pair of texts");
        let value = HeaderValue::from_bytes(&bytes_of(text(1))).expect("a value");
        headers.append(text(0).parse::<header::HeaderName>().expect("a name"), value);
    }
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
    let body = match (&stream, run.does.get("body")) {
        (Some(stream), _) => {
            let number = |name: &str| stream[name].as_u64().expect("chunks and size");
            let (chunks, size) = (number("chunks"), number("size") as usize);
            if stream.get("length").is_some() {
                headers.insert(header::CONTENT_LENGTH, (chunks * size as u64).into());
            }
            streamed(run.into(), chunks, size, stream.get("break").is_some())
        }
        (None, _) if run.does.get("echo").is_some() => {
            let digest: String = Sha256::digest(&sent).iter().map(|byte| format!("{byte:02x}")).collect();
            full(format!("{}:{digest}", sent.len()).into_bytes())
        }
        (None, Some(body)) => full(bytes_of(body.as_str().expect("a text"))),
        (None, None) => full(format!(r#"{{"run": "{}"}}"#, fresh()).into_bytes()),
    };
    let status = |does: &Value| does.get("status").and_then(Value::as_u64).unwrap_or(200) as u16;
    let does = serde_json::from_slice::<Value>(parts.headers.get("x-do").map_or(b"{}", |does| does.as_bytes()));
    let mut response = Response::new(body);
    *response.status_mut() = does.as_ref().map_or(200, status).try_into().expect("a status");
    *response.headers_mut() = headers;
    response
}

fn full(body: Vec<u8>) -> Answered {
    Full::from(body).map_err(|never| match never {}).boxed_unsync()
}

fn streamed(run: Arc<Run>, chunks: u64, size: usize, breaks: bool) -> Answered {
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    let chunk = move || Bytes::from(fresh().repeat(size / 32 + 1)[..size].to_owned());
    tokio::spawn(async move {
        sender.send_data(chunk()).await.ok()?;
        if breaks {
            sender.abort(io::Error::other("this stream breaks"));
            return None;
        }
        if run.has_gate() {
            run.pass_gate().await;
        }
        for _ in 1..chunks {
            sender.send_data(chunk()).await.ok()?;
        }
        Some(())
    });
    body.boxed_unsync()
}
