//! Functions that run once per key: any payload and result that serde knows.
//!
//! [`Idempotency::call`](crate::Idempotency::call) names the operation and the key. What follows says what is done:
//!
//! | | what runs the work | if its caller drops the future |
//! |---|---|---|
//! | [`Call::run`] | the future that it returns | the key is held: nobody knows whether the work had its effect |
//! | [`Call::spawn`] | a task of its own | the work goes on, and its result is stored |
//! | [`Call::run_blocking`] | the caller's thread, which has no runtime | there is no future to drop |
//! | [`Call::begin`] | your own code, up to [`Attempt::complete`] | the key is held if the [`Attempt`] is dropped |
//! | [`Call::in_tx`] | your own code, in your database transaction | the transaction is rolled back, and the key is free |
//!
//! It uses the engine and the core, and nothing of HTTP.

mod attempt;
mod blocking;
mod call;
mod canonical;
mod error;
mod in_transaction;
mod run;
mod value;

pub use attempt::{Attempt, Begun};
pub use call::Call;
pub use error::{BoxedError, Error, Unreadable, ValueError};
pub use in_transaction::{InTx, Open};
pub use run::Done;
