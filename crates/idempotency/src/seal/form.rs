//! What records look like sealed, and back.

use std::sync::Arc;

use base64ct::{Base64Unpadded, Encoding};
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, Tag, XChaCha20Poly1305, XNonce};
use hmac::Mac;

use super::keys::{NameKey, SealKeys};
use crate::error::StoreError;
use crate::fingerprint::Fingerprint;
use crate::form::{HIDDEN, HIDDEN_LEN, RecordForm};
use crate::key::StorageKey;
use crate::record::{Record, State, Token};
use crate::result_tags::{SEALED, SEALED_VERSION};

/// The tag, the version, the key's id and the nonce, before the ciphertext; the cipher's tag, behind it.
const HEAD: usize = 1 + 1 + 4 + 24;
const TAG: usize = 16;

/// Why what stands under a key can't be read here.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Unsealed {
    #[error("its result is sealed with a key that this process does not have; give it that key too, after its own")]
    OtherKey,
    #[error("its result can't be opened: it was changed, or it is of another key")]
    Damaged,
    #[error("its result is sealed by a later version of this library; upgrade this process")]
    Newer,
    #[error("its result is not sealed, and this process reads none that is not")]
    Plain,
    #[error("its name was not hidden with the key of this process; take the key that it was written with")]
    OtherNames,
}

impl RecordForm for SealKeys {
    fn name(&self, key: &StorageKey) -> StorageKey {
        self.names.as_ref().map_or(*key, |names| StorageKey(names.mac("key", &key.0)))
    }

    fn written(&self, key: &StorageKey, record: &Record) -> Record {
        let mut written = record.clone();
        if record.state == State::Completed || !record.result.is_empty() {
            written.result = self.seal(key, record).into();
        }
        match &self.names {
            Some(names) => names.hide(key, written),
            None => written,
        }
    }

    fn read(&self, key: &StorageKey, written: Record) -> Result<Record, StoreError> {
        let shown = match &self.names {
            Some(names) => match names.show(written) {
                Some((named, shown)) if named == *key => shown,
                _ => return Err(StoreError::foreign(key, Unsealed::OtherNames)),
            },
            None => written,
        };
        self.opened(key, shown).map_err(|why| StoreError::foreign(key, why))
    }
}

impl SealKeys {
    /// The key and the record that were written, by what is found in a list. What can't be read is shown as it stands.
    pub(super) fn listed(&self, name: StorageKey, written: Record) -> (StorageKey, Record) {
        let shown = self.names.as_ref().and_then(|names| names.show(written.clone()));
        let (key, shown) = shown.unwrap_or((name, written));
        let opened = self.opened(&key, shown.clone());
        (key, opened.unwrap_or(shown))
    }

    fn seal(&self, key: &StorageKey, record: &Record) -> Vec<u8> {
        let sealing = &self.keys[0];
        // 192 random bits, drawn as tokens are: ahead, and anew in a forked process.
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&Token::random().0);
        nonce[16..].copy_from_slice(&Token::random().0[..8]);
        let mut sealed = Vec::with_capacity(HEAD + record.result.len() + TAG);
        sealed.extend_from_slice(&[SEALED, SEALED_VERSION]);
        sealed.extend_from_slice(&sealing.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&record.result);
        let tag = encrypt(&sealing.cipher, &nonce, &bound(key, record), &mut sealed[HEAD..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// The record with its result opened.
    fn opened(&self, key: &StorageKey, mut record: Record) -> Result<Record, Unsealed> {
        match record.result.first() {
            Some(&SEALED) => record.result = self.open(key, &record)?,
            None if record.state != State::Completed => {}
            _ if self.reads_plain => {}
            _ => return Err(Unsealed::Plain),
        }
        Ok(record)
    }

    fn open(&self, key: &StorageKey, record: &Record) -> Result<Arc<[u8]>, Unsealed> {
        let sealed = &*record.result;
        if sealed.get(1).is_some_and(|version| *version > SEALED_VERSION) {
            return Err(Unsealed::Newer);
        }
        let (Some(head), Some(id)) = (sealed.get(..HEAD), sealed.get(2..6)) else { return Err(Unsealed::Damaged) };
        let Some((text, tag)) = sealed[HEAD..].split_last_chunk::<TAG>() else { return Err(Unsealed::Damaged) };
        let nonce = head.last_chunk().ok_or(Unsealed::Damaged)?;
        if head[1] != SEALED_VERSION {
            return Err(Unsealed::Damaged);
        }
        let bound = bound(key, record);
        let mut why = Unsealed::OtherKey;
        // Two keys have the same id once in four billion.
        for sealing in self.keys.iter().filter(|sealing| sealing.id == id) {
            let mut opened: Arc<[u8]> = text.into();
            let buffer = Arc::get_mut(&mut opened).expect("it is nobody else's yet");
            if decrypt(&sealing.cipher, nonce, &bound, buffer, tag) {
                return Ok(opened);
            }
            why = Unsealed::Damaged;
        }
        Err(why)
    }
}

/// What a result is bound to: its key, what was asked for, and what it is said to be.
fn bound(key: &StorageKey, record: &Record) -> [u8; 90] {
    const DOMAIN: &[u8; 25] = b"idempotency sealed result";
    let mut bound = [0; 90];
    bound[..25].copy_from_slice(DOMAIN);
    bound[25..57].copy_from_slice(&key.0);
    bound[57..89].copy_from_slice(&record.fingerprint.0);
    bound[89] = match record.state {
        State::InFlight => b'F',
        State::Completed => b'C',
        State::NotKept => b'N',
        State::Unknown => b'U',
    };
    bound
}

fn encrypt(cipher: &XChaCha20Poly1305, nonce: &[u8; 24], bound: &[u8], text: &mut [u8]) -> Tag {
    let sealed = cipher.encrypt_inout_detached(&XNonce::from(*nonce), bound, InOutBuf::from(text));
    sealed.expect("no result has 256 GiB")
}

fn decrypt(cipher: &XChaCha20Poly1305, nonce: &[u8; 24], bound: &[u8], text: &mut [u8], tag: &[u8; TAG]) -> bool {
    cipher.decrypt_inout_detached(&XNonce::from(*nonce), bound, InOutBuf::from(text), &Tag::from(*tag)).is_ok()
}

/// How much of a label is kept: with its key and its tag it is as long as a label may be, and all are of one length.
const LABEL: usize = 96;
const _: () = assert!((32 + LABEL + TAG) / 3 * 4 == HIDDEN_LEN);

impl NameKey {
    fn mac(&self, what: &str, bytes: &[u8]) -> [u8; 32] {
        self.mac.clone().chain_update(what).chain_update([0]).chain_update(bytes).finalize().into_bytes().into()
    }

    /// A fingerprint as it is written, or the one that was: masked by what follows from its attempt's token, which is random.
    fn masked(&self, record: &Record) -> Fingerprint {
        let mut masked = self.mac("fingerprint", &record.token.0);
        masked.iter_mut().zip(record.fingerprint.0).for_each(|(mask, byte)| *mask ^= byte);
        Fingerprint(masked)
    }

    /// One attempt has one label, and its token is its nonce: what it writes twice is the same.
    fn nonce(token: Token) -> [u8; 24] {
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&token.0);
        nonce
    }

    fn hide(&self, key: &StorageKey, mut record: Record) -> Record {
        record.fingerprint = self.masked(&record);
        let mut text = [0; 32 + LABEL + TAG];
        let label = &record.label[..record.label.floor_char_boundary(LABEL)];
        text[..32].copy_from_slice(&key.0);
        text[32..][..label.len()].copy_from_slice(label.as_bytes());
        let tag = encrypt(&self.cipher, &Self::nonce(record.token), b"", &mut text[..32 + LABEL]);
        text[32 + LABEL..].copy_from_slice(&tag);
        record.label = [HIDDEN, &Base64Unpadded::encode_string(&text)].concat().into();
        record
    }

    /// The key and the record that were hidden with this key.
    fn show(&self, mut record: Record) -> Option<(StorageKey, Record)> {
        let mut text = [0; 32 + LABEL + TAG];
        let sealed = record.label.strip_prefix(HIDDEN)?;
        if Base64Unpadded::decode(sealed, &mut text).ok()?.len() != 32 + LABEL + TAG {
            return None;
        }
        let (text, tag) = text.split_last_chunk_mut::<TAG>()?;
        if !decrypt(&self.cipher, &Self::nonce(record.token), b"", text, tag) {
            return None;
        }
        let (key, label) = text.split_first_chunk()?;
        let length = label.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        record.label = std::str::from_utf8(&label[..length]).ok()?.into();
        record.fingerprint = self.masked(&record);
        Some((StorageKey(*key), record))
    }
}
