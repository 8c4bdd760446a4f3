//! What every protected call has: its options, its engine, its attempt, its outcome. They import the stores and the boundary.

pub mod attempt;
pub mod engine;
pub mod outcome;
pub mod site;
