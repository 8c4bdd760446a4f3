//! Results that leave the process sealed: what a store has, who can read it, and what happens to who can't.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::place::{Place, Tuned, begun, call, complete, drained, on_every_store, paying, replayed};
use idempotency::decide::{Claim, Held, Resolution};
use idempotency::engine::{Begun, Call, Settled, Verdict};
use idempotency::form::RecordForm;
use idempotency::seal::{SealKeys, Sealed};
use idempotency::store::{Claimed, Completed, Listing, Reply};
use idempotency::stores::MemoryStore;
use idempotency::{
    AfterCrash, Fingerprint, Idempotency, Record, State, StorageKey, Store, StoreError, StoreErrorKind, Token, hex,
};

const SECRET: &str = "the card is 4242 4242 4242 4242";

fn keys(of: &[u8]) -> SealKeys {
    SealKeys::new(&of.iter().map(|key| [*key; 32]).collect::<Vec<_>>()).unwrap()
}

fn hidden(of: &[u8]) -> SealKeys {
    keys(of).hiding_names(&hex(&[9; 32])).unwrap()
}

fn completed(result: &[u8]) -> Record {
    Record {
        state: State::Completed,
        after_crash: AfterCrash::Rerun,
        token: Token([7; 16]),
        fence: 1,
        lease: 1_000_000,
        ttl: 60_000_000,
        fingerprint: Fingerprint([3; 32]),
        label: "charge order-7".into(),
        result: result.into(),
    }
}

const KEY: StorageKey = StorageKey([1; 32]);

fn why(read: Result<Record, StoreError>) -> String {
    let error = read.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Foreign);
    error.to_string()
}

#[test]
fn what_is_read_is_what_was_written() {
    for keys in [keys(&[1]), hidden(&[1])] {
        let long = "ü".repeat(100_000);
        for result in ["", "r", SECRET, &long] {
            let record = completed(result.as_bytes());
            let written = keys.written(&KEY, &record);
            assert_eq!(written.result.len(), result.len() + 46);
            assert_eq!(written.result[..2], *b"S\x01");
            assert_ne!(written.result, keys.written(&KEY, &record).result, "the nonce is random");
            assert_eq!(keys.read(&KEY, written).unwrap(), record);
        }
        let claim = Record { state: State::InFlight, result: [].into(), ..completed(b"") };
        let written = keys.written(&KEY, &claim);
        assert_eq!(written, keys.written(&KEY, &claim), "a claim is recognised by what was written");
        assert!(written.result.is_empty());
        assert_eq!(keys.read(&KEY, written).unwrap(), claim);
    }
}

#[test]
fn no_answer_can_be_moved_or_changed() {
    for keys in [keys(&[1]), hidden(&[1])] {
        let record = completed(SECRET.as_bytes());
        let written = keys.written(&KEY, &record);
        why(keys.read(&StorageKey([2; 32]), written.clone()));
        let mut other = record.clone();
        other.fingerprint = Fingerprint([4; 32]);
        for moved in [other, Record { state: State::NotKept, ..record.clone() }] {
            let result = written.result.clone();
            let said = why(keys.read(&KEY, Record { result, ..keys.written(&KEY, &moved) }));
            assert!(said.ends_with("it was changed, or it is of another key"), "{said}");
        }
        for length in 1..written.result.len() {
            why(keys.read(&KEY, Record { result: written.result[..length].into(), ..written.clone() }));
        }
        for at in 1..written.result.len() {
            let mut result = written.result.to_vec();
            result[at] ^= 1;
            why(keys.read(&KEY, Record { result: result.into(), ..written.clone() }));
        }
        let newer = [b"S\x02".as_slice(), &written.result[2..]].concat();
        let said = why(keys.read(&KEY, Record { result: newer.into(), ..written.clone() }));
        assert!(said.ends_with("upgrade this process"), "{said}");
    }
}

#[test]
fn keys_are_rotated() {
    let (old, both, turned, new) = (keys(&[1]), keys(&[1, 2]), keys(&[2, 1]), keys(&[2]));
    let record = completed(SECRET.as_bytes());
    for (writes, read, refuse) in [(&old, [&both, &turned], &new), (&turned, [&both, &new], &old)] {
        let written = writes.written(&KEY, &record);
        for keys in read {
            assert_eq!(keys.read(&KEY, written.clone()).unwrap(), record);
        }
        let said = why(refuse.read(&KEY, written));
        assert!(said.contains("sealed with a key that this process does not have"), "{said}");
    }
}

#[test]
fn what_was_there_before_is_read_unless_it_is_refused() {
    let plain = completed(b"Vplain");
    assert_eq!(keys(&[1]).read(&KEY, plain.clone()).unwrap(), plain);
    let said = why(keys(&[1]).refusing_plain().read(&KEY, plain.clone()));
    assert!(said.ends_with("its result is not sealed, and this process reads none that is not"), "{said}");
    let emptied = Record { result: [].into(), ..plain };
    why(keys(&[1]).refusing_plain().read(&KEY, emptied));
}

#[test]
fn hidden_names_say_nothing() {
    let (record, keys) = (completed(b"r"), hidden(&[1]));
    let written = keys.written(&KEY, &record);
    assert_ne!(keys.name(&KEY), KEY);
    assert_ne!(written.fingerprint, record.fingerprint);
    assert!(written.label.starts_with("sealed ") && written.label.len() <= 200);
    let long = Record { label: "ü".repeat(99).into(), ..record.clone() };
    assert_eq!(keys.written(&KEY, &long).label.len(), written.label.len(), "not even its length");
    assert_eq!(*keys.read(&KEY, keys.written(&KEY, &long)).unwrap().label, "ü".repeat(48));
    // The same payload of another attempt is written another way.
    let again = Record { token: Token([8; 16]), ..record.clone() };
    assert_ne!(keys.written(&KEY, &again).fingerprint, written.fingerprint);
    // Rotation of what seals results leaves names alone.
    assert_eq!(hidden(&[2, 1]).read(&KEY, written.clone()).unwrap(), record);
    let other = self::keys(&[1]).hiding_names(&hex(&[8; 32])).unwrap();
    assert_ne!(other.name(&KEY), keys.name(&KEY));
    let said = why(other.read(&KEY, written));
    assert!(said.contains("its name was not hidden with the key of this process"), "{said}");
    why(keys.read(&KEY, record));
}

/// Records that this version wrote, which later ones must read; Python's tests read the same.
#[test]
fn what_version_1_wrote_is_read() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("vectors/sealed_records.json")).unwrap();
    let bytes = |text: &serde_json::Value| -> Vec<u8> {
        let digits = text.as_str().unwrap().as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let key = StorageKey(bytes(&vectors["storage_key"]).try_into().unwrap());
    let seal = SealKeys::parse(vectors["keys"].as_str().unwrap()).unwrap();
    let hidden = seal.clone().hiding_names(vectors["names"].as_str().unwrap()).unwrap();
    for (which, keys) in [("sealed", seal), ("hidden", hidden)] {
        assert_eq!(keys.name(&key).0[..], bytes(&vectors[which]["name"]));
        let written = Record::decode(&bytes(&vectors[which]["record"])).unwrap();
        let record = keys.read(&key, written).unwrap();
        assert_eq!(record.fingerprint.0[..], bytes(&vectors["fingerprint"]));
        assert_eq!(record.result[..], bytes(&vectors["result"]));
        assert_eq!(&*record.label, "charge order-7");
    }
}

mod every_store {
    use super::*;

    fn sealed(place: &Place, keys: SealKeys) -> Idempotency {
        Idempotency::new(Sealed::new(place.store(), keys)).ttl(Duration::from_secs(60)).lease(Duration::from_secs(10))
    }

    async fn fails(engine: &Idempotency, call: &Call) -> String {
        let error = engine.begin(call).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Foreign);
        error.to_string()
    }

    async fn passes_the_suite(place: Place) {
        for keys in [keys(&[1]).refusing_plain(), hidden(&[1])] {
            idempotency::conformance::check(Sealed::new(place.store(), keys)).await;
        }
    }

    async fn repeats_are_opened_and_the_store_has_no_answer(place: Place) {
        for keys in [keys(&[1]), hidden(&[1])] {
            let name = keys.name(&call(1).key);
            let engine = sealed(&place, keys);
            assert_eq!(begun(&engine, &call(1)).await.settle(complete(SECRET)).await, Settled::Stored);
            assert_eq!(replayed(&engine, &call(1)).await, SECRET);
            assert!(matches!(engine.begin(&paying(1, 2)).await.unwrap(), Begun::Mismatch));
            let (held, _) = place.store().get(&name).await.unwrap().unwrap();
            assert!(!held.record.result.windows(4).any(|part| part == b"4242"));
            let note = Verdict::NotKept(SECRET.as_bytes().into());
            begun(&engine, &call(2)).await.settle(note).await;
            assert!(
                matches!(engine.begin(&call(2)).await.unwrap(), Begun::NotKept(note) if *note == *SECRET.as_bytes())
            );
            engine.resolve(&call(1).key, held.record.fence, None, true).await.unwrap();
            let (held, _) = engine.get(&call(2).key).await.unwrap().unwrap();
            engine.resolve(&call(2).key, held.record.fence, None, true).await.unwrap();
        }
    }

    async fn nothing_runs_without_the_key_and_the_record_stays(place: Place) {
        let engine = sealed(&place, keys(&[1]));
        begun(&engine, &call(1)).await.settle(complete(SECRET)).await;
        let (before, _) = place.store().get(&call(1).key).await.unwrap().unwrap();
        let without = place.engine();
        let other = sealed(&place, keys(&[2]));
        for _ in 0..2 {
            let said = fails(&without, &call(1)).await;
            assert!(said.contains("is sealed, and this process has no keys"), "{said}");
            assert!(fails(&without.clone().wait(Duration::from_secs(1)), &call(1)).await.contains("has no keys"));
            assert!(fails(&other, &call(1)).await.contains("a key that this process does not have"));
        }
        let (after, _) = place.store().get(&call(1).key).await.unwrap().unwrap();
        assert_eq!(before.record, after.record);
        // One record that can't be read is no outage: others go on.
        begun(&other, &call(2)).await.settle(complete("other")).await;
        assert_eq!(replayed(&other, &call(2)).await, "other");
        assert_eq!(replayed(&sealed(&place, keys(&[2, 1])), &call(1)).await, SECRET);
    }

    async fn what_was_plain_is_read_once_sealing_is_on(place: Place) {
        begun(&place.engine(), &call(1)).await.settle(complete("plain")).await;
        assert_eq!(replayed(&sealed(&place, keys(&[1])), &call(1)).await, "plain");
        let said = fails(&sealed(&place, keys(&[1]).refusing_plain()), &call(1)).await;
        assert!(said.contains("is not sealed"), "{said}");
    }

    async fn a_lapsed_claim_is_taken_over(place: Place) {
        for (at, first) in [keys(&[1]), hidden(&[1])].into_iter().enumerate() {
            let call = call(at as u8);
            let lease = Duration::from_millis(50);
            let then = if at == 0 { keys(&[2]) } else { hidden(&[2]) };
            let crashed = begun(&sealed(&place, first).lease(lease).run_limit(Duration::ZERO), &call).await;
            let next = sealed(&place, then);
            let next = common::place::begun_soon(&next, &call).await;
            assert!(next.fence() > crashed.fence());
            assert_eq!(next.settle(complete("second")).await, Settled::Stored);
            assert!(matches!(crashed.settle(complete("first")).await, Settled::Lost), "it has not the other's key");
        }
    }

    async fn who_lost_its_claim_gets_the_other_s_answer(place: Place) {
        for (at, keys) in [keys(&[1]), hidden(&[1])].into_iter().enumerate() {
            let call = call(at as u8);
            let late = sealed(&place, keys.clone()).lease(Duration::from_millis(50)).run_limit(Duration::ZERO);
            let crashed = begun(&late, &call).await;
            let next = common::place::begun_soon(&sealed(&place, keys), &call).await;
            next.settle(complete(SECRET)).await;
            let replaced = crashed.settle(complete("late")).await;
            assert_eq!(replaced, Settled::Replaced(SECRET.as_bytes().into()));
        }
    }

    async fn operators_see_what_was_hidden(place: Place) {
        let engine = sealed(&place, hidden(&[1])).after_crash(AfterCrash::Refuse);
        begun(&engine, &call(1)).await.settle(Verdict::Hold).await;
        let [listed] = &engine.list(&Listing::unfinished()).await.unwrap().records[..] else {
            panic!("one is unknown")
        };
        assert_eq!((listed.key, &*listed.held.record.label), (call(1).key, "test"));
        let [bare] = &place.store().list(&Listing::unfinished()).await.unwrap().records[..] else {
            panic!("one is unknown")
        };
        assert!(bare.held.record.label.starts_with("sealed "));
        let fence = listed.held.record.fence;
        // Without the key it can be freed, and not be answered.
        let answer = || Some(SECRET.as_bytes().into());
        let error = place.engine().resolve(&bare.key, fence, answer(), false).await.unwrap_err();
        assert!(error.to_string().contains("its name is hidden"), "{error}");
        assert!(engine.resolve(&listed.key, fence, answer(), false).await.unwrap());
        assert_eq!(replayed(&engine, &call(1)).await, SECRET);
        drained(&engine).await;
    }

    on_every_store! {
        passes_the_suite
        repeats_are_opened_and_the_store_has_no_answer
        nothing_runs_without_the_key_and_the_record_stays
        what_was_plain_is_read_once_sealing_is_on
        a_lapsed_claim_is_taken_over
        who_lost_its_claim_gets_the_other_s_answer
        operators_see_what_was_hidden
    }
}

#[tokio::test]
async fn a_store_that_can_t_see_a_record_says_so_of_the_claim_s_own() {
    // As Postgres does of a key that another transaction has.
    struct Unseen(MemoryStore);
    impl Store for Unseen {
        fn claim<'a>(&'a self, _: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
            let record = Record { token: Token([0; 16]), ..claim.record.clone() };
            let held = Held { record, lease_end: 1_000_000 };
            Box::pin(async { Ok(Claimed::No { held, now: 0 }) })
        }
        fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
            self.0.renew(key, attempt)
        }
        fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, until: u64) -> Reply<'a, Completed> {
            self.0.complete(key, record, until)
        }
        fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
            self.0.release(key, attempt)
        }
        fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, u64)>> {
            self.0.get(key)
        }
        fn resolve<'a>(&'a self, key: &'a StorageKey, word: &'a Resolution) -> Reply<'a, bool> {
            self.0.resolve(key, word)
        }
    }
    let engine = Idempotency::new(Sealed::new(Unseen(MemoryStore::new()), hidden(&[1])));
    assert!(matches!(engine.begin(&call(1)).await.unwrap(), Begun::InFlight { .. }));
}

/// A record in the caller's own transaction is sealed by the engine's keys.
#[tokio::test]
async fn a_transaction_seals() {
    use idempotency::Error;
    use idempotency::function::InTx;
    use idempotency::transactions::SQLITE_TABLES;

    for keys in [keys(&[1]), hidden(&[1])] {
        let mut shop = rusqlite::Connection::open_in_memory().unwrap();
        shop.execute_batch(SQLITE_TABLES).unwrap();
        let store = Arc::new(MemoryStore::new());
        let (engine, without) = (Idempotency::new(Sealed::new(store.clone(), keys.clone())), Idempotency::new(store));
        let tx = shop.transaction().unwrap();
        let InTx::Run(open) = engine.call("pay", "order-7").unwrap().in_tx_blocking::<String>(&tx).unwrap() else {
            panic!("the key is free");
        };
        open.complete_blocking(&tx, SECRET.to_owned()).unwrap();
        let record: Vec<u8> = tx.query_row("SELECT record FROM idempotency_results", [], |row| row.get(0)).unwrap();
        assert!(!record.windows(4).any(|part| part == b"4242"));
        assert_eq!(record.windows(7).any(|part| part == b"order-7"), keys == self::keys(&[1]));
        match engine.call("pay", "order-7").unwrap().in_tx_blocking::<String>(&tx).unwrap() {
            InTx::Replayed(before) => assert_eq!(before, SECRET),
            InTx::Run(_) => panic!("it was done"),
        }
        if keys == self::keys(&[1]) {
            let error = without.call("pay", "order-7").unwrap().in_tx_blocking::<String>(&tx).unwrap_err();
            let Error::Store(error) = error else { panic!("{error:?}") };
            assert!(error.to_string().contains("has no keys"));
        }
    }
}
