//! [`Record`]: what a store keeps under a key, and its one wire form.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::fingerprint::Fingerprint;
use crate::process::generation;

/// Microseconds: since the Unix epoch for points in time, plain for durations.
pub type Micros = u64;

/// Whose claim it is: 128 bits from the operating system, new for every attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// A new token.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give: no claim could be told from another.
    pub fn random() -> Self {
        thread_local! {
            /// Bytes drawn ahead, for one system call in 128 tokens, and the process they were drawn in.
            static DRAWN: RefCell<(Vec<[u8; 16]>, u32)> = const { RefCell::new((Vec::new(), 0)) };
        }
        DRAWN.with_borrow_mut(|(drawn, process)| {
            if drawn.is_empty() || *process != generation() {
                *process = generation();
                drawn.resize(128, [0; 16]);
                getrandom::fill(drawn.as_flattened_mut()).expect("the operating system gives random bytes");
            }
            Self(drawn.pop().expect("it was just filled"))
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", crate::fingerprint::hex(&self.0))
    }
}

/// What to do about an attempt that may or may not have had its effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AfterCrash {
    /// Run again: at least once.
    #[default]
    Rerun,
    /// Run nothing until an operator resolves the key: at most once.
    Refuse,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Claimed; the lease says for how long.
    InFlight,
    /// Done, with its result.
    Completed,
    /// Done, but the result could not be kept; the record's result is a note about it.
    NotKept,
    /// Held: nobody knows whether the effect happened.
    Unknown,
}

impl State {
    /// The byte that stands for it in the wire form.
    pub(crate) fn letter(self) -> u8 {
        match self {
            Self::InFlight => b'F',
            Self::Completed => b'C',
            Self::NotKept => b'N',
            Self::Unknown => b'U',
        }
    }
}

/// Everything a store keeps about one key, except when it expires and when its lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the key stands.
    pub state: State,
    /// The crash policy of the attempt that claimed it.
    pub after_crash: AfterCrash,
    /// The attempt that claimed it.
    pub token: Token,
    /// The attempt's fencing number.
    pub fence: u64,
    /// How long a claim or a renewal is good for.
    pub lease: Micros,
    /// How long a completed record lives; an in-flight one lives as long after its last renewal.
    pub ttl: Micros,
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// The operation and the key in words, for operators.
    pub label: Arc<str>,
    /// The result, or the note of a result that was not kept. Empty in flight.
    pub result: Arc<[u8]>,
}

/// Why bytes are not a [`Record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// They start with something else.
    #[error("it holds a value that is not an idempotency record; choose another prefix or namespace, or remove it")]
    Foreign,
    /// A later version of this library wrote them.
    #[error("it holds a record of version {0}, which is newer than this library reads (1); upgrade this process")]
    Newer(char),
    /// They stop or vary where they must not.
    #[error("it holds a damaged idempotency record; look at it, then remove it")]
    Damaged,
}

/// The length of the part before the label. Scripts in stores rely on these offsets.
const HEAD: usize = 4 + 2 + 16 + 16 + 8 + 8 + 32 + 2;
const LABEL_MAX: usize = 200;

impl Record {
    /// So many first bytes of a wire form have all of it but the result.
    pub const HEAD_MAX: usize = HEAD + LABEL_MAX;

    /// The wire form, the same in every store and language:
    ///
    /// | bytes | what |
    /// |---|---|
    /// | 4 | `idm1` |
    /// | 1 | state: `F` in flight, `C` completed, `N` not kept, `U` unknown |
    /// | 1 | policy: `r` rerun, `x` refuse |
    /// | 16 | owner token |
    /// | 16 | fence, in decimal digits (Lua reads it) |
    /// | 8 + 8 | lease and ttl in µs, big endian |
    /// | 32 | fingerprint |
    /// | 2 + n | label: length, big endian, and UTF-8, cut to 200 bytes |
    /// | rest | result |
    pub fn encode(&self) -> Vec<u8> {
        self.encode_after(&[])
    }

    /// The wire form after something else, in one allocation.
    pub(crate) fn encode_after(&self, head: &[u8]) -> Vec<u8> {
        let label = self.short_label();
        // Of a known length: it is put together without a look at the capacity for each field.
        let mut fields = [0; HEAD];
        fields[..4].copy_from_slice(b"idm1");
        fields[4] = self.state.letter();
        fields[5] = if self.after_crash == AfterCrash::Refuse { b'x' } else { b'r' };
        fields[6..22].copy_from_slice(&self.token.0);
        fields[22..38].copy_from_slice(&digits(self.fence));
        fields[38..46].copy_from_slice(&self.lease.to_be_bytes());
        fields[46..54].copy_from_slice(&self.ttl.to_be_bytes());
        fields[54..86].copy_from_slice(&self.fingerprint.0);
        fields[86..].copy_from_slice(&(label.len() as u16).to_be_bytes());
        let mut out = Vec::with_capacity(head.len() + self.encoded_len());
        out.extend_from_slice(head);
        out.extend_from_slice(&fields);
        out.extend_from_slice(label.as_bytes());
        out.extend_from_slice(&self.result);
        out
    }

    /// How long the wire form is.
    pub(crate) fn encoded_len(&self) -> usize {
        HEAD + self.short_label().len() + self.result.len()
    }

    fn short_label(&self) -> &str {
        &self.label[..self.label.floor_char_boundary(LABEL_MAX)]
    }

    /// Reads the wire form.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut rest = bytes;
        if take(&mut rest).map(|magic: [u8; 3]| magic) != Some(*b"idm") {
            return Err(RecordError::Foreign);
        }
        match take(&mut rest) {
            Some([b'1']) => {}
            Some([version @ b'2'..=b'9']) => return Err(RecordError::Newer(version.into())),
            _ => return Err(RecordError::Foreign),
        }
        Self::decode_fields(rest).ok_or(RecordError::Damaged)
    }

    /// Reads all but the result, for a list: of a wire form, or of its first [`Record::HEAD_MAX`] bytes.
    ///
    /// # Errors
    /// Where the bytes are no record.
    pub fn decode_head(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(Self { result: Arc::default(), ..Self::decode(bytes)? })
    }

    fn decode_fields(mut rest: &[u8]) -> Option<Self> {
        let [state, policy] = take(&mut rest)?;
        let state = match state {
            b'F' => State::InFlight,
            b'C' => State::Completed,
            b'N' => State::NotKept,
            b'U' => State::Unknown,
            _ => return None,
        };
        let after_crash = match policy {
            b'r' => AfterCrash::Rerun,
            b'x' => AfterCrash::Refuse,
            _ => return None,
        };
        let token = Token(take(&mut rest)?);
        let fence: [u8; 16] = take(&mut rest)?;
        if !fence.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let fence = std::str::from_utf8(&fence).ok()?.parse().ok()?;
        let (lease, ttl) = (u64::from_be_bytes(take(&mut rest)?), u64::from_be_bytes(take(&mut rest)?));
        let fingerprint = Fingerprint(take(&mut rest)?);
        let length = u16::from_be_bytes(take(&mut rest)?);
        let (label, result) = rest.split_at_checked(length.into())?;
        let label = std::str::from_utf8(label).ok()?.into();
        // In flight there is none, and the empty one needs no memory of its own.
        let result = if result.is_empty() { Arc::default() } else { result.into() };
        Some(Self { state, after_crash, token, fence, lease, ttl, fingerprint, label, result })
    }
}

/// A number in decimal: microseconds since 1970 have 16 digits until the year 2286.
fn digits(mut number: u64) -> [u8; 16] {
    let mut digits = [b'0'; 16];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}
