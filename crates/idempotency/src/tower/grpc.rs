//! gRPC: which requests are its, its messages, and refusals as a status.

use std::fmt::Write as _;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::http::{Fate, Problem, Refusal};

/// What becomes of a gRPC request with more than one message, which no key can protect: the service may answer before
/// its last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrpcStreams {
    /// It is refused with `UNIMPLEMENTED`, and nothing runs.
    #[default]
    Refuse,
    /// It passes unprotected.
    Pass,
}

/// The metadata that names a refusal; beside it stands its `effect`.
pub(super) const REFUSAL: HeaderName = HeaderName::from_static("idempotency-refusal");
const EFFECT: HeaderName = HeaderName::from_static("idempotency-effect");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// <https://github.com/grpc/proposal/blob/master/A6-client-retries.md>
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a request is gRPC's, and not gRPC-Web's, whose status is in its body.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether a body has more than its first message: each is a flag, its length in 4 bytes, big endian, and its bytes.
pub(super) fn has_second_message(body: &[u8]) -> bool {
    let Some((head, rest)) = body.split_first_chunk::<5>() else { return false };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    rest.len() as u64 > u64::from(length)
}

/// What becomes of the key, by the status behind an answer or, where it has no body, in its headers. An answer without
/// a status broke off.
pub(super) fn fate(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Fate {
    let lines = || trailers.into_iter().chain([headers]);
    if lines().any(|lines| lines.contains_key(REFUSAL)) {
        return Fate::Release; // of a service below, passed on: its own key decides what runs there
    }
    let status = lines().find_map(|lines| lines.get(STATUS)).and_then(|status| status.to_str().ok()?.parse().ok());
    status.map_or(Fate::Hold, Fate::of_grpc_status)
}

/// The `grpc-status` of a refusal.
fn status_of(refusal: Refusal) -> u32 {
    match refusal {
        Refusal::KEY_MISSING | Refusal::KEY_INVALID | Refusal::CONFLICT => 3, // INVALID_ARGUMENT
        Refusal::NOT_KEPT => 6,                                               // ALREADY_EXISTS
        Refusal::PAYLOAD_TOO_LARGE => 8,                                      // RESOURCE_EXHAUSTED
        Refusal::UNKNOWN => 9,                                                // FAILED_PRECONDITION
        Refusal::STREAM => 12,                                                // UNIMPLEMENTED
        // The call itself may be tried again.
        Refusal::PROCESSING | Refusal::STORE_UNAVAILABLE | Refusal::OVERLOADED => 14, // UNAVAILABLE
        _ => 13,                                                                      // INTERNAL
    }
}

/// The headers of an answer without a body that tells a refusal.
pub(super) fn refusal_headers(problem: &Problem) -> HeaderMap {
    let Problem { refusal, detail, retry_after, .. } = problem;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, status_of(*refusal).into());
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(detail)) {
        headers.insert(MESSAGE, message);
    }
    headers.insert(REFUSAL, HeaderValue::from_static(refusal.name));
    headers.insert(EFFECT, HeaderValue::from_static(refusal.effect));
    if let Some(pause) = retry_after {
        headers.insert(PUSHBACK, milliseconds(*pause).into());
    }
    headers
}

fn milliseconds(pause: Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// As the protocol has it: all but printable ASCII, and the percent sign.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte.into()),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_their_lengths() {
        let one = [0, 0, 0, 0, 2, b'a', b'b'];
        assert!(!has_second_message(&[]) && !has_second_message(&one[..6]) && !has_second_message(&one));
        assert!(has_second_message(&[&one[..], &one[..1]].concat()));
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        let is = |kind| is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]));
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc; charset=utf-8"));
        assert!(!is("application/grpc-web") && !is("application/grpc-web+proto") && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_refusal_is_a_status_that_a_service_above_knows() {
        let problem = Problem { detail: "100 % ä".to_owned(), ..Refusal::CONFLICT.into() };
        let headers = refusal_headers(&problem);
        assert_eq!(headers[STATUS], "3");
        assert_eq!(headers[MESSAGE], "100 %25 %C3%A4");
        assert_eq!(fate(&headers, None), Fate::Release);
        assert_eq!(fate(&HeaderMap::new(), None), Fate::Hold);
    }
}
