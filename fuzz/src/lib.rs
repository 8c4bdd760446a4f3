//! What must hold for whatever bytes arrive: a function for each reader of bytes that somebody else wrote.
//!
//! `make fuzz` looks for bytes that break one; `tests/corpus.rs` tries those in `corpus/`, which `cargo test` runs.
//! The decoder of Python values has its target in `value.py`.

use idempotency::form::RecordForm;
use idempotency::http::{self, Answer, Note, REPLAYED, Replay, RequestFacts, canonical_json, store_answer};
use idempotency::seal::SealKeys;
use idempotency::step::{self, Change, Step};
use idempotency::{Fingerprint, KeyFormat, MAX_KEY, Record, State, StorageKey};
use serde_json::Value;

/// Panics where something does not hold for these bytes.
pub type Target = fn(&[u8]);

/// Every target, by its name: that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 7] = [
    ("header", header),
    ("record", record),
    ("answer", answer),
    ("multipart", multipart),
    ("json", json),
    ("note", note),
    ("sealed", sealed),
];

/// The `Idempotency-Key` header, a line of it for each line of the input.
pub fn header(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let [lenient, strict] = [KeyFormat::Lenient, KeyFormat::Strict].map(|format| {
        let read = format.parse(&lines);
        assert_eq!(read, format.parse(&[&lines.join(&b", "[..])]), "lines count as one that joins them");
        read
    });
    if let Ok(key) = &lenient {
        assert!(
            (1..=MAX_KEY).contains(&key.as_str().len()) && key.as_str().bytes().all(|byte| matches!(byte, b' '..=b'~'))
        );
        let quoted = format!(" \"{}\"; a=1 ", key.as_str().replace('\\', "\\\\").replace('"', "\\\""));
        for format in [KeyFormat::Lenient, KeyFormat::Strict] {
            assert_eq!(format.parse(&[quoted.as_bytes()]).as_ref(), Ok(key), "it is one key, however it is written");
        }
    }
    if strict.is_ok() {
        assert_eq!(strict, lenient, "what the strict format reads, the lenient one reads alike");
    }
}

/// A record, and the value of a store that has it after the time it expires.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        let encoded = record.encode();
        if record.label.len() <= 200 {
            assert_eq!(encoded, data, "a record has one wire form");
        }
        let again = Record::decode(&encoded).expect("what was encoded is a record");
        assert!(record.label.starts_with(&*again.label));
        assert_eq!(again, Record { label: again.label.clone(), ..record });
        let head = encoded.len() - again.result.len();
        assert!(
            (0..head).all(|length| Record::decode(&encoded[..length]).is_err()),
            "a record that breaks off is none"
        );
    }
    let found = Step::Get.apply(Some(data), 0);
    assert_eq!(found.is_ok(), step::expires(data).is_ok());
    if let Ok((change, step::Answer::Found(found))) = found {
        assert_eq!(change, Change::Nothing);
        let Some((held, now)) = found else { return };
        let (change, _) = Step::Renew(held.record.token).apply(Some(data), now).expect("it is a record");
        let Change::Write(renewed) = change else { return };
        let (_, step::Answer::Found(Some((again, _)))) = Step::Get.apply(Some(&renewed), now).expect("it was written")
        else {
            assert_eq!(held.record.ttl.max(held.record.lease), 0, "what was renewed is found");
            return;
        };
        assert_eq!(again.record.result, held.record.result);
        assert_eq!(again.lease_end, now.saturating_add(held.record.lease));
    }
}

/// A stored answer: read, stored again, replayed.
pub fn answer(data: &[u8]) {
    let is_named = |lines: &[(&[u8], &[u8])], name: &str| {
        lines.iter().any(|(header, _)| header.eq_ignore_ascii_case(name.as_bytes()))
    };
    let never = ["connection", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", REPLAYED];
    if let Ok(Replay { answer, trailers }) = Replay::of(data)
        && let Ok(stored) = store_answer(answer, &trailers, true)
    {
        let again = Replay::of(&stored).expect("what was stored is an answer");
        let mut sent = trailers.iter();
        assert!(again.trailers.iter().all(|line| sent.any(|other| other == line)), "trailers keep their order");
        assert!(!never.iter().any(|name| is_named(&again.trailers, name)), "these are not stored");
        let once_more = store_answer(again.answer, &again.trailers, true);
        assert_eq!(once_more.as_ref(), Ok(&stored), "what was stored is stored as it is");
    }
    let Some(answer) = Answer::decode(data) else { return };
    let Ok(stored) = answer.clone().stored(true) else { return };
    let kept = Answer::decode(&stored).expect("what was stored is an answer");
    assert_eq!((kept.status, kept.body), (answer.status, answer.body));
    let mut sent = answer.headers.iter();
    assert!(kept.headers.iter().all(|header| sent.any(|other| other == header)), "headers keep their order");
    for name in never {
        assert!(!is_named(&kept.headers, name), "{name} is not stored");
    }
    assert_eq!(kept.clone().stored(true).as_ref(), Ok(&stored), "what was stored is stored as it is");
    let without_cookies = kept.clone().stored(false).expect("it was stored with cookies");
    let without_cookies = Answer::decode(&without_cookies).expect("what was stored is an answer");
    let is_cookie = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(b"set-cookie");
    let others: Vec<_> = kept.headers.iter().copied().filter(|header| !is_cookie(header)).collect();
    assert_eq!(without_cookies.headers, others);

    let replay = Replay { answer: kept, trailers: vec![] };
    let (kept, added) = (&replay.answer, replay.added_headers());
    assert_eq!(added.last(), Some(&(REPLAYED, "true".to_owned())));
    let lengths: Vec<_> = added.iter().filter(|(name, _)| *name == "content-length").collect();
    assert_eq!(lengths.is_empty(), is_named(&kept.headers, "content-length") || !http::has_body(kept.status));
    assert!(lengths.iter().all(|(_, length)| *length == kept.body.len().to_string()));
}

/// A request with a body: the first line is its content type, the second a boundary.
///
/// Beside the body itself the target takes it for the contents of parts that this boundary and another one put together.
pub fn multipart(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [content_type, boundary, body] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let print = |content_type: &[u8], body: &[u8]| -> Fingerprint {
        RequestFacts { method: "POST", path: b"/", query: b"", content_type, body }.fingerprint()
    };
    assert_ne!(print(content_type, body), print(content_type, &[body, b"!"].concat()));
    assert_ne!(print(content_type, body), print(&[content_type, b"!"].concat(), body));

    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"'+_-.".contains(byte);
    if boundary.is_empty() || !boundary.iter().all(is_token) {
        return;
    }
    // Half as long again: where one boundary begins with the other, a delimiter of one is none of the other.
    let other = [boundary, &boundary[..boundary.len().div_ceil(2)]].concat();
    let form = |boundary: &[u8], parts: &[&[u8]]| {
        let content_type = [b"multipart/form-data; boundary=", boundary].concat();
        let parts = parts.iter().map(|part| [b"--", boundary, b"\r\n\r\n", part, b"\r\n"].concat());
        print(&content_type, &[parts.collect::<Vec<_>>().concat(), [b"--", boundary, b"--\r\n"].concat()].concat())
    };
    let parts: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    let has = |boundary: &[u8]| {
        let delimiter = [b"--", boundary].concat();
        parts.iter().any(|part| part.windows(delimiter.len()).any(|window| window == delimiter))
    };
    let (one, two) = (form(boundary, &parts), form(&other, &parts));
    assert_eq!(one == two, !has(boundary) && !has(&other), "the boundary counts where it is among the contents");
    // Other contents, told by either boundary.
    let longer = [parts[0], b"!"].concat();
    let ends = [parts[0], b"\r\n--", &other, b"--\r\n"].concat();
    let joined = parts.join(&[b"\r\n--", boundary, b"\r\n\r\n"].concat()[..]);
    let others: [Vec<&[u8]>; 3] =
        [[&[&longer[..]], &parts[1..]].concat(), [&[&ends[..]], &parts[1..]].concat(), [&parts[..], &[b""]].concat()];
    for changed in others {
        assert_ne!(two, form(&other, &changed));
        assert_ne!(two, form(boundary, &changed));
    }
    if parts.len() > 1 {
        assert_ne!(two, form(&other, &[&joined]));
    }
}

/// A JSON body in its canonical form.
pub fn json(data: &[u8]) {
    let form = |body: &[u8]| canonical_json(b"application/json", body);
    http::is_refusal(b"application/problem+json", data);
    let Some(canonical) = form(data) else { return };
    // An integer beyond 2^53 - 1 has a form only where it is written as a double, which the form does not do.
    assert!(form(&canonical).is_none_or(|again| again == canonical), "a canonical form is its own");
    let value = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("it is JSON");
    let (sent, kept) = (value(data), value(&canonical));
    assert_eq!(as_doubles(sent.clone()), as_doubles(kept), "it has the value of what was sent");
    let pretty = serde_json::to_vec_pretty(&sent).expect("it is JSON");
    if pretty.len() < 1 << 18 {
        assert_eq!(form(&pretty), Some(canonical), "white space does not count");
    }
}

/// A JSON value whose numbers are doubles.
fn as_doubles(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map(|number| number + 0.0).into(),
        Value::Array(items) => items.into_iter().map(as_doubles).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, as_doubles(value))).collect(),
        other => other,
    }
}

/// The note of an answer that was not kept.
pub fn note(data: &[u8]) {
    if let Some(note) = Note::decode(data) {
        assert_eq!(Note::decode(&note.encode()), Some(note));
    }
    let status = data.first_chunk().map(|status| u16::from_be_bytes(*status));
    let note = Note::of(status, [(&b"LOCATION"[..], data)]);
    assert_eq!(Note::decode(&note.encode()), Some(note));
}

/// A record that may be sealed, as a store gives it to whoever has the keys.
pub fn sealed(data: &[u8]) {
    let Ok(record) = Record::decode(data) else { return };
    let [key, other] = [[1; 32], [2; 32]].map(StorageKey);
    let keys = SealKeys::new(&[[7; 32]]).expect("it is a key").refusing_plain();
    let hiding = keys.clone().hiding_names(&"07".repeat(32)).expect("it is a key");
    for keys in [&keys, &hiding] {
        let Ok(opened) = keys.read(&key, record.clone()) else { continue };
        assert_eq!(opened.state, record.state);
        let again = keys.read(&key, keys.written(&key, &opened)).expect("it was written here");
        assert_eq!(again, opened);
        if opened.state == State::Completed {
            assert!(keys.read(&other, record.clone()).is_err(), "an answer is bound to its key");
            let moved = Record { fingerprint: Fingerprint([9; 32]), ..record.clone() };
            assert!(keys.read(&key, moved).is_err(), "an answer is bound to what was asked for");
        }
    }
}
