//! What is protected, and what becomes of a key after an answer.

/// The methods that nothing protects: a request with one of them changes nothing (RFC 9110, section 9.2.1).
pub const SAFE_METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];

/// The methods that are protected unless told: the others are idempotent by themselves (RFC 9110, section 9.2.2).
pub const METHODS: [&str; 2] = ["PATCH", "POST"];

/// What becomes of the key after a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The answer is stored, and every repeat gets it.
    Store,
    /// Nothing was done: the key is free, and a repeat runs.
    Release,
    /// The work failed: the key is free, or unknown under [`AfterCrash::Refuse`](crate::AfterCrash::Refuse).
    Fail,
}

impl Fate {
    /// By the status of the answer:
    ///
    /// | status | |
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
}
