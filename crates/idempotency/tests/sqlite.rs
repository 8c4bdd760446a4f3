//! What only SQLite can get wrong: several processes, kills, other people's files.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::place::{Tuned, begun, call, complete, replayed};
use idempotency::clock::{micros, wall_clock};
use idempotency::decide::{Claim, Resolution};
use idempotency::engine::{Begun, Settled, Verdict};
use idempotency::store::{Claimed, Completed, Listing, Store};
use idempotency::stores::SqliteStore;
use idempotency::{AfterCrash, Fingerprint, Idempotency, Record, State, StorageKey, StoreErrorKind, Token};
use rusqlite::Connection;

const LEASE: Duration = Duration::from_millis(300);

fn engine(file: &Path) -> Idempotency {
    Idempotency::new(SqliteStore::open(file)).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
}

fn attempt(token: u8) -> Record {
    let second = 1_000_000;
    Record {
        state: State::InFlight,
        after_crash: AfterCrash::Rerun,
        token: Token([token; 16]),
        fence: 0,
        lease: 10 * second,
        ttl: 60 * second,
        fingerprint: Fingerprint([0; 32]),
        label: "test".into(),
        result: [].into(),
    }
}

/// This test binary once more, as another process on the same file.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "another_process", "--ignored", "--nocapture"])
            .env("IDEMPOTENCY_TEST_FOLDER", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, input, output };
        assert_eq!(process.answer(), "ready");
        process
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Its next answer; the test harness around it talks too.
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the other process ended");
            if let Some((_, answer)) = line.split_once("> ") {
                return answer.trim().into();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "is started by the other tests as a process of its own"]
fn another_process() {
    let folder = PathBuf::from(std::env::var_os("IDEMPOTENCY_TEST_FOLDER").expect("started by a test of this file"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    println!("> ready");
    let mut held = vec![];
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, file) = line.split_once(' ').unwrap();
        let engine = engine(&folder.join(file)).lease(LEASE);
        match (verb, runtime.block_on(engine.begin(&call(1)))) {
            ("claim", Ok(Begun::Run(attempt))) => {
                println!("> run {:?}", runtime.block_on(attempt.settle(complete("once"))));
            }
            ("hold", Ok(Begun::Run(attempt))) => {
                held.push(attempt);
                println!("> held");
            }
            (_, Ok(begun)) => println!("> {}", format!("{begun:?}").split([' ', '(']).next().unwrap()),
            (_, Err(error)) => println!("> {:?} {error}", error.kind()),
        }
    }
}

#[test]
fn eight_processes_that_make_the_file_at_once_run_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut processes: Vec<_> = (0..8).map(|_| Process::start(folder.path())).collect();
    for round in 0..20 {
        processes.iter_mut().for_each(|process| process.tell(&format!("claim {round}.db")));
        let answers: Vec<_> = processes.iter_mut().map(Process::answer).collect();
        assert_eq!(answers.iter().filter(|answer| *answer == "run Stored").count(), 1, "round {round}: {answers:?}");
        let others = ["run Stored", "InFlight", "Replay"];
        assert!(answers.iter().all(|answer| others.contains(&answer.as_str())), "round {round}: {answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_that_make_the_file_at_once_never_take_it_for_anothers() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..60 {
        let file = folder.path().join(format!("{round}.db"));
        let stores: Vec<_> = (0..8).map(|_| SqliteStore::open(&file)).collect();
        let key = StorageKey([1; 32]);
        let looks: Vec<_> = stores.iter().map(|store| store.get(&key)).collect(); // under way before the first await
        for look in looks {
            let found = look.await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(found.is_none());
        }
    }
}

#[tokio::test]
async fn a_killed_process_frees_its_key_when_its_lease_ends() {
    let folder = tempfile::tempdir().unwrap();
    for (file, policy) in [("rerun.db", AfterCrash::Rerun), ("refuse.db", AfterCrash::Refuse)] {
        let path = folder.path().join(file);
        let engine = engine(&path).after_crash(policy);
        let mut process = Process::start(folder.path());
        process.tell(&format!("hold {file}"));
        assert_eq!(process.answer(), "held");
        tokio::time::sleep(LEASE * 2).await;
        assert!(matches!(engine.begin(&call(1)).await, Ok(Begun::InFlight { .. })), "a live process is renewed");
        drop(process); // kill -9
        let killed = Instant::now();
        let begun = loop {
            match engine.begin(&call(1)).await.unwrap() {
                Begun::InFlight { lease_left } => assert!(lease_left <= LEASE),
                begun => break begun,
            }
            assert!(killed.elapsed() < LEASE * 5, "its lease does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        match policy {
            AfterCrash::Rerun => assert!(matches!(begun, Begun::Run(_)), "{begun:?}"),
            AfterCrash::Refuse => assert!(matches!(begun, Begun::Unknown), "{begun:?}"),
        }
        let sound: String =
            Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }
}

#[tokio::test]
async fn a_missing_folder_is_named_and_may_be_made_later() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let engine = engine(&missing.join("i.db"));
    let error = engine.begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup);
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
    std::fs::create_dir(&missing).unwrap();
    begun(&engine, &call(1)).await;
}

#[tokio::test]
async fn what_is_not_our_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let theirs = Connection::open(path("theirs.db")).unwrap();
    theirs.execute_batch("CREATE TABLE orders (id INTEGER); INSERT INTO orders VALUES (7)").unwrap();
    drop(theirs);
    // Even one whose table has the name of ours.
    let namesake = Connection::open(path("namesake.db")).unwrap();
    namesake.execute_batch("CREATE TABLE records (id INTEGER); PRAGMA application_id = 42").unwrap();
    drop(namesake);
    std::fs::write(path("text.db"), "no database\n".repeat(1000)).unwrap();
    for (name, says) in [("theirs.db", "another application"), ("namesake.db", "another application"), ("text.db", "")]
    {
        let before = std::fs::read(path(name)).unwrap();
        let error = engine(&path(name)).begin(&call(1)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Setup, "{error}");
        assert!(
            error.to_string().contains(path(name).to_str().unwrap()) && error.to_string().contains(says),
            "{error}"
        );
        assert!(std::fs::read(path(name)).unwrap() == before, "{name} was changed");
    }
    let error = engine(folder.path()).begin(&call(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Setup, "a folder is no file: {error}");
}

#[tokio::test]
async fn a_newer_record_is_foreign_to_every_operation_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let store = SqliteStore::open(&path);
    let (key, own) = (StorageKey([1; 32]), attempt(1));
    let claim = Claim { record: own.clone(), takes_over: None };
    let Claimed::Yes { fence } = store.claim(&key, &claim).await.unwrap() else { panic!("the key is free") };
    let mut newer = Record { fence, ..own.clone() }.encode();
    newer[3] = b'2';
    let aside = Connection::open(&path).unwrap();
    aside.execute("UPDATE records SET record = ?", [&newer]).unwrap();
    let done = Record { state: State::Completed, ..own.clone() };
    let errors = [
        store.claim(&key, &claim).await.map(drop).unwrap_err(),
        store.renew(&key, &own).await.map(drop).unwrap_err(),
        store.complete(&key, &done, u64::MAX).await.map(drop).unwrap_err(),
        store.release(&key, &own).await.map(drop).unwrap_err(),
        store.get(&key).await.map(drop).unwrap_err(),
        store.resolve(&key, &Resolution { fence, into: None, force: true }).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), StoreErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(&key.to_string()) && error.to_string().contains("version 2"), "{error}");
    }
    let stands: Vec<u8> = aside.query_row("SELECT record FROM records", [], |row| row.get(0)).unwrap();
    assert!(stands == newer, "it was changed");
    assert!(matches!(store.claim(&StorageKey([2; 32]), &claim).await, Ok(Claimed::Yes { .. })), "other keys go on");
}

/// How many transactions the write-ahead log holds: the frames that say how large the database is after a commit.
fn commits(path: &Path) -> usize {
    let log = std::fs::read(path.with_extension("db-wal")).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let (page, salt) = (word(8) as usize, (word(16), word(20)));
    let frames = (32..log.len()).step_by(24 + page).filter(|at| (word(at + 8), word(at + 12)) == salt);
    frames.filter(|at| word(at + 4) != 0).count()
}

#[tokio::test]
async fn completions_at_once_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let store = SqliteStore::open(&path);
    let keys: Vec<_> = (0..64).map(|n| StorageKey([n; 32])).collect();
    let claims: Vec<_> = (0..64).map(|n| Claim { record: attempt(n), takes_over: None }).collect();
    let claiming: Vec<_> = keys.iter().zip(&claims).map(|(key, claim)| store.claim(key, claim)).collect();
    for claiming in claiming {
        assert!(matches!(claiming.await, Ok(Claimed::Yes { .. })));
    }
    let before = commits(&path);
    let done = |claim: &Claim| Record { state: State::Completed, result: b"r"[..].into(), ..claim.record.clone() };
    let done: Vec<_> = claims.iter().map(done).collect();
    let completing: Vec<_> = keys.iter().zip(&done).map(|(key, done)| store.complete(key, done, 0)).collect();
    for completing in completing {
        assert!(matches!(completing.await, Ok(Completed::Stored)));
    }
    let taken = commits(&path) - before;
    assert!((1..=16).contains(&taken), "64 completions took {taken} commits");
}

#[tokio::test]
async fn a_lease_of_another_boot_has_lapsed_and_a_result_has_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let crashed = engine(&path).lease(Duration::from_secs(30));
    let attempts = [begun(&crashed, &call(1)).await, begun(&crashed, &call(2)).await];
    begun(&crashed, &call(3)).await.settle(complete("kept")).await;
    let aside = Connection::open(&path).unwrap();
    assert_eq!(aside.execute("UPDATE records SET boot = 'another'", []).unwrap(), 3);
    // Another process: its own would know that they live.
    let engine = engine(&path);
    let refusing = engine.clone().after_crash(AfterCrash::Refuse);
    assert!(matches!(refusing.begin(&call(1)).await, Ok(Begun::Unknown)));
    let successor = begun(&engine, &call(1)).await;
    assert!(successor.fence() > attempts[0].fence());
    assert_eq!(replayed(&engine, &call(3)).await, "kept");
    // Its token still matches where nobody followed.
    let [first, second] = attempts;
    assert_eq!(first.settle(complete("late")).await, Settled::Lost);
    assert_eq!(second.settle(complete("late")).await, Settled::Stored);
}

#[tokio::test]
async fn a_claim_of_this_boot_does_not_expire_by_the_wall_clock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let running = begun(&engine(&path), &call(1)).await;
    // As if the wall clock had been set forward past the `ttl`.
    let aside = Connection::open(&path).unwrap();
    assert_eq!(aside.execute("UPDATE records SET expires = 1", []).unwrap(), 1);
    let other = engine(&path);
    assert!(matches!(other.begin(&call(1)).await, Ok(Begun::InFlight { .. })), "a second live claim");
    assert_eq!(other.purge().await.unwrap(), 0, "a live claim is swept");
    assert_eq!(other.list(&Listing::unfinished()).await.unwrap().records.len(), 1);
    assert_eq!(running.settle(complete("once")).await, Settled::Stored);
    assert_eq!(replayed(&other, &call(1)).await, "once");
}

#[tokio::test]
async fn a_claim_of_this_boot_expires_by_the_clock_of_its_lease() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let brief = Duration::from_millis(50);
    begun(&engine(&path).lease(brief).ttl(brief * 2), &call(1)).await.settle(Verdict::Hold).await;
    let aside = Connection::open(&path).unwrap();
    aside.execute("UPDATE records SET expires = ?", [i64::MAX]).unwrap();
    tokio::time::sleep(brief * 3).await;
    assert!(engine(&path).get(&call(1).key).await.unwrap().is_none());
}

#[tokio::test]
async fn fences_grow_although_the_wall_clock_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let first = begun(&engine(&path), &call(1)).await;
    let before = first.fence();
    first.settle(Verdict::Release).await;
    // As if all of that had been an hour later than it is.
    let ahead = before + micros(Duration::from_secs(3600));
    let aside = Connection::open(&path).unwrap();
    assert_eq!(aside.execute("UPDATE fences SET highest = ?", [ahead as i64]).unwrap(), 1);
    let mut last = ahead;
    for _ in 0..3 {
        let next = begun(&engine(&path), &call(1)).await;
        assert!(next.fence() > last, "the fence went back from {last} to {}", next.fence());
        last = next.fence();
        next.settle(Verdict::Release).await;
    }
}

#[tokio::test]
async fn a_file_of_the_version_before_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    begun(&engine(&path), &call(1)).await.settle(complete("kept")).await;
    Connection::open(&path).unwrap().execute_batch("DROP TABLE fences; CREATE TABLE notes (text)").unwrap();
    let engine = engine(&path);
    assert_eq!(replayed(&engine, &call(1)).await, "kept");
    begun(&engine, &call(2)).await.settle(complete("new")).await;
}

#[tokio::test]
async fn a_file_that_is_removed_is_noticed_by_the_next_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let (one, other) = (engine(&path), engine(&path));
    let attempt = begun(&one, &call(1)).await;
    begun(&other, &call(2)).await.settle(complete("there")).await;
    for file in ["i.db", "i.db-wal", "i.db-shm"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    // One store again, whoever comes first; the end of what ran meanwhile is written anew.
    assert_eq!(attempt.settle(complete("once")).await, Settled::Stored);
    assert_eq!(replayed(&other, &call(1)).await, "once");
}

#[tokio::test]
async fn a_result_expires_by_the_wall_clock_and_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let (hour, short) = (Duration::from_secs(3600), Duration::from_millis(50));
    begun(&engine(&path).ttl(hour), &call(0)).await.settle(complete("kept")).await;
    let aside = Connection::open(&path).unwrap();
    let expires: i64 = aside.query_row("SELECT expires FROM records", [], |row| row.get(0)).unwrap();
    assert!((expires as u64).abs_diff(wall_clock() + micros(hour)) < 5_000_000, "{expires}");
    let brief = engine(&path).lease(short).ttl(short);
    for key in 1..10 {
        begun(&brief, &call(key)).await.settle(complete("brief")).await;
    }
    tokio::time::sleep(short * 2).await;
    brief.purge().await.unwrap();
    let left: i64 = aside.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
    assert_eq!(replayed(&brief, &call(0)).await, "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_sits_on_the_write_lock_delays_claims_but_no_replays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let limit = Duration::from_millis(300);
    let engine = Idempotency::new(SqliteStore::open(&path).time_limit(limit)).ttl(Duration::from_secs(60));
    begun(&engine, &call(1)).await.settle(complete("kept")).await;
    let aside = Connection::open(&path).unwrap();
    aside.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(replayed(&engine, &call(1)).await, "kept");
    let began = Instant::now();
    let error = engine.begin(&call(2)).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::NotExecuted | StoreErrorKind::Unknown), "{error}");
    assert!(began.elapsed() < limit * 4, "{:?}", began.elapsed());
    aside.execute_batch("ROLLBACK").unwrap();
    assert!(engine.drain(Duration::from_secs(5)).await);
    begun(&engine, &call(2)).await.settle(complete("later")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_writes_without_pause_leaves_turns_to_the_others_of_its_file() {
    const TURNS: u8 = 40;
    async fn write(store: &SqliteStore, key: [u8; 32]) {
        let claim = Claim { record: attempt(1), takes_over: None };
        let claimed = store.claim(&StorageKey(key), &claim).await.unwrap();
        assert!(matches!(claimed, Claimed::Yes { .. }), "{claimed:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    let (greedy, written, stop) = (SqliteStore::open(&path), AtomicU64::new(0), AtomicBool::new(false));
    let shared = Arc::new((greedy, written, stop));
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let shared = shared.clone();
            tokio::spawn(async move {
                let (greedy, written, stop) = &*shared;
                while !stop.load(Ordering::Relaxed) {
                    let mut key = [0; 32];
                    key[..8].copy_from_slice(&written.fetch_add(1, Ordering::Relaxed).to_le_bytes());
                    write(greedy, key).await;
                }
            })
        })
        .collect();
    let modest = SqliteStore::open(&path);
    for turn in 0..TURNS {
        // It asks while the other one is at it.
        let mut before = shared.1.load(Ordering::Relaxed);
        while shared.1.load(Ordering::Relaxed) < before + 6 {
            tokio::task::yield_now().await;
        }
        before = shared.1.load(Ordering::Relaxed);
        write(&modest, [255 - turn; 32]).await;
        let waited = shared.1.load(Ordering::Relaxed) - before;
        assert!(waited < 1000, "turn {turn} came after {waited} writes of the other");
    }
    shared.2.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
}
