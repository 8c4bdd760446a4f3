//! `get`: what stands under a key.

use serde_json::{Map, Value, json};

use super::Run;
use super::arguments::Name;
use super::exit::Failure;
use super::find::{Found, find};
use super::seen::Seen;
use super::words::{bytes, duration, time};
use crate::http::{Note, Replay};
use crate::record::{Record, State};
use crate::result_tags::{JSON, described};
use crate::seen::Standing;
use crate::seen::harmless;

pub(super) async fn get(run: &mut Run, name: &Name, show_body: bool) -> Result<(), Failure> {
    let Found { key, held, now } = find(run, name).await?;
    let seen = Seen::with(key, &held, now, None, held.record.encoded_len());
    let text = match run.json {
        true => format!("{}\n", Value::Object(document(&seen, &held.record, show_body))),
        false => {
            let painted = run.streams.paint(seen.standing.colour(), seen.standing.words());
            in_lines(&seen, &held.record, &painted, show_body)
        }
    };
    Ok(run.streams.print(&text)?)
}

/// What a program reads of a record.
pub(super) fn document(seen: &Seen, record: &Record, show_body: bool) -> Map<String, Value> {
    let mut said = seen.json();
    let result = &record.result;
    match record.state {
        State::Completed => {
            if let Ok(replay) = Replay::of(result) {
                said.insert("status".into(), json!(replay.answer.status));
                let headers = replay.answer.headers.iter().map(|(name, value)| json!([latin(name), latin(value)]));
                said.insert("headers".into(), headers.collect());
                said.insert("body_size".into(), json!(replay.answer.body.len()));
                if show_body {
                    insert_bytes(&mut said, "body", replay.answer.body);
                }
            } else {
                said.insert("result".into(), json!(described(result)));
                if show_body {
                    match value(result) {
                        Some(value) => drop(said.insert("value".into(), value)),
                        None => insert_bytes(&mut said, "stored", result),
                    }
                }
            }
        }
        State::NotKept => said.extend(Note::decode(result).unwrap_or_default().parameters()),
        State::InFlight | State::Unknown => {}
    }
    said
}

/// Text as it is; anything else in hexadecimal digits.
fn insert_bytes(said: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => said.insert(name.into(), json!(text)),
        Err(_) => said.insert(format!("{name}_hex"), json!(crate::hex(bytes))),
    };
}

/// The value of a Rust function.
fn value(result: &[u8]) -> Option<Value> {
    result.strip_prefix(&[JSON]).and_then(|json| serde_json::from_slice(json).ok())
}

fn in_lines(seen: &Seen, record: &Record, state: &str, show_body: bool) -> String {
    let mut text = format!("{}\n", seen.shown());
    let mut line = |name: &str, what: &str| text += &format!("  {name:11}{what}\n");
    line("state", state);
    line("began", &format!("{} ago, {}", duration(seen.age()), time(seen.fence)));
    line("fence", &seen.fence.to_string());
    if seen.standing == Standing::InFlight {
        line("lease", &format!("{} left", duration(seen.lease_left)));
    }
    line("crash", seen.after_crash());
    line("size", &bytes(seen.size as u64));
    match record.state {
        State::Completed => match Replay::of(&record.result) {
            Ok(replay) => {
                line("status", &replay.answer.status.to_string());
                for (name, value) in &replay.answer.headers {
                    line("header", &harmless(&format!("{}: {}", latin(name), latin(value))));
                }
                let body = replay.answer.body;
                line("body", &shown(body, show_body));
            }
            Err(_) => {
                line("result", described(&record.result));
                let size = bytes(record.result.len() as u64);
                match value(&record.result).filter(|_| show_body) {
                    Some(value) => line("value", &harmless(&value.to_string())),
                    None => line("value", &size),
                }
            }
        },
        State::NotKept => {
            let note = Note::decode(&record.result).unwrap_or_default();
            if let Some(status) = note.status {
                line("status", &format!("{status}, without its answer"));
            }
            if let Some(location) = note.location {
                line("location", &harmless(&location));
            }
        }
        State::InFlight | State::Unknown => {}
    }
    line("id", &seen.id.to_string());
    text
}

fn shown(body: &[u8], show_body: bool) -> String {
    let size = bytes(body.len() as u64);
    match (show_body, std::str::from_utf8(body)) {
        _ if body.is_empty() => "none".into(),
        (false, _) => format!("{size}, not shown (--show-body)"),
        (true, Ok(text)) => harmless(text),
        (true, Err(_)) => format!("{size}, which is no text"),
    }
}

/// Bytes of a header, taken for Latin-1.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
