//! [`Fingerprint`]: is this the same request? And the one way this crate hashes parts.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// SHA-256 over what a request asks for. Two requests with one key and two fingerprints are a mismatch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", hex(&self.0))
    }
}

/// SHA-256 over length-prefixed parts, so that no two lists of parts run together.
///
/// The first part is the domain: digests made for different purposes never meet.
///
/// ```
/// use idempotency::Digest;
/// let (a, b) = (Digest::new("demo").part(b"ab").part(b"c"), Digest::new("demo").part(b"a").part(b"bc"));
/// assert_ne!(a.finish(), b.finish());
/// ```
#[derive(Clone)]
pub struct Digest(Sha256);

// What it has seen so far is no business of a log.
impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest").finish_non_exhaustive()
    }
}

/// The longest part that is copied.
const SHORT: usize = 56;

impl Digest {
    /// A digest for one purpose, named and versioned by `domain`.
    #[inline]
    pub fn new(domain: &str) -> Self {
        Self(Sha256::new()).part(domain.as_bytes())
    }

    /// Adds one part: its length as 8 bytes, big endian, then its bytes.
    #[inline]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        // Most parts are short: with their length in one piece they reach the digest in one step.
        let mut piece = [0; 8 + SHORT];
        if let Some(short) = piece[8..].get_mut(..bytes.len()) {
            short.copy_from_slice(bytes);
            piece[..8].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
            self.0.update(&piece[..8 + bytes.len()]);
            return self;
        }
        self.parts(bytes.len() as u64, [bytes])
    }

    /// Adds one part that lies in several pieces; `length` is that of all of them.
    #[inline]
    pub fn parts<'a>(mut self, length: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.0.update(length.to_be_bytes());
        for piece in pieces {
            self.0.update(piece);
        }
        self
    }

    /// Adds a part that may be absent; absent and empty differ.
    #[inline]
    pub fn option(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            None => self.part(b"0"),
            Some(bytes) => self.part(b"1").part(bytes),
        }
    }

    /// The 32 bytes.
    #[inline]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let mut hex = String::with_capacity(bytes.len() * 2);
    bytes.iter().for_each(|byte| hex.extend([digit(byte >> 4), digit(byte & 15)]));
    hex
}
