//! Idempotency keys for backends: the effect happens once, every repeat gets the first answer.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use idempotency::{Done, Idempotency, stores};
//!
//! let payments = Idempotency::new(stores::open("memory://")?); // or sqlite:///payments.db, redis://localhost
//! let charge = async |_| Ok::<_, std::io::Error>("receipt".to_owned());
//!
//! let first = payments.call("charge", "order-7")?.payload(&("alice", 42)).run(charge).await?;
//! let second = payments.call("charge", "order-7")?.payload(&("alice", 42)).run(charge).await?;
//! assert_eq!((first, second), (Done::Ran("receipt".into()), Done::Replayed("receipt".into())));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! [`function`] says which way to run work there is. The core is pure and small: [`Key`] and [`Scope`], [`Fingerprint`], [`Record`], [`decide()`], and the [`Store`] trait.
//! [`Idempotency`] is the engine over it; [`stores`] are where records live; [`http`] has the rules of HTTP that every face shares.
//!
//! # What is promised
//!
//! 1. At any time at most one attempt holds the live claim of a key. The claim is one atomic store operation.
//! 2. A stored result does not change until its `ttl` passes; every repeat with the same fingerprint gets it.
//! 3. Every write after the claim is a compare-and-set on the attempt's token: an attempt that lost its claim changes nothing.
//! 4. A crash frees the key when the lease lapses; a live attempt is renewed in the background.
//! 5. What follows a crash is the caller's choice: [`AfterCrash`].
//!
//! Not promised: exactly one effect in a foreign system across a crash (nobody can), and surviving a store that loses
//! acknowledged writes.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_debug_implementations, unreachable_pub)]

#[cfg(feature = "metrics")]
pub mod ages;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "console")]
pub mod console;
pub mod decide;
pub mod engine;
mod error;
pub mod events;
mod fingerprint;
pub mod form;
#[cfg(feature = "functions")]
pub mod function;
#[cfg(feature = "http")]
pub mod http;
mod key;
pub mod process;
mod record;
pub mod result_tags;
mod schema;
#[cfg(feature = "seal")]
pub mod seal;
#[cfg(any(feature = "cli", feature = "console"))]
mod seen;
pub mod step;
pub mod store;
pub mod stores;
#[cfg(feature = "tower")]
pub mod tower;
pub mod transactions;
#[cfg(any(feature = "cli", feature = "console"))]
mod words;

pub use decide::{Decision, decide};
pub use engine::{CurrentAttempt, Idempotency, Options, OptionsError};
pub use error::{StoreError, StoreErrorKind};
pub use fingerprint::{Digest, Fingerprint, hex};
#[cfg(feature = "functions")]
pub use function::{Attempt, Begun, Done, Error};
pub use key::{Key, KeyError, KeyFormat, Label, MAX_KEY, Operation, Scope, ScopedKeys, StorageKey};
pub use record::{AfterCrash, Micros, Record, RecordError, State, Token};
pub use store::Store;

// Examples that stand elsewhere are executed, or compiled where they want a server.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "axum", feature = "seal"))]
mod documents {
    #[doc = include_str!("../../../docs/axum.md")]
    struct Axum;

    #[doc = include_str!("../../../docs/rust.md")]
    struct Functions;

    #[doc = include_str!("../../../docs/sealing.md")]
    struct Sealing;
}
