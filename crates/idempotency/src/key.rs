//! Which operation, for whom, under which key: [`Key`], [`Scope`] and the header they come from.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use crate::fingerprint::{Digest, hex};

/// Longest key, in characters.
pub const MAX_KEY: usize = 255;

/// A client's idempotency key: 1 to 255 characters.
///
/// ```
/// use idempotency::Key;
/// assert_eq!(Key::new("order-7").unwrap().as_str(), "order-7");
/// assert!(Key::new("").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

/// Why a key is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Nothing between the quotes, or an empty string.
    #[error("the idempotency key is empty; send 1 to {MAX_KEY} characters")]
    Empty,
    /// More than [`MAX_KEY`] characters.
    #[error("the idempotency key has {0} characters; at most {MAX_KEY} are allowed")]
    TooLong(usize),
    /// The header is not an RFC 9651 String (nor, where lenient, a bare key).
    #[error("the idempotency key header is malformed ({0}); send it once, as a quoted string like \"8e03978e-40d5\"")]
    Malformed(&'static str),
}

impl Key {
    /// Checks the length and nothing else.
    pub fn new(key: impl Into<String>) -> Result<Self, KeyError> {
        let key = key.into();
        match key.chars().count() {
            0 => Err(KeyError::Empty),
            n if n > MAX_KEY => Err(KeyError::TooLong(n)),
            _ => Ok(Self(key)),
        }
    }

    /// The key without its quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, KeyError> {
        Self::new(key)
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyError;

    fn try_from(key: &str) -> Result<Self, KeyError> {
        Self::new(key)
    }
}

impl TryFrom<&String> for Key {
    type Error = KeyError;

    fn try_from(key: &String) -> Result<Self, KeyError> {
        Self::new(key)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(key: String) -> Result<Self, KeyError> {
        Self::new(key)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

/// The value of an `Idempotency-Key` header, quoted or bare: [`KeyFormat::Lenient`].
#[cfg(feature = "tower")]
impl TryFrom<&::http::HeaderValue> for Key {
    type Error = KeyError;

    fn try_from(value: &::http::HeaderValue) -> Result<Self, KeyError> {
        KeyFormat::Lenient.parse(&[value.as_bytes()])
    }
}

/// A key that is one already is no error.
impl From<Infallible> for KeyError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A string.
#[cfg(feature = "serde")]
impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// From a string that is a key.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// How the header may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyFormat {
    /// An RFC 9651 String, or the bare characters most clients send: `"k"` and `k` are the same key.
    #[default]
    Lenient,
    /// An RFC 9651 String only.
    Strict,
}

impl KeyFormat {
    /// Reads the key from the header's lines, in order, as they came.
    ///
    /// Several lines are joined by a comma first (RFC 9110, section 5.3), which makes several keys malformed; so are bytes
    /// outside ASCII. Parameters after the String are allowed and ignored (RFC 9651, section 3.3).
    ///
    /// ```
    /// use idempotency::KeyFormat;
    /// assert_eq!(KeyFormat::Lenient.parse(&[b"abc"]).unwrap().as_str(), "abc");
    /// assert!(KeyFormat::Strict.parse(&[b"abc"]).is_err());
    /// assert!(KeyFormat::Lenient.parse(&[b"\"a\"", b"\"a\""]).is_err());
    /// ```
    pub fn parse(self, lines: &[&[u8]]) -> Result<Key, KeyError> {
        let joined;
        let line: &[u8] = match lines {
            [one] => one,
            many => {
                joined = many.join(&b", "[..]);
                &joined
            }
        };
        let line = line.trim_ascii();
        if line.is_empty() {
            return Err(KeyError::Empty);
        }
        if self == Self::Lenient && line.iter().all(is_bare) {
            return Key::new(line.iter().map(|b| char::from(*b)).collect::<String>());
        }
        let item = sfv::Parser::new(line)
            .parse::<sfv::Item>()
            .map_err(|_| KeyError::Malformed("it is not an RFC 9651 Item"))?;
        match item.bare_item.as_string() {
            Some(key) => Key::new(key.as_str()),
            None => Err(KeyError::Malformed("it is not an RFC 9651 String")),
        }
    }
}

fn is_bare(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.:/+=~-".contains(byte)
}

/// What is done: the part of the scope that tells `/charge` from `/refund`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// A function, by its fully qualified name.
    Call(&'a str),
    /// An HTTP request, by its method and its path as the client sent it.
    Http {
        /// The method, in upper case.
        method: &'a str,
        /// The path, still percent-encoded, without the query.
        path: &'a [u8],
    },
}

/// Where a key means something: the same key in another scope is another key.
///
/// ```
/// use idempotency::{Key, Operation, Scope};
/// let charge = Scope { namespace: "", operation: Operation::Call("charge"), caller: None };
/// let refund = Scope { operation: Operation::Call("refund"), ..charge };
/// let key = Key::new("k").unwrap();
/// assert_ne!(charge.storage_key(&key), refund.storage_key(&key));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Keeps applications apart that share a store.
    pub namespace: &'a str,
    /// What is done.
    pub operation: Operation<'a>,
    /// Who asks; `None` is the anonymous scope, which no caller's name can forge.
    pub caller: Option<&'a [u8]>,
}

impl Scope<'_> {
    /// The one name of this key in every store and in every language: SHA-256 over the length-prefixed parts
    /// `idempotency key 1`, namespace, `call` and name (or `http`, method and path), caller, key.
    pub fn storage_key(&self, key: &Key) -> StorageKey {
        self.keys().storage_key(key)
    }

    /// The storage keys of many keys in this scope, which is hashed once.
    pub fn keys(&self) -> ScopedKeys {
        let digest = Digest::new("idempotency key 1").part(self.namespace.as_bytes());
        let digest = match self.operation {
            Operation::Call(name) => digest.part(b"call").part(name.as_bytes()),
            Operation::Http { method, path } => digest.part(b"http").part(method.as_bytes()).part(path),
        };
        ScopedKeys(digest.option(self.caller))
    }

    /// The operation and the key in words, for an operator who finds the record; never used to decide anything.
    pub fn label(&self, key: &Key) -> String {
        match self.operation {
            Operation::Call(name) => [name, &key.0].join(" "),
            Operation::Http { method, path } => [method, &String::from_utf8_lossy(path), &key.0].join(" "),
        }
    }
}

/// A scope that makes storage keys: [`Scope::keys`].
///
/// ```
/// use idempotency::{Key, Operation, Scope};
/// let scope = Scope { namespace: "", operation: Operation::Call("charge"), caller: None };
/// let (keys, key) = (scope.keys(), Key::new("k").unwrap());
/// assert_eq!(keys.storage_key(&key), scope.storage_key(&key));
/// ```
#[derive(Clone, Debug)]
pub struct ScopedKeys(Digest);

impl ScopedKeys {
    /// As [`Scope::storage_key`].
    pub fn storage_key(&self, key: &Key) -> StorageKey {
        StorageKey(self.0.clone().part(key.0.as_bytes()).finish())
    }
}

/// A scope and a key, as a store sees them: 32 bytes that say nothing about the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageKey(pub [u8; 32]);

impl StorageKey {
    /// The record's short id: the first 12 digits of the storage key. Log lines name records by it, since a key may be
    /// the only secret that a client has.
    ///
    /// ```
    /// assert_eq!(idempotency::StorageKey([0xab; 32]).id(), "abababababab");
    /// ```
    pub fn id(&self) -> String {
        hex(&self.0[..6])
    }

    /// Reads its hexadecimal form: 64 digits.
    ///
    /// ```
    /// use idempotency::StorageKey;
    /// assert_eq!(StorageKey::parse(&[b'0'; 64]), Some(StorageKey([0; 32])));
    /// assert_eq!(StorageKey::parse(b"f00"), None);
    /// ```
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let mut key = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Some(Self(key))
    }

    /// A child key for a downstream call: the same for every attempt of this key, different for every `name`.
    pub fn derive(&self, name: &str) -> String {
        let digest = Digest::new("idempotency derived key 1").part(&self.0).part(name.as_bytes());
        hex(&digest.finish()[..16])
    }
}

/// Hexadecimal.
impl fmt::Display for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageKey({self})")
    }
}
