//! Every state in which the model leaves a key, reached by the engine on every store, and what the next call gets.

mod common;
#[path = "model/rest.rs"]
mod rest;

use std::time::Duration;

use common::place::*;
use idempotency::decide::{Claim, Start};
use idempotency::engine::{Begun, Call, Settled, Verdict};
use idempotency::store::Claimed;
use idempotency::{AfterCrash, Idempotency, Record, State, Token};
use rest::Rest;

async fn ended(engine: &Idempotency, call: &Call, verdict: Verdict) {
    let mut attempt = begun(engine, call).await;
    assert_eq!(attempt.start(), Start::Now);
    assert_eq!(attempt.settle(verdict).await, Settled::Stored);
}

/// A claim whose process is killed before it sends anything more.
async fn crashed(place: &Place, call: &Call, after_crash: AfterCrash) {
    let record = Record {
        state: State::InFlight,
        after_crash,
        token: Token::random(),
        fence: 0,
        lease: LEASE.as_micros() as u64,
        ttl: 60_000_000,
        fingerprint: call.fingerprint,
        label: call.label.words().clone(),
        result: [].into(),
    };
    let claimed = place.store().claim(&call.key, &Claim { record, takes_over: None }).await;
    assert!(matches!(claimed, Ok(Claimed::Yes { .. })), "{claimed:?}");
}

/// Leaves the key of this call in a terminal state.
async fn reach(place: &Place, call: &Call, rest: Rest) {
    let engine = place.engine();
    let refusing = place.engine().after_crash(AfterCrash::Refuse);
    match rest {
        Rest::Absent => ended(&engine, call, Verdict::Release).await,
        Rest::Completed => ended(&engine, call, complete("done")).await,
        Rest::NotKept => ended(&engine, call, Verdict::NotKept(b"a stream".as_slice().into())).await,
        Rest::Unknown => ended(&refusing, call, Verdict::Fail).await,
        Rest::Lapsed => crashed(place, call, AfterCrash::Rerun).await,
        Rest::LapsedRefused => crashed(place, call, AfterCrash::Refuse).await,
        Rest::Resolved => {
            ended(&refusing, call, Verdict::Hold).await;
            let (held, _) = engine.get(&call.key).await.unwrap().expect("a held key is unknown");
            let result = Some(b"resolved".as_slice().into());
            assert!(engine.resolve(&call.key, held.record.fence, result, false).await.unwrap());
        }
    }
}

/// What stands under the key. Both results say themselves whose they are.
async fn stands(place: &Place, call: &Call) -> Rest {
    let engine = place.engine();
    loop {
        let Some((held, now)) = engine.get(&call.key).await.unwrap() else { return Rest::Absent };
        return match (held.record.state, held.record.after_crash) {
            (State::Completed, _) if *held.record.result == *b"resolved" => Rest::Resolved,
            (State::Completed, _) => Rest::Completed,
            (State::NotKept, _) => Rest::NotKept,
            (State::Unknown, _) => Rest::Unknown,
            (State::InFlight, _) if !held.is_lapsed(now) => {
                tokio::time::sleep(Duration::from_micros(held.lease_end - now)).await;
                continue;
            }
            (State::InFlight, AfterCrash::Rerun) => Rest::Lapsed,
            (State::InFlight, AfterCrash::Refuse) => Rest::LapsedRefused,
        };
    }
}

on_every_store! { every_terminal_state_of_the_model_is_reached }

async fn every_terminal_state_of_the_model_is_reached(place: Place) {
    for (key, rest) in (0..).zip(Rest::ALL) {
        let call = call(key);
        reach(&place, &call, *rest).await;
        assert_eq!(stands(&place, &call).await, *rest);
        let next = place.engine().begin(&call).await.unwrap();
        let is_right = match (rest, &next) {
            (Rest::Absent | Rest::Lapsed, Begun::Run(_)) => true,
            (Rest::Completed, Begun::Replay(result)) => **result == *b"done",
            (Rest::Resolved, Begun::Replay(result)) => **result == *b"resolved",
            (Rest::NotKept, Begun::NotKept(note)) => **note == *b"a stream",
            (Rest::Unknown | Rest::LapsedRefused, Begun::Unknown) => true,
            _ => false,
        };
        assert!(is_right, "{rest:?}: {next:?}");
    }
}
