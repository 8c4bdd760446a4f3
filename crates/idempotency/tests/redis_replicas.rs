//! Writes that count only when replicas have them.

mod common;

use std::time::{Duration, Instant};

use common::Redis;
use common::place::{KEY, Tuned, attempt, begun, begun_soon, call, complete, drained, paying, replayed};
use idempotency::decide::Claim;
use idempotency::engine::{Begun, Call, Settled};
use idempotency::store::{Claimed, Completed, Store};
use idempotency::stores::{RedisOptions, RedisStore};
use idempotency::{Idempotency, Record, State, StorageKey, StoreError, StoreErrorKind};

/// How long an operation may take here: the replica's answer is waited for in it.
const LIMIT: Duration = Duration::from_secs(2);

/// A primary and a replica that has caught up.
fn pair(args: &[&str]) -> (Redis, Redis) {
    let primary = Redis::start(&[&["--repl-diskless-sync-delay", "0"], args].concat());
    let replica = Redis::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    let mut connection = redis::Client::open(primary.url()).unwrap().get_connection().unwrap();
    redis::cmd("SET").arg("caught").arg("up").exec(&mut connection).unwrap();
    let caught_up: u8 = redis::cmd("WAIT").arg(1).arg(20_000).query(&mut connection).unwrap();
    assert_eq!(caught_up, 1, "the replica does not follow");
    (primary, replica)
}

fn store(server: &Redis, parameters: &str) -> RedisStore {
    let options = RedisOptions::from_url(&format!("{}?{parameters}", server.url())).unwrap();
    RedisStore::with_options(RedisOptions { time_limit: LIMIT, ..options }).unwrap()
}

fn engine(server: &Redis, parameters: &str) -> Idempotency {
    Idempotency::new(store(server, parameters)).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
}

/// How often the server was sent a command, as `wait`.
fn sent(server: &Redis, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.split(&format!("cmdstat_{command}:calls=")).nth(1);
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

async fn claim(store: &RedisStore, record: &Record) -> Result<Claimed, StoreError> {
    store.claim(&KEY, &Claim { record: record.clone(), takes_over: None }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wait_does_for_many_writes() {
    let (primary, _replica) = pair(&[]);
    let engine = engine(&primary, "replicas=1");
    let calls = 64 * 8;
    let workers = (0..64).map(|worker| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for round in 0..8 {
                let mut key = [worker; 32];
                key[0] = round;
                let call = Call { key: StorageKey(key), ..call(worker) };
                assert_eq!(begun(&engine, &call).await.settle(complete("once")).await, Settled::Stored);
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let (waits, writes) = (sent(&primary, "wait"), calls * 2);
    assert!(waits > 0 && waits * 4 < writes, "{waits} for {writes} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_begins_that_the_replica_has_not_heard_of() {
    let (primary, replica) = pair(&[]);
    let (engine, plain) = (engine(&primary, "replicas=1"), engine(&primary, ""));
    begun(&engine, &call(1)).await.settle(complete("before")).await;
    replica.signal("STOP");
    let began = Instant::now();
    let error = engine.begin(&call(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    assert!(error.to_string().contains("has written, but replicas=1 could not be confirmed"), "{error}");
    assert!(began.elapsed() < LIMIT * 4, "{:?}", began.elapsed());
    // It is given back, and nobody else is held up.
    begun_soon(&plain, &call(2)).await.settle(complete("another's")).await;
    replica.signal("CONT");
    begun_soon(&engine, &call(3)).await.settle(complete("after")).await;
    assert_eq!(replayed(&engine, &call(2)).await, "another's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_and_renewals_are_not_held_up_by_a_replica_that_is() {
    let (primary, replica) = pair(&[]);
    let (store, own, other) = (store(&primary, "replicas=1"), attempt(), StorageKey([2; 32]));
    assert!(matches!(claim(&store, &own).await, Ok(Claimed::Yes { .. })));
    replica.signal("STOP");
    let (waiting, began) = (attempt(), Instant::now());
    let waiting = Claim { record: waiting, takes_over: None };
    let mut waits = store.claim(&other, &waiting);
    let mut renewals = 0;
    loop {
        tokio::select! {
            claimed = &mut waits => {
                assert_eq!(claimed.unwrap_err().kind(), StoreErrorKind::Unknown);
                break;
            }
            renewed = store.renew(&KEY, &own) => {
                assert!(renewed.unwrap());
                renewals += 1;
                assert!(matches!(claim(&store, &attempt()).await, Ok(Claimed::No { .. })));
            }
        }
    }
    assert!(renewals > 5, "{renewals} in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_claim_that_recognises_itself_is_confirmed_too() {
    let (primary, replica) = pair(&[]);
    let own = attempt();
    replica.signal("STOP");
    // The second one writes nothing: its connection has written nothing that a replica could have.
    for _ in 0..2 {
        let error = claim(&store(&primary, "replicas=1"), &own).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    }
    let done = Record { state: State::Completed, ..own.clone() };
    for _ in 0..2 {
        let error = store(&primary, "replicas=1").complete(&KEY, &done, 0).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    }
    replica.signal("CONT");
    let stored = store(&primary, "replicas=1").complete(&KEY, &done, 0).await.unwrap();
    assert!(matches!(stored, Completed::Stored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_lands_when_the_replica_hears_again() {
    let (primary, replica) = pair(&[]);
    let engine = engine(&primary, "replicas=1");
    let attempt = begun(&engine, &call(1)).await;
    replica.signal("STOP");
    assert_eq!(attempt.settle(complete("kept")).await, Settled::Deferred);
    assert!(!engine.drain(LIMIT).await, "it is still to be confirmed");
    replica.signal("CONT");
    drained(&engine).await;
    assert_eq!(replayed(&engine, &call(1)).await, "kept");
}

#[tokio::test]
async fn without_enough_replicas_nothing_begins() {
    let (primary, _replica) = pair(&[]);
    let error = engine(&primary, "replicas=2").begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    assert!(error.to_string().contains("replicas=2"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_is_confirmed_without_memory_left() {
    let (primary, _replica) = pair(&[]);
    let engine = engine(&primary, "replicas=1");
    let attempts = [begun(&engine, &call(1)).await, begun(&engine, &call(2)).await];
    primary.cli(&["DEL", "idem:confirmed:0"]);
    primary.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for attempt in attempts {
        assert_eq!(attempt.settle(complete("kept")).await, Settled::Stored);
    }
    assert_eq!(engine.begin(&call(3)).await.unwrap_err().kind(), StoreErrorKind::Full);
}

#[tokio::test]
async fn files_need_a_newer_server() {
    let server = Redis::start(&["--appendonly", "yes"]);
    let version = server.cli(&["INFO", "server"]);
    let version =
        version.split("redis_version:").nth(1).and_then(|rest| rest.lines().next()).unwrap().trim().to_owned();
    if !version.starts_with("6.") && !version.starts_with("7.0") {
        begun(&engine(&server, "aof=1"), &call(1)).await;
        return;
    }
    let error = engine(&server, "aof=1").begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup);
    assert_eq!(error.to_string(), format!("the Redis server is version {version}; 7.2 or later is needed for aof="));
    assert_eq!(server.cli(&["DBSIZE"]), "0", "nothing was written");
}

#[test]
fn a_number_of_servers_is_a_number() {
    for parameter in ["replicas=all", "aof=-1"] {
        let error = RedisOptions::from_url(&format!("redis://localhost?{parameter}")).unwrap_err();
        assert!(error.to_string().contains(&format!("{parameter} is not a number of servers")), "{error}");
    }
}

#[tokio::test]
async fn who_may_not_ask_for_info_is_told_what_it_is_needed_for() {
    let (primary, _replica) = pair(&[]);
    primary.cli(&["ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all", "-info"]);
    let url = format!("redis://shop:secret@127.0.0.1:{}?replicas=1", primary.port);
    let error = Idempotency::new(RedisStore::open(&url).unwrap()).begin(&paying(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup);
    assert!(error.to_string().contains("replicas=1 needs a Redis user that may ask for INFO"), "{error}");
    let plain = Idempotency::new(RedisStore::open(&url.replace("replicas=1", "")).unwrap());
    assert!(matches!(plain.begin(&paying(1, 1)).await, Ok(Begun::Run(_))));
}
