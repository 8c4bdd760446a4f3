//! The rules of HTTP that every face shares, in every language: a request's fingerprint, whose its key is, what is stored and
//! what is released, the capture of an answer, its replay, the refusals.
//!
//! Nothing here does I/O or knows a framework. It uses `fingerprint` of the core, and nothing of the engine.

mod answer;
mod callers;
mod capture;
mod fate;
mod json;
mod not_kept;
mod refusal;
mod replay;
mod request;

pub use answer::{Answer, Malformed, REPLAYED, declared_length, has_body};
pub use callers::{CALLERS, POSSIBLE_CALLERS, authorization_caller, names_caller};
pub use capture::Capture;
pub use fate::{Fate, METHODS, SAFE_METHODS};
pub use json::canonical_json;
pub use not_kept::Note;
pub use refusal::{Problem, REFUSALS, Refusal, is_refusal};
pub use replay::{NotReplayable, Replay, store_answer};
pub use request::RequestFacts;
