//! The replay of a stored answer, and its marks.

use super::answer::{Answer, REPLAYED, has_body};

/// What a replay adds to the headers of a stored answer: its length, where the first answer came in pieces, and the mark.
///
/// ```
/// use idempotency::http::{Answer, replay_headers};
/// let stored = Answer { status: 200, headers: vec![], body: b"done".as_slice() };
/// let added = replay_headers(&stored);
/// assert_eq!(added, [("content-length", "4".into()), ("idempotent-replayed", "true".into())]);
/// ```
pub fn replay_headers<B: AsRef<[u8]>>(stored: &Answer<B>) -> Vec<(&'static str, String)> {
    let has_length = stored.headers.iter().any(|(name, _)| name.as_ref().eq_ignore_ascii_case(b"content-length"));
    let mut added = vec![];
    if !has_length && has_body(stored.status) {
        added.push(("content-length", stored.body.as_ref().len().to_string()));
    }
    added.push((REPLAYED, "true".to_owned()));
    added
}
