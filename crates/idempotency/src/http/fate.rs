//! What is protected, and what becomes of a key after an answer.

use super::refusal::REFUSALS;

/// The methods that nothing protects: a request with one of them changes nothing (RFC 9110, section 9.2.1).
pub const SAFE_METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];

/// The methods that are protected by default: the others are idempotent by themselves (RFC 9110, section 9.2.2).
pub const METHODS: [&str; 2] = ["PATCH", "POST"];

/// What becomes of a key after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The answer is stored, and every repeat gets it.
    Store,
    /// Nothing was done: the key is free, and a repeat runs.
    Release,
    /// The work failed: the key is free, or unknown under [`AfterCrash::Refuse`](crate::AfterCrash::Refuse).
    Fail,
    /// Nobody knows what the work came to: the key waits for the end of the lease, or is unknown under
    /// [`AfterCrash::Refuse`](crate::AfterCrash::Refuse).
    Hold,
}

impl Fate {
    /// What becomes of the key by the status of the answer:
    ///
    /// | status | the key is |
    /// |---|---|
    /// | 500 and above | failed |
    /// | 401, 403, 405, 408, 425, 429 | released: the client may try again, as nothing was done |
    /// | any other | stored |
    ///
    /// ```
    /// use idempotency::http::Fate;
    /// assert_eq!([201, 404, 429, 503].map(Fate::of_status), [Fate::Store, Fate::Store, Fate::Release, Fate::Fail]);
    /// ```
    pub fn of_status(status: u16) -> Self {
        match status {
            500.. => Self::Fail,
            401 | 403 | 405 | 408 | 425 | 429 => Self::Release,
            _ => Self::Store,
        }
    }

    /// What becomes of the key after an answer that the work has begun.
    ///
    /// - `is_whole`: whether the answer reached its end. If not, the key is held.
    /// - `is_refusal`: whether the answer is a refusal by this library that another service gave
    ///   ([`is_refusal`](super::is_refusal)). The key of that service decides what runs there, and this one is
    ///   released. It is called only if the status may be a refusal's.
    pub fn of_answer(status: u16, is_whole: bool, is_refusal: impl FnOnce() -> bool) -> Self {
        if !is_whole {
            Self::Hold
        } else if REFUSALS.iter().any(|refusal| refusal.status == status) && is_refusal() {
            Self::Release
        } else {
            Self::of_status(status)
        }
    }

    /// What becomes of the key after a whole answer of gRPC, by its `grpc-status`
    /// (<https://grpc.io/docs/guides/status-codes/>):
    ///
    /// | code | the key is |
    /// |---|---|
    /// | 0 OK; 3 INVALID_ARGUMENT, 5 NOT_FOUND, 6 ALREADY_EXISTS, 9 FAILED_PRECONDITION, 11 OUT_OF_RANGE | stored |
    /// | 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED, 10 ABORTED, 12 UNIMPLEMENTED, 16 UNAUTHENTICATED | released |
    /// | 1 CANCELLED, 2 UNKNOWN, 4 DEADLINE_EXCEEDED, 13 INTERNAL, 14 UNAVAILABLE, 15 DATA_LOSS, any other | failed |
    ///
    /// ```
    /// use idempotency::http::Fate;
    /// assert_eq!([0, 5, 16, 14].map(Fate::of_grpc_status), [Fate::Store, Fate::Store, Fate::Release, Fate::Fail]);
    /// ```
    pub fn of_grpc_status(code: u32) -> Self {
        match code {
            0 | 3 | 5 | 6 | 9 | 11 => Self::Store,
            7 | 8 | 10 | 12 | 16 => Self::Release,
            _ => Self::Fail,
        }
    }
}
