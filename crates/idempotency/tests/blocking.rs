//! Plain functions on threads without a runtime.

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::Redis;
use common::place::{LEASE, Tuned};
use idempotency::stores::{self, SqliteStore};
use idempotency::{Begun, CurrentAttempt, Done, Error, Idempotency};

fn one(_: CurrentAttempt) -> Result<u32, String> {
    Ok(1)
}

fn never(_: CurrentAttempt) -> Result<u32, String> {
    panic!("nothing may run")
}

#[test]
fn it_runs_once_on_every_store_and_its_work_may_call_another() {
    let (server, folder) = (Redis::start(&[]), tempfile::tempdir().unwrap());
    let sqlite = format!("sqlite:///{}", folder.path().join("i.db").display());
    for url in ["memory://", &sqlite, &server.url()] {
        let engine = Idempotency::new(stores::open(url).unwrap());
        let outer = |_| Ok::<_, String>(engine.call("inner", "1").unwrap().run_blocking(one).unwrap().into_inner() + 1);
        assert_eq!(engine.call("outer", "1").unwrap().run_blocking(outer).unwrap(), Done::Ran(2), "{url}");
        assert_eq!(engine.call("outer", "1").unwrap().run_blocking(never).unwrap(), Done::Replayed(2), "{url}");
        assert_eq!(engine.call("inner", "1").unwrap().run_blocking(never).unwrap(), Done::Replayed(1), "{url}");
        assert!(engine.drain_blocking(Duration::from_secs(5)).unwrap());
    }
}

#[test]
fn its_lease_is_renewed_while_it_blocks_its_thread_and_a_waiter_gets_its_result() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Idempotency::new(SqliteStore::open(folder.path().join("i.db"))).lease(LEASE);
    let (begins, began) = channel();
    let slow = {
        let engine = engine.clone();
        let work = move |attempt: CurrentAttempt| {
            begins.send(()).unwrap();
            std::thread::sleep(LEASE * 4);
            Ok::<_, String>(u32::from(attempt.is_lost()))
        };
        std::thread::spawn(move || engine.call("work", "1").unwrap().run_blocking(work).unwrap())
    };
    began.recv().unwrap();
    let waiter = engine.clone().wait(Duration::from_secs(20));
    assert_eq!(waiter.call("work", "1").unwrap().run_blocking(never).unwrap(), Done::Replayed(0));
    assert_eq!(slow.join().unwrap(), Done::Ran(0));
}

#[test]
fn errors_and_panics_free_the_key() {
    let engine = Idempotency::new(stores::open("memory://").unwrap());
    let call = || engine.call("work", "1").unwrap();
    assert!(matches!(call().run_blocking(|_| Err::<u32, _>("no")), Err(Error::Work("no"))));
    let panics = std::thread::scope(|scope| scope.spawn(|| call().run_blocking(never)).join().is_err());
    assert!(panics);
    assert_eq!(call().run_blocking(one).unwrap(), Done::Ran(1));
}

#[test]
fn a_caller_ends_its_work_by_hand() {
    let (server, folder) = (Redis::start(&[]), tempfile::tempdir().unwrap());
    let sqlite = format!("sqlite:///{}", folder.path().join("i.db").display());
    for url in ["memory://", &sqlite, &server.url()] {
        let engine = Idempotency::new(stores::open(url).unwrap()).lease(LEASE);
        let begin = |key| match engine.call("work", key).unwrap().begin_blocking::<u32>().unwrap() {
            Begun::Run(attempt) => attempt,
            other => panic!("{url}: {other:?}"),
        };
        begin("fails").fail_blocking().unwrap();
        begin("fails").release_blocking().unwrap();
        let attempt = begin("fails");
        // Its lease is renewed while nobody drives a runtime on this thread.
        std::thread::sleep(LEASE * 2);
        let repeat = engine.call("work", "fails").unwrap().begin_blocking::<u32>().unwrap();
        assert!(matches!(repeat, Begun::InFlight { .. }), "{url}: {repeat:?}");
        assert_eq!(attempt.complete_blocking(7).unwrap(), 7);
        let repeat = engine.call("work", "fails").unwrap().begin_blocking::<u32>().unwrap();
        assert!(matches!(repeat, Begun::Replayed(7)), "{url}: {repeat:?}");
    }
}

#[test]
fn inside_a_runtime_it_says_what_to_do_instead() {
    let engine = Idempotency::new(stores::open("memory://").unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(async { engine.call("work", "1").unwrap().run_blocking(never) });
    let Err(error @ Error::InRuntime) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("use run and await it"));
    let begun = runtime.block_on(async { engine.call("work", "2").unwrap().begin_blocking::<u32>() });
    assert!(matches!(begun, Err(Error::InRuntime)), "{begun:?}");
    let drained = runtime.block_on(async { engine.drain_blocking(Duration::ZERO) });
    assert!(matches!(drained, Err(Error::InRuntime)));
    // What the error says for a thread of spawn_blocking.
    let done = runtime.block_on(async {
        let blocks = move || {
            let run = engine.call("work", "1").unwrap().run(async |_| Ok::<_, String>(1));
            tokio::runtime::Handle::current().block_on(run)
        };
        tokio::task::spawn_blocking(blocks).await.unwrap()
    });
    assert_eq!(done.unwrap(), Done::Ran(1));
}
