//! The same test on every store.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use idempotency::decide::Claim;
use idempotency::engine::{Attempt, Begun, Call, Verdict};
use idempotency::store::Claimed;
use idempotency::stores::{MemoryStore, PostgresStore, RedisOptions, RedisStore, SqliteStore};
use idempotency::{AfterCrash, Fingerprint, Idempotency, Options, Record, State, StorageKey, Store, Token};

pub const LEASE: Duration = Duration::from_millis(200);

/// One place where records live, to which any number of processes could hold a handle.
pub enum Place {
    Memory(Arc<MemoryStore>),
    Sqlite(tempfile::TempDir),
    Redis(super::Redis),
    /// By the URL of a schema of its own, on the server that the tests share.
    Postgres(String),
}

impl Place {
    pub fn memory() -> Self {
        Self::Memory(Arc::new(MemoryStore::new()))
    }

    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn redis() -> Self {
        Self::Redis(super::Redis::start(&[]))
    }

    pub fn postgres() -> Self {
        let server = super::postgres::Postgres::shared();
        Self::Postgres(server.url(&server.schema()))
    }

    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Sqlite(folder) => Arc::new(SqliteStore::open(folder.path().join("i.db"))),
            Self::Redis(server) => Arc::new(RedisStore::open(&server.url()).unwrap()),
            Self::Postgres(url) => Arc::new(PostgresStore::open(url).unwrap()),
        }
    }

    /// An engine with a store handle of its own, as in another process.
    pub fn engine(&self) -> Idempotency {
        Idempotency::new(self.store()).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
    }
}

/// An engine with one option changed.
pub trait Tuned: Sized {
    fn tuned(self, change: impl FnOnce(Options) -> Options) -> Self;

    fn ttl(self, ttl: Duration) -> Self {
        self.tuned(|options| options.ttl(ttl))
    }
    fn lease(self, lease: Duration) -> Self {
        self.tuned(|options| options.lease(lease))
    }
    fn wait(self, wait: Duration) -> Self {
        self.tuned(|options| options.wait(wait))
    }
    fn run_limit(self, run_limit: Duration) -> Self {
        self.tuned(|options| options.run_limit(run_limit))
    }
    fn after_crash(self, after_crash: AfterCrash) -> Self {
        self.tuned(|options| options.after_crash(after_crash))
    }
}

impl Tuned for Idempotency {
    fn tuned(self, change: impl FnOnce(Options) -> Options) -> Self {
        self.with_options(change(self.options())).unwrap()
    }
}

/// Every test once per store.
macro_rules! on_every_store {
    ($($name:ident)*) => {
        on_every_store! { @ memory Place::memory(), $($name)* }
        on_every_store! { @ sqlite Place::sqlite(), $($name)* }
        on_every_store! { @ redis Place::redis(), $($name)* }
        on_every_store! { @ postgres Place::postgres(), $($name)* }
    };
    (@ $store:ident $place:expr, $($name:ident)*) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let test = super::$name($place);
                    tokio::time::timeout(Duration::from_secs(30), test).await.expect("it ends in bounded time");
                }
            )*
        }
    };
}
pub(crate) use on_every_store;

pub const KEY: StorageKey = StorageKey([1; 32]);

/// What claims [`KEY`] below the engine.
pub fn attempt() -> Record {
    Record {
        state: State::InFlight,
        after_crash: AfterCrash::Rerun,
        token: Token::random(),
        fence: 0,
        lease: 10_000_000,
        ttl: 60_000_000,
        fingerprint: Fingerprint([0; 32]),
        label: "test".into(),
        result: [].into(),
    }
}

/// Claims [`KEY`]; its fence.
pub async fn claimed(store: &impl Store, record: &Record, takes_over: Option<Record>) -> u64 {
    match store.claim(&KEY, &Claim { record: record.clone(), takes_over }).await.unwrap() {
        Claimed::Yes { fence } => fence,
        Claimed::No { held, .. } => panic!("{held:?}"),
    }
}

pub fn call(key: u8) -> Call {
    paying(key, 0)
}

pub fn paying(key: u8, payload: u8) -> Call {
    Call { key: StorageKey([key; 32]), fingerprint: Fingerprint([payload; 32]), label: "test".into() }
}

pub async fn begun(engine: &Idempotency, call: &Call) -> Attempt {
    match engine.begin(call).await.unwrap() {
        Begun::Run(attempt) => attempt,
        other => panic!("the key is free, but: {other:?}"),
    }
}

/// Begins until it may run, for at most two seconds.
pub async fn begun_soon(engine: &Idempotency, call: &Call) -> Attempt {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match engine.begin(call).await.unwrap() {
            Begun::Run(attempt) => return attempt,
            other => assert!(Instant::now() < deadline, "the key does not come free: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn complete(result: &str) -> Verdict {
    Verdict::Complete(result.as_bytes().into())
}

pub async fn replayed(engine: &Idempotency, call: &Call) -> String {
    match engine.begin(call).await.unwrap() {
        Begun::Replay(result) => String::from_utf8(result.to_vec()).unwrap(),
        other => panic!("a result is stored, but: {other:?}"),
    }
}

/// Polls once and drops, as a caller does that is cancelled.
pub fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

pub async fn drained(engine: &Idempotency) {
    assert!(engine.drain(Duration::from_secs(5)).await, "the background ends");
}

/// How long a Redis operation may take where a test makes it fail.
pub const LIMIT: Duration = Duration::from_millis(300);

pub fn redis_store(url: &str) -> RedisStore {
    RedisStore::with_options(RedisOptions { time_limit: LIMIT, ..RedisOptions::from_url(url).unwrap() }).unwrap()
}

pub fn redis_engine(url: &str) -> Idempotency {
    Idempotency::new(redis_store(url)).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
}
