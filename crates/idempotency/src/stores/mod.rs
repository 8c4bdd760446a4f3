//! The stores, one feature each.

#[cfg(any(feature = "redis", feature = "postgres"))]
mod anchor;
#[cfg(feature = "memory")]
mod memory;
mod open;
#[cfg(any(feature = "sqlite", feature = "redis", feature = "postgres"))]
mod percent;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod resolver;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod shared_work;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "memory")]
pub use memory::MemoryStore;
#[cfg(feature = "cli")]
pub(crate) use open::decoded_path;
pub use open::open;
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore, PostgresTls, postgres_schema};
#[cfg(feature = "redis")]
pub use redis::{
    RedisAddress, RedisCredentials, RedisLogin, RedisLoginReply, RedisOptions, RedisServers, RedisStore, RedisTls,
    RedisVerify,
};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
