//! [`Refusal`]: why a request is refused; [`Problem`]: the answer that says so.

use std::time::Duration;

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::not_kept::Note;

/// A reason for which a request is refused: one row of the table of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The last part of the problem type, and the name of the row.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What became of the effect of the request: `none`, `running`, `done` or `unknown`. If it is `none`, trying again
    /// with a new key is safe.
    pub effect: &'static str,
    /// The problem's title.
    pub title: &'static str,
    /// The words for its client, if a face has no better ones.
    pub detail: &'static str,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $constant:ident = $name:literal $status:literal $effect:literal $title:literal $detail:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $constant: Self = Self {
                name: $name, status: $status, effect: $effect, title: $title, detail: $detail,
            };)*
        }

        /// Every refusal there is.
        pub const REFUSALS: &[Refusal] = &[$(Refusal::$constant),*];
    };
}

refusals! {
    /// A key is required, and there is none.
    KEY_MISSING = "key-missing" 400 "none"
        "The Idempotency-Key is missing"
        "This operation needs an Idempotency-Key header: a value of your choice, new for every operation.";
    /// The key is malformed.
    KEY_INVALID = "key-invalid" 400 "none"
        "The Idempotency-Key is malformed"
        "The Idempotency-Key is malformed.";
    /// The first attempt still runs.
    PROCESSING = "processing" 409 "running"
        "A request with this Idempotency-Key is still being processed"
        "The first request with this key is still being processed; repeat the same request later.";
    /// The first attempt ended in a way that leaves its effect unknown; an operator must resolve the key.
    UNKNOWN = "unknown" 409 "unknown"
        "The outcome of the request with this Idempotency-Key is unknown"
        "The first request with this key may or may not have had its effect; nothing runs until somebody has looked.";
    /// The first attempt is done, and its answer could not be kept.
    NOT_KEPT = "not-kept" 410 "done"
        "The request with this Idempotency-Key is done, but its answer was not kept"
        "The first request with this key is done, but its answer could not be kept; it is not run again.";
    /// The request has credentials, and the service does not say which caller they belong to.
    SCOPE_MISSING = "scope-missing" 500 "none"
        "This service does not say whose the Idempotency-Key is"
        "This service is not set up to keep the keys of its callers apart.";
    /// The request is under a layer already, whose options are other ones.
    LAYERS_DIFFER = "layers-differ" 500 "none"
        "This service protects the request twice, and not in one way"
        "This service is not set up to protect the request. Nothing was run.";
    /// The request's body is too large to be compared with that of a repeat.
    PAYLOAD_TOO_LARGE = "payload-too-large" 413 "none"
        "The request is too large to be protected by an Idempotency-Key"
        "The request body is too large to be protected by an Idempotency-Key.";
    /// The key was used with another request.
    CONFLICT = "conflict" 422 "none"
        "This Idempotency-Key was used with another request"
        "This key was used with another request; use a new key for a new request. Requests are compared by method, \
         path, query, content type and the bytes of the body, calls by their arguments, unless the service says \
         otherwise.";
    /// The store can't be asked, or does not answer in time.
    STORE_UNAVAILABLE = "store-unavailable" 503 "none"
        "The store of the Idempotency-Keys can't be reached"
        "Nothing was run. Repeat the same request with the same key later.";
    /// More requests with a key run already than the service allows at once.
    OVERLOADED = "overloaded" 503 "none"
        "Too many requests with an Idempotency-Key run at once"
        "Nothing was run. Repeat the same request with the same key later.";
    /// The request is a stream of messages, which no key can protect.
    STREAM = "stream" 400 "none"
        "A stream can't be protected by an Idempotency-Key"
        "This request has more than one message, and an Idempotency-Key protects one; send it without a key.";
    /// The request's body broke off.
    BODY_BROKEN = "body-broken" 400 "none"
        "The request's body broke off"
        "The body of the request could not be read to its end. Nothing was run.";
}

impl Refusal {
    /// The problem `type` (RFC 9457, section 3.1.1): an absolute URI that names the row.
    pub fn problem_type(&self) -> String {
        format!("urn:problem-type:idempotency:{}", self.name)
    }
}

/// A refusal as its client gets it: a problem document (RFC 9457) with its headers.
///
/// ```
/// use std::time::Duration;
/// use idempotency::http::{Problem, Refusal};
/// let problem = Problem { retry_after: Some(Duration::from_millis(300)), ..Refusal::PROCESSING.into() };
/// let answer = problem.answer(Some("/pay"), None);
/// assert_eq!((answer.status, answer.headers[1].clone()), (409, (b"retry-after".to_vec(), b"1".to_vec())));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Why the request is refused.
    pub refusal: Refusal,
    /// What went wrong here, in words for the client.
    pub detail: String,
    /// How long the client should wait before it repeats the request; `None` if repeating makes no sense. The header
    /// has whole seconds, rounded up, at least 1.
    pub retry_after: Option<Duration>,
    /// Members of the document beside the standard ones.
    pub parameters: Map<String, Value>,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, detail: refusal.detail.to_owned(), retry_after: None, parameters: Map::new() }
    }
}

impl Problem {
    /// The first attempt still runs.
    ///
    /// - `lease_left`: what is left of its lease.
    /// - `most`: the longest `Retry-After`.
    pub fn processing(lease_left: Duration, most: Duration) -> Self {
        Self { retry_after: Some(lease_left.min(most)), ..Refusal::PROCESSING.into() }
    }

    /// The first attempt is done, and its answer could not be kept; the note says what is known of it.
    pub fn not_kept(note: &Note) -> Self {
        Self { parameters: note.parameters(), ..Refusal::NOT_KEPT.into() }
    }

    /// The store failed. What exactly failed is for the log, not for the client.
    ///
    /// - `retry_after`: `None` if waiting does not help, for example with a wrong password or a server that is too old.
    pub fn store_unavailable(retry_after: Option<Duration>) -> Self {
        let problem = Self { retry_after, ..Refusal::STORE_UNAVAILABLE.into() };
        let set_up =
            "Nothing was run. The service's store of keys is not set up as it should be; its log says more.".to_owned();
        if retry_after.is_none() { Self { detail: set_up, ..problem } } else { problem }
    }

    /// The body is over the limit, in bytes.
    pub fn payload_too_large(limit: u64) -> Self {
        let detail =
            format!("The request body is larger than {limit} bytes, which is the most for a protected request.");
        Self { detail, ..Refusal::PAYLOAD_TOO_LARGE.into() }
    }

    /// Makes the answer: status, headers and problem document.
    ///
    /// - `instance`: the path of the request.
    /// - `docs`: the URL of the service's own documentation of the refusals. With the name of the refusal behind it, it
    ///   is the problem type, and a `Link` header points there.
    pub fn answer(&self, instance: Option<&str>, docs: Option<&str>) -> Answer {
        let kind = docs.map_or_else(|| self.refusal.problem_type(), |docs| format!("{docs}{}", self.refusal.name));
        let body = self.document(&kind, instance);
        let mut headers = vec![("content-type", "application/problem+json".to_owned())];
        if let Some(pause) = self.retry_after {
            headers.push(("retry-after", pause.as_secs_f64().ceil().max(1.0).to_string()));
        }
        if docs.is_some() {
            headers.push(("link", format!("<{kind}>; rel=\"describedby\"")));
        }
        headers.push(("content-length", body.len().to_string()));
        let headers = headers.into_iter().map(|(name, value)| (name.into(), value.into_bytes())).collect();
        Answer { status: self.refusal.status, headers, body }
    }

    /// Its members in the order of RFC 9457.
    fn document(&self, kind: &str, instance: Option<&str>) -> Vec<u8> {
        let Refusal { status, title, effect, .. } = self.refusal;
        let mut out = serde_json::Serializer::new(vec![]);
        let written = (|| {
            let mut members = out.serialize_map(None)?;
            members.serialize_entry("type", kind)?;
            members.serialize_entry("title", title)?;
            members.serialize_entry("status", &status)?;
            members.serialize_entry("detail", &self.detail)?;
            if let Some(instance) = instance {
                members.serialize_entry("instance", instance)?;
            }
            members.serialize_entry("effect", effect)?;
            self.parameters.iter().try_for_each(|(name, value)| members.serialize_entry(name, value))?;
            members.end()
        })();
        debug_assert!(written.is_ok(), "texts and JSON values, written into memory");
        out.into_inner()
    }
}

/// What may have become of an effect.
const EFFECTS: [&str; 4] = ["none", "running", "done", "unknown"];

/// Whether an answer is the problem document (RFC 9457) of a refusal by this library: a service may pass on what it got
/// from another one.
///
/// ```
/// use idempotency::http::is_refusal;
/// let problem = br#"{"type": "urn:problem-type:idempotency:processing", "status": 409, "effect": "running"}"#;
/// assert!(is_refusal(b"application/problem+json", problem));
/// assert!(!is_refusal(b"application/problem+json", br#"{"type": "/errors/processing", "title": "of somebody else"}"#));
/// ```
pub fn is_refusal(content_type: &[u8], body: &[u8]) -> bool {
    let is_problem = content_type.get(..24).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/problem+json"));
    let Some(problem) = is_problem.then(|| serde_json::from_slice::<serde_json::Value>(body).ok()).flatten() else {
        return false;
    };
    let text = |name: &str| problem.get(name).and_then(|value| value.as_str()).unwrap_or_default();
    // Whoever documents it: the type ends with the name.
    let is_named = |name: &str| {
        text("type")
            .strip_suffix(name)
            .is_some_and(|before| !before.ends_with(|last: char| last.is_ascii_lowercase() || last == '-'))
    };
    EFFECTS.contains(&text("effect")) && REFUSALS.iter().any(|refusal| is_named(refusal.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_by_whom_it_is_documented_or_not() {
        let told = |kind: &str, effect: &str| {
            is_refusal(
                b"Application/Problem+JSON; charset=utf-8",
                format!(r#"{{"type": "{kind}", "effect": "{effect}"}}"#).as_bytes(),
            )
        };
        for refusal in REFUSALS {
            assert!(EFFECTS.contains(&refusal.effect));
            assert!(told(&refusal.problem_type(), refusal.effect));
            assert!(told(&format!("https://docs.example.com/errors#{}", refusal.name), refusal.effect));
        }
        assert!(!told("https://example.com/order-processing", "running"));
        assert!(!told("urn:problem-type:idempotency:processing", "maybe"));
        assert!(!is_refusal(b"application/json", br#"{"type": "urn:x:processing", "effect": "none"}"#));
        assert!(!is_refusal(b"application/problem+json", b"[]"));
    }
}
