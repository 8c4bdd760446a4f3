//! The exchange: what every HTTP face shares. Facts of a request in; a refusal, or an answer to store and replay, out.
//!
//! Nothing here does I/O or knows a framework.

#[cfg(feature = "json-body")]
mod json;

use crate::fingerprint::{Digest, Fingerprint};

#[cfg(feature = "json-body")]
pub use json::canonical_json;

/// The response header that says "this is a stored answer".
pub const REPLAYED: &str = "idempotent-replayed";

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
    /// anew for every send.
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
                let delimiter = [b"\r\n--", &boundary[..]].concat();
                match parts(self.body, &delimiter) {
                    Some(parts) => parts.into_iter().fold(digest.part(&text), Digest::part).finish(),
                    None => digest.part(self.content_type).part(self.body).finish(),
                }
            }
        })
    }
}

/// A content type in the one form of all that mean the same (RFC 9110, section 8.3.1).
struct ContentType {
    /// Without the boundary.
    text: Vec<u8>,
    /// Of a `multipart/form-data` body (RFC 2046, section 5.1.1).
    boundary: Option<Vec<u8>>,
    #[cfg_attr(not(feature = "json-body"), expect(dead_code))]
    is_json: bool,
}

impl ContentType {
    /// `None` where it is not as RFC 9110 (section 5.6.6) has it, or tells the boundary of a form twice or not at all:
    /// then nobody can tell what a server would take it for, and the header counts as it is.
    fn read(header: &[u8]) -> Option<Self> {
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

/// The parts between delimiters. A delimiter is followed by the line's end, or by the two dashes of the last one. `None`
/// where the body does not start with one, or has no other: it counts as it is.
fn parts<'a>(body: &'a [u8], delimiter: &[u8]) -> Option<Vec<&'a [u8]>> {
    // The first stands at the very start, without its line break.
    let mut body = body.strip_prefix(&delimiter[2..]).filter(|rest| ends_a_delimiter(rest))?;
    let mut parts = vec![];
    loop {
        let is_delimiter = |at: &usize| body[*at..].strip_prefix(delimiter).is_some_and(ends_a_delimiter);
        let mut breaks = body.iter().enumerate().filter(|(_, byte)| **byte == b'\r').map(|(at, _)| at);
        let Some(at) = breaks.find(is_delimiter) else { break };
        parts.push(&body[..at]);
        body = &body[at + delimiter.len()..];
    }
    parts.push(body);
    (parts.len() > 1).then_some(parts)
}

fn ends_a_delimiter(rest: &[u8]) -> bool {
    let padding = rest.iter().take_while(|byte| b" \t".contains(byte)).count();
    rest.starts_with(b"--") || rest[padding..].starts_with(b"\r\n")
}

/// Whether an answer of this status is stored. The rest releases the key: the client may try again, as nothing was done.
///
/// ```
/// use idempotency::http::is_stored;
/// assert!(is_stored(201) && is_stored(404) && !is_stored(500) && !is_stored(401));
/// ```
pub fn is_stored(status: u16) -> bool {
    status < 500 && !matches!(status, 401 | 403 | 405 | 408 | 425 | 429)
}

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

/// Headers that say whose a request is, in order: credentials that a client sends, and the names that an authenticating
/// proxy or gateway adds, as its vendor documents them. A request that has one of them, and no scope, is refused.
pub const CALLERS: [&str; 80] = [
    "api-key",
    "apikey",
    "authorization",
    "cf-access-authenticated-user-email", // Cloudflare Access
    "cf-access-client-id",
    "cf-access-jwt-assertion",
    "client-cert", // RFC 9440
    "job-token",
    "ocp-apim-subscription-key", // Azure API Management
    "private-token",
    "proxy-authorization",
    "remote-email", // Authelia
    "remote-user",
    "ssl-client-cert", // ingress-nginx
    "ssl-client-subject-dn",
    "tailscale-user-login",   // Tailscale Serve
    "teleport-jwt-assertion", // Teleport
    "x-access-token",
    "x-amz-security-token",
    "x-amzn-mtls-clientcert", // AWS load balancers
    "x-amzn-mtls-clientcert-leaf",
    "x-amzn-mtls-clientcert-subject",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-api-key",
    "x-api-token",
    "x-apigateway-api-userinfo", // Google API Gateway
    "x-arr-clientcert",          // Azure App Service
    "x-auth-email",
    "x-auth-request-access-token", // oauth2-proxy
    "x-auth-request-email",
    "x-auth-request-preferred-username",
    "x-auth-request-user",
    "x-auth-token",
    "x-auth-user",
    "x-authenticated-user",
    "x-authenticated-userid", // Kong
    "x-authentik-email",      // authentik
    "x-authentik-jwt",
    "x-authentik-uid",
    "x-authentik-username",
    "x-client-cert",
    "x-client-dn",
    "x-consumer-custom-id", // Kong
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-endpoint-api-userinfo", // Google Cloud Endpoints
    "x-forwarded-access-token",
    "x-forwarded-client-cert", // Envoy, Istio
    "x-forwarded-email",       // oauth2-proxy
    "x-forwarded-preferred-username",
    "x-forwarded-tls-client-cert", // Traefik
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-user",
    "x-goog-api-key",
    "x-goog-authenticated-user-email", // Google Identity-Aware Proxy
    "x-goog-authenticated-user-id",
    "x-goog-iap-jwt-assertion",
    "x-jwt-assertion",
    "x-jwt-payload",
    "x-ms-client-principal", // Azure App Service
    "x-ms-client-principal-id",
    "x-ms-client-principal-name",
    "x-ms-token-aad-access-token",
    "x-ms-token-aad-id-token",
    "x-pomerium-claim-email", // Pomerium
    "x-pomerium-claim-sub",
    "x-pomerium-jwt-assertion",
    "x-rapidapi-key",
    "x-rapidapi-user",
    "x-remote-user",
    "x-session-token",
    "x-shopify-access-token",
    "x-ssl-client-cert", // nginx, as its documentation passes it on
    "x-ssl-client-dn",
    "x-ssl-client-s-dn",
    "x-vault-token",
    "x-vouch-user", // Vouch Proxy
];

/// Headers that may say whose a request is, and often do not: a cookie that analytics set, a name of somebody's own. A
/// request that has one of them, and no scope, is warned about once.
pub const POSSIBLE_CALLERS: [&str; 6] = ["cookie", "x-user", "x-user-email", "x-user-id", "x-userid", "x-username"];

/// Whether a header, by its name in lower case, says whose a request is.
///
/// ```
/// use idempotency::http::names_caller;
/// assert!(names_caller(b"authorization") && names_caller(b"x-forwarded-user") && !names_caller(b"user-agent"));
/// ```
pub fn names_caller(header: &[u8]) -> bool {
    CALLERS.binary_search_by(|name| name.as_bytes().cmp(header)).is_ok()
}

/// Fields of the connection, not of the answer (RFC 9110, section 7.6.1), and the one that a replay makes wrong.
const NOT_KEPT: [&[u8]; 10] = [
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

impl<B: AsRef<[u8]>> Answer<B> {
    /// Drops what is not stored: hop-by-hop fields and those that `Connection` names, `Date`, our own replay header,
    /// and `Set-Cookie` unless it is asked for.
    pub fn without_transient(mut self, store_set_cookie: bool) -> Self {
        let named: Vec<Vec<u8>> = self
            .headers
            .iter()
            .filter(|(name, _)| name.as_ref().eq_ignore_ascii_case(b"connection"))
            .flat_map(|(_, value)| value.as_ref().split(|byte| *byte == b',').map(|name| name.trim_ascii().to_vec()))
            .collect();
        self.headers.retain(|(name, _)| {
            let is = |other: &[u8]| name.as_ref().eq_ignore_ascii_case(other);
            !NOT_KEPT.into_iter().any(is)
                && !named.iter().any(|other| is(other))
                && !is(REPLAYED.as_bytes())
                && (store_set_cookie || !is(b"set-cookie"))
        });
        self
    }

    /// The wire form: status (2 bytes), the number of headers (2), then for each name and value their length (4) and
    /// bytes; the rest is the body. All numbers big endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![];
        self.encode_into(&mut out);
        out
    }

    /// The same after what stands there.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let fields = || self.headers.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]);
        let body = self.body.as_ref();
        out.reserve(4 + body.len() + fields().map(|field| 4 + field.len()).sum::<usize>());
        out.extend_from_slice(&self.status.to_be_bytes());
        out.extend_from_slice(&(self.headers.len() as u16).to_be_bytes());
        for field in fields() {
            out.extend_from_slice(&(field.len() as u32).to_be_bytes());
            out.extend_from_slice(field);
        }
        out.extend_from_slice(body);
    }
}

impl<'a> Answer<&'a [u8]> {
    /// Reads the wire form; `None` where it is not one.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
            let (head, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Some(head)
        }
        let rest = &mut { bytes };
        let status = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
        let count = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
        let mut field = || {
            let length = u32::from_be_bytes(take(rest, 4)?.try_into().ok()?);
            take(rest, length as usize)
        };
        let headers = (0..count).map(|_| Some((field()?, field()?))).collect::<Option<Vec<_>>>()?;
        Some(Self { status, headers, body: rest })
    }
}

/// Why a request gets no answer of its own: the status table, one row each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The last part of the problem type, and the name of the row.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The problem's title.
    pub title: &'static str,
    /// What became of the effect of the request: `none`, `running`, `done` or `unknown`. Where it is `none`, trying
    /// again with a new key is safe.
    pub effect: &'static str,
}

impl Refusal {
    /// The problem `type` (RFC 9457, section 3.1.1): an absolute URI that names the row.
    pub fn problem_type(&self) -> String {
        format!("urn:problem-type:idempotency:{}", self.name)
    }
}

const fn row(name: &'static str, status: u16, effect: &'static str, title: &'static str) -> Refusal {
    Refusal { name, status, title, effect }
}

/// Every refusal there is.
pub const REFUSALS: [Refusal; 9] = [
    row("key-missing", 400, "none", "The Idempotency-Key is missing"),
    row("key-invalid", 400, "none", "The Idempotency-Key is malformed"),
    row("processing", 409, "running", "A request with this Idempotency-Key is still being processed"),
    row("unknown", 409, "unknown", "The outcome of the request with this Idempotency-Key is unknown"),
    row("not-kept", 410, "done", "The request with this Idempotency-Key is done, but its answer was not kept"),
    row("scope-missing", 500, "none", "This service does not say whose the Idempotency-Key is"),
    row("payload-too-large", 413, "none", "The request is too large to be protected by an Idempotency-Key"),
    row("conflict", 422, "none", "This Idempotency-Key was used with another request"),
    row("store-unavailable", 503, "none", "The store of the Idempotency-Keys can't be reached"),
];

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
    fn the_headers_that_name_a_caller_are_in_order() {
        assert!(CALLERS.is_sorted_by(|one, next| one < next));
        assert!(CALLERS.iter().all(|name| names_caller(name.as_bytes()) && *name == name.to_ascii_lowercase()));
    }

    #[test]
    fn an_answer_survives_its_wire_form() {
        assert_eq!(Answer::decode(&answer().encode()), Some(answer()));
        let bytes = answer().encode();
        assert!((0..20).all(|length| Answer::decode(&bytes[..length]).is_none()));
    }

    #[test]
    fn transient_headers_are_dropped_and_the_others_stay_in_order() {
        let kept = answer().without_transient(false).headers;
        assert_eq!(kept, [(&b"Link"[..], &b"a"[..]), (b"Link", b"\xff")]);
        assert_eq!(answer().without_transient(true).headers.len(), 3);
    }

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
        // Only looks like a delimiter: it is part of the contents.
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
