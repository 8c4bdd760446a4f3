//! One protected run: how it starts, and how it ends. Every way to run work goes through these two.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::value::{decode, encode};
use crate::decide::Start;
use crate::engine::{Attempt, Begun, Call, CurrentAttempt, Idempotency, Settled, Verdict, caught};

/// The longest that a repeat is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The result of a call, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done<T> {
    /// The work ran now.
    Ran(T),
    /// The work ran before: its stored result.
    Replayed(T),
}

impl<T> Done<T> {
    /// The result, wherever it comes from.
    pub fn into_inner(self) -> T {
        match self {
            Self::Ran(result) | Self::Replayed(result) => result,
        }
    }

    /// Whether the work ran before, and nothing ran now.
    pub fn is_replay(&self) -> bool {
        matches!(self, Self::Replayed(_))
    }
}

/// How a run starts.
pub(super) enum Started<T> {
    /// The work has begun: from here on a drop holds the key.
    Run(Attempt),
    Replayed(T),
}

/// Claims the key.
pub(super) async fn start<T, E>(engine: &Idempotency, call: &Call) -> Result<Started<T>, Error<E>>
where
    T: DeserializeOwned,
{
    let mut begun = engine.begin(call).await?;
    loop {
        match begun {
            Begun::Run(mut attempt) => match attempt.start() {
                Start::Now => return Ok(Started::Run(attempt)),
                Start::AfterRenewal => begun = engine.begin_again(call, attempt).await?,
            },
            Begun::Replay(stored) => return Ok(Started::Replayed(decode(&stored)?)),
            begun => return Err(refused(begun)),
        }
    }
}

/// Why nothing runs.
pub(super) fn refused<E>(begun: Begun) -> Error<E> {
    match begun {
        Begun::Mismatch => Error::Conflict,
        Begun::InFlight { lease_left } => Error::InFlight { retry_after: lease_left.min(RETRY_AFTER) },
        Begun::NotKept(_) => Error::NotKept,
        Begun::Unknown | Begun::Run(_) | Begun::Replay(_) => Error::Unknown,
    }
}

/// Stores the result of the work. Where another attempt completed in its place, that one's result counts.
pub(super) async fn complete<T, E>(attempt: Attempt, result: T) -> Result<Done<T>, Error<E>>
where
    T: Serialize + DeserializeOwned,
{
    let verdict = match encode(&result) {
        Ok(stored) => Verdict::Complete(stored),
        Err(error) => {
            let id = attempt.key().id();
            tracing::error!("the result of the record {id} is not kept, and a repeat is told so: {error}");
            Verdict::NotKept(Default::default())
        }
    };
    match attempt.settle(verdict).await {
        Settled::Replaced(stored) => Ok(Done::Replayed(decode(&stored)?)),
        _ => Ok(Done::Ran(result)),
    }
}

/// Ends the attempt as its work ended.
pub(super) async fn finish<T, E>(
    attempt: Attempt,
    ended: std::thread::Result<Result<T, E>>,
) -> Result<Done<T>, Error<E>>
where
    T: Serialize + DeserializeOwned,
{
    match ended {
        Ok(Ok(result)) => complete(attempt, result).await,
        Ok(Err(error)) => {
            attempt.settle(Verdict::Fail).await;
            Err(Error::Work(error))
        }
        Err(panic) => {
            attempt.settle(Verdict::Fail).await;
            std::panic::resume_unwind(panic)
        }
    }
}

/// Claims the key, runs the work where it is free, and stores what it returns.
pub(super) async fn run<T, E>(
    engine: &Idempotency,
    call: &Call,
    work: impl AsyncFnOnce(CurrentAttempt) -> Result<T, E>,
) -> Result<Done<T>, Error<E>>
where
    T: Serialize + DeserializeOwned,
{
    match start(engine, call).await? {
        Started::Replayed(result) => Ok(Done::Replayed(result)),
        Started::Run(attempt) => {
            let current = attempt.current();
            let ended = caught(async move { work(current).await }).await;
            finish(attempt, ended).await
        }
    }
}
