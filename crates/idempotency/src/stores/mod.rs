//! The stores, one feature each.

#[cfg(feature = "memory")]
mod memory;
mod open;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "memory")]
pub use memory::MemoryStore;
pub use open::open;
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisStore, RedisTls};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
