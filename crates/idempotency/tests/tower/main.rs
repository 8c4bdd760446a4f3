//! The tower layer, as its users meet it: real servers on loopback, and clients that leave.

mod bad_input;
mod builds;
mod streams;
mod support;
