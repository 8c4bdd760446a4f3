//! [`Refusal`]: why a request gets no answer of its own.

/// Why a request gets no answer of its own: the status table, one row each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

/// What may have become of an effect.
const EFFECTS: [&str; 4] = ["none", "running", "done", "unknown"];

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

/// Whether an answer is the problem document of a refusal (RFC 9457): of this library in a service below, passed on.
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
