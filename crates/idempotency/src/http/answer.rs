//! [`Answer`]: its wire form, and what of it is stored.

/// The response header that says "this is a stored answer"; its value is `true`.
pub const REPLAYED: &str = "idempotent-replayed";

/// An answer: status, headers in order, body; byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer<B = Vec<u8>> {
    /// The status code.
    pub status: u16,
    /// The headers, duplicates and all.
    pub headers: Vec<(B, B)>,
    /// The body.
    pub body: B,
}

/// Statuses of answers that have no body (RFC 9110, section 6.4.1), and so no length; beside the interim ones.
const WITHOUT_BODY: [u16; 3] = [204, 205, 304];

/// Whether an answer of this status has a body.
///
/// ```
/// use idempotency::http::has_body;
/// assert!(has_body(200) && !has_body(204));
/// ```
pub fn has_body(status: u16) -> bool {
    !is_interim(status) && !WITHOUT_BODY.contains(&status)
}

/// Whether another protocol follows a status, or the answer itself (RFC 9110, section 15.2).
fn is_interim(status: u16) -> bool {
    (100..200).contains(&status)
}

/// The number that a `Content-Length` declares: `None` for what is no number, the most for what is too large for one.
///
/// ```
/// use idempotency::http::declared_length;
/// assert_eq!([b"12".as_slice(), b"", b"+1", b"1x"].map(declared_length), [Some(12), None, None, None]);
/// ```
pub fn declared_length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX))
}

/// Why an answer can't be stored: no server could send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A status from 100 to 199: what follows is another protocol, or the answer itself.
    #[error("it is no final answer")]
    Interim,
    /// More than 65,535 headers.
    #[error("it has more headers than can be told")]
    Headers,
    /// The body does not fit the length that is declared for it.
    #[error("its body is longer than its Content-Length")]
    Length,
}

/// Fields of the connection, not of the answer (RFC 9110, section 7.6.1), and the one that a replay makes wrong.
const NEVER_STORED: [&[u8]; 10] = [
    b"connection",
    b"date",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// Which fields of an answer are stored, before its body and after it.
pub(super) struct Lasting {
    /// Those that `Connection` names are not.
    named: Vec<Vec<u8>>,
    set_cookie: bool,
}

impl Lasting {
    /// Those of an answer with these headers.
    pub(super) fn of<B: AsRef<[u8]>>(headers: &[(B, B)], store_set_cookie: bool) -> Self {
        let named = headers
            .iter()
            .filter(|(name, _)| name.as_ref().eq_ignore_ascii_case(b"connection"))
            .flat_map(|(_, value)| value.as_ref().split(|byte| *byte == b',').map(|name| name.trim_ascii().to_vec()))
            .collect();
        Self { named, set_cookie: store_set_cookie }
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        !NEVER_STORED.into_iter().any(is)
            && !self.named.iter().any(|other| is(other))
            && !is(REPLAYED.as_bytes())
            && (self.set_cookie || !is(b"set-cookie"))
    }
}

impl<B: AsRef<[u8]>> Answer<B> {
    /// The wire form of what is stored: status (2 bytes), the number of headers (2), then for each name and value their
    /// length (4) and bytes; the rest is the body. All numbers big endian.
    ///
    /// Not stored are hop-by-hop fields (RFC 9110, section 7.6.1) and those that `Connection` names, `Date`, the mark of a
    /// replay, and `Set-Cookie` unless `store_set_cookie`.
    ///
    /// # Errors
    ///
    /// Where no server could send the answer.
    ///
    /// ```
    /// use idempotency::http::Answer;
    /// let headers = vec![("Location", "/orders/7"), ("Date", "Sun, 06 Nov 1994 08:49:37 GMT")];
    /// let stored = Answer { status: 201, headers, body: "" }.stored(false).unwrap();
    /// assert_eq!(Answer::decode(&stored).unwrap().headers, [(&b"Location"[..], &b"/orders/7"[..])]);
    /// ```
    pub fn stored(self, store_set_cookie: bool) -> Result<Vec<u8>, Malformed> {
        let mut out = vec![];
        self.store_into(store_set_cookie, &mut out)?;
        Ok(out)
    }

    /// As [`Self::stored`], after what stands in `out`.
    ///
    /// # Errors
    ///
    /// Where no server could send the answer.
    pub fn store_into(self, store_set_cookie: bool, out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.store_before(false, store_set_cookie, out)
    }

    /// - `has_trailers`: whether its trailers are stored too, and with them the `Trailer` field that announces them.
    pub(super) fn store_before(
        self,
        has_trailers: bool,
        store_set_cookie: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        if is_interim(self.status) {
            return Err(Malformed::Interim);
        }
        if self.headers.len() > usize::from(u16::MAX) {
            return Err(Malformed::Headers);
        }
        let length = self.headers.iter().find(|(name, _)| name.as_ref().eq_ignore_ascii_case(b"content-length"));
        let length = length.and_then(|(_, value)| declared_length(value.as_ref()));
        if has_body(self.status) && length.is_some_and(|length| self.body.as_ref().len() as u64 > length) {
            return Err(Malformed::Length);
        }
        self.without_transient(has_trailers, store_set_cookie).encode_into(out);
        Ok(())
    }

    fn without_transient(mut self, has_trailers: bool, store_set_cookie: bool) -> Self {
        let lasting = Lasting::of(&self.headers, store_set_cookie);
        let announces = |name: &[u8]| has_trailers && name.eq_ignore_ascii_case(b"trailer");
        self.headers.retain(|(name, _)| lasting.has(name.as_ref()) || announces(name.as_ref()));
        self
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let body = self.body.as_ref();
        let fields: usize =
            self.headers.iter().map(|(name, value)| 8 + name.as_ref().len() + value.as_ref().len()).sum();
        out.reserve(4 + body.len() + fields);
        out.extend_from_slice(&self.status.to_be_bytes());
        encode_lines(&self.headers, out);
        out.extend_from_slice(body);
    }
}

/// Headers or trailers: their number, and each name and value behind its length.
pub(super) fn encode_lines<B: AsRef<[u8]>>(lines: &[(B, B)], out: &mut Vec<u8>) {
    out.extend_from_slice(&(lines.len() as u16).to_be_bytes());
    for field in lines.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]) {
        out.extend_from_slice(&(field.len() as u32).to_be_bytes());
        out.extend_from_slice(field);
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

/// What [`encode_lines`] has written; `rest` is what follows.
pub(super) fn decode_lines<'a>(rest: &mut &'a [u8]) -> Option<Vec<(&'a [u8], &'a [u8])>> {
    let count = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    let mut field = || {
        let length = u32::from_be_bytes(take(rest, 4)?.try_into().ok()?);
        take(rest, length as usize)
    };
    (0..count).map(|_| Some((field()?, field()?))).collect()
}

impl<'a> Answer<&'a [u8]> {
    /// Reads the wire form; `None` where it is not one.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let rest = &mut { bytes };
        let status = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
        Some(Self { status, headers: decode_lines(rest)?, body: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer<&'static [u8]> {
        fn pair(name: &'static [u8], value: &'static [u8]) -> (&'static [u8], &'static [u8]) {
            (name, value)
        }
        let headers = vec![
            pair(b"Connection", b"close, X-Hop"),
            pair(b"X-Hop", b"1"),
            pair(b"Link", b"a"),
            pair(b"Link", b"\xff"),
            pair(b"Set-Cookie", b"s=1"),
            pair(b"Date", b"now"),
            pair(b"Transfer-Encoding", b"chunked"),
        ];
        Answer { status: 201, headers, body: b"\0\xff" }
    }

    #[test]
    fn an_answer_survives_its_wire_form() {
        let kept = answer().without_transient(false, true);
        assert_eq!(Answer::decode(&answer().stored(true).unwrap()), Some(kept));
        let bytes = answer().stored(false).unwrap();
        assert!((0..20).all(|length| Answer::decode(&bytes[..length]).is_none()));
    }

    #[test]
    fn transient_headers_are_dropped_and_the_others_stay_in_order() {
        let kept = answer().without_transient(false, false).headers;
        assert_eq!(kept, [(&b"Link"[..], &b"a"[..]), (b"Link", b"\xff")]);
        assert_eq!(answer().without_transient(false, true).headers.len(), 3);
    }

    #[test]
    fn an_answer_that_no_server_can_send_is_malformed() {
        fn of(status: u16, length: &str) -> Result<Vec<u8>, Malformed> {
            let headers = vec![(&b"Content-Length"[..], length.as_bytes())];
            Answer { status, headers, body: &b"four"[..] }.stored(false)
        }
        assert_eq!(of(200, "3"), Err(Malformed::Length));
        assert!(["4", "5", "three"].iter().all(|length| of(200, length).is_ok()));
        assert!(of(304, "3").is_ok());
        assert_eq!([101, 103].map(|status| of(status, "4")), [Err(Malformed::Interim), Err(Malformed::Interim)]);
    }
}
