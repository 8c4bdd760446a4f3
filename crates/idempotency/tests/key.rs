//! Keys, their header and their scopes.

use idempotency::{Digest, Fingerprint, Key, KeyFormat, Operation, Scope, StorageKey, hex};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

/// Standard base64 with padding; the vectors hold any bytes.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | DIGITS.iter().position(|d| *d == digit).expect("a base64 digit") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[test]
fn every_header_vector_reads_as_it_says_in_both_formats() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/idempotency_key_header.json")).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 40, "only {} vectors", vectors.len());
    for vector in vectors {
        let lines: Vec<Vec<u8>> =
            vector["lines_base64"].as_array().unwrap().iter().map(|line| base64(line.as_str().unwrap())).collect();
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        for (format, name) in [(KeyFormat::Strict, "strict"), (KeyFormat::Lenient, "lenient")] {
            let parsed = format.parse(&lines);
            let read = parsed.as_ref().ok().map(Key::as_str);
            assert_eq!(read, vector[name].as_str(), "{name} {}: {parsed:?}", vector["lines"]);
        }
    }
}

#[test]
fn a_request_without_the_header_has_no_key() {
    assert!(KeyFormat::Lenient.parse(&[]).is_err());
    assert!(KeyFormat::Strict.parse(&[]).is_err());
}

#[test]
fn a_key_has_up_to_255_characters_in_every_format() {
    let (fits, too_long) = ("k".repeat(255), "k".repeat(256));
    assert_eq!(KeyFormat::Lenient.parse(&[fits.as_bytes()]).unwrap().as_str(), fits);
    assert!(KeyFormat::Lenient.parse(&[too_long.as_bytes()]).is_err());
    let quoted = |key: &str| format!("\"{key}\"");
    assert_eq!(KeyFormat::Strict.parse(&[quoted(&fits).as_bytes()]).unwrap().as_str(), fits);
    assert!(KeyFormat::Strict.parse(&[quoted(&too_long).as_bytes()]).is_err());
    assert_eq!(Key::new("ü".repeat(255)).unwrap().as_str().len(), 510, "characters are counted, not bytes");
}

proptest! {
    #[test]
    fn no_header_bytes_panic_and_what_is_read_fits(lines in vec(vec(any::<u8>(), 0..300), 0..3)) {
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        for format in [KeyFormat::Strict, KeyFormat::Lenient] {
            if let Ok(key) = format.parse(&lines) {
                prop_assert!((1..=255).contains(&key.as_str().chars().count()));
                prop_assert_eq!(lines.len(), 1, "two lines are never one key");
            }
        }
    }

    #[test]
    fn strict_reads_nothing_that_lenient_reads_otherwise(line in "[ -~]{0,40}") {
        if let Ok(key) = KeyFormat::Strict.parse(&[line.as_bytes()]) {
            prop_assert_eq!(KeyFormat::Lenient.parse(&[line.as_bytes()]), Ok(key));
        }
    }
}

/// All that tells one key from another, owned.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    namespace: String,
    http: bool,
    name: String,
    path: String,
    caller: Option<Vec<u8>>,
    key: String,
}

impl Parts {
    fn storage_key(&self) -> StorageKey {
        let operation = match self.http {
            true => Operation::Http { method: &self.name, path: self.path.as_bytes() },
            false => Operation::Call(&self.name),
        };
        let scope = Scope { namespace: &self.namespace, operation, caller: self.caller.as_deref() };
        scope.storage_key(&Key::new(self.key.clone()).unwrap())
    }

    /// Another with the same text, cut elsewhere: what an attacker would try who controls two neighbours.
    fn shifted(&self, boundary: usize) -> Self {
        let mut other = self.clone();
        let shift = |from: &mut String, to: &mut String| {
            if let Some(last) = from.pop() {
                to.insert(0, last);
            }
        };
        match boundary {
            0 => shift(&mut other.namespace, &mut other.name),
            1 => shift(&mut other.name, &mut other.path),
            2 if other.key.len() > 1 => {
                let first = other.key.remove(0);
                other.path.push(first);
            }
            3 => other.http = !other.http,
            4 => other.caller = if other.caller.is_none() { Some(vec![]) } else { None },
            5 => std::mem::swap(&mut other.name, &mut other.path),
            6 => std::mem::swap(&mut other.namespace, &mut other.name),
            _ => other.caller.get_or_insert_default().extend_from_slice(other.key.as_bytes()),
        }
        if !other.http {
            other.path.clear();
        }
        other
    }
}

// Few letters, so that equal neighbours and shifted boundaries come up often; "call" and "http" are tags of the format.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab01]{0,3}", Just("call".to_string()), Just("http".to_string()), Just("\0\0\0\0\0\0\0\u{1}a".into())]
}

fn parts() -> impl Strategy<Value = Parts> {
    let caller = prop_oneof![Just(None), vec(prop_oneof![Just(b'0'), Just(b'1'), Just(b'a')], 0..3).prop_map(Some)];
    (text(), any::<bool>(), text(), text(), caller, "[ab01]{1,3}").prop_map(
        |(namespace, http, name, path, caller, key)| {
            let path = if http { path } else { String::new() };
            Parts { namespace, http, name, path, caller, key }
        },
    )
}

fn lists() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..4), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn scopes_cannot_forge_each_other(one in parts(), two in parts()) {
        prop_assert_eq!(one == two, one.storage_key() == two.storage_key());
    }

    #[test]
    fn shifting_a_boundary_makes_another_key(one in parts(), boundary in 0usize..8) {
        let two = one.shifted(boundary);
        prop_assert_eq!(one == two, one.storage_key() == two.storage_key(), "{:?} {:?}", one, two);
    }

    #[test]
    fn lists_of_parts_never_run_together(one in lists(), two in lists()) {
        let digest = |parts: &[Vec<u8>]| {
            parts.iter().fold(Digest::new("test"), |digest, part| digest.part(part)).finish()
        };
        prop_assert_eq!(one == two, digest(&one) == digest(&two));
    }

    #[test]
    fn a_part_in_pieces_is_the_same_part(pieces in vec(vec(any::<u8>(), 0..9), 0..5)) {
        let whole = pieces.concat();
        let in_pieces = Digest::new("test").parts(whole.len() as u64, pieces.iter().map(Vec::as_slice));
        prop_assert_eq!(in_pieces.finish(), Digest::new("test").part(&whole).finish());
    }
}

fn charge() -> Parts {
    Parts {
        namespace: "shop".into(),
        http: true,
        name: "POST".into(),
        path: "/charge".into(),
        caller: Some(b"alice".to_vec()),
        key: "order-7".into(),
    }
}

#[test]
fn a_derived_key_is_stable_and_depends_on_name_and_parent() {
    let key = charge().storage_key();
    assert_eq!(key.derive("charge"), charge().storage_key().derive("charge"));
    assert_ne!(key.derive("charge"), key.derive("refund"));
    let other = Parts { caller: None, ..charge() }.storage_key();
    assert_ne!(key.derive("charge"), other.derive("charge"));
    assert!(!key.to_string().contains(&key.derive("charge")), "a child says nothing about its parent");
    assert_eq!(key.derive("").len(), 32, "it fits where keys go");
}

// Pinned: records outlive processes, and other languages compute the same. The figures come from the documented format,
// computed apart from this code.
#[test]
fn the_format_of_keys_and_fingerprints_does_not_change() {
    assert_eq!(charge().storage_key().to_string(), "75a618a3a4dd3299b384c953f243bc59d6baeec3759226447de41ab9d5192148");
    let call = Parts { http: false, name: "shop.charge".into(), path: String::new(), caller: None, ..charge() };
    assert_eq!(call.storage_key().to_string(), "fad4ecedf905a4a63a4b7b76e5e23f53d68b4c0e558e6bb949f73cc796d24e35");
    assert_eq!(charge().storage_key().derive("charge"), "ec1119ba285699fb46190843412d00d0");
    let fingerprint = Fingerprint(Digest::new("charge").part(b"42 EUR").option(None).option(Some(b"x")).finish());
    assert_eq!(hex(&fingerprint.0), "36e953aff117beac128338bc659f41320cc884846c9c143862555dbbea21c404");
}

#[test]
fn a_key_is_read_and_written_as_a_string() {
    let key: Key = "order-7".parse().unwrap();
    assert_eq!((key.to_string(), serde_json::to_string(&key).unwrap()), ("order-7".into(), "\"order-7\"".into()));
    assert_eq!(serde_json::from_str::<Key>("\"order-7\"").unwrap(), key);
    let owned = "order-7".to_owned();
    assert_eq!(
        [Key::try_from("order-7"), Key::try_from(&owned), Key::try_from(owned)],
        [Ok(key.clone()), Ok(key.clone()), Ok(key)]
    );
    let refused = serde_json::from_str::<Key>("\"\"").unwrap_err().to_string();
    assert!(refused.starts_with("the idempotency key is empty; send 1 to 255 characters"), "{refused}");
    assert!("".parse::<Key>().is_err() && Key::try_from("x".repeat(256)).is_err());
}

#[cfg(feature = "tower")]
#[test]
fn a_key_is_read_from_a_header() {
    let read = |value: &'static str| Key::try_from(&http::HeaderValue::from_static(value));
    assert_eq!((read("\"order-7\""), read("order-7")), (Key::new("order-7"), Key::new("order-7")));
    assert!(read("\"order").is_err());
}
