//! The end of a service: what runs ends, and its end is stored.

use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use idempotency::Idempotency;
use idempotency::stores::SqliteStore;
use idempotency::tower::IdempotencyLayer;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::support::*;

#[tokio::test]
async fn draining_waits_for_what_runs_and_no_longer_than_its_limit() {
    let (gate, mut keeper) = gate();
    let layer = layer();
    let app = Router::new().route("/pay", post(async move || gate.pass().await.to_string())).layer(layer.clone());
    let server = serve(app).await;
    assert!(layer.drain(Duration::ZERO).await, "nothing runs");
    let client = Raw::pay(&server, "1").await;
    keeper.arrived().await;
    client.leave();
    assert!(!layer.drain(Duration::from_millis(20)).await, "it still runs");
    keeper.open(1);
    assert!(layer.drain(PATIENCE).await);
    assert!(pay(&server, "1").await.is_replay());
}

#[tokio::test]
async fn more_than_may_run_at_once_are_told_so_and_leave_their_key_free() {
    let (gate, mut keeper) = gate();
    let layer = layer().max_in_flight(1).unwrap();
    let app = Router::new().route("/pay", post(async move || gate.pass().await.to_string())).layer(layer.clone());
    let server = serve(app).await;
    let mut first = Raw::pay(&server, "1").await;
    keeper.arrived().await;
    let over = pay(&server, "2").await;
    assert_eq!((over.status.as_u16(), over.refusal().as_str()), (503, "overloaded"));
    assert!(over.headers.contains_key("retry-after"));
    keeper.open(2);
    first.until("\r\n\r\n1").await;
    assert!(pay(&server, "1").await.is_replay(), "a replay is always told");
    assert_eq!(pay(&server, "2").await.text(), "2");
    assert_eq!(keeper.runs(), 2);
}

/// The server of [`a_process_that_is_asked_to_end_finishes_what_runs`], where that starts it.
#[tokio::test]
#[ignore = "another test starts it as a process of its own"]
async fn process() {
    let store = SqliteStore::open(std::env::var_os("STORE").expect("STORE is a path"));
    let layer = IdempotencyLayer::new(Idempotency::new(store));
    let handler = async || {
        println!("\nbegun");
        let gate = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        gate.await.unwrap().expect("its gate opens");
        "paid"
    };
    let app = Router::new().route("/pay", post(handler)).layer(layer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    println!("\n{}", listener.local_addr().unwrap());
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        terminate.recv().await;
        println!("\nending");
    });
    served.await.unwrap();
    println!("\ndrained {}", layer.drain(PATIENCE).await);
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_finishes_what_runs() {
    use tokio::io::AsyncWriteExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "shutdown::process"])
        .env("STORE", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = async |what: &str| {
        soon(async {
            loop {
                let line = lines.next_line().await.unwrap().expect("it lives");
                if line.starts_with(what) {
                    return line;
                }
            }
        })
        .await
    };
    let address = said("127.0.0.1:").await.parse().unwrap();
    let server = Server::elsewhere(address);
    // One client leaves, and the process is asked to end meanwhile.
    let client = Raw::pay(&server, "1").await;
    said("begun").await;
    client.leave();
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    said("ending").await;
    child.stdin.take().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(said("drained").await, "drained true");
    assert!(soon(child.wait()).await.unwrap().success());
    // Another process finds the answer.
    let layer = IdempotencyLayer::new(Idempotency::new(SqliteStore::open(path)));
    let server = serve(Router::new().route("/pay", post(async || "again")).layer(layer)).await;
    let repeat = pay(&server, "1").await;
    assert_eq!((repeat.text(), repeat.is_replay()), ("paid", true));
}
