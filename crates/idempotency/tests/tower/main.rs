//! The tower layer, as its users meet it: real servers on loopback, and clients that leave.

mod bad_input;
mod builds;
mod callers;
mod grpc;
mod layers;
mod leaving;
mod panics;
mod service;
mod shutdown;
mod stores;
mod streams;
mod support;
