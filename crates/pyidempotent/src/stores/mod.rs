//! Stores, for Python: a store made anew in every process, one behind a Python object's methods, a test's. They import the
//! boundary.

pub mod backend;
mod credentials;
pub mod custom;
pub mod rehearsal;
pub mod seal;
mod suite;
