//! [`SealKeys`]: what results are sealed with.

use std::fmt;
use std::sync::Arc;

use base64ct::{Base64, Base64Unpadded, Base64UrlUnpadded, Encoding};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::fingerprint::Digest;

/// Why a text is no key. It says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no key at all.
    #[error("there is no key to seal with; make one by SealKeys::generate(), in Python by Seal.new_key()")]
    None,
    /// It is not a key's text.
    #[error("key {0} is not 32 bytes, written as 64 hexadecimal digits or in base64")]
    NotAKey(usize),
    /// One key stands there twice.
    #[error("key {0} is there before; each key is named once")]
    Twice(usize),
}

/// A key's 32 bytes, which leave no copy behind.
type Secret = Zeroizing<[u8; 32]>;

/// One key that results are sealed with.
#[derive(Clone)]
pub(super) struct SealKey {
    /// What a sealed result names it by. It follows from the key, and tells nothing of it.
    pub(super) id: [u8; 4],
    pub(super) cipher: XChaCha20Poly1305,
}

/// The key that names are hidden with.
#[derive(Clone)]
pub(super) struct NameKey {
    pub(super) mac: Hmac<Sha256>,
    pub(super) cipher: XChaCha20Poly1305,
}

/// Keys to seal with: the first writes, all of them read.
///
/// To rotate, give every process `old,new`, then `new,old`, and when the longest `ttl` has passed since then, `new`. Cheap to
/// clone. Nothing prints them.
///
/// ```
/// use idempotency::seal::SealKeys;
/// let (new, old) = (SealKeys::generate(), SealKeys::generate());
/// let keys = SealKeys::parse(&format!("{new},{old}")).unwrap();
/// assert!(SealKeys::parse("hunter2").unwrap_err().to_string().starts_with("key 1 is not 32 bytes"));
/// assert!(!format!("{keys:?}").contains(&new));
/// ```
#[derive(Clone)]
pub struct SealKeys {
    pub(super) keys: Arc<[SealKey]>,
    pub(super) names: Option<NameKey>,
    pub(super) reads_plain: bool,
    /// Tells two of them apart. It says nothing of the keys.
    identity: [u8; 32],
}

impl SealKeys {
    /// Keys as text: each 32 random bytes, as 64 hexadecimal digits or in base64, with commas between them.
    ///
    /// # Errors
    /// For what is no key. The message shows nothing of it.
    pub fn parse(keys: &str) -> Result<Self, SealError> {
        let keys = keys.split(',').map(str::trim).enumerate();
        let keys =
            keys.map(|(at, key)| secret(key).ok_or(SealError::NotAKey(at + 1))).collect::<Result<Vec<_>, _>>()?;
        Self::of(&keys)
    }

    /// Keys of 32 random bytes each.
    ///
    /// # Errors
    /// [`SealError::None`] where there are none, [`SealError::Twice`] for one that is there twice.
    pub fn new(keys: &[[u8; 32]]) -> Result<Self, SealError> {
        Self::of(&keys.iter().map(|key| Zeroizing::new(*key)).collect::<Vec<_>>())
    }

    fn of(secrets: &[Secret]) -> Result<Self, SealError> {
        if secrets.is_empty() {
            return Err(SealError::None);
        }
        let mut identity = Digest::new("idempotency seal keys 1");
        let mut keys: Vec<SealKey> = Vec::with_capacity(secrets.len());
        for (at, secret) in secrets.iter().enumerate() {
            if secrets[..at].contains(secret) {
                return Err(SealError::Twice(at + 1));
            }
            let id = expanded(secret, "idempotency seal 1 key id");
            identity = identity.part(&*id);
            keys.push(SealKey {
                id: *id.first_chunk().expect("it has 32 bytes"),
                cipher: cipher(&expanded(secret, "idempotency seal 1 results")),
            });
        }
        Ok(Self { keys: keys.into(), names: None, reads_plain: true, identity: identity.finish() })
    }

    /// Hides names too: storage keys and fingerprints are keyed by HMAC-SHA-256, labels are sealed. `key` is one key's text.
    ///
    /// Another key, or none, finds no record that was written with this one, and **runs again** what stands under it: the key
    /// is never rotated, and every process on the store has it. Give it to a store without records.
    ///
    /// # Errors
    /// [`SealError::NotAKey`] for what is no key.
    pub fn hiding_names(self, key: &str) -> Result<Self, SealError> {
        let secret = secret(key.trim()).ok_or(SealError::NotAKey(1))?;
        let names = expanded(&secret, "idempotency seal 1 names");
        let identity = Digest::new("idempotency seal names 1").part(&self.identity);
        let identity = identity.part(&*expanded(&secret, "idempotency seal 1 key id")).finish();
        let mac = Hmac::new_from_slice(&*names).expect("HMAC takes keys of any length");
        let names = NameKey { mac, cipher: cipher(&expanded(&secret, "idempotency seal 1 labels")) };
        Ok(Self { names: Some(names), identity, ..self })
    }

    /// Refuses results that are not sealed. By default they are read, so that a store with records can be sealed from now on:
    /// whoever can write to the store can then put an answer of theirs there. Refuse them once the longest `ttl` has passed.
    pub fn refusing_plain(self) -> Self {
        let identity = Digest::new("idempotency seal strict 1").part(&self.identity).finish();
        Self { reads_plain: false, identity, ..self }
    }

    /// A new key's text, in base64: 32 bytes from the operating system.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give.
    pub fn generate() -> String {
        let mut key = Secret::default();
        getrandom::fill(&mut *key).expect("the operating system gives random bytes");
        Base64::encode_string(&*key)
    }
}

/// HKDF-Expand (RFC 5869) to 32 bytes, of which there is one block. The key is random, so that nothing has to be extracted.
fn expanded(secret: &Secret, info: &str) -> Secret {
    let mac = Hmac::<Sha256>::new_from_slice(&**secret).expect("HMAC takes keys of any length");
    Zeroizing::new(mac.chain_update(info).chain_update([1]).finalize().into_bytes().into())
}

fn cipher(key: &Secret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}

/// A key of its text.
fn secret(text: &str) -> Option<Secret> {
    let mut key = Secret::default();
    if text.len() == 64 {
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
        }
        return Some(key);
    }
    let text = text.strip_suffix('=').unwrap_or(text);
    let length = match text.contains(['-', '_']) {
        true => Base64UrlUnpadded::decode(text, &mut *key).ok()?.len(),
        false => Base64Unpadded::decode(text, &mut *key).ok()?.len(),
    };
    (length == 32).then_some(key)
}

impl PartialEq for SealKeys {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for SealKeys {}

impl std::hash::Hash for SealKeys {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKeys")
            .field("keys", &self.keys.len())
            .field("hides_names", &self.names.is_some())
            .field("reads_plain", &self.reads_plain)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_in_three_ways() {
        let hex = "fb".repeat(32);
        let base64 = Base64::encode_string(&[0xfb; 32]);
        assert!(base64.contains('+') && base64.ends_with('='));
        let url = base64.replace('+', "-").replace('/', "_");
        for written in [&base64, &url, base64.trim_end_matches('='), &format!(" {base64} "), &hex.to_uppercase()] {
            assert_eq!(SealKeys::parse(written), SealKeys::parse(&hex), "{written}");
        }
        assert_eq!(SealKeys::new(&[[0xfb; 32]]), SealKeys::parse(&hex));
    }

    #[test]
    fn what_is_no_key_is_said_without_it() {
        let key = SealKeys::generate();
        let wrong = [
            ("", SealError::NotAKey(1)),
            ("hunter2", SealError::NotAKey(1)),
            (&format!("{key},"), SealError::NotAKey(2)),
            (&format!("{key},{}", "xy".repeat(32)), SealError::NotAKey(2)),
            (&format!("{key},{}", "ä".repeat(32)), SealError::NotAKey(2)),
            (&format!("{key},{key}"), SealError::Twice(2)),
            (&key[..40], SealError::NotAKey(1)),
        ];
        for (text, error) in wrong {
            assert_eq!(SealKeys::parse(text), Err(error), "{text}");
        }
        assert_eq!(SealKeys::new(&[]), Err(SealError::None));
        assert_eq!(SealKeys::parse(&key).unwrap().hiding_names("x"), Err(SealError::NotAKey(1)));
    }

    #[test]
    fn nothing_prints_a_key() {
        let keys = SealKeys::new(&[[0xab; 32]]).unwrap().hiding_names(&"cd".repeat(32)).unwrap().refusing_plain();
        assert_eq!(format!("{keys:?}"), "SealKeys { keys: 1, hides_names: true, reads_plain: false }");
    }

    #[test]
    fn settings_that_differ_are_told_apart() {
        let [one, two] = [[1; 32], [2; 32]].map(|key| SealKeys::new(&[key]).unwrap());
        let names = |key: u8| one.clone().hiding_names(&crate::hex(&[key; 32])).unwrap();
        let all = [&one, &two, &names(1), &names(2), &one.clone().refusing_plain(), &names(1).refusing_plain()];
        for (at, keys) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other != keys), "{at}");
        }
    }
}
