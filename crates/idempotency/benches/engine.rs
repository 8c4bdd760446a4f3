//! What the engine itself costs, without Python and without a server: `cargo bench -p idempotency`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use divan::{Bencher, black_box};
use idempotency::engine::{Begun, Call, Verdict};
use idempotency::http::{Answer, RequestFacts, canonical_json};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Fingerprint, Idempotency, Key, Operation, Record, Scope, State, Token};
use serde::Serialize;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

const SCOPE: Scope<'_> = Scope { namespace: "", operation: Operation::Call("charge"), caller: None };
const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);

fn call(number: u64) -> Call {
    Call::new(&SCOPE, &Key::new(number.to_string()).unwrap(), FINGERPRINT)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn complete(engine: &Idempotency, call: &Call) {
    let Begun::Run(mut attempt) = engine.begin(call).await.unwrap() else { panic!("it ran before") };
    assert_eq!(attempt.start(), idempotency::decide::Start::Now);
    attempt.settle(Verdict::Complete(Arc::from(*b"charged"))).await;
}

/// A new key: claimed, completed.
#[divan::bench]
fn claim_and_complete(bencher: Bencher<'_, '_>) {
    let (runtime, engine, next) = (runtime(), Idempotency::new(MemoryStore::new()), AtomicU64::new(0));
    let new_call = || call(next.fetch_add(1, Ordering::Relaxed));
    bencher.with_inputs(new_call).bench_values(|call| runtime.block_on(complete(&engine, &call)));
}

/// A key that is completed.
#[divan::bench]
fn replay(bencher: Bencher<'_, '_>) {
    let (runtime, engine, call) = (runtime(), Idempotency::new(MemoryStore::new()), call(0));
    runtime.block_on(complete(&engine, &call));
    bencher.bench_local(|| runtime.block_on(async { matches!(engine.begin(&call).await, Ok(Begun::Replay(_))) }));
}

#[derive(Serialize)]
struct Order {
    to: &'static str,
    amount: u32,
}

const ORDER: Order = Order { to: "alice", amount: 1050 };

/// A function that runs: its payload is digested, its result encoded.
#[divan::bench]
fn function_first(bencher: Bencher<'_, '_>) {
    let (runtime, engine, next) = (runtime(), Idempotency::new(MemoryStore::new()), AtomicU64::new(0));
    let key = || Key::new(next.fetch_add(1, Ordering::Relaxed).to_string()).unwrap();
    bencher.with_inputs(key).bench_values(|key| {
        let call = engine.call("charge", key).unwrap().payload(&ORDER);
        runtime.block_on(call.run(async |_| Ok::<u32, ()>(black_box(42)))).unwrap()
    });
}

/// A function that ran before.
#[divan::bench]
fn function_replay(bencher: Bencher<'_, '_>) {
    let (runtime, engine) = (runtime(), Idempotency::new(MemoryStore::new()));
    let charge = || engine.call("charge", "order-7").unwrap().payload(&ORDER);
    let run = async |_| Ok::<u32, ()>(black_box(42));
    runtime.block_on(charge().run(run)).unwrap();
    bencher.bench_local(|| assert!(runtime.block_on(charge().run(run)).unwrap().is_replay()));
}

/// What a call costs before the store is asked: its storage key, its label, its fingerprint.
#[divan::bench]
fn payload_fingerprint(bencher: Bencher<'_, '_>) {
    bencher.bench(|| Fingerprint::of(black_box(&ORDER)));
}

#[divan::bench]
fn storage_key(bencher: Bencher<'_, '_>) {
    bencher.bench(|| call(black_box(7)));
}

fn record() -> Record {
    Record {
        state: State::Completed,
        after_crash: AfterCrash::Rerun,
        token: Token([1; 16]),
        fence: 1_790_000_000_000_000,
        lease: 30_000_000,
        ttl: 86_400_000_000,
        fingerprint: FINGERPRINT,
        label: "charge order-7".into(),
        result: Arc::from([b'x'; 200]),
    }
}

#[divan::bench]
fn record_encode(bencher: Bencher<'_, '_>) {
    let record = record();
    bencher.bench(|| black_box(&record).encode());
}

#[divan::bench]
fn record_decode(bencher: Bencher<'_, '_>) {
    let encoded = record().encode();
    bencher.bench(|| Record::decode(black_box(&encoded)));
}

const BODY: &[u8] =
    br#"{"to": "alice", "amount": 1050, "lines": [{"item": "pen", "count": 2}, {"item": "ink", "count": 1}]}"#;

fn facts(body: &[u8]) -> RequestFacts<'_> {
    RequestFacts { method: "POST", path: b"/orders", query: b"", content_type: b"application/json", body }
}

#[divan::bench]
fn request_fingerprint(bencher: Bencher<'_, '_>) {
    bencher.bench(|| facts(black_box(BODY)).fingerprint());
}

#[divan::bench]
fn request_fingerprint_of_json(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        let body = canonical_json(b"application/json", black_box(BODY)).unwrap();
        facts(&body).fingerprint()
    });
}

#[divan::bench]
fn answer_stored(bencher: Bencher<'_, '_>) {
    let headers = [("content-type", "application/json"), ("date", "now"), ("location", "/orders/7")];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let answer = || Answer { status: 201, headers: headers.clone(), body: BODY };
    bencher.with_inputs(answer).bench_values(|answer| answer.stored(false));
}
