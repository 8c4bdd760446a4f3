//! What is stored as a result: its first byte says what the rest is.
//!
//! Records are shared between languages and faces; whoever meets a form that it can't read says so.

/// The value of a Python function, in the encoding of the Python package.
pub const VALUE: u8 = b'V';
/// The value of a Python function, with the status and headers that an endpoint set beside it.
pub const ENDPOINT_VALUE: u8 = b'W';
/// An answer of HTTP, in its wire form (`http::Answer`), which every language reads.
pub const ANSWER: u8 = b'R';
/// An answer of HTTP with trailers (RFC 9110, section 6.5): their number (2 bytes), for each name and value their length (4)
/// and bytes, then the answer in its wire form. All numbers big endian.
pub const ANSWER_WITH_TRAILERS: u8 = b'T';
/// An exception of a Python function, in the encoding of the Python package.
pub const EXCEPTION: u8 = b'X';
/// The value of a Rust function, as JSON.
pub const JSON: u8 = b'J';

/// Any of these, sealed: the version of the sealed form (1 byte), what names its key (4), a nonce (24), then the ciphertext with
/// its tag (16).
pub const SEALED: u8 = b'S';
/// The version of the sealed form.
pub(crate) const SEALED_VERSION: u8 = 1;

/// Whether a stored result is sealed: whoever has no keys can't read it, and must not take it for an answer.
///
/// ```
/// assert!(!idempotency::result_tags::is_sealed(b"Sealed? These are words."));
/// ```
pub fn is_sealed(stored: &[u8]) -> bool {
    // Results of the engine's own users are any bytes: a letter alone says little.
    stored.len() >= 46 && stored[0] == SEALED && stored[1] == SEALED_VERSION
}

/// What a stored result is, in words, for whoever can't read it.
///
/// ```
/// use idempotency::result_tags::{JSON, described};
/// assert_eq!(described(&[JSON, b'1']), "the value of a Rust function");
/// ```
pub fn described(stored: &[u8]) -> &'static str {
    match stored.first() {
        Some(&VALUE) => "the value of a Python function",
        Some(&ENDPOINT_VALUE) => "the value of a Python endpoint",
        Some(&EXCEPTION) => "the exception of a Python function",
        Some(&ANSWER | &ANSWER_WITH_TRAILERS) => "the answer to an HTTP request",
        Some(&JSON) => "the value of a Rust function",
        Some(&SEALED) => "sealed",
        _ => "damaged, or of a newer version of this library",
    }
}
