//! Redis when it is killed, stands still, or is cut off.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::Redis;
use common::cluster::Cluster;
use common::place::{LIMIT, Tuned, begun, begun_soon, call, complete, redis_engine, redis_store, replayed};
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::{StorageKey, Store, StoreErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_killed_server_is_an_error_soon_and_works_again_once_it_is_back() {
    let mut server = Redis::start(&[]);
    let engine = redis_engine(&server.url());
    begun(&engine, &call(1)).await.settle(complete("before")).await;
    server.stop();
    for key in [1, 2] {
        let began = Instant::now();
        let error = engine.begin(&call(key)).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::NotExecuted | StoreErrorKind::Unknown), "{error}");
        assert!(began.elapsed() < LIMIT * 4, "{:?}", began.elapsed());
    }
    server.restart();
    begun(&engine, &call(3)).await.settle(complete("after")).await;
    assert_eq!(replayed(&engine, &call(3)).await, "after");
}

#[tokio::test]
async fn a_server_that_stands_still_is_an_error_within_the_limit() {
    let server = Redis::start(&[]);
    let engine = redis_engine(&server.url()).lease(LIMIT);
    begun(&engine, &call(0)).await.settle(Verdict::Release).await;
    server.signal("STOP");
    let began = Instant::now();
    let begins: Vec<_> = (1..=20)
        .map(|key| (key, engine.clone()))
        .map(|(key, engine)| tokio::spawn(async move { engine.begin(&call(key)).await.map(drop) }))
        .collect();
    for begin in begins {
        let error = begin.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    }
    // Once more: on a connection that must first be opened.
    assert!(engine.begin(&call(1)).await.is_err());
    assert!(began.elapsed() < LIMIT * 4, "{:?}", began.elapsed());
    assert!(!engine.drain(Duration::from_millis(50)).await, "their releases are still to be sent");
    server.signal("CONT");
    assert!(engine.drain(Duration::from_secs(10)).await);
    for key in 1..=20 {
        begun_soon(&engine, &call(key)).await.settle(complete("again")).await;
    }
}

#[tokio::test]
async fn a_completion_while_the_server_is_down_lands_when_it_is_back() {
    let mut server = Redis::start(&[]);
    let (url, other) = (server.url(), redis_engine(&server.url()));
    let (long, short) = (redis_engine(&url), redis_engine(&url).lease(LIMIT));
    let attempts = [begun(&long, &call(1)).await, begun(&short, &call(2)).await];
    server.stop();
    let [first, second] = attempts;
    let began = Instant::now();
    assert_eq!(first.settle(complete("kept")).await, Settled::Deferred);
    assert_eq!(second.settle(complete("too late")).await, Settled::Deferred);
    assert!(began.elapsed() < LIMIT * 6, "{:?}", began.elapsed());
    assert!(!long.drain(Duration::from_millis(50)).await);
    tokio::time::sleep(LIMIT).await;
    server.restart(); // empty
    assert!(long.drain(Duration::from_secs(10)).await && short.drain(Duration::from_secs(10)).await);
    assert_eq!(replayed(&other, &call(1)).await, "kept");
    // Its lease had ended, so that another may have run and gone: it writes nothing.
    begun(&other, &call(2)).await;
}

/// A proxy that, once armed, swallows the server's next answer and cuts that connection: the command was executed.
struct Proxy {
    port: u16,
    armed: Arc<AtomicBool>,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self { port, armed: Arc::default(), cuts: Arc::default() };
        let (armed, cuts) = (proxy.armed.clone(), proxy.cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (armed, cuts) = (armed.clone(), cuts.clone());
                tokio::spawn(async move {
                    let upstream = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let ((mut from_client, mut to_client), (mut answers, mut commands)) =
                        (client.into_split(), upstream.into_split());
                    let forward = async { tokio::io::copy(&mut from_client, &mut commands).await.map(drop) };
                    let back = async {
                        let mut buffer = vec![0; 64 << 10];
                        loop {
                            let read = answers.read(&mut buffer).await?;
                            if read == 0 || armed.swap(false, Ordering::SeqCst) {
                                cuts.fetch_add(usize::from(read > 0), Ordering::SeqCst);
                                return Ok::<_, std::io::Error>(());
                            }
                            to_client.write_all(&buffer[..read]).await?;
                        }
                    };
                    tokio::select! { _ = forward => {}, _ = back => {} }
                });
            }
        });
        proxy
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn cut(&self, times: usize) {
        assert_eq!(self.cuts.load(Ordering::SeqCst), times, "the connection was cut");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_lost_on_the_wire_is_asked_for_again() {
    let server = Redis::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let (engine, other) = (redis_engine(&format!("redis://127.0.0.1:{}", proxy.port)), redis_engine(&server.url()));
    let warm = begun(&engine, &call(0)).await; // its connection and its scripts are there
    warm.settle(complete("warm")).await;

    proxy.arm();
    let attempt = begun(&engine, &call(1)).await;
    proxy.cut(1);
    let (held, _) = other.get(&call(1).key).await.unwrap().unwrap();
    assert_eq!(held.record.fence, attempt.fence(), "it recognised its own claim");
    assert!(matches!(other.begin(&call(1)).await, Ok(Begun::InFlight { .. })));

    proxy.arm();
    assert_eq!(attempt.settle(complete("once")).await, Settled::Stored);
    proxy.cut(2);
    assert_eq!(replayed(&other, &call(1)).await, "once");

    let attempt = begun(&engine, &call(2)).await;
    proxy.arm();
    attempt.settle(Verdict::Release).await;
    proxy.cut(3);
    begun(&other, &call(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_executed_is_not_sent_again() {
    let cluster = Cluster::start(1);
    let [node] = &cluster.nodes[..] else { panic!() };
    let proxy = Proxy::start(node.port).await;
    node.cli(&["CONFIG", "SET", "cluster-announce-port", &proxy.port.to_string()]);
    let url = format!("redis+cluster://127.0.0.1:{}", proxy.port);
    let asked = || -> usize {
        let stats = node.cli(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    let (store, key) = (redis_store(&url), StorageKey([1; 32]));
    assert!(store.get(&key).await.unwrap().is_none()); // its connection and its scripts are there
    let before = asked();
    proxy.arm();
    let error = store.get(&key).await.unwrap_err();
    proxy.cut(1);
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}");
    assert_eq!(asked(), before + 1);
    assert!(store.get(&key).await.unwrap().is_none(), "on a new connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_whose_hints_are_cut_subscribes_anew() {
    let server = Redis::start(&[]);
    let (leader, waiter) = (redis_engine(&server.url()), redis_engine(&server.url()).wait(Duration::from_secs(5)));
    let attempt = begun(&leader, &call(1)).await;
    let waiting = tokio::spawn(async move { (replayed(&waiter, &call(1)).await, Instant::now()) });
    let subscribed = || server.cli(&["PUBSUB", "CHANNELS"]) == format!("idem:{}", call(1).key);
    let deadline = Instant::now() + Duration::from_secs(5);
    for cut in [false, true] {
        if cut {
            server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        while !subscribed() {
            assert!(Instant::now() < deadline, "nobody subscribes");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Subscribed, it claims again; then it sleeps for 500 ms or more.
    tokio::time::sleep(Duration::from_millis(50)).await;
    attempt.settle(complete("led")).await;
    let ended = Instant::now();
    let (result, answered) = waiting.await.unwrap();
    assert_eq!(result, "led");
    assert!(answered.saturating_duration_since(ended) < Duration::from_millis(250), "by polling, not by a hint");
}
