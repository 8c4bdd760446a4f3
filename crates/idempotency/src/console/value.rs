//! What a person says a repeat gets, in its stored form.

use serde_json::Value;

use super::request::Fields;
use crate::http::{Answer, has_body, store_answer};
use crate::result_tags::{JSON, VALUE};

/// A result, as the form has it: an answer, or the value of a function in one of two languages.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) content_type: String,
    pub(super) body: String,
    pub(super) value: String,
    pub(super) reason: String,
}

impl Draft {
    pub(super) fn of(form: &Fields) -> Self {
        let field = |name| form.get(name).to_owned();
        // Forms have lines end in CRLF, whatever was typed.
        let body = form.get("body").replace("\r\n", "\n");
        let (kind, status, content_type) = (field("kind"), field("status"), field("content_type"));
        Self { kind, status, content_type, body, value: field("value"), reason: form.get("reason").trim().to_owned() }
    }

    /// The form as it begins.
    pub(super) fn empty(is_request: bool) -> Self {
        Self {
            kind: if is_request { "answer" } else { "python" }.into(),
            status: "200".into(),
            content_type: "application/json".into(),
            body: String::new(),
            value: String::new(),
            reason: String::new(),
        }
    }

    /// The stored form, and what it is in words.
    ///
    /// # Errors
    /// What is wrong with it, for whoever filled it in.
    pub(super) fn stored(&self) -> Result<(Vec<u8>, String), String> {
        match &*self.kind {
            "answer" => self.answer(),
            "python" => {
                let mut out = vec![VALUE, b'1'];
                python(&self.json()?, 0, &mut out)?;
                Ok((out, "a value of a Python function".into()))
            }
            "rust" => {
                Ok(([&[JSON], &*self.json()?.to_string().into_bytes()].concat(), "a value of a Rust function".into()))
            }
            _ => Err("Say what a repeat gets: an answer, or a function's value.".into()),
        }
    }

    fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.value).map_err(|error| format!("The value is not JSON: {error}."))
    }

    fn answer(&self) -> Result<(Vec<u8>, String), String> {
        let status = self.status.trim().parse::<u16>().ok().filter(|status| (200..600).contains(status));
        let status = status.ok_or("The status is a number from 200 to 599.")?;
        let mut headers = vec![];
        let content_type = self.content_type.trim();
        if !content_type.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err("The content type is text like application/json.".into());
        }
        if !has_body(status) && !self.body.is_empty() {
            return Err(format!("An answer {status} has no body."));
        }
        let length = self.body.len().to_string();
        if has_body(status) {
            if !content_type.is_empty() {
                headers.push((&b"content-type"[..], content_type.as_bytes()));
            }
            headers.push((b"content-length", length.as_bytes()));
        }
        let answer = Answer { status, headers, body: self.body.as_bytes() };
        let stored = store_answer(answer, &[], false).map_err(|error| format!("It can't be stored: {error}."))?;
        Ok((stored, format!("an answer {status} of {length} bytes")))
    }
}

/// How deep the Python package reads values.
const MAX_DEPTH: usize = 100;

/// A value as the Python package stores it; its tests hold the two against each other.
fn python(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    fn sized(tag: u8, length: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let length = u32::try_from(length).map_err(|_| "The value is too large.")?;
        out.push(tag);
        out.extend_from_slice(&length.to_be_bytes());
        Ok(())
    }
    fn text(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
        sized(b's', text.len(), out)?;
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
    if depth == MAX_DEPTH {
        return Err(format!("The value is nested more than {MAX_DEPTH} levels deep."));
    }
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(is_true) => out.push(if *is_true { b'T' } else { b'F' }),
        Value::Number(number) => {
            if let Some(int) = number.as_i128() {
                let length = (128 - int.unsigned_abs().leading_zeros() as usize) / 8 + 1;
                sized(b'i', length, out)?;
                out.extend_from_slice(&int.to_be_bytes()[16 - length..]);
            } else {
                let float = number.as_f64().filter(|float| float.fract() != 0.0 || float.abs() < 9e15);
                let float = float.ok_or_else(|| format!("The number {number} is too large to be kept as it is."))?;
                out.push(b'f');
                out.extend_from_slice(&float.to_be_bytes());
            }
        }
        Value::String(string) => text(string, out)?,
        Value::Array(items) => {
            sized(b'l', items.len(), out)?;
            items.iter().try_for_each(|item| python(item, depth + 1, out))?;
        }
        Value::Object(items) => {
            sized(b'd', items.len(), out)?;
            for (name, item) in items {
                if depth + 1 == MAX_DEPTH {
                    return Err(format!("The value is nested more than {MAX_DEPTH} levels deep."));
                }
                text(name, out)?;
                python(item, depth + 1, out)?;
            }
        }
    }
    Ok(())
}
