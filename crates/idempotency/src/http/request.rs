//! What a request is, for its fingerprint.

use crate::fingerprint::{Digest, Fingerprint};

/// What a request is, for its fingerprint.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The path as the client sent it, still percent-encoded.
    pub path: &'a [u8],
    /// The query as the client sent it, without the `?`.
    pub query: &'a [u8],
    /// The `Content-Type` header, or nothing.
    pub content_type: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

impl RequestFacts<'_> {
    /// SHA-256 over the length-prefixed parts `idempotency http 1`, method, path, query, content type and body.
    ///
    /// The content type counts in lower case and without optional whitespace and quotes; `charset=utf-8` of JSON is left
    /// out, which says nothing (RFC 8259, section 11). A multipart body is taken without its boundary, which clients make
    /// anew for every send, unless the boundary is among the contents too.
    ///
    /// ```
    /// use idempotency::http::RequestFacts;
    /// let sent = |boundary: &str| RequestFacts {
    ///     method: "POST", path: b"/pay", query: b"",
    ///     content_type: format!("multipart/form-data; boundary={boundary}").as_bytes(),
    ///     body: format!("--{boundary}\r\n\r\n1\r\n--{boundary}--\r\n").as_bytes(),
    /// }.fingerprint();
    /// assert_eq!(sent("aaa"), sent("bbb"));
    /// ```
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = Digest::new("idempotency http 1").part(self.method.as_bytes()).part(self.path).part(self.query);
        Fingerprint(match ContentType::read(self.content_type) {
            None => digest.part(self.content_type).part(self.body).finish(),
            Some(ContentType { text, boundary: None, .. }) => digest.part(&text).part(self.body).finish(),
            Some(ContentType { text, boundary: Some(boundary), .. }) => {
                let delimiter = [b"--", &boundary[..]].concat();
                match parts(self.body, &delimiter) {
                    Some(parts) => parts.into_iter().fold(digest.part(&text), Digest::part).finish(),
                    None => digest.part(self.content_type).part(self.body).finish(),
                }
            }
        })
    }
}

/// A content type in the one form of all that mean the same (RFC 9110, section 8.3.1).
pub(super) struct ContentType {
    /// Without the boundary.
    pub(super) text: Vec<u8>,
    /// Of a `multipart/form-data` body (RFC 2046, section 5.1.1).
    boundary: Option<Vec<u8>>,
    pub(super) is_json: bool,
}

impl ContentType {
    /// `None` where it is not as RFC 9110 (section 5.6.6) has it, or tells the boundary of a form twice or not at all:
    /// then nobody can tell what a server would take it for, and the header counts as it is.
    pub(super) fn read(header: &[u8]) -> Option<Self> {
        let (kind, mut rest) = header.split_at(header.iter().position(|byte| *byte == b';').unwrap_or(header.len()));
        let kind = kind.trim_ascii().to_ascii_lowercase();
        let is_form = kind == b"multipart/form-data";
        let is_json = kind == b"application/json" || kind.ends_with(b"+json");
        let (mut text, mut boundary) = (kind, None);
        while !rest.is_empty() {
            rest = rest.strip_prefix(b";")?.trim_ascii_start();
            let (name, value) = rest.split_at(rest.iter().position(|byte| *byte == b'=')?);
            let (name, (mut value, after)) = (name.to_ascii_lowercase(), parameter(&value[1..])?);
            rest = after.trim_ascii_start();
            if name == b"charset" {
                value.make_ascii_lowercase();
            }
            if is_form && name == b"boundary" {
                if value.is_empty() || boundary.replace(value).is_some() {
                    return None;
                }
            } else if !(is_json && name == b"charset" && value == b"utf-8") {
                text.extend([b"; ", &name[..], b"=", &value].concat());
            }
        }
        (!is_form || boundary.is_some()).then_some(Self { text, boundary, is_json })
    }
}

/// A parameter's value, a token or a quoted string, and what follows it.
fn parameter(value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = value.strip_prefix(b"\"") else {
        let (token, rest) = value.split_at(value.iter().position(|byte| *byte == b';').unwrap_or(value.len()));
        let token = token.trim_ascii_end();
        return (!token.iter().any(|byte| b" \t\"".contains(byte))).then(|| (token.to_vec(), rest));
    };
    let (mut text, mut bytes) = (vec![], quoted.iter());
    loop {
        match bytes.next()? {
            b'"' => return Some((text, bytes.as_slice())),
            b'\\' => text.push(*bytes.next()?),
            byte => text.push(*byte),
        }
    }
}

/// The parts between delimiters. A delimiter stands at the start of the body or of a line, and is followed by the line's
/// end, or by the two dashes of the last one. `None` where the body does not start with one, has no other, or has the
/// boundary anywhere else: a server may take that for a delimiter too, so the body counts as it is.
fn parts<'a>(body: &'a [u8], delimiter: &[u8]) -> Option<Vec<&'a [u8]>> {
    let mut rest = body.strip_prefix(delimiter)?;
    let mut parts = vec![];
    while ends_a_delimiter(rest) {
        let mut dashes = rest.iter().enumerate().filter(|(_, byte)| **byte == b'-').map(|(at, _)| at);
        let Some(at) = dashes.find(|at| rest[*at..].starts_with(delimiter)) else {
            parts.push(rest);
            return (parts.len() > 1).then_some(parts);
        };
        parts.push(rest[..at].strip_suffix(b"\r\n")?);
        rest = &rest[at + delimiter.len()..];
    }
    None
}

fn ends_a_delimiter(rest: &[u8]) -> bool {
    let padding = rest.iter().take_while(|byte| b" \t".contains(byte)).count();
    rest.starts_with(b"--") || rest[padding..].starts_with(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multipart_fingerprint_sees_the_contents_and_not_the_boundary() {
        let print = |boundary: &str, content: &str| {
            let content_type = format!("Multipart/Form-Data; charset=x; boundary=\"{boundary}\"");
            let body = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=a\r\n\r\n{content}\r\n--{boundary}--\r\n"
            );
            RequestFacts {
                method: "POST",
                path: b"/",
                query: b"",
                content_type: content_type.as_bytes(),
                body: body.as_bytes(),
            }
            .fingerprint()
        };
        assert_eq!(print("x1", "hello"), print("y22", "hello"));
        assert_ne!(print("x1", "hello"), print("x1", "hullo"));
        assert_ne!(print("x1", "a"), print("x1", "a\r\n--x1\r\nb"));
        // Only looks like a delimiter: it is part of the contents, or not, as a server takes it.
        for looks in ["x\r\n--a1", "x\n--a\n", "x--a\r\n", "--a--"] {
            assert_ne!(print("a", looks), print("c", looks), "{looks:?}");
        }
        assert_ne!(print("a", "x\r\n--a1"), print("c", "x\r\n--c1"));
    }

    #[test]
    fn a_boundary_that_servers_may_read_differently_is_none() {
        let plain = |text: &str| ContentType::read(format!("multipart/form-data{text}").as_bytes())?.boundary;
        assert_eq!(plain("; boundary=x"), Some(b"x".to_vec()));
        assert_eq!(plain(";charset=utf-8 ; BOUNDARY=\"a b\\\"c\""), Some(b"a b\"c".to_vec()));
        assert_eq!(plain("; x=\";boundary=zzz\"; boundary=y"), Some(b"y".to_vec()));
        let odd =
            ["", ";", "; boundary", "; boundary=", "; boundary=a; boundary=b", "; boundary=\"a", "; boundary=a b"];
        for odd in odd {
            assert_eq!(plain(odd), None, "{odd}");
        }
    }

    fn sent(content_type: &str, body: &str) -> Fingerprint {
        let (content_type, body) = (content_type.as_bytes(), body.as_bytes());
        RequestFacts { method: "POST", path: b"/", query: b"", content_type, body }.fingerprint()
    }

    #[test]
    fn forms_that_servers_read_differently_are_told_apart() {
        let form = "multipart/form-data; boundary=b";
        let whole = "--b\r\nA: b\r\n\r\n1\r\n--b--\r\n";
        let others = [
            (form, &whole[3..]),                  // no first delimiter
            (form, "--b\r\nA: b\r\n\r\n1"),       // no last one
            ("multipart/form-data", &whole[3..]), // no boundary
            ("multipart/form-data", "\r\nA: b\r\n\r\n1"),
            ("multipart/form-data; charset=utf-8; boundary=b", whole),
            ("multipart/form-data; charset=latin-1; boundary=b", whole),
            ("multipart/mixed; boundary=b", whole),
        ];
        let mut prints: Vec<_> = others.iter().map(|(content_type, body)| sent(content_type, body)).collect();
        prints.push(sent(form, whole));
        for (at, print) in prints.iter().enumerate() {
            assert!(!prints[..at].contains(print), "{at}");
        }
    }

    #[test]
    fn a_content_type_counts_by_what_it_means() {
        let json = sent("application/json", "{}");
        let same = ["Application/JSON", "application/json;charset=utf-8", "application/json ; charset=\"UTF-8\""];
        for same in same {
            assert_eq!(sent(same, "{}"), json, "{same}");
        }
        let others =
            ["", "text/json", "application/json; charset=latin-1", "application/json; v=2", "application/json;"];
        for other in others {
            assert_ne!(sent(other, "{}"), json, "{other}");
        }
        let text = sent("text/plain; charset=utf-8", "x");
        assert_eq!(sent("TEXT/plain;Charset=UTF-8", "x"), text);
        assert_ne!(sent("text/plain", "x"), text); // which a server may read as another charset
        assert_ne!(sent("application/x; V=a", ""), sent("application/x; V=A", ""));
    }
}
