//! A process that is killed in the middle of its work.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Redis;
use common::place::{LEASE, Tuned};
use idempotency::{AfterCrash, CurrentAttempt, Done, Error, Idempotency, stores};

const CHILD: &str = "IDEMPOTENCY_TEST_CHILD";

/// Says that it has begun, and never ends. Run in a process of its own by the tests below.
#[test]
fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let engine = Idempotency::new(stores::open(&url).unwrap()).lease(LEASE * 2);
    let work = |_| -> Result<u32, String> {
        println!("it has begun");
        loop {
            std::thread::park();
        }
    };
    let _ = engine.call("work", "1").unwrap().run_blocking(work);
}

/// Starts the child, and kills it half-way.
fn crash(url: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it has begun")), "the child begins");
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
}

#[test]
fn a_killed_process_frees_the_key_when_its_lease_ends_and_refuse_leaves_it_unknown() {
    let (server, folder) = (Redis::start(&[]), tempfile::tempdir().unwrap());
    let sqlite = format!("sqlite:///{}", folder.path().join("i.db").display());
    for url in [&sqlite, &server.url()] {
        crash(url);
        let engine = Idempotency::new(stores::open(url).unwrap());
        let never = |_: CurrentAttempt| -> Result<u32, String> { panic!("nothing may run") };
        let busy = engine.call("work", "1").unwrap().run_blocking(never);
        assert!(matches!(busy, Err(Error::InFlight { retry_after }) if retry_after <= LEASE * 2), "{busy:?}");
        let waiter = engine.wait(Duration::from_secs(20));
        let refusing = waiter.clone().after_crash(AfterCrash::Refuse);
        let unknown = refusing.call("work", "1").unwrap().run_blocking(never);
        assert!(matches!(unknown, Err(Error::Unknown)), "{url}: {unknown:?}");
        let again = waiter.call("work", "1").unwrap().run_blocking(|_| Ok::<_, String>(2));
        assert_eq!(again.unwrap(), Done::Ran(2), "{url}");
    }
}
