//! A call of a function that is protected as a function. It imports calls, values and the boundary.

pub mod call;
pub mod plan;
