//! Results encrypted before they leave the process: [`Sealed`] is a store around any other, [`SealKeys`] are its keys.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use idempotency::seal::{SealKeys, Sealed};
//! use idempotency::{Done, Idempotency, stores};
//!
//! let keys = SealKeys::parse(&SealKeys::generate())?; // from a secret store; "new,old" while keys are rotated
//! let payments = Idempotency::new(Sealed::new(stores::open("memory://")?, keys));
//! let charge = async |_| Ok::<_, std::io::Error>("card 4242".to_owned());
//! payments.call("charge", "order-7")?.run(charge).await?;
//! assert_eq!(payments.call("charge", "order-7")?.run(charge).await?, Done::Replayed("card 4242".into()));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! A result is sealed by XChaCha20-Poly1305, with a random nonce of 192 bits, and bound to its storage key, its fingerprint and
//! its state: put under another key, or cut, or changed, it can't be opened. What can't be opened is an error of the store
//! ([`StoreErrorKind::Foreign`]): nothing runs past it, and the record stays as it is.
//!
//! Without [`SealKeys::hiding_names`] a stolen store still shows the operation and the key of each record in words, and the
//! SHA-256 of what was asked for.

mod form;
mod keys;
mod sealed;

use crate::error::{StoreError, StoreErrorKind};

pub use keys::{SealError, SealKeys};
pub use sealed::Sealed;

/// The environment's variable with the keys: `new,old`.
pub const KEYS_VARIABLE: &str = "IDEMPOTENCY_SEAL_KEYS";
/// The environment's variable with the key that hides names.
pub const NAMES_VARIABLE: &str = "IDEMPOTENCY_SEAL_NAMES";

/// The keys that the environment has: those of `IDEMPOTENCY_SEAL_KEYS`, as [`SealKeys::parse`] reads them, and of
/// `IDEMPOTENCY_SEAL_NAMES` the one that hides names. `None`: it has none.
///
/// # Errors
/// [`StoreErrorKind::Setup`] for what is no key, and for a key of names without keys. The message names the variable, and shows
/// nothing of what stands there.
pub fn from_environment() -> Result<Option<SealKeys>, StoreError> {
    let read = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let wrong = |name, why: String| StoreError::new(StoreErrorKind::Setup, format!("{name}: {why}"));
    let (keys, names) = (read(KEYS_VARIABLE), read(NAMES_VARIABLE));
    let Some(keys) = keys else {
        return match names {
            None => Ok(None),
            Some(_) => Err(wrong(NAMES_VARIABLE, format!("it is of use with {KEYS_VARIABLE} alone, which is not set"))),
        };
    };
    let keys = SealKeys::parse(&keys.to_string_lossy()).map_err(|error| wrong(KEYS_VARIABLE, error.to_string()))?;
    match names {
        None => Ok(Some(keys)),
        Some(names) => match keys.hiding_names(&names.to_string_lossy()) {
            Ok(keys) => Ok(Some(keys)),
            Err(error) => Err(wrong(NAMES_VARIABLE, error.to_string())),
        },
    }
}
