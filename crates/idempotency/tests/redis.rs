//! What only Redis can get wrong: its scripts, its errors and its memory.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Redis;
use common::place::{KEY, LIMIT, Tuned, attempt, begun, call, claimed, complete, redis_engine, redis_store, replayed};
use idempotency::clock::wall_clock;
use idempotency::decide::{Claim, Resolution};
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::store::Store;
use idempotency::stores::{RedisOptions, RedisStore};
use idempotency::{AfterCrash, Idempotency, Record, State, StorageKey, StoreError, StoreErrorKind};

fn name(key: &StorageKey) -> String {
    format!("idem:{key}")
}

/// Sends the server a command that redis-cli could not carry.
fn send(server: &Redis, command: &mut redis::Cmd) -> redis::Value {
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    command.query(&mut connection).unwrap()
}

#[tokio::test]
async fn fences_and_times_survive_the_scripts() {
    let server = Redis::start(&[]);
    let store = redis_store(&server.url());
    let own = attempt();
    let fence = claimed(&store, &own, None).await;
    assert!(fence.abs_diff(wall_clock()) < 5_000_000, "{fence} is the server's clock in µs");
    assert_eq!(server.cli(&["GETRANGE", &name(&KEY), "22", "37"]), fence.to_string(), "16 digits, none of them lost");
    let (held, now) = store.get(&KEY).await.unwrap().unwrap();
    assert_eq!(held.record, Record { fence, ..own.clone() });
    assert!(now.abs_diff(wall_clock()) < 5_000_000, "{now}");
    assert!((held.lease_end - now).abs_diff(own.lease) < 2_000_000, "{}", held.lease_end - now);
    let life: u64 = server.cli(&["PTTL", &name(&KEY)]).parse().unwrap();
    assert!(life <= 60_000 && life > 50_000, "{life} ms");
    assert!(store.release(&KEY, &own).await.unwrap());
    // A clock that was ahead: the fence grows by one, to the last digit.
    let ahead = Record { fence: 4_102_444_800_000_001, lease: 1000, ..attempt() };
    store.complete(&KEY, &ahead, u64::MAX).await.unwrap(); // written as it is, since nothing stands there
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(claimed(&store, &attempt(), Some(ahead)).await, 4_102_444_800_000_002);
    assert_eq!(server.cli(&["GETRANGE", &name(&KEY), "22", "37"]), "4102444800000002");
}

#[tokio::test]
async fn a_century_of_ttl_is_kept() {
    let server = Redis::start(&[]);
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    let engine = redis_engine(&server.url()).ttl(century);
    begun(&engine, &call(1)).await.settle(complete("long")).await;
    let life: u64 = server.cli(&["PTTL", &name(&KEY)]).parse().unwrap();
    assert!((century.as_millis() as u64 - life) < 10_000, "{life} ms");
    assert_eq!(replayed(&engine, &call(1)).await, "long");
}

/// What every operation says about a key that is not ours to touch.
async fn is_refused(server: &Redis, says: &str) {
    let store = redis_store(&server.url());
    let dump = || send(server, redis::cmd("DUMP").arg(name(&KEY)));
    let (before, own) = (dump(), attempt());
    let claim = |takes_over| Claim { record: own.clone(), takes_over };
    let done = Record { state: State::Completed, ..own.clone() };
    let check = |error: StoreError| {
        assert_eq!(error.kind(), StoreErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(&name(&KEY)) && error.to_string().contains(says), "{error}");
    };
    check(store.claim(&KEY, &claim(None)).await.unwrap_err());
    check(store.claim(&KEY, &claim(Some(own.clone()))).await.unwrap_err());
    check(store.complete(&KEY, &done, 0).await.unwrap_err());
    check(store.complete(&KEY, &done, u64::MAX).await.unwrap_err());
    check(store.get(&KEY).await.unwrap_err());
    // These find nothing of the attempt's own, or say the same.
    let word = Resolution { fence: 0, into: None, force: true };
    for answer in [store.renew(&KEY, &own).await, store.release(&KEY, &own).await, store.resolve(&KEY, &word).await] {
        answer.map_or_else(check, |own| assert!(!own));
    }
    let engine = redis_engine(&server.url());
    check(engine.begin(&call(1)).await.unwrap_err());
    check(engine.resolve(&KEY, 0, None, true).await.unwrap_err());
    assert_eq!(dump(), before, "nothing is overwritten");
}

#[tokio::test]
async fn a_foreign_value_is_refused_by_name_and_stays() {
    let server = Redis::start(&[]);
    server.cli(&["SET", &name(&KEY), "somebody else's"]);
    is_refused(&server, "not an idempotency record").await;
    server.cli(&["DEL", &name(&KEY)]);
    server.cli(&["RPUSH", &name(&KEY), "a", "list"]);
    is_refused(&server, "not an idempotency record").await;
    let mut newer = Record { fence: 1_700_000_000_000_000, ..attempt() }.encode();
    newer[3] = b'2';
    send(&server, redis::cmd("SET").arg(name(&KEY)).arg(newer));
    is_refused(&server, "version 2").await;
}

#[tokio::test]
async fn an_empty_value_is_foreign_too() {
    let server = Redis::start(&[]);
    server.cli(&["SET", &name(&KEY), ""]);
    is_refused(&server, "not an idempotency record").await;
}

#[tokio::test]
async fn a_server_that_refuses_us_is_a_matter_of_setup() {
    let server = Redis::start(&["--requirepass", "secret"]);
    let at = |login: &str, database: &str| format!("redis://{login}127.0.0.1:{}/{database}", server.port);
    begun(&redis_engine(&at(":secret@", "")), &call(0)).await.settle(Verdict::Release).await;
    let admin = ["--pass", "secret", "--no-auth-warning"];
    server.cli(&[&admin[..], &["ACL", "SETUSER", "mute", "on", ">m", "~*", "&*", "+@all", "-@scripting"]].concat());
    server.cli(&[&admin[..], &["ACL", "SETUSER", "blind", "on", ">b", "~*", "+@all", "-info"]].concat());
    let cases = [(at(":wrong@", ""), "password"), (at("", ""), "password"), (at("mute:m@", ""), "permission")];
    for (url, says) in cases {
        let error = redis_engine(&url).begin(&call(1)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Setup, "{url}: {error}");
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
    // Not allowed to ask the server's version or to publish hints: it works all the same.
    let blind = begun(&redis_engine(&at("blind:b@", "")), &call(1)).await;
    assert_eq!(blind.settle(complete("blind")).await, Settled::Stored);
}

#[tokio::test]
async fn a_database_that_the_server_lacks_is_a_matter_of_setup() {
    let server = Redis::start(&[]);
    let error = redis_engine(&format!("{}/99", server.url())).begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("database"), "{error}");
}

#[tokio::test]
async fn a_full_server_refuses_claims_and_nothing_else() {
    let server = Redis::start(&["--maxmemory-policy", "noeviction"]);
    let (engine, other) = (redis_engine(&server.url()).lease(LIMIT), redis_engine(&server.url()));
    begun(&engine, &call(1)).await.settle(complete("before")).await;
    let attempts = [begun(&engine, &call(2)).await, begun(&engine, &call(3)).await, begun(&engine, &call(4)).await];
    server.cli(&["SETRANGE", "filler", "4000000", "x"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "3mb"]);
    let used = |field: &str| -> u64 {
        let info = server.cli(&["INFO", "memory"]);
        info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap().trim().parse().unwrap()
    };
    assert!(used("used_memory") > used("maxmemory"), "the server is full");
    let error = other.begin(&call(9)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full, "{error}");
    assert!(error.to_string().contains("maxmemory"), "{error}");
    assert_eq!(replayed(&other, &call(1)).await, "before");
    tokio::time::sleep(LIMIT * 3).await;
    assert!(matches!(other.begin(&call(2)).await, Ok(Begun::InFlight { .. })), "renewed above maxmemory");
    server.cli(&["SCRIPT", "FLUSH"]);
    let [first, second, third] = attempts;
    let big = "x".repeat(200_000);
    assert_eq!(first.settle(complete(&big)).await, Settled::Stored);
    assert_eq!(second.settle(complete("second")).await, Settled::Stored);
    assert_eq!(third.settle(Verdict::Release).await, Settled::Stored);
    assert_eq!(replayed(&other, &call(2)).await, big);
    assert_eq!(replayed(&other, &call(3)).await, "second");
    assert!(other.get(&call(4).key).await.unwrap().is_none());
    assert_eq!(other.begin(&call(4)).await.unwrap_err().kind(), StoreErrorKind::Full);
}

#[tokio::test]
async fn prefix_and_database_are_honoured_and_a_socket_serves() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s").to_str().unwrap().to_string();
    let server = Redis::start(&["--unixsocket", &socket]);
    let cases = [
        (format!("{}/3", server.url()), "3", "shop:"),
        (format!("unix://{socket}?db=4"), "4", "idem:"),
        (format!("unix://{socket}"), "0", "ü "),
    ];
    for (url, database, prefix) in cases {
        let options = RedisOptions { prefix: prefix.into(), ..RedisOptions::from_url(&url).unwrap() };
        let engine = Idempotency::new(RedisStore::with_options(options).unwrap());
        begun(&engine, &call(1)).await.settle(complete("there")).await;
        assert_eq!(replayed(&engine, &call(1)).await, "there");
        let name = server.cli(&["-n", database, "--raw", "KEYS", "*"]);
        assert_eq!(name, format!("{prefix}{KEY}"), "the one key there");
    }
}

#[tokio::test]
async fn a_flushed_script_cache_is_invisible() {
    let server = Redis::start(&[]);
    let engine = redis_engine(&server.url()).after_crash(AfterCrash::Refuse);
    let flush = || server.cli(&["SCRIPT", "FLUSH"]);
    let attempt = begun(&engine, &call(1)).await;
    flush();
    assert!(matches!(engine.begin(&call(1)).await, Ok(Begun::InFlight { .. })));
    flush();
    assert_eq!(attempt.settle(Verdict::Hold).await, Settled::Stored);
    flush();
    let (held, _) = engine.get(&KEY).await.unwrap().unwrap();
    flush();
    assert!(engine.resolve(&KEY, held.record.fence, None, false).await.unwrap());
    flush();
    let again = begun(&engine.clone().lease(LIMIT), &call(1)).await;
    flush();
    tokio::time::sleep(LIMIT * 2).await; // a renewal
    assert!(matches!(engine.begin(&call(1)).await, Ok(Begun::InFlight { .. })));
    flush();
    assert_eq!(again.settle(Verdict::Release).await, Settled::Stored);
    assert!(engine.get(&KEY).await.unwrap().is_none());
}

#[tokio::test]
async fn what_nobody_waits_for_is_unsubscribed() {
    let server = Redis::start(&[]);
    let (leader, waiter) = (redis_engine(&server.url()), redis_engine(&server.url()).wait(Duration::from_millis(20)));
    let mut leading = vec![];
    for key in 0..20 {
        leading.push(begun(&leader, &call(key)).await);
        assert!(matches!(waiter.begin(&call(key)).await, Ok(Begun::InFlight { .. })));
    }
    let channels = server.cli(&["PUBSUB", "CHANNELS"]);
    assert!((1..=2).contains(&channels.lines().count()), "{channels}");
}

/// Keeps the words of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<std::sync::Mutex<String>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let words = self.0.clone();
        event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            words.lock().unwrap().push_str(&format!("{value:?}\n"));
        });
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_server_that_may_drop_claims_is_warned_about() {
    for (policy, warned) in [("allkeys-lru", true), ("volatile-ttl", true), ("noeviction", false)] {
        let server = Redis::start(&["--maxmemory-policy", policy]);
        let warnings = Warnings::default();
        let _here = tracing::subscriber::set_default(warnings.clone()); // the test's runtime is this one thread
        begun(&redis_engine(&server.url()), &call(1)).await.settle(complete("kept")).await;
        let words = warnings.0.lock().unwrap().clone();
        assert_eq!(words.contains(policy) && words.contains("noeviction"), warned, "{policy}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_waiters_in_one_process_one_asks_the_server() {
    let server = Redis::start(&[]);
    let engine = redis_engine(&server.url());
    let leader = begun(&engine, &call(1)).await;
    let asked = || -> usize {
        let stats = server.cli(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    let waiter = engine.clone().wait(Duration::from_secs(10));
    let waiting: Vec<_> = (0..50)
        .map(|_| waiter.clone())
        .map(|waiter| tokio::spawn(async move { replayed(&waiter, &call(1)).await }))
        .collect();
    tokio::time::timeout(Duration::from_secs(5), async {
        while asked() < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await; // until each has met the leader
        }
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = asked();
    leader.settle(complete("led")).await;
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), "led");
    }
    let asked = asked() - before;
    assert!((1..=10).contains(&asked), "50 waiters asked {asked} times for one answer");
}

#[test]
fn a_store_is_shown_without_its_password() {
    let store = RedisStore::open("redis://alice:secret@localhost").unwrap();
    let shown = format!("{store:?}") + &format!(" {:?}", idempotency::Idempotency::new(store));
    assert!(shown.contains("RedisStore { prefix: \"idem:\"") && shown.contains("Idempotency { options:"), "{shown}");
    assert!(!shown.contains("secret") && !shown.contains("alice"), "{shown}");
}
