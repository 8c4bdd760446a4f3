//! What observers are told: each fact once, and never what is secret.

mod common;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use common::Redis;
use common::place::{Tuned, redis_engine};
use idempotency::engine::{Attempt, Begun, Call, Settled, Verdict};
use idempotency::events::{self, Event, Observation, What};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Digest, Fingerprint, Idempotency, Key, Operation, Scope, StorageKey};

const SECRETS: [&str; 4] = ["key-secret", "payload-secret", "result-secret", "caller-secret"];

/// Observers are the process's: one test at a time has any.
static ALONE: Mutex<()> = Mutex::new(());

/// What is told while a test runs.
struct Seen {
    events: Arc<Mutex<Vec<Event>>>,
    _observation: Observation,
    _alone: MutexGuard<'static, ()>,
}

impl Seen {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let told = events.clone();
        let observation = events::observe(move |event: &Event| told.lock().unwrap().push(event.clone()));
        Self { events, _observation: observation, _alone: alone }
    }

    /// What was told since the last time, but for the operations of the store.
    fn facts(&self) -> Vec<Event> {
        assert!(events::flush(Duration::from_secs(10)));
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        for event in &events {
            let said = format!("{event:?} {event}");
            assert!(SECRETS.iter().all(|secret| !said.contains(secret)), "{said}");
        }
        events.into_iter().filter(|event| !matches!(event.what, What::StoreOperation { .. })).collect()
    }

    fn names(&self) -> Vec<&'static str> {
        self.facts().iter().map(|event| event.what.name()).collect()
    }
}

fn call(payload: &str) -> Call {
    let operation = Operation::Http { method: "POST", path: b"/pay" };
    let scope = Scope { namespace: "", operation, caller: Some(b"caller-secret") };
    Call::new(&scope, &Key::new("key-secret").unwrap(), Fingerprint(Digest::new(payload).finish()))
}

async fn run(engine: &Idempotency, call: &Call) -> Attempt {
    match engine.begin(call).await.unwrap() {
        Begun::Run(mut attempt) => {
            assert_eq!(attempt.start(), idempotency::decide::Start::Now);
            attempt
        }
        held => panic!("{held:?}"),
    }
}

fn completed() -> Verdict {
    Verdict::Complete(Arc::from(*b"result-secret"))
}

fn memory() -> Idempotency {
    Idempotency::new(MemoryStore::new())
}

#[tokio::test]
async fn a_first_call_a_repeat_another_payload_and_one_in_between() {
    let (seen, engine, call) = (Seen::new(), memory(), call("payload-secret"));
    let attempt = run(&engine, &call).await;
    let fence = attempt.fence();
    engine.begin(&call).await.unwrap();
    attempt.settle(completed()).await;
    engine.begin(&call).await.unwrap();
    engine.begin(&self::call("another")).await.unwrap();

    let facts = seen.facts();
    let names: Vec<_> = facts.iter().map(|event| event.what.name()).collect();
    assert_eq!(names, ["claimed", "in_flight", "completed", "replayed", "conflict"]);
    for event in &facts {
        assert_eq!((event.store, event.operation(), event.has_caller()), ("memory", Some("POST /pay"), true));
        assert_eq!(event.record_id().as_deref(), Some(&*call.key.id()));
        assert!(event.to_string().contains(&call.key.id()));
    }
    assert_eq!(facts[0].fence(), Some(fence));
    assert_eq!(facts[2].fence(), Some(fence));
    assert_eq!(facts[3].fence(), None);
    let What::Completed { bytes: 13, was_deferred: false, .. } = facts[2].what else { panic!("{:?}", facts[2]) };
}

#[tokio::test]
async fn ends_without_a_result() {
    let (seen, engine, call) = (Seen::new(), memory(), call("x"));
    run(&engine, &call).await.settle(Verdict::Release).await;
    run(&engine, &call).await.settle(Verdict::NotKept(Arc::default())).await;
    engine.begin(&call).await.unwrap();
    assert_eq!(seen.names(), ["claimed", "released", "claimed", "completed_without_result", "not_kept"]);

    let refusing = memory().after_crash(AfterCrash::Refuse);
    run(&refusing, &call).await.settle(Verdict::Fail).await;
    refusing.begin(&call).await.unwrap();
    assert_eq!(seen.names(), ["claimed", "ended_unknown", "unknown"]);
}

#[tokio::test]
async fn an_attempt_that_is_broken_off_is_held_and_then_taken_over() {
    let (seen, call) = (Seen::new(), call("x"));
    let engine = memory().lease(Duration::from_millis(30));
    drop(run(&engine, &call).await);
    let waiting = engine.clone().wait(Duration::from_secs(10));
    run(&waiting, &call).await.settle(completed()).await;
    let facts = seen.facts();
    let names: Vec<_> = facts.iter().map(|event| event.what.name()).collect();
    assert_eq!(names, ["claimed", "held", "claimed", "waited", "completed"]);
    let takes_over = |event: &Event| matches!(event.what, What::Claimed { takes_over: true, .. });
    assert_eq!((takes_over(&facts[0]), takes_over(&facts[2])), (false, true));
}

#[tokio::test]
async fn an_attempt_that_an_operator_completed_is_lost() {
    let (seen, engine, call) = (Seen::new(), memory(), call("x"));
    let attempt = run(&engine, &call).await;
    assert!(engine.resolve(&call.key, attempt.fence(), Some(Arc::from(*b"word")), true).await.unwrap());
    assert!(matches!(attempt.settle(completed()).await, Settled::Replaced(_)));
    let facts = seen.facts();
    assert!(matches!(facts[1].what, What::Lost { is_replaced: true, .. }), "{facts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_once_and_what_waited_for_its_end() {
    let mut server = Redis::start(&[]);
    let (seen, engine, call) = (Seen::new(), redis_engine(&server.url()), call("x"));
    let attempt = run(&engine, &call).await;
    server.stop();
    assert_eq!(attempt.settle(completed()).await, Settled::Deferred);
    for _ in 0..3 {
        engine.begin(&call).await.unwrap_err();
    }
    server.restart();
    assert!(engine.drain(Duration::from_secs(20)).await);
    let facts = seen.facts();
    let names: Vec<_> = facts.iter().map(|event| event.what.name()).collect();
    let count = |name| names.iter().filter(|told| **told == name).count();
    for (name, times) in
        [("store_failed", 1), ("deferred", 1), ("unavailable", 3), ("store_recovered", 1), ("completed", 1)]
    {
        assert_eq!(count(name), times, "{name}: {names:?}");
    }
    let late = facts.iter().find(|event| event.what.name() == "completed").unwrap();
    assert!(late.what.was_deferred());
    let failed = facts.iter().find(|event| event.what.name() == "store_failed").unwrap();
    assert_eq!((failed.store, failed.operation(), failed.record_id()), ("redis", None, None));
}

#[tokio::test]
async fn an_observer_that_hangs_or_panics_harms_nobody() {
    let (seen, engine) = (Seen::new(), memory());
    let (release, hung) = mpsc::channel::<()>();
    let hung = Mutex::new(hung);
    let hanging = events::observe(move |_: &Event| {
        let _ = hung.lock().unwrap().recv();
    });
    let panicking = events::observe(|_: &Event| panic!("an observer of a test"));
    let (before, call) = (events::dropped(), call("x"));
    run(&engine, &call).await.settle(completed()).await;
    for _ in 0..20_000 {
        engine.begin(&call).await.unwrap();
    }
    assert!(events::dropped() > before, "nothing was dropped");
    assert!(!events::flush(Duration::from_millis(1)));
    drop((release, hanging, panicking));
    assert_eq!(seen.names()[..3], ["claimed", "completed", "replayed"]);
}

#[tokio::test]
async fn the_recorder_of_the_metrics_facade_is_told() {
    let (seen, engine) = (Seen::new(), memory());
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let told = recorder.snapshotter();
    recorder.install().unwrap();
    let metrics = events::to_metrics();
    let call = call("x");
    run(&engine, &call).await.settle(completed()).await;
    engine.begin(&call).await.unwrap();
    drop(seen.facts());
    drop(metrics);
    let Begun::Run(lost) = engine.begin(&Call { key: StorageKey([9; 32]), ..call.clone() }).await.unwrap() else {
        panic!()
    };
    lost.settle(Verdict::Hold).await;
    idempotency::ages::measure(&engine, 10).await.unwrap();
    let told: Vec<String> = told
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let labels: Vec<_> = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            format!("{} {} {value:?}", key.key().name(), labels.join(","))
        })
        .collect();
    for expected in [
        "idempotency_calls operation=POST /pay,outcome=claimed Counter(1)",
        "idempotency_calls operation=POST /pay,outcome=replayed Counter(1)",
        "idempotency_attempts operation=POST /pay,outcome=completed Counter(1)",
        "idempotency_attempts_in_flight operation=POST /pay Gauge(0.0)",
        "idempotency_result_bytes operation=POST /pay Histogram([13.0])",
        "idempotency_oldest_unknown_seconds store=memory Gauge(0.0)",
    ] {
        assert!(told.iter().any(|line| line == expected), "{expected}: {told:#?}");
    }
    let oldest =
        told.iter().find_map(|line| line.strip_prefix("idempotency_oldest_in_flight_seconds store=memory Gauge("));
    let age: f64 = oldest.and_then(|age| age.strip_suffix(')')).unwrap().parse().unwrap();
    assert!(age > 0.0 && age < 60.0, "{age}");
}
