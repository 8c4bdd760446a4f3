//! Functions that run once per key: any payload and result that serde knows.
//!
//! [`Idempotency::call`](crate::Idempotency::call) names the operation and the key. What follows says what is done:
//!
//! | | the work | its caller leaves |
//! |---|---|---|
//! | [`Call::run`] | a future of the caller's | the key is held: nobody knows whether the work had its effect |
//! | [`Call::spawn`] | a task of its own | the work goes on, and its result is stored |
//! | [`Call::run_blocking`] | a plain function, on a thread without a runtime | it can't |
//! | [`Call::begin`] | whatever stands between it and [`Attempt::complete`] | the key is held |
//!
//! It uses the engine and the core, and nothing of HTTP.

mod attempt;
mod blocking;
mod call;
mod canonical;
mod error;
mod run;
mod value;

pub use attempt::{Attempt, Begun};
pub use call::Call;
pub use error::{BoxedError, Error, Unreadable, ValueError};
pub use run::Done;
