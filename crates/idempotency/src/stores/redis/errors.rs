//! What the servers' and the connections' errors mean.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::options::RedisAddress;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::RecordError;

/// Why there is no connection.
pub(super) fn not_connected(at: &RedisAddress, source: RedisError) -> StoreError {
    let (kind, message) = match is_refusal(&source) {
        true => (
            StoreErrorKind::Setup,
            format!("the Redis server at {at} refused us: {source}; check user, password and database"),
        ),
        false => (StoreErrorKind::NotExecuted, format!("the Redis server at {at} can't be reached: {source}")),
    };
    StoreError::new(kind, message).with_source(source)
}

/// Whether the server was reached and does not let us in.
pub(super) fn is_refusal(source: &RedisError) -> bool {
    match source.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => true,
        ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        _ if source.to_string().contains("switch database") => true,
        _ => source.code().is_some_and(|code| matches!(code, "NOAUTH" | "WRONGPASS")),
    }
}

/// A node of a cluster was named as if it had every key.
pub(super) fn is_a_node() -> StoreError {
    let message = "the Redis server is a node of a cluster; write redis+cluster://host:port, and it finds the others";
    StoreError::new(StoreErrorKind::Setup, message)
}

/// Whether only a node of a cluster says that.
pub(super) fn is_of_a_cluster(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Moved | Ask | ClusterDown | TryAgain))
}

/// The error of something that was sent before an operation, or beside it: the operation itself was not executed.
pub(super) fn not_executed(error: StoreError) -> StoreError {
    match error.kind() {
        StoreErrorKind::Unknown => StoreError::new(StoreErrorKind::NotExecuted, error.to_string()).with_source(error),
        _ => error,
    }
}

pub(super) fn timed_out(limit: Duration) -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, format!("the Redis server did not answer within {limit:?}"))
}

/// What the server or the connection said, and whether another connection may have a better answer.
pub(super) struct Failed {
    pub(super) error: StoreError,
    pub(super) leaves_connection: bool,
}

/// What the server's own words mean: each comes before a script has written anything.
const REFUSALS: [(&str, StoreErrorKind, &str); 15] = [
    ("NOSCRIPT", StoreErrorKind::NotExecuted, "has lost its scripts"),
    ("READONLY", StoreErrorKind::NotExecuted, "is a read-only replica; its name should lead to the primary"),
    ("LOADING", StoreErrorKind::NotExecuted, "is loading its data after a start"),
    ("MASTERDOWN", StoreErrorKind::NotExecuted, "is a replica without its primary"),
    ("NOREPLICAS", StoreErrorKind::NotExecuted, "has not enough replicas for a write (min-replicas-to-write)"),
    (
        "MISCONF",
        StoreErrorKind::NotExecuted,
        "takes no writes because it cannot save them (stop-writes-on-bgsave-error)",
    ),
    ("BUSY", StoreErrorKind::NotExecuted, "is busy with a script that runs too long"),
    ("OOM", StoreErrorKind::NotExecuted, "is out of memory (maxmemory)"),
    ("MOVED", StoreErrorKind::NotExecuted, "says that another node has the key, as all that were asked"),
    ("ASK", StoreErrorKind::NotExecuted, "says that another node has the key, as all that were asked"),
    ("TRYAGAIN", StoreErrorKind::NotExecuted, "is a node whose keys are on their way to another"),
    ("CLUSTERDOWN", StoreErrorKind::NotExecuted, "is a node of a cluster that is down"),
    ("NOAUTH", StoreErrorKind::Setup, "wants a password"),
    ("WRONGPASS", StoreErrorKind::Setup, "does not know this user and password"),
    ("NOPERM", StoreErrorKind::Setup, "does not permit this user a command that the store needs"),
];

/// What the server's or the connection's error means for the operation.
pub(super) fn error(source: RedisError, key: &str) -> Failed {
    let text = source.to_string();
    // Redis 6 wraps what a script's command answered ("... -MISCONF Redis is ..."); 7 hands it on.
    let is_denied = text.contains("The user executing the script can't run this command");
    let says = |code: &str| {
        source.code() == Some(code)
            || text.split([' ', '-', ':']).any(|word| word == code)
            || code == "NOPERM" && is_denied // in a script, where Redis 7 has no code for it
    };
    if says("WRONGTYPE") {
        let error = StoreError::foreign(key, RecordError::Foreign);
        return Failed { error, leaves_connection: false };
    }
    let refusal = REFUSALS.iter().find(|(code, ..)| !source.is_io_error() && says(code));
    let (kind, message) = match refusal {
        Some((_, kind, words)) => (*kind, format!("the Redis server {words}: {text}")),
        None if source.kind() == ErrorKind::AuthenticationFailed => {
            (StoreErrorKind::Setup, format!("the Redis server refused us: {text}; check user and password"))
        }
        None if source.code() == Some("ERR") => {
            (StoreErrorKind::Refused, format!("the Redis server refused a command: {text}"))
        }
        None => (StoreErrorKind::Unknown, format!("the connection to the Redis server failed: {text}")),
    };
    // A replica that was the primary keeps its connections: the name may lead to another server by now.
    let leaves_connection = source.is_io_error() || source.is_unrecoverable_error() || says("READONLY");
    Failed { error: StoreError::new(kind, message).with_source(source), leaves_connection }
}

pub(super) fn is_out_of_memory(error: &StoreError) -> bool {
    error.kind() == StoreErrorKind::NotExecuted && error.to_string().contains("OOM")
}
