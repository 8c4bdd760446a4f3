//! The tower layer, as its users meet it: real servers on loopback, and clients that leave.

mod builds;
mod support;
