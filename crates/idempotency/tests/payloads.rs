//! The fingerprint of a payload: equal values agree, others do not, and what can't be told is an error that says where.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::place::{Place, call};
use idempotency::engine::{Begun, Call, Verdict};
use idempotency::function::Unreadable;
use idempotency::{Digest, Error, Fingerprint, Idempotency, Key, Operation, Scope, hex, result_tags};
use serde::Serialize;

fn of(payload: &(impl Serialize + ?Sized)) -> Fingerprint {
    Fingerprint::of(payload).unwrap()
}

#[derive(Serialize)]
struct Point<X, Y> {
    x: X,
    y: Y,
}

#[derive(Serialize)]
struct Turned {
    y: u64,
    x: i8,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Dot,
    Circle(f32),
    Line(u8, u8),
    Box { width: u8 },
}

#[derive(Serialize)]
struct Meters(f32);

#[test]
fn equal_values_have_one_fingerprint() {
    let map = |order: [(&'static str, i32); 3]| order.into_iter().collect::<HashMap<_, _>>();
    let one = of(&map([("b", 1), ("a", 2), ("c", 3)]));
    assert_eq!(one, of(&map([("c", 3), ("a", 2), ("b", 1)])));
    assert_eq!(one, of(&BTreeMap::from([("a", 2_u64), ("b", 1), ("c", 3)])));
    assert_eq!(one, of(&serde_json::json!({"c": 3, "b": 1, "a": 2})));
    assert_eq!(of(&Point { x: 1, y: 2 }), of(&Turned { y: 2, x: 1 }), "fields count by name");
    assert_eq!(of(&Some("x")), of("x"), "a field that may be left out from now on breaks no retry");
    assert_eq!((of(&Meters(1.5)), of(&0.0)), (of(&1.5_f64), of(&-0.0)));
    assert_eq!(of(&'x'), of("x"));
}

#[test]
fn different_values_have_different_fingerprints() {
    let maps = [BTreeMap::from([("a", "b"), ("c", "d")]), BTreeMap::from([("a", "bc"), ("d", "")])];
    let mut all = vec![of(&maps[0]), of(&maps[1])];
    all.extend([of(&1), of(&1.0), of(&true), of("1"), of(&()), of(""), of(&u128::MAX), of(&-1), of(&i128::MAX)]);
    all.extend([of(&9_007_199_254_740_993_u64), of(&9_007_199_254_740_992_u64)]); // one double
    all.extend([of(&Shape::Dot), of(&Shape::Circle(1.0)), of(&Shape::Line(1, 2)), of(&Shape::Box { width: 1 })]);
    all.extend([
        of(&["a", "b"]),
        of(&["ab"]),
        of(&[["a"], ["b"]]),
        of(&[["a", "b"]]),
        of(&[0_u8; 0]),
        of(&[[0_u8; 0]]),
    ]);
    all.extend([of("dot"), of(&BTreeMap::<u8, u8>::new()), of(&Point { x: 1, y: 2 }), of(&Point { x: 2, y: 1 })]);
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

/// Records outlive the program that wrote them.
#[test]
fn a_fingerprint_stays_what_it_is() {
    let payload = (Point { x: "é", y: Some(0.5) }, [Shape::Dot, Shape::Box { width: 7 }], -3, ());
    assert_eq!(hex(&of(&payload).0), PINNED);
}

/// Worked out by hand from the table in `canonical.rs`.
const PINNED: &str = "e999d916023f1fb4ca2164bcd883b46f4228c618141309c8bd56889db508e605";

#[test]
fn a_call_without_a_payload_has_a_fingerprint_of_its_own() {
    let engine = Idempotency::new(idempotency::stores::MemoryStore::new());
    let call = || engine.call("work", "1").unwrap();
    call().run_blocking(|_| Ok::<_, String>(1)).unwrap();
    let without = Fingerprint(Digest::new("idempotency payload 1").finish());
    assert!(call().fingerprint(without).run_blocking(|_| Ok::<_, String>(2)).unwrap().is_replay());
    for other in [of(&()), of("")] {
        let conflict = call().fingerprint(other).run_blocking(|_| Ok::<_, String>(2));
        assert!(matches!(conflict, Err(Error::Conflict)));
    }
}

#[test]
fn what_can_t_be_told_is_an_error_that_says_where() {
    let said = |payload: &dyn Fn() -> Result<Fingerprint, idempotency::function::ValueError>| {
        payload().unwrap_err().to_string()
    };
    let nan = Point { x: 1, y: [Shape::Circle(f32::NAN)] };
    assert_eq!(said(&|| Fingerprint::of(&nan)), ".y.0.circle is not a finite number (NaN or infinite)");
    assert_eq!(said(&|| Fingerprint::of(&f64::INFINITY)), "the value is not a finite number (NaN or infinite)");
    let nested = "is Some of nothing (Some(None) or Some(())), which reads as None; use an enum";
    assert_eq!(said(&|| Fingerprint::of(&Point { x: Some(None::<u8>), y: 0 })), format!(".x {nested}"));
    assert_eq!(said(&|| Fingerprint::of(&Some(()))), format!("the value {nested}"));
    let deep = (0..200).fold(serde_json::json!(0), |inner, _| serde_json::json!([inner]));
    assert!(said(&|| Fingerprint::of(&deep)).ends_with(".0 is nested more than 100 levels deep"));
    struct Fails;
    impl Serialize for Fails {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("by the test"))
        }
    }
    assert_eq!(said(&|| Fingerprint::of(&[Fails])), ".0 can't be serialized: by the test");
}

#[tokio::test]
async fn a_payload_without_a_form_is_told_before_anything_runs() {
    let engine = Place::memory().engine();
    let call = engine.call("work", "1").unwrap().payload(&[f64::NAN]);
    let refused = call.run(async |_| -> Result<u8, String> { panic!("it ran") }).await;
    let Err(error @ Error::Payload(_)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.to_string(), "the payload can't be compared with that of a repeat");
    assert_eq!(
        std::error::Error::source(&error.boxed()).unwrap().to_string(),
        ".0 is not a finite number (NaN or infinite)"
    );
    assert!(engine.call("work", "1").unwrap().begin::<u8>().await.is_ok());
}

/// Plants a result of another face or language under a key, and reads it as a function's.
async fn reads<T: serde::de::DeserializeOwned + std::fmt::Debug>(key: &str, stored: &[u8]) -> Result<T, Unreadable> {
    let engine: Idempotency = Place::memory().engine();
    let scope = Scope { namespace: "", operation: Operation::Call("work"), caller: None };
    let fingerprint = call(1).fingerprint;
    let Ok(Begun::Run(attempt)) = engine.begin(&Call::new(&scope, &Key::new(key).unwrap(), fingerprint)).await else {
        panic!("the key is free")
    };
    attempt.settle(Verdict::Complete(stored.into())).await;
    let call = engine.call("work", key).unwrap().fingerprint(fingerprint);
    match call.run(async |_| -> Result<serde_json::Value, String> { panic!("it ran") }).await {
        Err(Error::Unreadable(_)) | Ok(_) => {}
        other => panic!("{other:?}"),
    }
    match engine.call("work", key).unwrap().fingerprint(fingerprint).begin::<T>().await {
        Ok(idempotency::Begun::Replayed(value)) => Ok(value),
        Err(Error::Unreadable(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_result_that_another_wrote_is_never_taken_for_another_value() {
    assert_eq!(reads::<u32>("0", b"J12").await.unwrap(), 12);
    let foreign =
        |what| format!("it is {what}, not that of a Rust function; give one of the two another name or namespace");
    let said = [
        (vec![result_tags::VALUE, b'1', b'N'], foreign("the value of a Python function")),
        (vec![result_tags::ENDPOINT_VALUE, b'1', b'N'], foreign("the value of a Python endpoint")),
        (vec![result_tags::EXCEPTION, b'1', b'N'], foreign("the exception of a Python function")),
        (vec![result_tags::ANSWER, 0, 200, 0, 0], foreign("the answer to an HTTP request")),
        (vec![result_tags::ANSWER_WITH_TRAILERS, 0, 0, 0, 200, 0, 0], foreign("the answer to an HTTP request")),
        (b"?12".to_vec(), foreign("damaged, or of a newer version of this library")),
        (vec![], foreign("damaged, or of a newer version of this library")),
        (b"J\"text\"".to_vec(), "it is no u32: invalid type: string \"text\", expected u32 at line 1 column 6".into()),
        (b"J12 13".to_vec(), "it is no u32: trailing characters at line 1 column 4".into()),
        (b"J".to_vec(), "it is no u32: EOF while parsing a value at line 1 column 0".into()),
    ];
    for (stored, words) in said {
        assert_eq!(reads::<u32>("1", &stored).await.unwrap_err().to_string(), words, "{stored:?}");
    }
}
