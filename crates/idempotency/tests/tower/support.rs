//! Servers, clients, handlers that wait for their test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use idempotency::stores::MemoryStore;
use idempotency::tower::IdempotencyLayer;
use idempotency::{AfterCrash, Idempotency, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What must come, or the test fails.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// A layer on a store of its own.
pub fn layer() -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::new(MemoryStore::new()))
}

/// A layer whose crash policy and lease are told.
pub fn with(after_crash: AfterCrash, lease: Duration) -> IdempotencyLayer {
    layer().with_options(Options::new().after_crash(after_crash).lease(lease)).expect("these fit")
}

/// A server that ends with its test.
pub struct Server {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// One that somebody else ends.
    pub fn elsewhere(address: SocketAddr) -> Self {
        Self { address, task: tokio::spawn(async {}) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves a router with axum, on a free port.
pub async fn serve(app: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    Server { address, task: tokio::spawn(async { axum::serve(listener, app).await.expect("it serves") }) }
}

/// A whole answer, as its client has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn is_replay(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }

    /// The name of a refusal.
    pub fn refusal(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem document");
        problem["type"].as_str().expect("a type").rsplit(':').next().expect("a name").to_owned()
    }

    /// The answer without the mark and the length of a replay, and what changes by itself.
    pub fn plain(mut self) -> Self {
        for name in ["idempotent-replayed", "content-length", "date", "transfer-encoding"] {
            self.headers.remove(name);
        }
        self
    }

    pub async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = response.into_parts();
        let whole = body.collect().await.expect("a whole body");
        let trailers = whole.trailers().cloned();
        Self { status: head.status, headers: head.headers, body: whole.to_bytes(), trailers }
    }
}

/// A request with a key.
pub fn post(path: &str, key: &str) -> http::request::Builder {
    Request::post(path).header("host", "localhost").header("idempotency-key", key)
}

/// Sends a request on a connection of its own.
pub async fn send<B>(server: &Server, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<idempotency::tower::BoxError>,
{
    soon(async {
        let stream = TcpStream::connect(server.address).await.expect("it listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        let connection = tokio::spawn(connection);
        let answer = Answer::of(sender.send_request(request).await.expect("an answer")).await;
        connection.abort();
        answer
    })
    .await
}

/// A key's POST with a short body.
pub async fn pay(server: &Server, key: &str) -> Answer {
    send(server, post("/pay", key).body(Full::from("42 EUR")).expect("a request")).await
}

/// A client that writes its own bytes, and leaves when it likes.
pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(server: &Server) -> Self {
        Self(TcpStream::connect(server.address).await.expect("it listens"))
    }

    pub async fn write(&mut self, text: impl AsRef<[u8]>) {
        soon(self.0.write_all(text.as_ref())).await.expect("it is sent");
    }

    /// What `pay` sends.
    pub async fn pay(server: &Server, key: &str) -> Self {
        let mut client = Self::connect(server).await;
        let head = "POST /pay HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n";
        client.write(format!("{head}idempotency-key: {key}\r\n\r\n42 EUR")).await;
        client
    }

    /// Reads until so many bytes of what was read end in `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let mut seen = vec![];
        while !seen.ends_with(end.as_bytes()) {
            let byte = soon(self.0.read_u8()).await;
            seen.push(byte.unwrap_or_else(|_| panic!("it ends with {}", String::from_utf8_lossy(&seen))));
        }
        String::from_utf8(seen).expect("a text")
    }

    /// Reads all there is; an error of the connection is its end.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut seen = vec![];
        drop(soon(self.0.read_to_end(&mut seen)).await);
        seen
    }

    /// Says that nothing more comes.
    pub async fn end(&mut self) {
        soon(self.0.shutdown()).await.expect("it is said");
    }

    /// Leaves without a farewell.
    pub fn leave(self) {
        self.0.set_zero_linger().expect("a socket");
    }
}

/// Handlers that say when they begin, and wait until they are let go.
#[derive(Clone)]
pub struct Gate {
    begun: mpsc::UnboundedSender<()>,
    open: Arc<Semaphore>,
    runs: Arc<AtomicUsize>,
}

/// What a test sees of a gate.
pub struct Keeper {
    begun: mpsc::UnboundedReceiver<()>,
    open: Arc<Semaphore>,
    runs: Arc<AtomicUsize>,
}

/// A gate, and who opens it.
pub fn gate() -> (Gate, Keeper) {
    let (begun, seen) = mpsc::unbounded_channel();
    let (open, runs) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    (Gate { begun, open: open.clone(), runs: runs.clone() }, Keeper { begun: seen, open, runs })
}

impl Gate {
    /// Says that a run has come here; its number.
    pub fn arrive(&self) -> usize {
        drop(self.begun.send(()));
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Waits until it is let go.
    pub async fn wait(&self) {
        self.open.acquire().await.expect("it opens").forget();
    }

    /// Arrives and waits; the number of the run.
    pub async fn pass(&self) -> usize {
        let run = self.arrive();
        self.wait().await;
        run
    }
}

impl Keeper {
    /// Returns when somebody has come.
    pub async fn arrived(&mut self) {
        soon(self.begun.recv()).await.expect("somebody comes");
    }

    /// Lets so many go on.
    pub fn open(&self, many: usize) {
        self.open.add_permits(many);
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Tells when a future of a server is dropped before its end, as when its client has left.
pub struct Dropped(pub mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        drop(self.0.send(()));
    }
}

/// Wraps an application: whoever waits at the receiver learns that a request's future is gone.
pub fn watched(app: Router) -> (Router, mpsc::UnboundedReceiver<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let watch = axum::middleware::from_fn(move |request: axum::extract::Request, next: axum::middleware::Next| {
        let dropped = Dropped(sender.clone());
        async move {
            let response = next.run(request).await;
            drop(dropped);
            response
        }
    });
    (app.layer(watch), receiver)
}

/// A body of these parts, whose length nobody knows.
pub fn parts(parts: &[&'static str]) -> Body {
    let parts: Vec<_> =
        parts.iter().map(|part| Ok::<_, std::convert::Infallible>(Bytes::from_static(part.as_bytes()))).collect();
    Body::from_stream(futures_util::stream::iter(parts))
}
