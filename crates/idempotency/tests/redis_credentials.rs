//! Logins that change while the store is used: users that the server forgets, and who gives them.

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Redis;
use common::place::{LIMIT, Tuned, begun, call, complete, replayed};
use idempotency::engine::{Call, Settled};
use idempotency::stores::{RedisCredentials, RedisLogin, RedisLoginReply, RedisOptions, RedisStore};
use idempotency::{Idempotency, StorageKey, StoreErrorKind};

/// Gives a new user of the server for each login, and takes it away when its time is over.
struct Expiring {
    server: Arc<Redis>,
    valid_for: Duration,
    given: AtomicUsize,
}

impl Expiring {
    fn at(server: &Arc<Redis>, valid_for: Duration) -> Arc<Self> {
        server.cli(&["ACL", "SETUSER", "default", ">root"]);
        Arc::new(Self { server: server.clone(), valid_for, given: AtomicUsize::default() })
    }
}

fn as_root(server: &Redis, args: &[&str]) -> String {
    server.cli(&[&["-a", "root", "--no-auth-warning"], args].concat())
}

impl RedisCredentials for Expiring {
    fn login(&self) -> RedisLoginReply<'_> {
        Box::pin(async {
            let user = format!("user{}", self.given.fetch_add(1, Ordering::SeqCst));
            as_root(
                &self.server,
                &["ACL", "SETUSER", &user, "on", &format!(">of {user}"), "~idem:*", "&idem:*", "+@all"],
            );
            let (server, valid_for) = (self.server.clone(), self.valid_for);
            let (name, password) = (user.clone(), format!("of {user}"));
            tokio::spawn(async move {
                tokio::time::sleep(valid_for).await;
                as_root(&server, &["ACL", "DELUSER", &name]); // closes its connections
            });
            Ok((RedisLogin { username: Some(user), password: Some(password) }, Some(self.valid_for)))
        })
    }
}

fn store(url: &str, credentials: Arc<dyn RedisCredentials>, time_limit: Duration) -> RedisStore {
    let options = RedisOptions::from_url(url).unwrap();
    RedisStore::with_options(RedisOptions { credentials: Some(credentials), time_limit, ..options }).unwrap()
}

fn engine(store: RedisStore) -> Idempotency {
    Idempotency::new(store).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_under_load_outlives_its_users() {
    let server = Arc::new(Redis::start(&[]));
    let expiring = Expiring::at(&server, Duration::from_secs(2));
    let engine = engine(store(&server.url(), expiring.clone(), Duration::from_secs(1)));
    let began = Instant::now();
    let work = (0..8).map(|worker| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut round = 0;
            while began.elapsed() < Duration::from_secs(5) {
                let mut key = [worker; 32];
                key[..8].copy_from_slice(&u64::to_be_bytes(round));
                let call = Call { key: StorageKey(key), ..call(worker) };
                assert_eq!(begun(&engine, &call).await.settle(complete("once")).await, Settled::Stored);
                assert_eq!(replayed(&engine, &call).await, "once");
                round += 1;
            }
        })
    });
    for work in work.collect::<Vec<_>>() {
        work.await.expect("no call fails");
    }
    assert!(expiring.given.load(Ordering::SeqCst) >= 3);
    let clients = as_root(&server, &["CLIENT", "LIST"]);
    let ours = clients.lines().find(|line| line.contains(" user=user")).expect("it is connected");
    let age = ours.split(" age=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(age.is_some_and(|age| age >= 4), "it is the first one still: {clients}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_has_a_login_of_its_own() {
    let server = Arc::new(Redis::start(&[]));
    let expiring = Expiring::at(&server, Duration::from_secs(60));
    let engine = engine(store(&server.url(), expiring.clone(), Duration::from_secs(1)));
    begun(&engine, &call(1)).await.settle(complete("before")).await;
    as_root(&server, &["ACL", "DELUSER", "user0"]); // its time was not over
    assert_eq!(replayed(&engine, &call(1)).await, "before");
    assert_eq!(expiring.given.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_log_in_too() {
    let server = Arc::new(Redis::start(&[]));
    let expiring = Expiring::at(&server, Duration::from_secs(60));
    let engine = engine(store(&server.url(), expiring.clone(), Duration::from_secs(1)));
    let attempt = begun(&engine, &call(1)).await;
    let waiter = engine.clone().wait(Duration::from_secs(5));
    let waiting = tokio::spawn(async move { replayed(&waiter, &call(1)).await });
    let deadline = Instant::now() + Duration::from_secs(5);
    while as_root(&server, &["PUBSUB", "CHANNELS"]).is_empty() {
        assert!(Instant::now() < deadline, "nobody subscribes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    attempt.settle(complete("led")).await;
    assert_eq!(waiting.await.unwrap(), "led");
}

type Said = Result<(RedisLogin, Option<Duration>), &'static str>;

/// Says what a test has prepared, after a pause.
struct Prepared {
    answers: Mutex<VecDeque<(Duration, Said)>>,
    asked: AtomicUsize,
}

impl Prepared {
    fn new(answers: impl IntoIterator<Item = (Duration, Said)>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), asked: AtomicUsize::default() })
    }
}

impl RedisCredentials for Prepared {
    fn login(&self) -> RedisLoginReply<'_> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let (pause, answer) = self.answers.lock().unwrap().pop_front().expect("it is prepared");
            tokio::time::sleep(pause).await;
            Ok(answer?)
        })
    }

    fn name(&self) -> String {
        "the vault".into()
    }
}

fn login(username: Option<&str>, password: &str) -> RedisLogin {
    RedisLogin { username: username.map(Into::into), password: Some(password.into()) }
}

fn right() -> (Duration, Said) {
    (Duration::ZERO, Ok((login(None, "right"), None)))
}

fn wrong() -> (Duration, Said) {
    (Duration::ZERO, Ok((login(None, "wrong"), None)))
}

#[tokio::test]
async fn who_gives_no_credentials_is_named_and_nothing_was_executed() {
    let server = Redis::start(&["--requirepass", "right"]);
    let vault = Prepared::new([(Duration::ZERO, Err("it is sealed")), (Duration::ZERO, Err("it is sealed")), right()]);
    let engine = engine(store(&server.url(), vault.clone(), LIMIT));
    let error = engine.begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotExecuted);
    assert_eq!(error.to_string(), "there are no credentials for the Redis server from the vault: it is sealed");
    begun(&engine, &call(1)).await;
}

#[tokio::test]
async fn credentials_that_come_late_fail_one_call_and_serve_the_next() {
    let server = Redis::start(&["--requirepass", "right"]);
    let vault = Prepared::new([(LIMIT * 2, right().1)]);
    let engine = engine(store(&server.url(), vault.clone(), LIMIT));
    let error = engine.begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotExecuted, "{error}");
    assert!(error.to_string().contains("from the vault: it gave none within 270ms"), "{error}");
    tokio::time::sleep(LIMIT * 2).await;
    begun(&engine, &call(1)).await;
    assert_eq!(vault.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_login_that_was_replaced_on_the_way_is_asked_for_again() {
    let server = Redis::start(&["--requirepass", "right"]);
    begun(&engine(store(&server.url(), Prepared::new([wrong(), right()]), LIMIT)), &call(1)).await;
}

#[tokio::test]
async fn a_login_that_is_refused_is_said_with_its_source() {
    let server = Redis::start(&["--requirepass", "right"]);
    let engine = engine(store(&server.url(), Prepared::new([wrong(), wrong(), wrong(), wrong()]), LIMIT));
    let error = engine.begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotExecuted, "another one may be right");
    assert!(error.to_string().contains("refused the credentials from the vault"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_connection_goes_on_with_what_it_has_while_there_is_nothing_better() {
    let server = Redis::start(&["--requirepass", "right"]);
    let soon = |login| (Duration::ZERO, Ok((login, Some(Duration::from_millis(100)))));
    let vault = Prepared::new([
        soon(login(None, "right")),
        (Duration::ZERO, Err("it is sealed")),
        soon(login(None, "wrong")),
        soon(login(Some("default"), "right")),
        right(),
    ]);
    let engine = engine(store(&server.url(), vault.clone(), LIMIT));
    begun(&engine, &call(1)).await.settle(complete("before")).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while vault.asked.load(Ordering::SeqCst) < 5 {
        assert!(Instant::now() < deadline, "nobody asks");
        assert_eq!(replayed(&engine, &call(1)).await, "before");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_url_with_a_login_takes_no_credentials() {
    let options = RedisOptions::from_url("redis://shop:secret@localhost").unwrap();
    let error = RedisStore::with_options(RedisOptions { credentials: Some(Prepared::new([])), ..options }).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup);
    assert!(error.to_string().contains("has a login") && !error.to_string().contains("secret"), "{error}");
}
