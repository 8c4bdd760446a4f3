//! The replay of a stored answer, and its marks.

use super::answer::{Answer, Lasting, Malformed, REPLAYED, decode_lines, encode_lines, has_body};
use crate::result_tags::{ANSWER, ANSWER_WITH_TRAILERS};

/// The stored form of an answer, with what comes after its body.
///
/// A trailer is not stored if a header of its name would not be ([`Answer::stored`]): nobody may act on such a field where it
/// comes after the body (RFC 9110, section 6.5.1).
///
/// - `store_set_cookie`: whether `Set-Cookie` is stored.
///
/// # Errors
///
/// Where no server could send the answer.
///
/// ```
/// use idempotency::http::{Answer, Replay, store_answer};
/// let answer = Answer { status: 200, headers: vec![("content-type", "application/grpc")], body: "done" };
/// let stored = store_answer(answer, &[("grpc-status", "0")], false).unwrap();
/// assert_eq!(Replay::of(&stored).unwrap().trailers, [(&b"grpc-status"[..], &b"0"[..])]);
/// ```
pub fn store_answer<B: AsRef<[u8]>>(
    answer: Answer<B>,
    trailers: &[(B, B)],
    store_set_cookie: bool,
) -> Result<Vec<u8>, Malformed> {
    let lasting = Lasting::of(&answer.headers, store_set_cookie);
    let lines = trailers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    let trailers: Vec<_> = lines.filter(|(name, _)| lasting.has(name)).collect();
    let mut out = vec![];
    if trailers.is_empty() {
        out.push(ANSWER);
    } else if trailers.len() > usize::from(u16::MAX) {
        return Err(Malformed::Headers);
    } else {
        out.push(ANSWER_WITH_TRAILERS);
        encode_lines(&trailers, &mut out);
    }
    answer.store_before(!trailers.is_empty(), store_set_cookie, &mut out)?;
    Ok(out)
}

/// A stored answer that is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay<'a> {
    /// As it was stored.
    pub answer: Answer<&'a [u8]>,
    /// What comes after the body.
    pub trailers: Vec<(&'a [u8], &'a [u8])>,
}

/// Why what is stored can't be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReplayable {
    /// It is a function's value, of which only that function can make an answer.
    #[error("The first request with this key is done; its answer can't be repeated here.")]
    Value,
    /// It is no answer in its wire form.
    #[error("the stored answer is damaged")]
    Damaged,
}

impl<'a> Replay<'a> {
    /// Reads what is stored.
    ///
    /// # Errors
    ///
    /// Where it is no answer.
    pub fn of(stored: &'a [u8]) -> Result<Self, NotReplayable> {
        let (tag, mut rest) = stored.split_first().ok_or(NotReplayable::Damaged)?;
        let trailers = match *tag {
            ANSWER => vec![],
            ANSWER_WITH_TRAILERS => decode_lines(&mut rest).ok_or(NotReplayable::Damaged)?,
            _ => return Err(NotReplayable::Value),
        };
        let answer = Answer::decode(rest).ok_or(NotReplayable::Damaged)?;
        Ok(Self { answer, trailers })
    }

    /// What it adds to the stored headers: its length, where the first answer came in pieces and has no trailers, and
    /// the mark of a replay.
    ///
    /// ```
    /// use idempotency::http::{Answer, Replay};
    /// let answer = Answer { status: 200, headers: vec![], body: b"done".as_slice() };
    /// let added = Replay { answer, trailers: vec![] }.added_headers();
    /// assert_eq!(added, [("content-length", "4".into()), ("idempotent-replayed", "true".into())]);
    /// ```
    pub fn added_headers(&self) -> Vec<(&'static str, String)> {
        let Answer { status, headers, body } = &self.answer;
        let has_length = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
        let mut added = vec![];
        if !has_length && has_body(*status) && self.trailers.is_empty() {
            added.push(("content-length", body.len().to_string()));
        }
        added.push((REPLAYED, "true".to_owned()));
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_is_stored_where_a_header_of_its_name_would_be() {
        let stored = |trailers: &[(&str, &str)], store_set_cookie| {
            let headers = vec![("Connection", "X-Hop")];
            let lines: Vec<_> = trailers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            store_answer(Answer { status: 200, headers, body: &b"done"[..] }, &lines, store_set_cookie).unwrap()
        };
        let all = [("grpc-status", "0"), ("Set-Cookie", "s=1"), ("date", "now"), ("x-hop", "1"), ("Keep-Alive", "5")];
        let (status, cookie) = ((&b"grpc-status"[..], &b"0"[..]), (&b"Set-Cookie"[..], &b"s=1"[..]));
        assert_eq!(Replay::of(&stored(&all, false)).unwrap().trailers, [status]);
        assert_eq!(Replay::of(&stored(&all, true)).unwrap().trailers, [status, cookie]);
        assert_eq!(stored(&all[1..], false), stored(&[], false));
    }
}
