//! Values of Python: as bytes, as a digest, as a key. They import the boundary.

pub mod digest;
pub mod encoding;
pub mod key;
