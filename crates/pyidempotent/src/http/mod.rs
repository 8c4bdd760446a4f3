//! Requests and answers of Python's frameworks, for the rules in `idempotency::http`.

pub mod answer;
pub mod capture;
mod convert;
pub mod facts;
pub mod request;
