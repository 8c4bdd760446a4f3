//! The command line, as its users run it: a process of its own, on a real file and a real server.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Redis;
use common::place::{Place, Tuned, begun, call, complete};
use idempotency::cli::{Exit, Program, Streams};
use idempotency::clock::wall_clock;
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::engine::Verdict;
use idempotency::function::Done;
use idempotency::store::{Claimed, Completed, Health, Reply, Store};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Idempotency, Micros, Record, StorageKey};
use serde_json::Value;

/// What a command came to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn run(url: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idempotency"));
    command.args(arguments).env("IDEMPOTENCY_URL", url).stdin(Stdio::null());
    let ended = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: ended.status.code().unwrap(), out: text(ended.stdout), err: text(ended.stderr) }
}

async fn off_the_runtime(url: &str, arguments: &[&str]) -> Ran {
    let (url, arguments) = (url.to_owned(), arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let work = move || run(&url, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::time::timeout(Duration::from_secs(30), tokio::task::spawn_blocking(work)).await.expect("it ends").unwrap()
}

fn url_of(place: &Place) -> String {
    match place {
        Place::Sqlite(folder) => format!("sqlite:///{}/i.db", folder.path().display()),
        Place::Redis(server) => server.url(),
        Place::Postgres(url) => url.clone(),
        Place::Memory(_) => unreachable!("nobody else sees it"),
    }
}

/// Each of the commands, on records in every state.
async fn the_commands(place: Place) {
    let (engine, url) = (place.engine(), url_of(&place));
    let running = begun(&engine, &call(1)).await;
    begun(&engine.clone().after_crash(AfterCrash::Refuse), &call(2)).await.settle(Verdict::Hold).await;
    begun(&engine, &call(3)).await.settle(complete("Jtrue")).await;

    let ping = off_the_runtime(&url, &["ping", "--json"]).await;
    assert_eq!((ping.code, ping.err.as_str()), (0, ""));
    assert!(ping.lines()[0]["version"].as_str().is_some_and(|version| !version.is_empty()));

    let listed = off_the_runtime(&url, &["list", "--json"]).await.lines();
    let states: Vec<&str> = listed.iter().map(|found| found["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in flight", "unknown"], "the oldest comes first");
    let older = off_the_runtime(&url, &["list", "--older", "1h"]).await;
    assert_eq!((older.code, older.out.as_str()), (0, ""));
    assert_eq!(older.err, "Nothing is in flight, lapsed or unknown for longer than 1h 0m.\n");
    let done = off_the_runtime(&url, &["list", "--state", "completed,not-kept", "--json"]).await.lines();
    assert_eq!(done.len(), 1);
    assert!((0.0..=60.0).contains(&done[0]["ttl_left"].as_f64().unwrap()), "{done:?}");
    assert_eq!(off_the_runtime(&url, &["export"]).await.lines().len(), 3);
    let stats = off_the_runtime(&url, &["stats", "--json"]).await.lines();
    assert_eq!([&stats[0]["in_flight"], &stats[0]["unknown"], &stats[0]["completed"]], [1, 1, 1]);

    let (id, fence) = (listed[1]["id"].as_str().unwrap(), listed[1]["fence"].to_string());
    let shown = off_the_runtime(&url, &["get", "--id", &id[..12]]).await;
    assert!(shown.out.contains("  state      unknown\n") && shown.out.contains(&fence), "{}", shown.out);
    let asked = off_the_runtime(&url, &["release", "--id", id]).await;
    assert_eq!(asked.code, 2, "nobody can be asked: {}", asked.err);
    let wrong = off_the_runtime(&url, &["release", "--id", id, "--fence", "7", "--yes"]).await;
    assert_eq!(wrong.code, 4, "{}", wrong.err);
    let right = off_the_runtime(&url, &["release", "--id", id, "--fence", &fence, "--yes"]).await;
    assert_eq!((right.code, right.out.as_str()), (0, "released: test\n"));
    assert_eq!(off_the_runtime(&url, &["get", "--id", id]).await.code, 3);
    let live = listed[0]["id"].as_str().unwrap();
    let refused = off_the_runtime(&url, &["release", "--id", live, "--yes"]).await;
    assert_eq!(refused.code, 4);
    assert!(refused.err.contains("its attempt may still be running"), "{}", refused.err);
    assert_eq!(off_the_runtime(&url, &["purge"]).await.code, 0);
    let watched = off_the_runtime(&url, &["watch", "--count", "2", "--interval", "100ms"]).await;
    assert_eq!(watched.out.matches("in flight 1  lapsed 0  unknown 0\n").count(), 2, "{}", watched.out);
    running.settle(complete("J1")).await;
}

#[tokio::test]
async fn on_sqlite() {
    the_commands(Place::sqlite()).await;
}

#[tokio::test]
async fn on_redis() {
    the_commands(Place::redis()).await;
}

#[tokio::test]
async fn on_postgres() {
    the_commands(Place::postgres()).await;
}

#[tokio::test]
async fn a_function_gets_the_result_that_an_operator_gave() {
    let place = Place::sqlite();
    let payments = Idempotency::new(place.store()).after_crash(AfterCrash::Refuse);
    let fails = async |_| Err::<String, _>(std::io::Error::other("the line broke"));
    payments.call("charge", "order-7").unwrap().run(fails).await.unwrap_err();
    let name = ["resolve", "order-7", "--operation", "charge", "--result", "\"receipt\"", "--yes"];
    let resolved = off_the_runtime(&url_of(&place), &name).await;
    assert_eq!((resolved.code, resolved.out.as_str()), (0, "resolved: charge order-7\n"), "{}", resolved.err);
    let shown = off_the_runtime(&url_of(&place), &["get", "order-7", "--operation", "charge", "--show-body"]).await;
    assert!(shown.out.contains("  value      \"receipt\"\n"), "{}", shown.out);
    let runs = async |_| Err::<String, _>(std::io::Error::other("it ran"));
    assert_eq!(payments.call("charge", "order-7").unwrap().run(runs).await.unwrap(), Done::Replayed("receipt".into()));
}

#[tokio::test]
async fn a_server_that_may_drop_records_is_named() {
    let server = Redis::start(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    let ping = off_the_runtime(&server.url(), &["ping"]).await;
    assert_eq!(ping.code, 0, "it answers");
    assert!(ping.out.contains("warning: maxmemory-policy is allkeys-lru"), "{}", ping.out);
    assert_eq!(off_the_runtime(&server.url(), &["ping", "--strict"]).await.code, 5);
    let durable = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ping = off_the_runtime(&durable.url(), &["ping", "--strict"]).await;
    assert_eq!(ping.code, 0, "{}", ping.out);
}

#[tokio::test]
async fn a_replica_is_named() {
    let primary = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let ping = off_the_runtime(&replica.url(), &["ping"]).await;
    assert!(ping.out.contains("it is a replica and takes no writes"), "{}{}", ping.out, ping.err);
}

#[tokio::test]
async fn what_goes_wrong_is_told_by_a_code_and_without_a_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = off_the_runtime(&format!("redis://:secret@{free}"), &["list"]).await;
    assert_eq!((down.code, down.out.as_str()), (1, ""));
    assert!(!down.err.is_empty() && !down.err.contains("secret"), "{}", down.err);
    for (url, arguments, words) in [
        ("", &["list"][..], "say which store"),
        ("mysql://root:secret@db", &["list"], "no store has URLs with mysql://"),
        ("memory://", &["list"], "keeps its keys to the process"),
        ("redis://localhost", &["get", "k"], "its key and its operation"),
        ("redis://localhost", &["get", "--id", "f00"], "is not the id of a record"),
        ("redis://localhost", &["resolve", "k", "--operation", "w"], "say what a repeat gets"),
        ("redis://localhost", &["lsit"], "list"),
    ] {
        let ran = off_the_runtime(url, arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{url} {arguments:?}: {}", ran.err);
        assert!(ran.err.contains(words) && !ran.err.contains("secret"), "{url} {arguments:?}: {}", ran.err);
    }
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:///{}/typo.db", folder.path().display());
    let ran = off_the_runtime(&url, &["list"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("there is no file"), "{}", ran.err);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "to look at a store makes none");
}

#[tokio::test]
async fn shells_are_told_the_commands() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = off_the_runtime("", &["completions", shell]).await;
        assert_eq!(script.code, 0, "{}", script.err);
        assert!(script.out.contains("idempotency") && script.out.contains("resolve"), "{shell}");
    }
    let help = off_the_runtime("", &["--help"]).await;
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes: 0 done"), "{}", help.out);
}

/// A store whose clock is a good hour behind.
struct Behind(MemoryStore);

impl Store for Behind {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        self.0.claim(key, claim)
    }
    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.renew(key, attempt)
    }
    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, until: Micros) -> Reply<'a, Completed> {
        self.0.complete(key, record, until)
    }
    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        self.0.release(key, attempt)
    }
    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        self.0.get(key)
    }
    fn resolve<'a>(&'a self, key: &'a StorageKey, word: &'a Resolution) -> Reply<'a, bool> {
        self.0.resolve(key, word)
    }
    fn health(&self) -> Reply<'_, Health> {
        let mut health = Health::new("Behind", "1");
        health.clock = Some(wall_clock() - 3_630_000_000);
        Box::pin(async { Ok(health) })
    }
}

/// What a command of a program's own writes.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_clock_that_differs_is_named_and_a_store_need_not_list() {
    let engine = Idempotency::new(Behind(MemoryStore::new()));
    let own = async |arguments: &[&str]| {
        let (out, err) = (Written::default(), Written::default());
        let arguments = arguments.iter().map(Into::into).collect();
        let program = Program::new("shop keys").on(engine.clone(), "shop");
        let exit = program.run(arguments, Streams::to(out.clone(), err.clone())).await;
        let text = |written: Written| String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        (exit, text(out), text(err))
    };
    let (exit, out, _) = own(&["ping", "--strict"]).await;
    assert_eq!(exit, Exit::Endangered);
    assert!(out.contains("warning: its clock is 1h 0m behind this machine's"), "{out}");
    let (exit, _, err) = own(&["list"]).await;
    assert_eq!((exit, err.as_str()), (Exit::Failed, "this store can't list its records\n"));
    let (exit, _, err) = own(&["get", "order-7", "--operation", "charge"]).await;
    assert_eq!(exit, Exit::NotFound);
    assert!(err.contains("namespace \"shop\""), "{err}");
    let (exit, out, _) = own(&["list", "--help"]).await;
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("Usage: shop keys list") && !out.contains("--url"), "{out}");
}

#[test]
fn a_url_without_its_option_says_where_it_belongs() {
    let Ran { code, err, .. } = run("", &["list", "redis://localhost"]);
    assert!(code == 2 && err.contains("tip: say which store by --url before it"), "{code} {err}");
}
