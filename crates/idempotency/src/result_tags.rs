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
        _ => "damaged, or of a newer version of this library",
    }
}
