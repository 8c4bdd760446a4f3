//! What an error of the server or of the connection means.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::options::Server;
use crate::error::{StoreError, StoreErrorKind};

use StoreErrorKind::{NotExecuted, Refused, Setup, Unknown};

/// What the server or the connection said, and what it means for the connections that there are.
pub(super) struct Failed {
    pub(super) error: StoreError,
    pub(super) leaves: Leaves,
}

/// Which connections are not to be used again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    /// None.
    Nothing,
    /// All: another one may have a better answer.
    Connections,
    /// All, and nothing is prepared on the next ones: statements of one client end up with another.
    Prepared,
}

/// What the server's codes mean: the first that a code starts with counts. An error has undone its transaction, so that
/// nothing was executed; a few come when that is not known.
const CODES: [(&str, StoreErrorKind, Leaves, &str); 26] = [
    ("3F000", Setup, Leaves::Nothing, "the schema is missing"),
    ("42P01", Setup, Leaves::Nothing, "the table is missing"),
    ("42883", Setup, Leaves::Nothing, "a function is missing, or of another version"),
    ("42501", Setup, Leaves::Nothing, "the user has no permission"),
    ("28", Setup, Leaves::Nothing, "it does not let us in; check user, password and sslmode"),
    ("3D000", Setup, Leaves::Nothing, "there is no such database"),
    ("25006", NotExecuted, Leaves::Connections, "it takes no writes: it is a standby, or the role is read-only"),
    ("26000", NotExecuted, Leaves::Prepared, "a prepared statement is lost; is a pooler between?"),
    ("42P05", NotExecuted, Leaves::Prepared, "a prepared statement is another client's; is a pooler between?"),
    ("0A000", NotExecuted, Leaves::Connections, "a prepared statement is out of date"),
    ("XX000", Refused, Leaves::Connections, "it refused a statement"),
    ("40003", Unknown, Leaves::Connections, "the end of a transaction is not known"),
    ("40", NotExecuted, Leaves::Nothing, "another transaction was in the way"),
    ("55P03", NotExecuted, Leaves::Nothing, "another transaction holds a lock"),
    ("57014", NotExecuted, Leaves::Nothing, "a statement was cancelled or took longer than statement_timeout"),
    ("57P01", Unknown, Leaves::Connections, "it shuts down, or an administrator ended the connection"),
    ("57P02", Unknown, Leaves::Connections, "it crashed"),
    ("57P03", NotExecuted, Leaves::Connections, "it starts, shuts down or recovers"),
    ("57P05", NotExecuted, Leaves::Connections, "it ended a connection that was idle"),
    ("57", Unknown, Leaves::Connections, "somebody intervened"),
    (
        "53300",
        NotExecuted,
        Leaves::Nothing,
        "it has no connection left (max_connections); use a pooler, or less of \"connections\"",
    ),
    ("53100", NotExecuted, Leaves::Nothing, "its disk is full"),
    ("53", NotExecuted, Leaves::Nothing, "it is out of resources"),
    ("08", Unknown, Leaves::Connections, "the connection broke"),
    ("58", Unknown, Leaves::Connections, "it has trouble with its system"),
    ("", Refused, Leaves::Nothing, "it refused a statement"),
];

/// What the store's own objects want.
const OURS: [&str; 4] = ["3F000", "42P01", "42883", "42501"];

/// What to do about a schema that is not there as it must be.
pub(super) fn advice(code: &str, schema: &str) -> String {
    match code {
        "42501" => format!(
            "; GRANT USAGE ON SCHEMA \"{schema}\" and SELECT, INSERT, UPDATE, DELETE ON \"{schema}\".records to it, or let the \
             owner run create_table()"
        ),
        _ => format!("; run create_table() once, or the SQL of postgres_schema({schema:?}), before the first call"),
    }
}

/// What an error of a statement means.
pub(super) fn failed(source: Error, schema: &str) -> Failed {
    let Some(said) = source.as_db_error() else {
        let message = format!("the connection to the Postgres server failed: {}", chain(&source));
        let error = StoreError::new(Unknown, message).with_source(source);
        return Failed { error, leaves: Leaves::Connections };
    };
    let code = said.code().code();
    let (_, kind, leaves, words) = CODES.iter().find(|(start, ..)| code.starts_with(start)).expect("the last is any");
    let more = if OURS.contains(&code) { advice(code, schema) } else { String::new() };
    let message = format!("the Postgres server failed: {words} ({code} {}){more}", said.message());
    Failed { error: StoreError::new(*kind, message).with_source(source), leaves: *leaves }
}

/// What it means that a server could not be connected to. Nothing was executed.
pub(super) fn not_connected(source: Error, server: &Server) -> StoreError {
    let text = chain(&source);
    let (kind, words) = match source.as_db_error() {
        Some(said) => {
            let code = said.code().code();
            let (_, kind, _, words) =
                CODES.iter().find(|(start, ..)| code.starts_with(start)).expect("the last is any");
            (*kind, format!("{words} ({code} {})", said.message()))
        }
        None if text.starts_with("error performing TLS handshake") => {
            (Setup, format!("{text}; check its certificate and name, or trust its authority with sslrootcert"))
        }
        None if text.starts_with("invalid configuration") || text.starts_with("authentication error") => (Setup, text),
        None => (NotExecuted, text),
    };
    let kind = if kind == Setup { Setup } else { NotExecuted };
    StoreError::new(kind, format!("the Postgres server at {server} can't be used: {words}")).with_source(source)
}

/// Whether a server said that it does not understand what it was told at the start, as a pooler does.
pub(super) fn is_protocol_violation(error: &StoreError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<Error>());
    source.and_then(Error::code) == Some(&SqlState::PROTOCOL_VIOLATION)
}

/// Whether an error of a statement with many operations may be the fault of one of them, or of their number: the server's
/// table of locks was full.
pub(super) fn may_be_of_one(error: &StoreError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<Error>());
    error.kind() == Refused || source.and_then(Error::code) == Some(&SqlState::OUT_OF_MEMORY)
}

/// An operation took too long.
pub(super) fn timed_out(limit: Duration) -> StoreError {
    StoreError::new(Unknown, format!("the Postgres server did not answer within {limit:?}"))
}

/// Who sent an operation can't tell what became of it.
pub(super) fn runtime_ended() -> StoreError {
    StoreError::new(Unknown, "the runtime of the task that sent this to the Postgres server has ended")
}

/// There was no connection, or no turn on one, for all that time, so that nothing was executed.
pub(super) fn not_connected_within(limit: Duration) -> StoreError {
    let message = format!("the Postgres server had no connection or no turn to give within {limit:?}");
    StoreError::new(NotExecuted, message)
}

/// What it means that the schema could not be made.
pub(super) fn not_made(source: Error, schema: &str) -> StoreError {
    let mut failed = failed(source, schema).error;
    if failed.source().and_then(|source| source.downcast_ref::<Error>()?.code())
        == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    {
        let message = format!(
            "the schema {schema:?} of the Postgres store can't be made: {}; run create_table() as the owner of the database or \
             of what is there",
            failed.source().map(ToString::to_string).unwrap_or_default()
        );
        failed = StoreError::new(Setup, message);
    }
    failed
}

/// An error and what caused it, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
