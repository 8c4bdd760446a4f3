//! [`Note`]: what is known of an answer that was not kept.

use serde_json::{Map, Value};

/// What a repeat may know of an answer that was not kept: a JSON object, which every language reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// The status of the answer.
    pub status: Option<u16>,
    /// Its `Location`.
    pub location: Option<String>,
}

impl Note {
    /// Of an answer: its status and its first `Location`, taken for Latin-1.
    ///
    /// ```
    /// use idempotency::http::Note;
    /// let note = Note::of(Some(201), [(b"Location".as_slice(), b"/orders/7".as_slice())]);
    /// assert_eq!(note.encode(), br#"{"answer_status":201,"location":"/orders/7"}"#);
    /// assert_eq!(Note::decode(&note.encode()), Some(note));
    /// ```
    pub fn of<'a>(status: Option<u16>, headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut headers = headers.into_iter();
        let location = headers.find(|(name, _)| name.eq_ignore_ascii_case(b"location"));
        Self { status, location: location.map(|(_, value)| value.iter().copied().map(char::from).collect()) }
    }

    /// As members of a problem document: `answer_status` and `location`.
    pub fn parameters(&self) -> Map<String, Value> {
        let status = self.status.map(|status| ("answer_status", status.into()));
        let location = self.location.as_deref().map(|location| ("location", location.into()));
        [status, location].into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The stored form; empty where there is nothing to know.
    pub fn encode(&self) -> Vec<u8> {
        let note = self.parameters();
        if note.is_empty() { vec![] } else { Value::from(note).to_string().into_bytes() }
    }

    /// Reads the stored form; `None` where it is not one.
    pub fn decode(stored: &[u8]) -> Option<Self> {
        if stored.is_empty() {
            return Some(Self::default());
        }
        let note: Map<String, Value> = serde_json::from_slice(stored).ok()?;
        let status = note.get("answer_status").and_then(Value::as_u64).and_then(|status| status.try_into().ok());
        Some(Self { status, location: note.get("location").and_then(Value::as_str).map(str::to_owned) })
    }
}
